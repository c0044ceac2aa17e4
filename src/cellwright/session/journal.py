"""The journal of a session: everything needed to have it back after the program was killed.

::

    magic | start | edit | edit | undo | edit | ...        each record: length, checksum, content
            labels as they were first, image, facts

A record is handed to the operating system before its edit counts as done, so that a killed program loses the
edit in hand at most. A record that is cut short or damaged ends the journal: what is before it is taken.
Voxels are stored after the edit only; what was there before follows from the records before.

A journal belongs to one session at a time: ``.<name>.lock`` beside it is locked while a session has it open.
"""

import hashlib
import json
import os
import struct
import time
import weakref
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellwright.errors import ReadError, WriteError
from cellwright.io.files import written_whole
from cellwright.io.lock import Lock, take
from cellwright.ops.change import Box
from cellwright.ops.normalize import sample_steps
from cellwright.session.command import Command, Extras, Facts, FactsChange
from cellwright.types import Image, Labels

MAGIC = b"cellwright journal 1\n"
HEAD = struct.Struct("<QI")  # bytes of the content, their CRC-32
META = struct.Struct("<I")  # bytes of the JSON at the beginning of the content
SYNC_SECONDS = 1.0  # how often the disk itself is waited for: a power cut may take this much
FINGERPRINT_PIXELS = 1 << 14

Step = Literal["undo", "redo"]


@dataclass(frozen=True, slots=True)
class ImageIdentity:
    """By what an image is known again. Made by :func:`identity_of`; used by the journal."""

    name: str
    shape: tuple[int, ...]
    axes: str
    pixel_size_um: tuple[float, ...]
    fingerprint: str  # of some of its pixels


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """A session before its first edit: the first record of a journal."""

    image: ImageIdentity
    labels: Labels
    facts: Mapping[int, Facts] = field(default_factory=dict)
    extras: Extras = field(default_factory=Extras)


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """An edit read back: the voxels after it, and the rest before and after."""

    name: str
    boxes: tuple[tuple[Box, Labels], ...]
    facts: Mapping[int, FactsChange]
    extras: tuple[Extras, Extras] | None


@dataclass(frozen=True, slots=True, eq=False)
class Recovered:
    """What a journal holds. Made by :func:`read_journal`; used to open a session again.

    ``n_bytes`` is where its last whole record ends, ``is_whole`` whether nothing came after that.
    """

    start: Start
    records: tuple[Edit | Step, ...]
    n_bytes: int
    is_whole: bool


class Journal:
    """An open journal that takes one record after the other, and the lock that keeps others off it."""

    def __init__(self, path: Path, n_bytes: int, lock: Lock) -> None:
        self.path = path
        self._lock = lock
        self._end = n_bytes
        self._synced = 0.0
        with _writing(path):
            self._file = path.open("r+b", buffering=0)
            self._file.truncate(n_bytes)
            self._file.seek(n_bytes)
        weakref.finalize(self, self._file.close)  # where nobody closes the session

    @classmethod
    def create(cls, path: Path, start: Start) -> "Journal":
        """Return a new journal that holds the start alone.

        Raises
        ------
        WriteError
            There is a file already, another session has it open, or the folder cannot be written.
        """
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path) as lock:
            if path.exists():
                raise WriteError(
                    f"A new journal needs a name that is free; {path} is there. Open it to go on where it "
                    "ended, or remove it."
                )
            content = MAGIC + _record(_start_content(start))
            with written_whole(path) as part:
                part.write_bytes(content)
            return cls(path, len(content), lock)

    def append(self, entry: Command | Step) -> None:
        """Write one record; when this returns the operating system has it.

        Raises
        ------
        WriteError
            The disk is full or gone; the journal is as it was before.
        """
        record = _record(_content(entry))
        with _writing(self.path):
            try:
                self._write(record)
            except OSError:
                with suppress(OSError):
                    self._file.truncate(self._end)
                    self._file.seek(self._end)
                raise
        self._end += len(record)

    def close(self) -> None:
        """Let go of the file once the disk has it."""
        if not self._file.closed:
            with suppress(OSError):
                os.fsync(self._file.fileno())
            self._file.close()
        self._lock.release()

    def _write(self, record: bytes) -> None:
        rest = memoryview(record)
        while rest:
            rest = rest[self._file.write(rest) :]
        now = time.monotonic()
        if now - self._synced > SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = now


