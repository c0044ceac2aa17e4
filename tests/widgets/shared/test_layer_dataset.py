from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from cellwright.core.data import Annotation
from cellwright.core.errors import CellwrightError, ReadError, WrongLayerError
from cellwright.core.tasks import run
from cellwright.files.dataset.folder import read_dataset
from cellwright.widgets.shared.cells.regions import WINDOW
from cellwright.widgets.shared.cells.snapshot import image_layer_under
from cellwright.widgets.shared.edited_layers import METADATA
from cellwright.widgets.shared.layer_dataset import dataset_of, pairs, write_task
from cellwright.widgets.shared.layer_io import add_overlay


def test_labels_find_the_image_they_belong_to(viewer: ViewerModel) -> None:
    first = viewer.add_image(np.zeros((40, 50)), name="a")
    second = viewer.add_image(np.zeros((40, 50)), name="b")
    tall = viewer.add_image(np.zeros((60, 50, 3), np.uint8), name="colours", rgb=True)
    viewer.add_labels(np.zeros((40, 50), int), name="b labels")
    viewer.add_labels(np.zeros((60, 50), int), name="drawn")
    own = {"cellwright": {"source": str(first.unique_id), "is_preview": False}}
    viewer.add_labels(np.zeros((40, 50), int), name="b again", metadata=own)
    found = pairs(viewer.layers)
    assert [pair.image for pair in found] == [first, tall, second]
    assert [pair.is_as_counted for pair in found] == [True, False, False]


def test_labels_that_tell_no_image_belong_to_that_of_their_name_or_the_next_below(
    viewer: ViewerModel,
) -> None:
    image, cells = np.zeros((40, 50)), np.zeros((40, 50), int)
    lowest = viewer.add_labels(cells, name="cells")
    images = [viewer.add_image(image, name=name) for name in ("c1", "c10")]
    wanted = {"cells": images[0], "truth_c1": images[0], "c10_mask": images[1], "drawn": images[1]}
    above = viewer.add_image(image, name="on top of all")
    layers = [lowest, *(viewer.add_labels(cells, name=name) for name in list(wanted)[1:])]
    viewer.layers.move(viewer.layers.index(above), len(viewer.layers))
    found = {pair.annotation.name: pair.image for pair in pairs(viewer.layers)}
    assert found == wanted
    assert {one.name: image_layer_under(viewer, one) for one in layers} == wanted


def test_a_preview_or_a_density_is_no_annotation(viewer: ViewerModel) -> None:
    image = viewer.add_image(np.zeros((40, 50)), name="a")
    own = {"cellwright": {"source": str(image.unique_id), "is_preview": True}}
    viewer.add_labels(np.zeros((40, 50), int), metadata=own)
    viewer.add_image(np.zeros((40, 50)), name="a density", metadata={"cellwright": {}})
    assert pairs(viewer.layers) == []


@pytest.mark.parametrize("is_complete", [True, False])
def test_layers_are_written_and_read_as_they_are(
    viewer: ViewerModel, blobs: Any, tmp_path: Path, *, is_complete: bool
) -> None:
    viewer.add_image(blobs.image, name="cells: 1/2")
    drawn = blobs.labels if is_complete else blobs.labels.astype(np.uint64) * 2**32
    viewer.add_labels(drawn, name="drawn")
    dataset = dataset_of(pairs(viewer.layers), viewer.layers, is_complete=is_complete)
    item = read_dataset(run(write_task(dataset, tmp_path))).items[0]
    image, labels = item.read()
    np.testing.assert_array_equal(labels, blobs.labels)
    np.testing.assert_array_equal(image.data, blobs.image)
    assert (item.split, item.is_complete, item.regions) == ("train", is_complete, ())


def test_points_of_a_moved_layer_land_on_the_pixels(viewer: ViewerModel, blobs: Any, tmp_path: Path) -> None:
    viewer.add_image(blobs.image, name="a", scale=(0.5, 0.5), translate=(7, 9))
    viewer.add_points(blobs.points * 0.5 + (7, 9), name="centres")
    dataset = dataset_of(pairs(viewer.layers), viewer.layers, is_complete=True)
    _, truth = read_dataset(run(write_task(dataset, tmp_path))).items[0].annotated()
    assert isinstance(truth, Annotation)
    np.testing.assert_allclose(truth.points, blobs.points, atol=0.01)
    assert truth.is_complete


def test_rectangles_of_complete_regions_are_kept(viewer: ViewerModel, blobs: Any, tmp_path: Path) -> None:
    viewer.add_image(blobs.image, name="a", scale=(2, 2))
    viewer.add_labels(blobs.labels, name="drawn", scale=(2, 2))
    corners = np.array([[9.5, 19.5], [9.5, 59.5], [49.5, 59.5], [49.5, 19.5]])
    viewer.add_shapes([corners], name="complete regions", scale=(2, 2))
    dataset = dataset_of(pairs(viewer.layers), viewer.layers, is_complete=False)
    item = read_dataset(run(write_task(dataset, tmp_path))).items[0]
    assert item.regions == (((10, 20), (50, 60)),)
    assert item.is_complete


def test_regions_of_another_image_say_nothing(viewer: ViewerModel, blobs: Any) -> None:
    for name in ("a", "b"):
        image = viewer.add_image(blobs.image, name=name)
        own = {"cellwright": {"annotation": "labels", "source": str(image.unique_id)}}
        drawn = viewer.add_labels(blobs.labels.copy(), name=f"{name} annotation", metadata=own)
    regions = add_overlay(viewer, drawn, "complete regions", {})
    regions.add_rectangles([[[9.5, 19.5], [9.5, 59.5], [49.5, 59.5], [49.5, 19.5]]])
    second, first = dataset_of(pairs(viewer.layers), viewer.layers, is_complete=False).items
    assert (first.regions, first.is_complete) == ((), False)
    assert (second.regions, second.is_complete) == ((((10, 20), (50, 60)),), True)


