"""Files of vendors: what their packages tell becomes axes, sizes, channels and scenes.

The packages are not needed here; what stands in for them has the same names and gives the same kinds of
values.
"""

import pickle
import struct
import sys
import tracemalloc
from importlib.util import find_spec
from io import BytesIO
from itertools import product
from types import SimpleNamespace
from xml.etree import ElementTree

import dask.array
import numpy as np
import pytest
import tifffile
from tests.files.drawn_vendors import OF_VENDORS

from cellwright.core.errors import ImageError, ReadError
from cellwright.files.images import READERS, read_image, read_images
from cellwright.files.vendors import scenes
from cellwright.files.vendors.oif import _refuse_circles
from cellwright.widgets.shared.coordinates import lazy

PACKAGES = {
    ".czi": "czifile", ".nd2": "nd2", ".lif": "liffile", ".oif": "oiffile", ".oib": "oiffile",
    ".h5": "h5py", ".hdf5": "h5py",
}  # fmt: skip


class Opened:
    """A file of a package, to be used in a ``with``."""

    def __init__(self, **told):
        self.__dict__ |= told

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.is_closed = True


@pytest.fixture
def stands_in(monkeypatch, tmp_path):
    """Make a module of this name whose files tell this; return the path of such a file."""

    def make(package, opener, ending, **told):
        make.files = []

        def opened(*_, **__):
            make.files.append(Opened(**told))
            return make.files[-1]

        module = SimpleNamespace(**{opener: opened})
        monkeypatch.setitem(sys.modules, package, module)
        (tmp_path / f"a{ending}").write_bytes(b"a file of a vendor")
        return tmp_path / f"a{ending}"

    return make


def lif_image(data, axes, name="one", loads=None, **told):
    """Stand in for an image of liffile."""

    def asarray(mode, out):
        if loads is not None:
            loads.append(name)
        return data

    own = {"coords": {}, "name": name, "dims": tuple(axes), "shape": data.shape, "dtype": data.dtype}
    return SimpleNamespace(**(own | {"asarray": asarray} | told))


def olympus(data, axes, loads=None, **mainfile):
    """Stand in for a file of oiffile: each plane is a TIFF, called by its place."""

    def open_file(name):
        if loads is not None:
            loads.append(name)
        content = BytesIO()
        tifffile.imwrite(content, data[tuple(map(int, name.split("_")[1:]))], metadata=None)
        content.seek(0)
        return content

    places = list(np.ndindex(data.shape[:-2]))

    class Series(list):
        indices, dims, shape = places, tuple(axes[:-2]), data.shape[:-2]

    series = Series("_".join(["s", *map(str, place)]) for place in places)
    return {"mainfile": mainfile, "series": [series], "open_file": open_file, "filename": "a.oib"}


def czi_blocks(data, scene, corner=(0, 0), side=5, loads=None):
    """Stand in for the blocks of a scene of czifile: tiles of each plane of (C, Z, Y, X)."""
    found = []
    for c, z, y, x in product(*map(range, data.shape[:2]), *(range(0, n, side) for n in data.shape[2:])):
        pixels = data[c, z, y : y + side, x : x + side][None, None, None, ..., None]

        def load(pixels=pixels, place=(scene, c, z, y, x)):
            if loads is not None:
                loads.append(place)
            return pixels

        entry = SimpleNamespace(shape=pixels.shape, stored_shape=pixels.shape)
        segment = SimpleNamespace(directory_entry=entry, data=load)
        found.append(
            SimpleNamespace(
                start=(scene, c, z, y + corner[0], x + corner[1], 0), shape=pixels.shape, pyramid_type=0,
                data_segment=lambda segment=segment: segment,
            )
        )  # fmt: skip
    return found


def czi_file(blocks, dtype, metadata=None):
    told = {"ImageDocument": {"Metadata": metadata or {}}}
    return {
        "axes": "SCZYX0", "dtype": np.dtype(dtype), "filtered_subblock_directory": blocks,
        "metadata": lambda raw: told,
    }  # fmt: skip


def new_czi_scene(data, axes, start=None, loads=None):
    """Stand in for a scene of czifile of 2026, which counts along each axis from where it starts."""
    start = start or (0,) * data.ndim

    def part(roi, pixeltype, **places):
        x, y, width, height = roi
        asked = {"X": slice(x, x + width), "Y": slice(y, y + height)} | places
        index = []
        for axis, first in zip(axes, start, strict=True):
            one = asked.get(axis, slice(None))
            shifted = slice(one.start - first, one.stop - first) if axis in "YX" else one
            index.append(one - first if isinstance(one, int) else shifted)
        if places.get("Z") == MISSING_Z:
            raise ValueError("selection matches no subblocks")

        def asarray(fillvalue, maxworkers):
            if loads is not None:
                loads.append(places)
            return data[tuple(index)].squeeze()

        return SimpleNamespace(asarray=asarray)

    class SceneOfCzi:
        dims, shape, dtype, pixeltype = tuple(axes), data.shape, data.dtype, "its type"
        __call__ = staticmethod(part)

    SceneOfCzi.start = start
    return SceneOfCzi()


