"""From an annotation session to data to train on, and to the files of other programs.

Where regions are declared, nothing is known outside of them. Without regions, what is not annotated is taken
for background only when the whole image is said to be complete.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from cellwright.annotation.session import AnnotationSession
from cellwright.core.data import Annotation, Cells, Image
from cellwright.core.errors import AnnotationError, SettingsError
from cellwright.core.tasks import Progress, Task, run
from cellwright.files.atomic import plain_name
from cellwright.files.dataset.append import Entry, append_all
from cellwright.files.dataset.meta import Region
from cellwright.files.formats.image_annotation import ImageAnnotation
from cellwright.files.formats.registry import FORMATS
from cellwright.ops.label_changes import Box

MEASURE, WRITE = "measure", "write"  # stages of an export
Span = tuple[tuple[int, int], ...]  # first and one-past-last index of each axis before Y and X


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """Where an annotated image belongs in a dataset, and what is known of it."""

    split: Annotated[
        str, {"tooltip": "What the image is for: train, val or test. One that is replaced stays where it is."}
    ] = "train"
    group: Annotated[str, {"tooltip": "Kind of image, fluo say: kinds are learnt in equal parts."}] = ""
    name: Annotated[str, {"tooltip": "Name in the dataset; empty takes that of the image."}] = ""
    is_complete: Annotated[
        bool,
        {"tooltip": "Every cell of the image is annotated. Regions, where there are some, say so better."},
    ] = False

    def __post_init__(self) -> None:
        if not self.split.strip():
            raise SettingsError("split must have a name (train, val or test); got none. Name it.")


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of the session: some frames or slices, whole planes, and the regions in them."""

    session: AnnotationSession
    cells: Cells
    settings: ExportSettings
    span: Span
    regions: tuple[Region, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


def annotation_of(session: AnnotationSession) -> ImageAnnotation:
    """Return what is annotated, as formats hold it: labels, or points where only positions are known."""
    cells, image = session.cells(), session.image
    annotation = ImageAnnotation(
        plain_name(image.name),
        session.labels.shape,
        image.label_axes,
        labels=cells.labels,
        classes=cells.classes,
        class_names=_class_names(session, cells),
        pixel_size_um=tuple(float(size) for size in image.pixel_size_um),
        image=image,
    )
    if session.metadata.has_masks:
        return annotation
    return replace(annotation, labels=None, points=cells.points)


def to_file(session: AnnotationSession, path: Path | str, name: str) -> None:
    """Write the annotation in one of the formats of ``files.formats.registry``.

    Raises
    ------
    SettingsError
        There is no format of this name.
    WriteError
        It cannot be written, or the format cannot hold this annotation.
    """
    run(file_task(session, path, name))


def file_task(session: AnnotationSession, path: Path | str, name: str) -> Task[None]:
    """Do what :func:`to_file` does, step by step; the file itself is written in the last one.

    Raises
    ------
    CellwrightError
        There is no such format, it cannot hold these cells, or the file cannot be written.
    """
    if name not in FORMATS:
        raise SettingsError(
            f"The format must be one of {', '.join(FORMATS)}; got {name!r}. Choose one of them."
        )
    yield Progress(MEASURE, 0, 1, "measuring the cells")
    annotation = annotation_of(session)
    yield Progress(WRITE, 0, 1, "writing the file")
    FORMATS[name].write(path, [annotation])


def to_dataset(
    session: AnnotationSession,
    folder: Path | str,
    settings: ExportSettings | None = None,
    *,
    may_replace: bool = False,
) -> tuple[str, ...]:
    """Add the annotation to a dataset folder, in one step, and return the names it has there.

    A stack with regions that span some of its frames or slices gives one image for each such span, with the
    span in its name; the others are left out. A film of which only positions are known gives its frames.

    Raises
    ------
    AnnotationError
        Only positions are known of a volume.
    WriteError
        A name is there already and ``may_replace`` is false, or something cannot be written.
    ReadError
        There is a meta.json that is damaged.
    """
    return run(dataset_task(session, folder, settings, may_replace=may_replace))


def dataset_task(
    session: AnnotationSession,
    folder: Path | str,
    settings: ExportSettings | None = None,
    *,
    may_replace: bool = False,
) -> Task[tuple[str, ...]]:
    """Do what :func:`to_dataset` does, image by image; one that is closed on the way adds nothing."""
    yield Progress(MEASURE, 0, 1, "measuring the cells")
    pieces = _pieces(session, settings or ExportSettings())
    entries = [_entry(piece) for piece in pieces]
    return (yield from append_all(folder, entries, may_replace=may_replace))


def _pieces(session: AnnotationSession, settings: ExportSettings) -> list[_Piece]:
    lead = session.labels.shape[:-2]
    whole = tuple((0, n) for n in lead)
    spans: dict[Span, list[Region]] = {}
    for box in session.regions:
        span, region = _parted(box)
        spans.setdefault(span, []).append(region)
    spans = spans or {whole: []}
    if not session.metadata.has_masks and lead:
        spans = _by_frame(session.image, spans)
    provenance, cells = _provenance(session), session.cells()
    return [
        _Piece(session, cells, settings, span, tuple(regions), provenance)
        for span, regions in sorted(spans.items())
    ]


def _parted(box: Box) -> tuple[Span, Region]:
    corners = [(int(part.start), int(part.stop)) for part in box]
    (top, bottom), (left, right) = corners[-2:]
    return tuple(corners[:-2]), ((top, left), (bottom, right))


def _by_frame(image: Image, spans: Mapping[Span, list[Region]]) -> dict[Span, list[Region]]:
    """Return the regions of each frame by itself."""
    if "Z" in image.axes:
        raise AnnotationError(
            f"Of the volume {image.name!r} only the positions of cells are known; a dataset wants masks of "
            "volumes. Outline the cells, or export to CSV."
        )
    frames: dict[Span, list[Region]] = {}
    for ((first, stop),), regions in spans.items():
        for index in range(first, stop):
            frames.setdefault(((index, index + 1),), []).extend(regions)
    return frames


def _entry(piece: _Piece) -> Entry:
    session, settings = piece.session, piece.settings
    image, shape = session.image, session.labels.shape
    cut = tuple(slice(first, stop) for first, stop in piece.span)
    is_whole = all(span == (0, n) for span, n in zip(piece.span, shape, strict=False))
    cells = piece.cells
    assert cells.labels is not None
    kept = np.unique(cells.labels[cut])
    kept = kept[kept > 0]
    table = np.zeros(len(cells) + 1, np.int32)
    table[kept] = np.arange(1, len(kept) + 1)
    labels = table[cells.labels[cut]]
    classes = cells.classes
    if classes is not None:
        classes = classes[kept - 1]
    is_frame = not session.metadata.has_masks
    part, name = image, plain_name(settings.name or image.name)
    if not is_whole:
        name += _suffix(image, piece.span)
    if not is_whole or (is_frame and piece.span):
        part = _cut_image(image, piece.span, is_frame=is_frame)
    truth: Any = labels
    if is_frame:
        truth = Annotation((shape[-2], shape[-1]), cells.points[kept - 1][:, -2:], classes=classes)
    return Entry(
        part,
        truth,
        classes,
        _class_names(session, cells),
        name=name,
        split=settings.split,
        group=settings.group,
        regions=piece.regions,
        is_complete=settings.is_complete or bool(piece.regions),
        provenance=piece.provenance,
    )


def _cut_image(image: Image, span: Span, *, is_frame: bool) -> Image:
    """Return some frames and slices of an image; of a single frame without its time axis."""
    spans = dict(zip(image.label_axes[: len(span)], span, strict=True))
    index = []
    for axis in image.axes:
        first, stop = spans.get(axis, (None, None))
        index.append(first if is_frame and axis in spans else slice(first, stop))
    axes = "".join(axis for axis in image.axes if not (is_frame and axis in spans))
    return replace(image, data=image.data[tuple(index)], axes=axes)


def _suffix(image: Image, span: Span) -> str:
    """Return what tells a span from others of its image: _t003 or _z002-007."""
    text = ""
    for axis, (first, stop) in zip(image.label_axes.lower(), span, strict=False):
        text += f"_{axis}{first:03d}"
        if stop > first + 1:
            text += f"-{stop - 1:03d}"
    return text


def _class_names(session: AnnotationSession, cells: Cells) -> tuple[str, ...]:
    """Return a name for each class that cells have, numbered as its key where nobody named it."""
    n = 0
    if cells.classes is not None:
        n = int(cells.classes.max(initial=-1)) + 1
    return session.class_names + tuple(f"class {i + 1}" for i in range(len(session.class_names), n))


def _provenance(session: AnnotationSession) -> dict[str, Any]:
    """Return how the annotation came about."""
    numbers = session.ids().tolist()
    try:
        own_version = version("napari-cellwright")
    except PackageNotFoundError:
        own_version = "unknown"
    return {
        "program": f"napari-cellwright {own_version}",
        "image": session.image.name,
        "edits": session.n_edits,
        "reviewed": sum(session.is_reviewed(number) for number in numbers),
        "cells": len(numbers),
    }
