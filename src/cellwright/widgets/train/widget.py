"""The train widget: from annotated images to a model that counts them better, watched while it learns."""

from typing import TYPE_CHECKING

from napari.layers import Layer
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QApplication, QWidget

from cellwright.core.tasks import Progress
from cellwright.files.dataset.folder import Dataset
from cellwright.training.run_folder import Plan, verdict
from cellwright.widgets.shared.combos import forget_errors
from cellwright.widgets.shared.messages import COUNT, TRAIN, HandOver, hand_over, listen, news_of, telling
from cellwright.widgets.shared.model_combos import model_events
from cellwright.widgets.shared.style import PanelScrollArea, is_taken_out, stack
from cellwright.widgets.train.choices import DataCheck, ResumeOffer, TrainChoices
from cellwright.widgets.train.model import EpochPicture, TrainingOutcome, TrainModel
from cellwright.widgets.train.model_list import OwnModels
from cellwright.widgets.train.view import TrainPanel

if TYPE_CHECKING:
    import napari.viewer

FLAWLESS = (
    "Without any training the model already finds every cell that it is checked with. Annotate images where "
    "it errs; these can at best make its outlines a little closer."
)


class TrainWidget(QWidget):
    """Trains a model on annotated layers or a dataset folder and puts it into the list of models."""

    def __init__(self, napari_viewer: "napari.viewer.Viewer") -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.model = TrainModel()
        self.panel = TrainPanel()
        self.jobs = self.panel.jobs
        self._new_model = ""
        self._taught_image: Layer | None = None
        self.choices = TrainChoices(napari_viewer, self.panel)
        self.data_check = DataCheck(self.choices, self.model)
        self.offer = ResumeOffer()
        self.own = OwnModels(self.panel.message.tell)
        self.panel.check_box.addWidget(self.data_check)
        self.panel.offer_box.addWidget(self.offer)
        self.panel.models_box.addWidget(self.own)
        area = PanelScrollArea(self.panel, self.panel.train)
        area.shown.connect(self.panel.device.find_devices)
        area.shown.connect(self.choices.look_again)
        stack(area, into=self)
        self._connect()
        self.choices.refresh_pairs()
        self.offer.refresh()

    def _connect(self) -> None:
        forget_errors(self.panel.message, self.panel)
        self.choices.changed.connect(self.panel.message.forget_error)
        self.jobs.progressed.connect(self._on_progressed)
        self.jobs.failed.connect(self.model.fail)
        self.jobs.cancelled.connect(self.model.end_stopped)
        self.jobs.finished.connect(self._on_finished)
        self.panel.train.started.connect(self.begin)
        self.panel.train.stopped.connect(self.stop)
        self.panel.pause.toggled.connect(self.pause)
        self.offer.accepted.connect(self.train)
        self.offer.discarded.connect(self.choices.suggest_name)
        self.model.started.connect(self._on_started)
        self.model.ended.connect(self.show_ended)
        for part in (self.model, self.panel.start):
            part.failed.connect(self.panel.message.fail)
        listen(news_of(self.viewer).sent, self._on_sent, self)
        self.panel.count_with.clicked.connect(self._on_count_clicked)
        application = QApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(self.leave)

    @property
    def is_busy(self) -> bool:
        """Whether a training is running or paused."""
        return self.model.is_busy

    # -- training -----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Train as it is set up; tells in the panel why it cannot."""
        self.panel.advanced.title.setChecked(False)  # else what is told lies below the panel's edge
        with telling(self.panel.message.fail):
            plan, layers = self.choices.plan()
            images = [pair.image for pair in self.choices.chosen if layers is not None]
            if self._taught_image not in images:
                self._taught_image = next(iter(images), None)
            self.train(plan, layers)

    def train(self, plan: Plan, layers: Dataset | None = None) -> None:
        """Train as planned, or resume a run that was not ended, unless one goes on already."""
        if not self.is_busy:
            self.jobs.start(self.model.start(plan, layers), self.show_ended)

    def stop(self) -> None:
        """End the training at its next step and keep the best model so far."""
        if self.jobs.is_busy:
            self.jobs.cancel()
            self.model.set_paused(is_paused=False)
            self.panel.pause.setVisible(False)

    def leave(self) -> None:
        """Stop at the next step without ending the run, so that it can be resumed later."""
        self.model.is_leaving = True
        self.data_check.job.cancel()
        self.jobs.cancel()

    def changeEvent(self, event: QEvent | None) -> None:
        """Leave the run with the panel, to be resumed; called by Qt."""
        super().changeEvent(event)
        if is_taken_out(self, event):
            self.leave()

    def pause(self, is_paused: bool) -> None:  # noqa: FBT001 - a slot of Qt
        """Let the training rest, or resume."""
        self.model.set_paused(is_paused=is_paused)
        self.panel.show_paused(is_paused=is_paused)

    # -- what is shown ------------------------------------------------------------------------------------

    def _on_started(self) -> None:
        self.panel.card.clear()
        self.panel.count_with.setVisible(False)
        self.offer.hide()
        self.panel.show_running(is_running=True)
        if self.model.plan is not None:
            self.panel.message.tell(f"Training {self.model.plan.name!r}.")
        self._draw()

    def _draw(self) -> None:
        if self.model.plan is not None:
            self.panel.card.show_curves(self.model.epochs, self.model.plan.settings.steps)

    def _on_progressed(self, progress: Progress) -> None:
        if isinstance(progress, EpochPicture):
            self._draw()
            self.panel.card.show_picture(progress.picture, progress.caption)
            if any(epoch["step"] == 0 and epoch.get("ap50") == 1 for epoch in self.model.epochs):
                self.panel.message.tell(FLAWLESS, is_warning=True)

    def show_ended(self, outcome: TrainingOutcome) -> None:
        """Show what came out of a training: scores, and which model is kept."""
        self.panel.card.show_scores(outcome.before, outcome.after)
        if outcome.epochs:
            self.panel.card.show_curves(outcome.epochs, outcome.plan.settings.steps)
        words = verdict(outcome.before, outcome.after, is_better=bool(outcome.model))
        if not outcome.model:
            told = " ".join([f"{outcome.plan.name!r}: {words}.", *outcome.notices])
            self.panel.message.tell(told, is_warning=True)
            return
        kept = f"{outcome.model!r}: {words}. It is in the model lists now."
        self.panel.message.tell(" ".join([kept, *outcome.notices]), is_warning=bool(outcome.notices))
        self.own.box.refresh(outcome.model)
        model_events.changed.emit()
        self._new_model = outcome.model
        self.panel.count_with.setText(f"Count with {outcome.model}")
        self.panel.count_with.setVisible(True)

    # -- events -------------------------------------------------------------------------------------------

    def _on_finished(self) -> None:
        self.model.is_busy = False
        self.panel.show_running(is_running=False)
        self.choices.name_anew()
        self.offer.refresh()

    def _on_sent(self, panel: str, what: HandOver) -> None:
        if panel == TRAIN and not self.is_busy:
            self._taught_image = what.image
            self.choices.take(what)

    def _on_count_clicked(self) -> None:
        hand_over(self.viewer, COUNT, HandOver(self._taught_image, model=self._new_model, begins=True))
