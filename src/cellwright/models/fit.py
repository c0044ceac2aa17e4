"""How well a model can be expected to do on an image: a small regression that is kept beside the weights.

It was fitted to images with known cells, of kinds the model has learned and of others, by
``tools/release/calibrate_fit.py``. A model without ``fit.json`` says nothing of its images.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellwright.core.errors import CheckpointError

FIT = "fit.json"
FIT_VERSION = 1
NEAREST = 3  # training images that tell how far an image is from what was learned
DISTANCE = "distance"


class Evidence(NamedTuple):
    """What a count tells of how well it went.

    Parameters
    ----------
    facts
        Numbers by name; ``inference.fit`` tells what they mean.
    features : float32 (C,)
        Mean of the encoder's features over the image.
    """

    facts: Mapping[str, float]
    features: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class FitCalibration:
    """From the evidence of a count to the F1 (at an IoU of 0.5) that can be expected of it.

    Parameters
    ----------
    facts
        Names of the facts that the regression takes; ``distance`` is that of the features.
    centre, weights : float64 (F,)
        What is taken from each fact, and its weight in the logit.
    bias
        Of the logit.
    limits : float64 (F, 2)
        Lowest and highest value of each fact that was seen; others are clipped.
    feature_mean : float64 (C,), feature_basis : float64 (K, C)
        Bring features to K numbers of unit variance over the training images.
    reference : float64 (N, K)
        These numbers of some training images.
    """

    facts: tuple[str, ...]
    centre: NDArray[np.float64]
    weights: NDArray[np.float64]
    bias: float
    limits: NDArray[np.float64]
    feature_mean: NDArray[np.float64]
    feature_basis: NDArray[np.float64]
    reference: NDArray[np.float64]

    def distance(self, features: NDArray[np.floating]) -> float:
        """Return the logarithm of the mean distance to the nearest training images."""
        place = self.feature_basis @ (features - self.feature_mean)
        distances = np.sqrt(((self.reference - place) ** 2).sum(axis=1))
        return float(np.log(np.sort(distances)[:NEAREST].mean() + 1e-6))

    def expected_f1(self, evidence: Evidence) -> float:
        """Return the F1 to expect, 0 to 1."""
        known = {**evidence.facts, DISTANCE: self.distance(evidence.features)}
        values = np.array([known[name] for name in self.facts])
        logit = self.bias + (values.clip(*self.limits.T) - self.centre) @ self.weights
        return float(1 / (1 + np.exp(-logit)))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        values: dict[str, Any] = {"version": FIT_VERSION, "facts": list(self.facts), "bias": self.bias}
        for name in ARRAYS:
            values[name] = np.vectorize(_rounded, otypes=[float])(getattr(self, name)).tolist()
        return values


ARRAYS = ("centre", "weights", "limits", "feature_mean", "feature_basis", "reference")


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
        fit = FitCalibration(tuple(map(str, values["facts"])), bias=float(values["bias"]), **arrays)
        _check_shapes(fit)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"Expected version {FIT_VERSION} of the expected accuracy in {path}; got: {error!r}. Delete the "
            "file, or copy the model folder again."
        ) from error
    return fit


def _check_shapes(fit: FitCalibration) -> None:
    n_facts, (n_axes, n_features) = len(fit.facts), fit.feature_basis.shape
    wanted = {
        "centre": (n_facts,),
        "weights": (n_facts,),
        "limits": (n_facts, 2),
        "feature_mean": (n_features,),
        "reference": (len(fit.reference), n_axes),
    }
    for name, shape in wanted.items():
        if getattr(fit, name).shape != shape or not len(fit.reference):
            raise ValueError(f"{name} of shape {getattr(fit, name).shape}")


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
