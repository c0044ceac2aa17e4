"""CZI of Zeiss ZEN, by czifile of 2019 or, from Python 3.12, of 2026."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.errors import ReadError
from cellwright.files.metadata import (
    ImageMetadata,
    missing_planes,
    refuse_bomb,
    scene_name,
    seconds_of,
    sizes_of,
)
from cellwright.files.vendors.scenes import MOST_TIMES_STORED, SceneFormat, StoredScene, package_for
from cellwright.ops.geometry.tiles import overlap

MOST_BLOCK_BYTES = 1 << 28  # of a block
ZSTD, ZSTD_WITH_HEADER = 5, 6  # ways in which blocks are packed
LZW, OWN_LZW = 2, 1002  # czifile makes pixels of the first as NumPy no longer does
IN_A_PLANE = "SMYX0"  # axes of scenes, tiles and of what is stored together
BLOCK_TYPES = {1: "u1", 2: "u2", 4: "f4"}  # by the bytes of a sample
SEGMENT = Struct("<16sq8x")  # what each part of a file begins with: its name, how many bytes follow
LONG_HEADER = 3  # bytes before a block that say how its bytes are ordered


class _UnpackedBlock:
    """What was packed of a block of a CZI, for czifile, which asks for it in a shape alone.

    Behind a header, which the later way of Zstandard has, all low bytes may stand before all high ones.
    Source: "Compression Details" in the documentation of libCZI, https://zeiss.github.io/libczi
    """

    def __init__(self, packed: bytes, *, way: int) -> None:
        import imagecodecs

        if way == OWN_LZW:
            self._content = bytes(imagecodecs.lzw_decode(packed, out=MOST_BLOCK_BYTES))
            return
        n_header = packed[0] if way == ZSTD_WITH_HEADER else 0
        content = bytes(imagecodecs.zstd_decode(packed[n_header:], out=MOST_BLOCK_BYTES))
        if n_header == LONG_HEADER and packed[2] & 1:
            content = np.frombuffer(content, np.uint8).reshape(2, -1).T.tobytes()
        self._content = content

    def reshape(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return the pixels; the type follows from how many bytes one has."""
        n_bytes = len(self._content) // max(1, prod(shape))
        return np.frombuffer(self._content, BLOCK_TYPES[n_bytes]).reshape(shape)


def _opened(path: Path) -> Any:
    module = package_for(path, "czifile")
    inner: Any = getattr(module, "czifile", None)
    if hasattr(inner, "DECOMPRESS"):  # of before 2026, which lacks what ZEN packs by
        for way in (ZSTD, ZSTD_WITH_HEADER, OWN_LZW):
            inner.DECOMPRESS[way] = partial(_UnpackedBlock, way=way)
    return module.CziFile(path)


def _scenes(file: Any, path: Path) -> Iterator[StoredScene]:
    found = _new_scenes(file, path) if hasattr(file, "scenes") else _old_scenes(file, path)
    for scene in found:
        n_bytes = prod(scene.shape) * scene.dtype.itemsize
        refuse_bomb(path, scene.shape, n_bytes, path.stat().st_size, MOST_TIMES_STORED)
        yield scene


def _old_scenes(file: Any, path: Path) -> Iterator[StoredScene]:
    _refuse_circles(path)
    axes = file.axes
    blocks = [one for one in file.filtered_subblock_directory if not one.pyramid_type]
    _refuse_blocks_beyond(blocks, path)
    starts = np.array([block.start for block in blocks])
    ends = starts + [block.shape for block in blocks]
    metadata = _from_xml(file.metadata(raw=False))
    scene_axis = axes.find("S")
    scenes = np.unique(starts[:, scene_axis]).tolist() if scene_axis >= 0 else [None]
    for number in scenes:
        own = np.arange(len(blocks))
        if number is not None:
            own = np.flatnonzero(starts[:, scene_axis] == number)
        origin = starts[own].min(axis=0)
        shape = tuple((ends[own].max(axis=0) - origin).tolist())
        places = starts[own] - origin, ends[own] - origin
        load = partial(_load_blocks, [blocks[n] for n in own], *places, np.dtype(file.dtype))
        letters, name = axes.replace("0", "c"), scene_name(path, str(number), len(scenes))  # samples
        of_planes = [at for at, axis in enumerate(axes) if axis not in IN_A_PLANE]
        n_planes = prod(shape[at] for at in of_planes)
        lacking = missing_planes(name, len(np.unique(starts[own][:, of_planes], axis=0)), n_planes)
        without_sizes = replace(metadata, notices=lacking)
        yield StoredScene(name, letters, shape, np.dtype(file.dtype), without_sizes, load)


