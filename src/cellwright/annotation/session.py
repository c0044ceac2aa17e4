"""The annotation of one image: labels, classes, scores, what has been reviewed, and every edit undoable.

Numbers of cells are stable: no edit renumbers a cell, and none is used again.
Where only the places of cells are known, discs stand for them (``extras.has_masks`` is false).
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike as NumpyLike
from numpy.typing import NDArray

from cellwright.annotation.command import AnnotationMetadata
from cellwright.annotation.identity import check_same
from cellwright.annotation.journal import locked, read_journal
from cellwright.annotation.setup import (
    UNKNOWN,
    Columns,
    checked_box,
    checked_labels,
    draw_discs,
    facts_of,
    place,
    plane_shape,
)
from cellwright.annotation.tools import Tools
from cellwright.core.data import Cells, Image, Result
from cellwright.core.errors import AnnotationError
from cellwright.ops.label_changes import Box, boxes_of
from cellwright.ops.labels import equivalent_diameters, measure

DISC_PX = 12.0  # where the diameter of cells is not known either


class AnnotationSession(Tools):
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
        self._begin(found, facts, AnnotationMetadata(class_names=tuple(map(str, class_names))))
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
        session._begin(labels, facts, AnnotationMetadata(class_names=columns.class_names, has_masks=False))
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
