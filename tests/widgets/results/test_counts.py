"""Counts by region, border, filter, marker and plot, against a count by hand of known squares."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from napari.components import ViewerModel
from napari.layers import Shapes
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtGui import QFontMetrics
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QWidget

from cellwright.core.data import Image
from cellwright.core.errors import SettingsError
from cellwright.files.regions import read_regions, write_regions
from cellwright.inference.recipe import Recipe, as_command, as_python, load_recipe, save_recipe
from cellwright.ops.measure.analysis import AnalysisInputs, analyse, groups_of
from cellwright.ops.measure.filters import ScatterGate
from cellwright.ops.measure.regions import ShapeRegion
from cellwright.ops.measure.settings import AnalysisSettings
from cellwright.widgets.results import export
from cellwright.widgets.results.model import ResultsModel
from cellwright.widgets.results.plots import Histogram, Strip
from cellwright.widgets.results.table import CellsTable, FrameModel
from cellwright.widgets.results.widget import ResultsWidget
from cellwright.widgets.shared.layer_factory import bright_colours

Read = Callable[[ResultsWidget], None]


def measure(panel: ResultsWidget, read: Read, *groups: str) -> None:
    for name, box in panel.view.groups.items():
        box.setChecked(name in groups)
    panel.view.measure.click()
    read(panel)


def pick(box: Any, data: str) -> None:
    box.setCurrentIndex(box.findData(data))
    box.activated.emit(box.currentIndex())


def test_only_what_is_ticked_is_measured(panel: ResultsWidget, read: Read) -> None:
    assert "circularity" not in panel.model.table
    measure(panel, read, "shape", "neighbours")
    assert panel.view.message.text() == "Measured; what was ticked is in the table of Cells."
    panel.view.page_bar.buttons[0].click()
    panel.view.page_bar.buttons[1].click()
    assert panel.view.message.text() == ""
    table = panel.model.table
    assert {"perimeter_um", "circularity", "nearest_distance_um"} <= set(table)
    assert "intensity_mean_ch0" not in table
    measure(panel, read, "intensity")
    assert "circularity" not in panel.model.table
    assert panel.model.table["intensity_sum_ch0"].tolist() == [1000, 1280, 1080, 640]
    measure(panel, read)
    assert "intensity_mean_ch0" not in panel.model.table
    assert panel.view.message.text().startswith("Nothing is ticked: ")


def test_another_image_is_measured_where_it_is_ticked(panel: ResultsWidget, read: Read) -> None:
    labels = panel.viewer.layers["cells"].data
    panel.viewer.add_image(labels * 3.0, name="ki 67.tif", scale=(0.5, 0.5), units=("um", "um"))
    read(panel)
    assert panel.view.image.currentText() == "squares"
    panel.view.others.item(0).setCheckState(Qt.CheckState.Checked)
    measure(panel, read, "intensity")
    assert panel.model.table["intensity_mean_ki_67_tif"].tolist() == [3, 6, 9, 12]
    assert panel.model.marker_channels == ["ch0", "ki_67_tif"]


def test_cells_at_the_border(panel: ResultsWidget) -> None:
    pick(panel.view.border, "drop")
    assert panel.view.number.text() == "3"
    assert panel.view.line.text() == "of 4 cells · 1 at the border"
    assert panel.model.analysis().notices == ("1 of 4 cells were left out, 1 at the border.",)
    panel.model.set_conditions("area_px > 40")
    assert panel.view.line.text() == "of 4 cells · 1 at the border · 1 by the filter"
    panel.model.set_conditions("")
    assert panel.model.kept_table["label"].tolist() == [1, 2, 3]
    assert panel.view.frame.rowCount() == 3
    pick(panel.view.border, "all")
    assert panel.view.number.text() == "4"


def test_regions_are_counted_inside_their_shapes(panel: ResultsWidget, read: Read) -> None:
    polygon = np.array([[-1, -1], [-1, 64], [64, -1]])  # the upper left half: cells 1 and 2
    shapes = panel.viewer.add_shapes([polygon], shape_type="polygon", scale=(0.5, 0.5), units=("um", "um"))
    shapes.add(np.array([[35, 35], [35, 70], [70, 70], [70, 35]]), shape_type="rectangle")
    pick(panel.view.regions, str(shapes.unique_id))
    read(panel)
    counts = panel.model.counts()
    assert counts["region"].tolist() == ["region 1", "region 2", "all regions"]
    assert counts["count"].tolist() == [2, 2, 4]
    assert counts["area_px"].tolist()[1] == 29 * 29
    assert panel.view.counts_frame.rowCount() == 3
    assert panel.model.table["regions"].tolist() == ["region 1", "region 1", "region 2", "region 2"]
    shapes.selected_data = {1}
    shapes.remove_selected()
    read(panel)
    assert panel.view.number.text() == "2"
    pick(panel.view.rule, "overlap")
    read(panel)
    assert panel.model.counts()["count"].tolist() == [2]
    panel.viewer.layers.remove(shapes)
    read(panel)
    assert panel.view.number.text() == "4"


def test_counts_are_those_of_an_analysis(panel: ResultsWidget, read: Read) -> None:
    measure(panel, read, "intensity")
    panel.model.set_conditions("area_px > 20 and intensity_mean_ch0 < 35")
    panel.model.set_marker("ch0", is_on=True)
    measured = panel.model.measured
    ours = panel.model.analysis()
    theirs = analyse(
        np.asarray(measured.snapshot.pixels), measured.snapshot.image, panel.model.settings, AnalysisInputs()
    )
    pd.testing.assert_frame_equal(ours.counts, theirs.counts)
    pd.testing.assert_frame_equal(ours.copositive, theirs.copositive)
    assert ours.thresholds == theirs.thresholds
    assert ours.table["label"].tolist() == theirs.table["label"].tolist()


def test_channels_are_called_by_their_names(panel: ResultsWidget, read: Read) -> None:
    measured = panel.model.measured
    image = replace(measured.snapshot.image, channel_names=("DAPI",))
    assert panel.model.title_of("ch0") == "squares (ch0)"  # without channels it is called like its layer
    panel.model.set_measured(replace(measured, snapshot=replace(measured.snapshot, image=image)))
    assert panel.model.title_of("ch0") == "DAPI (ch0)"
    assert panel.model.title_of("other image") == "other image"


def test_markers_are_called_by_the_names_of_their_channels(panel: ResultsWidget, read: Read) -> None:
    """In what is shown; columns and the tables of files keep theirs."""
    measure(panel, read, "intensity")
    panel.model.set_marker("ch0", is_on=True, threshold=25.0)
    assert list(panel.model.groups("markers")) == ["ch0+", "ch0-"]  # of a file that names no channels
    measured = panel.model.measured
    image = replace(measured.snapshot.image, channel_names=("DAPI",))
    panel.model.set_measured(replace(measured, snapshot=replace(measured.snapshot, image=image)))
    assert list(panel.model.groups("markers")) == ["DAPI+", "DAPI-"]
    panel.counts.refresh()
    frame = panel.view.markers_frame
    assert [frame.data(frame.index(row, 0)) for row in range(2)] == ["DAPI+", "DAPI-"]
    analysis = panel.model.analysis()
    assert list(groups_of(analysis)["Marker"]) == ["DAPI+", "none"]
    assert analysis.copositive["markers"].tolist() == ["ch0+", "ch0-"]
    assert "positive_ch0" in analysis.table


def test_the_wheel_changes_no_threshold_of_a_channel(
    panel: ResultsWidget, read: Read, turn_wheel: Callable[[QWidget, int], None]
) -> None:
    measure(panel, read, "intensity")
    row = panel.counts.rows["ch0"]
    for control in (row.slider, row.value):
        for step in (-120, 120):
            turn_wheel(control, step)
    assert not row.is_on.isChecked()


def test_positive_cells(panel: ResultsWidget, read: Read) -> None:
    measure(panel, read, "intensity")
    row = panel.counts.rows["ch0"]
    row.value.setValue(25.0)
    assert row.is_on.isChecked()
    assert panel.model.table["positive_ch0"].tolist() == [False, False, True, True]
    read(panel)
    assert panel.view.markers_frame.rowCount() == 2
    titles = [panel.view.markers_frame.headerData(place, Qt.Orientation.Horizontal) for place in range(3)]
    assert titles == ["Markers", "Cells", "Share"]
    assert panel.model.copositive()["count"].tolist() == [2, 2]
    row.slider.setValue(row.slider.maximum())  # the highest mean, above which there is none
    assert not panel.model.table["positive_ch0"].any()
    row.otsu.click()
    assert panel.model.markers == {"ch0": None}
    assert 10 < panel.model.thresholds["ch0"] < 40
    assert row.value.value() == pytest.approx(panel.model.thresholds["ch0"], abs=0.1)
    row.is_on.setChecked(False)
    assert "positive_ch0" not in panel.model.table


def test_sizes_in_um_stand_before_those_in_pixels() -> None:
    """Only where both are there, and without another order of the rest."""
    frame = FrameModel()
    given = ["label", "y", "x", "area_px", "area_um2", "diameter_px", "diameter_um", "score", "distance_px"]
    frame.set_frame(pd.DataFrame({name: [1.0] for name in given}))
    in_um = ["label", "area_um2", "diameter_um", "score", "distance_px"]
    assert frame.names == [*in_um, "area_px", "diameter_px", "y", "x"]
    assert frame.data(frame.index(0, 0)) == "1"


def test_a_table_of_few_rows_has_room_for_what_comes_into_it(qtbot: QtBot) -> None:
    table = CellsTable(FrameModel())
    qtbot.addWidget(table)
    for text in ("a+", "a+ and a name that is far longer"):
        table.frame.set_frame(pd.DataFrame({"markers": [text], "count": [1]}))
    room = table.fontMetrics().horizontalAdvance(text)
    assert table.columnWidth(0) > room
    table.setColumnWidth(0, 40)  # by the user
    table.frame.set_frame(pd.DataFrame({"markers": [text], "count": [2]}))
    assert table.columnWidth(0) == 40


def test_a_marker_of_brighter_cells_has_their_range(panel: ResultsWidget, read: Read) -> None:
    measure(panel, read, "intensity")
    measured = panel.model.measured
    table = measured.table.assign(intensity_mean_ch0=50 * measured.table["intensity_mean_ch0"])
    panel.model.set_measured(replace(measured, table=table))
    panel.model.set_marker("ch0", is_on=True, threshold=1500.0)
    row = panel.counts.rows["ch0"]
    assert (row.value.maximum(), row.value.value()) == (2000, 1500)
    assert row.slider.value() == pytest.approx(1500, abs=2)


def test_a_column_without_numbers_has_an_empty_histogram(qtbot: QtBot) -> None:
    plot = Histogram()
    qtbot.addWidget(plot)
    for values in (np.arange(5.0), np.full(5, np.nan)):
        plot.set_values(values)
        plot.set_kept(np.ones(5, bool))
    assert plot._kept.getData()[1].sum() == 0


TRIANGLE = np.array([[-1.0, -1], [-1, 64], [64, -1]])


@pytest.fixture
def triangle(panel: ResultsWidget, read: Read) -> Shapes:
    """Layer of a triangle, with a scale, in which the panel counts."""
    shapes = panel.viewer.add_shapes([TRIANGLE], shape_type="polygon", scale=(0.5, 0.5), units=("um", "um"))
    pick(panel.view.regions, str(shapes.unique_id))
    read(panel)
    return shapes


@pytest.mark.usefixtures("triangle")
def test_regions_that_could_not_be_saved_are_not_taken_from_there(
    panel: ResultsWidget, qtbot: QtBot, tmp_path: Path, home: Path
) -> None:
    (tmp_path / "file").touch()
    panel.export.save_regions(tmp_path / "file" / "regions.geojson")
    qtbot.waitUntil(lambda: not panel.view.job_bar.is_busy, timeout=30_000)
    (own,) = panel.export.input_files().regions
    assert Path(own).parent == home / "inputs"


def test_cells_are_coloured_by_marker_and_as_before(panel: ResultsWidget, read: Read) -> None:
    measure(panel, read, "intensity")
    layer = panel.viewer.layers["cells"]
    before = layer.colormap
    panel.model.set_marker("ch0", is_on=True, threshold=25)
    pick(panel.view.colour_by, "markers")
    colours = [tuple(layer.colormap.map(number)) for number in (1, 2, 3, 4)]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    pick(panel.view.colour_by, "")
    assert layer.colormap is before
    assert panel.view.colour_by.currentText() == "Own colours"  # classes may colour the layer


def test_a_layer_is_coloured_as_before_once_another_is_looked_at(panel: ResultsWidget, read: Read) -> None:
    measure(panel, read, "intensity")
    layer = panel.viewer.layers["cells"]
    other = panel.viewer.add_labels(layer.data.copy(), scale=(0.5, 0.5), units=("um", "um"))
    own = layer.colormap, other.colormap
    panel.model.set_marker("ch0", is_on=True, threshold=25)
    pick(panel.view.colour_by, "markers")
    assert layer.colormap is not own[0]
    panel.show_layer(other)
    read(panel)
    panel.link.colour_by({"all": np.ones(panel.model.n_cells, bool)})
    assert layer.colormap is own[0]
    assert other.colormap is not own[1]
    counted_again = other.colormap = bright_colours()
    panel.link.colour_by({"all": np.ones(panel.model.n_cells, bool)})
    panel.link.colour_by({})
    assert other.colormap is counted_again


def test_cut_offs_filter_what_is_counted(panel: ResultsWidget) -> None:
    view = panel.view
    view.tabs.setCurrentIndex(3)
    view.plot_x.setCurrentIndex(view.plot_x.findData("area_px"))
    panel.plots.histogram.cuts.setRegion((30, 80))
    assert panel.model.range_of("area_px") == (30, 80)
    assert view.filter.text() == "area_px >= 30 and area_px <= 80"
    assert view.number.text() == "2"
    view.filter.setText("area_px >= 50")
    view.filter.editingFinished.emit()
    assert panel.plots.histogram.cuts.getRegion() == (50, 100)
    view.no_gate.click()
    assert view.number.text() == "4"
    assert view.filter.text() == ""


def test_the_arrow_keys_move_cut_offs_and_choose_cells(panel: ResultsWidget) -> None:
    view, model = panel.view, panel.model
    view.tabs.setCurrentIndex(3)
    view.plot_x.setCurrentIndex(view.plot_x.findData("area_px"))
    histogram = panel.plots.histogram
    low, high = histogram.cuts.getRegion()
    step = histogram._edges[1] - histogram._edges[0]
    for _ in range(2):
        QTest.keyClick(histogram, Qt.Key.Key_Right)
    QTest.keyClick(histogram, Qt.Key.Key_Left, Qt.KeyboardModifier.ShiftModifier)
    assert model.range_of("area_px") == pytest.approx((low + 2 * step, high - step))
    for _ in range(3):  # not past the end, which is open again
        QTest.keyClick(histogram, Qt.Key.Key_Left)
    assert model.range_of("area_px")[0] is None
    view.no_gate.click()
    view.plot_kind.setCurrentIndex(1)
    view.plot_y.setCurrentIndex(view.plot_y.findData("y"))
    areas, ys = model.table["area_px"], model.table["y"]
    chosen = []
    for key in (Qt.Key.Key_Right, Qt.Key.Key_Right, Qt.Key.Key_Right, Qt.Key.Key_Left):
        QTest.keyClick(panel.plots.scatter, key)
        chosen.append(model.chosen)
    by_area = np.argsort(areas, kind="stable").tolist()
    assert chosen == [by_area[0], by_area[1], by_area[2], by_area[1]]
    for _ in range(len(ys)):
        QTest.keyClick(panel.plots.scatter, Qt.Key.Key_Up)
    assert ys[model.chosen] == ys.max(), "the highest in the plot"


def test_the_arrow_keys_go_to_the_next_frame(qtbot: QtBot) -> None:
    strip, told = Strip(), list[int]()
    qtbot.addWidget(strip)
    strip.frame_clicked.connect(told.append)
    QTest.keyClick(strip, Qt.Key.Key_Right)
    assert told == [], "there is none"
    strip.set_counts(np.array([3, 1, 2]), first=5)
    for shown, key in ((6, Qt.Key.Key_Left), (5, Qt.Key.Key_Left), (6, Qt.Key.Key_Right), (6, Qt.Key.Key_Up)):
        strip.set_frame(shown)
        QTest.keyClick(strip, key)
    assert told == [5, 5, 7]


def test_images_that_lie_elsewhere_are_not_measured(panel: ResultsWidget, read: Read) -> None:
    labels = panel.viewer.layers["cells"].data
    look = {"scale": (0.5, 0.5), "units": ("um", "um")}
    panel.viewer.add_image(labels * 3.0, name="shifted", translate=(0, 4), **look)
    panel.view.others.item(0).setCheckState(Qt.CheckState.Checked)
    panel.viewer.add_image(labels * 4.0, name="later", **look)  # a tick stays while layers come
    assert panel.view.others.item(1).checkState() == Qt.CheckState.Checked
    measure(panel, read, "intensity")
    assert "does not lie on 'squares'" in panel.view.message.text()
    assert panel.model.measured is None
    panel.viewer.layers["shifted"].translate = (0, 0)
    measure(panel, read, "intensity")
    assert panel.view.message.text().startswith("Measured")
    assert panel.model.table["intensity_mean_shifted"].tolist() == [3, 6, 9, 12]


def test_layers_are_channels_with_markers_of_their_own(panel: ResultsWidget, read: Read) -> None:
    labels = panel.viewer.layers["cells"].data
    for name, bright in (("cd3", (1, 2)), ("cd8", (2, 3))):
        image = np.isin(labels, bright) * 50.0
        panel.viewer.add_image(image, name=name, scale=(0.5, 0.5), units=("um", "um"))
    for place in (0, 1):
        panel.view.others.item(place).setCheckState(Qt.CheckState.Checked)
    measure(panel, read, "intensity")
    assert panel.model.marker_channels == ["ch0", "cd8", "cd3"]
    for name in ("cd3", "cd8"):
        panel.model.set_marker(name, is_on=True)
    found = panel.model.copositive()
    counts = dict(zip(found["markers"], found["count"], strict=True))
    assert counts == {"cd8+ cd3+": 1, "cd8+ cd3-": 1, "cd8- cd3+": 1, "cd8- cd3-": 1}


def test_nuclei_in_cells(panel: ResultsWidget, read: Read) -> None:
    nuclei = np.zeros((64, 64), np.uint64)
    nuclei[4:6, 4:6], nuclei[8:10, 8:10], nuclei[32:35, 7:10], nuclei[20:23, 50:53] = 5, 2**32 + 5, 7, 8
    layer = panel.viewer.add_labels(nuclei, name="nuclei", scale=(0.5, 0.5), units=("um", "um"))
    panel.view.layer.setCurrentIndex(panel.view.layer.findText("cells"))
    panel.view.layer.activated.emit(panel.view.layer.currentIndex())
    panel.view.nuclei.setCurrentIndex(panel.view.nuclei.findText("nuclei"))
    measure(panel, read, "intensity")
    table = panel.model.table
    assert table["nuclei"].tolist() == [2, 1, 0, 0]
    assert table["nuclei_area_um2"].tolist() == [2, 2.25, 0, 0]
    assert table["nucleus_intensity_sum_ch0"].tolist()[:2] == [80, 180]
    assert table["cytoplasm_intensity_sum_ch0"].tolist() == [920, 1100, 1080, 640]
    assert panel.view.line.text().endswith("2 without nucleus · 1 nuclei in no cell")
    panel.model.set_conditions("area_px > 20")
    assert "1 without nucleus" in panel.view.line.text()
    layer.data_setitem((np.array([42]), np.array([42])), 9)  # a nucleus painted into the third cell
    read(panel)
    assert panel.model.table["nuclei"].tolist() == [2, 1, 1, 0]
    panel.viewer.layers.remove(layer)
    read(panel)
    assert "nuclei" not in panel.model.table


def test_a_ring_is_taken_for_the_cytoplasm_of_nuclei(panel: ResultsWidget, read: Read) -> None:
    panel.view.cytoplasm.setValue(3)
    measure(panel, read, "intensity")
    assert panel.model.table["cytoplasm_intensity_max_ch0"].tolist() == [0, 0, 0, 0]
    assert panel.model.settings.cytoplasm_px == 3
    found = analyse(
        panel.viewer.layers["cells"].data,
        Image(panel.viewer.layers["squares"].data, "YX", (0.5, 0.5)),
        panel.model.settings,
    ).table
    name = "cytoplasm_intensity_std_ch0"
    assert panel.model.table[name].tolist() == found[name].tolist()


def test_nuclei_of_other_pixels_are_refused(panel: ResultsWidget, read: Read) -> None:
    panel.viewer.add_labels(np.ones((30, 30), np.int32), name="small", scale=(0.5, 0.5))
    panel.view.layer.setCurrentIndex(panel.view.layer.findText("cells"))
    panel.view.layer.activated.emit(panel.view.layer.currentIndex())
    panel.view.nuclei.setCurrentIndex(panel.view.nuclei.findText("small"))
    measure(panel, read)
    assert "must be labels of the pixels of 'cells'" in panel.view.message.text()


def test_a_plot_is_made_when_it_is_shown(panel: ResultsWidget) -> None:
    view = panel.view
    assert view.tabs.currentIndex() == 0
    assert view.plots.count() == 0
    view.tabs.setCurrentIndex(3)
    assert view.plots.currentWidget() is panel.plots.histogram
    view.plot_kind.setCurrentIndex(1)
    assert view.plots.currentWidget() is panel.plots.scatter
    assert len(panel.plots.scatter._rows) == 4
    assert view.plots.count() == 2
    plot, font = panel.plots.scatter, panel.font()
    font.setPointSize(20)
    plot.setFont(font)
    tick = QFontMetrics(plot.getAxis("left").style["tickFont"])
    assert plot.getPlotItem().getContentsMargins()[1] >= tick.height() // 2  # the highest is whole


def test_a_lasso_gates(panel: ResultsWidget, qtbot: QtBot) -> None:
    view = panel.view
    view.tabs.setCurrentIndex(3)
    view.plot_kind.setCurrentIndex(1)
    view.plot_x.setCurrentIndex(view.plot_x.findData("x"))
    view.plot_y.setCurrentIndex(view.plot_y.findData("y"))
    view.lasso.setChecked(True)
    assert panel.plots.scatter.box.is_drawing
    panel.plots.scatter.box.drawn.emit(np.array([[0, 0], [20, 0], [20, 50], [0, 50]]))
    assert not view.lasso.isChecked()
    assert panel.model.kept_table["label"].tolist() == [1, 2]
    assert "gate" in panel.model.analysis().notices[-1]
    qtbot.waitUntil(lambda: view.plot_hint.text() == "2 of 4 cells count.")
    view.plot_x.setCurrentIndex(view.plot_x.findData("area_px"))  # where the gate is not drawn
    assert view.plot_hint.text() == "2 of 4 cells count. The gate lies over x and y."
    view.no_gate.click()
    assert view.number.text() == "4"


def test_a_strip_and_boxes(viewer: ViewerModel, qtbot: QtBot, squares: Any, read: Read) -> None:
    image, labels = squares
    viewer.add_image(np.stack([image] * 3), name="movie", axis_labels=("t", "y", "x"))
    viewer.add_labels(np.stack([labels, labels, labels * (labels < 3)]), name="cells")
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    axis, counts, first = panel.model.per_frame()
    assert (axis, counts.tolist(), first) == ("t", [4, 4, 2], 0)
    assert panel.view.tabs.tabText(panel.view.tabs.currentIndex()) == "Counts"
    panel.view.tabs.setCurrentIndex(3)
    assert panel.view.plot_kind.currentText() == "Over frames"  # which a series begins with
    panel.plots.strip.frame_clicked.emit(2)
    assert viewer.dims.current_step[0] == 2
    assert panel.plots.strip._here.value() == 2
    viewer.dims.set_current_step(0, 1)  # the mark follows the viewer
    assert panel.plots.strip._here.value() == 1
    assert panel.plots.strip._bars.opts["height"].tolist() == [4, 4, 2]
    panel.view.draw_regions.click()
    shapes = viewer.layers["regions"]
    assert shapes.mode == "add_rectangle"  # one drag for each region
    shapes.add_rectangles([[[0, 0], [20, 20]], [[25, 0], [50, 50]]])
    read(panel)
    assert [line.getData()[1].tolist() for line in panel.plots.strip._lines] == [[1, 1, 1], [2, 2, 1]]
    assert panel.plots.strip._bars.opts["height"].tolist() == [3, 3, 2]
    assert "region 2" in panel.view.plot_hint.text()
    frame = panel.view.counts_frame
    titles = [frame.headerData(place, Qt.Orientation.Horizontal) for place in range(len(frame.names))]
    assert titles[:4] == ["Region", "Frame", "Cells", "Area [px]"]
    panel.view.plot_kind.setCurrentIndex(3)
    assert "Median" in panel.view.plot_hint.text()


def test_boxes_begin_with_what_there_are_several_groups_of(
    panel: ResultsWidget, viewer: ViewerModel, read: Read
) -> None:
    view = panel.view
    view.tabs.setCurrentIndex(3)
    view.plot_kind.setCurrentIndex(3)
    assert view.plot_group.currentText() == "Class"
    view.draw_regions.click()
    viewer.layers["regions"].add_rectangles([[[0, 0], [20, 20]], [[25, 0], [50, 50]]])
    read(panel)
    assert view.plot_group.currentText() == "Region"
    assert "region 2" in view.plot_hint.text()
    pick(view.plot_group, "frame")
    viewer.layers["regions"].add_rectangles([[20, 0], [24, 50]])
    read(panel)
    assert view.plot_group.currentText() == "Slice or frame"  # the user has chosen


def test_what_is_told_moves_no_button(panel: ResultsWidget) -> None:
    layout = panel.view.layout()
    assert layout is not None
    assert layout.indexOf(panel.view.message) > layout.indexOf(panel.view.tabs)


def test_drawn_regions_are_named_and_the_hint_goes(
    panel: ResultsWidget, viewer: ViewerModel, read: Read
) -> None:
    panel.view.draw_regions.click()
    assert "Drag a rectangle" in panel.view.message.text()
    assert panel.viewer.layers["regions"].mode == "add_rectangle", "a straight drag of the lasso is no shape"
    shapes = viewer.layers["regions"]
    shapes.add_rectangles([[[0, 0], [20, 20]], [[25, 0], [50, 50]]])
    assert panel.view.message.text() == ""
    assert shapes.text.values.tolist() == ["region 1", "region 2"]
    read(panel)
    assert list(panel.model.regions.names) == ["region 1", "region 2"]


def test_the_strip_of_a_volume_tells_of_slices(
    viewer: ViewerModel, qtbot: QtBot, squares: Any, read: Read
) -> None:
    viewer.add_labels(np.stack([squares[1]] * 3), name="cells", axis_labels=("z", "y", "x"))
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    assert panel.view.plot_kind.findText("Over slices") >= 0
    pick(panel.view.counted_by, "frame")  # each cell in the slice of its centre
    assert panel.counts.table()["group"].tolist() == ["z 0", "z 1", "z 2"]
    assert panel.counts.table()["count"].tolist() == [0, 4, 0]


def test_frames_of_a_part_have_their_numbers_in_the_image(
    viewer: ViewerModel, qtbot: QtBot, squares: Any, read: Read
) -> None:
    image, labels = squares
    viewer.add_image(np.stack([image] * 8), name="movie", axis_labels=("t", "y", "x"))
    viewer.add_labels(np.stack([labels, labels * (labels < 3)]), name="cells", translate=(5, 0, 0))
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    assert panel.model.counts()["t"].tolist() == [5, 6]
    pick(panel.view.counted_by, "frame")
    assert panel.counts.table()["group"].tolist() == ["t 5", "t 6"]
    panel.view.tabs.setCurrentIndex(3)
    strip = panel.plots.strip
    assert strip._bars.opts["x"].tolist() == [5, 6]
    strip.frame_clicked.emit(6)
    assert viewer.dims.current_step[0] == 6
    assert strip._here.value() == 6


def test_tables_and_a_report_are_saved(panel: ResultsWidget, qtbot: QtBot, tmp_path: Path) -> None:
    panel.model.set_conditions("area_px > 20")

    def saved(save: Callable[[Path], None], name: str) -> Path:
        save(tmp_path / name)
        qtbot.waitUntil(lambda: not panel.view.job_bar.is_busy, timeout=30_000)
        assert panel.view.message.text() == f"Saved {tmp_path / name}"
        assert panel.view.message.property("info") == "true"  # no warning
        return tmp_path / name

    table = pd.read_csv(saved(panel.export.save_table, "cells.csv"))
    assert table["label"].tolist() == [1, 2, 3]
    sheets = pd.read_excel(saved(panel.export.save_table, "cells.xlsx"), sheet_name=None)
    assert set(sheets) == {"cells", "counts", "settings"}
    assert sheets["counts"]["count"].tolist() == [3]
    assert len(pd.read_parquet(saved(panel.export.save_table, "cells.parquet"))) == 3
    assert pd.read_csv(saved(panel.export.save_counts, "counts.csv"))["count"].tolist() == [3]
    report = saved(panel.export.save_report, "report.html").read_text()
    assert '<span class="number">3</span>' in report
    assert "1 of 4 cells were left out, 1 by the filter." in report


def test_settings_go_to_a_file_and_back(
    panel: ResultsWidget, qtbot: QtBot, tmp_path: Path, read: Read
) -> None:
    path = tmp_path / "study.json"
    settings = AnalysisSettings(
        measure=("intensity",), border="drop", keep=("area_px>=40",), positive=("0>15",), ring_width_px=3.0
    )
    save_recipe(path, Recipe(analysis=settings))
    panel.export.load_settings(path)
    read(panel)
    assert panel.model.settings == settings
    assert panel.view.number.text() == "2"
    assert panel.view.filter.text() == "area_px >= 40"
    assert panel.view.border.currentData() == "drop"
    assert panel.model.table["positive_ch0"].tolist() == [False, True, True, True]
    assert panel.counts.rows["ch0"].is_on.isChecked()
    panel.export.save_settings(tmp_path / "again.json")
    qtbot.waitUntil(lambda: not panel.view.job_bar.is_busy, timeout=30_000)
    assert load_recipe(tmp_path / "again.json").analysis == settings


def test_what_was_not_counted_cannot_be_repeated(panel: ResultsWidget) -> None:
    for button in (panel.view.copy_python, panel.view.copy_command):
        button.click()
        assert panel.view.message.property("error") == "true"
        assert "not counted by a model" in panel.view.message.text()
    with pytest.raises(SettingsError):
        panel.export.recipe()


def test_every_control_has_a_tooltip(panel: ResultsWidget) -> None:
    from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QComboBox, QLineEdit, QTableView

    kinds = (QAbstractButton, QAbstractSpinBox, QComboBox, QLineEdit, QTableView)
    own = [one for kind in kinds for one in panel.view.findChildren(kind) if one in vars(panel.view).values()]
    assert len(own) > 20
    assert [one for one in own if not one.toolTip()] == []


def test_a_gate_goes_with_its_columns(panel: ResultsWidget) -> None:
    model, measured = panel.model, panel.model.measured
    model.set_gate(
        ScatterGate("area_px", "diameter_px", np.array([[50, 0], [50, 99], [200, 99], [200, 0.0]]))
    )
    assert model.n_kept == 2
    model.set_measured(replace(measured, table=measured.table.drop(columns="diameter_px")))
    assert (model.gate, model.n_kept, model.analysis().notices) == (None, 4, ())


def test_a_model_without_cells_counts_none() -> None:
    model = ResultsModel()
    model.set_border("drop")
    assert model.n_kept == 0
    assert model.groups("class") == {}
    assert model.per_frame() is None


def test_the_clipboard_takes_the_command(panel: ResultsWidget, monkeypatch: pytest.MonkeyPatch) -> None:
    panel.model.set_conditions("area_px > 20")
    recipe = Recipe(image="a.tif", analysis=panel.model.settings)
    monkeypatch.setattr(panel.export, "recipe", lambda: recipe)
    panel.view.copy_command.click()
    assert QApplication.clipboard().text() == as_command(recipe)
    assert "--keep 'area_px>20'" in QApplication.clipboard().text()
    panel.view.copy_python.click()
    assert QApplication.clipboard().text() == as_python(recipe)


def test_no_file_is_asked_for_where_there_are_no_regions(
    panel: ResultsWidget, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(export, "ask_to_save", lambda *args: asked.append(args))
    panel.view.save_regions.click()
    assert "no regions" in panel.view.message.text()
    assert asked == []


def test_regions_that_were_saved_are_taken_from_there(
    panel: ResultsWidget, triangle: Shapes, qtbot: QtBot, read: Read, tmp_path: Path, home: Path
) -> None:
    (own,) = panel.export.input_files().regions
    assert Path(own).parent == home / "inputs"
    panel.export.save_regions(tmp_path / "regions.geojson")
    qtbot.waitUntil(lambda: not panel.view.job_bar.is_busy, timeout=30_000)
    assert panel.export.input_files().regions == (str(tmp_path / "regions.geojson"),)
    image = panel.model.measured.snapshot.image
    for path in (own, tmp_path / "regions.geojson"):
        (region,) = read_regions(path, image)
        assert region.name == "region 1"
        assert np.allclose(region.rings[0], TRIANGLE)
        points = np.random.default_rng(0).uniform(0, 64, (500, 2))
        assert (region.contains(points) == panel.model.regions.included[0].contains(points)).all()
    triangle.data = [TRIANGLE + 1]
    read(panel)
    assert panel.export.unrepeatable == []
    assert panel.export.input_files().regions != (own,)


def test_regions_of_one_frame_are_written_with_it(tmp_path: Path) -> None:
    image = Image(np.zeros((3, 20, 20), np.uint8), "TYX")
    ring = np.array([[2.0, 2], [2, 9], [9, 9]])
    regions = [ShapeRegion("a", (ring,), (2,)), ShapeRegion("b", (ring + 5,))]
    write_regions(tmp_path / "r.geojson", regions, image)
    read = read_regions(tmp_path / "r.geojson", image)
    assert [one.name for one in read] == ["a", "b"]
    assert [one.index for one in read] == [(2,), (None,)]


def test_a_table_is_not_saved_before_an_edit_is_in_it(
    panel: ResultsWidget, read: Read, tmp_path: Path
) -> None:
    layer, before = panel.viewer.layers["cells"], panel.model.n_cells
    layer.data = np.where(layer.data == 1, 0, layer.data)
    panel.export.save_table(tmp_path / "cells.csv")
    assert "still being measured" in panel.view.message.text()
    read(panel)
    assert not (tmp_path / "cells.csv").exists()
    panel.export.save_table(tmp_path / "cells.csv")
    read(panel)
    assert len(pd.read_csv(tmp_path / "cells.csv")) == before - 1


def test_a_table_that_cannot_be_written_leaves_the_cells_there(
    panel: ResultsWidget, qtbot: QtBot, tmp_path: Path
) -> None:
    (tmp_path / "cells.csv").mkdir()
    panel.export.save_table(tmp_path / "cells.csv")
    qtbot.waitUntil(lambda: not panel.view.job_bar.is_busy, timeout=30_000)
    assert panel.view.message.property("error") == "true"
    assert panel.model.n_cells == 4
