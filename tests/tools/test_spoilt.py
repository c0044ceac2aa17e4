"""Patches that nobody has photographed: what is changed, and what is left as it was."""

import numpy as np
import pytest
import torch
from skimage.measure import regionprops
from tools.release import spoilt

from cellwright.models.families import centroid, flow
from cellwright.ops.labels import annotate
from cellwright.training.data.samples import make_sample

NOTHING = torch.zeros(3, 1, 1)


def patches(n=200, side=48):
    """Grey patches on a dark ground with one square cell each, and their targets."""
    images, targets = torch.zeros(n, 3, side, side), torch.zeros(n, 3, side, side)
    images[:, :, 10:30, 10:30] = 0.8
    targets[:, 2, 10:30, 10:30] = 1
    return images, targets


def test_some_patches_are_emptied_and_some_get_other_colours():
    images, targets = spoilt.with_spoilt(*patches(), NOTHING, np.random.default_rng(0))
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
    spoilt.with_spoilt(images, targets, NOTHING, np.random.default_rng(1))
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


def test_bodies_leave_the_nuclei_in_their_colours_alone():
    rng = np.random.default_rng(3)
    images, targets = patches(1)
    for _ in range(12):
        patch = spoilt.with_bodies(images[0, 0], targets[0, 2], rng)
        assert any(torch.equal(channel, images[0, 0]) for channel in patch)
        assert 0 <= float(patch.min()) < float(patch.max()) <= 1


def test_of_nuclei_in_two_colours_each_is_seen():
    rng = np.random.default_rng(4)
    nuclei = torch.zeros(48, 48)
    for place in (4, 20, 36):
        nuclei[place : place + 8, place : place + 8] = 0.8
    shown = [spoilt.two_coloured(nuclei, (nuclei > 0).float(), rng) for _ in range(20)]
    for patch in shown:
        assert ((patch.amax(dim=0) > 0.15) == (nuclei > 0)).all()
        assert float(patch.max()) <= 1
    colours = [{int(patch[:, place + 4, place + 4].argmax()) for place in (4, 20, 36)} for patch in shown]
    assert max(len(one) for one in colours) == 2
    assert set().union(*colours) == {0, 1, 2}


def test_a_field_without_nuclei_keeps_its_colour():
    nuclei = torch.rand(32, 32, generator=torch.Generator().manual_seed(5))
    patch = spoilt.two_coloured(nuclei, torch.zeros(32, 32), np.random.default_rng(5))
    assert torch.equal(patch, torch.stack([nuclei] * 3))


def test_poorer_patches_keep_their_colours_and_scale():
    images, _ = patches(40)
    poorer = spoilt.with_poorer(images.clone(), 1.0, np.random.default_rng(6))
    assert all(not torch.equal(one, images[0]) for one in poorer)
    assert torch.equal(poorer[:, 0], poorer[:, 1])
    assert torch.equal(poorer[:, 0], poorer[:, 2])
    low, high = np.percentile(poorer[:, 0].flatten(1).numpy(), (0.5, 99.8), axis=1)
    np.testing.assert_allclose(low, 0, atol=1e-4)
    np.testing.assert_allclose(high, 1, atol=1e-4)
    coloured = images.clone()
    coloured[:, 0] = 0
    poorer = spoilt.with_poorer(coloured.clone(), 1.0, np.random.default_rng(6))
    assert all(not torch.equal(one[0], one[1]) for one in poorer)


def test_as_many_patches_are_poorer_as_was_asked():
    images, _ = patches()
    poorer = spoilt.with_poorer(images.clone(), 0.25, np.random.default_rng(7))
    changed = (poorer != images).flatten(1).any(dim=1)
    assert 30 <= int(changed.sum()) <= 70


def sample_of(blobs, model):
    pixels = (blobs.labels > 0).astype(np.float32)[np.newaxis]
    return make_sample("a", "", pixels, annotate(blobs.labels), model)


@pytest.mark.parametrize("family", [flow, centroid])  # of a centre the size is known, of the ground none
def test_cells_are_drawn_out_with_their_outlines(draw_blobs, family):
    model = family.build()
    sample = sample_of(draw_blobs((200, 200), 20.0), model)
    ratios = []
    for seed in range(12):
        made = spoilt.drawn_out(sample, model, np.random.default_rng(seed))
        assert made is not None
        inside = made.image[0].numpy() > 0.5
        labels = made.labels.numpy()
        assert (inside == (labels > 0)).mean() > 0.9
        clear = [one for one in regionprops(labels) if one.area > 60]
        ratios.append(np.median([one.axis_major_length / one.axis_minor_length for one in clear]))
    assert min(ratios) > 1.5
    assert max(ratios) > 4


def test_what_is_not_all_annotated_is_not_drawn_out(draw_blobs):
    model = flow.build()
    sample = sample_of(draw_blobs((64, 64), 20.0), model)
    sample.targets[:] = torch.nan
    assert spoilt.drawn_out(sample, model, np.random.default_rng(0)) is None
