"""Combo boxes: filling them, and what models and devices are called in them."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from napari.layers import Labels
from psygnal import Signal
from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QComboBox

from cellwright.core.tasks import Progress, Task
from cellwright.models import registry
from cellwright.models.spec import ModelSpec

SPECS = "spec.json"


class ModelEvents:
    """Tells of changes to the folder of the user's models, to every model list of this process."""

    changed = Signal()


model_events = ModelEvents()


def model_title(name: str, family: str) -> str:
    """Return what a model finds, then its name.

    Examples
    --------
    ``Nuclei and cells, outlines · flow``, ``Centres and boxes · centroid``
    """
    return f"{registry.get(family).title} · {name}"


def model_help(spec: ModelSpec) -> str:
    """Return what a model is good for, and how its family works."""
    return f"{spec.title}.\n{registry.get(spec.family).description}."


def device_task() -> Task[tuple[tuple[str, str], ...]]:
    """Return name and title of this machine's devices, having loaded what the first count will need."""
    yield Progress("devices", 0, 1)
    Labels(np.zeros((8, 8), np.int32)).contour = 1  # napari compiles its colour look-up for the first layer
    from cellwright.inference.device import devices

    return tuple(devices())


def fill(box: QComboBox, entries: Iterable[tuple[str, Any]], wanted: Any = None, otherwise: str = "") -> None:
    """Put titles and their data into a box; choose ``wanted`` where it is among them, else the first."""
    with QSignalBlocker(box):
        box.clear()
        for title, data in entries:
            box.addItem(title, data)
        if not box.count() and otherwise:
            box.addItem(otherwise, None)
        places = [place for place in range(box.count()) if box.itemData(place) == wanted]
        box.setCurrentIndex(places[0] if places else 0)
