"""Outlines of slices -> cells: volumes with known truth, and each rule on its own."""

import numpy as np
import pytest

from cellwright.core.errors import SettingsError
from cellwright.ops.labels import relabel
from cellwright.ops.link import LinkSettings, link_slices
from cellwright.ops.matching import match_labels
from cellwright.ops.simulation.simulate import simulate


def shuffled(labels, seed=0):
    """The same outlines under numbers that differ from slice to slice."""
    rng = np.random.default_rng(seed)
    mixed = np.zeros_like(labels)
    for z, one in enumerate(labels):
        numbers = rng.permutation(3 * int(labels.max()))[: int(labels.max())] + 1
        mixed[z] = np.concatenate([[0], numbers])[one]
    return mixed


def truth(seed, diameter=18, shape=(20, 140, 150)):
    drawn = simulate("fluorescence", shape, np.random.default_rng(seed), diameter_px=diameter)
    return drawn.labels, drawn.style.z_step


def disc(radius, shape=(40, 40), centre=(20, 20)):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def column(radii, **place):
    """Discs one above the other; 0 leaves a slice empty."""
    return np.stack([disc(radius, **place) & (radius > 0) for radius in radii]).astype(np.int32)


def cells_per_slice(linked):
    return [sorted(set(np.unique(one).tolist()) - {0}) for one in linked]


def test_slices_of_known_cells_are_linked_back():
    found, n = 0, 0
    for seed in range(4):
        labels, z_step = truth(seed)
        assert labels.max() >= 5
        match = match_labels(link_slices(shuffled(labels, seed), anisotropy=z_step), labels, 0.5)
        found, n = found + match.true_positives, n + (match.n_predicted + match.n_true) / 2
    assert found >= 0.95 * n


@pytest.mark.parametrize("seed", range(3))
def test_it_does_not_matter_how_outlines_are_numbered(seed):
    labels, z_step = truth(seed)
    first, second = (link_slices(shuffled(labels, shuffle), anisotropy=z_step) for shuffle in (1, 2))
    assert match_labels(first, second, 1.0).f1 == 1


@pytest.mark.parametrize("seed", range(3))
def test_upside_down_and_mirrored_volumes_give_the_same_cells(seed):
    labels, z_step = truth(seed)
    """But for voxels between two cells that are as high on both sides, which go to the one or the other."""
    straight = link_slices(labels, anisotropy=z_step)
    for axis in range(3):
        turned = np.flip(link_slices(np.flip(labels, axis).copy(), anisotropy=z_step), axis)
        assert match_labels(np.ascontiguousarray(turned), straight, 0.95).f1 >= 0.99


@pytest.mark.parametrize("seed", range(3))
def test_labels_are_numbered_without_gaps_and_only_gaps_are_filled(seed):
    labels, _ = truth(seed)
    before = shuffled(labels)
    given = before.copy()
    linked = link_slices(given, LinkSettings(max_gap=0, min_slices=1))
    assert linked.dtype == np.int32
    assert np.array_equal(np.unique(linked[linked > 0]), np.arange(1, linked.max() + 1))
    assert np.array_equal(linked > 0, labels > 0)
    assert np.array_equal(given, before)


def test_neighbours_side_by_side_stay_apart():
    labels = column([8] * 6, shape=(40, 80), centre=(20, 20))
    labels[column([8] * 6, shape=(40, 80), centre=(20, 37)) > 0] = 2
    linked = link_slices(shuffled(labels))
    assert match_labels(linked, labels, 1.0).f1 == 1


def test_cells_that_touch_in_one_slice_go_on_as_two():
    labels = column([8] * 7, shape=(40, 80), centre=(20, 20))
    labels[column([7] * 7, shape=(40, 80), centre=(20, 37)) > 0] = 2
    merged = shuffled(labels)
    merged[3][labels[3] > 0] = 1
    linked = link_slices(merged)
    assert linked.max() == 2
    assert linked[0, 20, 20] == linked[6, 20, 20] != linked[0, 20, 37] == linked[6, 20, 37]


@pytest.mark.parametrize(("missing", "max_gap", "n_cells"), [(1, 1, 1), (1, 0, 2), (2, 2, 1), (2, 1, 2)])
def test_a_cell_goes_on_where_it_was_missed(missing, max_gap, n_cells):
    radii = [7, 8, 8] + [0] * missing + [8, 8, 7]
    linked = link_slices(shuffled(column(radii)), LinkSettings(max_gap=max_gap))
    assert linked.max() == n_cells
    assert linked[3].any() == (n_cells == 1)
    assert linked[0, 20, 20] == 1
    assert linked[-1, 20, 20] == n_cells


def test_a_gap_is_filled_between_two_outlines_of_one_cell_alone():
    """Above and below the gap the discs lie side by side and share a strip, which stays background."""
    labels = np.concatenate([column([8] * 5), column([0]), column([8] * 5, centre=(20, 34))])
    linked = link_slices(shuffled(labels))
    assert linked.max() == 2
    assert not linked[5].any()


def test_no_gap_is_wider_than_a_third_of_the_cells():
    labels = column([4, 4, 0, 4, 4])
    assert link_slices(labels, anisotropy=2).max() == 1
    assert link_slices(labels, anisotropy=10).max() == 2


