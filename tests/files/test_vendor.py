"""Files of vendors: what their packages tell becomes axes, sizes, channels and scenes.

The packages are not needed here; what stands in for them has the same names and gives the same kinds of
values.
"""

import sys
import tracemalloc
from types import SimpleNamespace
from xml.etree import ElementTree

import dask.array
import numpy as np
import pytest

from cellwright.core.errors import ReadError
from cellwright.files.images import read_image, read_images
from cellwright.files.vendor import READERS


class Opened:
    """A file of a package, to be used in a ``with``."""

    def __init__(self, **told):
        self.__dict__ |= told

    def __enter__(self):
        return self

    def __exit__(self, *_):
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


@pytest.mark.parametrize("ending", READERS)
def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch, ending):
    package = READERS[ending][0]
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / f"a{ending}").write_bytes(b"x")
    with pytest.raises(ReadError, match=f"pip install {package} .*vendor"):
        read_image(tmp_path / f"a{ending}")


@pytest.mark.parametrize("ending", READERS)
def test_a_damaged_file_is_an_error_of_ours(stands_in, ending):
    package, _ = READERS[ending]
    path = stands_in(package, "None", ending)
    with pytest.raises(ReadError, match="damaged"):
        read_image(path)


def test_nd2_has_positions_channels_and_sizes_and_stays_on_disk(stands_in):
    def channel(name, *color):
        color = SimpleNamespace(r=color[0], g=color[1], b=color[2])
        return SimpleNamespace(channel=SimpleNamespace(name=name, color=color))

    data = dask.array.arange(2 * 3 * 2 * 8 * 9, dtype=np.uint16).reshape(2, 3, 2, 8, 9)
    own = SimpleNamespace(type="TimeLoop", parameters=SimpleNamespace(periodMs=2000.0))
    path = stands_in(
        "nd2", "ND2File", ".nd2",
        sizes={"P": 2, "Z": 3, "C": 2, "Y": 8, "X": 9},
        voxel_size=lambda: SimpleNamespace(x=0.25, y=0.5, z=2.0),
        metadata=SimpleNamespace(channels=[channel("DAPI", 0, 0, 255), channel("GFP", 0, 255, 0)]),
        to_dask=lambda: data, experiment=[own],
    )  # fmt: skip
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
    path = stands_in(
        "nd2", "ND2File", ".nd2", sizes={"T": 3, "Y": 8, "X": 9},
        voxel_size=lambda: SimpleNamespace(x=0.25, y=0.5, z=2.0), metadata=SimpleNamespace(channels=None),
        to_dask=lambda: dask.array.zeros((3, 8, 9), dtype=np.uint16),
        experiment=[
            SimpleNamespace(type="NETimeLoop", parameters=SimpleNamespace(periods=phases)),
            SimpleNamespace(type="XYPosLoop", parameters=None),
        ],
    )  # fmt: skip
    assert read_image(path).frame_interval_s == seconds


@pytest.mark.parametrize("fault", ["lead in a circle", "in a circle", "fewer than it claims", ""])
def test_an_oib_whose_sectors_are_without_end_is_refused(stands_in, fault):
    path = stands_in("oiffile", "OifFile", ".oib", mainfile={}, axes="YX", asarray=lambda: np.ones((4, 5)))
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
    from cellwright.files.vendor import _refuse_circles

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
    image = SimpleNamespace(
        name="one", dims=("Z", "C", "Y", "X"), coords=coords, asarray=lambda: np.zeros((3, 2, 8, 9), np.uint8)
    )
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
    image = SimpleNamespace(
        name="one", dims=("C", "Y", "X"), coords={}, asarray=lambda: np.zeros((2, 8, 9), np.uint8),
        xml_element=ElementTree.fromstring(f"<Element><Data>{xml}</Data></Element>"),
    )  # fmt: skip
    found = read_image(stands_in("liffile", "LifFile", ".lif", images=[image]))
    assert (found.channel_names, found.channel_colors) == (names, colors)


def test_lif_has_images_of_their_own(stands_in):
    def image(name, dims, shape):
        steps = {"Y": np.arange(shape[-2]) * 5e-7, "X": np.arange(shape[-1]) * 2.5e-7}
        steps["T"] = np.arange(shape[0]) * 45.0
        return SimpleNamespace(name=name, dims=dims, coords=steps, asarray=lambda: np.zeros(shape, np.uint8))

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
    data = np.zeros((2, 3, 8, 9), np.uint16)
    path = stands_in("oiffile", "OifFile", ".oib", mainfile=mainfile, axes="CZYX", asarray=lambda: data)
    image = read_image(path)
    assert image.channel_names == ("Alexa Fluor 546", "TD1")
    assert (image.axes, image.pixel_size_um) == (
        "CZYX",
        (1.5, 0.25, 0.5),
    )  # of three slices, the middles of the outer ones 3 µm apart


