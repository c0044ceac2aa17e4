"""The only translator between napari layers and Image / Result.

The counted part of an image may be a crop, and an axis of channels is no axis of the cells. So every layer
of cells gets the transform of its image, moved to the first pixel of the part:

    image layer   (T, Z, Y, X)      world = affine(shear and rotate(scale(pixel)) + translate)
    cells layer   (T, Z, y, x)      the same with translate moved to pixel (t0, z0, y0, x0)
"""

import colorsys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Points, Shapes
from napari.utils.colormaps import CyclicLabelColormap
from napari.utils.transforms import Affine
from numpy.typing import NDArray

from cellwright.errors import WrongLayerError
from cellwright.io.tables import cells_table
from cellwright.types import Image, Result
from cellwright.widgets.axes import Channel, axes_of, channels_of, pixel_size_of

if TYPE_CHECKING:
    import pandas as pd

TITLES = {"Labels": "labels", "Points": "points", "Shapes": "boxes"}
FEATURES = ("label", "score", "area_px", "diameter_px", "area_um2", "diameter_um")
METADATA = "cellwright"
OUTLINE_PX = 2
LARGEST_OUTLINED_PX = 1_500_000  # napari finds outlines in the GUI thread; larger frames would stall it
N_COLOURS = 49
POINT_SHARE = 0.25  # of the median cell diameter
COLOUR = "#3fd0c9"

Window = tuple[slice, ...]  # one for each axis of a layer, colours left out


@dataclass(frozen=True, slots=True)
class Source:
    """The counted part of an image layer and where it lies; still right when the layer has been removed.

    Made by :func:`source_of`; used by :func:`prepare` and :func:`place`.

    Parameters
    ----------
    image
        The part that is counted.
    layer_id
        ``unique_id`` of the image layer.
    offset
        First pixel of the part, in the axes of the cells.
    placement
        Arguments of napari's layers that put an array of the part's shape where it belongs.
    channel_axis
        Where the cells need an axis of length one to line up with the image, or None.
    is_preview
        Whether its layers are kept apart from those of a count.
    """

    image: Image
    layer_id: str
    offset: tuple[int, ...]
    placement: Mapping[str, Any]
    channel_axis: int | None = None
    is_preview: bool = False

    @property
    def key(self) -> dict[str, Any]:
        """What the metadata of its layers has in common."""
        return {"source": self.layer_id, "is_preview": self.is_preview}


def image_layer(layer: Layer | None) -> ImageLayer:
    """Return the layer itself when it is an Image layer.

    Raises
    ------
    WrongLayerError
        There is no layer, or it is of another type.
    """
    if isinstance(layer, ImageLayer):
        return layer
    got = "no layer" if layer is None else f"a {type(layer).__name__} layer named {layer.name!r}"
    raise WrongLayerError(f"Select an Image layer to count cells in; got {got}.")


def image_of(layer: Layer | None, channel: Channel | None = None) -> Image:
    """Return the image that an Image layer shows: full resolution, as lazy as it was.

    Raises
    ------
    WrongLayerError
        There is no layer, it is of another type, or it has less than two or more than five axes.
    """
    layer = image_layer(layer)
    data = layer.data[0] if layer.multiscale else layer.data
    return Image(data, axes_of(layer, channel), pixel_size_of(layer, channel), layer.name)


def source_of(layer: Layer | None, channel: Channel | None = None, window: Window | None = None) -> Source:
    """Return what is to be counted of a layer: all of it, or the pixels of a window.

    Raises
    ------
    WrongLayerError
        As :func:`image_of`.
    """
    layer = image_layer(layer)
    image = image_of(layer, channel)
    channel = channel or channels_of(layer)[0]
    parts = list(window or (slice(None),) * layer.ndim)
    if channel.axis is not None:
        parts[channel.axis] = slice(None)  # the engine picks the channel
    first = np.array([part.start or 0 for part in parts])
    if channel.axis is not None:
        first[channel.axis] = channel.index or 0
    is_whole = all(part == slice(None) for part in parts)
    return Source(
        image=image if is_whole else replace(image, data=image.data[tuple(parts)]),
        layer_id=str(layer.unique_id),
        offset=tuple(int(start) for axis, start in enumerate(first) if axis != channel.axis),
        placement=_placement(layer, first, drop_first=channel.axis == 0),
        channel_axis=channel.axis or None,
    )


