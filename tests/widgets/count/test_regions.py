"""Cells are counted inside the shapes that were drawn, not in the boxes around them."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from napari.components import ViewerModel
from napari.layers import Layer
from pytestqt.qtbot import QtBot

from cellwright.ops.measure.regions import RegionSet, shape_region
from cellwright.widgets.count.point_prompt import NOT_COUNTED, STAYS
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.results.widget import ResultsWidget
from cellwright.widgets.shared.cells import followers
from cellwright.widgets.shared.cells.snapshot import session_table

TRIANGLE = np.array([[0.0, 0.0], [150.0, 0.0], [150.0, 150.0]])
TILTED = np.array([[20.0, 60.0], [60.0, 100.0], [100.0, 60.0], [60.0, 20.0]])
SHAPES: list[list[tuple[str, np.ndarray]]] = [
    [("polygon", TRIANGLE)],
    [("path", TRIANGLE)],
    [("rectangle", TILTED)],
    [("ellipse", TILTED)],
    [("polygon", TRIANGLE), ("ellipse", TILTED)],
]


@pytest.mark.parametrize("drawn", SHAPES)
def test_cells_are_counted_inside_the_shapes(
    viewer: ViewerModel,
    widget: CountWidget,
    blobs: Any,
    settled: Callable[[CountWidget], None],
    drawn: list[tuple[str, np.ndarray]],
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    shapes = viewer.add_shapes()
    for kind, corners in drawn:
        shapes.add(corners, shape_type=kind)
    widget.panel.region.setCurrentIndex(widget.panel.region.findData("drawn"))
    widget.panel.count.click()
    settled(widget)
    assert widget.counted is not None
    cells = widget.counted.result.cells
    middles = cells.points + np.asarray(widget.counted.result.offset)
    regions = [shape_region("one", kind, corners) for kind, corners in drawn]
    assert np.any([one.contains(middles) for one in regions], axis=0).all()
    assert 0 < len(cells) < len(blobs)
    assert widget.panel.number.text() == str(len(cells))
    assert viewer.layers["blobs labels"].data.max() == len(cells)
    assert len(np.unique(viewer.layers["blobs labels"].data)) == len(cells) + 1
    widget.panel.filters.container["min_area_px"].value = 5
    settled(widget)
    assert widget.panel.number.text() == str(len(cells))


def test_cells_at_the_edge_are_found_whole_and_kept_by_the_rule(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Callable[[CountWidget], None]
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    box = np.array([[30.0, 30.0], [30.0, 110.0], [110.0, 110.0], [110.0, 30.0]])
    viewer.add_shapes([box], shape_type="rectangle")
    widget.panel.region.setCurrentIndex(widget.panel.region.findData("drawn"))
    inside = np.zeros(blobs.labels.shape, bool)
    inside[30:110, 30:110] = True
    areas = np.bincount(blobs.labels.ravel())[1:]
    shares = np.bincount(blobs.labels[inside], minlength=len(areas) + 1)[1:]
    middles = np.array([np.argwhere(blobs.labels == one).mean(axis=0) for one in range(1, len(areas) + 1)])
    truth = {
        "centre": int(((middles >= 30) & (middles < 110)).all(axis=1).sum()),
        "overlap": int((shares > 0).sum()),
        "whole": int((shares == areas).sum()),
    }
    for rule, n_cells in truth.items():
        widget.panel.rule.setCurrentIndex(widget.panel.rule.findData(rule))
        widget.panel.count.click()
        settled(widget)
        assert (rule, widget.panel.number.text()) == (rule, str(n_cells))


def test_shapes_drawn_in_one_frame_are_offered_for_all(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Callable[[CountWidget], None]
) -> None:
    movie = viewer.add_image(np.stack([blobs.image, blobs.image]), name="movie", axis_labels=("t", "y", "x"))
    viewer.add_shapes([np.column_stack([np.zeros(3), TRIANGLE])], shape_type="polygon")
    widget.panel.region.setCurrentIndex(widget.panel.region.findData("drawn"))
    widget.panel.count.click()
    settled(widget)
    alone = int(widget.panel.number.text())
    assert not widget.panel.everywhere.isHidden()
    widget.panel.everywhere.click()
    settled(widget)
    assert widget.panel.everywhere.isHidden()
    assert int(widget.panel.number.text()) == 2 * alone > 0
    assert widget.panel.line.text().startswith(f"{2 * alone} cells in 2 frames")
    assert widget.choices.layer is movie


def test_what_is_left_out_in_one_frame_is_offered_for_all(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Callable[[CountWidget], None]
) -> None:
    viewer.add_image(np.stack([blobs.image, blobs.image]), axis_labels=("t", "y", "x"))
    dirt = viewer.add_shapes([np.column_stack([np.zeros(3), TRIANGLE])], shape_type="polygon", name="dirt")
    counts = []
    for left_out in (None, dirt):
        assert widget.panel.out_everywhere.isHidden()
        widget.panel.exclude.choose(left_out)
        widget.panel.count.click()
        settled(widget)
        counts.append(int(widget.panel.number.text()))
    assert widget.panel.out_everywhere.text() == "Left out in frame 0 alone: leave out in all frames"
    assert widget.panel.everywhere.isHidden()
    widget.panel.out_everywhere.click()
    settled(widget)
    assert widget.panel.exclude.layer is viewer.layers["dirt, everywhere"]
    assert widget.panel.out_everywhere.isHidden()
    whole, in_one, in_all = (*counts, int(widget.panel.number.text()))
    assert whole - in_all == 2 * (whole - in_one) > 0


@pytest.fixture
def in_tilted(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Callable[[CountWidget], None]
) -> CountWidget:
    """A panel that has counted in a tilted square within the image."""
    viewer.add_image(blobs.image, name="blobs")
    viewer.add_shapes([TILTED], shape_type="rectangle")
    widget.panel.region.setCurrentIndex(widget.panel.region.findData("drawn"))
    widget.panel.count.click()
    settled(widget)
    return widget


def test_no_cell_outside_the_regions_is_added_by_click(
    in_tilted: CountWidget, viewer: ViewerModel, blobs: Any, settled: Callable[[CountWidget], None]
) -> None:
    """Neither within the box around the regions nor beyond it, nor beyond the image; within, as ever."""
    counted = in_tilted.counted
    assert counted is not None
    before, labels = in_tilted.panel.number.text(), viewer.layers["blobs labels"]
    found = counted.result.cells.points + np.asarray(counted.result.offset)
    is_inside = shape_region("one", "rectangle", TILTED).contains(blobs.points)
    in_box = ((blobs.points > 25) & (blobs.points < 95)).all(axis=1)
    beyond = (blobs.points > 105).all(axis=1)
    in_tilted.panel.ask.setChecked(True)
    settled(in_tilted)
    places = (blobs.points[in_box & ~is_inside][0], blobs.points[beyond][0], np.array([-3.0, 5.0]))
    for place in places:
        in_tilted.ask.ask(place)
        in_tilted.ask.keep()
        settled(in_tilted)
        assert in_tilted.panel.message.text() == NOT_COUNTED
        assert in_tilted.panel.number.text() == before == str(len(np.unique(labels.data)) - 1)
    in_tilted.ask.ask(found[0])
    settled(in_tilted)
    assert "already" in in_tilted.panel.message.text()


def test_a_prompt_that_gives_no_cell_leaves_what_was_prompted_for(
    in_tilted: CountWidget, blobs: Any, settled: Callable[[CountWidget], None]
) -> None:
    """Outside of the regions, and where the model sees none: the cell before is still there to be kept."""
    ask, message = in_tilted.ask, in_tilted.panel.message
    is_inside = shape_region("one", "rectangle", TILTED).contains(blobs.points)
    in_box = ((blobs.points > 28) & (blobs.points < 92)).all(axis=1)
    in_tilted.panel.ask.setChecked(True)
    settled(in_tilted)
    inside, outside = blobs.points[is_inside][0], blobs.points[in_box & ~is_inside][0]
    ask.box(inside - 8, inside + 8)
    settled(in_tilted)
    prompts, cell = ask.draft.prompts, ask.draft.cell
    assert cell is not None
    n_marks = len(ask.draft._marks.data)
    for place, why in ((outside, NOT_COUNTED), (inside, "The model sees no cell in this box.")):
        size = 8 if why == NOT_COUNTED else 1
        shift = 0 if why == NOT_COUNTED else 10  # between the cells
        ask.box(place - size + shift, place + size + shift)
        settled(in_tilted)
        assert message.text() == f"{why} {STAYS}"
        assert (ask.draft.prompts, ask.draft.cell) == (prompts, cell)
        assert len(ask.draft._marks.data) == n_marks
    ask.undo()
    settled(in_tilted)
    assert (ask.draft.prompts, ask.draft.cell) == (None, None)
    ask.box(outside - 8, outside + 8)
    settled(in_tilted)
    assert message.text() == NOT_COUNTED
    assert ask.draft.prompts is None


def test_what_is_painted_outside_the_regions_is_told_and_does_not_count(
    in_tilted: CountWidget, viewer: ViewerModel, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number, *Results* and the saved table agree, and the cell that was painted stays."""
    monkeypatch.setattr(followers, "READ_MS", 0)
    labels, before = viewer.layers["blobs labels"], in_tilted.panel.number.text()
    labels.data_setitem((np.array([1, 1, 2, 2]), np.array([1, 2, 1, 2])), 999)  # a corner of the box around
    line = in_tilted.panel.line
    qtbot.waitUntil(lambda: "1 by hand · 1 outside the regions" in line.text(), timeout=60_000)
    assert in_tilted.panel.number.text() == before
    assert (labels.data == 999).sum() == 4
    assert session_table(viewer)["count"].tolist() == [int(before)]
    results = ResultsWidget(viewer)
    qtbot.addWidget(results)
    qtbot.waitUntil(lambda: results.view.number.text() == before, timeout=60_000)
    in_tilted.save.start(tmp_path / "cells.csv")
    qtbot.waitUntil(lambda: in_tilted.save.job is None, timeout=60_000)
    assert str(len(pd.read_csv(tmp_path / "cells.csv"))) == before
    labels.undo()
    qtbot.waitUntil(lambda: "outside" not in line.text(), timeout=60_000)
    assert in_tilted.panel.number.text() == before


