"""Everything that is written to disk: whole or not there, under names that every system takes, with locks.

Several files of a folder are changed in one step by :func:`change_folder`; whoever looks at it finds all of
them new, or none::

    <folder>/.adding/...        new files while they are written; what a killed program left is thrown away
    <folder>/.added/...         the same once all are written: to be moved into place
    <folder>/.added/.removed    files that are to go, one in a line

What counts is the moment in which ``.adding`` gets its other name. A program that is killed while it moves
the files leaves ``.added``, and the next one that reads or changes the folder moves the rest.
"""

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile

from filelock import BaseFileLock, FileLock, Timeout

from cellwright.core.errors import ReadError, WriteError, expecting
from cellwright.core.tasks import stop_point

Lock = BaseFileLock  # that acquire_lock gives
ADDING, ADDED, REMOVED, LOCK = ".adding", ".added", ".removed", ".lock"
WAIT_SECONDS = 20.0  # for another program that changes the folder
ADVICE = "Choose a folder that you may write to, on a disk with room."
ANYBODY = 0o666  # a folder may be shared by people who do not own each other's files
PART, GONE = ".part", ".gone"  # endings of what is not whole yet, and of folders that are being removed
OF_SYSTEM = (".DS_Store", "Thumbs.db", "desktop.ini")  # files that looking into a folder leaves there
HELD = (5, 32, 33)  # errors of Windows where another program has a file open
WAITS_S = (0.05, 0.1, 0.2, 0.4, 0.8)  # until what looks at each new file, a virus scanner, has closed it
DEVICE = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)(?=\s*(\.|$))", re.IGNORECASE)  # no file of Windows


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Lend a temporary path whose content replaces the file ``path`` when the block ends well.

    A block that fails or is cancelled leaves ``path`` as it was. Missing folders are made.
    """
    part = _part_of(path)
    make_folder(path.parent)
    try:
        with writing(path):
            yield part
            stop_point()
            move(part, path)
    finally:
        with suppress(OSError):
            part.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; a file that is there is replaced in one step."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def atomic_folder(path: Path, *, may_replace: bool = False) -> Iterator[Path]:
    """Lend a temporary folder that becomes ``path``, or replaces it, when the block ends well.

    WriteError where there is something at ``path`` other than an empty folder, or it cannot be written.
    """
    if path.exists() and not may_replace and not (path.is_dir() and all(map(is_of_system, path.iterdir()))):
        raise WriteError(f"Expected a new folder at {path}; there is one with content. Choose another name.")
    part, old = _part_of(path), _part_of(path)
    make_folder(part)
    try:
        with writing(path):
            yield part
            stop_point()
            if path.exists():
                move(path, old)
            move(part, path)
    finally:
        for leftover in (part, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _part_of(path: Path, ending: str = PART) -> Path:
    """Return the name of a file or folder until it is whole, or gone; file systems end at 255 bytes.

    WriteError where it has no name, as the folder that one is in.
    """
    if not path.name:
        raise WriteError(f"Expected the name of something to write; got the folder {path}. Name it in there.")
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}{ending}")


def move(source: Path, target: Path) -> None:
    """Give a file or folder another name; a file that has it is replaced.

    On Windows nothing can be renamed, replaced or removed that a program has open. OSError where one still
    has after a while.
    """
    _patiently(lambda: os.replace(source, target))


def remove_folder(folder: Path) -> None:
    """Remove a folder as a whole; what is left of those that were removed before goes, too.

    FileNotFoundError where there is none, OSError where a program has something in it open.
    """
    move(folder, _part_of(folder, GONE))
    for doomed in folder.parent.glob(f".*{GONE}"):
        shutil.rmtree(doomed, ignore_errors=True)


def _patiently(act: Callable[[], object]) -> None:
    """Do something to a file, again for a while where another program has it open."""
    for wait in (*WAITS_S, None):
        try:
            act()
            return
        except OSError as error:
            if wait is None or not _is_held(error):
                raise
        time.sleep(wait)


def _is_held(error: OSError) -> bool:
    """Return whether a file could not be changed since a program has it open; on Windows alone."""
    return getattr(error, "winerror", None) in HELD


@contextmanager
def writing(path: Path, advice: str = ADVICE) -> Iterator[None]:
    """Turn an error of the operating system in the block into a WriteError that says what to do."""
    with expecting(WriteError, f"to write {path}", advice, OSError):
        try:
            yield
        except OSError as error:
            if not _is_held(error):
                raise
            raise WriteError(
                f"Expected to write {path}; it is open in another program, Excel say, or write-protected. "
                "Close it there, and try again."
            ) from error


def make_folder(folder: Path) -> None:
    """Make ``folder`` and its parents where they are missing."""
    with writing(folder, "Choose another folder."):
        folder.mkdir(parents=True, exist_ok=True)


def check_writable(folder: Path) -> None:
    """Make ``folder`` where it is missing and try to write there, before time is spent on a result."""
    trial = folder / "trial"
    with atomic_write(trial) as part:
        part.touch()
    with writing(trial):
        _patiently(trial.unlink)


def as_stored(name: str, folder: Path) -> str:
    """Return a name as a folder tells its files apart: without capitals where the system ignores them."""
    return name if _tells_capitals(folder.absolute()) else name.casefold()


@cache
def _tells_capitals(folder: Path) -> bool:
    there = next(one for one in (folder, *folder.parents) if one.is_dir())
    try:
        with NamedTemporaryFile(prefix=".case", dir=there) as file:
            return not os.path.exists(file.name.replace(".case", ".CASE"))
    except OSError:  # nothing can be written there, and writing tells why
        return True


def plain_name(name: str) -> str:
    """Return a name as a file can have it on every system, the same each time.

    WriteError where nothing of it is left.
    """
    plain = re.sub(r"[^\w.+=@ -]+", "_", name)[:150].strip(" .")
    plain = DEVICE.sub(r"\1_", plain)
    if not plain.strip("_"):
        raise WriteError(f"The name of an image must have letters or digits; got {name!r}. Name it.")
    return plain


def is_of_system(path: Path) -> bool:
    """Return whether macOS or Windows has put a file into a folder; it tells nothing of what is there."""
    return path.name in OF_SYSTEM or path.name.startswith("._")


def refuse_no_text(name: str) -> None:
    """Raise ReadError where the name of a file is no UTF-8: no table could hold it."""
    content = os.fsencode(name)
    shown = content.decode(errors="replace")
    if shown.encode() != content:
        raise ReadError(f"Names of files must be UTF-8; got {shown}. Rename it.")


def acquire_lock(path: Path, seconds: float = 0.0) -> Lock | None:
    """Return the lock of a name, held until it is released or collected; None where it is held already.

    The operating system holds it, so a program that was killed has none left. The file at ``path``, in a
    folder that is there, stays, empty, and says nothing by itself. Another holder, be it another program or
    another part of this one, is waited for so many seconds.
    """
    lock = FileLock(path, timeout=seconds, mode=ANYBODY, thread_local=False)
    with writing(path):
        try:
            lock.acquire()
        except Timeout:  # which is an OSError too
            return None
    return lock


@contextmanager
def only_holder(path: Path, wrong: str, seconds: float = 0.0) -> Iterator[None]:
    """Hold a lock while the block lasts; a WriteError says what is ``wrong`` where another one holds it.

    ``path`` and ``seconds`` are those of :func:`acquire_lock`.
    """
    lock = acquire_lock(path, seconds)
    if lock is None:
        raise WriteError(wrong)
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True, slots=True)
class FolderChange:
    """What is to change in a folder, while the block of :func:`change_folder` lasts."""

    folder: Path  # that changes
    staging: Path  # where new files are written, each under the path it is to have in the folder
    _gone: list[str] = field(default_factory=list)

    def remove(self, paths: Sequence[Path]) -> None:
        """Have files of the folder taken away; one that is written too stays."""
        self._gone.extend(path.relative_to(self.folder).as_posix() for path in paths)

    def complete(self) -> None:
        """Make the change count; called once all is written."""
        gone = [name for name in dict.fromkeys(self._gone) if not (self.staging / name).exists()]
        (self.staging / REMOVED).write_text("\n".join(gone), encoding="utf-8")
        move(self.staging, self.folder / ADDED)


@contextmanager
def change_folder(folder: Path) -> Iterator[FolderChange]:
    """Lend a change of the folder, made where it is missing, that counts when the block ends well.

    A block that fails or is cancelled changes nothing.

    WriteError where the folder cannot be written, or another program is changing it.
    """
    make_folder(folder)
    with _folder_lock(folder):
        _move_added(folder)
        staging = folder / ADDING
        shutil.rmtree(staging, ignore_errors=True)
        try:
            make_folder(staging)
            change = FolderChange(folder, staging)
            yield change
            with writing(folder):
                change.complete()
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        _move_added(folder)


def finish_change(folder: Path) -> None:
    """Move into place what a program had written when it was killed.

    WriteError where the folder cannot be written, or another program is changing it.
    """
    if os.path.isdir(folder / ADDED):  # Path.is_dir raises where the system refuses the name
        with _folder_lock(folder):
            _move_added(folder)


def _folder_lock(folder: Path) -> AbstractContextManager[None]:
    wrong = (
        f"Nobody else must be changing the folder {folder}; another window or program is. Wait until it is "
        "done, and try again."
    )
    return only_holder(folder / LOCK, wrong, WAIT_SECONDS)


def _move_added(folder: Path) -> None:
    """Move what is left of a change into place; it may have been begun before."""
    added = folder / ADDED
    if not added.is_dir():
        return
    with writing(folder):
        removed = added / REMOVED
        gone = removed.read_text(encoding="utf-8").splitlines() if removed.exists() else []
        new = [path for path in added.rglob("*") if path.is_file() and path != removed]
        for path in sorted(new, key=lambda path: -len(path.parts)):  # what lists the others comes last
            target = folder / path.relative_to(added)
            target.parent.mkdir(parents=True, exist_ok=True)
            move(path, target)
        for name in gone:
            (folder / name).unlink(missing_ok=True)
        remove_folder(added)
