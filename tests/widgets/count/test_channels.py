"""Several channels chosen in the panel count as they do on the command line and in Python."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Layer
from napari.layers._source import Source
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt

import cellwright
from cellwright.__main__ import main
from cellwright.core.data import Result
from cellwright.core.errors import SettingsError
from cellwright.inference.recipe import as_command, as_python, load_recipe, recipe_of
from cellwright.inference.settings import EngineSettings
from cellwright.ops.measure.cells_table import cells_checksum
from cellwright.widgets.count.channels import further_channels
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.plugin.image_reader import read_images_of_file
from cellwright.widgets.shared.coordinates import channels_of

Settled = Callable[[CountWidget], None]


@pytest.fixture
def stained(blobs: Any) -> np.ndarray:
    """Nothing, then half of the discs in each of two channels, the second a hundred times dimmer."""
    odd = blobs.labels % 2 * (blobs.labels > 0)
    even = (blobs.labels % 2 == 0) * (blobs.labels > 0)
    return np.stack([np.zeros_like(odd), odd * 60_000, 100 + even * 600]).astype(np.uint16)


@pytest.fixture
def path(stained: np.ndarray, tmp_path: Path) -> Path:
    path = tmp_path / "stained.ome.tif"
    names = {"Channel": {"Name": ["none", "DAPI", "actin"]}}
    tifffile.imwrite(path, stained, photometric="minisblack", ome=True, metadata={"axes": "CYX", **names})
    return path


@pytest.fixture
def layers(viewer: ViewerModel, path: Path) -> list[Layer]:
    """The channels of the file as layers of our reader."""
    return [viewer.add_layer(Layer.create(*one)) for one in read_images_of_file(str(path))]


def tick(widget: CountWidget, *titles: str) -> None:
    further = widget.panel.further
    for place in range(further.count()):
        if further.item(place).text() in titles:
            further.item(place).setCheckState(Qt.CheckState.Checked)


def titles_of(widget: CountWidget) -> list[str]:
    further = widget.panel.further
    return [further.item(place).text() for place in range(further.count())]


def count(widget: CountWidget, settled: Settled) -> Result:
    widget.panel.count.click()
    settled(widget)
    assert widget.counted is not None, widget.panel.message.text()
    return widget.counted.result


def test_channels_of_one_layer(
    viewer: ViewerModel, widget: CountWidget, stained: np.ndarray, blobs: Any, settled: Settled
) -> None:
    viewer.add_image(stained, name="stained")
    panel = widget.panel
    assert panel.combine.isHidden()
    panel.channel.setCurrentIndex(1)
    assert titles_of(widget) == ["Channel 0", "Channel 2"]
    tick(widget, "Channel 2")
    assert not panel.combine.isHidden()
    panel.combine.setCurrentIndex(panel.combine.findData("mean"))
    result = count(widget, settled)
    assert widget.choices.engine.channels == ("1", "2")
    expected = cellwright.count(stained, channels=[1, 2], engine=EngineSettings(combine="mean"))
    assert result.count == expected.count == len(blobs)
    assert cells_checksum(result) == cells_checksum(expected)
    assert "channels 1, 2 together" in panel.message.text()
    panel.channel.setCurrentIndex(2)  # what is counted in anyway is not offered
    assert titles_of(widget) == ["Channel 0", "Channel 1"]
    viewer.add_image(np.zeros((9, 9, 3), np.uint8), rgb=True)
    assert panel.further.isHidden()


def test_layers_of_one_file_are_its_channels(
    widget: CountWidget, layers: list[Layer], path: Path, settled: Settled, tmp_path: Path, capfd: Any
) -> None:
    widget.panel.image.choose(layers[1])
    tick(widget, layers[2].name)
    result = count(widget, settled)
    expected = cellwright.count(path, channels=["DAPI", "actin"])
    assert cells_checksum(result) == cells_checksum(expected)
    command = as_command(recipe_of(result))
    assert command.endswith("--channels 1 --channels 2")
    with pytest.raises(SystemExit) as ended:
        main([*shlex.split(command)[1:], "--output", str(tmp_path / "o")])
    assert not ended.value.code, capfd.readouterr()
    written = json.loads((tmp_path / "o" / "stained.ome.json").read_text())
    assert written["cells_sha256"] == cells_checksum(expected)
    assert "channels DAPI, actin together" in capfd.readouterr().err


def test_a_part_of_layers_knows_their_channels(
    viewer: ViewerModel, widget: CountWidget, layers: list[Layer], settled: Settled
) -> None:
    viewer.add_shapes([[[0, 0], [0, 90], [90, 90], [90, 0]]], name="regions", scale=layers[0].scale)
    widget.panel.image.choose(layers[1])
    tick(widget, layers[2].name)
    widget.panel.region.setCurrentIndex(widget.panel.region.findData("drawn"))
    result = count(widget, settled)
    assert 0 < result.count < 50
    assert result.provenance.settings["source_channel"] == (1, 2)


def test_settings_keep_the_channels_of_the_file(
    viewer: ViewerModel, qtbot: QtBot, widget: CountWidget, layers: list[Layer], tmp_path: Path
) -> None:
    widget.panel.image.choose(layers[2])
    tick(widget, layers[1].name)
    widget.panel.combine.setCurrentIndex(widget.panel.combine.findData("mean"))
    widget.settings_file.save(tmp_path / "s.json")
    engine = load_recipe(tmp_path / "s.json").engine
    assert (engine.channels, engine.combine) == (("2", "1"), "mean")
    other = CountWidget(viewer)
    qtbot.addWidget(other)
    other.settings_file.load(tmp_path / "s.json")
    assert other.choices.layer is layers[2]
    assert other.panel.further.ticked == widget.panel.further.ticked != ()
    assert other.choices.engine == widget.choices.engine
    viewer.add_image(np.zeros((9, 9)), name="flat")
    other.settings_file.load(tmp_path / "s.json")
    assert "no channels 2, 1" in other.panel.message.text()


def test_layers_of_several_files_count_but_are_not_repeated(
    viewer: ViewerModel, widget: CountWidget, stained: np.ndarray, blobs: Any, settled: Settled
) -> None:
    viewer.add_image(stained[2], name="actin", scale=(0.5, 0.5))
    viewer.add_image(stained[1], name="DAPI", scale=(0.5, 0.5))
    tick(widget, "actin")
    result = count(widget, settled)
    assert result.count == len(blobs)
    with pytest.raises(SettingsError, match="not channels of one file"):
        recipe_of(result, source="DAPI.tif")


@pytest.mark.parametrize(
    ("shape", "scale", "message"),
    [((160, 100), 1, "the same size"), ((160, 200), 0.5, "pixel by pixel")],
)
def test_layers_of_another_shape_or_scale_are_refused(
    viewer: ViewerModel,
    widget: CountWidget,
    stained: np.ndarray,
    shape: tuple[int, int],
    scale: float,
    message: str,
) -> None:
    viewer.add_image(np.zeros(shape), name="other", scale=(scale, scale))
    viewer.add_image(stained[1], name="DAPI")
    tick(widget, "other")
    widget.panel.count.click()
    assert message in widget.panel.message.text()
    assert widget.panel.message.property("error") == "true"


def test_channels_of_one_name_are_told_apart(viewer: ViewerModel, tmp_path: Path) -> None:
    path = tmp_path / "same.ome.tif"
    names = {"Channel": {"Name": ["DAPI", "DAPI", "GFP"]}}
    pixels = np.zeros((3, 40, 50), np.uint16)
    tifffile.imwrite(path, pixels, photometric="minisblack", ome=True, metadata={"axes": "CYX", **names})
    layer = viewer.add_image(pixels, name="same")
    layer._source = Source(path=str(path), reader_plugin="as napari sets it")
    viewer.add_image(pixels[0], name="GFP")
    assert [one.title for one in channels_of(layer)] == ["DAPI (0)", "DAPI (1)", "GFP"]
    found = further_channels(viewer.layers, layer, None)
    assert list(found) == ["DAPI (1)", "GFP", "GFP (layer)"]


def test_the_channel_is_told_and_that_it_is_out_of_sight(
    viewer: ViewerModel, widget: CountWidget, stained: np.ndarray, settled: Settled
) -> None:
    viewer.add_image(stained[np.newaxis], name="stained", axis_labels=("t", "c", "y", "x"))
    widget.panel.channel.setCurrentIndex(1)
    for shown in (1, 2):
        viewer.dims.set_point(1, shown)
        widget.panel.count.click()
        settled(widget)
        assert widget.panel.details.text().startswith("stained · channel 1\n")
        assert ("cells are those of channel 1" in widget.panel.message.text()) == (shown == 2)
    for shown in (1, 2, 0, 1):  # the slider is moved later
        viewer.dims.set_point(1, shown)
        assert ("whose channel 1 is not shown" in widget.panel.line.text()) == (shown != 1)


def test_channels_of_two_files_are_repeated_by_one_command(
    viewer: ViewerModel,
    widget: CountWidget,
    stained: np.ndarray,
    blobs: Any,
    settled: Settled,
    tmp_path: Path,
    capfd: Any,
) -> None:
    paths = [tmp_path / "nuclei.tif", tmp_path / "two more.tif"]
    tifffile.imwrite(paths[0], stained[1])
    tifffile.imwrite(paths[1], stained[[0, 2]], imagej=True, metadata={"axes": "CYX"})
    for path in paths:
        for one in read_images_of_file(str(path)):
            viewer.add_layer(Layer.create(*one))
    first, last = viewer.layers[0], viewer.layers[-1]
    widget.panel.image.choose(first)
    tick(widget, *(title for title in titles_of(widget) if title.startswith(last.name)))
    widget.settings_file.save(tmp_path / "s.json")
    result = count(widget, settled)
    assert result.count == len(blobs)
    assert (widget.panel.image.layer, viewer.layers.selection.active) == (first, last)
    recipe = recipe_of(result)
    command = shlex.split(as_command(recipe))
    assert command[2:5] == [str(paths[0]), "--with", str(paths[1])]
    assert command[-4:] == ["--channels", "0", "--channels", "2"]
    expected = cellwright.count(paths, channels=[0, 2])
    assert cells_checksum(expected) == cells_checksum(result)
    with pytest.raises(SystemExit) as ended:
        main([*command[1:], "--output", str(tmp_path / "o")])
    assert not ended.value.code, capfd.readouterr()
    written = json.loads((tmp_path / "o" / "nuclei.json").read_text())
    assert written["cells_sha256"] == cells_checksum(result)
    names: dict[str, Any] = {}
    exec(as_python(recipe), names)
    assert cells_checksum(names["result"]) == cells_checksum(result)
    with pytest.raises(SystemExit):
        main(
            ["count", str(paths[0]), "--settings", str(tmp_path / "s.json"), "--output", str(tmp_path / "p")]
        )
    assert json.loads((tmp_path / "p" / "nuclei.json").read_text())["cells_sha256"] == written["cells_sha256"]
