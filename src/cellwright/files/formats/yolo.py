"""YOLO: a folder of text files, one row for each cell, relative to the size of the image.

::

    <folder>/data.yaml                  path, train, names; pixel_size_um is ours
    <folder>/images/train/<name>.png
    <folder>/labels/train/<name>.txt    class x y width height, or class x1 y1 x2 y2 ...

As Ultralytics documents it (docs.ultralytics.com/datasets). Rows do not tell the size of the image, which is
taken from the image beside them. Cells with holes or of several parts are one outline with bridges.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Image
from cellwright.core.errors import ReadError, expecting
from cellwright.files.atomic import atomic_folder, plain_name
from cellwright.files.formats.assembly import FileObject, ReadingNotes, Shape, area_of, assemble, box_of
from cellwright.files.formats.image_annotation import (
    ImageAnnotation,
    as_bytes,
    chosen,
    classes_among,
    needing_masks,
    place_of,
    planes_and_classes,
    too_little_known,
)
from cellwright.files.images import read_image
from cellwright.files.json_value import JsonValue, read_lines, read_text
from cellwright.ops.geometry.boxes import box_around
from cellwright.ops.outlines import as_one_ring, cells_of, polygons

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
CONFIG = "data.yaml"
DECIMALS = 9
MOST_CLASSES = 10_000


def is_yolo(path: Path) -> bool:
    """Return whether a path is a folder of YOLO, its data.yaml, or a text file in its ``labels``."""
    if path.is_dir() or path.name == CONFIG:
        return ((path if path.is_dir() else path.parent) / "labels").is_dir()
    return path.suffix == ".txt" and "labels" in path.parts


def read(path: Path, image: Image | None = None) -> tuple[ImageAnnotation, ...]:
    """Return the cells of a folder (or its data.yaml), or of one text file.

    Labels where all rows are outlines, else boxes.
    """
    if path.name == CONFIG:
        path = path.parent
    if path.is_dir():
        folder, files = path, sorted((path / "labels").rglob("[!.]*.txt"))
    else:
        folder, files = next((up.parent for up in path.parents if up.name == "labels"), path.parent), [path]
    config = _config(folder / CONFIG)
    files = [file for file in files if file.name != "classes.txt"]
    if image is not None and len(files) > 1:
        files = [file for file in files if file.stem == image.name]
    if not files:
        name = "text files" if image is None else f"the rows of image {image.name!r}"
        raise ReadError(f"Expected {name} in {path / 'labels'}; there is none. Choose another folder.")
    found = [_read_file(file, folder, config, image) for file in files]
    return chosen(path, found, image)


def _config(path: Path) -> JsonValue:
    import yaml

    if not path.exists():
        return JsonValue({}, path)
    what = f"a whole YAML file at {path}"
    with expecting(ReadError, what, "Copy it again.", yaml.YAMLError, RecursionError):
        content = yaml.safe_load(read_text(path))
    return JsonValue(content, path)  # where its images lie elsewhere is not followed


def _read_file(file: Path, folder: Path, config: JsonValue, image: Image | None) -> ImageAnnotation:
    names, sizes = _names(config), config.find("pixel_size_um")
    pixel_size: tuple[float, ...] = ()
    if sizes is not None:
        pixel_size = sizes.sizes_at(file.stem, 2)
    shape = _shape(file, folder) if image is None else image.label_shape
    if len(shape) != 2:
        raise ReadError(f"Expected a 2D image of {file}; got {shape} pixels. Choose another image.")
    known = classes_among(names.values())
    annotation = ImageAnnotation(file.stem, shape, pixel_size_um=pixel_size, class_names=known)
    notes = ReadingNotes(file, image=image)
    objects = notes.read(read_lines(file), partial(_object, notes, names, (shape[0], shape[1])))
    if any(one.shapes[0].kind == "box" for one in objects):
        objects = [replace(one, shapes=[_box_around(one.shapes[0])]) for one in objects]
    return assemble(annotation, objects, notes, image)


def _names(config: JsonValue) -> dict[int, str]:
    """Return what classes are called by number; a list or an object of names."""
    names = config.find("names")
    if names is None:
        return {}
    if isinstance(names.value, list):
        return {number: row.text() for number, row in enumerate(names.rows())}
    if not isinstance(names.value, dict) or not all(isinstance(key, int) for key in names.value):
        raise names.refuse("a list of names, or names by number")
    return {key: names.at(key).text() for key in names.value}


def _object(
    notes: ReadingNotes, names: dict[int, str], shape: tuple[int, int], line: JsonValue
) -> FileObject:
    values = line.split().tolist()
    row = JsonValue(values, line.path, line.where)
    number = JsonValue(values[0], line.path, f"{line.where}, class").whole(0, MOST_CLASSES)
    if names and number not in names:
        notes.note("are of a class that data.yaml does not name")
        name = ""
    else:
        name = names.get(number, f"class {number}")
    return FileObject(row, [_shape_of(row, np.array(shape, float))], name)


def _shape_of(row: JsonValue, size: NDArray[np.float64]) -> Shape:
    """Return the box of a row of 5 numbers, the outline of one of 7 and more; one more is a confidence."""
    values = np.array(row.value[1:])
    if len(values) > 4 and len(values) % 2:
        values = values[:-1]
    if len(values) == 4:
        middle, extent = values[1::-1] * size, values[:1:-1] * size
        if not (extent > 0).all():
            raise row.refuse("a box with a width and a height above 0")
        return box_of(row, np.stack([middle - extent / 2, middle + extent / 2]))
    if len(values) < 6:
        raise row.refuse("a class and 4 numbers of a box, or x and y of 3 corners or more")
    ring = values.reshape(-1, 2)[:, ::-1] * size
    whole = np.rint(ring)
    is_near = np.abs(ring - whole) < 1e-4  # so that outlines along pixels stay there
    return area_of(row, np.where(is_near, whole, ring))


def _box_around(shape: Shape) -> Shape:
    return Shape("box", [box_around(np.concatenate(shape.rings))])


def _shape(file: Path, folder: Path) -> tuple[int, ...]:
    """Return the size of the image of a text file, which lies in images/ as the file lies in labels/."""
    inner = Path(file.name)
    if file.is_relative_to(folder / "labels"):
        inner = file.relative_to(folder / "labels")
    candidates = [(folder / "images" / inner).with_name(file.stem + suffix) for suffix in SUFFIXES]
    image_path = next((candidate for candidate in candidates if candidate.exists()), None)
    if image_path is None:
        raise ReadError(
            f"Expected the image of {file} in {folder / 'images'}, as rows are relative to its size; there "
            "is none. Put it there, or open the image first."
        )
    return read_image(image_path).label_shape


def _write(path: Path, annotation: Sequence[ImageAnnotation], *, has_outlines: bool) -> None:
    """Write boxes or outlines of cells into a new folder, with the images as far as they are known."""
    annotation = [replace(one, name=plain_name(one.name)) for one in annotation]
    planes, names = planes_and_classes(annotation)
    with atomic_folder(path) as folder:
        for kind in ("images", "labels"):
            (folder / kind / "train").mkdir(parents=True)
        for plane in planes:
            rows = _outline_rows(plane) if has_outlines else _box_rows(plane)
            lines = [f"{place_of(plane, row, names)} {text}" for row, text in enumerate(rows)]
            file = folder / "labels" / "train" / f"{plane.name}.txt"
            file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        for one in annotation:
            _write_pictures(folder / "images" / "train", one)
        _write_config(folder / CONFIG, planes, names)


write_boxes = partial(_write, has_outlines=False)
write_segments = partial(_write, has_outlines=True)


def _write_config(part: Path, planes: Sequence[ImageAnnotation], names: Sequence[str]) -> None:
    import yaml

    sizes = {plane.name: [float(n) for n in plane.pixel_size_um] for plane in planes if plane.pixel_size_um}
    content: dict[str, Any] = {"path": ".", "train": "images/train", "val": "images/train"}
    content["names"] = dict(enumerate(names))
    if sizes:
        content["pixel_size_um"] = sizes
    part.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _write_pictures(part: Path, annotation: ImageAnnotation) -> None:
    from PIL import Image as Picture

    if annotation.image is None:
        return
    for plane, pixels in zip(annotation.planes(), as_bytes(annotation.image), strict=True):
        Picture.fromarray(pixels).save(part / f"{plane.name}.png")


def _outline_rows(annotation: ImageAnnotation) -> list[str]:
    labels = needing_masks(annotation, "YOLO segments")
    rows = []
    for _, _, (corner, mask) in cells_of(labels):
        ring = as_one_ring([ring for polygon in polygons(mask, corner) for ring in polygon])
        rows.append(_text(ring[:, ::-1] / np.array(annotation.shape[::-1])))
    return rows


def _box_rows(annotation: ImageAnnotation) -> list[str]:
    boxes = annotation.with_boxes().boxes
    if boxes is None:
        if len(annotation):
            raise too_little_known("YOLO holds boxes and outlines", annotation)
        return []
    middle, size = boxes.astype(float).mean(axis=1), np.diff(boxes.astype(float), axis=1)[:, 0]
    return [
        _text(np.stack([m, s])[:, ::-1] / np.array(annotation.shape[::-1]))
        for m, s in zip(middle, size, strict=True)
    ]


def _text(values: NDArray[np.float64]) -> str:
    return " ".join(f"{value:.{DECIMALS}f}" for value in values.ravel().tolist())
