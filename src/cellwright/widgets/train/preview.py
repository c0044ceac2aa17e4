"""A small picture of a validation image: on the left the truth, on the right what the model finds now."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries

from cellwright.core.data import Annotation, Image, Labels, Result

SIDE_PX = 192  # of the part that is shown
GAP_PX = 4
WIDE = 1.6  # times wider than high
TRUE_COLOUR = (255, 196, 61)
FOUND_COLOUR = (63, 208, 201)
DOT_PX = 2


def draw(image: Image, truth: Annotation | Labels, result: Result) -> NDArray[np.uint8]:
    """Return (height, 2 width + gap, 3): part of an image with its true and with its found cells.

    Of wide parts the two are above each other. Of volumes and movies the middle slice is shown.
    """
    grey = _grey(image)
    known = (truth.labels, truth.points) if isinstance(truth, Annotation) else (_middle(truth), None)
    window = _window(grey.shape, *known)
    cells = result.cells
    found = (None if cells.labels is None else _middle(cells.labels), cells.points)
    sides = [
        _marked(grey[window], labels, points, window, colour)
        for (labels, points), colour in ((known, TRUE_COLOUR), (found, FOUND_COLOUR))
    ]
    height, width, _ = sides[0].shape
    axis = 0 if width > WIDE * height else 1
    gap = np.zeros((GAP_PX, width, 3) if axis == 0 else (height, GAP_PX, 3), np.uint8)
    return np.concatenate([sides[0], gap, sides[1]], axis=axis)


def _window(
    shape: tuple[int, ...], labels: NDArray[Any] | None, points: NDArray[np.float32] | None
) -> tuple[slice, slice]:
    """Return the part that is shown, around the middle of the true cells."""
    places = np.argwhere(labels) if labels is not None else points
    if places is None or not len(places):
        places = np.array([[n / 2 for n in shape]])
    middle = np.median(places, axis=0)
    starts = [
        int(np.clip(at - SIDE_PX / 2, 0, max(n - SIDE_PX, 0))) for at, n in zip(middle, shape, strict=True)
    ]
    return slice(starts[0], starts[0] + SIDE_PX), slice(starts[1], starts[1] + SIDE_PX)


def _grey(image: Image) -> NDArray[np.float32]:
    """Return the middle plane as (Y, X) between 0 and 1, the mean of its channels."""
    data, axes = np.asarray(image.data), image.axes
    for axis in "TZ":
        if axis in axes:
            place = axes.index(axis)
            data, axes = data.take(data.shape[place] // 2, axis=place), axes.replace(axis, "")
    if "C" in axes:
        data = data.mean(axis=axes.index("C"))
    low, high = np.percentile(data, (1, 99.7))
    grey: NDArray[np.float32] = np.clip((data - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
    return grey


def _middle(labels: NDArray[Any]) -> NDArray[Any]:
    while labels.ndim > 2:
        labels = labels[labels.shape[0] // 2]
    return labels


def _marked(
    grey: NDArray[np.float32],
    labels: NDArray[Any] | None,
    points: NDArray[np.float32] | None,
    window: tuple[slice, slice],
    colour: tuple[int, int, int],
) -> NDArray[np.uint8]:
    drawn = np.repeat((grey[..., np.newaxis] * 255).astype(np.uint8), 3, axis=2)
    if labels is not None:
        edges = find_boundaries(labels[window], mode="inner")  # type: ignore[no-untyped-call]
        drawn[edges[: drawn.shape[0], : drawn.shape[1]]] = colour
    elif points is not None:
        for y, x in points[:, -2:] - (window[0].start, window[1].start):
            row, column = round(float(y)), round(float(x))
            rows = slice(max(0, row - DOT_PX), max(0, row + DOT_PX + 1))
            drawn[rows, max(0, column - DOT_PX) : max(0, column + DOT_PX + 1)] = colour
    return drawn
