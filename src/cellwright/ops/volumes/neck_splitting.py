"""Where a column of outlines that lie one above the other has a waist, it is two cells."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellwright.ops.volumes.slice_regions import Ids, Outlines, shared_pixels

SPAN = 0.5  # how far apart outlines are compared to part cells, in heights of a ball as wide as they are


def split_necks(above: Ids, outlines: Outlines, anisotropy: float, *, waist: float, min_slices: int) -> Ids:
    """Return chains of outlines without the links where two cells were joined.

    Parameters
    ----------
    above : int (N,)
        The outline that goes on with each outline further up, or -1.
    anisotropy
        Distance of slices in pixels of y and x.
    waist
        Area or overlap, as a share of that on both sides, below which a chain is cut; 0 never cuts.
    min_slices
        Fewest slices of what is left on either side.
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
    smooth = _median_of_three(chain.areas)
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


def _median_of_three(values: Ids) -> NDArray[np.float64]:
    """Return values without dips and peaks of a single slice."""
    padded = np.pad(values, 1, mode="edge").astype(np.float64)
    return np.asarray(np.median([padded[:-2], padded[1:-1], padded[2:]], axis=0))
