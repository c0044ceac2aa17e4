"""Which images look alike, and how often each should be shown so that rare kinds are learned too.

Source: modality discovery and amplified sampling of MEDIAR, arXiv:2212.03465.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import ClusterError, kmeans2, whiten
from torch import nn
from torch.nn import functional

from cellwright.training.data.samples import Sample

EMBEDDED_PX = 192  # side of the piece of each image that is embedded


def appearance(sample: Sample) -> NDArray[np.float64]:
    """Return simple statistics (12,): size, colour, polarity, contrast, grain, cell size and density."""
    image, inside = sample.image.numpy(), sample.labels.numpy() > 0
    grey = image.mean(axis=0)
    grain = float(np.abs(np.diff(grey, axis=1)).mean())
    cell, background = (grey[inside], grey[~inside]) if inside.any() and not inside.all() else (grey, grey)
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
            np.log(sample.diameter_px) if sample.diameter_px > 0 else 3.0,
            np.log1p(float(sample.labels.max())),
        ]
    )


def embedding(sample: Sample, encoder: nn.Module) -> NDArray[np.float64]:
    """Return mean and spread of the encoder's coarsest features over the middle of an image."""
    height, width = sample.image.shape[1:]
    top, left = max(0, (height - EMBEDDED_PX) // 2), max(0, (width - EMBEDDED_PX) // 2)
    piece = sample.image[:, top : top + EMBEDDED_PX, left : left + EMBEDDED_PX]
    padding = (0, EMBEDDED_PX - piece.shape[2], 0, EMBEDDED_PX - piece.shape[1])
    piece = functional.pad(piece, padding).expand(3, -1, -1)
    with torch.inference_mode():
        features = encoder(piece[None].to(next(encoder.parameters()).device))[-1][0]
    return torch.cat([features.mean(dim=(1, 2)), features.std(dim=(1, 2))]).double().cpu().numpy()


def cluster(features: Sequence[NDArray[np.float64]], n_clusters: int, seed: int) -> NDArray[np.int64]:
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
        return cluster(features, n_clusters - 1, seed)
    return np.unique(found, return_inverse=True)[1].astype(np.int64)


def amplified(clusters: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the chance of each image; clusters below twice the mean size are raised to it, as in MEDIAR."""
    sizes = np.bincount(clusters)
    floor = 2 * sizes[sizes > 0].mean()
    weights = np.maximum(1.0, floor / sizes)[clusters]
    return np.asarray(weights / weights.sum())
