"""Pseudocolor: train it with and without context, choose how slices are linked, measure cells in 3D.

    python benchmarks/volumes.py train small --data FOLDER --output FOLDER
    python benchmarks/volumes.py train plain --data FOLDER --output FOLDER

FOLDER holds the training folders bbbc050 and stardist_examples. Embryos 1 to 7 are trained on and decide how
slices are linked; embryos 8 to 11 are only measured. A run that was stopped goes on where it ended.
"""

import argparse
from pathlib import Path

import torch
from train_shipped import EMBRYOS, SIZES, show

from cellwright.io.dataset import read_dataset
from cellwright.models import pseudocolor
from cellwright.models.checkpoint import WEIGHTS as WEIGHTS_FILE
from cellwright.models.checkpoint import load_checkpoint
from cellwright.models.shelf import find
from cellwright.tasks import run
from cellwright.training.loop import Data, train
from cellwright.training.settings import TrainingSettings

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


def data_of(folder: Path) -> Data:
    """Return the volumes that are trained on: embryos 1 to 7 at two times each, and nuclei of another lab."""
    target = read_dataset(folder / "bbbc050").select("train", names=EMBRYOS)
    return Data(target, (read_dataset(folder / "stardist_examples").select(names=("nuclei3d",)),))


def first_model(preset: str, start: Path) -> pseudocolor.PseudocolorModel:
    """Return a model that begins with the weights of flow."""
    model = pseudocolor.build(preset)
    model.network.load_state_dict(load_checkpoint(start).network.state_dict())
    return model


def train_one(options: argparse.Namespace) -> None:
    """Train one preset."""
    torch.manual_seed(RECIPE.seed)
    model = first_model(options.preset, options.start or find("flow"))
    run(train(data_of(options.data), model, options.output, RECIPE, device=options.device), show)


def main() -> None:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("train")
    command.add_argument("preset", choices=pseudocolor.SPECS)
    command.add_argument("--start", type=Path, help="folder of the flow model to begin with")
    command.add_argument("--output", type=Path, required=True)
    command.set_defaults(do=train_one)
    for one in commands.choices.values():
        one.add_argument("--data", type=Path, required=True)
        one.add_argument("--device", default="auto")
    options = parser.parse_args()
    options.do(options)


if __name__ == "__main__":
    main()
