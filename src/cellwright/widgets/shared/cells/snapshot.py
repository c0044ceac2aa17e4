"""What a layer of outlines, points or boxes holds, in pixels of the image its cells lie in."""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.layers import Layer, Points, Shapes
from numpy.typing import NDArray

from cellwright.core.data import SPATIAL, Image
from cellwright.core.errors import WrongLayerError
from cellwright.ops.geometry.tiles import window_between
from cellwright.ops.measure.regions import RegionRule, RegionSet
from cellwright.widgets.shared.cells.deleted_cells import FOUND, deleted_rows
from cellwright.widgets.shared.cells.image_pixels import PIXELS, has_other_pixels, mark_of
from cellwright.widgets.shared.cells.regions import HALF_PIXEL, REGIONS, RegionLayers, regions_of
from cellwright.widgets.shared.coordinates import (
    FILE_PART,
    SAME_PIXELS,
    UNNAMED,
    affine_between,
    channels_of,
    check_upon,
    frame_interval_s,
    full_resolution,
    image_in,
    plane_of,
    steps_um,
    without_axis,
)
from cellwright.widgets.shared.edited_layers import (
    COUNT,
    EDITED,
    is_edited,
    is_image,
    likely_image,
    metadata_of,
    own_features,
)
from cellwright.widgets.shared.layer_factory import CLASSES, class_order, features_by_number, texts_of

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """What a layer of cells holds, in pixels of its image."""

    pixels: Any  # of a Labels layer, without channels, in memory or in a file; None for points
    points: NDArray[np.float64] | None  # (N, D), or centres of boxes; None for labels
    features: "pandas.DataFrame"  # row ``k`` for label ``k``, or row ``i`` for point ``i``
    image: Image  # what the cells lie in
    offset: tuple[int, ...]  # first pixel of the labels in the image
    others: Mapping[str, Image] = field(default_factory=dict)  # further images of the same pixels, by name
    nuclei: Any = None  # labels of the nuclei of the cells, in the shape of ``pixels``; None without
    nuclei_source: str = ""  # path of their file, where they come from one
    provenance: Mapping[str, Any] = field(default_factory=dict)  # how they were found; empty: not by us
    regions: RegionSet = RegionSet()  # noqa: RUF009 - frozen
    counted: RegionSet | None = None  # what they were counted in; None for the whole image, or by hand
    is_edited: bool = False  # whether the layer is one of ours that was changed by hand
    boxes: NDArray[np.float64] | None = None  # (N, 2, D), first and end pixel, of a Shapes layer
    found: "pandas.DataFrame | None" = None  # the cells of Labels that a count has put there
    deleted: "pandas.DataFrame | None" = None  # cells that undo may bring back
    marks: tuple[int | None, ...] = ()  # of the pixels of the image and the further ones, as far as known
    is_of_other_pixels: bool = False  # whether the image has other pixels than those that were counted


def is_cells_layer(layer: Layer | None) -> bool:
    """Return whether a layer can hold cells that are told of."""
    return isinstance(layer, LabelsLayer | Points) and metadata_of(layer).get("output") != "Chosen"


def image_layers(viewer: Any) -> list[ImageLayer]:
    """Return the Image layers that no count has made, the topmost first."""
    return [one for one in reversed(viewer.layers) if is_image(one)]


def image_layer_under(viewer: Any, layer: Layer) -> ImageLayer | None:
    """Return the image that the cells of a layer were counted in, else that which they likely belong to."""
    images = image_layers(viewer)
    counted_in = metadata_of(layer).get("source")
    own = [one for one in images if str(one.unique_id) == counted_in]
    alike = [one for one in images if plane_of(one) == _shape_of(layer)[-2:]]
    if own or not images:
        return next(iter(own), None)
    return likely_image(layer, alike or images, viewer.layers)


def channels_beside(viewer: Any, layer: ImageLayer | None) -> list[ImageLayer]:
    """Return what shows the other channels of the file that a layer is one channel of, in their order."""
    if layer is None or FILE_PART not in layer.metadata:
        return []
    own = image_in(layer)
    number = _channel_in_file(own)
    if number is None:
        return []
    found = {number: layer}
    for other in image_layers(viewer):
        if FILE_PART not in other.metadata:
            continue
        image = image_in(other)
        beside, is_same = _channel_in_file(image), image.source == own.source
        if is_same and beside is not None and image.label_shape == own.label_shape:
            with suppress(WrongLayerError):  # moved, say
                check_upon(other, layer)
                found.setdefault(beside, other)
    del found[number]
    return [found[beside] for beside in sorted(found)]