@contextmanager
def locked(path: Path) -> Iterator[Lock]:
    """Give the lock of a journal to the block, to keep or to release; one that fails does not keep it.

    Raises
    ------
    WriteError
        Another session has the journal open, or its folder cannot be written.
    """
    lock = take(_lock_path(path))
    if lock is None:
        raise WriteError(
            f"The annotation {path.stem} must not be open anywhere else; another window or program has it. "
            "Finish it there to go on here, or duplicate the image's layer and annotate that."
        )
    try:
        yield lock
    except BaseException:
        lock.release()
        raise


def is_open(path: Path) -> bool:
    """Return whether a session has a journal open, in this program or in another."""
    lock = take(_lock_path(path))
    if lock is not None:
        lock.release()
    return lock is None


def _lock_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def read_journal(path: Path) -> Recovered:
    """Return what a journal holds up to its last whole record.

    Raises
    ------
    ReadError
        The file is missing, is no journal, or is damaged before its first edit.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ReadError(
            f"Expected a journal at {path}; got: {error.strerror or error}. Choose another file."
        ) from error
    if not data.startswith(MAGIC):
        raise ReadError(f"Expected a journal at {path}; got another kind of file. Choose another file.")
    contents, n_bytes = [], len(MAGIC)
    for content in _contents(data):
        contents.append(content)
        n_bytes += HEAD.size + len(content)
    try:
        start = _read_start(contents[0])
        records = tuple(_read_entry(content) for content in contents[1:])
    except (IndexError, KeyError, TypeError, ValueError, struct.error, zlib.error) as error:
        raise ReadError(
            f"Expected a whole journal at {path}; got a damaged one ({error!r}). Begin a new session."
        ) from error
    return Recovered(start, records, n_bytes, n_bytes == len(data))


def rewrite(path: Path, recovered: Recovered, done: Sequence[Command], undone: Sequence[Command]) -> int:
    """Replace a journal by one without what no undo or redo can reach; return its length in bytes.

    Parameters
    ----------
    done, undone
        Commands in the order in which they were done; those that a redo would do come last.
    """
    parts = [MAGIC, _record(_start_content(recovered.start))]
    parts += [_record(_content(command)) for command in (*done, *undone)]
    parts += [_record(_content("undo"))] * len(undone)
    content = b"".join(parts)
    with written_whole(path) as part:
        part.write_bytes(content)
    return len(content)


def identity_of(image: Image) -> ImageIdentity:
    """Return by what an image is known again: name, shape, axes, pixel size and some of its pixels."""
    steps = sample_steps(image.shape, FINGERPRINT_PIXELS)
    sample = np.ascontiguousarray(image.data[tuple(slice(None, None, step) for step in steps)])
    digest = hashlib.sha256(str(sample.dtype).encode() + sample.tobytes()).hexdigest()[:16]
    sizes = tuple(float(size) for size in image.pixel_size_um)
    return ImageIdentity(image.name, tuple(map(int, image.shape)), image.axes, sizes, digest)


class _writing:
    """Turns an error of the operating system into one that says what to do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise WriteError(
                f"Expected to write the journal {self.path}; got: {error.strerror or error}. The edit was "
                "not done. Make room on the disk, or save to another folder."
            ) from error


def _record(content: bytes) -> bytes:
    return HEAD.pack(len(content), zlib.crc32(content)) + content


def _contents(data: bytes) -> Iterator[bytes]:
    """Yield the content of each whole record, up to the first that is not."""
    at = len(MAGIC)
    while at + HEAD.size <= len(data):
        length, checksum = HEAD.unpack_from(data, at)
        content = data[at + HEAD.size : at + HEAD.size + length]
        if len(content) != length or zlib.crc32(content) != checksum:
            return
        yield content
        at += HEAD.size + length


