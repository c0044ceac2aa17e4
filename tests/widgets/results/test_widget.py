import io
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from napari.components import ViewerModel
from napari.layers import Labels as LabelsLayer
from napari.qt import get_stylesheet
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QItemSelectionModel, QSize, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from cellwright.core.data import Cells, Image, Provenance, Result
from cellwright.core.tasks import Progress, Task
from cellwright.ops.labels import label_properties
from cellwright.widgets.annotate.widget import AnnotateWidget
from cellwright.widgets.results.table import FrameModel
from cellwright.widgets.results.view import ResultsView
from cellwright.widgets.results.widget import ResultsWidget
from cellwright.widgets.shared.cells.measured_cells import MeasuredCells, _rows_before
from cellwright.widgets.shared.flow import FlowLayout
from cellwright.widgets.shared.layer_dataset import pairs
from cellwright.widgets.shared.layer_io import place, prepare_layers, source_of
from cellwright.widgets.shared.messages import tell_results
from cellwright.widgets.shared.napari_private import camera_of

Read = Callable[[ResultsWidget], None]


def choose_rows(panel: ResultsWidget, *rows: int) -> None:
    flags = QItemSelectionModel.SelectionFlag
    table = panel.view.table
    table.clearSelection()
    for row in rows:
        index = panel.view.frame.index(panel.view.frame.place_of(row), 0)
        table.selectionModel().select(index, flags.Select | flags.Rows)


def test_the_number_and_the_table_are_those_of_the_layer(panel: ResultsWidget) -> None:
    assert panel.view.number.text() == "4"
    assert panel.view.frame.rowCount() == 4
    table = panel.model.table
    assert table is not None
    assert table["label"].tolist() == [1, 2, 3, 4]
    assert table["area_px"].tolist() == [100, 64, 36, 16]
    assert table["area_um2"].tolist() == [25, 16, 9, 4]
    assert not table["edited"].any()
    heading = panel.view.frame.headerData(panel.view.frame.names.index("area_um2"), Qt.Orientation.Horizontal)
    assert heading == "Area [µm²]"
    assert panel.view.frame.names[:1] == ["label"]
    assert panel.view.frame.names[-2:] == ["y", "x"]  # what the viewer shows anyway comes last


def test_the_panel_is_there_before_its_cells_are_measured(
    viewer: ViewerModel, qtbot: QtBot, read: Read
) -> None:
    viewer.add_labels(np.eye(20, dtype=np.int32), name="cells")
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    panel.view.layer.choose(viewer.layers["cells"])
    panel.measurer.read()
    assert not panel.view.job_bar.is_busy  # a thread that measures would take turns with the window
    assert panel.measurer.is_busy
    read(panel)
    assert panel.is_filled
    assert panel.view.number.text() == "1"


def test_a_painted_cell_gets_a_row_that_tells_it_was_made_by_hand(panel: ResultsWidget, read: Read) -> None:
    layer = panel.viewer.layers["cells"]
    layer.data_setitem(tuple(np.nonzero(np.ones((5, 5)))[axis] + 50 for axis in (0, 1)), 9)
    read(panel)
    table = panel.model.table
    assert table is not None
    assert table["label"].tolist() == [1, 2, 3, 4, 9]
    assert table["area_px"].tolist()[-1] == 25
    assert table["edited"].tolist() == [False] * 4 + [True]
    assert panel.view.number.text() == "5"
    assert "1 by hand" in panel.view.line.text()
    assert layer.features.loc[9, "area_px"] == 25
    assert bool(layer.features.loc[9, "edited"]) is True
    layer.undo()
    read(panel)
    assert panel.view.number.text() == "4"
    assert panel.model.table["label"].tolist() == [1, 2, 3, 4]


