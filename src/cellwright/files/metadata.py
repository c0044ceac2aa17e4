"""What files tell of an image besides its pixels, in one shape for all readers.

:func:`understand` decides what the axes of an array are, whoever shows or reads it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import AXES, CHANNEL, ArrayLike, Image, without_channels
from cellwright.core.errors import AxesError, ReadError
from cellwright.core.lazy import LazyArray
from cellwright.core.words import n_of
from cellwright.files.atomic import plain_name
from cellwright.ops.geometry.axes import COLOURS, guess_axes

# OME-XML model 2016-06, UnitsLength, and the spellings of ImageJ, OME-Zarr and vendors
UM_PER_UNIT = {
    **dict.fromkeys(("pm", "picometer"), 1e-6),
    **dict.fromkeys(("å", "angstrom"), 1e-4),
    **dict.fromkeys(("nm", "nanometer"), 1e-3),
    **dict.fromkeys(("µm", "um", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("mm", "millimeter"), 1e3),
    **dict.fromkeys(("cm", "centimeter"), 1e4),
    "dm": 1e5,
    **dict.fromkeys(("m", "meter"), 1e6),
    **dict.fromkeys(("inch", "in"), 25_400.0),
}
# UnitsTime of the same model
SECONDS_PER_UNIT = {
    **dict.fromkeys(("ns", "nanosecond"), 1e-9),
    **dict.fromkeys(("µs", "us", "microsecond"), 1e-6),
    **dict.fromkeys(("ms", "msec", "millisecond"), 1e-3),
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86_400.0),
}
COMPANION = ".companion.ome"  # how OME-XML beside its TIFF files ends
ORIENTATION_TAG, ON_ITS_SIDE = 274, (5, 6, 7, 8)  # of EXIF, and its values of which rows are columns
LAZY_BYTES = 1 << 28  # larger images stay on disk
LEAST_BOMB_BYTES = 1 << 24  # what claims to unpack to less is read, however small its file
SHORT_AXES = "TCZ"  # which letters axes of length one are given that a file does not have
RGB, RGBA = COLOURS
NO_STEP = "The file gives the pixel size in x and y, not the step between slices: volumes stay in voxels."
NO_SIZE = "The file gives the pixel size in {} alone, not in both x and y: areas stay in pixels."
STORED_VALUES = (
    "The file holds places in a palette, inks, or a photo that is turned; another reader opened it and shows "
    "what is stored. Open it with Cellwright to count it as the command line does."
)
OTHER_SHAPE = "The layer is not the image of shape {} that its file holds; axes and sizes are not from there."


class FileArray(LazyArray):
    """An array in a file, which is read where it is looked at; another process opens the file again."""

    _place: tuple[Any, ...]  # what the array is made of

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._place


def stamp_of(path: Path | str) -> tuple[str, int, int] | None:
    """Return what is another once a file has been rewritten; None where there is no file."""
    try:
        facts = Path(path).stat()
    except OSError:
        return None
    return str(path), facts.st_mtime_ns, facts.st_size


def um_per(unit: str) -> float | None:
    """Return the micrometres in a unit of length, None when it is none (pixels, say)."""
    return UM_PER_UNIT.get(_plain(unit))


def seconds_of(value: Any, unit: str = "s") -> float:
    """Return a length of time in seconds, 0 where it is not finite or its unit is not one of time."""
    return (magnitude(value) or 0.0) * SECONDS_PER_UNIT.get(_plain(unit), 0.0)


def _plain(unit: str) -> str:
    return unit.strip().lower().replace("\\u00b5", "µ").replace("μ", "µ")


def magnitude(value: Any) -> float | None:
    """Return how large a step is, None where it is not a finite number or 0; steps downwards are negative."""
    try:
        number = abs(float(value))
    except (TypeError, ValueError):
        return None
    return number if 0 < number < float("inf") else None


def sizes_of(values: Mapping[str, Any], um_per_unit: float = 1.0) -> dict[str, float]:
    """Return the micrometres per pixel of the axes whose value is a finite number other than 0."""
    found = {axis: magnitude(value) for axis, value in values.items()}
    return {axis: size * um_per_unit for axis, size in found.items() if size}


def letters_of(names: Iterable[Any]) -> str:
    """Return axis names as letters, '' when one is unknown."""
    called = [str(name).lower() for name in names]
    known = {"t", "time", "c", "channel", "z", "y", "x"}
    return "".join(name[0].upper() for name in called) if known.issuperset(called) else ""


def scene_name(path: Path, called: str, n_scenes: int) -> str:
    """Return the name of an image: that of its file, with its own where the file holds several."""
    if n_scenes == 1:
        return path.stem
    return f"{path.stem}_{plain_name(called)}"


def color_of(rgb: Sequence[int] | NDArray[Any]) -> str:
    """Return three numbers of 0 to 255 as ``#rrggbb``."""
    red, green, blue = (int(value) & 255 for value in rgb)
    return f"#{red:02x}{green:02x}{blue:02x}"


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """What a file tells of an image; what does not fit the image is left out by :func:`describe`."""

    sizes: Mapping[str, float] = field(default_factory=dict)  # micrometres per pixel, by axis
    channel_names: Sequence[str] = ()  # one for each channel
    channel_colors: Sequence[str] = ()  # one for each channel, as ``#rrggbb``
    notices: Sequence[str] = ()  # what a reader had to guess or leave out
    frame_interval_s: float = 0.0  # seconds from frame to frame


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader is asked for."""

    has_pixels: bool = True  # whether the pixels are needed; else they are 0
    has_levels: bool = False  # whether smaller copies are needed, on disk where there are such
    are_labels: bool = False  # whether colours on black only show labels, whose numbers are wanted


def describe(data: ArrayLike, axes: str, name: str, known: ImageMetadata | None = None) -> Image:
    """Return an image; axes that the file does not tell ('', or other letters) are guessed, with a notice.

    AxesError where there are less than two axes or more than five. ReadError where its values are complex, or
    not numbers.
    """
    known = known or ImageMetadata()
    if np.dtype(data.dtype).kind not in "biuf":
        raise ReadError(
            f"The values of {name} must be numbers, no complex ones; got {data.dtype}. Export it again."
        )
    notices = list(known.notices)
    shape = tuple(data.shape)
    if isinstance(data, np.ndarray) and (not axes or data.ndim > len(AXES)):
        data = _with_one_end(data)
        shape = data.shape
    is_guessed = False
    if not (0 < len(axes) == len(shape) == len(set(axes)) and set(axes) <= set(AXES)):
        axes = guess_axes(shape, np.dtype(data.dtype))
        is_guessed = len(axes) > 2
    if is_guessed:
        notices.append(guess_notice(axes, shape))
    return _with_what_fits(Image(data, axes, name=name, axes_are_guessed=is_guessed), known, notices)


def _with_what_fits(image: Image, known: ImageMetadata, notices: list[str]) -> Image:
    """Return an image with sizes, channels and time as far as what is told fits its axes, and notices."""
    lengths = image.lengths
    if "X" in known.sizes and "Y" in known.sizes:
        sizes = tuple(known.sizes.get(axis, 0.0) for axis in image.spatial_axes)
        image = replace(image, pixel_size_um=sizes)
        if "Z" not in known.sizes and lengths.get("Z", 1) > 1:
            notices.append(NO_STEP)
    elif known.sizes:
        notices.append(NO_SIZE.format(" and ".join(known.sizes).lower()))
    if len(known.channel_names) == lengths.get("C", 0) and any(known.channel_names):
        image = replace(image, channel_names=tuple(known.channel_names))
    if len(known.channel_colors) == lengths.get("C", 0) and all(known.channel_colors):
        image = replace(image, channel_colors=tuple(known.channel_colors))
    if lengths.get("T", 1) > 1:
        image = replace(image, frame_interval_s=known.frame_interval_s)
    return replace(image, notices=tuple(notices))


def _with_one_end(data: NDArray[Any]) -> NDArray[Any]:
    """Return an array without axes of length one that no image has: at its end but one, beyond five any."""
    while data.ndim > 2 and data.shape[-2:] == (1, 1):
        data = data[..., 0]
    return data if data.ndim <= len(AXES) else data.squeeze()


def with_axes(image: Image, axes: str) -> Image:
    """Return an image with other axes, which must fit; sizes and channels are kept by their letter.

    What a reader told stays, but not of axes that it guessed. AxesError where colours that the file tells
    would become rows or columns.
    """
    Image(image.data, axes)  # which checks them
    if image.axes.endswith(CHANNEL) and not image.axes_are_guessed and axes[-1] in "YX":
        raise AxesError(
            f"The last axis of {image.name!r}, read as {image.shape}, holds its colours; {axes} takes them "
            "for pixels. Give axes that end with C, or save its planes as a stack."
        )
    of_axes = (guess_notice(image.axes, image.shape), NO_STEP)
    notices = [notice for notice in image.notices if notice not in of_axes]
    known = replace(known_metadata(image), notices=notices)
    named = describe(image.data, axes, image.name, known)
    return replace(
        named, is_converted=image.is_converted, levels=image.levels, source_files=image.source_files
    )


def known_metadata(image: Image) -> ImageMetadata:
    """Return what an image knows besides its pixels, and what was told of the reading."""
    return ImageMetadata(
        image.known_sizes_um, image.channel_names, image.channel_colors, image.notices, image.frame_interval_s
    )


def refuse_bomb(path: Path, shape: Sequence[int], n_bytes: int, n_stored: int, most_times: int) -> None:
    """Raise ReadError where an image claims to be far larger than what is stored of it can be."""
    if n_bytes > max(LEAST_BOMB_BYTES, most_times * n_stored):
        raise ReadError(
            f"{path} claims to hold {' x '.join(map(str, shape))} pixels, more than its {n_stored} bytes "
            "can. It is damaged; export it again."
        )


def missing_planes(name: str, n_there: int, n_planes: int) -> list[str]:
    """Return a sentence where a file lacks planes of an image, as one whose acquisition was stopped does."""
    if n_there >= n_planes:
        return []
    return [f"{name} has {n_there} of {n_planes} planes; the others are dark here."]


def blank(shape: Sequence[int], dtype: Any) -> NDArray[Any]:
    """Return an array of zeros that takes no memory: what is known of an image besides its pixels."""
    return np.broadcast_to(np.zeros((), dtype), tuple(shape))


def guess_notice(axes: str, shape: Sequence[int]) -> str:
    """Return the sentence that tells of guessed axes."""
    return f"No axes are named; {axes} was guessed from the shape {tuple(shape)}: {meaning(axes, shape)}."


def meaning(axes: str, shape: Sequence[int], names: Sequence[str] = ()) -> str:
    """Return in words what the axes of an array are, those of a plane aside.

    Examples
    --------
    >>> meaning("TCYX", (10, 2, 64, 64), ("DAPI", "GFP")), meaning("ZYXC", (51, 64, 64, 3))
    ('10 frames in time, 2 channels: DAPI, GFP', '51 slices in z, colours')
    """
    nouns = {"T": ("frame", " in time"), "Z": ("slice", " in z"), "C": ("channel", "")}
    parts = []
    for axis, n in zip(axes, shape, strict=True):
        if axis not in nouns:
            continue
        if axis == CHANNEL and axes.endswith(CHANNEL) and n in COLOURS:
            parts.append("colours")
            continue
        noun, where = nouns[axis]
        parts.append(n_of(n, noun) + where)
        if axis == CHANNEL and len(names) == n and any(names):
            parts[-1] += f": {', '.join(names)}"
    return ", ".join(parts) or "one plane"


def likely_axes(shape: Sequence[int], *, is_colour: bool = False) -> list[str]:
    """Return the axes an array may have, those first that most files have; colours are the last axis."""
    n = len(shape)
    in_colours = ["".join(lead) + "YXC" for lead in permutations("TZ", n - 3)] if n > 2 else []
    if is_colour:
        return in_colours
    found = ["".join(lead) + "YX" for lead in permutations("TZ", n - 2)]
    found += ["".join(lead) + "YX" for lead in permutations("TZC", n - 2) if CHANNEL in lead]
    return found + in_colours


AxesFrom = Literal["choice", "layer", "file", "shape"]


@dataclass(frozen=True, slots=True)
class ArrayFacts:
    """What an array tells of itself, by the place of its axes."""

    axes: str = ""  # letters, one for each axis, colours left out; empty where it does not name them all
    chosen: str = ""  # the same as the user chose them
    steps_um: Sequence[float] = ()  # micrometres per pixel along each axis, 0 where that is not known
    is_colour: bool = False  # whether the last axis are colours
    frame_interval_s: float = 0.0  # seconds from frame to frame


@dataclass(frozen=True, slots=True)
class FilePart:
    """The image of a file that an array was read from, without its pixels."""

    image: Image  # as our readers give it
    channel: int | None = None  # the channel of it that the array is, None for all
    is_ours: bool = False  # whether a reader of ours has made the array


class Understood(NamedTuple):
    """An image whose axes are decided, and what decided: ``shape`` is a guess."""

    image: Image
    axes_from: AxesFrom
    channels_in_front: bool = False  # colours that the file holds plane by plane


class _Match(NamedTuple):
    axes: str
    image: Image
    channel: int | None = None
    is_known: bool = True  # which part of the file it is


def understand(data: ArrayLike, name: str, facts: ArrayFacts, file: Iterable[FilePart] = ()) -> Understood:
    """Return an array as image: its axes as chosen, as it tells itself, as its file does, or guessed.

    Pixel sizes and the time between frames are those of the array, and where it tells none, of the file; so
    are the channels. ``file`` holds the images of its file that it may be; others are left out.

    AxesError where there are less than two axes, more than five, or several of length one at the end.
    """
    shape = tuple(data.shape)
    parts = list(file)
    match = _match(shape, facts, parts)
    axes, axes_from = _best_axes(shape, facts, match)
    known = ImageMetadata() if match is None else known_metadata(match.image)
    known = replace(known, notices=_doubts(match, parts))
    letters = axes or guess_axes(shape, np.dtype(data.dtype))
    steps = {axis: step for axis, step in zip(letters, facts.steps_um, strict=False) if step > 0}
    interval_s = facts.frame_interval_s or known.frame_interval_s
    known = replace(known, sizes={**known.sizes, **steps}, frame_interval_s=interval_s)
    image = describe(data, axes, name, known)
    if image.shape != shape:
        raise AxesError(f"Arrays are counted as they lie, with {image.shape} of {image.axes}; got {shape}.")
    if match is None:
        is_guessed = image.axes_are_guessed or (axes_from == "shape" and len(axes) > len("YXC"))
        return Understood(replace(image, axes_are_guessed=is_guessed), axes_from)
    if axes_from == "file" and match.image.axes_are_guessed:
        axes_from = "shape"
        notices = (*image.notices, guess_notice(match.image.axes, match.image.shape))
        image = replace(image, axes_are_guessed=True, notices=notices)
    in_front = image.axes == match.axes and match.image.axes == without_channels(match.axes) + CHANNEL
    return Understood(_traced(image, match), axes_from, in_front)


def _best_axes(shape: tuple[int, ...], facts: ArrayFacts, match: _Match | None) -> tuple[str, AxesFrom]:
    """Return the axes by who knows them best: user, array, file; likely ones of colours; or ''."""
    end = CHANNEL if facts.is_colour else ""
    own = facts.axes + end
    if len(facts.chosen + end) == len(shape):
        return facts.chosen + end, "choice"
    if match is not None and (len(own) != len(shape) or own == match.axes):
        return match.axes, "file"
    if len(own) == len(shape):
        return own, "layer"
    if facts.is_colour:
        return "TZYX"[-(len(shape) - 1) :] + CHANNEL, "shape"
    return "", "shape"


def _doubts(match: _Match | None, parts: Sequence[FilePart]) -> list[str]:
    """Return what to tell where an array is not what our readers find in its file."""
    if not parts or parts[0].is_ours:
        return []
    if match is None:
        return [OTHER_SHAPE.format(parts[0].image.shape)]
    return [STORED_VALUES] if match.image.is_converted else []


def _traced(image: Image, match: _Match) -> Image:
    """Return an image that knows its file, where it is known which part of it it is."""
    if not match.is_known or not match.image.source:
        return image
    part = None
    if match.channel is not None or match.axes != match.image.axes:
        part = (match.image.axes, match.channel)
    if match.channel is not None:
        image = replace(image, channel_names=match.image.channel_names[match.channel : match.channel + 1])
    return replace(image, source=match.image.source, source_part=part)


def _match(shape: tuple[int, ...], facts: ArrayFacts, parts: Sequence[FilePart]) -> _Match | None:
    """Return which image of a file an array is, by its shape, and the letters of its axes."""
    for part in parts:
        if part.channel is not None and part.image.label_shape == shape:
            return _Match(part.image.label_axes, part.image, part.channel)
    for fitting in (_as_it_is, _with_planes_in_front, _without_short_axes, _one_channel):
        for part in parts:
            match = fitting(shape, facts, part.image)
            if match is not None:
                return match
    return None


def _as_it_is(shape: tuple[int, ...], facts: ArrayFacts, image: Image) -> _Match | None:
    own = image.shape
    if facts.is_colour and shape[-1] == RGBA and image.axes.endswith(CHANNEL) and not image.is_converted:
        own = (*own[:-1], RGBA)  # opacity, which our readers leave out
    return _Match(image.axes, image) if own == shape else None


def _with_planes_in_front(shape: tuple[int, ...], facts: ArrayFacts, image: Image) -> _Match | None:
    if facts.is_colour or not image.axes.endswith(CHANNEL) or image.shape[-1] not in COLOURS:
        return None
    rest, letters = image.shape[:-1], image.axes[:-1]
    at = len(rest) - 2
    if (*rest[:at], image.shape[-1], *rest[at:]) == shape:
        return _Match(letters[:at] + CHANNEL + letters[at:], image)
    return None


def _without_short_axes(shape: tuple[int, ...], facts: ArrayFacts, image: Image) -> _Match | None:
    """Match an array with other axes of length one, such as readers add or drop."""
    kept = [(axis, n) for axis, n in zip(image.axes, image.shape, strict=True) if n != 1 or axis in "YX"]
    unused = [axis for axis in SHORT_AXES if axis not in dict(kept)]
    letters, left = "", list(kept)
    for place, n in enumerate(shape):
        is_added = n == 1 and len(shape) - place > len(left) and unused
        if is_added:
            letters += unused.pop(0)
        elif left and left[0][1] == n:
            letters += left.pop(0)[0]
        else:
            return None
    return None if left else _Match(letters, image)


def _one_channel(shape: tuple[int, ...], facts: ArrayFacts, image: Image) -> _Match | None:
    if facts.is_colour or CHANNEL not in image.axes or image.label_shape != shape:
        return None
    return _Match(image.label_axes, image, is_known=image.shape[image.axes.index(CHANNEL)] == 1)
