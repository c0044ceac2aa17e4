"""Images: files to :class:`Image` and labels to files, with axes, pixel size and channels kept."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import CHANNEL, Image, Labels
from cellwright.core.errors import CellwrightError, ReadError, WriteError
from cellwright.files import zarr
from cellwright.files.atomic import atomic_write, refuse_no_text
from cellwright.files.metadata import (
    COMPANION,
    ON_ITS_SIDE,
    ORIENTATION_TAG,
    ImageMetadata,
    Wanted,
    blank,
    describe,
    refuse_bomb,
    stamp_of,
    with_axes,
)
from cellwright.files.vendors.readers import HDF5_START, OVERVIEWS, READERS, why_not_read
from cellwright.ops.geometry.axes import StackedPixels

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and big, both byte orders
NPY_START = b"\x93NUMPY"
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_DEEP_COLOURS = {(16, 2): 3, (16, 4): 2, (16, 6): 4}  # bits and kind of a PNG to its samples a pixel
PLAIN_MODES = ("1", "L", "I", "I;16", "I;16B", "F", "RGB")  # those of Pillow that need no conversion
KEPT_MODES = (*PLAIN_MODES, "RGBA", "LA", "P")  # those that other readers give as we do
MOVIES = ("GIF", "WEBP", "PNG")  # whose frames follow each other in time
MOST_FRAME_PIXELS = 1 << 29  # of all frames of a movie
MOST_TIMES = 4000  # how much larger than its file a picture can be; LZW and deflate reach 1000 a sample
MOST_DESCRIBED, MOST_IMAGES_DESCRIBED = 256, 64  # files, and images of each
OPAQUE = 255
DEEP_PPM = ("ppm", "ppm_plain")  # decoders of Pillow: of bytes, of digits
KEYED_MODES = ("1", "L", "P", "RGB")  # of Pillow, in which a value may stand for transparency
TRANSPARENT = (
    "{} is transparent in places; the colours stored there are counted, which programs do not show. Save it "
    "without transparency."
)
_DESCRIBED: dict[tuple[str, int, int], tuple[Image, ...]] = {}


def read_image(
    path: Path | str, axes: str | None = None, *, has_levels: bool = False, are_labels: bool = False
) -> Image:
    """Return the image in a file, a .zarr folder or a Zarr store on a server; the first of several.

    TIFF (OME, ImageJ, LSM, STK, plain), PNG, JPEG and other pictures, .npy, OME-Zarr; CZI, ND2, LIF, OIF and
    OIB with a package each. Axes, pixel size and channels come from the file; axes that it does not tell are
    guessed from the shape. Transparency and colour profiles are dropped. Arrays of .zarr and .npy, and large
    ones of others, stay on disk until they are used.

    Given ``axes``, one letter of ``TCZYX`` for each dimension, override those of the file. With
    ``has_levels`` the image has its smaller copies, too; then pyramids stay on disk. With ``are_labels`` a
    palette of colours on black, or of ImageJ, shows labels, whose numbers are given.

    ReadError where the file is missing, damaged, cut short or no image, or a package is missing. AxesError
    where ``axes`` does not fit the image.
    """
    image = next(read_images(path, axes, has_levels=has_levels, are_labels=are_labels))
    file = str(path).rstrip("/").rpartition("/")[2]
    if image.name not in (Path(file).stem, file):  # each of several has a name of its own
        told = f"{file} holds several images; this is the first, {image.name}."
        image = replace(image, notices=(*image.notices, told))
    return image


def read_images(
    path: Path | str, axes: str | None = None, *, has_levels: bool = False, are_labels: bool = False
) -> Iterator[Image]:
    """Yield all images in a file or store: series, scenes, the fields of a plate; each when it is asked for.

    Parameters and errors are those of :func:`read_image`; with ``has_levels`` pyramids stay on disk and come
    with their smaller copies.
    """
    source = zarr.address_of(path) or str(path)
    for image in _read(path, Wanted(has_levels=has_levels, are_labels=are_labels)):
        named = with_axes(image, axes.upper()) if axes else image
        yield replace(named, source=source)
        source = ""
    if source:
        raise ReadError(f"Expected an image in {path}; there is none. Choose another file.")


def with_channels_of(image: Image, paths: Sequence[Path | str]) -> Image:
    """Return an image with the channels of further files, of the same pixels, behind its own.

    Each channel is called as its file tells, else like the file; channels that would be called the same have
    the names of their folders in front, or else numbers behind.

    ReadError where a file cannot be read, or is not of the same pixels, or of colours.
    """
    images = [image]
    for path in paths:
        other = read_image(path)
        if other.axes_are_guessed and len(other.axes) == len(image.label_axes):
            other = with_axes(other, image.label_axes)
        if (other.label_axes, other.label_shape) != (image.label_axes, image.label_shape):
            raise ReadError(
                f"Files whose channels are counted in together have the same pixels; {path} has "
                f"{other.label_shape} of {other.label_axes}, {image.name} {image.label_shape} of "
                f"{image.label_axes}. Name a file of the same place."
            )
        images.append(other)
    if len(images) == 1:
        return image
    channels: list[tuple[Image, int | None]] = []
    names: list[str] = []
    folders: list[str] = []
    for one, place in zip(images, [image.source, *paths], strict=True):
        if one.axes.endswith(CHANNEL):
            raise ReadError(
                f"Colours are not channels that can be counted in together with others; {one.name} has them. "
                "Split them, or measure in the file by --other."
            )
        numbers = list(range(one.shape[one.axes.index(CHANNEL)])) if CHANNEL in one.axes else [None]
        channels += [(one, number) for number in numbers]
        own = [one.name] if len(numbers) == 1 else [f"{one.name} {number}" for number in numbers]
        names += [told or name for told, name in zip(one.channel_names or own, own, strict=True)]
        folders += [Path(place).parent.name] * len(numbers)
    return replace(
        image,
        data=StackedPixels(tuple(channels)),
        axes=CHANNEL + image.label_axes,
        channel_names=_told_apart(names, folders),
        channel_colors=(),
        levels=(),
        notices=tuple(dict.fromkeys(notice for one in images for notice in one.notices)),
        source_files=tuple(map(str, paths)),
    )


def _told_apart(names: Sequence[str], folders: Sequence[str]) -> tuple[str, ...]:
    """Return names of channels, with their folders in front, or else numbers behind, where some are equal."""
    found = list(names)
    if len(set(found)) < len(found):
        found = [f"{folder}/{name}" for folder, name in zip(folders, names, strict=True)]
    if len(set(found)) < len(found):
        found = [f"{name} {number}" for number, name in enumerate(names)]
    return tuple(found)


def describe_images(path: Path | str) -> tuple[Image, ...]:
    """Return all images of a file as :func:`read_images` gives them, without their pixels, which are 0.

    It is quick, and remembered while the file does not change. Empty for files that are missing or damaged,
    and for those of which only their pixels tell more (of vendors), or that lie on a server.
    """
    stamp = _stamp(path)
    if stamp is None:
        return ()
    if stamp not in _DESCRIBED:
        while len(_DESCRIBED) >= MOST_DESCRIBED:
            _DESCRIBED.pop(next(iter(_DESCRIBED)), None)
        try:
            _DESCRIBED[stamp] = _described(Path(path))
        except Exception:
            _DESCRIBED[stamp] = ()  # told once, not at each look at a layer of the file
            raise
    return _DESCRIBED.get(stamp, ())


def image_names(path: Path | str) -> list[str]:
    """Return the names of all images that :func:`read_images` gives, without their pixels where it can be."""
    return [image.name for image in _read(path, Wanted(has_pixels=False))]


def is_described(path: Path | str) -> bool:
    """Return whether :func:`describe_images` knows the answer without a look at the file."""
    stamp = _stamp(path)
    return stamp is None or stamp in _DESCRIBED


def _stamp(path: Path | str) -> tuple[str, int, int] | None:
    return None if not str(path) or zarr.address_of(path) else stamp_of(path)


def _described(path: Path) -> tuple[Image, ...]:
    found: list[Image] = []
    if path.suffix.lower() in READERS:
        return ()
    try:
        for image in islice(_read(path, Wanted(has_pixels=False)), MOST_IMAGES_DESCRIBED):
            source = "" if found else str(path)
            empty = blank(image.shape, image.data.dtype)
            found.append(replace(image, data=empty, source=source))
    except CellwrightError:
        pass
    return tuple(found)


def write_labels(path: Path | str, labels: Labels, image: Image) -> None:
    """Write labels as a zlib-compressed int32 OME-TIFF with the axes and pixel size of their image.

    They have the shape of the image without its channels, and numbers that int32 holds; others are a
    WriteError.
    """
    _refuse_beyond(labels, "i4", image)
    _write_tiff(Path(path), np.asarray(labels, np.int32), image)


def write_image(path: Path | str, image: Image) -> None:
    """Write an image as zlib-compressed OME-TIFF with its axes and pixel size, every value as it is.

    Channels that are no colours are moved before Z, Y and X. Types that OME does not have become the next
    that it has: whole numbers of 64 bits become ones of 32.

    WriteError where the file cannot be written, or the values do not fit.
    """
    pixels, axes = _plain_values(image), image.axes
    is_colour = axes.endswith("C") and pixels.shape[-1] == 3 and pixels.dtype in (np.uint8, np.uint16)
    if "C" in axes and not is_colour:
        axes = image.label_axes
        place = axes.index("T") + 1 if axes.startswith("T") else 0
        pixels = np.moveaxis(pixels, image.axes.index("C"), place)
        axes = axes[:place] + "C" + axes[place:]
    metadata = {"axes": axes[:-1] + "S" if is_colour else axes, **_physical_sizes(image)}
    _write_ome(Path(path), pixels, metadata, "rgb" if is_colour else "minisblack")


def _plain_values(image: Image) -> NDArray[Any]:
    """Return the pixels in a type that OME has."""
    pixels: NDArray[Any] = np.asarray(image.data)
    kind = {"?": "u1", "e": "f4", "l": "i4", "q": "i4", "L": "u4", "Q": "u4"}.get(pixels.dtype.char)
    if kind is None:
        return pixels
    if kind in ("i4", "u4"):
        _refuse_beyond(pixels, kind, image)
    return pixels.astype(kind)


def _refuse_beyond(values: NDArray[Any], kind: str, image: Image) -> None:
    """Raise WriteError where values do not fit a type of whole numbers."""
    limits = np.iinfo(kind)
    low, high = values.min(initial=0), values.max(initial=0)
    if low < limits.min or high > limits.max:
        raise WriteError(
            f"The values of {image.name!r} must lie between {limits.min} and {limits.max}; got {low} to "
            f"{high}. Convert them."
        )


def write_map(path: Path | str, values: NDArray[np.float32], image: Image) -> None:
    """Write a dense result, a density say, as float32 OME-TIFF; else like :func:`write_labels`."""
    _write_tiff(Path(path), np.asarray(values, np.float32), image)


def _write_tiff(path: Path, values: NDArray[Any], image: Image) -> None:
    if values.shape != image.label_shape:
        raise WriteError(
            f"Labels and maps of {image.name!r} must have shape {image.label_shape}; got {values.shape}."
        )
    _write_ome(path, values, {"axes": image.label_axes, **_physical_sizes(image)})


def _write_ome(
    path: Path, pixels: NDArray[Any], metadata: dict[str, Any], photometric: str = "minisblack"
) -> None:
    import tifffile

    with atomic_write(path) as part:
        tifffile.imwrite(
            part, pixels, ome=True, photometric=photometric, compression="zlib", metadata=metadata
        )


def _physical_sizes(image: Image) -> dict[str, Any]:
    sizes: dict[str, Any] = {}
    for axis, size in image.known_sizes_um.items():
        sizes |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
    return sizes


def _read(path: Path | str, wanted: Wanted) -> Iterator[Image]:
    address = zarr.address_of(path)
    if address:
        yield from zarr.read_zarr(address, wanted)
        return
    path = Path(path)
    refuse_no_text(path.name)
    if not os.path.exists(path):  # Path.exists raises where the system refuses the name
        raise ReadError(f"Expected an image at {path}; there is none. Check the path.")
    if path.is_dir():
        if not zarr.is_zarr(path):
            raise ReadError(
                f"Expected an image file or .zarr folder; {path} is another folder. Name its files, or count "
                "it with --output."
            )
        yield from zarr.read_zarr(path, wanted)
        return
    try:
        yield from _read_file(path, wanted)
    except CellwrightError:
        raise
    except MemoryError as error:
        raise ReadError(f"{path} does not fit into memory. Convert it to a .zarr folder.") from error
    except Exception as error:  # decoders fail in every possible way on damaged files
        raise ReadError(
            why_not_read(path, _start_of(path))
            or f"Expected a whole image at {path}; got: {error}. "
            "The file is damaged, cut short or not an image; copy or export it again."
        ) from error


def _start_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(32)
    except PermissionError as error:
        raise ReadError(
            f"You may not read {path}: {error.strerror}. Change its rights, or choose another file."
        ) from error


def _read_file(path: Path, wanted: Wanted) -> Iterator[Image]:
    if not path.is_file():  # opening a pipe or a device would wait for ever
        raise ReadError(f"Expected an image file at {path}; it is not a file. Remove it, or name another.")
    if path.suffix.lower() in READERS:
        yield from READERS[path.suffix.lower()](path)
        return
    start = _start_of(path)
    if path.suffix.lower() in OVERVIEWS or start.startswith(HDF5_START):
        raise ReadError(why_not_read(path, start))
    if start.startswith(TIFF_STARTS) or path.name.lower().endswith(COMPANION):
        from cellwright.files import tiff  # tifffile and its codecs are not imported before they are needed

        yield from tiff.read_tiff(path, wanted)
    elif start.startswith(NPY_START):
        yield describe(np.load(path, mmap_mode="r", allow_pickle=False), "", path.stem)
    elif not wanted.has_pixels:
        yield _described_picture(path, start)
    else:
        yield _read_picture(path, start, wanted)


def _described_picture(path: Path, start: bytes) -> Image:
    """Return a picture as :func:`_read_picture` gives it, without its pixels; movies are in colour."""
    from PIL import Image as Picture

    with _opened(path) as picture:
        shape: tuple[int, ...] = (picture.height, picture.width)
        is_movie = _n_frames(picture) > 1
        is_converted = False
        if _is_deep_png(start):
            is_grey, dtype = PNG_DEEP_COLOURS[start[24], start[25]] == 2, np.dtype(np.uint16)
        else:
            sample = picture
            if picture.mode != "P":  # whose palette tells whether it is grey
                sample = Picture.new(picture.mode, (1, 1))
            light = _light(sample)
            is_grey = light.ndim == 2 and not is_movie
            dtype = np.dtype(np.uint16) if _is_deep_ppm(picture) else light.dtype
            is_converted = not is_movie and _is_converted(picture)
            if not is_movie and _orientation(picture) in ON_ITS_SIDE:
                shape = shape[::-1]
        if is_movie:
            shape = (_n_frames(picture), *shape)
    axes = "TYX"[-len(shape) :]
    if not is_grey:
        shape, axes = (*shape, 3), axes + "C"
    return replace(describe(blank(shape, dtype), axes, path.stem), is_converted=is_converted)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a picture however large it is."""
    from PIL import Image as Picture

    # for good: what a block silences, a block that ends in another thread undoes
    warnings.filterwarnings("ignore", category=Picture.DecompressionBombWarning)
    with Picture.open(path) as picture:
        yield picture


