"""Files as programs really write them: each stands for a kind that was once read wrongly."""

import io
import json
import os
import shutil
import socket
import struct
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image as Picture
from PIL import ImageCms
from tifffile import TiffWriter

from cellwright.core.errors import AxesError, ImageError, ReadError
from cellwright.files.folders.image_list import list_images
from cellwright.files.images import describe_images, read_image, read_images
from cellwright.files.zarr import S3_TRIES, SILENT_SECONDS, _server_options
from cellwright.ops.geometry.axes import frames


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def grey(rng):
    return rng.integers(0, 256, (40, 50)).astype(np.uint8)


@pytest.fixture
def colours(rng):
    return rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)


def write_palette(path, places, table, **options):
    """A TIFF of places in a palette of (N, 3) colours of 8 bits."""
    colormap = np.zeros((3, 256), np.uint16)
    colormap[:, : len(table)] = np.asarray(table, np.uint16).T * 257
    tifffile.imwrite(path, places, photometric="palette", colormap=colormap, **options)


def test_a_palette_of_greys_gives_its_intensities(tmp_path, rng, grey):
    table = rng.permutation(256)
    places = np.argsort(table)[grey].astype(np.uint8)
    write_palette(tmp_path / "a.tif", places, np.stack([table] * 3, axis=1))
    image = read_image(tmp_path / "a.tif")
    assert image.axes == "YX"
    np.testing.assert_array_equal(image.data, grey)


def test_a_palette_of_colours_gives_a_colour_image(tmp_path, rng):
    table = rng.integers(0, 256, (64, 3))
    places = rng.integers(0, 64, (40, 50)).astype(np.uint8)
    write_palette(tmp_path / "a.tif", places, table)
    image = read_image(tmp_path / "a.tif")
    assert (image.axes, image.data.dtype) == ("YXC", np.uint8)
    np.testing.assert_array_equal(image.data, table[places])


