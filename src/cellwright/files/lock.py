"""Locks between programs: the operating system holds them, so a program that was killed has none left."""

from pathlib import Path

from filelock import BaseFileLock as Lock
from filelock import FileLock, Timeout

from cellwright.core.errors import WriteError

__all__ = ["Lock", "take"]

ANYBODY = 0o666  # a folder may be shared by people who do not own each other's files


def take(path: Path, seconds: float = 0.0) -> Lock | None:
    """Return the lock of a name, held until it is released or collected; None where it is held already.

    Parameters
    ----------
    path
        File that stands for the lock, in a folder that is there; it stays, empty, and says nothing by itself.
    seconds
        How long to wait for another holder, be it another program or another part of this one.

    Raises
    ------
    WriteError
        The folder cannot be written.
    """
    lock = FileLock(path, timeout=seconds, mode=ANYBODY, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    except OSError as error:
        raise WriteError(
            f"Expected to write {path}; got: {error.strerror or error}. Choose a folder that you may write "
            "to."
        ) from error
    return lock
