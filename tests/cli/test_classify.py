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
    assert done.out.splitlines()[0].startswith("2/2  loss ")
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
