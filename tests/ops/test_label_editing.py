import numpy as np
import pytest
from scipy import ndimage

from cellwright.core.errors import AnnotationError
from cellwright.ops.label_changes import Change, bounds, boxes_of, change_of
from cellwright.ops.label_editing import (
    add_mask,
    draw_disc,
    erase,
    fill_holes,
    grow,
    interpolate,
    merge,
    shrink,
    smooth,
    split_by_line,
    split_by_seeds,
)
from cellwright.ops.simulation.simulate import simulate


def disc(shape, centre, radius):
    grid = np.indices(shape)
    place = np.reshape(centre, (-1,) + (1,) * len(shape))
    return ((grid - place) ** 2).sum(axis=0) <= radius**2


def two_discs(shape=(40, 60), gap=0):
    labels = np.zeros(shape, np.int32)
    labels[disc(shape, (20, 20), 11)] = 1
    labels[disc(shape, (20, 38 + gap), 11) & (labels == 0)] = 2
    return labels


def applied(labels, change):
    after = labels.copy()
    assert change is not None
    change.apply(after)
    return after


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


def drawn(seed, shape):
    return simulate("fluorescence", shape, np.random.default_rng(seed), diameter_px=14).labels


TOOLS = {
    "erase": lambda labels, n: erase(labels, n),
    "grow": lambda labels, n: grow(labels, n, 2),
    "shrink": lambda labels, n: shrink(labels, n, 1),
    "smooth": lambda labels, n: smooth(labels, n, 2),
    "fill": lambda labels, n: fill_holes(labels, n),
    "disc": lambda labels, n: draw_disc(labels, np.array(labels.shape) // 3, 9, new=99),
}


@pytest.mark.parametrize("shape", [(64, 80), (9, 48, 40)])
@pytest.mark.parametrize("name", TOOLS)
@pytest.mark.parametrize("seed", range(3))
def test_a_change_is_tight_spares_other_cells_and_can_be_taken_back(name, shape, seed):
    labels = drawn(seed, shape)
    before = labels.copy()
    number = int(labels.max()) // 2
    try:
        change = TOOLS[name](labels, number)
    except AnnotationError:
        assert name in ("shrink", "disc")
        return
    assert np.array_equal(labels, before)
    if change is None:
        return
    after = applied(labels, change)
    differs = after != before
    assert change.box == bounds(differs)
    own = {number, 99} - {0}
    assert set(change.numbers()) <= own
    others = (before > 0) & (before != number)
    assert np.array_equal(after[others], before[others])
    after[change.box] = change.before
    assert np.array_equal(after, before)


@pytest.mark.parametrize("name", ["erase", "grow", "shrink", "smooth", "fill"])
def test_a_known_box_gives_the_same_change(name):
    labels = drawn(5, (80, 96))
    tools = {"erase": erase, "grow": grow, "shrink": shrink, "smooth": smooth, "fill": fill_holes}
    for number, box in boxes_of(labels).items():
        searched, known = (tools[name](labels, number, box=one) for one in (None, box))
        assert (searched is None) == (known is None)
        if searched is not None:
            assert searched.box == known.box
            assert np.array_equal(searched.after, known.after)


def test_boxes_of_any_numbers():
    labels = np.zeros((6, 8), np.int32)
    labels[1:3, 2:5], labels[5, 7] = 2_000_000_000, 3
    expected = {2_000_000_000: (slice(1, 3), slice(2, 5)), 3: (slice(5, 6), slice(7, 8))}
    assert boxes_of(labels) == expected
    assert boxes_of(np.zeros((3, 3), np.int32)) == {}


def test_nothing_changed_is_no_change():
    labels = two_discs()
    assert change_of(labels, (slice(0, 5), slice(0, 5)), labels[:5, :5]) is None
    assert fill_holes(labels, 1) is None


def test_a_lifted_change_lies_in_its_time_point():
    frames = np.stack([two_discs()] * 3)
    change = erase(frames[1], 2).lifted(1)
    change.apply(frames)
    assert [bool((frame == 2).any()) for frame in frames] == [True, False, True]


@pytest.mark.parametrize("number", [0, 3, -1])
@pytest.mark.parametrize("box", [None, (slice(0, 4), slice(0, 4))])
def test_a_cell_that_is_not_there(number, box):
    with pytest.raises(AnnotationError, match="must be in the labels"):
        erase(two_discs(), number, box=box)


def test_merging_closes_the_seam():
    labels = two_discs(gap=6)
    assert ndimage.label(labels > 0)[1] == 2
    after = applied(labels, merge(labels, 1, 2))
    assert set(np.unique(after)) == {0, 1}
    assert ndimage.label(after)[1] == 1
    with pytest.raises(AnnotationError, match="two cells"):
        merge(labels, 1, 1)


def test_merging_cells_that_do_not_touch_only_renames():
    labels = np.zeros((20, 30), np.int32)
    labels[2:8, 2:8], labels[12:18, 20:28] = 1, 2
    after = applied(labels, merge(labels, 2, 1))
    assert np.array_equal(after > 0, labels > 0)
    assert set(np.unique(after)) == {0, 2}


@pytest.mark.parametrize("line", [[[0, 29], [39, 29]], [[18, 29], [22, 29]], [[20, 29], [21, 29], [22, 29]]])
def test_a_line_cuts_from_border_to_border(line):
    truth = two_discs()
    labels = (truth > 0).astype(np.int32)
    after = applied(labels, split_by_line(labels, 1, line, new=7))
    assert np.array_equal(after > 0, labels > 0)
    assert set(np.unique(after)) == {0, 1, 7}
    parts = [after == 1, after == 7]
    best = [max(iou(truth == number, part) for part in parts) for number in (1, 2)]
    assert min(best) > 0.93


def test_a_line_across_both_legs_cuts_both():
    labels = np.zeros((20, 30), np.int32)
    labels[2:16, 3:8] = labels[2:16, 20:25] = labels[12:18, 3:25] = 4
    after = applied(labels, split_by_line(labels, 4, [[6, 0], [6, 29]], new=9))
    assert set(np.unique(after)) == {0, 4, 9, 10}
    one = applied(labels, split_by_line(labels, 4, [[6, 4], [6, 6]], new=9))
    assert set(np.unique(one)) == {0, 4, 9}
    assert (one[2:5, 20:25] == 4).all()


@pytest.mark.parametrize("line", [[[0, 0], [0, 50]], [[20, 20]], [[20, 20], [20, 20]]])
def test_a_line_that_does_not_cut(line):
    with pytest.raises(AnnotationError, match="must cross cell 1"):
        split_by_line(two_discs(), 1, line)


def test_a_line_cuts_a_volume_through_all_slices():
    truth = np.stack([two_discs()] * 5)
    labels = (truth > 0).astype(np.int32)
    across = applied(labels, split_by_line(labels, 1, [[2, 5, 29], [2, 35, 29]], new=2))
    assert all(iou(truth[z] == 1, across[z] == across[2, 20, 20]) > 0.93 for z in range(5))
    along_z = applied(labels, split_by_line(labels, 1, [[2, 20, 5], [2, 20, 50]], new=2))
    assert along_z[0, 11, 20] != along_z[0, 29, 20]
    with pytest.raises(AnnotationError, match="in one plane"):
        split_by_line(labels, 1, [[0, 5, 29], [4, 35, 40]])
    with pytest.raises(AnnotationError, match="3 coordinates"):
        split_by_line(labels, 1, [[5, 29], [35, 40]])


@pytest.mark.parametrize("seeds", [[[20, 20], [20, 38]], [[14, 16], [25, 42]], [[20, 12], [13, 38]]])
@pytest.mark.parametrize("ndim", [2, 3])
def test_seeds_find_the_waist_wherever_they_are(seeds, ndim):
    truth = two_discs()
    if ndim == 3:
        truth, seeds = np.stack([truth] * 4), [[1, *seed] for seed in seeds]
    labels = (truth > 0).astype(np.int32)
    after = applied(labels, split_by_seeds(labels, 1, seeds, new=2))
    assert np.array_equal(after > 0, labels > 0)
    assert iou(truth == 1, after == 1) > 0.8
    assert iou(truth == 2, after == 2) > 0.8
    assert ndimage.label(after == 1)[1] == ndimage.label(after == 2)[1] == 1


def test_seeds_in_pieces_that_do_not_touch():
    labels = np.zeros((10, 30), np.int32)
    labels[2:8, 2:8] = labels[2:8, 12:18] = labels[2:8, 22:28] = 3
    after = applied(labels, split_by_seeds(labels, 3, [[4, 4], [4, 25]], new=5))
    assert [int(after[4, x]) for x in (4, 14, 25)] == [3, 3, 5]


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([[20, 20], [20, 20]], "different places"),
        ([[20, 20], [2, 58]], "beside it"),
        ([[20, 20]], "two seeds"),
        ([[20, np.nan], [20, 38]], "finite"),
    ],
)
def test_seeds_that_do_not_split(seeds, message):
    with pytest.raises(AnnotationError, match=message):
        split_by_seeds(two_discs(), 1, seeds)


