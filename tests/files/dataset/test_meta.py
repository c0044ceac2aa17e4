import json

import numpy as np
import pytest

from cellwright.core.errors import ReadError
from cellwright.files.dataset.folder import read_dataset


@pytest.mark.parametrize("sizes", ["small", [1, "b"], [0.5, -0.5], [1, float("nan")], 3])
def test_pixel_sizes_that_are_none_are_refused(folder, sizes, write_meta, listing):
    write_meta(folder, {**listing, "pixel_size_um": sizes})
    with pytest.raises(ReadError, match="pixel_size_um"):
        read_dataset(folder)


@pytest.mark.parametrize(
    "meta",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        {},
        {"split": ["a"]},
        {"split": {"train": "a"}},
        {"split": {"train": 3}},
        {"split": {"train": None}},
        {"split": {"train": [1, 2]}},
        {"split": {"train": ["a"]}, "items": ["a"]},
        {"split": {"train": ["a"]}, "items": {"a": "fluo"}},
        {"split": {"train": ["a"]}, "items": None},
        {"split": {"train": ["a"]}, "classes": 3},
        {"split": {"train": ["a"]}, "classes": "RBC"},
    ],
    ids=json.dumps,
)
def test_a_broken_meta_is_refused(folder, meta, write_meta):
    write_meta(folder, meta)
    with pytest.raises(ReadError, match=r"meta\.json"):
        read_dataset(folder)


def test_a_meta_that_is_no_text_is_refused(folder):
    (folder / "meta.json").write_bytes(b"\x81\x00{")
    with pytest.raises(ReadError, match=r"readable .*meta\.json"):
        read_dataset(folder)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "sub/a", "..", ".", "", "a/"])
def test_names_that_leave_the_folder_are_refused(folder, name, write_meta, write_pair):
    outside = folder.parent
    write_pair(outside, "x", np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8))
    write_meta(folder, {"split": {"train": ["a", name]}})
    with pytest.raises(ReadError, match="plain file names"):
        read_dataset(folder)


@pytest.mark.parametrize(
    "regions",
    [3, [[1, 2]], [[[0, 0], [0, 5]]], [[[-1, 0], [5, 5]]], [[["a", 0], [5, 5]]], [[[0, 0], [None, 5]]]],
)
def test_regions_that_are_no_boxes_are_refused(folder, regions, write_meta):
    write_meta(folder, {"split": {"train": ["a"]}, "items": {"a": {"regions": regions}}})
    with pytest.raises(ReadError, match="Regions must be boxes"):
        read_dataset(folder)