def test_the_palette_of_imagej_is_for_show(tmp_path, grey):
    fire = np.stack([np.arange(256), np.arange(256) // 2, np.zeros(256, int)], axis=1)
    write_palette(tmp_path / "a.tif", grey, fire, description="ImageJ=1.54f\nimages=1\n", metadata=None)
    image = read_image(tmp_path / "a.tif")
    assert image.axes == "YX"
    np.testing.assert_array_equal(image.data, grey)


@pytest.mark.parametrize("n_channels", [1, 2])
def test_look_up_tables_of_imagej_are_colours_of_channels(tmp_path, rng, n_channels):
    data = rng.integers(0, 5000, (n_channels, 40, 50)).astype(np.uint16)
    green, red = np.zeros((2, 3, 256), np.uint8)
    green[1] = red[0] = np.arange(256)
    options = {"axes": "CYX", "LUTs": [green, red][:n_channels]}
    tifffile.imwrite(tmp_path / "a.tif", data, imagej=True, metadata=options)
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.read(), data.squeeze())
    assert image.channel_colors == ("#00ff00", "#ff0000") * (n_channels - 1)


def test_pages_have_palettes_of_their_own(tmp_path):
    places = np.arange(1200, dtype=np.uint16).astype(np.uint8).reshape(30, 40)
    tables = np.random.default_rng(0).integers(0, 256, (2, 3, 256)).astype(np.uint16)
    with TiffWriter(tmp_path / "a.tif") as tiff:
        for table in tables:
            tiff.write(places, photometric="palette", colormap=table << 8, metadata=None, contiguous=False)
    (image,) = read_images(tmp_path / "a.tif")
    assert image.axes[-3:] == "YXC"
    np.testing.assert_array_equal(image.data, np.stack([table.T[places] for table in tables]))


@pytest.mark.parametrize("is_ome", [False, True])
def test_planar_colours_are_one_image(tmp_path, colours, is_ome):
    planes = np.moveaxis(colours, -1, 0)
    metadata = {"axes": "CYX"} if is_ome else None
    options = {"photometric": "rgb", "planarconfig": "separate", "metadata": metadata}
    tifffile.imwrite(tmp_path / "a.tif", planes, ome=is_ome, **options)
    image = read_image(tmp_path / "a.tif")
    assert image.axes == "YXC"
    np.testing.assert_array_equal(image.data, colours)


def test_planar_colours_with_transparency_lose_it(tmp_path, colours):
    planes = np.concatenate([np.moveaxis(colours, -1, 0), np.full((1, 40, 50), 9, np.uint8)])
    options = {"photometric": "rgb", "planarconfig": "separate", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(tmp_path / "a.tif", planes, metadata=None, **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").data, colours)


@pytest.mark.parametrize("metadata", [None, {}])
def test_planes_that_are_no_colours_are_channels(tmp_path, rng, metadata):
    planes = rng.integers(0, 256, (4, 40, 50)).astype(np.uint8)
    options = {"photometric": "minisblack", "planarconfig": "separate", "metadata": metadata}
    tifffile.imwrite(tmp_path / "a.tif", planes, **options)
    for axes, read_as in ((None, "CYX"), ("TYX", "TYX")):
        image = read_image(tmp_path / "a.tif", axes)
        assert image.axes == read_as
        np.testing.assert_array_equal(image.data, planes)
    assert describe_images(tmp_path / "a.tif")[0].axes == "CYX"


@pytest.mark.parametrize("name", ["planes.tif", "pixels.tif", "picture.png"])
def test_colours_are_not_read_as_columns_of_pixels(tmp_path, colours, name):
    if name == "planes.tif":  # which tifffile takes for colours and opacity
        planes = np.stack([colours[..., 0]] * 4)
        tifffile.imwrite(tmp_path / name, planes, planarconfig="separate", photometric="rgb")
    elif name == "pixels.tif":
        tifffile.imwrite(tmp_path / name, colours, photometric="rgb")
    else:
        Picture.fromarray(colours).save(tmp_path / name)
    with pytest.raises(AxesError, match="holds its colours; TYX takes them for pixels"):
        read_image(tmp_path / name, "tyx")
    assert read_image(tmp_path / name, "YXZ").shape == (40, 50, 3)


@pytest.mark.parametrize("most", [65_535, 4095])
@pytest.mark.parametrize("kind", ["P6", "P3"])
def test_all_bits_of_a_ppm_are_read(tmp_path, rng, most, kind):
    pixels = rng.integers(0, most + 1, (7, 9, 3))
    told = pixels.astype(">u2").tobytes() if kind == "P6" else " ".join(map(str, pixels.ravel())).encode()
    (tmp_path / "a.ppm").write_bytes(f"{kind}\n# of a camera\n9 7\n{most}\n".encode() + told)
    image = read_image(tmp_path / "a.ppm")
    assert (image.axes, image.data.dtype) == ("YXC", np.uint16)
    np.testing.assert_array_equal(image.data, pixels)
    (known,) = describe_images(tmp_path / "a.ppm")
    assert (known.axes, known.shape, known.data.dtype) == ("YXC", (7, 9, 3), np.uint16)
    (tmp_path / "a.ppm").write_bytes((tmp_path / "a.ppm").read_bytes()[:60])
    with pytest.raises(ReadError, match=r"damaged|is text"):
        read_image(tmp_path / "a.ppm")


@pytest.mark.parametrize("most", [65_535, 4095])
@pytest.mark.parametrize("kind", ["P5", "P2"])
def test_the_values_of_a_deep_pgm_are_kept(tmp_path, rng, most, kind):
    """Pillow stretches 12 bits to 16."""
    pixels = rng.integers(0, most + 1, (7, 9))
    told = pixels.astype(">u2").tobytes() if kind == "P5" else " ".join(map(str, pixels.ravel())).encode()
    (tmp_path / "a.pgm").write_bytes(f"{kind}\n9 7\n{most}\n".encode() + told)
    image = read_image(tmp_path / "a.pgm")
    np.testing.assert_array_equal(image.data, pixels)
    (known,) = describe_images(tmp_path / "a.pgm")
    assert (known.axes, known.shape, known.data.dtype) == (image.axes, image.shape, image.data.dtype)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_profiles_of_colour_change_no_value(tmp_path, colours, ending):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    options = {"quality": 95} if ending == "jpg" else {}
    for name, own in {"plain": None, "told": profile}.items():
        Picture.fromarray(colours).save(tmp_path / f"{name}.{ending}", icc_profile=own, **options)
    plain, told = (read_image(tmp_path / f"{name}.{ending}") for name in ("plain", "told"))
    with Picture.open(tmp_path / f"told.{ending}") as picture:
        assert picture.info["icc_profile"] == profile
    np.testing.assert_array_equal(told.data, plain.data)


def test_any_range_of_values_is_kept(tmp_path):
    values = np.array([[np.nan, np.inf, -np.inf], [-3e38, 1e-38, 3e38]], np.float32)
    counts = np.array([[0, 2**32 - 1], [2**31, 5]], np.uint32)
    for data in (values, counts, counts.astype(np.int64) * 2**31, values.astype(np.float64) * 1e200):
        tifffile.imwrite(tmp_path / "a.tif", data)
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif").data, data)


def test_inks_become_light(tmp_path, colours):
    Picture.fromarray(colours).convert("CMYK").save(tmp_path / "a.tif")
    image = read_image(tmp_path / "a.tif")
    assert image.axes == "YXC"
    np.testing.assert_allclose(image.data.astype(int), colours, atol=1)


def test_inks_of_16_bits_keep_them(tmp_path):
    inks = np.zeros((20, 30, 4), np.uint16)
    inks[..., 3] = 32768
    tifffile.imwrite(tmp_path / "a.tif", inks, photometric="separated")
    data = read_image(tmp_path / "a.tif").data
    assert (data.dtype, data.shape) == (np.uint16, (20, 30, 3))
    assert set(data.ravel().tolist()) == {32767}


@pytest.mark.parametrize("bits", [1, 8, 16])
def test_white_is_zero_is_turned_round(tmp_path, bits):
    data = np.arange(600).reshape(20, 30) % 2**bits
    kind = {1: bool, 8: np.uint8, 16: np.uint16}[bits]
    tifffile.imwrite(tmp_path / "a.tif", data.astype(kind), photometric="miniswhite", metadata=None)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").data, (2**bits - 1 - data).astype(kind))


def test_luma_and_chroma_become_colours(tmp_path, rng):
    data = np.repeat(np.repeat(rng.integers(0, 256, (5, 6, 3)), 8, 0), 8, 1).astype(np.uint8)
    Picture.fromarray(data).save(tmp_path / "raw.tif", compression="jpeg", quality=95)
    np.testing.assert_allclose(read_image(tmp_path / "raw.tif").data.astype(int), data, atol=60)
    luma = np.asarray(Picture.fromarray(data).convert("YCbCr"))
    tifffile.imwrite(tmp_path / "a.tif", luma, photometric="ycbcr", subsampling=(1, 1), metadata=None)
    np.testing.assert_allclose(read_image(tmp_path / "a.tif").data.astype(int), data, atol=3)


@pytest.mark.parametrize("photometric", ["cielab", "icclab"])
def test_cielab_becomes_colours(tmp_path, photometric):
    from skimage.color import rgb2lab

    rgb = np.zeros((8, 8, 3), np.uint8)
    rgb[:, :4], rgb[:, 4:] = (200, 40, 60), (30, 90, 220)
    lab = rgb2lab(rgb)
    hues = np.rint(lab[..., 1:])
    stored = hues.astype(np.int8).view(np.uint8) if photometric == "cielab" else (hues + 128).astype(np.uint8)
    data = np.concatenate([np.rint(lab[..., :1] * 2.55).astype(np.uint8), stored], axis=-1)
    tifffile.imwrite(tmp_path / "a.tif", data, photometric=photometric, metadata=None)
    np.testing.assert_allclose(read_image(tmp_path / "a.tif").data.astype(int), rgb, atol=6)


@pytest.mark.parametrize("photometric", ["cielab", "icclab"])
def test_cielab_of_16_bits_becomes_colours(tmp_path, colours, photometric):
    from skimage.color import rgb2lab

    lab = rgb2lab(colours)
    steps = [65535 / 100, 256, 256] if photometric == "cielab" else [65280 / 100, 256, 256]
    middle = [0, 0, 0] if photometric == "cielab" else [0, 128 * 256, 128 * 256]
    stored = np.rint(lab * steps + middle).astype(np.int32).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric=photometric, metadata=None)
    image = read_image(tmp_path / "a.tif")
    assert (image.axes, image.data.dtype, image.is_converted) == ("YXC", np.uint16, True)
    np.testing.assert_allclose(image.data / 257, colours, atol=0.5)


def test_white_is_zero_of_signed_numbers_is_turned_round(tmp_path, rng):
    data = rng.integers(-100, 100, (40, 50)).astype(np.int16)
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="miniswhite", metadata=None)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").data, -1 - data)


@pytest.mark.parametrize(
    ("photometric", "kind", "n_samples", "told"),
    [
        ("miniswhite", "f4", 0, "MINISWHITE of float32"),
        ("cielab", "f4", 3, "CIELAB of float32"),
        (10, "u1", 3, "ITULAB of uint8"),
        (32845, "f4", 3, "LOGLUV of float32"),
        (32803, "u2", 0, "CFA of uint16"),
    ],
)
def test_pixels_that_are_no_light_are_told(tmp_path, photometric, kind, n_samples, told):
    data = np.ones((40, 50, n_samples) if n_samples else (40, 50), kind)
    tifffile.imwrite(tmp_path / "a.tif", data, photometric=photometric, metadata=None)
    (image,) = read_images(tmp_path / "a.tif")
    assert [notice for notice in image.notices if told in notice and "as they are stored" in notice]
    np.testing.assert_array_equal(image.data, data)
    assert describe_images(tmp_path / "a.tif")[0].notices == image.notices


def test_luma_of_every_page_and_subpage_becomes_colours(tmp_path):
    y, x = np.mgrid[:32, :40]
    pixels = np.stack([y * 6, x * 5, y * 3 + x * 2], -1).astype(np.uint8)
    luma = np.asarray(Picture.fromarray(pixels).convert("YCbCr"))
    options = {"photometric": "ycbcr", "subsampling": (1, 1), "compression": "zlib"}
    tifffile.imwrite(tmp_path / "pages.tif", np.stack([luma, luma[::-1]]), **options)
    pages = read_image(tmp_path / "pages.tif")
    assert pages.axes == "ZYXC"
    np.testing.assert_allclose(pages.data.astype(int), np.stack([pixels, pixels[::-1]]), atol=4)
    with tifffile.TiffWriter(tmp_path / "inside.tif") as file:
        file.write(np.zeros((8, 8, 3), np.uint8), photometric="rgb", subifds=1)
        file.write(luma, metadata=None, **options)
    np.testing.assert_allclose(read_image(tmp_path / "inside.tif").data.astype(int), pixels, atol=4)


@pytest.mark.parametrize("bits", [2, 4, 12])
def test_odd_depths_are_read(tmp_path, rng, bits):
    data = rng.integers(0, 2**bits, (40, 52)).astype(np.uint16 if bits > 8 else np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", data, bitspersample=bits)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").data, data)


