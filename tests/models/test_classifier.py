import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cellwright.core.errors import CheckpointError
from cellwright.models import store
from cellwright.models.checkpoint import file_sha256, save_checkpoint
from cellwright.models.classifier import NETWORKS, PRESETS, build, save_classifier
from cellwright.models.spec import CLASSIFIER, read_classifier_spec
from cellwright.models.store import classifiers, find_classifier, load_classifier

TITLES = ("round", "long", "spiky")


def n_parameters(network):
    return sum(weight.numel() for weight in network.parameters())


def test_the_paper_preset_has_the_published_size():
    assert n_parameters(build(("a", "b"), "paper").network) == 118_162


def test_the_small_preset_is_small():
    assert 100_000 < n_parameters(build(TITLES).network) < 400_000


@pytest.mark.parametrize("preset", NETWORKS)
@pytest.mark.parametrize("n_classes", [2, 5])
def test_crops_become_one_number_for_each_class(preset, n_classes):
    classifier = build([f"class {i}" for i in range(n_classes)], preset)
    size = classifier.spec.crop_px
    logits = classifier.network(torch.rand(3, 3, size, size), torch.zeros(3))
    assert logits.shape == (3, n_classes)


@pytest.mark.parametrize("preset", NETWORKS)
def test_gradients_reach_every_weight(preset):
    classifier = build(TITLES, preset)
    size = classifier.spec.crop_px
    loss = classifier.network(torch.rand(4, 3, size, size), torch.randn(4)).square().sum()
    loss.backward()
    assert all(weight.grad is not None for weight in classifier.network.parameters())


def test_the_size_of_a_cell_counts_in_the_small_preset_alone():
    crop = torch.rand(1, 3, 64, 64)
    small = build(TITLES).inference_network()
    assert not torch.equal(small(crop, torch.zeros(1)), small(crop, torch.ones(1)))
    crop = torch.rand(1, 3, 224, 224)
    paper = build(TITLES, "paper").inference_network()
    assert torch.equal(paper(crop, torch.zeros(1)), paper(crop, torch.ones(1)))


@torch.no_grad()
def test_the_inference_network_says_the_same():
    network = build(TITLES).network
    network(torch.rand(16, 3, 64, 64), torch.zeros(16))  # statistics of its own
    network.eval()
    inputs = torch.rand(4, 3, 64, 64), torch.randn(4)
    copy = build(TITLES).__class__(PRESETS["small"], network).inference_network()
    torch.testing.assert_close(copy(*inputs), network(*inputs), atol=1e-5, rtol=1e-4)


def test_windows_are_measured_in_what_the_spec_says():
    extents = np.array([10, 20, 60], np.float32)
    small = build(TITLES).spec
    np.testing.assert_allclose(small.sides(extents, 20.0), [15, 30, 90])
    typical = build(TITLES).spec.__class__("small", "", TITLES, window="typical")
    np.testing.assert_allclose(typical.sides(extents, 20.0), [30, 30, 30])
    np.testing.assert_allclose(build(TITLES, "paper").spec.sides(extents, 20.0), [224, 224, 224])


@pytest.mark.parametrize("classes", [(), ("one",), ("same", "same"), ("named", "")])
def test_classes_need_names_of_their_own(classes):
    with pytest.raises(CheckpointError, match="at least two classes"):
        build(classes)


def test_an_unknown_preset_is_refused():
    with pytest.raises(CheckpointError, match="one of paper, small; got 'huge'"):
        build(TITLES, "huge")


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(4)
    save_classifier(tmp_path / "mine", build(TITLES), {"accuracy": 0.5})
    return tmp_path / "mine"


def change(folder, **values):
    path = folder / CLASSIFIER
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("preset", NETWORKS)
def test_what_is_saved_is_what_is_loaded(tmp_path, preset):
    classifier = build(TITLES, preset)
    save_classifier(tmp_path, classifier, {"accuracy": 0.5})
    loaded = load_classifier(tmp_path)
    digest = file_sha256(tmp_path / "weights.safetensors")
    assert (loaded.sha256, loaded.spec.weights_sha256) == (digest, digest)
    assert loaded.spec.classes == TITLES
    assert not loaded.network.training
    for name, value in classifier.network.state_dict().items():
        assert torch.equal(value, loaded.network.state_dict()[name])
    assert json.loads((tmp_path / "scores.json").read_text()) == {"accuracy": 0.5}


