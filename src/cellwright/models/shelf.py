"""Where models live: those that travel with the package, those in the user's folder, or any folder.

Imports no torch before a model is loaded.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import pooch

from cellwright.errors import CheckpointError
from cellwright.models.spec import ModelSpec, read_spec

if TYPE_CHECKING:
    from cellwright.models.contract import CellModel


@dataclass(frozen=True, slots=True)
class ShelfEntry:
    """A model that can be chosen by name."""

    name: str
    folder: Path
    spec: ModelSpec
    scores: Mapping[str, float]


def shipped_folder() -> Path:
    """Return the folder of the models that travel with the package."""
    return Path(str(files("cellwright"))) / "weights"


def user_folder() -> Path:
    """Return the folder of the user's own models (it may not exist yet)."""
    return Path(pooch.os_cache("cellwright")) / "models"


def models() -> list[ShelfEntry]:
    """Return every complete model of the two folders; a user's model hides a shipped one of the same name."""
    entries: dict[str, ShelfEntry] = {}
    for shelf in (shipped_folder(), user_folder()):
        for path in sorted(shelf.glob("*/spec.json")):
            try:
                spec = read_spec(path)
            except CheckpointError:
                continue  # a damaged folder must not hide the others; naming it in `find` tells what is wrong
            entries[path.parent.name] = ShelfEntry(path.parent.name, path.parent, spec, _scores(path.parent))
    return list(entries.values())


def find(name: str | Path) -> Path:
    """Return the folder of a model given its name or its folder.

    Raises
    ------
    CheckpointError
        There is neither.
    """
    if Path(name).is_dir():
        return Path(name)
    for shelf in (user_folder(), shipped_folder()):
        if Path(name).name == str(name) and (shelf / name).is_dir():
            return shelf / name
    known = ", ".join(entry.name for entry in models()) or "none"
    raise CheckpointError(f"Model must be a folder or one of: {known}; got {str(name)!r}.")


def load(name: str | Path) -> "CellModel":
    """Return a model by name or folder; read from disk only when its files have changed.

    Raises
    ------
    CheckpointError
        See ``models.checkpoint.load_checkpoint``.
    """
    folder = find(name).resolve()
    spec = folder / "spec.json"
    return _load(folder, spec.stat().st_mtime_ns if spec.exists() else 0)


@lru_cache(maxsize=4)
def _load(folder: Path, stamp: int) -> "CellModel":
    from cellwright.models.checkpoint import load_checkpoint

    return load_checkpoint(folder)


def _scores(folder: Path) -> dict[str, float]:
    try:
        return dict(json.loads((folder / "scores.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
