"""ImageJ ROIs: a .zip of outlines, boxes or points as its ROI manager saves it, or one .roi.

Read and written by roifile. A cell of a stack is one ROI for each plane; those of ours are joined by the
number in their names, ``cell-00012-t0000-z0003``.
"""

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.data import Image
from cellwright.core.errors import ReadError
from cellwright.files.atomic import atomic_write
from cellwright.files.formats.image_annotation import (
    MARGIN_PX,
    NO_CLASS,
    ImageAnnotation,
    canvas,
    checked_ring,
    chosen,
    only_one,
    spread,
    with_classes,
)
from cellwright.files.formats.json_value import MOST_BYTES, JsonValue
from cellwright.files.formats.outlines import filled, polygons

OWN_NAME = re.compile(r"cell-(\d+)(-t\d+)?(-z\d+)?(?: (.*))?$")
AREAS = {"POLYGON", "FREEHAND", "TRACED", "RECT", "OVAL"}
MOST_ROIS = 1_000_000


def read(path: Path, image: Image | None = None) -> tuple[ImageAnnotation, ...]:
    """Return the cells of a file of ROIs: labels from areas, boxes from rectangles alone, or points.

    The files do not tell the size of their image; without ``image`` it is taken to be as small as may be.

    Raises
    ------
    ReadError
        The file is damaged, holds lines or text, or leaves the image.
    """
    rois = _rois(path)
    types = {_kind(node) for node in rois}
    axes = _axes(rois, image)
    names = [_class(node.value.name) for node in rois]
    if rois and types == {"POINT"}:
        found = [_points(node, axes) for node in rois]
        points = np.concatenate(found)
        annotation = ImageAnnotation(path.stem, canvas(path, image, points + 1), axes)
        names = [name for name, own in zip(names, found, strict=True) for _ in own]
        for node, own in zip(rois, found, strict=True):
            node.places(own + 0.5, annotation.shape, MARGIN_PX)
        return chosen(path, [with_classes(annotation, names, points=points.astype(np.float32))], image)
    rings = [_rings(node) for node in rois]
    leads = [_lead(node, axes) for node in rois]
    ends = [
        [*(n + 1 for n in lead), *np.max([r.max(axis=0) for r in own], axis=0)]
        for lead, own in zip(leads, rings, strict=True)
    ]
    shape = canvas(path, image, np.array(ends, float).reshape(-1, len(axes)))
    for node, lead, outline in zip(rois, leads, rings, strict=True):
        node.places(np.array([lead]) + 0.5, shape[:-2], 0.0)
        node.places(np.concatenate(outline), shape[-2:], MARGIN_PX)
    annotation = ImageAnnotation(path.stem, shape, axes)
    if rois and types == {"RECT"} and len(axes) == 2 and not any(node.value.composite for node in rois):
        boxes = np.array([[own[0].min(axis=0), own[0].max(axis=0)] for own in rings], np.float32)
        return chosen(path, [with_classes(annotation, names, boxes=boxes)], image)
    cells: dict[Any, list[int]] = {}
    for index, node in enumerate(rois):
        own_name = OWN_NAME.match(node.value.name or "")
        cells.setdefault(int(own_name[1]) if own_name else ("other", index), []).append(index)
    parts = [[filled(rings[i]).at(leads[i]) for i in cell] for cell in cells.values()]
    return chosen(path, [spread(annotation, parts, [names[cell[0]] for cell in cells.values()])], image)


def _rois(path: Path) -> list[JsonValue]:
    import roifile

    try:
        content = path.read_bytes()
        if content[:4] == b"Iout":
            return [JsonValue(roifile.ImagejRoi.frombytes(content), path, path.name)]
        with zipfile.ZipFile(path) as archive:
            files = [file for file in archive.infolist() if file.filename.lower().endswith(".roi")]
            is_empty = not files and len(archive.infolist()) > 0
            if is_empty or len(files) > MOST_ROIS or sum(file.file_size for file in files) > MOST_BYTES:
                raise ReadError(
                    f"Expected a zip of ImageJ ROIs at {path}; got {len(files)} ROIs. Save it again."
                )
            found = []
            for file in files:
                JsonValue(file.filename, path, "The name of a ROI").inside()
                found.append(JsonValue(roifile.ImagejRoi.frombytes(archive.read(file)), path, file.filename))
            return found
    except ReadError:
        raise
    except Exception as error:  # damaged files fail in every possible way
        raise ReadError(
            f"Expected a whole .roi, or a .zip of ROIs, at {path}; got: {error}. Save it in ImageJ again."
        ) from error


