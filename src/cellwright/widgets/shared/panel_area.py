"""What a panel lies in: it scrolls in a dock beside others, follows the font and frames what has the keys."""

from functools import partial
from typing import Any

from napari import current_viewer
from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer, Signal
from qtpy.QtGui import QPainter, QPaintEvent, QPen, QShowEvent
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QDockWidget,
    QDoubleSpinBox,
    QFrame,
    QHeaderView,
    QLabel,
    QLineEdit,
    QMainWindow,
    QScrollArea,
    QSlider,
    QSpinBox,
    QTabBar,
    QTableView,
    QToolButton,
    QWidget,
)

from cellwright.widgets.shared.flow import Page
from cellwright.widgets.shared.napari_private import has_window, unwrapped

PANEL_WIDTH_PX, PANEL_HEIGHT_PX = 290, 120  # the least of a panel
NARROW_PX, LARGE_PT = 236, 13  # its width in larger letters, for which napari itself takes more of a screen
LINE_LETTERS = 11  # that a line to write in has room for
SPIN_FRAME_PX = 60  # beside the number of a spin box: its two buttons, as napari draws them
QWIDGETSIZE_MAX = (1 << 24) - 1  # of Qt: no limit
PANEL_MS = 20  # between docking a panel and its many controls; the window answers between them
TITLE_STYLE = "font-size: 11pt"  # the bar above a dock is as high in any letters
RING_PX = 2  # of the frame around what has the keys
DRAWN = "drawn"  # name of widgets that draw their text themselves
LETTERS = 0.85  # size of such texts, of that of labels
TABS = {"Count a folder": "Folder"}  # words of tabs where the first one of the title does not tell
HANDED_OVER = "handed over"  # property of a dock that another panel has opened
FOLLOWED = "followed"  # property of boxes of numbers that are as wide as what they hold
HAVE_VALUES = (QComboBox, QAbstractSpinBox, QSlider)  # which the wheel would change
CONTROLS = (*HAVE_VALUES, QAbstractButton, QLineEdit, QAbstractItemView)
ARROWS = {  # by how much keys move what is marked in a drawing, to the right and down
    Qt.Key.Key_Left: (-1, 0),
    Qt.Key.Key_Right: (1, 0),
    Qt.Key.Key_Up: (0, -1),
    Qt.Key.Key_Down: (0, 1),
}
LEAST_WORDS = 2  # letters on a button; a sign alone tells a screen reader nothing


class _FocusRing(QWidget):
    """A frame inside the control that has the keys, in the colour of its text: napari's style has none."""

    def __init__(self, control: QWidget) -> None:
        super().__init__(control)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        control.installEventFilter(self)
        self.resize(control.size())
        self.show()

    def eventFilter(self, control: QObject | None, event: QEvent | None) -> bool:
        """Follow the size of the control; called by Qt."""
        if isinstance(control, QWidget) and event is not None and event.type() == QEvent.Type.Resize:
            self.resize(control.size())
        return False

    def paintEvent(self, _: QPaintEvent | None) -> None:
        """Draw the frame; called by Qt."""
        painter = QPainter(self)
        painter.setPen(QPen(self.palette().windowText(), RING_PX))
        painter.drawRect(self.rect().adjusted(1, 1, -1, -1))


def _prepare(window: QWidget | None) -> None:
    """Let docks become narrow again, and their tabs tell whole words: arrows reach those without room."""
    if isinstance(window, QMainWindow):
        for dock in window.findChildren(QDockWidget):
            dock.setMinimumSize(0, 0)  # napari sets one for each, which Qt makes larger, never smaller
        for bar in window.findChildren(QTabBar, options=Qt.FindChildOption.FindDirectChildrenOnly):
            bar.setElideMode(Qt.TextElideMode.ElideNone)


def _shorten_title(dock: QDockWidget) -> None:
    """Let the tab of a dock tell one word, that six have room; the bar above it tells the name alone."""
    panel, bar = dock.windowTitle().partition(" (")[0], dock.titleBarWidget()
    if panel:
        dock.setWindowTitle(TABS.get(panel, panel.split()[0]))
    for title in bar.findChildren(QLabel) if bar is not None else ():
        title.setText(panel)
        title.setStyleSheet(TITLE_STYLE)


