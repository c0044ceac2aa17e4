"""Axes of an image: guess their letters, cut any layout into 2D frames, take channels apart or together.

Nothing is read before it is indexed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from numbers import Integral
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cellwright.core.data import CHANNEL, Image
from cellwright.core.errors import AxesError, SettingsError
from cellwright.core.lazy import LazyArray, index_of_each_axis
from cellwright.ops.geometry.intensity import UNKNOWN, Scaling, apply, check_pixels, fit_scaling, sample_steps

COLOUR_NAMES = ("red", "green", "blue")
DARK = 0.03  # of the light of the brightest colour, below which another is dark
DARK_GROUND = 0.25  # mean of the dimmest colour, below which an image is light on a dark ground
TINT = 0.5  # of the range of all colours together, of which one that shows something spans more
ALIKE = 0.8  # correlation from which on two colours show the same
LOOKED_AT_PX = 256  # side of the window that is looked at first
COLOURS = (3, 4)  # lengths of a last axis that is red, green, blue and perhaps opacity
STRIP_TIMES = 16  # how much longer both sides of an image are than its last axis where that holds channels
MOST_CHANNELS = 4  # a longer axis is taken for slices or time

Combination = Literal["maximum", "mean", "colours"]
MOST_COLOURS = 3  # channels that become red, green and blue
WORDS = {
    "maximum": "the brightest of them at each pixel",
    "mean": "their mean",
    "colours": "as red, green and blue",
}

Window = tuple[slice, ...]  # rows and columns
WHOLE = (slice(None), slice(None))  # all rows and columns of a frame


def guess_axes(shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> str:
    """Return the likely axis letters of an array that does not tell them, e.g. ``"YXC"`` for (512, 512, 3).

    A short last axis is colour or channels, as is one far shorter than the two before it, for no image is a
    strip of so few pixels. A short axis before YX is channels, any other is slices, then time.

    AxesError for fewer than two dimensions or more than five.

    Examples
    --------
    >>> guess_axes((40, 512, 512)), guess_axes((2, 512, 512)), guess_axes((512, 512, 3))
    ('ZYX', 'CYX', 'YXC')
    """
    n = len(shape)
    if not 2 <= n <= 5:
        raise AxesError(
            f"An image must have 2 to 5 dimensions; got shape {tuple(shape)} of {np.dtype(dtype)}. "
            "Choose a part of it, or name its axes."
        )
    if n > 2 and 0 < shape[-1] <= max(MOST_CHANNELS, min(shape[-3:-1]) // STRIP_TIMES) < min(shape[-3:-1]):
        return "TZYXC"[-n:]
    if n == 5:
        return "TZCYX" if shape[2] <= MOST_CHANNELS else "TCZYX"
    if n == 4:
        if shape[1] <= MOST_CHANNELS:
            return "ZCYX"
        return "CZYX" if shape[0] <= MOST_CHANNELS else "TZYX"
    if n == 3:
        return "CYX" if shape[0] <= MOST_CHANNELS else "ZYX"
    return "YX"


@dataclass(frozen=True, slots=True)
class Frames:
    """The 2D frames of an image, read one window at a time; made by :func:`frames`."""

    image: Image  # where the pixels are
    channel: int | slice  # what is taken of the channel axis: one channel, or the three colours
    lead_shape: tuple[int, ...]  # lengths of the axes before YX, channels left out; empty for a 2D image
    shape: tuple[int, int]  # (Y, X) of a frame in pixels
    notice: str = ""  # a sentence for the user when a channel was chosen for them, else empty
    apart: tuple[int, ...] = ()  # the colours with light where they show different things on a dark ground

    def __len__(self) -> int:
        return prod(self.lead_shape)

    def read(self, index: int, window: Window) -> NDArray[Any]:
        """Return one window (rows, columns) of frame ``index``: (channels, Y, X), in the image's own type."""
        lead = np.unravel_index(index, self.lead_shape)
        return self._take((*(int(i) for i in lead), *window))

    def sample(self) -> NDArray[Any]:
        """Return at most about a million pixels (channels, *lead, Y, X), on a regular grid over all."""
        steps = sample_steps((*self.lead_shape, *self.shape))
        return self._take(tuple(slice(None, None, step) for step in steps))

    def middle(self, index: int, side_px: int) -> NDArray[Any]:
        """Return the :func:`middle_window` of frame ``index``, as :meth:`read` does."""
        return self.read(index, middle_window(self.shape, side_px))

    def _take(self, place: tuple[int | slice, ...]) -> NDArray[Any]:
        axes = self.image.axes
        index = list(place)
        if "C" not in axes:
            return self.image.read(tuple(index))[np.newaxis]
        at = axes.index("C")
        index.insert(at, self.channel)
        taken = self.image.read(tuple(index))
        if isinstance(self.channel, int):
            return taken[np.newaxis]
        at -= sum(isinstance(part, int) for part in index[:at])
        return np.moveaxis(taken, at, 0)


