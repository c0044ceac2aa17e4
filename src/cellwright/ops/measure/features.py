"""Features of cells: shape (outline, convexity, the ellipse of the same moments), intensity, neighbours.

Outlines are measured for all cells of a block at once, for pixels of any shape, by Crofton's formula: the
length of an outline is the mean, over all directions, of how often parallel lines cross it. A line crosses
a cell's outline between two pixels along a lattice direction of which one belongs to the cell and the
other does not. The rest equals what ``skimage.measure.regionprops`` tells.

Source: Lehmann and Legland, Efficient N-dimensional surface estimation using Crofton formula and run-length
encoding, Insight Journal 2012; the same as ``skimage.measure.perimeter_crofton`` with more directions, and
with weights for pixels that are not square.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product
from math import ceil, gcd
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.data import Cells, Labels
from cellwright.core.errors import SettingsError
from cellwright.ops.measure.blocks import CellBlock
from cellwright.ops.watershed import onward

CORRECTED = "intensity_corrected_mean"
Values = dict[str, NDArray[np.float64]]
BOUNDARIES = {"perimeter", "surface", "circularity", "sphericity"}
ELLIPSES = {"eccentricity", "orientation", "axis_major", "axis_minor"}
LONGEST_PIXEL = 250  # times its shortest side; more is a slip of units
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
        from skimage.measure import regionprops  # slow to import

        regions = regionprops(block.own)
        found["solidity"] = np.array([_solidity(region) for region in regions])
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


def _solidity(region: Any) -> float:
    if region.image.ndim == 3 and np.linalg.matrix_rank(region.coords - region.coords.mean(axis=0)) < 3:
        return 1.0  # a line or a plane in a volume has no hull
    return float(region.area / region.area_convex)


class Directions(NamedTuple):
    """Steps from pixel to pixel, their lengths and the share of all directions each stands for."""

    steps: NDArray[np.intp]  # (D, ndim)
    lengths: NDArray[np.float64]
    weights: NDArray[np.float64]


def boundary_sizes(labels: Labels, n: int, spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the perimeter (2D) or surface (3D) of each of the labels 1..n, edges of the image included.

    ``spacing`` are the sides of a pixel; the unit of the result is theirs, squared in 3D.
    """
    steps, lengths, weights = directions(spacing)
    reach = np.abs(steps).max(axis=0)
    padded = np.pad(labels, [(int(r), int(r)) for r in reach])
    crossings = np.zeros(n + 1)
    for step, length, weight in zip(steps.tolist(), lengths, weights, strict=True):
        here, there = _shifted(padded, step)
        changes = here != there
        both = np.concatenate([here[changes], there[changes]])
        crossings += weight / length * np.bincount(both, minlength=n + 1)
    factor = np.pi / 2 if labels.ndim == 2 else 2.0
    return factor * np.prod(spacing) * crossings[1:]


def _shifted(labels: Labels, step: Sequence[int]) -> tuple[Labels, Labels]:
    """Return each pixel, and the one that lies a step from it, where both are in the image."""
    pairs = list(zip(step, labels.shape, strict=True))
    here = tuple(slice(max(0, -s), n - max(0, s)) for s, n in pairs)
    there = tuple(slice(max(0, s), n + min(0, s)) for s, n in pairs)
    return labels[here], labels[there]


@lru_cache(maxsize=16)
def directions(spacing: tuple[float, ...]) -> Directions:
    """Return lattice directions that lie evenly around, as far as pixels of this shape allow.

    SettingsError where pixels are so long that steps as long in every direction have too many of them.
    """
    sides = np.array(spacing, np.float64)
    if not sides.max() <= LONGEST_PIXEL * sides.min():
        raise SettingsError(
            f"Outlines are measured in pixels whose sides differ by up to {LONGEST_PIXEL:,} times; got "
            f"{' x '.join(f'{side:g}' for side in spacing)} µm. Give the pixel size (--pixel-size)."
        )
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
    """Return all steps up to this far that are not a multiple of a shorter one, one of each opposite pair."""
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
        from scipy.spatial import SphericalVoronoi  # slow to import

        areas = SphericalVoronoi(np.concatenate([units, -units])).calculate_areas()
        return np.asarray((areas[: len(units)] + areas[len(units) :]) / areas.sum())
    angles = np.arctan2(units[:, 0], units[:, 1]) % np.pi
    order = np.argsort(angles)
    gaps = np.diff(angles[order], append=angles[order[0]] + np.pi)
    shares = np.empty(len(units))
    shares[order] = (gaps + np.roll(gaps, 1)) / (2 * np.pi)
    return shares


