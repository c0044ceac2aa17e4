import numpy as np
import pytest

from cellwright.ops.codecs import flow as flow_module
from cellwright.ops.codecs.flow import FlowSettings, flow_to_cells, flow_to_labels, labels_to_flow
from cellwright.ops.labels import label_properties
from cellwright.ops.matching import match_labels
from cellwright.ops.simulation.simulate import LOOKS, simulate

ALL = FlowSettings(min_area_px=1, min_score=0.0)


def drawn(seed, look="fluorescence", shape=(128, 144), diameter=22):
    return simulate(look, shape, np.random.default_rng(seed), diameter_px=diameter).labels


def decoded(labels, settings=ALL):
    return flow_to_cells(labels_to_flow(labels), (labels > 0).astype(np.float32), settings)


def square(shape=(40, 50), corner=(10, 12), size=15):
    labels = np.zeros(shape, np.int32)
    labels[corner[0] : corner[0] + size, corner[1] : corner[1] + size] = 1
    return labels


@pytest.mark.parametrize("look", LOOKS)
def test_decoding_undoes_encoding(look):
    truths = [drawn(seed, look) for seed in range(8)]
    matches = [match_labels(decoded(labels).labels, labels, 0.9) for labels in truths]
    n_true = sum(match.n_true for match in matches)
    assert n_true > 40
    assert sum(match.true_positives for match in matches) >= 0.96 * n_true
    assert abs(sum(match.n_predicted for match in matches) - n_true) <= 0.03 * n_true


def test_pixels_walk_alike_however_many_at_once(monkeypatch):
    labels = drawn(1)
    flow, mask = labels_to_flow(labels), labels > 0
    together = flow_to_labels(flow, mask)
    assert together.max() > 5
    monkeypatch.setattr(flow_module, "PIXELS_AT_ONCE", 1000)
    assert np.array_equal(flow_to_labels(flow, mask), together)


def test_small_crowded_cells_are_counted_right():
    for seed in range(6):
        labels = drawn(seed, diameter=9)
        match = match_labels(decoded(labels).labels, labels, 0.5)
        assert match.n_true > 15
        assert match.f1 >= 0.97


@pytest.mark.parametrize("seed", range(3))
def test_the_flow_has_unit_length_inside_and_is_zero_outside(seed):
    labels = drawn(seed)
    flow = labels_to_flow(labels)
    assert (flow.shape, flow.dtype) == ((2, *labels.shape), np.float32)
    assert not flow[:, labels == 0].any()
    length = np.linalg.norm(flow, axis=0)[labels > 0]
    assert length.max() <= 1 + 1e-5
    assert (length > 0.99).mean() > 0.99  # but for the centres, where nothing leads further


def test_the_flow_leads_to_the_middle():
    labels = square()
    flow = labels_to_flow(labels)
    y, x = np.nonzero(labels)
    away = np.stack([17 - y, 19 - x])
    distance = np.linalg.norm(away, axis=0)
    cosine = (away * flow[:, y, x]).sum(axis=0)[distance > 1] / distance[distance > 1]
    assert cosine.min() > 0.9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_flow_turns_with_the_labels(seed, turns):
    labels = drawn(seed)
    dy, dx = labels_to_flow(labels)
    for _ in range(turns):
        dy, dx = -np.rot90(dx), np.rot90(dy)
    cosine = agreement(labels_to_flow(np.rot90(labels, turns).copy()), np.stack([dy, dx]))
    assert (cosine > 0.99).mean() > 0.95
    assert cosine.mean() > 0.98


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("axis", [0, 1])
def test_flow_flips_with_the_labels(seed, axis):
    labels = drawn(seed)
    flipped = np.flip(labels_to_flow(labels), axis + 1).copy()
    flipped[axis] *= -1
    cosine = agreement(labels_to_flow(np.flip(labels, axis).copy()), flipped)
    assert (cosine > 0.99).mean() > 0.95
    assert cosine.mean() > 0.98


def agreement(one, other):
    """Cosine of two fields where both lead somewhere; centres of even cells may lie a pixel apart."""
    inside = (np.linalg.norm(one, axis=0) > 0.5) & (np.linalg.norm(other, axis=0) > 0.5)
    return (one * other).sum(axis=0)[inside]


def test_the_flow_of_a_cell_does_not_depend_on_its_number_or_place():
    alone, moved = square(), np.roll(square() * 7, (5, -3), (0, 1))
    assert np.allclose(np.roll(labels_to_flow(alone), (5, -3), (1, 2)), labels_to_flow(moved), atol=1e-6)


@pytest.mark.parametrize("shape", [(32, 32), (1, 1), (1, 40), (33, 2)])
def test_an_empty_mask_has_no_cells(shape):
    labels = np.zeros(shape, np.int32)
    assert not labels_to_flow(labels).any()
    cells = decoded(labels)
    assert len(cells) == 0
    assert (cells.points.shape, cells.boxes.shape, cells.labels.shape) == ((0, 2), (0, 2, 2), shape)


