"""What is written is read by the libraries that own the formats; what they write is read here."""

import base64
import io
import json
import os
import pickle
import uuid
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import roifile
import tifffile
from PIL import Image as Picture
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from cellwright.core.data import Image
from cellwright.core.errors import ReadError, WriteError
from cellwright.files.dataset.meta import checked_pixel_size
from cellwright.files.formats.image_annotation import ImageAnnotation
from cellwright.files.formats.registry import FORMATS
from cellwright.files.formats.tracking_challenge import replace_results
from cellwright.files.json_value import JsonValue
from cellwright.files.regions import read_regions

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools


def decoded(annotation, shape):
    """The mask of an annotation of COCO, as pycocotools has it."""
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, *shape))
    return coco_mask.decode([segmentation])[..., 0].astype(bool)


@pytest.mark.parametrize("name", ["coco", "coco-rle"])
def test_pycocotools_reads_the_cells(tmp_path, draw_marks, name, capsys):
    marks = draw_marks()
    FORMATS[name].write(tmp_path / "a.json", [marks])
    found = COCO(str(tmp_path / "a.json"))
    names = {row["id"]: row["name"] for row in found.loadCats(found.getCatIds())}
    annotations = found.loadAnns(found.getAnnIds(imgIds=[1]))
    assert len(annotations) == len(marks)
    for row, annotation in enumerate(annotations):
        mask = marks.labels == row + 1
        np.testing.assert_array_equal(decoded(annotation, marks.shape), mask)
        assert annotation["area"] == mask.sum()
        x, y, width, height = annotation["bbox"]
        assert mask[y : y + height, x : x + width].sum() == mask.sum()
        assert names[annotation["category_id"]] == marks.class_of(row)


def test_run_lengths_of_pycocotools_are_read(tmp_path, draw_marks):
    marks = draw_marks(seed=3)
    content = {
        "images": [{"id": 0, "file_name": "a/drawn.png", "height": 37, "width": 46}],
        "annotations": [],
    }
    content["categories"] = [{"id": 5, "name": "cell"}]
    for number in range(1, len(marks) + 1):
        encoded = coco_mask.encode(np.asfortranarray(marks.labels == number, np.uint8))
        own = {"id": number, "image_id": 0, "category_id": 5, "iscrowd": 0}
        segmentation = {"size": encoded["size"], "counts": encoded["counts"].decode()}
        content["annotations"].append({**own, "segmentation": segmentation})
    (tmp_path / "a.json").write_text(json.dumps(content))
    (found,) = FORMATS["coco"].read(tmp_path / "a.json")
    np.testing.assert_array_equal(found.labels, marks.labels)
    assert (found.name, found.classes, found.class_names) == ("drawn", None, ())


def test_slanted_polygons_are_what_pycocotools_makes_of_them(tmp_path):
    polygon = [3.2, 4.1, 20.7, 9.3, 11.1, 30.9]
    own = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [polygon]}
    content = {"images": [{"id": 1, "file_name": "a.png", "height": 37, "width": 46}], "annotations": [own]}
    content["categories"] = [{"id": 1, "name": "red"}]
    (tmp_path / "a.json").write_text(json.dumps(content))
    (found,) = FORMATS["coco"].read(tmp_path / "a.json")
    np.testing.assert_array_equal(found.labels > 0, decoded(own, (37, 46)))
    assert (found.classes.tolist(), found.class_names) == ([0], ("red",))


def test_roifile_reads_outlines_and_places(tmp_path, draw_marks):
    marks = draw_marks("TZYX")
    FORMATS["imagej-roi"].write(tmp_path / "a.zip", [marks])
    rois = roifile.roiread(tmp_path / "a.zip")
    assert len(rois) == sum(len(plane) for plane in marks.planes())
    for roi in rois[:20]:
        number = int(roi.name[5:10])
        rows, columns = np.nonzero(marks.labels[roi.t_position - 1, roi.z_position - 1] == number)
        corners = np.concatenate(roi.coordinates(multi=True))
        assert (corners[:, 0].min(), corners[:, 0].max()) == (columns.min(), columns.max() + 1)
        assert (corners[:, 1].min(), corners[:, 1].max()) == (rows.min(), rows.max() + 1)


def test_rois_that_imagej_draws_are_read(tmp_path):
    oval = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.OVAL, left=2, top=4, right=12, bottom=14, name="Oval")
    freehand = roifile.ImagejRoi.frompoints(np.array([[20, 5], [30, 5], [30, 11], [20, 11]]))
    roifile.roiwrite(tmp_path / "a.zip", [oval, freehand])
    image = Image(np.zeros((20, 40), np.uint8), "YX", (0.3, 0.3), "a")
    (found,) = FORMATS["imagej-roi"].read(tmp_path / "a.zip", image)
    areas = np.bincount(found.labels.ravel())[1:]
    assert abs(areas[0] - np.pi * 25) < 4
    assert (areas[1], found.pixel_size_um) == (60, (0.3, 0.3))
    (alone,) = FORMATS["imagej-roi"].read(tmp_path / "a.zip")
    assert alone.shape == (14, 30)


def test_what_macos_zips_beside_rois_is_left_out(tmp_path):
    roi = roifile.ImagejRoi.frompoints(np.array([[0, 0], [5, 0], [5, 5]]))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("RoiSet/1.roi", roi.tobytes())
        archive.writestr("__MACOSX/RoiSet/._1.roi", b"\0\5\x16\7" + bytes(50))
        archive.writestr("RoiSet/.DS_Store", b"x")
    (found,) = FORMATS["imagej-roi"].read(tmp_path / "a.zip")
    assert len(found) == 1


def test_a_damaged_roi_costs_itself_alone(tmp_path):
    content = roifile.ImagejRoi.frompoints(np.array([[0, 0], [5, 0], [5, 5]])).tobytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, one in {"1.roi": content, "2.roi": content[:20], "3.roi": b""}.items():
            archive.writestr(name, one)
    (found,) = FORMATS["imagej-roi"].read(tmp_path / "a.zip")
    assert len(found) == 1
    assert "Of 3 objects in a.zip 2 made no sense and were left out, first: 2.roi in" in found.notices[0]
    with pytest.raises(ReadError, match=r"2\.roi in .* is damaged"):  # a region is missed at once
        read_regions(tmp_path / "a.zip", Image(np.zeros((9, 9), np.uint8), "YX"))
    (tmp_path / "b.roi").write_bytes(content[:20])
    with pytest.raises(ReadError, match=r"b\.roi is damaged"):
        FORMATS["imagej-roi"].read(tmp_path / "b.roi")


