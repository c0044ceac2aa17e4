import numpy as np
import pytest

from cellwright.core.errors import AnnotationError
from cellwright.ops.codecs.density import DensitySettings, cells_to_density
from cellwright.ops.measure.prediction_interval import calibrate, fit_interval, interval_of


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


@pytest.mark.parametrize("n", [3, 5, 12])
def test_the_interval_that_few_images_tell_covers_new_ones(n):
    covered, widths = [], []
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        (counts, truths), (count, truth) = images(rng, n, bias=1), images(rng, 1, bias=1)
        low, high = interval_of(count[0], fit_interval(counts, truths))
        covered.append(low <= truth[0] <= high)
        widths.append(high - low)
    assert 0.86 < np.mean(covered) < 0.97
    assert np.mean(widths) < 150


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
