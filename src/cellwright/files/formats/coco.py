"""COCO JSON: any number of 2D images, cells as polygons, run lengths or boxes.

Lin et al., Microsoft COCO, ECCV 2014, doi 10.1007/978-3-319-10602-1_48; format of its instances files.
Stacks are written plane by plane. ``pixel_size_um`` of an image and ``number`` of a cell, that of tables of
the cells, are ours; other programs pass over them. Where all numbers differ they are the ``id`` too.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cellwright.core.data import Image
from cellwright.files.atomic import write_text
from cellwright.files.formats.assembly import FileObject, ReadingNotes, Shape, area_of, assemble, box_of
from cellwright.files.formats.image_annotation import (
    ImageAnnotation,
    chosen,
    classes_among,
    is_other,
    place_of,
    planes_and_classes,
    shape_at,
    too_little_known,
)
from cellwright.files.json_value import JsonValue, read_json
from cellwright.ops.outlines import MaskPart, Ring, cells_of, filled, polygons

NUMBER = "number"


def read(path: Path, image: Image | None = None) -> tuple[ImageAnnotation, ...]:
    """Return the cells of each image of a COCO file, or of the one that has the name of ``image``."""
    content = read_json(path)
    names = {_key(row, "id"): row.at("name").text() for row in content.rows_at("categories")}
    names.pop(None, None)  # a class without a number can be named by no cell
    images = {_key(row, "id") or row.at("id").text(): _image(row) for row in content.at("images").rows()}
    own: dict[str | None, list[JsonValue]] = {number: [] for number in images}
    n_astray = 0
    for row in content.at("annotations").rows():
        number = _key(row, "image_id")
        if number in own:
            own[number].append(row)
        else:
            n_astray += 1
    known = classes_among(names.values())
    found = []
    for number, empty in images.items():
        if is_other(empty.name, image, len(images)):
            found.append(empty)
            continue
        notes = ReadingNotes(path, n_astray, image=image)
        notes.note("belong to no image of the file and were left out", n_astray)
        n_astray = 0
        shape = empty.shape
        if not shape and image is not None and len(image.label_shape) == 2:
            shape = image.label_shape
        objects = notes.read(own[number], partial(_object, notes, names, shape))
        if len({one.group for one in objects}) < len(objects):  # without numbers, or with one twice
            objects = [replace(one, group=None) for one in objects]
        annotation = replace(empty, shape=shape, class_names=known)
        fill = partial(_fill, shape=shape) if shape else filled
        found.append(assemble(annotation, objects, notes, image, fill))
    return chosen(path, found, image)


def _key(row: JsonValue, name: str) -> str | None:
    """Return the number or text by which an object is named, or names another; None where there is none.

    Some programs (VIA) number images and name them by the same number as text.
    """
    value = row.value.get(name) if isinstance(row.value, dict) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int | float | str) else None


def _image(row: JsonValue) -> ImageAnnotation:
    shape = shape_at(row, "height", "width")
    return ImageAnnotation(row.at("file_name").stem(), shape, pixel_size_um=row.sizes_at("pixel_size_um", 2))


def _object(
    notes: ReadingNotes, names: dict[str | None, str], shape: tuple[int, ...], row: JsonValue
) -> FileObject | None:
    category = row.find("category_id")
    name = ""
    if category is not None and names:
        name = names.get(_key(row, "category_id"), "")
        notes.note("are of a class that the file does not name", int(not name))
    is_crowd = row.value.get("iscrowd") == 1
    notes.note("may be several cells (iscrowd) and were read as one each", int(is_crowd))
    number = row.value.get(NUMBER)
    return FileObject(row, _shapes_of(row, shape), name, group=number if isinstance(number, int) else None)


def _shapes_of(row: JsonValue, shape: tuple[int, ...]) -> list[Shape]:
    """Return the shapes of a cell: its run lengths or polygons, else its box."""
    if row.value.get("segmentation") in (None, [], [[]], {}, ""):
        x, y, width, height = row.at("bbox").numbers(4)
        return [box_of(row.at("bbox"), np.array([[y, x], [y + height, x + width]]))]
    node = row.at("segmentation")
    if not isinstance(node.value, dict):
        parts = [part for part in node.rows() if part.value != []]
        if all(isinstance(part.value, int | float) for part in parts):
            parts = [node]  # one outline, without a list around it
        return [_polygon(part) for part in parts]
    if tuple(node.at("size").numbers(2)) != shape:
        raise node.at("size").refuse(f"the image size {list(shape) or 'that the file tells'}")
    return [Shape("mask", mask=_mask_of_runs(_runs_of(node.at("counts"), shape), shape))]


def _polygon(node: JsonValue) -> Shape:
    if not isinstance(node.value, list) or len(node.value) % 2:
        raise node.refuse("a list of x, y, x, y ...")
    pairs = [node.value[i : i + 2] for i in range(0, len(node.value), 2)]
    return area_of(node, JsonValue(pairs, node.path, node.where).pairs())


def _fill(rings: Sequence[Ring], *, shape: tuple[int, ...]) -> MaskPart:
    """Return the pixels of a polygon as pycocotools has them."""
    from pycocotools import mask as coco

    height, width = shape
    (encoded,) = coco.frPyObjects([rings[0][:, ::-1].ravel().tolist()], height, width)
    return _mask_of_runs(_run_lengths(encoded["counts"].decode("ascii")), (height, width))


def _runs_of(counts: JsonValue, shape: tuple[int, ...]) -> list[int]:
    """Return run lengths that add up; pycocotools would read beyond the end of others."""
    try:
        if isinstance(counts.value, str):
            runs = _run_lengths(counts.value)
        else:
            runs = [row.whole() for row in counts.rows()]
    except ValueError as error:
        raise counts.refuse("run lengths") from error
    if sum(runs) != shape[0] * shape[1] or min(runs) < 0:
        raise counts.refuse(f"run lengths of {shape[0] * shape[1]} pixels")
    return runs


def _mask_of_runs(runs: list[int], shape: tuple[int, ...]) -> MaskPart:
    """Return the pixels of run lengths, which go down the columns and begin with background."""
    height = shape[0]
    ends = np.cumsum(runs)
    is_cell = (np.arange(len(runs)) % 2 == 1) & (np.array(runs) > 0)
    if not is_cell.any():
        return MaskPart((0, 0), np.zeros((1, 1), bool))
    left = int((ends - runs)[is_cell][0]) // height
    right = (int(ends[is_cell][-1]) - 1) // height + 1
    inside = np.diff(np.clip(ends - left * height, 0, (right - left) * height), prepend=0)
    columns = np.repeat(is_cell, inside).reshape(-1, height)
    rows = np.flatnonzero(columns.any(axis=0))
    return MaskPart((int(rows[0]), left), columns[:, rows[0] : rows[-1] + 1].T)


def _run_lengths(text: str) -> list[int]:
    """Return what COCO's text of run lengths says: 5 bits a sign, from the third on differences."""
    runs: list[int] = []
    value = shift = 0
    for sign in text.encode("ascii"):
        bits = sign - 48
        if not 0 <= bits < 64 or shift > 40:
            raise ValueError(f"no run length: {chr(sign)!r}")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            if len(runs) > 2:
                value += runs[-2]
            runs.append(value)
            value = shift = 0
    if shift:
        raise ValueError("the last run length is cut short")
    return runs


