"""What is to be trained, as the form says it: on which images, from which model; or a run to resume."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtWidgets import QFrame, QVBoxLayout, QWidget

from cellwright.core.errors import CellwrightError, error_line
from cellwright.core.tasks import Progress, Task
from cellwright.files.dataset.folder import Dataset, read_dataset
from cellwright.files.formats.image_annotation import NO_CLASS
from cellwright.models import registry, store
from cellwright.training.data.classes import ClassDataset, inspect_classes
from cellwright.training.data.inspect import Findings, inspect
from cellwright.training.run_folder import (
    CLASSES,
    SCRATCH,
    Plan,
    checked_name,
    data_folder,
    discard,
    epochs_in,
    free_name,
    is_running,
    unfinished_runs,
)
from cellwright.training.settings import preset
from cellwright.widgets.shared.jobs import JobBar, debouncer
from cellwright.widgets.shared.layer_dataset import Pair, dataset_of, pairs
from cellwright.widgets.shared.layer_factory import class_order
from cellwright.widgets.shared.messages import HandOver, choose_entry, listen
from cellwright.widgets.shared.model_combos import model_events
from cellwright.widgets.shared.style import button, chip, fill, row, stack, wrapped_label
from cellwright.widgets.train.model import TrainModel
from cellwright.widgets.train.view import LAYERS, TrainPanel


class TrainChoices(QObject):
    """Reads the boxes of the panel and lists what is annotated in the viewer."""

    changed = Signal()  # other data, or another model to begin with

    def __init__(self, viewer: Any, panel: TrainPanel) -> None:
        super().__init__(panel)
        self._viewer, self._panel = viewer, panel
        self._has_own_name = False
        self._pairs: list[Pair] = []
        self._seen: list[Any] = []  # titles and classes of the pairs as they are listed
        self.suggest_name()
        self._on_preset_chosen()
        self._connect()

    # -- what the form says -------------------------------------------------------------------------------

    @property
    def start(self) -> str:
        """Name or folder of the model to begin with, or ``new:`` and a family; CLASSES to learn classes."""
        if self._panel.learns_classes:
            return CLASSES
        return self._panel.start.model_name

    @property
    def chosen(self) -> list[Pair]:
        """The ticked pairs of image and annotation."""
        ticked = self._panel.pairs.ticked
        return [pair for pair in self._pairs if pair.key in ticked]

    def source(self) -> Dataset | Path:
        """Return what is to be learned from: the layers as a dataset, or a folder that was not read yet.

        WrongLayerError where no layer is chosen.
        """
        folder: Path | None = self._panel.data.folder
        if folder is not None:
            return folder
        is_complete = self._panel.complete.isChecked()
        return dataset_of(self.chosen, self._viewer.layers, is_complete=is_complete, own_channel=True)

    def plan(self) -> tuple[Plan, Dataset | None]:
        """Return what is to be trained, and the layers to keep for it where it learns from these.

        CellwrightError where the name cannot be used, no layer is chosen, or the folder is no dataset.
        """
        name, source = checked_name(self._panel.name.text()), self.source()
        layers = None
        if isinstance(source, Dataset):
            layers, data = source, data_folder(name)
        else:
            read_dataset(source)  # an error is told before anything begins
            data = source.resolve()
        panel = self._panel
        device, classes = panel.device.device, panel.class_form.settings
        plan = Plan(name, self.start, str(data), panel.form.settings, device, classes=classes)
        if plan.learns_classes:
            return plan, layers
        if panel.unlabelled.wanted.isChecked():
            folder = str(panel.unlabelled.folder())
            plan = replace(plan, unlabelled=folder, pretraining=panel.unlabelled.settings)
        return plan, layers

    # -- what is put into it ------------------------------------------------------------------------------

    def suggest_next_name(self) -> None:
        """Suggest a name for the next model; the one that the user gave was for the last."""
        self._has_own_name = False
        self.suggest_name()

    def suggest_name(self) -> None:
        """Give the next model a name that is free, unless the user gave one."""
        if not self._has_own_name:
            self._panel.name.setText(free_name(self.start))

    def refresh_pairs(self, _: Any = None) -> None:
        """List the annotated images among the layers; what was ticked stays so."""
        listed, ticked = {pair.key for pair in self._pairs}, set(self._panel.pairs.ticked)
        self._pairs = pairs(self._viewer.layers)
        taken = {pair.image for pair in self._pairs if pair.key in ticked}
        for pair in self._pairs:  # the uppermost first; of an image one at a time, which is not taken from it
            if pair.key not in listed and not pair.is_as_counted and pair.image not in taken:
                ticked.add(pair.key)
                taken.add(pair.image)
        self._seen = _seen_of(self._pairs)
        self._panel.pairs.list_entries([(pair.title, pair.key) for pair in self._pairs], ticked)
        self._show_pairs()
        self.changed.emit()

    def look_again(self) -> None:
        """List the annotated images again where one was corrected, or has other classes or image, since."""
        if self._seen != _seen_of(pairs(self._viewer.layers)):
            self.refresh_pairs()

    def take(self, what: HandOver) -> None:
        """Learn from one annotation and begin with one model, as another panel sends them."""
        self.look_again()
        choose_entry(self._panel.data, LAYERS)
        self._panel.start.take(what.model)
        if what.cells is not None:
            key = str(what.cells.unique_id)
            images = {pair.key: pair.image for pair in self._pairs}
            others = {one for one, image in images.items() if one != key and image is images.get(key)}
            self._panel.pairs.tick(key, instead_of=others)

    def note_progress(self, progress: Progress) -> None:
        """Offer to learn classes once the data are known to have some."""
        if isinstance(progress, DatasetRead):
            self._panel.offer_classes(is_offered=progress.has_classes)

    # -- events -------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        panel = self._panel
        panel.preset.currentIndexChanged.connect(self._on_preset_chosen)
        panel.data.chosen.connect(self._show_pairs)
        panel.data.chosen.connect(lambda: panel.offer_classes(is_offered=False))  # until they are seen
        panel.what.chosen.connect(self._show_pairs)
        panel.what.chosen.connect(self.suggest_name)
        panel.what.chosen.connect(self.changed)
        panel.data.chosen.connect(self.changed)
        panel.start.chosen.connect(self.suggest_name)
        panel.start.chosen.connect(self.changed)
        panel.name.textEdited.connect(self._on_name_edited)
        panel.pairs.itemChanged.connect(self.changed)
        panel.complete.toggled.connect(self.changed)
        listen(model_events.changed, self.suggest_name, self)
        layers = self._viewer.layers.events
        for emitter in (layers.inserted, layers.removed, layers.renamed):
            listen(emitter, self.refresh_pairs, self)

    def _on_preset_chosen(self, _: int = 0) -> None:
        self._panel.form.show_settings(preset(str(self._panel.preset.currentData())))

    def _show_pairs(self) -> None:
        has_pairs = self._panel.data.currentData() == LAYERS and bool(self._pairs)
        self._panel.pairs.setVisible(has_pairs)
        self._panel.complete.setVisible(has_pairs and not self._panel.learns_classes)

    def _on_name_edited(self, text: str) -> None:
        self._has_own_name = bool(text)


def _seen_of(found: Sequence[Pair]) -> list[Any]:
    return [(pair.title, class_order(pair.annotation)) for pair in found]


class ResumeOffer(QFrame):
    """Names the first run that was left, and lets it be resumed or deleted; else out of sight."""

    accepted = Signal(object)  # the Plan to resume
    discarded = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("offer")
        self.plan: Plan | None = None
        self.line = wrapped_label()
        self.resume = button("Resume", "Resume the training where it was left off.")
        self.discard = button("Discard", "Delete what was trained so far.")
        self.resume.clicked.connect(lambda: self.accepted.emit(self.plan))
        self.discard.clicked.connect(self._on_discard_clicked)
        fill(QVBoxLayout(self), self.line, row(self.resume, self.discard))
        self.setVisible(False)

    def refresh(self) -> None:
        """Offer the first run that was not ended, if there is one."""
        self.plan = next((plan for plan in unfinished_runs() if not is_running(plan)), None)
        self.setVisible(self.plan is not None)
        if self.plan is not None:
            epochs, steps, data = epochs_in(self.plan.output), self.plan.n_steps, ""
            if self.plan.unlabelled and not epochs:
                data = " on unlabelled images"
                epochs, steps = epochs_in(self.plan.encoder), self.plan.pretraining.steps
            step = int(epochs[-1]["step"]) if epochs else 0
            name = self.plan.name
            self.line.setText(f"The training of {name!r}{data} stopped at step {step:,} of {steps:,}.")

    def _on_discard_clicked(self) -> None:
        if self.plan is not None and not is_running(self.plan):  # elsewhere, since it was offered
            discard(self.plan)
        self.refresh()
        self.discarded.emit()


CHECK_MS = 300  # after the last change of what is chosen
WARNING_COLOUR = "#e0a93b"


class DataCheck(QWidget):
    """Looks at the data soon after another choice, with a bar and Cancel, and tells what it found."""

    def __init__(self, choices: TrainChoices, model: TrainModel) -> None:
        super().__init__()
        self._choices, self._model = choices, model
        self._is_stale = False
        self.findings: Findings | None = None
        self.job, self.label = JobBar(), wrapped_label(name="findings")
        stack(self.job, self.label, into=self)
        self._debouncer = debouncer(self, CHECK_MS, self.start)
        choices.changed.connect(self._debouncer.throttle)
        self.job.progressed.connect(choices.note_progress)
        self.job.failed.connect(self._on_failed)
        self.job.cancelled.connect(self._on_cancelled)
        self.job.finished.connect(self.catch_up)
        self._tell("")

    def start(self) -> None:
        """Look at what is chosen now; a look at what was chosen before is given up."""
        self._debouncer.cancel()
        if self._model.is_busy or self._model.is_leaving or self.job.is_busy:
            self._is_stale = True
            self.job.cancel()
            return
        self.findings = None
        try:
            source = self._choices.source()
        except CellwrightError as error:
            self._tell(str(error))
            return
        self._tell("")
        self.job.start(check_task(source, self._choices.start), self._on_checked)

    def _on_checked(self, findings: Findings) -> None:
        self.findings = findings
        self._tell(findings.summary(), [one.text for one in findings.warnings])

    def _on_failed(self, error: Exception) -> None:
        self._tell("", [error_line(error)])

    def _on_cancelled(self) -> None:
        self._tell("Cancelled: the images were not checked.")

    def catch_up(self) -> None:
        """Look at what was chosen while something else was under way."""
        if self._is_stale:
            self._is_stale = False
            self.start()

    def _tell(self, summary: str, warnings: Sequence[str] = ()) -> None:
        text, kind = summary, Qt.TextFormat.PlainText
        if warnings:
            marked = [f"{chip('⚠', WARNING_COLOUR)} {escape(one)}" for one in warnings]
            lines = [line for line in (escape(summary), *marked) if line]
            text, kind = "<br>".join(lines), Qt.TextFormat.RichText
        self.label.setTextFormat(kind)
        self.label.setText(text)
        self.label.setVisible(bool(text))


@dataclass(frozen=True)
class DatasetRead(Progress):
    """The step at which a dataset is known, and the images are not yet."""

    has_classes: bool = False


def check_task(source: Dataset | Path, start: str) -> Task[Findings]:
    """Return what a dataset, or one in a folder, holds for the model that is to begin with."""
    yield Progress("look", 0, 1, "looking at the images")
    if not isinstance(source, Dataset):
        source = read_dataset(source)
    has_classes = any({*item.classes} - {NO_CLASS} for item in source.items)
    yield DatasetRead("look", 0, 1, "looking at the images", has_classes)
    if start == CLASSES:
        return (yield from inspect_classes([ClassDataset(source)]))
    if start.startswith(SCRATCH):
        spec = registry.get(start.removeprefix(SCRATCH)).load().build("small").spec
    else:
        spec = store.spec_of(start)
    return (yield from inspect(source, spec))
