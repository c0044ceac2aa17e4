from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Shapes
from pytestqt.qtbot import QtBot

from cellwright.core.errors import ImageError, WrongLayerError
from cellwright.widgets.shared.coordinates import channels_of
from cellwright.widgets.shared.regions import (
    ask_for_line,
    ask_for_region,
    line_length_px,
    region_layer,
    through_slices,
    window_in_view,
    window_of_rectangle,
)

Draw = Callable[[Shapes, Any], None]


def add_stack(viewer: ViewerModel, **arguments: object) -> ImageLayer:
    layer = viewer.add_image(np.zeros((7, 40, 60)), **arguments)
    layer.corner_pixels = np.array([[0, 5, 10], [0, 24, 39]])  # set by the canvas of a real viewer
    return layer


def test_the_view_is_the_visible_field_of_the_current_slice(viewer: ViewerModel) -> None:
    layer = add_stack(viewer, scale=(2, 0.5, 0.5))
    viewer.dims.set_current_step(0, 4)
    assert window_in_view(viewer, layer) == (slice(4, 5), slice(5, 25), slice(10, 40))


def test_a_preview_is_cut_around_the_middle_of_the_view(viewer: ViewerModel) -> None:
    layer = add_stack(viewer)
    _, rows, columns = window_in_view(viewer, layer, largest_px=10)
    assert (rows.stop - rows.start, columns.stop - columns.start) == (10, 10)
    assert (rows, columns) == (slice(10, 20), slice(20, 30))


def test_a_view_of_a_coarse_level_is_told_in_full_resolution(viewer: ViewerModel) -> None:
    layer = viewer.add_image([np.zeros((400, 600)), np.zeros((100, 150))], multiscale=True)
    layer._data_level = 1
    layer.corner_pixels = np.array([[10, 20], [49, 59]])
    assert window_in_view(viewer, layer) == (slice(40, 197), slice(80, 237))


def test_volumes_and_side_views_are_refused(viewer: ViewerModel) -> None:
    layer = add_stack(viewer)
    viewer.dims.order = (1, 0, 2)
    with pytest.raises(WrongLayerError, match="slice"):
        window_in_view(viewer, layer)
    viewer.dims.order = (0, 1, 2)
    viewer.dims.ndisplay = 3
    with pytest.raises(WrongLayerError, match="3D"):
        window_in_view(viewer, layer)


def test_an_image_out_of_sight_is_told(viewer: ViewerModel) -> None:
    layer = viewer.add_image(np.zeros((40, 60)))
    layer.corner_pixels = np.array([[50, 0], [60, 59]])
    with pytest.raises(ImageError, match="out of sight"):
        window_in_view(viewer, layer)


def test_a_rectangle_is_taken_in_every_slice_through_both_transforms(viewer: ViewerModel) -> None:
    layer = viewer.add_image(np.zeros((7, 40, 60)), scale=(2, 0.5, 0.5), translate=(0, 10, 0))
    shapes = viewer.add_shapes([np.array([[6, 12.6, 5.1], [6, 12.6, 9.9], [6, 15.2, 9.9], [6, 15.2, 5.1]])])
    assert window_of_rectangle(shapes, layer) == (slice(0, 7), slice(5, 11), slice(10, 21))


def test_a_flat_rectangle_fits_a_stack(viewer: ViewerModel) -> None:
    layer = viewer.add_image(np.zeros((7, 40, 60)))
    shapes = viewer.add_shapes([np.array([[2, 3], [2, 13], [22, 13], [22, 3]])])
    assert window_of_rectangle(shapes, layer) == (slice(0, 7), slice(2, 23), slice(3, 14))


def test_the_last_shape_counts_and_is_clipped_to_the_image(viewer: ViewerModel) -> None:
    layer = viewer.add_image(np.zeros((40, 60)))
    near = np.array([[1, 1], [1, 5], [5, 5], [5, 1]])
    shapes = viewer.add_shapes([near, near + 30])
    assert window_of_rectangle(shapes, layer) == (slice(31, 36), slice(31, 36))
    shapes.add(np.array([[-9, -9], [-9, 99], [9, 99], [9, -9]]))
    assert window_of_rectangle(shapes, layer) == (slice(0, 10), slice(0, 60))


