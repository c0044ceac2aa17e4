"""Images larger than memory: counted block by block, each block written before the next one is read.

::

    <output>/<name>.labels.zarr    labels, OME-Zarr with a pyramid
    <output>/<name>.cells.csv      one row per cell; .parquet beside it where pyarrow is installed
    <output>/<name>.json           how it was found, written last
    <output>/<name>.parts/         while it runs: what is to be done, and the cells of each finished block

A block is a window of Y and X with all slices of one time point: its core, and around it context for the
network and for a whole cell. It is counted as an image of its own, with the intensities and the scale of the
whole image. A cell belongs to the block in whose core its centre lies; what lies on the line between two is
told by its pixels. Blocks are done in four rounds, so that no two neighbours are at work at once: any number
of processes may share a round.

A block that was finished leaves its table of cells. A run that was stopped at any moment goes on with the
blocks that have none; of a block that was interrupted the labels are taken out first.
"""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import zip_longest
from math import ceil, lcm, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from scipy.spatial import cKDTree

from cellwright.core.data import Cells, Image, Provenance, Result
from cellwright.core.errors import SettingsError, WriteError
from cellwright.core.tasks import Progress, Task, run
from cellwright.files.atomic import acquire_lock, atomic_write, make_folder, write_text
from cellwright.files.images import read_image
from cellwright.files.json_value import NO_JSON
from cellwright.files.tables import DECIMALS, cells_table, write_provenance
from cellwright.files.zarr import CHUNK_PX, create_labels, finish_labels, open_labels
from cellwright.inference.context import (
    LARGEST_CELL,
    ModelChoices,
    Preparation,
    load_models,
    names_of,
    open_context,
)
from cellwright.inference.pipeline import count_with_prediction, prepare, provenance_of
from cellwright.inference.predictor import Engine
from cellwright.inference.settings import EngineSettings, StreamSettings
from cellwright.models import registry
from cellwright.models.stitching import SAME_CENTRE, claimed, not_taken, with_lead
from cellwright.ops.geometry.intensity import Scaling
from cellwright.ops.geometry.tiles import Tile

if TYPE_CHECKING:
    import pandas
    from dask.distributed import Client

CORE_PX = 2048  # side of the part of an image that a block answers for; less where there are many slices
BYTES_PER_PIXEL = 80  # that a window of one slice takes while it is predicted and decoded
BYTES_PER_VOXEL = 24  # that each further slice takes: pixels, labels, and what linking takes beside them
MOST_LABELS = np.iinfo(np.int32).max
ROUNDS = 4
CONNECT_S = 10  # for a scheduler to answer


@dataclass(frozen=True, slots=True)
class StreamJob:
    """One image to count, in a form that can be sent to another process.

    Parameters
    ----------
    source
        The image, or the file that holds it; other processes need a file.
    output
        Folder of the results.
    """

    source: Image | Path
    output: Path
    model: ModelChoices = registry.DEFAULT_FAMILY
    settings: Any = None
    engine: EngineSettings = EngineSettings()  # noqa: RUF009 - frozen
    axes: str | None = None

    def image(self) -> Image:
        """Return the image, its pixels not yet read."""
        if isinstance(self.source, Image):
            return self.source
        return read_image(self.source, self.axes)


class StreamBlock(NamedTuple):
    """A window of one time point, its place in the image, and what tells its labels from those of others.

    Parameters
    ----------
    number
        From 0; the labels of its cells lie between ``number`` and ``number + 1`` times those of a block.
    time
        Index along T.
    tile
        The window of Y and X, and the core in it.
    round
        0 to 3; no two neighbours have the same.
    """

    number: int
    time: int
    tile: Tile
    round: int


class StreamPlan(NamedTuple):
    """How an image is counted block by block; kept on disk, so that a stopped run goes on in the same way."""

    preparation: Preparation
    core_px: int
    halo_px: int

    def with_networks(self, networks: Engine) -> Self:
        """Return the same plan for a process that has made the networks."""
        return self._replace(preparation=self.preparation._replace(networks=networks))