def _channel_in_file(image: Image) -> int | None:
    """Return which channel of its file an image is; None where it is all of it, or that is not known."""
    part = None if image.source_part is None else image.source_part[1]
    return part if isinstance(part, int) else None


def snapshot_of(
    layer: Layer,
    image_layer: ImageLayer | None,
    others: Iterable[ImageLayer] = (),
    regions: RegionLayers = RegionLayers(),  # noqa: B008 - frozen
    rule: RegionRule | None = None,
    nuclei: LabelsLayer | None = None,
) -> Snapshot:
    """Return what a layer of cells holds; fast, nothing is copied or read. Call it in the GUI thread.

    Without layers of regions they are those that the cells were counted in, and so is the rule.

    WrongLayerError where the layer cannot hold cells, or its pixels are not those of the image, a further one
    or the nuclei.
    """
    if not isinstance(layer, LabelsLayer | Points | Shapes):
        raise WrongLayerError(
            f"Choose a Labels or Points layer; {layer.name!r} is a {type(layer).__name__} layer."
        )
    found_by = _provenance_of(layer)
    if image_layer is None:
        image, axis = _blank_image(layer), None
    else:
        image, axis = _image(image_layer, found_by), channels_of(image_layer)[0].axis
        if "C" not in image.axes:
            axis = None
    placed = _placed(layer, image_layer, image, axis)
    further = [one for one in others if one is not image_layer]
    for one in further:
        check_upon(one, image_layer or layer)
    counted = counted_regions(layer)
    if rule is None:
        rule = "centre" if counted is None else counted.rule
    return Snapshot(
        pixels=placed.pixels,
        points=placed.points,
        boxes=placed.boxes,
        features=_known_features(layer),
        image=image,
        offset=placed.offset,
        others={_ending_of(one, image): _image(one, {}) for one in further},
        nuclei=_nuclei_of(nuclei, layer, placed.pixels),
        nuclei_source="" if nuclei is None else str(nuclei.source.path or ""),
        provenance=found_by,
        is_edited=bool(metadata_of(layer).get(EDITED)),
        found=metadata_of(layer).get(FOUND),
        deleted=deleted_rows(layer),
        marks=tuple(mark_of(one) for one in (image_layer, *further) if one is not None),
        is_of_other_pixels=_is_of_other_pixels(layer, image_layer),
        regions=regions_of(regions, image_layer or layer, axis, rule, counted=counted, is_drawing=True),
        counted=counted,
    )


def _is_of_other_pixels(layer: Layer, image_layer: ImageLayer | None) -> bool:
    """Return whether cells were counted in an image that is known to have other pixels now."""
    own = metadata_of(layer)
    if image_layer is None or own.get("source") != str(image_layer.unique_id):
        return False
    return has_other_pixels(image_layer, own.get(PIXELS))


class PlacedCells(NamedTuple):
    """The cells of a layer in pixels of its image, as in :class:`Snapshot`."""

    pixels: Any
    points: NDArray[np.float64] | None
    boxes: NDArray[np.float64] | None
    offset: tuple[int, ...]


def _placed(
    layer: LabelsLayer | Points | Shapes, image_layer: ImageLayer | None, image: Image, axis: int | None
) -> PlacedCells:
    """Return the cells of a layer in pixels of its image, whose axis of channels is left out."""
    matrix, origin = np.eye(layer.ndim), np.zeros(layer.ndim)
    if image_layer is not None:
        matrix, origin = affine_between(layer, image_layer)
    if not isinstance(layer, LabelsLayer):
        ends = without_axis(_ends(layer) @ matrix.T + origin, axis)
        boxes = None
        if isinstance(layer, Shapes):
            boxes = ends + HALF_PIXEL  # napari draws a pixel around its index
        return PlacedCells(None, ends.mean(axis=1), boxes, (0,) * ends.shape[-1])
    n_missing = matrix.shape[0] - layer.ndim
    if not np.allclose(matrix[n_missing:], np.eye(layer.ndim), atol=SAME_PIXELS):
        raise WrongLayerError(
            f"The pixels of {layer.name!r} are not those of the image {image.name!r}. Choose the image "
            "the cells lie in."
        )
    pixels, offset = _without_channel(layer, n_missing, axis), np.rint(origin)
    if axis is not None:
        offset = np.delete(offset, axis)
    first = offset[len(offset) - pixels.ndim :]
    return PlacedCells(pixels, None, None, tuple(int(one) for one in first))


