"""Train the weights that travel with the package, from the public datasets named in their model cards.

    python benchmarks/train_shipped.py flow --data FOLDER --output FOLDER

FOLDER holds one training folder for each dataset (images/, masks/, meta.json). The seed is fixed; a run that
was stopped goes on where it ended. The curve of each stage is written beside the weights.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from cellwright.io.dataset import Dataset, read_dataset
from cellwright.models import registry
from cellwright.models.checkpoint import load_checkpoint, save_checkpoint
from cellwright.tasks import Progress, run
from cellwright.training.loop import Data, EpochReport, train
from cellwright.training.settings import TrainingSettings

EMBRYOS = tuple(f"train_Emb{number:02d}_t{time}" for number in range(1, 8) for time in (201, 451))


@dataclass(frozen=True)
class Recipe:
    """What a shipped model is trained on, and how.

    Each stage starts from the weights of the one before; ``extra`` is seen in pre-training only.
    """

    target: str
    stages: tuple[TrainingSettings, ...]
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    remark: str = ""  # where the weights that travel came about otherwise than a new run would


RECIPES = {
    "flow": Recipe(
        target="dsb2018_train",
        extra={"bbbc050": EMBRYOS, "stardist_examples": ("nuclei2d",)},
        remark=(
            "The first 1,000 steps of stage 1 ran on a slower cosine (of 5,000 steps of pre-training) from\n"
            "first weights without a fixed seed; its best epoch, step 3,750, was chosen by the group mean.\n"
            "The weights are those of step 2,250 of stage 2. A new run comes near them, not to them."
        ),
        stages=(
            TrainingSettings(seed=1, pretrain_steps=2000, finetune_steps=3000, finetune_rate=1.2e-3),
            TrainingSettings(  # half of the patches as they are, at the sizes that images are rescaled to
                seed=2,
                pretrain_steps=0,
                finetune_steps=2500,
                finetune_rate=8e-4,
                augmentation=0.5,
                smallest_diameter_px=11.0,
                largest_diameter_px=50.0,
            ),
        ),
    ),
}


def data_of(recipe: Recipe, folder: Path) -> Data:
    """Return the datasets of a recipe under ``folder``."""
    extra: list[Dataset] = [
        read_dataset(folder / name).select(names=names) for name, names in recipe.extra.items()
    ]
    return Data(read_dataset(folder / recipe.target), tuple(extra))


def show(progress: Progress) -> None:
    """Print each epoch."""
    if isinstance(progress, EpochReport):
        print(f"{progress.done}/{progress.total}  {progress.note}", flush=True)


def main() -> None:
    """Train one family."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family", choices=RECIPES)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    recipe = RECIPES[options.family]
    data = data_of(recipe, options.data)
    torch.manual_seed(recipe.stages[0].seed)
    model = registry.get(options.family).load().build("small")
    for number, settings in enumerate(recipe.stages, 1):
        folder = options.output / f"stage{number}"
        if not is_finished(folder, settings):
            run(train(data, model, folder, settings, device=options.device), show)
        model = load_checkpoint(folder)
        (options.output / curve_name(number)).write_bytes((folder / "curve.json").read_bytes())
    save_checkpoint(options.output, model)


def curve_name(number: int) -> str:
    """Return the file name of the curve of a stage, counted from 1."""
    return f"curve_stage{number}.json"


def is_finished(folder: Path, settings: TrainingSettings) -> bool:
    """Return whether the curve of a stage ends at its last step."""
    curve = folder / "curve.json"
    if not curve.exists():
        return False
    epochs = json.loads(curve.read_text(encoding="utf-8"))["epochs"]
    return bool(epochs) and epochs[-1]["step"] == settings.n_steps


if __name__ == "__main__":
    main()
