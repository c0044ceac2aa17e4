"""What every model family promises, checked for each of them by the same tests."""

from dataclasses import is_dataclass
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from cellwright.core.data import Image
from cellwright.core.errors import AxesError, CheckpointError
from cellwright.core.tasks import run
from cellwright.inference.pipeline import count_cells
from cellwright.inference.settings import EngineSettings
from cellwright.models import registry
from cellwright.models.checkpoint import load_checkpoint, save_checkpoint
from cellwright.models.protocol import MapKind
from cellwright.ops.geometry import intensity
from cellwright.ops.labels import annotate
from cellwright.ops.matching import match_labels, points_in_cells
from cellwright.ops.simulation.simulate import simulate

LARGE = {("flow", "paper"), ("centroid", "paper"), ("query", "paper"), ("pseudocolor", "paper")}
"""Architectures of others, in tests of their own: they are large, or not fully convolutional."""
PRESETS = sorted(
    {(name, preset) for name, family in registry.FAMILIES.items() for preset in family.load().SPECS} - LARGE
)

ALIKE = {("centroid", "deep"), ("query", "deep"), ("density", "deep")}
"""Their heads learn on ``lite``, and their trunk learns with the head of ``flow``."""


@pytest.fixture(params=PRESETS, ids="-".join)
def model(request, make_model):
    return make_model(*request.param)


def odd_squares(shape=(48, 64)):
    """Cells with an unmistakable middle, so that mirroring is exact."""
    labels = np.zeros(shape, np.int32)
    for number, (top, left, size) in enumerate([(2, 3, 11), (5, 30, 15), (25, 8, 17), (30, 44, 9)], start=1):
        labels[top : top + size, left : left + size] = number
    return labels


def stacked(model, labels):
    return torch.from_numpy(np.concatenate(list(model.make_targets(annotate(labels)).values())))[None]


