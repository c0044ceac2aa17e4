"""Images: files to :class:`Image` and labels to files, with axes, pixel size and channels kept.

TIFF, pictures, .npy and OME-Zarr are read by ``files``, others by a package each (extra ``vendor``), which is
not imported before its file is met:

=========  ==========================  =============
ending     program                     package
=========  ==========================  =============
.czi       Zeiss ZEN                   czifile
.nd2       Nikon NIS-Elements          nd2
.lif       Leica LAS X                 liffile
.oif .oib  Olympus FluoView            oiffile
.h5 .hdf5  ilastik (one dataset)       h5py
=========  ==========================  =============

LSM (Zeiss) and STK (MetaMorph) are TIFF, see ``files.tiff``.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import CHANNEL, Image, Labels
from cellwright.core.errors import CellwrightError, ReadError, WriteError
from cellwright.files import zarr
from cellwright.files.atomic import atomic_write, refuse_no_text
from cellwright.files.metadata import COMPANION, Wanted, blank, describe, stamp_of, with_axes
from cellwright.files.pictures import described_picture, read_picture
from cellwright.ops.geometry.axes import StackedPixels

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and big, both byte orders
NPY_START = b"\x93NUMPY"
READERS = {  # modules of ``files.vendors`` that read a file
    ".czi": "czi",
    ".nd2": "nd2",
    ".lif": "lif",
    ".oif": "oif",
    ".oib": "oif",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
}
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
MOST_DESCRIBED, MOST_IMAGES_DESCRIBED = 256, 64  # files, and images of each
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
    file = zarr.last_part(path)
    if image.name not in (Path(file).stem, file):  # each of several has a name of its own
        notice = f"{file} holds several images; this is the first, {image.name}."
        image = replace(image, notices=(*image.notices, notice))
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
        names += [given or name for given, name in zip(one.channel_names or own, own, strict=True)]
        folders += [Path(place).parent.name] * len(numbers)
    return replace(
        image,
        data=StackedPixels(tuple(channels)),
        axes=CHANNEL + image.label_axes,
        channel_names=_unique_names(names, folders),
        channel_colors=(),
        levels=(),
        notices=tuple(dict.fromkeys(notice for one in images for notice in one.notices)),
        source_files=tuple(map(str, paths)),
    )


def _unique_names(names: Sequence[str], folders: Sequence[str]) -> tuple[str, ...]:
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

    Channels that are not colours are moved before Z, Y and X. Types that OME does not have become the next
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
    """Yield all images in a file or store; of those that it calls the same each further one has a number."""
    taken: set[str] = set()
    for image in _as_called(path, wanted):
        name, n = image.name, 1
        while name.casefold() in taken:
            n += 1
            name = f"{image.name}_{n}"
        taken.add(name.casefold())
        if n > 1:
            image = replace(image, name=name)
        yield image


def _as_called(path: Path | str, wanted: Wanted) -> Iterator[Image]:
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
            _why_not_read(path, _start_of(path))
            or f"Expected a whole image at {path}; got: {error}. "
            "The file is damaged, cut short or not an image; copy or export it again."
        ) from error


def _start_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(32)
    except PermissionError as error:
        raise ReadError(
            f"You may not read {path}: {error.strerror}. Close it where it is open, change its permissions, "
            "or choose another file."
        ) from error


def _read_file(path: Path, wanted: Wanted) -> Iterator[Image]:
    if not path.is_file():  # opening a pipe or a device would wait for ever
        raise ReadError(f"Expected an image file at {path}; it is not a file. Remove it, or name another.")
    vendor = READERS.get(path.suffix.lower())
    if vendor is not None:
        yield from import_module(f"cellwright.files.vendors.{vendor}").read(path)
        return
    start = _start_of(path)
    if path.suffix.lower() in OVERVIEWS or start.startswith(HDF5_START):
        raise ReadError(_why_not_read(path, start))
    if start.startswith(TIFF_STARTS) or path.name.lower().endswith(COMPANION):
        from cellwright.files import tiff  # tifffile and its codecs are not imported before they are needed

        yield from tiff.read_tiff(path, wanted)
    elif start.startswith(NPY_START):
        yield describe(np.load(path, mmap_mode="r", allow_pickle=False), "", path.stem)
    elif not wanted.has_pixels:
        yield described_picture(path, start)
    else:
        yield read_picture(path, start, wanted)


def _why_not_read(path: Path, start: bytes) -> str:
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
