"""What looks wrong with a dataset is told on the command line before anything is trained."""

import io
import json
import sys

import numpy as np
import pytest
import tifffile

from cellwright.models.checkpoint import save_checkpoint
from cellwright.models.families import flow
from cellwright.training import trainer
from cellwright.training.finetune import finetune as finetune_module
from cellwright.training.finetune.finetune import Outcome


@pytest.fixture
def dataset(tmp_path, draw_blobs):
    """Two images to learn from, one to validate, each with discs of 20 pixels and its own brightness."""
    folder = tmp_path / "cells"
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for index, name in enumerate("abc"):
        blobs = draw_blobs((160, 160), 20.0)
        image = (blobs.image * 200).astype(np.uint8) + index
        tifffile.imwrite(folder / "images" / f"{name}.tif", image)
        tifffile.imwrite(folder / "masks" / f"{name}.tif", blobs.labels.astype(np.uint16))
    (folder / "meta.json").write_text(json.dumps({"split": {"train": ["a", "b"], "val": ["c"]}}))
    return folder


def no_labels(folder):
    for name in "ab":
        tifffile.imwrite(folder / "masks" / f"{name}.tif", np.zeros((160, 160), np.uint16))


def one_image(folder):
    (folder / "meta.json").write_text(json.dumps({"split": {"train": ["a"], "val": ["c"]}}))


def the_same(folder):
    (folder / "images" / "c.tif").write_bytes((folder / "images" / "a.tif").read_bytes())


def other_shape(folder):
    tifffile.imwrite(folder / "masks" / "b.tif", np.zeros((160, 150), np.uint16))


def one_large_cell(folder):
    for name in "ab":
        labels = np.zeros((160, 160), np.uint16)
        labels[10:150, 10:150] = 1
        tifffile.imwrite(folder / "masks" / f"{name}.tif", labels)


def one_of_a_class(folder):
    (folder / "points").mkdir()
    for name in "abc":
        (folder / "masks" / f"{name}.tif").unlink()
        kinds = ["cell"] * 20 + ["odd"] * (name == "a")
        rows = [f"{7 * row},{7 * row},{kind}" for row, kind in enumerate(kinds)]
        (folder / "points" / f"{name}.csv").write_text("\n".join(["y,x,class", *rows]))
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "classes": ["cell", "odd"]}))


WRONG = {
    "nothing": (lambda _: None, ""),
    "no labels": (no_labels, "No cell is annotated in the training images"),
    "one image only": (one_image, "There is one image to learn from"),
    "train and validation the same": (the_same, "among those to learn from (c)"),
    "labels that do not fit the image": (other_shape, "Labels must have the image's shape (160, 160)"),
    "sizes far from the model's": (one_large_cell, "Half of the cells are larger than"),
    "classes": (one_of_a_class, "where cells are: 1 class (odd). `cellwright train-classifier`"),
}


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Flags of the two ways to train, in neither of which anything is trained."""

    def tuned(data, start, output, *_, **__):
        return Outcome(output, {"score": 0.5}, {"score": 0.6}, True)
        yield

    def train(data, model, output, *_, **__):
        return output
        yield

    monkeypatch.setattr(finetune_module, "finetune", tuned)
    monkeypatch.setattr(trainer, "train", train)
    save_checkpoint(tmp_path / "start", flow.build())
    return {"fine-tuned": ["--from", tmp_path / "start"], "from scratch": []}


@pytest.mark.parametrize("way", ["fine-tuned", "from scratch"])
@pytest.mark.parametrize("wrong", WRONG)
def test_what_looks_wrong_is_told_before_training(cli, dataset, tmp_path, trained, wrong, way):
    damage, words = WRONG[wrong]
    damage(dataset)
    code, out, err = cli("train", dataset, "--output", tmp_path / "model", "--device", "cpu", *trained[way])
    assert code == 0
    assert "to learn from; 1 image with" in out.splitlines()[0]
    assert any(line.startswith("note: ") and words in line for line in err.splitlines()) == bool(words)


def test_a_terminal_shows_how_far_the_look_is(cli, dataset, tmp_path, trained, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    flags = ["--output", tmp_path / "model", "--device", "cpu", *trained["fine-tuned"]]
    assert cli("train", dataset, *flags).code == 0
    assert "cells · images" in terminal.getvalue()
