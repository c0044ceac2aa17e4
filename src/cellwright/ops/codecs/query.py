"""Cells <-> the answers to "is there a cell at this point, and how deep inside it?".

Two answers for each point: whether it lies inside a cell (the question of the published system), and its
depth there, 0 at the cell's rim and 1 in its middle, which parts cells that touch. The answers become cells
by a watershed: every pixel climbs to the peak of the depth that it lies below; peaks between which the
way hardly falls are one cell.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from cellwright.core.data import Cells, Labels
from cellwright.core.errors import QueryError
from cellwright.core.settings import BoundedSettings, about
from cellwright.ops.codecs.flow import CellProbability, ExcludeBorder, MinArea, MinScore, finite, wanted_cells
from cellwright.ops.geometry.tiles import padded
from cellwright.ops.labels import label_properties
from cellwright.ops.watershed import OUTSIDE, onward, watershed

SMOOTH_PX = 1.0  # of the depth: evens out single pixels
SURE_RADIUS = 0.8  # of the ellipse in a box: what lies inside is cell, beyond it may be either


@dataclass(frozen=True, slots=True)
class QuerySettings(BoundedSettings):
    """What can be changed after the network has run."""

    cell_probability: CellProbability = 0.5
    separation: Annotated[
        float,
        about(
            "How far the distance to the outline must fall between two cells, as a share of what "
            "it is in the smaller one; higher joins more.",
            0.0,
            1.0,
            step=0.01,
        ),
    ] = 0.15
    min_score: MinScore = 0.4
    min_area_px: MinArea = 20
    exclude_border: ExcludeBorder = False


def labels_to_depth(labels: Labels) -> NDArray[np.float32]:
    """Return the depth (1, Y, X) of each pixel: its distance to the rim over the largest one in its cell.

    The image's edge is no rim: a cell that it cuts goes on outside.
    """
    depth = np.zeros(labels.shape, np.float32)
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        if place is None:
            continue
        window = padded(place, 1, labels.shape)
        inside = labels[window] == number
        distance = inside.astype(np.float64)  # a cell without a rim in the image is as deep everywhere
        if not inside.all():
            distance = ndimage.distance_transform_edt(inside)
        np.copyto(depth[window], (distance / distance.max()).astype(np.float32), where=inside)
    return depth[np.newaxis]


def boxes_to_depth(boxes: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return the depth (1, Y, X) of cells of which only boxes are known: that of the ellipse in each box.

    Not a number wherever a box leaves open whether a pixel is cell, and outside all boxes.
    """
    depth = np.full(shape, np.nan, np.float32)
    for first, past in boxes:
        low = np.floor(first).astype(int).clip(0)
        high = np.ceil(past).astype(int)
        rows, columns = np.ogrid[low[0] : min(high[0], shape[0]), low[1] : min(high[1], shape[1])]
        half = np.maximum((past - first) / 2, 0.5)
        centre = (first + past) / 2
        radius = np.hypot((rows + 0.5 - centre[0]) / half[0], (columns + 0.5 - centre[1]) / half[1])
        window = depth[low[0] : high[0], low[1] : high[1]]
        np.copyto(window, np.fmax(window, 1 - radius), where=radius < SURE_RADIUS)
    return depth[np.newaxis]


def query_to_cells(inside: NDArray[np.float32], depth: NDArray[np.float32], settings: QuerySettings) -> Cells:
    """Return the cells of one frame, in pixels of the maps; each point is a pixel inside its cell.

    ``inside``, float32 (1, Y, X), is the chance of each pixel to be part of a cell; ``depth``, float32 (1, Y,
    X), 0 at the rim of a cell and 1 in its middle. Values that are not finite count as 0.
    """
    probability, height = finite(inside[0]), finite(depth[0])
    smooth = ndimage.gaussian_filter(height, SMOOTH_PX, mode="nearest")
    labels = depth_to_labels(smooth, probability > settings.cell_probability, settings.separation)
    areas, points, boxes = label_properties(labels)
    scores = _scores(probability, height, labels, len(areas))
    cells = wanted_cells(Cells(points, boxes, scores, areas, labels), settings)
    assert cells.labels is not None
    return replace(cells, points=points_inside(cells.labels, cells.points))


