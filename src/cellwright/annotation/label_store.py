"""The labels of an annotation, the box of each cell, and what is known of cells and of the whole."""

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike as NumpyLike
from numpy.typing import NDArray

from cellwright.core.data import Cells, Image, Labels
from cellwright.core.errors import AnnotationError
from cellwright.ops.label_changes import Box, Change, bounds, boxes_of, joined, moved, no_such_cell
from cellwright.ops.labels import label_properties


class CellMetadata(NamedTuple):
    """What is known of one cell besides its voxels; ``category`` is an index into the class names."""

    score: float = 1.0
    category: int | None = None
    is_reviewed: bool = False


@dataclass(frozen=True, slots=True)
class AnnotationMetadata:
    """What is known of the whole annotation besides its cells.

    ``found_by`` has fields of the ``Provenance`` of the count that was corrected, empty where nothing was
    counted. Of cells that were counted in a part of the image, nothing is known outside the regions.
    """

    regions: tuple[Box, ...] = ()  # boxes in the axes of the labels in which every cell is annotated
    class_names: tuple[str, ...] = ()  # what the classes are called, in their order
    has_masks: bool = True  # False where only positions are known and the labels are discs in their place
    found_by: Mapping[str, Any] = field(default_factory=dict)
    is_part: bool = False  # whether the cells to begin with were counted in a part of the image


