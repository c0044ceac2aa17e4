"""What ``cellwright count`` writes and prints of cells that were measured, and its settings from a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cellwright.core.data import Image
from cellwright.core.errors import SettingsError

if TYPE_CHECKING:
    from cellwright.inference.recipe import Recipe
    from cellwright.ops.measure.analysis import Analysis


@dataclass(frozen=True, slots=True)
class TableFiles:
    """Which files are written besides the CSV.

    Parameters
    ----------
    output
        Folder; None writes only what is named here, into the current folder.
    report
        HTML file of the report; with several images each has its name in it.
    xlsx, parquet
        Whether to write ``<image>.xlsx`` and ``<image>.cells.parquet``.
    """

    output: Path | None = None
    report: Path | None = None
    xlsx: bool = False
    parquet: bool = False

    @property
    def is_wanted(self) -> bool:
        """Whether anything is to be written that needs an analysis."""
        return self.report is not None or self.xlsx or self.parquet

    def report_of(self, stem: str, n_images: int) -> Path | None:
        """Return where the report of one of several images goes."""
        if self.report is None or n_images == 1:
            return self.report
        return self.report.with_name(f"{self.report.stem}.{stem}{self.report.suffix}")


def write_analysis(
    files: TableFiles, stem: str, image: Image, analysis: "Analysis", recipe: "Recipe"
) -> list[Path]:
    """Write the tables of an analysis, and the tracks of a time series; return the files of the tables.

    Raises
    ------
    WriteError
        A file cannot be written.
    """
    from cellwright.files.tables import settings_table, write_csv, write_parquet, write_xlsx

    tables, written = tables_of(analysis), []
    folder = files.output or Path()
    if files.output is not None:
        for name, table in tables.items():
            written.append(folder / f"{stem}.{name}.csv")
            write_csv(written[-1], table)
        write_tracks(folder / f"{stem}_RES", image, analysis)
    if files.xlsx:
        settings = settings_table(analysis.result, recipe_texts(recipe))
        written.append(folder / f"{stem}.xlsx")
        write_xlsx(written[-1], {**tables, "settings": settings})
    if files.parquet:
        written.append(folder / f"{stem}.cells.parquet")
        write_parquet(written[-1], analysis.table)
    return written


def recipe_texts(recipe: "Recipe") -> dict[str, str]:
    """Return the texts that repeat a result; none of an image that has no file of its own."""
    from cellwright.inference.recipe import as_command, as_python

    if not recipe.image:
        return {}
    return {"Command line": as_command(recipe), "Python": as_python(recipe)}


def tables_of(analysis: "Analysis") -> "dict[str, Any]":
    """Return the tables of an analysis by the name of their file or sheet."""
    tables = {"cells": analysis.table, "counts": analysis.counts}
    if analysis.copositive is not None:
        tables["markers"] = analysis.copositive
    if analysis.lineages is not None:
        tables["lineages"] = analysis.lineages
    return tables


def write_tracks(folder: Path, image: Image, analysis: "Analysis") -> None:
    """Write tracks as a folder of the Cell Tracking Challenge; one that is there is left as it is.

    Raises
    ------
    WriteError
        The folder is there already, or cannot be written.
    """
    labels = analysis.result.cells.labels
    if analysis.tracks is None or labels is None:
        return
    from cellwright.files.formats.image_annotation import ImageAnnotation
    from cellwright.files.formats.tracking_challenge import write

    numbered = analysis.tracks.relabelled(labels)
    annotation = ImageAnnotation(
        image.name, numbered.shape, image.label_axes, numbered, parents=analysis.tracks.parents
    )
    write(folder, [annotation])


def analysis_row(analysis: "Analysis") -> dict[str, Any]:
    """Return what an analysis adds to the JSON object of an image."""
    row: dict[str, Any] = {}
    if "regions" in analysis.table:
        row["regions"] = analysis.counts.to_dict("records")
    if analysis.copositive is not None:
        row["thresholds"] = dict(analysis.thresholds)
        row["markers"] = dict(
            zip(analysis.copositive["markers"], map(int, analysis.copositive["count"]), strict=True)
        )
    if analysis.nuclei is not None:
        row["cells_without_nucleus"] = int((analysis.table["nuclei"] == 0).sum())
    if analysis.tracks is not None:
        row["tracks"], row["divisions"] = analysis.tracks.count, analysis.tracks.n_divisions
    return row


def analysis_lines(analysis: "Analysis") -> list[tuple[str, int]]:
    """Return the lines that an analysis adds to the printed table, each a name and a number."""
    lines: list[tuple[str, int]] = []
    if "regions" in analysis.table:
        for row in analysis.counts.to_dict("records"):
            place = "".join(f" {axis}={row[axis]}" for axis in "tz" if axis in row)
            lines.append((f"{row['region']}{place}", int(row["count"])))
    for name, value in analysis_row(analysis).items():
        if isinstance(value, int):
            lines.append((name.replace("_", " "), value))
        elif name == "markers":
            lines += list(value.items())
    return lines


def with_saved(path: Path | None, flags: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Return flags, those that were not given taken from a file of settings.

    Parameters
    ----------
    path
        The file; None changes nothing.
    flags
        Settings by name, None where a flag was not given.
    named
        The same for ``models``, ``axes`` and ``classifier``.

    Raises
    ------
    ReadError
        The file is no file of settings.
    SettingsError
        It has a setting that is none of ours.
    """
    given = {name: value for name, value in (*flags.items(), *named.items()) if value not in (None, [])}
    if path is None:
        return {**flags, **named, **given}
    from cellwright.inference.recipe import read_recipe

    saved = read_recipe(path)
    values: dict[str, Any] = {name: saved[name] for name in named if saved[name]}
    for part in ("settings", "engine", "analysis", "files"):
        values |= saved[part]
    unknown = sorted(set(values) - set(flags) - set(named))
    if unknown:
        raise SettingsError(
            f"There is no setting {', '.join(unknown)}, which {path} has. Save the settings again."
        )
    if given.get("models"):  # settings of another family would not fit
        values = {name: value for name, value in values.items() if name not in saved["settings"]}
    return {**flags, **named, **values, **given}


def echo_notices(path: Path, notices: tuple[str, ...]) -> None:
    """Print what the user should know about an image."""
    for notice in notices:
        typer.echo(f"note: {path}: {notice}", err=True)
