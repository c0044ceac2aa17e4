from dataclasses import fields
from typing import get_type_hints

import numpy as np
import pytest

from cellwright.errors import AnnotationError, SettingsError
from cellwright.ops.density import (
    DensitySettings,
    calibrate,
    cells_to_density,
    even_out,
    fit_interval,
    interval_of,
    mean_diameter,
    resize_density,
    typical_diameter,
)


def discs(n, diameter, shape, rng):
    """The density of ``n`` round cells anywhere."""
    points = rng.uniform(0, shape, (n, 2)).astype(np.float32)
    return cells_to_density(points, np.full(n, np.pi / 4 * diameter**2, np.float32), shape)[0]


@pytest.mark.parametrize("seed", range(5))
def test_every_cell_integrates_to_one(seed):
    rng = np.random.default_rng(seed)
    n, shape = int(rng.integers(0, 60)), tuple(int(side) for side in rng.integers(20, 150, 2))
    points = rng.uniform(0, np.array(shape) - 1, (n, 2)).astype(np.float32)
    density = cells_to_density(points, rng.uniform(1, 900, n).astype(np.float32), shape)
    assert (density.shape, density.dtype) == ((1, *shape), np.float32)
    assert density.min() >= 0
    assert density.sum(dtype=np.float64) == pytest.approx(n, rel=1e-5)


@pytest.mark.parametrize("point", [(0, 0), (63, 40), (30, 79)])
def test_a_cell_at_the_edge_integrates_to_one(point):
    density = cells_to_density(np.array([point], np.float32), np.array([500], np.float32), (64, 80))
    assert density.sum() == pytest.approx(1, rel=1e-5)


def test_the_gaussian_is_that_of_the_reference():
    area = 300.0
    density = cells_to_density(np.array([[40.25, 50.5]], np.float32), np.array([area], np.float32), (81, 101))
    y, x = np.mgrid[:81, :101]
    expected = np.exp(-((y - 40.25) ** 2 + (x - 50.5) ** 2) / (0.2 * area))
    assert np.allclose(density[0], expected / expected.sum(), atol=1e-3 * density.max())


