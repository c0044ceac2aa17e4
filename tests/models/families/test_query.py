"""The query family: its published network, and that questions about points tell what the map tells."""

import numpy as np
import pytest
import torch
from torch import nn

from cellwright.core.data import Annotation
from cellwright.core.errors import QueryError
from cellwright.models.families import query
from cellwright.ops.codecs.query import QuerySettings
from cellwright.ops.geometry import intensity
from cellwright.ops.labels import annotate
from cellwright.ops.matching import match_labels
from cellwright.ops.simulation.simulate import simulate

PRESETS = sorted(query.SPECS)


def n_parameters(module):
    return sum(value.numel() for value in module.parameters())


def drawn(seed=0, shape=(96, 112)):
    return simulate("fluorescence", shape, np.random.default_rng(seed), diameter_px=20)


def scaled(image, n_channels=1):
    one = intensity.apply(intensity.fit_scaling(image), image)
    return np.repeat(one[np.newaxis], n_channels, axis=0)


@pytest.fixture(params=PRESETS)
def model(request, make_model):
    return make_model("query", request.param)


@pytest.fixture
def paper(make_model):
    return make_model("query", "paper")


def test_the_paper_preset_has_the_parameters_of_the_reference(paper):
    network = paper.network
    assert n_parameters(network) == 405_229
    assert n_parameters(network.local) == 6_244
    assert n_parameters(network.whole) == 24_712
    assert n_parameters(network.point) == 78_336
    assert n_parameters(network.head) == 295_937


def test_a_point_is_told_by_its_sines_and_cosines_octave_by_octave(paper):
    seen = []
    paper.network.point.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x, y = 0.3, 0.7
    paper.network.point(torch.tensor([[x, y]]))
    expected = [wave(2**i * at) for i in range(12) for wave in (np.sin, np.cos) for at in (x, y)]
    assert np.allclose(seen[0][0], expected, atol=1e-3)


def test_the_patch_lies_around_its_point(paper):
    """Features that count their columns and rows are found again where the point is."""
    network = paper.network
    seen = []
    network.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    rows, columns = torch.meshgrid(torch.arange(56.0), torch.arange(56.0), indexing="ij")
    plane = torch.stack([rows, columns, rows * 0, columns * 0])
    features = torch.cat([plane.flatten(), torch.zeros(64)])[np.newaxis]
    network.answers(features, torch.tensor([[30 / 55, 20 / 55]]))  # x, y
    patch = seen[0][0, 0, 256:512].reshape(4, 8, 8)
    around = torch.arange(8) - 3.5
    assert torch.allclose(patch[0], (20 + around)[:, np.newaxis].expand(8, 8), atol=1e-3)
    assert torch.allclose(patch[1], (30 + around).expand(8, 8), atol=1e-3)


@pytest.mark.parametrize("shape", [(16, 16), (48, 80), (256, 240)])
def test_the_paper_preset_takes_images_of_any_size(paper, shape):
    inputs = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        output = paper.network.eval()(inputs)
        alone = paper.network(inputs[1:])
    assert output.shape == (2, 1, *shape)
    assert output.isfinite().all()
    assert torch.allclose(output[1:], alone, atol=1e-5)


def test_the_paper_preset_sees_the_image_squashed_into_its_view(paper, rng):
    image = torch.from_numpy(smooth_image(rng, (224, 224)))[np.newaxis]
    stretched = nn.functional.interpolate(image, (448, 112), mode="bilinear")
    with torch.inference_mode():
        view, same, other = (paper.network.features(x) for x in (image, stretched, image.flip(-1)))
    assert view.shape == (1, 4 * 56 * 56 + 64)
    assert (view - same).abs().mean() < 0.02 * (view - other).abs().mean()


def test_no_more_questions_are_asked_at_once_than_memory_holds(paper, monkeypatch):
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = paper.network(image)
        monkeypatch.setattr(query, "CHUNK", 100)
        seen = []
        paper.network.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
        assert torch.allclose(paper.network(image), expected, atol=1e-5)
    assert sum(seen) == 32 * 32
    assert max(seen) <= 100


def test_gradients_reach_every_weight_of_the_paper_preset(paper):
    inputs = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    targets = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(2))
    paper.loss(paper.network.train()(inputs), targets).backward()
    idle = [
        name
        for name, value in paper.network.named_parameters()
        if value.grad is None or not value.grad.abs().max() > 0
    ]
    assert idle == []


