"""The settings of fine-tuning, with three presets; the same fields are flags of ``cellwright train``."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from cellwright.core.errors import SettingsError
from cellwright.core.settings import check_bounds

PresetName = Literal["quick", "balanced", "thorough"]


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """How a model learns from a few images without forgetting what it knew; the defaults are ``quick``."""

    seed: Annotated[
        int, {"tooltip": "Start of all random numbers; the same seed gives the same weights."}
    ] = 0
    steps: Annotated[int, {"min": 1, "tooltip": "Batches at most."}] = 900
    steps_per_epoch: Annotated[
        int, {"min": 1, "tooltip": "Batches between two looks at the validation images."}
    ] = 150
    batch_size: Annotated[int, {"min": 1, "tooltip": "Patches in a batch, with those of replay."}] = 8
    patch_px: Annotated[
        int, {"min": 32, "step": 16, "tooltip": "Height and width of a patch, in pixels."}
    ] = 192
    rate: Annotated[float, {"min": 0.0, "tooltip": "Highest learning rate."}] = 5e-4
    warmup_steps: Annotated[int, {"min": 0, "tooltip": "Batches over which the learning rate rises."}] = 40
    frozen_steps: Annotated[
        int, {"min": 0, "tooltip": "Batches in which only the last layers learn; the trunk stays as it is."}
    ] = 40
    weight_decay: Annotated[float, {"min": 0.0, "tooltip": "Weight decay of AdamW."}] = 0.01
    ema_decay: Annotated[
        float,
        {"min": 0.0, "max": 0.9999, "tooltip": "Memory of the running average of the weights that is kept."},
    ] = 0.98
    replay: Annotated[
        float,
        {
            "min": 0.0,
            "max": 0.9,
            "tooltip": "Share of each batch that asks for what the model gave before, on other images.",
        },
    ] = 0.25
    n_replay: Annotated[int, {"min": 0, "tooltip": "Simulated images for replay."}] = 48
    augmentation: Annotated[
        float,
        {"min": 0.0, "max": 1.0, "tooltip": "Share of the patches whose intensities are changed at random."},
    ] = 0.4
    patience: Annotated[
        int, {"min": 1, "tooltip": "Stop after so many epochs without a better score (once half is done)."}
    ] = 3
    n_validation: Annotated[
        int, {"min": 1, "tooltip": "Validation images looked at after each epoch, at most."}
    ] = 6

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.patch_px % 32:
            raise SettingsError(f"patch_px must be a multiple of 32; got {self.patch_px}.")

    @property
    def n_replayed(self) -> int:
        """Patches of a batch that are replay; at least one patch is not."""
        wanted = round(self.replay * self.batch_size) if self.n_replay else 0
        return min(wanted, self.batch_size - 1)


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

    Raises
    ------
    SettingsError
        No such preset.
    """
    for known, settings in PRESETS.items():
        if known == name:
            return settings
    raise SettingsError(f"Preset must be one of {', '.join(PRESETS)}; got {name!r}.")
