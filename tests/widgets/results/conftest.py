"""A results panel on a viewer without a window, and labels with known cells."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot

from cellwright.widgets.results.widget import ResultsWidget

LIMIT_MS = 30_000


@pytest.fixture
def squares() -> tuple[Any, Any]:
    """Image and labels with four squares of 10, 8, 6 and 4 pixels side; their intensities are 10 to 40."""
    image, labels = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.int32)
    for number, (y, x, side) in enumerate([(2, 2, 10), (30, 5, 8), (40, 40, 6), (60, 60, 4)], start=1):
        labels[y : y + side, x : x + side] = number
        image[y : y + side, x : x + side] = 10 * number
    return image, labels


@pytest.fixture
def read(qtbot: QtBot) -> Callable[[ResultsWidget], None]:
    """Function (widget) that returns once its cells are measured."""

    def wait(widget: ResultsWidget) -> None:
        qtbot.waitUntil(lambda: not widget.measurer.is_busy, timeout=LIMIT_MS)
        qtbot.wait(20)  # counts follow a little later

    return wait


@pytest.fixture
def panel(
    viewer: ViewerModel, qtbot: QtBot, squares: tuple[Any, Any], read: Callable[[ResultsWidget], None]
) -> ResultsWidget:
    """A panel that tells of four squares."""
    image, labels = squares
    viewer.add_image(image, name="squares", scale=(0.5, 0.5), units=("um", "um"))
    viewer.add_labels(labels, name="cells", scale=(0.5, 0.5), units=("um", "um"))
    widget = ResultsWidget(viewer)
    qtbot.addWidget(widget)
    read(widget)
    return widget
