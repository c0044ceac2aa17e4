"""Counting: an image and a model in, cells or a density and how they were found out.

Every count goes the same way, read :func:`count_with_prediction`: prepare the image, estimate the scale,
predict block after block, decode each, stitch them, link the slices of volumes.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from math import prod
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from cellwright.core.data import (
    ArrayLike,
    Cells,
    Image,
    Maps,
    Prediction,
    Provenance,
    Result,
    package_version,
    without_channels,
)
from cellwright.core.errors import AxesError, ImageError, SettingsError
from cellwright.core.tasks import Progress, Task, beside, run
from cellwright.files.metadata import describe, with_axes
from cellwright.inference.classify import ClassifierChoice, classify
from cellwright.inference.context import (
    BlockBatch,
    CountContext,
    KnownPart,
    ModelChoices,
    Predicted,
    Preparation,
    calibration_of,
    in_seam_order,
    load_models,
    open_context,
    references_of,
)
from cellwright.inference.scale import (
    EstimatedScale,
    ScaleTrial,
    estimate_scale,
    in_best_colour,
    zoom_notice,
)
from cellwright.inference.settings import EngineSettings
from cellwright.models import registry
from cellwright.models.fit import FactCollector, lessened, warning, with_fit_warning
from cellwright.models.protocol import CellModel
from cellwright.models.stitching import Stitched
from cellwright.ops.geometry.intensity import check_pixels
from cellwright.ops.geometry.resample import zoomed
from cellwright.ops.geometry.tiles import whole_tile
from cellwright.ops.link import link_cells
from cellwright.ops.measure.prediction_interval import crowd_notice, widened, with_calibration

LINKED_AXES = ("ZYX", "TZYX")
KEPT_MAPS_BYTES = 1_000_000_000  # larger maps are dropped once decoded


def count(  # noqa: PLR0913 - one word for each thing to choose
    source: ArrayLike | str | Path | Sequence[str | Path],
    model: ModelChoices = registry.DEFAULT_FAMILY,
    *,
    axes: str | None = None,
    settings: Any = None,
    engine: EngineSettings | None = None,
    channels: int | str | Sequence[int | str] | None = None,
    classifier: ClassifierChoice | None = None,
) -> Result:
    """Return the cells of an array or an image file.

    CellwrightError where the source cannot be read or counted in, or the model or a setting does not fit;
    says what to do.

    Parameters
    ----------
    source
        Numpy, dask or zarr array, an :class:`Image`, or the path or address of an image; the paths of several
        files of the same pixels are channels of one image, the first file's first. Masked pixels of a
        numpy array are treated as NaN: narrow gaps are bridged, others count as dark.
    model
        Name or folder of a model, or a tuple of models of one family whose outputs are averaged.
    axes
        One letter of TCZYX for each dimension; when not given, those of the file, or guessed from the shape.
    settings
        Settings of the model's family, ``FlowSettings()`` for instance; its defaults when not given.
    engine
        How the network runs.
    channels
        Number (from 0) or name of a channel, or several that are counted in together, as ``channels`` of the
        engine; its ``combine`` tells how they become one image.
    classifier
        Name or folder of what gives each cell a class; cells have none when not given.

    """
    engine = engine or EngineSettings()
    if isinstance(channels, int | Integral | str):  # a text is one name, not many letters
        channels = (channels,)
    if axes is not None and not isinstance(axes, str):
        raise AxesError(f"Axes are a text with one letter of TCZYX for each dimension; got {axes!r}.")
    if channels is not None and len(channels):
        engine = replace(engine, channels=tuple(map(str, channels)))
    image = _image_of(source, axes)
    result = run(count_cells(image, model, settings, engine))
    if classifier is not None:
        result = run(classify(result, image, classifier, engine))
    return result


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
    the model's range, it is rescaled to the model's own diameter and counted again, and the count with the
    higher confidence stands. An image of small cells that promises few right outlines is tried enlarged, too.
    A stated diameter rescales only when it lies outside that range. Diameters are those of discs of the same
    area. The result is in the image's own pixels either way.

    A family that gives a density gives no cells: the count is the sum of ``maps["density"]``, which has the
    image's axes without its channels, so that the sum over its last two axes counts each time point.

    Parameters are those of :func:`count`. Closing the generator at any moment frees everything it holds.
    """
    result, _ = yield from count_with_prediction(image, model, settings, engine, keep_maps=False)
    return result