def test_the_regions_of_all_cells_are_worked_out_beside_the_viewer(
    in_tilted: CountWidget, viewer: ViewerModel, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 100,000 cells it takes more than half a second after each edit."""
    monkeypatch.setattr(followers, "READ_MS", 0)
    membership, threads = RegionSet.membership, []

    def noted(*args: Any) -> Any:
        threads.append(threading.current_thread())
        return membership(*args)

    monkeypatch.setattr(RegionSet, "membership", noted)
    labels, before = viewer.layers["blobs labels"], int(in_tilted.panel.number.text())
    labels.data_setitem(np.nonzero(labels.data == 1), 0)
    at_rest(in_tilted, qtbot, before - 1, "")
    qtbot.waitUntil(lambda: "regions" in labels.features, timeout=60_000)
    assert threads
    assert threading.main_thread() not in threads


def at_rest(widget: CountWidget, qtbot: QtBot, number: int, line: str) -> None:
    """Wait until the panel tells this number of cells, and this beside it."""
    text = widget.panel.line.text
    qtbot.waitUntil(lambda: widget.panel.number.text() == str(number) and line in text(), timeout=60_000)


def test_cells_that_reach_into_the_regions_go_on_to_count_where_one_is_edited(
    viewer: ViewerModel,
    in_tilted: CountWidget,
    settled: Callable[[CountWidget], None],
    qtbot: QtBot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rule of the count holds, in the number and in the table."""
    monkeypatch.setattr(followers, "READ_MS", 0)
    with_centre = int(in_tilted.panel.number.text())
    in_tilted.panel.rule.setCurrentIndex(in_tilted.panel.rule.findData("overlap"))
    in_tilted.panel.count.click()
    settled(in_tilted)
    before, labels = int(in_tilted.panel.number.text()), viewer.layers["blobs labels"]
    assert before > with_centre
    labels.data_setitem(np.nonzero(labels.data == 1), 0)
    at_rest(in_tilted, qtbot, before - 1, "")
    assert "outside" not in in_tilted.panel.line.text()
    in_tilted.save.start(tmp_path / "cells.csv")
    qtbot.waitUntil(lambda: in_tilted.save.job is None, timeout=60_000)
    assert len(pd.read_csv(tmp_path / "cells.csv")) == before - 1


@pytest.mark.parametrize("is_cut_out", [True, False])
def test_regions_of_another_panel_and_what_is_cut_out(
    viewer: ViewerModel,
    widget: CountWidget,
    blobs: Any,
    settled: Callable[[CountWidget], None],
    qtbot: QtBot,
    monkeypatch: pytest.MonkeyPatch,
    is_cut_out: bool,
) -> None:
    """Regions of *Results* change no number of *Count cells*; what is painted in a cut-out does not count."""
    monkeypatch.setattr(followers, "READ_MS", 0)
    viewer.add_image(blobs.image, name="blobs")
    shapes = viewer.add_shapes([TILTED], shape_type="rectangle")
    if is_cut_out:
        widget.panel.exclude.choose(shapes)
    widget.panel.count.click()
    settled(widget)
    before, labels = int(widget.panel.number.text()), viewer.layers["blobs labels"]
    assert (before < len(blobs)) == is_cut_out
    if is_cut_out:
        labels.data_setitem((np.array([60, 60, 61, 61]), np.array([60, 61, 60, 61])), 999)
        at_rest(widget, qtbot, before, "1 by hand · 1 outside the regions")
        return
    results = ResultsWidget(viewer)
    qtbot.addWidget(results)
    qtbot.waitUntil(lambda: results.view.number.text() == str(before), timeout=60_000)
    results.view.regions.choose(shapes)
    results.view.regions.chosen.emit()
    qtbot.waitUntil(lambda: results.view.number.text() not in ("", str(before)), timeout=60_000)
    labels.data_setitem(np.nonzero(labels.data == 1), 0)
    at_rest(widget, qtbot, before - 1, "")
    assert "outside" not in widget.panel.line.text()


PAINTED = (np.array([150, 150, 151, 151]), np.array([5, 6, 5, 6]))
AROUND = np.array([[130.0, -0.5], [130.0, 60.0], [159.5, 60.0], [159.5, -0.5]])
KINDS = ["cut out", "inside a mask", "outside a mask", "drawn and a mask"]


@pytest.fixture
def counted_beside(
    viewer: ViewerModel,
    widget: CountWidget,
    blobs: Any,
    settled: Callable[[CountWidget], None],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str, str], Layer]:
    """Function (kind, output) -> the cells of a count that leaves a corner out."""
    monkeypatch.setattr(followers, "READ_MS", 0)
    viewer.add_image(blobs.image, name="blobs")
    panel, mask = widget.panel, np.ones(blobs.labels.shape, int)
    mask[120:, :70] = 0

    def count(kind: str, output: str) -> Layer:
        if kind == "cut out":
            panel.exclude.choose(viewer.add_shapes([AROUND], shape_type="rectangle"))
        else:
            is_outside = kind == "outside a mask"
            panel.mask_layer.choose(viewer.add_labels(1 - mask if is_outside else mask, name="tissue"))
            panel.mask_side.setCurrentIndex(panel.mask_side.place_of(is_outside))
        if kind == "drawn and a mask":
            whole = np.array([[0, 0], [0, 190], [159, 190], [159, 0]])
            viewer.add_shapes([whole], shape_type="rectangle")
            panel.region.setCurrentIndex(panel.region.findData("drawn"))
        for one, box in panel.outputs.items():
            box.setChecked(one == output)
        panel.count.click()
        settled(widget)
        return next(layer for layer in viewer.layers if layer.metadata.get("cellwright"))

    return count


