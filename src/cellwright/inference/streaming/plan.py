"""What is to be counted, where its files go, and the blocks an image larger than memory is cut into."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, replace
from math import ceil, lcm, sqrt
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from cellwright.core.data import Image
from cellwright.core.tasks import Task
from cellwright.files.atomic import write_text
from cellwright.files.images import read_image
from cellwright.files.json_value import NO_JSON
from cellwright.files.zarr import chunk_px
from cellwright.inference.context import LARGEST_CELL, ModelChoices, Preparation, load_models
from cellwright.inference.device import free_memory
from cellwright.inference.pipeline import LINKED_AXES, prepare
from cellwright.inference.predictor import Engine
from cellwright.inference.recipe import Recipe
from cellwright.inference.settings import EngineSettings, InputFiles, StreamSettings
from cellwright.models import registry
from cellwright.ops.geometry.intensity import Scaling
from cellwright.ops.geometry.tiles import Tile
from cellwright.ops.measure.settings import AnalysisSettings
from cellwright.ops.volumes.link import anisotropy_of

CORE_PX = 2048  # side of the part of an image that a block answers for; less where there are many slices
BYTES_PER_PIXEL = 80  # that a window of one slice takes while it is predicted and decoded
BYTES_PER_VOXEL = 24  # that each further slice takes: pixels, labels, and what linking takes beside them
TALLEST_CELL = 1.5  # times the model's diameter: how far slices are read beyond the core of a block
FREE_SHARE = 0.5  # of the free memory that all blocks at work may take
MOST_LABELS = np.iinfo(np.int32).max


@dataclass(frozen=True, slots=True)
class StreamJob:
    """One image to count, in a form that can be sent to another process.

    Parameters
    ----------
    source
        The image, or the file that holds it; other processes need a file.
    output
        Folder of the results.
    analysis
        What is measured of the cells, and which of them count.
    classifier
        Name or folder of what gives the cells their classes; empty for none.
    pixel_size_um
        Of the image, where its file is not to be believed; empty as the file tells.
    files
        What the analysis takes besides the image.
    whole_table
        Whether the table of all cells is wanted in memory, with all its columns: for a report, say.
    """

    source: Image | Path
    output: Path
    model: ModelChoices = registry.DEFAULT_FAMILY
    settings: Any = None
    engine: EngineSettings = EngineSettings()  # noqa: RUF009 - frozen
    axes: str | None = None
    analysis: AnalysisSettings = AnalysisSettings()  # noqa: RUF009 - frozen
    classifier: str = ""
    pixel_size_um: tuple[float, ...] = ()
    files: InputFiles = InputFiles()  # noqa: RUF009 - frozen
    whole_table: bool = False

    def image(self) -> Image:
        """Return the image, its pixels not yet read."""
        image = self.source
        if not isinstance(image, Image):
            image = read_image(image, self.axes)
        if not self.pixel_size_um:
            return image
        return replace(image, pixel_size_um=self.pixel_size_um)

    @property
    def family(self) -> registry.Family:
        """That of the models."""
        return registry.get(load_models(self.model)[0].spec.family)

    @property
    def has_second_pass(self) -> bool:
        """Whether more is wanted of the cells than a count gives."""
        is_analysed = self.analysis != AnalysisSettings() or self.files != InputFiles()
        return is_analysed or self.whole_table or bool(self.classifier)

    def fingerprint(self, image: Image) -> str:
        """Return what has to be the same for a count to go on: image, models and settings, as text."""
        models = load_models(self.model)
        settings = self.settings
        if settings is None:
            settings = self.family.settings()
        facts = {
            "image": [image.name, image.axes, image.shape, str(image.data.dtype), image.pixel_size_um],
            "models": [model.sha256 or model.spec.family for model in models],
            "settings": asdict(settings),
            "engine": self.engine.facts,
        }
        return json.dumps(facts, sort_keys=True, default=str)

    def second_fingerprint(self, image: Image) -> str:
        """Return the same for what is measured."""
        paths = Recipe(files=self.files).input_paths(image.name)
        times = [path.stat().st_mtime_ns for path in paths if path.exists()]
        return json.dumps([asdict(self.analysis), self.classifier, list(map(str, paths)), times])


class StreamBlock(NamedTuple):
    """A window of one time point, its place in the image, and what tells its labels from those of others.

    Parameters
    ----------
    number
        From 0; the labels of its cells lie between ``number`` and ``number + 1`` times those of a block.
    time
        Index along T.
    tile
        The window of (Z,) Y and X, and the core in it.
    round
        No two neighbours have the same.
    """

    number: int
    time: int
    tile: Tile
    round: int

    def place(self, axes: str, *, core: bool = False) -> tuple[Any, ...]:
        """Return the place of its window, or of its core, in an array with these axes."""
        spans = self.tile.core if core else self.tile.read
        at: dict[str, Any] = dict(zip("ZYX"[-len(spans) :], spans, strict=True))
        at["T"] = self.time
        return tuple(at.get(axis, slice(None)) for axis in axes)

    def grown(self, shape: Sequence[int], margins: Sequence[int]) -> Self:
        """Return the same core in a window that reaches farther, as far as the image (spatial shape) does."""
        spans = tuple(
            slice(max(span.start - margin, 0), min(span.stop + margin, n))
            for span, margin, n in zip(self.tile.read, margins, shape, strict=True)
        )
        return self._replace(tile=Tile(self.tile.core, spans))

    def touches(self, other: "StreamBlock") -> bool:
        """Return whether two blocks of one time point have an edge or a corner in common."""
        pairs = zip(self.tile.core, other.tile.core, strict=True)
        return self.time == other.time and all(a.start <= b.stop and b.start <= a.stop for a, b in pairs)


class StreamPlan(NamedTuple):
    """How an image is counted block by block; kept on disk, so that a stopped run goes on in the same way.

    Parameters
    ----------
    preparation
        What all blocks are counted with.
    core_px, halo_px
        Side of a core along Y and X, and the context around it.
    core_slices, halo_slices
        The same along Z; 0 slices take all of them.
    """

    preparation: Preparation
    core_px: int
    halo_px: int
    core_slices: int = 0
    halo_slices: int = 0

    def with_networks(self, networks: Engine) -> Self:
        """Return the same plan for a process that has made the networks."""
        return self._replace(preparation=self.preparation._replace(networks=networks))


class StreamFiles(NamedTuple):
    """Where the files of an image are."""

    output: Path
    name: str

    @property
    def parts(self) -> Path:
        """Folder of what is needed to go on; gone once all is done."""
        return self.output / f"{self.name}.parts"

    @property
    def labels(self) -> Path:
        """The labels of the cells."""
        return self.output / f"{self.name}.labels.zarr"

    @property
    def density(self) -> Path:
        """Cells per pixel, of a model that tells no single cells."""
        return self.output / f"{self.name}.density.zarr"

    @property
    def lock(self) -> Path:
        """Held while a program counts the image."""
        return self.output / f".{self.name}.lock"

    def part(self, block: StreamBlock) -> Path:
        """Return the table of the cells of a block; there once it was counted."""
        return self.parts / f"{block.number:06}.csv"

    def fit(self, block: StreamBlock) -> Path:
        """Return how well the count of a block can be expected to be; there where that is known."""
        return self.parts / f"{block.number:06}.fit.json"

    def measured(self, block: StreamBlock) -> Path:
        """Return the same with what was measured."""
        return self.parts / f"{block.number:06}.measured.csv"

    def regions(self, block: StreamBlock) -> Path:
        """Return which cells of a block lie in which region, and how large regions are in its core."""
        return self.parts / f"{block.number:06}.regions.npz"

    def selected(self, block: StreamBlock) -> Path:
        """Return the same without the cells that do not count."""
        return self.parts / f"{block.number:06}.selected.csv"

    def table(self, ending: str) -> Path:
        """Return a table of the results."""
        return self.output / f"{self.name}.cells.{ending}"


def files_of(job: StreamJob, image: Image) -> StreamFiles:
    """Return where the files of an image are."""
    return StreamFiles(job.output, image.name)


def blocks_of(image: Image, plan: StreamPlan) -> tuple[StreamBlock, ...]:
    """Return the blocks of an image, time point by time point, slices by slices, row by row."""
    lengths = dict(zip(image.axes, image.shape, strict=True))
    rows, columns = (_spans(lengths[axis], plan.core_px, plan.halo_px) for axis in "YX")
    layers: list[tuple[slice, slice]] = []
    if "Z" in lengths:
        layers = _spans(lengths["Z"], plan.core_slices or lengths["Z"], plan.halo_slices)
    blocks: list[StreamBlock] = []
    for moment in range(lengths.get("T", 1)):
        for layer in range(max(len(layers), 1)):
            for row, row_spans in enumerate(rows):
                for column, column_spans in enumerate(columns):
                    spans = [*layers[layer : layer + 1], row_spans, column_spans]
                    tile = Tile(tuple(core for core, _ in spans), tuple(read for _, read in spans))
                    number = 4 * (layer % 2) + 2 * (row % 2) + column % 2
                    blocks.append(StreamBlock(len(blocks), moment, tile, number))
    return tuple(blocks)


def labels_of(block: StreamBlock, n_blocks: int) -> range:
    """Return the labels that the cells of a block may have."""
    n = MOST_LABELS // n_blocks
    return range(block.number * n + 1, (block.number + 1) * n + 1)


def make_plan(job: StreamJob, image: Image, stream: StreamSettings) -> Task[tuple[StreamPlan, bool]]:
    """Return the plan of a run that was stopped, or a new one, and whether it is new."""
    path = files_of(job, image).parts / "plan.json"
    fingerprint = job.fingerprint(image)
    with suppress(OSError, *NO_JSON, KeyError, TypeError):  # a damaged plan is none
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["job"] == fingerprint:
            scaling = Scaling(*map(float, kept["scaling"]))
            channels = tuple(Scaling(*map(float, one)) for one in kept.get("channels", ()))
            sizes = (int(kept.get(name, 0)) for name in StreamPlan._fields[3:])
            preparation = Preparation(scaling, kept["zoom"], channels=channels)
            return StreamPlan(preparation, kept["core_px"], kept["halo_px"], *sizes), False
    block_px = _block_size(job, image, 1.0, stream)[0]
    preparation = yield from prepare(image, job.model, job.settings, job.engine, block_px)
    return StreamPlan(preparation, *_block_size(job, image, preparation.zoom, stream)), True


def keep_plan(job: StreamJob, image: Image, plan: StreamPlan) -> None:
    """Write a plan down; from now on a run goes on with it."""
    preparation = plan.preparation
    kept = {
        "job": job.fingerprint(image),
        "scaling": astuple(preparation.scaling),
        "channels": [astuple(one) for one in preparation.channels],
        "zoom": preparation.zoom,
        **dict(zip(plan._fields[1:], plan[1:], strict=True)),
    }
    write_text(files_of(job, image).parts / "plan.json", json.dumps(kept, indent=2))


def _block_size(job: StreamJob, image: Image, zoom: float, stream: StreamSettings) -> tuple[int, ...]:
    """Return side and context of a core along Y and X, a multiple of a chunk, and along Z."""
    models = load_models(job.model)
    diameter_px = models[0].spec.diameter_px / zoom
    divisor = lcm(*(model.spec.divisor for model in models))
    context = max(model.spec.halo for model in models) / zoom + LARGEST_CELL * diameter_px
    halo = ceil(context / divisor) * divisor
    n_bytes = min(stream.memory_bytes, FREE_SHARE * free_memory() / stream.workers)
    per_pixel = BYTES_PER_PIXEL * max(zoom, 1.0) ** 2
    lengths = dict(zip(image.axes, image.shape, strict=True))
    n_slices = lengths.get("Z", 1)
    window_px = int(sqrt(n_bytes / (per_pixel + BYTES_PER_VOXEL * n_slices)))
    chunk = chunk_px(image.label_axes)
    fewest = 2 * ceil(halo / chunk) * chunk  # blocks of one round then never share a chunk
    core = max(min(CORE_PX, window_px - 2 * halo) // chunk * chunk, fewest)
    if image.label_axes not in LINKED_AXES:
        return core, halo
    window = min(core + 2 * halo, lengths["Y"]) * min(core + 2 * halo, lengths["X"])
    halo_slices = ceil(TALLEST_CELL * diameter_px / anisotropy_of(image.pixel_size_um))
    fitting = int((n_bytes / window - per_pixel) / BYTES_PER_VOXEL)
    if fitting >= n_slices:
        return core, halo
    return core, halo, max(fitting - 2 * halo_slices, 2 * halo_slices), halo_slices


def _spans(length: int, core: int, halo: int) -> list[tuple[slice, slice]]:
    """Return cores that partition an axis, each with what is read around it."""
    spans = []
    for start in range(0, length, core):
        stop = min(start + core, length)
        spans.append((slice(start, stop), slice(max(start - halo, 0), min(stop + halo, length))))
    return spans
