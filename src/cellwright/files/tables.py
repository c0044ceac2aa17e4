"""Cells to CSV and provenance to JSON: names and units of the columns are fixed here."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import SPATIAL, Result, without_channels
from cellwright.files.atomic import atomic_write, write_text
from cellwright.ops.labels import equivalent_diameters

if TYPE_CHECKING:
    import pandas

DECIMALS = 4


def cells_table(result: Result) -> "pandas.DataFrame":
    """Return one row per cell: label, centre, box, class, score and size.

    ===================================== =========================================================
    column                                meaning
    ===================================== =========================================================
    ``label``                             number of the cell: its value in the label image, if any
    ``t``, ``z``                          frame, where the image has such axes; a cell of a volume
                                          has its centre between slices
    ``y``, ``x``                          centre in pixels of the source image
    ``box_y0, box_x0, box_y1, box_x1``    first and one-past-last corner of the bounding box, pixels;
                                          ``box_z0``, ``box_z1`` of a volume: slices
    ``class``                             name of the class, where cells were classified
    ``score``                             0 to 1, how sure the model is
    ``area_px``, ``diameter_px``          area, and diameter of the disc of the same area, in pixels
    ``area_um2``, ``diameter_um``         the same in micrometres, where the pixel size is known
    ``volume_px``                         of a volume instead of the area: voxels
    ``volume_um3``, ``diameter_um``       the same in micrometres, and the ball of the same volume
    ===================================== =========================================================
    """
    import pandas  # half a second, which only those who want a table should wait

    return pandas.DataFrame(_columns(result))


def frames_table(result: Result) -> "pandas.DataFrame":
    """Return one row per frame of a density: the frame's number, where there are several, and its count.

    A single frame has the interval of the count beside it: ``low`` and ``high``.
    """
    import pandas

    density = result.maps["density"]
    if density.ndim == 2:
        ends = dict(zip(("low", "high"), result.interval or (), strict=False))
        return pandas.DataFrame([{"count": result.count, **ends}])
    lead = density.shape[:-2]
    first = result.offset or (0,) * density.ndim
    places = np.indices(lead).reshape(len(lead), -1)
    letters = _letters(result)
    axes = letters[len(letters) - density.ndim :]
    columns: dict[str, Any] = {axis: places[at] + first[at] for at, axis in enumerate(axes[:-2])}
    columns["count"] = density.sum(axis=(-2, -1), dtype=np.float64).reshape(-1)
    return pandas.DataFrame(columns)


def class_names(result: Result) -> tuple[str, ...]:
    """Return the names that the numbers in ``cells.classes`` stand for; empty without classes."""
    return tuple(result.provenance.settings.get("classes", ()))


def class_counts(result: Result) -> dict[str, int]:
    """Return the number of cells of each class, in the order of the classes; empty without classes."""
    classes = result.cells.classes
    if classes is None:
        return {}
    return {name: int((classes == index).sum()) for index, name in enumerate(class_names(result))}


def write_table(path: Path | str, result: Result) -> None:
    """Write the cells of a result as CSV, in one step; of a density the count of each frame.

    Raises
    ------
    WriteError
        The file cannot be written.
    """
    make = frames_table if "density" in result.maps else cells_table
    table = make(result).round(DECIMALS)
    with atomic_write(Path(path)) as part:
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
        **({"interval": list(result.interval)} if result.interval else {}),
        **({"classes": class_counts(result)} if result.cells.classes is not None else {}),
        "notices": list(result.notices),
        "offset": list(result.offset),
        **asdict(result.provenance),
    }
    write_text(Path(path), json.dumps(values, indent=2, default=_plain) + "\n")


def plain_count(count: float) -> int | float:
    """Return a count as whole number where it is one (a density may give 12.4 cells)."""
    return int(count) if float(count).is_integer() else round(float(count), DECIMALS)


def _columns(result: Result) -> dict[str, Any]:
    cells, axes = result.cells, _point_axes(result)
    offset = np.asarray(result.offset or (0,) * len(axes), np.float32)
    points, boxes = cells.points + offset, cells.boxes + offset
    columns: dict[str, Any] = {"label": np.arange(1, len(cells) + 1)}
    for index, axis in enumerate(axes):
        columns[axis] = np.rint(points[:, index]).astype(np.int64) if axis == "t" else points[:, index]
    sides = "zyx" if "z" in axes else "yx"
    for corner in (0, 1):
        for index, axis in enumerate(sides, start=len(axes) - len(sides)):
            columns[f"box_{axis}{corner}"] = np.rint(boxes[:, corner, index]).astype(np.int64)
    if cells.classes is not None:
        names = class_names(result)
        columns["class"] = [names[one] if 0 <= one < len(names) else "" for one in cells.classes]
    columns["score"] = cells.scores
    return columns | (_volumes(result) if "z" in axes else _areas(result))


def _areas(result: Result) -> dict[str, NDArray[Any]]:
    areas = result.cells.areas
    columns: dict[str, NDArray[Any]] = {"area_px": areas, "diameter_px": equivalent_diameters(areas)}
    pixel_um = _pixel_um(result, "YX")
    if pixel_um:
        areas_um2 = areas.astype(np.float64) * np.prod(pixel_um)
        columns["area_um2"] = areas_um2
        columns["diameter_um"] = equivalent_diameters(areas_um2)
    return columns


def _volumes(result: Result) -> dict[str, NDArray[Any]]:
    columns: dict[str, NDArray[Any]] = {"volume_px": result.cells.areas}
    pixel_um = _pixel_um(result, "ZYX")
    if pixel_um:
        volumes_um3 = result.cells.areas.astype(np.float64) * np.prod(pixel_um)
        columns["volume_um3"] = volumes_um3
        columns["diameter_um"] = equivalent_diameters(volumes_um3, ndim=3)
    return columns


def _letters(result: Result) -> str:
    return without_channels(result.provenance.axes).lower()


def _point_axes(result: Result) -> str:
    """Return the letters of the points' axes, the last ones where singleton axes were dropped."""
    letters = _letters(result)
    return letters[len(letters) - result.cells.points.shape[1] :]


def _pixel_um(result: Result, wanted: str) -> tuple[float, ...]:
    """Micrometres per pixel along these axes, empty when unknown."""
    spatial = [axis for axis in result.provenance.axes if axis in SPATIAL]
    sizes = dict(zip(spatial, result.provenance.pixel_size_um, strict=False))
    return tuple(sizes[axis] for axis in wanted) if set(wanted) <= sizes.keys() else ()


def _plain(value: Any) -> Any:
    """Return what json cannot write itself (numpy numbers and arrays, paths) as something it can."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)
