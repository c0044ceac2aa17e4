"""Boxes around cells: first and one-past-last corner, or the lowest and highest of some points."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def box_around(points: NDArray[Any]) -> NDArray[Any]:
    """Return the box (2, D) that holds all points (N, D), one at least.

    Examples
    --------
    >>> box_around(np.array([(4, 1), (2, 3), (3, 2)])).tolist()
    [[2, 1], [4, 3]]
    """
    return np.stack([points.min(axis=0), points.max(axis=0)])


def corners_of(boxes: NDArray[Any]) -> NDArray[Any]:
    """Return the corners (..., 4, D) of boxes (..., 2, D), each in its first slice."""
    corners = np.repeat(boxes[..., :1, :], 4, axis=-2)
    corners[..., -2] = boxes[..., (0, 0, 1, 1), -2]
    corners[..., -1] = boxes[..., (0, 1, 1, 0), -1]
    return corners
