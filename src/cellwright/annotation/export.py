"""From an annotation session to data to train on, and to the files of other programs.

Where regions are declared, nothing is known outside them. Without regions, what is not annotated is taken
for background only when the whole image is said to be complete.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cellwright.annotation.session import AnnotationSession
from cellwright.core.data import Annotation, Cells, Image, package_version
from cellwright.core.errors import AnnotationError, SettingsError
from cellwright.core.tasks import Progress, Task
from cellwright.files.atomic import plain_name
from cellwright.files.dataset.append import Entry, append_all, check_same_image
from cellwright.files.dataset.meta import Region
from cellwright.files.formats.image_annotation import ImageAnnotation
from cellwright.files.formats.registry import format_of
from cellwright.ops.label_changes import Box
from cellwright.ops.labels import relabel

MEASURE, WRITE = "measure", "write"  # stages of an export
Span = tuple[tuple[int, int], ...]  # first and one-past-last index of each axis before Y and X


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """Where an annotated image belongs in a dataset, and what is known of it."""

    split: str = "train"  # what it is for: train, val or test; one that is replaced stays where it is
    group: str = ""  # kind of image, fluo say: kinds are learned in equal parts
    name: str = ""  # in the dataset; empty takes that of the image
    is_complete: bool = False  # whether every cell is annotated; regions, where there are some, say better

    def __post_init__(self) -> None:
        if not self.split.strip():
            raise SettingsError("split must have a name (train, val or test); got none. Name it.")


def annotation_of(session: AnnotationSession) -> ImageAnnotation:
    """Return what is annotated, as formats hold it: labels, or points where only positions are known."""
    cells, image = session.store.to_cells(), session.image
    annotation = ImageAnnotation(
        plain_name(image.name),
        session.labels.shape,
        image.label_axes,
        labels=cells.labels,
        classes=cells.classes,
        class_names=_class_names(session, cells),
        pixel_size_um=tuple(float(size) for size in image.pixel_size_um),
        image=image,
        numbers=session.store.numbers(),
    )
    if session.metadata.has_masks:
        return annotation
    return replace(annotation, labels=None, points=cells.points, numbers=None)


def file_task(session: AnnotationSession, path: Path | str, name: str) -> Task[None]:
    """Write the annotation in one of ``files.formats.registry``; the file itself in the last step.

    SettingsError where there is no format of this name. WriteError where it cannot be written, or the format
    cannot hold this annotation.
    """
    one = format_of(name)
    yield Progress(MEASURE, 0, 1, "measuring the cells")
    annotation = annotation_of(session)
    yield Progress(WRITE, 0, 1, "writing the file")
    one.write(path, [annotation])


def dataset_task(
    session: AnnotationSession,
    folder: Path | str,
    settings: ExportSettings | None = None,
    *,
    may_replace: bool = False,
) -> Task[tuple[str, ...]]:
    """Add the annotation to a dataset folder, image by image, and return the names it has there.

    All become part of it in one step: a task that is closed on the way adds nothing.

    A stack with regions that span some of its frames or slices gives one image for each such span, with the
    span in its name; the others are left out. A film of which only positions are known gives its frames.

    AnnotationError where only positions are known of a volume. WriteError where a name is there already and
    ``may_replace`` is false or it is that of another image, or something cannot be written. ReadError where
    there is a meta.json that is damaged, or an image that is to be replaced.
    """
    yield Progress(MEASURE, 0, 1, "measuring the cells")
    provenance, cells, entries = _provenance(session), session.store.to_cells(), []
    for span, regions in sorted(_spans_of(session).items()):
        entry = _entry(session, cells, span, settings or ExportSettings())
        is_complete = entry.is_complete or bool(regions)
        entries.append(replace(entry, regions=tuple(regions), is_complete=is_complete, provenance=provenance))
        if may_replace:
            check_same_image(folder, entry)
    return (yield from append_all(folder, entries, may_replace=may_replace))


def spans_of(regions: Sequence[Box], lead: tuple[int, ...]) -> dict[Span, list[Region]]:
    """Return the frames and slices that are images of a dataset, each with the regions in its planes.

    Without regions it is all of them, which ``lead`` tells the lengths of.
    """
    spans: dict[Span, list[Region]] = {}
    for box in regions:
        *span, (top, bottom), (left, right) = [(int(part.start), int(part.stop)) for part in box]
        spans.setdefault(tuple(span), []).append(((top, left), (bottom, right)))
    return spans or {tuple((0, n) for n in lead): []}


def _spans_of(session: AnnotationSession) -> dict[Span, list[Region]]:
    lead = session.labels.shape[:-2]
    spans = spans_of(session.metadata.regions, lead)
    if not session.metadata.has_masks and lead:
        spans = _by_frame(session.image, spans)
    return spans


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


def _entry(session: AnnotationSession, cells: Cells, span: Span, settings: ExportSettings) -> Entry:
    """Return some frames and slices of the image with their cells."""
    image, shape = session.image, session.labels.shape
    cut = tuple(slice(first, stop) for first, stop in span)
    is_whole = all(one == (0, n) for one, n in zip(span, shape, strict=False))
    assert cells.labels is not None
    labels = relabel(cells.labels[cut])
    kept = np.unique(cells.labels[cut][labels > 0])
    classes = cells.classes
    if classes is not None:
        classes = classes[kept - 1]
    is_frame = not session.metadata.has_masks
    part, name = image, plain_name(settings.name or image.name)
    if not is_whole:
        name += suffix_of(image, span)
    if not is_whole or (is_frame and span):
        part = cut_image(image, span, is_frame=is_frame)
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
        is_complete=settings.is_complete,
    )


def cut_image(image: Image, span: Span, *, is_frame: bool = False) -> Image:
    """Return some frames and slices of an image; of a single frame without its time axis."""
    spans = dict(zip(image.label_axes[: len(span)], span, strict=True))
    index = []
    for axis in image.axes:
        first, stop = spans.get(axis, (None, None))
        index.append(first if is_frame and axis in spans else slice(first, stop))
    axes = "".join(axis for axis in image.axes if not (is_frame and axis in spans))
    return replace(image, data=image.data[tuple(index)], axes=axes)


def suffix_of(image: Image, span: Span) -> str:
    """Return what tells a span from others of its image: _t003 or _z002-007."""
    text = ""
    for axis, (first, stop) in zip(image.label_axes.lower(), span, strict=False):
        text += f"_{axis}{first:03d}"
        if stop > first + 1:
            text += f"-{stop - 1:03d}"
    return text


def _class_names(session: AnnotationSession, cells: Cells) -> tuple[str, ...]:
    """Return a name for each class that cells have, numbered as its key where nobody named it."""
    n = int(cells.classes.max(initial=-1)) + 1 if cells.classes is not None else 0
    return session.metadata.class_names + tuple(
        f"class {i + 1}" for i in range(len(session.metadata.class_names), n)
    )


def _provenance(session: AnnotationSession) -> dict[str, Any]:
    numbers = session.store.numbers().tolist()
    return {
        "program": f"napari-cellwright {package_version()}",
        "image": session.image.name,
        "edits": len(session.history.done),
        "reviewed": sum(session.store.is_reviewed(number) for number in numbers),
        "cells": len(numbers),
    }
