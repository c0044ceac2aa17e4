"""GeoJSON as QuPath writes and reads it: one feature for each cell and plane.

RFC 7946 for the geometry; ``objectType``, ``classification``, ``metadata`` and ``plane`` as QuPath has them
(Bankhead et al. 2017, doi 10.1038/s41598-017-17204-5). What is ours: the number of a cell in ``metadata``
joins its planes, and the collection has image name, size, axes and pixel size as further members.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import AXES, SPATIAL, Image
from cellwright.files.atomic import write_text
from cellwright.files.formats.assembly import (
    FileObject,
    ReadingNotes,
    Shape,
    area_of,
    finished,
    points_of,
    without_copies,
)
from cellwright.files.formats.image_annotation import ImageAnnotation, checked_shape, only_one
from cellwright.files.json_value import JsonValue, read_json
from cellwright.ops.geometry.boxes import box_around
from cellwright.ops.outlines import Ring, area, cells_of, polygons

NUMBER = "cell"  # key in the metadata of a feature
DETECTIONS = ("detection", "cell")  # object types of QuPath that are cells, where others are regions
TYPE_KEYS = ("objectType", "object_type", "type")
TYPES_BY_ID = {"PathDetectionObject": "detection", "PathCellObject": "cell"}
CLASS_KEYS = ("class", "label")  # where programs other than QuPath name a class
TYPES = ("FeatureCollection", "Feature", "GeometryCollection")
GEOMETRIES = ("Point", "MultiPoint", "Polygon", "MultiPolygon")
FEWEST_INSIDE = 2  # objects in a region
TIMES_LARGER = 10  # than annotations in it: two nuclei may be annotated in one cell


def is_geojson(path: Path) -> bool:
    """Return whether a JSON file holds features or geometries."""
    value: Any = read_json(path).value
    if isinstance(value, list):
        value = value[0] if value else None
    return isinstance(value, dict) and value.get("type") in TYPES


def read(path: Path, image: Image | None = None) -> tuple[ImageAnnotation, ...]:
    """Return the cells of a file: labels from polygons, points from points alone.

    A file of QuPath does not tell the size of its image; without ``image`` it is taken to be as small as may
    be. Lines are left out, and so are annotations around several detections, points or much smaller ones.
    """
    content = read_json(path)
    annotation = _described(content, path, image)
    notes = ReadingNotes(path, image=image)
    objects = without_copies(notes.read(features(content), partial(_object, notes, annotation.axes)))
    return finished(annotation, _without_regions(objects, notes), notes, image)


def _without_regions(objects: list[FileObject], notes: ReadingNotes) -> list[FileObject]:
    """Return objects without annotations that are drawn around others: those are regions, no cells."""
    from scipy.spatial import KDTree  # slow to import

    sizes = np.array([_size(one) for one in objects], float)
    places = [_middle(one) if size else _corners(one) for one, size in zip(objects, sizes, strict=True)]
    owners = np.repeat(np.arange(len(objects)), [len(one) for one in places])
    every = np.concatenate([np.zeros((0, 2)), *places])
    is_detected = np.array([_object_type(one.node) in DETECTIONS for one in objects], bool)
    known: dict[tuple[float, ...], int] = {}
    planes = np.array([known.setdefault(one.lead, len(known)) for one in objects], np.intp)
    tree = KDTree(every)
    least = 0.0 if is_detected.any() else TIMES_LARGER * sizes.min(initial=np.inf)

    def is_region(number: int, one: FileObject) -> bool:
        if is_detected[number] or one.group is not None or not sizes[number]:  # a group is a cell of ours
            return False
        if sizes[number] < least:  # as nearly all are
            return False
        low, high = box_around(_corners(one))
        near = np.array(tree.query_ball_point((low + high) / 2, (high - low).max() / 2, p=np.inf), np.intp)
        others = owners[near]
        is_smaller = (TIMES_LARGER * sizes[others] <= sizes[number]) & (planes[others] == planes[number])
        near = near[is_detected[others] | is_smaller]
        return len(near) >= FEWEST_INSIDE and _n_inside(one, every[near]) >= FEWEST_INSIDE

    kept = [one for number, one in enumerate(objects) if not is_region(number, one)]
    notes.note("are regions around others and were left out", len(objects) - len(kept))
    return kept


def _corners(one: FileObject) -> NDArray[np.float64]:
    return np.concatenate([ring for shape in one.shapes for ring in shape.rings])


def _middle(one: FileObject) -> NDArray[np.float64]:
    """Return the middle (1, 2) of the box around an outline."""
    return box_around(_corners(one)).mean(axis=0, keepdims=True)


def _size(one: FileObject) -> float:
    """Return the area inside the outer rings of an object, 0 of points."""
    return sum(abs(area(shape.rings[0])) for shape in one.shapes if shape.kind == "area")


def _n_inside(one: FileObject, places: NDArray[np.float64]) -> int:
    """Return how many places lie inside the outlines of an object."""
    from skimage.measure import points_in_poly  # slow to import

    rings = [ring for shape in one.shapes if shape.kind == "area" for ring in shape.rings]
    return int(np.logical_xor.reduce([points_in_poly(places, ring) for ring in rings]).sum())


def features(content: JsonValue) -> list[JsonValue]:
    """Return the features of a file, each with its ``geometry``."""
    if isinstance(content.value, list):
        return content.rows()
    kind = content.at("type").text()
    if kind == "FeatureCollection":
        return content.at("features").rows()
    if kind == "Feature":
        return [content]
    if kind == "GeometryCollection":
        return [replace(row, value={"geometry": row.value}) for row in content.at("geometries").rows()]
    if kind in GEOMETRIES:
        return [replace(content, value={"geometry": content.value})]
    raise content.at("type").refuse("'FeatureCollection' or 'Feature'")


def _described(content: JsonValue, path: Path, image: Image | None) -> ImageAnnotation:
    """Return an annotation with what a collection of ours tells of its image."""
    own = content.find("image") if not isinstance(content.value, list) else None
    if own is None:
        return ImageAnnotation(path.stem, (), "YX" if image is None else image.label_axes)
    axes = own.at("axes").text()
    if not axes.endswith("YX") or not set(axes) <= set(AXES) - {"C"} or len(set(axes)) != len(axes):
        raise own.at("axes").refuse("axes that end with YX")
    shape = checked_shape(path, "image.shape", [row.whole(1) for row in own.at("shape").rows()])
    if len(shape) != len(axes):
        raise own.at("shape").refuse(f"the lengths of {axes}")
    return ImageAnnotation(
        own.at("name").text(),
        shape,
        axes,
        pixel_size_um=own.sizes_at("pixel_size_um", sum(axis in SPATIAL for axis in axes)),
        class_names=own.texts_at("class_names"),
    )


def _object_type(row: JsonValue) -> str:
    """Return what QuPath takes a feature for: as id up to 0.2, as ``object_type`` up to 0.3."""
    properties = row.value.get("properties") or {}
    kind = next((properties[key] for key in TYPE_KEYS if key in properties), "")
    return TYPES_BY_ID.get(str(row.value.get("id", "")), str(kind))


def _object(notes: ReadingNotes, axes: str, row: JsonValue) -> FileObject | None:
    geometry = row.at("geometry")
    shapes = shapes_of(geometry)
    if not shapes:
        notes.note(f"are of the type {geometry.at('type').text()} and were left out")
        return None
    notes.note("have a nucleus of their own, which was left out", int(bool(row.value.get("nucleusGeometry"))))
    name, number = "", 0
    properties = row.find("properties")
    if properties is not None:
        name = _class(properties)
        number = _number(properties.find("metadata"))
    return FileObject(row, shapes, name, _lead(geometry.find("plane"), axes), number or None)


def _class(properties: JsonValue) -> str:
    """Return the class of a feature: ``name`` up to QuPath 0.4, ``names`` of a derived one since."""
    found = properties.find("classification")
    if found is None:
        others = [properties.value.get(key) for key in CLASS_KEYS]
        return next((name for name in others if isinstance(name, str) and name), "")
    if not isinstance(found.value, dict):
        return found.word()
    name = found.find("name")
    return ": ".join(found.texts_at("names")) or ("" if name is None else name.word())


def _number(metadata: JsonValue | None) -> int:
    """Return the number by which the planes of a cell of ours are joined, 0 where there is none."""
    if metadata is None or not isinstance(metadata.value, dict):
        return 0
    text = str(metadata.value.get(NUMBER, ""))
    if text.isascii() and text.isdigit():
        return int(text)
    return 0


def _lead(plane: JsonValue | None, axes: str) -> tuple[int, ...]:
    """Return frame and slice of a feature, as far as the image has such axes."""
    found = [plane and plane.find(axis) for axis in axes[:-2].lower()]
    return tuple(max(0, place.whole(-1, 2**31 - 2)) if place else 0 for place in found)


def shapes_of(geometry: JsonValue) -> list[Shape]:
    """Return the shapes of a geometry, areas and points; none for lines."""
    kind = geometry.at("type").text()
    if kind == "GeometryCollection":
        return [shape for row in geometry.at("geometries").rows() for shape in shapes_of(row)]
    node = geometry.at("coordinates")
    if kind in ("LineString", "MultiLineString"):
        return []
    if kind == "Point":
        return [points_of(node, JsonValue([node.value], node.path, node.where).pairs())]
    if kind == "MultiPoint":
        return [points_of(node, node.pairs())]
    if kind == "Polygon":
        return [_area(node)]
    if kind == "MultiPolygon":
        return [_area(row) for row in node.rows()]
    raise geometry.at("type").refuse("a polygon or a point")


def _area(node: JsonValue) -> Shape:
    rings = [row.pairs() for row in node.rows()]
    if not rings:
        raise node.refuse("a polygon")
    return area_of(node, *rings)


def write(path: Path, annotation: Sequence[ImageAnnotation]) -> None:
    """Write the cells of one image; boxes are written as polygons."""
    one = only_one(annotation, "GeoJSON")
    image: dict[str, Any] = {"name": one.name, "shape": list(one.shape), "axes": one.axes}
    if one.pixel_size_um:
        image["pixel_size_um"] = list(one.pixel_size_um)
    if one.class_names:
        image["class_names"] = list(one.class_names)
    content = {"type": "FeatureCollection", "image": image, "features": _written(one)}
    write_text(path, json.dumps(content))


def _written(annotation: ImageAnnotation) -> list[dict[str, Any]]:
    features = []
    if annotation.labels is None:
        for row, corners in enumerate(annotation.corners.astype(float)):
            index = tuple(np.rint(corners[0, :-2]).astype(int).tolist())
            features.append(_feature(annotation, row, _simple(corners[:, -2:]), index))
        return features
    for index, row, (corner, mask) in cells_of(annotation.labels):
        features.append(_feature(annotation, row, _geometry(polygons(mask, corner)), index))
    return features


def _simple(corners: NDArray[np.float64]) -> dict[str, Any]:
    """Return the geometry of a point (1, 2) or a box (2, 2)."""
    if len(corners) == 1:
        return {"type": "Point", "coordinates": (corners[0, ::-1] + 0.5).tolist()}
    (y0, x0), (y1, x1) = corners.tolist()
    return {"type": "Polygon", "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]}


def _geometry(found: Sequence[Sequence[Ring]]) -> dict[str, Any]:
    shapes = [[_closed(ring, is_hole=place > 0) for place, ring in enumerate(polygon)] for polygon in found]
    if len(shapes) == 1:
        return {"type": "Polygon", "coordinates": shapes[0]}
    return {"type": "MultiPolygon", "coordinates": shapes}


def _closed(ring: Ring, *, is_hole: bool) -> list[list[int]]:
    """Return a closed ring of (x, y), outer ones counterclockwise and holes clockwise (RFC 7946, 3.1.6)."""
    if (area(ring) > 0) != is_hole:
        ring = ring[::-1]
    pairs: list[list[int]] = ring[:, ::-1].astype(int).tolist()
    return [*pairs, pairs[0]]


def _feature(
    annotation: ImageAnnotation, row: int, geometry: dict[str, Any], index: tuple[int, ...]
) -> dict[str, Any]:
    place = dict(zip(annotation.axes, index, strict=False))
    plane = {"c": -1, "z": int(place.get("Z", 0)), "t": int(place.get("T", 0))}
    name = annotation.class_of(row)
    own: dict[str, Any] = {"objectType": "annotation", "metadata": {NUMBER: str(annotation.number_of(row))}}
    if name != annotation.no_class:
        own["classification"] = {"name": name}
    return {"type": "Feature", "geometry": {**geometry, "plane": plane}, "properties": own}
