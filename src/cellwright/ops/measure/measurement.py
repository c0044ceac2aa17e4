"""Cells and an image in, a table of measurements out, piece by piece and only what is asked for."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import SPATIAL, ArrayLike, Cells, Image, Labels, Provenance, Result
from cellwright.core.errors import ImageError, SettingsError
from cellwright.core.tasks import Progress, Task, ahead, run
from cellwright.ops import labels as label_images
from cellwright.ops.geometry.axes import guess_axes
from cellwright.ops.geometry.intensity import check_pixels
from cellwright.ops.measure.blocks import CellBlock, blocks, cropped, misfit, numbers_in_file
from cellwright.ops.measure.cells_table import cell_ndim, cells_table, pixel_um_along
from cellwright.ops.measure.columns import COLUMNS, keys_of
from cellwright.ops.measure.features import (
    CORRECTED,
    CellPixels,
    count_touching,
    measure_intensity,
    measure_shape,
    nearest_distances,
    ring_margins,
    rings,
)
from cellwright.ops.measure.regions import RegionSet
from cellwright.ops.measure.settings import MeasureSettings

if TYPE_CHECKING:
    import pandas

Columns = dict[str, NDArray[Any]]


class LabelledCells(NamedTuple):
    """Labels as a result; ``numbers`` are their values in the layer, row by row."""

    result: Result
    numbers: NDArray[np.int64]


class ChannelSource(NamedTuple):
    """One channel to measure in, under the ending of its columns."""

    name: str
    image: Image
    channel: int


@dataclass(frozen=True, slots=True)
class _Job:
    cells: Cells
    sources: Sequence[ChannelSource]
    keys: Sequence[str]
    spacing: tuple[float, ...]
    settings: MeasureSettings

    def margins(self) -> tuple[int, ...]:
        """Pixels around cells that can matter."""
        if CORRECTED not in self.keys:
            return (1,) * len(self.spacing)
        return ring_margins(self.settings.ring_gap_px + self.settings.ring_width_px, self.spacing)


def measure(
    cells: Result | Labels,
    image: Image | ArrayLike,
    what: Sequence[str] = ("shape", "intensity"),
    *,
    others: Mapping[str, Image | ArrayLike] | None = None,
    settings: MeasureSettings | None = None,
    regions: RegionSet | None = None,
) -> "pandas.DataFrame":
    """Return one row of measurements for each cell, with the columns of ``cellwright.ops.measure.columns``.

    AxesError where the cells are not those of such an image. SettingsError where there is no such
    measurement, or the model gives no outlines to measure.

    Parameters
    ----------
    cells
        What :func:`cellwright.count` gave, or a label image in the shape of the image without its channels.
    image
        What was counted in: an :class:`Image`, or an array whose axes are guessed.
    what
        Groups (``shape``, ``intensity``, ``neighbours``) or single columns (``circularity``).
    others
        Further images of the same pixels to measure the intensity in, by name.
    settings
        Ring of the background; its own ``what`` is not used.
    regions
        Only cells in these have rows, whose column ``regions`` names them.
    """
    own = as_image(image)
    if isinstance(what, str):
        what = (what,)
    settings = replace(settings or MeasureSettings(), measure=tuple(what))
    further = {name: as_image(other, own.axes) for name, other in (others or {}).items()}
    result, numbers = as_result(cells, own)
    table = cells_table(result)
    if numbers is not None:
        table["label"] = numbers
    table = table.assign(**run(measure_result(result, own, settings, further)))
    if regions is None:
        return table
    regions.check(own.label_shape)
    membership = regions.membership(result.cells, result.offset)
    table["regions"] = regions.joined_names(membership)
    return table.loc[np.asarray(membership.any(axis=1))].reset_index(drop=True)


def measure_result(
    result: Result, image: Image, settings: MeasureSettings, others: Mapping[str, Image]
) -> Task[Columns]:
    """Return the measured columns of a result, row by row, without those that every table has.

    Parameters and errors are those of :func:`measure`.
    """
    ndim = cell_ndim(result)
    keys = keys_of(settings.measure, ndim)
    if not keys:
        return {}
    cells = result.cells
    if cells.labels is None:
        raise SettingsError(
            "Cells are measured within their outlines; this model gives none. Choose a model that outlines, "
            "'flow' for instance."
        )
    sizes = pixel_sizes(result, ndim)
    job = _Job(cells, sources_of(result, image, others), keys, sizes or (1.0,) * ndim, settings)
    found = yield from _measured(job, ndim)
    if "nearest_distance" in keys:
        found["nearest_distance"] = nearest_distances(cells, job.spacing)
    places = {key: place for place, key in enumerate(COLUMNS)}
    names = sorted(found, key=lambda name: places.get(name, len(places)))  # those of one channel together
    return {_full_name(name, is_known=bool(sizes)): found[name] for name in names}


def measure_labels(
    labels: Labels, result: Result, image: Image, keys: Sequence[str], others: Mapping[str, Image]
) -> Task[Columns]:
    """Return intensities within other labels numbered like the cells of a result (their cytoplasm)."""
    areas, _, boxes = label_images.label_properties(labels)
    n = len(result.cells)
    cells = Cells(
        result.cells.points, zero_padded(boxes, n), result.cells.scores, zero_padded(areas, n), labels
    )
    ndim = cell_ndim(result)
    job = _Job(cells, sources_of(result, image, others), keys, (1.0,) * ndim, MeasureSettings())
    return (yield from _measured(job, ndim))


def zero_padded(values: NDArray[Any], n: int) -> NDArray[Any]:
    """Return ``n`` rows: those of an array and zeros after them."""
    return np.concatenate([values, np.zeros((n - len(values), *values.shape[1:]), values.dtype)])


def as_image(image: Image | ArrayLike, axes: str = "") -> Image:
    """Return an array as an image with the axes given, as far as they fit, or those its shape tells."""
    if isinstance(image, Image):
        return image
    array = image
    if not hasattr(array, "shape"):
        array = np.asarray(array)
    if len(axes) != len(array.shape):
        axes = guess_axes(tuple(array.shape), array.dtype)
    return Image(array, axes)


def as_result(cells: Result | Labels, image: Image) -> tuple[Result, NDArray[np.int64] | None]:
    """Return a result; of a label image of all pixels of its image also the numbers its rows have there.

    AxesError where the labels have other pixels than the image. ImageError where they are not whole numbers,
    or some are below 0. SettingsError where the result is a density.
    """
    if isinstance(cells, Result):
        if cells.gives == "density":
            raise SettingsError(
                "A density has no single cells to measure, filter or tabulate. Leave that out, or choose "
                "another model."
            )
        return cells, None
    shape = np.shape(cells)
    cropped(image, (), shape)
    if shape != image.label_shape[len(image.label_shape) - len(shape) :]:
        raise misfit(image, shape)
    return result_of_labels(cells, image)


def result_of_labels(labels: Labels, image: Image, *, is_volume: bool = True) -> LabelledCells:
    """Return a label image as a result, so that all that can be done with a count can be done with it.

    A number that occurs in several frames of a time series is a cell in each of them.

    ``labels`` have the shape of the image without its channels; 0 is background, numbers may be missing. A
    number means the same cell in all slices of a volume where ``is_volume``.

    ImageError where they are not whole numbers, or some are below 0.
    """
    labels = np.asarray(labels)
    span = ""
    if labels.dtype.kind in "iu":
        low, high = labels.min(initial=0), labels.max(initial=0)
        span = f" from {low} to {high}"
    if not span or low < 0 or high > np.iinfo(np.int64).max:
        raise ImageError(
            f"Labels must be whole numbers, 0 for the background and above for cells; got {labels.dtype}"
            f"{span}. Number the cells from 1 on."
        )
    axes = image.label_axes[len(image.label_axes) - labels.ndim :]
    ndim = 3 if is_volume and axes.endswith("ZYX") else 2
    n_lead = labels.ndim - ndim
    rows = np.zeros(labels.shape, np.int32)
    numbers: list[NDArray[np.int64]] = []
    n = 0
    for index in np.ndindex(labels.shape[:n_lead]):
        present, rows[index] = label_images.numbered(labels[index])
        if n:
            rows[index] += np.int32(n) * (rows[index] > 0)
        numbers.append(present.astype(np.int64))
        n += len(present)
    areas, points, boxes = label_images.label_properties(rows)
    cells = Cells(points, boxes, np.ones(n, np.float32), areas, rows)
    provenance = Provenance.of_image(image, {"engine": {"link": is_volume}})
    return LabelledCells(
        Result(float(n), cells, provenance, offset=(0,) * labels.ndim),
        np.concatenate([[], *numbers]).astype(np.int64),
    )


def pixel_sizes(result: Result, ndim: int) -> tuple[float, ...]:
    """Return micrometres per pixel of the last ``ndim`` axes; empty when unknown."""
    return pixel_um_along(result, SPATIAL[-ndim:])


def sources_of(result: Result, image: Image, others: Mapping[str, Image]) -> list[ChannelSource]:
    """Return the channels to measure in, each under the ending of its columns.

    AxesError where an image does not have the pixels of the cells. ImageError where its values are no
    intensities. SettingsError where the columns of two channels would have one name.
    """
    labels = result.cells.labels
    assert labels is not None
    found: list[ChannelSource] = []
    for name, one in (("", image), *others.items()):
        check_pixels(one.data)
        part = _squeezed(cropped(one, result.offset, labels.shape), labels.ndim)
        endings = [f"{name}_ch{number}".lstrip("_") for number in numbers_in_file(part)]
        if name and len(endings) == 1:
            endings = [name]
        same = {source.name for source in found} & {*endings}
        if same:
            raise SettingsError(
                f"Each channel needs a name of its own; {min(same)!r} occurs twice. Rename the image "
                f"{name!r}."
            )
        found += [ChannelSource(ending, part, channel) for channel, ending in enumerate(endings)]
    return found


def _squeezed(image: Image, ndim: int) -> Image:
    """Return an image without leading axes of length 1 that its labels lack."""
    lost = set(image.label_axes[: len(image.label_axes) - ndim])
    if not lost:
        return image
    data = image.data[tuple(0 if axis in lost else slice(None) for axis in image.axes)]
    axes = "".join(axis for axis in image.axes if axis not in lost)
    return Image(data, axes, name=image.name)


def _measured(job: _Job, ndim: int) -> Task[Columns]:
    found: Columns = {}
    parts = blocks(job.cells, ndim, job.margins())
    n_done = 0
    n_workers = min(8, os.cpu_count() or 1)  # a few blocks at a time, so that memory stays bounded
    for measured in ahead(partial(_measure_block, job), parts, n_workers, n_workers):
        rows, values = measured.result()
        for name, column in values.items():
            if name not in found:
                found[name] = np.full(len(job.cells), np.nan)
            found[name][rows] = column
        n_done += len(rows)
        yield Progress("measure", n_done, len(job.cells))
    return found


def _measure_block(job: _Job, block: CellBlock) -> tuple[NDArray[np.intp], Columns]:
    groups = {
        group: [key for key in job.keys if COLUMNS[key].group == group] for group in ("shape", "intensity")
    }
    found: Columns = {}
    if groups["shape"]:
        found |= measure_shape(block, groups["shape"], job.spacing)
    if "neighbours_touching" in job.keys:
        found["neighbours_touching"] = count_touching(block)
    if not groups["intensity"]:
        return block.rows, found
    cells, ring = CellPixels.of(block.own, len(block)), None
    if CORRECTED in job.keys:
        gap, width = job.settings.ring_gap_px, job.settings.ring_width_px
        ring = CellPixels.of(rings(block.labels, block.own, gap, width, job.spacing), len(block))
    for source in job.sources:
        pixels = block.read(source.image, source.channel)
        values = measure_intensity(cells, pixels, groups["intensity"], ring)
        found |= {f"{key}_{source.name}": column for key, column in values.items()}
    return block.rows, found


def _full_name(key: str, *, is_known: bool) -> str:
    """Return the name of a column with the unit of its numbers."""
    if key not in COLUMNS or not COLUMNS[key].units:
        return key
    units = COLUMNS[key].units
    micrometres = [unit for unit in units if unit.startswith("um")]
    if micrometres and is_known:
        return f"{key}_{micrometres[0]}"
    return f"{key}_{units[0]}"
