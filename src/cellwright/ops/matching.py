"""Prediction against truth: which cells match, and the scores that follow.

Whatever is compared, a pair is a row (predicted) and a column (true), each used once. Where only some of the
true cells are annotated, the share of these that is found (recall) means something; what else was found may
be right, so that precision, F1 and counts mean nothing.

Source: average precision as in Caicedo et al., Nature Methods 16, 1247 (2019),
doi:10.1038/s41592-019-0612-7; panoptic quality as in Kirillov et al. (2019), doi:10.1109/CVPR.2019.00963;
SEG as in Maška et al., Nature Methods 20, 1010 (2023), doi:10.1038/s41592-023-01879-y.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import KDTree

from cellwright.core.data import Labels

IOU_THRESHOLDS = tuple(np.round(np.arange(0.5, 1.0, 0.05), 2).tolist())


@dataclass(frozen=True, slots=True)
class Match:
    """How many cells were found at one IoU threshold, and how well they overlap."""

    true_positives: int
    n_predicted: int
    n_true: int
    iou_sum: float

    @property
    def average_precision(self) -> float:
        """TP / (TP + FP + FN); 1 when there is nothing to find and nothing was found."""
        union = self.n_predicted + self.n_true - self.true_positives
        return _ratio(self.true_positives, union)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN)."""
        total = self.n_predicted + self.n_true
        return _ratio(2 * self.true_positives, total)

    @property
    def panoptic_quality(self) -> float:
        """Sum of the IoU of matched pairs / (TP + FP/2 + FN/2)."""
        total = self.n_predicted + self.n_true
        return _ratio(2 * self.iou_sum, total)


def _ratio(found: float, wanted: int) -> float:
    """Return one over the other; 1 where nothing was to be found and nothing was."""
    if not wanted:
        return 1.0
    return found / wanted


def overlaps(predicted: Labels, truth: Labels) -> csr_array:
    """Return the IoU of each predicted (row) with each true (column) cell, labels 1..N and 1..M, sparse."""
    row, column, shared, areas = _shared_areas(predicted, truth)
    iou = shared / (areas[0][row] + areas[1][column] - shared)
    return csr_array((iou, (row, column)), shape=(len(areas[0]), len(areas[1])))


def seg_scores(predicted: Labels, truth: Labels) -> NDArray[np.float64]:
    """Return the SEG of each true cell (M,): its IoU with the one that covers more than half of it, or 0."""
    row, column, shared, areas = _shared_areas(predicted, truth)
    scores = np.zeros(len(areas[1]))
    covers = shared > 0.5 * areas[1][column]
    row, column, shared = row[covers], column[covers], shared[covers]
    scores[column] = shared / (areas[0][row] + areas[1][column] - shared)
    return scores


def continuity(predicted: Labels, truth: Labels) -> tuple[int, int]:
    """Return how often a true cell keeps its predicted label from one slice to the next, and of how often.

    Counted are neighbouring slices (Z, Y, X) in which a true cell is covered at all; its label in a slice
    is the one that covers most of it there.
    """
    both = (predicted > 0) & (truth > 0)
    places = np.stack([np.nonzero(both)[0], truth[both], predicted[both]], axis=1)
    triples, areas = np.unique(places, axis=0, return_counts=True)
    triples = triples[np.lexsort((-areas, triples[:, 0], triples[:, 1]))]  # by cell, slice, largest first
    _, first = np.unique(triples[:, :2], axis=0, return_index=True)
    slices, cells, labels = triples[np.sort(first)].T
    goes_on = (np.diff(cells) == 0) & (np.diff(slices) == 1)
    return int((goes_on & (np.diff(labels) == 0)).sum()), int(goes_on.sum())


def points_in_cells(
    points: NDArray[np.floating], scores: NDArray[np.floating], truth: Labels
) -> NDArray[np.int64]:
    """Return (K, 2) pairs of a point and the true cell it lies in, each cell at most once.

    Where several points lie in one cell, the one with the best score has it.

    ``points`` (N, D) are in pixels, the first pixel's middle at 0, with their ``scores`` (N,); ``truth`` has
    the labels 1..M.
    """
    last = np.array(truth.shape) - 1
    nearest = np.rint(points).astype(np.int64).reshape(-1, truth.ndim)
    is_inside = ((nearest >= 0) & (nearest <= last)).all(axis=1)
    label = np.where(is_inside, truth[tuple(nearest.clip(0, last).T)], 0)
    order = np.argsort(-scores, kind="stable")
    order = order[label[order] > 0]
    _, first = np.unique(label[order], return_index=True)
    rows = np.sort(order[first])
    return np.stack([rows, label[rows].astype(np.int64) - 1], axis=1)


