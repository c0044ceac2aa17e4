from importlib.resources import files

import npe2
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer, Points, Shapes
from npe2 import PluginManifest
from tests.files.formats.test_registry import CALIBRATED

from cellwright.core.errors import ReadError, WriteError, WrongLayerError
from cellwright.files.formats.registry import FORMATS
from cellwright.files.images import read_image
from cellwright.widgets.plugin import readers_writers as own
from cellwright.widgets.plugin.readers_writers import (
    annotation_of_layers,
    get_cells_reader,
    read_cell_layers,
    write_layers,
)
from cellwright.widgets.shared.layer_factory import features_by_number

OF_TIME = ("tracking-challenge", "tracking-challenge-truth")
# formats in which cells keep their numbers
NUMBERED = ("ome-tiff", "geojson", "imagej-roi", "cellpose", "coco", "coco-rle", *OF_TIME)
WRITERS = {name: f"write_{name.replace('-', '_')}" for name in FORMATS}


def draw(axes="YX"):
    """An image and its cells as layers of napari, in micrometres, with gaps in the numbers."""
    shape = {"YX": (30, 40), "TYX": (3, 30, 40), "ZYX": (3, 30, 40)}[axes]
    labels = np.zeros(shape, np.int32)
    labels[..., 2:9, 3:12], labels[..., 12:20, 12:25], labels[..., 22:27, 2:7] = 4, 2, 9
    scale = {"YX": (0.5, 0.25), "TYX": (1, 0.5, 0.25), "ZYX": (2, 0.5, 0.25)}[axes]
    units = ["pixel" if axis == "T" else "micrometer" for axis in axes]
    place = {"scale": scale, "units": units, "axis_labels": tuple(axes.lower())}
    image = Image(np.arange(labels.size).reshape(shape).astype(np.uint16), name="drawn", **place)
    features = {"class": ["", "", "red", "", "blue", "", "", "", "", None]}
    return image, Labels(labels, name="cells", features=features, **place)


def tuples(*layers):
    return [layer.as_layer_data_tuple() for layer in layers]


@pytest.fixture(scope="module")
def contributions():
    return PluginManifest.from_file(str(files("cellwright") / "napari.yaml")).contributions


def test_every_format_has_its_writers_in_the_manifest(contributions):
    by_command = {}
    for one in contributions.writers:
        by_command.setdefault(one.command.partition(".")[2], []).append(one)
    assert by_command.keys() == set(WRITERS.values())
    for name, command in WRITERS.items():
        for one in by_command[command]:
            assert one.display_name == FORMATS[name].title
            (extension,) = one.filename_extensions
            assert FORMATS[name].is_folder or FORMATS[name].extensions[0].endswith(extension)
        takes = {kind for one in by_command[command] for kind in one.layer_types} - {"image?"}
        assert ("points" in takes) == ("points" in FORMATS[name].kinds)
        assert "labels" in takes
        assert own.writer(command).keywords == {"one": FORMATS[name]}


@pytest.mark.parametrize("has_image", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_labels_are_saved_and_opened_with_their_scale(tmp_path, name, has_image):
    axes = "TYX" if "tracking" in name else "YX"
    image, labels = draw(axes)
    layers = tuples(image, labels) if has_image else tuples(labels)
    (path,) = own.writer(WRITERS[name])(
        str(tmp_path / f"saved{FORMATS[name].extensions[:1] and FORMATS[name].extensions[0]}"), layers
    )
    if FORMATS[name].is_folder:
        table = {"yolo": "data.yaml", "trac": "man_track.txt" if "truth" in name else "res_track.txt"}[
            name[:4]
        ]
        path = f"{path}/{table}"
    if name.startswith("yolo") and not has_image:
        with pytest.raises(ReadError, match="relative to its size"):
            read_cell_layers(path)
        return
    made = [Layer.create(*data) for data in get_cells_reader(path)(path)]
    cells = made[-1]
    if isinstance(cells, Labels):
        expected = labels.data
        if name not in NUMBERED:
            expected = np.unique(labels.data, return_inverse=True)[1].reshape(labels.data.shape)
        if cells.data.shape == expected.shape:
            np.testing.assert_array_equal(cells.data, expected)
        else:  # a file without the size of its image: as small as may be
            np.testing.assert_array_equal(cells.data, expected[tuple(map(slice, cells.data.shape))])
    else:
        assert len(cells.data) == 3
    if name in CALIBRATED:
        np.testing.assert_allclose(cells.scale, (0.5, 0.25))
        assert [str(unit) for unit in cells.units] == ["micrometer", "micrometer"]
    if "classes" in FORMATS[name].kinds:
        column = list(cells.features["class"])
        assert column[-3:] == ["red", "blue", ""]
    assert (name.startswith("labelme") and has_image) == isinstance(made[0], Image)


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        *((name, "YX") for name in NUMBERED if name not in OF_TIME),
        *((name, "ZYX") for name in ("ome-tiff", "geojson", "imagej-roi", "cellpose")),
        *((name, "TYX") for name in OF_TIME),
    ],
)
def test_saved_cells_have_the_numbers_that_tables_of_the_layer_have(tmp_path, name, axes):
    image, labels = draw(axes)
    path = str(tmp_path / f"saved{(*FORMATS[name].extensions, '')[0]}")
    own.writer(WRITERS[name])(path, tuples(image, labels))
    if name == "ome-tiff":
        np.testing.assert_array_equal(read_image(path).read(), labels.data)
    layer = Layer.create(*read_cell_layers(path)[-1])
    assert isinstance(layer, Labels)
    inside = tuple(map(slice, layer.data.shape))
    np.testing.assert_array_equal(layer.data, labels.data[inside])
    if "classes" in FORMATS[name].kinds:
        assert features_by_number(layer)["class"].to_dict() == {0: "", 2: "red", 4: "blue", 9: ""}


