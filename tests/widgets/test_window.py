"""The widget in a real napari window, driven by mouse and keys."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from napari import Viewer
from napari.qt.threading import WorkerBase
from napari.settings import get_settings
from napari.utils.notifications import notification_manager
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent, QOpenGLContext
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QAbstractButton, QApplication, QScrollArea, QTabBar, QWidget

from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.shared.messages import TRAIN, HandOver, hand_over
from cellwright.widgets.shared.panel_area import PANEL_MS, PanelScrollArea

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # napari's and vispy's own
Settled = Callable[[CountWidget], None]


@pytest.fixture
def window(make_napari_viewer: Callable[..., Viewer], shelved: Any, blobs: Any) -> tuple[Viewer, CountWidget]:
    viewer = make_napari_viewer(show=True)
    viewer.add_image(blobs.image, name="blobs", scale=(0.5, 0.5), units=("um", "um"))
    _, widget = viewer.window.add_plugin_dock_widget("napari-cellwright", "Count cells")
    return viewer, widget


@pytest.mark.no_cover  # through what tests of the parts cover
def test_click_slider_key_and_region(
    window: tuple[Viewer, CountWidget], blobs: Any, qtbot: QtBot, settled: Settled
) -> None:
    viewer, widget = window
    qtbot.waitUntil(lambda: widget.panel.device.count() > 1, timeout=60_000)
    qtbot.mouseClick(widget.panel.count, Qt.MouseButton.LeftButton)
    settled(widget)
    assert widget.panel.number.text() == str(len(blobs))
    slider = widget.panel.thresholds.container["cell_probability"]
    slider.value = 0.9
    settled(widget)
    assert viewer.layers["blobs labels"].data.max() == int(widget.panel.number.text())
    slider.value = 0.5
    settled(widget)
    viewer.layers.remove("blobs labels")
    canvas = viewer.window._qt_viewer.canvas.native
    viewer.window._qt_window.activateWindow()
    for focused in (canvas, widget.panel.diameter):
        focused.setFocus()
        qtbot.waitUntil(focused.hasFocus, timeout=5000)
        with qtbot.waitSignal(widget.finished, timeout=60_000):  # it may be too short to be seen running
            qtbot.keyClick(focused, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
        settled(widget)
        assert "blobs labels" in viewer.layers
        viewer.layers.remove("blobs labels")
    viewer.camera.zoom *= 4
    widget.panel.region.setCurrentIndex(1)
    qtbot.wait(300)
    qtbot.mouseClick(widget.panel.count, Qt.MouseButton.LeftButton)
    settled(widget)
    seen = viewer.layers["blobs labels"].data.shape
    assert 0 < seen[0] < blobs.image.shape[0]
    assert 0 < int(widget.panel.number.text()) < len(blobs)


def drag(canvas: QWidget, start: QPoint, end: QPoint) -> None:
    """Press at one place, move and release at the other; qtbot's moves know of no pressed button."""
    left, none = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
    for kind, place, button, buttons in (
        (QEvent.Type.MouseMove, start, none, none),
        (QEvent.Type.MouseButtonPress, start, left, left),
        (QEvent.Type.MouseMove, end, none, left),
        (QEvent.Type.MouseButtonRelease, end, left, none),
    ):
        inside, outside = QPointF(place), QPointF(canvas.mapToGlobal(place))
        event = QMouseEvent(kind, inside, outside, button, buttons, Qt.KeyboardModifier.NoModifier)
        QApplication.sendEvent(canvas, event)
        QTest.qWait(50)  # vispy drops moves in quick succession


def test_a_line_is_drawn_with_the_mouse(window: tuple[Viewer, CountWidget], qtbot: QtBot) -> None:
    viewer, widget = window
    widget.panel.more.title.setChecked(True)
    qtbot.wait(100)
    widget.findChild(QScrollArea).ensureWidgetVisible(widget.panel.measure)
    qtbot.mouseClick(widget.panel.measure, Qt.MouseButton.LeftButton)
    assert viewer.layers.selection.active.mode == "add_line"
    canvas = viewer.window._qt_viewer.canvas.native
    middle = canvas.rect().center()
    qtbot.wait(300)
    start, end = middle, middle + QPoint(60, 0)
    drag(canvas, start, end)
    qtbot.waitUntil(lambda: widget.panel.diameter.value() > 0, timeout=10_000)
    expected = 60 / viewer.camera.zoom / 0.5
    assert widget.panel.diameter.value() == pytest.approx(expected, rel=0.15)
    assert [layer.name for layer in viewer.layers] == ["blobs"]


def test_the_menu_command_counts_the_active_layer(
    window: tuple[Viewer, CountWidget], blobs: Any, qtbot: QtBot
) -> None:
    from napari._app_model import get_app_model

    viewer, _ = window
    app = get_app_model()
    (menu,) = [
        item for item in app.menus.get_menu("napari/layers/segment")
        if getattr(getattr(item, "command", None), "id", "") == "napari-cellwright.count_active_layer"
    ]  # fmt: skip
    app.commands.execute_command(menu.command.id).result()
    qtbot.waitUntil(lambda: "blobs labels" in viewer.layers, timeout=60_000)
    qtbot.waitUntil(
        lambda: any(note.message.startswith(f"{len(blobs)} cells") for note in notification_manager.records),
        timeout=10_000,
    )