MISSING_Z = 12


def test_drawn_files_are_read_right_by_the_packages_that_are_installed(tmp_path):
    for name, (package, draw) in OF_VENDORS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if find_spec(package) is None:
            continue
        drawn = draw(tmp_path / name)
        found = list(read_images(tmp_path / name))
        assert [one.shape for one in found] == [one.shape for one in drawn], name
        for image, pixels in zip(found, drawn, strict=True):
            np.testing.assert_array_equal(image.read(), pixels, err_msg=name)
            assert image.pixel_size_um in ((), (0.5, 0.5), pytest.approx((2.0, 0.5, 0.5))), name


@pytest.mark.parametrize("ending", READERS)
def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch, ending):
    package = PACKAGES[ending]
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / f"a{ending}").write_bytes(b"x")
    with pytest.raises(ReadError, match=f"pip install {package} .*vendor"):
        read_image(tmp_path / f"a{ending}")


@pytest.mark.parametrize("ending", READERS)
def test_a_damaged_file_is_an_error_of_ours(stands_in, ending):
    path = stands_in(PACKAGES[ending], "None", ending)
    with pytest.raises(ReadError, match="damaged"):
        read_image(path)


def nd2_channel(name, *color, is_calibrated=True):
    color = SimpleNamespace(r=color[0], g=color[1], b=color[2])
    volume = SimpleNamespace(axesCalibrated=(is_calibrated, is_calibrated, True))
    return SimpleNamespace(channel=SimpleNamespace(name=name, color=color), volume=volume)


def nd2_file(shape, axes, step_um=0.5, **told):
    """Stand in for a file of nd2 of zeros."""
    own = {
        "sizes": dict(zip(axes, shape, strict=True)), "dtype": np.dtype(np.uint16), "experiment": (),
        "voxel_size": lambda: SimpleNamespace(x=step_um, y=step_um, z=2.0),
        "metadata": SimpleNamespace(channels=None),
        "to_dask": lambda: dask.array.zeros(shape, dtype=np.uint16),
    }  # fmt: skip
    return own | told


@pytest.mark.parametrize(
    ("is_calibrated", "step_um", "sizes"),
    [(True, 1.0, (1.0, 1.0)), (False, 1.0, ()), (False, 0.65, (0.65, 0.65))],
)
def test_an_nd2_that_was_not_calibrated_has_no_pixel_size(stands_in, is_calibrated, step_um, sizes):
    """nd2 gives 1 µm where none is known."""
    metadata = SimpleNamespace(channels=[nd2_channel("DAPI", 0, 0, 255, is_calibrated=is_calibrated)])
    path = stands_in("nd2", "ND2File", ".nd2", **nd2_file((8, 9), "YX", step_um, metadata=metadata))
    assert read_image(path).pixel_size_um == sizes


@pytest.mark.parametrize(("shape", "axes"), [((1 << 30, 2, 2), "TYX"), ((30_000, 30_000), "YX")])
def test_an_nd2_that_claims_more_than_its_bytes_is_refused_before_its_frames_are_listed(
    stands_in, shape, axes
):
    told = nd2_file(shape, axes, to_dask=lambda: pytest.fail("a list of all frames"))
    with pytest.raises(ReadError, match=r"more than its 18 bytes can"):
        read_image(stands_in("nd2", "ND2File", ".nd2", **told))


def test_a_lif_that_claims_more_than_its_bytes_is_refused_before_its_coordinates_are_made(stands_in):
    class Claim:
        name, dims, shape, dtype = "one", ("Y", "X"), (8, 1 << 30), np.dtype(np.uint8)
        coords = property(lambda self: pytest.fail("a number for each column"))

    with pytest.raises(ReadError, match="more than its 18 bytes can"):
        read_image(stands_in("liffile", "LifFile", ".lif", images=[Claim()]))


def test_names_of_planes_far_apart_make_no_oif(stands_in):
    told = olympus(DATA[:1, :1], "CZYX")
    told["series"][0].__class__.shape = (9999, 9999)
    with pytest.raises(ReadError, match=r"9999 x 9999 x 8 x 9 pixels, more than its 144 bytes can"):
        read_image(stands_in("oiffile", "OifFile", ".oib", **told))


