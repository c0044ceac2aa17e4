import json
import shutil

import numpy as np
import pytest
import tifffile


@pytest.fixture
def dataset(tmp_path, draw_blobs):
    folder = tmp_path / "cells"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    blobs = draw_blobs((96, 96), 12.0)
    tifffile.imwrite(folder / "images" / "a.tif", (blobs.image * 200).astype(np.uint8))
    tifffile.imwrite(folder / "masks" / "a.tif", blobs.labels.astype(np.uint16))
    (folder / "meta.json").write_text(json.dumps({"split": {"val": ["a"]}}))
    return folder


@pytest.mark.usefixtures("oracle")
def test_models_are_compared_where_the_cells_are_known(cli, dataset, tmp_path):
    code, out, err = cli("compare", dataset, "--model", "one", "--model", "two", "--output", tmp_path / "out")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert [(line[0], line[1], line[-1]) for line in lines] == [
        ("a", "one", "1.000"),
        ("a", "two", "1.000"),
        ("mean", "one", "1.000"),
        ("mean", "two", "1.000"),
    ]
    assert not tifffile.imread(tmp_path / "out" / "a_disagreement.tif").any()


@pytest.mark.usefixtures("oracle")
def test_each_image_has_a_file_of_its_own(cli, dataset, tmp_path):
    for name in ("day.1", "day.2"):
        for part in ("images", "masks"):
            shutil.copy(dataset / part / "a.tif", dataset / part / f"{name}.tif")
    (dataset / "meta.json").write_text(json.dumps({"split": {"val": ["day.1", "day.2"]}}))
    cli("compare", dataset, "--model", "one", "--model", "two", "--output", tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["day.1_disagreement.tif", "day.2_disagreement.tif"]


@pytest.mark.usefixtures("oracle")
@pytest.mark.parametrize("command", [("compare", "--model", "one"), ("evaluate",)])
def test_a_mask_of_one_value_is_told(cli, dataset, command):
    labels = tifffile.imread(dataset / "masks" / "a.tif")
    tifffile.imwrite(dataset / "masks" / "a.tif", (labels > 0).astype(np.uint8))
    code, _, err = cli(command[0], dataset, *command[1:], "--model", "two")
    assert (code, "The numbers of the true cells of 'a' lie in" in err) == (0, True)


@pytest.mark.usefixtures("oracle")
def test_images_beside_their_masks_are_compared(cli, dataset):
    (dataset / "meta.json").unlink()
    code, out, err = cli("compare", dataset, "--split", "all", "--model", "one", "--model", "two")
    assert (code, "1 image found" in err) == (0, True), err
    assert out.splitlines()[0].endswith("F1 1.000")


@pytest.mark.usefixtures("oracle")
def test_it_is_said_where_only_regions_are_scored(cli, dataset):
    meta = {"split": {"val": ["a"]}, "items": {"a": {"regions": [[[0, 0], [96, 40]]]}}}
    (dataset / "meta.json").write_text(json.dumps(meta))
    models = ("--model", "one", "--model", "two")
    _, out, _ = cli("compare", dataset, *models)
    images, means = out.splitlines()[:2], out.splitlines()[2:]
    assert all(line.endswith("F1 1.000 in its regions") for line in images)
    assert all(line.endswith("F1 1.000") for line in means)
    _, out, _ = cli("compare", dataset, *models, "--json")
    assert [row["n_regions"] for row in json.loads(out)["images"]] == [1, 1]


@pytest.mark.usefixtures("oracle")
def test_a_bare_image_has_counts_alone(cli, image_path, blobs):
    code, out, _ = cli("compare", image_path, "--model", "one", "--model", "two", "--json")
    values = json.loads(out)
    assert code == 0
    assert [row["count"] for row in values["images"]] == [len(blobs)] * 2
    assert all("f1" not in row for row in (*values["images"], *values["means"]))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--model", "one"], "needs two models; got 1"),
        (["--model", "a", "--model", "b", "--split", "test"], "no annotated image of split 'test'"),
        (["--model", "absent", "--model", "absent"], "Model must be a folder or one of"),
    ],
)
def test_what_cannot_be_compared_is_refused(cli, dataset, arguments, word):
    code, out, err = cli("compare", dataset, *arguments)
    assert (code, out) == (1, "")
    assert word in err
