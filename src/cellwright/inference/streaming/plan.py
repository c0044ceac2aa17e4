"""What is to be counted, where its files go, and the blocks an image larger than memory is cut into."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, fields, replace
from enum import StrEnum
from functools import cached_property
from itertools import product
from math import ceil, lcm, sqrt
from pathlib import Path
from typing import Any, NamedTuple, Self
from zlib import crc32

import numpy as np

from cellwright.core.data import Image
from cellwright.core.errors import SettingsError, WriteError
from cellwright.core.memory import free_memory, giving_back
from cellwright.core.tasks import Task
from cellwright.files.atomic import atomic_write, write_text
from cellwright.files.folders.written import facts_of
from cellwright.files.images import read_image
from cellwright.files.json_value import read_object
from cellwright.files.zarr import address_of, chunk_px
from cellwright.inference.context import BLOCK_PX, LARGEST_CELL, Preparation, load_models
from cellwright.inference.pipeline import LINKED_AXES, prepare
from cellwright.inference.predictor import Networks
from cellwright.inference.recipe import Recipe, read_inputs
from cellwright.inference.scale import ScaleTrial
from cellwright.inference.settings import InputFiles
from cellwright.models import registry, store
from cellwright.models.protocol import CellModel
from cellwright.ops.geometry.intensity import GRAIN_PX, Scaling
from cellwright.ops.geometry.tiles import Tile, padded, pieces
from cellwright.ops.link import anisotropy_of
from cellwright.ops.measure.analysis import AnalysisInputs
from cellwright.ops.measure.regions import RegionSet
from cellwright.ops.measure.settings import AnalysisSettings

CORE_PX = BLOCK_PX  # side of the part of an image that a block answers for; less where there are many slices
BYTES_PER_PIXEL = 80  # that a window of one slice takes while it is predicted and decoded
BYTES_PER_VOXEL = 24  # that each slice of a window takes: pixels and labels
BYTES_PER_LINKED = 36  # that a voxel takes while outlines are linked
MOST_LINKED = 0.9e9  # bytes of a block of them: larger ones are hardly faster
MOST_SLICES = 16  # that a block of outlines has: more are hardly faster
TALLEST_CELL = 1.5  # times the model's diameter: how far slices are linked beyond the core of a block
FREE_SHARE = 0.5  # of the free memory that all blocks at work may take
PLAN = "plan.json"  # among the parts
PLAN_VERSION = 2  # another one where blocks are cut, counted or kept in another way
COMPARED_PX = 64  # side of a window in which a smaller copy is compared with the image
MARKED = 8  # of these windows along each side tell an image from others
LEAST_ALIKE = 0.2  # correlation of these windows: of noise alone, thinned out four times, it is 0.25
MOST_LABELS = np.iinfo(np.int32).max


@dataclass(frozen=True)
class StreamJob:
    """One image to count block by block; sent to another process it opens the image there."""

    source: Image | Path  # other processes need a file
    output: Path  # folder of the results
    recipe: Recipe = Recipe()  # noqa: RUF009 - frozen; how it is counted, and what is measured
    whole_table: bool = False  # whether the table of all cells is wanted in memory, with all columns
    run: str = ""  # what no other run has: processes keep what they have opened for as long as it lasts

    def __getstate__(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @cached_property
    def image(self) -> Image:
        """The image, its pixels not yet read."""
        image = self.source
        if not isinstance(image, Image):
            image = read_image(image, self.recipe.axes or None, has_levels=True)
        return self.recipe.image_of(image)

    @property
    def files(self) -> "StreamFiles":
        """Where the files of the image are."""
        return StreamFiles(self.output, self.image.name)

    @property
    def models(self) -> tuple[CellModel, ...]:
        """What counts; all of one family."""
        return load_models(self.recipe.models)

    @property
    def family(self) -> registry.Family:
        """That of the models."""
        return registry.get(self.models[0].spec.family)

    @property
    def settings(self) -> Any:
        """Those of the family."""
        if self.recipe.settings is None:
            return self.family.settings()
        return self.recipe.settings

    @property
    def is_linked(self) -> bool:
        """Whether the outlines of slices are linked to cells in 3D once all of them are there."""
        is_volume = self.recipe.engine.link and self.image.label_axes in LINKED_AXES
        return is_volume and "Labels" in self.family.returns

    @cached_property
    def outlines(self) -> "StreamJob":
        """The job that outlines cells slice by slice, for this one to link them."""
        recipe = replace(
            self.recipe,
            engine=replace(self.recipe.engine, link=False),
            analysis=AnalysisSettings(),
            classifier="",
            files=InputFiles(),
        )
        return replace(self, output=self.files.parts / "slices", recipe=recipe, whole_table=False)

    @cached_property
    def inputs(self) -> AnalysisInputs:
        """What an analysis takes besides the image; each process opens it once."""
        return read_inputs(self.recipe.files, self.image, self.recipe.analysis.region_rule)

    @property
    def regions(self) -> RegionSet:
        """Where cells count."""
        return self.inputs.regions or RegionSet(rule=self.recipe.analysis.region_rule)

    @property
    def has_second_pass(self) -> bool:
        """Whether more is wanted of the cells than a count gives."""
        return self.recipe.is_analysed or self.whole_table or bool(self.recipe.classifier)

    @cached_property
    def fingerprint(self) -> str:
        """What has to be the same for a count to go on: image, models and settings, as text.

        It is that of the first look, for the files of a Zarr folder may be many.
        """
        image = self.image
        facts = {
            "version": PLAN_VERSION,
            "image": [image.name, image.axes, image.shape, str(image.data.dtype), image.pixel_size_um],
            "models": [model.sha256 or model.spec.family for model in self.models],
            "settings": asdict(self.settings),
            "engine": self.recipe.engine.facts,
        }
        if isinstance(self.source, Image):  # it may be of no file, or changed since it was read
            facts["pixels"] = sampled_checksum(image)
        if image.source and not address_of(image.source):
            facts["file"] = facts_of(Path(image.source))
        if image.source_files:
            facts["files"] = [facts_of(Path(path)) for path in image.source_files]
        return json.dumps(facts, sort_keys=True, default=str)

    @property
    def second_fingerprint(self) -> str:
        """The same for what is measured."""
        recipe = replace(self.recipe, with_files=())
        files = [facts_of(path) for path in recipe.input_paths(self.image.name)]
        weights = ""
        if recipe.classifier:
            weights = store.classifier_of(recipe.classifier).weights_sha256
        return json.dumps([asdict(recipe.analysis), recipe.classifier, weights, files])


class StreamBlock(NamedTuple):
    """A window of one time point, its place in the image, and what tells its labels from those of others."""

    number: int  # from 0; its labels lie between ``number`` and ``number + 1`` times those of a block
    time: int  # index along T
    tile: Tile  # the window of (Z,) Y and X, and the core in it
    round: int  # no two blocks of a round write to the same chunk

    def place(self, axes: str, *, core: bool = False) -> tuple[Any, ...]:
        """Return the place of its window, or of its core, in an array with these axes."""
        spans = self.tile.core if core else self.tile.read
        at: dict[str, Any] = dict(zip("ZYX"[-len(spans) :], spans, strict=True))
        at["T"] = self.time
        return tuple(at.get(axis, slice(None)) for axis in axes)

    def grown(self, shape: Sequence[int], margins: Sequence[int]) -> Self:
        """Return the same core in a window that reaches farther, as far as the image (spatial shape) does."""
        return self._replace(tile=Tile(self.tile.core, padded(self.tile.read, margins, shape)))

    def shrunk(self, factor: int) -> Self:
        """Return the same window in a copy of the image so many times smaller along Y and X."""
        *lead, rows, columns = self.tile.read
        small = (slice(span.start // factor, ceil(span.stop / factor)) for span in (rows, columns))
        return self._replace(tile=Tile(self.tile.core, (*lead, *small)))

    def overlaps(self, other: "StreamBlock", chunk: int = 1) -> bool:
        """Return whether the windows of two blocks of one time point have a pixel in common.

        With ``chunk``, whether they reach into one chunk of this side along Y and X.
        """
        sides = [1] * (len(self.tile.read) - 2) + [chunk, chunk]
        spans = zip(self.tile.read, other.tile.read, sides, strict=True)
        return self.time == other.time and all(
            a.start // side <= (b.stop - 1) // side and b.start // side <= (a.stop - 1) // side
            for a, b, side in spans
        )

    def lies_within(self, reach: Sequence[float], other: "StreamBlock") -> bool:
        """Return whether the core of a block is so near to that of another of its time point along each axis.

        Cores that have an edge or a corner in common are 0 pixels apart.
        """
        gaps = (
            max(a.start - b.stop, b.start - a.stop)
            for a, b in zip(self.tile.core, other.tile.core, strict=True)
        )
        return self.time == other.time and all(gap <= most for gap, most in zip(gaps, reach, strict=True))


class StreamPlan(NamedTuple):
    """How an image is counted block by block; kept on disk, so that a stopped run goes on in the same way."""

    preparation: Preparation  # what all blocks are counted with
    core_px: int  # side of a core along Y and X, and the context around it
    halo_px: int
    core_slices: int = 0  # the same along Z; 0 slices take all of them
    halo_slices: int = 0
    level: int = 0  # number of the smaller copy that is counted in; 0 is the image itself
    told: tuple[str, ...] = ()  # sentences for the user, of what there was before

    def with_networks(self, networks: Networks | None) -> Self:
        """Return the same plan for a process that has made the networks; None to send it to another one."""
        return self._replace(preparation=self.preparation._replace(networks=networks))


class Kept(StrEnum):
    """What is kept of a block among the parts, by the ending of its file."""

    CELLS = "csv"  # the table of its cells; there once it was counted
    LEFT = "left.npz"  # the cells that it leaves to blocks that come later; there before its table
    MAPS = "maps.npz"  # its maps, where it was looked at to find the scale; there until it is counted
    FIT = "facts.json"  # what it tells of how well it was counted, where the model is calibrated
    MEASURED = "measured.csv"  # its table with what was measured
    REGIONS = "regions.npz"  # which of its cells lie in which region, and how large regions are in its core
    SELECTED = "selected.csv"  # its measured table without the cells that do not count


class StreamFiles:
    """Where the files of an image are."""

    def __init__(self, output: Path, name: str) -> None:
        self.output, self.name = output, name
        self.parts = output / f"{name}.parts"  # what is needed to go on; gone once all is done
        self.lock = output / f".{name}.lock"  # held while a program counts the image
        self.labels = output / f"{name}.labels.zarr"  # of the cells
        self.faint = self.parts / "faint.zarr"  # where cells of next slices may go on, if told
        self.density = output / f"{name}.density.zarr"  # of a model that tells no single cells

    def of(self, kept: Kept, block: StreamBlock) -> Path:
        """Return the file of what is kept of a block."""
        return self.parts / f"{block.number:06}.{kept}"

    def all_of(self, kept: Kept, blocks: Sequence[StreamBlock]) -> list[Path]:
        """Return the files of all blocks."""
        return [self.of(kept, block) for block in blocks]

    def table(self, ending: str) -> Path:
        """Return a table of the results."""
        return self.output / f"{self.name}.cells.{ending}"


def sampled_checksum(image: Image) -> int:
    """Return a checksum of windows all over an image, by which it is told from others of its size."""
    lengths = image.lengths
    starts = [np.linspace(0, max(0, lengths[axis] - COMPARED_PX), MARKED).astype(int) for axis in "YX"]
    mark = 0
    for number, corner in enumerate(product(*starts)):
        window: dict[str, Any] = {axis: n * number // MARKED**2 for axis, n in lengths.items()}
        for axis, start in zip("YX", corner, strict=True):
            window[axis] = slice(start, start + COMPARED_PX)
        pixels = image.read(tuple(window[axis] for axis in image.axes))
        mark = crc32(pixels.tobytes(), mark)
    return mark


def tell(path: Path, notice: str) -> None:
    """Keep what a user should know of a block beside its table: another process may have found it out."""
    if notice:
        write_text(path.with_suffix(".told"), notice)


def notices_of_blocks(files: StreamFiles) -> tuple[str, ...]:
    """Return what was kept of all blocks, each sentence once."""
    paths = sorted(files.parts.rglob("*.told"))
    return tuple(dict.fromkeys(path.read_text(encoding="utf-8") for path in paths))


def blocks_of(image: Image, plan: StreamPlan) -> tuple[StreamBlock, ...]:
    """Return the blocks of an image, time point by time point, slices by slices, row by row."""
    lengths = image.lengths
    sizes = {axis: (plan.core_px, plan.halo_px, chunk_px(image.label_axes)) for axis in "YX"}
    sizes["Z"] = (plan.core_slices or lengths.get("Z", 1), plan.halo_slices, 1)
    axes = [axis for axis in "ZYX" if axis in lengths]
    shape, halos = [lengths[axis] for axis in axes], [sizes[axis][1] for axis in axes]
    spans = [pieces(lengths[axis], sizes[axis][0]) for axis in axes]
    apart = [_apart(*sizes[axis]) for axis in axes]
    blocks: list[StreamBlock] = []
    for moment in range(lengths.get("T", 1)):
        for index in np.ndindex(*map(len, spans)):
            core = tuple(one[place] for one, place in zip(spans, index, strict=True))
            tile = Tile(core, padded(core, halos, shape))
            places = [place % n for place, n in zip(index, apart, strict=True)]
            blocks.append(StreamBlock(len(blocks), moment, tile, int(np.ravel_multi_index(places, apart))))
    return tuple(blocks)


def in_rounds(blocks: Sequence[StreamBlock]) -> list[StreamBlock]:
    """Return blocks in the order in which they are done, round by round."""
    return sorted(blocks, key=lambda block: block.round)


def _apart(core: int, halo: int, chunk: int) -> int:
    """Return how many blocks farther along an axis a block shares no chunk with one."""
    reach = ceil(halo / chunk) * chunk
    return 1 + ceil(2 * reach / core)


def label_range(block: StreamBlock, n_blocks: int) -> range:
    """Return the labels that the cells of a block may have."""
    n = MOST_LABELS // n_blocks
    return range(block.number * n + 1, (block.number + 1) * n + 1)


def kept_plan(job: StreamJob) -> StreamPlan | None:
    """Return the plan of a run that was stopped; None where there is none of this job."""
    kept = read_object(job.files.parts / PLAN)
    if kept.get("job") != job.fingerprint:
        return None
    preparation = Preparation(
        Scaling(*kept["scaling"]),
        kept["zoom"],
        channels=tuple(Scaling(*one) for one in kept["channels"]),
        n_places=kept["n_places"],
        colouring=kept["colouring"] and Scaling(*kept["colouring"]),
        channel=kept["channel"],
    )
    rest = [kept[name] for name in StreamPlan._fields[1:]]
    return StreamPlan(preparation, *rest)._replace(told=tuple(kept["told"]))


def make_plan(job: StreamJob) -> Task[StreamPlan]:
    """Return how the blocks of an image are to be counted, with the scale estimated."""
    block_px = _block_size(job, 1.0, 0)[0]
    found = yield from giving_back(prepare(job.image, job.models, job.settings, job.recipe.engine, block_px))
    preparation, trials = found
    plan = StreamPlan(preparation, *_block_size(job, preparation.zoom, preparation.scaling.background))
    plan = plan._replace(level=_level_for(job.image, plan))
    _keep_maps(job, plan, trials)
    return plan


def _keep_maps(job: StreamJob, plan: StreamPlan, trials: Sequence[ScaleTrial]) -> None:
    """Write the maps of blocks that the scale was tried on as they will be counted.

    Where there is no room for them, they are predicted again.
    """
    for old in job.files.parts.glob(f"*.{Kept.MAPS}"):
        old.unlink()
    if plan.level or job.image.label_axes != "YX":
        return
    counted_with = plan.preparation.zoom, plan.preparation.scaling
    alike = [one for one in trials if one.predicted and (one.zoom, one.scaling) == counted_with]
    for block, trial in product(blocks_of(job.image, plan), alike):
        if trial.predicted is not None and trial.batch.block.read == block.tile.read:
            path = job.files.of(Kept.MAPS, block)
            with suppress(WriteError), atomic_write(path) as part, part.open("wb") as file:
                np.savez(file, **trial.predicted.maps[0])


def factor_of(image: Image, level: int) -> int:
    """Return how many times smaller a copy of an image is along Y and X; 0 where it is another image."""
    if not level:
        return 1
    small = dict(zip(image.axes, image.levels[level - 1].shape, strict=True))
    lengths = image.lengths
    factor: int = round(lengths["X"] / small["X"])
    fits = all(small[axis] in (lengths[axis] // factor, ceil(lengths[axis] / factor)) for axis in "YX")
    if not fits or any(small[axis] != n for axis, n in lengths.items() if axis not in "YX"):
        return 0
    return factor


def _level_for(image: Image, plan: StreamPlan) -> int:
    """Return the smallest copy of an image that has all the pixels that the networks are given."""
    chosen = 0
    for level in range(1, len(image.levels) + 1):
        factor = factor_of(image, level)
        fits = factor and not plan.core_px % factor and not plan.halo_px % factor
        if fits and plan.preparation.zoom * factor <= 1 and _shows_the_same(image, level, factor):
            chosen = level
    return chosen


def _shows_the_same(image: Image, level: int, factor: int) -> bool:
    """Return whether a smaller copy looks like the image in nine windows: it may be older than the image."""
    small = replace(image, data=image.levels[level - 1])
    lengths = image.lengths
    spans: dict[str, list[slice]] = {}
    for axis in "YX":
        most = lengths[axis] // factor
        side = min(COMPARED_PX, most)
        spans[axis] = [slice(start, start + side) for start in np.linspace(0, most - side, 3).astype(int)]
    pairs = []
    for rows, columns in product(spans["Y"], spans["X"]):
        copy = {"Y": rows, "X": columns}
        own = {axis: slice(span.start * factor, span.stop * factor) for axis, span in copy.items()}
        large = image.read(tuple(own.get(axis, lengths[axis] // 2) for axis in image.axes))
        reduced = small.read(tuple(copy.get(axis, lengths[axis] // 2) for axis in image.axes))
        means = large.reshape(reduced.shape[0], factor, reduced.shape[1], factor).mean(axis=(1, 3))
        pairs.append((means.ravel(), reduced.ravel()))
    ours, theirs = (np.concatenate(side) for side in zip(*pairs, strict=True))
    if not ours.std() or not theirs.std():
        return bool(ours.std() == theirs.std())
    return bool(np.corrcoef(ours, theirs)[0, 1] > LEAST_ALIKE)


def link_size(job: StreamJob, zoom: float) -> tuple[int, int, int, int]:
    """Return the size of the blocks in which outlines are linked: those that overlap least of those that fit.

    Side and context of a core along Y and X, then along Z.

    SettingsError where none does.
    """
    image = job.image
    diameter_px = job.models[0].spec.diameter_px / zoom
    halo, chunk = ceil(LARGEST_CELL * diameter_px), chunk_px(image.label_axes)
    halo_slices = ceil(TALLEST_CELL * diameter_px / anisotropy_of(image.pixel_size_um))
    lengths = image.lengths
    sizes, budget = {}, min(_budget(job), MOST_LINKED) / BYTES_PER_LINKED
    for core in range(chunk, max(lengths["Y"], lengths["X"]) + chunk, chunk):
        window = min(core + 2 * halo, lengths["Y"]) * min(core + 2 * halo, lengths["X"])
        slices = min(int(budget / window), lengths["Z"])
        core_slices = slices
        if slices < lengths["Z"]:
            core_slices -= 2 * halo_slices
        if core_slices > 0:
            share = core_slices * min(core, lengths["Y"]) * min(core, lengths["X"]) / (slices * window)
            sizes[share] = (core, halo, core_slices, halo_slices)
    if not sizes:
        least = min(chunk + 2 * halo, lengths["Y"]) * min(chunk + 2 * halo, lengths["X"])
        least *= min(2 * halo_slices + 1, lengths["Z"]) * BYTES_PER_LINKED
        raise SettingsError(
            f"Cells of {diameter_px:.0f} pixels in volumes take blocks of {least / 1e6:.0f} MB to link; free "
            f"or allowed are {_budget(job) / 1e6:.0f} MB. Give more --memory, or count without linking."
        )
    return sizes[max(sizes)]


def keep_plan(job: StreamJob, plan: StreamPlan) -> None:
    """Write a plan down; from now on a run goes on with it."""
    preparation = plan.preparation
    kept = {
        "job": job.fingerprint,
        "scaling": astuple(preparation.scaling),
        "channels": [astuple(one) for one in preparation.channels],
        "zoom": preparation.zoom,
        "n_places": preparation.n_places,
        "colouring": preparation.colouring and astuple(preparation.colouring),
        "channel": preparation.channel,
        **dict(zip(plan._fields[1:], plan[1:], strict=True)),
    }
    write_text(job.files.parts / PLAN, json.dumps(kept, indent=2))


def _budget(job: StreamJob) -> float:
    """Return the bytes that a block may take."""
    stream = job.recipe.stream
    return min(stream.memory_bytes, FREE_SHARE * free_memory() / stream.workers)


def _block_size(job: StreamJob, zoom: float, background_px: int) -> tuple[int, int, int, int]:
    """Return side and context of a core along Y and X, a multiple of a chunk, and along Z.

    ``background_px`` is the side of the square whose mean is subtracted around each pixel, 0 for none.
    """
    models = job.models
    diameter_px = models[0].spec.diameter_px / zoom
    divisor = lcm(GRAIN_PX, *(model.spec.divisor for model in models))
    in_model_px = max(model.spec.halo for model in models)
    if zoom != 1.0:
        in_model_px += divisor  # see Grid.of_window
    context = in_model_px / zoom + LARGEST_CELL * diameter_px + background_px / 2
    halo = ceil(context / divisor) * divisor
    lengths = job.image.lengths
    per_pixel = BYTES_PER_PIXEL * max(zoom, 1.0) ** 2
    around = int(models[0].needs_volumes)  # slices that the network looks at beside each one
    n_slices = 1 + 2 * around if "Z" in lengths else 0
    chunk = chunk_px(job.image.label_axes)
    window_px = int(sqrt(_budget(job) / (per_pixel + BYTES_PER_VOXEL * n_slices)))
    core = max(min(CORE_PX, window_px - 2 * halo) // chunk * chunk, chunk)
    if not n_slices:
        return core, halo, 0, 0
    window = min(core + 2 * halo, lengths["Y"]) * min(core + 2 * halo, lengths["X"])
    fitting = int((_budget(job) / window - per_pixel) / BYTES_PER_VOXEL) - 2 * around
    return core, halo, max(min(fitting, MOST_SLICES, lengths["Z"]), 1), around
