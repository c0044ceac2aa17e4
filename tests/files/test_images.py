import sys
import zlib
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image as Picture

from cellwright.core.data import Image
from cellwright.core.errors import AxesError, CellwrightError, ReadError, WriteError
from cellwright.files import tiff
from cellwright.files import zarr as files_zarr
from cellwright.files.images import read_image, write_labels
from cellwright.files.metadata import NO_SIZE, NO_STEP, ImageMetadata, describe, with_axes


@pytest.fixture
def grey(rng):
    return rng.integers(0, 60_000, (40, 50)).astype(np.uint16)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_ome_tiff_keeps_axes_and_pixel_size(tmp_path, grey):
    path = tmp_path / "a.ome.tif"
    data = np.stack([[grey, grey + 1]] * 3)
    metadata = {"axes": "ZCYX"}
    for axis, size, unit in (("X", 500.0, "nm"), ("Y", 0.25, "µm"), ("Z", 0.002, "mm")):
        metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
    tifffile.imwrite(path, data, ome=True, photometric="minisblack", metadata=metadata)
    image = read_image(path)
    assert image.axes == "ZCYX"
    assert image.pixel_size_um == pytest.approx((2.0, 0.25, 0.5))
    np.testing.assert_array_equal(image.data, data)


def test_ome_tiff_without_depth_has_the_pixel_size_of_its_plane(tmp_path, grey):
    path = tmp_path / "a.ome.tif"
    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(path, np.stack([grey] * 3), ome=True, photometric="minisblack", metadata=metadata)
    assert read_image(path).pixel_size_um == (0.0, 0.5, 0.5)
    assert any("step between slices" in notice for notice in read_image(path).notices)


def test_imagej_tiff_keeps_axes_and_pixel_size(tmp_path, grey):
    path = tmp_path / "a.tif"
    data = np.stack([grey] * 5)
    metadata = {"axes": "ZYX", "unit": "um", "spacing": 1.5}
    tifffile.imwrite(path, data, imagej=True, resolution=(4.0, 2.0), metadata=metadata)
    image = read_image(path)
    assert (image.axes, image.name) == ("ZYX", "a")
    assert image.pixel_size_um == pytest.approx((1.5, 0.5, 0.25))


@pytest.mark.parametrize(
    ("units", "sizes"),
    [
        ({"zunit": "nm"}, (0.0015, 0.5, 0.25)),
        ({"yunit": "mm", "zunit": "mm"}, (1500, 500, 0.25)),
        ({"unit": "nm", "zunit": "micron"}, (1.5, 0.0005, 0.00025)),
        ({"zunit": "pixel"}, (0, 0.5, 0.25)),
        ({"yunit": "pixel"}, ()),
    ],
)
def test_each_axis_of_an_imagej_tiff_has_its_own_unit(tmp_path, grey, units, sizes):
    metadata = {"axes": "ZYX", "unit": "um", "spacing": 1.5, **units}
    data = np.stack([grey] * 5)
    tifffile.imwrite(tmp_path / "a.tif", data, imagej=True, resolution=(4.0, 2.0), metadata=metadata)
    assert read_image(tmp_path / "a.tif").pixel_size_um == pytest.approx(sizes)


@pytest.mark.parametrize(
    ("axes", "labels", "names"),
    [
        ("CYX", ["DAPI", "GFP\nexposure 20 ms"], ("DAPI", "GFP")),
        ("ZCYX", ["DAPI", "GFP"] * 3, ("DAPI", "GFP")),
        ("ZCYX", ["DAPI", "GFP", "DAPI", "GFP", "DAPI", "RFP"], ()),
        ("CYX", ["same", "same"], ()),
        ("CYX", ["c:1/2 - a.nd2", "c:2/2 - a.nd2"], ()),  # of Bio-Formats
        ("ZYX", ["first", "second"], ()),
    ],
)
def test_labels_of_the_planes_of_imagej_name_channels(tmp_path, grey, axes, labels, names):
    data = np.broadcast_to(grey, {"CYX": (2,), "ZYX": (2,), "ZCYX": (3, 2)}[axes] + grey.shape)
    metadata = {"axes": axes, "Labels": labels}
    tifffile.imwrite(tmp_path / "a.tif", data, imagej=True, metadata=metadata)
    assert read_image(tmp_path / "a.tif").channel_names == names