def middle_window(shape: tuple[int, ...], side_px: int) -> Window:
    """Return rows and columns of the middle of an image (Y, X), ``side_px`` long at most."""
    return tuple(slice(max(0, length - side_px) // 2, (length + side_px) // 2) for length in shape)


def frames(image: Image, channel: int | None = None) -> Frames:
    """Return the 2D frames of an image: slices and time points one by one.

    Without ``channel``, colours (a last axis of 3 or 4) are taken together, of other channels the first.

    AxesError where the image does not end with YX once channels are left out. ImageError where the image is
    empty or of a type that is no intensity. SettingsError where there is no such channel.
    """
    rest = image.label_axes
    if not rest.endswith("YX"):
        raise AxesError(
            f"Cells are counted in images whose axes, channels aside, end with YX (YX, CYX, YXC, ZYX, TYX, "
            f"TZYX); got {image.axes!r} for shape {image.shape}. Move the axes, or name them otherwise."
        )
    check_pixels(image.data)
    lengths = image.lengths
    lead = tuple(lengths[axis] for axis in rest[:-2])
    picked, notice = _pick(image, lengths.get("C", 1), channel)
    return Frames(image, picked, lead, (lengths["Y"], lengths["X"]), notice)


def _pick(image: Image, n_channels: int, channel: int | None) -> tuple[int | slice, str]:
    if channel is None:
        if has_colours(image):
            return slice(0, 3), ""
        notice = f"Counted in channel 0 of {n_channels}; set channel to choose another."
        if n_channels == 1:
            notice = ""
        return 0, notice
    if not 0 <= channel < n_channels:
        there = "one channel, number 0"
        if n_channels != 1:
            there = f"the channels 0 to {n_channels - 1}"
        raise SettingsError(
            f"{image.name} has {there}, by its axes {image.axes!r} and shape {image.shape}; got channel "
            f"{channel}. Choose another, or name its axes."
        )
    return channel, ""


def has_colours(image: Image) -> bool:
    """Return whether the channels of an image are red, green, blue and perhaps opacity."""
    return image.axes.endswith("C") and image.shape[-1] in COLOURS


def in_lit_colour(colours: Frames) -> Frames:
    """Return frames of the only colour that holds light, if there is one; others as they are.

    A stain saved in its colour would be dark by two thirds if it were taken for three colours.
    """
    if not isinstance(colours.channel, slice):
        return colours
    lit = _lit(colours.middle(0, LOOKED_AT_PX))
    if len(lit) < 2:  # seldom, so that most images are not read twice
        lit = _lit(colours.sample())
    if len(lit) != 1:
        return colours
    return in_one_colour(colours, int(lit[0]))


def in_one_colour(colours: Frames, only: int) -> Frames:
    """Return frames of one of three colours, and tell so."""
    notice = (
        f"Counted in its {COLOUR_NAMES[only]} alone, as its other colours are dark or show something else; "
        "set channel to choose another."
    )
    return replace(colours, channel=only, notice=notice, apart=())


def with_colours_apart(colours: Frames) -> Frames:
    """Return frames that tell which colours show different things on a dark ground; others as they are.

    So do stains of nuclei and of cells in one picture. On a bright ground colours belong together, and where
    they correlate they show the same. Of a tinted ground alone, each colour holds little but noise.
    """
    if not isinstance(colours.channel, slice) or colours.notice:
        return colours
    pixels = colours.middle(0, LOOKED_AT_PX)
    lit = _lit(pixels)
    if len(lit) < 2:
        return colours
    values = _finite(pixels).astype(np.float64)
    low, high = np.percentile(values, (0.5, 99.8))
    if not ((values - low).mean(axis=1) < DARK_GROUND * (high - low)).any():
        return colours
    if np.ptp(np.percentile(values, (0.5, 99.8), axis=1), axis=0).max() < TINT * (high - low):
        return colours
    if np.corrcoef(values[lit]).min() >= ALIKE:
        return colours
    notice = "Its colours show different things, and were counted together; set channel to choose one."
    return replace(colours, notice=notice, apart=tuple(lit.tolist()))


def _lit(pixels: NDArray[Any]) -> NDArray[np.intp]:
    """Return which channels of pixels (channels, ...) hold light."""
    values = _finite(pixels)
    if not values.size:
        return np.zeros(0, np.intp)
    low, high = np.percentile(values, (0.5, 99.9), axis=1)
    spans = high - low
    return np.flatnonzero(spans > DARK * spans.max())


def _finite(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return those of pixels (channels, ...) that no channel misses, (channels, N)."""
    values = pixels.reshape(len(pixels), -1)
    return values[:, np.isfinite(values).all(axis=0)]


@dataclass(frozen=True, slots=True, eq=False)
class CombinedPixels(LazyArray):
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
        place = index_of_each_axis(index, len(self.shape))
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
class StackedPixels(LazyArray):
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
        wanted, *place = index_of_each_axis(index, self.ndim)
        if isinstance(wanted, Integral):
            return self._read(int(wanted), place)
        return np.stack([self._read(number, place) for number in range(len(self.channels))[wanted]])

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

    Channels are told by numbers from 0, or names that the file gives; a single one is counted in as it is.
    Given ``scalings`` are those of the channels of the image that this one is a part of.

    SettingsError where there is no such channel, one is named twice, or there are too many for colours.
    """
    numbers = channel_numbers(image, channels)
    if len(numbers) == 1:
        return Seen(image, numbers[0])
    if how == "colours" and len(numbers) > MOST_COLOURS:
        raise SettingsError(
            f"Two or three channels become colours; got {len(numbers)}. Combine them by maximum or mean."
        )
    if not scalings:
        scalings = [fit_scaling(StackedPixels(((image, number),))) for number in numbers]
    pixels = CombinedPixels(image, numbers, tuple(scalings), how)
    axes = image.label_axes + CHANNEL if how == "colours" else image.label_axes
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
            f"Channels {', '.join(same)} of {image.name!r} are all named {text!r}. Give the channel by its "
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
    sentence = (
        f"Counted in channels {', '.join(called)} together: each scaled by its own intensities, then "
        f"{WORDS[pixels.how]}."
    )
    for name, scaling in zip(called, pixels.scalings, strict=True):
        if scaling.is_flat:
            sentence += f" Channel {name} has one intensity throughout and adds nothing."
        if scaling.missing:
            sentence += (
                f" {scaling.missing_share} of the pixels of channel {name} are NaN or infinite; {UNKNOWN}."
            )
    return sentence
