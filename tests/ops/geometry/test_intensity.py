from dataclasses import replace
from io import BytesIO
from unittest.mock import Mock

import dask.array as da
import numpy as np
import pytest
import zarr
from PIL import Image as Picture

from cellwright.core.errors import ImageError
from cellwright.ops.geometry.intensity import (
    BACKGROUND_PX,
    LEAST_STEP,
    ONE_INTENSITY,
    Scaling,
    apply,
    bridged,
    brightened,
    fit_compressed,
    fit_scaling,
    fit_without_background,
    grain,
    sample,
    sample_steps,
)


@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "uint32", "int16", "int64", "float16", "float32", "float64"]
)
def test_the_percentiles_become_0_and_1(rng, dtype):
    pixels = rng.integers(0, 120, (90, 110)).astype(dtype)
    scaled = apply(fit_scaling(pixels, (1, 99)), pixels)
    assert scaled.dtype == np.float32
    assert np.percentile(scaled, [1, 99]) == pytest.approx([0, 1], abs=1e-6)


def test_bool_becomes_0_and_1():
    pixels = np.zeros((20, 20), bool)
    pixels[5:10] = True
    assert np.array_equal(apply(fit_scaling(pixels), pixels), pixels.astype(np.float32))


def test_far_values_are_clipped(rng):
    pixels = rng.normal(size=(100, 100))
    pixels[0, :2] = -1e6, 1e6
    scaled = apply(fit_scaling(pixels), pixels)
    assert (scaled.min(), scaled.max()) == (-0.5, 2.0)


def test_an_offset_and_a_gain_change_nothing(rng):
    pixels = rng.random((64, 64))
    first, second = (apply(fit_scaling(p), p) for p in (pixels, pixels * 3e4 + 1e9))
    assert np.allclose(first, second, atol=1e-5)


@pytest.mark.parametrize("value", [0, 7, 255])
def test_constant_becomes_zero_and_is_told(value):
    pixels = np.full((5, 6), value, np.uint8)
    scaling = fit_scaling(pixels)
    assert not apply(scaling, pixels).any()
    assert scaling.notice == ONE_INTENSITY


def test_few_cells_on_black_keep_their_contrast():
    pixels = np.zeros((1000, 1000), np.uint16)
    pixels[100:120, 100:120] = 900
    scaled = apply(fit_scaling(pixels), pixels)
    assert (scaled[0, 0], scaled[110, 110]) == (0, 1)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_not_a_number_and_infinity_are_left_out_and_become_zero(rng, dtype):
    pixels = rng.random((50, 50)).astype(dtype)
    clean = fit_scaling(pixels[1:])
    pixels[0, :3] = np.nan, np.inf, -np.inf
    pixels[0, 3:] = pixels[1, 3:]
    scaled = apply(fit_scaling(pixels), pixels)
    assert np.isfinite(scaled).all()
    assert not scaled[0, :3].any()
    assert fit_scaling(pixels).high == pytest.approx(clean.high, rel=0.05)


def test_narrow_gaps_are_bridged_and_wide_ones_stay():
    ramp = np.add.outer(np.arange(30), 2 * np.arange(40)).astype(np.float32)
    pixels = np.stack([ramp, ramp])
    pixels[0, :, 10:14], pixels[0, 7:9], pixels[0, 20, 30] = np.nan, np.inf, -np.inf  # lines that cross
    pixels[1, :, 10:15], pixels[1, :, :2] = np.nan, np.nan
    before = pixels.copy()
    whole = bridged(pixels)
    assert np.allclose(whole[0], ramp)
    assert np.isnan(whole[1, :, 10:15]).all()
    assert np.isnan(whole[1, :, :2]).all()
    assert np.array_equal(pixels, before, equal_nan=True)
    assert np.isfinite(apply(fit_scaling(pixels), pixels)).all()


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((0, 5)), "empty array of shape \\(0, 5\\)"),
        (np.full((4, 4), np.nan), "all 16 of type float64 are NaN or infinite"),
        (np.zeros((4, 4), complex), "complex128"),
        (np.array([["a", "b"]]), "must be bool, integer or float"),
    ],
)
def test_pixels_that_cannot_be_used_are_named(pixels, message):
    with pytest.raises(ImageError, match=message):
        fit_scaling(pixels)


