"""Train the weights that travel with the package, from the public datasets named in their model cards.

    python benchmarks/train_shipped.py flow --data FOLDER --output FOLDER

FOLDER holds one training folder for each dataset (images/, masks/, meta.json). The seed is fixed; a run that
was stopped goes on where it ended. The curve is written to ``curve.json`` beside the weights.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cellwright.io.dataset import Dataset, read_dataset
from cellwright.models import registry
from cellwright.tasks import Progress, run
from cellwright.training.loop import Data, EpochReport, train
from cellwright.training.settings import TrainingSettings

EMBRYOS = tuple(f"train_Emb{number:02d}_t{time}" for number in range(1, 8) for time in (201, 451))


@dataclass(frozen=True)
class Recipe:
    """What a shipped model is trained on, and how; ``extra`` is seen in the first phase only."""

    target: str
    settings: TrainingSettings
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


RECIPES = {
    "flow": Recipe(
        target="dsb2018_train",
        extra={"bbbc050": EMBRYOS, "stardist_examples": ("nuclei2d",)},
        settings=TrainingSettings(seed=1, pretrain_steps=2000, finetune_steps=3000, finetune_rate=1.2e-3),
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=RECIPES)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    recipe = RECIPES[options.family]
    model = registry.get(options.family).load().build("small")
    run(train(data_of(recipe, options.data), model, options.output, recipe.settings, device=options.device), show)


if __name__ == "__main__":
    main()
