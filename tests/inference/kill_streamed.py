"""Kill counts of images block by block (kill -9) in all of their phases, and a worker of a cluster.

Run by hand: ``python tests/inference/kill_streamed.py [KILLS] [SEED]`` (20, 1). Prints a line for each kill,
and fails where a cell is lost or found twice, or where a block that was finished is done again.
"""

import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pandas
import zarr
from dask.distributed import LocalCluster

from cellwright.core.tasks import Progress, run
from cellwright.files import zarr as files_zarr
from cellwright.inference.recipe import Recipe
from cellwright.inference.settings import StreamSettings
from cellwright.inference.streaming import cluster, plan
from cellwright.inference.streaming import run as streaming
from cellwright.inference.streaming.plan import Kept, StreamFiles, StreamJob
from cellwright.ops.measure.settings import AnalysisSettings
from cellwright.ops.simulation.simulate import simulate

SIDE_PX, DIAMETER_PX, N_CELLS, N_SLICES = 384, 26, 50, 2
CORE_PX, CHUNK_PX = 128, 64  # 9 small blocks
MODEL = "nuclei"  # small blocks are mostly context, of which it needs the least
SMALL = StreamSettings(memory="60MB")
END = "pyramid and table"
PHASES = {  # in which a count is killed, one after another
    "field": ("tiles", "blocks", "blocks", "measure", "select", END, END, END),
    "volume": ("tiles", "blocks", "blocks", "link", "measure", END, END),
}


def main(n_kills: int = 20, seed: int = 1) -> None:
    """Count whole, killed, and on two workers of which one is lost."""
    plan.CORE_PX, files_zarr.CHUNK_PX = CORE_PX, CHUNK_PX
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        folder, n_killed = Path(name), 0
        jobs = {image: make_job(folder, image) for image in PHASES}
        took = {image: count_whole(job) for image, job in jobs.items()}
        print("image   goes on at             killed in              done again   left", flush=True)
        for image, phases in cycle(PHASES.items()):
            if n_killed == n_kills:
                break
            attempts = Attempts(replace(jobs[image], output=folder / f"{image} after {n_killed}"))
            for number, phase in enumerate(phases[: n_kills - n_killed]):
                seconds = rng.uniform(0.0, took[image][phase] / phases.count(phase))
                if not attempts.go_on(phases[number:], seconds):
                    break  # it was done before
                n_killed += 1
            else:
                attempts.go_on()
            check(f"{image}, {n_killed} kills so far", jobs[image], attempts.job)
        lose_a_worker(jobs["field"], folder / "cluster")


def make_job(folder: Path, name: str) -> StreamJob:
    """Draw an image, or the slices of a volume; return how it is counted undisturbed."""
    light = np.random.default_rng(1)
    drawn = simulate("fluorescence", (SIDE_PX, SIDE_PX), light, diameter_px=DIAMETER_PX, n_cells=N_CELLS)
    pixels, axes, border = drawn.image, "YX", "drop"
    if name == "volume":
        pixels, axes, border = np.stack([pixels] * N_SLICES), "ZYX", "all"
    source = folder / f"{name}.zarr"
    zarr.create_array(source, data=pixels, chunks=(1, 256, 256)[-pixels.ndim :])
    measured = AnalysisSettings(measure=("shape", "intensity"), border=border)
    recipe = Recipe(models=(MODEL,), axes=axes, analysis=measured, stream=SMALL)
    return StreamJob(source, folder / f"{name} whole", recipe)


def count_whole(job: StreamJob) -> dict[str, float]:
    """Count undisturbed; return the seconds that each phase takes."""
    whole = Attempts(job)
    whole.go_on()
    steps = [line for line in whole.lines() if line[1] == "progress"]
    took: dict[str, float] = {}
    for (start, _, stage, *_), (end, *_) in zip(steps, [*steps[1:], whole.lines()[-1]], strict=True):
        took[stage] = took.get(stage, 0.0) + end - start
    print("undisturbed: " + ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in took.items()))
    return took


