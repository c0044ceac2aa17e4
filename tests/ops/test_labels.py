import tracemalloc

import numpy as np
import pytest
from skimage.measure import regionprops

from cellwright.ops.labels import (
    equivalent_diameters,
    keep_labels,
    label_properties,
    numbered,
    relabel,
    seem_labels,
    touches_border,
)
from cellwright.ops.simulation.simulate import simulate


def drawn(seed, shape=(96, 120)):
    return simulate("fluorescence", shape, np.random.default_rng(seed), diameter_px=14).labels


def boxes_of(regions, ndim):
    return [[region.bbox[:ndim], region.bbox[ndim:]] for region in regions]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(96, 120), (9, 48, 40)])
def test_measures_are_those_of_regionprops(seed, shape):
    labels = drawn(seed, shape)
    regions = regionprops(labels)
    areas, points, boxes = label_properties(labels)
    assert len(areas) == labels.max() == len(regions) > 0
    assert np.array_equal(areas, [region.area for region in regions])
    assert np.allclose(points, [region.centroid for region in regions], atol=1e-3)
    assert np.array_equal(boxes, boxes_of(regions, len(shape)))
    assert {column.dtype for column in (areas, points, boxes)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("ndim", [2, 3])
def test_diameters_are_those_of_regionprops(ndim):
    labels = drawn(1, (96, 120) if ndim == 2 else (9, 48, 40))
    expected = [region.equivalent_diameter_area for region in regionprops(labels)]
    assert np.allclose(equivalent_diameters(label_properties(labels).areas, ndim), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_every_integer_type_is_measured(dtype):
    areas, points, _ = label_properties(np.array([[1, 1, 0], [0, 2, 2]], dtype))
    assert areas.tolist() == [2, 2]
    assert points.tolist() == [[0, 0.5], [1, 1.5]]


def test_a_label_that_does_not_occur_has_no_area_and_no_place():
    areas, points, boxes = label_properties(np.array([[3, 3], [0, 1]], np.int32))
    assert areas.tolist() == [1, 0, 2]
    assert np.isnan(points[1]).all()
    assert not boxes[1].any()
    assert np.isfinite(points[[0, 2]]).all()


@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (2, 3, 4)])
def test_background_alone_has_no_rows(shape):
    areas, points, boxes = label_properties(np.zeros(shape, np.int32))
    n = len(shape)
    assert (areas.shape, points.shape, boxes.shape) == ((0,), (0, n), (0, 2, n))


def test_parts_of_one_label_are_measured_together():
    areas, points, boxes = label_properties(np.array([[1, 0, 0, 1]], np.int32))
    assert (areas.tolist(), points.tolist(), boxes.tolist()) == ([2], [[0, 1.5]], [[[0, 0], [1, 4]]])


@pytest.mark.parametrize("seed", range(4))
def test_keep_numbers_the_rest_in_their_old_order(seed):
    labels = drawn(seed)
    wanted = np.random.default_rng(seed).random(labels.max()) < 0.5
    kept = keep_labels(labels, wanted)
    ids = np.flatnonzero(wanted) + 1
    assert kept.dtype == np.int32
    assert np.array_equal(np.unique(kept), np.arange(len(ids) + 1))
    for number, old in enumerate(ids, start=1):
        assert np.array_equal(kept == number, labels == old)


def test_keep_all_and_keep_none():
    labels = drawn(2)
    n = int(labels.max())
    assert np.array_equal(keep_labels(labels, np.ones(n, bool)), labels)
    assert not keep_labels(labels, np.zeros(n, bool)).any()
    assert not keep_labels(np.zeros((3, 3), np.int32), np.zeros(0, bool)).any()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([[0, 7], [3, 7]], [[0, 2], [1, 2]]),
        ([[7, 7], [3, 3]], [[2, 2], [1, 1]]),
        ([[0, 0], [0, 0]], [[0, 0], [0, 0]]),
        ([[0, 1], [2, 3]], [[0, 1], [2, 3]]),
        ([[60_000, 0], [65_535, 60_000]], [[1, 0], [2, 1]]),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint16, np.int64])
def test_relabel_closes_gaps(labels, expected, dtype):
    found = relabel(np.array(labels, dtype))
    assert (found.dtype, found.tolist()) == (np.int32, expected)


def test_numbers_of_a_block_by_block_count_are_closed_up_without_sorting_every_pixel():
    rows = np.zeros((1500, 1500), np.int32)
    for number, row in enumerate(range(10, 1500, 50), start=1):
        rows[row : row + 20, 10:1400] = number
    labels = rows * (np.iinfo(np.int32).max // 30)  # far apart, as blocks number their cells
    tracemalloc.start()
    numbers, renumbered = numbered(labels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * labels.nbytes  # sorting takes eight times that
    assert np.array_equal(renumbered, rows)
    assert np.array_equal(numbers, np.unique(labels[labels > 0]))


def test_relabel_of_an_image_without_pixels():
    assert relabel(np.zeros((0, 4), np.int32)).shape == (0, 4)


def test_touches_border_on_every_side():
    labels = np.zeros((6, 8), np.int32)
    labels[0, 3], labels[5, 2], labels[2, 0], labels[3, 7], labels[3, 4] = 1, 2, 3, 4, 5
    touches = touches_border(label_properties(labels).boxes, labels.shape)
    assert touches.tolist() == [True, True, True, True, False]


def test_labels_are_told_from_light(rng):
    numbers = np.zeros((60, 80), np.uint16)
    for n in range(9):
        numbers[4 + 20 * (n // 3) : 16 + 20 * (n // 3), 5 + 25 * (n % 3) : 25 + 25 * (n % 3)] = n + 1
    dim = rng.poisson(0.7, numbers.shape).astype(np.uint16)
    ramp = np.repeat(np.arange(80, dtype=np.uint16)[np.newaxis], 60, axis=0)
    assert all(seem_labels(numbers.astype(dtype)) for dtype in (np.uint16, np.int32, np.uint32))
    light = [numbers.astype(np.uint8), numbers + 1, numbers.astype(float), numbers > 0, dim, ramp * 4]
    light += [numbers * rng.integers(1, 3, numbers.shape).astype(np.uint16), numbers % 3, 0 * numbers]
    assert not any(seem_labels(pixels) for pixels in light)
