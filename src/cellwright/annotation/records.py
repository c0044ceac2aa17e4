"""The records of a journal, as bytes and back: the start of a session, its edits, undo and redo.

::

    content: length of a JSON text | the text | labels it tells of, packed ...

Voxels are stored after the edit only; what was there before follows from the records before.
"""

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellwright.annotation.label_store import AnnotationMetadata, CellMetadata
from cellwright.annotation.setup import ImageIdentity
from cellwright.core.data import CHANNEL, Labels
from cellwright.files.json_value import NO_JSON
from cellwright.files.tables import plain
from cellwright.ops.label_changes import Box, Change

META = struct.Struct("<I")  # bytes of the JSON at the beginning of the content
RUN_BYTES = 12  # of one run of equal voxels: its length and its label
MOST_VOXELS = 1 << 33
# what unpacking a damaged record raises
DAMAGED = (*NO_JSON, IndexError, KeyError, TypeError, OverflowError, struct.error, zlib.error)

Step = Literal["undo", "redo"]
CellChange = tuple[CellMetadata | None, CellMetadata | None]  # before and after
MetadataChange = tuple[AnnotationMetadata, AnnotationMetadata]


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """A session before its first edit: the first record of a journal."""

    image: ImageIdentity
    labels: Labels
    cells: Mapping[int, CellMetadata] = field(default_factory=dict)
    metadata: AnnotationMetadata = field(default_factory=AnnotationMetadata)


@dataclass(frozen=True, slots=True, eq=False)
class Command:
    """One undoable edit: voxels, metadata of cells (by number) and of the whole, each before and after."""

    name: str
    changes: tuple[Change, ...] = ()
    cells: Mapping[int, CellChange] = field(default_factory=dict)
    metadata: MetadataChange | None = None

    def inverse(self) -> "Command":
        """Return the command that takes this one back."""
        changes = tuple(Change(change.box, change.after, change.before) for change in reversed(self.changes))
        cells = {number: (after, before) for number, (before, after) in self.cells.items()}
        metadata = None
        if self.metadata is not None:
            metadata = (self.metadata[1], self.metadata[0])
        return Command(self.name, changes, cells, metadata)


@dataclass(frozen=True, slots=True, eq=False)
class RecordedEdit:
    """An edit read back: the voxels after it, and the rest before and after."""

    name: str
    boxes: tuple[tuple[Box, Labels], ...]
    cells: Mapping[int, CellChange]
    metadata: MetadataChange | None


def pack_start(start: Start) -> bytes:
    """Return the content of the first record."""
    image = start.image
    meta = {
        "image": [image.name, image.shape, image.axes, image.pixel_size_um, image.fingerprint],
        "shape": start.labels.shape,
        "facts": {str(number): cell for number, cell in start.cells.items()},
        "extras": _metadata_out(start.metadata),
    }
    return _joined(meta, [start.labels])


def unpack_start(content: bytes) -> Start:
    """Return what the first record holds; one of DAMAGED is raised where it cannot be."""
    meta, packed = _parted(content)
    name, shape, axes, pixel_size_um, fingerprint = meta["image"]
    identity = ImageIdentity(name, tuple(shape), axes, tuple(pixel_size_um), fingerprint)
    labels = _unpack_labels(packed[0], meta["shape"])
    seen = tuple(n for axis, n in zip(axes, shape, strict=True) if axis != CHANNEL)
    if labels.shape != seen or labels.size == 0:
        raise ValueError(f"labels of shape {labels.shape} for an image of shape {identity.shape}")
    cells = {int(number): CellMetadata(*values) for number, values in meta["facts"].items()}
    return Start(identity, labels, cells, _metadata_in(meta["extras"]))


def pack_entry(entry: Command | Step) -> bytes:
    """Return the content of the record of an edit, an undo or a redo."""
    if isinstance(entry, str):
        return _joined({"step": entry}, [])
    metadata = None
    if entry.metadata is not None:
        metadata = [_metadata_out(one) for one in entry.metadata]
    meta = {
        "name": entry.name,
        "boxes": [_box_out(change.box) for change in entry.changes],
        "facts": {str(number): pair for number, pair in entry.cells.items()},
        "extras": metadata,
    }
    return _joined(meta, [change.after for change in entry.changes])