def count_with_prediction(
    image: Image,
    model: ModelChoices = registry.DEFAULT_FAMILY,
    settings: Any = None,
    engine: EngineSettings = EngineSettings(),  # noqa: B008 - frozen
    *,
    keep_maps: bool = True,
    known: KnownPart | None = None,
) -> Task[tuple[Result, Prediction | None]]:
    """Return the result of :func:`count_cells` with what :func:`recount` needs to change the settings.

    The prediction is None where the maps are too large to be kept, or are not needed. For a part of another
    image ``known`` tells how the whole was prepared.
    """
    started = time.perf_counter()
    yield Progress("load", 0, 1)
    models = load_models(model)
    with open_context(image, models, settings, engine, known) as context:
        keep_maps &= context.family.gives == "instances"
        facts = FactCollector(context.calibration)
        if known is not None and known.facts is not None:
            facts = known.facts
        context = yield from in_best_colour(context)
        scale, trials = yield from estimate_scale(context)
        context = replace(context, scaling=scale.scaling)
        stitched, prediction = yield from _stitch(context, scale, trials, facts, keep_maps=keep_maps)
        fit = facts.expected_f1([stitched.cells])
        n, cells, link_notice = stitched.count, stitched.cells, ""
        if engine.link and "Z" in image.axes:
            link = partial(_linked, cells, image, models[0], context.settings)
            cells, link_notice = yield from beside("link", link)
            n = float(len(cells))
        found_facts, crowd = {**stitched.facts, **facts.cutting}, ""
        if stitched.maps:
            found_facts |= facts.crowding
            crowd = crowd_notice(n, found_facts["covered"], found_facts.get("most_covered"))
        provenance = provenance_of(context, image, model, scale.zoom, started, fit, **found_facts)
        rescaled = zoom_notice(scale.zoom, context.engine.diameter_px, scale.n_places)
        ran_out = context.networks.notice
        notices = (*context.notices(image), rescaled, link_notice, ran_out, warning(fit), crowd)
    result = Result(
        count=n,
        cells=cells,
        provenance=provenance,
        offset=(0,) * cells.points.shape[1],
        notices=tuple(notice for notice in notices if notice),
        maps=stitched.maps,
        interval=widened(stitched.interval, n, fit, found_facts.get("covered", 0.0)),
        fit=fit,
    )
    return result, prediction


def prepare(
    image: Image,
    model: ModelChoices = registry.DEFAULT_FAMILY,
    settings: Any = None,
    engine: EngineSettings = EngineSettings(),  # noqa: B008 - frozen
    block_px: int = 0,
) -> Task[tuple[Preparation, list[ScaleTrial]]]:
    """Return how the pixels of an image are to be brought to what a model knows, and what that was tried on.

    The scale is estimated at up to three places of a large image, each as long as a block or, where given,
    ``block_px``; the middle one of the three stands.
    """
    yield Progress("load", 0, 1)
    with open_context(image, load_models(model), settings, engine) as whole:
        context = replace(whole, block_px=block_px)
        if context.is_blank:
            return context.prepared(1.0), []
        context = yield from in_best_colour(context)
        scale, trials = yield from estimate_scale(context)
    return replace(context, scaling=scale.scaling).prepared(scale.zoom, scale.n_places), trials


def recount(result: Result, prediction: Prediction | None, model: ModelChoices, settings: Any) -> Result:
    """Return the result under other settings; the network does not run.

    ``result`` and ``prediction`` are those of :func:`count_with_prediction` with ``model``; a density needs
    no prediction.

    SettingsError where the maps were not kept (the image was too large, or of one intensity throughout).
    """
    models = load_models(model)
    first = models[0]
    family = registry.get(first.spec.family)
    if family.gives == "density":
        again = with_calibration(result, settings)
        return replace(again, notices=with_fit_warning(again.notices, again.fit))
    if prediction is None:
        raise SettingsError(
            "New thresholds need the maps of the last count, and these were not kept: the image is too large "
            "or of one intensity throughout. Count again with the new thresholds."
        )
    collector = FactCollector(calibration_of(models, settings))
    stitcher = first.stitcher(prediction.lead_shape, prediction.frame_shape)
    for frame, maps in enumerate(prediction.frames):
        decoded = first.decode(maps, prediction.frame_shape, settings)
        collector.add([maps], [decoded])
        stitcher.add(frame, whole_tile(prediction.frame_shape), decoded)
    cells = run(stitcher.finish(settings)).cells
    found_in = result.provenance
    fit = lessened(collector.expected_f1([cells]), found_in.settings)
    if found_in.is_linked:
        cells, _ = _linked(cells, found_in, first, settings)
    found = {**found_in.settings, family.name: asdict(settings)}
    found.pop("expected_f1", None)
    if fit is not None:
        found["expected_f1"] = round(fit, 4)
    return replace(
        result,
        count=float(len(cells)),
        cells=cells,
        provenance=replace(found_in, settings=found),
        notices=with_fit_warning(result.notices, fit),
        fit=fit,
    )


