import itertools

import numpy as np
import pytest

from cellwright.ops.geometry.tiles import Layout, grid, pad, split_tile

SHAPES = [(1, 1), (7, 300), (64, 64), (65, 63), (129, 257), (200, 31)]
LAYOUTS = list(itertools.product([20, 32, 50, 128], [0, 5, 40], [1, 8, 32]))


@pytest.mark.parametrize("shape", SHAPES)
def test_cores_partition_the_frame(shape):
    for core, halo, divisor in LAYOUTS:
        counts = np.zeros(shape, int)
        for tile in grid(Layout(shape, core, halo, divisor)):
            counts[tile.core] += 1
        assert (counts == 1).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_windows_hold_core_and_halo_on_the_grid_of_the_divisor(shape):
    for core, halo, divisor in LAYOUTS:
        for tile in grid(Layout(shape, core, halo, divisor)):
            assert tile.core_px <= max(core, divisor)
            assert all(length % divisor == 0 for length in tile.shape)
            for axis in range(2):
                inner, window = tile.core[axis], tile.read[axis]
                assert window.start % divisor == 0
                assert window.start == 0 or inner.start - window.start >= halo
                assert window.stop == shape[axis] or window.stop - inner.stop >= halo
                assert tile.pad[axis] == 0 or window.stop == shape[axis]


@pytest.mark.parametrize("shape", SHAPES)
def test_windows_see_what_the_whole_frame_would_show(rng, shape):
    for core, halo, divisor in LAYOUTS:
        frame = rng.random(shape)
        (whole,) = grid(Layout(shape, max(shape) + divisor, halo, divisor))
        padded = pad(frame, whole)
        for tile in grid(Layout(shape, core, halo, divisor)):
            window = pad(frame[tile.read], tile)
            assert window.shape == tile.shape
            corner = [part.start for part in tile.read]
            same = padded[
                tuple(slice(at, at + length) for at, length in zip(corner, tile.shape, strict=True))
            ]
            assert np.array_equal(window, same)
            assert np.array_equal(window[tile.local], frame[tile.core])


def test_a_frame_no_longer_than_a_core_is_one_tile():
    (tile,) = grid(Layout((2048, 1000), 2048, 160, 16))
    assert (tile.shape, tile.pad) == ((2048, 1008), (0, 8))


def test_tiles_are_of_even_size():
    rows = [tile.core[0] for tile in grid(Layout((2100, 100), 2048, 64, 16))]
    assert [part.stop - part.start for part in rows] == [1056, 1044]


@pytest.mark.parametrize("shape", SHAPES)
def test_split_partitions_the_core(shape):
    for core, halo, divisor in LAYOUTS:
        for tile in grid(Layout(shape, core, halo, divisor)):
            counts = np.zeros(shape, int)
            for part in split_tile(tile, Layout(shape, max(core // 2, 1), halo, divisor)):
                counts[part.core] += 1
            assert (counts[tile.core] == 1).all()
            assert counts.sum() == counts[tile.core].size


def test_padding_mirrors_the_edge():
    (tile,) = grid(Layout((3, 2), 8, 0, 4))
    assert np.array_equal(
        pad(np.array([[1, 2], [3, 4], [5, 6]]), tile)[:, 1:], [[2, 1, 2], [4, 3, 4], [6, 5, 6], [4, 3, 4]]
    )
