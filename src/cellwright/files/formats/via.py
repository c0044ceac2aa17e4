"""JSON of the VGG Image Annotator (versions 1 to 3 of its annotations), to read.

Dutta and Zisserman 2019, doi 10.1145/3343031.3350535. It does not tell the size of images.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cellwright.core.data import Image
from cellwright.files.formats.assembly import (
    FileObject,
    ReadingNotes,
    Shape,
    area_of,
    assemble,
    box_of,
    oval_of,
    points_of,
)
from cellwright.files.formats.image_annotation import NO_CLASS, ImageAnnotation, chosen
from cellwright.files.json_value import JsonValue, read_json

PROJECT = "_via_img_metadata"


def is_via(path: Path) -> bool:
    """Return whether a JSON file is one of VIA."""
    value: Any = read_json(path).value
    if not isinstance(value, dict):
        return False
    rows = value.get(PROJECT, value)
    return isinstance(rows, dict) and any(isinstance(row, dict) and "regions" in row for row in rows.values())


def read(path: Path, image: Image | None = None) -> tuple[ImageAnnotation, ...]:
    """Return the cells of each image, or of the one that has the name of ``image``."""
    content = read_json(path)
    images = content.find(PROJECT) or content
    found = []
    for key in images.value:
        row = images.at(key)
        name = row.at("filename").stem()
        notes = ReadingNotes(path, image=image)
        objects = notes.read(_regions(row), partial(_object, notes))
        is_own = image is not None and (name == image.name or len(images.value) == 1)
        own = image if is_own else None
        found.append(assemble(ImageAnnotation(name, ()), objects, notes, own))
    return chosen(path, found, image)


def _regions(row: JsonValue) -> list[JsonValue]:
    regions = row.at("regions")
    if isinstance(regions.value, dict):  # as version 1 wrote them
        return [regions.at(key) for key in regions.value]
    return regions.rows()


def _object(notes: ReadingNotes, row: JsonValue) -> FileObject | None:
    told = row.at("shape_attributes")
    kind = told.at("name").text()
    shape = _shape_of(told, kind)
    if shape is None:
        notes.note(f"are of the type {kind} and were left out")
        return None
    return FileObject(row, [shape], _class(row))


def _class(row: JsonValue) -> str:
    """Return the first attribute of a region that is a text."""
    attributes = row.find("region_attributes")
    if attributes is None or not isinstance(attributes.value, dict):
        return NO_CLASS
    texts = [value.strip() for value in attributes.value.values() if isinstance(value, str)]
    return next((text for text in texts if text), NO_CLASS)


def _shape_of(told: JsonValue, kind: str) -> Shape | None:
    if kind == "rect":
        first = np.array([told.at("y").number(), told.at("x").number()])
        extent = [told.at("height").number(), told.at("width").number()]
        return box_of(told, np.stack([first, first + extent]))
    if kind == "polygon":
        axes = [[node.number() for node in told.at(f"all_points_{axis}").rows()] for axis in "yx"]
        if len(axes[0]) != len(axes[1]):
            raise told.refuse("as many x as y")
        return area_of(told, np.array(axes).T.reshape(-1, 2))
    if kind not in ("circle", "ellipse", "point"):
        return None
    middle = np.array([told.at("cy").number(), told.at("cx").number()])
    if kind == "point":
        return points_of(told, middle[np.newaxis])
    if kind == "circle":
        radii, turn = np.full(2, told.at("r").number()), 0.0
    else:
        radii = np.array([told.at("ry").number(), told.at("rx").number()])
        theta = told.find("theta")
        turn = 0.0 if theta is None else theta.number()
    return oval_of(told, middle, radii, turn)
