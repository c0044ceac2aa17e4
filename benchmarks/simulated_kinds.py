"""Simulated images for training, of all looks."""

from cellwright.models.contract import CellModel
from cellwright.tasks import run
from cellwright.training.pool import simulated_samples
from cellwright.training.samples import Sample

N_IMAGES = 300


def simulated(model: CellModel, seed: int) -> list[Sample]:
    """Return drawn images with the targets of a model."""
    return run(simulated_samples(N_IMAGES, seed, model))
