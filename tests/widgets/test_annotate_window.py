"""The annotation widget in a real napari window: keys on the canvas, drags of the mouse, the help key."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from napari import Viewer
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from cellwright.core.data import Image
from cellwright.files.images import write_labels
from cellwright.widgets.annotate.widget import AnnotateWidget

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # napari's and vispy's own
LEFT, NONE = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton


class Hand:
    """Mouse and keys on the canvas of a viewer, at places in pixels of the image."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self.canvas = viewer.window._qt_viewer.canvas

    def _send(self, kind: QEvent.Type, place: QPoint, button: Any, buttons: Any) -> None:
        native = self.canvas.native
        outside = QPointF(native.mapToGlobal(place))
        event = QMouseEvent(kind, QPointF(place), outside, button, buttons, Qt.KeyboardModifier.NoModifier)
        QApplication.sendEvent(native, event)
        QTest.qWait(50)  # vispy drops moves in quick succession

    def _on_canvas(self, point: Any) -> QPoint:
        x, y = self.canvas.view.scene.transform.map([point[1], point[0], 0, 1])[:2]
        return QPoint(round(x), round(y))

    def drag(self, *points: Any) -> None:
        places = [self._on_canvas(point) for point in points]
        self._send(QEvent.Type.MouseMove, places[0], NONE, NONE)
        self._send(QEvent.Type.MouseButtonPress, places[0], LEFT, LEFT)
        for place in places[1:]:
            self._send(QEvent.Type.MouseMove, place, NONE, LEFT)
        self._send(QEvent.Type.MouseButtonRelease, places[-1], LEFT, NONE)

    def key(self, key: Qt.Key, at: Any = None, modifier: Any = Qt.KeyboardModifier.NoModifier) -> None:
        if at is not None:
            self._send(QEvent.Type.MouseMove, self._on_canvas(at), NONE, NONE)
        self.canvas.native.setFocus()
        QTest.keyClick(self.canvas.native, key, modifier)


@pytest.fixture
def open_window(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, blobs: Any, tmp_path: Path
) -> tuple[Viewer, AnnotateWidget]:
    """A window in which the blobs are being annotated."""
    viewer = make_napari_viewer(show=True)
    viewer.add_image(blobs.image, name="blobs")
    viewer.add_labels(blobs.labels.copy())
    _, widget = viewer.window.add_plugin_dock_widget("napari-cellwright", "Annotate cells")
    widget.model.journals = tmp_path
    viewer.window._qt_window.activateWindow()
    qtbot.mouseClick(widget.panel.begin, LEFT)
    qtbot.wait(300)
    viewer.reset_view()  # the panel has taken room from the canvas: every cell must be on it again
    return viewer, widget


def test_keys_and_mouse_reach_the_tools(open_window: tuple[Viewer, AnnotateWidget], qtbot: QtBot) -> None:
    viewer, widget = open_window
    session, hand = widget.model.session, Hand(viewer)
    assert session is not None
    first, second = session.store.centre_of(1), session.store.centre_of(2)
    hand.key(Qt.Key.Key_D, first)
    assert 1 not in session.store
    hand.key(Qt.Key.Key_Z, modifier=Qt.KeyboardModifier.ControlModifier)
    assert 1 in session.store
    hand.key(Qt.Key.Key_M)
    centre = viewer.scene.camera.center
    hand.drag(first, (first + second) / 2, second)
    assert 2 not in session.store
    qtbot.mouseClick(widget.panel.buttons["undo"], LEFT)
    hand.key(Qt.Key.Key_S)
    up = np.array([10.0, 0.0])
    hand.drag(first - up, first, first + up)
    assert session.history.undo_name == "cut"
    np.testing.assert_array_equal(viewer.scene.camera.center, centre)  # tools do not move the image
    widget.model.finish()


def test_a_stroke_of_the_brush_and_the_help_key(
    open_window: tuple[Viewer, AnnotateWidget], qtbot: QtBot
) -> None:
    viewer, widget = open_window
    session, hand = widget.model.session, Hand(viewer)
    assert session is not None
    number = session.store.next_number
    hand.key(Qt.Key.Key_P, (1, 1))
    hand.drag((1, 1), (1, 4), (1, 8))
    assert number in session.store
    hand.key(Qt.Key.Key_Z, modifier=Qt.KeyboardModifier.ControlModifier)
    assert number not in session.store
    hand.key(Qt.Key.Key_Question, modifier=Qt.KeyboardModifier.ShiftModifier)
    qtbot.waitUntil(lambda: widget._sheet is not None and widget._sheet.isVisible(), timeout=5000)
    widget.show_keys()
    widget.model.finish()


def test_the_next_image_of_a_folder_is_in_reach_on_a_small_screen(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, blobs: Any, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        write_labels(tmp_path / "masks" / f"{name}.tif", blobs.labels, Image(blobs.image, "YX"))
        tifffile.imwrite(tmp_path / f"{name}.tif", blobs.image)
    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1280, 800)
    _, widget = viewer.window.add_plugin_dock_widget("napari-cellwright", "Annotate cells")
    with qtbot.waitSignal(widget.proofreader.opened, timeout=60_000):
        widget.proofreader.open(tmp_path)
    qtbot.waitUntil(lambda: widget.proofreader.job is None, timeout=60_000)
    qtbot.wait(300)
    following = widget.panel.batch.next_image
    assert following.visibleRegion().boundingRect() == following.rect()
    with qtbot.waitSignal(widget.proofreader.opened, timeout=60_000):
        qtbot.mouseClick(following, LEFT)
    qtbot.waitUntil(lambda: widget.proofreader.job is None, timeout=60_000)
    assert widget.model.session is not None
    assert widget.model.session.image.name == "b"
    widget.proofreader.leave()
    qtbot.waitUntil(lambda: not widget.proofreader.keeper.is_busy, timeout=60_000)