def test_a_cell_that_is_as_it_was_after_undo_is_not_by_hand(panel: ResultsWidget, read: Read) -> None:
    choose_rows(panel, 1)
    panel.view.class_name.setEditText("WBC")
    panel.view.set_class.click()
    read(panel)
    layer = panel.viewer.layers["cells"]
    for _ in range(2):  # again: what was known the second time is what it had first
        layer.data_setitem(tuple(one[:2] for one in np.nonzero(layer.data == 2)), 3)  # two cells change
        read(panel)
        assert panel.model.measured.n_edited == 2
        layer.undo()
        read(panel)
        assert panel.model.measured.n_edited == 0
        assert panel.model.table["class"].tolist() == ["", "WBC", "", ""]
        assert "by hand" not in panel.view.line.text()


def test_a_cell_that_was_cut_is_measured_anew(panel: ResultsWidget, read: Read) -> None:
    panel.view.groups["intensity"].setChecked(True)
    panel.view.measure.click()
    read(panel)
    before = panel.model.table
    assert before["intensity_mean_ch0"].tolist() == [10, 20, 30, 40]
    layer = panel.viewer.layers["cells"]
    panel.viewer.layers["squares"].data[2:12, 2:7] = 90  # no event: what did not change is not read again
    layer.data[2:12, 7:12] = 0
    layer.refresh()
    read(panel)
    after = panel.model.table
    assert after["area_px"].tolist() == [50, 64, 36, 16]
    assert after["intensity_mean_ch0"].tolist() == [90, 20, 30, 40]
    assert after["edited"].tolist() == [True, False, False, False]


def test_a_wiped_out_cell_has_no_row(panel: ResultsWidget, read: Read) -> None:
    layer = panel.viewer.layers["cells"]
    layer.fill((41, 41), 0)
    read(panel)
    assert panel.model.table["label"].tolist() == [1, 2, 4]


def test_the_viewer_comes_closer_to_a_cell_that_is_a_dot(panel: ResultsWidget) -> None:
    """The ring of the first becomes 60 pixels of the canvas; that of the second has 30 then, and stays."""
    camera = camera_of(panel.viewer)
    for before, after in ((0.1, 10.0), (5.0, 5.0), (200.0, 200.0)):
        camera.zoom = before
        panel.view.table.selectRow(1)
        panel.view.table.selectRow(2)
        assert camera.zoom == pytest.approx(after)
        assert camera.center[-2:] == pytest.approx((42.5 * 0.5, 42.5 * 0.5))


def test_choosing_a_row_moves_the_viewer_and_lights_the_cell_up(panel: ResultsWidget, qtbot: QtBot) -> None:
    camera_of(panel.viewer).zoom = 200  # the other cells are far away
    panel.view.table.selectRow(2)
    assert panel.model.chosen == 2
    assert panel.viewer.layers["cells"].selected_label == 3
    assert camera_of(panel.viewer).center[-2:] == pytest.approx((42.5 * 0.5, 42.5 * 0.5))
    ring = panel.viewer.layers["chosen cell"]
    assert ring.data.tolist() == [[42.5, 42.5]]
    assert [pair.annotation.name for pair in pairs(panel.viewer.layers)] == ["cells"]  # to learn from
    annotate = AnnotateWidget(panel.viewer)
    qtbot.addWidget(annotate)
    assert not annotate.panel.start.accepts(ring)
    panel.model.choose(-1)
    assert len(ring.data) == 0