@dataclass(frozen=True, slots=True)
class Streamed:
    """What counting an image block by block gives: the count, and where the rest is."""

    count: int
    labels: Path | None
    table: Path
    provenance: Provenance
    notices: tuple[str, ...] = ()


def count_streamed(
    job: StreamJob,
    stream: StreamSettings = StreamSettings(),  # noqa: B008 - frozen
) -> Task[Streamed]:
    """Count an image of any size in constant memory; write its labels, its table of cells and a record.

    Raises
    ------
    SettingsError
        The model gives a density, or other processes cannot read the image.
    CellwrightError
        The image, the model or a setting does not fit, or a file cannot be written; says what to do.
    """
    started = time.perf_counter()
    image = job.image()
    family = registry.get(load_models(job.model)[0].spec.family)
    if family.gives != "instances":
        raise SettingsError(
            f"Images larger than memory are counted cell by cell; {family.name} gives a {family.gives}. "
            "Choose another model, or a part of the image."
        )
    if isinstance(job.source, Image) and (stream.workers > 1 or stream.scheduler):
        raise SettingsError("Several processes need an image file or .zarr folder to read; got an array.")
    with _only_run(job, image):
        plan = yield from _plan(job, image, stream)
        blocks = blocks_of(image, plan)
        left = [block for block in blocks if not _part_path(job, image, block).exists()]
        done = len(blocks) - len(left)
        with _cluster(stream) as client, closing(Engine(load_models(job.model), job.engine)) as networks:
            here = plan.with_networks(networks)
            for number in range(ROUNDS):
                at_once = [block for block in left if block.round == number]
                steps = _one_by_one(job, image, here, at_once)
                if client is not None:
                    steps = _shared_out(job, plan, at_once, client, stream)
                for n_finished in steps:
                    done += n_finished
                    yield Progress("blocks", done, len(blocks))
            yield Progress("pyramid and table", 0, 1)
            result = _finish(job, image, here, blocks, started)
    shutil.rmtree(_parts_folder(job, image))
    return result


def blocks_of(image: Image, plan: StreamPlan) -> tuple[StreamBlock, ...]:
    """Return the blocks of an image, time point by time point, row by row."""
    lengths = dict(zip(image.axes, image.shape, strict=True))
    rows, columns = (_spans(lengths[axis], plan) for axis in "YX")
    blocks: list[StreamBlock] = []
    for moment in range(lengths.get("T", 1)):
        for row, (core_y, read_y) in enumerate(rows):
            for column, (core_x, read_x) in enumerate(columns):
                tile = Tile((core_y, core_x), (read_y, read_x))
                blocks.append(StreamBlock(len(blocks), moment, tile, 2 * (row % 2) + column % 2))
    return tuple(blocks)


def count_block(
    job: StreamJob, image: Image, plan: StreamPlan, block: StreamBlock, part: Image
) -> Task[None]:
    """Count one block from its ``part`` of the image: write its labels, then the table of its cells."""
    counting = count_with_prediction(
        part, job.model, job.settings, job.engine, keep_maps=False, preparation=plan.preparation
    )
    result, _ = yield from counting
    n_labels = MOST_LABELS // len(blocks_of(image, plan))
    first = block.number * n_labels
    if len(result.cells) > n_labels:
        raise SettingsError(
            f"A block may hold {n_labels} cells; got {len(result.cells)}. Give it less memory."
        )
    if result.cells.labels is None:
        cells = _not_found_before(job, image, plan, block, result.cells)
    else:
        cells = _written(job, image, block, result.cells, range(first + 1, first + 1 + n_labels))
    table = _table(image, block, result, cells)
    table["label"] += first
    with atomic_write(_part_path(job, image, block)) as path:
        table.round(DECIMALS).to_csv(path, index=False)