def test_names_that_leave_the_zip_are_refused(tmp_path):
    roi = roifile.ImagejRoi.frompoints(np.array([[0, 0], [5, 0], [5, 5]]))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../../x.roi", roi.tobytes())
    with pytest.raises(ReadError, match=r"a\.zip must be the name of a file inside"):
        FORMATS["imagej-roi"].read(tmp_path / "a.zip")


def test_names_of_classes_that_files_cannot_have_come_back_in_rois(tmp_path):
    names = ("Tumor: Positive", "细胞 🧫", "two\nlines", "a/b")
    labels = np.repeat(np.arange(5, dtype=np.int32), 4).reshape(5, 4)
    classes = np.arange(4, dtype=np.int16)
    marks = ImageAnnotation("a", labels.shape, labels=labels, classes=classes, class_names=names)
    FORMATS["imagej-roi"].write(tmp_path / "a.zip", [marks])
    (found,) = FORMATS["imagej-roi"].read(tmp_path / "a.zip")
    assert [found.class_of(row) for row in range(4)] == list(names)
    assert {roi.name.partition(" ")[2] for roi in roifile.roiread(tmp_path / "a.zip")} == set(names)


def roi_of(points, name):
    return roifile.ImagejRoi.frompoints(np.array(points), name=name)


def test_rois_over_the_edge_are_cut_there(tmp_path):
    rois = [roi_of([[10, 10], [30, 10], [30, 30], [10, 30]], "inside")]
    rois += [
        roi_of([[-5, 40], [15, 40], [15, 60], [-5, 60]], "left"),
        roi_of([[50, -9], [60, -9], [60, 9]], "top"),
    ]
    rois += [
        roi_of([[700, 700], [710, 700], [705, 710]], "far"),
        roi_of([[2, 2], [9, 9], [9, 2], [2, 9]], "bow"),
    ]
    line = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.LINE, name="line", x1=1, y1=1, x2=9, y2=9)
    roifile.roiwrite(tmp_path / "a.zip", [*rois, line])
    image = Image(np.zeros((80, 90), np.uint8), "YX", (), "a")
    (found,) = FORMATS["imagej-roi"].read(tmp_path / "a.zip", image)
    assert len(found) == 4
    areas = np.bincount(found.labels.ravel())[1:]
    assert areas[:2].tolist() == [400, 300]
    assert found.notices == (
        "Of 6 objects in a.zip 1 are of the type LINE and were left out; 2 were cut at the edge of the "
        "image; 1 lie outside the image and were left out; 1 cross themselves and were filled as drawn.",
    )


def test_rois_that_tell_no_slice_of_a_stack_say_so(tmp_path):
    rois = [roifile.ImagejRoi.frompoints(np.array([[x, 2], [x + 5, 2], [x + 5, 9]])) for x in (2, 12, 22)]
    rois[2].position = 3
    roifile.roiwrite(tmp_path / "a.zip", rois, name=["a", "b", "c"])
    (found,) = FORMATS["imagej-roi"].read(tmp_path / "a.zip", Image(np.zeros((4, 20, 30), np.uint8), "TYX"))
    assert np.unique(np.nonzero(found.labels)[0]).tolist() == [0, 2]
    assert "2 do not tell their slice and are taken for the first" in found.notices[0]
    (found,) = FORMATS["imagej-roi"].read(tmp_path / "a.zip", Image(np.zeros((20, 30), np.uint8), "YX"))
    assert found.notices == ()


@pytest.mark.parametrize(
    ("axes", "shape", "slices", "lead"),
    [
        ("TYX", (6, 20, 30), [1, 3, 6], [[0], [2], [5]]),
        ("ZYX", (6, 20, 30), [1, 3, 6], [[0], [2], [5]]),
        ("TZCYX", (3, 2, 2, 20, 30), [1, 4, 9], [[0, 0], [0, 1], [2, 0]]),
        ("TYXC", (6, 20, 30, 3), [1, 3, 6], [[0], [2], [5]]),
        ("", (), [1, 3, 6], [[0], [2], [5]]),
    ],
)
def test_each_point_of_a_multi_point_lies_in_its_own_slice(tmp_path, axes, shape, slices, lead):
    points = roifile.ImagejRoi.frompoints(np.array([[3, 4], [10, 11], [15, 5]], float))
    points.roitype, points.position = roifile.ROI_TYPE.POINT, 1
    points.options |= roifile.ROI_OPTIONS.SUB_PIXEL_RESOLUTION
    points.counters, points.counter_positions = np.zeros(3, np.uint8), np.array(slices, np.uint32)
    points.tofile(tmp_path / "a.roi")
    image = Image(np.zeros(shape, np.uint8), axes) if axes else None
    (found,) = FORMATS["imagej-roi"].read(tmp_path / "a.roi", image)
    expected = np.column_stack([lead, [[3.5, 2.5], [10.5, 9.5], [4.5, 14.5]]])
    np.testing.assert_allclose(found.points, expected)


def test_points_of_several_counters_are_of_several_classes(tmp_path):
    places = np.array([[3, 4], [10, 11], [15, 5], [8, 8]], float)
    points = roifile.ImagejRoi.frompoints(places)
    points.roitype = roifile.ROI_TYPE.POINT
    points.options |= roifile.ROI_OPTIONS.SUB_PIXEL_RESOLUTION
    image = Image(np.zeros((20, 30), np.uint8), "YX")
    for counters, names in (([2, 0, 2, 1], {"Ctr 0", "Ctr 1", "Ctr 2"}), ([1, 1, 1, 1], {"cell"})):
        points.counters, points.counter_positions = np.array(counters, np.uint8), np.zeros(4, np.uint32)
        points.tofile(tmp_path / "a.roi")
        (found,) = FORMATS["imagej-roi"].read(tmp_path / "a.roi", image)
        classes = {tuple(place): found.class_of(row) for row, place in enumerate(found.points.tolist())}
        assert set(classes.values()) == names
        if len(names) > 1:
            expected = {
                (y - 0.5, x - 0.5): f"Ctr {n}" for (x, y), n in zip(places.tolist(), counters, strict=True)
            }
            assert classes == expected


