"""The folder panel: all images of folders or plates counted beside the viewer, and shown as they get done."""

import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from napari.layers import Layer
from qtpy.QtCore import QEvent, Signal
from qtpy.QtWidgets import QSizePolicy, QWidget

from cellwright.core.errors import CellwrightError
from cellwright.core.tasks import Progress, once
from cellwright.files.folders.results import ImageOutcome, read_outcomes
from cellwright.inference.recipe import Recipe, recipe_from
from cellwright.inference.settings import EngineSettings
from cellwright.models import registry
from cellwright.ops.plates import well_name
from cellwright.widgets.folder.corrections import Corrections
from cellwright.widgets.folder.model import (
    FolderModel,
    FolderRequest,
    OpenedImage,
    check_request,
    folder_task,
    open_counted,
)
from cellwright.widgets.folder.view import FolderView
from cellwright.widgets.shared.combos import forget_errors
from cellwright.widgets.shared.jobs import LiveUpdater
from cellwright.widgets.shared.journals.kept_corrections import keep_corrections
from cellwright.widgets.shared.layer_io import place, take_away
from cellwright.widgets.shared.messages import (
    ANNOTATE,
    FOLDER,
    REDRAW_S,
    CountEvent,
    HandOver,
    hand_over,
    listen,
    news_of,
    telling,
)
from cellwright.widgets.shared.napari_private import unwrapped
from cellwright.widgets.shared.panel_area import PanelScrollArea, is_taken_out
from cellwright.widgets.shared.style import stack

REST = 20  # of the time that a redraw takes, until the next one


