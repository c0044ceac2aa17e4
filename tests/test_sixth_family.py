"""A family that is one file and one line in the table counts, trains, compares and has flags and a form."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from pytestqt.qtbot import QtBot
from tests import toy_family

import cellwright
from cellwright.core.tasks import run
from cellwright.files.dataset.folder import read_dataset
from cellwright.inference.settings import EngineSettings
from cellwright.models import registry, store
from cellwright.models.checkpoint import load_checkpoint, save_checkpoint
from cellwright.training import trainer
from cellwright.training.evaluation.compare import compare
from cellwright.training.settings import TrainingSettings

CPU = EngineSettings(device="cpu")
COMMANDS = """
import json, sys
from cellwright.models import registry
from tests import toy_family
registry.FAMILIES["toy"] = toy_family.FAMILY
from cellwright.__main__ import main
for command in json.loads(sys.argv[1]):
    try:
        main(command)
    except SystemExit as ended:
        assert not ended.code, command
"""


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(registry.FAMILIES, "toy", toy_family.FAMILY)


@pytest.fixture
def folder(tmp_path):
    """The folder of a toy model."""
    save_checkpoint(tmp_path / "toy", toy_family.build())
    return tmp_path / "toy"


@pytest.fixture
def dataset(tmp_path, draw_blobs):
    """Two annotated images to train with and one for validation; returns their folder."""
    split = {"train": ["a", "b"], "val": ["c"]}
    for name in "abc":
        blobs = draw_blobs((64, 72), 12.0)
        for kind, pixels in (("images", blobs.image * 200), ("masks", blobs.labels)):
            (tmp_path / "data" / kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(tmp_path / "data" / kind / f"{name}.tif", pixels.astype(np.uint8))
    (tmp_path / "data" / "meta.json").write_text(json.dumps({"split": split}))
    return tmp_path / "data"


def output_of(*commands):
    """Return what these commands print, in a process whose table has the toy from the start."""
    arguments = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, arguments],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_counts(blobs, folder):
    result = cellwright.count(blobs.image, model=folder, engine=CPU)
    assert result.count == len(blobs)
    assert np.array_equal(result.cells.labels > 0, blobs.labels > 0)
    strict = toy_family.ToySettings(min_area_px=10_000)
    assert cellwright.count(blobs.image, model=folder, settings=strict, engine=CPU).count == 0


def test_it_trains(dataset, tmp_path):
    settings = TrainingSettings(
        pretrain_steps=1, finetune_steps=1, steps_per_epoch=1, batch_size=2, patch_px=32, n_simulated=1
    )
    data = trainer.Data(read_dataset(dataset))
    output = run(trainer.train(data, toy_family.build(), tmp_path / "new", settings, device="cpu"))
    assert load_checkpoint(output).spec.family == "toy"


def test_it_is_compared_with_others(dataset, folder, monkeypatch, oracle_model):
    plain = store.load
    monkeypatch.setattr(store, "load", lambda name: oracle_model if name == "flow" else plain(name))
    comparison = run(compare([folder, "flow"], read_dataset(dataset).select("val"), engine=CPU))
    assert comparison.mean("toy", "f1") == comparison.mean("flow", "f1") == 1


def test_the_command_line_knows_it(dataset, folder, tmp_path):
    image, trained = dataset / "images" / "a.tif", tmp_path / "trained"
    short = ["--pretrain-steps", 1, "--finetune-steps", 0, "--patch-px", 32, "--n-simulated", 1]
    printed = output_of(
        ["count", image, "--model", folder, "--brightness", 0.4, "--device", "cpu", "--json"],
        ["models", "--table"],
        ["train", dataset, "--model", "toy", "--output", trained, "--device", "cpu", *short],
        ["compare", dataset, "--model", folder, "--model", trained],
    )
    row = json.loads(printed.splitlines()[0])
    assert row["count"] == tifffile.imread(dataset / "masks" / "a.tif").max()
    assert "| `toy` | Bright blobs |" in printed
    assert f"count IMAGE --model {trained}" in printed
    assert [line.split()[1] for line in printed.splitlines() if line.startswith("mean")] == ["toy", "trained"]


def test_the_form_offers_its_settings_and_outputs(qtbot: QtBot):
    from cellwright.widgets.count.view import CountPanel

    panel = CountPanel()
    qtbot.addWidget(panel)
    panel.show_family(registry.get("toy"))
    assert panel.thresholds.values() == {"brightness": 0.5}
    assert panel.filters.values() == {"min_area_px": 9}
    assert {name for name, box in panel.outputs.items() if not box.isHidden()} == {"Labels", "Points"}
