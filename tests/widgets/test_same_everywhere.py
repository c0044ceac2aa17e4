"""The same file gives the same answer in the viewer by any reader, on the command line and in Python."""

import json
from collections.abc import Callable
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import npe2
import numpy as np
import pandas
import pytest
import roifile
import tifffile
import zarr
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Layer
from napari.layers._source import Source
from napari_builtins.io._read import _magic_imreader
from npe2 import PluginManifest
from numpy.typing import NDArray
from PIL import Image as Picture
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt

import cellwright
from cellwright.__main__ import main
from cellwright.core.data import Image, Result, known_sizes, without_channels
from cellwright.core.tasks import run
from cellwright.files.images import describe_images, read_images
from cellwright.files.metadata import ArrayFacts, FilePart, understand
from cellwright.files.report import write_report
from cellwright.inference.pipeline import count_cells
from cellwright.inference.recipe import as_command, recipe_of
from cellwright.inference.settings import EngineSettings
from cellwright.models import store
from cellwright.ops.measure.analysis import analyse
from cellwright.ops.measure.cells_table import cells_table
from cellwright.ops.measure.columns import heading_of
from cellwright.ops.measure.settings import AnalysisSettings
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.plugin import image_reader, readers_writers
from cellwright.widgets.results.export import _without_file
from cellwright.widgets.results.widget import ResultsWidget
from cellwright.widgets.shared.coordinates import AXES, Channel, channels_of
from cellwright.widgets.shared.layer_io import image_of, source_of

N_DISCS, N_FRAMES, SHAPE = 6, 5, (40, 56)


class Answer(NamedTuple):
    count: float
    axes: str
    sizes_um: dict[str, float]
    columns: list[str]
    is_guessed: bool


