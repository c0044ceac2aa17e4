"""ND2 of Nikon NIS-Elements, by nd2."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Image
from cellwright.core.errors import ReadError
from cellwright.files.metadata import (
    ImageMetadata,
    color_of,
    describe,
    missing_planes,
    refuse_bomb,
    scene_name,
    seconds_of,
    sizes_of,
)
from cellwright.files.vendors.scenes import MOST_TIMES_STORED, package_for, squeezed

IN_A_FRAME = "CYXS"  # axes of what is stored together
LEAST_FRAME_BYTES = 16  # that a file has of each frame: where it lies, and how long it is


def read(path: Path) -> Iterator[Image]:
    """Yield the positions of the stage, each an image that stays on disk."""
    with package_for(path, "nd2").ND2File(path) as file:
        sizes = file.sizes
        _refuse_claims(sizes, file.dtype.itemsize, path)
        channels = [one.channel for one in file.metadata.channels or ()]
        steps, interval_s = _nd2_steps(file), _nd2_interval(file.experiment)
        is_there = _is_stored(file, sizes)
        pixels = file.to_dask()  # which opens the file again where it is looked at
    metadata = ImageMetadata(
        steps,
        [str(one.name) for one in channels],
        [color_of((one.color.r, one.color.g, one.color.b)) for one in channels],
        frame_interval_s=interval_s,
    )
    axes = "".join(letter.replace("S", "c") for letter in sizes)
    scenes = [(pixels, is_there)]
    if "P" in axes:  # positions of the stage
        before = (slice(None),) * axes.index("P")
        places: list[Any] = [(*before, n) for n in range(sizes["P"])]
        scenes = [(pixels[place], is_there[place]) for place in places]
    for n, (scene, stored) in enumerate(scenes):
        index, letters = squeezed(scene.shape, axes.replace("P", ""))
        name = scene_name(path, str(n), len(scenes))
        lacking = missing_planes(name, int(stored.sum()), stored.size)
        yield describe(scene[index], letters, name, replace(metadata, notices=lacking))


def _is_stored(file: Any, sizes: Mapping[str, int]) -> NDArray[np.bool_]:
    """Return which frames a file has, along the axes before those of a frame; nd2 makes others dark.

    All where nd2 does not keep a list of them, which it shows to nobody.
    """
    shape = tuple(n for axis, n in sizes.items() if axis not in IN_A_FRAME)
    listed = getattr(getattr(file, "_rdr", None), "_frame_offsets", None)
    if listed is None:
        return np.ones(shape, bool)
    return np.isin(np.arange(prod(shape)), list(listed)).reshape(shape)


def _refuse_claims(sizes: Mapping[str, int], n_bytes: int, path: Path) -> None:
    """Raise ReadError where an ND2 claims more frames, or more pixels, than its bytes can hold."""
    n_stored = path.stat().st_size
    shape = tuple(sizes.values())
    n_frames = prod(n for axis, n in sizes.items() if axis not in IN_A_FRAME)
    if n_frames * LEAST_FRAME_BYTES > n_stored:
        raise ReadError(
            f"{path} claims {n_frames} frames, more than its {n_stored} bytes can hold. It is damaged; "
            "export it again."
        )
    refuse_bomb(path, shape, prod(shape) * n_bytes, n_stored, MOST_TIMES_STORED)


def _nd2_steps(file: Any) -> dict[str, float]:
    """Return the micrometres per pixel; nd2 says 1 along X and Y of an image that was not calibrated."""
    voxel = file.voxel_size()
    is_calibrated = any(one.volume.axesCalibrated[0] for one in file.metadata.channels or ())
    if not is_calibrated and voxel.x == voxel.y == 1:
        return {}
    return sizes_of({"X": voxel.x, "Y": voxel.y, "Z": voxel.z})


def _nd2_interval(loops: Any) -> float:
    """Return the seconds from frame to frame of an ND2; 0 where there are none, or several phases differ."""
    found = {
        float(phase.periodMs)
        for loop in loops or ()
        if loop.type in ("TimeLoop", "NETimeLoop")
        for phase in getattr(loop.parameters, "periods", [loop.parameters])
    }
    return seconds_of(found.pop(), "ms") if len(found) == 1 else 0.0