def test_a_plane_of_an_oif_whose_pages_lead_in_a_circle_is_its_first(stands_in):
    """tifffile goes round for ever where it looks for what belongs together."""
    told = olympus(DATA[:1, :1], "CZYX")
    whole = told["open_file"]("s_0_0").getvalue()
    (directory,) = struct.unpack_from("<I", whole, 4)
    (n_tags,) = struct.unpack_from("<H", whole, directory)
    end = directory + 2 + 12 * n_tags  # where the place of the next one stands
    second = len(whole) + len(whole) % 2
    other = whole[directory:end] + struct.pack("<I", second)
    content = (
        whole[:end] + struct.pack("<I", second) + whole[end + 4 :].ljust(second - end - 4, b"\0") + other
    )
    told["open_file"] = lambda name: BytesIO(content)
    image = read_image(stands_in("oiffile", "OifFile", ".oib", **told))
    np.testing.assert_array_equal(image.data, DATA[0, 0])


def test_a_plane_of_an_oif_that_claims_a_million_squared_is_refused(stands_in):
    told = olympus(DATA[:1, :1], "CZYX")
    content = bytearray(told["open_file"]("s_0_0").getvalue())
    (directory,) = struct.unpack_from("<I", content, 4)
    tags = {
        struct.unpack_from("<H", content, at)[0]: at for at in range(directory + 2, len(content) - 12, 12)
    }
    for code in (256, 257):  # width and height, of 32 bits
        struct.pack_into("<HHII", content, tags[code], code, 4, 1, 10**6)
    told["open_file"] = lambda name: BytesIO(bytes(content))
    with pytest.raises(ReadError, match="claims to hold 1000000 x 1000000 pixels"):
        read_image(stands_in("oiffile", "OifFile", ".oib", **told))


def test_a_czi_whose_parts_lead_back_is_refused(stands_in):
    data = np.ones((1, 1, 8, 9), np.uint8)
    path = stands_in("czifile", "CziFile", ".czi", **czi_file(czi_blocks(data, 0), np.uint8))
    parts = [(b"ZISRAWFILE", 64), (b"ZISRAWSUBBLOCK", 32), (b"DELETED", 0), (b"ZISRAWMETADATA", 0)]

    def write(parts):
        content = b"".join(struct.pack("<16sqq", name, n, n) + bytes(max(0, n)) for name, n in parts)
        path.write_bytes(content + b"something else")

    write(parts)
    assert read_image(path).shape == (8, 9)
    write([*parts[:2], (b"ZISRAWATTACH", -96), *parts[2:]])
    with pytest.raises(ReadError, match="at 160 claims -96 bytes"):
        read_image(path)


def test_nd2_has_positions_channels_and_sizes_and_stays_on_disk(stands_in):
    data = dask.array.arange(2 * 3 * 2 * 8 * 9, dtype=np.uint16).reshape(2, 3, 2, 8, 9)
    own = SimpleNamespace(type="TimeLoop", parameters=SimpleNamespace(periodMs=2000.0))
    told = nd2_file(
        data.shape, "PZCYX", experiment=[own], to_dask=lambda: data,
        voxel_size=lambda: SimpleNamespace(x=0.25, y=0.5, z=2.0),
        metadata=SimpleNamespace(channels=[nd2_channel("DAPI", 0, 0, 255), nd2_channel("GFP", 0, 255, 0)]),
    )  # fmt: skip
    path = stands_in("nd2", "ND2File", ".nd2", **told)
    path.write_bytes(bytes(1000))
    first, second = read_images(path)
    assert first.frame_interval_s == 0.0  # there are no frames
    assert (first.name, second.name, first.axes) == ("a_0", "a_1", "ZCYX")
    assert first.pixel_size_um == (2.0, 0.5, 0.25)
    assert (first.channel_names, first.channel_colors) == (("DAPI", "GFP"), ("#0000ff", "#00ff00"))
    assert isinstance(second.data, dask.array.Array)
    np.testing.assert_array_equal(second.read(), data[1])
    assert all(file.is_closed for file in stands_in.files)


@pytest.mark.parametrize(("periods_ms", "seconds"), [([300_000.0] * 2, 300.0), ([1000.0, 60_000.0], 0.0)])
def test_nd2_tells_the_time_between_frames(stands_in, periods_ms, seconds):
    phases = [SimpleNamespace(periodMs=one) for one in periods_ms]
    loops = [
        SimpleNamespace(type="NETimeLoop", parameters=SimpleNamespace(periods=phases)),
        SimpleNamespace(type="XYPosLoop", parameters=None),
    ]
    path = stands_in("nd2", "ND2File", ".nd2", **nd2_file((3, 8, 9), "TYX", experiment=loops))
    path.write_bytes(bytes(1000))
    assert read_image(path).frame_interval_s == seconds


