"""What of layers is counted in: further channels together with the chosen one, and as which colours.

The channels are of its layer or of other ones; colours are what ``pseudocolor`` sees a volume in.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from napari.layers import Image as ImageLayer
from napari.utils.notifications import show_error
from numpy.typing import NDArray

from cellwright.core.data import CHANNEL, Image
from cellwright.core.errors import CellwrightError, WrongLayerError
from cellwright.files.images import describe_images
from cellwright.files.metadata import FilePart
from cellwright.inference.settings import EngineSettings
from cellwright.ops.codecs.pseudocolor import PseudocolorFrames, pseudocolor_frames
from cellwright.ops.geometry.axes import StackedPixels
from cellwright.ops.measure.blocks import cropped
from cellwright.widgets.shared.coordinates import (
    FILE_PART,
    Channel,
    Window,
    channels_of,
    check_upon,
    expanded,
    image_in,
    is_understood,
)
from cellwright.widgets.shared.edited_layers import METADATA, is_image
from cellwright.widgets.shared.layer_io import Source, place, source_of

if TYPE_CHECKING:
    import napari.viewer

COLOURS = "colours"


class LayerChannel(NamedTuple):
    """One channel of a layer; all of a layer that has no channels."""

    layer: ImageLayer
    channel: Channel

    @property
    def key(self) -> str:
        """What tells it from others."""
        return f"{self.layer.unique_id} {self.channel.index}"

    @property
    def name(self) -> str:
        """What it is called: as the layer, where that has no channels."""
        return str(self.layer.name) if self.channel.axis is None else self.channel.title

    @property
    def image(self) -> Image:
        """The image of the layer."""
        return image_in(self.layer, self.channel)


def further_channels(
    layers: Iterable[Any], layer: ImageLayer | None, channel: Channel | None
) -> dict[str, LayerChannel]:
    """Return title and channel of all that can be counted in together with a channel of a layer.

    Colours are none: they are taken together anyway.
    """
    if layer is None or not is_understood(layer):
        return {}
    own = _single(layer)
    chosen = channel or channels_of(layer)[0]
    if layer.rgb or chosen not in own:
        return {}
    found = {one.title: LayerChannel(layer, one) for one in own if one != chosen}
    for other in reversed(list(layers)):
        if other is layer or not is_image(other) or other.rgb or not is_understood(other):
            continue
        for one in _single(other):
            title = str(other.name) if one.axis is None else f"{other.name} · {one.title}"
            if title in found:  # a channel of the chosen layer is called like this layer
                title = f"{title} (layer)"
            found[title] = LayerChannel(other, one)
    return found


def _single(layer: ImageLayer) -> list[Channel]:
    channels = channels_of(layer)
    if channels[0].axis is None:
        return list(channels[:1])
    return [one for one in channels if one.axis is not None and one.index is not None]


def channels_by_number(layers: Iterable[Any], layer: ImageLayer) -> tuple[Image, dict[int, LayerChannel]]:
    """Return the image that a layer is, or is a channel of, and what shows each of its channels by number."""
    image, part = image_in(layer), layer.metadata.get(FILE_PART)
    if CHANNEL in image.axes or not isinstance(part, FilePart):
        return image, {int(one.index or 0): LayerChannel(layer, one) for one in _single(layer)}
    found = {}
    for other in layers:
        own = other.metadata.get(FILE_PART)
        if isinstance(own, FilePart) and own.channel is not None and _is_alike(own.image, part.image):
            found[own.channel] = LayerChannel(other, channels_of(other)[0])
    return part.image, found


def _is_alike(image: Image, other: Image) -> bool:
    return (image.source, image.name, image.shape) == (other.source, other.name, other.shape)


def numbers_of(chosen: LayerChannel, also: Sequence[LayerChannel]) -> tuple[str, ...]:
    """Return the channels to count in, as the engine takes them, of the image of :func:`source_with`."""
    if _is_one_layer(chosen, also):
        return tuple(str(one.channel.index) for one in (chosen, *also))
    return tuple(map(str, range(len(also) + 1)))


def source_with(
    chosen: LayerChannel, also: Sequence[LayerChannel] = (), window: Window | None = None
) -> Source:
    """Return what is to be counted; channels of several layers as one image.

    WrongLayerError where a layer does not lie upon the chosen one, pixel upon pixel.
    """
    source = source_of(chosen.layer, chosen.channel, window)
    if _is_one_layer(chosen, also):
        return source
    together = (chosen, *also)
    for one in also:
        own, wanted = one.image.label_shape, chosen.image.label_shape
        if own != wanted:
            raise WrongLayerError(
                f"Channels that are counted in together have the same size; {one.layer.name!r} has {own} "
                f"pixels, {chosen.layer.name!r} {wanted}. Leave one out, or open images of the same size."
            )
        n_axes = len([axis for axis in chosen.image.label_axes if axis != "T"])
        check_upon(one.layer, chosen.layer, n_axes)
    images = [one.image for one in together]
    part, files = _place_in_files(together, images)
    channels = []
    for one, image in zip(together, images, strict=True):
        index = one.channel.index if CHANNEL in image.axes else None
        if image.label_shape != source.image.label_shape:
            image = cropped(image, source.offset, source.image.label_shape)
        channels.append((image, index))
    image = replace(
        source.image,
        data=StackedPixels(tuple(channels)),
        axes=CHANNEL + source.image.label_axes,
        channel_names=tuple(one.name for one in together),
        channel_colors=(),
        source_part=part,
        source_files=files,
        levels=(),
    )
    return replace(source, image=image)


def _is_one_layer(chosen: LayerChannel, also: Sequence[LayerChannel]) -> bool:
    return all(one.layer is chosen.layer for one in also)


def _place_in_files(
    together: Sequence[LayerChannel], images: Sequence[Image]
) -> tuple[tuple[str, tuple[int, ...]], tuple[str, ...]]:
    """Return the axes of the first file, as chosen, which channels these are, and further files behind it.

    There are no such channels where one is of no file, or of a file of colours or of several images.
    """
    files = list(dict.fromkeys(image.source for image in images))
    part = _part_of_file(images)
    if len(files) == 1:
        return part, ()
    starts, n, axes_of = {}, 0, {}
    for file in files:
        described = describe_images(file)
        if len(described) != 1 or described[0].axes.endswith(CHANNEL):
            return part, ()
        starts[file] = n
        image = next(one for one in images if one.source == file)
        axes_of[file] = image.axes if image.source_part is None else image.source_part[0]
        if len(axes_of[file]) != len(described[0].shape):  # chosen, and the file cannot have them
            axes_of[file] = described[0].axes
        n += dict(zip(axes_of[file], described[0].shape, strict=True)).get(CHANNEL, 1)
    numbers = []
    for one, image in zip(together, images, strict=True):
        number: Any = one.channel.index or 0
        if image.source_part is not None:
            number = image.source_part[1]
        if not isinstance(number, int):
            return part, ()
        numbers.append(starts[image.source] + number)
    return (axes_of[files[0]], tuple(numbers)), tuple(files[1:])


def _part_of_file(images: Sequence[Image]) -> tuple[str, tuple[int, ...]]:
    """Return the axes of the file that images are channels of, and which; none where they are of several."""
    parts = [image.source_part for image in images]
    numbers = tuple(part[1] for part in parts if part is not None and isinstance(part[1], int))
    is_one_file = len({image.source for image in images} - {""}) == 1
    if len(numbers) < len(images) or not is_one_file or parts[0] is None:
        return CHANNEL + images[0].label_axes, ()
    return parts[0][0], numbers


def show_active_colours(viewer: "napari.viewer.Viewer") -> None:
    """Add the pseudo-colours of the active image layer; a notification tells why not."""
    try:
        show_colours(viewer, source_of(viewer.layers.selection.active))
    except CellwrightError as error:
        show_error(str(error))


def show_colours(
    viewer: Any,
    source: Source,
    engine: EngineSettings = EngineSettings(),  # noqa: B008 - frozen
) -> ImageLayer:
    """Add the pseudo-colours of a volume as an RGB layer and return it.

    A slice is coloured when it is looked at, so a volume of any size takes no time. The engine tells the
    channels.

    AxesError where the image is not a volume, or has one slice only.
    """
    seen = engine.seen(source.image)
    colours = lazy_colours(pseudocolor_frames(seen.image, seen.channel))
    colours = expanded(colours, source.channel_axis)
    made = ImageLayer(colours, rgb=True, name=f"{source.image.name} colours", **source.placement)
    made.metadata = {METADATA: {**source.key, "output": COLOURS}}
    return place(viewer, {COLOURS: made})[COLOURS]


def lazy_colours(frames: PseudocolorFrames) -> Any:
    """Return the coloured slices (..., Y, X, 3) as a dask array, one chunk for each slice."""
    from dask.array import map_blocks  # napari brings dask

    lead, shape = frames.lead_shape, frames.shape
    lock = Lock()  # the frames keep neighbours, and slices are read from several threads

    def read(block_info: Any = None) -> NDArray[np.float32]:
        location = block_info[None]["chunk-location"][: len(lead)]
        with lock:
            colours = frames.read(int(np.ravel_multi_index(location, lead)), (slice(None), slice(None)))
        return np.moveaxis(colours, 0, -1)[(np.newaxis,) * len(lead)]

    chunks = (*((1,) * n for n in lead), (shape[0],), (shape[1],), (3,))
    return map_blocks(read, chunks=chunks, dtype=np.float32, meta=np.empty((0,) * len(chunks), np.float32))
