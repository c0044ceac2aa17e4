import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import dask.array
import dask.array as da
import dask.array.ma
import numpy as np
import pytest

import cellwright
from cellwright.core import errors
from cellwright.core.data import Cells, Image, Provenance, Result
from cellwright.core.errors import AxesError, CellwrightError, ImageError, ReadError


@pytest.mark.parametrize(
    ("shape", "axes", "pixel_size"),
    [
        ((4, 5), "YX", ()),
        ((4, 5), "YX", (0.5, 0.5)),
        ((4, 5, 3), "YXC", (0.5, 0.5)),
        ((2, 3, 4, 5, 6), "TCZYX", (2.0, 0.5, 0.5)),
        ((7, 4, 5), "TYX", ()),
        ((5, 4), "XY", ()),
    ],
)
def test_an_image_that_knows_its_axes(shape, axes, pixel_size):
    data = np.zeros(shape)
    image = Image(data, axes, pixel_size, "cells")
    assert image.shape == shape
    assert image.data is data


def test_lazy_arrays_stay_lazy():
    data = da.zeros((10, 20), chunks=5)
    assert Image(data, "YX").data is data
    assert Image(data, "YX").shape == (10, 20)


@pytest.mark.parametrize(
    ("shape", "axes", "words"),
    [
        ((4, 5), "Y", "each dimension once"),
        ((4, 5), "ZYX", "each dimension once"),
        ((4, 5), "", "each dimension once"),
        ((4, 5), "YY", "each dimension once"),
        ((4, 5), "YQ", "Rename or drop 'Q'"),
        ((4, 5), "yx", "Rename or drop 'xy'"),
        ((4, 5, 3), "YXS", "Rename or drop 'S'"),
    ],
)
def test_axes_that_do_not_fit_are_refused(shape, axes, words):
    with pytest.raises(AxesError, match=words) as caught:
        Image(np.zeros(shape), axes)
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("sizes", [(0.5,), (0.5, 0.5, 0.5)])
def test_pixel_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(AxesError, match="each of the axes YX; got"):
        Image(np.zeros((3, 4, 5)), "CYX", sizes)


@pytest.mark.parametrize("sizes", [0.5, {"Y": 1, "X": 2}, ("a", "b"), (None, 1), (np.inf, 1), (np.nan, 1)])
def test_pixel_sizes_that_are_no_numbers_are_refused(sizes):
    with pytest.raises(AxesError, match="one number for each"):
        Image(np.zeros((4, 5)), "YX", sizes)


def test_pixel_sizes_may_be_an_array():
    assert Image(np.zeros((4, 5)), "YX", np.float32([0.5, 2])).pixel_size_um == (0.5, 2.0)


def test_masked_pixels_are_unknown():
    image = Image(np.ma.masked_less(np.arange(6).reshape(2, 3), 2), "YX")
    np.testing.assert_array_equal(image.data, [[np.nan, np.nan, 2], [3, 4, 5]])


def test_masked_pixels_of_dask_arrays_are_unknown():
    pixels = np.arange(6, dtype=np.uint16).reshape(2, 3)
    lazy = dask.array.from_array(pixels, chunks=2)
    masked = (dask.array.ma.masked_less(lazy, 2), dask.array.from_array(np.ma.masked_less(pixels, 2)))
    for image in (Image(data, "YX") for data in masked):
        assert isinstance(image.data, dask.array.Array)
        np.testing.assert_array_equal(image.read(), [[np.nan, np.nan, 2], [3, 4, 5]])
    assert Image(lazy, "YX").data is lazy


def test_pixels_that_fit_no_memory_are_an_error_of_ours():
    class Stored:
        shape, dtype = (1 << 30, 1 << 25), np.dtype(np.uint8)

        def __getitem__(self, index):
            return np.ones(self.shape, self.dtype)

    with pytest.raises(errors.OutOfMemoryError, match="of uint8, must fit into memory; they do not"):
        Image(Stored(), "YX", (), "a").read()


