import numpy as np
import pytest

from cellwright.core.errors import SettingsError
from cellwright.ops.crops import crops, extents_of, relative_sizes, typical_extent, window_of


def noise(rng, shape=(3, 50, 60)):
    return rng.random(shape, dtype=np.float32)


def one(image, point, side, size, **options):
    return crops(image, np.array([point], np.float32), np.array([side], np.float32), size, **options)[0]


@pytest.mark.parametrize("padding", ["zero", "edge"])
@pytest.mark.parametrize("seed", range(5))
def test_a_crop_at_the_images_own_scale_is_a_slice_of_the_padded_image(seed, padding):
    rng = np.random.default_rng(seed)
    image = noise(rng)
    size = int(rng.integers(4, 30))
    corner = rng.integers(-size, 55, 2)
    padded = np.pad(image, ((0, 0), (100, 100), (100, 100)), mode="edge" if padding == "edge" else "constant")
    expected = padded[:, 100 + corner[0] :, 100 + corner[1] :][:, :size, :size]
    found = one(image, corner + (size - 1) / 2, size, size, padding=padding)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("side", [7.0, 20.0, 75.0, 200.0])
def test_a_ramp_stays_a_ramp(side):
    rows, columns = np.mgrid[:400, :400].astype(np.float32)
    crop = one(np.stack([rows, columns]), (200.0, 190.0), side, 16)
    at = (np.arange(16) + 0.5 - 8) * side / 16
    np.testing.assert_allclose(crop[0], np.broadcast_to((200 + at)[:, None], (16, 16)), rtol=1e-4)
    np.testing.assert_allclose(crop[1], np.broadcast_to(190 + at, (16, 16)), rtol=1e-4)


@pytest.mark.parametrize("padding", ["zero", "edge"])
@pytest.mark.parametrize("point", [(0, 0), (-3, 20), (49, 59), (80, 10), (25, 0)])
@pytest.mark.parametrize("side", [10.0, 90.0])
def test_an_even_image_has_no_seam_at_its_border(padding, point, side):
    crop = one(np.full((1, 51, 60), 0.5, np.float32), point, side, 16, padding=padding)
    assert crop.min() >= 0
    assert crop.max() <= 0.5
    if padding == "edge":
        assert np.all(crop == 0.5)
    elif side == 90.0 or point == (80, 10):
        assert crop.min() == 0


def test_a_cell_looks_the_same_wherever_it_lies(rng):
    cell = noise(rng, (1, 8, 8))
    image = np.zeros((1, 90, 90), np.float32)
    places = np.array([[20.5, 20.5], [60.5, 32.5], [3.5, 3.5]], np.float32)
    for y, x in (places - 3.5).astype(int):
        image[:, y : y + 8, x : x + 8] = cell
    found = crops(image, places, np.full(3, 16.0, np.float32), 24, padding="zero")
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    np.testing.assert_allclose(found[0], found[2], atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_an_image_twice_as_large_gives_the_same_crops(seed):
    rng = np.random.default_rng(seed)
    image = np.kron(noise(rng, (1, 12, 12)), np.ones((1, 8, 8), np.float32))
    large = np.kron(image, np.ones((1, 2, 2), np.float32))
    point = rng.uniform(30, 60, 2)
    small = one(image, point, 48.0, 12)
    twice = one(large, (point + 0.5) * 2 - 0.5, 96.0, 12)
    np.testing.assert_allclose(small, twice, atol=1e-5)


def test_what_shrinks_is_averaged_and_not_skipped():
    board = np.indices((256, 256)).sum(axis=0, dtype=np.float32)[None] % 2
    crop = one(board, (127.5, 127.5), 200.0, 16)
    np.testing.assert_allclose(crop, 0.5, atol=0.01)


def test_crops_do_not_depend_on_their_company(rng):
    image = noise(rng)
    points = rng.uniform(0, 50, (20, 2)).astype(np.float32)
    sides = rng.uniform(5, 150, 20).astype(np.float32)
    together = crops(image, points, sides, 16)
    alone = [crops(image, points[i : i + 1], sides[i : i + 1], 16)[0] for i in range(20)]
    np.testing.assert_array_equal(together, np.stack(alone))


@pytest.mark.parametrize("seed", range(5))
def test_the_window_of_crops_holds_all_they_see(seed):
    rng = np.random.default_rng(seed)
    image = noise(rng, (1, 700, 900))
    points = (rng.uniform(0, 150, (6, 2)) + rng.uniform(0, (650, 850), 2)).astype(np.float32)
    sides = rng.uniform(10, 120, 6).astype(np.float32)
    rows, columns = window_of(points, sides, (700, 900))
    corner = np.array([rows.start, columns.start], np.float32)
    part = crops(image[:, rows, columns], points - corner, sides, 24)
    np.testing.assert_allclose(part, crops(image, points, sides, 24), atol=1e-5)
    assert rows.stop - rows.start < 700
    assert columns.stop - columns.start < 900


def test_no_cells_give_no_crops():
    none = np.zeros((0,), np.float32)
    assert crops(np.ones((3, 9, 9), np.float32), none.reshape(0, 2), none, 8).shape == (0, 3, 8, 8)


def test_one_pixel_is_an_image():
    assert np.all(one(np.ones((1, 1, 1), np.float32), (0, 0), 50.0, 8) == 1)


def test_unknown_padding_is_refused():
    with pytest.raises(SettingsError, match=r"one of .*zero.*edge.*; got 'mirror'"):
        one(np.ones((1, 4, 4), np.float32), (1, 1), 2.0, 2, padding="mirror")


def test_extents_come_from_boxes_then_areas_then_the_default():
    boxes = np.array([[[5, 0, 0], [6, 10, 30]], [[0, 4, 4], [0, 4, 4]], [[0, 4, 4], [0, 4, 4]]], np.float32)
    areas = np.array([9.0, np.pi * 100, 0.0], np.float32)
    np.testing.assert_allclose(extents_of(boxes, areas, 12.0), [30, 20, 12], rtol=1e-6)
    assert np.isnan(extents_of(boxes, areas)[2])


def test_sizes_are_told_against_the_typical_cell():
    extents = np.array([10, 20, 40, np.nan], np.float32)
    assert typical_extent(extents) == 20
    np.testing.assert_allclose(relative_sizes(extents[:3], 20.0), [-1, 0, 1])
    assert relative_sizes(np.array([1e9], np.float32), 20.0) == 3
    assert typical_extent(np.full(2, np.nan, np.float32)) == 1