def test_grow_and_shrink_by_whole_pixels():
    labels = np.zeros((30, 30), np.int32)
    labels[disc((30, 30), (15, 15), 6)] = 1
    grown = applied(labels, grow(labels, 1, 3))
    assert iou(grown == 1, disc((30, 30), (15, 15), 9)) > 0.9
    back = applied(grown, shrink(grown, 1, 3))
    assert iou(back == 1, labels == 1) > 0.9
    with pytest.raises(AnnotationError, match="thicker than 40"):
        shrink(labels, 1, 20)


def test_the_edge_of_the_image_is_no_border():
    labels = np.zeros((20, 20), np.int32)
    labels[:8] = 1
    after = applied(labels, shrink(labels, 1, 2))
    assert np.array_equal(np.flatnonzero(after[:, 5]), np.arange(6))
    assert (after[3] == 1).all()


def test_flat_voxels_grow_in_their_plane_first():
    labels = np.zeros((5, 20, 20), np.int32)
    labels[2, 8:12, 8:12] = 1
    after = applied(labels, grow(labels, 1, 2, sampling=(5, 1, 1)))
    assert not after[[1, 3]].any()
    assert after[2].sum() > 16


def test_smoothing_keeps_the_size_and_rounds():
    labels = np.zeros((40, 40), np.int32)
    labels[disc((40, 40), (20, 20), 10)] = 1
    labels[19:21, 28:38] = 1
    after = applied(labels, smooth(labels, 1, 2))
    assert (after == 1).sum() == (labels == 1).sum()
    assert not after[:, 36:].any()


