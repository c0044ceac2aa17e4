"""The answers to questions: labels become depth, depth becomes labels again, whatever the noise."""

import time

import numpy as np
import pytest
from scipy import ndimage

from cellwright.core.errors import QueryError
from cellwright.ops.codecs.query import (
    QuerySettings,
    boxes_to_depth,
    check_points,
    inside_to_depth,
    labels_to_depth,
    points_inside,
    query_to_cells,
)
from cellwright.ops.labels import label_properties
from cellwright.ops.matching import match_labels
from cellwright.ops.simulation.simulate import simulate

ALL = QuerySettings(min_score=0, min_area_px=1)
LOOKS = ("fluorescence", "phase", "tissue")


def drawn(seed, look="fluorescence", diameter=20, shape=(128, 160)):
    return simulate(look, shape, np.random.default_rng(seed), diameter_px=diameter).labels


def inside_of(labels):
    return (labels > 0)[np.newaxis].astype(np.float32)


def decoded(labels, settings=ALL):
    return query_to_cells(inside_of(labels), labels_to_depth(labels), settings)


def disc(shape, centre, radius):
    y, x = np.indices(shape)
    return np.hypot(y - centre[0], x - centre[1]) <= radius


def twins(gap=0, radius=9, shape=(40, 60)):
    """Two discs, their middles ``gap`` pixels further apart than those of discs that touch along a line."""
    labels = np.zeros(shape, np.int32)
    labels[disc(shape, (20, 29 - radius + 1 - gap / 2), radius)] = 1
    labels[disc(shape, (20, 29 + radius - 1 + gap / 2), radius) & (labels == 0)] = 2
    return labels


@pytest.mark.parametrize("look", LOOKS)
def test_decoding_undoes_encoding(look):
    truths = [drawn(seed, look) for seed in range(8)]
    matches = [match_labels(decoded(labels).labels, labels, 0.8) for labels in truths]
    n_true = sum(match.n_true for match in matches)
    assert n_true > 40
    assert sum(match.true_positives for match in matches) >= 0.96 * n_true
    assert abs(sum(match.n_predicted for match in matches) - n_true) <= 0.03 * n_true


def test_small_crowded_cells_are_counted_right():
    for seed in range(6):
        labels = drawn(seed, diameter=9)
        match = match_labels(decoded(labels).labels, labels, 0.5)
        assert match.n_true > 15
        assert match.f1 >= 0.95


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("noise", [0.05, 0.1])
def test_noise_neither_splits_cells_nor_joins_them(seed, noise):
    rng = np.random.default_rng(seed)
    labels = drawn(seed)
    depth = labels_to_depth(labels)
    noisy = np.clip(depth + rng.normal(0, noise, depth.shape), 0, 1).astype(np.float32)
    cells = query_to_cells(inside_of(labels), noisy, QuerySettings())
    match = match_labels(cells.labels, labels, 0.7)
    assert match.f1 >= 0.95
    assert abs(len(cells) - match.n_true) <= max(1, 0.05 * match.n_true)


@pytest.mark.parametrize("gap", [0, 1, 4])
def test_cells_that_touch_are_parted(gap):
    labels = twins(gap)
    cells = decoded(labels)
    assert len(cells) == 2
    assert match_labels(cells.labels, labels, 0.9).true_positives == 2


def test_a_larger_separation_joins_more():
    labels = twins()
    depth = ndimage.gaussian_filter(labels_to_depth(labels)[0], 2)[np.newaxis]  # the pass is no longer deep
    counts = [
        len(query_to_cells(inside_of(labels), depth, QuerySettings(separation=share)))
        for share in (0.0, 0.2, 0.5, 1.0)
    ]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (2, 1)


def test_the_depth_grows_from_the_rim_to_the_middle():
    depth = labels_to_depth(disc((41, 41), (20, 20), 12).astype(np.int32))[0]
    assert depth.dtype == np.float32
    assert depth[20, 20] == depth.max() == 1
    assert (np.diff(depth[20, 20:33]) < 0).all()
    assert not depth[:8].any()