@pytest.mark.parametrize("sizes", [(), (0, 0.5, 0.25), (2.0, 0.5, 0.25)], ids=str)
def test_labels_as_zarr_tell_the_pixel_size_that_is_known(tmp_path, sizes):
    image = Image(np.zeros((3, 8, 8), np.uint8), "ZYX", sizes)
    files_zarr.create_array(tmp_path / "a.zarr", image)
    files_zarr.finish_array(tmp_path / "a.zarr", image)
    scale = zarr.open_group(tmp_path / "a.zarr").attrs["ome"]["multiscales"][0]["datasets"][0]
    assert min(scale["coordinateTransformations"][0]["scale"]) > 0
    assert read_image(tmp_path / "a.zarr").pixel_size_um == pytest.approx(sizes)


def test_imagej_tiff_in_pixels_has_no_pixel_size(tmp_path, grey):
    tifffile.imwrite(tmp_path / "a.tif", grey, imagej=True, resolution=(1, 1), metadata={"unit": "pixel"})
    assert read_image(tmp_path / "a.tif").pixel_size_um == ()


@pytest.mark.parametrize(
    ("per_unit", "unit", "expected"),
    [(20_000, "CENTIMETER", (0.5, 0.5)), (28, "CENTIMETER", ()), (300, "INCH", ()), (1, "NONE", ())],
)
def test_plain_tiff_pixel_size_is_believed_only_of_a_microscope(tmp_path, grey, per_unit, unit, expected):
    tifffile.imwrite(tmp_path / "a.tif", grey, resolution=(per_unit, per_unit), resolutionunit=unit)
    image = read_image(tmp_path / "a.tif")
    assert image.axes == "YX"
    assert image.pixel_size_um == pytest.approx(expected)


