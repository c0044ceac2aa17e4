"""The looks of the train widget: its controls and where they stand, without behaviour."""

from dataclasses import asdict, replace

from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from cellwright.training.settings import PRESETS, FinetuneSettings
from cellwright.widgets.shared.form import SettingsForm, is_threshold
from cellwright.widgets.shared.style import STYLE, message_label, progress_box, row, set_state
from cellwright.widgets.train.run_view import TrainCard

PRESET_TITLES = {
    "quick": "Quick · minutes",
    "balanced": "Balanced · an hour",
    "thorough": "Thorough · a night",
}
PRESET_HELP = "The longest it takes on a laptop; a GPU takes a small part of it."
TITLES = {  # where the name of a setting does not tell what it is
    "rate": "Learning rate",
    "ema_decay": "EMA decay",
    "replay": "Replay share",
    "n_replay": "Replay images",
    "n_validation": "Validation images",
}
LIST_HEIGHT_PX = 58
LARGEST, SMALLEST_STEP = 1_000_000, 1e-5  # of numbers in the form
OWN_STYLE = """
#findings { padding: 6px 8px; border-radius: 5px; background: rgba(128, 128, 128, 28); }
#offer { border-radius: 5px; background: rgba(47, 181, 174, 45); }
#offer QLabel { background: transparent; }
#picture, #scores, #caption, #legend { background: transparent; }
#caption { color: rgba(150, 155, 165, 255); }
"""


class TrainPanel(QWidget):
    """Controls of the train widget from top to bottom: data, model, findings, buttons, curves, own models.

    Parameters
    ----------
    parent
        Qt parent.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setStyleSheet(STYLE + OWN_STYLE)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 10, 10, 10)
        layout.setSpacing(8)
        self.offer_box, self.look_box, self.shelf_box = QVBoxLayout(), QVBoxLayout(), QVBoxLayout()
        layout.addLayout(self.offer_box)
        layout.addLayout(self._choices())
        self.advanced = QCollapsible("Advanced settings", expandedIcon="▾", collapsedIcon="▸")
        self.form = SettingsForm(FinetuneSettings)
        _adapt(self.form)
        self.show_settings(FinetuneSettings())
        self.advanced.setContent(self.form.native)
        self.advanced.collapse(animate=False)
        layout.addWidget(self.advanced)
        layout.addLayout(self.look_box)
        layout.addLayout(self._buttons())
        self.bar, self.status = QProgressBar(), QLabel()
        layout.addWidget(progress_box(self.bar, self.status))
        self.message = message_label()
        layout.addWidget(self.message)
        self.card = TrainCard()
        layout.addWidget(self.card)
        layout.addLayout(self.shelf_box)
        layout.addStretch(1)
        self.setMinimumWidth(300)
        self.show_running(is_running=False)

    @property
    def settings(self) -> FinetuneSettings:
        """The settings as the form has them; fields that nobody has touched are not rounded by it."""
        values = self.form.values()
        touched = {name: value for name, value in values.items() if value != self._shown[name]}
        return replace(self._base, **touched)

    def show_settings(self, settings: FinetuneSettings) -> None:
        """Put settings into the form."""
        self._base = settings
        self.form.set_values(asdict(settings))
        self._shown = self.form.values()

    def show_message(self, text: str, *, is_error: bool = False) -> None:
        """Show a sentence under the buttons; an empty one hides it."""
        self.message.setText(text)
        self.message.setVisible(bool(text))
        set_state(self.message, "error", on=is_error)

    def show_running(self, *, is_running: bool) -> None:
        """Turn the train button into Stop and back."""
        self.train.setText("Stop, keep the best" if is_running else "Train")
        self.train.setEnabled(True)
        self.train.setToolTip(
            "Stop the training; the best model so far is kept if it is better than the one it began with."
            if is_running
            else "Train the model on these images. The result is kept only if it is better."
        )
        self.pause.setVisible(is_running)
        self.pause.setChecked(False)
        self.bar.setVisible(is_running)
        self.choices.setEnabled(not is_running)
        self.advanced.setEnabled(not is_running)
        set_state(self.train, "running", on=is_running)
        self.show_progress(0.0, "")

    def show_progress(self, fraction: float, line: str) -> None:
        """Show how far the training is."""
        self.bar.setValue(round(100 * fraction))
        self.status.setText(line)

    def _choices(self) -> QVBoxLayout:
        self.data, self.start, self.device, self.preset = (QComboBox() for _ in range(4))
        for box in (self.data, self.start, self.device, self.preset):
            box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            box.setMinimumContentsLength(12)
            box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        for name in PRESETS:
            self.preset.addItem(PRESET_TITLES[name], name)
        self.preset.setToolTip(PRESET_HELP)
        self.pairs = QListWidget()
        self.pairs.setFixedHeight(LIST_HEIGHT_PX)
        self.pairs.setToolTip("Images with their annotation; the ticked ones are trained on.")
        self.complete = QCheckBox("Every cell is annotated")
        self.complete.setChecked(True)
        self.complete.setToolTip(
            "Untick when cells are missing: what is not annotated is then not taken for background."
        )
        self.name = QLineEdit()
        self.name.setToolTip("Name of the new model in the model lists.")
        self.choices = QWidget()
        form = QFormLayout(self.choices)
        form.setContentsMargins(0, 0, 0, 0)
        form.setSpacing(6)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Learn from", self.data)
        form.addRow(self.pairs)
        form.addRow(self.complete)
        form.addRow("Begin with", self.start)
        form.addRow("Effort", self.preset)
        form.addRow("Device", self.device)
        form.addRow("New name", self.name)
        layout = QVBoxLayout()
        layout.addWidget(self.choices)
        return layout

    def _buttons(self) -> QHBoxLayout:
        self.train, self.pause = QPushButton("Train"), QPushButton("Pause")
        self.train.setObjectName("count")
        self.pause.setObjectName("preview")
        self.pause.setCheckable(True)
        self.pause.setToolTip("Pause the training; it resumes where it was.")
        return row(self.train, self.pause)


def _adapt(form: SettingsForm) -> None:
    """Give numbers without a limit room for those of the presets, small ones their decimals, rows titles."""
    for name, title in TITLES.items():
        form.container[name].label = title
    for name, value in form.values().items():
        field = form.container[name]
        if isinstance(value, int):
            field.max = LARGEST
        elif not is_threshold(FinetuneSettings, name):
            field.step = SMALLEST_STEP
