"""Every format: what is written is read back as it was, and what is damaged is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import yaml
from scipy import ndimage

from cellwright.core.data import Image
from cellwright.core.errors import ReadError, WriteError
from cellwright.files.formats.image_annotation import ImageAnnotation
from cellwright.files.formats.registry import FORMATS, recognise
from cellwright.ops.labels import label_properties

KINDS = ("labels", "boxes", "points")
HELD = [(name, kind) for name, one in FORMATS.items() for kind in KINDS if kind in one.kinds]
PLANES = [pair for pair in HELD if "tracking" not in pair[0]]
STACKS = [
    (name, kind, axes)
    for name, kind in HELD
    for axes in ("ZYX", "TYX", "TZYX")
    if FORMATS[name].axes == "TZYX"
    and not ("tracking" in name and axes[0] != "T")
    and not (name in ("imagej-roi",) and kind == "boxes")
]
CALIBRATED = {
    "ome-tiff",
    "coco",
    "coco-rle",
    "labelme",
    "labelme-masks",
    "yolo-boxes",
    "yolo-segments",
    "geojson",
    "cellpose",
}


def path_of(folder, name):
    return Path(folder) / f"drawn{(*FORMATS[name].extensions, '')[0]}"


def assert_same(found, marks, name):
    kind = marks.kind
    assert (found.shape, found.axes, found.kind) == (marks.shape, marks.axes, kind)
    if kind == "labels":
        np.testing.assert_array_equal(found.labels, marks.labels)
    else:
        expected = getattr(marks, kind).copy()
        if name in ("imagej-roi", "geojson"):
            expected[..., :-2] = np.rint(expected[..., :-2])  # each lies in a plane
        np.testing.assert_allclose(getattr(found, kind), expected, atol=1e-3)
    assert len(found) == len(marks) > 5
    if "classes" in FORMATS[name].kinds:
        names = [marks.class_of(row) for row in range(len(marks))]
        assert [found.class_of(row) for row in range(len(found))] == names
    assert not found.notices


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("name", "kind"), PLANES)
def test_a_plane_comes_back_as_it_was(tmp_path, draw_kind, name, kind, seed):
    marks = draw_kind(kind, seed=seed)
    path = path_of(tmp_path, name)
    FORMATS[name].write(path, [marks])
    (found,) = FORMATS[name].read(path, marks.image)
    assert_same(found, marks, name)
    assert found.name == "drawn"
    assert found.pixel_size_um == marks.pixel_size_um
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("has_others", [True, False])
@pytest.mark.parametrize(("name", "kind"), [pair for pair in PLANES if "classes" in FORMATS[pair[0]].kinds])
def test_a_class_that_is_called_as_cells_without_one_are_comes_back(
    tmp_path, draw_kind, name, kind, has_others
):
    marks = replace(draw_kind(kind), class_names=("debris", "cell"))
    classes = np.arange(len(marks), dtype=np.int16) % 3 - 1
    if not has_others:
        classes = np.maximum(classes, 0)
    marks = replace(marks, classes=classes)
    path = path_of(tmp_path, name)
    FORMATS[name].write(path, [marks])
    (found,) = FORMATS[name].read(path, marks.image)
    names = [("", *found.class_names)[number + 1] for number in found.classes]
    assert names == [("", "debris", "cell")[number + 1] for number in classes]


@pytest.mark.parametrize("name", ["coco", "labelme", "yolo-boxes", "geojson", "imagej-roi"])
def test_a_file_without_classes_has_none(tmp_path, draw_kind, name):
    marks = replace(draw_kind("labels"), classes=None, class_names=())
    path = path_of(tmp_path, name)
    FORMATS[name].write(path, [marks])
    (found,) = FORMATS[name].read(path, marks.image)
    assert (found.classes, found.class_names) == (None, ())
    if name == "coco":
        assert [one["name"] for one in json.loads(path.read_text())["categories"]] == ["cell"]


@pytest.mark.parametrize(("name", "kind"), [pair for pair in PLANES if pair[0] in CALIBRATED])
def test_size_and_calibration_are_kept_without_the_image(tmp_path, draw_kind, name, kind):
    marks = draw_kind(kind)
    path = path_of(tmp_path, name)
    FORMATS[name].write(path, [marks])
    (found,) = FORMATS[name].read(path)
    assert_same(found, marks, name)
    assert found.pixel_size_um == marks.pixel_size_um


@pytest.mark.parametrize(("name", "kind", "axes"), STACKS)
def test_a_stack_comes_back_as_it_was(tmp_path, draw_kind, name, kind, axes):
    marks = draw_kind(kind, axes)
    path = path_of(tmp_path, name)
    FORMATS[name].write(path, [marks])
    (found,) = FORMATS[name].read(path, marks.image)
    assert_same(found, marks, name)


@pytest.mark.parametrize("name", [name for name, one in FORMATS.items() if one.has_many])
def test_a_stack_is_written_plane_by_plane(tmp_path, draw_marks, name):
    marks = draw_marks("ZYX")
    path = path_of(tmp_path, name)
    FORMATS[name].write(path, [marks])
    found = FORMATS[name].read(path)
    assert [one.name for one in found] == ["drawn_z000", "drawn_z001", "drawn_z002"]
    for one, plane in zip(found, marks.planes(), strict=True):
        assert one.pixel_size_um == (0.5, 0.25)
        assert len(one) == len(np.unique(plane.labels)) - 1
        assert [one.class_of(i) for i in range(len(one))] == [plane.class_of(i) for i in range(len(plane))]


@pytest.mark.parametrize("name", [name for name, one in FORMATS.items() if one.has_many])
def test_of_several_images_the_one_asked_for_is_read(tmp_path, draw_kind, name):
    kind = "boxes" if name == "yolo-boxes" else "labels"
    first, second = draw_kind(kind), replace(draw_kind(kind, seed=5), name="other")
    path = path_of(tmp_path, name)
    FORMATS[name].write(path, [first, second])
    (found,) = FORMATS[name].read(path, replace(first.image, name="other"))
    assert_same(found, second, name)
    with pytest.raises(ReadError, match="third"):
        FORMATS[name].read(path, replace(first.image, name="third"))


@pytest.mark.parametrize("name", [name for name, one in FORMATS.items() if not one.has_many])
def test_what_holds_one_image_refuses_two(tmp_path, draw_marks, name):
    with pytest.raises(WriteError, match="one image"):
        FORMATS[name].write(path_of(tmp_path, name), [draw_marks("TYX"), draw_marks("TYX")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FORMATS)
def test_no_cells_come_back_as_none(tmp_path, name):
    axes = "TYX" if "tracking" in name else "YX"
    shape = (2, 9, 11)[-len(axes) :]
    labels = np.zeros(shape, np.int32)
    image = Image(labels.astype(np.uint8), axes, (), "drawn")
    path = path_of(tmp_path, name)
    FORMATS[name].write(path, [ImageAnnotation("drawn", shape, axes, labels, image=image)])
    (found,) = FORMATS[name].read(path, image)
    assert (len(found), found.shape) == (0, shape)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_recognised(tmp_path, draw_marks, name):
    marks = draw_marks("TYX" if "tracking" in name else "YX")
    path = path_of(tmp_path, name)
    FORMATS[name].write(path, [marks])
    assert recognise(path).module == FORMATS[name].module


def test_what_is_no_format_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("1 2 3")
    (tmp_path / "b.json").write_text("{}")
    for name in ("a.txt", "b.json", "absent", "."):
        with pytest.raises(ReadError) as caught:
            recognise(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind"), [(n, k) for n in FORMATS for k in KINDS if k not in FORMATS[n].kinds]
)
def test_what_a_format_cannot_hold_is_written_as_what_it_can_or_refused(tmp_path, draw_kind, name, kind):
    marks = draw_kind(kind, "TYX" if "tracking" in name else "YX")
    path = path_of(tmp_path, name)
    try:
        FORMATS[name].write(path, [marks])
    except WriteError:
        assert not list(tmp_path.iterdir())
    else:
        assert len(FORMATS[name].read(path, marks.image)[0]) == len(marks)


# -- damage -------------------------------------------------------------------------------------------------


def contents(folder):
    return {path: path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def main_file(folder, name):
    """The file that tells of the cells."""
    files = contents(folder)
    endings = {"yolo": ".txt", "tracking": "track.txt"}
    ending = next((end for start, end in endings.items() if name.startswith(start)), "")
    return next(path for path in files if path.name.endswith(ending))


def written(tmp_path, draw_kind, name):
    kind = next(kind for kind in KINDS if kind in FORMATS[name].kinds)
    marks = draw_kind(kind, "TYX" if "tracking" in name else "YX")
    path = path_of(tmp_path, name)
    FORMATS[name].write(path, [marks])
    return path, marks


@pytest.mark.parametrize("damage", ["empty", "half", "text", "gone", "zeros"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_refused_and_named(tmp_path, draw_kind, name, damage):
    path, marks = written(tmp_path, draw_kind, name)
    file = main_file(tmp_path, name)
    content = file.read_bytes()
    damaged = {
        "empty": b"",
        "half": content[: len(content) // 2],
        "text": b"no such file",
        "zeros": b"\0" * 300,
    }
    if damage == "half" and name in ("points-csv", "yolo-boxes", "yolo-segments"):
        damaged["half"] = content[: content.rindex(b"\n", 0, len(content) // 2) + 6]  # within a row
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(damaged[damage])
    if damage == "empty" and name.startswith("yolo"):
        assert len(FORMATS[name].read(path, marks.image)[0]) == 0  # so does YOLO write an image without cells
        return
    before = contents(tmp_path)
    if damage == "half" and name in ("points-csv", "yolo-boxes", "yolo-segments"):
        (found,) = FORMATS[name].read(path, marks.image)
        assert 0 < len(found) < len(marks)
        assert "1 made no sense and were left out" in found.notices[0]
    else:
        with pytest.raises(ReadError) as caught:
            FORMATS[name].read(path, marks.image)
        assert str(path) in str(caught.value) or str(file) in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", [name for name in FORMATS if not name.startswith("yolo")])  # any size fits
def test_cells_of_an_image_of_another_size_are_refused(tmp_path, draw_kind, name):
    path, marks = written(tmp_path, draw_kind, name)
    pixels = np.asarray(marks.image.data)
    more = pixels[0] if marks.image.axes == "TYX" else pixels[np.newaxis]
    axes = {3: "ZYX", 2: "YX"}[more.ndim]
    wrong = [Image(pixels[..., :20, :20], marks.axes, (), "drawn"), Image(more, axes, (), "drawn")]
    for image in wrong[: 1 if name == "imagej-roi" else 2]:  # a ROI of no plane fits the first
        with pytest.raises(ReadError, match=r"size|inside|axes|image of") as caught:
            FORMATS[name].read(path, image)
        assert str(path) in str(caught.value)


def changed_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


BOW = [[2, 2], [12, 12], [12, 2], [2, 12]]
FAR = [[2, 2], [1e9, 2], [1e9, 1e9]]
FLAT_BOW, FLAT_FAR = ([value for pair in corners for value in pair] for corners in (BOW, FAR))


def set_at(*keys):
    def change(content, value):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


SEGMENT = set_at("annotations", 1, "segmentation")
POINTS = set_at("shapes", 1, "points")
RINGS = set_at("features", 2, "geometry", "coordinates")
WRONG_JSON = [
    ("coco", set_at("images", 0, "file_name"), "..", r"images\[0\].file_name"),
    ("coco", set_at("images", 0, "file_name"), "/etc/", r"images\[0\].file_name"),
    ("coco", set_at("images", 0, "width"), 10**9, "width"),
    ("coco", set_at("images", 0, "width"), -4, "width"),
    ("coco", set_at("images", 0, "pixel_size_um"), [0, 1], "pixel_size_um"),
    ("labelme", set_at("imagePath"), "../", "imagePath"),
    ("labelme", set_at("imagePath"), "C:", "imagePath"),
    ("labelme", set_at("imageHeight"), 10**12, "imageHeight"),
    ("geojson", set_at("type"), "Topology", "type"),
    ("geojson", set_at("image", "shape"), [10**6, 10**6], "image.shape"),
    ("geojson", set_at("image", "axes"), "QQ", "image.axes"),
]
ODD_OBJECTS = [
    ("coco", SEGMENT, [FLAT_BOW], "1 cross themselves and were filled as drawn"),
    ("coco", SEGMENT, [FLAT_FAR], "1 were cut at the edge of the image"),
    ("coco", SEGMENT, [[1, 2, 3]], r"segmentation\[0\]"),
    ("coco", SEGMENT, [[1, 2, 3, 4]], "corners"),
    ("coco", SEGMENT, [[1, 2, "x", 4, 5, 6]], r"segmentation\[0\]"),
    ("coco", SEGMENT, "x", "segmentation"),
    ("coco", SEGMENT, {"size": [37, 46], "counts": "~~~~~~"}, "counts"),
    ("coco", SEGMENT, {"size": [37, 46], "counts": ""}, "counts"),
    ("coco", SEGMENT, {"size": [37, 46], "counts": "é"}, "counts"),
    ("coco", SEGMENT, {"size": [37, 46], "counts": [5, 3, 10**9]}, "counts"),
    ("coco", SEGMENT, {"size": [37, 46], "counts": [5, -3, 1700]}, "counts"),
    ("coco", SEGMENT, {"size": [99, 46], "counts": [99 * 46]}, "size"),
    ("coco", set_at("annotations", 1, "image_id"), 7, "1 belong to no image"),
    ("coco", set_at("annotations", 1, "category_id"), 77, "1 are of a class that the file does not name"),
    ("labelme", POINTS, BOW, "1 cross themselves and were filled as drawn"),
    ("labelme", POINTS, FAR, "1 were cut at the edge of the image"),
    ("labelme", POINTS, [[1, float("nan")]] * 3, "points"),
    ("labelme", POINTS, [[1e308, 5], [-1e308, 9], [7, 1e308]], "points"),
    ("labelme", POINTS, [[1, 2]], "points"),
    ("labelme", POINTS, [[1, 2, 3]] * 3, "points"),
    ("labelme", set_at("shapes", 1, "shape_type"), "linestrip", "1 are of the type linestrip"),
    ("labelme", set_at("shapes", 1, "shape_type"), "point", "1 are points among outlines"),
    ("labelme", set_at("shapes", 1, "label"), "", "1 have an empty label and are of no class"),
    ("labelme", set_at("shapes", 1, "label"), ["x"], r"shapes\[1\].label"),
    ("labelme", set_at("shapes", 1), 3, r"shapes\[1\]"),
    ("labelme-masks", set_at("shapes", 1, "mask"), "AAAA", r"shapes\[1\].mask"),
    ("labelme-masks", POINTS, [[2, 2], [4, 4]], r"shapes\[1\].mask"),
    ("labelme-masks", POINTS, [[30, 30], [1e8, 1e8]], r"shapes\[1\].mask"),
    ("labelme-masks", POINTS, [[30, 30], [1e18, 1e18]], r"shapes\[1\].points"),
    ("geojson", RINGS, [BOW], "1 cross themselves and were filled as drawn"),
    ("geojson", RINGS, [FAR], "1 were cut at the edge of the image"),
    ("geojson", RINGS, [], r"features\[2\].geometry.coordinates"),
    ("geojson", RINGS, 5, r"features\[2\].geometry.coordinates"),
    ("geojson", set_at("features", 2, "geometry", "type"), "LineString", "1 are of the type LineString"),
    ("geojson", set_at("features", 2, "geometry"), None, r"features\[2\].geometry"),
]


@pytest.mark.parametrize(("name", "change", "value", "field"), WRONG_JSON)
def test_a_wrong_field_is_named(tmp_path, draw_marks, name, change, value, field):
    path, marks = path_of(tmp_path, name), draw_marks()
    FORMATS[name].write(path, [marks])
    changed_json(path, lambda content: change(content, value))
    for image in (None, marks.image):
        with pytest.raises(ReadError, match=field) as caught:
            FORMATS[name].read(path, image)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(("name", "change", "value", "notice"), ODD_OBJECTS)
def test_one_odd_object_never_costs_the_file(tmp_path, draw_marks, name, change, value, notice):
    path, marks = path_of(tmp_path, name), draw_marks()
    FORMATS[name].write(path, [marks])
    changed_json(path, lambda content: change(content, value))
    for image in (None, marks.image):
        (found,) = FORMATS[name].read(path, image)
        assert len(marks) - 1 <= len(found) <= len(marks)
        (told,) = found.notices
        assert re.search(notice, told)
        assert path.name in told


def test_coco_without_categories_has_no_classes(tmp_path, draw_marks):
    path, marks = path_of(tmp_path, "coco"), draw_marks()
    FORMATS["coco"].write(path, [marks])
    changed_json(path, lambda content: content.pop("categories"))
    (found,) = FORMATS["coco"].read(path)
    assert (len(found), found.class_names, found.notices) == (len(marks), (), ())


@pytest.mark.parametrize("content", ["[]", "3", "null", "[[[", '"x"', "[" * 100_000])
@pytest.mark.parametrize("name", ["coco", "labelme", "geojson"])
def test_json_of_something_else_is_refused(tmp_path, name, content):
    path = path_of(tmp_path, name)
    path.write_text(content)
    if (name, content) == ("geojson", "[]"):
        assert len(FORMATS[name].read(path)[0]) == 0  # QuPath writes a plain list too
        return
    with pytest.raises(ReadError, match="drawn"):
        FORMATS[name].read(path)


def row(*corners):
    return "0 " + " ".join(str(value) for value in corners)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (row(0.1, 0.1, "nan", 0.1, 0.5, 0.5), "Line 1"),
        (row(0.5, 0.5, -0.1, 0.2), "Line 1"),
        (row(0.5, 0.5), "Line 1"),
        ("0 a b c d", "Line 1"),
        ("-1 0.5 0.5 0.1 0.1", "Line 1, class"),
        ("0.5 0.5 0.5 0.1 0.1", "Line 1, class"),
    ],
)
def test_a_wrong_row_of_yolo_is_named(tmp_path, draw_marks, text, field):
    path, marks = path_of(tmp_path, "yolo-segments"), draw_marks()
    FORMATS["yolo-segments"].write(path, [marks])
    file = path / "labels" / "train" / "drawn.txt"
    file.write_text(text)
    with pytest.raises(ReadError, match=field) as caught:
        FORMATS["yolo-segments"].read(path, marks.image)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"names": 3}, "names"),
        ({"names": {"a": "b"}}, "names"),
        ({"names": [1, 2]}, r"names\[0\]"),
        ({"pixel_size_um": {"drawn": [1]}}, "pixel_size_um.drawn"),
        ("{", "data.yaml"),
        ("!!python/object/apply:os.system ['true']", "data.yaml"),
        ("[1, 2]", "content"),
    ],
)
def test_a_wrong_config_of_yolo_is_named(tmp_path, draw_marks, config, field):
    path, marks = path_of(tmp_path, "yolo-segments"), draw_marks()
    FORMATS["yolo-segments"].write(path, [marks])
    file = path / "data.yaml"
    file.write_text(
        config if isinstance(config, str) else yaml.safe_dump({**yaml.safe_load(file.read_text()), **config})
    )
    with pytest.raises(ReadError, match=field) as caught:
        FORMATS["yolo-segments"].read(path, marks.image)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    "config", [{"path": "/datasets/cells", "train": "images"}, {"train": "../train/images", "val": ["../x"]}]
)
def test_paths_of_another_computer_in_a_config_of_yolo_are_not_followed(tmp_path, draw_marks, config):
    path, marks = path_of(tmp_path, "yolo-segments"), draw_marks()
    FORMATS["yolo-segments"].write(path, [marks])
    before = FORMATS["yolo-segments"].read(path, marks.image)[0]
    file = path / "data.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **config}))
    (found,) = FORMATS["yolo-segments"].read(path, marks.image)
    assert np.array_equal(found.labels, before.labels)
    assert found.class_names == before.class_names


def test_yolo_without_image_asks_for_it(tmp_path, draw_marks):
    path, marks = path_of(tmp_path, "yolo-boxes"), draw_marks()
    FORMATS["yolo-boxes"].write(path, [replace(marks, image=None)])
    with pytest.raises(ReadError, match=r"drawn\.txt.*relative to its size"):
        FORMATS["yolo-boxes"].read(path)
    (found,) = FORMATS["yolo-boxes"].read(path, marks.image)
    assert found.shape == marks.shape


@pytest.mark.parametrize(
    ("text", "notice"),
    [
        (row(0.1, 0.1, 0.5, 0.5, 0.5, 0.1, 0.1, 0.5), "1 cross themselves and were filled as drawn"),
        (row(0.1, 0.1, 1e9, 0.1, 1e9, 1e9), "1 were cut at the edge of the image"),
        (row(0.5, 0.5, 7.0, 0.2), "1 were cut at the edge of the image"),
        ("7 0.5 0.5 0.1 0.1", "1 are of a class that data.yaml does not name"),
        (row(0.5, 0.5, 0.2, 0.2) + "\n0 a b c d", "1 made no sense and were left out, first: Line 2"),
    ],
)
def test_an_odd_row_of_yolo_is_mended_or_left_out(tmp_path, draw_marks, text, notice):
    path, marks = path_of(tmp_path, "yolo-segments"), draw_marks()
    FORMATS["yolo-segments"].write(path, [marks])
    (path / "labels" / "train" / "drawn.txt").write_text(text)
    (found,) = FORMATS["yolo-segments"].read(path, marks.image)
    assert len(found) == 1
    assert notice in found.notices[0]


@pytest.mark.parametrize("text", ["y,x\n1,2\n3,nan\n", "y,x\n1,2\n3,1e9\n"])
def test_an_odd_row_of_points_is_left_out(tmp_path, draw_marks, text):
    (tmp_path / "drawn.csv").write_text(text)
    for image in (None, draw_marks().image):
        (found,) = FORMATS["points-csv"].read(tmp_path / "drawn.csv", image)
        assert found.points.tolist() == [[1, 2]]
        assert "first: Line 3" in found.notices[0]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "columns"),
        ("a,b\n1,2\n", "columns"),
        ("y,x\n1,a\n", "Line 2, x"),
        ("y,x\n1\n", "Line 2, x"),
        ("y,x\n-5,2\n", "Line 2"),
        ('y,x\n"1,2', "whole CSV"),
    ],
)
def test_a_wrong_row_of_points_is_named(tmp_path, draw_marks, text, field):
    path = tmp_path / "drawn.csv"
    path.write_text(text)
    for image in (None, draw_marks().image):
        with pytest.raises(ReadError, match=field) as caught:
            FORMATS["points-csv"].read(path, image)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", [name for name, one in FORMATS.items() if one.is_folder])
def test_a_folder_with_content_is_never_written_into(tmp_path, draw_kind, name):
    path, marks = written(tmp_path, draw_kind, name)
    before = contents(tmp_path)
    with pytest.raises(WriteError, match="new folder"):
        FORMATS[name].write(path, [marks])
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", [name for name, one in FORMATS.items() if not one.is_folder])
def test_a_failed_write_leaves_the_file_as_it_was(tmp_path, draw_kind, name, monkeypatch):
    path, marks = written(tmp_path, draw_kind, name)
    before = contents(tmp_path)

    def fail(*args, **options):
        raise OSError("disk full")

    monkeypatch.setattr("cellwright.files.atomic.os.replace", fail)
    with pytest.raises(WriteError, match="disk full"):
        FORMATS[name].write(path, [marks])
    assert contents(tmp_path) == before


ODD_NAMES = (
    "Zelle ä/ß",
    "a:b;c,d",
    'in "quotes"',
    "it's <b>&amp;</b>",
    "細胞",
    "😀 cell",
    "{x}",
    "# 7",
    "null",
    "1e5",
)


@pytest.mark.parametrize("name", [name for name in FORMATS if not name.startswith("tracking")])
def test_a_real_label_image_comes_back_with_300_classes_of_odd_names(tmp_path, name):
    page = skimage.data.text()  # whose letters have holes, and specks of one pixel around them
    labels = ndimage.label(page < page.mean())[0].astype(np.int32)
    areas = np.bincount(labels.ravel())[1:]
    assert (labels.max(), (areas == 1).sum() > 200, areas.max() > 10_000) == (573, True, True)
    names = (*ODD_NAMES, *(f"type {number}" for number in range(290)))
    marks = ImageAnnotation("drawn", labels.shape, labels=labels, class_names=names,
                            classes=(np.arange(573) % 300).astype(np.int16))  # fmt: skip
    if "labels" not in FORMATS[name].kinds:
        _, points, boxes = label_properties(labels)
        known = {"boxes": boxes} if "boxes" in FORMATS[name].kinds else {"points": points}
        marks = replace(marks, labels=None, **known)
    path = path_of(tmp_path, name)
    FORMATS[name].write(path, [marks])
    image = Image(page, "YX", (), "drawn")
    (found,) = recognise(path).read(path, image)
    assert_same(found, marks, name)
