"""How well a model can be expected to do on an image: a small regression that is kept beside the weights.

It was fitted to images with known cells, of kinds the model has learned and of others, and to pictures of
other things, by ``tools/release/calibrate_fit.py``. Where a model has no ``fit.json``, counts say so.

Facts of a count, all of them cheap:

===========  ==================================================================================
confidence   mean score of the cells, weighted by area
score_low    score that one cell of ten is below
flow_length  mean length of the flow on pixels that are likely cell, 1 where the network is sure
flow_ground  the same on all others, 0 where the network is sure that there is nothing
probability  mean probability of the likely cell pixels
ambiguous    pixels that are neither likely cell nor likely background, for each likely cell one
left_over    share of the likely cell pixels that no cell was made of
agreement    of a density, how far its sum is that of the cells found one by one: 1 where they agree
===========  ==================================================================================

Where a family has no flow, its depth or its heatmap stands for the length.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from operator import add
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Cells, Maps, Result
from cellwright.core.errors import CheckpointError
from cellwright.files.atomic import write_text
from cellwright.files.json_value import NO_JSON
from cellwright.ops.measure.prediction_interval import CROWD, DOUBTED_BELOW, CrowdNotice

FIT = "fit.json"
FIT_VERSION = 1
FACTS = (
    *("confidence", "score_low"),
    *("flow_length", "flow_ground", "probability", "ambiguous", "left_over", "agreement"),
)
PROBABILITIES = ("probability", "inside", "heatmap", "foreground")  # of cell, by family
FLOWS = ("flow", "cell_flow")
ARRAYS = ("centre", "weights", "limits")
CELL = 0.5  # probability from which on a pixel is likely cell
UNSURE = (0.15, 0.85)  # probabilities between these are neither cell nor background
MOST_PIXELS = 40_000  # of a block that are looked at, evenly spread
WARN_BELOW = DOUBTED_BELOW  # expected F1 below which the user is told without asking
UNKNOWN_BELOW = 0.35
NEARLY_ALL = 0.95
FEWEST = 0.5  # cells of a density that tell something
CORRECTED = "corrected_cells"  # in the settings of the provenance: how many were drawn, changed or removed
NOT_KNOWN = "It is not known how good the count is"
DIGITS = 3  # of a fit in tables; words are said of what the tables tell


@dataclass(frozen=True, slots=True, eq=False)
class FitCalibration:
    """A logistic regression of the F1 (at an IoU of 0.5) to expect of a count on facts about it.

    Of points a hit is one in a cell; of a density it is the smaller of count and truth over the larger.
    """

    facts: tuple[str, ...]  # their names, as told above
    centre: NDArray[np.float64]  # (F,): what is taken from each fact
    weights: NDArray[np.float64]  # (F,): of each fact in the logit
    bias: float  # of the logit
    limits: NDArray[np.float64]  # (F, 2): lowest and highest value that was seen; others are clipped
    closer_below: float = 0.0  # expected F1 below which an image is tried enlarged, too; 0 never

    def expected_f1(self, facts: Mapping[str, float]) -> float:
        """Return the F1 to expect, 0 to 1; a fact that is not given tells nothing."""
        values = np.array([facts.get(name, at) for name, at in zip(self.facts, self.centre, strict=True)])
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


def write_fit(folder: Path, fit: FitCalibration, sha256: str, **told: Any) -> None:
    """Write a calibration into the folder of a model whose weights have this checksum.

    ``told`` are other plain JSON values on how it was made.
    """
    values = {**fit.to_json(), "weights_sha256": sha256, **told}
    write_text(folder / FIT, json.dumps(values, indent=1) + "\n")


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


class Sums(NamedTuple):
    """What part of an image tells, summed over pixels that are evenly spread, and over cells.

    The sums of several parts add up to those of the whole; 0 stands for what a family does not tell.
    """

    n_cell: float = 0.0  # pixels that are likely cell
    n_ground: float = 0.0  # all others
    n_unsure: float = 0.0  # pixels that are neither for sure
    flow_on_cell: float = 0.0  # length of the flow on the first
    flow_on_ground: float = 0.0  # on the second
    probability: float = 0.0  # of the first
    n_taken: float = 0.0  # of the first, those that cells were made of
    n_single: float = 0.0  # cells of a density, found one by one
    n_dense: float = 0.0  # cells of a density, as its sum
    n_cells: float = 0.0
    n_cut: float = 0.0  # of these cells, those that pixels without a value may cut

    def plus(self, other: "Sums") -> "Sums":
        """Return the sums of two parts together."""
        return Sums(*map(add, self, other))

    @property
    def covered(self) -> float:
        """The share of the pixels that are likely cell."""
        return round(float(self.n_cell / max(self.n_cell + self.n_ground, 1.0)), 4)


class FactCollector:
    """Collects what the blocks of a count tell of how well it went; nothing where there is no calibration."""

    def __init__(self, fit: FitCalibration | None) -> None:
        self._fit = fit
        self.sums = Sums()
        self._of_frames: dict[int, Sums] = {}  # as far as blocks tell in which frame they lie

    def add(
        self,
        maps: Sequence[Maps],
        decoded: Sequence[Any],
        n_cut: Sequence[int] = (),
        frames: Sequence[int] = (),
    ) -> None:
        """Add the frames of a batch: their maps, and the cells or the density that were decoded from them.

        ``n_cut`` tells how many of the cells pixels without a value may cut, ``frames`` which frames they
        are, where that is known.
        """
        if self._fit is not None:
            for at, (one_maps, one) in enumerate(zip(maps, decoded, strict=True)):
                sums = _sums(one_maps, one)._replace(n_cut=float(n_cut[at]) if n_cut else 0.0)
                self.add_sums(sums, frames[at] if frames else None)

    def add_sums(self, sums: Sums, frame: int | None = None) -> None:
        """Add the sums of a part of an image, which lies in a frame."""
        self.sums = self.sums.plus(sums)
        if frame is not None:
            self._of_frames[frame] = self._of_frames.get(frame, Sums()).plus(sums)

    @property
    def crowding(self) -> dict[str, Any]:
        """The share of the pixels that are likely cell, ``covered``, as a provenance keeps it.

        Of several frames also ``most_covered``: the one with the largest share, and that share.
        """
        found: dict[str, Any] = {"covered": self.sums.covered}
        if len(self._of_frames) > 1:
            worst = max(self._of_frames, key=lambda frame: self._of_frames[frame].covered)
            found["most_covered"] = (worst, self._of_frames[worst].covered)
        return found

    @property
    def cutting(self) -> dict[str, float]:
        """The share of the cells that pixels without a value may ``cut``, as a provenance keeps it."""
        return {"cut": round(self.sums.n_cut / self.sums.n_cells, 4)} if self.sums.n_cut else {}

    def expected_f1(self, cells: Sequence[Cells]) -> float | None:
        """Return how well the count is expected to be; None where nothing tells, no cell was found, say.

        ``cells`` are those of the whole image, in one or several parts; none of a density.
        """
        sums = self.sums
        scores = np.concatenate([np.zeros(0, np.float32), *(one.scores for one in cells)])
        if self._fit is None or (not len(scores) and sums.n_dense < FEWEST):
            return None
        n_cell = max(sums.n_cell, 1.0)
        facts = {
            "flow_length": sums.flow_on_cell / n_cell,
            "flow_ground": sums.flow_on_ground / max(sums.n_ground, 1.0),
            "probability": sums.probability / n_cell,
            "ambiguous": sums.n_unsure / n_cell,
        }
        if sums.n_taken:
            facts["left_over"] = 1 - min(sums.n_taken / n_cell, 1.0)
        if len(scores):
            facts |= {"confidence": mean_confidence(cells), "score_low": float(np.quantile(scores, 0.1))}
        if sums.n_dense:
            facts["agreement"] = min(sums.n_single, sums.n_dense) / max(sums.n_single, sums.n_dense)
        return lessened(self._fit.expected_f1(facts), self.cutting)


def lessened(expected_f1: float | None, facts: Mapping[str, Any]) -> float | None:
    """Return an expected F1 less that of the cells that may be ``cut``, of which half are taken for wrong."""
    if expected_f1 is None:
        return None
    return expected_f1 * (1 - float(facts.get("cut", 0.0)) / 2)


def mean_confidence(cells: Sequence[Cells]) -> float:
    """Return the mean score of the cells, weighted by their area: how well the model knows what it sees."""
    areas = np.concatenate([one.areas for one in cells])
    scores = np.concatenate([one.scores for one in cells])
    return float((scores * areas).sum() / max(areas.sum(), 1.0))


def _sums(maps: Maps, decoded: Any) -> Sums:
    """Return what a frame tells, of pixels that are evenly spread."""
    name = next(one for one in PROBABILITIES if one in maps)
    step = max(1, ceil((maps[name].size / MOST_PIXELS) ** 0.5))
    maps = {one: values[:, ::step, ::step] for one, values in maps.items()}
    probability, length = maps[name][0], _length(maps, name)
    is_cell = probability > CELL
    is_unsure = (probability > UNSURE[0]) & (probability < UNSURE[1])
    sums = Sums(
        n_cell=float(is_cell.sum()),
        n_ground=float((~is_cell).sum()),
        n_unsure=float(is_unsure.sum()),
        flow_on_cell=float(length[is_cell].sum()),
        flow_on_ground=float(length[~is_cell].sum()),
        probability=float(probability[is_cell].sum()),
    )
    if not isinstance(decoded, Cells):
        single = 0.0 if decoded.cells is None else float(decoded.cells.sum(dtype=np.float64))
        return sums._replace(n_single=single, n_dense=float(decoded.density.sum(dtype=np.float64)))
    sums = sums._replace(n_cells=float(len(decoded)))
    if decoded.labels is None:
        return sums
    taken = decoded.areas.sum() / prod(decoded.labels.shape) * probability.size
    return sums._replace(n_taken=float(taken))


def _length(maps: Maps, probability: str) -> NDArray[np.floating]:
    """Return the length of the flow; where there is none, the depth or the probability."""
    for name in FLOWS:
        if name in maps:
            return np.sqrt(np.square(maps[name]).sum(axis=0)).clip(0, 2)
    return np.asarray(maps.get("depth", maps[probability])[0])


class FitNotice(str):
    """A sentence for the user on how well a count can be expected to be."""

    __slots__ = ()


def in_short(fit: float | None, notices: Iterable[str] = ()) -> str:
    """Return what a fit means in a few words; empty where nothing is known.

    A :class:`CrowdNotice` of the count tells that cells may be hidden, of which a fit knows nothing.

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
    aside = ""
    if fit >= WARN_BELOW and any(isinstance(one, CrowdNotice) for one in notices):
        aside = ", hidden ones aside"
    if fit >= NEARLY_ALL:
        return f"nearly all right{aside}"
    return f"about {round(10 * fit)} of 10 right{aside}"


