"""The only translator between napari layers and Image / Result.

The counted part of an image may be a crop, and an axis of channels is not one of the cells. So every layer of
cells gets the transform of its image, moved to the first pixel of the part:

    image layer   (T, Z, Y, X)      world = affine(shear and rotate(scale(pixel)) + translate)
    cells layer   (T, Z, y, x)      the same with translate moved to pixel (t0, z0, y0, x0)
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Points, Shapes

from cellwright.core.data import Image, Result, known_sizes
from cellwright.core.errors import WrongLayerError
from cellwright.models import registry
from cellwright.ops.measure.cells_table import cells_table
from cellwright.ops.measure.regions import RegionSet
from cellwright.widgets.shared.cells.deleted_cells import FOUND
from cellwright.widgets.shared.cells.followers import follow
from cellwright.widgets.shared.cells.image_pixels import PIXELS
from cellwright.widgets.shared.cells.regions import REGIONS
from cellwright.widgets.shared.coordinates import (
    Channel,
    Window,
    channels_of,
    expanded,
    image_in,
    placement_of,
    transform_of,
    whole_placement,
)
from cellwright.widgets.shared.edited_layers import (
    ACTIVE_KEPT,
    CONTENT,
    METADATA,
    WRITTEN,
    checksum,
    is_edited,
    is_image,
    may_follow,
    metadata_of,
    n_asked,
    our_change,
    watch,
)
from cellwright.widgets.shared.layer_factory import COLOUR, make_layer
from cellwright.widgets.shared.napari_private import add_in_turns, camera_of, in_one_batch, uncover

TITLES = {"Labels": "labels", "Points": "points", "Shapes": "boxes", "Image": "density"}
COVERING = ("opaque", "translucent", "translucent_no_depth")  # ways of blending that hide what lies below
HIDDEN = "hidden"  # key in the metadata of layers of ours that make way for those of another family
ANNOTATION = "annotation"  # key in the metadata of layers that belong to one
CHANNEL_INDEX = "channel"  # key there: number of the channel that is annotated
LEAST_SCREEN_PX = 0.025  # of a layer, below which marks would vanish
REGIONS_NAME = "complete regions"  # layer of the boxes in which every cell is annotated


@dataclass(frozen=True, slots=True)
class Source:
    """The counted part of an image layer and where it lies; still right when the layer has been removed.

    Made by :func:`source_of`; used by :func:`prepare_layers` and :func:`place`.
    """

    image: Image  # the part that is counted
    layer_id: str  # ``unique_id`` of the image layer
    offset: tuple[int, ...]  # first pixel of the part, in the axes of the cells
    placement: Mapping[str, Any]  # arguments of napari's layers that put the part where it belongs
    channel_axis: int | None = None  # where the cells need an axis of length one to line up with the image
    is_preview: bool = False  # whether its layers are kept apart from those of a count
    layer_data: Any = field(default=None, compare=False, repr=False)  # ``data`` of the layer, as it was
    layer_transform: Any = field(default=None, compare=False, repr=False)  # as it lay
    pixels: int | None = field(default=None, compare=False)  # their mark, None where not known

    @property
    def key(self) -> dict[str, Any]:
        """What the metadata of its layers has in common."""
        return {"source": self.layer_id, "is_preview": self.is_preview}


def image_layer(layer: Layer | None) -> ImageLayer:
    """Return the layer itself when it is an Image layer.

    WrongLayerError where there is no layer, or it is of another type.
    """
    if isinstance(layer, ImageLayer):
        return layer
    got = "no layer" if layer is None else f"a {type(layer).__name__} layer named {layer.name!r}"
    raise WrongLayerError(f"Select an Image layer to count cells in; got {got}.")


def image_of(layer: Layer | None, channel: Channel | None = None) -> Image:
    """Return the image that an Image layer shows: full resolution, as lazy as it was.

    WrongLayerError where there is no layer, it is of another type, or it has less than two or more than five
    axes.
    """
    return image_in(image_layer(layer), channel)


def layer_arguments(image: Image) -> dict[str, Any]:
    """Return the arguments of the Image layer that shows an image, its pixel size kept."""
    own = axes_arguments(image.axes.removesuffix("C"), image.pixel_size_um)
    return {"name": image.name, "rgb": image.axes.endswith("C"), **own}


def axes_arguments(axes: str, pixel_size_um: Sequence[float]) -> dict[str, Any]:
    """Return axis labels, and scale and units where the pixel size is known."""
    arguments: dict[str, Any] = {"axis_labels": tuple(axes.lower())}
    sizes = known_sizes(axes, pixel_size_um)
    if sizes:
        arguments["scale"] = tuple(sizes.get(axis, 1.0) for axis in axes)
        arguments["units"] = tuple("micrometer" if axis in sizes else "pixel" for axis in axes)
    return arguments


def source_of(layer: Layer | None, channel: Channel | None = None, window: Window | None = None) -> Source:
    """Return what is to be counted of a layer: all of it, or the pixels of a window.

    WrongLayerError as :func:`image_of`.
    """
    layer = image_layer(layer)
    channel = channel or channels_of(layer)[0]
    image = image_of(layer, channel)
    parts = list(window or (slice(None),) * layer.ndim)
    if channel.axis is not None:
        parts[channel.axis] = slice(None)  # the engine picks the channel
    first = np.array([part.start or 0 for part in parts])
    if channel.axis is not None:
        first[channel.axis] = channel.index or 0
    if any(part != slice(None) for part in parts):
        index = parts
        if channel.axis is not None and image.axes.endswith("C"):  # colours, which are last now
            index = [*(part for axis, part in enumerate(parts) if axis != channel.axis), slice(None)]
        image = replace(image, data=image.data[tuple(index)], source="", levels=())
    return Source(
        image=image,
        layer_id=str(layer.unique_id),
        offset=tuple(int(start) for axis, start in enumerate(first) if axis != channel.axis),
        placement=placement_of(layer, first, drop_first=channel.axis == 0),
        channel_axis=channel.axis or None,
        layer_data=layer.data,
        layer_transform=transform_of(layer),
    )


class Prepared(Mapping[str, Layer]):
    """Layers by output; Labels are built where they are first looked up, which is to be the GUI thread."""

    def __init__(self, made: Mapping[str, Layer | Callable[[], Layer]]) -> None:
        self._made = dict(made)

    def __getitem__(self, output: str) -> Layer:
        made = self._made[output]
        if not isinstance(made, Layer):
            made = self._made[output] = made()
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


def prepare_layers(
    result: Result,
    source: Source,
    outputs: Iterable[str] = ("Labels",),
    metadata: Mapping[str, Any] = MappingProxyType({}),
) -> Prepared:
    """Return the napari layers that show the cells, by output, not yet in a viewer.

    Slow for many cells, so best called in a worker thread. Of the outputs, those of :func:`make_layer`, what
    the result lacks is left out; ``metadata`` is what else their metadata is to tell.
    """
    made = {}
    for output in outputs:
        own = {**asdict(result.provenance), **source.key, "output": output, PIXELS: source.pixels, **metadata}
        labels = result.cells.labels
        if output == "Labels" and labels is not None:
            own[FOUND] = cells_table(result)
            own[CONTENT] = checksum(expanded(labels, source.channel_axis))
        name = f"{source.image.name} {TITLES[output]}"
        if source.is_preview:
            name = f"{source.image.name} preview {TITLES[output]}"
        placement = {**source.placement, "name": name, "metadata": {METADATA: own}}
        layer = make_layer(output, result, placement, source.channel_axis)
        # points alone do not tell by which rule they lie in regions
        if isinstance(layer, Points | Shapes) and REGIONS in metadata:
            regions: RegionSet = metadata[REGIONS]
            names = regions.joined_names(regions.membership(result.cells, result.offset))
            layer.features = layer.features.assign(regions=names)
        if layer is not None:
            made[output] = layer
    return Prepared(made)


@contextmanager
def active_kept(viewer: Any) -> Iterator[None]:
    """Keep the active layer the active one, whatever layers come; panels do not choose it again."""
    active = viewer.layers.selection.active
    yield
    if active is not None and active in viewer.layers:
        token = ACTIVE_KEPT.set(True)
        try:
            viewer.layers.selection.active = active
        finally:
            ACTIVE_KEPT.reset(token)


def take_away(viewer: Any, *layers: Layer | None) -> None:
    """Take those of some layers out of the viewer that are in it."""
    there = [layer for layer in viewer.layers if layer in layers]
    if not there:
        return
    with in_one_batch(viewer):
        for layer in there:
            viewer.layers.remove(layer)


def layer_of_id(viewer: Any, layer_id: str) -> Layer | None:
    """Return the layer with this ``unique_id``, None where it is not in the viewer."""
    return next((layer for layer in viewer.layers if str(layer.unique_id) == layer_id), None)


def place(viewer: Any, prepared: Mapping[str, Layer]) -> dict[str, Layer]:
    """Show prepared layers in the viewer, in place of those an earlier run left there; return what is shown.

    Layers that were changed by hand stay as they are, under their names, and what another family has found
    stays, out of sight; the new ones come beside them. The selection stays as it was. Call it in the GUI
    thread.
    """
    follow(viewer)  # first, so that a layer is marked as edited before its rows are looked at
    with active_kept(viewer):
        return {output: _place(viewer, layer) for output, layer in prepared.items()}


def _place(viewer: Any, layer: Layer) -> Layer:
    own = layer.metadata[METADATA]
    earlier = [one for one in _of_count(viewer, layer) if not is_edited(one)]
    others = [one for one in earlier if _family_of(one) != _family_of(layer)]
    same = [one for one in earlier if one.metadata[METADATA]["output"] == own["output"]]
    ours = [one for one in same if one not in others]
    old = next((one for one in ours if may_follow(own, one.metadata[METADATA])), None)
    is_switch = bool(others) and (old is None or HIDDEN in old.metadata[METADATA])
    if is_switch:
        for other in others:
            other.visible = False
            other.metadata[METADATA][HIDDEN] = True
    if old is None:
        shown = add_in_turns(viewer, layer)
    else:
        with our_change(old):
            shown = _update(viewer, old, layer)
    watch(shown)
    if old is None or is_switch:
        uncover(shown, our_change)  # which changes no cell
    return shown


def hidden_for(viewer: Any, prepared: Mapping[str, Layer]) -> list[str]:
    """Return the names of layers that :func:`place` has hidden: another family has found them."""
    ours = _of_count(viewer, next(iter(prepared.values()))) if prepared else []
    return [one.name for one in ours if HIDDEN in one.metadata[METADATA] and not is_edited(one)]


def _of_count(viewer: Any, layer: Layer) -> list[Layer]:
    """Return the layers of what was counted in the image that a new one is of, and those of its kind."""
    own = layer.metadata[METADATA]
    found = layers_with(viewer, {name: own[name] for name in ("source", "is_preview")})
    return [one for one in found if one.metadata[METADATA].get("output") in (*TITLES, own["output"])]


def _family_of(layer: Layer) -> str:
    """Return the family of models that has found what is in a layer of ours; '' where it does not tell."""
    settings = layer.metadata[METADATA].get("settings", {})
    return next((name for name in registry.FAMILIES if name in settings), "")


def bring_into_sight(viewer: Any, image: Layer | None, cells: Sequence[Layer]) -> list[str]:
    """Show an image with its cells; return the names of layers that are out of sight for it.

    These are the images that lie on it, and the cells of images that lie on it or under it. Cells that lie
    under their own image come to lie on it.
    """
    for layer in (image, *cells):
        if layer is not None and not layer.visible:
            uncover(layer)
    if image is None or image not in viewer.layers:
        return []
    _lay_upon(viewer, image, cells)
    place, hidden = viewer.layers.index(image), []
    for index, other in enumerate(list(viewer.layers)):
        lies_on_it = index > place
        if other is image or not is_image(other) or not _overlap(other, image):
            continue
        if _covers(other if lies_on_it else image):
            covering = [other] if lies_on_it else []
            drawn = layers_with(viewer, {"source": str(other.unique_id)})
            hidden += [one for one in (*covering, *drawn) if one.visible]
    for layer in hidden:
        layer.visible = False
    return [layer.name for layer in hidden]


def _lay_upon(viewer: Any, image: Layer, cells: Iterable[Layer]) -> None:
    """Move cells that an image covers in front of it."""
    for layer in cells:
        place = viewer.layers.index(image)
        if _covers(image) and layer in viewer.layers[:place]:
            viewer.layers.move(viewer.layers.index(layer), place + 1)


def _covers(layer: Layer) -> bool:
    """Return whether nothing is seen of what lies under a layer."""
    return str(layer.blending) in COVERING and layer.opacity == 1


def _overlap(one: Layer, other: Layer) -> bool:
    """Return whether two layers share a place in the plane."""
    (low, high), (least, most) = one.extent.world[:, -2:], other.extent.world[:, -2:]
    return bool((low < most).all() and (least < high).all())


def layers_with(viewer: Any, key: Mapping[str, Any]) -> list[Layer]:
    """Return the layers of ours whose metadata has these values (:attr:`Source.key`, ``output``)."""
    return [layer for layer in viewer.layers if key.items() <= metadata_of(layer).items()]


def remove(viewer: Any, key: Mapping[str, Any]) -> None:
    """Take the layers out of the viewer whose metadata has these values.

    Layers that were changed by hand stay, and so do those with cells that were added by click.
    """
    kept = edited_layers(viewer, key)
    take_away(viewer, *(layer for layer in layers_with(viewer, key) if layer not in kept))


def clear_shapes(layer: Shapes) -> None:
    """Take all shapes out of a layer; after ``data = []`` napari takes none of a plane in a 3D view."""
    layer.selected_data = set(range(layer.nshapes))
    layer.remove_selected()


def add_overlay(viewer: Any, below: Layer, name: str, features: dict[str, Any]) -> Shapes:
    """Add an empty Shapes layer for marks that lie on a layer; the active layer stays so."""
    with active_kept(viewer):
        layer: Shapes = viewer.add_shapes(
            ndim=below.ndim,
            name=name,
            features=features,
            face_color="transparent",
            edge_color=COLOUR,
            metadata={METADATA: {ANNOTATION: name, "source": metadata_of(below).get("source")}},
            **whole_placement(below),
        )
    return layer


def screen_px(viewer: Any, layer: Layer) -> float:
    """Return a pixel of the screen in pixels of a layer."""
    step = float(np.abs(layer.scale[-1])) or 1.0
    return max(1.0 / max(float(camera_of(viewer).zoom) * step, 1e-6), LEAST_SCREEN_PX)


def shown_cells(viewer: Any, source: Source) -> Layer | None:
    """Return the layer that shows the cells of a count: outlines, else points; None where neither is there.

    That of the last count comes before those that were changed by hand.
    """
    for output in ("Labels", "Points"):
        ours = layers_with(viewer, {**source.key, "output": output})
        if ours:
            fresh = [one for one in ours if not is_edited(one)]
            return (fresh or ours)[-1]
    return None


def edited_layers(viewer: Any, key: Mapping[str, Any], new: Iterable[Layer] = ()) -> list[Layer]:
    """Return the layers with these values in their metadata that were changed by hand, or by clicks.

    Those that were placed just now are not looked at, which would take as long as to make their checksum.
    """
    ours = [layer for layer in layers_with(viewer, key) if layer not in new]
    return [layer for layer in ours if is_edited(layer) or n_asked(layer.metadata[METADATA])]


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
    has_classes = "class" in (*old.features, *new.features)
    old.features = new.features
    if has_classes:
        looks = "colormap" if isinstance(old, Labels) else "face_color"
        setattr(old, looks, getattr(new, looks))
    old.metadata = _joined_metadata(old, new)
    return old


def _joined_metadata(old: Layer, new: Layer) -> dict[str, Any]:
    """Return the metadata of a layer whose cells, with their features, take the place of earlier ones."""
    kept = {key: value for key, value in old.metadata.items() if key != WRITTEN}
    return {**kept, **new.metadata}


def _replace(viewer: Any, old: Layer, new: Layer) -> Layer:
    new.visible, new.opacity = old.visible, old.opacity
    new.metadata = _joined_metadata(old, new)
    viewer.layers.insert(viewer.layers.index(old) + 1, new)  # removed first, it can crash the canvas
    viewer.layers.remove(old)
    new.name = old.name
    return new
