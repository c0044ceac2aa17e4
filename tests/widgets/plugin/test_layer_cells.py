import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils import DirectLabelColormap, progress
from napari.utils.colormaps.standardize_color import transform_color

from cellwright.core.data import Cells, Image
from cellwright.core.errors import CheckpointError, WrongLayerError
from cellwright.core.tasks import Progress, Task, run
from cellwright.inference import classify
from cellwright.inference.classify import Classes
from cellwright.ops.labels import label_properties
from cellwright.widgets.plugin import commands
from cellwright.widgets.plugin.commands import (
    choose_classifier,
    classes_task,
    classify_active_layer,
    image_of_cells,
    marked_cells,
    show_classes,
)
from cellwright.widgets.shared.coordinates import channels_of
from cellwright.widgets.shared.layer_factory import class_colour, class_order, note_classes, write_classes
from cellwright.widgets.shared.layer_io import place, prepare_layers, source_of

NAMES = ("RBC", "WBC")


def marked_in(viewer: ViewerModel, layer: Any) -> Any:
    return marked_cells(layer, image_of_cells(viewer, layer))


@pytest.fixture
def classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier that takes cells right of x = 30 for WBC."""

    def predict_classes(cells: Cells, image: Image, classifier: str, engine: Any) -> Task[Classes]:
        yield Progress("classes", 0, 1)
        is_right = cells.points[:, -1] > 30
        return Classes(NAMES, np.stack([~is_right * 0.9, is_right * 0.9], axis=1).astype(np.float32))

    monkeypatch.setattr(classify, "predict_classes", predict_classes)
    monkeypatch.setattr(commands, "classifier_choices", lambda: [("blood: RBC, WBC", "blood")])


def test_points_are_read_in_pixels_of_their_image(viewer: ViewerModel) -> None:
    viewer.add_image(np.zeros((2, 40, 60)), scale=(1, 0.5, 0.5), translate=(0, 10, 0))
    points = viewer.add_points([[12, 4], [20, 25]])
    cells, rows = marked_in(viewer, points)
    assert cells.points.tolist() == [[4, 8], [20, 50]]
    assert rows.tolist() == [0, 1]
    assert not cells.areas.any()
    assert not np.diff(cells.boxes, axis=1).any()


def test_labels_with_gaps_are_read_with_their_boxes(viewer: ViewerModel) -> None:
    labels = np.zeros((40, 60), np.int32)
    labels[4:8, 10:20] = 9
    labels[20:30, 40:42] = 3
    viewer.add_image(np.zeros((40, 60)))
    cells, rows = marked_in(viewer, viewer.add_labels(labels))
    assert rows.tolist() == [3, 9]
    assert cells.points.tolist() == [[24.5, 40.5], [5.5, 14.5]]
    assert np.diff(cells.boxes, axis=1)[:, 0].tolist() == [[10, 2], [4, 10]]
    assert cells.areas.tolist() == [20, 40]


def test_cells_are_looked_at_in_the_image_of_their_size(viewer: ViewerModel) -> None:
    own = viewer.add_image(np.full((40, 60), 7))
    viewer.add_image(np.zeros((90, 90)))
    assert image_of_cells(viewer, viewer.add_labels(np.ones((40, 60), int))) is own


def test_classes_become_features_and_colours(viewer: ViewerModel, classifier: None) -> None:
    viewer.add_image(np.zeros((40, 60)))
    labels = np.zeros((40, 60), np.int32)
    labels[4:8, 10:20] = 9
    labels[20:30, 40:42] = 3
    layers = (viewer.add_labels(labels), viewer.add_points([[5, 10], [25, 41]], features={"mine": [1, 2]}))
    for layer in layers:
        rows, classes = run(classes_task(layer, image_of_cells(viewer, layer), "blood"))
        show_classes(layer, rows, classes)
        assert classes.counts == {"RBC": 1, "WBC": 1}
    given = layers[0].features["class"]
    assert (given[3], given[9]) == ("WBC", "RBC")
    expected = transform_color([class_colour(1), class_colour(0)])
    np.testing.assert_allclose(layers[0].colormap.map(np.array([3, 9])), expected, atol=1 / 255)
    assert list(layers[1].features["class"]) == ["RBC", "WBC"]
    assert list(layers[1].features["mine"]) == [1, 2]
    np.testing.assert_allclose(layers[1].face_color, expected[::-1], atol=1e-6)


def test_classes_keep_the_order_of_the_classifier_and_its_colours(
    viewer: ViewerModel, classifier: None, result_of: Any
) -> None:
    pixels, labels = np.zeros((40, 60)), np.zeros((40, 60), np.int32)
    labels[4:8, 10:20], labels[20:30, 40:42] = 1, 2
    image = viewer.add_image(pixels, name="blood")
    counted = place(viewer, prepare_layers(result_of(Image(pixels, "YX"), labels), source_of(image)))
    layer = counted["Labels"]
    write_classes(layer, {1: "mine"})  # type: ignore[arg-type]
    note_classes(layer, ["mine"])
    rows, classes = run(classes_task(layer, image, "blood"))  # type: ignore[arg-type]
    show_classes(layer, rows, classes)
    assert class_order(layer) == classes.names
    places = [classes.names.index(name) for name in layer.features["class"][1:]]
    assert len(set(places)) == 2
    expected = transform_color(["transparent", *map(class_colour, places)])
    found = layer.colormap.map(np.array([0, 1, 2]))  # type: ignore[union-attr]
    np.testing.assert_allclose(found, expected, atol=1 / 255)
    again = place(viewer, prepare_layers(result_of(Image(pixels, "YX"), labels), source_of(image)))["Labels"]
    assert again is layer
    assert "class" not in layer.features
    assert not isinstance(layer.colormap, DirectLabelColormap)  # type: ignore[union-attr]


def test_cells_are_classified_in_the_channel_they_were_counted_in(
    viewer: ViewerModel, blobs: Any, classifier: None, result_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    known = classify.predict_classes

    def predict_classes(cells: Cells, image: Image, classifier: str, engine: Any) -> Task[Classes]:
        asked.append((engine.channel, image.axes))
        return (yield from known(cells, image, classifier, engine))

    monkeypatch.setattr(classify, "predict_classes", predict_classes)
    layer = viewer.add_image(np.stack([blobs.image * 0, blobs.image]), axis_labels="cyx")
    source = source_of(layer, channels_of(layer)[1])
    result = result_of(source.image, blobs.labels)
    engine = {"channel": 1, "channels": ()}
    result = replace(result, provenance=result.provenance.noting(engine=engine))
    cells = place(viewer, prepare_layers(result, source))["Labels"]
    run(classes_task(cells, layer, "blood"))  # type: ignore[arg-type]
    run(classes_task(viewer.add_points([[5, 10]]), layer, "blood"))
    assert asked == [(1, "CYX"), (None, "CYX")]


def test_a_cell_of_several_frames_is_looked_at_in_each(viewer: ViewerModel, classifier: None) -> None:
    labels = np.zeros((3, 40, 60), np.int32)
    for frame, left in enumerate((2, 32, 45)):
        labels[frame, 4:8, left : left + 6] = 7
    labels[1, 20:30, 2:6] = 3
    image = viewer.add_image(np.zeros(labels.shape), axis_labels="tyx")
    layer = viewer.add_labels(labels)
    cells, rows = marked_cells(layer, image)
    assert rows.tolist() == [7, 3, 7, 7]
    assert np.diff(cells.boxes[:, :, -2:], axis=1)[:, 0].tolist() == [[4, 6], [10, 4], [4, 6], [4, 6]]
    rows, classes = run(classes_task(layer, image, "blood"))
    assert rows.tolist() == [3, 7]
    assert [classes.names[number] for number in classes.numbers] == ["RBC", "WBC"]
    show_classes(layer, rows, classes)
    assert list(layer.features["class"][[3, 7]]) == ["RBC", "WBC"]


def test_what_cannot_be_classified_is_told(viewer: ViewerModel, classifier: None) -> None:
    with pytest.raises(WrongLayerError, match="no layer"):
        image_of_cells(viewer, None)
    points = viewer.add_points([[5, 10]])
    with pytest.raises(WrongLayerError, match="Open the image"):
        image_of_cells(viewer, points)
    image = viewer.add_image(np.zeros((40, 60)), name="i1")
    with pytest.raises(WrongLayerError, match="got Image layer 'i1'"):
        image_of_cells(viewer, image)
    with pytest.raises(WrongLayerError, match="holds no cells"):
        marked_in(viewer, viewer.add_labels(np.zeros((40, 60), int)))
    rows, classes = run(classes_task(points, image, "blood"))
    points.add([[1, 1]])
    with pytest.raises(WrongLayerError, match="were added or removed"):
        show_classes(points, rows, classes)


def test_the_command_classifies_the_active_layer(
    viewer: ViewerModel, classifier: None, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(commands, "show_info", told.append)
    monkeypatch.setattr(commands, "show_error", told.append)
    assert classify_active_layer(viewer) is None
    viewer.add_image(np.zeros((40, 60)))
    points = viewer.add_points([[5, 10], [25, 41], [26, 45]])
    job = classify_active_layer(viewer)
    with qtbot.waitSignal(job.finished, timeout=20_000):
        pass
    assert list(points.features["class"]) == ["RBC", "WBC", "WBC"]
    assert told[1:] == ["RBC 1 · WBC 2"]


def test_cells_that_came_meanwhile_have_no_classes_of_others(
    viewer: ViewerModel, classifier: None, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(commands, "show_error", told.append)
    viewer.add_image(np.zeros((40, 60)))
    layer = viewer.add_labels(np.pad(np.ones((4, 4), int), ((9, 27), (9, 47))), name="cells")
    job = classify_active_layer(viewer)
    layer.data = np.flip(layer.data).copy()  # another count has the same numbers
    with qtbot.waitSignal(job.finished, timeout=20_000):
        pass
    assert "Classify them again" in told[0]
    assert "class" not in layer.features


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_labels_are_measured_beside_the_viewer_and_the_bar_cancels(
    viewer: ViewerModel, classifier: None, qtbot: Any, monkeypatch: pytest.MonkeyPatch, is_cancelled: bool
) -> None:
    threads, told = [], []

    def measured(labels: Any) -> Any:
        threads.append(threading.current_thread())
        return label_properties(labels)

    monkeypatch.setattr(commands, "label_properties", measured)
    monkeypatch.setattr(commands, "show_info", told.append)
    viewer.add_image(np.zeros((40, 60)))
    labels = viewer.add_labels(np.pad(np.ones((4, 4), int), 9), name="cells")
    job = classify_active_layer(viewer)
    (bar,) = [one for one in progress._all_instances if "Classifying" in one.desc]
    if is_cancelled:
        bar.cancel()
    with qtbot.waitSignal(job.finished, timeout=20_000):
        pass
    assert threading.main_thread() not in threads
    if is_cancelled:
        assert told == ["Classification was cancelled; nothing was changed."]
    else:
        assert len(threads) == 1
        assert labels.features["class"][1] == "RBC"


def test_without_a_classifier_the_folders_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "classifier_choices", list)
    with pytest.raises(CheckpointError, match="weights"):
        choose_classifier()


def test_of_several_classifiers_the_user_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "classifier_choices", lambda: [("a: x, y", "a"), ("b: x, y", "b")])
    for answer, name in ((("b: x, y", True), "b"), (("a: x, y", False), "")):
        monkeypatch.setattr(commands.QInputDialog, "getItem", lambda *_, answer=answer, **__: answer)
        assert choose_classifier() == name