@dataclass
class Attempts:
    """A count that goes on in one process after another, as long as they are killed."""

    job: StreamJob
    number: int = 0  # of processes so far

    @property
    def log(self) -> Path:
        """What the last process did."""
        return self.job.output.with_name(f"{self.job.output.name}.{self.number}.log")

    def lines(self) -> list[list[Any]]:
        """Return the lines of the log: seconds, "progress" with stage and numbers, or "begin" and a file."""
        lines = self.log.read_text().splitlines(keepends=True) if self.log.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def go_on(self, phases: Sequence[str] = (), seconds: float = 0.0) -> bool:
        """Go on with the count; kill it so long after one of the phases began. Return whether it was."""
        self.number += 1
        there = finished(self.job)
        child = os.fork()
        if not child:
            try:
                count_noting(self.job, self.log)
                os._exit(0)
            except Exception:  # noqa: BLE001 - a child that ends so tells nothing by itself
                traceback.print_exc()
            finally:
                os._exit(1)
        status = self._ended(child, phases, seconds)
        steps = [line[2:] for line in self.lines() if line[1] == "progress"]
        on = next((step for step in steps if step[0] != "load"), steps[0])
        end = steps[-1] if os.WIFSIGNALED(status) else ("not", 1, 1)
        again = there & {line[2] for line in self.lines() if line[1] == "begin"}
        texts = [f"{stage} {done}/{total}" if total > 1 else stage for stage, done, total in (on, end)]
        left = f"{len(finished(self.job))} tables"
        print(f"{self.job.source.stem:7} {texts[0]:22} {texts[1]:22} {len(again):<12} {left}", flush=True)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the count failed"
        assert not again, f"done again: {again}"
        return os.WIFSIGNALED(status)

    def _ended(self, child: int, phases: Sequence[str], seconds: float) -> int:
        """Wait for a process, or kill it so long after one of the phases began; return its status."""
        while phases and not any(line[1] == "progress" and line[2] in phases for line in self.lines()):
            time.sleep(0.005)
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status
        if phases:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
        return os.waitpid(child, 0)[1]


def count_noting(job: StreamJob, log: Path) -> None:
    """Count, and note each step and each block that is begun; end with the program that started this one."""
    parent = os.getppid()
    with log.open("w", buffering=1) as lines:

        def note(*words: Any) -> None:
            print(json.dumps([time.monotonic(), *words]), file=lines)

        def noted(do: Callable[..., Any], kept: Kept) -> Callable[..., Any]:
            def noting(job: StreamJob, made: Any, block: Any, *rest: Any) -> Any:
                note("begin", str(job.files.of(kept, block).relative_to(output)))
                return do(job, made, block, *rest)

            return noting

        def on_progress(step: Progress) -> None:
            note("progress", step.stage, step.done, step.total)
            if os.getppid() != parent:
                os._exit(1)

        output = job.output
        cluster.count_block = noted(cluster.count_block, Kept.CELLS)
        streaming.link_block = noted(streaming.link_block, Kept.CELLS)
        streaming.measure_block = noted(streaming.measure_block, Kept.MEASURED)
        run(streaming.count_streamed(job), on_progress)
        note("end")


def finished(job: StreamJob) -> set[str]:
    """Return the tables of blocks that need not be done again."""
    tables = job.output.glob("*.parts/**/0*.csv")
    return {str(one.relative_to(job.output)) for one in tables if not one.name.endswith("selected.csv")}


def lose_a_worker(job: StreamJob, output: Path) -> None:
    """Count on two workers, which end with this program, and kill one of them in the middle."""
    options = {"scheduler_kwargs": {"dashboard_address": "127.0.0.1:0"}, "dashboard_address": None}
    with LocalCluster(n_workers=2, threads_per_worker=1, **options) as processes:
        workers = list(processes.workers.values())

        def lose() -> None:
            while not list(output.glob("field.parts/0*.csv")):
                time.sleep(0.01)
            os.kill(workers[0].pid, signal.SIGKILL)
            print("killed one of two workers", flush=True)

        killer = Thread(target=lose, daemon=True)
        killer.start()
        shared = replace(SMALL, scheduler=processes.scheduler_address)
        lost = replace(job, output=output, recipe=replace(job.recipe, stream=shared))
        run(streaming.count_streamed(lost))
        killer.join(1.0)
        assert not killer.is_alive(), "no worker was killed"
    check("a worker lost", job, lost)


def check(name: str, expected: StreamJob, found: StreamJob) -> None:
    """Raise where labels or tables differ, in whatever order blocks were done."""
    (labels, table), (others, rows) = (read(expected), read(found))
    pairs = np.unique(np.stack([labels.ravel(), others.ravel()]), axis=1)
    assert all(len(np.unique(side)) == pairs.shape[1] for side in pairs), f"{name}: other labels"
    tables = [one.drop(columns="label").sort_values(["y", "x"]).to_numpy() for one in (table, rows)]
    np.testing.assert_allclose(*tables, rtol=1e-6)
    print(f"{name}: the same {len(rows)} cells, in labels and table", flush=True)


def read(job: StreamJob) -> tuple[np.ndarray, pandas.DataFrame]:
    """Return labels and table of a count, both of which are whole."""
    files = StreamFiles(job.output, job.source.stem)
    assert not files.parts.exists()
    assert not list(job.output.rglob(".*.part"))
    assert len(pandas.read_parquet(files.table("parquet"))) == len(pandas.read_csv(files.table("csv")))
    assert json.loads((job.output / f"{files.name}.json").read_text())["count"] > 0
    return zarr.open_group(files.labels)["0"][:], pandas.read_csv(files.table("csv"))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