@pytest.mark.parametrize("fault", ["lead in a circle", "in a circle", "fewer than it claims", ""])
def test_an_oib_whose_sectors_are_without_end_is_refused(stands_in, fault):
    path = stands_in("oiffile", "OifFile", ".oib", **olympus(np.ones((4, 5)), "YX"))
    end, free = 0xFFFFFFFE, 0xFFFFFFFF
    header = np.full(128, free, "<u4")
    header[:2] = np.frombuffer(bytes.fromhex("d0cf11e0a1b11ae1"), "<u4")
    header[7] = 9 << 16  # sectors of 512 bytes
    header[11], header[16], header[18] = 1, 1, 99 * fault.startswith("fewer")  # how many there are of each
    header[15], header[17], header[19] = 1, end, 0  # of small sectors, of more tables, the table
    fat, mini = np.full(128, free, "<u4"), np.full(128, free, "<u4")
    fat[:5] = [0xFFFFFFFD, end, 3, 4, 2 if fault == "lead in a circle" else end]
    mini[:3] = [1, 2, 1 if fault == "in a circle" else end]
    path.write_bytes(b"".join(part.tobytes() for part in (header, fat, mini, fat, mini, fat)))
    if fault:
        with pytest.raises(ReadError, match=fault):
            read_image(path)
    else:
        assert read_image(path).shape == (4, 5)


def test_an_oib_with_tables_without_end_is_looked_at_in_little_memory(tmp_path):
    header = np.full(128, 0xFFFFFFFF, "<u4")
    header[:2] = np.frombuffer(bytes.fromhex("d0cf11e0a1b11ae1"), "<u4")
    header[[11, 16, 18]] = 1
    header[7], header[17] = 9 << 16, 0  # its list of tables goes on in sector 0, which leads to itself
    (tmp_path / "a.oib").write_bytes(header.tobytes() + np.zeros(128 * 3000, "<u4").tobytes())
    tracemalloc.start()
    with pytest.raises(ReadError, match="lead in a circle"):
        _refuse_circles(tmp_path / "a.oib")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20


def test_lif_names_its_channels_where_its_package_does(stands_in):
    coords = {"C": np.array(["DAPI", "GFP"]), "Y": np.arange(8) * 5e-7, "X": np.arange(9) * 5e-7}
    coords["Z"] = np.arange(3) * -2e-6  # a stack scanned downwards
    image = lif_image(np.zeros((3, 2, 8, 9), np.uint8), "ZCYX", coords=coords)
    found = read_image(stands_in("liffile", "LifFile", ".lif", images=[image]))
    assert found.channel_names == ("DAPI", "GFP")
    assert found.pixel_size_um == pytest.approx((2.0, 0.5, 0.5))


@pytest.mark.parametrize(
    ("shown", "names", "colors"),
    [
        (("Red", "Gray"), ("Gray", "Red"), ("#ffffff", "#ff0000")),
        (("Blue", "Blue"), (), ("#0000ff", "#0000ff")),  # no names to tell them by
    ],
)
def test_lif_tells_the_colours_that_its_channels_are_shown_in(stands_in, shown, names, colors):
    channel = '<ChannelDescription LUTName="{}" BytesInc="{}"/>'
    channels = channel.format(shown[0], 72) + channel.format(shown[1], 0)  # the later one comes first
    xml = f"<Image><ImageDescription><Channels>{channels}</Channels></ImageDescription></Image>"
    element = ElementTree.fromstring(f"<Element><Data>{xml}</Data></Element>")
    image = lif_image(np.zeros((2, 8, 9), np.uint8), "CYX", xml_element=element)
    found = read_image(stands_in("liffile", "LifFile", ".lif", images=[image]))
    assert (found.channel_names, found.channel_colors) == (names, colors)


def test_lif_has_images_of_their_own(stands_in):
    def image(name, dims, shape):
        steps = {"Y": np.arange(shape[-2]) * 5e-7, "X": np.arange(shape[-1]) * 2.5e-7}
        steps["T"] = np.arange(shape[0]) * 45.0
        return lif_image(np.zeros(shape, np.uint8), dims, name, coords=steps)

    images = [
        image("Series 1", ("C", "Y", "X"), (2, 8, 9)),
        image("Top/Series 2", ("T", "Y", "X"), (1, 8, 9)),
        image("Movie", ("T", "Y", "X"), (3, 8, 9)),
    ]
    found = list(read_images(stands_in("liffile", "LifFile", ".lif", images=images)))
    assert [(one.name, one.axes, one.shape) for one in found] == [
        ("a_Series 1", "CYX", (2, 8, 9)),
        ("a_Top_Series 2", "YX", (8, 9)),
        ("a_Movie", "TYX", (3, 8, 9)),
    ]
    assert [one.frame_interval_s for one in found] == [0.0, 0.0, 45.0]
    assert found[0].pixel_size_um == pytest.approx((0.5, 0.25))