def test_chosen_rows_are_copied_with_their_headings(panel: ResultsWidget, qtbot: QtBot) -> None:
    table = panel.view.table
    table.sortByColumn(panel.view.frame.names.index("area_px"), Qt.SortOrder.DescendingOrder)
    table.selectAll()
    qtbot.keyClick(table, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    copied = pd.read_csv(io.StringIO(QApplication.clipboard().text()), sep="\t")
    frame, across = panel.view.frame, Qt.Orientation.Horizontal
    assert list(copied) == [frame.headerData(n, across) for n in range(frame.columnCount())]
    expected = panel.model.table.sort_values("area_px", ascending=False, kind="stable")
    for number, name in enumerate(panel.view.frame.names):
        np.testing.assert_allclose(copied.iloc[:, number], expected[name])
    table.choose(1)
    qtbot.keyClick(table, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    assert QApplication.clipboard().text().count("\n") == 2


def test_the_ring_is_seen_on_what_was_opened_since(panel: ResultsWidget) -> None:
    panel.view.table.row_chosen.emit(0)
    panel.viewer.add_image(np.ones((50, 60)), name="opened since")
    panel.view.table.row_chosen.emit(2)
    assert [layer.name for layer in panel.viewer.layers] == [
        "squares",
        "cells",
        "opened since",
        "chosen cell",
    ]
    assert panel.viewer.layers.selection.active is panel.viewer.layers["opened since"]


def test_another_row_moves_the_ring_and_leaves_the_list_of_layers_alone(panel: ResultsWidget) -> None:
    panel.view.table.row_chosen.emit(0)
    ring, thumbnails = panel.viewer.layers["chosen cell"], []
    ring.events.thumbnail.connect(lambda _: thumbnails.append(1))
    panel.view.table.row_chosen.emit(2)
    assert ring.data[0].tolist() == [42.5, 42.5]
    assert ring.size[0] == 9
    assert ring._view_data.tolist() == [[42.5, 42.5]]  # what is drawn
    assert not thumbnails


def test_rows_are_found_again_by_frame_and_number(panel: ResultsWidget) -> None:
    measured = panel.model.measured
    assert measured is not None

    def with_numbers(*numbers: int) -> MeasuredCells:
        cells = measured.result.cells.take(np.arange(len(numbers)) % 4)
        table = pd.DataFrame({"label": np.array(numbers, np.int64)})
        return replace(measured, table=table, result=replace(measured.result, cells=cells))

    found = _rows_before(with_numbers(7, 2, 9), with_numbers(2, 5, 7, 8))
    assert found.tolist() == [2, 0, -1]
    assert _rows_before(with_numbers(7), with_numbers()).tolist() == [-1]


def test_the_ring_is_no_layer_of_cells(panel: ResultsWidget) -> None:
    panel.view.table.selectRow(0)
    assert panel.view.layer.count() == 1
    assert panel.viewer.layers.selection.active is panel.viewer.layers["cells"]


def test_a_clicked_cell_has_its_row_chosen(panel: ResultsWidget) -> None:
    assert panel.link.row_at((33 * 0.5, 7 * 0.5)) == 1
    assert panel.link.row_at((20 * 0.5, 50 * 0.5)) == -1
    panel.view.table.sortByColumn(panel.view.frame.names.index("area_px"), Qt.SortOrder.AscendingOrder)
    panel.model.choose(1)
    assert panel.view.table.chosen_rows == [1]
    assert panel.view.table.currentIndex().row() == 2


def click_at(position: tuple[float, ...], **seen: Any) -> SimpleNamespace:
    own = {"view_direction": None, "dims_displayed": [0, 1], "modifiers": (), "type": "mouse_release"}
    return SimpleNamespace(pos=(5, 5), position=position, **{**own, **seen})


def test_a_click_in_the_3d_view_chooses_the_first_cell_behind_it(
    viewer: ViewerModel, qtbot: QtBot, read: Read
) -> None:
    labels = np.zeros((20, 30, 30), np.int32)
    labels[3:8, 2:12, 2:12], labels[12:18, 2:12, 2:12], labels[12:18, 16:28, 16:28] = 4, 7, 9
    viewer.add_image(np.random.default_rng(0).random(labels.shape), name="volume")
    viewer.add_labels(labels, name="volume labels")
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    viewer.dims.ndisplay = 3
    down, seen = np.array([1.0, 0.0, 0.0]), {"dims_displayed": [0, 1, 2]}
    slanted = np.array([5.0, -15.0, -15.0]) / np.linalg.norm([5.0, -15.0, -15.0])
    for start, direction, row in (
        ((-9.0, 6.0, 6.0), down, 0),
        ((30.0, 6.0, 6.0), -down, 1),
        ((-9.0, 20.0, 20.0), down, 2),
        ((-9.0, 6.0, 20.0), down, -1),
        ((0.0, 25.0, 25.0), slanted, 0),  # past the third one, on to the first
    ):
        panel.model.choose(-1)
        list(panel.link._on_mouse_drag(viewer, click_at(start, view_direction=direction, **seen)))
        assert panel.model.chosen == row


def test_drawing_a_region_chooses_no_cell(panel: ResultsWidget) -> None:
    event = click_at((33 * 0.5, 7 * 0.5))
    panel.view.draw_regions.click()
    shapes = panel.viewer.layers["regions"]
    for mode, row in (("add_polygon_lasso", -1), ("direct", -1), ("vertex_insert", -1), ("pan_zoom", 1)):
        shapes.mode = mode
        list(panel.link._on_mouse_drag(panel.viewer, event))  # a ring that ends where it began is as a click
        assert panel.model.chosen == row


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((0.7291, 0.73966, np.nan), ["0.7291", "0.7397", ""]),
        ((1.0, 2.0, np.nan), ["1", "2", ""]),
        ((0.5, 1.0, 1.5), ["0.5", "1.0", "1.5"]),
        ((123456.7, 1.25, -3.0), ["123456.7", "1.2", "-3.0"]),
        ((0.0001234, 0.00005, 0.0), ["0.0001234", "0.0000500", "0.0000000"]),
        ((1000.0, 0.5, 0.0000001), ["1000.0", "0.5", "1e-07"]),
        ((np.inf, 2.25, 0.0), ["inf", "2.25", "0.00"]),
        ((0.0, 0.0, np.nan), ["0", "0", ""]),
        ((7, 10, 200), ["7", "10", "200"]),
    ],
)
def test_numbers_of_a_column_have_as_many_decimals(values: tuple[float, ...], shown: list[str]) -> None:
    frame = FrameModel()
    frame.set_frame(pd.DataFrame({"score": [9.99, 1.0, 2.0]}))
    frame.data(frame.index(0, 0))
    frame.set_frame(pd.DataFrame({"score": values}))  # another table of the same columns
    assert [frame.data(frame.index(row, 0)) for row in range(3)] == shown


