"""The processes that share the blocks of an image: this one alone, some of this machine, or a cluster."""

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import lru_cache
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellwright.core.errors import SettingsError, needed
from cellwright.core.memory import giving_back
from cellwright.core.tasks import Task, ahead, run
from cellwright.inference.classify import CropScale
from cellwright.inference.predictor import Networks
from cellwright.inference.settings import EngineSettings, StreamSettings
from cellwright.inference.streaming.block import count_block, link_block, window_image
from cellwright.inference.streaming.plan import StreamBlock, StreamJob, StreamPlan
from cellwright.inference.streaming.second_pass import measure_block
from cellwright.models.protocol import CellModel

if TYPE_CHECKING:
    from dask.distributed import Client

CONNECT_S = 10  # for a scheduler to answer
ANY_PORT = "127.0.0.1:0"  # of this machine that is free
WARM_PX = 128  # side of what networks see to begin with
KEPT_BYTES = 1 << 30  # pieces of memory up to this size stay with a process that ends using them
OnBlock = Callable[[StreamBlock], None]
LentClient = Callable[[], "Client | None"]


def one_by_one(job: StreamJob, plan: StreamPlan, blocks: Sequence[StreamBlock]) -> Iterator[int]:
    """Count blocks in this process, reading the next one meanwhile; 1 for each that is finished, else 0."""
    parts = ahead(lambda block: window_image(job.image, block, plan.level), blocks)
    for block in blocks:
        for _ in giving_back(count_block(job, plan, block, next(parts).result())):
            yield 0
        yield 1


def each(on_block: Callable[[StreamBlock], Task[None]], blocks: Sequence[StreamBlock]) -> Iterator[int]:
    """Have blocks done in this process; 1 for each that is finished, else 0."""
    for block in blocks:
        for _ in on_block(block):
            yield 0
        yield 1


def shared_out(
    client: "Client",
    on_block: OnBlock,
    blocks: Sequence[StreamBlock],
    path: Callable[[StreamBlock], Path],
    chunk: int,
) -> Iterator[int]:
    """Have the processes of a cluster take blocks; give the number finished since the last step.

    A block begins once those before it that write to the same chunks, of ``chunk`` pixels a side, are
    finished; 0 where they write to none. One whose process is lost is taken by another one. What is done to a
    block leaves the file that ``path`` tells.
    """
    from dask.distributed import wait

    at_times: dict[int, list[tuple[StreamBlock, Any]]] = defaultdict(list)
    for block in blocks:
        others = at_times[block.time]
        before = [future for other, future in others if chunk and other.overlaps(block, chunk)]
        others.append((block, client.submit(_once, on_block, block, path(block), before, pure=False)))
    left = {future for others in at_times.values() for _, future in others}
    at_times.clear()  # what is finished is let go
    try:
        while left:
            try:
                with client.as_current():
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


def _warm_up(client: "Client", job: StreamJob) -> None:
    """Have the processes of a cluster load the networks, while this one finds out how to count."""
    from dask.distributed import fire_and_forget

    for address in client.nthreads():
        fire_and_forget(client.submit(_warm_there, job, workers=[address], pure=False))


def _once(on_block: OnBlock, block: StreamBlock, path: Path, _: Sequence[None]) -> None:
    """Do what is to be done to a block, which others wait for; not again where its process was lost since."""
    if not path.exists():
        on_block(block)


def _warm_there(job: StreamJob) -> None:
    networks = _networks_there(job.models, job.recipe.engine)
    side = lcm(networks.divisor, WARM_PX)
    networks.attempt(np.zeros((1, networks.spec.in_channels, side, side), np.float32))


def count_there(block: StreamBlock, *, job: StreamJob, plan: StreamPlan) -> None:
    """Count a block in another process."""
    job = _there(job)
    here = plan.with_networks(_networks_there(job.models, job.recipe.engine))
    run(count_block(job, here, block, window_image(job.image, block, plan.level)))


def link_there(block: StreamBlock, *, job: StreamJob, plan: StreamPlan) -> None:
    """Link the outlines in a block in another process."""
    run(link_block(_there(job), plan, block))


def measure_there(block: StreamBlock, *, job: StreamJob, plan: StreamPlan, scale: CropScale | None) -> None:
    """Measure a block in another process."""
    run(measure_block(_there(job), plan, block, scale))


@lru_cache(maxsize=1)
def _there(job: StreamJob) -> StreamJob:
    """Return a job that came before, its image open: by the next run on a cluster that may have changed."""
    return job


@lru_cache(maxsize=1)
def _networks_there(models: tuple[CellModel, ...], settings: EngineSettings) -> Networks:
    return Networks(models, settings)


def _environment(n_workers: int) -> dict[str, str]:
    """Return the variables that processes of this machine begin with: each has its share of the cores.

    Networks ask for the same large pieces of memory again and again. Where each goes back to the system, as
    Dask has it, blocks take up to twice as long; where all are kept, a fifth less than by default.
    """
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    thresholds = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
    return {
        **dict.fromkeys(threads, str(max(1, (os.cpu_count() or 1) // n_workers))),
        **dict.fromkeys(thresholds, str(KEPT_BYTES)),
        "MALLOC_ARENA_MAX": "1",  # that of threads hold no large piece
    }


@contextmanager
def dask_cluster(job: StreamJob) -> Iterator[LentClient]:
    """Lend what gives a client of the cluster that shares the blocks, or None where there is no cluster.

    The cluster starts meanwhile, and its processes load the networks.

    SettingsError where no scheduler answers, or, once a client is asked for, dask.distributed is not
    installed.
    """
    with ExitStack() as held, ThreadPoolExecutor(1) as starter:
        starting = starter.submit(_started, held, job)
        if job.recipe.stream.scheduler:
            starting.result()
        yield starting.result


def _started(held: ExitStack, job: StreamJob) -> "Client | None":
    client = held.enter_context(_cluster(job.recipe.stream))
    if client is not None:
        _warm_up(client, job)
    return client


@contextmanager
def _cluster(stream: StreamSettings) -> Iterator["Client | None"]:
    if stream.workers <= 1 and not stream.scheduler:
        yield None
        return
    with needed(SettingsError, "Sharing the work", "large"):
        import dask
        from dask.distributed import Client, LocalCluster, rpc
    # No client is Dask's default: that would compute all other arrays of this process too, and would do so
    # without end where it has failed.
    if stream.scheduler:

        async def find() -> None:
            async with asyncio.timeout(CONNECT_S), rpc(stream.scheduler) as scheduler:
                await scheduler.identity()

        try:
            # A client that finds nobody may stand still for ever, and this process with it, as it is cleared
            # away while another one starts (dask 2026): so who answers is asked before there is one.
            asyncio.run(find())
            client = Client(stream.scheduler, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError, MemoryError) as error:  # the last: another server answered
            got = str(error) or f"no answer within {CONNECT_S} s"
            raise SettingsError(
                f"Expected a dask scheduler at {stream.scheduler}; got: {got}. Check its address."
            ) from error
        with closing(client):
            yield client
        return
    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ": _environment(stream.workers)}),
        LocalCluster(
            n_workers=stream.workers,
            threads_per_worker=1,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": ANY_PORT},  # else it listens at Dask's own all the same
        ) as processes,
        closing(Client(processes, set_as_default=False)) as client,
    ):
        yield client
