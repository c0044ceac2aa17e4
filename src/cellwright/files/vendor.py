"""Files of microscope vendors, each read by a package of its own (extra ``vendor``), scene by scene.

=========  ==========================  =============
ending     program                     package
=========  ==========================  =============
.czi       Zeiss ZEN                   czifile
.nd2       Nikon NIS-Elements          nd2
.lif       Leica LAS X                 liffile
.oif .oib  Olympus FluoView            oiffile
.h5 .hdf5  ilastik (one dataset)       h5py
=========  ==========================  =============

LSM (Zeiss) and STK (MetaMorph) are TIFF, see ``files.tiff``. No package is imported before its file is met.
"""

import json
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from cellwright.core.data import AXES, ArrayLike, Image
from cellwright.core.errors import ReadError
from cellwright.files.atomic import plain_name
from cellwright.files.metadata import ImageMetadata, color_of, describe, positive, sizes_of, um_per


def read_vendor(path: Path) -> Iterator[Image]:
    """Yield the scenes of a file of a vendor.

    Raises
    ------
    ReadError
        The package for it is not installed.
    """
    package, read = READERS[path.suffix.lower()]
    try:
        module = import_module(package)
    except ImportError as error:
        raise ReadError(
            f"Reading {path} needs the package {package}. Run: pip install {package} (or "
            "'napari-cellwright[vendor]' for the files of all vendors)."
        ) from error
    yield from read(module, path)


def _read_czi(module: Any, path: Path) -> Iterator[Image]:
    with module.CziFile(path) as file:
        told = (file.metadata(raw=False) or {}).get("ImageDocument", {}).get("Metadata", {})
        distances = _as_list(told.get("Scaling", {}).get("Items", {}).get("Distance"))
        sizes = sizes_of({str(one.get("Id")): one.get("Value") for one in distances}, 1e6)  # from metres
        channels = _as_list(told.get("DisplaySetting", {}).get("Channels", {}).get("Channel"))
        names = [str(one.get("Name", "")) for one in channels]
        axes, data = file.axes, file.asarray()
    if "0" in axes:  # samples, blue first; S are scenes
        at = axes.index("0")
        data = np.moveaxis(data, at, -1)[..., ::-1]
        axes = axes.replace("0", "") + "c"
    yield from _scenes(data, axes, "S", path, ImageMetadata(sizes, names))


def _read_nd2(module: Any, path: Path) -> Iterator[Image]:
    file = module.ND2File(path)  # left open: its pixels are read where they are looked at
    voxel = file.voxel_size()
    channels = [one.channel for one in file.metadata.channels or ()]
    told = ImageMetadata(
        sizes_of({"X": voxel.x, "Y": voxel.y, "Z": voxel.z}),
        [str(one.name) for one in channels],
        [color_of((one.color.r, one.color.g, one.color.b)) for one in channels],
    )
    axes = "".join(letter.replace("S", "c") for letter in file.sizes)
    yield from _scenes(file.to_dask(), axes, "P", path, told)


def _read_lif(module: Any, path: Path) -> Iterator[Image]:
    with module.LifFile(path) as file:
        images = list(file.images)
        for image in images:
            steps = {}
            for axis, values in image.coords.items():
                if len(values) > 1:
                    steps[str(axis)] = abs(float(values[1]) - float(values[0]))
            name = path.stem
            if len(images) > 1:
                name = f"{name}_{plain_name(image.name)}"
            told = ImageMetadata(sizes_of(steps, 1e6))  # from metres
            data, axes = _squeezed(image.asarray(), "".join(image.dims).replace("S", "c"))
            yield describe(data, axes, name, told)


def _read_oif(module: Any, path: Path) -> Iterator[Image]:
    with module.OifFile(path) as file:
        sizes: dict[str, float] = {}
        for number in range(8):
            axis = file.mainfile.get(f"Axis {number} Parameters Common", {})
            n, unit = positive(axis.get("MaxSize")), um_per(str(axis.get("PixUnit", "")))
            length = float(axis.get("EndPosition", 0)) - float(axis.get("StartPosition", 0))
            if n and unit:
                sizes |= sizes_of({str(axis.get("AxisCode")): abs(length) / n}, unit)
        data, axes = _squeezed(file.asarray(), file.axes)
        yield describe(data, axes, path.stem, ImageMetadata(sizes))


def _read_hdf5(module: Any, path: Path) -> Iterator[Image]:
    with module.File(path, "r") as file:
        datasets: list[Any] = []
        file.visititems(lambda _, node: datasets.append(node) if hasattr(node, "dtype") else None)
        images = [one for one in datasets if one.ndim > 1]
        if len(images) != 1:
            raise ReadError(
                f"Expected one dataset of an image in {path}; got {len(images)}. Export one as TIFF."
            )
        axes = ""
        if "axistags" in images[0].attrs:  # of ilastik: what vigra says of each axis
            told = json.loads(images[0].attrs["axistags"])
            axes = "".join(str(axis["key"]).upper() for axis in told["axes"])
        data, letters = images[0][()], axes
        if len(axes) == data.ndim:
            data, letters = _squeezed(data, axes)
        yield describe(data, letters, path.stem)


def _as_list(value: Any) -> list[Any]:
    """Return the elements of XML under one name, of which a single one is no list."""
    if isinstance(value, list):
        return value
    return [value] * isinstance(value, dict)


def _scenes(data: ArrayLike, axes: str, scene_axis: str, path: Path, told: ImageMetadata) -> Iterator[Image]:
    """Yield each scene of an array as an image of its own; ``c`` are colours."""
    parts = [(path.stem, data)]
    if scene_axis in axes:
        at = axes.index(scene_axis)
        axes = axes[:at] + axes[at + 1 :]
        index = (slice(None),) * at
        if data.shape[at] > 1:
            parts = [(f"{path.stem}_{n}", data[(*index, n)]) for n in range(data.shape[at])]
        else:
            parts = [(path.stem, data[(*index, 0)])]
    for name, part in parts:
        squeezed, letters = _squeezed(part, axes)
        yield describe(squeezed, letters, name, told)


def _squeezed(data: ArrayLike, axes: str) -> tuple[ArrayLike, str]:
    """Return an array without axes of length one that are neither Y nor X, and those that we do not know."""
    kept = [n > 1 or axis in "YX" for axis, n in zip(axes, data.shape, strict=True)]
    index = tuple(slice(None) if keep else 0 for keep in kept)
    letters = "".join(axis for axis, keep in zip(axes, kept, strict=True) if keep)
    if "C" not in letters:
        letters = letters.replace("c", "C")
    unknown = "".join(sorted(set(letters) - set(AXES)))
    if unknown:
        raise ReadError(
            f"Expected axes of {AXES} only; got {letters}. Export the part of {unknown} that you need as "
            "OME-TIFF."
        )
    return data[index], letters


READERS: dict[str, tuple[str, Callable[[Any, Path], Iterator[Image]]]] = {
    ".czi": ("czifile", _read_czi),
    ".nd2": ("nd2", _read_nd2),
    ".lif": ("liffile", _read_lif),
    ".oif": ("oiffile", _read_oif),
    ".oib": ("oiffile", _read_oif),
    ".h5": ("h5py", _read_hdf5),
    ".hdf5": ("h5py", _read_hdf5),
}
