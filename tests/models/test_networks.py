"""The networks of the flow family: their size, their parts, and how far a pixel sees."""

from contextlib import closing

import numpy as np
import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from cellwright.inference.context import load_models
from cellwright.inference.predictor import Networks
from cellwright.inference.settings import EngineSettings
from cellwright.models.families import centroid, density, flow, query
from cellwright.models.families.flow import Attention, MixTransformer, TransformerBlock
from cellwright.models.layers import trunk
from cellwright.models.layers.blocks import ActivatedConv2d, fused
from cellwright.ops.geometry.intensity import apply, fit_scaling
from cellwright.ops.simulation.simulate import simulate


def n_parameters(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


@pytest.fixture(scope="module")
def paper():
    torch.manual_seed(0)
    return flow.build("paper")


def test_the_paper_preset_has_the_parameters_of_the_reference(paper):
    network = paper.network
    assert n_parameters(network) == 121_303_587
    assert n_parameters(network.encoder) == 81_443_008
    assert n_parameters(network.decoder) == 39_822_656
    assert n_parameters(network.flow_head) + n_parameters(network.cell_head) == 37_923


def test_the_paper_preset_runs_and_learns_in_every_weight(paper):
    inputs = torch.rand(2, 3, 32, 96, generator=torch.Generator().manual_seed(1))
    output = paper.network.train()(inputs)
    assert output.shape == (2, 3, 32, 96)
    targets = torch.zeros_like(output.detach())
    paper.loss(output, targets).backward()
    idle = [
        name
        for name, value in paper.network.named_parameters()
        if value.grad is None or not value.grad.abs().max() > 0
    ]
    assert idle == []


def test_the_small_preset_is_small():
    assert n_parameters(flow.build("small").network) < 4_000_000


@pytest.mark.parametrize("is_deep", [False, True])
def test_a_fusion_in_bands_of_rows_gives_what_the_whole_gives(monkeypatch, is_deep):
    rng = torch.Generator().manual_seed(4)
    fusion = trunk.GatedFusion(6, 4, 8, 2, is_deep=is_deep).eval()
    if is_deep:
        nn.init.ones_(fusion.mix[-1].second[1].weight)  # as though it had learned
    coarse, skip = torch.rand(1, 6, 37, 8, generator=rng), torch.rand(1, 4, 74, 16, generator=rng)
    with torch.inference_mode():
        whole = fusion(coarse, skip)
        monkeypatch.setattr(trunk, "BAND_ROWS", 10)
        torch.testing.assert_close(fusion(coarse, skip), whole, rtol=1e-5, atol=1e-6)


def test_no_band_is_kept_beside_the_whole(monkeypatch):
    fusion, made = trunk.GatedFusion(6, 4, 8, 2).eval(), []
    fuse = fusion._fused

    def watched(coarse, skip):
        assert all(band.expired() for band in made[:-1])
        band = fuse(coarse, skip)
        made.append(StorageWeakRef(band.untyped_storage()))
        return band

    monkeypatch.setattr(fusion, "_fused", watched)
    monkeypatch.setattr(trunk, "BAND_ROWS", 10)
    with torch.inference_mode():
        fusion(torch.rand(1, 6, 37, 8), torch.rand(1, 4, 74, 16))
    assert len(made) == 4


@pytest.mark.parametrize("family", [flow, centroid, query, density])
def test_the_deep_preset_begins_as_the_lite_one(family):
    lite, deep = family.build("lite").network, family.build("deep").network
    missing, unexpected = deep.load_state_dict(lite.state_dict(), strict=False)
    assert missing
    assert not unexpected
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(deep.eval()(image), lite.eval()(image))


def test_the_halo_covers_what_a_pixel_sees(make_model):
    """Everything beyond the halo may be anything: the pixel in the middle stays as it is."""
    model = make_model(preset="small")
    halo = model.spec.halo
    side = 2 * halo + 4 * model.spec.divisor
    middle = slice(halo, side - halo)
    one = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(2))
    other = one.clone()
    other[:, :, 0] = 9
    other[:, :, :, -1] = -9
    with torch.inference_mode():
        network = model.network.eval()
        first, second = network(one), network(other)
    assert torch.equal(first[:, :, middle, middle], second[:, :, middle, middle])
    assert not torch.allclose(first, second)


@pytest.mark.parametrize(("look", "axis"), [("fluorescence", 2), ("phase", 3)])
def test_beyond_the_halo_of_the_default_model_pixels_hardly_count(look, axis):
    model = load_models("flow")[0]
    receptive_px, side = 480, 96 + 2 * model.spec.halo
    shape = [side, side]
    shape[axis - 2] = 96 + 2 * receptive_px
    drawn = simulate(look, tuple(shape), np.random.default_rng(3), diameter_px=24, n_cells=400).image
    scaled = np.atleast_3d(apply(fit_scaling(drawn), drawn))
    image = torch.from_numpy(scaled).permute(2, 0, 1)[None].expand(1, 3, -1, -1)
    seen = axis, receptive_px - model.spec.halo, side
    with torch.inference_mode():
        whole = model.to_maps(model.network.eval()(image)).narrow(*seen)
        alone = model.to_maps(model.network(image.narrow(*seen)))
    core = np.s_[..., model.spec.halo : -model.spec.halo, model.spec.halo : -model.spec.halo]
    assert whole[core].abs().max() > 0.5
    assert (whole - alone)[core].abs().max() < 0.01


