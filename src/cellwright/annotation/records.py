"""What a journal holds: the start of a session and its edits, as bytes and back.

::

    content: length of a JSON text | the text | labels it tells of, packed ...

Voxels are stored after the edit only; what was there before follows from the records before.
"""

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellwright.annotation.command import AnnotationMetadata, CellMetadata, Command, FactsChange
from cellwright.annotation.identity import ImageIdentity
from cellwright.core.data import Labels
from cellwright.ops.label_changes import Box

META = struct.Struct("<I")  # bytes of the JSON at the beginning of the content

Step = Literal["undo", "redo"]


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """A session before its first edit: the first record of a journal."""

    image: ImageIdentity
    labels: Labels
    facts: Mapping[int, CellMetadata] = field(default_factory=dict)
    extras: AnnotationMetadata = field(default_factory=AnnotationMetadata)


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """An edit read back: the voxels after it, and the rest before and after."""

    name: str
    boxes: tuple[tuple[Box, Labels], ...]
    facts: Mapping[int, FactsChange]
    extras: tuple[AnnotationMetadata, AnnotationMetadata] | None


def pack_start(start: Start) -> bytes:
    """Return the content of the first record."""
    image = start.image
    meta = {
        "image": [image.name, image.shape, image.axes, image.pixel_size_um, image.fingerprint],
        "shape": start.labels.shape,
        "facts": {str(number): facts for number, facts in start.facts.items()},
        "extras": _extras_out(start.extras),
    }
    return _joined(meta, [start.labels])


def unpack_start(content: bytes) -> Start:
    """Return what the first record holds.

    Raises
    ------
    IndexError, KeyError, TypeError, ValueError, struct.error, zlib.error
        The content is damaged.
    """
    meta, packed = _parted(content)
    name, shape, axes, pixel_size_um, fingerprint = meta["image"]
    identity = ImageIdentity(name, tuple(shape), axes, tuple(pixel_size_um), fingerprint)
    facts = {int(number): CellMetadata(*values) for number, values in meta["facts"].items()}
    return Start(identity, _unpack_labels(packed[0], meta["shape"]), facts, _extras_in(meta["extras"]))


def pack_entry(entry: Command | Step) -> bytes:
    """Return the content of the record of an edit, an undo or a redo."""
    if isinstance(entry, str):
        return _joined({"step": entry}, [])
    meta = {
        "name": entry.name,
        "boxes": [_box_out(change.box) for change in entry.changes],
        "facts": {str(number): pair for number, pair in entry.facts.items()},
        "extras": None if entry.extras is None else [_extras_out(one) for one in entry.extras],
    }
    return _joined(meta, [change.after for change in entry.changes])


def unpack_entry(content: bytes) -> Edit | Step:
    """Return what any record but the first holds.

    Raises
    ------
    IndexError, KeyError, TypeError, ValueError, struct.error, zlib.error
        The content is damaged.
    """
    meta, packed = _parted(content)
    if "step" in meta:
        return "undo" if meta["step"] == "undo" else "redo"
    boxes = [_box_in(box) for box in meta["boxes"]]
    shapes = [[part.stop - part.start for part in box] for box in boxes]
    arrays = [_unpack_labels(one, shape) for one, shape in zip(packed, shapes, strict=True)]
    facts = {int(number): (_facts_in(a), _facts_in(b)) for number, (a, b) in meta["facts"].items()}
    extras = meta["extras"]
    pair = None if extras is None else (_extras_in(extras[0]), _extras_in(extras[1]))
    return Edit(meta["name"], tuple(zip(boxes, arrays, strict=True)), facts, pair)


def _joined(meta: Mapping[str, Any], arrays: Sequence[Labels]) -> bytes:
    packed = [_pack_labels(array) for array in arrays]
    text = json.dumps({**meta, "sizes": [len(one) for one in packed]}, separators=(",", ":")).encode()
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
    data = zlib.decompress(packed)
    n_runs = len(data) // 12
    lengths = np.frombuffer(data, "<i8", n_runs)
    values: NDArray[np.int32] = np.frombuffer(data, "<i4", n_runs, 8 * n_runs).astype(np.int32)
    return np.repeat(values, lengths).reshape(shape)


def _facts_in(values: Sequence[Any] | None) -> CellMetadata | None:
    return None if values is None else CellMetadata(*values)


def _extras_out(extras: AnnotationMetadata) -> list[Any]:
    return [[_box_out(box) for box in extras.regions], extras.class_names, extras.has_masks]


def _extras_in(values: Sequence[Any]) -> AnnotationMetadata:
    regions, class_names, has_masks = values
    return AnnotationMetadata(tuple(_box_in(box) for box in regions), tuple(class_names), bool(has_masks))


def _box_out(box: Box) -> list[list[int]]:
    return [[int(part.start), int(part.stop)] for part in box]


def _box_in(pairs: Sequence[Sequence[int]]) -> Box:
    return tuple(slice(start, stop) for start, stop in pairs)