@pytest.mark.parametrize("compression", ["zlib", "lzw", "deflate", "packbits", "zstd"])
def test_compressed_tiffs_are_read(tmp_path, grey, compression):
    tifffile.imwrite(tmp_path / "a.tif", grey, compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").data, grey)


@pytest.mark.parametrize(
    "dtype", [bool, np.uint8, np.uint16, np.uint32, np.int16, np.int32, np.float32, np.float64]
)
def test_tiff_dtypes(tmp_path, dtype):
    data = (np.arange(600).reshape(20, 30) % 2).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", data)
    image = read_image(tmp_path / "a.tif")
    assert image.data.dtype == data.dtype
    np.testing.assert_array_equal(image.data, data)


def test_rgb_tiff_drops_transparency(tmp_path, rng):
    data = rng.integers(0, 255, (20, 30, 4)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb", extrasamples=["unassalpha"])
    image = read_image(tmp_path / "a.tif")
    assert image.axes == "YXC"
    np.testing.assert_array_equal(image.data, data[..., :3])


def test_axes_that_are_stated_leave_other_notices(grey):
    stack = describe(np.stack([grey] * 8), "", "a", ImageMetadata({"Y": 0.5, "X": 0.5}, notices=["Cut."]))
    assert len(stack.notices) == 3  # guessed axes, no step between slices
    assert with_axes(stack, "TYX").notices == ("Cut.",)
    assert with_axes(stack, "ZYX").notices == ("Cut.", NO_STEP)


def test_a_file_that_may_not_be_read_is_told(tmp_path, grey, monkeypatch):
    def forbidden(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    tifffile.imwrite(tmp_path / "a.tif", grey)
    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(ReadError, match=r"You may not read .*a\.tif: Permission denied"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("level", "is_one"),
    [((3, 128, 100), True), ((3, 33, 25), True), ((3, 50, 100), False), ((3, 300, 100), False)],
)
def test_a_smaller_copy_is_as_many_times_smaller_along_both_sides(level, is_one):
    assert files_zarr._is_smaller_copy(level, (3, 257, 200)) == is_one


def test_axes_can_be_stated(tmp_path, grey):
    tifffile.imwrite(tmp_path / "a.tif", np.stack([grey] * 5))
    assert read_image(tmp_path / "a.tif", axes="tyx").axes == "TYX"
    with pytest.raises(AxesError, match=r"\(5, 40, 50\)"):
        read_image(tmp_path / "a.tif", axes="YX")


@pytest.mark.parametrize(
    ("mode", "dtype", "axes"),
    [
        ("1", bool, "YX"),
        ("L", np.uint8, "YX"),
        ("LA", np.uint8, "YX"),
        ("I;16", np.uint16, "YX"),
        ("P", np.uint8, "YXC"),
        ("RGB", np.uint8, "YXC"),
        ("RGBA", np.uint8, "YXC"),
    ],
)
def test_png_modes(tmp_path, mode, dtype, axes):
    Picture.new(mode, (30, 20), 1 if mode in ("1", "L", "I;16", "P") else None).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.axes == axes
    assert image.data.dtype == dtype
    assert image.shape == ((20, 30) if axes == "YX" else (20, 30, 3))


def test_jpeg_is_read(tmp_path):
    Picture.new("CMYK", (30, 20)).save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").shape == (20, 30, 3)


def test_a_wrong_suffix_does_not_matter(tmp_path):
    Picture.new("L", (30, 20), 7).save(tmp_path / "a.tif", format="png")
    assert read_image(tmp_path / "a.tif").data.max() == 7


def test_a_large_picture_gives_no_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Picture, "MAX_IMAGE_PIXELS", 400)
    Picture.new("L", (30, 20)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (20, 30)


def test_npy_stays_on_disk(tmp_path, grey):
    np.save(tmp_path / "a.npy", grey)
    image = read_image(tmp_path / "a.npy")
    assert isinstance(image.data, np.memmap)
    np.testing.assert_array_equal(image.data, grey)


def test_zarr_array_stays_on_disk(tmp_path, grey):
    zarr.save(tmp_path / "a.zarr", grey)
    image = read_image(tmp_path / "a.zarr")
    assert isinstance(image.data, zarr.Array)
    np.testing.assert_array_equal(image.data[:], grey)


@pytest.mark.parametrize(
    ("names", "axes", "is_guessed"),
    [(["time", "y", "x"], "TYX", False), ("time", "ZYX", True), (3, "ZYX", True)],
)
def test_a_zarr_array_of_xarray_tells_its_axes(tmp_path, grey, names, axes, is_guessed):
    stack = np.stack([grey] * 7)
    zarr.create_array(tmp_path / "a.zarr", data=stack, zarr_format=2, attributes={"_ARRAY_DIMENSIONS": names})
    image = read_image(tmp_path / "a.zarr")
    assert (image.axes, image.axes_are_guessed) == (axes, is_guessed)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_keeps_axes_and_pixel_size(tmp_path, grey, version):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2 if version == "0.4" else 3)
    group.create_array("0", data=np.stack([grey] * 2))
    group.create_array("1", data=np.stack([grey] * 2)[:, ::2, ::2])
    space = [{"name": name, "type": "space", "unit": "nanometer"} for name in "yx"]
    steps = [{"type": "scale", "scale": [1.0, 250.0, 500.0]}]
    datasets = [{"path": path, "coordinateTransformations": steps} for path in "01"]
    scales = [{"axes": [{"name": "c", "type": "channel"}, *space], "datasets": datasets}]
    group.attrs.update({"multiscales": scales} if version == "0.4" else {"ome": {"multiscales": scales}})
    image = read_image(tmp_path / "a.zarr")
    assert (image.axes, image.shape) == ("CYX", (2, 40, 50))
    assert image.pixel_size_um == pytest.approx((0.25, 0.5))


def test_a_zarr_group_without_an_image_is_refused(tmp_path):
    zarr.open_group(tmp_path / "a.zarr", mode="w")
    with pytest.raises(ReadError, match="another group"):
        read_image(tmp_path / "a.zarr")


def test_a_damaged_zarr_is_refused(tmp_path, grey):
    zarr.save(tmp_path / "a.zarr", grey)
    (tmp_path / "a.zarr" / "zarr.json").write_text("{")
    with pytest.raises(ReadError, match="Expected a whole Zarr folder"):
        read_image(tmp_path / "a.zarr")


def test_zarr_missing_says_how_to_get_it(tmp_path, grey, monkeypatch):
    zarr.save(tmp_path / "a.zarr", grey)
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ReadError, match="pip install"):
        read_image(tmp_path / "a.zarr")


WRITERS = {
    "plain": {},
    "zlib": {"compression": "zlib"},
    "lzw": {"compression": "lzw"},
    "tiles": {"tile": (16, 16)},
    "ome": {"ome": True, "metadata": {"axes": "ZYX"}},
    "imagej": {"imagej": True},
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_tiff_is_refused(tmp_path, grey, kind, fraction):
    data = np.stack([grey] * 3) if kind in ("ome", "imagej") else grey
    tifffile.imwrite(tmp_path / "a.tif", data, **WRITERS[kind])
    assert read_image(tmp_path / "a.tif").shape == data.shape
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: int(len(whole) * fraction)])
    with pytest.raises(ReadError, match=r"a\.tif"):
        read_image(tmp_path / "a.tif")


