"""Perimeters and surfaces of all cells of a label image at once, for pixels of any shape.

Crofton's formula: the length of an outline is the mean, over all directions, of how often parallel lines
cross it. A line crosses a cell's outline between two pixels along a lattice direction of which one belongs
to the cell and the other does not.

Source: Lehmann and Legland, Efficient N-dimensional surface estimation using Crofton formula and
run-length encoding, Insight Journal 2012; the same as ``skimage.measure.perimeter_crofton`` with more
directions, and with weights for pixels that are not square.
"""

from functools import lru_cache
from itertools import product
from math import gcd
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import SphericalVoronoi

from cellwright.core.data import Labels

N_ANGLES = 8  # directions in 2D; 13 in 3D
LONGEST = {2: 5**0.5, 3: 3**0.5}  # of a step, in units of the longest side of a pixel


class Directions(NamedTuple):
    """Steps from pixel to pixel, their lengths and the share of all directions each stands for."""

    steps: NDArray[np.intp]  # (D, ndim)
    lengths: NDArray[np.float64]
    weights: NDArray[np.float64]


def boundary_sizes(labels: Labels, n: int, spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the perimeter (2D) or surface (3D) of each of the labels 1..n, edges of the image included.

    Parameters
    ----------
    labels : int (Y, X) or (Z, Y, X)
        0 is background.
    n
        Highest label.
    spacing
        Sides of a pixel; the unit of the result is theirs, squared in 3D.
    """
    steps, lengths, weights = directions(spacing)
    reach = np.abs(steps).max(axis=0)
    padded = np.pad(labels, [(int(r), int(r)) for r in reach])
    crossings = np.zeros(n + 1)
    for step, length, weight in zip(steps.tolist(), lengths, weights, strict=True):
        here = padded[tuple(slice(max(0, -s), min(len_, len_ - s)) for s, len_ in zip_shape(step, padded))]
        there = padded[tuple(slice(max(0, s), min(len_, len_ + s)) for s, len_ in zip_shape(step, padded))]
        changes = here != there
        both = np.concatenate([here[changes], there[changes]])
        crossings += weight / length * np.bincount(both, minlength=n + 1)
    factor = np.pi / 2 if labels.ndim == 2 else 2.0
    sizes: NDArray[np.float64] = factor * np.prod(spacing) * crossings[1:]
    return sizes


def zip_shape(step: list[int], array: Labels) -> list[tuple[int, int]]:
    """Return pairs of the step along each axis and the length of that axis."""
    return list(zip(step, array.shape, strict=True))


@lru_cache(maxsize=16)
def directions(spacing: tuple[float, ...]) -> Directions:
    """Return lattice directions that lie evenly around, as far as pixels of this shape allow."""
    sides = np.array(spacing, np.float64)
    ndim = len(sides)
    longest = LONGEST[ndim] * sides.max() * (1 + 1e-9)
    steps = _lattice([int(longest // side) for side in sides])
    lengths = np.linalg.norm(steps * sides, axis=1)
    steps, lengths = steps[lengths <= longest], lengths[lengths <= longest]
    units = steps * sides / lengths[:, np.newaxis]
    agreement = np.abs(_targets(ndim) @ units.T) - 1e-9 * lengths  # of equal directions the shorter step
    chosen = np.unique(agreement.argmax(axis=1))
    return Directions(steps[chosen], lengths[chosen], _shares(units[chosen]))


def _lattice(reach: list[int]) -> NDArray[np.intp]:
    """Return all steps up to this far that are no multiple of a shorter one, one of each opposite pair."""
    found = []
    for step in product(*(range(-n, n + 1) for n in reach)):
        first = next((s for s in step if s), 0)
        if first > 0 and gcd(*step) == 1:
            found.append(step)
    return np.array(found, np.intp)


def _targets(ndim: int) -> NDArray[np.float64]:
    if ndim == 2:
        angles = np.arange(N_ANGLES) * np.pi / N_ANGLES
        return np.stack([np.sin(angles), np.cos(angles)], axis=1)
    steps = _lattice([1, 1, 1]).astype(np.float64)
    return np.asarray(steps / np.linalg.norm(steps, axis=1, keepdims=True))


def _shares(units: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of all directions that are nearest to each of these and their opposites."""
    if units.shape[1] == 3:
        areas = SphericalVoronoi(np.concatenate([units, -units])).calculate_areas()
        return np.asarray((areas[: len(units)] + areas[len(units) :]) / areas.sum())
    angles = np.arctan2(units[:, 0], units[:, 1]) % np.pi
    order = np.argsort(angles)
    gaps = np.diff(angles[order], append=angles[order[0]] + np.pi)
    shares = np.empty(len(units))
    shares[order] = (gaps + np.roll(gaps, 1)) / (2 * np.pi)
    return shares
