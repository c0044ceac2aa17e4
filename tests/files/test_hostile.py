"""Files that mean harm, or are damaged as if they did: refused soon, and in little memory."""

import codecs
import json
import pickle
import shutil
import struct
import sys
import time
import tracemalloc
import zipfile
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import roifile
import tifffile
import zarr
from PIL import Image as Picture

from cellwright.core.data import Image
from cellwright.core.errors import AxesError, CellwrightError, ReadError
from cellwright.files.dataset.folder import read_dataset
from cellwright.files.formats import assembly
from cellwright.files.formats.registry import READERS, recognise
from cellwright.files.images import read_image, write_labels
from cellwright.files.regions import read_label_image, read_mask, read_regions
from cellwright.files.vendors import hdf5

OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
MOST_BYTES = 300 << 20
MOST_SECONDS = 5.0


@pytest.fixture(autouse=True)
def frugal():
    """Every test here ends soon and takes little memory."""
    tracemalloc.start()
    start = time.process_time()
    yield
    seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < MOST_SECONDS
    assert peak < MOST_BYTES


def tiff_of(*directories, order="<"):
    """A TIFF of directories, each its tags (code, kind, count, value) and the offset of the next."""
    content = struct.pack(f"{order}2sHI", b"II", 42, 8)
    for tags, following in directories:
        content += struct.pack(f"{order}H", len(tags))
        for tag in tags:
            content += struct.pack(f"{order}HHII", *tag)
        content += struct.pack(f"{order}I", following)
    return content


def tags_of(width, height):
    sizes = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    return [*sizes, (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 100)]


@pytest.mark.parametrize("axis", "XYZCT")
@pytest.mark.parametrize("ending", ["companion.ome", "ome.tif"])
def test_ome_that_names_millions_of_planes_is_refused(tmp_path, axis, ending):
    grey = np.zeros((24, 30), np.uint8)
    sizes = {"X": 30, "Y": 24, "Z": 1, "C": 1, "T": 1, axis: 4294967295}
    told = " ".join(f'Size{name}="{size}"' for name, size in sizes.items())
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels '
        f'ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" {told}><TiffData IFD="0"><UUID '
        'FileName="a.ome.tif">urn:uuid:0</UUID></TiffData></Pixels></Image></OME>'
    )
    tifffile.imwrite(tmp_path / "a.ome.tif", grey, description=xml, metadata=None)
    (tmp_path / "a.companion.ome").write_text(xml)
    with pytest.raises(ReadError, match="4294967295"):
        read_image(tmp_path / f"a.{ending}")


@pytest.mark.parametrize("side", [10**6, 6000])
def test_a_tiff_that_claims_a_million_squared_is_refused(tmp_path, side):
    (tmp_path / "a.tif").write_bytes(tiff_of((tags_of(side, side), 0)) + bytes(200))
    with pytest.raises(ReadError, match=r"more than its \d+ bytes can"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("following", [8, 8 + 2 + 9 * 12 + 4])
def test_pages_that_lead_in_a_circle_are_refused(tmp_path, following):
    tags = tags_of(10, 10)
    second = 8 + 2 + len(tags) * 12 + 4
    (tmp_path / "a.tif").write_bytes(tiff_of((tags, second), (tags, following)) + bytes(200))
    with pytest.raises(ReadError, match="lead in a circle"):
        read_image(tmp_path / "a.tif")


def test_a_tiff_that_ends_within_its_tags_is_refused(tmp_path):
    """What lies before its end was taken for the place of a next page, again and again."""
    path = tmp_path / "cut.tif"
    tags = [(256, 4, 1, 30), (257, 4, 1, 24), (278, 4, 1, 8 << 16)]  # the last four bytes lead to the start
    path.write_bytes(
        b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    )
    with pytest.raises(ReadError, match="ends within its list of tags"):
        read_image(path)


def test_subpages_without_end_are_refused(tmp_path):
    tags = [*tags_of(10, 10), (330, 4, 2**31, 8)]
    (tmp_path / "a.tif").write_bytes(tiff_of((tags, 0)) + bytes(200))
    with pytest.raises(ReadError, match="too many"):
        read_image(tmp_path / "a.tif")


def test_a_picture_that_unpacks_to_gigabytes_is_refused(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10_000)))
    (tmp_path / "a.png").write_bytes(content + chunk(b"IEND", b""))
    with pytest.raises(ReadError):
        read_image(tmp_path / "a.png")


