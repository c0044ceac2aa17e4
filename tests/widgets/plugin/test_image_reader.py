import threading
import time

import npe2
import numpy as np
import pytest
import tifffile
import zarr
from magicgui.widgets import Dialog
from napari import current_viewer
from napari.components import ViewerModel
from napari.layers import Labels, Layer
from npe2 import PluginManifest
from qtpy.compat import isalive
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QMainWindow, QWidget

from cellwright.core.data import Image
from cellwright.core.errors import ReadError
from cellwright.files import tiff
from cellwright.files.formats.image_annotation import ImageAnnotation, with_numbers
from cellwright.files.formats.registry import FORMATS
from cellwright.files.images import read_image, write_labels
from cellwright.files.zarr import create_array, finish_array
from cellwright.widgets.plugin import image_reader, readers_writers
from cellwright.widgets.plugin.image_reader import get_image_reader, read_images_of_file
from cellwright.widgets.plugin.meanwhile import beside_window
from cellwright.widgets.shared.layer_io import image_of


@pytest.fixture
def told(monkeypatch):
    """What the user was told."""
    notices = []
    monkeypatch.setattr("cellwright.widgets.plugin.image_reader.show_warning", notices.append)
    monkeypatch.setattr(readers_writers, "show_warning", notices.append)
    return notices


def opened(path):
    return [Layer.create(*data) for data in read_images_of_file(str(path))]


def grey(*shape):
    return np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)


def test_axes_size_and_channels_are_kept(tmp_path):
    metadata = {"axes": "ZCYX", "Channel": {"Name": ["DAPI", "GFP"], "Color": [65535, 16711935]}}
    for axis, size in (("Z", 2.0), ("Y", 0.5), ("X", 0.25)):
        metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", grey(3, 2, 20, 30), ome=True, photometric="minisblack",
                     metadata=metadata)  # fmt: skip
    first, second = opened(tmp_path / "a.ome.tif")
    assert (first.name, second.name) == ("a.ome DAPI", "a.ome GFP")
    assert first.axis_labels == ("z", "y", "x")
    assert first.scale.tolist() == [2.0, 0.5, 0.25]
    assert {str(unit) for unit in first.units} == {"micrometer"}
    assert second.colormap.map([1.0])[0].tolist() == [0, 1, 0, 1]
    image = image_of(first)
    assert (image.axes, image.pixel_size_um) == ("ZYX", (2.0, 0.5, 0.25))


@pytest.mark.parametrize("shards", [None, (16, 16)])
def test_chunks_that_a_store_lacks_are_told(tmp_path, told, shards):
    """Of a pyramid that is no multiple of its chunks and shards."""
    for name in ("whole", "part"):
        store = zarr.open_group(tmp_path / f"{name}.zarr", mode="w", zarr_format=3)
        array = store.create_array("0", shape=(40, 20), chunks=(8, 8), shards=shards, dtype="u1")
        array[...] = 1 + grey(40, 20) // 2
        store.attrs["ome"] = {"multiscales": [{"datasets": [{"path": "0"}], "axes": ["y", "x"]}]}
    (tmp_path / "part.zarr" / "0" / "c" / "0" / "1").unlink()
    opened(tmp_path / "whole.zarr")
    assert told == []
    opened(tmp_path / "part.zarr")
    (sentence,) = told
    assert sentence.startswith("1 of the 15 chunks" if shards is None else "1 of the 6 shards")


def test_channels_without_colours_of_their_own_can_be_told_apart(tmp_path, told):
    tifffile.imwrite(tmp_path / "a.ome.tif", grey(5, 20, 30), ome=True, photometric="minisblack")
    assert len({layer.colormap.name for layer in opened(tmp_path / "a.ome.tif")} - {"gray"}) == 5


def test_a_size_in_the_plane_alone_comes_back_from_the_layer(tmp_path, told):
    metadata = {"axes": "ZYX", "unit": "micron"}
    tifffile.imwrite(tmp_path / "a.tif", grey(8, 20, 30), imagej=True, resolution=(2, 2), metadata=metadata)
    (layer,) = opened(tmp_path / "a.tif")
    assert image_of(layer).pixel_size_um == (0.0, 0.5, 0.5)
    assert "step between slices" in told[0]


