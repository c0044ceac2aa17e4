"""Label images: of any kind of image file in, as OME-TIFF out, which every program reads.

Masks of Cellpose (``_cp_masks``), StarDist, CellProfiler ("Objects" as 16 bits) and ilastik ("Object
Identities", TIFF, .npy or HDF5) are such images.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cellwright.core.data import Image
from cellwright.core.errors import ReadError
from cellwright.files.formats.image_annotation import (
    ImageAnnotation,
    chosen,
    labels_of,
    needing_masks,
    only_one,
)
from cellwright.files.formats.imagej_roi import read_overlay, rois_in_tiff
from cellwright.files.images import read_image, write_labels
from cellwright.files.metadata import blank
from cellwright.ops.labels import pieces_notice

TIFFS = (".tif", ".tiff")
ENDINGS = (".ome.tif", ".ome.tiff", ".ome.zarr")
# of programs that write labels
OWN_ENDINGS = ("_cp_masks", "_Object Identities", ".labels", "_labels", "_masks")


def read(path: Path, image: Image | None = None) -> tuple[ImageAnnotation, ...]:
    """Return the labels of an image file, numbered without gaps, or the overlay that ImageJ drew on it."""
    found = read_image(path, are_labels=True)
    rois = rois_in_tiff(path) if path.suffix.lower() in TIFFS else []
    if rois:
        plain = replace(found, data=blank(found.shape, np.uint8))
        return read_overlay(path, rois, plain if image is None else image)
    if "C" in found.axes:
        channels = np.moveaxis(found.read(), found.axes.index("C"), 0)
        if (channels[1:] != channels[0]).any():  # labels may be saved as grey in three colours
            raise ReadError(
                f"The pixels of {path} must be labels, without colours; got {found.axes!r}. Choose the "
                "labels of one channel."
            )
        found = replace(found, data=channels[0], axes=found.label_axes)
    annotation = labels_of(path, "The content", found.read(), found.axes, _name_of(path))
    assert annotation.labels is not None
    notice = pieces_notice(annotation.labels, path.name)
    if notice:
        annotation = replace(annotation, notices=(notice,))
    return chosen(path, [replace(annotation, pixel_size_um=found.pixel_size_um)], image)


def _name_of(path: Path) -> str:
    """Return the name of the image, as programs name their labels after it."""
    name = path.stem
    for ending in ENDINGS:
        if path.name.lower().endswith(ending):
            name = path.name[: -len(ending)]
    for ending in OWN_ENDINGS:
        if name.endswith(ending) and name != ending:
            return name.removesuffix(ending)
    return name


def write(path: Path, annotation: Sequence[ImageAnnotation]) -> None:
    """Write the labels of one image as int32 OME-TIFF with axes and pixel size."""
    one = only_one(annotation, "TIFF")
    needing_masks(one, "TIFF")
    labels = one.numbered_labels()
    assert labels is not None
    write_labels(path, labels, Image(labels, one.axes, one.pixel_size_um, one.name))