def test_a_deep_picture_of_gigabytes_is_refused(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 16, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10_000)))
    (tmp_path / "a.png").write_bytes(content + chunk(b"IEND", b""))
    with pytest.raises(ReadError):
        read_image(tmp_path / "a.png")


def test_an_array_that_claims_more_than_its_file_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 4), np.uint8))
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content.replace(b"(4, 4), }      ", b"(999999, 99999), }"[:15]))
    with pytest.raises(ReadError):
        read_image(tmp_path / "a.npy")


@pytest.mark.parametrize("shape", [(), (5,), (2, 2, 2, 2, 3, 3)])
def test_arrays_of_too_few_or_many_axes_are_refused(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.ones(shape))
    with pytest.raises(AxesError, match="2 to 5 dimensions"):
        read_image(tmp_path / "a.npy")


@pytest.mark.parametrize("kind", ["V1", "M8[s]", "U3", "u1,f4", "c8"])
def test_values_that_are_no_numbers_are_refused(tmp_path, kind):
    np.save(tmp_path / "a.npy", np.zeros((24, 30), kind))
    for read in (read_image, recognise(tmp_path / "a.npy").read):
        with pytest.raises(ReadError, match="must be numbers"):
            read(tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["coco", "labelme", "geojson", "via"])
def test_json_of_ten_thousand_levels_is_refused(tmp_path, name):
    deep = '{"type": "FeatureCollection", "features": ' + "[" * 10_000 + "]" * 10_000 + "}"
    path = tmp_path / f"a{READERS[name].extensions[0]}"
    path.write_text(deep)
    with pytest.raises(ReadError):
        READERS[name].read(path)


def test_what_cellwright_saves_is_refused_ten_thousand_levels_deep(tmp_path):
    from cellwright.inference.recipe import load_recipe
    from cellwright.models.fit import read_fit
    from cellwright.models.spec import read_classifier_spec, read_spec

    path = tmp_path / "fit.json"
    path.write_text("[" * 10_000 + "]" * 10_000)
    shutil.copyfile(path, tmp_path / "meta.json")
    readers = (load_recipe, read_classifier_spec, lambda path: read_fit(path.parent, ""), read_spec,
               lambda path: read_dataset(path.parent))  # fmt: skip
    for read in readers:
        with pytest.raises(CellwrightError):
            read(path)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_settings_that_name_no_model_are_refused(tmp_path, name):
    from cellwright.inference.recipe import Recipe, load_recipe, save_recipe
    from cellwright.models.store import find_classifier

    save_recipe(tmp_path / "a.json", Recipe(models=(name,)))
    with pytest.raises(CellwrightError, match="must be a folder or one of"):
        load_recipe(tmp_path / "a.json")
    with pytest.raises(CellwrightError, match="must be a folder or one of"):
        find_classifier(name)


@pytest.mark.parametrize(
    "values",
    [
        {"models": [3]},
        {"models": []},
        {"window": [[-5, 30], [0, 30]]},
        {"window": [[0.5, 30], [0, 30]]},
        {"window": [["a", 30], [0, 30]]},
        {"window": [[30, 30], [0, 30]]},
        {"pixel_size_um": [-1, 1]},
        {"pixel_size_um": ["a", 1]},
    ],
)
def test_settings_of_no_part_or_size_are_refused(tmp_path, values):
    from cellwright.inference.recipe import FORMAT, load_recipe

    path = tmp_path / "a.json"
    path.write_text(json.dumps({"format": FORMAT, **values}))
    with pytest.raises(ReadError, match=f"{next(iter(values))} in .* is damaged"):
        load_recipe(path)


