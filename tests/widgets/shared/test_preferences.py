"""What is set in napari's Preferences is where the panels begin."""

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import napari.settings
import numpy as np
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QFileDialog

from cellwright.core.data import Image
from cellwright.widgets.count.count_request import size_line
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.plugin import commands
from cellwright.widgets.results.widget import ResultsWidget
from cellwright.widgets.shared.napari_private import PAGE, PLUGIN, Preferences, preferences


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Our page of napari's Preferences, kept in a folder of its own."""
    monkeypatch.setattr(napari.settings, "_PLUGIN_SETTINGS", {})
    napari.settings.get_plugin_settings(path_dir=tmp_path)
    return getattr(napari.settings.get_plugin_settings(PLUGIN), PAGE)


def test_the_page_has_what_panels_read(page: Any) -> None:
    assert set(type(page).model_fields) == {item.name for item in fields(Preferences)}
    assert preferences() == Preferences()


def test_panels_begin_with_what_is_set(
    viewer: ViewerModel,
    qtbot: QtBot,
    page: Any,
    monkeypatch: pytest.MonkeyPatch,
    result_of: Callable[..., Any],
) -> None:
    wanted = {"model": "nuclei", "device": "cpu", "border": "drop", "unit": "px", "output_folder": "/out"}
    page.update(wanted)
    assert asdict(preferences()) == wanted
    space = {"scale": (0.5, 0.5), "units": ("um", "um")}
    viewer.add_image(np.zeros((20, 20), np.uint8), name="a", **space)
    viewer.add_labels(np.pad(np.ones((4, 4), np.int32), 8), **space)
    count, results = CountWidget(viewer), ResultsWidget(viewer)
    for panel in (count, results):
        qtbot.addWidget(panel)
    assert (count.panel.model.currentData(), count.panel.device.currentData()) == ("nuclei", "cpu")
    assert (results.model.border, results.view.border.currentData()) == ("drop", "drop")
    assert results.model.settings.border == "drop"

    asked: list[str] = []
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *given: (asked.append(given[2]), ("", ""))[1])
    qtbot.waitUntil(lambda: not results.measurer.is_busy, timeout=30_000)
    results.view.save_counts.click()
    count.panel.save_settings.click()
    assert asked == [str(Path("/out") / "a.counts.csv"), str(Path("/out") / "settings.json")]
    assert results.view.plot_x.currentData() == "area_px"

    image = Image(np.zeros((9, 9), np.uint8), "YX", (0.5, 0.5))
    result = result_of(image, np.pad(np.ones((3, 3), np.int32), 3))
    assert "µm" in size_line(result)
    assert "µm" not in size_line(result, preferences().unit)

    requests: list[Any] = []
    monkeypatch.setattr(commands, "count_task", requests.append)
    monkeypatch.setattr(commands, "_run", lambda *_: None)
    viewer.layers.selection.active = viewer.layers["a"]
    commands.count_active_layer(viewer)
    assert (requests[0].model, requests[0].engine.device) == ("nuclei", "cpu")
