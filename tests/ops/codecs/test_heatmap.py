"""Boxes become a heatmap and sizes, and these become the boxes again."""

import time

import numpy as np
import pytest

from cellwright.ops.codecs.heatmap import (
    CentroidSettings,
    boxes_to_heatmap,
    boxes_to_sizes,
    heatmap_to_cells,
    suppress,
)
from cellwright.ops.matching import box_iou

ALL = CentroidSettings(min_score=0.3)


def scattered(rng, shape, smallest, largest):
    """Whole boxes of many sizes, none of which overlap: one somewhere in each square of a lattice."""
    pitch = largest + 1
    corners = np.stack(np.mgrid[0 : shape[0] - pitch : pitch, 0 : shape[1] - pitch : pitch], -1).reshape(
        -1, 2
    )
    extents = rng.integers(smallest, largest + 1, (len(corners), 2))
    first = corners + np.floor((pitch - extents) * rng.random((len(corners), 2)))
    return np.stack([first, first + extents], axis=1).astype(np.float32)


def found(boxes, shape, settings=ALL):
    return heatmap_to_cells(boxes_to_heatmap(boxes, shape), boxes_to_sizes(boxes, shape), settings)


def in_order(boxes, cells):
    """The cells in the order of the boxes they are nearest to."""
    distance = np.abs(boxes.mean(axis=1)[:, np.newaxis] - 0.5 - cells.points).max(axis=-1)
    return distance.argmin(axis=1), distance.min(axis=1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("smallest", "largest", "side"), [(4, 7, 128), (9, 30, 200), (60, 150, 460)])
def test_boxes_of_all_sizes_come_back(seed, smallest, largest, side):
    boxes = scattered(np.random.default_rng(seed), (side, side + 32), smallest, largest)
    cells = found(boxes, (side, side + 32))
    order, distance = in_order(boxes, cells)
    assert len(cells) == len(boxes) == len(set(order))
    assert distance.max() <= 1.0  # filters of even length draw a cell half a pixel aside
    extents = boxes[:, 1] - boxes[:, 0]
    assert np.allclose((cells.boxes[:, 1] - cells.boxes[:, 0])[order], extents, rtol=0.05, atol=0.5)
    assert box_iou(cells.boxes[order], boxes).mean() > {4: 0.78, 9: 0.95, 60: 0.97}[smallest]
    assert (cells.scores > 0.9).all()


@pytest.mark.parametrize("seed", range(4))
def test_overlapping_cells_come_back_apart(seed):
    rng = np.random.default_rng(seed)
    extents = rng.integers(16, 30, (2, 2))
    first = np.array([[20, 20], [20 + 0.8 * extents[0, 0], 20 + 0.6 * extents[0, 1]]])
    boxes = np.stack([first, first + extents], axis=1).astype(np.float32)
    assert 0 < box_iou(*boxes) < 0.2
    cells = found(boxes, (90, 90))
    order, distance = in_order(boxes, cells)
    assert sorted(order) == [0, 1]
    assert len(cells) == 2
    assert distance.max() < 2


def test_all_columns_describe_the_same_cell():
    boxes = np.float32([[[10, 20], [31, 33]]])
    cells = found(boxes, (64, 80))
    assert cells.labels is None
    assert cells.classes is None
    assert cells.points[0] == pytest.approx([20, 26], abs=0.6)
    assert cells.boxes[0] == pytest.approx(boxes[0], abs=0.6)
    assert cells.areas[0] == pytest.approx(np.pi / 4 * 21 * 13)
    assert cells.scores[0] == 1
    assert {column.dtype for column in (cells.points, cells.boxes, cells.scores, cells.areas)} == {
        np.dtype(np.float32)
    }


def test_a_plateau_is_one_cell_in_its_middle():
    heatmap = np.zeros((1, 40, 40), np.float32)
    heatmap[0, 10:15, 20:29] = 0.8
    cells = heatmap_to_cells(heatmap, np.full((2, 40, 40), 12, np.float32), ALL)
    assert cells.points == pytest.approx(np.float32([[12, 24]]), abs=0.05)
    assert cells.scores == pytest.approx([0.8])


def test_a_point_lies_between_pixels_where_the_heat_does():
    y, x = np.mgrid[0:48, 0:48]
    heatmap = np.exp(-((y - 20.3) ** 2 + (x - 30.6) ** 2) / 40).astype(np.float32)[np.newaxis]
    cells = heatmap_to_cells(heatmap, np.full((2, 48, 48), 20, np.float32), ALL)
    assert cells.points == pytest.approx(np.float32([[20.3, 30.6]]), abs=0.1)


