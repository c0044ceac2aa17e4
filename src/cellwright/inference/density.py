"""Counting by density: an image and a model in, a map whose sum is the count, and how far it may be off."""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellwright.core.data import Cells, Image, Maps, Result
from cellwright.core.tasks import Progress, Task
from cellwright.inference.context import Job, ModelChoices, load_models, names_of, open_job
from cellwright.inference.predictor import TileProgress
from cellwright.inference.provenance import provenance_of
from cellwright.inference.scale import FEWEST_CELLS, zoom_for, zoom_notice
from cellwright.inference.scale_trials import meter_of, units_of
from cellwright.inference.settings import EngineSettings
from cellwright.inference.stitching import BlockBatch, predict_unit
from cellwright.models.spec import ModelSpec
from cellwright.ops.codecs.density import (
    FOREGROUND,
    DensitySettings,
    cells_to_density,
    even_out,
    mean_diameter,
    resize_density,
    to_integer_counts,
    typical_diameter,
)
from cellwright.ops.codecs.flow import FlowSettings, flow_to_cells
from cellwright.ops.geometry.resample import resize
from cellwright.ops.measure.prediction_interval import calibrate, interval_of

Density = NDArray[np.float32]  # (..., Y, X), cells per pixel of the image


def count_density(
    image: Image,
    model: ModelChoices = "density",
    settings: DensitySettings | None = None,
    engine: EngineSettings = EngineSettings(),  # noqa: B008 - frozen
) -> Task[Result]:
    """Return the density of an image of any size, whose sum is the count, time point by time point.

    Each tile and each block answers for its core alone, and padding for nothing, so that no pixel is counted
    twice. Where tiled equals untiled, as it does for the small preset, this is the same as averaging what
    overlaps. A stated diameter rescales the image when it lies outside the model's range; without one the
    cells' diameter is read from the foreground, else from their density. Rescaling keeps the sum. What stands
    alone in the foreground holds a whole number of cells, see
    ``ops.codecs.integer_counts``; and where the model tells single cells, too, the density is the mean of
    this one and of theirs: two estimates whose errors differ.

    The count is no whole number; ``maps["density"]`` has the image's axes without its channels, so that the
    sum over its last two axes counts each time point. Parameters and errors are those of
    ``inference.pipeline.count``.
    """
    started = time.perf_counter()
    yield Progress("load", 0, 1)
    settings = settings or DensitySettings()
    with open_job(image, load_models(model), settings, engine) as job:
        density, zoom = yield from _predict(job)
        provenance = provenance_of(
            image,
            job.engine,
            names=names_of(model),
            thresholds=settings,
            zoom=zoom,
            seconds=time.perf_counter() - started,
        )
        count_error = job.engine.spec.count_error
        provenance = replace(provenance, settings={**provenance.settings, "count_error": count_error})
        notices = (job.frames.notice, zoom_notice(zoom, engine.diameter_px), job.engine.notice)
    density *= np.float32(settings.calibration)
    return Result(
        count=_sum(density),
        cells=_no_cells(density.ndim),
        provenance=provenance,
        offset=(0,) * density.ndim,
        notices=tuple(notice for notice in notices if notice),
        maps={"density": density},
        interval=_interval(density, settings, count_error),
    )


def with_calibration(result: Result, settings: DensitySettings) -> Result:
    """Return the result under another calibration; the network does not run."""
    given = result.provenance.settings
    before = DensitySettings(**given["density"])
    density = result.maps["density"] * np.float32(settings.calibration / before.calibration)
    return replace(
        result,
        count=_sum(density),
        maps={"density": density},
        interval=_interval(density, settings, given["count_error"]),
        provenance=replace(result.provenance, settings={**given, "density": asdict(settings)}),
        notices=tuple(notice for notice in result.notices if not notice.startswith("Corrected by ")),
    )


def recalibrated(result: Result, boxes: ArrayLike, counts: ArrayLike) -> Result:
    """Return the result corrected by what was counted by hand in some boxes, whatever corrected it before.

    What its provenance then says of the calibration serves other images too.

    Parameters
    ----------
    result
        Of :func:`count_density`.
    boxes : (N, 2, D)
        First and one-past-last corner in pixels of ``result.maps["density"]``, for each of its axes.
    counts : (N,)
        Cells counted in each box.

    Raises
    ------
    AnnotationError
        The boxes or the counts do not fit; says what to do.
    SettingsError
        The counts are more than a hundred times, or less than a hundredth of what the model finds.
    """
    plain = with_calibration(result, DensitySettings())
    calibration = calibrate(plain.maps["density"], boxes, counts)
    settings = DensitySettings(calibration.factor, calibration.standard_error / calibration.factor)
    corrected = with_calibration(plain, settings)
    return replace(
        corrected,
        interval=calibration.interval(plain.count),
        notices=(*corrected.notices, calibration.remark),
    )


