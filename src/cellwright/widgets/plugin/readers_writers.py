"""The formats of ``files.formats`` in napari: File > Open and File > Save, as readers and writers.

Folders (YOLO, Cell Tracking Challenge) are opened by the table in them: data.yaml, res_track.txt or
man_track.txt.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pint
from napari.layers import Points
from napari.utils.notifications import show_warning
from numpy.typing import NDArray

from cellwright.core.data import AXES, SPATIAL, Image
from cellwright.core.errors import WriteError
from cellwright.files.atomic import plain_name
from cellwright.files.formats.image_annotation import ImageAnnotation, class_numbers, with_cell, with_numbers
from cellwright.files.formats.registry import FORMATS, Format, recognise
from cellwright.files.formats.tracking_challenge import is_tracking_challenge
from cellwright.ops.geometry.boxes import box_around, corners_of
from cellwright.ops.labels import numbered
from cellwright.ops.outlines import MaskPart, ellipse_ring, filled, painted
from cellwright.widgets.plugin.image_reader import LayerData
from cellwright.widgets.plugin.meanwhile import NO_LAYERS, beside_window, unless_closed
from cellwright.widgets.shared.cells.regions import HALF_PIXEL
from cellwright.widgets.shared.coordinates import UNNAMED, affine_between, check_unmoved
from cellwright.widgets.shared.layer_factory import rows_by_number, texts_of
from cellwright.widgets.shared.layer_io import axes_arguments

if TYPE_CHECKING:
    import pandas

Reader = Callable[[str], list[LayerData]]
Writer = Callable[[str, list[LayerData]], list[str]]

METADATA = "cellwright_file"  # key in the metadata of a layer: what its file told and napari has no place for


def get_cells_reader(path: str | Sequence[str]) -> Reader | None:
    """Return what reads a file, or a folder of masks in time, into layers; None for several at once."""
    if not isinstance(path, str):
        return None
    is_other_folder = Path(path).is_dir() and not is_tracking_challenge(Path(path))
    return None if is_other_folder else read_cell_layers


@unless_closed(NO_LAYERS)
def read_cell_layers(path: str) -> list[LayerData]:
    """Return the cells of a file as Labels, Shapes or Points layers, and its image if it holds one.

    ReadError where it is damaged, or of no format known.
    """
    layers: list[LayerData] = []
    found = beside_window(lambda: recognise(path).read(path))
    for notice in dict.fromkeys(notice for marks in found for notice in marks.notices):
        show_warning(notice)
    for marks in found:
        axes = axes_arguments(marks.axes, marks.pixel_size_um)
        if marks.image is not None:
            arguments = {"name": marks.name, "rgb": marks.image.axes.endswith("C"), **axes}
            layers.append((marks.image.data, arguments, "image"))
        layers.append(_cells_layer(marks, axes))
    return layers


def _cells_layer(marks: ImageAnnotation, axes: Mapping[str, Any]) -> LayerData:
    names = [marks.class_of(row) for row in range(len(marks))]
    names = ["" if name == marks.no_class else name for name in names]
    own = {"shape": marks.shape, "axes": marks.axes, "class_names": marks.class_names, "name": marks.name}
    arguments = {"name": f"{marks.name} {marks.kind}", "metadata": {METADATA: own}, **axes}
    if marks.kind == "labels":
        if marks.classes is not None:
            numbers = [marks.number_of(row) for row in range(len(marks))]
            arguments["features"] = {"index": [0, *numbers], "class": ["", *names]}  # 0 is the background
        return marks.numbered_labels(), arguments, "labels"
    if marks.classes is not None:
        arguments["features"] = {"class": names}
    if marks.boxes is not None:
        boxes = marks.boxes.astype(float)
        boxes[..., -2:] -= HALF_PIXEL
        rectangles = list(corners_of(boxes))
        arguments |= {"shape_type": "rectangle", "face_color": "transparent", "edge_color": "#ffb000"}
        return rectangles, arguments, "shapes"
    return marks.corners[:, 0], arguments, "points"


def writer(command: str) -> Writer:
    """Return what writes layers in the format of a command: ``write_coco_rle`` that of ``coco-rle``."""
    return partial(write_layers, one=FORMATS[command.removeprefix("write_").replace("_", "-")])


def write_layers(path: str, layer_data: Sequence[LayerData], one: Format) -> list[str]:
    """Write a layer of cells, and an image layer that goes with it, and return what was written.

    WriteError where the format cannot hold this, or it cannot be written.
    """
    file = Path(path)
    if one.extensions and not file.name.lower().endswith(one.extensions):
        stem, ending = file.name, one.extensions[0]
        if "_" in ending:
            stem = stem.removesuffix(Path(ending).suffix)
        file = file.with_name(stem + ending)
    annotation = annotation_of_layers(layer_data, one)
    one.write(file, [annotation])
    for notice in annotation.notices:
        show_warning(notice)
    return [str(file)]


def annotation_of_layers(layer_data: Sequence[LayerData], one: Format) -> ImageAnnotation:
    """Return what layers say of the cells of an image, in its pixels, as far as a format can hold it.

    WriteError where there are shapes that are not areas, or of several planes, or the cells have other axes
    than the image. WrongLayerError where labels lie elsewhere than it.
    """
    (cells,) = [layer for layer in layer_data if layer[2] in ("labels", "points", "shapes")]
    picture = next((layer for layer in layer_data if layer[2] == "image"), None)
    image = None if picture is None else _image_of(picture)
    if picture is not None and image is not None:
        cells = _in_pixels_of(picture, image.label_shape, cells)
    data, meta, kind = cells
    own = meta.get("metadata", {}).get(METADATA, {})
    if kind == "labels":
        n_axes = data.ndim
    elif kind == "points":
        n_axes = np.shape(data)[-1]
    elif len(data):
        n_axes = np.shape(data[0])[-1]
    else:
        n_axes = len(own.get("shape", (0, 0)))
    if image is None:
        name, axes, shape = meta.get("name", "cells"), _axes(meta, n_axes), tuple(own.get("shape", ()))
    else:
        name, axes, shape = image.name, image.label_axes, image.label_shape
    name = plain_name(str(own.get("name") or name))
    marks = ImageAnnotation(name, (), axes, image=image, pixel_size_um=_pixel_size(meta, axes))
    if kind == "labels":
        return _from_labels(marks, np.asarray(data), meta)
    names = texts_of(_features(meta).reindex(index=range(len(data)), columns=["class"])["class"])
    marks = _with_names(marks, names, own)
    if kind == "points":
        points = np.asarray(data, np.float32).reshape(len(data), n_axes)
        return replace(marks, shape=shape or _extent(points + 1), points=points)
    return _from_shapes(marks, (list(data), meta, shape), one)


def _in_pixels_of(picture: LayerData, shape: tuple[int, ...], cells: LayerData) -> LayerData:
    """Return cells in pixels of the image layer, of this shape, that is saved with them.

    Cells of a file that tells no scale are in these pixels, wherever napari draws them.
    """
    data, meta, kind = cells
    are_other = [np.shape(one)[-1] != len(shape) for one in data[:1]]
    if kind == "labels":
        are_other = [np.shape(data) != shape]
    if any(are_other):
        raise WriteError(
            f"Cells that are saved with an image must have its axes, and labels its shape, {shape}; "
            f"{meta.get('name', kind)!r} has others. Save them alone, or with their own image."
        )
    place, image_place = (_stand_in(one, len(shape)) for one in (meta, picture[1]))
    if kind == "labels":
        check_unmoved(place, image_place)
        return cells
    matrix, origin = affine_between(place, image_place)
    is_same = np.array_equal(matrix, np.eye(len(shape))) and not origin.any()
    is_of_file = METADATA in meta.get("metadata", {}) or place.units != image_place.units
    if is_same or (is_of_file and np.allclose(place.data_to_world(np.ones(len(shape))), 1)):
        return cells
    return ([np.asarray(one, float) @ matrix.T + origin for one in data], meta, kind)


def _stand_in(meta: Mapping[str, Any], ndim: int) -> Points:
    """Return an empty layer that lies where one with this metadata does."""
    placement = ("scale", "translate", "rotate", "shear", "affine", "units")
    own = {name: meta[name] for name in placement if meta.get(name) is not None}
    return Points(np.zeros((0, ndim)), ndim=ndim, name=str(meta.get("name", "cells")), **own)


def _from_labels(marks: ImageAnnotation, data: NDArray[Any], meta: Mapping[str, Any]) -> ImageAnnotation:
    marks = with_numbers(replace(marks, shape=data.shape), data)
    rows = rows_by_number(_features(meta))
    if "class" not in rows:
        return marks
    names = texts_of(rows["class"].reindex(numbered(data)[0]))  # whatever their numbers are in the file
    return _with_names(marks, names, meta.get("metadata", {}).get(METADATA, {}))


def _from_shapes(
    marks: ImageAnnotation, drawn: tuple[list[Any], Mapping[str, Any], tuple[int, ...]], one: Format
) -> ImageAnnotation:
    """Return boxes where all shapes are upright rectangles and the format can hold them, else labels."""
    data, meta, shape = drawn
    types = meta.get("shape_type", "polygon")
    types = [types] * len(data) if isinstance(types, str) else [str(one) for one in types]
    wrong = set(types) - {"rectangle", "polygon", "ellipse"}
    if wrong:
        raise WriteError(
            f"Shapes of cells must be rectangles, ellipses or polygons; got {', '.join(sorted(wrong))}. "
            "Remove lines and paths."
        )
    corners = [np.asarray(corner, float) for corner in data]
    if any(np.ptp(corner[:, :-2], axis=0).any() for corner in corners):
        raise WriteError("Each shape must lie in one plane of the stack; some do not. Draw them again.")
    n_axes = len(marks.axes)
    ends = [corner.max(axis=0) + HALF_PIXEL for corner in corners]
    shape = shape or _extent(np.array(ends).reshape(-1, n_axes))
    is_upright = all(len(np.unique(np.round(c[:, i], 3))) == 2 for c in corners for i in (-2, -1))
    if "boxes" in one.kinds and is_upright and set(types) <= {"rectangle"}:
        boxes = np.array(list(map(box_around, corners)), np.float32)
        boxes = boxes.reshape(-1, 2, n_axes)
        boxes[..., -2:] += np.float32(HALF_PIXEL)
        boxes[:, 1, :-2] += 1
        return replace(marks, shape=shape, boxes=boxes)
    cells = [[_drawn(corner, kind)] for corner, kind in zip(corners, types, strict=True)]
    labels, left, counts = painted(cells, shape)
    classes = None if marks.classes is None else marks.classes[left]
    notices = tuple(f"{n} shapes {what}." for what, n in counts.items() if n)
    return replace(marks, shape=shape, labels=labels, classes=classes, notices=notices)


def _drawn(corners: NDArray[np.float64], kind: str) -> MaskPart:
    plane, lead = corners[:, -2:] + HALF_PIXEL, np.rint(corners[0, :-2]).astype(int)
    if kind == "ellipse":  # its corners are those of the box around it
        plane = ellipse_ring(plane)
    return filled([plane]).at(tuple(lead.tolist()))


def _with_names(marks: ImageAnnotation, names: Sequence[str], own: Mapping[str, Any]) -> ImageAnnotation:
    classes, class_names = class_numbers(names, with_cell(names, tuple(own.get("class_names", ()))))
    return replace(marks, classes=classes, class_names=class_names)


def _features(meta: Mapping[str, Any]) -> "pandas.DataFrame":
    import pandas  # slow to import

    return pandas.DataFrame(meta.get("features"))


def _image_of(layer: LayerData) -> Image:
    data, meta, _ = layer
    if meta.get("multiscale"):
        data = data[0]
    colours = "C" if meta.get("rgb") else ""
    axes = _axes(meta, data.ndim - len(colours))
    return Image(data, axes + colours, _pixel_size(meta, axes), str(meta.get("name", "image")))


def _axes(meta: Mapping[str, Any], n: int) -> str:
    """Return the letters of a layer's axes, from its labels where they tell."""
    named = "".join(str(label)[:1].upper() for label in meta.get("axis_labels", ()))[-n:]
    is_clear = len(named) == n and len(set(named)) == n and set(named) <= set(AXES) and named.endswith("YX")
    if is_clear and "C" not in named:
        return named
    if not 2 <= n <= len(UNNAMED):
        raise WriteError(f"Layers of cells must have 2 to {len(UNNAMED)} axes; got {n}. Split the layer.")
    return UNNAMED[-n:]


def _pixel_size(meta: Mapping[str, Any], axes: str) -> tuple[float, ...]:
    """Return micrometres per pixel, empty where the units of a layer are not lengths."""
    scale, units = meta.get("scale"), meta.get("units")
    if scale is None or units is None:
        return ()
    registry: Any = pint.get_application_registry()
    sizes = []
    pairs = list(zip(axes, list(scale)[-len(axes) :], list(units)[-len(axes) :], strict=True))
    for axis, size, unit in pairs:
        if axis in SPATIAL:
            length = float(size) * registry(str(unit))
            if not length.is_compatible_with("micrometer"):
                return ()
            sizes.append(float(length.to("micrometer").magnitude))
    return tuple(sizes)


def _extent(ends: NDArray[np.floating]) -> tuple[int, ...]:
    """Return the smallest image that holds these one-past-last corners."""
    return tuple(max(1, int(np.ceil(n))) for n in ends.max(axis=0, initial=1))
