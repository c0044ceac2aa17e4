"""Which of our layers a user has changed by hand: these are never written over and never removed.

A layer that a count has made is watched. What is painted into it, and points or boxes that come, move or go,
mark its metadata; so does whatever gives it other data. Marked layers no longer belong to the count: the next
one makes a layer of its own beside them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary, ref

from napari.layers import Labels, Layer

METADATA = "cellwright"
EDITED = "edited"  # key in the metadata of a layer of ours


class _Watch:
    """Marks a layer as edited when somebody changes it; :func:`our_change` is no edit."""

    def __init__(self, layer: Layer) -> None:
        self._layer = ref(layer)
        self.is_ours = False
        layer.events.data.connect(self._on_changed)
        if isinstance(layer, Labels):
            layer.events.paint.connect(self._on_changed)

    def _on_changed(self, _: Any = None) -> None:
        layer = self._layer()
        if layer is not None and not self.is_ours:
            mark_edited(layer)


_watches: WeakKeyDictionary[Layer, _Watch] = WeakKeyDictionary()  # a watch lives as long as its layer


def watch(layer: Layer) -> None:
    """Notice from now on what is changed in a layer by hand."""
    if layer not in _watches:
        _watches[layer] = _Watch(layer)


def mark_edited(layer: Layer) -> None:
    """Keep a layer of ours as the user has changed it."""
    own = layer.metadata.get(METADATA)
    if isinstance(own, dict):
        layer.metadata = {**layer.metadata, METADATA: {**own, EDITED: True}}


def is_edited(layer: Layer) -> bool:
    """Return whether a layer of ours was changed by hand."""
    own = layer.metadata.get(METADATA)
    return isinstance(own, dict) and bool(own.get(EDITED))


@contextmanager
def our_change(layer: Layer) -> Iterator[None]:
    """Change a layer that is watched without marking it as edited."""
    watched = _watches.get(layer)
    if watched is None:
        yield
        return
    watched.is_ours = True
    try:
        yield
    finally:
        watched.is_ours = False
