"""What ``cellwright count`` prints of cells that were measured, and its settings from a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cellwright.core.errors import SettingsError

if TYPE_CHECKING:
    from cellwright.ops.measure.analysis import Analysis

ONE_OF = (("diameter_px", "diameter_um"), ("channel", "channels"))  # flags of which one is given


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
        row["nuclei_in_no_cell"] = analysis.nuclei.n_outside
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
        The same for what is no field of settings, such as ``models``.

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
    for names in ONE_OF:  # a diameter in µm goes before a saved one in pixels, too
        if given.keys() & set(names):
            values = {name: value for name, value in values.items() if name not in names}
    return {**flags, **named, **values, **given}


def echo_notices(path: Path, notices: tuple[str, ...]) -> None:
    """Print what the user should know about an image."""
    for notice in notices:
        typer.echo(f"note: {path}: {notice}", err=True)
