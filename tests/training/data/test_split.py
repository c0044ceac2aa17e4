from dataclasses import replace

import numpy as np
import pytest

from cellwright.core.data import Annotation, Cells, Provenance, Result
from cellwright.core.errors import ReadError
from cellwright.files.dataset.folder import Dataset, read_dataset
from cellwright.ops.labels import annotate, label_properties
from cellwright.training.data.split import STRIP, crop_annotation, part_of, split_dataset
from cellwright.training.evaluation.evaluate import in_annotated_regions

NOBODY = Provenance("", "", "", {}, "", (), "", (), "cpu", 0.0)


def names(dataset):
    return [item.name for item in dataset.items]


def test_a_validation_split_is_left_as_it_is(write_dataset):
    parts = split_dataset(read_dataset(write_dataset({"train": ["a"], "val": ["b", "c"]})))
    assert (names(parts.train), names(parts.validation), parts.notice) == (["a"], ["b", "c"], "")


def test_at_most_so_many_images_validate(write_dataset):
    dataset = read_dataset(write_dataset({"train": ["a"], "val": list("bcdefgh")}))
    assert names(split_dataset(dataset, most=3).validation) == ["b", "e", "h"]


@pytest.mark.parametrize(("n", "n_held"), [(4, 1), (6, 1), (8, 2), (20, 5)])
def test_of_some_images_every_fourth_validates(write_dataset, n, n_held):
    dataset = read_dataset(write_dataset({"train": [f"i{index:02}" for index in range(n)]}))
    train, validation, notice = split_dataset(dataset)
    assert (len(train), len(validation)) == (n - n_held, n_held)
    assert not set(names(train)) & set(names(validation))
    them = ("was", "it") if n_held == 1 else ("were", "them")
    assert f"{n_held} of {n} images {them[0]} set aside: the model is checked with {them[1]}" in notice


@pytest.mark.parametrize("n", [1, 2, 3])
def test_of_few_images_a_strip_of_each_validates(write_dataset, n):
    dataset = read_dataset(write_dataset({"train": list("abc")[:n]}))
    train, validation, notice = split_dataset(dataset)
    images = "1 annotated image" if n == 1 else f"{n} annotated images"
    assert notice.startswith(f"With {images} none can be spared to check the model with: 30% of the area")
    for teach, judge, whole in zip(train.items, validation.items, dataset.items, strict=True):
        image, labels = whole.read()
        part, own = teach.annotated()
        (((top, left), (bottom, right)),) = judge.regions
        assert part.data.size + (bottom - top) * (right - left) == image.data.size
        assert (bottom - top) * (right - left) == pytest.approx(STRIP * image.data.size, rel=0.05)
        assert 0 < own.max() < labels.max()
        assert (judge.annotated()[0].data == image.data).all()  # it is small: all of it is seen


def test_no_cell_is_cut_where_a_model_is_judged(write_dataset, monkeypatch):
    monkeypatch.setattr("cellwright.training.data.split.AROUND_PX", 12)  # one diameter
    dataset = read_dataset(write_dataset({"train": ["a"]}))
    labels = dataset.items[0].read()[1]
    strip = split_dataset(dataset).validation.items[0]
    image, truth = strip.annotated()
    assert image.data.size < labels.size
    areas, points, boxes = label_properties(truth)
    cells = Cells(points, boxes, np.ones(len(areas), np.float32), areas, truth)
    found = Result(float(len(areas)), cells, NOBODY)
    judged, true = in_annotated_regions(strip, found, truth)
    whole = np.bincount(labels.ravel())[1:].tolist()
    assert 0 < len(judged.cells) < len(whole)
    assert set(judged.cells.areas) <= set(whole)
    assert true.max() == len(judged.cells)


def test_an_image_whose_cells_cannot_be_divided_does_both(write_dataset):
    dataset = read_dataset(write_dataset({"train": ["a"]}))
    item = replace(dataset.items[0], regions=(((0, 0), (20, 20)),))  # with one cell, in a corner
    train, validation, notice = split_dataset(replace(dataset, items=(item,)))
    assert names(train) == names(validation) == ["a"]
    assert "the scores say little" in notice


def test_a_model_is_judged_in_regions_alone(write_dataset):
    dataset = read_dataset(write_dataset({"train": ["a"], "val": ["b"]}))
    regions = (((0, 0), (30, 72)), ((34, 10), (64, 50)))
    items = (dataset.items[0], replace(dataset.items[1], regions=regions))
    validation = split_dataset(replace(dataset, items=items)).validation
    assert [item.regions for item in validation.items] == [(region,) for region in regions]
    assert [item.annotated()[1].shape for item in validation.items] == [(64, 72)] * 2  # with what is around


def test_the_regions_of_a_part_are_those_inside(write_dataset):
    item = read_dataset(write_dataset({"train": ["a"]})).items[0]
    regions = (((10, 10), (30, 30)), ((40, 40), (60, 60)))
    part = part_of(replace(item, regions=regions), ((20, 5), (40, 70)))
    assert part.regions == (((0, 5), (10, 25)),)


def test_cells_are_cut_with_their_annotation(draw_blobs):
    blobs = draw_blobs((64, 72), 12.0)
    whole = annotate(blobs.labels)
    window = ((10, 8), (50, 60))
    part = crop_annotation(whole, window)
    again = annotate(part.labels)
    assert part.shape == (40, 52)
    assert len(part.points) == len(again.points) == part.labels.max()
    assert (part.labels > 0).sum() == (blobs.labels[10:50, 8:60] > 0).sum()
    bare = crop_annotation(replace(whole, labels=None, is_complete=False), window)
    assert 0 < len(bare.points) == len(bare.boxes) <= len(whole.points)
    assert ((bare.boxes >= 0) & (bare.boxes <= (40, 52))).all()
    assert not bare.is_complete


def test_points_keep_their_classes():
    points = np.array([[5, 5], [20, 20], [30, 8]], np.float32)
    truth = Annotation((40, 40), points, classes=np.array([0, 1, 2], np.int16))
    part = crop_annotation(truth, ((15, 0), (40, 40)))
    assert part.points.tolist() == [[5, 20], [15, 8]]
    assert part.classes.tolist() == [1, 2]


def test_without_training_images_there_is_nothing_to_do(tmp_path):
    with pytest.raises(ReadError, match="split 'train'"):
        split_dataset(Dataset(tmp_path, ()))


def test_a_part_that_reaches_beyond_the_image_ends_with_it(write_dataset):
    item = read_dataset(write_dataset({"train": ["a"]})).items[0]
    beyond = ((30, 20), (100, 200))
    assert part_of(item, beyond).annotated()[1].shape == (34, 52)
    part = crop_annotation(annotate(item.read()[1]), beyond)
    assert part.shape == part.labels.shape == (34, 52)