@pytest.mark.parametrize("seed", range(20))
def test_resizing_keeps_the_sum_and_its_place(seed):
    rng = np.random.default_rng(seed)
    old, new = (tuple(int(side) for side in rng.integers(1, 90, 2)) for _ in range(2))
    density = rng.random(old, np.float32)
    resized = resize_density(density, new)
    assert (resized.shape, resized.dtype) == (new, np.float32)
    assert resized.min() >= 0
    assert resized.sum(dtype=np.float64) == pytest.approx(density.sum(dtype=np.float64), rel=1e-6)
    for axis in (0, 1):
        centres = [
            np.average((np.arange(one.shape[axis]) + 0.5) / one.shape[axis], weights=one.sum(axis=1 - axis))
            for one in (density, resized)
        ]
        assert abs(centres[0] - centres[1]) < 0.5 / min(old[axis], new[axis])


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_whole_factor_sums_or_divides_pixels(factor):
    density = np.random.default_rng(factor).random((12, 24), np.float32)
    pooled = density.reshape(12 // factor, factor, 24 // factor, factor).sum(axis=(1, 3))
    assert np.allclose(resize_density(density, pooled.shape), pooled, rtol=1e-5)
    repeated = np.kron(density, np.ones((factor, factor))) / factor**2
    assert np.allclose(resize_density(density, repeated.shape), repeated, rtol=1e-5, atol=1e-8)


def test_the_same_size_is_the_same_map():
    density = np.random.default_rng(0).random((5, 7), np.float32)
    assert resize_density(density, (5, 7)) is density


@pytest.mark.parametrize("diameter", [6, 12, 26, 50])
@pytest.mark.parametrize("n", [8, 40])
def test_the_density_tells_the_diameter(diameter, n):
    rng = np.random.default_rng(n)
    side = 40 * diameter  # seldom one on another
    assert typical_diameter(discs(n, diameter, (side, side), rng)) == pytest.approx(diameter, rel=0.12)


def test_cells_side_by_side_look_at_most_a_little_smaller():
    points = np.stack(np.meshgrid(np.arange(8, 400, 20), np.arange(8, 400, 20)), axis=-1).reshape(-1, 2)
    areas = np.full(len(points), np.pi / 4 * 20**2, np.float32)
    found = typical_diameter(cells_to_density(points.astype(np.float32), areas, (400, 400))[0])
    assert 0.85 * 20 < found < 20.5


def test_no_density_has_no_diameter():
    assert typical_diameter(np.zeros((10, 10), np.float32)) == 0
    assert mean_diameter(np.zeros((10, 10), np.float32), np.ones((10, 10), np.float32)) == 0


def test_the_area_of_the_foreground_tells_the_diameter_however_blurred_the_density_is():
    density, foreground = np.full((40, 50), 3 / 2000, np.float32), np.full((40, 50), 0.2, np.float32)
    foreground[:10, :30] = 0.9
    assert mean_diameter(density, foreground) == pytest.approx(np.sqrt(4 / np.pi * 100))


def images(rng, n, bias=0.9):
    """Counts of a model that misses some, and the truth: errors grow with the count."""
    truths = rng.integers(0, 200, n).astype(float)
    return np.maximum(bias * truths + rng.normal(0, 1 + 0.15 * truths), 0), truths


def test_the_interval_covers_new_images():
    covered, widths = [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        fit = fit_interval(*images(rng, 41))
        for count, truth in zip(*images(rng, 50), strict=True):
            low, high = interval_of(count, fit)
            covered.append(low <= truth <= high)
            widths.append(high - low)
    assert 0.88 < np.mean(covered) < 0.97
    assert np.mean(widths) < 120  # not by being endless: four standard errors are about 65


def test_the_interval_lies_on_the_side_of_the_errors():
    counts = np.arange(10, 110, 2.0)
    below, above, power = fit_interval(counts, counts * 1.2)
    assert below == 0
    assert (above, power) == (pytest.approx(0.2, abs=0.02), 1.0)
    assert fit_interval(counts * 1.2, counts)[1] == 0


def test_one_image_gives_an_interval_that_holds_it():
    low, high = interval_of(10, fit_interval([10], [14]))
    assert low <= 10 < 14 <= high + 1e-9


@pytest.mark.parametrize("count", [0.0, 0.4, 30.0, 1e6])
def test_the_interval_holds_the_count_and_nothing_below_zero(count):
    low, high = interval_of(count, (2.0, 1.0, 0.75))
    assert 0 <= low <= count < high


def test_calibration_scales_the_interval_and_its_error_widens_it():
    plain = np.array(interval_of(50, (1.0, 1.0, 0.5)))
    scaled = interval_of(50, (1.0, 1.0, 0.5), DensitySettings(1.5))
    wide = interval_of(50, (1.0, 1.0, 0.5), DensitySettings(1.5, 0.2))
    assert scaled == pytest.approx(1.5 * plain)
    assert wide[0] < scaled[0] < 75 < scaled[1] < wide[1]


@pytest.mark.parametrize(("counts", "truths"), [([], []), ([1], []), ([1, 2], [1])])
def test_an_error_bar_needs_pairs(counts, truths):
    with pytest.raises(AnnotationError, match=f"{len(counts)} counts and {len(truths)} truths"):
        fit_interval(counts, truths)


def field(rng, factor=1.3, side=300, n=400):
    """Cells of which a model sees an even share, and squares with the true number in each."""
    points = rng.uniform(0, side, (n, 2)).astype(np.float32)
    density = cells_to_density(points, np.full(n, 60, np.float32), (side, side))[0] / np.float32(factor)

    def square(y, x, size=50):
        inside = ((points >= (y, x)) & (points < (y + size, x + size))).all(axis=1)
        return [[y, x], [y + size, x + size]], int(inside.sum())

    return density, square


@pytest.mark.parametrize("n_boxes", [1, 2, 6])
def test_the_interval_of_a_corrected_count_covers(n_boxes):
    covered, widths = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        density, square = field(rng)
        places = rng.permutation(36)[:n_boxes]
        boxes, counts = zip(*(square(50 * (place // 6), 50 * (place % 6)) for place in places), strict=True)
        low, high = calibrate(density, boxes, counts).interval(float(density.sum()))
        covered.append(low <= 400 <= high)
        widths.append(high - low)
    assert np.mean(covered) > 0.85
    assert np.mean(widths) < {1: 900, 2: 500, 6: 250}[n_boxes]


def test_more_boxes_are_surer():
    density, square = field(np.random.default_rng(1))
    made = [square(50 * i, 50 * j) for i in range(6) for j in range(6)]
    found = [calibrate(density, *zip(*made[:n], strict=True)) for n in (1, 4, 36)]
    errors = [one.standard_error for one in found]
    assert errors[0] > errors[1] > errors[2] > 0
    assert found[2].factor == pytest.approx(1.3, rel=0.02)
    assert "One box cannot" in found[0].remark
    assert "One box" not in found[1].remark
    assert "from 4 boxes" in found[1].remark


def test_a_box_around_everything_leaves_no_doubt():
    density, square = field(np.random.default_rng(2))
    box, count = square(0, 0, 300)
    calibration = calibrate(density, [box], [count])
    assert calibration.interval(float(density.sum())) == pytest.approx((400, 400), rel=1e-4)


def test_boxes_that_overlap_are_known_once():
    density, square = field(np.random.default_rng(3))
    box, count = square(0, 0)
    one, three = calibrate(density, [box], [count]), calibrate(density, [box] * 3, [count] * 3)
    assert three.boxed == pytest.approx(one.boxed)
    assert three.factor == pytest.approx(one.factor)


def test_boxes_in_time_and_over_the_edge():
    density = np.full((3, 40, 40), 0.01, np.float32)
    inside = [[1, 0, 0], [1, 20, 10]]
    over = [[2, 30, -5], [3, 99, 60]]
    calibration = calibrate(density, [inside, over], [4, 12])
    assert calibration.boxed == pytest.approx(0.01 * (200 + 400), rel=1e-4)
    assert calibration.factor == pytest.approx(16 / 6, rel=1e-4)


def test_a_box_may_hold_no_cell():
    density, square = field(np.random.default_rng(4))
    box, count = square(50, 50)
    assert calibrate(density, [box, square(0, 0)[0]], [count, 0]).factor > 0


BOX = [[0, 0], [10, 10]]


@pytest.mark.parametrize(
    ("boxes", "counts", "message"),
    [
        ([], [], "Draw boxes"),
        ([BOX], [1, 2], "2 counts"),
        ([BOX, BOX], [1], "1 counts"),
        ([[[0, 0, 0], [1, 1, 1]]], [1], r"shape \(1, 2, 3\)"),
        ([BOX], [-1], "0 or more"),
        ([BOX], [float("nan")], "0 or more"),
        ([BOX, [[0, 30], [10, 40]]], [1, 1], "box 2 of 2"),
        ([[[-9, -9], [-3, -3]]], [1], "inside"),
        ([[[5, 5], [2, 9]]], [1], "inside"),
        ([[[float("nan"), 0], [1, 1]]], [1], "inside"),
        ([BOX], [0], "0 counted"),
        ([[[10, 10], [20, 20]]], [5], "0 in the density"),
    ],
)
def test_what_calibrates_nothing_is_refused(boxes, counts, message):
    density = np.zeros((20, 30), np.float32)
    density[:10, :10] = 0.01
    with pytest.raises(AnnotationError, match=message):
        calibrate(density, boxes, counts)


def test_every_setting_explains_itself():
    hints = get_type_hints(DensitySettings, include_extras=True)
    for item in fields(DensitySettings):
        assert hints[item.name].__metadata__[0]["tooltip"].endswith(".")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("calibration", 0.0),
        ("calibration", 101.0),
        ("calibration", float("nan")),
        ("calibration_error", -0.1),
        ("calibration_error", float("inf")),
    ],
)
def test_a_value_out_of_range_is_refused(name, value):
    with pytest.raises(SettingsError, match=name):
        DensitySettings(**{name: value})


@pytest.mark.parametrize("shape", [(8, 12), (7, 9), (1, 5)])
def test_pixels_of_one_square_share_their_cells(shape):
    density = np.zeros(shape, np.float32)
    density[::2, ::2] = 0.01
    found = even_out(density)
    assert found.dtype == np.float32
    assert found.sum() == pytest.approx(density.sum(), rel=1e-5)
    if min(shape) > 3:
        assert np.allclose(found[1:-1, 1:-1], 0.0025)
