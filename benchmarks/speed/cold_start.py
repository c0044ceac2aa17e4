"""Seconds from a fresh process to the first printed count of a 512 x 512 image, beside peers.

Ours is the command line as a user types it; peers load, count once and print, in a process of their own.
The median of several starts; files are in the cache of the system after the first.
"""

import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from tools.command_line import command_line

from benchmarks.measure import draw_nuclei, fresh, method_json, model_at_hand, print_table
from benchmarks.speed.methods import METHODS


def main() -> None:
    """Start every method a few times and print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--side", type=int, default=512, help="pixels (default 512)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="starts of which the median is taken")
    parser.add_argument("--model", default="flow", help="name or folder of a model of cellwright")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--python", action="append", default=[], metavar="METHOD=PYTHON")
    args = parser.parse_args()
    pythons = dict(pair.split("=", 1) for pair in args.python)
    rows, skipped = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth = draw_nuclei(folder, args.side)
        model, _ = model_at_hand(args.model, folder)
        for method in args.methods:
            python = pythons.get(method, sys.executable)
            command = [python, "-m", "benchmarks.speed.methods", method, str(folder), "--once"]
            first = method_json(method, [*command, "--model", model], args.threads)
            if "missing" in first:
                skipped.append(f"{method}: skipped, {first['missing']}.")
                continue
            if method == "cellwright":
                command = _command_line(folder, model)
            seconds = [fresh(command, args.threads)[1] for _ in range(args.repeats)]
            rows.append([method, first["weights"], first["count"], statistics.median(seconds)])
    print(f"{args.side} x {args.side} px, {truth} nuclei; {args.threads} threads\n")
    print_table(("method", "weights", "count", "process s"), rows)
    print(*skipped, sep="\n")


def _command_line(folder: Path, model: str) -> list[str]:
    """Return the command a user would type."""
    from skimage.io import imsave

    path = folder / "image.tif"
    imsave(path, np.load(folder / "image.npy"), check_contrast=False)
    return [sys.executable, "-m", "cellwright", "count", str(path), "--model", model]


if __name__ == "__main__":
    main()
