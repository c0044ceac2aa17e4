"""One cell taken for two: cut it along a line, or between two points."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike as NumpyLike
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import line as draw_line
from skimage.graph import MCP_Geometric

from cellwright.core.data import Labels
from cellwright.core.errors import AnnotationError
from cellwright.ops.label_changes import Box, Change, Mask, cell_in, change_of, new_number, vertices_of

CRUMB_VOXELS = 3  # fewer that a cut leaves over are no cell
WAIST_COST = 1.5  # power of the depth; of 0 to 4 the one that cut most pairs of touching nuclei right
SNAP_PX = 4.0  # how far beside the cell a seed may be set


def split_by_line(
    labels: Labels, number: int, line: NumpyLike, *, new: int | None = None, box: Box | None = None
) -> Change | None:
    """Return the change that cuts a cell along a line; the largest part keeps the number.

    The ends of the line are lengthened to the border of the cell. In a volume the cut goes through all
    slices, at right angles to the plane the line was drawn in::

        drawn     . 1 1 1 1 .        cut   . 1 1 2 2 .
                  1 1 | 1 1 1              1 1 1 2 2 2
                  . 1 | 1 1 .              . 1 1 2 2 .

    Parameters
    ----------
    line : (N, D)
        Its vertices in pixels; the first pixel's middle is at 0.
    new
        Number of the first part that is new, the next ones follow; one above all others when not given.

    Raises
    ------
    AnnotationError
        The cell is not there, or the line does not cut it.
    """
    cell = cell_in(labels, number, box)
    vertices = vertices_of(line, labels.ndim) - [part.start for part in cell.window]
    axis = _depth_axis(vertices)
    flat: Mask = cell.mask if axis is None else np.asarray(cell.mask.any(axis=axis))
    cut = _cut(flat, vertices if axis is None else np.delete(vertices, axis, axis=1))
    parts, n_parts = ndimage.label(cell.mask & ~(cut if axis is None else np.expand_dims(cut, axis)))
    parts = _without_crumbs(parts, n_parts)
    numbers = _numbers_of_parts(parts, cell.mask, number, new_number(labels, new))
    if len(set(numbers.values())) < 2:
        raise AnnotationError(
            f"The line must cross cell {number} so that a part lies on each side; it does not cut it. Draw "
            "it from border to border of the cell."
        )
    table = np.zeros(int(parts.max()) + 1, np.int32)
    table[list(numbers)] = list(numbers.values())
    after = cell.around.copy()
    after[cell.mask] = table[_spread(parts)[cell.mask]]
    return change_of(labels, cell.window, after)


def split_by_seeds(
    labels: Labels,
    number: int,
    seeds: NumpyLike,
    *,
    sampling: Sequence[float] | None = None,
    new: int | None = None,
    box: Box | None = None,
) -> Change | None:
    """Return the change that cuts a cell between two points, where it is thin.

    The part of the first seed keeps the number. Each voxel goes to the seed that is nearer to it when every
    step costs the more the closer it is to the border of the cell, so that a waist is far from both. (The
    usual watershed of the distance to the border needs seeds in the very middle of the parts: else the
    deeper part takes most of the other.)

    Parameters
    ----------
    seeds : (2, D)
        In pixels; a seed a little beside the cell counts as on its border.

    Raises
    ------
    AnnotationError
        The cell is not there, or the seeds are not two places in it.

    Notes
    -----
    Source: distances by cost as in L. D. Cohen and R. Kimmel, International Journal of Computer Vision 24,
    57 (1997), doi:10.1023/A:1007922224810; the cost is our own.
    """
    cell = cell_in(labels, number, box, margin=1)
    places = vertices_of(seeds, labels.ndim) - [part.start for part in cell.window]
    if len(places) != 2:
        raise AnnotationError(f"Splitting needs two seeds; got {len(places)}. Click twice in the cell.")
    first, second = (_snapped(cell.mask, place, number) for place in places)
    if first == second:
        raise AnnotationError(
            f"The two seeds must be different places of cell {number}; both are at {first}. "
            "Click in the middle of each part."
        )
    depth = ndimage.distance_transform_edt(np.pad(cell.mask, 1), sampling=sampling)
    depth = depth[(slice(1, -1),) * depth.ndim]
    costs = np.where(cell.mask, np.maximum(depth, 0.5) ** -WAIST_COST, -1.0)
    to_first, to_second = (_distances(costs, seed, sampling) for seed in (first, second))
    is_second = cell.mask & (to_second < to_first)
    after = np.where(is_second, np.int32(new_number(labels, new)), cell.around)
    return change_of(labels, cell.window, after)


def _depth_axis(vertices: NDArray[np.float64]) -> int | None:
    """Return the axis of a volume along which a line was not drawn, None in a plane."""
    if vertices.shape[1] == 2:
        return None
    still = np.flatnonzero(np.ptp(vertices, axis=0) < 0.5)
    if not len(still):
        raise AnnotationError(
            "A line that cuts a volume must lie in one plane; this one runs along all axes. Draw it in one "
            "slice."
        )
    return int(still[0])


def _cut(mask: Mask, vertices: NDArray[np.float64]) -> Mask:
    """Return the pixels of a line whose ends are lengthened to the border of the mask."""
    moves = np.linalg.norm(np.diff(vertices, axis=0), axis=1) > 0
    path = np.concatenate([vertices[:1], vertices[1:][moves]])
    cut = np.zeros_like(mask)
    if len(path) < 2:
        return cut
    path = np.concatenate([[_border(mask, path[1], path[0])], path, [_border(mask, path[-2], path[-1])]])
    far = 2.0 * np.array(mask.shape)
    places = np.rint(np.clip(path, -far, 3 * far)).astype(int)
    for start, stop in pairwise(places):
        on_line = np.stack(draw_line(*start, *stop))  # type: ignore[no-untyped-call]
        inside = ((on_line >= 0) & (on_line < np.array(mask.shape)[:, np.newaxis])).all(axis=0)
        cut[tuple(on_line[:, inside])] = True
    return cut


def _border(mask: Mask, before: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where a line that ends inside the mask leaves it when lengthened; else its end."""
    step = (end - before) / np.linalg.norm(end - before) / 2
    place = end
    while np.all(np.rint(place) >= 0) and np.all(np.rint(place) < mask.shape):
        if not mask[tuple(np.rint(place).astype(int))]:
            return place
        place = place + step
    return place