def test_a_movie_that_unpacks_to_gigabytes_is_refused(tmp_path):
    frames = [Picture.new("L", (30, 20), shade) for shade in (0, 99)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    content = bytearray((tmp_path / "a.gif").read_bytes())
    content[6:10] = struct.pack("<HH", 9_000, 9_000)  # its screen
    (tmp_path / "a.gif").write_bytes(content)
    with pytest.raises(ReadError, match=r"more than its \d+ bytes can"):
        read_image(tmp_path / "a.gif")


def test_masks_without_a_pixel_are_refused(tmp_path, monkeypatch):
    from cellwright.files.formats import tracking_challenge

    (tmp_path / "res_track.txt").write_text("1 0 0 0\n")
    (tmp_path / "mask000.tif").write_bytes(b"x")
    empty = Image(np.zeros((0, 8), np.uint16), "YX")
    monkeypatch.setattr(tracking_challenge, "read_image", lambda path, are_labels: empty)
    with pytest.raises(ReadError):
        tracking_challenge.read(tmp_path)


def test_xml_of_ten_thousand_levels_is_refused(tmp_path):
    (tmp_path / "a.xml").write_text("<annotation>" + "<a>" * 10_000 + "</a>" * 10_000 + "</annotation>")
    with pytest.raises(ReadError):
        recognise(tmp_path / "a.xml").read(tmp_path / "a.xml")


def test_entities_that_unpack_to_gigabytes_are_refused(tmp_path):
    entities = "".join(f'<!ENTITY b{i} "{f"&b{i - 1};" * 10}">' for i in range(1, 12))
    pixels = (
        '<Pixels ID="P:0" DimensionOrder="XYCZT" Type="uint8" SizeX="8" SizeY="8" SizeC="1" SizeZ="1" '
        'SizeT="1"><TiffData/></Pixels>'
    )
    xml = (
        f'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY b0 "bbbbbbbbbb">{entities}]>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0" Name="&b11;">'
        f"{pixels}</Image></OME>"
    )
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((8, 8), np.uint8), description=xml, metadata=None)
    assert read_image(tmp_path / "a.ome.tif").shape == (8, 8)  # as a plain TIFF
    (tmp_path / "a.companion.ome").write_text(xml)
    with pytest.raises(ReadError, match="amplification"):
        read_image(tmp_path / "a.companion.ome")


def test_a_zip_that_unpacks_to_gigabytes_is_refused(tmp_path):
    roi = roifile.ImagejRoi.frompoints(np.array([[0, 0], [5, 0], [5, 5]]))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.roi", roi.tobytes() + bytes(20 << 20))
    assert (tmp_path / "a.zip").stat().st_size < 100_000
    with pytest.raises(ReadError, match=r"got 1 ROIs of 20\d+ bytes"):
        READERS["imagej-roi"].read(tmp_path / "a.zip")


class Huge:
    def __reduce__(self):
        return np.ndarray, ((10**5, 10**5), np.uint16)


class Growing:
    def __reduce__(self):
        return codecs.encode, (b"x", "hex")  # twice as long each time


@pytest.mark.parametrize("masks", [Huge(), Growing()])
def test_a_pickle_that_makes_gigabytes_is_refused(tmp_path, masks):
    np.save(tmp_path / "a_seg.npy", np.array({"masks": masks}, dtype=object), allow_pickle=True)
    with pytest.raises(ReadError, match="holds more than a Cellpose file does"):
        READERS["cellpose"].read(tmp_path / "a_seg.npy")


def seg_npy(path, pickled):
    np.save(path, np.array({}, dtype=object), allow_pickle=True)
    header = path.read_bytes().index(b"\x80")
    path.write_bytes(path.read_bytes()[:header] + pickled)


def test_a_pickle_that_asks_for_gigabytes_takes_none(tmp_path):
    seg_npy(tmp_path / "a_seg.npy", b"\x80\x04}r\xff\xff\xff\x0f.")  # {}, kept as number 2**28
    tracemalloc.start()
    with pytest.raises(ReadError, match="masks"):
        READERS["cellpose"].read(tmp_path / "a_seg.npy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize(
    ("dtype", "word"), [(np.dtype([("a", "u2"), ("b", "O")]), "type 'V10'"), (np.dtype("M8[s]"), "type 'M8'")]
)
def test_a_pickle_whose_values_numpy_would_have_to_believe_is_refused(tmp_path, dtype, word):
    content = np.array({"masks": np.zeros((4, 4), dtype)}, dtype=object)
    seg_npy(tmp_path / "a_seg.npy", pickle.dumps(content, 4))
    with pytest.raises(ReadError, match=word):
        READERS["cellpose"].read(tmp_path / "a_seg.npy")


