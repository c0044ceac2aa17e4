"""Heights -> one label for each hill, where hills that hardly stand out join the ones beside them.

Every pixel (or voxel) climbs to the top that it lies below. Where two hills meet there is a saddle; from the
highest saddle down, the lower of two hills joins the other where its top stands out too little above it.

Source: Grimaud, New measure of contrast: the dynamics, Proc. SPIE 1769 (1992), doi:10.1117/12.60650. The tops
are those of ``skimage.morphology.h_maxima``, found without putting all pixels in order; of several tops of
one height that function keeps each, however high the saddles between them.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Labels
from cellwright.core.tasks import stop_point

OUTSIDE = np.float32(-np.inf)
Step = tuple[int, ...]  # from a pixel to another one, along each axis
IsOne = Callable[[Any, Any], Any]  # of the height of tops, and of saddles below them


def watershed(height: NDArray[np.float32], steps: Sequence[Step], is_one: IsOne) -> Labels:
    """Return labels 1..N of the hills of a ``height``, float32 (Y, X) or (Z, Y, X), -inf outside.

    ``steps`` lead to the neighbours that a pixel climbs to, those on the opposite side left out; saddles also
    lie between pixels that share no more than a corner. ``is_one`` tells of the height of the lower top and
    that of a saddle whether both hills are one; it takes arrays, too.
    """
    ground = _ground(height)
    top = _climb(ground, steps)
    tops = np.flatnonzero(top == np.arange(len(top)))
    numbers = np.empty(len(top), np.int32)
    numbers[tops] = np.arange(len(tops), dtype=np.int32)
    hill, heights = numbers[top], ground.own[tops].astype(np.float64)
    joined = _joined(_saddles(ground, hill, heights, is_one), heights.tolist(), is_one)
    labels = np.zeros(np.add(height.shape, 2), np.int32)
    labels.reshape(-1)[ground.places] = joined[hill]
    return labels[(slice(1, -1),) * height.ndim]


def onward(ndim: int) -> list[Step]:
    """Return the steps to all neighbours of a pixel, of two that are opposite only one."""
    return [step for step in product((-1, 0, 1), repeat=ndim) if step > (0,) * ndim]


class _Ground(NamedTuple):
    """The N pixels that are not outside, by their number."""

    own: NDArray[np.float32]  # (N,) height of each
    places: NDArray[np.intp]  # (N,) where each lies in the padded image, made flat
    heights: NDArray[np.float32]  # of the padded image
    numbers: NDArray[np.int32]  # of the pixels of the padded image; anything outside
    strides: tuple[int, ...]  # from a place to the next along each axis

    def beside(self, step: Step) -> NDArray[np.intp]:
        """Return the place (N,) that lies a step away from each pixel."""
        return self.places + int(np.dot(step, self.strides))


def _ground(height: NDArray[np.float32]) -> _Ground:
    padded = np.pad(height, 1, constant_values=OUTSIDE)
    heights = padded.reshape(-1)
    places = np.flatnonzero(heights > OUTSIDE)
    numbers = np.empty(heights.size, np.int32)
    numbers[places] = np.arange(len(places), dtype=np.int32)
    strides = tuple(stride // padded.itemsize for stride in padded.strides)
    return _Ground(heights[places], places, heights, numbers, strides)


def _climb(ground: _Ground, steps: Sequence[Step]) -> NDArray[np.int32]:
    """Return the pixel (N,) on which each one ends that always steps to its highest neighbour.

    Of pixels of one height those that the steps lead to are the higher ones, so that no walk goes in circles.
    """
    highest = ground.own.copy()
    above = np.arange(len(highest), dtype=np.int32)

    def look(step: Step, is_higher: np.ufunc) -> None:
        places = ground.beside(step)
        near = ground.heights[places]
        climbs = is_higher(near, highest)
        np.copyto(highest, near, where=climbs)
        np.copyto(above, ground.numbers[places], where=climbs)

    for step in steps:
        look(tuple(-part for part in step), np.greater)
    for step in steps:
        look(step, np.greater_equal)
    while True:
        further = above[above]
        if np.array_equal(further, above):
            return above
        above = further


def _saddles(
    ground: _Ground, hill: NDArray[np.int32], heights: NDArray[np.float64], is_one: IsOne
) -> list[tuple[float, int, int]]:
    """Return (height, hill, hill) of the saddles at which two hills may join, the highest first."""
    parts = []
    for step in onward(len(ground.strides)):
        stop_point()
        places = ground.beside(step)
        near = ground.heights[places]
        inside = np.flatnonzero(near > OUTSIDE)
        first, second = hill[inside], hill[ground.numbers[places[inside]]]
        meet = np.flatnonzero(first != second)
        first, second, inside = first[meet], second[meet], inside[meet]
        saddle = np.minimum(ground.own[inside], near[inside]).astype(np.float64)
        joins = is_one(np.minimum(heights[first], heights[second]), saddle)
        parts.append((saddle[joins], first[joins], second[joins]))
    saddle, first, second = map(np.concatenate, zip(*parts, strict=True))
    order = np.lexsort((second, first, saddle))[::-1]
    pairs = first[order] * np.int64(len(heights)) + second[order]
    order = order[np.sort(np.unique(pairs, return_index=True)[1])]  # of a pair of hills the highest alone
    return list(zip(*(column[order].tolist() for column in (saddle, first, second)), strict=True))


def _joined(
    saddles: Sequence[tuple[float, int, int]], heights: Sequence[float], is_one: IsOne
) -> NDArray[np.int32]:
    """Return the label 1..N of each hill once those that stand out too little have joined higher ones."""
    above = list(range(len(heights)))

    def highest(hill: int) -> int:
        while above[hill] != hill:
            above[hill] = above[above[hill]]
            hill = above[hill]
        return hill

    for saddle, *pair in saddles:
        low, high = sorted(map(highest, pair), key=lambda hill: (heights[hill], -hill))
        if low != high and is_one(heights[low], saddle):
            above[low] = high
    _, labels = np.unique([highest(hill) for hill in above], return_inverse=True)
    return (labels + 1).astype(np.int32)
