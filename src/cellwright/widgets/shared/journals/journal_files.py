"""Where annotations of an image are kept while they are edited, and what of a layer of labels goes there."""

import glob
import re
from collections.abc import Mapping
from dataclasses import fields
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer
from numpy.typing import NDArray

from cellwright.annotation.journal import locked
from cellwright.annotation.label_store import AnnotationMetadata, LabelStore
from cellwright.annotation.setup import (
    UNKNOWN,
    Columns,
    checked_labels,
    identity_of,
    paste_labels,
    plane_shape,
)
from cellwright.core.data import Image, Provenance
from cellwright.core.errors import AnnotationError, WrongLayerError
from cellwright.files.atomic import make_folder, move, writing
from cellwright.models import store
from cellwright.widgets.shared.cells.regions import REGIONS, counted_boxes
from cellwright.widgets.shared.coordinates import (
    SAME_PIXELS,
    Channel,
    affine_between,
    axis_of,
    check_unmoved,
    full_resolution,
    without_axis,
)
from cellwright.widgets.shared.edited_layers import metadata_of
from cellwright.widgets.shared.layer_factory import class_order, features_by_number, texts_of
from cellwright.widgets.shared.layer_io import source_of

SUFFIX = ".journal"
CHANNEL_PART = re.compile(r"(?<=-[0-9a-f]{16})-ch(\d+)(?=\.|$)")  # of the name of a journal, behind the mark
MOST_NUMBERS = 10_000_000  # as scores and classes have an entry for each


def journal_path(image: Image, folder: Path | None = None, channel: Channel | None = None) -> Path:
    """Return the journal of an image: named for people by its name, told apart by its pixels.

    Without a folder it lies with those of all images. Each channel of several has a journal of its own.
    """
    folder = folder or store.user_folder().parent / "journals"
    name = re.sub(r"[^\w.-]+", "_", image.name).strip("._")[:60] or "image"
    part = ""
    if channel is not None and channel.index is not None:
        part = f"-ch{channel.index}"
    return folder / f"{name}-{identity_of(image).fingerprint}{part}{SUFFIX}"


def channel_of_journal(path: Path) -> int | None:
    """Return the number of the channel that a journal is of; None for all, or where that is not told."""
    found = CHANNEL_PART.search(path.name)
    return int(found[1]) if found else None


def earlier_journals(path: Path) -> list[Path]:
    """Return the journals that have made way for this one, the last that was written first."""
    found = path.parent.glob(f"{glob.escape(path.name)}.old*")
    return sorted(found, key=lambda one: one.stat().st_mtime, reverse=True)


def journals_of_image(path: Path) -> list[Path]:
    """Return the journals that the image of a journal may have: this one, then those of other channels."""
    plain = CHANNEL_PART.sub("", path.stem)
    stems = {one.stem for one in path.parent.glob(f"{glob.escape(plain)}*")}
    others = sorted(stem for stem in stems if CHANNEL_PART.sub("", stem) == plain and stem != path.stem)
    return [path, *(path.with_name(stem + SUFFIX) for stem in others)]


def fresh_journal(path: Path) -> Path:
    """Make room for a new journal and return its path: an earlier one is kept under another name.

    WriteError where the folder cannot be written, or another window or program has the journal open.
    """
    make_folder(path.parent)
    if path.exists():
        with writing(path), locked(path) as lock:
            kept = (path.with_suffix(f"{SUFFIX}.old{n or ''}") for n in count())
            move(path, next(one for one in kept if not one.exists()))
            for beside in path.parent.glob(f"{glob.escape(path.stem)}.results.*"):  # what panels were set to
                beside.unlink()
        lock.release()
    return path


