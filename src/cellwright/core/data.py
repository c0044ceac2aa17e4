"""The values that travel between the floors: plain, frozen, arrays never copied."""

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from cellwright.core.errors import AxesError, CellwrightError, ImageError, OutOfMemoryError

ArrayLike = Any  # numpy, dask or zarr: anything with shape, dtype and slicing
Maps = Mapping[str, NDArray[np.float32]]  # dense network output, each (channels, Y, X)
Labels = NDArray[np.int32]

AXES = "TCZYX"
SPATIAL = "ZYX"
CHANNEL = "C"
PAGE_BYTES = mmap.ALLOCATIONGRANULARITY  # maps of files begin at multiples of it


def package_version() -> str:
    """Return the version of this package; unknown in a source folder that is not installed."""
    try:
        return version("napari-cellwright")
    except PackageNotFoundError:
        return "unknown"


def without_channels(axes: str) -> str:
    """Return the axes that a label image of an image with these axes has."""
    return axes.replace(CHANNEL, "")


def known_sizes(axes: str, pixel_size_um: Sequence[float]) -> dict[str, float]:
    """Return the micrometres per pixel of each spatial axis whose size is known."""
    spatial = (axis for axis in axes if axis in SPATIAL)
    return {axis: float(size) for axis, size in zip(spatial, pixel_size_um, strict=False) if size > 0}


