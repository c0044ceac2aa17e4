"""The scale to count an image at: as it is, as its stated diameter asks, or where the model is surest."""

from collections.abc import Sequence
from typing import NamedTuple

from cellwright.core.data import Cells, Maps
from cellwright.core.tasks import Progress, Task
from cellwright.inference.context import Job
from cellwright.inference.predictor import TileProgress
from cellwright.inference.scale import cells_in, is_close, mean_confidence, zoom_for, zoom_of, zoom_of_small
from cellwright.inference.stitching import BlockBatch, n_tiles, predict_unit, units

MEASURED = 0.85  # a model that measures sizes is trusted even where it is this much less sure afterwards
SURER = 1.03  # a look at small cells that suit the model as they are has to be so much surer
MOST_LOOKS = 3  # at the middle of an image, to find out how large its cells are
TUNED = 0.8  # likewise where it was fine-tuned on cells of such a size: the image is likely one of that kind


class Found(NamedTuple):
    """The maps of the frames of one unit, and the cells in them."""

    maps: list[Maps]
    cells: list[Cells]


class Look(NamedTuple):
    """What the middle unit holds at one zoom; nothing was looked for there when the diameter is stated."""

    zoom: float
    unit: BlockBatch
    found: Found | None
    meter: TileProgress

    @property
    def cells(self) -> list[Cells]:
        """The cells of each frame."""
        return self.found.cells if self.found else []


def settle(job: Job) -> Task[Look]:
    """Return the zoom to count at, and what was found on the way to it in the middle unit.

    A stated diameter decides. Else the image is looked at as it is, at the zoom that suits cells like those
    the model was fine-tuned on and, as long as its cells look too small or too large, at the zoom that suits
    them; of these looks the one that the model is surest of counts. So it does where many look rather small.
    """
    zoom = zoom_for(job.settings.diameter_px, job.engine.spec)
    parts = units_of(job, zoom)
    unit, meter = parts[len(parts) // 2], meter_of(job, "tiles", parts, zoom)
    if job.settings.diameter_px:
        return Look(zoom, unit, None, meter)
    best = yield from _look(job, unit, zoom, meter)
    tried = [zoom]
    tuned = zoom_for(job.engine.spec.tuned_diameter_px, job.engine.spec)
    if not is_close(tuned, tried):
        tried.append(tuned)
        trial = yield from _look(job, unit, tuned, meter_of(job, "rescaled tiles", [unit], tuned))
        best = trial if mean_confidence(trial.cells) > TUNED * mean_confidence(best.cells) else best
    measures = "size" in job.engine.models[0].map_kinds.values()
    while len(tried) < MOST_LOOKS:
        wanted, least = zoom_of(best.cells, job.engine.spec), MEASURED if measures else 1.0
        if wanted == 1.0:
            wanted, least = zoom_of_small(best.cells, job.engine.spec), SURER
        if is_close(wanted, tried):
            break
        tried.append(wanted)
        trial = yield from _look(job, unit, wanted, meter_of(job, "rescaled tiles", [unit], wanted))
        if mean_confidence(trial.cells) <= least * mean_confidence(best.cells):
            break
        best = trial
    return best


def _look(job: Job, unit: BlockBatch, zoom: float, meter: TileProgress) -> Task[Look]:
    found = yield from find(job, unit, zoom, meter)
    return Look(zoom, unit, found, meter)


def units_of(job: Job, zoom: float) -> tuple[BlockBatch, ...]:
    """Return the parts to predict one after another at this zoom."""
    return units(len(job.frames), job.frames.shape, job.engine, zoom)


def meter_of(job: Job, stage: str, parts: Sequence[BlockBatch], zoom: float) -> TileProgress:
    """Return a meter that counts the tiles of these parts."""
    return TileProgress(stage, n_tiles(parts, job.engine, zoom))


def find(job: Job, part: BlockBatch, zoom: float, meter: TileProgress) -> Task[Found]:
    """Return the maps of one part and the cells in them, in pixels of the image."""
    maps = yield from predict_unit(job.frames, job.scaling, part, job.engine, zoom, meter)
    yield Progress(meter.stage, meter.done, meter.total, note="finding cells")
    model = job.engine.models[0]
    return Found(maps, [cells_in(one, part.shape, model, job.thresholds) for one in maps])