def _joined(meta: Mapping[str, Any], arrays: Sequence[Labels]) -> bytes:
    packed = [_pack(array) for array in arrays]
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


def _pack(labels: Labels) -> bytes:
    """Return the runs of equal voxels, compressed; finding runs is faster than leaving it all to zlib."""
    flat = labels.reshape(-1)
    firsts = np.concatenate(
        [np.zeros(min(1, flat.size), np.int64), np.flatnonzero(flat[1:] != flat[:-1]) + 1]
    )
    lengths = np.diff(firsts, append=flat.size).astype("<i8")
    return zlib.compress(lengths.tobytes() + flat[firsts].astype("<i4").tobytes(), 1)


def _unpack(packed: bytes, shape: Sequence[int]) -> Labels:
    data = zlib.decompress(packed)
    n_runs = len(data) // 12
    lengths = np.frombuffer(data, "<i8", n_runs)
    values: NDArray[np.int32] = np.frombuffer(data, "<i4", n_runs, 8 * n_runs).astype(np.int32)
    return np.repeat(values, lengths).reshape(shape)


def _start_content(start: Start) -> bytes:
    image = start.image
    meta = {
        "image": [image.name, image.shape, image.axes, image.pixel_size_um, image.fingerprint],
        "shape": start.labels.shape,
        "facts": {str(number): facts for number, facts in start.facts.items()},
        "extras": _extras_out(start.extras),
    }
    return _joined(meta, [start.labels])


def _read_start(content: bytes) -> Start:
    meta, packed = _parted(content)
    name, shape, axes, pixel_size_um, fingerprint = meta["image"]
    identity = ImageIdentity(name, tuple(shape), axes, tuple(pixel_size_um), fingerprint)
    facts = {int(number): Facts(*values) for number, values in meta["facts"].items()}
    return Start(identity, _unpack(packed[0], meta["shape"]), facts, _extras_in(meta["extras"]))


def _content(entry: Command | Step) -> bytes:
    if isinstance(entry, str):
        return _joined({"step": entry}, [])
    meta = {
        "name": entry.name,
        "boxes": [_box_out(change.box) for change in entry.changes],
        "facts": {str(number): pair for number, pair in entry.facts.items()},
        "extras": None if entry.extras is None else [_extras_out(one) for one in entry.extras],
    }
    return _joined(meta, [change.after for change in entry.changes])


def _read_entry(content: bytes) -> Edit | Step:
    meta, packed = _parted(content)
    if "step" in meta:
        return "undo" if meta["step"] == "undo" else "redo"
    boxes = [_box_in(box) for box in meta["boxes"]]
    shapes = [[part.stop - part.start for part in box] for box in boxes]
    arrays = [_unpack(one, shape) for one, shape in zip(packed, shapes, strict=True)]
    facts = {int(number): (_facts_in(a), _facts_in(b)) for number, (a, b) in meta["facts"].items()}
    extras = meta["extras"]
    pair = None if extras is None else (_extras_in(extras[0]), _extras_in(extras[1]))
    return Edit(meta["name"], tuple(zip(boxes, arrays, strict=True)), facts, pair)


def _facts_in(values: Sequence[Any] | None) -> Facts | None:
    return None if values is None else Facts(*values)


def _extras_out(extras: Extras) -> list[Any]:
    return [[_box_out(box) for box in extras.regions], extras.class_names, extras.has_masks]


def _extras_in(values: Sequence[Any]) -> Extras:
    regions, class_names, has_masks = values
    return Extras(tuple(_box_in(box) for box in regions), tuple(class_names), bool(has_masks))


def _box_out(box: Box) -> list[list[int]]:
    return [[int(part.start), int(part.stop)] for part in box]


def _box_in(pairs: Sequence[Sequence[int]]) -> Box:
    return tuple(slice(start, stop) for start, stop in pairs)
