from dataclasses import FrozenInstanceError

import dask.array as da
import numpy as np
import pytest

from cellwright import errors
from cellwright.errors import AxesError, CellwrightError
from cellwright.types import Cells, Image, Provenance, Result


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
    with pytest.raises(AxesError, match="2 spatial axes"):
        Image(np.zeros((3, 4, 5)), "CYX", sizes)


def test_values_are_frozen():
    image = Image(np.zeros((4, 5)), "YX")
    with pytest.raises(FrozenInstanceError):
        image.axes = "XY"


def test_cells_have_the_length_of_their_rows():
    none = Cells(np.zeros((0, 2)), np.zeros((0, 2, 2)), np.zeros(0), np.zeros(0))
    three = Cells(np.zeros((3, 2)), np.zeros((3, 2, 2)), np.zeros(3), np.zeros(3))
    assert (len(none), len(three)) == (0, 3)
    assert (three.labels, three.classes) == (None, None)


def test_a_result_needs_no_prediction():
    cells = Cells(np.zeros((1, 2)), np.zeros((1, 2, 2)), np.zeros(1), np.zeros(1))
    provenance = Provenance("0.1", "flow", "ab", {}, "cells", (4, 5), "YX", (), "cpu", 0.1)
    result = Result(1.0, cells, provenance)
    assert (result.prediction, result.offset, result.notices) == (None, (), ())


KINDS = [value for value in vars(errors).values() if isinstance(value, type) and value is not CellwrightError]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_error_is_one_that_napari_swallows(kind):
    assert issubclass(kind, CellwrightError)
    assert not issubclass(kind, RuntimeError)


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind is not errors.JobError], ids=lambda k: k.__name__
)
def test_every_error_is_also_a_built_in(kind):
    assert any(base.__module__ == "builtins" and base is not Exception for base in kind.__bases__)
