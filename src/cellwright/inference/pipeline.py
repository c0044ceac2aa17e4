"""Counting: an image and a model in, cells and how they were found out."""

import time
from dataclasses import asdict, replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cellwright.core.data import ArrayLike, Cells, Image, Maps, Prediction, Provenance, Result
from cellwright.core.errors import SettingsError
from cellwright.core.tasks import Progress, Task, run
from cellwright.inference.context import Job, ModelChoices, load_models, names_of, open_job
from cellwright.inference.density import count_density
from cellwright.inference.predictor import TileProgress
from cellwright.inference.provenance import provenance_of
from cellwright.inference.scale import cells_in, zoom_for, zoom_notice
from cellwright.inference.scale_trials import Found, find, meter_of, settle, units_of
from cellwright.inference.settings import EngineSettings
from cellwright.inference.stitching import BlockBatch, Stitcher, n_tiles, predict_unit
from cellwright.inference.volume import linked
from cellwright.models import registry
from cellwright.models.protocol import CellModel
from cellwright.ops.geometry.axes import guess_axes
from cellwright.ops.geometry.resample import zoomed
from cellwright.ops.geometry.tiles import Layout, Tile, grid
from cellwright.ops.volumes.link import LinkSettings

LINKED_AXES = ("ZYX", "TZYX")
KEPT_MAPS_BYTES = 1_000_000_000  # larger maps are dropped once decoded


def count(
    source: ArrayLike | str | Path,
    model: ModelChoices = registry.DEFAULT_FAMILY,
    *,
    axes: str | None = None,
    settings: Any = None,
    engine: EngineSettings | None = None,
) -> Result:
    """Return the cells of an array or an image file.

    Parameters
    ----------
    source
        Numpy, dask or zarr array, an :class:`Image`, or the path of an image file.
    model
        Name or folder of a model, or a tuple of models of one family whose outputs are averaged.
    axes
        One letter of TCZYX for each dimension of an array; guessed from its shape when not given.
    settings
        Thresholds of the model's family, ``FlowSettings()`` for instance; its defaults when not given.
    engine
        How the network runs.

    Raises
    ------
    CellwrightError
        The source cannot be read or counted in, or the model or a setting does not fit; says what to do.
    """
    return run(count_cells(_image_of(source, axes), model, settings, engine or EngineSettings()))


def count_cells(
    image: Image,
    model: ModelChoices = registry.DEFAULT_FAMILY,
    settings: Any = None,
    engine: EngineSettings = EngineSettings(),  # noqa: B008 - frozen
) -> Task[Result]:
    """Return the cells of an image of any size, slice by slice and time point by time point.

    The outlines in neighbouring slices of a volume are then linked to cells in 3D (unless ``engine.link`` is
    off), for the families that take volumes.

    Without a stated diameter the image is counted as it is; where the diameter of what was found lies outside
    the model's range, it is rescaled to the model's own diameter and counted again, and the count that the
    model is surer of stands. A stated diameter rescales only when it lies outside that range. Diameters are
    those of discs of the same area. The result is in the image's own pixels either way.

    Parameters are those of :func:`count`. Closing the generator at any moment frees everything it holds.
    """
    started = time.perf_counter()
    yield Progress("load", 0, 1)
    models = load_models(model)
    if registry.get(models[0].spec.family).gives == "density":
        return (yield from count_density(image, model, settings, engine))
    with open_job(image, models, settings, engine) as job:
        outcome = yield from _count(job)
        if is_volume := engine.link and "Z" in image.axes:
            yield Progress("link", 0, 1)
        linking = models[0].linking(job.thresholds) if is_volume else None
        cells, link_notice = _linked(outcome.cells, image, linking)
        provenance = provenance_of(
            image,
            job.engine,
            names=names_of(model),
            thresholds=job.thresholds,
            zoom=outcome.zoom,
            seconds=time.perf_counter() - started,
        )
        rescaled = zoom_notice(outcome.zoom, engine.diameter_px)
        notices = (job.frames.notice, rescaled, link_notice, job.engine.notice)
    return Result(
        count=float(len(cells)),
        cells=cells,
        provenance=provenance,
        prediction=outcome.prediction,
        offset=(0,) * cells.points.shape[1],
        notices=tuple(notice for notice in notices if notice),
    )


def predict(
    image: Image,
    model: ModelChoices = registry.DEFAULT_FAMILY,
    engine: EngineSettings = EngineSettings(),  # noqa: B008 - frozen
) -> Task[Prediction]:
    """Return the maps of every frame of an image that fits into memory, rescaled if a diameter is stated."""
    yield Progress("load", 0, 1)
    with open_job(image, load_models(model), None, engine) as job:
        zoom = zoom_for(engine.diameter_px, job.engine.spec)
        whole = _whole(job.frames.shape)
        parts = [BlockBatch(range(index, index + 1), whole) for index in range(len(job.frames))]
        meter = TileProgress("tiles", n_tiles(parts, job.engine, zoom))
        maps: list[Maps] = []
        for part in parts:
            maps += yield from predict_unit(job.frames, job.scaling, part, job.engine, zoom, meter)
    return Prediction(tuple(maps), zoom, job.frames.shape, job.frames.lead_shape)