def _ends(layer: Points | Shapes, rows: Sequence[int] | None = None) -> NDArray[np.float64]:
    """Return the corners (N, 2, axes) of the boxes around shapes, or some; of a point they are one place."""
    if isinstance(layer, Points):
        places = np.asarray(layer.data, np.float64)[slice(None) if rows is None else rows]
        return np.repeat(places.reshape(-1, 1, layer.ndim), 2, axis=1)
    shapes = layer.data if rows is None else [layer.data[row] for row in rows]
    ends = [(np.min(one, axis=0), np.max(one, axis=0)) for one in shapes]
    return np.array(ends, np.float64).reshape(-1, 2, layer.ndim)


def _known_features(layer: Layer) -> "pandas.DataFrame":
    """Return the features of a layer that are ours, and the scores and classes that others have given."""
    from pandas.api.types import is_numeric_dtype

    features, known = features_by_number(layer), own_features(layer) | {"class"}
    if "score" in features and is_numeric_dtype(features["score"]):
        known.add("score")
    return features[[name for name in features if name in known]]


def _nuclei_of(nuclei: LabelsLayer | None, cells: Layer, pixels: Any) -> Any:
    """Return the nuclei at the pixels of a layer of cells; None for points, or without nuclei."""
    if nuclei is None or pixels is None:
        return None
    matrix, origin = affine_between(cells, nuclei)
    start, labels = np.rint(origin).astype(int), full_resolution(nuclei)
    is_same = cells.ndim == nuclei.ndim and np.allclose(matrix, np.eye(cells.ndim), atol=SAME_PIXELS)
    stop = start + np.asarray(full_resolution(cells).shape)
    if not is_same or start.min() < 0 or (stop > labels.shape).any():
        raise WrongLayerError(
            f"The nuclei {nuclei.name!r} must be labels of the pixels of {cells.name!r}; they are not. "
            "Choose those of the same image."
        )
    return labels[window_between(start, stop)].reshape(pixels.shape)


def session_layers(viewer: Any) -> list[LabelsLayer | Points]:
    """Return the layers of cells of all images that were counted, one for each count."""
    found: dict[tuple[Any, ...], LabelsLayer | Points] = {}
    for layer in viewer.layers:
        own = metadata_of(layer)
        if not is_cells_layer(layer) or own.get("is_preview") or "model" not in own:
            continue
        key = (own.get("source"), *(own.get(name) for name in COUNT))
        if key not in found or isinstance(layer, LabelsLayer):
            found[key] = layer
    return list(found.values())


def session_table(viewer: Any) -> "pandas.DataFrame":
    """Return one row per count: ``image``, ``layer``, ``model``, ``corrected``, ``count``, classes.

    All cells of a layer count that lie where it was counted, whatever the filters of the panel.
    """
    import pandas

    rows = []
    for layer in session_layers(viewer):
        own, features = metadata_of(layer), layer.features
        numbers = np.arange(len(features))
        if isinstance(layer, LabelsLayer):
            numbers = pandas.unique(np.asarray(full_resolution(layer)).ravel())  # faster than by sorting
            numbers = numbers[numbers > 0]
        cells = features_by_number(layer).reindex(numbers)
        if counted_regions(layer) is not None and "regions" in cells:
            cells = cells[rows_in_regions(cells)]
        image = image_layer_under(viewer, layer)
        row = {
            "image": own.get("image_name", "") if image is None else image.name,
            "layer": layer.name,
            "model": own["model"],
            "corrected": is_edited(layer),
            "count": len(cells),
        }
        if "class" in cells:
            classes = texts_of(cells["class"])
            row |= {f"class_{name}": classes.count(name) for name in class_order(layer)}
        rows.append(row)
    return pandas.DataFrame(rows)


