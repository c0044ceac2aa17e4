"""XML of other programs, to read: Pascal VOC, CVAT for images, TrackMate.

Everingham et al. 2010, doi 10.1007/s11263-009-0275-4; CVAT 1.1 (docs.cvat.ai); Tinevez et al. 2017, doi
10.1016/j.ymeth.2016.09.016. Elements are looked at as objects of JSON are, attributes and children alike.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Image
from cellwright.core.errors import ReadError
from cellwright.files.formats.assembly import (
    FileObject,
    ReadingNotes,
    Shape,
    area_of,
    assemble,
    box_of,
    finished,
    oval_of,
    points_of,
)
from cellwright.files.formats.image_annotation import (
    NO_CLASS,
    ImageAnnotation,
    checked_shape,
    chosen,
    is_other,
    shape_at,
)
from cellwright.files.json_value import JsonValue, read_xml
from cellwright.ops.geometry.boxes import corners_of
from cellwright.ops.outlines import MaskPart

LISTS = {
    "object",
    "image",
    "box",
    "polygon",
    "polyline",
    "points",
    "ellipse",
    "mask",
    "skeleton",
    "cuboid",
    "SpotsInFrame",
    "Spot",
    "Track",
}
TEXT = "text"  # what an element holds beside attributes and children
MOST_DEPTH = 50


def read(path: Path, image: Image | None = None) -> tuple[ImageAnnotation, ...]:
    """Return the cells of a file, of each of its images or of the one that is given."""
    root = read_xml(path)
    content = JsonValue(_plain(root), path, root.tag)
    if root.tag == "annotation":
        return _read_voc(content, image)
    if root.tag == "annotations":
        return _read_cvat(content, image)
    return _read_trackmate(content, image)


def _plain(element: ElementTree.Element, depth: int = 0) -> dict[str, Any]:
    """Return an element as an object: attributes and children by name, numbers as numbers."""
    found: dict[str, Any] = {key: _value(text) for key, text in element.attrib.items()}
    if element.text and element.text.strip():
        found[TEXT] = _value(element.text.strip())
    if depth == MOST_DEPTH:
        return found
    rows: dict[str, list[Any]] = {}
    for child in element:
        inner = _plain(child, depth + 1)
        if set(inner) <= {TEXT}:
            found[child.tag] = inner.get(TEXT)
        elif child.tag in LISTS:
            rows.setdefault(child.tag, []).append(inner)
        else:
            found[child.tag] = inner
    return found | rows


class _WrittenNumber(float):
    """A number that knows how it is written, for it may be the name of a class or a file."""

    def __init__(self, text: str) -> None:
        self.text = text


def _value(text: str) -> float | str:
    try:
        return _WrittenNumber(text)
    except ValueError:
        return text


def _text(node: JsonValue, key: str, default: str = "") -> str:
    found = node.find(key)
    if found is None:
        return default
    return str(getattr(found.value, "text", found.value))


def _stem(node: JsonValue, key: str) -> str:
    """Return the name of an image, of whatever folder it was in."""
    return Path(_text(node, key).replace("\\", "/")).stem or node.path.stem


# -- Pascal VOC ---------------------------------------------------------------------------------------------


def _read_voc(content: JsonValue, image: Image | None) -> tuple[ImageAnnotation, ...]:
    size = content.find("size")
    if size is None and not content.rows_at("object"):
        raise content.refuse("an annotation with a size or an object")
    shape = shape_at(size, "height", "width") if size else ()
    notes = ReadingNotes(content.path, image=image)
    objects = notes.read(content.rows_at("object"), _voc_object)
    return finished(ImageAnnotation(_stem(content, "filename"), shape), objects, notes, image)


def _voc_object(row: JsonValue) -> FileObject:
    name = _text(row, "name", NO_CLASS)
    outlines = row.rows_at("polygon")
    if outlines:
        corners = outlines[0].value
        n = len(corners) // 2
        ring = [[outlines[0].at(f"{axis}{i}").number() for axis in "yx"] for i in range(1, n + 1)]
        return FileObject(row, [area_of(row, np.array(ring).reshape(-1, 2))], name)
    box = row.at("bndbox")
    # pixels are numbered from 1, the last is inside
    first = [box.at(f"{axis}min").number() - 1 for axis in "yx"]
    last = [box.at(f"{axis}max").number() for axis in "yx"]
    return FileObject(row, [box_of(row, np.array([first, last]))], name)


# -- CVAT ---------------------------------------------------------------------------------------------------


def _read_cvat(content: JsonValue, image: Image | None) -> tuple[ImageAnnotation, ...]:
    found = []
    if content.find("track") is not None:
        raise ReadError(f"{content.path} holds tracks of a video. Export it as 'CVAT for images'.")
    rows = content.rows_at("image")
    for row in rows:
        shape = shape_at(row, "height", "width")
        name = _stem(row, "name")
        if is_other(name, image, len(rows)):
            found.append(ImageAnnotation(name, shape))
            continue
        notes = ReadingNotes(content.path, image=image)
        drawn = []
        for kind in ("box", "polygon", "polyline", "points", "ellipse", "mask"):
            drawn += [replace(one, value={**one.value, "kind": kind}) for one in row.rows_at(kind)]
        objects = notes.read(drawn, partial(_cvat_object, notes))
        for kind in ("skeleton", "cuboid"):
            n_others = len(row.rows_at(kind))
            notes.n_objects += n_others
            notes.note(f"are of the type {kind} and were left out", n_others)
        found.append(assemble(ImageAnnotation(name, shape), objects, notes, image))
    return chosen(content.path, found, image)


def _cvat_object(notes: ReadingNotes, row: JsonValue) -> FileObject | None:
    name, kind = _text(row, "label", NO_CLASS), row.at("kind").text()
    turned = row.find("rotation")
    turn = 0.0 if turned is None else np.deg2rad(turned.number())  # clockwise
    if kind == "box":
        ends = [[row.at(f"y{side}").number(), row.at(f"x{side}").number()] for side in ("tl", "br")]
        box = box_of(row, np.array(ends))
        return FileObject(row, [_turned(row, box, turn) if turn else box], name)
    if kind == "ellipse":
        middle, radii = [np.array([row.at(f"{what}{axis}").number() for axis in "yx"]) for what in "cr"]
        return FileObject(row, [oval_of(row, middle, radii, turn)], name)
    if kind == "mask":
        return FileObject(row, [_cvat_mask(row)], name)
    if kind == "polyline":
        notes.note("are lines and were left out")
        return None
    corners = _pairs(row.at("points"))
    if kind == "points":
        return FileObject(row, [points_of(row, corners)], name)
    return FileObject(row, [area_of(row, corners)], name)


def _turned(row: JsonValue, box: Shape, turn: float) -> Shape:
    """Return a box turned round its middle by so many radians, clockwise as it is looked at."""
    middle = box.rings[0].mean(axis=0)
    y, x = (corners_of(box.rings[0]) - middle).T
    corners = [y * np.cos(turn) + x * np.sin(turn), x * np.cos(turn) - y * np.sin(turn)]
    return area_of(row, middle + np.stack(corners, axis=1))


def _cvat_mask(row: JsonValue) -> Shape:
    top, left, height, width = (row.at(key).whole(0, 1 << 20) for key in ("top", "left", "height", "width"))
    checked_shape(row.path, row.where, (height, width))
    runs = row.at("rle").split(",").astype(int)
    if (runs < 0).any() or runs.sum() != height * width:
        raise row.at("rle").refuse(f"run lengths of {height * width} pixels")
    mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    corners = np.array([[top, left], [top + height, left + width]], float)
    return Shape("mask", [corners], MaskPart((top, left), mask))


def _pairs(node: JsonValue) -> NDArray[np.float64]:
    """Return ``x,y;x,y`` as places y, x."""
    numbers = replace(node, value=str(node.value).replace(";", ",")).split(",")
    if len(numbers) % 2:
        raise node.refuse("pairs of x and y")
    return numbers.reshape(-1, 2)[:, ::-1]


# -- TrackMate ----------------------------------------------------------------------------------------------


def _read_trackmate(content: JsonValue, image: Image | None) -> tuple[ImageAnnotation, ...]:
    """Return spots as points, or as labels where they have outlines."""
    image_data = content.at("Settings").at("ImageData")
    lengths = {axis: image_data.at(key).whole(1) for axis, key in
               (("T", "nframes"), ("Z", "nslices"), ("Y", "height"), ("X", "width"))}  # fmt: skip
    sizes = {axis: image_data.at(key).number(1e-9) for axis, key in
             (("Z", "voxeldepth"), ("Y", "pixelheight"), ("X", "pixelwidth"))}  # fmt: skip
    axes = "".join(axis for axis in "TZYX" if axis in "YX" or lengths[axis] > 1)
    shape = checked_shape(content.path, "ImageData", [lengths[axis] for axis in axes])
    unit = _text(content.at("Model"), "spatialunits")
    pixel_size: tuple[float, ...] = ()
    if unit.lower() in ("micron", "microns", "µm", "um", "micrometer"):
        pixel_size = tuple(sizes[axis] for axis in axes if axis in sizes)
    notes = ReadingNotes(content.path, image=image)
    frames = content.at("Model").at("AllSpots").rows_at("SpotsInFrame")
    rows = [row for frame in frames for row in frame.rows_at("Spot")]
    objects = notes.read(rows, partial(_spot, notes, axes, sizes))
    annotation = ImageAnnotation(_stem(image_data, "filename"), shape, axes, pixel_size_um=pixel_size)
    (found,) = finished(annotation, objects, notes, image)
    tracks = content.at("Model").find("AllTracks")
    if tracks is not None and tracks.rows_at("Track"):
        text = f"The tracks of {content.path.name} are left out: each spot is a cell of its own."
        found = replace(found, notices=(*found.notices, text))
    return (found,)


def _spot(notes: ReadingNotes, axes: str, sizes: dict[str, float], row: JsonValue) -> FileObject | None:
    if _text(row, "VISIBILITY", "1") == "0":
        notes.note("were filtered out in TrackMate and are left out")
        return None
    middle = np.array([row.at(f"POSITION_{axis}").number() / sizes[axis] for axis in "YX"]) + 0.5
    places = {"T": row.at("FRAME").number(), "Z": row.at("POSITION_Z").number() / sizes["Z"]}
    lead = tuple(places[axis] for axis in axes[:-2])
    if _text(row, "ROI_N_POINTS", "0") not in ("", "0") and row.find(TEXT) is not None:
        around = row.at(TEXT).split()
        ring = around[: len(around) // 2 * 2].reshape(-1, 2)[:, ::-1] / [sizes["Y"], sizes["X"]]
        return FileObject(row, [area_of(row, middle + ring)], lead=lead)
    return FileObject(row, [points_of(row, middle[np.newaxis])], lead=lead)
