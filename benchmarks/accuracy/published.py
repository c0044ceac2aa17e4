"""The published networks (presets `paper`) beside ours, scored on images that neither has learned from.

    python -m benchmarks.accuracy.published links --data FOLDER --output LINKS
    cellwright train LINKS/query/dsb2018_train --extra LINKS/query/bccd ... --model query --preset paper \
--output MODELS/query
    cellwright train LINKS/pseudocolor/bbbc050 --extra LINKS/pseudocolor/stardist_examples \
--model pseudocolor --preset paper --output MODELS/pseudocolor
    cellwright train-classifier LINKS/blood/bccd LINKS/blood/blood_boxes --preset paper --output MODELS/blood
    python -m benchmarks.accuracy.published score --data FOLDER --models MODELS

``links`` makes folders that hold nuclei and blood that shipped models learned from, split as for these: no
validation image chooses anything. Ours of query and density have learned other kinds as well. ``score``
prints one table. Seconds are the warm median of a drawn image (of one slice of a drawn volume for
pseudocolor), memory is the peak of a fresh process that counts it once; a classifier's seconds are those of a
thousand cells.
"""

import json
import sys
import time
from pathlib import Path

from tools.command_line import command_line
from tools.release import train_classifier, train_pseudocolor
from tools.release.kinds import reported, thinned
from tools.release.train_shipped import RECIPES, data_of
from torch import nn

from benchmarks.accuracy.families import FIGURES, TESTED, classify_by, time_all
from benchmarks.measure import print_table
from cellwright.core.tasks import run
from cellwright.files.dataset.folder import Dataset
from cellwright.models import store
from cellwright.models.checkpoint import WEIGHTS
from cellwright.models.store import find_classifier
from cellwright.models.store import load_classifier as load_classifier
from cellwright.training.cell_classifier import read_cell_crops, score_classifier
from cellwright.training.evaluation.evaluate import evaluate

FAMILIES = ("query", "density", "pseudocolor")
CLASSIFIER = "blood"
HEAD = ("model", "parameters", "weights, MB", "figure", "n", "found", "seconds", "peak memory, MB")


def link(datasets: list[Dataset], output: Path) -> None:
    """Make a folder for each dataset, whose splits hold the images that are left in it."""
    for dataset in datasets:
        folder = output / dataset.folder.name
        folder.mkdir(parents=True, exist_ok=True)
        for part in dataset.folder.iterdir():
            if part.is_dir() and not (folder / part.name).exists():
                (folder / part.name).symlink_to(part.resolve(), target_is_directory=True)
        meta = json.loads((dataset.folder / "meta.json").read_text(encoding="utf-8"))
        meta["split"] = {
            split: [item.name for item in dataset.select(split).items] for split in ("train", "val")
        }
        (folder / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
        print(folder, {split: len(names) for split, names in meta["split"].items()})


def links(data: Path, output: Path) -> None:
    """Make the folders that each of the networks learns from."""
    learned = dict.fromkeys(("query", "density"), data_of(RECIPES["joint"], data))
    learned["pseudocolor"] = train_pseudocolor.data_of(data)
    for family, part in learned.items():
        link([part.target, *part.extra], output / family)
    sources = train_classifier.sources_of(train_classifier.RECIPES[CLASSIFIER], data, held_out=False)
    link([source.dataset for source in sources], output / CLASSIFIER)


def size_of(folder: Path, network: nn.Module) -> list[object]:
    """Return how many parameters a network has, and the megabytes of its weights."""
    n_parameters = sum(one.numel() for one in network.parameters())
    return [f"{n_parameters:,}", (folder / WEIGHTS).stat().st_size / 1e6]


def family_rows(
    family: str, title: str, folder: Path, data: Path, most: int, cost: dict[str, float]
) -> list[list[object]]:
    """Return the figures of one model of a family, with what it costs in the first row."""
    model = store.load(folder)
    size = size_of(folder, model.network)
    costs: list[object] = [cost["seconds"], cost["peak_mb"]]
    reports = {}
    for images in TESTED[family]:
        dataset, classify = reported(images.dataset, data), classify_by(images.classifier)
        reports[images] = run(evaluate(thinned(dataset, most), model, classify=classify))
    rows: list[list[object]] = []
    for figure in FIGURES[family]:
        report = reports[figure.images]
        n = len(report.groups().get(figure.group, ()))
        name = f"{figure.images.title}: {figure.name}"
        rows.append([title, *size, name, n, figure.value(report), *costs])
        title, size, costs = "", ["", ""], ["", ""]
    return rows


def classifier_rows(title: str, folder: Path, data: Path) -> list[list[object]]:
    """Return how many cells of each dataset get their class."""
    classifier = load_classifier(folder)
    size = size_of(folder, classifier.network)
    rows: list[list[object]] = []
    for source in train_classifier.sources_of(train_classifier.RECIPES[CLASSIFIER], data, held_out=False):
        cells = run(read_cell_crops([source], classifier.spec, "val"))
        began = time.perf_counter()
        scores = run(score_classifier(classifier, cells))
        seconds = (time.perf_counter() - began) / len(cells) * 1000
        for name, value in (("accuracy", scores.accuracy), ("mean recall", scores.summary()["mean_recall"])):
            rows.append(
                [title, *size, f"{source.dataset.folder.name} val: {name}", len(cells), value, seconds, ""]
            )
            title, size, seconds = "", ["", ""], ""
    return rows


def main() -> None:
    """Make the folders, or print the table."""
    parser = command_line(__doc__)
    parser.add_argument("step", choices=("links", "score"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, help="folder for the links")
    parser.add_argument("--models", type=Path, help="folder with the models of the preset paper, by name")
    every = (*FAMILIES, CLASSIFIER)
    parser.add_argument("--families", nargs="+", choices=every, default=every, help="what to score")
    parser.add_argument("--most", type=int, default=10_000, help="images of a set, evenly spread")
    parser.add_argument("--side", type=int, default=512, help="pixels of the drawn image (default 512)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.step == "links":
        links(options.data, options.output or parser.error("links needs --output"))
        return
    own = options.models or parser.error("score needs --models")
    models = {
        f"{family}, {preset}": str(folder)
        for family in options.families
        if family != CLASSIFIER
        for preset, folder in (("ours", store.find(family)), ("paper", own / family))
    }
    costs = time_all(models, options)
    rows = []
    for title, folder in models.items():
        print(f"{title}: scores ...", file=sys.stderr)
        rows += family_rows(
            title.split(",")[0], title, Path(folder), options.data, options.most, costs[title]
        )
    if CLASSIFIER in options.families:
        rows += classifier_rows("blood, ours", find_classifier(CLASSIFIER), options.data)
        rows += classifier_rows("blood, paper", own / CLASSIFIER, options.data)
    print_table(HEAD, rows)


if __name__ == "__main__":
    main()
