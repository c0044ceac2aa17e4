"""The intensities of cells in one channel, and the background in a ring around each."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.data import Labels

CORRECTED = "intensity_corrected_mean"
Grouped = tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]  # values by cell; starts, counts


class CellPixels(NamedTuple):
    """Where the pixels of each cell are, those of one cell together; made once for all channels."""

    places: NDArray[np.intp]  # in the flat image
    starts: NDArray[np.intp]
    counts: NDArray[np.intp]

    @classmethod
    def of(cls, labels: Labels, n: int) -> "CellPixels":
        """Return those of the labels 1..n."""
        inside = np.flatnonzero(labels)
        ids = labels.reshape(-1)[inside]
        counts = np.bincount(ids, minlength=n + 1)[1:]
        return cls(inside[np.argsort(ids, kind="stable")], np.cumsum(counts) - counts, counts)

    def values(self, pixels: NDArray[Any]) -> Grouped:
        """Return the values of all cells in one channel."""
        return pixels.reshape(-1)[self.places].astype(np.float64), self.starts, self.counts


def measure_intensity(
    cells: CellPixels, pixels: NDArray[Any], keys: Sequence[str], ring: CellPixels | None = None
) -> dict[str, NDArray[np.float64]]:
    """Return these columns of the group ``intensity`` for each cell; NaN without pixels.

    Parameters
    ----------
    cells
        Where the pixels of the cells are.
    pixels
        Of one channel, in the shape of the labels.
    keys
        ``intensity_mean`` and the like.
    ring
        Where the background around each cell is, for ``intensity_corrected_mean``.
    """
    grouped = cells.values(pixels)
    found = {}
    for key in keys:
        if key == CORRECTED:
            assert ring is not None
            found[key] = _mean(grouped) - _median(ring.values(pixels))
        else:
            found[key] = _STATISTICS[key](grouped)
    return found


def rings(
    labels: Labels, own: Labels, gap_px: float, width_px: float, spacing: Sequence[float] = ()
) -> Labels:
    """Return a ring around each cell: from ``gap_px`` to ``gap_px + width_px`` away from it.

    A pixel belongs to the cell it is nearest to; pixels of cells, also of others, belong to none. Around
    cells it is background, around nuclei without outlines of their cells it is cytoplasm.

    Parameters
    ----------
    labels : int (Y, X) or (Z, Y, X)
        All cells of a frame.
    own : int
        The same with the numbers the rings are to have; 0 for cells that need none.
    spacing
        Sides of a pixel; distances are in those along x.
    """
    sampling = np.asarray(spacing or (1.0,) * labels.ndim) / (spacing or (1.0,))[-1]
    distance, nearest = ndimage.distance_transform_edt(labels == 0, sampling, return_indices=True)
    around: Labels = own[tuple(nearest)]
    around[(distance <= gap_px) | (distance > gap_px + width_px)] = 0
    return around


def _reduced(function: np.ufunc, grouped: Grouped) -> NDArray[np.float64]:
    values, starts, counts = grouped
    found = np.full(len(counts), np.nan)
    present = counts > 0
    if present.any():
        found[present] = function.reduceat(values, starts[present])
    return found


def _sum(grouped: Grouped) -> NDArray[np.float64]:
    return _reduced(np.add, grouped)


def _mean(grouped: Grouped) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return np.asarray(_sum(grouped) / grouped[2])


def _std(grouped: Grouped) -> NDArray[np.float64]:
    values, starts, counts = grouped
    spread = (values - np.repeat(_mean(grouped), counts)) ** 2
    return np.asarray(np.sqrt(_mean((spread, starts, counts))))


def _median(grouped: Grouped) -> NDArray[np.float64]:
    values, starts, counts = grouped
    order = np.lexsort((values, np.repeat(np.arange(len(counts)), counts)))
    ranked = values[order]
    found = np.full(len(counts), np.nan)
    present = counts > 0
    first, n = starts[present], counts[present]
    found[present] = (ranked[first + (n - 1) // 2] + ranked[first + n // 2]) / 2
    return found


_STATISTICS: dict[str, Callable[[Grouped], NDArray[np.float64]]] = {
    "intensity_mean": _mean,
    "intensity_median": _median,
    "intensity_min": lambda grouped: _reduced(np.minimum, grouped),
    "intensity_max": lambda grouped: _reduced(np.maximum, grouped),
    "intensity_std": _std,
    "intensity_sum": _sum,
}
