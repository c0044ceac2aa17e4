"""What can be annotated: the boxes at the top of the panel follow the layers of the viewer."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Layer
from pytestqt.qtbot import QtBot

from cellwright.core.errors import AnnotationError
from cellwright.core.tasks import run
from cellwright.inference import pipeline
from cellwright.ops.measure.regions import ShapeRegion
from cellwright.widgets.annotate.context import context_of
from cellwright.widgets.annotate.proofread import read_task
from cellwright.widgets.annotate.session_setup import start_session
from cellwright.widgets.annotate.widget import AnnotateWidget
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.shared.coordinates import channels_of
from cellwright.widgets.shared.edited_layers import METADATA
from cellwright.widgets.shared.layer_dataset import Pair, pairs
from cellwright.widgets.shared.layer_io import place, prepare_layers, source_of
from cellwright.widgets.shared.messages import tell_results

PLANE = np.zeros((8, 9), np.int32)


@pytest.fixture
def widget(annotate_widget: AnnotateWidget) -> AnnotateWidget:
    return annotate_widget


def test_the_active_image_and_the_labels_counted_in_it_are_chosen(widget: AnnotateWidget) -> None:
    layers = widget.viewer.layers
    image = widget.viewer.add_image(PLANE, name="a")
    counted = widget.viewer.add_labels(PLANE, metadata={METADATA: {"source": str(image.unique_id)}})
    widget.viewer.add_labels(PLANE, name="other")
    layers.selection.active = image
    widget.choices.refresh()
    widget.panel.start.setCurrentIndex(-1)  # as if nothing was chosen yet
    widget.choices.refresh()
    assert (widget.panel.image.layer, widget.panel.start.layer) == (image, counted)
    other = widget.viewer.add_image(PLANE, name="b")
    assert widget.panel.image.layer is other
    layers.remove(other)
    assert widget.panel.image.layer is image


def cells_of(widget: AnnotateWidget, image: Any, **arguments: Any) -> Any:
    own = {METADATA: {"source": str(image.unique_id)}}
    return widget.viewer.add_labels(PLANE + 1, name=f"{image.name} labels", metadata=own, **arguments)


def test_another_image_comes_with_its_own_cells(widget: AnnotateWidget) -> None:
    viewer, panel = widget.viewer, widget.panel
    first, second, third = (viewer.add_image(PLANE, name=name) for name in "abc")
    cells = [cells_of(widget, image) for image in (first, second)]
    for image, own in ((first, cells[0]), (second, cells[1]), (third, None), (first, cells[0])):
        panel.image.setCurrentText(image.name)
        assert (panel.image.layer, panel.start.layer) == (image, own)
    drawn = viewer.add_labels(PLANE, name="drawn")  # of no image: it may be of any
    for image in (third, first):
        panel.start.choose(drawn)
        panel.image.setCurrentText(image.name)
        assert panel.start.layer is drawn


def test_active_cells_come_with_their_image(widget: AnnotateWidget) -> None:
    viewer, panel = widget.viewer, widget.panel
    images = [viewer.add_image(PLANE, name=name) for name in "ab"]
    cells = [cells_of(widget, image) for image in images]
    for image, own in zip((*images, *images), (*cells, *cells), strict=True):
        viewer.layers.selection.active = own
        assert (panel.image.layer, panel.start.layer) == (image, own)
    panel.begin.click()
    viewer.layers.selection.active = cells[0]
    assert panel.image.layer is images[1]  # an annotation that is open keeps its image


def test_cells_of_another_image_stay_its_own(widget: AnnotateWidget) -> None:
    viewer, panel = widget.viewer, widget.panel
    first, second = (viewer.add_image(PLANE, name=name) for name in "ab")
    cells = cells_of(widget, first)
    before = dict(cells.metadata[METADATA])
    panel.image.choose(second)
    panel.start.choose(cells)  # on purpose
    panel.begin.click()
    session = widget.model.session
    assert session is not None
    shown = widget.model.context.layer.layer
    assert (shown is not cells, shown.name) == (True, "b annotation")
    session.delete(1)
    assert (shown.data.max(), cells.data.max()) == (0, 1)
    assert cells.metadata[METADATA] == before
    assert [(pair.image, pair.annotation) for pair in pairs(viewer.layers)] == [
        (second, shown),
        (first, cells),
    ]


def test_what_was_counted_is_begun_with_until_another_layer_is_chosen(
    widget: AnnotateWidget, qtbot: QtBot, result_of: Callable[..., Any]
) -> None:
    viewer = widget.viewer
    counted, active = (viewer.add_image(PLANE + 1, name=name) for name in ("DAPI", "GFP"))

    def count() -> Layer:
        source = source_of(counted)
        result = result_of(source.image, PLANE + 1)
        (cells,) = place(viewer, prepare_layers(result, source)).values()
        tell_results(viewer, result, cells)
        return cells

    cells = count()
    assert viewer.layers.selection.active is active
    count_panel, later = CountWidget(viewer), AnnotateWidget(viewer)  # those opened after the count, too
    for one in (count_panel, later):
        qtbot.addWidget(one)
    for panel in (widget.panel, later.panel):
        assert (panel.image.layer, panel.start.layer) == (counted, cells)
    assert count_panel.panel.image.layer is counted
    viewer.layers.selection.active = cells
    viewer.layers.selection.active = active  # on purpose
    latest = AnnotateWidget(viewer)
    qtbot.addWidget(latest)
    for panel in (widget.panel, later.panel, latest.panel):
        assert (panel.image.layer, panel.start.layer) == (active, None)
    widget.panel.begin.click()
    count()
    assert (widget.panel.image.layer, later.panel.image.layer) == (active, counted)


@pytest.mark.parametrize("several", [False, True])
def test_cells_bring_the_channel_they_were_counted_in(
    widget: AnnotateWidget, qtbot: QtBot, result_of: Callable[..., Any], several: bool
) -> None:
    viewer, panel = widget.viewer, widget.panel
    data = np.zeros((3, 40, 50), np.uint8)
    data[:, 5:15, 5:15], data[:, 20:30, 20:30] = 90, 80
    image = viewer.add_image(data, name="three", axis_labels=("c", "y", "x"))
    channel = channels_of(image)[2]
    source = source_of(image, channel)
    labels = np.zeros((40, 50), np.int32)
    labels[5:15, 5:15], labels[20:30, 20:30] = 1, 2
    result = result_of(source.image, labels)
    engine = {"channel": 2, "channels": ("0", "2") if several else ()}
    told = result.provenance.noting(engine=engine)
    (cells,) = place(viewer, prepare_layers(replace(result, provenance=told), source)).values()
    assert panel.start.layer is cells
    expected = 0 if several else 2
    assert panel.channel.channel.index == expected
    panel.begin.click()
    widget.model.session.delete(1)
    assert widget.model.channel_index == expected
    assert cells.metadata[METADATA]["channel"] == expected
    viewer.layers.remove(cells)  # as a crash would
    panel.channel.choose_number(1)
    widget.show()
    qtbot.waitUntil(lambda: not panel.offer.isHidden(), timeout=60_000)
    panel.resume.click()
    assert widget.model.channel_index == expected
    assert panel.channel.channel.index == expected


def test_what_was_drawn_in_each_channel_is_resumed_in_it(widget: AnnotateWidget, qtbot: QtBot) -> None:
    viewer, panel = widget.viewer, widget.panel
    image = viewer.add_image(np.zeros((3, 40, 50), np.uint8), name="three", axis_labels=("c", "y", "x"))
    for number in (0, 1):
        panel.image.choose(image)
        panel.start.choose(None)
        panel.channel.choose_number(number)
        panel.begin.click()
        widget.model.session.add(np.ones((4, 4), bool), (10 * number, 5))
        panel.begin.click()  # Finish
    for layer in viewer.layers[1:]:
        viewer.layers.remove(layer)  # as a crash would
    widget.show()
    for chosen, number in ((0, 0), (1, 1), (2, 1)):  # in the last nothing was drawn
        panel.channel.choose_number(chosen)
        panel.channel.activated.emit(panel.channel.currentIndex())
        qtbot.waitUntil(lambda: not panel.offer.isHidden(), timeout=60_000)
        assert ("channel 1 of this image" in panel.offer_line.text()) == (chosen == 2)
        panel.resume.click()
        assert np.argwhere(widget.model.session.labels).min(axis=0).tolist() == [10 * number, 5]
        assert widget.model.channel_index == panel.channel.channel.index == number
        panel.begin.click()


def test_colours_that_are_annotated_together_are_no_single_one(
    widget: AnnotateWidget, result_of: Callable[..., Any]
) -> None:
    image = widget.viewer.add_image(np.full((40, 50, 3), 90, np.uint8), name="smear")
    source = source_of(image, channels_of(image)[1])
    result = result_of(source.image, np.ones((40, 50), np.int32))
    told = result.provenance.noting(engine={"channel": 0})
    (cells,) = place(widget.viewer, prepare_layers(replace(result, provenance=told), source)).values()
    assert widget.panel.channel.channel.index == 0
    widget.panel.channel.setCurrentIndex(0)  # All colours
    widget.panel.begin.click()
    assert widget.model.channel_index is None
    assert Pair(image, cells).channel is None


def test_an_active_annotation_is_begun_with(widget: AnnotateWidget) -> None:
    widget.viewer.add_image(PLANE)
    first = widget.viewer.add_labels(PLANE)
    points = widget.viewer.add_points(np.zeros((1, 2)))
    assert widget.panel.start.layer is points
    widget.viewer.layers.selection.active = first
    assert widget.panel.start.layer is first
    widget.panel.start.setCurrentIndex(0)
    assert widget.panel.start.layer is None


def test_channels_are_those_of_the_image(widget: AnnotateWidget) -> None:
    assert widget.panel.channel.channel is None
    widget.viewer.add_image(np.zeros((2, 8, 9)))
    assert (widget.panel.channel.channel.title, widget.panel.channel.count()) == ("Channel 0", 3)
    widget.viewer.add_image(PLANE)
    assert widget.panel.channel.channel.title == "Grey"


def test_nothing_is_offered_of_an_image_that_cannot_be_annotated(widget: AnnotateWidget) -> None:
    widget.viewer.add_image(np.zeros((2, 2, 2, 2, 8, 9)))
    widget.choices.offer()
    assert widget.choices.offered is None
    assert widget.panel.offer.isHidden()


def test_a_shape_is_drawn_in_the_box_around_it(
    widget: AnnotateWidget, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    part = ShapeRegion.part

    def watched(region: ShapeRegion, *args: Any) -> Any:
        window, inside = part(region, *args)
        seen.append(inside.shape)
        return window, inside

    monkeypatch.setattr(ShapeRegion, "part", watched)
    image = widget.viewer.add_image(np.zeros((200, 300), np.float32))
    square = np.array([[97, 98], [97, 107], [106, 107], [106, 98]], float)
    shapes = widget.viewer.add_shapes([square], name="drawn")
    session = start_session(image, None, shapes, journal=None).session
    assert np.argwhere(session.labels).min(axis=0).tolist() == [97, 98]
    assert max(seen) <= (12, 12)


def test_names_of_classes_that_no_cell_has_yet_are_there_when_an_annotation_begins_again(
    viewer: ViewerModel,
) -> None:
    image, layer = viewer.add_image(np.zeros((9, 9))), viewer.add_labels(np.eye(9, dtype=int))
    opened = start_session(image, None, layer, journal=None)
    context_of(viewer, opened, print)
    opened.session.set_class_names(["a", "b"])
    assert start_session(image, None, layer, journal=None).session.metadata.class_names == ("a", "b")


def test_shapes_that_are_cells_keep_scores_and_classes_beside_those_that_are_cut_out(
    viewer: ViewerModel,
) -> None:
    image = viewer.add_image(np.zeros((30, 60), np.float32))
    squares = [np.array([[2, x], [2, x + 9], [11, x + 9], [11, x]], float) for x in (5, 2, 20, 40)]
    features = {
        "name": ["", "exclude a fold", "", ""],
        "class": ["late", "fold", "", "early"],
        "score": [0.5, 0.1, 0.75, 1.0],
    }
    shapes = viewer.add_shapes(squares, shape_type="polygon", features=features)
    session = start_session(image, None, shapes, journal=None).session
    cells = [session.store.cell(number) for number in session.store.numbers()]
    names = [None if cell.category is None else session.metadata.class_names[cell.category] for cell in cells]
    assert names == ["late", None, "early"]
    assert [cell.score for cell in cells] == [0.5, 0.75, 1.0]


def test_shapes_begin_an_annotation(widget: AnnotateWidget) -> None:
    image = widget.viewer.add_image(np.zeros((3, 20, 24), np.float32), axis_labels="zyx", scale=(1, 2, 2))
    shapes = widget.viewer.add_shapes(name="drawn", ndim=3, scale=(1, 2, 2))
    shapes.add_rectangles(np.array([[1, 2, 2], [1, 2, 7], [1, 7, 7], [1, 7, 2]], float))
    shapes.add_ellipses(np.array([[2, 8, 8], [2, 8, 18], [2, 16, 18], [2, 16, 8]], float))
    shapes.add_polygons(np.array([[1, 4, 4], [1, 4, 12], [1, 12, 4]], float))
    assert widget.panel.start.layer is None  # drawn shapes are mostly regions to count in
    widget.panel.start.choose(shapes)
    widget.panel.begin.click()
    session = widget.model.session
    assert session is not None, widget.panel.message.text()
    labels = session.labels
    assert np.array_equal(np.unique(labels[1]), [0, 1, 3])
    assert np.array_equal(np.unique(labels[2]), [0, 2])
    assert not labels[0].any()
    assert (labels[1] == 1).sum() == 25  # the first one has what they share
    assert (labels[2] == 2).sum() == pytest.approx(np.pi * 4 * 5, rel=0.1)
    widget.panel.begin.click()

    shapes.add_rectangles(np.array([[1, 3, 3], [1, 3, 6], [1, 6, 6], [1, 6, 3]], float))
    widget.panel.start.choose(shapes)
    widget.panel.begin.click()
    assert widget.model.session is None  # no cell is lost without a word
    assert "region 4" in widget.panel.message.text()
    assert widget.panel.image.layer is image


def choose(widget: AnnotateWidget, name: str) -> None:
    box = widget.panel.model
    box.setCurrentIndex(box.findData(name))
    box.activated.emit(box.currentIndex())


def test_the_chosen_model_outlines_counts_and_is_taught(
    viewer: ViewerModel, annotate_widget: AnnotateWidget
) -> None:
    box = annotate_widget.panel.model
    names = [box.itemData(place) for place in range(box.count())]
    assert {"flow", "nuclei", "query"} <= set(names)
    assert not {"centroid", "density"} & set(names)  # these outline nothing
    assert annotate_widget.model.chosen == "flow"
    viewer.add_image(np.zeros((20, 20)), name="cells")
    annotate_widget.panel.begin.click()
    adder = annotate_widget.model.context.adder
    assert adder._model() == "query"  # the usual one
    choose(annotate_widget, "nuclei")
    assert annotate_widget.model.chosen == annotate_widget.model.taught == "nuclei"
    assert adder._model() == "nuclei"


def test_a_folder_is_counted_with_the_chosen_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Found(Exception):
        pass

    def count_cells(image: Any, model: str) -> Any:
        asked.append(model)
        raise Found

    monkeypatch.setattr(pipeline, "count_cells", count_cells)
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, np.zeros((20, 20), np.uint8))
    with pytest.raises(Found):
        run(read_task(path, tmp_path, counts=True, model="nuclei"))
    assert asked == ["nuclei"]


@pytest.mark.parametrize("numbers", [(1, 2, 3), (7, 2, 400)])
def test_labels_bring_what_their_features_tell_by_number(
    viewer: ViewerModel, numbers: tuple[int, ...]
) -> None:
    """napari finds the row of a label in a column "index"; a label without a row has no class."""
    image, data = viewer.add_image(np.zeros((20, 20))), np.zeros((20, 20), np.int32)
    for row, number in enumerate((*numbers, 500)):
        data[4 * row, 2:5] = number
    told = {"index": numbers, "class": ["a", "b", "a"], "score": [0.1, 0.2, 0.3]}
    session = start_session(image, None, viewer.add_labels(data, features=told), journal=None).session
    names = [session.metadata.class_names[session.store.cell(number).category or 0] for number in numbers]
    assert names == told["class"]
    assert [session.store.cell(number).score for number in numbers] == pytest.approx(told["score"])
    assert session.store.cell(500).category is None


def test_labels_of_high_numbers_are_annotated_or_refused(viewer: ViewerModel) -> None:
    image, data = viewer.add_image(np.zeros((20, 20))), np.zeros((20, 20), np.int32)
    data[4, 2:5] = high = 2**31 - 2
    plain = viewer.add_labels(data)
    assert start_session(image, None, plain, journal=None).session.store.numbers().tolist() == [high]
    told = viewer.add_labels(data, features={"index": [high], "class": ["a"]})
    with pytest.raises(AnnotationError, match=r"up to 10,000,000; got 2,147,483,646"):
        start_session(image, None, told, journal=None)
