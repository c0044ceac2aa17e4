"""Decoded blocks -> the whole image: cells into one table and labels array, densities into one map.

A block reads its core and, around it, enough context for the network and for a whole cell. A cell belongs to
the block in whose core its centroid lies. A centroid on the line between two cores may fall on different
sides in the two blocks, so a block also claims cells just beyond its core; what is then found twice is
recognised by its pixels, which are taken already.

Two blocks may see a clump differently, each one taking it for a cell in the core of the other. So what a
block sees no farther from its core than a cell is wide, and does not claim, is kept until the block in whose
core it lies is done; what then still lies mostly on pixels of nobody is taken up, the surest first.

Of a density each block writes its core alone, so that no pixel is counted twice.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Cells, Labels, Maps
from cellwright.core.tasks import Progress, Task
from cellwright.ops.codecs.density import DensitySettings, even_out, to_integer_counts
from cellwright.ops.geometry.tiles import Tile, Window, whole_tile, window_between
from cellwright.ops.labels import keep_labels, label_properties
from cellwright.ops.measure.prediction_interval import count_interval

CLAIM_PX = 2.0  # how far beyond its core a block claims cells
SAME_CENTRE = 0.45  # of a cell's width: discs with centres nearer share more than half of their pixels
TAKEN = 0.5  # a cell that keeps no more than this share of its pixels was found before
SLICES_APART = 1e6  # what is in another slice is another cell, as long as slices are not linked


@dataclass(frozen=True, slots=True)
class Stitched:
    """A whole image, put together from its blocks."""

    count: float  # cells
    cells: Cells  # in pixels of the image without its channels; empty when only their density is known
    maps: Maps = field(default_factory=dict)  # dense results in image pixels
    interval: tuple[float, float] | None = None  # holds the true count in 9 of 10 images
    facts: Mapping[str, Any] = field(default_factory=dict)  # what the provenance notes of it besides settings


class Unclaimed(NamedTuple):
    """Cells that a block sees in or near its core and does not claim, in pixels of the whole image."""

    cells: Cells  # without labels
    pixels: Sequence[NDArray[np.integer]]  # (M, D) of each cell; none where it has no labels

    def take(self, rows: NDArray[Any]) -> Self:
        """Return those of these rows (M,), in this order, or where bool (N,) is true."""
        kept = np.arange(len(self.cells))[rows]
        return self._replace(cells=self.cells.take(kept), pixels=[self.pixels[row] for row in kept])

    def inside(self, cores: Sequence[Window]) -> NDArray[np.bool_]:
        """Return which have their centre in one of the cores."""
        is_inside = np.zeros(len(self.cells), np.bool_)
        for core in cores:
            is_inside |= _within(self.cells.points, core)
        return is_inside


class DoneBlock(NamedTuple):
    """A block that was done, and what it means to those that come later."""

    tile: Tile
    left: Unclaimed  # what it leaves to them
    centres: NDArray[np.float32] = np.zeros((0, 2), np.float32)  # (N, D) of its own cells without labels


class CellStitcher:
    """Collects the cells of all blocks into one table and one labels array; row i stays label i + 1.

    ``lead_shape`` are the lengths of the axes before YX, ``shape`` is (Y, X) of a frame in pixels. Without
    labels a cell found twice is recognised by its centre.
    """

    def __init__(
        self, lead_shape: tuple[int, ...], shape: tuple[int, int], *, has_labels: bool = True
    ) -> None:
        self.lead_shape = lead_shape
        self.shape = shape
        self._labels: Labels | None = None
        if has_labels:
            self._labels = np.zeros((*lead_shape, *shape), np.int32)
        self._faint: NDArray[np.bool_] | None = None
        self._done: dict[int, list[DoneBlock]] = defaultdict(list)  # by frame
        self._parts = [Cells.empty(len(lead_shape) + 2)]
        self._n_cells = 0

    def add(self, frame: int, block: Tile, decoded: Cells) -> None:
        """Add the cells of one block of frame ``frame``; they are in pixels of the block's window."""
        lead = np.unravel_index(frame, self.lead_shape)
        corner = _corner(block).astype(np.float32)
        is_whole = block.core == whole_tile(self.shape).core
        done, cells, window = self._done[frame], decoded, None
        if self._labels is not None:
            window = self._labels[lead][block.read]
            if decoded.labels is None:
                raise TypeError("Cells of a block must come with labels; this model gave none.")
        if not is_whole:
            cells, left = own_cells(decoded, block, done, window)
            done.append(DoneBlock(block, left, cells.points + corner))
        if window is not None:
            self._write(cells, window)
        if decoded.faint is not None and self._labels is not None:
            if self._faint is None:
                self._faint = np.zeros(self._labels.shape, np.bool_)
            self._faint[lead][block.core] = decoded.faint[block.local]
        self._n_cells += len(cells)
        self._parts.append(
            replace(
                cells,
                points=with_lead(cells.points + corner, lead),
                boxes=boxes_with_lead(cells.boxes + corner, lead),
                labels=None,
                faint=None,
            )
        )

    def finish(self, settings: Any) -> Task[Stitched]:
        """Return the cells of the image."""
        yield from ()
        return Stitched(float(self._n_cells), self.cells())

    def cells(self) -> Cells:
        """Return all cells, in pixels of the image without its channels."""
        return replace(Cells.concatenate(self._parts, self._labels), faint=self._faint)

    def _write(self, cells: Cells, window: Labels) -> None:
        """Write the labels of a block's cells into its window of the whole."""
        assert cells.labels is not None
        if self._n_cells == 0 and window.shape == cells.labels.shape and not window.any():
            window[...] = cells.labels
        else:
            np.copyto(window, cells.labels + np.int32(self._n_cells), where=cells.labels > 0)


