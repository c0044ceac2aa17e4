"""Samples with their sampling weights -> batches of augmented patches with their targets.

Source of the weights, by which rare kinds of images are learned too: modality discovery and amplified
sampling of MEDIAR, arXiv:2212.03465.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import ClusterError, kmeans2, whiten
from torch import Tensor, nn
from torch.nn import functional

from cellwright.core.data import Image
from cellwright.core.tasks import Progress, Task, ahead
from cellwright.models.protocol import CellModel
from cellwright.ops.labels import annotate
from cellwright.ops.simulation.simulate import LOOKS, simulate
from cellwright.training.data.patches import augment, cut_patch, exclude_boundaries
from cellwright.training.data.samples import Sample, make_sample, volume_samples
from cellwright.training.settings import TrainingSettings

EMBEDDED_PX = 192  # side of the piece of each image that is embedded
SIMULATED_PX = 256
SIMULATED_VOLUME = (16, 192, 192)

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class WeightedSamples:
    """Images and how likely each is cut next; the weights sum to 1."""

    samples: tuple[Sample, ...]
    weights: NDArray[np.float64]


def make_batch(
    parts: Sequence[tuple[WeightedSamples, int]],
    settings: TrainingSettings,
    rng: np.random.Generator,
    *,
    exclude: bool,
) -> tuple[Tensor, Tensor]:
    """Return images float32 (B, 3, P, P) and targets (B, maps, P, P).

    ``parts`` says how many patches come from which samples; with ``exclude`` some patches are taught with a
    gap between touching cells.
    """
    chosen = [part.samples[i] for part, n in parts for i in rng.choice(len(part.samples), n, p=part.weights)]
    diameters = (settings.smallest_diameter_px, settings.largest_diameter_px)
    images, targets = [], []
    for sample in chosen:
        patch = cut_patch(sample, settings.patch_px, diameters, rng)
        image, target = patch.image, patch.targets
        if settings.augmentation >= 1 or rng.random() < settings.augmentation:
            image = augment(image, patch.labels, rng)
        if exclude and rng.random() < settings.exclude_boundaries:
            is_gap = (patch.labels > 0) & (exclude_boundaries(patch.labels) == 0)
            per_pixel = torch.tensor([kind in ("scalar", "direction") for kind in sample.kinds])
            target = torch.where(is_gap & per_pixel[:, None, None], 0.0, patch.targets)
        images.append(image)
        targets.append(target)
    return torch.stack(images), torch.stack(targets)


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
        image = np.moveaxis(np.atleast_3d(drawn.image), -1, 0)
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
    for made in ahead(batch, steps):
        yield made.result()


def appearance(sample: Sample) -> NDArray[np.float64]:
    """Return simple statistics (12,): size, colour, polarity, contrast, grain, cell size and density."""
    image, inside = sample.image.numpy(), sample.labels.numpy() > 0
    grey = image.mean(axis=0)
    grain = float(np.abs(np.diff(grey, axis=1)).mean())
    cell = background = grey
    if inside.any() and not inside.all():
        cell, background = grey[inside], grey[~inside]
    log_diameter = np.log(sample.diameter_px) if sample.diameter_px > 0 else 3.0
    return np.array(
        [
            np.log(grey.shape[0]),
            np.log(grey.shape[1]),
            float(np.ptp(image, axis=0).mean()),
            cell.mean() - background.mean(),
            cell.std(),
            background.mean(),
            background.std(),
            grain,
            *np.percentile(grey, (25, 75)),
            log_diameter,
            np.log1p(float(sample.labels.max())),
        ]
    )


def embedding(sample: Sample, encoder: nn.Module) -> NDArray[np.float64]:
    """Return mean and spread (2 n,) of the encoder's n coarsest features over the middle of an image."""
    height, width = sample.image.shape[1:]
    top, left = max(0, (height - EMBEDDED_PX) // 2), max(0, (width - EMBEDDED_PX) // 2)
    piece = sample.image[:, top : top + EMBEDDED_PX, left : left + EMBEDDED_PX]
    padding = (0, EMBEDDED_PX - piece.shape[2], 0, EMBEDDED_PX - piece.shape[1])
    piece = functional.pad(piece, padding).expand(3, -1, -1)
    with torch.inference_mode():
        features = encoder(piece[None].to(next(encoder.parameters()).device))[-1][0]
    return torch.cat([features.mean(dim=(1, 2)), features.std(dim=(1, 2))]).cpu().double().numpy()


def cluster_images(features: Sequence[NDArray[np.float64]], n_clusters: int, seed: int) -> NDArray[np.int64]:
    """Return the cluster (0..k - 1) of each feature vector, k-means on features scaled to unit spread."""
    table = np.stack(features)
    spread = table.std(axis=0) > 1e-9
    if len(table) <= n_clusters or not spread.any():
        return np.zeros(len(table), np.int64)
    n_clusters = min(n_clusters, len(np.unique(table, axis=0)))
    try:
        rng = np.random.default_rng(seed)
        _, found = kmeans2(whiten(table[:, spread]), n_clusters, minit="++", rng=rng, missing="raise")
    except ClusterError:  # a cluster ran empty: the images fall into fewer kinds
        return cluster_images(features, n_clusters - 1, seed)
    return np.unique(found, return_inverse=True)[1].astype(np.int64)


def sampling_weights(clusters: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the chance of each image; clusters below twice the mean size are raised to it, as in MEDIAR."""
    sizes = np.bincount(clusters)
    floor = 2 * sizes[sizes > 0].mean()
    weights = np.maximum(1.0, floor / sizes)[clusters]
    return np.asarray(weights / weights.sum())
