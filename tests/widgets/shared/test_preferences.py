"""What is set in napari's Preferences is where the panels begin."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import napari.settings
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils.history import get_save_history
from npe2 import PluginManager
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QFileDialog, QWidget

from cellwright.core.data import Image
from cellwright.models import store
from cellwright.ops.measure.cells_table import cells_table
from cellwright.widgets.annotate.widget import AnnotateWidget
from cellwright.widgets.compare.widget import CompareWidget
from cellwright.widgets.count.model import sizes_line
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.folder.widget import FolderWidget
from cellwright.widgets.plugin import commands
from cellwright.widgets.results.view import ResultsView
from cellwright.widgets.results.widget import ResultsWidget
from cellwright.widgets.shared.model_combos import DeviceComboBox, ModelComboBox
from cellwright.widgets.shared.napari_private import (
    DEVICES,
    PAGE,
    PLUGIN,
    Preferences,
    ask_to_save,
    preferences,
)
from cellwright.widgets.shared.style import MessageLabel
from cellwright.widgets.train.widget import TrainWidget

CHOSEN = {
    "model": "Nuclei and cells · nuclei",
    "device": "CPU",
    "border": "None at the border",
    "unit": "px",
    "output_folder": "/out",
}


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Our page of napari's Preferences, kept in a folder of its own."""
    monkeypatch.setattr(napari.settings, "_PLUGIN_SETTINGS", {})
    napari.settings.get_plugin_settings(path_dir=tmp_path)
    return getattr(napari.settings.get_plugin_settings(PLUGIN), PAGE)


def test_the_page_has_what_panels_read(page: Any) -> None:
    assert set(type(page).model_fields) == {item.name for item in fields(Preferences)} | {"own_model"}
    assert preferences() == Preferences()


def test_the_page_offers_choices_in_the_words_of_the_panels(
    viewer: ViewerModel, qtbot: QtBot, page: Any
) -> None:
    count, view = CountWidget(viewer), ResultsView()
    for panel in (count, view):
        qtbot.addWidget(panel)
    words = {name: field.json_schema_extra for name, field in type(page).model_fields.items()}
    box = count.panel.model
    models = [(box.itemText(n), box.itemData(n)) for n in range(box.count() - 1)]  # the last opens a folder
    assert words["model"]["enum"] == ["Default", *(title for title, _ in models)]
    for title, name in models:
        page.update({"model": title})
        assert preferences().model == name
    assert words["border"]["enum"] == [view.border.itemText(n) for n in range(view.border.count())]
    for word in words["device"]["enum"]:
        page.update({"device": word})
        box = DeviceComboBox()
        qtbot.addWidget(box)
        assert box.currentText() == word
        assert box.device == preferences().device
    assert words["device"]["enum"] == list(DEVICES)
    assert words["unit"]["enum"] == ["Auto", count.panel.diameter.unit.itemText(0)]


def test_panels_begin_with_what_is_set(
    viewer: ViewerModel,
    qtbot: QtBot,
    page: Any,
    monkeypatch: pytest.MonkeyPatch,
    result_of: Callable[..., Any],
) -> None:
    page.update(CHOSEN)
    assert preferences() == Preferences("nuclei", "cpu", "drop", "px", "/out")
    space = {"scale": (0.5, 0.5), "units": ("um", "um")}
    viewer.add_image(np.zeros((20, 20), np.uint8), name="a", **space)
    viewer.add_labels(np.pad(np.ones((4, 4), np.int32), 8), **space)
    count, results = CountWidget(viewer), ResultsWidget(viewer)
    for panel in (count, results):
        qtbot.addWidget(panel)
    assert (count.panel.model.currentData(), count.panel.device.currentData()) == ("nuclei", "cpu")
    qtbot.waitUntil(lambda: results.is_filled)
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
    assert "µm" in sizes_line(cells_table(result))
    assert "µm" not in sizes_line(cells_table(result), preferences().unit)

    requests: list[Any] = []
    monkeypatch.setattr(commands, "count_task", requests.append)
    monkeypatch.setattr(commands, "_run", lambda *_: None)
    viewer.layers.selection.active = viewer.layers["a"]
    commands.count_active_layer(viewer)
    recipe = requests[0].recipe
    assert (recipe.models, recipe.engine.device) == (("nuclei",), "cpu")


def test_results_of_folders_and_annotations_are_saved_in_the_output_folder(
    annotate_widget: AnnotateWidget,
    viewer: ViewerModel,
    qtbot: QtBot,
    page: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    images, asked = tmp_path / "images", list[str]()
    images.mkdir()
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *given: (asked.append(given[2]), ("", ""))[1])
    viewer.add_image(np.zeros((20, 20), np.uint8), name="a")
    annotate_widget.panel.begin.click()
    for wanted, results in (("", tmp_path / "images results"), ("/out", Path("/out") / "images results")):
        page.update({"output_folder": wanted})
        folder = FolderWidget(viewer)
        qtbot.addWidget(folder)
        folder.view.folders.setText(str(images))
        folder.view.propose()
        assert Path(folder.view.output.text()) == results
        annotate_widget.panel.exports.save_as.click()
    assert [Path(one).parent for one in asked] == [Path(get_save_history()[0]), Path("/out")]


def test_the_next_file_is_proposed_beside_the_last_one(
    viewer: ViewerModel, widget: CountWidget, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Path] = []

    def choose(*given: Any) -> tuple[str, str]:
        asked.append(Path(given[2]))
        return str(tmp_path / "mine.json"), ""

    monkeypatch.setattr(QFileDialog, "getSaveFileName", choose)
    for _ in range(2):
        widget.panel.save_settings.click()
    assert asked[1] == tmp_path / "settings.json"
    assert asked[0].parent != tmp_path