@dataclass(frozen=True, slots=True)
class DensityBlock:
    """The density of one block, in pixels of the block's window."""

    density: NDArray[np.float32]  # (Y, X): cells per pixel
    variance: float  # of a cell's Gaussian, in areas of the cell
    foreground: NDArray[np.bool_] | None = None  # (Y, X): which pixels belong to cells
    cells: NDArray[np.float32] | None = None  # (Y, X): density of the cells found one by one


class DensityStitcher:
    """Collects the densities of all blocks into one map whose sum is the count.

    What stands alone in the foreground holds a whole number of cells, see ``ops.codecs.density``; and
    where the model also tells single cells, the density is the mean of this one and of theirs: two estimates
    whose errors differ.

    ``lead_shape`` and ``shape`` are those of :class:`CellStitcher`; ``count_error`` is empty where nobody
    knows how far bare counts are off, and ``factor`` are the true cells for each that the network gives.
    """

    def __init__(
        self,
        lead_shape: tuple[int, ...],
        shape: tuple[int, int],
        *,
        count_error: tuple[float, ...] = (),
        has_cells: bool = False,
        factor: float = 1.0,
    ) -> None:
        self.lead_shape = lead_shape
        self.shape = shape
        self._count_error = count_error
        self._factor = factor
        n_frames = int(np.prod(lead_shape))
        self._n_with_cells = n_frames if has_cells else 0
        self._density = np.zeros((n_frames, *shape), np.float32)
        self._foreground = np.zeros((self._n_with_cells, *shape), np.bool_)
        self._cells = np.zeros((self._n_with_cells, *shape), np.float32)

    def add(self, frame: int, block: Tile, decoded: DensityBlock) -> None:
        """Add the core of one block of frame ``frame``, which no other block has."""
        core: Any = (frame, *block.core)
        self._density[core] = decoded.density[block.local]
        if decoded.foreground is not None and decoded.cells is not None:
            self._foreground[core] = decoded.foreground[block.local]
            self._cells[core] = decoded.cells[block.local]

    def finish(self, settings: DensitySettings) -> Task[Stitched]:
        """Return the calibrated density of the image, its sum and the interval of that."""
        for index in range(self._n_with_cells):
            yield Progress("whole cells", index, self._n_with_cells)
            whole = to_integer_counts(self._density[index], self._foreground[index])
            self._density[index] = even_out((whole + self._cells[index]) / 2)
        density = self._density.reshape(*self.lead_shape, *self.shape)
        density *= np.float32(settings.calibration * self._factor)
        return Stitched(
            count=float(density.sum(dtype=np.float64)),
            cells=Cells.empty(density.ndim),
            maps={"density": density},
            interval=count_interval(density, settings, self._count_error),
            facts={"count_error": self._count_error},
        )


