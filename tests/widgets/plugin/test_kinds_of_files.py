"""Files of instruments and programs: Python and napari's reader give the same axes, sizes, names, pixels."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import tifffile
from napari.layers import Layer
from numpy.typing import NDArray
from PIL import Image as Picture
from tifffile import TiffWriter

from cellwright.core.data import CHANNEL, Image
from cellwright.core.errors import ReadError
from cellwright.files.folders.image_list import list_images
from cellwright.files.images import describe_images, read_images
from cellwright.widgets.plugin import image_reader

Drawn = list[NDArray[Any]]  # the pixels of each image in a file
H, W = 20, 30
XY = {"Y": 0.65, "X": 0.65}
XYZ = {"Z": 2.0, **XY}
NAMES, COLORS = ("DAPI", "GFP"), ("#0000ff", "#00ff00")
SUMMARY = {
    "MicroManagerVersion": "1.4.22", "Channels": 2, "Slices": 3, "Frames": 1, "Positions": 1,
    "PixelSize_um": 0.65, "z-step_um": 2.0, "ChNames": NAMES, "ChColors": [0xFF - 2**24, 0xFF00 - 2**24],
}  # fmt: skip


class Kind(NamedTuple):
    """One kind of file, how it is drawn, and what is to be read."""

    name: str
    draw: Callable[[Path], Drawn]
    axes: str
    sizes_um: Mapping[str, float] = MappingProxyType({})
    names: tuple[str, ...] = ()
    colors: tuple[str, ...] = ()
    notice: str = ""
    atol: float = 0.0


def ramp(*shape: int, dtype: Any = np.uint16) -> NDArray[Any]:
    return (np.arange(np.prod(shape)) % 251).reshape(shape).astype(dtype)


def micromanager(path: Path, data: NDArray[Any], places: Any, summary: Any, told: bytes = b"") -> None:
    """Write planes (N, Y, X) as Micro-Manager lays them out; places are channel, slice, frame, position.

    Source: https://micro-manager.org/Micro-Manager_File_Formats
    """
    text, plane = json.dumps(summary).encode(), json.dumps({"PixelSizeUm": 0.65}).encode()
    start = 40 + len(text)
    body, offsets = b"", []
    for number, pixels in enumerate(data):
        offsets.append(start + len(body))
        first = offsets[-1] + 162  # of the pixels, behind 13 tags
        end = first + pixels.nbytes
        tags = [(256, 4, 1, W), (257, 4, 1, H), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 1),
                (270, 2, len(told), end), (273, 4, 1, first), (277, 3, 1, 1), (278, 4, 1, H),
                (279, 4, 1, pixels.nbytes), (305, 2, 1, 0), (306, 2, 1, 0),
                (51123, 2, len(plane), end + len(told))]  # fmt: skip
        following = (end + len(told) + len(plane)) * (number < len(data) - 1)
        body += struct.pack("<H", 13) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        body += struct.pack("<I", following) + pixels.tobytes() + told + plane
    index = struct.pack("<2I", 3453623, len(data))
    for place, offset in zip(places, offsets, strict=True):
        index += struct.pack("<5I", *place, offset)
    head = struct.pack("<2sHI", b"II", 42, start)
    head += struct.pack("<8I", 54773648, start + len(body), 483765892, 0, 99384722, 0, 2355492, len(text))
    path.write_bytes(head + text + body + index)


def draw_micromanager(told: bytes) -> Callable[[Path], Drawn]:
    def draw(path: Path) -> Drawn:
        data = ramp(6, H, W)
        places = [(c, z, 0, 0) for z in range(3) for c in range(2)]
        micromanager(path, data, places, SUMMARY, told)
        return [data.reshape(3, 2, H, W)]

    return draw


def draw_positions(path: Path) -> Drawn:
    data = ramp(6, H, W)
    places = [(c, 0, 0, r) for r in range(3) for c in range(2)]
    summary = {**SUMMARY, "Slices": 1, "Positions": 3, "PixelSize_um": 0, "ChColors": "none"}
    micromanager(path, data, places, summary)
    return list(data.reshape(3, 2, H, W))


def draw_scanimage(path: Path) -> Drawn:
    """Write a BigTIFF whose first page makes room for what ScanImage stores behind the header."""
    data = ramp(6, H, W, dtype=np.int16)
    with TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(np.zeros((32, 32), np.uint8), metadata=None)
        for plane in data:
            tiff.write(plane, metadata=None, contiguous=False, software="SI.2016")
    with tifffile.TiffFile(path) as tiff:
        first = tiff.pages[1].offset
    told = b"SI.hChannels.channelSave = [1;2]\nSI.hStackManager.framesPerSlice = 1\n\0"
    head = struct.pack("<Q4I", first, 117637889, 3, len(told), 0) + told
    content = path.read_bytes()
    path.write_bytes(content[:8] + head + content[8 + len(head) :])
    return [data.reshape(3, 2, H, W)]


def draw_qptiff(path: Path) -> Drawn:
    data = ramp(2, 64, 96, dtype=np.uint8)
    sized = {"resolution": (1e4 / 0.65,) * 2, "resolutionunit": "CENTIMETER", "software": "PerkinElmer-QPI"}

    def told(name: str, color: str) -> dict[str, Any]:
        inside = f"<Name>{name}</Name><Color>{color}</Color>"
        return {
            "description": f"<PerkinElmer-QPI-ImageDescription>{inside}</PerkinElmer-QPI-ImageDescription>"
        }

    with TiffWriter(path) as tiff:
        for step in (1, 2):
            if step == 2:
                tiff.write(ramp(16, 24, 3, dtype=np.uint8), photometric="rgb", metadata=None, **sized)
            for channel, own in enumerate((told("DAPI", "0,0,255"), told("GFP", "0,255,0"))):
                plane = data[channel, ::step, ::step]
                tiff.write(plane, tile=(16, 16), metadata=None, contiguous=False, **sized, **own)
        for _ in ("macro", "label"):
            tiff.write(ramp(10, 10, 3, dtype=np.uint8), photometric="rgb", metadata=None, **sized)
    return [data]


def draw_svs(path: Path) -> Drawn:
    data = ramp(64, 96, 3, dtype=np.uint8)
    options = {"photometric": "rgb", "metadata": None}
    with TiffWriter(path) as tiff:
        tiff.write(
            data, tile=(16, 16), description="Aperio Image Library v1|AppMag = 20|MPP = 0.65", **options
        )
        tiff.write(data[::4, ::4], description="Aperio Image Library v1", **options)
        tiff.write(data[::2, ::2], tile=(16, 16), description="Aperio Image Library v1", **options)
        tiff.write(data[:20, :20], description="label", subfiletype=1, **options)
        tiff.write(data[:30, :20], description="macro", subfiletype=9, **options)
    return [data]


def draw_metamorph(path: Path) -> Drawn:
    told = {"state": ("bool", "on"), "x": ("float", 0.65), "y": ("float", 0.65), "units": ("string", "um")}
    props = "".join(
        f'<prop id="spatial-calibration-{name}" type="{kind}" value="{value}"/>'
        for name, (kind, value) in told.items()
    )
    described = f"<MetaData><PlaneInfo>{props}</PlaneInfo></MetaData>"
    tifffile.imwrite(path, ramp(H, W), description=described, software="MetaSeries", metadata=None)
    return [ramp(H, W)]


def draw_apng(path: Path) -> Drawn:
    data = ramp(3, H, W, 3, dtype=np.uint8)
    first, *others = map(Picture.fromarray, data)
    first.save(path, save_all=True, append_images=others)
    return [data]


def draw_big_endian(path: Path) -> Drawn:
    np.save(path, ramp(H, W, dtype=">u2"))
    return [ramp(H, W)]


def draw_fortran(path: Path) -> Drawn:
    np.save(path, np.asfortranarray(ramp(5, H, W)))
    return [ramp(5, H, W)]


def draw_tiff(data: NDArray[Any], **options: Any) -> Callable[[Path], Drawn]:
    def draw(path: Path) -> Drawn:
        stored = 255 - data if options.get("photometric") == "miniswhite" else data
        tifffile.imwrite(path, stored, **{"metadata": None, **options})
        return [data]

    return draw


def draw_luma(path: Path) -> Drawn:
    data = np.full((H, W, 3), (200, 90, 40), np.uint8)
    luma = np.asarray(Picture.fromarray(data).convert("YCbCr"))
    tifffile.imwrite(path, luma, photometric="ycbcr", compression="jpeg", metadata=None)
    return [data]


def draw_series(path: Path) -> Drawn:
    images = [ramp(H, W), ramp(H + 4, W)]
    with TiffWriter(path) as tiff:
        for data in images:
            tiff.write(data, metadata=None)
    return images


def draw_pyramid(path: Path) -> Drawn:
    data = ramp(2, 64, 96)
    told = {"axes": "CYX", "Channel": {"Name": NAMES}, "PhysicalSizeX": 0.65, "PhysicalSizeY": 0.65}
    with TiffWriter(path, ome=True) as tiff:
        tiff.write(data, subifds=1, tile=(16, 16), photometric="minisblack", metadata=told)
        tiff.write(data[:, ::2, ::2], subfiletype=1, tile=(16, 16), photometric="minisblack")
    return [data]


def ome_set(folder: Path) -> str:
    """Write two files of an OME set; return what describes it."""
    parts = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="part{z}.ome.tif">urn:uuid:{z}</UUID>'
        "</TiffData>"
        for z in range(2)
    )
    described = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"{}><Image ID="Image:0"><Pixels '
        f'ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="{W}" SizeY="{H}" SizeC="1" SizeZ="2" '
        'SizeT="1" PhysicalSizeX="0.65" PhysicalSizeY="0.65" PhysicalSizeZ="2"><Channel ID="Channel:0" '
        f'SamplesPerPixel="1"/>{parts}</Pixels></Image></OME>'
    )
    for z, plane in enumerate(ramp(2, H, W)):
        own = described.format(f' UUID="urn:uuid:{z}"')
        tifffile.imwrite(folder / f"part{z}.ome.tif", plane, description=own, metadata=None)
    return described.format("")


def draw_companion(path: Path) -> Drawn:
    path.write_text(ome_set(path.parent))
    return [ramp(2, H, W)]


OME = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels '
    f'ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="{W}" SizeY="{H}" SizeC="2" SizeZ="3" '
    'SizeT="1" PhysicalSizeX="0.65" PhysicalSizeY="0.65" PhysicalSizeZ="2">'
    '<Channel ID="Channel:0" Name="DAPI" Color="65535"/><Channel ID="Channel:1" Name="GFP" Color="16711935"/>'
    "<TiffData/></Pixels></Image></OME>\0"
).encode()
IMAGEJ = b"ImageJ=1.53\nimages=6\nchannels=2\nslices=3\nhyperstack=true\n\0"
KINDS = (
    Kind("ome_MMStack.ome.tif", draw_micromanager(OME), "ZCYX", XYZ, NAMES, COLORS),
    Kind("imagej_MMStack.tif", draw_micromanager(IMAGEJ), "ZCYX", XYZ, NAMES, COLORS),
    Kind("positions_MMStack.tif", draw_positions, "CYX", XY, NAMES),
    Kind("scanimage.tif", draw_scanimage, "ZCYX"),
    Kind(
        "a.qptiff", draw_qptiff, "CYX", XY, NAMES, COLORS, "thumbnail, macro, label of the slide are left out"
    ),
    Kind("a.svs", draw_svs, "YXC", XY, notice="thumbnail, label, macro of the slide are left out"),
    Kind("metamorph.tif", draw_metamorph, "YX", XY),
    Kind("apng.png", draw_apng, "TYXC"),
    Kind("big.npy", draw_big_endian, "YX"),
    Kind("fortran.npy", draw_fortran, "ZYX", notice="ZYX was guessed from the shape"),
    Kind("packed.tif", draw_tiff(ramp(H, W) * 16, bitspersample=12), "YX"),
    Kind("white.tif", draw_tiff(ramp(H, W, dtype=np.uint8), photometric="miniswhite"), "YX"),
    Kind("luma.tif", draw_luma, "YXC", atol=8),
    Kind("tiles.tif", draw_tiff(ramp(37, 53), tile=(16, 32), compression="zlib"), "YX"),
    Kind("big.tif", draw_tiff(ramp(H, W), bigtiff=True, byteorder=">"), "YX"),
    Kind("series.tif", draw_series, "YX"),
    Kind("pyramid.ome.tif", draw_pyramid, "CYX", XY, NAMES),
    Kind("set.companion.ome", draw_companion, "ZYX", XYZ),
)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the user was told."""
    notices: list[str] = []
    monkeypatch.setattr(image_reader, "show_warning", notices.append)
    return notices


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_is_the_same_in_python_and_the_viewer(kind: Kind, tmp_path: Path, told: list[str]) -> None:
    path = tmp_path / kind.name
    drawn = kind.draw(path)
    images = list(read_images(path))
    layers = [Layer.create(*data) for data in image_reader.read_layers(str(path))]
    assert len(images) == len(drawn)
    for image, pixels in zip(images, drawn, strict=True):
        assert (image.axes, image.known_sizes_um) == (kind.axes, pytest.approx(kind.sizes_um))
        assert (image.channel_names, image.channel_colors) == (kind.names, kind.colors)
        np.testing.assert_allclose(np.asarray(image.data, float), pixels, atol=kind.atol)
        for name, plane in planes_of(image):
            layer = layers.pop(0)
            assert layer.name == name
            assert "".join(layer.axis_labels).upper() == image.label_axes
            assert layer.scale.tolist() == pytest.approx([kind.sizes_um.get(a, 1) for a in image.label_axes])
            np.testing.assert_array_equal(
                np.asarray(layer.data[0] if layer.multiscale else layer.data), plane
            )
    assert not layers
    assert kind.notice in " ".join(told)
    assert bool(told) == bool(kind.notice)
    described = [(one.axes, one.shape, one.name, one.notices) for one in describe_images(path)]
    assert described == [(one.axes, one.shape, one.name, one.notices) for one in images]