def cut_weights(folder):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def forge_weights(folder):
    cut_weights(folder)
    change(folder, weights_sha256=file_sha256(folder / "weights.safetensors"))


DAMAGES = {
    "weights cut short": (cut_weights, "checksum"),
    "weights that are none": (forge_weights, "Expected safetensors"),
    "no weights": (lambda folder: (folder / "weights.safetensors").unlink(), "Expected weights"),
    "no json": (lambda folder: (folder / CLASSIFIER).write_text("{"), "Expected a readable classifier.json"),
    "a list": (lambda folder: (folder / CLASSIFIER).write_text("[1]"), "Expected version 1"),
    "newer": (lambda folder: change(folder, version=2), "Expected version 1"),
    "unknown field": (lambda folder: change(folder, speed=3), r"unknown \['speed'\]"),
    "unknown preset": (lambda folder: change(folder, preset="huge"), "preset in .* must be one of"),
    "unknown window": (lambda folder: change(folder, window="wide"), r"window of .* must be one of"),
    "no number": (lambda folder: change(folder, context="wide"), "wrong type"),
    "no end": (lambda folder: change(folder, crop_px=float("inf")), "wrong type"),
    "another class": (
        lambda folder: change(folder, classes=["a", "b"]),
        "do not fit the small classifier",
    ),
    "one class": (lambda folder: change(folder, classes=["a"]), "at least two classes"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_told_even_after_it_was_loaded(folder, name):
    load_classifier(folder)
    damage, words = DAMAGES[name]
    damage(folder)
    with pytest.raises(CheckpointError, match=words):
        load_classifier(folder)


def test_classifiers_and_models_that_count_are_kept_apart(shelves, folder, make_model):
    shipped, own = shelves
    shutil.copytree(folder, shipped / "blood")
    save_checkpoint(shipped / "flow", make_model())
    (own / "broken").mkdir(parents=True)
    (own / "broken" / CLASSIFIER).write_text("{")
    assert [entry.name for entry in store.models()] == ["flow"]
    assert [(entry.name, entry.spec.classes) for entry in classifiers()] == [("blood", TITLES)]
    with pytest.raises(CheckpointError, match=r"one of: blood; .*flow, which has no classifier\.json"):
        find_classifier("flow")
    with pytest.raises(CheckpointError, match="Expected a readable classifier"):
        load_classifier("broken")


def test_a_users_classifier_hides_the_shipped_one_of_its_name(shelves, folder):
    shipped, own = shelves
    shutil.copytree(folder, shipped / "blood")
    assert find_classifier("blood") == shipped / "blood"
    shutil.copytree(folder, own / "blood")
    assert find_classifier("blood") == own / "blood"
    assert [entry.folder for entry in classifiers()] == [own / "blood"]


@pytest.mark.parametrize("name", ["absent", "../shipped", "/nowhere/blood"])
def test_an_unknown_classifier_is_refused(shelves, name):
    with pytest.raises(CheckpointError, match="one of: none; got"):
        load_classifier(name)


def test_every_shipped_classifier_is_whole_and_light():
    shipped = [path.parent for path in store.shipped_folder().glob(f"*/{CLASSIFIER}")]
    assert "blood" in {path.name for path in shipped}
    for path in shipped:
        classifier = load_classifier(path)
        assert len(classifier.sha256) == 64
        assert read_classifier_spec(path / CLASSIFIER).title
        assert (path / "card.md").read_text(encoding="utf-8").startswith("# ")
        assert sum(part.stat().st_size for part in Path(path).iterdir()) <= 2_000_000


def test_the_blood_classifier_names_the_cells_of_blood():
    assert load_classifier("blood").spec.classes == ("Platelet", "RBC", "WBC")