def old_jpeg(path, pixels):
    """Write a TIFF of old-style JPEG, whose strip lacks the tables: they stand beside it."""
    file = io.BytesIO()
    Picture.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    data, at, tables = file.getvalue(), 2, {}
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] in (0xDB, 0xC4):  # of quantisation, of Huffman codes
            tables[data[at + 1], data[at + 4]] = data[at + 5 : end]
        at = end
    scan = data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") : -2]
    content, place, tags = b"", {}, {}
    for key, table in tables.items():
        place[key] = 8 + len(content)
        content += table
    for tag, kind, first in ((519, 0xDB, 0), (520, 0xC4, 0), (521, 0xC4, 16)):
        tags[tag] = "I", [place[kind, first + n] for n in (0, 1, 1)]
    height, width, _ = pixels.shape
    short = {258: [8] * 3, 259: [6], 262: [6], 277: [3], 512: [1], 530: [1, 1]}
    long = {256: [width], 257: [height], 273: [8 + len(content)], 278: [height], 279: [len(scan)]}
    tags |= {tag: ("H", values) for tag, values in short.items()}
    tags |= {tag: ("I", values) for tag, values in long.items()}
    content += scan
    directory, more = struct.pack("<H", len(tags)), b""
    beyond = 8 + len(content) + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}{kind}", *values)
        if len(packed) > 4:
            packed, more = struct.pack("<I", beyond + len(more)), more + packed
        directory += struct.pack("<HHI4s", tag, {"H": 3, "I": 4}[kind], len(values), packed)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(content)) + content + directory + bytes(4) + more)


def test_jpeg_of_the_old_style_is_read(tmp_path):
    y, x = np.mgrid[:32, :40]
    pixels = np.stack([y * 6, x * 5, y * 3 + x * 2], -1).astype(np.uint8)
    old_jpeg(tmp_path / "a.tif", pixels)
    image = read_image(tmp_path / "a.tif")
    assert (image.axes, image.data.dtype) == ("YXC", np.uint8)
    np.testing.assert_allclose(image.data.astype(int), pixels, atol=4)


def test_strips_that_hold_too_much_are_told(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.arange(100, dtype=np.uint8).reshape(10, 10), compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        for name in ("ImageLength", "RowsPerStrip"):
            file.pages.first.tags[name].overwrite(5)
    with pytest.raises(ReadError, match=r"a\.tif unpacks to more pixels than it has room for"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "tif", "pages.tif"])
def test_turned_pictures_are_upright(tmp_path, orientation, ending):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :16], upright[16:, 32:] = (255, 0, 0), (0, 0, 255)
    back = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    stored = np.ascontiguousarray(back[orientation](upright))
    if ending == "pages.tif":
        upright = np.stack([upright[..., 0], upright[..., 2]])
        stored = np.moveaxis(stored[..., [0, 2]], -1, 0)
    if ending == "jpg":
        exif = Picture.Exif()
        exif[274] = orientation
        Picture.fromarray(stored).save(tmp_path / "a.jpg", exif=exif, quality=98, subsampling=0)
    else:
        tifffile.imwrite(
            tmp_path / f"a.{ending}", stored, metadata=None, extratags=[(274, 3, 1, orientation, True)]
        )
    np.testing.assert_allclose(read_image(tmp_path / f"a.{ending}").data.astype(int), upright, atol=12)


@pytest.mark.parametrize("kind", ["metadata", "ome", "imagej"])
def test_pages_that_are_turned_in_several_ways_are_told(tmp_path, kind):
    pages = np.arange(30, dtype=np.uint8).reshape(2, 3, 5)
    options = {kind: True} if kind != "metadata" else {"metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", pages, extratags=[(274, 3, 1, 3, False)], **options)
    is_turned = kind == "metadata"  # what programs do to the others
    shown = pages[:, ::-1, ::-1] if is_turned else pages
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.data, shown)
    assert not any("in several ways" in notice for notice in image.notices)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages[1].aspage().tags[274].overwrite(1)
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.data, shown)
    became = "turned as the first is" if is_turned else "read as they are stored"
    assert any(f"in several ways; all were {became}" in notice for notice in image.notices)


