"""Folders that are either whole or not there."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellwright.core.errors import WriteError
from cellwright.files.atomic import make_folder


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Lend a temporary folder that becomes ``path`` when the block ends well.

    Raises
    ------
    WriteError
        There is something at ``path`` other than an empty folder, or it cannot be written.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise WriteError(f"Expected a new folder at {path}; there is one with content. Choose another name.")
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    make_folder(part)
    try:
        yield part
        if path.exists():
            path.rmdir()
        os.replace(part, path)
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(
            f"Expected to write {path}; got: {error.strerror or error}. "
            "Choose a folder that you may write to, on a disk with room."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
