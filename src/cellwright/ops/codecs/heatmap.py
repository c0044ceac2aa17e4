"""Boxes <-> a heatmap of cell centres, with height and width readable at each centre.

The heatmap is not a Gaussian: each cell draws a filled ellipse of 0.4 of its box, blurred by a box filter of
two thirds of it. Unlike in the reference, heights are in pixels, not relative to the image (so that tiling
cannot change them), each cell peaks at 1 whatever its size, and where two cells meet the larger value stands.

Source: Wagner and Rohr, CellCentroidFormer, arXiv:2206.00338 (2022).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.data import Cells
from cellwright.core.settings import BoundedSettings, about
from cellwright.ops.geometry.tiles import overlap
from cellwright.ops.labels import touches_border

ELLIPSE = 0.4  # semi-axes of a cell's ellipse, in lengths of its box
BLUR = 2 / 3  # side of the box filter, in lengths of its box
BLOCK = 0.5  # part of the box, around its centre, in which its size is written
STEPS = np.linspace(-0.2, 0.2, 5, dtype=np.float32)
READ = np.stack(np.meshgrid(STEPS, STEPS, indexing="ij"), axis=-1).reshape(-1, 2)
"""Where the maps are read around a peak, in lengths of its box."""
BLURRED_PX = 5.0  # sizes are known in the middle of a box alone, and of small ones it is soon left
EVEN = np.float32(1e-3)  # weight of all places, or a level map would have no middle
N_CENTRINGS = 2  # steps from a peak to the middle of the heat around it
SMALLEST = float(np.finfo(np.float32).tiny)
AROUND = ((0, 1), (1, 0), (1, -1), (1, 1), (0, 2), (1, -2), (1, 2), (2, -2), (2, -1), (2, 0), (2, 1), (2, 2))
PAIRS_AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True)
class CentroidSettings(BoundedSettings):
    """What can be changed after the network has run."""

    min_score: Annotated[
        float, about("Lowest height of the heatmap in the middle of a cell to be kept.", 0.05, 1.0, step=0.01)
    ] = 0.45
    max_overlap: Annotated[
        float,
        about(
            "Of boxes with an IoU above this, only the one with the highest score is kept.",
            0.0,
            1.0,
            step=0.01,
        ),
    ] = 0.25
    min_side_px: Annotated[float, about("Smallest height and width of a box, in pixels.", 0.0, 1000.0)] = 2.0
    exclude_border: Annotated[bool, about("Drop boxes that touch the edge of the image.")] = False


def boxes_to_heatmap(boxes: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return the heatmap (1, Y, X), 0 to 1, of boxes (N, 2, 2): first and one-past-last corner, in pixels."""
    heatmap = np.zeros(shape, np.float32)
    for first, past in boxes:
        drawn, corner = _drawn_cell(first, past)
        window, part = overlap(corner, drawn.shape, shape)
        np.maximum(heatmap[window], drawn[part], out=heatmap[window])
    return heatmap[np.newaxis]


