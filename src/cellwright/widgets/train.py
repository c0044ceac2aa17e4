"""The train widget: from annotated images to a model that counts them better, watched while it learns."""

import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.compat import isalive
from qtpy.QtCore import QSignalBlocker, Qt, QTimer, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QApplication, QFileDialog, QListWidgetItem, QScrollArea, QVBoxLayout, QWidget

from cellwright.errors import CellwrightError
from cellwright.io.dataset import Dataset, read_dataset
from cellwright.models import registry, shelf
from cellwright.models.spec import read_spec
from cellwright.tasks import Eta, Progress, Task
from cellwright.training.finetune_settings import FinetuneSettings, preset
from cellwright.training.inspect import Findings, inspect
from cellwright.widgets.choices import SPECS, device_task, fill, model_title
from cellwright.widgets.counting import progress_line
from cellwright.widgets.job import Job
from cellwright.widgets.running import REDRAW_S
from cellwright.widgets.shelf_news import shelf_news
from cellwright.widgets.train_layers import Pair, dataset_of, pairs
from cellwright.widgets.train_panel import TrainPanel
from cellwright.widgets.train_run import (
    SCRATCH,
    Ended,
    Plan,
    Seen,
    check_name,
    curve,
    data_folder,
    discard,
    free_name,
    stop,
    train_task,
    unfinished,
)
from cellwright.widgets.train_shelf import OwnModels

if TYPE_CHECKING:
    import napari.viewer

LAYERS, OTHER_FOLDER = "layers", ""
OWN_STAGES = ("write", "begin", "read", "epoch")  # the others are those of counting
MARGIN_PX = 10
LOOK_MS = 300  # after the last change of what is chosen, the data are looked at

