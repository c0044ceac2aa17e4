"""The looks of the train widget: its controls and where they stand, without behaviour."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from html import escape

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtGui import QImage, QPixmap, QResizeEvent
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QFrame,
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

from cellwright.training.finetune_settings import PRESETS, FinetuneSettings
from cellwright.widgets.form import SettingsForm, is_threshold
from cellwright.widgets.panel import PROGRESS_HEIGHT_PX
from cellwright.widgets.style import STYLE, row, set_state
from cellwright.widgets.train_plot import Curve, CurvePlot

PRESET_TITLES = {
    "quick": "Quick · minutes on a laptop",
    "balanced": "Balanced · an hour",
    "thorough": "Thorough · a night, or a GPU",
}
LIST_HEIGHT_PX = 58
LARGEST, SMALLEST_STEP = 1_000_000, 1e-5  # of numbers in the form
LOSS_COLOUR, SCORE_COLOUR, RATE_COLOUR = "#ff9f1c", "#3fd0c9", "#9d6bff"
WARNING_COLOUR = "#e0a93b"
SCORE_TITLES = {
    "score": "score",
    "ap50": "AP at IoU 0.5",
    "count_error": "count error",
    "memory": "what it knew",
    "box_iou": "IoU of boxes",
    "interval_coverage": "true count in the interval",
}
LOWER_IS_BETTER = ("count_error",)
OWN_STYLE = """
#findings { padding: 6px 8px; border-radius: 5px; background: rgba(128, 128, 128, 28); }
#offer { border-radius: 5px; background: rgba(47, 181, 174, 45); }
#offer QLabel { background: transparent; }
#picture, #scores, #caption, #legend { background: transparent; }
#caption { color: rgba(150, 155, 165, 255); }
"""


class Picture(QLabel):
    """A picture that is as wide as there is room."""

    def __init__(self) -> None:
        super().__init__()
        self._pixmap = QPixmap()
        self.setObjectName("picture")
        self.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setVisible(False)

    def show_array(self, picture: NDArray[np.uint8]) -> None:
        """Show an array (height, width, 3)."""
        data = np.ascontiguousarray(picture)
        height, width, _ = data.shape
        image = QImage(data.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
        self._pixmap = QPixmap.fromImage(image)
        self.setVisible(True)
        self._fit()

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Scale the picture; called by Qt."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        if self._pixmap.isNull() or self.width() < 8:
            return
        fitted = self._pixmap.scaledToWidth(self.width(), Qt.TransformationMode.SmoothTransformation)
        self.setPixmap(fitted)
        self.setFixedHeight(fitted.height())


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
        layout.addWidget(self._offer())
        layout.addLayout(self._choices())
        self.advanced = QCollapsible("Advanced settings", expandedIcon="▾", collapsedIcon="▸")
        self.form = SettingsForm(FinetuneSettings)
        _widen(self.form)
        self.show_settings(FinetuneSettings())
        self.advanced.setContent(self.form.native)
        self.advanced.collapse(animate=False)
        layout.addWidget(self.advanced)
        layout.addWidget(self._findings())
        layout.addLayout(self._buttons())
        layout.addWidget(self._progress())
        layout.addWidget(self._message())
        layout.addWidget(self._card())
        self.shelf_box = QVBoxLayout()
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
            "End the training; the best model so far goes into the list if it is better than the first."
            if is_running
            else "Teach the model these images. It is kept only if it counts them better."
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

    def show_findings(self, summary: str, warnings: Sequence[str]) -> None:
        """Show what the data hold and what looks wrong with them."""
        lines = [
            escape(summary),
            *(f"<span style='color:{WARNING_COLOUR}'>⚠ {escape(one)}</span>" for one in warnings),
        ]
        self.findings.setText("<br>".join(line for line in lines if line))
        self.findings.setVisible(any(lines))

    def show_offer(self, line: str) -> None:
        """Offer to go on with a run; an empty line takes the offer away."""
        self.offered.setText(line)
        self.offer.setVisible(bool(line))

    def show_curves(self, epochs: Sequence[Mapping[str, float]], last_step: float) -> None:
        """Draw the curves of the epochs so far."""

        def points(name: str) -> tuple[tuple[float, float], ...]:
            return tuple((epoch["step"], epoch[name]) for epoch in epochs if name in epoch)

        score = "score" if any("score" in epoch for epoch in epochs) else "merit"
        named = "AP at IoU 0.5" if any("ap50" in epoch for epoch in epochs) else "score"
        self.plot.show_curves(
            (
                Curve("loss", points("loss"), LOSS_COLOUR),
                Curve(f"validation {named}", points(score), SCORE_COLOUR, 1.4),
                Curve("learning rate", points("rate")[1:], RATE_COLOUR, 0.5),
            ),
            last_step,
        )
        self.card.setVisible(True)

    def show_picture(self, picture: NDArray[np.uint8] | None, caption: str) -> None:
        """Show truth and found cells side by side."""
        if picture is not None:
            self.picture.show_array(picture)
            self.caption.setText(f"{caption}: truth · found now")
            self.caption.setVisible(True)

    def show_scores(self, before: Mapping[str, float], after: Mapping[str, float]) -> None:
        """Show the scores before and after as a table; nothing where there are none."""
        self.scores.setText(scores_table(before, after) if after else "")
        self.scores.setVisible(bool(after))

    def clear(self) -> None:
        """Forget the last training."""
        self.show_scores({}, {})
        self.picture.setVisible(False)
        self.caption.setVisible(False)
        self.plot.show_curves((), 1.0)

    def _offer(self) -> QFrame:
        self.offer, self.offered = QFrame(), QLabel()
        self.offer.setObjectName("offer")
        self.offered.setWordWrap(True)
        self.resume, self.discard = QPushButton("Go on"), QPushButton("Discard")
        layout = QVBoxLayout(self.offer)
        layout.addWidget(self.offered)
        layout.addLayout(row(self.resume, self.discard))
        self.offer.setVisible(False)
        return self.offer

    def _choices(self) -> QVBoxLayout:
        self.data, self.start, self.device, self.preset = (QComboBox() for _ in range(4))
        for box in (self.data, self.start, self.device, self.preset):
            box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            box.setMinimumContentsLength(12)
            box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        for name in PRESETS:
            self.preset.addItem(PRESET_TITLES[name], name)
        self.pairs = QListWidget()
        self.pairs.setFixedHeight(LIST_HEIGHT_PX)
        self.pairs.setToolTip("Images with their annotation; those that are ticked are learned from.")
        self.complete = QCheckBox("Every cell is annotated")
        self.complete.setChecked(True)
        self.complete.setToolTip("Untick when some cells are not annotated: bare places then teach nothing.")
        self.name = QLineEdit()
        self.name.setToolTip("Of the new model, in the model lists.")
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

    def _findings(self) -> QLabel:
        self.findings = QLabel()
        self.findings.setObjectName("findings")
        self.findings.setWordWrap(True)
        self.findings.setTextFormat(Qt.TextFormat.RichText)
        return self.findings

    def _buttons(self) -> QHBoxLayout:
        self.train, self.pause = QPushButton("Train"), QPushButton("Pause")
        self.train.setObjectName("count")
        self.pause.setObjectName("preview")
        self.pause.setCheckable(True)
        self.pause.setToolTip("Let the machine rest; the training goes on where it was.")
        return row(self.train, self.pause)

    def _progress(self) -> QWidget:
        self.bar, self.status = QProgressBar(), QLabel()
        self.bar.setTextVisible(False)
        self.bar.setRange(0, 100)
        self.status.setObjectName("status")
        box = QWidget()
        box.setFixedHeight(PROGRESS_HEIGHT_PX)
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
        self.card = QFrame()
        self.card.setObjectName("card")
        self.plot, self.picture = CurvePlot(), Picture()
        self.caption, self.scores = QLabel(), QLabel()
        self.caption.setObjectName("caption")
        self.scores.setObjectName("scores")
        self.scores.setTextFormat(Qt.TextFormat.RichText)
        for label in (self.caption, self.scores):
            label.setAlignment(Qt.AlignmentFlag.AlignCenter)
            label.setVisible(False)
        layout = QVBoxLayout(self.card)
        for widget in (self.scores, self.plot, self.picture, self.caption):
            layout.addWidget(widget)
        self.card.setVisible(False)
        return self.card


def _widen(form: SettingsForm) -> None:
    """Give numbers without a limit room for those of the presets, and small ones their decimals."""
    for name, value in form.values().items():
        field = form.container[name]
        if isinstance(value, int):
            field.max = LARGEST
        elif not is_threshold(FinetuneSettings, name):
            field.step = SMALLEST_STEP


def scores_table(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Return the scores that both have as a table in rich text; what became better is in colour."""
    shown = [name for name in SCORE_TITLES if name in before and name in after]
    if "ap50" in shown and "score" in shown:
        shown.remove("score")  # they are the same
    rows = ["<tr><td></td><td align='right'>before</td><td align='right'>after</td></tr>"]
    for name in shown:
        gain = (after[name] - before[name]) * (-1 if name in LOWER_IS_BETTER else 1)
        colour = "#3fd0c9" if gain > 0.0005 else "#e07a6b" if gain < -0.0005 else "#9aa0aa"
        figures = [
            f"{value:.0%}" if name in LOWER_IS_BETTER else f"{value:.3f}"
            for value in (before[name], after[name])
        ]
        rows.append(
            f"<tr><td>{SCORE_TITLES[name]}</td><td align='right'>&nbsp;&nbsp;{figures[0]}</td>"
            f"<td align='right'>&nbsp;&nbsp;<b style='color:{colour}'>{figures[1]}</b></td></tr>"
        )
    return f"<table cellspacing='4'>{''.join(rows)}</table>"
