"""Features of layers follow what is done to them by hand, also where the table tells of another layer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot

from cellwright.core.errors import ReadError
from cellwright.core.tasks import Progress, Task
from cellwright.widgets.annotate.session_setup import start_session
from cellwright.widgets.annotate.widget import AnnotateWidget
from cellwright.widgets.results.widget import ResultsWidget
from cellwright.widgets.shared.cells import followers
from cellwright.widgets.shared.cells.followers import LayerRows, follow
from cellwright.widgets.shared.napari_private import camera_of

Read = Callable[[ResultsWidget], None]
LIMIT_MS = 30_000
COUNTED = {"cellwright": {"model": "flow"}}  # in the metadata of a layer of ours


@pytest.fixture
def other(panel: ResultsWidget, viewer: ViewerModel, qtbot: QtBot, read: Read) -> Any:
    """The labels of the panel, which tells of other ones now."""
    panel.view.groups["intensity"].setChecked(True)
    panel.view.measure.click()
    read(panel)
    labels = viewer.layers["cells"]
    further = viewer.add_labels(labels.data.copy(), name="further", scale=(0.5, 0.5), units=("um", "um"))
    panel.show_layer(further)
    read(panel)
    return labels


def test_labels_that_the_table_does_not_tell_of_are_measured_too(
    panel: ResultsWidget, qtbot: QtBot, other: Any
) -> None:
    other.data_setitem((np.array([50, 51]), np.array([5, 5])), 9)
    other.data_setitem(tuple(np.nonzero(other.data == 1)), 0)
    qtbot.waitUntil(lambda: not panel.followers.is_busy, timeout=LIMIT_MS)
    features = other.features
    assert features["area_px"].fillna(0).tolist() == [0, 0, 64, 36, 16, 0, 0, 0, 0, 2]
    assert features["intensity_mean_ch0"].fillna(-1).tolist() == [-1, -1, 20, 30, 40, -1, -1, -1, -1, 0]
    assert features["edited"].tolist() == [False] * 9 + [True]


def test_numbers_of_labels_may_be_as_high_as_napari_lets_them(
    panel: ResultsWidget, viewer: ViewerModel, read: Read
) -> None:
    """Row k of napari's table is label k, or that of a column "index"; 2**31 rows are too many."""
    labels, high = viewer.layers["cells"], 2**31 - 2
    labels.data_setitem((np.array([50, 51]), np.array([5, 5])), high)
    read(panel)
    n = len(panel.model.measured.table)
    panel.link.set_class([n - 1], "late")
    read(panel)
    features = labels.features.set_index("index", drop=False)
    assert len(features) <= n + 1
    assert features.loc[high, ["area_px", "label", "class"]].tolist() == [2, high, "late"]
    assert "class: late" in " ".join(labels._get_properties((50, 5)))
    assert panel.model.measured.table["class"].tolist() == [*[""] * (n - 1), "late"]
    labels.undo()
    read(panel)
    assert labels.features["area_px"].fillna(0).tolist() == [0, *panel.model.measured.table["area_px"]]


def test_cells_that_features_call_by_an_index_keep_what_is_told_of_them(
    panel: ResultsWidget, viewer: ViewerModel, read: Read
) -> None:
    read(panel)
    data = viewer.layers["cells"].data.copy()
    numbers = np.unique(data[data > 0])[::-1]
    told = {
        "index": numbers,
        "class": [f"c{number}" for number in numbers],
        "score": numbers / 100,
        "mine": numbers,
    }
    placed = {"scale": (0.5, 0.5), "units": ("um", "um")}
    labels = viewer.add_labels(data, name="told", features=told, **placed)
    panel.show_layer(labels)
    for number in (90, 91):
        read(panel)
        table = panel.model.measured.table.set_index("label")
        features = labels.features.set_index("label")
        assert {one: features.loc[one, "mine"] for one in numbers} == {one: one for one in numbers}
        for rows in (table, features):
            assert rows.loc[numbers, "class"].tolist() == told["class"]
            assert rows.loc[numbers, "score"].tolist() == pytest.approx(told["score"])
        labels.data_setitem((np.array([50]), np.array([number - 80])), number)
    read(panel)


