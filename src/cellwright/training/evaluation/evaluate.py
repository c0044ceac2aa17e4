"""A model of any family against a dataset with known cells."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Annotation, Cells, Image, Labels, Result
from cellwright.core.errors import AnnotationError
from cellwright.core.tasks import Progress, Task
from cellwright.files.dataset.folder import Dataset, Item
from cellwright.inference.pipeline import count_cells
from cellwright.inference.settings import EngineSettings
from cellwright.models.protocol import CellModel
from cellwright.ops import matching
from cellwright.ops.labels import keep_labels, label_properties, pieces_notice
from cellwright.ops.matching import IOU_THRESHOLDS, ranking_quality
from cellwright.ops.measure.cells_table import class_names
from cellwright.training.data.split import is_inside

Classify = Callable[[Result, Image], Task[Result]]
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
    notices: tuple[str, ...] = ()  # on how the true cells were read
    fit: float | None = None  # F1 that the count let expect

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
    at_iou = zip(IOU_THRESHOLDS, precision, strict=True)
    return {
        "ap": {f"{threshold:.2f}": _rounded(value) for threshold, value in at_iou},
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
    is_right = np.concatenate([image.is_right for image in images])
    return {"score_auroc": _rounded(ranking_quality(scores, is_right))}


def _rounded(value: Any, digits: int = 4) -> float | None:
    if not np.isfinite(value):
        return None
    return round(float(value), digits)


def divided(part: float, whole: float, empty: float = np.nan) -> float:
    """Return a part over its whole; ``empty`` where that is 0."""
    if not whole:
        return empty
    return part / whole


def evaluate(
    dataset: Dataset,
    model: CellModel,
    *,
    settings: Any = None,
    engine: EngineSettings = EngineSettings(),  # noqa: B008  frozen
    classify: Classify | None = None,
) -> Task[Report]:
    """Count the cells of every image of a dataset and compare them with what is annotated.

    Of an image that is annotated in regions, what lies inside these.

    ``classify`` gives the cells of a result their classes, which are scored where the dataset has classes.

    AnnotationError where the model gives a bare count and not every cell of an image is annotated.
    """
    scored = []
    for done, item in enumerate(dataset.items):
        yield Progress("evaluate", done, len(dataset), item.name)
        image, truth, notices = explained(item)
        result = yield from count_cells(image, model, settings, engine)
        if classify is not None:
            result = yield from classify(result, image)
        scored.append(replace(score_image(item, result, truth), notices=notices, fit=result.fit))
    return Report(tuple(scored))


def explained(item: Item) -> tuple[Image, Annotation | Labels, tuple[str, ...]]:
    """Return an image, its true cells, and what the user should know of these: a mask of one value, say."""
    image, truth, notices = item.explained()
    labels = truth.labels if isinstance(truth, Annotation) else truth
    if labels is not None:
        in_pieces = pieces_notice(labels, f"the true cells of {item.name!r}")
        notices = (*notices, in_pieces) if in_pieces else notices
    return image, truth, notices


def score_image(item: Item, result: Result, truth: Labels | Annotation) -> ImageScore:
    """Return how well what was found in an image fits what is annotated, inside its regions.

    AnnotationError where the result is a bare count and not every cell is annotated.
    """
    result, truth = in_annotated_regions(item, result, truth)
    if result.gives == "density":
        return score_count(item, result, truth)
    if isinstance(truth, Annotation):
        return score_found(item, result, truth)
    return score_cells(item, result, truth)


def in_annotated_regions(
    item: Item, result: Result, truth: Annotation | Labels
) -> tuple[Result, Annotation | Labels]:
    """Return what was found and what is true inside an item's regions; all of it where it has none.

    A cell lies where its middle does, and is judged as a whole; a density lies in each pixel. How far the
    density of a part may be off is not known, so that it has no interval.
    """
    regions = item.regions
    if not regions:
        return result, truth
    if isinstance(truth, Annotation):
        true: Annotation | Labels = _annotation_inside(truth, is_inside(truth.points, regions))
    else:
        true = keep_labels(truth, is_inside(label_properties(truth).points[:, -2:], regions))
    cells = result.cells.take(is_inside(result.cells.points[:, -2:], regions))
    density = result.maps.get("density")
    if density is None:
        return replace(result, cells=cells, count=float(len(cells))), true
    mask = np.zeros(density.shape[-2:], np.bool_)
    for (top, left), (bottom, right) in regions:
        mask[top:bottom, left:right] = True
    density = np.where(mask, density, np.float32(0))
    count = float(density.sum(dtype=np.float64))
    return replace(result, cells=cells, count=count, maps={"density": density}, interval=None), true


def _annotation_inside(truth: Annotation, inside: NDArray[np.bool_]) -> Annotation:
    part = replace(truth, points=truth.points[inside])
    if truth.boxes is not None:
        part = replace(part, boxes=truth.boxes[inside])
    if truth.labels is not None:
        part = replace(part, labels=keep_labels(truth.labels, inside))
    if truth.classes is not None:
        part = replace(part, classes=truth.classes[inside])
    return part


def score_count(item: Item, result: Result, truth: Labels | Annotation) -> ImageScore:
    """Return how near a bare count came, and whether its interval holds the true one.

    AnnotationError where not every cell is annotated.
    """
    if not item.is_complete:
        raise AnnotationError(
            f"A count can be scored where every cell is annotated; of {item.name!r} only some are known to "
            'be. Choose a dataset with masks, or say "complete": true in its meta.json.'
        )
    n_true = len(truth.points) if isinstance(truth, Annotation) else int(truth.max(initial=0))
    shares: dict[str, Share] = {}
    if result.interval is not None:
        low, high = result.interval
        shares = {
            "interval_coverage": (float(low <= n_true <= high), 1.0),
            "interval_width": (high - low, n_true),  # in true cells
        }
    error = abs(result.count - n_true) / max(n_true, 1)
    return ImageScore(item.name, item.group, n_true, result.count, 1 / (1 + error), shares=shares)


def score_cells(item: Item, result: Result, truth: Labels) -> ImageScore:
    """Return how well found cells fit true labels: their points, their boxes and, if any, their outlines.

    Unless every cell is annotated, there is recall of points alone.
    """
    cells = result.cells
    n_true = int(truth.max(initial=0))
    pairs = matching.points_in_cells(cells.points, cells.scores, truth)
    shares = _hit_shares("point", len(pairs), len(cells), n_true)
    recall = shares["point_recall"]
    by_points = ImageScore(
        item.name,
        item.group,
        n_true,
        result.count,
        divided(*recall, empty=1.0),
        is_complete=item.is_complete,
        shares={"point_recall": recall},
    )
    if not item.is_complete:
        return by_points
    iou = matching.box_iou(cells.boxes[pairs[:, 0]], label_properties(truth).boxes[pairs[:, 1]])
    by_points = replace(
        by_points,
        score=divided(*shares["point_f1"], empty=1.0),
        shares={**shares, "box_iou": (float(iou.sum()), len(pairs))},
        scores=cells.scores,
        is_right=np.isin(np.arange(len(cells)), pairs[:, 0]),
    )
    if cells.labels is None:
        return by_points
    return _with_outlines(by_points, cells.labels, truth, is_volume="Z" in result.provenance.axes)


def _with_outlines(by_points: ImageScore, labels: Labels, truth: Labels, *, is_volume: bool) -> ImageScore:
    iou = matching.overlaps(labels, truth)
    matches = [matching.match_overlaps(iou, threshold) for threshold in IOU_THRESHOLDS]
    seg = matching.seg_scores(labels, truth)
    found, n_both = 2.0 * matches[0].true_positives, float(matches[0].n_true + matches[0].n_predicted)
    shares = {**by_points.shares, "seg": (float(seg.sum()), float(by_points.n_true))}
    shares["cell_f1"] = (found, n_both)
    if is_volume:
        shares["continuity"] = matching.continuity(labels, truth)
    hits = matching.matched_pairs(iou, 0.5)[:, 0]
    return replace(
        by_points,
        score=matches[0].average_precision,
        average_precision=tuple(match.average_precision for match in matches),
        means={
            "f1": matches[0].f1,
            "pq": matches[0].panoptic_quality,
            "image_seg": float(seg.mean()) if len(seg) else 1.0,
        },
        shares=shares,
        is_right=np.isin(np.arange(len(by_points.scores)), hits),
    )


def score_found(item: Item, result: Result, truth: Annotation) -> ImageScore:
    """Return which of the annotated boxes or points were found, and with which class.

    A box is found by one of IoU 0.5, a point by a box around it. Unless every cell is annotated, there is
    recall alone.
    """
    cells = result.cells
    if truth.boxes is None:
        kind, table = "point", matching.boxes_around(cells.boxes, truth.points)
    else:
        kind, table = "box", matching.box_overlaps(cells.boxes, truth.boxes)
    pairs = matching.matched_pairs(table, 0.5)
    shares = _hit_shares(kind, len(pairs), len(cells), len(truth.points))
    if not truth.is_complete:
        shares = {f"{kind}_recall": shares[f"{kind}_recall"]}
    figure = "f1" if truth.is_complete else "recall"
    quality = divided(*shares[f"{kind}_{figure}"], empty=1.0)
    if truth.boxes is not None:
        shares["box_iou"] = (float(table[pairs[:, 0], pairs[:, 1]].sum()), len(pairs))
    shares |= _class_shares(kind, cells, truth, pairs, (class_names(result), item.classes))
    return ImageScore(
        item.name,
        item.group,
        len(truth.points),
        result.count,
        quality,
        is_complete=truth.is_complete,
        shares=shares,
    )


def _hit_shares(kind: str, n_hits: int, n_predicted: int, n_true: int) -> dict[str, Share]:
    return {
        f"{kind}_recall": (n_hits, n_true),
        f"{kind}_precision": (n_hits, n_predicted),
        f"{kind}_f1": (2 * n_hits, n_predicted + n_true),
    }


def _class_shares(
    kind: str,
    cells: Cells,
    truth: Annotation,
    pairs: NDArray[np.int64],
    names: tuple[tuple[str, ...], tuple[str, ...]],
) -> dict[str, Share]:
    """Recall of each class, and how many of the hits were given their own; classes are compared by name."""
    if truth.classes is None:
        return {}
    own, true = names
    shares: dict[str, Share] = {}
    for number in np.unique(truth.classes[truth.classes >= 0]):
        hits = float((truth.classes[pairs[:, 1]] == number).sum())
        shares[f"{kind}_recall_{true[number]}"] = (hits, float((truth.classes == number).sum()))
    if cells.classes is not None and own:
        called = dict(enumerate(own))
        given = [called.get(int(number), "") for number in cells.classes[pairs[:, 0]]]
        named = [(a, true[b]) for a, b in zip(given, truth.classes[pairs[:, 1]], strict=True) if b >= 0]
        shares["class_accuracy"] = (sum(a == b for a, b in named), len(named))
    return shares