def _n_frames(picture: Any) -> int:
    if picture.format not in MOVIES:
        return 1
    return int(getattr(picture, "n_frames", 1))


def _is_deep_png(start: bytes) -> bool:
    return start.startswith(PNG_START) and tuple(start[24:26]) in PNG_DEEP_COLOURS


def _orientation(picture: Any) -> int:
    return int(picture.getexif().get(ORIENTATION_TAG, 1))


def _is_converted(picture: Any) -> bool:
    return picture.mode not in KEPT_MODES or _orientation(picture) != 1


def _read_picture(path: Path, start: bytes, wanted: Wanted) -> Image:
    """Return a picture, upright and without transparency."""
    from PIL import ImageOps

    if _is_deep_png(start):
        return _read_deep_png(path, start)  # Pillow would take 8 of its 16 bits
    with _opened(path) as picture:
        n_frames = _n_frames(picture)
        n_bytes = n_frames * picture.width * picture.height * max(3, len(picture.getbands()))
        shape = (n_frames, picture.height, picture.width)
        refuse_bomb(path, shape, n_bytes, path.stat().st_size, MOST_TIMES)
        if n_frames > 1:
            return _read_movie(picture, n_frames, path)
        if _is_deep_ppm(picture):
            return _read_deep_ppm(picture, path)
        is_converted = _is_converted(picture)
        if _orientation(picture) != 1:  # else it would be copied
            picture = ImageOps.exif_transpose(picture)
        shows_labels = wanted.are_labels and picture.mode == "P" and not np.any(picture.getpalette()[:3])
        pixels = np.asarray(picture) if shows_labels and not _is_grey(picture) else _light(picture)
        image = _of_picture(path, pixels, is_seen_through=_is_seen_through(picture))
        return replace(image, is_converted=is_converted)


