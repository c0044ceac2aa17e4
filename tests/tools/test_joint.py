"""Families that learn together: one trunk, one loss, and each gets its own model back."""

import numpy as np
import pytest
import torch
from tools.release.joint import JointModel
from tools.release.spoilt import with_spoilt
from tools.release.train_kinds import targets_of_nothing

from cellwright.core.data import Annotation, Image
from cellwright.core.errors import AnnotationError
from cellwright.models.families import centroid, density, flow, query
from cellwright.ops.labels import annotate

FAMILIES = (flow, centroid, query, density)


@pytest.fixture
def joint():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return JointModel([family.build() for family in FAMILIES], (1.0, 0.5, 0.5, 0.1))


@pytest.fixture
def squares():
    labels = np.zeros((64, 80), np.int32)
    labels[5:25, 5:25], labels[30:50, 40:70] = 1, 2
    return labels


def stacked(maps):
    return torch.from_numpy(np.concatenate(list(maps.values())))[None]


def test_the_maps_of_all_families_stand_side_by_side(joint, squares):
    targets = joint.make_targets(annotate(squares))
    assert list(targets) == list(joint.spec.map_channels) == list(joint.map_kinds)
    for family in FAMILIES:
        for name, value in family.build().make_targets(annotate(squares)).items():
            assert np.array_equal(value, targets[name], equal_nan=True)


def test_the_trunk_is_that_of_the_first(joint):
    first = joint.models[0].network
    for name, value in joint.network.encoder.state_dict().items():
        assert torch.equal(value, first.encoder.state_dict()[name])


def test_the_loss_is_the_weighted_sum(joint, squares):
    targets = stacked(joint.make_targets(annotate(squares)))
    output = torch.randn(1, targets.shape[1], 64, 80, generator=torch.Generator().manual_seed(0))
    start, total = 0, 0.0
    for model, weight in zip(joint.models, joint.weights, strict=True):
        n = sum(model.spec.map_channels.values())
        total += weight * float(model.loss(output[:, start : start + n], targets[:, start : start + n]))
        start += n
    assert float(joint.loss(output, targets)) == pytest.approx(total, rel=1e-5)


def test_each_family_gets_what_was_learned(joint):
    image = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    joint.network.eval()
    with torch.inference_mode():
        together = joint.network(image)
        start = 0
        for model in joint.models:
            n = sum(model.spec.map_channels.values())
            alone = joint.part(model.spec.family, joint.network).network.eval()(image)
            assert torch.allclose(alone, together[:, start : start + n], atol=1e-5)
            start += n


def test_boxes_teach_only_those_who_learn_from_boxes(joint):
    boxes = np.array([[[10, 10], [30, 34]]], np.float32)
    found = joint.make_targets(Annotation((64, 80), boxes.mean(axis=1), boxes, is_complete=False))
    assert np.isnan(found["flow"]).all()
    assert np.isnan(found["density"]).all()
    assert np.isfinite(found["heatmap"]).any()
    assert np.isfinite(found["inside"]).any()
    output = torch.randn(1, sum(joint.spec.map_channels.values()), 64, 80)
    assert joint.loss(output, stacked(found)).isfinite()


def test_masks_are_asked_for_where_they_are_needed():
    points = np.array([[3.0, 4.0]], np.float32)
    with pytest.raises(AnnotationError, match="flow learns from masks; got 1 points without masks"):
        flow.build().make_targets(Annotation((20, 20), points))


def test_what_it_counts_in_is_up_to_the_first(joint):
    volume = Image(np.zeros((4, 32, 32), np.uint8), "ZYX")
    assert len(joint.frames(volume, None)) == 4


@pytest.mark.parametrize("axis", [-2, -1])
def test_flips_and_units_are_those_of_the_families(joint, axis):
    output = torch.randn(1, sum(joint.spec.map_channels.values()), 16, 16)
    flipped, maps = joint.flip(output, axis), joint.to_maps(output)
    assert torch.equal(flipped[:, :3], joint.models[0].flip(output[:, :3], axis))
    assert torch.equal(maps[:, 3:6], joint.models[1].to_maps(output[:, 3:6]))


def test_a_patch_that_is_emptied_teaches_what_is_known_of_nothing(joint):
    """No cell has a size there, so no loss may ask for its logarithm."""
    of_nothing = targets_of_nothing(joint)
    images = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    targets = of_nothing.expand(-1, 32, 32).repeat(40, 1, 1, 1) + 1
    with_spoilt(images, targets, of_nothing, np.random.default_rng(0))
    emptied = targets[targets[:, 2].amax(dim=(1, 2)) == 0]
    assert 0 < len(emptied) < 40
    assert torch.equal(emptied.isnan(), of_nothing.isnan().expand(emptied.shape))
    assert joint.loss(torch.zeros(emptied.shape), emptied).isfinite()
