"""The images of a folder that is proofread, each with the cells to begin with, and how they are shown."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Image
from cellwright.core.errors import ReadError
from cellwright.core.tasks import Progress, Task
from cellwright.files.images import read_image
from cellwright.models.registry import DEFAULT_FAMILY
from cellwright.widgets.annotate.session_setup import journal_path, unfinished

IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".npy", ".bmp", ".zarr")
MODEL = DEFAULT_FAMILY


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """An image and the labels to begin with. Made by :func:`read_task`; used by the proofreader."""

    image: Image
    labels: NDArray[Any] | None
    scores: NDArray[Any] | None
    is_counted: bool


def images_of(folder: Path) -> list[Path]:
    """Return the images of a folder, of a dataset folder those in ``images``.

    Raises
    ------
    ReadError
        It cannot be read, or holds no image.
    """
    inner = folder / "images"
    try:
        paths = sorted((inner if inner.is_dir() else folder).iterdir())
    except OSError as error:
        raise ReadError(
            f"Expected a folder of images at {folder}; got: {error.strerror or error}. Choose another."
        ) from error
    seen = (path for path in paths if not path.name.startswith("."))
    found = [path for path in seen if path.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        raise ReadError(f"Expected images ({', '.join(IMAGE_SUFFIXES)}) in {folder}; found none.")
    return found


def labels_path(image: Path) -> Path | None:
    """Return the labels that lie beside an image, None where there are none."""
    folders = (image.parent / "masks", image.parent.parent / "masks")
    paths = [folder / f"{image.stem}{suffix}" for folder in folders for suffix in (".tif", ".tiff", ".png")]
    return next((path for path in paths if path.is_file()), None)


def read_task(path: Path, journals: Path, *, counts: bool) -> Task[Read]:
    """Read an image and the labels to begin with: those beside it, else what the model finds."""
    yield Progress("load", 0, 1)
    image = read_image(path)
    image = replace(image, data=np.asarray(image.data), name=path.stem)
    if unfinished(journal_path(image, journals)) is not None:
        return Read(image, None, None, is_counted=False)
    beside = labels_path(path)
    if beside is not None:
        return Read(image, np.asarray(read_image(beside).data), None, is_counted=True)
    if not counts:
        return Read(image, None, None, is_counted=False)
    from cellwright.inference.pipeline import count_cells

    result = yield from count_cells(image, MODEL)
    return Read(image, result.cells.labels, result.cells.scores, is_counted=True)
