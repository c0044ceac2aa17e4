import json

import numpy as np
import pytest
import tifffile


@pytest.fixture
def dataset(tmp_path):
    """Bright and dark squares with boxes."""
    folder = tmp_path / "dataset"
    for part in ("images", "boxes"):
        (folder / part).mkdir(parents=True)
    image = np.full((40, 80), 100, np.uint8)
    lines = ["xmin,ymin,xmax,ymax,class"]
    for index in range(6):
        left = 4 + 12 * index
        image[10:18, left : left + 8] = 250 if index % 2 else 5
        lines.append(f"{left},10,{left + 8},18,{'bright' if index % 2 else 'dark'}")
    tifffile.imwrite(folder / "images" / "a.tif", image)
    (folder / "boxes" / "a.csv").write_text("\n".join(lines))
    meta = {"split": {"train": ["a"]}, "classes": ["bright", "dark"]}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def test_a_classifier_is_trained(cli, dataset, tmp_path):
    out = tmp_path / "classes"
    done = cli(
        "train-classifier", dataset, "--output", out, "--steps", 2, "--batch-size", 2, "--device", "cpu",
        "--rename", "dark=black",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.out.splitlines()[1].startswith("2/2  loss ")
    assert str(out) in done.out
    assert json.loads((out / "classifier.json").read_text())["classes"] == ["black", "bright"]


def test_a_class_can_be_left_out(cli, dataset, tmp_path):
    done = cli("train-classifier", dataset, "--output", tmp_path / "classes", "--rename", "dark=")
    assert done.code == 1
    assert "at least two classes" in done.err


def test_a_renaming_without_a_sign_is_refused(cli, dataset, tmp_path):
    done = cli("train-classifier", dataset, "--output", tmp_path / "classes", "--rename", "dark")
    assert done.code == 1
    assert "rename must be OLD=NEW" in done.err
    done = cli("train-classifier", dataset, "--output", tmp_path / "classes", "--rename", "drak=")
    assert "rename must name each class once, of these: bright, dark; got 'drak='" in done.err
    assert not (tmp_path / "classes").exists()


def test_a_class_of_images_to_check_with_alone_is_told(cli, dataset, tmp_path):
    for part, ending in (("images", "tif"), ("boxes", "csv")):
        (dataset / part / f"b.{ending}").write_bytes((dataset / part / f"a.{ending}").read_bytes())
    boxes = dataset / "boxes" / "b.csv"
    boxes.write_text(boxes.read_text().replace("dark", "odd"))
    meta = {"split": {"train": ["a"], "val": ["b"]}, "classes": ["bright", "dark", "odd"]}
    (dataset / "meta.json").write_text(json.dumps(meta))
    few = ("--steps", 1, "--batch-size", 2, "--device", "cpu")
    done = cli("train-classifier", dataset, "--output", tmp_path / "classes", *few)
    assert done.code == 0, done.err
    assert done.out.startswith("1 image with 6 cells to learn from; 1 image with 6 cells to check with;")
    notes = done.err.splitlines()
    assert any("Not learned, since only images" in note and "odd (3)" in note for note in notes)
    assert any("Few cells to learn from: bright (3), dark (3)" in note for note in notes)


def test_patterns_are_expanded(cli, dataset, tmp_path):
    few = ("--steps", 1, "--batch-size", 2, "--device", "cpu")
    done = cli("train-classifier", tmp_path / "data*", "--output", tmp_path / "classes", *few)
    assert done.code == 0, done.err
    few = (*few, "--patch-px", 64, "--preset", "small")
    done = cli("pretrain", dataset / "images" / "*.tif", "--output", tmp_path / "encoder", *few)
    assert done.code == 0, done.err


def test_a_classifier_among_the_models_of_the_user_is_taken_by_its_name(cli, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("cellwright.models.store.user_folder", lambda: tmp_path / "models")
    few = ("--steps", 1, "--batch-size", 2, "--device", "cpu")
    done = cli("train-classifier", dataset, "--output", tmp_path / "models" / "shades", *few)
    assert done.code == 0, done.err
    done = cli("count", dataset / "images" / "a.tif", "--classifier", "shades", "--device", "cpu")
    assert done.code == 0, done.err
    assert "shades  (classifier: bright, dark)" in cli("models").out
