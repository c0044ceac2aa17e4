import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from cellwright.ops.labels import relabel
from cellwright.ops.matching import (
    IOU_THRESHOLDS,
    match_labels,
    match_overlaps,
    matched_pairs,
    overlaps,
    ranking_quality,
)
from cellwright.ops.simulate import simulate


def disturbed(seed):
    """True labels, and the same after some were shifted, joined, lost or made up."""
    rng = np.random.default_rng(seed)
    truth = simulate("fluorescence", (128, 128), rng, diameter_px=16, n_cells=30).labels
    predicted = truth.copy()
    predicted[:, :64] = np.roll(truth, rng.integers(-3, 4, 2), (0, 1))[:, :64]  # the other half stays exact
    n = int(truth.max())
    predicted[np.isin(predicted, rng.choice(n, n // 5, replace=False) + 1)] = 0
    first, second = rng.choice(n, 2, replace=False) + 1
    predicted[predicted == first] = second
    y, x = rng.integers(0, 110, 2)
    predicted[y : y + 9, x : x + 9] = n + 1
    return relabel(predicted), truth


def brute_force_iou(predicted, truth):
    table = np.zeros((predicted.max(), truth.max()))
    for row in range(table.shape[0]):
        for column in range(table.shape[1]):
            one, other = predicted == row + 1, truth == column + 1
            table[row, column] = (one & other).sum() / (one | other).sum()
    return table


@pytest.mark.parametrize("seed", range(8))
def test_overlaps_and_matches_are_those_of_the_brute_force(seed):
    predicted, truth = disturbed(seed)
    table = brute_force_iou(predicted, truth)
    iou = overlaps(predicted, truth)
    assert np.allclose(iou.toarray(), table)
    for threshold in (0.1, *IOU_THRESHOLDS):
        rows, columns = linear_sum_assignment(-(table >= threshold).astype(float))
        hits = table[rows, columns] >= threshold
        match = match_overlaps(iou, threshold)
        assert (match.n_predicted, match.n_true) == table.shape
        assert match.true_positives == hits.sum()
        if threshold > 0.5:  # above one half the pairs are unique, so their IoU must agree as well
            assert match.iou_sum == pytest.approx(table[rows, columns][hits].sum())


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_no_cell_is_matched_twice(threshold):
    predicted, truth = disturbed(3)
    iou = overlaps(predicted, truth)
    pairs = matched_pairs(iou, threshold)
    assert len(pairs) > 0
    assert all(len(np.unique(column)) == len(pairs) for column in pairs.T)
    assert (iou.toarray()[pairs[:, 0], pairs[:, 1]] >= threshold).all()


def test_the_scores_of_a_case_worked_by_hand():
    truth = np.zeros((10, 30), np.int32)
    truth[:, 0:10], truth[:, 12:20], truth[:, 24:28] = 1, 2, 3
    predicted = np.zeros_like(truth)
    predicted[:, 0:8] = 1  # IoU 0.8 with the first
    predicted[:, 16:20] = 2  # IoU 0.5 with the second
    match = match_labels(predicted, truth, 0.5)
    assert (match.true_positives, match.n_predicted, match.n_true) == (2, 2, 3)
    assert match.average_precision == pytest.approx(2 / 3)
    assert match.f1 == pytest.approx(4 / 5)
    assert match.panoptic_quality == pytest.approx(1.3 / 2.5)
    assert match_labels(predicted, truth, 0.55).true_positives == 1


def test_the_truth_matches_itself_at_every_threshold():
    _, truth = disturbed(0)
    for threshold in (*IOU_THRESHOLDS, 1.0):
        match = match_labels(truth, truth, threshold)
        assert (match.average_precision, match.f1) == (1, 1)
        assert match.panoptic_quality == pytest.approx(1)


@pytest.mark.parametrize(
    ("predicted", "truth", "score"),
    [(0, 0, 1.0), (1, 0, 0.0), (0, 1, 0.0)],
    ids=["both", "truth", "prediction"],
)
def test_empty_images(predicted, truth, score):
    match = match_labels(np.full((4, 4), predicted, np.int32), np.full((4, 4), truth, np.int32))
    assert (match.average_precision, match.f1, match.panoptic_quality) == (score, score, score)
    assert (match.true_positives, match.n_predicted, match.n_true) == (0, predicted, truth)


def test_volumes_are_matched_too():
    _, truth = disturbed(1)
    assert match_labels(np.stack([truth, truth]), np.stack([truth, truth])).f1 == 1


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n_levels", [3, 10_000])
def test_ranking_quality_is_the_share_of_pairs_in_order(seed, n_levels):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, n_levels, 60) / n_levels  # few levels: many ties, which count half
    is_right = rng.random(60) < 0.6
    right, wrong = scores[is_right][:, None], scores[~is_right]
    expected = ((right > wrong) + 0.5 * (right == wrong)).mean()
    assert ranking_quality(scores, is_right) == pytest.approx(expected)


def test_ranking_quality_needs_both_kinds():
    assert np.isnan(ranking_quality(np.array([0.1, 0.2]), np.array([True, True])))
    assert np.isnan(ranking_quality(np.zeros(0), np.zeros(0, bool)))
