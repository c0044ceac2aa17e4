"""Cells as masks at their places, and the labels they are painted into."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Labels


class Part(NamedTuple):
    """The pixels of one cell: a mask and the place of its first pixel."""

    corner: tuple[int, ...]
    mask: NDArray[np.bool_]

    def at(self, lead: tuple[int, ...]) -> "Part":
        """Return the same at these indices of further axes before its own."""
        return Part((*lead, *self.corner), self.mask[(np.newaxis,) * len(lead)])


def painted(
    parts: Sequence[Sequence[Part]], shape: tuple[int, ...]
) -> tuple[Labels, NDArray[np.intp], tuple[str, ...]]:
    """Return labels of cells (each made of parts), which cells are left, and what there is to say.

    Where cells overlap, the smaller lies on top; one of which no pixel is left is left out.
    """
    labels = np.zeros(shape, np.int32)
    areas = [sum(int(part.mask.sum()) for part in cell) for cell in parts]
    for row in sorted(range(len(parts)), key=lambda row: (-areas[row], row)):
        for corner, mask in parts[row]:
            window, inside = _overlap(corner, mask, shape)
            labels[window][inside] = row + 1
    counts = np.bincount(labels.ravel(), minlength=len(parts) + 1)[1:]
    left = np.flatnonzero(counts)
    if len(left) < len(parts):
        table = np.zeros(len(parts) + 1, np.int32)
        table[left + 1] = np.arange(1, len(left) + 1)
        labels = table[labels]
    n_lost, n_cut = len(parts) - len(left), int((counts[left] < np.array(areas, int)[left]).sum())
    notices = []
    if n_lost:
        notices.append(f"{n_lost} cells cover no pixel of their own and were left out.")
    if n_cut:
        notices.append(f"{n_cut} cells overlap others or the edge; the smaller lies on top.")
    return labels, left, tuple(notices)


def _overlap(
    corner: Sequence[int], mask: NDArray[np.bool_], shape: Sequence[int]
) -> tuple[tuple[slice, ...], NDArray[np.bool_]]:
    """Return the window of the image that a mask covers, and the part of the mask inside it."""
    first = [max(0, c) for c in corner]
    stop = [max(a, min(n, c + m)) for a, c, n, m in zip(first, corner, shape, mask.shape, strict=True)]
    window = tuple(slice(a, b) for a, b in zip(first, stop, strict=True))
    own = tuple(slice(a - c, b - c) for a, b, c in zip(first, stop, corner, strict=True))
    return window, mask[own]