def squares(*corners, side):
    """GeoJSON of squares with these first corners."""
    rings = [[[x, x], [x + side, x], [x + side, x + side], [x, x + side], [x, x]] for x in corners]
    shapes = [{"type": "Polygon", "coordinates": [ring]} for ring in rings]
    return json.dumps([{"type": "Feature", "geometry": shape, "properties": {}} for shape in shapes])


@pytest.mark.parametrize(("n", "side"), [(1, 17_000), (30, 100)])
def test_outlines_that_cover_gigabytes_are_refused(tmp_path, monkeypatch, n, side):
    if n > 1:  # together
        monkeypatch.setattr(assembly, "MOST_FILLED_PX", 1 << 18)
    (tmp_path / "a.geojson").write_text(squares(*range(n), side=side))
    with pytest.raises(ReadError, match="Name their image, or"):
        READERS["geojson"].read(tmp_path / "a.geojson")
    image = Image(np.zeros((1000, 1000), np.uint8), "YX", (), "a")
    (found,) = READERS["geojson"].read(tmp_path / "a.geojson", image)
    assert len(found) == n


def test_many_rois_far_apart_are_refused_without_the_size_of_their_image(tmp_path):
    places = range(0, 32_000, 40)  # nearly all of their labels would come into memory: 4 GB
    rois = [roifile.ImagejRoi.frompoints(np.array([[0, 0], [9, 0], [9, 9], [0, 9]]) + at) for at in places]
    roifile.roiwrite(tmp_path / "a.zip", rois, name=[f"{at}" for at in places], mode="w")
    with pytest.raises(ReadError, match=r"reach over \(31969, 31969\). Name their image, or split"):
        READERS["imagej-roi"].read(tmp_path / "a.zip")
    image = Image(np.zeros((500, 500), np.uint8), "YX", (), "a")
    with pytest.raises(ReadError, match="most do not"):
        READERS["imagej-roi"].read(tmp_path / "a.zip", image)


def many_squares(name, places, sides):
    """Name and content of a file that tells the size of its image, with a square at each place."""
    rings = [[[at, at], [at + 9, at], [at + 9, at + 9], [at, at + 9]] for at in places]
    if name == "coco":
        own = {"image_id": 1, "category_id": 1}
        outlines = [{**own, "segmentation": [np.ravel(ring).tolist()]} for ring in rings]
        image = {"id": 1, "file_name": "a.png", "height": sides[0], "width": sides[1]}
        content = {"images": [image], "annotations": outlines, "categories": [{"id": 1, "name": "x"}]}
    elif name == "labelme":
        shapes = [{"label": "x", "shape_type": "polygon", "points": ring} for ring in rings]
        content = {"shapes": shapes, "imagePath": "a.png", "imageHeight": sides[0], "imageWidth": sides[1]}
    elif name == "pascal-voc":
        corners = [
            "".join(f"<x{i}>{x}</x{i}><y{i}>{y}</y{i}>" for i, (x, y) in enumerate(ring, 1)) for ring in rings
        ]
        drawn = "".join(f"<object><name>x</name><polygon>{one}</polygon></object>" for one in corners)
        size = f"<size><height>{sides[0]}</height><width>{sides[1]}</width></size>"
        return "a.xml", f"<annotation><filename>a.png</filename>{size}{drawn}</annotation>"
    else:
        corners = [";".join(f"{x},{y}" for x, y in ring) for ring in rings]
        drawn = "".join(f'<polygon label="x" points="{one}"/>' for one in corners)
        image = f'<image name="a.png" height="{sides[0]}" width="{sides[1]}">{drawn}</image>'
        return "a.xml", f"<annotations>{image}</annotations>"
    return "a.json", json.dumps(content)


