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
from cellwright.core.settings import BoundedSettings
from cellwright.ops.codecs.flow import CellProbability, ExcludeBorder, MinArea, MinScore, finite, wanted_cells
from cellwright.ops.geometry.tiles import padded
from cellwright.ops.labels import measure

SMOOTH_PX = 1.0  # of the depth: evens out single pixels
SURE_RADIUS = 0.8  # of the ellipse in a box: what lies inside is cell, beyond it may be either


@dataclass(frozen=True, slots=True)
class QuerySettings(BoundedSettings):
    """What can be changed after the network has run."""

    cell_probability: CellProbability = 0.5
    separation: Annotated[
        float,
        {
            "min": 0.0,
            "max": 1.0,
            "step": 0.01,
            "tooltip": "How far the distance to the outline must fall between two cells, as a share of what "
            "it is in the smaller one; higher joins more.",
        },
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

    Not a number wherever a box leaves open whether a pixel is cell, and outside of all boxes.
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
    areas, points, boxes = measure(labels)
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

    QueryError where they are no such table, or one lies outside the image.
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
    labels = np.zeros(mask.shape, np.int32)
    flat = np.flatnonzero(mask)
    if len(flat):
        index = np.full((mask.shape[0] + 2, mask.shape[1] + 2), -1, np.int32)  # a frame that belongs to none
        index[1:-1, 1:-1][mask] = np.arange(len(flat), dtype=np.int32)
        heights = depth.reshape(-1)[flat]
        padded = np.flatnonzero(index >= 0)
        peaks = _climb(index, padded, heights)
        top, basin = np.unique(peaks, return_inverse=True)
        joined = _join(_passes(index, padded, heights, basin), heights[top], separation)
        labels.reshape(-1)[flat] = joined[basin]
    return labels


def _climb(
    index: NDArray[np.int32], padded: NDArray[np.intp], heights: NDArray[np.float32]
) -> NDArray[np.int32]:
    """Return the peak each pixel reaches by always stepping to its highest neighbour.

    Of neighbours of one height the last one counts, so that no walk on a plateau goes round in circles.
    """
    indices, width = index.reshape(-1), index.shape[1]
    raised = np.append(heights, np.float32(-np.inf))  # index -1: beyond the mask
    highest = np.full(len(heights), -np.inf, np.float32)
    step = np.zeros(len(heights), np.int32)
    for offset in sorted(dy * width + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
        neighbour = indices[padded + offset]
        higher = raised[neighbour] >= highest
        higher &= neighbour >= 0
        np.copyto(step, neighbour, where=higher)
        np.copyto(highest, raised[neighbour], where=higher)
    while True:
        further = step[step]
        if np.array_equal(further, step):
            return step
        step = further


def _passes(
    index: NDArray[np.int32], padded: NDArray[np.intp], heights: NDArray[np.float32], basin: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return pairs of basins that touch, and the height of the pass between them; the highest pass first."""
    indices, width = index.reshape(-1), index.shape[1]
    pairs, lows = [], []
    for offset in (1, width - 1, width, width + 1):
        neighbour = indices[padded + offset]
        here = np.flatnonzero((neighbour >= 0) & (basin[neighbour] != basin))
        there = neighbour[here]
        pairs.append(np.sort(np.stack([basin[here], basin[there]]), axis=0))
        lows.append(np.minimum(heights[here], heights[there]))
    first, second = np.concatenate(pairs, axis=1)
    low = np.concatenate(lows)
    order = np.argsort(-low, kind="stable")
    first, second, low = first[order], second[order], low[order]
    _, once = np.unique(first * (len(heights) + 1) + second, return_index=True)
    once.sort()
    return first[once], second[once], low[once]


def _join(
    passes: tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]],
    tops: NDArray[np.float32],
    separation: float,
) -> NDArray[np.int32]:
    """Return the label 1..N of each basin after joining, over the highest pass first, what is one cell."""
    owner = list(range(len(tops)))
    height = tops.tolist()

    def root(one: int) -> int:
        while owner[one] != one:
            owner[one] = owner[owner[one]]
            one = owner[one]
        return one

    for first, second, low in zip(*(part.tolist() for part in passes), strict=True):
        one, other = root(first), root(second)
        if one == other:
            continue
        if height[one] < height[other]:
            one, other = other, one
        if height[other] - low < separation * height[other]:
            owner[other] = one
    _, labels = np.unique([root(one) for one in range(len(tops))], return_inverse=True)
    return (labels + 1).astype(np.int32)
