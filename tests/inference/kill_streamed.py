"""Kill counts of an image block by block at random moments, and a worker of a cluster; compare the cells.

Run by hand: ``python tests/inference/kill_streamed.py [KILLS]`` (20). Prints a line for each kill, and fails
where a cell is lost, found twice, or a finished block was counted again.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import zarr

from cellwright.core.tasks import run
from cellwright.files import zarr as files_zarr
from cellwright.inference.settings import EngineSettings, StreamSettings
from cellwright.inference.streaming import plan
from cellwright.inference.streaming.plan import StreamJob
from cellwright.inference.streaming.run import count_streamed
from cellwright.ops.measure.settings import AnalysisSettings
from cellwright.ops.simulation.simulate import simulate

SIDE = 3072
SMALL = StreamSettings(memory="60MB")
ADDRESS = "tcp://127.0.0.1:8791"


def main(n_kills: int) -> None:
    """Count whole, killed, and on two workers of which one is lost."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = (SIDE, SIDE)
        drawn = simulate("fluorescence", shape, np.random.default_rng(1), diameter_px=26, n_cells=3000)
        zarr.create_array(folder / "field.zarr", data=drawn.image, chunks=(512, 512))
        engine = EngineSettings(diameter_px=26.0)
        measured = AnalysisSettings(measure=("shape", "intensity"), border="drop")
        whole = StreamJob(folder / "field.zarr", folder / "whole", engine=engine, analysis=measured)
        run(count_streamed(whole, SMALL))
        lose_a_worker(folder)
        check("a worker lost", read(folder / "whole"), read(folder / "cluster"))
        plan.CORE_PX, files_zarr.CHUNK_PX = 512, 128  # 36 small blocks
        start = time.perf_counter()
        run(count_streamed(replace(whole, output=folder / "small"), SMALL))
        seconds = time.perf_counter() - start
        print(f"{len(read(folder / 'small')[1])} cells in {seconds:.1f} s", flush=True)
        done = 0
        while done < n_kills:
            killed = replace(whole, output=folder / f"killed_{done}")
            done += kill_often(killed, n_kills - done, seconds)
            check(f"{done} kills", read(folder / "small"), read(killed.output))


def kill_often(job: StreamJob, n_kills: int, seconds: float) -> int:
    """Begin a count again and again, killing it soon, until it is done; return how often it was killed."""
    times: dict[Path, int] = {}
    for number in range(n_kills):
        child = os.fork()
        if not child:
            try:
                run(count_streamed(job, SMALL))
            finally:
                os._exit(0)
        time.sleep(random.uniform(0.02, 0.2) * seconds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = {path: path.stat().st_mtime_ns for path in (job.output / "field.parts").glob("*.csv")}
        again = [path for path in times if path in found and found[path] != times[path]]
        again = [path for path in again if not path.name.endswith("selected.csv")]
        assert not again, f"done again: {again}"
        times = found
        print(f"kill {number + 1}: {len(found)} tables of blocks", flush=True)
        if (job.output / "field.json").exists() and not (job.output / "field.parts").exists():
            return number + 1
    run(count_streamed(job, SMALL))
    return n_kills


def lose_a_worker(folder: Path) -> None:
    """Count on two workers through a scheduler of its own; kill one of them in the middle."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "8791", "--no-dashboard"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": env}
    started = [subprocess.Popen(dask, **quiet)]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", ADDRESS, "--nthreads", "1", "--no-nanny"]
    started += [subprocess.Popen([*worker, "--no-dashboard"], **quiet) for _ in range(2)]
    command = [sys.executable, "-m", "cellwright", "count", str(folder / "field.zarr"), "--stream"]
    command += [
        "--scheduler",
        ADDRESS,
        "--memory",
        "60MB",
        "--diameter",
        "26",
        "--measure",
        "shape,intensity",
    ]
    command += ["--border", "drop", "--output", str(folder / "cluster")]
    try:
        time.sleep(8)
        count = subprocess.Popen(command, env=env)
        while len(list((folder / "cluster").glob("field.parts/0*.csv"))) < 1 and count.poll() is None:
            time.sleep(0.1)
        started[1].kill()
        print("killed one of two workers", flush=True)
        assert count.wait() == 0
    finally:
        for process in started:
            process.kill()


def read(folder: Path) -> tuple[np.ndarray, pandas.DataFrame]:
    """Return labels and table of a count."""
    return zarr.open_group(folder / "field.labels.zarr")["0"][:], pandas.read_csv(folder / "field.cells.csv")


def check(name: str, expected: tuple, found: tuple) -> None:
    """Raise where labels or tables differ, in whatever order blocks were done."""
    pairs = np.unique(np.stack([expected[0].ravel(), found[0].ravel()]), axis=1)
    assert all(len(np.unique(side)) == pairs.shape[1] for side in pairs), f"{name}: other labels"
    tables = [one.drop(columns="label").sort_values(["y", "x"]).to_numpy() for one in (expected[1], found[1])]
    np.testing.assert_allclose(*tables, rtol=1e-6)
    print(f"{name}: the same {len(found[1])} cells, in labels and table", flush=True)


if __name__ == "__main__":
    main(int((sys.argv[1:] or ["20"])[0]))
