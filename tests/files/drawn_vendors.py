"""Files of microscope vendors, drawn byte by byte, and HDF5; each function returns the pixels in it."""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from tests.files.drawn import Drawn, H, W, ramp

UTF16 = "utf-16-le"


# Leica LIF ---------------------------------------------------------------------------------------------


def lif(path: Path, elements: Sequence[tuple[str, bytes]], head: str = "") -> None:
    """Write a LIF of elements (XML, pixels), each with a block of memory of its own.

    Source: "LAS AF: description of the LIF file format"
    """
    images = "".join(element.format(block=n) for n, (element, _) in enumerate(elements))
    xml = (
        f'<LMSDataContainerHeader Version="2">{head}<Element Name="root"><Data><Experiment/></Data>'
        f'<Memory Size="0" MemoryBlockID="MemBlock_99"/><Children>{images}</Children></Element>'
        "</LMSDataContainerHeader>"
    )
    text = xml.encode(UTF16)
    content = struct.pack("<IIBI", 0x70, len(text) + 5, 0x2A, len(xml)) + text
    for n, (_, pixels) in enumerate(elements):
        name = f"MemBlock_{n}"
        content += struct.pack("<IIBQBI", 0x70, 14 + 2 * len(name), 0x2A, len(pixels), 0x2A, len(name))
        content += name.encode(UTF16) + pixels
    path.write_bytes(content)


def lif_element(
    name: str, axes: str, data: NDArray[Any], steps: Mapping[str, float], luts: Sequence[str]
) -> str:
    """Return what a LIF says of pixels whose axes are letters of TZCYX; steps are metres or seconds."""
    numbers = {"X": 1, "Y": 2, "Z": 3, "T": 4}
    dimensions = ""
    for axis, n, stride in zip(reversed(axes), reversed(data.shape), reversed(data.strides), strict=True):
        if axis in numbers:
            length = steps.get(axis, 5e-7) * (n - 1)
            dimensions += (
                f'<DimensionDescription DimID="{numbers[axis]}" NumberOfElements="{n}" Origin="0" '
                f'Length="{length}" Unit="m" BitInc="0" BytesInc="{stride}"/>'
            )
    stride = data.strides[axes.index("C")] if "C" in axes else 0
    channels = "".join(
        f'<ChannelDescription DataType="0" ChannelTag="0" Resolution="{8 * data.itemsize}" Min="0" Max="1" '
        f'NameOfMeasuredQuantity="" Unit="" LUTName="{lut}" IsLUTInverted="0" BytesInc="{n * stride}" '
        'BitInc="0"/>'
        for n, lut in enumerate(luts)
    )
    return (
        f'<Element Name="{name}"><Data><Image><ImageDescription><Channels>{channels}</Channels><Dimensions>'
        f"{dimensions}</Dimensions></ImageDescription></Image></Data>"
        f'<Memory Size="{data.nbytes}" MemoryBlockID="MemBlock_{{block}}"/></Element>'
    )


def draw_lif(path: Path) -> Drawn:
    volume, movie = ramp(3, 2, H, W), ramp(4, H, W, dtype=np.uint8)
    lif(
        path,
        [
            (lif_element("volume", "ZCYX", volume, {"Z": 2e-6}, ("Blue", "Green")), volume.tobytes()),
            (lif_element("movie", "TYX", movie, {"T": 30.0}, ("Gray",)), movie.tobytes()),
        ],
    )
    return [volume, movie]


# Zeiss CZI ---------------------------------------------------------------------------------------------

PIXEL_TYPES = {"u1": 0, "u2": 1, "f4": 2}
RGB_TYPES = {"u1": 3, "u2": 4}
METADATA_OF_CZI = (
    "<ImageDocument><Metadata><Information><Image><Dimensions><Channels>"
    '<Channel Id="Channel:0" Name="DAPI"/><Channel Id="Channel:1" Name="GFP"/></Channels>'
    "<T><Positions><Interval><Start>0</Start><Increment>30</Increment></Interval></Positions></T>"
    '</Dimensions></Image></Information><Scaling><Items><Distance Id="X"><Value>5E-07</Value></Distance>'
    '<Distance Id="Y"><Value>5E-07</Value></Distance><Distance Id="Z"><Value>2E-06</Value></Distance>'
    "</Items></Scaling></Metadata></ImageDocument>"
)


def segment(kind: bytes, content: bytes) -> bytes:
    """Return a segment of a CZI; they begin at multiples of 32 bytes."""
    content += bytes(-len(content) % 32)
    return struct.pack("<16sqq", kind, len(content), len(content)) + content


