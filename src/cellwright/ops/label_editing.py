"""Edits of single cells: what a tool would change, found within the window where it happens.

Each function returns a :class:`Change` and writes nothing; whoever owns the labels applies it, keeps it and
can take it back. ``box`` says where the cell lies, so that the array need not be searched; ``sampling`` is
the length of a voxel along each axis in units of a pixel in the plane. What a tool adds to a cell it takes
from the background, never from another cell.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import ArrayLike as NumpyLike
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import line as draw_line

from cellwright.core.data import Labels
from cellwright.core.errors import AnnotationError
from cellwright.ops.geometry.tiles import overlap
from cellwright.ops.label_changes import (
    Box,
    Change,
    Mask,
    cell_in,
    change_of,
    nearer_part,
    new_number,
    vertices_of,
)

SEAM_PX = 1.5  # background this close to both of two merged cells is theirs
CRUMB_VOXELS = 3  # fewer that a cut leaves over are no cell
SNAP_PX = 4.0  # how far beside the cell a seed may be set


def erase(labels: Labels, number: int, *, box: Box | None = None) -> Change | None:
    """Return the change that makes a cell background."""
    cell = cell_in(labels, number, box)
    return change_of(labels, cell.window, np.where(cell.mask, np.int32(0), cell.around))


def merge(labels: Labels, keep: int, gone: int, *, box: Box | None = None) -> Change | None:
    """Return the change that gives cell ``gone`` to cell ``keep``, with the seam between them.

    ``box`` is that of the cell that is gone.

    AnnotationError where cell ``gone`` is not there, or both are one.
    """
    if keep == gone:
        raise AnnotationError(
            f"Merging needs two cells; got cell {keep} twice. Drag from one cell to another."
        )
    cell = cell_in(labels, gone, box, ceil(SEAM_PX))
    other = cell.around == keep
    seam = _near(other, SEAM_PX) & _near(cell.mask, SEAM_PX) & _closed(other | cell.mask, SEAM_PX)
    seam &= cell.around == 0
    return change_of(labels, cell.window, np.where(cell.mask | seam, np.int32(keep), cell.around))


def grow(
    labels: Labels,
    number: int,
    radius_px: float = 1.0,
    *,
    sampling: Sequence[float] | None = None,
    box: Box | None = None,
) -> Change | None:
    """Return the change that adds all background within ``radius_px`` to a cell."""
    cell = cell_in(labels, number, box, _margins(radius_px, labels.ndim, sampling))
    gained = _near(cell.mask, radius_px, sampling) & (cell.around == 0)
    return change_of(labels, cell.window, np.where(gained, np.int32(number), cell.around))


def shrink(
    labels: Labels,
    number: int,
    radius_px: float = 1.0,
    *,
    sampling: Sequence[float] | None = None,
    box: Box | None = None,
) -> Change | None:
    """Return the change that takes the outermost ``radius_px`` of a cell; the edge of the image is no border.

    AnnotationError where the cell is not there, or nothing would be left of it.
    """
    cell = cell_in(labels, number, box, margin=1)
    lost = cell.mask & _near(~cell.mask, radius_px, sampling)
    if lost.sum() == cell.mask.sum():
        raise AnnotationError(
            f"Cell {number} must be thicker than {2 * radius_px:g} pixels to shrink by {radius_px:g}; it is "
            "not. Delete it, or choose a smaller radius."
        )
    return change_of(labels, cell.window, np.where(lost, np.int32(0), cell.around))


def smooth(
    labels: Labels,
    number: int,
    radius_px: float = 2.0,
    *,
    sampling: Sequence[float] | None = None,
    box: Box | None = None,
) -> Change | None:
    """Return the change that rounds the outline of a cell and leaves its size as it is.

    The mask is blurred with ``radius_px``; as many voxels as before are taken, those with the most of the
    cell around them.
    """
    steps = _steps(labels.ndim, sampling)
    cell = cell_in(labels, number, box, _margins(2 * radius_px, labels.ndim, sampling))
    blurred = ndimage.gaussian_filter(cell.mask.astype(np.float32), radius_px / steps, mode="nearest")
    is_free = cell.mask | (cell.around == 0)
    ranked = np.where(is_free, blurred, -1.0) + 1e-4 * cell.mask  # of equals those that are the cell's
    n_voxels = int(cell.mask.sum())
    chosen = np.argsort(-ranked, axis=None, kind="stable")[:n_voxels]
    rounded = np.zeros(cell.mask.size, bool)
    rounded[chosen] = True
    after = np.where(cell.mask, np.int32(0), cell.around)
    after[rounded.reshape(after.shape)] = number
    return change_of(labels, cell.window, after)


def fill_holes(labels: Labels, number: int, *, box: Box | None = None) -> Change | None:
    """Return the change that gives a cell the background it encloses, in a volume slice by slice."""
    cell = cell_in(labels, number, box)
    slices = cell.mask if labels.ndim > 2 else cell.mask[np.newaxis]
    filled = np.stack([ndimage.binary_fill_holes(one) for one in slices]).reshape(cell.mask.shape)
    gained = filled & (cell.around == 0)
    return change_of(labels, cell.window, np.where(gained, np.int32(number), cell.around))


def draw_disc(
    labels: Labels,
    point: NumpyLike,
    diameter_px: float,
    *,
    sampling: Sequence[float] | None = None,
    new: int | None = None,
) -> Change | None:
    """Return the change that draws a new disc, in a volume a ball, on the background.

    AnnotationError where the point lies outside the image, or there is no background within the disc.
    """
    if not diameter_px > 0:
        raise AnnotationError(f"diameter_px must be above 0; got {diameter_px}. Choose that of a cell.")
    centre = vertices_of(point, labels.ndim)[0]
    steps = _steps(labels.ndim, sampling)
    if np.any(centre < -0.5) or np.any(centre > np.array(labels.shape) - 0.5):
        raise AnnotationError(
            f"A cell must be added inside the image of {labels.shape} pixels; got {centre.tolist()}."
            " Click in the image."
        )
    radius = max(diameter_px / 2, 0.5)
    reach = radius / steps
    low = np.clip(np.ceil(centre - reach), 0, np.array(labels.shape) - 1).astype(int)
    high = np.clip(np.floor(centre + reach), low, np.array(labels.shape) - 1).astype(int)
    grids = np.ogrid[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))]
    offsets = zip(grids, centre, steps, strict=True)
    distance = sum(((grid - middle) * step) ** 2 for grid, middle, step in offsets)
    nearest = tuple(np.rint(centre).astype(int) - low)
    mask = np.asarray(distance <= radius**2)
    mask[tuple(np.clip(nearest, 0, np.array(mask.shape) - 1))] = True
    return add_mask(labels, tuple(int(first) for first in low), mask, new=new)


def add_mask(labels: Labels, corner: Sequence[int], mask: Mask, *, new: int | None = None) -> Change | None:
    """Return the change that makes the background under a mask a new cell.

    ``corner`` is where the first voxel of the mask lies in the labels; the mask may reach beyond the image.

    AnnotationError where nothing of the mask lies on background, or it has other axes than the labels.
    """
    mask = np.asarray(mask, bool)
    if mask.ndim != labels.ndim or len(corner) != labels.ndim:
        raise AnnotationError(
            f"A mask and its corner must have {labels.ndim} axes as the labels have; got {mask.ndim} and "
            f"{len(corner)}. Cut it out of an array of the labels' shape."
        )
    window, inside = overlap(corner, mask.shape, labels.shape)
    free = mask[inside] & (labels[window] == 0)
    if not free.any():
        raise AnnotationError(
            "A new cell needs background; there is none under it. Delete or split the cell that is there."
        )
    after = np.where(free, np.int32(new_number(labels, new)), labels[window])
    return change_of(labels, window, after)


def interpolate(
    labels: Labels, number: int, first: int, last: int, *, box: Box | None = None
) -> Change | None:
    """Return the change that draws a cell in the slices between those in which it is drawn.

    Between two slices the outline passes from one to the other: the signed distances to both are mixed,
    each moved with the centre of the cell.

    ``first`` and ``last`` are slices along axis 0; gaps between them are filled.

    AnnotationError where the labels have no slices, or the cell is not in two of the slices.

    Source: S. P. Raya and J. K. Udupa, IEEE Transactions on Medical Imaging 9, 32 (1990),
    doi:10.1109/42.52980.
    """
    if labels.ndim < 3:
        raise AnnotationError(
            "Interpolation needs slices; these labels are a single image. Use it in a volume."
        )
    first, last = min(first, last), max(first, last)
    cell = cell_in(labels, number, box)
    low, high = max(first, cell.window[0].start), min(last, cell.window[0].stop - 1)
    slices = cell.mask[max(0, low - cell.window[0].start) : max(0, high + 1 - cell.window[0].start)]
    drawn = np.flatnonzero(slices.any(axis=tuple(range(1, slices.ndim))))
    if len(drawn) < 2:
        raise AnnotationError(
            f"Cell {number} must be drawn in two slices from {first} to {last}; it is in {len(drawn)}. "
            "Draw it in the first and the last slice."
        )
    window = (slice(low, high + 1), *cell.window[1:])
    after = labels[window].copy()
    for start, stop in pairwise(drawn):
        for index in range(start + 1, stop):
            between = _between(slices[start], slices[stop], (index - start) / (stop - start))
            after[index][between & (after[index] == 0)] = number
    return change_of(labels, window, after)


def split_by_line(
    labels: Labels, number: int, line: NumpyLike, *, new: int | None = None, box: Box | None = None
) -> Change | None:
    """Return the change that cuts a cell along a line; the largest part keeps the number.

    The ends of the line are lengthened to the border of the cell. In a volume the cut goes through all
    slices, at right angles to the plane the line was drawn in::

        drawn     . 1 1 1 1 .        cut   . 1 1 2 2 .
                  1 1 | 1 1 1              1 1 1 2 2 2
                  . 1 | 1 1 .              . 1 1 2 2 .

    ``line`` (N, D) are its vertices in pixels; the first pixel's middle is at 0. The first part that is new
    has the number ``new``, else one above all others; the next ones follow.

    AnnotationError where the cell is not there, or the line does not cut it.
    """
    cell = cell_in(labels, number, box)
    vertices = vertices_of(line, labels.ndim) - [part.start for part in cell.window]
    axis = _depth_axis(vertices)
    if axis is None:
        cut = _cut(cell.mask, vertices)
    else:
        cut = _cut(np.asarray(cell.mask.any(axis=axis)), np.delete(vertices, axis, axis=1))
        cut = np.expand_dims(cut, axis)
    parts, n_parts = ndimage.label(cell.mask & ~cut)
    parts[np.bincount(parts.ravel(), minlength=n_parts + 1)[parts] < CRUMB_VOXELS] = 0
    numbers = _numbers_of_parts(parts, cell.mask, number, new_number(labels, new))
    if len(set(numbers.values())) < 2:
        raise AnnotationError(
            f"The line must cross cell {number} so that a part lies on each side; it does not cut it. Draw "
            "it from border to border of the cell."
        )
    table = np.zeros(int(parts.max()) + 1, np.int32)
    table[list(numbers)] = list(numbers.values())
    _, nearest = ndimage.distance_transform_edt(parts == 0, return_indices=True)
    after = cell.around.copy()
    after[cell.mask] = table[parts[tuple(nearest)][cell.mask]]
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
    step costs the more the closer it is to the border of the cell, so that a neck is far from both. (The
    usual watershed of the distance to the border needs seeds in the very middle of the parts: else the
    deeper part takes most of the other.)

    ``seeds`` (2, D) are in pixels; one a little beside the cell counts as on its border.

    AnnotationError where the cell is not there, or the seeds are not two points in it.

    Source: distances by cost as in L. D. Cohen and R. Kimmel, International Journal of Computer Vision 24,
    57 (1997), doi:10.1023/A:1007922224810; the cost is our own.
    """
    cell = cell_in(labels, number, box, margin=1)
    points = vertices_of(seeds, labels.ndim) - [part.start for part in cell.window]
    if len(points) != 2:
        raise AnnotationError(f"Splitting needs two seeds; got {len(points)}. Click twice in the cell.")
    first, second = (_snapped(cell.mask, point, number) for point in points)
    if first == second:
        raise AnnotationError(
            f"The two seeds must be different places of cell {number}; both are at {first}. "
            "Click in the middle of each part."
        )
    is_second = nearer_part(cell.mask, [second], [first], sampling)
    after = np.where(is_second, np.int32(new_number(labels, new)), cell.around)
    return change_of(labels, cell.window, after)


