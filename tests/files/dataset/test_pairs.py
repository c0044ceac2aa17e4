"""Training folders without meta.json: every layout is found, and what does not fit is refused."""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image as Picture

from cellwright.core.data import Annotation
from cellwright.core.errors import ReadError
from cellwright.core.tasks import run
from cellwright.files.dataset.folder import read_dataset
from cellwright.files.formats.image_annotation import ImageAnnotation
from cellwright.files.formats.registry import format_of
from cellwright.models.families.flow import SPECS
from cellwright.training.data.inspect import inspect


def squares(shape=(40, 50), n=3):
    labels = np.zeros(shape, np.int32)
    for index in range(n):
        labels[4 : 4 + 8, 4 + 12 * index : 12 + 12 * index] = index + 1
    return labels


def write_images(folder, names, shape=(40, 50)):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    for name in names:
        tifffile.imwrite(folder / f"{name}.tif", rng.integers(0, 255, shape, np.uint8))


def write_masks(folder, names, ending="", labels=None):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        values = squares() if labels is None else labels
        tifffile.imwrite(folder / f"{name}{ending}.tif", values.astype(np.uint16))


def labels_of(dataset):
    return [item.annotated()[1] for item in dataset.items]


@pytest.mark.parametrize("ending", ["_mask", "_masks", "_label", "_labels", "_seg", "_cp_masks", "_MASK"])
def test_masks_beside_their_images(tmp_path, ending):
    write_images(tmp_path, "ab")
    write_masks(tmp_path, "ab", ending)
    dataset = read_dataset(tmp_path)
    assert [(item.name, item.split, item.has_masks) for item in dataset.items] == [
        ("a", "train", True),
        ("b", "train", True),
    ]
    for labels in labels_of(dataset):
        np.testing.assert_array_equal(labels, squares())
    assert f"a.tif with a{ending}.tif" in dataset.notice


@pytest.mark.parametrize("masks", ["masks", "labels"])
@pytest.mark.parametrize("ending", ["", "_mask"])
def test_folders_of_images_and_masks(tmp_path, masks, ending):
    write_images(tmp_path / "images", "ab")
    write_masks(tmp_path / masks, "ab", ending)
    for labels in labels_of(read_dataset(tmp_path)):
        np.testing.assert_array_equal(labels, squares())


@pytest.mark.parametrize(
    ("image", "mask"),
    [("img_", "mask_"), ("image_", "label_"), ("Raw-", "Labels-"), ("", "seg_"), ("im", "mask")],
)
@pytest.mark.parametrize("folders", [("", ""), ("images", "masks")])
def test_names_that_begin_with_what_they_are(tmp_path, image, mask, folders):
    write_images(tmp_path / folders[0], [f"{image}1", f"{image}20"])
    write_masks(tmp_path / folders[1], [f"{mask}1"], labels=squares(n=2))
    write_masks(tmp_path / folders[1], [f"{mask}20"], labels=squares(n=3))
    dataset = read_dataset(tmp_path)
    assert [item.name for item in dataset.items] == [f"{image}1", f"{image}20"]
    assert [labels.max() for labels in labels_of(dataset)] == [2, 3]


def test_images_of_one_name_are_refused_however_masks_are_named(tmp_path):
    for beginning, name in (("", "a_mask"), ("img_", "mask_a")):
        folder = tmp_path / name
        write_images(folder, [f"{beginning}a"])
        Picture.fromarray(np.zeros((40, 50), np.uint8)).save(folder / f"{beginning}a.png")
        write_masks(folder, [name])
        with pytest.raises(ReadError, match=r"differ in name|go on alike"):
            read_dataset(folder)


def test_names_that_begin_alike_are_read_where_they_leave_no_doubt(tmp_path):
    write_images(tmp_path, ["label_free_1", "mask_less_2"])
    write_masks(tmp_path, ["label_free_1", "mask_less_2"], "_mask")
    assert [item.name for item in read_dataset(tmp_path).items] == ["label_free_1", "mask_less_2"]
    for name in (tmp_path / "a", tmp_path / "b", tmp_path / "c"):
        write_images(name, ["img_1", "img_2"])
        write_masks(name, ["mask_1"])
    with pytest.raises(ReadError, match=r"img_2\.tif are without a mask"):
        read_dataset(tmp_path / "a")
    write_masks(tmp_path / "b", ["mask_2", "mask_3"])
    with pytest.raises(ReadError, match=r"mask_3\.tif have none"):
        read_dataset(tmp_path / "b")
    write_masks(tmp_path / "c", ["mask_2", "label_2"])
    with pytest.raises(ReadError, match=r"label_2\.tif and mask_2\.tif go on alike"):
        read_dataset(tmp_path / "c")


