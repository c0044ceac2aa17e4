import numpy as np
import pytest
import torch

from cellwright.training.data.patches import (
    CHANGES,
    KEEP_WHOLE_PX,
    augment,
    diversify_cells,
    exclude_boundaries,
)

CHANGE = [change for _, change in CHANGES]


@pytest.fixture
def patch(rng):
    image = torch.from_numpy(rng.uniform(-0.5, 2.0, (3, 48, 64)).astype(np.float32))
    labels = torch.zeros((48, 64), dtype=torch.int32)
    labels[4:20, 4:20], labels[30:44, 30:50] = 1, 2
    return image, labels


@pytest.mark.parametrize("seed", range(40))
def test_shape_range_and_labels_are_kept(patch, seed):
    image, labels = patch
    image_before, labels_before = image.clone(), labels.clone()
    changed = augment(image, labels, np.random.default_rng(seed))
    assert (changed.shape, changed.dtype) == (image.shape, torch.float32)
    assert changed.isfinite().all()
    assert changed.min() >= -0.5
    assert changed.max() <= 2.0
    assert torch.equal(labels, labels_before)
    assert torch.equal(image, image_before)


def test_what_comes_out_depends_on_the_state_alone(patch):
    one, same, other = (augment(*patch, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("change", CHANGE, ids=lambda change: change.__name__.strip("_"))
@pytest.mark.parametrize("size", [(32, 32), (192, 160)])
def test_every_change_changes_and_stays_finite(change, size):
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.uniform(-0.5, 2.0, (3, *size)).astype(np.float32))
    before = image.clone()
    changed = change(image, rng)
    assert (changed.shape, changed.dtype) == (image.shape, torch.float32)
    assert changed.isfinite().all()
    assert not torch.equal(changed, image)
    assert torch.equal(image, before)


@pytest.mark.parametrize("change", CHANGE, ids=lambda change: change.__name__.strip("_"))
@pytest.mark.parametrize("value", [0.0, 1.0, -0.5])
def test_a_constant_image_is_no_trouble(change, value):
    changed = change(torch.full((3, 64, 64), value), np.random.default_rng(1))
    assert changed.isfinite().all()


def test_chances_are_chances():
    assert all(0 < chance < 1 for chance, _ in CHANGES)


def test_some_cells_change_by_one_factor_and_the_rest_stays(rng):
    labels = torch.arange(40, dtype=torch.int32).repeat_interleave(10).reshape(20, 20)
    image = torch.ones(3, 20, 20)
    found = diversify_cells(image, labels, rng)
    assert torch.equal(found[:, labels == 0], image[:, labels == 0])
    factors = {round(float(value), 5) for value in found.unique()}
    assert len(factors) == 2
    share = (found[0] != 1).float().mean()
    assert 0.2 < share < 0.6


def test_without_cells_nothing_is_diversified(rng):
    image = torch.rand(3, 8, 8)
    assert torch.equal(diversify_cells(image, torch.zeros((8, 8), dtype=torch.int32), rng), image)


def side_by_side(side):
    labels = torch.zeros((40, 60), dtype=torch.int32)
    labels[5 : 5 + side, 5 : 5 + side] = 1
    labels[5 : 5 + side, 5 + side : 5 + 2 * side] = 2
    return labels


def test_large_cells_that_touch_are_parted():
    labels = side_by_side(20)
    assert KEEP_WHOLE_PX <= 20 * 20
    parted = exclude_boundaries(labels)
    assert parted.dtype == labels.dtype
    lost = labels != parted
    assert set(torch.nonzero(lost)[:, 1].tolist()) == {24, 25}
    assert not parted[lost].any()
    assert int(lost.sum()) == 2 * 20


def test_small_cells_that_touch_stay_whole():
    labels = side_by_side(10)
    assert KEEP_WHOLE_PX > 10 * 10
    assert torch.equal(exclude_boundaries(labels), labels)


def test_cells_alone_and_empty_images_stay_as_they_are():
    labels = torch.zeros((40, 60), dtype=torch.int32)
    assert torch.equal(exclude_boundaries(labels), labels)
    labels[0:25, 0:30], labels[0:25, 31:60] = 1, 2
    assert torch.equal(exclude_boundaries(labels), labels)
