"""Pseudo-colouring against the algorithm written out pixel by pixel, and with whatever it may be given."""

from functools import lru_cache

import dask.array as da
import numpy as np
import pytest
import zarr

from cellwright.core.data import Image
from cellwright.core.errors import AxesError, ImageError
from cellwright.ops.codecs.pseudocolor import bright, coloured, pseudocolor_frames
from cellwright.ops.geometry.intensity import Scaling, apply, equalised, fit_scaling, unit_range
from cellwright.ops.simulation.simulate import simulate


def pseudocolor(previous, current, following, scaling=None):
    masks = [None if one is None else bright(one) for one in (previous, following)]
    return coloured(masks, current, scaling)


@lru_cache
def volume(seed=0, shape=(5, 45, 50)):
    return simulate("fluorescence", shape, np.random.default_rng(seed), diameter_px=14).image


def noise(seed, shape=(23, 31), kind=np.uint16):
    return np.random.default_rng(seed).integers(0, 250, shape).astype(kind)


def slowly_equalised(grey, clip_limit, n_tiles):
    """CLAHE with a curve for each tile, looked up pixel by pixel."""
    height, width = grey.shape
    tile_y, tile_x = -(-height // n_tiles), -(-width // n_tiles)
    padded = np.pad(grey, [(0, -height % tile_y), (0, -width % tile_x)], mode="reflect")
    levels = np.rint(padded * 255).astype(int)
    curves = {}
    for row in range(levels.shape[0] // tile_y):
        for column in range(levels.shape[1] // tile_x):
            tile = levels[row * tile_y :, column * tile_x :][:tile_y, :tile_x]
            counts = np.bincount(tile.ravel(), minlength=256).tolist()
            limit = max(1, int(clip_limit * tile.size / 256))
            excess = sum(max(0, count - limit) for count in counts)
            shares = [min(count, limit) + excess / 256 for count in counts]
            curves[row, column] = np.cumsum(shares) / tile.size
    last = max(curves)
    even = np.zeros(grey.shape)
    for y in range(height):
        for x in range(width):
            v, w = y / tile_y - 0.5, x / tile_x - 0.5
            for row, share_y in ((np.floor(v), 1 - v % 1), (np.floor(v) + 1, v % 1)):
                for column, share_x in ((np.floor(w), 1 - w % 1), (np.floor(w) + 1, w % 1)):
                    place = (int(np.clip(row, 0, last[0])), int(np.clip(column, 0, last[1])))
                    even[y, x] += share_y * share_x * curves[place][levels[y, x]]
    return even


def slow_mask(values):
    values = values.astype(float)
    grey = (values - values.min()) / (values.max() - values.min())
    even = slowly_equalised(grey, 10, 16)
    even = (even - even.min()) / (even.max() - even.min())
    padded = np.pad(even, (4, 3), mode="reflect")
    blurred = np.array(
        [
            [padded[y : y + 8, x : x + 8].mean() for x in range(values.shape[1])]
            for y in range(values.shape[0])
        ]
    )
    threshold = 0.2
    for _ in range(30):
        mask = blurred > threshold
        threshold += 0.01
        if 0 < mask.mean() <= 0.03:
            break
    return mask


@pytest.mark.parametrize("seed", range(2))
def test_neighbours_are_found_as_the_algorithm_says(seed):
    for neighbour in (noise(seed), volume(seed)[2, :30, :31]):
        fast, slow = bright(neighbour), slow_mask(neighbour)
        assert (fast != slow).mean() < 0.003  # rounding at the threshold
        assert 0 < fast.mean() < 1


@pytest.mark.parametrize(("clip_limit", "n_tiles"), [(10, 16), (10, 3)])
def test_the_equalisation_is_the_one_written_out(clip_limit, n_tiles):
    grey = unit_range(volume(3)[1, :30, :33])
    slow = slowly_equalised(grey, clip_limit, n_tiles)
    assert np.allclose(equalised(grey, clip_limit, n_tiles), slow, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_colours_multiply_and_accumulate(seed):
    before, middle, after = volume(seed)[1:4]
    red, green, blue = pseudocolor(before, middle, after)
    expected = (middle - middle.min().astype(float)) / (int(middle.max()) - int(middle.min()))
    assert np.allclose(green, expected, atol=1e-6)
    for colour, neighbour in ((red, before), (blue, after)):
        doubled = expected * (1 + bright(neighbour))
        assert np.allclose(colour, doubled / doubled.max(), atol=1e-6)
        assert not np.allclose(colour, green)


def test_red_is_before_and_blue_is_after():
    slices = np.full((3, 64, 64), 10, np.uint16)
    slices[0, 10:22, 10:22], slices[2, 40:52, 40:52] = 200, 200
    slices[1, 10:22, 10:22] = slices[1, 40:52, 40:52] = slices[1, 10:22, 40:52] = 100
    colours = pseudocolor(*slices)
    assert colours.dtype == np.float32
    middles = [colours[:, y, x].round(2).tolist() for y, x in ((16, 16), (46, 46), (16, 46))]
    assert middles == [[1.0, 1.0, 0.5], [0.5, 1.0, 1.0], [0.5, 1.0, 0.5]]


def test_without_neighbours_a_slice_is_grey():
    colours = pseudocolor(None, noise(0), None)
    assert np.array_equal(colours[0], colours[1])
    assert np.array_equal(colours[2], colours[1])
    assert (colours.min(), colours.max()) == (0, 1)


def test_with_the_scale_of_the_volume_dim_slices_stay_dim():
    slices = volume(2)
    scaling = fit_scaling(slices)
    dim = pseudocolor(None, slices[2] // 4, None, scaling=scaling)
    assert np.array_equal(dim[1], apply(scaling, slices[2] // 4))
    both = pseudocolor(slices[1], slices[2], slices[3], scaling=scaling)
    assert np.array_equal(both[1], apply(scaling, slices[2]))
    assert np.array_equal(both[0], both[1] * (1 + bright(slices[1])))


@pytest.mark.parametrize("kind", [bool, np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_any_type_gives_the_same_colours(kind):
    whole = noise(4) > 120 if kind is bool else noise(4)
    first, second = (pseudocolor(*[one.astype(t) for one in (whole, whole, whole)]) for t in (np.int64, kind))
    assert np.allclose(first, second, atol=1e-6)


def test_small_floats_count_as_much_as_integers():
    before, middle, after = volume(1)[1:4]
    as_floats = [one.astype(np.float64) / 65535 * 1e-6 for one in (before, middle, after)]
    assert np.allclose(pseudocolor(before, middle, after), pseudocolor(*as_floats), atol=1e-5)


@pytest.mark.parametrize("value", [0, 7, np.nan, np.inf])
def test_constant_slices_are_dark_and_colour_nothing(value):
    flat = np.full((20, 24), value)
    assert not pseudocolor(flat, flat, flat).any()
    middle = noise(5, (20, 24))
    assert np.array_equal(pseudocolor(flat, middle, flat), pseudocolor(None, middle, None))


def test_what_is_not_finite_counts_as_the_lowest():
    values = noise(6).astype(float) + 5
    lowest = values.copy()
    values[3, 4], values[5, 6], values[7, 8] = np.nan, np.inf, -np.inf
    lowest[[3, 5, 7], [4, 6, 8]] = values[np.isfinite(values)].min()
    assert np.array_equal(pseudocolor(values, values, values), pseudocolor(lowest, lowest, lowest))


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 5), (17, 16)])
def test_slices_smaller_than_the_tiles_are_coloured(shape):
    middle = noise(7, shape)
    colours = pseudocolor(middle, middle, middle)
    assert colours.shape == (3, *shape)
    assert np.isfinite(colours).all()


WHOLE = (slice(None), slice(None))


@pytest.mark.parametrize("wrap", [np.asarray, da.from_array, zarr.array], ids=["numpy", "dask", "zarr"])
def test_each_slice_is_coloured_by_its_neighbours(wrap):
    slices = volume(1)
    frames = pseudocolor_frames(Image(wrap(slices), "ZYX"))
    assert (len(frames), frames.lead_shape, frames.shape) == (5, (5,), slices.shape[1:])
    padded = [None, *slices, None]
    for index in (2, 0, 4, 1, 3):
        expected = pseudocolor(*padded[index : index + 3])
        assert np.array_equal(frames.read(index, WHOLE), expected)
        assert np.array_equal(frames.read(index, (slice(3, 20), slice(7, 9))), expected[:, 3:20, 7:9])


def test_time_points_do_not_colour_each_other():
    first, second = volume(1), volume(2)
    frames = pseudocolor_frames(Image(np.stack([first, second]), "TZYX"))
    assert np.array_equal(frames.read(4, WHOLE), pseudocolor(first[3], first[4], None))
    assert np.array_equal(frames.read(5, WHOLE), pseudocolor(None, second[0], second[1]))


def test_pixels_that_are_missing_are_told():
    slices = volume(1).astype(np.float32)
    slices[0] = np.nan
    ends = (1.0, 99.0)
    assert pseudocolor_frames(Image(volume(1), "ZYX"), None, ends).notice == ""
    missing = (
        "20.0% of the pixels are NaN or infinite; gaps of up to 4 are bridged, wider ones count as dark."
    )
    assert pseudocolor_frames(Image(slices, "ZYX"), None, ends).notice == missing
    two = pseudocolor_frames(Image(np.stack([slices, slices]), "CZYX"), None, ends).notice
    assert two.startswith("Counted in channel 0 of 2")
    assert two.endswith(missing)


def test_one_channel_is_coloured_and_colours_are_averaged():
    slices = volume(1)
    expected = pseudocolor_frames(Image(slices, "ZYX")).read(2, WHOLE)
    channels = np.stack([np.zeros_like(slices), slices], axis=1)
    assert np.array_equal(pseudocolor_frames(Image(channels, "ZCYX"), 1).read(2, WHOLE), expected)
    assert "channel 0 of 2" in pseudocolor_frames(Image(channels, "ZCYX")).notice
    colours = np.stack([slices, slices, slices], axis=-1)
    assert np.allclose(pseudocolor_frames(Image(colours, "ZYXC")).read(2, WHOLE), expected, atol=1e-4)


def test_without_context_slices_are_grey():
    slices = volume(1)
    grey = pseudocolor_frames(Image(slices, "ZYX"), has_context=False).read(2, WHOLE)
    assert np.array_equal(grey, unit_range(slices[2])[np.newaxis])


@pytest.mark.parametrize("context", [True, False])
def test_the_scale_of_the_volume_is_fitted_once(context):
    slices = volume(1)
    frames = pseudocolor_frames(Image(slices, "ZYX"), None, (1, 99), has_context=context)
    scaling = fit_scaling(slices, (1, 99))
    neighbours = (slices[1], slices[3]) if context else (None, None)
    expected = pseudocolor(neighbours[0], slices[2], neighbours[1], scaling=scaling)
    assert np.array_equal(frames.read(2, WHOLE), expected if context else expected[:1])
    again = fit_scaling(frames.sample(), (1, 99))
    assert (again.low, again.high) == pytest.approx((0, 1), abs=1e-6)


def test_the_sample_tells_a_constant_volume_and_nothing_else():
    assert fit_scaling(pseudocolor_frames(Image(volume(1), "ZYX")).sample(), (0, 100)) == Scaling(0.0, 1.0)
    flat = fit_scaling(pseudocolor_frames(Image(np.full((3, 20, 20), 9), "ZYX")).sample(), (0, 100))
    assert flat.low == flat.high


class Watched:
    """An array that notes which slices are read."""

    def __init__(self, data):
        self.data, self.shape, self.dtype, self.seen = data, data.shape, data.dtype, []

    def __getitem__(self, place):
        self.seen.append(place[0])
        return self.data[place]


def test_slices_are_read_once_when_asked_for_in_order():
    watched = Watched(volume(1))
    frames = pseudocolor_frames(Image(watched, "ZYX"))
    frames.read(2, (slice(0, 5), slice(0, 5)))
    assert sorted(watched.seen) == [1, 2, 3]
    watched.seen.clear()
    frames = pseudocolor_frames(Image(watched, "ZYX"))
    for index in range(5):
        for rows in (slice(0, 20), slice(20, 45)):
            frames.read(index, (rows, slice(None)))
    assert sorted(watched.seen) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("shape", "axes"), [((20, 24), "YX"), ((20, 24, 3), "YXC"), ((4, 20, 24), "TYX"), ((1, 20, 24), "ZYX")]
)
def test_what_has_no_context_is_refused_with_advice(shape, axes):
    with pytest.raises(AxesError, match=rf"two slices.*{axes}.*Choose flow or centroid"):
        pseudocolor_frames(Image(np.ones(shape), axes))


def test_empty_and_unordered_volumes_are_refused():
    with pytest.raises(ImageError, match="empty"):
        pseudocolor_frames(Image(np.zeros((3, 0, 4)), "ZYX"))
    with pytest.raises(AxesError, match="end with YX"):
        pseudocolor_frames(Image(np.zeros((6, 5, 4)), "YXZ"))
