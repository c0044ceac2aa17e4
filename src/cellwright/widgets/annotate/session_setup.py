"""How an annotation starts: from labels, points or nothing, or where it ended when it was last open."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Points, Shapes
from numpy.typing import NDArray

from cellwright.annotation.journal import is_open, read_journal
from cellwright.annotation.session import AnnotationSession
from cellwright.annotation.setup import UNKNOWN, check_same, plane_shape
from cellwright.core.data import Image
from cellwright.core.errors import AnnotationError, CellwrightError, WrongLayerError
from cellwright.files.atomic import atomic_write
from cellwright.ops.measure.regions import Region, ShapeRegion, is_excluded
from cellwright.widgets.shared.cells.regions import PART, RegionLayers, counted_boxes, regions_of, shape_name
from cellwright.widgets.shared.coordinates import Channel, axis_of, channels_of, expanded, in_pixels_in_sight
from cellwright.widgets.shared.edited_layers import (
    EDITED,
    JOURNAL,
    METADATA,
    RESUMED,
    engine_of,
    metadata_of,
    note_written,
)
from cellwright.widgets.shared.journals.journal_files import (
    SUFFIX,
    channel_of_journal,
    columns_of,
    earlier_journals,
    fresh_journal,
    is_of_another,
    journals_of_image,
    store_of,
    store_with,
)
from cellwright.widgets.shared.journals.kept_corrections import KEPT, KEPT_AS, written_here
from cellwright.widgets.shared.layer_factory import class_order, set_features, spread
from cellwright.widgets.shared.layer_io import ANNOTATION, CHANNEL_INDEX, Source, image_of, source_of
from cellwright.widgets.shared.napari_private import labels_layer

DEFAULT_DISC_PX = 12.0
MOST_NAMES = 5  # of shapes in an error


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
    is_of_other: bool = False  # whether it is of another channel than the chosen one

    @property
    def line(self) -> str:
        """What is offered, for people."""
        when = f"{self.changed:%d %b %Y, %H:%M}"
        if self.path.suffix in KEPT_AS.values():
            what = self.path.suffix.partition("_")[2].capitalize() or "Cells"
            return f"{what} of this image that were corrected in the viewer are kept, the last from {when}."
        if self.is_open:
            return (
                "This image is being annotated in another window or program. Finish it there and resume "
                "it here, or duplicate the image's layer and annotate that."
            )
        number, where = channel_of_journal(self.path), "this image"
        if self.is_of_other and number is not None:
            where = f"channel {number} of this image"
        edits = f"1 edit of {where} is"
        if self.n_edits > 1:
            edits = f"{self.n_edits:,} edits of {where} are"
        return f"{edits} kept, the last from {when}."


def offered(path: Path) -> Unfinished | None:
    """Return what can be resumed of the image of a journal: this, or cells that were corrected outside it.

    It is what changed last; cells that this program has corrected, or brought back, are in its layers. Where
    there is nothing of the channel of the journal, it is that of another.
    """
    own, *others = journals_of_image(path)
    found = _offered_of(own)
    if not found:
        found = [replace(one, is_of_other=True) for other in others for one in _offered_of(other)]
    return max(found, key=lambda one: one.changed, default=None)


def _offered_of(path: Path) -> list[Unfinished]:
    # where nothing was done in the journal, what has made way for it
    begun = map(unfinished_journal, (path, *earlier_journals(path)))
    found = list(islice(filter(None, begun), 1))
    for kept in sorted({path.with_suffix(ending) for ending in KEPT_AS.values()} - written_here):
        if kept.exists():
            changed = datetime.fromtimestamp(kept.stat().st_mtime)
            found.append(Unfinished(kept, 0, changed))
    return found


def unfinished_journal(path: Path) -> Unfinished | None:
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


def start_session(
    image_layer: ImageLayer | None,
    channel: Channel | None,
    start: Layer | None,
    *,
    journal: Path | None,
    diameter_px: float = 0.0,
    in_sight: NDArray[np.float64] | None = None,
) -> OpenedSession:
    """Return a new session of an image.

    It begins with Labels, Points or Shapes, or with nothing. Labels of the whole image are edited in their
    own layer, those of a part or of another image in a new one. Each shape is a cell; discs of
    ``diameter_px`` stand for points, of a usual one where it is 0; points without slices lie in those
    ``in_sight`` in the world, the first where that is not told. The journal takes the edits; what is there
    already is kept under another name, once it is sure that the session begins.

    WrongLayerError where there is no image, or the layer to begin with is of another type or position.
    AnnotationError where the cells do not fit the image.
    """
    image = image_of(image_layer, channel)
    source = source_of(image_layer, channel)
    assert image_layer is not None  # as image_of made sure
    if isinstance(start, Points):
        if in_sight is None:
            in_sight = np.asarray(image_layer.data_to_world(np.zeros(image_layer.ndim)))
        points = in_pixels_in_sight(start.data, start, image_layer, axis_of(channel), in_sight)
        columns = columns_of(start.features, len(points), class_order(start))
        regions = counted_boxes(start, image)
        diameter_px = diameter_px or DEFAULT_DISC_PX
        session = AnnotationSession.from_points(points, image, diameter_px, columns, regions=regions)
    elif isinstance(start, Labels):
        session = AnnotationSession(image, store_of(image, image_layer, channel, start))
    elif isinstance(start, Shapes):
        labels = _labels_of_shapes(image, image_layer, channel, start)
        rows = [row for row in range(len(start.data)) if not is_excluded(shape_name(start, row))]
        columns = columns_of(start.features.iloc[rows], len(rows), class_order(start))
        session = AnnotationSession(image, store_with(labels, image, start, columns, {}))
    elif start is None:
        session = AnnotationSession(image)
    else:
        raise WrongLayerError(
            f"Begin with Labels, Points or Shapes; got {type(start).__name__} {start.name!r}."
        )
    if journal is not None:
        session.keep_in(fresh_journal(journal))
    return OpenedSession(session, source, _layer_of(session, source, start, channel))


def session_to_outline(
    image_layer: ImageLayer, channel: Channel | None, start: Points | Shapes, *, journal: Path
) -> OpenedSession:
    """Return a session without cells, in which a model is to outline points or shapes.

    It has the names of their classes, and the regions they were counted in; else like :func:`start_session`.
    """
    image, source = image_of(image_layer, channel), source_of(image_layer, channel)
    nothing = np.zeros(plane_shape(image), np.int32)
    session = AnnotationSession(image, store_with(nothing, image, start, UNKNOWN, {}))
    session.keep_in(fresh_journal(journal))
    return OpenedSession(session, source, _layer_of(session, source, None, channel))


def resume_session(image_layer: ImageLayer | None, channel: Channel | None, path: Path) -> OpenedSession:
    """Return the session of an image as it was at its last finished edit.

    AnnotationError where the journal belongs to another image. ReadError where it is missing or damaged.
    WriteError where another window or program has it open.
    """
    if path.suffix == KEPT:  # which stays as it is
        check_same(image_of(image_layer, channel), read_journal(path).start.image)
        kept, path = path, fresh_journal(path.with_suffix(SUFFIX))
        with atomic_write(path) as part:
            shutil.copyfile(kept, part)
    session = AnnotationSession.open_journal(path, image_of(image_layer, channel))
    channel = _known_channel(session, image_layer, path) or channel
    source = source_of(image_layer, channel)
    layer = _layer_of(session, source, None, channel)
    layer.metadata[METADATA][RESUMED] = True
    _tell_cells(layer, session)
    return OpenedSession(session, source, layer)


def _known_channel(session: AnnotationSession, image_layer: ImageLayer | None, path: Path) -> Channel | None:
    """Return the channel that a session is of, or its cells were counted in, None where that is not told."""
    engine, number = engine_of(session.metadata.found_by), channel_of_journal(path)
    if number is None and not engine.get("channels"):
        number = engine.get("channel")
    if number is None or image_layer is None:
        return None
    return next((one for one in channels_of(image_layer) if one.index == number), None)


def _tell_cells(layer: Labels, session: AnnotationSession) -> None:
    """Tell in the features of a layer what the journal knows of its cells, as those of a count are told."""
    import pandas

    ids = session.store.numbers()
    if not len(ids):
        return
    scores = np.array([session.store.cell(number).score for number in ids])
    edited = np.isin(ids, session.history.edited_numbers())
    rows = pandas.DataFrame({"label": ids, "edited": edited}, index=ids)
    if (scores != 1).any():  # a model gave them
        rows["score"] = np.where(edited, np.nan, scores)
    set_features(layer, spread(rows))
    note_written(layer, map(str, rows))


def start_or_resume(
    image_layer: ImageLayer, labels: NDArray[Any] | None, scores: NDArray[Any] | None, journal: Path
) -> OpenedSession:
    """Return a session of labels that lie in no layer yet; where there is a journal, that is resumed."""
    if unfinished_journal(journal) is not None:
        return resume_session(image_layer, None, journal)
    image, source = image_of(image_layer), source_of(image_layer)
    session = AnnotationSession(image, labels, scores=scores, journal=fresh_journal(journal))
    return OpenedSession(session, source, _layer_of(session, source, None))


def _labels_of_shapes(
    image: Image, image_layer: ImageLayer, channel: Channel | None, shapes: Shapes
) -> NDArray[np.int32]:
    """Return each shape as a cell; a pixel belongs to the first that takes it.

    Shapes that are to be cut out of the others, see ``regions_of``, are not cells.
    """
    regions = regions_of(RegionLayers(shapes), image_layer, axis_of(channel))
    labels = np.zeros(plane_shape(image), np.int32)
    *lead, height, width = labels.shape
    size = (height, width)
    for index in np.ndindex(*lead):
        for number, region in enumerate(_drawn(regions.included), start=1):
            window, inside = region.part(index, size)
            part = labels[index][window]
            part[inside & (part == 0)] = number
        for region in _drawn(regions.excluded):
            window, inside = region.part(index, size)
            labels[index][window][inside] = 0
    lost = np.setdiff1d(np.arange(1, len(regions.included) + 1), labels)
    if len(lost):
        names = ", ".join(regions.included[number - 1].name for number in lost[:MOST_NAMES])
        raise AnnotationError(
            f"Each shape must have a pixel of the image of its own; of {shapes.name!r} these have none: "
            f"{names}. Move them apart or into the image, or remove them."
        )
    return labels


def _drawn(regions: Iterable[Region]) -> list[ShapeRegion]:
    return [region for region in regions if isinstance(region, ShapeRegion)]


def _layer_of(
    session: AnnotationSession, source: Source, start: Layer | None, channel: Channel | None = None
) -> Labels:
    """Return the layer to show a session: the one it began with where that lies right, else a new one."""
    shown = expanded(session.labels, source.channel_axis)
    own: dict[str, Any] = {ANNOTATION: "labels", "source": source.layer_id}
    if session.journal_path is not None:
        own[JOURNAL] = str(session.journal_path)
    if channel is not None:
        own[CHANNEL_INDEX] = channel.index
    if session.metadata.is_part:
        own[PART] = True
    is_own = start is not None and not is_of_another(start, source.layer_id)
    if isinstance(start, Labels) and is_own and not start.multiscale and start.data.shape == shown.shape:
        known = metadata_of(start)
        start.metadata = {**start.metadata, METADATA: {**known, **own, EDITED: True}}
        return start
    name = f"{session.image.name} annotation"
    if session.metadata.found_by:
        own = {**session.metadata.found_by, **own, EDITED: True}
    return labels_layer(shown, name=name, metadata={METADATA: own}, **source.placement)
