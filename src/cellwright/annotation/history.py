"""What a session remembers: labels, facts, and every edit, through one door.

An edit is written into the labels, the boxes of the cells follow, the journal takes it, and whoever listens
is told. Where the journal cannot be written, the edit is taken back and has not been.
"""

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal, SignalGroup

from cellwright.annotation.boxes import BoxTable
from cellwright.annotation.command import AnnotationMetadata, CellMetadata, Command, FactsChange
from cellwright.annotation.identity import identity_of
from cellwright.annotation.journal import Journal, Recovered, rewrite
from cellwright.annotation.records import Edit, Start, Step
from cellwright.core.data import Image, Labels
from cellwright.core.errors import AnnotationError
from cellwright.files.atomic import Lock
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
    classes = Signal(tuple)  # numbers whose class differs; empty when the names of classes changed
    regions = Signal(tuple)  # all regions
    history = Signal()  # after every edit, whatever it changed


class History:
    """Labels and facts with their edits; what :class:`AnnotationSession` stands on."""

    image: Image

    def _begin(self, labels: Labels, facts: Mapping[int, CellMetadata], extras: AnnotationMetadata) -> None:
        self.labels = labels
        self.events = SessionEvents()
        self.extras = extras
        self._facts = dict(facts)
        self._boxes = BoxTable(labels)
        self._next = max(self._boxes, default=0) + 1
        self._done: list[Command] = []
        self._undone: list[Command] = []
        self._journal: Journal | None = None

    def copy(self) -> Self:
        """Return the session as it is now, by itself and without a journal: for work beside the edits."""
        other = copy(self)
        other.labels = self.labels.copy()
        other.events = SessionEvents()
        other._facts = dict(self._facts)
        other._boxes = self._boxes.copy(other.labels)
        other._done, other._undone = list(self._done), list(self._undone)
        other._journal = None
        return other

    def _start_journal(self, path: Path) -> None:
        start = Start(identity_of(self.image), self.labels, self._facts, self.extras)
        self._journal = Journal.create(path, start)

    def close(self) -> None:
        """Let go of the journal, which stays."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def ids(self) -> NDArray[np.int32]:
        """Return the numbers of all cells, ascending."""
        return np.array(sorted(self._boxes), np.int32)

    @property
    def n_cells(self) -> int:
        """How many cells there are."""
        return len(self._boxes)

    def __contains__(self, number: object) -> bool:
        return number in self._boxes

    def box_of(self, number: int) -> Box:
        """Return the box of a cell in the labels."""
        if number not in self._boxes:
            raise AnnotationError(
                f"Cell {number} must be in the labels; it is not. Click on a cell that is there."
            )
        return self._boxes[number]

    def _facts_at(self, number: int) -> CellMetadata:
        self.box_of(number)
        return self._facts[number]

    @property
    def can_undo(self) -> bool:
        """Whether there is an edit to undo."""
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        """Whether there is an edit to do again."""
        return bool(self._undone)

    @property
    def n_edits(self) -> int:
        """How many edits undo can take back."""
        return len(self._done)

    @property
    def undo_name(self) -> str:
        """What undo would take back, '' when nothing."""
        return self._done[-1].name if self._done else ""

    def undo(self) -> bool:
        """Take back the last edit; return whether there was one."""
        return self._step("undo", self._done, self._undone)

    def redo(self) -> bool:
        """Do again what was undone last; return whether there was something."""
        return self._step("redo", self._undone, self._done)

    def _step(self, step: Step, source: list[Command], target: list[Command]) -> bool:
        if not source:
            return False
        if self._journal is not None:
            self._journal.append(step)
        command = source.pop()
        target.append(command)
        self._tell(command.inverse() if step == "undo" else command)
        return True

    def _do(
        self,
        name: str,
        changes: Iterable[Change | None],
        facts: Mapping[int, CellMetadata | None] = {},
        extras: AnnotationMetadata | None = None,
    ) -> None:
        """Do an edit: voxels, what follows for facts, the journal; take it back where that fails."""
        kept = tuple(change for change in changes if change is not None)
        touched = self._write(kept)
        pairs = self._facts_after(touched, facts)
        both = None if extras in (None, self.extras) else (self.extras, extras)
        command = Command(name, kept, pairs, both)
        if not (kept or pairs or both):
            return
        if self._journal is not None:
            try:
                self._journal.append(command)
            except BaseException:
                self._write(command.inverse().changes)
                raise
        self._done.append(command)
        self._undone.clear()
        self._tell(command, touched)

    def _facts_after(
        self, touched: Iterable[int], wanted: Mapping[int, CellMetadata | None]
    ) -> dict[int, FactsChange]:
        """Return what changes in the facts: those wanted; new cells get some, cells that go lose them."""
        after: dict[int, CellMetadata | None] = {}
        for number in touched:
            after[number] = self._facts.get(number, CellMetadata()) if number in self._boxes else None
        after |= wanted
        pairs = {number: (self._facts.get(number), facts) for number, facts in after.items()}
        return {number: pair for number, pair in pairs.items() if pair[0] != pair[1]}

    def _write(self, changes: Iterable[Change]) -> tuple[int, ...]:
        touched: set[int] = set()
        for change in changes:
            touched.update(self._boxes.write(change))
        self._next = max(self._next, max(touched, default=0) + 1)
        return tuple(sorted(touched))

    def _tell(self, command: Command, touched: tuple[int, ...] | None = None) -> None:
        """Take over facts and extras (and voxels, unless they are written), then tell what changed."""
        if touched is None:
            touched = self._write(command.changes)
        for number, (_, facts) in command.facts.items():
            if facts is None:
                self._facts.pop(number, None)
            else:
                self._facts[number] = facts
        if command.extras is not None:
            self.extras = command.extras[1]
        self._emit(command, touched)

    def _emit(self, command: Command, touched: tuple[int, ...]) -> None:
        if command.changes:
            boxes = tuple(change.box for change in command.changes)
            self.events.changed.emit(Edited(command.name, boxes, touched))
        flags = _differing(command, lambda facts: facts.is_reviewed, default=False)
        if flags:
            self.events.reviewed.emit(flags)
        categories = _differing(command, lambda facts: facts.category, default=None)
        before, after = command.extras or (self.extras, self.extras)
        if categories or before.class_names != after.class_names:
            self.events.classes.emit(categories)
        if before.regions != after.regions:
            self.events.regions.emit(after.regions)
        self.events.history.emit()

    def _replay(self, path: Path, recovered: Recovered, lock: Lock) -> None:
        """Do again what the journal holds, then go on writing into it."""
        n_steps = 0
        for record in recovered.records:
            if isinstance(record, Edit):
                self._redo_edit(record)
            else:
                n_steps += 1
                self.undo() if record == "undo" else self.redo()
        n_bytes = recovered.n_bytes
        if n_steps:
            n_bytes = rewrite(path, recovered, self._done, self._undone[::-1])
        self._journal = Journal(path, n_bytes, lock)

    def _redo_edit(self, record: Edit) -> None:
        changes = []
        for box, after in record.boxes:
            change = Change(box, self.labels[box].copy(), after)
            self._write([change])
            changes.append(change)
        command = Command(record.name, tuple(changes), record.facts, record.extras)
        self._done.append(command)
        self._undone.clear()
        self._tell(command, ())


def _differing(command: Command, part: Callable[[CellMetadata], Any], *, default: Any) -> tuple[int, ...]:
    """Return the cells of which one part of the facts differs."""

    def value(facts: CellMetadata | None) -> Any:
        return default if facts is None else part(facts)

    return tuple(number for number, (a, b) in command.facts.items() if value(a) != value(b))