@pytest.mark.parametrize("place", [(0, 0), (0, 9), (4, 4), (7, 9)])
def test_a_cell_of_one_pixel(place):
    labels = np.zeros((8, 10), np.int32)
    labels[place] = 1
    assert not labels_to_flow(labels).any()
    cells = flow_to_cells(labels_to_flow(labels), labels.astype(np.float32), ALL)
    assert np.array_equal(cells.labels, labels)
    assert cells.points.tolist() == [list(place)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_count_as_zero(value):
    labels = drawn(3)
    broken = np.zeros(labels.shape, bool)
    broken[30:50, 40:70] = True
    assert (labels[broken] > 0).any()
    flow, probability = labels_to_flow(labels), (labels > 0).astype(np.float32)
    expected = flow_to_cells(np.where(broken, 0, flow), np.where(broken, 0, probability), ALL)
    flow[:, broken] = probability[broken] = value
    cells = flow_to_cells(flow, probability, ALL)
    assert len(cells) > 5
    assert np.array_equal(cells.labels, expected.labels)
    assert np.array_equal(cells.scores, expected.scores)
    assert (np.isfinite(flow).all(axis=0) == ~broken).all()  # the caller's maps stay as they were


def test_a_flow_that_is_nowhere_finite_still_gives_finite_scores():
    cells = flow_to_cells(np.full((2, 20, 20), np.nan, np.float32), np.ones((20, 20), np.float32), ALL)
    assert np.array_equal(cells.scores, np.zeros(len(cells)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (48, 64)])
def test_one_cell_that_fills_the_image(shape):
    labels = np.ones(shape, np.int32)
    cells = decoded(labels)
    assert np.array_equal(cells.labels, labels)
    assert cells.areas.tolist() == [labels.size]
    assert cells.boxes.tolist() == [[[0, 0], list(shape)]]


def test_pixels_that_do_not_move_stay_apart():
    mask = np.zeros((9, 30), bool)
    mask[4, ::6] = True
    labels = flow_to_labels(np.zeros((2, 9, 30), np.float32), mask)
    assert sorted(labels[mask]) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("length", [1.5, 4.0, 1000.0])
def test_flows_that_are_far_too_long_stay_in_the_image(rng, length):
    flow = rng.normal(0, length, (2, 24, 31)).astype(np.float32)
    cells = flow_to_cells(flow, np.ones((24, 31), np.float32), ALL)
    assert (cells.labels > 0).all()
    assert ((cells.scores >= 0) & (cells.scores <= 1)).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "settings", [ALL, FlowSettings(), FlowSettings(min_area_px=200), FlowSettings(exclude_border=True)]
)
def test_row_i_is_label_i_plus_1(seed, settings):
    rng = np.random.default_rng(seed)
    labels = drawn(seed)
    flow = labels_to_flow(labels) + rng.normal(0, 0.2, (2, *labels.shape)).astype(np.float32)
    probability = np.clip((labels > 0) * 0.8 + rng.normal(0.1, 0.05, labels.shape), 0, 1).astype(np.float32)
    cells = flow_to_cells(flow, probability, settings)
    areas, points, boxes = label_properties(cells.labels)
    assert len(cells) == cells.labels.max() > 0
    assert np.array_equal(np.unique(cells.labels), np.arange(len(cells) + 1))
    assert np.array_equal(cells.areas, areas)
    assert np.array_equal(cells.points, points)
    assert np.array_equal(cells.boxes, boxes)
    assert cells.labels.dtype == np.int32
    assert (cells.areas >= settings.min_area_px).all()
    assert (cells.scores >= settings.min_score).all()
    assert (cells.scores <= 1).all()


def test_cells_at_the_border_are_left_out_on_demand():
    labels = square()
    labels[:8, 30:40] = 2
    assert len(decoded(labels)) == 2
    (inner,) = decoded(labels, FlowSettings(exclude_border=True)).points
    assert np.allclose(inner, (17, 19))


def test_a_higher_probability_shrinks_cells_and_never_adds_area():
    labels = square(size=20)
    y, x = np.indices(labels.shape)
    probability = np.clip(1.2 - np.hypot(y - 20, x - 22) / 12, 0, 1).astype(np.float32) * labels
    areas = [
        decode_area(labels, probability, FlowSettings(cell_probability=p, min_score=0))
        for p in (0.2, 0.5, 0.8)
    ]
    assert areas == sorted(areas, reverse=True)
    assert areas[0] > areas[-1] > 0


def decode_area(labels, probability, settings):
    return flow_to_cells(labels_to_flow(labels), probability.astype(np.float32), settings).areas.sum()


def test_the_score_falls_with_probability_and_with_disorder(rng):
    labels = square()
    flow = labels_to_flow(labels)
    sure = flow_to_cells(flow, labels.astype(np.float32), ALL).scores
    unsure = flow_to_cells(flow, 0.6 * labels.astype(np.float32), ALL).scores
    wild = flow_to_cells(0.3 * flow, labels.astype(np.float32), ALL).scores
    assert sure > 0.9
    assert unsure == pytest.approx(0.6 * sure, rel=1e-4)
    assert wild < 0.5
