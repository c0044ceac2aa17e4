"""A label image cut into blocks of whole cells, so that large ones are measured piece by piece.

Every cell belongs to the block its box has its middle in; the window of a block holds all its cells whole,
and a margin around them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import CHANNEL, Cells, Image, Labels
from cellwright.core.errors import AxesError
from cellwright.ops.geometry.intensity import GAP_PX, bridged
from cellwright.ops.geometry.tiles import window_between

BLOCK_PX = 1024


@dataclass(frozen=True, slots=True)
class CellBlock:
    """Some cells of one frame."""

    lead: tuple[int, ...]  # which frame: the indices before its spatial axes
    window: tuple[slice, ...]  # where it lies in the frame
    rows: NDArray[np.intp]  # (n,): row ``rows[i]`` is ``rows[i] + 1`` in ``labels`` and ``i + 1`` in ``own``
    labels: Labels  # the window of the label image, with other cells
    own: Labels  # the same with 0 for cells of other blocks and 1..n for those of this one

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, image: Image, channel: int) -> NDArray[np.floating | np.integer]:
        """Return the pixels of one channel in this window; narrow gaps are bridged, as for the count."""
        reach = GAP_PX if np.dtype(image.data.dtype).kind == "f" else 0
        around = [
            slice(max(part.start - reach, 0), min(part.stop + reach, image.lengths[axis]))
            for axis, part in zip("YX", self.window[-2:], strict=True)
        ]
        place: list[int | slice] = [*self.lead, *self.window[:-2], *around]
        if CHANNEL in image.axes:
            place.insert(image.axes.index(CHANNEL), channel)
        pixels = bridged(np.asarray(image.data[tuple(place)]))
        rows, columns = (
            slice(own.start - one.start, own.stop - one.start)
            for own, one in zip(self.window[-2:], around, strict=True)
        )
        return pixels[..., rows, columns]


def blocks(cells: Cells, ndim: int, margins: Sequence[int], block_px: int = BLOCK_PX) -> Iterator[CellBlock]:
    """Yield the blocks of all frames, at least one.

    Row ``i`` of the cells is label ``i + 1`` and lies in one frame; a cell has ``ndim`` spatial axes. A
    window holds at least ``margins`` pixels around its cells along each of them, as far as the frame reaches.
    """
    assert cells.labels is not None
    first = np.floor(cells.boxes[:, 0]).astype(np.intp)
    stop = np.ceil(cells.boxes[:, 1]).astype(np.intp)
    n_lead = cells.labels.ndim - ndim
    middle = (first[:, -2:] + stop[:, -2:]) // 2 // block_px
    keys = np.concatenate([first[:, :n_lead], middle], axis=1)
    present = np.flatnonzero(cells.areas > 0)
    order = present[np.lexsort(keys[present].T[::-1])]
    if not len(order):  # one of no cells, from which it is known what a cell would have told
        empty = np.zeros((1,) * ndim, np.int32)
        yield CellBlock((0,) * n_lead, (slice(0, 1),) * ndim, order, empty, empty)
        return
    ends = np.flatnonzero((keys[order][1:] != keys[order][:-1]).any(axis=1)) + 1
    for rows in np.split(order, ends):
        lead = tuple(first[rows[0], :n_lead].tolist())
        low = np.maximum(first[rows][:, n_lead:].min(axis=0) - margins, 0)
        high = np.minimum(stop[rows][:, n_lead:].max(axis=0) + margins, cells.labels.shape[n_lead:])
        window = window_between(low, high)
        place: tuple[int | slice, ...] = (*lead, *window)
        part = np.asarray(cells.labels[place])
        numbers = np.zeros(max(int(part.max(initial=0)), int(rows.max()) + 1) + 1, np.int32)
        numbers[rows + 1] = np.arange(1, len(rows) + 1)
        yield CellBlock(lead, window, rows, part, numbers[part])


def n_channels(image: Image) -> int:
    """Return the number of channels, 1 where there is no such axis."""
    return image.lengths.get(CHANNEL, 1)


def numbers_in_file(image: Image) -> tuple[int, ...]:
    """Return the number that each channel has in its file, which an image of one of them knows."""
    if image.source_part is not None and isinstance(image.source_part[1], int):
        return (image.source_part[1],)
    return tuple(range(n_channels(image)))


def cropped(image: Image, offset: Sequence[int], shape: Sequence[int]) -> Image:
    """Return the part of an image that labels of this shape, counted at this offset, belong to.

    An image that has that shape already stays as it is; leading axes of length 1 that the labels lack do
    not matter.

    AxesError where the labels do not fit into the image.
    """
    own = image.label_shape
    n_missing = len(own) - len(shape)
    if n_missing < 0 or any(n != 1 for n in own[:n_missing]):
        raise misfit(image, shape)
    lengths = (*own[:n_missing], *shape)
    if lengths == own:
        return image
    starts = (*(0 for _ in range(n_missing)), *(offset or (0,) * len(shape)))
    if any(start + n > whole for start, n, whole in zip(starts, lengths, own, strict=True)):
        raise misfit(image, shape)
    parts = {
        axis: slice(start, start + n)
        for axis, start, n in zip(image.label_axes, starts, lengths, strict=True)
    }
    data = image.data[tuple(parts.get(axis, slice(None)) for axis in image.axes)]
    return replace(image, data=data)


def misfit(image: Image, shape: Sequence[int]) -> AxesError:
    """Return the error that labels of this shape are not those of an image."""
    return AxesError(
        f"The labels must fit the image {image.name!r} of {image.label_shape} pixels; got {tuple(shape)}. "
        "Give the image the cells were counted in."
    )
