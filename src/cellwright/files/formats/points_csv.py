"""Points as CSV: one row for each cell, ``t, z, y, x`` as far as there are such axes, and its class.

The tables of this program, those of scikit-image (``centroid-0, centroid-1 ...``) and the points of napari
(``axis-0, axis-1 ...``) are read too, and its shapes, which have a row for each corner.
"""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Image
from cellwright.core.errors import ReadError
from cellwright.files.atomic import atomic_write
from cellwright.files.formats.assembly import (
    OVAL_CORNERS,
    FileObject,
    ReadingNotes,
    Shape,
    area_of,
    box_of,
    finished,
)
from cellwright.files.formats.image_annotation import ImageAnnotation, only_one, with_cell
from cellwright.files.json_value import JsonValue, read_table
from cellwright.ops.outlines import ellipse_ring

UNNAMED = "TZYX"
NUMBERED = ("axis", "centroid")  # what the columns of axes are called that have no letters
CORNER = "vertex-index"  # a column of shapes of napari
LINES = ("line", "path")
DECIMALS = 4
MOST_PX = 1 << 20  # along one axis, where no image tells


def read(path: Path, image: Image | None = None) -> tuple[ImageAnnotation, ...]:
    """Return the points or shapes of a file; without ``image`` it is taken to be as small as may be."""
    header, rows = read_table(path)
    columns = _columns(path, header)
    axes = "".join(columns)
    if image is not None and len(image.label_axes) != len(axes):
        raise ReadError(
            f"{path} must have the columns of axes {image.label_axes!r}; got {', '.join(columns.values())}."
        )
    notes = ReadingNotes(path, image=image)

    def place_of(row: JsonValue) -> list[float]:
        values = [_number(row.value.get(name), path, f"{row.where}, {name}") for name in columns.values()]
        if max(map(abs, values)) > MOST_PX:
            raise row.refuse("within the image")
        return values

    def read_row(row: JsonValue) -> FileObject:
        *lead, y, x = place_of(row)
        shape = Shape("point", [np.array([[y, x]]) + 0.5])
        return FileObject(row, [shape], row.value.get("class") or "", tuple(lead))

    def read_shape(row: JsonValue) -> FileObject | None:
        first = row.value[0]
        kind = first.value.get("shape-type")
        if kind in LINES:
            notes.note(f"are of the type {kind} and were left out")
            return None
        places = np.array([place_of(one) for one in row.value])
        shape = _shape(first, kind, places[:, -2:] + 0.5)
        return FileObject(first, [shape], lead=tuple(places[0, :-2].tolist()))

    objects = notes.read(_by_shape(rows), read_shape) if CORNER in header else notes.read(rows, read_row)
    known = with_cell([one.name for one in objects])
    return finished(ImageAnnotation(path.stem, (), axes, class_names=known), objects, notes, image)


def _by_shape(rows: Sequence[JsonValue]) -> list[JsonValue]:
    """Return the rows of each shape of napari, where its first stands."""
    shapes: dict[str, list[JsonValue]] = {}
    for row in rows:
        shapes.setdefault(str(row.value.get("index")), []).append(row)
    return [replace(own[0], value=own) for own in shapes.values()]


def _shape(row: JsonValue, kind: str | None, corners: NDArray[np.float64]) -> Shape:
    """Return a shape of napari; of an ellipse the corners are those of the rectangle around it."""
    is_upright = len(corners) == 4 and (corners == corners[[0]]).sum() == 4
    if kind == "rectangle" and is_upright:
        return box_of(row, corners[[0, 2]])
    if kind == "ellipse" and len(corners) == 4:
        corners = ellipse_ring(corners, OVAL_CORNERS)
    return area_of(row, corners)


def _columns(path: Path, header: Sequence[str]) -> dict[str, str]:
    for name in NUMBERED:
        n = sum(f"{name}-{i}" in header for i in range(5))
        if 2 <= n <= 4 and f"{name}-0" in header:
            return {axis: f"{name}-{i}" for i, axis in enumerate(UNNAMED[-n:])}
    columns = {axis: axis.lower() for axis in UNNAMED if axis.lower() in header}
    if not {"Y", "X"} <= columns.keys():
        raise ReadError(
            f"The columns of {path} must have y and x (or axis-0 and axis-1); got "
            f"{', '.join(header)[:80] or 'none'}. Name the columns in the first line."
        )
    return columns


def _number(text: str | None, path: Path, where: str) -> float:
    try:
        return JsonValue(float(text or ""), path, where).number()
    except ValueError as error:
        raise JsonValue(text, path, where).refuse("a number") from error


def write(path: Path, annotation: Sequence[ImageAnnotation]) -> None:
    """Write the centres of the cells of one image, in pixels."""
    one = only_one(annotation, "CSV").with_boxes()
    points = one.points
    if points is None:
        points = np.zeros((0, len(one.axes)), np.float32)
    header = ["label", *one.axes.lower()]
    if one.classes is not None:
        header.append("class")
    with atomic_write(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row, point in enumerate(points.tolist()):
            name = one.class_of(row)
            if name == one.no_class:
                name = ""
            values = [one.number_of(row), *(round(value, DECIMALS) for value in point), name]
            writer.writerow(values[: len(header)])
