"""The boxes to choose from, which follow layers and models by themselves."""

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pint
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Labels, Layer, Points
from napari.utils.colormaps import colormap
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QComboBox, QFileDialog, QPushButton, QWidget

from cellwright.core.tasks import Progress
from cellwright.models import store
from cellwright.models.store import ModelEntry
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.folder.widget import FolderWidget
from cellwright.widgets.plugin.image_reader import read_images_of_file
from cellwright.widgets.shared import combos, model_combos
from cellwright.widgets.shared.combos import ChannelComboBox, LayerComboBox, PanelComboBox, is_image
from cellwright.widgets.shared.model_combos import (
    DeviceComboBox,
    ModelCard,
    ModelComboBox,
    model_events,
    model_title,
)
from cellwright.widgets.shared.panel_area import PanelScrollArea
from cellwright.widgets.train.widget import TrainWidget


def titles(box: QComboBox) -> list[str]:
    return [box.itemText(place) for place in range(box.count())]


def test_entries_change_under_the_choice(qtbot: QtBot) -> None:
    box = PanelComboBox("help")
    qtbot.addWidget(box)
    told: list[Any] = []
    box.fill([("a", 1), ("b", 2)], wanted=2)
    box.chosen.connect(lambda: told.append(box.currentData()))
    box.fill([("z", 0), ("b", 2)], wanted=2)
    assert (box.currentData(), told) == (2, [])
    box.fill([("c", 3)], wanted=2)
    box.fill([], otherwise="none")
    assert (titles(box), told) == (["none"], [3, None])