def prepare(result: Result, source: Source, outputs: Iterable[str] = ("Labels",)) -> dict[str, Layer]:
    """Return the napari layers that show the cells, by output, not yet in a viewer.

    Slow for many cells, so best called in a worker thread.

    Parameters
    ----------
    result
        What was counted in ``source.image``.
    source
        Where the cells belong.
    outputs
        Any of ``Labels``, ``Points`` and ``Shapes`` (bounding boxes).
    """
    features = _features(result)
    makers = {"Labels": _labels_layer, "Points": _points_layer, "Shapes": _shapes_layer}
    made = {}
    for output in outputs:
        if output == "Labels" and result.cells.labels is None:
            continue
        layer = makers[output](result, source, features)
        layer.name = f"{source.image.name} {'preview ' * source.is_preview}{TITLES[output]}"
        layer.metadata = {METADATA: {**asdict(result.provenance), **source.key, "output": output}}
        made[output] = layer
    return made


def place(viewer: Any, prepared: Mapping[str, Layer]) -> dict[str, Layer]:
    """Show prepared layers in the viewer, in place of those an earlier run left there; return what is shown.

    The selection stays as it was. Call it in the GUI thread.
    """
    active = viewer.layers.selection.active
    shown = {}
    for output, layer in prepared.items():
        own = layer.metadata[METADATA]
        key = {name: own[name] for name in ("source", "is_preview", "output")}
        old = next((candidate for candidate in viewer.layers if _has(candidate, key)), None)
        shown[output] = viewer.add_layer(layer) if old is None else _update(viewer, old, layer)
    if active is not None and active in viewer.layers:
        viewer.layers.selection.active = active
    return shown


def show(
    viewer: Any, result: Result, source: Source, outputs: Iterable[str] = ("Labels",)
) -> dict[str, Layer]:
    """Show the cells as napari layers and return them by output."""
    return place(viewer, prepare(result, source, outputs))


def remove(viewer: Any, key: Mapping[str, Any]) -> None:
    """Take the layers out of the viewer whose metadata has these values (:attr:`Source.key`, ``output``)."""
    for layer in [layer for layer in viewer.layers if _has(layer, key)]:
        viewer.layers.remove(layer)


def whole_placement(layer: Layer) -> dict[str, Any]:
    """Return the arguments that give a new layer the transform, units and axis labels of another."""
    return _placement(layer, np.zeros(layer.ndim, np.intp), drop_first=False)


def _placement(layer: Layer, first: NDArray[np.intp], *, drop_first: bool) -> dict[str, Any]:
    """Arguments that put an array whose first pixel is ``first`` of the layer where it belongs."""
    n = layer.ndim
    parts = {name: getattr(layer, name) for name in ("scale", "rotate", "shear", "translate")}
    keep = slice(1 if drop_first else 0, None)
    shear = np.eye(n)
    shear[np.triu_indices(n, 1)] = layer.shear
    return {
        "scale": layer.scale[keep],
        "translate": np.asarray(Affine(ndim=n, **parts)(first))[keep],
        "rotate": layer.rotate[keep, keep],
        "shear": shear[keep, keep],
        "affine": layer.affine.affine_matrix[keep, keep],
        "units": layer.units[keep],
        "axis_labels": layer.axis_labels[keep],
    }


def _features(result: Result) -> "pd.DataFrame":
    table = cells_table(result)
    return table[[name for name in FEATURES if name in table]]


