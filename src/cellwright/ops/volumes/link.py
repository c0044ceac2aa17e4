"""Cells of single slices -> cells of the volume.

::

    z = 4    . 1 1 1 . . 2 2 .        a a a      b b
    z = 3    . 3 3 3 . . 4 4 .        a a a      b b       rows one above the other that
    z = 2    . 5 5 . . . . . .   ->   a a        b b       overlap are one cell; a slice
    z = 1    . . 6 6 . . 7 7 .          c c      b b       where it was missed is filled
    z = 0    . . 8 8 . . . . .          c c

The drawing shows what is done: outlines of neighbouring slices are paired one to one by their overlap;
chains that end where others begin are joined over a few missing slices; a chain with a waist (here between
a and c) is two cells; a chain of very few slices belongs to the cell it lies on, or is dropped unless the
volume ends there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array

from cellwright.core.data import Cells, Labels
from cellwright.core.errors import AxesError, SettingsError
from cellwright.core.settings import BoundedSettings
from cellwright.ops.labels import measure

Overlap = Annotated[
    float,
    {
        "min": 0.05,
        "max": 1.0,
        "step": 0.05,
        "tooltip": "Least share of the smaller of two outlines in neighbouring slices that both cover.",
    },
]
MaxGap = Annotated[
    int, {"min": 0, "max": 10, "tooltip": "Slices in which a cell may be missing between two others."}
]
Waist = Annotated[
    float,
    {
        "min": 0.0,
        "max": 1.0,
        "step": 0.05,
        "tooltip": "Cells are cut where area or overlap falls below this share of that on both sides; 0 "
        "never cuts.",
    },
]
MinSlices = Annotated[
    int,
    {
        "min": 1,
        "max": 100,
        "tooltip": "Fewest slices of a cell, unless it is as tall as wide; less is merged or dropped.",
    },
]
SPAN = 0.5  # how far apart outlines are compared to part cells, in heights of a ball as wide as they are
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


@dataclass(frozen=True, slots=True)
class LinkSettings(BoundedSettings):
    """How outlines of single slices become cells of a volume."""

    overlap: Overlap = 0.5
    max_gap: MaxGap = 1
    waist: Waist = 0.65
    min_slices: MinSlices = 3


def link_slices(
    labels: Labels,
    settings: LinkSettings = LinkSettings(),
    anisotropy: float = 1.0,
) -> Labels:
    """Return labels 1..N (Z, Y, X) of cells from labels whose numbers hold within each slice only.

    ``anisotropy`` is the distance of slices in pixels of y and x.

    Raises
    ------
    SettingsError
        ``anisotropy`` is not above 0.
    """
    if not anisotropy > 0:
        raise SettingsError(f"anisotropy must be above 0; got {anisotropy}. Give 1 where it is not known.")
    outlines = outlines_of(labels)
    touching = overlapping(outlines, 1)
    above = _chain(outlines, touching, settings, anisotropy)
    above = split_necks(above, outlines, anisotropy, waist=settings.waist, min_slices=settings.min_slices)
    cells = _follow(above)
    cells = _merge_short(cells, outlines, touching, settings, anisotropy)
    numbers = np.zeros(len(cells) + 1, np.int32)
    numbers[1:] = _renumbered(cells)
    linked = numbers[outlines.numbers]
    _fill(linked, numbers[1:], outlines.z)
    return linked


def _chain(outlines: Outlines, touching: Pairs, settings: LinkSettings, anisotropy: float) -> Ids:
    """Return for each outline the one that goes on with it further up, or -1."""
    above = np.full(len(outlines.z), -1, np.intp)
    is_start = np.ones(len(outlines.z), bool)
    _link(above, is_start, outlines, touching, settings.overlap)
    for gap in range(1, min(settings.max_gap, len(outlines.numbers) - 2) + 1):
        high = 2 * np.sqrt(outlines.areas / np.pi) >= gap * anisotropy  # a flat cell cannot reach over it
        pairs = overlapping(outlines, gap + 1, (above < 0) & high, is_start & high)
        _link(above, is_start, outlines, pairs, settings.overlap)
    return above


def _link(above: Ids, is_start: NDArray[np.bool_], outlines: Outlines, pairs: Pairs, least: float) -> None:
    """Pair outlines one to one, those that agree best first; changes ``above`` and ``is_start``."""
    lower, upper, shared = pairs
    smaller = np.minimum(outlines.areas[lower], outlines.areas[upper])
    enough = np.flatnonzero(shared >= least * smaller)
    order = enough[np.argsort(-iou(pairs, outlines)[enough], kind="stable")]
    for a, b in zip(lower[order].tolist(), upper[order].tolist(), strict=True):
        if above[a] < 0 and is_start[b]:
            above[a], is_start[b] = b, False


def _follow(above: Ids) -> Ids:
    """Return the chain each outline belongs to, called by its lowest outline."""
    cells = np.arange(len(above))
    for row in np.flatnonzero(above >= 0):  # slices are numbered upwards, so a chain is met from its bottom
        cells[above[row]] = cells[row]
    return cells


def _merge_short(
    cells: Ids, outlines: Outlines, touching: Pairs, settings: LinkSettings, anisotropy: float
) -> Ids:
    """Give chains of too few slices to the cell that covers them, or to none (-1)."""
    widest = np.zeros(len(cells), np.intp)
    np.maximum.at(widest, cells, outlines.areas)
    n_slices = np.bincount(cells, minlength=len(cells))
    is_short = n_slices[cells] < settings.min_slices
    is_whole = (n_slices >= np.maximum(n_ball_slices(widest, anisotropy), 2))[cells]  # as tall as wide
    at_end = (outlines.z == 0) | (outlines.z == len(outlines.numbers) - 1)
    is_cut = np.bincount(cells[at_end], minlength=len(cells))[cells] > 0  # the rest lies outside the volume
    merged = np.where(is_short & ~is_cut & ~is_whole, -1, cells)
    rows = np.concatenate([touching.lower, touching.upper])
    others = np.concatenate([touching.upper, touching.lower])
    shared = np.concatenate([touching.shared, touching.shared])
    covered = is_short[rows] & ~is_short[others] & (shared >= settings.overlap * outlines.areas[rows])
    order = np.flatnonzero(covered)
    order = order[np.argsort(shared[order], kind="stable")]
    merged[rows[order]] = cells[others[order]]  # the last, largest one stays
    return merged


def _renumbered(cells: Ids) -> NDArray[np.int32]:
    """Return numbers 1..M of the cells; 0 for outlines of none."""
    _, numbers = np.unique(cells, return_inverse=True)
    return (numbers + (0 if (cells < 0).any() else 1)).astype(np.int32)


def _fill(linked: Labels, numbers: NDArray[np.int32], z: Ids) -> None:
    """Put cells into slices where they were missed: what lies in both outlines around and is free."""
    order = np.lexsort((z, numbers))
    order = order[numbers[order] > 0]
    same = numbers[order[1:]] == numbers[order[:-1]]
    low, high = z[order[:-1]], z[order[1:]]
    gaps = np.flatnonzero(same & (high - low > 1))
    for bottom, top in sorted({(int(low[i]), int(high[i])) for i in gaps}):
        missed = np.zeros(int(numbers.max()) + 1, bool)
        missed[numbers[order[gaps[(low[gaps] == bottom) & (high[gaps] == top)]]]] = True
        inside = (linked[bottom] == linked[top]) & missed[linked[bottom]]
        for between in linked[bottom + 1 : top]:
            np.copyto(between, linked[bottom], where=inside & (between == 0))


def link_cells(
    cells: Cells,
    axes: str,
    settings: LinkSettings = LinkSettings(),
    pixel_size_um: Sequence[float] = (),
) -> Cells:
    """Return 3D cells from cells that were counted slice by slice, each time point on its own.

    Parameters
    ----------
    cells
        With labels over ``axes``; row ``i`` is label ``i + 1``, which lies in one slice.
    axes
        ZYX or TZYX: the axes of the labels.
    settings
        How slices are linked.
    pixel_size_um
        Micrometres per pixel along Z, Y and X; empty when unknown, then slices count as one pixel apart.

    Returns
    -------
    Cells
        Points and boxes in the order of ``axes``, areas in voxels; a cell's score is the mean of its
        outlines', weighted by their areas, its class the one of most of its voxels.

    Raises
    ------
    AxesError
        The axes are not those of a volume.
    """
    if axes not in ("ZYX", "TZYX"):
        raise AxesError(
            f"Slices are linked in volumes with axes ZYX or TZYX; got {axes!r}. Move the axes, or count "
            "without linking."
        )
    if cells.labels is None:
        raise TypeError("Slices are linked by their labels; got cells without.")
    volumes = cells.labels.reshape(-1, *cells.labels.shape[-3:])
    found = np.zeros(volumes.shape, np.int32)
    n = 0
    for time, volume in enumerate(volumes):
        one = link_slices(volume, settings, anisotropy_of(pixel_size_um))
        found[time] = np.where(one > 0, one + np.int32(n), 0)
        n += int(one.max(initial=0))
    return _measured(cells, found.reshape(cells.labels.shape), n)


def anisotropy_of(pixel_size_um: Sequence[float]) -> float:
    """Return the distance of slices in pixels of y and x; 1 when the sizes (Z, Y, X) are not known."""
    if len(pixel_size_um) != 3 or not min(pixel_size_um) > 0:
        return 1.0
    z, y, x = pixel_size_um
    return float(2 * z / (y + x))


def _measured(cells: Cells, labels: Labels, n: int) -> Cells:
    areas, points, boxes = measure(labels)
    outline, cell, shared = _shares(cells, labels)
    weights = np.bincount(cell, weights=shared, minlength=n)
    scores = np.bincount(cell, weights=shared * cells.scores[outline], minlength=n) / np.maximum(weights, 1)
    classes = None
    if cells.classes is not None:
        votes = np.zeros((n, int(cells.classes.max(initial=0)) + 1))
        np.add.at(votes, (cell, cells.classes[outline]), shared)
        classes = votes.argmax(axis=1).astype(np.int16)
    return Cells(points, boxes, scores.astype(np.float32), areas, labels, classes)


def _shares(cells: Cells, labels: Labels) -> tuple[NDArray[np.intp], ...]:
    """Return outlines (rows of ``cells``), the 3D cell (from 0 on) each became, and their pixels."""
    first = np.zeros(len(cells), np.intp)
    assert cells.labels is not None
    inside = np.flatnonzero((labels > 0) & (cells.labels > 0))
    outlines = cells.labels.reshape(-1)[inside] - 1
    first[outlines] = labels.reshape(-1)[inside]  # all of an outline goes to one cell
    pixels = np.bincount(outlines, minlength=len(cells))
    kept = np.flatnonzero(first)
    return kept, first[kept] - 1, pixels[kept]


def split_necks(above: Ids, outlines: Outlines, anisotropy: float, *, waist: float, min_slices: int) -> Ids:
    """Return chains of outlines without the links where two cells were joined.

    ``above``, int (N,), is the outline that goes on with each outline further up, or -1; ``anisotropy`` the
    distance of slices in pixels of y and x. A chain is cut where area or overlap falls below the share
    ``waist`` of that on both sides (0 never cuts), if ``min_slices`` are left on either side.
    """
    if waist == 0:
        return above
    cut = above.copy()
    tall = []
    for chain in _lists(above):
        areas = outlines.areas[chain]
        n_ball = int(n_ball_slices(areas.max(), anisotropy))
        if len(chain) > n_ball and len(chain) >= 2 * min_slices:
            tall.append(_Tall(np.array(chain), areas, n_ball))
    for column, links in zip(tall, _links_of(tall, outlines), strict=True):
        for first in _waists(column, links, waist, min_slices):
            cut[column.rows[first]] = -1
    return cut


def n_ball_slices(area: Ids, anisotropy: float) -> Ids:
    """Return how many slices a cell spans that is as tall as it is wide."""
    return np.ceil(2 * np.sqrt(area / np.pi) / anisotropy).astype(np.intp)


def _lists(above: Ids) -> list[list[int]]:
    """Return the outlines of each chain from bottom to top."""
    after = above.tolist()
    starts = np.setdiff1d(np.arange(len(above)), above)
    chains = []
    for start in starts.tolist():
        chain = [start]
        while after[chain[-1]] >= 0:
            chain.append(after[chain[-1]])
        chains.append(chain)
    return chains


class _Tall(NamedTuple):
    """A chain that may be several cells: its outlines, their areas, and how many slices a ball would span."""

    rows: Ids
    areas: Ids
    n_ball: int

    @property
    def span(self) -> int:
        """How many slices apart outlines are compared."""
        return max(1, round(SPAN * self.n_ball))


class _Links(NamedTuple):
    """The Dice score along each link of a chain; how well outlines around it agree, near by and far off."""

    direct: NDArray[np.float64]
    near: NDArray[np.float64]
    far: NDArray[np.float64]


def _links_of(chains: list[_Tall], outlines: Outlines) -> list[_Links]:
    """Return how well the outlines around each link of each chain agree.

    Of three pairs of outlines the one that agrees best counts, so that one bad outline parts nothing.
    Outlines half a cell apart are compared too, because two cells may glide into each other.
    """
    pairs = [_around(chain) for chain in chains]
    if not pairs:
        return []
    lower, upper = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    shared = shared_pixels(outlines, lower, upper)
    areas = np.stack([outlines.areas[lower], outlines.areas[upper]])
    dice, cover = 2 * shared / areas.sum(axis=0), shared / areas.min(axis=0)
    ends = np.cumsum([pair[0].size for pair in pairs])[:-1]
    near, far = ([part.reshape(6, -1) for part in np.split(one, ends)] for one in (dice, cover))
    return [
        _Links(one[0], one[:3].max(axis=0), other[3:].max(axis=0))
        for one, other in zip(near, far, strict=True)
    ]


def _around(chain: _Tall) -> tuple[Ids, Ids]:
    """Return the outlines (6, links) to compare below and above each link: three near by, three further."""
    first = np.arange(len(chain.rows) - 1)
    low, high = first - (chain.span - 1) // 2, first + 1 + chain.span // 2
    places = (
        np.stack([first, first - 1, first, low, low - 1, low]),
        np.stack([first + 1, first + 1, first + 2, high, high, high + 1]),
    )
    below, over = (chain.rows[np.clip(place, 0, len(chain.rows) - 1)] for place in places)
    return below, over


def _waists(chain: _Tall, links: _Links, waist: float, min_slices: int) -> list[int]:
    """Return the links at which a chain is cut; what is no taller than a ball is one cell."""
    places: list[int] = []
    stack = [(0, len(chain.areas))]
    smooth = ndimage.median_filter(chain.areas, 3, mode="nearest")  # no dips and peaks of a single slice
    while stack:
        start, stop = stack.pop()
        if stop - start <= chain.n_ball or stop - start < 2 * min_slices:
            continue
        narrow = np.minimum(smooth[start : stop - 1], smooth[start + 1 : stop])
        near, far = (_depth(hold[start : stop - 1]) for hold in (links.near, links.far))
        depth = np.minimum.reduce([_depth(narrow), near, far])
        depth[: min_slices - 1] = depth[len(depth) - min_slices + 1 :] = np.inf
        if depth.min() >= waist:
            continue
        place = start + _weakest(depth, links.direct[start : stop - 1], chain.span // 2)
        places.append(place)
        stack += [(start, place + 1), (place + 1, stop)]
    return places


def _weakest(depth: NDArray[np.float64], direct: NDArray[np.float64], reach: int) -> int:
    """Return where neighbouring outlines agree least, around where the chain is thinnest."""
    around = np.minimum(np.abs(np.arange(len(depth)) - depth.argmin()), reach + 1) <= reach
    return int(np.where(around & np.isfinite(depth), direct, np.inf).argmin())


def _depth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each value as a share of the smaller of the largest values before and after it."""
    before, after = np.maximum.accumulate(values), np.maximum.accumulate(values[::-1])[::-1]
    return np.asarray(values / np.maximum(np.minimum(before, after), 1e-9))