def region_names(
    layer: Points | Shapes, image_layer: ImageLayer | None, rows: NDArray[np.bool_]
) -> NDArray[np.str_] | None:
    """Return the names of the regions of its count that some points, or middles of boxes, lie in.

    None where the whole image was counted.
    """
    regions = counted_regions(layer)
    if regions is None:
        return None
    matrix, origin, axis = np.eye(layer.ndim), np.zeros(layer.ndim), None
    if image_layer is not None:
        matrix, origin = affine_between(layer, image_layer)
        if "C" in _image(image_layer, _provenance_of(layer)).axes:
            axis = channels_of(image_layer)[0].axis
    middles = _ends(layer, np.flatnonzero(rows).tolist()).mean(axis=1)
    return regions.joined_names(regions.contain(without_axis(middles @ matrix.T + origin, axis)))


def rows_in_regions(rows: "pandas.DataFrame") -> NDArray[np.bool_]:
    """Return which rows are of cells in the regions that were counted in, by their column ``regions``."""
    return np.asarray(rows["regions"].fillna("") != "")


def counted_regions(layer: Layer | None) -> RegionSet | None:
    """Return the regions that the cells of a layer were counted in, None for the whole image."""
    if layer is None:
        return None
    found = metadata_of(layer).get(REGIONS)
    return found if isinstance(found, RegionSet) else None


def _provenance_of(layer: Layer) -> Mapping[str, Any]:
    own = metadata_of(layer)
    if "model" not in own:
        return {}
    found = {name: value for name, value in own.items() if name not in (EDITED, FOUND)}
    if own.get(CLASSES):
        found["settings"] = {**own.get("settings", {}), "classes": list(own[CLASSES])}
    return found


def _image(layer: ImageLayer, found_by: Mapping[str, Any]) -> Image:
    """Return the image of a layer, its axes as they were understood when it was counted."""
    image = image_in(layer)
    counted = str(found_by.get("axes", ""))
    if len(counted) != len(image.axes) or ("C" in counted) != ("C" in image.axes) or counted == image.axes:
        return image
    n_spatial = sum(axis in "ZYX" for axis in counted)
    sizes = tuple(found_by.get("pixel_size_um", ()))
    if len(sizes) != n_spatial:
        sizes = ()
    return replace(image, axes=counted, pixel_size_um=sizes)


def _blank_image(layer: Layer) -> Image:
    """Return an image of nothing, for cells without one: it tells axes and pixel sizes alone."""
    shape = _shape_of(layer)
    axes = UNNAMED[-len(shape) :]
    sizes = tuple(step for step, axis in zip(steps_um(layer), axes, strict=False) if axis in SPATIAL)
    blank = np.broadcast_to(np.zeros((), np.uint8), shape)
    known = sizes if any(sizes) else ()
    return Image(blank, axes, known, layer.name, frame_interval_s=frame_interval_s(layer))


def _shape_of(layer: Layer) -> tuple[int, ...]:
    if not isinstance(layer, Points | Shapes):
        return tuple(full_resolution(layer).shape)
    if not len(layer.data):
        return (1,) * int(layer.ndim)
    return tuple(int(one) for one in np.ceil(layer.extent.data[1] + 1))


def _without_channel(layer: LabelsLayer, n_missing: int, axis: int | None) -> Any:
    """Return the labels without the axis they share with the channels of the image."""
    pixels = full_resolution(layer)
    if axis is None or axis - n_missing < 0:
        return pixels
    if pixels.shape[axis - n_missing] != 1:
        raise WrongLayerError(
            f"{layer.name!r} has labels in each channel of its image, so a cell would be in several. "
            "Keep those of one channel."
        )
    return pixels[(slice(None),) * (axis - n_missing) + (0,)]


def _ending_of(layer: ImageLayer, beside: Image) -> str:
    """Return what columns of a further image end with: its number in the file of the first, or its name."""
    image = image_in(layer)
    number = _channel_in_file(image)
    if number is not None and _channel_in_file(beside) is not None and image.source == beside.source:
        return f"ch{number}"
    return re.sub(r"\W+", "_", layer.name).strip("_") or "layer"