@pytest.mark.parametrize(("orientation", "sizes"), [(3, (5.0, 2.5)), (6, (2.5, 5.0))])
def test_sizes_turn_with_the_picture(tmp_path, orientation, sizes):
    tags = [(274, 3, 1, orientation, True)]
    data = np.zeros((8, 9), np.uint8)
    tifffile.imwrite(
        tmp_path / "a.tif", data, extratags=tags, resolution=(4000, 2000), resolutionunit="CENTIMETER"
    )
    assert read_image(tmp_path / "a.tif").pixel_size_um == pytest.approx(sizes)


@pytest.mark.parametrize(("unit", "per_unit"), [("inch", 72), ("inch", 300), ("cm", 28.35)])
def test_the_density_of_a_print_is_no_pixel_size(tmp_path, grey, unit, per_unit):
    metadata = {"unit": unit}
    tifffile.imwrite(tmp_path / "a.tif", grey, imagej=True, resolution=(per_unit,) * 2, metadata=metadata)
    assert read_image(tmp_path / "a.tif").pixel_size_um == ()


def test_a_size_in_the_plane_alone_is_kept(tmp_path, grey):
    stack = np.stack([grey] * 8)
    metadata = {"axes": "ZYX", "unit": "micron"}
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, resolution=(2, 2), metadata=metadata)
    image = read_image(tmp_path / "a.tif")
    assert image.pixel_size_um == (0.0, 0.5, 0.5)
    assert image.known_sizes_um == {"Y": 0.5, "X": 0.5}
    assert "step between slices" in " ".join(image.notices)


@pytest.mark.parametrize("n_more", [0, 1, 2, 3])
@pytest.mark.parametrize(("shape", "axes"), [((40, 50, 1), "YXC"), ((8, 40, 50, 1), "ZYXC")])
def test_axes_of_length_one_at_the_end_are_one_channel(tmp_path, shape, axes, n_more):
    np.save(tmp_path / "a.npy", np.zeros(shape + (1,) * n_more, np.uint16))
    image = read_image(tmp_path / "a.npy")
    assert image.axes == axes
    assert image.notices[0].startswith(f"No axes are named; {axes} was guessed from the shape {shape}: ")
    assert image.axes_are_guessed
    assert read_image(tmp_path / "a.npy", axes).notices == ()


def test_series_are_images_of_their_own(tmp_path, grey, colours):
    with TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(grey, metadata=None)
        tiff.write(colours, metadata=None)
    images = list(read_images(tmp_path / "a.tif"))
    assert [(image.axes, image.shape) for image in images] == [("YX", (40, 50)), ("YXC", (40, 50, 3))]
    assert len({image.name for image in images}) == 2
    assert "a.tif holds several images" in read_image(tmp_path / "a.tif").notices[0]


@pytest.mark.parametrize("is_tagged", [True, False])
def test_smaller_copies_in_pages_are_no_images(tmp_path, rng, is_tagged):
    data = rng.integers(0, 256, (256, 320)).astype(np.uint8)
    options = {"metadata": None, "tile": (64, 64)}
    with TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(data, **options)
        tiff.write(data[::2, ::2], subfiletype=1 if is_tagged else 0, **options)
        tiff.write(data[::4, ::4], subfiletype=1 if is_tagged else 0, **options)
    (image,) = read_images(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.data, data)


