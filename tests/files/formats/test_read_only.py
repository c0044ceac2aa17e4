"""Formats of other programs that are read and not written."""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image as Picture

from cellwright.core.data import Image
from cellwright.core.errors import ReadError
from cellwright.files.dataset.folder import read_dataset
from cellwright.files.formats.registry import FORMATS, READERS, recognise
from cellwright.files.images import read_image
from cellwright.files.regions import read_label_image


def areas_of(found):
    return np.bincount(found.labels.ravel())[1:].tolist()


VOC = """<annotation><folder>x</folder><filename>plate 3.png</filename>
<size><width>50</width><height>40</height><depth>3</depth></size>
<object><name>live</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>10</xmax><ymax>8</ymax></bndbox></object>
<object><name>dead</name><bndbox><xmin>21</xmin><ymin>11</ymin><xmax>30</xmax><ymax>30</ymax></bndbox></object>
{}</annotation>"""


def test_boxes_of_pascal_voc(tmp_path):
    (tmp_path / "a.xml").write_text(VOC.format("<object><name>bad</name></object>"))
    assert recognise(tmp_path / "a.xml").name == "pascal-voc"
    (found,) = recognise(tmp_path / "a.xml").read(tmp_path / "a.xml")
    assert (found.name, found.shape, found.class_names) == ("plate 3", (40, 50), ("dead", "live"))
    assert found.boxes.tolist() == [[[0, 0], [8, 10]], [[10, 20], [30, 30]]]
    assert "object[2].bndbox" in found.notices[0]


@pytest.mark.parametrize("text", [VOC, VOC.replace("<object>", "<object/><object>", 1)])
def test_an_empty_element_hides_no_cells(tmp_path, text):
    (tmp_path / "a.xml").write_text(text.format("<object/>"))
    (found,) = recognise(tmp_path / "a.xml").read(tmp_path / "a.xml")
    assert len(found) == 2


def test_outlines_of_pascal_voc(tmp_path):
    ring = "".join(
        f"<x{i}>{x}</x{i}><y{i}>{y}</y{i}>" for i, (x, y) in enumerate([(2, 2), (8, 2), (8, 6), (2, 6)], 1)
    )
    own = f"<object><name>a</name><polygon>{ring}</polygon></object>"
    (tmp_path / "a.xml").write_text(VOC.format(own))
    (found,) = READERS["pascal-voc"].read(tmp_path / "a.xml")
    assert areas_of(found)[2] == 24


def test_all_shapes_of_cvat(tmp_path):
    (tmp_path / "a.xml").write_text(
        '<annotations><version>1.1</version><image id="0" name="f/one.png" width="50" height="40">'
        '<polygon label="live" points="2,2;12,2;12,12;2,12" occluded="0"/>'
        '<box label="dead" xtl="20" ytl="20" xbr="30" ybr="25"/>'
        '<ellipse label="dead" cx="40" cy="10" rx="8" ry="4"/>'
        '<polyline label="x" points="1,1;2,2"/>'
        '<mask label="live" rle="0, 3, 1, 2" left="5" top="30" width="3" height="2"/></image>'
        '<image id="1" name="two.png" width="50" height="40">'
        '<points label="live" points="3.5,4.5;10.5,9.5"/></image></annotations>'
    )
    first, second = recognise(tmp_path / "a.xml").read(tmp_path / "a.xml")
    areas = areas_of(first)
    assert (areas[0], areas[1]) == (50, 100)
    assert abs(areas[2] - np.pi * 32) < 10
    assert areas[3] == 5
    assert first.labels[31, 5] == 0
    assert "1 are lines" in first.notices[0]
    assert second.points.tolist() == [[4, 3], [9, 10]]
    image = Image(np.zeros((40, 50), np.uint8), "YX", (), "two")
    assert READERS["cvat"].read(tmp_path / "a.xml", image)[0].name == "two"


TRACKMATE = """<TrackMate version="7.1"><Model spatialunits="micron" timeunits="sec"><AllSpots nspots="3">
<SpotsInFrame frame="0"><Spot ID="1" FRAME="0" POSITION_X="5.0" POSITION_Y="2.5" POSITION_Z="0.0" {0}</Spot>
<Spot ID="2" FRAME="0" POSITION_X="1.0" POSITION_Y="1.0" POSITION_Z="0.0" VISIBILITY="0"/></SpotsInFrame>
<SpotsInFrame frame="1"><Spot ID="3" FRAME="1" POSITION_X="6" POSITION_Y="3" POSITION_Z="0" {0}</Spot>
</SpotsInFrame></AllSpots></Model><Settings><ImageData filename="m.tif" width="40" height="30" nslices="1"
nframes="2" pixelwidth="0.5" pixelheight="0.5" voxeldepth="1.0"/></Settings></TrackMate>"""


