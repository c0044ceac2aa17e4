"""HDF5 of one dataset, as ilastik and Fiji write it, by h5py."""

import json
import subprocess
import sys
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from cellwright.core.data import Image
from cellwright.core.errors import ReadError
from cellwright.files.metadata import (
    LEAST_BOMB_BYTES,
    ImageMetadata,
    describe,
    letters_of,
    refuse_bomb,
    sizes_of,
)
from cellwright.files.vendors.scenes import MOST_TIMES_STORED, package_for, squeezed

NUMBERS = "biufc"  # kinds of values; others are tables and texts
DEFLATE = 1  # number of this filter
SPARE_BYTES = 64  # of a checksum behind a chunk
WALK = """# through all that an HDF5 file says of its pixels
import sys
def see(_, node):
    list(node.attrs.values())
try:
    import h5py
    with h5py.File(sys.argv[1], "r") as file:
        file.visititems(see)
except Exception:
    pass  # which reading tells
"""
MOST_SECONDS_OF_WALK = 15.0
NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # of Windows: a console would flash up before napari


def read(path: Path) -> Iterator[Image]:
    """Yield the one dataset of an image; ReadError where there are several, or it is damaged."""
    module = package_for(path, "h5py")
    if not _comes_to_an_end(path):
        raise ReadError(f"{path} is damaged: HDF5 never finished reading it. Export it again.")
    with module.File(path, "r") as file:
        datasets: list[Any] = []
        file.visititems(lambda _, node: datasets.append(node) if hasattr(node, "dtype") else None)
        images = [one for one in datasets if one.ndim > 1 and one.dtype.kind in NUMBERS]
        if len(images) != 1:
            raise ReadError(
                f"Expected one dataset of an image in {path}; got {len(images)}. Export one as TIFF."
            )
        n_stored = images[0].id.get_storage_size()
        refuse_bomb(path, images[0].shape, images[0].nbytes, n_stored, MOST_TIMES_STORED)
        _refuse_chunks_beyond(images[0], path)
        axes = letters_of([dimension.label for dimension in images[0].dims])
        if "axistags" in images[0].attrs:  # of ilastik: what vigra says of each axis
            axis_tags = json.loads(images[0].attrs["axistags"])
            axes = "".join(str(axis["key"]).upper() for axis in axis_tags["axes"])
        sizes = images[0].attrs.get("element_size_um", ())  # of Fiji and PlantSeg
        data, letters = images[0][()], axes
        if len(axes) == data.ndim:
            index, letters = squeezed(data.shape, axes)
            data = data[index]
        told_sizes = sizes_of(dict(zip("ZYX"[-len(sizes) :], sizes, strict=False)))
        yield describe(data, letters, path.stem, ImageMetadata(told_sizes))


def _comes_to_an_end(path: Path) -> bool:
    """Return whether HDF5 gets through a file, in another process: it crashes on some, or loops for ever."""
    command = [sys.executable, "-c", WALK, str(path)]
    try:
        walk = subprocess.run(
            command,
            capture_output=True,
            timeout=MOST_SECONDS_OF_WALK,
            check=False,
            creationflags=NO_WINDOW,
        )
    except subprocess.TimeoutExpired:
        return False
    return walk.returncode == 0


def _refuse_chunks_beyond(dataset: Any, path: Path) -> None:
    """Raise ReadError where a chunk of HDF5 unpacks to more than it is to hold: HDF5 itself does not look."""
    if dataset.id.get_storage_size() * MOST_TIMES_STORED < LEAST_BOMB_BYTES:
        return
    settings = dataset.id.get_create_plist()
    filters = [settings.get_filter(number)[0] for number in range(settings.get_nfilters())]
    if DEFLATE not in filters:
        return
    import imagecodecs

    left_out, most = 1 << filters.index(DEFLATE), prod(dataset.chunks) * dataset.dtype.itemsize + SPARE_BYTES
    for number in range(dataset.id.get_num_chunks()):
        place = dataset.id.get_chunk_info(number).chunk_offset
        mask, packed = dataset.id.read_direct_chunk(place)
        if mask & left_out:
            continue
        try:
            imagecodecs.zlib_decode(packed, out=most)
        except imagecodecs.ZlibError as error:
            raise ReadError(
                f"A chunk of {path} at {place} is damaged, or unpacks to more than {most} bytes ({error}). "
                "Export it again."
            ) from error