def test_numpy_dask_and_zarr_agree(rng):
    pixels = rng.integers(0, 60000, (3, 900, 1100)).astype(np.uint16)
    stored = zarr.array(pixels, chunks=(1, 256, 256))
    assert (
        fit_scaling(pixels) == fit_scaling(da.from_array(pixels, chunks=(2, 300, 300))) == fit_scaling(stored)
    )


def test_a_large_image_is_sampled(rng):
    pixels = rng.normal(100, 10, (3000, 2500)).astype(np.float32)
    assert sample(pixels).size <= 1_000_000
    exact = np.percentile(pixels, [0.5, 99.8])
    assert [fit_scaling(pixels).low, fit_scaling(pixels).high] == pytest.approx(exact, abs=0.3)


@pytest.mark.parametrize("shape", [(5000, 5000), (1, 40_000_000), (300, 512, 512), (70, 70, 70, 70), (3,)])
def test_the_sample_is_never_larger_than_asked(shape):
    steps = sample_steps(shape)
    n = np.prod([-(-length // step) for length, step in zip(shape, steps, strict=True)])
    assert min(1000, *shape) <= n <= 1_000_000


def test_the_array_is_left_as_it_was(rng):
    pixels = rng.random((30, 30)).astype(np.float32)
    before = pixels.copy()
    apply(Scaling(0.2, 0.4), pixels)
    assert np.array_equal(pixels, before)


def test_what_is_dim_beside_a_few_bright_spots_is_brightened(rng):
    pixels = np.kron(rng.random((8, 8)), np.ones((8, 8)))[np.newaxis] * 0.1
    assert brightened(fit_scaling(pixels), pixels) is None
    pixels[0, :3, :3] = 1
    scaling = brightened(fit_scaling(pixels), pixels)
    assert "brightened" in scaling.notice
    quarter = scaling.low + 0.25 * (scaling.high - scaling.low)
    assert apply(scaling, np.array([scaling.low - 1, quarter, scaling.high])) == pytest.approx([0, 0.5, 1])


def test_a_smooth_background_is_subtracted(blobs):
    light = np.linspace(0, 50, blobs.image.shape[1])[np.newaxis] * np.ones((blobs.image.shape[0], 1))
    pixels = np.stack([100 + 10 * blobs.image, 100 + 10 * blobs.image + light])
    flat = apply(Scaling(100.0, 160.0, background=31), pixels)
    inner = (slice(16, -16), slice(16, -16))  # where the square around each pixel lies in the image
    assert np.allclose(flat[0][inner], flat[1][inner], atol=1e-6)
    assert flat[0][inner][blobs.labels[inner] > 0].mean() > 0.05


@pytest.mark.parametrize("odd", [np.nan, np.inf, 1e30])
def test_a_pixel_without_a_value_changes_the_background_around_it_alone(rng, odd):
    pixels = 2.0**31 + 100 * rng.random((1, 200, 300))  # which float32 would round to steps of 256
    scaling = Scaling(2.0**31, 2.0**31 + 100, background=31, flat_low=-0.5, flat_high=0.5)
    whole = apply(scaling, pixels)
    assert np.allclose(whole, apply(replace(scaling, low=0.0, high=100.0), pixels - 2.0**31), atol=1e-5)
    pixels[0, 20, 30] = odd
    left = np.ones(pixels.shape, bool)
    left[:, 4:37, 14:47] = False
    assert np.allclose(apply(scaling, pixels)[left], whole[left], atol=1e-5)


@pytest.mark.parametrize(
    "change", [{}, {"power": 0.5}, {"grain": 0.1}, {"missing": 0.01}, {"levels": 5.0}, {"background": 121}]
)
@pytest.mark.parametrize("steps", [(1, 1), (4, 4), (1, 10), (40, 1)])
@pytest.mark.parametrize("light", [0.2, 4.0])
def test_an_uneven_background_is_subtracted_alone_and_where_a_sample_shows_it(rng, change, steps, light):
    whole = rng.random((2, 400, 400)) + np.linspace(0, light, 400)
    whole += 0.5 * (np.arange(400)[:, np.newaxis] // 30 % 2)  # less wide than the square
    pixels = whole[:, :: steps[0], :: steps[1]]
    scaling = replace(fit_scaling(pixels), **change)
    take_sample = Mock(return_value=pixels)
    flat = fit_without_background(scaling, take_sample, steps, (0.5, 99.8))
    is_tried = 40 not in steps and set(change) <= {"levels"}
    assert take_sample.called == is_tried  # to take it may be to read all of a large image
    if light < 1 or not is_tried:
        assert flat is None
        return
    assert flat.changes == {"background_px": BACKGROUND_PX}
    assert flat.levels == change.get("levels", 0)
    assert "background was subtracted" in flat.notice
    assert np.allclose(np.percentile(apply(flat, whole), (0.5, 99.8)), (0, 1), atol=0.05)


def jpeg(pixels, quality):
    file = BytesIO()
    Picture.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Picture.open(file))


@pytest.mark.parametrize("offset", [0, 3])
@pytest.mark.parametrize("n_colours", [1, 3])
def test_blocks_of_strong_compression_are_hidden_in_noise(rng, blobs, offset, n_colours):
    field = rng.normal(60, 20, (200, 210)).clip(0, 255)
    cells = 20 + 200 * blobs.image + rng.normal(0, 3, blobs.image.shape)

    def grain_of(pixels, quality):
        pixels = np.repeat(pixels.astype(np.uint8)[..., np.newaxis], n_colours, axis=2)
        if quality:
            pixels = jpeg(pixels.squeeze(), quality).reshape(pixels.shape)
        pixels = np.moveaxis(pixels, -1, 0)[:, offset:, offset:]
        return fit_compressed(pixels, (0.5, 99.8), pixels).grain

    assert grain_of(field, 10) > grain_of(cells, 10) > LEAST_STEP
    assert grain_of(field, 0) == grain_of(cells, 0) == grain_of(cells, 95) == 0


@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 1, 90), (1, 90, 90)])
def test_what_holds_no_blocks_is_left_alone(rng, shape):
    pixels = rng.random(shape)
    pixels[..., :2] = np.nan
    pixels[..., 2] = np.inf
    assert fit_compressed(pixels, (0.5, 99.8), pixels) == fit_scaling(pixels)


