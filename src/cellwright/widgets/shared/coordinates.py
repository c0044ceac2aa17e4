"""What the axes of an image layer mean: letters, channels, micrometres per pixel, pixels of other layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Layer
from napari.utils.transforms import Affine
from numpy.typing import ArrayLike, NDArray

from cellwright.core.data import CHANNEL, Image, without_channels
from cellwright.core.errors import AxesError, WrongLayerError
from cellwright.files.images import describe_images, is_described
from cellwright.files.metadata import ArrayFacts, FilePart, Understood, understand, with_axes
from cellwright.ops.geometry.axes import COLOURS as COLOUR_COUNTS

COLOURS = ("Red", "Green", "Blue")
MOST_CHANNELS = 4
LETTERS = {"t": "T", "time": "T", "c": "C", "channel": "C", "channels": "C", "z": "Z", "y": "Y", "x": "X"}
NO_CHANNELS = "None: every slice is an image"
UNNAMED = "TZYX"  # meaning of axes of which none are channels, counted from the last
AXES = "cellwright axes"  # key in the metadata of a layer: those the user has chosen
FILE_PART = "cellwright file"  # the same: FilePart that our reader has read
SAME_PIXELS = 1e-3  # by which pixels of two layers may differ
MOST_SHIFT_PX = 0.5 + SAME_PIXELS  # of labels against their image

Window = tuple[slice, ...]  # one for each axis of a layer, colours left out


@dataclass(frozen=True, slots=True)
class Channel:
    """One choice of what to count in."""

    title: str  # what the user reads
    index: int | None = None  # channel number for the engine; None takes colours together
    axis: int | None = None  # axis of the layer that holds the channels; None for grey and for colour images


def understood(layer: ImageLayer) -> Understood:
    """Return a layer as image; what it does not tell itself is taken from its file, where that agrees.

    The first look at a file takes a moment, see :func:`is_understood`.

    WrongLayerError where it has less than two axes, or more than there are letters for.
    """
    part = layer.metadata.get(FILE_PART)
    if isinstance(part, FilePart):
        file = [part]
    else:
        file = [FilePart(image) for image in describe_images(layer.source.path or "")]
    facts = ArrayFacts(
        axes=_named_axes(layer),
        chosen=chosen_axes(layer),
        steps_um=steps_um(layer),
        is_colour=bool(layer.rgb),
        frame_interval_s=frame_interval_s(layer),
    )
    try:
        return understand(full_resolution(layer), layer.name, facts, file)
    except AxesError as error:
        raise WrongLayerError(
            f"Cells are counted in images of 2 to {len(UNNAMED)} axes and channels; layer {layer.name!r} has "
            f"{layer.ndim}, of {full_resolution(layer).shape}. Split it, or drop axes of length one."
        ) from error


def is_understood(layer: Layer | None) -> bool:
    """Return whether :func:`understood` needs no look at a file."""
    if not isinstance(layer, ImageLayer):
        return True
    return FILE_PART in layer.metadata or is_described(layer.source.path or "")


def chosen_axes(layer: ImageLayer) -> str:
    """Return the axes that the user has chosen for a layer, colours left out; '' as it is understood."""
    chosen = str(layer.metadata.get(AXES, ""))
    return chosen if len(chosen) == layer.ndim else ""


def channels_of(layer: ImageLayer) -> tuple[Channel, ...]:
    """Return the channels a user can choose from, the most likely first."""
    if layer.rgb:
        return _colours(None)
    try:
        known = understood(layer)
    except WrongLayerError:  # told by who counts in it
        return (Channel("Grey"),)
    axes, shape = known.image.axes, known.image.shape
    axis = axes.find(CHANNEL)
    if axis < 0:
        return (Channel("Grey"),)
    if known.channels_in_front or (axes.endswith(CHANNEL) and shape[axis] in COLOUR_COUNTS):
        return _colours(axis)
    names = known.image.channel_names or [f"Channel {index}" for index in range(shape[axis])]
    titles = (_own_title(names, index) for index in range(len(names)))
    channels = tuple(Channel(title, index, axis) for index, title in enumerate(titles))
    if known.axes_from != "shape" or not axes.endswith("YX"):
        return channels
    return (*channels, Channel(NO_CHANNELS))


def _own_title(names: Sequence[str], index: int) -> str:
    """Return the name of a channel, with its number where it has none of its own."""
    name = names[index]
    if not name:
        return f"Channel {index}"
    if list(names).count(name) == 1:
        return name
    return f"{name} ({index})"


def _colours(axis: int | None) -> tuple[Channel, ...]:
    each = (Channel(name, index, axis) for index, name in enumerate(COLOURS))
    return (Channel("All colours", None, axis), *each)


def image_as_it_lies(layer: ImageLayer, channel: Channel | None = None) -> Image:
    """Return a layer as image, its axes as in the layer; all slices where that was chosen as channel.

    WrongLayerError where it has less than two axes, or more than there are letters for.
    """
    image = understood(layer).image
    if channel is None or channel.title != NO_CHANNELS or CHANNEL not in image.axes:
        return image
    return with_axes(image, UNNAMED[-len(image.axes) :])


def image_in(layer: ImageLayer, channel: Channel | None = None) -> Image:
    """Return a layer as the image that is counted, colours last, with the smaller copies it is shown by."""
    image = image_as_it_lies(layer, channel)
    if layer.multiscale:
        image = replace(image, levels=tuple(layer.data[1:]))
    takes_all = channel is None or channel.index is None
    if takes_all and CHANNEL in image.axes and understood(layer).channels_in_front:
        at = image.axes.index(CHANNEL)
        axes = without_channels(image.axes) + CHANNEL
        image = replace(image, data=np.moveaxis(image.data, at, -1), axes=axes, levels=())
    return image


def steps_um(layer: Layer) -> tuple[float, ...]:
    """Return micrometres per pixel along each axis, 0 where the layer has no unit of length.

    Nothing where one of the last two has none.
    """
    is_length = [unit.is_compatible_with("micrometer") for unit in layer.units]
    if not all(is_length[-2:]):
        return ()
    origin, steps = np.asarray(layer.data_to_world(np.zeros(layer.ndim))), [0.0] * layer.ndim
    for place, unit in enumerate(layer.units):
        if is_length[place]:
            step = np.asarray(layer.data_to_world(np.eye(layer.ndim)[place])) - origin
            steps[place] = float((np.linalg.norm(step) * unit).to("micrometer").magnitude)
    return tuple(steps)


def frame_interval_s(layer: Layer) -> float:
    """Return the seconds from frame to frame that the first axis of a layer tells; 0 where it does not."""
    if not layer.units[0].is_compatible_with("second"):
        return 0.0
    return float((layer.scale[0] * layer.units[0]).to("second").magnitude)


def _named_axes(layer: ImageLayer) -> str:
    """Letters of the axis labels; empty when they do not name every axis once, ending with YX."""
    letters = "".join(LETTERS.get(label.lower(), "?") for label in layer.axis_labels)
    is_clear = "?" not in letters and len(set(letters)) == len(letters)
    if not is_clear or not without_channels(letters).endswith("YX"):
        return ""
    return letters


def lazy(data: Any) -> Any:
    """Return an array as a dask array, which is sliced without loading or hashing it."""
    from dask.array import Array, from_array  # napari brings dask

    if isinstance(data, Array):
        return data
    return from_array(data, chunks=getattr(data, "chunks", "auto"), name=False)


def plane_of(layer: Layer) -> tuple[int, ...]:
    """Return how many rows and columns of pixels a layer has."""
    return full_resolution(layer).shape[layer.ndim - 2 : layer.ndim]


def in_shape(labels: Any, shape: tuple[int, ...]) -> Any:
    """Return labels in this shape where axes of length one alone are between the two, else as they are."""
    if [n for n in labels.shape if n != 1] == [n for n in shape if n != 1]:
        return labels.reshape(shape)
    return labels


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
    matrix, origin = affine_between(layer, other)
    return without_axis(np.asarray(points, float).reshape(-1, layer.ndim) @ matrix.T + origin, channel_axis)


def in_pixels_in_sight(
    points: ArrayLike, layer: Layer, other: Layer, channel_axis: int | None, in_sight: ArrayLike
) -> NDArray[np.float64]:
    """Return the same as :func:`in_pixels`; a layer without slices means those in sight of the world."""
    found = in_pixels(points, layer, other, channel_axis)
    if layer.ndim < other.ndim:
        found[:, :-2] = pixel_at(other, np.asarray(in_sight)[-other.ndim :], channel_axis)[:-2]
    return found


def axis_of(channel: Channel | None) -> int | None:
    """Return the axis of a layer that holds its channels, None where there is none."""
    return None if channel is None else channel.axis


def without_axis(points: NDArray[np.float64], axis: int | None) -> NDArray[np.float64]:
    """Return points (..., axes) without their coordinate along an axis, None for no axis."""
    return points if axis is None else np.delete(points, axis, axis=-1)


def with_axis(points: NDArray[Any], axis: int | None) -> NDArray[Any]:
    """Return points (..., axes) with a zero along a further axis, None for no axis."""
    return points if axis is None else np.insert(points, axis, 0, axis=-1)


def expanded(pixels: NDArray[Any], axis: int | None) -> NDArray[Any]:
    """Return pixels with a further axis of length one, None for no axis."""
    return pixels if axis is None else np.expand_dims(pixels, axis)


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


def check_upon(other: Layer, layer: Layer, n_axes: int = 2) -> None:
    """Raise WrongLayerError where pixels of two layers, along the last axes, are not of the same places."""
    matrix, origin = affine_between(other, layer)
    is_same = np.allclose(matrix[-n_axes:, -n_axes:], np.eye(n_axes), atol=SAME_PIXELS)
    if not is_same or not np.allclose(origin[-n_axes:], 0, atol=SAME_PIXELS):
        raise WrongLayerError(
            f"{other.name!r} does not lie on {layer.name!r} pixel by pixel. Give both the same scale and "
            "translation, or leave it out."
        )


def check_unmoved(labels: Layer, image: Layer) -> None:
    """Raise WrongLayerError where labels are shifted or turned in the viewer against an image of their shape.

    Their scale may be another: many files of labels tell none.
    """
    matrix, origin = affine_between(labels, image)
    n_missing = max(image.ndim - labels.ndim, 0)
    own = matrix[n_missing:, -len(matrix) + n_missing :]
    sizes = np.diag(own)
    is_turned = not np.allclose(own, np.diag(sizes), atol=SAME_PIXELS) or (sizes <= 0).any()
    shift = np.abs(origin[n_missing:]).max(initial=0)
    if is_turned or shift > MOST_SHIFT_PX:
        raise WrongLayerError(
            f"{labels.name!r} does not lie where {image.name!r} does: it is shifted or turned. Give both the "
            "same translation and rotation."
        )


def whole_placement(layer: Layer) -> dict[str, Any]:
    """Return the arguments that give a new layer the transform, units and axis labels of another."""
    return placement_of(layer, np.zeros(layer.ndim, np.intp), drop_first=False)


def last_axes(placement: Mapping[str, Any], ndim: int) -> dict[str, Any]:
    """Return the same placement for a layer that has only the last axes."""
    kept = {name: value[-ndim:] for name, value in placement.items()}
    for name in ("rotate", "shear"):
        kept[name] = placement[name][-ndim:, -ndim:]
    kept["affine"] = placement["affine"][-ndim - 1 :, -ndim - 1 :]
    return kept


def transform_of(layer: Layer) -> list[Any]:
    """Return where and how a layer lies, to be compared with how it lies later."""
    parts = (layer.scale, layer.translate, layer.rotate, layer.shear, layer.affine.affine_matrix)
    return [part.tolist() for part in parts]


def placement_of(layer: Layer, first: NDArray[np.intp], *, drop_first: bool) -> dict[str, Any]:
    """Return the arguments that put an array where it belongs; ``first`` is its first pixel in the layer."""
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
