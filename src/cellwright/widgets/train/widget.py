"""The train widget: from annotated images to a model that counts them better, watched while it learns."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from magicgui.widgets import request_values
from napari.layers import Layer
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QApplication, QFileDialog, QInputDialog, QMenu, QMessageBox, QWidget

from cellwright.core.errors import error_line
from cellwright.core.tasks import Progress, Task, once
from cellwright.files.dataset.folder import Dataset
from cellwright.models import store
from cellwright.training.run_folder import Plan
from cellwright.widgets.shared.combos import forget_errors
from cellwright.widgets.shared.jobs import JobBar
from cellwright.widgets.shared.messages import COUNT, TRAIN, HandOver, hand_over, listen, news_of, telling
from cellwright.widgets.shared.model_combos import ModelComboBox, model_events
from cellwright.widgets.shared.napari_private import ask_to_open, ask_to_save
from cellwright.widgets.shared.panel_area import PanelScrollArea, is_taken_out
from cellwright.widgets.shared.style import FoldedPart, boxed, button, even_row, stack
from cellwright.widgets.train.choices import DataCheck, ResumeOffer, TrainChoices
from cellwright.widgets.train.model import EpochPicture, TrainingOutcome, TrainModel
from cellwright.widgets.train.view import TrainPanel

FLAWLESS = (
    "Without any training the model already finds every cell that it is checked with. Annotate images where "
    "it errs; these can at best make its outlines a little closer."
)
ARCHIVE = "Exported model (*.zip)"
LICENCE = "BSD-3-Clause"
LICENCE_HELP = "Licence under which others may use the model, by its short name (SPDX)."


class TrainWidget(QWidget):
    """Trains a model on annotated layers or a dataset folder and puts it into the list of models."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.model = TrainModel()
        self.panel = TrainPanel()
        self.jobs = self.panel.jobs
        self._new_model = HandOver()
        self._taught_image: Layer | None = None
        self.choices = TrainChoices(napari_viewer, self.panel)
        self.data_check = DataCheck(self.choices, self.model)
        self.offer = ResumeOffer()
        self.own = OwnModels(self.panel.message.tell)
        self.panel.check_box.addWidget(self.data_check)
        self.panel.offer_box.addWidget(self.offer)
        self.panel.models_box.addWidget(self.own)
        area = PanelScrollArea(self.panel, self.panel.train, self.viewer)
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
        if self.model.plan is not None:
            self.panel.show_running(is_running=True, is_classes=self.model.plan.learns_classes)
            self.panel.message.tell(f"Training {self.model.plan.name!r}.")
        self._draw()

    def _draw(self) -> None:
        if self.model.plan is not None:
            self.panel.card.show_curves(self.model.epochs, self.model.plan.n_steps)

    def _on_progressed(self, progress: Progress) -> None:
        if isinstance(progress, EpochPicture):
            self._draw()
            self.panel.card.show_picture(progress.picture, progress.caption)
            if any(epoch["step"] == 0 and epoch.get("ap50") == 1 for epoch in self.model.epochs):
                self.panel.message.tell(FLAWLESS, is_warning=True)

    def show_ended(self, outcome: TrainingOutcome) -> None:
        """Show what came out of a training: scores, and which model is kept."""
        if outcome.plan.learns_classes:
            is_held_back = outcome.is_held_back
            self.panel.card.show_classes(outcome.after, outcome.n_checked, is_held_back=is_held_back)
        else:
            self.panel.card.show_scores(outcome.before, outcome.after)
        if outcome.epochs:
            self.panel.card.show_curves(outcome.epochs, outcome.plan.n_steps)
        is_warning = bool(outcome.notices) or not outcome.model
        self.panel.message.tell(" ".join([outcome.sentence, *outcome.notices]), is_warning=is_warning)
        if not outcome.model:
            return
        self.own.box.refresh(outcome.model)
        model_events.changed.emit()
        self._new_model = HandOver(model=outcome.model, begins=True)
        if outcome.plan.learns_classes:
            self._new_model = HandOver(classifier=outcome.model)
        self.panel.count_with.setText(f"Count with {outcome.model}")
        self.panel.count_with.setVisible(True)

    # -- events -------------------------------------------------------------------------------------------

    def _on_finished(self) -> None:
        self.model.is_busy = False
        self.panel.show_running(is_running=False)
        self.choices.suggest_next_name()
        self.data_check.catch_up()
        self.offer.refresh()

    def _on_sent(self, panel: str, what: HandOver) -> None:
        if panel == TRAIN and not self.is_busy:
            self._taught_image = what.image
            self.choices.take(what)

    def _on_count_clicked(self) -> None:
        hand_over(self.viewer, COUNT, replace(self._new_model, image=self._taught_image))


@dataclass(frozen=True, slots=True)
class ZooDetails:
    """What a package of the BioImage Model Zoo says of its origin; ``licence`` is an SPDX identifier."""

    authors: tuple[str, ...]
    licence: str = LICENCE


