"""Images with known truth, and models that need no download."""

import copy
import gc
import pkgutil
import sys
from collections.abc import Callable, Generator
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import zarr
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

import cellwright
from cellwright.core.data import Cells, Labels, Maps
from cellwright.models.protocol import CellModel
from cellwright.models.spec import ModelSpec
from cellwright.ops.codecs.flow import FlowSettings
from cellwright.ops.labels import keep_labels, label_properties

LIMIT_MS = 60_000  # what a test waits for at most


class Blobs(NamedTuple):
    """Discs that do not touch, brightness 1 on 0, and their truth."""

    image: NDArray[np.float32]
    labels: Labels
    points: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.points)


class FakeModel(CellModel):
    """Takes connected regions of the probability map for cells; the network is up to the test."""

    def __init__(self, network: nn.Module, **spec: Any) -> None:
        facts: dict[str, Any] = {
            "family": "flow",
            "preset": "fake",
            "title": "A fake",
            "in_channels": 3,
            "map_channels": {"flow": 2, "probability": 1},
            "divisor": 8,
            "halo": 8,
        }
        self.spec = ModelSpec(**{**facts, **spec})
        self.network = network
        self.sha256 = "fake"

    map_kinds = {"flow": "direction", "probability": "scalar"}  # noqa: RUF012
    takes_volumes = True

    def inference_network(self) -> nn.Module:
        return copy.deepcopy(self.network)

    def to_maps(self, output: Tensor) -> Tensor:
        return torch.cat([output[:, :2], output[:, 2:].sigmoid()], dim=1)

    def flip(self, output: Tensor, axis: int) -> Tensor:
        flipped = output.flip(axis).clone()
        flipped[:, 0 if axis == -2 else 1] *= -1
        return flipped

    def postprocess(self, maps: Maps, settings: FlowSettings) -> Cells:
        labels, n = ndimage.label(maps["probability"][0] > settings.cell_probability)
        sizes = np.bincount(labels.ravel(), minlength=n + 1)[1:]
        labels = keep_labels(labels.astype(np.int32), sizes >= settings.min_area_px)
        areas, points, boxes = label_properties(labels)
        return Cells(points, boxes, np.ones(len(areas), np.float32), areas, labels)


class OracleNetwork(nn.Module):
    """Bright is cell: the logit is the mean of the channels around one half."""

    def forward(self, image: Tensor) -> Tensor:
        logit = 20 * (image.mean(dim=1, keepdim=True) - 0.5)
        return torch.cat([torch.zeros_like(logit), torch.zeros_like(logit), logit], dim=1)


