"""Saving from the panel: what was counted, as a table, beside the viewer; and what is chosen, as a file.

A million cells take seconds to write. The command line takes the file of settings, too.
"""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QAbstractButton

from cellwright.core.errors import SettingsError
from cellwright.core.tasks import Task, once
from cellwright.files.tables import write_csv, write_table
from cellwright.inference.recipe import Recipe, load_recipe, recipe_of, save_recipe, texts_to_repeat
from cellwright.ops.measure.settings import AnalysisSettings, MeasureSettings
from cellwright.widgets.count.choices import Choices
from cellwright.widgets.count.model import CountModel, CountOutcome
from cellwright.widgets.count.shown import EditedCells
from cellwright.widgets.count.view import CountPanel
from cellwright.widgets.shared.cells.image_pixels import OTHER_THAN_FILE, differs_from_file, have_changed
from cellwright.widgets.shared.cells.measured_cells import measure_task
from cellwright.widgets.shared.cells.snapshot import Snapshot, image_layer_under, snapshot_of
from cellwright.widgets.shared.combos import PanelComboBox
from cellwright.widgets.shared.jobs import Job
from cellwright.widgets.shared.messages import telling
from cellwright.widgets.shared.napari_private import ask_to_open, ask_to_save

FORMATS = "Settings (*.json)"
REPORT = "Report (*.html)"
OTHER_PIXELS = "The pixels of the image changed after the count: its picture is not what was counted."


class SaveTool(QObject):
    """Asks for a file and writes the last count to it, as it was changed by hand since."""

    def __init__(self, model: CountModel, edited: EditedCells, button: QAbstractButton) -> None:
        super().__init__(button)
        self._model, self._edited, self._button = model, edited, button
        button.clicked.connect(self.ask)
        self.job: Job | None = None

    def ask(self) -> None:
        """Let the user choose a file, and save to it."""
        if self._model.outcome is None:
            return
        name, formats = f"{self._model.outcome.request.source.image.name}.cells.csv", "Table (*.csv)"
        if self._model.outcome.result.gives == "density":
            formats += f";;{REPORT}"
        path = ask_to_save(self._button, "Save cells", name, formats)
        if path:
            self.start(path)

    def start(self, path: Path) -> None:
        """Write the cells of the last count as CSV, a density also as a report; tell where, or why not."""
        if self._model.outcome is None:
            self._model.tell("There are no cells to save yet; count them first.", is_error=True)
            return
        if self.job is not None:
            self._model.tell("The last table is still being saved; try again in a moment.")
            return
        self._model.tell(f"Saving {path}…")
        layer = self._edited.found_layer()
        with telling(self._model.fail):
            counted = self._model.outcome
            task = once("save", lambda: write_table(path, counted.result))
            if counted.result.gives == "density" and path.suffix.lower() == ".html":
                task = once("save", lambda: _write_report(path, counted))
            if layer is not None:
                cells = snapshot_of(layer, image_layer_under(self._model.viewer, layer))
                task = _save_edited_task(path, cells)
            self.job = Job(task, self).start(
                returned=lambda _: self._model.tell(f"Saved {path}"),
                failed=lambda error: self._model.fail(error, "Saving"),
                finished=self._on_job_finished,
            )

    def _on_job_finished(self) -> None:
        self.job = None


def _write_report(path: Path, counted: CountOutcome) -> None:
    """Write the report of a density, with the texts that repeat it where there are such."""
    from cellwright.files.report import write_density_report

    result, source = counted.result, counted.request.source
    image = source.image

    def recipe() -> Recipe:
        if counted.request.regions is not None:
            raise SettingsError("It was counted in regions that are in no file.")
        return recipe_of(counted.result, source=image.source, pixel_size_um=image.pixel_size_um)

    if have_changed([(source.layer_data, source.pixels)]):
        result = replace(result, notices=(*result.notices, OTHER_PIXELS))
    texts = texts_to_repeat(recipe)
    if texts and differs_from_file(image):
        texts["Other pixels"] = OTHER_THAN_FILE
    write_density_report(path, image, result, texts)


def _save_edited_task(path: Path, cells: Snapshot) -> Task[None]:
    """Write the cells of a layer that count as they are now: measured again, those by hand without score."""
    measured = yield from measure_task(cells, MeasureSettings(()))
    write_csv(path, measured.table.iloc[np.flatnonzero(measured.membership.any(axis=1))])


class SettingsFileTool(QObject):
    """Asks for a file and keeps model, thresholds, engine, classes and the rule of regions in it."""

    def __init__(self, model: CountModel, panel: CountPanel, choices: Choices) -> None:
        super().__init__(panel)
        self._model, self._panel, self._choices = model, panel, choices
        panel.save_settings.clicked.connect(self._on_save_clicked)
        panel.load_settings.clicked.connect(self._on_load_clicked)

    def save(self, path: Path) -> None:
        """Write what is chosen now."""
        with telling(self._model.fail):
            inputs = self._model.inputs()
            recipe = replace(
                inputs.recipe,
                engine=replace(inputs.recipe.engine, channels=inputs.channels_of_file),
                analysis=AnalysisSettings(region_rule=self._panel.rule.currentData()),
                with_files=inputs.further_files,
            )
            save_recipe(path, recipe)
            self._model.tell(f"Saved {path}")

    def load(self, path: Path) -> None:
        """Choose what a file tells."""
        with telling(self._model.fail):
            recipe = load_recipe(path)
            not_here = self.take(recipe)
            sentence = f"Settings of {path.name} loaded; count to use them.{not_here}"
            if recipe.analysis != AnalysisSettings(region_rule=recipe.analysis.region_rule):
                sentence += " Its filters, borders and measurements are for Results."
            self._model.tell(sentence)

    def take(self, recipe: Recipe) -> str:
        """Choose models, settings and channels; return sentences on what is not here to be chosen.

        CheckpointError where there is no such model.
        """
        self._choices.choose_model(recipe.models[0])
        panel, engine = self._panel, recipe.engine
        if recipe.settings is not None:
            self._model.settings_wanted.emit(recipe.settings)
        panel.engine.set_values(asdict(engine))
        panel.diameter.show_settings(engine)
        _choose(panel.device, engine.device)
        panel.classes.take(recipe.classifier)
        _choose(panel.rule, recipe.analysis.region_rule)
        not_here = self._choices.choose_channels(engine)
        self._choices.list_siblings(recipe.models[1:])
        missing = [name for name in recipe.models[1:] if name not in panel.together.ticked]
        if missing:
            not_here += f" There is no model {', '.join(missing)} to count together with; it is left out."
        return not_here

    def _on_save_clicked(self) -> None:
        path = ask_to_save(self._panel, "Save settings", "settings.json", FORMATS)
        if path:
            self.save(path)

    def _on_load_clicked(self) -> None:
        path = ask_to_open(self._panel, "Load settings", FORMATS)
        if path:
            self.load(path)


def _choose(box: PanelComboBox, data: str) -> None:
    """Choose an entry; one that the box lacks is added, so that what a file tells is kept."""
    if box.findData(data) < 0:
        box.addItem(data, data)
    box.choose_data(data)
