"""After any edit of a layer the table tells what the layer shows."""

from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt

from cellwright.core.errors import OutOfMemoryError
from cellwright.core.tasks import run
from cellwright.ops.measure.settings import MeasureSettings
from cellwright.widgets.results.widget import ResultsWidget
from cellwright.widgets.shared.cells import measured_cells
from cellwright.widgets.shared.cells.measured_cells import measure_task
from cellwright.widgets.shared.cells.snapshot import snapshot_of

Read = Callable[[ResultsWidget], None]
MEASURED = ("shape", "intensity", "neighbours")
N_EDITS = 12


@pytest.fixture
def scene(viewer: ViewerModel) -> Labels:
    """Labels of a grid of blobs over noise."""
    rng = np.random.default_rng(0)
    labels = np.zeros((120, 120), np.int32)
    rows, columns = np.mgrid[:120, :120]
    for number, (y, x) in enumerate(np.argwhere(np.ones((5, 5))) * 23 + 14, start=1):
        labels[(rows - y) ** 2 + (columns - x) ** 2 < rng.integers(5, 12) ** 2] = number
    viewer.add_image(rng.normal(100, 20, labels.shape).astype(np.float32), name="noise")
    return viewer.add_labels(labels, name="cells")


def edit(layer: Labels, rng: np.random.Generator) -> None:
    """Do what a user may do: paint, erase, fill, paint a polygon, undo, redo, write pixels, replace all."""
    y, x = rng.integers(0, 120, 2)
    kinds = ("paint", "erase", "fill", "polygon", "undo", "redo", "pixels", "data")
    kind = rng.choice(kinds)
    layer.brush_size = int(rng.integers(3, 20))
    number = int(rng.choice([layer.data.max() + 1, rng.integers(1, 26)]))
    if kind in ("paint", "erase"):
        layer.paint((y, x), number * (kind == "paint"))
    elif kind == "fill":
        layer.fill((y, x), number)
    elif kind == "polygon":
        layer.paint_polygon([[y, x], [y, x + 15], [y + 15, x]], number)
    elif kind == "undo":
        layer.undo()
    elif kind == "redo":
        layer.redo()
    elif kind == "pixels":
        layer.data[y : y + 9, x : x + 9] = number
        layer.refresh()
    else:
        layer.data = np.where(layer.data == number, 0, layer.data)


@pytest.mark.no_cover  # at random through what other tests cover
@pytest.mark.parametrize("seed", range(2))
def test_the_table_follows_every_edit(
    viewer: ViewerModel, qtbot: QtBot, scene: Labels, read: Read, seed: int
) -> None:
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    for box in panel.view.groups.values():
        box.setChecked(True)
    panel.view.measure.click()
    read(panel)
    rng, first = np.random.default_rng(seed), scene.data.copy()
    for _ in range(N_EDITS):
        before = scene.data.copy()
        edit(scene, rng)
        read(panel)
        snapshot = snapshot_of(scene, viewer.layers["noise"])
        fresh = run(measure_task(snapshot, MeasureSettings(MEASURED))).table
        table = panel.model.table
        assert (
            table["label"].tolist()
            == fresh["label"].tolist()
            == np.unique(scene.data[scene.data > 0]).tolist()
        )
        assert table["label"].tolist() == np.unique(scene.data[scene.data > 0]).tolist()
        for name in fresh.columns.drop(["edited"]):
            np.testing.assert_allclose(table[name], fresh[name], err_msg=name, equal_nan=True)
        changed = np.union1d(before[before != scene.data], scene.data[before != scene.data])
        is_new = [not np.array_equal(scene.data == one, first == one) for one in changed]
        changed = changed[is_new]  # one that was deleted and brought back is what it was
        assert table["edited"][np.isin(table["label"], changed)].all()
        features = scene.features.loc[table["label"], "area_px"]
        assert features.tolist() == table["area_px"].tolist()
        assert panel.view.number.text() == str(len(table))


