"""The density family beyond the contract: the network of the reference, its loss, and what points teach."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.morphology import disk
from torch import nn

from cellwright.core.data import Annotation
from cellwright.inference.predictor import Networks
from cellwright.inference.settings import EngineSettings
from cellwright.models.checkpoint import load_checkpoint, save_checkpoint
from cellwright.models.families import density
from cellwright.models.families.flow import FLOW_SCALE
from cellwright.ops.codecs.density import DensitySettings, mean_diameter, typical_diameter
from cellwright.ops.codecs.flow import labels_to_flow
from cellwright.ops.labels import annotate
from cellwright.ops.measure.prediction_interval import fit_interval
from cellwright.ops.simulation.simulate import simulate


@pytest.fixture
def make_density():
    def make(preset="small"):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return density.build(preset)

    return make


def test_the_paper_preset_has_the_parameters_of_the_reference(make_density):
    network = make_density("paper").network
    assert sum(value.numel() for value in network.parameters()) == 1_811_489
    assert network(torch.rand(1, 1, 16, 48)).shape == (1, 1, 16, 48)


@pytest.mark.parametrize("preset", ["small", "paper"])
def test_a_density_is_never_negative_and_begins_near_none(make_density, preset):
    model = make_density(preset)
    assert (model.to_maps(torch.linspace(-90, 90, 50)[None, None, None]) >= 0).all()
    image = torch.rand(1, model.spec.in_channels, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        n_cells = float(model.to_maps(model.network.eval()(image))[:, 0].sum())
    assert 0.1 < n_cells < 10


def test_the_halo_of_the_paper_preset_covers_what_its_convolutions_see():
    """Group normalisation sees the whole tile; without it, the halo is the reach rounded up."""

    class Narrow(density.CellcounterNetwork):
        widths = (8,) * 5

    network = Narrow()
    for part in list(network.modules()):
        for name, child in part.named_children():
            kind = {nn.MaxPool2d: nn.AvgPool2d(2)}.get(type(child), nn.Identity())
            if isinstance(child, nn.GroupNorm | nn.ReLU | nn.MaxPool2d):
                setattr(part, name, kind)
    for value in network.parameters():
        value.data.abs_()  # nothing cancels, nothing is cut off
    spec = density.SPECS["paper"]
    middle = spec.halo + spec.divisor
    network, farthest = network.double(), 0
    for at in range(middle, middle + spec.divisor, 5):
        image = torch.zeros(1, 1, 2 * middle, 16, dtype=torch.double, requires_grad=True)
        network(image)[0, 0, at, 8].backward()
        farthest = max(farthest, int((image.grad[0, 0].nonzero()[:, 0] - at).abs().max()))
    assert spec.halo - spec.divisor < farthest <= spec.halo


@pytest.mark.parametrize(("preset", "given"), [("paper", 1), ("paper", 3), ("small", 1), ("small", 3)])
def test_grey_and_colours_suit_both_presets(make_density, preset, given):
    model = make_density(preset)
    image = np.random.default_rng(0).random((1, given, 32, 48), np.float32)
    engine = Networks((model,), EngineSettings(device="cpu", precision="float32"))
    grey = image.mean(axis=1, keepdims=True)
    as_the_model_takes_it = grey if preset == "paper" else np.broadcast_to(image, (1, 3, 32, 48))
    with torch.inference_mode():
        expected = model.to_maps(model.network.eval()(torch.from_numpy(as_the_model_takes_it.copy())))
    assert np.allclose(engine.attempt(image), expected.numpy(), rtol=1e-3, atol=1e-6)


def three_terms(found, true):
    """The loss of the reference, image by image and square by square."""
    pixels = np.abs(np.log(1 + 1e4 * found) - np.log(1 + 1e4 * true)).mean()
    count = np.abs(found.sum((1, 2)) - true.sum((1, 2)))
    count = np.where(count < 1, 0.5 * count**2, count - 0.5).mean()
    shape = 0.0
    for side, weight in ((4, 0.20), (8, 0.35), (16, 0.45)):
        spreads = []
        for maps in (found, true):
            n, height, width = maps.shape
            pooled = maps.reshape(n, height // side, side, width // side, side).mean((2, 4))
            spreads.append(pooled / pooled.sum((1, 2), keepdims=True))
        shape += weight * np.abs(spreads[0] - spreads[1]).sum((1, 2)).mean()
    return pixels + shape + 0.25 * count


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_of_the_paper_preset_is_that_of_the_reference(make_density, seed):
    model = make_density("paper")
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(2, 1, 32, 48, generator=generator)
    true = 0.01 * torch.rand(2, 1, 32, 48, generator=generator)
    found = model.to_maps(output)[:, 0].double().numpy()
    assert float(model.loss(output, true)) == pytest.approx(
        three_terms(found, true[:, 0].double().numpy()), rel=1e-4
    )


def raw_of(found):
    """The output that the model takes for this density, and for as much foreground as background."""
    dense = (density.UNIT * found).expm1().log()
    return torch.cat([dense, *[torch.zeros_like(dense)] * 3], dim=1)


def without_cells(density):
    """Targets of which single cells are not known."""
    return torch.cat([density, *[torch.full_like(density, torch.nan)] * 3], dim=1)


def test_the_truth_has_the_lowest_loss(make_density):
    model = make_density()
    labels = simulate("fluorescence", (96, 96), np.random.default_rng(2), diameter_px=16).labels
    true = torch.from_numpy(model.make_targets(annotate(labels))["density"])[None].clamp_min(1e-7)
    truth = without_cells(true)
    losses = [float(model.loss(raw_of(factor * true), truth)) for factor in (0.8, 0.95, 1.0, 1.05, 1.25)]
    assert losses == [*sorted(losses[:3], reverse=True), *sorted(losses[3:])]
    assert losses[2] < 1e-3


def test_counts_that_cannot_be_told_apart_are_met_in_the_mean(make_density):
    """Images look alike, one in four has four cells: one cell is the expectation, none the median."""
    model = make_density()
    true = torch.zeros(4, 1, 64, 64)
    true[0] = 4 / 64**2
    truth = without_cells(true)
    lowers = {}
    for n in (0.1, 0.5, 0.75, 1.25, 2.0):
        raw = raw_of(torch.full_like(true, n / 64**2)).requires_grad_()
        model.loss(raw, truth).backward()
        lowers[n] = bool(raw.grad[:, 0].sum() > 0)  # whether a step down the loss gives fewer cells
    assert lowers == {0.1: False, 0.5: False, 0.75: False, 1.25: True, 2.0: True}


def test_patches_may_be_smaller_than_the_squares(make_density):
    model = make_density()
    assert model.loss(torch.zeros(1, 4, 32, 24), torch.zeros(1, 4, 32, 24)).isfinite()


@pytest.mark.parametrize("preset", ["small", "paper"])
def test_an_image_without_cells_has_no_shape_to_miss(make_density, preset):
    model = make_density(preset)
    n_maps = sum(model.spec.map_channels.values())
    output = torch.randn(1, n_maps, 16, 16, requires_grad=True)
    loss = model.loss(output, torch.zeros(1, n_maps, 16, 16))
    loss.backward()
    assert loss.isfinite()
    assert output.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["labels", "boxes", "points"])
def test_whatever_is_annotated_teaches_the_count(make_density, kind):
    whole = annotate(simulate("fluorescence", (96, 128), np.random.default_rng(1), diameter_px=16).labels)
    annotation = Annotation(
        whole.shape,
        whole.points,
        whole.boxes if kind == "boxes" else None,
        whole.labels if kind == "labels" else None,
    )
    maps = make_density().make_targets(annotation)
    assert maps["density"].sum() == pytest.approx(len(whole.points), rel=1e-4)
    assert np.isnan(maps["foreground"]).any() == np.isnan(maps["cell_flow"]).any() == (kind != "labels")


def test_cells_are_learned_where_masks_tell_them(make_density):
    model, output = make_density(), torch.zeros(2, 4, 32, 32)
    labels = np.zeros((32, 32), np.int32)
    labels[8:20, 8:20] = 1
    maps = model.make_targets(annotate(labels))
    targets = torch.from_numpy(np.concatenate([maps[name] for name in model.spec.map_channels]))
    targets = torch.stack([targets, torch.full_like(targets, torch.nan)])
    targets[1, 0] = 0
    right = torch.cat(
        [output[:, :1], FLOW_SCALE * targets[:, 1:3], 8 * targets[:, 3:] - 4], dim=1
    ).nan_to_num()
    assert model.loss(right, targets) < model.loss(output, targets) - 0.25
    right[1, 1:] += 1  # nobody knows
    assert model.loss(right, targets) < model.loss(output, targets) - 0.25


def test_masks_tell_the_diameter(make_density):
    labels = simulate("fluorescence", (256, 256), np.random.default_rng(3), diameter_px=22).labels
    maps = make_density().make_targets(annotate(labels))
    assert mean_diameter(maps["density"], maps["foreground"]) == pytest.approx(22, rel=0.15)


@pytest.mark.parametrize("preset", ["small", "paper"])
def test_targets_tell_the_diameter(make_density, preset):
    model, points = make_density(preset), np.array([[60, 60], [60, 140]], np.float32)
    boxes = np.stack([points - 15, points + 15], axis=1)
    (target,) = model.make_targets(Annotation((120, 200), points, boxes))["density"]
    assert typical_diameter(target, model.variance) == pytest.approx(30, rel=0.1)


def test_of_an_incomplete_annotation_no_density_is_known(make_density):
    points = np.array([[5, 5]], np.float32)
    maps = make_density().make_targets(Annotation((16, 16), points, is_complete=False))
    assert {name: len(target) for name, target in maps.items()} == density.MAP_CHANNELS
    assert all(np.isnan(target).all() for target in maps.values())


def test_masks_that_may_not_be_all_teach_single_cells_but_no_density(make_density):
    labels = np.zeros((32, 32), np.int32)
    labels[4:20, 6:22] = 1
    maps = make_density().make_targets(replace(annotate(labels), is_complete=False))
    assert np.isnan(maps["density"]).all()
    assert np.array_equal(maps["foreground"][0], labels > 0)
    assert np.abs(maps["cell_flow"][:, labels > 0]).max() == pytest.approx(1, abs=0.01)


def test_the_error_bar_travels_with_the_weights(make_density, tmp_path):
    fresh = make_density()
    error = fit_interval([10.0, 22.0, 31.0], [12, 20, 33])
    model = fresh.with_network(fresh.network, spec=replace(fresh.spec, count_error=error))
    save_checkpoint(tmp_path / "model", model)
    loaded = load_checkpoint(tmp_path / "model")
    assert loaded.spec.count_error == error
    assert make_density().spec.count_error == ()


@pytest.mark.parametrize(("options", "n_cells"), [({}, 1), ({"min_cell_score": 0.25}, 0)])
def test_a_model_says_how_sure_a_single_cell_has_to_be(make_density, options, n_cells):
    model = make_density()
    labels = np.pad(disk(10), 6).astype(np.int32)
    inward = labels_to_flow(labels)
    maps = {
        "density": np.zeros((1, *labels.shape), np.float32),
        "cell_flow": 0.5 * inward + 0.87 * np.stack([-inward[1], inward[0]]),  # spirals in: a score of 0.22
        "foreground": 0.45 * labels[np.newaxis].astype(np.float32),
    }
    doubtful = model.with_network(model.network, spec=replace(model.spec, options=options))
    assert round(doubtful.decode(maps, labels.shape, DensitySettings()).cells.sum()) == n_cells


@pytest.mark.parametrize("preset", ["small", "paper"])
def test_means_are_those_of_cells(preset):
    """The softplus of a mean is less than the mean of softplus."""
    model = density.build(preset)
    n_maps = sum(model.spec.map_channels.values())
    outputs = 6 * torch.randn(3, n_maps, 16, 16, generator=torch.Generator().manual_seed(0))
    mean = model.mean_to_maps(model.to_summands(outputs).mean(dim=0, keepdim=True))
    assert torch.allclose(mean[:, 0], model.to_maps(outputs)[:, 0].mean(dim=0), rtol=1e-5)
    assert not torch.allclose(model.to_maps(outputs.mean(dim=0, keepdim=True))[:, 0], mean[:, 0], rtol=0.2)
    assert torch.allclose(model.mean_to_maps(model.to_summands(outputs)), model.to_maps(outputs))