def disagreement(flow_count: float, result: Result) -> str:
    """Return a sentence for the user where a count of single cells lies outside the interval of the density.

    Empty where it lies inside, and where nobody knows how far the density may be off.
    """
    if result.interval is None:
        return ""
    low, high = result.interval
    if low <= flow_count <= high:
        return ""
    relation, cause = (
        ("fewer", "cells that touch were perhaps taken for one")
        if flow_count < low
        else ("more", "cells perhaps fell to pieces, or are of a kind the density does not know")
    )
    return (
        f"Cell by cell there are {flow_count:.0f}, {relation} than the density's {result.count:.0f} "
        f"({low:.0f} to {high:.0f}): {cause}. Count some boxes by hand to see which is right."
    )


class _Look(NamedTuple):
    zoom: float
    meter: TileProgress
    unit: BlockBatch | None = None  # what was predicted at this zoom on the way to it
    maps: Sequence[Maps] = ()


def _predict(job: Job) -> Task[tuple[Density, float]]:
    """Return the density in pixels of the image, and the zoom it was found at."""
    lead, shape = job.frames.lead_shape, job.frames.shape
    density = np.zeros((len(job.frames), *shape), np.float32)
    if job.scaling.low == job.scaling.high:  # an image of one intensity has no cells
        return density.reshape(*lead, *shape), 1.0
    n_told = len(density) if "foreground" in job.engine.spec.map_channels else 0
    foreground, cells = np.zeros((n_told, *shape), np.bool_), np.zeros((n_told, *shape), np.float32)
    canvas = _Canvas(density, foreground, cells, job.engine.spec.density_variance)
    zoom, meter, done, maps = yield from _settle(job)
    if done is not None:
        canvas.write(done, maps)
    del maps  # or they stay in memory beside those of the next unit
    for part in units_of(job, zoom):
        if part != done:
            canvas.write(part, (yield from _maps(job, part, zoom, meter)))
    for index in range(n_told):
        yield Progress("whole cells", index, n_told)
        whole = to_integer_counts(density[index], foreground[index])
        density[index] = even_out((whole + cells[index]) / 2)
    return density.reshape(*lead, *shape), zoom


def _maps(job: Job, part: BlockBatch, zoom: float, meter: TileProgress) -> Task[list[Maps]]:
    return (yield from predict_unit(job.frames, job.scaling, part, job.engine, zoom, meter))


class _Canvas(NamedTuple):
    """Maps of an image (frames, Y, X), written unit by unit; two are empty where the model tells no cells."""

    density: Density
    foreground: NDArray[np.bool_]
    cells: Density  # of the cells that were found one by one
    variance: float

    def write(self, part: BlockBatch, maps: Sequence[Maps]) -> None:
        """Write the core of a unit, which no other unit has."""
        for frame, one in zip(part.frames, maps, strict=True):
            core, local = (frame, *part.block.core), part.block.local
            self.density[core] = resize_density(one["density"][0], part.shape)[local]
            if len(self.foreground):
                self.foreground[core] = resize(one["foreground"], part.shape)[0][local] > FOREGROUND
                self.cells[core] = resize_density(self._cells_in(one), part.shape)[local]

    def _cells_in(self, maps: Maps) -> Density:
        found = flow_to_cells(maps["cell_flow"], maps["foreground"][0], FlowSettings())
        shape = maps["foreground"].shape[-2:]
        density: Density = cells_to_density(found.points, found.areas, shape, self.variance)[0]
        return density


def _settle(job: Job) -> Task[_Look]:
    """Return the zoom to count at, and what was found on the way to it that still serves."""
    zoom = zoom_for(job.settings.diameter_px, job.engine.spec)
    parts = units_of(job, zoom)
    meter = meter_of(job, "tiles", parts, zoom)
    if job.settings.diameter_px:
        return _Look(zoom, meter)
    unit = parts[len(parts) // 2]
    maps = yield from _maps(job, unit, zoom, meter)
    density = np.stack([one["density"][0] for one in maps])
    if _sum(density) >= FEWEST_CELLS:
        zoom = zoom_for(_diameter(density, maps, job.engine.spec), job.engine.spec)
    if zoom == 1.0:
        return _Look(zoom, meter, unit, maps)
    return _Look(zoom, meter_of(job, "rescaled tiles", units_of(job, zoom), zoom))


def _diameter(density: Density, maps: Sequence[Maps], spec: ModelSpec) -> float:
    """Return the diameter of cells in the pixels of these maps, from their area if the model tells it."""
    if "foreground" not in spec.map_channels:
        return typical_diameter(density, spec.density_variance)
    return mean_diameter(density, np.stack([one["foreground"][0] for one in maps]))


def _interval(
    density: Density, settings: DensitySettings, count_error: Sequence[float]
) -> tuple[float, float] | None:
    """Return the interval of the whole count: errors of time points are taken to go together."""
    if not count_error:
        return None
    counts = density.sum(axis=(-2, -1), dtype=np.float64).reshape(-1) / settings.calibration
    ends = [interval_of(float(count), count_error, settings) for count in counts]
    return sum(low for low, _ in ends), sum(high for _, high in ends)


def _sum(density: Density) -> float:
    return float(density.sum(dtype=np.float64))


def _no_cells(n_axes: int) -> Cells:
    none: NDArray[Any] = np.zeros(0, np.float32)
    return Cells(none.reshape(0, n_axes), none.reshape(0, 2, n_axes), none, none)
