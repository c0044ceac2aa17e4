"""Several channels as one image."""

import dask.array as da
import numpy as np
import pytest

from cellwright.core.data import Image
from cellwright.core.errors import SettingsError
from cellwright.ops.geometry.axes import StackedPixels, channel_numbers, combined
from cellwright.ops.geometry.intensity import apply, fit_scaling

NAMES = ("DAPI", "GFP", "membrane, far red")


@pytest.fixture
def image(rng):
    """Three channels of very different brightness, in two frames."""
    pixels = rng.random((2, 3, 20, 24)) * np.array([60_000, 300, 4]).reshape(3, 1, 1)
    return Image(pixels, "TCYX", (0.5, 0.5), "stained", NAMES)


def scaled(image, *channels):
    return [apply(fit_scaling(image.data[:, one]), image.data[:, one]) for one in channels]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("maximum", lambda planes: np.maximum.reduce(planes)),
        ("mean", lambda planes: np.mean(planes, axis=0)),
        ("colours", lambda planes: np.stack([*planes, np.zeros_like(planes[0])], axis=-1)),
    ],
)
def test_each_channel_counts_by_its_own_intensities(image, how, expected):
    seen = combined(image, ["GFP", 0], how)
    wanted = expected(scaled(image, 1, 0))
    assert (seen.channel, seen.image.shape, seen.image.pixel_size_um) == (None, wanted.shape, (0.5, 0.5))
    assert seen.image.axes == ("TYXC" if how == "colours" else "TYX")
    np.testing.assert_allclose(seen.image.read(), wanted, atol=1e-6)
    window = (1, slice(3, 9), slice(None, None, 4))
    np.testing.assert_allclose(seen.image.data[window], wanted[window], atol=1e-6)
    assert seen.notice.startswith("Counted in channels GFP, DAPI together: each scaled by its own")


def test_a_part_is_scaled_as_the_whole_and_pixels_stay_on_disk(image):
    whole = combined(image, [0, 1])
    part = Image(da.from_array(image.data[..., 4:12, 4:12]), "TCYX", name="part")
    seen = combined(part, [0, 1], scalings=whole.scalings)
    assert seen.scalings == whole.scalings
    np.testing.assert_array_equal(seen.image.read(), whole.image.read()[..., 4:12, 4:12])


@pytest.mark.parametrize(
    ("told", "numbers"),
    [
        (["1,2"], (1, 2)),
        ([2, 0], (2, 0)),
        (["DAPI, 1"], (0, 1)),
        (["membrane, far red", "GFP"], (2, 1)),
        (["2"], (2,)),
    ],
)
def test_channels_are_told_by_number_or_name(image, told, numbers):
    assert channel_numbers(image, told) == numbers


def test_a_single_channel_is_counted_in_as_it_is(image):
    seen = combined(image, ["GFP"])
    assert (seen.image, seen.channel, seen.notice) == (image, 1, "")


@pytest.mark.parametrize(
    ("told", "how", "message"),
    [
        (["0", "3"], "maximum", "numbers 0 to 2 or the names DAPI, GFP, membrane, far red; got '3'"),
        (["0", "-1"], "maximum", "got '-1'"),
        (["GFP", "1"], "maximum", "named once"),
        (["0,"], "maximum", "got ''"),
    ],
)
def test_channels_that_are_not_there_are_told(image, told, how, message):
    with pytest.raises(SettingsError, match=message):
        combined(image, told, how)


def test_an_image_without_channels_and_too_many_colours_are_told(rng):
    with pytest.raises(SettingsError, match="axes 'YX'"):
        combined(Image(rng.random((8, 8)), "YX"), [0, 1])
    with pytest.raises(SettingsError, match="Two or three channels become colours; got 4"):
        combined(Image(rng.random((4, 8, 8)), "CYX"), [0, 1, 2, 3], "colours")


def test_what_a_channel_does_not_tell_is_told(rng):
    pixels = rng.random((3, 10, 10))
    pixels[1] = 7
    pixels[2, :5] = np.nan
    notice = combined(Image(pixels, "CYX"), [0, 1, 2]).notice
    assert "Channel 1 has one intensity throughout" in notice
    assert "50.0% of the pixels of channel 2 are NaN" in notice
    assert "channel 0" not in notice


def test_few_missing_pixels_of_a_channel_are_told_as_few(rng):
    pixels = rng.random((2, 100, 100))
    pixels[1, 3, 4] = np.nan
    notice = combined(Image(pixels, "CYX"), [0, 1]).notice
    assert "Under 0.1% of the pixels of channel 1 are NaN" in notice


def test_a_name_that_several_channels_have_is_told(rng):
    image = Image(rng.random((3, 8, 8)), "CYX", channel_names=("GFP", "DAPI", "DAPI"))
    with pytest.raises(SettingsError, match="all named 'DAPI'"):
        combined(image, ["DAPI", 0])


@pytest.mark.parametrize("index", [..., 1, (..., 0), (0, ..., slice(2, 5)), (slice(1, None), ..., 1, 2)])
def test_channels_of_several_images_are_indexed_like_an_array(rng, index):
    images = [Image(rng.random(shape), axes) for shape, axes in (((2, 3, 6, 7), "TCYX"), ((2, 6, 7), "TYX"))]
    stacked = StackedPixels(((images[0], 2), (images[1], None), (images[0], 0)))
    wanted = np.stack([images[0].data[:, 2], images[1].data, images[0].data[:, 0]])
    np.testing.assert_array_equal(stacked[index], wanted[index])
