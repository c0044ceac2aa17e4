"""ND2 of Nikon NIS-Elements, by nd2."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cellwright.core.data import Image
from cellwright.files.metadata import ImageMetadata, color_of, describe, scene_name, seconds_of, sizes_of
from cellwright.files.vendors.scenes import package_for, squeezed


def read_nd2(path: Path) -> Iterator[Image]:
    """Yield the positions of the stage, each an image that stays on disk."""
    with package_for(path, "nd2").ND2File(path) as file:
        voxel, sizes = file.voxel_size(), file.sizes
        channels = [one.channel for one in file.metadata.channels or ()]
        interval_s = _nd2_interval(file.experiment)
        pixels = file.to_dask()  # which opens the file again where it is looked at
    told = ImageMetadata(
        sizes_of({"X": voxel.x, "Y": voxel.y, "Z": voxel.z}),
        [str(one.name) for one in channels],
        [color_of((one.color.r, one.color.g, one.color.b)) for one in channels],
        frame_interval_s=interval_s,
    )
    axes = "".join(letter.replace("S", "c") for letter in sizes)
    scenes = [pixels]
    if "P" in axes:  # positions of the stage
        before = (slice(None),) * axes.index("P")
        scenes = [pixels[(*before, n)] for n in range(sizes["P"])]
    for n, scene in enumerate(scenes):
        index, letters = squeezed(scene.shape, axes.replace("P", ""))
        yield describe(scene[index], letters, scene_name(path, str(n), len(scenes)), told)


def _nd2_interval(loops: Any) -> float:
    """Return the seconds from frame to frame of an ND2; 0 where there are none, or several phases differ."""
    found = {
        float(phase.periodMs)
        for loop in loops or ()
        if loop.type in ("TimeLoop", "NETimeLoop")
        for phase in getattr(loop.parameters, "periods", [loop.parameters])
    }
    return seconds_of(found.pop(), "ms") if len(found) == 1 else 0.0
