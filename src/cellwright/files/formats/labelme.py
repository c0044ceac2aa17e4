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
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.data import Image
from cellwright.files.atomic import write_text
from cellwright.files.formats.image_annotation import (
    MARGIN_PX,
    NO_CLASS,
    ImageAnnotation,
    box_part,
    checked_shape,
    chosen,
    needing_masks,
    of_plane,
    only_one,
    ring_of,
    spread,
    with_classes,
)
from cellwright.files.formats.json_value import JsonValue, read_json
from cellwright.files.formats.outlines import MaskPart, filled, polygons
from cellwright.files.images import as_bytes

VERSION = "5.8.3"
OUTLINED = ("polygon", "mask", "circle", "rectangle")


def is_labelme(path: Path) -> bool:
    """Return whether a JSON file is one of LabelMe."""
    value = read_json(path).value
    return isinstance(value, dict) and "shapes" in value


def read(path: Path, image: Image | None = None) -> tuple[ImageAnnotation, ...]:
    """Return the cells of a LabelMe file, and the image where it is inside.

    Polygons, circles and masks give labels, as do rectangles among them; shapes of one group are one cell.
    Rectangles alone give boxes, points alone points.

    Raises
    ------
    ReadError
        The file is damaged, mixes points with outlines, or does not fit the image.
    """
    content = read_json(path)
    sides = (content.at("imageHeight").whole(1), content.at("imageWidth").whole(1))
    checked_shape(path, "imageHeight and imageWidth", sides)
    name = content.find("imagePath") or content.find("imageName")
    sizes = content.find("pixel_size_um")
    annotation = ImageAnnotation(
        path.stem if name is None else name.stem(),
        sides,
        pixel_size_um=() if sizes is None else sizes.sizes(2),
        image=_image(content.find("imageData"), sides),
    )
    classes = content.find("class_names")
    if classes is not None:
        annotation = replace(annotation, class_names=tuple(row.text() for row in classes.rows()))
    return chosen(path, [_cells(annotation, content.at("shapes").rows(), sides)], image)


def _cells(annotation: ImageAnnotation, rows: list[JsonValue], sides: tuple[int, int]) -> ImageAnnotation:
    names = [row.at("label").text() or NO_CLASS for row in rows]
    types = [row.at("shape_type").text() for row in rows]
    if rows and set(types) == {"point"}:
        points = np.array([_corners(row, 1, sides)[0] for row in rows], np.float32)
        return with_classes(annotation, names, points=points - np.float32(0.5))
    if rows and set(types) == {"rectangle"}:
        boxes = [np.sort(_corners(row, 2, sides), axis=0) for row in rows]
        return with_classes(annotation, names, boxes=np.array(boxes, np.float32))
    for row, kind in zip(rows, types, strict=True):
        if kind not in OUTLINED:
            raise row.at("shape_type").refuse(f"one of {', '.join(OUTLINED)}, or 'point' of all shapes")
    groups: dict[Any, list[int]] = {}
    for index, row in enumerate(rows):
        group = row.find("group_id")
        groups.setdefault(("alone", index) if group is None else group.whole(-(2**62), 2**62), []).append(
            index
        )
    parts = [[_part(rows[index], types[index], sides) for index in group] for group in groups.values()]
    return spread(annotation, parts, [names[group[0]] for group in groups.values()])


def _part(row: JsonValue, kind: str, sides: tuple[int, int]) -> MaskPart:
    if kind == "polygon":
        return filled([ring_of(row.at("points"), sides)])
    if kind == "rectangle":
        return box_part(np.sort(_corners(row, 2, sides), axis=0))
    if kind == "circle":
        middle, edge = _corners(row, 2, sides)
        angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
        ring = middle + np.hypot(*(edge - middle)) * np.stack([np.sin(angles), np.cos(angles)], axis=1)
        return filled([ring.clip(0, sides)])
    first, last = np.rint(_corners(row, 2, sides)).astype(int)
    mask = _picture(row.at("mask")) > 0
    expected = tuple((last - first + 1).tolist())
    if mask.shape != expected or (first < 0).any() or (last >= sides).any():
        raise row.at("mask").refuse(f"a PNG of {expected} pixels inside the image, as points say")
    return MaskPart((int(first[0]), int(first[1])), mask)


def _corners(row: JsonValue, n: int, sides: tuple[int, int]) -> NDArray[np.float64]:
    corners = row.at("points").pairs(sides, MARGIN_PX)
    if len(corners) != n:
        raise row.at("points").refuse(f"{n} corners")
    return corners


