"""Hills of heights: as many as scikit-image finds, and what its h-maxima get wrong."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.morphology import h_maxima

from cellwright.ops.link import BELOW
from cellwright.ops.watershed import OUTSIDE, onward, watershed


def hills(height, drop):
    """Hills whose tops stand out of their saddles by as much as a drop."""
    return watershed(height, BELOW, lambda top, saddle: top - saddle < drop)


def rolling(seed, step=0.0, shape=(9, 26, 28)):
    """A smooth random volume, with a step of whole numbers of it."""
    height = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.2)
    height /= height.std()
    return (np.round(height / step) if step else height).astype(np.float32)


@pytest.mark.parametrize("step", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_tops_are_the_h_maxima(seed, step):
    height = rolling(seed, step)
    drop = 2 if step else 0.7
    tops, n = ndimage.label(h_maxima(height, drop), np.ones((3, 3, 3)))
    found = hills(height, drop)
    assert n > 10
    assert found.dtype == np.int32
    assert np.array_equal(np.unique(found), np.arange(1, found.max() + 1))
    of_tops = [set(found[tops == top]) for top in range(1, n + 1)]
    assert all(len(one) == 1 for one in of_tops)
    if not step:  # equal tops are told apart by scikit-image even where no saddle lies between
        assert sorted(one.pop() for one in of_tops) == list(range(1, found.max() + 1))


def test_every_hill_is_one_piece_around_its_top():
    found = hills(rolling(5), 0.7)
    assert all(ndimage.label(found == hill)[1] == 1 for hill in range(1, found.max() + 1))


@pytest.mark.parametrize(("dip", "n_hills"), [(0.0, 1), (0.5, 1), (1.0, 2), (3.0, 2)])
@pytest.mark.parametrize("second", [5.0, 4.5])
def test_hills_part_where_the_lower_one_stands_out_enough(dip, n_hills, second):
    ridge = np.full((1, 1, 9), 5.0, np.float32)
    ridge[..., 5:] = second
    ridge[..., 4] = second - dip
    assert hills(ridge, 1.0).max() == n_hills
    assert hills(ridge.reshape(9, 1, 1), 1.0).max() == n_hills


def test_a_small_hill_joins_the_one_behind_its_highest_saddle():
    ridge = np.array([9, 5, 6, 5.5, 8], np.float32).reshape(1, 1, 5)
    assert hills(ridge, 2.0).ravel().tolist() == [1, 1, 2, 2, 2]


def test_nothing_is_climbed_outside():
    height = rolling(6)
    height[:, 12:14] = OUTSIDE
    found = hills(height, 0.7)
    assert np.array_equal(found > 0, height > OUTSIDE)
    assert not set(found[:, :12].ravel()) & set(found[:, 14:].ravel())
    assert not hills(np.full((2, 3, 4), OUTSIDE), 1.0).any()


def test_a_plane_has_the_hills_of_a_volume_of_one_slice():
    height = rolling(7, shape=(60, 70))
    plane = watershed(height, onward(2), lambda top, saddle: top - saddle < 0.7)
    volume = watershed(height[np.newaxis], [(0, *step) for step in onward(2)], lambda t, s: t - s < 0.7)
    assert plane.max() > 10
    assert np.array_equal(plane, volume[0])
