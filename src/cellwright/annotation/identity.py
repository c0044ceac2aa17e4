"""Images known again, under another name too, by their shape, axes and some of their pixels."""

import hashlib
from dataclasses import dataclass

import numpy as np

from cellwright.core.data import Image
from cellwright.core.errors import AnnotationError
from cellwright.ops.geometry.intensity import sample_steps

FINGERPRINT_PIXELS = 1 << 14


@dataclass(frozen=True, slots=True)
class ImageIdentity:
    """By what an image is known again. Made by :func:`identity_of`; used by the journal."""

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
