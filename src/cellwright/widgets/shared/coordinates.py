"""What the axes of an image layer mean: letters, channels, micrometres per pixel, pixels of other layers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Layer
from numpy.typing import ArrayLike, NDArray

from cellwright.core.data import SPATIAL, without_channels
from cellwright.core.errors import WrongLayerError

COLOURS = ("Red", "Green", "Blue")
MOST_CHANNELS = 4  # a longer first axis is taken for slices when it has no name
LETTERS = {"t": "T", "time": "T", "c": "C", "channel": "C", "channels": "C", "z": "Z", "y": "Y", "x": "X"}
UNNAMED = "TZYX"  # meaning of axes without names, counted from the last


@dataclass(frozen=True, slots=True)
class Channel:
    """One choice of what to count in.

    Parameters
    ----------
    title
        What the user reads.
    index
        Channel number for the engine; None takes colours together.
    axis
        Axis of the layer that holds the channels; None for grey and for colour images.
    """

    title: str
    index: int | None = None
    axis: int | None = None


def channels_of(layer: ImageLayer) -> tuple[Channel, ...]:
    """Return the channels a user can choose from, the most likely first."""
    if layer.rgb:
        return (Channel("All colours"), *(Channel(name, index) for index, name in enumerate(COLOURS)))
    axis = _channel_axis(layer)
    if axis is None:
        return (Channel("Grey"),)
    n_channels = full_resolution(layer).shape[axis]
    channels = tuple(Channel(f"Channel {index}", index, axis) for index in range(n_channels))
    if "C" in _named_axes(layer):
        return channels
    return (*channels, Channel("None: every slice is an image"))


def axes_of(layer: ImageLayer, channel: Channel | None = None) -> str:
    """Return the axis letters of the layer's array, from its axis labels where they tell.

    Without ``channel`` the most likely choice is taken.

    Raises
    ------
    WrongLayerError
        Less than two axes, or more than there are letters for.
    """
    axis = (channel or channels_of(layer)[0]).axis
    named = _named_axes(layer)
    n_others = layer.ndim - (axis is not None)
    if named and ("C" in named) == (axis is not None):
        letters = named
    elif 2 <= n_others <= len(UNNAMED):
        letters = UNNAMED[-n_others:]
        if axis is not None:
            letters = letters[:axis] + "C" + letters[axis:]
    else:
        raise WrongLayerError(
            f"Cells are counted in images of 2 to {len(UNNAMED)} axes and channels; layer {layer.name!r} has "
            f"{layer.ndim}. Choose a channel axis, or split the layer."
        )
    if layer.rgb:
        letters += "C"
    return letters


def pixel_size_of(layer: ImageLayer, channel: Channel | None = None) -> tuple[float, ...]:
    """Return the micrometres per pixel of the spatial axes, 0 for a step between slices without a unit.

    It is empty when the units of the layer are no lengths in the plane.
    """
    letters = axes_of(layer, channel)
    spatial = [place for place, letter in enumerate(letters) if letter in SPATIAL]
    is_length = {letters[place]: layer.units[place].is_compatible_with("micrometer") for place in spatial}
    if not (is_length["Y"] and is_length["X"]):
        return ()
    origin = np.asarray(layer.data_to_world(np.zeros(layer.ndim)))
    sizes = []
    for place in spatial:
        if not is_length[letters[place]]:
            sizes.append(0.0)
            continue
        step = np.asarray(layer.data_to_world(np.eye(layer.ndim)[place])) - origin
        sizes.append(float((np.linalg.norm(step) * layer.units[place]).to("micrometer").magnitude))
    return tuple(sizes)


def _channel_axis(layer: ImageLayer) -> int | None:
    named = _named_axes(layer)
    if "C" in named:
        return named.index("C")
    if not named and layer.ndim > 2 and full_resolution(layer).shape[0] <= MOST_CHANNELS:
        return 0
    return None


def _named_axes(layer: ImageLayer) -> str:
    """Letters of the axis labels; empty when they do not name every axis once, ending with YX."""
    letters = "".join(LETTERS.get(label.lower(), "?") for label in layer.axis_labels)
    is_clear = "?" not in letters and len(set(letters)) == len(letters)
    if not is_clear or not without_channels(letters).endswith("YX"):
        return ""
    return letters


def full_resolution(layer: Layer) -> Any:
    """Return the array of a layer, of a multiscale one the largest."""
    if getattr(layer, "multiscale", False):
        return layer.data[0]
    return layer.data


def pixel_at(layer: Layer, position: ArrayLike, channel_axis: int | None = None) -> NDArray[np.float64]:
    """Return where a place of the world lies in pixels of a layer, without its axis of channels."""
    return without_axis(np.asarray(layer.world_to_data(np.asarray(position)), float), channel_axis)


def in_pixels(
    points: ArrayLike, layer: Layer, other: Layer, channel_axis: int | None = None
) -> NDArray[np.float64]:
    """Return points (N, axes) of a layer in pixels of another one, without its axis of channels.

    Axes are counted from the last; those that the first layer lacks are at 0 of the world.
    """
    pixels = [other.world_to_data(layer.data_to_world(point)) for point in np.asarray(points)]
    return without_axis(np.array(pixels, float).reshape(len(pixels), other.ndim), channel_axis)


def axis_of(channel: Channel | None) -> int | None:
    """Return the axis of a layer that holds its channels, None where there is none."""
    if channel is None:
        return None
    return channel.axis


def without_axis(points: NDArray[np.float64], axis: int | None) -> NDArray[np.float64]:
    """Return points (..., axes) without their coordinate along an axis, None for no axis."""
    if axis is None:
        return points
    return np.delete(points, axis, axis=-1)


def affine_between(layer: Layer, other: Layer) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return matrix (other axes, axes) and origin that take pixels of one layer to pixels of another."""
    n_missing = other.ndim - layer.ndim

    def carried(point: NDArray[np.float64]) -> NDArray[np.float64]:
        world = np.asarray(layer.data_to_world(point), np.float64)
        padded = np.concatenate([np.zeros(max(n_missing, 0)), world])[-other.ndim :]
        return np.asarray(other.world_to_data(padded), np.float64)

    origin = carried(np.zeros(layer.ndim))
    matrix = np.stack([carried(step) - origin for step in np.eye(layer.ndim)], axis=1)
    return matrix, origin