def test_palettes_planes_and_turned_photos_are_what_they_are(tmp_path):
    colormap = np.random.default_rng(0).integers(0, 65535, (3, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", grey(20, 30), photometric="palette", colormap=colormap)
    tifffile.imwrite(tmp_path / "b.tif", grey(3, 20, 30), photometric="rgb", planarconfig="separate")
    for name in ("a.tif", "b.tif"):
        (layer,) = opened(tmp_path / name)
        assert (layer.rgb, layer.data.shape) == (True, (20, 30, 3))


def test_what_was_guessed_is_told(tmp_path, told):
    np.save(tmp_path / "a.npy", grey(20, 30, 1))
    (layer,) = opened(tmp_path / "a.npy")
    assert layer.data.shape == (20, 30)
    assert told == ["No axes are named; YXC was guessed from the shape (20, 30, 1): 1 channel."]


def test_stores_stay_on_disk_and_show_their_labels(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    axes = [{"name": "c", "type": "channel"}, *({"name": name, "type": "space"} for name in "yx")]
    group.create_array("0", data=grey(2, 20, 30))
    group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}]}]
    inside = group.create_group("labels")
    inside.attrs["labels"] = ["cells"]
    own = inside.create_group("cells")
    own.create_array("0", data=grey(20, 30).astype(np.int32))
    own.attrs["multiscales"] = [{"axes": axes[1:], "datasets": [{"path": "0"}]}]
    layers = opened(tmp_path / "a.zarr")
    assert [type(layer).__name__ for layer in layers] == ["Image", "Image", "Labels"]
    assert hasattr(layers[0].data, "compute")
    own.create_array("0", data=grey(1, 20, 30).astype(np.int32), overwrite=True)  # as in versions up to 0.3
    own.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}]}]
    assert opened(tmp_path / "a.zarr")[2].data.shape == (20, 30)


def pyramid_tiff(path, levels, **options):
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(levels[0], subifds=len(levels) - 1, tile=(16, 16), **options)
        for level in levels[1:]:
            tiff.write(level, subfiletype=1, tile=(16, 16), photometric=options["photometric"])


def pyramid_pages(path, levels):
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate(levels):
            tiff.write(level, tile=(16, 16), subfiletype=number > 0, metadata=None)


def pyramid_store(path, levels, axes):
    group = zarr.open_group(path, mode="w", zarr_format=2)
    for number, level in enumerate(levels):
        group.create_array(str(number), data=level)
    datasets = [{"path": str(number)} for number in range(len(levels))]
    group.attrs["multiscales"] = [{"axes": [{"name": name} for name in axes], "datasets": datasets}]


