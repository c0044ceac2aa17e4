"""Parts of an image to count in: what the viewer shows, or what the user draws in layers made for that."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Shapes
from numpy.typing import NDArray
from qtpy.QtCore import QTimer

from cellwright.core.errors import ImageError, WrongLayerError
from cellwright.ops.measure.regions import RegionRule, RegionSet, ShapeRegion, shape_region
from cellwright.widgets.shared.coordinates import Channel, axes_of, full_resolution, in_pixels, pixel_at
from cellwright.widgets.shared.edited_layers import METADATA
from cellwright.widgets.shared.layer_factory import COLOUR
from cellwright.widgets.shared.layer_io import Window, whole_placement

REGION_NAME = "region to count"
LINE_NAME = "line across a cell"
SHORTEST_LINE_PX = 2.0  # a click without a drag is no line
PREVIEW_PX = 1024
PREVIEW_SLICES = 4  # on either side of the one in sight


def window_in_view(viewer: Any, layer: ImageLayer, largest_px: int | None = None) -> Window:
    """Return the pixels of the layer that the viewer shows: the visible field of the current slice.

    Parameters
    ----------
    viewer
        A napari viewer.
    layer
        An image layer of it.
    largest_px
        Longest side of the window, which then lies in the middle of the visible field.

    Raises
    ------
    WrongLayerError
        The viewer shows a volume, or the image from its side.
    ImageError
        The image is out of sight.
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
    return _window(layer, low, high + 1, "The image is out of sight. Press Home in the viewer to see it.")


def through_slices(
    window: Window, layer: ImageLayer, channel: Channel | None, n_around: int | None = None
) -> Window:
    """Return a window in one slice of a volume widened to slices around it; an image without any stays.

    Parameters
    ----------
    window
        In pixels of the layer.
    layer, channel
        What is to be counted in.
    n_around
        Slices on either side; None takes all.
    """
    place = axes_of(layer, channel).find("Z")
    if place < 0:
        return window
    n_slices = _shape(layer)[place]
    if n_around is None:
        n_around = n_slices
    first, end = max(window[place].start - n_around, 0), min(window[place].stop + n_around, n_slices)
    return (*window[:place], slice(first, end), *window[place + 1 :])


def window_of_rectangle(shapes: Shapes, layer: ImageLayer) -> Window:
    """Return the pixels of the layer inside the box around the shape drawn last, in every slice.

    Raises
    ------
    WrongLayerError
        Nothing has been drawn.
    ImageError
        The shape lies beside the image.
    """
    if not shapes.data:
        raise WrongLayerError(f"Draw a rectangle in layer {shapes.name!r} first; it is empty.")
    vertices = in_pixels(shapes.data[-1], shapes, layer)
    low, high = np.zeros(layer.ndim), np.array(_shape(layer), float)
    low[-2:] = np.floor(vertices[:, -2:].min(axis=0) + 0.5)
    high[-2:] = np.ceil(vertices[:, -2:].max(axis=0) + 0.5)
    return _window(layer, low, high, f"The shape in layer {shapes.name!r} lies beside the image. Move it.")


def window_of_regions(
    regions: RegionSet, shapes: Shapes, layer: ImageLayer, margin_px: float = 0.0
) -> Window:
    """Return the pixels of the layer inside the box around all regions and a margin, in every slice.

    Cells at the edge of the box are found whole with a margin of their diameter.

    Raises
    ------
    ImageError
        They lie beside the image.
    """
    corners = np.concatenate(
        [ring for one in regions.included if isinstance(one, ShapeRegion) for ring in one.rings]
    )
    low, high = np.zeros(layer.ndim), np.array(_shape(layer), float)
    low[-2:] = np.floor(corners.min(axis=0) + 0.5)
    high[-2:] = np.ceil(corners.max(axis=0) + 0.5)
    _window(layer, low, high, f"The shapes in layer {shapes.name!r} lie beside the image. Move them.")
    low[-2:] -= margin_px
    high[-2:] += margin_px
    return _window(layer, low, high, "")


def regions_drawn(shapes: Shapes, layer: ImageLayer, rule: RegionRule = "centre") -> RegionSet:
    """Return the shapes of a layer as regions in pixels of the image, each in every slice.

    Raises
    ------
    WrongLayerError
        Nothing has been drawn.
    SettingsError
        A shape has no inside.
    """
    if not shapes.data:
        raise WrongLayerError(
            f"Draw a rectangle in layer {shapes.name!r} first, or any other shape; it is empty."
        )
    drawn = zip(shapes.data, shapes.shape_type, strict=True)
    found = [
        shape_region(f"region {number}", str(kind), in_pixels(vertices, shapes, layer)[:, -2:])
        for number, (vertices, kind) in enumerate(drawn, start=1)
    ]
    return RegionSet(tuple(found), rule=rule)


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
    return tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))


def _shape(layer: ImageLayer) -> tuple[int, ...]:
    """Length of each axis at full resolution, colours left out."""
    return tuple(full_resolution(layer).shape[: layer.ndim])


def region_layer(viewer: Any) -> Shapes | None:
    """Return the Shapes layer to take a region from: the active one, else the topmost with shapes."""
    drawn = [layer for layer in viewer.layers if isinstance(layer, Shapes) and METADATA not in layer.metadata]
    active = viewer.layers.selection.active
    if active in drawn:
        return active
    return next((layer for layer in reversed(drawn) if len(layer.data)), drawn[-1] if drawn else None)


def ask_for_region(viewer: Any, layer: ImageLayer) -> Shapes:
    """Return a layer in which the next drag of the mouse draws a rectangle."""
    return _ask(viewer, layer, REGION_NAME, "add_rectangle")


def ask_for_line(viewer: Any, layer: ImageLayer, on_measured: Callable[[float], None]) -> Shapes:
    """Return a layer in which the next drag of the mouse draws a line.

    When it is drawn, ``on_measured`` is given its length in pixels of ``layer``, and the drawing goes away.
    """
    shapes = _ask(viewer, layer, LINE_NAME, "add_line")

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


def _ask(viewer: Any, layer: ImageLayer, name: str, mode: str) -> Shapes:
    extent = max(full_resolution(layer).shape[-2:])
    shapes = viewer.add_shapes(
        ndim=layer.ndim,
        name=name,
        face_color="transparent",
        edge_color=COLOUR,
        edge_width=max(extent / 400, 1.0),
        **whole_placement(layer),
    )
    shapes.mode = mode
    return shapes
