"""The looks of the train widget: its controls and where they stand; curves, picture and scores of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtGui import QImage, QPixmap, QResizeEvent
from qtpy.QtWidgets import QFrame, QLabel, QLineEdit, QSizePolicy, QSpinBox, QVBoxLayout, QWidget

from cellwright.core.errors import SettingsError
from cellwright.core.tasks import Progress
from cellwright.models.registry import FAMILIES
from cellwright.training.run_folder import CLASSES, SCORE_TITLES, SCRATCH
from cellwright.training.settings import (
    PRESETS,
    ClassifyTrainingSettings,
    FinetuneSettings,
    PretrainMethod,
    PretrainSettings,
)
from cellwright.widgets.shared.combos import PanelComboBox
from cellwright.widgets.shared.flow import FigureTable, FlowLayout
from cellwright.widgets.shared.form import CheckList, SettingsForm, is_threshold
from cellwright.widgets.shared.jobs import JobBar, RunButton
from cellwright.widgets.shared.messages import duration, progress_line
from cellwright.widgets.shared.model_combos import DeviceComboBox, ModelComboBox
from cellwright.widgets.shared.style import (
    MARGIN_PX,
    FoldedPart,
    MessageLabel,
    boxed,
    button,
    check_box,
    fill,
    form_layout,
    panel_layout,
    row,
    stack,
    wrapped_label,
)
from cellwright.widgets.train.curves import ACCURACY_AXIS, AP_AXIS, SCROLL_BAR_PX, Curve, CurvePlot

LAYERS = "layers"  # data of the entry of the viewer's layers
PRESET_TITLES = {
    "quick": "Quick · minutes",
    "balanced": "Balanced · an hour",
    "thorough": "Thorough · a night",
}
TRAIN_HELP = "Train on these images. A model that counts is kept only if it became better."
STOP_HELP = "Stop the training; the best model so far is kept if it is better than the one it began with."
STOP = ("Stop, keep the best", STOP_HELP)
STOP_CLASSES = ("Stop", "Stop the training at its next step; it can be resumed.")
CELLS = "cells"  # data of the entry for what models that count learn
WHAT_HELP = (
    "Where cells are: their outlines or places, as the model gives them. Classes of cells: which of the "
    "annotated classes each has, whatever model has found it."
)
PRESET_HELP = "How long it takes at most on a laptop; a GPU is much faster."
NO_FOLDER = "none"  # data of the entry for no folder
UNLABELLED = "Folder of unlabelled images"
METHOD_TITLES: dict[PretrainMethod, str] = {
    "simclr": "SimCLR: two views of one place",
    "colorize": "Colours of masked cells",
}
METHOD_HELP = (
    "SimCLR tells two views of one place from all other places; the other one colours images with pieces "
    "hidden."
)
STEPS = ("pretrain", "fine-tune", "train", "epoch")  # stages that are steps of training
IMAGES = {"check": "Checking the model", "read": "Reading"}  # stages that take image by image
LARGEST, SMALLEST_STEP = 1_000_000, 1e-5  # of numbers in the form
OWN_STYLE = """
#findings { padding: 6px 8px; border-radius: 5px; background: rgba(128, 128, 128, 28); }
#offer { border-radius: 5px; background: rgba(47, 181, 174, 45); }
#offer QLabel { background: transparent; }
#picture, #scores, #caption, #legend { background: transparent; }
"""
LOSS_COLOUR, SCORE_COLOUR = "#c46a08", "#12908a"  # seen on dark and on light
BETTER_COLOUR, WORSE_COLOUR = "#3fd0c9", "#e07a6b"
LEAST_CHANGE = 0.0005  # of a score, for a colour
SCORES_HELP = (
    "On what the model is checked with. AP at IoU 0.5: right outlines among all found and missed "
    "ones; right is what covers half of a true cell or more. Count error: how far counts are off. Retention: "
    "how well the model still does what it did before. Pixel error: how far it is off, pixel by pixel. "
    "Accuracy: share of the cells that are given their class; recall: the same of the cells of one class."
)
LOWER_IS_BETTER = ("count_error", "validation_loss")
PERCENT = ("count_error",)


class TrainPanel(QWidget):
    """Controls of the train widget from top to bottom: data, model, findings, buttons, curves, own models."""

    def __init__(self) -> None:
        super().__init__()
        layout = panel_layout(self, OWN_STYLE)
        self.offer_box, self.check_box, self.models_box = QVBoxLayout(), QVBoxLayout(), QVBoxLayout()
        choices = self._choices()
        self.form = TrainingForm(FinetuneSettings())
        self.class_form = TrainingForm(ClassifyTrainingSettings())
        forms = boxed(stack(self.form.native, self.class_form.native))
        self.advanced, self.setup = FoldedPart("Advanced settings", forms), QWidget()
        stack(choices, self.advanced, self.check_box, into=self.setup, spacing_px=layout.spacing())
        buttons = self._buttons()
        self.what.chosen.connect(self._show_what)
        self.offer_classes(is_offered=False)
        self._show_what()
        self.jobs = JobBar(run_button=self.train, describe=training_line)
        self.message, self.card = MessageLabel("Training"), TrainCard()
        fill(layout, self.offer_box, self.setup, buttons, self.jobs, self.message)
        fill(layout, self.count_with, self.card, self.models_box)
        layout.addStretch(1)
        self.show_running(is_running=False)

    @property
    def learns_classes(self) -> bool:
        """Whether the classes of cells are to be learned."""
        return self.what.currentData() == CLASSES

    def offer_classes(self, *, is_offered: bool) -> None:
        """Let the user choose what is learned, as the data have classes, or take this away."""
        if not is_offered:
            self.what.choose_data(CELLS)
        self._form.setRowVisible(self.what, is_offered)

    def _show_what(self) -> None:
        """Show the rows that tell how what is chosen is learned."""
        for part in (self._start, self.unlabelled, self.preset):
            self._form.setRowVisible(part, not self.learns_classes)
        self.form.native.setVisible(not self.learns_classes)
        self.class_form.native.setVisible(self.learns_classes)

    def show_running(self, *, is_running: bool, is_classes: bool = False) -> None:
        """While a training runs, show what it does in the place of what was chosen; offer Pause."""
        self.train.stop_text = STOP
        if is_classes:
            self.train.stop_text = STOP_CLASSES
        self.pause.setVisible(is_running)
        self.pause.setChecked(False)
        self.setup.setVisible(not is_running)

    def show_paused(self, *, is_paused: bool) -> None:
        """Turn the pause button into Resume and back."""
        self.pause.setText("Resume" if is_paused else "Pause")
        if is_paused:
            self.jobs.line.setText("Pausing…")

    def _choices(self) -> QWidget:
        self.data = PanelComboBox("Annotated images to learn from.", folders="Dataset folder")
        self.data.fill([("Annotated layers", LAYERS)])
        self.start = ModelComboBox(
            "Model to begin with; one that knows similar cells learns fastest.",
            after=lambda: [(f"From scratch · {family}", SCRATCH + family) for family in FAMILIES],
        )
        self.start.choose_preferred()
        self.what, self._start = PanelComboBox(WHAT_HELP), self.start.with_card()
        self.what.fill([("Where cells are", CELLS), ("Classes of cells", CLASSES)])
        self.device, self.preset = DeviceComboBox(), PanelComboBox(PRESET_HELP)
        self.preset.fill((PRESET_TITLES[name], name) for name in PRESETS)
        self.pairs = CheckList("Images with their annotation; the ticked ones are trained on.")
        self.complete = check_box(
            "Every cell is annotated",
            "Untick when cells are missing: what is not annotated is then not treated as background.",
            is_on=True,
        )
        self.unlabelled, self.name = UnlabelledChoices(), QLineEdit()
        self.name.setToolTip("Name of the new model in the model lists.")
        self._form = form_layout(
            ("Learn from", self.data),
            self.pairs,
            self.complete,
            ("Learn", self.what),
            ("Begin with", self._start),
            self.unlabelled,
            ("Effort", self.preset),
            ("Device", self.device),
            ("New name", self.name),
        )
        self._form.setContentsMargins(0, 0, 0, 0)
        return boxed(self._form)

    def _buttons(self) -> FlowLayout:
        self.train = RunButton(("Train", TRAIN_HELP), STOP, "Stopping…")
        self.pause = button("Pause", "Pause the training; it resumes where it was.")
        self.pause.setObjectName("preview")
        self.pause.setCheckable(True)
        self.count_with = button(
            "", "Count the image that it learned from with this model, in the count panel."
        )
        self.count_with.setVisible(False)
        return row(self.train, self.pause)


class TrainingForm(SettingsForm):
    """A form of settings of a training."""

    def __init__(self, settings: Any) -> None:
        super().__init__(type(settings))
        for name, value in self.values().items():
            field = self.container[name]
            if isinstance(value, int):
                field.max = LARGEST
            elif not is_threshold(type(settings), name):
                field.step = SMALLEST_STEP
        self.show_settings(settings)

    @property
    def settings(self) -> Any:
        """The settings as the form has them; fields that nobody has touched are not rounded by it."""
        touched = {name: value for name, value in self.values().items() if value != self._shown[name]}
        return replace(self._base, **touched)

    def show_settings(self, settings: Any) -> None:
        """Put settings into the form."""
        self._base = settings
        self.set_values(asdict(settings))
        self._shown = self.values()


class UnlabelledChoices(QWidget):
    """What is learned without annotation before the training: from which images, how, how long."""

    def __init__(self) -> None:
        super().__init__()
        choices = QWidget()
        self.wanted = check_box(
            "Unlabelled images first",
            "Pretrain on images of the same kind without annotation, before the annotated ones.",
        )
        choices.setVisible(False)
        self.wanted.toggled.connect(choices.setVisible)
        self.images = PanelComboBox(
            "Folder of images without annotation, searched with its subfolders.", folders=UNLABELLED
        )
        self.images.fill([("No folder yet", NO_FOLDER)])
        self.method, self.steps = PanelComboBox(METHOD_HELP), QSpinBox()
        self.method.fill((title, name) for name, title in METHOD_TITLES.items())
        self.steps.setRange(1, LARGEST)
        self.steps.setSingleStep(50)
        self.steps.setValue(PretrainSettings().steps)
        self.steps.setToolTip("Batches of 32 patches of the images; a hundred take minutes on a laptop.")
        stack(self.wanted, choices, into=self)
        rows = ("Images", self.images), ("Method", self.method), ("Steps", self.steps)
        form = form_layout(*rows, into=choices)
        form.setContentsMargins(0, 0, 0, 0)  # further in, fields stand below their names in large letters

    def folder(self) -> Path:
        """Return the chosen folder.

        SettingsError where none is chosen.
        """
        if self.images.folder is None:
            raise SettingsError(
                "Unlabelled images to learn from first need a folder; none is chosen. Choose one, or untick "
                "'Unlabelled images first'."
            )
        return self.images.folder

    @property
    def settings(self) -> PretrainSettings:
        """How, and how long."""
        return PretrainSettings(method=self.method.currentData(), steps=self.steps.value())


class TrainCard(QFrame):
    """Curves over the steps, truth beside what is found now, scores; out of sight until there are any."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("card")
        self.plot, self.picture = CurvePlot(), Picture()
        self.caption, self.scores = wrapped_label(name="caption"), FigureTable()
        self.scores.setObjectName("scores")
        self.scores.setToolTip(SCORES_HELP)
        for label in (self.caption, self.scores):
            label.setAlignment(Qt.AlignmentFlag.AlignCenter)
            label.setVisible(False)
        layout = stack(self.scores, self.plot, self.picture, self.caption, into=self)
        layout.setContentsMargins(MARGIN_PX, MARGIN_PX, MARGIN_PX, MARGIN_PX)
        self.setVisible(False)

    def show_curves(self, epochs: Sequence[Mapping[str, float]], last_step: float) -> None:
        """Draw the curves of the epochs so far."""

        def points(name: str) -> tuple[tuple[float, float], ...]:
            return tuple((epoch["step"], epoch[name]) for epoch in epochs if name in epoch)

        fields = {name for epoch in epochs for name in epoch}
        score = "score" if "score" in fields else "merit"
        axis, title, checked = "Score", "Score", "images"
        if "ap50" in fields:
            axis, title = AP_AXIS, "AP at IoU 0.5"
        if "accuracy" in fields:
            score, axis, title, checked = "accuracy", ACCURACY_AXIS, "Accuracy of the classes", "cells"
        curves = [Curve("Loss", "Loss on the images it learns from", points("loss"), LOSS_COLOUR)]
        if points(score) or not epochs:  # a classifier may have nothing to be checked with
            title += f" on the {checked} it is checked with"
            curves.append(Curve(axis, title, points(score), SCORE_COLOUR))
        self.plot.show_curves(curves, last_step)
        self.setVisible(True)

    def show_picture(self, picture: NDArray[np.uint8] | None, caption: str) -> None:
        """Show truth and found cells side by side."""
        if picture is not None:
            self.picture.show_array(picture)
            self.caption.setText(f"{caption}: truth · found now")
            self.caption.setVisible(True)

    def show_scores(self, before: Mapping[str, float], after: Mapping[str, float]) -> None:
        """Show the scores before and after as a table; nothing where there are none."""
        self.scores.setText(scores_table(before, after))
        self.scores.setVisible(bool(after))

    def show_classes(
        self, scores: Mapping[str, float], n_checked: Mapping[str, int], *, is_held_back: bool
    ) -> None:
        """Show how many cells of each class were checked with, and how many of these are given it."""
        self.scores.setText(classes_table(scores, n_checked, is_held_back=is_held_back))
        self.scores.setVisible(bool(scores))

    def clear(self) -> None:
        """Forget the last training."""
        self.show_scores({}, {})
        self.picture.setVisible(False)
        self.caption.setVisible(False)
        self.plot.show_curves((), 1.0)


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
        self._fit(is_new=True)

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Scale the picture; called by Qt."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self, *, is_new: bool = False) -> None:
        if self._pixmap.isNull() or self.width() < 8:
            return
        if not is_new and 0 <= self.width() - self.pixmap().width() <= SCROLL_BAR_PX:
            return  # else it grows where the bar goes, which brings the bar back, without end
        fitted = self._pixmap.scaledToWidth(self.width(), Qt.TransformationMode.SmoothTransformation)
        self.setPixmap(fitted)
        self.setFixedHeight(fitted.height())


