"""Points as CSV: one row for each cell, ``t, z, y, x`` as far as there are such axes, and its class.

The tables of this program and the points of napari (``axis-0, axis-1 ...``) are read too.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cellwright.core.data import Image
from cellwright.core.errors import ReadError
from cellwright.files.atomic import atomic_write
from cellwright.files.formats.image_annotation import (
    MARGIN_PX,
    NO_CLASS,
    ImageAnnotation,
    canvas,
    chosen,
    only_one,
    with_classes,
)
from cellwright.files.formats.json_value import JsonValue, read_text

UNNAMED = "TZYX"
DECIMALS = 4
MOST_PX = 1 << 20  # along one axis, where no image tells


def read(path: Path, image: Image | None = None) -> tuple[ImageAnnotation, ...]:
    """Return the points of a file; without ``image`` it is taken to be as small as may be.

    Raises
    ------
    ReadError
        The file is damaged, lacks a column, or leaves the image.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_text(path)), strict=True)
        rows, header = list(reader), [str(name).strip().lower() for name in reader.fieldnames or ()]
    except csv.Error as error:
        raise ReadError(f"Expected a whole CSV file at {path}; got: {error}. Export it again.") from error
    columns = _columns(path, header)
    names = [(row.get(_original(reader, "class")) or NO_CLASS) for row in rows]
    places = np.array(
        [
            [_number(row.get(_original(reader, c)), path, f"Line {n}, {c}") for c in columns.values()]
            for n, row in enumerate(rows, 2)
        ]
    ).reshape(-1, len(columns))
    axes = "".join(columns)
    limit = np.full(len(axes), MOST_PX) if image is None else np.array(canvas(path, image, places))
    if len(limit) != len(axes):
        assert image is not None
        raise ReadError(
            f"{path} must have the columns of axes {image.axes!r}; got {', '.join(columns.values())}."
        )
    for number, place in enumerate(places, 2):
        JsonValue(place.tolist(), path, f"Line {number}").places(
            place + 0.5, tuple(limit.tolist()), MARGIN_PX
        )
    shape = (
        canvas(path, image, places + 1)
        if image is not None
        else tuple(np.ceil(places.max(axis=0, initial=0) + 1).astype(int).tolist())
    )
    annotation = with_classes(
        ImageAnnotation(path.stem, shape, axes), names, points=places.astype(np.float32)
    )
    return chosen(path, [annotation], image)


def _columns(path: Path, header: Sequence[str]) -> dict[str, str]:
    """Return the column of each axis."""
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


def _original(reader: "csv.DictReader[str]", name: str) -> str:
    """Return a column's name as the file spells it."""
    return next((own for own in reader.fieldnames or () if str(own).strip().lower() == name), name)


def _number(text: str | None, path: Path, where: str) -> float:
    try:
        return JsonValue(float(text or ""), path, where).number()
    except ValueError as error:
        raise JsonValue(text, path, where).refuse("a number") from error


def write(path: Path, annotation: Sequence[ImageAnnotation]) -> None:
    """Write the centres of the cells of one image, in pixels.

    Raises
    ------
    WriteError
        The file cannot be written, or there are several images.
    """
    one = only_one(annotation, "CSV").with_boxes()
    points = np.zeros((0, len(one.axes)), np.float32) if one.points is None else one.points
    has_classes = one.classes is not None
    with atomic_write(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", *one.axes.lower(), *(["class"] if has_classes else [])])
        for row, point in enumerate(points.tolist()):
            name = one.class_of(row)
            own = ["" if name == NO_CLASS else name] if has_classes else []
            writer.writerow([row + 1, *(round(value, DECIMALS) for value in point), *own])