def test_oib_tells_sizes_by_its_axes(stands_in):
    def axis(code, n, end):
        told = {"AxisCode": code, "MaxSize": n, "StartPosition": 0.0, "EndPosition": end, "PixUnit": "um"}
        return told | ({"PixUnit": "nm"} if code == "Z" else {})

    axes = [axis("X", 9, 4.5), axis("Y", 8, 2.0), axis("C", 2, 0), axis("Z", 3, 3000.0)]
    mainfile = {f"Axis {number} Parameters Common": told for number, told in enumerate(axes)}
    mainfile["Channel 1 Parameters"] = {"CH Name": "CH1", "DyeName": "Alexa Fluor 546"}
    mainfile["Channel 2 Parameters"] = {"CH Name": "TD1", "DyeName": "None"}
    file = olympus(np.zeros((2, 3, 8, 9), np.uint16), "CZYX", **mainfile)
    path = stands_in("oiffile", "OifFile", ".oib", **file)
    image = read_image(path)
    assert image.channel_names == ("Alexa Fluor 546", "TD1")
    assert (image.axes, image.pixel_size_um) == (
        "CZYX",
        (1.5, 0.25, 0.5),
    )  # of three slices, the middles of the outer ones 3 µm apart


@pytest.mark.parametrize(("unit", "seconds"), [("ms", 30.0), ("s", 30_000.0), ("", 0.0)])
def test_oib_tells_the_time_between_frames(stands_in, unit, seconds):
    told = {"AxisCode": "T", "MaxSize": 3, "StartPosition": 500.0, "EndPosition": 60_500.0, "PixUnit": unit}
    file = olympus(np.zeros((3, 8, 9)), "TYX", **{"Axis 4 Parameters Common": told})
    path = stands_in("oiffile", "OifFile", ".oib", **file)
    assert read_image(path).frame_interval_s == seconds


def test_czi_has_scenes_of_their_own_place(stands_in):
    distances = [{"Id": "X", "Value": 5e-7}, {"Id": "Y", "Value": 2.5e-7}]
    metadata = {"Scaling": {"Items": {"Distance": distances}}}
    metadata["Information"] = {"Image": {"Dimensions": {"Channels": {"Channel": {"Name": "DAPI"}}}}}
    data = np.arange(72, dtype=np.uint16).reshape(1, 1, 8, 9)
    blocks = czi_blocks(data, 0, (0, 20)) + czi_blocks(data[..., :4] + 1, 3, (30, 50))
    path = stands_in("czifile", "CziFile", ".czi", **czi_file(blocks, np.uint16, metadata))
    first, second = read_images(path)
    assert (first.name, first.axes, second.name) == ("a_0", "YX", "a_3")
    np.testing.assert_array_equal(first.data, data[0, 0])
    np.testing.assert_array_equal(second.data, data[0, 0, :, :4] + 1)
    assert first.pixel_size_um == pytest.approx((0.25, 0.5))
    own = blocks[0].data_segment().directory_entry
    for damage in ({"shape": (1, 1, 1, 8, 9000, 1)}, {"stored_shape": (1, 1, 1, 0, 5, 1)}):
        vars(own).update({"shape": blocks[0].shape, "stored_shape": blocks[0].shape} | damage)
        with pytest.raises(ReadError, match=r"A block of .* claims a shape"):
            read_image(path)


def test_czi_is_not_read_from_its_small_copies(stands_in):
    data = np.arange(72, dtype=np.uint8).reshape(1, 1, 8, 9)
    copies = czi_blocks(np.zeros_like(data), 0, side=9)
    for copy in copies:
        copy.pyramid_type = 1
    blocks = czi_blocks(data, 0) + copies
    path = stands_in("czifile", "CziFile", ".czi", **czi_file(blocks, np.uint8))
    np.testing.assert_array_equal(read_image(path).data, data[0, 0])


def test_blocks_of_czi_far_apart_are_no_image(stands_in):
    data = np.ones((1, 1, 8, 9), np.uint8)
    blocks = czi_blocks(data, 0) + czi_blocks(data, 0, (1 << 20, 1 << 20))
    path = stands_in("czifile", "CziFile", ".czi", **czi_file(blocks, np.uint8))
    with pytest.raises(ReadError, match=r"more than its .* bytes can"):
        read_image(path)


