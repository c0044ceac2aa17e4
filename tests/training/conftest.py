"""Small annotated images, in memory and in a folder, and a network that learns them in no time."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from torch import Tensor, nn
from torch.nn import functional

from cellwright.core.data import Labels
from cellwright.models.families.flow import SPECS, FlowModel
from cellwright.ops.labels import annotate
from cellwright.ops.simulation.simulate import simulate
from cellwright.training.data.samples import Sample, make_sample


class TinyEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU())

    def forward(self, image: Tensor) -> list[Tensor]:
        fine = self.first(image)
        return [fine, self.second(fine)]


class TinyNetwork(nn.Module):
    """Has an encoder, as training expects of a network."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = TinyEncoder()
        self.head = nn.Conv2d(20, 12, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        fine, coarse = self.encoder(image)
        coarse = functional.interpolate(coarse, scale_factor=2.0)
        return functional.pixel_shuffle(self.head(torch.cat([fine, coarse], dim=1)), 2)


@pytest.fixture
def tiny_flow() -> Callable[..., FlowModel]:
    """Function (seed) -> a flow model with a network of a few thousand weights."""

    def make(seed: int = 0) -> FlowModel:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return FlowModel(SPECS["small"], TinyNetwork())

    return make


@pytest.fixture
def dropping_flow(tiny_flow) -> Callable[[], FlowModel]:
    """Function () -> the same with a network that learns with parts left out at random."""

    def make() -> FlowModel:
        model = tiny_flow()
        model.network.head = nn.Sequential(nn.Dropout2d(0.5), model.network.head)
        return model

    return make


@pytest.fixture
def draw_sample(sample_of: Callable[..., Sample]) -> Callable[..., Sample]:
    """Function (seed, look, shape, diameter) -> a simulated image, ready to be cut."""

    def draw(
        seed: int = 0,
        look: str = "fluorescence",
        shape: tuple[int, int] = (72, 80),
        diameter: float = 16,
        n_cells: int | None = 8,
    ) -> Sample:
        rng = np.random.default_rng(seed)
        drawn = simulate(look, shape, rng, diameter_px=diameter, n_cells=n_cells)
        image = np.moveaxis(drawn.image, -1, 0) if drawn.image.ndim == 3 else drawn.image[None]
        return sample_of(f"{look}:{seed}", look, image, drawn.labels)

    return draw


@pytest.fixture
def sample_of() -> Callable[..., Sample]:
    """Function (name, group, image, labels, percentiles) -> a sample with the targets of flow."""

    def make(
        name: str,
        group: str,
        image: np.ndarray,
        labels: Labels,
        percentiles: tuple[float, float] = (0.5, 99.8),
    ) -> Sample:
        spec = replace(SPECS["small"], percentiles=percentiles)
        return make_sample(name, group, image, annotate(labels), FlowModel(spec, nn.Identity()))

    return make


@pytest.fixture
def write_dataset(tmp_path, draw_blobs) -> Callable[..., Path]:
    """Function (split, groups) -> a training folder with images of discs under these names."""

    def write(split: Mapping[str, Sequence[str]], groups: Mapping[str, str] | None = None) -> Path:
        folder = tmp_path / "dataset"
        (folder / "images").mkdir(parents=True)
        (folder / "masks").mkdir()
        for name in [name for names in split.values() for name in names]:
            blobs = draw_blobs((64, 72), 12.0)
            tifffile.imwrite(folder / "images" / f"{name}.tif", (blobs.image * 200).astype(np.uint8))
            tifffile.imwrite(folder / "masks" / f"{name}.tif", blobs.labels.astype(np.uint16))
        items = {name: {"group": group} for name, group in (groups or {}).items()}
        (folder / "meta.json").write_text(json.dumps({"split": split, "items": items}))
        return folder

    return write
