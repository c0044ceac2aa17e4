"""The looks of the train widget: its controls and where they stand; curves, picture and scores of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QEvent, Qt
from qtpy.QtGui import QFontMetrics, QImage, QPixmap, QResizeEvent
from qtpy.QtWidgets import QFrame, QLabel, QLineEdit, QSizePolicy, QSpinBox, QVBoxLayout, QWidget

from cellwright.core.errors import SettingsError
from cellwright.core.tasks import Progress
from cellwright.models.registry import FAMILIES
from cellwright.training.run_folder import SCORE_TITLES, SCRATCH
from cellwright.training.settings import PRESETS, FinetuneSettings, PretrainMethod, PretrainSettings
from cellwright.widgets.shared.combos import PanelComboBox
from cellwright.widgets.shared.flow import FigureTable, FlowLayout
from cellwright.widgets.shared.form import CheckList, SettingsForm, is_threshold
from cellwright.widgets.shared.jobs import JobBar, RunButton
from cellwright.widgets.shared.messages import duration, progress_line
from cellwright.widgets.shared.model_combos import DeviceComboBox, ModelComboBox
from cellwright.widgets.shared.panel_area import DRAWN, LETTERS
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

LAYERS = "layers"  # data of the entry of the viewer's layers
PRESET_TITLES = {
    "quick": "Quick · minutes",
    "balanced": "Balanced · an hour",
    "thorough": "Thorough · a night",
}
TRAIN_HELP = "Train the model on these images. The result is kept only if it is better."
STOP_HELP = "Stop the training; the best model so far is kept if it is better than the one it began with."
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
STEPS = ("pretrain", "fine-tune", "epoch")  # stages that are steps of training
SCROLL_BAR_PX = 24  # at most
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
    "On images that the model is checked with. AP at IoU 0.5: right outlines among all found and missed "
    "ones; right is what covers half of a true cell or more. Count error: how far counts are off. Retention: "
    "how well the model still does what it did before. Pixel error: how far it is off, pixel by pixel."
)
CURVES_HELP = (
    "Loss: how far the model is off on what it learns from; it falls while the model learns. AP, or score: "
    "how good it is on the images it is checked with; it should rise."
)
LOWER_IS_BETTER = ("count_error", "validation_loss")
PERCENT = ("count_error",)
AP_AXIS, AP_MARGIN = "AP", 0.05  # the margin keeps the dots of 0 and 1 whole
PLOT_SPACING_PX = 12  # the lowest tick of one is not written over the highest of the next
HEIGHT_SHARE, HEIGHT_LINES = 0.6, 6  # height of the plots: a share of the width, and lines of text
MOST_DOTS = 30  # more would hide the line


class TrainPanel(QWidget):
    """Controls of the train widget from top to bottom: data, model, findings, buttons, curves, own models."""

    def __init__(self) -> None:
        super().__init__()
        layout = panel_layout(self, OWN_STYLE)
        self.offer_box, self.check_box, self.models_box = QVBoxLayout(), QVBoxLayout(), QVBoxLayout()
        choices = self._choices()
        self.form = SettingsForm(FinetuneSettings)
        for name, value in self.form.values().items():
            field = self.form.container[name]
            if isinstance(value, int):
                field.max = LARGEST
            elif not is_threshold(FinetuneSettings, name):
                field.step = SMALLEST_STEP
        self.show_settings(FinetuneSettings())
        self.advanced, self.setup = FoldedPart("Advanced settings", self.form.native), QWidget()
        stack(choices, self.advanced, self.check_box, into=self.setup, spacing_px=layout.spacing())
        buttons = self._buttons()
        self.jobs = JobBar(run_button=self.train, describe=training_line)
        self.message, self.card = MessageLabel("Training"), TrainCard()
        fill(layout, self.offer_box, self.setup, buttons, self.jobs, self.message)
        fill(layout, self.count_with, self.card, self.models_box)
        layout.addStretch(1)
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

    def show_running(self, *, is_running: bool) -> None:
        """While a training runs, show what it does in the place of what was chosen; offer Pause."""
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
            after=[(f"From scratch · {family}", SCRATCH + family) for family in FAMILIES],
        )
        self.start.choose_preferred()
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
        form = form_layout(
            ("Learn from", self.data),
            self.pairs,
            self.complete,
            ("Begin with", self.start.with_card()),
            self.unlabelled,
            ("Effort", self.preset),
            ("Device", self.device),
            ("New name", self.name),
        )
        form.setContentsMargins(0, 0, 0, 0)
        return boxed(form)

    def _buttons(self) -> FlowLayout:
        self.train = RunButton(("Train", TRAIN_HELP), ("Stop, keep the best", STOP_HELP), "Stopping…")
        self.pause = button("Pause", "Pause the training; it resumes where it was.")
        self.pause.setObjectName("preview")
        self.pause.setCheckable(True)
        self.count_with = button(
            "", "Count the image that it learned from with this model, in the count panel."
        )
        self.count_with.setVisible(False)
        return row(self.train, self.pause)


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
        axis, title = "Score", "Score"
        if "ap50" in fields:
            axis, title = AP_AXIS, "AP at IoU 0.5"
        self.plot.show_curves(
            (
                Curve("Loss", "Loss on the images it learns from", points("loss"), LOSS_COLOUR),
                Curve(axis, f"{title} on the images it is checked with", points(score), SCORE_COLOUR),
            ),
            last_step,
        )
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
    return f"<table align='center' cellspacing='4'>{''.join(rows)}</table>"


def training_line(progress: Progress, seconds_left: float | None) -> str:
    """Return what the training is doing, its loss, and how long it still takes."""
    if progress.stage == "paused":
        return "Paused. Napari may be closed meanwhile."
    if progress.stage == "check":
        parts = [f"Checking the model: image {progress.done + 1} of {progress.total}"]
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


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve: (step, value) in the order of the steps."""

    axis: str
    title: str
    points: tuple[tuple[float, float], ...]
    colour: str


