"""Counts by region, class, frame, markers and image, and their report, against a count by hand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt

from cellwright.core.data import Image
from cellwright.core.errors import SettingsError
from cellwright.ops.measure.analysis import analyse, groups_of
from cellwright.widgets.results.model import ResultsModel
from cellwright.widgets.results.widget import ResultsWidget
from cellwright.widgets.shared.cells.snapshot import session_table
from cellwright.widgets.shared.layer_io import place, prepare_layers, source_of

CLASSES = ("big", "small", "big", "small", "small", "big")
PLACES = ((0, 4, 4), (0, 4, 24), (1, 4, 4), (1, 24, 4), (1, 24, 24), (2, 24, 24))  # frame, y, x
BRIGHT = (10, 20, 30, 40, 50, 60)


@pytest.fixture
def movie() -> tuple[Any, Any]:
    """Three frames with two, three and one squares of six pixels side, of known class and brightness."""
    image, labels = np.zeros((3, 40, 40), np.uint8), np.zeros((3, 40, 40), np.int32)
    for number, ((t, y, x), value) in enumerate(zip(PLACES, BRIGHT, strict=True), start=1):
        labels[t, y : y + 6, x : x + 6] = number
        image[t, y : y + 6, x : x + 6] = value
    return image, labels


@pytest.fixture
def movie_panel(
    viewer: ViewerModel, qtbot: QtBot, movie: tuple[Any, Any], read: Callable[[ResultsWidget], None]
) -> ResultsWidget:
    image, labels = movie
    viewer.add_image(image, name="movie", axis_labels=("t", "y", "x"))
    features = pd.DataFrame({"label": range(7), "class": ["", *CLASSES]})
    viewer.add_labels(labels, name="cells", axis_labels=("t", "y", "x"), features=features)
    upper = np.array([[-1.0, -1], [-1, 40], [19.5, 40], [19.5, -1]])
    viewer.add_shapes([upper, upper + np.array([20, 0])], shape_type="rectangle", name="halves")
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    panel.view.groups["intensity"].setChecked(True)
    panel.view.measure.click()
    read(panel)
    return panel


def counted(panel: ResultsWidget, by: str) -> dict[str, int]:
    panel.view.counted_by.setCurrentIndex(panel.view.counted_by.findData(by))
    table = panel.counts.table()
    assert panel.view.counts_frame.rowCount() == len(table)
    return dict(zip(table["group"], table["count"], strict=True))


def test_shapes_drawn_in_one_frame_are_offered_for_all(
    movie_panel: ResultsWidget, read: Callable[[ResultsWidget], None]
) -> None:
    panel, flat = movie_panel, movie_panel.viewer.layers["halves"]
    panel.view.regions.choose(flat)
    read(panel)
    everywhere = panel.model.counts()
    offer = panel.view.everywhere
    assert offer.isHidden()
    drawn = [np.column_stack([np.ones(len(one)), one]) for one in flat.data]
    alone = panel.viewer.add_shapes(drawn, shape_type="rectangle", name="mine")
    panel.view.regions.choose(alone)
    read(panel)
    assert panel.model.n_kept == 3
    assert not offer.isHidden()
    assert offer.text() == "In frame 1 alone: use in all frames"
    offer.click()
    read(panel)
    assert offer.isHidden()
    copy = panel.viewer.layers["mine, everywhere"]
    assert panel.view.regions.layer is copy
    assert copy.text.values.tolist() == ["region 1", "region 2"]
    assert panel.viewer.layers.index(copy) == panel.viewer.layers.index(alone) + 1
    assert panel.model.counts().equals(everywhere)
    assert [alone.visible, len(alone.data), alone.ndim] == [False, 2, 3]


def test_what_is_left_out_in_one_frame_is_offered_for_all(
    movie_panel: ResultsWidget, read: Callable[[ResultsWidget], None]
) -> None:
    panel, flat = movie_panel, movie_panel.viewer.layers["halves"]
    offer, counts = panel.view.out_everywhere, []
    upper = [np.column_stack([np.ones(4), flat.data[0]])]
    panel.view.exclude.choose(panel.viewer.add_shapes(upper, shape_type="rectangle", name="dirt"))
    read(panel)
    assert offer.text() == "Left out in frame 1 alone: leave out in all frames"
    counts.append(panel.model.n_kept)
    offer.click()
    read(panel)
    assert offer.isHidden()
    counts.append(panel.model.n_kept)
    panel.view.exclude.choose(None)
    panel.view.regions.choose(flat)
    read(panel)
    upper_half = panel.model.grouped("region").set_index("group")["count"]["region 1"]
    assert counts[1] == 6 - upper_half < counts[0] < 6


def test_every_kind_of_group_is_counted(
    movie_panel: ResultsWidget, read: Callable[[ResultsWidget], None]
) -> None:
    panel = movie_panel
    panel.view.regions.choose(panel.viewer.layers["halves"])
    panel.model.set_marker("ch0", is_on=True, threshold=25.0)
    read(panel)
    assert counted(panel, "frame") == {"t 0": 2, "t 1": 3, "t 2": 1}
    assert counted(panel, "class") == {"big": 3, "small": 3}
    assert counted(panel, "region") == {"region 1": 3, "region 2": 3}
    assert counted(panel, "markers") == {"ch0+": 4, "ch0-": 2}
    table = panel.model.grouped("class")
    assert table["percent"].tolist() == [50, 50]
    assert table["median_area_px"].tolist() == [36, 36]
    counts = panel.model.counts()
    rows = {(row.region, row.t): (row.count, row.class_big) for row in counts.itertuples()}
    assert rows["region 1", 0] == (2, 1)
    assert rows["region 2", 1] == (2, 0)
    assert rows["all regions", 1] == (3, 1)
    panel.model.set_conditions("class = big")
    assert panel.view.line.text() == "of 6 cells in 3 frames · 3 by the filter"
    assert counted(panel, "frame") == {"t 0": 1, "t 1": 1, "t 2": 1}
    boxes = panel.model.groups("frame")
    assert [int(mask.sum()) for mask in boxes.values()] == [1, 1, 1]
    with pytest.raises(SettingsError, match=r"no class 'bog' to filter by\. Choose one of big, small"):
        panel.model.set_conditions("class = bog")
    assert panel.model.conditions_text == "class = big"


def first_counted(
    viewer: ViewerModel, result_of: Callable[..., Any], squares: tuple[Any, Any]
) -> tuple[Any, Any]:
    """Return a layer of the squares, and a result with each of them."""
    pixels, labels = squares
    layer = viewer.add_image(pixels, name="first")
    return layer, result_of(Image(pixels, "YX", name="first"), labels.astype(np.int32))


def test_corrected_cells_stay_in_the_table_of_a_session_beside_a_new_count(
    viewer: ViewerModel, result_of: Callable[..., Any], squares: tuple[Any, Any]
) -> None:
    labels = squares[1]
    layer, count = first_counted(viewer, result_of, squares)
    corrected = place(viewer, prepare_layers(count, source_of(layer)))["Labels"]
    corrected.data_setitem(np.nonzero(labels == 1), 0)
    later = replace(count.provenance, seconds=count.provenance.seconds + 1)
    place(viewer, prepare_layers(replace(count, provenance=later), source_of(layer)))
    rows = session_table(viewer)[["layer", "corrected", "count"]].to_numpy().tolist()
    assert sorted(rows) == [["first labels", True, 3], ["first labels [1]", False, 4]]


def test_classes_of_a_session_have_their_order_and_none_is_left_out(
    viewer: ViewerModel, result_of: Callable[..., Any], squares: tuple[Any, Any]
) -> None:
    layer, found = first_counted(viewer, result_of, squares)
    cells = replace(found.cells, classes=np.array([2, 2, 0, -1], np.int16))
    provenance = found.provenance.noting(classes=["red", "green", "blue"])
    counted = replace(found, cells=cells, provenance=provenance)
    place(viewer, prepare_layers(counted, source_of(layer)))
    row = session_table(viewer).iloc[0]
    assert row[-3:].to_dict() == {"class_red": 1, "class_green": 0, "class_blue": 2}
    assert list(row.index[-3:]) == ["class_red", "class_green", "class_blue"]
    assert list(groups_of(analyse(counted, Image(squares[0], "YX")))["Class"]) == ["red", "blue", "none"]


def test_points_that_were_coloured_by_group_are_coloured_by_class_again(
    viewer: ViewerModel,
    qtbot: QtBot,
    read: Callable[[ResultsWidget], None],
    result_of: Callable[..., Any],
    squares: tuple[Any, Any],
) -> None:
    image, found = first_counted(viewer, result_of, squares)
    cells = replace(found.cells, classes=np.array([1, 0, 0, 1], np.int16))
    counted = replace(found, cells=cells, provenance=found.provenance.noting(classes=["red", "blue"]))
    layer = place(viewer, prepare_layers(counted, source_of(image), ("Points",)))["Points"]
    own = layer.face_color.copy()  # type: ignore[attr-defined]
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    panel.show_layer(layer)
    read(panel)
    panel.link.colour_by({"all": np.ones(4, bool)})
    layer.add([5.0, 5.0])  # type: ignore[attr-defined]
    read(panel)
    panel.link.colour_by({})
    np.testing.assert_allclose(layer.face_color[:4], own)  # type: ignore[attr-defined]


def test_the_images_of_a_session_have_one_table_and_one_report(
    viewer: ViewerModel,
    qtbot: QtBot,
    read: Callable[[ResultsWidget], None],
    result_of: Callable[..., Any],
    squares: tuple[Any, Any],
    tmp_path: Path,
) -> None:
    pixels, labels = squares
    for name, cells in (("first", labels), ("second", np.where(labels > 2, labels - 2, 0))):
        layer = viewer.add_image(pixels, name=name)
        image = Image(pixels, "YX", name=name)
        place(viewer, prepare_layers(result_of(image, cells.astype(np.int32)), source_of(layer)))
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    panel.show_layer(viewer.layers["first labels"])
    read(panel)
    panel.view.counted_by.setCurrentIndex(panel.view.counted_by.findData("image"))
    totals = panel.counts.table()
    assert totals[["image", "count"]].to_numpy().tolist() == [["first", 4], ["second", 2]]
    panel.export.save_counts(tmp_path / "totals.csv")
    qtbot.waitUntil(lambda: not panel.view.job_bar.is_busy, timeout=30_000)
    assert pd.read_csv(tmp_path / "totals.csv")["count"].tolist() == [4, 2]

    tabs = panel.view.tabs
    tabs.setCurrentIndex([tabs.tabText(at) for at in range(tabs.count())].index("Plots"))
    for kind in ("Scatter", "Over frames", "Boxes"):  # the histogram is open
        panel.view.plot_kind.setCurrentIndex(panel.view.plot_kind.findData(kind))
    panel.export.save_report(tmp_path / "report.html")
    qtbot.waitUntil(lambda: not panel.view.job_bar.is_busy, timeout=30_000)
    text = (tmp_path / "report.html").read_text()
    assert "Images of the session" in text
    assert '<img alt="second with the outlines of the cells"' in text
    for caption in ("Scatter: ", "Over frames", "Boxes: "):
        assert f"<figcaption>{caption}" in text
    assert "●" in text.partition("<figcaption>Boxes: ")[2].partition("</figcaption>")[0]
    assert panel.view.plot_kind.currentData() == "Boxes"


def headings(panel: ResultsWidget) -> list[str]:
    frames = (panel.view.counts_frame, panel.view.markers_frame, panel.view.frame)
    return [
        str(frame.headerData(at, Qt.Orientation.Horizontal))
        for frame in frames
        for at in range(frame.columnCount())
    ]


def test_headings_are_for_people_however_cells_are_counted(movie_panel: ResultsWidget) -> None:
    """No table shows the name of a column, as files have it, for its heading."""
    movie_panel.model.set_marker("ch0", is_on=True, threshold=25)
    box = movie_panel.view.counted_by
    for at in range(box.count()):
        box.setCurrentIndex(at)
        shown = headings(movie_panel)
        assert not [one for one in shown if "_" in one]
        assert not [one for one in shown if one[:1].islower() and len(one) > 1]


@pytest.mark.parametrize(
    ("typed", "means", "left"),
    [
        ("Mean ch0 > 25", "intensity_mean_ch0 > 25", 4),
        ("mean ch0>25 and Score = 1", None, 6),
        ("AREA [px] >= 36", "area_px >= 36", 6),
        ("area >= 36", "area_px >= 36", 6),
        ("Class = big and y < 20", "class = big and y < 20", 2),
        ("edited = yes", "edited = yes", 0),
        ("Edited = No", "edited = No", 6),
        ("Positive ch0 = yes", "positive_ch0 = yes", 4),
        ("edited = maybe", None, 6),
        ("edited > 0.5", "edited > 0.5", 0),
    ],
)
def test_a_filter_takes_what_the_table_shows(
    movie_panel: ResultsWidget, typed: str, means: str | None, left: int
) -> None:
    """Headings stand for their columns, in any case, yes and no for what is ticked; else it is told."""
    movie_panel.model.set_marker("ch0", is_on=True, threshold=25)
    field = movie_panel.view.filter
    field.setText(typed)
    field.editingFinished.emit()
    assert movie_panel.model.n_kept == left
    assert bool(movie_panel.view.message.text()) == (means is None)
    assert field.text() == (means or typed)


@pytest.mark.parametrize("name", ["CD3+ (FITC)", "red, green", "fish and chips", 'say "hi"'])
def test_headings_of_any_signs_are_filtered_by(
    movie_panel: ResultsWidget, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """In quotes; without them where nothing else could be meant."""
    monkeypatch.setattr(ResultsModel, "channel_names", {"ch0": name})
    field, doubled = movie_panel.view.filter, name.replace('"', '""')
    plain = ["Mean CD3+ (FITC) > 25"] if name.startswith("CD3") else []
    for typed in (f'"Mean {doubled}" > 25 and Area > 30', *plain):
        field.setText(typed)
        field.editingFinished.emit()
        assert not movie_panel.view.message.text()
        assert movie_panel.model.conditions[0].column == "intensity_mean_ch0"
    field.setText(f"Mean {name} > 25")
    field.editingFinished.emit()
    assert bool(plain) or "double quotes" in movie_panel.view.message.text()


@pytest.mark.parametrize("wrong", ["nothing > 2", "score >", "edited = maybe"])
def test_what_was_told_of_a_filter_goes_with_it(movie_panel: ResultsWidget, wrong: str) -> None:
    field, message = movie_panel.view.filter, movie_panel.view.message
    for put_right in ("", "area_px >= 36"):
        field.setText(wrong)
        field.editingFinished.emit()
        assert message.text()
        field.setText(put_right)
        field.editingFinished.emit()
        assert not message.text()
        movie_panel.model.set_conditions("")


@pytest.mark.parametrize(
    ("typed", "means", "left"), [("Area [px] > 50", "area_px > 50", 2), ("circularity > 0.5", "", 4)]
)
def test_a_filter_that_is_typed_before_cells_are_measured_is_taken_then(
    viewer: ViewerModel,
    qtbot: QtBot,
    squares: tuple[Any, Any],
    read: Callable[[ResultsWidget], None],
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    means: str,
    left: int,
) -> None:
    """By its heading, too; what is not measured is told."""
    for add, pixels in zip((viewer.add_image, viewer.add_labels), squares, strict=True):
        add(pixels)
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    with monkeypatch.context() as held:
        held.setattr(panel.measurer, "begin", lambda: None)  # no machine is too quick
        qtbot.waitUntil(lambda: panel.is_filled)
    assert panel.model.table is None
    panel.view.filter.setText(typed)
    panel.view.filter.editingFinished.emit()
    panel.measurer.begin()
    read(panel)
    assert (panel.view.filter.text(), panel.model.n_kept) == (means, left)
    told = panel.view.message.text()
    assert told == ("" if means else "Not measured here, and left out: circularity>0.5.")
