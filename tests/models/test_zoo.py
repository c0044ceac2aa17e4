import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch

from cellwright.core.errors import CheckpointError, WriteError
from cellwright.models import store, zoo
from cellwright.models.checkpoint import save_checkpoint


@pytest.fixture
def own(tmp_path, monkeypatch):
    """An empty folder in the place of the user's models."""
    folder = tmp_path / "own"
    monkeypatch.setattr(store, "user_folder", lambda: folder)
    return folder


@pytest.fixture(scope="module")
def written(make_model, tmp_path_factory):
    """Function (family) -> a model of this family and its package, written once for all tests."""
    folder = tmp_path_factory.mktemp("written")

    @cache
    def write(family):
        model = make_model(family)
        model = model.with_network(model.network, spec=replace(model.spec, halo=16))
        save_checkpoint(folder / family, model, {"score": 0.5})
        path = zoo.export_package(folder / family, folder / f"{family}.zip", authors=("A. Person",))
        return folder / family, path

    return write


@pytest.fixture
def package(own, written, tmp_path):
    """Function (family) -> the package of a model of this family, which is called ``mine``.

    Its halo is small, and so the test image in the package.
    """

    def copy(family="flow"):
        model, package = written(family)
        shutil.copytree(model, own / "mine")
        return Path(shutil.copy(package, tmp_path / "mine.zip"))

    return copy


@pytest.mark.parametrize("family", ["flow", "centroid", "query", "pseudocolor", "density"])
def test_a_package_gives_the_maps_of_the_model(package, tmp_path, family):
    with zipfile.ZipFile(package(family)) as archive:
        archive.extractall(tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "rdf.yaml").read_text())
    image, maps = (np.load(tmp_path / "out" / name) for name in ("test_image.npy", "test_maps.npy"))
    (given,), (wanted,) = facts["inputs"], facts["outputs"]
    model = store.load("mine")
    assert image.shape[1] == model.spec.in_channels == len(given["axes"][1]["channel_names"])
    assert maps.shape[1] == sum(model.spec.map_channels.values()) == len(wanted["axes"][1]["channel_names"])
    assert image.shape[2] > 2 * model.spec.halo
    scaling = given["preprocessing"][0]["kwargs"]
    low, high = np.percentile(image, (scaling["min_percentile"], scaling["max_percentile"]))
    scaled = torch.from_numpy(((image - low) / (high - low)).astype(np.float32))
    network = torch.jit.load(tmp_path / "out" / facts["weights"]["torchscript"]["source"])
    larger = torch.nn.functional.pad(scaled, (0, 64, 0, 32), mode="reflect")
    with torch.inference_mode():
        assert np.allclose(network(scaled).numpy(), maps, atol=1e-3)
        expected = model.to_maps(model.network(larger))
        assert torch.allclose(network(larger), expected, atol=1e-2, rtol=1e-3)


VALIDATE = """
    import sys
    from bioimageio.spec import load_description

    for path in sys.argv[1:]:
        summary = load_description(path, perform_io_checks=True).validation_summary
        print(summary.status)
        print(path, *(f"{error.loc}: {error.msg[:200]}" for error in summary.errors), file=sys.stderr)
"""


def test_the_validator_of_the_zoo_finds_nothing_wrong(package, tmp_path):
    """Files and their description; whether the network gives the maps is tested above."""
    paths = []
    for family in ("flow", "centroid", "query", "pseudocolor", "density"):
        paths.append(package(family).rename(tmp_path / f"{family}.zip"))
        store.delete("mine")
    with zipfile.ZipFile(paths[0]) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    del files["test_image.npy"]
    with zipfile.ZipFile(tmp_path / "lacking.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    command = [sys.executable, "-W", "ignore", "-c", dedent(VALIDATE), *paths, tmp_path / "lacking.zip"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["valid-format"] * 5 + ["failed"], found.stderr


def test_every_file_that_is_named_is_there(package):
    with zipfile.ZipFile(package()) as archive:
        names = set(archive.namelist())
        facts = json.loads(archive.read("rdf.yaml"))
    named = [facts["documentation"], *facts["covers"], *(one["source"] for one in facts["attachments"])]
    named += [facts[kind][0]["test_tensor"]["source"] for kind in ("inputs", "outputs")]
    named.append(facts["weights"]["torchscript"]["source"])
    assert names == {*named, "rdf.yaml"}
    assert facts["authors"] == [{"name": "A. Person"}]


def test_a_model_comes_back_as_it_was(package, own):
    folder = store.import_model(package(), "back")
    assert folder == own / "back"
    assert store.load("back").sha256 == store.load("mine").sha256
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in (own / "mine").iterdir()
    )


def test_models_of_other_programs_are_not_taken(own, tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("rdf.yaml", "type: model")
        archive.writestr("weights.pt", b"code")
    with pytest.raises(CheckpointError, match="Only packages that cellwright wrote"):
        store.import_model(tmp_path / "other.zip", "other")
    assert list(own.iterdir()) == []


@pytest.mark.parametrize("n_bytes", [0, 1000])
def test_a_truncated_package_is_not_taken(package, own, n_bytes):
    path = package()
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(CheckpointError, match="Get the file again"):
        store.import_model(path, "back")
    assert not (own / "back").exists()


def test_weights_that_were_changed_are_not_taken(package, own):
    path = package()
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["cellwright_weights.safetensors"] = files["cellwright_weights.safetensors"][:-4] + b"\0\0\0\1"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(CheckpointError, match="checksum"):
        store.import_model(path, "back")
    assert not (own / "back").exists()


def test_what_cannot_be_written_is_told(package, tmp_path):
    package()
    for authors in ((), ("",), ("A", " ")):
        with pytest.raises(WriteError, match="Give at least one"):
            zoo.export_package("mine", tmp_path / "out.zip", authors=authors)
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(WriteError, match="Choose another folder"):
        zoo.export_package("mine", tmp_path / "taken" / "out.zip", authors=("A",))
    with pytest.raises(CheckpointError, match="no file"):
        store.import_model(tmp_path / "absent.zip", "back")