class CurvePlot(QWidget):
    """Plots above each other with the steps in common, under a line that names them and their last values.

    Plots are made when there is something to draw: pyqtgraph takes a while to load. They have the colours and
    the letters of the panel, and are higher where it is wider.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName(DRAWN)
        self.curves: tuple[Curve, ...] = ()
        self.plots: list[Any] = []  # pyqtgraph.PlotItem, one for each curve
        self._lines: list[Any] = []
        self._fitted = 0  # width that the height is for
        self.graphics: Any = None  # pyqtgraph.GraphicsLayoutWidget
        self.legend = wrapped_label(name="legend")
        self.legend.setTextFormat(Qt.TextFormat.RichText)
        self._layout = stack(self.legend, into=self)

    def show_curves(self, curves: Sequence[Curve], last_step: float) -> None:
        """Draw these curves; the steps go from 0 to ``last_step``."""
        self.curves = tuple(curves)
        self.setToolTip("\n".join([*(_tooltip(curve) for curve in curves if curve.points), CURVES_HELP]))
        self.legend.setText("<br>".join(_legend(curve) for curve in curves))
        if [plot.objectName() for plot in self.plots] != [curve.title for curve in curves]:
            self._make_plots()
        for curve, plot, line in zip(self.curves, self.plots, self._lines, strict=True):
            steps, values = zip(*curve.points, strict=True) if curve.points else ((), ())
            line.setData(steps, values, symbol="o" if len(steps) < MOST_DOTS else None)
            plot.setXRange(0.0, max(float(last_step), 1.0), padding=0.02)

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow font and theme; called by Qt."""
        super().changeEvent(event)
        if event is not None and event.type() in (QEvent.Type.FontChange, QEvent.Type.PaletteChange):
            self._dress()

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Follow the width of the panel, but not a scroll bar that comes and goes; called by Qt."""
        super().resizeEvent(event)
        if abs(self.width() - self._fitted) > SCROLL_BAR_PX:
            self._fitted = self.width()
            self._dress()

    def _make_plots(self) -> None:
        import pyqtgraph

        if self.graphics is None:
            self.graphics = pyqtgraph.GraphicsLayoutWidget()
            self.graphics.setBackground(None)
            self.graphics.setCacheMode(self.graphics.CacheModeFlag.CacheNone)  # follow the theme
            self.graphics.wheelEvent = lambda event: event.ignore()  # the wheel is the panel's
            self.graphics.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # nothing to be done in it by keys
            self.graphics.ci.setSpacing(PLOT_SPACING_PX)
            self._layout.addWidget(self.graphics)
        self.graphics.clear()
        self.plots, self._lines = [], []
        for place, curve in enumerate(self.curves):
            plot = self.graphics.addPlot(row=place, col=0, enableMenu=False)
            plot.setObjectName(curve.title)
            plot.setMouseEnabled(x=False, y=False)
            plot.hideButtons()
            for side, label in (("left", curve.axis), ("bottom", "Step")):
                # before the label: a loss of 0.6 is not 600
                plot.getAxis(side).enableAutoSIPrefix(enable=False)
                plot.setLabel(side, label)
                plot.showLabel(side, side == "left" or curve is self.curves[-1])
            if curve.axis == AP_AXIS:
                plot.setLimits(yMin=-AP_MARGIN, yMax=1 + AP_MARGIN)
            pen = pyqtgraph.mkPen(curve.colour, width=2)
            self._lines.append(plot.plot(pen=pen, symbolSize=5, symbolPen=None, symbolBrush=curve.colour))
            self.plots.append(plot)
        self._dress()

    def _dress(self) -> None:
        """Draw axes and letters as the panel does, the steps under the last plot alone."""
        if self.graphics is None:
            return
        font = self.font()
        font.setPointSizeF(LETTERS * font.pointSizeF())
        metrics, ink = QFontMetrics(font), self.palette().windowText().color()
        self.graphics.ci.setContentsMargins(2, metrics.height() // 2, 8, 2)  # half of the highest tick
        for plot in self.plots:
            left, bottom = plot.getAxis("left"), plot.getAxis("bottom")
            left.setWidth(metrics.horizontalAdvance("0.000") + 3 * metrics.height() // 2)  # the same in each
            for axis in (left, bottom):
                axis.setPen(ink)
                axis.setTextPen(ink)
                axis.label.setFont(font)
                axis.setStyle(tickFont=font, tickLength=-3)
            left.setStyle(maxTickLevel=0)
            bottom.setStyle(showValues=plot is self.plots[-1])
        self.graphics.setFixedHeight(round(HEIGHT_SHARE * self.width()) + HEIGHT_LINES * metrics.height())


def _legend(curve: Curve) -> str:
    """Return rich text: a chip in the colour of a curve, its title, its last value."""
    last = f": <b>{curve.points[-1][1]:.3g}</b>" if curve.points else ""
    return f"<span style='background-color:{curve.colour}'>&nbsp;&nbsp;&nbsp;</span> {curve.title}{last}"


def _tooltip(curve: Curve) -> str:
    values = [value for _, value in curve.points]
    return f"{curve.title}: {values[-1]:.4g} (lowest {min(values):.4g}, highest {max(values):.4g})"