def test_features_of_the_mix_transformer():
    encoder = MixTransformer(in_channels=1, depths=(1, 1, 1, 1)).eval()
    features = encoder(torch.rand(2, 1, 64, 96))
    assert [tuple(one.shape) for one in features] == [
        (2, 64, 16, 24),
        (2, 128, 8, 12),
        (2, 320, 4, 6),
        (2, 512, 2, 3),
    ]


def test_attention_is_that_of_the_textbook():
    torch.manual_seed(0)
    attention = Attention(8, 2, 1).eval()
    tokens = torch.rand(2, 12, 8)
    query = attention.query(tokens).reshape(2, 12, 2, 4)
    key, value = (part.reshape(2, 12, 2, 4) for part in attention.key_value(tokens).chunk(2, dim=-1))
    weights = torch.softmax(torch.einsum("bqhc,bkhc->bhqk", query, key) / 2, dim=-1)
    expected = attention.project(torch.einsum("bhqk,bkhc->bqhc", weights, value).reshape(2, 12, 8))
    assert torch.allclose(attention(tokens, 3, 4), expected, atol=1e-6)


def test_blocks_are_dropped_in_training_alone():
    torch.manual_seed(0)
    block = TransformerBlock(8, 1, 1, drop=0.5)
    tokens = torch.rand(64, 12, 8)
    assert torch.equal(block.eval()(tokens, 3, 4), block(tokens, 3, 4))
    kept = (block.train()(tokens, 3, 4) == tokens).flatten(1).all(dim=1)  # both halves dropped: nothing added
    assert 4 <= int(kept.sum()) <= 28


@pytest.mark.parametrize("number_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("preset", ["small", "lite"])
def test_convolutions_that_activate_give_the_same_numbers(preset, number_type):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("PyTorch has no oneDNN here")
    torch.manual_seed(0)
    model = flow.build(preset)
    in_two, in_one = model.inference_network(), fused(model.inference_network(), number_type)
    image = 4 * torch.rand(1, 3, 288, 256)
    is_half = number_type != torch.float32
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=is_half):
        assert torch.equal(in_one(image), in_two(image))


def _missing(*given):
    raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_convolution_pointwise'")


def _of_other_arguments(*given):
    raise RuntimeError("mkldnn::_convolution_pointwise() expected at most 9 argument(s) but received 10")


def _without_activation(x, weight, bias, padding, stride, dilation, groups, *activation):
    return nn.functional.conv2d(x, weight, bias, stride, padding, dilation, groups)


@pytest.mark.parametrize("operation", [_missing, _of_other_arguments, _without_activation])
def test_a_pytorch_without_the_operation_of_both_counts_as_before(monkeypatch, operation):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch.ops.mkldnn, "_convolution_pointwise", operation, raising=False)
    image = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    with closing(Networks([flow.build("small")], EngineSettings(device="cpu"))) as engine:
        assert engine.attempt(image).shape == (1, engine.n_maps, 64, 64)
        layers = [one for network in engine._networks for one in network.modules()]
    assert not [one for one in layers if isinstance(one, ActivatedConv2d)]


@pytest.mark.parametrize("side", [32, 64, 96])
def test_in_single_precision_numbers_differ_by_rounding_alone(side):
    torch.manual_seed(0)
    model = flow.build("lite")
    kept = {name: weight.clone() for name, weight in model.network.state_dict().items()}
    in_two, in_one = model.inference_network(), fused(model.inference_network(), torch.float32)
    image = 4 * torch.rand(1, 3, side, side)
    with torch.inference_mode():
        torch.testing.assert_close(in_one(image), in_two(image), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(weight, kept[name]) for name, weight in model.network.state_dict().items())


def test_to_look_for_the_operation_leaves_the_random_numbers_of_others():
    before = torch.get_rng_state()
    fused(nn.Sequential(), torch.float32)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_activation_of_the_default_network_stands_alone_on_x86(monkeypatch):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("PyTorch has no oneDNN here")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with closing(Networks([flow.build("lite")], EngineSettings(device="cpu"))) as engine:
        layers = [one for network in engine._networks for one in network.modules()]
    assert not [one for one in layers if isinstance(one, nn.ReLU | nn.ReLU6)]
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert not any(
        isinstance(one, ActivatedConv2d)
        for one in fused(flow.build("lite").inference_network(), torch.float32).modules()
    )
