"""Several channels of an image as one: each brought to its own even scale, then put together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cellwright.core.data import CHANNEL, Image
from cellwright.core.errors import SettingsError
from cellwright.ops.geometry.intensity import Scaling, apply, fit

Combination = Literal["maximum", "mean", "colours"]
MOST_COLOURS = 3  # channels that become red, green and blue
WORDS = {
    "maximum": "the brightest of them at each pixel",
    "mean": "their mean",
    "colours": "as red, green and blue",
}


@dataclass(frozen=True, slots=True, eq=False)
class CombinedPixels:
    """Pixels of several channels as one array, read and combined where it is indexed."""

    image: Image  # has the channels
    channels: tuple[int, ...]  # their numbers
    scalings: tuple[Scaling, ...]  # the intensities of each that become 0 and 1
    how: Combination  # colours are a last axis of three, black where there is no third channel

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        if self.how == "colours":
            return (*self.image.label_shape, MOST_COLOURS)
        return self.image.label_shape

    @property
    def dtype(self) -> DTypeLike:
        """Type of the pixels."""
        return np.dtype(np.float32)

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        place: list[Any] = [] if index is ... else list(index)
        place += [slice(None)] * (len(self.shape) - len(place))
        if self.how == "colours":
            colour = place.pop()
            planes = [self._read(place, number) for number in range(len(self.channels))]
            planes += [np.zeros_like(planes[0])] * (MOST_COLOURS - len(planes))
            return np.stack(planes, axis=-1)[..., colour]
        combined = self._read(place, 0)
        for number in range(1, len(self.channels)):
            if self.how == "maximum":
                np.maximum(combined, self._read(place, number), out=combined)
            else:
                combined += self._read(place, number)
        if self.how == "mean":
            combined /= np.float32(len(self.channels))
        return combined

    def _read(self, place: Sequence[Any], number: int) -> NDArray[np.float32]:
        return apply(self.scalings[number], _channel(self.image, self.channels[number], place))


@dataclass(frozen=True, slots=True, eq=False)
class StackedPixels:
    """Channels of several images as one array, the channels first, read where it is indexed."""

    channels: tuple[tuple[Image, int | None], ...]  # image and number; None of an image without channels

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return (len(self.channels), *self.channels[0][0].label_shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def dtype(self) -> Any:
        """Type of the pixels, that of all channels together."""
        return np.result_type(*(np.dtype(image.data.dtype) for image, _ in self.channels))

    def __getitem__(self, index: Any) -> NDArray[Any]:
        places: list[Any] = [index]
        if isinstance(index, tuple):
            places = list(index)
        at = next((number for number, one in enumerate(places) if one is ...), len(places))
        before, behind = places[:at], places[at + 1 :]
        every: list[Any] = [slice(None)] * (self.ndim - len(before) - len(behind))
        wanted, *place = [*before, *every, *behind]
        if isinstance(wanted, Integral):
            return self._read(int(wanted), place)
        return np.stack([self._read(number, place) for number in range(len(self.channels))[wanted]])

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        return np.asarray(self[...], dtype)

    def _read(self, number: int, place: Sequence[Any]) -> NDArray[Any]:
        image, channel = self.channels[number]
        pixels = image.read(tuple(place)) if channel is None else _channel(image, channel, place)
        return pixels.astype(self.dtype, copy=False)


class Seen(NamedTuple):
    """What of an image is counted in."""

    image: Image  # it, or its channels combined
    channel: int | None = None  # the one that is counted in; None takes colours together, else the first
    scalings: tuple[Scaling, ...] = ()  # of the channels that were combined; empty where none were
    notice: str = ""  # how they were combined, for the user


def combined(
    image: Image,
    channels: Sequence[str | int],
    how: Combination = "maximum",
    scalings: Sequence[Scaling] = (),
) -> Seen:
    """Return an image whose pixels are those of several channels together, without reading them.

    Each channel is scaled so that its own percentiles 0.5 and 99.8 become 0 and 1, found in a sample of the
    whole image; a dim channel then tells as much as a bright one.

    SettingsError where there is no such channel, one is named twice, or there are too many for colours.

    Parameters
    ----------
    image
        With an axis of channels.
    channels
        Numbers from 0, or names that the file gives. A single one is counted in as it is.
    how
        How they are put together.
    scalings
        Of the channels of the image that this one is a part of; found in its own pixels when empty.
    """
    numbers = channel_numbers(image, channels)
    if len(numbers) == 1:
        return Seen(image, numbers[0])
    if how == "colours" and len(numbers) > MOST_COLOURS:
        raise SettingsError(
            f"Two or three channels become colours; got {len(numbers)}. Combine them by maximum or mean."
        )
    if not scalings:
        scalings = [fit(StackedPixels(((image, number),))) for number in numbers]
    pixels = CombinedPixels(image, numbers, tuple(scalings), how)
    axes = image.label_axes + CHANNEL * (how == "colours")
    seen = replace(image, data=pixels, axes=axes, channel_names=(), channel_colors=(), levels=())
    return Seen(seen, None, pixels.scalings, _notice(pixels))


def channel_numbers(image: Image, channels: Iterable[str | int]) -> tuple[int, ...]:
    """Return the numbers of channels that are told by number or by name; a text may tell several.

    SettingsError where there is no such channel, or one is named twice.

    Examples
    --------
    >>> image = Image(np.zeros((3, 8, 8)), "CYX", channel_names=("DAPI", "GFP", "actin"))
    >>> channel_numbers(image, ["2,GFP"])
    (2, 1)
    """
    names = list(image.channel_names)
    texts: list[str] = []
    for one in channels:
        text = str(one).strip()
        texts += [text] if text in names else [part.strip() for part in text.split(",")]
    numbers = tuple(_number(image, text) for text in texts)
    if len(set(numbers)) < len(numbers):
        raise SettingsError(f"Each channel is named once; got {', '.join(texts)}. Leave one out.")
    return numbers


def _number(image: Image, text: str) -> int:
    n = image.lengths.get(CHANNEL, 0)
    names = list(image.channel_names)
    if names.count(text) == 1:
        return names.index(text)
    if text.isdecimal() and int(text) < n:
        return int(text)
    same = [str(number) for number, name in enumerate(names) if name == text]
    if same and text:
        raise SettingsError(
            f"Channels {', '.join(same)} of {image.name!r} are all named {text!r}. Tell the channel by its "
            "number."
        )
    if not n:
        raise SettingsError(
            f"Several channels need an axis of channels; {image.name!r} has axes {image.axes!r}. Leave "
            "channels out, or name the axes."
        )
    known = f" or the names {', '.join(names)}" if any(names) else ""
    raise SettingsError(
        f"A channel is one of the numbers 0 to {n - 1}{known}; got {text!r} for {image.name!r}. Choose one "
        "of these."
    )


def _channel(image: Image, channel: int, place: Sequence[Any]) -> NDArray[Any]:
    index = list(place)
    index.insert(image.axes.index(CHANNEL), channel)
    return image.read(tuple(index))


def _notice(pixels: CombinedPixels) -> str:
    """Return how channels were combined, and which of them tell nothing."""
    names = pixels.image.channel_names
    called = [names[number] if names else str(number) for number in pixels.channels]
    told = (
        f"Counted in channels {', '.join(called)} together: each scaled by its own intensities, then "
        f"{WORDS[pixels.how]}."
    )
    for name, scaling in zip(called, pixels.scalings, strict=True):
        if scaling.low == scaling.high:
            told += f" Channel {name} has one intensity throughout and adds nothing."
        if scaling.missing:
            share = max(scaling.missing, 0.001)
            told += f" {share:.1%} of the pixels of channel {name} are NaN or infinite; they count as dark."
    return told
