"""Where each cell lies, kept up to date edit by edit so that no tool has to search the whole array."""

from collections.abc import Iterator, Mapping

import numpy as np

from cellwright.core.data import Labels
from cellwright.ops.label_changes import Box, Change, bounds, boxes_of, joined


class BoxTable:
    """The boxes of all cells of a labels array by their number; searched for where they are not known."""

    def __init__(self, labels: Labels, boxes: Mapping[int, Box] | None = None) -> None:
        self._labels = labels
        self._boxes = boxes_of(labels) if boxes is None else dict(boxes)

    def __contains__(self, number: object) -> bool:
        return number in self._boxes

    def __iter__(self) -> Iterator[int]:
        return iter(self._boxes)

    def __len__(self) -> int:
        return len(self._boxes)

    def __getitem__(self, number: int) -> Box:
        return self._boxes[number]

    def copy(self, labels: Labels) -> "BoxTable":
        """Return the same boxes for a copy of the labels."""
        return BoxTable(labels, self._boxes)

    def write(self, change: Change) -> tuple[int, ...]:
        """Write a change into the labels and return the cells that gained or lost voxels."""
        change.apply(self._labels)
        differs = change.before != change.after
        gained = set(np.unique(change.after[differs]).tolist()) - {0}
        lost = set(np.unique(change.before[differs]).tolist()) - {0}
        if not gained | lost:
            return ()
        inside = boxes_of(change.after)
        for number in gained | lost:
            here = inside.get(number)
            box = self._box_after(
                number, change.box, here and _moved(here, change.box), has_lost=number in lost
            )
            if box is None:
                self._boxes.pop(number, None)
            else:
                self._boxes[number] = box
        return tuple(sorted(gained | lost))

    def _box_after(self, number: int, changed: Box, here: Box | None, *, has_lost: bool) -> Box | None:
        """Return the box of a cell of which ``here`` is the part within what changed."""
        old = self._boxes.get(number)
        if old is None or _holds(changed, old):
            return here
        search = old if here is None else joined(old, here)
        if not has_lost:
            return search
        inner = bounds(self._labels[search] == number)
        return None if inner is None else _moved(inner, search)


def _moved(box: Box, frame: Box) -> Box:
    """Return a box within another in the coordinates of the whole."""
    return tuple(
        slice(outer.start + part.start, outer.start + part.stop)
        for part, outer in zip(box, frame, strict=True)
    )


def _holds(outer: Box, inner: Box) -> bool:
    return all(a.start <= b.start and b.stop <= a.stop for a, b in zip(outer, inner, strict=True))