def test_no_shape_and_a_shape_beside_the_image_are_told(viewer: ViewerModel) -> None:
    layer = viewer.add_image(np.zeros((40, 60)))
    with pytest.raises(WrongLayerError, match="Draw a rectangle"):
        window_of_rectangle(viewer.add_shapes(name="empty"), layer)
    far = viewer.add_shapes([np.array([[90, 90], [90, 99], [99, 99], [99, 90]])])
    with pytest.raises(ImageError, match="beside the image"):
        window_of_rectangle(far, layer)


def test_a_line_is_measured_in_pixels_of_the_image(viewer: ViewerModel) -> None:
    layer = viewer.add_image(np.zeros((40, 60)), scale=(0.5, 0.5), rotate=20)
    line = viewer.add_shapes([np.array([[1.0, 1.0], [4.0, 5.0]])], shape_type="line")
    assert line_length_px(line, layer) == pytest.approx(10.0)


def test_a_drawn_line_is_told_once_and_goes_away(viewer: ViewerModel, qtbot: QtBot, draw_line: Draw) -> None:
    layer = viewer.add_image(np.zeros((40, 60)), scale=(0.5, 0.5), units=("um", "um"))
    lengths: list[float] = []
    shapes = ask_for_line(viewer, layer, lengths.append)
    assert (str(shapes.mode), viewer.layers.selection.active) == ("add_line", shapes)
    draw_line(shapes, [[3, 4], [3.5, 4]])
    qtbot.wait(50)
    assert (lengths, len(shapes.data)) == ([], 0)  # a click is no line
    draw_line(shapes, [[3, 4], [9, 12]])
    qtbot.waitUntil(lambda: bool(lengths), timeout=5000)
    assert lengths == [pytest.approx(10.0)]
    assert list(viewer.layers) == [layer]
    assert viewer.layers.selection.active is layer


def test_a_line_whose_layer_was_removed_is_forgotten(
    viewer: ViewerModel, qtbot: QtBot, draw_line: Draw
) -> None:
    layer = viewer.add_image(np.zeros((40, 60)))
    lengths: list[float] = []
    shapes = ask_for_line(viewer, layer, lengths.append)
    draw_line(shapes, [[3, 4], [9, 12]])
    viewer.layers.remove(shapes)
    qtbot.wait(50)
    assert lengths == []


def test_the_region_is_the_active_shapes_layer_else_the_topmost_with_shapes(viewer: ViewerModel) -> None:
    layer = viewer.add_image(np.zeros((40, 60)))
    assert region_layer(viewer) is None
    asked = ask_for_region(viewer, layer)
    assert region_layer(viewer) is asked
    drawn = viewer.add_shapes([np.array([[1, 1], [1, 5], [5, 5], [5, 1]])])
    viewer.layers.move(viewer.layers.index(drawn), 0)
    viewer.layers.selection.active = layer
    assert region_layer(viewer) is drawn
    viewer.layers.selection.active = asked
    assert region_layer(viewer) is asked
    boxes = viewer.add_shapes([np.array([[1, 1], [1, 5], [5, 5], [5, 1]])], metadata={"cellwright": {}})
    assert region_layer(viewer) is not boxes


@pytest.mark.parametrize(("n_around", "slices"), [(1, slice(3, 6)), (None, slice(0, 6)), (9, slice(0, 6))])
def test_a_window_is_widened_to_the_slices_around_it(
    viewer: ViewerModel, n_around: int | None, slices: slice
) -> None:
    layer = viewer.add_image(np.zeros((6, 3, 40, 60)), axis_labels=("z", "c", "y", "x"))
    window = (slice(4, 5), slice(1, 2), slice(3, 9), slice(0, 60))
    channel = channels_of(layer)[1]
    assert through_slices(window, layer, channel, n_around) == (slices, *window[1:])


def test_a_window_without_slices_stays(viewer: ViewerModel) -> None:
    layer = viewer.add_image(np.zeros((40, 60)))
    window = (slice(3, 9), slice(0, 60))
    assert through_slices(window, layer, None) == window
