"""The looks of the count widget: its controls and where they stand, without behaviour."""

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from cellwright.inference.settings import EngineSettings
from cellwright.widgets.form import SettingsForm, is_threshold, names_of

SHORTCUT = "Ctrl+Return"
REGIONS = {"whole": "Whole image", "view": "What I see", "drawn": "Drawn region"}
OUTPUTS = {"Labels": "Outlines", "Points": "Points", "Shapes": "Boxes"}
OWN_ROWS = ("device", "channel", "diameter_px")  # engine settings with a control of their own
PROGRESS_HEIGHT_PX = 26
STYLE = """
#card { background: rgba(128, 128, 128, 28); border-radius: 8px; }
#number { font-size: 40pt; font-weight: 600; background: transparent; }
#line, #details, #card QLabel, #thresholds, #thresholds QWidget { background: transparent; }
#details, #status { color: rgba(150, 155, 165, 255); }
#thresholds QDoubleSpinBox { min-width: 36px; max-width: 36px; padding: 0px; }
#count { font-weight: 600; padding: 8px; border-radius: 5px; color: white; background: #1f8f8a; }
#count:hover { background: #27a8a2; }
#count:disabled { background: rgba(128, 128, 128, 90); }
#count[running="true"] { background: #b0483f; }
#count[running="true"]:hover { background: #c6574d; }
#preview { padding: 8px; border-radius: 5px; }
#message { padding: 6px 8px; border-radius: 5px; background: rgba(214, 158, 46, 60); }
#message[error="true"] { background: rgba(200, 70, 60, 90); }
QProgressBar { max-height: 6px; min-height: 6px; border: none; border-radius: 3px;
               background: rgba(128, 128, 128, 50); }
QProgressBar::chunk { background: #2fb5ae; border-radius: 3px; }
"""


