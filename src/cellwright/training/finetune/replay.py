"""What a model is fine-tuned on: patches of the images to learn, and of those that keep what it knew.

Of what it knew before, it is also measured how well it still answers.

Source: replay by the former model's own answers, Li & Hoiem, Learning without forgetting, TPAMI 40, 2935
(2018), doi:10.1109/TPAMI.2017.2773081; weights between before and after, Wortsman et al., Robust fine-tuning
of zero-shot models, CVPR 2022, doi:10.1109/CVPR52688.2022.00780.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
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
from cellwright.training.data.patches import augment, cut_patch
from cellwright.training.data.sampler import one_ahead, simulated_samples
from cellwright.training.data.samples import Sample, load_samples
from cellwright.training.evaluation.evaluate import evaluate
from cellwright.training.settings import FinetuneSettings
from cellwright.training.trainer import Data, forward, trunk_of

N_RETENTION = 12  # simulated images on which it is measured what a model still knows
RETENTION_PX = 224
RETENTION_VOLUME = (12, 128, 128)
RETENTION_SEED = 7_000_000  # far from those of the images that are replayed
DIAMETERS_PX = (18.0, 34.0)
N_FIXED = 16  # patches by which a model is judged where cells are too few to score it
SPREAD = 1.33  # patches show cells up to this many times larger or smaller than they are


@dataclass(frozen=True, slots=True)
class SampleSets:
    """What patches are cut from: the images to learn, and those to replay, drawn and annotated ones.

    ``diameter_px`` is that of the cells as they are in the images, 0 where it suits the model.
    """

    target: tuple[Sample, ...]
    replay: tuple[Sample, ...]
    extra: tuple[Sample, ...]
    diameter_px: float


def read_sample_sets(data: Data, model: CellModel, settings: FinetuneSettings) -> Task[SampleSets]:
    """Read the images, resized where their cells do not suit the model, and draw those to replay."""
    target = yield from load_samples(data.target, model, farthest=1.0)
    extra: list[Sample] = []
    for dataset in data.extra:
        extra += yield from load_samples(dataset.select("train"), model)
    n_simulated = settings.n_replay if settings.n_replayed else 0
    simulated = yield from simulated_samples(n_simulated, settings.seed, model)
    diameter_px = 0.0
    resized = [sample.diameter_px / sample.zoom for sample in target if sample.zoom != 1]
    if 2 * len(resized) > len(target):
        diameter_px = round(float(np.median(resized)), 1)
    return SampleSets(tuple(target), tuple(simulated), tuple(extra), diameter_px)


def make_patches(
    samples: tuple[Sample, ...], n: int, settings: FinetuneSettings, rng: np.random.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Return ``n`` patches (3, P, P) and their targets (maps, P, P), cells about as large as they are."""
    patches = []
    for index in rng.integers(len(samples), size=n):
        sample = samples[index]
        diameters = (sample.diameter_px / SPREAD, sample.diameter_px * SPREAD)
        patch = cut_patch(sample, settings.patch_px, diameters, rng)
        image = patch.image
        if rng.random() < settings.augmentation:
            image = augment(image, patch.labels, rng)
        patches.append((image, patch.targets))
    return patches


def fixed_patches(
    dataset: Dataset, model: CellModel, settings: FinetuneSettings
) -> Task[tuple[Tensor, Tensor]]:
    """Return patches (N, 3, P, P) of a dataset and their targets (N, maps, P, P), the same every time."""
    samples = yield from load_samples(dataset, model, farthest=1.0)
    rng = np.random.default_rng((settings.seed, N_FIXED))
    patches = make_patches(tuple(samples), N_FIXED, replace(settings, augmentation=0.0), rng)
    images, targets = zip(*patches, strict=True)
    return torch.stack(images), torch.stack(targets)


def batches(
    steps: range, sets: SampleSets, settings: FinetuneSettings
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Return batches that depend on the step's number alone, and how many of each the teacher answers."""

    def batch(step: int) -> tuple[Tensor, Tensor, int]:
        rng = np.random.default_rng((settings.seed, step))
        n_asked = settings.n_replayed if sets.replay else 0
        n_extra = n_asked // 2 if sets.extra else 0
        patches = []
        for samples, n in (
            (sets.target, settings.batch_size - n_asked),
            (sets.extra, n_extra),
            (sets.replay, n_asked - n_extra),
        ):
            if n:
                patches += make_patches(samples, n, settings, rng)
        images, targets = zip(*patches, strict=True)
        return torch.stack(images), torch.stack(targets), n_asked - n_extra

    return one_ahead(batch, steps)


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

    def annotated(self) -> tuple[Image, Annotation | Labels]:
        """Return the image and its labels."""
        assert self.drawn is not None
        return self.drawn


def retention_set(n: int = N_RETENTION, *, of_volumes: bool = False) -> Dataset:
    """Return simulated images of all looks, the same every time, that are never trained on.

    For models that count in volumes alone, a quarter as many volumes.
    """
    looks = [LOOKS[index % len(LOOKS)] for index in range(n)]
    shape: tuple[int, ...] = (RETENTION_PX, RETENTION_PX)
    if of_volumes:
        looks, shape = ["fluorescence"] * max(1, n // 4), RETENTION_VOLUME
    items = []
    for index, look in enumerate(looks):
        rng = np.random.default_rng((RETENTION_SEED, index))
        drawn = simulate(look, shape, rng, diameter_px=float(rng.uniform(*DIAMETERS_PX)))
        axes = "ZYX" if of_volumes else "YXC"[: drawn.image.ndim]
        name = f"{look} {index}"
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


def set_training_mode(network: nn.Module, *, is_frozen: bool) -> None:
    """Set a network up to learn; statistics of normalisations stay as they are, the trunk if it is frozen.

    Few patches of one kind of image would make statistics that suit no other.
    """
    network.train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    for part in trunk_of(network):
        part.requires_grad_(not is_frozen)
