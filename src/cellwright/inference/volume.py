"""Cells counted slice by slice -> cells of volumes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Cells, Labels
from cellwright.core.errors import AxesError
from cellwright.ops.labels import measure
from cellwright.ops.volumes.link import LinkSettings, link_slices


def linked(
    cells: Cells,
    axes: str,
    settings: LinkSettings = LinkSettings(),  # noqa: B008 - frozen
    pixel_size_um: Sequence[float] = (),
) -> Cells:
    """Return 3D cells from cells that were counted slice by slice, each time point on its own.

    Parameters
    ----------
    cells
        With labels over ``axes``; row ``i`` is label ``i + 1``, which lies in one slice.
    axes
        ZYX or TZYX: the axes of the labels.
    settings
        How slices are linked.
    pixel_size_um
        Micrometres per pixel along Z, Y and X; empty when unknown, then slices count as one pixel apart.

    Returns
    -------
    Cells
        Points and boxes in the order of ``axes``, areas in voxels; a cell's score is the mean of its
        outlines', weighted by their areas, its class the one of most of its voxels.

    Raises
    ------
    AxesError
        The axes are not those of a volume.
    """
    if axes not in ("ZYX", "TZYX"):
        raise AxesError(
            f"Slices are linked in volumes with axes ZYX or TZYX; got {axes!r}. Move the axes, or count "
            "without linking."
        )
    if cells.labels is None:
        raise TypeError("Slices are linked by their labels; got cells without.")
    volumes = cells.labels if axes == "TZYX" else cells.labels[np.newaxis]
    found = np.zeros(volumes.shape, np.int32)
    n = 0
    for time, volume in enumerate(volumes):
        one = link_slices(volume, settings, anisotropy_of(pixel_size_um))
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
    areas, points, boxes = measure(labels)
    outline, cell, shared = _shares(cells, labels, n)
    weights = np.bincount(cell, weights=shared, minlength=n)
    scores = np.bincount(cell, weights=shared * cells.scores[outline], minlength=n) / np.maximum(weights, 1)
    classes = None
    if cells.classes is not None:
        votes = np.zeros((n, int(cells.classes.max(initial=0)) + 1))
        np.add.at(votes, (cell, cells.classes[outline]), shared)
        classes = votes.argmax(axis=1).astype(np.int16)
    return Cells(points, boxes, scores.astype(np.float32), areas, labels, classes)


def _shares(cells: Cells, labels: Labels, n: int) -> tuple[NDArray[np.intp], ...]:
    """Return outlines (rows of ``cells``), the 3D cell (0..n - 1) each became, and their pixels."""
    first = np.zeros(len(cells), np.intp)
    assert cells.labels is not None
    inside = np.flatnonzero((labels > 0) & (cells.labels > 0))
    outlines = cells.labels.reshape(-1)[inside] - 1
    first[outlines] = labels.reshape(-1)[inside]  # all of an outline goes to one cell
    pixels = np.bincount(outlines, minlength=len(cells))
    kept = np.flatnonzero(first)
    return kept, first[kept] - 1, pixels[kept]