def test_smaller_copies_in_subifds_are_no_images(tmp_path, rng):
    data = rng.integers(0, 256, (256, 320)).astype(np.uint8)
    with TiffWriter(tmp_path / "a.ome.tif", ome=True) as tiff:
        tiff.write(data, subifds=1, tile=(64, 64), metadata={"axes": "YX"})
        tiff.write(data[::2, ::2], subfiletype=1, tile=(64, 64))
    (image,) = read_images(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(image.data, data)


def test_smaller_copies_in_subifds_that_say_nothing_are_no_images(tmp_path, rng):
    data = rng.integers(0, 256, (64, 80)).astype(np.uint8)
    with TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(data, subifds=2)
        tiff.write(data[::2, ::2])
        tiff.write(data[::4, ::4])
    (image,) = read_images(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.data, data)
    with TiffWriter(tmp_path / "b.tif") as tiff:  # as cameras do: the image is behind its small copy
        tiff.write(data[::4, ::4], subifds=1)
        tiff.write(data)
    assert data.shape in [image.shape for image in read_images(tmp_path / "b.tif")]


def test_a_small_first_page_that_says_nothing_is_a_thumbnail(tmp_path, grey, colours):
    with TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(colours[:10, :12], metadata=None)
        tiff.write(grey, metadata=None)
    (image,) = read_images(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.data, grey)
    assert "treated as a thumbnail and left out" in image.notices[0]
    (named,) = read_images(tmp_path / "a.tif", "YX")
    assert named.notices == image.notices  # which are not about its axes
    assert describe_images(tmp_path / "a.tif")[0].shape == grey.shape
    with TiffWriter(tmp_path / "b.tif") as tiff:  # an image as any other
        tiff.write(colours[:30], metadata=None)
        tiff.write(grey, metadata=None)
    assert [image.shape for image in read_images(tmp_path / "b.tif")] == [(30, 50, 3), (40, 50)]


def test_channels_keep_names_and_colors(tmp_path, grey):
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"], "Color": [65535, 16711935]}}
    tifffile.imwrite(tmp_path / "a.ome.tif", np.stack([grey, grey]), ome=True, photometric="minisblack",
                     metadata=metadata)  # fmt: skip
    image = read_image(tmp_path / "a.ome.tif")
    assert image.channel_names == ("DAPI", "GFP")
    assert image.channel_colors == ("#0000ff", "#00ff00")


@pytest.mark.parametrize("order", ["TZCYX", "ZCYX", "TCYX", "TZYX"])
def test_imagej_hyperstacks_of_any_order(tmp_path, rng, order):
    lengths = {"T": 2, "Z": 3, "C": 2, "Y": 20, "X": 30}
    data = rng.integers(0, 99, [lengths[axis] for axis in order]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", data, imagej=True, metadata={"axes": order})
    image = read_image(tmp_path / "a.tif")
    assert image.axes == order
    np.testing.assert_array_equal(image.data, data)


def test_stacks_of_colours_and_bigtiff(tmp_path, colours):
    data = np.stack([colours] * 5)
    tifffile.imwrite(tmp_path / "a.tif", data, imagej=True, metadata={"axes": "ZYXS"})
    assert read_image(tmp_path / "a.tif").axes == "ZYXC"
    tifffile.imwrite(tmp_path / "b.tif", colours, bigtiff=True, tile=(16, 16), compression="zlib")
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif").data, colours)


@pytest.mark.parametrize("parts_tell", ["all", "the companion", "the first", "nothing"])
def test_ome_of_several_files_and_its_companion(tmp_path, grey, parts_tell):
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels '
        'ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="50" SizeY="40" SizeC="1" SizeZ="2" '
        'SizeT="1"><Channel ID="Channel:0" SamplesPerPixel="1"/>'
        + "".join(
            f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="a{z}.tif">urn:uuid:{z}</UUID>'
            "</TiffData>"
            for z in (0, 1)
        )
        + "</Pixels></Image></OME>"
    )
    by = {"the companion": "a.companion.ome", "the first": "a0.tif"}.get(parts_tell, "")
    elsewhere = f'<OME><BinaryOnly MetadataFile="{by}" UUID="urn:uuid:0"/></OME>'
    for z in (0, 1):
        own = xml if parts_tell == "all" or f"a{z}.tif" == by else elsewhere
        told = {"description": own.replace("<OME", f'<OME UUID="urn:uuid:{z}"')}
        tifffile.imwrite(
            tmp_path / f"a{z}.tif", grey + z, metadata=None, **(told if parts_tell != "nothing" else {})
        )
    (tmp_path / "a.companion.ome").write_text(xml)
    names = ["a.companion.ome", "a0.tif", "a1.tif"]
    for name in names[: 1 if parts_tell == "nothing" else 3]:
        image = read_image(tmp_path / name)
        assert image.axes == "ZYX"
        np.testing.assert_array_equal(image.data, [grey, grey + 1])
    (tmp_path / "a0.tif").unlink()
    (tmp_path / "a.companion.ome").unlink()
    if parts_tell != "nothing":
        with pytest.raises(ReadError, match=r"missing|does not lie beside it"):
            read_image(tmp_path / "a1.tif")


def test_a_stack_of_imagej_behind_one_page_is_whole(tmp_path, grey):
    described = "ImageJ=1.54f\nimages=3\nslices=3\n"  # as it writes what is larger than 4 GB
    tifffile.imwrite(tmp_path / "a.tif", grey, description=described, metadata=None)
    with (tmp_path / "a.tif").open("ab") as file:
        file.write((grey + 1).tobytes() + (grey + 2).tobytes())
    image = read_image(tmp_path / "a.tif")
    assert image.axes == "ZYX"
    np.testing.assert_array_equal(image.data, [grey, grey + 1, grey + 2])


def test_planes_behind_those_that_imagej_names_are_told(tmp_path, grey):
    with TiffWriter(tmp_path / "a.tif") as tiff:
        for number in range(12):
            described = "ImageJ=1.54f\nimages=6\nslices=6\n" if number == 0 else None
            tiff.write(grey + number, description=described, metadata=None, contiguous=False)
    image = read_image(tmp_path / "a.tif")
    assert (image.axes, image.axes_are_guessed) == ("ZYX", False)
    np.testing.assert_array_equal(image.data, [grey + number for number in range(6)])
    assert "has 12 planes; its description names 6" in image.notices[0]
    assert describe_images(tmp_path / "a.tif")[0].notices == image.notices


@pytest.mark.parametrize("own", ["", 'UUID="urn:uuid:a"', 'UUID="urn:uuid:b"'])
def test_an_ome_tiff_that_was_renamed_is_read_as_before(tmp_path, grey, own):
    planes = "".join(
        f'<TiffData FirstZ="{z}" IFD="{z}" PlaneCount="1"><UUID FileName="before &amp; then.ome.tif">'
        "urn:uuid:a</UUID></TiffData>"
        for z in range(3)
    )
    described = (
        f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" {own}><Image ID="Image:0"><Pixels '
        'ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="50" SizeY="40" SizeC="1" SizeZ="3" '
        f'SizeT="1" PhysicalSizeX="0.5" PhysicalSizeY="0.5">{planes}</Pixels></Image></OME>'
    )
    with TiffWriter(tmp_path / "now.ome.tif") as tiff:
        for z in range(3):
            tiff.write(grey + z, description="" if z else described, metadata=None, contiguous=False)
    image = read_image(tmp_path / "now.ome.tif")
    assert (image.axes, image.axes_are_guessed) == ("ZYX", False)
    assert image.known_sizes_um == {"Y": 0.5, "X": 0.5}
    np.testing.assert_array_equal(image.data, [grey, grey + 1, grey + 2])


@pytest.mark.parametrize("axes", ["PCYX", "MPYX"])
def test_positions_and_tiles_are_images_of_their_own(tmp_path, grey, axes):
    data = np.stack([grey + n for n in range(6)]).reshape(3, 2, 40, 50)
    tifffile.imwrite(tmp_path / "a.tif", data, metadata={"axes": axes})
    found = list(read_images(tmp_path / "a.tif"))
    rest = axes.replace("P", "").replace("M", "")
    assert {image.axes for image in found} == {rest}
    np.testing.assert_array_equal(
        np.stack([image.data for image in found]), data.reshape(-1, *found[0].shape)
    )
    assert len({image.name for image in found}) == len(found)


def test_ome_is_believed_before_the_shape_that_tifffile_noted(tmp_path, grey, monkeypatch):
    sizes = 'SizeX="50" SizeY="40" SizeC="2" SizeZ="3" SizeT="1"'
    described = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels '
        f'ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" {sizes}><TiffData/></Pixels></Image></OME>'
    )
    data = np.stack([grey + n for n in range(6)]).reshape(1, 2, 3, 40, 50, 1)
    tifffile.imwrite(tmp_path / "a.tif", data, description=described)
    for lazy_bytes in (1 << 31, 0):
        monkeypatch.setattr("cellwright.files.tiff.LAZY_BYTES", lazy_bytes)
        image = read_image(tmp_path / "a.tif")
        assert (image.axes, image.notices) == ("CZYX", ())
        np.testing.assert_array_equal(image.data, data.reshape(2, 3, 40, 50))


def test_axes_of_length_one_are_left_out_of_six(tmp_path, grey):
    tifffile.imwrite(tmp_path / "a.tif", np.stack([grey, grey])[None, None, ..., None])
    np.save(tmp_path / "a.npy", np.stack([grey, grey])[None, None, ..., None])
    for image in (read_image(tmp_path / "a.tif"), read_image(tmp_path / "a.npy")):
        assert (image.axes, image.shape) == ("CYX", (2, 40, 50))
        assert "guessed" in image.notices[0]


