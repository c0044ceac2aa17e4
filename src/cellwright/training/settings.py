"""The settings of all that learns; their fields are flags of ``cellwright train`` and its like."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from cellwright.core.errors import SettingsError
from cellwright.core.settings import BoundedSettings, about, check_bounds

PresetName = Literal["quick", "balanced", "thorough"]
PretrainMethod = Literal["simclr", "colorize"]

# fields that several settings have
Seed = Annotated[int, about("Random seed; the same seed gives the same weights.", 0, 2**31 - 1)]
StepsPerEpoch = Annotated[int, about("Batches between two checks of the model.", 1)]
PatchSide = Annotated[int, about("Height and width of a patch, in pixels.", 32, step=16)]
PeakRate = Annotated[float, about("Peak learning rate.", 0.0)]
WeightDecay = Annotated[float, about("Weight decay of AdamW.", 0.0)]
WarmupSteps = Annotated[int, about("Batches over which the learning rate rises.", 0)]
FrozenSteps = Annotated[
    int, about("Batches in which only the last layers are trained; the others are frozen.", 0)
]
EmaDecay = Annotated[
    float, about("Decay of the moving average (EMA) of the weights, which is what is saved.", 0.0, 0.9999)
]
Augmentation = Annotated[
    float, about("Share of the patches whose intensities are changed at random.", 0.0, 1.0)
]


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Two phases: pretraining on everything, then fine-tuning on the dataset itself."""

    seed: Seed = 0
    pretrain_steps: Annotated[int, about("Batches of the first phase: all images, simulated too.", 0)] = 3000
    finetune_steps: Annotated[int, about("Batches of the second phase: the dataset, with replay.", 0)] = 1500
    steps_per_epoch: StepsPerEpoch = 250
    batch_size: Annotated[int, about("Patches in a batch.", 1)] = 8
    patch_px: PatchSide = 192
    pretrain_rate: Annotated[float, about("Peak learning rate of the first phase.", 0.0)] = 2e-3
    finetune_rate: Annotated[float, about("Peak learning rate of the second phase.", 0.0)] = 7e-4
    weight_decay: WeightDecay = 0.02
    warmup_steps: WarmupSteps = 100
    frozen_steps: FrozenSteps = 0
    ema_decay: EmaDecay = 0.998
    smallest_diameter_px: Annotated[float, about("Random zoom keeps cells larger than this.", 1.0)] = 8.0
    largest_diameter_px: Annotated[float, about("Random zoom keeps cells smaller than this.", 1.0)] = 70.0
    n_simulated: Annotated[int, about("Simulated images added to the first phase.", 0)] = 400
    n_modalities: Annotated[
        int, about("Clusters of similar images; rare ones are sampled more often.", 1)
    ] = 16
    replay: Annotated[
        float, about("Share of a fine-tuning batch that comes from the first phase.", 0.0, 1.0)
    ] = 0.125
    augmentation: Augmentation = 1.0
    exclude_boundaries: Annotated[
        float,
        about("Chance that touching cells are trained with a gap between them (first phase).", 0.0, 1.0),
    ] = 0.1

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.pretrain_steps + self.finetune_steps < 1:
            raise SettingsError("Training needs at least one step; got 0 in both phases. Set pretrain_steps.")
        if self.patch_px % 16:
            raise SettingsError(f"patch_px must be a multiple of 16; got {self.patch_px}.")
        if self.smallest_diameter_px >= self.largest_diameter_px:
            raise SettingsError(
                "smallest_diameter_px must be below largest_diameter_px; got "
                f"{self.smallest_diameter_px} and {self.largest_diameter_px}."
            )

    @property
    def n_steps(self) -> int:
        """Batches of both phases."""
        return self.pretrain_steps + self.finetune_steps


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """How a model learns from a few images without forgetting what it knew; the defaults are ``quick``."""

    seed: Seed = 0
    steps: Annotated[int, about("Most batches (training steps).", 1)] = 840
    steps_per_epoch: StepsPerEpoch = 140
    batch_size: Annotated[int, about("Patches in a batch, with those of replay.", 1)] = 8
    patch_px: PatchSide = 192
    rate: PeakRate = 5e-4
    warmup_steps: WarmupSteps = 40
    frozen_steps: FrozenSteps = 40
    weight_decay: WeightDecay = 0.01
    ema_decay: EmaDecay = 0.98
    replay: Annotated[
        float, about("Share of each batch that repeats what the model gave before on other images.", 0.0, 0.9)
    ] = 0.25
    n_replay: Annotated[int, about("Simulated images for replay.", 0)] = 48
    augmentation: Augmentation = 0.4
    patience: Annotated[
        int, about("Stop after so many checks without a better score (once half is done).", 1)
    ] = 3
    n_validation: Annotated[int, about("Most images that it is checked with each time.", 1)] = 6

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.patch_px % 32:
            raise SettingsError(f"patch_px must be a multiple of 32; got {self.patch_px}.")

    @property
    def n_replayed(self) -> int:
        """Patches of a batch that are replay; at least one patch is not."""
        wanted = round(self.replay * self.batch_size) if self.n_replay else 0
        return min(wanted, self.batch_size - 1)


