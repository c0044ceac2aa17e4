"""Annotations as programs write them beside what their format says."""

import base64
import csv
import io
import json
from typing import Any, NamedTuple

import numpy as np
import pytest
import roifile
import tifffile
from PIL import Image as Picture
from scipy import ndimage

from cellwright.core.data import Image
from cellwright.core.errors import ReadError
from cellwright.files.formats.registry import recognise

SQUARE = [[2, 3], [12, 3], [12, 13], [2, 13]]
OTHER = [[20, 20], [30, 20], [30, 30], [20, 30]]
BOX = [[3.0, 2.0], [13.0, 12.0]]


def coco(segmentation: Any, image_id: Any = 1, named: Any = 1, **fields: Any) -> dict[str, Any]:
    cell = {"image_id": named, "category_id": 1, "segmentation": segmentation, "bbox": [2, 3, 10, 10]}
    images = [{"id": image_id, "file_name": "a.png", "width": 50, "height": 40}]
    return {"images": images, "annotations": [{**cell, **fields}], "categories": [{"id": 1, "name": "x"}]}


def labelme(*shapes: dict[str, Any], **fields: Any) -> dict[str, Any]:
    told = {"imagePath": "a.png", "imageData": None, "imageHeight": 40, "imageWidth": 50}
    own = {"label": "x", "points": SQUARE, "group_id": None}
    return {"shapes": [{**own, **shape} for shape in shapes], **told, **fields}


def via(attributes: dict[str, Any]) -> dict[str, Any]:
    xs, ys = zip(*SQUARE, strict=True)
    shape = {"name": "polygon", "all_points_x": xs, "all_points_y": ys}
    region = {"shape_attributes": shape, "region_attributes": attributes}
    return {"a.png9": {"filename": "a.png", "size": 9, "regions": [region], "file_attributes": {}}}


def via_3(*places: list[float]) -> dict[str, Any]:
    rows = {f"1_{n}": {"vid": "1", "z": [], "xy": xy, "av": {"1": "0"}} for n, xy in enumerate(places)}
    return {
        "project": {}, "config": {}, "view": {"1": {"fid_list": ["1"]}}, "file": {"1": {"fname": "a.png"}},
        "attribute": {"1": {"aname": "kind", "options": {"0": "x"}}},
        "metadata": {**rows, "1_time": {"vid": "1", "z": [1, 2], "xy": [], "av": {}}},
    }  # fmt: skip


def cvat(inside: str) -> str:
    return f'<annotations><image name="a.png" width="50" height="40">{inside}</image></annotations>'


def polygon(corners: list[list[int]], height: tuple[float, ...] = ()) -> dict[str, Any]:
    ring = [[*corner, *height] for corner in (*corners, corners[0])]
    return {"type": "Polygon", "coordinates": [ring]}


