"""Peaks of a depth map -> labels: every pixel climbs to the one it lies below (a watershed)."""

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Labels


def depth_to_labels(depth: NDArray[np.float32], mask: NDArray[np.bool_], separation: float) -> Labels:
    """Return labels 1..N (Y, X) of the pixels of ``mask``, one for each peak of the depth.

    Parameters
    ----------
    depth : float32 (Y, X)
    mask : bool (Y, X)
    separation
        Two peaks are one if on the way between them the depth falls by less than this share of the lower
        one; 0 parts all peaks.
    """
    labels = np.zeros(mask.shape, np.int32)
    flat = np.flatnonzero(mask)
    if len(flat):
        index = np.full((mask.shape[0] + 2, mask.shape[1] + 2), -1, np.int32)  # a frame that belongs to none
        index[1:-1, 1:-1][mask] = np.arange(len(flat), dtype=np.int32)
        heights = depth.reshape(-1)[flat]
        padded = np.flatnonzero(index >= 0)
        peaks = _climb(index, padded, heights)
        top, basin = np.unique(peaks, return_inverse=True)
        joined = _join(_passes(index, padded, heights, basin), heights[top], separation)
        labels.reshape(-1)[flat] = joined[basin]
    return labels


def _climb(
    index: NDArray[np.int32], padded: NDArray[np.intp], heights: NDArray[np.float32]
) -> NDArray[np.int32]:
    """Return the peak each pixel reaches by always stepping to its highest neighbour.

    Of neighbours of one height the last one counts, so that no walk on a plateau goes round in circles.
    """
    indices, width = index.reshape(-1), index.shape[1]
    raised = np.append(heights, np.float32(-np.inf))  # index -1: beyond the mask
    highest = np.full(len(heights), -np.inf, np.float32)
    step = np.zeros(len(heights), np.int32)
    for offset in sorted(dy * width + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
        neighbour = indices[padded + offset]
        higher = raised[neighbour] >= highest
        higher &= neighbour >= 0
        np.copyto(step, neighbour, where=higher)
        np.copyto(highest, raised[neighbour], where=higher)
    while True:
        further = step[step]
        if np.array_equal(further, step):
            return step
        step = further


def _passes(
    index: NDArray[np.int32],
    padded: NDArray[np.intp],
    heights: NDArray[np.float32],
    basin: NDArray[np.intp],
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return pairs of basins that touch, and the height of the pass between them; the highest pass first."""
    indices, width = index.reshape(-1), index.shape[1]
    pairs, lows = [], []
    for offset in (1, width - 1, width, width + 1):
        neighbour = indices[padded + offset]
        here = np.flatnonzero((neighbour >= 0) & (basin[neighbour] != basin))
        there = neighbour[here]
        pairs.append(np.sort(np.stack([basin[here], basin[there]]), axis=0))
        lows.append(np.minimum(heights[here], heights[there]))
    first, second = np.concatenate(pairs, axis=1)
    low = np.concatenate(lows)
    order = np.argsort(-low, kind="stable")
    first, second, low = first[order], second[order], low[order]
    _, once = np.unique(first * (len(heights) + 1) + second, return_index=True)
    once.sort()
    return first[once], second[once], low[once]


def _join(
    passes: tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]],
    tops: NDArray[np.float32],
    separation: float,
) -> NDArray[np.int32]:
    """Return the label 1..N of each basin after joining, over the highest pass first, what is one cell."""
    owner = list(range(len(tops)))
    height = tops.tolist()

    def root(one: int) -> int:
        while owner[one] != one:
            owner[one] = owner[owner[one]]
            one = owner[one]
        return one

    for first, second, low in zip(*(part.tolist() for part in passes), strict=True):
        one, other = root(first), root(second)
        if one == other:
            continue
        if height[one] < height[other]:
            one, other = other, one
        if height[other] - low < separation * height[other]:
            owner[other] = one
    _, labels = np.unique([root(one) for one in range(len(tops))], return_inverse=True)
    return (labels + 1).astype(np.int32)