class FolderWidget(QWidget):
    """Counts the images of folders and shows their results."""

    finished = Signal()  # a run has ended, well or not

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = unwrapped(napari_viewer)
        keep_corrections(self.viewer)
        self.view, self.model = FolderView(), FolderModel()
        self.jobs = self.view.jobs
        self.corrections = Corrections(self.viewer, self.view, self.model)
        self.earlier, self.opener = LiveUpdater(self), LiveUpdater(self)
        self._opened: Layer | None = None  # the image that was opened last
        self._cells: Layer | None = None  # of it
        self._redraw_at, self._is_closed = 0.0, False
        # of the count whose settings were taken over: models that counted together with the chosen one
        self._together: tuple[str, ...] = ()
        self._taken_over = ""  # what else is of that count
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        area = PanelScrollArea(self.view, self.view.choose_folder, self.viewer)
        area.shown.connect(self.view.device.find_devices)
        area.shown.connect(self.corrections.offer_proofread)
        stack(area, into=self)
        self.view.show_family(self.view.model.family)
        self._connect()
        news = news_of(self.viewer)
        listen(news.sent, self._on_sent, self)
        if news.last is not None:
            self._on_counted(news.last)
        self._show_outcomes()

    def _connect(self) -> None:
        view, model = self.view, self.model
        forget_errors(view.message, view)
        view.choose_folder.clicked.connect(lambda: view.ask_for_folder(add=False))
        view.add_folder.clicked.connect(lambda: view.ask_for_folder(add=True))
        for edit in (view.folders, view.pattern):
            edit.editingFinished.connect(view.propose)
        for edit in (view.folders, view.output):
            edit.editingFinished.connect(self._show_earlier)
        view.choose_output.clicked.connect(self._on_choose_output_clicked)
        view.model.chosen.connect(self._on_model_chosen)
        view.channel.editingFinished.connect(self._tell_taken_over)
        for box in (view.model, view.classes):
            box.failed.connect(view.message.fail)
        view.start.started.connect(self.count)
        view.order.activated.connect(lambda: model.show(order=view.order.currentData()))
        view.column.activated.connect(lambda: model.show(column=view.column.currentData()))
        view.plate_names_box.activated.connect(
            lambda: model.show(plate=view.plate_names_box.currentData(), well="")
        )
        view.whole_plate.clicked.connect(lambda: model.show(well=""))
        view.plate.well_chosen.connect(self._on_well_chosen)
        view.tabs.currentChanged.connect(self._show_outcomes)
        view.gallery.opened.connect(self.open)
        view.correct.clicked.connect(self._on_correct_clicked)
        model.changed.connect(self._show_outcomes)
        self.jobs.started.connect(lambda: view.show_running(is_running=True))
        self.jobs.progressed.connect(self._on_progressed)
        self.jobs.failed.connect(view.message.fail)
        self.jobs.cancelled.connect(
            lambda: view.message.tell("Stopped. Count images continues where it stopped.")
        )
        self.jobs.finished.connect(self._on_finished)
        self.earlier.updated.connect(self._on_earlier_found)
        self.earlier.failed.connect(view.message.fail)
        self.opener.updated.connect(self._show_opened)
        self.opener.failed.connect(view.message.fail)
        listen(news_of(self.viewer).counted, self._on_counted, self)

    def changeEvent(self, event: QEvent | None) -> None:
        """Stop with the panel, since nothing else could; called by Qt."""
        super().changeEvent(event)
        if is_taken_out(self, event):
            self._is_closed = True
            self.jobs.cancel()

    # -- settings -----------------------------------------------------------------------------------------

    @property
    def recipe(self) -> Recipe:
        """Model and settings as they stand in the panel."""
        view = self.view
        kind = registry.get(view.model.family).settings
        return Recipe(
            models=(view.model.model_name, *self._together),
            settings=kind(**view.settings.values()),
            engine=view.engine_settings,
            classifier=view.classes.classifier,
        )

    def take_over(self, recipe: Recipe) -> None:
        """Put the model and settings of a count into the panel."""
        view, name = self.view, recipe.models[0]
        if view.model.findData(name) < 0 and Path(name).is_dir():  # not one of images that is called so
            view.model.add_folder(Path(name))
        view.model.refresh(name)
        view.show_family(view.model.family)
        view.settings.set_values(asdict(recipe.settings))
        view.show_engine(recipe.engine)
        view.classes.take(recipe.classifier)
        self._together = recipe.models[1:]
        self._tell_taken_over("Settings of the last count")
        view.taken_over.show()

    def _tell_taken_over(self, what: str = "") -> None:
        """Say what is of the last count: ``what``, or as before, with the channel as it is now."""
        self._taken_over = what or self._taken_over
        channel = self.view.channel.text().strip()
        parts = [self._taken_over]
        if channel:
            parts.append(f"channel {channel}")
        if self._together:
            parts.append(f"together with {', '.join(Path(one).name for one in self._together)}")
        self.view.taken_over.setText(f"{', '.join(parts)}; change them under More.")

    def _on_counted(self, event: CountEvent) -> None:
        if self.jobs.is_busy:
            return
        with suppress(CellwrightError):  # drawn cells: no settings
            self.take_over(recipe_from(event.provenance))

    def _on_model_chosen(self) -> None:
        view, usual = self.view, EngineSettings()
        view.show_family(view.model.family)
        self._together = ()
        self._tell_taken_over("Thresholds of the model, other settings of the last count")
        if replace(view.engine_settings, device=usual.device) == usual:
            view.taken_over.hide()

    # -- a run --------------------------------------------------------------------------------------------

    def request(self) -> FolderRequest:
        """Return what is to be counted.

        CellwrightError where it cannot be.
        """
        view = self.view
        request = FolderRequest(
            paths=view.paths,
            output=Path(view.output.text().strip()),
            recipe=self.recipe,
            pattern=view.pattern.text().strip() or "*",
            plate=view.plate_names.text().strip(),
            xlsx=view.xlsx.isChecked(),
        )
        check_request(request)
        return request

    def count(self) -> None:
        """Count the images; tells in the panel why it cannot."""
        with telling(self.view.message.fail):
            request = self.request()
            self.view.message.tell("")
            self.view.make_room()
            self.earlier.forget()
            self.model.start(request.output)
            self.jobs.start(folder_task(request, self.model.arrived), self._on_returned)

    def _on_progressed(self, _: Progress) -> None:
        now = time.monotonic()
        if now >= self._redraw_at and self.model.arrived:
            self.model.take_arrived()
            seconds = time.monotonic() - now
            self._redraw_at = now + max(REDRAW_S, REST * seconds)

    def _on_returned(self, notices: list[str]) -> None:
        self.model.take_arrived()
        n_failed = len(self.model.failed)
        done = " ".join([f"Done. The results are in {self.model.output}.", *notices])
        if n_failed:
            done += f" {n_failed} of the images failed; the tab Failed says why."
        self.view.message.tell(done, is_warning=bool(n_failed or notices))

    def _on_finished(self) -> None:
        self.model.take_arrived()
        self.view.show_running(is_running=False)
        self.corrections.offer_proofread()
        self.finished.emit()

    # -- results ------------------------------------------------------------------------------------------

    def _on_choose_output_clicked(self) -> None:
        if self.view.ask_for_output():
            self._show_earlier()

    def _show_earlier(self) -> None:
        output = Path(self.view.output.text().strip())
        if output != Path() and output != self.model.output and not self.jobs.is_busy:
            self.earlier.request(lambda: once("earlier results", lambda: (output, read_outcomes(output))))

    def _on_earlier_found(self, found: tuple[Path, tuple[ImageOutcome, ...]]) -> None:
        if not self.jobs.is_busy:
            self.model.start(*found)
            self.corrections.offer_proofread()

    def _show_outcomes(self, _: int = 0) -> None:
        self.view.show_outcomes(self.model)

    def _on_well_chosen(self, row: int, column: int) -> None:
        self.model.show(well=well_name(row, column))
        self.view.tabs.setCurrentIndex(0)

    def open(self, outcome: ImageOutcome) -> None:
        """Show an image with its cells in the viewer, in place of the last one; as corrected if unsaved."""
        output = self.model.output
        if output is None:
            return
        shown = self.corrections.show_again(output, outcome.image.name)
        if shown is None:
            self.opener.request(lambda: open_counted(outcome, output))
        else:
            self._opened, self._cells = shown
            self.viewer.layers.selection.active = self._opened
            self._tell_unsaved()

    def _show_opened(self, opened: OpenedImage) -> None:
        last = self.corrections.at_rest()
        # before they come: other panels ask at once whether their image is of a folder
        self.corrections.note(opened.place, opened.image, list(opened.cells.values()))
        image = self.viewer.add_layer(opened.image)
        shown = place(self.viewer, opened.cells)
        self._opened, self._cells = image, shown.get("Labels", shown.get("Points"))
        is_correctable = self._cells is not None and not opened.is_streamed
        self.view.show_correctable(is_shown=is_correctable or bool(self.corrections.unsaved()))
        if opened.is_streamed:
            self.view.message.tell(
                f"{image.name!r} was counted block by block: its cells are shown as points, and what is "
                "corrected here cannot be saved into the folder."
            )
        self._tell_unsaved()
        take_away(self.viewer, *last)  # once the new ones are there: removed first, they can crash the canvas
        self.viewer.reset_view()

    def _tell_unsaved(self) -> None:
        unsaved = self.corrections.unsaved_images()
        if unsaved:
            self.view.message.tell(
                f"What you corrected in {', '.join(map(repr, unsaved))} stays in the viewer until you press "
                f"{self.view.save.text()!r}."
            )

    def _on_sent(self, panel: str, _: HandOver) -> None:
        if panel == FOLDER and not self._is_closed:  # another is open, then
            self.corrections.save()

    def _on_correct_clicked(self) -> None:
        if self._opened is not None and self._opened in self.viewer.layers:
            hand_over(self.viewer, ANNOTATE, HandOver(self._opened, self._cells, self.view.model.model_name))
        else:
            self.view.message.tell("The image is no longer among the layers. Open it again, then correct.")
