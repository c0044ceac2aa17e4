"""The style sheet of the panels, and what their layouts share."""

import logging
from functools import partial
from typing import Any, TypeVar

from napari import current_viewer
from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, QRect, QSize, Qt, QTimer, Signal
from qtpy.QtGui import QKeyEvent, QKeySequence, QPainter, QPaintEvent, QPen, QShowEvent
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QApplication,
    QBoxLayout,
    QCheckBox,
    QComboBox,
    QDockWidget,
    QDoubleSpinBox,
    QFormLayout,
    QFrame,
    QHeaderView,
    QLabel,
    QLayout,
    QLineEdit,
    QMainWindow,
    QPushButton,
    QScrollArea,
    QSlider,
    QSpinBox,
    QTabBar,
    QTableView,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from cellwright.core.errors import CellwrightError, error_line
from cellwright.widgets.shared.flow import (
    BREAK,
    FlowLayout,
    Page,
    WrappedButton,
    WrappedCheckBox,
    WrappedLabel,
)
from cellwright.widgets.shared.napari_private import has_window, unwrapped

logger = logging.getLogger(__name__)

PANEL_WIDTH_PX, PANEL_HEIGHT_PX = 290, 120  # the least of a panel
NARROW_PX, LARGE_PT = 236, 13  # its width in larger letters, for which napari itself takes more of a screen
LINE_LETTERS = 11  # that a line to write in has room for
SPIN_FRAME_PX = 60  # beside the number of a spin box: its two buttons, as napari draws them
QWIDGETSIZE_MAX = (1 << 24) - 1  # of Qt: no limit
MARGIN_PX, ROW_SPACING_PX = 6, 6
PANEL_MS = 20  # between docking a panel and its many controls; the window answers between them
TITLE_STYLE = "font-size: 11pt"  # the bar above a dock is as high in any letters
RING_PX = 2  # of the frame around what has the keys
DRAWN = "drawn"  # name of widgets that draw their text themselves
LETTERS = 0.85  # size of such texts, of that of labels
TABS = {"Count a folder": "Folder"}  # words of tabs where the first one of the title does not tell
HANDED_OVER = "handed over"  # property of a dock that another panel has opened
FOLLOWED = "followed"  # property of boxes of numbers that are as wide as what they hold
HAVE_VALUES = (QComboBox, QAbstractSpinBox, QSlider)  # which the wheel would change
ARROWS = ("▸", "▾")  # of a part that is folded, and of one that is open

Box = TypeVar("Box", bound=QBoxLayout)

STYLE = """
#card { background: rgba(128, 128, 128, 28); border-radius: 8px; }
#number { font-size: 40pt; font-weight: 600; background: transparent; }
#number[long="true"] { font-size: 26pt; }
#line, #legend, #details, #card QLabel, #thresholds, #thresholds QWidget { background: transparent; }
#thresholds QDoubleSpinBox { min-width: 3em; max-width: 3em; padding: 0px; }
#count { font-weight: 600; padding: 8px; border-radius: 5px; color: white; background: #1a7a76; }
#count:hover { background: #15625f; }
#count:disabled { color: rgba(128, 128, 128, 200); background: rgba(128, 128, 128, 18); }
#count[running="true"] { background: #b0483f; }
#count[running="true"]:hover { background: #94392f; }
#guide { background: rgba(47, 181, 174, 40); border-radius: 8px; }
#guide QLabel { background: transparent; }
QSlider { min-width: 70px; }
QListWidget::indicator:unchecked { border: 1px solid rgba(128, 128, 128, 255); border-radius: 2px; }
#page { padding: 4px; }
#page:checked { color: white; background: #1a7a76; }
#preview { padding: 8px; border-radius: 5px; }
#ask:checked { color: white; background: #1a7a76; }
#fold { text-align: left; background: transparent; border: none;
                   font-weight: 600; padding: 3px 2px; }
#fold:hover { background: rgba(128, 128, 128, 80); }
#understood { background: transparent; }
#understood[guessed="true"] { padding: 2px 4px; border-radius: 4px; background: rgba(214, 158, 46, 60); }
#message { padding: 6px 8px; border-radius: 5px; background: rgba(214, 158, 46, 60); }
#message[info="true"] { background: rgba(47, 181, 174, 40); }
#message[error="true"] { background: rgba(200, 70, 60, 90); }
QProgressBar { max-height: 6px; min-height: 6px; border: none; border-radius: 3px;
               background: rgba(128, 128, 128, 50); }
QProgressBar::chunk { background: #2fb5ae; border-radius: 3px; }
"""


class _FocusRing(QWidget):
    """A frame inside of the control that has the keys, in the colour of its text: napari's style has none."""

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
        self.follow_font()
        self.keep_values()
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


