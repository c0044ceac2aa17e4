from types import SimpleNamespace

import numpy as np
import pytest
from napari.layers import Image as ImageLayer
from napari.layers import Points

from cellwright.core.errors import WrongLayerError
from cellwright.widgets.shared.coordinates import Channel, channels_of, image_as_it_lies, image_in, in_pixels


def layer_of(*shape: int, **arguments: object) -> ImageLayer:
    return ImageLayer(np.zeros(shape, np.uint8), **arguments)


@pytest.mark.parametrize(
    ("layer", "axes"),
    [
        (layer_of(30, 40), "YX"),
        (layer_of(30, 40, 3, rgb=True), "YXC"),
        (layer_of(9, 30, 40), "ZYX"),
        (layer_of(2, 30, 40), "CYX"),
        (layer_of(9, 30, 40, axis_labels=("t", "y", "x")), "TYX"),
        (layer_of(2, 30, 40, axis_labels=("Time", "y", "x")), "TYX"),
        (layer_of(9, 30, 40, axis_labels=("channel", "Y", "X")), "CYX"),
        (layer_of(5, 9, 30, 40), "TZYX"),
        (layer_of(5, 2, 30, 40, axis_labels=("z", "c", "y", "x")), "ZCYX"),
        (layer_of(2, 5, 9, 30, 40), "TCZYX"),
        (layer_of(9, 30, 40, 3, rgb=True), "ZYXC"),
        (layer_of(9, 30, 40, axis_labels=("y", "z", "x")), "ZYX"),  # rows must be y: the labels do not fit
        (ImageLayer([np.zeros((60, 80)), np.zeros((30, 40))], multiscale=True), "YX"),
    ],
)
def test_axes_from_shape_and_labels(layer: ImageLayer, axes: str) -> None:
    assert image_as_it_lies(layer).axes == axes


def test_a_layer_that_ends_with_several_axes_of_length_one_is_refused() -> None:
    with pytest.raises(WrongLayerError, match="drop axes of length one"):
        image_as_it_lies(layer_of(30, 40, 1, 1))


def test_many_points_are_brought_to_another_layer_at_once(rng: np.random.Generator) -> None:
    place = {"scale": (2.0, 0.5, 0.25), "rotate": [[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]}
    points, image = Points(rng.uniform(0, 30, (9, 3)), translate=(1, 2, 3)), layer_of(4, 30, 40, **place)
    calls: list[object] = []
    told = SimpleNamespace(
        ndim=3, data_to_world=lambda point: calls.append(point) or points.data_to_world(point)
    )
    expected = [image.world_to_data(points.data_to_world(point)) for point in points.data]
    np.testing.assert_allclose(in_pixels(points.data, told, image), expected, atol=1e-6)
    np.testing.assert_allclose(in_pixels(points.data, points, image, 0), np.array(expected)[:, 1:], atol=1e-6)
    assert len(calls) < len(points.data)
    assert in_pixels([], points, image).shape == (0, 3)


def test_a_short_first_axis_can_be_read_as_slices() -> None:
    layer = layer_of(3, 30, 40)
    *channels, slices = channels_of(layer)
    assert [(channel.index, channel.axis) for channel in channels] == [(0, 0), (1, 0), (2, 0)]
    assert image_as_it_lies(layer, slices).axes == "ZYX"


def test_choices_of_colour_grey_and_named_channels() -> None:
    assert [choice.title for choice in channels_of(layer_of(9, 9, 3, rgb=True))] == [
        "All colours", "Red", "Green", "Blue",
    ]  # fmt: skip
    assert channels_of(layer_of(30, 40)) == (Channel("Grey"),)
    named = channels_of(layer_of(5, 7, 30, 40, axis_labels=("z", "c", "y", "x")))
    assert [(choice.index, choice.axis) for choice in named] == [(index, 1) for index in range(7)]


def test_too_many_axes_are_refused() -> None:
    with pytest.raises(WrongLayerError, match="6"):
        image_as_it_lies(layer_of(2, 5, 6, 7, 30, 40), Channel("Grey"))


def test_pixel_size_is_in_micrometres_of_the_spatial_axes() -> None:
    volume = layer_of(9, 30, 40, scale=(2, 500, 250), units=("um", "nm", "nm"))
    assert image_in(volume).pixel_size_um == pytest.approx((2, 0.5, 0.25))
    film = layer_of(9, 30, 40, scale=(60, 0.5, 0.5), units=("s", "um", "um"), axis_labels=("t", "y", "x"))
    assert image_in(film).pixel_size_um == pytest.approx((0.5, 0.5))


def test_an_affine_counts_for_the_pixel_size() -> None:
    layer = layer_of(30, 40, scale=(0.5, 0.5), affine=np.diag([3.0, 3.0, 1.0]), units=("um", "um"))
    assert image_in(layer).pixel_size_um == pytest.approx((1.5, 1.5))


def test_without_lengths_the_pixel_size_is_unknown() -> None:
    assert image_in(layer_of(30, 40, scale=(0.5, 0.5))).pixel_size_um == ()
