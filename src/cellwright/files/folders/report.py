"""One HTML file that tells of a folder: totals, what failed, plates, and the images least to be trusted."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from cellwright.files.atomic import write_text
from cellwright.files.folders.results import ImageOutcome, thumbnail_of
from cellwright.files.report import figure, html_table, page
from cellwright.ops.plates import PlateMap, plate_map, row_name

MOST_PICTURES = 12
DARK_BELOW = 0.6  # share of the range up to which numbers on a colour are white


def write_folder_report(path: Path, output: Path, outcomes: Sequence[ImageOutcome], settings: str) -> None:
    """Write the report of a folder as one HTML file; settings is a text of how they were counted."""
    done = [one for one in outcomes if not one.error]
    failed = [(one.image.name, one.error) for one in outcomes if one.error]
    n_cells = sum(float(one.row["count"]) for one in done)
    title = f"{output.name}: {n_cells:,.0f} cells in {len(done):,} images"
    number = f'<p><span class="number">{n_cells:,.0f}</span> <span class="unit">cells in {len(done):,} images'
    parts = [f"<h1>{escape(output.name)}</h1>", number + "</span></p>", _facts(done, len(failed))]
    if failed:
        parts += [f"<h2>Failed ({len(failed)})</h2>", html_table(("image", "why"), failed)]
    for name, plate in _plates(done).items():
        parts += [f"<h2>{escape(f'Plate {name}'.strip())}: cells per image</h2>", _plate_table(plate)]
    parts += _pictures(output, done)
    parts.append(f"<h2>Settings</h2><pre>{escape(settings)}</pre>")
    write_text(path, page(title, parts))


def _facts(done: Sequence[ImageOutcome], n_failed: int) -> str:
    fits = [float(one.row["fit"]) for one in done if "fit" in one.row]
    counts = [float(one.row["count"]) for one in done]
    facts: dict[str, Any] = {"images counted": len(done), "images that failed": n_failed}
    if counts:
        facts |= {"cells per image, median": median(counts), "fewest": min(counts), "most": max(counts)}
    if fits:
        facts |= {"fit (expected F1), median": median(fits), "lowest fit": min(fits)}
    return html_table(("", ""), list(facts.items()))


def _plates(done: Sequence[ImageOutcome]) -> dict[str, PlateMap]:
    wells: dict[str, list[tuple[str, float]]] = {}
    for one in done:
        plate = one.image.plate
        counted = (str(plate.get("well", "")), float(one.row["count"]))
        wells.setdefault(str(plate.get("plate", "")), []).append(counted)
    maps = {name: plate_map(counts) for name, counts in wells.items()}
    return {name: found for name, found in maps.items() if found is not None}


def _plate_table(plate: PlateMap) -> str:
    """Return a plate as a table in the colours of its numbers, which are the means of the wells' images."""
    n_rows, n_columns = plate.values.shape
    low, high = plate.limits
    head = "".join(f"<th>{column + 1}</th>" for column in range(n_columns))
    rows = [f"<tr><th></th>{head}</tr>"]
    for row in range(n_rows):
        cells = [f"<th>{row_name(row)}</th>"]
        for column in range(n_columns):
            value = float(plate.values[row, column])
            if math.isnan(value):
                cells.append("<td></td>")
                continue
            is_dark = value - low <= DARK_BELOW * (high - low)
            ink = "#fff" if is_dark else "#000"
            style = f"background:{plate.colour(row, column)};color:{ink}"
            cells.append(f'<td style="{style}">{value:.4g}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _pictures(output: Path, done: Sequence[ImageOutcome]) -> list[str]:
    """Return the images with the worst fit, or else with the fewest cells, as small pictures."""
    known, column = [one for one in done if "fit" in one.row], "fit"
    title = "The images with the lowest fit"
    if not known:
        known, column, title = list(done), "count", "The images with the fewest cells"
    figures = []
    for one in sorted(known, key=lambda one: float(one.row[column]))[:MOST_PICTURES]:
        picture = thumbnail_of(output, one.image.name)
        caption = f"{one.image.name}: {one.row['count']} cells"
        if "fit" in one.row:
            caption += f", fit {one.row['fit']:.2f}"
        if picture.exists():
            figures.append(figure(picture.read_bytes(), "jpeg", caption))
    if not figures:
        return []
    return [f"<h2>{title}</h2><p>Look at their outlines first.</p>", *figures]
