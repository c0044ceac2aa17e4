"""JSON of the VGG Image Annotator (its versions 1 to 3), and CSV (1 and 2), to read.

Dutta and Zisserman 2019, doi 10.1145/3343031.3350535. It does not tell the size of images.
"""

import json
from dataclasses import replace
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
from cellwright.files.formats.image_annotation import NO_CLASS, ImageAnnotation, chosen, is_other
from cellwright.files.json_value import NO_JSON, JsonValue, read_json, read_table

REGIONS = "region_shape_attributes"  # a column of its CSV
PROJECT = "_via_img_metadata"
OF_VERSION_3 = {"project", "file", "view", "metadata"}
SHAPES_OF_3 = {  # what places of version 3 begin with, and what follows
    1: ("point", ("cx", "cy")),
    2: ("rect", ("x", "y", "width", "height")),
    3: ("circle", ("cx", "cy", "r")),
    4: ("ellipse", ("cx", "cy", "rx", "ry")),
    7: ("polygon", ()),
}


def is_via(path: Path) -> bool:
    """Return whether a JSON or CSV file is one of VIA."""
    if path.suffix.lower() == ".csv":
        with path.open("rb") as file:
            return REGIONS.encode() in file.read(1 << 12)
    value: Any = read_json(path).value
    if not isinstance(value, dict):
        return False
    if set(value) >= OF_VERSION_3:
        return True
    rows = value.get(PROJECT, value)
    return isinstance(rows, dict) and any(isinstance(row, dict) and "regions" in row for row in rows.values())


def read(path: Path, image: Image | None = None) -> tuple[ImageAnnotation, ...]:
    """Return the cells of each image, or of the one that has the name of ``image``."""
    rows = _of_table(path) if path.suffix.lower() == ".csv" else _of_json(read_json(path))
    found = []
    for name, regions in rows:
        if is_other(name, image, len(rows)):
            found.append(ImageAnnotation(name, ()))
            continue
        notes = ReadingNotes(path, image=image)
        objects = notes.read(regions, partial(_object, notes))
        found.append(assemble(ImageAnnotation(name, ()), objects, notes, image))
    return chosen(path, found, image)


def _of_json(content: JsonValue) -> list[tuple[str, list[JsonValue]]]:
    if set(content.value) >= OF_VERSION_3:
        return _views(content)
    images = content.find(PROJECT) or content
    rows = [images.at(key) for key in images.value]
    return [(row.at("filename").stem(), _regions(row)) for row in rows]


def _of_table(path: Path) -> list[tuple[str, list[JsonValue]]]:
    """Return name and regions of each image of a CSV file, a line for each region, as JSON has them."""
    own: dict[str, list[JsonValue]] = {}
    _, rows = read_table(path)
    for row in rows:
        name = row.find("filename") or row.at("#filename")
        regions = own.setdefault(name.stem(), [])
        values = {key: _parsed(row.at(key).text()) for key in (REGIONS, "region_attributes")}
        if values[REGIONS]:  # else the image has none
            regions.append(replace(row, value={"shape_attributes": values.pop(REGIONS), **values}))
    return list(own.items())


def _parsed(text: str) -> Any:
    """Return the JSON of a cell of a table, or its text where it is none."""
    try:
        return json.loads(text)
    except NO_JSON:
        return text


def _views(content: JsonValue) -> list[tuple[str, list[JsonValue]]]:
    """Return name and regions of each image of a project of version 3, as version 2 has them."""
    own: dict[str, list[JsonValue]] = {}
    for row in content.at("metadata").fields().values():
        if row.rows_at("xy"):  # others are spans of time
            own.setdefault(row.at("vid").word(), []).append(_as_version_2(content, row))
    found = []
    for key, view in content.at("view").fields().items():
        for file in view.at("fid_list").rows():
            name = content.at("file").at(file.word()).at("fname").stem()
            found.append((name, own.get(key, [])))
    return found


def _as_version_2(content: JsonValue, row: JsonValue) -> JsonValue:
    kind, *numbers = row.at("xy").value
    name, keys = SHAPES_OF_3.get(kind, ("line", ()))
    shape = {"name": name, **dict(zip(keys, numbers, strict=False))}
    if name == "polygon":
        shape |= {"all_points_x": numbers[::2], "all_points_y": numbers[1::2]}
    values = row.find("av")
    attributes = {} if values is None else values.fields()
    names = {key: _option(content, key, str(value.value)) for key, value in attributes.items()}
    return replace(row, value={"shape_attributes": shape, "region_attributes": names})


def _option(content: JsonValue, key: str, value: str) -> str:
    """Return what an attribute says: the name of an option, or text."""
    attribute = content.at("attribute").find(key)
    options = attribute and attribute.find("options")
    named = options and options.find(value)
    return named.word() if named else value


def _regions(row: JsonValue) -> list[JsonValue]:
    regions = row.at("regions")
    if isinstance(regions.value, dict):  # as version 1 wrote them
        return [regions.at(key) for key in regions.value]
    return regions.rows()


def _object(notes: ReadingNotes, row: JsonValue) -> FileObject | None:
    node = row.at("shape_attributes")
    kind = node.at("name").text()
    shape = _shape_of(node, kind)
    if shape is None:
        notes.note(f"are of the type {kind} and were left out")
        return None
    return FileObject(row, [shape], _class(row))


def _class(row: JsonValue) -> str:
    """Return the first attribute of a region that is a text, or the first of its boxes that is ticked."""
    attributes = row.find("region_attributes")
    if attributes is None or not isinstance(attributes.value, dict):
        return NO_CLASS
    ticked = [one for one in attributes.value.values() if isinstance(one, dict)]
    texts = [value.strip() for value in attributes.value.values() if isinstance(value, str)]
    texts += [key for one in ticked for key, is_on in one.items() if is_on is True]
    return next((text for text in texts if text), NO_CLASS)


def _shape_of(attributes: JsonValue, kind: str) -> Shape | None:
    if kind == "rect":
        first = np.array([attributes.at("y").number(), attributes.at("x").number()])
        extent = [attributes.at("height").number(), attributes.at("width").number()]
        return box_of(attributes, np.stack([first, first + extent]))
    if kind == "polygon":
        axes = [[node.number() for node in attributes.at(f"all_points_{axis}").rows()] for axis in "yx"]
        if len(axes[0]) != len(axes[1]):
            raise attributes.refuse("as many x as y")
        return area_of(attributes, np.array(axes).T.reshape(-1, 2))
    if kind not in ("circle", "ellipse", "point"):
        return None
    middle = np.array([attributes.at("cy").number(), attributes.at("cx").number()])
    if kind == "point":
        return points_of(attributes, middle[np.newaxis])
    if kind == "circle":
        radii, turn = np.full(2, attributes.at("r").number()), 0.0
    else:
        radii = np.array([attributes.at("ry").number(), attributes.at("rx").number()])
        theta = attributes.find("theta")
        turn = 0.0 if theta is None else theta.number()
    return oval_of(attributes, middle, radii, turn)
