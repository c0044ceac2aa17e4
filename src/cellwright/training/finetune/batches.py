"""What a model is fine-tuned on: patches of the images to learn, and of those that keep what it knew."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cellwright.core.tasks import Task
from cellwright.files.dataset.folder import Dataset
from cellwright.models.protocol import CellModel
from cellwright.training.data.augment import augment
from cellwright.training.data.patches import cut_patch
from cellwright.training.data.sampler import one_ahead, simulated_samples
from cellwright.training.data.samples import Sample, load_samples
from cellwright.training.settings import FinetuneSettings
from cellwright.training.trainer import Data

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
    n_simulated = 0
    if settings.n_replayed:
        n_simulated = settings.n_replay
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
