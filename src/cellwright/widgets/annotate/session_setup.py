"""How an annotation starts: from labels, points or nothing, or where it ended when it was last open."""

import glob
import os
import re
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Points, Shapes
from numpy.typing import NDArray

from cellwright.annotation.journal import is_open, locked, read_journal
from cellwright.annotation.label_store import AnnotationMetadata, LabelStore
from cellwright.annotation.session import AnnotationSession
from cellwright.annotation.setup import (
    UNKNOWN,
    Columns,
    checked_labels,
    identity_of,
    paste_labels,
    plane_shape,
)
from cellwright.core.data import Image, Provenance
from cellwright.core.errors import AnnotationError, CellwrightError, WrongLayerError
from cellwright.files.atomic import make_folder, writing
from cellwright.models import store
from cellwright.ops.label_changes import Box
from cellwright.widgets.shared.coordinates import Channel, axis_of, full_resolution, in_pixels
from cellwright.widgets.shared.edited_layers import EDITED, JOURNAL, METADATA, RESUMED, metadata_of
from cellwright.widgets.shared.layer_factory import features_by_number, set_features, spread
from cellwright.widgets.shared.layer_io import ANNOTATION, CHANNEL_INDEX, Source, image_of, source_of
from cellwright.widgets.shared.napari_private import labels_layer
from cellwright.widgets.shared.regions import REGIONS, RegionLayers, counted_boxes, regions_of

SUFFIX = ".journal"
DEFAULT_DISC_PX = 12.0
MOST_NAMES = 5  # of shapes in an error
MOST_NUMBERS = 10_000_000  # as scores and classes have an entry for each


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A session and the layer that is to show it."""

    session: AnnotationSession
    source: Source
    layer: Labels


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A journal that can be resumed."""

    path: Path
    n_edits: int
    changed: datetime
    is_open: bool = False

    @property
    def line(self) -> str:
        """What is offered, for people."""
        if self.is_open:
            return (
                "This image is being annotated in another window or program. Finish it there and resume "
                "it here, or duplicate the image's layer and annotate that."
            )
        when = f"{self.changed:%d %b %Y, %H:%M}"
        edits = (
            "1 edit of this image is" if self.n_edits == 1 else f"{self.n_edits:,} edits of this image are"
        )
        return f"{edits} kept, the last from {when}."


def journal_path(image: Image, folder: Path | None = None) -> Path:
    """Return the journal of an image: named for people by its name, told apart by its pixels.

    Without a folder it lies with those of all images.
    """
    folder = folder or store.user_folder().parent / "journals"
    name = re.sub(r"[^\w.-]+", "_", image.name).strip("._")[:60] or "image"
    return folder / f"{name}-{identity_of(image).fingerprint}{SUFFIX}"


def unfinished(path: Path) -> Unfinished | None:
    """Return what a journal offers; None where there is none, all is undone, or it is damaged."""
    try:
        recovered = read_journal(path)
        changed = datetime.fromtimestamp(path.stat().st_mtime)
        is_open_elsewhere = is_open(path)
    except (CellwrightError, OSError):
        return None
    n_edits = len(recovered.records) - 2 * recovered.records.count("undo")
    if n_edits <= 0:
        return None
    return Unfinished(path, n_edits, changed, is_open_elsewhere)


def fresh_journal(path: Path) -> Path:
    """Make room for a new journal and return its path: an earlier one is kept under another name.

    WriteError where the folder cannot be written, or another window or program has the journal open.
    """
    make_folder(path.parent)
    if path.exists():
        with writing(path), locked(path) as lock:
            kept = (path.with_suffix(f"{SUFFIX}.old{n or ''}") for n in count())
            os.replace(path, next(one for one in kept if not one.exists()))
            for beside in path.parent.glob(f"{glob.escape(path.stem)}.results.*"):  # what panels were set to
                beside.unlink()
        lock.release()
    return path


