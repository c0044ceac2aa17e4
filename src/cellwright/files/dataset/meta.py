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
from cellwright.files.json_value import JsonValue, read_json

Region = tuple[tuple[int, int], tuple[int, int]]  # (top, left), (bottom, right) in pixels, the last one past


def read_meta(folder: Path) -> dict[str, Any]:
    """Return what meta.json says, ``items`` always among it.

    ReadError where it is missing or damaged, or does not tell the images of each split.
    """
    node = read_json(folder / "meta.json")
    split, classes = node.at("split"), node.find("classes")
    meta: dict[str, Any] = {"items": {}, **node.value}
    meta["split"] = {name: list(split.texts_at(name)) for name in split.fields()}
    for item in JsonValue(meta["items"], node.path, "items").fields().values():
        item.fields()  # which refuses what is no object
    if classes is not None and not isinstance(classes.value, list | dict):
        raise classes.refuse("a list of names")
    return meta


def listed(meta: dict[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    """Yield split and name of each image; ReadError where a name leads out of the folder."""
    for split, names in meta["split"].items():
        for name in names:
            if Path(name).name != name or name in ("", ".."):
                raise ReadError(f"Names in meta.json of {folder} must be plain file names; got {name!r}.")
            yield str(split), name


def checked_regions(values: Any, name: str, folder: Path) -> tuple[Region, ...]:
    """Return the regions of an image; ReadError where they are not boxes."""
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
