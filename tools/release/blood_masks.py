"""Outlines of blood cells of which only boxes or middles are known: rough, but enough to learn from."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from cellwright.core.data import Annotation
from cellwright.ops.labels import annotate, relabel

CLOSE_PX = 3  # of what may be a cell: no background for certain
USUAL = (0.5, 1.7)  # areas, in those of the median cell, that a cell around a point may have


def from_boxes(annotation: Annotation) -> Annotation:
    """Return the annotation with an ellipse in each box; smaller boxes lie on top of larger ones."""
    assert annotation.boxes is not None
    labels = np.zeros(annotation.shape, np.int32)
    sizes = annotation.boxes[:, 1] - annotation.boxes[:, 0]
    y, x = np.indices(annotation.shape) + 0.5
    for row in np.argsort(-sizes.prod(axis=1)):
        middle = annotation.boxes[row].mean(axis=0)
        half = np.maximum(sizes[row] / 2, 1)
        labels[((y - middle[0]) / half[0]) ** 2 + ((x - middle[1]) / half[1]) ** 2 <= 1] = row + 1
    return replace(annotate(relabel(labels)), is_complete=False)


def from_points(annotation: Annotation, image: NDArray[np.uint8]) -> Annotation:
    """Return masks of the stained pixels (of an RGB image (3, Y, X)) that belong to each middle.

    What holds several middles is divided at its waists; cells of unusual size are left out.
    """
    stained = is_stained(image)
    seeds = np.zeros(annotation.shape, np.int32)
    rows, columns = annotation.points.round().astype(int).T
    seeds[rows.clip(0, seeds.shape[0] - 1), columns.clip(0, seeds.shape[1] - 1)] = np.arange(1, len(rows) + 1)
    filled = ndimage.binary_fill_holes(stained)
    depth = ndimage.distance_transform_edt(filled)
    labels = watershed(-depth, seeds, mask=filled)  # type: ignore[no-untyped-call]
    areas = np.bincount(labels.ravel(), minlength=len(rows) + 1)[1:]
    median = np.median(areas[areas > 0]) if (areas > 0).any() else 0
    unusual = np.flatnonzero((areas < USUAL[0] * median) | (areas > USUAL[1] * median)) + 1
    labels[np.isin(labels, unusual)] = 0
    return replace(annotate(relabel(labels)), is_complete=False)


def is_stained(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where an RGB image (3, Y, X) is darker in green than its background."""
    green = ndimage.gaussian_filter(image[1].astype(np.float32), 1.0)
    return np.asarray(green < threshold_otsu(green))  # type: ignore[no-untyped-call]


def is_ground(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where an RGB image (3, Y, X) surely shows its background.

    Pale cells, of which many lie in no box, are lighter than Otsu's threshold: what is darker than halfway
    from there to the usual background may be one, and so may what it encloses.
    """
    green = ndimage.gaussian_filter(image[1].astype(np.float32), 1.0)
    dark = threshold_otsu(green)  # type: ignore[no-untyped-call]
    usual = np.bincount(green[green > dark].astype(int)).argmax()
    cells = ndimage.binary_fill_holes(green < (dark + usual) / 2)
    return ~ndimage.binary_dilation(cells, iterations=CLOSE_PX)