def inside_to_depth(inside: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """Return the depth (1, Y, X) of pixels of which only the chance to be part of a cell is known.

    It is the distance to the rim of the region above ``threshold``, over the largest one of that region.
    """
    mask = np.pad(finite(inside[0]) > threshold, 1, mode="edge")  # the image's edge is no rim
    if mask.all():
        return np.ones_like(inside)
    distance = ndimage.distance_transform_edt(mask)[1:-1, 1:-1]
    regions, n = ndimage.label(mask[1:-1, 1:-1], np.ones((3, 3), int))
    largest = np.ones(n + 1)
    np.maximum.at(largest, regions.ravel(), distance.ravel())
    depth: NDArray[np.float32] = (distance / largest[regions]).astype(np.float32)
    return depth[np.newaxis]


def points_inside(labels: Labels, points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the points (N, 2), those that miss their label 1..N moved to its nearest pixel."""
    if not len(points):
        return points
    last = np.array(labels.shape) - 1
    row, column = np.clip(np.rint(points).astype(np.intp), 0, last).T
    missed = np.flatnonzero(labels[row, column] != np.arange(1, len(points) + 1))
    if not len(missed):
        return points
    moved = points.copy()
    places = ndimage.find_objects(labels)
    for index in missed:
        rows, columns = places[index]
        y, x = np.nonzero(labels[rows, columns] == index + 1)
        pixels = np.stack([y + rows.start, x + columns.start], axis=1)
        moved[index] = pixels[((pixels - points[index]) ** 2).sum(axis=1).argmin()]
    return moved


def check_points(points: ArrayLike, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return points (N, 2), order y, x, as float32; ``shape`` is (Y, X) of the image, in pixels.

    QueryError where they are not such a table, or one lies outside the image.
    """
    table = np.asarray(points, np.float32)
    if table.ndim != 2 or table.shape[1] != 2:
        raise QueryError(
            f"Points must be a table (N, 2) of y and x in pixels; got shape {table.shape}. Give one row for "
            "each point."
        )
    is_inside = (table >= -0.5) & (table < np.array(shape) - 0.5)  # a pixel is half a pixel around its centre
    outside = np.flatnonzero(~is_inside.all(axis=1))
    if len(outside):
        y, x = table[outside[0]]
        raise QueryError(
            f"Points must lie inside the image of {shape[0]} x {shape[1]} pixels; got y {y:g}, x {x:g}. "
            "Choose points inside it."
        )
    return table


def _scores(
    probability: NDArray[np.float32], depth: NDArray[np.float32], labels: Labels, n: int
) -> NDArray[np.float32]:
    """How sure the maps are of each cell, 0 to 1: mean probability times the largest depth."""
    flat = np.flatnonzero(labels)
    ids = labels.reshape(-1)[flat]
    area = np.maximum(np.bincount(ids, minlength=n + 1)[1:], 1)
    mean = np.bincount(ids, probability.reshape(-1)[flat], n + 1)[1:] / area
    deepest = np.zeros(n + 1, np.float32)
    np.maximum.at(deepest, ids, depth.reshape(-1)[flat])
    return np.clip(mean * deepest[1:], 0, 1).astype(np.float32)


def depth_to_labels(depth: NDArray[np.float32], mask: NDArray[np.bool_], separation: float) -> Labels:
    """Return labels 1..N (Y, X) of the pixels of ``mask``, one for each peak of the depth.

    Two peaks are one if on the way between them the depth falls by less than the share ``separation`` of the
    lower one; 0 parts all peaks.
    """
    height = np.where(mask, depth, OUTSIDE)
    return watershed(height, onward(2), lambda peak, saddle: peak - saddle < separation * peak)
