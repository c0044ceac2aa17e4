"""TIFF: OME, ImageJ and plain ones; every colour space as light, every series an image of its own.

Palettes, inks (CMYK), CIELab and luma with chroma become red, green and blue; white-is-zero is turned round.
The palette of an ImageJ file that only gets lighter is a way to show intensities, which stay as they are.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import islice, pairwise
from math import prod
from pathlib import Path
from typing import Any, NamedTuple
from weakref import finalize

import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile import PHOTOMETRIC, PLANARCONFIG

from cellwright.core.data import ArrayLike, Image
from cellwright.core.errors import ReadError
from cellwright.files.metadata import (
    LAZY_BYTES,
    ON_ITS_SIDE,
    ORIENTATION_TAG,
    FileArray,
    Wanted,
    blank,
    describe,
    scene_name,
)
from cellwright.files.tiff_checks import (
    bound_pictures,
    check_directories,
    is_split_off,
    refuse_compression,
    refuse_cut_file,
    refuse_false_index,
    refuse_false_ome,
    refuse_large,
)
from cellwright.files.tiff_metadata import opened, scn_image, series_metadata

OLD_JPEG = 6
ALPHA_SAMPLES = {tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA}
RGBA_SAMPLES = 4
MOST_PART_BYTES = 1 << 26  # of a strip or tile that is unpacked again wherever a part of it is looked at
LAZY_PYRAMID_BYTES = 1 << 26  # likewise of pyramids, which are looked at through their smaller copies
THUMBNAIL_TIMES = 4  # how much longer the sides of an image are, at least, than those of its thumbnail
KINDS_OF_LIGHT = {*range(7), 8, 9, 34892}  # photometrics that are light, or become it; the last is raw
SLIDES = ("svs", "qpi", "ndpi", "bif", "philips")  # what tifffile calls the files of slide scanners
OF_SLIDES = ("thumbnail", "label", "macro", "map")  # pictures of the slide as a whole, beside its image
TILES_OF_BIF = (
    "the tiles of this scanner overlap a little and are read as they are stored; cells at their edges may be "
    "counted twice. Export it as OME-TIFF with QuPath to count it exactly."
)
POSITIONS = "RPM"  # axes of stage positions (of Micro-Manager, of LSM) and of the tiles of a mosaic
_Series = tuple[int, tifffile.TiffPageSeries, list[int]]  # its number, and those of its smaller copies
STAND_IN = {"Y": 2, "X": 3}
MOST_TURNED = 1000  # pages whose orientation is looked at
CHUNK_PX = 1024  # along Y and X, at least, of what is read at once


def read_tiff(path: Path, wanted: Wanted) -> Iterator[Image]:
    """Yield the images of a TIFF, each with axes, pixel size and channels as far as the file tells them.

    ReadError where parts of it are missing, or it claims more pixels than its bytes can hold.
    """
    with opened(path) as tiff:
        check_directories(tiff, path)
        refuse_false_ome(tiff, path)
        refuse_false_index(tiff, path)
        series = _images(tiff)
        thumbnail: list[str] = []
        if not tiff.is_ome:
            series, thumbnail = _without_thumbnail(series, path)
        left_out = _left_out(tiff)
        for index, one, copies in series:
            refuse_cut_file(tiff, one, path)
            refuse_large(one, path, tiff.filehandle.size)
            refuse_compression(one.keyframe, path)
            bound_pictures(one.keyframe)
            name = scene_name(path, one.name or str(index), len(series))
            metadata = series_metadata(tiff, index)
            doubts = [*_no_light(one, path), *_turned_apart(tiff, one, path)]
            metadata = replace(metadata, notices=[*left_out, *thumbnail, *metadata.notices, *doubts])
            for seen, suffix in _positions(_pixels(tiff, index, path, wanted, copies)):
                image = describe(seen.data, seen.axes, name + suffix, metadata)
                yield replace(image, is_converted=seen.is_converted, levels=seen.levels)


def _no_light(series: tifffile.TiffPageSeries, path: Path) -> list[str]:
    """Return a notice where it is not known here how the pixels of a series become light."""
    kind: Any = series.keyframe.photometric
    is_other_way = kind in (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.CIELAB, PHOTOMETRIC.ICCLAB)
    if kind in KINDS_OF_LIGHT and not (is_other_way and series.dtype.kind == "f"):
        return []
    return [
        f"The pixels of {path.name} are {getattr(kind, 'name', kind)} of {series.dtype}, which is not turned "
        "into light here; they are read as they are stored. Save it as grey or RGB."
    ]


def _turned_apart(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, path: Path) -> list[str]:
    """Return a notice where pages tell other orientations than the first."""
    if series.is_multifile:
        return []
    pages = [page.aspage() for page in islice(series.pages, MOST_TURNED) if page is not None]
    if len({page.tags.valueof(ORIENTATION_TAG, 1) for page in pages}) < 2:
        return []
    become = "read as they are stored" if _ignores_turns(tiff) else "turned as the first is"
    return [f"The pages of {path.name} are to be turned in several ways; all were {become}."]


def _ignores_turns(tiff: tifffile.TiffFile) -> bool:
    """Return whether the programs that write such files do not mind what they say of orientation."""
    return tiff.is_ome or bool(tiff.is_imagej)


def _positions(seen: "_SeriesPixels") -> Iterator[tuple["_SeriesPixels", str]]:
    """Yield the pixels of each position of the stage, and what its name ends with."""
    at = next((place for place, axis in enumerate(seen.axes) if axis in POSITIONS), None)
    if at is None:
        yield seen, ""
        return
    axes = seen.axes[:at] + seen.axes[at + 1 :]
    for number in range(seen.data.shape[at]):
        data = seen.data[(slice(None),) * at + (number,)]
        for one, suffix in _positions(_SeriesPixels(data, axes, seen.is_converted)):
            yield one, f"_{number}{suffix}"


def _left_out(tiff: tifffile.TiffFile) -> list[str]:
    """Return notices of pictures of a slide, and of planes that the description of a file does not name."""
    pictures = [name for name in map(partial(_picture_of_slide, tiff), tiff.series) if name]
    sentences = []
    if 0 < len(pictures) < len(tiff.series):
        sentences = [f"{tiff.filename}: left out of the slide: {', '.join(pictures)}."]
    if tiff.is_bif:
        sentences.append(f"{tiff.filename}: {TILES_OF_BIF}")
    if sentences:
        return sentences
    if not (tiff.is_ome or tiff.is_imagej):
        return []
    n_planes = len(tiff.pages)
    n_named = sum(prod(one.shape) // max(1, prod(one.keyframe.shape)) for one in tiff.series)
    if is_split_off(tiff):
        n_stack = (tiff.imagej_metadata or {})["images"]
        return [f"{tiff.filename} holds one plane; its description is that of a stack of {n_stack}."]
    if n_planes <= n_named:
        return []
    return [
        f"{tiff.filename} has {n_planes} planes; its description names {n_named}, and the others are left "
        "out. Save it again with the right axes to count them."
    ]


def _picture_of_slide(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> str:
    """Return what a picture beside the image of a slide is called; '' where it is an image."""
    name = series.name.lower()
    if series.kind in SLIDES and name in OF_SLIDES:
        return name
    if series.kind == "scn" and scn_image(tiff, series)[-1]:
        return "macro"
    return ""


def _without_thumbnail(series: list[_Series], path: Path) -> tuple[list[_Series], list[str]]:
    """Return series without a first one that is far smaller than the largest, and a notice of it."""
    sides = [[n for n, axis in zip(one.shape, one.axes, strict=True) if axis in "YX"] for _, one, _ in series]
    most = max(sides, key=prod, default=[])
    if not sides or any(n * THUMBNAIL_TIMES > large for n, large in zip(sides[0], most, strict=True)):
        return series, []
    notice = (
        f"The first image of {path.name} has {sides[0]} pixels, far less than {most} of what follows: it is "
        "treated as a thumbnail and left out."
    )
    return series[1:], [notice]


def _images(tiff: tifffile.TiffFile) -> list[_Series]:
    """Return number, series and the numbers of smaller copies of the images; masks are left out."""
    planes = [(index, one) for index, one in enumerate(tiff.series) if one.ndim > 1]
    series = [(index, one) for index, one in planes if not _picture_of_slide(tiff, one)] or planes
    if tiff.is_ome or len(series) == 1:
        return [(index, one, []) for index, one in series]
    found: list[_Series] = []
    for index, one in series:
        is_part = one.keyframe.is_reduced or one.keyframe.is_mask
        if not is_part and not (found and _is_smaller_copy(found[-1][1], one)):
            found.append((index, one, []))
        elif found and not one.keyframe.is_mask and _is_scaled(found[-1][1], one):
            found[-1][2].append(index)
    return found


def _is_smaller_copy(large: tifffile.TiffPageSeries, small: tifffile.TiffPageSeries) -> bool:
    """Return whether a series is another one at less of its size: in a SubIFD, or of a pyramid in pages."""
    if small.keyframe.is_subifd and prod(small.shape) < prod(large.shape):
        return True  # larger ones are images, of which cameras put a small copy before
    return large.keyframe.is_tiled and _is_scaled(large, small)


def _is_scaled(large: tifffile.TiffPageSeries, small: tifffile.TiffPageSeries) -> bool:
    """Return whether a series has the axes, type and proportions of a larger one: no label of a slide."""
    if large.axes != small.axes or large.dtype != small.dtype:
        return False
    factors = [a / b for a, b, axis in zip(large.shape, small.shape, large.axes, strict=True) if axis in "YX"]
    return len(factors) == 2 and min(factors) > 1.5 and abs(factors[0] / factors[1] - 1) < 0.05


class _SeriesPixels(NamedTuple):
    """Pixels, their axes, whether they are others than those stored, and smaller copies."""

    data: ArrayLike
    axes: str
    is_converted: bool = False
    levels: tuple[ArrayLike, ...] = ()


def _pixels(
    tiff: tifffile.TiffFile, index: int, path: Path, wanted: Wanted, copies: list[int]
) -> _SeriesPixels:
    series = tiff.series[index]
    described = _described(tiff, index, wanted)
    n_bytes = prod(series.shape) * series.dtype.itemsize
    levels: tuple[ArrayLike, ...] = ()
    if wanted.has_levels and not described.is_converted and described.data.shape == series.shape:
        levels = _levels(series, index, path, copies)
    if not wanted.has_pixels:
        return described
    most = LAZY_PYRAMID_BYTES if levels else LAZY_BYTES
    has_order = described.axes == series.axes.replace("S", "C") and described.data.shape == series.shape
    if n_bytes > most and has_order and not described.is_converted:
        lazy = _lazy(series, index, path)
        if lazy is not None:
            return _SeriesPixels(lazy, described.axes, levels=levels)
    return _as_seen(_stored(series, path), tiff, index, path, wanted)._replace(levels=levels)


def _stored(series: tifffile.TiffPageSeries, path: Path) -> NDArray[Any]:
    """Return the pixels of a series as they are stored; ReadError where a strip holds more than it should.

    Pillow reads JPEG of the old style, whose tables may stand outside the strips.
    """
    page = series.keyframe
    if page.compression == OLD_JPEG and page.photometric == PHOTOMETRIC.YCBCR:
        return _pictures(path, series)
    try:
        pixels = series.asarray()
    except RuntimeError as error:
        if "INSUFFICIENT_SPACE" not in str(error):
            raise
        raise ReadError(
            f"A strip or tile of {path} unpacks to more pixels than it has room for. Save it again with the "
            "program that wrote it, or with Fiji."
        ) from error
    if pixels.shape != series.shape:  # with planes that the description does not name
        pixels = pixels.ravel()[: prod(series.shape)].reshape(series.shape)
    return pixels


def _described(tiff: tifffile.TiffFile, index: int, wanted: Wanted) -> _SeriesPixels:
    """Return what becomes of a series, without its pixels: a stand-in of few pixels goes the same way."""
    series = tiff.series[index]
    lengths = dict(zip(series.axes, series.shape, strict=True))
    small = [STAND_IN.get(axis, n) for axis, n in zip(series.axes, series.shape, strict=True)]
    seen = _as_seen(np.zeros(small, series.dtype), tiff, index, None, wanted)
    full = {STAND_IN[axis]: lengths[axis] for axis in STAND_IN if axis in lengths}
    shape = [full[n] if axis in STAND_IN else n for axis, n in zip(seen.axes, seen.data.shape, strict=True)]
    return seen._replace(data=blank(shape, seen.data.dtype))


class TiffLevel(FileArray):
    """An array in a TIFF that is read where it is looked at; its file is open as long as the array is there.

    ``index`` is the number of the series; ``level`` 0 is full resolution, then come its smaller copies.
    """

    def __init__(self, path: Path, index: int, level: int = 0) -> None:
        import zarr

        self._place = (path, index, level)
        file = opened(path)
        finalize(self, file.close)
        series = file.series[index]
        bound_pictures(series.levels[level].keyframe)
        self._array: Any = zarr.open_array(series.aszarr(level=level), mode="r")
        self.shape, self.dtype, self.ndim = tuple(self._array.shape), self._array.dtype, self._array.ndim
        self.chunks = tuple(
            n * max(1, CHUNK_PX // n) if axis in "YX" else n
            for axis, n in zip(series.axes, self._array.chunks, strict=True)
        )

    def __getitem__(self, index: Any) -> NDArray[Any]:
        return self._array[index]


def _levels(
    series: tifffile.TiffPageSeries, index: int, path: Path, copies: list[int]
) -> tuple[ArrayLike, ...]:
    """Return the smaller copies of a pyramid; ``copies`` are numbers of series where they are in pages."""
    if find_spec("zarr") is None:
        return ()
    if len(series.levels) == 1:
        return tuple(TiffLevel(path, copy) for copy in copies)
    return tuple(TiffLevel(path, index, number) for number in range(1, len(series.levels)))


def _as_seen(
    data: NDArray[Any], tiff: tifffile.TiffFile, index: int, path: Path | None, wanted: Wanted
) -> _SeriesPixels:
    """Return the pixels of a series as light, upright, colours last; ``path`` is None where they are none."""
    series = tiff.series[index]
    page, axes, is_converted = series.keyframe, series.axes, False
    if page.photometric == PHOTOMETRIC.YCBCR and page.compression not in (6, 7, 33003, 33005, 34892):
        is_converted = True
        if path is not None:
            data = _pictures(Path(tiff.filehandle.path), series)
    if "S" in axes:
        data, axes = _samples_last(data, axes, page)
    light, axes = _as_light(data, axes, tiff, series, are_labels=wanted.are_labels)
    is_converted = is_converted or light is not data
    orientation = page.tags.get(ORIENTATION_TAG)
    if orientation is not None and not _ignores_turns(tiff) and "YX" in axes:
        plane = (axes.index("Y"), axes.index("X"))
        turned = upright(np.moveaxis(light, plane, (0, 1)), orientation.value)
        light = np.moveaxis(turned, (0, 1), plane)
        is_converted = is_converted or orientation.value != 1
    if "C" in axes and axes.endswith("S"):  # colours of each channel: as many channels more
        at = axes.index("C")
        light, axes = np.moveaxis(light, -1, at + 1), axes[:-1]
        light = light.reshape(*light.shape[:at], -1, *light.shape[at + 2 :])
    return _SeriesPixels(light, axes.replace("S", "C"), is_converted)


def _samples_last(data: NDArray[Any], axes: str, page: Any) -> tuple[NDArray[Any], str]:
    """Return pixels whose samples are the last axis, without opacity, and their axes.

    Planes of which none is said to be a colour are channels, and stay where they are.
    """
    is_light = page.photometric == PHOTOMETRIC.MINISBLACK and not set(page.extrasamples) & ALPHA_SAMPLES
    if is_light and page.planarconfig == PLANARCONFIG.SEPARATE and "C" not in axes:
        return data, axes.replace("S", "C")
    data = np.moveaxis(data, axes.index("S"), -1)
    axes = axes.replace("S", "") + "S"
    is_rgba = page.photometric == PHOTOMETRIC.RGB and data.shape[-1] == RGBA_SAMPLES
    if is_rgba or set(page.extrasamples[-1:]) & ALPHA_SAMPLES:
        data = data[..., :-1]
    if data.shape[-1] == 1:
        data, axes = data[..., 0], axes[:-1]
    return data, axes


def _lazy(series: tifffile.TiffPageSeries, index: int, path: Path) -> ArrayLike | None:
    """Return an array that is read where it is looked at; None where much more than that were unpacked."""
    page: Any = series.keyframe
    if series.dataoffset is not None and not series.is_multifile:
        dtype = series.dtype.newbyteorder(page.parent.byteorder)
        return np.memmap(page.parent.filehandle.path, dtype, "r", series.dataoffset, series.shape)
    is_small = prod(page.chunks) * series.dtype.itemsize <= MOST_PART_BYTES
    if is_small and page.compression != OLD_JPEG and find_spec("zarr") is not None:
        return TiffLevel(path, index)
    return None


def _as_light(
    data: NDArray[Any],
    axes: str,
    tiff: tifffile.TiffFile,
    series: tifffile.TiffPageSeries,
    *,
    are_labels: bool,
) -> tuple[NDArray[Any], str]:
    """Return pixels whose higher values are lighter, or the labels that a palette shows, and their axes."""
    page = series.keyframe
    kind = page.photometric
    if kind == PHOTOMETRIC.PALETTE and page.colormap is not None and data.dtype.kind in "bu":
        palettes = _palettes(series, prod(data.shape[:-2]))
        if len(palettes) == 1:
            is_imagej = bool(tiff.imagej_metadata)
            return _looked_up(data, axes, palettes[0], is_imagej=is_imagej, are_labels=are_labels)
        planes = data.reshape(-1, *data.shape[-2:])
        colours = [_colours(*pair) for pair in zip(planes, palettes, strict=True)]
        return np.stack(colours).reshape(*data.shape, 3), axes + "S"
    is_mask = data.dtype.kind == "b" and tiff.is_shaped  # tifffile writes them so, and means it not
    if kind == PHOTOMETRIC.MINISWHITE and data.dtype.kind in "biu" and not (tiff.imagej_metadata or is_mask):
        if data.dtype.kind in "bi":
            return ~data, axes
        return data.dtype.type(2**page.bitspersample - 1) - data, axes
    if kind == PHOTOMETRIC.SEPARATED and axes.endswith("S") and data.shape[-1] >= 4:
        return cmyk_to_rgb(data), axes
    is_lab = kind in (PHOTOMETRIC.CIELAB, PHOTOMETRIC.ICCLAB) and axes.endswith("S")
    if is_lab and data.dtype in (np.uint8, np.uint16):
        return _lab_to_rgb(data, is_icc=kind == PHOTOMETRIC.ICCLAB), axes
    return data, axes


def _looked_up(
    places: NDArray[Any], axes: str, colormap: NDArray[Any], *, is_imagej: bool, are_labels: bool
) -> tuple[NDArray[Any], str]:
    """Return the colours of places in a palette (3, N), or the intensities where all are grey.

    The places themselves are labels, and intensities of ImageJ.
    """
    table = _bytes_of(colormap)
    brightness = table.astype(int).sum(axis=0)
    gets_lighter = all(after >= before for before, after in pairwise(brightness.tolist()))
    if is_imagej and (are_labels or gets_lighter):
        return places, axes
    is_grey = (table == table[0]).all()
    if are_labels and not is_grey and not table[:, 0].any():
        return places, axes
    colours = _colours(places, table)
    if is_grey:
        return colours[..., 0], axes
    return colours, axes + "S"


def _palettes(series: tifffile.TiffPageSeries, n_planes: int) -> list[NDArray[Any]]:
    """Return the palette (3, N) of each plane of a series, or the one that all share."""
    first: Any = series.keyframe.colormap
    palettes: list[Any] = [page.aspage().colormap for page in series.pages if page is not None]
    is_each = len(palettes) == n_planes and all(one is not None for one in palettes)
    if is_each and any(not np.array_equal(one, first) for one in palettes):
        return palettes
    return [first]


def _bytes_of(palette: NDArray[Any]) -> NDArray[np.uint8]:
    table = np.asarray(palette)
    if table.max() > 255:
        table = table >> 8
    return table.astype(np.uint8)


def _colours(places: NDArray[Any], palette: NDArray[Any]) -> NDArray[np.uint8]:
    table = _bytes_of(palette)
    return table.T[np.minimum(places.astype(np.intp), table.shape[1] - 1)]


def cmyk_to_rgb(inks: NDArray[Any]) -> NDArray[Any]:
    """Return red, green and blue of four inks (..., 4) on white paper, in the type of the inks."""
    most = float(np.iinfo(inks.dtype).max) if inks.dtype.kind == "u" else 1.0
    paper = 1 - inks[..., :4].astype(np.float32) / most
    light = paper[..., :3] * paper[..., 3:] * most
    if inks.dtype.kind == "u":
        light = np.rint(light)
    return light.astype(inks.dtype)


def _lab_to_rgb(data: NDArray[Any], *, is_icc: bool) -> NDArray[Any]:
    """Return red, green and blue in the type of the samples, of 8 or 16 bits.

    Source: TIFF 6.0, section 23, and Adobe's Photoshop TIFF Technical Notes of 2002 (ICCLab, 16 bits).
    """
    from skimage.color import lab2rgb

    most, per_step = np.iinfo(data.dtype).max, 256 ** (data.dtype.itemsize - 1)
    if is_icc:
        lightness = data[..., :1] * (100 / (255 * per_step))
        hues = data[..., 1:3] / per_step - 128
    else:
        lightness = data[..., :1] * (100 / most)
        hues = data[..., 1:3].view(f"i{data.dtype.itemsize}") / per_step
    rgb: NDArray[np.float64] = lab2rgb(np.concatenate([lightness, hues], axis=-1))
    return np.rint(rgb * most).astype(data.dtype)


def _pictures(path: Path, series: tifffile.TiffPageSeries) -> NDArray[Any]:
    """Return a series as Pillow reads it, which knows luma and chroma of several resolutions."""
    from PIL import Image as Picture

    planes = []
    with Picture.open(path) as picture:
        for page in series.pages:
            assert page is not None
            first, *below = page.treeindex  # its place among the pages, and among the SubIFDs below one
            picture.seek(first)
            inner: Any = picture
            for number in below:
                inner = inner.get_child_images()[number]
            planes.append(np.asarray(inner.convert("RGB")))
    return np.stack(planes).reshape(series.shape)


def upright(data: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return an image (Y, X, ...) turned as the orientation of its file says (1 to 8, as in EXIF)."""
    if orientation in ON_ITS_SIDE:
        data = np.swapaxes(data, 0, 1)
    if orientation in (3, 4, 7, 8):
        data = data[::-1]
    if orientation in (2, 3, 6, 7):
        data = data[:, ::-1]
    return data
