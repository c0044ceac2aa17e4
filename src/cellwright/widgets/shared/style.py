"""The style sheet of the panels, and what their layouts share."""

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

PROGRESS_HEIGHT_PX = 26
PANEL_WIDTH_PX = 290  # the least that the panels need

STYLE = """
#card { background: rgba(128, 128, 128, 28); border-radius: 8px; }
#number { font-size: 40pt; font-weight: 600; background: transparent; }
#number[long="true"] { font-size: 26pt; }
#line, #legend, #details, #card QLabel, #thresholds, #thresholds QWidget { background: transparent; }
#thresholds QDoubleSpinBox { min-width: 36px; max-width: 36px; padding: 0px; }
#count { font-weight: 600; padding: 8px; border-radius: 5px; color: white; background: #1f8f8a; }
#count:hover { background: #27a8a2; }
#count:disabled { background: rgba(128, 128, 128, 90); }
#count[running="true"] { background: #b0483f; }
#count[running="true"]:hover { background: #c6574d; }
#preview { padding: 8px; border-radius: 5px; }
#ask:checked { color: white; background: #1f8f8a; }
#understood { background: transparent; }
#understood[guessed="true"] { padding: 2px 4px; border-radius: 4px; background: rgba(214, 158, 46, 60); }
#message { padding: 6px 8px; border-radius: 5px; background: rgba(214, 158, 46, 60); }
#message[error="true"] { background: rgba(200, 70, 60, 90); }
QProgressBar { max-height: 6px; min-height: 6px; border: none; border-radius: 3px;
               background: rgba(128, 128, 128, 50); }
QProgressBar::chunk { background: #2fb5ae; border-radius: 3px; }
"""


def progress_box(bar: QProgressBar, status: QLabel) -> QWidget:
    """Return a box for the progress of long work, always as high: nothing jumps when that begins."""
    bar.setTextVisible(False)
    bar.setRange(0, 100)
    status.setObjectName("status")
    box = QWidget()
    box.setFixedHeight(PROGRESS_HEIGHT_PX)
    layout = QVBoxLayout(box)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(2)
    layout.addWidget(bar)
    layout.addWidget(status)
    layout.addStretch(1)
    return box


def scrolled(panel: QWidget) -> QScrollArea:
    """Return a panel that scrolls up and down where it is longer than its dock; never sideways."""
    area = QScrollArea()
    area.setWidget(panel)
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    bar = area.verticalScrollBar()
    width = 0 if bar is None else bar.sizeHint().width()
    area.setMinimumWidth(PANEL_WIDTH_PX + width)
    return area


def message_label() -> QLabel:
    """Return a label for messages, which can be copied; out of sight until there is one."""
    label = QLabel()
    label.setObjectName("message")
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.setVisible(False)
    return label


def button(title: str, help_text: str) -> QPushButton:
    """Return a button with its help."""
    made = QPushButton(title)
    made.setToolTip(help_text)
    return made


def hint(text: str) -> QLabel:
    """Return a faint line."""
    label = QLabel(text)
    label.setObjectName("hint")
    label.setWordWrap(True)
    return label


def row(first: QWidget, second: QWidget) -> QHBoxLayout:
    """Return a layout of two widgets side by side, the first one growing."""
    layout = QHBoxLayout()
    layout.setSpacing(6)
    layout.addWidget(first, 1)
    layout.addWidget(second)
    return layout


def put(layout: Any, widgets: list[QWidget]) -> None:
    """Fill a layout with these widgets instead of those it had."""
    layout.setContentsMargins(0, 0, 0, 0)
    while layout.count():
        old = layout.takeAt(0).widget()
        old.hide()  # it is deleted later, and would be seen until then
        old.deleteLater()
    for widget in widgets:
        layout.addWidget(widget)


def set_state(widget: QWidget, name: str, *, on: bool) -> None:
    """Set a property that the style sheet looks at."""
    widget.setProperty(name, "true" if on else "false")
    style = widget.style()
    if style is not None:
        style.unpolish(widget)
        style.polish(widget)
