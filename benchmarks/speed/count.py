"""Seconds and memory to count an image of nuclei, beside peers, each in processes of its own.

Draws a field with the simulator (2048 x 2048 pixels, about 2,000 nuclei), then takes the warm median of each
method, and its peak memory in another fresh process that counts once. Methods that are not installed are
skipped with a word; a peer may live in another environment (--python stardist=/path/to/python).
"""

import argparse
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from tools.command_line import command_line

from benchmarks.measure import draw_nuclei, method_json, model_at_hand, print_table
from benchmarks.speed.methods import METHODS

HEAD = (
    "method",
    "weights",
    "count",
    "network s",
    "decoding s",
    "features s",
    "total s",
    "times ours",
    "peak MB",
)


def main() -> None:
    """Run the methods one after the other and print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--side", type=int, default=2048, help="pixels (default 2048)")
    parser.add_argument("--diameter", type=float, default=24.0, help="of the nuclei, in pixels (default 24)")
    parser.add_argument("--threads", type=int, default=2, help="for every method (default 2)")
    parser.add_argument("--repeats", type=int, default=3, help="of which the median is taken (default 3)")
    parser.add_argument("--model", default="flow", help="name or folder of a model of cellwright")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--python", action="append", default=[], metavar="METHOD=PYTHON")
    args = parser.parse_args()
    pythons = dict(pair.split("=", 1) for pair in args.python)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth = draw_nuclei(folder, args.side, args.diameter)
        model, _ = model_at_hand(args.model, folder)
        found = {}
        for method in args.methods:
            print(f"{method} ...", file=sys.stderr)
            found[method] = _measure(method, pythons.get(method, sys.executable), folder, model, args)
    machine = platform.processor() or platform.machine()
    print(f"{args.side} x {args.side} px, {truth} nuclei; {args.threads} threads; {machine}\n")
    _report(found)


def _measure(method: str, python: str, folder: Path, model: str, args: argparse.Namespace) -> dict[str, Any]:
    command = [python, "-m", "benchmarks.speed.methods", method, str(folder), "--model", model]
    seconds = method_json(method, [*command, "--repeats", str(args.repeats)], args.threads)
    if "missing" in seconds:
        return seconds
    return seconds | method_json(method, [*command, "--once"], args.threads)


def _report(found: dict[str, dict[str, Any]]) -> None:
    ours = found.get("cellwright", {}).get("total", float("nan"))
    parts = ("network", "decoding", "features", "total")
    rows = [
        [
            name,
            one["weights"],
            one["count"],
            *(one[part] for part in parts),
            one["total"] / ours,
            one["peak_mb"],
        ]
        for name, one in found.items()
        if "missing" not in one
    ]
    print_table(HEAD, rows)
    for name, one in found.items():
        if "missing" in one:
            print(f"{name}: skipped, {one['missing']}.")


if __name__ == "__main__":
    main()