def _written(job: StreamJob, image: Image, block: StreamBlock, cells: Cells, numbers: range) -> Cells:
    """Write the labels of a block's own cells and return these; what an interrupted try left is taken out."""
    labels = open_labels(_labels_path(job, image))
    place: Any = (..., *block.tile.read)
    if "T" in image.axes:
        place = (block.time, *place)
    window = np.asarray(labels[place])
    window[(window >= numbers.start) & (window < numbers.stop)] = 0
    assert cells.labels is not None
    own = not_taken(cells, cells.labels, block.tile, window)
    assert own.labels is not None
    np.copyto(window, own.labels + np.int32(numbers.start - 1), where=own.labels > 0)
    labels[place] = window
    return own


def _not_found_before(
    job: StreamJob, image: Image, plan: StreamPlan, block: StreamBlock, cells: Cells
) -> Cells:
    """Return a block's own cells without those whose centre is that of a cell of a neighbour done before."""
    import pandas

    own = cells.take(claimed(cells.points, block.tile))
    before = [
        _part_path(job, image, other)
        for other in blocks_of(image, plan)
        if other.time == block.time and other.round < block.round and _touch(other.tile, block.tile)
    ]
    centres = [pandas.read_csv(path, usecols=["y", "x"])[["y", "x"]].to_numpy(np.float32) for path in before]
    earlier = np.concatenate([np.zeros((0, 2), np.float32), *centres])
    if not len(earlier) or not len(own):
        return own
    corner = np.array([span.start for span in block.tile.read], np.float32)
    distance, _ = cKDTree(earlier).query(own.points[:, -2:] + corner)
    return own.take(distance > SAME_CENTRE * np.sqrt(own.areas))


def _touch(first: Tile, second: Tile) -> bool:
    """Return whether two cores have an edge or a corner in common."""
    pairs = zip(first.core, second.core, strict=True)
    return all(one.start <= other.stop and other.start <= one.stop for one, other in pairs)


def _table(image: Image, block: StreamBlock, result: Result, cells: Cells) -> "pandas.DataFrame":
    """Return the rows of a block's cells, in pixels of the whole image."""
    offset = [0] * (len(image.label_axes) - 2) + [span.start for span in block.tile.read]
    cells = replace(cells, labels=None)
    if "T" in image.axes:
        boxes = np.stack([with_lead(cells.boxes[:, 0], [0]), with_lead(cells.boxes[:, 1], [1])], axis=1)
        cells = replace(cells, points=with_lead(cells.points, [0]), boxes=boxes)
        offset[0] = block.time
    provenance = replace(result.provenance, axes=image.axes, image_shape=image.shape)
    return cells_table(replace(result, cells=cells, provenance=provenance, offset=tuple(offset)))


def part_of(image: Image, block: StreamBlock) -> Image:
    """Return the window of a block as an image, its pixels read."""
    at = {"T": block.time, "Y": block.tile.read[0], "X": block.tile.read[1]}
    index = tuple(at.get(axis, slice(None)) for axis in image.axes)
    return Image(np.asarray(image.data[index]), image.axes.replace("T", ""), image.pixel_size_um, image.name)


def _plan(job: StreamJob, image: Image, stream: StreamSettings) -> Task[StreamPlan]:
    """Return the plan of a run that was stopped, or a new one where there is none of the same job."""
    folder = _parts_folder(job, image)
    path = folder / "plan.json"
    fingerprint = _fingerprint(job, image)
    with suppress(OSError, *NO_JSON, KeyError, TypeError):  # a damaged plan is none
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["job"] == fingerprint:
            low, high = kept["scaling"]
            return StreamPlan(Preparation(Scaling(low, high), kept["zoom"]), kept["core_px"], kept["halo_px"])
    preparation = yield from prepare(image, job.model, job.settings, job.engine)
    plan = StreamPlan(preparation, *_block_size(job, image, preparation.zoom, stream))
    for old in folder.glob("*.csv"):
        old.unlink()
    if "Labels" in registry.get(load_models(job.model)[0].spec.family).returns:
        create_labels(_labels_path(job, image), image)
    scaling = preparation.scaling
    kept = {"job": fingerprint, "scaling": [scaling.low, scaling.high], "zoom": preparation.zoom}
    write_text(path, json.dumps({**kept, "core_px": plan.core_px, "halo_px": plan.halo_px}, indent=2))
    return plan


