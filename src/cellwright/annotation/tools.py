"""The tools that change the voxels of cells, time point by time point, each in one undoable edit."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike as NumpyLike
from numpy.typing import NDArray

from cellwright.annotation.command import CellMetadata
from cellwright.annotation.history import History
from cellwright.annotation.setup import checked_box, checked_labels, facts_of
from cellwright.core.data import Labels
from cellwright.core.errors import AnnotationError
from cellwright.ops import label_editing, label_splitting
from cellwright.ops.label_changes import Box, Change, Mask, boxes_of, change_of


class Tools(History):
    """The tools of :class:`AnnotationSession`."""

    def delete(self, number: int) -> None:
        """Make a cell background."""
        self._do("delete", self._each(number, label_editing.erase))

    def reject(self, number: int) -> None:
        """Delete a cell that the model should not have found; it counts as reviewed."""
        facts = self._facts_at(number)._replace(is_reviewed=True)
        self._do("reject", self._each(number, label_editing.erase), {number: facts})

    def merge(self, keep: int, gone: int) -> None:
        """Give cell ``gone`` to cell ``keep``, which stays what it is."""
        facts = {keep: self._facts_at(keep)._replace(is_reviewed=True)}
        changes = []
        for index, labels, box in self._parts(gone):
            changes.append(self._placed(label_editing.merge(labels, keep, gone, box=box), index))
        self._do("merge", changes, facts)

    def split_line(self, number: int, line: NumpyLike) -> tuple[int, ...]:
        """Cut a cell along a line (N, D); return the numbers of the new parts."""
        index, places = self._at_one_time(line)
        labels, box = self._part(number, index)
        change = label_splitting.split_by_line(labels, number, places, new=self._next, box=box)
        return self._split("split by line", number, self._placed(change, index))

    def split_seeds(self, number: int, first: NumpyLike, second: NumpyLike) -> tuple[int, ...]:
        """Cut a cell between two points; the part of the first keeps the number; return that of the other."""
        index, places = self._at_one_time(np.stack([np.asarray(first, float), np.asarray(second, float)]))
        labels, box = self._part(number, index)
        change = label_splitting.split_by_seeds(
            labels, number, places, sampling=self._sampling, new=self._next, box=box
        )
        return self._split("split by seeds", number, self._placed(change, index))

    def grow(self, number: int, radius_px: float = 1.0) -> None:
        """Add the background within ``radius_px`` to a cell."""
        self._reshape("grow", number, label_editing.grow, radius_px)

    def shrink(self, number: int, radius_px: float = 1.0) -> None:
        """Take the outermost ``radius_px`` off a cell."""
        self._reshape("shrink", number, label_editing.shrink, radius_px)

    def smooth(self, number: int, radius_px: float = 2.0) -> None:
        """Round the outline of a cell."""
        self._reshape("smooth", number, label_editing.smooth, radius_px)

    def fill(self, number: int) -> None:
        """Fill the holes of a cell."""
        self._shape("fill holes", number, self._each(number, label_editing.fill_holes))

    def interpolate(self, number: int, first: int, last: int) -> None:
        """Draw a cell in the slices between those from ``first`` to ``last`` in which it is drawn.

        Slices are those of Z; where there is none, time points.
        """
        if "Z" in self._axes:
            changes = self._each(number, label_editing.interpolate, first, last)
        else:
            found = label_editing.interpolate(self.labels, number, first, last, box=self.box_of(number))
            changes = [found]
        self._shape("interpolate", number, changes)

    def add(
        self, mask: Mask, corner: Sequence[int], *, score: float = 1.0, category: int | None = None
    ) -> int:
        """Make the background under a mask a new cell and return its number.

        ``corner`` is the place of the mask's first voxel; a mask of fewer axes lies in one slice.
        """
        mask = np.asarray(mask, bool)
        mask = mask[(np.newaxis,) * (self.labels.ndim - mask.ndim)]
        return self._add(
            "add", label_editing.add_mask(self.labels, corner, mask, new=self._next), score, category
        )

    def add_disc(self, point: NumpyLike, diameter_px: float) -> int:
        """Draw a new disc (a ball in a volume) on the background and return its number."""
        index, places = self._at_one_time(point)
        labels = self.labels if index is None else self.labels[index]
        change = label_editing.draw_disc(
            labels, places[0], diameter_px, sampling=self._sampling, new=self._next
        )
        return self._add("add disc", self._placed(change, index), 1.0, None)

    def record_paint(self, box: Box, before: NDArray[Any], after: NDArray[Any]) -> None:
        """Take over what was painted into the labels by other means: the box before and after.

        Raises
        ------
        AnnotationError
            The arrays do not have the shape of the box.
        WriteError
            The journal cannot be written; what was painted has been taken back.
        """
        box = checked_box(box, self.labels.shape)
        shape = tuple(part.stop - part.start for part in box)
        if np.shape(before) != shape or np.shape(after) != shape:
            raise AnnotationError(
                f"What was painted must have the shape {shape} of its box; got {np.shape(before)} and "
                f"{np.shape(after)}. Hand in the same box of the labels before and after."
            )
        change = Change(box, np.array(before, np.int32), np.array(after, np.int32))
        gained = np.unique(change.after[change.before != change.after])
        self._do("paint", [change], self._seen(*(int(number) for number in gained if number)))

    def replace_labels(
        self,
        labels: NDArray[np.integer[Any]],
        scores: NumpyLike | None = None,
        classes: NumpyLike | None = None,
    ) -> None:
        """Put new labels, a model's say, in the place of all there is; undoable as any edit."""
        found = checked_labels(self.image, labels)
        whole = tuple(slice(0, length) for length in found.shape)
        facts: dict[int, CellMetadata | None] = dict.fromkeys(self._facts)
        facts |= facts_of(boxes_of(found), scores, classes)
        extras = replace(self.extras, has_masks=True)
        self._do("model", [change_of(self.labels, whole, found)], facts, extras)

    @property
    def _axes(self) -> str:
        return self.image.axes.replace("C", "")

    @property
    def _spatial_ndim(self) -> int:
        return self.labels.ndim - ("T" in self._axes)

    @property
    def _sampling(self) -> tuple[float, ...] | None:
        """Length of a voxel along each spatial axis in pixels of the plane; None where all are alike."""
        sizes = self.image.pixel_size_um
        if len(sizes) != 3 or not min(sizes) > 0:
            return None
        plane = (sizes[1] + sizes[2]) / 2
        return tuple(float(size / plane) for size in sizes)

    def _seen(self, *numbers: int) -> dict[int, CellMetadata | None]:
        """Return the facts of cells that somebody shaped by hand, and so has looked at."""
        return {
            number: self._facts.get(number, CellMetadata())._replace(is_reviewed=True) for number in numbers
        }

    def _parts(self, number: int) -> Iterable[tuple[int | None, Labels, Box]]:
        """Yield time point (None without time), labels and box of a cell at each time point it is in."""
        box = self.box_of(number)
        if "T" not in self._axes:
            yield None, self.labels, box
            return
        for index in range(box[0].start, box[0].stop):
            if (self.labels[index][box[1:]] == number).any():
                yield index, self.labels[index], box[1:]

    def _part(self, number: int, index: int | None) -> tuple[Labels, Box]:
        box = self.box_of(number)
        return (self.labels, box) if index is None else (self.labels[index], box[1:])

    def _each(
        self, number: int, tool: Callable[..., Change | None], *args: Any, **options: Any
    ) -> list[Change | None]:
        """Return what a tool changes of a cell, time point by time point."""
        return [
            self._placed(tool(labels, number, *args, box=box, **options), index)
            for index, labels, box in self._parts(number)
        ]

    def _reshape(self, name: str, number: int, tool: Callable[..., Change | None], radius_px: float) -> None:
        self._shape(name, number, self._each(number, tool, radius_px, sampling=self._sampling))

    def _shape(self, name: str, number: int, changes: Sequence[Change | None]) -> None:
        """Do what a tool changes of one cell; where that is nothing, there is no edit either."""
        if any(change is not None for change in changes):
            self._do(name, changes, self._seen(number))

    def _placed(self, change: Change | None, index: int | None) -> Change | None:
        return change if change is None or index is None else change.lifted(index)

    def _at_one_time(self, points: NumpyLike) -> tuple[int | None, NDArray[np.float64]]:
        """Return the time point of some points, None without time, and their places in space."""
        places = np.atleast_2d(np.asarray(points, float))
        if places.shape[1] != self.labels.ndim:
            raise AnnotationError(
                f"Points must have {self.labels.ndim} coordinates, one for each of the axes "
                f"{self._axes!r}; got {places.shape[1]}. Give them in pixels of the labels."
            )
        if "T" not in self._axes:
            return None, places
        times = np.rint(places[:, 0]).astype(int)
        if np.ptp(times) or not 0 <= times[0] < len(self.labels):
            raise AnnotationError(
                f"This tool works at one time point of {len(self.labels)}; got {times.tolist()}. Stay in one."
            )
        return int(times[0]), places[:, 1:]

    def _split(self, name: str, number: int, change: Change | None) -> tuple[int, ...]:
        if change is None:
            return ()
        seen = self._facts_at(number)._replace(is_reviewed=True)
        parts = change.numbers()
        self._do(name, [change], dict.fromkeys((number, *parts), seen))
        return tuple(part for part in parts if part != number)

    def _add(self, name: str, change: Change | None, score: float, category: int | None) -> int:
        number = self._next
        self._do(name, [change], {number: CellMetadata(float(score), category, is_reviewed=True)})
        return number
