"""Outlines in files, checked, as pixels; what COCO, LabelMe, YOLO, ImageJ and QuPath have in common."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Labels
from cellwright.files.formats.image_annotation import MARGIN_PX, ImageAnnotation, numbered
from cellwright.files.formats.json_value import JsonValue
from cellwright.files.formats.outlines import Ring, crosses_itself, filled
from cellwright.files.formats.painting import Part, painted

MOST_CORNERS = 20_000


def ring_of(node: JsonValue, shape: tuple[int, int]) -> Ring:
    """Return a list of (x, y) as a ring.

    Raises
    ------
    ReadError
        It has less than three corners, leaves the image or crosses itself.
    """
    return checked_ring(node, node.pairs(shape, MARGIN_PX))


def checked_ring(node: JsonValue, ring: Ring) -> Ring:
    """Return a ring (N, 2) that is one, without the repeated first corner at its end."""
    if len(ring) > 1 and (ring[0] == ring[-1]).all():
        ring = ring[:-1]
    if not 3 <= len(ring) <= MOST_CORNERS:
        raise node.refuse(f"an outline of 3 to {MOST_CORNERS} corners")
    if crosses_itself(ring):
        raise node.refuse("an outline that does not cross itself")
    return ring


def box_part(box: NDArray[np.floating]) -> Part:
    """Return the pixels of a box (2, 2) of corners y, x."""
    (y0, x0), (y1, x1) = box.tolist()
    return filled([np.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]])])


def spread(marks: ImageAnnotation, cells: Sequence[Sequence[Part]], names: Sequence[str]) -> ImageAnnotation:
    """Return marks with the labels and classes of cells, each made of parts in the axes of the marks."""
    labels, left, notices = painted(cells, marks.shape)
    return with_classes(marks, [names[row] for row in left], labels=labels, notices=notices)


def with_classes(
    marks: ImageAnnotation,
    names: Sequence[str],
    *,
    labels: Labels | None = None,
    boxes: NDArray[np.float32] | None = None,
    points: NDArray[np.float32] | None = None,
    notices: tuple[str, ...] = (),
) -> ImageAnnotation:
    """Return marks with these cells, of which each has a class by name."""
    classes, class_names = numbered(names, marks.class_names)
    if classes is not None and not (classes >= 0).any() and not marks.class_names:
        classes = None
    return replace(
        marks,
        labels=labels,
        boxes=boxes,
        points=points,
        classes=classes,
        class_names=class_names,
        notices=(*marks.notices, *notices),
    )
