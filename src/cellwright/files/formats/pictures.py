"""Images as the pictures of 8 bits that other programs take."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Image


def as_bytes(image: Image) -> list[NDArray[np.uint8]]:
    """Return each plane (Y, X) or (Y, X, 3) with 8 bits, stretched over the whole image where it has more.

    Of channels other than red, green and blue the first is taken.
    """
    pixels: NDArray[Any] = np.asarray(image.data)
    if "C" in image.axes:
        pixels = np.moveaxis(pixels, image.axes.index("C"), -1)
        pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0]
    n_plane = 2 + (pixels.ndim > len(image.axes.replace("C", "")))
    if pixels.dtype != np.uint8:
        values = np.nan_to_num(pixels.astype(np.float64))
        low, high = float(values.min()), float(values.max())
        pixels = np.rint((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
    return list(pixels.reshape(-1, *pixels.shape[pixels.ndim - n_plane :]))