def _margins(radius_px: float, ndim: int, sampling: Sequence[float] | None) -> list[int]:
    return [ceil(radius_px / step) for step in _steps(ndim, sampling)]


def _steps(ndim: int, sampling: Sequence[float] | None) -> NDArray[np.float64]:
    """Return the length of a voxel along each axis, 1 where it is not given."""
    if sampling is None:
        return np.ones(ndim)
    return np.asarray(sampling, float)


def _near(mask: Mask, radius_px: float, sampling: Sequence[float] | None = None) -> Mask:
    """Return what lies within a radius of the mask, itself included."""
    if not mask.any():
        return np.zeros_like(mask)
    return ndimage.distance_transform_edt(~mask, sampling=sampling) <= radius_px


def _closed(mask: Mask, radius_px: float) -> Mask:
    """Return the mask with what no disc of this radius fits into beside it."""
    return ~_near(~_near(mask, radius_px), radius_px)


def _between(lower: Mask, upper: Mask, share: float) -> Mask:
    """Return the outline at ``share`` of the way from one slice to the other."""
    centres = [np.array(ndimage.center_of_mass(mask)) for mask in (lower, upper)]
    middle = (1 - share) * centres[0] + share * centres[1]
    distances: list[NDArray[Any]] = [
        ndimage.shift(_signed_distance(mask), middle - centre, order=1, mode="nearest")
        for mask, centre in zip((lower, upper), centres, strict=True)
    ]
    return (1 - share) * distances[0] + share * distances[1] > 0