def area_of(part: QWidget) -> PanelScrollArea | None:
    """Return what scrolls the panel of a part."""
    around = part.parentWidget()
    while around is not None and not isinstance(around, PanelScrollArea):
        around = around.parentWidget()
    return around


def scroll_to(part: QWidget) -> None:
    """Scroll a panel to a part of it, once that has its place."""
    QTimer.singleShot(0, lambda: _scroll_to(part))


def _scroll_to(part: QWidget) -> None:
    area = area_of(part) if isalive(part) else None
    if area is not None:
        area.ensureWidgetVisible(part)


def join_panel(part: QWidget) -> None:
    """Give a part that came late what its panel has: letters, room, values that no wheel changes."""
    area = area_of(part)
    if area is not None:
        area.follow_font()
        area.keep_values()


def is_taken_out(panel: QWidget, event: QEvent | None) -> bool:
    """Return whether a change is that napari has closed the dock of a panel, which may live on unseen."""
    return event is not None and event.type() == QEvent.Type.ParentChange and panel.parent() is None


def dock_of(widget: QWidget | None) -> QDockWidget | None:
    """Return the dock that a widget is in."""
    while widget is not None and not isinstance(widget, QDockWidget):
        widget = widget.parentWidget()
    return widget


def panel_layout(panel: QWidget, own_style: str = "", *, spacing_px: int = 8) -> QVBoxLayout:
    """Return the layout of a panel, top to bottom; the panel gets the style sheet, and its own after it."""
    panel.setStyleSheet(STYLE + own_style)
    layout = QVBoxLayout(panel)
    layout.setContentsMargins(MARGIN_PX, MARGIN_PX, MARGIN_PX, MARGIN_PX)
    layout.setSpacing(spacing_px)
    return layout


class FoldedPart(QWidget):
    """A part of a panel under its title, which opens and closes it; closed to begin with."""

    def __init__(self, title: str, content: QWidget) -> None:
        super().__init__()
        self._title, self.title, self.content = title, WrappedButton(), content
        self.title.setObjectName("fold")
        self.title.setCheckable(True)
        self.title.setToolTip(f"Show or hide: {title}.")
        self.title.toggled.connect(self._on_toggled)
        self.title.setFocusPolicy(Qt.FocusPolicy.TabFocus)  # after a click the keys go on reaching the image
        layout = content.layout()
        if layout is not None:
            layout.setContentsMargins(2, 4, 2, 4)
        stack(self.title, content, into=self, spacing_px=2)
        self._on_toggled(False)  # noqa: FBT003 - Qt calls it so

    def _on_toggled(self, is_open: bool) -> None:  # noqa: FBT001 - Qt calls it
        self.title.setText(f"{ARROWS[is_open]} {self._title}")  # as text it follows theme and font
        self.content.setVisible(is_open)


def chip(text: str, colour: str) -> str:
    """Return rich text on a colour of its own, readable in dark and light themes."""
    return f"<span style='background-color:{colour};color:black'>&nbsp;{text}&nbsp;</span>"


