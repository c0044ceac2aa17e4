"""What a model knew before fine-tuning: images on which it is asked again, and how well it still answers.

Source: replay by the former model's own answers, Li & Hoiem, Learning without forgetting, TPAMI 40, 2935
(2018), doi:10.1109/TPAMI.2017.2773081; weights between before and after, Wortsman et al., Robust fine-tuning
of zero-shot models, CVPR 2022, doi:10.1109/CVPR52688.2022.00780.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cellwright.core.data import Annotation, Image, Labels
from cellwright.core.tasks import Task
from cellwright.files.dataset.folder import Dataset, Item
from cellwright.inference.settings import EngineSettings
from cellwright.models.protocol import CellModel
from cellwright.ops.simulation.simulate import LOOKS, simulate
from cellwright.training.evaluation.evaluate import evaluate
from cellwright.training.trainer import forward, trunk_of

N_RETENTION = 12  # simulated images on which it is measured what a model still knows
RETENTION_PX = 224
RETENTION_SEED = 7_000_000  # far from those of the images that are replayed
DIAMETERS_PX = (18.0, 34.0)


class Teacher:
    """A model as it was, which tells what to answer on replayed patches."""

    def __init__(self, model: CellModel, device: torch.device) -> None:
        self._model = model
        self._network = copy.deepcopy(model.network).eval().to(device)

    @torch.no_grad()
    def targets(self, images: Tensor) -> Tensor:
        """Return what the model gave for images (B, 3, P, P), in map units."""
        return self._model.to_maps(forward(self._network, self._model, images))


@dataclass(frozen=True, slots=True)
class Drawn(Item):
    """A simulated image with its labels."""

    drawn: tuple[Image, Labels] | None = None

    def image(self) -> Image:
        """Return the image."""
        return self.read()[0]

    def read(self) -> tuple[Image, Labels]:
        """Return the image and its labels."""
        assert self.drawn is not None
        return self.drawn

    def annotated(self) -> tuple[Image, Annotation | Labels]:
        """Return the image and its labels."""
        return self.read()


def retention_set(n: int = N_RETENTION) -> Dataset:
    """Return simulated images of all looks, the same every time, that are never trained on."""
    items = []
    for index in range(n):
        rng = np.random.default_rng((RETENTION_SEED, index))
        look = LOOKS[index % len(LOOKS)]
        diameter = float(rng.uniform(*DIAMETERS_PX))
        drawn = simulate(look, (RETENTION_PX, RETENTION_PX), rng, diameter_px=diameter)
        name, axes = f"{look} {index}", "YX" if drawn.image.ndim == 2 else "YXC"
        image = Image(drawn.image, axes, name=name)
        items.append(Drawn(name, "val", look, Path(), Path(), drawn=(image, drawn.labels)))
    return Dataset(Path(), tuple(items))


def retention_score(model: CellModel, images: Dataset, device: str) -> Task[float]:
    """Return the mean score (0 to 1) of a model on what it should not forget."""
    report = yield from evaluate(images, model, engine=EngineSettings(device=device))
    return float(np.mean([image.score for image in report.images]))


def interpolate_weights(
    first: Mapping[str, Tensor], last: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Return weights that lie ``share`` of the way from the first to the last."""
    weights = {}
    for name, value in first.items():
        if value.dtype.is_floating_point:
            weights[name] = torch.lerp(value, last[name].to(value.device), share)
        else:
            weights[name] = last[name].clone()
    return weights


def prepare(network: nn.Module, *, is_frozen: bool) -> None:
    """Set a network up to learn; statistics of normalisations stay as they are, the trunk if it is frozen.

    Few patches of one kind of image would make statistics that suit no other.
    """
    network.train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    for part in trunk_of(network):
        part.requires_grad_(not is_frozen)