def test_an_imagej_stack_cut_to_its_first_page_is_refused(tmp_path, grey):
    description = "ImageJ=1.54f\nimages=9\nslices=9\n"
    tifffile.imwrite(tmp_path / "a.tif", grey, description=description, metadata=None)
    with pytest.raises(ReadError, match="missing"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(("axes", "known"), [("YX", "X"), ("ZYX", "Z")])
def test_a_size_along_one_axis_alone_is_told(tmp_path, grey, axes, known):
    pixels = np.broadcast_to(grey, (3, *grey.shape)[-len(axes) :])
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, metadata={"axes": axes, f"PhysicalSize{known}": 0.5})
    image = read_image(tmp_path / "a.ome.tif")
    assert image.pixel_size_um == ()
    assert image.notices == (NO_SIZE.format(known.lower()),)


def test_a_plane_of_a_split_imagej_stack_is_read_and_told(tmp_path, grey):
    description = "ImageJ=1.54f\nimages=9\nslices=9\n"
    path = tmp_path / "a.tif"  # libtiff writes the directory behind the pixels
    Picture.fromarray(grey).save(path, compression="tiff_lzw", tiffinfo={270: description})
    image = read_image(path)
    assert np.array_equal(image.data, grey)
    assert image.notices == ("a.tif holds one plane; its description is that of a stack of 9.",)


@pytest.mark.parametrize(("number", "name"), [(34676, "SGILOG"), (60001, "60001")])
def test_a_compression_that_nothing_reads_is_named(tmp_path, grey, number, name):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, grey)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags["Compression"].overwrite(number)
    with pytest.raises(ReadError, match=f"compressed by {name}, which is not read"):
        read_image(path)


def test_an_ome_tiff_that_promises_more_pages_is_refused(tmp_path, grey):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.stack([grey] * 3), ome=True, metadata={"axes": "ZYX"})
    with tifffile.TiffFile(path) as tiff:
        xml = tiff.ome_metadata.replace('SizeZ="3"', 'SizeZ="9"').replace('PlaneCount="3"', 'PlaneCount="9"')
    tifffile.tiffcomment(path, xml.encode())
    with pytest.raises(ReadError, match="missing"):
        read_image(path)


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg", "a.npy"])
@pytest.mark.parametrize(
    "content", [b"", b"II*\0", b"Dear reader,\nthis is no image.\n", b"\x89PNG\r\n\x1a\n", b"\x93NUMPY"]
)
def test_a_file_that_is_no_image_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ReadError, match="not an image"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("suffix", ["png", "jpg", "npy"])
def test_other_truncated_files_are_refused(tmp_path, rng, suffix):
    data = rng.integers(0, 255, (40, 50)).astype(np.uint8)
    path = tmp_path / f"a.{suffix}"
    np.save(path, data) if suffix == "npy" else Picture.fromarray(data).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ReadError, match="cut short"):
        read_image(path)


