"""One edit as it is kept: what it changed, before and after, so that it can be undone and done again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cellwright.ops.label_changes import Box, Change


class CellMetadata(NamedTuple):
    """What is known of one cell besides its voxels; ``category`` is an index into the class names."""

    score: float = 1.0
    category: int | None = None
    is_reviewed: bool = False


@dataclass(frozen=True, slots=True)
class AnnotationMetadata:
    """What is known of the whole annotation besides its cells.

    Made by the session; used by export.

    Parameters
    ----------
    regions
        Boxes in the axes of the labels in which every cell is annotated.
    class_names
        What the classes are called, in their order.
    has_masks
        False where only the places of the cells are known and the labels are discs that stand for them.
    """

    regions: tuple[Box, ...] = ()
    class_names: tuple[str, ...] = ()
    has_masks: bool = True


FactsChange = tuple[CellMetadata | None, CellMetadata | None]


@dataclass(frozen=True, slots=True, eq=False)
class Command:
    """One undoable edit: voxels, facts of cells (by number) and extras, each before and after.

    Made by the session; used by its undo and its journal.
    """

    name: str
    changes: tuple[Change, ...] = ()
    facts: Mapping[int, FactsChange] = field(default_factory=dict)
    extras: tuple[AnnotationMetadata, AnnotationMetadata] | None = None

    def inverse(self) -> "Command":
        """Return the command that takes this one back."""
        changes = tuple(Change(change.box, change.after, change.before) for change in reversed(self.changes))
        facts = {number: (after, before) for number, (before, after) in self.facts.items()}
        extras = None if self.extras is None else (self.extras[1], self.extras[0])
        return Command(self.name, changes, facts, extras)