def _widen_fields(panel: QWidget) -> None:
    """Give boxes of numbers room for what they hold, and lines to write in room for some letters."""
    for spin in panel.findChildren(QAbstractSpinBox):
        widen(spin)
        if isinstance(spin, QSpinBox | QDoubleSpinBox) and not spin.property(FOLLOWED):
            spin.setProperty(FOLLOWED, True)  # noqa: FBT003 - of Qt
            spin.textChanged.connect(partial(widen, spin))
    for line in panel.findChildren(QLineEdit):
        if not isinstance(line.parent(), QAbstractSpinBox | QComboBox):
            line.setMinimumWidth(LINE_LETTERS * line.fontMetrics().averageCharWidth())


def _name_controls(panel: QWidget) -> None:
    """Give screen readers the first sentence of its help as the name of what has no label and no words."""
    labelled = [label.buddy() for label in panel.findChildren(QLabel)]
    for kind in CONTROLS:
        for one in panel.findChildren(kind):
            words = one.text() if isinstance(one, QAbstractButton) else ""
            if len(words) < LEAST_WORDS and one not in labelled and not one.accessibleName():
                one.setAccessibleName(one.toolTip().partition(". ")[0].removesuffix("."))


def widen(spin: QAbstractSpinBox, _: str = "") -> None:
    """Give a box of a number room for it; it does so itself unless its signals are blocked."""
    line = spin.findChild(QLineEdit)  # lineEdit() fails once Python has let go of it
    if line is not None and spin.maximumWidth() == QWIDGETSIZE_MAX:
        spin.setMinimumWidth(line.fontMetrics().horizontalAdvance(line.text()) + SPIN_FRAME_PX)


