"""Undo and redo: every edit of an annotation goes through one door.

An edit is written into the labels, the journal takes it, and whoever listens is told. Where the journal
cannot be written, the edit is taken back and has not been.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal, SignalGroup

from cellwright.annotation.label_store import AnnotationMetadata, CellMetadata, LabelStore
from cellwright.annotation.records import CellChange, Command, RecordedEdit, Step
from cellwright.ops.label_changes import Box, Change


class Edited(NamedTuple):
    """What an edit, an undo or a redo changed in the labels: where, and the cells that differ."""

    name: str
    boxes: tuple[Box, ...]
    numbers: tuple[int, ...]


class SessionEvents(SignalGroup):
    """What a session tells after each edit, undo and redo."""

    changed = Signal(Edited)  # voxels
    reviewed = Signal(tuple)  # numbers whose flag differs
    classes = Signal(tuple)  # numbers whose class differs; empty for all, when names of classes changed
    regions = Signal(tuple)  # all regions
    history = Signal()  # after every edit, whatever it changed


class EditHistory:
    """The edits of a label store that can be undone and redone."""

    def __init__(self, store: LabelStore) -> None:
        self._store = store
        self.events = SessionEvents()
        self.record: Callable[[Command | Step], None] | None = None  # of a journal; raises where it cannot
        self.done: list[Command] = []
        self.undone: list[Command] = []

    def copy(self, store: LabelStore) -> "EditHistory":
        """Return the same edits for a copy of the store, without a journal or listeners."""
        other = EditHistory(store)
        other.done, other.undone = list(self.done), list(self.undone)
        return other

    @property
    def undo_name(self) -> str:
        """What undo would take back, '' when nothing."""
        return self.done[-1].name if self.done else ""

    def edited_numbers(self) -> NDArray[np.int32]:
        """Return the numbers of the cells that edits have given other voxels than at first, ascending."""
        labels = self._store.labels
        first = labels.copy()
        for command in reversed(self.done):
            for change in command.inverse().changes:
                change.apply(first)
        differs = first != labels
        return np.intersect1d(self._store.numbers(), np.union1d(first[differs], labels[differs]))

    def do(
        self,
        name: str,
        changes: Iterable[Change | None] = (),
        cells: Mapping[int, CellMetadata | None] = MappingProxyType({}),
        metadata: AnnotationMetadata | None = None,
    ) -> None:
        """Do an edit, unless it changes nothing; take it back where the journal fails.

        ``cells`` is the metadata that cells get, None to forget it; ``metadata`` that of the whole, None to
        keep it.

        WriteError where the journal cannot be written.
        """
        made = tuple(change for change in changes if change is not None)
        touched = self._store.write(made)
        of_all = None
        if metadata not in (None, self._store.metadata):
            of_all = (self._store.metadata, metadata)
        command = Command(name, made, self._cell_changes(touched, cells), of_all)
        if not (command.changes or command.cells or command.metadata):
            return
        if self.record is not None:
            try:
                self.record(command)
            except BaseException:
                self._store.write(command.inverse().changes)
                raise
        self._add(command, touched)

    def undo(self) -> bool:
        """Take back the last edit; return whether there was one."""
        if not self.done:
            return False
        if self.record is not None:
            self.record("undo")
        self.undone.append(self.done.pop())
        self._apply(self.undone[-1].inverse())
        return True

    def redo(self) -> bool:
        """Do again what was undone last; return whether there was something."""
        if not self.undone:
            return False
        if self.record is not None:
            self.record("redo")
        self.done.append(self.undone.pop())
        self._apply(self.done[-1])
        return True

    def replay(self, entries: Iterable[RecordedEdit | Step]) -> None:
        """Do again what a journal holds; nothing of it is recorded again."""
        for entry in entries:
            if entry == "undo":
                self.undo()
            elif entry == "redo":
                self.redo()
            elif isinstance(entry, RecordedEdit):
                changes = []
                for box, after in entry.boxes:
                    changes.append(Change(box, self._store.labels[box].copy(), after))
                    self._store.write(changes[-1:])
                self._add(Command(entry.name, tuple(changes), entry.cells, entry.metadata), ())

    def _cell_changes(
        self, touched: Iterable[int], wanted: Mapping[int, CellMetadata | None]
    ) -> dict[int, CellChange]:
        """Return what changes in the metadata: new cells get some, cells that go lose theirs."""
        known = self._store.cells
        after: dict[int, CellMetadata | None] = {}
        for number in touched:
            after[number] = None
            if number in self._store:
                after[number] = known.get(number, CellMetadata())
        after |= wanted
        pairs = {number: (known.get(number), found) for number, found in after.items()}
        return {number: pair for number, pair in pairs.items() if pair[0] != pair[1]}

    def _add(self, command: Command, touched: tuple[int, ...]) -> None:
        """Keep a command whose voxels are written."""
        self.done.append(command)
        self.undone.clear()
        self._finish(command, touched)

    def _apply(self, command: Command) -> None:
        self._finish(command, self._store.write(command.changes))

    def _finish(self, command: Command, touched: tuple[int, ...]) -> None:
        """Set the metadata, then tell what changed."""
        before = after = self._store.metadata
        if command.metadata is not None:
            before, after = command.metadata
        self._store.set_metadata({number: cell for number, (_, cell) in command.cells.items()}, after)
        if command.changes:
            boxes = tuple(change.box for change in command.changes)
            self.events.changed.emit(Edited(command.name, boxes, touched))
        reviewed = _differing(command.cells, "is_reviewed")
        if reviewed:
            self.events.reviewed.emit(reviewed)
        classes = _differing(command.cells, "category")
        if before.class_names != after.class_names:
            self.events.classes.emit(())
        elif classes:
            self.events.classes.emit(classes)
        if before.regions != after.regions:
            self.events.regions.emit(after.regions)
        self.events.history.emit()


def _differing(cells: Mapping[int, CellChange], field: str) -> tuple[int, ...]:
    """Return the cells of which a field differs; what is not there is not reviewed and has no class."""
    values = {n: [getattr(one or CellMetadata(), field) for one in pair] for n, pair in cells.items()}
    return tuple(number for number, (before, after) in values.items() if before != after)
