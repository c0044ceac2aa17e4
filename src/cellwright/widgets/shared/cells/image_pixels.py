"""Notices that an image has other pixels than those in which its cells were found or measured.

It looks when napari tells of other data or redraws a slice that is in sight. Pixels in memory are known by
their checksum, which is made beside the viewer; those that lie in files by the array that reads them.
"""

from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Layer
from qtpy.QtCore import QObject, Signal

from cellwright.core.data import CHANNEL, Image
from cellwright.core.errors import CellwrightError
from cellwright.core.tasks import Task, once
from cellwright.files.images import read_images
from cellwright.widgets.shared.edited_layers import checksum
from cellwright.widgets.shared.jobs import LayerJobs
from cellwright.widgets.shared.napari_private import slice_in_sight

READ_MS = 250
OTHER_THAN_FILE = (
    "The image in the viewer differs from its file, and this counts the file. Save the image, and count that."
)
PIXELS = "pixels"  # key in the metadata of layers of cells: mark of the pixels they were counted in

_marks: WeakKeyDictionary[Layer, int] = WeakKeyDictionary()


def mark_of_pixels(data: Any) -> int:
    """Return a number that other pixels do not have, of a pyramid its largest; slow for many in memory."""
    if isinstance(data, Sequence):
        data = data[0]
    if isinstance(data, np.ndarray) and not isinstance(data, np.memmap):
        return checksum(data)
    return id(data)


def mark_of(layer: Layer) -> int | None:
    """Return the mark of the pixels that an image had when it was looked at last; None if it never was."""
    return _marks.get(layer)


def has_other_pixels(layer: Layer, mark: int | None) -> bool:
    """Return whether an image is known to have other pixels than those of a mark."""
    known = mark_of(layer)
    return mark is not None and known is not None and known != mark


def have_changed(images: Iterable[tuple[Any, int | None]]) -> bool:
    """Return whether pixels are no longer those of their mark, where that is known; slow for many."""
    return any(mark is not None and mark_of_pixels(data) != mark for data, mark in images)


def differs_from_file(image: Image) -> bool:
    """Return whether an image in memory has other pixels than its file; slow.

    What the file has in other axes cannot be compared, and is not said to differ.
    """
    data = image.data
    if not image.source or not isinstance(data, np.ndarray) or isinstance(data, np.memmap):
        return False
    try:
        file = next(iter(read_images(image.source)))
        pixels = file.read()
    except (CellwrightError, StopIteration):  # whoever counts the file is told
        return False
    parts = [pixels]
    if CHANNEL in file.axes:
        at = file.axes.index(CHANNEL)
        parts += [np.moveaxis(pixels, at, -1), *np.moveaxis(pixels, at, 0)]
    alike = [np.squeeze(one) for one in parts if np.squeeze(one).shape == np.squeeze(data).shape]
    is_same = (np.array_equal(one, np.squeeze(data), equal_nan=True) for one in alike)
    return bool(alike) and not any(is_same)


class ImagePixels(QObject):
    """Watches images of a viewer, and tells when one has other pixels than before."""

    changed = Signal(object)  # the Image layer

    def __init__(self, parent: QObject, viewer: Any) -> None:
        super().__init__(parent)
        self._viewer = ref(viewer)
        self._steps: WeakKeyDictionary[Layer, tuple[int, ...]] = WeakKeyDictionary()
        self._jobs = LayerJobs(self, READ_MS, _mark_task, returned=self._on_marked)
        self.look_at = self._jobs.add  # looks soon whether an image has other pixels

    @property
    def is_busy(self) -> bool:
        """Whether an image is being looked at, or is to be."""
        return self._jobs.is_busy

    def watch(self, layer: ImageLayer) -> None:
        """Look at an image whenever it may have other pixels. Cheap to repeat."""
        if layer not in self._steps:
            self._steps[layer] = slice_in_sight(self._viewer())
            layer.events.data.connect(self._on_changed)
            layer.events.set_data.connect(self._on_changed)

    def note(self, layer: ImageLayer, mark: int | None) -> None:
        """Take the mark of what was counted just now, and look whether the image still has these pixels."""
        if mark is not None:
            _marks[layer] = mark
            self.watch(layer)
            self.look_at(layer)

    def _on_changed(self, event: Any) -> None:
        layer, viewer = event.source, self._viewer()
        if viewer is None:
            return
        step = slice_in_sight(viewer)
        is_another_slice, self._steps[layer] = step != self._steps[layer], step
        if event.type != "set_data" or not is_another_slice:
            self.look_at(layer)

    def _on_marked(self, layer: Layer, mark: int) -> None:
        known, _marks[layer] = mark_of(layer), mark
        if known not in (None, mark):
            self.changed.emit(layer)


def _mark_task(layer: Layer) -> Task[int]:
    data = layer.data
    return once("pixels", lambda: mark_of_pixels(data))
