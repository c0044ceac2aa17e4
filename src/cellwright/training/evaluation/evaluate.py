"""A model of any family against a dataset with known cells."""

from collections.abc import Callable
from dataclasses import replace
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
from cellwright.ops.labels import keep, measure
from cellwright.ops.matching import IOU_THRESHOLDS
from cellwright.ops.measure.cells_table import class_names
from cellwright.training.data.split import is_inside
from cellwright.training.evaluation.report import ImageScore, Report, Share, divided

Classify = Callable[[Result, Image], Task[Result]]


def evaluate(
    dataset: Dataset,
    model: CellModel,
    *,
    settings: Any = None,
    engine: EngineSettings = EngineSettings(),  # noqa: B008  frozen
    classify: Classify | None = None,
) -> Task[Report]:
    """Count the cells of every image of a dataset and compare them with what is annotated.

    Of an image that is annotated in regions, what lies inside of these.

    ``classify`` gives the cells of a result their classes, which are scored where the dataset has classes.

    Raises
    ------
    AnnotationError
        The model gives a bare count and not every cell of an image is annotated.
    """
    scored = []
    for done, item in enumerate(dataset.items):
        yield Progress("evaluate", done, len(dataset), item.name)
        image, truth = item.annotated()
        result = yield from count_cells(image, model, settings, engine)
        if classify is not None:
            result = yield from classify(result, image)
        scored.append(score(item, result, truth))
    return Report(tuple(scored))


def score(item: Item, result: Result, truth: Labels | Annotation) -> ImageScore:
    """Return how well what was found in an image fits what is annotated, inside of its regions.

    Raises
    ------
    AnnotationError
        The result is a bare count and not every cell is annotated.
    """
    result, truth = inside_regions(item, result, truth)
    if result.gives == "density":
        return score_count(item, result, truth)
    if isinstance(truth, Annotation):
        return score_found(item, result, truth)
    return score_cells(item, result, truth, is_volume="Z" in result.provenance.axes)


def inside_regions(
    item: Item, result: Result, truth: Annotation | Labels
) -> tuple[Result, Annotation | Labels]:
    """Return what was found and what is true inside of an item's regions; all of it where it has none.

    A cell lies where its middle does, and is judged as a whole; a density lies in each pixel. How far the
    density of a part may be off is not known, so that it has no interval.
    """
    regions = item.regions
    if not regions:
        return result, truth
    if isinstance(truth, Annotation):
        true: Annotation | Labels = _annotation_inside(truth, is_inside(truth.points, regions))
    else:
        true = keep(truth, is_inside(measure(truth).points[:, -2:], regions))
    cells = result.cells.take(is_inside(result.cells.points[:, -2:], regions))
    density = result.maps.get("density")
    if density is None:
        return replace(result, cells=cells, count=float(len(cells))), true
    density = np.where(_mask(item, density.shape), density, np.float32(0))
    count = float(density.sum(dtype=np.float64))
    return replace(result, cells=cells, count=count, maps={"density": density}, interval=None), true


def _annotation_inside(truth: Annotation, inside: NDArray[np.bool_]) -> Annotation:
    part = replace(truth, points=truth.points[inside])
    if truth.boxes is not None:
        part = replace(part, boxes=truth.boxes[inside])
    if truth.labels is not None:
        part = replace(part, labels=keep(truth.labels, inside))
    if truth.classes is not None:
        part = replace(part, classes=truth.classes[inside])
    return part


def _mask(item: Item, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(shape[-2:], np.bool_)
    for (top, left), (bottom, right) in item.regions:
        mask[top:bottom, left:right] = True
    return mask


def score_count(item: Item, result: Result, truth: Labels | Annotation) -> ImageScore:
    """Return how near a bare count came, and whether its interval holds the true one.

    Raises
    ------
    AnnotationError
        Not every cell is annotated.
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


def score_cells(item: Item, result: Result, truth: Labels, *, is_volume: bool = False) -> ImageScore:
    """Return how well found cells fit true labels: their points, their boxes and, if any, their outlines."""
    cells = result.cells
    n_true = int(truth.max(initial=0))
    pairs = matching.points_in_cells(cells.points, cells.scores, truth)
    shares = _hit_shares("point", len(pairs), len(cells), n_true)
    iou = matching.box_iou(cells.boxes[pairs[:, 0]], measure(truth).boxes[pairs[:, 1]])
    shares["box_iou"] = (float(iou.sum()), len(pairs))
    by_points = ImageScore(
        item.name,
        item.group,
        n_true,
        result.count,
        divided(*shares["point_f1"], empty=1.0),
        shares=shares,
        scores=cells.scores,
        is_right=np.isin(np.arange(len(cells)), pairs[:, 0]),
    )
    if cells.labels is None:
        return by_points
    return _with_outlines(by_points, cells.labels, truth, is_volume=is_volume)


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
        overlap = 0.0
        if len(pairs):
            overlap = float(table[pairs[:, 0], pairs[:, 1]].sum())
        shares["box_iou"] = (overlap, len(pairs))
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
        given = [own[number] if 0 <= number < len(own) else "" for number in cells.classes[pairs[:, 0]]]
        named = [(a, true[b]) for a, b in zip(given, truth.classes[pairs[:, 1]], strict=True) if b >= 0]
        shares["class_accuracy"] = (sum(a == b for a, b in named), len(named))
    return shares