def test_cells_are_found_in_the_targets_of_one_answer(paper):
    n_found, n_true, n_right = 0, 0, 0
    for seed in range(6):
        truth = drawn(seed, (128, 160)).labels
        maps = paper.make_targets(annotate(truth))
        assert {name: value.shape for name, value in maps.items()} == {"inside": (1, 128, 160)}
        cells = paper.postprocess(maps, QuerySettings())
        match = match_labels(cells.labels, truth, 0.7)
        n_found, n_true = n_found + match.n_predicted, n_true + match.n_true
        n_right += match.true_positives
    assert 2 * n_right / (n_found + n_true) > 0.8  # where cells overlap, one answer cannot part them


def test_every_map_says_how_it_follows_the_image(model):
    assert set(model.map_kinds) == set(model.spec.map_channels)


def test_the_paper_preset_learns_one_image(make_model):
    model = make_model("query", "paper", fresh=True)
    truth = drawn(5, (48, 48))
    inputs = torch.from_numpy(scaled(truth.image, 3))[np.newaxis]
    targets = torch.from_numpy(model.make_targets(annotate(truth.labels))["inside"])[np.newaxis]
    optimizer = torch.optim.Adam(model.network.parameters(), 1e-3, fused=True)
    losses = []
    for _ in range(40):
        loss = model.loss(model.network(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def smooth_image(rng, shape):
    coarse = torch.from_numpy(rng.random((1, 3, 5, 6)).astype(np.float32))
    return nn.functional.interpolate(coarse, shape, mode="bicubic")[0].numpy()


def test_answers_to_points_are_those_of_the_lattice(model, rng, monkeypatch):
    """The map is interpolated between answers on every second pixel; each can be asked for."""
    lattices = []
    interpolate = nn.functional.interpolate

    def spy(values, *args, **options):
        lattices.append(values)
        return interpolate(values, *args, **options)

    image = smooth_image(rng, (64, 96))
    monkeypatch.setattr(nn.functional, "interpolate", spy)
    with torch.inference_mode():
        model.network.eval()(torch.from_numpy(image)[np.newaxis])
        expected = model.to_maps(lattices[-1])[0, 0].numpy()
    assert expected.shape == (32, 48)
    points = np.stack(np.indices(expected.shape), -1).reshape(-1, 2) * 2 + 0.5
    found = model.query(image, points)
    assert (found.shape, found.dtype) == ((len(points),), np.float32)
    assert np.allclose(found, expected.ravel(), atol=1e-4)
    assert np.ptp(found) > 1e-3


def test_each_point_is_answered_for_itself(model, rng):
    image = smooth_image(rng, (40, 50))  # no multiple of the divisor
    points = rng.uniform(0, 39, (20, 2))
    together = model.query(image, points)
    alone = np.concatenate([model.query(image, point[np.newaxis]) for point in points])
    assert np.allclose(together, alone, atol=1e-5)
    assert model.query(image, np.zeros((0, 2))).shape == (0,)


def test_asking_leaves_the_network_as_it_is(model, rng):
    model.network.train()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    model.query(smooth_image(rng, (32, 32))[:1], [(3, 4)])
    assert model.network.training
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())


@pytest.mark.parametrize("point", [(-0.6, 3), (3, 49.5), (40, 3), (np.nan, 3)])
def test_a_point_outside_the_image_is_refused(model, rng, point):
    with pytest.raises(QueryError, match=r"40 x 50 pixels; got y .* Choose"):
        model.query(smooth_image(rng, (40, 50)), [(3, 3), point])


def test_targets_of_boxes_are_known_in_their_middles_alone(model):
    boxes = np.array([[[10, 10], [30, 40]]], np.float32)
    maps = model.make_targets(Annotation((48, 64), boxes.mean(axis=1) - 0.5, boxes))
    assert list(maps) == list(model.spec.map_channels)
    known = ~np.isnan(maps["inside"][0])
    assert known[19, 24]
    assert not known[:10].any()
    assert (maps["inside"][0][known] == 1).all()


def test_points_alone_teach_their_surroundings(model):
    inside = model.make_targets(Annotation((48, 64), np.float32([[20, 30]])))["inside"][0]
    assert inside[20, 30] == inside[20, 36] == 1
    assert np.isnan(inside[20, 45])
    assert np.isnan(inside[5, 5])
