import json

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import load_file

from cellwright.core.data import Image
from cellwright.files.images import read_image
from cellwright.models.checkpoint import load_checkpoint
from cellwright.ops.labels import label_properties


@pytest.fixture
def dataset(tmp_path, draw_blobs):
    """Four annotated images: two to train with, two for validation, in two groups."""
    folder = tmp_path / "cells"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    names = ["a", "b", "c", "d"]
    for name in names:
        blobs = draw_blobs((96, 96), 12.0)
        tifffile.imwrite(folder / "images" / f"{name}.tif", (blobs.image * 200).astype(np.uint8))
        tifffile.imwrite(folder / "masks" / f"{name}.tif", blobs.labels.astype(np.uint16))
    meta = {
        "split": {"train": names[:2], "val": names[2:]},
        "items": {
            name: {"group": group}
            for name, group in zip(names, ["fluo", "fluo", "fluo", "phase"], strict=True)
        },
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


@pytest.mark.usefixtures("oracle")
def test_a_perfect_model_scores_one_in_every_group(cli, dataset):
    code, out, err = cli("evaluate", dataset)
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert (report["model"], report["split"]) == ("flow", "val")
    assert {name: scores["n_images"] for name, scores in report["groups"].items()} == {
        "all": 2,
        "fluo": 1,
        "phase": 1,
    }
    scores = report["groups"]["all"]
    assert set(scores["ap"].values()) == {1.0}
    assert (scores["f1"], scores["pq"], scores["count_mae"], scores["count_mape"]) == (1, 1, 0, 0)
    assert (scores["score"], scores["point_f1"], scores["box_iou"], scores["seg"]) == (1, 1, 1, 1)


@pytest.mark.usefixtures("oracle")
def test_several_models_are_scored_side_by_side(cli, dataset):
    code, out, _ = cli("evaluate", dataset, "--model", "flow", "--model", "centroid")
    models = json.loads(out)["models"]
    assert code == 0
    assert [one["model"] for one in models] == ["flow", "centroid"]
    assert all(one["groups"]["all"]["n_images"] == 2 for one in models)


@pytest.mark.usefixtures("oracle")
def test_a_folder_of_boxes_is_scored_by_recall(cli, dataset):
    for path in (dataset / "masks").iterdir():
        boxes = label_properties(tifffile.imread(path).astype(np.int32)).boxes[1:]  # one cell has no box
        rows = [f"{left},{top},{right},{bottom},cell" for (top, left), (bottom, right) in boxes]
        (dataset / "boxes").mkdir(exist_ok=True)
        table = "\n".join(["xmin,ymin,xmax,ymax,class", *rows])
        (dataset / "boxes" / f"{path.stem}.csv").write_text(table)
        path.unlink()
    scores = json.loads(cli("evaluate", dataset).out)["groups"]["all"]
    assert (scores["box_recall"], scores["box_iou"]) == (1, 1)
    assert scores["n_predicted"] == scores["n_true"] + 2
    assert not {"box_precision", "count_mae"} & set(scores)


@pytest.mark.usefixtures("oracle")
def test_split_group_and_settings_are_those_asked_for(cli, dataset):
    found = json.loads(cli("evaluate", dataset, "--split", "all", "--group", "fluo").out)
    assert {name: scores["n_images"] for name, scores in found["groups"].items()} == {"all": 3, "fluo": 3}
    worse = json.loads(cli("evaluate", dataset, "--min-area", 100_000).out)["groups"]["all"]
    assert (worse["n_predicted"], worse["f1"]) == (0, 0)


@pytest.mark.usefixtures("oracle")
@pytest.mark.parametrize(
    ("flags", "word"),
    [(["--split", "test"], "splits are train, val"), (["--group", "tissue"], "groups fluo, phase")],
)
def test_an_empty_choice_is_refused(cli, dataset, flags, word):
    code, out, err = cli("evaluate", dataset, *flags)
    assert (code, out) == (1, "")
    assert word in err


@pytest.mark.parametrize("command", [["evaluate"], ["train", "--output", "model"]])
def test_a_folder_that_is_no_dataset_is_refused(cli, tmp_path, command):
    code, out, err = cli(*command, tmp_path / "absent")
    assert (code, out) == (1, "")
    assert err.startswith("error: Expected a dataset folder")
    assert not (tmp_path / "absent").exists()


SHORT = ["--pretrain-steps", 2, "--finetune-steps", 2, "--steps-per-epoch", 2, "--batch-size", 2]
SHORT += ["--patch-px", 64, "--n-simulated", 2, "--n-modalities", 2]


def test_training_writes_a_model_that_counts(cli, dataset, tmp_path):
    folder = tmp_path / "model"
    code, out, err = cli("train", dataset, "--output", folder, "--extra", dataset, "--device", "cpu", *SHORT)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("2 images with")
    assert [line.split()[0] for line in lines[1:-1]] == ["2/4", "4/4"]
    assert all("loss" in line and "ap50" in line for line in lines[1:-1])
    assert lines[-1].endswith(f"--model {folder}")
    assert load_checkpoint(folder).spec.preset == "small"
    card = (folder / "card.md").read_text()
    assert f"Trained on images of `{dataset.name}`: a, b." in card
    assert ". The best epoch is kept." in card
    assert f"Its first phase saw `{dataset.name}` too." in card
    image = read_image(dataset / "images" / "a.tif")
    assert isinstance(image, Image)
    assert cli("count", dataset / "images" / "a.tif", "--model", folder).code == 0
    again = cli("train", dataset, "--output", tmp_path / "more", "--start", folder, "--seed", 3, *SHORT)
    assert again.code == 0
    assert load_checkpoint(tmp_path / "more").sha256 != load_checkpoint(folder).sha256


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--model", "absent"], "Model family must be one of"),
        (["--start", "absent"], "Model must be a folder or one of"),
        (["--device", "cuda:77"], "Device must be"),
        (["--patch-px", "50"], "multiple of 16"),
    ],
)
def test_what_cannot_be_trained_is_refused(cli, dataset, tmp_path, flags, word):
    code, _, err = cli("train", dataset, "--output", tmp_path / "model", *flags)
    assert code == 1
    assert word in err
    assert not (tmp_path / "model").exists()


