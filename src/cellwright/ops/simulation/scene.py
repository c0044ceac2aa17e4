"""Outlines of simulated cells put into an image: which pixel belongs to which cell."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage import measure

from cellwright.ops.simulation.shapes import CellOutlines, Rows
from cellwright.ops.simulation.style import Style

MIN_PART = 0.15  # a cell of which less than this part can be seen is dropped
MIN_PIXELS = 6


@dataclass(frozen=True, slots=True)
class Scene:
    """Cells put into an image.

    Parameters
    ----------
    labels : int32 image
        Row ``i`` of ``outlines`` is label ``i + 1``; 0 is background.
    depth : float32 image
        Pixels to the border of the own cell, also where it touches another; negative outside.
    covered : int32 image
        The cell that lies under the labelled one, where cells overlap; else 0.
    rows : (N,)
        The rows of the outlines given of which something can be seen.
    outlines : CellOutlines
        These rows.
    """

    labels: NDArray[np.int32]
    depth: NDArray[np.float32]
    covered: NDArray[np.int32]
    rows: NDArray[np.intp]
    outlines: CellOutlines


def stamp(outlines: CellOutlines, shape: Sequence[int], style: Style) -> Scene:
    """Return the labels of the outlines in an image of ``shape``; each cell is worked out within its own box.

    With ``style.overlap`` later cells cover earlier ones; without it touching cells share a straight
    border, halfway between them, as the nuclei of a crowded layer do.
    """
    scale = np.array([style.z_step] * (len(shape) - 2) + [1.0, 1.0])
    owner = np.zeros(shape, np.int32)
    covered = np.zeros(shape, np.int32)
    best = np.full(shape, -1e3, np.float32)
    second = np.full(shape, -1e3, np.float32)
    full = np.zeros(len(outlines) + 1, np.int64)
    reach = outlines.reach()
    for row in range(len(outlines)):
        box = _box(outlines.centres[row] / scale, reach[row] / scale + 1.0, shape)
        if box is None:
            continue
        depth = outlines.depth(row, _grid(box, scale))
        full[row + 1] = np.count_nonzero(depth > 0)
        before = best[box]
        if style.overlap:
            wins = (depth > 0) | (depth > before)
            covered[box] = np.where(wins & (before > 0), owner[box], covered[box])
        else:
            wins = depth > before
            second[box] = np.maximum(second[box], np.minimum(before, depth))
        owner[box] = np.where(wins, row + 1, owner[box])
        best[box] = np.where(wins, depth, before)
    if not style.overlap:
        contact = (best - second) / 2
        best = np.minimum(best, style.seam * contact + (1 - style.seam) * np.maximum(best, contact))
    return _whole_cells(owner, best, covered, outlines, full)


def _box(centre: Rows, reach: Rows, shape: Sequence[int]) -> tuple[slice, ...] | None:
    low = np.maximum(np.floor(centre - reach), 0).astype(int)
    high = np.minimum(np.ceil(centre + reach) + 1, shape).astype(int)
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True)) if (low < high).all() else None


def _grid(box: tuple[slice, ...], scale: Rows) -> NDArray[np.float32]:
    lines = [np.arange(s.start, s.stop, dtype=np.float32) * k for s, k in zip(box, scale, strict=True)]
    return np.stack(np.meshgrid(*lines, indexing="ij")).astype(np.float32)


def _whole_cells(
    owner: NDArray[np.int32],
    depth: NDArray[np.float32],
    covered: NDArray[np.int32],
    outlines: CellOutlines,
    full: NDArray[np.int64],
) -> Scene:
    """Keep the largest connected part of each cell, drop slivers, number the rest without gaps."""
    labels = np.where(depth > 0, owner, 0)
    parts = measure.label(labels, connectivity=1)  # type: ignore[no-untyped-call]
    areas = np.bincount(parts.ravel())
    cell_of_part = np.zeros(len(areas), np.int64)
    cell_of_part[parts.ravel()] = labels.ravel()
    largest = np.zeros(len(outlines) + 1, np.int64)
    by_area = np.argsort(areas, kind="stable")
    largest[cell_of_part[by_area]] = by_area
    seen = np.where(cell_of_part[largest] == np.arange(len(largest)), areas[largest], 0)
    keep = (seen >= MIN_PIXELS) & (seen >= MIN_PART * full)
    keep[0] = False
    number = np.zeros(len(outlines) + 1, np.int32)
    number[keep] = np.arange(1, keep.sum() + 1)
    wanted = np.zeros(len(areas), bool)
    wanted[largest[keep]] = True
    cleaned = np.where(wanted[parts], number[labels], 0).astype(np.int32)
    rows = np.flatnonzero(keep[1:])
    inside = np.where(cleaned > 0, depth, -1.0).astype(np.float32)
    return Scene(cleaned, inside, number[covered], rows, outlines.take(rows))
