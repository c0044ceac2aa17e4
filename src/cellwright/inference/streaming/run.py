"""Images larger than memory: counted block by block, each block written before the next one is read.

::

    <output>/<name>.labels.zarr    labels, OME-Zarr with a pyramid; .density.zarr of a density
    <output>/<name>.cells.csv      one row per cell; .parquet beside it where pyarrow is installed
    <output>/<name>.json           how it was found, written last
    <output>/<name>.parts/         while it runs: what is to be done, and what finished blocks found and left

A block is a window of one time point, of Y and X and some slices: its core, and around it context for the
network and for a whole cell. It is counted as an image of its own, with the intensities and the scale
of the whole image. A cell belongs to the block in whose core its centre lies; what lies on the line between
two is told by its pixels, and what each of them takes for a cell of the other is kept in ``parts`` until both
are done. Blocks are done in rounds, in which no two are neighbours; where several processes share them, one
begins once those before it that it meets are finished: the cells are the same.

A block that was finished leaves its table of cells. A run that was stopped at any moment goes on with the
blocks that have none; of a block that was interrupted the labels are taken out first.

Of a volume the slices are outlined first, into ``parts``; then their outlines are linked to cells, in blocks
that are as high as a cell and a half beyond their core.

Where more is asked for, the blocks are gone through again: see ``second_pass``.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas
from numpy.typing import NDArray

from cellwright.core.data import Cells, Image, Provenance, Result
from cellwright.core.errors import AxesError, SettingsError
from cellwright.core.tasks import Progress, Task
from cellwright.files.atomic import (
    atomic_write,
    make_folder,
    only_holder,
    remove_folder,
    write_text,
    writing,
)
from cellwright.files.folders.written import begin_image, changed_meanwhile, mark_written
from cellwright.files.tables import kind_of, read_cells_table, write_csv, write_provenance
from cellwright.files.zarr import chunk_px, create_array, finish_array, missing_chunks
from cellwright.inference.classify import classifier_facts
from cellwright.inference.context import KnownPart, calibration_of, open_context
from cellwright.inference.pipeline import provenance_of
from cellwright.inference.predictor import Networks
from cellwright.inference.scale import zoom_notice
from cellwright.inference.streaming.block import link_block
from cellwright.inference.streaming.cluster import (
    LentClient,
    OnBlock,
    count_there,
    dask_cluster,
    each,
    link_there,
    measure_there,
    one_by_one,
    shared_out,
)
from cellwright.inference.streaming.plan import (
    PLAN,
    Kept,
    StreamBlock,
    StreamJob,
    StreamPlan,
    blocks_of,
    in_rounds,
    keep_plan,
    kept_plan,
    link_size,
    make_plan,
    notices_of_blocks,
)
from cellwright.inference.streaming.second_pass import (
    Selected,
    analysis_of,
    check_second_pass,
    crop_scale,
    measure_block,
    select,
)
from cellwright.models.fit import FactCollector, Sums, warning
from cellwright.ops.measure.analysis import Counted
from cellwright.ops.measure.cells_table import frames_table
from cellwright.ops.measure.columns import PIXEL_COUNTS
from cellwright.ops.measure.prediction_interval import count_interval, crowd_notice, widened

if TYPE_CHECKING:
    from dask.distributed import Client


BEGUN = "begun"  # among the parts: that what was not ours is kept
MEASURED = "measured.json"  # among the parts: how cells are measured and chosen
STREAMED_AXES = ("YX", "TYX", "ZYX", "TZYX")  # those of OME-Zarr labels
WriteMore = Callable[[Counted], tuple[list[Path], list[str]]]


class Expected(NamedTuple):
    """How well a count can be expected to be, and how crowded its cells are."""

    fit: float | None
    crowding: dict[str, Any]


def count_streamed(job: StreamJob, write: WriteMore = lambda _: ([], [])) -> Task[Counted]:
    """Count an image of any size in constant memory; write its labels, its table of cells and a record.

    What else is to be written does ``write``, before the image counts as done; it returns the files in the
    folder of the results, and sentences for the user. What was changed of an earlier count is kept.

    SettingsError where something is wanted that needs the whole image at once, or other processes cannot read
    it. CellwrightError where the image, the model or a setting does not fit, or a file cannot be written;
    says what to do.
    """
    started, job = time.perf_counter(), replace(job, run=token_hex(8))
    _check(job)
    known, name = job.fingerprint, job.image.name
    with _only_run(job), ExitStack() as held:
        lent = held.enter_context(dask_cluster(job))
        networks = held.enter_context(closing(Networks(job.models, job.recipe.engine)))
        first = job
        if job.is_linked:
            first = job.outlines
            link_size(job, 1.0)  # what cannot be linked fails at once
        here = yield from _count_blocks(first, networks, lent)
        client = lent()
        blocks = blocks_of(job.image, here)
        expected = _expected(first, blocks)
        if job.is_linked:
            here = yield from _link_blocks(job, here, client)
            blocks = blocks_of(job.image, here)
        selected = None
        if job.has_second_pass:
            selected = yield from _second_pass(job, here, blocks, client)
        yield Progress("pyramid and table", 0, 1)
        if replace(job).fingerprint != known:  # which looks again
            raise changed_meanwhile(name)
        notices = [*here.told, *begin_image(name, job.output, begun=job.files.parts / BEGUN).notices]
        found = _finish(job, here, selected, expected, started)
        notices += _write_more(job, found, write)
    with writing(job.files.parts):
        remove_folder(job.files.parts)
    return found._replace(result=replace(found.result, maps={})).with_notices(notices)


def _check(job: StreamJob) -> None:
    """Raise where an image cannot be counted so, before the first block is."""
    axes, stream = job.image.label_axes, job.recipe.stream
    if axes not in STREAMED_AXES:
        raise AxesError(
            f"Images that are counted block by block have axes in the order TZYX; got {axes!r}. "
            "Write the image again with its axes in this order."
        )
    check_second_pass(job)
    if isinstance(job.source, Image) and (stream.workers > 1 or stream.scheduler):
        raise SettingsError("Several processes need an image file or .zarr folder to read; got an array.")


def _count_blocks(job: StreamJob, networks: Networks, lent: LentClient) -> Task[StreamPlan]:
    """Have all blocks of an image counted; return the plan of that."""
    _forget_selected(job)
    plan = kept_plan(job)
    if plan is None:
        plan = yield from make_plan(job)
        plan = _begin(job, plan)
    here = plan.with_networks(networks)
    there = partial(count_there, job=job, plan=plan)
    work = Work("blocks", Kept.CELLS, chunk_px(job.image.label_axes), partial(one_by_one, job, here), there)
    yield from _through(job, blocks_of(job.image, plan), work, lent())
    return here


def _forget_selected(job: StreamJob) -> None:
    """Forget the plan of a run that was stopped once it had taken cells out, where others are wanted now."""
    parts = job.files.parts
    if any(parts.glob(f"*.{Kept.SELECTED}")):
        known = (parts / MEASURED).read_text(encoding="utf-8")
        if not job.has_second_pass or known != job.second_fingerprint:
            (parts / PLAN).unlink(missing_ok=True)


def _link_blocks(job: StreamJob, outlined: StreamPlan, client: "Client | None") -> Task[StreamPlan]:
    """Have the outlines of all slices linked to cells; return the plan of that."""
    _forget_selected(job)
    plan = kept_plan(job)
    if plan is None:
        sizes = link_size(job, outlined.preparation.zoom)
        plan = StreamPlan(outlined.preparation._replace(networks=None), *sizes)
        plan = _begin(job, plan)
    alone, there = partial(each, partial(link_block, job, plan)), partial(link_there, job=job, plan=plan)
    work = Work("link", Kept.CELLS, chunk_px(job.image.label_axes), alone, there)
    yield from _through(job, blocks_of(job.image, plan), work, client)
    return StreamPlan(outlined.preparation, *plan[1:])


class Work(NamedTuple):
    """What is done to each block of an image."""

    stage: str
    leaves: Kept  # the file by which a block is known to be done
    chunk: int  # side of the chunks that are written to; 0 where none are
    alone: Callable[[Sequence[StreamBlock]], Iterator[int]]  # does them in this process
    there: OnBlock  # does one in another process


def _through(
    job: StreamJob, blocks: Sequence[StreamBlock], work: Work, client: "Client | None"
) -> Task[None]:
    """Have all blocks done that have no file yet, round by round."""
    path = partial(job.files.of, work.leaves)
    left = [block for block in in_rounds(blocks) if not _is_whole(path(block))]
    done = len(blocks) - len(left)
    if left:
        yield Progress(work.stage, done, len(blocks))  # the first block may take long
    steps = work.alone(left) if client is None else shared_out(client, work.there, left, path, work.chunk)
    for n_finished in steps:
        done += n_finished
        yield Progress(work.stage, done, len(blocks))


def _is_whole(path: Path) -> bool:
    """Return whether a table is there: one without its heading was lost by a computer that stopped."""
    return path.exists() and path.stat().st_size > 0


def _begin(job: StreamJob, plan: StreamPlan) -> StreamPlan:
    """Make what blocks write into, and keep the plan; what another job left is thrown away.

    Labels that a user has changed are kept, which the plan that is returned tells.
    """
    image = job.image
    files, family = job.files, job.family
    endings = (Kept.CELLS, Kept.LEFT, Kept.FIT, "told")
    for old in (path for ending in endings for path in files.parts.glob(f"*.{ending}")):
        old.unlink()
    maps = [files.labels, files.density]
    before = begin_image(image.name, job.output, maps, begun=files.parts / BEGUN)
    for old in maps:
        with writing(old), suppress(FileNotFoundError):
            remove_folder(old)
    if family.gives == "density":
        create_array(files.density, image, "float32")
    elif "Labels" in family.returns:
        create_array(files.labels, image)
    if family.needs_volumes and not job.recipe.engine.link:  # which is so where outlines are linked later
        create_array(files.faint, image, "bool")
    plan = plan._replace(told=before.notices)
    keep_plan(job, plan)
    return plan


def _second_pass(
    job: StreamJob, plan: StreamPlan, blocks: Sequence[StreamBlock], client: "Client | None"
) -> Task[Selected]:
    """Measure and classify all cells, and leave out those that do not count."""
    files = job.files
    settings, wanted = files.parts / MEASURED, job.second_fingerprint
    if not settings.exists() or settings.read_text(encoding="utf-8") != wanted:
        for old in files.parts.glob("*.measured.*"):
            old.unlink()
        write_text(settings, wanted)
    scale = crop_scale(job, files.all_of(Kept.CELLS, blocks))
    alone = partial(each, lambda block: measure_block(job, plan, block, scale))
    there = partial(measure_there, job=job, plan=plan.with_networks(None), scale=scale)
    yield from _through(job, blocks, Work("measure", Kept.MEASURED, 0, alone, there), client)
    yield Progress("select", 0, 1)
    return select(job, blocks)


def _finish(
    job: StreamJob, plan: StreamPlan, selected: Selected | None, expected: Expected, started: float
) -> Counted:
    """Put the tables together, make the pyramid, and write how it was found."""
    image = job.image
    mark_written(image.name, job.output, ())  # it is rewritten from now on
    files, blocks = job.files, blocks_of(job.image, plan)
    maps = files.density if job.family.gives == "density" else files.labels
    if maps.exists():
        finish_array(maps, image)
    fit = expected.fit
    provenance, notices, settings = _found_by(job, plan, fit, started)
    notices = tuple(filter(None, notices))
    result = Result(0.0, Cells.empty(len(image.label_axes)), provenance, notices=notices, fit=fit)
    parts, analysis = files.all_of(Kept.CELLS, blocks), None
    if job.family.gives == "density":
        result = _summed(job, parts, result, settings, expected)
        write_csv(files.table("csv"), frames_table(result))
    elif selected is None:
        result = replace(result, count=float(_join(parts, files.table("csv"))))
    else:
        analysis = analysis_of(job, blocks, selected, _with_selection(job, result, selected))
        _join(files.all_of(Kept.SELECTED, blocks), files.table("csv"))
        result = analysis.result
    labels = maps if maps.exists() else None
    found = Counted(result, analysis, labels=labels)
    write_provenance(files.output / f"{image.name}.json", replace(result, notices=found.notices))
    return found


def _write_more(job: StreamJob, found: Counted, write: WriteMore) -> list[str]:
    """Have the rest written, and note what was written; return sentences for the user."""
    files = job.files
    others, notices = write(found)
    own = [files.labels, files.density, files.table("csv"), files.table("parquet")]
    mark_written(job.image.name, job.output, [*others, *(path for path in own if path.exists())])
    return notices


def _found_by(
    job: StreamJob, plan: StreamPlan, fit: float | None, started: float
) -> tuple[Provenance, tuple[str, ...], Any]:
    """Return how an image was counted, what the user should know, and the settings of the family."""
    image = job.image
    preparation = plan.preparation
    with open_context(image, job.models, job.settings, job.recipe.engine, KnownPart(preparation)) as context:
        provenance = provenance_of(context, image, job.recipe.models, preparation.zoom, started, fit)
        rescaled = zoom_notice(preparation.zoom, context.engine.diameter_px, preparation.n_places)
        missing = missing_chunks(image.levels[plan.level - 1]) if plan.level else ""
        of_blocks = notices_of_blocks(job.files)
        notices = (*context.notices(image), missing, rescaled, *of_blocks, warning(fit))
        return provenance, notices, context.settings


def _expected(job: StreamJob, blocks: Sequence[StreamBlock]) -> Expected:
    """Return how well a count can be expected to be, from what its blocks tell and from all of its cells."""
    with_facts = [block for block in blocks if job.files.of(Kept.FIT, block).exists()]
    facts, cells = FactCollector(calibration_of(job.models, job.settings)), [Cells.empty(2)]
    for block, path in zip(with_facts, job.files.all_of(Kept.FIT, with_facts), strict=True):
        facts.add_sums(Sums(*json.loads(path.read_text(encoding="utf-8"))), block.time)
    if job.family.gives != "density":
        cells += map(_scored, job.files.all_of(Kept.CELLS, with_facts))
    return Expected(facts.expected_f1(cells), facts.crowding)


def _scored(part: Path) -> Cells:
    table = pandas.read_csv(part, usecols=lambda name: name in ("score", *PIXEL_COUNTS))
    scores, areas = table["score"], table.drop(columns="score").iloc[:, 0]
    nowhere = np.zeros((len(table), 2), np.float32), np.zeros((len(table), 2, 2), np.float32)
    return Cells(*nowhere, scores.to_numpy(np.float32), areas.to_numpy(np.float32))


def _with_selection(job: StreamJob, result: Result, selected: Selected) -> Result:
    """Return a result that tells how the cells that count were chosen."""
    facts: dict[str, Any] = {"analysis": asdict(job.recipe.analysis), "thresholds": dict(selected.thresholds)}
    if job.recipe.classifier:
        facts |= classifier_facts(job.recipe.classifier)
    return replace(result, provenance=result.provenance.noting(**facts))


def _summed(
    job: StreamJob, parts: Sequence[Path], result: Result, settings: Any, expected: Expected
) -> Result:
    """Return the result of a density from its sums in all blocks: its map has one pixel per time point."""
    blocks = pandas.concat([pandas.read_csv(part) for part in parts])
    sums: NDArray[np.float64] = blocks.groupby("t")["count"].sum().to_numpy(np.float64)
    lead = (len(sums),) if "T" in result.provenance.axes else ()
    density: Any = sums.reshape(*lead, 1, 1)
    count, error, covered = float(sums.sum()), job.models[0].spec.count_error, expected.crowding["covered"]
    crowd = crowd_notice(count, covered, expected.crowding.get("most_covered"))
    return replace(
        result,
        count=count,
        maps={"density": density},
        interval=widened(count_interval(density, settings, error), count, result.fit, covered),
        provenance=result.provenance.noting(count_error=error, **expected.crowding),
        notices=tuple(filter(None, (*result.notices, crowd))),
    )


def _join(parts: Sequence[Path], path: Path) -> int:
    """Write the tables of all blocks as one, as CSV and, with pyarrow, as Parquet; return how many rows."""
    filled = [part for part in parts if _has_rows(part)]
    columns = read_cells_table((filled or list(parts))[0]).columns
    n_rows = 0
    with atomic_write(path) as whole, whole.open("w", encoding="utf-8", newline="") as out:
        out.write(",".join(columns) + "\n")
        for part in filled:
            with part.open(encoding="utf-8", newline="") as rows:
                next(rows)
                for row in rows:
                    out.write(row)
                    n_rows += 1
    try:
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError:
        return n_rows
    types = {name: pyarrow.type_for_alias(kind_of(name)) for name in columns}
    options = pyarrow.csv.ConvertOptions(column_types=types)
    with (
        pyarrow.csv.open_csv(path, convert_options=options) as reader,
        atomic_write(path.with_suffix(".parquet")) as whole,
        pyarrow.parquet.ParquetWriter(whole, reader.schema) as writer,
    ):
        for batch in reader:
            writer.write_batch(batch)
    return n_rows


def _has_rows(part: Path) -> bool:
    with part.open(encoding="utf-8") as lines:
        return sum(1 for _, _ in zip(lines, range(2), strict=False)) == 2


@contextmanager
def _only_run(job: StreamJob) -> Iterator[None]:
    """Hold the folder of a run's parts, so that no other program works on the same image."""
    files = job.files
    make_folder(files.parts)
    wrong = f"Another program counts {job.image.name} into {job.output}. Wait for it, or name another folder."
    with only_holder(files.lock, wrong):
        try:
            yield
        finally:
            with suppress(OSError):
                files.parts.rmdir()  # where nothing was begun
