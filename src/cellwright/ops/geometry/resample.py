"""From an image's pixels to the model's and back: images, maps, labels, cells."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.data import Annotation, Cells
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
    if any(blur):
        maps = ndimage.gaussian_filter(maps, blur, mode="nearest")
    for axis in sorted((1, 2), key=lambda axis: factors[axis - 1]):  # what shrinks more first: less is left
        maps = _interpolated(maps, axis, shape[axis - 1])
    return maps


def _interpolated(maps: NDArray[np.float32], axis: int, length: int) -> NDArray[np.float32]:
    """Return maps (C, Y, X) of another length along an axis: linear between the centres of two pixels."""
    last = maps.shape[axis] - 1
    centres = ((np.arange(length) + 0.5) * (last + 1) / length - 0.5).clip(0, last)
    low = centres.astype(np.intp)
    share = (centres - low).astype(np.float32)
    if axis == 1:
        share = share[:, np.newaxis]
    values: NDArray[np.float32] = maps.take(low, axis)
    step = maps.take(np.minimum(low + 1, last), axis)
    step -= values
    step *= share
    values += step
    return values


def resize_labels(labels: NDArray[Any], shape: Shape) -> NDArray[Any]:
    """Return labels, or a mask, (Y, X) at another size: every pixel takes the label its centre falls on."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp)
        for old, new in zip(labels.shape, shape, strict=True)
    )
    resized: NDArray[Any] = labels[rows[:, np.newaxis], columns]
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
    faint = None if cells.faint is None else resize_labels(cells.faint, shape)
    return replace(kept, boxes=boxes, areas=areas, labels=resized, faint=faint)


def resize_annotation(annotation: Annotation, shape: Shape) -> Annotation:
    """Return an annotation at another size (Y, X); masks so small that no pixel is left are dropped."""
    if annotation.labels is not None:
        resized = resize_labels(annotation.labels, shape)
        left = np.bincount(resized.ravel(), minlength=len(annotation.points) + 1)[1:] > 0
        classes = annotation.classes
        if classes is not None:
            classes = classes[left]
        return replace(annotate(keep(resized, left)), classes=classes, is_complete=annotation.is_complete)
    factors = np.array([new / old for new, old in zip(shape, annotation.shape, strict=True)], np.float32)
    boxes = annotation.boxes
    if boxes is not None:
        boxes = boxes * factors
    return replace(annotation, shape=shape, points=(annotation.points + 0.5) * factors - 0.5, boxes=boxes)
