"""Files as instruments and programs write them, drawn anew; each function returns the pixels in it."""

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image as Picture
from tifffile import TiffWriter

Drawn = list[NDArray[Any]]  # the pixels of each image in a file
H, W = 20, 30
NAMES = ("DAPI", "GFP")
SUMMARY = {
    "MicroManagerVersion": "1.4.22", "Channels": 2, "Slices": 3, "Frames": 1, "Positions": 1,
    "PixelSize_um": 0.65, "z-step_um": 2.0, "ChNames": NAMES, "ChColors": [0xFF - 2**24, 0xFF00 - 2**24],
}  # fmt: skip


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


def draw_scn(path: Path) -> Drawn:
    """Write a brightfield slide of Leica: a macro image of the whole, and one region of it in two sizes."""
    data = ramp(64, 96, 3, dtype=np.uint8)
    region = '<dimension r="0" ifd="1"/><dimension r="1" ifd="2"/>'
    images = (("macro", 144_000, 0, '<dimension ifd="0"/>', 40), ("image", 62_400, 9_000, region, 96))
    told = "".join(
        f'<image name="{name}"><pixels sizeX="{pixels}" sizeY="{pixels * 2 // 3}">{dimensions}</pixels>'
        f'<view sizeX="{size}" sizeY="{size * 2 // 3}" offsetX="{offset}" offsetY="{offset}"/></image>'
        for name, size, offset, dimensions, pixels in images
    )
    described = (
        '<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection sizeX="144000" sizeY="96000">{told}</collection></scn>'
    )
    options: dict[str, Any] = {"photometric": "rgb", "metadata": None, "tile": (16, 16), "contiguous": False}
    with TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(data[:26, :40], description=described, **options)
        tiff.write(data, **options)
        tiff.write(data[::2, ::2], **options)
    return [data]


def draw_ndpi(path: Path) -> Drawn:
    """Write a slide of Hamamatsu, whose offsets have 64 bits: an image, a smaller copy, a macro, a map."""
    data = ramp(64, 96, 3, dtype=np.uint8)
    pages = ((data, 20.0), (data[::2, ::2], 10.0), (data[:20, :30], -1.0), (data[:10, :10], -2.0))
    content = struct.pack("<2sHQ", b"II", 42, 12)
    for number, (pixels, magnification) in enumerate(pages):
        height, width, _ = pixels.shape
        start = len(content) + 2 + 16 * 16 + 16  # of what is behind the directory
        tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, start), (259, 3, 1, 1), (262, 3, 1, 2),
                (271, 2, 10, start + 6), (273, 4, 1, start + 24), (277, 3, 1, 3), (278, 4, 1, height),
                (279, 4, 1, pixels.size), (282, 5, 1, start + 16), (283, 5, 1, start + 16), (284, 3, 1, 1),
                (296, 3, 1, 3), (65420, 4, 1, 1),
                (65421, 11, 1, *struct.unpack("<I", struct.pack("<f", magnification)))]  # fmt: skip
        following = (start + 24 + pixels.size) * (number < len(pages) - 1)
        content += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        content += struct.pack("<Q64xQ", following, following)  # what holds the high parts of offsets is 0
        content += struct.pack("<3H10s2I", 8, 8, 8, b"Hamamatsu", 1_000_000, 65) + pixels.tobytes()
    path.write_bytes(content)
    return [data]


