"""Cells as a table: one row for each, with the columns that every result has."""

from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Result, known_sizes, without_channels
from cellwright.core.errors import AxesError
from cellwright.ops.labels import equivalent_diameters

if TYPE_CHECKING:
    import pandas


DECIMALS = 4  # of numbers that are written for people
PLANES = {"T": "frames", "Z": "slices"}


def cells_table(result: Result) -> "pandas.DataFrame":
    """Return one row per cell: label, centre, box, class, score and size.

    They are the columns of the group ``cell`` in ``ops.measure.columns``: frames, slices and sides of boxes
    as far as the image has such axes, sizes in micrometres, too, where the pixel size is known.
    """
    import pandas  # half a second, which only those who want a table should wait

    return pandas.DataFrame(_columns(result))


def places_of(table: "pandas.DataFrame", axes: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the points (N, D) and boxes (N, 2, D) in a table of cells, along these axes of their labels."""
    points = table[list(axes.lower())].to_numpy(np.float32)
    boxes = np.stack([points, points + 1], axis=1)
    for place, axis in enumerate(axes.lower()):
        if f"box_{axis}0" in table:
            boxes[:, :, place] = table[[f"box_{axis}0", f"box_{axis}1"]].to_numpy(np.float32)
    return points, boxes


def cells_checksum(result: Result) -> str:
    """Return the SHA-256 of what was found: labels, or places and boxes where there are none, and densities.

    Two results with the same checksum have the same cells, pixel by pixel.
    """
    cells = result.cells
    arrays: list[NDArray[Any]] = [cells.points, cells.boxes]
    if cells.labels is not None:
        arrays = [cells.labels]
    if cells.classes is not None:
        arrays.append(cells.classes)
    digest = sha256()
    for array in (*arrays, *(result.maps[name] for name in sorted(result.maps))):
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(f"{little.dtype.str} {little.shape}".encode())
        digest.update(little.tobytes())
    return digest.hexdigest()


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
    letters = without_channels(result.provenance.axes).lower()
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


def plain_count(count: float) -> int | float:
    """Return a count as whole number where it is one (a density may give 12.4 cells)."""
    if float(count).is_integer():
        return int(count)
    return round(float(count), DECIMALS)


def _columns(result: Result) -> dict[str, Any]:
    cells, axes = result.cells, label_axes(result).lower()
    offset = np.asarray(result.offset or (0,) * len(axes), np.float32)
    points, boxes = cells.points + offset, cells.boxes + offset
    columns: dict[str, Any] = {"label": np.arange(1, len(cells) + 1)}
    for index, axis in enumerate(axes):
        columns[axis] = points[:, index]
    if "t" in axes:
        columns["t"] = np.rint(columns["t"]).astype(np.int64)
    sides = "".join(axis for axis in axes if axis in "zyx")
    for corner in (0, 1):
        for index, axis in enumerate(sides, start=len(axes) - len(sides)):
            columns[f"box_{axis}{corner}"] = np.rint(boxes[:, corner, index]).astype(np.int64)
    if cells.classes is not None:
        called = dict(enumerate(class_names(result)))
        columns["class"] = np.array([called.get(int(one), "") for one in cells.classes], str)
    columns["score"] = cells.scores
    if is_volumetric(result):
        return columns | _volumes(result)
    return columns | _areas(result)


def is_volumetric(result: Result) -> bool:
    """Return whether cells reach through slices, which were linked."""
    return result.provenance.is_linked and label_axes(result).endswith("ZYX")


def cell_ndim(result: Result) -> int:
    """Return how many spatial axes the cells of a result have: 3 in linked volumes, else 2.

    AxesError where the label axes do not end as they must.
    """
    axes, ending = label_axes(result), "ZYX" if is_volumetric(result) else "YX"
    if not axes.endswith(ending):
        raise AxesError(
            f"Cells are measured in label images whose axes end with {ending}; got {axes!r}. Move the axes."
        )
    return len(ending)


def _areas(result: Result) -> dict[str, NDArray[Any]]:
    areas = result.cells.areas
    columns: dict[str, NDArray[Any]] = {"area_px": areas, "diameter_px": equivalent_diameters(areas)}
    pixel_um = pixel_um_along(result, "YX")
    if pixel_um:
        areas_um2 = areas.astype(np.float64) * np.prod(pixel_um)
        columns["area_um2"] = areas_um2
        columns["diameter_um"] = equivalent_diameters(areas_um2)
    return columns


def _volumes(result: Result) -> dict[str, NDArray[Any]]:
    columns: dict[str, NDArray[Any]] = {"volume_px": result.cells.areas}
    pixel_um = pixel_um_along(result, "ZYX")
    if pixel_um:
        volumes_um3 = result.cells.areas.astype(np.float64) * np.prod(pixel_um)
        columns["volume_um3"] = volumes_um3
        columns["diameter_um"] = equivalent_diameters(volumes_um3, ndim=3)
        return columns
    plane_um = pixel_um_along(result, "YX")
    if plane_um:  # without the step between slices there is no volume, but there are areas
        n_slices = np.maximum(1, result.cells.boxes[:, 1, -3] - result.cells.boxes[:, 0, -3])
        areas_px = result.cells.areas.astype(np.float64) / n_slices
        columns["mean_slice_area_um2"] = areas_px * np.prod(plane_um)
    return columns


def label_axes(result: Result) -> str:
    """Return the axes of a result's points and labels, without leading ones of length 1 that were dropped."""
    axes = without_channels(result.provenance.axes)
    return axes[len(axes) - result.cells.points.shape[1] :]


def label_shape(result: Result) -> tuple[int, ...]:
    """Return the lengths along :func:`label_axes`."""
    if result.cells.labels is not None:
        return tuple(result.cells.labels.shape)
    axes, shape = result.provenance.axes, result.provenance.image_shape
    lengths = [n for axis, n in zip(axes, shape, strict=True) if axis != "C"]
    return tuple(lengths[len(lengths) - result.cells.points.shape[1] :])


def counted_planes(result: Result) -> dict[str, int]:
    """Return what a number of cells is the sum over, ``{"frames": 8}``; empty for one plane or volume."""
    lead = label_axes(result)[: -cell_ndim(result)]
    lengths = zip(lead, label_shape(result), strict=False)
    return {PLANES[axis]: n for axis, n in lengths if n > 1}


def in_planes(planes: Mapping[str, Any]) -> str:
    """Return `` in 8 frames of 5 slices`` for what :func:`counted_planes` tells, alone or within a row."""
    counts = " of ".join(f"{planes[name]:,} {name}" for name in PLANES.values() if name in planes)
    return f" in {counts}" if counts else ""


def pixel_um_along(result: Result, wanted: str) -> tuple[float, ...]:
    """Return micrometres per pixel along these axes, empty when unknown."""
    sizes = known_sizes(result.provenance.axes, result.provenance.pixel_size_um)
    if not set(wanted) <= sizes.keys():
        return ()
    return tuple(sizes[axis] for axis in wanted)