def own_cells(
    cells: Cells, block: Tile, before: Sequence[DoneBlock], window: Labels | None
) -> tuple[Cells, Unclaimed]:
    """Return the block's own cells, and those that are left to blocks that come later.

    ``cells`` are what was found in the window of ``block``, in its pixels; ``before`` are the blocks done
    before it, at least those that it meets. ``window`` is what the labels of the whole image hold there,
    int32 (Y, X) or (Z, Y, X); None where cells have no labels.
    """
    if window is None:
        return _own_centres(cells, block, before)
    assert cells.labels is not None
    own = _not_taken(cells, cells.labels, block, window)
    open_now, later = _sorted_out(_unclaimed(cells, block), block, before)
    if not len(open_now.cells):
        return own, later
    return _with_free(own, open_now, block, window), later


def _own_centres(cells: Cells, block: Tile, before: Sequence[DoneBlock]) -> tuple[Cells, Unclaimed]:
    from scipy.spatial import KDTree  # slow to import

    corner = _corner(block)
    standing = [_in_slices(one.centres - corner) for one in before]
    if len(cells) and sum(map(len, standing)):  # each of those before is the nearest one here, and no other
        distance, nearest = KDTree(_in_slices(cells.points)).query(np.concatenate(standing))
        is_same = distance <= SAME_CENTRE * np.sqrt(cells.areas[nearest])
        is_new = np.ones(len(cells), np.bool_)
        is_new[nearest[is_same]] = False
        cells = cells.take(is_new)
    own = cells.take(claimed(cells.points, block))
    open_now, later = _sorted_out(_unclaimed(cells, block), block, before)
    centres = _in_slices(open_now.cells.points - corner)
    reach = SAME_CENTRE * np.sqrt(open_now.cells.areas)
    distance, _ = KDTree(np.concatenate([*standing, _in_slices(own.points)])).query(centres)
    is_free = np.zeros(len(centres), np.bool_)
    for row in np.flatnonzero(distance > reach):
        to_others = np.linalg.norm(centres[is_free] - centres[row], axis=1)
        is_free[row] = to_others.min(initial=np.inf) > reach[row]
    added = _moved(open_now.cells.take(is_free), -corner)
    return Cells.concatenate([replace(own, labels=None), added]), later


def claimed(points: NDArray[np.float32], block: Tile) -> NDArray[np.bool_]:
    """Return which centres (N, D) in pixels of the block's window lie in its core or just beyond."""
    return _within(points, block.local, CLAIM_PX)


def _not_taken(cells: Cells, own: Labels, block: Tile, window: Labels) -> Cells:
    """Return the cells that a block claims, less what other blocks have put into the window already."""
    is_own = claimed(cells.points, block)
    labels = np.where(window > 0, np.int32(0), keep_labels(own, is_own))
    rows = np.flatnonzero(is_own)
    left = np.bincount(labels.ravel(), minlength=len(rows) + 1)[1:]
    free = left > TAKEN * cells.areas[rows]
    labels = keep_labels(labels, free)
    areas, _, boxes = label_properties(labels)
    kept = replace(cells, labels=None).take(rows[free])
    return replace(kept, boxes=boxes, areas=areas, labels=labels)


def _unclaimed(cells: Cells, block: Tile) -> Unclaimed:
    """Return the cells that a block sees whole, at most their width from its core, and does not claim."""
    low, high = ([getattr(part, end) for part in block.local] for end in ("start", "stop"))
    ends = [part.stop - part.start for part in block.read]
    first, last = cells.boxes[:, 0], cells.boxes[:, 1]
    extents = last - first
    is_near = ((last + extents > low) & (first - extents < high)).all(axis=1)
    is_cut = ((first <= 0) & np.greater(low, 0) | (last >= ends) & np.less(high, ends)).any(axis=1)
    rows, corner = np.flatnonzero(is_near & ~is_cut & ~claimed(cells.points, block)), _corner(block)
    pixels = [np.zeros((0, len(corner)), np.int32)] * len(rows)
    if cells.labels is not None:
        for place, row in enumerate(rows):
            first, past = cells.boxes[row].astype(int)
            box = cells.labels[window_between(first, past)]
            pixels[place] = (np.argwhere(box == row + 1) + first + corner).astype(np.int32)
    bare = replace(cells, labels=None, faint=None).take(rows)
    return Unclaimed(_moved(bare, corner), pixels)


