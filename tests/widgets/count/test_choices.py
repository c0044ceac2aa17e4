import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QFileDialog

from cellwright.core.errors import CheckpointError
from cellwright.files import images
from cellwright.models import registry, store
from cellwright.models.store import ModelEntry
from cellwright.widgets.count.choices import Choices, understood_line
from cellwright.widgets.count.view import CountPanel
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.shared.coordinates import understood
from cellwright.widgets.shared.edited_layers import METADATA


@pytest.fixture
def choices(viewer: ViewerModel, qtbot: QtBot, shelved: Any) -> Choices:
    panel = CountPanel()
    qtbot.addWidget(panel)
    return Choices(viewer, panel)


def titles(box: QComboBox) -> list[str]:
    return [box.itemText(place) for place in range(box.count())]


def test_the_step_between_slices_is_told(viewer: ViewerModel) -> None:
    axes = {"axis_labels": ("z", "y", "x"), "scale": (4, 0.8, 0.8), "units": ("um", "um", "um")}
    known = understood(viewer.add_image(np.zeros((3, 9, 9)), **axes))
    told = understood_line(known, is_linked=True)
    assert told == "From the layer: 3 slices in z, linked; 0.8 µm a pixel, 4 µm a slice"


def test_the_image_box_follows_the_viewer(viewer: ViewerModel, choices: Choices) -> None:
    box = choices._panel.image
    assert titles(box) == ["no image"]
    assert choices.layer is None
    first = viewer.add_image(np.zeros((9, 9)), name="first")
    second = viewer.add_image(np.zeros((9, 9)), name="second")
    assert titles(box) == ["second", "first"]
    assert choices.layer is second
    viewer.layers.selection.active = first
    assert choices.layer is first
    viewer.add_points(np.zeros((1, 2)), name="points")
    assert choices.layer is first  # the last image chosen stays
    first.name = "renamed"
    assert titles(box) == ["second", "renamed"]
    viewer.layers.remove(first)
    assert choices.layer is second


def test_without_an_image_the_active_layer_is_given_for_an_error_to_name(
    viewer: ViewerModel, choices: Choices
) -> None:
    points = viewer.add_points(np.zeros((1, 2)))
    assert choices.layer is points
    assert choices._panel.channel.channel is None


def test_the_channel_box_follows_the_image(viewer: ViewerModel, choices: Choices) -> None:
    box = choices._panel.channel
    viewer.add_image(np.zeros((9, 9)), name="grey")
    assert (titles(box), box.isEnabled()) == (["Grey"], False)
    colour = viewer.add_image(np.zeros((9, 9, 3), np.uint8), rgb=True, name="colour")
    assert titles(box) == ["All colours", "Red", "Green", "Blue"]
    assert box.isEnabled()
    box.setCurrentIndex(2)
    assert (choices._panel.channel.channel.index, choices._panel.channel.channel.axis) == (1, None)
    colour.name = "other"
    assert choices._panel.channel.channel.index == 1  # a refresh keeps the choice
    viewer.layers.selection.active = viewer.layers["grey"]
    assert choices._panel.channel.channel.title == "Grey"


def test_models_of_the_shelf_are_listed_and_their_family_told(choices: Choices) -> None:
    assert titles(choices._panel.model) == ["Nuclei and cells · flow", "Choose a folder…"]
    assert (choices._panel.model.model_name, choices._panel.model.family) == ("flow", "flow")


