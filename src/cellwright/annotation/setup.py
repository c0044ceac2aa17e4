"""What a session begins with, checked: the image, known again under another name too, and what fits it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike as NumpyLike
from numpy.typing import NDArray

from cellwright.core.data import Image, Labels
from cellwright.core.errors import AnnotationError
from cellwright.ops import label_editing
from cellwright.ops.geometry.intensity import sample_steps
from cellwright.ops.label_changes import Box

FINGERPRINT_PIXELS = 1 << 14
MOST_NUMBER = 2**31 - 2  # of a cell: 32 bits hold the next one, too


class Columns(NamedTuple):
    """What is known of cells besides their position: entry ``i`` is cell ``i + 1``, None is nothing."""

    scores: NumpyLike | None = None
    classes: NumpyLike | None = None
    class_names: tuple[str, ...] = ()


UNKNOWN = Columns()


def plane_shape(image: Image) -> tuple[int, ...]:
    """Return the shape of the labels of an image; AnnotationError unless its axes are (T, ...) Y, X."""
    axes = image.label_axes
    if not axes.endswith("YX") or axes.find("T") > 0:
        raise AnnotationError(
            "Images to annotate must have axes that, channels aside, end with YX and begin with T where "
            f"there is time; got {image.axes!r} for shape {image.shape}. Move the axes."
        )
    return tuple(int(n) for n in image.label_shape)


def checked_labels(image: Image, labels: NDArray[np.integer[Any]] | None) -> Labels:
    """Return labels that fit the image, the array itself where it is int32; AnnotationError for others."""
    shape = plane_shape(image)
    if labels is None:
        return np.zeros(shape, np.int32)
    found = np.asarray(labels)
    if found.shape != shape or found.dtype.kind not in "iub":
        raise AnnotationError(
            f"Labels must be whole numbers in the image's shape {shape}; got {found.dtype} in "
            f"{found.shape}. Choose the labels of this image."
        )
    if found.size and (found.min() < 0 or found.max() > MOST_NUMBER):
        raise AnnotationError(
            f"Labels must lie between 0 and {MOST_NUMBER}; got {found.min()} to {found.max()}. Number the "
            "cells from 1 on."
        )
    if found.dtype == np.int32 and found.flags.writeable:
        return found
    return found.astype(np.int32)


def paste_labels(whole: Labels, labels: Labels, offset: Sequence[int]) -> None:
    """Write the labels of a part of the image where they belong; AnnotationError where it is not in it."""
    window = tuple(slice(int(a), int(a) + n) for a, n in zip(offset, labels.shape, strict=True))
    if labels.ndim != whole.ndim or whole[window].shape != labels.shape:
        raise AnnotationError(
            f"A result must lie inside the image of {whole.shape} pixels; got {labels.shape} at "
            f"{tuple(offset)}. Choose the image that was counted."
        )
    whole[window] = labels


def draw_discs(
    labels: Labels,
    points: NDArray[np.float64],
    diameter_px: float,
    spatial_ndim: int,
    sampling: Sequence[float] | None,
) -> None:
    """Draw a disc around each point (N, D) into empty labels: row ``i`` is cell ``i + 1``.

    AnnotationError where a point lies outside the image, or two lie in one pixel.
    """
    shape = np.array(labels.shape)
    if not np.isfinite(points).all() or np.any(points < -0.5) or np.any(points > shape - 0.5):
        raise AnnotationError(
            f"Points must lie inside the image of {labels.shape} pixels; some do not. Remove them, or choose "
            "the image they belong to."
        )
    lead = labels.ndim - spatial_ndim
    nearest = np.clip(np.rint(points).astype(int), 0, shape - 1)
    for number, pixel in enumerate(nearest, start=1):
        if labels[tuple(pixel)]:
            raise AnnotationError(f"Points must be in different pixels; two are at {pixel.tolist()}.")
        labels[tuple(pixel)] = number
    for number, (point, pixel) in enumerate(zip(points, nearest, strict=True), start=1):
        frame = labels[tuple(pixel[:lead])]
        try:
            change = label_editing.draw_disc(frame, point[lead:], diameter_px, sampling=sampling, new=number)
        except AnnotationError:
            continue  # no background around its own pixel
        if change is not None:
            change.apply(frame)


def checked_box(box: Box, shape: tuple[int, ...]) -> Box:
    """Return a box cut to the array, with a start and a stop for each axis; AnnotationError beyond it."""
    if len(box) != len(shape):
        raise AnnotationError(
            f"A box must have {len(shape)} sides, one for each axis of the labels; got {len(box)}."
        )
    parts = []
    for part, length in zip(box, shape, strict=True):
        start, stop, _ = part.indices(length)
        if start >= stop:
            raise AnnotationError(
                f"A box must hold part of the image of {shape} pixels; got {box}. Draw it inside the image."
            )
        parts.append(slice(start, stop))
    return tuple(parts)


@dataclass(frozen=True, slots=True)
class ImageIdentity:
    """By what an image is known again."""

    name: str
    shape: tuple[int, ...]
    axes: str
    pixel_size_um: tuple[float, ...]
    fingerprint: str  # of some of its pixels


def identity_of(image: Image) -> ImageIdentity:
    """Return by what an image is known again: name, shape, axes, pixel size and some of its pixels."""
    steps = sample_steps(image.shape, FINGERPRINT_PIXELS)
    sample = np.ascontiguousarray(image.data[tuple(slice(None, None, step) for step in steps)])
    digest = hashlib.sha256(str(sample.dtype).encode() + sample.tobytes()).hexdigest()[:16]
    sizes = tuple(float(size) for size in image.pixel_size_um)
    return ImageIdentity(image.name, tuple(map(int, image.shape)), image.axes, sizes, digest)


def check_same(image: Image, known: ImageIdentity) -> None:
    """Raise AnnotationError where an image is not the one that is known."""
    found = identity_of(image)
    if (found.shape, found.axes, found.fingerprint) != (known.shape, known.axes, known.fingerprint):
        raise AnnotationError(
            f"The journal belongs to image {known.name!r} of axes {known.axes!r} and shape {known.shape}; "
            f"got {found.name!r}, {found.axes!r}, {found.shape}, or other pixels. Choose that image."
        )
