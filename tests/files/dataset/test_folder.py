import numpy as np
import pytest
import tifffile

from cellwright.core.data import Annotation
from cellwright.core.errors import ReadError
from cellwright.files.dataset.folder import read_dataset


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


@pytest.mark.parametrize("change", [lambda labels: labels + 0.5, lambda labels: labels.astype(np.int16) - 1])
def test_masks_that_are_no_labels_are_refused(folder, change):
    path = folder / "masks" / "a.tif"
    tifffile.imwrite(path, change(tifffile.imread(path)))
    with pytest.raises(ReadError, match="must be labels"):
        read_dataset(folder).items[0].read()


def test_masks_may_be_whole_numbers_of_any_type_and_size(folder):
    path = folder / "masks" / "a.tif"
    labels = tifffile.imread(path)
    for kind in (np.float32, np.float64):
        tifffile.imwrite(path, labels.astype(kind) * 2**15)
        assert np.unique(read_dataset(folder).items[0].read()[1]).tolist() == [0, 1, 2]


def test_the_pixel_size_stands_in_the_meta_where_no_file_tells_it(folder, write_meta, listing):
    items = {"a": {"pixel_size_um": [2.0, 1.0]}, "b.c": {"pixel_size_um": [3.0, 1.0, 1.0]}}
    write_meta(folder, {**listing, "items": items, "pixel_size_um": [0.5, 0.25]})
    sizes = [item.image().pixel_size_um for item in read_dataset(folder).items]
    assert sizes == [(2.0, 1.0), (), (0.5, 0.25)]  # that of a volume says nothing of an image


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


def test_stacks_and_their_labels_are_read(tmp_path, rng, write_meta):
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


@pytest.mark.parametrize(("axes", "expected"), [("TYX", [[1, 2], [3]]), ("ZYX", [[1, 2], [2]])])
def test_a_number_is_a_cell_in_each_frame_of_a_film_and_one_cell_in_a_volume(
    tmp_path, rng, write_meta, axes, expected
):
    labels = np.zeros((2, 20, 24), np.uint16)
    labels[0, 1:4, 1:4], labels[:, 8:12, 8:12] = 3, 7  # 7 is tracked from frame to frame
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for folder, data in (("images", rng.integers(0, 255, labels.shape).astype(np.uint8)), ("masks", labels)):
        tifffile.imwrite(tmp_path / folder / "s.tif", data, imagej=True, metadata={"axes": axes})
    write_meta(tmp_path, {"split": {"train": ["s"]}})
    _, found = read_dataset(tmp_path).items[0].annotated()
    assert [np.unique(frame[frame > 0]).tolist() for frame in found] == expected


def test_what_has_no_image_or_no_labels_is_left_out(folder):
    (folder / "masks" / "a.tif").unlink()
    (folder / "images" / "b.c.tif").unlink()
    dataset = read_dataset(folder)
    assert [item.name for item in dataset.items] == ["d"]
    assert dataset.notice.endswith("without an image or without its cells: a, b.c.")


def test_two_images_of_one_name_are_refused(folder):
    (folder / "images" / "a.png").write_bytes(b"")
    with pytest.raises(ReadError, match="a occur twice"):
        read_dataset(folder)


def test_what_is_not_listed_is_left_out(folder, write_meta):
    write_meta(folder, {"split": {"train": ["d", "absent"]}})
    assert [item.name for item in read_dataset(folder).items] == ["d"]


@pytest.mark.parametrize("where", ["absent", "images/a.tif"])
def test_what_is_no_folder_is_refused(folder, where):
    with pytest.raises(ReadError, match=r"meta\.json"):
        read_dataset(folder / where)
    assert not (folder / "absent").exists()


@pytest.mark.parametrize("meta", [{"split": {}}, {"split": {"train": []}}, {"split": {"train": ["absent"]}}])
def test_a_dataset_without_labelled_images_is_refused(folder, meta, write_meta):
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


def test_regions_and_completeness_stand_with_the_item(folder, write_meta):
    box = [[0, 2], [10, 20]]
    write_meta(folder, {"split": {"train": ["a"]}, "items": {"a": {"regions": [box], "complete": False}}})
    (item,) = read_dataset(folder).items
    assert item.regions == (((0, 2), (10, 20)),)
    _, truth = item.annotated()
    assert isinstance(truth, Annotation)
    assert (truth.is_complete, truth.labels is not None) == (False, True)
