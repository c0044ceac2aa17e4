from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Shapes
from pytestqt.qtbot import QtBot

from cellwright.core.data import Image
from cellwright.core.errors import ImageError, ReadError, SettingsError, WrongLayerError
from cellwright.files.images import write_labels
from cellwright.files.regions import read_mask
from cellwright.ops.measure.regions import RegionSet
from cellwright.widgets.shared.cells.regions import (
    RegionLayers,
    ask_for_line,
    ask_for_region,
    line_length_px,
    name_regions,
    region_layer,
    regions_of,
    through_slices,
    window_in_view,
    window_of_regions,
)
from cellwright.widgets.shared.coordinates import channels_of

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
    with pytest.raises(ImageError, match="not in view"):
        window_in_view(viewer, layer)


def drawn(shapes: Shapes, layer: ImageLayer) -> RegionSet:
    return regions_of(RegionLayers(shapes), layer)


def test_the_window_is_taken_in_every_slice_through_both_transforms(viewer: ViewerModel) -> None:
    layer = viewer.add_image(np.zeros((7, 40, 60)), scale=(2, 0.5, 0.5), translate=(0, 10, 0))
    shapes = viewer.add_shapes([np.array([[6, 12.6, 5.1], [6, 12.6, 9.9], [6, 15.2, 9.9], [6, 15.2, 5.1]])])
    window = window_of_regions(drawn(shapes, layer), layer)
    assert window == (slice(0, 7), slice(5, 11), slice(10, 21))


def test_the_window_is_around_all_shapes_and_clipped_to_the_image(viewer: ViewerModel) -> None:
    layer = viewer.add_image(np.zeros((40, 60)))
    near = np.array([[1, 1], [1, 5], [5, 5], [5, 1]])
    shapes = viewer.add_shapes([near, near + 30])
    assert window_of_regions(drawn(shapes, layer), layer) == (slice(1, 36), slice(1, 36))
    assert window_of_regions(drawn(shapes, layer), layer, 9) == (slice(0, 40), slice(0, 45))
    assert window_of_regions(RegionSet(), layer) is None
    far = viewer.add_shapes([np.array([[90, 90], [90, 99], [99, 99], [99, 90]])])
    with pytest.raises(ImageError, match="outside the image"):
        window_of_regions(drawn(far, layer), layer)


def test_a_shape_holds_where_napari_shows_it(viewer: ViewerModel) -> None:
    layer = viewer.add_image(np.zeros((2, 7, 40, 60)), scale=(1, 2, 0.5, 0.5))
    square = np.array([[1.0, 1], [1, 5], [5, 5], [5, 1]])
    flat = viewer.add_shapes([square])
    in_slice = viewer.add_shapes([np.insert(square, 0, 6.0, axis=1)])
    in_both = viewer.add_shapes([np.hstack([np.full((4, 1), 1.0), np.full((4, 1), 6.0), square])])
    indices = [drawn(shapes, layer).included[0].index for shapes in (flat, in_slice, in_both)]
    assert indices == [(None, None), (None, 3), (1, 3)]
    assert ask_for_region(viewer, layer).ndim == 2  # so that it is seen, and counts, everywhere


def test_a_shape_in_an_image_with_channels(viewer: ViewerModel) -> None:
    layer = viewer.add_image(np.zeros((6, 3, 40, 60)), axis_labels=("z", "c", "y", "x"))
    corners = np.array([[4.0, 2, 1, 1], [4, 2, 1, 5], [4, 2, 5, 5], [4, 2, 5, 1]])
    shapes = viewer.add_shapes([corners])
    assert regions_of(RegionLayers(shapes), layer, 1).included[0].index == (4,)


def test_a_shape_across_slices_and_a_line_are_refused(viewer: ViewerModel) -> None:
    layer = viewer.add_image(np.zeros((7, 40, 60)))
    side = viewer.add_shapes([np.array([[1.0, 9, 1], [1, 9, 5], [5, 9, 5], [5, 9, 1]])])
    with pytest.raises(SettingsError, match="across several slices"):
        drawn(side, layer)
    line = viewer.add_shapes([np.array([[1.0, 1], [9, 9]])], shape_type="line")
    with pytest.raises(SettingsError, match="needs an inside"):
        drawn(line, layer)
    assert regions_of(RegionLayers(line), layer, is_drawing=True).included == ()


def test_marked_shapes_and_those_of_a_second_layer_are_cut_out(viewer: ViewerModel) -> None:
    layer = viewer.add_image(np.zeros((40, 60)))
    square = np.array([[1.0, 1], [1, 9], [9, 9], [9, 1]])
    shapes = viewer.add_shapes([square, square + 2, square + 4, square + 6], shape_type="rectangle")
    shapes.features = {"name": ["a", "Exclude the fold", "b", ""], "exclude": [False, False, True, False]}
    second = viewer.add_shapes([square + 20])
    found = regions_of(RegionLayers(shapes, second), layer)
    assert found.names == ("a", "region 4")
    assert [one.name for one in found.excluded] == ["Exclude the fold", "exclude b", "region 1"]


