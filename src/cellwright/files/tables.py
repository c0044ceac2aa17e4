"""Tables to files and provenance to JSON."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cellwright.core.data import Result
from cellwright.files.atomic import atomic_write, write_text
from cellwright.ops.measure.cells_table import cells_table, class_counts, class_names, frames_table

__all__ = [
    "cells_table",
    "class_counts",
    "class_names",
    "frames_table",
    "plain_count",
    "write_provenance",
    "write_table",
]

DECIMALS = 4


def write_table(path: Path | str, result: Result) -> None:
    """Write the cells of a result as CSV, in one step; of a density the count of each frame.

    Raises
    ------
    WriteError
        The file cannot be written.
    """
    table = cells_table(result)
    if "density" in result.maps:
        table = frames_table(result)
    with atomic_write(Path(path)) as part:
        table.round(DECIMALS).to_csv(part, index=False)


def write_provenance(path: Path | str, result: Result) -> None:
    """Write how a result was found, with its count and notices, as JSON, in one step.

    Raises
    ------
    WriteError
        The file cannot be written.
    """
    values: dict[str, Any] = {"count": plain_count(result.count)}
    if result.interval:
        values["interval"] = list(result.interval)
    if result.cells.classes is not None:
        values["classes"] = class_counts(result)
    values |= {"notices": list(result.notices), "offset": list(result.offset), **asdict(result.provenance)}
    write_text(Path(path), json.dumps(values, indent=2, default=_plain) + "\n")


def plain_count(count: float) -> int | float:
    """Return a count as whole number where it is one (a density may give 12.4 cells)."""
    if float(count).is_integer():
        return int(count)
    return round(float(count), DECIMALS)


def _plain(value: Any) -> Any:
    """Return what json cannot write itself (numpy numbers and arrays, paths) as something it can."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)
