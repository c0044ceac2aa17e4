"""Cells <-> a density map whose integral is their count, also of whole numbers in each piece of foreground.

Source: the targets of Cellcounter: a Gaussian of variance 0.1 x area about each centroid, divided by its sum.
Narrower ones tell neighbours apart and where in a patch a cell belongs, so that fewer are miscounted.
"""

from dataclasses import dataclass
from itertools import product
from math import pi, sqrt
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.settings import BoundedSettings, about
from cellwright.ops.geometry.resample import Grid
from cellwright.ops.geometry.tiles import Window, padded, pieces

VARIANCE = 0.1  # of a cell's Gaussian, in areas of the cell, as in the reference
REACH = 4.0  # standard deviations drawn
FOREGROUND = 0.5  # probability from which a pixel is taken for part of a cell
WINDOW_PX = 2048  # what is looked at together
LARGEST_PX = 512  # pieces longer or wider than this are crowds, and stay as they are
FEWEST = 0.25  # of a cell: a piece that holds less is none

Density = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class DensitySettings(BoundedSettings):
    """What can be changed after the network has run."""

    calibration: Annotated[
        float,
        about(
            "True cells for each cell the model counts, from some boxes counted by hand; where it "
            "is far from 1, choose another model or state the diameter.",
            0.01,
            100.0,
            step=0.01,
        ),
    ] = 1.0
    calibration_error: Annotated[
        float,
        about(
            "Standard error of the calibration, as a share of it; widens the interval.", 0.0, 10.0, step=0.01
        ),
    ] = 0.0


def cells_to_density(
    points: NDArray[np.float32],
    areas: NDArray[np.float32],
    shape: tuple[int, int],
    variance: float = VARIANCE,
) -> NDArray[np.float32]:
    """Return the density (1, Y, X) in cells per pixel; each cell integrates to exactly 1, also at a border.

    Of ``points`` (N, 2), centroids in pixels of an image of ``shape`` (Y, X), each becomes a Gaussian of
    ``variance`` times the area of its cell, of ``areas`` (N,) in pixels.
    """
    density = np.zeros(shape, np.float64)
    for (y, x), area in zip(points, areas, strict=True):
        width = variance * max(float(area), 1.0)
        reach = int(np.ceil(REACH * width**0.5))
        top, left = max(round(float(y)) - reach, 0), max(round(float(x)) - reach, 0)
        rows = np.arange(top, min(round(float(y)) + reach + 1, shape[0]))
        columns = np.arange(left, min(round(float(x)) + reach + 1, shape[1]))
        drawn = np.outer(
            np.exp(-((rows - y) ** 2) / (2 * width)), np.exp(-((columns - x) ** 2) / (2 * width))
        )
        total = drawn.sum()
        if total > 0:
            density[top : top + len(rows), left : left + len(columns)] += drawn / total
    return density[np.newaxis].astype(np.float32)


def resize_density(density: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """Return a density (Y, X) at another size, each pixel given what falls on it: the sum stays as it is."""
    if grid == grid.back:
        return density
    resized = _spread(_spread(density.astype(np.float64), grid.edges(0)).T, grid.edges(1)).T
    return np.ascontiguousarray(resized, np.float32)


def _spread(mass: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mass between edges instead of that of the rows there are."""
    total = np.concatenate([np.zeros((1, mass.shape[1])), np.cumsum(mass, axis=0)])
    before = np.minimum(edges.astype(np.intp), len(mass) - 1)
    part = (edges - before)[:, np.newaxis]
    return np.diff(total[before] * (1 - part) + total[before + 1] * part, axis=0)


def even_out(density: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a density (Y, X) shared between neighbouring pixels, with the same sum.

    The four pixels that a network gives for one of its own may share a cell unevenly, which means nothing.
    """
    for axis in (0, 1):
        density = ndimage.convolve1d(density, (0.25, 0.5, 0.25), axis=axis, mode="reflect")
    return density


def typical_diameter(density: NDArray[np.float32], variance: float = VARIANCE) -> float:
    """Return the diameter in pixels that cells of this density (Y, X) have; 0 when there is none.

    A Gaussian of variance v A has its own mean density 1 / (4 pi v A); where cells lie side by side without a
    gap that of the whole is 1 / A, so that the area is at most a fifth too small where v is 0.1. A blurred
    density makes cells look larger: where the foreground is known, :func:`mean_diameter` tells more.
    """
    squares = float(np.sum(np.square(density, dtype=np.float64)))
    if squares == 0:
        return 0.0
    area = float(density.sum(dtype=np.float64)) / (4 * pi * variance * squares)
    return sqrt(4 / pi * area)


def mean_diameter(density: NDArray[np.float32], foreground: NDArray[np.float32]) -> float:
    """Return the diameter in pixels of a disc as large as the mean cell; 0 when there is none.

    ``density`` is in cells per pixel, ``foreground`` the probability that a pixel belongs to a cell; both
    (..., Y, X).
    """
    n_cells = float(density.sum(dtype=np.float64))
    if n_cells <= 0:
        return 0.0
    return sqrt(4 / pi * np.count_nonzero(foreground > FOREGROUND) / n_cells)


def to_integer_counts(density: Density, foreground: Mask) -> Density:
    """Return a density (Y, X) of which every piece of foreground (Y, X) holds a whole number of cells.

    Both in the same pixels. A piece with a quarter of a cell and more holds at least one. The density of
    the background, and that of pieces more than 512 pixels long, stays as it is.
    """
    result = density.copy()
    for core in product(*(pieces(length, WINDOW_PX) for length in density.shape)):
        window = padded(core, LARGEST_PX + 1, density.shape)  # every piece lies whole in one of these
        labels, factors = _pieces(density[window], foreground[window], core, window)
        result[window] *= factors[labels]
    return result


def _pieces(
    density: Density, foreground: Mask, core: Window, window: Window
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the labels of the pieces of a window, and by what the density in each has to be multiplied.

    Pieces that begin outside its core are another window's and stay.
    """
    labels, _ = ndimage.label(foreground, np.ones((3, 3)), output=np.int32)
    held = np.asarray(np.bincount(labels.ravel(), density.ravel()), np.float64)
    wanted = np.where(held >= FEWEST, np.maximum(np.rint(held), 1), 0.0)
    wanted[0] = held[0]
    begins = (core[0].start - window[0].start, core[1].start - window[1].start)
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        is_own = all(0 <= side.start - begin < WINDOW_PX for side, begin in zip(box, begins, strict=True))
        is_crowd = any(side.stop - side.start > LARGEST_PX for side in box)
        if is_crowd or not is_own:
            wanted[number] = held[number]
    factors = np.ones(len(held), np.float32)
    np.divide(wanted, held, out=factors, where=held > 0, casting="same_kind")
    return labels, factors
