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
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import AXES, SPATIAL, ArrayLike, Image
from cellwright.core.errors import ReadError, needed
from cellwright.files.metadata import (
    LEAST_BOMB_BYTES,
    ImageMetadata,
    color_of,
    describe,
    magnitude,
    refuse_bomb,
    scene_name,
    seconds_of,
    sizes_of,
    um_per,
)

RGBA_SAMPLES = 4
MOST_TIMES_STORED = 4000  # how much larger than what is stored a dataset can be
DEFLATE = 1  # number of this filter in HDF5
MOST_BLOCK_BYTES = 1 << 28  # of a block of a CZI
BLOCK_TYPES = {1: "u1", 2: "u2", 4: "f4"}  # by the bytes of a sample
LONG_HEADER = 3  # bytes before a block of a CZI that say how its bytes are ordered
SPARE_BYTES = 64  # of a checksum behind a chunk
COMPOUND_START = bytes.fromhex("d0cf11e0a1b11ae1")  # of an OIB
HEADER_BYTES = 512
SECTOR_BYTES = {9: 512, 12: 4096}  # by what the header says of them
LUT_COLORS = {  # of a LIF
    "red": "#ff0000",
    "green": "#00ff00",
    "blue": "#0000ff",
    "cyan": "#00ffff",
    "magenta": "#ff00ff",
    "yellow": "#ffff00",
    **dict.fromkeys(("gray", "grey"), "#ffffff"),
}
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
COUNTS_OF_SECTORS = [11, 16, 18]  # where, in words, the header says how many there are of each kind
HDF5_START = b"\x89HDF\r\n\x1a\n"
OVERVIEWS = (".vsi", ".mrxs")  # read as pictures they are small ones of a slide whose pixels lie beside them
WITH_FIJI = "Open it in Fiji (File > Import > Bio-Formats) and save it as OME-TIFF."
WITH_QUPATH = "Open it in QuPath and export it as OME-TIFF."
AS_PICTURE = "Save it as PNG or TIFF with the program it comes from."
AS_FRAMES = "Save its frames as a TIFF stack."
NOT_READ = {
    (".vsi", ".ets", ".oir", ".ims", ".nd", ".dv", ".r3d", ".zvi", ".sld"): WITH_FIJI,
    (".lei", ".lof", ".xlef", ".xlif"): WITH_FIJI,
    (".dcm", ".nii", ".nii.gz", ".mrc", ".rec", ".nrrd"): WITH_FIJI,
    (".mrxs", ".vms", ".svslide"): WITH_QUPATH,
    (".heic", ".heif", ".jxl", ".xcf", ".svg", ".cr2", ".nef", ".arw"): AS_PICTURE,
    (".mp4", ".avi", ".mov", ".mkv", ".wmv"): AS_FRAMES,
}
NO_IMAGES = {
    b"%PDF": "a PDF",
    b"PK\3\4": "a zip archive or an office document",
    b"\xd0\xcf\x11\xe0": "an office document or another compound file",
    b"version https://git-lfs": "a pointer of Git LFS",
}


def why_not_read(path: Path, start: bytes) -> str:
    """Return what a file is that no reader here knows, and what to do with it; '' where it cannot be told.

    ``start`` are its first bytes.
    """
    for endings, advice in NOT_READ.items():
        ending = next((one for one in endings if path.name.lower().endswith(one)), "")
        if ending:
            return f"Expected an image of a kind that is read here; {path} is a {ending} file. {advice}"
    if start.startswith(HDF5_START):
        return f"Expected an image; {path} is HDF5 of an unknown kind. {WITH_FIJI}"
    kind = next((kind for first, kind in NO_IMAGES.items() if start.startswith(first)), "")
    if not start:
        kind = "empty"
    elif not kind and start.isascii() and start.decode().replace("\n", " ").replace("\r", " ").isprintable():
        kind = "text"
    if kind:
        return f"Expected an image; {path} is {kind}, not an image. Copy or export the image itself again."
    return ""


