import numpy as np
from scipy import ndimage

from cellwright.ops.codecs.watershed import depth_to_labels


def test_every_cell_is_in_one_piece():
    rng = np.random.default_rng(0)
    depth = ndimage.gaussian_filter(rng.random((90, 90)), 3).astype(np.float32)
    labels = depth_to_labels(depth, depth > np.median(depth), 0.05)
    assert labels.max() > 5
    for number in range(1, labels.max() + 1):
        assert ndimage.label(labels == number, np.ones((3, 3)))[1] == 1


def test_plateaus_are_one_cell_each():
    mask = np.zeros((12, 40), bool)
    mask[2:10, 2:18] = mask[2:10, 22:38] = True
    labels = depth_to_labels(mask.astype(np.float32), mask, 0.1)
    assert np.array_equal(labels, ndimage.label(mask)[0])
