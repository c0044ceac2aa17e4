"""Models that are renamed, deleted, sent and received; none that could do harm gets in."""

import json
import os
import pickle
import shutil
import stat
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from safetensors.torch import load, save_file

from cellwright.core.errors import CheckpointError, WriteError
from cellwright.models import store
from cellwright.models.checkpoint import save_checkpoint
from cellwright.models.classifier import build, save_classifier


@pytest.fixture
def own(tmp_path, monkeypatch):
    """An empty folder in the place of the user's models."""
    folder = tmp_path / "own"
    monkeypatch.setattr(store, "user_folder", lambda: folder)
    monkeypatch.setattr(store, "shipped_folder", lambda: tmp_path / "shipped")
    return folder


@pytest.fixture(scope="module")
def written(make_model, tmp_path_factory):
    """A model and the archive of it, written once for all tests."""
    folder = tmp_path_factory.mktemp("written") / "mine"
    save_checkpoint(folder, make_model(), {"ap50": 0.9})
    (folder / "card.md").write_text("# Mine\n")
    return folder, store.export_model(folder, folder.with_name("mine.zip"))


@pytest.fixture
def mine(own, written):
    return Path(shutil.copytree(written[0], own / "mine"))


@pytest.fixture
def shared(mine, written, tmp_path):
    return Path(shutil.copy(written[1], tmp_path))


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def repack(path, change):
    """Write an archive again after ``change`` of the dict of its files."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def test_a_model_is_renamed(mine, own):
    assert store.rename("mine", "Ours 2.1") == own / "Ours 2.1"
    assert everything(own)[0] == "Ours 2.1"
    assert store.load("Ours 2.1").spec.family == "flow"
    assert not mine.exists()


def test_a_model_is_deleted(mine, own):
    store.delete("mine")
    assert everything(own) == []


@pytest.mark.parametrize("name", ["", ".", "..", "../own/mine", "absent", "mine/", ".hidden", "/tmp"])
def test_what_is_not_ones_own_is_left_alone(mine, name):
    for act in (store.delete, lambda one: store.rename(one, "new")):
        with pytest.raises(CheckpointError, match="Only your own models can be changed: mine"):
            act(name)
    assert mine.exists()


def test_shipped_models_cannot_be_changed(own, tmp_path, make_model):
    save_checkpoint(tmp_path / "shipped" / "flow", make_model())
    with pytest.raises(CheckpointError, match="none yet"):
        store.delete("flow")
    assert (tmp_path / "shipped" / "flow" / "spec.json").exists()


@pytest.mark.parametrize("name", ["", "..", "../new", "a/b", ".new", "new.", "x" * 65, "a\\b", "a:b", "ä"])
def test_names_that_could_mean_another_place_are_refused(mine, shared, own, name):
    before = everything(own)
    with pytest.raises(CheckpointError, match="name"):
        store.rename("mine", name)
    if name:
        with pytest.raises(CheckpointError, match="name"):
            store.import_model(shared, name)
    assert everything(own) == before


def test_a_folder_that_holds_no_model_is_named(mine, own, tmp_path):
    before = everything(own)
    (tmp_path / "images").mkdir()
    with pytest.raises(CheckpointError, match=r"images lacks spec\.json, weights\.safetensors\. Choose"):
        store.import_model(tmp_path / "images")
    assert everything(own) == before


def test_a_name_that_is_taken_is_refused(mine, shared, own, make_model):
    save_checkpoint(own / "other", make_model(seed=8))
    with pytest.raises(CheckpointError, match="already"):
        store.rename("mine", "other")
    with pytest.raises(CheckpointError, match="already"):
        store.import_model(shared, "mine")


def test_a_shared_model_is_the_same_model(mine, shared, own):
    with zipfile.ZipFile(shared) as archive:
        assert set(archive.namelist()) == {"spec.json", "weights.safetensors", "scores.json", "card.md"}
    folder = store.import_model(shared, "theirs")
    assert folder == own / "theirs"
    assert everything(folder) == everything(mine)
    assert all((folder / name).read_bytes() == (mine / name).read_bytes() for name in everything(mine))
    assert store.load("theirs").sha256 == store.load("mine").sha256
    if os.name == "posix":
        assert not (folder / "spec.json").stat().st_mode & stat.S_IXUSR


def test_a_model_takes_the_name_of_its_file(shared, own):
    store.delete("mine")
    assert store.import_model(shared) == own / "mine"


def test_a_damaged_model_is_not_shared(mine, tmp_path):
    (mine / "weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="checksum"):
        store.export_model("mine", tmp_path / "out.zip")
    assert not list(tmp_path.glob("out*"))


def test_a_model_folder_is_imported(mine, own):
    (mine / "training.pt").write_bytes(b"not part of a model")
    assert store.import_model(mine, "copy") == own / "copy"
    assert "training.pt" not in everything(own / "copy")
    assert store.load("copy").sha256 == store.load("mine").sha256


def test_a_model_never_hides_one_that_is_there(mine, own):
    save_checkpoint(store.shipped_folder() / "flow", store.load("mine"), {})
    for taken in ("mine", "flow"):
        with pytest.raises(CheckpointError, match=f"There is already a model '{taken}'"):
            store.import_model(mine, taken)


def test_a_model_is_imported_from_the_web(shared, own, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = partial(SimpleHTTPRequestHandler, directory=shared.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert store.import_model(f"{address}/mine.zip?download=1", "theirs") == own / "theirs"
        with pytest.raises(CheckpointError, match="Cannot download"):
            store.import_model(f"{address}/absent.zip")
        server.shutdown()
    assert store.load("theirs").sha256 == store.load("mine").sha256
    assert everything(own / "theirs") == everything(own / "mine")


def test_a_place_that_cannot_be_written_is_told(mine, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(WriteError, match="Choose another folder"):
        store.export_model("mine", tmp_path / "taken" / "out.zip")


@pytest.fixture
def kinds(own):
    """A classifier among the user's."""
    save_classifier(own / "kinds", build(("a", "b")), {"accuracy": 0.9})
    return own / "kinds"