def test_the_edge_of_the_image_is_no_rim():
    whole = disc((40, 40), (20, 20), 12).astype(np.int32)
    cut = labels_to_depth(whole[20:])[0]
    assert cut[0, 20] == 1
    assert cut[0, 20] > cut[5, 20] > cut[11, 20] > 0
    assert (labels_to_depth(np.ones((8, 9), np.int32)) == 1).all()


def test_the_depth_of_boxes_is_that_of_their_ellipses():
    boxes = np.array([[[4, 6], [16, 30]]], np.float32)
    (depth,) = boxes_to_depth(boxes, (24, 40))
    assert depth[9:11, 17:19].min() > 0.9
    assert np.isnan(depth[4, 6])
    assert np.isnan(depth[20]).all()
    assert np.nanmin(depth) > 0.15


@pytest.mark.parametrize("shape", [(32, 32), (1, 1), (1, 40), (33, 2)])
def test_an_empty_map_has_no_cells(shape):
    labels = np.zeros(shape, np.int32)
    assert not labels_to_depth(labels).any()
    cells = decoded(labels)
    assert len(cells) == 0
    assert (cells.points.shape, cells.boxes.shape, cells.labels.shape) == ((0, 2), (0, 2, 2), shape)


@pytest.mark.parametrize("place", [(0, 0), (0, 9), (4, 4), (7, 9)])
def test_a_cell_of_one_pixel(place):
    labels = np.zeros((8, 10), np.int32)
    labels[place] = 1
    cells = decoded(labels)
    assert np.array_equal(cells.labels, labels)
    assert cells.points.tolist() == [list(place)]


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (48, 64)])
def test_one_cell_that_fills_the_image(shape):
    labels = np.ones(shape, np.int32)
    cells = decoded(labels)
    assert np.array_equal(cells.labels, labels)
    assert cells.boxes.tolist() == [[[0, 0], list(shape)]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_count_as_zero(value):
    labels = drawn(3)
    broken = np.zeros(labels.shape, bool)
    broken[30:50, 40:70] = True
    inside, depth = inside_of(labels), labels_to_depth(labels)
    expected = query_to_cells(np.where(broken, 0, inside), np.where(broken, 0, depth), ALL)
    inside[:, broken] = depth[:, broken] = value
    cells = query_to_cells(inside, depth, ALL)
    assert len(cells) > 5
    assert np.array_equal(cells.labels, expected.labels)
    assert np.array_equal(cells.scores, expected.scores)
    assert (np.isfinite(depth[0]) == ~broken).all()  # the caller's maps stay as they were


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "settings", [ALL, QuerySettings(), QuerySettings(min_area_px=200), QuerySettings(exclude_border=True)]
)
def test_row_i_is_label_i_plus_1(seed, settings):
    rng = np.random.default_rng(seed)
    labels = drawn(seed)
    inside = np.clip(0.8 * inside_of(labels) + rng.normal(0.1, 0.05, labels.shape), 0, 1).astype(np.float32)
    depth = (labels_to_depth(labels) + rng.normal(0, 0.2, labels.shape)).astype(np.float32)
    cells = query_to_cells(inside, depth, settings)
    areas, _, boxes = label_properties(cells.labels)
    assert len(cells) == cells.labels.max() > 0
    assert np.array_equal(np.unique(cells.labels), np.arange(len(cells) + 1))
    assert np.array_equal(cells.areas, areas)
    assert np.array_equal(cells.boxes, boxes)
    assert cells.labels.dtype == np.int32
    assert (cells.areas >= settings.min_area_px).all()
    assert (cells.scores >= settings.min_score).all()
    assert (cells.scores <= 1).all()
    on = cells.labels[tuple(np.rint(cells.points).astype(int).T)]
    assert np.array_equal(on, np.arange(1, len(cells) + 1))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_cells_turn_with_their_maps(seed, turns):
    labels = drawn(seed)
    turned = decoded(np.rot90(labels, turns).copy()).labels
    assert match_labels(np.rot90(turned, -turns), decoded(labels).labels, 0.9).f1 > 0.97


