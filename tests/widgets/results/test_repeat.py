"""The Python and the command that the panel copies give the cells that it counts, pixel by pixel.

``CELLWRIGHT_SEEDS=30 pytest tests/widgets/results/test_repeat.py`` tries 30 random settings.
"""

import json
import os
import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Layer
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

import cellwright
from cellwright.__main__ import main
from cellwright.core.data import Result
from cellwright.inference.recipe import load_recipe
from cellwright.inference.settings import InputFiles
from cellwright.ops.measure.cells_table import cells_checksum
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.plugin.image_reader import read_images_of_file
from cellwright.widgets.results.widget import ResultsWidget
from cellwright.widgets.shared.cells.followers import follow
from cellwright.widgets.shared.cells.image_pixels import OTHER_THAN_FILE
from cellwright.widgets.shared.layer_io import place, prepare_layers, source_of

SAMPLE = Path(cellwright.__file__).parents[2] / "sample_data" / "nuclei_2d.tif"


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The file of a quarter of a sample image, and its cells."""
    path = tmp_path_factory.mktemp("sample") / "nuclei.ome.tif"
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(path, tifffile.imread(SAMPLE)[:256, :256], metadata={"axes": "YX", **sizes})
    return path, cellwright.count(path)


@pytest.fixture
def counted_panel(
    viewer: ViewerModel,
    qtbot: QtBot,
    read: Callable[[ResultsWidget], None],
    counted: tuple[Path, Result],
) -> ResultsWidget:
    path, result = counted
    layer = Layer.create(tifffile.imread(path), {"name": "nuclei"}, "image")
    layer._source = layer.source.model_copy(update={"path": str(path)})
    viewer.add_layer(layer)
    place(viewer, prepare_layers(result, source_of(layer)))
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    panel.view.groups["shape"].setChecked(True)
    panel.view.groups["intensity"].setChecked(True)
    panel.view.measure.click()
    read(panel)
    return panel


def test_settings_for_other_images_keep_nothing_of_this_one(
    counted_panel: ResultsWidget, qtbot: QtBot, tmp_path: Path
) -> None:
    export = counted_panel.export
    of_one = export.recipe()
    assert of_one.image
    assert of_one.axes
    export.save_settings(tmp_path / "study.json")
    qtbot.waitUntil(lambda: not counted_panel.view.job_bar.is_busy, timeout=30_000)
    saved = load_recipe(tmp_path / "study.json")
    assert (saved.image, saved.axes, saved.files) == ("", "", InputFiles())
    assert (saved.window, saved.pixel_size_um) == ((), ())
    assert saved.analysis.measure == ("shape", "intensity")
    assert (saved.models, saved.settings, saved.engine) == (of_one.models, of_one.settings, of_one.engine)


@pytest.mark.no_cover  # through what tests of the parts cover
def test_copied_python_gives_the_same_cells(counted_panel: ResultsWidget) -> None:
    model, rng = counted_panel.model, np.random.default_rng(0)
    for border in ("all", "drop", "two-edges"):
        model.set_border(border)
        columns = rng.choice(["area_px", "circularity", "intensity_mean_ch0", "score", "x"], 2, replace=False)
        for column in columns:
            low, high = np.quantile(model.table[column], (rng.uniform(0, 0.3), rng.uniform(0.7, 1)))
            model.set_range(str(column), float(low), float(high))
        model.set_marker("ch0", is_on=True, threshold=None if border == "all" else float(rng.uniform(20, 90)))
        counted_panel.view.copy_python.click()
        text = QApplication.clipboard().text()
        names: dict[str, object] = {}
        exec(text, names)
        analysis = names["analysis"]
        assert len(analysis.table) == model.n_kept > 10, text
        assert cells_checksum(analysis.result) == cells_checksum(model.analysis().result)
        assert analysis.thresholds == pytest.approx(model.thresholds)
        assert (
            analysis.table["positive_ch0"].to_numpy() == model.kept_table["positive_ch0"].to_numpy()
        ).all()
        model.set_conditions("")


@pytest.mark.parametrize("how", ["not at all", "in place", "with a refresh", "by other data"])
def test_what_is_copied_tells_that_the_file_has_other_pixels(
    counted_panel: ResultsWidget,
    viewer: ViewerModel,
    qtbot: QtBot,
    read: Callable[[ResultsWidget], None],
    tmp_path: Path,
    how: str,
) -> None:
    """Whether napari was told of them or not; the command and the script would count those of the file."""
    layer, view, export = viewer.layers["nuclei"], counted_panel.view, counted_panel.export
    pixels = layer.data.copy() if how == "by other data" else layer.data
    if how != "not at all":
        pixels[:9, :9] += 1
    if how == "by other data":
        layer.data = pixels
    if how == "with a refresh":
        layer.refresh()
    qtbot.waitUntil(lambda: not follow(viewer).is_busy, timeout=30_000)
    read(counted_panel)
    for button, beginning in ((view.copy_python, "import"), (view.copy_command, "cellwright count")):
        button.click()
        qtbot.waitUntil(lambda: export.looking is None, timeout=30_000)
        text = QApplication.clipboard().text()
        comment, _, rest = text.rpartition(f"{OTHER_THAN_FILE}\n")
        assert rest.startswith(beginning)
        assert comment == ("" if how == "not at all" else "# ")
        assert (OTHER_THAN_FILE in view.message.text()) == (how != "not at all")
    if how == "in place":  # nothing is saved then
        return
    export.save_report(tmp_path / "report.html")
    qtbot.waitUntil(lambda: export.saving is None, timeout=30_000)
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert (OTHER_THAN_FILE in report) == (how != "not at all")


SEEDS = int(os.environ.get("CELLWRIGHT_SEEDS", "4"))
ONE_CLASS = 8  # a seed whose cells are all of one class, of three that its classifier knows
POLYGON = np.array([[5.0, 5.0], [140.0, 12.0], [120.0, 190.0], [90.0, 110.0], [8.0, 150.0]])
TILTED = np.array([[20.0, 90.0], [60.0, 130.0], [100.0, 90.0], [60.0, 50.0]])


@pytest.mark.no_cover  # at random through what other tests cover
@pytest.mark.parametrize("seed", sorted({*range(SEEDS), ONE_CLASS}))
def test_random_settings_of_the_panels_are_repeated(
    viewer: ViewerModel,
    qtbot: QtBot,
    widget: CountWidget,
    settled: Callable[[CountWidget], None],
    read: Callable[[ResultsWidget], None],
    blobs: Any,
    tmp_path: Path,
    home: Path,
    capfd: pytest.CaptureFixture[str],
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    path = add_image(widget, blobs, tmp_path, seed % 4)
    add_others(viewer, blobs, tmp_path, seed % 4)
    widget.panel.image.choose(viewer.layers["stained"])
    set_count(widget, rng, viewer)
    widget.panel.count.click()
    settled(widget)
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    panel.show_layer(next(one for one in viewer.layers if one.name == "stained labels"))
    read(panel)
    set_results(panel, rng, read)
    expected = panel.model.analysis().result
    assert panel.export.unrepeatable == []

    panel.view.copy_python.click()
    text = QApplication.clipboard().text()
    names: dict[str, Any] = {}
    exec(text, names)
    assert cells_checksum(names["result"]) == cells_checksum(expected), text

    panel.view.copy_command.click()
    command = QApplication.clipboard().text()
    assert run_command(command, tmp_path / "o") == 0, capfd.readouterr().err
    written = json.loads((tmp_path / "o" / f"{path.stem}.json").read_text())
    assert (written["count"], written["cells_sha256"]) == (expected.count, cells_checksum(expected)), command
    told = pandas.read_csv(tmp_path / "o" / f"{path.stem}.cells.csv")
    table = panel.model.analysis().table
    for column in (one for one in table if one not in ("label", "edited")):  # which belong to the layer
        assert column in told, command
        if len(table) and table[column].dtype.kind in "fiu":
            np.testing.assert_allclose(told[column], table[column], rtol=1e-3, atol=2e-3, err_msg=column)


def add_image(widget: CountWidget, blobs: Any, folder: Path, kind: int) -> Path:
    """Show the discs of a file, and what is their number in its other channel, as one of four kinds of layer.

    A stack of channels; one channel of a reader of ours; with a pixel size of its own; frames of which the
    file does not tell that they are.
    """
    path, numbers = folder / "stained.ome.tif", blobs.labels * 9
    discs = blobs.image * 60_000
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    data = np.stack([discs, numbers] if kind != 1 else [numbers, discs]).astype(np.uint16)
    arguments: dict[str, Any] = {"name": "stained"}
    if kind == 3:
        path, data = folder / "stained.tif", np.stack([discs] * 3).astype(np.uint16)
        tifffile.imwrite(path, data, photometric="minisblack")
    else:
        tifffile.imwrite(path, data, photometric="minisblack", ome=True, metadata={"axes": "CYX", **sizes})
        step = 0.25 if kind == 2 else 0.5
        arguments |= {"scale": (1, step, step), "units": ("pixel", "um", "um"), "axis_labels": tuple("cyx")}
    if kind == 1:
        data, own, _ = read_images_of_file(str(path))[1]
        arguments = {**own, "name": "stained"}
    layer = Layer.create(data, arguments, "image")
    layer._source = layer.source.model_copy(update={"path": str(path)})
    widget.viewer.add_layer(layer)
    if kind == 3:
        widget.axes.choose(layer, "TYX")
    return path


def add_others(viewer: ViewerModel, blobs: Any, folder: Path, kind: int) -> None:
    """Show images of two more files below the first, of the same pixels and frames."""
    scale, units = viewer.layers["stained"].scale, viewer.layers["stained"].units
    for name in ("dye", "ki67"):
        data, axes = (blobs.labels % 5 * 40).astype(np.uint8), "YX"
        if kind == 3:
            data, axes = np.stack([data] * 3), "TYX"
        tifffile.imwrite(folder / f"{name}.tif", data, imagej=True, metadata={"axes": axes})
        layer = Layer.create(*read_images_of_file(str(folder / f"{name}.tif"))[0])
        layer.scale, layer.units = scale[-layer.ndim :], units[-layer.ndim :]
        viewer.layers.insert(0, layer)


def tick(entries: Any, rng: np.random.Generator, share: float) -> None:
    """Tick that share of the entries of a list."""
    for at in range(entries.count()):
        if rng.random() < share:
            entries.item(at).setCheckState(Qt.CheckState.Checked)


def pick(box: Any, data: Any) -> None:
    at = box.findData(str(data) if isinstance(data, str) else data)  # Qt knows no text of numpy
    assert at >= 0
    box.setCurrentIndex(at)
    box.activated.emit(box.currentIndex())


def set_count(widget: CountWidget, rng: np.random.Generator, viewer: ViewerModel) -> None:
    """Choose regions, what is left out, a mask, a rule, thresholds, channels, classes and a diameter."""
    image = viewer.layers["stained"]
    panel, names = widget.panel, {"scale": image.scale[-2:], "units": image.units[-2:]}
    regions = viewer.add_shapes([POLYGON], shape_type="polygon", name="regions", **names)
    regions.add(TILTED, shape_type="ellipse")
    cut = viewer.add_shapes([TILTED / 2 + 20], shape_type="rectangle", name="cut", **names)
    pixels = np.zeros((160, 200), np.uint8)
    pixels[10:, 30:170] = 1
    mask = viewer.add_labels(pixels, name="tissue", **names)
    viewer.layers.selection.active = regions
    pick(panel.region, rng.choice(["whole", "drawn", "drawn"]))
    pick(panel.exclude, rng.choice(["", str(cut.unique_id)]))
    pick(panel.mask_layer, rng.choice(["", "", str(mask.unique_id)]))
    pick(panel.mask_side, bool(rng.random() < 0.3))
    pick(panel.rule, rng.choice(["centre", "overlap", "whole"]))
    panel.diameter.setValue(float(rng.choice([0.0, 14.5])))
    panel.thresholds.container["cell_probability"].value = float(rng.uniform(0.2, 0.8))
    panel.thresholds.container["min_score"].value = float(rng.uniform(0, 0.9))
    pick(panel.classes, rng.choice(["", "", "blood"]))
    panel.channel.setCurrentIndex(int(rng.integers(panel.channel.count())))
    panel.channel.activated.emit(panel.channel.currentIndex())
    tick(panel.further, rng, 0.3)
    pick(panel.combine, rng.choice(["maximum", "mean", "colours"]))
    panel.filters.container["min_area_px"].value = int(rng.integers(5, 100))
    panel.engine.container["flips"].value = bool(rng.random() < 0.5)


def set_results(
    panel: ResultsWidget, rng: np.random.Generator, read: Callable[[ResultsWidget], None]
) -> None:
    """Choose measurements, other images, more that is left out, the border rule, filters and markers."""
    view, model = panel.view, panel.model
    if rng.random() < 0.3:
        layer = panel.viewer.add_shapes(
            [TILTED / 3 + 90], shape_type="ellipse", scale=(0.5, 0.5), name="more"
        )
        pick(view.exclude, str(layer.unique_id))
    if rng.random() < 0.3:
        pick(view.mask_layer, str(panel.viewer.layers["tissue"].unique_id))
        pick(view.mask_side, bool(rng.integers(2)))
    tick(view.others, rng, 0.5)
    view.cytoplasm.setValue(float(rng.choice([0.0, 3.0])))
    view.groups["shape"].setChecked(bool(rng.random() < 0.5))
    view.groups["intensity"].setChecked(True)
    view.ring_width.setValue(float(rng.integers(2, 6)))
    view.measure.click()
    read(panel)
    if not model.n_cells:  # nothing to filter, which is to be repeated, too
        return
    pick(view.border, rng.choice(["all", "drop", "two-edges"]))
    marker, size = model.marker_channels[-1], "area_um2" if "area_um2" in model.table else "area_px"
    for column in rng.choice([size, "x", f"intensity_mean_{marker}", "score"], 2, replace=False):
        low, high = np.quantile(model.table[column], (rng.uniform(0, 0.3), rng.uniform(0.7, 1)))
        view.filter.setText(
            f"{view.filter.text()}, {column} >= {low:.5g}, {column} <= {high:.5g}".strip(", ")
        )
    if "class" in model.table and rng.random() < 0.7:
        view.filter.setText(f"{view.filter.text()}, class = {rng.choice(model.table['class'].unique())}")
    view.filter.editingFinished.emit()
    row = panel.counts.rows[marker]
    row.is_on.setChecked(bool(rng.random() < 0.7))
    if rng.random() < 0.5:
        row.value.setValue(float(np.quantile(model.table[f"intensity_mean_{marker}"], rng.uniform(0.2, 0.8))))
    read(panel)


def run_command(command: str, folder: Path) -> int:
    """Run a copied command; return its exit code."""
    words = shlex.split(command)
    assert words[0] == "cellwright"
    with pytest.raises(SystemExit) as ended:
        main([*words[1:], "--output", str(folder)])
    return int(ended.value.code or 0)


def test_of_a_file_of_several_images_it_is_told_that_one_was_counted(
    viewer: ViewerModel,
    widget: CountWidget,
    settled: Callable[[CountWidget], None],
    qtbot: QtBot,
    blobs: Any,
    read: Callable[[ResultsWidget], None],
    tmp_path: Path,
) -> None:
    """As napari itself opens it: the first alone."""
    path = tmp_path / "scenes.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        for _ in range(3):
            file.write((blobs.image * 200).astype(np.uint8), metadata={"axes": "YX"})
    layer = Layer.create((blobs.image * 200).astype(np.uint8), {"name": "scenes"}, "image")
    layer._source = layer.source.model_copy(update={"path": str(path)})
    viewer.add_layer(layer)
    widget.panel.count.click()
    qtbot.waitUntil(lambda: widget.counted is not None, timeout=30_000)  # the file is looked at first
    settled(widget)
    assert "The file holds 3 images, and the layer shows one." in widget.panel.message.text()
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    panel.view.copy_command.click()
    assert "The file holds 3 images; the command counts all." in panel.view.message.text()
    panel.view.copy_python.click()
    assert panel.view.message.text() == "Python copied."


def test_of_a_further_image_of_a_file_it_is_told_why_nothing_repeats_it(
    viewer: ViewerModel, qtbot: QtBot, blobs: Any, read: Callable[[ResultsWidget], None], tmp_path: Path
) -> None:
    path = tmp_path / "scenes.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        for _ in range(3):
            file.write((blobs.image * 200).astype(np.uint8), metadata={"axes": "YX"})
    for number, one in enumerate(read_images_of_file(str(path))):
        layer = Layer.create(*one)
        layer._source = layer.source.model_copy(update={"path": str(path)})
        viewer.add_layer(layer)
        if number == 1:
            source = source_of(layer)
            place(viewer, prepare_layers(cellwright.count(source.image, "flow"), source))
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    for button in (panel.view.copy_command, panel.view.copy_python):
        button.click()
        assert "scenes.ome.tif holds 3 images, and" in panel.view.message.text()
        assert "is not the first" in panel.view.message.text()
    assert_settings_are_saved(panel, qtbot, tmp_path)


def test_settings_of_pixels_in_no_file_are_saved(
    viewer: ViewerModel, qtbot: QtBot, blobs: Any, read: Callable[[ResultsWidget], None], tmp_path: Path
) -> None:
    source = source_of(viewer.add_image(blobs.image, name="blobs"))
    place(viewer, prepare_layers(cellwright.count(source.image, "flow"), source))
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    panel.view.copy_command.click()
    assert "file these cells come from is not known" in panel.view.message.text()
    assert_settings_are_saved(panel, qtbot, tmp_path)


def assert_settings_are_saved(panel: ResultsWidget, qtbot: QtBot, tmp_path: Path) -> None:
    """Save settings, which are for any image, and assert that they tell the model of the cells."""
    found_by = panel.model.measured.result.provenance
    panel.model.set_border("drop")
    panel.export.save_settings(tmp_path / "study.json")
    qtbot.waitUntil(lambda: not panel.view.job_bar.is_busy, timeout=30_000)
    saved = load_recipe(tmp_path / "study.json")
    assert saved.models == (found_by.model,)
    assert asdict(saved.settings) == found_by.settings["flow"]
    assert asdict(saved.engine) == found_by.settings["engine"]
    assert (saved.image, saved.axes, saved.analysis.border) == ("", "", "drop")
