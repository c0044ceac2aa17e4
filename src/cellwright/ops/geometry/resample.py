"""From an image's pixels to the model's and back: images, maps, labels, cells.

A window of an image can be resized as a part of the whole: its pixels then lie where those of the whole do.
By itself it would be stretched to a whole number of pixels and begin between two of them, where a network
finds other cells.
"""

from dataclasses import replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.data import Annotation, Cells
from cellwright.ops.geometry.tiles import Window, whole_tile
from cellwright.ops.labels import annotate, keep_labels, label_properties

Shape = tuple[int, int]


class Grid(NamedTuple):
    """A window of an image, and the pixels of the same image at another size that lie in it."""

    whole: Shape  # (Y, X) of the image
    window: Window
    other_whole: Shape  # the same after the change
    other_window: Window

    @classmethod
    def of(cls, old: Shape, shape: Shape) -> Self:
        """Return that of a whole image."""
        return cls(old, whole_tile(old).read, shape, whole_tile(shape).read)

    @classmethod
    def of_window(cls, whole: Shape, window: Window, zoom: float, divisor: int) -> Self:
        """Return that of a window of an image, which begins at a multiple of the divisor after ``zoom``."""
        other_whole, spans = zoomed(whole, zoom), []
        for span, old, new in zip(window, whole, other_whole, strict=True):
            first = -(-(span.start * new) // (old * divisor)) * divisor
            spans.append(slice(first, span.stop * new // old))
        return cls(whole, window, other_whole, tuple(spans))

    @property
    def back(self) -> Self:
        """The way back."""
        return self._replace(
            whole=self.other_whole, window=self.other_window, other_whole=self.whole, other_window=self.window
        )

    @property
    def shape(self) -> Shape:
        """(Y, X) of the window after the change."""
        rows, columns = self.other_window
        return rows.stop - rows.start, columns.stop - columns.start

    @property
    def factors(self) -> tuple[float, float]:
        """Pixels after the change for each before it, along Y and X."""
        (rows, columns), (new_rows, new_columns) = self.whole, self.other_whole
        return new_rows / rows, new_columns / columns

    def places(self, axis: int) -> NDArray[np.float64]:
        """Return where the middles (n,) of the pixels after the change lie in the window before it."""
        span = self.other_window[axis]
        middles = (np.arange(span.start, span.stop) + 0.5) * self.whole[axis] / self.other_whole[axis]
        return np.asarray(middles - self.window[axis].start)

    def edges(self, axis: int) -> NDArray[np.float64]:
        """Return where the pixels after the change begin and end (n + 1,), likewise; none lies beyond it."""
        span, length = self.other_window[axis], self.window[axis].stop - self.window[axis].start
        edges = np.linspace(0, self.whole[axis], self.other_whole[axis] + 1)[span.start : span.stop + 1]
        return np.asarray((edges - self.window[axis].start).clip(0, length))

    @property
    def shift(self) -> NDArray[np.float32]:
        """What is added to (y, x), once they are multiplied by the factors."""
        starts = zip(self.window, self.other_window, self.factors, strict=True)
        return np.array([old.start * factor - new.start for old, new, factor in starts], np.float32)


def zoomed(shape: Shape, zoom: float) -> Shape:
    """Return (Y, X) after ``zoom``, in pixels, at least 1 each."""
    height, width = (max(1, round(size * zoom)) for size in shape)
    return height, width


def resize(maps: NDArray[np.float32], shape: Shape) -> NDArray[np.float32]:
    """Return an image or maps (C, Y, X) at another size: bilinear, smoothed first where it shrinks."""
    return resize_window(maps, Grid.of((maps.shape[-2], maps.shape[-1]), shape))


def resize_window(maps: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """Return the window of an image, or of maps, (C, Y, X) at another size, likewise."""
    if grid == grid.back:
        return maps
    factors = grid.factors
    blur = [0.0, *(max(0.0, (1 / factor - 1) / 2) for factor in factors)]
    if any(blur):
        maps = ndimage.gaussian_filter(maps, blur, mode="nearest")
    for axis in sorted((1, 2), key=lambda axis: factors[axis - 1]):  # what shrinks more first: less is left
        maps = _interpolated(maps, axis, grid.places(axis - 1))
    return maps


def _interpolated(maps: NDArray[np.float32], axis: int, places: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return maps (C, Y, X) at other places along an axis: linear between the centres of two pixels."""
    last = maps.shape[axis] - 1
    centres = (places - 0.5).clip(0, last)
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


def resize_labels(labels: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """Return labels, or a mask, (Y, X) at another size: every pixel takes the label its centre falls on.

    Beyond the window there is none.
    """
    rows, columns = (np.floor(grid.places(axis)).astype(np.intp) for axis in (0, 1))
    resized: NDArray[Any] = labels.take(rows, 0, mode="clip").take(columns, 1, mode="clip")
    for axis, places in enumerate((rows, columns)):
        is_beyond = (places < 0) | (places >= labels.shape[axis])
        if is_beyond.any():
            resized[(slice(None),) * axis + (is_beyond,)] = 0
    return resized


def resize_cells(cells: Cells, grid: Grid) -> Cells:
    """Return cells found in a window of an image in pixels of the same image at another size.

    Labels are measured again, as whoever looks at them later does; cells so small that no pixel is left of
    them are dropped.
    """
    factors, shift = np.array(grid.factors, np.float32), grid.shift
    if cells.labels is None:
        points = (cells.points + np.float32(0.5)) * factors - np.float32(0.5) + shift
        boxes = cells.boxes * factors + shift
        return replace(cells, points=points, boxes=boxes, areas=cells.areas * factors.prod())
    resized = resize_labels(cells.labels, grid)
    left = np.bincount(resized.ravel(), minlength=len(cells) + 1)[1:] > 0
    resized = keep_labels(resized, left)
    areas, points, boxes = label_properties(resized)
    kept = replace(cells, labels=None).take(left)
    faint = None if cells.faint is None else resize_labels(cells.faint, grid)
    return replace(kept, points=points, boxes=boxes, areas=areas, labels=resized, faint=faint)


def resize_annotation(annotation: Annotation, shape: Shape) -> Annotation:
    """Return an annotation at another size (Y, X); masks so small that no pixel is left are dropped."""
    if annotation.labels is not None:
        resized = resize_labels(annotation.labels, Grid.of(annotation.shape, shape))
        left = np.bincount(resized.ravel(), minlength=len(annotation.points) + 1)[1:] > 0
        classes = annotation.classes
        if classes is not None:
            classes = classes[left]
        return replace(
            annotate(keep_labels(resized, left)), classes=classes, is_complete=annotation.is_complete
        )
    factors = np.array([new / old for new, old in zip(shape, annotation.shape, strict=True)], np.float32)
    boxes = annotation.boxes
    if boxes is not None:
        boxes = boxes * factors
    return replace(annotation, shape=shape, points=(annotation.points + 0.5) * factors - 0.5, boxes=boxes)