@pytest.mark.parametrize(
    ("kind", "n_samples", "way"),
    [("u1", 1, 5), ("u2", 1, 5), ("f4", 1, 5), ("u1", 3, 6), ("u2", 1, 6), ("u2", 1, "halves")],
)
def test_blocks_of_czi_are_unpacked_as_zen_packs_them(stands_in, kind, n_samples, way):
    import imagecodecs

    path = stands_in("czifile", "CziFile", ".czi", axes="YX0")
    known = {0: bytes}
    sys.modules["czifile"].czifile = SimpleNamespace(DECOMPRESS=known)
    with pytest.raises(ReadError):
        read_image(path)  # it tells no more than its axes
    pixels = np.arange(6 * 7 * n_samples).reshape(6, 7, n_samples).astype(kind)
    content, header = pixels.tobytes(), b""
    if way == 6:
        header = bytes([1])
    if way == "halves":
        header, way = bytes([3, 1, 1]), 6
        content = pixels.view(np.uint8).reshape(-1, 2).T.tobytes()
    found = known[way](header + imagecodecs.zstd_encode(content)).reshape(pixels.shape)
    assert found.dtype == pixels.dtype
    np.testing.assert_array_equal(found, pixels)


def test_blocks_of_czi_packed_by_lzw_are_unpacked_here(stands_in):
    """czifile of 2019 does it by what NumPy no longer has."""
    import imagecodecs

    data, known = np.arange(72, dtype=np.uint16).reshape(1, 1, 8, 9), {}
    (block,) = czi_blocks(data, 0, side=9)
    segment = block.data_segment()
    segment.directory_entry.compression = 2

    def load():
        packed = imagecodecs.lzw_encode(data.tobytes())
        return known[segment.directory_entry.compression](packed).reshape(block.shape)

    segment.data = load
    path = stands_in("czifile", "CziFile", ".czi", **czi_file([block], np.uint16))
    sys.modules["czifile"].czifile = SimpleNamespace(DECOMPRESS=known)
    np.testing.assert_array_equal(read_image(path).data, data[0, 0])


def test_czi_has_scenes_by_its_newer_package_too(stands_in):
    def scene(axes, value):
        return new_czi_scene(np.full((2, 8, 9, 3)[: len(axes)], value, np.uint8), axes)

    distances = [{"Id": "X", "Value": 5e-7}, {"Id": "Y", "Value": 2.5e-7}]
    metadata = {"Scaling": {"Items": {"Distance": distances}}}
    metadata["Information"] = {
        "Image": {"Dimensions": {"Channels": {"Channel": [{"Name": "DAPI"}, {"Name": "GFP"}]}}}
    }
    times = {"Positions": {"Interval": {"Start": 0, "Increment": 90.0}}}
    metadata["Information"]["Image"]["Dimensions"]["T"] = times
    path = stands_in(
        "czifile", "CziFile", ".czi",
        metadata=lambda asdict: {"ImageDocument": {"Metadata": metadata}} if asdict else "<xml/>",
        scenes={
            0: scene("CYX", 5), 2: scene("ZYXS", 6), 3: scene("TYX", 5)
        },
    )  # fmt: skip
    first, second, third = read_images(path)
    assert (first.frame_interval_s, third.frame_interval_s) == (0.0, 90.0)
    assert (first.name, first.axes, first.shape) == ("a_0", "CYX", (2, 8, 9))
    assert first.channel_names == ("DAPI", "GFP")
    assert (second.name, second.axes, second.read().max()) == ("a_2", "ZYXC", 6)
    assert first.pixel_size_um == pytest.approx((0.25, 0.5))


DATA = np.arange(2 * 3 * 8 * 9, dtype=np.uint16).reshape(2, 3, 8, 9)  # CZYX
KINDS = ("czi", "newer czi", "lif", "oib")


@pytest.fixture(params=KINDS)
def large(request, stands_in, monkeypatch):
    """A large file of each kind with DATA in its second scene, or its only one, and what of it was loaded."""
    monkeypatch.setattr(scenes, "LAZY_BYTES", 0)
    loads = []
    if request.param == "czi":
        blocks = czi_blocks(DATA[:1], 0, loads=loads) + czi_blocks(DATA, 1, (7, 40), loads=loads)
        path = stands_in("czifile", "CziFile", ".czi", **czi_file(blocks, np.uint16))
    elif request.param == "newer czi":
        both = {0: new_czi_scene(DATA[0], "ZYX"), 1: new_czi_scene(DATA, "CZYX", (0, 5, 7, 40), loads)}
        path = stands_in("czifile", "CziFile", ".czi", scenes=both, metadata=lambda asdict: {})
    elif request.param == "lif":
        both = [lif_image(DATA[0], "ZYX", "a"), lif_image(DATA, "CZYX", "b", loads)]
        path = stands_in("liffile", "LifFile", ".lif", images=both)
    else:
        path = stands_in("oiffile", "OifFile", ".oib", **olympus(DATA, "CZYX", loads))
    image = list(read_images(path))[-1]
    if request.param == "oib":
        assert loads == ["s_0_0"]  # whose type and shape are those of all planes
        loads.clear()
    assert (image.axes, image.shape, image.data.dtype) == ("CZYX", DATA.shape, DATA.dtype)
    return SimpleNamespace(image=image, path=path, loads=loads, kind=request.param, files=stands_in.files)


