import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tifffile

from cellwright.core.tasks import run
from cellwright.files.dataset.folder import Item, read_dataset
from cellwright.models.families.flow import SPECS
from cellwright.ops.labels import label_properties
from cellwright.training.data import inspect as inspection
from cellwright.training.data.inspect import inspect

SPEC = SPECS["small"]


def look(folder, spec=SPEC):
    return run(inspect(read_dataset(folder), spec))


def codes(folder, spec=SPEC):
    return [warning.code for warning in look(folder, spec).warnings]


@pytest.fixture
def folder(write_dataset):
    """Two images to learn from and one to validate, each with nine discs of 12 pixels."""
    return write_dataset({"train": ["a", "b"], "val": ["c"]})


def labels_of(folder, name):
    return tifffile.imread(folder / "masks" / f"{name}.tif")


def write_labels(folder, name, labels):
    tifffile.imwrite(folder / "masks" / f"{name}.tif", np.asarray(labels, np.uint16))


def brighten(folder, name):
    path = folder / "images" / f"{name}.tif"
    tifffile.imwrite(path, tifffile.imread(path) + 1)


@pytest.fixture
def good(folder):
    brighten(folder, "c")
    return folder


def change_meta(folder, **values):
    path = folder / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def to_csv(folder, kind, classes=None):
    """Turn the masks of a dataset into boxes or points."""
    (folder / kind).mkdir()
    for path in (folder / "masks").iterdir():
        _, points, boxes = label_properties(tifffile.imread(path).astype(np.int32))
        rows = ["xmin,ymin,xmax,ymax,class" if kind == "boxes" else "y,x,class"]
        for index in range(len(points)):
            corners = boxes[index][:, ::-1].ravel() if kind == "boxes" else points[index]
            name = (classes or {}).get(index, "cell")
            rows.append(",".join([*map(str, corners), name]))
        (folder / kind / f"{path.stem}.csv").write_text("\n".join(rows))
        path.unlink()


def test_what_is_found_is_told(good):
    findings = look(good)
    n = int(labels_of(good, "a").max()), int(labels_of(good, "b").max()), int(labels_of(good, "c").max())
    assert findings.n_images == (2, 1)
    assert findings.n_cells == (n[0] + n[1], n[2])
    assert findings.sizes[0] == pytest.approx(12, rel=0.1)
    assert findings.sizes[1] <= findings.sizes[0] <= findings.sizes[2]
    assert (findings.classes, findings.n_regions, findings.warnings) == ({}, 0, ())
    assert findings.summary().startswith(f"2 images with {n[0] + n[1]} cells to learn from; 1 image with")
    assert "diameter 12 px" in findings.summary()


def test_no_labels(good):
    for name in "ab":
        write_labels(good, name, np.zeros((64, 72)))
    assert codes(good) == ["no-labels"]


def test_nothing_to_check_the_model_with(good):
    write_labels(good, "c", np.zeros((64, 72)))
    assert codes(good) == ["empty-validation"]


def test_an_image_without_a_cell(good):
    write_labels(good, "a", np.zeros((64, 72)))
    assert codes(good)[0] == "empty"


def test_images_of_one_value(folder, good):
    tifffile.imwrite(folder / "images" / "b.tif", np.full((64, 72), 7, np.uint8))
    (warning,) = look(good).warnings
    assert (warning.code, "1 image of one value everywhere (b)" in warning.text) == ("constant", True)


def test_one_image_only(write_dataset):
    folder = write_dataset({"train": ["a"]})
    assert codes(folder) == ["one-image"]


def test_no_image_to_check_the_model_with(write_dataset):
    folder = write_dataset({"train": ["a", "b"]})
    assert codes(folder) == ["no-validation"]
    assert "to check with" not in look(folder).summary()


def test_few_cells(good):
    for name in "ab":
        labels = labels_of(good, name)
        write_labels(good, name, np.where(labels <= 3, labels, 0))
    assert codes(good) == ["few-cells"]


def test_train_and_validation_are_the_same(folder, good):
    assert codes(good) == []
    for name in "abc":
        pixels = (labels_of(folder, name) > 0) * np.uint8(ord(name))
        tifffile.imwrite(folder / "images" / f"{name}.tif", pixels)
    assert codes(folder) == []
    shutil.copy(folder / "images" / "a.tif", folder / "images" / "c.tif")
    (warning,) = look(folder).warnings
    assert (warning.code, "(c)" in warning.text) == ("same-images", True)
    change_meta(folder, split={"train": ["a", "b"], "val": ["b"]})
    assert codes(folder) == ["same-images"]


@pytest.mark.parametrize("split", ["a", "c"])
def test_labels_that_do_not_fit(good, split):
    write_labels(good, split, np.zeros((64, 71)))
    assert codes(good)[0] == "unfit"
    assert "Labels must have the image's shape (64, 72)" in look(good).warnings[0].text


def test_a_mask_in_place_of_labels(good):
    write_labels(good, "b", labels_of(good, "b") > 0)
    assert codes(good)[0] == "one-label"


@pytest.mark.parametrize(
    ("spec_range", "expected"), [((16, 36), []), ((30, 60), ["sizes"]), ((2, 5), ["sizes"])]
)
def test_cells_far_from_the_models(good, spec_range, expected):
    assert codes(good, replace(SPEC, diameter_range_px=spec_range)) == expected