def packed_block(pixels: NDArray[Any], way: int) -> bytes:
    """Return a block of a CZI, packed as its number of a compression says."""
    if way == 0:
        return pixels.tobytes()
    if way == 1:
        return bytes(imagecodecs.jpeg_encode(pixels))
    if way == 5:
        return bytes(imagecodecs.zstd_encode(pixels.tobytes()))
    halves = pixels.view(np.uint8).reshape(-1, pixels.itemsize).T.tobytes()  # 6: low bytes before high ones
    return bytes([3, 1, pixels.itemsize == 2]) + bytes(imagecodecs.zstd_encode(halves))


def czi(path: Path, blocks: Sequence[tuple[Mapping[str, int], NDArray[Any], int, int]], told: str) -> None:
    """Write a CZI of blocks: where each starts along its axes, its pixels, how they are packed and halved.

    Source: "ZEISS CZI File Format", design specification 1.2
    """
    place, entries, content = 32 + 512, b"", b""
    for starts, pixels, way, halved in blocks:
        height, width = pixels.shape[:2]
        kind = (RGB_TYPES if pixels.ndim == 3 else PIXEL_TYPES)[pixels.dtype.str[1:]]
        axes = {"X": (width << halved, width), "Y": (height << halved, height)}
        dimensions = b"".join(
            struct.pack("<4siifi", axis.encode(), start, *_as_told(axes.get(axis, (1, 1))))
            for axis, start in starts.items()
        )
        entry = struct.pack(
            "<2siqiiBB4si", b"DV", kind, place, 0, way, 2 * (halved > 0), 0, bytes(4), len(starts)
        )
        entry += dimensions
        data = packed_block(pixels, way)
        block = struct.pack("<iiq", 0, 0, len(data)) + entry.ljust(240, b"\0") + data
        part = segment(b"ZISRAWSUBBLOCK", block)
        entries += entry
        content += part
        place += len(part)
    directory = segment(b"ZISRAWDIRECTORY", struct.pack("<i", len(blocks)) + bytes(124) + entries)
    xml = told.encode()
    metadata = segment(b"ZISRAWMETADATA", struct.pack("<ii", len(xml), 0) + bytes(248) + xml)
    head = struct.pack(
        "<iiii16s16siqqiq", 1, 0, 0, 0, b"p" * 16, b"p" * 16, 0, place, place + len(directory), 0, 0
    )
    path.write_bytes(segment(b"ZISRAWFILE", head.ljust(512, b"\0")) + content + directory + metadata)


def _as_told(sizes: tuple[int, int]) -> tuple[int, float, int]:
    size, stored = sizes
    return size, 0.0, stored


