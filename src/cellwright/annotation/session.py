"""The annotation of one image: labels, classes, scores, what has been reviewed, and every edit undoable.

Numbers of cells are stable: no edit renumbers a cell, and none is used again.
Where only the positions of cells are known, discs stand for them (``metadata.has_masks`` is false).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike as NumpyLike
from numpy.typing import NDArray

from cellwright.annotation.history import EditHistory
from cellwright.annotation.journal import Journal, locked, read_journal, rewrite_journal
from cellwright.annotation.label_store import AnnotationMetadata, CellMetadata, LabelStore, lifted
from cellwright.annotation.records import Start
from cellwright.annotation.setup import (
    UNKNOWN,
    Columns,
    check_same,
    checked_box,
    checked_labels,
    draw_discs,
    identity_of,
    plane_shape,
)
from cellwright.core.data import Image, Labels
from cellwright.core.errors import AnnotationError
from cellwright.ops import label_editing
from cellwright.ops.label_changes import Box, Change, Mask, change_of

DISC_PX = 12.0  # where the diameter of cells is not known either


class AnnotationSession:
    """The annotation of one image: its ``store`` has what there is, its ``history`` what was done.

    A call that changes cells or regions is one edit, undone as one, and in the journal if there is one.

    AnnotationError where labels, scores or classes do not fit the image or each other. WriteError where the
    journal cannot be written, or is there already.

    Parameters
    ----------
    image
        Its axes without the channels are those of the labels; time, where there is some, comes first.
    labels : int (Y, X), (Z, Y, X), (T, ...), LabelStore or None
        0 is background. An int32 array is edited in place, any other is copied. None begins with nothing. A
        store brings scores, classes and names along.
    scores, classes
        Entry ``i`` is that of cell ``i + 1``; a class below 0 is none.
    journal
        File that takes every edit before it counts as done; must not exist.
    """

    def __init__(
        self,
        image: Image,
        labels: "NDArray[np.integer[Any]] | LabelStore | None" = None,
        *,
        scores: NumpyLike | None = None,
        classes: NumpyLike | None = None,
        class_names: Sequence[str] = (),
        journal: Path | None = None,
    ) -> None:
        self.image = image
        if isinstance(labels, LabelStore):
            self.store = labels
        else:
            metadata = AnnotationMetadata(class_names=tuple(map(str, class_names)))
            self.store = LabelStore(image, checked_labels(image, labels), metadata=metadata)
            self.store.fill(scores, classes)
        self.history = EditHistory(self.store)
        self._journal: Journal | None = None
        if journal is not None:
            self.keep_in(journal)

    @classmethod
    def from_points(
        cls,
        points: NumpyLike,
        image: Image,
        diameter_px: float,
        columns: Columns = UNKNOWN,
        *,
        regions: tuple[Box, ...] | None = None,
        journal: Path | None = None,
    ) -> "AnnotationSession":
        """Return a session that knows where cells are: row ``i`` of the points is the disc of cell ``i + 1``.

        Discs do not overlap; a voxel belongs to the first that takes it, the middle of each to its own.
        What is known of each cell besides comes in columns; in the ``regions`` alone every cell has a point.
        """
        labels = np.zeros(plane_shape(image), np.int32)
        centres = np.asarray(points, float).reshape(-1, labels.ndim)
        empty = LabelStore(image, labels)
        draw_discs(labels, centres, diameter_px, labels.ndim - empty.has_time, empty.sampling)
        metadata = AnnotationMetadata(
            regions or (), columns.class_names, has_masks=False, is_part=regions is not None
        )
        store = LabelStore(image, labels, metadata=metadata)
        store.fill(columns.scores, columns.classes)
        return cls(image, store, journal=journal)

    @classmethod
    def open_journal(cls, path: Path, image: Image | None = None) -> "AnnotationSession":
        """Return the session as it was at its last finished edit, with everything that can be undone.

        Without an image, one without pixels stands in.

        AnnotationError where the journal belongs to another image. ReadError where the file is missing, is no
        journal, or is damaged before its first edit. WriteError where another session has it open.
        """
        if not path.is_file():
            read_journal(path)  # says that it is missing
        with locked(path) as lock:
            recovered = read_journal(path)
            start, known = recovered.start, recovered.start.image
            if image is None:
                empty = np.broadcast_to(np.uint8(0), known.shape)
                image = Image(empty, known.axes, known.pixel_size_um, known.name)
            else:
                check_same(image, known)
            session = cls(image, LabelStore(image, start.labels.copy(), start.cells, start.metadata))
            history = session.history
            history.replay(recovered.records)
            n_bytes = recovered.n_bytes
            if "undo" in recovered.records or "redo" in recovered.records:
                n_bytes = rewrite_journal(path, recovered, history.done, history.undone[::-1])
            session._write_to(Journal(path, n_bytes, lock))
        return session

    @property
    def journal_path(self) -> Path | None:
        """The file that takes every edit; None where there is none."""
        return None if self._journal is None else self._journal.path

    def keep_in(self, path: Path) -> None:
        """Begin a journal with what there is now, which takes every edit from now on; must not exist.

        WriteError where it cannot be written, or is there already.
        """
        start = Start(identity_of(self.image), self.store.labels, self.store.cells, self.store.metadata)
        self._write_to(Journal.create(path, start))

    def copy(self) -> "AnnotationSession":
        """Return the session as it is now, by itself and without a journal: for work beside the edits."""
        other = AnnotationSession(self.image, self.store.copy())
        other.history = self.history.copy(other.store)
        return other

    def close(self) -> None:
        """Let go of the journal, which stays."""
        if self._journal is not None:
            self._journal.close()
            self._journal = self.history.record = None

    def _write_to(self, journal: Journal) -> None:
        self._journal = journal
        self.history.record = journal.append

    @property
    def labels(self) -> Labels:
        """The labels themselves; whoever writes into them hands in what changed by :meth:`record_paint`."""
        return self.store.labels

    @property
    def metadata(self) -> AnnotationMetadata:
        """What is known of the whole annotation."""
        return self.store.metadata

    def undo(self) -> bool:
        """Take back the last edit; return whether there was one."""
        return self.history.undo()

    def redo(self) -> bool:
        """Do again what was undone last; return whether there was something."""
        return self.history.redo()

    # -- voxels -------------------------------------------------------------------------------------------

    def _shape(self, name: str, number: int, changes: Sequence[Change | None]) -> None:
        """Change one cell, which counts as reviewed then; where nothing changes, it is no edit."""
        if any(changes):
            self.history.do(name, changes, {number: self._reviewed(number)})

    def _reviewed(self, number: int) -> CellMetadata:
        """Return the metadata of a cell that somebody shaped by hand, and so has looked at."""
        return self.store.cells.get(number, CellMetadata())._replace(is_reviewed=True)

    def delete(self, number: int) -> None:
        """Make a cell background."""
        self.history.do("delete", self.store.changes(number, label_editing.erase))

    def reject(self, number: int) -> None:
        """Delete a cell that the model should not have found; it counts as reviewed."""
        self.history.do(
            "reject", self.store.changes(number, label_editing.erase), {number: self._reviewed(number)}
        )

    def merge(self, keep: int, gone: int) -> None:
        """Give cell ``gone`` to cell ``keep``, which stays what it is."""
        metadata = self.store.cell(keep)._replace(is_reviewed=True)

        def merged(labels: Labels, number: int, *, box: Box) -> Change | None:
            return label_editing.merge(labels, keep, number, box=box)

        self.history.do("merge", self.store.changes(gone, merged), {keep: metadata})

    def split_line(self, number: int, line: NumpyLike) -> tuple[int, ...]:
        """Cut a cell along a line (N, D); return the numbers of the new parts."""
        time, points = self.store.at_one_time(line)
        labels, box = self.store.part(number, time)
        change = label_editing.split_by_line(labels, number, points, new=self.store.next_number, box=box)
        return self._split("cut", number, lifted(change, time))

    def split_seeds(self, number: int, first: NumpyLike, second: NumpyLike) -> tuple[int, ...]:
        """Cut a cell between two points; the part of the first keeps the number; return that of the other."""
        time, points = self.store.at_one_time(np.stack([np.asarray(first, float), np.asarray(second, float)]))
        labels, box = self.store.part(number, time)
        change = label_editing.split_by_seeds(
            labels, number, points, sampling=self.store.sampling, new=self.store.next_number, box=box
        )
        return self._split("split", number, lifted(change, time))

    def _split(self, name: str, number: int, change: Change | None) -> tuple[int, ...]:
        """Cut a cell, whose parts are what it is; return the numbers of the new ones."""
        if change is None:
            return ()
        parts = dict.fromkeys((number, *change.numbers()), self._reviewed(number))
        self.history.do(name, [change], parts)
        return tuple(part for part in parts if part != number)

    def grow(self, number: int, radius_px: float = 1.0) -> None:
        """Add the background within ``radius_px`` to a cell."""
        changes = self.store.changes(number, label_editing.grow, radius_px, sampling=self.store.sampling)
        self._shape("grow", number, changes)

    def shrink(self, number: int, radius_px: float = 1.0) -> None:
        """Take the outermost ``radius_px`` off a cell."""
        changes = self.store.changes(number, label_editing.shrink, radius_px, sampling=self.store.sampling)
        self._shape("shrink", number, changes)

    def smooth(self, number: int, radius_px: float = 2.0) -> None:
        """Round the outline of a cell."""
        changes = self.store.changes(number, label_editing.smooth, radius_px, sampling=self.store.sampling)
        self._shape("smooth", number, changes)

    def fill(self, number: int) -> None:
        """Fill the holes of a cell."""
        self._shape("fill holes", number, self.store.changes(number, label_editing.fill_holes))

    def interpolate(self, number: int, first: int, last: int) -> None:
        """Draw a cell in the slices between those from ``first`` to ``last`` in which it is drawn.

        Slices are those of Z; where there is none, time points.
        """
        changes: list[Change | None]
        if "Z" in self.image.axes:
            changes = self.store.changes(number, label_editing.interpolate, first, last)
        else:
            box = self.store.box_of(number)
            changes = [label_editing.interpolate(self.labels, number, first, last, box=box)]
        self._shape("interpolate", number, changes)

    def add(self, mask: Mask, corner: Sequence[int], *, score: float = 1.0) -> int:
        """Make the background under a mask a new cell and return its number.

        ``corner`` is the index of the mask's first voxel; a mask of fewer axes lies in one slice.
        """
        number, mask = self.store.next_number, np.asarray(mask, bool)
        mask = mask[(np.newaxis,) * (self.labels.ndim - mask.ndim)]
        change = label_editing.add_mask(self.labels, corner, mask, new=number)
        self.history.do("add", [change], {number: CellMetadata(float(score), is_reviewed=True)})
        return number

    def add_disc(self, point: NumpyLike, diameter_px: float) -> int:
        """Draw a new disc (a ball in a volume) on the background and return its number."""
        time, points = self.store.at_one_time(point)
        labels, number = self.labels, self.store.next_number
        if time is not None:
            labels = labels[time]
        change = label_editing.draw_disc(
            labels, points[0], diameter_px, sampling=self.store.sampling, new=number
        )
        self.history.do("add disc", [lifted(change, time)], {number: CellMetadata(is_reviewed=True)})
        return number

    def record_paint(self, box: Box, before: NDArray[Any], after: NDArray[Any]) -> None:
        """Take over what was painted into the labels by other means: the box before and after.

        Where the journal cannot be written (WriteError), what was painted has been taken back.
        """
        box = checked_box(box, self.labels.shape)
        shape = tuple(part.stop - part.start for part in box)
        if np.shape(before) != shape or np.shape(after) != shape:
            raise AnnotationError(
                f"What was painted must have the shape {shape} of its box; got {np.shape(before)} and "
                f"{np.shape(after)}. Hand in the same box of the labels before and after."
            )
        change = Change(box, np.array(before, np.int32), np.array(after, np.int32))
        gained = np.unique(change.after[change.before != change.after]).tolist()
        self.history.do("paint", [change], {number: self._reviewed(number) for number in gained if number})

    def replace_labels(self, labels: NDArray[np.integer[Any]]) -> None:
        """Put new labels, a model's say, in the place of all there are; undoable as any edit.

        A cell that has most of its voxels still, under its number, stays what it is; all others are new.
        """
        found = checked_labels(self.image, labels)
        whole = tuple(slice(0, length) for length in found.shape)
        before, after, shared = map(_sizes, (self.labels, found, np.where(found == self.labels, found, 0)))
        kept = {number for number, n in shared.items() if 2 * n > max(before[number], after[number])}
        cells: dict[int, CellMetadata | None] = dict.fromkeys(self.store.cells.keys() - kept)
        cells |= dict.fromkeys(after.keys() - kept, CellMetadata())
        change = change_of(self.labels, whole, found)
        self.history.do("model", [change], cells, replace(self.metadata, has_masks=True))

    # -- metadata -----------------------------------------------------------------------------------------

    def set_class(self, number: int, category: int | None) -> None:
        """Give a cell a class (an index), or none; AnnotationError where there is no such cell or class."""
        n = len(self.metadata.class_names)
        if category is not None and not 0 <= category < (n or 1 << 15):
            raise AnnotationError(
                f"The class of a cell must lie between 0 and {n - 1}; got {category}. Name more classes."
            )
        cell = self.store.cell(number)._replace(category=category)
        self.history.do("set class", cells={number: cell})

    def set_classes(self, names: Mapping[int, str]) -> None:
        """Give cells their class by its name, '' for none, as one edit; new names are added to the classes.

        AnnotationError where there is no such cell.
        """
        known = self.metadata.class_names
        new = [name for name in dict.fromkeys(names.values()) if name and name not in known]
        class_names = (*known, *new)
        cells: dict[int, CellMetadata | None] = {}
        for number, name in names.items():
            category = class_names.index(name) if name else None
            cells[number] = self.store.cell(number)._replace(category=category)
        self.history.do("set class", cells=cells, metadata=replace(self.metadata, class_names=class_names))

    def set_reviewed(self, number: int, is_reviewed: bool = True) -> None:  # noqa: FBT001, FBT002 - a value
        """Note that a cell has been looked at, or that it should be again."""
        cell = self.store.cell(number)._replace(is_reviewed=is_reviewed)
        self.history.do("review", cells={number: cell})

    def set_class_names(self, names: Iterable[str]) -> dict[str, int]:
        """Name the classes; return how many cells of which class have none now, as that name is gone.

        Cells keep the class of their name, wherever it stands now; a new name in the place of one that is
        gone is that class renamed. Classes that nobody has named yet take the names of their places.
        """
        metadata = replace(self.metadata, class_names=tuple(map(str, names)))
        used = [cell.category for cell in self.store.cells.values() if cell.category is not None]
        n_used = max(len(self.metadata.class_names), max(used, default=-1) + 1)
        moved = _moved(self.metadata.class_names, metadata.class_names, n_used)
        cells: dict[int, CellMetadata | None] = {}
        lost: Counter[str] = Counter()
        for number, cell in self.store.cells.items():
            if cell.category in moved:
                cells[number] = cell._replace(category=moved[cell.category])
                if moved[cell.category] is None and number in self.store:
                    lost[self.metadata.class_names[cell.category]] += 1
        self.history.do("name classes", cells=cells, metadata=metadata)
        return dict(lost)

    def add_region(self, box: Box) -> None:
        """Declare a box in which every cell is annotated."""
        regions = (*self.metadata.regions, checked_box(box, self.labels.shape))
        self.history.do("add region", metadata=replace(self.metadata, regions=regions))

    def move_region(self, index: int, box: Box) -> None:
        """Put a box in the place of region ``index``; AnnotationError where there is none."""
        self._check_region(index)
        regions = list(self.metadata.regions)
        regions[index] = checked_box(box, self.labels.shape)
        self.history.do("move region", metadata=replace(self.metadata, regions=tuple(regions)))

    def remove_region(self, index: int) -> None:
        """Take back that region ``index`` is annotated completely; AnnotationError where there is none."""
        self._check_region(index)
        regions = self.metadata.regions[:index] + self.metadata.regions[index + 1 :]
        self.history.do("remove region", metadata=replace(self.metadata, regions=regions))

    def _check_region(self, index: int) -> None:
        if not 0 <= index < len(self.metadata.regions):
            raise AnnotationError(
                f"Region {index} must be one of {len(self.metadata.regions)}; it is not. Choose another."
            )


def _sizes(labels: NDArray[np.integer[Any]]) -> dict[int, int]:
    """Return how many voxels each cell has."""
    numbers, n_voxels = np.unique(labels[labels > 0], return_counts=True)
    return dict(zip(numbers.tolist(), n_voxels.tolist(), strict=True))


def _moved(before: Sequence[str], after: Sequence[str], n_used: int) -> dict[int, int | None]:
    """Return where classes stand now that other names are given, of those that stand elsewhere or went."""
    places: dict[int, int | None] = {}
    nameless = max(n_used, len(after))
    for place in range(n_used):
        is_renamed = place < len(after) and after[place] not in before
        if place < len(before) and before[place] in after:
            places[place] = after.index(before[place])
        elif place < len(before) and not is_renamed:
            places[place] = None  # else the next class that is added would have these cells
        elif place < len(after) and not is_renamed:  # another class takes the place of one without a name
            places[place], nameless = nameless, nameless + 1
    return {old: new for old, new in places.items() if new != old}