def test_a_copy_of_a_cell_in_its_slice_is_a_cell_of_its_own(tmp_path, draw_marks):
    marks = draw_marks("ZYX")
    for name, file in (("geojson", "a.geojson"), ("imagej-roi", "a.zip")):
        FORMATS[name].write(tmp_path / file, [marks])
    rois = roifile.roiread(tmp_path / "a.zip")
    copied = roifile.ImagejRoi.frompoints(np.array([[0, 0], [3, 0], [3, 3], [0, 3]]))
    copied.name, copied.z_position, copied.position = rois[0].name, rois[0].z_position, rois[0].position
    rois.append(copied)
    roifile.roiwrite(tmp_path / "b.zip", rois, name=[str(place) for place in range(len(rois))])
    content = json.loads((tmp_path / "a.geojson").read_text())
    feature = content["features"][0]
    square = {"type": "Polygon", "coordinates": [[[0, 0], [3, 0], [3, 3], [0, 3], [0, 0]]]}
    content["features"].append({**feature, "geometry": {**feature["geometry"], **square}})
    (tmp_path / "b.geojson").write_text(json.dumps(content))
    image = Image(np.zeros(marks.shape, np.uint8), "ZYX")
    for name, file in (("geojson", "b.geojson"), ("imagej-roi", "b.zip")):
        (found,) = FORMATS[name].read(tmp_path / file, image)
        assert len(found) == len(marks) + 1, name


def test_rois_of_another_image_are_refused(tmp_path):
    roifile.roiwrite(tmp_path / "a.zip", [roi_of([[700, 2], [709, 2], [705, 9]], "bad one")])
    image = Image(np.zeros((20, 40), np.uint8), "YX", (), "a")
    with pytest.raises(ReadError, match=r"bad one\.roi of .*a\.zip and others must lie inside"):
        FORMATS["imagej-roi"].read(tmp_path / "a.zip", image)


def test_a_turned_ellipse_of_imagej_is_an_area(tmp_path):
    around = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    turned = np.stack([np.cos(around) * 12, np.sin(around) * 6], axis=1) @ [[0.8, 0.6], [-0.6, 0.8]] + 20
    roi = roifile.ImagejRoi.frompoints(turned.astype(np.float32), name="oval")
    roi.roitype, roi.subtype = roifile.ROI_TYPE.FREEHAND, roifile.ROI_SUBTYPE.ELLIPSE
    roifile.roiwrite(tmp_path / "a.zip", [roi])
    (found,) = FORMATS["imagej-roi"].read(tmp_path / "a.zip")
    assert abs((found.labels > 0).sum() - np.pi * 72) < 12


