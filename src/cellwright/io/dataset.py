"""The training folder: images, masks and meta.json with splits and groups.

::

    <folder>/meta.json          {"split": {"train": [name, ...], "val": [...]},
                                 "items": {name: {"group": "fluo", ...}}, "axes": "YX or YXC", ...}
    <folder>/images/<name>.png  any image `io.images` reads
    <folder>/masks/<name>.tif   labels, 0 = background
"""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cellwright.errors import ReadError
from cellwright.io.images import read_image
from cellwright.ops.labels import relabel
from cellwright.types import Image, Labels


@dataclass(frozen=True, slots=True)
class Item:
    """One annotated image of a dataset, not yet read."""

    name: str
    split: str
    group: str
    image_path: Path
    labels_path: Path

    def read(self) -> tuple[Image, Labels]:
        """Return the image and its labels, numbered 1..N.

        Raises
        ------
        ReadError
            A file is missing or damaged, or the labels do not fit the image.
        """
        image = replace(read_image(self.image_path), name=self.name)
        labels = np.asarray(read_image(self.labels_path).data)
        expected = tuple(n for n, axis in zip(image.shape, image.axes, strict=True) if axis != "C")
        if labels.shape != expected:
            raise ReadError(
                f"Labels must have the image's shape {expected}; got {labels.shape} in {self.labels_path}. "
                "Export the pair again."
            )
        return image, relabel(labels)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A training folder. Made by :func:`read_dataset`; used by training and evaluation."""

    folder: Path
    items: tuple[Item, ...]

    def select(
        self, split: str | None = None, group: str | None = None, names: Collection[str] | None = None
    ) -> "Dataset":
        """Return the part of the dataset that has this split, group and one of these names (None = all)."""
        chosen = tuple(
            item
            for item in self.items
            if split in (None, item.split)
            and group in (None, item.group)
            and (names is None or item.name in names)
        )
        return replace(self, items=chosen)

    def __len__(self) -> int:
        return len(self.items)


def read_dataset(folder: Path | str) -> Dataset:
    """Return the items of a training folder that have both an image and labels.

    Raises
    ------
    ReadError
        The folder or its meta.json is missing or damaged, or holds no labelled image.
    """
    folder = Path(folder)
    meta = _read_meta(folder)
    images = {path.stem: path for path in sorted((folder / "images").glob("*"))}
    items = []
    for split, name in _names(meta, folder):
        labels_path = folder / "masks" / f"{name}.tif"
        if name in images and labels_path.exists():
            group = str(meta["items"].get(name, {}).get("group", ""))
            items.append(Item(name, split, group, images[name], labels_path))
    if not items:
        raise ReadError(
            f"Expected images with labels in {folder}; found {len(images)} images and none of them listed in "
            "meta.json with a file of the same name in masks/. Export a dataset with labels."
        )
    return Dataset(folder, tuple(items))


def _read_meta(folder: Path) -> dict[str, Any]:
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
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
    return meta


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _names(meta: dict[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    for split, names in meta["split"].items():
        for name in names:
            if Path(name).name != name or name in ("", ".."):
                raise ReadError(f"Names in meta.json of {folder} must be plain file names; got {name!r}.")
            yield str(split), name