def _stitch(
    context: CountContext,
    scale: EstimatedScale,
    trials: list[ScaleTrial],
    collector: FactCollector,
    *,
    keep_maps: bool,
) -> Task[tuple[Stitched, Prediction | None]]:
    """Predict and decode the image block by block, and put it together.

    What the ``trials`` of the scale have found is used, and they are let go of. Returns also the maps of the
    image where they are kept.
    """
    frames, settings, zoom = context.frames, context.settings, scale.zoom
    stitcher = context.model.stitcher(frames.lead_shape, frames.shape)
    if context.is_blank:
        return (yield from stitcher.finish(settings)), None
    batches = in_seam_order(context.batches(zoom))
    n_bytes = 4 * context.networks.n_maps * len(frames) * prod(zoomed(frames.shape, zoom))
    keep_maps &= batches[0].shape == frames.shape and n_bytes <= KEPT_MAPS_BYTES
    alike = [one for one in trials if (one.zoom, one.scaling) == (zoom, scale.scaling)]
    ready = _ready(alike, batches, collector, keep_maps=keep_maps)
    left = [batch for index, batch in enumerate(batches) if index not in ready]
    progress = scale.progress or context.progress(left, zoom)
    trials.clear()
    del alike  # or their maps stay in memory beside those of the next block
    kept: list[Maps] = []
    for index, batch in enumerate(batches):
        predicted = ready.pop(index, None)
        if predicted is None:
            predicted = yield from context.decode(batch, zoom, progress)
            collector.add(*predicted, batch.frames)
        for frame, decoded in zip(batch.frames, predicted.decoded, strict=True):
            stitcher.add(frame, batch.block, decoded)
        if keep_maps:
            kept += predicted.maps
        del predicted, decoded  # likewise
    prediction = None
    if keep_maps:
        prediction = Prediction(tuple(kept), zoom, frames.shape, frames.lead_shape)
    return (yield from stitcher.finish(settings)), prediction


def _ready(
    trials: Sequence[ScaleTrial], batches: Sequence[BlockBatch], collector: FactCollector, *, keep_maps: bool
) -> dict[int, Predicted]:
    """Return what the trials of the scale have predicted already, by the index of their batch."""
    ready = {}
    for trial in trials:
        if trial.predicted is not None and trial.batch in batches:
            collector.add(*trial.predicted, trial.batch.frames)
            maps = trial.predicted.maps if keep_maps else []
            ready[batches.index(trial.batch)] = Predicted(maps, trial.predicted.decoded)
    return ready


def _linked(cells: Cells, source: Image | Provenance, model: CellModel, settings: Any) -> tuple[Cells, str]:
    """Return the cells of a volume, in 3D where its slices can be linked, and a sentence where not."""
    axes = without_channels(source.axes)
    if "Z" not in axes or cells.labels is None:
        return cells, ""
    if axes not in LINKED_AXES:
        return cells, f"Slices were not linked: axes {axes!r} are none of {' and '.join(LINKED_AXES)}."
    return link_cells(cells, axes, model.linking(settings), source.pixel_size_um), ""


def provenance_of(
    context: CountContext,
    image: Image,
    model: ModelChoices,
    zoom: float,
    started: float,
    fit: float | None,
    **facts: Any,
) -> Provenance:
    """Return everything needed to repeat a count: versions, checksums, settings and what was really used.

    ``started`` is when it began, by ``time.perf_counter``; ``facts`` are noted besides.
    """
    networks = context.networks
    read: dict[str, Any] = {**context.scaling.changes}
    if context.channels:
        read["channel_ranges"] = [[one.low, one.high] for one in context.channels]
    if image.axes_are_guessed:
        read["axes_are_guessed"] = True
    if image.source_part is not None:
        read["source_axes"], read["source_channel"] = image.source_part
    if image.source_files:
        read["source_files"] = list(image.source_files)
    references = references_of(model)
    read |= {"models": references, **facts}
    if fit is not None:
        read["expected_f1"] = round(fit, 4)
    settings = {
        networks.spec.family: asdict(context.settings),
        "engine": asdict(networks.settings),
        "zoom": zoom,
        "number_type": str(networks.dtype).removeprefix("torch."),
        **read,
    }
    return replace(
        Provenance.of_image(image, settings),
        package_version=package_version(),
        model=" + ".join(Path(one).name for one in references),
        checkpoint_sha256=" + ".join(model.sha256 for model in networks.models),
        device=str(networks.device),
        seconds=time.perf_counter() - started,
    )


def _image_of(source: ArrayLike | str | Path | Sequence[str | Path], axes: str | None) -> Image:
    if isinstance(source, Image):
        if axes:
            return replace(with_axes(source, axes.upper()), source=source.source)
        return source
    if isinstance(source, str | Path):
        source = [source]
    if isinstance(source, list | tuple) and source and isinstance(source[0], str | Path):
        from cellwright.files.images import read_image, with_channels_of

        return with_channels_of(read_image(source[0], axes), source[1:])
    source = _array_of(source)
    if axes:
        return Image(source, axes.upper())
    check_pixels(source)
    return describe(source, "", "image")


def _array_of(source: ArrayLike) -> ArrayLike:
    """Return what can be sliced and has a type of numpy."""
    try:
        np.dtype(source.dtype)
    except (AttributeError, TypeError):  # lists, and arrays of other libraries
        try:
            return np.asarray(source)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ImageError(f"Expected an array of numbers, which numpy can take; got: {error}") from error
    return source