def scores_table(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Return the scores that both have as a table in rich text; what became better is in colour."""
    shown = [name for name in SCORE_TITLES if name in before and name in after]
    if "ap50" in shown and "score" in shown:
        shown.remove("score")  # they are the same
    rows = ["<tr><td></td><td align='right'>before</td><td align='right'>after</td></tr>"]
    for name in shown:
        gain = after[name] - before[name]
        if name in LOWER_IS_BETTER:
            gain = -gain
        colour = ""
        if gain > LEAST_CHANGE:
            colour = BETTER_COLOUR
        elif gain < -LEAST_CHANGE:
            colour = WORSE_COLOUR
        digits = ".0%" if name in PERCENT else ".3f"
        after_text, ground = f"<b>{after[name]:{digits}}</b>", ""
        if colour:  # of the whole cell: Qt gives a chip no room for its margins, and cuts its figures
            after_text, ground = f"<span style='color:black'>{after_text}</span>", f" bgcolor='{colour}'"
        rows.append(
            f"<tr><td>{SCORE_TITLES[name]}</td><td align='right'>{before[name]:{digits}}</td>"
            f"<td align='right'{ground}>{after_text}</td></tr>"
        )
    return _table(rows)


def classes_table(
    scores: Mapping[str, float], n_checked: Mapping[str, int], *, is_held_back: bool = False
) -> str:
    """Return the cells of each class and their recall, its mean, and the accuracy, in rich text."""
    shown = [(name, f"recall_{name}", f"{n:,}") for name, n in n_checked.items()]
    total = f"{sum(n_checked.values()):,}"
    heading = "cells"
    if is_held_back:
        heading = "cells held back"
    rows = [f"<tr><td></td><td align='right'>{heading}</td><td align='right'>recall</td></tr>"]
    for title, name, n in (*shown, ("mean recall", "mean_recall", ""), ("accuracy", "accuracy", total)):
        figure = "not checked"
        if name in scores:
            figure = f"<b>{scores[name]:.3f}</b>"
        rows.append(
            f"<tr><td>{escape(title)}</td><td align='right'>{n}</td><td align='right'>{figure}</td></tr>"
        )
    return _table(rows)


def _table(rows: Sequence[str]) -> str:
    return f"<table align='center' cellspacing='4'>{''.join(rows)}</table>"


def training_line(progress: Progress, seconds_left: float | None) -> str:
    """Return what the training is doing, its loss, and how long it still takes."""
    if progress.stage == "paused":
        return "Paused. Napari may be closed meanwhile."
    if progress.stage in IMAGES:
        parts = [f"{IMAGES[progress.stage]}: image {progress.done + 1} of {progress.total}"]
    elif progress.stage in STEPS:
        parts = [f"Step {progress.done:,} of {progress.total:,}"]
    else:
        return progress_line(progress, seconds_left)
    if progress.stage == "pretrain":
        parts.insert(0, "Unlabelled images")
    if progress.note and progress.stage != "epoch":  # its scores are in the curves
        parts.append(progress.note)
    if seconds_left is not None:
        parts.append(f"{duration(seconds_left)} left")
    return " · ".join(parts)
