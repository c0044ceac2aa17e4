"""What is chosen in the panel goes to a file, and from there to another panel and to the command line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tifffile
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot

from cellwright.__main__ import main
from cellwright.inference.recipe import load_recipe, save_recipe
from cellwright.widgets.count.widget import CountWidget


def test_settings_go_to_a_file_a_panel_and_a_command(
    viewer: ViewerModel,
    qtbot: QtBot,
    widget: CountWidget,
    blobs: Any,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    panel, path = widget.panel, tmp_path / "settings.json"
    panel.thresholds.container["cell_probability"].value = 0.25
    panel.filters.container["min_area_px"].value = 33
    panel.engine.container["flips"].value = True
    panel.diameter.setValue(14.5)
    panel.rule.setCurrentIndex(panel.rule.findData("whole"))
    widget.settings_file.save(path)
    assert "Saved" in panel.message.text()

    other = CountWidget(viewer)
    qtbot.addWidget(other)
    other.settings_file.load(path)
    assert (other.panel.settings, other.choices.engine) == (widget.panel.settings, widget.choices.engine)
    assert other.panel.rule.currentData() == "whole"

    tifffile.imwrite(tmp_path / "a.tif", (blobs.image * 60_000).astype("uint16"))
    with pytest.raises(SystemExit):
        main(["count", str(tmp_path / "a.tif"), "--settings", str(path), "--output", str(tmp_path / "o")])
    settings = json.loads((tmp_path / "o" / "a.json").read_text())["settings"]
    assert (settings["flow"]["min_area_px"], settings["flow"]["cell_probability"]) == (33, 0.25)
    assert (settings["engine"]["flips"], settings["engine"]["diameter_px"]) == (True, 14.5)
    capfd.readouterr()

    recipe = load_recipe(path)
    save_recipe(path, replace(recipe, analysis=replace(recipe.analysis, border="drop")))
    other.settings_file.load(path)
    assert "borders and measurements are for Results" in other.panel.message.text()
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "models": ["not there"]}))
    other.settings_file.load(path)
    assert panel.message.property("error") != "true"
    assert other.panel.message.property("error") == "true"
