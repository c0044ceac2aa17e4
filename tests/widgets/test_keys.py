"""The Tab key alone goes through each panel as one reads it, to every control, and out again."""

import re
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from napari.components import ViewerModel
from napari.qt import get_stylesheet
from npe2 import PluginManifest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QPoint, QRect, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QDoubleSpinBox,
    QLabel,
    QLineEdit,
    QSlider,
    QSpinBox,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

import cellwright
from cellwright.widgets.results.plots import CellPlot
from cellwright.widgets.shared.style import FoldedPart

CONTROLS = QAbstractButton | QComboBox | QAbstractSpinBox | QSlider | QLineEdit | QAbstractItemView
PARTS = ("qt_", "ScrollLeftButton", "ScrollRightButton")  # of Qt's own widgets
MOST_STEPS = 150
HIGH_PX = 2600
SAME_ROW_PX = 12  # how far the middles of controls in one row may be apart
MANIFEST = PluginManifest.from_file(Path(cellwright.__file__).parent / "napari.yaml")
NAMES = {command.id: str(command.python_name) for command in MANIFEST.contributions.commands}
PANELS = {one.display_name: NAMES[one.command] for one in MANIFEST.contributions.widgets}


@pytest.fixture(params=PANELS)
def panel(request: pytest.FixtureRequest, qtbot: QtBot, shelved: Any, blobs: Any) -> Iterator[QWidget]:
    """A panel with an image and its cells, between two fields that the Tab key comes from and goes to."""
    module, _, name = PANELS[request.param].partition(":")
    viewer = ViewerModel()
    viewer.add_image(blobs.image, name="blobs")
    viewer.add_labels(blobs.labels, name="blobs labels")
    made: QWidget = getattr(import_module(module), name)(viewer)
    for part in made.findChildren(FoldedPart):
        part.title.setChecked(True)
    qtbot.waitUntil(lambda: getattr(made, "is_filled", True))
    shown: Any = getattr(made, "view", None) or made.panel  # type: ignore[attr-defined]
    if hasattr(shown, "show_session"):
        shown.show_session(is_open=True)
        shown.show_classes(("lymphocyte", "tumour"), (10, 12))
    window = QWidget()
    layout = QVBoxLayout(window)
    for one in (QLineEdit(objectName="before"), made, QLineEdit(objectName="after")):
        layout.addWidget(one)
    qtbot.addWidget(window)
    window.setStyleSheet(get_stylesheet("dark"))
    window.resize(400, 700)
    with qtbot.waitExposed(window):
        window.show()
    window.activateWindow()
    qtbot.waitUntil(window.isActiveWindow)
    yield made
    window.close()


def walked(panel: QWidget, qtbot: QtBot) -> list[QWidget]:
    """Return what the Tab key comes to, from the field before the panel to the one after it."""
    window = panel.window()
    assert window is not None
    first, found = window.findChild(QLineEdit, "before"), list[QWidget]()
    assert first is not None
    first.setFocus()
    qtbot.waitUntil(first.hasFocus)
    while len(found) < MOST_STEPS:
        now = QApplication.focusWidget()
        assert now is not None
        if now.objectName() == "after":
            return found[1:]
        assert now not in found, f"the Tab key turns in a circle at {told(now)}"
        found.append(now)
        QTest.keyClick(now, Qt.Key.Key_Tab)
        QApplication.processEvents()
    raise AssertionError(f"the Tab key does not leave {told(found[-1])}")


def told(control: QWidget) -> str:
    """Return what a control is, for people."""
    return f"{type(control).__name__} {getattr(control, 'text', str)()!r}: {control.toolTip()[:40]!r}"


def reachable(panel: QWidget) -> Iterator[QWidget]:
    """Yield the controls that can be seen and used."""
    for one in panel.findChildren(QWidget):
        is_part = one.objectName().startswith(PARTS)
        inside = isinstance(one.parent(), QAbstractSpinBox | QComboBox | QLineEdit | QAbstractItemView)
        if isinstance(one, CONTROLS) and one.isVisible() and one.isEnabled() and not is_part and not inside:
            yield one


