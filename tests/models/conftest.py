"""Models with random weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from cellwright.models import registry, store
from cellwright.models.protocol import CellModel


def stirred(network: nn.Module) -> nn.Module:
    """Give every batch normalisation statistics and weights of its own."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network


@pytest.fixture(scope="session")
def make_model() -> Callable[..., CellModel]:
    """Function (family, preset) -> a model with random weights, the same every time.

    Unless it is ``fresh``, no batch normalisation is left as it is before training.
    """

    def make(family: str = "flow", preset: str = "small", *, seed: int = 7, fresh: bool = False) -> CellModel:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = registry.get(family).load().build(preset)
            if not fresh:
                stirred(model.network)
        return model

    return make


@pytest.fixture
def shelves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Empty folders in the place of the shipped and the user's models."""
    shipped, own = tmp_path / "shipped", tmp_path / "own"
    shipped.mkdir()
    monkeypatch.setattr(store, "shipped_folder", lambda: shipped)
    monkeypatch.setattr(store, "user_folder", lambda: own)
    return shipped, own
