"""Files: names that every system takes, contents that are either whole or not there."""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cellwright.core.errors import WriteError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Lend a temporary path whose content replaces ``path`` when the block ends well.

    A block that fails or is cancelled leaves ``path`` as it was. Missing folders are made.

    Raises
    ------
    WriteError
        The folder cannot be made or written, or the disk is full.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        make_folder(path.parent)
        yield part
        os.replace(part, path)
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(
            f"Expected to write {path}; got: {error.strerror or error}. "
            "Choose a folder that you may write to, on a disk with room."
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()


def make_folder(folder: Path) -> None:
    """Make ``folder`` and its parents where they are missing.

    Raises
    ------
    WriteError
        A file is in the way or the place is read-only.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(
            f"Expected a folder to write to at {folder}; got: {error.strerror or error}. "
            "Choose another folder."
        ) from error


def check_writable(folder: Path) -> None:
    """Make ``folder`` where it is missing and try to write there, before time is spent on a result.

    Raises
    ------
    WriteError
        Nothing can be written there.
    """
    trial = folder / "trial"
    with atomic_write(trial) as part:
        part.touch()
    trial.unlink()


def plain_name(name: str) -> str:
    """Return a name as a file can have it on every system, the same each time.

    Raises
    ------
    WriteError
        Nothing of it is left.
    """
    plain = re.sub(r"[^\w.+=@ -]+", "_", name).strip(" .")[:150]
    if not plain.strip("_"):
        raise WriteError(f"The name of an image must have letters or digits; got {name!r}. Name it.")
    return plain
