"""Small annotated images for every format: touching cells, holes, parts, a stack, a time series."""

from dataclasses import replace

import numpy as np
import pytest

from cellwright.core.data import Image
from cellwright.files.formats.image_annotation import ImageAnnotation
from cellwright.ops.labels import label_properties, relabel


def draw_plane(seed=0, shape=(37, 46)):
    """Cells that touch, one with a hole, one of two parts that meet in a corner, one of a single pixel."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    for number in range(3, 9):
        y, x = rng.integers(0, shape[0] - 8), rng.integers(0, shape[1] - 8)
        rows, columns = np.ogrid[: shape[0], : shape[1]]
        labels[(rows - y) ** 2 + (columns - x) ** 2 <= rng.uniform(3, 7) ** 2] = number
    labels[2:10, 30:40] = 1
    labels[4:6, 33:36] = 0
    labels[7, 38] = 9
    labels[20:24, 3:8], labels[24:27, 8:12] = 2, 2
    return relabel(labels)


def draw(axes="YX", seed=0):
    """Return marks with classes, pixel size and image."""
    planes = [draw_plane(seed + i) for i in range(3)]
    shape = {"YX": (), "ZYX": (3,), "TYX": (3,), "TZYX": (2, 3)}[axes] + planes[0].shape
    labels = np.zeros(shape, np.int32)
    for place, index in enumerate(np.ndindex(shape[:-2])):
        labels[index] = planes[place % 3]
    labels = relabel(labels)
    rng = np.random.default_rng(seed)
    sizes = {"YX": (0.5, 0.25), "TYX": (0.5, 0.25)}.get(axes, (2.0, 0.5, 0.25))
    image = Image(rng.integers(0, 255, shape).astype(np.uint8), axes, sizes, "drawn")
    classes = rng.integers(-1, 2, int(labels.max())).astype(np.int16)
    return ImageAnnotation("drawn", shape, axes, labels, None, None, classes, ("red", "blue"), sizes, image)


@pytest.fixture
def draw_marks():
    return draw


def of_kind(marks, kind):
    """Return marks of which only boxes or points are known."""
    _, points, boxes = label_properties(marks.labels)
    if kind == "boxes":
        return replace(marks, labels=None, boxes=boxes)
    return replace(marks, labels=None, points=points)


@pytest.fixture
def draw_kind():
    return lambda kind, axes="YX", seed=0: (
        draw(axes, seed) if kind == "labels" else of_kind(draw(axes, seed), kind)
    )
