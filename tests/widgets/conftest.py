"""Viewers without windows, a model that counts at once, and a count widget on both."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Shapes
from napari.qt.threading import WorkerBase
from pytestqt.qtbot import QtBot

from cellwright.models import shelf
from cellwright.models.shelf import ShelfEntry
from cellwright.ops.flow import FlowSettings
from cellwright.ops.labels import measure
from cellwright.types import Cells, Image, Labels, Provenance, Result
from cellwright.widgets.count import CountWidget

LIMIT_MS = 60_000


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def result_of() -> Callable[[Image, Labels], Result]:
    """Function (image, labels) -> the result that a model finding exactly these labels would give."""

    def make(image: Image, labels: Labels) -> Result:
        areas, points, boxes = measure(labels)
        scores = np.linspace(0.5, 1.0, len(areas), dtype=np.float32)
        provenance = Provenance(
            "0.1", "flow", "abc", {}, image.name, image.shape, image.axes, image.pixel_size_um, "cpu", 1.8
        )
        return Result(float(len(areas)), Cells(points, boxes, scores, areas, labels), provenance)

    return make


@pytest.fixture
def shelved(monkeypatch: pytest.MonkeyPatch, oracle_model: Any) -> Any:
    """The oracle, found under the name of the shipped model."""
    monkeypatch.setattr(shelf, "load", lambda name: oracle_model)
    entry = ShelfEntry("flow", Path("flow"), oracle_model.spec, {})
    monkeypatch.setattr(shelf, "models", lambda: [entry])
    return oracle_model


@pytest.fixture
def widget(viewer: ViewerModel, qtbot: QtBot, shelved: Any) -> CountWidget:
    widget = CountWidget(viewer)
    qtbot.addWidget(widget)
    return widget


@pytest.fixture
def settled(qtbot: QtBot) -> Callable[[CountWidget], None]:
    """Function (widget) that returns once its count and its retune have ended."""

    def wait(widget: CountWidget) -> None:
        qtbot.waitUntil(lambda: widget.job is None and not widget.retuner.is_busy, timeout=LIMIT_MS)

    return wait


@pytest.fixture
def n_whole() -> Callable[[Labels], int]:
    """Function (labels) -> how many of them are not too small to be cells."""
    return lambda labels: int(np.sum(np.bincount(labels.ravel())[1:] >= FlowSettings().min_area_px))


@pytest.fixture
def draw_line() -> Callable[[Shapes, Any], None]:
    """Function (shapes, line) that does what napari does when a line is drawn with the mouse."""

    def draw(shapes: Shapes, line: Any) -> None:
        event = SimpleNamespace(type="mouse_press")
        drag = shapes.mouse_drag_callbacks[-1](shapes, event)
        next(drag)
        shapes.add_lines(np.asarray(line))
        event.type = "mouse_move"
        next(drag)
        event.type = "mouse_release"
        assert next(drag, "released") == "released"

    return draw


@pytest.fixture(autouse=True)
def no_worker_left() -> Iterator[None]:
    """No thread outlives the test that started it."""
    yield
    WorkerBase.await_workers(LIMIT_MS)
