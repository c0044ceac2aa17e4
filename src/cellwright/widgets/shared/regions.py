"""Parts of an image to count in: what the viewer shows, a drawn rectangle; and the length of a drawn line."""

from typing import Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Shapes
from numpy.typing import NDArray

from cellwright.core.errors import ImageError, WrongLayerError
from cellwright.widgets.shared.coordinates import Channel, axes_of
from cellwright.widgets.shared.layer_io import Window

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
    factors = layer.downsample_factors[layer.data_level] if layer.multiscale else np.ones(layer.ndim)
    corners = np.asarray(layer.corner_pixels) * factors  # first and last pixel
    current = np.asarray(layer.world_to_data(viewer.dims.point[-layer.ndim :]))
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
    reach = n_slices if n_around is None else n_around
    first, end = max(window[place].start - reach, 0), min(window[place].stop + reach, n_slices)
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
    vertices = _in_pixels(shapes, layer, np.asarray(shapes.data[-1]))
    low, high = np.zeros(layer.ndim), np.array(_shape(layer), float)
    low[-2:] = np.floor(vertices[:, -2:].min(axis=0) + 0.5)
    high[-2:] = np.ceil(vertices[:, -2:].max(axis=0) + 0.5)
    return _window(layer, low, high, f"The shape in layer {shapes.name!r} lies beside the image. Move it.")


def line_length_px(shapes: Shapes, layer: ImageLayer) -> float:
    """Return the length of the line drawn last, in pixels of the layer."""
    vertices = _in_pixels(shapes, layer, np.asarray(shapes.data[-1]))
    return float(np.linalg.norm(vertices[-1, -2:] - vertices[0, -2:]))


def _in_pixels(shapes: Shapes, layer: ImageLayer, vertices: NDArray[np.float64]) -> NDArray[np.float64]:
    n = layer.ndim
    world = [np.asarray(shapes.data_to_world(vertex), float) for vertex in vertices]
    padded = [np.concatenate([np.zeros(max(n - len(point), 0)), point])[-n:] for point in world]
    return np.array([layer.world_to_data(point) for point in padded])


def _window(layer: ImageLayer, low: NDArray[np.float64], high: NDArray[np.float64], otherwise: str) -> Window:
    shape = np.array(_shape(layer))
    first = np.clip(low, 0, shape).astype(int)
    last = np.clip(high, 0, shape).astype(int)
    if np.any(first >= last):
        raise ImageError(otherwise)
    return tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))


def _shape(layer: ImageLayer) -> tuple[int, ...]:
    """Length of each axis at full resolution, colours left out."""
    data = layer.data[0] if layer.multiscale else layer.data
    return tuple(data.shape[: layer.ndim])