def test_slices_from_top_to_bottom_are_as_far_apart(tmp_path, grey):
    told = {"axes": "ZYX", "spacing": -2.0, "unit": "um"}
    tifffile.imwrite(
        tmp_path / "a.tif", np.stack([grey, grey]), imagej=True, metadata=told, resolution=(4, 4)
    )
    assert read_image(tmp_path / "a.tif").pixel_size_um == (2.0, 0.25, 0.25)


def test_a_moving_gif_is_a_series_in_time(tmp_path, rng):
    frames = [Picture.fromarray(np.full((20, 30), value, np.uint8)) for value in (0, 90, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    image = read_image(tmp_path / "a.gif")
    assert (image.axes, image.shape) == ("TYX", (3, 20, 30))
    assert image.data[:, 0, 0].tolist() == [0, 90, 200]


def test_frames_of_several_sizes_are_refused(tmp_path):
    frames = [Picture.new("RGB", (4, 2), shade) for shade in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    content = (tmp_path / "a.gif").read_bytes()
    start = content.rindex(b"\x2c\0\0\0\0\x04\0\x02\0")  # of the second frame: its left edge is next
    (tmp_path / "a.gif").write_bytes(content[: start + 1] + b"\x03" + content[start + 2 :])
    with pytest.raises(ReadError, match="must have one size"):
        list(read_images(tmp_path / "a.gif"))


def test_a_movie_that_is_damaged_is_read_up_to_there(tmp_path, rng):
    frames = [Picture.fromarray(rng.integers(0, 255, (40, 50)).astype(np.uint8)) for _ in range(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    content = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(content[:-1500])  # within the last frame
    image = read_image(tmp_path / "a.gif")
    assert image.shape == (3, 40, 50)
    assert image.notices == ("The movie is damaged: 3 of its 4 frames were read.",)


def test_a_fourth_colour_is_transparency(tmp_path):
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((20, 30, 4), np.uint8), photometric="rgb", metadata=None)
    assert read_image(tmp_path / "b.tif").shape == (20, 30, 3)


def test_colours_of_16_bits_in_png_are_kept(tmp_path, rng):
    import imagecodecs

    data = rng.integers(0, 65536, (20, 30, 4)).astype(np.uint16)
    for n, axes in ((3, "YXC"), (4, "YXC"), (2, "YX")):
        (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(np.ascontiguousarray(data[..., :n])))
        image = read_image(tmp_path / "a.png")
        assert (image.axes, image.data.dtype) == (axes, np.uint16)
        np.testing.assert_array_equal(image.data, data[..., :3] if n > 2 else data[..., 0])


@pytest.mark.parametrize("name", ["mit leer zeichen.tif", "клетки 細胞.tif", "n" * 246 + ".tif"])
def test_names_of_files(tmp_path, grey, name):
    tifffile.imwrite(tmp_path / name, grey)
    assert read_image(tmp_path / name).name == name.removesuffix(".tif")


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_that_is_no_text_is_refused(tmp_path, grey):
    tifffile.imwrite(tmp_path / "a.tif", grey)
    named = Path(os.fsdecode(os.fsencode(tmp_path) + b"/z\xe9lle.tif"))
    try:
        (tmp_path / "a.tif").rename(named)
    except OSError:
        pytest.skip("this file system takes names of UTF-8 alone")
    for read in (read_image, lambda path: list_images([path.parent])):
        with pytest.raises(ReadError, match=r"must be UTF-8; got z\ufffdlle.*Rename it"):
            read(named)


def write_store(folder, data, multiscale, *, version=2, path="0", **attributes):
    group = zarr.open_group(folder, mode="a", zarr_format=version)
    group.create_array(path, data=data)
    group.attrs.update({"multiscales": [{"datasets": [{"path": path}], **multiscale}], **attributes})
    return group


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_old_ome_zarr_has_no_axes_and_is_tczyx(tmp_path, grey, version):
    write_store(tmp_path / "a.zarr", np.stack([grey, grey])[None, :, None], {"version": version})
    image = read_image(tmp_path / "a.zarr")
    assert (image.axes, image.shape, image.notices) == ("TCZYX", (1, 2, 1, 40, 50), ())


def test_ome_zarr_03_names_axes_as_texts(tmp_path, grey):
    write_store(tmp_path / "a.zarr", grey[None, None, None], {"version": "0.3", "axes": list("tczyx")})
    assert read_image(tmp_path / "a.zarr").axes == "TCZYX"


def space(letters):
    return [{"name": letter, "type": "space", "unit": "micrometer"} for letter in letters]


def test_scales_of_the_whole_and_of_a_resolution_multiply(tmp_path, grey):
    steps = {"coordinateTransformations": [{"type": "scale", "scale": [0.25, 0.5]}]}
    own = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [2.0, 1.0]}]}]
    write_store(tmp_path / "a.zarr", grey, {"axes": space("yx"), "datasets": own, **steps})
    assert read_image(tmp_path / "a.zarr").pixel_size_um == (0.5, 0.5)


@pytest.mark.parametrize(
    ("axes", "scale", "sizes", "told"),
    [
        (space("yx"), [-0.5, 0.5], {"Y": 0.5, "X": 0.5}, None),
        (
            space("yx"),
            [0.5],
            {},
            "Its scale [0.5] does not have a number for each of its 2 axes; it is left out.",
        ),
        (["y", "x"], [0.5, 0.5], {}, "Its scale has no unit and is left out: 0.5 in y, 0.5 in x."),
        (["y", "x"], [1.0, 1.0], {}, None),
    ],
)
def test_scales_that_say_nothing_are_told(tmp_path, grey, axes, scale, sizes, told):
    own = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}]
    write_store(tmp_path / "a.zarr", grey, {"axes": axes, "datasets": own})
    image = read_image(tmp_path / "a.zarr")
    assert (image.known_sizes_um, next(iter(image.notices), None)) == (sizes, told)


def test_a_store_without_a_scale_has_no_pixel_size(tmp_path, grey):
    write_store(tmp_path / "a.zarr", grey, {"axes": space("yx")})
    assert read_image(tmp_path / "a.zarr").known_sizes_um == {}


