"""From one panel to the next, with image, cells and model already chosen: Count, Annotate, Train and back.

A panel knows no other one: it sends what is to be gone on with to the title of a panel, which is opened as a
tab where it is not yet, and brought to the front.
"""

from dataclasses import dataclass
from typing import Any

from napari.layers import Layer
from psygnal import Signal
from qtpy.QtWidgets import QComboBox, QDockWidget, QWidget

from cellwright.widgets.shared.messages import PLUGIN
from cellwright.widgets.shared.napari_private import unwrapped

COUNT, ANNOTATE, TRAIN = "Count cells", "Annotate cells", "Train a model"  # as in the manifest


@dataclass(frozen=True, slots=True, eq=False)
class HandOver:
    """What a panel is to go on with.

    Parameters
    ----------
    image, cells
        Layers of the viewer; None leaves what is chosen.
    model
        Name or folder of a model; empty leaves what is chosen.
    """

    image: Layer | None = None
    cells: Layer | None = None
    model: str = ""


class _HandOvers:
    """Tells the panels of what is sent to them."""

    sent = Signal(object, str, object)  # viewer, title of a panel, HandOver


hand_overs = _HandOvers()


def choose(box: QComboBox, data: str) -> None:
    """Choose the entry with this data as a user would; nothing where there is none."""
    place = box.findData(data)
    if data and place >= 0:
        box.setCurrentIndex(place)
        box.activated.emit(place)


def choose_layer(box: QComboBox, layer: Layer | None) -> None:
    """Choose the entry of a layer; nothing where there is none."""
    if layer is not None:
        choose(box, str(layer.unique_id))


def hand_over(viewer: Any, panel: str, what: HandOver) -> None:
    """Open a panel as a tab beside the others, bring it to the front, and let it go on with this.

    A viewer without a window has the panels that were made for it.
    """
    viewer = unwrapped(viewer)
    window = getattr(viewer, "window", None)
    dock: QWidget | None = None
    if window is not None:
        dock, _ = window.add_plugin_dock_widget(PLUGIN, panel, tabify=True)
    hand_overs.sent.emit(viewer, panel, what)
    if isinstance(dock, QDockWidget):
        dock.show()
        dock.raise_()
