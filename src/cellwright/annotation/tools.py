"""The tools that change cells: each returns the :class:`Edit` it would do and writes nothing.

Those that shape one cell work on each of its time points by itself.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike as NumpyLike
from numpy.typing import NDArray

from cellwright.annotation.history import Edit
from cellwright.annotation.label_store import CellMetadata, LabelStore
from cellwright.annotation.setup import checked_box, checked_labels
from cellwright.core.data import Labels
from cellwright.core.errors import AnnotationError
from cellwright.ops import label_editing
from cellwright.ops.label_changes import Box, Change, Mask, boxes_of, change_of

Changes = Iterable[Change | None]


def delete(store: LabelStore, number: int) -> Edit:
    """Make a cell background."""
    return _edit("delete", _each(store, number, label_editing.erase))


def reject(store: LabelStore, number: int) -> Edit:
    """Delete a cell that the model should not have found; it counts as reviewed."""
    metadata = store.cell(number)._replace(is_reviewed=True)
    return _edit("reject", _each(store, number, label_editing.erase), {number: metadata})


def merge(store: LabelStore, keep: int, gone: int) -> Edit:
    """Give cell ``gone`` to cell ``keep``, which stays what it is."""
    metadata = store.cell(keep)._replace(is_reviewed=True)
    changes = []
    for time, labels, box in _parts(store, gone):
        changes.append(_lifted(label_editing.merge(labels, keep, gone, box=box), time))
    return _edit("merge", changes, {keep: metadata})


def split_line(store: LabelStore, number: int, line: NumpyLike) -> Edit:
    """Cut a cell along a line (N, D)."""
    time, points = _at_one_time(store, line)
    labels, box = _part(store, number, time)
    change = label_editing.split_by_line(labels, number, points, new=store.next_number, box=box)
    return _split(store, "cut", number, _lifted(change, time))


def split_seeds(store: LabelStore, number: int, first: NumpyLike, second: NumpyLike) -> Edit:
    """Cut a cell between two points; the part of the first keeps the number."""
    time, points = _at_one_time(store, np.stack([np.asarray(first, float), np.asarray(second, float)]))
    labels, box = _part(store, number, time)
    change = label_editing.split_by_seeds(
        labels, number, points, sampling=store.sampling, new=store.next_number, box=box
    )
    return _split(store, "split", number, _lifted(change, time))


def grow(store: LabelStore, number: int, radius_px: float) -> Edit:
    """Add the background within ``radius_px`` to a cell."""
    changes = _each(store, number, label_editing.grow, radius_px, sampling=store.sampling)
    return _shaped(store, "grow", number, changes)


def shrink(store: LabelStore, number: int, radius_px: float) -> Edit:
    """Take the outermost ``radius_px`` off a cell."""
    changes = _each(store, number, label_editing.shrink, radius_px, sampling=store.sampling)
    return _shaped(store, "shrink", number, changes)


def smooth(store: LabelStore, number: int, radius_px: float) -> Edit:
    """Round the outline of a cell."""
    changes = _each(store, number, label_editing.smooth, radius_px, sampling=store.sampling)
    return _shaped(store, "smooth", number, changes)


def fill(store: LabelStore, number: int) -> Edit:
    """Fill the holes of a cell."""
    return _shaped(store, "fill holes", number, _each(store, number, label_editing.fill_holes))


def interpolate(store: LabelStore, number: int, first: int, last: int) -> Edit:
    """Draw a cell in the slices of Z (time points where there is no Z) between those in which it is drawn."""
    if "Z" in store.image.axes:
        changes = _each(store, number, label_editing.interpolate, first, last)
    else:
        box = store.box_of(number)
        changes = [label_editing.interpolate(store.labels, number, first, last, box=box)]
    return _shaped(store, "interpolate", number, changes)


def add(store: LabelStore, mask: Mask, corner: Sequence[int], score: float) -> Edit:
    """Make the background under a mask the cell ``store.next_number``."""
    mask = np.asarray(mask, bool)
    mask = mask[(np.newaxis,) * (store.labels.ndim - mask.ndim)]
    number = store.next_number
    change = label_editing.add_mask(store.labels, corner, mask, new=number)
    return _edit("add", [change], {number: CellMetadata(float(score), is_reviewed=True)})


def add_disc(store: LabelStore, point: NumpyLike, diameter_px: float) -> Edit:
    """Draw a disc (a ball in a volume) on the background as the cell ``store.next_number``."""
    time, points = _at_one_time(store, point)
    labels = store.labels
    if time is not None:
        labels = labels[time]
    number = store.next_number
    change = label_editing.draw_disc(labels, points[0], diameter_px, sampling=store.sampling, new=number)
    return _edit("add disc", [_lifted(change, time)], {number: CellMetadata(is_reviewed=True)})


def paint(store: LabelStore, box: Box, before: NDArray[Any], after: NDArray[Any]) -> Edit:
    """Take over what was painted into the labels by other means: the box before and after."""
    box = checked_box(box, store.labels.shape)
    shape = tuple(part.stop - part.start for part in box)
    if np.shape(before) != shape or np.shape(after) != shape:
        raise AnnotationError(
            f"What was painted must have the shape {shape} of its box; got {np.shape(before)} and "
            f"{np.shape(after)}. Hand in the same box of the labels before and after."
        )
    change = Change(box, np.array(before, np.int32), np.array(after, np.int32))
    gained = np.unique(change.after[change.before != change.after]).tolist()
    return _edit("paint", [change], _reviewed(store, [number for number in gained if number]))


def replace_labels(store: LabelStore, labels: NDArray[np.integer[Any]]) -> Edit:
    """Put new labels, a model's say, in the place of all there are."""
    found = checked_labels(store.image, labels)
    whole = tuple(slice(0, length) for length in found.shape)
    cells: dict[int, CellMetadata | None] = dict.fromkeys(store.cells)
    cells |= dict.fromkeys(boxes_of(found), CellMetadata())
    metadata = replace(store.metadata, has_masks=True)
    return replace(_edit("model", [change_of(store.labels, whole, found)], cells), metadata=metadata)