@pytest.mark.parametrize("is_sequence", [False, True])
def test_ome_zarr_06_names_axes_in_the_system_that_pixels_are_mapped_to(tmp_path, grey, is_sequence):
    step = {"type": "scale", "scale": [1.0, 0.5, 0.25]}
    if is_sequence:
        moved = {"type": "translation", "translation": [0.0, 5.0, 5.0]}
        step = {"type": "sequence", "transformations": [step, moved]}
    step |= {"input": {"path": "0"}, "output": {"name": "own"}}
    onward = {"type": "scale", "scale": [1, 7, 7], "input": {"name": "own"}, "output": {"name": "world"}}
    axes = [{"name": "c", "type": "channel"}, *space("yx")]
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    group.create_array("0", data=np.stack([grey, grey]))
    multiscale = {
        "coordinateSystems": [{"name": "world", "axes": space("zyx")}, {"name": "own", "axes": axes}],
        "coordinateTransformations": [onward],
        "datasets": [{"path": "0", "coordinateTransformations": [step]}],
    }
    group.attrs["ome"] = {"version": "0.6", "multiscales": [multiscale]}
    image = read_image(tmp_path / "a.zarr")
    assert (image.axes, image.known_sizes_um, image.notices) == ("CYX", {"Y": 0.5, "X": 0.25}, ())


def test_a_second_image_of_one_group_is_told(tmp_path, grey):
    group = write_store(tmp_path / "a.zarr", grey, {"axes": space("yx")})
    group.attrs["multiscales"] = [group.attrs["multiscales"][0]] * 2
    assert read_image(tmp_path / "a.zarr").notices == (
        "a describes 2 images in one group; the first is read.",
    )


@pytest.mark.parametrize("multiscales", [["x"], 5, [{"axes": 5}], [{"datasets": []}], [{"datasets": [5]}]])
def test_metadata_of_another_kind_is_told_in_words(tmp_path, grey, multiscales):
    group = write_store(tmp_path / "a.zarr", grey, {})
    group.attrs["multiscales"] = multiscales
    with pytest.raises(ReadError, match=r"something other than OME-Zarr prescribes|without its part"):
        read_image(tmp_path / "a.zarr")


@pytest.mark.parametrize("n_images", [1, 3])
def test_images_of_bioformats2raw(tmp_path, grey, n_images):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    for index in range(n_images):
        write_store(tmp_path / "a.zarr" / str(index), grey + index, {"axes": space("yx")})
    images = list(read_images(tmp_path / "a.zarr"))
    names = ["a"] if n_images == 1 else ["a_0", "a_1", "a_2"]
    assert [image.name for image in images] == names
    assert [int(image.data[0, 0]) - int(grey[0, 0]) for image in images] == list(range(n_images))


def test_fields_of_a_plate_and_labels_inside(tmp_path, grey):
    root = zarr.open_group(tmp_path / "p.zarr", mode="w", zarr_format=2)
    root.attrs["plate"] = {"wells": [{"path": "A/1"}, {"path": "B/2"}]}
    for well in ("A/1", "B/2"):
        root.create_group(well).attrs["well"] = {"images": [{"path": "0"}]}
        write_store(tmp_path / "p.zarr" / well / "0", grey, {"axes": space("yx")})
    assert [image.name for image in read_images(tmp_path / "p.zarr")] == ["p_A_1_0", "p_B_2_0"]
    assert [image.name for image in read_images(tmp_path / "p.zarr" / "A" / "1")] == ["1"]
    inside = root["A/1/0"].create_group("labels")
    inside.attrs["labels"] = ["cells"]
    write_store(tmp_path / "p.zarr/A/1/0/labels/cells", grey.astype(np.int32), {"axes": space("yx")})
    assert read_image(tmp_path / "p.zarr/A/1/0/labels").data.dtype == np.int32
    shutil.rmtree(tmp_path / "p.zarr/A/1")
    (left,) = read_images(tmp_path / "p.zarr")
    assert (left.name, left.notices) == (
        "p_B_2_0",
        ("Missing from the plate and left out: A/1. Copy it again to include them.",),
    )
    shutil.rmtree(tmp_path / "p.zarr/B/2/0")
    with pytest.raises(ReadError, match="without its part 'B/2/0'"):
        read_image(tmp_path / "p.zarr")


def test_channels_of_ome_zarr(tmp_path, grey):
    channels = [{"label": "DAPI", "color": "0000FF"}, {"label": "GFP", "color": "00FF00"}]
    axes = [{"name": "c", "type": "channel"}, *space("yx")]
    write_store(tmp_path / "a.zarr", np.stack([grey, grey]), {"axes": axes}, omero={"channels": channels})
    image = read_image(tmp_path / "a.zarr")
    assert (image.channel_names, image.channel_colors) == (("DAPI", "GFP"), ("#0000ff", "#00ff00"))


def test_another_group_says_what_is_in_it(tmp_path, grey):
    zarr.open_group(tmp_path / "a.zarr", mode="w").create_array("raw", data=grey)
    with pytest.raises(ReadError, match="Name one of its arrays: raw"):
        read_image(tmp_path / "a.zarr")
    np.testing.assert_array_equal(read_image(tmp_path / "a.zarr" / "raw").data[:], grey)


def test_a_chunk_that_fits_no_memory_is_refused(tmp_path, grey):
    folder = tmp_path / "a.zarr"
    zarr.create_array(folder, shape=(10, 10), chunks=(10, 10), dtype="u1", zarr_format=2)
    told = json.loads((folder / ".zarray").read_text())
    (folder / ".zarray").write_text(json.dumps({**told, "shape": [10**6] * 2, "chunks": [10**6] * 2}))
    with pytest.raises(ReadError, match="smaller than 2 GiB"):
        read_image(folder)


def test_chunks_that_lie_are_told_when_they_are_read(tmp_path, grey):
    zarr.create_array(tmp_path / "a.zarr", data=np.stack([grey] * 2), chunks=(1, 40, 50), zarr_format=3)
    for chunk in (tmp_path / "a.zarr" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"no chunk at all")
    image = read_image(tmp_path / "a.zarr", "ZYX")
    with pytest.raises(ImageError, match="cannot be read"):
        frames(image).read(0, (slice(0, 40), slice(0, 50)))


def test_a_store_on_a_server(grey):
    store = "memory://server/a.zarr"
    group = zarr.open_group(store, mode="w", zarr_format=2)
    group.create_array("0", data=grey)
    group.attrs["multiscales"] = [{"datasets": [{"path": "0"}], "axes": space("yx")}]
    for source in (store, Path(store)):
        image = read_image(source)
        assert (image.name, image.axes, image.source) == ("a", "YX", store)
        np.testing.assert_array_equal(image.data[:], grey)


