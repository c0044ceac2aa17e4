"""meta.json of a training folder: what it says of the images, checked when it is read.

The format is told in ``files.dataset.folder``.
"""

import json
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from cellwright.core.errors import ReadError
from cellwright.files.atomic import write_text
from cellwright.files.json_value import NO_JSON

Region = tuple[tuple[int, int], tuple[int, int]]  # (top, left), (bottom, right) in pixels, the last one past


def read_meta(folder: Path) -> dict[str, Any]:
    """Return what meta.json says, ``items`` always among it.

    ReadError where it is missing or damaged, or does not tell the images of each split.
    """
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except (OSError, *NO_JSON) as error:
        raise ReadError(
            f"Expected a dataset folder with a readable meta.json at {folder}; got: {error}. Choose a "
            "folder that holds meta.json, images/ and masks/."
        ) from error
    split = meta.get("split") if isinstance(meta, dict) else None
    if not isinstance(split, dict) or not all(map(_is_names, split.values())):
        raise ReadError(
            f"meta.json of {folder} must hold 'split', a list of image names under the name of each split; "
            f"got {str(split)[:80]}. Export the dataset again."
        )
    items = meta.setdefault("items", {})
    if not isinstance(items, dict) or not all(isinstance(item, dict) for item in items.values()):
        raise ReadError(
            f"'items' in meta.json of {folder} must hold an object under the name of each image; got "
            f"{str(items)[:80]}. Export the dataset again."
        )
    classes = meta.get("classes") or []
    if not isinstance(classes, list | dict):
        raise ReadError(
            f"'classes' in meta.json of {folder} must be a list of names; got {str(classes)[:80]}. Export "
            "the dataset again."
        )
    return meta


def listed(meta: dict[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    """Yield split and name of each image; ReadError where a name leads out of the folder."""
    for split, names in meta["split"].items():
        for name in names:
            if Path(name).name != name or name in ("", ".."):
                raise ReadError(f"Names in meta.json of {folder} must be plain file names; got {name!r}.")
            yield str(split), name


def checked_regions(values: Any, name: str, folder: Path) -> tuple[Region, ...]:
    """Return the regions of an image; ReadError where they are no boxes."""
    try:
        corners = np.array(values, float).reshape(-1, 2, 2)
        if not (
            np.isfinite(corners).all() and (corners[:, 0] < corners[:, 1]).all() and (corners >= 0).all()
        ):
            raise ValueError(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise ReadError(
            f"Regions must be boxes [[top, left], [bottom, right]] in pixels; got {str(values)[:80]} for "
            f"{name!r} in meta.json of {folder}. Export the dataset again."
        ) from error
    boxes = corners.round().astype(int).tolist()
    return tuple(((top, left), (bottom, right)) for (top, left), (bottom, right) in boxes)


def checked_pixel_size(values: Any, folder: Path) -> tuple[float, ...]:
    """Return the pixel size along each spatial axis in µm, empty where it is not told."""
    try:
        sizes = tuple(map(float, values or ()))
        if not all(0 <= size < inf for size in sizes) or (sizes and not any(sizes)):
            raise ValueError(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise ReadError(
            f"'pixel_size_um' in meta.json of {folder} must hold a number for each spatial axis, 0 "
            f"where it is unknown; got {str(values)[:80]}. Correct it, or leave it out."
        ) from error
    return sizes


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Write meta.json."""
    write_text(folder / "meta.json", json.dumps(meta, indent=1, default=str) + "\n")


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
