from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from cellwright.core.data import Cells
from cellwright.ops.codecs.density import resize_density
from cellwright.ops.geometry.resample import (
    Grid,
    resize,
    resize_annotation,
    resize_cells,
    resize_labels,
    resize_window,
    zoomed,
)
from cellwright.ops.labels import annotate, label_properties


def cells_of(labels):
    areas, points, boxes = label_properties(labels)
    return Cells(points, boxes, np.linspace(0, 1, len(areas), dtype=np.float32), areas, labels)


@pytest.mark.parametrize(
    ("zoom", "shape"), [(1.0, (30, 41)), (0.5, (15, 20)), (3.0, (90, 123)), (0.001, (1, 1))]
)
def test_zoomed_never_is_empty(zoom, shape):
    assert zoomed((30, 41), zoom) == shape


@pytest.mark.parametrize("shape", [(30, 41), (15, 20), (77, 50), (1, 1), (90, 123)])
def test_resizing_keeps_type_channels_and_mean(rng, shape):
    maps = rng.random((3, 30, 41)).astype(np.float32)
    resized = resize(maps, shape)
    assert (resized.shape, resized.dtype) == ((3, *shape), np.float32)
    assert np.allclose(resized.mean(axis=(1, 2)), maps.mean(axis=(1, 2)), atol=0.1)