@pytest.mark.parametrize("name", ["coco", "labelme", "pascal-voc", "cvat"])
def test_labels_of_gigabytes_are_refused_where_the_file_alone_tells_their_size(tmp_path, monkeypatch, name):
    file, content = many_squares(name, range(0, 32_000, 40), (32_000, 32_500))
    (tmp_path / file).write_text(content)
    with pytest.raises(ReadError, match=r"reach over \(32000, 32500\)\. Name their image, or split"):
        READERS[name].read(tmp_path / file)
    monkeypatch.setattr(assembly, "MOST_TOLD_PX", 1 << 20)
    for n_squares in (1, 40):
        file, content = many_squares(name, range(0, 40 * n_squares, 40), (2000, 2500))
        (tmp_path / file).write_text(content)
        image = Image(np.zeros((2000, 2500), np.uint8), "YX", (), "a")
        (found,) = READERS[name].read(tmp_path / file, image)
        assert len(found) == n_squares
        if n_squares == 1:  # hardly any of its labels come into memory
            (found,) = READERS[name].read(tmp_path / file)
            assert found.shape == (2000, 2500)


def many_images(name):
    """Name and content of a file with 200 images of one outline each."""
    ring = [[1, 1], [999, 1], [999, 999], [1, 999]]
    if name == "coco":
        images = [{"id": i, "file_name": f"{i}.png", "height": 1000, "width": 1000} for i in range(200)]
        outlines = [
            {"image_id": i, "category_id": 1, "segmentation": [np.ravel(ring).tolist()]} for i in range(200)
        ]
        content = {"images": images, "annotations": outlines, "categories": [{"id": 1, "name": "x"}]}
        return "a.json", json.dumps(content)
    if name == "via":
        xs, ys = zip(*ring, strict=True)
        region = {"shape_attributes": {"name": "polygon", "all_points_x": xs, "all_points_y": ys}}
        regions = [{**region, "region_attributes": {}}]
        return "a.json", json.dumps(
            {f"{i}.png-1": {"filename": f"{i}.png", "size": 1, "regions": regions} for i in range(200)}
        )
    corners = ";".join(f"{x},{y}" for x, y in ring)
    drawn = f'<polygon label="x" points="{corners}"/>'
    images = (f'<image name="{i}.png" height="1000" width="1000">{drawn}</image>' for i in range(200))
    return "a.xml", f"<annotations>{''.join(images)}</annotations>"


@pytest.mark.parametrize("name", ["coco", "via", "cvat"])
def test_labels_of_many_images_are_refused_where_memory_is_too_small_for_all(tmp_path, monkeypatch, name):
    file, content = many_images(name)
    (tmp_path / file).write_text(content)
    free = [40_000_000.0]

    def taken():
        free[0] -= 4_000_000
        return free[0]

    monkeypatch.setattr(assembly, "free_memory", taken)
    with pytest.raises(ReadError, match=r"must fit into memory, .* Name one of its images, or split"):
        READERS[name].read(tmp_path / file)
    image = Image(np.zeros((1000, 1000), np.uint8), "YX", (), "150")
    (found,) = READERS[name].read(tmp_path / file, image)  # and no other
    assert (found.name, len(found), found.shape) == ("150", 1, (1000, 1000))


@pytest.mark.parametrize("name", ["geojson", "coco"])
def test_outlines_without_end_are_left_out(tmp_path, name):
    turns = [[x / 100, 16_000 * (x % 2)] for x in range(3000)]  # 3000 times from one edge to the other
    path = tmp_path / "a.geojson"
    content = json.loads(squares(1, side=9))
    content.append({**content[0], "geometry": {"type": "Polygon", "coordinates": [[*turns, turns[0]]]}})
    if name == "coco":
        path = tmp_path / "a.json"
        outlines = [[1, 1, 9, 1, 9, 9], [value for place in turns for value in place]]
        own = {"image_id": 1, "category_id": 1}
        content = {
            "images": [{"id": 1, "file_name": "a.png", "height": 16_000, "width": 100}],
            "annotations": [{**own, "id": n, "segmentation": [one]} for n, one in enumerate(outlines)],
            "categories": [{"id": 1, "name": "x"}],
        }
    path.write_text(json.dumps(content))
    (found,) = READERS[name].read(path)
    assert len(found) == 1
    assert "1 have outlines of too many turns" in found.notices[0]