def _refuse_circles(path: Path) -> None:
    """Raise ReadError where a part of a CZI ends before it begins: czifile would go round for ever.

    It goes from part to part where one does not lie where the head of the file says.
    """
    place = 0
    with path.open("rb") as file:
        while len(head := file.read(SEGMENT.size)) == SEGMENT.size:
            name, n_bytes = SEGMENT.unpack(head)
            if not name.startswith((b"ZISRAW", b"DELETED")):
                return
            if n_bytes < 0:
                raise ReadError(
                    f"A part of {path} at {place} claims {n_bytes} bytes. It is damaged; export it again."
                )
            place += SEGMENT.size + n_bytes
            file.seek(place)


def _load_blocks(
    blocks: Sequence[Any],
    starts: NDArray[np.intp],
    ends: NDArray[np.intp],
    dtype: np.dtype[Any],
    window: Sequence[slice],
) -> NDArray[Any]:
    """Return a window of the blocks of a scene that start and end there; later ones lie on top."""
    low, high = (np.array([getattr(part, side) for part in window]) for side in ("start", "stop"))
    pixels = np.zeros(high - low, dtype)  # what no block covers is dark
    for n in np.flatnonzero(((starts < high) & (ends > low)).all(axis=1)).tolist():
        corner, size = (starts[n] - low).tolist(), (ends[n] - starts[n]).tolist()
        place, part = overlap(corner, size, pixels.shape)
        segment = blocks[n].data_segment()
        if getattr(segment.directory_entry, "compression", 0) == LZW:
            segment.directory_entry.compression = OWN_LZW
        pixels[place] = segment.data()[part]
    return pixels


def _refuse_blocks_beyond(entries: Any, path: Path) -> None:
    """Raise ReadError where a block of a CZI is of another shape than its entry, or than is stored."""
    for entry in entries:
        own = entry.data_segment().directory_entry
        if own.shape != entry.shape or prod(own.shape) > MOST_TIMES_STORED * prod(own.stored_shape):
            raise ReadError(
                f"A block of {path} claims a shape of {own.shape}; its entry {entry.shape}, of which "
                f"{own.stored_shape} are stored. Export it again."
            )


def _new_scenes(file: Any, path: Path) -> Iterator[StoredScene]:
    metadata = _from_xml(file.metadata(asdict=True))
    for number, scene in file.scenes.items():
        name = scene_name(path, str(number), len(file.scenes))
        axes = "".join(scene.dims).replace("S", "c")
        load = partial(_load_part, scene)
        yield StoredScene(name, axes, tuple(scene.shape), np.dtype(scene.dtype), metadata, load)


def _load_part(scene: Any, window: Sequence[slice]) -> NDArray[Any]:
    """Return a window of a scene of czifile, which counts as the microscope did."""
    parts = {
        axis: (first + part.start, part.stop - part.start)
        for axis, first, part in zip(scene.dims, scene.start, window, strict=True)
    }
    (x, width), (y, height) = parts.pop("X"), parts.pop("Y")
    places = {axis: first for axis, (first, _) in parts.items() if axis != "S"}  # S are samples
    shape = [part.stop - part.start for part in window]
    try:
        part = scene(roi=(x, y, width, height), pixeltype=scene.pixeltype, **places)
    except ValueError as error:
        if "no subblocks" not in str(error):
            raise
        return np.zeros(shape, scene.dtype)  # what no block covers is dark
    return part.asarray(fillvalue=0, maxworkers=1).reshape(shape)


def _from_xml(xml: Any) -> ImageMetadata:
    """Return what the XML of a CZI, as dictionaries, tells."""
    xml = (xml or {}).get("ImageDocument", {}).get("Metadata", {})
    distances = _as_list(xml.get("Scaling", {}).get("Items", {}).get("Distance"))
    sizes = sizes_of({str(one.get("Id")): one.get("Value") for one in distances}, 1e6)  # from metres
    dimensions = xml.get("Information", {}).get("Image", {}).get("Dimensions", {})
    channels = _as_list(dimensions.get("Channels", {}).get("Channel"))
    step: Any = dimensions
    for name in ("T", "Positions", "Interval", "Increment"):
        step = step.get(name) if isinstance(step, dict) else None
    return ImageMetadata(
        sizes, [str(one.get("Name", "")) for one in channels], frame_interval_s=seconds_of(step)
    )


def _as_list(value: Any) -> list[Any]:
    """Return the elements of XML under one name, of which a single one is no list."""
    if isinstance(value, list):
        return value
    return [value] if isinstance(value, dict) else []


read = SceneFormat(_opened, _scenes).read