def test_measuring_is_seen_in_a_panel_that_is_longer_than_its_dock(
    panel: ResultsWidget, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = panel.view
    view.show_page("Measure")
    panel.setFixedHeight(260)
    panel.setStyleSheet(get_stylesheet("dark", extra_variables={"font_size": "16pt"}))
    with qtbot.waitExposed(panel):
        panel.show()

    def slow() -> Task[None]:
        for done in range(400):
            time.sleep(0.02)
            yield Progress("measure all the many cells", done, 400)

    monkeypatch.setattr(panel.measurer, "reread", lambda: view.job_bar.start(slow(), print))
    assert view.job_bar.visibleRegion().isEmpty()
    view.measure.click()
    qtbot.waitUntil(lambda: view.job_bar.line.text() != "")
    stop = view.job_bar.stop  # below a line that has come since
    qtbot.waitUntil(lambda: stop.visibleRegion().boundingRect().height() == stop.height())
    view.job_bar.cancel()
    qtbot.waitUntil(lambda: not view.job_bar.is_busy)


def test_rows_sort_and_filter(panel: ResultsWidget) -> None:
    view = panel.view
    view.filter.setText("area_px >= 20 and area_px < 90")
    view.filter.editingFinished.emit()
    assert panel.view.number.text() == "2"
    assert "of 4 cells" in view.line.text()
    view.table.sortByColumn(view.frame.names.index("area_px"), Qt.SortOrder.AscendingOrder)
    shown = [view.frame.data(view.frame.index(at, 0)) for at in range(view.frame.rowCount())]
    assert shown == ["3", "2"]
    panel.model.choose(2)
    panel.model.set_conditions("area_px < 90")
    assert view.table.chosen_rows == [2]
    panel.model.set_conditions("area_px >= 20 and area_px < 90")
    view.filter.setText("no_such_column > 3")
    view.filter.editingFinished.emit()
    assert view.message.property("error") == "true"
    assert "no_such_column" in view.message.text()
    assert panel.view.number.text() == "2"
    view.filter.clear()
    assert panel.view.number.text() == "4"


def test_deleted_rows_are_deleted_cells(panel: ResultsWidget, read: Read) -> None:
    choose_rows(panel, 0, 3)
    panel.view.delete.click()
    read(panel)
    layer = panel.viewer.layers["cells"]
    assert np.unique(layer.data).tolist() == [0, 2, 3]
    assert panel.view.number.text() == "2"
    layer.undo()
    read(panel)
    assert panel.view.number.text() == "4"


def test_a_class_is_set_for_chosen_rows_and_in_the_table(panel: ResultsWidget, read: Read) -> None:
    choose_rows(panel, 0, 2)
    panel.view.class_name.setEditText("WBC")
    panel.view.set_class.click()
    read(panel)
    assert panel.model.table["class"].tolist() == ["WBC", "", "WBC", ""]
    assert panel.viewer.layers["cells"].features.loc[[1, 2, 3, 4], "class"].tolist() == ["WBC", "", "WBC", ""]
    frame = panel.view.frame
    index = frame.index(frame.place_of(1), frame.names.index("class"))
    assert frame.flags(index) & Qt.ItemFlag.ItemIsEditable
    frame.setData(index, "RBC")
    read(panel)
    assert panel.model.table["class"].tolist() == ["WBC", "RBC", "WBC", ""]
    assert panel.model.counts()["class_WBC"].tolist() == [2]
    choose_rows(panel, 3)
    panel.view.class_name.setEditText("PLT")
    QTest.keyClick(panel.view.class_name, Qt.Key.Key_Return)
    read(panel)
    assert panel.model.table["class"].tolist() == ["WBC", "RBC", "WBC", "PLT"]


def test_points_are_told_of_too(viewer: ViewerModel, qtbot: QtBot, read: Read) -> None:
    points = viewer.add_points([[3, 4], [30, 40], [50, 10]], features={"score": [0.9, 0.8, 0.7]})
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    assert panel.view.number.text() == "3"
    assert panel.model.table["score"].tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert not panel.view.measure.isEnabled()
    points.add([[60, 60]])
    read(panel)
    assert panel.view.number.text() == "4"
    assert panel.model.table["edited"].tolist() == [False, False, False, True]
    choose_rows(panel, 1)
    panel.view.delete.click()
    read(panel)
    assert points.data[:, 0].tolist() == [3, 50, 60]
    assert panel.model.table["y"].tolist() == [3, 50, 60]


def counted(blobs: Any) -> Result:
    areas, points, boxes = label_properties(blobs.labels)
    scores = np.linspace(0.5, 1.0, len(areas), dtype=np.float32)
    cells = Cells(points, boxes, scores, areas, blobs.labels)
    image = Image(blobs.image, "YX")
    settings = {"flow": {}, "engine": {"link": True}}
    provenance = Provenance("0.1", "flow", "abc", settings, "blobs", image.shape, "YX", (), "cpu", 1.8)
    return Result(float(len(areas)), cells, provenance, interval=(20.0, 40.0))


def test_a_count_is_told_of_with_its_interval(
    viewer: ViewerModel, qtbot: QtBot, blobs: Any, read: Read
) -> None:
    image = viewer.add_image(blobs.image, name="blobs")
    result = counted(blobs)
    shown = place(viewer, prepare_layers(result, source_of(image)))
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    tell_results(viewer, result, shown["Labels"])
    read(panel)
    assert panel.view.number.text() == str(len(blobs))
    assert "20 to 40 (90 % interval)" in panel.view.line.text()
    assert panel.model.table["score"].tolist() == pytest.approx(result.cells.scores.tolist())
    assert panel.model.measured.n_edited == 0
    panel.model.set_conditions("score > 0.7")
    assert "interval" not in panel.view.line.text()


def told_panel(
    viewer: ViewerModel, qtbot: QtBot, blobs: Any, read: Read
) -> tuple[Result, LabelsLayer, ResultsWidget]:
    """A count, its Labels layer, and the panel that was told of it."""
    result = counted(blobs)
    shown = place(viewer, prepare_layers(result, source_of(viewer.add_image(blobs.image, name="blobs"))))[
        "Labels"
    ]
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    tell_results(viewer, result, shown)
    read(panel)
    return result, shown, panel


@pytest.mark.parametrize("change", ["another count", "an edit", "the layer goes"])
def test_an_interval_is_told_of_its_own_count_alone(
    viewer: ViewerModel, qtbot: QtBot, blobs: Any, read: Read, change: str
) -> None:
    result, shown, panel = told_panel(viewer, qtbot, blobs, read)
    assert "interval" in panel.view.line.text()
    if change == "another count":  # with as many cells, of which the panel is not told
        later = replace(result, provenance=replace(result.provenance, image_name="other"), interval=None)
        panel.show_layer(
            place(viewer, prepare_layers(later, source_of(viewer.add_image(blobs.image, name="other"))))[
                "Labels"
            ]
        )
    elif change == "an edit":
        shown.data_setitem(np.nonzero(shown.data == 1), 0)
        shown.data_setitem((np.array([0]), np.array([0])), 1)
    else:
        viewer.layers.remove(shown)
    read(panel)
    assert "interval" not in panel.view.line.text()


def test_it_says_that_cells_were_deleted_by_hand_also_where_none_is_left_to_show_it(
    viewer: ViewerModel, qtbot: QtBot, blobs: Any, read: Read
) -> None:
    _, shown, panel = told_panel(viewer, qtbot, blobs, read)
    assert "by hand" not in panel.view.line.text()
    choose_rows(panel, 1)
    panel.view.delete.click()
    read(panel)
    assert panel.view.number.text() == str(len(blobs) - 1)
    assert "changed by hand" in panel.view.line.text()
    assert "By hand: 1 cell deleted or joined to others." in panel.model.analysis().notices
    assert panel.export.unrepeatable == ["1 cell deleted or joined to others by hand"]
    shown.undo()
    read(panel)
    assert "by hand" not in panel.view.line.text()


@pytest.mark.parametrize("kind", ["outlines", "volume", "points"])
def test_the_example_of_a_filter_can_be_used(
    viewer: ViewerModel, qtbot: QtBot, read: Read, kind: str
) -> None:
    viewer.add_image(np.zeros((4, 20, 20)), name="stack", axis_labels=("z", "y", "x"))
    labels = np.zeros((4, 20, 20), int)
    labels[1:3, 2:9, 2:9] = 1
    {
        "outlines": lambda: viewer.add_labels(labels[1], name="cells"),
        "volume": lambda: viewer.add_labels(labels, name="cells"),
        "points": lambda: viewer.add_points([[1, 5, 5]], name="cells"),
    }[kind]()
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    panel.view.layer.choose(viewer.layers["cells"])
    read(panel)
    panel.model.set_conditions(panel.view.filter.placeholderText().removeprefix("Filter: "))
    assert (panel.model.n_cells, panel.model.n_kept) == (1, 0 if kind == "points" else 1)


def test_the_number_of_a_density_tells_its_image(viewer: ViewerModel, qtbot: QtBot, blobs: Any) -> None:
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    tell_results(viewer, replace(counted(blobs), count=33.0), None)
    assert panel.view.line.text() == "cells in 'blobs', by their density\n20 to 40 (90 % interval)"


def test_a_density_that_cannot_be_saved_here_tells_where_it_can(
    viewer: ViewerModel, qtbot: QtBot, blobs: Any
) -> None:
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    result = counted(blobs)
    tell_results(viewer, replace(result, provenance=result.provenance.noting(density={})), None)
    for button in (panel.view.copy_command, panel.view.copy_python, panel.view.save_report):
        panel.view.message.tell("")
        button.click()
        assert panel.view.message.text().startswith("A density has no single cells to save or repeat here.")


def test_another_count_in_the_same_layer_is_no_edit(
    viewer: ViewerModel, qtbot: QtBot, blobs: Any, read: Read
) -> None:
    image = viewer.add_image(blobs.image, name="blobs")
    result = counted(blobs)
    place(viewer, prepare_layers(result, source_of(image)))
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    fewer = result.cells.take(np.arange(len(blobs) // 2))
    provenance = replace(result.provenance, seconds=0.1)
    place(viewer, prepare_layers(Result(float(len(fewer)), fewer, provenance), source_of(image)))
    read(panel)
    assert panel.view.number.text() == str(len(fewer))
    assert panel.model.measured.n_edited == 0


def test_layers_that_go_are_no_longer_told_of(panel: ResultsWidget, read: Read) -> None:
    panel.viewer.layers.remove("cells")
    read(panel)
    assert panel.view.number.text() == "—"
    assert panel.view.layer.currentText() == "no cells yet"


def test_cells_that_do_not_fit_the_image_are_an_error(viewer: ViewerModel, qtbot: QtBot, read: Read) -> None:
    viewer.add_image(np.zeros((32, 32), np.uint8), name="small")
    viewer.add_labels(np.ones((64, 64), np.int32), name="cells", scale=(2, 2))
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    assert panel.view.message.property("error") == "true"
    assert "not those of the image" in panel.view.message.text()


def test_cells_of_a_movie(viewer: ViewerModel, qtbot: QtBot, squares: tuple[Any, Any], read: Read) -> None:
    image, labels = squares
    movie = np.stack([labels, labels, np.where(labels < 3, labels, 0)])
    viewer.add_image(np.stack([image] * 3), name="movie", axis_labels=("t", "y", "x"))
    viewer.add_labels(movie, name="cells")
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    assert panel.view.number.text() == "10"
    assert panel.model.counts()["count"].tolist() == [4, 4, 2]
    row = int(np.flatnonzero(panel.model.table["t"].to_numpy() == 2)[0])
    panel.view.table.selectRow(row)
    assert panel.viewer.dims.current_step[0] == 2
    panel.link.go_to_frame("t", 1)
    assert panel.viewer.dims.current_step[0] == 1
    assert panel.link.row_at((1, 42, 42)) == 6


def test_all_cells_like_these_are_deleted_in_one_step(panel: ResultsWidget, read: Read) -> None:
    labels, view = panel.link.layer, panel.view
    assert not view.delete_like.isEnabled()
    view.filter.setText("area_px >= 50")
    view.filter.editingFinished.emit()
    assert view.delete_like.kept.text() == "The 2 that count"
    assert view.delete_like.hidden.text() == "The 2 left out"
    view.delete_like.hidden.trigger()
    read(panel)
    assert sorted(np.unique(labels.data)) == [0, 1, 2]
    assert panel.view.number.text() == "2"
    labels.undo()
    assert sorted(np.unique(labels.data)) == [0, 1, 2, 3, 4]
    read(panel)
    view.delete_like.kept.trigger()
    read(panel)
    assert sorted(np.unique(labels.data)) == [0, 3, 4]


@pytest.mark.parametrize("axes", ["tcyx", "ctyx"])
def test_frames_are_not_taken_for_channels(viewer: ViewerModel, qtbot: QtBot, read: Read, axes: str) -> None:
    shape = [{"t": 4, "c": 2, "y": 16, "x": 16}[axis] for axis in axes]
    channel, time = axes.index("c"), axes.index("t")
    viewer.add_image(np.zeros(shape, np.uint8), name="movie", axis_labels=tuple(axes))
    shape[channel] = 1
    labels = np.zeros(shape, np.int32)
    labels[..., 3:9, 3:9] = 1
    viewer.add_labels(labels, name="cells")
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    viewer.dims.set_point(channel, 1)
    panel.link.go_to_frame("t", 3)
    assert viewer.dims.point[time] == 3
    assert viewer.dims.point[channel] == 1
    assert panel.link.frame_shown("t") == 3


def test_titles_of_pages_are_measured_after_the_turn_that_makes_the_panel(
    qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A button that is asked for its size before it is in the window gets its style twice."""
    asked = []
    monkeypatch.setattr(FlowLayout, "minimumSize", lambda row: asked.append(row) or QSize(0, 0))
    view = ResultsView()
    qtbot.addWidget(view)
    assert view.page_bar.layout() not in asked
    with qtbot.waitExposed(view):
        view.show()
    assert view.page_bar.layout() in asked
