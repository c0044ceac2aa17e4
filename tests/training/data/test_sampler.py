from collections import Counter

import numpy as np
import pytest
import torch

from cellwright.core.tasks import run
from cellwright.training.data.sampler import Pool, make_batch, simulated_samples
from cellwright.training.settings import TrainingSettings

SETTINGS = TrainingSettings(patch_px=48, augmentation=0.0, exclude_boundaries=1.0)


@pytest.fixture
def pool(draw_sample):
    return Pool(tuple(draw_sample(seed) for seed in range(3)), np.full(3, 1 / 3))


def batch(parts, settings=SETTINGS, seed=0, exclude=False):
    return make_batch(parts, settings, np.random.default_rng(seed), exclude=exclude)


@pytest.mark.parametrize("augmentation", [0.0, 0.5, 1.0])
def test_a_batch_holds_images_and_their_targets(pool, augmentation):
    settings = TrainingSettings(patch_px=48, augmentation=augmentation)
    images, targets = batch([(pool, 5)], settings)
    assert images.shape == targets.shape == (5, 3, 48, 48)
    assert images.dtype == targets.dtype == torch.float32
    mask = targets[:, 2]
    assert set(mask.unique().tolist()) == {0, 1}
    assert not targets[:, :2][(mask == 0)[:, None].expand(-1, 2, -1, -1)].any()
    assert (targets[:, :2].norm(dim=1)[mask > 0] > 0.99).float().mean() > 0.95


def test_a_batch_depends_on_the_state_alone(pool):
    one, same, other = (batch([(pool, 3)], seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_smallest_patches_can_be_augmented(pool):
    settings = TrainingSettings(patch_px=32)
    for seed in range(25):
        images, _ = batch([(pool, 4)], settings, seed)
        assert images.isfinite().all()


def marked(draw_sample, value):
    """A sample whose image is one value everywhere."""
    sample = draw_sample()
    sample.image.fill_(value)
    return sample


def values(images):
    return Counter(round(float(image.mean()), 3) for image in images)


def test_samples_are_drawn_with_their_chances(draw_sample):
    samples = tuple(marked(draw_sample, value) for value in (0.0, 0.5, 1.0))
    images, _ = batch([(Pool(samples, np.array([0.0, 0.25, 0.75])), 80)])
    counts = values(images)
    assert counts[0.0] == 0
    assert 8 < counts[0.5] < 34
    assert counts[0.5] + counts[1.0] == 80


def test_parts_come_from_their_pools(draw_sample):
    one, other = (Pool((marked(draw_sample, value),), np.ones(1)) for value in (0.25, 0.75))
    images, _ = batch([(one, 3), (other, 0), (other, 2)])
    assert values(images) == {0.25: 3, 0.75: 2}


def test_touching_cells_are_taught_with_a_gap_where_that_is_wanted(draw_sample):
    crowd = Pool((draw_sample(2, shape=(96, 96), diameter=28, n_cells=60),), np.ones(1))
    plain, gap = (batch([(crowd, 6)], exclude=exclude)[1][:, 2].mean() for exclude in (False, True))
    never = TrainingSettings(patch_px=48, augmentation=0.0, exclude_boundaries=0.0)
    assert gap < plain
    assert batch([(crowd, 6)], never, exclude=True)[1][:, 2].mean() == pytest.approx(float(plain), abs=0.05)


def test_simulated_samples_show_every_look_and_fluorescence_twice(tiny_flow):
    samples = run(simulated_samples(5, 3, tiny_flow()))
    groups = Counter(sample.group.removeprefix("simulated ") for sample in samples)
    assert groups == {"fluorescence": 2, "phase": 1, "tissue": 1, "brightfield": 1}
    assert all(sample.image.shape[1:] == sample.labels.shape for sample in samples)
    assert len({sample.name for sample in samples}) == 5


def test_simulated_samples_depend_on_the_seed_alone(tiny_flow):
    one, same, other = (run(simulated_samples(1, seed, tiny_flow()))[0] for seed in (3, 3, 4))
    assert torch.equal(one.image, same.image)
    assert not torch.equal(one.image, other.image)


def test_no_simulated_samples_is_none(tiny_flow):
    assert run(simulated_samples(0, 0, tiny_flow())) == []
