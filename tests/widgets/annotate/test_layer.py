"""The Labels layer of an annotation: what is painted, what is drawn again, what the cursor is at."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from pytestqt.qtbot import QtBot

from cellwright.annotation.label_store import CellMetadata
from cellwright.annotation.session import AnnotationSession
from cellwright.core.data import Image
from cellwright.core.errors import WriteError
from cellwright.widgets.annotate.layer import AnnotationLayer
from cellwright.widgets.shared.layer_factory import (
    OUTLINE_PX,
    class_colour,
    features_by_number,
    write_classes,
)
from cellwright.widgets.shared.napari_private import recolour, redraw_box, stroke_of


def view_of(viewer: ViewerModel, labels: Any, axes: str, **placement: Any) -> AnnotationLayer:
    session = AnnotationSession(Image(np.zeros(labels.shape, np.uint8), axes), labels)
    layer = viewer.add_labels(session.labels, **placement)
    return AnnotationLayer(viewer, layer, session)


def drawn(layer: Labels) -> Any:
    """What the graphics card was given last, and what a full redraw would give it."""
    return layer._slice.image.view, layer._raw_to_displayed(layer._slice.image.raw)


@pytest.fixture
def two(viewer: ViewerModel) -> AnnotationLayer:
    labels = np.zeros((60, 80), np.int32)
    labels[10:20, 10:20] = 1
    labels[10:20, 30:40] = 2
    return view_of(viewer, labels, "YX")


def test_outlines_are_found_quickly_in_a_layer_of_the_user_too(two: AnnotationLayer) -> None:
    assert two.layer.contour == OUTLINE_PX
    quick = vars(two.layer)["_calculate_contour"]
    AnnotationLayer(two.viewer, two.layer, two.session)
    assert vars(two.layer)["_calculate_contour"] is quick


def test_a_stroke_of_the_brush_is_one_edit(two: AnnotationLayer) -> None:
    layer, session = two.layer, two.session
    before = session.labels.copy()
    layer.brush_size = 5
    with layer.block_history():
        layer.paint((40.0, 40.0), 7)
        layer.paint((40.0, 45.0), 7)
        layer.paint((41.0, 47.0), 7)
    assert len(session.history.done) == 1
    assert 7 in session.store
    assert session.store.is_reviewed(7)
    painted_labels = session.labels.copy()
    session.undo()
    np.testing.assert_array_equal(session.labels, before)
    session.redo()
    np.testing.assert_array_equal(session.labels, painted_labels)


def test_erase_fill_and_set_items_are_recorded_too(two: AnnotationLayer) -> None:
    layer, session = two.layer, two.session
    layer.preserve_labels = False
    before = session.labels.copy()
    layer.fill((15, 15), 0)
    layer.fill((12, 32), 9)
    layer.data_setitem((np.array([50, 51]), np.array([3, 70])), [5, 6])
    assert session.store.numbers().tolist() == [5, 6, 9]
    while session.undo():
        pass
    np.testing.assert_array_equal(session.labels, before)


@pytest.mark.parametrize(
    "edit",
    [
        lambda layer: layer.paint((40.0, 40.0), 7),
        lambda layer: layer.fill((15, 15), 0),
        lambda layer: layer.fill((12, 32), 9),
        lambda layer: layer.paint_polygon([(30, 30), (30, 60), (50, 60)], 8),
        lambda layer: layer.data_setitem((np.array([50, 51]), np.array([3, 70])), [5, 6]),
    ],
)
def test_what_the_journal_does_not_take_is_not_painted(
    two: AnnotationLayer, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, edit: Callable[[Labels], None]
) -> None:
    layer, session = two.layer, two.session
    layer.preserve_labels = False
    before, told = session.labels.copy(), []

    def full(_: Any) -> None:
        raise WriteError("The disk is full.")

    two.tell = told.append
    monkeypatch.setattr(session.history, "record", full)
    edit(layer)
    qtbot.waitUntil(lambda: np.array_equal(session.labels, before))
    assert list(map(str, told)) == ["The disk is full."]
    assert not session.history.done
    assert session.store.numbers().tolist() == [1, 2]
    np.testing.assert_array_equal(*drawn(layer))


def test_painted_takes_dabs_that_overlap() -> None:
    labels = np.zeros((9, 9), np.int32)
    start = labels.copy()
    atoms = []
    for rows, columns, number in (([1, 1], [1, 2], 3), ([1, 5], [2, 6], 4)):
        place = (np.array(rows), np.array(columns))
        atoms.append((place, labels[place].copy(), number))
        labels[place] = number
    box, before, after = stroke_of(labels, atoms)
    assert box == (slice(1, 6), slice(1, 7))
    np.testing.assert_array_equal(before, start[box])
    np.testing.assert_array_equal(after, labels[box])


@pytest.mark.parametrize("contour", [0, 2])
def test_only_the_box_is_drawn_again_and_all_of_it(two: AnnotationLayer, contour: int) -> None:
    two.layer.contour = contour
    sent: list[Any] = []
    two.layer.events.labels_update.connect(lambda event: sent.append(np.shape(event.data)))
    two.session.grow(1, 3.0)
    two.session.delete(2)
    seen, expected = drawn(two.layer)
    np.testing.assert_array_equal(seen, expected)
    assert len(sent) == 2
    assert max(max(shape) for shape in sent) < 30


def test_a_volume_is_drawn_again_in_the_slice_in_sight(viewer: ViewerModel) -> None:
    labels = np.zeros((6, 40, 40), np.int32)
    labels[1:5, 10:20, 10:20] = 1
    labels[5, 30:35, 30:35] = 2
    view = view_of(viewer, labels, "ZYX", scale=(2.0, 0.5, 0.5))
    viewer.dims.set_point(0, 6.0)
    view.session.shrink(1, 1.0)
    seen, expected = drawn(view.layer)
    np.testing.assert_array_equal(seen, expected)
    assert redraw_box(view.layer, view.session.store.box_of(2))
    np.testing.assert_array_equal(view.in_layer(view.from_layer(np.ones(3))), np.ones(3))
    np.testing.assert_allclose(view.world_of(np.array([1.0, 2.0, 2.0])), [2.0, 1.0, 1.0])


def test_the_ray_of_a_3d_view_meets_the_first_cell(viewer: ViewerModel) -> None:
    labels = np.zeros((8, 20, 20), np.int32)
    labels[2:4, 5:15, 5:15] = 1
    labels[6:8, 5:15, 5:15] = 2
    view = view_of(viewer, labels, "ZYX")
    with pytest.warns(UserWarning, match="Contours"):  # napari's, before anyone else is told of the 3D view
        viewer.dims.ndisplay = 3
    assert view.layer.contour == 0
    for direction, number in ((1.0, 1), (-1.0, 2)):
        point = view._point((4.0, 10.0, 10.0), (direction, 0.0, 0.0))
        assert point is not None
        assert view.session.store.number_at(point) == number
    assert view._point((4.0, 1.0, 1.0), (1.0, 0.0, 0.0)) is None
    viewer.dims.ndisplay = 2
    assert view.layer.contour > 0


def test_an_axis_of_channels_is_no_axis_of_the_session(viewer: ViewerModel) -> None:
    labels = np.zeros((4, 20, 20), np.int32)
    labels[:, 5:9, 5:9] = 1
    session = AnnotationSession(Image(np.zeros((4, 2, 20, 20), np.uint8), "TCYX"), labels)
    layer = viewer.add_labels(np.expand_dims(session.labels, 1))
    view = AnnotationLayer(viewer, layer, session, channel_axis=1)
    viewer.dims.set_point(0, 2)
    np.testing.assert_array_equal(view._point((2.0, 0.0, 6.0, 6.0), None), [2, 6, 6])
    layer.paint((2, 0, 15, 15), 2)
    assert session.store.box_of(2)[0] == slice(2, 3)
    session.delete(2)
    assert not layer.data[2, 0, 15, 15]
    seen, expected = drawn(layer)
    np.testing.assert_array_equal(seen, expected)


def test_labels_that_a_model_writes_are_an_edit(two: AnnotationLayer) -> None:
    before = two.session.labels.copy()
    found = np.zeros((60, 80), np.int32)
    found[30:50, 30:50] = 1
    two.layer.data = found
    assert two.session.history.undo_name == "model"
    np.testing.assert_array_equal(two.session.labels, found)
    assert two.layer.data is two.session.labels
    two.session.undo()
    np.testing.assert_array_equal(two.layer.data, before)


def test_cells_that_a_script_leaves_as_they_are_keep_what_is_known_of_them(two: AnnotationLayer) -> None:
    two.session.set_classes({1: "round", 2: "flat"})
    two.session.set_reviewed(1)
    found = two.session.labels.copy()
    found[10:12, 10:20] = 0  # a little less of cell 1
    found[found == 2], found[40:50, 60:70] = 0, 2  # another cell is called 2 now
    two.layer.data = found
    assert two.session.store.cell(1) == CellMetadata(category=0, is_reviewed=True)
    assert two.session.store.cell(2) == CellMetadata()
    assert features_by_number(two.layer).loc[[1, 2], "class"].tolist() == ["round", ""]
    two.session.undo()
    assert two.session.store.cell(2) == CellMetadata(category=1)


@pytest.mark.parametrize("number", [-1, 2**31 - 1])
def test_the_brush_takes_no_number_that_cells_cannot_have(two: AnnotationLayer, number: int) -> None:
    told: list[Exception] = []
    two.tell = told.append
    two.layer.selected_label = number
    assert two.layer.selected_label == 3
    assert len(told) == 1
    two.layer.selected_label = 0  # which erases
    assert len(told) == 1


@pytest.mark.parametrize("volume", [(), (5, 60, 80), (2, 5, 60, 80)])
def test_a_plane_has_places_in_a_3d_view_where_it_is_alone(
    viewer: ViewerModel, two: AnnotationLayer, volume: tuple[int, ...]
) -> None:
    if volume:
        viewer.add_image(np.zeros(volume))
    viewer.dims.ndisplay = 3
    viewer.cursor.position = (*(0 for _ in volume[:-2]), 15, 35)
    found = two.point_under_cursor()
    assert (found is None) == bool(volume)
    assert found is None or found.tolist() == [15, 35]


@pytest.mark.parametrize("shape", [(5, 5), (80, 60)])
def test_labels_of_another_shape_are_refused(two: AnnotationLayer, shape: tuple[int, int]) -> None:
    told: list[Exception] = []
    two.tell = told.append
    two.layer.data = np.zeros(shape, np.int32)
    assert len(told) == 1
    assert two.layer.data is two.session.labels
    assert len(two.session.history.done) == 0


def test_colours_follow_classes_and_flags(two: AnnotationLayer) -> None:
    session, layer = two.session, two.layer
    session.set_class_names(["a", "b"])
    for number, category in ((1, 0), (2, 1), (1, 1), (2, None)):
        session.set_class(number, category)
    assert_colour(layer, 1, class_colour(1))
    seen, expected = drawn(layer)
    np.testing.assert_array_equal(seen, expected)
    two.hide_reviewed(is_on=True)
    session.set_reviewed(1)
    assert layer.get_color(1)[3] == 0
    assert layer.get_color(2)[3] == 1
    session.grow(1)
    assert layer.get_color(1)[3] == 1  # what was edited last stays to be seen
    session.grow(2)
    assert layer.get_color(1)[3] == 0
    two.hide_reviewed(is_on=False)
    assert_colour(layer, 1, class_colour(1))


def test_what_is_hidden_as_reviewed_is_seen_once_the_annotation_ends(two: AnnotationLayer) -> None:
    two.session.set_reviewed(1)
    two.hide_reviewed(is_on=True)
    assert two.layer.get_color(1)[3] == 0
    two.close()
    assert two.layer.get_color(1)[3] == 1


def test_colours_and_features_follow_names_that_move(two: AnnotationLayer) -> None:
    layer, session = two.layer, two.session
    session.set_class_names(["a", "b"])
    session.set_class(1, 0)
    session.set_class(2, 1)
    session.set_class_names(["c", "a", "b"])
    assert layer.features["class"].tolist() == ["", "a", "b"]
    assert_colour(layer, 1, class_colour(1))


def assert_colour(layer: Labels, number: int, colour: str) -> None:
    wanted = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    np.testing.assert_allclose(layer.get_color(number)[:3], wanted, atol=1e-3)


def test_recolouring_in_place_gives_what_a_new_colormap_gives(two: AnnotationLayer) -> None:
    session, layer = two.session, two.layer
    session.set_class_names(["a", "b"])
    session.set_class(1, 0)
    session.set_class(2, 1)
    assert recolour(layer, {2: class_colour(0)})
    seen = layer._raw_to_displayed(layer.data)
    np.testing.assert_array_equal(seen[10:20, 30:40], seen[10:20, 10:20])
    assert not recolour(layer, {2: "#123456"})


def test_a_closed_view_follows_nothing(two: AnnotationLayer) -> None:
    two.close()
    two.layer.paint((50, 50), 4)
    assert len(two.session.history.done) == 0
    assert not two.layer.mouse_drag_callbacks


def test_undo_of_napari_takes_back_nothing_behind_the_session(two: AnnotationLayer) -> None:
    layer, session = two.layer, two.session
    layer.paint((40.0, 40.0), 7)
    session.delete(7)
    layer.undo()  # would put back what lay under the stroke
    layer.redo()
    assert 7 not in layer.data
    assert session.store.numbers().tolist() == [1, 2]


def test_classes_that_are_given_in_a_table_are_those_of_the_annotation(two: AnnotationLayer) -> None:
    layer, session = two.layer, two.session
    session.set_class_names(["red"])
    session.set_class(1, 0)
    write_classes(layer, {2: "blue"})  # as Results does
    assert (
        session.metadata.class_names,
        session.store.cell(1).category,
        session.store.cell(2).category,
    ) == (("red", "blue"), 0, 1)
    assert_colour(layer, 2, class_colour(1))
    session.grow(2)
    assert layer.features["class"].tolist() == ["", "red", "blue"]
    layer.features = layer.features.assign(**{"class": ["", "", "blue"]})  # as napari's own table does
    assert session.store.cell(1).category is None
    for _ in range(3):
        session.undo()
    assert layer.features["class"].tolist() == ["", "red", ""]
    assert (session.metadata.class_names, session.store.cell(2).category) == (("red",), None)


def test_features_tell_the_classes_that_tables_and_files_read(two: AnnotationLayer) -> None:
    layer, session = two.layer, two.session
    session.set_class(2, 1)
    assert layer.features["class"].tolist() == ["", "", "2"]
    session.set_class_names(("red", "white"))
    assert layer.features["class"].tolist() == ["", "", "white"]
    new = session.split_line(2, [[0, 35], [59, 35]])
    assert layer.features.loc[list(new), "class"].tolist() == ["white"]
    session.undo()
    session.undo()
    session.undo()
    assert layer.features["class"].iloc[2] == ""
