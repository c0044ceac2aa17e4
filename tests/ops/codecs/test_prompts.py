import numpy as np
import pytest
from scipy import ndimage

from cellwright.core.errors import QueryError
from cellwright.ops.codecs.prompts import Prompts, prompted_mask

SHAPE = (60, 90)


def disc(y, x, radius):
    rows, columns = np.ogrid[: SHAPE[0], : SHAPE[1]]
    return np.hypot(rows - y, columns - x) <= radius


def seen(*cells, low=0.05, high=0.95):
    """What a model gives that sees these cells: chances with soft rims, and labels."""
    inside = np.full(SHAPE, low)
    labels = np.zeros(SHAPE, np.int32)
    for number, cell in enumerate(cells, start=1):
        inside[cell] = high
        labels[cell & (labels == 0)] = number
    return ndimage.gaussian_filter(inside, 1).astype(np.float32), labels


def iou(found, truth):
    return (found & truth).sum() / (found | truth).sum()


LEFT, RIGHT = disc(30, 30, 12), disc(30, 50, 12)


def test_a_point_gives_its_cell_alone():
    mask = prompted_mask(*seen(LEFT, disc(30, 60, 12)), Prompts(((30.0, 30.0), (31.0, 28.0))), 0.5)
    assert iou(mask, LEFT) > 0.95


def test_two_points_join_the_pieces_of_a_cell():
    both = LEFT | RIGHT
    mask = prompted_mask(*seen(LEFT, RIGHT), Prompts(((30.0, 30.0), (30.0, 52.0))), 0.5)
    assert iou(mask, both) > 0.9
    assert ndimage.label(mask)[1] == 1


def test_a_negative_point_parts_two_cells_that_the_model_took_for_one():
    mask = prompted_mask(*seen(LEFT | RIGHT), Prompts(((30.0, 28.0),), ((30.0, 53.0),)), 0.5)
    assert iou(mask, LEFT & ~RIGHT) > 0.75
    assert not (mask & disc(30, 53, 8)).any()


def test_a_negative_point_removes_a_piece_that_was_joined():
    prompts = Prompts(((30.0, 30.0), (30.0, 41.5)), ((30.0, 54.0),))
    mask = prompted_mask(*seen(LEFT, RIGHT & ~LEFT), prompts, 0.5)
    assert mask[30, 30] and mask[30, 42] and not mask[30, 54]  # noqa: PT018


def test_a_point_beside_a_cell_widens_it_as_far_as_the_point():
    truth = LEFT | disc(30, 42, 9)
    inside, labels = seen(LEFT)
    inside[disc(30, 42, 9) & ~LEFT] = 0.3  # it sees something there, but not enough
    before = iou(LEFT, truth)
    mask = prompted_mask(inside, labels, Prompts(((30.0, 30.0), (30.0, 46.0))), 0.5)
    assert mask[30, 46]
    assert iou(mask, truth) > before + 0.05
    assert ndimage.label(mask)[1] == 1


def test_a_box_takes_the_cell_that_fills_it_and_nothing_beyond():
    wide = LEFT | RIGHT
    mask = prompted_mask(*seen(wide), Prompts(box=((17.5, 17.5), (42.5, 40.5))), 0.5)
    assert iou(mask, wide & (np.arange(90) < 42)) > 0.9
    rows, columns = np.nonzero(mask)
    assert columns.max() <= 42
    assert rows.min() >= 16


def test_a_box_joins_the_pieces_that_fill_it_together():
    pieces = LEFT & (np.arange(90) < 30), LEFT & (np.arange(90) >= 30)
    other = disc(30, 47, 5)
    mask = prompted_mask(*seen(*pieces, other), Prompts(box=((17.5, 17.5), (42.5, 42.5))), 0.5)
    assert iou(mask, LEFT) > 0.95


def test_a_box_makes_an_outline_wider_that_is_too_narrow():
    inside, labels = seen(disc(30, 30, 8))
    inside[LEFT & ~disc(30, 30, 8)] = 0.25
    mask = prompted_mask(inside, labels, Prompts(box=((17.5, 17.5), (42.5, 42.5))), 0.5)
    assert iou(mask, LEFT) > 0.9


