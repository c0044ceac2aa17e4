"""GeoJSON as QuPath writes and reads it: one feature for each cell and plane.

RFC 7946 for the geometry; ``objectType``, ``classification``, ``metadata`` and ``plane`` as QuPath has them
(Bankhead et al. 2017, doi 10.1038/s41598-017-17204-5). What is ours: the number of a cell in ``metadata``
joins its planes, and the collection has image name, size, axes and pixel size as further members.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.data import AXES, SPATIAL, Image
from cellwright.files.atomic import write_text
from cellwright.files.formats.image_annotation import (
    MARGIN_PX,
    NO_CLASS,
    ImageAnnotation,
    canvas,
    checked_ring,
    checked_shape,
    chosen,
    only_one,
    spread,
    with_classes,
)
from cellwright.files.formats.json_value import JsonValue, read_json
from cellwright.files.formats.outlines import MaskPart, Ring, area, filled, polygons

NUMBER = "cell"  # key in the metadata of a feature
FARTHEST = (1 << 31, 1 << 31)  # where the size of the image is not known


def read(path: Path, image: Image | None = None) -> tuple[ImageAnnotation, ...]:
    """Return the cells of a file: labels from polygons, points from points alone.

    A file of QuPath does not tell the size of its image; without ``image`` it is taken to be as small as may
    be.

    Raises
    ------
    ReadError
        The file is damaged, holds lines, or leaves the image.
    """
    content = read_json(path)
    rows = content.rows() if isinstance(content.value, list) else _features(content)
    annotation = _described(content, path, image)
    if annotation.shape:
        chosen(path, [annotation], image)
    axes = annotation.axes if image is None else image.label_axes
    names = [_class(row) for row in rows]
    known = annotation.shape or (None if image is None else canvas(path, image, np.zeros((0, 2))))
    leads = [_lead(row.at("geometry"), axes, known) for row in rows]
    limit = FARTHEST if known is None else (known[-2], known[-1])
    annotation = replace(annotation, axes=axes)
    if rows and all(row.at("geometry").at("type").text() in ("Point", "MultiPoint") for row in rows):
        return chosen(path, [_points(annotation, rows, (leads, names, limit), image)], image)
    shapes = [_polygons(row.at("geometry"), limit) for row in rows]
    ends = [
        [*(n + 1 for n in lead), *np.max([r.max(axis=0) for p in own for r in p], axis=0)]
        for lead, own in zip(leads, shapes, strict=True)
    ]
    shape = known or canvas(path, image, np.array(ends, float).reshape(-1, len(axes)))
    cells: dict[Any, list[MaskPart]] = {}
    owners: dict[Any, int] = {}
    for index, (row, lead, own) in enumerate(zip(rows, leads, shapes, strict=True)):
        key = _number(row) or ("other", index)
        owners.setdefault(key, index)
        cells.setdefault(key, []).extend(filled(polygon).at(lead) for polygon in own)
    found = spread(
        replace(annotation, shape=shape), list(cells.values()), [names[i] for i in owners.values()]
    )
    return chosen(path, [found], image)


def _features(content: JsonValue) -> list[JsonValue]:
    kind = content.at("type").text()
    if kind == "FeatureCollection":
        return content.at("features").rows()
    if kind == "Feature":
        return [content]
    raise content.at("type").refuse("'FeatureCollection' or 'Feature'")


def _described(content: JsonValue, path: Path, image: Image | None) -> ImageAnnotation:
    """Return annotation with what a collection of ours tells of its image."""
    own = None if isinstance(content.value, list) else content.find("image")
    if own is None:
        return ImageAnnotation(path.stem, (), "YX" if image is None else image.label_axes)
    axes = own.at("axes").text()
    if not axes.endswith("YX") or not set(axes) <= set(AXES) - {"C"} or len(set(axes)) != len(axes):
        raise own.at("axes").refuse("axes that end with YX")
    shape = checked_shape(path, "image.shape", [row.whole(1) for row in own.at("shape").rows()])
    if len(shape) != len(axes):
        raise own.at("shape").refuse(f"the lengths of {axes}")
    sizes = own.find("pixel_size_um")
    n_sizes = sum(axis in SPATIAL for axis in axes)
    names = own.find("class_names")
    return ImageAnnotation(
        own.at("name").text(),
        shape,
        axes,
        pixel_size_um=() if sizes is None else sizes.sizes(n_sizes),
        class_names=() if names is None else tuple(row.text() for row in names.rows()),
    )


def _class(row: JsonValue) -> str:
    properties = row.find("properties")
    found = None if properties is None else properties.find("classification")
    return NO_CLASS if found is None else found.at("name").text()


def _number(row: JsonValue) -> int:
    properties = row.find("properties")
    metadata = None if properties is None else properties.find("metadata")
    number = None if metadata is None else metadata.find(NUMBER)
    text = "" if number is None else str(number.value)
    return int(text) if text.isascii() and text.isdigit() else 0


def _lead(geometry: JsonValue, axes: str, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return frame and slice of a feature, as far as the image has such axes."""
    plane = geometry.find("plane")
    places = []
    for index, axis in enumerate(axes[:-2]):
        node = None if plane is None else plane.find(axis.lower())
        last = 2**31 - 2 if shape is None else shape[index] - 1
        places.append(0 if node is None else node.whole(0, last))
    return tuple(places)