@pytest.mark.parametrize("kind", ["grey", "colours", "channels", "store", "pages"])
def test_pyramids_are_multiscale_layers_counted_in_full(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(tiff, "LAZY_PYRAMID_BYTES", 0)
    path, axes = tmp_path / "a.ome.tif", {"colours": "YXS"}.get(kind, "CYX")
    shape = {"grey": (64, 96), "pages": (64, 96), "colours": (64, 96, 3)}.get(kind, (2, 64, 96))
    whole = grey(*shape)
    rows = (slice(None),) * (len(shape) == 3 and kind != "colours")
    levels = [whole[(*rows, slice(None, None, step), slice(None, None, step))] for step in (1, 2, 4)]
    if kind == "store":
        path = tmp_path / "a.zarr"
        pyramid_store(path, levels, "cyx")
    elif kind == "pages":
        path = tmp_path / "a.tif"
        pyramid_pages(path, levels)
    else:
        photometric = "rgb" if kind == "colours" else "minisblack"
        pyramid_tiff(path, levels, metadata={"axes": axes[-len(shape) :]}, photometric=photometric)
    found = read_image(path)
    layers = opened(path)
    assert len(layers) == (2 if kind in ("channels", "store") else 1)
    for number, layer in enumerate(layers):
        assert layer.multiscale
        assert hasattr(layer.data[0], "compute")  # read where it is looked at
        image = image_of(layer)
        assert image.axes == found.axes.removeprefix("C")
        wanted = whole[number] if len(layers) > 1 else whole
        np.testing.assert_array_equal(np.asarray(image.data), wanted)
        small = np.asarray(layer.data[2])
        np.testing.assert_array_equal(small, levels[2][number] if len(layers) > 1 else levels[2])


def test_a_damaged_smaller_copy_costs_no_image(tmp_path):
    pyramid_store(tmp_path / "a.zarr", [grey(64, 96), grey(32, 48)], "yx")
    (tmp_path / "a.zarr" / "1" / ".zarray").unlink()
    (layer,) = opened(tmp_path / "a.zarr")
    assert not layer.multiscale
    assert layer.data.shape == (64, 96)


def test_scenes_are_layers_up_to_a_number(tmp_path, told, monkeypatch):
    monkeypatch.setattr("cellwright.widgets.plugin.image_reader.MOST_IMAGES", 3)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for index in range(5):
            tiff.write(grey(20, 30 + index), metadata=None)
    assert len({layer.name for layer in opened(tmp_path / "a.tif")}) == 3
    assert told == ["Only the first 3 images of a.tif were opened."]


def test_napari_finds_both_readers(tmp_path, viewer_with_readers):
    tifffile.imwrite(tmp_path / "a.tif", grey(20, 30), resolution=(20_000,) * 2, resolutionunit="CENTIMETER")
    labels = np.zeros((20, 30), np.int32)
    labels[2:9, 2:9] = 1
    tifffile.imwrite(tmp_path / "a_labels.tif", labels)
    viewer = viewer_with_readers
    viewer.open(tmp_path / "a.tif", plugin="napari-cellwright")
    viewer.open(tmp_path / "a_labels.tif", plugin="napari-cellwright")
    assert [type(layer).__name__ for layer in viewer.layers] == ["Image", "Labels"]
    assert viewer.layers[0].scale.tolist() == [0.5, 0.5]


@pytest.fixture
def viewer_with_readers():
    manifest = PluginManifest.from_distribution("napari-cellwright")
    manager = npe2.PluginManager.instance()
    if manifest.name not in manager:
        manager.register(manifest)
    return ViewerModel()


def test_each_image_of_a_folder_is_a_layer(tmp_path, told, viewer_with_readers, monkeypatch):
    folder = tmp_path / "a folder"
    for inner in (folder / "further", folder / "b.zarr"):
        inner.mkdir(parents=True)
    store = zarr.create_array(folder / "b.zarr", shape=(20, 40), dtype="u1", overwrite=True)
    store[:] = 1
    tifffile.imwrite(folder / "a.tif", grey(20, 30), metadata=None)
    tifffile.imwrite(folder / "c_labels.tif", np.ones((20, 30), np.int32))
    tifffile.imwrite(folder / "further" / "e.tif", grey(20, 30))
    (folder / "d.png").write_text("no image")
    viewer_with_readers.open(folder, plugin="napari-cellwright")
    assert [(layer.name, layer.data.shape) for layer in viewer_with_readers.layers] == [
        ("a", (20, 30)),
        ("b", (20, 40)),
    ]
    assert [image_of(layer).source for layer in viewer_with_readers.layers] == [
        str(folder / "a.tif"),
        str(folder / "b.zarr"),
    ]
    assert len(told) == 1
    assert "d.png" in told[0]
    monkeypatch.setattr("cellwright.widgets.plugin.image_reader.MOST_IMAGES", 1)
    assert len(get_image_reader(str(folder))(str(folder))) == 1
    assert told[1] == "Only the first 1 images of a folder were opened."


def test_folders_without_an_image_of_their_own_are_left_to_others(tmp_path):
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images" / "a.tif", grey(20, 30))
    (tmp_path / "meta.json").write_text("{}")
    assert get_image_reader(str(tmp_path)) is None


def test_a_folder_of_masks_in_time_is_opened_as_cells(tmp_path, viewer_with_readers):
    labels = np.zeros((3, 20, 30), np.int32)
    labels[:, 2:9, 3:12], labels[1:, 12:18, 12:25] = 4, 2
    marks = with_numbers(ImageAnnotation("movie", labels.shape, "TYX"), labels)
    FORMATS["tracking-challenge"].write(tmp_path / "movie_RES", [marks])
    viewer_with_readers.open(str(tmp_path / "movie_RES"), plugin="napari-cellwright")
    (layer,) = viewer_with_readers.layers
    assert isinstance(layer, Labels)
    np.testing.assert_array_equal(layer.data, labels)


def test_files_opened_as_a_stack_are_slices(tmp_path, told, viewer_with_readers):
    planes = grey(6, 20, 30)
    paths = [tmp_path / f"{number}.tif" for number in range(6)]
    for path, plane in zip(paths, planes, strict=True):
        tifffile.imwrite(path, plane, imagej=True, resolution=(2, 2), metadata={"unit": "um"})
    viewer_with_readers.open(paths, stack=True, plugin="napari-cellwright")
    (layer,) = viewer_with_readers.layers
    image = image_of(layer)
    assert (image.axes, image.pixel_size_um, image.source) == ("ZYX", (0.0, 0.5, 0.5), "")
    assert image.axes_are_guessed
    np.testing.assert_array_equal(image.read(), planes)
    assert told == ["No axes are named; ZYX was guessed from the shape (6, 20, 30): 6 slices in z."]
    assert told[0] in image.notices
    viewer_with_readers.open(paths, plugin="napari-cellwright")
    assert len(viewer_with_readers.layers) == 7


def test_a_stack_of_stacks_is_time_and_has_its_channels(tmp_path, told):
    paths = [str(tmp_path / f"{number}.ome.tif") for number in range(2)]
    for path in paths:
        tifffile.imwrite(
            path, grey(3, 2, 20, 30), ome=True, metadata={"axes": "ZCYX"}, photometric="minisblack"
        )
    layers = [Layer.create(*data) for data in get_image_reader(paths)(paths)]
    assert [layer.axis_labels for layer in layers] == [("t", "z", "y", "x")] * 2
    assert [image_of(layer).shape for layer in layers] == [(2, 3, 20, 30)] * 2


def test_files_that_are_not_alike_are_no_stack(tmp_path, told):
    tifffile.imwrite(tmp_path / "a.tif", grey(20, 30))
    tifffile.imwrite(tmp_path / "b.tif", grey(20, 31))
    paths = [str(tmp_path / "a.tif"), str(tmp_path / "b.tif")]
    with pytest.raises(ReadError, match=r"of the same axes, size and type.*b\.tif has \('YX', \(20, 31\)"):
        get_image_reader(paths)(paths)
    tifffile.imwrite(tmp_path / "c.tif", grey(2, 2, 20, 30), imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(ReadError, match="has no room for another"):
        get_image_reader([])([str(tmp_path / "c.tif")] * 2)
    (tmp_path / "d.tif").write_bytes(b"no image")
    for name, words in (("d.tif", "Expected an image"), ("gone.tif", "there is none")):
        with pytest.raises(ReadError, match=words):
            get_image_reader([])([str(tmp_path / "a.tif"), str(tmp_path / name)])
    assert get_image_reader([str(tmp_path / "a_labels.tif")]) is None


@pytest.mark.parametrize("name", ["a.labels.tif", "a.ome.labels.tif", "a_labels.tiff", "a_labels.ome.tif"])
def test_labels_as_they_are_written_open_as_labels_with_their_pixel_size(tmp_path, viewer_with_readers, name):
    labels = np.zeros((20, 30), np.int32)
    labels[2:9, 2:9] = 1
    write_labels(tmp_path / name, labels, Image(labels, "YX", (0.5, 0.5), "a"))
    viewer_with_readers.open(tmp_path / name, plugin="napari-cellwright")
    (layer,) = viewer_with_readers.layers
    assert type(layer).__name__ == "Labels"
    assert layer.scale.tolist() == [0.5, 0.5]


def test_labels_of_a_count_block_by_block_open_as_labels(tmp_path, told, viewer_with_readers):
    image = Image(np.zeros((600, 700), np.uint8), "YX", (0.5, 0.5), "a")
    create_array(tmp_path / "a.labels.zarr", image)[100:200, 300:400] = 7
    finish_array(tmp_path / "a.labels.zarr", image)
    viewer_with_readers.open(tmp_path / "a.labels.zarr", plugin="napari-cellwright")
    (layer,) = viewer_with_readers.layers
    assert type(layer).__name__ == "Labels"
    assert layer.scale.tolist() == [0.5, 0.5]
    assert layer.data[0][150, 350] == 7
    assert not told


def test_notices_of_annotations_are_told(tmp_path, told):
    ring = [[5, 5], [25, 5], [25, 900], [5, 900], [5, 5]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    line = {"type": "Feature", "geometry": {"type": "LineString", "coordinates": ring}, "properties": {}}
    import json

    (tmp_path / "a.geojson").write_text(json.dumps([feature, line]))
    readers_writers.read_cell_layers(str(tmp_path / "a.geojson"))
    assert told[0] == "Of 2 objects in a.geojson 1 are of the type LineString and were left out."
    assert told[1].startswith("a.geojson does not give the size of its image: (900, 25) is the least")


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.tif").write_text("no image")
    with pytest.raises(ReadError):
        read_images_of_file(str(tmp_path / "a.tif"))


def test_more_scenes_are_chosen_from_a_list(tmp_path, told, monkeypatch, qtbot):
    monkeypatch.setattr("cellwright.widgets.plugin.image_reader.MOST_IMAGES", 3)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for index in range(6):
            tiff.write(grey(20, 30 + index), metadata=None)
    window = QWidget()
    qtbot.addWidget(window)
    window.show()

    def take(dialog):
        assert dialog["images"].value == [0, 1, 2]
        dialog["images"].value = [1, 5]
        return True

    monkeypatch.setattr(Dialog, "exec", take)
    assert [layer.data.shape for layer in opened(tmp_path / "a.tif")] == [(20, 31), (20, 35)]
    assert not told
    monkeypatch.setattr(Dialog, "exec", lambda _: False)
    assert read_images_of_file(str(tmp_path / "a.tif")) == [(None,)]


@pytest.mark.parametrize("name", ["a.tif", "a_labels.tif"])
def test_the_window_goes_on_while_a_file_is_read(tmp_path, viewer_with_readers, monkeypatch, qtbot, name):
    """Files of servers and slow drives take seconds, and so does what is imported to read the first."""
    tifffile.imwrite(tmp_path / name, np.ones((20, 30), np.int32))
    read, threads, ticks = tiff.read_tiff, set(), []

    def slowly(*arguments, **options):
        threads.add(threading.current_thread())
        time.sleep(0.3)
        return read(*arguments, **options)

    monkeypatch.setattr(tiff, "read_tiff", slowly)
    timer = QTimer()
    timer.timeout.connect(lambda: ticks.append(time.perf_counter()))
    timer.start(10)
    (layer,) = viewer_with_readers.open(tmp_path / name, plugin="napari-cellwright")
    timer.stop()
    assert layer.data.shape == (20, 30)
    assert threading.main_thread() not in threads
    assert len(ticks) > 5


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_viewer_that_a_program_closes_while_a_file_is_read_is_closed(
    make_napari_viewer, qtbot, tmp_path, monkeypatch, is_folder
):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), np.uint8))
    name = "_images_in" if is_folder else "read_images"
    read = getattr(image_reader, name)

    viewer = make_napari_viewer()
    window = viewer.window._qt_window
    is_reading, is_closed, timer = threading.Event(), threading.Event(), QTimer()

    def read_slowly(*arguments, **how):
        is_reading.set()
        assert is_closed.wait(30)
        yield from read(*arguments, **how)

    def close():
        if is_reading.is_set() and not is_closed.is_set():
            viewer.close()
            is_closed.set()

    timer.timeout.connect(close)
    timer.start(10)
    list_slowly = lambda *arguments: list(read_slowly(*arguments))  # noqa: E731
    monkeypatch.setattr(image_reader, name, list_slowly if is_folder else read_slowly)
    target = tmp_path if is_folder else tmp_path / "a.tif"
    assert viewer.open(str(target), plugin="napari-cellwright") == []
    qtbot.waitUntil(lambda: not isalive(window))  # Qt deletes it in its next turn
    assert len(viewer.layers) == 0
    assert current_viewer() is not viewer


def test_a_window_stays_open_until_a_file_is_read(qtbot, monkeypatch):
    """napari fails where it puts layers into a window that is gone."""
    told_of_closing = []
    monkeypatch.setattr("cellwright.widgets.plugin.meanwhile.show_info", told_of_closing.append)
    window = QMainWindow()
    qtbot.addWidget(window)
    window.show()
    QTimer.singleShot(50, window.close)
    beside_window(time.sleep, 0.3)
    assert window.isVisible()
    assert "is being read" in told_of_closing[0]
    window.close()
    assert not window.isVisible()