def test_what_is_looked_at_of_a_large_scene_is_loaded_alone(large):
    assert large.loads == []
    plane = large.image.read((1, 2))
    np.testing.assert_array_equal(plane, DATA[1, 2])
    of_plane = {
        "czi": [(1, 1, 2, y, x) for y in (0, 5) for x in (0, 5)], "newer czi": [{"C": 1, "Z": 7}],
        "lif": ["b"], "oib": ["s_1_2"],
    }  # fmt: skip
    assert large.loads == of_plane[large.kind]
    np.testing.assert_array_equal(large.image.read((0, 0, slice(6, 8), slice(1, 3))), DATA[0, 0, 6:8, 1:3])
    assert len(large.loads) == {"czi": 5, "lif": 1}.get(large.kind, 2)  # a LIF is mapped once
    assert len(large.files) == 1


def test_a_slider_over_a_large_scene_loads_a_plane_at_a_time(large):
    seen = lazy(large.image.data)[1]
    np.testing.assert_array_equal(np.asarray(seen[2, 2:7]), DATA[1, 2, 2:7])
    assert len(large.loads) == {"czi": 4}.get(large.kind, 1)


@pytest.mark.parametrize("side", [4096, 3])
@pytest.mark.parametrize(
    "index",
    [
        ..., (), 1, -1, (..., 2), (0, ..., slice(1, 5)), (slice(None, None, -1), slice(2, 0, -2)),
        (slice(None), slice(None), slice(None, None, 3), slice(1, None, 2)), (1, 2, 3, 4),
        (slice(0, 0), 1), (slice(1, 9), slice(-2, None), slice(7, None, -3)),
    ],
)  # fmt: skip
def test_any_part_of_a_large_scene_is_right(large, monkeypatch, index, side):
    monkeypatch.setattr(scenes, "MOST_SIDE_PX", side)
    np.testing.assert_array_equal(large.image.data[index], DATA[index])


@pytest.mark.parametrize("index", [2, (0, 0, 0, 0, 0), (0, 3)])
def test_beyond_a_large_scene_is_nothing(large, index):
    with pytest.raises(IndexError):
        large.image.data[index]


def test_a_large_scene_travels_by_its_path(large):
    again = pickle.loads(pickle.dumps(large.image.data))
    assert large.loads == [] or large.kind == "oib"
    np.testing.assert_array_equal(np.asarray(again), DATA)
    assert len(large.files) == 2


def test_the_file_of_a_large_scene_is_closed_with_it(large):
    (file,) = large.files
    assert not hasattr(file, "is_closed")
    del large.image
    assert file.is_closed


@pytest.mark.parametrize("becomes", ["other bytes", "gone"])
def test_a_large_scene_whose_file_changed_is_refused(large, becomes):
    large.image.read((0, 0))
    n_loads = len(large.loads)
    if becomes == "gone":
        large.path.unlink()
    else:
        large.path.write_bytes(b"another file")
    with pytest.raises(ImageError, match=r"a\.(czi|lif|oib) has changed or is gone .*Open it again"):
        large.image.read((1, 1))
    assert len(large.loads) == n_loads


def test_damage_in_a_large_scene_is_told(large, monkeypatch):
    def fails(*_):
        raise ValueError("buffer is too small")

    monkeypatch.setattr(large.image.data, "_scene", large.image.data._scene._replace(load=fails))
    with pytest.raises(ReadError, match=r"a\.\w+ is damaged: buffer is too small"):
        large.image.data[0]


def test_small_scenes_of_small_files_are_read_at_once(stands_in, monkeypatch):
    monkeypatch.setattr(scenes, "LAZY_BYTES", DATA.nbytes)
    path = stands_in("liffile", "LifFile", ".lif", images=[lif_image(DATA, "CZYX")])
    assert isinstance(read_image(path).data, np.ndarray)
    path.write_bytes(bytes(DATA.nbytes + 1))
    assert isinstance(read_image(path).data, scenes.LazyScene)


def test_what_no_block_of_czi_covers_is_dark(stands_in, monkeypatch):
    path = stands_in(
        "czifile", "CziFile", ".czi", metadata=lambda asdict: {},
        scenes={0: new_czi_scene(DATA, "CZYX", (0, MISSING_Z - 1, 0, 0))},
    )  # fmt: skip
    expected = DATA.copy()
    expected[:, 1] = 0
    np.testing.assert_array_equal(read_image(path).data, expected)


