"""LIF of Leica LAS X, by liffile."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import SPATIAL
from cellwright.files.metadata import ImageMetadata, refuse_bomb, scene_name, seconds_of, sizes_of
from cellwright.files.vendors.scenes import SceneFormat, StoredScene, package_for

LUT_COLORS = {
    "red": "#ff0000",
    "green": "#00ff00",
    "blue": "#0000ff",
    "cyan": "#00ffff",
    "magenta": "#ff00ff",
    "yellow": "#ffff00",
    **dict.fromkeys(("gray", "grey"), "#ffffff"),
}


def _opened(path: Path) -> Any:
    return package_for(path, "liffile").LifFile(path)


def _scenes(file: Any, path: Path) -> Iterator[StoredScene]:
    images = list(file.images)
    for image in images:
        shape, dtype = tuple(image.shape), np.dtype(image.dtype)
        # before their coordinates are asked for, a number for each row and column
        refuse_bomb(path, shape, prod(shape) * dtype.itemsize, path.stat().st_size, most_times=1)
        steps: dict[str, float] = {}
        interval_s = 0.0
        names: list[str] = []
        for axis, values in image.coords.items():
            if axis in SPATIAL and len(values) > 1:
                steps[str(axis)] = abs(float(values[1]) - float(values[0]))
            if axis == "T" and len(values) > 1:
                interval_s = seconds_of((float(values[-1]) - float(values[0])) / (len(values) - 1))
            if axis == "C" and np.asarray(values).dtype.kind == "U":  # liffile of 2026
                names = [str(value) for value in values]
        shown = _lut_names(image)
        if not names and len(set(shown)) == len(shown):
            names = shown
        colors = [LUT_COLORS.get(name.lower(), "") for name in shown]
        sizes = sizes_of(steps, 1e6)  # from metres
        metadata = ImageMetadata(sizes, names, colors, frame_interval_s=interval_s)
        name, axes = scene_name(path, image.name, len(images)), "".join(image.dims).replace("S", "c")
        # once, which turns blue and red round in memory
        mapped = cache(partial(image.asarray, mode="c", out="memmap"))
        yield StoredScene(name, axes, shape, dtype, metadata, partial(_load_mapped, mapped))


def _load_mapped(mapped: Callable[[], NDArray[Any]], window: Sequence[slice]) -> NDArray[Any]:
    return np.array(mapped()[tuple(window)])


def _lut_names(image: Any) -> list[str]:
    """Return the name of the colour that each channel of a LIF is shown in, in the order of its bytes."""
    element = getattr(image, "xml_element", None)
    if element is None:
        return []
    channels = element.findall("./Data/Image/ImageDescription/Channels/ChannelDescription")
    channels.sort(key=lambda channel: int(channel.get("BytesInc", 0)))
    return [channel.get("LUTName", "") for channel in channels]


read = SceneFormat(_opened, _scenes).read