logger = logging.getLogger(__name__)


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
        self.look_job: Job | None = None
        self.plan: Plan | None = None
        self.findings: Findings | None = None
        self._gate = threading.Event()
        self._is_leaving = self._has_been_shown = self._is_stale = False
        self._has_own_name = False
        self._offered: list[Plan] = []
        self.own = OwnModels(self.panel.show_message)
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
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(LOOK_MS)
        self._fill()
        self._connect()
        self._refresh_pairs()
        self._offer()

    # -- what is chosen -----------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether a training is running or paused."""
        return self.job is not None

    @property
    def settings(self) -> FinetuneSettings:
        """What the form of the advanced settings says."""
        return self.panel.settings

    @property
    def start(self) -> str:
        """Name or folder of the model to begin with, or ``new:`` and a family."""
        return str(self.panel.start.currentData())

    @property
    def chosen(self) -> list[Pair]:
        """The ticked pairs of image and annotation."""
        items = [self.panel.pairs.item(place) for place in range(self.panel.pairs.count())]
        return [
            pair
            for item, pair in zip(items, self._pairs, strict=True)
            if item is not None and item.checkState() == Qt.CheckState.Checked
        ]

    def dataset(self) -> Dataset:
        """Return what is to be learned from, images not yet read from a folder.

        Raises
        ------
        CellwrightError
            There is nothing, or the folder is no dataset.
        """
        if self.panel.data.currentData() == LAYERS:
            return dataset_of(self.chosen, self.viewer.layers, is_complete=self.panel.complete.isChecked())
        return read_dataset(self.panel.data.currentData())

    def choose_folder(self, folder: Path) -> None:
        """Choose a dataset folder."""
        box = self.panel.data
        with QSignalBlocker(box):
            place = box.findData(str(folder))
            if place < 0:
                place = 1
                box.insertItem(place, f"Folder · {folder.name}", str(folder))
                box.setItemData(place, str(folder), Qt.ItemDataRole.ToolTipRole)
            box.setCurrentIndex(place)
        self._on_data_changed()

    # -- looking ------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Find out beside the viewer what the chosen data hold and what looks wrong with them."""
        self._timer.stop()
        if self.is_busy or self._is_leaving:
            return
        if self.look_job is not None:
            self._is_stale = True
            return
        try:
            dataset = self.dataset()
        except CellwrightError as error:
            self.findings = None
            self.panel.show_findings(str(error), ())
            return
        self.panel.show_findings("Looking at the images…", ())
        self.look_job = job = Job(look_task(dataset, self.start), self)
        job.returned.connect(self._on_looked)
        job.failed.connect(self._on_look_failed)
        job.finished.connect(self._on_look_finished)
        job.start()

    def _on_looked(self, findings: Findings) -> None:
        self.findings = findings
        self.panel.show_findings(findings.summary(), [one.text for one in findings.warnings])

    def _on_look_failed(self, error: Exception) -> None:
        self.findings = None
        self.panel.show_findings("", [_words(error)])

    def _on_look_finished(self) -> None:
        if self.look_job is not None:
            self.look_job.deleteLater()
        self.look_job = None
        if self._is_stale:
            self._is_stale = False
            self.look()

    # -- training -----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Train as it is set up; tells in the panel why it cannot."""
        try:
            name = check_name(self.panel.name.text())
            dataset = self.dataset()
            is_layers = self.panel.data.currentData() == LAYERS
            data = str(data_folder(name)) if is_layers else str(dataset.folder.resolve())
            device = str(self.panel.device.currentData())
            plan = Plan(name, self.start, data, self.settings, device)
        except CellwrightError as error:
            self.show_error(error)
            return
        self._run(plan, dataset if is_layers else None)

    def resume(self, plan: Plan) -> None:
        """Go on with a run that was not ended."""
        self._run(plan, None)

    def _run(self, plan: Plan, layers: Dataset | None) -> None:
        if self.is_busy:
            return
        self.plan, self._is_leaving = plan, False
        self._gate.set()
        self._eta, self._told = Eta(), 0.0
        self.panel.clear()
        self.panel.show_message("")
        self.panel.show_offer("")
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
        for job in (self.job, self.look_job):
            if job is not None:
                job.cancel()

    def pause(self, is_paused: bool) -> None:  # noqa: FBT001 - a slot of Qt
        """Let the training rest, or go on."""
        if is_paused:
            self._gate.clear()
            self.panel.status.setText("Pausing…")
        else:
            self._gate.set()
        self.panel.pause.setText("Go on" if is_paused else "Pause")

    def _on_progressed(self, progress: Progress) -> None:
        if progress.stage == "paused":
            if self.panel.pause.isChecked():
                self.panel.status.setText("Paused. Napari may be closed meanwhile.")
            return
        seconds_left = self._eta.seconds_left(progress)
        if isinstance(progress, Seen):
            self._draw()
            self.panel.show_picture(progress.picture, progress.caption)
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
            self.panel.show_curves(curve(self.plan), self.plan.settings.steps)

    def show_ended(self, ended: Ended) -> None:
        """Show what came out of a training: scores, and which model is kept."""
        self.panel.show_scores(ended.before, ended.after)
        if ended.epochs:
            self.panel.show_curves(ended.epochs, ended.plan.settings.steps)
        kept = (
            f"The new model {ended.model!r} is better and is in the model lists now."
            if ended.model
            else f"{ended.plan.start.removeprefix(SCRATCH)!r} stays the better model; nothing new was kept."
        )
        self.panel.show_message(" ".join([kept, *ended.notices]))
        if ended.model:
            self.own.refresh(ended.model)
            shelf_news.changed.emit()

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
        if self.job is not None:
            self.job.deleteLater()
        self.job = None
        self.panel.show_running(is_running=False)
        self._has_own_name = False
        self._name()
        self._offer()
        self.finished.emit()

    def show_error(self, error: Exception) -> None:
        """Tell in the panel what went wrong; what was not foreseen is logged too."""
        if not isinstance(error, CellwrightError):
            logger.error("Training failed", exc_info=error)
        self.panel.show_message(_words(error), is_error=True)

    # -- events -------------------------------------------------------------------------------------------

    def showEvent(self, event: QShowEvent | None) -> None:
        """Look for devices once the widget is seen."""
        super().showEvent(event)
        if not self._has_been_shown:
            self._has_been_shown = True
            job = Job(device_task(), self)
            job.returned.connect(self._on_devices_found)
            job.start()

    def _on_devices_found(self, found: tuple[tuple[str, str], ...]) -> None:
        entries = [(f"Auto · {found[0][1]}", "auto"), *((title, name) for name, title in found)]
        fill(self.panel.device, entries, self.panel.device.currentData())

    def _fill(self) -> None:
        fill(self.panel.device, [("Auto", "auto")])
        fill(self.panel.data, [("Annotated layers", LAYERS), ("Choose a folder…", OTHER_FOLDER)])
        self._last_data = 0
        self._pairs: list[Pair] = []
        self._fill_models()
        self._on_preset_chosen()

    def _fill_models(self) -> None:
        order = list(registry.FAMILIES)
        known = [entry for entry in shelf.models() if entry.spec.family in order]
        known.sort(key=lambda entry: order.index(entry.spec.family))
        entries = [(model_title(entry.name, entry.spec.family), entry.name) for entry in known]
        entries += [(f"From scratch · {family}", SCRATCH + family) for family in order]
        fill(self.panel.start, entries, self.panel.start.currentData())
        self._name()

    def _connect(self) -> None:
        panel = self.panel
        panel.train.clicked.connect(self._on_train_clicked)
        panel.pause.toggled.connect(self.pause)
        panel.preset.currentIndexChanged.connect(self._on_preset_chosen)
        panel.data.activated.connect(self._on_data_chosen)
        panel.start.currentIndexChanged.connect(self._on_start_chosen)
        panel.name.textEdited.connect(self._on_name_edited)
        panel.pairs.itemChanged.connect(self._look_soon)
        panel.complete.toggled.connect(self._look_soon)
        panel.resume.clicked.connect(lambda: self.resume(self._offered[0]))
        panel.discard.clicked.connect(self._on_discard_clicked)
        self._timer.timeout.connect(self.look)
        shelf_news.changed.connect(self._on_news)
        layers = self.viewer.layers.events
        for emitter in (layers.inserted, layers.removed, layers.renamed):
            emitter.connect(self._refresh_pairs)
        application = QApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(self.leave)

    def _on_train_clicked(self) -> None:
        if self.is_busy:
            self.stop()
        else:
            self.begin()

    def _on_preset_chosen(self, _: int = 0) -> None:
        self.panel.show_settings(preset(str(self.panel.preset.currentData())))

    def _on_data_chosen(self, index: int) -> None:
        box = self.panel.data
        if box.itemData(index) == OTHER_FOLDER:
            box.setCurrentIndex(self._last_data)
            folder = QFileDialog.getExistingDirectory(self, "Dataset folder")
            if folder:
                self.choose_folder(Path(folder))
            return
        self._on_data_changed()

    def _on_data_changed(self) -> None:
        self._last_data = self.panel.data.currentIndex()
        is_layers = self.panel.data.currentData() == LAYERS
        self.panel.pairs.setVisible(is_layers)
        self.panel.complete.setVisible(is_layers)
        self._look_soon()

    def _on_start_chosen(self, _: int = 0) -> None:
        self._name()
        self._look_soon()

    def _on_name_edited(self, text: str) -> None:
        self._has_own_name = bool(text)

    def _name(self) -> None:
        if not self._has_own_name:
            self.panel.name.setText(free_name(self.start))

    def _on_news(self) -> None:
        if isalive(self):  # type: ignore[no-untyped-call]
            self._fill_models()
            self.own.refresh()

    def _look_soon(self, _: Any = None) -> None:
        self._timer.start()

    def _refresh_pairs(self, _: Any = None) -> None:
        if not isalive(self):  # type: ignore[no-untyped-call]
            return
        was = {id(pair.annotation): pair in self.chosen for pair in self._pairs}
        box = self.panel.pairs
        self._pairs = pairs(reversed(self.viewer.layers))
        with QSignalBlocker(box):
            box.clear()
            for pair in self._pairs:
                item = QListWidgetItem(pair.title + (" (as counted)" if pair.is_as_counted else ""))
                is_on = was.get(id(pair.annotation), not pair.is_as_counted)
                item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsUserCheckable)
                item.setCheckState(Qt.CheckState.Checked if is_on else Qt.CheckState.Unchecked)
                box.addItem(item)
        self._look_soon()

    def _offer(self) -> None:
        """Offer to go on with the first run that was not ended."""
        self._offered = unfinished()
        if not self._offered or self.is_busy:
            self.panel.show_offer("")
            return
        plan = self._offered[0]
        epochs = curve(plan)
        step = int(epochs[-1]["step"]) if epochs else 0
        self.panel.show_offer(
            f"The training of {plan.name!r} was left at step {step:,} of {plan.settings.steps:,}."
        )

    def _on_discard_clicked(self) -> None:
        discard(self._offered[0])
        self._name()
        self._offer()


def look_task(dataset: Dataset, start: str) -> Task[Findings]:
    """Return what a dataset holds for the model that is to begin with."""
    yield Progress("look", 0, 1)
    if start.startswith(SCRATCH):
        spec = registry.get(start.removeprefix(SCRATCH)).load().build("small").spec
    else:
        spec = read_spec(shelf.find(start) / SPECS)
    return (yield from inspect(dataset, spec))


def training_line(progress: Progress, seconds_left: float | None) -> str:
    """Return what the training is doing, its loss, and how long it still takes."""
    if progress.stage in OWN_STAGES:
        return progress_line(progress, seconds_left)
    if progress.stage != "fine-tune":
        return "Checking the model on the validation images…"
    left = "" if seconds_left is None else f" · {duration(seconds_left)} left"
    note = f" · {progress.note}" if progress.note else ""
    return f"Step {progress.done:,} of {progress.total:,}{note}{left}"


def duration(seconds: float) -> str:
    """Return a length of time in the unit people would use.

    Examples
    --------
    ``40 s``, ``12 min``, ``3.5 h``
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, CellwrightError) else f"{type(error).__name__}: {error}"
