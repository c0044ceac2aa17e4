import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from cellwright.ops.labels import label_properties, relabel
from cellwright.ops.matching import (
    IOU_THRESHOLDS,
    box_iou,
    box_overlaps,
    boxes_around,
    continuity,
    match_labels,
    match_overlaps,
    matched_pairs,
    overlaps,
    points_in_cells,
    ranking_quality,
    seg_scores,
)
from cellwright.ops.simulation.simulate import simulate


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


def test_every_true_cell_has_one_point(rng):
    """Three points in the first cell, one in the second, one beside, two outside of the image."""
    truth = np.zeros((10, 20), np.int32)
    truth[2:6, 2:6], truth[2:6, 10:14], truth[8, 8] = 1, 2, 3
    points = np.array([[3, 3], [2, 5.4], [4, 4], [5.4, 13.4], [5.6, 12], [-1, 3], [3, 30]], np.float32)
    scores = np.array([0.5, 0.9, 0.7, 0.1, 1.0, 1.0, 1.0], np.float32)
    pairs = points_in_cells(points, scores, truth)
    assert pairs.tolist() == [[1, 0], [3, 1]]
    order = rng.permutation(len(points))
    moved = points_in_cells(points[order], scores[order], truth)
    assert sorted(order[moved[:, 0]]) == [1, 3]


def test_of_equal_points_the_first_has_the_cell():
    pairs = points_in_cells(np.zeros((3, 2)), np.ones(3), np.ones((4, 4), np.int32))
    assert pairs.tolist() == [[0, 0]]


@pytest.mark.parametrize("shape", [(6, 7), (3, 6, 7)])
def test_no_points_and_no_cells_make_no_pairs(shape):
    nothing = np.zeros((0, len(shape)), np.float32)
    assert points_in_cells(nothing, np.zeros(0), np.ones(shape, np.int32)).shape == (0, 2)
    some = np.ones((2, len(shape)), np.float32)
    assert points_in_cells(some, np.ones(2), np.zeros(shape, np.int32)).shape == (0, 2)


@pytest.mark.parametrize("seed", range(4))
def test_centroids_lie_in_their_own_cells(seed):
    drawn = simulate("fluorescence", (96, 96), np.random.default_rng(seed), diameter_px=14, n_cells=20)
    truth = relabel(drawn.labels)
    areas, points, _ = label_properties(truth)
    pairs = points_in_cells(points, areas, truth)
    assert len(pairs) >= 0.95 * truth.max()  # a crescent's centroid may lie outside of it
    assert (pairs[:, 0] == pairs[:, 1]).mean() > 0.95


def test_boxes_worked_by_hand():
    true = np.array([[[0, 0], [10, 10]], [[0, 20], [10, 30]], [[50, 50], [60, 60]]], np.float32)
    found = np.array([[[0, 0], [10, 8]], [[0, 25], [10, 35]], [[0, 10], [10, 20]]], np.float32)
    iou = box_overlaps(found, true)
    assert np.allclose(iou.toarray(), [[0.8, 0, 0], [0, 1 / 3, 0], [0, 0, 0]])
    assert matched_pairs(iou, 0.5).tolist() == [[0, 0]]
    assert np.allclose(box_iou(found, true), [0.8, 1 / 3, 0])
    assert np.allclose(box_iou(true, true), 1)
    assert box_iou(np.zeros((2, 2)), np.zeros((2, 2))) == 0  # of no area


@pytest.mark.parametrize("seed", range(4))
def test_the_iou_of_boxes_is_that_of_the_pixels_in_them(seed):
    rng = np.random.default_rng(seed)
    first, extent = rng.integers(0, 12, (2, 5, 3))
    boxes = np.stack([first, first + extent % 9 + 1], axis=1).astype(np.float32)
    pixels = []
    for low, past in boxes.astype(int):
        drawn = np.zeros((24, 24, 24), bool)
        drawn[low[0] : past[0], low[1] : past[1], low[2] : past[2]] = True
        pixels.append(drawn)
    expected = [[(a & b).sum() / (a | b).sum() for b in pixels] for a in pixels]
    assert np.allclose(box_iou(boxes[:, np.newaxis], boxes[np.newaxis]), expected)