def _labels_layer(result: Result, source: Source, features: "pd.DataFrame") -> Labels:
    labels = result.cells.labels
    assert labels is not None  # prepare leaves out what has no labels
    if source.channel_axis is not None:
        labels = np.expand_dims(labels, source.channel_axis)
    # napari takes row k of the features for label k, the background included
    table = features.reindex(range(-1, len(features))).reset_index(drop=True)
    table["label"] = np.arange(len(table))
    layer = Labels(labels, features=table, opacity=0.9, colormap=_bright_colours(), **source.placement)
    if labels.shape[-1] * labels.shape[-2] <= LARGEST_OUTLINED_PX:
        layer.contour = OUTLINE_PX
    return layer


def _bright_colours() -> CyclicLabelColormap:
    """Colours for outlines that stand out on dark and bright images, unlike for neighbours in number."""
    hues = np.arange(N_COLOURS) * 0.618 % 1.0  # the golden ratio spreads them
    colours = [colorsys.hsv_to_rgb(hue, 0.5 + 0.25 * (place % 2), 1.0) for place, hue in enumerate(hues)]
    return CyclicLabelColormap(colors=np.array([(0.0, 0.0, 0.0, 0.0), *((*rgb, 1.0) for rgb in colours)]))


def _points_layer(result: Result, source: Source, features: "pd.DataFrame") -> Points:
    points = _in_layer(result.cells.points, source)
    diameter = float(np.median(features["diameter_px"])) if len(features) else 10.0
    return Points(
        points,
        ndim=points.shape[-1],
        features=features,
        size=max(POINT_SHARE * diameter, 1.0),
        face_color=COLOUR,
        border_color="black",
        **source.placement,
    )


def _shapes_layer(result: Result, source: Source, features: "pd.DataFrame") -> Shapes:
    boxes = _in_layer(result.cells.boxes, source)
    corners = np.repeat(boxes[:, :1], 4, axis=1)  # the lead axes are those of the first corner
    corners[:, :, -2] = boxes[:, (0, 0, 1, 1), -2]
    corners[:, :, -1] = boxes[:, (0, 1, 1, 0), -1]
    corners[:, :, -2:] -= 0.5  # napari draws a pixel around its index
    return Shapes(
        list(corners) or None,
        ndim=boxes.shape[-1],
        features=features,
        face_color="transparent",
        edge_color=COLOUR,
        **source.placement,
    )


def _in_layer(coordinates: NDArray[np.float32], source: Source) -> NDArray[np.float32]:
    """Coordinates (..., axes of the cells) with a zero for the channel axis where the layer has one."""
    if source.channel_axis is None:
        return coordinates.copy()
    return np.insert(coordinates, source.channel_axis, 0, axis=-1)


def _has(layer: Layer, key: Mapping[str, Any]) -> bool:
    own = layer.metadata.get(METADATA)
    return isinstance(own, dict) and key.items() <= own.items()


def _update(viewer: Any, old: Layer, new: Layer) -> Layer:
    """Give an earlier layer the new cells and keep the looks the user gave it."""
    if isinstance(old, Shapes) or old.ndim != new.ndim:
        return _replace(viewer, old, new)  # napari redraws shapes one by one in the GUI thread
    old.data = new.data
    for name in ("scale", "translate", "rotate", "shear", "units", "axis_labels"):
        if not np.array_equal(getattr(old, name), getattr(new, name)):
            setattr(old, name, getattr(new, name))
    if not np.array_equal(old.affine.affine_matrix, new.affine.affine_matrix):
        old.affine = new.affine
    old.features = new.features
    old.metadata = {**old.metadata, **new.metadata}
    return old


def _replace(viewer: Any, old: Layer, new: Layer) -> Layer:
    new.name, new.visible, new.opacity = old.name, old.visible, old.opacity
    new.metadata = {**old.metadata, **new.metadata}
    index = viewer.layers.index(old)
    viewer.layers.remove(old)
    viewer.layers.insert(index, new)
    return new
