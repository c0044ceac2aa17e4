"""Grey levels on an even scale: from 0 to 1, and with an even histogram within tiles (CLAHE)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

N_LEVELS = 256  # grey levels that the equalisation tells apart

Slice = NDArray[np.float32]


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
    curves: Slice = (np.cumsum(shared, axis=-1) / area).astype(np.float32)
    return curves


def _between(length: int, tile: int, n_tiles: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Slice]:
    """Return the tiles before and after each pixel of an axis, and how far it is on the way to the latter."""
    place = np.arange(length) / tile - 0.5
    before = np.floor(place).astype(np.intp)
    way = (place - before).astype(np.float32)
    return np.maximum(before, 0), np.minimum(before + 1, n_tiles - 1), way
