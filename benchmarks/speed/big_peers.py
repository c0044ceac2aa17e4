"""Seconds and memory for one large image: cellwright, Cellpose's distributed module, StarDist's blocks.

The same simulated field, each in a fresh process, one after the other. Released weights of others cannot
always be had: both learn drawn nuclei first, for some minutes that are not measured, so that they have cells
to decode. Needs ``cellpose<4`` with ``dask-image`` and ``dask-jobqueue``, and ``stardist`` with
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
CELLPOSE_EPOCHS = 6  # of 32 pieces
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
    parser.add_argument("--learned", type=Path, help="folder that keeps what the others have learned")
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
        learned = args.learned or folder / "learned"
        for method in args.methods:
            weights = str(learned / method) if method in PACKAGES else model
            found = measured(method, image, weights, args.threads)
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


def teach_cellpose(drawn: Path, path: Path) -> None:
    """Teach Cellpose what ``draw_nuclei`` wrote into ``drawn``, and keep its weights at ``path``."""
    import torch
    from cellpose import models, train

    torch.manual_seed(0)
    pixels, labels = np.load(drawn / "image.npy"), np.load(drawn / "labels.npy")
    corners = [(y, x) for y in range(0, 2048, 256) for x in range(0, 1024, 256)]
    net = models.CellposeModel(gpu=False, pretrained_model=False).net
    train.train_seg(
        net,
        [pixels[y : y + 256, x : x + 256] for y, x in corners],
        [labels[y : y + 256, x : x + 256] for y, x in corners],
        channels=[0, 0],
        learning_rate=2e-3,
        n_epochs=CELLPOSE_EPOCHS,
        save_path=str(path.parent),
        model_name=path.name,
    )


def cellpose(image: Path, model: str) -> dict[str, float]:
    """Cellpose 3 by its distributed module, on one worker within this process, with the weights of a file."""
    import zarr
    from cellpose.contrib import distributed_segmentation as distributed
    from dask_image.ndmeasure._utils import _label as joining
    from scipy.ndimage import generate_binary_structure

    def opened(store: str, mode: str, **options: Any) -> Any:
        return zarr.open(store, mode=mode, **options)  # zarr 3 takes no mode without its name

    joined = joining._across_block_label_grouping

    def joined_in_any_rank(face: np.ndarray, structure: np.ndarray) -> np.ndarray:
        return joined(face, generate_binary_structure(face.ndim, 1))  # it gives that of volumes

    distributed.zarr = SimpleNamespace(open=opened)
    joining._across_block_label_grouping = joined_in_any_rank
    weights = Path(model).parent / "models" / Path(model).name  # where Cellpose keeps them
    if not weights.exists():
        _apart(teach_cellpose, image.parent, Path(model))
    os.chdir(image.parent)  # it writes logs there
    pixels = zarr.open_group(image, mode="r")["0"]
    boxes: list[object] = []
    cluster = distributed.myLocalCluster(
        ncpus=1, n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    )
    with cluster:
        found = _timed(
            lambda: boxes.extend(
                distributed.distributed_eval(
                    input_zarr=pixels,
                    blocksize=(BLOCK_PX, BLOCK_PX),
                    write_path=str(image.with_name("cellpose.zarr")),
                    model_kwargs={"gpu": False, "pretrained_model": str(weights)},
                    eval_kwargs={"diameter": DIAMETER_PX, "channels": [0, 0]},
                    cluster=cluster,
                )[1]
            )
        )
    return {**found, "count": len(boxes)}


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
        _apart(teach_stardist, image.parent, folder)
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


def _apart(teach: Callable[[Path, Path], None], drawn: Path, learned: Path) -> None:
    """Teach in a process of its own: what that takes is not part of what is measured."""
    learned.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as another:
        another.submit(teach, drawn, learned).result()


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
