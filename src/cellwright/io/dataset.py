"""The training folder: images, masks and meta.json with splits and groups.

::

    <folder>/meta.json          {"split": {"train": [name, ...], "val": [...]},
                                 "items": {name: {"group": "fluo", ...}}, "axes": "YX or YXC", ...}
    <folder>/images/<name>.png  any image `io.images` reads
    <folder>/masks/<name>.tif   labels, 0 = background
    <folder>/boxes/<name>.csv   where there are no masks: xmin, ymin, xmax, ymax, class
    <folder>/points/<name>.csv  where there are not even boxes: y, x, class

Of boxes and points it is not known whether every cell has one, unless meta.json says ``"complete": true``.
Masks are complete unless it says ``"complete": false``. What holds for one image alone stands under its name
in ``items``: ``"complete"``, and ``"regions": [[[top, left], [bottom, right]], ...]``, the boxes (in pixels;
first corner, one past the last) outside of which nothing is known.

``"pixel_size_um": [1.75, 0.8, 0.8]``, for all images or under the name of one, tells the spatial axes of
images whose files do not.

Cells with masks have their classes in points/<name>.csv, one row for each that has one, at a pixel of it.
"""

import csv
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.errors import ReadError, WriteError
from cellwright.io.files import written_whole
from cellwright.io.images import read_image, write_image, write_labels
from cellwright.io.transaction import changed, settle
from cellwright.ops.labels import annotate, relabel
from cellwright.tasks import Progress, Task, run
from cellwright.types import SPATIAL, Annotation, Image, Labels

Region = tuple[tuple[int, int], tuple[int, int]]  # (top, left), (bottom, right) in pixels, the last one past


@dataclass(frozen=True, slots=True)
class Item:
    """One annotated image of a dataset, not yet read; ``truth_path`` holds masks, boxes or points.

    ``is_complete`` says whether every cell is annotated: inside of ``regions``, if there are any. The
    ``pixel_size_um`` of its spatial axes holds where the image's file tells none.
    """

    name: str
    split: str
    group: str
    image_path: Path
    truth_path: Path
    classes: tuple[str, ...] = ()
    is_complete: bool = True
    regions: tuple[Region, ...] = ()
    pixel_size_um: tuple[float, ...] = ()

    @property
    def has_masks(self) -> bool:
        """Whether the cells come with masks."""
        return self.truth_path.parent.name == "masks"

    def image(self) -> Image:
        """Return the image alone.

        Raises
        ------
        ReadError
            The file is missing or damaged.
        """
        image = read_image(self.image_path)
        fits = len(self.pixel_size_um) == sum(axis in SPATIAL for axis in image.axes)
        told = self.pixel_size_um if fits else ()  # a dataset may hold images and volumes
        return replace(image, name=self.name, pixel_size_um=image.pixel_size_um or told)

    def read(self) -> tuple[Image, Labels]:
        """Return the image and its labels, numbered 1..N.

        Raises
        ------
        ReadError
            A file is missing or damaged, the labels do not fit the image, or there are none.
        """
        if not self.has_masks:
            raise ReadError(
                f"Expected masks of {self.name!r}; got only {self.truth_path.parent.name}. Choose a dataset "
                "with masks, or a family that needs none (centroid, query or density)."
            )
        image = self.image()
        labels = np.asarray(read_image(self.truth_path).data)
        expected = _plane_shape(image)
        if labels.shape != expected:
            raise ReadError(
                f"Labels must have the image's shape {expected}; got {labels.shape} in {self.truth_path}. "
                "Export the pair again."
            )
        return image, relabel(labels)

    def annotated(self) -> tuple[Image, Annotation | Labels]:
        """Return the image with all that is known of its cells: labels, or an annotation.

        The annotation has masks where these do not show every cell of a 2D image. Of what lies outside of
        ``regions`` it may say anything.

        Raises
        ------
        ReadError
            A file is missing or damaged, or the annotation does not fit the image.
        """
        if self.has_masks:
            image, labels = self.read()
            if self.is_complete or labels.ndim != 2:
                return image, labels
            return image, replace(annotate(labels), is_complete=False)
        image = self.image()
        shape = _plane_shape(image)
        if len(shape) != 2:
            raise ReadError(
                f"Boxes and points belong to 2D images; {self.name!r} has axes {image.axes!r}. Annotate "
                "volumes with masks."
            )
        plane = (shape[0], shape[1])
        return image, read_cells(self.truth_path, plane, self.classes, is_complete=self.is_complete)


