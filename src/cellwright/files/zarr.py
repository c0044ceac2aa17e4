"""Zarr, plain and OME-Zarr 0.1 to 0.5, here or on a server, opened without reading their pixels.

Source: https://ngff.openmicroscopy.org/specifications/ (images, plates and wells, labels) and the layout of
bioformats2raw. What is read of the metadata is the same in all versions, so none is checked against a schema:
stores of programs that strayed from it open too.
"""

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from cellwright.core.data import SPATIAL, Image
from cellwright.core.errors import CellwrightError, ReadError
from cellwright.files.metadata import ImageMetadata, describe, positive, um_per

PROTOCOLS = ("http", "https", "s3", "gs", "az", "memory")
MARKERS = ("zarr.json", ".zarray", ".zgroup")
OLD_AXES = "TCZYX"  # of versions 0.1 and 0.2, which do not name them
MOST_CHUNK_BYTES = 1 << 31
MOST_IMAGES = 10_000


def is_zarr(folder: Path) -> bool:
    """Return whether ``folder`` holds a Zarr array or group (format 2 or 3)."""
    return any((folder / marker).exists() for marker in MARKERS)


def address_of(source: Path | str) -> str:
    """Return the address of a store on a server, '' for a path; a path made of an address is one again."""
    text = str(source).replace("\\", "/")
    protocol, colon, rest = text.partition(":/")
    if colon and protocol in PROTOCOLS:
        return f"{protocol}://{rest.lstrip('/')}"
    return ""


def read_zarr(source: Path | str) -> Iterator[Image]:
    """Yield the images of a Zarr folder or address at full resolution, each with what its metadata tells.

    An array is one image, a group of OME-Zarr one or several: those of bioformats2raw, of a plate or a well.

    Raises
    ------
    ReadError
        zarr is not installed, or the folder is damaged or holds no image.
    """
    try:
        import zarr
    except ImportError as error:
        raise ReadError(
            f"Reading the Zarr folder {source} needs zarr. Run: pip install 'napari-cellwright[zarr]'"
        ) from error
    name = str(source).rstrip("/").rpartition("/")[2].removesuffix(".zarr")
    try:
        node = zarr.open(source, mode="r")
        if isinstance(node, zarr.Array):
            axes = _letters(getattr(node.metadata, "dimension_names", None) or ())
            yield describe(_checked(node, source), axes, name)
            return
        paths = _images(node)
        if not paths:
            arrays = [key for key, _ in zip(node.array_keys(), range(5), strict=False)]
            advice = f"Name one of its arrays: {', '.join(arrays)}." if arrays else "Name its array."
            raise ReadError(
                f"Expected an array or an OME-Zarr image in {source}; got another group. {advice}"
            )
        for path in paths:
            group = node[path] if path else node
            own = f"{name}_{path.replace('/', '_')}" if len(paths) > 1 else name
            yield _multiscale(group, own, source)
    except CellwrightError:
        raise
    except ImportError as error:
        raise ReadError(
            f"Reading {source} needs a package more: {error}. Run: pip install 'napari-cellwright[remote]'"
        ) from error
    except Exception as error:  # zarr fails in every possible way on damaged folders
        raise ReadError(
            f"Expected a whole Zarr folder at {source}; got: {error}. Copy or export it again."
        ) from error


def _told(group: Any) -> Mapping[str, Any]:
    attributes = dict(group.attrs)
    told = attributes.get("ome", attributes)
    return told if isinstance(told, dict) else {}


def _images(group: Any) -> list[str]:
    """Return the paths of the images in a group: its own ('') or those below it."""
    told = _told(group)
    if told.get("multiscales"):
        return [""]
    if "plate" in told:
        wells = [str(well["path"]) for well in told["plate"]["wells"]][:MOST_IMAGES]
        return [f"{well}/{path}" for well in wells for path in _images(group[well])]
    if "well" in told:
        return [str(image["path"]) for image in told["well"]["images"]]
    if "bioformats2raw.layout" in told:
        listed = []
        if "OME" in group:
            listed = list(_told(group["OME"]).get("series") or ())
        numbers = sorted((key for key in group.group_keys() if key.isdigit()), key=int)
        return [str(path) for path in listed or numbers if _told(group[str(path)]).get("multiscales")]
    if isinstance(told.get("labels"), list):
        return [str(path) for path in told["labels"]]
    return []


def _multiscale(group: Any, name: str, source: Path | str) -> Image:
    told = _told(group)
    scale = told["multiscales"][0]
    first = scale["datasets"][0]
    array = _checked(group[first["path"]], source)
    named = scale.get("axes") or list(OLD_AXES[-len(array.shape) :])
    names = [axis["name"] if isinstance(axis, dict) else axis for axis in named]
    units = [axis.get("unit", "") if isinstance(axis, dict) else "" for axis in named]
    factors = np.ones(len(names))
    steps = [*first.get("coordinateTransformations", ()), *scale.get("coordinateTransformations", ())]
    for step in steps:
        if step["type"] == "scale":
            factors = factors * np.asarray(step["scale"], float)
    sizes = {}
    axes = _letters(names)
    for letter, unit, factor in zip(axes, units, factors.tolist(), strict=False):
        per_unit, size = um_per(str(unit)), positive(factor)
        if letter in SPATIAL and per_unit and size:
            sizes[letter] = size * per_unit
    channels = [one for one in (told.get("omero") or {}).get("channels") or () if isinstance(one, dict)]
    return describe(
        array,
        axes,
        name,
        ImageMetadata(
            sizes,
            [str(one.get("label") or one.get("name") or "") for one in channels],
            [f"#{str(one.get('color', 'ffffff')).lstrip('#').lower()[:6]}" for one in channels],
        ),
    )


def _checked(array: Any, source: Path | str) -> Any:
    """Return an array whose chunks can be read one by one."""
    n_bytes = prod(array.chunks) * array.dtype.itemsize
    if n_bytes > MOST_CHUNK_BYTES:
        raise ReadError(
            f"The chunks of {source} must be smaller than {MOST_CHUNK_BYTES >> 30} GiB; got {array.chunks} "
            f"of {array.dtype}. Write it again in smaller ones."
        )
    return array


def _letters(names: Any) -> str:
    """Return axis names as letters, '' when one is unknown."""
    letters = "".join(str(name)[:1].upper() for name in names)
    known = {"t", "time", "c", "channel", "z", "y", "x"}
    return letters if all(str(name).lower() in known for name in names) else ""
