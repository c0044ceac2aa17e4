"""Fit: how well a model can be expected to do on an image, from what its count gives anyway.

Facts of a count, all of them cheap:

==============  =======================================================================
confidence      mean score of the cells, weighted by area
score_low       score that one cell of ten is below
score_spread    standard deviation of the scores
n_cells         logarithm of the number of cells
size_spread     standard deviation of the logarithm of the areas
box_fill        mean share of its box that a cell fills, lower where outlines are ragged
fill_spread     standard deviation of that
coverage        share of pixels that are likely cell
ambiguous       pixels that are neither likely cell nor likely background, per cell pixel
left_over       share of the likely cell pixels that no cell was made of
flow_length     mean length of the flow on cell pixels, 1 where the network is sure
zoom            logarithm of model pixels per image pixel
==============  =======================================================================
"""

from collections.abc import Sequence
from math import log, prod

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Cells, Maps
from cellwright.models.fit import Evidence, FitCalibration

CELL = 0.5  # probability from which on a pixel is likely cell
UNSURE = (0.15, 0.85)  # probabilities between these are neither cell nor background
MOST_PIXELS = 120_000  # of a block that are looked at, evenly spread
WARN_BELOW = 0.7  # expected F1 below which the user is told without asking
UNKNOWN_BELOW = 0.35


class EvidenceCollector:
    """Collects what the blocks of a count tell of how well it went; nothing where there is no calibration."""

    def __init__(self, fit: FitCalibration | None) -> None:
        self._fit = fit
        self._sums = np.zeros(5)
        self._cells: list[Cells] = []
        self._features: list[NDArray[np.float32]] = []

    def add(self, maps: Sequence[Maps], cells: Sequence[Cells], features: NDArray[np.float32]) -> None:
        """Add the frames of a batch: their maps, what was decoded from them, and their mean features."""
        if self._fit is None:
            return
        for one_maps, one_cells in zip(maps, cells, strict=True):
            self._sums += _pixel_sums(one_maps, one_cells)
        self._cells += cells
        self._features.append(features)

    def expected_f1(self, zoom: float) -> float | None:
        """Return how well the count is expected to be; None where nothing tells, no cell was found, say."""
        if self._fit is None:
            return None
        evidence = self._evidence(zoom)
        return self._fit.expected_f1(evidence) if evidence else None

    def _evidence(self, zoom: float) -> Evidence | None:
        scores, areas, extents = (
            np.concatenate(parts)
            for parts in zip(*((one.scores, one.areas, _extents(one)) for one in self._cells), strict=True)
        )
        if not len(scores):
            return None
        n_pixels, n_cell, n_unsure, n_taken, length = self._sums
        fill = areas / extents.clip(1)
        facts = {
            "confidence": (scores * areas).sum() / areas.sum(),
            "score_low": np.quantile(scores, 0.1),
            "score_spread": scores.std(),
            "n_cells": log(len(scores)),
            "size_spread": np.log(areas.clip(1)).std(),
            "box_fill": fill.mean(),
            "fill_spread": fill.std(),
            "coverage": n_cell / n_pixels,
            "ambiguous": n_unsure / max(n_cell, 1),
            "left_over": 1 - min(n_taken / max(n_cell, 1), 1),
            "flow_length": length / max(n_cell, 1),
            "zoom": log(zoom),
        }
        features = np.mean(self._features, axis=0)
        return Evidence({name: float(value) for name, value in facts.items()}, features)


def _pixel_sums(maps: Maps, cells: Cells) -> NDArray[np.float64]:
    """Return the numbers of pixels, of cell, unsure and taken ones, and the summed length of their flow."""
    probability, flow = maps["probability"][0], maps["flow"]
    step = max(1, round((probability.size / MOST_PIXELS) ** 0.5))
    probability, flow = probability[::step, ::step], flow[:, ::step, ::step]
    is_cell = probability > CELL
    is_unsure = (probability > UNSURE[0]) & (probability < UNSURE[1])
    length = np.sqrt(np.square(flow[:, is_cell]).sum(axis=0)).clip(0, 2).sum()
    assert cells.labels is not None
    taken = cells.areas.sum() / prod(cells.labels.shape) * probability.size
    return np.array([probability.size, is_cell.sum(), is_unsure.sum(), taken, length], np.float64)


def _extents(cells: Cells) -> NDArray[np.float32]:
    """Return the area of each cell's box."""
    extents: NDArray[np.float32] = (cells.boxes[:, 1] - cells.boxes[:, 0]).prod(axis=1)
    return extents


def expectation(fit: float | None) -> str:
    """Return what a fit means, as a sentence; empty where nothing is known.

    Examples
    --------
    >>> expectation(0.91)
    'Expect about 9 of 10 cells right.'
    """
    if fit is None:
        return ""
    if fit < UNKNOWN_BELOW:
        return (
            "This image is unlike anything this model has learned; do not trust the count. Teach it: correct "
            "five such images and train on them."
        )
    n_right = f"about {round(10 * fit)} of 10 cells right"
    if fit < WARN_BELOW:
        return f"Expect {n_right}: check the outlines. Five corrected images would teach the model this kind."
    if fit >= 0.95:
        return "Expect nearly all cells right."
    return f"Expect {n_right}."


def warning(fit: float | None) -> str:
    """Return the same where the user has to know it, else ``""``."""
    return expectation(fit) if fit is not None and fit < WARN_BELOW else ""
