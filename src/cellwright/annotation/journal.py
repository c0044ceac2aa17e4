"""The journal of a session: everything needed to have it back after the program was killed.

::

    magic | start | edit | edit | undo | edit | ...        each record: length, checksum, content
            labels as they were first, image, metadata of cells

A record is handed to the operating system before its edit counts as done, so that a killed program loses the
edit in hand at most. A record that is cut short or damaged ends the journal: what is before it is taken.

A journal belongs to one session at a time: ``.<name>.lock`` beside it is locked while a session has it open.
"""

import os
import struct
import time
import weakref
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cellwright.annotation.records import (
    DAMAGED,
    Command,
    RecordedEdit,
    Start,
    Step,
    pack_entry,
    pack_start,
    unpack_entry,
    unpack_start,
)
from cellwright.core.errors import ReadError, WriteError, expecting
from cellwright.files.atomic import Lock, acquire_lock, atomic_write, make_folder, writing

MAGIC = b"cellwright journal 1\n"
HEAD = struct.Struct("<QI")  # bytes of the content, their CRC-32
NOT_DONE = "The edit was not done. Make room on the disk, or save to another folder."
SYNC_SECONDS = 1.0  # how often the disk itself is waited for: a power cut may take this much


@dataclass(frozen=True, slots=True, eq=False)
class Recovered:
    """What a journal holds; ``n_bytes`` is where its last whole record ends."""

    start: Start
    records: tuple[RecordedEdit | Step, ...]
    n_bytes: int


class Journal:
    """An open journal that takes one record after the other, and the lock that keeps others off it."""

    def __init__(self, path: Path, n_bytes: int, lock: Lock) -> None:
        self.path = path
        self._lock = lock
        self._end = n_bytes
        self._synced = 0.0
        with writing(path, NOT_DONE):
            self._file = path.open("r+b", buffering=0)
            self._file.truncate(n_bytes)
            self._file.seek(n_bytes)
        weakref.finalize(self, self._file.close)  # where nobody closes the session

    @classmethod
    def create(cls, path: Path, start: Start) -> "Journal":
        """Return a new journal that holds the start alone.

        WriteError where there is a file already, another session has it open, or the folder cannot be
        written.
        """
        make_folder(path.parent)
        with locked(path) as lock:
            if path.exists():
                raise WriteError(
                    f"A new journal needs a name that is free; {path} is there. Open it to go on where it "
                    "ended, or remove it."
                )
            content = MAGIC + _record(pack_start(start))
            with atomic_write(path) as part:
                part.write_bytes(content)
            return cls(path, len(content), lock)

    def append(self, entry: Command | Step) -> None:
        """Write one record; when this returns the operating system has it.

        WriteError where the disk is full or gone; the journal is as it was before.
        """
        record = _record(pack_entry(entry))
        with writing(self.path, NOT_DONE):
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

    WriteError where another session has the journal open, or its folder cannot be written.
    """
    lock = acquire_lock(_lock_path(path))
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
    lock = acquire_lock(_lock_path(path))
    if lock is not None:
        lock.release()
    return lock is None


def _lock_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def read_journal(path: Path) -> Recovered:
    """Return what a journal holds up to its last whole record.

    ReadError where the file is missing, is no journal, or is damaged before its first edit.
    """
    with expecting(ReadError, f"a journal at {path}", "Choose another file.", OSError):
        data = path.read_bytes()
    if not data.startswith(MAGIC):
        raise ReadError(f"Expected a journal at {path}; got another kind of file. Choose another file.")
    contents, n_bytes = [], len(MAGIC)
    for content in _contents(data):
        contents.append(content)
        n_bytes += HEAD.size + len(content)
    try:
        start = unpack_start(contents[0])
        records = tuple(unpack_entry(content) for content in contents[1:])
    except DAMAGED as error:
        raise ReadError(
            f"Expected a whole journal at {path}; got a damaged one ({error!r}). Begin a new session."
        ) from error
    return Recovered(start, records, n_bytes)


def rewrite_journal(
    path: Path, recovered: Recovered, done: Sequence[Command], undone: Sequence[Command]
) -> int:
    """Replace a journal by one without what no undo or redo can reach; return its length in bytes.

    Commands are given in the order in which they were done; those that a redo would do come last.
    """
    entries: list[Command | Step] = [*done, *undone]
    entries += ["undo"] * len(undone)
    records = [pack_start(recovered.start), *map(pack_entry, entries)]
    content = b"".join([MAGIC, *map(_record, records)])
    with atomic_write(path) as part:
        part.write_bytes(content)
    return len(content)


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
