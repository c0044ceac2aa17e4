"""The style sheet of the panels, the controls and layouts that they share, and what keys are called."""

import logging
import sys
from typing import TypeVar

from qtpy.QtCore import QEvent, QObject, QRect, Qt
from qtpy.QtGui import QKeyEvent, QKeySequence
from qtpy.QtWidgets import (
    QApplication,
    QBoxLayout,
    QCheckBox,
    QDoubleSpinBox,
    QFormLayout,
    QLayout,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from cellwright.core.errors import CellwrightError, error_line
from cellwright.widgets.shared.flow import BREAK, FlowLayout, WrappedButton, WrappedCheckBox, WrappedLabel
from cellwright.widgets.shared.panel_area import scroll_to

logger = logging.getLogger(__name__)

MARGIN_PX, ROW_SPACING_PX = 6, 6
ON_MAC = sys.platform == "darwin"
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
        """Take an error away; what is not an error stays."""
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
    take_points(made)
    made.setRange(lowest, highest)
    made.setDecimals(1)
    made.setValue(value)
    made.setSuffix(f" {unit}")
    made.setSpecialValueText(zero)
    made.setToolTip(help_text)
    return made


def take_points(box: QDoubleSpinBox) -> None:
    """Have both a point and a comma begin the decimals of a box.

    Qt takes that of the locale alone and passes over the other one: 20.5 would become 205.
    """
    box.installEventFilter(_DecimalPoint(box))


class _DecimalPoint(QObject):
    """Puts the point of the locale where the keys, or what is pasted, have a point or a comma."""

    def eventFilter(self, box: QObject | None, event: QEvent | None) -> bool:
        """Take keys with one point or comma; called by Qt."""
        if not isinstance(event, QKeyEvent) or event.type() != QEvent.Type.KeyPress:
            return False
        text, clipboard = event.text(), QApplication.clipboard()
        if event.matches(QKeySequence.StandardKey.Paste) and clipboard is not None:
            text = clipboard.text().strip()
        line = box.findChild(QLineEdit) if isinstance(box, QDoubleSpinBox) else None
        if line is None or text.count(".") + text.count(",") != 1:
            return False
        point = box.locale().decimalPoint()  # type: ignore[union-attr]
        line.insert(text.replace(".", point).replace(",", point))
        return True


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


def form_layout(
    *rows: QWidget | QLayout | tuple[str, QWidget | QLayout], into: QWidget | None = None, spacing_px: int = 6
) -> QFormLayout:
    """Return a form of fields, with their names where they have some, as the layout of ``into``.

    They keep to the width of the panel; one that has no room beside its name goes below it, as in large
    letters.
    """
    form = FormLayout(into)
    form.setSpacing(spacing_px)
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
    for one in rows:
        form.addRow(*(one if isinstance(one, tuple) else (one,)))
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


def boxed(layout: QLayout) -> QWidget:
    """Return a widget with this layout."""
    box = QWidget()
    box.setLayout(layout)
    return box


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


def bound_key(key: str) -> str:
    """Return a key as napari is to bind it: on a Mac Command stands for Control, and napari calls it Meta."""
    if ON_MAC:
        return key.replace("Control", "Meta")
    return key


def with_own_keys(text: str) -> str:
    """Return a text for people with the keys of their keyboard: on a Mac Cmd for Ctrl."""
    if ON_MAC:
        return text.replace("Ctrl", "Cmd")
    return text
