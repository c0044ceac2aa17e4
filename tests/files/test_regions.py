import json

import numpy as np
import pytest
import roifile
import tifffile

from cellwright.core.data import Cells, Image
from cellwright.core.errors import ReadError
from cellwright.files.regions import read_label_image, read_mask, read_regions
from cellwright.ops.measure.regions import RegionSet

IMAGE = Image(np.zeros((40, 60), np.uint8), "YX", name="a")
MOVIE = Image(np.zeros((3, 40, 60), np.uint8), "TYX", name="a")


def write_geojson(path, *features):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def feature(*rings, name=None, plane=None, **properties):
    geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in rings]}
    if plane:
        geometry["plane"] = plane
    return {"type": "Feature", "geometry": geometry, "properties": {"name": name, **properties}}


def box(x0, y0, x1, y1):
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def test_geojson_keeps_names_overlaps_and_holes(tmp_path):
    path = write_geojson(
        tmp_path / "a.geojson",
        feature(box(10, 10, 30, 30), box(15, 15, 25, 25), name="tumour"),
        feature(box(20, 20, 50, 40), classification={"name": "stroma"}),
        feature(box(0, 0, 5, 5)),
    )
    regions = RegionSet(read_regions(path, IMAGE))
    assert regions.names == ("tumour", "stroma", "region 3")
    union = 300 + 600 - 75 + 25  # the first two share a square, less what is left out of the first
    assert regions.sizes((), (40, 60)).tolist() == [400 - 100, 600, 25, union]
    first = next(regions.masks((), (40, 60)))
    assert first[10, 10]  # a pixel covers the square from its number on
    assert not first[9, 9]


def test_several_polygons_may_be_one_region(tmp_path):
    path = tmp_path / "a.json"
    rings = [[[*box(0, 0, 5, 5), [0, 0]]], [[*box(20, 20, 30, 30), [20, 20]]]]
    path.write_text(
        json.dumps({"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": rings}})
    )
    (region,) = read_regions(path, IMAGE)
    assert region.mask((), (40, 60)).sum() == 125


def test_a_plane_holds_the_region_there(tmp_path):
    path = write_geojson(tmp_path / "a.geojson", feature(box(0, 0, 5, 5), plane={"c": -1, "z": 0, "t": 2}))
    assert RegionSet(read_regions(path, MOVIE)).sizes((3,), (40, 60)).tolist() == [[0, 0, 25]]
    assert RegionSet(read_regions(path, IMAGE)).sizes((), (40, 60)).tolist() == [25]


def test_rois_of_imagej(tmp_path):
    square = roifile.ImagejRoi.frompoints(np.array(box(10, 10, 30, 30)), name="square")
    oval = roifile.ImagejRoi.frompoints(np.array(box(20, 10, 40, 30)), name="oval")
    oval.roitype = roifile.ROI_TYPE.OVAL
    oval.left, oval.top, oval.right, oval.bottom = 20, 10, 40, 30
    roifile.roiwrite(tmp_path / "a.zip", [square, oval])
    regions = RegionSet(read_regions(tmp_path / "a.zip", IMAGE))
    assert regions.names == ("square", "oval")
    first, second, union = regions.sizes((), (40, 60)).tolist()
    assert first == 400
    assert second == pytest.approx(np.pi * 100, rel=0.02)
    assert union == pytest.approx(400 + np.pi * 50, rel=0.02)  # half of the disc lies in the square


def test_a_roi_may_hold_in_one_frame(tmp_path):
    roi = roifile.ImagejRoi.frompoints(np.array(box(10, 10, 30, 30)), t=1)
    roi.tofile(tmp_path / "a.roi")
    assert RegionSet(read_regions(tmp_path / "a.roi", MOVIE)).sizes((3,), (40, 60)).tolist() == [[0, 400, 0]]
    roifile.ImagejRoi.frompoints(np.array(box(10, 10, 30, 30))).tofile(tmp_path / "b.roi")
    assert RegionSet(read_regions(tmp_path / "b.roi", MOVIE)).sizes((3,), (40, 60)).tolist() == [[400] * 3]


