"""Edits of single cells: what a tool would change, found within the window where it happens.

Each function returns a :class:`Change` and writes nothing; whoever owns the labels applies it, keeps it and
can take it back. ``box`` says where the cell lies, so that the array need not be searched; ``sampling`` is
the length of a voxel along each axis in units of a pixel in the plane. What a tool adds to a cell it takes
from the background, never from another cell. Tools that cut a cell are in ``ops.label_splitting``.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import ArrayLike as NumpyLike
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.data import Labels
from cellwright.core.errors import AnnotationError
from cellwright.ops.label_changes import Box, Change, Mask, cell_in, change_of, new_number, vertices_of

SEAM_PX = 1.5  # background this close to both of two merged cells is theirs


def erase(labels: Labels, number: int, *, box: Box | None = None) -> Change | None:
    """Return the change that makes a cell background."""
    cell = cell_in(labels, number, box)
    return change_of(labels, cell.window, np.where(cell.mask, np.int32(0), cell.around))


def merge(labels: Labels, keep: int, gone: int, *, box: Box | None = None) -> Change | None:
    """Return the change that gives cell ``gone`` to cell ``keep``, with the seam between them.

    Parameters
    ----------
    box
        Of the cell that is gone.

    Raises
    ------
    AnnotationError
        Cell ``gone`` is not there, or both are one.
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

    Raises
    ------
    AnnotationError
        The cell is not there, or nothing would be left of it.
    """
    cell = cell_in(labels, number, box, margin=1)
    lost = cell.mask & _near(~cell.mask, radius_px, sampling)
    if lost.sum() == cell.mask.sum():
        raise AnnotationError(
            f"Cell {number} must be thicker than {2 * radius_px:g} pixels to shrink by {radius_px:g}; it is "
            "not. Delete it, or take a smaller radius."
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
    steps = np.ones(labels.ndim) if sampling is None else np.asarray(sampling, float)
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

    Raises
    ------
    AnnotationError
        The point lies outside the image, or there is no background within the disc.
    """
    if not diameter_px > 0:
        raise AnnotationError(f"diameter_px must be above 0; got {diameter_px}. Choose that of a cell.")
    place = vertices_of(point, labels.ndim)[0]
    steps = np.ones(labels.ndim) if sampling is None else np.asarray(sampling, float)
    if np.any(place < -0.5) or np.any(place > np.array(labels.shape) - 0.5):
        raise AnnotationError(
            f"A cell must be added inside the image of {labels.shape} pixels; got {place.tolist()}."
            " Click in the image."
        )
    radius = max(diameter_px / 2, 0.5)
    reach = radius / steps
    low = np.clip(np.ceil(place - reach), 0, np.array(labels.shape) - 1).astype(int)
    high = np.clip(np.floor(place + reach), low, np.array(labels.shape) - 1).astype(int)
    grids = np.ogrid[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))]
    offsets = zip(grids, place, steps, strict=True)
    distance = sum(((grid - centre) * step) ** 2 for grid, centre, step in offsets)
    nearest = tuple(np.rint(place).astype(int) - low)
    mask = np.asarray(distance <= radius**2)
    mask[tuple(np.clip(nearest, 0, np.array(mask.shape) - 1))] = True
    return add_mask(labels, tuple(int(first) for first in low), mask, new=new)


def add_mask(labels: Labels, corner: Sequence[int], mask: Mask, *, new: int | None = None) -> Change | None:
    """Return the change that makes the background under a mask a new cell.

    Parameters
    ----------
    corner
        Where the first voxel of the mask lies in the labels; the mask may reach beyond the image.

    Raises
    ------
    AnnotationError
        Nothing of the mask lies on background, or it has other axes than the labels.
    """
    mask = np.asarray(mask, bool)
    if mask.ndim != labels.ndim or len(corner) != labels.ndim:
        raise AnnotationError(
            f"A mask and its corner must have {labels.ndim} axes as the labels have; got {mask.ndim} and "
            f"{len(corner)}. Cut it out of an array of the labels' shape."
        )
    low = np.clip(corner, 0, labels.shape)
    high = np.clip(np.add(corner, mask.shape), low, labels.shape)
    window = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    inside = tuple(
        slice(part.start - int(first), part.stop - int(first))
        for part, first in zip(window, corner, strict=True)
    )
    free = mask[inside] & (labels[window] == 0)
    if not free.any():
        raise AnnotationError(
            "A new cell needs background to stand on; there is none under it. Delete or split the cell "
            "that is there."
        )
    after = np.where(free, np.int32(new_number(labels, new)), labels[window])
    return change_of(labels, window, after)


def interpolate(
    labels: Labels, number: int, first: int, last: int, *, box: Box | None = None
) -> Change | None:
    """Return the change that draws a cell in the slices between those in which it is drawn.

    Between two slices the outline passes from one to the other: the signed distances to both are mixed,
    each moved with the centre of the cell.

    Parameters
    ----------
    first, last
        Slices along axis 0; gaps between them are filled.

    Raises
    ------
    AnnotationError
        The labels have no slices, or the cell is not in two of the slices.

    Notes
    -----
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


def _margins(radius_px: float, ndim: int, sampling: Sequence[float] | None) -> list[int]:
    steps = np.ones(ndim) if sampling is None else np.asarray(sampling, float)
    return [ceil(radius_px / step) for step in steps]


def _near(mask: Mask, radius_px: float, sampling: Sequence[float] | None = None) -> Mask:
    """Return what lies within a radius of the mask, itself included."""
    if not mask.any():
        return np.zeros_like(mask)
    near: Mask = ndimage.distance_transform_edt(~mask, sampling=sampling) <= radius_px
    return near


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
    between: Mask = (1 - share) * distances[0] + share * distances[1] > 0
    return between


def _signed_distance(mask: Mask) -> NDArray[np.float64]:
    wide = np.pad(mask, 1)
    inside = ndimage.distance_transform_edt(wide) - ndimage.distance_transform_edt(~wide)
    distance: NDArray[np.float64] = inside[(slice(1, -1),) * mask.ndim]
    return distance
