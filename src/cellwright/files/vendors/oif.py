"""OIF and OIB of Olympus FluoView, by oiffile."""

from collections.abc import Iterator, Sequence
from functools import partial
from math import prod
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.errors import ReadError
from cellwright.files.metadata import (
    ImageMetadata,
    magnitude,
    missing_planes,
    refuse_bomb,
    seconds_of,
    sizes_of,
    um_per,
)
from cellwright.files.vendors.scenes import MOST_TIMES_STORED, SceneFormat, StoredScene, package_for

COMPOUND_START = bytes.fromhex("d0cf11e0a1b11ae1")  # of an OIB
HEADER_BYTES = 512
SECTOR_BYTES = {9: 512, 12: 4096}  # by what the header says of them
COUNTS_OF_SECTORS = [11, 16, 18]  # where, in words, the header says how many there are of each kind


def _refuse_circles(path: Path) -> None:
    """Raise ReadError where the sectors of a compound file lead in a circle, which oiffile follows for ever.

    Source: [MS-CFB], Compound File Binary File Format
    """
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        if content[:8] == COMPOUND_START and len(content) >= HEADER_BYTES:
            _refuse_circles_in(content, path)


def _refuse_circles_in(content: mmap, path: Path) -> None:
    header = np.frombuffer(content[:HEADER_BYTES], "<u4")
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


def _opened(path: Path) -> Any:
    _refuse_circles(path)
    return package_for(path, "oiffile").OifFile(path)


def _scenes(file: Any, path: Path) -> Iterator[StoredScene]:
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
    series = file.series[0]  # of files, each a plane
    planes = dict(zip(series.indices, series, strict=True))
    first = _read_plane(file, series[0])
    shape = (*series.shape, *first.shape)
    # a plane that is not there is dark: names alone could claim millions
    refuse_bomb(path, shape, prod(shape) * first.itemsize, len(planes) * first.nbytes, MOST_TIMES_STORED)
    axes = "".join(series.dims) + "YX"
    n_channels = series.shape[axes.index("C")] if "C" in axes else 0
    names = [_dye_of(file.mainfile.get(f"Channel {n + 1} Parameters", {})) for n in range(n_channels)]
    notices = missing_planes(path.name, len(planes), prod(series.shape))
    metadata = ImageMetadata(sizes, names, notices=notices, frame_interval_s=interval_s)
    yield StoredScene(
        path.stem, axes, shape, first.dtype, metadata, partial(_load_plane, file, planes, first)
    )


def _load_plane(
    file: Any, planes: dict[tuple[int, ...], str], first: NDArray[Any], window: Sequence[slice]
) -> NDArray[Any]:
    *places, rows, columns = window
    name = planes.get(tuple(place.start for place in places))
    plane = np.zeros_like(first) if name is None else _read_plane(file, name)
    if plane.shape != first.shape:
        raise ReadError(f"The planes of {file.filename} differ in size. Export it again.")
    return plane[rows, columns][(None,) * len(places)]


def _read_plane(file: Any, name: str) -> NDArray[Any]:
    """Return the first page of a TIFF inside: the next ones of a damaged one may lead anywhere, or round."""
    import tifffile  # which is not imported before its file is met

    from cellwright.files.tiff_checks import bound_pictures

    with file.open_file(name) as content, tifffile.TiffFile(content, name=name) as tiff:
        page: Any = tiff.pages.first
        refuse_bomb(Path(name), page.shape, page.nbytes, tiff.filehandle.size, MOST_TIMES_STORED)
        bound_pictures(page)
        plane: NDArray[Any] = page.asarray()
    return plane


def _dye_of(channel: dict[str, Any]) -> str:
    """Return the dye of a channel of an OIF, else what the microscope calls the channel."""
    dye = str(channel.get("DyeName", ""))
    return str(channel.get("CH Name", "")) if dye in ("", "None") else dye


read = SceneFormat(_opened, _scenes).read
