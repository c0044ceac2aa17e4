"""The scale to count an image at: as it is, as its stated diameter asks, or where the model is surest."""

from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from cellwright.core.data import Cells
from cellwright.core.tasks import Task
from cellwright.inference.context import BlockBatch, CountContext, Predicted
from cellwright.inference.predictor import TileProgress
from cellwright.models.fit import UNKNOWN_BELOW, WARN_BELOW, FactCollector, mean_confidence
from cellwright.models.spec import ModelSpec
from cellwright.models.stitching import DensityBlock
from cellwright.ops.codecs.density import mean_diameter, typical_diameter
from cellwright.ops.geometry.intensity import (
    JPEG_PX,
    Scaling,
    brightened,
    fit_without_background,
    sample_steps,
)
from cellwright.ops.labels import equivalent_diameters

PLACES: tuple[float, ...] = (0.2, 0.5, 0.8)  # of a large image or a stack, at which its scale is estimated
FEWEST_CELLS = 5  # needed for their diameter to be believed
MANY_CELLS = 40  # of which half being small means more than a few pieces of larger ones
SMALL = 1.25  # cells less than this many times above the smallest diameter are found better when enlarged
ZOOM_RANGE = (1 / 32, 6.0)
CLOSE = 1.2  # zooms that differ by less find the same
MOST_TRIALS = 3  # at the middle of an image, to find out how large its cells are
MEASURED = 0.85  # a model that measures sizes is trusted even where its confidence falls by this factor
TUNED = 0.8  # likewise where it was fine-tuned on cells of such a size: the image is likely one of that kind
SURER = 1.03  # a trial for small cells that suit the model as they are has to raise confidence by this factor
CLOSER = 1.5  # zoom at which an image is tried that promises little as it is
FARTHER = (0.5, 0.25)  # zooms at which one is tried that promises next to nothing: cells may be very large
BETTER_COLOUR = 0.05  # by which one colour alone has to promise more than all together
ABOUT_AS_MUCH = 0.1
FAR_LESS = 0.3  # another colour has to promise, where nothing tells whether both show the same cells
BETTER_LIGHT = 0.05  # by which the image brightened, or without its background, has to promise more
FAR_BETTER = 0.3  # by which they have to promise more, since small cells are lost in them
JUDGED_PX = 512  # side of the window in which brightness is judged


class EstimatedScale(NamedTuple):
    """At which size and brightness an image is counted."""

    zoom: float  # model pixels per image pixel
    scaling: Scaling  # of its intensities
    n_places: int = 0  # of the image that were tried; 0 where these are all of it
    progress: TileProgress | None = None  # of a count of which the trials are the beginning


class ScaleTrial(NamedTuple):
    """What a batch holds at one zoom; ``predicted`` is None where nothing was tried."""

    zoom: float  # model pixels per image pixel
    batch: BlockBatch  # the part of the image that was tried
    predicted: Predicted | None  # its maps, and what was decoded from them
    progress: TileProgress  # counts the tiles of the whole image at this zoom
    scaling: Scaling  # of its intensities
    promised: float = 0.0  # the F1 to expect; 0 where no cell was found or nothing tells

    @property
    def cells(self) -> list[Cells]:
        """The cells of each frame."""
        if self.predicted is None:
            return []
        return self.predicted.decoded


