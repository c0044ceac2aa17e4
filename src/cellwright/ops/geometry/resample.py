"""From an image's pixels to the model's and back: images, maps, labels, cells."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.data import Annotation, Cells, Labels
from cellwright.ops.labels import annotate, keep, measure

Shape = tuple[int, int]


def zoomed(shape: Shape, zoom: float) -> Shape:
    """Return (Y, X) after ``zoom``, in pixels, at least 1 each."""
    height, width = (max(1, round(size * zoom)) for size in shape)
    return height, width


def resize(maps: NDArray[np.float32], shape: Shape) -> NDArray[np.float32]:
    """Return an image or maps (C, Y, X) at another size: bilinear, smoothed first where it shrinks."""
    if maps.shape[-2:] == shape:
        return maps
    factors = [new / old for new, old in zip(shape, maps.shape[-2:], strict=True)]
    blur = [0.0, *(max(0.0, (1 / factor - 1) / 2) for factor in factors)]
    smooth = ndimage.gaussian_filter(maps, blur, mode="nearest") if any(blur) else maps
    resized: NDArray[np.float32] = ndimage.zoom(
        smooth, [1.0, *factors], order=1, mode="nearest", grid_mode=True
    )
    return resized


def resize_labels(labels: Labels, shape: Shape) -> Labels:
    """Return labels (Y, X) at another size: every pixel takes the label its centre falls on."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp)
        for old, new in zip(labels.shape, shape, strict=True)
    )
    resized: Labels = labels[rows[:, np.newaxis], columns]
    return resized


def resize_cells(cells: Cells, old: Shape, shape: Shape) -> Cells:
    """Return cells found in an image of size ``old`` (Y, X) in pixels of the same image at another size.

    Areas and boxes of labels are measured again, points stay where they are in their cell; cells so small
    that no pixel is left of them are dropped.
    """
    factors = np.array([new / n for new, n in zip(shape, old, strict=True)], np.float32)
    points = (cells.points + np.float32(0.5)) * factors - np.float32(0.5)
    if cells.labels is None:
        return replace(cells, points=points, boxes=cells.boxes * factors, areas=cells.areas * factors.prod())
    resized = resize_labels(cells.labels, shape)
    left = np.bincount(resized.ravel(), minlength=len(cells) + 1)[1:] > 0
    resized = keep(resized, left)
    areas, _, boxes = measure(resized)
    kept = replace(cells, points=points, labels=None).take(left)
    return replace(kept, boxes=boxes, areas=areas, labels=resized)


def resize_annotation(annotation: Annotation, shape: Shape) -> Annotation:
    """Return an annotation at another size (Y, X); masks so small that no pixel is left are dropped."""
    if annotation.labels is not None:
        resized = resize_labels(annotation.labels, shape)
        left = np.bincount(resized.ravel(), minlength=len(annotation.points) + 1)[1:] > 0
        classes = None if annotation.classes is None else annotation.classes[left]
        return replace(annotate(keep(resized, left)), classes=classes, is_complete=annotation.is_complete)
    factors = np.array([new / old for new, old in zip(shape, annotation.shape, strict=True)], np.float32)
    boxes = None if annotation.boxes is None else annotation.boxes * factors
    return replace(annotation, shape=shape, points=(annotation.points + 0.5) * factors - 0.5, boxes=boxes)
