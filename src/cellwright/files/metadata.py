"""What files tell of an image besides its pixels, in one shape for all readers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import AXES, SPATIAL, ArrayLike, Image
from cellwright.ops.geometry.axes import guess_axes

# OME-XML model 2016-06, UnitsLength, and the spellings of ImageJ, OME-Zarr and vendors
UM_PER_UNIT = {
    "pm": 1e-6,
    "picometer": 1e-6,
    "å": 1e-4,
    "angstrom": 1e-4,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "µm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "dm": 1e5,
    "m": 1e6,
    "meter": 1e6,
    "inch": 25_400.0,
    "in": 25_400.0,
}
NO_STEP = "The file tells the pixel size in x and y, not the step between slices: volumes stay in voxels."


def um_per(unit: str) -> float | None:
    """Return the micrometres in a unit of length, None when it is none (pixels, say)."""
    plain = unit.strip().lower().replace("\\u00b5", "µ").replace("μ", "µ")
    return UM_PER_UNIT.get(plain)


def positive(value: Any) -> float | None:
    """Return a value as number where it is a finite one above 0."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < float("inf") else None


def sizes_of(values: Mapping[str, Any], um_per_unit: float = 1.0) -> dict[str, float]:
    """Return the micrometres per pixel of the axes whose value is a number above 0."""
    found = {axis: positive(value) for axis, value in values.items()}
    return {axis: size * um_per_unit for axis, size in found.items() if size}


def color_of(rgb: Sequence[int] | NDArray[Any]) -> str:
    """Return three numbers of 0 to 255 as ``#rrggbb``."""
    red, green, blue = (int(value) & 255 for value in rgb)
    return f"#{red:02x}{green:02x}{blue:02x}"


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """What a file tells of an image; what does not fit the image is left out by :func:`describe`.

    Parameters
    ----------
    sizes
        Micrometres per pixel of the axes that are known.
    channel_names, channel_colors
        One for each channel; colors as ``#rrggbb``.
    notices
        What a reader had to guess or leave out.
    """

    sizes: Mapping[str, float] = field(default_factory=dict)
    channel_names: Sequence[str] = ()
    channel_colors: Sequence[str] = ()
    notices: Sequence[str] = ()


def describe(data: ArrayLike, axes: str, name: str, told: ImageMetadata | None = None) -> Image:
    """Return an image; axes that the file does not tell ('', or other letters) are guessed, with a notice.

    Raises
    ------
    AxesError
        There are less than two axes or more than five.
    """
    told = told or ImageMetadata()
    notices = list(told.notices)
    shape = tuple(data.shape)
    if not (len(axes) == len(shape) == len(set(axes)) and set(axes) <= set(AXES)):
        axes = guess_axes(shape, np.dtype(data.dtype))
        if len(axes) > 2:
            notices.append(f"No axes are named; {axes} was guessed from the shape {shape}.")
    lengths = dict(zip(axes, shape, strict=True))
    pixel_size: tuple[float, ...] = ()
    if "X" in told.sizes and "Y" in told.sizes:
        pixel_size = tuple(float(told.sizes.get(axis, 0.0)) for axis in axes if axis in SPATIAL)
    if pixel_size and "Z" not in told.sizes and lengths.get("Z", 1) > 1:
        notices.append(NO_STEP)
    n_channels = lengths.get("C", 0)
    names, colors = tuple(told.channel_names), tuple(told.channel_colors)
    return Image(
        data,
        axes,
        pixel_size,
        name,
        channel_names=names * (len(names) == n_channels and any(names)),
        channel_colors=colors * (len(colors) == n_channels and all(colors)),
        notices=tuple(notices),
    )


def with_axes(image: Image, axes: str) -> Image:
    """Return an image with other axes; sizes and channels are kept by their letter.

    Raises
    ------
    AxesError
        They do not fit the image.
    """
    Image(image.data, axes)  # which checks them
    told = ImageMetadata(image.known_sizes_um, image.channel_names, image.channel_colors)
    return describe(image.data, axes, image.name, told)
