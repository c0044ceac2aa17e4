"""Images: files to :class:`Image` and labels to files, with axes and pixel size kept."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from cellwright.core.data import AXES, SPATIAL, ArrayLike, Image, Labels
from cellwright.core.errors import ReadError, WriteError
from cellwright.files.atomic import atomic_write
from cellwright.files.pixel_size import tiff_pixel_sizes
from cellwright.files.zarr import is_zarr, open_zarr
from cellwright.ops.geometry.axes import guess_axes

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and big, both byte orders
DESCRIPTION_TAG = 270
NPY_START = b"\x93NUMPY"
ALPHA_SAMPLES = {tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA}
PLAIN_MODES = ("1", "L", "I", "I;16", "I;16B", "F", "RGB")  # those of Pillow that need no conversion


def read_image(path: Path | str, axes: str | None = None) -> Image:
    """Return the image in a TIFF (OME, ImageJ, plain), PNG, JPEG or .npy file or a .zarr folder.

    Axes and pixel size come from the file; axes that it does not tell are guessed from the shape.
    Transparency is dropped. Arrays of .zarr and .npy stay on disk until they are used. Of a file with
    several images or resolutions the first is read.

    Parameters
    ----------
    path
        The file or .zarr folder.
    axes
        Overrides the axes, one letter of ``TCZYX`` for each dimension.

    Raises
    ------
    ReadError
        The file is missing, damaged, cut short or no image.
    AxesError
        ``axes`` does not fit the image.
    """
    path = Path(path)
    data, known_axes, sizes = _read(path)
    axes = axes.upper() if axes else known_axes or guess_axes(tuple(data.shape), np.dtype(data.dtype))
    spatial = [axis for axis in axes if axis in SPATIAL]
    known = all(axis in sizes for axis in spatial)
    return Image(data, axes, tuple(sizes[axis] for axis in spatial) if known else (), path.stem)


def write_labels(path: Path | str, labels: Labels, image: Image) -> None:
    """Write labels as a zlib-compressed int32 OME-TIFF with the axes and pixel size of their image.

    Parameters
    ----------
    path
        The file; it is replaced in one step, when the new one is whole.
    labels : int32
        In the shape of the image without its channel axis.
    image
        Where the labels were found.

    Raises
    ------
    WriteError
        The file cannot be written, or the labels do not fit the image.
    """
    _write_tiff(Path(path), np.asarray(labels, np.int32), image)


def write_image(path: Path | str, image: Image) -> None:
    """Write an image as zlib-compressed OME-TIFF with its axes and pixel size, every value as it is.

    Channels that are no colours are moved before Z, Y and X. Types that OME does not have become the next
    that it has: whole numbers of 64 bits become ones of 32.

    Raises
    ------
    WriteError
        The file cannot be written, or the values do not fit.
    """
    pixels, axes = _plain_values(image), image.axes
    is_colour = axes.endswith("C") and pixels.shape[-1] == 3 and pixels.dtype in (np.uint8, np.uint16)
    if "C" in axes and not is_colour:
        axes = image.label_axes
        place = axes.index("T") + 1 if axes.startswith("T") else 0
        pixels = np.moveaxis(pixels, image.axes.index("C"), place)
        axes = axes[:place] + "C" + axes[place:]
    metadata = {"axes": axes[:-1] + "S" if is_colour else axes, **_physical_sizes(image)}
    photometric = "rgb" if is_colour else "minisblack"
    with atomic_write(Path(path)) as part:
        tifffile.imwrite(
            part, pixels, ome=True, photometric=photometric, compression="zlib", metadata=metadata
        )


def _plain_values(image: Image) -> NDArray[Any]:
    """Return the pixels in a type that OME has."""
    pixels: NDArray[Any] = np.asarray(image.data)
    kind = {"?": "u1", "e": "f4", "l": "i4", "q": "i4", "L": "u4", "Q": "u4"}.get(pixels.dtype.char)
    if kind is None:
        return pixels
    if kind in ("i4", "u4") and pixels.size:
        limits = np.iinfo(kind)
        if pixels.min() < limits.min or pixels.max() > limits.max:
            raise WriteError(
                f"The values of {image.name!r} must lie between {limits.min} and {limits.max}; got up to "
                f"{pixels.max()}. Convert the image."
            )
    return pixels.astype(kind)


def write_map(path: Path | str, values: NDArray[np.float32], image: Image) -> None:
    """Write a dense result, a density say, as float32 OME-TIFF; else like :func:`write_labels`."""
    _write_tiff(Path(path), np.asarray(values, np.float32), image)


def _write_tiff(path: Path, values: NDArray[Any], image: Image) -> None:
    if values.shape != image.label_shape:
        raise WriteError(
            f"Labels and maps of {image.name!r} must have shape {image.label_shape}; got {values.shape}."
        )
    metadata = {"axes": image.label_axes, **_physical_sizes(image)}
    with atomic_write(path) as part:
        tifffile.imwrite(
            part, values, ome=True, photometric="minisblack", compression="zlib", metadata=metadata
        )


def _physical_sizes(image: Image) -> dict[str, Any]:
    sizes: dict[str, Any] = {}
    for axis, size in zip(image.spatial_axes, image.pixel_size_um, strict=False):
        sizes |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
    return sizes


def _read(path: Path) -> tuple[ArrayLike, str, Mapping[str, float]]:
    """Return array, axes ('' when the file does not tell) and micrometres per pixel by axis."""
    if not path.exists():
        raise ReadError(f"Expected an image at {path}; there is none. Check the path.")
    if path.is_dir():
        if is_zarr(path):
            return open_zarr(path)
        raise ReadError(f"Expected an image file or .zarr folder; {path} is another folder. Name its files.")
    try:
        return _read_file(path)
    except ReadError:
        raise
    except MemoryError as error:
        raise ReadError(f"{path} does not fit into memory. Convert it to a .zarr folder.") from error
    except Exception as error:  # decoders fail in every possible way on damaged files
        raise ReadError(
            f"Expected a whole TIFF, PNG, JPEG or .npy image at {path}; got: {error}. "
            "The file is damaged, cut short or no image; copy or export it again."
        ) from error


def _read_file(path: Path) -> tuple[ArrayLike, str, Mapping[str, float]]:
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(TIFF_STARTS):
        return _read_tiff(path)
    if start.startswith(NPY_START):
        return np.load(path, mmap_mode="r", allow_pickle=False), "", {}
    return _read_picture(path), "", {}


def _read_tiff(path: Path) -> tuple[ArrayLike, str, Mapping[str, float]]:
    with tifffile.TiffFile(path) as tiff:
        series = tiff.series[0]
        _refuse_cut_file(tiff, path)
        data, axes = series.asarray(), series.axes
        if axes.endswith("S") and set(series.keyframe.extrasamples[-1:]) & ALPHA_SAMPLES:
            data = data[..., :-1]
        sizes = tiff_pixel_sizes(tiff)
    if "C" not in axes:
        axes = axes.replace("S", "C")
    return data, axes if set(axes) <= set(AXES) else "", sizes


def _refuse_cut_file(tiff: tifffile.TiffFile, path: Path) -> None:
    """Raise ReadError where tifffile takes a damaged file for a shorter, partly black or plainer image.

    In a file cut short, the last page points at a next one beyond the end, or the first page at a
    description beyond it.
    """
    tiff.filehandle.seek(tiff.pages.next_page_offset or 0)
    next_page = tiff.filehandle.read(tiff.tiff.offsetsize)
    series = list(tiff.series[0].pages)
    promised = (tiff.imagej_metadata or {}).get("images", 1)
    if any(next_page) or None in series or promised > len(series) or _lost_description(tiff):
        raise ReadError(f"Parts of {path} are missing: it was cut short or is one of a set. Copy it again.")


def _lost_description(tiff: tifffile.TiffFile) -> bool:
    header = tiff.tiff
    number, word = f"{header.byteorder}u2", f"{header.byteorder}u{header.offsetsize}"
    entry = np.dtype([("code", number), ("type", number), ("count", word), ("offset", word)])
    tiff.filehandle.seek(tiff.pages.first.offset)
    n_entries = int.from_bytes(
        tiff.filehandle.read(header.tagnosize), "little" if header.byteorder == "<" else "big"
    )
    entries = np.frombuffer(tiff.filehandle.read(n_entries * entry.itemsize), entry)
    description = entries[(entries["code"] == DESCRIPTION_TAG) & (entries["count"] > header.offsetsize)]
    return bool((description["offset"] + description["count"] > tiff.filehandle.size).any())


def _read_picture(path: Path) -> np.ndarray[Any, Any]:
    from PIL import Image as Picture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Picture.DecompressionBombWarning)
        with Picture.open(path) as picture:
            if picture.mode in PLAIN_MODES:
                return np.asarray(picture)
            return np.asarray(picture.convert("L" if picture.mode == "LA" else "RGB"))


def as_bytes(image: Image) -> list[NDArray[np.uint8]]:
    """Return each plane (Y, X) or (Y, X, 3) with 8 bits, stretched over the whole image where it has more.

    Of channels other than red, green and blue the first is taken.
    """
    pixels: NDArray[Any] = np.asarray(image.data)
    if "C" in image.axes:
        pixels = np.moveaxis(pixels, image.axes.index("C"), -1)
        pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0]
    n_plane = 2 + (pixels.ndim > len(image.axes.replace("C", "")))
    if pixels.dtype != np.uint8:
        values = np.nan_to_num(pixels.astype(np.float64))
        low, high = float(values.min()), float(values.max())
        pixels = np.rint((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
    return list(pixels.reshape(-1, *pixels.shape[pixels.ndim - n_plane :]))