def test_classes_are_told_not_to_be_learned(good):
    to_csv(good, "boxes", classes={0: "odd"})
    change_meta(good, classes=["cell", "odd", "none"])
    (good / "boxes" / "b.csv").write_text((good / "boxes" / "b.csv").read_text().replace("odd", "cell"))
    findings = look(good, replace(SPEC, family="centroid"))
    (warning,) = findings.warnings
    assert warning.code == "classes"
    assert warning.text.startswith("Not learned, as a model learns where cells are: 2 classes (none, odd).")
    assert findings.classes["odd"] == 1
    assert findings.classes["none"] == 0
    assert findings.sizes[0] == pytest.approx(12, rel=0.15)


@pytest.mark.parametrize(
    ("kind", "family", "expected"),
    [
        ("boxes", "flow", ["annotation"]),
        ("boxes", "centroid", []),
        ("points", "query", []),
        ("points", "density", []),
    ],
)
def test_annotation_that_the_family_cannot_learn_from(good, kind, family, expected):
    to_csv(good, kind)
    assert codes(good, replace(SPEC, family=family)) == expected


def test_regions_are_counted_and_what_lies_outside_is_not(good):
    whole = look(good)
    change_meta(good, items={"a": {"regions": [[[0, 0], [30, 72]], [[40, 0], [64, 30]]]}})
    part = look(good)
    assert part.n_regions == 2
    assert 0 < part.n_cells[0] < whole.n_cells[0]
    assert "2 regions" in part.summary()


def to_film(folder, name, masks):
    """Make a film of two frames of an image; the cells keep their numbers over time, as tracked ones do."""
    path = folder / "images" / f"{name}.tif"
    for file, frame in ((path, tifffile.imread(path)), (folder / "masks" / f"{name}.tif", masks)):
        film = np.stack([frame, frame])
        tifffile.imwrite(file, film, imagej=True, metadata={"axes": "TYX"})


def test_cells_of_a_film_are_those_of_its_frames(good):
    before = look(good)
    for name in "abc":
        to_film(good, name, labels_of(good, name))
    film = look(good)
    assert film.n_cells == tuple(2 * n for n in before.n_cells)
    assert film.sizes == pytest.approx(before.sizes)
    assert film.warnings == before.warnings


def test_a_mask_of_a_film_is_told(good):
    to_film(good, "a", (labels_of(good, "a") > 0).astype(np.uint16))
    assert codes(good)[0] == "one-label"


@pytest.fixture
def reads(good, monkeypatch):
    """Names of the images that were read so far."""
    names = []
    annotated = Item.annotated

    def noted(item):
        names.append(item.name)
        return annotated(item)

    monkeypatch.setattr(Item, "annotated", noted)
    return names


def test_it_yields_before_each_image(good, reads):
    steps = []

    def note(step):
        steps.append((step.stage, step.done, step.total, [*reads]))

    run(inspect(read_dataset(good), SPEC), note)
    assert steps == [("images", 0, 3, []), ("images", 1, 3, ["a"]), ("images", 2, 3, ["a", "b"])]
    assert reads == ["a", "b", "c"]


def test_a_look_that_is_closed_reads_no_further_image(good, reads):
    task = inspect(read_dataset(good), SPEC)
    next(task)
    next(task)
    task.close()
    assert reads == ["a"]
    assert list(task) == []


def test_it_needs_no_torch(good):
    code = (
        "import sys; from cellwright.files.dataset.folder import read_dataset; "
        "from cellwright.models.spec import read_spec; from cellwright.training.data.inspect import inspect; "
        "import cellwright.training.settings; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def scattered(folder, rng):
    """Discs that lie otherwise when they are turned."""
    y, x = np.mgrid[:96, :96]
    for name in "abc":
        labels = np.zeros((96, 96), np.uint16)
        for number, (row, column) in enumerate(((12, 20), (30, 60), (44, 14), (60, 40), (80, 78)), start=1):
            labels[(y - row) ** 2 + (x - column) ** 2 < 64] = number
        noise = rng.normal(0, 6, labels.shape)
        tifffile.imwrite(folder / "images" / f"{name}.tif", np.uint8(60 + 90 * (labels > 0) + noise))
        write_labels(folder, name, labels)
    return folder


@pytest.mark.parametrize("how", inspection.TURNS)
def test_masks_that_were_turned_are_told(scattered, how):
    """Each of the seven is undone by what the warning says."""
    assert "turned" not in codes(scattered)
    right = labels_of(scattered, "b")
    undo = inspection.TURNS[how]
    turned = [turn(right) for turn in inspection.TURNS.values()]
    write_labels(scattered, "b", next(one for one in turned if np.array_equal(undo(one), right)))
    told = [warning.text for warning in look(scattered).warnings if warning.code == "turned"]
    assert told == [inspection.TURNED.format("1 image", how, "b")]


def test_masks_of_cells_that_cannot_be_seen_are_not_called_turned(scattered, rng):
    for name in "abc":
        tifffile.imwrite(scattered / "images" / f"{name}.tif", np.uint8(rng.normal(60, 6, (96, 96))))
    assert "turned" not in codes(scattered)
