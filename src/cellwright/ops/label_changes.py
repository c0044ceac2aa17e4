"""What an edit changes: one box of voxels before and after; and the boxes it takes to find that fast."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike as NumpyLike
from numpy.typing import NDArray
from scipy import ndimage
from skimage.graph import MCP_Geometric

from cellwright.core.data import Labels
from cellwright.core.errors import AnnotationError
from cellwright.ops.geometry.tiles import padded

Box = tuple[slice, ...]
Mask = NDArray[np.bool_]

NECK_COST = 1.5  # power of the depth; of 0 to 4 the one that cut most pairs of touching nuclei right


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """One box of voxels before and after an edit."""

    box: Box  # where in the labels, one slice with start and stop for each axis
    before: Labels  # int32, of the shape of the box
    after: Labels

    def apply(self, labels: Labels) -> None:
        """Write what is there after the edit."""
        labels[self.box] = self.after

    def numbers(self) -> tuple[int, ...]:
        """Return the cells that gain or lose voxels."""
        differs = self.before != self.after
        found = np.union1d(self.before[differs], self.after[differs])
        return tuple(int(number) for number in found if number)

    def lifted(self, index: int) -> "Change":
        """Return the change of a time series whose time point ``index`` was edited."""
        return Change((slice(index, index + 1), *self.box), self.before[np.newaxis], self.after[np.newaxis])


def change_of(labels: Labels, box: Box, after: Labels) -> Change | None:
    """Return the change that puts ``after`` into the box, cut to what differs; None where nothing does."""
    differs = labels[box] != after
    inner = bounds(differs)
    if inner is None:
        return None
    whole = moved(inner, box)
    return Change(whole, labels[whole].copy(), np.ascontiguousarray(after[inner], np.int32))


def moved(box: Box, frame: Box) -> Box:
    """Return a box within another in the coordinates of the whole."""
    pairs = zip(box, frame, strict=True)
    return tuple(slice(outer.start + part.start, outer.start + part.stop) for part, outer in pairs)


def bounds(mask: Mask) -> Box | None:
    """Return the smallest box that holds all of the mask, None for an empty one."""
    return ndimage.find_objects(mask, 1)[0]


def boxes_of(labels: Labels) -> dict[int, Box]:
    """Return the box of every cell by its number."""
    largest = int(labels.max(initial=0))
    if largest <= max(labels.size, 1 << 16):
        found = ndimage.find_objects(labels)
        return {number: box for number, box in enumerate(found, start=1) if box is not None}
    numbers, inverse = np.unique(labels, return_inverse=True)  # a list as long as the largest is too long
    found = ndimage.find_objects(inverse.reshape(labels.shape) + 1)
    pairs = zip(numbers.tolist(), found, strict=True)
    return {number: box for number, box in pairs if number and box is not None}


def joined(first: Box, second: Box) -> Box:
    """Return the smallest box that holds both."""
    return tuple(
        slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True)
    )


class Cell(NamedTuple):
    """A cell and its surroundings."""

    window: Box
    around: Labels  # a view of the labels
    mask: Mask


def cell_in(labels: Labels, number: int, box: Box | None, margin: Sequence[int] | int = 0) -> Cell:
    """Return a cell with a margin in voxels around it.

    AnnotationError where the cell is not there.
    """
    if box is None and number > 0:
        box = bounds(labels == number)
    if box is not None:
        window = padded(box, margin, labels.shape)
        around = labels[window]
        mask = around == number
        if number > 0 and mask.any():
            return Cell(window, around, mask)
    raise no_such_cell(number)


def no_such_cell(number: int) -> AnnotationError:
    """Return the error of a cell that is not in the labels."""
    return AnnotationError(f"Cell {number} must be in the labels; it is not. Click on a cell that is there.")


def nearer_part(
    mask: Mask,
    seeds: Sequence[Sequence[int]],
    others: Sequence[Sequence[int]],
    sampling: Sequence[float] | None = None,
) -> Mask:
    """Return the voxels of a mask that are nearer to ``seeds`` than to ``others``, voxels in it.

    Every step costs the more the closer it is to the border of the mask, so that a neck is far from both.
    ``sampling`` is the length of a voxel along each axis.
    """
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=sampling)
    depth = depth[(slice(1, -1),) * depth.ndim]
    costs = np.where(mask, np.maximum(depth, 0.5) ** -NECK_COST, -1.0)
    to_seeds, to_others = (
        MCP_Geometric(costs, sampling=sampling).find_costs(list(map(tuple, starts)))[0]
        for starts in (seeds, others)
    )
    return mask & (to_seeds < to_others)


def new_number(labels: Labels, new: int | None) -> int:
    """Return the number of a new cell: the one that was asked for, else one above all others."""
    if new is not None:
        return new
    return int(labels.max(initial=0)) + 1


def vertices_of(points: NumpyLike, ndim: int) -> NDArray[np.float64]:
    """Return points as an array (N, D); a single one may come without its first axis.

    AnnotationError where they have other axes than the labels or are not finite.
    """
    found = np.atleast_2d(np.asarray(points, float))
    if found.ndim != 2 or found.shape[1] != ndim or not np.isfinite(found).all():
        raise AnnotationError(
            f"Points must be finite and have {ndim} coordinates, one for each axis of the labels; got an "
            f"array of shape {found.shape}. Give them in pixels."
        )
    return found
