"""Annotated images added to a training folder, all in one step.

The format is told in ``files.dataset.folder``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Annotation, Image, Labels
from cellwright.core.errors import WriteError
from cellwright.core.tasks import Progress, Task, run
from cellwright.files.atomic import as_stored, change_folder, plain_name
from cellwright.files.dataset.cells import write_cells, write_class_points
from cellwright.files.dataset.meta import Region, read_meta, write_meta
from cellwright.files.images import read_image, write_image, write_labels


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """An annotated image that is to be added to a dataset; made by ``annotation.export``."""

    image: Image  # with its pixel size, where that is known
    truth: Annotation | Labels  # labels of the image, numbered 1..N, or boxes or points of a 2D image
    classes: NDArray[np.int16] | None = None  # of labels: that of cell ``i + 1``, -1 for none
    class_names: tuple[str, ...] = ()  # what the classes are called
    name: str = ""  # under which it is kept; empty takes that of the image
    split: str = "train"  # where it belongs; an image that is replaced stays in its split
    group: str = ""
    regions: tuple[Region, ...] = ()  # outside of which nothing is known
    is_complete: bool = True  # whether every cell is annotated, in the regions if there are any
    provenance: Mapping[str, Any] = field(default_factory=dict)  # how it came about, for meta.json


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

    WriteError where a name is there already, or twice among the new ones; something cannot be written;
    another program is adding to the dataset. ReadError where there is a meta.json that is damaged.
    """
    folder = Path(folder)
    names = [plain_name(entry.name or entry.image.name) for entry in entries]
    if len({as_stored(name, folder) for name in names}) < len(names):
        raise WriteError(f"Images must differ in name; got {', '.join(names)[:200]}. Rename them.")
    with change_folder(folder) as change:
        meta: dict[str, Any] = {"name": folder.name, "split": {}, "items": {}}
        if (folder / "meta.json").exists():
            meta = read_meta(folder)
        for name in names:
            _check_free(folder, name, meta, may_replace=may_replace)
        for index, (name, entry) in enumerate(zip(names, entries, strict=True)):
            yield Progress("write", index, len(names), f"writing image {index + 1} of {len(names)}")
            change.remove(_files_of(folder, name))
            _write_files(change.staging, name, entry)
            meta = _meta_with(meta, name, entry)
        write_meta(change.staging, meta)
        # the last moment to be cancelled
        yield Progress("write", len(names), len(names), "adding to the dataset")
    return tuple(names)


def _check_free(folder: Path, name: str, meta: Mapping[str, Any], *, may_replace: bool) -> None:
    known = [one for names in meta["split"].values() for one in names]
    twins = [one for one in known if one != name and as_stored(one, folder) == as_stored(name, folder)]
    if twins:
        raise WriteError(
            f"Images of {folder} must differ in more than capitals; {name!r} and {twins[0]!r}, which is "
            "there, would have the same files. Give another name."
        )
    listed = name in known
    if (listed or _files_of(folder, name)) and not may_replace:
        found = "it is"
        if not listed:
            found = "its files are there, though meta.json does not list it"
        raise WriteError(
            f"{name!r} must not be in the dataset {folder} yet; {found}. Ask for it to be replaced, or give "
            "another name."
        )


def check_same_image(folder: Path | str, entry: Entry) -> None:
    """Raise WriteError where the image that an entry would replace in a dataset has other pixels.

    ImageError where pixels cannot be read.
    """
    folder, name = Path(folder), plain_name(entry.name or entry.image.name)
    for path in _files_of(folder, name):
        if path.parent.name != "images":
            continue
        if not np.array_equal(_pixels(read_image(path)), _pixels(entry.image), equal_nan=True):
            raise WriteError(
                f"{name!r} in the dataset {folder} must be this image to be replaced; it is another one, "
                "whose annotation would be lost. Rename this one, or remove the other from the dataset."
            )


def _pixels(image: Image) -> NDArray[Any]:
    """Return the pixels of an image with its channels last, whichever way it was read."""
    data = image.read()
    if "C" in image.axes:
        data = np.moveaxis(data, image.axes.index("C"), -1)
    return np.squeeze(data)


def _files_of(folder: Path, name: str) -> list[Path]:
    own = as_stored(name, folder)
    images = [path for path in (folder / "images").glob("*") if as_stored(path.stem, folder) == own]
    truths = [folder / f"boxes/{name}.csv", folder / f"points/{name}.csv", folder / f"masks/{name}.tif"]
    return images + [path for path in truths if path.exists()]


def _write_files(folder: Path, name: str, entry: Entry) -> None:
    image, truth = entry.image, entry.truth
    write_image(folder / "images" / f"{name}.tif", image)
    if isinstance(truth, Annotation):
        kind = "points" if truth.boxes is None else "boxes"
        write_cells(folder / kind / f"{name}.csv", truth, entry.class_names)
        return
    labels, axes = np.asarray(truth), image.label_axes
    write_labels(folder / "masks" / f"{name}.tif", labels, image)
    if entry.classes is not None:
        write_class_points(folder / "points" / f"{name}.csv", labels, axes, entry.classes, entry.class_names)


def _meta_with(meta: dict[str, Any], name: str, entry: Entry) -> dict[str, Any]:
    """Return what meta.json says with one more image, everything else as it was."""
    truth = entry.truth
    n = len(truth.points) if isinstance(truth, Annotation) else len(np.unique(truth[truth > 0]))
    item: dict[str, Any] = {"shape": list(entry.image.shape), "axes": entry.image.axes, "n": n}
    item |= {"dtype": str(entry.image.data.dtype), "complete": entry.is_complete}
    if entry.group:
        item["group"] = entry.group
    if entry.image.pixel_size_um:
        item["pixel_size_um"] = [float(size) for size in entry.image.pixel_size_um]
    if entry.regions:
        item["regions"] = [[list(corner) for corner in region] for region in entry.regions]
    if entry.provenance:
        item["provenance"] = dict(entry.provenance)
    meta = {**meta, "items": {**meta["items"], name: item}}
    known = meta.get("classes") or []
    names = [called for called in entry.class_names if called not in known]
    if names:
        if isinstance(known, dict):
            meta["classes"] = {**known, **dict.fromkeys(names)}
        else:
            meta["classes"] = [*known, *names]
    if not any(name in others for others in meta["split"].values()):
        others = meta["split"].get(entry.split, [])
        meta["split"] = {**meta["split"], entry.split: [*others, name]}
    return meta