@pytest.mark.parametrize("name", ["coco", "labelme", "geojson", "cellpose"])
def test_cells_of_numbers_beyond_32_bits_keep_their_classes(tmp_path, name):
    labels = np.zeros((20, 30), np.int64)
    labels[2:6, 2:6], labels[2:6, 10:14] = 2, 2**31
    layer = Labels(labels, features={"index": [2, 2**31], "class": ["red", "blue"]}, name="saved")
    path = str(tmp_path / f"saved{FORMATS[name].extensions[0]}")
    own.writer(WRITERS[name])(path, [layer.as_layer_data_tuple()])
    found = Layer.create(*read_cell_layers(path)[-1])
    assert features_by_number(found)["class"].to_dict() == {0: "", 1: "red", 2: "blue"}


@pytest.mark.parametrize("kind", ["labels", "points"])
def test_classes_that_are_numbers_are_saved_as_tables_show_them(tmp_path, kind):
    labels = np.zeros((20, 30), int)
    labels[2:6, 2:6], labels[2:6, 10:14], labels[2:6, 20:24] = 2, 5, 7
    cells = Labels(labels, features={"index": [np.nan, 2, 5, 7], "class": [3, 0, 1, np.nan]}, name="saved")
    if kind == "points":
        cells = Points([[4, 4], [4, 12], [4, 22]], features={"class": [0, 1, np.nan]}, name="saved")
    own.writer("write_geojson")(str(tmp_path / "saved.geojson"), [cells.as_layer_data_tuple()])
    found = Layer.create(*read_cell_layers(str(tmp_path / "saved.geojson"))[-1])
    assert list(found.features["class"])[-3:] == ["0", "1", ""]


@pytest.mark.parametrize("name", [name for name, one in FORMATS.items() if "classes" in one.kinds])
@pytest.mark.parametrize("kind", ["labels", "points"])
def test_a_class_that_is_called_cell_is_saved_and_opened(tmp_path, name, kind):
    if kind not in FORMATS[name].kinds:
        return
    image, cells = draw()
    cells.features = {"class": ["", "", "cell", "", "blue", "", "", "", "", ""]}
    if kind == "points":
        data = [[5, 5], [15, 18], [24, 4]]
        place = {"scale": image.scale, "units": image.units}
        cells = Points(data, features={"class": ["cell", "blue", ""]}, **place)
    path = str(tmp_path / f"saved{(*FORMATS[name].extensions, '')[0]}")
    own.writer(WRITERS[name])(path, tuples(image, cells))
    found = Layer.create(*read_cell_layers(path)[-1])
    assert list(found.features["class"])[-3:] == ["cell", "blue", ""]