def test_a_pickle_in_npy_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object))
    with pytest.raises(ReadError):
        read_image(tmp_path / "a.npy")


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(ReadError, match="there is none"):
        read_image(tmp_path / "absent.tif")
    with pytest.raises(ReadError, match="another folder"):
        read_image(tmp_path)


def test_an_image_too_big_for_memory_is_refused(tmp_path, grey, monkeypatch):
    def exhausted(*_args, **_keywords):
        raise MemoryError

    tifffile.imwrite(tmp_path / "a.tif", grey)
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", exhausted)
    with pytest.raises(ReadError, match="memory"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("axes", "shape", "kept_axes", "kept_shape", "size"),
    [
        ("YX", (20, 30), "YX", (20, 30), (0.25, 0.5)),
        ("YXC", (20, 30, 3), "YX", (20, 30), (0.25, 0.5)),
        ("CYX", (2, 20, 30), "YX", (20, 30), (0.25, 0.5)),
        ("ZYX", (4, 20, 30), "ZYX", (4, 20, 30), (2.0, 0.25, 0.5)),
        ("TYX", (4, 20, 30), "TYX", (4, 20, 30), ()),
        ("TZCYX", (2, 4, 3, 20, 30), "TZYX", (2, 4, 20, 30), (2.0, 0.25, 0.5)),
    ],
)
def test_labels_come_back_as_written(tmp_path, rng, axes, shape, kept_axes, kept_shape, size):
    labels = rng.integers(0, 70_000, kept_shape).astype(np.int32)
    path = tmp_path / "new" / "a.labels.tif"
    write_labels(path, labels, Image(np.zeros(shape), axes, size))
    back = read_image(path)
    assert (back.axes, back.data.dtype) == (kept_axes, np.int32)
    assert back.pixel_size_um == pytest.approx(size)
    np.testing.assert_array_equal(back.data, labels)
    np.testing.assert_array_equal(tifffile.imread(path), labels)
    assert [file.name for file in path.parent.iterdir()] == ["a.labels.tif"]


def test_singleton_axes_of_labels_are_kept(tmp_path):
    image = Image(np.zeros((1, 20, 30)), "TYX")
    write_labels(tmp_path / "a.tif", np.ones((1, 20, 30), np.int32), image)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.series[0].get_shape(squeeze=False).count(1) >= 1
    np.testing.assert_array_equal(np.squeeze(read_image(tmp_path / "a.tif").data), np.ones((20, 30)))


def test_labels_of_another_shape_are_refused(tmp_path):
    with pytest.raises(WriteError, match=r"\(20, 30\); got \(3, 3\)"):
        write_labels(tmp_path / "a.tif", np.zeros((3, 3), np.int32), Image(np.zeros((20, 30)), "YX"))


@pytest.mark.parametrize("labels", [np.full((4, 5), 2**31, np.uint32), np.full((4, 5), -(2**40))], ids=str)
def test_labels_that_int32_cannot_hold_are_refused(tmp_path, labels):
    with pytest.raises(WriteError, match="must lie between -2147483648 and 2147483647"):
        write_labels(tmp_path / "a.tif", labels, Image(labels, "YX"))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="Choose another folder"):
        write_labels(tmp_path / "file" / "a.tif", np.zeros((2, 2), np.int32), Image(np.zeros((2, 2)), "YX"))
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(28, "No space left on device")]
)
def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch, error):
    def fail(*_args, **_keywords):
        raise error

    path = tmp_path / "a.tif"
    image = Image(np.zeros((2, 2)), "YX")
    write_labels(path, np.ones((2, 2), np.int32), image)
    monkeypatch.setattr(tifffile, "imwrite", fail)
    with pytest.raises(WriteError, match=error.strerror):
        write_labels(path, np.zeros((2, 2), np.int32), image)
    assert read_image(path).data.max() == 1