class OwnModels(QWidget):
    """A box of the user's models and what can be done with the chosen one."""

    def __init__(self, tell: Callable[..., None]) -> None:
        super().__init__()
        self._tell = tell
        self.box = ModelComboBox(
            "Your own models: trained here, or imported.",
            accepts=lambda entry: entry.folder.parent == store.user_folder(),
            after=lambda: [
                (f"Classes · {entry.name}", entry.name)
                for entry in store.classifiers()
                if entry.folder.parent == store.user_folder()
            ],
            otherwise="none yet",
        )
        self.job = JobBar()
        self.rename = button("Rename…", "Give the model another name.")
        self.delete = button("Delete…", "Delete the model, after confirmation.")
        self.export = button("Export…", "Write the model as one file, to share it.")
        self.add = button("Import…", "Add a model that was exported, or a model folder, to yours.")
        buttons = even_row(self.rename, self.delete, self.export, self.add)
        self.collapsible = FoldedPart("My models", boxed(stack(self.box.with_card(), buttons, self.job)))
        stack(self.collapsible, into=self)
        self.rename.clicked.connect(self._on_rename_clicked)
        self.delete.clicked.connect(self._on_delete_clicked)
        self.exports, imports = QMenu(self.export), QMenu(self.add)
        self.exports.addAction("For cellwright…", self._on_export_chosen)
        self.exports.addAction("For the BioImage Model Zoo…", self._on_zoo_export_chosen)
        imports.addAction("From a file…", self._on_import_file_chosen)
        imports.addAction("From a folder…", self._on_import_folder_chosen)
        self.export.setMenu(self.exports)
        self.add.setMenu(imports)
        self.job.failed.connect(lambda error: self._tell(error_line(error), is_error=True))
        self.job.finished.connect(self._show_enabled)
        self.box.chosen.connect(self._show_enabled)
        self._show_enabled()

    @property
    def chosen(self) -> str:
        """Name of the chosen model; empty when there is none."""
        return str(self.box.currentData() or "")

    def rename_to(self, new: str) -> None:
        """Give the chosen model another name."""
        self._do(lambda: store.rename(self.chosen, new), new, f"Renamed to {new}.")

    def delete_chosen(self) -> None:
        """Delete the chosen model, having asked before."""
        name = self.chosen
        self._do(lambda: store.delete(name), name, f"Deleted {name}.")

    def export_to(self, path: Path, zoo: ZooDetails | None = None) -> None:
        """Write the chosen model as one file; with details as a package of the BioImage Model Zoo."""
        self._start(export_task(self.chosen, path, zoo), lambda _: self._tell(f"Written to {path}."))

    def import_from(self, path: Path, name: str = "") -> None:
        """Add an exported model or a model folder to the user's, under a name or that of the file."""
        task = once("import", lambda: store.import_model(path, name).name, f"reading {path.name}")
        self._start(task, lambda name: self._announce(name, f"Imported {name}."))

    def _start(self, task: Task[str], on_returned: Callable[[str], None]) -> None:
        self.job.start(task, on_returned)
        self._show_enabled()

    def _do(self, action: Callable[[], object], name: str, line: str) -> None:
        with telling(lambda error: self._tell(str(error), is_error=True)):
            action()
            self._announce(name, line)

    def _announce(self, name: str, line: str) -> None:
        self.box.refresh(name)
        model_events.changed.emit()
        self._tell(line)

    def _show_enabled(self) -> None:
        is_free = not self.job.is_busy
        for made in (self.rename, self.delete, self.export):
            made.setEnabled(is_free and bool(self.chosen))
        zoo = self.exports.actions()[-1]
        zoo.setEnabled(self.chosen in self.box.families)  # it has no classifiers
        self.add.setEnabled(is_free)

    def _on_rename_clicked(self) -> None:
        new, is_given = QInputDialog.getText(self, "Rename", "New name:", text=self.chosen)
        if is_given and new.strip() != self.chosen:
            self.rename_to(new.strip())

    def _on_delete_clicked(self) -> None:
        question = f"Delete the model {self.chosen!r}? This cannot be undone."
        if QMessageBox.question(self, "Delete a model", question) == QMessageBox.StandardButton.Yes:
            self.delete_chosen()

    def _on_export_chosen(self) -> None:
        path = ask_to_save(self, "Export a model", f"{self.chosen}.zip", ARCHIVE)
        if path:
            self.export_to(path)

    def _on_zoo_export_chosen(self) -> None:
        given = request_values(
            title="Package for the BioImage Model Zoo",
            parent=self,
            authors={"annotation": str, "options": {"tooltip": "Names, separated by commas."}},
            licence={"annotation": str, "value": LICENCE, "options": {"tooltip": LICENCE_HELP}},
        )
        if given is None:
            return
        names = (name.strip() for name in given["authors"].split(","))
        details = ZooDetails(tuple(filter(None, names)), given["licence"].strip() or LICENCE)
        path = ask_to_save(self, "Export a package for the zoo", f"{self.chosen}-zoo.zip", ARCHIVE)
        if path:
            self.export_to(path, details)

    def _on_import_file_chosen(self) -> None:
        path = ask_to_open(self, "Import a model", ARCHIVE)
        if path:
            self._ask_name_and_import(path)

    def _on_import_folder_chosen(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Model folder")
        if folder:
            self._ask_name_and_import(Path(folder))

    def _ask_name_and_import(self, path: Path) -> None:
        name, is_given = QInputDialog.getText(self, "Import a model", "Name:", text=path.stem)
        if is_given:
            self.import_from(path, name.strip())


def export_task(name: str, path: Path, zoo: ZooDetails | None) -> Task[str]:
    """Write a model as one file and return where; see ``models.store`` and ``models.zoo``."""
    yield Progress("export", 0, 1, f"writing {path.name}")
    if zoo is None:
        return str(store.export_model(name, path))
    from cellwright.models.zoo import export_package

    return str(export_package(name, path, authors=zoo.authors, licence=zoo.licence))