def start_session(
    image_layer: ImageLayer | None,
    channel: Channel | None,
    start: Layer | None,
    *,
    journal: Path | None,
    diameter_px: float = 0.0,
) -> OpenedSession:
    """Return a new session of an image.

    WrongLayerError where there is no image, or the layer to begin with is of another type or position.
    AnnotationError where the cells do not fit the image.

    Parameters
    ----------
    start
        Labels, Points or Shapes to begin with; None begins with nothing. Labels of the whole image are
        edited in their own layer, those of a part or of another image in a new one. Each shape is a cell.
    journal
        Takes the edits; what is there already is kept under another name.
    diameter_px
        Of the discs that stand for points; 0 for a usual one.
    """
    image = image_of(image_layer, channel)
    source = source_of(image_layer, channel)
    assert image_layer is not None  # as image_of made sure
    if isinstance(start, Shapes):
        drawn = _labels_of_shapes(image, image_layer, channel, start)  # before an earlier journal gives way
    path = None if journal is None else fresh_journal(journal)
    if isinstance(start, Points):
        points = in_pixels(start.data, start, image_layer, axis_of(channel))
        columns = _columns(start.features, len(points))
        diameter_px = diameter_px or DEFAULT_DISC_PX
        regions = _complete_regions(start, plane_shape(image))
        session = AnnotationSession.from_points(
            points, image, diameter_px, columns, regions=regions, journal=path
        )
    elif isinstance(start, Labels):
        session = _from_labels(image, image_layer, channel, start, path)
    elif isinstance(start, Shapes):
        session = AnnotationSession(image, drawn, journal=path)
    elif start is None:
        session = AnnotationSession(image, journal=path)
    else:
        raise WrongLayerError(
            f"Begin with Labels, Points or Shapes; got {type(start).__name__} {start.name!r}."
        )
    return OpenedSession(session, source, _layer_of(session, source, start, channel))


def resume(image_layer: ImageLayer | None, channel: Channel | None, path: Path) -> OpenedSession:
    """Return the session of an image as it was at its last finished edit.

    AnnotationError where the journal belongs to another image. ReadError where it is missing or damaged.
    WriteError where another window or program has it open.
    """
    session = AnnotationSession.open_journal(path, image_of(image_layer, channel))
    source = source_of(image_layer, channel)
    layer = _layer_of(session, source, None, channel)
    layer.metadata[METADATA][RESUMED] = True
    _tell_cells(layer, session)
    return OpenedSession(session, source, layer)


def _tell_cells(layer: Labels, session: AnnotationSession) -> None:
    """Tell in the features of a layer what the journal knows of its cells, as those of a count are told."""
    import pandas

    ids = session.ids()
    if not len(ids):
        return
    scores = np.array([session.score_of(number) for number in ids])
    edited = np.isin(ids, session.edited_ids())
    rows = pandas.DataFrame({"label": ids, "edited": edited}, index=ids)
    if (scores != 1).any():  # a model gave them
        rows["score"] = np.where(edited, np.nan, scores)
    set_features(layer, spread(rows))


def start_or_resume(
    image_layer: ImageLayer, labels: NDArray[Any] | None, scores: NDArray[Any] | None, journal: Path
) -> OpenedSession:
    """Return a session of labels that lie in no layer yet; where there is a journal, that is resumed."""
    if unfinished(journal) is not None:
        return resume(image_layer, None, journal)
    image, source = image_of(image_layer), source_of(image_layer)
    session = AnnotationSession(image, labels, scores=scores, journal=fresh_journal(journal))
    return OpenedSession(session, source, _layer_of(session, source, None))


def _from_labels(
    image: Image, image_layer: ImageLayer, channel: Channel | None, layer: Labels, journal: Path | None
) -> AnnotationSession:
    shape, found_by = plane_shape(image), _found_by(layer)
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
        corner = in_pixels(np.zeros((1, layer.ndim)), layer, image_layer, axis_of(channel))[0]
        whole, found_by = np.zeros(shape, data.dtype), {}  # of a part
        paste_labels(whole, data, [int(i) for i in np.rint(corner)])
        data = whole
    elif _is_of_another(layer, str(image_layer.unique_id)):
        data, found_by = data.copy(), {}
    n = int(data.max(initial=0))
    features, columns = features_by_number(layer), UNKNOWN
    if {"score", "class"} & set(features):
        if n > MOST_NUMBERS:
            raise AnnotationError(
                f"Cells with scores or classes must have numbers up to {MOST_NUMBERS:,}; got {n:,} in "
                f"{layer.name!r}. Number them anew."
            )
        columns = _columns(features.reindex(range(1, n + 1)), n)
    regions = _complete_regions(layer, shape)
    metadata = AnnotationMetadata(regions, columns.class_names, found_by=found_by)
    known = LabelStore(image, checked_labels(image, data), metadata=metadata)
    known.fill(columns.scores, columns.classes)
    return AnnotationSession(image, known, journal=journal)


