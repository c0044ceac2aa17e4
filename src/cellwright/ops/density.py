"""Cells <-> a density map whose integral is their count.

Source: the targets of Cellcounter: a Gaussian of variance 0.1 x area about each centroid, divided by its sum.
"""

import numpy as np
from numpy.typing import NDArray

VARIANCE = 0.1  # of a cell's Gaussian, in areas of the cell
REACH = 4.0  # standard deviations drawn


def cells_to_density(
    points: NDArray[np.float32], areas: NDArray[np.float32], shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Return the density (1, Y, X) in cells per pixel; each cell integrates to exactly 1, also at a border.

    Parameters
    ----------
    points : (N, 2)
        Centroids in pixels.
    areas : (N,)
        Pixels covered by each cell.
    shape
        (Y, X) of the image.
    """
    density = np.zeros(shape, np.float64)
    for (y, x), area in zip(points, areas, strict=True):
        variance = VARIANCE * max(float(area), 1.0)
        reach = int(np.ceil(REACH * variance**0.5))
        top, left = max(round(float(y)) - reach, 0), max(round(float(x)) - reach, 0)
        rows = np.arange(top, min(round(float(y)) + reach + 1, shape[0]))
        columns = np.arange(left, min(round(float(x)) + reach + 1, shape[1]))
        drawn = np.outer(
            np.exp(-((rows - y) ** 2) / (2 * variance)), np.exp(-((columns - x) ** 2) / (2 * variance))
        )
        total = drawn.sum()
        if total > 0:
            density[top : top + len(rows), left : left + len(columns)] += drawn / total
    return density[np.newaxis].astype(np.float32)
