"""Patches that nobody has photographed: what is changed, and what is left as it was."""

import numpy as np
import torch
from tools.release import spoilt


def patches(n=200, side=48):
    """Grey patches on a dark ground with one square cell each, and their targets."""
    images, targets = torch.zeros(n, 3, side, side), torch.zeros(n, 3, side, side)
    images[:, :, 10:30, 10:30] = 0.8
    targets[:, 2, 10:30, 10:30] = 1
    return images, targets


def test_some_patches_are_emptied_and_some_get_bodies_in_other_colours():
    images, targets = spoilt.with_spoilt(*patches(), np.random.default_rng(0))
    is_empty = targets[:, 2].sum(dim=(1, 2)) == 0
    spread = (images.amax(dim=1) - images.amin(dim=1)).amax(dim=(1, 2))
    is_coloured = spread > 0.05
    assert 1 <= int(is_empty.sum()) <= 14
    assert 6 <= int(is_coloured.sum()) <= 30
    assert not (is_empty & is_coloured).any()
    plain = ~(is_empty | is_coloured)
    assert torch.equal(images[plain], patches()[0][plain])


def test_a_coloured_patch_is_left_alone():
    images, targets = patches()
    images[:, 0] = 0
    wanted = images.clone()
    spoilt.with_spoilt(images, targets, np.random.default_rng(1))
    has_cells = targets[:, 2].sum(dim=(1, 2)) > 0
    assert torch.equal(images[has_cells], wanted[has_cells])


def test_an_empty_field_is_on_the_scale_of_images():
    rng = np.random.default_rng(2)
    fields = [spoilt.empty_field(rng, 48) for _ in range(12)]
    for field in fields:
        assert field.shape == (48, 48)
        assert field.dtype == np.float32
        assert 0 <= field.min() <= field.max() <= 1
    assert sum(field.std() > 0.05 for field in fields) >= 8  # JPEG may leave nothing of the noise


def test_a_composite_shows_the_nuclei_in_their_colours_alone():
    rng = np.random.default_rng(3)
    images, targets = patches(1)
    for _ in range(12):
        patch = spoilt.composite(images[0, 0], targets[0, 2], rng)
        assert any(torch.equal(channel, images[0, 0]) for channel in patch)
        assert 0 <= float(patch.min()) < float(patch.max()) <= 1