def _edit(name: str, changes: Changes, cells: dict[int, CellMetadata | None] | None = None) -> Edit:
    kept = tuple(change for change in changes if change is not None)
    return Edit(name, kept, cells or {})


def _shaped(store: LabelStore, name: str, number: int, changes: Changes) -> Edit:
    """Return the edit of one cell, which counts as reviewed then; where nothing changes, an empty edit."""
    edit = _edit(name, changes)
    if not edit.changes:
        return edit
    return replace(edit, cells=_reviewed(store, [number]))


def _split(store: LabelStore, name: str, number: int, change: Change | None) -> Edit:
    if change is None:
        return Edit(name)
    metadata = store.cell(number)._replace(is_reviewed=True)
    return Edit(name, (change,), dict.fromkeys((number, *change.numbers()), metadata))


def _reviewed(store: LabelStore, numbers: Iterable[int]) -> dict[int, CellMetadata | None]:
    """Return the metadata of cells that somebody shaped by hand, and so has looked at."""
    return {number: store.cells.get(number, CellMetadata())._replace(is_reviewed=True) for number in numbers}


def _each(
    store: LabelStore, number: int, tool: Callable[..., Change | None], *args: Any, **options: Any
) -> list[Change | None]:
    """Return what a tool changes of a cell, time point by time point."""
    changes = []
    for time, labels, box in _parts(store, number):
        changes.append(_lifted(tool(labels, number, *args, box=box, **options), time))
    return changes


def _parts(store: LabelStore, number: int) -> Iterator[tuple[int | None, Labels, Box]]:
    """Yield time point (None without time), labels and box of a cell at each time point it is in."""
    box = store.box_of(number)
    if not store.has_time:
        yield None, store.labels, box
        return
    for time in range(box[0].start, box[0].stop):
        if (store.labels[time][box[1:]] == number).any():
            yield time, store.labels[time], box[1:]


def _part(store: LabelStore, number: int, time: int | None) -> tuple[Labels, Box]:
    box = store.box_of(number)
    if time is None:
        return store.labels, box
    return store.labels[time], box[1:]


def _lifted(change: Change | None, time: int | None) -> Change | None:
    """Return the change of one time point as one of the whole series."""
    if change is None or time is None:
        return change
    return change.lifted(time)


def _at_one_time(store: LabelStore, points: NumpyLike) -> tuple[int | None, NDArray[np.float64]]:
    """Return the time point of some points, None without time, and their spatial coordinates."""
    found = np.atleast_2d(np.asarray(points, float))
    if found.shape[1] != store.labels.ndim:
        raise AnnotationError(
            f"Points must have {store.labels.ndim} coordinates, one for each of the axes "
            f"{store.image.label_axes!r}; got {found.shape[1]}. Give them in pixels of the labels."
        )
    if not store.has_time:
        return None, found
    times = np.rint(found[:, 0]).astype(int)
    if np.ptp(times) or not 0 <= times[0] < len(store.labels):
        raise AnnotationError(
            f"This tool works at one time point of {len(store.labels)}; got {times.tolist()}. Stay in one."
        )
    return int(times[0]), found[:, 1:]
