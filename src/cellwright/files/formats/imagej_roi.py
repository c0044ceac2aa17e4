"""ImageJ ROIs: a .zip of outlines, boxes or points as its ROI manager saves it, or one .roi.

Read and written by roifile. A cell of a stack is one ROI for each plane; those of ours are joined by the
number in their names, ``cell-00012-t0000-z0003``. Points that were counted by several counters have the class
``Ctr 0``, ``Ctr 1`` and so on, as ImageJ heads its table of them.
"""

import re
import zipfile
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Image
from cellwright.core.errors import ReadError, expecting
from cellwright.files.atomic import atomic_write
from cellwright.files.formats.assembly import (
    OVAL_CORNERS,
    FileObject,
    ReadingNotes,
    Shape,
    area_of,
    box_of,
    finished,
    points_of,
    without_copies,
)
from cellwright.files.formats.image_annotation import ImageAnnotation, only_one, with_cell
from cellwright.files.json_value import JsonValue
from cellwright.files.metadata import LEAST_BOMB_BYTES
from cellwright.ops.geometry.boxes import corners_of
from cellwright.ops.outlines import cells_of, ellipse_ring, polygons

OWN_NAME = re.compile(r"cell-(\d+)(-t\d+)?(-z\d+)?(?: (.*))?$", re.DOTALL)
AREAS = {"POLYGON", "FREEHAND", "TRACED", "RECT", "OVAL"}
FLAT = {"UNDEFINED", "ELLIPSE", "ROTATED_RECT"}  # subtypes: no text, arrow or picture
OF_MACOS = "._"  # what it zips beside each file: attributes under the same name
MOST_ROIS = 1_000_000
MOST_TIMES = 200  # how much larger than their zip ROIs can be


def read(path: Path, image: Image | None = None) -> tuple[ImageAnnotation, ...]:
    """Return the cells of a file of ROIs: labels from areas, boxes from rectangles alone, or points.

    Lines, angles and text are left out.

    The files do not tell the size of their image; without ``image`` it is taken to be as small as may be.
    """
    faults: list[ReadError] = []
    return _cells(path, read_rois(path, faults), image, faults)


def read_overlay(path: Path, rois: list[JsonValue], image: Image | None) -> tuple[ImageAnnotation, ...]:
    """Return the cells of an overlay, which is taken for them instead of the pixels of its file."""
    notice = f"The outlines of the overlay in {path.name} are read, not its pixels as labels."
    return tuple(replace(one, notices=(*one.notices, notice)) for one in _cells(path, rois, image))


def _cells(
    path: Path, rois: list[JsonValue], image: Image | None, faults: Sequence[ReadError] = ()
) -> tuple[ImageAnnotation, ...]:
    counters = {number for node in rois for number in _counters_of(node)}
    rois = [part for node in rois for part in _by_slice(node, image, by_counter=len(counters) > 1)]
    axes = ""
    if any(node.value.t_position > 1 for node in rois):
        axes += "T"
    if any(node.value.z_position > 1 or _stack_place(node) > 1 for node in rois):
        axes += "Z"
    axes += "YX"
    if image is not None:
        axes = image.label_axes
    notes = ReadingNotes(path, len(faults), faults=list(faults), image=image)
    objects = without_copies(notes.read(rois, partial(_object, notes, axes)))
    known = with_cell([one.name for one in objects])
    return finished(ImageAnnotation(path.stem, (), axes, class_names=known), objects, notes, image)


def _object(notes: ReadingNotes, axes: str, node: JsonValue) -> FileObject | None:
    roi = node.value
    kind = roi.roitype.name
    name, number = "", None
    own_name = OWN_NAME.match(roi.name or "")
    if own_name:
        name, number = own_name[4] or "", int(own_name[1])
    elif isinstance(roi.counters, int):  # the one of all its points
        name = f"Ctr {roi.counters}"
    places = roi_plane(node, axes)
    notes.note("do not tell their slice and are taken for the first", int(None in places))
    lead = tuple(place or 0 for place in places)
    if kind == "POINT":
        return FileObject(node, [_points(node)], name, lead, number)
    if kind not in AREAS or roi.subtype.name not in FLAT:
        notes.note(f"are of the type {kind} and were left out")
        return None
    return FileObject(node, [_area(node)], name, lead, number)