def test_planes_that_an_oib_lacks_are_told(stands_in):
    told = olympus(DATA, "CZYX")
    series = told["series"][0]
    series.pop()
    series.indices.pop()
    image = read_image(stands_in("oiffile", "OifFile", ".oib", **told))
    assert image.notices == ("a.oib has 5 of 6 planes; the others are dark here.",)
    expected = DATA.copy()
    expected[1, 2] = 0
    np.testing.assert_array_equal(image.data, expected)


def test_frames_that_an_nd2_lacks_are_told_of_their_position(stands_in):
    """nd2 makes them dark, as of an acquisition that was stopped, and tells nobody."""
    offsets = dict.fromkeys((0, 1, 2, 3, 5), 100)
    told = nd2_file((2, 3, 2, 8, 9), "PZCYX", _rdr=SimpleNamespace(_frame_offsets=offsets))
    path = stands_in("nd2", "ND2File", ".nd2", **told)
    path.write_bytes(bytes(1000))
    first, second = read_images(path)
    assert first.notices == ()
    assert second.notices == ("a_1 has 2 of 3 planes; the others are dark here.",)


def test_planes_that_a_czi_lacks_are_told(stands_in):
    blocks = [block for block in czi_blocks(DATA, 0) if block.start[1:3] != (1, 2)]
    image = read_image(stands_in("czifile", "CziFile", ".czi", **czi_file(blocks, DATA.dtype)))
    assert image.notices == ("a has 5 of 6 planes; the others are dark here.",)


def test_hdf5_of_ilastik_tells_its_axes(stands_in):
    tags = '{"axes": [{"key": "y"}, {"key": "x"}, {"key": "c"}]}'
    one = type("Dataset", (np.ndarray,), {"attrs": {"axistags": tags}, "dims": ()})
    one.id = SimpleNamespace(get_storage_size=lambda: 100)
    claimed = np.broadcast_to(np.uint8(0), (30_000, 30_000)).view(one)
    path = stands_in("h5py", "File", ".h5", visititems=lambda see: see("x", claimed))
    with pytest.raises(ReadError, match="more than its 100 bytes can"):
        read_image(path)
    dataset = np.zeros((8, 9, 1), np.uint32).view(one)
    for datasets in ([dataset], [dataset, dataset]):
        path = stands_in(
            "h5py", "File", ".h5", visititems=lambda see, all_=datasets: [see("x", n) for n in all_]
        )
        if len(datasets) == 1:
            assert (read_image(path).axes, read_image(path).shape) == ("YX", (8, 9))
        else:
            with pytest.raises(ReadError, match="one dataset"):
                read_image(path)


def test_tables_and_texts_in_hdf5_are_no_images(stands_in):
    tables = [np.zeros((4, 4), kind) for kind in ("S3", "u1,f4", "O")]
    image = np.zeros((8, 9), np.uint8).view(type("Dataset", (np.ndarray,), {"attrs": {}, "dims": ()}))
    image.id = SimpleNamespace(get_storage_size=lambda: 100)
    path = stands_in(
        "h5py", "File", ".h5", visititems=lambda see: [see("x", one) for one in (*tables, image)]
    )
    assert read_image(path).shape == (8, 9)


@pytest.mark.parametrize(("names", "axes"), [(("time", "y", "x"), "TYX"), (("Z", "Y", "X"), "ZYX")])
def test_hdf5_tells_its_axes_by_their_names(stands_in, names, axes):
    told = {"attrs": {}, "dims": [SimpleNamespace(label=name) for name in names]}
    dataset = np.zeros((3, 8, 9), np.uint8).view(type("Dataset", (np.ndarray,), told))
    dataset.id = SimpleNamespace(get_storage_size=lambda: 100)
    image = read_image(stands_in("h5py", "File", ".h5", visititems=lambda see: see("volume", dataset)))
    assert (image.axes, image.axes_are_guessed) == (axes, False)


def test_hdf5_tells_its_axes_by_labels_and_its_size_as_fiji_writes_it(stands_in):
    dimensions = [SimpleNamespace(label=letter) for letter in "tzyx"]
    told = {"attrs": {"element_size_um": np.array([2.0, 0.5, 0.25])}, "dims": dimensions}
    dataset = np.zeros((3, 2, 8, 9), np.uint8).view(type("Dataset", (np.ndarray,), told))
    dataset.id = SimpleNamespace(get_storage_size=lambda: 100)
    image = read_image(stands_in("h5py", "File", ".h5", visititems=lambda see: see("volume", dataset)))
    assert (image.axes, image.pixel_size_um, image.notices) == ("TZYX", (2.0, 0.5, 0.25), ())
