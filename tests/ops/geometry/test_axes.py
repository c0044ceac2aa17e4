import dask.array as da
import numpy as np
import pytest
import zarr

from cellwright.core.data import Image
from cellwright.core.errors import AxesError, ImageError, SettingsError
from cellwright.ops.geometry.axes import frames, guess_axes, in_lit_colour, with_colours_apart


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((512, 512), "YX"),
        ((512, 512, 3), "YXC"),
        ((512, 512, 4), "YXC"),
        ((3, 512, 512), "CYX"),
        ((1, 512, 512), "CYX"),
        ((40, 512, 512), "ZYX"),
        ((40, 512, 512, 3), "ZYXC"),
        ((512, 512, 30), "YXC"),
        ((9, 512, 512, 5), "ZYXC"),
        ((9, 64, 64, 5), "TZYX"),
        ((10, 2, 512, 512), "ZCYX"),
        ((2, 10, 512, 512), "CZYX"),
        ((10, 20, 512, 512), "TZYX"),
        ((5, 10, 2, 512, 512), "TZCYX"),
        ((5, 2, 10, 512, 512), "TCZYX"),
        ((5, 10, 512, 512, 3), "TZYXC"),
    ],
)
def test_axes_are_guessed_from_the_shape(shape, axes):
    assert guess_axes(shape) == axes
    assert Image(np.broadcast_to(np.uint8(0), shape), axes)


@pytest.mark.parametrize("shape", [(), (9,), (1,) * 6])
def test_no_axes_fit(shape):
    with pytest.raises(AxesError, match="2 to 5 dimensions"):
        guess_axes(shape)


WINDOW = (slice(2, 9), slice(3, 11))


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr"])
@pytest.mark.parametrize(
    ("axes", "lead_shape"),
    [("YX", ()), ("ZYX", (2,)), ("TYX", (2,)), ("TZYX", (2, 3)), ("ZTYX", (2, 3))],
)
def test_frames_of_grey_images(rng, kind, axes, lead_shape):
    pixels = rng.integers(0, 99, (*lead_shape, 12, 13))
    parts = frames(Image(stored(pixels, kind), axes))
    assert (parts.lead_shape, parts.shape, len(parts)) == (lead_shape, (12, 13), int(np.prod(lead_shape)))
    flat = pixels.reshape(-1, 12, 13)
    for index in range(len(parts)):
        assert np.array_equal(parts.read(index, WINDOW), flat[index][WINDOW][None])


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr"])
@pytest.mark.parametrize("axes", ["CYX", "YXC", "TCYX", "CTYX", "TYXC", "ZYCX", "TZCYX"])
@pytest.mark.parametrize("channel", [0, 1])
def test_one_channel_is_picked_wherever_the_axis_is(rng, kind, axes, channel):
    sizes = {"T": 2, "Z": 3, "C": 2, "Y": 12, "X": 13}
    pixels = rng.integers(0, 99, [sizes[axis] for axis in axes])
    parts = frames(Image(stored(pixels, kind), axes), channel)
    one = pixels.take(channel, axis=axes.index("C")).reshape(-1, 12, 13)
    for index in range(len(parts)):
        assert np.array_equal(parts.read(index, WINDOW), one[index][WINDOW][None])
    assert np.array_equal(parts.sample().reshape(one.shape), one)
    assert parts.notice == ""


@pytest.mark.parametrize("axes", ["YXC", "ZYXC", "TZYXC"])
@pytest.mark.parametrize("n_channels", [3, 4])
def test_colours_stay_together_without_opacity(rng, axes, n_channels):
    pixels = rng.integers(0, 99, ((2,) * (len(axes) - 3) + (12, 13, n_channels)))
    parts = frames(Image(pixels, axes))
    flat = pixels.reshape(-1, 12, 13, n_channels)
    for index in range(len(parts)):
        assert np.array_equal(parts.read(index, WINDOW), np.moveaxis(flat[index][WINDOW][..., :3], -1, 0))
    assert parts.sample().shape[0] == 3


@pytest.mark.parametrize(("lit", "name"), [(0, "red"), (2, "blue")])
@pytest.mark.parametrize("axes", ["YXC", "TYXC"])
def test_the_only_colour_that_holds_light_is_taken_alone(rng, axes, lit, name):
    pixels = rng.integers(0, 3, (2, 300, 300, 4), np.uint8)
    pixels[..., 20:60, 20:60, lit] = 200  # the middle is dark
    image = Image(pixels[0] if axes == "YXC" else pixels, axes)
    parts = in_lit_colour(frames(image))
    assert parts.channel == lit
    assert parts.notice.startswith(f"Counted in its {name} alone")
    assert np.array_equal(parts.read(0, WINDOW), pixels[0][WINDOW][np.newaxis, ..., lit])


