"""What of an image can be judged: where its annotation is complete in regions only, what lies inside them."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Annotation, Cells, Labels, Result
from cellwright.files.dataset.folder import Item
from cellwright.ops.labels import keep, measure
from cellwright.training.data.split import is_inside


def judged(item: Item, result: Result, truth: Annotation | Labels) -> tuple[Result, Annotation | Labels]:
    """Return what was found and what is true inside of an item's regions; all of it where it has none.

    A cell lies where its middle does, and is judged as a whole; a density lies in each pixel. How far the
    density of a part may be off is not known, so that it has no interval.
    """
    regions = item.regions
    if not regions:
        return result, truth
    if isinstance(truth, Annotation):
        true: Annotation | Labels = _annotation_inside(truth, is_inside(truth.points, regions))
    else:
        true = keep(truth, is_inside(measure(truth).points[:, -2:], regions))
    cells = _cells_inside(result.cells, is_inside(result.cells.points[:, -2:], regions))
    density = result.maps.get("density")
    if density is None:
        return replace(result, cells=cells, count=float(len(cells))), true
    density = np.where(_mask(item, density.shape), density, np.float32(0))
    count = float(density.sum(dtype=np.float64))
    return replace(result, cells=cells, count=count, maps={"density": density}, interval=None), true


def _cells_inside(cells: Cells, inside: NDArray[np.bool_]) -> Cells:
    labels = None if cells.labels is None else keep(cells.labels, inside)
    classes = None if cells.classes is None else cells.classes[inside]
    return Cells(
        cells.points[inside], cells.boxes[inside], cells.scores[inside], cells.areas[inside], labels, classes
    )


def _annotation_inside(truth: Annotation, inside: NDArray[np.bool_]) -> Annotation:
    return replace(
        truth,
        points=truth.points[inside],
        boxes=None if truth.boxes is None else truth.boxes[inside],
        labels=None if truth.labels is None else keep(truth.labels, inside),
        classes=None if truth.classes is None else truth.classes[inside],
    )


def _mask(item: Item, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(shape[-2:], np.bool_)
    for (top, left), (bottom, right) in item.regions:
        mask[top:bottom, left:right] = True
    return mask