TABLES = "Table (*.csv);;Excel (*.xlsx)"


@pytest.mark.parametrize(
    ("typed", "kind", "saved"),
    [
        ("cells", "Table (*.csv)", "cells.csv"),
        ("cells", "Excel (*.xlsx)", "cells.xlsx"),
        ("a.cells.csv", "Excel (*.xlsx)", "a.cells.xlsx"),  # as proposed
        ("a.cells.xlsx", "Table (*.csv)", "a.cells.xlsx"),  # as typed, where the kind was left as it was
        ("a.cells", "Excel (*.xlsx)", "a.cells"),
        ("cells", "", "cells.csv"),  # some systems do not tell
    ],
)
def test_a_file_gets_the_ending_of_the_chosen_kind(
    qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, typed: str, kind: str, saved: str
) -> None:
    parent = QWidget()
    qtbot.addWidget(parent)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / typed), kind))
    assert ask_to_save(parent, "Save", "cells.csv", TABLES) == tmp_path / saved
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: ("", ""))
    assert ask_to_save(parent, "Save", "cells.csv", TABLES) is None
    folder = str(tmp_path / "cells_RES")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (folder, "Folder (*_RES)"))
    assert ask_to_save(parent, "Save", "cells_RES", "Folder (*_RES)") == Path(folder)


def test_the_name_of_a_layer_is_proposed_as_a_file_can_have_it(
    qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, asked = QWidget(), []
    qtbot.addWidget(parent)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *args: asked.append(args[2]) or ("", ""))
    ask_to_save(parent, "Save", "DAPI/GFP: 1.cells.csv", TABLES)
    assert Path(asked[0]).name == "DAPI_GFP_ 1.cells.csv"


def test_the_next_start_of_napari_knows_them(
    page: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page.update(CHOSEN)
    monkeypatch.setattr(napari.settings, "_PLUGIN_SETTINGS", {})  # as in a new process
    napari.settings.get_plugin_settings(path_dir=tmp_path)
    assert preferences() == Preferences("nuclei", "cpu", "drop", "px", "/out")


def test_settings_are_looked_for_where_they_are_saved(
    viewer: ViewerModel, qtbot: QtBot, page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.update({"output_folder": "/out"})
    asked: list[str] = []
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *given: (asked.append(given[2]), ("", ""))[1])
    results = ResultsWidget(viewer)
    qtbot.addWidget(results)
    results.view.load_settings.click()
    assert [Path(one) for one in asked] == [Path("/out")]


def test_a_preferred_model_that_does_not_suit_a_panel_is_left_out(
    qtbot: QtBot, page: Any, tmp_path: Path
) -> None:
    for name, wanted in (("density", False), ("flow", True)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "spec.json").write_bytes((store.shipped_folder() / name / "spec.json").read_bytes())
        page.update({"own_model": str(folder)})
        box = ModelComboBox(accepts=lambda entry: entry.spec.family != "density")
        qtbot.addWidget(box)
        box.choose_preferred()
        assert (box.currentData() == str(folder)) == wanted


def test_a_preferred_model_that_is_not_there_is_told(viewer: ViewerModel, qtbot: QtBot, page: Any) -> None:
    page.update({"own_model": "nonsense"})
    panels = CountWidget(viewer), AnnotateWidget(viewer), FolderWidget(viewer), CompareWidget(viewer)
    for panel in panels:
        qtbot.addWidget(panel)
    messages = [panel.findChild(MessageLabel) for panel in panels]
    qtbot.waitUntil(lambda: all("'nonsense'" in one.text() for one in messages))
    assert panels[0].panel.model.currentData() == "flow"


def test_every_panel_begins_with_the_preferred_model_and_device(
    viewer: ViewerModel, qtbot: QtBot, page: Any, home: Path
) -> None:
    page.update({"model": CHOSEN["model"], "device": "GPU 7"})
    folder, annotate, compare = FolderWidget(viewer), AnnotateWidget(viewer), CompareWidget(viewer)
    train, count = TrainWidget(viewer), CountWidget(viewer)
    for panel in (folder, annotate, compare, train, count):
        qtbot.addWidget(panel)
    assert train.panel.start.currentData() == "nuclei"
    for box in (folder.view.device, train.panel.device, count.panel.device):
        assert box.device == "cuda:7"
        box._on_found((("cpu", "CPU"),))
        assert box.device == "cuda:7"  # which is not there, as a count then tells
    first, second = compare.panel.first.currentData(), compare.panel.second.currentData()
    assert (folder.view.model.currentData(), annotate.panel.model.currentData()) == ("nuclei", "nuclei")
    assert (first, second) == ("nuclei", "flow")


@pytest.mark.parametrize(("name", "n_read"), [("napari-cellwright", 0), ("other", 7)])
def test_manifests_that_are_known_are_not_read_again(
    monkeypatch: pytest.MonkeyPatch, name: str, n_read: int
) -> None:
    class Manager:
        def iter_manifests(self) -> list[Any]:
            return [SimpleNamespace(name=name)]

        def discover(self) -> int:
            return 7

    manager, found = Manager(), list[int]()
    monkeypatch.setattr(PluginManager, "instance", lambda: manager)
    monkeypatch.setattr("napari.settings.get_plugin_settings", lambda _: found.append(manager.discover()))
    preferences()
    assert (found, manager.discover()) == ([n_read], 7)
