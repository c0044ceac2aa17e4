"""What the axes of an image layer mean: letters, channels to choose from, micrometres per pixel."""

from dataclasses import dataclass

import numpy as np
from napari.layers import Image as ImageLayer

from cellwright.core.data import SPATIAL
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
    shape = layer.data.shapes[0] if layer.multiscale else layer.data.shape
    channels = tuple(Channel(f"Channel {index}", index, axis) for index in range(shape[axis]))
    return channels if "C" in _named_axes(layer) else (*channels, Channel("None: every slice is an image"))


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
        others = UNNAMED[-n_others:]
        letters = others if axis is None else others[:axis] + "C" + others[axis:]
    else:
        raise WrongLayerError(
            f"Cells are counted in images of 2 to {len(UNNAMED)} axes and channels; layer {layer.name!r} has "
            f"{layer.ndim}. Choose a channel axis, or split the layer."
        )
    return letters + "C" if layer.rgb else letters


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
    if named:
        return named.index("C") if "C" in named else None
    shape = layer.data.shapes[0] if layer.multiscale else layer.data.shape
    return 0 if layer.ndim > 2 and shape[0] <= MOST_CHANNELS else None


def _named_axes(layer: ImageLayer) -> str:
    """Letters of the axis labels; empty when they do not name every axis once, ending with YX."""
    letters = "".join(LETTERS.get(label.lower(), "?") for label in layer.axis_labels)
    rest = letters.replace("C", "")
    is_clear = "?" not in letters and len(set(letters)) == len(letters) and rest.endswith("YX")
    return letters if is_clear else ""