def test_it_is_told_how_cells_were_read(tmp_path):
    """Of masks of one value, whose touching cells are one, and of masks with grey edges, which are none."""
    write_images(tmp_path, "abcde")
    write_masks(tmp_path, "abc", "_mask", squares() > 0)
    grey = (squares() > 0) * 255 - np.arange(40)[:, np.newaxis] % 8 * 20
    write_masks(tmp_path, "d", "_mask", np.where(squares() > 0, grey, 0))
    write_masks(tmp_path, "e", "_mask", squares())
    dataset = read_dataset(tmp_path)
    assert labels_of(dataset)[0].max() == 3
    told = {item.name: item.explained()[2] for item in dataset.items}
    assert told["a"][0].startswith("a_mask.tif is a mask of one value: each piece of it is taken as a cell")
    assert "each number is taken as one cell" in told["d"][0]
    assert told["e"] == ()
    warnings = [one.text for one in run(inspect(dataset, SPECS["small"])).warnings if one.code == "read"]
    assert warnings == [f"{told['a'][0]} The same holds for 2 more images.", *told["d"]]


def test_folders_may_have_capitals(tmp_path):
    write_images(tmp_path / "Train" / "Images", "ab")
    write_masks(tmp_path / "Train" / "Masks", "ab")
    write_images(tmp_path / "VAL" / "images", "c")
    write_masks(tmp_path / "VAL" / "labels", "c")
    dataset = read_dataset(tmp_path)
    assert [(item.name, item.split) for item in dataset.items] == [
        ("a", "train"),
        ("b", "train"),
        ("c", "val"),
    ]
    assert "3 images found: Train/Images/a.tif with Train/Masks/a.tif" in dataset.notice


def test_images_with_counts_alone_are_refused_with_the_command_that_takes_them(tmp_path):
    write_images(tmp_path, "a")
    with pytest.raises(ReadError, match=r"Export a dataset with masks\.$"):
        read_dataset(tmp_path)
    (tmp_path / "counts.csv").write_text("image,count\na.tif,3\n")
    with pytest.raises(ReadError, match=r"cellwright train TABLE\.csv --from density"):
        read_dataset(tmp_path)


def test_masks_that_jpeg_has_changed_are_refused(tmp_path):
    write_images(tmp_path, "a")
    Picture.fromarray((255 * (squares() > 0)).astype(np.uint8)).save(tmp_path / "a_mask.jpg")
    (item,) = read_dataset(tmp_path).items
    with pytest.raises(ReadError, match=r"a_mask\.jpg is a JPEG, which changes values"):
        item.annotated()


def test_one_cell_alone_is_no_mask(tmp_path):
    write_images(tmp_path, "a")
    write_masks(tmp_path, "a", "_mask", squares(n=1))
    (item,) = read_dataset(tmp_path).items
    assert item.explained()[2] == ()


def test_files_of_cellpose(tmp_path):
    write_images(tmp_path, "ab")
    for name in "ab":
        format_of("cellpose").write(
            tmp_path / f"{name}_seg.npy", [ImageAnnotation(name, (40, 50), "YX", squares())]
        )
    dataset = read_dataset(tmp_path)
    assert [item.name for item in dataset.items] == ["a", "b"]
    for labels in labels_of(dataset):
        np.testing.assert_array_equal(labels, squares())


@pytest.mark.parametrize("inner", ["images", ""])
def test_coco_with_outlines(tmp_path, inner):
    write_images(tmp_path / inner, "ab")
    cells = [ImageAnnotation(name, (40, 50), "YX", squares()) for name in "abcd"]
    format_of("coco-rle").write(tmp_path / "cells.json", cells)
    dataset = read_dataset(tmp_path)
    assert dataset.notice.endswith("without an image: c, d.")
    assert [(item.name, item.has_masks) for item in dataset.items] == [("a", True), ("b", True)]
    for labels in labels_of(dataset):
        np.testing.assert_array_equal(labels, squares())


def test_coco_with_boxes_alone_is_not_taken_for_complete(tmp_path):
    write_images(tmp_path, "a")
    content = {
        "images": [{"id": 1, "file_name": "a.tif", "height": 40, "width": 50}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 6, 10, 8]}],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    (item,) = read_dataset(tmp_path).items
    _, truth = item.annotated()
    assert isinstance(truth, Annotation)
    assert (item.has_masks, truth.is_complete, truth.boxes.tolist()) == (False, False, [[[6, 4], [14, 14]]])
    with pytest.raises(ReadError, match="boxes or points"):
        item.read()


def test_a_mask_of_one_value_is_taken_apart(tmp_path):
    write_images(tmp_path, "a")
    write_masks(tmp_path, "a", "_mask", 255 * (squares() > 0))
    (labels,) = labels_of(read_dataset(tmp_path))
    np.testing.assert_array_equal(labels, squares())


def test_one_image_of_five_validates_and_always_the_same(tmp_path):
    names = [f"field{index:02d}" for index in range(11)]
    write_images(tmp_path, names)
    write_masks(tmp_path, names, "_mask")
    first, second = read_dataset(tmp_path), read_dataset(tmp_path)
    assert first == second
    held = [item.name for item in first.select("val").items]
    assert (len(held), len(first.select("train"))) == (2, 9)
    assert first.notice.endswith(f"One of 5 validates, drawn with seed 0: {held[0]}, {held[1]}.")
    findings = run(inspect(first, SPECS["small"]))
    assert findings.n_images == (9, 2)
    assert findings.summary().endswith(first.notice)