def box_iou(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the IoU (...) of boxes (..., 2, D), first and one-past-last corner, broadcast."""
    low = np.maximum(first[..., 0, :], second[..., 0, :])
    high = np.minimum(first[..., 1, :], second[..., 1, :])
    shared = (high - low).clip(0).prod(axis=-1)
    areas = [(boxes[..., 1, :] - boxes[..., 0, :]).prod(axis=-1) for boxes in (first, second)]
    return shared / np.maximum(areas[0] + areas[1] - shared, np.finfo(np.float32).tiny)


def box_overlaps(predicted: NDArray[np.floating], truth: NDArray[np.floating]) -> csr_array:
    """Return the IoU of predicted (N, 2, D) and true (M, 2, D) boxes, sparse (N, M).

    Some are left out where it is below one half: from there on, the middles are no further apart on any axis
    than half a side of either.
    """
    rows, columns = _within_reach(predicted, truth.mean(axis=1))
    iou = box_iou(predicted[rows], truth[columns])
    return csr_array((iou, (rows, columns)), shape=(len(predicted), len(truth)))


def boxes_around(boxes: NDArray[np.floating], points: NDArray[np.floating]) -> csr_array:
    """Return 1 where a predicted box (N, 2, D) holds a true point (M, D), sparse (N, M)."""
    corner = points + 0.5  # the middle of the first pixel is half a pixel from the corner of its box
    rows, columns = _within_reach(boxes, corner)
    is_inside = ((boxes[rows, 0] <= corner[columns]) & (corner[columns] < boxes[rows, 1])).all(axis=1)
    return csr_array((is_inside.astype(np.float32), (rows, columns)), shape=(len(boxes), len(points)))


def _within_reach(
    boxes: NDArray[np.floating], points: NDArray[np.floating]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows and columns of boxes (N, 2, D) and the points (M, D) in the balls around them."""
    reach = np.linalg.norm(boxes[:, 1] - boxes[:, 0], axis=1) / 2
    near = KDTree(points).query_ball_point(boxes.mean(axis=1), reach)
    rows = np.repeat(np.arange(len(boxes)), [len(one) for one in near])
    return rows, np.concatenate([np.zeros(0, np.intp), *near]).astype(np.intp)


def matched_pairs(iou: csr_array, threshold: float) -> NDArray[np.int64]:
    """Return (K, 2) pairs of rows and columns with at least this IoU, each row and column at most once."""
    allowed = iou.copy()
    allowed.data = (iou.data >= threshold).astype(np.int8)
    allowed.eliminate_zeros()
    if 0 in allowed.shape or allowed.nnz == 0:
        return np.zeros((0, 2), np.int64)
    column_of = maximum_bipartite_matching(allowed, perm_type="column").astype(np.int64)
    rows = np.flatnonzero(column_of >= 0)
    return np.stack([rows, column_of[rows]], axis=1)


def match_labels(predicted: Labels, truth: Labels, threshold: float = 0.5) -> Match:
    """Return how well predicted labels match the truth at one IoU threshold (labels without gaps)."""
    return match_overlaps(overlaps(predicted, truth), threshold)


def match_overlaps(iou: csr_array, threshold: float) -> Match:
    """Return the match at one threshold for an IoU table from :func:`overlaps`."""
    pairs = matched_pairs(iou, threshold)
    iou_sum = float(iou[pairs[:, 0], pairs[:, 1]].sum()) if len(pairs) else 0.0
    return Match(len(pairs), iou.shape[0], iou.shape[1], iou_sum)


def ranking_quality(scores: NDArray[np.floating], is_right: NDArray[np.bool_]) -> float:
    """Return the AUROC: the chance that a right cell scores above a wrong one (NaN without both)."""
    n_right, n_wrong = int(is_right.sum()), int((~is_right).sum())
    if not n_right or not n_wrong:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # mean rank of tied scores
    rank_sum = float(ranks[inverse][is_right].sum())
    return (rank_sum - n_right * (n_right + 1) / 2) / (n_right * n_wrong)


def _shared_areas(
    predicted: Labels, truth: Labels
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], tuple[NDArray[np.int64], ...]]:
    """Rows and columns of the cells that share pixels, how many pixels, and the areas of all cells."""
    n_predicted, n_true = int(predicted.max(initial=0)), int(truth.max(initial=0))
    both = (predicted > 0) & (truth > 0)
    rows, columns = predicted[both].astype(np.int64) - 1, truth[both].astype(np.int64) - 1
    shared = coo_array((np.ones(len(rows)), (rows, columns)), shape=(n_predicted, n_true)).tocsr().tocoo()
    areas = tuple(
        np.bincount(labels.ravel(), minlength=n + 1)[1:]
        for labels, n in ((predicted, n_predicted), (truth, n_true))
    )
    row, column = shared.coords
    return row, column, shared.data, areas
