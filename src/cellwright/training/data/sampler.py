"""Samples with their chances -> batches of augmented patches with their targets."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellwright.core.data import Image
from cellwright.core.tasks import Progress, Task
from cellwright.models.protocol import CellModel, MapKind
from cellwright.ops.labels import annotate
from cellwright.ops.simulation.simulate import LOOKS, simulate
from cellwright.training.data.augment import augment, exclude_boundaries
from cellwright.training.data.patches import Patch, cut_patch
from cellwright.training.data.samples import Sample, make_sample, volume_samples
from cellwright.training.settings import TrainingSettings

SIMULATED_PX = 256
SIMULATED_VOLUME = (16, 192, 192)

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class Pool:
    """Images and the chance of each to be cut next."""

    samples: tuple[Sample, ...]
    chances: NDArray[np.float64]


def make_batch(
    parts: Sequence[tuple[Pool, int]], settings: TrainingSettings, rng: np.random.Generator, *, exclude: bool
) -> tuple[Tensor, Tensor]:
    """Return images float32 (B, 3, P, P) and targets (B, maps, P, P).

    ``parts`` says how many patches come from which pool; with ``exclude`` some patches are taught with a gap
    between touching cells.
    """
    chosen = [pool.samples[i] for pool, n in parts for i in rng.choice(len(pool.samples), n, p=pool.chances)]
    diameters = (settings.smallest_diameter_px, settings.largest_diameter_px)
    images, targets = [], []
    for sample in chosen:
        patch = cut_patch(sample, settings.patch_px, diameters, rng)
        changed = settings.augmentation >= 1 or rng.random() < settings.augmentation
        images.append(augment(patch.image, patch.labels, rng) if changed else patch.image)
        gap = exclude and rng.random() < settings.exclude_boundaries
        targets.append(_with_gaps(patch, sample.kinds) if gap else patch.targets)
    return torch.stack(images), torch.stack(targets)


def _with_gaps(patch: Patch, kinds: tuple[MapKind, ...]) -> Tensor:
    """Return the targets of a patch whose touching cells are parted by background."""
    is_gap = (patch.labels > 0) & (exclude_boundaries(patch.labels) == 0)
    per_pixel = torch.tensor([kind in ("scalar", "direction") for kind in kinds])
    return torch.where(is_gap & per_pixel[:, None, None], 0.0, patch.targets)


def simulated_samples(n: int, seed: int, model: CellModel) -> Task[list[Sample]]:
    """Draw ``n`` images of all looks, fluorescence twice as often as the others."""
    if model.needs_volumes:
        return (yield from _simulated_volumes(n, seed, model))
    samples = []
    looks = ("fluorescence", *LOOKS)
    for index in range(n):
        yield Progress("simulate", index, n)
        look = looks[index % len(looks)]
        drawn = simulate(look, (SIMULATED_PX, SIMULATED_PX), np.random.default_rng((seed, index)))
        image = np.moveaxis(drawn.image, -1, 0) if drawn.image.ndim == 3 else drawn.image[None]
        name, group = f"simulated:{index}", f"simulated {look}"
        samples.append(make_sample(name, group, image, annotate(drawn.labels), model))
    return samples


def _simulated_volumes(n: int, seed: int, model: CellModel) -> Task[list[Sample]]:
    """Draw volumes of ``n`` slices in all."""
    samples: list[Sample] = []
    for index in range(-(-n // SIMULATED_VOLUME[0])):
        yield Progress("simulate", len(samples), n)
        drawn = simulate("fluorescence", SIMULATED_VOLUME, np.random.default_rng((seed, index)))
        volume = (Image(drawn.image, "ZYX"), drawn.labels)
        samples += volume_samples(f"simulated:{index}", "simulated volume", volume, model)
    return samples


def one_ahead(batch: Callable[[int], Batch], steps: range) -> Iterator[Batch]:
    """Yield the batches of these steps, each made in a thread while the one before is learned."""
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(batch, steps.start)
        for step in steps:
            ready = ahead.result()
            if step + 1 < steps.stop:
                ahead = pool.submit(batch, step + 1)
            yield ready
