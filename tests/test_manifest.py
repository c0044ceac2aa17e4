import importlib
import subprocess
import sys
import threading
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from napari.components import ViewerModel
from napari.layers import Layer
from npe2 import PluginManifest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QWidget

from cellwright.files.formats.registry import FORMATS
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.plugin import entries

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def manifest() -> PluginManifest:
    return PluginManifest.from_distribution("napari-cellwright")


def commands(manifest: PluginManifest) -> dict[str, Any]:
    found = {}
    for command in manifest.contributions.commands or ():
        module, _, name = str(command.python_name).partition(":")
        found[command.id] = getattr(importlib.import_module(module), name)
    return found


def test_the_installed_package_declares_a_sound_manifest(manifest: PluginManifest) -> None:
    manifest.validate_imports()
    assert manifest.name == "napari-cellwright"


def test_every_command_is_used(manifest: PluginManifest) -> None:
    contributions = manifest.contributions
    used = {widget.command for widget in contributions.widgets or ()}
    used |= {sample.command for sample in contributions.sample_data or ()}
    used |= {one.command for one in (*(contributions.readers or ()), *(contributions.writers or ()))}
    used |= {item.command for items in contributions.menus.values() for item in items}
    assert used == {command.id for command in contributions.commands or ()}
    assert "napari/layers/segment" in contributions.menus


def test_every_widget_can_be_built(manifest: PluginManifest, qtbot: QtBot) -> None:
    for contribution in manifest.contributions.widgets or ():
        widget = commands(manifest)[contribution.command](ViewerModel())
        qtbot.addWidget(widget)
        assert isinstance(widget, QWidget)


def test_code_is_loaded_while_the_window_draws(
    manifest: PluginManifest, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, ticks = set(), []

    def slowly(module: str) -> Any:
        threads.add(threading.current_thread())
        time.sleep(0.2)
        return importlib.import_module(module)

    monkeypatch.setattr(entries, "import_module", slowly)
    named = {str(command.python_name) for command in manifest.contributions.commands or ()}
    assert {f"{entries.__name__}:{name}" for name in (*entries.MODULES, *entries.SAMPLES)} <= named
    assert {name.partition(":")[0] for name in named} == {entries.__name__}
    timer = QTimer()
    timer.timeout.connect(lambda: ticks.append(time.perf_counter()))
    timer.start(10)
    assert entries.CountWidget is CountWidget
    assert entries.write_coco_rle.keywords == {"one": FORMATS["coco-rle"]}
    timer.stop()
    assert threading.main_thread() not in threads
    assert len(ticks) > 5
    with pytest.raises(AttributeError, match="has no Other"):
        _ = entries.Other


def test_what_loads_the_code_in_a_thread_brings_none_of_it() -> None:
    told = "import sys, cellwright.widgets.plugin.entries; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    heavy = {"scipy.ndimage", "skimage", "torch", "cellwright.ops", "cellwright.widgets.shared"}
    assert heavy.isdisjoint(loaded.stdout.split())


def test_every_sample_gives_layers(manifest: PluginManifest) -> None:
    for sample in manifest.contributions.sample_data or ():
        layers = [Layer.create(*data) for data in commands(manifest)[sample.command]()]
        assert [layer.name for layer in layers] == [sample.key]


def test_the_manifest_on_top_is_the_one_in_the_package() -> None:
    inside = Path(str(files("cellwright"))) / "napari.yaml"
    assert (REPOSITORY / "napari.yaml").read_text() in (inside.read_text(), "src/cellwright/napari.yaml")