def test_the_numbers_of_an_image_are_regions(tmp_path):
    labels = np.zeros((40, 60), np.uint8)
    labels[:10], labels[20:], labels[15, 15] = 3, 7, 0
    tifffile.imwrite(tmp_path / "wells.tif", labels)
    regions = RegionSet(read_regions(tmp_path / "wells.tif", IMAGE))
    assert regions.names == ("wells 3", "wells 7")
    assert regions.sizes((), (40, 60)).tolist() == [600, 1200, 1800]
    tifffile.imwrite(tmp_path / "tissue.tif", np.where(labels == 3, 255, 0).astype(np.uint8))
    assert RegionSet(read_regions(tmp_path / "tissue.tif", MOVIE)).names == ("tissue",)


def test_masks_have_an_inside_and_an_outside(tmp_path):
    mask = np.zeros((40, 60), np.uint8)
    mask[:10] = 255
    tifffile.imwrite(tmp_path / "m.tif", mask)
    points = np.array([[5, 5], [20, 20]], np.float32)
    cells = Cells(
        points, np.stack([points, points + 1], axis=1), np.ones(2, np.float32), np.ones(2, np.float32)
    )
    for is_inverted in (False, True):
        region = read_mask(tmp_path / "m.tif", IMAGE, is_inverted=is_inverted)
        found = RegionSet((region,)).membership(cells)[:, 0]
        assert found.tolist() == [not is_inverted, is_inverted]


def test_labels_are_read(tmp_path):
    labels = np.arange(2400, dtype=np.uint16).reshape(40, 60)
    tifffile.imwrite(tmp_path / "n.tif", labels)
    np.testing.assert_array_equal(read_label_image(tmp_path / "n.tif", IMAGE), labels)
    tifffile.imwrite(tmp_path / "n.tif", labels.astype(np.uint64) * 2**32)  # too large for int32
    np.testing.assert_array_equal(read_label_image(tmp_path / "n.tif", IMAGE), labels)
    tifffile.imwrite(tmp_path / "n.tif", labels.astype(np.float32))  # as Fiji keeps large numbers
    np.testing.assert_array_equal(read_label_image(tmp_path / "n.tif", IMAGE), labels)
    tifffile.imwrite(tmp_path / "n.tif", labels + np.float32(0.5))
    with pytest.raises(ReadError, match="whole numbers"):
        read_label_image(tmp_path / "n.tif", IMAGE)


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(ReadError, match="no such file"):
        read_regions(tmp_path / "absent.geojson", IMAGE)
    (tmp_path / "cut.geojson").write_text('{"type": "FeatureColl')
    with pytest.raises(ReadError, match="whole JSON"):
        read_regions(tmp_path / "cut.geojson", IMAGE)
    line = {"type": "Feature", "geometry": {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}}
    with pytest.raises(ReadError, match="an area"):
        read_regions(write_geojson(tmp_path / "line.geojson", line), IMAGE)
    point = roifile.ImagejRoi.frompoints(np.array([[1, 1]]))
    point.roitype = roifile.ROI_TYPE.POINT
    point.tofile(tmp_path / "p.roi")
    with pytest.raises(ReadError, match="an area"):
        read_regions(tmp_path / "p.roi", IMAGE)
    (tmp_path / "bad.zip").write_bytes(b"PK no zip")
    with pytest.raises(ReadError, match="ROIs"):
        read_regions(tmp_path / "bad.zip", IMAGE)
    tifffile.imwrite(tmp_path / "small.tif", np.ones((5, 6), np.uint8))
    with pytest.raises(ReadError, match="must have"):
        read_regions(tmp_path / "small.tif", IMAGE)
    tifffile.imwrite(tmp_path / "light.tif", np.arange(40 * 60, dtype=np.uint16).reshape(40, 60))
    with pytest.raises(ReadError, match="2,399 different numbers"):
        read_regions(tmp_path / "light.tif", IMAGE)