@dataclass(frozen=True, slots=True)
class PretrainSettings:
    """How an encoder learns from images without annotation."""

    seed: Seed = 0
    method: Annotated[
        PretrainMethod,
        about(
            "simclr tells two views of one patch from those of others; colorize colours images "
            "with pieces hidden."
        ),
    ] = "simclr"
    steps: Annotated[int, about("Batches (training steps).", 1)] = 600
    steps_per_epoch: Annotated[int, about("Batches between two lines of the report.", 1)] = 50
    batch_size: Annotated[int, about("Patches in a batch; each is seen in two views.", 2)] = 32
    patch_px: Annotated[int, about("Height and width of a view, in pixels.", 64, step=32)] = 96
    rate: PeakRate = 1e-3
    weight_decay: WeightDecay = 0.02
    warmup_steps: WarmupSteps = 50
    ema_decay: EmaDecay = 0.99
    temperature: Annotated[
        float, about("Of simclr: lower weighs the most similar patches more.", 0.01, 10.0)
    ] = 0.1

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.patch_px % 32:
            raise SettingsError(f"patch_px must be a multiple of 32; got {self.patch_px}.")


@dataclass(frozen=True, slots=True)
class ClassifyTrainingSettings(BoundedSettings):
    """How a classifier learns: crops of all classes, the rare ones shown more often."""

    seed: Seed = 0
    steps: Annotated[int, about("Batches in all.", 1)] = 1500
    steps_per_epoch: StepsPerEpoch = 250
    batch_size: Annotated[int, about("Crops in a batch.", 2)] = 48
    rate: PeakRate = 2e-3
    weight_decay: WeightDecay = 0.02
    balance: Annotated[float, about("0 shows classes as often as they occur, 1 equally often.", 0.0, 1.0)] = (
        0.75
    )
    jitter: Annotated[float, about("Random shift and rescaling of each crop.", 0.0, 1.0)] = 0.12
    colour: Annotated[float, about("Random change of colours and contrast.", 0.0, 1.0)] = 0.5
    diameter_px: Annotated[
        float, about("Typical cell diameter where the data are points only; 0 where boxes tell.", 0.0)
    ] = 0.0


QUICK = FinetuneSettings()
PRESETS: dict[PresetName, FinetuneSettings] = {
    "quick": QUICK,
    "balanced": replace(
        QUICK, steps=5000, steps_per_epoch=400, batch_size=12, ema_decay=0.995, n_replay=150, n_validation=12
    ),
    "thorough": replace(
        QUICK,
        steps=15000,
        steps_per_epoch=800,
        batch_size=16,
        patch_px=256,
        frozen_steps=100,
        warmup_steps=100,
        ema_decay=0.998,
        n_replay=400,
        patience=5,
        n_validation=40,
    ),
}
"""Minutes on a laptop's CPU; an hour there; a night there, or less than an hour on a graphics card."""


def preset(name: str) -> FinetuneSettings:
    """Return the settings called ``name``.

    SettingsError where there is no such preset.
    """
    for known, settings in PRESETS.items():
        if known == name:
            return settings
    raise SettingsError(f"Preset must be one of {', '.join(PRESETS)}; got {name!r}.")
