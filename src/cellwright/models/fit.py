"""How well a model can be expected to do on an image: a small regression that is kept beside the weights.

It was fitted to images with known cells, of kinds the model has learned and of others, by
``tools/release/calibrate_fit.py``. A model without ``fit.json`` says nothing of its images.

Facts of a count, all of them cheap:

===========  ==================================================================================
confidence   mean score of the cells, weighted by area
score_low    score that one cell of ten is below
flow_length  mean length of the flow on pixels that are likely cell, 1 where the network is sure
ambiguous    pixels that are neither likely cell nor likely background, for each likely cell one
left_over    share of the likely cell pixels that no cell was made of
===========  ==================================================================================
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Cells, Maps
from cellwright.core.errors import CheckpointError
from cellwright.files.json_value import NO_JSON

FIT = "fit.json"
FIT_VERSION = 1
FACTS = ("confidence", "score_low", "flow_length", "ambiguous", "left_over")
ARRAYS = ("centre", "weights", "limits")
CELL = 0.5  # probability from which on a pixel is likely cell
UNSURE = (0.15, 0.85)  # probabilities between these are neither cell nor background
MOST_PIXELS = 40_000  # of a block that are looked at, evenly spread
WARN_BELOW = 0.7  # expected F1 below which the user is told without asking
UNKNOWN_BELOW = 0.35
NEARLY_ALL = 0.95
DIGITS = 3  # of a fit in tables; words are said of what the tables tell


@dataclass(frozen=True, slots=True, eq=False)
class FitCalibration:
    """A logistic regression of the F1 (at an IoU of 0.5) to expect of a count on facts about it."""

    facts: tuple[str, ...]  # their names, as told above
    centre: NDArray[np.float64]  # (F,): what is taken from each fact
    weights: NDArray[np.float64]  # (F,): of each fact in the logit
    bias: float  # of the logit
    limits: NDArray[np.float64]  # (F, 2): lowest and highest value that was seen; others are clipped
    closer_below: float = 0.0  # expected F1 below which an image is tried enlarged, too; 0 never

    def expected_f1(self, facts: Mapping[str, float]) -> float:
        """Return the F1 to expect, 0 to 1."""
        values = np.array([facts[name] for name in self.facts])
        logit = self.bias + (values.clip(*self.limits.T) - self.centre) @ self.weights
        return float(1 / (1 + np.exp(-logit)))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        arrays = {name: getattr(self, name).tolist() for name in ARRAYS}
        numbers = {"bias": self.bias, "closer_below": self.closer_below}
        return {"version": FIT_VERSION, "facts": list(self.facts), **numbers, **arrays}


def read_fit(folder: Path, sha256: str) -> FitCalibration | None:
    """Return the calibration in the folder of a model; None where there is none for these weights.

    CheckpointError where the file is damaged or of a newer version.
    """
    path = folder / FIT
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["version"] != FIT_VERSION:
            raise ValueError(f"version {values['version']}")
        if values["weights_sha256"] != sha256:
            return None
        arrays = {name: np.array(values[name], np.float64) for name in ARRAYS}
        fit = FitCalibration(
            tuple(map(str, values["facts"])),
            bias=float(values["bias"]),
            closer_below=float(values.get("closer_below", 0)),
            **arrays,
        )
        _check(fit)
    except (OSError, *NO_JSON, KeyError, TypeError) as error:
        raise CheckpointError(
            f"Expected version {FIT_VERSION} of the expected accuracy in {path}; got: {error!r}. Delete the "
            "file, or copy the model folder again."
        ) from error
    return fit


def _check(fit: FitCalibration) -> None:
    unknown = sorted(set(fit.facts) - set(FACTS))
    if unknown:
        raise ValueError(f"facts {unknown}")
    arrays = (getattr(fit, name) for name in ARRAYS)
    if not all(np.isfinite(values).all() for values in (fit.bias, fit.closer_below, *arrays)):
        raise ValueError("a number that is not finite")
    n_facts = len(fit.facts)
    for name, shape in zip(ARRAYS, ((n_facts,), (n_facts,), (n_facts, 2)), strict=True):
        if getattr(fit, name).shape != shape:
            raise ValueError(f"{name} of shape {getattr(fit, name).shape}")


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
        n_cell, n_unsure, n_taken, length = self.sums.tolist()
        n_cell = max(n_cell, 1.0)
        return self._fit.expected_f1(
            {
                "confidence": mean_confidence(cells),
                "score_low": float(np.quantile(scores, 0.1)),
                "flow_length": length / n_cell,
                "ambiguous": n_unsure / n_cell,
                "left_over": 1 - min(n_taken / n_cell, 1.0),
            }
        )


def mean_confidence(cells: Sequence[Cells]) -> float:
    """Return the mean score of the cells, weighted by their area: how well the model knows what it sees."""
    areas = np.concatenate([one.areas for one in cells])
    scores = np.concatenate([one.scores for one in cells])
    return float((scores * areas).sum() / max(areas.sum(), 1.0))


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
    fit = round(fit, DIGITS)
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
    fit = round(fit, DIGITS)
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
    return expectation(fit) if fit is not None and round(fit, DIGITS) < WARN_BELOW else ""
