import numpy as np
import pytest

from cellwright.core.data import Cells, Image
from cellwright.core.errors import SettingsError
from cellwright.ops.measure.analysis import AnalysisInputs, analyse
from cellwright.ops.measure.measurement import measure, result_of_labels
from cellwright.ops.measure.regions import MaskRegion, RegionSet, ShapeRegion, region_set, shape_region
from cellwright.ops.measure.settings import AnalysisSettings

SQUARE = np.array([[10, 10], [10, 30], [30, 30], [30, 10]], float)
TRIANGLE = np.array([[0, 0], [0, 40], [40, 0]], float)


def cells_at(*points, axes=2):
    points = np.array(points, np.float32).reshape(-1, axes)
    boxes = np.stack([points - 1, points + 2], axis=1)
    n = len(points)
    return Cells(points, boxes, np.ones(n, np.float32), np.full(n, 9, np.float32))


def inside(region, *points):
    return RegionSet((region,)).membership(cells_at(*points))[:, 0].tolist()


def test_a_triangle_is_not_its_box():
    assert inside(shape_region("a", "polygon", TRIANGLE), (5, 5), (30, 30), (19, 19), (21, 21)) == [
        True,
        False,
        True,
        False,
    ]


def test_a_path_is_closed():
    assert inside(shape_region("a", "path", TRIANGLE), (5, 5), (30, 30)) == [True, False]


def test_an_ellipse_is_not_its_box():
    region = shape_region("a", "ellipse", SQUARE)
    assert inside(region, (20, 20), (11, 11), (20, 29), (12.5, 12.5), (13.5, 13.5)) == [
        True,
        False,
        True,
        False,
        True,
    ]
    assert region.mask((), (60, 60)).sum() == pytest.approx(np.pi * 100, rel=0.02)


def test_shapes_may_be_turned(rng):
    angle = 0.6
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([[-10, -20], [-10, 20], [10, 20], [10, -20]]) @ turn + 50
    points = rng.uniform(20, 80, (500, 2))
    own = (points - 50) @ turn.T
    box = (np.abs(own) < (10, 20)).all(axis=1)
    ellipse = ((own / (10, 20)) ** 2).sum(axis=1) < 1
    assert inside(shape_region("a", "rectangle", corners), *points) == box.tolist()
    assert inside(shape_region("a", "ellipse", corners), *points) == ellipse.tolist()


def test_pixels_and_points_agree(rng):
    region = shape_region("a", "polygon", rng.uniform(0, 60, (9, 2)))
    pixels = np.argwhere(np.ones((60, 60), bool))
    np.testing.assert_array_equal(region.mask((), (60, 60)).ravel(), region.contains(pixels))


def test_a_line_has_no_inside():
    with pytest.raises(SettingsError, match="needs an inside"):
        shape_region("a", "line", SQUARE[:2])


def test_several_regions_may_overlap():
    other = shape_region("b", "rectangle", SQUARE + 10)
    regions = RegionSet((shape_region("a", "rectangle", SQUARE), other))
    found = regions.membership(cells_at((15, 15), (25, 25), (35, 35), (50, 50)))
    assert found.tolist() == [[True, False], [True, True], [False, True], [False, False]]


def test_holes_are_cut_out_of_all_regions():
    hole = shape_region("hole", "rectangle", SQUARE / 2 + 10)  # 15 to 25
    regions = RegionSet((shape_region("a", "rectangle", SQUARE),), (hole,))
    assert regions.membership(cells_at((12, 12), (20, 20)))[:, 0].tolist() == [True, False]
    assert regions.sizes((), (60, 60)).tolist() == [20 * 20 - 10 * 10]
    assert RegionSet((), (hole,)).membership(cells_at((12, 12), (20, 20)))[:, 0].tolist() == [True, False]


def test_a_ring_in_a_ring_is_a_hole():
    from cellwright.ops.measure.regions import ShapeRegion

    region = ShapeRegion("a", (SQUARE, SQUARE / 2 + 10))
    assert inside(region, (12, 12), (20, 20)) == [True, False]


def test_masks_count_inside_or_outside():
    pixels = np.zeros((60, 60), np.uint8)
    pixels[10:30, 10:30] = 7
    points = [(12, 12), (40, 40), (70, 5)]
    assert inside(MaskRegion("a", pixels), *points) == [True, False, False]
    assert inside(MaskRegion("a", pixels, is_inverted=True), *points) == [False, True, False]


