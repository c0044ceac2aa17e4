"""What cells with a class a dataset holds, and what looks wrong with them."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from cellwright.core.data import Image
from cellwright.core.errors import AnnotationError
from cellwright.core.tasks import run
from cellwright.files.dataset.append import Entry, append
from cellwright.files.dataset.folder import read_dataset
from cellwright.training.data.classes import ClassDataset, inspect_classes

CLASSES = ("red", "blue", "rare")


@pytest.fixture
def inspected(tmp_path):
    """Function (split -> numbers of cells of each class, of none) -> findings; each split is an image."""

    def inspect(names=None, **splits):
        for split, counts in splits.items():
            classes = np.repeat([0, 1, 2, -1], counts).astype(np.int16)
            labels = np.kron(np.arange(1, len(classes) + 1), np.ones((4, 4), int))
            image = Image(np.random.default_rng(len(split)).integers(0, 255, labels.shape, np.uint8), "YX")
            entry = Entry(image, labels.astype(np.int32), classes, CLASSES, name=split, split=split)
            append(tmp_path / "cells", entry)
        return run(inspect_classes([ClassDataset(read_dataset(tmp_path / "cells"), names or {})]))

    return inspect


def test_cells_of_each_class_are_counted(inspected):
    findings = inspected(train=(20, 12, 0, 3), val=(5, 4, 0, 0))
    assert findings.warnings == ()
    assert findings.n_checked == {"blue": 4, "red": 5}
    assert findings.summary() == (
        "1 image with 32 cells to learn from; 1 image with 9 cells to check with; blue: 12 and 4 to check "
        "with; red: 20 and 5 to check with. 3 cells without a class: left out."
    )


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({"train": (20, 11, 0, 0), "val": (5, 5, 0, 0)}, "Few cells to learn from: blue (11). Annotate more"),
        (
            {"train": (20, 20, 0, 0), "val": (5, 5, 2, 0)},
            "Not learned, since only images to check with have such cells, which are left out: rare (2).",
        ),
        ({"train": (20, 20, 0, 0), "val": (5, 0, 0, 0)}, "Not checked, since no image to check with has"),
        ({"train": (11, 11, 0, 0)}, "nothing will tell how good the classes are"),
        (
            {"train": (20, 12, 0, 0)},
            "every fifth cell of each class with 12 or more is held back",
        ),
        ({"train": (20, 20, 3, 0)}, "Not checked, since of so few cells none is held back: rare."),
        ({"train": (20, 20, 0, 0), "val": (0, 0, 2, 2)}, "nothing will tell how good the classes are"),
    ],
)
def test_what_looks_wrong_is_told(inspected, splits, words):
    findings = inspected(**splits)
    assert any(words in one.text for one in findings.warnings)


def test_an_image_to_learn_from_and_to_check_with_is_told(inspected, tmp_path):
    assert inspected(train=(20, 20, 0, 0), val=(20, 20, 0, 0)).warnings == ()
    images = tmp_path / "cells" / "images"
    shutil.copy(images / "train.tif", images / "val.tif")
    (warning,) = inspected().warnings
    assert (warning.code, "(val)" in warning.text) == ("same-images", True)


def test_cells_held_back_are_told_and_not_counted_as_learned(inspected):
    findings = inspected(train=(20, 12, 11, 3))
    assert [one.code for one in findings.warnings] == ["few-of-class", "unchecked-class", "held-back"]
    assert findings.warnings[0].text.startswith("Few cells to learn from: rare (11).")
    assert findings.is_held_back
    assert findings.summary() == (
        "1 image with 37 cells to learn from; 6 cells of the same held back to check with; blue: 10 and 2 to "
        "check with; rare: 11; red: 16 and 4 to check with. 3 cells without a class: left out."
    )


def test_classes_that_are_renamed_count_under_their_new_name(inspected):
    findings = inspected({"rare": "red", "blue": "dark"}, train=(20, 20, 3, 0), val=(5, 5, 1, 0))
    assert findings.classes == {"dark": 20, "red": 23}
    assert findings.warnings == ()


def test_one_class_is_none(inspected):
    with pytest.raises(AnnotationError, match=r"at least two classes.*got 20 cells of \['red'\]"):
        inspected(train=(20, 0, 0, 4), val=(3, 3, 0, 0))


def test_the_module_imports_no_torch():
    code = "import sys, cellwright.training.data.classes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