def test_folders_tell_the_split_where_there_are_such(tmp_path):
    for split, names in (("train", "ab"), ("test", "c")):
        write_images(tmp_path / split / "images", names)
        write_masks(tmp_path / split / "masks", names)
    dataset = read_dataset(tmp_path)
    assert [(item.name, item.split) for item in dataset.items] == [
        ("a", "train"),
        ("b", "train"),
        ("c", "test"),
    ]


def test_volumes_are_read_as_such(tmp_path):
    write_images(tmp_path, "a", (5, 40, 50))
    write_masks(tmp_path, "a", "_mask", np.stack([squares()] * 5))
    (item,) = read_dataset(tmp_path).items
    image, labels = item.read()
    assert (image.shape, labels.shape, labels.max()) == ((5, 40, 50), (5, 40, 50), 3)


def test_an_image_of_another_size_than_its_mask_is_refused(tmp_path):
    write_images(tmp_path, "a")
    write_masks(tmp_path, "a", "_mask", squares((40, 49)))
    (item,) = read_dataset(tmp_path).items
    with pytest.raises(ReadError, match=r"must be \(40, 50\).*got \(40, 49\)"):
        item.annotated()


def test_an_empty_mask_is_refused(tmp_path):
    write_images(tmp_path, "a")
    write_masks(tmp_path, "a", "_mask", 0 * squares())
    (item,) = read_dataset(tmp_path).items
    with pytest.raises(ReadError, match=r"a_mask.tif holds no cell of 'a'"):
        item.annotated()


def test_images_without_masks_and_masks_without_images_are_named(tmp_path):
    write_images(tmp_path, "abc")
    write_masks(tmp_path, "ab", "_mask")
    with pytest.raises(ReadError, match=r"c\.tif are without a mask"):
        read_dataset(tmp_path)
    (tmp_path / "c.tif").unlink()
    write_masks(tmp_path, "d", "_mask")
    with pytest.raises(ReadError, match=r"d_mask\.tif have none"):
        read_dataset(tmp_path)


def test_an_image_that_a_coco_file_does_not_know_is_named(tmp_path):
    write_images(tmp_path, "ab")
    format_of("coco").write(tmp_path / "cells.json", [ImageAnnotation("a", (40, 50), "YX", squares())])
    with pytest.raises(ReadError, match=r"b\.tif are without cells\.json"):
        read_dataset(tmp_path)
    (tmp_path / "b.tif").unlink()
    format_of("coco").write(tmp_path / "more.json", [ImageAnnotation("a", (40, 50), "YX", squares())])
    with pytest.raises(ReadError, match="Expected one COCO file"):
        read_dataset(tmp_path)


def test_two_images_of_one_name_are_refused(tmp_path):
    for split in ("train", "val"):
        write_images(tmp_path / split, "a")
        write_masks(tmp_path / split, "a", "_mask")
    with pytest.raises(ReadError, match="a occur twice"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("masks", ["", "masks"])
def test_an_image_with_two_files_of_cells_is_refused(tmp_path, masks):
    write_images(tmp_path / ("images" if masks else ""), "ab")
    for ending in ("_mask", "_labels"):
        write_masks(tmp_path / masks, "ab", ending)
    with pytest.raises(ReadError, match=r"a has a_labels\.tif and a_mask\.tif"):
        read_dataset(tmp_path)


def test_of_the_two_files_of_cellpose_the_corrected_one_is_read(tmp_path):
    write_images(tmp_path, "a")
    write_masks(tmp_path, "a", "_cp_masks", squares(n=2))
    format_of("cellpose").write(tmp_path / "a_seg.npy", [ImageAnnotation("a", (40, 50), "YX", squares())])
    (labels,) = labels_of(read_dataset(tmp_path))
    np.testing.assert_array_equal(labels, squares())


def test_a_folder_without_masks_is_no_dataset(tmp_path):
    write_images(tmp_path, "ab")
    with pytest.raises(ReadError, match=r"a\.tif with a_mask\.tif"):
        read_dataset(tmp_path)
    with pytest.raises(ReadError, match="there is none"):
        read_dataset(tmp_path / "elsewhere")


@pytest.mark.parametrize("folder", ["", "images"])
def test_files_that_macos_puts_beside_others_are_no_images(tmp_path, folder):
    """On disks that are not its own: ``._a.tif`` beside each ``a.tif``."""
    write_images(tmp_path / folder, "ab")
    write_masks(tmp_path / folder.replace("images", "masks"), "ab", "_mask")
    for path in list(tmp_path.rglob("*.tif")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")
    (tmp_path / "._a.json").write_bytes(b"\0\5\26\7")
    assert [item.name for item in read_dataset(tmp_path).items] == ["a", "b"]
