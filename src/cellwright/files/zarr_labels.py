"""Label images larger than memory, as OME-Zarr: written window by window, then given their pyramid."""

from collections.abc import Iterator
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from cellwright.core.data import SPATIAL, ArrayLike, Image
from cellwright.core.errors import ReadError, WriteError

CHUNK_PX = 512  # side of a chunk along Y and X
SMALLEST_LEVEL_PX = 512  # no level of the pyramid is needed below this
COPY_PX = 2048  # side of what is read at once to make the next level; a multiple of 2 * CHUNK_PX


def create_labels(folder: Path, image: Image) -> ArrayLike:
    """Return an empty int32 array, compressed and in chunks, for the labels of an image; an old one is gone.

    Raises
    ------
    WriteError
        The folder cannot be written, or zarr is not installed.
    """
    zarr = _zarr()
    shape = image.label_shape
    chunks = tuple(
        min(CHUNK_PX, n) if axis in "YX" else 1 for axis, n in zip(image.label_axes, shape, strict=True)
    )
    try:
        group = zarr.open_group(folder, mode="w", zarr_format=3)
        return group.create_array("0", shape=shape, chunks=chunks, dtype="int32", fill_value=0)
    except OSError as error:
        raise WriteError(
            f"Expected to write {folder}; got: {error.strerror or error}. Choose a folder that you may write "
            "to, on a disk with room."
        ) from error


def open_labels(folder: Path) -> ArrayLike:
    """Return the labels at full resolution, to be read and written.

    Raises
    ------
    ReadError
        There are none.
    """
    zarr = _zarr()
    try:
        return zarr.open_group(folder, mode="r+")["0"]
    except Exception as error:  # zarr fails in every possible way on damaged folders
        raise ReadError(
            f"Expected labels in {folder}; got: {error}. Count anew into an empty folder."
        ) from error


def finish_labels(folder: Path, image: Image) -> None:
    """Add the levels of the pyramid and the metadata of OME-Zarr 0.5: axes, pixel sizes, image-label.

    Levels halve Y and X and keep every other pixel, so that every level holds labels of the first.

    Source: OME-Zarr 0.5, https://ngff.openmicroscopy.org/0.5/
    """
    from yaozarrs import v05

    zarr = _zarr()
    group = zarr.open_group(folder, mode="r+")
    axes, level, factors = image.label_axes, group["0"], [1]
    while max(level.shape[-2:]) > SMALLEST_LEVEL_PX:
        shape = (*level.shape[:-2], *(ceil(n / 2) for n in level.shape[-2:]))
        chunks = (*level.chunks[:-2], *(min(CHUNK_PX, n) for n in shape[-2:]))
        smaller = group.create_array(
            str(len(factors)), shape=shape, chunks=chunks, dtype="int32", fill_value=0, overwrite=True
        )
        for lead, rows, columns in _windows(level.shape):
            halved = (
                slice(rows.start // 2, ceil(rows.stop / 2)),
                slice(columns.start // 2, ceil(columns.stop / 2)),
            )
            smaller[(*lead, *halved)] = level[(*lead, rows, columns)][..., ::2, ::2]
        level = smaller
        factors.append(2 * factors[-1])
    sizes = dict(zip(image.spatial_axes, image.pixel_size_um, strict=False))
    datasets = []
    for index, factor in enumerate(factors):
        scale = [sizes.get(axis, 1.0) * (factor if axis in "YX" else 1) for axis in axes]
        datasets.append(
            v05.Dataset(path=str(index), coordinateTransformations=[v05.ScaleTransformation(scale=scale)])
        )
    scales = v05.Multiscale(name=image.name, axes=[_axis(axis, sizes) for axis in axes], datasets=datasets)
    label = v05.LabelImage.model_validate({"multiscales": [scales], "image-label": v05.ImageLabel()})
    group.attrs["ome"] = label.model_dump(mode="json", exclude_none=True, by_alias=True)


def _axis(letter: str, sizes: dict[str, float]) -> Any:
    from yaozarrs import v05

    if letter not in SPATIAL:
        return v05.TimeAxis(name=letter.lower())
    return v05.SpaceAxis(name=letter.lower(), unit="micrometer" if letter in sizes else None)


def _windows(shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], slice, slice]]:
    spans = [[slice(start, min(start + COPY_PX, n)) for start in range(0, n, COPY_PX)] for n in shape[-2:]]
    for lead in np.ndindex(*shape[:-2]):
        for rows, columns in product(*spans):
            yield tuple(int(i) for i in lead), rows, columns


def _zarr() -> Any:
    try:
        import yaozarrs  # noqa: F401 - both are needed, and a count of hours must not end without them
        import zarr
    except ImportError as error:
        raise WriteError(
            "Writing OME-Zarr needs zarr and yaozarrs. Run: pip install 'napari-cellwright[large]'"
        ) from error
    return zarr
