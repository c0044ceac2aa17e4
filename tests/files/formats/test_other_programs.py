"""Annotations as programs write them beside what their format says."""

import json
from typing import Any, NamedTuple

import numpy as np
import pytest
import roifile
import tifffile

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
