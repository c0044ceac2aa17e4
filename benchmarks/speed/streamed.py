"""Seconds and peak memory to count OME-Zarr images of growing size block by block.

A simulated field of 2048 x 2048 pixels is laid side by side, mirrored in turn, and written in chunks of 512;
``--sides 200x1024`` stands for a volume of 200 slices, of pieces of 100 x 512 x 512, whose nuclei are linked
in 3D. Each is counted in a fresh process, whose labels are thrown away. With ``--compare`` another process
counts it in one piece, in memory, and compares the cells. Where other programs share the processors, the
processor seconds tell more than those of the clock. A second table says what images of the laboratory would
take of a core without a GPU, at the rate of the largest of their kind.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from math import ceil, prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tools.command_line import command_line
from tools.release.draw_samples import NUCLEI_3D

from benchmarks.measure import draw_nuclei, fresh_json, model_at_hand, peak_mb, print_table

TILE_PX = 2048
PIXEL_UM = (0.5, 0.5)
TILE_OF_VOLUME = (100, 512, 512)
VOXEL_UM = (1.2, 0.4, 0.4)
ALIKE = 0.99  # IoU of a cell counted block by block with that counted in one piece
IMAGES = {  # of the laboratory: pixels of one channel, and whether they are planes or volumes
    "plate of 384 wells, 9 fields of 2048 x 2048 each": (384 * 9 * 2048**2, 2),
    "slide at 20x, 15 x 15 mm of tissue at 0.5 µm": (30_000**2, 2),
    "brain in a light-sheet microscope, 2000 x 5000 x 7000": (2000 * 5000 * 7000, 3),
}


def main() -> None:
    """Write and count one image after the other and print the tables."""
    parser = command_line(__doc__)
    sides = ["8192", "16384", "32768"]
    parser.add_argument("--sides", nargs="+", default=sides, help="in pixels; SLICESxSIDE for a volume")
    parser.add_argument("--compare", action="store_true", help="count in one piece, too; compare the cells")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--model", default="flow", help="name or folder of a model of cellwright")
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--image", type=Path, help=argparse.SUPPRESS)  # in the fresh process
    args = parser.parse_args()
    if args.image and args.compare:
        print(json.dumps(compare(args.image, args.model)))
    elif args.image:
        print(json.dumps(count_streaming(args.image, args.model, args.memory, args.workers)))
    else:
        count_all([shape_of(text) for text in args.sides], args)


def shape_of(text: str) -> tuple[int, ...]:
    """Return (Y, X) of ``8192``, (Z, Y, X) of ``200x1024``."""
    *slices, side = map(int, text.split("x"))
    return (*slices, side, side)


def count_all(shapes: Sequence[tuple[int, ...]], args: argparse.Namespace) -> None:
    """Write and count images of these shapes and print the tables."""
    rows: list[tuple[object, ...]] = []
    largest: dict[int, tuple[int, dict[str, float]]] = {}  # of planes and of volumes: pixels, what was found
    for shape in shapes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            model, weights = model_at_hand(args.model, folder)
            image = write_field(folder / "field.zarr", draw_tile(folder, len(shape)), shape)
            command = [sys.executable, "-m", "benchmarks.speed.streamed", "--image", str(image)]
            command += ["--model", model, "--memory", args.memory, "--workers", str(args.workers)]
            found = fresh_json(command, args.threads)
            rows.append((_named(shape), weights, *found.values(), *_steps(found, rows)))
            print(rows[-1], flush=True)
            if args.compare:
                print(fresh_json([*command, "--compare"], args.threads), flush=True)
        largest[len(shape)] = prod(shape), found
    head = ("image", "weights", "cells", "seconds", "processor s", "peak MB", "x seconds", "x processor")
    print_table(head, rows)
    print_cost(largest)


def print_cost(largest: dict[int, tuple[int, dict[str, float]]]) -> None:
    """Print what a core without a GPU does in a day, and the hours that other images take of one."""
    for ndim, (n_pixels, found) in largest.items():
        a_day = 86_400 / found["processor_s"]
        kind = {2: "planes", 3: "volumes"}[ndim]
        print(f"\n{kind}: {found['count'] * a_day / 86_400:,.0f} cells and ", end="")
        print(f"{n_pixels * a_day / 86_400e6:.2f} million pixels a second of a core; ", end="")
        print(f"{found['count'] * a_day / 1e6:.0f} million cells and ", end="")
        print(f"{2 * n_pixels * a_day / 1e12:.2f} TB of 16 bits a day")
    costs = []
    for name, (n, ndim) in IMAGES.items():
        if ndim in largest:
            n_pixels, found = largest[ndim]
            costs.append((name, f"{n / 1e9:.1f}", f"{n * found['processor_s'] / n_pixels / 3600:.2f}"))
    print()
    print_table(("image", "thousand million pixels of one channel", "hours of a core"), costs)


def _named(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _steps(found: dict[str, float], rows: list[tuple[object, ...]]) -> tuple[float, float]:
    """Return how many times longer than the size before it took, by the clock and of the processors."""
    if not rows:
        return float("nan"), float("nan")
    seconds, cpu = rows[-1][3:5]
    return found["seconds"] / float(str(seconds)), found["processor_s"] / float(str(cpu))


def draw_tile(folder: Path, ndim: int) -> NDArray[np.uint16]:
    """Return the field or the volume that is laid side by side."""
    if ndim == 2:
        draw_nuclei(folder, TILE_PX)
        field: NDArray[np.uint16] = np.load(folder / "image.npy")
        return field
    from cellwright.ops.simulation.simulate import simulate

    drawn = simulate("fluorescence", TILE_OF_VOLUME, np.random.default_rng(0), style=NUCLEI_3D)
    return drawn.image.astype(np.uint16)


def write_field(path: Path, tile: NDArray[np.uint16], shape: Sequence[int]) -> Path:
    """Write mirrored copies of a tile as an OME-Zarr image, (Y, X) or (Z, Y, X), and return its folder."""
    import zarr

    group = zarr.open_group(path, mode="w", zarr_format=3)
    ndim = len(shape)
    pixels = group.create_array("0", shape=shape, chunks=(1, 512, 512)[-ndim:], dtype=tile.dtype)
    numbers = [ceil(length / n) for length, n in zip(shape, tile.shape, strict=True)]
    for index in np.ndindex(*numbers):
        corner = [i * n for i, n in zip(index, tile.shape, strict=True)]
        place = tuple(slice(at, at + n) for at, n in zip(corner, tile.shape, strict=True))
        left = tuple(slice(length - at) for length, at in zip(shape, corner, strict=True))
        mirrored = tile[tuple(slice(None, None, 1 - 2 * (i % 2)) for i in index)]
        pixels[place] = mirrored[left]  # less than a whole one at the end
    scale = [{"type": "scale", "scale": {2: PIXEL_UM, 3: VOXEL_UM}[ndim]}]
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"[-ndim:]]
    levels = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}
    return path


def count_streaming(image: Path, model: str, memory: str, workers: int) -> dict[str, float]:
    """Return cells, seconds and peak memory of one count in this process."""
    from cellwright.core.tasks import run
    from cellwright.inference.recipe import Recipe
    from cellwright.inference.settings import StreamSettings
    from cellwright.inference.streaming.plan import StreamJob
    from cellwright.inference.streaming.run import count_streamed

    start, cpu = time.perf_counter(), _processor_s()
    stream = StreamSettings(memory=memory, workers=workers)
    recipe = Recipe(models=(model,), stream=stream)
    found = run(count_streamed(StreamJob(image, image.with_name("results"), recipe)))
    return {
        "count": found.result.count,
        "seconds": time.perf_counter() - start,
        "processor_s": _processor_s() - cpu,
        "peak_mb": peak_mb(),
    }


def compare(image: Path, model: str) -> dict[str, float]:
    """Count an image in one piece; return how many cells are those that were counted block by block.

    Where both have as many, and each is the same as one of the others, none is there twice.
    """
    import pandas
    import zarr

    import cellwright
    from cellwright.inference.streaming.block import compact
    from cellwright.inference.streaming.plan import StreamFiles
    from cellwright.ops.matching import matched_pairs, overlaps

    whole = cellwright.count(image, model).cells.labels
    peak = peak_mb()
    files = StreamFiles(image.with_name("results"), image.stem)
    streamed, numbers = compact(zarr.open_group(files.labels, mode="r")["0"][:])
    rows = pandas.read_csv(files.table("csv"))["label"]
    assert whole is not None
    assert sorted(rows) == numbers[1:].tolist(), "the table has not one row for each label"
    iou = overlaps(streamed, whole)
    return {
        "cells in one piece": iou.shape[1],
        "block by block": iou.shape[0],
        f"pairs of IoU >= {ALIKE}": len(matched_pairs(iou, ALIKE)),
        "of IoU >= 0.5": len(matched_pairs(iou, 0.5)),
        "lowest IoU of a cell with its best": round(float(iou.max(axis=0).toarray().min()), 3),
        "peak MB in one piece": round(peak),
    }


def _processor_s() -> float:
    """Return the processor seconds of this process so far, and of those that it started and that ended."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    main()
