"""Labels as files hold them, checked and numbered without gaps."""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cellwright.core.errors import ReadError
from cellwright.files.formats.image_annotation import ImageAnnotation, checked_shape
from cellwright.ops.labels import relabel


def labels_of(path: Path, where: str, values: NDArray[Any], axes: str, name: str) -> ImageAnnotation:
    """Return the marks of labels, renumbered 1..N in their order.

    Raises
    ------
    ReadError
        They are no whole numbers, below 0, or their size cannot be that of an image.
    """
    checked_shape(path, where, values.shape)
    if values.dtype.kind not in "iub" or (values.dtype.kind == "i" and values.min() < 0):
        raise ReadError(
            f"{where} of {path} must be labels (whole numbers from 0 on); got {values.dtype} from "
            f"{values.min()}. Choose a label image."
        )
    return ImageAnnotation(name, values.shape, axes, relabel(values))
