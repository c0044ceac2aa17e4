"""Train the shipped model of volumes, with and without the colours of neighbouring slices.

    python -m tools.release.train_pseudocolor lite --data FOLDER --output FOLDER
    python -m tools.release.train_pseudocolor small --data FOLDER --output FOLDER
    python -m tools.release.train_pseudocolor plain --data FOLDER --output FOLDER

FOLDER holds the training folders bbbc050 and stardist_examples. Embryos 1 to 7 are trained on. A run that was
stopped goes on where it ended.
"""

from dataclasses import replace
from pathlib import Path

import torch

from cellwright.core.tasks import run
from cellwright.files.dataset.folder import read_dataset
from cellwright.models.checkpoint import load_checkpoint
from cellwright.models.families import pseudocolor
from cellwright.models.store import find
from cellwright.training.settings import TrainingSettings
from cellwright.training.trainer import Data, train
from tools.command_line import command_line
from tools.release.train_shipped import EMBRYOS, SIZES, show

RECIPE = TrainingSettings(
    seed=5,
    pretrain_steps=800,
    finetune_steps=1700,
    steps_per_epoch=500,
    pretrain_rate=1e-3,
    finetune_rate=1e-3,
    n_simulated=320,
    replay=0.25,
    augmentation=0.5,
    exclude_boundaries=0.0,
    **SIZES,
)
SHORT = {  # for one that begins with all that flow knows
    "pretrain_steps": 300,
    "finetune_steps": 1500,
    "steps_per_epoch": 300,
    "pretrain_rate": 5e-4,
    "finetune_rate": 5e-4,
}
RECIPES = {"lite": replace(RECIPE, **SHORT), "small": RECIPE, "plain": RECIPE}


def data_of(folder: Path) -> Data:
    """Return the volumes that are trained on: embryos 1 to 7 at two times each, and nuclei of another lab."""
    target = read_dataset(folder / "bbbc050").select("train", names=EMBRYOS)
    return Data(target, (read_dataset(folder / "stardist_examples").select(names=("nuclei3d",)),))


def first_model(preset: str, start: Path) -> pseudocolor.PseudocolorModel:
    """Return a model that begins with the weights of flow."""
    model = pseudocolor.build(preset)
    model.network.load_state_dict(load_checkpoint(start).network.state_dict())
    return model


def main() -> None:
    """Train one preset."""
    parser = command_line(__doc__)
    parser.add_argument("preset", choices=RECIPES)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="folder of the flow model to begin with")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    recipe = RECIPES[options.preset]
    torch.manual_seed(recipe.seed)
    model = first_model(options.preset, options.start or find("flow"))
    run(train(data_of(options.data), model, options.output, recipe, device=options.device), show)


if __name__ == "__main__":
    main()