def test_a_classifier_is_shared_as_a_model_is(kinds, own, tmp_path):
    (kinds / "training.pt").write_bytes(b"not part of a model")
    path = store.export_model("kinds", tmp_path / "kinds.zip")
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["classifier.json", "weights.safetensors", "scores.json"]
    for source, name in ((path, "theirs"), (kinds, "copy")):
        assert store.import_model(source, name) == own / name
        assert store.load_classifier(name).sha256 == store.load_classifier("kinds").sha256
    assert [entry.name for entry in store.classifiers()] == ["copy", "kinds", "theirs"]
    assert store.models() == []
    before = everything(own)
    with pytest.raises(CheckpointError, match="There is already a model 'kinds'"):
        store.import_model(path)
    assert everything(own) == before


HARM_TO_CLASSIFIERS = {
    "foreign file": (lambda files: files.update({"run.py": b"x"}), r"run\.py"),
    "no weights": (lambda files: files.pop("weights.safetensors"), "lacks"),
    "pickle": (lambda files: files.update({"weights.safetensors": pickle.dumps(1)}), "checksum"),
    "no JSON": (lambda files: files.update({"classifier.json": b"{"}), r"kinds\.zip.*classifier\.json"),
    "other classes": (
        lambda files: files.update(
            {"classifier.json": files["classifier.json"].replace(b'"b"', b'"b", "c"')},
        ),
        "do not fit",
    ),
}


