import copy
import errno
import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file

from cellwright.core.errors import CheckpointError, WriteError
from cellwright.models import checkpoint
from cellwright.models.checkpoint import file_sha256, load_checkpoint, save_checkpoint
from cellwright.models.families.flow import build
from cellwright.models.spec import read_spec


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "saved"
    torch.manual_seed(1)
    save_checkpoint(folder, build("small"), {"ap50": 0.75})
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that may be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def change_spec(folder, **changes):
    path = folder / "spec.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def sign(folder):
    """Make the checksum fit, so that something else has to notice the damage."""
    change_spec(folder, weights_sha256=file_sha256(folder / "weights.safetensors"))


def change_weights(folder, change):
    path = folder / "weights.safetensors"
    weights = load(path.read_bytes())
    change(weights)
    path.unlink()
    save_file(weights, path)
    sign(folder)


def test_the_folder_holds_what_it_promises(saved):
    assert sorted(path.name for path in saved.iterdir()) == [
        "scores.json",
        "spec.json",
        "weights.safetensors",
    ]
    assert json.loads((saved / "scores.json").read_text()) == {"ap50": 0.75}
    digest = hashlib.sha256((saved / "weights.safetensors").read_bytes()).hexdigest()
    assert read_spec(saved / "spec.json").weights_sha256 == digest
    loaded = load_checkpoint(saved)
    assert (loaded.sha256, loaded.spec.weights_sha256) == (digest, digest)
    assert not loaded.network.training
    assert (saved / "weights.safetensors").stat().st_mode & 0o444 == 0o444  # others may read the model


def test_saving_again_replaces_everything(folder):
    torch.manual_seed(2)
    other = build("small")
    save_checkpoint(folder, other)
    assert json.loads((folder / "scores.json").read_text()) == {}
    loaded = load_checkpoint(folder).network.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in other.network.state_dict().items())


def cut(folder):
    path = folder / "weights.safetensors"
    os.truncate(path, path.stat().st_size // 2)


def cut_to_nothing(folder):
    os.truncate(folder / "weights.safetensors", 0)


def flip_a_bit(folder):
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)


def no_weights(folder):
    (folder / "weights.safetensors").unlink()


def weights_are_a_folder(folder):
    no_weights(folder)
    (folder / "weights.safetensors").mkdir()


def no_spec(folder):
    (folder / "spec.json").unlink()


def lose_a_tensor(folder):
    change_weights(folder, lambda weights: weights.pop("head.bias"))


def add_a_tensor(folder):
    change_weights(folder, lambda weights: weights.update(extra=torch.zeros(3)))


def other_shapes(folder):
    change_weights(folder, lambda weights: weights.update({"head.bias": torch.zeros(5)}))


def not_a_number(folder):
    change_weights(folder, lambda weights: weights["head.bias"].fill_(float("nan")))


def infinite(folder):
    change_weights(folder, lambda weights: weights["head.weight"][0].fill_(float("inf")))


DAMAGES = {
    "cut": (cut, "checksum"),
    "cut but signed": (lambda folder: (cut(folder), sign(folder)), "Expected safetensors"),
    "empty": (lambda folder: (cut_to_nothing(folder), sign(folder)), "Expected safetensors"),
    "one bit": (flip_a_bit, "checksum"),
    "wrong checksum": (lambda folder: change_spec(folder, weights_sha256="0" * 64), "checksum"),
    "no weights": (no_weights, "Expected weights at"),
    "a folder": (weights_are_a_folder, "Expected weights at"),
    "no spec": (no_spec, "spec.json"),
    "a tensor less": (lose_a_tensor, "do not fit"),
    "a tensor more": (add_a_tensor, "do not fit"),
    "other shapes": (other_shapes, "do not fit"),
    "NaN": (not_a_number, "NaN or infinity in 'head.bias'"),
    "infinity": (infinite, "NaN or infinity in 'head.weight'"),
    "newer version": (lambda folder: change_spec(folder, version=2), "Update cellwright"),
    "unknown family": (lambda folder: change_spec(folder, family="flaw"), "family must be one of"),
    "family of another type": (
        lambda folder: change_spec(folder, family=["flow"]),
        "family of .* must be a text",
    ),
    "unknown preset": (lambda folder: change_spec(folder, preset="huge"), "Preset of flow"),
    "other channels": (lambda folder: change_spec(folder, in_channels=1), "in_channels .* must be 3"),
    "other maps": (lambda folder: change_spec(folder, map_channels={"probability": 3}), "map_channels"),
    "other divisor": (lambda folder: change_spec(folder, divisor=1), "divisor .* must be 16"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_told(folder, saved, name):
    damage, words = DAMAGES[name]
    damage(folder)
    with pytest.raises(CheckpointError, match=words) as told:
        load_checkpoint(folder)
    assert "\n" not in str(told.value)
    assert load_checkpoint(saved).sha256 == file_sha256(saved / "weights.safetensors")


class Bomb:
    """Makes a file wherever its pickle is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [pickle.dumps, None], ids=["pickle", "torch"])
def test_a_pickle_is_refused_unopened(folder, tmp_path, write):
    weights, mark = folder / "weights.safetensors", tmp_path / "opened"
    if write:
        weights.write_bytes(write(Bomb(mark)))
    else:
        torch.save({"head.bias": Bomb(mark)}, weights)
    sign(folder)
    with pytest.raises(CheckpointError, match="Expected safetensors"):
        load_checkpoint(folder)
    assert not mark.exists()


def test_a_file_in_the_place_of_the_folder_cannot_be_written(tmp_path, make_model):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(WriteError, match="Choose another folder"):
        save_checkpoint(tmp_path / "taken", make_model())
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_failed_save_leaves_the_old_model_whole(folder, make_model, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = file_sha256(folder / "weights.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr("cellwright.files.atomic.os.replace", fail)
        with pytest.raises(WriteError, match=r"Expected to write .*No space"):
            save_checkpoint(folder, make_model())
    assert load_checkpoint(folder).sha256 == before


def test_halved_weights_take_half_the_space_and_give_the_same(tmp_path, make_model):
    model = make_model()
    save_checkpoint(tmp_path / "whole", model)
    halved = copy.deepcopy(model.network)
    for weights in halved.parameters():
        if weights.ndim > 1:  # a small variance would vanish
            weights.data = weights.data.half()
    save_checkpoint(tmp_path / "half", model.with_network(halved))
    sizes = [(tmp_path / name / "weights.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.53 * sizes[0]
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    loaded = load_checkpoint(tmp_path / "half").network
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    with torch.inference_mode():
        whole, half = model.network.eval()(image), loaded(image)
    assert torch.allclose(whole, half, atol=0.01 * float(whole.abs().max()))


def test_weights_are_not_mapped_into_memory(folder, monkeypatch):
    """On Windows nothing could replace or remove their file as long as they, or an error, are there."""
    seen = []

    def check(weights, path):
        maps = Path("/proc/self/maps")
        seen.append(maps.exists() and str(path) in maps.read_text())
        assert weights

    monkeypatch.setattr(checkpoint, "_check_finite", check)
    load_checkpoint(folder)
    assert seen == [False]
