"""The centroid family: its published network, and what its targets and maps mean."""

import numpy as np
import pytest
import torch

from cellwright.core.data import Annotation
from cellwright.models.families import centroid
from cellwright.models.layers.blocks import GlobalAttention, MobileViTBlock
from cellwright.models.layers.efficientnet import Block
from cellwright.ops.codecs.heatmap import CentroidSettings


@pytest.fixture(scope="module")
def paper():
    torch.manual_seed(0)
    return centroid.build("paper")


def n_numbers(network):
    """Parameters as Keras counts them: with the running statistics of batch normalisation."""
    return sum(value.numel() for value in network.state_dict().values() if value.is_floating_point())


def test_the_paper_preset_has_the_parameters_of_the_reference(paper):
    network = paper.network
    assert n_numbers(network.encoder) == 5_496_632
    assert n_numbers(network) == 10_589_595
    assert round(n_numbers(network) / 1e6, 2) == 10.59
    assert sum(value.numel() for value in network.parameters()) == 10_532_747


@pytest.mark.parametrize("size", [(16, 16), (48, 80)])
def test_the_paper_preset_takes_any_multiple_of_its_divisor(paper, size):
    assert paper.spec.divisor == 16
    assert paper.spec.halo % paper.spec.divisor == 0
    with torch.inference_mode():
        output = paper.network.eval()(torch.rand(2, 3, *size))
    assert output.shape == (2, 3, *size)
    assert output.isfinite().all()


def test_the_paper_preset_learns_in_every_weight(paper):
    for block in paper.network.modules():
        if isinstance(block, Block):
            block.drop = 0.0
    inputs = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    output = paper.network.train()(inputs)
    targets = torch.full_like(output.detach(), 20.0)
    targets[:, :1] = 0.5
    paper.loss(output, targets).backward()
    weights = paper.network.named_parameters()
    assert [name for name, value in weights if value.grad is None or not value.grad.abs().max() > 0] == []


def test_the_network_for_inference_gives_the_same(paper):
    inputs = torch.rand(1, 3, 48, 32, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = paper.network.eval()(inputs)
        assert torch.allclose(paper.inference_network()(inputs), expected, rtol=1e-3, atol=1e-4)


def test_attention_is_that_of_the_textbook():
    torch.manual_seed(0)
    attention = GlobalAttention(6).eval()
    tokens = torch.rand(2, 10, 6)
    query, key, value = attention.query_key_value(tokens).chunk(3, dim=-1)
    query, key, value = (part.reshape(2, 10, 2, 6) for part in (query, key, value))
    weights = torch.softmax(torch.einsum("bqhc,bkhc->bhqk", query, key) / 6**0.5, dim=-1)
    expected = attention.project(torch.einsum("bhqk,bkhc->bqhc", weights, value).reshape(2, 10, 12))
    assert torch.allclose(attention(tokens), expected, atol=1e-6)


def test_a_pixel_attends_to_the_farthest_one():
    torch.manual_seed(0)
    block = MobileViTBlock(5, 4).eval()
    one = torch.rand(1, 5, 12, 9)
    other = one.clone()
    other[..., -1, -1] += 5
    with torch.inference_mode():
        assert block(one).shape == (1, 4, 12, 9)
        assert not torch.equal(block(one)[..., 0, 0], block(other)[..., 0, 0])


def test_boxes_are_enough_to_learn_from(make_model):
    boxes = np.float32([[[8, 10], [28, 24]], [[36, 30], [48, 52]]])
    model = make_model("centroid")
    maps = model.make_targets(Annotation((64, 64), boxes.mean(axis=1) - 0.5, boxes))
    cells = model.postprocess(
        {"heatmap": maps["heatmap"], "size": np.nan_to_num(maps["size"], nan=1)}, CentroidSettings()
    )
    order = cells.points[:, 0].argsort()
    assert cells.boxes[order] == pytest.approx(boxes, abs=0.6)


def test_where_boxes_are_missing_nothing_is_learnt_of_the_ground_between(make_model):
    boxes = np.float32([[[8, 10], [28, 24]]])
    annotation = Annotation((40, 40), boxes.mean(axis=1), boxes, is_complete=False)
    heatmap = make_model("centroid").make_targets(annotation)["heatmap"][0]
    assert heatmap[17, 16] > 0.9
    assert np.isnan(heatmap[35, 35])


def test_points_teach_places_and_no_sizes(make_model):
    points = np.float32([[12, 30], [40, 15]])
    targets = make_model("centroid").make_targets(Annotation((60, 50), points))
    heatmap = targets["heatmap"][0]
    assert [heatmap[12, 30], heatmap[40, 15]] == pytest.approx([1, 1], abs=0.02)
    assert heatmap[55, 45] == 0
    assert np.isnan(targets["size"]).all()
    some = make_model("centroid").make_targets(Annotation((60, 50), points, is_complete=False))
    assert np.isnan(some["heatmap"][0, 55, 45])


def test_sizes_are_pixels_and_have_bounds(make_model):
    model = make_model("centroid")
    raw = torch.tensor([0.0, 0.0, np.log(2)]).reshape(1, 3, 1, 1)
    assert model.to_maps(raw).flatten().tolist() == pytest.approx([0.5, 26, 52])
    assert model.to_maps(torch.full((1, 3, 1, 1), 1e4)).isfinite().all()