def test_what_cannot_be_measured_is_told(
    panel: ResultsWidget, qtbot: QtBot, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> Task[Any]:
        yield Progress("read", 0, 1)
        raise ReadError("The image is gone.")

    told: list[str] = []
    monkeypatch.setattr(followers, "_task", gone)
    monkeypatch.setattr(followers, "show_warning", told.append)
    other.data_setitem((np.array([50]), np.array([5])), 9)
    qtbot.waitUntil(lambda: bool(told), timeout=LIMIT_MS)
    assert told == ["The features of 'cells' are not those of its cells as they are now. The image is gone."]


def test_an_edit_just_before_the_table_goes_on_to_another_layer_is_seen(
    panel: ResultsWidget, viewer: ViewerModel, qtbot: QtBot, read: Read
) -> None:
    labels = viewer.layers["cells"]
    further = viewer.add_labels(labels.data.copy(), name="further")
    labels.data_setitem((np.array([50]), np.array([5])), 9)
    panel.show_layer(further)
    qtbot.waitUntil(lambda: not panel.followers.is_busy, timeout=LIMIT_MS)
    assert labels.features.loc[9, "area_px"] == 1


def test_a_class_set_while_cells_are_measured_stays(panel: ResultsWidget, read: Read) -> None:
    panel.measurer.read()
    panel.link.set_class([0], "red")
    read(panel)
    assert panel.model.table["class"].tolist()[0] == "red"
    assert panel.link.layer.features["class"].tolist()[1] == "red"


def test_no_cell_stays_lit_when_its_layer_is_gone(
    panel: ResultsWidget, viewer: ViewerModel, read: Read
) -> None:
    panel.model.choose(1)
    assert len(viewer.layers["chosen cell"].data) == 1
    viewer.layers.remove("cells")
    read(panel)
    assert len(viewer.layers["chosen cell"].data) == 0


def test_the_light_follows_a_cell_that_was_cut(panel: ResultsWidget, viewer: ViewerModel, read: Read) -> None:
    labels = viewer.layers["cells"]
    panel.model.choose(3)
    ring, number = viewer.layers["chosen cell"], int(panel.model.measured.numbers[3])
    rows, columns = np.nonzero(labels.data == number)
    is_cut = columns > columns.min() + 1
    before, camera_of(viewer).center = ring.size[0], (0.0, 1.0, 2.0)
    labels.data_setitem((rows[is_cut], columns[is_cut]), 0)
    labels.selected_label = 7
    read(panel)
    np.testing.assert_allclose(ring.data, [[rows.mean(), columns.min() + 0.5]])
    assert ring.size[0] <= before
    assert labels.selected_label == 7
    assert camera_of(viewer).center == (0.0, 1.0, 2.0)


def test_rows_of_the_table_delete_no_pixels_painted_since(panel: ResultsWidget, viewer: ViewerModel) -> None:
    labels = viewer.layers["cells"]
    labels.data_setitem((np.array([2, 3]), np.array([2, 3])), 9)
    panel.link.delete([0])
    assert np.argwhere(labels.data == 9).tolist() == [[2, 2], [3, 3]]
    assert not (labels.data == 1).any()


def test_rows_of_a_layer_that_was_never_shown_are_deleted(panel: ResultsWidget, read: Read) -> None:
    before = panel.viewer.layers["cells"]
    looks = {"scale": before.scale, "units": before.units, "visible": False}
    hidden = panel.viewer.add_labels(before.data.copy(), name="hidden", **looks)
    panel.show_layer(hidden)
    read(panel)
    panel.link.delete([0])
    read(panel)
    assert not (hidden.data == 1).any()
    assert panel.view.number.text() == "3"
    hidden.undo()
    np.testing.assert_array_equal(hidden.data, before.data)


def test_boxes_by_hand_have_rows_of_their_own(viewer: ViewerModel) -> None:
    corners = np.array([[1, 1], [1, 5], [5, 5], [5, 1]], float)
    features = {"label": [1, 2], "score": [0.5, 0.75], "area_px": [16.0, 12.0]}
    boxes = viewer.add_shapes([corners, corners + 10], features=features, metadata=COUNTED)
    rows = LayerRows(boxes, viewer)
    boxes.add_rectangles([corners + 20])
    boxes.data = [boxes.data[0] + 1, *boxes.data[1:]]
    assert rows is not None
    assert boxes.features["label"].tolist() == [1, 2, 3]
    assert boxes.features["edited"].tolist() == [True, False, True]
    assert boxes.features["score"].fillna(-1).tolist() == [-1, 0.75, -1]
    assert boxes.features["area_px"].fillna(-1).tolist() == [-1, 12, -1]


def test_points_that_are_deleted_leave_the_rows_of_the_others(viewer: ViewerModel) -> None:
    points = viewer.add_points(
        [[1, 1], [2, 2], [3, 3]], features={"label": [4, 5, 6], "score": [0.1, 0.2, 0.3]}, metadata=COUNTED
    )
    rows = LayerRows(points, viewer)
    points.selected_data = {0}
    points.remove_selected()
    assert rows is not None
    assert points.features["label"].tolist() == [5, 6]
    assert points.features["score"].tolist() == [0.2, 0.3]


def test_undo_is_seen_whatever_the_view_has_done(
    panel: ResultsWidget, viewer: ViewerModel, qtbot: QtBot, other: Any
) -> None:
    other.data_setitem((np.array([50, 51]), np.array([5, 5])), 9)
    qtbot.waitUntil(lambda: not panel.followers.is_busy, timeout=LIMIT_MS)
    viewer.add_points([[500, 700]])  # the middle of what is displayed is another step now
    other.undo()
    assert panel.followers.is_busy
    qtbot.waitUntil(lambda: not panel.followers.is_busy, timeout=LIMIT_MS)
    assert len(other.features) == 5


def test_a_first_cell_in_an_empty_layer_is_measured(panel: ResultsWidget, read: Read) -> None:
    labels = panel.link.layer
    panel.view.groups["intensity"].setChecked(True)
    panel.view.measure.click()
    read(panel)
    labels.data_setitem(np.nonzero(labels.data), 0)
    read(panel)
    assert len(panel.model.table) == 0
    labels.data_setitem((np.array([2, 2]), np.array([2, 3])), 7)
    read(panel)
    assert panel.model.table["intensity_mean_ch0"].tolist() == [10]


def test_corrections_in_slices_out_of_sight_are_seen(
    viewer: ViewerModel, qtbot: QtBot, annotate_widget: AnnotateWidget
) -> None:
    data = np.zeros((3, 20, 20), np.int32)
    data[0, 2:6, 2:6], data[2, 10:14, 10:14] = 1, 2
    image = viewer.add_image(data.astype(np.float32), axis_labels=("t", "y", "x"))
    labels = viewer.add_labels(
        data, axis_labels=("t", "y", "x"), features={"area_px": [np.nan, 16, 16]}, metadata=COUNTED
    )
    viewer.dims.set_current_step(0, 0)
    follower = follow(viewer)
    annotate_widget.model.open(start_session(image, None, labels, journal=None))
    annotate_widget.model.session.delete(2)
    assert follower.is_busy
    qtbot.waitUntil(lambda: not follower.is_busy, timeout=LIMIT_MS)
    assert labels.features["area_px"].fillna(0).tolist() == [0, 16]
    annotate_widget.model.finish()