def pages(panel: QWidget) -> Iterator[str]:
    """Show one page of tabs after the other."""
    tabs = panel.findChild(QTabWidget)
    for place in range(1 if tabs is None else tabs.count()):
        if tabs is not None:
            if not tabs.isTabVisible(place):
                continue
            tabs.setCurrentIndex(place)
        QApplication.processEvents()
        yield "" if tabs is None else tabs.tabText(place)


def test_tab_goes_through_a_panel_as_one_reads_it(panel: QWidget, qtbot: QtBot) -> None:
    for page in pages(panel):
        stops = walked(panel, qtbot)
        assert set(reachable(panel)) <= set(stops), [
            told(one) for one in reachable(panel) if one not in stops
        ]
        assert any(isinstance(one, CellPlot) for one in stops) == (page == "Plots")
        for before, now in pairwise(stops):
            first, second = (one.mapTo(panel, one.rect().center()) for one in (before, now))
            is_below = second.y() > first.y() + SAME_ROW_PX
            is_beside = abs(second.y() - first.y()) <= SAME_ROW_PX and second.x() > first.x()
            assert is_below or is_beside, f"{page}: {told(now)} after {told(before)}"


def test_one_sees_where_the_keys_go(panel: QWidget, qtbot: QtBot) -> None:
    window = panel.window()
    assert window is not None
    window.resize(400, HIGH_PX)  # nothing is scrolled out of sight
    unseen = []
    for theme in ("dark", "light"):
        window.setStyleSheet(get_stylesheet(theme))
        for _ in pages(panel):
            for stop in walked(panel, qtbot):
                looks = []
                for reason in (stop, window.findChild(QLineEdit, "before")):
                    assert reason is not None
                    reason.setFocus(Qt.FocusReason.TabFocusReason)
                    QApplication.processEvents()
                    place = QRect(stop.mapTo(panel, QPoint()), stop.size())  # what comes late has moved it
                    looks.append(panel.grab(place).toImage())
                if looks[0] == looks[1]:
                    unseen.append(f"{theme}: {told(stop)}")
    assert not unseen


def test_a_screen_reader_has_a_name_for_every_control(panel: QWidget) -> None:
    nameless = []
    for page in pages(panel):
        labelled = [label.buddy() for label in panel.findChildren(QLabel)]
        for one in reachable(panel):
            words = one.text() if isinstance(one, QAbstractButton) else ""
            if len(words) < 2 and one not in labelled and not one.accessibleName():
                nameless.append(f"{page}: {told(one)}")
    assert not nameless


@pytest.mark.parametrize("name", PANELS)
def test_qt_takes_the_order_of_the_keys(name: str, qtbot: QtBot, qtlog: Any) -> None:
    """Between controls that are not in one panel yet Qt sets none, and warns."""
    module, _, made = PANELS[name].partition(":")
    qtbot.addWidget(getattr(import_module(module), made)(ViewerModel()))
    assert [one.message for one in qtlog.records if "setTabOrder" in one.message] == []


@pytest.mark.parametrize("name", PANELS)
def test_one_of_a_unit_is_told_in_the_singular(name: str, qtbot: QtBot) -> None:
    module, _, made = PANELS[name].partition(":")
    panel: QWidget = getattr(import_module(module), made)(ViewerModel())
    qtbot.addWidget(panel)
    qtbot.waitUntil(lambda: getattr(panel, "is_filled", True))
    shown: Any = getattr(panel, "view", None) or panel.panel  # type: ignore[attr-defined]
    for box in (*shown.findChildren(QSpinBox), *shown.findChildren(QDoubleSpinBox)):
        box.setValue(1)
        assert box.value() != 1 or not re.search(r"[a-z]{2}s$", box.suffix()), box.toolTip()
