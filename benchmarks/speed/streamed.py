"""Seconds and peak memory to count OME-Zarr images of growing size block by block.

A simulated field of 2048 x 2048 pixels is laid side by side, mirrored in turn, and written in chunks of 512;
each size is counted in a fresh process, whose labels are thrown away. Where other programs share the
processors, the processor seconds tell more than those of the clock. A second table says what images of the
laboratory would take at the rate of the largest.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
from tools.command_line import command_line

from benchmarks.measure import draw_nuclei, fresh_json, model_at_hand, peak_mb, print_table

TILE_PX = 2048
PIXEL_UM = 0.5
IMAGES = {  # pixels of one channel
    "plate of 384 wells, 9 fields of 2048 x 2048 each": 384 * 9 * 2048**2,
    "slide at 20x, 15 x 15 mm of tissue at 0.5 µm": 30_000**2,
    "brain in a light-sheet microscope, 2000 x 5000 x 7000": 2000 * 5000 * 7000,
}


def main() -> None:
    """Write and count one image after the other and print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[8192, 16384, 32768], help="in pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--model", default="flow", help="name or folder of a model of cellwright")
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--image", type=Path, help=argparse.SUPPRESS)  # in the fresh process
    args = parser.parse_args()
    if args.image:
        print(json.dumps(count_streaming(args.image, args.model, args.memory, args.workers)))
        return
    if any(side % TILE_PX for side in args.sides):
        parser.error(f"--sides must be multiples of {TILE_PX}; got {args.sides}")
    rows: list[tuple[object, ...]] = []
    for side in args.sides:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            draw_nuclei(folder, TILE_PX)
            model, weights = model_at_hand(args.model, folder)
            image = write_field(folder / "field.zarr", np.load(folder / "image.npy"), side)
            command = [sys.executable, "-m", "benchmarks.speed.streamed", "--image", str(image)]
            command += ["--model", model, "--memory", args.memory, "--workers", str(args.workers)]
            found = fresh_json(command, args.threads)
        rows.append((f"{side} x {side}", weights, *(found[key] for key in found), *_steps(found, rows)))
        print(rows[-1], flush=True)
    head = ("image", "weights", "cells", "seconds", "processor s", "peak MB", "x seconds", "x processor")
    print_table(head, rows)
    print_cost(args.sides[-1], found["count"], found["processor_s"])


def print_cost(side: int, count: float, processor_s: float) -> None:
    """Print what a core without a GPU does in a day, and the hours that other images take of one."""
    a_day = 86_400 / processor_s
    print(
        f"\n{side} x {side}: {count / processor_s:,.0f} cells and {side**2 / processor_s / 1e6:.2f} million ",
        end="",
    )
    print(f"pixels a second of a core; {a_day * count / 1e6:.0f} million cells and ", end="")
    print(f"{a_day * 2 * side**2 / 1e12:.2f} TB of 16 bits a day\n")
    hours = {name: n * processor_s / side**2 / 3600 for name, n in IMAGES.items()}
    costs = [(name, f"{n / 1e9:.1f}", f"{hours[name]:.2f}") for name, n in IMAGES.items()]
    print_table(("image", "thousand million pixels of one channel", "hours of a core"), costs)


def _steps(found: dict[str, float], rows: list[tuple[object, ...]]) -> tuple[float, float]:
    """Return how many times longer than the size before it took, by the clock and of the processors."""
    if not rows:
        return float("nan"), float("nan")
    seconds, cpu = rows[-1][3:5]
    return found["seconds"] / float(str(seconds)), found["processor_s"] / float(str(cpu))


def write_field(path: Path, tile: np.ndarray, side: int) -> Path:
    """Write mirrored copies of a tile as an OME-Zarr image (side, side) and return its folder."""
    import zarr

    group = zarr.open_group(path, mode="w", zarr_format=3)
    pixels = group.create_array("0", shape=(side, side), chunks=(512, 512), dtype=tile.dtype)
    n, px = side // len(tile), len(tile)
    for row, column in product(range(n), range(n)):
        place = (slice(row * px, (row + 1) * px), slice(column * px, (column + 1) * px))
        pixels[place] = tile[:: 1 - 2 * (row % 2), :: 1 - 2 * (column % 2)]
    scale = [{"type": "scale", "scale": [PIXEL_UM, PIXEL_UM]}]
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
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


def _processor_s() -> float:
    """Return the processor seconds of this process so far, and of those that it started and that ended."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    main()
