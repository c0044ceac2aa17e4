"""Cells of single slices -> cells of the volume.

::

    z = 4    . 1 1 1 . . 2 2 .        a a a      b b
    z = 3    . 3 3 3 . . 4 4 .        a a a      b b       outlines one above the other are
    z = 2    . . . . . . 5 5 .   ->   a a a      b b       one cell; a slice where it was missed
    z = 1    . . 6 . . . 7 7 .          c        b b       is filled; where it is thinner than on
    z = 0    . 8 8 8 . . . . .        c c c                both sides, one cell ends and another begins

Every pixel of an outline has a depth, its distance from the outline's edge. In the volume of all depths each
cell is a hill. The volume is smoothed along z, so that one bad outline parts or joins nothing, and flooded
from the tops of its hills. Two hills are two cells where the saddle between them is lower than a share, the
waist, of both tops. Cells then go on for one slice where a network sees them faintly, too faintly to outline.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.data import Cells, Labels
from cellwright.core.errors import AxesError, SettingsError
from cellwright.core.settings import BoundedSettings, about
from cellwright.core.tasks import stop_point
from cellwright.ops.geometry.tiles import padded
from cellwright.ops.labels import label_properties, relabel
from cellwright.ops.watershed import OUTSIDE, watershed

MaxGap = Annotated[int, about("Slices in which a cell may be missing between two others.", 0, 10)]
Waist = Annotated[
    float,
    about(
        "Cells one above the other are split where they are narrower than this share of their "
        "width above and below; a higher value splits more, 0 never splits.",
        0.0,
        1.0,
        step=0.05,
    ),
]
MinSlices = Annotated[
    int,
    about(
        "Fewest slices of a cell, unless it is as tall as wide or the volume ends there; cells "
        "with fewer are dropped.",
        1,
        100,
    ),
]
SMOOTHING = 0.75  # standard deviation, in slices; with less, single outlines part cells
LEAST_DROP = 1e-3  # of the height; a saddle as high as both tops is none
SHALLOWEST_PX = 0.1  # a depth is never taken for less, so that it has a logarithm
BELOW = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))  # along the axes


@dataclass(frozen=True, slots=True)
class LinkSettings(BoundedSettings):
    """How outlines of single slices become cells of a volume."""

    max_gap: MaxGap = 2
    waist: Waist = 0.87
    min_slices: MinSlices = 3


def link_slices(
    labels: Labels,
    settings: LinkSettings = LinkSettings(),
    anisotropy: float = 1.0,
    faint: NDArray[np.bool_] | None = None,
) -> Labels:
    """Return labels 1..N (Z, Y, X) of cells from labels whose numbers hold within each slice only.

    ``anisotropy`` is the distance of slices in pixels of y and x, ``faint`` where a cell goes on, without an
    outline, that is found in the slice below or above.

    SettingsError where ``anisotropy`` is not above 0.
    """
    if not anisotropy > 0:
        raise SettingsError(f"anisotropy must be above 0; got {anisotropy}. Give 1 where it is not known.")
    if len(labels) == 1:
        return relabel(labels)
    gap = _reach(labels, settings.max_gap, anisotropy)
    linked = np.zeros(labels.shape, np.int32)
    pieces, _ = ndimage.label(_closed((labels > 0).view(np.uint8), gap))
    n = 0
    for number, place in enumerate(ndimage.find_objects(pieces), 1):
        stop_point()
        place = padded(place, (0, 1, 1), labels.shape)
        outlines = np.where(pieces[place] == number, labels[place], 0)
        cells = _flood(_closed(_depths(outlines), gap), settings.waist)
        cells = _without_guesses(cells, outlines > 0, gap)
        np.copyto(linked[place], cells + np.int32(n), where=cells > 0)
        n += int(cells.max())
    linked = _tall_enough(linked, settings.min_slices, anisotropy)
    return linked if faint is None else _grown(linked, faint)


def _depths(labels: Labels) -> NDArray[np.float32]:
    """Return how far each pixel lies from the edge of its outline, 1 at the edge; 0 in the background."""
    depth = np.zeros(labels.shape, np.float32)
    for one, out in zip(labels, depth, strict=True):
        stop_point()
        if not one.any():
            continue
        around = np.pad(one, 1, mode="edge")
        inner = one > 0
        for near in (around[2:, 1:-1], around[:-2, 1:-1], around[1:-1, 2:], around[1:-1, :-2]):
            inner &= near == one
        out[:] = (ndimage.distance_transform_edt(inner) + 1) * (one > 0)
    return depth


def _reach(labels: Labels, max_gap: int, anisotropy: float) -> int:
    """Return over how many missing slices outlines are joined: at most a third of a usual cell."""
    areas = np.concatenate([np.bincount(one.ravel())[1:] for one in labels])
    if not areas.any():
        return 0
    diameter_px = float(2 * np.sqrt(np.median(areas[areas > 0]) / np.pi))
    return min(max_gap, round(diameter_px / anisotropy / 3), len(labels) - 2)


def _closed(depth: NDArray[Any], gap: int) -> NDArray[Any]:
    """Return depths without dips along z of up to ``gap`` slices; the ends of the volume grow nothing."""
    if gap == 0:
        return depth
    around = np.pad(depth, [(gap, gap), (0, 0), (0, 0)])
    for extreme in (np.maximum, np.minimum):  # of whole slices: much faster than scipy's closing along z
        around = reduce(extreme, (around[i : len(around) - gap + i] for i in range(gap + 1)))
    return around


def _flood(depth: NDArray[np.float32], waist: float) -> Labels:
    """Return the hills of a connected volume of depths (0 outside), parted where saddles are low."""
    inside = depth > 0
    if waist == 0:
        return inside.astype(np.int32)
    smooth = ndimage.gaussian_filter1d(depth, SMOOTHING, axis=0, mode="constant")
    height = np.log(np.maximum(smooth, SHALLOWEST_PX))  # a share of the depth is a difference of heights
    height[~inside] = OUTSIDE
    drop = max(-np.log(waist), LEAST_DROP)
    return watershed(height, BELOW, lambda top, saddle: top - saddle < drop)


def _without_guesses(cells: Labels, outlined: NDArray[np.bool_], gap: int) -> Labels:
    """Return cells without pixels that no outline holds, but where one cell lies both below and above."""
    below = np.where(outlined, cells, 0)
    above = below.copy()
    for _ in range(gap):
        below[1:] = np.where(below[1:] == 0, below[:-1], below[1:])
        above[:-1] = np.where(above[:-1] == 0, above[1:], above[:-1])
    return np.where(below == above, below, 0)


def _tall_enough(linked: Labels, min_slices: int, anisotropy: float) -> Labels:
    """Return labels 1..N without cells of too few slices that lie whole in the volume."""
    is_kept = [False]
    for number, place in enumerate(ndimage.find_objects(linked), 1):
        is_kept.append(place is not None)
        if place is None:
            continue
        n_slices = place[0].stop - place[0].start
        is_cut = place[0].start == 0 or place[0].stop == len(linked)  # the rest lies outside the volume
        if n_slices >= min_slices or is_cut:
            continue
        widest = (linked[place] == number).sum(axis=(1, 2)).max()
        is_ball = n_slices >= max(2, np.ceil(2 * np.sqrt(widest / np.pi) / anisotropy))
        is_kept[number] = bool(is_ball)
    numbers = np.where(is_kept, np.cumsum(is_kept), 0).astype(np.int32)
    return numbers[linked]


def _grown(cells: Labels, faint: NDArray[np.bool_]) -> Labels:
    """Return cells that go on for one slice where it is faint: that from below, else that from above."""
    grown, free = cells.copy(), faint & (cells == 0)
    np.copyto(grown[:-1], cells[1:], where=free[:-1])
    np.copyto(grown[1:], cells[:-1], where=free[1:] & (cells[:-1] > 0))
    return grown


def link_cells(
    cells: Cells, axes: str, settings: LinkSettings = LinkSettings(), pixel_size_um: Sequence[float] = ()
) -> Cells:
    """Return 3D cells from cells that were counted slice by slice, each time point on its own.

    Given cells have labels over the axes, ZYX or TZYX, each in one slice. Of those that are returned points
    and boxes are in the order of the axes, areas in voxels; a score is the mean of those of the outlines,
    weighted by their areas, a class that of most voxels. Without a pixel size, in micrometres along Z, Y and
    X, slices count as one pixel apart.

    AxesError where the axes are not those of a volume.
    """
    if axes not in ("ZYX", "TZYX"):
        raise AxesError(
            f"Slices are linked in volumes with axes ZYX or TZYX; got {axes!r}. Move the axes, or count "
            "without linking."
        )
    if cells.labels is None:
        raise TypeError("Slices are linked by their labels; got cells without.")
    volumes = cells.labels.reshape(-1, *cells.labels.shape[-3:])
    faint = [None] * len(volumes) if cells.faint is None else cells.faint.reshape(volumes.shape)
    found = np.zeros(volumes.shape, np.int32)
    n = 0
    for time, volume in enumerate(volumes):
        one = link_slices(volume, settings, anisotropy_of(pixel_size_um), faint[time])
        found[time] = np.where(one > 0, one + np.int32(n), 0)
        n += int(one.max(initial=0))
    return _measured(cells, found.reshape(cells.labels.shape), n)


def anisotropy_of(pixel_size_um: Sequence[float]) -> float:
    """Return the distance of slices in pixels of y and x; 1 when the sizes (Z, Y, X) are not known."""
    if len(pixel_size_um) != 3 or not min(pixel_size_um) > 0:
        return 1.0
    z, y, x = pixel_size_um
    return float(2 * z / (y + x))


def _measured(cells: Cells, labels: Labels, n: int) -> Cells:
    """Return the cells of these labels 1..N; scores and classes are those of the outlines that they hold."""
    areas, points, boxes = label_properties(labels)
    assert cells.labels is not None
    shared = (labels > 0) & (cells.labels > 0)  # not what was filled
    cell, outline = labels[shared] - 1, cells.labels[shared] - 1
    pixels = np.bincount(cell, minlength=n)
    scores = np.bincount(cell, weights=cells.scores[outline], minlength=n) / np.maximum(pixels, 1)
    classes = None
    if cells.classes is not None:
        n_classes = int(cells.classes.max(initial=0)) + 1
        votes = np.bincount(cell * n_classes + cells.classes[outline], minlength=n * n_classes)
        classes = votes.reshape(n, n_classes).argmax(axis=1).astype(np.int16)
    return Cells(points, boxes, scores.astype(np.float32), areas, labels, classes)