@pytest.mark.parametrize(("brightest", "levels"), [(1, 0), (5, 6), (40, 0)])
def test_few_grey_levels_are_told(rng, brightest, levels):
    red = rng.integers(0, brightest, (90, 90), endpoint=True)
    pixels = np.stack([200 + red, np.full_like(red, 30)]).astype(np.uint8)  # colours apart are no contrast
    scaling = fit_compressed(pixels, (0.5, 99.8), pixels)
    assert scaling.levels == levels
    assert (f"only {levels} grey levels" in scaling.notice) == bool(levels)
    assert fit_compressed(pixels.astype(float), (0.5, 99.8), pixels).levels == 0


def test_few_grey_levels_of_a_few_pixels_are_told(rng):
    """Nearly all pixels are alike: what compression left of noise, or a mask."""
    pixels = np.full((1, 90, 90), 120, np.uint8)
    pixels[0, :3, :10] += rng.integers(-2, 3, (3, 10)).astype(np.uint8)
    assert fit_compressed(pixels, (0.5, 99.8), pixels).levels == 5
    for value in (121, 255):
        mask = np.where(pixels == 120, np.uint8(0), np.uint8(value))
        assert fit_compressed(mask, (0.5, 99.8), mask).levels == 0


def test_noise_is_the_same_at_a_place_whatever_is_read():
    whole = grain(slice(0, 90), slice(0, 100))
    assert whole.std() == pytest.approx(1, abs=0.05)
    assert np.array_equal(grain(slice(32, 70), slice(64, 99)), whole[32:70, 64:99])