@pytest.mark.parametrize("axes", ["YX", "ZYX", "TYX"])
def test_points_are_saved_and_opened(tmp_path, axes):
    image, _ = draw(axes)
    data = np.array([[1, 4.5, 5.25], [2, 20, 30]])[:, 3 - len(axes) :]
    points = Points(
        data,
        features={"class": ["a", ""]},
        scale=image.scale,
        units=image.units,
        axis_labels=image.axis_labels,
    )
    for name in ("points-csv", "geojson", "imagej-roi"):
        path = tmp_path / f"saved{FORMATS[name].extensions[0]}"
        own.writer(WRITERS[name])(str(path), tuples(image, points))
        (found,) = [Layer.create(*one) for one in read_cell_layers(str(path))]
        assert isinstance(found, Points)
        np.testing.assert_allclose(found.data[:, -2:], data[:, -2:], atol=1e-3)
        np.testing.assert_allclose(found.data, data, atol=1e-3)
        assert list(found.features["class"]) == ["a", ""]
        if name == "geojson":
            np.testing.assert_allclose(found.scale, image.scale)


def test_rectangles_are_boxes_and_other_shapes_are_outlines(tmp_path):
    image, _ = draw()
    rectangle = np.array([[1.5, 2.5], [1.5, 9.5], [8.5, 9.5], [8.5, 2.5]])
    shapes = Shapes([rectangle], shape_type="rectangle", features={"class": ["red"]})
    found = annotation_of_layers(tuples(image, shapes), FORMATS["coco"])
    np.testing.assert_allclose(found.boxes, [[[2, 3], [9, 10]]])
    assert (found.shape, found.class_names, found.pixel_size_um) == ((30, 40), ("red",), ())
    assert annotation_of_layers(tuples(image, shapes), FORMATS["cellpose"]).labels.sum() == 49
    shapes.add_ellipses([np.array([[10, 10], [10, 20], [20, 20], [20, 10]])])
    shapes.add_polygons([np.array([[22.5, 1.5], [22.5, 6.5], [26.5, 6.5]])])
    found = annotation_of_layers(tuples(shapes), FORMATS["coco"])
    areas = np.bincount(found.labels.ravel())[1:]
    assert areas[0] == 49
    assert abs(areas[1] - np.pi * 25) < 12
    assert abs(areas[2] - 10) <= 2
    write_coco = own.writer("write_coco")(str(tmp_path / "a.json"), tuples(image, shapes))
    (layer,) = [Layer.create(*one) for one in read_cell_layers(write_coco[0])]
    np.testing.assert_array_equal(layer.data[:27, :21], found.labels[:27, :21])


def test_boxes_are_opened_where_they_were_drawn(tmp_path):
    image, _ = draw()
    rectangle = np.array([[1.5, 2.5], [1.5, 9.5], [8.5, 9.5], [8.5, 2.5]])
    shapes = Shapes([rectangle], shape_type="rectangle", name="boxes")
    for name in ("coco", "labelme", "yolo-boxes", "imagej-roi"):
        one = FORMATS[name]
        (path,) = write_layers(
            str(tmp_path / f"saved-{name}{one.extensions[0] if one.extensions else ''}"),
            tuples(image, shapes),
            one,
        )
        found = [Layer.create(*data) for data in read_cell_layers(path)][-1]
        assert isinstance(found, Shapes)
        np.testing.assert_allclose(found.data[0], rectangle, atol=1e-3)
        again = annotation_of_layers(
            tuples(found), one
        )  # without the image its size is still known where the file told
        assert again.shape == ((9, 10) if name == "imagej-roi" else (30, 40))


def test_cells_are_saved_in_pixels_of_the_image_they_are_saved_with(tmp_path):
    place = {"scale": (0.5, 0.25), "translate": (3, 0)}
    image = Image(np.zeros((30, 40), np.uint8), **place)
    corner, end = image.world_to_data((8, 2)), image.world_to_data((12, 4))
    points = Points([[8.0, 2.0], [12.0, 4.0]])
    found = annotation_of_layers(tuples(image, points), FORMATS["points-csv"])
    np.testing.assert_allclose(found.points, [corner, end])
    shapes = Shapes([[[8, 2], [8, 4], [12, 4], [12, 2]]], shape_type="rectangle")
    found = annotation_of_layers(tuples(image, shapes), FORMATS["coco"])
    np.testing.assert_allclose(found.boxes, [np.add([corner, end], 0.5)])
    found = annotation_of_layers(tuples(image, Points(points.data, **place)), FORMATS["points-csv"])
    np.testing.assert_allclose(found.points, points.data)
    own.writer("write_points_csv")(str(tmp_path / "a.csv"), tuples(points))  # tells no scale
    opened = [Layer.create(*one) for one in read_cell_layers(str(tmp_path / "a.csv"))]
    found = annotation_of_layers(tuples(image, *opened), FORMATS["points-csv"])
    np.testing.assert_allclose(found.points, points.data)


