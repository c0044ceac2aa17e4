"""Simulated images for training: all looks of ``simulate``, and the wider ones of ``views``."""

import numpy as np

from cellwright.core.tasks import run
from cellwright.models.protocol import CellModel
from cellwright.ops.labels import annotate
from cellwright.training.data.sampler import simulated_samples
from cellwright.training.data.samples import Sample, Scale, make_sample
from tools.release.views import VIEWS, draw_view

N_LOOKS = 250
N_VIEWS = {
    "bacteria": 180,
    "yeast": 50,
    "adherent": 220,
    "whole": 80,
    "neurons": 80,
    "immunostain": 60,
    "packed": 100,
    "section": 120,
    "blood": 50,
}
VIEW_PX = 224


def simulated(model: CellModel, seed: int) -> list[Sample]:
    """Return drawn images with the targets of a model."""
    samples = run(simulated_samples(N_LOOKS, seed, model))
    assert set(N_VIEWS) == set(VIEWS)
    for number, (kind, n) in enumerate(N_VIEWS.items()):
        for index in range(n):
            rng = np.random.default_rng((seed, number, index))
            image, labels = draw_view(kind, (VIEW_PX, VIEW_PX), rng)
            if not labels.any():
                continue
            planes = np.moveaxis(image, -1, 0) if image.ndim == 3 else image[np.newaxis]
            name = f"drawn {kind} {index}"
            samples.append(
                make_sample(name, kind, planes, annotate(labels), model, scale=Scale(farthest=3.0))
            )
    return samples
