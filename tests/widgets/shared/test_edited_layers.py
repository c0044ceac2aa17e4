"""What a user changes by hand survives whatever the panel does."""

import gc
import threading
import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels, Points
from napari.utils._proxies import PublicOnlyProxy
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt

from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.shared.edited_layers import CONTENT, METADATA, checksum, is_edited


@pytest.fixture
def counted(viewer: ViewerModel, qtbot: QtBot, blobs: Any, shelved: Any, settled: Any) -> CountWidget:
    viewer.add_image(blobs.image, name="cells")
    widget = CountWidget(viewer)
    qtbot.addWidget(widget)
    count(widget, qtbot, settled)
    return widget


def count(widget: CountWidget, qtbot: QtBot, settled: Any) -> None:
    qtbot.mouseClick(widget.panel.count, Qt.MouseButton.LeftButton)
    settled(widget)


def labels_of(viewer: ViewerModel) -> list[Labels]:
    return [layer for layer in viewer.layers if isinstance(layer, Labels)]


def test_what_was_painted_stays_when_a_threshold_moves(
    counted: CountWidget, viewer: ViewerModel, settled: Any
) -> None:
    painted = labels_of(viewer)[0]
    assert not is_edited(painted)
    painted.paint((5, 5), 999)
    before = painted.data.copy()
    counted.panel.filters.set_values({"min_area_px": 3})
    settled(counted)
    counted.panel.thresholds.set_values({"cell_probability": 0.6})
    settled(counted)
    assert np.array_equal(painted.data, before)
    assert len(labels_of(viewer)) == 2  # the count goes on in one layer of its own
    painted.undo()
    assert (painted.data == 999).sum() == 0


def test_the_next_count_stands_beside_and_says_so(
    counted: CountWidget, viewer: ViewerModel, qtbot: QtBot, settled: Any
) -> None:
    painted = labels_of(viewer)[0]
    painted.name = "mine"
    painted.fill((0, 0), 7)
    before = painted.data.copy()
    count(counted, qtbot, settled)
    assert np.array_equal(painted.data, before)
    assert "kept in mine" in counted.panel.message.text()
    count(counted, qtbot, settled)
    assert len(labels_of(viewer)) == 2


def test_the_pixels_of_a_new_count_are_not_looked_at_in_the_gui_thread(
    counted: CountWidget, viewer: ViewerModel, qtbot: QtBot, settled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[Any] = []  # by the GUI thread

    def crc32(values: Any, start: int = 0) -> int:
        if threading.current_thread() is threading.main_thread() and len(values) >= labels.nbytes:
            looked_at.append(np.frombuffer(values, labels.dtype).max())
        return zlib.crc32(values, start)

    labels = labels_of(viewer)[0].data
    monkeypatch.setattr("cellwright.widgets.shared.edited_layers.zlib", SimpleNamespace(crc32=crc32))
    viewer.layers.remove(labels_of(viewer)[0])
    count(counted, qtbot, settled)
    assert not looked_at
    assert not is_edited(labels_of(viewer)[0])
    del looked_at[:]
    count(counted, qtbot, settled)
    assert len(looked_at) == 1  # the labels that were there: a script may have changed them
    assert not is_edited(labels_of(viewer)[0])
    assert CONTENT not in labels_of(viewer)[0].metadata[METADATA]
    labels_of(viewer)[0].data[0, 0] = 77
    assert is_edited(labels_of(viewer)[0])


def test_a_checksum_tells_arrays_apart_whatever_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellwright.widgets.shared.edited_layers.BLOCK_BYTES", 64)
    array = np.arange(200, dtype=np.int32).reshape(10, 20)
    other = array.copy()
    other[7, 3] = 0
    swapped = np.roll(array.ravel(), 16).reshape(10, 20)  # whole blocks
    of = [checksum(one) for one in (array, other, swapped, array.T, array.reshape(20, 10), array.view("u4"))]
    assert len(set(of)) == len(of)
    assert checksum(array.copy()) == of[0]
    assert checksum() != checksum(array[:0])


def test_large_labels_are_drawn_in_a_turn_of_their_own(
    counted: CountWidget, viewer: ViewerModel, qtbot: QtBot, settled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellwright.widgets.shared.napari_private.LARGE_PX", 100)
    turns: list[bool] = []  # whether the layer was to be seen when its count was shown
    counted.model.outcome_changed.connect(lambda _: turns.append(labels_of(viewer)[0].visible))
    viewer.layers.remove(labels_of(viewer)[0])
    count(counted, qtbot, settled)
    qtbot.waitUntil(lambda: labels_of(viewer)[0].visible, timeout=60_000)
    assert turns == [False]
    assert not is_edited(labels_of(viewer)[0])


def test_points_moved_by_hand_stay(counted: CountWidget, viewer: ViewerModel, settled: Any) -> None:
    counted.panel.outputs["Points"].setChecked(True)
    settled(counted)
    points = next(layer for layer in viewer.layers if isinstance(layer, Points))
    points.add([[1.0, 1.0]])
    n = len(points.data)
    counted.panel.outputs["Points"].setChecked(False)
    settled(counted)
    counted.panel.thresholds.set_values({"cell_probability": 0.6})
    settled(counted)
    assert points in viewer.layers
    assert len(points.data) == n


def test_layers_that_nobody_changed_are_brought_up_to_date(
    counted: CountWidget, viewer: ViewerModel, settled: Any
) -> None:
    layer = labels_of(viewer)[0]
    layer.name, layer.opacity = "renamed", 0.3
    counted.panel.thresholds.set_values({"cell_probability": 0.6})
    settled(counted)
    assert labels_of(viewer) == [layer]
    assert not is_edited(layer)


def test_layers_of_an_image_that_is_gone_do_not_come_back(
    counted: CountWidget, viewer: ViewerModel, settled: Any
) -> None:
    viewer.layers.clear()
    counted.panel.outputs["Points"].setChecked(True)
    settled(counted)
    assert len(viewer.layers) == 0


def test_edits_are_noticed_through_the_proxy_that_napari_hands_to_plugins(
    viewer: ViewerModel, qtbot: QtBot, blobs: Any, shelved: Any, settled: Any
) -> None:
    viewer.add_image(blobs.image, name="cells")
    widget = CountWidget(PublicOnlyProxy(viewer))
    qtbot.addWidget(widget)
    count(widget, qtbot, settled)
    gc.collect()
    labels = labels_of(viewer)[0]
    labels.paint((5, 5), 999)
    assert is_edited(labels)
    widget.panel.thresholds.set_values({"cell_probability": 0.6})
    settled(widget)
    assert labels.data[5, 5] == 999