def store_of(image: Image, image_layer: ImageLayer, channel: Channel | None, layer: Labels) -> LabelStore:
    """Return the cells of a layer of labels with their scores and classes, in pixels of the whole image.

    Labels of that image are the array itself where they are int32. AnnotationError where they do not fit it,
    WrongLayerError where they are shifted or turned against it, or of a part in pixels of another size.
    """
    shape, own = plane_shape(image), found_by(layer)
    data = np.asarray(full_resolution(layer))
    axis = source_of(image_layer, channel).channel_axis
    if axis is not None and data.ndim == len(shape) + 1 and data.shape[axis] == 1:
        data = np.squeeze(data, axis=axis)
    if data.ndim != len(shape):
        raise AnnotationError(
            f"Labels must have the axes of the image, of shape {shape}; {layer.name!r} has shape "
            f"{data.shape}. Choose the labels of this image."
        )
    if data.shape != shape:
        whole, own = np.zeros(shape, data.dtype), {}  # of a part
        paste_labels(whole, data, _corner_of_part(layer, image_layer, channel))
        data = whole
    else:
        if metadata_of(layer).get("source") != str(image_layer.unique_id):
            check_unmoved(layer, image_layer)
        if is_of_another(layer, str(image_layer.unique_id)):
            data, own = data.copy(), {}
    n = int(data.max(initial=0))
    features, columns = features_by_number(layer), UNKNOWN
    if {"score", "class"} & set(features):
        if n > MOST_NUMBERS:
            raise AnnotationError(
                f"Cells with scores or classes must have numbers up to {MOST_NUMBERS:,}; got {n:,} in "
                f"{layer.name!r}. Renumber them."
            )
        columns = columns_of(features.reindex(range(1, n + 1)), n, class_order(layer))
    return store_with(checked_labels(image, data), image, layer, columns, own)


def store_with(
    labels: NDArray[np.int32], image: Image, layer: Layer, columns: Columns, own: Mapping[str, Any]
) -> LabelStore:
    """Return the cells of a layer, with its classes, the regions it was counted in and what found them."""
    regions = counted_boxes(layer, image)
    is_part = regions is not None  # all cells are known in its regions then, none outside
    metadata = AnnotationMetadata(regions or (), class_order(layer), found_by=own, is_part=is_part)
    known = LabelStore(image, labels, metadata=metadata)
    known.fill(columns.scores, columns.classes)
    return known


def _corner_of_part(layer: Labels, image_layer: ImageLayer, channel: Channel | None) -> list[int]:
    """Return the first pixel of labels in their image; WrongLayerError where their pixels are not its own."""
    matrix, origin = affine_between(layer, image_layer)
    if not np.allclose(matrix[-layer.ndim :], np.eye(layer.ndim), atol=SAME_PIXELS):
        raise WrongLayerError(
            f"Labels of a part of an image must have its pixels; those of {layer.name!r} are of another size "
            f"than those of {image_layer.name!r}, or turned. Give them the same scale and rotation, or bring "
            "them to the shape of the image."
        )
    return [int(i) for i in np.rint(without_axis(origin, axis_of(channel)))]


def is_of_another(cells: Layer, image_id: str) -> bool:
    """Return whether cells were found or drawn in another image layer than the one of this ``unique_id``."""
    return bool(metadata_of(cells).get("source", image_id) != image_id)


def found_by(layer: Layer) -> dict[str, Any]:
    """Return how a count found the cells of a layer; nothing of one in regions, which no journal has."""
    own = metadata_of(layer)
    if "model" not in own or own.get(REGIONS):
        return {}
    names = {one.name for one in fields(Provenance)} - {"source"}  # there that of a layer
    return {name: own[name] for name in names & set(own)}


def columns_of(table: Any, n: int, names: tuple[str, ...]) -> Columns:
    """Return scores and classes of ``n`` cells from the features of a layer with classes of these names."""
    if n == 0 or len(table) < n:
        return UNKNOWN
    import pandas

    scores = None
    if "score" in table:
        scores = pandas.to_numeric(table["score"], errors="coerce").to_numpy(float)
        scores = np.where(np.isfinite(scores), scores, 1.0)
    if "class" not in table:
        return Columns(scores)
    values = texts_of(table["class"])
    if not names:
        return Columns(scores)
    index = {name: i for i, name in enumerate(names)}
    return Columns(scores, np.array([index.get(value, -1) for value in values], np.int16), names)