@pytest.mark.parametrize(
    "cells", [Labels(np.ones((10, 10), int)), Points([[1, 5, 5]]), Labels(np.ones((30, 40), int), rotate=90)]
)
def test_cells_of_another_image_are_not_saved_with_this_one(cells):
    image = Image(np.zeros((30, 40), np.uint8))
    with pytest.raises((WriteError, WrongLayerError)):
        annotation_of_layers(tuples(image, cells), FORMATS["cellpose"])


def test_what_of_shapes_is_not_written_is_told(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(own, "show_warning", told.append)
    square = np.array([[2.0, 2], [2, 9], [9, 9], [9, 2]])
    shapes = Shapes([square, square.copy()], shape_type="polygon", name="cells")
    write_layers(str(tmp_path / "cells.ome.tif"), tuples(shapes), FORMATS["ome-tiff"])
    assert told == ["1 shapes cover no pixel of their own and were left out."]


def test_lines_are_no_cells():
    shapes = Shapes([np.array([[1, 1], [5, 5]])], shape_type="line")
    with pytest.raises(WriteError, match="line"):
        annotation_of_layers(tuples(shapes), FORMATS["coco"])


def test_shapes_across_planes_are_refused():
    shapes = Shapes([np.array([[0, 1, 1], [1, 5, 5], [2, 5, 1]])], shape_type="polygon")
    with pytest.raises(WriteError, match="one plane"):
        annotation_of_layers(tuples(shapes), FORMATS["geojson"])


def test_units_that_are_no_lengths_are_no_pixel_size():
    labels = Labels(np.ones((4, 5), int), scale=(3, 3))
    assert annotation_of_layers(tuples(labels), FORMATS["coco"]).pixel_size_um == ()
    labels = Labels(np.ones((4, 5), int), scale=(300, 200), units=("nm", "nm"))
    assert annotation_of_layers(tuples(labels), FORMATS["coco"]).pixel_size_um == pytest.approx((0.3, 0.2))


def test_colour_images_go_with_their_cells(tmp_path):
    image = Image(np.zeros((30, 40, 3), np.uint8), rgb=True, name="stained")
    _, labels = draw()
    own.writer("write_labelme")(str(tmp_path / "a.json"), tuples(image, labels))
    picture, cells = [Layer.create(*one) for one in read_cell_layers(str(tmp_path / "a.json"))]
    assert (picture.rgb, picture.name, cells.name) == (True, "stained", "stained labels")


def test_several_files_at_once_are_left_to_others():
    assert get_cells_reader(["a.json", "b.json"]) is None


@pytest.mark.parametrize("content", ["", "{", "{}"])
def test_damaged_files_are_told(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ReadError, match=r"a\.json"):
        get_cells_reader(str(tmp_path / "a.json"))(str(tmp_path / "a.json"))


def test_napari_opens_and_saves_through_the_plugin(tmp_path):
    """As File > Open and File > Save Selected Layers do."""
    viewer = ViewerModel()
    image, labels = draw()
    viewer.layers.extend([image, labels])
    manager = npe2.PluginManager.instance()
    manager.discover()
    writer = next(
        one
        for one in manager.iter_compatible_writers(["image", "labels"])
        if one.command.endswith(".write_geojson")
    )
    viewer.layers.save(str(tmp_path / "a.geojson"), _writer=writer)
    (opened,) = viewer.open(str(tmp_path / "a.geojson"), plugin="napari-cellwright")
    np.testing.assert_array_equal(opened.data > 0, labels.data > 0)
    np.testing.assert_allclose(opened.scale, labels.scale)


def test_other_files_of_napari_are_not_taken(tmp_path):
    """Saving labels as TIFF or points as CSV without choosing a format stays as it was."""
    manager = npe2.PluginManager.instance()
    manager.discover()
    for path, kind in (
        ("a.tif", "labels"),
        ("a", "labels"),
        ("a.csv", "points"),
        ("a.csv", "shapes"),
        ("a", "image"),
    ):
        writer, _ = manager.get_writer(str(tmp_path / path), [kind])
        assert writer is None or not writer.command.startswith("napari-cellwright")
    for path in ("a.tif", "a.png", "a.npy", "b.txt"):
        readers = manager.iter_compatible_readers([str(tmp_path / path)])
        own = {one.command for one in readers if one.command.startswith("napari-cellwright")}
        assert own <= {
            "napari-cellwright.read_image"
        }  # offered beside napari's reader, never for annotations
        assert not own or path != "b.txt"