@pytest.mark.parametrize(
    ("radii", "waist", "n_cells"),
    [
        ([4, 7, 8, 8, 8, 7, 5, 3, 5, 7, 8, 8, 8, 7, 4], 0.7, 2),
        ([4, 7, 8, 8, 8, 7, 5, 3, 5, 7, 8, 8, 8, 7, 4], 0.0, 1),
        ([4, 7, 8, 8, 8, 8, 8, 8, 8, 7, 4], 0.6, 1),
        ([4, 7, 8, 8, 8, 7, 5, 3, 5, 7, 8, 8, 8, 7, 4], 1.0, 2),
        ([4, 5, 6, 7, 8, 7, 6, 5, 4], 1.0, 1),
        ([4, 7, 8, 8, 8, 8, 4, 8, 8, 8, 8, 8, 8, 8, 8, 7, 4], 0.6, 1),  # one slice badly outlined
        ([3, 6, 8, 8, 6, 4, 3, 6, 8, 8, 6, 3, 4, 6, 8, 8, 6, 3], 0.9, 3),
    ],
)
def test_stacked_cells_are_parted_at_the_waist(radii, waist, n_cells):
    linked = link_slices(shuffled(column(radii)), LinkSettings(waist=waist), anisotropy=2)
    assert linked.max() == n_cells
    assert all(len(ids) == 1 for ids in cells_per_slice(linked))
    assert [ids[0] for ids in cells_per_slice(linked)] == sorted(ids[0] for ids in cells_per_slice(linked))


def gliding(shifts, radius=8):
    """Discs of one size whose centres move along x."""
    return np.stack([disc(radius, shape=(40, 70), centre=(20, 20 + x)) for x in shifts]).astype(np.int32)


def test_cells_that_glide_into_each_other_are_parted():
    """The area never falls, but the outlines above the middle lie elsewhere than those below it."""
    shifts = [0] * 9 + [2, 4, 6, 8, 10] + [12] * 9
    linked = link_slices(shuffled(gliding(shifts)), anisotropy=2)
    assert linked.max() == 2
    assert set(np.unique(linked[:7])) == {0, 1}
    assert set(np.unique(linked[16:])) == {0, 2}


def test_a_slanting_cell_is_one():
    assert link_slices(shuffled(gliding(range(12))), anisotropy=2).max() == 1
    assert link_slices(shuffled(gliding([0, 1, 0, 1] * 5)), anisotropy=2).max() == 1


def test_an_outline_around_two_cells_is_parted_like_the_slices_around_it():
    labels = column([8] * 9, shape=(40, 80), centre=(20, 20))
    labels[column([8] * 9, shape=(40, 80), centre=(20, 38)) > 0] = 2
    merged = labels.copy()
    merged[4, 16:25, 20:39] = 1
    merged[4][labels[4] == 2] = 1
    linked = link_slices(merged)
    assert linked.max() == 2
    assert linked[4, 20, 20] == linked[0, 20, 20] != linked[0, 20, 38] == linked[4, 20, 38]


def test_pieces_join_the_cell_that_covers_them_and_specks_are_dropped():
    labels = column([8] * 5)
    labels[2][disc(8) & (np.arange(40) > 24)] = 7  # a part of the cell, outlined on its own
    labels[1][2:5, 2:5] = 9
    linked = link_slices(labels)
    assert np.array_equal(linked > 0, column([8] * 5) > 0)
    assert linked.max() == 1
    assert link_slices(labels, LinkSettings(min_slices=1)).max() == 2


def test_a_cell_must_have_the_fewest_slices_unless_the_volume_ends_there():
    assert link_slices(column([0, 8, 8, 0, 0]), LinkSettings(min_slices=3)).max() == 0
    assert link_slices(column([0, 0, 0, 8, 8]), LinkSettings(min_slices=3)).max() == 1  # goes on outside
    assert link_slices(column([8, 8]), LinkSettings(min_slices=3)).max() == 1
    flat = column([0, 8, 8, 0, 0])
    assert link_slices(flat, LinkSettings(min_slices=3), anisotropy=9).max() == 1  # as tall as wide
    one = relabel(column([8]) + column([3]))
    assert np.array_equal(link_slices(one), one)


def test_cells_go_on_for_one_slice_where_it_is_faint():
    """Only what lies over or under a cell, and no farther than a slice; outlines keep their pixels."""
    faint = column([0, 9, 5, 0, 0, 0, 5, 6, 6]) > 0
    outlines = shuffled(column([0, 0, 0, 8, 8, 8, 0, 0, 0]))
    linked = link_slices(outlines, faint=faint)
    assert np.array_equal(linked > 0, column([0, 0, 5, 8, 8, 8, 5, 0, 0]) > 0)
    assert linked.max() == 1
    assert np.array_equal(link_slices(outlines, faint=np.zeros_like(faint)), link_slices(outlines))


def test_what_two_cells_reach_is_part_of_the_lower_one():
    outlines = shuffled(column([8, 8, 8, 0, 6, 6, 6]))
    linked = link_slices(outlines, LinkSettings(max_gap=0), faint=np.ones(outlines.shape, bool))
    assert np.array_equal(linked[3] > 0, disc(8))
    assert len(np.unique(linked[3])) == 2
    assert linked[3, 20, 20] == linked[0, 20, 20] != linked[6, 20, 20]


def test_empty_volumes_have_no_cells():
    for shape in ((3, 8, 9), (1, 8, 9)):
        empty = link_slices(np.zeros(shape, np.int32))
        assert empty.shape == shape
        assert not empty.any()


def test_slices_must_lie_apart():
    with pytest.raises(SettingsError, match="anisotropy"):
        link_slices(np.zeros((2, 4, 4), np.int32), anisotropy=0)