def unpack_entry(content: bytes) -> RecordedEdit | Step:
    """Return what any record but the first holds; one of DAMAGED is raised where it cannot be."""
    meta, packed = _parted(content)
    if "step" in meta:
        return "undo" if meta["step"] == "undo" else "redo"
    boxes = [_box_in(box) for box in meta["boxes"]]
    arrays = []
    for one, box in zip(packed, boxes, strict=True):
        arrays.append((box, _unpack_labels(one, [part.stop - part.start for part in box])))
    cells = {}
    for number, pair in meta["facts"].items():
        first, second = (None if values is None else CellMetadata(*values) for values in pair)
        cells[int(number)] = (first, second)
    metadata = None
    if meta["extras"] is not None:
        before, after = meta["extras"]
        metadata = (_metadata_in(before), _metadata_in(after))
    return RecordedEdit(meta["name"], tuple(arrays), cells, metadata)


def _joined(meta: Mapping[str, Any], arrays: Sequence[Labels]) -> bytes:
    packed = [_pack_labels(array) for array in arrays]
    whole = {**meta, "sizes": [len(one) for one in packed]}
    text = json.dumps(whole, separators=(",", ":"), default=plain).encode()
    return b"".join([META.pack(len(text)), text, *packed])


def _parted(content: bytes) -> tuple[dict[str, Any], list[bytes]]:
    (length,) = META.unpack_from(content)
    at = META.size + length
    meta: dict[str, Any] = json.loads(content[META.size : at])
    packed = []
    for size in meta["sizes"]:
        packed.append(content[at : at + size])
        at += size
    return meta, packed


def _pack_labels(labels: Labels) -> bytes:
    """Return the runs of equal voxels, compressed; finding runs is faster than leaving it all to zlib."""
    flat = labels.reshape(-1)
    firsts = np.concatenate(
        [np.zeros(min(1, flat.size), np.int64), np.flatnonzero(flat[1:] != flat[:-1]) + 1]
    )
    lengths = np.diff(firsts, append=flat.size).astype("<i8")
    return zlib.compress(lengths.tobytes() + flat[firsts].astype("<i4").tobytes(), 1)


def _unpack_labels(packed: bytes, shape: Sequence[int]) -> Labels:
    n_voxels = prod(shape)
    if min(shape, default=0) < 0 or n_voxels > MOST_VOXELS:
        raise ValueError(f"labels of shape {shape}")
    data = zlib.decompressobj().decompress(packed, RUN_BYTES * n_voxels + 1)  # no run is empty
    n_runs = len(data) // RUN_BYTES
    lengths = np.frombuffer(data, "<i8", n_runs)
    if (lengths < 0).any() or lengths.sum(dtype=object) != n_voxels:
        raise ValueError(f"runs that do not fill {shape}")
    values: NDArray[np.int32] = np.frombuffer(data, "<i4", n_runs, 8 * n_runs).astype(np.int32)
    return np.repeat(values, lengths).reshape(shape)


def _metadata_out(metadata: AnnotationMetadata) -> list[Any]:
    regions = [_box_out(box) for box in metadata.regions]
    found_by, is_part = dict(metadata.found_by), metadata.is_part
    return [regions, metadata.class_names, metadata.has_masks, found_by, is_part]


def _metadata_in(values: Sequence[Any]) -> AnnotationMetadata:
    regions, class_names, has_masks, *later = values  # journals of before end here
    found_by = later[0] if later else {}
    is_part = len(later) > 1 and later[1]
    boxes = tuple(_box_in(box) for box in regions)
    return AnnotationMetadata(boxes, tuple(class_names), bool(has_masks), dict(found_by), bool(is_part))


def _box_out(box: Box) -> list[list[int]]:
    return [[int(part.start), int(part.stop)] for part in box]


def _box_in(pairs: Sequence[Sequence[int]]) -> Box:
    return tuple(slice(start, stop) for start, stop in pairs)