def _kind(node: JsonValue) -> str:
    kind = str(node.value.roitype.name)
    is_area = kind in AREAS and node.value.subtype.name in ("UNDEFINED", "ELLIPSE")
    if not is_area and kind != "POINT":
        shown = JsonValue(f"{kind} {node.value.subtype.name}", node.path, node.where)
        raise shown.refuse("an area (polygon, freehand, traced, rectangle, oval) or points")
    return kind


def _rings(node: JsonValue) -> list[NDArray[np.float64]]:
    """Return the outline of an area as rings y, x."""
    roi = node.value
    if _kind(node) == "POINT":
        raise JsonValue("POINT", node.path, node.where).refuse(
            "an area as the others are; points go in a file of their own"
        )
    try:
        rings = (
            [_outline(roi)]
            if _is_round_or_box(roi)
            else [np.asarray(ring, np.float64)[:, ::-1] for ring in roi.coordinates(multi=True)]
        )
    except Exception as error:  # a path that makes no sense fails in every possible way
        raise JsonValue(repr(error), node.path, node.where).refuse("a path of straight lines") from error
    if not rings or not all(np.isfinite(ring).all() for ring in rings):
        raise JsonValue(rings, node.path, node.where).refuse("an outline")
    return [checked_ring(JsonValue(ring.tolist(), node.path, node.where), ring) for ring in rings]


def _is_round_or_box(roi: Any) -> bool:
    return roi.roitype.name in ("RECT", "OVAL") and not roi.composite


def _outline(roi: Any) -> NDArray[np.float64]:
    """Return the outline of a rectangle or an oval."""
    first, stop = np.array([roi.top, roi.left], float), np.array([roi.bottom, roi.right], float)
    if roi.subpixelrect:
        first = np.array([roi.yd, roi.xd])
        stop = np.array([roi.yd + roi.heightd, roi.xd + roi.widthd])
    turn = np.pi / 4 + np.linspace(0, 2 * np.pi, 5 if roi.roitype.name == "RECT" else 91)[:-1]
    round_trip = np.stack([np.sin(turn), np.cos(turn)], axis=1)
    if roi.roitype.name == "RECT":
        round_trip = np.sign(round_trip)
    return np.asarray((first + stop) / 2 + round_trip * (stop - first) / 2)


def _points(node: JsonValue, axes: str) -> NDArray[np.float64]:
    places = np.asarray(node.value.coordinates(), np.float64).reshape(-1, 2)[:, ::-1]
    is_fine = node.value.subpixel_coordinates is not None
    lead = np.tile(np.array(_lead(node, axes), np.float64), (len(places), 1))
    return np.concatenate([lead, places - (0.5 if is_fine else 0.0)], axis=1)


def _axes(rois: list[JsonValue], image: Image | None) -> str:
    if image is not None:
        return image.label_axes
    has = {"T": any(node.value.t_position > 1 for node in rois)}
    has["Z"] = any(node.value.z_position > 1 or _stack_place(node) > 1 for node in rois)
    return "".join(axis for axis in "TZ" if has[axis]) + "YX"


def _stack_place(node: JsonValue) -> int:
    """Return the place in a plain stack, 0 where the ROI tells its frame and slice instead."""
    roi = node.value
    return 0 if roi.t_position or roi.z_position else int(roi.position)