def _plane_shape(image: Image) -> tuple[int, ...]:
    return tuple(n for n, axis in zip(image.shape, image.axes, strict=True) if axis != "C")


def read_cells(
    path: Path, shape: tuple[int, int], classes: tuple[str, ...], *, is_complete: bool
) -> Annotation:
    """Return the boxes or points of a csv file; a row without a class has the class -1.

    Raises
    ------
    ReadError
        The file is missing or damaged, or a row lies outside the image or has an unknown class.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        is_boxes = path.parent.name == "boxes"
        columns = ("ymin", "xmin", "ymax", "xmax") if is_boxes else ("y", "x")
        table = np.array([[float(row[name]) for name in columns] for row in rows], np.float32)
        names = [row.get("class") or "" for row in rows]
        numbers = [classes.index(name) if name else -1 for name in names] if classes else None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ReadError(
            f"Expected rows of xmin, ymin, xmax, ymax, class or of y, x, class in {path}; got: {error!r}. "
            "Export the annotation again."
        ) from error
    table = table.reshape(len(rows), len(columns))
    corners = table.reshape(len(rows), len(columns) // 2, 2)
    if not (np.isfinite(table).all() and (corners >= -1).all() and (corners <= np.array(shape) + 1).all()):
        raise ReadError(f"Rows of {path} must lie inside the image of {shape} pixels. Export them again.")
    boxes = corners if is_boxes else None
    points = table if boxes is None else boxes.mean(axis=1) - 0.5
    numbered = None if numbers is None else np.array(numbers, np.int16)
    return Annotation(shape, points, boxes, None, numbered, is_complete)


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
    """Return the items of a training folder that have both an image and masks, boxes or points.

    Raises
    ------
    ReadError
        The folder or its meta.json is missing or damaged, or holds no labelled image.
    """
    folder = Path(folder)
    _settle(folder)
    meta = _read_meta(folder)
    images = {path.stem: path for path in sorted((folder / "images").glob("*"))}
    classes = tuple(map(str, meta.get("classes") or ()))
    items = []
    for split, name in _names(meta, folder):
        truth_path = _truth_path(folder, name)
        if name in images and truth_path is not None:
            facts = meta["items"].get(name, {})
            has_masks = truth_path.parent.name == "masks"
            is_complete = facts.get("complete", meta.get("complete", has_masks)) is True
            group, regions = str(facts.get("group", "")), _regions(facts.get("regions", ()), name, folder)
            sizes = _pixel_size(facts.get("pixel_size_um") or meta.get("pixel_size_um"), folder)
            items.append(
                Item(name, split, group, images[name], truth_path, classes, is_complete, regions, sizes)
            )
    if not items:
        raise ReadError(
            f"Expected images with labels in {folder}; found {len(images)} images and none of them listed in "
            "meta.json with a file of the same name in masks/. Export a dataset with labels."
        )
    return Dataset(folder, tuple(items))


def _settle(folder: Path) -> None:
    try:
        settle(folder)
    except WriteError as error:
        raise ReadError(
            f"The last export into {folder} was cut off, and is to be finished. {error}"
        ) from error


def _regions(values: Any, name: str, folder: Path) -> tuple[Region, ...]:
    try:
        corners = np.array(values, float).reshape(-1, 2, 2)
        if not (
            np.isfinite(corners).all() and (corners[:, 0] < corners[:, 1]).all() and (corners >= 0).all()
        ):
            raise ValueError(values)
    except (TypeError, ValueError) as error:
        raise ReadError(
            f"Regions must be boxes [[top, left], [bottom, right]] in pixels; got {str(values)[:80]} for "
            f"{name!r} in meta.json of {folder}. Export the dataset again."
        ) from error
    boxes = corners.round().astype(int).tolist()
    return tuple(((top, left), (bottom, right)) for (top, left), (bottom, right) in boxes)


def _pixel_size(values: Any, folder: Path) -> tuple[float, ...]:
    try:
        sizes = tuple(map(float, values or ()))
        if not all(0 < size < inf for size in sizes):
            raise ValueError(values)
    except (TypeError, ValueError) as error:
        raise ReadError(
            f"'pixel_size_um' in meta.json of {folder} must hold a positive number for each spatial axis; "
            f"got {str(values)[:80]}. Correct it, or leave it out."
        ) from error
    return sizes


def _truth_path(folder: Path, name: str) -> Path | None:
    candidates = [folder / "masks" / f"{name}.tif"]
    candidates += [folder / kind / f"{name}.csv" for kind in ("boxes", "points")]
    return next((path for path in candidates if path.exists()), None)


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


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """An annotated image that is to be added to a dataset; made by ``session.export``.

    Parameters
    ----------
    image
        With its pixel size, where that is known.
    truth
        Labels of the image, numbered 1..N, or boxes or points of a 2D image.
    classes : int16 (N,) or None
        Of labels: the class of cell ``i + 1``, -1 for none. An annotation has its own.
    class_names
        What the classes are called.
    name
        Under which it is kept; empty takes that of the image.
    split, group
        Where it belongs. An image that is replaced stays in its split.
    regions
        Outside of which nothing is known.
    is_complete
        Whether every cell is annotated: inside of ``regions``, if there are any.
    provenance
        How the annotation came about, for meta.json.
    """

    image: Image
    truth: Annotation | Labels
    classes: NDArray[np.int16] | None = None
    class_names: tuple[str, ...] = ()
    name: str = ""
    split: str = "train"
    group: str = ""
    regions: tuple[Region, ...] = ()
    is_complete: bool = True
    provenance: Mapping[str, Any] = field(default_factory=dict)


def append(folder: Path | str, entry: Entry, *, may_replace: bool = False) -> str:
    """Add one annotated image to a dataset folder and return its name; else like :func:`append_all`."""
    (name,) = run(append_all(folder, [entry], may_replace=may_replace))
    return name


def append_all(
    folder: Path | str, entries: Sequence[Entry], *, may_replace: bool = False
) -> Task[tuple[str, ...]]:
    """Add annotated images to a dataset folder, which is made where it is missing; return their names.

    All become part of the dataset in one step: what fails, is cancelled or killed before that leaves the
    folder as it was. Nothing that is there is touched, unless the same name is to be replaced.

    Raises
    ------
    WriteError
        A name is there already, or twice among the new ones; something cannot be written; another program
        is adding to the dataset.
    ReadError
        There is a meta.json that is damaged.
    """
    folder = Path(folder)
    names = [plain_name(entry.name or entry.image.name) for entry in entries]
    if len(set(names)) < len(names):
        raise WriteError(f"Images must have names of their own; got {', '.join(names)[:200]}. Rename them.")
    with changed(folder) as transaction:
        new: dict[str, Any] = {"name": folder.name, "split": {}, "items": {}}
        meta = _read_meta(folder) if (folder / "meta.json").exists() else new
        for name in names:
            _check_free(folder, name, meta, may_replace=may_replace)
        for index, (name, entry) in enumerate(zip(names, entries, strict=True)):
            yield Progress("write", index, len(names), f"writing image {index + 1} of {len(names)}")
            transaction.remove(_files_of(folder, name))
            _write_files(transaction.staging, name, entry)
            meta = _meta_with(meta, name, entry)
        _write_meta(transaction.staging, meta)
        # the last moment to be cancelled
        yield Progress("write", len(names), len(names), "adding to the dataset")
    return tuple(names)


def _check_free(folder: Path, name: str, meta: Mapping[str, Any], *, may_replace: bool) -> None:
    listed = any(name in names for names in meta["split"].values())
    if (listed or _files_of(folder, name)) and not may_replace:
        left = "" if listed else " (its files are there, but meta.json does not list it)"
        raise WriteError(
            f"{name!r} must not be in the dataset {folder} yet; it is{left}. Ask for it to be replaced, or "
            "give another name."
        )


def plain_name(name: str) -> str:
    """Return a name as a file can have it on every system, the same each time.

    Raises
    ------
    WriteError
        Nothing of it is left.
    """
    plain = re.sub(r"[^\w.+=@ -]+", "_", name).strip(" .")[:150]
    if not plain.strip("_"):
        raise WriteError(f"The name of an image must have letters or digits; got {name!r}. Name it.")
    return plain


def _files_of(folder: Path, name: str) -> list[Path]:
    """Return the files of an image that are there."""
    known = [folder / kind / f"{name}.csv" for kind in ("boxes", "points")] + [
        folder / "masks" / f"{name}.tif"
    ]
    images = folder / "images"
    return [path for path in images.glob("*") if path.stem == name] + [
        path for path in known if path.exists()
    ]


def _write_files(folder: Path, name: str, entry: Entry) -> None:
    """Write image, truth and classes."""
    write_image(folder / "images" / f"{name}.tif", entry.image)
    if isinstance(entry.truth, Annotation):
        kind = "points" if entry.truth.boxes is None else "boxes"
        rows, header = _cell_rows(entry.truth, entry.class_names)
    else:
        kind, header = "points", [*entry.image.axes.replace("C", "").lower(), "class"]
        rows = _class_rows(entry)
        write_labels(folder / "masks" / f"{name}.tif", np.asarray(entry.truth), entry.image)
    if rows or isinstance(entry.truth, Annotation):
        with (
            written_whole(folder / kind / f"{name}.csv") as part,
            part.open("w", encoding="utf-8", newline="") as file,
        ):
            csv.writer(file).writerows([header, *rows])


def _cell_rows(truth: Annotation, names: Sequence[str]) -> tuple[list[list[Any]], list[str]]:
    """Return the rows and columns of boxes or points."""
    classes = np.full(len(truth.points), -1) if truth.classes is None else truth.classes
    called = [names[int(number)] if number >= 0 else "" for number in classes]
    if truth.boxes is None:
        table, header = truth.points, ["y", "x", "class"]
    else:
        table, header = truth.boxes[:, :, ::-1].reshape(-1, 4), ["xmin", "ymin", "xmax", "ymax", "class"]
    values = np.round(table.astype(float), 3).tolist()
    return [[*row, name] for row, name in zip(values, called, strict=True)], header


def _class_rows(entry: Entry) -> list[list[Any]]:
    """Return for each cell with a class a pixel of it, the nearest to its middle, and the class."""
    labels = np.asarray(entry.truth)
    if entry.classes is None or not (entry.classes >= 0).any():
        return []
    places = np.argwhere(labels)
    numbers = labels[tuple(places.T)]
    counts = np.maximum(np.bincount(numbers, minlength=len(entry.classes) + 1), 1)
    middles = np.stack([np.bincount(numbers, axis, len(counts)) / counts for axis in places.T], axis=1)
    order = np.argsort(((places - middles[numbers]) ** 2).sum(axis=1), kind="stable")
    found, first = np.unique(numbers[order], return_index=True)
    nearest = places[order[first]].tolist()
    pairs = zip(found.tolist(), nearest, strict=True)
    classes = entry.classes
    return [[*place, entry.class_names[int(classes[n - 1])]] for n, place in pairs if classes[n - 1] >= 0]


def _meta_with(meta: dict[str, Any], name: str, entry: Entry) -> dict[str, Any]:
    """Return what meta.json says with one more image, everything else as it was."""
    truth = entry.truth
    n = len(truth.points) if isinstance(truth, Annotation) else len(np.unique(truth[truth > 0]))
    item: dict[str, Any] = {"shape": list(entry.image.shape), "axes": entry.image.axes, "n": n}
    item |= {"dtype": str(entry.image.data.dtype), "complete": entry.is_complete}
    item |= {"group": entry.group} if entry.group else {}
    if entry.image.pixel_size_um:
        item["pixel_size_um"] = [float(size) for size in entry.image.pixel_size_um]
    if entry.regions:
        item["regions"] = [[list(corner) for corner in region] for region in entry.regions]
    item |= {"provenance": dict(entry.provenance)} if entry.provenance else {}
    meta = {**meta, "items": {**meta["items"], name: item}}
    known = meta.get("classes") or []
    names = [called for called in entry.class_names if called not in known]
    if names:
        meta["classes"] = {**known, **dict.fromkeys(names)} if isinstance(known, dict) else [*known, *names]
    if not any(name in others for others in meta["split"].values()):
        others = meta["split"].get(entry.split, [])
        meta["split"] = {**meta["split"], entry.split: [*others, name]}
    return meta


def _write_meta(folder: Path, meta: dict[str, Any]) -> None:
    with written_whole(folder / "meta.json") as part:
        part.write_text(json.dumps(meta, indent=1, default=str) + "\n", encoding="utf-8")
