"""LabelMe JSON: one 2D image, its pixels inside the file or beside it, cells as shapes.

Russell et al., LabelMe, IJCV 2008, doi 10.1007/s11263-007-0090-8; format as LabelMe 5 and 6 write it. Its
variant in which every shape is a box with a PNG mask, and the image is named by ``imageName``, is read and
written too. ``pixel_size_um`` is ours; LabelMe keeps it.
"""

import base64
import binascii
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Image
from cellwright.core.errors import ReadError, WriteError
from cellwright.files.atomic import write_text
from cellwright.files.formats.assembly import (
    FileObject,
    ReadingNotes,
    Shape,
    area_of,
    box_of,
    finished,
    oval_of,
    points_of,
)
from cellwright.files.formats.image_annotation import (
    ImageAnnotation,
    as_bytes,
    checked_shape,
    needing_masks,
    only_one,
    shape_at,
)
from cellwright.files.json_value import JsonValue, read_json
from cellwright.ops.outlines import MaskPart, cells_of, polygons

VERSION = "5.8.3"


def read(path: Path, image: Image | None = None) -> tuple[ImageAnnotation, ...]:
    """Return the cells of a LabelMe file, and the image where it is inside.

    Polygons, circles and masks give labels, as do rectangles among them; shapes of one group are one cell.
    Rectangles alone give boxes, points alone points. Lines are left out.
    """
    content = read_json(path)
    picture, doubts = _image(content.find("imageData"))
    sides = shape_at(content, "imageHeight", "imageWidth")
    if picture is not None and sides and picture.label_shape != sides:
        doubts = [f"The picture in {path.name} has {picture.label_shape} pixels, not {sides} as told there."]
    named = content.find("imagePath") or content.find("imageName")
    annotation = ImageAnnotation(
        path.stem,
        sides if picture is None else picture.label_shape,
        class_names=content.texts_at("class_names"),
        pixel_size_um=content.sizes_at("pixel_size_um", 2),
        image=picture,
    )
    if named is not None:
        annotation = replace(annotation, name=named.stem())
    notes = ReadingNotes(path, image=image)
    objects = notes.read(content.at("shapes").rows(), partial(_object, notes))
    (found,) = finished(annotation, objects, notes, image)
    return (replace(found, notices=(*found.notices, *doubts)),)


def _object(notes: ReadingNotes, row: JsonValue) -> FileObject | None:
    kind = row.find("shape_type")
    shape = _shape_of(row, "polygon" if kind is None else kind.text())
    if shape is None:
        notes.note(f"are of the type {row.at('shape_type').text()} and were left out")
        return None
    group = row.find("group_id")
    number = None
    if group is not None and shape.kind != "point":
        number = group.whole(-(2**62), 2**62)
    label = row.find("label")
    name = "" if label is None else label.word()
    notes.note("have an empty label and are of no class", int(label is not None and not name))
    return FileObject(row, [shape], name, group=number)


def _shape_of(row: JsonValue, kind: str) -> Shape | None:
    """Return the shape of a row, None where it encloses nothing."""
    if kind == "mask":
        return _mask_of(row)
    node = row.at("points")
    points = node.pairs()
    has_corners = kind == "rectangle" and len(points) == 4  # as X-AnyLabeling writes them
    if has_corners and (points == points[[0]]).sum() == 4:
        return box_of(node, points[[0, 2]])
    if has_corners or kind in ("polygon", "rotation", "oriented_rectangle"):
        return area_of(node, points)
    if kind == "rectangle":
        return box_of(node, points)
    if kind in ("point", "points"):
        return points_of(node, points)
    if kind == "circle":
        if len(points) != 2:
            raise node.refuse("the middle and a corner on the edge")
        middle, edge = points
        return oval_of(node, middle, np.full(2, np.hypot(*(edge - middle))))
    return None


def _mask_of(row: JsonValue) -> Shape:
    corners = row.at("points").pairs()
    if corners.shape != (2, 2) or not np.abs(corners).max() < 2**31:
        raise row.at("points").refuse("the first and last pixel of a mask")
    first, last = np.rint(corners).astype(int)
    mask = _picture(row.at("mask")) > 0
    expected = tuple((last - first + 1).tolist())
    if mask.shape != expected:
        raise row.at("mask").refuse(f"a PNG of {expected} pixels, as points say")
    part = MaskPart((int(first[0]), int(first[1])), mask)
    return Shape("mask", [np.array([first, last + 1], float)], part)


