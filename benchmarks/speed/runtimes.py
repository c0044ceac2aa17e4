"""Seconds that one network takes in several runtimes, on the same images, in one run.

    python -m benchmarks.speed.runtimes --model flow --threads 1 [--data FOLDER]

PyTorch in float32 and bfloat16 and compiled, ONNX Runtime in float32 and int8 (weights and activations,
calibrated on drawn nuclei), OpenVINO in float32 and bfloat16; what is not installed is skipped. Seconds are
those of the processor, of all threads together, which other programs hardly change; what torch.compile has
other programs do is not in them. Beside the median of each stand its ratio to PyTorch's float32, how long it
took to get ready, and how far its maps are from those of PyTorch's float32. With FOLDER, that of the
datasets, a second table tells the F1 at IoU 0.5 on validation images of dsb2018_train that each gives in the
place of the network.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tools.command_line import command_line
from tools.release.kinds import thinned
from torch import Tensor, nn

from benchmarks.measure import draw_nuclei, print_table
from cellwright.core.tasks import run
from cellwright.files.dataset.folder import Dataset, read_dataset
from cellwright.inference.settings import EngineSettings
from cellwright.models import store, zoo
from cellwright.models.checkpoint import save_checkpoint
from cellwright.models.layers.blocks import fused
from cellwright.models.protocol import CellModel
from cellwright.training.evaluation.evaluate import evaluate

HEAD = ("runtime", "side", "ready, s", "median, s", "times float32", "mean difference", "largest")

COMPILED = "torch.compile bfloat16"

Images = NDArray[np.float32]
Runtime = Callable[[Images], Images]


def main() -> None:
    """Run the runtimes in turn and print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--model", default="flow", help="name or folder")
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--skip", nargs="*", default=[], help="names of runtimes to leave out")
    parser.add_argument("--data", type=Path, help="folder of the datasets, to score what each finds")
    parser.add_argument("--most", type=int, default=24, help="images that are scored, evenly spread")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = store.load(args.model)
    with tempfile.TemporaryDirectory() as name:
        rows = [row for side in args.sides for row in _speed_rows(model, Path(name), side, args)]
        print_table(HEAD, rows)
        if args.data:
            print_table(("runtime", "images", "F1"), _score_rows(model, Path(name), args))


def _speed_rows(model: CellModel, folder: Path, side: int, args: argparse.Namespace) -> list[list[object]]:
    """Return what each runtime takes for an image of this side."""
    image = _image(model, folder, side)
    rows: list[list[object]] = []
    first: tuple[float, Images] | None = None
    for title, make in _runtimes(model, folder, args.threads):
        if title in args.skip:
            continue
        began = time.process_time()
        runtime = make()
        maps = runtime(image)
        ready = time.process_time() - began
        seconds = statistics.median(_timed(runtime, image) for _ in range(args.repeats))
        first = first or (seconds, maps)
        apart = np.abs(maps - first[1])
        rows.append(
            [title, side, ready, seconds, seconds / first[0], float(apart.mean()), float(apart.max())]
        )
        print(*rows[-1], flush=True)
    return rows


def _score_rows(model: CellModel, folder: Path, args: argparse.Namespace) -> list[list[object]]:
    """Return what each runtime finds; what is compiled gives the same numbers, anew for each shape."""
    dataset = thinned(read_dataset(args.data / "dsb2018_train").select("val"), args.most)
    return [
        [title, len(dataset), f"{_f1(model, make(), dataset):.4f}"]
        for title, make in _runtimes(model, folder, args.threads)
        if title not in (*args.skip, COMPILED)
    ]


def _f1(model: CellModel, runtime: Runtime, dataset: Dataset) -> float:
    """Return the F1 of a model whose maps come from a runtime."""
    counting: Any = copy(model)
    counting.inference_network = lambda: _Module(runtime)
    counting.to_maps = lambda maps: maps
    report = run(evaluate(dataset, counting, engine=EngineSettings(device="cpu", precision="float32")))
    return float(report.to_json()["all"]["f1"])


class _Module(nn.Module):
    """A runtime where a network is expected."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        self.runtime = runtime

    def forward(self, image: Tensor) -> Tensor:
        return torch.from_numpy(self.runtime(np.ascontiguousarray(image.numpy())))


def _image(model: CellModel, folder: Path, side: int) -> Images:
    """Return a field of nuclei as the network takes it."""
    draw_nuclei(folder, side)
    pixels = np.load(folder / "image.npy").astype(np.float32)
    low, high = np.percentile(pixels, model.spec.percentiles)
    scaled = ((pixels - low) / (high - low)).astype(np.float32)
    return np.repeat(scaled[np.newaxis, np.newaxis], model.spec.in_channels, axis=1)


def _timed(runtime: Runtime, image: Images) -> float:
    began = time.process_time()
    runtime(image)
    return time.process_time() - began


def _runtimes(model: CellModel, folder: Path, threads: int) -> Iterator[tuple[str, Callable[[], Runtime]]]:
    """Yield the name of each runtime that is installed, and what makes it ready."""
    yield "torch float32", lambda: _torch(model, torch.float32)
    yield "torch bfloat16", lambda: _torch(model, torch.bfloat16)
    yield COMPILED, lambda: _torch(model, torch.bfloat16, compiled=True)
    if not find_spec("onnx"):
        return
    save_checkpoint(folder / "model", model)
    path = zoo.export_onnx(folder / "model", folder / "network.onnx")
    if find_spec("onnxruntime"):
        yield "onnxruntime float32", lambda: _onnxruntime(path, threads)
        calibration = [_image(model, folder, 512)[..., y : y + 256, :256] for y in (0, 128, 256)]
        yield "onnxruntime int8", lambda: _onnxruntime(_in_int8(path, calibration), threads)
    if find_spec("openvino"):
        yield "openvino float32", lambda: _openvino(path, threads, "f32")
        yield "openvino bfloat16", lambda: _openvino(path, threads, "bf16")


def _torch(model: CellModel, dtype: torch.dtype, *, compiled: bool = False) -> Runtime:
    network = model.inference_network().eval().to(memory_format=torch.channels_last)
    network = torch.compile(network) if compiled else fused(network, dtype)

    def infer(image: Images) -> Images:
        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            raw = network(torch.from_numpy(image))
        maps: Images = model.to_maps(raw.float()).numpy()
        return maps

    return infer


def _onnxruntime(path: Path, threads: int) -> Runtime:
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)  # what it removes from a quantised network is no news
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(["maps"], {"image": image})[0]


def _in_int8(path: Path, calibration: list[Images]) -> Path:
    """Return the network with weights and activations of 8 bits."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"image": image} for image in calibration]

        def get_next(self) -> dict[str, Images] | None:
            return self.left.pop() if self.left else None

    small = path.with_suffix(".int8.onnx")
    quantize_static(path, small, Reader(), per_channel=True, weight_type=QuantType.QInt8)
    return small


def _openvino(path: Path, threads: int, precision: str) -> Runtime:
    import openvino

    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(path, "CPU", options)
    return lambda image: compiled(image)[0]


if __name__ == "__main__":
    main()
