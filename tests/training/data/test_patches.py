from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from tools.release.joint import JointModel

from cellwright.models.families import centroid, density, flow
from cellwright.ops.codecs.flow import labels_to_flow
from cellwright.ops.labels import (
    annotate,
    equivalent_diameters,
    keep_labels,
    label_properties,
    relabel,
    touches_border,
)
from cellwright.training.data.patches import cut_patch
from cellwright.training.data.samples import SLIVER_PX, make_sample

WIDE = (1.0, 1000.0)


def whole_cells(labels):
    """The cells that do not touch the edge and are more than a few pixels."""
    labels = relabel(labels.numpy())
    areas, _, boxes = label_properties(labels)
    return keep_labels(labels, ~touches_border(boxes, labels.shape) & (areas > 40))


def test_the_flow_of_a_patch_is_that_of_its_labels(draw_sample):
    """Under every turn, flip and zoom; the patch stays inside the image, so nothing is mirrored."""
    n_cells = 0
    for seed in range(12):
        sample = draw_sample(seed, shape=(300, 320), diameter=26, n_cells=70)
        patch = cut_patch(sample, 112, WIDE, np.random.default_rng(seed))
        labels = whole_cells(patch.labels)
        cosine = (labels_to_flow(labels) * patch.targets[:2].numpy()).sum(axis=0)[labels > 0]
        assert labels.max() == 0 or cosine.mean() > 0.9
        n_cells += labels.max()
    assert n_cells > 40


@pytest.mark.parametrize("seed", range(6))
def test_outside_the_image_flow_is_mirrored_too(draw_blobs, seed, sample_of):
    blobs = draw_blobs((70, 76), 16.0)
    sample = sample_of("discs", "", blobs.image[None], blobs.labels, (0, 100))
    patch = cut_patch(sample, 192, WIDE, np.random.default_rng(seed))
    apart, n_discs = ndimage.label(patch.labels.numpy())
    assert n_discs > len(blobs)
    discs = whole_cells(torch.from_numpy(apart))
    cosine = (labels_to_flow(discs) * patch.targets[:2].numpy()).sum(axis=0)[discs > 0]
    assert cosine.mean() > 0.9


@pytest.mark.parametrize("seed", range(6))
def test_the_image_moves_with_the_labels(draw_blobs, seed, sample_of):
    blobs = draw_blobs((150, 160), 24.0)
    sample = sample_of("discs", "", blobs.image[None], blobs.labels, (0, 100))
    patch = cut_patch(sample, 96, WIDE, np.random.default_rng(seed))
    assert ((patch.image[0] > 0.5) == (patch.labels > 0)).float().mean() > 0.98


@pytest.mark.parametrize("seed", range(4))
def test_flow_has_unit_length_inside_cells_and_is_zero_outside(draw_sample, seed):
    patch = cut_patch(draw_sample(seed), 64, WIDE, np.random.default_rng(seed))
    length = patch.targets[:2].norm(dim=0)
    assert not length[patch.labels == 0].any()
    assert (length[patch.labels > 0] > 0.99).float().mean() > 0.98
    assert length.max() < 1.001


