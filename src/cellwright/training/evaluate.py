"""A model against a dataset with known cells: the scores of the field, per group."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.inference.count import count_cells
from cellwright.inference.settings import EngineSettings
from cellwright.io.dataset import Dataset
from cellwright.models.contract import CellModel
from cellwright.ops.matching import IOU_THRESHOLDS, match_overlaps, matched_pairs, overlaps, ranking_quality
from cellwright.tasks import Progress, Task


@dataclass(frozen=True, slots=True)
class ImageScore:
    """How one image was counted."""

    name: str
    group: str
    n_true: int
    n_predicted: int
    average_precision: tuple[float, ...]  # at each of IOU_THRESHOLDS
    f1: float
    panoptic_quality: float
    scores: NDArray[np.float32]
    is_right: NDArray[np.bool_]

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
        """Return AP at IoU 0.5 of all images and of each group, and the median count error of all images."""
        groups = self.groups()
        precision = {
            name: float(np.mean([image.average_precision[0] for image in images]))
            for name, images in groups.items()
        }
        error = float(np.median([image.count_error for image in self.images]))
        per_group = {f"ap50_{name}": value for name, value in precision.items() if name != "all"}
        return {"ap50": precision["all"], **per_group, "count_error": error}

    def to_json(self) -> dict[str, Any]:
        """Return the scores of each group as plain JSON values."""
        return {name: _scores(images) for name, images in self.groups().items()}


def evaluate(
    dataset: Dataset,
    model: CellModel,
    *,
    settings: Any = None,
    engine: EngineSettings = EngineSettings(),  # noqa: B008  frozen
) -> Task[Report]:
    """Count the cells of every image of a dataset and compare them with its labels."""
    scored = []
    for done, item in enumerate(dataset.items):
        yield Progress("evaluate", done, len(dataset), item.name)
        image, truth = item.read()
        result = yield from count_cells(image, model, settings, engine)
        assert result.cells.labels is not None  # a count always has them
        iou = overlaps(result.cells.labels, truth)
        matches = [match_overlaps(iou, threshold) for threshold in IOU_THRESHOLDS]
        is_right = np.zeros(len(result.cells), bool)
        is_right[matched_pairs(iou, 0.5)[:, 0]] = True
        scored.append(
            ImageScore(
                name=item.name,
                group=item.group,
                n_true=matches[0].n_true,
                n_predicted=matches[0].n_predicted,
                average_precision=tuple(match.average_precision for match in matches),
                f1=matches[0].f1,
                panoptic_quality=matches[0].panoptic_quality,
                scores=result.cells.scores,
                is_right=is_right,
            )
        )
    return Report(tuple(scored))


def _scores(images: Iterable[ImageScore]) -> dict[str, Any]:
    images = list(images)
    precision = np.mean([image.average_precision for image in images], axis=0)
    difference = np.array([image.n_predicted - image.n_true for image in images])
    error = np.array([image.count_error for image in images])
    return {
        "n_images": len(images),
        "n_true": int(sum(image.n_true for image in images)),
        "n_predicted": int(sum(image.n_predicted for image in images)),
        "ap": {
            f"{threshold:.2f}": round(float(value), 4)
            for threshold, value in zip(IOU_THRESHOLDS, precision, strict=True)
        },
        "mean_ap": round(float(precision.mean()), 4),
        "f1": round(float(np.mean([image.f1 for image in images])), 4),
        "pq": round(float(np.mean([image.panoptic_quality for image in images])), 4),
        "count_mae": round(float(np.abs(difference).mean()), 3),
        "count_mape": round(float(error.mean()), 4),
        "count_median_error": round(float(np.median(error)), 4),
        "score_auroc": round(
            ranking_quality(
                np.concatenate([image.scores for image in images]),
                np.concatenate([image.is_right for image in images]),
            ),
            4,
        ),
    }
