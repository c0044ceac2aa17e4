"""Train and score the classifiers that travel with the package, and write their model cards.

    python -m tools.release.train_classifier blood --data FOLDER --output FOLDER

FOLDER holds one training folder for each dataset. ``--held-out`` trains without every sixth training image
and scores those instead, for trying settings.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import fill

from cellwright.core.tasks import run
from cellwright.files.dataset.folder import Dataset, read_dataset
from cellwright.models.store import load_classifier
from cellwright.training.cell_classifier import (
    Scores,
    read_cell_crops,
    score_classifier,
    train_classifier,
)
from cellwright.training.data.classes import ClassDataset
from cellwright.training.settings import ClassifyTrainingSettings
from tools.command_line import command_line
from tools.release.default_card import data_line
from tools.release.train_shipped import show

HELD_OUT = 6


@dataclass(frozen=True)
class Recipe:
    """What a shipped classifier is trained on, and how; ``names`` are those of each dataset's classes."""

    title: str
    use: str
    names: dict[str, dict[str, str]]
    settings: ClassifyTrainingSettings = field(default_factory=ClassifyTrainingSettings)


RECIPES = {
    "blood": Recipe(
        title="Red cells, white cells and platelets in stained blood smears",
        use="For cells found by any model in stained RGB images of blood smears: red cell (RBC), white cell "
        "(WBC) or platelet. The window is 1.5 times the longer side of the cell, and the network is "
        "told how large the cell is beside the median cell of the image. Points without boxes or masks are "
        "taken to be of the stated diameter, else of {diameter:g} pixels. It has no class for dirt or for "
        "cells of other kinds.",
        names={"bccd": {"Platelets": "Platelet"}, "blood_boxes": {}},
        settings=ClassifyTrainingSettings(seed=1, steps=500, steps_per_epoch=100),
    ),
}

CAUTION = (
    "Not for diagnosis. Blood is all that was in the training data: look at the result before you believe it."
)

CARD = """# {title}

Preset `{preset}` of the classifiers, trained by the authors of napari-cellwright. The weights may be used for
any purpose, commercial use included, under the BSD-3-Clause licence of the package.

## Use

{use}

## Training data

{data}

Only cells with a class were used; nothing was taken for background.

## Recipe

    python -m tools.release.train_classifier {name} --data DATA --output FOLDER

Seed {seed}, {steps} steps of {batch_size} crops, turned, mirrored, shifted, zoomed and recoloured at random.
Rare classes are shown more often (chance of a cell: the frequency of its class to the power of -{balance:g}).
Each cell is shown with its box and as a bare place. The weights are the running average at the last step; no
validation image chose them. The curve is in `curve.json` beside this card.

## Scores

On annotated cells of images not trained on; rows are the true classes, columns what was said. No setting was
chosen by these images. *Places alone*: without their boxes, each cell taken to be as large as the median cell
of its image.

{scores}
"""


def sources_of(recipe: Recipe, folder: Path, *, held_out: bool) -> list[ClassDataset]:
    """Return the datasets of a recipe; with ``held_out`` their validation images are training images."""
    return [
        ClassDataset(split(read_dataset(folder / name), held_out=held_out), names)
        for name, names in recipe.names.items()
    ]


def split(dataset: Dataset, *, held_out: bool) -> Dataset:
    """Return the dataset with every sixth training image as its validation images, where that is wanted."""
    if not held_out:
        return dataset
    training = dataset.select("train").items
    chosen = {item.name for item in sorted(training, key=lambda item: item.name)[::HELD_OUT]}
    items = tuple(replace(item, split="val" if item.name in chosen else "train") for item in training)
    return replace(dataset, items=items)


def data_lines(sources: list[ClassDataset]) -> str:
    """Return one line for each dataset, with the classes that have other names in it."""
    lines = []
    for source in sources:
        line = data_line(source.dataset.folder, len(source.dataset.select("train")))
        renamed = "; ".join(f"{old} = {new or 'left out'}" for old, new in source.names.items())
        lines.append(f"{line} {renamed}".strip())
    return "\n".join(lines)


def score_lines(name: str, n_images: int, scores: Scores) -> str:
    """Return accuracy and the confusion matrix as a table."""
    sums, summary = scores.confusion.sum(axis=1), scores.summary()
    rows = [
        f"**{name}**, {n_images} images, {sums.sum()} cells: accuracy {scores.accuracy:.3f}, mean recall "
        f"{summary['mean_recall']:.3f}.",
        "",
        f"| true | {' | '.join(scores.classes)} | recall |",
        "|---" * (len(scores.classes) + 2) + "|",
    ]
    for index, title in enumerate(scores.classes):
        recall = f"{scores.confusion[index, index] / sums[index]:.3f}" if sums[index] else "-"
        rows.append(f"| {title} | {' | '.join(map(str, scores.confusion[index]))} | {recall} |")
    return "\n".join(rows)


def main() -> None:
    """Train one classifier, score it and write its card."""
    parser = command_line(__doc__)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--held-out", action="store_true", help="score held-out training images, not val")
    parser.add_argument("--score-only", action="store_true", help="of a classifier already in the output")
    options = parser.parse_args()
    recipe, folder = RECIPES[options.name], options.output / options.name
    sources = sources_of(recipe, options.data, held_out=options.held_out)
    if not options.score_only:
        run(train_classifier(sources, folder, recipe.settings, title=recipe.title), show)
    classifier = load_classifier(folder)
    tables = []
    for source in sources:
        n_images = len(source.dataset.select("val"))
        kind = "every sixth training image" if options.held_out else "val"
        for bare in (False, True):
            cohort = run(read_cell_crops([source], classifier.spec, "val", sighted=not bare, bare=bare))
            how = f"{source.dataset.folder.name} {kind}{', places alone' if bare else ''}"
            tables.append(score_lines(how, n_images, run(score_classifier(classifier, cohort))))
    print("\n\n".join(tables))
    card = CARD.format(
        name=options.name,
        title=recipe.title,
        preset=classifier.spec.preset,
        use=fill(f"{recipe.use} {CAUTION}".format(diameter=classifier.spec.diameter_px), 108),
        data=data_lines(sources),
        seed=recipe.settings.seed,
        steps=recipe.settings.steps,
        batch_size=recipe.settings.batch_size,
        balance=recipe.settings.balance,
        scores="\n\n".join(tables),
    )
    (folder / "card.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