def expectation(fit: float | None, notices: Iterable[str] = ()) -> str:
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
    sentence = f"Expect {in_short(fit, notices)}."
    if fit < WARN_BELOW:
        sentence += " Look at the cells; five corrected images would teach the model this kind."
    return sentence


def expectation_of(result: Result, notices: Iterable[str] | None = None) -> str:
    """Return :func:`expectation` of a count, or why nothing is known; empty where nothing was found.

    It is empty, too, where cells were corrected by hand, which is told in its place.

    ``notices`` are those of the count where none are given.
    """
    if result.fit is not None:
        if notices is None:
            notices = result.notices
        return expectation(result.fit, notices)
    settings = result.provenance.settings
    if result.count < FEWEST or CORRECTED in settings:
        return ""
    if settings.get("density", {}).get("calibration", 1.0) != 1.0:
        why = "there is no fit of a density that was corrected by hand"
    elif "expected_f1" in settings:
        why = "the fit is of all cells, and filters left half of them or less"
    elif len(settings.get("models", ())) > 1:
        why = "there is no fit of several models together"
    else:
        why = f"{result.provenance.model} has no fit"
    return f"{NOT_KNOWN}: {why}."


def fit_columns(result: Result) -> dict[str, Any]:
    """Return ``fit``, where it is known, and ``expectation`` of a count for tables and JSON."""
    columns: dict[str, Any] = {}
    if result.fit is not None:
        columns["fit"] = round(result.fit, DIGITS)
    expected = expectation_of(result)
    if expected:
        columns["expectation"] = expected
    return columns


def in_short_of(row: Mapping[str, Any]) -> str:
    """Return :func:`in_short` of a row of a summary, which has ``fit``, or only an ``expectation``.

    A row keeps the text of the notices alone.
    """
    if "fit" not in row and row.get("expectation"):
        return "fit not known"
    notices = row.get("notices", "")
    if CROWD in notices:
        notices = CrowdNotice(notices)
    return in_short(row.get("fit"), [notices])


def with_fit_warning(notices: Sequence[str], fit: float | None) -> tuple[str, ...]:
    """Return the notices of a count whose fit was another one before."""
    kept = [notice for notice in notices if not isinstance(notice, FitNotice)]
    return tuple(filter(None, (*kept, warning(fit))))


def warning(fit: float | None) -> FitNotice:
    """Return what a fit means where the user has to know it without asking, else an empty sentence."""
    if fit is None or round(fit, DIGITS) >= WARN_BELOW:
        return FitNotice()
    return FitNotice(expectation(fit))