def test_other_slices_are_no_edits(viewer: ViewerModel, qtbot: QtBot, read: Read) -> None:
    labels = np.zeros((6, 32, 32), np.int32)
    labels[1:3, 5:15, 5:15] = 1
    viewer.add_image(labels.astype(np.float32), name="stack", scale=(2, 1, 1), units=("um", "um", "um"))
    viewer.add_labels(labels, name="cells", scale=(2, 1, 1), units=("um", "um", "um"))
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    assert panel.model.table["volume_um3"].tolist() == [400]
    for place in range(4):
        viewer.dims.set_current_step(0, place)
    assert not panel.measurer.is_busy
    assert panel.model.measured.n_edited == 0


def test_a_window_of_a_movie_is_measured_in_its_frame(viewer: ViewerModel, qtbot: QtBot, read: Read) -> None:
    rng = np.random.default_rng(1)
    labels = np.zeros((3, 40, 40), np.int32)
    for frame in range(3):
        labels[frame, 3:12, 3:12], labels[frame, 20:30, 20:30] = 2 * frame + 1, 2 * frame + 2
    viewer.add_image(rng.normal(100, 9, labels.shape), name="movie", axis_labels=("t", "y", "x"))
    layer = viewer.add_labels(labels, name="cells")
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    panel.view.groups["intensity"].setChecked(True)
    panel.view.measure.click()
    read(panel)
    layer.data_setitem((np.full(4, 2), np.array([35, 35, 36, 36]), np.array([3, 4, 3, 4])), 9)
    read(panel)
    image = viewer.layers["movie"].data
    assert panel.model.table["t"].tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert panel.model.table["intensity_mean_ch0"].iloc[-1] == pytest.approx(image[2, 35:37, 3:5].mean())
    assert panel.model.counts()["count"].tolist() == [2, 2, 3]


def test_a_filter_holds_while_cells_change(viewer: ViewerModel, qtbot: QtBot, scene: Any, read: Read) -> None:
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    panel.view.filter.setText("area_px < 150")
    panel.view.filter.editingFinished.emit()
    area = panel.view.frame.names.index("area_px")
    panel.view.table.sortByColumn(area, Qt.SortOrder.DescendingOrder)
    n_before = panel.model.n_kept
    small = int(panel.model.kept_table["label"].iloc[0])
    scene.data = np.where(scene.data == small, 0, scene.data)
    read(panel)
    assert panel.model.n_kept == n_before - 1
    areas = [float(panel.view.frame.data(panel.view.frame.index(row, area))) for row in range(n_before - 1)]
    assert areas == sorted(areas, reverse=True)


def test_the_chosen_cell_stays_the_same_cell(
    viewer: ViewerModel, qtbot: QtBot, scene: Labels, read: Read
) -> None:
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    panel.model.choose(4)
    scene.data = np.where(scene.data == 2, 0, scene.data)
    read(panel)
    assert panel.model.table["label"].iloc[panel.view.table.chosen_rows].tolist() == [5]
    scene.data = np.where(scene.data == 5, 0, scene.data)
    read(panel)
    assert panel.model.chosen == -1
    assert not panel.view.table.chosen_rows
    assert not len(viewer.layers["chosen cell"].data)


def test_the_chosen_point_stays_the_same_point(viewer: ViewerModel, qtbot: QtBot, read: Read) -> None:
    viewer.add_image(np.zeros((40, 40), np.float32), name="image")
    layer = viewer.add_points([[5, 5], [10, 20], [30, 30]], name="cells")
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    panel.model.choose(2)
    for gone, chosen in ((0, 1), (1, -1)):
        layer.data = np.delete(layer.data, gone, axis=0)
        read(panel)
        assert panel.model.chosen == chosen


def test_labels_in_several_resolutions_are_told_of_and_not_changed(
    viewer: ViewerModel, qtbot: QtBot, scene: Labels, read: Read
) -> None:
    levels = [scene.data, scene.data[::2, ::2]]
    viewer.layers.remove(scene)
    layer = viewer.add_labels(levels, name="cells", multiscale=True)
    widget = ResultsWidget(viewer)
    qtbot.addWidget(widget)
    read(widget)
    assert widget.model.n_cells == 25
    widget.view.table.selectRow(2)
    for change in (widget.view.delete, widget.view.set_class):
        widget.view.message.tell("")
        widget.view.class_name.setCurrentText("red")
        change.click()
        assert "'cells' has several resolutions" in widget.view.message.text()
    assert "class" not in layer.features
    assert np.unique(np.asarray(layer.data[0])).size == 26


