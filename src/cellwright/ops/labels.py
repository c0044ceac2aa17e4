"""Instance images: measure, renumber and clean them, in one pass over the pixels, not one per cell."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.data import Annotation, Labels

LEAST_LABELS, LEAST_AREA = 3, 16  # of what is believed to be labels; mean pixels of each
LEAST_BACKGROUND, MOST_PIECES = 0.02, 1.1  # share of pixels that are 0, and pieces of one label
SCATTERED = 2  # pieces of a number from which on it may well stand for several cells
MOST_EXACT = 2.0**53  # from here on floating-point numbers leave whole ones out
PIXELS_AT_ONCE = 1 << 20  # little memory, and other threads get a turn: numpy keeps the interpreter's lock


class Measures(NamedTuple):
    """One row for each of the labels 1..N; lengths in pixels."""

    areas: NDArray[np.float32]  # (N,)
    points: NDArray[np.float32]  # (N, D) centroids
    boxes: NDArray[np.float32]  # (N, 2, D) first corner, one past the last corner


def label_properties(labels: Labels) -> Measures:
    """Return area, centroid and bounding box of each label 1..N, in pixels.

    ``labels`` are int (Y, X) or (Z, Y, X), 0 is background; labels that do not occur get area 0 and
    not-a-number centroids.
    """
    pixels, n = labels.reshape(-1), int(labels.max(initial=0))
    areas = np.zeros(n + 1, np.int64)
    sums = np.zeros((labels.ndim, n + 1))
    first, last = np.full((labels.ndim, n + 1), labels.size), np.full((labels.ndim, n + 1), -1)
    step = max(PIXELS_AT_ONCE, 4 * n)
    for start in range(0, len(pixels), step):
        flat = np.flatnonzero(pixels[start : start + step])
        ids = pixels[start : start + step][flat].astype(np.intp)
        areas += np.bincount(ids, minlength=n + 1)
        for axis, places in enumerate(np.unravel_index(flat + start, labels.shape)):
            sums[axis] += np.bincount(ids, weights=places, minlength=n + 1)
            np.minimum.at(first[axis], ids, places)
            np.maximum.at(last[axis], ids, places)
    first[:, areas == 0], last[:, areas == 0] = 0, -1
    with np.errstate(invalid="ignore"):
        points = (sums[:, 1:] / areas[1:]).T.astype(np.float32)
    boxes = np.stack([first[:, 1:].T, last[:, 1:].T + 1], axis=1).astype(np.float32)
    return Measures(areas[1:].astype(np.float32), points, boxes)


def annotate(labels: Labels) -> Annotation:
    """Return labels (Y, X) numbered 1..N as a complete annotation."""
    _, points, boxes = label_properties(labels)
    return Annotation(labels.shape[:2], points, boxes, labels)


def equivalent_diameters(areas: NDArray[np.floating], ndim: int = 2) -> NDArray[np.float32]:
    """Return the diameter of the disc (or ball, ``ndim=3``) of the same area, in pixels."""
    radius = np.sqrt(areas / np.pi) if ndim == 2 else np.cbrt(areas * 3 / (4 * np.pi))
    return (2 * radius).astype(np.float32)


def keep_labels(labels: Labels, wanted: NDArray[np.bool_]) -> Labels:
    """Return labels renumbered 1..N in their old order, without those where ``wanted`` is false.

    ``wanted`` has one entry for each of the labels 1..N.
    """
    table = np.zeros(len(wanted) + 1, np.int32)
    table[1:][wanted] = np.arange(1, int(wanted.sum()) + 1, dtype=np.int32)
    return table[labels]


def relabel(labels: NDArray[np.integer]) -> Labels:
    """Return labels renumbered 1..N without gaps, in their old order; 0 is background."""
    return numbered(labels)[1]


def in_whole_numbers(labels: NDArray[Any]) -> NDArray[Any]:
    """Return floating-point numbers as int64 where all are whole, as Fiji and scripts save labels."""
    if labels.dtype.kind != "f":
        return labels
    exact = labels.astype(np.float64)
    if (np.rint(exact) == exact).all() and np.abs(exact).max(initial=0) < MOST_EXACT:
        return exact.astype(np.int64)
    return labels


def numbered(labels: NDArray[np.integer]) -> tuple[NDArray[np.integer], Labels]:
    """Return the numbers above 0 that occur, (N,) in order, and the labels renumbered 1..N in that order.

    Only the first pixel of each run of equal ones is looked up: sorting all of them takes a minute of a large
    image.
    """
    pixels = labels.reshape(-1)
    pieces = [pixels[start : start + PIXELS_AT_ONCE] for start in range(0, len(pixels), PIXELS_AT_ONCE)]
    runs = [_run_starts(piece) for piece in pieces]
    firsts = [piece[starts] for piece, starts in zip(pieces, runs, strict=True)]
    numbers = np.unique(np.concatenate([pixels[:0], *firsts]))
    numbers = numbers[numbers > 0]
    renumbered = np.zeros(len(pixels), np.int32)
    for at, (piece, starts, values) in enumerate(zip(pieces, runs, firsts, strict=True)):
        places = np.searchsorted(numbers, values, side="right").astype(np.int32)
        start = at * PIXELS_AT_ONCE
        renumbered[start : start + len(piece)] = np.repeat(places, np.diff(starts, append=len(piece)))
    return numbers, renumbered.reshape(labels.shape)


def _run_starts(pixels: NDArray[np.integer]) -> NDArray[np.intp]:
    """Return where each run of equal pixels (N,) begins."""
    is_first = np.ones(len(pixels), bool)
    is_first[1:] = pixels[1:] != pixels[:-1]
    return np.flatnonzero(is_first)


def each_frame(labels: NDArray[np.integer], axes: str) -> NDArray[np.integer]:
    """Return labels as (frames, Y, X), or (frames, Z, Y, X) where ``axes`` end so; one frame without time."""
    ndim = 3 if axes.endswith("ZYX") else 2
    return labels.reshape(-1, *labels.shape[-ndim:])


def relabel_frames(labels: NDArray[np.integer], axes: str) -> Labels:
    """Return labels renumbered 1..N without gaps, frame by frame, so that no two frames share a number.

    Cells that were tracked keep theirs over time: such a number is a cell in each of its frames.
    """
    renumbered = np.zeros(labels.shape, np.int32)
    n = 0
    for frame, into in zip(each_frame(labels, axes), each_frame(renumbered, axes), strict=True):
        cells = relabel(frame)
        into[...] = cells + np.int32(n) * (cells > 0)
        n += int(cells.max(initial=0))
    return renumbered


def as_int32(labels: NDArray[np.integer]) -> Labels:
    """Return labels as int32, renumbered 1..N where a number is too large for that."""
    if labels.max(initial=0) > np.iinfo(np.int32).max:
        return relabel(labels)
    return labels.astype(np.int32, copy=False)


def seem_labels(pixels: NDArray[Any]) -> bool:
    """Return whether the pixels (Y, X) of a plane are plainly labels: a patch of one number for each of them.

    Numbers of 8 bits are never taken for labels. In an image of light equal values lie scattered.
    """
    if pixels.dtype.kind not in "iu" or pixels.dtype.itemsize == 1 or pixels.min(initial=0) < 0:
        return False
    background = pixels == 0
    n_pixels = pixels.size - int(background.sum())
    if pixels.size - n_pixels < LEAST_BACKGROUND * pixels.size:
        return False
    is_same = (pixels[:, 1:] == pixels[:, :-1]) & ~background[:, 1:]
    if 2 * is_same.sum() < n_pixels:  # quick, and all that most images need
        return False
    numbers = relabel(pixels)
    n = int(numbers.max(initial=0))
    if n < LEAST_LABELS or n_pixels < LEAST_AREA * n:
        return False
    from skimage.measure import label  # slow to import

    pieces = label(numbers, background=0, connectivity=1)
    return bool(pieces.max() <= MOST_PIECES * n)


def pieces_notice(labels: Labels, name: str) -> str:
    """Return a sentence where one number stands for many pieces, as in a mask or in light; '' where not.

    ``labels`` are int (..., Y, X), looked at plane by plane.
    """
    return pieces_line(*pieces_of(labels), name)


def pieces_of(labels: Labels) -> tuple[int, int]:
    """Return how many numbers, and pieces that do not touch, the planes of labels (..., Y, X) hold."""
    from skimage.measure import label  # slow to import

    n = n_pieces = 0
    for index in np.ndindex(labels.shape[:-2]):
        n += len(numbered(labels[index])[0])
        n_pieces += int(label(labels[index], background=0, connectivity=2).max())
    return n, n_pieces


def pieces_line(n: int, n_pieces: int, name: str) -> str:
    """Return the sentence of :func:`pieces_notice` of so many numbers and pieces."""
    if n_pieces < SCATTERED * max(n, 1):
        return ""
    return (
        f"The numbers of {name} lie in {n_pieces:,} pieces that do not touch, {n_pieces / n:.1f} for each, "
        "as in a mask or a microscope image; each number is taken as one cell. Number the cells one by one."
    )


def n_touching(labels: Labels, place: NDArray[np.bool_]) -> int:
    """Return how many labels (Y, X) lie in a place (Y, X) or beside it."""
    return len(numbered(labels[ndimage.binary_dilation(place)])[0])


def touches_border(boxes: NDArray[np.floating], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which boxes (N, 2, D) reach the edge of an image of this shape."""
    first, end = boxes[:, 0], boxes[:, 1]
    return np.any((first <= 0) | (end >= np.asarray(shape)), axis=1)
