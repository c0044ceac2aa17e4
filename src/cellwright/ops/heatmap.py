"""Boxes <-> a heatmap of cell centres, with height and width readable at each centre.

The heatmap is not a Gaussian: each cell draws a filled ellipse of 0.4 of its box, blurred by a box filter of
two thirds of it. Unlike the reference, heights are in pixels, not relative to the image (so that tiling cannot
change them), each cell peaks at 1 whatever its size, and where two cells meet the larger value stands.

Source: Wagner and Rohr, CellCentroidFormer, arXiv:2206.00338 (2022).
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

ELLIPSE = 0.4  # semi-axes of a cell's ellipse, in lengths of its box
BLUR = 2 / 3  # side of the box filter, in lengths of its box
BLOCK = 0.5  # part of the box, around its centre, in which its size is written


def boxes_to_heatmap(boxes: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return the heatmap (1, Y, X), 0 to 1, of boxes (N, 2, 2): first and one-past-last corner, in pixels."""
    heatmap = np.zeros(shape, np.float32)
    for first, past in boxes:
        drawn, corner = _drawn_cell(first, past)
        window, part = _overlap(corner, drawn.shape, shape)
        np.maximum(heatmap[window], drawn[part], out=heatmap[window])
    return heatmap[np.newaxis]


def boxes_to_sizes(boxes: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return height and width (2, Y, X) in pixels, written in the middle of each box; 0 elsewhere.

    Small boxes are drawn last, so that a large one around them does not hide them.
    """
    sizes = np.zeros((2, *shape), np.float32)
    extents = boxes[:, 1] - boxes[:, 0]
    for index in np.argsort(-extents.prod(axis=1), kind="stable"):
        extent, centre = extents[index], boxes[index].mean(axis=0)
        low = np.floor(centre - BLOCK / 2 * extent).astype(int).clip(0)
        high = np.maximum(np.ceil(centre + BLOCK / 2 * extent).astype(int), low + 1)
        sizes[:, low[0] : high[0], low[1] : high[1]] = extent[:, np.newaxis, np.newaxis]
    return sizes


def _drawn_cell(
    first: NDArray[np.float32], past: NDArray[np.float32]
) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """The blurred ellipse of one box, at most 1, and the pixel of its first corner."""
    extent = np.maximum(past - first, 1.0)
    reach = np.ceil(extent).astype(int)
    corner = np.floor(first).astype(int) - reach // 2
    lengths = 2 * reach + 1
    axes = [
        (corner[i] + np.arange(lengths[i]) + 0.5 - (first[i] + past[i]) / 2)
        / np.maximum(ELLIPSE * extent[i], 0.6)
        for i in (0, 1)
    ]
    ellipse = (axes[0][:, np.newaxis] ** 2 + axes[1] ** 2 <= 1).astype(np.float32)
    blurred = ndimage.uniform_filter(ellipse, [max(1, int(BLUR * n)) for n in extent], mode="constant")
    peak = blurred.max()
    return blurred / peak if peak > 0 else blurred, (int(corner[0]), int(corner[1]))


def _overlap(
    corner: tuple[int, int], size: tuple[int, ...], shape: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a drawing lies in the image, and which part of the drawing that is."""
    starts = [min(max(c, 0), n) for c, n in zip(corner, shape, strict=True)]
    stops = [max(min(c + m, n), s) for c, m, n, s in zip(corner, size, shape, starts, strict=True)]
    (y0, x0), (y1, x1) = starts, stops
    top, left = corner
    return (
        (slice(y0, y1), slice(x0, x1)),
        (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)),
    )
