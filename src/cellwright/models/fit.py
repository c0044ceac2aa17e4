"""How well a model can be expected to do on an image: a small regression that is kept beside the weights.

It was fitted to images with known cells, of kinds the model has learned and of others, by
``tools/release/calibrate_fit.py``. A model without ``fit.json`` says nothing of its images.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.errors import CheckpointError
from cellwright.files.json_value import NO_JSON

FIT = "fit.json"
FIT_VERSION = 1
FACTS = ("confidence", "score_low", "flow_length", "ambiguous", "left_over")
ARRAYS = ("centre", "weights", "limits")


@dataclass(frozen=True, slots=True, eq=False)
class FitCalibration:
    """A logistic regression of the F1 (at an IoU of 0.5) to expect of a count on facts about it."""

    facts: tuple[str, ...]  # their names; ``inference.fit`` tells what they mean
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

    Raises
    ------
    CheckpointError
        The file is damaged or of a newer version.
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