def test_boxes_end_with_the_image():
    heatmap = np.zeros((1, 30, 40), np.float32)
    heatmap[0, 1, 38] = heatmap[0, 15, 20] = 1
    size = np.full((2, 30, 40), 10, np.float32)
    cells = heatmap_to_cells(heatmap, size, ALL)
    assert cells.boxes[0] == pytest.approx(np.float32([[0, 33.5], [6.5, 40]]), abs=0.3)
    assert cells.areas[0] == pytest.approx(np.pi / 4 * 6.5**2, rel=0.1)
    inside = heatmap_to_cells(heatmap, size, CentroidSettings(exclude_border=True))
    assert inside.points == pytest.approx(np.float32([[15, 20]]), abs=0.1)
    assert len(inside.boxes) == len(inside.scores) == len(inside.areas) == 1


def test_settings_decide_what_is_kept():
    boxes = np.float32([[[5, 5], [25, 25]], [[40, 40], [46, 60]]])
    heatmap = boxes_to_heatmap(boxes, (70, 70))
    heatmap[0, 30:] *= 0.6
    sizes = boxes_to_sizes(boxes, (70, 70))
    n_cells = [
        len(heatmap_to_cells(heatmap, sizes, settings))
        for settings in (
            CentroidSettings(min_score=0.5),
            CentroidSettings(min_score=0.7),
            CentroidSettings(min_score=0.5, min_side_px=7),
        )
    ]
    assert n_cells == [2, 1, 1]


@pytest.mark.parametrize("axis", [1, 2])
def test_a_mirrored_image_holds_mirrored_cells(axis):
    boxes = scattered(np.random.default_rng(3), (100, 120), 9, 20)
    heatmap, sizes = boxes_to_heatmap(boxes, (100, 120)), boxes_to_sizes(boxes, (100, 120))
    cells = heatmap_to_cells(heatmap, sizes, ALL)
    mirrored = heatmap_to_cells(np.flip(heatmap, axis), np.flip(sizes, axis), ALL)
    points = cells.points.copy()
    points[:, axis - 1] = heatmap.shape[axis] - 1 - points[:, axis - 1]
    distance = np.abs(points[:, np.newaxis] - mirrored.points).max(axis=-1)
    assert len(points) == len(mirrored) == 20
    assert distance.min(axis=0).max() < 0.25


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (64, 64)])
def test_nothing_comes_of_nothing(shape):
    cells = heatmap_to_cells(np.zeros((1, *shape), np.float32), np.ones((2, *shape), np.float32), ALL)
    assert (cells.points.shape, cells.boxes.shape) == ((0, 2), (0, 2, 2))
    assert cells.scores.shape == cells.areas.shape == (0,)


def one_by_one(boxes, scores, max_overlap):
    """Non-maximum suppression as it is usually written."""
    stands = []
    for index in np.argsort(-scores, kind="stable"):
        if all(box_iou(boxes[index], boxes[other]) <= max_overlap for other in stands):
            stands.append(index)
    return np.isin(np.arange(len(boxes)), stands)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("max_overlap", [0.0, 0.2, 0.6, 1.0])
def test_suppressing_all_at_once_is_suppressing_one_by_one(seed, max_overlap, monkeypatch):
    monkeypatch.setattr("cellwright.ops.codecs.heatmap.PAIRS_AT_ONCE", 50)
    rng = np.random.default_rng(seed)
    first = rng.uniform(0, 60, (90, 2))
    boxes = np.stack([first, first + rng.uniform(2, 30, (90, 2))], axis=1).astype(np.float32)
    scores = rng.integers(0, 20, 90).astype(np.float32) / 20  # many are equal
    assert np.array_equal(suppress(boxes, scores, max_overlap), one_by_one(boxes, scores, max_overlap))


def test_a_suppressed_box_suppresses_none():
    boxes = np.float32([[[0, x], [10, x + 10]] for x in (0, 4, 8)])
    assert suppress(boxes, np.float32([0.9, 0.8, 0.7]), 0.3).tolist() == [True, False, True]
    assert suppress(boxes, np.float32([0.8, 0.9, 0.7]), 0.3).tolist() == [False, True, False]


def test_of_no_boxes_none_stand():
    assert suppress(np.zeros((0, 2, 2), np.float32), np.zeros(0, np.float32), 0.5).shape == (0,)


def test_thousands_of_cells_are_found_at_once():
    shape = (2048, 2048)
    boxes = scattered(np.random.default_rng(0), shape, 20, 42)
    heatmap, sizes = boxes_to_heatmap(boxes, shape), boxes_to_sizes(boxes, shape)
    started = time.process_time()
    cells = heatmap_to_cells(heatmap, sizes, CentroidSettings())
    seconds = time.process_time() - started
    assert len(cells) == len(boxes) > 2000
    assert seconds < 1.0  # 0.1 on an idle machine
