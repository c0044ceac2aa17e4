"""Megapixels per second of the network on a GPU by tile size, batch, number type and torch.compile.

Random weights are as good as trained ones here. The last rows count whole images, decoding on the CPU
included. Without a GPU it says so and ends (--device cpu runs it all the same, to try the script).
"""

import argparse
import itertools
import tempfile
from pathlib import Path

import numpy as np
import torch
from tools.command_line import command_line

from benchmarks.measure import draw_nuclei, model_at_hand, print_table, warm_median
from cellwright.core.data import Image
from cellwright.core.tasks import run
from cellwright.inference.pipeline import count_cells
from cellwright.inference.settings import EngineSettings
from cellwright.models import store
from cellwright.models.protocol import CellModel

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main() -> None:
    """Time the network in every way and print the tables."""
    parser = command_line(__doc__)
    parser.add_argument("--device", default="", help="cuda, mps or cpu (default: the GPU there is)")
    parser.add_argument("--tiles", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES))
    parser.add_argument(
        "--sides", type=int, nargs="+", default=[2048, 8192], help="of the images to count in"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", default="flow", help="name or folder of a model of cellwright")
    args = parser.parse_args()
    device = args.device or _gpu()
    if not device:
        print("There is no GPU that torch can use here; nothing was measured.")
        return
    with tempfile.TemporaryDirectory() as name:
        model_name, weights = model_at_hand(args.model, Path(name))
        model = store.load(model_name)
        print(f"{_title(device)}; torch {torch.__version__}; weights {weights}\n")
        head = ("tile px", "batch", "type", "compiled", "Mpx/s", "device MB")
        print_table(head, network_rows(model, device, args))
        print()
        head = ("image px", "type", "count", "seconds", "Mpx/s")
        print_table(head, [row for side in args.sides for row in count_rows(model, device, side, args)])


def network_rows(model: CellModel, device: str, args: argparse.Namespace) -> list[list[object]]:
    """Return the speed of the network alone for each combination; compiled for the largest batch only."""
    rows: list[list[object]] = []
    network = model.inference_network().to(device, memory_format=torch.channels_last)
    for tile, batch, kind in itertools.product(args.tiles, args.batches, args.types):
        inputs = torch.rand(batch, model.spec.in_channels, tile, tile, device=device)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        for compiled in (False, True) if batch == max(args.batches) and not args.no_compile else (False,):
            if compiled:
                torch.compiler.reset()  # or it stops compiling after a few shapes
            timed = torch.compile(network, dynamic=False) if compiled else network
            seconds, memory = _forward_seconds(timed, inputs, TYPES[kind], args.repeats)
            speed = batch * tile**2 / 1e6 / seconds
            rows.append([tile, batch, kind, "yes" if compiled else "no", speed, memory])
    return rows


def count_rows(model: CellModel, device: str, side: int, args: argparse.Namespace) -> list[list[object]]:
    """Return the speed of whole counts for each number type."""
    with tempfile.TemporaryDirectory() as name:
        draw_nuclei(Path(name), min(side, 2048))
        image = np.tile(np.load(Path(name) / "image.npy"), (max(1, side // 2048),) * 2)
    rows: list[list[object]] = []
    for kind in args.types:
        engine = EngineSettings(device=device, precision=kind)
        result = run(count_cells(Image(image, "YX"), model, None, engine))
        seconds = warm_median(
            lambda e=engine: run(count_cells(Image(image, "YX"), model, None, e)), args.repeats
        )
        rows.append([side, kind, int(result.count), seconds, image.size / 1e6 / seconds])
    return rows


def _forward_seconds(
    network: torch.nn.Module, inputs: torch.Tensor, kind: torch.dtype, repeats: int
) -> tuple[float, float]:
    device = inputs.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def forward() -> None:
        with torch.inference_mode(), torch.autocast(device.type, kind, enabled=kind != torch.float32):
            network(inputs)
        _wait(device)

    seconds = warm_median(forward, repeats)
    return seconds, torch.cuda.max_memory_allocated() / 1e6 if device.type == "cuda" else float("nan")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()


def _gpu() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else ""


def _title(device: str) -> str:
    return torch.cuda.get_device_name() if device.startswith("cuda") else device


if __name__ == "__main__":
    main()