def _counters_of(node: JsonValue) -> list[int]:
    """Return the number of the counter of each point of a ROI of several points; nothing of others."""
    roi = node.value
    if roi.roitype.name != "POINT" or roi.counters is None or roi.counter_positions is None:
        return []
    return list(roi.counters.tolist())


def _by_slice(node: JsonValue, image: Image | None, *, by_counter: bool) -> list[JsonValue]:
    """Return a ROI of several points as one for each slice of a stack and, if wanted, each counter.

    Each point may tell its own slice. ImageJ numbers slices through channels, Z and time; without the image
    there is taken to be one channel.
    """
    roi, counters = node.value, _counters_of(node)
    if not counters:
        return [node]
    n_channels, n_slices = _sizes_of(image)
    kinds = np.column_stack([roi.counter_positions, np.multiply(counters, by_counter)]).astype(int)
    found = []
    for place, counter in np.unique(kinds, axis=0).tolist():
        part, chosen = copy(roi), np.flatnonzero((kinds == (place, counter)).all(axis=1))
        part.n_coordinates, part.counters, part.counter_positions = len(chosen), None, None
        if by_counter:
            part.counters = counter
        for name in ("integer_coordinates", "subpixel_coordinates"):
            if getattr(roi, name) is not None:
                setattr(part, name, getattr(roi, name)[chosen])
        if place:
            frame, at = divmod((place - 1) // n_channels, n_slices)
            part.z_position, part.t_position = at + 1, frame + 1
        found.append(replace(node, value=part))
    return found


def _sizes_of(image: Image | None) -> tuple[int, int]:
    """Return the channels of a stack, of which colours are one, and its slices in each frame."""
    sizes = {} if image is None else dict(zip(image.axes, image.shape, strict=True))
    if image is not None and image.axes.endswith("C"):
        sizes["C"] = 1
    if "T" not in sizes:
        sizes["Z"] = MOST_ROIS  # all are slices
    return sizes.get("C", 1), sizes.get("Z", 1)


def rois_in_tiff(path: Path) -> list[JsonValue]:
    """Return the areas that ImageJ keeps as an overlay in a TIFF, none in other files."""
    import roifile
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            contents = (tiff.imagej_metadata or {}).get("Overlays", ())
        if isinstance(contents, bytes):
            contents = [contents]
        rois = [JsonValue(roifile.ImagejRoi.frombytes(one), path, "An overlay") for one in contents]
    except Exception:  # noqa: BLE001 - both fail in every possible way on damaged files; reading tells how
        return []
    return [node for node in rois if node.value.roitype.name in AREAS and node.value.subtype.name in FLAT]


def read_rois(path: Path, faults: list[ReadError] | None = None) -> list[JsonValue]:
    """Return the ROIs of a .roi file or a .zip of them; the errors of damaged ones are added to ``faults``.

    ReadError where the file is damaged, or one of its ROIs and there is no list of faults.
    """
    what = f"a whole .roi, or a .zip of ROIs, at {path}"
    # damaged files fail in every possible way
    with expecting(ReadError, what, "Save it in ImageJ again.", Exception):
        content = path.read_bytes()
        if content[:4] == b"Iout":
            return [_parsed(path, path.name, lambda: content)]
        with zipfile.ZipFile(path) as archive:
            return _zipped(path, archive, len(content), faults)


def _zipped(
    path: Path, archive: zipfile.ZipFile, n_stored: int, faults: list[ReadError] | None
) -> list[JsonValue]:
    """Return the ROIs of a zip of so many bytes; nothing is unpacked to disk."""
    files = [file for file in archive.infolist() if file.filename.lower().endswith(".roi")]
    files = [file for file in files if not PurePosixPath(file.filename).name.startswith(OF_MACOS)]
    is_empty = not files and len(archive.infolist()) > 0
    n_bytes = sum(file.file_size for file in files)
    is_bomb = n_bytes > max(LEAST_BOMB_BYTES, MOST_TIMES * n_stored)
    if is_empty or is_bomb or len(files) > MOST_ROIS:
        raise ReadError(
            f"Expected a zip of ImageJ ROIs at {path}; got {len(files)} ROIs of {n_bytes} bytes. Save it "
            "again."
        )
    found = []
    for file in files:
        plain = file.filename.replace(":", "-")  # names of classes have colons
        JsonValue(plain, path, "The name of a ROI").inside()
        try:
            found.append(_parsed(path, file.filename, partial(archive.read, file)))
        except ReadError as error:
            if faults is None:
                raise
            faults.append(error)
    return found


def _parsed(path: Path, name: str, read_bytes: Callable[[], bytes]) -> JsonValue:
    """Return one ROI; ReadError where it is damaged."""
    import roifile

    try:
        return JsonValue(roifile.ImagejRoi.frombytes(read_bytes()), path, name)
    except Exception as error:  # damaged ones fail in every possible way
        raise ReadError(f"{name} in {path} is damaged: {error}. Save it in ImageJ again.") from error


def _area(node: JsonValue) -> Shape:
    roi = node.value
    try:
        if roi.roitype.name == "RECT" and not roi.composite:
            return box_of(node, _box(roi))
        if roi.roitype.name == "OVAL" and not roi.composite:
            return area_of(node, ellipse_ring(corners_of(_box(roi)), OVAL_CORNERS))
        rings = [np.asarray(ring, np.float64)[:, ::-1] for ring in roi.coordinates(multi=True)]
    except ReadError:
        raise
    except Exception as error:  # a path that makes no sense fails in every possible way
        raise JsonValue(repr(error), node.path, node.where).refuse("a path of straight lines") from error
    rings = [ring for ring in rings if len(ring)]
    if not rings:
        raise JsonValue(0, node.path, node.where).refuse("an outline")
    return area_of(JsonValue([len(ring) for ring in rings], node.path, node.where), *rings)


def rings_of(node: JsonValue) -> list[NDArray[np.float64]]:
    """Return the outline of an area as rings (N, 2), y and x; ReadError for a line, text, or points."""
    roi = node.value
    if roi.roitype.name not in AREAS or roi.subtype.name not in FLAT:
        shown = JsonValue(f"{roi.roitype.name} {roi.subtype.name}", node.path, node.where)
        raise shown.refuse("an area (polygon, freehand, traced, rectangle, oval)")
    shape = _area(node)
    if shape.kind == "box":
        return [corners_of(shape.rings[0])]
    return list(shape.rings)


def _box(roi: Any) -> NDArray[np.float64]:
    if roi.subpixelrect:
        return np.array([(roi.yd, roi.xd), (roi.yd + roi.heightd, roi.xd + roi.widthd)], float)
    return np.array([(roi.top, roi.left), (roi.bottom, roi.right)], float)


def _points(node: JsonValue) -> Shape:
    places = np.asarray(node.value.coordinates(), np.float64).reshape(-1, 2)[:, ::-1]
    if node.value.subpixel_coordinates is None:
        places = places + 0.5  # whole numbers are those of pixels
    return points_of(JsonValue(len(places), node.path, node.where), places)


def _stack_place(node: JsonValue) -> int:
    """Return the place in a plain stack, 0 where the ROI tells its frame and slice instead."""
    roi = node.value
    if roi.t_position or roi.z_position:
        return 0
    return int(roi.position)


def roi_plane(node: JsonValue, axes: str) -> tuple[int | None, ...]:
    """Return frame and slice, as far as the image has such axes; None where a ROI does not tell it."""
    lead = axes[:-2]
    places = {"T": node.value.t_position, "Z": node.value.z_position}
    if len(lead) == 1:
        places[lead] = places[lead] or _stack_place(node)
    return tuple(int(places[axis]) - 1 if places[axis] > 0 else None for axis in lead)


def write(path: Path, annotation: Sequence[ImageAnnotation]) -> None:
    """Write the cells of one image as a .zip of ROIs, plane by plane."""
    import roifile

    one = only_one(annotation, "ImageJ ROI")
    rois = list(_written(one))
    with atomic_write(path) as part:
        if rois:
            roifile.roiwrite(part, rois, name=[roi.name.rstrip("\0") for roi in rois], mode="w")
        else:
            zipfile.ZipFile(part, "w").close()


def _written(annotation: ImageAnnotation) -> Any:
    lead_axes = annotation.axes[:-2]
    if annotation.labels is None:
        for row, corners in enumerate(annotation.corners.astype(float)):
            place = dict(zip(lead_axes, np.rint(corners[0, :-2]).astype(int).tolist(), strict=True))
            if len(corners) == 1:
                yield _roi(annotation, row, [corners[:, -2:] + 0.5], place, "POINT")
            else:
                yield _roi(annotation, row, [corners[:, -2:]], place, "RECT")
        return
    for index, row, (corner, mask) in cells_of(annotation.labels):
        rings = [ring for polygon in polygons(mask, corner) for ring in polygon]
        yield _roi(annotation, row, rings, dict(zip(lead_axes, index, strict=True)), "TRACED")


def _roi(
    annotation: ImageAnnotation, row: int, rings: list[NDArray[Any]], place: dict[str, int], kind: str
) -> Any:
    import roifile

    corners = np.concatenate(rings)[:, ::-1]
    where = "".join(f"-{axis.lower()}{at:04d}" for axis, at in place.items())
    title = f"cell-{annotation.number_of(row):05d}{where}"
    if annotation.class_of(row) != annotation.no_class:
        title += f" {annotation.class_of(row)}"
    if kind == "POINT":
        roi = roifile.ImagejRoi.frompoints(corners.astype(np.float64))
    elif len(rings) == 1 and kind == "TRACED":
        roi = roifile.ImagejRoi.frompoints(corners.astype(int))
    else:
        roi = roifile.ImagejRoi()
        roi.left, roi.top = np.floor(corners.min(axis=0)).astype(int).tolist()
        roi.right, roi.bottom = np.ceil(corners.max(axis=0)).astype(int).tolist()
        if kind == "TRACED":
            roi.multi_coordinates = np.concatenate([_path(ring) for ring in rings])
            roi.shape_roi_size = len(roi.multi_coordinates)
        else:
            (roi.xd, roi.yd), ends = corners[0].tolist(), corners[1].tolist()
            roi.widthd, roi.heightd = ends[0] - roi.xd, ends[1] - roi.yd
            roi.options |= roifile.ROI_OPTIONS.SUB_PIXEL_RESOLUTION
        kind = "RECT"
    # roifile counts characters where ImageJ counts 16 bits of them, as which some are two
    roi.name = title + "\0" * sum(character > "\uffff" for character in title)
    roi.roitype = roifile.ROI_TYPE[kind]
    roi.z_position, roi.t_position = (place.get(axis, -1) + 1 for axis in "ZT")
    if len(place) == 1:
        roi.position = next(iter(place.values())) + 1
    elif len(place) == 2:
        roi.c_position = 1
    return roi


def _path(ring: NDArray[Any]) -> NDArray[np.float32]:
    """Return a ring as ImageJ keeps composite areas: move (0), line (1) and close (4) commands."""
    steps = np.column_stack([np.ones(len(ring)), ring[:, ::-1]])
    steps[0, 0] = 0
    return np.append(steps.ravel(), 4).astype(np.float32)
