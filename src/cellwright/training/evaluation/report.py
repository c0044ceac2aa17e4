"""The scores of the field, of single images and, added up, of each group of a dataset."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.ops.matching import IOU_THRESHOLDS, ranking_quality

Share = tuple[float, float]  # a part and its whole; added up over images before one is divided by the other


@dataclass(frozen=True, slots=True)
class ImageScore:
    """How one image was counted; ``scores`` and ``is_right`` (N,) are of each cell found, or empty."""

    name: str
    group: str
    n_true: int  # cells annotated
    n_predicted: float  # cells counted
    score: float  # 0 to 1: AP at IoU 0.5 or F1 of points, recall or 1 / (1 + relative error)
    is_complete: bool = True  # whether every cell is annotated; if not, only recall means something
    average_precision: tuple[float, ...] = ()  # at each of ``IOU_THRESHOLDS``; empty without outlines
    means: Mapping[str, float] = field(default_factory=dict)  # figures for which all images weigh the same
    shares: Mapping[str, Share] = field(default_factory=dict)  # all cells weigh the same
    scores: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    is_right: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))

    @property
    def count_error(self) -> float:
        """abs(predicted - true) / true."""
        return abs(self.n_predicted - self.n_true) / max(self.n_true, 1)


@dataclass(frozen=True, slots=True)
class Report:
    """The scores of all images of a dataset."""

    images: tuple[ImageScore, ...]

    def groups(self) -> dict[str, list[ImageScore]]:
        """Return the images of each group, and of all under ``all``."""
        found: dict[str, list[ImageScore]] = {"all": list(self.images)}
        for image in self.images:
            if image.group:
                found.setdefault(image.group, []).append(image)
        return found

    def summary(self) -> dict[str, float]:
        """Return ``score`` and the few figures that tell most.

        With outlines these are AP at IoU 0.5 of all images and of each group (``ap50``), else the score of
        each group and the IoU of boxes or how often the interval held; and the median count error.
        """
        has_outlines = all(image.average_precision for image in self.images)
        figure = "ap50" if has_outlines else "score"
        table = self.to_json()
        values = {"score": float(np.mean([image.score for image in self.images]))}
        for name, images in self.groups().items():
            key = figure if name == "all" else f"{figure}_{name}"
            values[key] = float(np.mean([image.score for image in images]))
        if not has_outlines:
            keys = ("box_iou", "interval_coverage")
            values |= {key: table["all"][key] for key in keys if table["all"].get(key) is not None}
        errors = [image.count_error for image in self.images if image.is_complete]
        if errors:
            values["count_error"] = float(np.median(errors))
        return values

    def to_json(self) -> dict[str, Any]:
        """Return the scores of each group as plain JSON values; None where a figure has nothing to go by."""
        return {name: _scores(images) for name, images in self.groups().items()}


def _scores(images: Iterable[ImageScore]) -> dict[str, Any]:
    images = list(images)
    return {
        "n_images": len(images),
        "n_true": sum(image.n_true for image in images),
        "n_predicted": round(sum(image.n_predicted for image in images)),
        "score": _rounded(np.mean([image.score for image in images])),
        **_outline_scores([image for image in images if image.average_precision]),
        **_pooled(images),
        **_count_errors([image for image in images if image.is_complete]),
        **_ranking([image for image in images if len(image.scores)]),
    }


def _outline_scores(images: list[ImageScore]) -> dict[str, Any]:
    if not images:
        return {}
    precision = np.mean([image.average_precision for image in images], axis=0)
    return {
        "ap": {
            f"{threshold:.2f}": _rounded(value)
            for threshold, value in zip(IOU_THRESHOLDS, precision, strict=True)
        },
        "mean_ap": _rounded(precision.mean()),
        **{key: _rounded(np.mean([image.means[key] for image in images])) for key in images[0].means},
    }


def _pooled(images: list[ImageScore]) -> dict[str, float | None]:
    sums: dict[str, Share] = {}
    for image in images:
        for key, (part, whole) in image.shares.items():
            before = sums.get(key, (0.0, 0.0))
            sums[key] = (before[0] + part, before[1] + whole)
    return {key: _rounded(divided(*share)) for key, share in sums.items()}


def _count_errors(images: list[ImageScore]) -> dict[str, float | None]:
    if not images:
        return {}
    difference = np.array([image.n_predicted - image.n_true for image in images])
    error = np.array([image.count_error for image in images])
    return {
        "count_mae": _rounded(np.abs(difference).mean(), 3),
        "count_mape": _rounded(error.mean()),
        "count_median_error": _rounded(np.median(error)),
    }


def _ranking(images: list[ImageScore]) -> dict[str, float | None]:
    if not images:
        return {}
    scores = np.concatenate([image.scores for image in images])
    return {
        "score_auroc": _rounded(ranking_quality(scores, np.concatenate([image.is_right for image in images])))
    }


def _rounded(value: Any, digits: int = 4) -> float | None:
    if not np.isfinite(value):
        return None
    return round(float(value), digits)


def divided(part: float, whole: float, empty: float = np.nan) -> float:
    """Return a part over its whole; ``empty`` where that is 0."""
    if not whole:
        return empty
    return part / whole
