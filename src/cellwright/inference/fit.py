"""Fit: how well a model can be expected to do on an image, from what its count gives anyway.

Facts of a count, all of them cheap:

===========  ==================================================================================
confidence   mean score of the cells, weighted by area
score_low    score that one cell of ten is below
flow_length  mean length of the flow on pixels that are likely cell, 1 where the network is sure
ambiguous    pixels that are neither likely cell nor likely background, for each likely cell one
left_over    share of the likely cell pixels that no cell was made of
===========  ==================================================================================
"""

from collections.abc import Sequence
from math import ceil, prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Cells, Maps
from cellwright.models.fit import FitCalibration

if TYPE_CHECKING:  # its module loads torch, and panels show the fit
    from cellwright.models.protocol import CellModel

CELL = 0.5  # probability from which on a pixel is likely cell
UNSURE = (0.15, 0.85)  # probabilities between these are neither cell nor background
MOST_PIXELS = 40_000  # of a block that are looked at, evenly spread
WARN_BELOW = 0.7  # expected F1 below which the user is told without asking
UNKNOWN_BELOW = 0.35
NEARLY_ALL = 0.95


def calibration_of(models: "Sequence[CellModel]") -> FitCalibration | None:
    """Return what tells how well models do; several together were never compared with the truth."""
    return models[0].fit if len(models) == 1 else None


class FactCollector:
    """Collects what the blocks of a count tell of how well it went; nothing where there is no calibration."""

    def __init__(self, fit: FitCalibration | None) -> None:
        self._fit = fit
        self.sums = np.zeros(4)  # what was added; that of several parts of an image makes up the whole

    def add(self, maps: Sequence[Maps], cells: Sequence[Cells]) -> None:
        """Add the frames of a batch: their maps, and what was decoded from them."""
        if self._fit is not None:
            for one_maps, one_cells in zip(maps, cells, strict=True):
                self.sums += _pixel_sums(one_maps, one_cells)

    def expected_f1(self, cells: Sequence[Cells]) -> float | None:
        """Return how well the count is expected to be; None where nothing tells, no cell was found, say.

        ``cells`` are those of the whole image, in one or several parts.
        """
        scores = np.concatenate([one.scores for one in cells])
        if self._fit is None or not len(scores):
            return None
        areas = np.concatenate([one.areas for one in cells])
        n_cell, n_unsure, n_taken, length = self.sums.tolist()
        n_cell = max(n_cell, 1.0)
        return self._fit.expected_f1(
            {
                "confidence": float((scores * areas).sum() / max(areas.sum(), 1)),
                "score_low": float(np.quantile(scores, 0.1)),
                "flow_length": length / n_cell,
                "ambiguous": n_unsure / n_cell,
                "left_over": 1 - min(n_taken / n_cell, 1.0),
            }
        )


def _pixel_sums(maps: Maps, cells: Cells) -> NDArray[np.float64]:
    """Return the numbers of cell, unsure and taken pixels, and the summed length of the flow on the first.

    That is 0 of the family ``query``, which has no flow.
    """
    probability = maps["probability" if "flow" in maps else "inside"][0]
    step = max(1, ceil((probability.size / MOST_PIXELS) ** 0.5))
    probability = probability[::step, ::step]
    is_cell = probability > CELL
    is_unsure = (probability > UNSURE[0]) & (probability < UNSURE[1])
    length = 0.0
    if "flow" in maps:
        flow = maps["flow"][:, ::step, ::step]
        length = np.sqrt(np.square(flow[:, is_cell]).sum(axis=0)).clip(0, 2).sum()
    assert cells.labels is not None
    taken = cells.areas.sum() / prod(cells.labels.shape) * probability.size
    return np.array([is_cell.sum(), is_unsure.sum(), taken, length], np.float64)


def in_short(fit: float | None) -> str:
    """Return what a fit means in a few words; empty where nothing is known.

    Examples
    --------
    >>> in_short(0.91)
    'about 9 of 10 right'
    """
    if fit is None:
        return ""
    if fit < UNKNOWN_BELOW:
        return "unlike anything learned"
    if fit >= NEARLY_ALL:
        return "nearly all right"
    return f"about {round(10 * fit)} of 10 right"


def expectation(fit: float | None) -> str:
    """Return what a fit means as a sentence, with what to do; empty where nothing is known.

    Examples
    --------
    >>> expectation(0.91)
    'Expect about 9 of 10 right.'
    """
    if fit is None:
        return ""
    if fit < UNKNOWN_BELOW:
        return (
            "This image is unlike anything this model has learned: do not trust the count. Teach it five "
            "images: correct them and train on them."
        )
    sentence = f"Expect {in_short(fit)}."
    if fit < WARN_BELOW:
        sentence += " Look at the outlines; five corrected images would teach the model this kind."
    return sentence


def warning(fit: float | None) -> str:
    """Return the same where the user has to know it without asking, else ``""``."""
    return expectation(fit) if fit is not None and fit < WARN_BELOW else ""
