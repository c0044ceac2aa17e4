from dataclasses import replace

import numpy as np
import pytest

from cellwright.core.data import Cells
from cellwright.models.stitching import SAME_CENTRE, CellStitcher
from cellwright.ops.geometry.tiles import Layout, grid
from cellwright.ops.labels import keep_labels, label_properties, relabel


def cells_of(labels):
    areas, points, boxes = label_properties(labels)
    return Cells(points, boxes, np.full(len(areas), 0.5, np.float32), areas, labels)


def cells_in_window(labels, tile):
    """What decoding a block finds: every region in its window, those cut off at its edge too."""
    window = labels[tile.read]
    wanted = np.bincount(window.ravel(), minlength=labels.max() + 1)[1:] > 0
    return cells_of(keep_labels(window, wanted))


def same_regions(first, second):
    pairs = np.unique(np.stack([first.ravel(), second.ravel()]), axis=1)
    n = first.max()
    return second.max() == n and pairs.shape[1] == n + 1 and len(np.unique(pairs[0])) == n + 1


@pytest.mark.parametrize(("core", "halo"), [(32, 24), (50, 24), (64, 24), (128, 24), (50, 200)])
def test_blocks_put_together_are_the_whole(blobs, core, halo):
    """Large cells are shrunk, and the context of a block may then be all of the image."""
    shape = blobs.labels.shape
    stitcher = CellStitcher((), shape)
    for block in grid(Layout(shape, core, halo=halo, divisor=8)):
        stitcher.add(0, block, cells_in_window(blobs.labels, block))
    cells = stitcher.cells()
    assert len(cells) == len(blobs)
    assert same_regions(blobs.labels, cells.labels)
    areas, points, boxes = label_properties(cells.labels)
    assert np.array_equal(cells.areas, areas)
    assert np.allclose(cells.points, points, atol=1e-3)
    assert np.array_equal(cells.boxes, boxes)


def test_a_centroid_on_the_line_is_counted_once():
    labels = np.zeros((64, 128), np.int32)
    labels[20:40, 54:74] = 1  # centroid at x = 63.5, where two cores meet
    for shift in (-0.3, 0.3):  # each block sees the centroid on the other side, then on its own
        stitcher = CellStitcher((), labels.shape)
        blocks = grid(Layout(labels.shape, 64, halo=32, divisor=8))
        for block, sign in zip(blocks, (1, -1), strict=True):
            cells = cells_in_window(labels, block)
            cells.points[:, 1] += sign * shift
            stitcher.add(0, block, cells)
        assert len(stitcher.cells()) == 1


def test_a_cell_mostly_taken_is_dropped_and_one_hardly_taken_is_cut():
    blocks = grid(Layout((64, 128), 64, halo=32, divisor=8))
    first, second, third = (np.zeros(blocks[0].shape, np.int32) for _ in range(3))
    first[10:30, 50:66] = 1  # in its core, reaching into the next
    second[10:30, 26:36] = 1  # window starts at x = 32: the same place and hardly more
    third[10:30, 32:60] = 1
    for other, expected in ((second, 1), (third, 2)):
        stitcher = CellStitcher((), (64, 128))
        stitcher.add(0, blocks[0], cells_of(first))
        stitcher.add(0, blocks[1], cells_of(other))
        cells = stitcher.cells()
        assert len(cells) == expected
        assert np.array_equal(cells.areas, label_properties(cells.labels).areas)
        assert cells.areas[0] == 20 * 16


ONE_BEFORE = [(52, 70)]  # columns of a cell, whose centre is left of the line at x = 64
TWO_BEYOND = [(62, 76), (76, 88)]  # the same clump taken for cells right of it, one of which reaches over it
ON_BOTH = [(50, 60), (60, 80)]  # one cell on each side of the line


def drawn(columns):
    """Labels of cells of 20 rows in these columns of the image."""
    labels = np.zeros((64, 128), np.int32)
    for number, (first, past) in enumerate(columns, 1):
        labels[20:40, first:past] = number
    return labels


def mirrored(columns):
    return sorted((128 - past, 128 - first) for first, past in columns)


@pytest.mark.parametrize("has_labels", [True, False])
@pytest.mark.parametrize("is_mirrored", [False, True])
@pytest.mark.parametrize(
    ("left", "right", "n_cells"),
    [
        (TWO_BEYOND, ONE_BEFORE, (1, 2)),  # each block takes the clump for cells of the other one
        (TWO_BEYOND[:1], [], (1, 1)),  # one sees a cell of the other, and that one sees none
        (ONE_BEFORE, ONE_BEFORE, (1, 1)),
        (ON_BOTH, [(50, 80)], (1, 2)),  # what the first one claims stands
        ([(50, 88)], [(50, 64), (64, 88)], (2, 2)),  # one of which does not reach over the line
    ],
)
def test_a_clump_that_blocks_see_differently_is_counted(left, right, n_cells, is_mirrored, has_labels):
    blocks = grid(Layout((64, 128), 64, halo=32, divisor=8))
    views = [left, right]
    if is_mirrored:
        views = [mirrored(right), mirrored(left)]
    stitcher = CellStitcher((), (64, 128), has_labels=has_labels)
    for block, view in zip(blocks, views, strict=True):
        seen = cells_of(drawn(view)[block.read])
        if not has_labels:
            seen = replace(seen, labels=None)
        stitcher.add(0, block, seen)
    cells = stitcher.cells()
    assert n_cells[0] <= len(cells) <= n_cells[1]
    if has_labels:
        measured = label_properties(cells.labels)
        assert np.array_equal(cells.areas, measured.areas)
        assert np.array_equal(cells.boxes, measured.boxes)


