"""Intensities on an even scale: percentiles fitted to a sample, so that it works lazily, and CLAHE."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from cellwright.core.data import ArrayLike
from cellwright.core.errors import ImageError

SAMPLE_PIXELS = 1_000_000
LOWEST, HIGHEST = -0.5, 2.0  # what is darker or brighter by far is noise, dirt or a saturated spot
DIM, ROOT = 0.1, 0.5  # mean below which an image is brightened, and the power that does so
JPEG_PX = 8  # side of the blocks that JPEG compresses one by one
CLEAR = 3.0  # how much more the edges of blocks must stand out than any other of the eight places
FEW_LEVELS = 8  # between dark and bright: hardly more than what rounding and compression leave of noise
LEAST_STEP = 0.018  # of the range: where they are smaller, noise does more harm than good
GRAIN = 2.0  # noise that hides a step, in steps
GRAIN_PX = 32  # side of a square of noise that repeats; parts of an image begin at multiples of it
GAP_PX = 4  # pixels without a value in a row that are bridged, as lines of a camera or of a mosaic are
BACKGROUND_PX = 121  # side of the square whose mean is the background; a few times that of a large cell
UNEVEN = 0.18  # by which that mean differs from place to place, of the range, in unevenly lit images
FINEST = 8  # fewest pixels of a sample along that side that tell its mean
N_LEVELS = 256  # grey levels that the equalisation tells apart

UNKNOWN = f"gaps of up to {GAP_PX} are bridged, wider ones count as dark"
ONE_INTENSITY = "The image has one intensity throughout, and so no cells."

Slice = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scaling:
    """The two intensities that become 0 and 1; equal when the image is constant.

    ``missing`` is the share of pixels that are not finite; see :func:`bridged`. The scaled
    intensities are raised to ``power``; ``grain`` is the deviation of the noise that is added to them.
    ``levels`` is how many grey levels lie between dark and bright where these are few, else 0. With
    ``background`` the mean of the square of so many pixels around each is subtracted from the scaled
    intensities, and what is ``flat_low`` and ``flat_high`` then becomes 0 and 1.
    """

    low: float
    high: float
    missing: float = 0.0
    power: float = 1.0
    grain: float = 0.0
    levels: float = 0.0
    background: int = 0
    flat_low: float = 0.0
    flat_high: float = 1.0

    @property
    def changes(self) -> dict[str, float]:
        """What is done to the intensities besides scaling them, by name, as a count notes it."""
        changes = {"background_px": self.background, "grain": self.grain}
        if self.power != 1:
            changes["power"] = self.power
        return {name: value for name, value in changes.items() if value}

    @property
    def is_flat(self) -> bool:
        """Whether the pixels have one intensity throughout."""
        return self.low == self.high

    @property
    def missing_share(self) -> str:
        """The share of the pixels that are missing, as a sentence begins with it; few are not none."""
        if self.missing < 0.001:
            return "Under 0.1%"
        return f"{self.missing:.1%}"

    @property
    def notice(self) -> str:
        """What the user should know: of pixels that are missing, and of what was changed; else empty."""
        sentences = []
        if self.is_flat:
            sentences.append(ONE_INTENSITY)
        if self.missing:
            sentences.append(f"{self.missing_share} of the pixels are NaN or infinite; {UNKNOWN}.")
        if self.power != 1:
            sentences.append(
                "A few spots are far brighter than the rest, so what is dim was brightened for the count."
            )
        if self.background:
            sentences.append(
                "The light is uneven, so a smooth background was subtracted for the count: more cells can be "
                "expected to be right."
            )
        if self.grain:
            sentences.append(
                "The image was compressed so strongly that the edges of square blocks show, as in JPEG of "
                "low quality; noise was added for the count to hide them. Dim cells may be lost."
            )
        if self.levels:
            sentences.append(
                f"The image has only {self.levels:.0f} grey levels from dark to bright: what was found may "
                "be noise."
            )
        return " ".join(sentences)


def fit_scaling(pixels: ArrayLike, percentiles: tuple[float, float] = (0.5, 99.8)) -> Scaling:
    """Return the intensities at two percentiles of all finite pixels, from a regular sample of them.

    One pair serves all channels, so that colours keep their ratio. Where both percentiles coincide though
    the pixels differ (a few cells on a black field), the extremes take their place. Of an array of numpy,
    dask or zarr about a million pixels are read into memory; percentiles are 0 to 100.

    ImageError where there is no finite pixel, or the type is no intensity.
    """
    check_pixels(pixels)
    sampled = sample(pixels)
    if sampled.dtype.kind == "u":  # finite, and quicker to sort than as float64
        values = sampled
    else:
        sampled = sampled.astype(np.float64)
        values = sampled[np.isfinite(sampled)]
    if values.size == 0:
        raise ImageError(
            f"The image must have finite pixels; all {prod(pixels.shape):,} of type {pixels.dtype} are NaN "
            "or infinite. Check how it was computed or read."
        )
    low, high = np.percentile(values, percentiles)
    if low == high:
        low, high = values.min(), values.max()
    return Scaling(float(low), float(high), 1 - values.size / sampled.size)


def sample(pixels: ArrayLike) -> NDArray[Any]:
    """Return about a million pixels at most on a regular grid over the whole array, of its dimension."""
    every = tuple(slice(None, None, step) for step in sample_steps(tuple(pixels.shape)))
    return np.asarray(pixels[every])


def brightened(scaling: Scaling, pixels: NDArray[Any]) -> Scaling | None:
    """Return the scaling that brightens what is dim; None where it is not so beside a few bright pixels."""
    if apply(scaling, pixels).clip(0, 1).mean() < DIM:
        return replace(scaling, power=ROOT)
    return None


def fit_without_background(
    scaling: Scaling,
    take_sample: Callable[[], NDArray[Any]],
    steps: Sequence[int],
    percentiles: tuple[float, float],
) -> Scaling | None:
    """Return the scaling of an unevenly lit image less its background; None of another.

    None, too, where the intensities are changed in other ways or pixels are missing. A sample (..., Y, X),
    read last, has one of every ``steps`` pixels along Y and X; where that is too few, none tells the light.
    """
    sides = [BACKGROUND_PX // step for step in steps]
    if scaling.missing or scaling.changes or min(sides) < FINEST:
        return None
    scaled = apply(scaling, take_sample())
    light = _background(scaled.clip(0, 1), sides).mean(axis=0)
    if light.std() < UNEVEN:
        return None
    flat = fit_scaling(scaled - _background(scaled, sides), percentiles)
    return replace(scaling, background=BACKGROUND_PX, flat_low=flat.low, flat_high=flat.high)


def _background(scaled: Slice, sides: Sequence[int]) -> Slice:
    """Return the mean of the rectangle of these sides around each pixel (..., Y, X)."""
    return np.asarray(uniform_filter(scaled, sides, axes=(-2, -1), mode="nearest"), np.float32)


def fit_compressed(sampled: NDArray[Any], percentiles: tuple[float, float], middle: NDArray[Any]) -> Scaling:
    """Return what :func:`fit_scaling` does, with noise that hides the edges of JPEG blocks where they show.

    A field compressed strongly has lost its noise: squares are left of it, which look like cells.

    ``middle`` (channels, Y, X) is a part of the image without gaps, ``sampled`` a sample of all of it.
    """
    scaling = fit_scaling(sampled, percentiles)
    scaling = replace(scaling, levels=_few_levels(sampled, percentiles, scaling))
    with np.errstate(invalid="ignore"):  # NaN and infinity have no edges
        grey = middle.mean(axis=0, dtype=np.float64)
        step = min(_step_at_blocks(grey), _step_at_blocks(grey.T))
    if step <= LEAST_STEP * (scaling.high - scaling.low):
        return scaling
    noise = GRAIN * step
    noisy = fit_scaling(
        sampled + noise * np.random.default_rng(0).standard_normal(sampled.shape), percentiles
    )
    return replace(
        noisy, missing=scaling.missing, levels=scaling.levels, grain=noise / (noisy.high - noisy.low)
    )


def _few_levels(sampled: NDArray[Any], percentiles: tuple[float, float], scaling: Scaling) -> int:
    """Return how many grey levels the best channel of (channels, ...) has, if they are few, else 0.

    Fewer than three are no light but a mask. Where nearly all pixels are alike the others tell.
    """
    if sampled.dtype.kind not in "ui":
        return 0
    widest = scaling.high - scaling.low
    if len(sampled) > 1:
        channels = sampled.reshape(len(sampled), -1)
        ranges = np.ptp(np.percentile(channels, percentiles, axis=1), axis=0)
        if not ranges.any():
            ranges = np.ptp(channels, axis=1)
        widest = float(ranges.max())
    n_levels = round(widest) + 1
    return n_levels if 2 < n_levels <= FEW_LEVELS else 0


def _step_at_blocks(grey: NDArray[np.float64]) -> float:
    """Return by how much neighbours along X differ more at the edges of blocks than elsewhere; 0 without."""
    steps = np.abs(np.diff(grey, axis=1)).mean(axis=0)
    excess = steps[1:-1] - (steps[:-2] + steps[2:]) / 2
    if len(excess) < 2 * JPEG_PX:
        return 0.0
    by_place = np.sort([excess[place::JPEG_PX].mean() for place in range(JPEG_PX)])
    usual = np.median(by_place)
    step = float(by_place[-1] - usual)
    return step if step > CLEAR * (by_place[-2] - usual) else 0.0


def grain(rows: slice, columns: slice) -> Slice:
    """Return noise (Y, X) of deviation 1 for a window of an image: the same at a place, whatever is read."""
    square: Slice = np.random.default_rng(0).standard_normal((GRAIN_PX, GRAIN_PX), np.float32)
    places = (np.arange(span.start, span.stop) % GRAIN_PX for span in (rows, columns))
    return np.asarray(square[np.ix_(*places)], np.float32)


def apply(scaling: Scaling, pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return ``(pixels - low) / (high - low)`` clipped to -0.5 to 2; NaN, infinite and constant become 0.

    ``pixels`` are (..., Y, X), their narrow gaps are :func:`bridged`. Where that is raised to a power, all
    below 0 becomes 0, too. A background is that of these pixels alone: half its side from an edge that is
    none of the image, they are not what they are in the whole.
    """
    if not scaling.high > scaling.low:
        return np.zeros(pixels.shape, np.float32)
    pixels = bridged(pixels)
    work = np.float32 if pixels.dtype.itemsize <= 2 or pixels.dtype == np.float32 else np.float64
    with np.errstate(all="ignore"):  # NaN and infinity are legal here and become 0
        scaled: NDArray[Any] = np.subtract(pixels, work(scaling.low), dtype=work)
        scaled /= work(scaling.high) - work(scaling.low)
    if pixels.dtype.kind == "f":
        np.nan_to_num(scaled, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    np.clip(scaled, LOWEST, HIGHEST, out=scaled)
    if scaling.power != 1:
        scaled = np.maximum(scaled, 0) ** scaling.power
    if scaling.background:
        scaled -= _background(scaled, (scaling.background, scaling.background))
        scaled = (scaled - scaling.flat_low) / (scaling.flat_high - scaling.flat_low)
        np.clip(scaled, LOWEST, HIGHEST, out=scaled)
    return scaled.astype(np.float32, copy=False)


def bridged(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return pixels (..., Y, X) whose gaps of NaN or infinity are filled in from both sides if narrow.

    Up to ``GAP_PX`` in a row along X or Y are narrow: a dark line through a cell would make two of it.
    """
    if pixels.dtype.kind != "f" or pixels.ndim < 2 or np.isfinite(pixels).all():
        return pixels
    whole = pixels.copy()
    for axis in (-1, -2, -1, -2):  # twice: lines cross
        _bridge(np.moveaxis(whole, axis, -1))
    return whole


def unknown(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where (Y, X) no channel of pixels (C, Y, X) has a value, in gaps that are not bridged."""
    if pixels.dtype.kind != "f":
        return np.zeros(pixels.shape[1:], bool)
    return np.asarray(~np.isfinite(bridged(pixels)).any(axis=0))


def _bridge(rows: NDArray[Any]) -> None:
    """Fill in the narrow gaps of rows (..., N), in place: they go on evenly from side to side."""
    is_known, place = np.isfinite(rows), np.arange(rows.shape[-1], dtype=np.int32)
    before = np.maximum.accumulate(np.where(is_known, place, -1), axis=-1)
    after = np.where(is_known, place, len(place))
    after = np.minimum.accumulate(after[..., ::-1], axis=-1)[..., ::-1]
    is_narrow = ~is_known & (before >= 0) & (after < len(place)) & (after - before <= GAP_PX + 1)
    at = np.nonzero(is_narrow)
    first, last = before[at], after[at]
    way = (at[-1] - first) / (last - first)
    rows[at] = rows[(*at[:-1], first)] * (1 - way) + rows[(*at[:-1], last)] * way


def check_pixels(pixels: ArrayLike) -> None:
    """Raise ImageError when the array has no pixel or its type is no intensity."""
    shape = tuple(pixels.shape)
    if prod(shape) == 0:
        raise ImageError(f"The image must have pixels; got an empty array of shape {shape}.")
    if np.dtype(pixels.dtype).kind not in "biuf":
        raise ImageError(
            f"Pixels must be bool, integer or float; got type {pixels.dtype}. Convert the image first."
        )


def sample_steps(shape: tuple[int, ...], limit: int = SAMPLE_PIXELS) -> list[int]:
    """Return the step along each axis that leaves at most ``limit`` pixels, taken off the longest axes.

    Examples
    --------
    >>> sample_steps((2048, 2048, 3)), sample_steps((64, 64))
    ([4, 4, 1], [1, 1])
    """
    steps = [1] * len(shape)
    counts = list(shape)
    while prod(counts) > limit:
        axis = counts.index(max(counts))
        steps[axis] += 1
        counts[axis] = -(-shape[axis] // steps[axis])
    return steps


def unit_range(values: NDArray[Any]) -> Slice:
    """Return values scaled so that their extremes are 0 and 1; constant ones become 0.

    Values that are not finite count as the lowest.
    """
    scaled = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
    finite = np.isfinite(scaled)
    if not finite.all():
        scaled = np.where(finite, scaled, scaled[finite].min() if finite.any() else 0)
    low, high = scaled.min(), scaled.max()
    if not high > low:
        return np.zeros(values.shape, np.float32)
    return np.asarray((scaled - low) / (high - low), np.float32)


def equalised(grey: Slice, clip_limit: float, n_tiles: int) -> Slice:
    """Return a slice (Y, X) from 0 to 1 whose histogram is evened out within tiles (CLAHE), 0 to 1.

    There are ``n_tiles`` tiles along each axis. No grey level of a tile counts more than ``clip_limit`` times
    its even share; what it has above that is shared out among all levels. Between the centres of tiles their
    curves are interpolated.

    Source: Zuiderveld, Contrast limited adaptive histogram equalization, Graphics Gems IV (1994).
    """
    size = [-(-n // n_tiles) for n in grey.shape]
    fill = [(0, -n % tile) for n, tile in zip(grey.shape, size, strict=True)]
    levels = np.rint(np.pad(grey, fill, mode="reflect") * (N_LEVELS - 1)).astype(np.intp)
    grid = [n // tile for n, tile in zip(levels.shape, size, strict=True)]
    row, column = (np.arange(n) // tile for n, tile in zip(levels.shape, size, strict=True))
    number = row[:, np.newaxis] * grid[1] + column
    counts = np.bincount((number * N_LEVELS + levels).ravel(), minlength=grid[0] * grid[1] * N_LEVELS)
    curves = _curves(counts.reshape(*grid, N_LEVELS), clip_limit)
    height, width = grey.shape
    (up, down, v), (left, right, w) = (
        _between(n, tile, most) for n, tile, most in zip(grey.shape, size, grid, strict=True)
    )
    levels, v = levels[:height, :width], v[:, np.newaxis]
    upper, lower = (
        curves[y[:, np.newaxis], left, levels] * (1 - w) + curves[y[:, np.newaxis], right, levels] * w
        for y in (up, down)
    )
    return np.asarray(upper * (1 - v) + lower * v, np.float32)


def _curves(counts: NDArray[np.integer], clip_limit: float) -> Slice:
    """From the histogram of each tile (.., levels) to what each level becomes."""
    area = counts.sum(axis=-1, keepdims=True)
    limit = np.maximum(1, (clip_limit * area / N_LEVELS).astype(np.intp))
    clipped = np.minimum(counts, limit)
    shared = clipped + (area - clipped.sum(axis=-1, keepdims=True)) / N_LEVELS
    return (np.cumsum(shared, axis=-1) / area).astype(np.float32)


def _between(length: int, tile: int, n_tiles: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Slice]:
    """Return the tiles before and after each pixel of an axis, and how far it is on the way to the latter."""
    place = np.arange(length) / tile - 0.5
    before = np.floor(place).astype(np.intp)
    way = (place - before).astype(np.float32)
    return np.maximum(before, 0), np.minimum(before + 1, n_tiles - 1), way
