"""What of a volume the pseudocolor family sees, where its weights begin, and the published architecture."""

import numpy as np
import pytest
import torch

from cellwright.core.data import Annotation, Image
from cellwright.core.errors import AnnotationError, AxesError
from cellwright.models.families import flow, pseudocolor
from cellwright.models.layers.efficientnet import Block
from cellwright.ops.codecs.pseudocolor import PseudocolorSettings, bright, coloured
from cellwright.ops.geometry.intensity import fit_scaling
from cellwright.ops.labels import annotate
from cellwright.ops.link import LinkSettings
from cellwright.ops.matching import match_labels
from cellwright.ops.simulation.simulate import simulate

WHOLE = (slice(None), slice(None))


def keras_count(module):
    """Trained numbers and running statistics, as Keras sums them up."""
    states = module.state_dict().items()
    return sum(value.numel() for name, value in states if not name.endswith("num_batches_tracked"))


@pytest.fixture(scope="module")
def paper():
    torch.manual_seed(0)
    return pseudocolor.build("paper")


@pytest.fixture(scope="module")
def volume():
    return simulate("fluorescence", (4, 64, 72), np.random.default_rng(0), diameter_px=16)


def test_the_paper_preset_has_the_parameters_of_the_reference(paper):
    images_the_input_was_standardised_by = 1  # a number that Keras keeps and counts
    assert keras_count(paper.network) + images_the_input_was_standardised_by == 6_697_824
    assert keras_count(paper.network.encoder) == 5_633_624


def test_the_paper_preset_runs_on_any_size_and_learns_in_every_weight(paper, monkeypatch):
    monkeypatch.setattr(pseudocolor, "WORKING_PX", 96)
    for module in paper.network.modules():
        if isinstance(module, Block):
            monkeypatch.setattr(module, "drop", 0.0)  # none is left out by chance
    inputs = torch.rand(1, 3, 70, 101, generator=torch.Generator().manual_seed(1))
    output = paper.network.train()(inputs)
    assert output.shape == (1, 1, 70, 101)
    targets = torch.zeros_like(output.detach())
    targets[..., 20:40, 30:60] = 1
    targets[..., :10, :] = torch.nan
    paper.loss(output, targets).backward()
    gradients = {name: value.grad for name, value in paper.network.named_parameters()}
    assert all(value is not None and value.isfinite().all() for value in gradients.values())
    before_norm = {name for name in gradients if name.endswith(".0.bias") and name.startswith("decoder")}
    idle = {name for name, value in gradients.items() if not value.abs().max() > 0}
    assert idle <= before_norm  # normalisation takes away what a bias before it adds


def test_the_paper_loss_knows_what_is_not_known(paper):
    targets = torch.zeros(1, 1, 8, 8)
    targets[..., 2:5, 2:5] = 1
    right, wrong = 20 * (2 * targets - 1), -20 * (2 * targets - 1)
    assert float(paper.loss(right, targets)) < 0.1 < 1 < float(paper.loss(wrong, targets))
    hidden = torch.full_like(targets, torch.nan)
    assert float(paper.loss(wrong, hidden)) == float(paper.loss(right, hidden))
    half = targets.clone()
    half[..., 4:] = torch.nan
    mixed = torch.where(half.isnan(), wrong, right)
    assert float(paper.loss(mixed, half)) == pytest.approx(float(paper.loss(right, half)), abs=1e-6)


def test_the_paper_map_is_foreground_that_a_watershed_parts(paper, volume):
    truth = volume.labels[2]
    maps = paper.make_targets(annotate(truth))
    assert {name: value.shape for name, value in maps.items()} == {"probability": (1, *truth.shape)}
    assert np.array_equal(maps["probability"][0] > 0, truth > 0)
    logit = torch.tensor([[[[-9.0, 0.0, 9.0]]]])
    assert paper.to_maps(logit).flatten().tolist() == pytest.approx([0, 0.5, 1], abs=1e-3)
    rows, columns = np.ogrid[:50, :80]
    discs = np.zeros((50, 80), np.int32)
    for number, x in enumerate((25, 42, 65), start=1):
        discs[(rows - 25) ** 2 + (columns - x) ** 2 <= 81] = number
    cells = paper.postprocess(paper.make_targets(annotate(discs)), PseudocolorSettings())
    assert match_labels(cells.labels, discs, 0.9).f1 == 1


def test_the_paper_preset_needs_masks(paper):
    with pytest.raises(AnnotationError, match="pseudocolor learns from masks"):
        paper.make_targets(Annotation((8, 8), np.zeros((0, 2), np.float32)))


def test_the_paper_preset_sees_slices_as_the_reference_makes_them(paper, volume):
    frames = paper.frames(Image(volume.image, "ZYX"), None)
    before, middle, after = volume.image[:3]
    expected = coloured([bright(before), bright(after)], middle, None)
    assert np.array_equal(frames.read(1, WHOLE), expected)


@pytest.mark.parametrize("preset", ["small", "plain"])
def test_the_weights_of_flow_are_a_start(preset):
    start = flow.build("small").network.state_dict()
    model = pseudocolor.build(preset)
    model.network.load_state_dict(start)
    inputs = torch.rand(1, 3, 32, 32)
    known = flow.build("small")
    known.network.load_state_dict(start)
    with torch.inference_mode():
        assert torch.equal(model.network.eval()(inputs), known.network.eval()(inputs))


def test_small_sees_colours_and_plain_sees_none(volume):
    image = Image(volume.image, "ZYX")
    scaling = fit_scaling(volume.image, pseudocolor.SPECS["small"].percentiles)
    before, middle, after = volume.image[:3]
    expected = coloured([bright(before), bright(after)], middle, scaling)
    small, plain = (pseudocolor.build(preset).frames(image, None) for preset in ("small", "plain"))
    assert np.array_equal(small.read(1, WHOLE), expected)
    assert np.array_equal(plain.read(1, WHOLE), expected[1:2])
    assert (expected[0] > expected[1]).any()


@pytest.mark.parametrize("preset", sorted(pseudocolor.SPECS))
def test_2d_images_and_single_slices_are_refused_with_advice(preset):
    model = pseudocolor.build(preset)
    assert model.needs_volumes
    for shape, axes in (((9, 9), "YX"), ((9, 9, 3), "YXC"), ((2, 9, 9), "TYX"), ((1, 9, 9), "ZYX")):
        with pytest.raises(AxesError, match=rf"pseudocolor .* got axes '{axes}'.*Choose flow or centroid"):
            model.frames(Image(np.ones(shape), axes), None)


@pytest.mark.parametrize("preset", sorted(pseudocolor.SPECS))
def test_slices_are_linked_as_the_settings_say(preset):
    settings = PseudocolorSettings(max_gap=2, waist=0.4, min_slices=3)
    assert pseudocolor.build(preset).linking(settings) == LinkSettings(2, 0.4, 3)
