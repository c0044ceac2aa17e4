"""Simulated cells of many shapes under many microscopes: what is drawn, and that the truth fits it."""

import numpy as np
import pytest
from skimage.measure import label as connected
from tools.release.bodies import SHAPES, bodies_of
from tools.release.views import VIEWS, draw_view

SHAPE = (96, 112)


@pytest.mark.parametrize("name", [*SHAPES, "sheet"])
def test_labels_are_whole_cells_without_gaps_in_their_numbers(name):
    seen = 0
    for seed in range(4):
        cells = bodies_of(name, SHAPE, 14.0, np.random.default_rng(seed))
        n = int(cells.labels.max())
        seen += n
        assert cells.labels.shape == cells.depth.shape == cells.outside.shape == cells.layers.shape == SHAPE
        assert np.array_equal(np.unique(cells.labels), np.arange(cells.labels.min(), n + 1))
        assert ((cells.depth > 0) == (cells.labels > 0)).all()
        assert ((cells.outside > 0) == (cells.labels == 0)).all()
        assert connected(cells.labels, connectivity=1).max() == n
    assert seen > 4


def test_rods_are_about_as_wide_as_they_should_be():
    cells = bodies_of("filaments", (256, 256), 12.0, np.random.default_rng(1))
    deepest = [cells.depth[cells.labels == number].max() for number in range(1, int(cells.labels.max()) + 1)]
    assert 5 <= np.median(deepest) <= 7


def test_discs_lie_over_one_another():
    layers = [bodies_of("discs", SHAPE, 24.0, np.random.default_rng(seed)).layers.max() for seed in range(6)]
    assert max(layers) >= 2


@pytest.mark.parametrize("kind", VIEWS)
def test_a_view_shows_its_cells(kind):
    for seed in range(3):
        image, labels = draw_view(kind, SHAPE, np.random.default_rng(seed))
        again, _ = draw_view(kind, SHAPE, np.random.default_rng(seed))
        assert image.shape in (SHAPE, (*SHAPE, 3))
        assert image.dtype == np.float32
        assert np.isfinite(image).all()
        assert image.std() > 0
        assert labels.shape == SHAPE
        assert np.array_equal(image, again)


def test_blood_and_stains_have_colours():
    for kind in ("blood", "immunostain"):
        assert draw_view(kind, SHAPE, np.random.default_rng(0))[0].ndim == 3


@pytest.mark.parametrize("kind", ["bacteria", "yeast", "adherent"])
def test_noise_leaves_cells_in_sight(kind):
    """Where noise is all there is, its deviation is a sixth of the range that is looked at."""
    for seed in range(20):
        image, _ = draw_view(kind, SHAPE, np.random.default_rng(seed))
        low, high = np.percentile(image, [0.2, 99.8])
        steps = np.abs(np.diff(image, axis=1))
        assert np.median(steps) / (0.6745 * np.sqrt(2)) < 0.14 * (high - low)
