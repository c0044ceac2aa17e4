"""Seconds and peak memory to count a dask image that is larger than the maps a memory should hold.

A simulated field of 2048 x 2048 pixels is laid side by side, mirrored in turn, block by block and only when
asked for, so that the image itself takes no memory.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tools.command_line import command_line

from benchmarks.measure import draw_nuclei, fresh_json, model_at_hand, peak_mb, print_table

BLOCK_PX = 2048


def main() -> None:
    """Count in a fresh process and print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--side", type=int, default=16384, help="pixels, a multiple of 2048 (default 16384)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="flow", help="name or folder of a model of cellwright")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # in the fresh process
    args = parser.parse_args()
    if args.side % BLOCK_PX:
        parser.error(f"--side must be a multiple of {BLOCK_PX}; got {args.side}")
    if args.folder:
        print(json.dumps(count_large(args.folder, args.side, args.model)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth = draw_nuclei(folder, BLOCK_PX) * (args.side // BLOCK_PX) ** 2
        model, weights = model_at_hand(args.model, folder)
        command = [sys.executable, "-m", "benchmarks.speed.large", "--folder", name, "--model", model]
        command += ["--side", str(args.side)]
        found = fresh_json(command, args.threads)
    head = ("image", "weights", "count", "nuclei drawn", "seconds", "Mpx/s", "peak MB")
    speed = args.side**2 / 1e6 / found["seconds"]
    row = [
        f"{args.side} x {args.side}",
        weights,
        found["count"],
        truth,
        found["seconds"],
        speed,
        found["peak_mb"],
    ]
    print_table(head, [row])
    print("Nuclei cut by the edges of the blocks meet their mirror image and become one.")


def count_large(folder: Path, side: int, model: str) -> dict[str, float]:
    """Return count, seconds and peak memory of one count in this process."""
    import cellwright

    image = lazy_field(np.load(folder / "image.npy"), side)
    start = time.perf_counter()
    result = cellwright.count(image, model, axes="YX")
    return {"count": int(result.count), "seconds": time.perf_counter() - start, "peak_mb": peak_mb()}


def lazy_field(block: np.ndarray, side: int) -> "object":
    """Return a dask image (side, side) of mirrored copies of ``block``."""
    import dask.array as da

    n = side // len(block)

    def piece(block_id: tuple[int, int]) -> np.ndarray:
        return block[:: 1 - 2 * (block_id[0] % 2), :: 1 - 2 * (block_id[1] % 2)]

    chunks = ((len(block),) * n, (len(block),) * n)
    return da.map_blocks(
        lambda block_id=None: piece(block_id), chunks=chunks, dtype=block.dtype, meta=block[:0, :0]
    )


if __name__ == "__main__":
    main()