def _lead(node: JsonValue, axes: str) -> tuple[int, ...]:
    """Return frame and slice, as far as the image has such axes."""
    roi, lead = node.value, axes[:-2]
    plain = {lead: _stack_place(node)} if len(lead) == 1 else {}
    places = {"T": roi.t_position, "Z": roi.z_position}
    return tuple(max(0, int(places[axis] or plain.get(axis, 0)) - 1) for axis in lead)


def _class(name: str) -> str:
    own_name = OWN_NAME.match(name or "")
    return (own_name[4] or NO_CLASS) if own_name else NO_CLASS


def write(path: Path, annotation: Sequence[ImageAnnotation]) -> None:
    """Write the cells of one image as a .zip of ROIs, plane by plane.

    Raises
    ------
    WriteError
        The file cannot be written, or there are several images.
    """
    import roifile

    one = only_one(annotation, "ImageJ ROI")
    rois = list(_written(one))
    with atomic_write(path) as part:
        if rois:
            roifile.roiwrite(part, rois, mode="w")
        else:
            zipfile.ZipFile(part, "w").close()


def _written(annotation: ImageAnnotation) -> Any:
    lead_axes = annotation.axes[:-2]
    if annotation.labels is None:
        for row, corners in enumerate(annotation.corners.astype(float)):
            place = dict(zip(lead_axes, np.rint(corners[0, :-2]).astype(int).tolist(), strict=True))
            kind, shift = ("POINT", 0.5) if len(corners) == 1 else ("RECT", 0.0)
            yield _roi(annotation, row, [corners[:, -2:] + shift], place, kind)
        return
    for index in np.ndindex(annotation.labels.shape[:-2]):
        labels = annotation.labels[index]
        place = dict(zip(lead_axes, index, strict=True))
        for row, window in enumerate(ndimage.find_objects(labels)):
            if window is not None:
                found = polygons(labels[window] == row + 1, [part.start for part in window])
                yield _roi(annotation, row, [ring for polygon in found for ring in polygon], place, "TRACED")


def _roi(
    annotation: ImageAnnotation, row: int, rings: list[NDArray[Any]], place: dict[str, int], kind: str
) -> Any:
    import roifile

    corners = np.concatenate(rings)[:, ::-1]
    where = "".join(f"-{axis.lower()}{at:04d}" for axis, at in place.items())
    name = annotation.class_of(row)
    title = f"cell-{row + 1:05d}{where}" + ("" if name == NO_CLASS else f" {name}")
    if kind == "POINT" or (len(rings) == 1 and kind == "TRACED"):
        roi = roifile.ImagejRoi.frompoints(corners.astype(np.float64 if kind == "POINT" else int), name=title)
    else:
        roi = roifile.ImagejRoi()
        roi.name = title
        (roi.left, roi.top), (roi.right, roi.bottom) = (
            np.floor(corners.min(axis=0)).astype(int).tolist(),
            np.ceil(corners.max(axis=0)).astype(int).tolist(),
        )
        if kind == "TRACED":
            roi.multi_coordinates = np.concatenate([_path(ring) for ring in rings])
            roi.shape_roi_size = len(roi.multi_coordinates)
        else:
            (roi.xd, roi.yd), ends = corners[0].tolist(), corners[1].tolist()
            roi.widthd, roi.heightd = ends[0] - roi.xd, ends[1] - roi.yd
            roi.options |= roifile.ROI_OPTIONS.SUB_PIXEL_RESOLUTION
        kind = "RECT"
    roi.roitype = roifile.ROI_TYPE[kind]
    roi.z_position, roi.t_position = (place.get(axis, -1) + 1 for axis in "ZT")
    if place and len(place) == 1:
        roi.position = next(iter(place.values())) + 1
    elif len(place) == 2:
        roi.c_position = 1
    return roi


def _path(ring: NDArray[Any]) -> NDArray[np.float32]:
    """Return a ring as ImageJ keeps composite areas: move (0), line (1) and close (4) commands."""
    steps = np.column_stack([np.ones(len(ring)), ring[:, ::-1]])
    steps[0, 0] = 0
    return np.append(steps.ravel(), 4).astype(np.float32)
