"""What a TIFF claims, checked before it is believed: directories, parts of other files, sizes, tiles."""

import re
from collections.abc import Callable
from functools import partial
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from cellwright.core.errors import ReadError
from cellwright.files.metadata import refuse_bomb

DESCRIPTION_TAG, SUBIFDS_TAG = 270, 330
MOST_TIMES = dict.fromkeys((1, 5, 8, 32946, 32773), 2000)  # none, LZW, deflate (1032 of zeros), PackBits
MOST_TIMES_BY_OTHERS = 100_000  # how much larger than its file an image can be
MOST_PAGES, MOST_SUBIFDS = 1_000_000, 1000
JPEGS, JPEGS_2000, OTHER_PICTURES = {6, 7, 33007, 34892}, {33003, 33004, 33005, 34712}, {34933, 50001}
JPEGS_XL, JPEGS_XR = {50002, 52546}, {22610, 34934}
SIZ = b"\xff\x4f\xff\x51"  # of JPEG 2000: what follows tells the size
NO_SIZE = {0xC4, 0xC8, 0xCC}  # of the markers of JPEG that look as if they told one
LAST_MARKER = 0xDA  # of JPEG, before pixels
MOST_SAMPLES = 1 << 22  # of a tile, however small those of its page are


def ome_of(xml: str) -> ElementTree.Element:
    """Return OME-XML; an empty element where it is damaged, for the pixels can be read all the same."""
    try:
        return ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return ElementTree.Element("OME")


def files_of_set(ome: ElementTree.Element) -> dict[str, None]:
    """Return the names of the files that OME-XML takes planes from, in its order."""
    return dict.fromkeys(str(node.get("FileName", "")) for node in ome.findall(".//{*}UUID[@FileName]"))


def refuse_false_ome(tiff: tifffile.TiffFile, path: Path) -> None:
    """Raise ReadError where OME-XML takes planes from outside the folder, or more than a file can hold."""
    ome = ome_of(tiff.ome_metadata or "")
    for name in files_of_set(ome):
        if name != Path(name.replace("\\", "/")).name:
            raise ReadError(f"UUID.FileName of {path} must name a file of its folder; got {name!r}.")
    page = tiff.pages.first
    for pixels in ome.findall(".//{*}Pixels"):
        sizes = [pixels.get(f"Size{axis}", "1") for axis in "TCZYX"]
        n_planes = prod(int(size) for size in sizes if size.isdecimal()) / (
            page.imagelength * page.imagewidth
        )
        if n_planes > MOST_PAGES:
            raise ReadError(
                f"{path} claims TCZYX of {' x '.join(sizes)}, more than it can hold. Export it again."
            )


def refuse_large(series: tifffile.TiffPageSeries, path: Path, n_file: int) -> None:
    """Raise ReadError where an image claims to be far larger than its file can be."""
    if not series.is_multifile:
        n_bytes = prod(series.shape) * series.dtype.itemsize
        times = MOST_TIMES.get(int(series.keyframe.compression), MOST_TIMES_BY_OTHERS)
        refuse_bomb(path, series.shape, n_bytes, n_file, times)


def refuse_compression(page: Any, path: Path) -> None:
    """Raise ReadError where nothing here reads the compression of a page."""
    if page.compression not in tifffile.TIFF.DECOMPRESSORS:
        name = getattr(page.compression, "name", page.compression)
        raise ReadError(
            f"{path} is compressed by {name}, which is not read here. Save it with another one, or none."
        )


def refuse_false_index(tiff: tifffile.TiffFile, path: Path) -> None:
    """Raise ReadError where the index of Micro-Manager names more planes than a file can hold."""
    metadata = (tiff.is_micromanager and tiff.micromanager_metadata) or {}
    places, summary = metadata.get("IndexMap"), metadata.get("Summary", {})
    if places is None or not len(places):
        return
    planned = [summary.get(key, 1) for key in ("Channels", "Slices", "Frames", "Positions")]
    counts = np.maximum(places[:, :4].max(axis=0) + 1.0, np.array(planned, float))
    if counts.prod() > MOST_PAGES:
        raise ReadError(f"{path} claims {counts.prod():.0f} planes, more than it can hold. Export it again.")


def refuse_cut_file(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, path: Path) -> None:
    """Raise ReadError where tifffile takes a damaged file for a shorter, partly black or plainer image.

    In a file cut short, the last page points at a next one beyond the end, or the first page at a
    description beyond it.
    """
    tiff.filehandle.seek(tiff.pages.next_page_offset or 0)
    next_page = tiff.filehandle.read(tiff.tiff.offsetsize)
    pages = list(series.pages)
    promised = (tiff.imagej_metadata or {}).get("images", 1)
    if series.is_truncated or is_split_off(tiff):
        promised = 1  # ImageJ keeps one page of what is larger than 4 GB; tifffile saw that all is there
    if any(next_page) or None in pages or promised > len(pages) or _lost_description(tiff):
        raise ReadError(
            f"Parts of {path} are missing: it was cut short, is one of a set, or its description names more "
            "planes than there are. Copy it again, or save it again with Fiji."
        )


def is_split_off(tiff: tifffile.TiffFile) -> bool:
    """Return whether a file is one plane with the description of the ImageJ stack that it was taken from.

    Its directory stands behind its pixels; that of a stack cut short stands before them.
    """
    page, promised = tiff.pages.first, (tiff.imagej_metadata or {}).get("images", 1)
    is_one = len(tiff.pages) == page.samplesperpixel == 1 < promised
    return is_one and page.offset > max(page.dataoffsets, default=page.offset)