def _sorted_out(seen: Unclaimed, block: Tile, before: Sequence[DoneBlock]) -> tuple[Unclaimed, Unclaimed]:
    """Return what no block will claim any more, the surest first, and what is left to later ones."""
    is_open = seen.inside([one.tile.core for one in before])
    parts = [seen.take(is_open), *(one.left.take(one.left.inside([block.core])) for one in before)]
    cells = Cells.concatenate([part.cells for part in parts])
    together = Unclaimed(cells, [one for part in parts for one in part.pixels])
    surest_first = np.lexsort((*cells.points.T, -cells.scores))
    return together.take(surest_first), seen.take(~is_open)


def _with_free(own: Cells, open_now: Unclaimed, block: Tile, window: Labels) -> Cells:
    """Return a block's own cells, then those that share no more than half with another, of either."""
    assert own.labels is not None
    whose, free = np.where(own.labels > 0, -own.labels, window), []
    for row, pixels in enumerate(open_now.pixels):
        local = pixels - _corner(block)
        at = tuple(local[((local >= 0) & (local < whose.shape)).all(axis=1)].T)
        owners, shared = np.unique(whose[at], return_counts=True)
        if shared[owners == 0].sum() <= TAKEN * len(pixels):
            continue
        others = zip(owners[owners != 0], shared[owners != 0], strict=True)
        if any(n > TAKEN * np.count_nonzero(whose == other) for other, n in others):
            continue
        free.append(row)
        whose[at] = np.where(whose[at] == 0, -(len(own) + len(free)), whose[at])
    if not free:
        return own
    labels = np.maximum(-whose, 0).astype(np.int32)
    areas, _, boxes = label_properties(labels)
    added = _moved(open_now.cells.take(np.array(free)), -_corner(block))
    together = Cells.concatenate([replace(own, labels=None), added], labels)
    return replace(together, areas=areas, boxes=boxes)


def _within(points: NDArray[np.float32], core: Window, beyond: float = 0.0) -> NDArray[np.bool_]:
    """Return which points (N, D) lie in a core, or so many pixels beyond it."""
    low = np.array([part.start for part in core]) - 0.5 - beyond
    high = np.array([part.stop for part in core]) - 0.5 + beyond
    return np.asarray(((points >= low) & (points < high)).all(axis=1))


def _corner(block: Tile) -> NDArray[np.int32]:
    """Return the first pixel of a block's window."""
    return np.array([part.start for part in block.read], np.int32)


def _moved(cells: Cells, by: NDArray[np.int32]) -> Cells:
    """Return cells so many pixels farther along each axis."""
    step = by.astype(np.float32)
    return replace(cells, points=cells.points + step, boxes=cells.boxes + step)


def _in_slices(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return points (N, D) whose slices, where they have some, are far from each other."""
    apart = points.astype(np.float64)
    apart[:, :-2] *= SLICES_APART
    return apart


def with_lead(points: NDArray[np.float32], lead: Sequence[Any]) -> NDArray[np.float32]:
    """Return points (N, D) with the same coordinates before them, for axes that the points do not have."""
    before = np.tile(np.array(lead, np.float32), (len(points), 1))
    return np.concatenate([before, points], axis=1).astype(np.float32, copy=False)


def boxes_with_lead(boxes: NDArray[np.float32], lead: Sequence[Any]) -> NDArray[np.float32]:
    """Return boxes (N, 2, D) with one pixel at these coordinates before, likewise."""
    first, past = boxes[:, 0], boxes[:, 1]
    return np.stack([with_lead(first, lead), with_lead(past, [i + 1 for i in lead])], axis=1)
