"""The time from frame to frame, as each kind of file tells it."""

import numpy as np
import pytest
import tifffile
import zarr
from tests.files.drawn import draw_stk

from cellwright.core.data import Image
from cellwright.files.images import read_image
from cellwright.files.metadata import with_axes

MOVIE = np.zeros((3, 8, 9), np.uint16)


@pytest.mark.parametrize(
    ("told", "seconds", "notice"),
    [
        ({"TimeIncrement": 2.5, "TimeIncrementUnit": "min"}, 150.0, ""),
        ({"TimeIncrement": 12.0, "Plane": {"DeltaT": [0, 50, 100]}}, 12.0, ""),
        ({"Plane": {"DeltaT": [500, 1500, 2600], "DeltaTUnit": ["ms"] * 3}}, 1.05, ""),
        ({"Plane": {"DeltaT": [0, 10, 40]}}, 20.0, "10 to 30 s apart; speeds take the mean, 20 s"),
        ({"Plane": {"DeltaT": [5, 5, 5]}}, 0.0, ""),
        ({"TimeIncrement": 4.0, "TimeIncrementUnit": "reference frame"}, 0.0, ""),
        ({}, 0.0, ""),
    ],
)
def test_ome(tmp_path, told, seconds, notice):
    tifffile.imwrite(tmp_path / "a.ome.tif", MOVIE, metadata={"axes": "TYX", **told})
    image = read_image(tmp_path / "a.ome.tif")
    assert image.frame_interval_s == pytest.approx(seconds)
    assert notice in " ".join(image.notices)
    assert bool(image.notices) == bool(notice)


@pytest.mark.parametrize(
    ("told", "seconds"),
    [({"finterval": 30}, 30.0), ({"finterval": 0.5, "tunit": "min"}, 30.0), ({"fps": 7}, 0.0)],
)
def test_imagej(tmp_path, told, seconds):
    tifffile.imwrite(tmp_path / "a.tif", MOVIE, imagej=True, metadata={"axes": "TYX", **told})
    assert read_image(tmp_path / "a.tif").frame_interval_s == seconds
    tifffile.imwrite(tmp_path / "z.tif", MOVIE, imagej=True, metadata={"axes": "ZYX", **told})
    assert read_image(tmp_path / "z.tif").frame_interval_s == 0.0  # there are no frames


@pytest.mark.parametrize(("unit", "seconds"), [("minute", 300.0), ("second", 5.0), (None, 0.0)])
def test_ome_zarr(tmp_path, unit, seconds):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("0", shape=MOVIE.shape, dtype=MOVIE.dtype)[:] = MOVIE
    axes = [{"name": "t", "type": "time"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    if unit:
        axes[0]["unit"] = unit
    scales = [
        {"coordinateTransformations": [{"type": "scale", "scale": [n, 1.0, 1.0]}], **own}
        for n, own in ((2.5, {"path": "0"}), (2.0, {}))
    ]
    told = {"version": "0.5", "axes": axes, "datasets": scales[:1], **scales[1]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [told]}
    assert read_image(tmp_path / "a.zarr").frame_interval_s == seconds


@pytest.mark.parametrize(
    ("distance_um", "seconds", "interval_s", "notice"),
    [
        (0, (86_390, 86_400, 86_410), 10.0, ""),  # over midnight
        (0, (5, 15, 45), 20.0, "10 to 30 s apart; speeds take the mean, 20 s"),
        (2, (5, 15, 45), 0.0, ""),  # slices
        (0, (5, 5, 5), 0.0, "No axes are named"),
    ],
)
def test_stk(tmp_path, distance_um, seconds, interval_s, notice):
    draw_stk(tmp_path / "a.stk", distance_um, seconds)
    image = read_image(tmp_path / "a.stk")
    assert image.frame_interval_s == interval_s
    assert image.known_sizes_um["X"] == 0.65
    assert notice in " ".join(image.notices)
    assert bool(image.notices) == bool(notice)


def test_it_goes_with_the_frames():
    image = Image(MOVIE, "TYX", frame_interval_s=20.0)
    assert with_axes(image, "TYX").frame_interval_s == 20.0
    assert with_axes(image, "ZYX").frame_interval_s == 0.0