def test_what_to_do_is_told_once():
    class Damaged:
        shape, ndim, dtype = (4, 5), 2, np.dtype("u1")

        def __getitem__(self, _):
            raise ReadError("slice_3.tif is damaged. Copy it again.")

    with pytest.raises(ImageError) as caught:
        Image(Damaged(), "YX", name="stack").read(0)
    told = "The pixels of 'stack' cannot be read. slice_3.tif is damaged. Copy it again."
    assert str(caught.value) == told


def test_values_are_frozen():
    image = Image(np.zeros((4, 5)), "YX")
    with pytest.raises(FrozenInstanceError):
        image.axes = "XY"


def test_cells_have_the_length_of_their_rows():
    none = Cells(np.zeros((0, 2)), np.zeros((0, 2, 2)), np.zeros(0), np.zeros(0))
    three = Cells(np.zeros((3, 2)), np.zeros((3, 2, 2)), np.zeros(3), np.zeros(3))
    assert (len(none), len(three)) == (0, 3)
    assert (three.labels, three.classes) == (None, None)


def three_cells(classes=None):
    labels = np.array([[1, 1, 0], [2, 0, 3]], np.int32)
    points = np.array([[0, 0.5], [1, 0], [1, 2]], np.float32)
    boxes = np.stack([points, points + 1], axis=1)
    scores, areas = np.array([0.1, 0.2, 0.3], np.float32), np.array([2, 1, 1], np.float32)
    return Cells(points, boxes, scores, areas, labels, classes)


@pytest.mark.parametrize("rows", [np.array([2, 0]), np.array([True, False, True])])
def test_taken_rows_keep_their_label(rows):
    cells = three_cells(np.array([7, 8, 9], np.int16))
    kept = cells.take(rows)
    before = np.flatnonzero(rows) if rows.dtype == bool else rows
    assert kept.scores.tolist() == cells.scores[before].tolist()
    assert kept.classes.tolist() == cells.classes[before].tolist()
    for row, old in enumerate(before):
        assert np.array_equal(kept.labels == row + 1, cells.labels == old + 1)
    assert kept.labels.dtype == np.int32


def test_no_cells_have_columns_of_the_right_shape():
    none = Cells.empty(3)
    assert (len(none), none.points.shape, none.boxes.shape) == (0, (0, 3), (0, 2, 3))
    assert len(three_cells().take(np.zeros(3, bool))) == 0


def test_parts_are_joined_in_their_order():
    first = three_cells(np.array([7, 8, 9], np.int16))
    both = Cells.concatenate([Cells.empty(2), first, first.take(np.array([1]))])
    assert both.classes.tolist() == [7, 8, 9, 8]
    assert both.labels is None
    assert Cells.concatenate([first, three_cells()]).classes is None
    assert Cells.concatenate([Cells.empty(2)]).classes is None


def test_an_image_tells_of_its_labels_and_its_space():
    image = Image(np.zeros((2, 3, 4, 5)), "TCYX")
    assert (image.label_axes, image.label_shape) == ("TYX", (2, 4, 5))
    assert (image.spatial_axes, image.spatial_shape) == ("YX", (4, 5))


def test_a_result_needs_no_more_than_cells():
    cells = Cells(np.zeros((1, 2)), np.zeros((1, 2, 2)), np.zeros(1), np.zeros(1))
    provenance = Provenance("0.1", "flow", "ab", {}, "cells", (4, 5), "YX", (), "cpu", 0.1)
    result = Result(1.0, cells, provenance)
    assert (result.offset, result.notices, result.maps, result.interval) == ((), (), {}, None)


KINDS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and value.__module__ == errors.__name__ and value is not CellwrightError
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_error_is_one_that_napari_swallows(kind):
    assert issubclass(kind, CellwrightError)
    assert not issubclass(kind, RuntimeError)


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind is not errors.JobError], ids=lambda k: k.__name__
)
def test_every_error_is_also_a_built_in(kind):
    assert any(base.__module__ == "builtins" and base is not Exception for base in kind.__bases__)


def test_no_module_hides_one_of_the_standard_library():
    folder = Path(cellwright.__file__).parent
    names = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not names & sys.stdlib_module_names
    subprocess.run([sys.executable, "-c", "import numpy"], cwd=folder, check=True)