def discs(n: int = N_DISCS, dtype: Any = np.uint8) -> NDArray[Any]:
    plane = np.zeros(SHAPE, dtype)
    for index in range(n):
        top, left = 4 + 18 * (index % 2), 4 + 18 * (index // 2)
        plane[top : top + 10, left : left + 10] = 200
    return plane


def stack(*lead: int) -> NDArray[Any]:
    return np.broadcast_to(discs(), (*lead, *SHAPE)).copy()


def channels(n: int) -> NDArray[Any]:
    return np.stack([discs(N_DISCS - number) for number in range(n)])


def ome(path: Path, data: NDArray[Any], axes: str, *, has_sizes: bool = False) -> None:
    metadata: dict[str, Any] = {"axes": axes}
    for axis, size in {"Z": 2.0, "Y": 0.65, "X": 0.65}.items():
        if has_sizes and axis in axes:
            metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
    if "C" in axes:
        metadata["Channel"] = {"Name": ["DAPI", "GFP"]}
    tifffile.imwrite(path, data, ome=True, photometric="minisblack", metadata=metadata)


def imagej(path: Path, data: NDArray[Any], axes: str, **metadata: Any) -> None:
    sized = {"resolution": (1 / 0.65, 1 / 0.65)} if metadata else {}
    tifffile.imwrite(path, data, imagej=True, metadata={"axes": axes, **metadata}, **sized)


def store_of(path: Path, data: NDArray[Any], axes: str = "") -> None:
    if not axes:
        zarr.save_array(path, data)
        return
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("0", data=data)
    units = [{"name": axis, "unit": "micrometer"} if axis in "zyx" else {"name": axis} for axis in axes]
    scale = [0.65 if axis in "yx" else 2.0 for axis in axes]
    steps = [{"type": "scale", "scale": scale}]
    group.attrs["multiscales"] = [
        {"axes": units, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
    ]


def write_all(folder: Path) -> dict[str, str]:
    """Write the files; return their names, each with what its axes are to be."""
    t, z, c = N_FRAMES, N_FRAMES, 2
    colours = np.stack([discs()] * 3, axis=-1)
    tifffile.imwrite(folder / "plain2d.tif", discs())
    tifffile.imwrite(folder / "plain3d.tif", stack(z), metadata=None, photometric="minisblack")
    tifffile.imwrite(folder / "plain4d.tif", stack(5, z))
    imagej(folder / "ij_t.tif", stack(t), "TYX")
    imagej(folder / "ij_z.tif", stack(z), "ZYX", unit="micron", spacing=2.0)
    imagej(folder / "ij_tzc.tif", np.stack([channels(c)] * 15).reshape(3, 5, c, *SHAPE), "TZCYX",
           unit="micron", spacing=2.0)  # fmt: skip
    for axes, data in {"TYX": stack(t), "ZYX": stack(z), "CYX": channels(c)}.items():
        ome(folder / f"{axes}.ome.tif", data, axes)
        ome(folder / f"{axes}_sizes.ome.tif", data, axes, has_sizes=True)
    ome(
        folder / "TZCYX.ome.tif",
        np.stack([channels(c)] * 10).reshape(2, 5, c, *SHAPE),
        "TZCYX",
        has_sizes=True,
    )
    Picture.fromarray(discs()).save(folder / "grey.png")
    Picture.fromarray(colours).save(folder / "rgb.png")
    Picture.fromarray(np.dstack([colours, discs()])).save(folder / "rgba.png")
    tifffile.imwrite(
        folder / "planar.tif", np.moveaxis(colours, -1, 0), photometric="rgb", planarconfig="separate"
    )
    store_of(folder / "t.zarr", stack(t), "tyx")
    store_of(folder / "cz.zarr", np.stack([channels(c)] * z, axis=1), "czyx")
    store_of(folder / "bare.zarr", stack(z))
    np.save(folder / "yx.npy", discs())
    np.save(folder / "zyx.npy", stack(z))
    for n in (1, 2, 3):
        np.save(folder / f"yx{n}.npy", np.moveaxis(channels(n), 0, -1) if n < 3 else colours)
    return {
        "plain2d.tif": "YX", "plain3d.tif": "ZYX", "plain4d.tif": "TZYX", "planar.tif": "YXC",
        "ij_t.tif": "TYX", "ij_z.tif": "ZYX", "ij_tzc.tif": "TZCYX", "TZCYX.ome.tif": "TZCYX",
        "TYX.ome.tif": "TYX", "ZYX.ome.tif": "ZYX", "CYX.ome.tif": "CYX",
        "TYX_sizes.ome.tif": "TYX", "ZYX_sizes.ome.tif": "ZYX", "CYX_sizes.ome.tif": "CYX",
        "grey.png": "YX", "rgb.png": "YXC", "rgba.png": "YXC",
        "t.zarr": "TYX", "cz.zarr": "CZYX", "bare.zarr": "ZYX",
        "yx.npy": "YX", "zyx.npy": "ZYX", "yx1.npy": "YXC", "yx2.npy": "YXC", "yx3.npy": "YXC",
    }  # fmt: skip


def opened_by(reader: Callable[[str], list[Any]], path: Path) -> ImageLayer:
    layer = Layer.create(*reader(str(path))[0])
    layer._source = Source(path=str(path), reader_plugin="as napari sets it")
    return layer


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch, oracle_model: Any) -> None:
    """Both readers are known to napari; every model is the oracle."""
    monkeypatch.setattr(store, "load", lambda name: oracle_model)
    monkeypatch.setattr(image_reader, "show_warning", lambda text: None)
    manager = npe2.PluginManager.instance()
    for name in ("napari-cellwright", "napari"):
        if name not in manager:
            manager.register(PluginManifest.from_distribution(name))


def answer_of(result: Result) -> Answer:
    found_by = result.provenance
    return Answer(
        result.count,
        without_channels(found_by.axes),
        known_sizes(found_by.axes, found_by.pixel_size_um),
        list(cells_table(result)),
        bool(found_by.settings.get("axes_are_guessed")),
    )


def answer_of_command(stem: Path) -> tuple[dict[str, Any], Answer]:
    """Return provenance and answer that the command line wrote under a name."""
    facts = json.loads(stem.with_name(f"{stem.name}.json").read_text())
    answer = Answer(
        facts["count"],
        without_channels(facts["axes"]),
        known_sizes(facts["axes"], facts["pixel_size_um"]),
        list(pandas.read_csv(stem.with_name(f"{stem.name}.cells.csv"))),
        bool(facts["settings"].get("axes_are_guessed")),
    )
    return facts, answer


def answer_in_viewer(layer: ImageLayer, channel: int = 0) -> Answer:
    choices = channels_of(layer)
    chosen = next((one for one in choices if one.index == channel), choices[0])
    if choices[0].title == "All colours":
        chosen = choices[0]
    engine = EngineSettings(channel=chosen.index)
    return answer_of(run(count_cells(source_of(layer, chosen).image, engine=engine)))


@pytest.mark.no_cover  # through what tests of the parts cover
@pytest.mark.usefixtures("readers")
def test_every_file_is_the_same_in_viewer_command_line_and_python(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    files = write_all(folder)
    with pytest.raises(SystemExit) as ended:
        main(["count", *(str(folder / name) for name in files), "--output", str(output)])
    assert ended.value.code == 0
    told = capfd.readouterr().err
    for name, axes in files.items():
        path = folder / name
        python = answer_of(cellwright.count(path))
        facts, command = answer_of_command(output / path.stem)
        assert (facts["axes"], command) == (axes, python), name
        expected = N_DISCS
        for letter, n in zip(facts["axes"], facts["image_shape"], strict=True):
            expected *= n if letter == "T" else 1
        assert python.count == expected, name
        assert (f"{path}: No axes are named" in told) == python.is_guessed, name
        for reader in (image_reader.read_images_of_file, _magic_imreader):
            assert answer_in_viewer(opened_by(reader, path)) == python, (name, reader)


XY = {"Y": 0.65, "X": 0.65}
NAMES_OF_RESULTS = {  # of a run in which one file holds several images
    "planar.ome": "planar", "no_step.ome": "no_step",
    "bf": "bf#0", "bf_two_0": "bf_two#0", "bf_two_1": "bf_two#1",
}  # fmt: skip


def write_odd(folder: Path) -> dict[str, tuple[str, dict[str, float], list[str]]]:
    """Write files that are easily read wrongly; return axes, pixel sizes and names of the images of each."""
    places = np.where(discs() > 0, 7, 3).astype(np.uint8)  # the light ones lie at 7 of the palette
    greys, colours = np.zeros((2, 3, 256), np.uint16)
    greys[:, 7], colours[:, 7], colours[0, 3] = 51400, 51400, 9000
    for name, colormap in {"palette.tif": greys, "palette_rgb.tif": colours}.items():
        tifffile.imwrite(folder / name, places, photometric="palette", colormap=colormap, metadata=None)
    rgb = np.stack([discs()] * 3, axis=-1)
    planar = {"photometric": "rgb", "planarconfig": "separate", "ome": True, "metadata": {"axes": "CYX"}}
    tifffile.imwrite(folder / "planar.ome.tif", np.moveaxis(rgb, -1, 0), **planar)
    Picture.fromarray(rgb).convert("CMYK").save(folder / "cmyk.tif")
    exif = Picture.Exif()
    exif[274] = 6  # to be turned clockwise
    Picture.fromarray(np.rot90(rgb)).save(folder / "turned.jpg", exif=exif, quality=95)
    tifffile.imwrite(
        folder / "inch72.tif", discs(), imagej=True, resolution=(72, 72), metadata={"unit": "inch"}
    )
    imagej(folder / "ij_no_step.tif", stack(N_FRAMES), "ZYX", unit="micron")
    sizes = {f"PhysicalSize{axis}": 0.65 for axis in "XY"}
    tifffile.imwrite(folder / "no_step.ome.tif", stack(N_FRAMES), ome=True, metadata={"axes": "ZYX", **sizes})
    for version, axes in {"0.2": None, "0.3": list("tczyx")}.items():
        group = zarr.open_group(folder / f"v{version[-1]}.zarr", mode="w", zarr_format=2)
        group.create_array("0", data=channels(2)[None, :, None])
        scale = {"version": version, "datasets": [{"path": "0"}], "axes": axes}
        group.attrs["multiscales"] = [{key: value for key, value in scale.items() if value}]
    store_of(folder / "whole.zarr", discs(), "yx")
    whole = zarr.open_group(folder / "whole.zarr", mode="r+")
    (scale,) = whole.attrs["multiscales"]
    whole.attrs["multiscales"] = [
        {**scale, "coordinateTransformations": [{"type": "scale", "scale": [0.5, 0.5]}]}
    ]
    for name, n_images in {"bf.zarr": 1, "bf_two.zarr": 2}.items():
        zarr.open_group(folder / name, mode="w", zarr_format=2).attrs["bioformats2raw.layout"] = 3
        for number in range(n_images):
            store_of(folder / name / str(number), discs(), "yx")
    np.save(folder / "yx1.npy", discs()[..., None])
    np.save(folder / "zyx1.npy", stack(N_FRAMES)[..., None])
    return {
        "palette.tif": ("YX", {}, ["palette"]), "palette_rgb.tif": ("YXC", {}, ["palette_rgb"]),
        "planar.ome.tif": ("YXC", {}, ["planar.ome"]), "cmyk.tif": ("YXC", {}, ["cmyk"]),
        "turned.jpg": ("YXC", {}, ["turned"]), "inch72.tif": ("YX", {}, ["inch72"]),
        "ij_no_step.tif": ("ZYX", XY, ["ij_no_step"]), "no_step.ome.tif": ("ZYX", XY, ["no_step.ome"]),
        "v2.zarr": ("TCZYX", {}, ["v2"]), "v3.zarr": ("TCZYX", {}, ["v3"]),
        "whole.zarr": ("YX", {"Y": 0.325, "X": 0.325}, ["whole"]),
        "bf.zarr": ("YX", XY, ["bf"]), "bf_two.zarr": ("YX", XY, ["bf_two_0", "bf_two_1"]),
        "yx1.npy": ("YXC", {}, ["yx1"]), "zyx1.npy": ("ZYXC", {}, ["zyx1"]),
    }  # fmt: skip


@pytest.mark.no_cover  # through what tests of the parts cover
@pytest.mark.usefixtures("readers")
def test_odd_files_are_right_in_viewer_command_line_and_python(tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    files = write_odd(folder)
    with pytest.raises(SystemExit) as ended:
        main(["count", *(str(folder / name) for name in files), "--output", str(output)])
    assert ended.value.code == 0
    for file, (axes, sizes, names) in files.items():
        images = list(read_images(folder / file))
        assert [image.name for image in images] == names
        layers = image_reader.read_images_of_file(str(folder / file))
        layers = layers[:: len(layers) // len(names)]  # the first channel of each image
        for image, layer in zip(images, layers, strict=True):
            facts, command = answer_of_command(output / NAMES_OF_RESULTS.get(image.name, image.name))
            opened = opened_by(lambda _, one=layer: [one], folder / file)
            assert answer_in_viewer(opened) == answer_of(cellwright.count(image)) == command, image.name
            assert (command.count, facts["axes"], command.sizes_um) == (N_DISCS, axes, sizes), image.name
            plane = dict(zip(facts["axes"], facts["image_shape"], strict=True))
            assert (plane["Y"], plane["X"]) == SHAPE
            assert not any("um3" in column for column in command.columns)


@pytest.mark.usefixtures("readers")
def test_odd_objects_are_right_in_viewer_command_line_and_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def shape(kind: str, *points: tuple[float, float]) -> dict[str, Any]:
        return {"label": "cell", "points": points, "shape_type": kind, "group_id": None}

    square, bow = [(20, 20), (30, 20), (30, 30), (20, 30)], [(2, 2), (12, 10), (2, 10), (12, 2)]
    others = {"line": shape("line", (5, 5), (9, 5)), "bow": shape("polygon", *bow)}
    for name, other in others.items():
        content = {"imageHeight": 40, "imageWidth": 56, "imagePath": "x.png", "imageData": None}
        content["shapes"] = [shape("polygon", *square), other]
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    edge = [roifile.ImagejRoi.frompoints(np.add(square, move), name=f"{move}") for move in (0, -25)]
    roifile.roiwrite(tmp_path / "edge.zip", edge)
    np.save(tmp_path / "image.npy", discs())
    told: list[str] = []
    monkeypatch.setattr(readers_writers, "show_warning", told.append)
    expected = {
        "line.json": (1, "1 are of the type line"),
        "bow.json": (2, "1 cross themselves"),
        "edge.zip": (2, "1 were cut at the edge"),
    }
    for name, (n_cells, notice) in expected.items():
        target = tmp_path / f"{name}.ome.tif"
        written = cellwright.convert([tmp_path / name], "labels", target, tmp_path / "image.npy")
        (found,) = written[target]
        assert (len(found), notice in found.notices[0]) == (n_cells, True)
        told.clear()
        ((labels, _, _),) = readers_writers.read_cell_layers(str(tmp_path / name))
        assert (len(np.unique(labels)) - 1, notice in told[0]) == (n_cells, True)
        np.testing.assert_array_equal(labels, found.labels[: len(labels), : labels.shape[1]])
        again = ["--output", str(tmp_path / "again.ome.tif"), "--image", str(tmp_path / "image.npy")]
        with pytest.raises(SystemExit) as ended:
            main(["convert", str(tmp_path / name), "--to", "labels", *again])
        assert ended.value.code == 0
        printed = capfd.readouterr()
        assert (f"{n_cells} cell" in printed.out, notice in printed.err) == (True, True)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "again.ome.tif"), found.labels)


@pytest.mark.usefixtures("readers")
def test_files_are_described_as_they_are_read(tmp_path: Path) -> None:
    for name in write_all(tmp_path):
        (read,) = read_images(tmp_path / name)
        (told,) = describe_images(tmp_path / name)
        for fact in ("axes", "shape", "pixel_size_um", "channel_names", "source", "is_converted"):
            assert getattr(told, fact) == getattr(read, fact), (name, fact)
        of_pixels = [notice for notice in read.notices if "is transparent" in notice]
        assert [*told.notices, *of_pixels] == list(read.notices), name
        assert told.data.dtype == read.data.dtype


@pytest.mark.usefixtures("readers")
def test_the_panel_tells_and_takes_axes(
    tmp_path: Path,
    viewer: ViewerModel,
    qtbot: QtBot,
    shelved: Any,
    settled: Callable[[CountWidget], None],
) -> None:
    ome(tmp_path / "TYX.ome.tif", stack(N_FRAMES), "TYX", has_sizes=True)
    widget = CountWidget(viewer)
    qtbot.addWidget(widget)
    viewer.open(tmp_path / "TYX.ome.tif", plugin="napari")
    widget.panel.count.click()  # before the file was looked at
    qtbot.waitUntil(lambda: widget.counted is not None)
    settled(widget)
    assert widget.panel.number.text() == str(N_DISCS * N_FRAMES)
    assert widget.panel.understood.text() == "From the file: 5 frames in time; 0.65 µm a pixel"
    assert "guessed" not in widget.panel.details.text()
    box = widget.panel.axes
    assert [box.itemData(place) for place in range(box.count())] == ["TYX", "ZYX", "CYX", "YXC"]
    box.setCurrentIndex(1)
    box.activated.emit(1)
    assert widget.panel.understood.text() == "As chosen: 5 slices in z, linked; 0.65 µm a pixel"
    assert widget.panel.message.text().startswith("The axes are changed")
    widget.panel.count.click()
    settled(widget)
    assert widget.panel.number.text() == str(N_DISCS)
    recipe = recipe_of(widget.counted.result)
    assert "--axes ZYX" in as_command(recipe)


@pytest.mark.usefixtures("readers")
def test_the_panel_says_what_it_guessed(
    tmp_path: Path,
    viewer: ViewerModel,
    qtbot: QtBot,
    shelved: Any,
    settled: Callable[[CountWidget], None],
) -> None:
    np.save(tmp_path / "zyx.npy", stack(N_FRAMES))
    widget = CountWidget(viewer)
    qtbot.addWidget(widget)
    layer = viewer.add_image(stack(N_FRAMES), metadata={AXES: "TYX"})
    (guessed,) = viewer.open(tmp_path / "zyx.npy", plugin="napari")
    qtbot.waitUntil(lambda: "Guessed" in widget.panel.understood.text())
    widget.panel.count.click()
    settled(widget)
    assert widget.panel.details.text().startswith("axes guessed: ZYX, 5 slices in z")
    viewer.layers.selection.active = layer
    assert widget.panel.understood.text().startswith("As chosen")
    assert guessed.metadata == {}
    viewer.layers.selection.active = guessed
    guessed.axis_labels = ("t", "y", "x")
    assert widget.panel.understood.text() == "From the layer: 5 frames in time"


@pytest.mark.usefixtures("readers")
def test_a_file_that_was_just_looked_at_is_counted_by_channel(
    tmp_path: Path, viewer: ViewerModel, qtbot: QtBot, shelved: Any, settled: Callable[[CountWidget], None]
) -> None:
    ome(tmp_path / "CYX.ome.tif", channels(2), "CYX")
    widget = CountWidget(viewer)
    qtbot.addWidget(widget)
    viewer.open(tmp_path / "CYX.ome.tif", plugin="napari")
    describe_images(tmp_path / "CYX.ome.tif")  # by the thread, which has not told yet
    widget.panel.count.click()
    assert widget.panel.channel.channel == Channel("DAPI", 0, 0)
    qtbot.waitUntil(lambda: widget.axes.job is None)
    settled(widget)
    assert widget.panel.number.text() == str(N_DISCS)


@pytest.mark.usefixtures("readers")
def test_a_channel_that_is_a_layer_is_repeated_as_that_channel(tmp_path: Path, viewer: ViewerModel) -> None:
    ome(tmp_path / "CYX.ome.tif", channels(2), "CYX")
    layers = viewer.open(tmp_path / "CYX.ome.tif", plugin="napari-cellwright")
    assert [layer.name for layer in layers] == ["CYX.ome DAPI", "CYX.ome GFP"]
    result = run(count_cells(source_of(layers[1]).image))
    recipe = recipe_of(result)
    assert (recipe.axes, recipe.engine.channel) == ("CYX", 1)
    assert cellwright.count(recipe.image, axes=recipe.axes, engine=recipe.engine).count == result.count
    snapshot = SimpleNamespace(others={"gfp": image_of(layers[1])}, nuclei_source="")
    (told,) = _without_file(SimpleNamespace(nuclei=None, snapshot=snapshot))
    assert told == "the image gfp, which is in no file"


def measured_by_command(path: Path, output: Path, channel: int) -> pandas.DataFrame:
    """Count on the command line and return the table of cells that it wrote."""
    flags = ["--measure", "shape,intensity", "--channel", str(channel), "--output", str(output)]
    with pytest.raises(SystemExit) as ended:
        main(["count", str(path), *flags])
    assert ended.value.code == 0
    return pandas.read_csv(output / f"{path.stem}.cells.csv")


def measured_in(viewer: ViewerModel, qtbot: QtBot) -> ResultsWidget:
    """Open Results and measure shape and intensity in it."""
    results = ResultsWidget(viewer)
    qtbot.addWidget(results)
    for group in ("shape", "intensity"):
        results.view.groups[group].setChecked(True)
    qtbot.waitUntil(lambda: results.model.measured is not None and not results.measurer.is_busy)
    results.view.measure.click()
    qtbot.waitUntil(lambda: not results.measurer.is_busy)
    return results


@pytest.mark.usefixtures("readers")
@pytest.mark.parametrize("plugin", ["napari-cellwright", "napari"])
@pytest.mark.parametrize("channel", [0, 1])
def test_a_table_measures_every_channel_of_the_file(
    tmp_path: Path,
    viewer: ViewerModel,
    qtbot: QtBot,
    shelved: Any,
    settled: Callable[[CountWidget], None],
    plugin: str,
    channel: int,
) -> None:
    path = tmp_path / "CYX.ome.tif"
    shades = np.arange(SHAPE[1], dtype=np.uint8)
    ome(path, np.minimum(channels(2), 200 - shades), "CYX", has_sizes=True)
    command = measured_by_command(path, tmp_path / "out", channel)
    assert "intensity_mean_ch1" in command
    (image,) = read_images(path)
    found = cellwright.count(image, engine=EngineSettings(channel=channel))
    python = cellwright.measure(found, image, ["shape", "intensity"])
    viewer.open(path, plugin=plugin)
    count = CountWidget(viewer)
    qtbot.addWidget(count)
    if plugin == "napari":
        qtbot.waitUntil(lambda: getattr(count.panel.channel.channel, "title", "") == "DAPI")
        count.panel.channel.setCurrentIndex(channel)
    elif channel:
        viewer.layers.selection.active = viewer.layers[0]  # panels begin there, whatever is active
        viewer.layers.selection.active = viewer.layers[1]
    count.panel.count.click()
    qtbot.waitUntil(lambda: count.counted is not None)
    settled(count)
    results = measured_in(viewer, qtbot)
    table = results.model.table
    assert sorted(set(table) - {"edited"}) == sorted(python) == sorted(command)
    for name in python:
        np.testing.assert_array_equal(table[name], python[name], err_msg=name)
    numbers = [1, 0] if (plugin, channel) == ("napari-cellwright", 1) else [0, 1]  # that of the layer first
    titles = [results.model.title_of(name) for name in results.model.marker_channels]
    assert titles == [("DAPI (ch0)", "GFP (ch1)")[number] for number in numbers]
    assert_headings_call_channels(results, python, image, tmp_path)
    assert _without_file(results.model.measured) == []
    assert results.view.others.isHidden()


def assert_headings_call_channels(
    results: ResultsWidget, python: pandas.DataFrame, image: Image, folder: Path
) -> None:
    """Assert that table, plots and both reports head columns with the names that the file gives channels."""
    names = {"ch0": "DAPI", "ch1": "GFP"}
    wanted = {heading_of(str(name), names) for name in python if "intensity" in str(name)}
    assert {"Mean DAPI", "Mean GFP"} < wanted
    frame, box = results.view.frame, results.view.plot_x
    horizontal = Qt.Orientation.Horizontal
    in_table = {str(frame.headerData(column, horizontal)) for column in range(frame.columnCount())}
    in_plots = {box.itemText(place) for place in range(box.count())}
    write_report(folder / "viewer.html", image, results.model.analysis())
    labels = results.model.measured.result.cells.labels
    write_report(
        folder / "r.html", image, analyse(labels, image, AnalysisSettings(measure=("shape", "intensity")))
    )
    texts = [unescape((folder / name).read_text(encoding="utf-8")) for name in ("viewer.html", "r.html")]
    for told in (in_table, in_plots, *texts):
        assert all(heading in told for heading in wanted)
        assert "Mean ch1" not in told


@pytest.mark.usefixtures("readers")
def test_what_another_reader_shows_otherwise_is_told(tmp_path: Path) -> None:
    colormap = np.stack([np.arange(255, -1, -1, dtype=np.uint16) * 257] * 3)
    path = tmp_path / "palette.tif"
    tifffile.imwrite(path, discs(), photometric="palette", colormap=colormap, metadata=None)
    assert image_of(opened_by(image_reader.read_images_of_file, path)).notices == ()
    (notice,) = image_of(opened_by(_magic_imreader, path)).notices
    assert notice.startswith("The file holds places in a palette")
    cut = opened_by(_magic_imreader, path)
    cut.data = cut.data[:30]
    (notice,) = image_of(cut).notices
    assert notice.startswith("The layer is not the image of shape (40, 56) that its file holds")


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((1, 1, 5, 40, 56), "ZCTYX"),  # axes of length one that the file does not have
        ((5, 40, 56), "TYX"),
    ],
)
def test_axes_of_length_one_come_and_go(tmp_path: Path, shape: tuple[int, ...], axes: str) -> None:
    ome(tmp_path / "a.ome.tif", stack(N_FRAMES), "TYX", has_sizes=True)
    known = understand(
        np.zeros(shape), "a", ArrayFacts(), map(FilePart, describe_images(tmp_path / "a.ome.tif"))
    )
    assert known.axes_from == "file"
    assert sorted(known.image.axes) == sorted(axes)
    assert known.image.axes.endswith("TYX")
    assert known.image.known_sizes_um == {"Y": 0.65, "X": 0.65}