def draw_czi(way: int) -> Callable[[Path], Drawn]:
    """Draw slices of two channels, in two tiles each, with a smaller copy."""

    def draw(path: Path) -> Drawn:
        data = ramp(3, 2, H, W)
        blocks: list[tuple[Mapping[str, int], NDArray[Any], int, int]] = []
        for z, c in np.ndindex(3, 2):
            for x in (0, W // 2):
                starts = {"X": 100 + x, "Y": -7, "C": c, "Z": z, "M": x > 0}
                blocks.append((starts, np.ascontiguousarray(data[z, c, :, x : x + W // 2]), way, 0))
            copy = np.ascontiguousarray(data[z, c, ::2, ::2])
            blocks.append(({"X": 100, "Y": -7, "C": c, "Z": z, "M": 2}, copy, way, 1))
        czi(path, blocks, METADATA_OF_CZI)
        return [data]

    return draw


def draw_czi_scenes(path: Path) -> Drawn:
    images = [ramp(H, W, 3, dtype=np.uint8), ramp(H + 4, W, 3, dtype=np.uint8)]
    blocks = [
        ({"X": 1000 * scene, "Y": 0, "S": scene}, np.ascontiguousarray(data[..., ::-1]), 0, 0)
        for scene, data in enumerate(images)
    ]
    czi(path, blocks, METADATA_OF_CZI)
    return images


# Olympus OIB and OIF -----------------------------------------------------------------------------------

SECTOR, SMALL_SECTOR, CUTOFF = 512, 64, 4096
END, FREE, TABLE = 0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFD


def olympus_files(data: NDArray[Any]) -> dict[str, bytes]:
    """Return what Olympus stores of planes (C, Z, Y, X): settings, and a TIFF for each plane."""
    n_channels, n_slices, height, width = data.shape
    axes = (("X", width, width / 2), ("Y", height, height / 2), ("C", n_channels, 0), ("Z", n_slices, 4000))
    lines = ["[ProfileSaveInfo]", "Name=FV", "Version=1.0", "[Axis Parameter Common]", 'AxisOrder="XYCZ"']
    for number, (code, n, end) in enumerate(axes):
        unit = "nm" if code == "Z" else "um"
        lines += [f"[Axis {number} Parameters Common]", f'AxisCode="{code}"', f"MaxSize={n}"]
        lines += ["StartPosition=0.0", f"EndPosition={float(end)}", f'PixUnit="{unit}"']
    for number, dye in enumerate(("DAPI", "GFP")):
        lines += [f"[Channel {number + 1} Parameters]", f'DyeName="{dye}"', f'CH Name="CH{number + 1}"']
    files = {"a.oif": ("\ufeff" + "\r\n".join(lines) + "\r\n").encode(UTF16)}
    for c, z in np.ndindex(n_channels, n_slices):
        file = BytesIO()
        tifffile.imwrite(file, data[c, z], metadata=None)
        files[f"a.oif.files/s_C{c + 1:03}Z{z + 1:03}.tif"] = file.getvalue()
    return files


def draw_oif(path: Path) -> Drawn:
    """Write settings at a path, and beside them the folder of their planes."""
    data = ramp(2, 3, H, W)
    for name, content in olympus_files(data).items():
        target = path.parent / name.replace("a.oif", path.name)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content)
    return [data]


def draw_oib(path: Path) -> Drawn:
    data = ramp(2, 3, H, W)
    streams, lines = {}, ["[OibSaveInfo]", "Name=FV", "Version=2.0.0.0", "MainFileName=Stream00000"]
    lines += ["Storage00001=a.oif.files"]
    for number, (name, content) in enumerate(olympus_files(data).items()):
        streams[f"Stream{number:05}"] = content
        lines.append(f"Stream{number:05}={name.replace('a.oif.files', 'Storage00001')}")
    streams["OibInfo.txt"] = ("\ufeff" + "\r\n".join(lines) + "\r\n").encode(UTF16)
    compound(path, streams)
    return [data]


def compound(path: Path, streams: Mapping[str, bytes]) -> None:
    """Write a compound file of streams, small ones among small sectors.

    Source: [MS-CFB], Compound File Binary File Format
    """
    sectors, small = Sectors(SECTOR), Sectors(SMALL_SECTOR)
    entries = []
    for name, content in streams.items():
        among = small if len(content) < CUTOFF else sectors
        entries.append((name, 2, among.store(content), len(content)))
    entries.insert(0, ("Root Entry", 5, sectors.store(small.content), len(small.content)))
    start_of_directory = sectors.store(_directory(entries))
    small_table = np.array(small.following, "<u4").tobytes()
    n_small = -(-len(small_table) // SECTOR)
    start_of_small = sectors.store(small_table.ljust(n_small * SECTOR, b"\xff"))
    n_fat = 1 + len(sectors.following) // (SECTOR // 4 - 1)
    places = range(len(sectors.following), len(sectors.following) + n_fat)
    fat = np.array([*sectors.following, *[TABLE] * n_fat], "<u4").tobytes()
    head = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(16) + struct.pack("<5H6x", 0x3E, 3, 0xFFFE, 9, 6)
    head += struct.pack("<9I", 0, n_fat, start_of_directory, 0, CUTOFF, start_of_small, n_small, END, 0)
    head += struct.pack("<109I", *places, *[FREE] * (109 - n_fat))
    path.write_bytes(head + sectors.content + fat.ljust(n_fat * SECTOR, b"\xff"))


class Sectors:
    """Contents one after the other in sectors, and which follows each."""

    def __init__(self, size: int) -> None:
        self.size, self.content = size, b""
        self.following: list[int] = []

    def store(self, content: bytes) -> int:
        """Return the first sector of a content, which is stored behind the others."""
        n, first = -(-len(content) // self.size), len(self.following)
        self.following += [*range(first + 1, first + n), END]
        self.content += content.ljust(n * self.size, b"\0")
        return first


def _directory(entries: Sequence[tuple[str, int, int, int]]) -> bytes:
    """Return the entries of a compound file: the root, and the others in a row below it."""
    told = b""
    for number, (name, kind, first, size) in enumerate(entries):
        text = (name + "\0").encode(UTF16)
        right = number + 1 if 0 < number < len(entries) - 1 else FREE
        below = 1 if number == 0 else FREE
        links = (FREE, right, below)
        told += struct.pack("<64sHBBIII36xIQ", text, len(text), kind, 1, *links, first, size)
    return told


# Nikon ND2 ---------------------------------------------------------------------------------------------

MAGIC = 0x0ABECEDA
NAME_BYTES = 4072  # which are kept free for the name of a chunk of pixels


def draw_nd2(path: Path, *, is_packed: bool = False, is_calibrated: bool = True) -> Drawn:
    """Write two positions of three slices of two channels, as NIS-Elements of version 2 did: in XML."""
    data = ramp(2, 3, H, W, 2)
    probe = f"<pFluorescentProbe>{variant(m_sName='dye')}</pFluorescentProbe>"
    planes = "".join(
        f"<a{n}>{variant(sDescription=name, uiColor=color, uiCompCount=1)}{probe}</a{n}>"
        for n, (name, color) in enumerate((("DAPI", 0xFF0000), ("GFP", 0xFF00)))
    )
    points = "".join(f"<i{n:010}>{variant(dPosX=1.5 * n, dPosY=2.0, dPosZ=0.0)}</i{n:010}>" for n in range(2))
    slices = f"<uLoopPars>{variant(uiCount=3, dZStep=2.0)}</uLoopPars>{variant(eType=4)}"
    nested = f"<ppNextLevelEx><i0000000000>{slices}</i0000000000></ppNextLevelEx>"
    chunks = {
        "ImageAttributes!": variant(
            uiWidth=W, uiWidthBytes=4 * W, uiHeight=H, uiComp=2, uiBpcInMemory=16, uiBpcSignificant=16,
            uiSequenceCount=6, eCompression=0 if is_packed else 2,
        ),
        "ImageMetadataSeq|0!": variant(dCalibration=0.5, bCalibrated=is_calibrated)
        + f"<sPicturePlanes>{variant(uiCount=2)}<sPlaneNew>{planes}</sPlaneNew></sPicturePlanes>",
        "ImageMetadata!": f"{variant(eType=2)}<uLoopPars><Points>{points}</Points></uLoopPars>{nested}",
    }  # fmt: skip
    content = _chunk("ND2 FILE SIGNATURE CHUNK NAME01!", b"Ver2.1".ljust(64, b"\0"), 32)
    places = b""
    parts = [(name, f"<variant>{told}</variant>".encode(), 32) for name, told in chunks.items()]
    for n, pixels in enumerate(data.reshape(-1, H, W, 2)):
        stored = imagecodecs.zlib_encode(pixels.tobytes()) if is_packed else pixels.tobytes()
        parts.append((f"ImageDataSeq|{n}!", bytes(8) + stored, NAME_BYTES))
    for name, stored, n_name in parts:
        places += name.encode() + struct.pack("<QQ", len(content), len(stored))
        content += _chunk(name, stored, n_name)
    start, end = len(content), b"ND2 CHUNK MAP SIGNATURE 0000001!"
    content += _chunk("ND2 FILEMAP SIGNATURE NAME 0001!", places + end + struct.pack("<Q", start), 32)
    path.write_bytes(content)
    return list(np.moveaxis(data, -1, 2))


def variant(**values: bool | float | str) -> str:
    """Return values in the XML of Nikon."""
    kinds = {bool: "bool", int: "lx_int32", float: "double", str: "CLxStringW"}
    return "".join(
        f'<{name} runtype="{kinds[type(value)]}" value="{value}"/>' for name, value in values.items()
    )


def _chunk(name: str, content: bytes, n_name: int) -> bytes:
    return struct.pack("<IIQ", MAGIC, n_name, len(content)) + name.encode().ljust(n_name, b"\0") + content


# HDF5 --------------------------------------------------------------------------------------------------


def draw_ilastik(path: Path) -> Drawn:
    import h5py

    data = ramp(3, 64, 96, 2)
    with h5py.File(path, "w") as file:
        made = file.create_dataset("exported_data", data=data, chunks=(1, 32, 32, 2), compression="gzip")
        made.attrs["axistags"] = json.dumps({"axes": [{"key": key} for key in "zyxc"]})
    return [data]


def draw_fiji(path: Path) -> Drawn:
    import h5py

    data = ramp(3, H, W)
    with h5py.File(path, "w") as file:
        made = file.create_dataset("t0/channel0", data=data)
        made.attrs["element_size_um"] = np.array([2.0, 0.5, 0.5])
    return [data]


OF_VENDORS: dict[str, tuple[str, Callable[[Path], Drawn]]] = {
    "a.lif": ("liffile", draw_lif),
    "plain.czi": ("czifile", draw_czi(0)),
    "zstd.czi": ("czifile", draw_czi(5)),
    "halves.czi": ("czifile", draw_czi(6)),
    "scenes.czi": ("czifile", draw_czi_scenes),
    "a.oib": ("oiffile", draw_oib),
    "olympus/a.oif": ("oiffile", draw_oif),
    "a.nd2": ("nd2", draw_nd2),
    "packed.nd2": ("nd2", lambda path: draw_nd2(path, is_packed=True)),
    "ilastik.h5": ("h5py", draw_ilastik),
    "fiji.h5": ("h5py", draw_fiji),
}
