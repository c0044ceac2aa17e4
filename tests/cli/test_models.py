import json
import zipfile
from dataclasses import replace

import pytest

from cellwright.core.words import shell_line
from cellwright.models import registry, store
from cellwright.models.checkpoint import save_checkpoint
from cellwright.models.classifier import build as build_classifier
from cellwright.models.classifier import save_classifier
from cellwright.models.families.flow import build


@pytest.fixture
def own_models(tmp_path, monkeypatch):
    """A shelf with one model, and a damaged folder beside it."""
    monkeypatch.setattr(store, "shipped_folder", lambda: tmp_path / "absent")
    monkeypatch.setattr(store, "user_folder", lambda: tmp_path)
    model = build("small")
    model = model.with_network(model.network, spec=replace(model.spec, halo=16))  # for a small test image
    save_checkpoint(tmp_path / "mine", model, {"ap50": 0.875, "memory": 0.5})
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "spec.json").write_text("{")
    return tmp_path


def test_models_are_listed_with_their_scores(cli, own_models):
    code, out, err = cli("models")
    assert (code, err) == (0, "")
    assert out.startswith("mine  (flow, small)\n")
    assert "AP at IoU 0.5: 0.875" in out
    assert "retention: 0.500" in out  # the word of the panel
    assert str(own_models / "mine") in out
    assert "damaged" not in out.splitlines()[0]


def test_models_as_json(cli, own_models):
    found = [json.loads(line) for line in cli("models", "--json").out.splitlines()]
    assert [(entry["model"], entry["family"], entry["scores"]) for entry in found] == [
        ("mine", "flow", {"ap50": 0.875, "memory": 0.5})
    ]


def test_the_families_as_a_table(cli):
    code, out, err = cli("models", "--table")
    assert (code, err) == (0, "")
    head, line, *rows = out.splitlines()
    assert head.count("|") == line.count("|") == 5
    assert [row.split("`")[1] for row in rows] == list(registry.FAMILIES)
    for row, family in zip(rows, registry.FAMILIES.values(), strict=True):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1:] == [family.title, family.description, ", ".join(family.returns)]


def test_a_model_is_exported_and_imported(cli, own_models, tmp_path):
    folder = tmp_path / "exported"
    code, out, _ = cli("models", "export", "mine", folder)
    assert code == 0
    assert f"cellwright models import {folder / 'mine.zip'}" in out
    code, out, _ = cli("models", "import", folder / "mine.zip", "--name", "theirs")
    assert code == 0
    assert "--model theirs" in out
    assert store.load("theirs").sha256 == store.load("mine").sha256


def test_the_command_that_is_told_can_be_typed_as_it_stands(cli, own_models, tmp_path):
    path = tmp_path / "on the desk" / "mine.zip"
    code, out, _ = cli("models", "export", "mine", path.parent)
    assert code == 0
    assert out.rstrip().endswith(shell_line(["cellwright", "models", "import", str(path)]))
    code, out, err = cli("models", "import", path, "--name", "of my friend")
    assert code == 0, err
    assert out.rstrip().endswith(shell_line(["--model", "of my friend"]))


def test_a_classifier_is_exported_and_imported(cli, own_models, tmp_path):
    save_classifier(store.user_folder() / "kinds", build_classifier(("a", "b")))
    assert cli("models", "export", "kinds", tmp_path).code == 0
    code, out, _ = cli("models", "import", tmp_path / "kinds.zip", "--name", "theirs")
    assert code == 0
    assert "--classifier theirs" in out
    assert store.load_classifier("theirs").sha256 == store.load_classifier("kinds").sha256
    done = cli("models", "export", "kinds", tmp_path, "--zoo", "--author", "A. Person")
    assert (done.code, "Expected a model that counts" in done.err) == (1, True)


def test_a_zoo_package_is_exported_and_imported(cli, own_models, tmp_path):
    code, _, err = cli("models", "export", "mine", tmp_path / "exported", "--zoo")
    assert (code, "Give at least one" in err) == (1, True)
    assert cli("models", "export", "mine", tmp_path / "exported", "--zoo", "--author", "A. Person").code == 0
    path = tmp_path / "exported" / "mine-zoo.zip"
    assert cli("models", "export", "mine", tmp_path / "exported").code == 0  # beside it, not in its place
    with zipfile.ZipFile(path) as archive:
        assert "rdf.yaml" in archive.namelist()
    assert cli("models", "import", path, "--name", "back").code == 0
    assert store.load("back").sha256 == store.load("mine").sha256


def test_a_zoo_package_of_another_program_is_refused(cli, own_models, tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("rdf.yaml", "type: model")
        archive.writestr("weights.onnx", b"code")
    code, _, err = cli("models", "import", tmp_path / "other.zip")
    assert code == 1
    assert "Only packages that cellwright wrote can be imported" in err
    assert "Run it with bioimageio.core" in err


@pytest.mark.parametrize(
    ("name", "word"),
    [("absent", "one of: cut, mine"), ("damaged", "spec.json"), ("cut", "weights"), ("../mine", "one of")],
)
def test_a_model_that_is_missing_or_damaged_is_refused_at_once(cli, own_models, image_path, name, word):
    save_checkpoint(own_models / "cut", build("small"))
    weights = own_models / "cut" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    code, out, err = cli("count", image_path, "--model", name)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert word in err
    assert "Traceback" not in err


def test_a_missing_image_beats_no_argument(cli):
    assert cli("count").code == 2
    assert cli().code == 2
    assert "Count and outline cells" in cli("--help").out
    assert cli("--version").out.strip().count(".") == 2
