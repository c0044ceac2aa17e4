"""The annotation of one image: labels, classes, scores, what has been reviewed, and every edit undoable.

Numbers of cells are stable: no edit renumbers a cell, and none is used again.
Where only the places of cells are known, discs stand for them (``extras.has_masks`` is false).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike as NumpyLike
from numpy.typing import NDArray

from cellwright.errors import AnnotationError
from cellwright.ops import cut, edit
from cellwright.ops.change import Box, Change, Mask, boxes_of, change_of
from cellwright.ops.labels import equivalent_diameters, measure
from cellwright.session.begin import (
    UNKNOWN,
    Columns,
    check_same,
    checked_box,
    checked_labels,
    draw_discs,
    facts_of,
    place,
    plane_shape,
)
from cellwright.session.command import Extras, Facts
from cellwright.session.history import History
from cellwright.session.journal import locked, read_journal
from cellwright.types import Cells, Image, Labels, Result

DISC_PX = 12.0  # where the diameter of cells is not known either


class AnnotationSession(History):
    """The annotation of one image.

    Parameters
    ----------
    image
        Its axes without the channels are those of the labels; time, where there is some, comes first.
    labels : int (Y, X), (Z, Y, X), (T, ...) or None
        0 is background. An int32 array is edited in place, any other is copied. None begins with nothing.
    scores, classes
        Entry ``i`` is that of cell ``i + 1``; a class below 0 is none.
    class_names
        What the classes are called.
    journal
        File that takes every edit before it counts as done; must not exist.

    Raises
    ------
    AnnotationError
        Labels, scores or classes do not fit the image or each other.
    WriteError
        The journal cannot be written, or is there already.
    """

    def __init__(
        self,
        image: Image,
        labels: NDArray[np.integer[Any]] | None = None,
        *,
        scores: NumpyLike | None = None,
        classes: NumpyLike | None = None,
        class_names: Sequence[str] = (),
        journal: Path | None = None,
    ) -> None:
        self.image = image
        found = checked_labels(image, labels)
        facts = facts_of(boxes_of(found), scores, classes)
        self._begin(found, facts, Extras(class_names=tuple(map(str, class_names))))
        if journal is not None:
            self._start_journal(journal)

    @classmethod
    def from_result(
        cls,
        result: Result,
        image: Image,
        *,
        class_names: Sequence[str] = (),
        journal: Path | None = None,
    ) -> "AnnotationSession":
        """Return a session that begins with what a model found, placed in the whole image.

        A result without labels gives discs of the cells' own size.
        """
        cells = result.cells
        offset = result.offset or (0,) * cells.points.shape[1]
        if cells.labels is None:
            found = np.median(equivalent_diameters(cells.areas)) if len(cells) else 0.0
            session = cls.from_points(
                cells.points + np.asarray(offset, np.float32), image, float(found) or DISC_PX
            )
            session._facts = facts_of(session._boxes, cells.scores, cells.classes)
        else:
            whole = np.zeros(plane_shape(image), np.int32)
            place(whole, cells.labels, offset)
            session = cls(image, whole, scores=cells.scores, classes=cells.classes)
        session.extras = replace(session.extras, class_names=tuple(map(str, class_names)))
        if journal is not None:
            session._start_journal(journal)
        return session

    @classmethod
    def from_points(
        cls,
        points: NumpyLike,
        image: Image,
        diameter_px: float,
        columns: Columns = UNKNOWN,
        *,
        journal: Path | None = None,
    ) -> "AnnotationSession":
        """Return a session that knows where cells are: row ``i`` of the points is the disc of cell ``i + 1``.

        Discs do not overlap; a voxel belongs to the first that takes it, the middle of each to its own.
        What is known of each cell besides comes in columns.
        """
        shape = plane_shape(image)
        labels = np.zeros(shape, np.int32)
        places = np.asarray(points, float).reshape(-1, len(shape))
        session = cls(image, labels)
        draw_discs(labels, places, diameter_px, session._spatial_ndim, session._sampling)
        facts = facts_of(boxes_of(labels), columns.scores, columns.classes)
        session._begin(labels, facts, Extras(class_names=columns.class_names, has_masks=False))
        if journal is not None:
            session._start_journal(journal)
        return session

    @classmethod
    def open_journal(cls, path: Path, image: Image | None = None) -> "AnnotationSession":
        """Return the session as it was at its last finished edit, with everything that can be undone.

        Without an image, one without pixels stands in.

        Raises
        ------
        AnnotationError
            The journal belongs to another image.
        ReadError
            The file is missing, is no journal, or is damaged before its first edit.
        WriteError
            Another session has it open.
        """
        if not path.is_file():
            read_journal(path)  # says that it is missing
        with locked(path) as lock:
            recovered = read_journal(path)
            known = recovered.start.image
            if image is None:
                empty = np.broadcast_to(np.uint8(0), known.shape)
                image = Image(empty, known.axes, known.pixel_size_um, known.name)
            else:
                check_same(image, known)
            session = cls.__new__(cls)
            session.image = image
            start = recovered.start
            session._begin(start.labels.copy(), start.facts, start.extras)
            session._replay(path, recovered, lock)
        return session

    # -- what there is ------------------------------------------------------------------------------------

    def cells(self) -> Cells:
        """Return all cells as a table: row ``i`` is cell ``ids()[i]``, which is ``i + 1`` in its labels."""
        numbers = self.ids()
        labels = np.searchsorted(numbers, self.labels.ravel()).astype(np.int32).reshape(self.labels.shape)
        labels = np.where(self.labels > 0, labels + np.int32(1), np.int32(0))
        areas, points, boxes = measure(labels)
        facts = [self._facts[int(number)] for number in numbers]
        scores = np.array([one.score for one in facts], np.float32)
        categories = [-1 if one.category is None else one.category for one in facts]
        classes = np.array(categories, np.int16) if max(categories, default=-1) >= 0 else None
        return Cells(points, boxes, scores, areas, labels, classes)

    def centre_of(self, number: int) -> NDArray[np.float64]:
        """Return the centre of a cell in pixels, in the axes of the labels."""
        box = self.box_of(number)
        places = np.argwhere(self.labels[box] == number)
        centre: NDArray[np.float64] = places.mean(axis=0) + [part.start for part in box]
        return centre

    def number_at(self, point: NumpyLike) -> int:
        """Return the cell at a point (pixels, axes of the labels); 0 on background and outside."""
        place = np.rint(np.asarray(point, float)).astype(int)
        if np.any(place < 0) or np.any(place >= self.labels.shape):
            return 0
        return int(self.labels[tuple(place)])

    @property
    def next_number(self) -> int:
        """The number the next new cell gets; to be given to a brush that draws a new cell."""
        return self._next

    def score_of(self, number: int) -> float:
        """Return how sure the model was of a cell; 1 where no model was asked."""
        return self._facts_at(number).score

    def class_of(self, number: int) -> int | None:
        """Return the class of a cell, None where it has none."""
        return self._facts_at(number).category

    def is_reviewed(self, number: int) -> bool:
        """Return whether somebody has looked at a cell, be it one that was rejected."""
        facts = self._facts.get(number)
        return facts is not None and facts.is_reviewed

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes are called."""
        return self.extras.class_names

    @property
    def regions(self) -> tuple[Box, ...]:
        """The boxes in which every cell is annotated."""
        return self.extras.regions

    # -- tools --------------------------------------------------------------------------------------------

    def delete(self, number: int) -> None:
        """Make a cell background."""
        self._do("delete", self._each(number, edit.erase))

    def reject(self, number: int) -> None:
        """Delete a cell that the model should not have found; it counts as reviewed."""
        facts = self._facts_at(number)._replace(is_reviewed=True)
        self._do("reject", self._each(number, edit.erase), {number: facts})

    def merge(self, keep: int, gone: int) -> None:
        """Give cell ``gone`` to cell ``keep``, which stays what it is."""
        facts = {keep: self._facts_at(keep)._replace(is_reviewed=True)}
        changes = []
        for index, labels, box in self._parts(gone):
            changes.append(self._placed(edit.merge(labels, keep, gone, box=box), index))
        self._do("merge", changes, facts)

    def split_line(self, number: int, line: NumpyLike) -> tuple[int, ...]:
        """Cut a cell along a line (N, D); return the numbers of the new parts."""
        index, places = self._at_one_time(line)
        labels, box = self._part(number, index)
        change = cut.split_by_line(labels, number, places, new=self._next, box=box)
        return self._split("split by line", number, self._placed(change, index))

    def split_seeds(self, number: int, first: NumpyLike, second: NumpyLike) -> tuple[int, ...]:
        """Cut a cell between two points; the part of the first keeps the number; return that of the other."""
        index, places = self._at_one_time(np.stack([np.asarray(first, float), np.asarray(second, float)]))
        labels, box = self._part(number, index)
        change = cut.split_by_seeds(labels, number, places, sampling=self._sampling, new=self._next, box=box)
        return self._split("split by seeds", number, self._placed(change, index))

    def grow(self, number: int, radius_px: float = 1.0) -> None:
        """Add the background within ``radius_px`` to a cell."""
        self._reshape("grow", number, edit.grow, radius_px)

    def shrink(self, number: int, radius_px: float = 1.0) -> None:
        """Take the outermost ``radius_px`` off a cell."""
        self._reshape("shrink", number, edit.shrink, radius_px)

    def smooth(self, number: int, radius_px: float = 2.0) -> None:
        """Round the outline of a cell."""
        self._reshape("smooth", number, edit.smooth, radius_px)

    def fill(self, number: int) -> None:
        """Fill the holes of a cell."""
        self._shape("fill holes", number, self._each(number, edit.fill_holes))

    def interpolate(self, number: int, first: int, last: int) -> None:
        """Draw a cell in the slices between those from ``first`` to ``last`` in which it is drawn.

        Slices are those of Z; where there is none, time points.
        """
        if "Z" in self._axes:
            changes = self._each(number, edit.interpolate, first, last)
        else:
            found = edit.interpolate(self.labels, number, first, last, box=self.box_of(number))
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
        return self._add("add", edit.add_mask(self.labels, corner, mask, new=self._next), score, category)

    def add_disc(self, point: NumpyLike, diameter_px: float) -> int:
        """Draw a new disc (a ball in a volume) on the background and return its number."""
        index, places = self._at_one_time(point)
        labels = self.labels if index is None else self.labels[index]
        change = edit.draw_disc(labels, places[0], diameter_px, sampling=self._sampling, new=self._next)
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
        facts: dict[int, Facts | None] = dict.fromkeys(self._facts)
        facts |= facts_of(boxes_of(found), scores, classes)
        extras = replace(self.extras, has_masks=True)
        self._do("model", [change_of(self.labels, whole, found)], facts, extras)

    # -- facts --------------------------------------------------------------------------------------------

    def set_class(self, number: int, category: int | None) -> None:
        """Give a cell a class (an index), or none."""
        n = len(self.class_names)
        if category is not None and not 0 <= category < (n or 1 << 15):
            raise AnnotationError(
                f"The class of a cell must lie between 0 and {n - 1}; got {category}. Name more classes."
            )
        facts = self._facts_at(number)._replace(category=category)
        self._do("set class", (), {number: facts})

    def set_reviewed(self, number: int, is_reviewed: bool = True) -> None:  # noqa: FBT001, FBT002 - a value
        """Note that a cell has been looked at, or that it should be again."""
        facts = self._facts_at(number)._replace(is_reviewed=is_reviewed)
        self._do("review", (), {number: facts})

    def set_class_names(self, names: Iterable[str]) -> None:
        """Name the classes."""
        self._do("name classes", (), {}, replace(self.extras, class_names=tuple(map(str, names))))

    def add_region(self, box: Box) -> None:
        """Declare a box in which every cell is annotated."""
        regions = (*self.regions, checked_box(box, self.labels.shape))
        self._do("add region", (), {}, replace(self.extras, regions=regions))

    def remove_region(self, index: int) -> None:
        """Take back that region ``index`` is annotated completely."""
        if not 0 <= index < len(self.regions):
            raise AnnotationError(
                f"Region {index} must be one of {len(self.regions)}; it is not. Choose another."
            )
        regions = self.regions[:index] + self.regions[index + 1 :]
        self._do("remove region", (), {}, replace(self.extras, regions=regions))

    # -- helpers ------------------------------------------------------------------------------------------

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

    def _facts_at(self, number: int) -> Facts:
        self.box_of(number)
        return self._facts[number]

    def _seen(self, *numbers: int) -> dict[int, Facts | None]:
        """Return the facts of cells that somebody shaped by hand, and so has looked at."""
        return {number: self._facts.get(number, Facts())._replace(is_reviewed=True) for number in numbers}

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
        self._do(name, [change], {number: Facts(float(score), category, is_reviewed=True)})
        return number
