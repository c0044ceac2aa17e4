"""How many cells the images of a folder hold, found and now, as a table beside them."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cellwright.core.errors import ReadError, WriteError
from cellwright.files.atomic import atomic_write

COUNTS = "counts.csv"
COLUMNS = ("name", "found", "cells", "reviewed")


@dataclass(frozen=True, slots=True)
class Tally:
    """The cells of one image: how many the model found (-1: not asked), there are now, are reviewed."""

    found: int = -1
    cells: int = -1
    reviewed: int = 0


def read_counts(path: Path) -> dict[str, Tally]:
    """Return the counts of an earlier time, none where there are none.

    Raises
    ------
    ReadError
        The file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {
            row["name"]: Tally(int(row["found"] or -1), int(row["cells"] or -1), int(row["reviewed"] or 0))
            for row in rows
        }
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ReadError(
            f"Expected columns {', '.join(COLUMNS)} in {path}; got: {error!r}. Remove it to begin anew."
        ) from error


def write_counts(path: Path, images: list[Path], tallies: Mapping[str, Tally]) -> None:
    """Write the counts of all images that have been open.

    Raises
    ------
    WriteError
        The folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for image in images:
                tally = tallies.get(image.stem)
                if tally is not None:
                    values = (tally.found, tally.cells)
                    shown = ["" if value < 0 else value for value in values]
                    writer.writerow([image.stem, *shown, tally.reviewed])
    except OSError as error:
        raise WriteError(
            f"Expected to write {path}; got: {error.strerror or error}. Make room, or choose another folder."
        ) from error
