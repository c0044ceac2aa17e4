"""How cells lie beside each other."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from cellwright.core.data import Cells, Labels
from cellwright.ops.measure.blocks import CellBlock


def count_touching(block: CellBlock) -> NDArray[np.float64]:
    """Return with how many other cells each cell of a block shares a side, an edge or a corner of a pixel."""
    pairs = touching_pairs(block.labels)
    touched = np.bincount(pairs.ravel(), minlength=int(block.rows.max()) + 2)
    return touched[block.rows + 1].astype(np.float64)


def touching_pairs(labels: Labels) -> NDArray[np.int64]:
    """Return each pair (a, b), a < b, of labels that touch, once (M, 2)."""
    found = [np.zeros((0, 2), np.int64)]
    steps = [step for step in product((-1, 0, 1), repeat=labels.ndim) if step > (0,) * labels.ndim]
    for step in steps:
        here = labels[
            tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(step, labels.shape, strict=True))
        ]
        there = labels[
            tuple(slice(max(0, s), n + min(0, s)) for s, n in zip(step, labels.shape, strict=True))
        ]
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
            distances[rows] = KDTree(centres[rows]).query(centres[rows], k=2)[0][:, 1]
    return distances
