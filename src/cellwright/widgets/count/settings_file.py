"""Saving what is chosen in the panel to a file, and taking it from one, which the command line takes too."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject
from qtpy.QtWidgets import QFileDialog

from cellwright.core.errors import CellwrightError
from cellwright.inference.recipe import Recipe, load_recipe, save_recipe
from cellwright.ops.measure.settings import AnalysisSettings
from cellwright.widgets.count.choices import Choices
from cellwright.widgets.count.model import CountModel
from cellwright.widgets.count.view import CountPanel
from cellwright.widgets.shared.napari_private import preferences

FORMATS = "Settings (*.json)"


class SettingsFileTool(QObject):
    """Asks for a file and keeps model, thresholds, engine, classes and the rule of regions in it.

    Parameters
    ----------
    model
        Knows what is chosen, and shows settings.
    panel, choices
        Are set as a file tells.
    """

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
                models=(inputs.model,),
                settings=inputs.settings,
                engine=inputs.engine,
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
        panel.diameter.setValue(engine.diameter_px)
        _choose(panel.device, engine.device)
        _choose(panel.classes, recipe.classifier)
        _choose(panel.rule, recipe.analysis.region_rule)
        for place in range(panel.channel.count()):
            channel = panel.channel.itemData(place)
            if channel is not None and channel.index == engine.channel:
                panel.channel.setCurrentIndex(place)
        told = f"Settings of {path.name} taken; count to use them."
        if len(recipe.models) > 1:
            told += f" The panel takes one model; left out: {', '.join(recipe.models[1:])}."
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