@pytest.mark.parametrize(("unit", "seconds"), [("ms", 30.0), ("s", 30_000.0), ("", 0.0)])
def test_oib_tells_the_time_between_frames(stands_in, unit, seconds):
    told = {"AxisCode": "T", "MaxSize": 3, "StartPosition": 500.0, "EndPosition": 60_500.0, "PixUnit": unit}
    path = stands_in(
        "oiffile", "OifFile", ".oib",
        mainfile={"Axis 4 Parameters Common": told}, axes="TYX", asarray=lambda: np.zeros((3, 8, 9)),
    )  # fmt: skip
    assert read_image(path).frame_interval_s == seconds


def test_czi_has_scenes_of_their_own_place(stands_in):
    def block(scene, x, width, **own):
        shape = (1, 1, 8, width, 1)
        told = SimpleNamespace(**({"shape": shape, "stored_shape": shape} | own))
        return SimpleNamespace(
            start=(scene, 0, 0, x, 0), shape=shape, data_segment=lambda: SimpleNamespace(directory_entry=told)
        )

    def fill(out, max_workers):
        assert max_workers == 1
        out[0, :, :, 10:19], out[1, :, :, 40:50] = 5, 6

    distances = [{"Id": "X", "Value": 5e-7}, {"Id": "Y", "Value": 2.5e-7}]
    metadata = {"Scaling": {"Items": {"Distance": distances}}}
    metadata["Information"] = {"Image": {"Dimensions": {"Channels": {"Channel": {"Name": "DAPI"}}}}}
    blocks = [block(0, 20, 9), block(1, 50, 0)]
    path = stands_in(
        "czifile", "CziFile", ".czi",
        metadata=lambda raw: {"ImageDocument": {"Metadata": metadata}},
        axes="SCYX0", shape=(2, 1, 8, 40, 1), start=(0, 0, 0, 10, 0), dtype=np.uint16, asarray=fill,
        filtered_subblock_directory=blocks,
    )  # fmt: skip
    first = read_image(path)
    assert (first.name, first.axes, first.shape) == ("a_0", "YX", (8, 9))
    assert (first.read() == 5).all()
    assert first.pixel_size_um == pytest.approx((0.25, 0.5))
    for damage in ({"shape": (1, 1, 8, 9000, 1)}, {"stored_shape": (1, 1, 0, 9, 1)}):
        blocks[0] = block(0, 20, 9, **damage)
        with pytest.raises(ReadError, match=r"A block of .* claims a shape"):
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


def test_czi_has_scenes_by_its_newer_package_too(stands_in):
    def scene(dims, value):
        pixels = np.full((2, 8, 9, 3)[: len(dims)], value, np.uint8)
        return SimpleNamespace(dims=dims, asarray=lambda fillvalue, maxworkers: pixels)

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
            0: scene(("C", "Y", "X"), 5), 2: scene(("Z", "Y", "X", "S"), 6), 3: scene(("T", "Y", "X"), 5)
        },
    )  # fmt: skip
    first, second, third = read_images(path)
    assert (first.frame_interval_s, third.frame_interval_s) == (0.0, 90.0)
    assert (first.name, first.axes, first.shape) == ("a_0", "CYX", (2, 8, 9))
    assert first.channel_names == ("DAPI", "GFP")
    assert (second.name, second.axes, second.read().max()) == ("a_2", "ZYXC", 6)
    assert first.pixel_size_um == pytest.approx((0.25, 0.5))


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


def test_hdf5_tells_its_axes_by_labels_and_its_size_as_fiji_writes_it(stands_in):
    dimensions = [SimpleNamespace(label=letter) for letter in "tzyx"]
    told = {"attrs": {"element_size_um": np.array([2.0, 0.5, 0.25])}, "dims": dimensions}
    dataset = np.zeros((3, 2, 8, 9), np.uint8).view(type("Dataset", (np.ndarray,), told))
    dataset.id = SimpleNamespace(get_storage_size=lambda: 100)
    image = read_image(stands_in("h5py", "File", ".h5", visititems=lambda see: see("volume", dataset)))
    assert (image.axes, image.pixel_size_um, image.notices) == ("TZYX", (2.0, 0.5, 0.25), ())
