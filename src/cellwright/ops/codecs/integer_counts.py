"""Whole cells in a density: a piece of foreground that stands alone holds no fractions of cells.

A density that is right in the mean gives a lonely cell 0.9 or 1.1, and the errors of many cells add up. Where
the foreground tells which pixels belong together, the density of each piece is brought to a whole number. In
crowds, where hardly anything stands alone, this changes little.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

WINDOW_PX = 2048  # what is looked at together
LARGEST_PX = 512  # pieces longer or wider than this are crowds, and stay as they are
FEWEST = 0.25  # of a cell: a piece that holds less is none

Density = NDArray[np.float32]
Mask = NDArray[np.bool_]
Window = tuple[slice, slice]


class _Pieces(NamedTuple):
    """The pieces of one window: the pixels of each (0: none), its sum, and what that is to be."""

    labels: NDArray[np.int32]
    held: NDArray[np.float64]
    wanted: NDArray[np.float64]


def to_integer_counts(density: Density, foreground: Mask) -> Density:
    """Return a density (Y, X) of which every piece of foreground (Y, X) holds a whole number of cells.

    Both in the same pixels. A piece with a quarter of a cell and more holds at least one. The density of
    the background, and that of pieces more than 512 pixels long, stays as it is.
    """
    result = density.copy()
    for core, window in _windows(density.shape):
        pieces = _pieces(density[window], foreground[window], core, window)
        factor = np.ones(len(pieces.held), np.float32)
        np.divide(pieces.wanted, pieces.held, out=factor, where=pieces.held > 0, casting="same_kind")
        result[window] *= factor[pieces.labels]
    return result


def _windows(shape: tuple[int, ...]) -> Iterator[tuple[Window, Window]]:
    """Yield the parts of an image, and each with its surroundings: every piece lies in one of these whole."""
    for top in range(0, shape[0], WINDOW_PX):
        for left in range(0, shape[1], WINDOW_PX):
            core = (slice(top, top + WINDOW_PX), slice(left, left + WINDOW_PX))
            yield core, (_widened(core[0], shape[0]), _widened(core[1], shape[1]))


def _widened(span: slice, length: int) -> slice:
    return slice(max(span.start - LARGEST_PX - 1, 0), min(span.stop + LARGEST_PX + 1, length))


def _pieces(density: Density, foreground: Mask, core: Window, window: Window) -> _Pieces:
    """Return the pieces of a window; those that begin outside of its core are another's and stay."""
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
    return _Pieces(labels, held, wanted)