@pytest.mark.parametrize("shape", [(33, 90), (200, 200), (1, 40), (50, 1), (1, 1)])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_a_patch_has_its_size_whatever_the_image(rng, shape, n_channels, sample_of):
    labels = np.zeros(shape, np.int32)
    labels[: shape[0] // 2 + 1] = 1
    sample = sample_of("any", "", rng.random((n_channels, *shape)), labels, (0.5, 99.8))
    for seed in range(4):
        patch = cut_patch(sample, 48, WIDE, np.random.default_rng(seed))
        assert (patch.image.shape, patch.targets[:2].shape, patch.labels.shape) == (
            (3, 48, 48),
            (2, 48, 48),
            (48, 48),
        )
        assert (patch.image.dtype, patch.targets[:2].dtype, patch.labels.dtype) == (
            torch.float32,
            torch.float32,
            torch.int32,
        )
        assert patch.image.isfinite().all()
        assert patch.targets[:2].isfinite().all()
        assert set(patch.labels.unique().tolist()) <= {0, 1}


def test_a_grey_image_has_three_equal_channels_of_its_own(draw_sample):
    image = cut_patch(draw_sample(), 48, WIDE, np.random.default_rng(0)).image
    assert torch.equal(image[0], image[2])
    image[0] += 1  # must not write through to the others
    assert not torch.equal(image[0], image[1])


def test_colours_keep_their_order(rng, sample_of):
    colours = np.stack([np.full((60, 60), value) for value in (0.0, 0.5, 1.0)]) + rng.random((60, 60)) * 0.01
    sample = sample_of("stained", "", colours, np.zeros((60, 60), np.int32), (0, 100))
    patch = cut_patch(sample, 32, WIDE, rng)
    assert patch.image.mean(dim=(1, 2)).tolist() == sorted(patch.image.mean(dim=(1, 2)).tolist())
    assert patch.image[2].mean() - patch.image[0].mean() > 0.9


def test_the_same_state_gives_the_same_patch(draw_sample):
    sample = draw_sample()
    one, same, other = (cut_patch(sample, 48, WIDE, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(one.image, same.image)
    assert torch.equal(one.targets, same.targets)
    assert not torch.equal(one.image, other.image)


def zooms(sample, allowed):
    """How much larger the disc in the middle of the sample became in many patches."""
    found = []
    for seed in range(40):
        labels = cut_patch(sample, 160, allowed, np.random.default_rng(seed)).labels.numpy()
        areas = label_properties(whole_cells(torch.from_numpy(ndimage.label(labels)[0]))).areas
        found.append(np.median(equivalent_diameters(areas)) / sample.diameter_px)
    return np.array(found)


def test_zoom_lies_between_a_half_and_double(draw_blobs, sample_of):
    blobs = draw_blobs((200, 200), 24.0)
    sample = sample_of("discs", "", blobs.image[None], blobs.labels, (0, 100))
    found = zooms(sample, WIDE)
    assert 0.45 < found.min() < 0.65
    assert 1.6 < found.max() < 2.1
    kept = zooms(sample, (20.0, 30.0)) * sample.diameter_px
    assert kept.min() > 19
    assert kept.max() < 31


def test_zoom_brings_no_odd_sized_cells_further_out(draw_blobs, sample_of):
    blobs = draw_blobs((200, 200), 24.0)
    sample = sample_of("discs", "", blobs.image[None], blobs.labels, (0, 100))
    assert zooms(sample, (5.0, 12.0)).max() < 1.05
    assert zooms(sample, (40.0, 80.0)).min() > 0.95


def test_an_image_without_cells_can_be_cut(rng, sample_of):
    sample = sample_of("empty", "", rng.random((1, 60, 60)), np.zeros((60, 60), np.int32), (0.5, 99.8))
    assert np.isnan(sample.diameter_px)
    patch = cut_patch(sample, 48, (8.0, 70.0), rng)
    assert not patch.labels.any()
    assert not patch.targets[:2].any()


@pytest.fixture
def cut_for(draw_blobs):
    """Function (module, seed, ...) -> a patch with the targets of a family, and its sample."""

    def cut(module, seed, diameter=22.0, size=112, **facts):
        blobs = draw_blobs((260, 280), diameter)
        sample = make_sample("discs", "", blobs.image[None], annotate(blobs.labels), module.build())
        sample = replace(sample, **facts)
        return cut_patch(sample, size, WIDE, np.random.default_rng(seed)), sample

    return cut


@pytest.mark.parametrize("seed", range(8))
def test_density_keeps_its_integral_under_zoom(cut_for, seed):
    """As where it is learned with other families, whose patches are cut from whole maps."""
    patch, _ = cut_for(density, seed, count=None)
    labels = relabel(patch.labels.numpy())
    inside = keep_labels(labels, ~touches_border(label_properties(labels).boxes, labels.shape))
    counts = [
        float(patch.targets[0][torch.from_numpy(inside == i)].sum()) for i in range(1, inside.max() + 1)
    ]
    assert np.allclose(counts, 1, atol=0.05)  # of nearest pixels


@pytest.mark.parametrize("seed", range(4))
def test_what_a_patch_shows_of_a_cell_counts_as_one(cut_for, seed):
    patch, _ = cut_for(density, seed)
    areas = np.bincount(patch.labels.numpy().ravel())[1:]
    assert touches_border(label_properties(relabel(patch.labels.numpy())).boxes, patch.labels.shape).any()
    assert float(patch.targets[0].sum()) == pytest.approx((areas >= SLIVER_PX).sum(), rel=1e-4)


def test_counts_are_made_anew_among_other_targets(cut_for):
    """As where flow and density learn together."""

    class Both:
        @staticmethod
        def build():
            return JointModel([flow.build(), density.build()], [1.0, 1.0])

    joint, sample = cut_for(Both, 3)
    plain = cut_patch(replace(sample, count=None), 112, WIDE, np.random.default_rng(3))
    assert torch.equal(joint.targets[:3], plain.targets[:3])
    areas = np.bincount(joint.labels.numpy().ravel())[1:]
    assert float(joint.targets[3].sum()) == pytest.approx((areas >= SLIVER_PX).sum(), rel=1e-4)
    assert float(plain.targets[3].sum()) < float(joint.targets[3].sum()) - 1
    assert torch.equal(joint.targets[6] > 0, joint.labels > 0)


def test_sizes_are_those_of_the_patch_and_unknown_after_other_than_quarter_turns(cut_for):
    n_known = 0
    for seed in range(16):
        patch, _ = cut_for(centroid, seed)
        heatmap, size = patch.targets[0], patch.targets[1:]
        if heatmap.isnan().all():
            assert size.isnan().all()
            continue
        labels = relabel(patch.labels.numpy())
        areas, points, boxes = label_properties(labels)
        whole = np.flatnonzero(~touches_border(boxes, labels.shape) & (areas > 60))
        for point, box in zip(points[whole].round().astype(int), boxes[whole], strict=True):
            assert float(heatmap[tuple(point)]) > 0.9
            assert np.allclose(size[:, point[0], point[1]].numpy(), box[1] - box[0], atol=3)
            n_known += 1
    assert n_known > 20