class TinyNetwork(nn.Module):
    """Strided convolutions and back, batch normalisation in training mode as a fresh network has it.

    Receptive field: 1 + 2 x 2 + 2 x 4 + 4 x 4 pixels to each side at most, less than a halo of 32.
    """

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        self.down = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.head = nn.Conv2d(16, 12, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.stem(image)
        coarse = functional.interpolate(self.down(fine), scale_factor=2.0, mode="nearest")
        return functional.pixel_shuffle(self.head(torch.cat([fine, coarse], dim=1)), 2)


class HungryNetwork(OracleNetwork):
    """Runs out of memory above a number of pixels; notes the shape of everything it was given."""

    def __init__(self, most_pixels: int, message: str = "DefaultCPUAllocator: not enough memory") -> None:
        super().__init__()
        self.most_pixels = most_pixels
        self.message = message
        self.seen: list[tuple[int, ...]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "HungryNetwork":
        return self  # so that the test sees what the engine's copy was given

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append((image.shape[0], *image.shape[2:]))
        if image.shape[0] * image.shape[2] * image.shape[3] > self.most_pixels:
            raise RuntimeError(self.message)
        return super().forward(image)


def pytest_configure() -> None:
    """Start the thread of zarr, in which none of our code runs, before coverage traces new threads."""
    zarr.create_array({}, shape=(1,), dtype="u1")


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Collect tests without collecting garbage: what they import stays, and is passed over from then on.

    And without measuring coverage, under which plain Python takes twice as long: what our modules run when
    they are imported is measured before. A process that hands out tests to others runs nothing of ours.
    """
    gc.disable()
    hands_out = session.config.pluginmanager.hasplugin("dsession")
    measured = sys.modules["coverage"].Coverage.current() if "coverage" in sys.modules else None
    if measured is not None:
        if not hands_out:
            import_ours()
        measured.stop()
    try:
        return (yield)
    finally:
        if measured is not None and not hands_out:
            measured.start()
        gc.freeze()
        gc.enable()


def import_ours() -> None:
    for module in pkgutil.walk_packages(cellwright.__path__, "cellwright."):
        if not module.name.endswith("__main__"):
            import_module(module.name)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Have one process run all tests of panels: two would take keyboard and clipboard from each other."""
    from xdist.scheduler import LoadScopeScheduling

    class OneScreen(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if "workers" in nodeid:
                return "cluster"  # schedulers of two processes that start at once stand in each other's way
            return "screen" if nodeid.startswith("tests/widgets/") else nodeid

    return OneScreen(config, log)


@pytest.fixture
def qtbot(qtbot: Any) -> Any:
    """The one of pytest-qt, which waits long enough for a busy machine, whatever the test says."""
    for name in ("waitUntil", "waitSignal", "waitExposed"):
        setattr(qtbot, name, partial(_patient, getattr(qtbot, name)))
    qtbot.wait = partial(_settled, qtbot.wait)
    return qtbot


def _patient(wait: Callable[..., Any], what: Any, timeout: int = 0) -> Any:
    return wait(what, timeout=max(timeout, LIMIT_MS))


def _settled(wait: Callable[[int], None], ms: int) -> None:
    from qtpy.QtCore import QCoreApplication

    wait(ms)
    for _ in range(3):  # what came late on a busy machine has begun something of its own
        QCoreApplication.processEvents()


@pytest.fixture(autouse=True)
def same_random_weights() -> None:
    """Random networks have the same weights in every run, whichever tests went before."""
    torch.default_generator.manual_seed(20)  # torch.manual_seed writes the stack down for each GPU to come


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


@pytest.fixture
def draw_blobs(rng: np.random.Generator) -> Callable[..., Blobs]:
    """Function (shape, diameter) -> Blobs: one disc in each cell of a grid, a little off its middle.

    Labels are in the order in which they are met row by row.
    """

    def draw(shape: tuple[int, int] = (160, 200), diameter: float = 14.0) -> Blobs:
        pitch = int(diameter * 1.6)
        labels = np.zeros(shape, np.int32)
        centres = [
            (y + rng.uniform(-0.1, 0.1) * diameter, x + rng.uniform(-0.1, 0.1) * diameter)
            for y in range(pitch // 2, shape[0] - pitch // 2, pitch)
            for x in range(pitch // 2, shape[1] - pitch // 2, pitch)
        ]
        r = int(diameter)
        for index, (y, x) in enumerate(centres, start=1):
            top, left = max(0, int(y) - r), max(0, int(x) - r)
            window = labels[top : int(y) + r, left : int(x) + r]
            rows, columns = np.ogrid[: window.shape[0], : window.shape[1]]
            window[(rows + top - y) ** 2 + (columns + left - x) ** 2 <= (diameter / 2) ** 2] = index
        labels = ndimage.label(labels)[0].astype(np.int32)
        assert labels.max() == len(centres)
        return Blobs((labels > 0).astype(np.float32), labels, label_properties(labels).points)

    return draw


@pytest.fixture
def blobs(draw_blobs: Callable[..., Blobs]) -> Blobs:
    return draw_blobs()


@pytest.fixture
def oracle_model() -> FakeModel:
    """Finds the bright regions of an image exactly, so that counts can be checked."""
    return FakeModel(OracleNetwork())


@pytest.fixture
def tiny_model() -> FakeModel:
    """A small convolutional network with random weights, the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return FakeModel(TinyNetwork(), divisor=4, halo=32)


@pytest.fixture
def hungry_model() -> Callable[..., FakeModel]:
    """Function (most_pixels) -> an oracle that runs out of memory above that many pixels."""

    def make(most_pixels: int, message: str = "DefaultCPUAllocator: not enough memory") -> FakeModel:
        return FakeModel(HungryNetwork(most_pixels, message), halo=8)

    return make