def _of_picture(path: Path, pixels: NDArray[Any], *, is_seen_through: bool) -> Image:
    """Return an image of the light of a picture."""
    told = ImageMetadata(notices=[TRANSPARENT.format(path.name)] * is_seen_through)
    return describe(pixels, "YXC"[: pixels.ndim], path.stem, told)


def _is_seen_through(picture: Any) -> bool:
    if "A" not in picture.getbands():
        if "transparency" not in picture.info or picture.mode not in KEYED_MODES:
            return False
        picture = picture.convert("RGBA")  # a value or a colour of the palette stands for it
    return bool(picture.getchannel("A").getextrema()[0] < OPAQUE)


def _read_movie(picture: Any, n_frames: int, path: Path) -> Image:
    """Return the frames of a picture that moves, up to the first that is damaged."""
    if n_frames * picture.width * picture.height > MOST_FRAME_PIXELS:
        raise ReadError(f"The {n_frames} frames of {path} are too large together. Split it.")
    size, n_read, is_grey = picture.size, 0, True
    stack = np.empty((n_frames, picture.height, picture.width, 3), np.uint8)
    try:
        for index in range(n_frames):
            picture.seek(index)
            if picture.size != size:  # it is not unpacked, for it may be gigabytes
                break
            stack[index] = picture.convert("RGB")
            n_read += 1
            is_grey = is_grey and bool((stack[index] == stack[index, ..., :1]).all())
    except (OSError, SyntaxError, EOFError):  # what comes before it is whole
        if not n_read:
            raise
    if picture.size != size:
        raise ReadError(f"The frames of {path} must have one size; they differ. Save them one by one.")
    notices = [f"The movie is damaged: {n_read} of its {n_frames} frames were read."] * (n_read < n_frames)
    pixels, axes = stack[:n_read], "TYXC"
    if is_grey:
        pixels, axes = pixels[..., 0], "TYX"
    return describe(pixels, axes, path.stem, ImageMetadata(notices=notices))


