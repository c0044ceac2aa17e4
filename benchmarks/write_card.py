"""Score a shipped model on images it was not trained on and write its model card and scores.

python benchmarks/write_card.py flow --data FOLDER
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train_shipped import RECIPES, Recipe, curve_name

from cellwright.io.dataset import read_dataset
from cellwright.models import shelf
from cellwright.models.spec import ModelSpec, read_spec
from cellwright.tasks import run
from cellwright.training.evaluate import Report, evaluate
from cellwright.training.settings import TrainingSettings

UNSEEN = "bbbc039"  # another laboratory's fluorescence images, no part of any training
CARD = """# {title}

Preset `{preset}` of the `{family}` family, trained by the authors of napari-cellwright. The weights may be
used for any purpose, commercial use included, under the BSD-3-Clause licence of the package.

## Use

For nuclei in 2D fluorescence images (bright on dark), stained tissue and brightfield, with a typical diameter
between {low:g} and {high:g} pixels; images whose cells are smaller or larger are rescaled to {diameter:g}
pixels when they are counted. Volumes are counted slice by slice. Not for diagnosis. Whole cells in phase
contrast, electron microscopy and images of other kinds were not in the training data: look at the result
before you believe it.

## Training data

{data}

Simulated images of all looks of `cellwright.ops.simulate` ({n_simulated}) joined the pre-training.

## Recipe

    {command}

{stages}

Each stage starts from the weights of the one before. Its settings and its curve are in {curves}
beside this card. {remark}

## Scores

Mean over images, defaults of the package, images not seen in training. AP is TP / (TP + FP + FN) at an IoU;
F1 and PQ are at IoU 0.5; count error is the median of abs(found - true) / true; AUROC tells how well the
score of a cell ranks right cells above wrong ones.

{scores}

The validation images of dsb2018_train have siblings among its training images and chose the checkpoint, so
they flatter; they were also scored at three pairs of thresholds before the defaults were settled, which were
chosen on training images left out of short trainings. No image of {unseen} was trained on and nothing was
chosen by it; it was scored each time the others were.
"""


def data_lines(recipe: Recipe, folder: Path) -> str:
    """Return one line for each dataset: what, how many images, licence, attribution."""
    lines = []
    for name in (recipe.target, *recipe.extra):
        meta = json.loads((folder / name / "meta.json").read_text(encoding="utf-8"))
        n_images = len(read_dataset(folder / name).select("train", names=recipe.extra.get(name)))
        credit = meta.get("attribution") or meta["source"]
        lines.append(f"- **{name}**: {meta['title']} {n_images} images; {meta['licence']}; {credit}.")
    return "\n".join(lines)


def score_table(reports: dict[str, Report]) -> str:
    """Return the scores of each dataset and group as a table."""
    rows = [
        "| images | n | AP@0.5 | AP@0.75 | mean AP .5:.95 | F1 | PQ | count error | count MAE | AUROC |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for dataset, report in reports.items():
        for group, scores in report.to_json().items():
            rows.append(_row(f"{dataset}, {group}", scores))
    return "\n".join(rows)


def _row(name: str, scores: dict[str, Any]) -> str:
    figures = (scores["ap"]["0.50"], scores["ap"]["0.75"], scores["mean_ap"], scores["f1"], scores["pq"])
    cells = [name, str(scores["n_images"]), *(f"{value:.3f}" for value in figures)]
    cells += [
        f"{scores['count_median_error']:.1%}",
        f"{scores['count_mae']:.2f}",
        f"{scores['score_auroc']:.3f}",
    ]
    return f"| {' | '.join(cells)} |"


def stage_lines(recipe: Recipe) -> str:
    """Return one line for each stage: seed, steps, patches, augmentation and diameters."""
    return "\n".join(
        f"- **Stage {number}**, seed {stage.seed}: {_phases(stage, recipe.target)}; "
        f"{stage.batch_size} patches of {stage.patch_px} x {stage.patch_px} pixels in a step, "
        f"the intensities of {stage.augmentation:.0%} of them changed at random; random zoom keeps diameters "
        f"between {stage.smallest_diameter_px:g} and {stage.largest_diameter_px:g} pixels."
        for number, stage in enumerate(recipe.stages, 1)
    )


def _phases(stage: TrainingSettings, target: str) -> str:
    tuning = f"{stage.finetune_steps} steps of fine-tuning on {target} alone"
    if not stage.pretrain_steps:
        return tuning
    replay = f" with {stage.replay:.1%} replay" if stage.replay else ""
    return f"{stage.pretrain_steps} steps of pre-training on everything, then {tuning}{replay}"


def card_text(spec: ModelSpec, recipe: Recipe, data: Path, scores: str) -> str:
    """Return the model card."""
    return CARD.format(
        title=spec.title,
        preset=spec.preset,
        family=spec.family,
        low=spec.diameter_range_px[0],
        high=spec.diameter_range_px[1],
        diameter=spec.diameter_px,
        data=data_lines(recipe, data),
        n_simulated=max(stage.n_simulated for stage in recipe.stages if stage.pretrain_steps),
        command=f"python benchmarks/train_shipped.py {spec.family} --data DATA --output FOLDER",
        stages=stage_lines(recipe),
        curves=" and ".join(f"`{curve_name(number)}`" for number in range(1, len(recipe.stages) + 1)),
        scores=scores,
        unseen=UNSEEN,
        remark=recipe.remark,
    )


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain values."""
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Write card.md, scores.json and evaluation.json beside the weights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family", choices=RECIPES)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    folder, recipe = shelf.find(options.family), RECIPES[options.family]
    model = shelf.load(folder)
    validation = read_dataset(options.data / recipe.target).select("val")
    reports = {
        f"{recipe.target} val": run(evaluate(validation, model)),
        UNSEEN: run(evaluate(read_dataset(options.data / UNSEEN), model)),
    }
    table = score_table(reports)
    card = card_text(read_spec(folder / "spec.json"), recipe, options.data, table)
    (folder / "card.md").write_text(card, encoding="utf-8")
    seen, unseen = reports.values()
    summary = {**seen.summary(), f"f1_{UNSEEN}": unseen.to_json()["all"]["f1"]}
    write_json(folder / "scores.json", summary)
    write_json(folder / "evaluation.json", {name: report.to_json() for name, report in reports.items()})
    print(table)


if __name__ == "__main__":
    main()
