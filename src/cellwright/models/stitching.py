"""Decoded blocks -> the whole image: cells into one table and labels array, densities into one map.

A block reads its core and, around it, enough context for the network and for a whole cell. A cell belongs to
the block in whose core its centroid lies. A centroid on the line between two cores may fall on different
sides in the two blocks, so a block also claims cells just beyond its core; what is then found twice is
recognised by its pixels, which are taken already. Of a density each block writes its core alone, so that no
pixel is counted twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Cells, Labels, Maps
from cellwright.core.tasks import Progress, Task
from cellwright.ops.codecs.density import DensitySettings, even_out, to_integer_counts
from cellwright.ops.geometry.tiles import Tile
from cellwright.ops.labels import keep, measure
from cellwright.ops.measure.prediction_interval import count_interval

CLAIM_PX = 2.0  # how far beyond its core a block claims cells
SAME_CENTRE = 0.25  # centres nearer than this share of the cell's width are of one cell
TAKEN = 0.5  # a cell that keeps no more than this share of its pixels was found before


@dataclass(frozen=True, slots=True)
class Stitched:
    """A whole image, put together from its blocks."""

    count: float  # cells
    cells: Cells  # in pixels of the image without its channels; empty when only their density is known
    maps: Maps = field(default_factory=dict)  # dense results in image pixels
    interval: tuple[float, float] | None = None  # holds the true count in 9 of 10 images
    facts: Mapping[str, Any] = field(default_factory=dict)  # what the provenance notes of it besides settings


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
        self._centres: dict[int, list[NDArray[np.float32]]] = {}
        self._parts = [Cells.empty(len(lead_shape) + 2)]
        self._n_cells = 0

    def add(self, frame: int, block: Tile, decoded: Cells) -> None:
        """Add the cells of one block of frame ``frame``; they are in pixels of the block's window."""
        lead = np.unravel_index(frame, self.lead_shape)
        corner = np.array([part.start for part in block.read], np.float32)
        is_whole = tuple(part.stop - part.start for part in block.read) == self.shape
        if self._labels is not None:
            cells = self._written(decoded, block, self._labels[lead][block.read], is_whole=is_whole)
            if decoded.faint is not None:
                if self._faint is None:
                    self._faint = np.zeros(self._labels.shape, np.bool_)
                self._faint[lead][block.core] = decoded.faint[block.local]
        elif is_whole:
            cells = decoded
        else:
            cells = self._not_yet_found(decoded, block, frame)
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

    def _written(self, cells: Cells, block: Tile, window: Labels, *, is_whole: bool) -> Cells:
        """Write the labels of a block's own cells into the window; return these cells."""
        if cells.labels is None:
            raise TypeError("Cells of a block must come with labels; this model gave none.")
        own = cells if is_whole else not_taken(cells, cells.labels, block, window)
        assert own.labels is not None  # as those they were taken from
        if self._n_cells == 0 and window.shape == own.labels.shape and not window.any():
            window[...] = own.labels
        else:
            np.copyto(window, own.labels + np.int32(self._n_cells), where=own.labels > 0)
        return own

    def _not_yet_found(self, cells: Cells, block: Tile, frame: int) -> Cells:
        """Return a block's own cells without those whose centre is that of a cell of an earlier block."""
        rows = np.flatnonzero(claimed(cells.points, block))
        corner = np.array([part.start for part in block.read], np.float32)
        earlier = self._centres.setdefault(frame, [])
        if earlier and len(rows):
            from scipy.spatial import cKDTree  # slow to import

            distance, _ = cKDTree(np.concatenate(earlier)).query(cells.points[rows] + corner)
            rows = rows[distance > SAME_CENTRE * np.sqrt(cells.areas[rows])]
        if len(rows):
            earlier.append(cells.points[rows] + corner)
        return replace(cells, labels=None).take(rows)


@dataclass(frozen=True, slots=True)
class DensityBlock:
    """The density of one block, in pixels of the block's window."""

    density: NDArray[np.float32]  # (Y, X): cells per pixel
    variance: float  # of a cell's Gaussian, in areas of the cell
    foreground: NDArray[np.bool_] | None = None  # (Y, X): which pixels belong to cells
    cells: NDArray[np.float32] | None = None  # (Y, X): density of the cells found one by one


class DensityStitcher:
    """Collects the densities of all blocks into one map whose sum is the count.

    What stands alone in the foreground holds a whole number of cells, see ``ops.codecs.integer_counts``; and
    where the model also tells single cells, the density is the mean of this one and of theirs: two estimates
    whose errors differ.

    Parameters
    ----------
    lead_shape
        Lengths of the axes before YX; empty for a 2D image.
    shape
        (Y, X) of a frame in pixels.
    count_error
        How far bare counts are off; empty when nobody knows.
    has_cells
        Whether the model also tells single cells and their foreground.
    factor
        True cells for each that the network gives, where the model learned that from counts.
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


def not_taken(cells: Cells, own: Labels, block: Tile, window: Labels) -> Cells:
    """Return the block's own cells, less what other blocks have put into the window already.

    ``cells`` are those of ``block`` in pixels of its window, ``own`` their labels, int32 (Y, X) or (Z, Y, X);
    ``window`` is what the labels of the whole image hold there.
    """
    is_own = claimed(cells.points, block)
    labels = np.where(window > 0, np.int32(0), keep(own, is_own))
    rows = np.flatnonzero(is_own)
    left = np.bincount(labels.ravel(), minlength=len(rows) + 1)[1:]
    free = left > TAKEN * cells.areas[rows]
    labels = keep(labels, free)
    areas, _, boxes = measure(labels)
    kept = replace(cells, labels=None).take(rows[free])
    return replace(kept, boxes=boxes, areas=areas, labels=labels)


def claimed(points: NDArray[np.float32], block: Tile) -> NDArray[np.bool_]:
    """Return which centres (..., Y, X), with Z for a block of slices, lie in its core or just beyond."""
    low = np.array([part.start for part in block.local]) - 0.5 - CLAIM_PX
    high = np.array([part.stop for part in block.local]) - 0.5 + CLAIM_PX
    own = points[:, -len(low) :]
    return np.asarray(((own >= low) & (own < high)).all(axis=1))


def with_lead(points: NDArray[np.float32], lead: Sequence[Any]) -> NDArray[np.float32]:
    """Return points (N, D) with the same coordinates before them, for axes that the points do not have."""
    before = np.tile(np.array(lead, np.float32), (len(points), 1))
    return np.concatenate([before, points], axis=1).astype(np.float32, copy=False)


def boxes_with_lead(boxes: NDArray[np.float32], lead: Sequence[Any]) -> NDArray[np.float32]:
    """Return boxes (N, 2, D) with one pixel at these coordinates before, likewise."""
    first, past = boxes[:, 0], boxes[:, 1]
    return np.stack([with_lead(first, lead), with_lead(past, [i + 1 for i in lead])], axis=1)