def test_a_cancelled_write_keeps_the_old_file(tmp_path, monkeypatch):
    def interrupted(part, *_args, **_keywords):
        part.write_bytes(b"half")
        raise KeyboardInterrupt

    path = tmp_path / "a.tif"
    path.write_bytes(b"old")
    monkeypatch.setattr(tifffile, "imwrite", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_labels(path, np.zeros((2, 2), np.int32), Image(np.zeros((2, 2)), "YX"))
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a.tif", b"old")]


def test_errors_are_also_built_in_ones():
    assert issubclass(ReadError, OSError)
    assert issubclass(ReadError, CellwrightError)


PARTS = {
    "strips": {"compression": "zlib", "rowsperstrip": 7},
    "predicted": {"compression": "lzw", "predictor": True, "rowsperstrip": 16},
    "tiles": {"compression": "zstd", "tile": (16, 32)},
    "pages": {"compression": "zlib", "photometric": "minisblack", "metadata": {"axes": "ZYX"}},
    "channels": {"compression": "zlib", "photometric": "minisblack", "metadata": {"axes": "CYX"}},
    "colours": {"compression": "zlib", "photometric": "rgb", "tile": (16, 16)},
    "planes of colours": {"compression": "zlib", "photometric": "rgb", "planarconfig": "separate"},
    "transparent": {"compression": "zlib", "photometric": "rgb", "extrasamples": ["unassalpha"]},
    "white is 0": {"compression": "zlib", "photometric": "miniswhite"},
}
SHAPES = {"pages": (3, 40, 50), "channels": (2, 40, 50), "colours": (40, 50, 3), "transparent": (40, 50, 4)}
IN_PARTS = ("strips", "predicted", "tiles", "pages", "channels", "colours")


@pytest.mark.parametrize("kind", PARTS)
def test_a_large_compressed_tiff_is_read_in_parts(tmp_path, rng, monkeypatch, kind):
    shape = {**SHAPES, "planes of colours": (3, 40, 50)}.get(kind, (40, 50))
    tifffile.imwrite(tmp_path / "a.tif", rng.integers(0, 255, shape).astype(np.uint8), **PARTS[kind])
    whole = read_image(tmp_path / "a.tif")
    monkeypatch.setattr(tiff, "LAZY_BYTES", 0)
    image = read_image(tmp_path / "a.tif")
    assert (kind in IN_PARTS) == isinstance(image.data, tiff.TiffLevel)
    assert (image.axes, image.notices, image.data.dtype) == (whole.axes, whole.notices, whole.data.dtype)
    place = tuple(slice(n // 3, n) for n in image.shape)
    np.testing.assert_array_equal(image.read(place), whole.data[place])
    monkeypatch.setattr(tiff, "MOST_PART_BYTES", 1)  # of which a part is no faster to have than the whole
    assert isinstance(read_image(tmp_path / "a.tif").data, np.ndarray)


@pytest.mark.parametrize(
    ("kind", "damage"),
    [*product(IN_PARTS, ("cut", "other bytes")), ("pages", "too much"), ("channels", "too much")],
)
def test_damage_in_a_part_of_a_large_tiff_is_told(tmp_path, rng, monkeypatch, kind, damage):
    path = tmp_path / "a.tif"
    data = rng.integers(0, 255, SHAPES.get(kind, (40, 50))).astype(np.uint8)
    tifffile.imwrite(path, data, **PARTS[kind])
    monkeypatch.setattr(tiff, "LAZY_BYTES", 0)
    with tifffile.TiffFile(path) as file:
        page = file.pages[-1]
        start, size = page.dataoffsets[-1], page.databytecounts[-1]
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[start + size // 2 :]
    else:
        bomb = zlib.compress(bytes(1 << 20)) if damage == "too much" else b""
        content[start : start + size] = bomb.ljust(size, b"\0")
    path.write_bytes(content)
    with pytest.raises(CellwrightError, match=r"damaged|missing|cut short|unpacks"):
        read_image(path).read()