def _polygons(geometry: JsonValue, limit: tuple[int, int]) -> list[list[Ring]]:
    kind = geometry.at("type").text()
    if kind == "Polygon":
        return [_rings(geometry.at("coordinates"), limit)]
    if kind != "MultiPolygon":
        raise geometry.at("type").refuse("'Polygon' or 'MultiPolygon', or points alone")
    found = [_rings(row, limit) for row in geometry.at("coordinates").rows()]
    if not found:
        raise geometry.at("coordinates").refuse("polygons")
    return found


def _rings(node: JsonValue, limit: tuple[int, int]) -> list[Ring]:
    rings = [checked_ring(row, row.pairs(limit, MARGIN_PX)) for row in node.rows()]
    if not rings:
        raise node.refuse("a polygon")
    return rings


def _points(
    annotation: ImageAnnotation, rows: list[JsonValue], known: tuple[Any, ...], image: Image | None
) -> ImageAnnotation:
    leads, names, limit = known
    found, own_names = [], []
    for row, lead, name in zip(rows, leads, names, strict=True):
        node = row.at("geometry").at("coordinates")
        is_one = row.at("geometry").at("type").text() == "Point"
        places = JsonValue([node.value] if is_one else node.value, node.path, node.where).pairs(
            limit, MARGIN_PX
        )
        found.append(np.concatenate([np.tile(np.array(lead, float), (len(places), 1)), places - 0.5], axis=1))
        own_names += [name] * len(places)
    points = np.concatenate(found)
    shape = annotation.shape or canvas(node.path, image, points + 1)
    return with_classes(replace(annotation, shape=shape), own_names, points=points.astype(np.float32))


def write(path: Path, annotation: Sequence[ImageAnnotation]) -> None:
    """Write the cells of one image; boxes are written as polygons.

    Raises
    ------
    WriteError
        The file cannot be written, or there are several images.
    """
    one = only_one(annotation, "GeoJSON")
    image: dict[str, Any] = {"name": one.name, "shape": list(one.shape), "axes": one.axes}
    image |= {"pixel_size_um": list(one.pixel_size_um)} if one.pixel_size_um else {}
    image |= {"class_names": list(one.class_names)} if one.class_names else {}
    content = {"type": "FeatureCollection", "image": image, "features": _written(one)}
    write_text(path, json.dumps(content))


def _written(annotation: ImageAnnotation) -> list[dict[str, Any]]:
    features = []
    if annotation.labels is None:
        for row, corners in enumerate(annotation.corners.astype(float)):
            index = tuple(np.rint(corners[0, :-2]).astype(int).tolist())
            features.append(_feature(annotation, row, _simple(corners[:, -2:]), index))
        return features
    for index in np.ndindex(annotation.labels.shape[:-2]):
        labels = annotation.labels[index]
        for row, window in enumerate(ndimage.find_objects(labels)):
            if window is not None:
                found = polygons(labels[window] == row + 1, [part.start for part in window])
                features.append(_feature(annotation, row, _geometry(found), index))
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
    turned = ring[::-1] if (area(ring) > 0) != is_hole else ring
    pairs: list[list[int]] = turned[:, ::-1].astype(int).tolist()
    return [*pairs, pairs[0]]


def _feature(
    annotation: ImageAnnotation, row: int, geometry: dict[str, Any], index: tuple[int, ...]
) -> dict[str, Any]:
    place = dict(zip(annotation.axes, index, strict=False))
    plane = {"c": -1, "z": int(place.get("Z", 0)), "t": int(place.get("T", 0))}
    name = annotation.class_of(row)
    own: dict[str, Any] = {"objectType": "annotation", "metadata": {NUMBER: str(row + 1)}}
    own |= {} if name == NO_CLASS else {"classification": {"name": name}}
    return {"type": "Feature", "geometry": {**geometry, "plane": plane}, "properties": own}
