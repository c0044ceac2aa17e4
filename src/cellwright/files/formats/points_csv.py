"""Points as CSV: one row for each cell, ``t, z, y, x`` as far as there are such axes, and its class.

The tables of this program and the points of napari (``axis-0, axis-1 ...``) are read too.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cellwright.core.data import Image
from cellwright.core.errors import ReadError
from cellwright.files.atomic import atomic_write
from cellwright.files.formats.assembly import FileObject, ReadingNotes, Shape, finished
from cellwright.files.formats.image_annotation import NO_CLASS, ImageAnnotation, only_one
from cellwright.files.formats.via import REGIONS
from cellwright.files.json_value import JsonValue, read_table

UNNAMED = "TZYX"
DECIMALS = 4
MOST_PX = 1 << 20  # along one axis, where no image tells


def is_points_csv(path: Path) -> bool:
    """Return whether a CSV file is no table of regions of VIA."""
    with path.open("rb") as file:
        return REGIONS.encode() not in file.read(1 << 12)


def read(path: Path, image: Image | None = None) -> tuple[ImageAnnotation, ...]:
    """Return the points of a file; without ``image`` it is taken to be as small as may be."""
    header, rows = read_table(path)
    columns = _columns(path, header)
    axes = "".join(columns)
    if image is not None and len(image.label_axes) != len(axes):
        raise ReadError(
            f"{path} must have the columns of axes {image.label_axes!r}; got {', '.join(columns.values())}."
        )
    notes = ReadingNotes(path, image=image)

    def read_row(row: JsonValue) -> FileObject:
        values = [_number(row.value.get(name), path, f"{row.where}, {name}") for name in columns.values()]
        if max(map(abs, values)) > MOST_PX:
            raise row.refuse("within the image")
        lead, place = tuple(values[:-2]), np.array([values[-2:]]) + 0.5
        return FileObject(row, [Shape("point", [place])], row.value.get("class") or NO_CLASS, lead)

    objects = notes.read(rows, read_row)
    return finished(ImageAnnotation(path.stem, (), axes), objects, notes, image)


def _columns(path: Path, header: Sequence[str]) -> dict[str, str]:
    if "axis-0" in header:
        n = sum(f"axis-{i}" in header for i in range(5))
        if 2 <= n <= 4:
            return {axis: f"axis-{i}" for i, axis in enumerate(UNNAMED[-n:])}
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
            if name == NO_CLASS:
                name = ""
            values = [row + 1, *(round(value, DECIMALS) for value in point), name]
            writer.writerow(values[: len(header)])
