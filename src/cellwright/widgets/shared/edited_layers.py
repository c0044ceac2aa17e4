"""Which of our layers a user has changed by hand: these are never written over and never removed.

A layer that a count has made is watched. What is painted into it, and points or boxes that come, move or go,
mark its metadata; so does whatever gives it other data. What no event tells, pixels written by a script and
values of its features, is found by comparison. Marked layers no longer belong to the count, and copies of a
layer never do: the next count makes a layer of its own beside them.
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeGuard
from weakref import WeakKeyDictionary, ref

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Shapes
from numpy.typing import NDArray

from cellwright.core.data import Provenance

if TYPE_CHECKING:
    import pandas

METADATA = "cellwright"
COUNT = ("model", "checkpoint_sha256", "seconds", "image_name")  # in a provenance: tells counts apart
EDITED = "edited"  # key in the metadata of a layer of ours, and column of the features of cells
ASKED = "asked_cells"  # in the settings of the provenance: how many cells were added by click
JOURNAL = "journal"  # key of the path of the journal that takes what is annotated
WRITTEN = "cellwright features"  # key in the metadata of any layer: columns of its features that are ours
RESUMED = "resumed"  # key of whether it was there before, until a panel has taken up what lies beside it
CONTENT = "content"  # key of the checksum of Labels that are not in a viewer yet: no work for the GUI thread
BLOCK_BYTES = 1 << 24  # of a checksum; blocks are read side by side
OWNER = "layer"  # key of the unique_id of the layer that the metadata was made for; in a copy it is another
ACTIVE_KEPT = ContextVar("active_kept", default=False)  # a layer is made the active one again, not chosen


def metadata_of(layer: Layer) -> dict[str, Any]:
    """Return what we have noted of a layer; nothing where it is none of ours."""
    own = layer.metadata.get(METADATA)
    return own if isinstance(own, dict) else {}


def is_image(layer: Layer) -> TypeGuard[ImageLayer]:
    """Return whether a layer is an image to count in, and not what we made of one."""
    return isinstance(layer, ImageLayer) and METADATA not in layer.metadata


def likely_image(cells: Layer, images: Sequence[ImageLayer], layers: Sequence[Layer]) -> ImageLayer:
    """Return to which of some images cells belong that do not tell: by its name in theirs, else by place.

    By place it is the image next below them among the layers of a viewer, else the next above.
    """
    named = [one for one in images if re.search(rf"(?<![^\W_]){re.escape(one.name)}(?![^\W_])", cells.name)]
    if named:
        return max(named, key=lambda one: len(one.name))
    order = list(layers)
    place = order.index(cells) if cells in order else len(order)
    below = [one for one in images if order.index(one) < place]
    return max(below, key=order.index) if below else min(images, key=order.index)


def is_shapes(layer: Layer) -> bool:
    """Return whether a layer can hold regions that somebody drew."""
    return isinstance(layer, Shapes) and METADATA not in layer.metadata


class _Watch:
    """Marks a layer as edited when somebody changes it; :func:`our_change` is no edit."""

    def __init__(self, layer: Layer, content: int | None) -> None:
        self._layer = ref(layer)
        self.is_ours = False
        self.note(content)
        layer.events.data.connect(self._on_changed)
        if isinstance(layer, Labels):
            layer.events.paint.connect(self._on_changed)

    @property
    def _compared(self) -> Layer | None:
        """The layer if its content is compared: densities and colours are not edited, and may be lazy."""
        layer = self._layer()
        return None if isinstance(layer, ImageLayer) else layer

    def note(self, content: int | None) -> None:
        """Take what is in the layer now for what the count has put there; its checksum may be known."""
        if self._compared is not None:
            self._checksum = _checksum(self._compared) if content is None else content
            self.note_features()

    def note_features(self) -> None:
        """Take the features that are there now for ours."""
        if self._compared is not None:
            self._features = self._compared.features.copy()

    def has_features(self) -> bool:
        """Return whether the features are as they were; new columns are no change."""
        layer = self._compared
        if layer is None:
            return True
        names = list(self._features)
        return set(names) <= set(layer.features) and bool(layer.features[names].equals(self._features))

    def is_unchanged(self) -> bool:
        """Return whether pixels, coordinates and features are as they were."""
        layer = self._compared
        return layer is None or (self.has_features() and self._checksum == _checksum(layer))

    def _on_changed(self, _: Any = None) -> None:
        layer = self._layer()
        if layer is not None and not self.is_ours:
            mark_edited(layer)


_watches: WeakKeyDictionary[Layer, _Watch] = WeakKeyDictionary()  # a watch lives as long as its layer


def watch(layer: Layer) -> None:
    """Notice from now on what is changed in a layer by hand."""
    own = {**layer.metadata[METADATA], OWNER: str(layer.unique_id)}
    content = own.pop(CONTENT, None)  # true but once: later it may hold something else
    layer.metadata = {**layer.metadata, METADATA: own}
    if layer in _watches:
        _watches[layer].note(content)
    else:
        _watches[layer] = _Watch(layer, content)


def mark_edited(layer: Layer) -> None:
    """Keep a layer of ours as the user has changed it."""
    own = metadata_of(layer)
    if own:
        layer.metadata = {**layer.metadata, METADATA: {**own, EDITED: True}}


def is_edited(layer: Layer) -> bool:
    """Return whether a layer of ours was changed or copied by hand."""
    own, identity = metadata_of(layer), str(layer.unique_id)
    if own.get(EDITED) or own.get(OWNER, identity) != identity:
        return True
    watched = _watches.get(layer)
    return watched is not None and not watched.is_unchanged()


def is_marked(layer: Layer) -> bool:
    """Return whether an event has told of a change by hand; :func:`is_edited` looks at every pixel, too."""
    return bool(metadata_of(layer).get(EDITED))


def own_features(layer: Layer) -> set[str]:
    """Return the columns of the features of a layer that are ours; the others are not to be written over."""
    names = set(map(str, layer.features))
    if WRITTEN in layer.metadata:
        return names & set(layer.metadata[WRITTEN])
    return names if "model" in metadata_of(layer) else set()


def note_written(layer: Layer, names: Iterable[str]) -> None:
    """Take these columns of the features of a layer for ours from now on."""
    layer.metadata = {**layer.metadata, WRITTEN: sorted({*own_features(layer), *map(str, names)})}


def edited_rows(features: "pandas.DataFrame") -> NDArray[np.bool_]:
    """Return which rows of features tell of a cell that was drawn or changed by hand; empty ones do not."""
    if EDITED not in features:
        return np.zeros(len(features), bool)
    return np.asarray(features[EDITED].to_numpy() == True, bool)  # noqa: E712 - of any type


def repeated_rows(features: "pandas.DataFrame") -> NDArray[np.bool_]:
    """Return which rows have no number or that of another: napari gives a new point all that the last has."""
    return np.asarray(features["label"].duplicated() | features["label"].isna(), bool)


def is_of_count(layer: Layer, key: Mapping[str, Any], provenance: Provenance) -> bool:
    """Return whether a count has made a layer with these values in its metadata, which is no copy."""
    own = metadata_of(layer)
    is_same_count = all(own.get(name) == getattr(provenance, name) for name in COUNT)
    return is_same_count and key.items() <= own.items() and own.get(OWNER) == str(layer.unique_id)


def is_same_count(one: Provenance, other: Provenance) -> bool:
    """Return whether two results are of one count, whatever was added to its cells or filtered since."""
    return all(getattr(one, name) == getattr(other, name) for name in COUNT)


def n_asked(own: Mapping[str, Any]) -> int:
    """Return how many cells of a layer were added by click, given its metadata of ours."""
    settings = own.get("settings")
    return int(settings.get(ASKED, 0)) if isinstance(settings, Mapping) else 0


def engine_of(own: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return how the network ran that found the cells of a layer, given its metadata; nothing if none did."""
    return dict((own.get("settings") or {}).get("engine") or {})


