import json

import numpy as np
import pytest
import tifffile
from PIL import Image as Picture

from cellwright.errors import ReadError
from cellwright.io.dataset import read_dataset
from cellwright.types import Annotation

META = {
    "split": {"train": ["a", "b.c"], "val": ["d"]},
    "items": {"a": {"group": "fluo"}, "d": {"group": "phase", "source": "ours"}},
}


def write_pair(folder, name, image, labels, suffix="tif"):
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    if suffix == "png":
        Picture.fromarray(image).save(folder / "images" / f"{name}.png")
    else:
        tifffile.imwrite(folder / "images" / f"{name}.tif", image)
    tifffile.imwrite(folder / "masks" / f"{name}.tif", labels)


@pytest.fixture
def folder(tmp_path, rng):
    """Three small images with two cells each, one of them in colour."""
    folder = tmp_path / "cells"
    labels = np.zeros((20, 24), np.uint16)
    labels[2:8, 2:8], labels[10:18, 10:18] = 300, 7
    write_pair(folder, "a", rng.integers(0, 255, (20, 24)).astype(np.uint8), labels)
    write_pair(folder, "b.c", rng.integers(0, 60_000, (20, 24)).astype(np.uint16), labels)
    write_pair(folder, "d", rng.integers(0, 255, (20, 24, 3)).astype(np.uint8), labels, "png")
    write_meta(folder, META)
    return folder


@pytest.fixture
def rng():
    return np.random.default_rng(4)


def write_meta(folder, meta):
    (folder / "meta.json").write_text(meta if isinstance(meta, str) else json.dumps(meta))


def test_items_are_listed_with_split_and_group(folder):
    dataset = read_dataset(str(folder))
    assert dataset.folder == folder
    assert [(item.name, item.split, item.group) for item in dataset.items] == [
        ("a", "train", "fluo"),
        ("b.c", "train", ""),
        ("d", "val", "phase"),
    ]
    assert len(dataset) == 3


def test_an_item_gives_its_image_and_labels_without_gaps(folder):
    for item, axes in zip(read_dataset(folder).items, ("YX", "YX", "YXC"), strict=True):
        image, labels = item.read()
        assert (image.name, image.axes) == (item.name, axes)
        assert (labels.dtype, labels.shape) == (np.int32, (20, 24))
        assert np.unique(labels).tolist() == [0, 1, 2]
        assert labels[3, 3] == 2  # order of the old numbers
        assert labels[12, 12] == 1


def test_items_can_be_selected(folder):
    dataset = read_dataset(folder)

    def names(**choice):
        return [item.name for item in dataset.select(**choice).items]

    assert names() == ["a", "b.c", "d"]
    assert names(split="train") == ["a", "b.c"]
    assert names(group="phase") == ["d"]
    assert names(group="") == ["b.c"]
    assert names(split="train", group="fluo") == ["a"]
    assert names(names=("d", "a", "absent")) == ["a", "d"]
    assert names(split="test") == []
    assert dataset.select(split="val").folder == folder


def test_stacks_and_their_labels_are_read(tmp_path, rng):
    labels = np.zeros((5, 20, 24), np.uint16)
    labels[1:3, 4:9, 4:9] = 5
    data = rng.integers(0, 255, (5, 2, 20, 24)).astype(np.uint8)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(tmp_path / "images" / "s.tif", data, imagej=True, metadata={"axes": "ZCYX"})
    tifffile.imwrite(tmp_path / "masks" / "s.tif", labels, imagej=True, metadata={"axes": "ZYX"})
    write_meta(tmp_path, {"split": {"train": ["s"]}})
    image, found = read_dataset(tmp_path).items[0].read()
    assert (image.axes, image.shape, found.shape) == ("ZCYX", (5, 2, 20, 24), (5, 20, 24))
    assert found.max() == 1


def test_what_has_no_image_or_no_labels_is_left_out(folder):
    (folder / "masks" / "a.tif").unlink()
    (folder / "images" / "b.c.tif").unlink()
    assert [item.name for item in read_dataset(folder).items] == ["d"]


def test_what_is_not_listed_is_left_out(folder):
    write_meta(folder, {"split": {"train": ["d", "absent"]}})
    assert [item.name for item in read_dataset(folder).items] == ["d"]


@pytest.mark.parametrize("where", ["absent", "images/a.tif"])
def test_what_is_no_folder_is_refused(folder, where):
    with pytest.raises(ReadError, match=r"meta\.json"):
        read_dataset(folder / where)
    assert not (folder / "absent").exists()


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
    ],
    ids=json.dumps,
)
def test_a_broken_meta_is_refused(folder, meta):
    write_meta(folder, meta)
    with pytest.raises(ReadError, match=r"meta\.json"):
        read_dataset(folder)


def test_a_meta_that_is_no_text_is_refused(folder):
    (folder / "meta.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(ReadError, match=r"readable meta\.json"):
        read_dataset(folder)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "sub/a", "..", ".", "", "a/"])
def test_names_that_leave_the_folder_are_refused(folder, name):
    outside = folder.parent
    write_pair(outside, "x", np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8))
    write_meta(folder, {"split": {"train": ["a", name]}})
    with pytest.raises(ReadError, match="plain file names"):
        read_dataset(folder)


@pytest.mark.parametrize("meta", [{"split": {}}, {"split": {"train": []}}, {"split": {"train": ["absent"]}}])
def test_a_dataset_without_labelled_images_is_refused(folder, meta):
    write_meta(folder, meta)
    with pytest.raises(ReadError, match="found 3 images and none of them listed"):
        read_dataset(folder)


@pytest.mark.parametrize("shape", [(24, 20), (20, 25), (2, 20, 24), (20, 24, 3)])
def test_labels_of_another_shape_are_refused(folder, shape):
    tifffile.imwrite(folder / "masks" / "a.tif", np.zeros(shape, np.uint8))
    with pytest.raises(ReadError, match=r"image's shape \(20, 24\)"):
        read_dataset(folder).items[0].read()


@pytest.mark.parametrize("part", ["images", "masks"])
@pytest.mark.parametrize("damage", ["gone", "text", "cut"])
def test_a_damaged_file_is_named(folder, part, damage):
    item = read_dataset(folder).items[0]
    path = folder / part / "a.tif"
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(b"no image" if damage == "text" else content[:100])
    with pytest.raises(ReadError, match=r"a\.tif"):
        item.read()


def test_regions_and_completeness_stand_with_the_item(folder):
    box = [[0, 2], [10, 20]]
    write_meta(folder, {"split": {"train": ["a"]}, "items": {"a": {"regions": [box], "complete": False}}})
    (item,) = read_dataset(folder).items
    assert item.regions == (((0, 2), (10, 20)),)
    _, truth = item.annotated()
    assert isinstance(truth, Annotation)
    assert (truth.is_complete, truth.labels is not None) == (False, True)


@pytest.mark.parametrize(
    "regions",
    [3, [[1, 2]], [[[0, 0], [0, 5]]], [[[-1, 0], [5, 5]]], [[["a", 0], [5, 5]]], [[[0, 0], [None, 5]]]],
)
def test_regions_that_are_no_boxes_are_refused(folder, regions):
    write_meta(folder, {"split": {"train": ["a"]}, "items": {"a": {"regions": regions}}})
    with pytest.raises(ReadError, match="Regions must be boxes"):
        read_dataset(folder)
