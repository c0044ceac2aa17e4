"""Train the models of nuclei together, from the public datasets named in their cards.

    python -m tools.release.train_shipped joint --data FOLDER --output FOLDER

FOLDER holds one training folder for each dataset (images/, masks/, meta.json). The seed is fixed; a run that
was stopped goes on where it ended. The families learn together first, then each on its own:

    python -m tools.release.train_shipped flow --data FOLDER --output FOLDER --start FOLDER

The curve of each run is written beside the weights.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path

import torch
from safetensors.torch import load_file

from cellwright.core.tasks import Progress, run
from cellwright.files.dataset.folder import Dataset, read_dataset
from cellwright.models.checkpoint import WEIGHTS, load_checkpoint, save_checkpoint
from cellwright.models.protocol import CellModel
from cellwright.training.run_folder import CURVE
from cellwright.training.settings import TrainingSettings
from cellwright.training.trainer import Data, EpochReport, train
from tools.command_line import command_line
from tools.release.joint import JointModel

EMBRYOS = tuple(f"train_Emb{number:02d}_t{time}" for number in range(1, 8) for time in (201, 451))
HELD_OUT = 11  # every so many images of the target's training split choose the best epoch and the thresholds
BLOOD = ("bccd", "blood_boxes")


@dataclass(frozen=True)
class Recipe:
    """What shipped models are trained on, and how.

    ``families`` learn together, each with the weight of its loss; ``extra`` is seen in the first phase and
    replayed in the second (all of a dataset where no names are given).
    """

    families: Mapping[str, float]
    settings: TrainingSettings
    target: str = "dsb2018_train"
    extra: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    remark: str = ""  # where the weights that travel came about otherwise than a new run would


NUCLEI = {"bbbc050": EMBRYOS, "stardist_examples": ("nuclei2d",)}
SIZES = {"smallest_diameter_px": 11.0, "largest_diameter_px": 50.0}  # about what images are rescaled to

RECIPES = {
    "joint": Recipe(
        families={"flow": 1.0, "centroid": 0.5, "query": 0.5, "density": 0.1},
        extra={**NUCLEI, **dict.fromkeys(BLOOD)},
        remark=(
            "The weights that travel began from those of an earlier flow model, trained alone for 7,500 "
            "steps on the same images, held-out ones included. The first 5,000 steps ran on a slower cosine, "
            "of 9,500 steps of fine-tuning."
        ),
        settings=TrainingSettings(
            seed=3,
            pretrain_steps=1500,
            finetune_steps=6500,
            steps_per_epoch=1000,
            pretrain_rate=1.5e-3,
            finetune_rate=1.5e-3,
            n_simulated=300,
            replay=0.3,
            augmentation=0.5,
            exclude_boundaries=0.0,
            **SIZES,
        ),
    ),
    "flow": Recipe(
        families={"flow": 1.0},
        extra=NUCLEI,
        settings=TrainingSettings(
            seed=4,
            pretrain_steps=0,
            finetune_steps=3000,
            steps_per_epoch=500,
            finetune_rate=8e-4,
            replay=0.1,
            augmentation=0.3,
            **SIZES,
        ),
    ),
    "flow_longer": Recipe(
        families={"flow": 1.0},
        extra=NUCLEI,
        remark="The first 2,000 steps ran on a slower cosine, of 8,000 steps.",
        settings=TrainingSettings(
            seed=8,
            pretrain_steps=0,
            finetune_steps=6500,
            steps_per_epoch=1000,
            finetune_rate=1.2e-3,
            replay=0.1,
            augmentation=0.3,
            **SIZES,
        ),
    ),
}


def data_of(recipe: Recipe, folder: Path) -> Data:
    """Return the datasets of a recipe under ``folder``, without what is held out."""
    target = read_dataset(folder / recipe.target)
    held_out = held_out_names(target)
    items = [
        replace(item, split="val") if item.name in held_out else item for item in target.select("train").items
    ]
    extra: list[Dataset] = [
        read_dataset(folder / name).select(names=names) for name, names in recipe.extra.items()
    ]
    return Data(replace(target, items=tuple(items)), tuple(extra))


def held_out_names(target: Dataset) -> frozenset[str]:
    """Return the training images that no weight is fitted to."""
    return frozenset(sorted(item.name for item in target.select("train").items)[::HELD_OUT])


def show(progress: Progress) -> None:
    """Print each epoch."""
    if isinstance(progress, EpochReport):
        print(f"{progress.done}/{progress.total}  {progress.note}", flush=True)


def main() -> None:
    """Train the families of one recipe."""
    parser = command_line(__doc__)
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="folder of models to begin with, one for each family")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    recipe = RECIPES[options.recipe]
    torch.manual_seed(recipe.settings.seed)
    models = [first_model(family, options.start) for family in recipe.families]
    joint = JointModel(models, list(recipe.families.values()))
    folder = options.output / options.recipe
    if not is_finished(folder, recipe.settings):
        data = data_of(recipe, options.data)
        run(train(data, joint, folder, recipe.settings, device=options.device), show)
    joint.network.load_state_dict(load_file(folder / WEIGHTS))
    for family in recipe.families:
        save_checkpoint(options.output / family, joint.part(family, joint.network))
        (options.output / family / f"curve_{options.recipe}.json").write_bytes((folder / CURVE).read_bytes())


def first_model(family: str, start: Path | None) -> CellModel:
    """Return the model a run begins with: the one in ``start``, else a random one."""
    if start and (start / family).is_dir():
        return load_checkpoint(start / family)
    model: CellModel = import_module(f"cellwright.models.families.{family}").build("small")
    return model


def is_finished(folder: Path, settings: TrainingSettings) -> bool:
    """Return whether the curve of a stage ends at its last step."""
    curve = folder / CURVE
    if not curve.exists():
        return False
    epochs = json.loads(curve.read_text(encoding="utf-8"))["epochs"]
    return bool(epochs) and epochs[-1]["step"] == settings.n_steps


if __name__ == "__main__":
    main()