def test_a_layer_without_cells_has_the_columns_of_one_with_cells(scene: Labels) -> None:
    scene.features = scene.features.assign(**{"class": "red"})
    some = run(measure_task(snapshot_of(scene, None), MeasureSettings(("shape", "neighbours")))).table
    scene.data = np.zeros_like(scene.data)
    none = run(measure_task(snapshot_of(scene, None), MeasureSettings(("shape", "neighbours")))).table
    assert (len(some), len(none)) == (25, 0)
    assert none.dtypes.to_dict() == some.dtypes.to_dict()


def test_labels_that_would_fill_memory_are_refused(scene: Labels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_cells, "LARGE_PIXELS", 1000)
    run(measure_task(snapshot_of(scene, None), MeasureSettings(())))
    monkeypatch.setattr(measured_cells, "free_memory", lambda: 1e5)
    with pytest.raises(OutOfMemoryError, match="block by block with cellwright count --measure"):
        run(measure_task(snapshot_of(scene, None), MeasureSettings(())))


def test_labels_in_a_file_are_read_beside_the_viewer(
    viewer: ViewerModel, scene: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, n_read = np.asarray(scene.data), []

    def reading(block: Any) -> Any:
        n_read.append(block.size)
        return block

    in_file = da.from_array(labels, chunks=60).map_blocks(reading, dtype=labels.dtype, meta=labels[:0])
    layer = viewer.add_labels([in_file, labels[::2, ::2]], name="whole", multiscale=True)
    n_read.clear()
    snapshot = snapshot_of(layer, viewer.layers["noise"], nuclei=layer)
    assert not n_read
    assert len(run(measure_task(snapshot, MeasureSettings(()))).table) == 25
    monkeypatch.setattr(measured_cells, "LARGE_PIXELS", 1000)
    monkeypatch.setattr(measured_cells, "free_memory", lambda: 1e5)
    n_read.clear()
    with pytest.raises(OutOfMemoryError):
        run(measure_task(snapshot, MeasureSettings(())))
    assert not n_read


def test_features_that_somebody_else_has_written_stay(
    viewer: ViewerModel, scene: Labels, qtbot: QtBot, read: Read
) -> None:
    numbers = np.arange(26)
    theirs = {"label": [f"cell {k}" for k in numbers], "solidity": numbers / 9, "score": ["good"] * 26}
    theirs |= {"area_px": numbers * 3.0, "class": numbers % 2, "edited": ["no"] * 26, "note": ["mine"] * 26}
    layer = viewer.add_labels(scene.data, name="theirs", features=theirs)
    points = viewer.add_points([[1.0, 2.0], [3.0, 4.0]], name="pose", features={"label": ["nose", "ear"]})
    widget = ResultsWidget(viewer)
    qtbot.addWidget(widget)
    for one in (points, layer):
        widget.view.layer.choose(one)
        read(widget)
    assert {name: layer.features[name].tolist() for name in theirs} == {
        name: list(column) for name, column in theirs.items()
    }
    table = widget.model.table
    assert table["area_px"].tolist() == np.bincount(scene.data.ravel())[1:].tolist()
    assert table["class"].tolist() == [str(k % 2) for k in numbers[1:]]
    assert not table["edited"].any()
    assert "score" not in table
    layer.data = np.where(layer.data == 3, 0, layer.data)
    read(widget)
    assert layer.features["diameter_px"].isna().tolist() == [k in (0, 3) for k in numbers]  # ours follows
    assert layer.features["area_px"].tolist() == theirs["area_px"].tolist()
    points.add([5.0, 6.0])
    assert points.features["label"].tolist()[:2] == ["nose", "ear"]