def _block_size(job: StreamJob, image: Image, zoom: float, stream: StreamSettings) -> tuple[int, int]:
    """Return the side of a core, a multiple of a chunk, and the context around it, in pixels."""
    models = load_models(job.model)
    spec = models[0].spec
    context = max(model.spec.halo for model in models) + LARGEST_CELL * spec.diameter_px
    divisor = lcm(*(model.spec.divisor for model in models))
    halo = ceil(context / zoom / divisor) * divisor
    n_slices = dict(zip(image.axes, image.shape, strict=True)).get("Z", 1)
    window_px = int(
        sqrt(stream.memory_bytes / (BYTES_PER_PIXEL * max(zoom, 1.0) ** 2 + BYTES_PER_VOXEL * n_slices))
    )
    fewest = 2 * ceil(halo / CHUNK_PX) * CHUNK_PX  # blocks of one round then never share a chunk
    core = min(CORE_PX, window_px - 2 * halo) // CHUNK_PX * CHUNK_PX
    return max(core, fewest), halo


def _spans(length: int, plan: StreamPlan) -> list[tuple[slice, slice]]:
    """Return cores that partition an axis, each with what is read around it."""
    spans = []
    for start in range(0, length, plan.core_px):
        stop = min(start + plan.core_px, length)
        read = slice(max(start - plan.halo_px, 0), min(stop + plan.halo_px, length))
        spans.append((slice(start, stop), read))
    return spans


def _fingerprint(job: StreamJob, image: Image) -> str:
    """Return what has to be the same for a run to go on: image, models and settings, as text."""
    models = load_models(job.model)
    settings = job.settings
    if settings is None:
        settings = registry.get(models[0].spec.family).settings()
    facts = {
        "image": [image.name, image.axes, image.shape, str(image.data.dtype), image.pixel_size_um],
        "models": [model.sha256 or model.spec.family for model in models],
        "settings": asdict(settings),
        "engine": asdict(replace(job.engine, device="auto")),
    }
    return json.dumps(facts, sort_keys=True, default=str)


def _one_by_one(
    job: StreamJob, image: Image, plan: StreamPlan, blocks: Sequence[StreamBlock]
) -> Iterator[int]:
    """Count blocks in this process, reading the next one meanwhile; 1 for each that is finished, else 0."""
    with ThreadPoolExecutor(1) as reader:
        reading = [reader.submit(part_of, image, block) for block in blocks[:1]]
        for block, following in zip_longest(blocks, blocks[1:]):
            part = reading.pop().result()
            if following is not None:
                reading.append(reader.submit(part_of, image, following))
            for _ in count_block(job, image, plan, block, part):
                yield 0
            yield 1


def _shared_out(
    job: StreamJob, plan: StreamPlan, blocks: Sequence[StreamBlock], client: "Client", stream: StreamSettings
) -> Iterator[int]:
    """Have the processes of a cluster count blocks; give the number finished since the last step."""
    from dask.distributed import wait

    left = set(
        client.map(_count_block_there, blocks, job=job, plan=plan, workers_here=stream.workers, pure=False)
    )
    try:
        while left:
            try:
                finished = wait(left, timeout=0.5, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                yield 0
                continue
            for future in finished:
                future.result()  # raises what went wrong there
            left -= finished
            yield len(finished)
    finally:
        client.cancel(list(left))


def _count_block_there(block: StreamBlock, *, job: StreamJob, plan: StreamPlan, workers_here: int) -> None:
    """Count a block in a process of a cluster."""
    import os

    import torch

    if workers_here > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers_here))
    assert isinstance(job.source, Path)
    image = _image_there(job.source, job.axes)
    plan = plan.with_networks(_networks_there(job.model, job.engine))  # type: ignore[arg-type]
    run(count_block(job, image, plan, block, part_of(image, block)))