def test_holes_are_filled_but_not_with_other_cells():
    labels = np.zeros((3, 20, 20), np.int32)
    labels[:, 4:16, 4:16] = 1
    labels[1, 8:12, 8:12] = 0
    labels[1, 9, 9] = 5
    after = applied(labels, fill_holes(labels, 1))
    assert after[1, 9, 9] == 5
    assert (after[1, 8:12, 8:12] > 0).all()


@pytest.mark.parametrize("point", [(0, 0), (19.4, 29.4), (10, 15)])
def test_a_disc_is_round_and_cut_at_the_edge(point):
    labels = np.zeros((20, 30), np.int32)
    after = applied(labels, draw_disc(labels, point, 8, new=4))
    assert np.array_equal(after == 4, disc(labels.shape, point, 4))


@pytest.mark.parametrize("point", [(-1, 5), (5, 30), (np.inf, 0)])
def test_a_disc_outside_the_image(point):
    with pytest.raises(AnnotationError):
        draw_disc(np.zeros((20, 30), np.int32), point, 8)


def test_a_tiny_disc_is_one_voxel():
    labels = np.zeros((4, 20, 30), np.int32)
    assert (applied(labels, draw_disc(labels, (1.4, 5.4, 6.6), 0.2)) > 0).sum() == 1
    with pytest.raises(AnnotationError, match="above 0"):
        draw_disc(labels, (1, 1, 1), 0)


def test_a_mask_takes_background_alone_and_may_reach_out():
    labels = two_discs()
    after = applied(labels, add_mask(labels, (-5, -5), np.ones((30, 30), bool)))
    assert after.max() == 3
    assert np.array_equal(after == 3, (labels == 0) & (np.indices(labels.shape) < 25).all(axis=0))
    with pytest.raises(AnnotationError, match="needs background"):
        add_mask(labels, (18, 18), np.ones((3, 3), bool))
    with pytest.raises(AnnotationError, match="needs background"):
        add_mask(labels, (500, 500), np.ones((3, 3), bool))
    with pytest.raises(AnnotationError, match="2 axes"):
        add_mask(labels, (1, 1, 1), np.ones((1, 3, 3), bool))


def test_interpolation_passes_from_one_slice_to_the_other():
    labels = np.zeros((9, 50, 60), np.int32)
    labels[1, disc((50, 60), (20, 20), 6)] = 1
    labels[7, disc((50, 60), (26, 38), 12)] = 1
    after = applied(labels, interpolate(labels, 1, 7, 0))
    assert not after[[0, 8]].any()
    assert iou(after[4] == 1, disc((50, 60), (23, 29), 9)) > 0.85
    areas = (after == 1).sum(axis=(1, 2))
    assert (np.diff(areas[1:8]) > 0).all()


def test_interpolation_needs_two_slices():
    labels = np.zeros((5, 20, 20), np.int32)
    labels[0, 4:9, 4:9] = labels[4, 4:9, 4:9] = 1
    for first, last in ((0, 3), (1, 3), (5, 9)):
        with pytest.raises(AnnotationError, match="two slices"):
            interpolate(labels, 1, first, last)
    with pytest.raises(AnnotationError, match="single image"):
        interpolate(labels[0], 1, 0, 1)
    labels[2, 4:9, 4:9] = 2
    after = applied(labels, interpolate(labels, 1, 0, 4))
    assert (after[2, 4:9, 4:9] == 2).all()
    assert (after[[1, 3], 5, 5] == 1).all()


def test_numbers_of_a_change():
    change = Change(
        (slice(0, 1), slice(0, 3)),
        np.array([[1, 2, 0]], np.int32),
        np.array([[3, 2, 3]], np.int32),
    )
    assert change.numbers() == (1, 3)