def test_colours_that_all_hold_light_and_other_channels_stay_as_they_are(rng):
    tissue = rng.integers(0, 255, (40, 50, 3), np.uint8)
    tissue[..., 1:] //= 20
    for image in (
        Image(tissue, "YXC"),
        Image(np.zeros((40, 50, 3)), "YXC"),
        Image(np.full((40, 50), 7), "YX"),
        Image(tissue.transpose(2, 0, 1), "CYX"),
    ):
        parts = frames(image)
        assert in_lit_colour(parts) is parts


def test_colours_that_show_different_things_on_a_dark_ground_are_told(rng):
    nuclei, fibres = (rng.random((2, 300, 300)) < 0.05) * 200.0
    dark = np.zeros((300, 300))
    for colours, apart in (
        ((fibres, dark, nuclei), (0, 2)),
        ((nuclei, fibres, nuclei), (0, 1, 2)),
        ((nuclei, nuclei, nuclei), ()),
        ((dark, dark, nuclei), ()),
        ((200 - fibres, 200 - dark, 200 - nuclei), ()),  # stains in tissue take light from a bright ground
    ):
        pixels = np.stack(colours, axis=-1)
        parts = with_colours_apart(frames(Image(pixels, "YXC")))
        assert parts.apart == apart
        assert bool(parts.notice) == bool(apart)
        pixels[150:160, 150, 0], pixels[140, 150, 2] = np.nan, np.inf
        assert with_colours_apart(frames(Image(pixels, "YXC"))).apart == apart


def test_missing_pixels_do_not_hide_the_only_colour_with_light(rng):
    pixels = np.zeros((300, 300, 3), np.float32)
    pixels[..., 1] = rng.random((300, 300))
    pixels[150, 150] = np.nan
    assert in_lit_colour(frames(Image(pixels, "YXC"))).channel == 1
    pixels[:] = np.nan
    assert in_lit_colour(frames(Image(pixels, "YXC"))).channel == slice(0, 3)


def test_the_first_of_several_channels_is_taken_and_told():
    parts = frames(Image(np.arange(2 * 4 * 4).reshape(2, 4, 4), "CYX"))
    assert parts.read(0, (slice(0, 1), slice(0, 1))) == 0
    assert "channel 0 of 2" in parts.notice


def test_singleton_axes_stay():
    parts = frames(Image(np.zeros((1, 1, 1, 8, 9)), "TCZYX"))
    assert (parts.lead_shape, parts.shape, parts.notice) == ((1, 1), (8, 9), "")
    assert parts.read(0, (slice(None), slice(None))).shape == (1, 8, 9)


def test_a_window_of_numpy_is_no_copy():
    pixels = np.zeros((20, 20))
    assert np.shares_memory(frames(Image(pixels, "YX")).read(0, WINDOW), pixels)


@pytest.mark.parametrize("axes", ["XY", "YXZ", "CXY", "ZY"])
def test_other_axes_are_refused(axes):
    with pytest.raises(AxesError, match="end with YX"):
        frames(Image(np.zeros((4,) * len(axes)), axes))


@pytest.mark.parametrize(("axes", "channel"), [("CYX", 2), ("CYX", -1), ("YX", 1)])
def test_a_channel_that_is_not_there_is_refused(axes, channel):
    with pytest.raises(SettingsError, match=f"got channel {channel}"):
        frames(Image(np.zeros((2, 4, 4)[-len(axes) :]), axes), channel)


def test_an_empty_image_is_refused():
    with pytest.raises(ImageError, match="empty array"):
        frames(Image(np.zeros((0, 4, 4)), "ZYX"))


def stored(pixels, kind):
    if kind == "dask":
        return da.from_array(pixels, chunks=5)
    return zarr.array(pixels, chunks=(5,) * pixels.ndim) if kind == "zarr" else pixels


@pytest.mark.parametrize("tint", [(230, 214, 236), (5, 6, 32)])
def test_colours_of_a_tinted_ground_hold_noise_alone(rng, tint):
    noise = rng.normal(0, 2, (90, 90, 3))
    ground = (np.array(tint) + noise).clip(0, 255).astype(np.uint8)
    assert with_colours_apart(frames(Image(ground, "YXC"))).apart == ()
    lit = ground // 4
    for channel in range(3):  # different things on a dark ground with the same tint
        lit[20 * channel : 20 * channel + 8, :, channel] += 150
    assert with_colours_apart(frames(Image(lit, "YXC"))).apart == (0, 1, 2)
