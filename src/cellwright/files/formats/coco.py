"""COCO JSON: any number of 2D images, cells as polygons, run lengths or boxes.

Lin et al., Microsoft COCO, ECCV 2014, doi 10.1007/978-3-319-10602-1_48; format of its instances files.
Stacks are written plane by plane. ``pixel_size_um`` of an image is ours; other programs pass over it.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.data import Image
from cellwright.core.errors import WriteError
from cellwright.files.atomic import write_text
from cellwright.files.formats.image_annotation import (
    MARGIN_PX,
    NO_CLASS,
    ImageAnnotation,
    box_part,
    checked_shape,
    chosen,
    ring_of,
    spread,
    with_classes,
)
from cellwright.files.formats.json_value import JsonValue, read_json
from cellwright.files.formats.outlines import MaskPart, polygons


def is_coco(path: Path) -> bool:
    """Return whether a JSON file is one of COCO."""
    value = read_json(path).value
    return isinstance(value, dict) and "annotations" in value


def read(path: Path, image: Image | None = None) -> tuple[ImageAnnotation, ...]:
    """Return the cells of each image of a COCO file, or of the one that has the name of ``image``.

    Raises
    ------
    ReadError
        The file is damaged, or does not fit the image.
    """
    content = read_json(path)
    names = {row.at("id").value: row.at("name").text() for row in content.at("categories").rows()}
    images = {row.at("id").whole(-(2**62), 2**62): _image(row) for row in content.at("images").rows()}
    own: dict[int, list[JsonValue]] = {number: [] for number in images}
    for row in content.at("annotations").rows():
        number = row.at("image_id").whole(-(2**62), 2**62)
        if number not in own:
            raise row.at("image_id").refuse("the id of one of the images")
        if row.at("category_id").value not in names:
            raise row.at("category_id").refuse("the id of one of the categories")
        own[number].append(row)
    known = tuple(name for name in names.values() if name != NO_CLASS)
    return chosen(
        path, [_cells(annotation, own[number], names, known) for number, annotation in images.items()], image
    )


def _image(row: JsonValue) -> ImageAnnotation:
    where = f"{row.where}.height and width"
    shape = checked_shape(row.path, where, (row.at("height").whole(1), row.at("width").whole(1)))
    sizes = row.find("pixel_size_um")
    return ImageAnnotation(
        row.at("file_name").stem(), shape, pixel_size_um=() if sizes is None else sizes.sizes(2)
    )


def _cells(
    annotation: ImageAnnotation, rows: list[JsonValue], names: dict[Any, str], known: tuple[str, ...]
) -> ImageAnnotation:
    annotation = replace(annotation, class_names=known)
    classes = [names[row.value["category_id"]] for row in rows]
    shape = (annotation.shape[0], annotation.shape[1])
    if rows and not any(row.value.get("segmentation") for row in rows):
        boxes = np.array([_box(row.at("bbox"), shape) for row in rows], np.float32)
        return with_classes(annotation, classes, boxes=boxes)
    return spread(annotation, [_parts(row, shape) for row in rows], classes)


def _box(node: JsonValue, shape: tuple[int, ...]) -> NDArray[np.float64]:
    x, y, width, height = node.numbers(4)
    if not (width > 0 and height > 0):
        raise node.refuse("x, y, width and height above 0")
    return node.places(np.array([[y, x], [y + height, x + width]]), shape, MARGIN_PX)


def _parts(row: JsonValue, shape: tuple[int, int]) -> list[MaskPart]:
    """Return the pixels of a cell: its run lengths or polygons, else its box."""
    if not row.value.get("segmentation"):
        return [box_part(_box(row.at("bbox"), shape))]
    node = row.at("segmentation")
    if not isinstance(node.value, dict):
        return [_polygon_part(part, shape) for part in node.rows()]
    if tuple(node.at("size").numbers(2)) != shape:
        raise node.at("size").refuse(f"the image size {list(shape)}")
    return [_part_of(_runs_of(node.at("counts"), shape), shape)]


def _polygon_part(node: JsonValue, shape: tuple[int, int]) -> MaskPart:
    """Return the pixels of a polygon x, y, x, y ... as pycocotools has them."""
    from pycocotools import mask as coco

    if not isinstance(node.value, list) or len(node.value) % 2:
        raise node.refuse("a list of x, y, x, y ...")
    pairs = [node.value[i : i + 2] for i in range(0, len(node.value), 2)]
    ring = ring_of(JsonValue(pairs, node.path, node.where), shape)
    (encoded,) = coco.frPyObjects([ring[:, ::-1].ravel().tolist()], *shape)
    return _part_of(_run_lengths(encoded["counts"].decode("ascii")), shape)


def _runs_of(counts: JsonValue, shape: tuple[int, int]) -> list[int]:
    """Return run lengths that add up; pycocotools would read beyond the end of others."""
    try:
        is_text = isinstance(counts.value, str)
        runs = _run_lengths(counts.value) if is_text else [row.whole() for row in counts.rows()]
    except ValueError as error:
        raise counts.refuse("run lengths") from error
    if sum(runs) != shape[0] * shape[1] or min(runs) < 0:
        raise counts.refuse(f"run lengths of {shape[0] * shape[1]} pixels")
    return runs


def _part_of(runs: list[int], shape: tuple[int, int]) -> MaskPart:
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
            value -= (1 << shift) if bits & 16 else 0
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    if shift:
        raise ValueError("the last run length is cut short")
    return runs


def write_polygons(path: Path, annotation: Sequence[ImageAnnotation]) -> None:
    """Write cells as polygons; those with holes, which COCO's polygons cannot have, as run lengths.

    Raises
    ------
    WriteError
        The file cannot be written, or only points are known.
    """
    _write(path, annotation, has_polygons=True)


def write_rle(path: Path, annotation: Sequence[ImageAnnotation]) -> None:
    """Write cells as compressed run lengths; else like :func:`write_polygons`."""
    _write(path, annotation, has_polygons=False)


def _write(path: Path, annotation: Sequence[ImageAnnotation], *, has_polygons: bool) -> None:
    planes = [plane for one in annotation for plane in one.planes()]
    names = list(dict.fromkeys(name for plane in planes for name in plane.class_names))
    if not names or any(NO_CLASS in _classes(plane) for plane in planes):
        names.append(NO_CLASS)
    content: dict[str, Any] = {"info": {"description": "Cells, written by napari-cellwright"}}
    content["images"] = [_image_row(number, plane) for number, plane in enumerate(planes, start=1)]
    content["annotations"] = []
    content["categories"] = [
        {"id": number, "name": name, "supercategory": "cell"} for number, name in enumerate(names, start=1)
    ]
    for number, plane in enumerate(planes, start=1):
        if plane.kind == "points" and len(plane):
            raise WriteError(
                f"COCO holds outlines and boxes; of {plane.name!r} only points are known. Choose CSV."
            )
        for row, values in enumerate(_shapes(plane, has_polygons=has_polygons)):
            category = names.index(plane.class_of(row)) + 1
            own = {"id": len(content["annotations"]) + 1, "image_id": number, "category_id": category}
            content["annotations"].append({**own, "iscrowd": 0, **values})
    write_text(path, json.dumps(content))


def _classes(annotation: ImageAnnotation) -> set[str]:
    return {annotation.class_of(row) for row in range(len(annotation))}


def _image_row(number: int, annotation: ImageAnnotation) -> dict[str, Any]:
    row = {
        "id": number,
        "file_name": f"{annotation.name}.tif",
        "height": annotation.shape[0],
        "width": annotation.shape[1],
    }
    return row | ({"pixel_size_um": list(annotation.pixel_size_um)} if annotation.pixel_size_um else {})


def _shapes(annotation: ImageAnnotation, *, has_polygons: bool) -> list[dict[str, Any]]:
    found = []
    if annotation.labels is None:
        for (y0, x0), (y1, x1) in (
            np.zeros((0, 2, 2)) if annotation.boxes is None else annotation.boxes.astype(float)
        ):
            box = [float(n) for n in (x0, y0, x1 - x0, y1 - y0)]
            found.append({"bbox": box, "area": box[2] * box[3], "segmentation": []})
        return found
    for number, window in enumerate(ndimage.find_objects(annotation.labels), start=1):
        mask = annotation.labels[window] == number
        top, left = (part.start for part in window)
        values: dict[str, Any] = {
            "bbox": [left, top, mask.shape[1], mask.shape[0]],
            "area": int(mask.sum()),
            "segmentation": _polygons(mask, (top, left)) if has_polygons else None,
        }
        values["segmentation"] = values["segmentation"] or _runs(mask, (top, left), annotation.shape)
        found.append(values)
    return found


def _polygons(mask: NDArray[np.bool_], corner: tuple[int, int]) -> list[list[int]] | None:
    found = polygons(mask, corner)
    if any(len(polygon) > 1 for polygon in found):
        return None
    return [polygon[0][:, ::-1].ravel().astype(int).tolist() for polygon in found]


def _runs(mask: NDArray[np.bool_], corner: tuple[int, int], shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the compressed run lengths of a mask whose first pixel is at a corner."""
    from pycocotools import mask as coco

    columns, rows = np.nonzero(mask.T)
    places = (columns + corner[1]) * shape[0] + rows + corner[0]
    is_first = np.diff(places, prepend=-2) > 1
    ends = places[np.append(is_first[1:], True)] + 1
    bounds = np.stack([places[is_first], ends], axis=1).ravel()
    runs = np.diff(np.concatenate([[0], bounds, [shape[0] * shape[1]]])).tolist()
    encoded = coco.frPyObjects({"size": list(shape), "counts": runs}, *shape)
    return {"size": list(shape), "counts": encoded["counts"].decode("ascii")}
