"""Tables to files and back, and provenance to JSON."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from io import FileIO
from math import isfinite, isnan
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from cellwright.core.data import Result
from cellwright.core.errors import WriteError, needed
from cellwright.core.tasks import stop_point
from cellwright.files.atomic import atomic_write, write_text
from cellwright.ops.measure.cells_table import (
    DECIMALS,
    cells_checksum,
    cells_table,
    class_counts,
    frames_table,
    plain_count,
)

if TYPE_CHECKING:
    import pandas

MOST_XLSX_ROWS = 1_048_576
ROWS_AT_ONCE = 1000
TEXTS = ("class", "regions")  # columns of names in a table of cells
WHOLE = ("label", "t", "nuclei", "track", "parent_track")  # of whole numbers; so are the sides of boxes
AS_WRITTEN: Mapping[str, Any] = MappingProxyType(  # for pandas: names may be 1 or 01, NA or None
    {"dtype": dict.fromkeys(TEXTS, str), "keep_default_na": False, "na_values": [""]}
)


def write_table(path: Path | str, result: Result, columns: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Write the cells of a result as CSV, in one step; of a density the count of each frame.

    ``columns`` come in the place of those of the same name, or behind them.
    """
    table = cells_table(result).assign(**columns)
    if result.gives == "density":
        table = frames_table(result)
    write_csv(path, table, in_digits)


def read_cells_table(path: Path | str, **options: Any) -> "pandas.DataFrame":
    """Return a table of cells as it was written as CSV; ``options`` are those of ``pandas.read_csv``."""
    import pandas

    table = pandas.read_csv(path, **AS_WRITTEN, **options)
    texts = [name for name in TEXTS if name in table]
    table[texts] = table[texts].fillna("")
    if len(table):
        return table
    return table.astype({name: kind_of(str(name)) for name in table if name not in TEXTS})


def kind_of(column: str) -> str:
    """Return the type of what a column of a table of cells tells, where no row shows it."""
    if column in TEXTS:
        return "string"
    if column.startswith("positive_"):
        return "bool"
    if column in WHOLE or column.startswith("box_"):
        return "int64"
    return "float64"


def in_digits(number: Any) -> str:
    """Return a number of a table of cells as text, with the digits that 32 bits hold."""
    return repr(float(f"{number:.7g}"))


def write_csv(path: Path | str, table: "pandas.DataFrame", digits: Any = "%.9g") -> None:
    """Write a table as CSV, in one step; numbers with 9 digits, or as ``digits`` formats them."""
    with atomic_write(Path(path)) as part, part.open("w", encoding="utf-8", newline="") as file:
        for number, rows in enumerate(_in_parts(table)):
            heading = number == 0
            rows.to_csv(file, index=False, float_format=digits, header=heading, lineterminator="\n")


def write_xlsx(path: Path | str, tables: Mapping[str, "pandas.DataFrame"]) -> None:
    """Write tables as the sheets of an Excel file, in one step.

    WriteError where the file cannot be written, or a table has more rows than a sheet can have.
    """
    from openpyxl import Workbook

    for name, table in tables.items():
        if len(table) >= MOST_XLSX_ROWS:
            raise WriteError(
                f"A sheet of Excel has {MOST_XLSX_ROWS} rows at most; {name!r} has {len(table)}. "
                "Write CSV or Parquet."
            )
    book = Workbook(write_only=True)  # which takes half the time, and can be stopped between rows
    with atomic_write(Path(path)) as part, _StoppableFile(part, "wb") as file:
        try:
            for name, table in tables.items():
                sheet = book.create_sheet(name)
                sheet.freeze_panes = "A2"
                sheet.append([_bold(sheet, column) for column in table])
                for rows in _in_parts(table):
                    for row in rows.itertuples(index=False, name=None):
                        sheet.append([_in_excel(sheet, value) for value in row])
            book.save(file)
        finally:
            for sheet in book.worksheets:
                if not sheet.closed:
                    sheet.close()


class _StoppableFile(FileIO):
    def write(self, data: Any) -> int:
        """Write bytes, unless the task of the call was closed."""
        stop_point()
        return super().write(data)


def _in_parts(table: "pandas.DataFrame") -> "Iterator[pandas.DataFrame]":
    """Yield a table some rows at a time, once where it has none; the call can be stopped between them."""
    for start in range(0, max(len(table), 1), ROWS_AT_ONCE):
        stop_point()
        yield table.iloc[start : start + ROWS_AT_ONCE]


def _bold(sheet: Any, text: object) -> Any:
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.styles import Font

    cell = WriteOnlyCell(sheet, str(text))
    cell.font = Font(bold=True)
    return cell


def _in_excel(sheet: Any, value: Any) -> Any:
    """Return a value as a sheet can hold it: nothing where there is none, infinity as a word.

    Names are text also where they look like a formula or an error, without the characters that no sheet has.
    """
    if isinstance(value, str) and value:
        from openpyxl.cell import WriteOnlyCell
        from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

        value = ILLEGAL_CHARACTERS_RE.sub("", value)
        if value.startswith(("=", "#")):
            cell = WriteOnlyCell(sheet, value)
            cell.data_type = "s"
            return cell
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not isfinite(value):
        return None if isnan(value) else str(value)
    return value


def write_parquet(path: Path | str, table: "pandas.DataFrame") -> None:
    """Write a table as Parquet, in one step.

    WriteError where the file cannot be written, or pyarrow is not installed.
    """
    with needed(WriteError, "Writing Parquet", "parquet"):
        import pyarrow  # noqa: F401 - pandas takes it
    with atomic_write(Path(path)) as part:
        table.to_parquet(part, engine="pyarrow", index=False)


def settings_table(result: Result, settings: Mapping[str, Any]) -> "pandas.DataFrame":
    """Return how a result was found, with further settings, as rows of ``name`` and ``value``."""
    import pandas

    facts = {**asdict(result.provenance), **settings, "cells_sha256": cells_checksum(result)}
    rows = [(name, json.dumps(value, default=plain)) for name, value in facts.items()]
    return pandas.DataFrame(rows, columns=["name", "value"])


def write_provenance(path: Path | str, result: Result) -> None:
    """Write how a result was found, with its count and notices, as JSON, in one step."""
    values: dict[str, Any] = {"count": plain_count(result.count)}
    if result.interval:
        values["interval"] = list(result.interval)
    if result.fit is not None:
        values["fit"] = round(result.fit, DECIMALS)
    if result.cells.classes is not None:
        values["classes"] = class_counts(result)
    values |= {"notices": list(result.notices), "offset": list(result.offset), **asdict(result.provenance)}
    values["cells_sha256"] = cells_checksum(result)
    write_text(Path(path), json.dumps(values, indent=2, default=plain) + "\n")


def plain(value: Any) -> Any:
    """Return what json cannot write itself (numpy numbers and arrays, paths) as something it can."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)