def test_points_of_bent_cells_lie_inside():
    labels = np.zeros((30, 30), np.int32)
    labels[disc((30, 30), (15, 15), 12) & ~disc((30, 30), (15, 11), 10)] = 1  # a crescent
    labels[0, :5] = 2
    _, points, _ = label_properties(labels)
    assert labels[tuple(np.rint(points[0]).astype(int))] == 0
    moved = points_inside(labels, points)
    assert labels[tuple(np.rint(moved[0]).astype(int))] == 1
    assert np.array_equal(moved[1], points[1])
    away = np.hypot(*(np.argwhere(labels == 1) - points[0]).T)
    assert np.hypot(*(moved[0] - points[0])) == pytest.approx(away.min())


def test_the_score_falls_with_probability_and_with_depth():
    labels = drawn(1)
    inside, depth = inside_of(labels), labels_to_depth(labels)
    sure = query_to_cells(inside, depth, ALL).scores
    assert sure.min() > 0.9
    assert np.allclose(query_to_cells(0.6 * inside, depth, ALL).scores, 0.6 * sure, atol=1e-4)
    assert np.allclose(query_to_cells(inside, 0.5 * depth, ALL).scores, 0.5 * sure, atol=1e-4)


def test_cells_at_the_border_are_left_out_on_demand():
    labels = np.zeros((40, 60), np.int32)
    labels[disc((40, 60), (20, 20), 8)] = 1
    labels[disc((40, 60), (20, 58), 8)] = 2
    assert len(decoded(labels)) == 2
    (inner,) = decoded(labels, QuerySettings(exclude_border=True)).points
    assert np.allclose(inner, (20, 20))


def test_the_depth_of_one_answer_is_the_distance_to_the_rim():
    labels = twins(gap=6)
    depth = inside_to_depth(inside_of(labels), 0.5)
    assert np.allclose(depth, labels_to_depth(labels), atol=1e-6)
    assert inside_to_depth(np.zeros((1, 9, 9), np.float32), 0.5).max() == 0
    assert inside_to_depth(np.ones((1, 9, 9), np.float32), 0.5).min() == 1


def test_one_answer_parts_cells_that_touch_a_little():
    shape = (40, 60)
    labels = (disc(shape, (20, 20), 9) | disc(shape, (20, 36), 9)).astype(np.int32)
    inside = inside_of(labels)
    assert len(query_to_cells(inside, inside_to_depth(inside, 0.5), QuerySettings())) == 2


def test_two_thousand_cells_take_little_time():
    tile = twins(gap=4, radius=9, shape=(64, 64))
    tile[disc((64, 64), (50, 20), 8)] = 3
    labels = np.tile(tile, (26, 26))
    inside, depth = np.tile(inside_of(tile), (1, 26, 26)), np.tile(labels_to_depth(tile), (1, 26, 26))
    assert labels.size > 1600**2
    took = []
    for _ in range(2):
        started = time.process_time()
        cells = query_to_cells(inside, depth, QuerySettings())
        took.append(time.process_time() - started)
    assert len(cells) == 3 * 26**2 > 2000
    assert min(took) < 3  # about 0.3 s on a quiet machine


@pytest.mark.parametrize("points", [[(0, 0)], [(-0.5, -0.5), (9.4, 19.4)], np.zeros((0, 2))])
def test_points_inside_the_image_are_taken(points):
    table = check_points(points, (10, 20))
    assert table.dtype == np.float32
    assert np.array_equal(table, np.asarray(points, np.float32))


@pytest.mark.parametrize("point", [(-0.6, 3), (3, 19.5), (9.6, 3), (np.nan, 3), (np.inf, 3)])
def test_points_outside_the_image_are_refused(point):
    with pytest.raises(QueryError, match=r"inside the image of 10 x 20 pixels; got y .*, x 3|y 3, x"):
        check_points([(3, 3), point], (10, 20))


@pytest.mark.parametrize("points", [[1, 2], [[1, 2, 3]], 5.0])
def test_what_is_no_table_of_points_is_refused(points):
    with pytest.raises(QueryError, match=r"table \(N, 2\) of y and x in pixels; got shape"):
        check_points(points, (10, 20))
