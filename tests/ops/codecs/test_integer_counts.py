import numpy as np
import pytest
from scipy import ndimage

from cellwright.ops.codecs.density import LARGEST_PX, to_integer_counts


def squares(counts, side=12, gap=30, shape=(80, 200)):
    """Squares of foreground in a row, each with so many cells spread evenly over it."""
    density, foreground = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
    boxes = [(slice(20, 20 + side), slice(5 + gap * i, 5 + gap * i + side)) for i in range(len(counts))]
    for box, count in zip(boxes, counts, strict=True):
        density[box], foreground[box] = count / side**2, True
    return density, foreground, boxes


def test_a_piece_holds_a_whole_number_of_cells():
    counts, whole = [0.9, 1.2, 1.7, 3.4, 0.3, 0.2], [1, 1, 2, 3, 1, 0]
    density, foreground, boxes = squares(counts)
    found = to_integer_counts(density, foreground)
    assert [float(found[box].sum()) for box in boxes] == pytest.approx(whole, rel=1e-5)
    assert found.dtype == np.float32
    assert density[boxes[0]].sum() == pytest.approx(0.9, rel=1e-5)  # the first is left as it was


def test_the_background_stays_as_it_is():
    density, foreground, _ = squares([0.8])
    density[70:, 150:] += 0.3 / 500
    assert np.array_equal(to_integer_counts(density, foreground)[~foreground], density[~foreground])


def test_corners_that_touch_are_one_piece():
    density, foreground = np.zeros((40, 40), np.float32), np.zeros((40, 40), np.bool_)
    for box in ((slice(5, 15), slice(5, 15)), (slice(15, 25), slice(15, 25))):
        density[box], foreground[box] = 0.6 / 100, True
    assert to_integer_counts(density, foreground).sum() == pytest.approx(1, rel=1e-5)


def test_crowds_stay_as_they_are():
    density = np.full((40, LARGEST_PX + 40), 0.0101, np.float32)
    foreground = np.zeros(density.shape, np.bool_)
    foreground[10:30, 10 : 11 + LARGEST_PX] = True
    assert np.array_equal(to_integer_counts(density, foreground), density)


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (60, 70)])
@pytest.mark.parametrize("is_cell", [False, True])
def test_any_shape(shape, is_cell):
    density = np.full(shape, 2.3 / np.prod(shape), np.float32)
    found = to_integer_counts(density, np.full(shape, is_cell))
    assert found.sum() == pytest.approx(2 if is_cell else 2.3, rel=1e-4)


def test_windows_do_not_show(monkeypatch):
    rng = np.random.default_rng(4)
    foreground = ndimage.gaussian_filter(rng.random((230, 310)), 4) > 0.5
    density = np.where(foreground, rng.random(foreground.shape), 0.1).astype(np.float32) / 100
    monkeypatch.setattr("cellwright.ops.codecs.density.LARGEST_PX", 60)
    whole = to_integer_counts(density, foreground)
    monkeypatch.setattr("cellwright.ops.codecs.density.WINDOW_PX", 64)
    assert np.allclose(to_integer_counts(density, foreground), whole, rtol=1e-5, atol=1e-9)
    assert abs(whole - density).max() > 1e-4