def _signed_distance(mask: Mask) -> NDArray[np.float64]:
    wide = np.pad(mask, 1)
    inside = ndimage.distance_transform_edt(wide) - ndimage.distance_transform_edt(~wide)
    return inside[(slice(1, -1),) * mask.ndim]


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
    pixels = np.rint(np.clip(path, -far, 3 * far)).astype(int)
    for start, stop in pairwise(pixels):
        on_line = np.stack(draw_line(*start, *stop))
        inside = ((on_line >= 0) & (on_line < np.array(mask.shape)[:, np.newaxis])).all(axis=0)
        cut[tuple(on_line[:, inside])] = True
    return cut


def _border(mask: Mask, before: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where a line that ends inside the mask leaves it when lengthened; else its end."""
    step = (end - before) / np.linalg.norm(end - before) / 2
    point = end
    while np.all(np.rint(point) >= 0) and np.all(np.rint(point) < mask.shape):
        if not mask[tuple(np.rint(point).astype(int))]:
            return point
        point = point + step
    return point


def _numbers_of_parts(parts: Labels, mask: Mask, number: int, new: int) -> dict[int, int]:
    """Return the number of each part: within each piece of the cell the largest keeps that of the cell."""
    pieces, n_pieces = ndimage.label(mask)
    sizes = np.bincount(parts.ravel())
    numbers: dict[int, int] = {}
    for piece in range(1, n_pieces + 1):
        inside = np.unique(parts[pieces == piece])
        by_size = sorted(inside[inside > 0].tolist(), key=lambda part: -sizes[part])
        for part in by_size[:1]:
            numbers[part] = number
        for part in by_size[1:]:
            numbers[part] = new
            new += 1
    return numbers


def _snapped(mask: Mask, point: NDArray[np.float64], number: int) -> tuple[int, ...]:
    voxels = np.argwhere(mask)
    distances = np.linalg.norm(voxels - point, axis=1)
    nearest = int(distances.argmin())
    if distances[nearest] > SNAP_PX:
        raise AnnotationError(
            f"Seeds must lie in cell {number}; one lies {distances[nearest]:.0f} pixels beside it. Click "
            "twice in the same cell."
        )
    return tuple(int(i) for i in voxels[nearest])
