"""With no other panel open, features, number and saved tables of a count follow what is changed by hand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from napari.components import ViewerModel
from napari.layers import Labels, Points, Shapes
from pytestqt.qtbot import QtBot

from cellwright.core.data import Image, Result
from cellwright.core.tasks import run
from cellwright.widgets.count.model import Request, show_task
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.shared.cells import followers
from cellwright.widgets.shared.layer_io import source_of

ResultOf = Callable[[Image, Any], Result]
IMAGES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "calibrated": ((24, 40), {"scale": (0.5, 0.5), "translate": (3.0, 7.0), "units": ("um", "um")}),
    "volume": ((4, 24, 40), {"scale": (2.0, 1.0, 1.0), "axis_labels": ("z", "y", "x")}),
    "movie": ((4, 24, 40), {"axis_labels": ("t", "y", "x")}),
    "channels": ((2, 24, 40), {"axis_labels": ("c", "y", "x")}),
}


@pytest.fixture(params=IMAGES)
def counted(
    viewer: ViewerModel,
    widget: CountWidget,
    result_of: ResultOf,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> CountWidget:
    """A panel that has counted three cells: in a plane, the first slice or the first frame."""
    monkeypatch.setattr(followers, "READ_MS", 0)
    shape, looks = IMAGES[request.param]
    image = viewer.add_image(np.zeros(shape, np.float32), name="image", **looks)
    source = source_of(image)
    labels = np.zeros(source.image.label_shape, np.int32)
    for number in range(3):
        labels.reshape(-1, 24, 40)[0, 8:14, 2 + 8 * number : 7 + 8 * number] = number + 1
    counts = Request(source, outputs=("Labels", "Points", "Shapes"))
    result = result_of(source.image, labels)
    classed = replace(result.cells, classes=np.array([0, 1, 1], np.int16))
    own = replace(result.provenance, settings={"classes": ["red", "white"]})
    for output in counts.outputs:
        widget.panel.outputs[output].setChecked(True)
    widget.shown.show(run(show_task(counts, replace(result, cells=classed, provenance=own))))
    viewer.dims.current_step = (0,) * viewer.dims.ndim
    return widget


def place(layer: Any, y: float, x: float) -> list[float]:
    """A place of the first slice or frame."""
    return [*(0.0,) * (layer.ndim - 2), y, x]


def paint(layer: Labels) -> None:
    layer.brush_size = 3
    layer.paint(place(layer, 20, 30), 9)


def fill(layer: Labels) -> None:
    layer.fill(place(layer, 10, 4), 7)


def delete(layer: Labels) -> None:
    layer.data_setitem(np.nonzero(layer.data == 2), 0)


def undo(layer: Labels) -> None:
    layer.undo()


def draw_again(layer: Labels) -> None:
    """Draw another cell under the number of one that was deleted, of its size."""
    y, x = np.mgrid[1:7, 18:23]
    places = [np.full(y.size, int(one)) for one in place(layer, 0, 0)[:-2]]
    layer.data_setitem((*places, y.ravel(), x.ravel()), 2)


def add_point(layer: Points) -> None:
    layer.add(place(layer, 20, 30))


def move_point(layer: Points) -> None:
    layer.data = [place(layer, 3, 4), *layer.data[1:]]


def delete_point(layer: Points) -> None:
    layer.selected_data = {1}
    layer.remove_selected()


def add_box(layer: Shapes) -> None:
    layer.add_rectangles([[place(layer, y, x) for y, x in ((1, 1), (1, 5), (5, 5), (5, 1))]])


def move_box(layer: Shapes) -> None:
    layer.data = [np.add(layer.data[0], place(layer, 1, 2)), *layer.data[1:]]


EDITS: dict[str, list[tuple[Callable[[Any], None], list[int], int]]] = {  # cells after it, those by hand
    "labels": [
        (paint, [1, 2, 3, 9], 1),
        (fill, [2, 3, 7, 9], 2),
        (delete, [3, 7, 9], 2),
        (undo, [2, 3, 7, 9], 2),
        (delete, [3, 7, 9], 2),
        (draw_again, [2, 3, 7, 9], 3),
        (undo, [3, 7, 9], 2),
        (undo, [2, 3, 7, 9], 2),
    ],
    "points": [(add_point, [1, 2, 3, 4], 1), (move_point, [1, 2, 3, 4], 2), (delete_point, [1, 3, 4], 2)],
    "boxes": [(add_box, [1, 2, 3, 4], 1), (move_box, [1, 2, 3, 4], 2), (delete_point, [1, 3, 4], 2)],
}


def test_everything_follows_an_edit(
    counted: CountWidget, viewer: ViewerModel, qtbot: QtBot, tmp_path: Path
) -> None:
    assert counted.panel.number.text() == "3"
    assert counted.panel.line.text() == f"3 cells{told_frames(viewer)} · flow · 1.8 s"
    for kind in EDITS:
        check_edits(kind, counted, viewer, qtbot, tmp_path / "cells.csv")


def test_cells_in_another_array_as_they_were_found_are_not_told_as_by_hand(
    counted: CountWidget, viewer: ViewerModel, qtbot: QtBot
) -> None:
    labels = viewer.layers["image labels"]
    before = counted.panel.line.text()
    labels.data = labels.data.copy()  # as an annotation does that begins with them
    qtbot.waitUntil(lambda: not followers.follow(viewer).is_busy)
    assert counted.panel.line.text() == before


def told_frames(viewer: ViewerModel) -> str:
    """What the number says besides of a movie."""
    return " in 4 frames" if viewer.layers["image"].axis_labels[0] == "t" else ""


def check_edits(kind: str, counted: CountWidget, viewer: ViewerModel, qtbot: QtBot, path: Path) -> None:
    """Edit one layer; what the panel tells is of the layer that was edited last."""
    layer, panel = viewer.layers[f"image {kind}"], counted.panel
    for edit, numbers, n_by_hand in EDITS[kind]:
        edit(layer)
        qtbot.waitUntil(lambda: not followers.follow(viewer).is_busy)
        rows = layer.features
        if kind == "labels":
            size = "volume_px" if "volume_px" in rows else "area_px"
            rows = rows[rows[size].notna()]
            assert rows[size].tolist() == [(layer.data == number).sum() for number in rows["label"]]
        assert rows["label"].tolist() == numbers, edit
        assert rows["edited"].sum() == n_by_hand
        if edit in (add_point, add_box):
            assert rows["class"].tolist()[-1] == "", "nobody has given it that of the last one"
        n = len(numbers)
        assert panel.number.text() == str(n)
        assert panel.line.text() == f"{n} cells{told_frames(viewer)} · {n_by_hand} by hand · flow · 1.8 s"
        classes = rows["class"].value_counts()
        assert f"red&nbsp;{classes.get('red', 0)} " in panel.legend.text()

    counted.save.start(path)
    qtbot.waitUntil(lambda: counted.save.job is None)
    table = pd.read_csv(path)
    assert len(table) == n
    assert table["edited"].sum() == n_by_hand
    assert table["score"].isna().tolist() == table["edited"].tolist()
    if kind == "labels":  # deleted and brought back by undo
        assert table.loc[table["label"] == 2, ["score", "class"]].to_numpy().tolist() == [[0.75, "white"]]
    centres = in_pixels(layer)
    np.testing.assert_allclose(table[["y", "x"]], centres, atol=1e-4, err_msg=edit.__name__)


def in_pixels(layer: Any) -> Any:
    """Centres of cells, points or boxes in pixels of the slice."""
    if isinstance(layer, Labels):
        numbers = np.unique(layer.data)[1:]
        return [np.argwhere(layer.data == number)[:, -2:].mean(axis=0) for number in numbers]
    if isinstance(layer, Points):
        return np.asarray(layer.data)[:, -2:]
    return [(box.min(axis=0) + box.max(axis=0))[-2:] / 2 for box in layer.data]
