"""The EfficientNet trunks: their size as the papers count it, and their features.

Keras counts the running mean and variance of a batch normalisation as (non-trainable) parameters, and so do
the figures here; torch's count of batches is no such number.
"""

import pytest
import torch
from torch import nn

from cellwright.models.layers.blocks import folded
from cellwright.models.layers.efficientnet import (
    B5,
    V2_S,
    Block,
    EfficientNetTrunk,
    Stage,
)

TINY = V2_S._replace(
    stages=(Stage("fused", 1, 3, 1, 8, 1), Stage("fused", 4, 3, 2, 8, 2), Stage("mb", 4, 5, 2, 12, 2)),
    stem=8,
    taps=(1, 2),
)


def n_numbers(network):
    return sum(value.numel() for value in network.state_dict().values() if value.is_floating_point())


def n_trained(network):
    return sum(value.numel() for value in network.parameters())


@pytest.fixture(scope="module", params=[V2_S, B5], ids=lambda plan: plan.name)
def trunk(request):
    torch.manual_seed(0)
    return EfficientNetTrunk(request.param)


def test_the_trunks_have_the_parameters_of_the_reference(trunk):
    expected = {"EfficientNetV2-S": (5_496_632, 5_440_936), "EfficientNet-B5": (5_633_624, 5_565_880)}
    assert (n_numbers(trunk), n_trained(trunk)) == expected[trunk.plan.name]


def test_the_published_network_around_b5_adds_up():
    """EfficientCellSeg: 6,629,433 trainable of 6,697,824, seven of which scale the input inside Keras."""
    channels = ((1056 + 384, 64), (64 + 240, 48), (48 + 48, 32), (32 + 3, 16))
    decoder = sum(9 * n_in * n + 9 * n * n + 2 * n + 4 * n for n_in, n in channels) + 17
    trunk = EfficientNetTrunk(B5)
    running = 4 * sum(n for _, n in channels)
    assert n_trained(trunk) + decoder == 6_629_433
    assert n_numbers(trunk) + decoder + running + 7 == 6_697_824


def test_the_features_have_the_strides_and_widths_they_say(trunk):
    strides = {"EfficientNetV2-S": [16], "EfficientNet-B5": [2, 4, 8, 16]}[trunk.plan.name]
    widths = {"EfficientNetV2-S": (960,), "EfficientNet-B5": (48, 240, 384, 1056)}[trunk.plan.name]
    with torch.inference_mode():
        features = trunk.eval()(torch.rand(2, 3, 32, 64))
    assert trunk.widths == widths
    assert [tuple(one.shape) for one in features] == [
        (2, width, 32 // stride, 64 // stride) for width, stride in zip(widths, strides, strict=True)
    ]


def test_random_weights_let_signals_and_gradients_through(trunk):
    inputs = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    last = trunk.train()(inputs)[-1]
    assert 0.1 < float(last.detach().std()) < 10
    for block in trunk.modules():
        if isinstance(block, Block):
            block.drop = 0.0
    sum(one.square().mean() for one in trunk(inputs)).backward()
    idle = [name for name, value in trunk.named_parameters() if not value.grad.abs().max() > 0]
    assert idle == []


def test_features_stay_when_normalisation_is_folded(trunk):
    inputs = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    fast = folded(trunk)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    with torch.inference_mode():
        for one, other in zip(fast(inputs), trunk.eval()(inputs), strict=True):
            assert (one - other).abs().max() <= 1e-4 * other.abs().max()


def test_a_tap_is_the_first_activation_of_its_stage():
    torch.manual_seed(0)
    trunk = EfficientNetTrunk(TINY).eval()
    image = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        features = trunk(image)
        first = trunk.stem(image)
        _, second = trunk.stages[0](first)
        _, third = trunk.stages[1](second)
        _, fourth = trunk.stages[2](third)
        opened = [trunk.stages[0].first.open(first), trunk.stages[1].first.open(second)]
        expected = [*opened, trunk.last(fourth)]
    assert [tuple(one.shape[1:]) for one in features] == [(8, 8, 8), (32, 4, 4), (72, 2, 2)]
    assert all(torch.equal(one, other) for one, other in zip(features, expected, strict=True))
    assert trunk.widths == (8, 32, 72)


def test_blocks_are_carried_only_where_shapes_allow_it():
    kinds = [("fused", 1), ("fused", 4), ("mb", 1), ("mb", 6)]
    for kind, ratio in kinds:
        same = Block(Stage(kind, ratio, 3, 1, 8, 1), 8, 1, 0.0).eval()
        x = torch.randn(2, 8, 6, 6)
        assert torch.allclose(same(x) - x, same.rest(same.open(x)), atol=1e-5)
        to_half = Block(Stage(kind, ratio, 3, 2, 8, 1), 8, 2, 0.0).eval()
        assert to_half(x).shape == (2, 8, 3, 3)
        assert torch.equal(to_half(x), to_half.rest(to_half.open(x)))


def test_blocks_are_left_out_in_training_alone_and_ever_more_often():
    torch.manual_seed(0)
    block = Block(Stage("fused", 4, 3, 1, 8, 1), 8, 1, 0.5)
    x = torch.randn(64, 8, 4, 4)
    assert torch.equal(block.eval()(x), block(x))
    left_out = (block.train()(x) == x).flatten(1).all(dim=1)
    assert 20 <= int(left_out.sum()) <= 44
    drops = [module.drop for module in EfficientNetTrunk(V2_S).modules() if isinstance(module, Block)]
    assert drops == sorted(drops)
    assert drops[0] == 0
    assert drops[-1] == pytest.approx(0.2 * 24 / 40)
