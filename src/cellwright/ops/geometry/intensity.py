"""Percentile scaling of intensities, fitted once per image from a sample so that it works lazily."""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import ArrayLike
from cellwright.core.errors import ImageError

SAMPLE_PIXELS = 1_000_000
LOWEST, HIGHEST = -0.5, 2.0  # what is darker or brighter by far is noise, dirt or a saturated spot


@dataclass(frozen=True, slots=True)
class Scaling:
    """The two intensities that become 0 and 1; equal when the image is constant."""

    low: float
    high: float


def fit(pixels: ArrayLike, percentiles: tuple[float, float] = (0.5, 99.8)) -> Scaling:
    """Return the intensities at two percentiles of all finite pixels, from a regular sample of them.

    One pair serves all channels, so that colours keep their ratio. Where both percentiles coincide though
    the pixels differ (a few cells on a black field), the extremes take their place.

    Parameters
    ----------
    pixels : bool, integer or float array of any shape
        Numpy, dask or zarr; at most about a million of its pixels are read into memory.
    percentiles
        0 to 100.

    Raises
    ------
    ImageError
        No pixel, no finite pixel, or a type that is no intensity.
    """
    values = sample(pixels)
    values = values[np.isfinite(values)]
    if values.size == 0:
        raise ImageError(
            f"The image must have finite pixels; all of the array of shape {tuple(pixels.shape)} and type "
            f"{pixels.dtype} are NaN or infinite. Check how it was computed or read."
        )
    low, high = np.percentile(values, percentiles)
    if low == high:
        low, high = values.min(), values.max()
    return Scaling(float(low), float(high))


def sample(pixels: ArrayLike, limit: int = SAMPLE_PIXELS) -> NDArray[np.float64]:
    """Return at most ``limit`` pixels on a regular grid over the whole array, as float64 of its dimension."""
    check_pixels(pixels)
    every = tuple(slice(None, None, step) for step in sample_steps(tuple(pixels.shape), limit))
    return np.asarray(pixels[every]).astype(np.float64)


def apply(scaling: Scaling, pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return ``(pixels - low) / (high - low)`` clipped to -0.5 to 2; NaN, infinite and constant become 0."""
    if not scaling.high > scaling.low:
        return np.zeros(pixels.shape, np.float32)
    work = np.float32 if pixels.dtype.itemsize <= 2 or pixels.dtype == np.float32 else np.float64
    with np.errstate(all="ignore"):  # NaN and infinity are legal here and become 0
        scaled: NDArray[Any] = np.subtract(pixels, work(scaling.low), dtype=work)
        scaled /= work(scaling.high) - work(scaling.low)
    if pixels.dtype.kind == "f":
        np.nan_to_num(scaled, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    np.clip(scaled, LOWEST, HIGHEST, out=scaled)
    return scaled.astype(np.float32, copy=False)


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