def boxes_to_sizes(boxes: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return height and width (2, Y, X) in pixels, written in the middle of each box; 0 elsewhere.

    Small boxes are drawn last, so that a large one around them does not hide them.
    """
    sizes = np.zeros((2, *shape), np.float32)
    extents = boxes[:, 1] - boxes[:, 0]
    for index in np.argsort(-extents.prod(axis=1), kind="stable"):
        extent, centre = extents[index], boxes[index].mean(axis=0)
        low = np.floor(centre - BLOCK / 2 * extent).astype(int).clip(0)
        high = np.maximum(np.ceil(centre + BLOCK / 2 * extent).astype(int), low + 1)
        sizes[:, low[0] : high[0], low[1] : high[1]] = extent[:, np.newaxis, np.newaxis]
    return sizes


def heatmap_to_cells(
    heatmap: NDArray[np.float32], size: NDArray[np.float32], settings: CentroidSettings
) -> Cells:
    """Return the cells at the maxima of a heatmap, with boxes cut at the edge of the image and no labels.

    Of maxima whose boxes overlap the highest stands; its point is then moved to the middle of the heat in
    the centre of its box, a fraction of a pixel exact. A cell's area is that of the ellipse in its box.

    ``heatmap``, float32 (1, Y, X), is 0 to 1 and high in the middle of each cell; ``size``, float32 (2, Y,
    X), the height and width in pixels of the cell that a pixel is the middle of.
    """
    heat = heatmap[0]
    peaks = _maxima(heat, max(settings.min_score, SMALLEST))
    extents = size[:, peaks[:, 0], peaks[:, 1]].T
    scores = heat[peaks[:, 0], peaks[:, 1]]
    large = (extents >= settings.min_side_px).all(axis=1)
    peaks, extents, scores = peaks[large], extents[large], scores[large]
    kept = suppress(_boxes(peaks, extents), scores, settings.max_overlap)
    points, extents = _centred(heat, size, peaks[kept], extents[kept])
    boxes = _boxes(points, extents).clip(0, np.array(heat.shape, np.float32))
    areas = np.float32(np.pi / 4) * (boxes[:, 1] - boxes[:, 0]).prod(axis=1)
    cells = Cells(points, boxes, scores[kept].clip(0, 1), areas)
    if settings.exclude_border:
        return cells.take(~touches_border(cells.boxes, heat.shape))
    return cells


def suppress(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], max_overlap: float
) -> NDArray[np.bool_]:
    """Return which boxes (N, 2, 2) stand: not those that overlap with a surer one that stands itself.

    Overlap is intersection over union; of two equally sure boxes the first stands. Gives what going through
    the boxes one by one would give, but decides in each round on all boxes that no open one outdoes.
    """
    rank = np.empty(len(boxes), np.intp)
    rank[np.argsort(-scores, kind="stable")] = np.arange(len(boxes))
    pairs = np.concatenate([np.zeros((0, 2), np.intp), *_overlapping(boxes, max_overlap)])
    swapped = rank[pairs[:, 0]] > rank[pairs[:, 1]]
    pairs[swapped] = pairs[swapped, ::-1]
    stands = np.ones(len(boxes), bool)
    while len(pairs):
        surer, other = pairs.T
        outdone = np.zeros(len(boxes), bool)
        outdone[other] = True
        stands[other[~outdone[surer]]] = False
        pairs = pairs[outdone[surer] & stands[surer] & stands[other]]
    return stands


def _maxima(heat: NDArray[np.float32], lowest: float) -> NDArray[np.intp]:
    """Pixels (N, 2) at least ``lowest`` and no lower than any within two pixels; one of each plateau."""
    padded = np.pad(heat, 2, constant_values=-np.inf)
    width = padded.shape[1]
    flat = np.flatnonzero(padded >= lowest)
    values = padded.reshape(-1)
    for dy, dx in AROUND:
        step = dy * width + dx
        flat = flat[(values[flat] >= values[flat + step]) & (values[flat] >= values[flat - step])]
    is_peak = np.zeros(padded.shape, bool)
    is_peak.reshape(-1)[flat] = True
    plateaus, n_plateaus = ndimage.label(is_peak, np.ones((3, 3)))
    number = plateaus.reshape(-1)[flat]
    place = np.stack(np.divmod(flat, width), axis=1) - 2
    middle = [np.bincount(number, axis, n_plateaus + 1)[1:] / np.bincount(number)[1:] for axis in place.T]
    return np.rint(np.stack(middle, axis=1)).astype(np.intp)


def _boxes(points: NDArray[np.floating | np.intp], extents: NDArray[np.float32]) -> NDArray[np.float32]:
    """Boxes (N, 2, 2) around points; the middle of the pixel at 0 lies at 0.5."""
    centres = points + 0.5
    boxes = np.stack([centres - extents / 2, centres + extents / 2], axis=1)
    return boxes.astype(np.float32)


def _centred(
    heat: NDArray[np.float32],
    size: NDArray[np.float32],
    peaks: NDArray[np.intp],
    extents: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Points (N, 2) in the middle of the heat around each peak, and the mean size (N, 2) there."""
    points = peaks.astype(np.float64)
    offsets = READ * extents[:, np.newaxis]  # (N, samples, 2)
    for _ in range(N_CENTRINGS):
        weights = _read(heat, points, offsets)[..., np.newaxis]
        weights -= weights.min(axis=1, keepdims=True) - EVEN
        points += (weights * offsets).sum(axis=1) / weights.sum(axis=1)
    nearer = READ * (extents - np.float32(BLURRED_PX)).clip(0)[:, np.newaxis]
    extents = np.stack([_read(one, points, nearer).mean(axis=1) for one in size], axis=1)
    return points.clip(0, np.array(heat.shape) - 1).astype(np.float32), extents


def _read(
    values: NDArray[np.float32], points: NDArray[np.float64], offsets: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Values (N, samples) around points (N, 2), interpolated."""
    places = (points[:, np.newaxis] + offsets).transpose(2, 0, 1)
    return ndimage.map_coordinates(values, places, order=1, mode="nearest")


def _overlapping(boxes: NDArray[np.float32], max_overlap: float) -> Iterator[NDArray[np.intp]]:
    """Pairs (N, 2) of boxes that overlap by more; a box is compared with those that begin in its rows."""
    order = np.argsort(boxes[:, 0, 0], kind="stable")
    first, past = boxes[order, 0], boxes[order, 1]
    areas = (past - first).prod(axis=1)
    ends = np.searchsorted(first[:, 0], past[:, 0], side="left")
    n_others = np.maximum(ends - np.arange(len(boxes)) - 1, 0)
    until = np.cumsum(n_others)
    start = 0
    while start < len(boxes):
        before = until[start - 1] if start else 0
        stop = max(int(np.searchsorted(until, before + PAIRS_AT_ONCE, side="right")), start + 1)
        counts = n_others[start:stop]
        one = np.repeat(np.arange(start, stop), counts)
        other = one + 1 + np.arange(len(one)) - np.repeat(np.cumsum(counts) - counts, counts)
        sides = (np.minimum(past[one], past[other]) - np.maximum(first[one], first[other])).clip(0)
        shared = sides.prod(axis=1)
        above = shared > max_overlap * (areas[one] + areas[other] - shared)
        yield np.stack([order[one[above]], order[other[above]]], axis=1)
        start = stop


def _drawn_cell(
    first: NDArray[np.float32], past: NDArray[np.float32]
) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Return the blurred ellipse of one box, at most 1, and the pixel of its first corner."""
    extent = np.maximum(past - first, 1.0)
    reach = np.ceil(extent).astype(int)
    corner = np.floor(first).astype(int) - reach // 2
    lengths = 2 * reach + 1
    axes = [
        (corner[i] + np.arange(lengths[i]) + 0.5 - (first[i] + past[i]) / 2)
        / np.maximum(ELLIPSE * extent[i], 0.6)
        for i in (0, 1)
    ]
    ellipse = (axes[0][:, np.newaxis] ** 2 + axes[1] ** 2 <= 1).astype(np.float32)
    blurred = ellipse
    for axis, length in enumerate(extent):
        blurred = _centred_filter(blurred, max(1, int(BLUR * length)), axis)
    peak = blurred.max()
    if peak > 0:
        blurred = blurred / peak
    return blurred, (int(corner[0]), int(corner[1]))


def _centred_filter(values: NDArray[np.float32], size: int, axis: int) -> NDArray[np.float32]:
    """Return a box filter that moves nothing: one of even size is the mean of its two off-centre places."""
    first: NDArray[np.float32] = ndimage.uniform_filter1d(values, size, axis, mode="constant")
    if size % 2:
        return first
    second = ndimage.uniform_filter1d(values, size, axis, mode="constant", origin=-1)
    return (first + second) / 2