def _complete_regions(cells: Layer, shape: tuple[int, ...]) -> tuple[Box, ...]:
    """Return where every cell of a plane was counted; nothing where that is all of it."""
    return (counted_boxes(cells, shape) or ()) if len(shape) == 2 else ()


def _is_of_another(cells: Layer, image_id: str) -> bool:
    """Return whether cells were found or drawn in another image layer than the one of this ``unique_id``."""
    return bool(metadata_of(cells).get("source", image_id) != image_id)


def _found_by(layer: Labels) -> dict[str, Any]:
    """Return how a count found the cells of a layer; nothing of one in regions, which no journal has."""
    own = metadata_of(layer)
    if "model" not in own or own.get(REGIONS):
        return {}
    names = {one.name for one in fields(Provenance)} - {"source"}  # there that of a layer
    return {name: own[name] for name in names & set(own)}


def _labels_of_shapes(
    image: Image, image_layer: ImageLayer, channel: Channel | None, shapes: Shapes
) -> NDArray[np.int32]:
    """Return each shape as a cell; a pixel belongs to the first that takes it.

    Shapes that are to be cut out of the others, see ``regions_of``, are no cells.
    """
    regions = regions_of(RegionLayers(shapes), image_layer, axis_of(channel))
    labels = np.zeros(plane_shape(image), np.int32)
    for index in np.ndindex(labels.shape[:-2]):
        for number, region in enumerate(regions.included, start=1):
            part, inside = _part_of(labels[index], region, index)
            part[inside & (part == 0)] = number
        for region in regions.excluded:
            part, inside = _part_of(labels[index], region, index)
            part[inside] = 0
    lost = np.setdiff1d(np.arange(1, len(regions.included) + 1), labels)
    if len(lost):
        names = ", ".join(regions.included[number - 1].name for number in lost[:MOST_NAMES])
        raise AnnotationError(
            f"Each shape must have a pixel of the image of its own; of {shapes.name!r} these have none: "
            f"{names}. Move them apart or into the image, or remove them."
        )
    return labels


def _part_of(
    plane: NDArray[np.int32], region: Any, index: tuple[int, ...]
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return the box of a plane around a shape, and which of its pixels lie inside."""
    corners = np.concatenate(region.rings)
    low = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, plane.shape)
    high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, low, plane.shape)
    part = plane[low[0] : high[0], low[1] : high[1]]
    return part, region.mask(index, part.shape, tuple(low))


def _columns(table: Any, n: int) -> Columns:
    """Return scores and classes of ``n`` cells from the features of a layer, as far as it has them."""
    if n == 0 or len(table) < n:
        return UNKNOWN
    scores = None
    if "score" in table:
        scores = table["score"].to_numpy(float)
        scores = np.where(np.isfinite(scores), scores, 1.0)
    if "class" not in table:
        return Columns(scores)
    values = table["class"].tolist()
    names = tuple(dict.fromkeys(str(value) for value in values if isinstance(value, str) and value))
    if not names:
        return Columns(scores)
    index = {name: i for i, name in enumerate(names)}
    return Columns(scores, np.array([index.get(value, -1) for value in values], np.int16), names)


def _layer_of(
    session: AnnotationSession, source: Source, start: Layer | None, channel: Channel | None = None
) -> Labels:
    """Return the layer to show a session: the one it began with where that lies right, else a new one."""
    shown = session.labels
    if source.channel_axis is not None:
        shown = np.expand_dims(shown, source.channel_axis)
    own: dict[str, Any] = {ANNOTATION: "labels", "source": source.layer_id}
    if session.journal_path is not None:
        own[JOURNAL] = str(session.journal_path)
    if channel is not None and channel.index is not None:
        own[CHANNEL_INDEX] = channel.index
    is_own = start is not None and not _is_of_another(start, source.layer_id)
    if isinstance(start, Labels) and is_own and not start.multiscale and start.data.shape == shown.shape:
        known = metadata_of(start)
        start.metadata = {**start.metadata, METADATA: {**known, **own, EDITED: True}}
        return start
    name = f"{session.image.name} annotation"
    if session.metadata.found_by:
        own = {**session.metadata.found_by, **own, EDITED: True}
    return labels_layer(shown, name=name, metadata={METADATA: own}, **source.placement)
