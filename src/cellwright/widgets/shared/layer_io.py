"""The only translator between napari layers and Image / Result.

The counted part of an image may be a crop, and an axis of channels is no axis of the cells. So every layer
of cells gets the transform of its image, moved to the first pixel of the part:

    image layer   (T, Z, Y, X)      world = affine(shear and rotate(scale(pixel)) + translate)
    cells layer   (T, Z, y, x)      the same with translate moved to pixel (t0, z0, y0, x0)
"""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Shapes
from napari.utils.transforms import Affine
from numpy.typing import NDArray

from cellwright.core.data import Image, Result
from cellwright.core.errors import WrongLayerError
from cellwright.widgets.shared.coordinates import Channel, axes_of, channels_of, pixel_size_of
from cellwright.widgets.shared.layer_factory import make_layer

if TYPE_CHECKING:
    import pandas as pd

TITLES = {"Labels": "labels", "Points": "points", "Shapes": "boxes", "Image": "density"}
METADATA = "cellwright"
ANNOTATION = "annotation"  # key in the metadata of layers that belong to one
REGIONS_NAME = "complete regions"  # layer of the boxes in which every cell is annotated
BY_CLICK = "asked_cells"  # in the settings of the provenance: how many cells were added by click

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


def layer_arguments(image: Image) -> dict[str, Any]:
    """Return the arguments of the Image layer that shows an image, its pixel size kept."""
    letters = image.axes.removesuffix("C")
    sizes = image.known_sizes_um
    return {
        "name": image.name,
        "rgb": image.axes.endswith("C"),
        "axis_labels": tuple(letters.lower()),
        "scale": tuple(sizes.get(axis, 1.0) for axis in letters),
        "units": tuple("micrometer" if axis in sizes else "pixel" for axis in letters),
    }


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
        Any of ``Labels``, ``Points``, ``Shapes`` (bounding boxes) and ``Image`` (density); what the result
        lacks is left out.
    """
    made = {}
    for output in outputs:
        layer = make_layer(output, result, source.placement, source.channel_axis)
        if layer is None:
            continue
        layer.name = f"{source.image.name} {'preview ' * source.is_preview}{TITLES[output]}"
        own = {**asdict(result.provenance), **source.key, "output": output}
        layer.metadata = {METADATA: {**own, "has_classes": result.cells.classes is not None}}
        made[output] = layer
    return made


def place(viewer: Any, prepared: Mapping[str, Layer]) -> dict[str, Layer]:
    """Show prepared layers in the viewer, in place of those an earlier run left there; return what is shown.

    A layer that the user has edited, copied or loaded stays as it is, and the new one goes beside it. The
    selection stays as it was. Call it in the GUI thread.
    """
    active = viewer.layers.selection.active
    shown = {}
    for output, layer in prepared.items():
        old = next((found for found in _earlier(viewer, layer) if _is_replaceable(found, layer)), None)
        shown[output] = viewer.add_layer(layer) if old is None else _update(viewer, old, layer)
        _placed[shown[output]] = _Content.of(shown[output])
    if active is not None and active in viewer.layers:
        viewer.layers.selection.active = active
    return shown


def kept_layers(viewer: Any, prepared: Mapping[str, Layer]) -> tuple[str, ...]:
    """Return the names of the edited layers that stay when these are placed, and get a new one beside them.

    Those that have one beside them already are left out.
    """
    kept = []
    for layer in prepared.values():
        earlier = _earlier(viewer, layer)
        if not any(_is_replaceable(found, layer) for found in earlier):
            kept += [found.name for found in earlier]
    return tuple(kept)


def show(
    viewer: Any, result: Result, source: Source, outputs: Iterable[str] = ("Labels",)
) -> dict[str, Layer]:
    """Show the cells as napari layers and return them by output."""
    return place(viewer, prepare(result, source, outputs))


def remove(viewer: Any, key: Mapping[str, Any]) -> None:
    """Take the layers out of the viewer whose metadata has these values (:attr:`Source.key`, ``output``).

    What the user has edited, copied or loaded stays.
    """
    for layer in [layer for layer in viewer.layers if is_of(layer, key) and not is_edited(layer)]:
        viewer.layers.remove(layer)


def has_image(viewer: Any, source: Source) -> bool:
    """Return whether the image that was counted is in the viewer."""
    return any(str(layer.unique_id) == source.layer_id for layer in viewer.layers)


def is_of(layer: Layer, key: Mapping[str, Any]) -> bool:
    """Return whether the metadata of a layer has these values (:attr:`Source.key`, ``output``)."""
    own = layer.metadata.get(METADATA)
    return isinstance(own, dict) and key.items() <= own.items()


def is_edited(layer: Layer) -> bool:
    """Return whether a layer holds anything that :func:`place` did not put there."""
    content = _placed.get(layer)
    return content is None or not content.is_in(layer)


@dataclass(slots=True, eq=False)
class _Content:
    """What was put into a layer, as short as it can be told from what the user made of it."""

    checksum: int
    features: "pd.DataFrame | None"
    is_touched: bool = False

    @classmethod
    def of(cls, layer: Layer) -> "_Content":
        """Return the content of a layer, which notes strokes of the brush even where they are undone."""
        features = None
        if not isinstance(layer, ImageLayer):
            features = layer.features.copy()
        content = cls(_checksum(layer), features)
        if isinstance(layer, Labels):
            layer.events.paint.connect(_on_painted)
        return content

    def is_in(self, layer: Layer) -> bool:
        """Return whether the layer still holds it; columns that were added do not count."""
        if self.is_touched or self.checksum != _checksum(layer):
            return False
        if self.features is None:
            return True
        names = list(self.features)
        return set(names) <= set(layer.features) and layer.features[names].equals(self.features)


_placed: WeakKeyDictionary[Layer, _Content] = WeakKeyDictionary()


def _on_painted(event: Any) -> None:
    content = _placed.get(event.source)
    if content is not None:
        content.is_touched = True


def _checksum(layer: Layer) -> int:
    parts = layer.data
    if not isinstance(layer, Shapes):
        parts = [parts]
    checksum = 0
    for part in parts:
        pixels = np.ascontiguousarray(part)
        checksum = zlib.crc32(repr((pixels.shape, pixels.dtype)).encode(), checksum)
        checksum = zlib.crc32(pixels.reshape(-1).view(np.uint8), checksum)
    return checksum


def _earlier(viewer: Any, new: Layer) -> list[Layer]:
    """Return the layers of the viewer for the same output of the same image."""
    own = new.metadata[METADATA]
    key = {name: own[name] for name in ("source", "is_preview", "output")}
    return [layer for layer in viewer.layers if is_of(layer, key)]


def _is_replaceable(old: Layer, new: Layer) -> bool:
    """Return whether nothing that the user made is lost when a layer takes the place of another."""
    n_before, n_after = (
        layer.metadata[METADATA].get("settings", {}).get(BY_CLICK, 0) for layer in (old, new)
    )
    return n_before <= n_after and not is_edited(old)


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


def _update(viewer: Any, old: Layer, new: Layer) -> Layer:
    """Give an earlier layer the new cells and keep the looks the user gave it."""
    if isinstance(old, Shapes | ImageLayer) or old.ndim != new.ndim:
        return _replace(viewer, old, new)  # napari redraws shapes one by one in the GUI thread
    old.data = new.data
    for name in ("scale", "translate", "rotate", "shear", "units", "axis_labels"):
        if not np.array_equal(getattr(old, name), getattr(new, name)):
            setattr(old, name, getattr(new, name))
    if not np.array_equal(old.affine.affine_matrix, new.affine.affine_matrix):
        old.affine = new.affine
    old.features = new.features
    if any(layer.metadata[METADATA].get("has_classes") for layer in (old, new)):
        looks = "colormap" if isinstance(old, Labels) else "face_color"
        setattr(old, looks, getattr(new, looks))
    old.metadata = {**old.metadata, **new.metadata}
    return old


def _replace(viewer: Any, old: Layer, new: Layer) -> Layer:
    new.visible, new.opacity = old.visible, old.opacity
    new.metadata = {**old.metadata, **new.metadata}
    name = old.name
    viewer.layers.insert(viewer.layers.index(old) + 1, new)
    viewer.layers.remove(old)
    new.name = name
    return new