def test_regions_count_only_as_far_as_the_mask_reaches():
    pixels = np.zeros((60, 60), bool)
    pixels[:20] = True
    square = shape_region("a", "rectangle", SQUARE)
    points = [(15, 15), (25, 15), (15, 50)]
    for is_inverted, expected in ((False, [True, False, False]), (True, [False, True, False])):
        regions = region_set([square], mask=MaskRegion("m", pixels, is_inverted=is_inverted))
        assert regions.names == ("a",)
        assert regions.membership(cells_at(*points))[:, 0].tolist() == expected
        assert regions.sizes((), (60, 60)).tolist() == [200]
    assert region_set([], mask=MaskRegion("m", pixels)).names == ("m",)


def test_regions_named_exclude_are_cut_out():
    inner = shape_region("Exclude the fold", "rectangle", SQUARE / 2 + 10)
    regions = region_set([shape_region("a", "rectangle", SQUARE), inner])
    assert (regions.names, len(regions.excluded)) == (("a",), 1)
    assert regions.sizes((), (60, 60)).tolist() == [20 * 20 - 10 * 10]


def test_only_cells_in_the_regions_are_measured():
    labels = np.zeros((40, 40), np.int32)
    labels[12:16, 12:16], labels[32:36, 2:6], labels[20:28, 20:28] = 1, 2, 3
    regions = region_set([shape_region("a", "rectangle", SQUARE)])
    table = measure(labels, Image(labels, "YX"), ["intensity_max"], regions=regions)
    assert table[["label", "intensity_max_ch0", "regions"]].to_numpy().tolist() == [[1, 1, "a"], [3, 3, "a"]]


def test_a_mask_of_another_image_is_refused():
    labels = np.zeros((40, 40), np.int32)
    for pixels in (np.ones((41, 40)), np.ones((2, 40, 40))):
        for regions in (
            region_set([], mask=MaskRegion("m", pixels)),
            region_set([shape_region("a", "rectangle", SQUARE)], mask=MaskRegion("m", pixels)),
        ):
            with pytest.raises(SettingsError, match="must have the size of the image"):
                analyse(labels, Image(labels, "YX"), AnalysisSettings(), AnalysisInputs(regions))


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(SettingsError, match="must have the size of the image"):
        RegionSet((MaskRegion("a", np.ones((5, 5))),)).sizes((), (60, 60))


def test_rules_for_cells_cut_by_the_edge():
    labels = np.zeros((60, 60), np.int32)
    labels[12:16, 12:16], labels[12:16, 28:36], labels[20:24, 24:32], labels[40:44, 40:44] = 1, 2, 3, 4
    result, _ = result_of_labels(labels, Image(labels, "YX"))
    region = shape_region("a", "rectangle", SQUARE)
    for rule, expected in {"centre": [1, 3], "overlap": [1, 2, 3], "whole": [1]}.items():
        found = RegionSet((region,), rule=rule).membership(result.cells)[:, 0]
        assert (np.flatnonzero(found) + 1).tolist() == expected, rule


def test_rules_with_pixels_need_outlines():
    with pytest.raises(SettingsError, match="needs outlines"):
        RegionSet((shape_region("a", "rectangle", SQUARE),), rule="overlap").membership(cells_at((5, 5)))


def test_names_told_of_cells_are_read_back():
    regions = RegionSet(tuple(shape_region(name, "rectangle", SQUARE) for name in ("a", "b; c", "a")))
    membership = np.array([[True, False, True], [False, False, False], [True, False, False]])
    np.testing.assert_array_equal(regions.split_names(regions.joined_names(membership)), membership)
    assert regions.split_names([]).shape == (0, 3)
    for other in ("d", "b; c"):  # what has the separator in its name cannot be told apart
        with pytest.raises(SettingsError, match="said to lie in others"):
            regions.split_names([other])


def test_unknown_rules_are_refused():
    with pytest.raises(SettingsError, match="must be one of"):
        RegionSet(rule="half")


