"""Seconds and memory for one large image: cellwright, Cellpose's distributed module, StarDist's blocks.

The same simulated field, each in a fresh process, one after the other. Released weights of others cannot
always be had. StarDist learns drawn nuclei first, for some minutes that are not measured: it has cells to
decode. Cellpose runs with random weights and a threshold such that nothing is left to decode: what it takes
is a lower bound. Needs ``cellpose<4`` with ``dask-image`` and ``dask-jobqueue``, and ``stardist`` with
``tensorflow``; what is not installed is left out.
"""

import argparse
import contextlib
import importlib.util
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from tools.command_line import command_line

from benchmarks.measure import (
    ProcessFailedError,
    draw_nuclei,
    fresh_json,
    model_at_hand,
    peak_mb,
    print_table,
)
from benchmarks.speed.streamed import TILE_PX, count_streaming, write_field

BLOCK_PX = 1024
DIAMETER_PX = 26
FEWEST_LOGIT = 1e3  # above all that random weights give
STARDIST_EPOCHS = 5  # of 100 steps
STARDIST_WHITE = 4_000.0  # what it divides pixels by
PACKAGES = {"cellpose": "cellpose", "stardist": "stardist"}


def main() -> None:
    """Write the field, count it with each and print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--side", type=int, default=4096, help="in pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--model", default="flow", help="name or folder of a model of cellwright")
    parser.add_argument("--stardist", type=Path, help="folder that keeps what StarDist has learned")
    parser.add_argument("--image", type=Path, help=argparse.SUPPRESS)  # in the fresh process
    args = parser.parse_args()
    if args.image:
        with contextlib.redirect_stdout(sys.stderr):
            found = METHODS[args.methods[0]](args.image, args.model)
        print(json.dumps({**found, "peak_mb": peak_mb()}))
        return
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_nuclei(folder, TILE_PX)
        model, _ = model_at_hand(args.model, folder)
        image = write_field(folder / "field.zarr", np.load(folder / "image.npy"), (args.side, args.side))
        learned = args.stardist or folder / "stardist_model"
        for method in args.methods:
            found = measured(method, image, str(learned) if method == "stardist" else model, args.threads)
            if found:
                columns = ("seconds", "processor_s", "peak_mb", "count")
                rows.append((method, *(found.get(column, float("nan")) for column in columns)))
                print(rows[-1], flush=True)
    print_table(("method", "seconds", "processor s", "peak MB", "cells"), rows)


def measured(method: str, image: Path, model: str, threads: int) -> dict[str, Any]:
    """Return what a method takes in a process of its own; nothing where it is not installed, or fails."""
    package = PACKAGES.get(method, "cellwright")
    if importlib.util.find_spec(package) is None:
        print(f"{method}: {package} is not installed", flush=True)
        return {}
    command = [sys.executable, "-m", "benchmarks.speed.big_peers", "--image", str(image)]
    try:
        return fresh_json([*command, "--methods", method, "--model", model], threads)
    except ProcessFailedError as error:
        print(f"{method}: {error}", flush=True)
        return {}


def cellwright(image: Path, model: str) -> dict[str, float]:
    """Count block by block, with labels and table written."""
    return count_streaming(image, model, "2GB", 1)


def cellpose(image: Path, model: str) -> dict[str, float]:
    """Cellpose 3 by its distributed module, on one worker within this process."""
    import zarr
    from cellpose.contrib import distributed_segmentation as distributed

    def opened(store: str, mode: str, **options: Any) -> Any:
        return zarr.open(store, mode=mode, **options)  # zarr 3 takes no mode without its name

    distributed.zarr = SimpleNamespace(open=opened)
    os.chdir(image.parent)  # it writes logs there
    pixels = zarr.open_group(image, mode="r")["0"]
    cluster = distributed.myLocalCluster(
        ncpus=1, n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    )
    with cluster:
        return _timed(
            lambda: distributed.distributed_eval(
                input_zarr=pixels,
                blocksize=(BLOCK_PX, BLOCK_PX),
                write_path=str(image.with_name("cellpose.zarr")),
                model_kwargs={"gpu": False, "pretrained_model": False},
                eval_kwargs={
                    "diameter": DIAMETER_PX,
                    "channels": [0, 0],
                    "cellprob_threshold": FEWEST_LOGIT,
                },
                cluster=cluster,
            )
        )


def teach_stardist(drawn: Path, folder: Path) -> None:
    """Teach StarDist 2D what ``draw_nuclei`` wrote into ``drawn``, and keep its model in ``folder``."""
    from stardist.models import Config2D, StarDist2D

    pixels = np.load(drawn / "image.npy") / np.float32(STARDIST_WHITE)
    labels = np.load(drawn / "labels.npy")
    settings = Config2D(n_rays=32, grid=(2, 2), train_tensorboard=False)
    net = StarDist2D(settings, name=folder.name, basedir=str(folder.parent))
    rows = [slice(at, at + 256) for at in range(0, len(pixels), 256)]
    validation = ([pixels[rows[0], :1024]], [labels[rows[0], :1024]])
    net.train(
        [pixels[row] for row in rows[1:]],
        [labels[row] for row in rows[1:]],
        validation_data=validation,
        epochs=STARDIST_EPOCHS,
        seed=0,
    )
    net.optimize_thresholds(*validation)


def stardist(image: Path, model: str) -> dict[str, float]:
    """StarDist 2D by ``predict_instances_big``, with the model of a folder."""
    import zarr
    from csbdeep.data import Normalizer
    from stardist.models import StarDist2D

    class Divided(Normalizer):  # type: ignore[misc]
        do_after = False

        def before(self, pixels: np.ndarray, axes: str) -> np.ndarray:
            return pixels / np.float32(STARDIST_WHITE)

        def after(self, mean: np.ndarray, scale: np.ndarray, axes: str) -> np.ndarray:
            raise NotImplementedError

    folder = Path(model)
    if not folder.exists():
        spawn = multiprocessing.get_context("spawn")  # what learning takes is not part of what is measured
        with ProcessPoolExecutor(1, spawn) as another:
            another.submit(teach_stardist, image.parent, folder).result()
    pixels = zarr.open_group(image, mode="r")["0"]
    net = StarDist2D(None, name=folder.name, basedir=str(folder.parent))
    labels = zarr.create_array(
        image.with_name("stardist.zarr"), shape=pixels.shape, chunks=(512, 512), dtype="int32"
    )
    n_cells = 0

    def count() -> None:
        nonlocal n_cells
        _, outlines = net.predict_instances_big(
            pixels,
            axes="YX",
            block_size=BLOCK_PX,
            min_overlap=4 * DIAMETER_PX,
            context=96,
            labels_out=labels,
            normalizer=Divided(),
            show_progress=False,
        )
        n_cells = len(outlines["prob"])

    return {**_timed(count), "count": n_cells}


def _timed(run: Callable[[], object]) -> dict[str, float]:
    start, cpu = time.perf_counter(), time.process_time()
    run()
    return {"seconds": time.perf_counter() - start, "processor_s": time.process_time() - cpu}


METHODS: dict[str, Callable[[Path, str], dict[str, float]]] = {
    "cellwright": cellwright,
    "stardist": stardist,
    "cellpose": cellpose,
}


if __name__ == "__main__":
    main()