def test_resizing_does_not_shift():
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32) + 0.5, (1, 40, 40))
    for size in (20, 80, 100):
        inner = slice(size // 4, -size // 4)
        expected = (np.arange(size) + 0.5) * 40 / size
        assert np.allclose(resize(ramp, (size, size))[0, 5, inner], expected[inner], atol=1e-3)


@pytest.mark.parametrize("shape", [(45, 70), (31, 7), (90, 10), (1, 1)])
def test_resizing_is_that_of_scipy(rng, shape):
    maps = rng.random((2, 30, 41)).astype(np.float32)
    factors = [new / old for new, old in zip(shape, (30, 41), strict=True)]
    smooth = ndimage.gaussian_filter(
        maps, [0, *(max(0, (1 / one - 1) / 2) for one in factors)], mode="nearest"
    )
    expected = ndimage.zoom(smooth, [1, *factors], order=1, mode="nearest", grid_mode=True)
    assert np.allclose(resize(maps, shape), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("zoom", [1.7, 2.0, 0.37])
def test_a_window_is_resized_as_the_whole(rng, blobs, zoom):
    shape = blobs.labels.shape
    image = rng.random((2, *shape)).astype(np.float32)
    rows, columns = slice(20, shape[0]), slice(12, shape[1] - 9)
    grid = Grid.of_window(shape, (rows, columns), zoom, 4)
    there = grid.other_window
    assert all(span.start % 4 == 0 for span in there)
    inner = np.s_[..., 14:-14, 14:-14]  # at its edge a window lacks what lies beyond
    whole = resize(image, zoomed(shape, zoom))
    part = resize_window(image[:, rows, columns], grid)
    assert np.allclose(part[inner], whole[(slice(None), *there)][inner], atol=1e-6)
    labels = resize_labels(blobs.labels, Grid.of(shape, zoomed(shape, zoom)))
    back = resize_labels(labels[there], grid.back)
    expected = resize_labels(labels, Grid.of(labels.shape, shape))[rows, columns]
    assert np.array_equal(back[16:-16, 16:-16], expected[16:-16, 16:-16])
    density = rng.random(labels.shape).astype(np.float32)
    spread = resize_density(density, Grid.of(labels.shape, shape))[rows, columns]
    assert np.allclose(resize_density(density[there], grid.back)[inner], spread[inner], rtol=1e-4)


def test_cells_of_a_window_lie_where_those_of_the_whole_do(blobs):
    shape, zoom = blobs.labels.shape, 1.7
    grid = Grid.of_window(shape, (slice(20, shape[0]), slice(12, shape[1])), zoom, 4)
    larger = zoomed(shape, zoom)
    found = replace(cells_of(resize_labels(blobs.labels, Grid.of(shape, larger))), labels=None)
    whole = resize_cells(found, Grid.of(larger, shape))
    first = np.array([span.start for span in grid.other_window], np.float32)
    part = resize_cells(replace(found, points=found.points - first, boxes=found.boxes - first), grid.back)
    assert np.allclose(part.points + np.array([20, 12]), whole.points, atol=1e-3)
    assert np.allclose(part.boxes + np.array([20, 12]), whole.boxes, atol=1e-3)


def test_the_same_size_is_no_copy(rng):
    maps = rng.random((1, 8, 9)).astype(np.float32)
    assert resize(maps, (8, 9)) is maps


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_labels_enlarged_and_shrunk_are_the_same(blobs, factor):
    shape = blobs.labels.shape
    enlarged = resize_labels(blobs.labels, Grid.of(shape, (shape[0] * factor, shape[1] * factor)))
    assert np.array_equal(resize_labels(enlarged, Grid.of(enlarged.shape, shape)), blobs.labels)


def test_cells_are_measured_in_the_new_pixels(blobs):
    shape = blobs.labels.shape
    enlarged = resize_labels(blobs.labels, Grid.of(shape, (shape[0] * 3, shape[1] * 3)))
    back = resize_cells(cells_of(enlarged), Grid.of(enlarged.shape, shape))
    assert np.allclose(back.points, blobs.points, atol=1e-4)
    assert np.array_equal(back.labels, blobs.labels)
    assert np.array_equal(back.areas, label_properties(blobs.labels).areas)


def test_cells_lie_where_their_new_pixels_do(blobs):
    """So that tables, regions and neighbours of the same labels are the same, whoever measures them."""
    shape = blobs.labels.shape
    larger = zoomed(shape, 1.7)
    enlarged = resize_labels(blobs.labels, Grid.of(shape, larger))
    back = resize_cells(cells_of(enlarged), Grid.of((larger[0], larger[1]), (shape[0] // 2, shape[1] // 2)))
    measured = label_properties(back.labels)
    assert np.array_equal(back.points, measured.points)
    assert np.array_equal(back.boxes, measured.boxes)


def test_cells_that_vanish_are_dropped_with_their_rows():
    labels = np.zeros((40, 40), np.int32)
    labels[0, 0] = 1  # falls between the pixels that are kept
    labels[10:30, 10:30] = 2
    cells = replace(cells_of(labels), classes=np.array([5, 6], np.int16))
    shrunk = resize_cells(cells, Grid.of(labels.shape, (10, 10)))
    assert (len(shrunk), shrunk.labels.max(), shrunk.scores.tolist(), shrunk.classes.tolist()) == (
        1,
        1,
        [1.0],
        [6],
    )


def test_cells_without_labels_move_with_the_pixels(blobs):
    plain = replace(cells_of(blobs.labels), labels=None)
    height, width = blobs.labels.shape
    half = resize_cells(plain, Grid.of(blobs.labels.shape, (height // 2, width * 2)))
    assert half.labels is None
    assert np.allclose(half.boxes, plain.boxes * [0.5, 2])
    assert np.allclose(half.points, (plain.points + 0.5) * [0.5, 2] - 0.5)
    assert np.allclose(half.areas, plain.areas)
    back = resize_cells(half, Grid.of((height // 2, width * 2), blobs.labels.shape))
    assert np.allclose(back.points, plain.points, atol=1e-4)


def test_an_annotation_keeps_its_rows(blobs):
    annotation = replace(annotate(blobs.labels), classes=np.arange(len(blobs), dtype=np.int16))
    shape = tuple(2 * n for n in blobs.labels.shape)
    doubled = resize_annotation(annotation, shape)
    assert doubled.shape == doubled.labels.shape == shape
    assert np.allclose(doubled.points, 2 * annotation.points + 0.5, atol=1e-3)
    assert np.array_equal(doubled.classes, annotation.classes)
    boxes_alone = resize_annotation(replace(annotation, labels=None), shape)
    assert np.allclose(boxes_alone.boxes, doubled.boxes)
