from collections.abc import Callable
from typing import Any

import numpy as np

from cellwright.core.data import Annotation, Image, Labels, Result
from cellwright.widgets.train.model import FOUND_COLOUR, GAP_PX, SIDE_PX, TRUE_COLOUR, validation_picture


def is_colour(picture: Any, colour: tuple[int, int, int]) -> Any:
    return (picture == colour).all(axis=2)


def test_truth_is_left_and_what_is_found_right(
    blobs: Any, result_of: Callable[[Image, Labels], Result]
) -> None:
    image = Image(blobs.image, "YX")
    found = np.where(blobs.labels == 1, 1, 0).astype(np.int32)
    picture = validation_picture(image, blobs.labels, result_of(image, found))
    height, width = min(160, SIDE_PX), min(200, SIDE_PX)
    assert picture.shape == (height, 2 * width + GAP_PX, 3)
    left, right = picture[:, :width], picture[:, width + GAP_PX :]
    true, now = is_colour(left, TRUE_COLOUR), is_colour(right, FOUND_COLOUR)
    assert true.sum() > 5 * now.sum() > 0
    assert not is_colour(right, TRUE_COLOUR).any()


def test_points_and_planes_of_a_volume(blobs: Any, result_of: Callable[[Image, Labels], Result]) -> None:
    image = Image(np.stack([blobs.image * 0, blobs.image, blobs.image * 0]), "ZYX")
    labels = np.stack([blobs.labels * 0, blobs.labels, blobs.labels * 0])
    result = result_of(image, labels)
    truth = Annotation((160, 200), blobs.points, None, None, None)
    picture = validation_picture(image, truth, result)
    assert is_colour(picture, TRUE_COLOUR).sum() > 5 * len(blobs)
    assert is_colour(picture, FOUND_COLOUR).any()