class MessageLabel(WrappedLabel):
    """Shows text that can be copied; out of sight until there is one.

    ``doing`` is what its panel does, for the log of errors.
    """

    def __init__(self, doing: str) -> None:
        super().__init__()
        self._doing = doing
        self.setObjectName("message")
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.NoContextMenu)  # its Copy would copy the breaks too
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setVisible(False)

    def tell(self, text: str, is_error: bool = False, is_warning: bool = False) -> None:  # noqa: FBT001, FBT002 - a slot
        """Show a sentence in the colour of what it is; an empty one hides the label."""
        self.setText(text)
        self.setVisible(bool(text))
        set_state(self, "info", on=not (is_error or is_warning))
        set_state(self, "error", on=is_error)
        if is_error and text:
            scroll_to(self)  # below a long panel nobody would see it

    def fail(self, error: Exception, doing: str = "") -> None:
        """Tell what went wrong; what was not foreseen is logged too, with what was being done."""
        if not isinstance(error, CellwrightError):
            logger.error("%s failed", doing or self._doing, exc_info=error)
        self.tell(error_line(error), is_error=True)

    def forget_news(self, _: object = None) -> None:
        """Take away what is neither an error nor a warning."""
        if self.property("info") == "true":
            self.tell("")

    def forget_error(self, _: object = None) -> None:
        """Take an error away; what is no error stays."""
        if self.property("error") == "true":
            self.tell("")

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Copy what is marked as it was set; called by Qt."""
        clipboard = QApplication.clipboard()
        if event is None or clipboard is None or not event.matches(QKeySequence.StandardKey.Copy):
            super().keyPressEvent(event)
            return
        clipboard.setText(self.selectedText().replace(BREAK, ""))


def button(title: str, help_text: str) -> QPushButton:
    """Return a button with its help."""
    made = WrappedButton(title)
    made.setToolTip(help_text)
    return made


def check_box(title: str, help_text: str, *, is_on: bool = False) -> QCheckBox:
    """Return a box to tick, with its help."""
    made = WrappedCheckBox(title)
    made.setToolTip(help_text)
    made.setChecked(is_on)
    return made


def number_box(
    unit: str,
    help_text: str,
    value: float = 0.0,
    *,
    lowest: float = 0.0,
    highest: float = 1000.0,
    zero: str = "",
) -> QDoubleSpinBox:
    """Return a box for a number with its unit; ``zero`` is shown where it is the lowest."""
    made = QDoubleSpinBox()
    made.setRange(lowest, highest)
    made.setDecimals(1)
    made.setValue(value)
    made.setSuffix(f" {unit}")
    made.setSpecialValueText(zero)
    made.setToolTip(help_text)
    return made


def wrapped_label(text: str = "", name: str = "details") -> WrappedLabel:
    """Return a label whose text goes on in the next line; the style sheet knows it by its name."""
    label = WrappedLabel()
    label.setObjectName(name)
    label.setText(text)
    return label


class FormLayout(QFormLayout):
    """A form in which a field that goes below its name has the whole width: Qt leaves the names' free."""

    def setGeometry(self, rect: QRect) -> None:
        """Place the rows; called by Qt."""
        super().setGeometry(rect)
        inside, roles = self.contentsRect(), QFormLayout.ItemRole
        for row in range(self.rowCount()):
            name, field = self.itemAt(row, roles.LabelRole), self.itemAt(row, roles.FieldRole)
            if name is None or field is None or field.isEmpty():
                continue
            place = field.geometry()
            if place.top() > name.geometry().bottom():
                field.setGeometry(QRect(inside.left(), place.top(), inside.width(), place.height()))


def form_layout(*, into: QWidget | None = None, spacing_px: int = 6) -> QFormLayout:
    """Return a form without rows, as the layout of ``into``; its fields keep to the width of the panel.

    A field that has no room beside its name goes below it, as in large letters.
    """
    form = FormLayout(into)
    form.setSpacing(spacing_px)
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
    return form


def fill(layout: Box, *parts: QWidget | QLayout) -> Box:
    """Return a layout, to which these widgets and layouts were added."""
    for part in parts:
        if isinstance(part, QWidget):
            layout.addWidget(part)
        else:
            layout.addLayout(part)
    return layout


def stack(*parts: QWidget | QLayout, into: QWidget | None = None, spacing_px: int = -1) -> QVBoxLayout:
    """Return parts below each other without a margin, as the layout of ``into``; -1 is the usual spacing."""
    layout = fill(QVBoxLayout(into), *parts)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(spacing_px)
    return layout


def row(*widgets: QWidget) -> FlowLayout:
    """Return a layout of widgets side by side, the first one of each line growing."""
    return FlowLayout(widgets, is_even=False, spacing_px=ROW_SPACING_PX)


def even_row(*widgets: QWidget, spacing_px: int = ROW_SPACING_PX) -> FlowLayout:
    """Return a layout of widgets side by side in columns that share the width."""
    return FlowLayout(widgets, is_even=True, spacing_px=spacing_px)


def put(layout: QVBoxLayout, *widgets: QWidget, after: QWidget) -> None:
    """Fill a layout with these widgets instead of those it had; Tab comes to them after another one."""
    layout.setContentsMargins(0, 0, 0, 0)
    while layout.count():
        old = layout.takeAt(0).widget()  # type: ignore[union-attr]
        old.hide()  # type: ignore[union-attr]  # it is deleted later, and would be seen until then
        old.deleteLater()  # type: ignore[union-attr]
    fill(layout, *widgets)
    inside = (one for widget in widgets for one in widget.findChildren(QWidget))
    come_after(after, *(one for one in inside if one.window() is after.window()))  # not the lists of boxes


def come_after(control: QWidget, *others: QWidget) -> None:
    """Have the Tab key come to others next, one by one, after a control: those made late came last."""
    for other in others:
        if other.focusPolicy() & Qt.FocusPolicy.TabFocus and other.focusProxy() is None:
            QWidget.setTabOrder(control, other)
            control = other


def set_state(widget: QWidget, name: str, *, on: bool) -> None:
    """Set a property that the style sheet looks at."""
    widget.setProperty(name, "true" if on else "false")
    style = widget.style()
    if style is not None:
        style.unpolish(widget)
        style.polish(widget)
