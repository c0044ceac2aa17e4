"""Parts of an image to count in: what the viewer shows, or what the user draws in layers made for that."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from math import ceil, prod
from typing import Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Points, Shapes
from numpy.typing import NDArray
from qtpy.QtCore import QTimer

from cellwright.core.data import Image
from cellwright.core.errors import ImageError, SettingsError, WrongLayerError
from cellwright.ops.geometry.tiles import overlap, window_between
from cellwright.ops.label_changes import Box, boxes_of
from cellwright.ops.measure.regions import (
    EXCLUDED,
    Complement,
    MaskRegion,
    Region,
    RegionRule,
    RegionSet,
    SampledPixels,
    ShapeRegion,
    inner_boxes,
    is_excluded,
    region_set,
    shape_region,
)
from cellwright.widgets.shared.coordinates import (
    SAME_PIXELS,
    Channel,
    Window,
    affine_between,
    channels_of,
    full_resolution,
    image_as_it_lies,
    in_pixels,
    last_axes,
    pixel_at,
    whole_placement,
)
from cellwright.widgets.shared.edited_layers import engine_of, is_shapes, metadata_of
from cellwright.widgets.shared.layer_factory import COLOUR

REGIONS = "regions"  # key in the metadata of layers of cells: the RegionSet they were counted in
WINDOW = "window"  # the same: the part of the image that was counted
PART = "part"  # of annotations: they began with a part of the image, and are complete in their regions alone
REGION_NAME = "region to count"
LINE_NAME = "line across a cell"
NAMED = "cellwright names"  # key in the metadata of layers whose regions were named by us
NAME_PT = 12
CUT_OFF = {"centre": 0.5, "overlap": 0.0, "whole": 1.0}  # diameters that cells left out reach into a region
HALF_PIXEL = 0.5  # napari's pixel 0 reaches from -0.5 to 0.5
SHORTEST_LINE_PX = 2.0  # a click without a drag is no line
PREVIEW_PX = 1024
PREVIEW_SLICES = 4  # on either side of the one in sight


def counted_boxes(cells: Layer, image: Image) -> tuple[Box, ...] | None:
    """Return boxes of the labels of an image in which all cells were counted: as large as its regions allow.

    None where it was counted as a whole, or drawn by hand.
    """
    own, shape = metadata_of(cells), image.label_shape
    regions, window = own.get(REGIONS), tuple(own.get(WINDOW, ()))[-len(shape) :]
    window = (*((0, n) for n in shape[: len(shape) - len(window)]), *window)
    if regions is None:
        if PART in own:
            return ()  # which are those of its annotation
        if window == tuple((0, n) for n in shape):
            return None
        return (tuple(slice(start, stop) for start, stop in window),)
    is_linked = engine_of(own).get("link", True)
    n_spatial = 3 if is_linked and "Z" in own.get("axes", image.axes) else 2
    lengths = _longest_px(cells, [stop - start for start, stop in window], n_spatial)
    margins = [ceil(CUT_OFF[regions.rule] * length) for length in lengths]
    return inner_boxes(regions, shape, n_spatial, margins)


def _longest_px(cells: Layer, shape: Sequence[int], n_spatial: int) -> list[float]:
    """Return how far a cell reaches at most along each spatial axis; of points by their diameters.

    Of no cells it is as far as the image is long.
    """
    if not isinstance(cells, Labels):
        diameters = np.asarray(cells.features.get("diameter_px", ()), float)
        return [float(diameters[np.isfinite(diameters)].max(initial=0.0))] * n_spatial
    labels = np.asarray(full_resolution(cells))
    if labels.size == prod(shape):
        labels = labels.reshape(shape)  # without an axis of channels, which is one long
    frames = labels.reshape(-1, *labels.shape[-n_spatial:])
    boxes = [box for frame in frames for box in boxes_of(frame).values()]
    if not boxes:
        return [float(n) for n in shape[-n_spatial:]]
    lengths = [[part.stop - part.start for part in box] for box in boxes]
    return [float(longest) for longest in np.max(lengths, axis=0)]


def pixel_box(vertices: NDArray[np.float64], shape: tuple[int, ...]) -> Box:
    """Return the box of the pixels that lie within corners (N, D); whole slices along the hidden axes."""
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    starts = np.floor(low + 0.5).astype(int)
    stops = np.maximum(np.ceil(high + 0.5).astype(int), starts + 1)
    starts[:-2] = np.rint(low[:-2])
    stops[:-2] = np.rint(high[:-2]) + 1
    starts = np.clip(starts, 0, np.array(shape))
    stops = np.clip(stops, 0, np.array(shape))
    return window_between(starts, stops)


def window_in_view(viewer: Any, layer: ImageLayer, largest_px: int | None = None) -> Window:
    """Return the pixels of the layer that the viewer shows: the visible field of the current slice.

    Of a field with a side longer than ``largest_px`` the middle.

    WrongLayerError where the viewer shows a volume, or the image from its side. ImageError where the image is
    out of sight.
    """
    displayed = [axis - viewer.dims.ndim + layer.ndim for axis in viewer.dims.displayed]
    if displayed != [layer.ndim - 2, layer.ndim - 1]:
        raise WrongLayerError(
            "What you see can be counted while the viewer shows one slice, rows downwards; it now shows "
            f"axes {viewer.dims.displayed}. Leave the 3D view, or count the whole image."
        )
    corners = np.asarray(layer.corner_pixels, float)  # first and last pixel
    if layer.multiscale:
        corners = corners * layer.downsample_factors[layer.data_level]
    current = pixel_at(layer, viewer.dims.point)
    low, high = np.rint(current), np.rint(current)
    low[-2:], high[-2:] = corners[0, -2:], corners[1, -2:]
    if largest_px is not None:
        middle, half = (low + high) / 2, largest_px / 2
        low[-2:] = np.maximum(low, np.ceil(middle - half))[-2:]
        high[-2:] = np.minimum(high, np.ceil(middle + half) - 1)[-2:]
    return _window(layer, low, high + 1, "The image is not in view. Press Home in the viewer to see it.")


def through_slices(
    window: Window, layer: ImageLayer, channel: Channel | None, n_around: int | None = None
) -> Window:
    """Return a window in one slice of a volume widened to so many on either side, or to all of them.

    An image without slices stays.
    """
    place = image_as_it_lies(layer, channel).axes.find("Z")
    if place < 0:
        return window
    n_slices = _shape(layer)[place]
    if n_around is None:
        n_around = n_slices
    first, end = max(window[place].start - n_around, 0), min(window[place].stop + n_around, n_slices)
    return (*window[:place], slice(first, end), *window[place + 1 :])


def window_of_regions(regions: RegionSet, layer: ImageLayer, margin_px: float = 0.0) -> Window | None:
    """Return the pixels of the layer inside the box around all shapes and a margin, in every slice.

    Cells at the edge of the box are found whole with a margin of their diameter. Without shapes to count in
    it is None: the whole image.

    ImageError where they lie beside the image.
    """
    rings = [ring for one in regions.included if isinstance(one, ShapeRegion) for ring in one.rings]
    if not rings:
        return None
    corners = np.concatenate(rings)
    low, high = np.zeros(layer.ndim), np.array(_shape(layer), float)
    low[-2:] = np.floor(corners.min(axis=0) + 0.5)
    high[-2:] = np.ceil(corners.max(axis=0) + 0.5)
    _window(layer, low, high, "The drawn shapes lie outside the image. Move them.")
    low[-2:] -= margin_px
    high[-2:] += margin_px
    return _window(layer, low, high, "")


@dataclass(frozen=True, slots=True, eq=False)
class RegionLayers:
    """The layers that tell where to count."""

    shapes: Shapes | None = None  # count inside its shapes; None counts in the whole image
    excluded: Shapes | None = None  # its shapes are cut out
    mask: Labels | None = None  # count only where its labels are not 0
    is_outside: bool = False  # count only where they are 0 instead

    @property
    def chosen(self) -> tuple[Layer, ...]:
        """Those that there are."""
        return tuple(one for one in (self.shapes, self.excluded, self.mask) if one is not None)


def regions_of(
    layers: RegionLayers,
    layer: Layer,
    channel_axis: int | None = None,
    rule: RegionRule = "centre",
    *,
    counted: RegionSet | None = None,
    is_drawing: bool = False,
) -> RegionSet:
    """Return what layers tell as regions in pixels of an image.

    A shape of a layer that has the axis of slices or frames holds in the one it was drawn in; a shape of a
    layer without that axis, which napari shows in every slice, holds in every slice. Names are those of a
    feature ``name`` or ``region``, else numbers from 1; with a feature ``exclude`` that is true, or a name
    that begins with this word, a shape is cut out. Where ``is_drawing`` those without an inside are left out.

    Cells that were ``counted`` in regions lie in these where no shapes are chosen, and in shapes only as far
    as these reach.

    SettingsError where a shape has no inside, or lies across slices. WrongLayerError where the pixels of the
    mask are not those of the image.
    """
    drawn: list[Region] = []
    excluded: list[Region] = []
    if counted is not None:
        excluded += counted.excluded
        if layers.shapes is None:
            drawn += counted.included
        elif counted.included:
            excluded.append(Complement(counted.included))
    if layers.shapes is not None:
        drawn += _shape_regions(layers.shapes, layer, channel_axis, is_drawing=is_drawing)
    if layers.excluded is not None:
        excluded += _shape_regions(layers.excluded, layer, channel_axis, is_drawing=is_drawing)
    mask = None
    if layers.mask is not None:
        mask = _mask_region(layers.mask, layer, channel_axis, is_outside=layers.is_outside)
    return region_set(drawn, excluded, mask, rule)


def _shape_regions(
    shapes: Shapes, layer: Layer, channel_axis: int | None, *, is_drawing: bool
) -> list[ShapeRegion]:
    matrix, origin = affine_between(shapes, layer)
    n_missing = max(layer.ndim - shapes.ndim, 0)
    found = []
    for number, (vertices, kind) in enumerate(zip(shapes.data, shapes.shape_type, strict=True)):
        corners = np.asarray(vertices, np.float64) @ matrix.T + origin
        name = shape_name(shapes, number)
        lead = corners[:, : layer.ndim - 2]
        spread = np.ptp(lead, axis=0)[n_missing:]
        if (spread > HALF_PIXEL).any():
            raise SettingsError(
                f"{name!r} of layer {shapes.name!r} lies across several slices. Draw regions while the "
                "viewer shows one slice, rows downwards."
            )
        index: list[int | None] = [round(float(one)) for one in lead.mean(axis=0)]
        index[:n_missing] = [None] * n_missing
        if channel_axis is not None and channel_axis < len(index):
            del index[channel_axis]
        try:
            found.append(shape_region(name, str(kind), corners[:, -2:], tuple(index)))
        except SettingsError:
            if not is_drawing:
                raise
    return found


def shape_name(shapes: Shapes, number: int) -> str:
    """Return what a shape is called as a region; see ``regions_of``."""
    row = shapes.features.iloc[number].to_dict() if len(shapes.features.columns) else {}
    texts = [str(row[column]) for column in ("name", "region") if column in row]
    name = next((text for text in texts if text not in ("", "nan", "None")), f"region {number + 1}")
    if row.get("exclude") in (True, 1, "True", "true") and not is_excluded(name):
        name = f"{EXCLUDED} {name}"
    return name


def _mask_region(mask: Labels, layer: Layer, channel_axis: int | None, *, is_outside: bool) -> MaskRegion:
    """Return the labels that are not 0 as pixels of an image; beside the layer there are none."""
    matrix, origin = affine_between(mask, layer)
    n_missing = layer.ndim - mask.ndim
    name = f"outside {mask.name}" if is_outside else mask.name
    pixels = np.asarray(full_resolution(mask)) != 0
    shape = list(pixels.shape if isinstance(layer, Points) else _shape(layer)[n_missing:])
    first = np.rint(origin[n_missing:]).astype(int)
    if n_missing < 0 or not np.allclose(matrix[n_missing:], np.eye(mask.ndim), atol=SAME_PIXELS):
        if not _is_same_field(matrix[n_missing:], origin[n_missing:], pixels.shape, shape):
            raise WrongLayerError(
                f"The pixels of the mask {mask.name!r} are not those of the image {layer.name!r}, and by the "
                "scale of both it covers another field. Choose labels that were made on this image."
            )
        pixels = SampledPixels(pixels, shape, np.diag(matrix[n_missing:]).tolist())[...]
        first = np.zeros(len(shape), int)
    if channel_axis is not None and channel_axis >= n_missing:
        at = channel_axis - n_missing
        pixels, first = pixels.max(axis=at), np.delete(first, at)
        del shape[at]
    if pixels.shape == tuple(shape) and not first.any():
        return MaskRegion(name, pixels, is_inverted=is_outside)
    whole = np.zeros(shape, bool)
    window, own = overlap(first.tolist(), pixels.shape, shape)
    whole[window] = pixels[own]
    return MaskRegion(name, whole, is_inverted=is_outside)


def _is_same_field(
    matrix: NDArray[np.float64], origin: NDArray[np.float64], mask: Sequence[int], shape: Sequence[int]
) -> bool:
    """Return whether a mask with other pixels covers an image, up to a pixel; corners are compared.

    Layers that begin at the same place of the world have the middle of their first pixels there.
    """
    if matrix.shape != (len(mask), len(mask)) or len(shape) != len(mask):
        return False
    factors = np.diag(matrix)
    if not np.allclose(matrix, np.diag(factors), atol=SAME_PIXELS) or (factors <= 0).any():
        return False
    pixel = np.maximum(factors, 1)
    is_as_long = np.abs(factors * mask - shape) <= pixel
    corner = origin - factors / 2 + HALF_PIXEL
    return bool(is_as_long.all() and (np.abs(corner) <= pixel / 2 + SAME_PIXELS).all())


def line_length_px(shapes: Shapes, layer: ImageLayer) -> float:
    """Return the length of the line drawn last, in pixels of the layer."""
    vertices = in_pixels(shapes.data[-1], shapes, layer)
    return float(np.linalg.norm(vertices[-1, -2:] - vertices[0, -2:]))


def _window(layer: ImageLayer, low: NDArray[np.float64], high: NDArray[np.float64], otherwise: str) -> Window:
    shape = np.array(_shape(layer))
    first = np.clip(low, 0, shape).astype(int)
    last = np.clip(high, 0, shape).astype(int)
    if np.any(first >= last):
        raise ImageError(otherwise)
    return window_between(first, last)


def _shape(layer: ImageLayer) -> tuple[int, ...]:
    """Length of each axis at full resolution, colours left out."""
    return tuple(full_resolution(layer).shape[: layer.ndim])


def name_regions(shapes: Shapes) -> None:
    """Name the regions of a layer by its features, and show the names in the viewer, unless the user has.

    Call it again when shapes come: napari gives a new one the name of the last.
    """
    features, n = shapes.features, len(shapes.data)
    if not n or len(features) != n:
        return  # napari is still at it
    is_ours = shapes.metadata.get(NAMED, False)
    if not is_ours and ("name" in features or "region" in features):
        return
    names = [""] * n
    if is_ours and "name" in features:
        names = features["name"].astype(str).tolist()
    taken, renamed = set[str](), []
    for name in names:
        if name in ("", "nan", "None") or name in taken:
            number = next(one for one in count(1) if f"region {one}" not in {*taken, *names})
            name = f"region {number}"
        taken.add(name)
        renamed.append(name)
    if renamed != names:
        shapes.metadata = {**shapes.metadata, NAMED: True}
        shapes.features = features.assign(name=renamed)
    if not is_ours and not any(np.ravel(shapes.text.values).tolist()):
        shapes.text = {"string": "{name}", "color": COLOUR, "size": NAME_PT, "anchor": "upper_left"}


def region_layer(viewer: Any, but: Shapes | None = None) -> Shapes | None:
    """Return the Shapes layer to take a region from: the active one, else the topmost with shapes.

    ``but`` is not taken: its shapes are for something else.
    """
    drawn = [layer for layer in viewer.layers if is_shapes(layer) and layer is not but]
    active = viewer.layers.selection.active
    if active in drawn:
        return active
    filled = [layer for layer in drawn if len(layer.data)]
    return next(reversed(filled or drawn), None)


def in_every_slice(viewer: Any, shapes: Shapes) -> Shapes:
    """Return a new layer with the same shapes in every slice and frame; the one with the old hides."""
    vertices, looks, _ = shapes.as_layer_data_tuple()
    looks |= {"name": f"{shapes.name}, everywhere", "ndim": 2, "visible": True}
    looks |= last_axes(whole_placement(shapes), 2)
    copy = viewer.add_shapes([one[:, -2:] for one in vertices], **looks)
    viewer.layers.move(viewer.layers.index(copy), viewer.layers.index(shapes) + 1)
    shapes.visible = False
    return copy


def shapes_layer(viewer: Any, layer: ImageLayer, regions: Sequence[ShapeRegion]) -> Shapes:
    """Return a new layer that shows regions of an image, in every slice or each in its own; names are kept.

    SettingsError where some hold in every slice and others in one.
    """
    are_everywhere = {all(place is None for place in one.index) for one in regions}
    if len(are_everywhere) > 1:
        raise SettingsError("Regions of one layer hold in every slice, or each in one of its own; got both.")
    ndim, axis, polygons = layer.ndim, channels_of(layer)[0].axis, []
    if are_everywhere == {True}:
        ndim = 2
    for one in regions:
        lead: list[int] = []
        if ndim > 2:
            lead = [place or 0 for place in one.index]
            if axis is not None:
                lead.insert(axis, 0)
        polygons += [np.column_stack([np.tile(lead, (len(ring), 1)), ring]) for ring in one.rings[:1]]
    shapes = _shapes(viewer, layer, "regions", ndim)
    shapes.add(polygons, shape_type="polygon")
    shapes.features = {"name": [one.name for one in regions]}
    return shapes


def ask_for_region(viewer: Any, layer: ImageLayer) -> Shapes:
    """Return a layer in which the next drag of the mouse draws a rectangle, for every slice."""
    return _ask(viewer, layer, REGION_NAME, "add_rectangle", ndim=2)


def ask_for_line(viewer: Any, layer: ImageLayer, on_measured: Callable[[float], None]) -> Shapes:
    """Return a layer in which the next drag of the mouse draws a line.

    When it is drawn, ``on_measured`` is given its length in pixels of ``layer``, and the drawing goes away.
    """
    shapes = _ask(viewer, layer, LINE_NAME, "add_line", layer.ndim)

    def finish() -> None:
        if shapes not in viewer.layers or not shapes.data:
            return
        length = line_length_px(shapes, layer)
        if length < SHORTEST_LINE_PX:
            shapes.data = []
            return
        viewer.layers.remove(shapes)
        if layer in viewer.layers:
            viewer.layers.selection.active = layer
        on_measured(length)

    def on_drag(_: Shapes, event: Any) -> Iterator[None]:
        yield
        while event.type == "mouse_move":
            yield
        QTimer.singleShot(0, finish)  # napari is still handling the mouse

    shapes.mouse_drag_callbacks.append(on_drag)
    return shapes


def _ask(viewer: Any, layer: ImageLayer, name: str, mode: str, ndim: int) -> Shapes:
    shapes = _shapes(viewer, layer, name, ndim)
    shapes.mode = mode
    return shapes


def _shapes(viewer: Any, layer: ImageLayer, name: str, ndim: int) -> Shapes:
    extent = max(full_resolution(layer).shape[-2:])
    return viewer.add_shapes(
        ndim=ndim,
        name=name,
        face_color="transparent",
        edge_color=COLOUR,
        edge_width=max(extent / 400, 1.0),
        **last_axes(whole_placement(layer), ndim),
    )