class LabelStore:
    """The state of an annotation. Boxes follow each change, so that no tool has to search the whole array.

    ``labels`` (int32) are edited in place; without ``cells``, the metadata by number, each cell has a score
    of 1 and no class.
    """

    def __init__(
        self,
        image: Image,
        labels: Labels,
        cells: Mapping[int, CellMetadata] | None = None,
        metadata: AnnotationMetadata = AnnotationMetadata(),
    ) -> None:
        self.image, self.labels, self.metadata = image, labels, metadata
        self._boxes = boxes_of(labels)
        self.next_number = max(self._boxes, default=0) + 1
        self.cells = dict.fromkeys(self._boxes, CellMetadata()) if cells is None else dict(cells)

    def copy(self) -> "LabelStore":
        """Return the same state on arrays of its own, with the cells that the labels hold now.

        A script may have written into the array, which no edit told of.
        """
        other = copy(self)
        other.labels = self.labels.copy()
        other._boxes = boxes_of(other.labels)
        other.cells = {**dict.fromkeys(other._boxes, CellMetadata()), **self.cells}
        return other

    def fill(self, scores: NumpyLike | None, classes: NumpyLike | None) -> None:
        """Set the metadata of all cells from columns: entry ``i`` is cell ``i + 1``, a class below 0 is none.

        AnnotationError where a column is too short.
        """
        largest = max(self._boxes, default=0)
        all_scores = _column("scores", scores, largest, 1.0)
        all_classes = _column("classes", classes, largest, -1)
        for number in self._boxes:
            score, category = float(all_scores[number - 1]), int(all_classes[number - 1])
            self.cells[number] = CellMetadata(score, category if category >= 0 else None)

    def __contains__(self, number: object) -> bool:
        return number in self._boxes

    def __len__(self) -> int:
        return len(self._boxes)

    def numbers(self) -> NDArray[np.int32]:
        """Return the numbers of all cells (N,), ascending."""
        return np.array(sorted(self._boxes), np.int32)

    def box_of(self, number: int) -> Box:
        """Return the box of a cell in the labels; AnnotationError where there is no such cell."""
        if number not in self._boxes:
            raise no_such_cell(number)
        return self._boxes[number]

    def cell(self, number: int) -> CellMetadata:
        """Return the metadata of a cell that is in the labels."""
        self.box_of(number)
        return self.cells[number]

    def is_reviewed(self, number: int) -> bool:
        """Return whether somebody has looked at a cell, be it one that was rejected."""
        return self.cells.get(number, CellMetadata()).is_reviewed

    def centre_of(self, number: int, box: Box | None = None) -> NDArray[np.float64]:
        """Return the centre (D,) of a cell, or of what a box holds of it, in pixels of the labels."""
        box = box or self.box_of(number)
        pixels = np.argwhere(self.labels[box] == number)
        return pixels.mean(axis=0) + [part.start for part in box]

    def number_at(self, point: NumpyLike) -> int:
        """Return the cell at a point (pixels, axes of the labels); 0 on background and outside."""
        pixel = np.rint(np.asarray(point, float)).astype(int)
        if np.any(pixel < 0) or np.any(pixel >= self.labels.shape):
            return 0
        return int(self.labels[tuple(pixel)])

    def to_cells(self) -> Cells:
        """Return all cells: row ``i`` is cell ``numbers()[i]``, which is ``i + 1`` in their labels."""
        numbers = self.numbers()
        labels = np.searchsorted(numbers, self.labels.ravel()).astype(np.int32).reshape(self.labels.shape)
        labels = np.where(self.labels > 0, labels + np.int32(1), np.int32(0))
        areas, points, boxes = label_properties(labels)
        known = [self.cells[int(number)] for number in numbers]
        scores = np.array([cell.score for cell in known], np.float32)
        classes = np.array([-1 if cell.category is None else cell.category for cell in known], np.int16)
        if (classes < 0).all():
            return Cells(points, boxes, scores, areas, labels)
        return Cells(points, boxes, scores, areas, labels, classes)

    @property
    def has_time(self) -> bool:
        """Whether the first axis is time."""
        return "T" in self.image.axes

    @property
    def sampling(self) -> tuple[float, ...] | None:
        """Length of a voxel along each spatial axis in pixels of the plane; None where all are alike."""
        sizes = self.image.pixel_size_um
        if len(sizes) != 3 or not min(sizes) > 0:
            return None
        plane = (sizes[1] + sizes[2]) / 2
        return tuple(float(size / plane) for size in sizes)

    def write(self, changes: Iterable[Change]) -> tuple[int, ...]:
        """Write changes into the labels and return the cells that gained or lost voxels, ascending."""
        touched: set[int] = set()
        for change in changes:
            touched |= self._write(change)
        self.next_number = max(self.next_number, max(touched, default=0) + 1)
        return tuple(sorted(touched))

    def set_metadata(self, cells: Mapping[int, CellMetadata | None], metadata: AnnotationMetadata) -> None:
        """Set the metadata of some cells (None forgets it) and of the whole."""
        for number, found in cells.items():
            if found is None:
                self.cells.pop(number, None)
            else:
                self.cells[number] = found
        self.metadata = metadata

    # -- time points --------------------------------------------------------------------------------------

    def changes(
        self, number: int, tool: Callable[..., Change | None], *args: Any, **options: Any
    ) -> list[Change | None]:
        """Return what a tool of ``ops.label_editing`` would change of a cell, time point by time point."""
        box = self.box_of(number)
        if not self.has_time:
            return [tool(self.labels, number, *args, box=box, **options)]
        found = []
        for time in range(box[0].start, box[0].stop):
            labels = self.labels[time]
            if (labels[box[1:]] == number).any():
                found.append(lifted(tool(labels, number, *args, box=box[1:], **options), time))
        return found

    def part(self, number: int, time: int | None) -> tuple[Labels, Box]:
        """Return the labels and the box of a cell at one time point; None where there is no time."""
        box = self.box_of(number)
        if time is None:
            return self.labels, box
        return self.labels[time], box[1:]

    def first_part(self, number: int) -> tuple[Labels, Box]:
        """Return the labels and the box of a cell; of a time series those of its first time point."""
        if not self.has_time:
            return self.labels, self.box_of(number)
        labels, box = self.part(number, self.box_of(number)[0].start)
        inner = bounds(labels[box] == number)
        assert inner is not None  # a box begins where its cell does
        return labels, moved(inner, box)

    def at_one_time(self, points: NumpyLike) -> tuple[int | None, NDArray[np.float64]]:
        """Return the time point of points (N, D), None without time, and their spatial coordinates."""
        found = np.atleast_2d(np.asarray(points, float))
        if found.shape[1] != self.labels.ndim:
            raise AnnotationError(
                f"Points must have {self.labels.ndim} coordinates, one for each of the axes "
                f"{self.image.label_axes!r}; got {found.shape[1]}. Give them in pixels of the labels."
            )
        if not self.has_time:
            return None, found
        times = np.rint(found[:, 0]).astype(int)
        if np.ptp(times) or not 0 <= times[0] < len(self.labels):
            raise AnnotationError(
                f"This tool works at one time point of {len(self.labels)}; got {times.tolist()}. Stay in one."
            )
        return int(times[0]), found[:, 1:]

    # -- boxes --------------------------------------------------------------------------------------------

    def _write(self, change: Change) -> set[int]:
        change.apply(self.labels)
        differs = change.before != change.after
        gained = set(np.unique(change.after[differs]).tolist()) - {0}
        lost = set(np.unique(change.before[differs]).tolist()) - {0}
        if not gained | lost:
            return set()
        inside = boxes_of(change.after)
        for number in gained | lost:
            here = inside.get(number)
            if here is not None:
                here = moved(here, change.box)
            box = self._box_after(number, change.box, here, has_lost=number in lost)
            if box is None:
                self._boxes.pop(number, None)
            else:
                self._boxes[number] = box
        return gained | lost

    def _box_after(self, number: int, changed: Box, here: Box | None, *, has_lost: bool) -> Box | None:
        """Return the box of a cell of which ``here`` is the part within what changed."""
        old = self._boxes.get(number)
        if old is None or all(
            a.start <= b.start and b.stop <= a.stop for a, b in zip(changed, old, strict=True)
        ):
            return here
        search = joined(old, here) if here is not None else old
        if not has_lost:
            return search
        inner = bounds(self.labels[search] == number)
        if inner is None:
            return None
        return moved(inner, search)


def lifted(change: Change | None, time: int | None) -> Change | None:
    """Return the change of one time point as one of the whole series."""
    if change is None or time is None:
        return change
    return change.lifted(time)


def _column(name: str, column: NumpyLike | None, n: int, default: float) -> NDArray[Any]:
    if column is None:
        return np.broadcast_to(default, n)  # takes no memory, however high the numbers
    values = np.asarray(column)
    if len(values) < n:
        raise AnnotationError(
            f"{name} must have an entry for each cell up to {n}; got {len(values)}. Hand in the column that "
            "came with the labels."
        )
    return values
