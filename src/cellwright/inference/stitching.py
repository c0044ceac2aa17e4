"""Blocks: an image larger than memory is decoded part by part; every other image is one block.

A block reads its core and, around it, enough context for the network and for a whole cell. A cell belongs to
the block in whose core its centroid lies. A centroid on the line between two cores may fall on different
sides in the two blocks, so a block also claims cells just beyond its core; what is then found twice is
recognised by its pixels, which are taken already.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cellwright.core.data import Cells, Labels, Maps
from cellwright.core.tasks import Task
from cellwright.inference.predictor import Engine, TileProgress, by_name, predict_maps
from cellwright.ops.geometry.axes import Frames
from cellwright.ops.geometry.intensity import Scaling, apply
from cellwright.ops.geometry.resample import resize, zoomed
from cellwright.ops.geometry.tiles import Layout, Tile, grid
from cellwright.ops.labels import keep, measure

WHOLE_PX = 4096  # a frame up to this long is one block, whose maps can be kept
BLOCK_PX = 3072  # a longer one is cut, so that its labels leave room for the decoding of a block
LARGEST_CELL = 3.0  # times the model's diameter: cells up to this size are whole in some block
CLAIM_PX = 2.0  # how far beyond its core a block claims cells
SAME_CENTRE = 0.25  # centres nearer than this share of the cell's width are of one cell
TAKEN = 0.5  # a cell that keeps no more than this share of its pixels was found before


@dataclass(frozen=True, slots=True)
class BlockBatch:
    """What is read, predicted and decoded at once: one block of one frame, or several small frames."""

    frames: range
    block: Tile

    @property
    def shape(self) -> tuple[int, int]:
        """(Y, X) of what is read of each frame, in pixels of the image."""
        rows, columns = self.block.read
        return rows.stop - rows.start, columns.stop - columns.start


def units(n_frames: int, shape: tuple[int, int], engine: Engine, zoom: float = 1.0) -> tuple[BlockBatch, ...]:
    """Return the units of ``n_frames`` frames of (Y, X) pixels, frame by frame."""
    blocks = grid(_layout(shape, engine, zoom))
    together = engine.batch_for(shape) if len(blocks) == 1 and zoom == 1.0 else 1
    return tuple(
        BlockBatch(range(start, min(start + together, n_frames)), block)
        for start in range(0, n_frames, together)
        for block in blocks
    )


def predict_unit(
    frames: Frames, scaling: Scaling, unit: BlockBatch, engine: Engine, zoom: float, meter: TileProgress
) -> Task[list[Maps]]:
    """Return the maps of each frame of a unit, in model pixels; its pixels are read at once, then let go."""
    shape = zoomed(unit.shape, zoom)
    images = [resize(apply(scaling, frames.read(index, unit.block.read)), shape) for index in unit.frames]
    stacked = images[0][np.newaxis] if len(images) == 1 else np.stack(images)
    del images
    maps = yield from predict_maps(stacked, engine, meter)
    return [by_name(one, engine.spec.map_channels) for one in maps]


def n_tiles(parts: Sequence[BlockBatch], engine: Engine, zoom: float) -> int:
    """Return how many tiles the network takes for these units."""
    return sum(len(part.frames) * len(grid(engine.layout(zoomed(part.shape, zoom)))) for part in parts)


def _layout(shape: tuple[int, int], engine: Engine, zoom: float) -> Layout:
    """Return the blocks in pixels of the image; they are measured as they will be once it is enlarged."""
    largest_cell = LARGEST_CELL * engine.spec.diameter_px
    enlarged = max(zoom, 1.0)
    longest = WHOLE_PX if max(shape) * enlarged <= WHOLE_PX else BLOCK_PX
    return Layout(
        shape=shape,
        core=int(longest / enlarged),
        halo=ceil((engine.halo + largest_cell) / zoom),
        divisor=engine.divisor,
    )


class Stitcher:
    """Collects the cells of all units into one table and one labels array; row i stays label i + 1.

    Parameters
    ----------
    lead_shape
        Lengths of the axes before YX; empty for a 2D image.
    shape
        (Y, X) of a frame in pixels.
    has_labels
        Whether the cells come with labels; without, a cell found twice is recognised by its centre.
    """

    def __init__(
        self, lead_shape: tuple[int, ...], shape: tuple[int, int], *, has_labels: bool = True
    ) -> None:
        self.lead_shape = lead_shape
        self.shape = shape
        self._labels: Labels | None = np.zeros((*lead_shape, *shape), np.int32) if has_labels else None
        self._centres: dict[int, list[NDArray[np.float32]]] = {}
        n_axes = len(lead_shape) + 2
        none = np.zeros((0,), np.float32)
        self._parts = [Cells(none.reshape(0, n_axes), none.reshape(0, 2, n_axes), none, none)]
        self._n_cells = 0

    def add(self, frame: int, block: Tile, cells: Cells) -> None:
        """Add the cells of one block of frame ``frame``; they are in pixels of the block's window."""
        lead = [int(i) for i in np.unravel_index(frame, self.lead_shape)] if self.lead_shape else []
        corner = np.array([part.start for part in block.read], np.float32)
        is_whole = tuple(part.stop - part.start for part in block.read) == self.shape
        if self._labels is not None:
            cells = self._written(cells, block, self._labels[tuple(lead)][block.read], is_whole=is_whole)
        elif not is_whole:
            cells = self._not_yet_found(cells, block, frame)
        self._n_cells += len(cells)
        self._parts.append(
            replace(
                cells,
                points=_with_lead(cells.points + corner, lead),
                boxes=_boxes_with_lead(cells.boxes + corner, lead),
                labels=None,
            )
        )

    def cells(self) -> Cells:
        """Return all cells, in pixels of the image without its channels."""
        parts = self._parts
        classes = [part.classes for part in parts if part.classes is not None]
        return Cells(
            points=np.concatenate([part.points for part in parts]),
            boxes=np.concatenate([part.boxes for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
            areas=np.concatenate([part.areas for part in parts]),
            labels=self._labels,
            classes=np.concatenate(classes) if classes else None,
        )

    def _written(self, cells: Cells, block: Tile, window: Labels, *, is_whole: bool) -> Cells:
        """Write the labels of a block's own cells into the window; return these cells."""
        if cells.labels is None:
            raise TypeError("Cells of a block must come with labels; postprocess gave none.")
        own = cells if is_whole else _free(cells, cells.labels, block, window)
        assert own.labels is not None  # as those they were taken from
        _write(window, own.labels, self._n_cells)
        return own

    def _not_yet_found(self, cells: Cells, block: Tile, frame: int) -> Cells:
        """Return a block's own cells without those whose centre is that of a cell of an earlier block."""
        rows = np.flatnonzero(_claimed(cells.points, block))
        corner = np.array([part.start for part in block.read], np.float32)
        earlier = self._centres.setdefault(frame, [])
        if earlier and len(rows):
            distance, _ = cKDTree(np.concatenate(earlier)).query(cells.points[rows] + corner)
            rows = rows[distance > SAME_CENTRE * np.sqrt(cells.areas[rows])]
        if len(rows):
            earlier.append(cells.points[rows] + corner)
        classes = None if cells.classes is None else cells.classes[rows]
        return Cells(
            cells.points[rows], cells.boxes[rows], cells.scores[rows], cells.areas[rows], None, classes
        )


def _write(window: Labels, labels: Labels, n_before: int) -> None:
    if n_before == 0 and window.shape == labels.shape and not window.any():
        window[...] = labels
    else:
        np.copyto(window, labels + np.int32(n_before), where=labels > 0)


def _free(cells: Cells, own: Labels, block: Tile, window: Labels) -> Cells:
    """Return the block's own cells, less what other blocks have put into the window already."""
    claimed = _claimed(cells.points, block)
    labels = np.where(window > 0, np.int32(0), keep(own, claimed))
    rows = np.flatnonzero(claimed)
    left = np.bincount(labels.ravel(), minlength=len(rows) + 1)[1:]
    free = left > TAKEN * cells.areas[rows]
    labels, rows = keep(labels, free), rows[free]
    areas, _, boxes = measure(labels)
    classes = None if cells.classes is None else cells.classes[rows]
    return Cells(cells.points[rows], boxes, cells.scores[rows], areas, labels, classes)


def _claimed(points: NDArray[np.float32], block: Tile) -> NDArray[np.bool_]:
    low = np.array([part.start for part in block.local]) - 0.5 - CLAIM_PX
    high = np.array([part.stop for part in block.local]) - 0.5 + CLAIM_PX
    inside = (points >= low) & (points < high)
    return inside[:, 0] & inside[:, 1]


def _with_lead(points: NDArray[np.float32], lead: Sequence[int]) -> NDArray[np.float32]:
    before = np.tile(np.array(lead, np.float32), (len(points), 1))
    return np.concatenate([before, points], axis=1).astype(np.float32, copy=False)


def _boxes_with_lead(boxes: NDArray[np.float32], lead: Sequence[int]) -> NDArray[np.float32]:
    first, past = boxes[:, 0], boxes[:, 1]
    return np.stack([_with_lead(first, lead), _with_lead(past, [i + 1 for i in lead])], axis=1)
