"""Zarr folders, plain and OME-Zarr, opened without reading their pixels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cellwright.core.data import AXES, SPATIAL, ArrayLike
from cellwright.core.errors import ReadError
from cellwright.files.pixel_size import um_per

MARKERS = ("zarr.json", ".zarray", ".zgroup")


def is_zarr(folder: Path) -> bool:
    """Return whether ``folder`` holds a Zarr array or group (format 2 or 3)."""
    return any((folder / marker).exists() for marker in MARKERS)


def open_zarr(folder: Path) -> tuple[ArrayLike, str, Mapping[str, float]]:
    """Return the array at full resolution, its axes ('' when not told) and micrometres per pixel by axis.

    Source: OME-Zarr 0.4 and 0.5, https://ngff.openmicroscopy.org/specifications/

    Raises
    ------
    ReadError
        zarr is not installed, or the folder is damaged or holds no image.
    """
    try:
        import zarr
    except ImportError as error:
        raise ReadError(
            f"Reading the Zarr folder {folder} needs zarr. Run: pip install 'napari-cellwright[zarr]'"
        ) from error
    try:
        node = zarr.open(folder, mode="r")
        if isinstance(node, zarr.Array):
            return node, _letters(getattr(node.metadata, "dimension_names", None) or ()), {}
        return _open_multiscale(node, folder)
    except ReadError:
        raise
    except Exception as error:  # zarr fails in every possible way on damaged folders
        raise ReadError(
            f"Expected a whole Zarr folder at {folder}; got: {error}. Copy or export it again."
        ) from error


def _open_multiscale(group: Any, folder: Path) -> tuple[ArrayLike, str, Mapping[str, float]]:
    attributes = dict(group.attrs)
    scales = attributes.get("ome", attributes).get("multiscales")
    if not scales:
        raise ReadError(
            f"Expected an array or an OME-Zarr image in {folder}; got another group. Name its array."
        )
    first = scales[0]["datasets"][0]
    axes = _letters([axis["name"] for axis in scales[0].get("axes", ())])
    steps = [step for step in first.get("coordinateTransformations", ()) if step["type"] == "scale"]
    sizes = {}
    if axes and steps:
        for letter, axis, size in zip(axes, scales[0]["axes"], steps[0]["scale"], strict=True):
            factor = um_per(axis.get("unit", ""))
            if letter in SPATIAL and factor:
                sizes[letter] = float(size) * factor
    return group[first["path"]], axes, sizes


def _letters(names: Any) -> str:
    """Return axis names as letters, '' when one is unknown."""
    letters = "".join(str(name).upper() for name in names)
    return letters if letters and set(letters) <= set(AXES) else ""