@pytest.mark.parametrize("harm", HARM_TO_CLASSIFIERS)
def test_a_damaged_classifier_is_told_and_not_taken(kinds, own, tmp_path, harm):
    change, words = HARM_TO_CLASSIFIERS[harm]
    path = store.export_model("kinds", tmp_path / "kinds.zip")
    repack(path, change)
    before = everything(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        store.import_model(path, "theirs")
    assert everything(tmp_path) == before


def test_a_damaged_classifier_is_not_shared(kinds, tmp_path):
    (kinds / "weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="checksum"):
        store.export_model("kinds", tmp_path / "out.zip")
    assert not list(tmp_path.glob("out*"))


def test_a_classifier_has_a_card(kinds):
    assert "It tells apart: a, b." in store.card_text("kinds")
    assert "| accuracy | 0.9 |" in store.card_text("kinds")
    (kinds / "card.md").write_text("# Kinds\n")
    assert store.card_text("kinds") == "# Kinds\n"


def _pickled(files):
    files["weights.safetensors"] = pickle.dumps({"a": 1})


def _torch_file(files):
    files["weights.pt"] = b"code"


def _nan(files, folder):
    path = folder / "broken.safetensors"
    path.write_bytes(files["weights.safetensors"])
    weights = load(path.read_bytes())
    name = next(name for name, value in weights.items() if value.is_floating_point())
    weights[name] = torch.full_like(weights[name], np.nan)
    _replace_weights(files, weights, path)


def _other_shapes(files, folder):
    path = folder / "broken.safetensors"
    path.write_bytes(files["weights.safetensors"])
    weights = load(path.read_bytes())
    name = next(name for name, value in weights.items() if value.ndim == 4)
    weights[name] = weights[name][:, :1].contiguous()
    _replace_weights(files, weights, path)


def _replace_weights(files, weights, path):
    save_file(weights, path)
    files["weights.safetensors"] = path.read_bytes()
    path.unlink()
    _edit_spec(files, weights_sha256="")


def _edit_spec(files, **values):
    files["spec.json"] = json.dumps({**json.loads(files["spec.json"]), **values}).encode()


HARM = {
    "pickle": (lambda files, _: _pickled(files), "checksum"),
    "pickle without a checksum": (
        lambda files, _: (_pickled(files), _edit_spec(files, weights_sha256="")),
        "safetensors",
    ),
    "foreign file": (lambda files, _: _torch_file(files), r"weights\.pt"),
    "path upwards": (lambda files, _: files.update({"../evil.py": b"x"}), r"\.\./evil\.py"),
    "absolute path": (lambda files, _: files.update({"/tmp/evil.py": b"x"}), "evil"),
    "folder": (lambda files, _: files.update({"sub/spec.json": b"x"}), "sub"),
    "windows path": (lambda files, _: files.update({"..\\evil.py": b"x"}), "evil"),
    "no weights": (lambda files, _: files.pop("weights.safetensors"), "lacks"),
    "no spec": (lambda files, _: files.pop("spec.json"), "lacks"),
    "classifier": (
        lambda files, _: files.update({"classifier.json": files.pop("spec.json")}),
        r"mine\.zip.classifier\.json do not fit",
    ),
    "newer version": (lambda files, _: _edit_spec(files, version=99), "version 1"),
    "unknown field": (lambda files, _: _edit_spec(files, surprise=1), "unknown"),
    "unknown family": (lambda files, _: _edit_spec(files, family="os.system"), "family"),
    "spec is no json": (lambda files, _: files.update({"spec.json": b"{"}), r"spec\.json"),
    "NaN weights": (_nan, "NaN"),
    "other shapes": (_other_shapes, "do not fit"),
}


@pytest.mark.parametrize("harm", HARM)
def test_what_could_do_harm_is_not_taken(shared, own, tmp_path, harm):
    change, words = HARM[harm]
    repack(shared, lambda files: change(files, tmp_path))
    before = everything(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        store.import_model(shared, "theirs")
    assert everything(tmp_path) == before


@pytest.mark.parametrize("share_left", [0.0, 0.2, 0.7, 0.999])
def test_a_truncated_file_is_not_taken(shared, own, tmp_path, share_left):
    content = shared.read_bytes()
    shared.write_bytes(content[: int(len(content) * share_left)])
    before = everything(tmp_path)
    with pytest.raises(CheckpointError, match="zip archive"):
        store.import_model(shared, "theirs")
    assert everything(tmp_path) == before


def test_a_flipped_bit_is_found(shared, own):
    content = bytearray(shared.read_bytes())
    content[len(content) // 2] ^= 8
    shared.write_bytes(content)
    with pytest.raises(CheckpointError):
        store.import_model(shared, "theirs")
    assert not (own / "theirs").exists()


def test_an_archive_is_named_where_what_it_holds_is_damaged(shared, own):
    repack(shared, lambda files: _edit_spec(files, version=99))
    with pytest.raises(CheckpointError, match="got 99") as refused:
        store.import_model(shared, "fresh")
    assert f"{shared}{os.sep}spec.json" in str(refused.value)


def test_an_archive_that_unpacks_to_too_much_is_not_taken(shared, own, monkeypatch):
    monkeypatch.setattr(store, "MOST_BYTES", 1000)
    with pytest.raises(CheckpointError, match="unpacks to more than"):
        store.import_model(shared, "theirs")


def test_a_link_in_an_archive_is_stored_as_plain_bytes(shared, own):
    """An archive may call a member a link; it is only ever written as a file."""
    with zipfile.ZipFile(shared, "a") as archive:
        link = zipfile.ZipInfo("curve.json")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    folder = store.import_model(shared, "theirs")
    assert not (folder / "curve.json").is_symlink()


def test_no_file_is_told(own, tmp_path):
    with pytest.raises(CheckpointError, match="no file"):
        store.import_model(tmp_path / "absent.zip")