def test_images_beside_their_masks_are_trained_on(cli, dataset, tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    for kind, ending in (("images", ""), ("masks", "_mask")):
        for path in (dataset / kind).iterdir():
            for copy in range(2):
                (folder / f"{path.stem}{copy}{ending}{path.suffix}").write_bytes(path.read_bytes())
    code, out, err = cli("train", folder, "--output", tmp_path / "model", "--device", "cpu", *SHORT)
    assert (code, (tmp_path / "model" / "weights.safetensors").exists()) == (0, True), err
    assert "One of 5 validates, drawn with seed 0" in out
    (folder / "odd.tif").write_bytes(next((dataset / "images").iterdir()).read_bytes())
    code, _, err = cli("train", folder, "--output", tmp_path / "other", *SHORT)
    assert (code != 0, "odd.tif" in err) == (True, True)


def test_an_output_that_is_a_file_is_refused(cli, dataset, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, err = cli("train", dataset, "--output", tmp_path / "file", *SHORT)
    assert code == 1
    assert "file" in err
    assert (tmp_path / "file").read_text() == "in the way"


TUNED = ["--steps", 2, "--steps-per-epoch", 1, "--frozen-steps", 1, "--batch-size", 2, "--patch-px", 32]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A model to start from; it takes no time to score it."""
    from cellwright.models.checkpoint import save_checkpoint
    from cellwright.models.families import flow
    from cellwright.training.finetune import finetune as finetune_run

    class Scored:
        images = ()

        def __init__(self):
            self.score = next(scores)

        def summary(self):
            return {"score": self.score}

    def known(*_, **__):
        return Scored()
        yield

    def retention_score(*_):
        return 0.5
        yield

    scores = iter([0.2, 0.4, 0.6, 0.1, 0.1, 0.1, 0.1])
    monkeypatch.setattr(finetune_run, "evaluate", known)
    monkeypatch.setattr(finetune_run, "retention_score", retention_score)
    save_checkpoint(tmp_path / "start", flow.build())
    return tmp_path / "start"


def test_a_model_is_fine_tuned(cli, dataset, tmp_path, start):
    flags = ["--from", start, "--quick", "--n-replay", 2, *TUNED]
    code, out, err = cli("train", dataset, "--output", tmp_path / "tuned", "--device", "cpu", *flags)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("2 images with")
    assert [line.split()[0] for line in lines[1:4]] == ["0/2", "1/2", "2/2"]
    assert err == ""
    assert lines[4] == "score 0.200 before, 0.600 after: better, and kept"
    assert load_checkpoint(tmp_path / "tuned").sha256 != load_checkpoint(start).sha256


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--quick"], "--quick does nothing without --from"),
        (["--from", "flow", "--quick", "--thorough"], "Choose one of --quick, --balanced, --thorough; got 2"),
        (["--from", "flow", "--start", "flow"], "--start does nothing with --from"),
        (["--from", "flow", "--pretrain-steps", "5"], "no setting --pretrain-steps"),
        (["--patience", "5"], "no setting --patience"),
        (["--from", "absent"], "Model must be a folder or one of"),
        (["--from", "flow", "--device", "cuda:77"], "Device must be"),
    ],
)
def test_what_cannot_be_fine_tuned_is_refused(cli, dataset, tmp_path, flags, word):
    code, _, err = cli("train", dataset, "--output", tmp_path / "model", *flags)
    assert code == 1
    assert word in err
    assert not (tmp_path / "model").exists()


def test_a_table_of_counts_needs_a_model_to_teach(cli, tmp_path):
    (tmp_path / "counts.csv").write_text("image,count\n")
    code, _, err = cli("train", tmp_path / "counts.csv", "--output", tmp_path / "model")
    assert (code, "Add --from density" in err) == (1, True)


def test_an_encoder_pretrained_without_annotation_starts_a_training(cli, dataset, tmp_path):
    encoder, model = tmp_path / "encoder", tmp_path / "model"
    short = ("--preset", "small", "--batch-size", 2)
    steps = ("--steps", 1, "--patch", 64)
    code, out, err = cli("pretrain", dataset / "images", "--output", encoder, *short, *steps)
    assert (code, err) == (0, "")
    assert f"--pretrained {encoder}" in out
    training = ("--pretrain-steps", 1, "--finetune-steps", 0, "--n-simulated", 0, "--patch", 32)
    rates = ("--pretrain-rate", 0.0, "--weight-decay", 0.0)
    code, _, _ = cli("train", dataset, "--output", model, "--pretrained", encoder, *short, *training, *rates)
    assert code == 0
    begun, ended = load_file(encoder / "weights.safetensors"), load_file(model / "weights.safetensors")
    learned = [name for name in begun if name.endswith(".weight")]
    assert learned
    assert all(torch.equal(begun[name], ended[name]) for name in learned)


def test_the_encoder_of_a_model_is_named_with_how_that_model_takes_it(cli, dataset, tmp_path):
    short = ("--steps", 1, "--patch", 64, "--batch-size", 2, "--output", tmp_path / "e")
    code, out, _ = cli("pretrain", dataset / "images", "--start", "flow", *short)
    assert code == 0
    assert f"cellwright train DATASET --from flow --pretrained {tmp_path / 'e'} " in " ".join(out.split())


def test_what_is_no_encoder_is_refused(cli, dataset, tmp_path):
    start = ("--output", tmp_path / "m", "--pretrained", tmp_path, "--from")
    code, _, err = cli("train", dataset, *start, "flow")
    assert (code, err.count("\n")) == (1, 1)
    assert "Expected pretrained.json" in err
    code, _, err = cli("train", tmp_path / "counts.csv", *start, "density")
    assert (code, err.count("\n")) == (1, 1)
    assert "--pretrained does nothing with a table of counts" in err
    code, _, err = cli("pretrain", dataset, "--output", tmp_path / "e", "--start", "flow", "--imagenet")
    assert (code, err.count("\n")) == (1, 1)


def test_counts_alone_teach_a_density_model(cli, tmp_path, rng):
    for name in "abc":
        tifffile.imwrite(tmp_path / f"{name}.tif", rng.integers(0, 255, (64, 64)).astype(np.uint8))
    (tmp_path / "counts.csv").write_text("image,count\na.tif,9\nb.tif,9\nc.tif,9\n")
    model = tmp_path / "model"
    code, out, _ = cli("train", tmp_path / "counts.csv", "--from", "density", "--output", model)
    assert code == 0
    assert f"--model {model}" in out
    assert load_checkpoint(model).spec.family == "density"


@pytest.mark.parametrize("command", ["train", "train-classifier", "pretrain"])
def test_folders_of_models_and_datasets_are_not_written_over(cli, dataset, tmp_path, command):
    code, _, err = cli(command, dataset, "--output", dataset)
    assert (code, "holds a dataset" in err) == (1, True), err
    (tmp_path / "pairs").mkdir()
    for output in (tmp_path / "pairs", tmp_path / "pairs" / "model"):
        code, _, err = cli(command, tmp_path / "pairs", "--output", output)
        assert (code, "lies in one" in err) == (1, True), err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "weights.safetensors").touch()
    code, _, err = cli(command, dataset, "--output", tmp_path / "mine")
    assert (code, "already holds a model" in err) == (1, True), err
