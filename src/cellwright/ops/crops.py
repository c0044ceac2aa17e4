"""Square crops around cells, each brought to the same number of pixels: what a classifier looks at."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cellwright.core.errors import AxesError, SettingsError
from cellwright.ops.labels import equivalent_diameters

Padding = Literal["zero", "edge"]
"""What lies beyond the image: nothing, or its outermost pixels repeated."""

PadMode = Literal["constant", "edge"]
PAD_MODES: dict[str, PadMode] = {"zero": "constant", "edge": "edge"}  # numpy's names of these
WINDOW_STEP_PX = 64  # windows that are cut from an image begin at multiples of it
FARTHEST_SIZE = 3.0  # octaves by which a cell is told from the others at most


def extents_of(
    boxes: NDArray[np.float32], areas: NDArray[np.float32], default_px: float = np.nan
) -> NDArray[np.float32]:
    """Return the extent of each cell in pixels: the longer side of its box along Y and X.

    Where a box is empty the diameter of the disc of the cell's area stands in, and ``default_px`` where that
    is empty too.

    ``boxes``, float32 (N, 2, D), are first and one-past-last corners, whose last two axes are Y and X;
    ``areas`` is float32 (N,).
    """
    extents = np.maximum(boxes[:, 1, -2:] - boxes[:, 0, -2:], 0).max(axis=1, initial=0)
    extents = np.where(extents > 0, extents, equivalent_diameters(areas))
    return np.where(extents > 0, extents, default_px).astype(np.float32)


def typical_extent(extents: NDArray[np.float32]) -> float:
    """Return the median of the extents that are known, in pixels; 1 when none is."""
    known = extents[np.isfinite(extents)]
    return float(np.median(known)) if known.size else 1.0


def relative_sizes(extents: NDArray[np.float32], typical_px: float) -> NDArray[np.float32]:
    """Return how much larger each cell is than the typical one, in octaves (0 = equal, 1 = twice as large).

    Examples
    --------
    >>> relative_sizes(np.array([20.0, 40.0, 10.0], np.float32), 20.0).tolist()
    [0.0, 1.0, -1.0]
    """
    octaves = np.log2(np.maximum(extents, 1e-3) / typical_px)
    return np.clip(octaves, -FARTHEST_SIZE, FARTHEST_SIZE).astype(np.float32)


def crops(
    image: NDArray[np.float32],
    points: NDArray[np.float32],
    sides_px: NDArray[np.float32],
    size: int,
    *,
    padding: Padding = "edge",
) -> NDArray[np.float32]:
    """Return a square window around each point, resampled to ``size`` pixels; (N, C, size, size).

    Bilinear. Windows that shrink to less than half are taken from the image averaged over 2 x 2 pixels (as
    often as needed), so that nothing falls between the samples.

    The image is float32 (C, Y, X); the points, float32 (N, 2), may lie near or beyond its border. The side of
    each window, float32 (N,), is in pixels of the image, above 0.

    SettingsError for unknown padding.

    Examples
    --------
    >>> image = np.arange(36, dtype=np.float32).reshape(1, 6, 6)
    >>> crops(image, np.array([[2.5, 2.5]]), np.array([2.0]), 2)[0, 0].tolist()
    [[14.0, 15.0], [20.0, 21.0]]
    """
    if padding not in PAD_MODES:
        raise SettingsError(
            f"Padding must be one of {', '.join(PAD_MODES)}; got {padding!r}. Choose one of these."
        )
    mode = PAD_MODES[padding]
    cut = np.empty((len(points), len(image), size, size), np.float32)
    if len(points) == 0:
        return cut
    most = min(image.shape[-2:]).bit_length()
    halvings = np.clip(np.floor(np.log2(sides_px / size)), 0, most).astype(int)
    for level, plane in enumerate(_halved(image, int(halvings.max()), mode)):
        rows = np.flatnonzero(halvings == level)
        if rows.size:
            scale = 0.5**level
            centres = (points[rows] + 0.5) * scale - 0.5
            steps = (sides_px[rows] * scale / size).astype(np.float32)
            cut[rows] = _sampled(plane, centres.astype(np.float32), steps, size, mode)
    return cut


def with_channels(cut: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """Return crops (N, C, S, S) with ``n`` channels: grey is repeated, more than one are averaged to grey.

    AxesError where neither makes ``n`` channels of those given.
    """
    given = cut.shape[1]
    if given == n:
        return cut
    if given == 1:
        return np.repeat(cut, n, axis=1)
    if n == 1:
        return cut.mean(axis=1, keepdims=True)
    raise AxesError(f"The classifier takes {n} channels; got an image of {given}. Choose one channel.")


def window_of(
    points: NDArray[np.float32], sides_px: NDArray[np.float32], shape: tuple[int, int]
) -> tuple[slice, slice]:
    """Return the rows and columns of an image of this shape that hold the crops around these points.

    The window begins at multiples of 64 pixels, so that what is averaged before sampling does not depend on
    which cells are cut together, and is never empty.
    """
    step = WINDOW_STEP_PX
    reach = sides_px[:, None] / 2 + step
    low = np.floor((points - reach).min(axis=0) / step) * step
    high = np.ceil((points + reach).max(axis=0) / step) * step
    rows, columns = (
        slice(int(np.clip(first, 0, (n - 1) // step * step)), int(np.clip(end, 1, n)))
        for first, end, n in zip(low, high, shape, strict=True)
    )
    return rows, columns


def _halved(image: NDArray[np.float32], n: int, mode: PadMode) -> Iterator[NDArray[np.float32]]:
    """Yield the image and its ``n`` averages, each half as large as the one before."""
    yield image
    for _ in range(n):
        height, width = image.shape[-2:]
        even = np.pad(image, ((0, 0), (0, height % 2), (0, width % 2)), mode=mode)
        image = even.reshape(len(even), even.shape[1] // 2, 2, even.shape[2] // 2, 2).mean(axis=(2, 4))
        yield image


def _sampled(
    plane: NDArray[np.float32],
    centres: NDArray[np.float32],
    steps: NDArray[np.float32],
    size: int,
    mode: PadMode,
) -> NDArray[np.float32]:
    """Bilinear samples, ``steps`` (N,) pixels apart, around centres (N, 2): (N, C, size, size)."""
    ringed = np.pad(plane, ((0, 0), (1, 1), (1, 1)), mode=mode)
    offsets = np.arange(size) + 0.5 - size / 2
    low, weights = [], []
    for axis in (0, 1):
        last = ringed.shape[1 + axis] - 1
        at = np.clip(centres[:, axis, None] + offsets * steps[:, None] + 1, 0, last)  # 1 for the ring
        first = np.minimum(at.astype(np.int64), last - 1)
        low.append(first)
        weights.append((at - first).astype(np.float32))
    y, x = low[0][:, :, None], low[1][:, None, :]
    down, right = weights[0][:, :, None], weights[1][:, None, :]
    top = ringed[:, y, x] * (1 - right) + ringed[:, y, x + 1] * right
    bottom = ringed[:, y + 1, x] * (1 - right) + ringed[:, y + 1, x + 1] * right
    return np.moveaxis(top * (1 - down) + bottom * down, 0, 1)
