"""How well are whole kinds of cells found that were never learned? Leave one out at a time.

    python -m benchmarks.accuracy.left_out_kinds --data FOLDER --output FOLDER [--steps 1500]

Tissue in colour, crowded tissue, adherent cells without a label, bacteria and yeast, and blood are left out
in turn. Three networks of ``flow`` learn all other kinds for the same number of steps: the trunk from
scratch, the lite encoder from ImageNet, and the same with the simulator, whose looks do not count as having
seen a kind. Each is scored with the defaults of counting: mean F1 at an IoU of outlines of 0.5 over images;
of blood, where only boxes are known and not of every cell, it is the recall of boxes.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tools.command_line import command_line
from tools.release.joint import JointModel
from tools.release.kinds import thinned
from tools.release.train_kinds import FIRST, Recipe, Schedule, joint_model, new_state, pools_of, train

from cellwright.core.tasks import run
from cellwright.files.dataset.folder import read_dataset
from cellwright.models import registry
from cellwright.models.checkpoint import load_checkpoint
from cellwright.models.protocol import CellModel
from cellwright.training.evaluation.evaluate import evaluate

FOLDS = {
    "stained tissue": ("dsb2018_train/histology", "hgsc_he_silver"),
    "crowded tissue": ("polyp_nuclei",),
    "adherent, no label": ("usiigaci_phase", "qpi_cells", "c2c12_timelapse"),
    "bacteria and yeast": ("bacteria_phase", "yeast_phase"),
    "blood": ("bccd", "blood_boxes", "chula_rbc12"),
}
NOT_SCORED = ("hgsc_he_silver", "chula_rbc12", "c2c12_timelapse")  # masks of a program; points; one stack
VARIANTS = {  # preset, share of simulated patches
    "trunk": ("small", 0.0),
    "lite": ("lite", 0.0),
    "lite, simulator": ("lite", 0.4),  # in a short training rare looks would hardly be seen with less
}


def main() -> None:
    """Train and score each network without each kind; print a table as it grows."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500, help="of 8 patches, of each training")
    parser.add_argument("--most", type=int, default=12, help="images of a dataset that are scored")
    parser.add_argument("--folds", nargs="*", choices=FOLDS, default=list(FOLDS))
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table: dict[str, dict[str, float]] = {}
    for fold in options.folds:
        for variant in options.variants:
            model = model_without(fold, variant, options)
            scores = dict(scores_of(model, fold, options))
            table.setdefault(variant, {})[fold] = float(np.mean(list(scores.values())))
            told = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
            print(f"{fold:20s} {variant:16s} {table[variant][fold]:.3f} ({told})", flush=True)
    for variant, scores in table.items():
        print(f"{variant:16s} mean of {len(scores)} kinds: {np.mean(list(scores.values())):.3f}")
    (options.output / "scores.json").write_text(json.dumps(table, indent=1), encoding="utf-8")


def model_without(fold: str, variant: str, options: argparse.Namespace) -> CellModel:
    """Return a network of ``flow`` that learned all kinds but those of a fold; one that is done stays."""
    preset, simulated_share = VARIANTS[variant]
    folder = options.output / f"{fold} {variant}".replace(",", "").replace(" ", "_")
    recipe = replace(FIRST, preset=preset, simulated_share=simulated_share)
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        model = _untrained(recipe)
        cache = options.output / f"images_{preset}"
        pools = pools_of(options.data, model, recipe, cache, FOLDS[fold])
        pools = [(share, pool) for share, pool in pools if share]
        schedule = Schedule(time.time(), n_steps=options.steps)
        train(new_state(model, recipe), model, recipe, pools, folder, schedule)
        (folder / "done").touch()
    return load_checkpoint(folder / "flow")


def _untrained(recipe: Recipe) -> JointModel:
    if recipe.preset == "lite":
        return joint_model(["flow"], recipe)
    torch.manual_seed(recipe.settings.seed)
    return JointModel([registry.get("flow").load().build(recipe.preset)], [1.0])


def scores_of(model: CellModel, fold: str, options: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """Yield each dataset of a fold and how well its cells are found."""
    for kind in FOLDS[fold]:
        name, _, group = kind.partition("/")
        if name in NOT_SCORED:
            continue
        dataset = read_dataset(options.data / name).select(group=group or None)
        report = run(evaluate(thinned(dataset, options.most), model))
        figures = report.to_json()["all"]
        yield name, figures["f1"] if "f1" in figures else figures["box_recall"]


if __name__ == "__main__":
    main()