def windows(model, *multiples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = [multiple * model.spec.divisor for multiple in multiples]
    return torch.rand(2, model.spec.in_channels, *size, generator=generator)


def test_the_spec_is_the_one_asked_for(model, request):
    assert model.spec.family in registry.FAMILIES
    assert model.spec.halo % model.spec.divisor == 0
    low, high = model.spec.diameter_range_px
    assert 0 < low <= model.spec.diameter_px <= high
    assert model.sha256 == ""
    assert is_dataclass(registry.get(model.spec.family).settings)
    assert set(model.map_kinds) == set(model.spec.map_channels)
    assert set(model.map_kinds.values()) <= set(get_args(MapKind))


@pytest.mark.parametrize("name", registry.FAMILIES)
def test_an_unknown_preset_is_refused(name):
    family = registry.get(name).load()
    known = ", ".join(sorted(family.SPECS))
    with pytest.raises(CheckpointError, match=f"Preset of {name} must be one of {known}; got 'huge'"):
        family.build("huge")


def test_the_output_has_the_size_of_the_input(model):
    for multiples in ((1, 1), (1, 3), (5, 3)):
        inputs = windows(model, *multiples)
        with torch.inference_mode():
            output = model.network.eval()(inputs)
        assert output.shape == (2, sum(model.spec.map_channels.values()), *inputs.shape[2:])
        assert output.isfinite().all()


def test_gradients_reach_every_weight(model):
    inputs = windows(model, 2, 2)
    output = model.network.train()(inputs)
    labels = odd_squares(tuple(inputs.shape[2:]))
    model.loss(output, stacked(model, labels).expand(2, -1, -1, -1)).backward()
    gradients = {name: value.grad for name, value in model.network.named_parameters()}
    assert len(gradients) > 10
    assert [name for name, value in gradients.items() if value is None or not value.abs().max() > 0] == []


def test_the_network_for_inference_gives_the_same(model):
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    model.network.train()
    fast = model.inference_network()
    inputs = windows(model, 2, 3)
    with torch.inference_mode():
        assert torch.allclose(fast(inputs), model.network.eval()(inputs), rtol=1e-3, atol=1e-4)
    assert not fast.training
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    after = model.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_flip_undoes_the_flip_of_an_equivariant_network(model):
    labels = odd_squares()
    targets = known(stacked(model, labels))
    for axis in (-2, -1):
        output = known(stacked(model, np.flip(labels, axis).copy()))
        same = (model.flip(output, axis) - targets).abs() < 1e-4
        # the flow of a middle pixel is rounding, and a box's middle a half pixel
        assert same.float().mean() > 0.99
        has_directions = "direction" in model.map_kinds.values()
        assert not has_directions or not torch.allclose(output.flip(axis), targets, atol=1e-4)


def known(targets):
    return torch.nan_to_num(targets, nan=0.0)


def test_two_flips_are_none_and_change_no_input(model):
    output = torch.randn(2, sum(model.spec.map_channels.values()), 8, 12)
    before = output.clone()
    for axis in (-2, -1):
        assert torch.equal(model.flip(model.flip(output, axis), axis), before)
        assert torch.equal(output, before)


def test_the_targets_hold_the_cells(model):
    for seed in range(3):
        truth = simulate("fluorescence", (128, 160), np.random.default_rng(seed), diameter_px=20).labels
        assert_targets_hold(model, truth)


def assert_targets_hold(model, truth):
    maps = model.make_targets(annotate(truth))
    assert {name: value.shape for name, value in maps.items()} == {
        name: (n, *truth.shape) for name, n in model.spec.map_channels.items()
    }
    assert {value.dtype for value in maps.values()} == {np.dtype(np.float32)}
    if registry.get(model.spec.family).gives == "density":
        assert maps["density"].sum() == pytest.approx(truth.max(), rel=1e-3)
        return
    cells = model.postprocess(filled(maps), registry.get(model.spec.family).settings())
    if cells.labels is not None:
        assert match_labels(cells.labels, truth, 0.7).f1 > 0.93
    assert is_each_found(cells, truth, 0.9)


def is_each_found(cells, truth, share):
    """Whether this share of points and of true cells belong to each other."""
    return len(points_in_cells(cells.points, cells.scores, truth)) >= share * max(len(cells), truth.max())


def filled(maps):
    """What a network gives where nothing is known: anything."""
    return {name: np.nan_to_num(value, nan=1.0) for name, value in maps.items()}


def test_targets_of_an_empty_image_hold_no_cell(model):
    maps = model.make_targets(annotate(np.zeros((32, 48), np.int32)))
    if registry.get(model.spec.family).gives == "density":
        assert not maps["density"].any()
    else:
        assert len(model.postprocess(filled(maps), registry.get(model.spec.family).settings())) == 0


def test_maps_are_in_map_units(model):
    maps = model.to_maps(10 * torch.randn(2, sum(model.spec.map_channels.values()), 8, 12))
    assert maps.shape == (2, sum(model.spec.map_channels.values()), 8, 12)
    assert maps.isfinite().all()
    parts = torch.split(maps, list(model.spec.map_channels.values()), dim=1)
    for name, part in zip(model.spec.map_channels, parts, strict=True):
        kind = model.map_kinds[name]
        assert kind == "direction" or (part >= 0).all()
        assert kind not in ("scalar", "upright") or (part <= 1).all()


@pytest.mark.no_cover  # goes many times through what the gradients above need once
def test_the_loss_falls_towards_the_truth(model):
    """Descent on the raw output itself ends at the targets, wherever something is known."""
    targets = stacked(model, odd_squares())
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(targets.shape, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([output], 0.3, fused=True)
    first = float(model.loss(output, targets).detach())
    for _ in range(150):
        loss = model.loss(output, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert 0 <= float(loss.detach()) < 0.1 * first
    maps = model.to_maps(output.detach())
    close = (maps - targets).abs() < 0.15 * targets.abs().clamp_min(1)
    assert close[~targets.isnan()].float().mean() > 0.97


def test_the_loss_ignores_what_is_not_known(model):
    targets = stacked(model, odd_squares())
    targets[..., :24, :] = torch.nan
    output = torch.randn(targets.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    model.loss(output, targets).backward()
    assert output.grad.isfinite().all()
    assert not output.grad[..., :24, :].any()


def test_another_network_keeps_the_rest(model, make_model):
    other = make_model(model.spec.family, model.spec.preset, seed=8).network
    changed = model.with_network(other, sha256="abc")
    assert changed.network is other
    assert (changed.spec, changed.sha256) == (model.spec, "abc")
    assert model.network is not other


def test_what_is_saved_is_what_is_loaded(model, tmp_path):
    save_checkpoint(tmp_path / "model", model, {"ap50": 0.5})
    loaded = load_checkpoint(tmp_path / "model")
    weights = model.network.state_dict()
    found = loaded.network.state_dict()
    assert list(weights) == list(found)
    assert all(torch.equal(weights[name], found[name]) for name in weights)
    inputs = windows(model, 2, 2)
    with torch.inference_mode():
        assert torch.equal(loaded.network(inputs), model.network.eval()(inputs))


@pytest.mark.no_cover  # as above
@pytest.mark.parametrize("names", [one for one in PRESETS if one not in ALIKE], ids="-".join)
def test_it_learns_one_image(make_model, names):
    model = make_model(*names, fresh=True)
    side = 48 if 48 % model.spec.divisor == 0 else 64
    drawn = simulate("fluorescence", (side, side), np.random.default_rng(5), diameter_px=14, n_cells=4)
    image = image_for(model, drawn.image)
    parts = model.frames(image, None)
    window = (slice(0, side), slice(0, side))
    scaled = intensity.apply(
        intensity.fit_scaling(parts.sample(), model.spec.percentiles), parts.read(0, window)
    )
    inputs = torch.from_numpy(scaled).expand(1, model.spec.in_channels, -1, -1)
    as_it_is = EngineSettings(device="cpu", diameter_px=model.spec.diameter_px)
    first, result = None, None
    n_steps = 190 if names in (("query", "lite"), ("centroid", "lite")) else 90
    for step, loss in enumerate(learn(model, inputs, stacked(model, drawn.labels), n_steps), start=1):
        first = first or loss
        if step % 10 == 0 and loss < 0.15 * first:
            result = run(count_cells(image, model, engine=as_it_is))
            if is_learned(result, drawn.labels, image):
                return
    pytest.fail(f"After {n_steps} steps the loss is {loss / first:.3f} of the first; it finds {result}")


def is_learned(result, truth, image):
    """Whether the four cells were counted, and found as far as the family finds single cells."""
    assert truth.max() == 4
    if result.count != pytest.approx(4, rel=0.1):
        return False
    if "Z" in image.axes:
        return match_labels(result.cells.labels, np.stack([truth] * 3), 0.5).f1 == 1
    if result.cells.labels is not None:
        return match_labels(result.cells.labels, truth, 0.5).f1 == 1
    return not len(result.cells) or is_each_found(result.cells, truth, 1.0)


def image_for(model, frame):
    """A 2D image, or three equal slices for a family that counts in volumes."""
    try:
        model.frames(Image(frame, "YX"), None)
    except AxesError:
        return Image(np.stack([frame] * 3), "ZYX")
    return Image(frame, "YX")


def learn(model, inputs, targets, n_steps):
    """Give the loss of each step of training."""
    network = model.network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5  # there is one image, whose statistics are those to count with
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=n_steps, pct_start=0.2)
    for _ in range(n_steps):
        loss = model.loss(network(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield float(loss.detach())
