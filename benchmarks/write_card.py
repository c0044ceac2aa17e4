"""Score a shipped model on images it was not trained on and write its model card and scores.

python benchmarks/write_card.py flow --data FOLDER
"""

import argparse
import json
from pathlib import Path
from typing import Any

from train_shipped import RECIPES, Recipe

from cellwright.io.dataset import read_dataset
from cellwright.models import shelf
from cellwright.models.spec import read_spec
from cellwright.tasks import run
from cellwright.training.evaluate import Report, evaluate

UNSEEN = "bbbc039"  # another laboratory's fluorescence images, no part of any training
CARD = """# {title}

Preset `{preset}` of the `{family}` family, trained by the authors of napari-cellwright. The weights may be used for
any purpose, commercial use included, under the BSD-3-Clause licence of the package.

## Use

For nuclei in 2D fluorescence images (bright on dark), stained tissue and brightfield, with a typical diameter between
{low:g} and {high:g} pixels; images whose cells are smaller or larger are rescaled to {diameter:g} pixels when they are
counted. Volumes are counted slice by slice. Not for diagnosis. Whole cells in phase contrast, electron microscopy and
images of other kinds were not in the training data: look at the result before you believe it.

## Training data

{data}

Simulated images of all looks of `cellwright.ops.simulate` ({n_simulated}) joined the first phase.

## Recipe

    {command}

Seed {seed}, {steps} steps of {batch} patches of {patch} x {patch} pixels: {pretrain} steps on everything, then
{finetune} on {target} alone with {replay:.0%} replay. The curve is in `curve.json`, the settings too.

## Scores

Mean over images, defaults of the package, images not seen in training. AP is TP / (TP + FP + FN) at an IoU; F1 and
PQ are at IoU 0.5; count error is the median of abs(found - true) / true; AUROC tells how well the score of a cell
ranks right cells above wrong ones.

{scores}

The validation images of dsb2018_train have siblings among its training images and chose the checkpoint, so they
flatter; {unseen} was not looked at before.
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


def main() -> None:
    """Write card.md and scores.json beside the weights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family", choices=RECIPES)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    folder, recipe = shelf.find(options.family), RECIPES[options.family]
    model, settings = shelf.load(folder), recipe.settings
    reports = {
        f"{recipe.target} val": run(
            evaluate(read_dataset(options.data / recipe.target).select("val"), model)
        ),
        UNSEEN: run(evaluate(read_dataset(options.data / UNSEEN), model)),
    }
    spec = read_spec(folder / "spec.json")
    card = CARD.format(
        title=spec.title,
        preset=spec.preset,
        family=spec.family,
        low=spec.diameter_range_px[0],
        high=spec.diameter_range_px[1],
        diameter=spec.diameter_px,
        data=data_lines(recipe, options.data),
        n_simulated=settings.n_simulated,
        command=f"python benchmarks/train_shipped.py {spec.family} --data DATA --output FOLDER",
        seed=settings.seed,
        steps=settings.n_steps,
        batch=settings.batch_size,
        patch=settings.patch_px,
        pretrain=settings.pretrain_steps,
        finetune=settings.finetune_steps,
        target=recipe.target,
        replay=settings.replay,
        scores=score_table(reports),
        unseen=UNSEEN,
    )
    (folder / "card.md").write_text(card, encoding="utf-8")
    summaries = {name: report.to_json() for name, report in reports.items()}
    (folder / "scores.json").write_text(json.dumps(summaries, indent=1) + "\n", encoding="utf-8")
    print(score_table(reports))


if __name__ == "__main__":
    main()
