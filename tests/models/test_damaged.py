"""A model that is damaged or hostile, by every way in: it is told, nothing is loaded, nothing is written."""

import hashlib
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from cellwright.core.errors import CheckpointError
from cellwright.models import store
from cellwright.models.checkpoint import load_checkpoint, save_checkpoint
from cellwright.models.families.density import build

SPEC, WEIGHTS = "spec.json", "weights.safetensors"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The folder of a good model."""
    folder = tmp_path_factory.mktemp("models") / "good"
    save_checkpoint(folder, build("small"), {"score": 0.5})
    return folder


@pytest.fixture
def files(good):
    """The files of a good model, by name."""
    return {name: (good / name).read_bytes() for name in (WEIGHTS, SPEC)}


@pytest.fixture
def own(good, tmp_path, monkeypatch):
    """The user's models: there is one, which works."""
    folder = tmp_path / "own"
    shutil.copytree(good, folder / "mine")
    monkeypatch.setattr(store, "user_folder", lambda: folder)
    monkeypatch.setattr(store, "shipped_folder", lambda: tmp_path / "shipped")
    return folder


def contents(folder):
    return {
        path.relative_to(folder): path.is_dir() or hashlib.sha256(path.read_bytes()).digest()
        for path in folder.rglob("*")
    }


def signed(files):
    """Make the checksum fit, so that something else has to notice the damage."""
    return edited(files, weights_sha256=hashlib.sha256(files[WEIGHTS]).hexdigest())


def edited(files, **facts):
    return {**files, SPEC: json.dumps({**json.loads(files[SPEC]), **facts}).encode()}


def reweighted(files, change):
    weights = load(files[WEIGHTS])
    name = next(name for name, value in weights.items() if value.ndim == 4)
    weights[name] = change(weights[name]).contiguous()
    return signed({**files, WEIGHTS: save(weights)})


class Bomb:
    """Makes a file wherever its pickle is opened."""

    def __reduce__(self):
        return Path.touch, (Path("opened"),)


DAMAGES = {
    "truncated": (lambda files: {**signed(files), WEIGHTS: files[WEIGHTS][:-1000]}, "checksum"),
    "truncated, its checksum fits": (
        lambda files: signed({**files, WEIGHTS: files[WEIGHTS][:-1000]}),
        "Expected safetensors",
    ),
    "nothing in it": (lambda files: signed({**files, WEIGHTS: b""}), "Expected safetensors"),
    "pickle": (lambda files: signed({**files, WEIGHTS: pickle.dumps(Bomb())}), "Expected safetensors"),
    "wrong shapes": (lambda files: reweighted(files, lambda value: value[:, :1]), "do not fit"),
    "NaN": (lambda files: reweighted(files, lambda value: value * torch.nan), "NaN or infinity"),
    "newer version": (lambda files: signed(edited(files, version=2)), "Update cellwright"),
    "spec of another type": (lambda files: {**files, SPEC: b"[1, 2]"}, r"spec\.json"),
    "no spec": (lambda files: {WEIGHTS: files[WEIGHTS]}, r"spec\.json"),
    "no weights": (lambda files: {SPEC: files[SPEC]}, r"weights"),
}


def from_folder(files, place):
    place.mkdir()
    for name, content in files.items():
        (place / name).write_bytes(content)
    return lambda: load_checkpoint(place)


def packed(files, path):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def from_archive(files, place):
    packed(files, place)
    return lambda: store.import_model(place, "theirs")


def from_package(files, place):
    members = {store.PREFIX + name if name in store.FILES else name: files[name] for name in files}
    packed({"rdf.yaml": b"{}", **members}, place)
    return lambda: store.import_model(place, "theirs")


WAYS = {"folder": from_folder, "archive": from_archive, "package": from_package}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_told_and_leaves_no_trace(files, own, tmp_path, monkeypatch, damage, way):
    monkeypatch.chdir(tmp_path)
    change, words = DAMAGES[damage]
    act = WAYS[way](change(files), tmp_path / "theirs")
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        act()
    assert contents(tmp_path) == before
    assert [entry.name for entry in store.models()] == ["mine"]


@pytest.mark.parametrize("way", WAYS)
def test_the_same_model_is_taken_when_nothing_is_wrong(files, own, tmp_path, way):
    WAYS[way](signed(files), tmp_path / "theirs")()
    assert [entry.name for entry in store.models()] == ["mine"] + ["theirs"] * (way != "folder")


HOSTILE = ["../evil.py", "/evil.py", "sub/../../evil.py", "..\\evil.py", "C:\\evil.py", "C:evil.py"]


@pytest.mark.parametrize("way", [from_archive, from_package])
@pytest.mark.parametrize("name", HOSTILE)
def test_an_archive_with_paths_that_lead_elsewhere_is_refused(files, own, tmp_path, name, way):
    (tmp_path / "inner").mkdir()
    act = way({**signed(files), name: b"x"}, tmp_path / "inner" / "theirs.zip")
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match=r"evil\.py"):
        act()
    assert contents(tmp_path) == before
    assert not Path("/evil.py").exists()


def half(content):
    return content[: len(content) // 2]


def locked(content):
    """Say of every member that it needs a password."""
    for start in range(len(content)):
        if content.startswith(b"PK\1\2", start):
            content = content[: start + 8] + bytes([content[start + 8] | 1]) + content[start + 9 :]
    return content


@pytest.mark.parametrize("way", [from_archive, from_package])
@pytest.mark.parametrize("change", [half, locked, lambda _: b"", lambda _: b"no archive"])
def test_an_archive_that_cannot_be_unpacked_is_refused(files, own, tmp_path, change, way):
    small = {**signed(files), WEIGHTS: files[WEIGHTS][:5000]}
    act = way(small, tmp_path / "theirs.zip")
    (tmp_path / "theirs.zip").write_bytes(change((tmp_path / "theirs.zip").read_bytes()))
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match=r"zip archive|package of the BioImage Model Zoo"):
        act()
    assert contents(tmp_path) == before
