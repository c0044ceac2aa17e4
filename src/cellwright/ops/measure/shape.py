"""The shape of cells: outline, convexity and the ellipse of the same moments.

Outlines are measured for all cells of a block at once, for pixels of any shape, by Crofton's formula: the
length of an outline is the mean, over all directions, of how often parallel lines cross it. A line crosses
a cell's outline between two pixels along a lattice direction of which one belongs to the cell and the
other does not. The rest is what ``skimage.measure.regionprops`` tells.

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
    if wanted & ELLIPSES or "solidity" in wanted:
        found |= _from_regions(block, wanted, spacing)
    return {key: found[key] for key in keys}


def _boundaries(block: CellBlock, spacing: tuple[float, ...]) -> Values:
    n = len(block)
    sizes = boundary_sizes(block.own, n, spacing)
    areas = np.bincount(block.own.ravel(), minlength=n + 1)[1:] * np.prod(spacing)
    if len(spacing) == 2:
        return {"perimeter": sizes, "circularity": 4 * np.pi * areas / sizes**2}
    return {"surface": sizes, "sphericity": np.cbrt(36 * np.pi * areas**2) / sizes}


def _from_regions(block: CellBlock, wanted: set[str], spacing: tuple[float, ...]) -> Values:
    """Return what scikit-image's ``regionprops`` tells."""
    rows: list[dict[str, float]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convex hulls of lines, whose solidity is then 0 or infinite
        for region in regionprops(block.own, spacing=spacing):  # type: ignore[no-untyped-call]
            row = _ellipse(region) if wanted & ELLIPSES else {}
            if "solidity" in wanted:
                row["solidity"] = _solidity(region)
            rows.append(row)
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


def _solidity(region: Any) -> float:
    convex = region.area_convex
    if not convex:  # a line or a plane has no hull
        return 1.0
    return float(region.area / convex)


def _ellipse(region: Any) -> dict[str, float]:
    if region.image.ndim == 2:
        return {
            "eccentricity": region.eccentricity,
            "orientation": np.degrees(region.orientation),
            "axis_major": region.axis_major_length,
            "axis_minor": region.axis_minor_length,
        }
    values, vectors = np.linalg.eigh(_covariance(region))
    lengths = 2 * np.sqrt(5 * np.maximum(values, 0))  # a full ellipsoid of half axis a has variance a^2 / 5
    ratio = lengths[0] / lengths[-1] if lengths[-1] else 1.0
    _, y, x = vectors[:, -1]
    return {
        "eccentricity": float(np.sqrt(1 - ratio**2)),
        "orientation": _folded(float(np.degrees(np.arctan2(x, y)))),
        "axis_major": float(lengths[-1]),
        "axis_minor": float(lengths[0]),
    }


def _covariance(region: Any) -> NDArray[np.float64]:
    """Return the variances and covariances of the voxels of a region along z, y and x."""
    inertia = np.asarray(region.inertia_tensor)
    return np.asarray(np.eye(3) * np.trace(inertia) / 2 - inertia)


def _folded(angle: float) -> float:
    """Return the angle of a line, -90 to 90."""
    return (angle + 90) % 180 - 90


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