@pytest.fixture
def server():
    """A folder to put files into, and the address at which a server gives them."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            return None

    with (
        TemporaryDirectory() as folder,
        ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as answering,
    ):
        Thread(target=answering.serve_forever, daemon=True).start()
        yield Path(folder), f"http://127.0.0.1:{answering.server_port}"
        answering.shutdown()


def test_a_store_that_went_since_it_was_opened_is_not_dark(tmp_path, grey):
    write_store(tmp_path / "a.zarr", grey, {"axes": space("yx")})
    image = read_image(tmp_path / "a.zarr")
    np.testing.assert_array_equal(image.read(), grey)
    shutil.rmtree(tmp_path / "a.zarr")
    with pytest.raises(ImageError, match="its folder is gone"):
        image.read()


def test_stores_over_http_are_read_and_missing_ones_named(server, grey):
    folder, address = server
    write_store(folder / "a.zarr", grey, {"axes": space("yx")})
    image = read_image(f"{address}/a.zarr")
    assert (image.name, image.axes) == ("a", "YX")
    np.testing.assert_array_equal(image.read(), grey)
    with pytest.raises(ReadError, match=r"at http://.*/b\.zarr; got: none, .* Check address, network"):
        read_image(f"{address}/b.zarr")


def test_a_server_that_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr("cellwright.files.zarr.SILENT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the call, and never answers
        start = time.monotonic()
        with pytest.raises(ReadError, match=r"Timeout on reading data.* Check address, network"):
            read_image(f"http://127.0.0.1:{silent.getsockname()[1]}/a.zarr")
    assert time.monotonic() - start < SILENT_SECONDS


def test_buckets_are_given_up_as_soon():
    (waits,) = _server_options("s3://bucket/a.zarr").values()
    seconds = (waits["retries"]["max_attempts"] + 1) * waits["read_timeout"] * S3_TRIES
    assert seconds == SILENT_SECONDS
    assert _server_options("") is None


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.nd", b'"NDInfoFile", Version 1.0', r"a \.nd file\. Open it in Fiji .* save it as OME-TIFF"),
        ("a.lof", b"p\0\0\0", r"a \.lof file\. Open it in Fiji"),
        ("a.NII.GZ", b"\x1f\x8b\x08", r"a \.nii\.gz file\. Open it in Fiji"),
        ("a.heic", b"\0\0\0\x18ftypheic", r"a \.heic file\. Save it as PNG or TIFF"),
        ("a.mp4", b"\0\0\0\x18ftypmp42", r"a \.mp4 file\. Save its frames"),
        ("unknown", b"\x89HDF\r\n\x1a\n" + bytes(64), r"HDF5 of an unknown kind\. Open it in Fiji"),
        ("a.tif", b"%PDF-1.4\n%%EOF\n\xff", "is a PDF, not an image"),
        ("a.xlsx", b"PK\3\4" + bytes(64), "is a zip archive or an office document, not an image"),
        ("b.tif", b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS, not an image"),
        ("c.tif", b"cell,area\r\n1,2\r\n", "is text, not an image"),
        ("empty.png", b"", "is empty, not an image"),
    ],
)
def test_a_file_of_another_kind_is_named_with_what_to_do(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ReadError, match=told):
        read_image(tmp_path / name)
    assert describe_images(tmp_path / name) == ()


@pytest.mark.parametrize(("ending", "program"), [(".vsi", "Fiji"), (".mrxs", "QuPath")])
def test_the_small_overview_of_a_slide_is_not_taken_for_it(tmp_path, grey, ending, program):
    """What lies in such a file can be read; the slide lies in a folder beside it."""
    tifffile.imwrite(tmp_path / f"a{ending}", grey)
    with pytest.raises(ReadError, match=f"in {program} "):
        read_image(tmp_path / f"a{ending}")


@pytest.mark.parametrize(
    ("name", "options", "wrong"),
    [
        ("a.tif", {"imagej": True}, (b"s=3", b"s=2")),
        ("a.ome.tif", {"ome": True}, (b'SizeT="3"', b'SizeT="2"')),
    ],
)
def test_planes_that_the_description_does_not_name_are_told(tmp_path, grey, name, options, wrong):
    path = tmp_path / name
    tifffile.imwrite(path, np.stack([grey] * 3), metadata={"axes": "TYX"}, **options)
    assert read_image(path).notices == ()
    content = path.read_bytes()
    assert wrong[0] in content
    path.write_bytes(content.replace(*wrong))
    image = read_image(path)
    assert (image.axes, image.shape) == ("TYX", (2, 40, 50))
    assert f"{name} has 3 planes; its description names 2" in image.notices[0]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_lies_under_transparency_is_told(tmp_path, grey, mode):
    layers = [grey] * (len(mode) - 1)
    for name, opacity in {"opaque.png": 255, "seen_through.png": 0}.items():
        alpha = np.full_like(grey, 255)
        alpha[:5] = opacity
        Picture.fromarray(np.dstack([*layers, alpha]), mode).save(tmp_path / name)
    assert read_image(tmp_path / "opaque.png").notices == ()
    (notice,) = read_image(tmp_path / "seen_through.png").notices
    assert "seen_through.png is transparent in places" in notice


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_a_value_that_stands_for_transparency_is_told(tmp_path, grey, mode):
    picture = Picture.fromarray(np.where(grey == 7, 8, grey).astype(np.uint8)).convert(mode)
    for name, is_there in {"opaque.png": False, "seen_through.png": True}.items():
        if is_there:
            picture.paste((7, 7, 7) if mode == "RGB" else 7, (0, 0, 5, 5))
        picture.save(tmp_path / name, transparency=(7, 7, 7) if mode == "RGB" else 7)
        assert [name in notice for notice in read_image(tmp_path / name).notices] == [True] * is_there


def test_transparency_of_16_bits_is_told(tmp_path):
    import imagecodecs

    for opacity in (65535, 65534):
        pixels = np.full((20, 30, 4), opacity, np.uint16)
        (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
        assert len(read_image(tmp_path / "a.png").notices) == (opacity < 65535)


@pytest.mark.parametrize(
    ("name", "options", "wrong"),
    [
        ("a.tif", {"imagej": True}, (b"s=3", b"s=7")),
        ("a.ome.tif", {"ome": True}, (b'SizeT="3"', b'SizeT="9"')),
    ],
)
def test_planes_that_are_named_and_not_there_are_refused(tmp_path, grey, name, options, wrong):
    path = tmp_path / name
    tifffile.imwrite(path, np.stack([grey] * 3), metadata={"axes": "TYX"}, **options)
    path.write_bytes(path.read_bytes().replace(*wrong))
    with pytest.raises(ReadError, match=r"description names more planes than there are.*save it again"):
        read_image(path)
