"""Cells to CSV and provenance to JSON: names and units of the columns are fixed here."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellwright.io.files import written_whole
from cellwright.ops.labels import equivalent_diameters
from cellwright.types import SPATIAL, Result

if TYPE_CHECKING:
    import pandas

DECIMALS = 4


def cells_table(result: Result) -> "pandas.DataFrame":
    """Return one row per cell: label, centre, box, score and size.

    ===================================== =========================================================
    column                                meaning
    ===================================== =========================================================
    ``label``                             value of the cell in the label image
    ``t``, ``z``                          frame, where the image has such axes
    ``y``, ``x``                          centroid in pixels of the source image
    ``box_y0, box_x0, box_y1, box_x1``    first and one-past-last corner of the bounding box, pixels
    ``score``                             0 to 1, how sure the model is
    ``area_px``, ``diameter_px``          area, and diameter of the disc of the same area, in pixels
    ``area_um2``, ``diameter_um``         the same in micrometres, where the pixel size is known
    ===================================== =========================================================
    """
    import pandas  # half a second, which only those who want a table should wait

    return pandas.DataFrame(_columns(result))


def write_table(path: Path | str, result: Result) -> None:
    """Write the cells of a result as CSV, in one step.

    Raises
    ------
    WriteError
        The file cannot be written.
    """
    table = cells_table(result).round(DECIMALS)
    with written_whole(Path(path)) as part:
        table.to_csv(part, index=False)


def write_provenance(path: Path | str, result: Result) -> None:
    """Write how a result was found, with its count and notices, as JSON, in one step.

    Raises
    ------
    WriteError
        The file cannot be written.
    """
    values = {
        "count": plain_count(result.count),
        "notices": list(result.notices),
        "offset": list(result.offset),
        **asdict(result.provenance),
    }
    with written_whole(Path(path)) as part:
        part.write_text(json.dumps(values, indent=2, default=_plain) + "\n", encoding="utf-8")


def plain_count(count: float) -> int | float:
    """Return a count as whole number where it is one (a density may give 12.4 cells)."""
    return int(count) if float(count).is_integer() else round(float(count), DECIMALS)


def _columns(result: Result) -> dict[str, NDArray[Any]]:
    cells, axes = result.cells, _point_axes(result)
    offset = np.asarray(result.offset or (0,) * len(axes), np.float32)
    points, boxes = cells.points + offset, cells.boxes + offset
    columns: dict[str, NDArray[Any]] = {"label": np.arange(1, len(cells) + 1)}
    for index, axis in enumerate(axes):
        whole = axis not in "yx"
        columns[axis] = np.rint(points[:, index]).astype(np.int64) if whole else points[:, index]
    for corner in (0, 1):
        for index, axis in enumerate(axes[-2:], start=len(axes) - 2):
            columns[f"box_{axis}{corner}"] = boxes[:, corner, index].astype(np.int64)
    columns["score"] = cells.scores
    columns["area_px"] = cells.areas
    columns["diameter_px"] = equivalent_diameters(cells.areas)
    pixel_um = _frame_pixel_um(result)
    if pixel_um:
        areas = cells.areas.astype(np.float64) * pixel_um[0] * pixel_um[1]
        columns["area_um2"] = areas
        columns["diameter_um"] = equivalent_diameters(areas)
    return columns


def _point_axes(result: Result) -> str:
    """Return the letters of the points' axes, the last ones where singleton axes were dropped."""
    axes = result.provenance.axes.replace("C", "").lower()
    return axes[len(axes) - result.cells.points.shape[1] :]


def _frame_pixel_um(result: Result) -> tuple[float, float] | None:
    """Micrometres per pixel along y and x, None when unknown."""
    spatial = [axis for axis in result.provenance.axes if axis in SPATIAL]
    sizes = dict(zip(spatial, result.provenance.pixel_size_um, strict=False))
    return (sizes["Y"], sizes["X"]) if {"Y", "X"} <= sizes.keys() else None


def _plain(value: Any) -> Any:
    """Return what json cannot write itself (numpy numbers and arrays, paths) as something it can."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)
