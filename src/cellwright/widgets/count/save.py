"""Saving from the panel: what was counted, as a table, beside the viewer; and what is chosen, as a file.

A million cells take seconds to write. The command line takes the file of settings, too.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from numpy.typing import NDArray
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QAbstractButton, QFileDialog

from cellwright.core.data import Result
from cellwright.core.errors import CellwrightError
from cellwright.core.tasks import Progress, Task
from cellwright.files.tables import cells_table, write_csv, write_table
from cellwright.inference.recipe import Recipe, load_recipe, save_recipe
from cellwright.ops.measure.measurement import result_of_labels
from cellwright.ops.measure.settings import AnalysisSettings
from cellwright.widgets.count.choices import Choices
from cellwright.widgets.count.count_request import CountOutcome
from cellwright.widgets.count.model import CountModel
from cellwright.widgets.count.view import CountPanel
from cellwright.widgets.shared.edited_layers import METADATA, is_edited
from cellwright.widgets.shared.jobs import Job
from cellwright.widgets.shared.napari_private import preferences

if TYPE_CHECKING:
    import pandas

FORMATS = "Settings (*.json)"


class SaveTool(QObject):
    """Asks for a file and writes the last count to it, as it was changed by hand since."""

    def __init__(self, model: CountModel, button: QAbstractButton) -> None:
        super().__init__(button)
        self._model, self._button = model, button
        button.clicked.connect(self.ask)
        self.job: Job | None = None

    def ask(self) -> None:
        """Let the user choose a file, and save to it."""
        if self._model.outcome is None:
            return
        name = preferences().path_for(f"{self._model.outcome.request.source.image.name}.cells.csv")
        path, _ = QFileDialog.getSaveFileName(self._button, "Save cells", name, "Table (*.csv)")
        if path:
            self.start(Path(path))

    def start(self, path: Path) -> None:
        """Write the cells of the last count as CSV and tell where, or why not."""
        if self._model.outcome is None:
            self._model.tell("There are no cells to save yet; count them first.", is_error=True)
            return
        if self.job is not None:
            self._model.tell("The last table is still being saved; try again in a moment.")
            return
        self._model.tell(f"Saving {path}…")
        outcome = self._model.outcome
        layer = edited_labels(self._model.viewer, outcome.request.source.key)
        task = _save_task(path, outcome.result)
        if layer is not None:
            task = _save_edited_task(path, layer, outcome)
        self.job = Job(task, self)
        self.job.returned.connect(lambda saved: self._model.tell(f"Saved {saved}"))
        self.job.failed.connect(lambda error: self._model.fail(error, "Saving"))
        self.job.finished.connect(self._on_job_finished)
        self.job.start()

    def _on_job_finished(self) -> None:
        self.job = None


def edited_labels(viewer: Any, key: Mapping[str, Any]) -> Labels | None:
    """Return the cells of a count where they were changed by hand since; None where they are as found."""
    wanted = {**key, "output": "Labels"}.items()
    found = [one for one in viewer.layers if isinstance(one, Labels)]
    ours = [one for one in found if wanted <= one.metadata.get(METADATA, {}).items()]
    if not all(map(is_edited, ours)):
        return None  # the last count stands beside them
    return next(reversed(ours), None)


def edited_table(
    pixels: NDArray[np.int32], features: "pandas.DataFrame", outcome: CountOutcome
) -> "pandas.DataFrame":
    """Return one row for each cell that is there now, measured anew; ``edited`` tells those made by hand.

    A cell by hand has no score.
    """
    result, source = outcome.result, outcome.request.source
    if source.channel_axis is not None:
        pixels = np.squeeze(pixels, source.channel_axis)
    found, numbers = result_of_labels(pixels, source.image, is_volume=outcome.request.engine.link)
    table = cells_table(replace(found, offset=result.offset))
    table["label"] = numbers
    rows = features.reindex(numbers)
    size = next((name for name in ("area_px", "volume_px") if name in table), "")
    edited = np.zeros(len(rows), bool)
    if "edited" in rows:
        edited |= rows["edited"].to_numpy() == True  # noqa: E712 - empty rows are not
    if size in rows:
        edited |= rows[size].to_numpy(float) != table[size].to_numpy(float)
    table["score"] = np.nan
    if "score" in rows:
        table["score"] = np.where(edited, np.nan, rows["score"].to_numpy(float))
    if "class" in rows:
        table["class"] = rows["class"].fillna("").to_numpy()
    table["edited"] = edited
    return table


def _save_edited_task(path: Path, layer: Labels, outcome: CountOutcome) -> Task[Path]:
    pixels, features = np.array(layer.data), layer.features.copy()  # it may be painted in meanwhile
    return _write_edited(path, pixels, features, outcome)


def _write_edited(path: Path, pixels: Any, features: Any, outcome: CountOutcome) -> Task[Path]:
    yield Progress("save", 0, 1)
    write_csv(path, edited_table(pixels, features, outcome))
    return path


def _save_task(path: Path, result: Result) -> Task[Path]:
    yield Progress("save", 0, 1)
    write_table(path, result)
    return path


class SettingsFileTool(QObject):
    """Asks for a file and keeps model, thresholds, engine, classes and the rule of regions in it."""

    def __init__(self, model: CountModel, panel: CountPanel, choices: Choices) -> None:
        super().__init__(panel)
        self._model, self._panel, self._choices = model, panel, choices
        panel.save_settings.clicked.connect(self._on_save_clicked)
        panel.load_settings.clicked.connect(self._on_load_clicked)

    def save(self, path: Path) -> None:
        """Write what is chosen now."""
        try:
            inputs = self._model.inputs()
            recipe = Recipe(
                models=inputs.models,
                settings=inputs.settings,
                engine=replace(inputs.engine, channels=inputs.channels_of_file),
                classifier=inputs.classifier,
                analysis=AnalysisSettings(region_rule=self._panel.rule.currentData()),
            )
            save_recipe(path, recipe)
        except CellwrightError as error:
            self._model.fail(error, "Saving")
            return
        self._model.tell(f"Saved {path}")

    def load(self, path: Path) -> None:
        """Choose what a file tells."""
        try:
            recipe = load_recipe(path)
            self._choices.choose_model(recipe.models[0])
        except CellwrightError as error:
            self._model.fail(error, "Loading")
            return
        panel, engine = self._panel, recipe.engine
        if recipe.settings is not None:
            self._model.settings_wanted.emit(recipe.settings)
        panel.engine.set_values(asdict(engine))
        panel.diameter.show_settings(engine)
        _choose(panel.device, engine.device)
        _choose(panel.classes, recipe.classifier)
        _choose(panel.rule, recipe.analysis.region_rule)
        told = f"Settings of {path.name} taken; count to use them." + self._choices.choose_channels(engine)
        self._choices.list_siblings(recipe.models[1:])
        missing = [name for name in recipe.models[1:] if name not in panel.ticked_models]
        if missing:
            told += f" There is no model {', '.join(missing)} to count together with; it is left out."
        self._model.tell(told)

    def _on_save_clicked(self) -> None:
        name = preferences().path_for("settings.json")
        path, _ = QFileDialog.getSaveFileName(self._panel, "Save settings", name, FORMATS)
        if path:
            target = Path(path)
            self.save(target if target.suffix else target.with_suffix(".json"))

    def _on_load_clicked(self) -> None:
        folder = preferences().path_for("")
        path, _ = QFileDialog.getOpenFileName(self._panel, "Load settings", folder, FORMATS)
        if path:
            self.load(Path(path))


def _choose(box: Any, data: str) -> None:
    """Choose an entry; one that the box lacks is added, so that what a file tells is kept."""
    place = box.findData(data)
    if place < 0:
        box.addItem(data, data)
        place = box.findData(data)
    box.setCurrentIndex(place)