def estimate_scale(context: CountContext) -> Task[tuple[EstimatedScale, list[ScaleTrial]]]:
    """Return the scale to count an image at, and what was tried on the way to it, one trial for each place.

    A large image and a stack are tried at three places, any other one at its middle. The middle one by its
    zoom stands.
    """
    if context.is_blank:
        return EstimatedScale(1.0, context.scaling), []
    n_batches, places, trials = len(context.batches(1.0)), PLACES, []
    if n_batches < len(PLACES):
        places = (0.5,)
    progress = _progress(context)
    for place in places:
        trial = yield from try_scales(context, place, progress)
        trials.append(trial)
    trials.sort(key=lambda trial: (trial.zoom, trial.scaling.power, trial.scaling.background))
    middle, n_places, kept = trials[len(trials) // 2], 0, None
    if len(trials) < n_batches:
        n_places = len(trials)
    if all(trial.progress is progress for trial in trials):
        kept = progress
    return EstimatedScale(middle.zoom, middle.scaling, n_places, kept), trials


def _progress(context: CountContext) -> TileProgress:
    """Return a count of the tiles of an image as its stated diameter asks."""
    zoom = _stated_zoom(context)
    return context.progress(context.batches(zoom), zoom)


def _stated_zoom(context: CountContext) -> float:
    if context.zoom is not None:
        return context.zoom
    return zoom_for(context.engine.diameter_px, context.spec)


def try_scales(
    context: CountContext, at: float = 0.5, progress: TileProgress | None = None
) -> Task[ScaleTrial]:
    """Return the trial of the zoom that suits one place of an image, made in one batch.

    A stated diameter decides. Else one batch (``at`` 0 the first, 1 the last) is tried as it is. Where the
    model gives a density, that tells the diameter of the cells. A model that gives instances is tried at
    further zooms: the one that suits cells like those it was fine-tuned on and, as long as the cells look too
    small or too large, the one that suits them; the trial with the highest confidence decides. An image that
    promises little is tried brightened where it is dim, at other sizes, and without an uneven background,
    too. All trials are decoded with the default settings: what a user filters by must not change the scale,
    or thresholds that are moved after a count would give other cells than a count with them. ``progress``
    goes on where the first look suits.
    """
    zoom, progress = _stated_zoom(context), progress or _progress(context)
    batch = _batch_at(context.batches(zoom), at)
    untried = ScaleTrial(zoom, batch, None, progress, context.scaling)
    is_stated, lighter = bool(context.engine.diameter_px), _brightened(context, batch)
    if context.zoom is not None or (is_stated and lighter is None):
        return untried
    family = context.family
    plain = replace(context, settings=family.settings())
    best = yield from _trial(plain, batch, zoom, progress)
    if family.gives == "instances":
        if lighter is not None:
            best = yield from _in_better_light(replace(lighter, settings=plain.settings), best)
        if not is_stated:
            best = yield from _on_even_ground(plain, best)
            plain = replace(plain, scaling=best.scaling)
            best = yield from _most_confident(plain, best, at)
            best = yield from _at_other_sizes(plain, best, at)
            best = yield from _on_even_ground(plain, best)
        return _decoded_again(context, best)
    assert best.predicted is not None
    measured = zoom_of_density(best.predicted.decoded, context.spec)
    if measured == zoom:
        return best
    progress = context.progress(context.batches(measured), measured)
    return untried._replace(zoom=measured, progress=progress)


def in_best_colour(context: CountContext) -> Task[CountContext]:
    """Return the context of that colour of an image whose count promises most, if they show different things.

    They stay together where no colour alone promises more, or where two promise about as much and show cells
    in different places (nuclei of which some are red and some green), which a density does not tell; where
    nothing tells; and in a series, of which one frame does not decide.
    """
    calibration, family = context.calibration, context.family
    if not context.frames.apart or calibration is None or context.zoom is not None or len(context.frames) > 1:
        return context
    zoom = zoom_for(context.engine.diameter_px, context.spec)
    batch = _batch_at(context.batches(zoom), 0.5)
    found = []
    for one in (context, *map(context.in_one_colour, context.frames.apart)):
        plain = replace(one, settings=family.settings())
        predicted = yield from plain.decode(batch, zoom, plain.progress([batch], zoom))
        found.append((_promise(plain, predicted), predicted.decoded[0], one))
    together, *alone = found
    (promised, cells, best), *others = sorted(alone, key=itemgetter(0), reverse=True)
    if promised <= together[0] + BETTER_COLOUR:
        return context
    if family.gives == "density":
        has_rival = any(likely > promised - FAR_LESS for likely, _, _ in others)
    else:
        rivals = [other for likely, other, _ in others if likely > promised - ABOUT_AS_MUCH]
        has_rival = any(_lie_elsewhere(other, cells) for other in rivals)
    return context if has_rival else best


def _lie_elsewhere(cells: Cells, others: Cells) -> bool:
    """Return whether the middles of most cells are in no box of some others."""
    is_inside = np.zeros(len(cells), bool)
    for low, high in others.boxes:
        is_inside |= ((cells.points >= low) & (cells.points < high)).all(axis=1)
    return int(is_inside.sum()) < len(cells) / 2


def _decoded_again(context: CountContext, trial: ScaleTrial) -> ScaleTrial:
    """Return a trial, made with the default settings, with what its maps hold under those of the count."""
    if context.settings == context.family.settings():
        return trial
    assert trial.predicted is not None
    maps, grid = trial.predicted.maps, context.grid_of(trial.batch, trial.zoom)
    decoded = [context.model.decode(one, trial.batch.shape, context.settings, grid) for one in maps]
    return trial._replace(predicted=trial.predicted._replace(decoded=decoded))


def _batch_at(batches: Sequence[BlockBatch], at: float) -> BlockBatch:
    return batches[min(int(len(batches) * at), len(batches) - 1)]


def _most_confident(context: CountContext, first: ScaleTrial, at: float) -> Task[ScaleTrial]:
    spec, best, tried = context.spec, first, [first.zoom]
    tuned = zoom_for(spec.tuned_diameter_px, spec)
    if not is_close(tuned, tried):
        tried.append(tuned)
        trial = yield from _trial_at(context, first.batch, tuned, at)
        if mean_confidence(trial.cells) > TUNED * mean_confidence(best.cells):
            best = trial
    least_gain = MEASURED if "size" in context.model.map_kinds.values() else 1.0
    while len(tried) < MOST_TRIALS:
        wanted, gain = zoom_of(best.cells, spec), least_gain
        if wanted == 1.0:
            wanted, gain = zoom_of_small(best.cells, spec), SURER
        if is_close(wanted, tried):
            break
        tried.append(wanted)
        trial = yield from _trial_at(context, first.batch, wanted, at)
        if mean_confidence(trial.cells) <= gain * mean_confidence(best.cells) or _are_noise(context, trial):
            break
        best = trial
    return best


def _are_noise(context: CountContext, trial: ScaleTrial) -> bool:
    """Return whether cells are smaller than compressed blocks whose edges noise hides: that noise, likely."""
    return bool(context.scaling.grain) and _diameter_of(trial.cells) < JPEG_PX


def _brightened(context: CountContext, batch: BlockBatch) -> CountContext | None:
    """Return the context that brightens what is dim; None where that is not to be tried."""
    if context.zoom is not None or not _enough(context):
        return None
    starts = [part.start + max(0, part.stop - part.start - JUDGED_PX) // 2 for part in batch.block.read]
    rows, columns = (slice(start, start + JUDGED_PX) for start in starts)
    scaling = brightened(context.scaling, context.frames.read(batch.frames.start, (rows, columns)))
    if scaling is None:
        return None
    return replace(context, scaling=scaling)


def _in_better_light(context: CountContext, first: ScaleTrial) -> Task[ScaleTrial]:
    """Return a trial, or that of the same in this context where that promises much more."""
    if first.promised >= _enough(context):
        return first
    trial = yield from _trial(context, first.batch, first.zoom, context.progress([first.batch], first.zoom))
    if trial.promised > (first.promised or UNKNOWN_BELOW) + BETTER_LIGHT:
        return trial
    return first


def _at_other_sizes(context: CountContext, best: ScaleTrial, at: float) -> Task[ScaleTrial]:
    """Return the trial of the enlarged or shrunk image where that promises more than one that does little.

    Nuclei in stained tissue and in brightfield are often told apart better enlarged; very large cells are
    found in pieces, or not at all, before they are shrunk.
    """
    largest, enough = context.spec.diameter_range_px[1], _enough(context)
    is_small = CLOSER * _diameter_of(best.cells) <= largest
    if best.zoom == 1.0 and is_small and 0 < best.promised < enough:
        trial = yield from _trial_at(context, best.batch, CLOSER, at)
        if trial.promised > best.promised:
            best = trial
    if best.promised < min(WARN_BELOW, enough):
        for zoom in FARTHER:
            trial = yield from _trial_at(context, best.batch, zoom, at)
            if trial.promised > best.promised + FAR_BETTER:
                best = trial
    return best


def _on_even_ground(context: CountContext, best: ScaleTrial) -> Task[ScaleTrial]:
    """Return a trial, or that without an uneven background where that promises more than one of little."""
    if not 0 < best.promised < min(WARN_BELOW, _enough(context)):
        return best
    frames = context.frames
    steps = sample_steps((*frames.lead_shape, *frames.shape))[-2:]
    scaling = fit_without_background(context.scaling, frames.sample, steps, context.spec.percentiles)
    if scaling is None:
        return best
    flat = replace(context, scaling=scaling)
    progress = context.progress([best.batch], best.zoom)
    trial = yield from _trial(flat, best.batch, best.zoom, progress)
    if trial.promised > best.promised + BETTER_LIGHT:
        return trial
    return best


def _enough(context: CountContext) -> float:
    """Return the expected F1 from which on no other look is tried; 0 where none is.

    One slice does not decide how a volume is seen, nor one time point how a series is.
    """
    if context.calibration is None or len(context.frames) > 1:
        return 0.0
    return context.calibration.closer_below


def _trial_at(context: CountContext, batch: BlockBatch, zoom: float, at: float) -> Task[ScaleTrial]:
    """Return what a batch holds at another zoom, or a block where it is too large for that to be one."""
    batches = context.batches(zoom)
    if all(batch.block != one.block for one in batches):
        batch = _batch_at(batches, at)
    return (yield from _trial(context, batch, zoom, context.progress([batch], zoom)))


def _trial(context: CountContext, batch: BlockBatch, zoom: float, progress: TileProgress) -> Task[ScaleTrial]:
    predicted = yield from context.decode(batch, zoom, progress)
    promised = 0.0
    if _enough(context):
        promised = _promise(context, predicted)
    return ScaleTrial(zoom, batch, predicted, progress, context.scaling, promised)


def _promise(context: CountContext, predicted: Predicted) -> float:
    """Return the F1 to expect of what was found; 0 where no cell was, or nothing tells."""
    facts = FactCollector(context.calibration)
    facts.add(predicted.maps, predicted.decoded)
    return facts.expected_f1([one for one in predicted.decoded if isinstance(one, Cells)]) or 0.0


def zoom_for(diameter_px: float, spec: ModelSpec) -> float:
    """Return model pixels per image pixel for cells of this diameter: 1 when it is 0 or suits the model."""
    low, high = spec.diameter_range_px
    if diameter_px == 0 or low <= diameter_px <= high:
        return 1.0
    return _zoom_to(diameter_px, spec)


def _zoom_to(diameter_px: float, spec: ModelSpec) -> float:
    return float(np.clip(spec.diameter_px / diameter_px, *ZOOM_RANGE))


def _diameter(area: float) -> float:
    return float(equivalent_diameters(np.asarray(area)))


def _diameter_of(cells: Sequence[Cells]) -> float:
    """Return the diameter of the cells, 0 when they are too few to tell.

    It is that below which half of the area lies: where cells fell to pieces, the whole ones tell.
    """
    areas = np.sort(np.concatenate([one.areas for one in cells]))
    if len(areas) < FEWEST_CELLS:
        return 0.0
    covered = np.cumsum(areas)
    return _diameter(areas[np.searchsorted(covered, covered[-1] / 2)])


def zoom_of(cells: Sequence[Cells], spec: ModelSpec) -> float:
    """Return model pixels per image pixel for cells that were found; 1 when they are too few to tell."""
    return zoom_for(_diameter_of(cells), spec)


def zoom_of_small(cells: Sequence[Cells], spec: ModelSpec) -> float:
    """Return the same where half of many outlined cells are small; 1 elsewhere.

    Larger ones among them, which suit the model, may be small ones that were merged.
    """
    areas = np.sort(np.concatenate([one.areas for one in cells]))
    if len(areas) < MANY_CELLS or any(one.labels is None for one in cells):
        return 1.0
    middle = _diameter(areas[len(areas) // 2])
    if middle >= SMALL * spec.diameter_range_px[0]:
        return 1.0
    return _zoom_to(middle, spec)


def zoom_of_density(blocks: Sequence[DensityBlock], spec: ModelSpec) -> float:
    """Return the same for densities; the foreground tells the diameter where there is one."""
    density = np.stack([block.density for block in blocks])
    if float(density.sum(dtype=np.float64)) < FEWEST_CELLS:
        return 1.0
    foreground = [block.foreground for block in blocks if block.foreground is not None]
    if foreground:
        return zoom_for(mean_diameter(density, np.stack(foreground)), spec)
    return zoom_for(typical_diameter(density, blocks[0].variance), spec)


def is_close(zoom: float, tried: Sequence[float]) -> bool:
    """Return whether a zoom is too near to one already tried to change what is found."""
    return any(1 / CLOSE <= zoom / one <= CLOSE for one in tried)


def zoom_notice(zoom: float, diameter_px: float, n_places: int) -> str:
    """Return a sentence for the user when the image was rescaled without their word, else ``""``.

    ``n_places`` are those of the image that were looked at, 0 where that was all of it.
    """
    if zoom == 1.0 or diameter_px:
        return ""
    where = {0: "", 1: "; this was judged at its middle"}
    places = where.get(n_places, f"; this was judged at {n_places} places of it")
    if zoom == CLOSER:
        return (
            f"The image was enlarged {zoom:g} times, as more of its cells can be expected to be right "
            f"then{places}; set the diameter to decide yourself."
        )
    size, change = "large", f"shrunk {1 / zoom:.2g}"
    if zoom > 1:
        size, change = "small", f"enlarged {zoom:.2g}"
    return (
        f"The cells looked too {size} for the model, so the image was {change} times{places}; set the "
        "diameter to decide yourself."
    )
