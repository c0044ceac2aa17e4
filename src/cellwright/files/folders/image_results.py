"""The files of one image of a folder: what was found read back, those of a large image put in place."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Cells, Image, Provenance, Result
from cellwright.core.errors import ReadError, expecting
from cellwright.files.atomic import make_folder, move, remove_folder, writing
from cellwright.files.folders.image_list import ListedImage
from cellwright.files.folders.written import KEPT, counted_name
from cellwright.files.images import read_image, read_images, with_channels_of
from cellwright.files.json_value import NO_JSON
from cellwright.files.metadata import with_axes
from cellwright.files.regions import read_label_image
from cellwright.files.tables import read_cells_table
from cellwright.ops.measure.cells_table import class_names, places_of
from cellwright.ops.measure.columns import PIXEL_COUNTS
from cellwright.ops.measure.measurement import result_of_labels

if TYPE_CHECKING:
    import pandas

ENDINGS = ("json", "density.tif", "cells.csv", "labels.tif")


def read_listed(listed: ListedImage, output: Path) -> Image:
    """Return an image of a folder with the axes, pixel size and channels with which it was counted.

    ReadError where the image, or how it was counted, is missing or damaged.
    """
    provenance = read_found(output / f"{listed.name}.json").provenance
    images = (image for image in read_images(listed.path) if listed.part in ("", image.name))
    image = next(images, None)
    if image is None:
        raise ReadError(f"{listed.path} has no image {listed.part} any more. Count the folder again.")
    axes = provenance.settings.get("source_axes") or provenance.axes
    if image.axes != axes and len(image.axes) == len(axes):
        image = with_axes(image, axes)
    image = with_channels_of(image, provenance.settings.get("source_files", ()))
    if len(provenance.pixel_size_um) == len(image.spatial_axes):
        image = replace(image, pixel_size_um=tuple(provenance.pixel_size_um))
    return image


def read_result(
    output: Path, name: str, image: Image, *, as_counted: bool = False, beside: str = ""
) -> Result:
    """Return what was found in an image, as its files tell: labels, else points and boxes, or a density.

    Cells whose labels were changed since are measured again; how sure the model was is no longer known then.
    Of an image that was corrected by hand it is what the model had found where ``as_counted``, and of one
    that was counted again the cells that were corrected before: ``beside`` is what their file is called now.
    """
    files = {ending: output / f"{name}.{ending}" for ending in ENDINGS}
    if as_counted:
        files = {ending: counted_name(path) for ending, path in files.items()}
    if beside:
        tag = Path(Path(beside).stem).suffix  # as in a.labels.edited1.tif
        files = {ending: path.with_name(f"{path.stem}{tag}{path.suffix}") for ending, path in files.items()}
    found = read_found(files["json"])
    n_axes = len(image.label_axes)
    if files["density.tif"].exists():
        values = read_image(files["density.tif"]).read().astype(np.float32)
        return replace(found, count=float(values.sum()), cells=Cells.empty(n_axes), maps={"density": values})
    table = _read_cells(files["cells.csv"])
    if files["labels.tif"].exists():
        labels = read_label_image(files["labels.tif"], image)
        measured, numbers = result_of_labels(labels, image, is_volume=found.provenance.is_linked)
        cells = measured.cells
    else:
        points, boxes = places_of(table, image.label_axes)
        first = np.asarray(found.offset or (0,) * n_axes, np.float32)
        cells = Cells(points - first, boxes - first, *np.ones((2, len(table)), np.float32))
        numbers = table["label"].to_numpy()
    if np.array_equal(numbers, table["label"]):
        cells = replace(cells, **_columns_in(table, found))
    return replace(found, count=float(len(cells)), cells=cells)


def _columns_in(table: "pandas.DataFrame", found: Result) -> dict[str, NDArray[Any]]:
    """Return the columns of :class:`Cells` that the table tells; cells made by hand have a score of 1."""
    columns: dict[str, NDArray[Any]] = {"scores": table["score"].fillna(1.0).to_numpy(np.float32)}
    for name in PIXEL_COUNTS:
        if name in table:
            columns["areas"] = table[name].to_numpy(np.float32)
    if "class" in table:
        numbers = {name: number for number, name in enumerate(class_names(found))}
        columns["classes"] = np.array([numbers.get(name, -1) for name in table["class"]], np.int16)
    return columns


def read_found(path: Path) -> Result:
    """Return how cells were found, and what the user should know, without the cells."""
    what = f"{path} as a count has written it"
    with expecting(ReadError, what, "Count again.", OSError, *NO_JSON, KeyError, TypeError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        provenance = Provenance(**{item.name: kept[item.name] for item in fields(Provenance)})
        offset, notices = (tuple(kept.get(name, ())) for name in ("offset", "notices"))
        return Result(0.0, Cells.empty(2), provenance, offset, notices)


def _read_cells(path: Path) -> "pandas.DataFrame":
    with expecting(ReadError, f"the table {path}", "Count again.", OSError, ValueError):
        return read_cells_table(path)


def blocks_folder(output: Path, name: str = "") -> Path:
    """Return where an image is counted block by block, until its files take their place."""
    return output / KEPT / "blocks" / name


def take_blocks(folder: Path, place: Path) -> list[Path]:
    """Move the files of an image counted block by block to where it belongs; return those to look for."""
    written: list[Path] = []
    with writing(place):
        make_folder(place.parent)
        for path in sorted(folder.iterdir()):
            target = place.with_name(path.name)
            if path.name.startswith("."):
                continue
            if target.is_dir():
                remove_folder(target)
            move(path, target)
            written.append(target)
        remove_folder(folder)
    return written
