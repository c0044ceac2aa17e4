"""Prediction against truth: which cells match, and the scores that follow.

Source: average precision as in Caicedo et al., Nature Methods 16, 1247 (2019),
doi:10.1038/s41592-019-0612-7; panoptic quality as in Kirillov et al. (2019), doi:10.1109/CVPR.2019.00963.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from cellwright.types import Labels

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
        return self.true_positives / union if union else 1.0

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN)."""
        total = self.n_predicted + self.n_true
        return 2 * self.true_positives / total if total else 1.0

    @property
    def panoptic_quality(self) -> float:
        """Sum of the IoU of matched pairs / (TP + FP/2 + FN/2)."""
        total = self.n_predicted + self.n_true
        return 2 * self.iou_sum / total if total else 1.0


def overlaps(predicted: Labels, truth: Labels) -> csr_array:
    """Return the IoU of each predicted (row) with each true (column) cell, labels 1..N and 1..M, sparse."""
    n_predicted, n_true = int(predicted.max(initial=0)), int(truth.max(initial=0))
    both = (predicted > 0) & (truth > 0)
    rows, columns = predicted[both].astype(np.int64) - 1, truth[both].astype(np.int64) - 1
    shared = coo_array((np.ones(len(rows)), (rows, columns)), shape=(n_predicted, n_true)).tocsr().tocoo()
    area_predicted = np.bincount(predicted.ravel(), minlength=n_predicted + 1)[1:]
    area_true = np.bincount(truth.ravel(), minlength=n_true + 1)[1:]
    row, column = shared.coords
    iou = shared.data / (area_predicted[row] + area_true[column] - shared.data)
    return csr_array((iou, (row, column)), shape=(n_predicted, n_true))


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
