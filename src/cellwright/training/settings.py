"""The settings of all that learns; their fields are flags of ``cellwright train`` and its like."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from cellwright.core.errors import SettingsError
from cellwright.core.settings import BoundedSettings, check_bounds

PresetName = Literal["quick", "balanced", "thorough"]
PretrainMethod = Literal["simclr", "colorize"]

# fields that several settings have
Seed = Annotated[
    int, {"min": 0, "max": 2**31 - 1, "tooltip": "Random seed; the same seed gives the same weights."}
]
StepsPerEpoch = Annotated[int, {"min": 1, "tooltip": "Batches between two checks of the model."}]
PatchSide = Annotated[int, {"min": 32, "step": 16, "tooltip": "Height and width of a patch, in pixels."}]
PeakRate = Annotated[float, {"min": 0.0, "tooltip": "Peak learning rate."}]
WeightDecay = Annotated[float, {"min": 0.0, "tooltip": "Weight decay of AdamW."}]
WarmupSteps = Annotated[int, {"min": 0, "tooltip": "Batches over which the learning rate rises."}]
FrozenSteps = Annotated[
    int, {"min": 0, "tooltip": "Batches in which only the last layers are trained; the others are frozen."}
]
EmaDecay = Annotated[
    float,
    {
        "min": 0.0,
        "max": 0.9999,
        "tooltip": "Decay of the moving average (EMA) of the weights, which is what is saved.",
    },
]
Augmentation = Annotated[
    float,
    {"min": 0.0, "max": 1.0, "tooltip": "Share of the patches whose intensities are changed at random."},
]


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Two phases: pretraining on everything, then fine-tuning on the dataset itself."""

    seed: Seed = 0
    pretrain_steps: Annotated[
        int, {"min": 0, "tooltip": "Batches of the first phase: all images, simulated too."}
    ] = 3000
    finetune_steps: Annotated[
        int, {"min": 0, "tooltip": "Batches of the second phase: the dataset, with replay."}
    ] = 1500
    steps_per_epoch: StepsPerEpoch = 250
    batch_size: Annotated[int, {"min": 1, "tooltip": "Patches in a batch."}] = 8
    patch_px: PatchSide = 192
    pretrain_rate: Annotated[float, {"min": 0.0, "tooltip": "Peak learning rate of the first phase."}] = 2e-3
    finetune_rate: Annotated[float, {"min": 0.0, "tooltip": "Peak learning rate of the second phase."}] = 7e-4
    weight_decay: WeightDecay = 0.02
    warmup_steps: WarmupSteps = 100
    frozen_steps: FrozenSteps = 0
    ema_decay: EmaDecay = 0.998
    smallest_diameter_px: Annotated[
        float, {"min": 1.0, "tooltip": "Random zoom keeps cells larger than this."}
    ] = 8.0
    largest_diameter_px: Annotated[
        float, {"min": 1.0, "tooltip": "Random zoom keeps cells smaller than this."}
    ] = 70.0
    n_simulated: Annotated[int, {"min": 0, "tooltip": "Simulated images added to the first phase."}] = 400
    n_modalities: Annotated[
        int, {"min": 1, "tooltip": "Clusters of similar images; rare ones are sampled more often."}
    ] = 16
    replay: Annotated[
        float,
        {"min": 0.0, "max": 1.0, "tooltip": "Share of a fine-tuning batch that comes from the first phase."},
    ] = 0.125
    augmentation: Augmentation = 1.0
    exclude_boundaries: Annotated[
        float,
        {
            "min": 0.0,
            "max": 1.0,
            "tooltip": "Chance that touching cells are trained with a gap between them (first phase).",
        },
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
    steps: Annotated[int, {"min": 1, "tooltip": "Most batches (training steps)."}] = 840
    steps_per_epoch: StepsPerEpoch = 140
    batch_size: Annotated[int, {"min": 1, "tooltip": "Patches in a batch, with those of replay."}] = 8
    patch_px: PatchSide = 192
    rate: PeakRate = 5e-4
    warmup_steps: WarmupSteps = 40
    frozen_steps: FrozenSteps = 40
    weight_decay: WeightDecay = 0.01
    ema_decay: EmaDecay = 0.98
    replay: Annotated[
        float,
        {
            "min": 0.0,
            "max": 0.9,
            "tooltip": "Share of each batch that repeats what the model gave before on other images.",
        },
    ] = 0.25
    n_replay: Annotated[int, {"min": 0, "tooltip": "Simulated images for replay."}] = 48
    augmentation: Augmentation = 0.4
    patience: Annotated[
        int, {"min": 1, "tooltip": "Stop after so many checks without a better score (once half is done)."}
    ] = 3
    n_validation: Annotated[int, {"min": 1, "tooltip": "Most images that it is checked with each time."}] = 6

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
        {
            "tooltip": "simclr tells two views of one patch from those of others; colorize colours images "
            "with pieces hidden."
        },
    ] = "simclr"
    steps: Annotated[int, {"min": 1, "tooltip": "Batches (training steps)."}] = 600
    steps_per_epoch: Annotated[int, {"min": 1, "tooltip": "Batches between two lines of the report."}] = 50
    batch_size: Annotated[int, {"min": 2, "tooltip": "Patches in a batch; each is seen in two views."}] = 32
    patch_px: Annotated[int, {"min": 64, "step": 32, "tooltip": "Height and width of a view, in pixels."}] = (
        96
    )
    rate: PeakRate = 1e-3
    weight_decay: WeightDecay = 0.02
    warmup_steps: WarmupSteps = 50
    ema_decay: EmaDecay = 0.99
    temperature: Annotated[
        float, {"min": 0.01, "max": 10.0, "tooltip": "Of simclr: lower weighs the most similar patches more."}
    ] = 0.1

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.patch_px % 32:
            raise SettingsError(f"patch_px must be a multiple of 32; got {self.patch_px}.")


@dataclass(frozen=True, slots=True)
class ClassifyTrainingSettings(BoundedSettings):
    """How a classifier learns: crops of all classes, the rare ones shown more often."""

    seed: Seed = 0
    steps: Annotated[int, {"min": 1, "tooltip": "Batches in all."}] = 1500
    steps_per_epoch: StepsPerEpoch = 250
    batch_size: Annotated[int, {"min": 2, "tooltip": "Crops in a batch."}] = 48
    rate: PeakRate = 2e-3
    weight_decay: WeightDecay = 0.02
    balance: Annotated[
        float, {"min": 0.0, "max": 1.0, "tooltip": "0 shows classes as often as they occur, 1 equally often."}
    ] = 0.75
    jitter: Annotated[
        float, {"min": 0.0, "max": 1.0, "tooltip": "Random shift and rescaling of each crop."}
    ] = 0.12
    colour: Annotated[
        float, {"min": 0.0, "max": 1.0, "tooltip": "Random change of colours and contrast."}
    ] = 0.5
    diameter_px: Annotated[
        float,
        {"min": 0.0, "tooltip": "Typical cell diameter where the data are points only; 0 where boxes tell."},
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