def test_models_are_listed_by_what_they_give_back(
    viewer: ViewerModel, qtbot: QtBot, shelved: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    families = ["pseudocolor", "density", "someone's", "query", "centroid", "flow"]
    entries = [ModelEntry(one, Path(one), replace(shelved.spec, family=one), {}) for one in families]
    monkeypatch.setattr(store, "models", lambda: entries)
    panel = CountPanel()
    qtbot.addWidget(panel)
    choices = Choices(viewer, panel)
    assert titles(panel.model)[:-1] == [
        "Nuclei and cells · flow",
        "Centres and boxes · centroid",
        "Point query · query",
        "3D nuclei · pseudocolor",
        "Density count · density",
    ]
    assert choices._panel.model.family == "flow"
    help_text = panel.model.itemData(4, Qt.ItemDataRole.ToolTipRole)
    assert help_text == f"A fake.\n{registry.get('density').description}."


def test_layers_of_ours_are_no_images_to_count_in(viewer: ViewerModel, choices: Choices) -> None:
    viewer.add_image(np.zeros((9, 9)), name="mine")
    viewer.add_image(np.zeros((9, 9)), name="density", metadata={METADATA: {}})
    assert titles(choices._panel.image) == ["mine"]


def test_without_a_model_the_error_names_the_folders(
    viewer: ViewerModel, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "models", list)
    panel = CountPanel()
    qtbot.addWidget(panel)
    choices = Choices(viewer, panel)
    with pytest.raises(CheckpointError, match="weights"):
        _ = choices._panel.model.model_name
    assert choices._panel.model.family == "flow"


def test_a_folder_can_be_chosen(
    choices: Choices, shelved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qtbot: QtBot
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    spec = replace(shelved.spec, title="Mine")
    (folder / "spec.json").write_text(json.dumps(spec.to_json()))
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(folder))
    box = choices._panel.model
    with qtbot.waitSignal(box.chosen):
        box.setCurrentIndex(1)
        box.activated.emit(1)
    assert (choices._panel.model.model_name, choices._panel.model.family, box.currentText()) == (
        str(folder),
        "flow",
        "Nuclei and cells · mine",
    )


def test_a_folder_that_is_no_model_is_told_and_the_choice_stays(
    choices: Choices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Exception] = []
    box = choices._panel.model
    box.failed.connect(errors.append)
    for chosen in (str(tmp_path), ""):  # no model; the dialog was closed
        monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_, chosen=chosen: chosen)
        box.setCurrentIndex(1)
        box.activated.emit(1)
        assert choices._panel.model.model_name == "flow"
    assert ["spec.json" in str(error) for error in errors] == [True]


def test_devices_are_named_once_found(choices: Choices, qtbot: QtBot) -> None:
    box = choices._panel.device
    assert titles(box) == ["Auto"]
    box.find_devices()
    qtbot.waitUntil(lambda: box.count() > 1, timeout=60_000)
    assert titles(box)[0].startswith("Auto · ")
    assert titles(box)[-1].startswith("CPU")
    assert choices._panel.device.device == "auto"
    box.setCurrentIndex(box.count() - 1)
    assert choices._panel.device.device == "cpu"


def test_a_file_that_fails_to_tell_its_axes_is_told_once(
    viewer: ViewerModel, widget: CountWidget, settled: Any, qtbot: QtBot, tmp_path: Path, monkeypatch: Any
) -> None:
    n_looks = []

    def broken(*_: Any) -> Any:
        n_looks.append(1)
        raise ValueError("bad header")

    monkeypatch.setattr(images, "_read", broken)
    path = tmp_path / "a.tif"
    path.write_bytes(b"II")
    layer = ImageLayer(np.zeros((64, 64)))
    layer._source = layer.source.model_copy(update={"path": str(path)})
    viewer.add_layer(layer)
    qtbot.waitUntil(lambda: widget.panel.message.text() != "", timeout=30_000)
    assert "bad header" in widget.panel.message.text()
    assert widget.panel.message.property("error") == "true"
    widget.panel.count.click()  # the image is there, and tells its axes itself
    settled(widget)
    assert widget.panel.number.text() == "0"
    assert n_looks == [1]


def test_a_closed_widget_no_longer_listens(viewer: ViewerModel, shelved: Any, qtbot: QtBot) -> None:
    panel = CountPanel()
    choices = Choices(viewer, panel)
    with qtbot.waitSignal(panel.destroyed):
        panel.deleteLater()
    viewer.add_image(np.zeros((9, 9)))
    assert choices is not None