@dataclass(frozen=True, slots=True)
class Image:
    """An image with the meaning of its axes.

    Made by ``files.images`` and ``widgets.shared.layer_io``; used by everything above.

    Parameters
    ----------
    data
        Numpy, dask or zarr array; masked pixels become NaN, as nothing is known of them.
    axes
        One letter of ``TCZYX`` for each dimension, in the order of the array.
    pixel_size_um
        Micrometres per pixel of the spatial axes in the order of ``axes``; 0 for an axis whose size is
        unknown, empty when none is known.
    name
        What to call the image in tables and layers.
    frame_interval_s
        Seconds from frame to frame; 0 where it is unknown, or there are no frames.
    channel_names, channel_colors
        Of each channel, where the file gives them; colors as ``#rrggbb``.
    notices
        What a reader had to guess or leave out.
    source
        Path of the file it was read from; empty where there is none, or it is not the file's first image.
    source_part
        Axes of the image in the file and the channel of it (None for all, several where these were put
        together again), where this is not all of it.
    source_files
        Further files, whose channels are added after those of the source.
    axes_are_guessed
        Whether the axes were guessed from the shape alone.
    levels
        Smaller copies of ``data``, the larger first, where they were asked for and the file has them.
    is_converted
        Whether the pixels are not those stored: a palette was looked up, say, or a photo turned upright.
    """

    data: ArrayLike
    axes: str
    pixel_size_um: tuple[float, ...] = ()
    name: str = "image"
    channel_names: tuple[str, ...] = ()
    channel_colors: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    source: str = ""
    source_part: tuple[str, int | tuple[int, ...] | None] | None = None
    source_files: tuple[str, ...] = ()
    axes_are_guessed: bool = False
    is_converted: bool = False
    levels: tuple[ArrayLike, ...] = ()
    frame_interval_s: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", _unmasked(self.data))
        shape = tuple(self.data.shape)
        if len(self.axes) != len(shape) or len(set(self.axes)) != len(self.axes):
            raise AxesError(
                f"Axes must name each dimension once; got {self.axes!r} for shape {shape}. "
                f"Give one letter of {AXES} for each dimension."
            )
        unknown = set(self.axes) - set(AXES)
        if unknown:
            raise AxesError(
                f"Axes must be letters of {AXES}; got {self.axes!r} for shape {shape}. "
                f"Rename or drop {''.join(sorted(unknown))!r}."
            )
        sizes = self.pixel_size_um
        try:
            object.__setattr__(self, "pixel_size_um", tuple(float(size) for size in sizes))
        except (TypeError, ValueError):  # one number, texts, a dictionary
            raise self._size_error(sizes) from None
        n_sizes = len(self.pixel_size_um)
        if n_sizes not in (0, len(self.spatial_axes)) or not all(map(isfinite, self.pixel_size_um)):
            raise self._size_error(sizes)

    def _size_error(self, sizes: Any) -> AxesError:
        return AxesError(
            f"The pixel size in µm must have one number for each of the axes {self.spatial_axes}; got "
            f"{sizes!r}. Give 0 for one that is unknown, and none where all are."
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return tuple(self.data.shape)

    @property
    def lengths(self) -> dict[str, int]:
        """Length of each axis by its letter."""
        return dict(zip(self.axes, self.shape, strict=True))

    @property
    def label_axes(self) -> str:
        """Axes of a label image of this image: all but the channels."""
        return without_channels(self.axes)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Length of each axis of a label image of this image."""
        return tuple(n for axis, n in zip(self.axes, self.shape, strict=True) if axis != CHANNEL)

    @property
    def spatial_axes(self) -> str:
        """The axes that lie in space, in the order of the array."""
        return "".join(axis for axis in self.axes if axis in SPATIAL)

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Length of each axis that lies in space, in the order of the array."""
        return tuple(n for axis, n in zip(self.axes, self.shape, strict=True) if axis in SPATIAL)

    def read(self, index: Any = ...) -> NDArray[Any]:
        """Return pixels in memory; where they are on disk, this is the moment in which damage shows."""
        try:
            _refuse_shorter_file(self.data)
            pixels = np.asarray(self.data[index])
            _refuse_lost_store(self.data)
            return pixels
        except MemoryError as error:
            raise OutOfMemoryError(
                f"The pixels of {self.name!r}, {self.shape} of {self.data.dtype}, must fit into memory; they "
                "do not. Take a part of it, or close other programs."
            ) from error
        except CellwrightError as error:  # of our readers; it says what to do
            raise ImageError(f"The pixels of {self.name!r} cannot be read. {error}") from error
        except Exception as error:  # arrays on disk fail in every possible way
            raise ImageError(
                f"The pixels of {self.name!r} cannot be read: {error}. The file is damaged or has changed; "
                "copy or export it again."
            ) from error

    @property
    def known_sizes_um(self) -> dict[str, float]:
        """Micrometres per pixel of each spatial axis whose size is known."""
        return known_sizes(self.axes, self.pixel_size_um)


def _unmasked(data: ArrayLike) -> ArrayLike:
    if isinstance(getattr(data, "_meta", None), np.ma.MaskedArray):  # of dask; its blocks are looked at later
        kind = np.result_type(data.dtype, np.float32)
        return data.map_blocks(_filled, kind, dtype=kind, meta=np.empty((0,) * data.ndim, kind))
    if not isinstance(data, np.ma.MaskedArray) or not data.mask.any():
        return data
    return _filled(data, np.result_type(data.dtype, np.float32))


def _filled(pixels: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    return np.ma.filled(pixels.astype(kind), np.nan)


def _refuse_shorter_file(data: ArrayLike) -> None:
    """Raise OSError where the file under an array became shorter: to look beyond its end would end Python."""
    if not isinstance(data, np.memmap):
        return
    base: Any = data
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and base.size() < data.offset // PAGE_BYTES * PAGE_BYTES + len(base):
        raise OSError("its file has become shorter")


def _refuse_lost_store(data: ArrayLike) -> None:
    """Raise OSError where the Zarr folder of an array is gone: zarr takes missing chunks for dark ones."""
    root = getattr(getattr(data, "store", None), "root", None)
    if isinstance(root, Path) and not root.exists():
        raise OSError("its folder is gone")


@dataclass(frozen=True, slots=True)
class Cells:
    """Instances found or annotated; row ``i`` of every column is label ``i + 1``.

    Made by ``postprocess`` of a model; used by Result, tables and layers.

    Parameters
    ----------
    points : float32 (N, D)
        Centroids in pixels, in the order of the axes (without channels).
    boxes : float32 (N, 2, D)
        First and one-past-last corner of each cell's bounding box, in pixels.
    scores : float32 (N,)
        0 to 1, how sure the model is that this is one whole cell.
    areas : float32 (N,)
        Pixels (2D) or voxels (3D) covered.
    labels : int32 image or None
        0 is background; None for models that do not segment.
    classes : int16 (N,) or None
    faint : bool image or None
        Of outlines in slices: where a cell of the slice below or above may go on.
    """

    points: NDArray[np.float32]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    areas: NDArray[np.float32]
    labels: Labels | None = None
    classes: NDArray[np.int16] | None = None
    faint: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.points)

    @classmethod
    def empty(cls, ndim: int, labels: Labels | None = None) -> Self:
        """Return no cells at all, of an image with ``ndim`` axes besides its channels."""
        none = np.zeros((0,), np.float32)
        return cls(none.reshape(0, ndim), none.reshape(0, 2, ndim), none, none, labels)

    @classmethod
    def concatenate(cls, parts: Sequence[Self], labels: Labels | None = None) -> Self:
        """Return the rows of all parts, one part after the other; their labels are left to the caller.

        Classes are kept where all parts that hold cells have them.
        """
        filled = [part for part in parts if len(part)]
        classes = [part.classes for part in filled if part.classes is not None]
        has_classes = len(classes) == len(filled) > 0
        return cls(
            points=np.concatenate([part.points for part in parts]),
            boxes=np.concatenate([part.boxes for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
            areas=np.concatenate([part.areas for part in parts]),
            labels=labels,
            classes=np.concatenate(classes) if has_classes else None,
        )

    def take(self, rows: NDArray[Any]) -> Self:
        """Return the cells of these rows, int (M,) in this order or bool (N,), none of them twice.

        Their ``labels`` are renumbered to match.
        """
        kept = np.flatnonzero(rows) if rows.dtype == bool else np.asarray(rows, np.intp)
        labels, classes = self.labels, self.classes
        if classes is not None:
            classes = classes[kept]
        if labels is not None:
            renumbered = np.zeros(len(self) + 1, np.int32)
            renumbered[kept + 1] = np.arange(1, len(kept) + 1)
            labels = renumbered[labels]
        return replace(
            self,
            points=self.points[kept],
            boxes=self.boxes[kept],
            scores=self.scores[kept],
            areas=self.areas[kept],
            labels=labels,
            classes=classes,
        )


@dataclass(frozen=True, slots=True)
class Annotation:
    """What is known of the cells of one 2D frame; row ``i`` of every column is the same cell.

    Made by ``files.dataset.folder`` and ``ops.labels.annotate``; used by ``make_targets`` of a model.
    """

    shape: tuple[int, int]  # (Y, X) of the frame in pixels
    points: NDArray[np.float32]  # (N, 2): centres, in pixels
    boxes: NDArray[np.float32] | None = None  # (N, 2, 2): first and one-past-last corner of each, in pixels
    labels: Labels | None = None  # (Y, X): row ``i`` is label ``i + 1``
    classes: NDArray[np.int16] | None = None  # (N,)
    is_complete: bool = True  # whether what is not annotated is background; else nothing is known of it


@dataclass(frozen=True, slots=True)
class Prediction:
    """The maps of an image before any threshold, kept so that settings can be changed without the network.

    Made by ``inference.pipeline``; used by ``inference.pipeline.recount`` and kept by the viewer.
    """

    frames: tuple[Maps, ...]  # of each 2D frame, in model pixels
    zoom: float  # model pixels per image pixel
    frame_shape: tuple[int, int]  # (Y, X) of a frame in image pixels
    lead_shape: tuple[int, ...] = ()  # of the axes before YX, without channels; empty for a 2D image


@dataclass(frozen=True, slots=True)
class Provenance:
    """Everything needed to repeat a result; written beside every table and into layer metadata."""

    package_version: str
    model: str
    checkpoint_sha256: str
    settings: Mapping[str, Any]
    image_name: str
    image_shape: tuple[int, ...]
    axes: str
    pixel_size_um: tuple[float, ...]
    device: str
    seconds: float
    source: str = ""

    @classmethod
    def of_image(cls, image: Image, settings: Mapping[str, Any]) -> Self:
        """Return what is known of cells that no model found: their image, and settings such as ``engine``."""
        sizes = image.pixel_size_um
        return cls("", "", "", settings, image.name, image.shape, image.axes, sizes, "", 0.0, image.source)

    @property
    def is_linked(self) -> bool:
        """Whether the outlines in the slices of a volume, if there were some, were linked to cells in 3D."""
        return bool(self.settings.get("engine", {}).get("link", True))

    def noting(self, **facts: Any) -> Self:
        """Return the same with further settings, in the place of those of the same name."""
        return replace(self, settings={**self.settings, **facts})


@dataclass(frozen=True, slots=True)
class Result:
    """What counting gives: the count, the cells and how they were found.

    ``offset`` is the place of the counted part in the source image (pixels, axes of ``cells.points``),
    not zero when only a region was counted. ``notices`` are sentences the user should read. ``maps`` are
    dense results in image pixels (the density), ``interval`` holds the true count nine times out of ten.
    ``fit`` is the F1 (at an IoU of 0.5; of points, of those in cells) that can be expected, 0 to 1, of a
    density the smaller of count and truth over the larger; None where the model cannot tell.
    """

    count: float
    cells: Cells
    provenance: Provenance
    offset: tuple[int, ...] = ()
    notices: tuple[str, ...] = ()
    maps: Maps = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    fit: float | None = None

    @property
    def gives(self) -> Literal["instances", "density"]:
        """``instances`` where cells were found one by one, ``density`` where only how many there are.

        The same as ``gives`` of the model's family.
        """
        if "density" in self.maps:
            return "density"
        return "instances"