def test_a_hole_stays_where_a_negative_point_lies_and_is_filled_elsewhere():
    inside, labels = seen(LEFT & ~disc(30, 25, 3) & ~disc(30, 36, 3))
    mask = prompted_mask(inside, labels, Prompts(((22.0, 30.0),), ((30.0, 25.0),)), 0.5)
    assert mask[disc(30, 36, 3)].all()
    assert (~mask[disc(30, 25, 2)]).all()


def test_an_empty_box_has_no_cell_unless_a_point_says_so():
    inside, labels = seen()
    box = ((10.0, 10.0), (30.0, 30.0))
    assert not prompted_mask(inside, labels, Prompts(box=box), 0.5).any()
    assert prompted_mask(inside, labels, Prompts(((20.0, 20.0),), box=box), 0.5)[20, 20]


def test_whatever_the_prompts_positive_points_are_in_and_negative_ones_out(rng):
    inside = ndimage.gaussian_filter(rng.random(SHAPE), 4)
    inside = ((inside - inside.min()) / np.ptp(inside)).astype(np.float32)
    labels = ndimage.label(inside > 0.5)[0].astype(np.int32)
    for _ in range(25):
        points = [(float(y), float(x)) for y, x in zip(rng.permutation(60)[:5], rng.permutation(90)[:5])]  # noqa: B905
        corners = np.array(points[:3])
        box = tuple(map(tuple, (corners.min(axis=0) - 1, corners.max(axis=0) + 1)))
        for prompts in (Prompts(tuple(points[:3]), tuple(points[3:])), Prompts(tuple(points[:3]), (), box)):
            mask = prompted_mask(inside, labels, prompts, 0.5)
            assert all(mask[int(y), int(x)] for y, x in prompts.positive)
            assert not any(mask[int(y), int(x)] for y, x in prompts.negative)
            if prompts.box:
                low, high = prompts.limits
                places = np.argwhere(mask)
                assert ((places >= low) & (places <= high)).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "neither"),
        ({"negative": ((3.0, 3.0),)}, "neither"),
        ({"positive": ((3.0, 3.0),), "negative": ((3.2, 2.8),)}, "both"),
        ({"box": ((3.0, 3.0), (3.0, 30.0))}, "pixel wide"),
        ({"positive": ((3.0, 3.0),), "box": ((10.0, 10.0), (30.0, 30.0))}, "must lie in the box"),
    ],
)
def test_prompts_that_contradict_each_other_are_refused(given, message):
    with pytest.raises(QueryError, match=message):
        Prompts(**given)


def test_prompts_move_with_the_part_they_are_told_in():
    prompts = Prompts(((5.0, 6.0),), ((7.0, 8.0),), ((9.0, 9.0), (4.0, 5.0))).moved(np.array([4, 5]))
    assert prompts == Prompts(((1.0, 1.0),), ((3.0, 3.0),), ((5.0, 4.0), (0.0, 0.0)))
    assert prompts.corners.tolist() == [[0, 0], [5, 4]]
    assert prompts.span.tolist() == [[0, 0], [5, 4]]


def test_prompts_are_told_by_arrays_too():
    points = np.array([[5, 6], [7, 8]], np.float32)
    assert Prompts(points, box=points) == Prompts(((5.0, 6.0), (7.0, 8.0)), box=((5.0, 6.0), (7.0, 8.0)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"positive": np.array([5.0, 6.0])}, "two numbers"),
        ({"positive": [(1.0, np.nan)]}, "two numbers"),
        ({"positive": [(0, 5, 6), (0, 5, 6)]}, "two numbers"),
        ({"box": [(1, 2, 3, 4)]}, "two numbers"),
        ({"box": [(1, 2)]}, "two opposite corners; got 1"),
    ],
)
def test_what_is_no_point_is_refused(given, message):
    with pytest.raises(QueryError, match=message):
        Prompts(**given)