def test_spots_of_trackmate(tmp_path):
    (tmp_path / "a.xml").write_text(TRACKMATE.format(">"))
    assert recognise(tmp_path / "a.xml").name == "trackmate"
    (found,) = READERS["trackmate"].read(tmp_path / "a.xml")
    assert (found.name, found.axes, found.shape, found.pixel_size_um) == ("m", "TYX", (2, 30, 40), (0.5, 0.5))
    assert found.points.tolist() == [[0, 5, 10], [1, 6, 12]]
    assert "1 were filtered out" in found.notices[0]


def test_tracks_of_trackmate_are_told_to_be_left_out(tmp_path):
    edge = '<Edge SPOT_SOURCE_ID="0" SPOT_TARGET_ID="1"/>'
    tracks = f'<AllTracks><Track TRACK_ID="0">{edge}</Track></AllTracks>'
    spots = TRACKMATE.format(">")
    (tmp_path / "a.xml").write_text(spots.replace("</Model>", f"{tracks}</Model>"))
    (found,) = READERS["trackmate"].read(tmp_path / "a.xml")
    assert found.notices[-1] == "The tracks of a.xml are left out: each spot is a cell of its own."
    (tmp_path / "a.xml").write_text(spots.replace("</Model>", "<AllTracks></AllTracks></Model>"))
    assert not any("tracks" in notice for notice in READERS["trackmate"].read(tmp_path / "a.xml")[0].notices)


def test_outlines_of_trackmate(tmp_path):
    (tmp_path / "a.xml").write_text(TRACKMATE.format('ROI_N_POINTS="4">-1 -1 1 -1 1 1 -1 1'))
    (found,) = READERS["trackmate"].read(tmp_path / "a.xml")
    assert areas_of(found) == [16, 16]
    assert (found.labels[0].max(), found.labels[1].min(), found.labels[1].max()) == (1, 0, 2)


@pytest.mark.parametrize("is_project", [False, True])
def test_shapes_of_via(tmp_path, is_project):
    regions = [
        {"name": "polygon", "all_points_x": [2, 12, 12, 2], "all_points_y": [2, 2, 12, 12]},
        {"name": "rect", "x": 20, "y": 20, "width": 10, "height": 5},
        {"name": "circle", "cx": 30, "cy": 10, "r": 5},
        {"name": "polyline", "all_points_x": [1, 2], "all_points_y": [1, 2]},
        {"name": "ellipse", "cx": 15, "cy": 32, "rx": 8, "ry": 4, "theta": 0.5},
    ]
    rows = [{"shape_attributes": one, "region_attributes": {"kind": "live"}} for one in regions]
    content = {"a.png99": {"filename": "a.png", "size": 99, "regions": rows, "file_attributes": {}}}
    content = {"_via_img_metadata": content, "_via_settings": {}} if is_project else content
    (tmp_path / "v.json").write_text(json.dumps(content))
    assert recognise(tmp_path / "v.json").name == "via"
    image = Image(np.zeros((40, 50), np.uint8), "YX", (), "a")
    for given in (None, image):
        (found,) = READERS["via"].read(tmp_path / "v.json", given)
        areas = areas_of(found)
        assert areas[:2] == [100, 50]
        assert abs(areas[2] - np.pi * 25) < 6
        assert abs(areas[3] - np.pi * 32) < 8
        assert found.class_names == ("live",)
        assert "1 are of the type polyline" in found.notices[0]
    assert found.shape == (40, 50)