@pytest.mark.parametrize("has_labels", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_nothing_that_reaches_into_the_core_of_a_block_is_lost(seed, has_labels):
    """Each block sees cells of its own, as no network would: even then each place has one."""
    rng, shape = np.random.default_rng(seed), (96, 96)
    stitcher, seen = CellStitcher((), shape, has_labels=has_labels), []
    for block in grid(Layout(shape, 48, halo=32, divisor=8)):
        labels = np.zeros(shape, np.int32)
        for number, (y, x) in enumerate(rng.integers(0, 84, (25, 2)), 1):
            labels[y : y + rng.integers(6, 13), x : x + rng.integers(6, 13)] = number
        window = cells_of(relabel(labels[block.read]))
        scores = rng.random(len(window)).astype(np.float32)
        stitcher.add(0, block, replace(window, scores=scores, labels=window.labels if has_labels else None))
        core = np.zeros(shape, bool)
        core[block.core] = True
        reach = np.unique(window.labels[core[block.read]])
        corner = [part.start for part in block.read]
        seen += [
            (np.argwhere(window.labels == n) + corner, window.points[n - 1] + corner) for n in reach if n
        ]
    cells = stitcher.cells()
    for pixels, point in seen:
        if has_labels:
            owners, shared = np.unique(cells.labels[tuple(pixels.T)], return_counts=True)
            is_covered = 2 * shared[owners > 0].sum() >= len(pixels)
            covers = 2 * shared[owners > 0] > cells.areas[owners[owners > 0] - 1]
            assert is_covered or covers.any()
        else:
            nearest = np.linalg.norm(cells.points - point, axis=1).min()
            assert nearest <= SAME_CENTRE * len(pixels) ** 0.5 + 1e-3


def test_frames_have_ids_of_their_own(blobs):
    shape = blobs.labels.shape
    whole = grid(Layout(shape, 999))[0]
    stitcher = CellStitcher((2, 3), shape)
    for frame in (0, 4):
        stitcher.add(frame, whole, cells_of(blobs.labels))
    cells = stitcher.cells()
    n = len(blobs)
    assert cells.labels.shape == (2, 3, *shape)
    assert np.array_equal(cells.labels[0, 0], blobs.labels)
    assert np.array_equal(cells.labels[1, 1], np.where(blobs.labels, blobs.labels + n, 0))
    assert not cells.labels[0, 1:].any()
    assert np.array_equal(cells.points[n:, :2], np.ones((n, 2)))
    assert np.array_equal(cells.boxes[n], [[1, 1, *cells.boxes[0, 0, 2:]], [2, 2, *cells.boxes[0, 1, 2:]]])
    assert cells.points.dtype == cells.boxes.dtype == np.float32


def test_nothing_found_is_an_empty_table():
    cells = CellStitcher((4,), (5, 6)).cells()
    assert (len(cells), cells.points.shape, cells.boxes.shape) == (0, (0, 3), (0, 2, 3))
    assert cells.labels.shape == (4, 5, 6)


def test_classes_are_carried(blobs):
    stitcher = CellStitcher((), blobs.labels.shape)
    plain = cells_of(blobs.labels)
    classes = np.arange(len(blobs), dtype=np.int16)
    with_classes = Cells(plain.points, plain.boxes, plain.scores, plain.areas, plain.labels, classes)
    for block in grid(Layout(blobs.labels.shape, 999)):
        stitcher.add(0, block, with_classes)
    assert np.array_equal(stitcher.cells().classes, classes)


def test_cells_without_labels_are_refused(blobs):
    plain = cells_of(blobs.labels)
    (whole,) = grid(Layout(blobs.labels.shape, 999))
    with pytest.raises(TypeError, match="labels"):
        CellStitcher((), blobs.labels.shape).add(
            0, whole, Cells(plain.points, plain.boxes, plain.scores, plain.areas)
        )


def test_cells_without_labels_are_found_once(blobs):
    """Each block sees its core and beyond; a cell near a line between cores is seen by several."""
    plain = cells_of(blobs.labels)
    layout = Layout(blobs.labels.shape, 48, halo=32, divisor=8)
    stitcher = CellStitcher((2,), blobs.labels.shape, has_labels=False)
    for frame in (0, 1):
        for block in grid(layout):
            corner = np.array([part.start for part in block.read], np.float32)
            past = np.array([part.stop for part in block.read], np.float32)
            seen = ((plain.points >= corner) & (plain.points < past)).all(axis=1)
            jitter = np.float32(0.4)  # blocks never agree to the last digit
            points = plain.points[seen] - corner + jitter
            boxes = plain.boxes[seen] - corner
            stitcher.add(frame, block, Cells(points, boxes, plain.scores[seen], plain.areas[seen]))
    cells = stitcher.cells()
    assert cells.labels is None
    assert len(cells) == 2 * len(plain)
    found = cells.points[cells.points[:, 0] == 1][:, 1:]
    order = np.lexsort(found.T), np.lexsort(plain.points.T)
    assert np.allclose(np.sort(found[order[0]], 0), np.sort(plain.points[order[1]], 0), atol=0.5)
    assert stitcher.cells().boxes.shape == (len(cells), 2, 3)