def feature(corners: list[list[int]], **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": polygon(corners), "properties": properties}


def features(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(rows)}


FLAT = [float(n) for corner in SQUARE for n in corner]
RUNS = {"size": [40, 50], "counts": [83, *[10, 30] * 9, 10, 1547]}
IN_TIME = cvat("").replace("<image", '<track id="0" label="x"/><image')


class Case(NamedTuple):
    name: str
    content: Any
    areas: list[int] | None  # of the cells, None for one box
    class_names: tuple[str, ...] = ()
    notice: str = ""


CASES = [
    Case("parts.json", coco([FLAT, [20, 20, 30, 20, 30, 30, 20, 30]]), [200], ("x",)),
    Case("flat outline and text for a number, of VIA.json", coco(FLAT, 0, "0"), [100], ("x",)),
    Case("images named by text.json", coco([FLAT], "p", "p"), [100], ("x",)),
    Case("run lengths as crowds, of CVAT.json", coco(RUNS, iscrowd=1), [100], ("x",), "(iscrowd)"),
    Case("empty outline.json", coco([[]]), None, ("x",)),
    Case("rectangle of four corners.json", labelme({"shape_type": "rectangle"}), None, ("x",)),
    Case(
        "turned rectangle.json",
        labelme({"shape_type": "rectangle", "points": [[10, 4], [16, 10], [10, 16], [4, 10]]}),
        [72],
        ("x",),
    ),
    Case("no size.json", labelme({}, imageHeight=None, imageWidth=None), [100], ("x",)),
    Case("number.json", labelme({"label": 3}, {"label": None, "points": OTHER}), [100] * 2, ("3",)),
    Case("other folder.json", labelme({}, imagePath="..\\images\\a.png"), [100], ("x",)),
    Case("ticked.json", via({"kind": {"y": False, "x": True}}), [100], ("x",)),
    Case("via 3.json", via_3([7, *FLAT], [2, 20, 20, 10, 5], [6, *FLAT]), [100, 50], ("x",), "the type line"),
    Case(
        "turned box.xml", cvat('<box label="x" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90.0"/>'), [200]
    ),
    Case(
        "skeletons.xml",
        cvat('<skeleton label="s"/><box label="x" xtl="2" ytl="3" xbr="12" ybr="13"/>'),
        None,
        ("x",),
        "1 are of the type skeleton",
    ),
    Case(
        "nuclei.geojson",
        features({**feature(SQUARE, objectType="cell"), "nucleusGeometry": polygon(OTHER)}),
        [100],
        (),
        "1 have a nucleus of their own",
    ),
    Case("heights.geojson", {"type": "Feature", "geometry": polygon(SQUARE, (0.0,))}, [100]),
    Case(
        "classes.geojson",
        features(feature(SQUARE, **{"class": "x"}), feature(OTHER, label="y")),
        [100] * 2,
        ("x", "y"),
    ),
    Case("no class.geojson", features(feature(SQUARE, classification={"name": None})), [100]),
    Case("number for a class.geojson", features(feature(SQUARE, classification=3)), [100], ("3",)),
    Case(
        "geometries of Baysor.json",
        {"type": "GeometryCollection", "geometries": [polygon(SQUARE), polygon(OTHER)]},
        [100] * 2,
    ),
    Case("list of QuPath 0.2.json", [feature(SQUARE)], [100]),
    Case("geometry.geojson", polygon(SQUARE), [100]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_programs_write_is_read(tmp_path, case):
    path = tmp_path / case.name
    path.write_text(case.content if isinstance(case.content, str) else json.dumps(case.content))
    image = Image(np.zeros((40, 50), np.uint8), "YX", (), "a")
    (found,) = recognise(path).read(path, image)
    if case.areas is None:
        assert found.boxes.tolist() == [BOX]
    else:
        assert np.bincount(found.labels.ravel())[1:].tolist() == case.areas
    assert found.class_names == (case.class_names or found.class_names)
    assert case.notice in " ".join(found.notices)
    assert bool(found.notices) == bool(case.notice)


def test_a_box_is_turned_as_it_is_looked_at(tmp_path):
    (tmp_path / "a.xml").write_text(
        cvat('<box label="x" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90"/>')
    )
    (found,) = recognise(tmp_path / "a.xml").read(tmp_path / "a.xml")
    ys, xs = np.nonzero(found.labels)
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (5, 24, 15, 24)


def test_tracks_of_a_video_are_refused(tmp_path):
    (tmp_path / "a.xml").write_text(IN_TIME)
    with pytest.raises(ReadError, match="Export it as 'CVAT for images'"):
        recognise(tmp_path / "a.xml").read(tmp_path / "a.xml")


@pytest.mark.parametrize("n_rois", [1, 2])
def test_the_overlay_that_imagej_keeps_is_read(tmp_path, n_rois):
    rois = [roifile.ImagejRoi.frompoints(np.array(corners)) for corners in (SQUARE, OTHER)[:n_rois]]
    line = roifile.ImagejRoi.frompoints(np.array(SQUARE[:2]))
    line.roitype = roifile.ROI_TYPE.POLYLINE
    overlay = {"Overlays": [roi.tobytes() for roi in (*rois, line)]}
    tifffile.imwrite(tmp_path / "a.tif", np.full((40, 50), 7, np.uint16), imagej=True, metadata=overlay)
    for image in (None, Image(np.zeros((40, 50), np.uint8), "YX", (), "a")):
        (found,) = recognise(tmp_path / "a.tif").read(tmp_path / "a.tif", image)
        assert np.bincount(found.labels.ravel())[1:].tolist() == [100] * n_rois
        assert found.notices == ("The outlines of the overlay in a.tif are read, not its pixels as labels.",)
    overlay = {"Overlays": [line.tobytes()]}
    tifffile.imwrite(tmp_path / "a.tif", np.full((40, 50), 7, np.uint16), imagej=True, metadata=overlay)
    (found,) = recognise(tmp_path / "a.tif").read(tmp_path / "a.tif")
    assert np.bincount(found.labels.ravel()).tolist() == [0, 2000]


VOC = (
    "<annotation><filename>{name}</filename>{size}<object><name>{label}</name><bndbox><xmin>3</xmin>"
    "<ymin>4</ymin><xmax>12</xmax><ymax>13</ymax></bndbox></object></annotation>"
)
CVAT_BOX = '<box label="{}" xtl="2" ytl="3" xbr="12" ybr="13"/>'
UNSIZED = {
    "none.xml": VOC.format(name="a.png", size="", label="x"),
    "zero.xml": VOC.format(name="a.png", size="<size><width>0</width><height>0</height></size>", label="x"),
    "cvat.xml": cvat(CVAT_BOX.format("x")).replace(' width="50" height="40"', ""),
    "coco.json": {**coco([FLAT]), "images": [{"id": 1, "file_name": "a.png"}]},
    "zero.json": {**coco([FLAT]), "images": [{"id": 1, "file_name": "a.png", "height": 0, "width": 0}]},
    "labelme.json": labelme({}, imageHeight=0, imageWidth=0),
    "via.json": via({"kind": "x"}),
    "a.geojson": polygon(SQUARE),
}


@pytest.mark.parametrize("name", UNSIZED)
def test_the_size_of_an_image_that_is_not_told_is_that_of_the_image_or_a_guess_that_is_told(tmp_path, name):
    path, content = tmp_path / name, UNSIZED[name]
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    image = Image(np.zeros((40, 50), np.uint8), "YX", (), "a")
    (found,) = recognise(path).read(path, image)
    assert (found.shape, len(found), found.notices) == ((40, 50), 1, ())
    (found,) = recognise(path).read(path)
    assert (found.shape, len(found)) == (tuple(np.ceil(found.with_boxes().boxes[0, 1]).astype(int)), 1)
    (told,) = found.notices
    assert f"{name} does not give the size of its image: {found.shape}" in told


@pytest.mark.parametrize("name", [name for name in UNSIZED if name != "a.geojson"])
def test_a_volume_is_not_the_image_of_a_plane(tmp_path, name):
    path, content = tmp_path / name, UNSIZED[name]
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    volume = Image(np.zeros((3, 40, 50), np.uint8), "ZYX", (), "a")
    with pytest.raises(ReadError, match="must have the axes YX; 'a' has ZYX"):
        recognise(path).read(path, volume)


def test_run_lengths_need_the_size_of_their_image(tmp_path):
    content = coco(RUNS)
    content["annotations"].append({**content["annotations"][0], "segmentation": [FLAT]})
    del content["images"][0]["height"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    (found,) = recognise(tmp_path / "a.json").read(tmp_path / "a.json")
    assert len(found) == 1
    assert "1 made no sense" in found.notices[0]
    image = Image(np.zeros((40, 50), np.uint8), "YX", (), "a")
    (found,) = recognise(tmp_path / "a.json").read(tmp_path / "a.json", image)
    assert np.bincount(found.labels.ravel())[1:].tolist() == [100]
    assert "1 cover no pixel" in found.notices[0]


@pytest.mark.parametrize("text", ["01", "1", "1e3", "nan", "1.50", "0x1"])
def test_names_that_are_numbers_stay_as_they_are_written(tmp_path, text):
    size = "<size><width>50</width><height>40</height></size>"
    contents = (VOC.format(name=text, size=size, label=text), cvat(CVAT_BOX.format(text)))
    for name, content in zip(("voc.xml", "cvat.xml"), contents, strict=True):
        (tmp_path / name).write_text(content)
        (found,) = recognise(tmp_path / name).read(tmp_path / name)
        assert (found.class_names, found.boxes.tolist()) == ((text,), [BOX])
    (found,) = recognise(tmp_path / "voc.xml").read(tmp_path / "voc.xml")
    assert found.name == text.partition(".")[0]


@pytest.mark.parametrize(
    ("encoding", "label"), [("utf-16", "é细"), ("iso-8859-1", "né"), ("GB2312", "细胞"), ("utf-8-sig", "é")]
)
def test_texts_are_read_as_they_say_they_are_written(tmp_path, encoding, label):
    declared = encoding.removesuffix("-sig")
    text = f'<?xml version="1.0" encoding="{declared}"?>{cvat(CVAT_BOX.format(label))}'
    (tmp_path / "a.xml").write_bytes(text.encode(encoding))
    (found,) = recognise(tmp_path / "a.xml").read(tmp_path / "a.xml")
    assert found.class_names == (label,)


def test_json_of_16_bits_is_read_and_codecs_that_are_none_of_texts_are_refused(tmp_path):
    text = json.dumps(labelme({"label": "é"}), ensure_ascii=False)
    (tmp_path / "a.json").write_bytes(text.encode("utf-16"))
    assert recognise(tmp_path / "a.json").read(tmp_path / "a.json")[0].class_names == ("é",)
    for codec in ("zlib", "punycode", "unicode_escape", "idna"):
        text = f'<?xml version="1.0" encoding="{codec}"?>{cvat(CVAT_BOX.format("é"))}'
        (tmp_path / "a.xml").write_bytes(text.encode("latin-1"))
        with pytest.raises(ReadError, match="readable text file"):
            recognise(tmp_path / "a.xml")


@pytest.mark.parametrize("picture", ["AAAA", "####", None])
def test_a_picture_in_labelme_that_is_damaged_costs_no_cell(tmp_path, rng, picture):
    file = io.BytesIO()
    Picture.fromarray(rng.integers(0, 256, (40, 50)).astype(np.uint8)).save(file, "PNG")
    if picture is None:
        picture = base64.b64encode(file.getvalue()[:900]).decode()
    (tmp_path / "a.json").write_text(json.dumps(labelme({}, imageData=picture)))
    (found,) = recognise(tmp_path / "a.json").read(tmp_path / "a.json")
    assert (found.shape, len(found), found.image) == ((40, 50), 1, None)
    assert "The picture in the file was left out: imageData" in found.notices[0]


def test_a_picture_in_labelme_tells_its_size_itself(tmp_path):
    file = io.BytesIO()
    Picture.fromarray(np.zeros((38, 50), np.uint8)).save(file, "PNG")
    own = {"imageData": base64.b64encode(file.getvalue()).decode()}
    (tmp_path / "a.json").write_text(json.dumps(labelme({}, **own)))
    (found,) = recognise(tmp_path / "a.json").read(tmp_path / "a.json")
    assert (found.shape, found.image.shape) == ((38, 50), (38, 50))
    assert found.notices == ("The picture in a.json has (38, 50) pixels, not (40, 50) as told there.",)


@pytest.mark.parametrize("mark", ["#", ""])
def test_tables_of_via_are_read(tmp_path, mark):
    xs, ys = zip(*SQUARE, strict=True)
    shapes = [
        {"name": "polygon", "all_points_x": xs, "all_points_y": ys},
        {"name": "rect", "x": 20, "y": 20, "width": 10, "height": 5},
        {"name": "polyline", "all_points_x": [1, 2], "all_points_y": [1, 2]},
    ]
    with (tmp_path / "via.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([f"{mark}filename", "file_size", "file_attributes", "region_count", "region_id",
                        "region_shape_attributes", "region_attributes"])  # fmt: skip
        for number, shape in enumerate(shapes):
            table.writerow(["a.png", 9, "{}", 3, number, json.dumps(shape), json.dumps({"kind": "x"})])
        table.writerow(["b.png", 9, "{}", 0, 0, "{}", "{}"])
        table.writerow(["a.png", 9, "{}", 3, 3, "{broken", "{}"])
    assert recognise(tmp_path / "via.csv").name == "via"
    image = Image(np.zeros((40, 50), np.uint8), "YX", (), "a")
    (found,) = recognise(tmp_path / "via.csv").read(tmp_path / "via.csv", image)
    assert np.bincount(found.labels.ravel())[1:].tolist() == [100, 50]
    assert found.class_names == ("x",)
    assert "1 are of the type polyline" in found.notices[0]
    assert "1 made no sense" in found.notices[0]
    both = recognise(tmp_path / "via.csv").read(tmp_path / "via.csv")
    assert [(one.name, len(one)) for one in both] == [("a", 2), ("b", 0)]


def test_outlines_of_cellpose_are_the_pixels_along_the_edge(tmp_path):
    labels = np.zeros((40, 50), np.int32)
    y, x = np.mgrid[:40, :50]
    for number, (row, column, radius) in enumerate([(10, 10, 7), (25, 30, 4), (30, 10, 0)], 1):
        labels[(y - row) ** 2 + (x - column) ** 2 <= radius**2] = number
    lines = []
    for number in range(1, 4):
        cell = labels == number
        edge = np.argwhere(cell & ~ndimage.binary_erosion(cell))
        from_middle = edge - edge.mean(axis=0)
        around = edge[np.argsort(np.arctan2(*from_middle.T))]
        lines.append(",".join(str(n) for n in around[:, ::-1].ravel()))
    path = tmp_path / "a_cp_outlines.txt"
    path.write_text("\n\n".join([*lines, "1,2,3", "a,b", "-9,-9,99999999,99999999"]))
    image = Image(np.zeros((40, 50), np.uint8), "YX", (), "a")
    (found,) = recognise(path).read(path, image)
    np.testing.assert_array_equal(found.labels, labels)
    assert "Of 6 objects" in found.notices[0]
    assert "3 made no sense" in found.notices[0]
    assert recognise(path).read(path)[0].name == "a"