def check_directories(tiff: tifffile.TiffFile, path: Path) -> None:
    """Raise ReadError where the directories of a file are cut, go round, or name more than it can hold."""
    header, file = tiff.tiff, tiff.filehandle
    if header.is_ndpi:
        return  # whose offsets are of another kind
    word = f"{header.byteorder}u{header.offsetsize}"
    file.seek(header.offsetsize)  # 4 or, in a BigTIFF, 8: where the first offset stands
    offset = int(np.frombuffer(file.read(header.offsetsize), word)[0])
    seen: set[int] = set()
    while 0 < offset < file.size:
        seen.add(offset)
        entries = _entries_at(tiff, offset)
        subifds = entries["count"][entries["code"] == SUBIFDS_TAG]
        following = np.frombuffer(file.read(header.offsetsize), word)
        if len(following) == 0:
            raise ReadError(f"{path} ends within its list of tags: it was cut short. Copy it again.")
        offset = int(following[0])
        if offset in seen or len(seen) > MOST_PAGES or (subifds > MOST_SUBIFDS).any():
            raise ReadError(f"The pages of {path} lead in a circle or are too many. Export it again.")


def _entries_at(tiff: tifffile.TiffFile, offset: int) -> NDArray[np.void]:
    """Return the entries of the directory at an offset; the file then stands behind them."""
    header, file = tiff.tiff, tiff.filehandle
    number, word = f"{header.byteorder}u2", f"{header.byteorder}u{header.offsetsize}"
    entry = np.dtype([("code", number), ("type", number), ("count", word), ("offset", word)])
    file.seek(offset)
    count = np.frombuffer(file.read(header.tagnosize), f"{header.byteorder}u{header.tagnosize}")
    return np.frombuffer(file.read(int(count[0]) * entry.itemsize), entry)


def _lost_description(tiff: tifffile.TiffFile) -> bool:
    entries = _entries_at(tiff, tiff.pages.first.offset)
    description = entries[(entries["code"] == DESCRIPTION_TAG) & (entries["count"] > tiff.tiff.offsetsize)]
    return bool((description["offset"] + description["count"] > tiff.filehandle.size).any())


def bound_pictures(page: Any) -> None:
    """Have tiles refused that are pictures in themselves, and far larger than a tile of their page.

    Decoders of other kinds are told by tifffile how much they may unpack.
    """
    n_samples = next((count for kinds, count in N_SAMPLES if int(page.compression) in kinds), None)
    if n_samples is None or "decode" in vars(page):
        return
    decode, most = page.decode, max(MOST_SAMPLES, 2 * prod(page.chunks))

    def decode_bounded(data: bytes | None, *arguments: Any, **named: Any) -> Any:
        claimed = n_samples(data or b"")
        if claimed > most:
            raise ValueError(f"a tile claims {claimed} samples; those of its page have {prod(page.chunks)}")
        return decode(data, *arguments, **named)

    vars(page)["decode"] = decode_bounded


def _jpeg_samples(data: bytes) -> int:
    """Return how many samples a JPEG has; 0 where it leaves them to its page."""
    at = data.find(b"\xff")
    while 0 <= at < len(data) - 9:
        kind = data[at + 1]
        if 0xC0 <= kind <= 0xCF and kind not in NO_SIZE:
            height, width, n = np.frombuffer(data, ">u2,>u2,u1", 1, at + 5)[0].tolist()
            return int(height * width * n)
        if kind == LAST_MARKER:
            break
        has_length = kind not in (0x00, 0x01, 0xFF) and not 0xD0 <= kind <= 0xD8
        at += 1 + has_length * (1 + int.from_bytes(data[at + 2 : at + 4], "big"))
        at = data.find(b"\xff", at)
    return 0


def _jpeg_2000_samples(data: bytes) -> int:
    """Return how many samples a JPEG 2000 has; the most where something else looks like its header."""
    found = [0]
    for start in re.finditer(SIZ, data):
        header = np.frombuffer(data[start.end() + 4 :][:34].ljust(34, b"\0"), "8>u4,>u2")[0]
        (right, low, left, top, *_), n = (part.tolist() for part in header)
        found.append((right - left) * (low - top) * n)
    return max(found)


def _picture_samples(data: bytes) -> int:
    from PIL import Image as Picture

    with Picture.open(BytesIO(data)) as picture:
        return prod(picture.size) * len(picture.getbands())


def _claimed_samples(name: str, data: bytes) -> int:
    """Return how many samples a decoder finds, which says so where there is no room for them."""
    import imagecodecs

    try:
        getattr(imagecodecs, name)(data, out=np.empty(0, np.uint8))
    except ValueError as error:
        claimed = re.search(r"shape=\(([0-9, ]+)\)$", str(error))
        if claimed:
            return prod(int(n) for n in claimed[1].split(",") if n.strip())
    raise ValueError(f"{name} does not give the size of a tile")


N_SAMPLES: tuple[tuple[set[int], Callable[[bytes], int]], ...] = (
    (JPEGS, _jpeg_samples),
    (JPEGS_2000, _jpeg_2000_samples),
    (OTHER_PICTURES, _picture_samples),
    (JPEGS_XL, partial(_claimed_samples, "jpegxl_decode")),
    (JPEGS_XR, partial(_claimed_samples, "jpegxr_decode")),
)