def test_label_images_of_any_kind(tmp_path, draw_marks):
    marks = draw_marks()
    labels = marks.labels.astype(np.uint16)
    Picture.fromarray(labels).save(tmp_path / "drawn_cp_masks.png")
    np.save(tmp_path / "drawn.npy", labels[..., np.newaxis])
    for name in ("drawn_cp_masks.png", "drawn.npy"):
        (found,) = recognise(tmp_path / name).read(tmp_path / name, marks.image)
        np.testing.assert_array_equal(found.labels, marks.labels)
        (alone,) = recognise(tmp_path / name).read(tmp_path / name)
        assert alone.name == "drawn"
    grey = np.repeat(labels[..., np.newaxis], 3, axis=-1).astype(np.uint8)
    Picture.fromarray(grey).save(tmp_path / "rgb.png")  # as many programs save grey
    (found,) = recognise(tmp_path / "rgb.png").read(tmp_path / "rgb.png", marks.image)
    np.testing.assert_array_equal(found.labels, marks.labels)
    grey[3, 4, 1] += 1
    Picture.fromarray(grey).save(tmp_path / "rgb.png")
    with pytest.raises(ReadError, match="without colours"):
        recognise(tmp_path / "rgb.png").read(tmp_path / "rgb.png")


def write_numbered(path, numbers, colours, *, of_imagej=False):
    """Labels that a palette of (256, 3) colours shows."""
    if path.suffix == ".tif":
        told = {"description": "ImageJ=1.54f\nimages=1\n"} if of_imagej else {}
        tifffile.imwrite(path, numbers, photometric="palette", colormap=colours.T.astype(np.uint16) * 257,
                         metadata=None, **told)  # fmt: skip
        return
    picture = Picture.fromarray(numbers, "P")
    picture.putpalette(colours.astype(np.uint8).ravel().tolist())
    picture.save(path)


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.tif", "imagej.tif", "white_imagej.tif"])
def test_labels_that_a_palette_shows_are_its_places(tmp_path, draw_marks, rng, name):
    marks = draw_marks()
    colours = rng.integers(1, 256, (256, 3))
    colours[0] = 255 * name.startswith("white")
    write_numbered(tmp_path / name, marks.labels.astype(np.uint8), colours, of_imagej="imagej" in name)
    (found,) = recognise(tmp_path / name).read(tmp_path / name, marks.image)
    np.testing.assert_array_equal(found.labels, marks.labels)
    np.testing.assert_array_equal(read_label_image(tmp_path / name, marks.image), marks.labels)
    assert read_image(tmp_path / name).axes == "YXC"


def test_masks_of_a_training_folder_may_be_shown_by_a_palette(tmp_path, draw_marks, rng):
    marks = draw_marks()
    colours = rng.integers(1, 256, (256, 3))
    colours[0] = 0
    for name in "abcde":
        Picture.fromarray(marks.image.data).save(tmp_path / f"{name}.png")
        write_numbered(tmp_path / f"{name}_mask.png", marks.labels.astype(np.uint8), colours)
    for item in read_dataset(tmp_path).items:
        np.testing.assert_array_equal(item.read()[1], marks.labels)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_palettes_of_greys_are_intensities_of_masks_and_others_no_labels(tmp_path, ending):
    mask = np.zeros((40, 50), np.uint8)
    mask[5:20, 5:20] = 1
    colours = np.zeros((256, 3), int)
    colours[:2] = [[255] * 3, [0] * 3]  # white comes first: it is the cells that are black
    write_numbered(tmp_path / f"grey.{ending}", mask, colours)
    np.testing.assert_array_equal(
        read_image(tmp_path / f"grey.{ending}", are_labels=True).data, 255 * (1 - mask)
    )
    colours[1] = [255, 0, 0]
    write_numbered(tmp_path / f"white.{ending}", mask, colours)
    with pytest.raises(ReadError, match="without colours"):
        recognise(tmp_path / f"white.{ending}").read(tmp_path / f"white.{ending}")


@pytest.mark.parametrize("name", ["pascal-voc", "cvat", "trackmate"])
@pytest.mark.parametrize(
    "content",
    [
        "", "<a>", "no xml", "<a/>",
        '<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]><annotation>&c;</annotation>',
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>',
    ],
)  # fmt: skip
def test_other_xml_is_refused(tmp_path, name, content):
    (tmp_path / "a.xml").write_text(content)
    with pytest.raises(ReadError, match=r"a\.xml"):
        READERS[name].read(tmp_path / "a.xml")
    with pytest.raises(ReadError, match=r"a\.xml"):
        recognise(tmp_path / "a.xml")


def test_what_can_be_written_can_be_read():
    assert FORMATS.keys() <= READERS.keys()
    assert all(one.writer for one in FORMATS.values())