def test_what_fits_no_memory_is_an_error_of_ours(tmp_path, monkeypatch):
    def full(shape, dtype=float):
        raise MemoryError

    (tmp_path / "a.geojson").write_text(squares(1, side=9))
    monkeypatch.setattr(np, "zeros", full)
    with pytest.raises(ReadError, match="does not fit into memory"):
        READERS["geojson"].read(tmp_path / "a.geojson")


def test_a_mask_that_claims_gigabytes_is_left_out(tmp_path):
    mask = '<mask label="x" rle="0,1099511627776" left="0" top="0" width="1048576" height="1048576"/>'
    box = '<box label="x" xtl="1" ytl="1" xbr="9" ybr="9"/>'
    (tmp_path / "a.xml").write_text(
        f'<annotations><image name="a.png" width="30" height="30">{box}{mask}</image></annotations>'
    )
    (found,) = READERS["cvat"].read(tmp_path / "a.xml")
    assert len(found) == 1
    assert "1 made no sense" in found.notices[0]


def test_links_out_of_a_dataset_are_refused(tmp_path):
    folder = tmp_path / "data"
    image = Image(np.zeros((20, 20), np.uint8), "YX", (), "a")
    write_labels(folder / "masks" / "a.tif", np.ones((20, 20), np.int32), image)
    tifffile.imwrite(tmp_path / "secret.tif", np.zeros((20, 20), np.uint8))
    (folder / "images").mkdir()
    (folder / "images" / "a.tif").symlink_to(tmp_path / "secret.tif")
    (folder / "meta.json").write_text('{"split": {"train": ["a"]}, "items": {}}')
    with pytest.raises(ReadError, match="is a link to"):
        read_dataset(folder)
    (folder / "images" / "a.tif").unlink()
    tifffile.imwrite(folder / "images" / "b.tif", np.zeros((20, 20), np.uint8))
    (folder / "images" / "a.tif").symlink_to("b.tif")
    assert len(read_dataset(folder)) == 1


@pytest.mark.parametrize("kind", ["dataset", "companion.ome", "ome.tif"])
def test_a_file_that_names_another_by_a_name_no_system_takes_is_an_error_of_ours(tmp_path, kind):
    long = "a" * 3000 + ".ome.tif"
    if kind == "dataset":
        (tmp_path / "meta.json").write_text(json.dumps({"split": {"train": [long]}, "items": {}}))
    elif kind == "ome.tif":
        told = f'<OME xmlns="{OME}"><BinaryOnly MetadataFile="{long}" UUID="urn:uuid:0"/></OME>'
        tifffile.imwrite(
            tmp_path / "a.ome.tif", np.zeros((24, 30), np.uint8), description=told, metadata=None
        )
    else:
        (tmp_path / "a.companion.ome").write_text(
            f'<OME xmlns="{OME}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" '
            f'Type="uint8" SizeX="30" SizeY="24" SizeZ="1" SizeC="1" SizeT="1"><TiffData IFD="0">'
            f'<UUID FileName="{long}">'
            "urn:uuid:0</UUID></TiffData></Pixels></Image></OME>"
        )
    with pytest.raises(ReadError):
        read_dataset(tmp_path) if kind == "dataset" else read_image(tmp_path / f"a.{kind}")


@pytest.mark.parametrize(
    "read", [read_image, recognise, read_dataset, read_regions, read_mask, read_label_image]
)
def test_a_name_that_no_system_takes_is_an_error_of_ours(tmp_path, read):
    is_region = read in (read_regions, read_mask, read_label_image)
    rest = [Image(np.zeros((9, 9), np.uint8), "YX")] if is_region else []
    with pytest.raises(ReadError):
        read(tmp_path / ("a" * 3000 + ".tif"), *rest)


