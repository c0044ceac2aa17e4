from dataclasses import replace

import numpy as np
import pytest

from cellwright.core.data import Cells, Provenance, Result
from cellwright.files.dataset.folder import read_dataset
from cellwright.ops.labels import annotate, label_properties
from cellwright.training.evaluation.evaluate import in_annotated_regions

NOBODY = Provenance("", "", "", {}, "", (), "", (), "cpu", 0.0)
LEFT = ((0, 0), (64, 30))
CORNER = ((30, 20), (64, 72))  # overlaps the left part


@pytest.fixture
def item(write_dataset):
    return read_dataset(write_dataset({"val": ["a"]})).items[0]


def found_in(labels, *, has_outlines=True):
    areas, points, boxes = label_properties(labels)
    scores = np.linspace(0, 1, len(areas), dtype=np.float32)
    classes = np.arange(len(areas), dtype=np.int16)
    cells = Cells(points, boxes, scores, areas, labels if has_outlines else None, classes)
    return Result(float(len(cells)), cells, NOBODY)


def inside_of(points, *regions):
    return [any((low <= point).all() and (point < high).all() for low, high in regions) for point in points]


def test_without_regions_all_is_judged(item):
    labels = item.read()[1]
    result = found_in(labels)
    assert in_annotated_regions(item, result, labels) == (result, labels)


@pytest.mark.parametrize("has_outlines", [True, False])
def test_a_cell_is_judged_whole_where_its_middle_is(item, has_outlines):
    labels = item.read()[1]
    result = found_in(labels, has_outlines=has_outlines)
    inside = inside_of(result.cells.points + 0.5, LEFT, CORNER)
    assert 0 < sum(inside) < len(inside)
    part, truth = in_annotated_regions(replace(item, regions=(LEFT, CORNER)), result, labels)
    assert part.count == len(part.cells) == truth.max() == sum(inside)
    np.testing.assert_array_equal(part.cells.points, result.cells.points[inside])
    np.testing.assert_array_equal(part.cells.classes, np.flatnonzero(inside))
    wanted = np.isin(labels, 1 + np.flatnonzero(inside))
    np.testing.assert_array_equal(truth > 0, wanted)
    assert (part.cells.labels is None) == (not has_outlines)
    if has_outlines:
        np.testing.assert_array_equal(part.cells.labels, truth)


def test_points_and_masks_of_an_annotation_are_those_inside(item):
    labels = item.read()[1]
    known = replace(annotate(labels), classes=np.arange(labels.max(), dtype=np.int16))
    inside = inside_of(known.points + 0.5, LEFT)
    for truth in (known, replace(known, labels=None, boxes=None)):
        _, part = in_annotated_regions(replace(item, regions=(LEFT,)), found_in(labels), truth)
        np.testing.assert_array_equal(part.points, known.points[inside])
        np.testing.assert_array_equal(part.classes, np.flatnonzero(inside))
        assert (part.boxes is None) == (part.labels is None) == (truth.boxes is None)
        assert part.labels is None or part.labels.max() == sum(inside)


def test_a_density_is_counted_inside_where_nothing_tells_how_far_it_is_off(item):
    labels = item.read()[1]
    empty = Cells(*(np.zeros(shape, np.float32) for shape in ((0, 3), (0, 2, 3), 0, 0)))
    density = np.full((2, 64, 72), 0.5, np.float32)
    result = Result(density.sum(), empty, NOBODY, maps={"density": density}, interval=(0.0, 1e6))
    part, truth = in_annotated_regions(replace(item, regions=(LEFT, CORNER)), result, labels)
    assert part.count == 0.5 * 2 * (64 * 30 + 34 * 52 - 34 * 10)
    assert part.interval is None
    assert 0 < truth.max() < labels.max()
