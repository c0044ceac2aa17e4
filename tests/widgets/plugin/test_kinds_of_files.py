"""Files of instruments and programs: Python and napari's reader give the same axes, sizes, names, pixels."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from napari.layers import Layer
from numpy.typing import NDArray
from tests.files.drawn import (
    NAMES,
    OF_INSTRUMENTS,
    SUMMARY,
    Drawn,
    H,
    W,
    draw_apng,
    draw_big_endian,
    draw_companion,
    draw_fortran,
    draw_luma,
    draw_pyramid,
    draw_series,
    draw_tiff,
    micromanager,
    ome_set,
    ramp,
)

from cellwright.core.data import CHANNEL, Image
from cellwright.core.errors import ReadError
from cellwright.files.folders.image_list import list_images
from cellwright.files.images import describe_images, read_images
from cellwright.widgets.plugin import image_reader

XY = {"Y": 0.65, "X": 0.65}
XYZ = {"Z": 2.0, **XY}
COLORS = ("#0000ff", "#00ff00")


class Kind(NamedTuple):
    """One kind of file, what is to be read, and how it is drawn where it is not one of instruments."""

    name: str
    axes: str
    sizes_um: Mapping[str, float] = MappingProxyType({})
    names: tuple[str, ...] = ()
    colors: tuple[str, ...] = ()
    notice: str = ""
    draw: Callable[[Path], Drawn] | None = None
    atol: float = 0.0


KINDS = (
    Kind("ome_MMStack.ome.tif", "ZCYX", XYZ, NAMES, COLORS),
    Kind("imagej_MMStack.tif", "ZCYX", XYZ, NAMES, COLORS),
    Kind("positions_MMStack.tif", "CYX", XY, NAMES),
    Kind("scanimage.tif", "ZCYX"),
    Kind("a.qptiff", "CYX", XY, NAMES, COLORS, "left out of the slide: thumbnail, macro, label"),
    Kind("a.svs", "YXC", XY, notice="left out of the slide: thumbnail, label, macro"),
    Kind("a.scn", "YXC", XY, notice="left out of the slide: macro"),
    Kind("a.ndpi", "YXC", XY, notice="left out of the slide: macro, map"),
    Kind(
        "a.bif", "YXC", XY, notice="left out of the slide: label, thumbnail. a.bif: the tiles of this scanner"
    ),
    Kind("a.stk", "ZYX", XYZ),
    Kind("a.lsm", "ZCYX", XYZ, NAMES, COLORS),
    Kind("metamorph.tif", "YX", XY),
    Kind("apng.png", "TYXC", draw=draw_apng),
    Kind("big.npy", "YX", draw=draw_big_endian),
    Kind("fortran.npy", "ZYX", notice="ZYX was guessed from the shape", draw=draw_fortran),
    Kind("packed.tif", "YX", draw=draw_tiff(ramp(H, W) * 16, bitspersample=12)),
    Kind("white.tif", "YX", draw=draw_tiff(ramp(H, W, dtype=np.uint8), photometric="miniswhite")),
    Kind("luma.tif", "YXC", draw=draw_luma, atol=8),
    Kind("tiles.tif", "YX", draw=draw_tiff(ramp(37, 53), tile=(16, 32), compression="zlib")),
    Kind("big.tif", "YX", draw=draw_tiff(ramp(H, W), bigtiff=True, byteorder=">")),
    Kind("series.tif", "YX", draw=draw_series),
    Kind("pyramid.ome.tif", "CYX", XY, NAMES, draw=draw_pyramid),
    Kind("set.companion.ome", "ZYX", XYZ, draw=draw_companion),
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
    drawn = (kind.draw or OF_INSTRUMENTS[kind.name])(path)
    images = list(read_images(path))
    layers = [Layer.create(*data) for data in image_reader.read_images_of_file(str(path))]
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
    for read in (list, lambda images: image_reader.read_images_of_file(str(tmp_path / "part0.ome.tif"))):
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