def _light(picture: Any) -> NDArray[Any]:
    if picture.mode in PLAIN_MODES:
        return np.asarray(picture)
    if picture.mode == "LA":
        return np.asarray(picture.convert("L"))
    rgb = np.empty((picture.height, picture.width, 3), np.uint8)
    seen = picture.convert("RGB") if picture.mode != "RGBA" else picture
    for channel in range(3):  # one by one, for several copies of a large picture would fill memory
        rgb[..., channel] = seen.getchannel(channel)
    if picture.mode == "P" and _is_grey(picture):
        return rgb[..., 0]
    return rgb


def _is_grey(picture: Any) -> bool:
    """Return whether all colours of a palette that more than one entry has are grey."""
    table = np.array(picture.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
    return len(table) > 1 and bool((table == table[:, :1]).all())


def _read_deep_png(path: Path, start: bytes) -> Image:
    import imagecodecs
    from PIL import Image as Picture

    width, height = (int.from_bytes(start[at : at + 4], "big") for at in (16, 20))
    if width * height > 2 * (Picture.MAX_IMAGE_PIXELS or MOST_FRAME_PIXELS):  # as Pillow has it
        raise ReadError(
            f"{path} claims {width} x {height} pixels, which is too large for a PNG. Save a TIFF."
        )
    pixels: NDArray[Any] = imagecodecs.png_decode(path.read_bytes())
    if pixels.ndim == 2:
        return _of_picture(path, pixels, is_seen_through=False)
    n = pixels.shape[-1]
    is_seen_through = n % 2 == 0 and bool(pixels[..., -1].min() < np.iinfo(pixels.dtype).max)
    light = pixels[..., 0] if n == 2 else pixels[..., :3]
    return _of_picture(path, light, is_seen_through=is_seen_through)


def _is_deep_ppm(picture: Any) -> bool:
    """Return whether a picture that is not loaded yet is a PPM, or PGM, whose samples have 9 to 16 bits."""
    tiles = picture.tile if picture.format == "PPM" and picture.mode in ("RGB", "I") else []
    return any(one.codec_name in DEEP_PPM and one.args[-1] > OPAQUE for one in tiles)


def _read_deep_ppm(picture: Any, path: Path) -> Image:
    """Return the samples of a PPM as they are, of which Pillow takes 8 bits, or stretches them to 16."""
    (tile,) = picture.tile
    content = path.read_bytes()[tile.offset :]
    is_binary = tile.codec_name == DEEP_PPM[0]
    samples = np.frombuffer(content, ">u2") if is_binary else np.array(content.split(), np.uint16)
    shape = (picture.height, picture.width, 3)[: 2 + (picture.mode == "RGB")]
    return _of_picture(path, samples[: prod(shape)].reshape(shape).astype(np.uint16), is_seen_through=False)