def _image(node: JsonValue | None, sides: tuple[int, int]) -> Image | None:
    if node is None:
        return None
    pixels = _picture(node)
    if pixels.shape[:2] != sides:
        shown = JsonValue(f"a picture of {pixels.shape[:2]} pixels", node.path, node.where)
        raise shown.refuse(f"of imageHeight and imageWidth, {sides}")
    return Image(pixels, "YX" if pixels.ndim == 2 else "YXC")


def _picture(node: JsonValue) -> NDArray[Any]:
    from PIL import Image as Picture

    try:
        content = base64.b64decode(node.text(), validate=True)
        with Picture.open(io.BytesIO(content)) as picture:
            checked_shape(node.path, node.where, picture.size)
            is_plain = picture.mode in ("1", "L", "I;16", "RGB")
            return np.asarray(picture if is_plain else picture.convert("RGB"))
    except (binascii.Error, OSError, ValueError, SyntaxError, Picture.DecompressionBombError) as error:
        raise node.refuse("a picture in base64") from error


def write_polygons(path: Path, annotation: Sequence[ImageAnnotation]) -> None:
    """Write cells as polygons, boxes or points; those with holes, which polygons cannot have, as masks.

    Raises
    ------
    WriteError
        The file cannot be written, or there is more than one 2D image.
    """
    one = of_plane(only_one(annotation, "LabelMe"), "LabelMe")
    own: dict[str, Any] = {"imagePath": f"{one.name}.{'tif' if one.image is None else 'png'}"}
    _write(path, one, _shapes(one), own)


def write_masks(path: Path, annotation: Sequence[ImageAnnotation]) -> None:
    """Write cells as boxes with PNG masks, and the name of the image as ``imageName`` too."""
    one = of_plane(only_one(annotation, "LabelMe"), "LabelMe")
    labels = needing_masks(one, "LabelMe with masks")
    file = f"{one.name}.{'tif' if one.image is None else 'png'}"
    shapes = []
    for row, window in enumerate(ndimage.find_objects(labels)):
        shapes.append(_mask_shape(one.class_of(row), window, labels[window] == row + 1))
    _write(path, one, shapes, {"imagePath": file, "imageName": file})


def _write(
    path: Path, annotation: ImageAnnotation, shapes: list[dict[str, Any]], own: dict[str, Any]
) -> None:
    height, width = annotation.shape
    content: dict[str, Any] = {"version": VERSION, "flags": {}, "shapes": shapes, **own}
    content["imageData"] = None if annotation.image is None else _png(as_bytes(annotation.image)[0])
    content |= {"imageHeight": height, "imageWidth": width, "class_names": list(annotation.class_names)}
    if annotation.pixel_size_um:
        content["pixel_size_um"] = list(annotation.pixel_size_um)
    write_text(path, json.dumps(content, indent=1))


def _shapes(annotation: ImageAnnotation) -> list[dict[str, Any]]:
    if annotation.labels is not None:
        found = []
        for row, window in enumerate(ndimage.find_objects(annotation.labels)):
            found += _cell_shapes(row, annotation.class_of(row), window, annotation.labels[window] == row + 1)
        return found
    kind, shift = ("point", 0.5) if annotation.boxes is None else ("rectangle", 0.0)
    return [_shape(annotation.class_of(row), one + shift, kind) for row, one in enumerate(annotation.corners)]


def _cell_shapes(
    row: int, name: str, window: tuple[slice, ...], mask: NDArray[np.bool_]
) -> list[dict[str, Any]]:
    parts = polygons(mask, [part.start for part in window])
    if any(len(polygon) > 1 for polygon in parts):
        return [_mask_shape(name, window, mask)]
    group = row + 1 if len(parts) > 1 else None
    return [{**_shape(name, polygon[0], "polygon"), "group_id": group} for polygon in parts]


def _mask_shape(name: str, window: tuple[slice, ...], mask: NDArray[np.bool_]) -> dict[str, Any]:
    corners = np.array([[part.start for part in window], [part.stop - 1 for part in window]])
    return {**_shape(name, corners, "mask"), "mask": _png(mask.astype(np.uint8))}


def _shape(name: str, corners: NDArray[Any], kind: str) -> dict[str, Any]:
    points = corners[:, ::-1].astype(float).tolist()
    own = {"label": name, "points": points, "group_id": None, "description": "", "shape_type": kind}
    return {**own, "flags": {}, "mask": None}


def _png(pixels: NDArray[np.uint8]) -> str:
    from PIL import Image as Picture

    file = io.BytesIO()
    Picture.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