def _write(path: Path, annotation: Sequence[ImageAnnotation], *, has_polygons: bool) -> None:
    """Write cells as compressed run lengths or as polygons, those with holes, which these lack, as runs."""
    planes, names = planes_and_classes(annotation)
    content: dict[str, Any] = {"info": {"description": "Cells, written by napari-cellwright"}}
    content["images"] = [_image_row(number, plane) for number, plane in enumerate(planes, start=1)]
    content["annotations"] = []
    content["categories"] = [
        {"id": number, "name": name, "supercategory": "cell"} for number, name in enumerate(names, start=1)
    ]
    numbers = [plane.number_of(row) for plane in planes for row in range(len(plane))]
    is_unique = len({*numbers}) == len(numbers)
    for image, plane in enumerate(planes, start=1):
        if plane.kind == "points" and len(plane):
            raise too_little_known("COCO holds outlines and boxes", plane)
        for row, values in enumerate(_shapes(plane, has_polygons=has_polygons)):
            place, number = len(content["annotations"]) + 1, plane.number_of(row)
            own = {"id": number if is_unique else place, NUMBER: number, "image_id": image}
            category = place_of(plane, row, names) + 1
            content["annotations"].append({**own, "category_id": category, "iscrowd": 0, **values})
    write_text(path, json.dumps(content))


write_polygons = partial(_write, has_polygons=True)
write_rle = partial(_write, has_polygons=False)


def _image_row(number: int, annotation: ImageAnnotation) -> dict[str, Any]:
    height, width = annotation.shape
    row = {"id": number, "file_name": f"{annotation.name}.tif", "height": height, "width": width}
    if annotation.pixel_size_um:
        row["pixel_size_um"] = list(annotation.pixel_size_um)
    return row


def _shapes(annotation: ImageAnnotation, *, has_polygons: bool) -> list[dict[str, Any]]:
    found = []
    if annotation.labels is None:
        for (y0, x0), (y1, x1) in annotation.corners.tolist():
            width, height = x1 - x0, y1 - y0
            found.append({"bbox": [x0, y0, width, height], "area": width * height, "segmentation": []})
        return found
    for _, _, part in cells_of(annotation.labels):
        (top, left), (height, width) = part.corner, part.mask.shape
        outlines = polygons(part.mask, part.corner) if has_polygons else []
        segmentation: Any = [outline[0][:, ::-1].ravel().astype(int).tolist() for outline in outlines]
        if not has_polygons or any(len(outline) > 1 for outline in outlines):
            segmentation = _runs(part, annotation.shape)
        own = {"bbox": [left, top, width, height], "area": int(part.mask.sum())}
        found.append({**own, "segmentation": segmentation})
    return found


def _runs(part: MaskPart, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the compressed run lengths of the pixels of a cell."""
    from pycocotools import mask as coco

    columns, rows = np.nonzero(part.mask.T)
    places = (columns + part.corner[1]) * shape[0] + rows + part.corner[0]
    is_first = np.diff(places, prepend=-2) > 1
    ends = places[np.append(is_first[1:], True)] + 1
    bounds = np.stack([places[is_first], ends], axis=1).ravel()
    runs = np.diff(np.concatenate([[0], bounds, [shape[0] * shape[1]]])).tolist()
    encoded = coco.frPyObjects({"size": list(shape), "counts": runs}, *shape)
    return {"size": list(shape), "counts": encoded["counts"].decode("ascii")}