def test_a_mask_is_the_labels_in_pixels_of_the_image(viewer: ViewerModel) -> None:
    layer = viewer.add_image(np.zeros((3, 40, 60)), scale=(2, 0.5, 0.5))
    pixels = np.zeros((40, 60), np.int32)
    pixels[5:20, 30:50] = 7
    flat = viewer.add_labels(pixels, scale=(0.5, 0.5), name="tissue")
    part = viewer.add_labels(pixels[5:25, 25:], scale=(0.5, 0.5), translate=(2.5, 12.5))
    for mask in (flat, part):
        found = regions_of(RegionLayers(mask=mask), layer)
        np.testing.assert_array_equal(found.union((2,), (40, 60)), pixels > 0)
        found = regions_of(RegionLayers(mask=mask, is_outside=True), layer)
        np.testing.assert_array_equal(found.union((0,), (40, 60)), pixels == 0)
    assert regions_of(RegionLayers(mask=flat, is_outside=True), layer).names == ("outside tissue",)
    square = np.array([[0.0, 0], [0, 20], [10, 20], [10, 0]])  # in µm: rows to 19, columns to 39
    shapes = viewer.add_shapes([square])
    found = regions_of(RegionLayers(shapes, mask=flat), layer)
    assert found.names == ("region 1",)
    assert found.union((0,), (40, 60)).sum() == 15 * 10
    with pytest.raises(WrongLayerError, match="not those of the image"):
        regions_of(RegionLayers(mask=viewer.add_labels(pixels)), layer)


@pytest.mark.parametrize("lead", [(), (2,)])
def test_a_mask_of_other_pixels_is_that_of_its_file(
    viewer: ViewerModel, tmp_path: Path, rng: np.random.Generator, lead: tuple[int, ...]
) -> None:
    pixels = (rng.random((*lead, 10, 15)) > 0.5).astype(np.uint8)
    image = Image(np.zeros((*lead, 41, 60)), "ZYX"[-2 - len(lead) :], (1.0,) * len(lead) + (0.5, 0.5))
    coarse = Image(pixels, image.axes, (1.0,) * len(lead) + (2.0, 2.0))
    write_labels(tmp_path / "m.tif", pixels.astype(np.int32), coarse)
    layer = viewer.add_image(image.data, scale=image.pixel_size_um, units="um")
    mask = viewer.add_labels(pixels, scale=coarse.pixel_size_um, units="um")
    found = regions_of(RegionLayers(mask=mask), layer).union((1,) * len(lead), (41, 60))
    expected = np.repeat(np.repeat(pixels[(1,) * len(lead)], 4, axis=0), 4, axis=1)
    np.testing.assert_array_equal(found, np.append(expected, expected[-1:], axis=0) > 0)
    read = RegionSet((read_mask(tmp_path / "m.tif", image),))
    np.testing.assert_array_equal(read.union((1,) * len(lead), (41, 60)), found)
    for size in (1.5, 2.2):
        mask.scale = (*mask.scale[:-1], size)
        with pytest.raises(WrongLayerError, match="covers another field"):
            regions_of(RegionLayers(mask=mask), layer)
        write_labels(
            tmp_path / "m.tif", pixels.astype(np.int32), replace(coarse, pixel_size_um=tuple(mask.scale))
        )
        with pytest.raises(ReadError, match=r"same field; got .* a pixel, for .*0.5 µm a pixel"):
            read_mask(tmp_path / "m.tif", image)
    with pytest.raises(ReadError, match="for pixels of unknown size"):
        read_mask(tmp_path / "m.tif", replace(image, pixel_size_um=()))


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


def test_regions_get_names_that_stay_theirs(viewer: ViewerModel) -> None:
    square = np.array([[0, 0], [0, 5], [5, 5], [5, 0]])
    shapes = viewer.add_shapes(ndim=2)
    name_regions(shapes)  # there are none yet
    shapes.add_polygons([square, square + 9])
    name_regions(shapes)
    assert shapes.text.values.tolist() == ["region 1", "region 2"]
    shapes.selected_data = {0}
    shapes.remove_selected()
    shapes.add_polygons([square + 20])  # napari gives it the name of the last one
    name_regions(shapes)
    assert shapes.features["name"].tolist() == ["region 2", "region 1"]
    shapes.features = shapes.features.assign(name=["tumour", "region 1"])
    name_regions(shapes)
    assert shapes.features["name"].tolist() == ["tumour", "region 1"]
    assert [one.name for one in regions_of(RegionLayers(shapes), shapes).included] == ["tumour", "region 1"]


def test_names_of_the_user_stay(viewer: ViewerModel) -> None:
    square = np.array([[0, 0], [0, 5], [5, 5], [5, 0]])
    shapes = viewer.add_shapes([square, square], features={"region": ["a", "a"]})
    name_regions(shapes)
    assert list(shapes.features) == ["region"]
    texts = viewer.add_shapes([square], text={"string": {"constant": "mine"}})
    name_regions(texts)
    assert texts.text.values.tolist() == "mine"
