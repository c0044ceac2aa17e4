"""Labels as OME-TIFF, the image of labels every program reads."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import tifffile

from cellwright.core.data import Image
from cellwright.core.errors import ReadError
from cellwright.files.formats.image_annotation import (
    ImageAnnotation,
    chosen,
    labels_of,
    needing_masks,
    only_one,
)
from cellwright.files.formats.json_value import JsonValue
from cellwright.files.images import read_image, write_labels

ENDINGS = (".ome.tif", ".ome.tiff", ".tif", ".tiff")


def read(path: Path, image: Image | None = None) -> tuple[ImageAnnotation, ...]:
    """Return the labels of a TIFF, numbered without gaps.

    Raises
    ------
    ReadError
        The file is damaged, holds no labels, names files elsewhere, or does not fit the image.
    """
    _refuse_outside(path)
    found = read_image(path)
    if "C" in found.axes:
        raise ReadError(f"The axes of {path} must be those of labels, without colours; got {found.axes!r}.")
    name = next((path.name[: -len(end)] for end in ENDINGS if path.name.lower().endswith(end)), path.stem)
    annotation = labels_of(path, "The content", np.asarray(found.data), found.axes, name)
    return chosen(path, [replace(annotation, pixel_size_um=found.pixel_size_um)], image)


def _refuse_outside(path: Path) -> None:
    """Raise ReadError where the OME-XML takes planes from files outside the folder."""
    try:
        with tifffile.TiffFile(path) as tiff:
            xml = tiff.ome_metadata
        files = [] if not xml else ElementTree.fromstring(xml).findall(".//{*}UUID[@FileName]")
    except Exception:  # noqa: BLE001 - what is wrong with the file is told when it is read
        return
    for file in files:
        JsonValue(file.get("FileName"), path, "UUID.FileName").inside()


def write(path: Path, annotation: Sequence[ImageAnnotation]) -> None:
    """Write the labels of one image as int32 OME-TIFF with axes and pixel size.

    Raises
    ------
    WriteError
        The file cannot be written, or there are no masks or several images.
    """
    one = only_one(annotation, "TIFF")
    labels = needing_masks(one, "TIFF")
    write_labels(path, labels, Image(labels, one.axes, one.pixel_size_um, one.name))
