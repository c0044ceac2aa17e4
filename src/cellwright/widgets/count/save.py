"""Saving from the panel: what was counted, as a table, beside the viewer; and what is chosen, as a file.

A million cells take seconds to write. The command line takes the file of settings, too.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Labels, Layer
from psygnal import Signal
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QAbstractButton, QFileDialog, QWidget

from cellwright.core.data import Result
from cellwright.core.tasks import Progress, Task
from cellwright.files.tables import write_csv, write_table
from cellwright.inference.recipe import Recipe, load_recipe, save_recipe
from cellwright.ops.measure.settings import AnalysisSettings, MeasureSettings
from cellwright.widgets.count.choices import Choices
from cellwright.widgets.count.model import CountModel
from cellwright.widgets.count.view import CountPanel
from cellwright.widgets.shared.cells.followers import MEASURED_FIRST, cells_news
from cellwright.widgets.shared.cells.measured_cells import measure_task
from cellwright.widgets.shared.cells.snapshot import Snapshot, image_layer_under, snapshot_of
from cellwright.widgets.shared.edited_layers import METADATA, is_edited, is_marked, is_of_count
from cellwright.widgets.shared.jobs import Job
from cellwright.widgets.shared.messages import listen, telling
from cellwright.widgets.shared.napari_private import preferences

if TYPE_CHECKING:
    import pandas

FORMATS = "Settings (*.json)"
OUTPUTS = ("Labels", "Points", "Shapes")  # that hold cells


class EditedCells:
    """The cells of the last count as they were changed by hand since, in any of its layers.

    Cells that a later run of the same count stands beside are no longer those of the count. It ends with the
    panel.
    """

    changed = Signal()  # there are other cells now

    def __init__(self, model: CountModel, panel: QWidget) -> None:
        self._model = model
        self.layer: Layer | None = None
        self.table: pandas.DataFrame | None = None  # a row for each cell
        listen(cells_news.changed, self._on_cells_changed, panel)
        listen(model.viewer.layers.events.removed, self._on_removed, panel)

    def forget(self) -> None:
        """Take the cells as they were found."""
        self.layer = self.table = None

    def take_up(self) -> None:
        """Take the cells as they were changed while there was no panel; what follows layers has told them."""
        for output in OUTPUTS:
            ours = self._layers(output)
            if ours and all(map(is_marked, ours)):
                self.layer, self.table = ours[-1], rows_of(ours[-1])
                return

    def found_layer(self) -> Layer | None:
        """Return the layer that holds the cells as they are now; None where they are as they were found.

        One that a script has changed, of which nobody tells, is found by comparison.
        """
        if self.layer is not None:
            return self.layer
        return next(filter(None, map(self.layer_of, OUTPUTS)), None)

    def layer_of(self, output: str) -> Layer | None:
        """Return the layer of one output if it was changed by hand, else None."""
        ours = self._layers(output)
        if ours and all(map(is_edited, ours)):
            return ours[-1]
        return None

    def _layers(self, output: str) -> list[Layer]:
        outcome, layers = self._model.outcome, self._model.viewer.layers
        if outcome is None:
            return []
        wanted = {**outcome.request.source.key, "output": output}
        return [one for one in layers if is_of_count(one, wanted, outcome.result.provenance)]

    def _on_cells_changed(self, layer: Layer, table: "pandas.DataFrame") -> None:
        own = layer.metadata.get(METADATA, {})
        ours = self._layers(str(own.get("output")))
        if layer in ours and all(map(is_marked, ours)):
            self.layer, self.table = layer, table
            self.changed.emit()

    def _on_removed(self, event: Any) -> None:
        if event.value is self.layer:
            self.forget()
            self.changed.emit()


def rows_of(layer: Layer) -> "pandas.DataFrame":
    """Return the features of a layer, one row for each cell; those of labels have rows without one, too."""
    features: pandas.DataFrame = layer.features
    if isinstance(layer, Labels):
        features = features.dropna(subset=[name for name in MEASURED_FIRST if name in features])
    return features


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
        layer = self._edited.found_layer()
        with telling(self._model.fail):
            task = _save_task(path, self._model.outcome.result)
            if layer is not None:
                task = _save_edited_task(
                    path, snapshot_of(layer, image_layer_under(self._model.viewer, layer))
                )
            self.job = Job(task, self)
            self.job.returned.connect(lambda saved: self._model.tell(f"Saved {saved}"))
            self.job.failed.connect(lambda error: self._model.fail(error, "Saving"))
            self.job.finished.connect(self._on_job_finished)
            self.job.start()

    def _on_job_finished(self) -> None:
        self.job = None


def _save_edited_task(path: Path, cells: Snapshot) -> Task[Path]:
    """Write the cells of a layer as they are now: measured anew, those by hand without score."""
    measured = yield from measure_task(cells, MeasureSettings(()))
    write_csv(path, measured.table)
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
        with telling(self._model.fail):
            inputs = self._model.inputs()
            recipe = Recipe(
                models=inputs.models,
                settings=inputs.settings,
                engine=replace(inputs.engine, channels=inputs.channels_of_file),
                classifier=inputs.classifier,
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
            told = f"Settings of {path.name} taken; count to use them.{not_here}"
            if recipe.analysis != AnalysisSettings(region_rule=recipe.analysis.region_rule):
                told += " What it tells of filters, borders and measurements is for Results."
            self._model.tell(told)

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
        _choose(panel.classes, recipe.classifier)
        _choose(panel.rule, recipe.analysis.region_rule)
        not_here = self._choices.choose_channels(engine)
        self._choices.list_siblings(recipe.models[1:])
        missing = [name for name in recipe.models[1:] if name not in panel.together.ticked]
        if missing:
            not_here += f" There is no model {', '.join(missing)} to count together with; it is left out."
        return not_here

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
