import tracemalloc

import numpy as np
import pytest

from cellwright.ops.outlines import area, as_one_ring, crosses_itself, filled, polygons


def draw(rings, shape=(24, 24)):
    out = np.zeros(shape, bool)
    (y, x), mask = filled(rings)
    out[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    return out


@pytest.mark.parametrize("seed", range(100))
def test_masks_come_back_from_their_outlines(seed):
    """Random pixels have every kind of hole, part and corner in which pixels meet."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((24, 24), bool)
    mask[3:15, 4:17] = rng.random((12, 13)) < rng.uniform(0.05, 0.95)
    found = polygons(mask[3:15, 4:17], (3, 4))
    rings = [ring for polygon in found for ring in polygon]
    np.testing.assert_array_equal(np.logical_or.reduce([draw(polygon) for polygon in found]), mask)
    np.testing.assert_array_equal(draw([as_one_ring(rings)]), mask)
    assert not any(crosses_itself(ring) for ring in [*rings, as_one_ring(rings)])


def test_long_rings_are_joined_without_a_table_of_their_corners():
    angles = np.linspace(0, 2 * np.pi, 3000, endpoint=False)
    circle = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    tracemalloc.start()
    joined = as_one_ring([5000 * circle, 4000 * circle])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(joined) == 6002
    assert peak < 10_000_000


def test_a_square_has_four_corners_and_a_hole_runs_the_other_way():
    mask = np.ones((5, 6), bool)
    mask[2, 2:4] = False
    ((outer, hole),) = polygons(mask)
    assert sorted(map(tuple, outer.tolist())) == [(0, 0), (0, 6), (5, 0), (5, 6)]
    assert (abs(area(outer)), abs(area(hole))) == (30, 2)
    assert area(outer) * area(hole) < 0


def test_pixels_that_meet_in_a_corner_are_parts_and_touch():
    assert len(polygons(np.eye(3, dtype=bool))) == 3


def test_a_pixel_is_inside_when_its_middle_is():
    np.testing.assert_array_equal(filled([np.array([[0, 0], [0, 4], [0.4, 4], [0.4, 0]])]).mask, False)
    np.testing.assert_array_equal(filled([np.array([[0, 0], [0, 4], [0.6, 4], [0.6, 0]])]).mask, True)


@pytest.mark.parametrize(
    ("ring", "crosses"),
    [
        ([[0, 0], [5, 5], [5, 0], [0, 5]], True),
        ([[0, 0], [0, 5], [5, 5], [5, 0]], False),
        ([[0, 0], [0, 9], [4, 4.5], [9, 9], [9, 0], [4, 4.5]], False),  # touches itself in a corner
        ([[0, 0], [9, 1], [0, 2], [9, 3], [0, 4], [9, 0.5]], True),
    ],
)
def test_crossing_sides_are_seen(ring, crosses):
    ring = np.array(ring, float)
    assert crosses_itself(ring) == crosses
    assert crosses_itself(ring[::-1] * 1e4 + 7) == crosses


def test_crossing_sides_of_long_outlines_are_seen():
    angle = np.linspace(0, 2 * np.pi, 900, endpoint=False)
    ring = 50 + 40 * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    assert not crosses_itself(ring)
    ring[[700, 705]] = ring[[705, 700]]
    assert crosses_itself(ring)
