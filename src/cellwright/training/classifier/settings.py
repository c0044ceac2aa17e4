"""The settings of training a classifier; the same fields are flags of ``cellwright train-classifier``."""

from dataclasses import dataclass
from typing import Annotated

from cellwright.core.settings import BoundedSettings
from cellwright.training.settings import PeakRate, Seed, StepsPerEpoch, WeightDecay


@dataclass(frozen=True, slots=True)
class ClassifyTrainingSettings(BoundedSettings):
    """One phase: crops of all classes, the rare ones shown oftener."""

    seed: Seed = 0
    steps: Annotated[int, {"min": 1, "tooltip": "Batches in all."}] = 1500
    steps_per_epoch: StepsPerEpoch = 250
    batch_size: Annotated[int, {"min": 2, "tooltip": "Crops in a batch."}] = 48
    rate: PeakRate = 2e-3
    weight_decay: WeightDecay = 0.02
    balance: Annotated[
        float,
        {"min": 0.0, "max": 1.0, "tooltip": "0 shows classes as often as they occur, 1 equally often."},
    ] = 0.75
    jitter: Annotated[
        float,
        {"min": 0.0, "max": 1.0, "tooltip": "Random shift and rescaling of each crop."},
    ] = 0.12
    colour: Annotated[
        float, {"min": 0.0, "max": 1.0, "tooltip": "Random change of colours and contrast."}
    ] = 0.5
    diameter_px: Annotated[
        float,
        {"min": 0.0, "tooltip": "Typical cell diameter where the data are points only; 0 where boxes tell."},
    ] = 0.0