def test_a_file_that_changes_while_it_is_read_is_an_error_of_ours(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((128, 128), np.uint8))
    image = read_image(tmp_path / "a.npy")
    assert image.read().sum() == 128**2
    with (tmp_path / "a.npy").open("r+b") as file:
        file.truncate(200)  # to look beyond it would end Python at once
    for part in (image, replace(image, data=image.data[64:])):
        with pytest.raises(CellwrightError, match="has become shorter"):
            part.read()
    Picture.new("L", (30, 20)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:45])
    with pytest.raises(CellwrightError):
        read_image(tmp_path / "a.png")


def packed_bombs():
    """Chunks of a few kilobytes that unpack to 3 MiB of zeros, by the name of their codec."""
    import bz2
    import gzip
    import lzma

    from numcodecs import LZ4, Blosc, Zstd

    zeros = bytes(3 << 20)
    packs = {"zlib": zlib.compress, "gzip": gzip.compress, "bz2": bz2.compress,
             "lzma": partial(lzma.compress, preset=0),
             "zstd": Zstd().encode, "blosc": Blosc().encode, "lz4": LZ4().encode}  # fmt: skip
    return {name: bytes(pack(zeros)) for name, pack in packs.items()}


def test_chunks_that_unpack_to_more_than_they_hold_are_refused(tmp_path):
    import numcodecs

    for name, bomb in packed_bombs().items():
        codec = numcodecs.get_codec({"id": name})
        for kind in ({"compressors": codec}, {"filters": [codec], "compressors": None}):
            folder = tmp_path / f"{name}_{len(kind)}.zarr"
            array = zarr.create_array(folder, shape=(16, 16), dtype="u2", zarr_format=2, **kind)
            array[:] = 7
            assert (read_image(folder).read() == 7).all()
            (folder / "0.0").write_bytes(bomb)
            with pytest.raises(CellwrightError, match="cannot be read: a chunk"):
                read_image(folder).read()


@pytest.mark.parametrize("version", [2, 3])
def test_a_store_that_lacks_nearly_all_of_what_it_claims_is_refused(tmp_path, version):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=version)
    array = group.create_array("0", shape=(999_999, 767_000), chunks=(12, 15), dtype="u1")
    array[:24, :30] = 1
    with pytest.raises(ReadError, match=r"for \(999999, 767000\) of uint8, 4 are there"):
        read_image(tmp_path / "a.zarr" / "0")
    group.create_array("1", shape=(6000, 6000), chunks=(500, 500), dtype="u1")[:9, :9] = 1
    assert read_image(tmp_path / "a.zarr" / "1").read((0, slice(8, 10))).tolist() == [1, 0]


@pytest.mark.parametrize("shards", [None, (16, 16)])
def test_chunks_of_zarr_3_that_unpack_to_more_than_they_hold_are_refused(tmp_path, shards):
    import google_crc32c

    bombs = packed_bombs()
    for codec in (zarr.codecs.GzipCodec(), zarr.codecs.ZstdCodec(), zarr.codecs.BloscCodec()):
        name = codec.to_dict()["name"]
        folder, chunks = tmp_path / name, (8, 16)
        array = zarr.create_array(
            folder, shape=(16, 16), chunks=chunks, shards=shards, dtype="u2", compressors=codec
        )
        array[:] = np.arange(256).reshape(16, 16)
        assert (read_image(folder).read() == array[:]).all()
        chunk = folder / "c" / "0" / "0"
        bomb = bombs[name]
        if shards:  # the index of a shard stands at its end: offset and length of each chunk
            index = np.array([0, len(bomb), 0, len(bomb)], "<u8").tobytes()
            bomb += index + struct.pack("<I", google_crc32c.value(index))
        chunk.write_bytes(bomb)
        with pytest.raises(CellwrightError, match="cannot be read: a chunk"):
            read_image(folder).read()