def test_models_that_find_the_same_are_told_apart_in_a_narrow_box(
    qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(
        combos.QStylePainter, "drawControl", lambda _, kind, option: drawn.append(option.currentText)
    )
    box = PanelComboBox()
    qtbot.addWidget(box)
    box.fill([(model_title(name, "flow"), name) for name in ("flow", "nuclei")])
    box.resize(150, 24)
    for place in range(2):
        box.setCurrentIndex(place)
        box.grab()
    assert "…" in drawn[0]
    assert drawn[0].endswith("· flow")
    assert drawn[-1].endswith("· nuclei")
    models = ModelComboBox()
    qtbot.addWidget(models)
    metrics = models.fontMetrics()
    room_px = metrics.horizontalAdvance("nuclei and")  # for a name, but not for what is left of a title
    for name in ("flow", "nuclei"):
        assert models.shortened(model_title(name, "flow"), room_px).endswith(name)


def test_the_first_channel_of_a_file_is_chosen_until_the_user_chooses(qtbot: QtBot, tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.zeros((3, 8, 9), np.uint8), ome=True, photometric="minisblack")
    viewer = ViewerModel()
    before, after = LayerComboBox(follows_active=True), LayerComboBox(follows_active=True)
    qtbot.addWidget(before)
    qtbot.addWidget(after)
    before.follow(viewer)
    for data in read_images_of_file(str(path)):
        viewer.add_layer(Layer.create(*data))
    after.follow(viewer)
    first, second, last = viewer.layers
    assert (before.layer, after.layer) == (first, first)
    for wanted in (last, second, last):
        viewer.layers.selection.active = first
        viewer.layers.selection.active = wanted
        assert (before.layer, after.layer) == (wanted, wanted)


def test_a_folder_is_chosen_in_a_dialog(
    qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = PanelComboBox(folders="Images")
    qtbot.addWidget(box)
    told: list[Any] = []
    box.fill([("a", 1)])
    box.chosen.connect(lambda: told.append(box.currentData()))
    for chosen in ("", str(tmp_path)):
        monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_, chosen=chosen: chosen)
        box.setCurrentIndex(1)
        box.activated.emit(1)
        assert box.folder == (Path(chosen) if chosen else None)
    assert told == [str(tmp_path)]
    box.fill([("b", 2)], box.currentData())
    assert (titles(box), box.folder) == (["b", f"Folder · {tmp_path.name}", "Choose a folder…"], tmp_path)


def test_a_layer_stays_chosen_when_it_is_renamed_moved_and_others_come(
    viewer: ViewerModel, qtbot: QtBot
) -> None:
    box = LayerComboBox(is_image, follows_active=True)
    qtbot.addWidget(box)
    box.follow(viewer)
    first, second = (viewer.add_image(np.zeros((9, 9)), name=name) for name in ("first", "second"))
    assert (titles(box), box.layer) == (["second", "first"], second)
    box.setCurrentIndex(1)
    second.name = "other"  # still the active one
    viewer.layers.move(0, 2)
    viewer.add_labels(np.zeros((9, 9), int))
    assert (titles(box), box.layer) == (["first", "other"], first)
    box.setEnabled(False)
    viewer.layers.selection.active = second
    assert box.layer is first
    box.setEnabled(True)
    viewer.layers.remove(first)
    assert box.layer is second


def test_what_the_user_chose_beside_the_layers_stays(viewer: ViewerModel, qtbot: QtBot) -> None:
    box = LayerComboBox(lambda layer: isinstance(layer, Labels | Points), none="Nothing")
    qtbot.addWidget(box)
    box.follow(viewer)
    assert box.currentText() == "Nothing"
    box.usual = lambda: box.listed[0] if box.listed else None
    labels = viewer.add_labels(np.zeros((9, 9), int))
    assert box.layer is labels  # nobody chose nothing
    box.setCurrentIndex(0)
    box.activated.emit(0)
    viewer.add_points(np.zeros((1, 2)))
    assert (box.currentText(), box.layer) == ("Nothing", None)


def test_devices_are_looked_for_without_units_and_layers(
    qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, builders: list[threading.Thread]
) -> None:
    users, registry, compiled = [], pint.get_application_registry(), []

    def is_in_task() -> bool:  # timers of panels of other tests may still draw layers
        return threading.current_thread() is not threading.main_thread()

    def recorded() -> Any:  # half loaded by a task, units fail a layer that comes
        if is_in_task():
            users.append(threading.current_thread())
        return registry

    def compile_colours(labels: np.ndarray, _: Any) -> None:
        if is_in_task():
            compiled.append(labels.dtype)

    monkeypatch.setattr(pint, "get_application_registry", recorded)
    for kind in ("auto", "direct"):  # colours in turn, and those of classes
        monkeypatch.setattr(colormap, f"_cast_labels_data_to_texture_dtype_{kind}", compile_colours)
    box = DeviceComboBox()
    qtbot.addWidget(box)
    box.find_devices()
    qtbot.waitUntil(lambda: box.count() > 1, timeout=30_000)
    assert users == builders == []
    assert compiled == 4 * [np.int32]


LOADED = """
import sys
from npe2 import PluginManager
from cellwright.core.tasks import run
from cellwright.widgets.shared.model_combos import device_task
PluginManager.instance().discover()  # as a viewer does
run(device_task())
assert "cellwright.widgets.results.widget" in sys.modules
"""


def test_results_are_loaded_before_the_first_count_opens_them() -> None:
    subprocess.run([sys.executable, "-c", LOADED], check=True)


def test_devices_that_cannot_be_listed_are_told_and_looked_for_again(
    qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def broken() -> Any:
        yield Progress("devices", 0, 1)
        raise ImportError("libtorch is cut short")

    found = model_combos.device_task
    monkeypatch.setattr(model_combos, "device_task", broken)
    monkeypatch.setattr(model_combos, "show_warning", told.append)
    box = DeviceComboBox()
    qtbot.addWidget(box)
    box.find_devices()
    qtbot.waitUntil(lambda: bool(told), timeout=30_000)
    assert told == ["The devices of this machine could not be listed: ImportError: libtorch is cut short"]
    assert box.device == "auto"
    monkeypatch.setattr(model_combos, "device_task", found)
    area = PanelScrollArea(QWidget())
    qtbot.addWidget(area)
    area.shown.connect(box.find_devices)
    area.show()
    qtbot.waitUntil(lambda: box.count() > 1, timeout=30_000)


@pytest.mark.parametrize("panel", [CountWidget, FolderWidget, TrainWidget])
def test_a_panel_in_sight_names_the_devices(
    panel: type[QWidget], viewer: ViewerModel, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quick() -> Any:
        yield Progress("devices", 0, 1)
        return (("cpu", "CPU"),)

    monkeypatch.setattr(model_combos, "device_task", quick)
    widget = panel(viewer)
    qtbot.addWidget(widget)
    box = widget.findChild(DeviceComboBox)
    assert box is not None
    widget.show()
    qtbot.waitUntil(lambda: box.count() > 1, timeout=30_000)


def test_models_come_and_go(qtbot: QtBot, shelved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def entry(name: str) -> ModelEntry:
        return ModelEntry(name, Path(name), replace(shelved.spec, family="flow"), {})

    models = ["flow", "mine"]
    monkeypatch.setattr(store, "models", lambda: [entry(name) for name in models])
    box = ModelComboBox(accepts=lambda one: one.name != "hidden", usual=lambda known: list(known)[-1])
    qtbot.addWidget(box)
    assert box.model_name == "mine"
    box.setCurrentIndex(0)
    models[:] = ["another", "flow", "hidden"]
    model_events.changed.emit()
    assert [box.itemData(place) for place in range(box.count())] == ["another", "flow"]
    assert (box.model_name, box.family) == ("flow", "flow")
    models.remove("flow")
    model_events.changed.emit()
    assert box.model_name == "another"
    models.append("taught elsewhere")  # by another window, or on the command line
    box.showPopup()
    assert [box.itemData(place) for place in range(box.count())] == ["another", "taught elsewhere"]
    assert box.model_name == "another"
    box.hidePopup()


def test_the_card_of_a_model_is_one_click_from_its_name(
    qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "user_folder", lambda: tmp_path)
    for name in ("mine", "carded"):
        (tmp_path / name).mkdir()
        spec = (store.shipped_folder() / "flow" / "spec.json").read_text()
        (tmp_path / name / "spec.json").write_text(spec)
    (tmp_path / "mine" / "scores.json").write_text('{"ap50_fluo": 0.75}')
    (tmp_path / "carded" / "card.md").write_text("# Yeast\n\nMay be used by *anyone*.")
    row = QWidget()
    qtbot.addWidget(row)
    box = ModelComboBox(after=lambda: [("From scratch", "scratch")])
    row.setLayout(box.with_card())
    (button,) = row.findChildren(QPushButton)

    def card() -> str:
        button.click()
        (window,) = box.findChildren(ModelCard)
        text = window.browser.toPlainText()
        window.close()
        qtbot.waitUntil(lambda: not box.findChildren(ModelCard))
        return text

    box.setCurrentIndex(box.place_of("flow"))
    assert "Training data" in card()
    box.setCurrentIndex(box.place_of("carded"))
    assert card().split() == ["Yeast", "May", "be", "used", "by", "anyone."]
    box.setCurrentIndex(box.place_of("mine"))
    text = card()  # the facts, where there is no card
    assert all(fact in text for fact in ("14 to 50 pixels", "ap50_fluo", "0.75", "licence", "not known"))
    (tmp_path / "mine" / "spec.json").unlink()
    assert "spec.json" in card()
    box.setCurrentIndex(box.place_of("scratch"))
    assert not button.isEnabled()


def test_channels_are_those_of_the_layer_as_it_is_now(viewer: ViewerModel, qtbot: QtBot) -> None:
    layer, other = viewer.add_image(np.zeros((3, 20, 20))), viewer.add_image(np.zeros((4, 20, 20)))
    box = ChannelComboBox()
    for one in (layer, other, layer):
        box.list_channels_of(one)
    other.data = np.zeros((20, 20))
    assert box.count() == 4
    layer.data = np.zeros((4, 20, 20))
    assert box.count() == 5
    box.deleteLater()
    qtbot.wait(10)
    layer.data = np.zeros((20, 20))