class CountPanel(QWidget):
    """Controls of the count widget from top to bottom: what to count, how, the buttons, the result.

    Parameters
    ----------
    parent
        Qt parent.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setStyleSheet(STYLE)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 10, 10, 10)
        layout.setSpacing(8)
        layout.addLayout(self._choices())
        layout.addLayout(self._outputs())
        layout.addLayout(self._buttons())
        layout.addWidget(self._progress())
        layout.addWidget(self._message())
        layout.addWidget(self._card())
        self.advanced = QCollapsible("Advanced settings", expandedIcon="▾", collapsedIcon="▸")
        layout.addWidget(self.advanced)
        layout.addStretch(1)
        self.setMinimumWidth(290)

    def show_forms(self, settings_type: type[Any]) -> None:
        """Show the settings of a model family: thresholds under the count, the others with the engine's."""
        fast = [name for name in names_of(settings_type) if is_threshold(settings_type, name)]
        slow = [name for name in names_of(settings_type) if name not in fast]
        engine = [name for name in names_of(EngineSettings) if name not in OWN_ROWS]
        self.thresholds = SettingsForm(settings_type, fast)
        self.filters = SettingsForm(settings_type, slow)
        self.engine = SettingsForm(EngineSettings, engine)
        self.thresholds.native.setObjectName("thresholds")
        _put(self._threshold_box, [self.thresholds.native])
        box = QWidget()
        _put(QVBoxLayout(box), [self.filters.native, self.engine.native])
        self.advanced.setContent(box)
        self.advanced.collapse(animate=False)

    def show_message(self, text: str, *, is_error: bool = False) -> None:
        """Show a sentence under the buttons; an empty one hides it."""
        self.message.setText(text)
        self.message.setVisible(bool(text))
        _set_state(self.message, "error", on=is_error)

    def show_running(self, *, is_running: bool) -> None:
        """Turn the count button into Cancel and back."""
        self.count.setText("Cancel" if is_running else "Count cells")
        self.count.setEnabled(True)
        self.count.setShortcut(SHORTCUT)  # a new text clears it
        self.preview.setEnabled(not is_running)
        self.bar.setVisible(is_running)
        self.show_progress(0.0, "")
        _set_state(self.count, "running", on=is_running)

    def show_progress(self, fraction: float, line: str) -> None:
        """Show how far a count is.

        A bar that moves while nothing is known would make napari redraw its whole window all the time.
        """
        self.bar.setValue(round(100 * fraction))
        self.status.setText(line)

    def show_count(self, number: str, line: str, details: str) -> None:
        """Show the large number and what stands under it."""
        self.number.setText(number)
        self.line.setText(line)
        self.details.setText(details)
        self.details.setVisible(bool(details))

    def _choices(self) -> QFormLayout:
        self.image, self.model, self.device = QComboBox(), QComboBox(), QComboBox()
        self.channel, self.region = QComboBox(), QComboBox()
        for box in (self.image, self.model, self.device, self.channel):
            box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            box.setMinimumContentsLength(12)
            box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        for name, title in REGIONS.items():
            self.region.addItem(title, name)
        self.region.setToolTip(
            "What I see: the visible field of this slice. Drawn region: the box around a shape, all slices."
        )
        form = QFormLayout()
        form.setSpacing(6)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Image", self.image)
        form.addRow("Channel", self.channel)
        form.addRow("Model", self.model)
        form.addRow("Device", self.device)
        form.addRow("Diameter", self._diameter())
        form.addRow("Count in", self.region)
        return form

    def _diameter(self) -> QHBoxLayout:
        self.diameter = QDoubleSpinBox()
        self.diameter.setRange(0.0, 5000.0)
        self.diameter.setDecimals(1)
        self.diameter.setSuffix(" px")
        self.diameter.setSpecialValueText("auto")
        self.diameter.setToolTip("Typical cell diameter in pixels; 0 lets the program estimate it.")
        self.measure = QPushButton("Measure")
        self.measure.setToolTip("Draw a line across a typical cell.")
        return _row(self.diameter, self.measure)

    def _outputs(self) -> QHBoxLayout:
        self.outputs = {output: QCheckBox(title) for output, title in OUTPUTS.items()}
        for output, box in self.outputs.items():
            box.setToolTip(f"Show the cells as a {output} layer.")
        self.outputs["Labels"].setChecked(True)
        layout = QHBoxLayout()
        for box in self.outputs.values():
            layout.addWidget(box, 1)
        return layout

    def _buttons(self) -> QHBoxLayout:
        self.count, self.preview = QPushButton("Count cells"), QPushButton("Preview")
        self.count.setObjectName("count")
        self.count.setShortcut(SHORTCUT)
        self.count.setToolTip(f"Count the cells of the image ({SHORTCUT}).")
        self.preview.setObjectName("preview")
        self.preview.setToolTip("Count in the middle of what you see only.")
        return _row(self.count, self.preview)

    def _progress(self) -> QWidget:
        self.bar, self.status = QProgressBar(), QLabel()
        self.bar.setTextVisible(False)
        self.bar.setRange(0, 100)
        self.bar.setVisible(False)
        self.status.setObjectName("status")
        box = QWidget()
        box.setFixedHeight(PROGRESS_HEIGHT_PX)  # nothing jumps when a count begins
        layout = QVBoxLayout(box)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.bar)
        layout.addWidget(self.status)
        layout.addStretch(1)
        return box

    def _message(self) -> QLabel:
        self.message = QLabel()
        self.message.setObjectName("message")
        self.message.setWordWrap(True)
        self.message.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.message.setVisible(False)
        return self.message

    def _card(self) -> QFrame:
        card = QFrame()
        card.setObjectName("card")
        self.number, self.line, self.details = QLabel("—"), QLabel("no cells counted yet"), QLabel()
        layout = QVBoxLayout(card)
        layout.setContentsMargins(12, 8, 12, 12)
        layout.setSpacing(4)
        for label, name in ((self.number, "number"), (self.line, "line"), (self.details, "details")):
            label.setObjectName(name)
            label.setAlignment(Qt.AlignmentFlag.AlignCenter)
            layout.addWidget(label)
        self.details.setWordWrap(True)
        self.details.setVisible(False)
        layout.addSpacing(8)
        self._threshold_box = QVBoxLayout()
        layout.addLayout(self._threshold_box)
        layout.addSpacing(4)
        self.save = QPushButton("Save cells as CSV…")
        self.save.setEnabled(False)
        layout.addWidget(self.save)
        return card


def _row(first: QWidget, second: QWidget) -> QHBoxLayout:
    layout = QHBoxLayout()
    layout.setSpacing(6)
    layout.addWidget(first, 1)
    layout.addWidget(second)
    return layout


def _put(layout: Any, widgets: list[QWidget]) -> None:
    """Fill a layout with these widgets instead of those it had."""
    layout.setContentsMargins(0, 0, 0, 0)
    while layout.count():
        layout.takeAt(0).widget().deleteLater()
    for widget in widgets:
        layout.addWidget(widget)


def _set_state(widget: QWidget, name: str, *, on: bool) -> None:
    """Set a property that the style sheet looks at."""
    widget.setProperty(name, "true" if on else "false")
    style = widget.style()
    if style is not None:
        style.unpolish(widget)
        style.polish(widget)