def test_a_closed_widget_leaves_the_viewer_usable(
    window: tuple[Viewer, CountWidget], qtbot: QtBot, settled: Settled
) -> None:
    viewer, widget = window
    qtbot.mouseClick(widget.panel.count, Qt.MouseButton.LeftButton)  # still running when it goes
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    WorkerBase.await_workers(60_000)
    qtbot.wait(20)  # in which what the count has told would arrive
    viewer.add_image(np.zeros((9, 9)), name="another")
    assert [layer.name for layer in viewer.layers] == ["blobs", "another"]


def test_panels_of_the_menu_are_tabs_beside_each_other(
    window: tuple[Viewer, CountWidget], qtbot: QtBot
) -> None:
    from napari._app_model import get_app_model

    viewer, _ = window
    hand_over(viewer, TRAIN, HandOver())
    get_app_model().commands.execute_command("napari-cellwright.train_widget").result()
    titles = [name for name in viewer.window.dock_widgets if name.startswith(TRAIN)]
    assert titles == [f"{TRAIN} (Cellwright)"]  # napari's menu knows the one that another panel has opened
    dock, _ = viewer.window.add_plugin_dock_widget("napari-cellwright", "Count a folder")
    main = dock.parentWidget()
    qtbot.waitUntil(lambda: len(main.tabifiedDockWidgets(dock)) == 1, timeout=5000)
    assert [one.windowTitle() for one in (dock, *main.tabifiedDockWidgets(dock))] == ["Folder", "Count"]
    # the one that was opened last is in front, once the window has laid out its tabs
    qtbot.waitUntil(lambda: not dock.visibleRegion().isEmpty(), timeout=5000)


@pytest.mark.usefixtures("shelved")
def test_a_panel_comes_a_turn_after_its_dock(make_napari_viewer: Callable[..., Viewer], qtbot: QtBot) -> None:
    window = make_napari_viewer(show=True).window
    for title in ("Count cells", "Annotate cells", "Train a model", "Compare models", "Count a folder"):
        for is_closed_at_once in (True, False):
            dock, widget = window.add_plugin_dock_widget("napari-cellwright", title)
            area = widget.findChild(PanelScrollArea)
            assert area.widget() is None
            if is_closed_at_once:
                window.remove_dock_widget(dock)
                qtbot.wait(5 * PANEL_MS)
            else:
                qtbot.waitUntil(lambda area=area: area.widget() is not None, timeout=5000)
                assert area.widget().isVisible()


def test_tabs_tell_whole_words_in_large_letters(window: tuple[Viewer, CountWidget], qtbot: QtBot) -> None:
    viewer, widget = window
    get_settings().appearance.font_size = 16
    for title in ("Results", "Annotate cells", TRAIN, "Compare models", "Count a folder"):
        viewer.window.add_plugin_dock_widget("napari-cellwright", title)
        qtbot.wait(200)
    main = viewer.window._qt_window
    main.resize(1280, 800)
    (bar,) = main.findChildren(QTabBar, options=Qt.FindChildOption.FindDirectChildrenOnly)
    assert bar.count() == 6
    for place in range(bar.count()):
        assert bar.tabRect(place).width() > bar.fontMetrics().horizontalAdvance(bar.tabText(place))
    bar.setCurrentIndex(0)
    qtbot.waitUntil(lambda: not widget.visibleRegion().isEmpty(), timeout=5000)


@pytest.mark.parametrize("way", ["menu", "another panel", "tool"])
def test_a_panel_of_the_menu_takes_the_keys_but_not_from_a_tool(
    window: tuple[Viewer, CountWidget], qtbot: QtBot, way: str
) -> None:
    viewer, widget = window
    main, canvas = viewer.window._qt_window, viewer.window._qt_viewer.canvas.native
    labels = viewer.add_labels(np.zeros((40, 40), int))
    main.activateWindow()
    qtbot.waitUntil(widget.panel.count.hasFocus, timeout=5000)  # it was opened by the menu, too
    QTest.mouseClick(canvas, Qt.MouseButton.LeftButton)
    canvas.setFocus()
    if way == "tool":
        labels.mode = "paint"
    if way == "another panel":
        hand_over(viewer, TRAIN, HandOver())
    else:
        viewer.window.add_plugin_dock_widget("napari-cellwright", TRAIN)
    qtbot.wait(500)
    assert canvas.hasFocus() == (way != "menu")
    if way == "menu":
        held = QApplication.focusWidget()
        assert isinstance(held, QAbstractButton)
        assert held.text() == "Train"
        before = viewer.dims.ndisplay
        qtbot.keyClick(held, Qt.Key.Key_Y, Qt.KeyboardModifier.ControlModifier)  # of napari: 2D or 3D
        assert viewer.dims.ndisplay != before
        QTest.mouseClick(canvas, Qt.MouseButton.LeftButton)
        canvas.setFocus()
        qtbot.keyClick(canvas, Qt.Key.Key_Y, Qt.KeyboardModifier.ControlModifier)
        assert viewer.dims.ndisplay == before
        assert not labels.data.any()


def test_what_was_drawn_of_a_removed_layer_is_freed_in_its_own_context(
    window: tuple[Viewer, CountWidget], qtbot: QtBot
) -> None:
    viewer, _ = window
    canvas = viewer.window._qt_viewer.canvas.native
    qtbot.waitUntil(canvas.isValid, timeout=5000)
    current = []
    for emitter in (viewer.layers.events.removed, viewer.layers.events.end_batch):
        emitter.connect(lambda _: current.append(QOpenGLContext.currentContext()))
    canvas.doneCurrent()
    viewer.layers.clear()
    assert current == [canvas.context()] * 2