def test_labels_that_do_not_fit_are_told(viewer: ViewerModel) -> None:
    viewer.add_image(np.zeros((40, 50)), name="a")
    viewer.add_labels(np.zeros((30, 50), int), name="other")
    dataset = dataset_of(pairs(viewer.layers), viewer.layers, is_complete=True)
    with pytest.raises(ReadError, match=r"shape \(40, 50\); got \(30, 50\)"):
        dataset.items[0].annotated()


def test_labels_of_a_counted_part_that_were_replaced_are_told(viewer: ViewerModel) -> None:
    viewer.add_image(np.zeros((40, 50)), name="image")
    metadata = {METADATA: {"source": str(viewer.layers[0].unique_id), WINDOW: ((10, 30), (0, 20))}}
    layer = viewer.add_labels(np.ones((20, 20), int), name="image labels", metadata=metadata)
    (item,) = dataset_of(pairs(viewer.layers), viewer.layers, is_complete=True).items
    assert np.asarray(item.annotated()[1]).sum() == 400
    layer.data = np.ones((10, 20), int)
    (item,) = dataset_of(pairs(viewer.layers), viewer.layers, is_complete=True).items
    with pytest.raises(ReadError, match="image's shape"):
        item.annotated()


def test_labels_of_as_many_pixels_in_other_rows_are_told(viewer: ViewerModel) -> None:
    viewer.add_image(np.zeros((40, 50)), name="image")
    viewer.add_labels(np.ones((50, 40), int), name="turned")
    (item,) = dataset_of(pairs(viewer.layers), viewer.layers, is_complete=True).items
    with pytest.raises(ReadError, match=r"\(40, 50\); got \(50, 40\)"):
        item.annotated()


def test_a_number_is_a_cell_in_each_frame_of_a_film(viewer: ViewerModel) -> None:
    labels = np.zeros((2, 30, 40), int)
    labels[:, 5:15, 5:15] = 4
    viewer.add_image(np.zeros(labels.shape), name="film", axis_labels=("t", "y", "x"))
    viewer.add_labels(labels, name="tracked")
    _, truth = dataset_of(pairs(viewer.layers), viewer.layers, is_complete=True).items[0].annotated()
    assert isinstance(truth, np.ndarray)
    assert truth.max(axis=(1, 2)).tolist() == [1, 2]


def test_cells_of_numbers_beyond_32_bits_keep_their_classes(viewer: ViewerModel) -> None:
    labels = np.zeros((30, 40), np.int64)
    labels[5:9, 5:9], labels[5:9, 20:24] = 2, 2**31
    viewer.add_image(np.zeros(labels.shape), name="image")
    viewer.add_labels(labels, features={"index": [2, 2**31], "class": ["red", "blue"]})
    (item,) = dataset_of(pairs(viewer.layers), viewer.layers, is_complete=True).items
    _, truth = item.read()
    assert [item.classes[number] for number in item.classes_of(truth)] == ["red", "blue"]


@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("counted", [False, True])
def test_what_is_learned_from_is_the_channel_of_the_cells(
    viewer: ViewerModel, lead: tuple[int, ...], counted: bool
) -> None:
    data = np.zeros((*lead, 2, 30, 40))
    data[..., 1, :, :] = 7
    image = viewer.add_image(data, name="two", axis_labels=("t", "c", "y", "x")[-data.ndim :])
    own: dict[str, Any] = {"source": str(image.unique_id), "is_preview": False}
    own |= {"settings": {"engine": {"channel": 1}}} if counted else {"annotation": "labels", "channel": 1}
    labels = np.zeros((*lead, *(1,) * len(lead), 30, 40), int)
    labels[..., 5:15, 5:15] = 1
    viewer.add_labels(labels, name="cells", metadata={"cellwright": own})
    (pair,) = pairs(viewer.layers)
    for own_channel in (True, False):
        (item,) = dataset_of([pair], viewer.layers, is_complete=True, own_channel=own_channel).items
        picture, truth = item.annotated()
        assert picture.label_shape == np.shape(truth) == (*lead, 30, 40)
        assert ("C" in picture.axes) != own_channel
        if own_channel:
            assert np.min(picture.data) == np.max(picture.data) == 7


def test_nothing_chosen_is_told() -> None:
    with pytest.raises(WrongLayerError, match="none is chosen"):
        dataset_of([], [], is_complete=True)


def test_two_images_of_one_name_are_both_kept(viewer: ViewerModel, blobs: Any, tmp_path: Path) -> None:
    for _ in range(2):
        image = viewer.add_image(blobs.image, name="a")
        image.name = "a"
        own = {"source": str(image.unique_id), "edited": True}
        viewer.add_labels(blobs.labels, name="a labels", metadata={"cellwright": own})
    dataset = dataset_of(pairs(viewer.layers), viewer.layers, is_complete=True)
    assert len({item.name for item in read_dataset(run(write_task(dataset, tmp_path))).items}) == 2


def test_a_folder_that_cannot_be_written_is_told(viewer: ViewerModel, blobs: Any, tmp_path: Path) -> None:
    viewer.add_image(blobs.image)
    viewer.add_labels(blobs.labels)
    (tmp_path / "file").write_text("")
    dataset = dataset_of(pairs(viewer.layers), viewer.layers, is_complete=True)
    with pytest.raises(CellwrightError):
        run(write_task(dataset, tmp_path / "file"))