class CellPixels(NamedTuple):
    """Where the pixels of each cell are; made once for all channels."""

    places: NDArray[np.intp]  # in the flat image
    ids: Labels  # of the cell of each
    n: int

    @classmethod
    def of(cls, labels: Labels, n: int) -> "CellPixels":
        """Return those of the labels 1..n."""
        places = np.flatnonzero(labels)
        return cls(places, labels.reshape(-1)[places], n)

    def statistics(self, pixels: NDArray[Any]) -> Callable[[str], NDArray[np.float64]]:
        """Return what gives the ``mean``, ``median`` ... of each cell in one channel, by its name in pandas.

        It is NaN for cells without pixels, and where a pixel is.
        """
        import pandas  # slow to import

        values = pandas.Series(pixels.reshape(-1)[self.places].astype(np.float64))
        grouped, unknown = values.groupby(self.ids), self.ids[values.isna()]

        def statistic(name: str) -> NDArray[np.float64]:
            of_cells = grouped.std(ddof=0) if name == "std" else getattr(grouped, name)()
            found = np.full(self.n + 1, np.nan)
            found[of_cells.index] = of_cells
            found[unknown] = np.nan
            return found[1:]

        return statistic


def measure_intensity(
    cells: CellPixels, pixels: NDArray[Any], keys: Sequence[str], ring: CellPixels | None = None
) -> Values:
    """Return these columns of the group ``intensity`` for each cell; NaN without pixels.

    ``pixels`` are those of one channel in the shape of the labels; ``ring`` is the background around each
    cell, for ``intensity_corrected_mean``.
    """
    statistic, found = cells.statistics(pixels), {}
    for key in keys:
        if key == CORRECTED:
            assert ring is not None
            found[key] = statistic("mean") - ring.statistics(pixels)("median")
        else:
            found[key] = statistic(key.removeprefix("intensity_"))
    return found


def rings(
    labels: Labels, own: Labels, gap_px: float, width_px: float, spacing: Sequence[float] = ()
) -> Labels:
    """Return a ring around each cell: from ``gap_px`` to ``gap_px + width_px`` away from it.

    A pixel belongs to the cell it is nearest to; pixels of cells, also of others, belong to none. Around
    cells it is background, around nuclei without outlines of their cells it is cytoplasm.

    ``labels``, int (Y, X) or (Z, Y, X), has all cells of a frame; ``own`` the numbers that the rings are to
    have, 0 for cells that need none. ``spacing`` are the sides of a pixel; distances are in those along x.
    """
    sampling = np.asarray(spacing or (1.0,) * labels.ndim) / (spacing or (1.0,))[-1]
    distance, nearest = ndimage.distance_transform_edt(labels == 0, sampling, return_indices=True)
    around: Labels = own[tuple(nearest)]
    around[(distance <= gap_px) | (distance > gap_px + width_px)] = 0
    return around


def ring_margins(width_px: float, spacing: Sequence[float]) -> tuple[int, ...]:
    """Return how many pixels along each axis matter around a cell: as far as its ring, and again as far.

    ``width_px`` is in pixels along x, the last of the sides of a pixel.
    """
    return tuple(2 * ceil(width_px * spacing[-1] / side) + 2 for side in spacing)


def count_touching(block: CellBlock) -> NDArray[np.float64]:
    """Return with how many other cells each cell of a block shares a side, an edge or a corner of a pixel."""
    pairs = touching_pairs(block.labels)
    touched = np.bincount(pairs.ravel(), minlength=int(block.rows.max(initial=0)) + 2)
    return touched[block.rows + 1].astype(np.float64)


def touching_pairs(labels: Labels) -> NDArray[np.int64]:
    """Return each pair (a, b), a < b, of labels that touch, once (M, 2)."""
    found = [np.zeros((0, 2), np.int64)]
    for step in onward(labels.ndim):
        here, there = _shifted(labels, step)
        meet = (here != there) & (here > 0) & (there > 0)
        pairs = np.stack([here[meet], there[meet]], axis=1).astype(np.int64)
        found.append(np.unique(np.sort(pairs, axis=1), axis=0))
    return np.asarray(np.unique(np.concatenate(found), axis=0))


def nearest_distances(cells: Cells, spacing: Sequence[float]) -> NDArray[np.float64]:
    """Return the distance of each centre to the nearest other one of its frame; NaN for a lone one.

    ``spacing`` are the sides of a pixel along the spatial axes; the unit of the result is theirs.
    """
    ndim = len(spacing)
    distances = np.full(len(cells), np.nan)
    centres = cells.points[:, -ndim:].astype(np.float64) * np.asarray(spacing)
    frames = np.rint(cells.points[:, :-ndim]).astype(np.int64)
    _, frame_of = np.unique(frames, axis=0, return_inverse=True)
    order = np.argsort(frame_of.ravel(), kind="stable")
    ends = np.flatnonzero(np.diff(frame_of.ravel()[order])) + 1
    for rows in np.split(order, ends):
        rows = rows[np.isfinite(centres[rows]).all(axis=1)]
        if len(rows) > 1:
            from scipy.spatial import KDTree  # slow to import

            distances[rows] = KDTree(centres[rows]).query(centres[rows], k=2)[0][:, 1]
    return distances
