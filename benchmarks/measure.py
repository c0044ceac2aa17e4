"""What the benchmarks share: drawn nuclei, fresh processes, medians, peak memory, a plain table."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]  # where `python -m benchmarks.speed.count` and the like are started
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


class ProcessFailedError(Exception):
    """A fresh process ended with an error; the message holds the end of what it said."""


def draw_nuclei(folder: Path, side: int, diameter_px: float = 24.0) -> int:
    """Write image.npy (uint16) and labels.npy of a fluorescence field into ``folder``; return the count.

    About one nucleus for each 2,100 pixels at 24 px: 2,000 in 2048 x 2048.
    """
    from tools.release.draw_samples import NUCLEI_2D

    from cellwright.ops.simulation.simulate import simulate

    n = round(side**2 / 2097 * (24.0 / diameter_px) ** 2)
    rng = np.random.default_rng(0)
    drawn = simulate("fluorescence", (side, side), rng, diameter_px=diameter_px, n_cells=n, style=NUCLEI_2D)
    np.save(folder / "image.npy", drawn.image)
    np.save(folder / "labels.npy", drawn.labels)
    return len(drawn.points)


def model_at_hand(name: str, folder: Path) -> tuple[str, str]:
    """Return the folder of a model and whose weights it has, random ones where it is not found."""
    from cellwright.core.errors import CheckpointError
    from cellwright.models import store

    try:
        return str(store.find(name)), "own"
    except CheckpointError:
        from cellwright.models.checkpoint import save_checkpoint
        from cellwright.models.families.flow import build

        save_checkpoint(folder / "random", build("small"))
        return str(folder / "random"), "random"


def fresh(command: Sequence[str], threads: int) -> tuple[str, float]:
    """Return the output of a command in a process of its own, and its seconds from start to end."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads)), **own}
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise ProcessFailedError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout, seconds


def fresh_json(command: Sequence[str], threads: int) -> dict[str, Any]:
    """Return the JSON object that a command prints as its last line, in a process of its own."""
    lines = fresh(command, threads)[0].strip().splitlines()
    return dict(json.loads(lines[-1]))


def method_json(method: str, command: Sequence[str], threads: int) -> dict[str, Any]:
    """Return what methods.py prints; a peer that fails is as good as one that is missing."""
    try:
        return fresh_json(command, threads)
    except ProcessFailedError as error:
        if method == "cellwright":
            raise
        return {"missing": f"it failed with: {str(error).strip().splitlines()[-1]}"}


def warm_median(call: Callable[[], Any], repeats: int) -> float:
    """Return the median seconds of ``call`` after one that does not count."""
    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def peak_mb() -> float:
    """Return the most memory this process has held so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count what the parent held when it started this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    if sys.platform == "win32":
        return float("nan")
    import resource

    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table with aligned columns."""
    cells = [list(head), *([_text(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["| " + " | ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print("\n".join(lines))


def _text(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    if np.isnan(value):
        return "-"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"
