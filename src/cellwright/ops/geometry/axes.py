"""Axis letters: guess them, and cut an image of any layout into 2D frames without loading it."""

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cellwright.core.data import Image
from cellwright.core.errors import AxesError, SettingsError
from cellwright.ops.geometry.intensity import check_pixels, sample_steps

COLOUR_NAMES = ("red", "green", "blue")
DARK = 0.03  # of the light of the brightest colour, below which another is dark
DARK_GROUND = 0.25  # mean of the dimmest colour, below which an image is light on a dark ground
ALIKE = 0.8  # correlation from which on two colours show the same
LOOKED_AT_PX = 128  # half the side of the window that is looked at first
COLOURS = (3, 4)  # lengths of a last axis that is red, green, blue and perhaps opacity
STRIP_TIMES = 16  # how much longer both sides of an image are than its last axis where that holds channels
MOST_CHANNELS = 4  # a longer axis is taken for slices or time

Window = tuple[slice, ...]  # rows and columns


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
        """Return about a million pixels at most, on a regular grid over all frames."""
        steps = sample_steps((*self.lead_shape, *self.shape))
        return self._take(tuple(slice(None, None, step) for step in steps))

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
        if image.axes.endswith("C") and n_channels in COLOURS:
            return slice(0, 3), ""
        notice = f"Counted in channel 0 of {n_channels}; set channel to choose another."
        if n_channels == 1:
            notice = ""
        return 0, notice
    if not 0 <= channel < n_channels:
        raise SettingsError(
            f"channel must lie between 0 and {n_channels - 1} for axes {image.axes!r} and shape "
            f"{image.shape}; got {channel}. Choose one of these."
        )
    return channel, ""


def in_lit_colour(colours: Frames) -> Frames:
    """Return frames of the only colour that holds light, if there is one; others as they are.

    A stain saved in its colour would be dark by two thirds if it were taken for three colours.
    """
    if not isinstance(colours.channel, slice):
        return colours
    lit = _lit(_middle(colours))
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
    they correlate they show the same.
    """
    if not isinstance(colours.channel, slice) or colours.notice:
        return colours
    pixels = _middle(colours)
    lit = _lit(pixels)
    if len(lit) < 2:
        return colours
    values = _finite(pixels).astype(np.float64)
    low, high = np.percentile(values, (0.5, 99.8))
    if not ((values - low).mean(axis=1) < DARK_GROUND * (high - low)).any():
        return colours
    if np.corrcoef(values[lit]).min() >= ALIKE:
        return colours
    notice = "Its colours show different things, and were counted together; set channel to choose one."
    return replace(colours, notice=notice, apart=tuple(lit.tolist()))


def _middle(colours: Frames) -> NDArray[Any]:
    """Return the middle of the first frame (channels, Y, X)."""
    rows, columns = (
        slice(max(0, side // 2 - LOOKED_AT_PX), side // 2 + LOOKED_AT_PX) for side in colours.shape
    )
    return colours.read(0, (rows, columns))


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
    found: NDArray[Any] = values[:, np.isfinite(values).all(axis=0)]
    return found