def _image(node: JsonValue | None) -> tuple[Image | None, list[str]]:
    """Return the picture in a file, or what to tell where it is damaged."""
    if node is None:
        return None, []
    try:
        pixels = _picture(node)
    except ReadError as error:
        return None, [f"The picture in the file was left out: {error}"]
    return Image(pixels, "YXC"[: pixels.ndim]), []


def _picture(node: JsonValue) -> NDArray[Any]:
    from PIL import Image as Picture

    try:
        content = base64.b64decode(node.text(), validate=True)
        with Picture.open(io.BytesIO(content)) as picture:
            checked_shape(node.path, node.where, picture.size)
            if picture.mode in ("1", "L", "I;16", "RGB"):
                return np.asarray(picture)
            return np.asarray(picture.convert("RGB"))
    except (binascii.Error, OSError, ValueError, SyntaxError, Picture.DecompressionBombError) as error:
        raise node.refuse("a picture in base64") from error


def write_polygons(path: Path, annotation: Sequence[ImageAnnotation]) -> None:
    """Write cells as polygons, boxes or points; those with holes, which polygons cannot have, as masks."""
    one = _plane_of(annotation)
    _write(path, one, _shapes(one), {"imagePath": _file_name(one)})


def _plane_of(annotation: Sequence[ImageAnnotation]) -> ImageAnnotation:
    one = only_one(annotation, "LabelMe")
    if len(one.shape) != 2:
        raise WriteError(
            f"A LabelMe file holds a 2D image; {one.name!r} has axes {one.axes!r}. Write its planes one by "
            "one, or choose COCO, GeoJSON, ImageJ ROIs or OME-TIFF."
        )
    return one


def write_masks(path: Path, annotation: Sequence[ImageAnnotation]) -> None:
    """Write cells as boxes with PNG masks, and the name of the image as ``imageName`` too."""
    one = _plane_of(annotation)
    labels = needing_masks(one, "LabelMe with masks")
    file = _file_name(one)
    shapes = []
    for _, row, part in cells_of(labels):
        shapes.append(_mask_shape(one.class_of(row), part))
    _write(path, one, shapes, {"imagePath": file, "imageName": file})


def _file_name(annotation: ImageAnnotation) -> str:
    """Return the name of the image: of the picture inside, or of a TIFF beside the file."""
    ending = "tif" if annotation.image is None else "png"
    return f"{annotation.name}.{ending}"


def _write(
    path: Path, annotation: ImageAnnotation, shapes: list[dict[str, Any]], own: dict[str, Any]
) -> None:
    height, width = annotation.shape
    content: dict[str, Any] = {"version": VERSION, "flags": {}, "shapes": shapes, **own}
    content["imageData"] = None
    if annotation.image is not None:
        content["imageData"] = _png(as_bytes(annotation.image)[0])
    content |= {"imageHeight": height, "imageWidth": width, "class_names": list(annotation.class_names)}
    if annotation.pixel_size_um:
        content["pixel_size_um"] = list(annotation.pixel_size_um)
    write_text(path, json.dumps(content, indent=1))


def _shapes(annotation: ImageAnnotation) -> list[dict[str, Any]]:
    if annotation.labels is not None:
        found = []
        for _, row, part in cells_of(annotation.labels):
            found += _cell_shapes(annotation.number_of(row), annotation.class_of(row), part)
        return found
    kind, shift = "rectangle", 0.0
    if annotation.boxes is None:
        kind, shift = "point", 0.5
    return [_shape(annotation.class_of(row), one + shift, kind) for row, one in enumerate(annotation.corners)]


def _cell_shapes(number: int, name: str, part: MaskPart) -> list[dict[str, Any]]:
    parts = polygons(part.mask, part.corner)
    if any(len(polygon) > 1 for polygon in parts):
        return [_mask_shape(name, part)]
    shapes = [_shape(name, polygon[0], "polygon") for polygon in parts]
    if len(shapes) > 1:
        shapes = [{**shape, "group_id": number} for shape in shapes]
    return shapes


def _mask_shape(name: str, part: MaskPart) -> dict[str, Any]:
    corners = np.array([part.corner, np.add(part.corner, part.mask.shape) - 1])
    return {**_shape(name, corners, "mask"), "mask": _png(part.mask.astype(np.uint8))}


def _shape(name: str, corners: NDArray[Any], kind: str) -> dict[str, Any]:
    points = corners[:, ::-1].astype(float).tolist()
    own = {"label": name, "points": points, "group_id": None, "description": "", "shape_type": kind}
    return {**own, "flags": {}, "mask": None}


def _png(pixels: NDArray[np.uint8]) -> str:
    from PIL import Image as Picture

    file = io.BytesIO()
    Picture.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