def planes_of(image: Image) -> list[tuple[str, NDArray[Any]]]:
    """Return name and pixels of each layer that an image is to become."""
    data = np.asarray(image.data)
    if CHANNEL not in image.axes or image.axes.endswith(CHANNEL):
        return [(image.name, data)]
    at = image.axes.index(CHANNEL)
    names = image.channel_names or [f"channel {number}" for number in range(data.shape[at])]
    return [(f"{image.name} {name}", data.take(number, at)) for number, name in enumerate(names)]


def test_an_ome_set_with_a_file_missing_is_refused_by_both(tmp_path: Path) -> None:
    ome_set(tmp_path)
    (tmp_path / "part1.ome.tif").unlink()
    for read in (list, lambda images: image_reader.read_layers(str(tmp_path / "part0.ome.tif"))):
        with pytest.raises(ReadError, match="are missing"):
            read(read_images(tmp_path / "part0.ome.tif"))


def test_files_of_one_micromanager_stack_are_listed_once(tmp_path: Path) -> None:
    summary = {**SUMMARY, "Slices": 1, "Positions": 2, "Prefix": "a"}
    for position, data in enumerate(ramp(2, 2, H, W)):
        places = [(c, 0, 0, position) for c in range(2)]
        micromanager(tmp_path / f"a_MMStack_Pos{position}.tif", data, places, summary)
    (listed,) = list_images([tmp_path])
    assert [image.axes for image in read_images(listed.path)] == ["CYX", "CYX"]
    for image, pixels in zip(read_images(listed.path), ramp(2, 2, H, W), strict=True):
        np.testing.assert_array_equal(image.data, pixels)


def test_an_index_of_planes_that_cannot_be_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a_MMStack.tif"
    micromanager(path, ramp(2, H, W), [(0, 0, 0, 0), (2**20, 2**20, 0, 0)], SUMMARY)
    with pytest.raises(ReadError, match=r"claims \d+ planes"):
        list(read_images(path))
