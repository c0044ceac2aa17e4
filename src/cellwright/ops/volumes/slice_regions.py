"""The outlines of cells in the slices of a volume, and which of them overlap."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

from cellwright.core.data import Labels

CHUNK = 4_000_000  # pixels looked up at once

Ids = NDArray[np.intp]
Flags = NDArray[np.bool_] | None


class Outlines(NamedTuple):
    """The outlines of all slices, numbered 1..N slice after slice; row ``i`` is outline ``i + 1``."""

    numbers: Labels  # (Z, Y, X)
    z: Ids  # (N,)
    areas: Ids  # (N,)


class Pairs(NamedTuple):
    """Outlines of two slices that overlap: rows of the lower and the upper one, and shared pixels."""

    lower: Ids
    upper: Ids
    shared: Ids


def outlines_of(labels: Labels) -> Outlines:
    """Return the outlines of labels (Z, Y, X) whose numbers hold within each slice only."""
    numbers = np.zeros(labels.shape, np.int32)
    z, areas, n = [], [], 0
    for place, one in enumerate(labels):
        counts = np.bincount(one.ravel(), minlength=1)
        counts[0] = 0
        present = np.flatnonzero(counts)
        table = np.zeros(len(counts), np.int32)
        table[present] = np.arange(n + 1, n + 1 + len(present))
        np.take(table, one, out=numbers[place])
        z.append(np.full(len(present), place))
        areas.append(counts[present])
        n += len(present)
    return Outlines(numbers, np.concatenate(z), np.concatenate(areas))


def overlapping(outlines: Outlines, step: int, ends: Flags = None, starts: Flags = None) -> Pairs:
    """Return which outlines overlap with those ``step`` slices above.

    Where ``ends`` and ``starts`` (N,) are given, of these lower and upper ones alone.
    """
    n = len(outlines.z)
    found = []
    for lower, upper in zip(outlines.numbers[:-step], outlines.numbers[step:], strict=True):
        both = np.flatnonzero((lower > 0) & (upper > 0))
        first, second = lower.reshape(-1)[both] - 1, upper.reshape(-1)[both] - 1
        if ends is not None and starts is not None:
            open_ = ends[first] & starts[second]
            first, second = first[open_], second[open_]
        table = coo_array((np.ones(len(first), np.intp), (first, second)), shape=(n, n))
        table.sum_duplicates()
        found.append((table.coords[0], table.coords[1], table.data))
    if not found:
        none = np.zeros(0, np.intp)
        return Pairs(none, none, none)
    return Pairs(*(np.concatenate(part).astype(np.intp) for part in zip(*found, strict=True)))


def iou(pairs: Pairs, outlines: Outlines) -> NDArray[np.float64]:
    """Return the intersection over union of each of these pairs."""
    lower, upper, shared = pairs
    return np.asarray(shared / (outlines.areas[lower] + outlines.areas[upper] - shared))


def shared_pixels(outlines: Outlines, lower: Ids, upper: Ids) -> Ids:
    """Return how many pixels each of these pairs of outlines share."""
    asked = np.zeros(len(outlines.z) + 1, bool)
    asked[lower + 1] = True
    numbers = outlines.numbers.reshape(-1)
    places = np.flatnonzero(asked[numbers])
    places = places[np.argsort(numbers[places], kind="stable")]
    starts = np.searchsorted(numbers[places], lower + 1)
    jump = (outlines.z[upper] - outlines.z[lower]) * outlines.numbers[0].size
    shared = np.zeros(len(lower), np.intp)
    ends = np.cumsum(outlines.areas[lower])
    for part in np.split(np.arange(len(lower)), np.flatnonzero(np.diff(ends // CHUNK)) + 1):
        sizes = outlines.areas[lower[part]]
        pair = np.repeat(np.arange(len(part)), sizes)
        within = np.arange(len(pair)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        above = numbers[places[starts[part][pair] + within] + jump[part][pair]]
        same = above == upper[part][pair] + 1
        shared[part] = np.bincount(pair[same], minlength=len(part))
    return shared