def test_a_self_crossing_outline_of_labelme_is_filled_as_drawn(tmp_path):
    def shape(kind, points):
        return {"label": "cell", "points": points, "shape_type": kind, "group_id": None}

    shapes = [
        shape("polygon", [[20, 20], [80, 70], [20, 70], [80, 20]]),
        shape("polygon", [[100, 100], [140, 100], [140, 140], [100, 140]]),
        shape("line", [[5, 5], [50, 5]]),
        shape("point", [[7, 7]]),
    ]
    content = {
        "shapes": shapes,
        "imageHeight": 256,
        "imageWidth": 256,
        "imageData": None,
        "imagePath": "a.png",
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    (found,) = FORMATS["labelme"].read(tmp_path / "a.json")
    areas = np.bincount(found.labels.ravel())[1:]
    assert abs(areas[0] - 1500) < 60  # two triangles of 60 x 25 that meet in a point
    assert areas[1] == 1600
    assert found.notices == (
        "Of 4 objects in a.json 1 are of the type line and were left out; 1 are points among outlines and "
        "were left out; 1 cross themselves and were filled as drawn.",
    )


@pytest.mark.parametrize(
    "classification", [{"name": "Tumor"}, {"names": ["Tumor"]}, {"name": "Tumor", "colorRGB": -3670016}]
)
def test_classes_of_every_version_of_qupath(tmp_path, classification):
    box = [[[2, 3], [8, 3], [8, 7], [2, 7], [2, 3]]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": box}}
    feature["properties"] = {"objectType": "annotation", "classification": classification}
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    (found,) = FORMATS["geojson"].read(tmp_path / "a.geojson")
    assert found.class_names == ("Tumor",)


def as_qupath(version, kind, name, x0, y0, x1, y1):
    """A feature with the members that a version of QuPath writes."""
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    geometry, inner = ({"type": "Polygon", "coordinates": [ring]} for _ in range(2))
    classification = {"name": name, "colorRGB": -3670016}
    if version > "0.3":
        classification = {"name": name, "color": [200, 0, 0]}
    measured = [{"name": "Area", "value": 3.5}] if version < "0.4" else {"Area": 3.5}
    properties = {"classification": classification, "isLocked": False, "measurements": measured}
    feature = {"type": "Feature", "geometry": geometry, "properties": properties}
    if version == "0.2":
        feature["id"] = f"Path{kind.title()}Object"
    elif version == "0.3":
        properties["object_type"] = kind
    else:
        feature["id"] = str(uuid.UUID(int=x0))
        properties |= {
            "objectType": kind,
            "color": [1, 2, 3],
            "name": "one",
            "metadata": {"ANNOTATION_ID": "x"},
        }
    if kind == "cell":
        feature["nucleusGeometry"] = inner
    if version >= "0.5":
        geometry["plane"] = {"c": -1, "z": 0, "t": 0}
    return feature


@pytest.mark.parametrize("version", ["0.2", "0.3", "0.4", "0.5", "0.6"])
@pytest.mark.parametrize("is_collection", [False, True])
def test_cells_of_every_version_of_qupath(tmp_path, version, is_collection):
    features = [as_qupath(version, "annotation", "Region", 0, 0, 60, 60)]
    features += [as_qupath(version, "cell", "Tumor", x, 5, x + 10, 15) for x in (5, 20)]
    features += [as_qupath(version, "detection", "Stroma", 40, 30, 50, 40)]
    content = {"type": "FeatureCollection", "features": features} if is_collection else features
    (tmp_path / "a.geojson").write_text(json.dumps(content))
    (found,) = FORMATS["geojson"].read(tmp_path / "a.geojson")
    assert np.bincount(found.labels.ravel())[1:].tolist() == [100, 100, 100]
    assert [found.class_of(row) for row in range(3)] == ["Tumor", "Tumor", "Stroma"]
    told = "2 have a nucleus of their own, which was left out; 1 are regions around others and were left out"
    guess = "(40, 50) is the least that holds its cells. Name the image to have its own."
    assert found.notices == (
        f"Of 4 objects in a.geojson {told}.",
        f"a.geojson does not give the size of its image: {guess}",
    )


def test_a_region_of_qupath_around_its_detections_is_no_cell(tmp_path):
    def feature(kind, x0, y0, x1, y1):
        ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        return {"type": "Feature", "geometry": geometry, "properties": {"objectType": kind}}

    features = [feature("annotation", 0, 0, 60, 60)]
    features += [feature("detection", 5, 5, 15, 15), feature("cell", 30, 30, 40, 40)]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    (found,) = FORMATS["geojson"].read(tmp_path / "a.geojson")
    assert np.bincount(found.labels.ravel())[1:].tolist() == [100, 100]
    assert "1 are regions around others" in found.notices[0]


def written_discs(path, features):
    """Features (kind, centre, radius, own properties) as a file of QuPath."""
    content = []
    for kind, (y, x), radius, own in features:
        angles = np.linspace(0, 2 * np.pi, 25)
        ring = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1).tolist()
        geometry = {"type": "Polygon", "coordinates": [ring]}
        if radius == 0:
            geometry = {"type": "MultiPoint", "coordinates": [[x, y], [x + 5, y + 5], [x + 9, y]]}
        content.append({"type": "Feature", "geometry": geometry, "properties": {"objectType": kind, **own}})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": content}))


CELLS = [("annotation", (20 + 20 * (k // 4), 20 + 20 * (k % 4)), 6, {}) for k in range(12)]


@pytest.mark.parametrize(
    ("around", "n_left"),
    [
        ([("annotation", (45, 50), 80, {})], 12),  # a region around all cells
        ([("annotation", (45, 50), 80, {}), ("annotation", (45, 50), 85, {})], 12),  # and one around that
        ([("annotation", (45, 50), 80, {"metadata": {"cell": "7"}})], 13),  # one of ours is a cell
        ([("annotation", (20, 20), 9, {})], 13),  # a cell around its nucleus
    ],
)
def test_annotations_of_qupath_around_others_are_no_cells(tmp_path, around, n_left):
    written_discs(tmp_path / "a.geojson", [*around, *CELLS])
    (found,) = FORMATS["geojson"].read(tmp_path / "a.geojson", Image(np.zeros((200, 200), np.uint8), "YX"))
    assert len(found) == n_left
    assert any("regions around others" in told for told in found.notices) == (n_left == 12)


def test_a_cell_with_two_nuclei_annotated_in_it_stays(tmp_path):
    nuclei = [("annotation", (50, x), 6, {}) for x in (40, 60)]
    written_discs(tmp_path / "a.geojson", [("annotation", (50, 50), 18, {}), *nuclei])
    (found,) = FORMATS["geojson"].read(tmp_path / "a.geojson")
    assert len(found) == 3


def test_a_large_cell_bent_around_others_stays(tmp_path):
    written_discs(tmp_path / "a.geojson", CELLS)
    content = json.loads((tmp_path / "a.geojson").read_text())
    bent = [[2, 2], [98, 2], [98, 10], [10, 10], [10, 150], [2, 150], [2, 2]]
    geometry = {"type": "Polygon", "coordinates": [bent]}
    content["features"].append({"type": "Feature", "geometry": geometry, "properties": {}})
    (tmp_path / "a.geojson").write_text(json.dumps(content))
    (found,) = FORMATS["geojson"].read(tmp_path / "a.geojson")
    assert len(found) == 13


def test_points_in_a_region_of_qupath_are_the_cells(tmp_path):
    written_discs(tmp_path / "a.geojson", [("annotation", (45, 50), 40, {}), ("annotation", (45, 50), 0, {})])
    (found,) = FORMATS["geojson"].read(tmp_path / "a.geojson")
    assert (found.kind, len(found)) == ("points", 3)


def test_coco_keeps_the_numbers_of_cells_in_several_images(tmp_path, draw_marks):
    marks = draw_marks("YX")
    numbers = 2 * np.arange(1, len(marks) + 1, dtype=np.int32)
    images = [replace(marks, name=name, numbers=numbers, image=None) for name in ("a", "b")]
    path = tmp_path / "a.json"
    FORMATS["coco"].write(path, images)
    rows = json.loads(path.read_text())["annotations"]
    assert [row["id"] for row in rows] == list(range(1, 2 * len(marks) + 1))  # COCO wants one of each
    for found in FORMATS["coco"].read(path):
        np.testing.assert_array_equal(found.labels, marks.labels)
        np.testing.assert_array_equal(found.numbers, numbers)
    FORMATS["coco"].write(path, images[:1])
    content = json.loads(path.read_text())
    assert [row["id"] for row in content["annotations"]] == numbers.tolist()
    for odd in (2, [2], "2", None, -1, 1 << 40):
        content["annotations"][1]["number"] = odd  # cells of one number, or of none, stay cells of their own
        path.write_text(json.dumps(content))
        (found,) = FORMATS["coco"].read(path)
        np.testing.assert_array_equal(found.labels, marks.labels)
        assert found.numbers is None


def test_coco_mixes_boxes_and_outlines(tmp_path):
    own = {"image_id": 1, "category_id": 1}
    rows = [{**own, "id": 1, "segmentation": [[2, 2, 12, 2, 12, 12, 2, 12]], "bbox": [2, 2, 10, 10]}]
    rows += [{**own, "id": 2, "bbox": [20, 20, 5, 5]}, {**own, "id": 3, "bbox": [30, 30, 0, 5]}]
    content = {"images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 50}], "annotations": rows}
    content["categories"] = [{"id": 1, "name": "red"}]
    (tmp_path / "a.json").write_text(json.dumps(content))
    (found,) = FORMATS["coco"].read(tmp_path / "a.json")
    assert len(found) == 2
    assert (found.labels == 2).sum() == 25
    assert "1 made no sense" in found.notices[0]


@pytest.mark.parametrize("number", [10**400, float("inf"), float("nan")])
def test_numbers_without_end_are_no_numbers(tmp_path, number):
    box = JsonValue([number, 2], tmp_path / "a.json", "x").rows()[0]
    with pytest.raises(ReadError, match="must be a number"):
        box.number()
    with pytest.raises(ReadError, match="pixel_size_um"):
        checked_pixel_size([number, 1], tmp_path)


def test_coco_with_lists_in_place_of_numbers_loses_only_what_they_name(tmp_path):
    box = {"bbox": [2, 2, 10, 10]}
    rows = [{"id": 1, "image_id": 1, "category_id": [1], **box}, {"id": 2, "image_id": [1], **box}]
    content = {"images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 50}], "annotations": rows}
    content["categories"] = [{"id": 1, "name": "red"}, {"id": [1], "name": "blue"}]
    (tmp_path / "a.json").write_text(json.dumps(content))
    (found,) = FORMATS["coco"].read(tmp_path / "a.json")
    assert len(found) == 1
    assert "1 belong to no image" in found.notices[0]
    assert "1 are of a class that the file does not name" in found.notices[0]


def test_tifffile_reads_labels_with_their_calibration(tmp_path, draw_marks):
    marks = draw_marks("TZYX")
    FORMATS["ome-tiff"].write(tmp_path / "a.ome.tif", [marks])
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        assert (tiff.is_ome, tiff.series[0].axes) == (True, "TZYX")
        np.testing.assert_array_equal(tiff.asarray(), marks.labels)
        assert 'PhysicalSizeZ="2.0"' in tiff.ome_metadata


def test_a_tiff_that_points_outside_its_folder_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", np.ones((2, 8, 8), np.uint8), ome=True, metadata={"axes": "ZYX"})
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        xml = tiff.ome_metadata
    uuid = '<UUID FileName="../../x.ome.tif">urn:uuid:1</UUID></TiffData>'
    outside = xml.replace('PlaneCount="2"/>', f'PlaneCount="2">{uuid}')
    assert outside != xml
    tifffile.imwrite(
        tmp_path / "a.ome.tif", np.ones((2, 8, 8), np.uint8), description=outside.encode(), metadata=None
    )
    with pytest.raises(ReadError, match=r"UUID\.FileName of .*a\.ome\.tif"):
        FORMATS["ome-tiff"].read(tmp_path / "a.ome.tif")


@pytest.mark.parametrize("values", [np.full((8, 8), 0.5, np.float32), np.full((8, 8), -1, np.int16)])
def test_a_tiff_of_something_else_is_no_labels(tmp_path, values):
    tifffile.imwrite(tmp_path / "a.tif", values)
    with pytest.raises(ReadError, match=r"a\.tif must be labels"):
        FORMATS["ome-tiff"].read(tmp_path / "a.tif")


def test_classes_of_cellpose_stay_with_cells_whose_numbers_are_in_no_order(tmp_path, draw_marks):
    marks = draw_marks()
    numbers = 3 * np.arange(len(marks), 0, -1, dtype=np.int32)
    marks = replace(marks, numbers=numbers)
    FORMATS["cellpose"].write(tmp_path / "a_seg.npy", [marks])
    (found,) = FORMATS["cellpose"].read(tmp_path / "a_seg.npy")
    called = {found.number_of(row): found.class_of(row) for row in range(len(found))}
    assert called == {int(number): marks.class_of(row) for row, number in enumerate(numbers)}
    assert len(set(called.values())) > 1
    np.testing.assert_array_equal(found.numbered_labels(), marks.numbered_labels())


@pytest.mark.parametrize("axes", ["YX", "ZYX"])
def test_numpy_loads_what_cellpose_loads(tmp_path, draw_marks, axes):
    """Cellpose's window does exactly this, and then looks for these fields."""
    marks = draw_marks(axes)
    FORMATS["cellpose"].write(tmp_path / "a_seg.npy", [marks])
    content = np.load(tmp_path / "a_seg.npy", allow_pickle=True).item()
    np.testing.assert_array_equal(content["masks"], marks.labels)
    assert content["masks"].dtype == content["outlines"].dtype == np.uint16
    edges = content["outlines"] > 0
    assert (content["outlines"][edges] == marks.labels[edges]).all()
    assert set(np.unique(content["outlines"])) == set(np.unique(marks.labels))
    assert len(content["ismanual"]) == len(marks)
    assert {"filename", "flows", "chan_choose", "diameter", "img"} <= content.keys()


@pytest.mark.parametrize("version", [2, 3, 4])
def test_files_of_every_version_of_cellpose(tmp_path, draw_marks, version):
    labels = draw_marks().labels
    told = {
        "outlines": labels.astype(np.uint16), "masks": labels.astype(np.uint16), "flows": [labels > 0, [[]]],
        "ismanual": np.zeros(labels.max(), bool), "filename": "a.tif", "colors": np.zeros((3, 3), np.uint8),
    }  # fmt: skip
    if version == 2:
        told |= {"est_diam": 30.0, "chan_choose": [0, 0], "img": labels, "zdraw": [None], "model_path": 0}
    else:
        told |= {"diameter": np.float64(30), "restore": None, "ratio": 1.0, "manual_changes": []}
        told |= {"normalize_params": {"lowhigh": None, "percentile": [1.0, 99.0], "normalize": True}}
    if version == 4:
        told |= {
            "filename": Path("folder") / "a.tif",
            "cellprob_threshold": np.float32(0),
            "current_channel": 0,
        }
    np.save(tmp_path / "a_seg.npy", told)
    (found,) = FORMATS["cellpose"].read(tmp_path / "a_seg.npy")
    np.testing.assert_array_equal(found.labels, labels)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("lowest", [0, -1])
def test_masks_of_cellpose_may_be_whole_floats(tmp_path, draw_marks, dtype, lowest):
    labels = draw_marks().labels
    np.save(tmp_path / "a_seg.npy", {"masks": labels.astype(dtype) + lowest})
    (found,) = FORMATS["cellpose"].read(tmp_path / "a_seg.npy")
    np.testing.assert_array_equal(found.labels, labels)


@pytest.mark.parametrize("odd", [0.5, np.nan, np.inf, -np.inf, 1e300, -2.0])
def test_masks_that_are_no_whole_numbers_are_refused(tmp_path, draw_marks, odd):
    masks = draw_marks().labels.astype(float)
    masks[0, 0] = odd
    np.save(tmp_path / "a_seg.npy", {"masks": masks})
    with pytest.raises(ReadError, match=r"a_seg\.npy must be labels \(whole numbers"):
        FORMATS["cellpose"].read(tmp_path / "a_seg.npy")


class Harm:
    def __reduce__(self):
        return os.system, ("echo harm > harm.txt",)


@pytest.mark.parametrize("place", ["masks", "extra", "array", "whole"])
def test_a_pickle_that_runs_programs_is_refused(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    content = {"masks": np.zeros((8, 8), np.uint16)}
    harm = {"array": np.array([Harm()], object)}.get(place, Harm())
    content = harm if place == "whole" else {**content, place: harm}
    np.save(tmp_path / "a_seg.npy", np.array(content, dtype=object), allow_pickle=True)
    with pytest.raises(ReadError, match=r"system does not belong in a Cellpose file") as caught:
        FORMATS["cellpose"].read(tmp_path / "a_seg.npy")
    assert "a_seg.npy" in str(caught.value)
    assert not (tmp_path / "harm.txt").exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_every_age_are_read(tmp_path, protocol):
    masks = np.zeros((8, 9), np.uint16)
    masks[2:5, 2:5] = 4
    content = {"masks": masks, "outlines": masks, "est_diam": np.float64(30.5), "flows": [masks, [[]]]}
    header = io.BytesIO()
    np.save(header, np.array(None, dtype=object), allow_pickle=True)
    start = header.getvalue()[: header.getvalue().index(b"\n") + 1]
    (tmp_path / "a_seg.npy").write_bytes(start + pickle.dumps(np.array(content, dtype=object), protocol))
    (found,) = FORMATS["cellpose"].read(tmp_path / "a_seg.npy")
    np.testing.assert_array_equal(found.labels, masks // 4)


def png(pixels):
    file = io.BytesIO()
    Picture.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_labelme_with_boxes_masks_and_an_image_name_is_read(tmp_path):
    pixels = np.arange(12 * 15 * 3, dtype=np.uint8).reshape(12, 15, 3)
    mask = np.array([[1, 1, 0], [0, 1, 1]], np.uint8)
    common = {"group_id": None, "description": None, "shape_type": "mask", "flags": {}}
    shapes = [
        {"label": "A", "points": [[2.0, 3.0], [4.0, 4.0]], "mask": png(mask), **common},
        {
            "label": "B",
            "points": [[10.0, 9.0], [14.0, 11.0]],
            "mask": png(np.ones((3, 5), np.uint8)),
            **common,
        },
    ]
    content = {"version": "5.8.3", "flags": {}, "shapes": shapes, "imageData": png(pixels)}
    content |= {"imageHeight": 12, "imageWidth": 15, "imageName": "0175.jpg"}
    (tmp_path / "0175.json").write_text(json.dumps(content))
    (found,) = FORMATS["labelme-masks"].read(tmp_path / "0175.json")
    expected = np.zeros((12, 15), int)
    expected[3:5, 2:5] = mask
    expected[9:12, 10:15] = 2
    np.testing.assert_array_equal(found.labels, expected)
    np.testing.assert_array_equal(found.image.data, pixels)
    assert (found.name, found.class_names, found.classes.tolist()) == ("0175", ("A", "B"), [0, 1])


def test_a_labelme_mask_file_has_the_fields_of_both_variants(tmp_path, draw_marks):
    marks = draw_marks()
    FORMATS["labelme-masks"].write(tmp_path / "a.json", [marks])
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["imageName"] == content["imagePath"] == "drawn.png"
    for row, shape in enumerate(content["shapes"]):
        (x0, y0), (x1, y1) = np.array(shape["points"], int)
        mask = np.asarray(Picture.open(io.BytesIO(base64.b64decode(shape["mask"]))))
        assert (shape["shape_type"], mask.shape) == ("mask", (y1 - y0 + 1, x1 - x0 + 1))
        np.testing.assert_array_equal(mask > 0, marks.labels[y0 : y1 + 1, x0 : x1 + 1] == row + 1)
    pixels = np.asarray(Picture.open(io.BytesIO(base64.b64decode(content["imageData"]))))
    np.testing.assert_array_equal(pixels, marks.image.data)


def test_circles_and_rectangles_of_labelme_are_read(tmp_path):
    def shape(kind, points):
        return {"label": "a", "points": points, "shape_type": kind}

    shapes = [shape("circle", [[20, 20], [20, 28]]), shape("rectangle", [[40, 30], [34, 20]])]
    content = {"shapes": shapes, "imageHeight": 40, "imageWidth": 50, "imageData": None, "imagePath": "x.png"}
    (tmp_path / "a.json").write_text(json.dumps(content))
    (found,) = FORMATS["labelme"].read(tmp_path / "a.json")
    areas = np.bincount(found.labels.ravel())[1:]
    assert abs(areas[0] - np.pi * 64) < 10
    assert areas[1] == 60


def test_overlapping_cells_are_kept_the_smaller_on_top(tmp_path):
    def shape(corners):
        return {"label": "a", "points": corners, "shape_type": "polygon"}

    def box(y0, x0, y1, x1):
        return shape([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])

    shapes = [box(2, 2, 6, 6), box(0, 0, 20, 20), box(10, 10, 14, 14), box(10, 10, 14, 14)]
    content = {"shapes": shapes, "imageHeight": 40, "imageWidth": 50, "imageData": None, "imagePath": "x.png"}
    (tmp_path / "a.json").write_text(json.dumps(content))
    (found,) = FORMATS["labelme"].read(tmp_path / "a.json")
    assert np.bincount(found.labels.ravel())[1:].tolist() == [16, 400 - 32, 16]
    assert found.notices == (
        "Of 4 objects in a.json 1 cover no pixel of their own and were left out; 1 overlap others (the "
        "smaller lies on top).",
    )


def test_geojson_of_qupath_is_read(tmp_path):
    geometry = {"type": "Polygon", "coordinates": [[[2, 3], [8, 3], [8, 7], [2, 7], [2, 3]]]}
    properties = {"objectType": "detection", "classification": {"name": "Tumor", "color": [200, 0, 0]}}
    hole = [
        [[20, 20], [30, 20], [30, 30], [20, 30], [20, 20]],
        [[22, 22], [24, 22], [24, 24], [22, 24], [22, 22]],
    ]
    parts = {"type": "MultiPolygon", "coordinates": [hole, [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]]]}
    features = [
        {"type": "Feature", "id": "x", "geometry": geometry, "properties": properties},
        {"type": "Feature", "id": "y", "geometry": parts, "properties": {"objectType": "annotation"}},
    ]
    for content in (features, {"type": "FeatureCollection", "features": features}):
        (tmp_path / "a.geojson").write_text(json.dumps(content))
        (found,) = FORMATS["geojson"].read(tmp_path / "a.geojson")
        assert found.shape == (30, 30)
        assert np.bincount(found.labels.ravel())[1:].tolist() == [24, 97]
        assert (found.classes.tolist(), found.class_names) == ([0, -1], ("Tumor",))


def test_metadata_of_others_joins_no_planes(tmp_path):
    geometry = {"type": "Polygon", "coordinates": [[[2, 3], [8, 3], [8, 7], [2, 7], [2, 3]]]}
    feature = {"type": "Feature", "geometry": geometry, "properties": {"metadata": [{"name": "x"}]}}
    (tmp_path / "a.geojson").write_text(json.dumps([feature, feature]))
    (found,) = FORMATS["geojson"].read(tmp_path / "a.geojson")
    assert "1 cover no pixel of their own" in found.notices[0]


def test_outer_rings_of_geojson_run_counterclockwise(tmp_path, draw_marks):
    FORMATS["geojson"].write(tmp_path / "a.geojson", [draw_marks()])
    content = json.loads((tmp_path / "a.geojson").read_text())
    n_holes = 0
    for feature in content["features"]:
        geometry = feature["geometry"]
        shapes = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        for place, ring in [pair for shape in shapes for pair in enumerate(shape)]:
            x, y = np.array(ring).T
            assert ring[0] == ring[-1]
            assert (np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) > 0) == (place == 0)
            n_holes += place > 0
    assert n_holes >= 1


def test_pandas_and_napari_tables_of_points(tmp_path, draw_kind):
    marks = draw_kind("points", "ZYX")
    FORMATS["points-csv"].write(tmp_path / "a.csv", [marks])
    table = pandas.read_csv(tmp_path / "a.csv")
    np.testing.assert_allclose(table[["z", "y", "x"]], marks.points, atol=1e-3)
    assert list(table.columns) == ["label", "z", "y", "x", "class"]
    (tmp_path / "b.csv").write_text("index,axis-0,axis-1\n0.0,3.5,4.25\n1.0,7,8\n")
    (found,) = FORMATS["points-csv"].read(tmp_path / "b.csv")
    assert (found.points.tolist(), found.shape) == ([[3.5, 4.25], [7, 8]], (8, 9))


@pytest.mark.parametrize("between", ";\t")
def test_tables_of_spreadsheets_and_scikit_image(tmp_path, between):
    points = pandas.DataFrame({"label": [1, 2], "centroid-0": [3.5, 7.0], "centroid-1": [4.25, 8.0]})
    points.to_csv(tmp_path / "a.csv", sep=between)
    (found,) = FORMATS["points-csv"].read(tmp_path / "a.csv")
    assert (found.points.tolist(), found.axes) == ([[3.5, 4.25], [7, 8]], "YX")


def test_a_confidence_behind_a_box_or_an_outline_of_yolo(tmp_path):
    """As Ultralytics writes what it finds."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Picture.fromarray(np.zeros((20, 40), np.uint8)).save(tmp_path / "images" / "a.png")
    for row, size in (("0 0.5 0.5 0.5 0.5", 200), ("0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75", 200)):
        (tmp_path / "labels" / "a.txt").write_text(f"{row} 0.87\n")
        (found,) = FORMATS["yolo-boxes"].read(tmp_path)
        assert len(found) == 1
        (top, left), (bottom, right) = found.with_boxes().boxes[0].tolist()
        assert (bottom - top) * (right - left) == size


NAPARI_SHAPES = {
    "rectangle": [(2, 2), (2, 9), (6, 9), (6, 2)],
    "polygon": [(10, 2), (10, 8), (15, 8), (15, 2)],
    "ellipse": [(20, 2), (20, 12), (30, 12), (30, 2)],
    "line": [(0, 0), (9, 9)],
}


def napari_shapes(path, *kinds):
    """Write shapes as napari does: a row for each corner, in the middles of pixels."""
    lines = ["index,shape-type,vertex-index,axis-0,axis-1,axis-2"]
    for number, kind in enumerate(kinds):
        corners = enumerate(NAPARI_SHAPES[kind])
        lines += [f"{number}.0,{kind},{corner}.0,{number}.0,{y}.0,{x}.0" for corner, (y, x) in corners]
    path.write_text("\n".join(lines) + "\n")
    (found,) = FORMATS["points-csv"].read(path)
    return found


def test_the_shapes_of_napari_are_cells_not_a_point_for_each_corner(tmp_path):
    found = napari_shapes(tmp_path / "a.csv", *NAPARI_SHAPES)
    assert [len(found), found.axes] == [3, "ZYX"]
    assert "1 are of the type line" in found.notices[0]
    areas = [int((found.labels == number).sum()) for number in (1, 2, 3)]
    assert areas[:2] == [28, 30]
    assert 69 <= areas[2] <= 81  # pixels whose middles lie within 5 of one of them
    np.testing.assert_array_equal(np.unique(np.nonzero(found.labels == 2)[0]), [1])  # its slice
    middle = np.argwhere(found.labels == 3).mean(axis=0)
    np.testing.assert_allclose(middle, [2, 25, 7], atol=0.51)
    assert napari_shapes(tmp_path / "b.csv", "polygon").labels.shape == (1, 16, 9)


def test_a_shape_of_napari_that_encloses_nothing_is_left_out(tmp_path):
    (tmp_path / "a.csv").write_text(
        "index,shape-type,vertex-index,axis-0,axis-1\n0,polygon,0,1,1\n0,polygon,1,9,9\n"
        "1,polygon,0,1,1\n1,polygon,1,9,1\n1,polygon,2,9,9\n"
    )
    (found,) = FORMATS["points-csv"].read(tmp_path / "a.csv")
    assert len(found) == 1
    assert "Line 2 of" in found.notices[0]


# -- Cell Tracking Challenge --------------------------------------------------------------------------------


def movie():
    """A cell that divides, one that is away for two frames, one that comes late."""
    labels = np.zeros((6, 20, 20), np.int32)
    labels[:3, 2:6, 2:6] = 1
    labels[3:, 2:4, 2:6], labels[3:, 4:6, 2:6] = 2, 3
    labels[[0, 1, 4, 5], 10:14, 10:14] = 4
    labels[2:, 16:19, 1:4] = 5
    return labels, np.array([0, 1, 1, 0, 0], np.int32)


@pytest.mark.parametrize("name", ["tracking-challenge", "tracking-challenge-truth"])
def test_lineages_come_back(tmp_path, draw_marks, name):
    labels, parents = movie()
    marks = replace(draw_marks("TYX"), labels=labels, shape=labels.shape, parents=parents, image=None)
    FORMATS[name].write(tmp_path / "a", [marks])
    (found,) = FORMATS[name].read(tmp_path / "a")
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.parents, parents)
    table = tmp_path / "a" / ("res_track.txt" if name == "tracking-challenge" else "man_track.txt")
    rows = [tuple(map(int, line.split())) for line in table.read_text().splitlines()]
    assert rows == [(1, 0, 2, 0), (2, 3, 5, 1), (3, 3, 5, 1), (4, 0, 1, 0), (5, 2, 5, 0), (6, 4, 5, 4)]
    for label, first, last, _ in rows:
        files = sorted((tmp_path / "a").glob("*.tif"))
        frames = [i for i, file in enumerate(files) if (tifffile.imread(file) == label).any()]
        assert frames == list(range(first, last + 1))


def test_tracks_that_no_mask_shows_are_left_out_and_told_of(tmp_path, draw_marks):
    labels, parents = movie()
    marks = replace(draw_marks("TYX"), labels=labels, shape=labels.shape, parents=parents, image=None)
    FORMATS["tracking-challenge"].write(tmp_path / "a", [marks])
    for frame, file in enumerate(sorted((tmp_path / "a").glob("*.tif"))):
        tifffile.imwrite(file, np.where(labels[frame] == 1, 0, tifffile.imread(file)).astype(np.uint16))
    (found,) = FORMATS["tracking-challenge"].read(tmp_path / "a")
    assert len(found) == len(found.parents) == len(found.numbers) == 4
    assert found.parents.tolist() == [0] * 4
    assert found.notices == (
        "1 tracks of res_track.txt have no pixel in the masks and were left out, first: 1.",
    )
    FORMATS["tracking-challenge"].write(tmp_path / "b", [found])


def test_lineages_keep_the_numbers_of_their_cells(tmp_path, draw_marks):
    labels, parents = movie()
    numbers = np.array([40, 3, 9, 7, 100], np.int32)
    marks = replace(draw_marks("TYX"), labels=labels, shape=labels.shape, parents=parents, image=None)
    FORMATS["tracking-challenge"].write(tmp_path / "a", [replace(marks, numbers=numbers)])
    rows = [
        tuple(map(int, line.split())) for line in (tmp_path / "a" / "res_track.txt").read_text().splitlines()
    ]
    assert rows == [(3, 3, 5, 40), (7, 0, 1, 0), (9, 3, 5, 40), (40, 0, 2, 0), (100, 2, 5, 0), (101, 4, 5, 7)]
    (found,) = FORMATS["tracking-challenge"].read(tmp_path / "a")
    np.testing.assert_array_equal(found.numbered_labels(), np.array([0, *numbers])[labels])
    assert dict(zip(found.numbers, found.parents, strict=True)) == {3: 4, 7: 0, 9: 4, 40: 0, 100: 0}
    numbers[4] = 70_000  # more than a mask of 16 bits holds
    FORMATS["tracking-challenge"].write(tmp_path / "b", [replace(marks, numbers=numbers)])
    np.testing.assert_array_equal(FORMATS["tracking-challenge"].read(tmp_path / "b")[0].labels, labels)


@pytest.mark.parametrize(
    "table",
    [
        "1 0 2\n",
        "1 0 2 x\n",
        "1 0 2 0\n1 0 2 0\n",
        "1 0 99 0\n2 3 5 1\n3 3 5 1\n4 0 1 0\n5 2 5 0\n6 4 5 4\n",
        "1 0 2 7\n2 3 5 1\n3 3 5 1\n4 0 1 0\n5 2 5 0\n6 4 5 4\n",
        "1 0 2 0\n2 2 5 1\n3 3 5 1\n4 0 1 0\n5 2 5 0\n6 4 5 4\n",
        "1 0 2 0\n",
        "1 0 2 0\n2 3 5 99999999999999999999\n",
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, draw_marks, table):
    labels, parents = movie()
    marks = replace(draw_marks("TYX"), labels=labels, shape=labels.shape, parents=parents, image=None)
    FORMATS["tracking-challenge"].write(tmp_path / "a", [marks])
    (tmp_path / "a" / "res_track.txt").write_text(table)
    with pytest.raises(ReadError, match=r"res_track\.txt"):
        FORMATS["tracking-challenge"].read(tmp_path / "a")


@pytest.mark.parametrize("damage", ["gone", "size", "float"])
def test_damaged_frames_are_refused(tmp_path, draw_marks, damage):
    FORMATS["tracking-challenge"].write(tmp_path / "a", [draw_marks("TYX")])
    file = tmp_path / "a" / "mask001.tif"
    file.unlink()
    if damage != "gone":
        shape, kind = ((9, 9), np.uint16) if damage == "size" else ((37, 46), np.float32)
        tifffile.imwrite(file, np.zeros(shape, kind))
    with pytest.raises(ReadError, match=r"mask00[01]"):
        FORMATS["tracking-challenge"].read(tmp_path / "a")


def test_tracks_with_a_damaged_mask_are_not_written_over(tmp_path):
    tracks = ImageAnnotation("a", (2, 9, 9), "TYX", np.ones((2, 9, 9), np.int32))
    replace_results(tmp_path / "a", [tracks])
    replace_results(tmp_path / "a", [tracks])
    mask = tmp_path / "a" / "mask001.tif"
    with tifffile.TiffFile(mask) as file:
        (first,), (n_bytes,) = file.pages.first.dataoffsets, file.pages.first.databytecounts
    content = mask.read_bytes()
    mask.write_bytes(content[:first] + b"\xff" * n_bytes + content[first + n_bytes :])
    with pytest.raises(WriteError, match="with content"):
        replace_results(tmp_path / "a", [tracks])