@pytest.mark.parametrize("n_axes", [2, 3])
def test_no_boxes_that_overlap_by_half_are_missed(rng, n_axes):
    low = rng.uniform(0, 60, (150, n_axes))
    boxes = np.stack([low, low + rng.uniform(4, 12, low.shape)], axis=1)
    moved = boxes + rng.uniform(-3, 3, (150, 2, n_axes))
    expected, found = box_iou(boxes[:, np.newaxis], moved[np.newaxis]), box_overlaps(boxes, moved).toarray()
    assert 10 < (expected >= 0.5).sum() < 140
    assert np.allclose(found, np.where(found > 0, expected, 0))
    assert (found > 0)[expected >= 0.5].all()


def test_no_boxes_overlap_nothing():
    some, none = np.ones((3, 2, 2), np.float32), np.zeros((0, 2, 2), np.float32)
    for found, true in ((some, none), (none, some), (none, none)):
        assert matched_pairs(box_overlaps(found, true), 0.5).shape == (0, 2)


def test_points_lie_in_boxes_from_edge_to_edge():
    boxes = np.array([[[2, 2], [4, 4]], [[2, 2], [9, 9]]], np.float32)
    points = np.array([[1.4, 2], [1.5, 3], [3.4, 3.4], [3.5, 3], [8, 8]], np.float32)
    expected = [[0, 1, 1, 0, 0], [0, 1, 1, 1, 1]]
    table = boxes_around(boxes, points)
    assert table.toarray().tolist() == expected
    assert len(matched_pairs(table, 1.0)) == 2  # each box finds one


def test_seg_of_a_case_worked_by_hand():
    truth = np.zeros((10, 50), np.int32)
    truth[:, 0:10], truth[:, 12:20], truth[:, 24:28], truth[:, 30:40] = 1, 2, 3, 4
    predicted = np.zeros_like(truth)
    predicted[:, 0:8] = 1  # covers 0.8 of the first: IoU 0.8
    predicted[:, 16:20] = 2  # covers just half of the second, which is not more than half
    predicted[:, 28:40], predicted[:, 24:28] = 3, 3  # one for two: IoU 4/16 and 10/16
    assert np.allclose(seg_scores(predicted, truth), [0.8, 0, 0.25, 0.625])
    assert np.allclose(seg_scores(truth, truth), 1)
    assert np.allclose(seg_scores(np.zeros_like(truth), truth), 0)
    assert len(seg_scores(truth, np.zeros_like(truth))) == 0


@pytest.mark.parametrize("seed", range(4))
def test_seg_is_that_of_the_brute_force(seed):
    predicted, truth = disturbed(seed)
    volumes = np.stack([predicted, predicted]), np.stack([truth, truth])
    expected = []
    for label in range(1, truth.max() + 1):
        inside = predicted[truth == label]
        share = np.bincount(inside, minlength=predicted.max() + 1)[1:] / len(inside)
        best = int(share.argmax()) + 1
        own = truth == label
        iou = (own & (predicted == best)).sum() / (own | (predicted == best)).sum()
        expected.append(iou if share.max() > 0.5 else 0)
    assert np.allclose(seg_scores(predicted, truth), expected)
    assert np.allclose(seg_scores(*volumes), expected)


def test_continuity_of_a_case_worked_by_hand():
    truth = np.zeros((5, 4, 9), np.int32)
    truth[:, :, :4], truth[1:4, :, 5:] = 1, 2
    predicted = np.zeros_like(truth)
    predicted[:2, :, :4] = 1
    predicted[2:, :, :4] = 7  # another label from the third slice on
    predicted[0, 0, 0] = 9  # a small part of another
    predicted[1, :, 5:] = predicted[3, :, 5:] = 2  # a slice is missing, which is no change of label
    assert continuity(predicted, truth) == (3, 4)
    assert continuity(truth, truth) == (6, 6)
    assert continuity(np.zeros_like(truth), truth) == (0, 0)
    each = np.where(truth > 0, truth + 10 * np.arange(5)[:, None, None], 0).astype(np.int32)
    assert continuity(each, truth) == (0, 6)