def read_vendor(path: Path) -> Iterator[Image]:
    """Yield the scenes of a file of a vendor; ReadError where the package for it is not installed."""
    package, read = READERS[path.suffix.lower()]
    with needed(ReadError, f"Reading {path}", "vendor", package):
        module = import_module(package)
    yield from read(module, path)


class _UnpackedBlock:
    """What Zstandard packed of a block of a CZI, for czifile, which asks for it in a shape alone.

    Behind a header, which the later of two ways has, all low bytes may stand before all high ones.
    Source: "Compression Details" in the documentation of libCZI, https://zeiss.github.io/libczi
    """

    def __init__(self, packed: bytes, *, has_header: bool = False) -> None:
        import imagecodecs

        n_header = packed[0] if has_header else 0
        content = bytes(imagecodecs.zstd_decode(packed[n_header:], out=MOST_BLOCK_BYTES))
        if n_header == LONG_HEADER and packed[2] & 1:
            content = np.frombuffer(content, np.uint8).reshape(2, -1).T.tobytes()
        self._content = content

    def reshape(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return the pixels; the type follows from how many bytes one has."""
        n_bytes = len(self._content) // max(1, prod(shape))
        return np.frombuffer(self._content, BLOCK_TYPES[n_bytes]).reshape(shape)


def _read_czi(module: Any, path: Path) -> Iterator[Image]:
    inner: Any = getattr(module, "czifile", None)
    if hasattr(inner, "DECOMPRESS"):  # of before 2026, which lacks what ZEN packs by
        inner.DECOMPRESS.update({5: _UnpackedBlock, 6: partial(_UnpackedBlock, has_header=True)})
    with module.CziFile(path) as file:
        if hasattr(file, "scenes"):  # czifile of 2026, for Python 3.12 and newer
            yield from _read_czi_scenes(file, path)
            return
        metadata = _told_by_czi(file.metadata(raw=False))
        axes, entries = file.axes, file.filtered_subblock_directory
        _refuse_blocks_beyond(entries, path)
        starts = np.array([entry.start for entry in entries]) - file.start
        ends = starts + [entry.shape for entry in entries]
        pixels = np.zeros(file.shape, file.dtype)  # what no block covers is dark
        file.asarray(out=pixels, max_workers=1)  # several would hide what is damaged
    letters = axes.replace("0", "c")  # samples; S are scenes
    scene_axis = axes.find("S")
    scenes = np.unique(starts[:, scene_axis]).tolist() if scene_axis >= 0 else [None]
    for number in scenes:
        own = np.ones(len(starts), bool)
        if number is not None:
            own = starts[:, scene_axis] == number
        low, high = starts[own].min(axis=0), ends[own].max(axis=0)
        window = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        data, own_axes = _squeezed(pixels[window], letters)
        yield describe(data, own_axes, scene_name(path, str(number), len(scenes)), metadata)


def _refuse_blocks_beyond(entries: Any, path: Path) -> None:
    """Raise ReadError where a block of a CZI is of another shape than its entry, or than is stored."""
    for entry in entries:
        own = entry.data_segment().directory_entry
        if own.shape != entry.shape or prod(own.shape) > MOST_TIMES_STORED * prod(own.stored_shape):
            raise ReadError(
                f"A block of {path} claims a shape of {own.shape}; its entry {entry.shape}, of which "
                f"{own.stored_shape} are stored. Export it again."
            )


def _read_czi_scenes(file: Any, path: Path) -> Iterator[Image]:
    metadata = _told_by_czi(file.metadata(asdict=True))
    for number, scene in file.scenes.items():
        pixels = scene.asarray(fillvalue=0, maxworkers=1)  # what no block covers is dark
        data, axes = _squeezed(pixels, "".join(scene.dims).replace("S", "c"))
        yield describe(data, axes, scene_name(path, str(number), len(file.scenes)), metadata)


def _told_by_czi(told: Any) -> ImageMetadata:
    """Return what the XML of a CZI, as dictionaries, tells."""
    told = (told or {}).get("ImageDocument", {}).get("Metadata", {})
    distances = _as_list(told.get("Scaling", {}).get("Items", {}).get("Distance"))
    sizes = sizes_of({str(one.get("Id")): one.get("Value") for one in distances}, 1e6)  # from metres
    dimensions = told.get("Information", {}).get("Image", {}).get("Dimensions", {})
    channels = _as_list(dimensions.get("Channels", {}).get("Channel"))
    step: Any = dimensions
    for name in ("T", "Positions", "Interval", "Increment"):
        step = step.get(name) if isinstance(step, dict) else None
    return ImageMetadata(
        sizes, [str(one.get("Name", "")) for one in channels], frame_interval_s=seconds_of(step)
    )


def _read_nd2(module: Any, path: Path) -> Iterator[Image]:
    with module.ND2File(path) as file:
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
        data, letters = _squeezed(scene, axes.replace("P", ""))
        yield describe(data, letters, scene_name(path, str(n), len(scenes)), told)


def _nd2_interval(loops: Any) -> float:
    """Return the seconds from frame to frame of an ND2; 0 where there are none, or several phases differ."""
    found = {
        float(phase.periodMs)
        for loop in loops or ()
        if loop.type in ("TimeLoop", "NETimeLoop")
        for phase in getattr(loop.parameters, "periods", [loop.parameters])
    }
    return seconds_of(found.pop(), "ms") if len(found) == 1 else 0.0


def _read_lif(module: Any, path: Path) -> Iterator[Image]:
    with module.LifFile(path) as file:
        images = list(file.images)
        for image in images:
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
            told = ImageMetadata(  # from metres
                sizes_of(steps, 1e6), names, colors, frame_interval_s=interval_s
            )
            data, axes = _squeezed(image.asarray(), "".join(image.dims).replace("S", "c"))
            yield describe(data, axes, scene_name(path, image.name, len(images)), told)


def _lut_names(image: Any) -> list[str]:
    """Return the name of the colour that each channel of a LIF is shown in, in the order of its bytes."""
    element = getattr(image, "xml_element", None)
    if element is None:
        return []
    channels = element.findall("./Data/Image/ImageDescription/Channels/ChannelDescription")
    channels.sort(key=lambda channel: int(channel.get("BytesInc", 0)))
    return [channel.get("LUTName", "") for channel in channels]


def _refuse_circles(path: Path) -> None:
    """Raise ReadError where the sectors of a compound file lead in a circle, which oiffile follows for ever.

    Source: [MS-CFB], Compound File Binary File Format
    """
    content = path.read_bytes()
    if not content.startswith(COMPOUND_START) or len(content) < HEADER_BYTES:
        return
    header = np.frombuffer(content, "<u4", 128)
    size = SECTOR_BYTES.get(int.from_bytes(content[30:32], "little"), len(content))
    n_sectors = len(content) // size

    def sector(number: int) -> NDArray[np.uint32]:
        return np.frombuffer(content[(number + 1) * size : (number + 2) * size], "<u4")

    fat_sectors, following = header[19:].tolist(), int(header[17])
    for _ in range(n_sectors):
        if following >= n_sectors:
            break
        more = sector(following)
        fat_sectors += more[:-1].tolist()
        if len(fat_sectors) > n_sectors + len(header):
            break
        following = int(more[-1]) if len(more) else n_sectors
    fat = [sector(number) for number in dict.fromkeys(fat_sectors) if number < n_sectors]
    table = np.concatenate([np.zeros(0, np.uint32), *fat])
    mini, following = [np.zeros(0, np.uint32)], int(header[15])
    while following < len(table) and len(mini) <= n_sectors:
        mini.append(sector(following))
        following = int(table[following])
    lacks_some = header[COUNTS_OF_SECTORS].max() > n_sectors
    if lacks_some or _has_circle(table) or _has_circle(np.concatenate(mini)):
        raise ReadError(
            f"The sectors of {path} lead in a circle, or are fewer than it claims. It is damaged; copy or "
            "export it again."
        )


def _has_circle(following: NDArray[np.uint32]) -> bool:
    """Return whether the sectors that follow each other come to one again."""
    end = len(following)
    after = np.append(np.minimum(following, end), end).astype(np.intp)
    for _ in range(end.bit_length() + 1):
        after = after[after]  # twice as far each time
    return bool((after < end).any())


def _read_oif(module: Any, path: Path) -> Iterator[Image]:
    _refuse_circles(path)
    with module.OifFile(path) as file:
        sizes: dict[str, float] = {}
        interval_s = 0.0
        for number in range(8):
            axis = file.mainfile.get(f"Axis {number} Parameters Common", {})
            n, unit = magnitude(axis.get("MaxSize")), str(axis.get("PixUnit", ""))
            length = float(axis.get("EndPosition", 0)) - float(axis.get("StartPosition", 0))
            letter = str(axis.get("AxisCode"))
            if n and letter in "ZT":
                n -= 1  # from the middle of the first slice to that of the last; others are between edges
            if n and letter == "T":
                interval_s = seconds_of(length / n, unit)
            elif n:
                sizes |= sizes_of({letter: length / n}, um_per(unit) or 0.0)
        data, axes = _squeezed(file.asarray(), file.axes)
        n_channels = data.shape[axes.index("C")] if "C" in axes else 0
        names = [_dye_of(file.mainfile.get(f"Channel {n + 1} Parameters", {})) for n in range(n_channels)]
        told = ImageMetadata(sizes, names, frame_interval_s=interval_s)
        yield describe(data, axes, path.stem, told)


def _dye_of(channel: dict[str, Any]) -> str:
    """Return the dye of a channel of an OIF, else what the microscope calls the channel."""
    dye = str(channel.get("DyeName", ""))
    return str(channel.get("CH Name", "")) if dye in ("", "None") else dye


def _read_hdf5(module: Any, path: Path) -> Iterator[Image]:
    if not _comes_to_an_end(path):
        raise ReadError(f"{path} is damaged: HDF5 did not come to an end with it. Export it again.")
    with module.File(path, "r") as file:
        datasets: list[Any] = []
        file.visititems(lambda _, node: datasets.append(node) if hasattr(node, "dtype") else None)
        images = [one for one in datasets if one.ndim > 1]
        if len(images) != 1:
            raise ReadError(
                f"Expected one dataset of an image in {path}; got {len(images)}. Export one as TIFF."
            )
        n_stored = images[0].id.get_storage_size()
        refuse_bomb(path, images[0].shape, images[0].nbytes, n_stored, MOST_TIMES_STORED)
        _refuse_chunks_beyond(images[0], path)
        axes = "".join(dimension.label.upper() for dimension in images[0].dims)
        if "axistags" in images[0].attrs:  # of ilastik: what vigra says of each axis
            told = json.loads(images[0].attrs["axistags"])
            axes = "".join(str(axis["key"]).upper() for axis in told["axes"])
        sizes = images[0].attrs.get("element_size_um", ())  # of Fiji and PlantSeg
        data, letters = images[0][()], axes
        if len(axes) == data.ndim:
            data, letters = _squeezed(data, axes)
        told_sizes = sizes_of(dict(zip("ZYX"[-len(sizes) :], sizes, strict=False)))
        yield describe(data, letters, path.stem, ImageMetadata(told_sizes))


def _comes_to_an_end(path: Path) -> bool:
    """Return whether HDF5 gets through a file, in another process: it crashes on some, or loops for ever."""
    command = [sys.executable, "-c", WALK, str(path)]
    try:
        walk = subprocess.run(command, capture_output=True, timeout=MOST_SECONDS_OF_WALK, check=False)
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


def _as_list(value: Any) -> list[Any]:
    """Return the elements of XML under one name, of which a single one is no list."""
    if isinstance(value, list):
        return value
    return [value] * isinstance(value, dict)


def _squeezed(data: ArrayLike, axes: str) -> tuple[ArrayLike, str]:
    """Return an array without axes of length one that are neither Y nor X, and those that we do not know."""
    kept = [n > 1 or axis in "YX" for axis, n in zip(axes, data.shape, strict=True)]
    index = tuple(slice(None) if keep else 0 for keep in kept)
    letters = "".join(axis for axis, keep in zip(axes, kept, strict=True) if keep)
    if letters.endswith("c") and data.shape[-1] == RGBA_SAMPLES:
        index = (*index[:-1], slice(0, 3))
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