@lru_cache(maxsize=1)
def _image_there(path: Path, axes: str | None) -> Image:
    return read_image(path, axes)


@lru_cache(maxsize=1)
def _networks_there(model: Any, settings: EngineSettings) -> Engine:
    return Engine(load_models(model), settings)


@contextmanager
def _cluster(stream: StreamSettings) -> Iterator["Client | None"]:
    """Lend a client of the cluster that shares the blocks; None where this process counts them alone."""
    if stream.workers <= 1 and not stream.scheduler:
        yield None
        return
    try:
        from dask.distributed import Client, LocalCluster
    except ImportError as error:
        raise SettingsError(
            "Sharing the work needs dask.distributed. Run: pip install 'napari-cellwright[large]'"
        ) from error
    if stream.scheduler:
        try:
            client = Client(stream.scheduler, timeout=CONNECT_S)
        except (OSError, ValueError, TimeoutError) as error:
            raise SettingsError(
                f"Expected a dask scheduler at {stream.scheduler}; got: {error}. Check its address."
            ) from error
        with client:
            yield client
        return
    with (
        LocalCluster(n_workers=stream.workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _finish(
    job: StreamJob, image: Image, plan: StreamPlan, blocks: Sequence[StreamBlock], started: float
) -> Streamed:
    """Put the tables together, make the pyramid, and write how it was found."""
    parts = [_part_path(job, image, block) for block in blocks]
    table = job.output / f"{image.name}.cells.csv"
    n_cells = _join(parts, table)
    labels: Path | None = _labels_path(job, image)
    if labels is not None and labels.exists():
        finish_labels(labels, image)
    else:
        labels = None
    models = load_models(job.model)
    with open_context(image, models, job.settings, job.engine, plan.preparation) as context:
        seconds = time.perf_counter() - started
        provenance = provenance_of(context, image, names_of(job.model), plan.preparation.zoom, seconds)
        notices = (context.frames.notice,)
    result = Result(
        float(n_cells), Cells.empty(len(image.label_axes)), provenance, notices=tuple(filter(None, notices))
    )
    write_provenance(job.output / f"{image.name}.json", result)
    return Streamed(n_cells, labels, table, provenance, result.notices)


def _join(parts: Sequence[Path], path: Path) -> int:
    """Write the tables of all blocks as one, as CSV and, with pyarrow, as Parquet; return how many rows."""
    n_rows = 0
    with atomic_write(path) as whole, whole.open("w", encoding="utf-8", newline="") as out:
        for index, part in enumerate(parts):
            with part.open(encoding="utf-8", newline="") as rows:
                heading = next(rows)
                if index == 0:
                    out.write(heading)
                for row in rows:
                    out.write(row)
                    n_rows += 1
    try:
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError:
        return n_rows
    with (
        pyarrow.csv.open_csv(path) as reader,
        atomic_write(path.with_suffix(".parquet")) as whole,
        pyarrow.parquet.ParquetWriter(whole, reader.schema) as writer,
    ):
        for batch in reader:
            writer.write_batch(batch)
    return n_rows


@contextmanager
def _only_run(job: StreamJob, image: Image) -> Iterator[None]:
    """Hold the folder of a run's parts, so that no other program works on the same image.

    Raises
    ------
    WriteError
        Another one does, or the folder cannot be written.
    """
    folder = _parts_folder(job, image)
    make_folder(folder)
    lock = acquire_lock(job.output / f".{image.name}.lock")
    if lock is None:
        raise WriteError(
            f"Another program counts {image.name} into {job.output}. Wait for it, or name another folder."
        )
    try:
        yield
    finally:
        lock.release()


def _parts_folder(job: StreamJob, image: Image) -> Path:
    return job.output / f"{image.name}.parts"


def _part_path(job: StreamJob, image: Image, block: StreamBlock) -> Path:
    return _parts_folder(job, image) / f"{block.number:06}.csv"


def _labels_path(job: StreamJob, image: Image) -> Path:
    return job.output / f"{image.name}.labels.zarr"
