"""The train widget: from annotated images to a model that counts them better, watched while it learns."""

import threading
import time
from typing import TYPE_CHECKING

from qtpy.compat import isalive
from qtpy.QtCore import Qt, QTimer, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QApplication, QScrollArea, QVBoxLayout, QWidget

from cellwright.core.errors import CellwrightError
from cellwright.core.tasks import Eta, Progress
from cellwright.files.dataset.folder import Dataset
from cellwright.training.run_folder import Plan, curve, discard, verdict
from cellwright.widgets.shared.combos import model_events
from cellwright.widgets.shared.jobs import Job
from cellwright.widgets.shared.messages import REDRAW_S, duration, progress_line, tell_error
from cellwright.widgets.train.choices import TrainChoices
from cellwright.widgets.train.data_check import Look
from cellwright.widgets.train.model_list import OwnModels
from cellwright.widgets.train.resume_offer import Offer
from cellwright.widgets.train.training_run import Ended, Seen, stop, train_task
from cellwright.widgets.train.view import TrainPanel

if TYPE_CHECKING:
    import napari.viewer

OWN_STAGES = ("write", "begin", "read", "epoch")  # the others are those of counting
MARGIN_PX = 10


class TrainWidget(QWidget):
    """Trains a model on annotated layers or a dataset folder and puts it into the list of models.

    Parameters
    ----------
    napari_viewer
        The viewer it is docked in.
    """

    finished = Signal()  # a training has ended, well or not

    def __init__(self, napari_viewer: "napari.viewer.Viewer") -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.panel = TrainPanel()
        self.job: Job | None = None
        self.plan: Plan | None = None
        self._gate = threading.Event()
        self._is_leaving = self._has_been_shown = False
        self.choices = TrainChoices(napari_viewer, self.panel)
        self.look = Look(self.choices, lambda: not (self.is_busy or self._is_leaving))
        self.offer = Offer()
        self.own = OwnModels(self.panel.show_message)
        self.panel.look_box.addWidget(self.look)
        self.panel.offer_box.addWidget(self.offer)
        self.panel.shelf_box.addWidget(self.own)
        self._area = area = QScrollArea()
        area.setWidgetResizable(True)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setFrameShape(QScrollArea.Shape.NoFrame)
        area.setWidget(self.panel)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(area)
        self.setMinimumWidth(330)
        self._connect()
        self.choices.refresh_pairs()
        self.offer.refresh()

    @property
    def is_busy(self) -> bool:
        """Whether a training is running or paused."""
        return self.job is not None

    # -- training -----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Train as it is set up; tells in the panel why it cannot."""
        try:
            plan, layers = self.choices.plan()
        except CellwrightError as error:
            self.show_error(error)
            return
        self._run(plan, layers)

    def resume(self, plan: Plan) -> None:
        """Go on with a run that was not ended."""
        self._run(plan, None)

    def _run(self, plan: Plan, layers: Dataset | None) -> None:
        if self.is_busy:
            return
        self.plan, self._is_leaving = plan, False
        self._gate.set()
        self._eta, self._told = Eta(), 0.0
        self.panel.card.clear()
        self.panel.show_message("")
        self.offer.hide()
        self.panel.show_running(is_running=True)
        self._draw()
        self.job = job = Job(train_task(plan, self._gate, layers), self)
        job.progressed.connect(self._on_progressed)
        job.returned.connect(self.show_ended)
        job.failed.connect(self._on_failed)
        job.cancelled.connect(self._on_cancelled)
        job.finished.connect(self._on_finished)
        job.start()
        QTimer.singleShot(0, self._show_card)  # once it has its place

    def _show_card(self) -> None:
        """Scroll to the curves where they lie below what is seen."""
        if isalive(self):  # type: ignore[no-untyped-call]
            self._area.ensureWidgetVisible(self.panel.card, 0, MARGIN_PX)

    def stop(self) -> None:
        """End the training at its next step and keep the best model so far."""
        if self.job is not None:
            self.job.cancel()
            self._gate.set()
            self.panel.train.setText("Stopping…")
            self.panel.train.setEnabled(False)
            self.panel.pause.setVisible(False)

    def leave(self) -> None:
        """Stop at the next step without ending the run, so that it can be gone on with later."""
        self._is_leaving = True
        self.look.cancel()
        if self.job is not None:
            self.job.cancel()

    def pause(self, is_paused: bool) -> None:  # noqa: FBT001 - a slot of Qt
        """Let the training rest, or go on."""
        if is_paused:
            self._gate.clear()
            self.panel.status.setText("Pausing…")
        else:
            self._gate.set()
        self.panel.pause.setText("Resume" if is_paused else "Pause")

    def _on_progressed(self, progress: Progress) -> None:
        if progress.stage == "paused":
            if self.panel.pause.isChecked():
                self.panel.status.setText("Paused. Napari may be closed meanwhile.")
            return
        seconds_left = self._eta.seconds_left(progress)
        if isinstance(progress, Seen):
            self._draw()
            self.panel.card.show_picture(progress.picture, progress.caption)
        now = time.monotonic()
        if now - self._told < REDRAW_S:
            return  # stages follow each other fast while the model is checked
        self._told = now
        self.panel.show_progress(self._fraction(progress), training_line(progress, seconds_left))

    def _fraction(self, progress: Progress) -> float:
        """Return the share of the whole training: other stages leave the bar where it was."""
        if progress.stage in ("fine-tune", "epoch"):
            return progress.fraction
        return self.panel.bar.value() / 100

    def _draw(self) -> None:
        if self.plan is not None:
            self.panel.card.show_curves(curve(self.plan), self.plan.settings.steps)

    def show_ended(self, ended: Ended) -> None:
        """Show what came out of a training: scores, and which model is kept."""
        self.panel.card.show_scores(ended.before, ended.after)
        if ended.epochs:
            self.panel.card.show_curves(ended.epochs, ended.plan.settings.steps)
        words = verdict(ended.before, ended.after, is_better=bool(ended.model))
        name = ended.model or ended.plan.name
        where = "It is in the model lists now." if ended.model else ""
        self.panel.show_message(" ".join(filter(None, [f"{name!r}: {words}.", where, *ended.notices])))
        if ended.model:
            self.own.refresh(ended.model)
            model_events.changed.emit()

    def _on_cancelled(self) -> None:
        if self._is_leaving or self.plan is None:
            return
        try:
            self.show_ended(stop(self.plan))
        except CellwrightError as error:
            self.show_error(error)

    def _on_failed(self, error: Exception) -> None:
        if self.plan is not None and not curve(self.plan):
            discard(self.plan)  # it has not begun: there is nothing to go on with
        self.show_error(error)

    def _on_finished(self) -> None:
        self.job = None
        self.panel.show_running(is_running=False)
        self.choices.name_anew()
        self.offer.refresh()
        self.finished.emit()

    def show_error(self, error: Exception) -> None:
        """Tell in the panel what went wrong; what was not foreseen is logged too."""
        tell_error(self.panel, error, "Training")

    # -- events -------------------------------------------------------------------------------------------

    def showEvent(self, event: QShowEvent | None) -> None:
        """Look for devices once the widget is seen."""
        super().showEvent(event)
        if not self._has_been_shown:
            self._has_been_shown = True
            self.choices.find_devices()

    def _connect(self) -> None:
        self.panel.train.clicked.connect(self._on_train_clicked)
        self.panel.pause.toggled.connect(self.pause)
        self.offer.accepted.connect(self.resume)
        self.offer.discarded.connect(self.choices.suggest_name)
        model_events.changed.connect(self._on_news)
        application = QApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(self.leave)

    def _on_train_clicked(self) -> None:
        if self.is_busy:
            self.stop()
        else:
            self.begin()

    def _on_news(self) -> None:
        if isalive(self):  # type: ignore[no-untyped-call]
            self.own.refresh()


def training_line(progress: Progress, seconds_left: float | None) -> str:
    """Return what the training is doing, its loss, and how long it still takes."""
    if progress.stage in OWN_STAGES:
        return progress_line(progress, seconds_left)
    if progress.stage != "fine-tune":
        return "Checking the model on the validation images…"
    left = "" if seconds_left is None else f" · {duration(seconds_left)} left"
    note = f" · {progress.note}" if progress.note else ""
    return f"Step {progress.done:,} of {progress.total:,}{note}{left}"
