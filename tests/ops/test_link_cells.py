"""Cells of slices become cells of volumes, with all that is known of them."""

from dataclasses import replace

import numpy as np
import pytest

from cellwright.core.data import Cells
from cellwright.core.errors import AxesError
from cellwright.ops.labels import label_properties, relabel
from cellwright.ops.link import LinkSettings, anisotropy_of, link_cells
from cellwright.ops.matching import match_labels
from cellwright.ops.simulation.simulate import simulate


def sliced(labels, *, scores=None, classes=None):
    """The cells of each slice on their own, as a count slice by slice gives them."""
    flat = labels.reshape(-1, *labels.shape[-2:])
    outlines = np.zeros_like(flat)
    for index, one in enumerate(flat):
        outlines[index] = np.where(one > 0, relabel(one) + outlines.max(), 0)
    outlines = outlines.reshape(labels.shape)
    areas, points, boxes = label_properties(outlines)
    scores = np.linspace(0.2, 0.9, len(areas), dtype=np.float32) if scores is None else scores
    return Cells(points, boxes, scores, areas, outlines, classes)


@pytest.fixture
def boxes():
    """Two boxes of 3 and 4 slices; the first grows from 16 to 36 pixels."""
    labels = np.zeros((5, 20, 30), np.int32)
    labels[0, 2:6, 2:6] = labels[1:3, 2:8, 2:8] = 1
    labels[1:5, 10:16, 15:22] = 2
    return labels


def test_cells_of_a_volume_are_measured_in_3d(boxes):
    cells = link_cells(sliced(boxes), "ZYX")
    assert np.array_equal(cells.labels, boxes)
    assert cells.areas.tolist() == [16 + 2 * 36, 4 * 42]
    assert cells.boxes.tolist() == [[[0, 2, 2], [3, 8, 8]], [[1, 10, 15], [5, 16, 22]]]
    assert np.allclose(cells.points[1], [2.5, 12.5, 18])
    assert cells.points.dtype == cells.scores.dtype == np.float32


def test_scores_are_weighted_by_area_and_classes_vote(boxes):
    scores = np.array([1.0, 0.5, 0.1, 0.5, 0.1, 0.1, 0.1], np.float32)
    classes = np.array([2, 1, 0, 1, 0, 3, 3], np.int16)
    cells = link_cells(sliced(boxes, scores=scores, classes=classes), "ZYX")
    assert cells.scores.tolist() == pytest.approx([(16 + 18 + 18) / 88, 0.1])
    assert cells.classes.tolist() == [1, 0]


def test_each_time_point_goes_on_where_its_own_slices_are_faint(boxes):
    faint = np.zeros((2, *boxes.shape), bool)
    faint[1, 3, 2:5, 2:8] = True
    outlines = replace(sliced(np.stack([boxes, boxes])), faint=faint)
    cells = link_cells(outlines, "TZYX")
    first, second = cells.labels
    assert np.array_equal(first, boxes)
    assert (second[3, 2:5, 2:8] == second[2, 2, 2]).all()
    assert cells.areas.tolist() == [88, 168, 88 + 18, 168]
    assert cells.boxes[2].tolist() == [[1, 0, 2, 2], [2, 4, 8, 8]]
    assert cells.scores[2] == pytest.approx(link_cells(replace(outlines, faint=None), "TZYX").scores[2])
    assert cells.faint is None


def test_what_is_filled_into_a_gap_has_no_say_in_the_score(boxes):
    boxes[2][boxes[2] == 2] = 0
    scores = np.array([0.5, 0.5, 1.0, 0.5, 0.4, 0.4], np.float32)
    cells = link_cells(sliced(boxes, scores=scores), "ZYX")
    assert cells.labels[2, 12, 18] == 2
    assert cells.areas[1] == 4 * 42
    assert cells.scores[1] == pytest.approx(0.6)


@pytest.mark.parametrize("seed", range(2))
def test_time_points_are_linked_on_their_own(seed):
    first, second = (
        simulate("fluorescence", (8, 90, 90), np.random.default_rng((seed, t)), diameter_px=20).labels
        for t in (0, 1)
    )
    series = np.stack([first, second])
    cells = link_cells(sliced(series), "TZYX")
    assert cells.points.shape[1] == 4
    assert np.array_equal(np.unique(cells.points[:, 0]), [0, 1])
    assert not np.intersect1d(cells.labels[0][first > 0], cells.labels[1][second > 0]).size
    for found, truth in zip(cells.labels, series, strict=True):
        assert match_labels(relabel(found), truth).f1 > 0.93
    assert np.array_equal(cells.areas, label_properties(cells.labels).areas)


def test_the_settings_and_the_pixel_size_are_handed_on(boxes):
    boxes[2][boxes[2] == 2] = 0
    cells, any_height = sliced(boxes), LinkSettings(min_slices=1)
    assert len(link_cells(cells, "ZYX", LinkSettings(max_gap=0, min_slices=1))) == 3
    assert len(link_cells(cells, "ZYX", any_height, (2.0, 1.0, 1.0))) == 2
    assert len(link_cells(cells, "ZYX", any_height, (9.0, 1.0, 1.0))) == 3  # too far to reach


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((), 1.0), ((2.0, 0.5, 0.5), 4.0), ((1.0, 0.4, 0.6), 2.0), ((0.5, 0.5), 1.0), ((0.0, 1.0, 1.0), 1.0)],
)
def test_the_distance_of_slices_in_pixels(sizes, expected):
    assert anisotropy_of(sizes) == pytest.approx(expected)


@pytest.mark.parametrize("axes", ["ZYX", "TZYX"])
def test_an_empty_volume_has_no_cells(axes):
    cells = link_cells(sliced(np.zeros((2, 3, 8, 9)[-len(axes) :], np.int32)), axes)
    assert len(cells) == 0
    assert cells.points.shape == (0, len(axes))
    assert cells.boxes.shape == (0, 2, len(axes))


def test_what_cannot_be_linked_is_refused(boxes):
    with pytest.raises(AxesError, match="ZYX or TZYX; got 'TYX'"):
        link_cells(sliced(boxes), "TYX")
    bare = sliced(boxes)
    with pytest.raises(TypeError, match="labels"):
        link_cells(Cells(bare.points, bare.boxes, bare.scores, bare.areas), "ZYX")