def may_follow(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Return whether a layer with new metadata may take the place of one with old metadata.

    Cells that the user has added by click are kept: only the same count with more of them replaces them, and
    a count of nothing but them replaces no other.
    """
    if not n_asked(new):
        return not n_asked(old)
    return n_asked(new) >= n_asked(old) and _count_of(new) == _count_of(old)


def _count_of(own: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(own.get(name) for name in COUNT)


def content_of(layer: Layer) -> int:
    """Return a checksum of what a layer holds and of the classes of its cells, by which it is known again."""
    classes = list(layer.features.get("class", ()))
    return zlib.crc32(repr(classes).encode(), _checksum(layer))


def _checksum(layer: Layer) -> int:
    return checksum(*(layer.data if isinstance(layer, Shapes) else [layer.data]))


def checksum(*parts: Any) -> int:
    """Return a checksum of arrays, their shapes and types; slow for many pixels."""
    found = 0
    with ThreadPoolExecutor() as pool:
        for part in parts:
            values = np.ascontiguousarray(part)
            flat = values.reshape(-1).view(np.uint8)
            blocks = [flat[start : start + BLOCK_BYTES].data for start in range(0, len(flat), BLOCK_BYTES)]
            each = pool.map(zlib.crc32, blocks) if len(blocks) > 1 else map(zlib.crc32, blocks)
            found = zlib.crc32(repr((values.shape, values.dtype, *each)).encode(), found)
    return found


def is_our_change(layer: Layer) -> bool:
    """Return whether what happens to a layer now is done by :func:`our_change`."""
    watched = _watches.get(layer)
    return watched is not None and watched.is_ours


@contextmanager
def our_change(layer: Layer) -> Iterator[None]:
    """Change a layer that is watched without marking it as edited."""
    watched = _watches.get(layer)
    if watched is None:
        yield
        return
    had_ours = watched.has_features()
    watched.is_ours = True
    try:
        yield
    finally:
        watched.is_ours = False
        if had_ours:  # what the user has put there stays theirs
            watched.note_features()