def test_a_shape_may_hold_in_one_frame_alone():
    region = shape_region("a", "rectangle", SQUARE, (2,))
    cells = cells_at((1, 20, 20), (2, 20, 20), axes=3)
    assert RegionSet((region,)).membership(cells)[:, 0].tolist() == [False, True]
    assert RegionSet((region,)).sizes((3,), (60, 60)).tolist() == [[0, 0, 400]]


def test_regions_lie_in_the_image_and_not_in_the_part_counted():
    regions = RegionSet((shape_region("a", "rectangle", SQUARE),))
    assert regions.membership(cells_at((5, 5), (25, 25)), (10, 10))[:, 0].tolist() == [True, False]


def test_equal_names_are_numbered():
    region = shape_region("roi", "rectangle", SQUARE)
    assert RegionSet((region, region, region)).names == ("roi", "roi (2)", "roi (3)")


def test_counts_are_those_by_hand(rng):
    """Random discs in a movie, random overlapping regions with a hole: per region and frame, and per mm²."""
    labels = np.zeros((3, 200, 200), np.int32)
    truth = []
    for frame in range(3):
        for y in range(10, 200, 20):
            for x in range(10, 200, 20):
                if rng.random() < 0.6:
                    truth.append((frame, y, x))
                    labels[frame, y - 3 : y + 4, x - 3 : x + 4] = len(truth)
    first = shape_region("left", "polygon", np.array([[-1, -1], [-1, 99], [201, 99], [201, -1]]))
    second = shape_region("top", "polygon", np.array([[-1, -1], [-1, 201], [79, 201], [79, -1]]))
    hole = shape_region("hole", "rectangle", np.array([[39, 39], [39, 61], [61, 61], [61, 39]]))
    image = Image(labels, "TYX", (0.5, 0.5))
    regions = RegionSet((first, second), (hole,))
    analysis = analyse(labels, image, AnalysisSettings(), AnalysisInputs(regions))
    rows = {(row.region, row.t): row for row in analysis.counts.itertuples()}
    total = 0
    for frame in range(3):
        free = [(y, x) for t, y, x in truth if t == frame and not (39 < y < 61 and 39 < x < 61)]
        left = [place for place in free if place[1] < 99]
        top = [place for place in free if place[0] < 79]
        assert rows["left", frame].count == len(left)
        assert rows["top", frame].count == len(top)
        assert rows["all regions", frame].count == len(set(left) | set(top))
        union = (200 * 99 + 101 * 79 - 21 * 21) * 0.25e-6
        assert rows["all regions", frame].area_mm2 == pytest.approx(union, rel=0.02)
        total += len(set(left) | set(top))
        area = (200 * 99 - 21 * 21) * 0.25e-6
        assert rows["left", frame].area_mm2 == pytest.approx(area, rel=0.02)
        assert rows["left", frame].density_per_mm2 == pytest.approx(len(left) / rows["left", frame].area_mm2)
    assert analysis.result.count == len(analysis.table) == total
    assert set(analysis.table["regions"]) == {"left", "top", "left; top"}
    assert "outside the regions" in analysis.notices[0]


def test_volumes_have_densities_per_cubic_millimetre():
    labels = np.zeros((10, 40, 40), np.int32)
    labels[2:5, 5:15, 5:15], labels[4:8, 20:30, 20:30] = 1, 2
    analysis = analyse(labels, Image(labels, "ZYX", (2.0, 0.5, 0.5)))
    volume = 10 * 40 * 40 * 0.5e-9
    assert analysis.counts.to_dict("list") == {
        "region": ["image"],
        "count": [2],
        "volume_px": [16000],
        "volume_mm3": [pytest.approx(volume)],
        "density_per_mm3": [pytest.approx(2 / volume)],
    }


def test_pixels_in_rings_are_those_points(rng):
    """Of rings of whole and other numbers, within rings, across each other and beyond the window."""
    for _ in range(40):
        rings = [rng.uniform(-9, 40, (rng.integers(3, 30), 2)).round(rng.integers(0, 3)) for _ in range(2)]
        region = ShapeRegion("any", tuple(rings))
        start = tuple(rng.integers(0, 9, 2).tolist())
        shape = tuple(rng.integers(1, 33, 2).tolist())
        places = np.argwhere(np.ones(shape, bool)) + start
        assert np.array_equal(region.mask((), shape, start).ravel(), region.contains(places))
