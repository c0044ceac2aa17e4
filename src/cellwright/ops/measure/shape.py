"""The shape of cells: outline, convexity and the ellipse of the same moments.

Outlines are measured for all cells of a block at once, for pixels of any shape, by Crofton's formula: the
length of an outline is the mean, over all directions, of how often parallel lines cross it. A line crosses
a cell's outline between two pixels along a lattice direction of which one belongs to the cell and the
other does not. The rest equals what ``skimage.measure.regionprops`` tells.

Source: Lehmann and Legland, Efficient N-dimensional surface estimation using Crofton formula and run-length
encoding, Insight Journal 2012; the same as ``skimage.measure.perimeter_crofton`` with more directions, and
with weights for pixels that are not square.
"""

import warnings
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from math import gcd
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import SphericalVoronoi
from skimage.measure import regionprops

from cellwright.core.data import Labels
from cellwright.ops.measure.blocks import CellBlock

Values = dict[str, NDArray[np.float64]]
BOUNDARIES = {"perimeter", "surface", "circularity", "sphericity"}
ELLIPSES = {"eccentricity", "orientation", "axis_major", "axis_minor"}
N_ANGLES = 8  # directions in 2D; 13 in 3D
LONGEST = {2: 5**0.5, 3: 3**0.5}  # of a step, in units of the longest side of a pixel


def measure_shape(block: CellBlock, keys: Sequence[str], spacing: tuple[float, ...]) -> Values:
    """Return these columns of the group ``shape`` for the cells of a block, one number for each cell.

    Lengths are in the unit of ``spacing``, the sides of a pixel.
    """
    found: Values = {}
    wanted = set(keys)
    if wanted & BOUNDARIES:
        found |= _boundaries(block, spacing)
    if wanted & ELLIPSES:
        found |= _ellipses(block, spacing)
    if "solidity" in wanted:
        found["solidity"] = _solidities(block)
    return {key: found[key] for key in keys}


def _boundaries(block: CellBlock, spacing: tuple[float, ...]) -> Values:
    n = len(block)
    sizes = boundary_sizes(block.own, n, spacing)
    areas = np.bincount(block.own.ravel(), minlength=n + 1)[1:] * np.prod(spacing)
    if len(spacing) == 2:
        return {"perimeter": sizes, "circularity": 4 * np.pi * areas / sizes**2}
    return {"surface": sizes, "sphericity": np.cbrt(36 * np.pi * areas**2) / sizes}


def _ellipses(block: CellBlock, spacing: tuple[float, ...]) -> Values:
    """Return the axes of the ellipse (ellipsoid) with the same second moments, as ``regionprops`` does."""
    covariances = _covariances(block, np.asarray(spacing))
    values, vectors = np.linalg.eigh(covariances)
    values = np.maximum(values, 0)
    ndim = len(spacing)
    lengths = 2 * np.sqrt((ndim + 2) * values)  # a full ellipse of half axis a has variance a² / (ndim + 2)
    with np.errstate(invalid="ignore"):
        ratios = np.nan_to_num(values[:, 0] / values[:, -1], nan=1.0)
    along_y, along_x = vectors[:, -2, -1], vectors[:, -1, -1]
    angles = np.degrees(np.arctan2(along_x, along_y))
    return {
        "eccentricity": np.sqrt(1 - ratios),
        "orientation": (angles + 90) % 180 - 90,
        "axis_major": lengths[:, -1],
        "axis_minor": lengths[:, 0],
    }


def _covariances(block: CellBlock, spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the variances and covariances of the pixels of each cell (n, D, D)."""
    n, ndim = len(block), len(spacing)
    inside = np.flatnonzero(block.own)
    ids = block.own.reshape(-1)[inside]
    counts = np.bincount(ids, minlength=n + 1)[1:]
    places = np.stack(np.unravel_index(inside, block.own.shape), axis=1) * spacing
    centres = np.stack([np.bincount(ids, axis, n + 1)[1:] / counts for axis in places.T], axis=1)
    away = places - centres[ids - 1]
    found = np.empty((n, ndim, ndim))
    for i in range(ndim):
        for j in range(i, ndim):
            moment = np.bincount(ids, away[:, i] * away[:, j], n + 1)[1:] / counts
            found[:, i, j] = found[:, j, i] = moment
    return found


def _solidities(block: CellBlock) -> NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convex hulls of lines
        return np.array([_solidity(region) for region in regionprops(block.own)])  # type: ignore[no-untyped-call]


def _solidity(region: Any) -> float:
    convex = region.area_convex
    if not convex:  # a line or a plane has no hull
        return 1.0
    return float(region.area / convex)


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
