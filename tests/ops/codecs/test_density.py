import numpy as np
import pytest

from cellwright.ops.codecs.density import (
    cells_to_density,
    even_out,
    mean_diameter,
    resize_density,
    typical_diameter,
)
from cellwright.ops.geometry.resample import Grid


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
    resized = resize_density(density, Grid.of(density.shape, new))
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
    assert np.allclose(resize_density(density, Grid.of(density.shape, pooled.shape)), pooled, rtol=1e-5)
    repeated = np.kron(density, np.ones((factor, factor))) / factor**2
    assert np.allclose(
        resize_density(density, Grid.of(density.shape, repeated.shape)), repeated, rtol=1e-5, atol=1e-8
    )


def test_the_same_size_is_the_same_map():
    density = np.random.default_rng(0).random((5, 7), np.float32)
    assert resize_density(density, Grid.of((5, 7), (5, 7))) is density


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


@pytest.mark.parametrize("shape", [(8, 12), (7, 9), (1, 5)])
def test_pixels_of_one_square_share_their_cells(shape):
    density = np.zeros(shape, np.float32)
    density[::2, ::2] = 0.01
    found = even_out(density)
    assert found.dtype == np.float32
    assert found.sum() == pytest.approx(density.sum(), rel=1e-5)
    if min(shape) > 3:
        assert np.allclose(found[1:-1, 1:-1], 0.0025)