def _without_crumbs(parts: Labels, n_parts: int) -> Labels:
    sizes = np.bincount(parts.ravel(), minlength=n_parts + 1)
    cleaned: Labels = np.where(sizes[parts] < CRUMB_VOXELS, 0, parts)
    return cleaned


def _numbers_of_parts(parts: Labels, mask: Mask, number: int, new: int) -> dict[int, int]:
    """Return the number of each part: within each piece of the cell the largest keeps that of the cell."""
    pieces, n_pieces = ndimage.label(mask)
    sizes = np.bincount(parts.ravel())
    numbers: dict[int, int] = {}
    for piece in range(1, n_pieces + 1):
        inside = np.unique(parts[pieces == piece])
        for rank, part in enumerate(sorted(inside[inside > 0], key=lambda part: -sizes[part])):
            numbers[int(part)] = number if rank == 0 else new
            new += rank > 0
    return numbers


def _spread(parts: Labels) -> Labels:
    """Return for every voxel the part that is nearest to it."""
    _, nearest = ndimage.distance_transform_edt(parts == 0, return_indices=True)
    spread: Labels = parts[tuple(nearest)]
    return spread


def _distances(
    costs: NDArray[np.float64], seed: tuple[int, ...], sampling: Sequence[float] | None
) -> NDArray[np.float64]:
    """Return the cost of the cheapest way from a seed to each voxel, infinite where there is none."""
    distances: NDArray[np.float64] = MCP_Geometric(costs, sampling=sampling).find_costs([seed])[0]
    return distances


def _snapped(mask: Mask, place: NDArray[np.float64], number: int) -> tuple[int, ...]:
    """Return the voxel of the mask nearest to a seed."""
    voxels = np.argwhere(mask)
    distances = np.linalg.norm(voxels - place, axis=1)
    nearest = int(distances.argmin())
    if distances[nearest] > SNAP_PX:
        raise AnnotationError(
            f"Seeds must lie in cell {number}; one lies {distances[nearest]:.0f} pixels beside it. Click "
            "twice in the same cell."
        )
    return tuple(int(i) for i in voxels[nearest])