def decode(prediction: Prediction, model: ModelChoices, settings: Any) -> Cells:
    """Return the cells in kept maps under these settings, in the image's own pixels, without the network."""
    first = load_models(model)[0]
    mosaic = _mosaic(first, prediction.lead_shape, prediction.frame_shape)
    whole = _whole(prediction.frame_shape)
    for index, maps in enumerate(prediction.frames):
        mosaic.add(index, whole, cells_in(maps, prediction.frame_shape, first, settings))
    return mosaic.cells()


def recount(result: Result, model: ModelChoices, settings: Any) -> Result:
    """Return the result under other thresholds, from the maps it kept; the network does not run.

    Raises
    ------
    SettingsError
        The result kept no maps (its image was too large, or of one intensity throughout).
    """
    if result.prediction is None:
        raise SettingsError(
            "New thresholds need the maps of the last count, and these were not kept: the image is too large "
            "or of one intensity throughout. Count again with the new thresholds."
        )
    cells = decode(result.prediction, model, settings)
    first = load_models(model)[0]
    found_in = result.provenance
    linking = first.linking(settings) if found_in.settings["engine"]["link"] else None
    cells, _ = _linked(cells, found_in, linking)
    family = first.spec.family
    provenance = replace(result.provenance, settings={**result.provenance.settings, family: asdict(settings)})
    return replace(result, count=float(len(cells)), cells=cells, provenance=provenance)


def _linked(cells: Cells, source: Image | Provenance, settings: LinkSettings | None) -> tuple[Cells, str]:
    """Return the cells of a volume, in 3D where its slices can be linked, and a sentence where not."""
    axes = source.axes.replace("C", "")
    if "Z" not in axes or cells.labels is None or settings is None:
        return cells, ""
    if axes not in LINKED_AXES:
        return cells, f"Slices were not linked: axes {axes!r} are none of {' and '.join(LINKED_AXES)}."
    return linked(cells, axes, settings, source.pixel_size_um), ""


class _Outcome(NamedTuple):
    cells: Cells
    prediction: Prediction | None
    zoom: float


def _count(job: Job) -> Task[_Outcome]:
    if job.scaling.low == job.scaling.high:  # an image of one intensity has no cells
        return _Outcome(
            _mosaic(job.engine.models[0], job.frames.lead_shape, job.frames.shape).cells(), None, 1.0
        )
    look = yield from settle(job)
    parts = units_of(job, look.zoom)
    meter = look.meter
    ready = {}
    if look.found and look.unit in parts:
        ready[parts.index(look.unit)] = (
            look.found if _fits(job, parts, look.zoom) else Found([], look.found.cells)
        )
    if look.zoom != 1.0:
        meter = meter_of(
            job, "rescaled tiles", [part for i, part in enumerate(parts) if i not in ready], look.zoom
        )
    return (yield from _gather(job, parts, look.zoom, meter, ready))


def _gather(
    job: Job, parts: tuple[BlockBatch, ...], zoom: float, meter: TileProgress, ready: dict[int, Found]
) -> Task[_Outcome]:
    mosaic = _mosaic(job.engine.models[0], job.frames.lead_shape, job.frames.shape)
    kept: list[Maps] | None = [] if _fits(job, parts, zoom) else None
    for index, part in enumerate(parts):
        found = ready.pop(index, None) or (yield from find(job, part, zoom, meter))
        for frame, cells in zip(part.frames, found.cells, strict=True):
            mosaic.add(frame, part.block, cells)
        if kept is not None:
            kept += found.maps
        del found  # or it stays in memory beside the next block's
    prediction = None
    if kept is not None:
        prediction = Prediction(tuple(kept), zoom, job.frames.shape, job.frames.lead_shape)
    return _Outcome(mosaic.cells(), prediction, zoom)


def _mosaic(model: CellModel, lead_shape: tuple[int, ...], shape: tuple[int, int]) -> Stitcher:
    has_labels = "Labels" in registry.get(model.spec.family).returns
    return Stitcher(lead_shape, shape, has_labels=has_labels)


def _fits(job: Job, parts: tuple[BlockBatch, ...], zoom: float) -> bool:
    """Whether maps can be kept: one block for each frame, and not too many bytes in all."""
    shape = zoomed(job.frames.shape, zoom)
    n_bytes = 4 * job.engine.n_maps * len(job.frames) * prod(shape)
    return parts[0].shape == job.frames.shape and n_bytes <= KEPT_MAPS_BYTES


def _whole(shape: tuple[int, int]) -> Tile:
    return grid(Layout(shape, max(shape)))[0]


def _image_of(source: ArrayLike | str | Path, axes: str | None) -> Image:
    if isinstance(source, Image):
        return source
    if isinstance(source, str | Path):
        from cellwright.files.images import read_image

        return read_image(Path(source))
    array = source if hasattr(source, "shape") else np.asarray(source)
    return Image(array, axes or guess_axes(tuple(array.shape), array.dtype))