def draw_stk(path: Path, distance_um: int = 2, seconds: Sequence[int] = (0, 0, 0)) -> Drawn:
    """Write planes of MetaMorph behind one directory, which tells distance, day and time of each."""
    data = ramp(3, H, W)
    start = 8 + 2 + 11 * 12 + 4
    days = [divmod(second, 86_400) for second in seconds]
    whens = [(2451545 + day, 1000 * second) for day, second in days]  # in ms since midnight
    planes = b"".join(struct.pack("<6I", distance_um, 1, *when, *when) for when in whens)
    fraction = start + len(planes) + 32
    sizes = struct.pack("<8I", 3, 1, 4, fraction, 5, fraction, 6, fraction + 8)
    sizes += struct.pack("<3I", 13, 20, 3) + b"um\0"
    pixels = start + len(planes) + len(sizes)
    tags = [(256, 4, 1, W), (257, 4, 1, H), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 1),
            (273, 4, 1, pixels), (277, 3, 1, 1), (278, 4, 1, H), (279, 4, 1, 2 * H * W),
            (33628, 4, 4, start + len(planes)), (33629, 5, 3, start)]  # fmt: skip
    head = struct.pack("<2sHIH", b"II", 42, 8, 11) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    path.write_bytes(head + bytes(4) + planes + sizes + data.tobytes())
    return [data]


def draw_lsm(path: Path) -> Drawn:
    """Write slices of two channels of Zeiss, each with its thumbnail; colors and names lie at the end."""
    data = ramp(3, 2, H, W)
    told = struct.pack("<Ii8i3d", 0x0400494C, 500, W, H, 3, 2, 1, 2, 0, 0, 0.65e-6, 0.65e-6, 2e-6)
    options: dict[str, Any] = {"metadata": None, "photometric": "minisblack", "planarconfig": "separate"}
    with TiffWriter(path) as tiff:
        for number, planes in enumerate(data):
            extra = [(34412, 1, 500, told.ljust(500, b"\0"), True)] * (number == 0)
            tiff.write(planes, contiguous=False, extratags=extra, **options)
            tiff.write(planes[:, ::10, ::10], subfiletype=1, **options)
    names = b"".join(struct.pack("<I", len(name) + 1) + name.encode() + b"\0" for name in NAMES)
    colors = bytes((0, 0, 255, 0, 0, 255, 0, 0))
    content = bytearray(path.read_bytes())
    bits = struct.pack("<HHI", 258, 3, 2)  # which Zeiss stores elsewhere, though there is room
    content = content.replace(bits + struct.pack("<2H", 16, 16), bits + struct.pack("<I", len(content)))
    place = content.index(told) + 108  # of the offset of colors
    content[place : place + 4] = struct.pack("<I", len(content) + 4)
    end = struct.pack("<2H6I", 16, 16, 32 + len(names), 2, 2, 24, 32, 0)
    path.write_bytes(content + end + colors + names)
    return [data]


def draw_bif(path: Path) -> Drawn:
    """Write a slide of Ventana: its label, a thumbnail, and an image in two sizes."""
    data = ramp(64, 96, 3, dtype=np.uint8)
    options: dict[str, Any] = {"photometric": "rgb", "metadata": None, "contiguous": False}
    told = b'<iScan Magnification="20" ScanRes="0.65"/>'
    with TiffWriter(path, bigtiff=True) as tiff:
        xmp = [(700, 7, len(told), told, True)]
        tiff.write(data[:20, :10], description="Label Image", extratags=xmp, **options)
        tiff.write(data[:10, :10], description="Thumbnail", **options)
        tiff.write(data, description="level=0 mag=20 quality=95", tile=(16, 16), **options)
        tiff.write(data[::2, ::2], description="level=1 mag=10 quality=95", tile=(16, 16), **options)
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
OF_INSTRUMENTS: dict[str, Callable[[Path], Drawn]] = {
    "ome_MMStack.ome.tif": draw_micromanager(OME),
    "imagej_MMStack.tif": draw_micromanager(IMAGEJ),
    "positions_MMStack.tif": draw_positions,
    "scanimage.tif": draw_scanimage,
    "a.qptiff": draw_qptiff,
    "a.svs": draw_svs,
    "a.scn": draw_scn,
    "a.ndpi": draw_ndpi,
    "a.bif": draw_bif,
    "a.stk": draw_stk,
    "a.lsm": draw_lsm,
    "metamorph.tif": draw_metamorph,
}