@pytest.mark.parametrize(
    ("kind", "encode"),
    [
        ("jpeg", "jpeg_encode"),
        ("jpeg2000", "jpeg2k_encode"),
        ("png", "png_encode"),
        ("zlib", "zlib_encode"),
        ("jpegxl", "jpegxl_encode"),
        ("jpegxr", "jpegxr_encode"),
    ],
)
def test_a_tile_that_unpacks_to_more_than_a_tile_is_refused(tmp_path, monkeypatch, kind, encode):
    import imagecodecs

    monkeypatch.setattr("cellwright.files.tiff_checks.MOST_SAMPLES", 1 << 16)
    path, order = tmp_path / "a.tif", np.random.default_rng(0)
    tifffile.imwrite(path, order.integers(0, 255, (64, 64)).astype("u1"), tile=(64, 64), compression=kind)
    assert read_image(path).shape == (64, 64)
    bomb, whole = getattr(imagecodecs, encode)(np.zeros((400, 400), np.uint8)), path.read_bytes()
    with tifffile.TiffFile(path) as file:
        offset, size = (file.pages[0].tags[code].valueoffset for code in (324, 325))
    content = bytearray(whole + bomb)
    content[offset : offset + 4] = struct.pack("<I", len(whole))
    content[size : size + 4] = struct.pack("<I", len(bomb))
    path.write_bytes(content)
    with pytest.raises(ReadError, match=r"a tile claims 160000 samples|unpacks to more pixels"):
        read_image(path)


def test_a_chunk_of_hdf5_that_unpacks_to_more_than_it_holds_is_refused(tmp_path):
    filters = SimpleNamespace(get_nfilters=lambda: 2, get_filter=[(1,), (3,)].__getitem__)  # packed, summed
    chunks = [(0, zlib.compress(bytes(4096))), (1, bytes(4096)), (2, zlib.compress(bytes(8 << 20)))]
    for n, (mask, _) in enumerate(chunks, start=1):
        told = SimpleNamespace(
            get_create_plist=lambda: filters,
            get_storage_size=lambda: 1 << 20,
            get_num_chunks=lambda n=n: n,
            get_chunk_info=lambda number: SimpleNamespace(chunk_offset=(number,)),
            read_direct_chunk=lambda place: chunks[place[0]],
        )
        dataset = SimpleNamespace(id=told, chunks=(64, 64), dtype=np.dtype("u1"))
        if mask < 2:  # 1 is a chunk that was not packed
            hdf5._refuse_chunks_beyond(dataset, tmp_path)
            continue
        with pytest.raises(ReadError, match="unpacks to more than 4160 bytes"):
            hdf5._refuse_chunks_beyond(dataset, tmp_path)


@pytest.mark.parametrize("walk", ["while True: pass", "import os; os.abort()"])
def test_hdf5_that_never_ends_or_crashes_is_refused(tmp_path, monkeypatch, walk):
    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace())
    monkeypatch.setattr(hdf5, "MOST_SECONDS_OF_WALK", 0.3)
    monkeypatch.setattr(hdf5, "WALK", walk)
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n damaged")
    with pytest.raises(ReadError, match="never finished reading it"):
        read_image(tmp_path / "a.h5")


def test_hdf5_that_ends_is_walked_through_whatever_its_name(monkeypatch):
    walk = """import os, sys
if "bad" in sys.argv[1]:
    os.abort()
"""
    monkeypatch.setattr(hdf5, "WALK", walk)
    found = {name: hdf5._comes_to_an_end(Path(name)) for name in ("a", "ö b", "-c", "bad")}
    assert found == {"a": True, "ö b": True, "-c": True, "bad": False}


def test_an_outline_far_around_is_left_out_before_it_is_filled(tmp_path):
    (tmp_path / "a_cp_outlines.txt").write_text("2,3,12,3,12,13,2,13\n20,20,25,42949672\n20,20,8000,9000")
    (found,) = recognise(tmp_path / "a_cp_outlines.txt").read(tmp_path / "a_cp_outlines.txt")
    assert len(found) == 1
    assert "2 made no sense" in found.notices[0]


def test_hdf5_is_walked_through_without_a_console_window(monkeypatch):
    asked = {}
    done = SimpleNamespace(returncode=0)
    monkeypatch.setattr(hdf5, "NO_WINDOW", 0x8000000)  # as Windows has it
    monkeypatch.setattr(hdf5.subprocess, "run", lambda *_, **options: asked.update(options) or done)
    assert hdf5._comes_to_an_end(Path("a.h5"))
    assert asked["creationflags"] == 0x8000000
