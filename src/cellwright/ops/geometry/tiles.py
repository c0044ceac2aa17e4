"""Tiles: windows that a network can take, each with the core that it alone is responsible for.

::

    +---------------------------+   read: what the network sees. Its origin is a multiple of the divisor,
    |  halo                     |   so that strided convolutions fall on the same pixels in every tile.
    |    +-----------------+    |
    |    | core            |    |   core: what is kept of the output. The cores partition the frame.
    |    +-----------------+    |
    |                           |   pad: rows and columns mirrored beyond the frame's lower and right edge,
    +---------------------------+   where its size is not a multiple of the divisor.

At the frame's edges a window has no halo, so a tile there ends where the whole frame would, and is padded
as it would be: with a halo as large as the receptive field, tiled equals untiled.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

Window = tuple[slice, ...]  # rows and columns; slices before them where a tile has some


def pieces(length: int, side: int) -> list[slice]:
    """Return spans of ``side`` pixels that cover an axis; the last may be shorter."""
    return [slice(start, min(start + side, length)) for start in range(0, length, side)]


def window_between(first: Iterable[Any], past: Iterable[Any]) -> Window:
    """Return the window from a first to a one-past-last corner, both of whole numbers."""
    return tuple(slice(int(a), int(b)) for a, b in zip(first, past, strict=True))


def padded(window: Window, margin: Sequence[int] | int, shape: Sequence[int]) -> Window:
    """Return a window with a margin in pixels on every side, within the array."""
    if isinstance(margin, int):
        margin = (margin,) * len(window)
    return tuple(
        slice(max(0, part.start - extra), min(length, part.stop + extra))
        for part, extra, length in zip(window, margin, shape, strict=True)
    )


def overlap(corner: Sequence[int], size: Sequence[int], shape: Sequence[int]) -> tuple[Window, Window]:
    """Return where something that begins at ``corner`` lies in an array, and which part of it that is."""
    starts = [min(max(c, 0), n) for c, n in zip(corner, shape, strict=True)]
    stops = [max(min(c + m, n), s) for c, m, n, s in zip(corner, size, shape, starts, strict=True)]
    part = tuple(slice(a - c, b - c) for a, b, c in zip(starts, stops, corner, strict=True))
    return window_between(starts, stops), part


@dataclass(frozen=True, slots=True)
class Tile:
    """One window (rows, columns) of a frame, in pixels."""

    core: Window  # the part of the frame this tile answers for
    read: Window  # core and halo, clipped to the frame
    pad: tuple[int, int] = (0, 0)  # rows and columns to add below and on the right

    @property
    def local(self) -> Window:
        """The core inside the window."""
        return tuple(
            slice(core.start - read.start, core.stop - read.start)
            for core, read in zip(self.core, self.read, strict=True)
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(Y, X) of the padded window."""
        height, width = (read.stop - read.start + pad for read, pad in zip(self.read, self.pad, strict=True))
        return height, width

    @property
    def core_px(self) -> int:
        """Longest side of the core."""
        return max(int(core.stop - core.start) for core in self.core)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a frame is cut."""

    shape: tuple[int, int]  # (Y, X) of the frame in pixels
    core: int  # longest side of a core; made a multiple of the divisor, and at least one divisor
    halo: int = 0  # context on each side; made a multiple of the divisor, and at least one divisor
    divisor: int = 1  # every window starts at a multiple of this and is a multiple of this long


def grid(layout: Layout) -> tuple[Tile, ...]:
    """Return the tiles of a frame, row by row; just one when the frame is no longer than a core."""
    return split_tile(whole_tile(layout.shape), layout)


def whole_tile(shape: tuple[int, int]) -> Tile:
    """Return the tile that is all of a frame (Y, X)."""
    whole = tuple(slice(0, size) for size in shape)
    return Tile(whole, whole)


def split_tile(tile: Tile, layout: Layout) -> tuple[Tile, ...]:
    """Return tiles whose cores, at most ``layout.core`` long, partition the core of ``tile``."""
    rows, columns = (_cut(core, layout) for core in tile.core)
    return tuple(_tile((row, column), layout) for row, column in product(rows, columns))


def pad(window: NDArray[Any], tile: Tile) -> NDArray[Any]:
    """Return the window (..., Y, X) with the rows and columns of ``tile.pad`` mirrored onto it."""
    if tile.pad == (0, 0):
        return window
    widths = [(0, 0)] * (window.ndim - 2) + [(0, extra) for extra in tile.pad]
    return np.pad(window, widths, mode="reflect")


def _cut(span: slice, layout: Layout) -> list[slice]:
    """Cut into pieces of even length, each starting at a multiple of the divisor."""
    length = span.stop - span.start
    longest = max(layout.core // layout.divisor, 1) * layout.divisor
    n = ceil(length / longest)
    step = _round_up(ceil(length / n), layout.divisor)
    return [slice(start, min(start + step, span.stop)) for start in range(span.start, span.stop, step)]


def _tile(core: Window, layout: Layout) -> Tile:
    halo = _round_up(max(layout.halo, 1), layout.divisor)  # mirrored pixels must lie inside the window
    reads, pads = [], []
    for part, size in zip(core, layout.shape, strict=True):
        end = _round_up(size, layout.divisor)
        start = max(part.start - halo, 0)
        stop = min(_round_up(part.stop, layout.divisor) + halo, end)
        reads.append(slice(start, min(stop, size)))
        pads.append(max(stop - size, 0))
    return Tile(core, tuple(reads), (pads[0], pads[1]))


def _round_up(length: int, divisor: int) -> int:
    return -(-length // divisor) * divisor
