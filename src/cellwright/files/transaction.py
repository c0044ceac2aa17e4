"""Several files of a folder, changed in one step: whoever looks at it finds all of them new, or none.

::

    <folder>/.adding/...        new files while they are written; what a killed program left is thrown away
    <folder>/.added/...         the same once all are written: to be moved into place
    <folder>/.added/.removed    files that are to go, one in a line

What counts is the moment in which ``.adding`` gets its other name. A program that is killed while it moves
the files leaves ``.added``, and the next one that reads or changes the folder moves the rest.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cellwright.core.errors import WriteError
from cellwright.files.atomic import make_folder
from cellwright.files.lock import take

ADDING, ADDED, REMOVED, LOCK = ".adding", ".added", ".removed", ".lock"
WAIT_SECONDS = 20.0  # for another program that changes the folder


@dataclass(frozen=True, slots=True)
class Transaction:
    """What is to change in a folder. Made by :func:`changed`; used while its block lasts.

    Parameters
    ----------
    folder
        That changes.
    staging
        Where new files are written, each under the path it is to have in the folder.
    """

    folder: Path
    staging: Path
    _gone: list[str] = field(default_factory=list)

    def remove(self, paths: Sequence[Path]) -> None:
        """Have files of the folder taken away; one that is written too stays."""
        self._gone.extend(path.relative_to(self.folder).as_posix() for path in paths)

    def complete(self) -> None:
        """Make the change count; called once all is written."""
        gone = [name for name in dict.fromkeys(self._gone) if not (self.staging / name).exists()]
        (self.staging / REMOVED).write_text("\n".join(gone), encoding="utf-8")
        os.rename(self.staging, self.folder / ADDED)


@contextmanager
def changed(folder: Path) -> Iterator[Transaction]:
    """Lend a transaction that changes the folder, made where it is missing, when the block ends well.

    A block that fails or is cancelled changes nothing.

    Raises
    ------
    WriteError
        The folder cannot be written, or another program is changing it.
    """
    make_folder(folder)
    with _locked(folder):
        _finish(folder)
        staging = folder / ADDING
        shutil.rmtree(staging, ignore_errors=True)
        try:
            make_folder(staging)
            transaction = Transaction(folder, staging)
            yield transaction
            with _writing(folder):
                transaction.complete()
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        _finish(folder)


def settle(folder: Path) -> None:
    """Move into place what a program had written when it was killed.

    Raises
    ------
    WriteError
        The folder cannot be written, or another program is changing it.
    """
    if (folder / ADDED).is_dir():
        with _locked(folder):
            _finish(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = take(folder / LOCK, WAIT_SECONDS)
    if lock is None:
        raise WriteError(
            f"Nobody else must be changing the folder {folder}; another window or program is. Wait until it "
            "is done, and try again."
        )
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"Expected to write to {folder}; got: {error.strerror or error}. Make it writable, make room on "
            "the disk, and try again."
        ) from error


def _finish(folder: Path) -> None:
    """Move what is left of a change into place; it may have been begun before."""
    added = folder / ADDED
    if not added.is_dir():
        return
    with _writing(folder):
        listed = added / REMOVED
        gone = listed.read_text(encoding="utf-8").splitlines() if listed.exists() else []
        new = [path for path in added.rglob("*") if path.is_file() and path != listed]
        for path in sorted(new, key=lambda path: -len(path.parts)):  # what lists the others comes last
            target = folder / path.relative_to(added)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        for name in gone:
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(added)
