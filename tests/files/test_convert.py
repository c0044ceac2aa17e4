from dataclasses import replace

import numpy as np
import pytest
import tifffile

from cellwright import convert
from cellwright.core.data import Image
from cellwright.core.errors import SettingsError
from cellwright.files import atomic
from cellwright.files.formats.image_annotation import ImageAnnotation
from cellwright.files.formats.registry import FORMATS, recognise
from cellwright.files.images import read_image, write_labels


def draw(name="a", *, shift=0):
    labels = np.zeros((40, 50), np.int32)
    labels[2:12, 3 + shift : 15 + shift], labels[20:30, 20:30] = 1, 2
    labels[24:26, 24:26] = 0
    classes = np.array([0, 1], np.int16)
    return ImageAnnotation(name, labels.shape, labels=labels, classes=classes, class_names=("live", "dead"))


@pytest.mark.parametrize("first", ["coco", "labelme", "geojson", "imagej-roi", "cellpose", "ome-tiff"])
@pytest.mark.parametrize("to", ["coco", "labelme-masks", "yolo-segments", "imagej-roi", "geojson", "labels"])
def test_cells_classes_and_holes_survive(tmp_path, first, to):
    drawn = draw()
    source = tmp_path / f"a{FORMATS[first].extensions[0]}"
    FORMATS[first].write(source, [drawn])
    image = Image(np.zeros((40, 50), np.uint8), "YX", (0.5, 0.5), "a")
    ending = (*FORMATS.get(to, FORMATS["ome-tiff"]).extensions, "")[0]
    output = tmp_path / f"out{ending}"
    (path,) = convert([source], to, output, image)
    assert path == output
    (found,) = recognise(path).read(path, image)
    np.testing.assert_array_equal(found.labels, drawn.labels)
    has_classes = "classes" in FORMATS[first].kinds and to != "labels"
    assert [found.class_of(row) for row in (0, 1)] == (["live", "dead"] if has_classes else ["cell", "cell"])


def test_several_images_go_into_one_file_or_a_folder(tmp_path):
    FORMATS["coco"].write(tmp_path / "a.json", [draw("one"), draw("two", shift=5)])
    convert([tmp_path / "a.json"], "labels", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one.ome.tif", "two.ome.tif"]
    sources = sorted((tmp_path / "out").iterdir())
    (path,) = convert(sources, "coco", tmp_path / "back.json")
    found = recognise(path).read(path)
    assert [one.name for one in found] == ["one", "two"]
    np.testing.assert_array_equal(found[1].labels, draw("two", shift=5).labels)


def test_what_cannot_be_converted_is_told(tmp_path):
    FORMATS["coco"].write(tmp_path / "a.json", [draw("one"), draw("one")])
    with pytest.raises(SettingsError, match="one occurs more than once"):
        convert([tmp_path / "a.json"], "labels", tmp_path / "out")
    with pytest.raises(SettingsError, match="Formats that can be written are labels"):
        convert([tmp_path / "a.json"], "mat", tmp_path / "out")
    FORMATS["coco"].write(tmp_path / "one.json", [draw("one")])
    for source, to, name in (
        ("one", "geojson", "x.json"),
        ("one", "labels", "x.png"),
        ("a", "labelme", "x.json"),
    ):
        with pytest.raises(SettingsError, match=f"got {name} for"):
            convert([tmp_path / f"{source}.json"], to, tmp_path / name)
        assert not (tmp_path / name).exists()


def test_no_file_in_a_folder_is_written_over(tmp_path):
    for name in "ab":
        FORMATS["ome-tiff"].write(tmp_path / f"{name}.tif", [draw(name)])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.json").write_text("drawn by hand")
    sources = [tmp_path / "a.tif", tmp_path / "b.tif"]
    with pytest.raises(SettingsError, match="is there already"):
        convert(sources, "labelme", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.json"]
    assert (tmp_path / "out" / "b.json").read_text() == "drawn by hand"


def test_what_is_read_is_not_written_over(tmp_path):
    source, image = tmp_path / "a.json", tmp_path / "a.tif"
    FORMATS["coco"].write(source, [draw()])
    tifffile.imwrite(image, np.full((40, 50), 7, np.uint8))
    for to, path in (("labels", image), ("coco", source)):
        before = path.read_bytes()
        with pytest.raises(SettingsError, match=f"{path.name} is an input and would be overwritten"):
            convert([source], to, path, image)
        assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["a.geojson", "a_seg.npy", "a.json"])
def test_labels_keep_their_numbers(tmp_path, name):
    labels = np.zeros((20, 30), np.int32)
    labels[2:6, 3:9], labels[10:15, 12:20] = 7, 3
    write_labels(tmp_path / "a.tif", labels, Image(labels, "YX"))
    formats = {"a.geojson": "geojson", "a_seg.npy": "cellpose", "a.json": "coco"}
    (outlines,) = convert([tmp_path / "a.tif"], formats[name], tmp_path / name)
    (back,) = convert([outlines], "labels", tmp_path / "back.tif")
    np.testing.assert_array_equal(read_image(back).read(), labels)


def test_images_that_differ_in_capitals_alone_replace_none_of_each_other(tmp_path, monkeypatch):
    FORMATS["coco"].write(tmp_path / "a.json", [draw("One"), draw("one")])
    assert len(convert([tmp_path / "a.json"], "labels", tmp_path / "out")) == 2
    monkeypatch.setattr(atomic, "_tells_capitals", lambda _: False)  # as on Windows and macOS
    with pytest.raises(SettingsError, match="one occurs more than once"):
        convert([tmp_path / "a.json"], "labels", tmp_path / "other")


@pytest.mark.parametrize("to", ["yolo-boxes", "yolo-segments"])
def test_a_name_that_windows_refuses_becomes_one_that_it_takes(tmp_path, to):
    """There ``a:b.txt`` would be a stream of a file called a, which no folder lists."""
    image = Image(np.zeros((40, 50), np.uint8), "YX", (), "a:b?")
    FORMATS[to].write(tmp_path / "out", [replace(draw("a:b?"), image=image)])
    names = sorted(path.name for path in (tmp_path / "out").rglob("*.*"))
    assert names == ["a_b_.png", "a_b_.txt", "data.yaml"]


def test_files_that_macos_puts_beside_others_are_no_annotations(tmp_path):
    image = Image(np.zeros((40, 50), np.uint8), "YX", (), "a")
    FORMATS["yolo-boxes"].write(tmp_path / "out", [replace(draw("a"), image=image)])
    (tmp_path / "out" / "labels" / "train" / "._a.txt").write_bytes(b"\0\5\26\7")
    assert [one.name for one in recognise(tmp_path / "out").read(tmp_path / "out")] == ["a"]