class PanelScrollArea(QScrollArea):
    """Scrolls a panel up and down where it is longer than its dock; never sideways, whatever the font."""

    shown = Signal()  # it comes into sight, again or for the first time

    def __init__(self, panel: QWidget, main: QWidget | None = None, viewer: Any = None) -> None:
        """Hold a panel; ``main`` is the control that gets the keys when the menu opens it.

        In the window of a viewer the panel comes a turn after it is docked: each takes Qt its time.
        """
        super().__init__()
        self._panel = panel
        self._width = 0  # that was asked for last
        self._main, self._has_place = main, False
        self._ring: _FocusRing | None = None
        QApplication.instance().focusChanged.connect(self._show_ring)  # type: ignore[union-attr]
        self._sample = QLabel(panel)  # has the font that napari gives to labels
        self._sample.hide()
        self.setWidgetResizable(True)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # its controls have it; Page Down reaches it through them
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        if has_window(unwrapped(viewer)):
            QTimer.singleShot(PANEL_MS, self._hold)
        else:
            self._hold()

    def _hold(self) -> None:
        if isalive(self) and isalive(self._panel):
            self.setWidget(self._panel)
            if self.isVisible():
                self._on_shown()

    def minimumSizeHint(self) -> QSize:
        """Return room for the width of the panel and for a part of its height; called by Qt."""
        panel, bar = self.widget(), self.verticalScrollBar()
        if panel is None or bar is None:
            return super().minimumSizeHint()
        width = max(panel.minimumSizeHint().width(), NARROW_PX if self._is_large else PANEL_WIDTH_PX)
        return QSize(width + bar.sizeHint().width(), PANEL_HEIGHT_PX)

    @property
    def _is_large(self) -> bool:
        return self._sample.fontInfo().pointSizeF() > LARGE_PT

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow the font of napari; called by Qt."""
        super().changeEvent(event)
        if event is not None and event.type() == QEvent.Type.StyleChange:
            QTimer.singleShot(0, self.follow_font)  # once the panel has its new style, too

    def showEvent(self, event: QShowEvent | None) -> None:
        """Follow the font of napari, and join the other panels when shown first; called by Qt."""
        super().showEvent(event)
        if self.widget() is not None:
            self._on_shown()

    def _on_shown(self) -> None:
        self.shown.emit()
        join_panel(self._panel)
        QTimer.singleShot(0, self._find_place)  # once napari has placed the dock

    def _find_place(self) -> None:
        dock = dock_of(self) if isalive(self) else None
        if dock is None:
            return
        if not self._has_place:
            self._has_place = True
            _shorten_title(dock)
            self._join_others(dock)
            self._take_keys(dock)
        _prepare(dock.parentWidget())

    def _take_keys(self, dock: QDockWidget) -> None:
        """Give the keys to the main control where the menu has opened the panel and no tool is drawing."""
        viewer = current_viewer()
        active = None if viewer is None else viewer.layers.selection.active
        is_drawing = active is not None and not active.mouse_pan
        if self._main is not None and not is_drawing and not dock.property(HANDED_OVER):
            self._main.setFocus()

    def _join_others(self, dock: QDockWidget) -> None:
        """Make the dock a tab beside those of other panels: napari's menu docks them below each other."""
        window = dock.parentWidget()
        if not isinstance(window, QMainWindow) or window.tabifiedDockWidgets(dock):
            return
        area = window.dockWidgetArea(dock)
        for other in window.findChildren(QDockWidget):
            shown = other.toggleViewAction()  # checked for a tab behind others, too
            is_open = shown is not None and shown.isChecked() and not other.isFloating()
            is_beside = other is not dock and window.dockWidgetArea(other) == area
            if is_open and is_beside and other.findChild(PanelScrollArea) is not None:
                window.tabifyDockWidget(other, dock)
                dock.raise_()
                return

    def follow_font(self) -> None:
        """Give what napari's style leaves out (tool buttons, fields, tables, drawings) the font of labels."""
        panel = self.widget() if isalive(self) else None
        if panel is None:
            return
        self._sample.ensurePolished()
        size = self._sample.fontInfo().pointSizeF()
        drawn = panel.findChildren(QWidget, DRAWN)
        for kind in (QToolButton, QLineEdit, QTableView, QHeaderView):
            drawn += panel.findChildren(kind)
        for one in drawn:
            font, is_inside = one.font(), isinstance(one.parent(), QAbstractSpinBox | QComboBox)
            if font.pointSizeF() != size and not is_inside:
                font.setPointSizeF(size)
                one.setFont(font)
        for page in panel.findChildren(Page):
            page.follow_font(is_large=self._is_large)
        _widen_fields(panel)
        around: QWidget | None = self
        while around is not None and not isinstance(around, QMainWindow):  # a tab behind others forgets none
            around.updateGeometry()
            around = around.parentWidget()

    def _show_ring(self, _: QWidget | None, control: QWidget | None) -> None:
        """Show which control the keys go to, unless the mouse chose it."""
        if self._ring is not None and isalive(self._ring):
            self._ring.hide()
            self._ring.deleteLater()
        self._ring = None
        if control is None or not self.isAncestorOf(control):
            return
        if QApplication.mouseButtons() == Qt.MouseButton.NoButton:
            self._ring = _FocusRing(control)

    def keep_values(self) -> None:
        """Let no value change by the wheel, those of controls that came since included."""
        panel = self.widget()
        for kind in HAVE_VALUES:
            for one in panel.findChildren(kind) if panel is not None else ():
                one.installEventFilter(self)  # once each, however often

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Follow the width of the panel, and leave the wheel to it, not to values; called by Qt."""
        if event is not None and event.type() == QEvent.Type.Wheel and isinstance(watched, HAVE_VALUES):
            event.ignore()
            return True
        is_handled, panel = super().eventFilter(watched, event), self.widget()
        is_laid_out = event is not None and event.type() == QEvent.Type.LayoutRequest
        if is_laid_out and panel is not None and watched is panel:
            self.keep_values()
            _widen_fields(panel)
            width = self.minimumSizeHint().width()
            if width != self._width:
                self._width = width
                self.updateGeometry()
        return is_handled


def scroll_area_of(part: QWidget) -> PanelScrollArea | None:
    """Return what scrolls the panel of a part."""
    around = part.parentWidget()
    while around is not None and not isinstance(around, PanelScrollArea):
        around = around.parentWidget()
    return around


def scroll_to(part: QWidget) -> None:
    """Scroll a panel to a part of it, once that has its place."""
    QTimer.singleShot(0, lambda: _scroll_to(part))


def _scroll_to(part: QWidget) -> None:
    area = scroll_area_of(part) if isalive(part) else None
    if area is not None:
        area.ensureWidgetVisible(part)


def join_panel(part: QWidget) -> None:
    """Give a part that came late what its panel has: letters, room, names, values that no wheel changes."""
    area = scroll_area_of(part)
    if area is not None:
        area.follow_font()
        area.keep_values()
        _name_controls(part)


def is_taken_out(panel: QWidget, event: QEvent | None) -> bool:
    """Return whether a change is that napari has closed the dock of a panel, which may live on unseen."""
    return event is not None and event.type() == QEvent.Type.ParentChange and panel.parent() is None


def dock_of(widget: QWidget | None) -> QDockWidget | None:
    """Return the dock that a widget is in."""
    while widget is not None and not isinstance(widget, QDockWidget):
        widget = widget.parentWidget()
    return widget
