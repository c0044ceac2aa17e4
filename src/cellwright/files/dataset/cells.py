"""Boxes, points and classes of one image of a training folder, as csv files: both directions.

The format is told in ``files.dataset.folder``.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Annotation, Labels
from cellwright.core.errors import ReadError
from cellwright.files.atomic import atomic_write
from cellwright.files.json_value import read_table


def read_cells(
    path: Path, shape: tuple[int, int], classes: tuple[str, ...], *, is_complete: bool
) -> Annotation:
    """Return the boxes or points of a csv file; a row without a class has the class -1.

    ReadError where the file is missing or damaged, or a row lies outside the image or has an unknown class.
    """
    rows = [row.value for row in read_table(path)[1]]
    unknown = {row.get("class") or "" for row in rows} - {"", *classes}
    if classes and unknown:
        raise ReadError(
            f"Classes in {path} must be those of meta.json, {', '.join(classes)}; got {min(unknown)!r}. "
            "Correct one of the two."
        )
    is_boxes = path.parent.name == "boxes"
    columns = ("ymin", "xmin", "ymax", "xmax") if is_boxes else ("y", "x")
    try:
        table = np.array([[float(row[name]) for name in columns] for row in rows], np.float32)
        numbers = None
        if classes:
            number = {"": -1, **{name: index for index, name in enumerate(classes)}}
            numbers = np.array([number[row.get("class") or ""] for row in rows], np.int16)
    except (KeyError, TypeError, ValueError) as error:
        raise ReadError(
            f"Expected rows of xmin, ymin, xmax, ymax, class or of y, x, class in {path}; got: {error!r}. "
            "Export the annotation again."
        ) from error
    table = table.reshape(len(rows), len(columns))
    corners = table.reshape(len(rows), len(columns) // 2, 2)
    if not (np.isfinite(table).all() and (corners >= -1).all() and (corners <= np.array(shape) + 1).all()):
        raise ReadError(f"Rows of {path} must lie inside the image of {shape} pixels. Export them again.")
    if (corners[:, 0] > corners[:, -1]).any():
        raise ReadError(f"Boxes in {path} must have xmin below xmax and ymin below ymax. Export them again.")
    if is_boxes:
        return Annotation(shape, corners.mean(axis=1) - 0.5, corners, None, numbers, is_complete)
    return Annotation(shape, table, None, None, numbers, is_complete)


def write_cells(path: Path, truth: Annotation, class_names: Sequence[str]) -> None:
    """Write the boxes of an annotation, or its points where it has none, and their classes."""
    called = [""] * len(truth.points)
    if truth.classes is not None:
        names = {-1: "", **dict(enumerate(class_names))}
        called = [names[int(number)] for number in truth.classes]
    if truth.boxes is None:
        table, header = truth.points, ["y", "x", "class"]
    else:
        table, header = truth.boxes[:, :, ::-1].reshape(-1, 4), ["xmin", "ymin", "xmax", "ymax", "class"]
    values = np.round(table.astype(float), 3).tolist()
    _write_rows(path, header, [[*row, name] for row, name in zip(values, called, strict=True)])


def write_class_points(
    path: Path, labels: Labels, axes: str, classes: NDArray[np.int16], class_names: Sequence[str]
) -> None:
    """Write a pixel of each cell that has a class, the nearest to its middle, and the class.

    ``classes`` (N,) is that of cell ``i + 1``, -1 for none. Where no cell has one there is no file.
    """
    if not (classes >= 0).any():
        return
    pairs = zip(*_middles(labels, len(classes)), strict=True)
    rows = [[*place, class_names[int(classes[n - 1])]] for n, place in pairs if classes[n - 1] >= 0]
    if rows:
        _write_rows(path, [*axes.lower(), "class"], rows)


def _middles(labels: Labels, n_cells: int) -> tuple[list[int], list[list[int]]]:
    """Return the numbers of the cells that are there, and of each the pixel nearest to its middle."""
    places = np.argwhere(labels)
    numbers = labels[tuple(places.T)]
    counts = np.maximum(np.bincount(numbers, minlength=n_cells + 1), 1)
    middles = np.stack([np.bincount(numbers, axis, len(counts)) / counts for axis in places.T], axis=1)
    order = np.argsort(((places - middles[numbers]) ** 2).sum(axis=1), kind="stable")
    found, first = np.unique(numbers[order], return_index=True)
    return found.tolist(), places[order[first]].tolist()


def _write_rows(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with atomic_write(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
