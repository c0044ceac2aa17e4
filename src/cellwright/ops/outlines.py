"""Masks to outlines along the edges of their pixels, and back without loss.

The pixel (y, x) covers y to y + 1 and x to x + 1, so an outline has whole numbers, and a pixel belongs to an
outline that has its middle inside (even-odd rule: a ring in a ring is a hole).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.data import Labels
from cellwright.ops.geometry.tiles import overlap


class MaskPart(NamedTuple):
    """The pixels of one cell: a mask and the place of its first pixel."""

    corner: tuple[int, ...]
    mask: NDArray[np.bool_]

    def at(self, lead: tuple[int, ...]) -> "MaskPart":
        """Return the same at these indices of further axes before its own."""
        return MaskPart((*lead, *self.corner), self.mask[(np.newaxis,) * len(lead)])


def cells_of(labels: Labels) -> Iterator[tuple[tuple[int, ...], int, MaskPart]]:
    """Yield plane, row and pixels of each cell of labels (..., Y, X), plane by plane."""
    for index in np.ndindex(labels.shape[:-2]):
        for row, window in enumerate(ndimage.find_objects(labels[index])):
            if window is not None:
                corner = tuple(part.start for part in window)
                yield index, row, MaskPart(corner, labels[index][window] == row + 1)


def painted(
    parts: Sequence[Sequence[MaskPart]], shape: tuple[int, ...]
) -> tuple[Labels, NDArray[np.intp], dict[str, int]]:
    """Return labels of cells (each made of parts), which cells are left, and of how many what is to be said.

    Where cells overlap, the smaller lies on top; one of which no pixel is left is left out.
    """
    labels = np.zeros(shape, np.int32)
    areas = [sum(int(part.mask.sum()) for part in cell) for cell in parts]
    for row in sorted(range(len(parts)), key=lambda row: (-areas[row], row)):
        for corner, mask in parts[row]:
            window, part = overlap(corner, mask.shape, shape)
            labels[window][mask[part]] = row + 1
    # what follows looks at the cells alone: most of a large image may never be in memory
    left: list[int] = []
    n_cut = 0
    for row, cell in enumerate(parts):
        n_own = 0
        for corner, mask in cell:
            window, part = overlap(corner, mask.shape, shape)
            own = mask[part] & (labels[window] == row + 1)
            n_own += int(own.sum())
            labels[window][own] = len(left) + 1
        if n_own:
            left.append(row)
        if 0 < n_own < areas[row]:
            n_cut += 1
    reasons = {
        "cover no pixel of their own and were left out": len(parts) - len(left),
        "overlap others (the smaller lies on top)": n_cut,
    }
    return labels, np.array(left, np.intp), reasons


Ring = NDArray[np.float64]  # (N, 2) corners y, x; the last is joined to the first
Polygon = tuple[Ring, ...]  # the outer ring, then its holes

ELLIPSE_CORNERS = 360
STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))  # clockwise, y pointing down


def polygons(mask: NDArray[np.bool_], corner: Sequence[int] = (0, 0)) -> list[Polygon]:
    """Return the outline of each connected part of a mask (Y, X) that begins at a corner, with its holes.

    Rings of one polygon meet in single corners at most, and none crosses itself.
    """
    parts, n_parts = ndimage.label(mask)
    found = []
    for number, window in enumerate(ndimage.find_objects(parts), start=1):
        first = np.array([part.start for part in window]) + np.asarray(corner)
        rings = [ring + first for ring in _trace(parts[window] == number)]
        outer = max(range(len(rings)), key=lambda i: abs(area(rings[i])))
        found.append((rings[outer], *(ring for i, ring in enumerate(rings) if i != outer)))
    assert len(found) == n_parts
    return found


def _trace(mask: NDArray[np.bool_]) -> list[Ring]:
    """Follow the edges of a connected mask, pixels on the right hand; only corners are kept."""
    padded = np.pad(mask, 1)
    inner = padded[1:-1, 1:-1]
    neighbours = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])
    edges: set[tuple[int, int, int]] = set()
    for direction, (neighbour, shift) in enumerate(
        zip(neighbours, ((0, 0), (0, 1), (1, 1), (1, 0)), strict=True)
    ):
        places = np.argwhere(inner & ~neighbour) + shift
        edges.update((y, x, direction) for y, x in places.tolist())
    rings = []
    while edges:
        rings.append(_follow(edges))
    return rings


def _follow(edges: set[tuple[int, int, int]]) -> Ring:
    """Take one ring out of the edges; where two pixels touch in a corner, go on to the other one."""
    y, x, direction = first = edges.pop()
    corners = []
    while True:
        y, x = y + STEPS[direction][0], x + STEPS[direction][1]
        for turn in (-1, 0, 1):
            following = (direction + turn) % 4
            if (y, x, following) in edges or (y, x, following) == first:
                break
        if following != direction:
            corners.append((y, x))
        if (y, x, following) == first:
            return np.array(corners, np.float64)
        edges.remove((y, x, following))
        direction = following


def area(ring: Ring) -> float:
    """Return the signed area of a ring."""
    y, x = ring[:, 0], ring[:, 1]
    return float((y * np.roll(x, -1) - x * np.roll(y, -1)).sum() / 2)


def filled(rings: Sequence[Ring]) -> MaskPart:
    """Return the pixels whose middle lies inside rings (even-odd rule)."""
    first = np.floor(np.min([ring.min(axis=0) for ring in rings], axis=0)).astype(int)
    stop = np.ceil(np.max([ring.max(axis=0) for ring in rings], axis=0)).astype(int)
    rows, columns = (np.arange(max(length, 1)) + 0.5 for length in stop - first)
    return MaskPart(
        (int(first[0]), int(first[1])), pixels_in_rings(rows, columns, [r - first for r in rings])
    )


def pixels_in_rings(
    rows: NDArray[np.float64], columns: NDArray[np.float64], rings: Sequence[Ring]
) -> NDArray[np.bool_]:
    """Return which pixels (Y, X), whose middles lie at these ascending rows and columns, lie inside rings.

    They are those that :func:`points_in_ring` tells. Each side turns over all pixels of a row behind it.
    """
    starts, ends = np.concatenate(rings), np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    swapped = (starts[:, 0] > ends[:, 0])[:, np.newaxis]  # so that a side gives the same both ways
    low, high = np.where(swapped, ends, starts), np.where(swapped, starts, ends)
    rows_from = np.searchsorted(rows, low[:, 0])
    n_rows = np.searchsorted(rows, high[:, 0]) - rows_from
    side = np.repeat(np.arange(len(low)), n_rows)
    row = np.arange(n_rows.sum()) + np.repeat(rows_from - np.cumsum(n_rows) + n_rows, n_rows)
    (y0, x0), (y1, x1) = low[side].T, high[side].T
    column = np.searchsorted(columns, (x1 - x0) * (rows[row] - y0) / (y1 - y0) + x0)
    turns = np.zeros((len(rows), len(columns) + 1), bool)  # at how many pixels of a row from its end on
    np.logical_not.at(turns.reshape(-1), row * turns.shape[1] + column)
    return np.logical_xor.accumulate(turns, axis=1)[:, :-1]


def points_in_ring(points: NDArray[np.float64], ring: Ring) -> NDArray[np.bool_]:
    """Return which points (N, 2) lie inside a ring (even-odd).

    Of two rings that share a side, one has the points on it.
    """
    inside = np.zeros(len(points), bool)
    y, x = points[:, 0], points[:, 1]
    for ends in zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True):
        (y0, x0), (y1, x1) = sorted(ends)
        if y0 < y1:
            inside ^= (y0 <= y) & (y < y1) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


def ellipse_ring(corners: NDArray[np.floating], n_corners: int = ELLIPSE_CORNERS) -> Ring:
    """Return the ring of the ellipse in a rectangle, upright or turned, by its corners (4, 2) in order."""
    box = np.asarray(corners, np.float64)
    first, second = (box[1] - box[0]) / 2, (box[3] - box[0]) / 2
    turn = np.linspace(0, 2 * np.pi, n_corners, endpoint=False)[:, np.newaxis]
    swell = 1 / np.sqrt(np.sinc(2 / n_corners))  # so that the polygon has the ellipse's area
    return np.asarray(box.mean(axis=0) + swell * (np.cos(turn) * first + np.sin(turn) * second))


def clipped(ring: Ring, size: tuple[int, int]) -> Ring:
    """Return the part of a ring inside an image (Y, X), along its edges where it left it; empty outside.

    Source: Sutherland and Hodgman, Commun. ACM 17, 32 (1974).
    """
    for axis in (0, 1):
        for sign, limit in ((-1, 0.0), (1, float(size[axis]))):
            if not len(ring):
                return ring
            following = np.roll(ring, -1, axis=0)
            here, there = sign * (ring[:, axis] - limit), sign * (following[:, axis] - limit)
            crosses = (here > 0) != (there > 0)
            share = here / np.where(crosses, here - there, 1.0)
            points = np.where(crosses[:, np.newaxis], ring + share[:, np.newaxis] * (following - ring), 0.0)
            points[:, axis] = limit
            both = np.stack([ring, points], axis=1).reshape(-1, 2)
            ring = both[np.stack([here <= 0, crosses], axis=1).ravel()]
    return ring


def crosses_itself(ring: Ring) -> bool:
    """Return whether two sides of a ring cross; sides that touch, or run back on themselves, do not."""
    starts, ends = _sides(ring)
    tolerance = 1e-9 * (1 + float(np.ptp(ring, axis=0).max()) ** 2)
    for index in range(0, len(starts), 256):
        part = slice(index, index + 256)
        a, b = starts[part].T[..., np.newaxis], ends[part].T[..., np.newaxis]
        c, d = starts.T[:, np.newaxis], ends.T[:, np.newaxis]
        divided = _side(a, b, c, tolerance) * _side(a, b, d, tolerance) < 0
        if divided.any() and np.any(divided & (_side(c, d, a, tolerance) * _side(c, d, b, tolerance) < 0)):
            return True
    return False


def _sides(ring: Ring) -> tuple[Ring, Ring]:
    """Return starts and ends of the sides, without pairs of sides that are each other's way back."""
    starts, ends = ring, np.roll(ring, -1, axis=0)
    there = [(*start, *end) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    known = set(there)
    keep = np.array([(*side[2:], *side[:2]) not in known for side in there], bool)
    return starts[keep], ends[keep]


def _side(a: Ring, b: Ring, point: Ring, tolerance: float) -> NDArray[np.float64]:
    """Return on which side of the lines from a to b points lie, by sign; each is (2, ...)."""
    cross = (b[0] - a[0]) * (point[1] - a[1]) - (b[1] - a[1]) * (point[0] - a[0])
    return np.where(np.abs(cross) <= tolerance, 0.0, cross)


def as_one_ring(rings: Sequence[Ring]) -> Ring:
    """Return one ring with the inside of all of them, joined by bridges that are walked there and back."""
    from scipy.spatial import KDTree  # slow to import

    joined = rings[0]
    for ring in rings[1:]:
        gaps, nearest = KDTree(ring).query(joined, p=1)
        here = int(gaps.argmin())
        turned = np.roll(ring, -nearest[here], axis=0)
        joined = np.concatenate([joined[: here + 1], turned, turned[:1], joined[here:]])
    return joined