@pytest.mark.parametrize("output", ["Labels", "Points"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_added_where_nothing_counts_is_told_everywhere(
    viewer: ViewerModel,
    widget: CountWidget,
    counted_beside: Callable[[str, str], Layer],
    qtbot: QtBot,
    tmp_path: Path,
    kind: str,
    output: str,
) -> None:
    """Numbers, tables and the report agree on what lies outside, also where no region is drawn."""
    cells = counted_beside(kind, output)
    before = int(widget.panel.number.text())
    if output == "Labels":
        cells.data_setitem(PAINTED, 999)
    else:
        cells.add([150.0, 5.0])
    at_rest(widget, qtbot, before, "1 by hand · 1 outside the regions")
    assert session_table(viewer)["count"].tolist() == [before]
    results = ResultsWidget(viewer)
    qtbot.addWidget(results)
    qtbot.waitUntil(lambda: results.view.number.text() == str(before), timeout=60_000)
    assert "1 outside the regions" in results.view.line.text()
    widget.save.start(tmp_path / "cells.csv")
    qtbot.waitUntil(lambda: widget.save.job is None, timeout=60_000)
    assert len(pd.read_csv(tmp_path / "cells.csv")) == before
    for save, name in ((results.export.save_table, "table.csv"), (results.export.save_report, "report.html")):
        save(tmp_path / name)
        qtbot.waitUntil(lambda: results.export.saving is None, timeout=60_000)
    assert len(pd.read_csv(tmp_path / "table.csv")) == before
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"1 of {before + 1} cells were left out, 1 outside the regions." in report


@pytest.mark.parametrize("output", ["Points", "Shapes"])
@pytest.mark.parametrize("kind", KINDS)
def test_points_and_boxes_by_hand_have_the_regions_that_they_lie_in(
    counted_beside: Callable[[str, str], Layer], kind: str, output: str
) -> None:
    """Not those of the last one, which napari gives them; moved ones those of their new place."""
    cells = counted_beside(kind, output)
    n, name = len(cells.data), cells.features["regions"].iloc[0]
    assert (cells.features["regions"] == name).all()
    for place in ([150.0, 5.0], [5.0, 100.0]):
        cells.add(place if output == "Points" else [np.add(place, one) for one in ([-2, -2], [2, 2])])
    assert cells.features["regions"].tolist()[n:] == ["", name]
    data = list(cells.data)
    data[-1] = data[-1] + [145.0, -95.0]
    cells.data = data
    assert cells.features["regions"].tolist() == [name] * n + ["", ""]


@pytest.mark.parametrize("rule", ["overlap", "whole"])
def test_points_counted_by_their_outlines_are_told_of_once_some_are_edited(
    viewer: ViewerModel,
    widget: CountWidget,
    counted_beside: Callable[[str, str], Layer],
    qtbot: QtBot,
    rule: str,
) -> None:
    """Those of the count lie where their outlines do, those by hand where they are."""
    widget.panel.rule.choose_data(rule)
    cells = counted_beside("drawn and a mask", "Points")
    before = int(widget.panel.number.text())
    cells.add([5.0, 100.0])
    cells.add([150.0, 5.0])
    at_rest(widget, qtbot, before + 1, "2 by hand · 1 outside the regions")
    results = ResultsWidget(viewer)
    qtbot.addWidget(results)
    qtbot.waitUntil(lambda: results.view.number.text() == str(before + 1), timeout=60_000)
    assert "1 outside the regions" in results.view.line.text()
    results.view.rule.choose_data("whole" if rule == "overlap" else "overlap")
    qtbot.waitUntil(lambda: "needs outlines" in results.view.message.text(), timeout=60_000)


@pytest.mark.parametrize("output", ["Points", "Shapes"])
def test_points_and_boxes_counted_by_their_outlines_are_saved_once_some_are_edited(
    widget: CountWidget,
    counted_beside: Callable[[str, str], Layer],
    qtbot: QtBot,
    output: str,
    tmp_path: Path,
) -> None:
    widget.panel.rule.choose_data("overlap")
    cells, before = counted_beside("drawn and a mask", output), int(widget.panel.number.text())
    for place in ([5.0, 100.0], [150.0, 5.0]):
        cells.add(place if output == "Points" else [np.add(place, one) for one in ([-2, -2], [2, 2])])
    at_rest(widget, qtbot, before + 1, "2 by hand · 1 outside the regions")
    widget.save.start(tmp_path / "cells.csv")
    qtbot.waitUntil(lambda: widget.save.job is None, timeout=60_000)
    assert len(pd.read_csv(tmp_path / "cells.csv")) == before + 1


@pytest.mark.parametrize("output", ["Points", "Shapes"])
def test_a_first_cell_by_hand_has_its_regions_where_none_was_counted(
    viewer: ViewerModel,
    widget: CountWidget,
    counted_beside: Callable[[str, str], Layer],
    settled: Callable[[CountWidget], None],
    output: str,
) -> None:
    counted_beside("drawn and a mask", output)
    viewer.layers["blobs"].data = viewer.layers["blobs"].data * 0
    widget.panel.count.click()
    settled(widget)
    (cells,) = [layer for layer in viewer.layers if layer.metadata.get("cellwright")]
    assert not len(cells.data)
    for place in ([5.0, 100.0], [150.0, 5.0]):
        cells.add(place if output == "Points" else [np.add(place, one) for one in ([-2, -2], [2, 2])])
    assert cells.features["regions"].tolist() == ["region 1", ""]
