"""The hills of a volume of heights: each voxel climbs to a top, and hills that hardly part are one.

A hill stays where its top stands out by enough above the highest saddle to a higher hill. These are the tops
of ``skimage.morphology.h_maxima``, found without putting all voxels in order; of several tops of one height
that function keeps each, however high the saddles between them.

Source: Grimaud, New measure of contrast: the dynamics, Proc. SPIE 1769 (1992), doi:10.1117/12.60650.
"""

from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Labels

OUTSIDE = np.float32(-np.inf)
ALONG_AXES = ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))
ONWARD = tuple(step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0))  # the others mirror these


def hills(height: NDArray[np.float32], drop: float) -> Labels:
    """Return labels 1..N (Z, Y, X) of hills whose tops stand ``drop`` or more above their saddles.

    ``height``, float32 (Z, Y, X), is -inf outside. Voxels climb along the axes; saddles may also lie between
    voxels that share an edge or a corner.
    """
    ground = _ground(height)
    top = _climb(ground)
    top = _joined(top, _passes(ground, top, drop), ground.own, drop)
    is_top = np.zeros(len(top), bool)
    is_top[top] = True
    labels = np.zeros(np.add(height.shape, 2), np.int32)
    labels.reshape(-1)[ground.places] = np.cumsum(is_top, dtype=np.int32)[top]
    return labels[1:-1, 1:-1, 1:-1]


class _Ground(NamedTuple):
    """The N voxels that are not outside, by their number."""

    own: NDArray[np.float32]  # (N,) height of each
    places: NDArray[np.intp]  # (N,) where each lies in the padded volume, made flat
    heights: NDArray[np.float32]  # of the padded volume
    numbers: NDArray[np.int32]  # of the voxels of the padded volume; anything outside
    strides: tuple[int, int, int]  # from a place to the next along z, y and x

    def beside(self, step: tuple[int, ...]) -> NDArray[np.intp]:
        """Return the place (N,) that lies a step away from each voxel."""
        return self.places + int(np.dot(step, self.strides))


def _ground(height: NDArray[np.float32]) -> _Ground:
    padded = np.pad(height, 1, constant_values=OUTSIDE)
    heights = padded.reshape(-1)
    places = np.flatnonzero(heights > OUTSIDE)
    numbers = np.empty(heights.size, np.int32)
    numbers[places] = np.arange(len(places), dtype=np.int32)
    strides = (padded.shape[1] * padded.shape[2], padded.shape[2], 1)
    return _Ground(heights[places], places, heights, numbers, strides)


def _climb(ground: _Ground) -> NDArray[np.int32]:
    """Return the voxel (N,) on which each one ends that always steps to its highest neighbour.

    Of voxels of one height the first is the highest, so that no walk goes in circles.
    """
    highest = ground.own.copy()
    above = np.arange(len(highest), dtype=np.int32)
    for step in ALONG_AXES:
        places = ground.beside(step)
        near = ground.heights[places]
        climbs = near >= highest if min(step) < 0 else near > highest
        highest[climbs] = near[climbs]
        above[climbs] = ground.numbers[places[climbs]]
    while True:
        further = above[above]
        if np.array_equal(further, above):
            return above
        above = further


def _passes(ground: _Ground, top: NDArray[np.int32], drop: float) -> list[tuple[float, int, int]]:
    """Return (height, top, top) where hills meet less than ``drop`` below the lower top, highest first."""
    found: list[tuple[float, int, int]] = []
    for step in ONWARD:
        places = ground.beside(step)
        height = np.minimum(ground.own, ground.heights[places])
        inside = height > OUTSIDE
        height, first, second = height[inside], top[inside], top[ground.numbers[places[inside]]]
        lower = np.minimum(ground.own[first], ground.own[second])
        joins = (first != second) & (lower - height < drop)
        found += zip(height[joins].tolist(), first[joins].tolist(), second[joins].tolist(), strict=True)
    return sorted(found, reverse=True)


def _joined(
    top: NDArray[np.int32], passes: list[tuple[float, int, int]], own: NDArray[np.float32], drop: float
) -> NDArray[np.int32]:
    """Return the top (N,) of each voxel once hills that stand out too little have joined higher ones."""
    above: dict[int, int] = {}

    def highest(one: int) -> int:
        while one in above:
            one = above[one]
        return one

    for height, *pair in passes:
        low, high = sorted(map(highest, pair), key=lambda one: (own[one], -one))
        if low != high and own[low] - height < drop:
            above[low] = high
    ends = np.arange(len(own), dtype=np.int32)
    for one in above:
        ends[one] = highest(one)
    return ends[top]
