"""The settings of a training run; the same fields are flags of ``cellwright train``."""

from dataclasses import dataclass
from typing import Annotated

from cellwright.core.errors import SettingsError
from cellwright.core.settings import check_bounds


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Two phases: pre-training on everything, then fine-tuning on the dataset itself."""

    seed: Annotated[
        int, {"tooltip": "Start of all random numbers; the same seed gives the same weights."}
    ] = 0
    pretrain_steps: Annotated[
        int, {"min": 0, "tooltip": "Batches of the first phase: all images, simulated too."}
    ] = 3000
    finetune_steps: Annotated[
        int, {"min": 0, "tooltip": "Batches of the second phase: the dataset, with replay."}
    ] = 1500
    steps_per_epoch: Annotated[
        int, {"min": 1, "tooltip": "Batches between two looks at the validation images."}
    ] = 250
    batch_size: Annotated[int, {"min": 1, "tooltip": "Patches in a batch."}] = 8
    patch_px: Annotated[
        int, {"min": 32, "step": 16, "tooltip": "Height and width of a patch, in pixels."}
    ] = 192
    pretrain_rate: Annotated[float, {"min": 0.0, "tooltip": "Highest learning rate of the first phase."}] = (
        2e-3
    )
    finetune_rate: Annotated[float, {"min": 0.0, "tooltip": "Highest learning rate of the second phase."}] = (
        7e-4
    )
    weight_decay: Annotated[float, {"min": 0.0, "tooltip": "Weight decay of AdamW."}] = 0.02
    warmup_steps: Annotated[int, {"min": 0, "tooltip": "Batches over which the learning rate rises."}] = 100
    frozen_steps: Annotated[
        int, {"min": 0, "tooltip": "Batches in which only the last layers learn; the trunk stays as it is."}
    ] = 0
    ema_decay: Annotated[
        float,
        {"min": 0.0, "max": 0.9999, "tooltip": "Memory of the running average of the weights that is kept."},
    ] = 0.998
    smallest_diameter_px: Annotated[
        float, {"min": 1.0, "tooltip": "Random zoom keeps cells larger than this."}
    ] = 8.0
    largest_diameter_px: Annotated[
        float, {"min": 1.0, "tooltip": "Random zoom keeps cells smaller than this."}
    ] = 70.0
    n_simulated: Annotated[int, {"min": 0, "tooltip": "Simulated images added to the first phase."}] = 400
    n_modalities: Annotated[
        int, {"min": 1, "tooltip": "Clusters of alike images; the rare ones are shown oftener."}
    ] = 16
    replay: Annotated[
        float,
        {"min": 0.0, "max": 1.0, "tooltip": "Share of a fine-tuning batch that comes from the first phase."},
    ] = 0.125
    augmentation: Annotated[
        float,
        {"min": 0.0, "max": 1.0, "tooltip": "Share of the patches whose intensities are changed at random."},
    ] = 1.0
    exclude_boundaries: Annotated[
        float,
        {
            "min": 0.0,
            "max": 1.0,
            "tooltip": "Chance that touching cells are taught with a gap (first phase).",
        },
    ] = 0.1

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.pretrain_steps + self.finetune_steps < 1:
            raise SettingsError("Training needs at least one step; got 0 in both phases. Set pretrain_steps.")
        if self.patch_px % 16 or self.patch_px < 32:
            raise SettingsError(f"patch_px must be a multiple of 16 from 32 on; got {self.patch_px}.")
        if not 0 < self.smallest_diameter_px < self.largest_diameter_px:
            raise SettingsError(
                "smallest_diameter_px must be above 0 and below largest_diameter_px; got "
                f"{self.smallest_diameter_px} and {self.largest_diameter_px}."
            )

    @property
    def n_steps(self) -> int:
        """Batches of both phases."""
        return self.pretrain_steps + self.finetune_steps
