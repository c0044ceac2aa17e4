"""Score a shipped model on images it was not trained on, and write its scores and its model card.

    python -m tools.release.write_card query --data FOLDER
    python -m tools.release.write_card query --data FOLDER --text-only   # again, from evaluation.json
    python -m tools.release.score_kinds nuclei flow --data FOLDER --json scores.json
    python -m tools.release.write_card flow --data FOLDER --scores scores.json

Beside the weights come evaluation.json (every figure), scores.json (the few that lists of models show) and
card.md, which is made from evaluation.json, the recipes of train_shipped.py and the licences in the datasets.
The card of the default model, `flow`, has the recipe of train_kinds.py, and tells how the model did that it
replaced, the first of those scored.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.accuracy.families import TESTED, reports_of, value_at

from cellwright.models import store
from cellwright.models.layers.trunk import DEEP, LITE
from cellwright.models.spec import ModelSpec, read_spec
from cellwright.training.settings import TrainingSettings
from cellwright.training.trainer import Data
from tools.command_line import command_line
from tools.release import default_card, train_pseudocolor
from tools.release.default_card import data_lines, named_by, wrapped, write_json
from tools.release.train_shipped import RECIPES, data_of

DEFAULT = "flow"

CARD = """# {title}

Preset `{preset}` of the `{family}` family, trained by the authors of napari-cellwright. The weights may be
used for any purpose, commercial use included, under the BSD-3-Clause licence of the package.

## Use

{use} It takes cells of {low:g} to {high:g} pixels in diameter as they are; images whose cells are smaller or
larger are rescaled to {diameter:g} pixels when they are counted.

{limits} Not for diagnosis. Images of kinds that are not named below were not in the training data: look at
the result before you believe it.

## Training data

{data}

{simulated}

## Recipe

{recipes}

## Scores

    python -m tools.release.write_card {name} --data DATA

Defaults of the package, images not trained on. {meanings}

{scores}

{cautions}
"""


@dataclass(frozen=True)
class Text:
    """What the card of a model says that is not measured, and which figures it shows."""

    use: str
    limits: str
    columns: tuple[str, ...]
    cautions: Mapping[str, str] = field(default_factory=dict)  # instead of the usual ones


COUNTS = ("count_median_error", "count_mae")
POINTS = ("point_recall", "point_precision", "point_f1")
BLOOD = ("box_recall_RBC", "box_recall_WBC", "box_recall_Platelets")

ALL_KINDS = "fluorescence, stained tissue and blood, brightfield, phase contrast and quantitative phase"

TEXTS = {
    "nuclei": Text(
        use="Outlines nuclei in 2D fluorescence images (bright on dark), stained tissue and brightfield. "
        "Volumes are counted slice by slice, and the slices linked.",
        limits="It fails most on crowded small nuclei under uneven light and on bright extended background.",
        columns=("ap/0.50", "ap/0.75", "mean_ap", "f1", "pq", "seg", *COUNTS, "score_auroc"),
    ),
    "centroid": Text(
        use="Finds the centre and the box of nuclei and cells in 2D, where outlines are not needed: "
        f"{ALL_KINDS}.",
        limits="It gives no outlines. Boxes follow the image's axes: of long slanting cells they say little.",
        columns=(*POINTS, "box_iou", "box_recall", *BLOOD, *COUNTS, "score_auroc"),
    ),
    "query": Text(
        use="Tells of any point of a 2D image whether it lies in a cell; a lattice of such questions gives "
        f"points and outlines: {ALL_KINDS}.",
        limits="It fails most on crowded adherent cells in phase contrast and on cells that lie over one "
        "another. Outlines of blood cells were learned from boxes and are rough.",
        columns=(*POINTS, "ap/0.50", "f1", "box_recall", *BLOOD, "class_accuracy", *COUNTS),
    ),
    "pseudocolor": Text(
        use="Labels nuclei in fluorescence volumes (bright on dark): each slice is segmented with its "
        "neighbours as colours, and the slices are linked.",
        limits="Distances in z are known from the training volumes only: very thick slices are linked less "
        "surely.",
        columns=("f1", "image_seg", "ap/0.50", "pq", "cell_f1", "seg", "continuity", *COUNTS),
    ),
    "density": Text(
        use="Counts where nothing can be separated: it gives a density that adds up to the count, and an "
        f"interval for it: {ALL_KINDS}.",
        limits="It tells no cells apart. Errors of an image's parts may cancel in the whole: the count of a "
        "part is less sure than its interval says.",
        columns=("count_mae", "count_median_error", "count_mape", "interval_coverage", "interval_width"),
        cautions={
            "bbbc039": "No image of bbbc039 was trained on, but they helped to choose among weights, so they "
            "flatter a little."
        },
    ),
}

HEADINGS = {
    "ap/0.50": "AP@0.5",
    "ap/0.75": "AP@0.75",
    "mean_ap": "mean AP .5:.95",
    "f1": "F1",
    "pq": "PQ",
    "seg": "SEG of all cells",
    "image_seg": "SEG",
    "cell_f1": "F1 of all cells",
    "continuity": "ids that go on",
    "point_recall": "recall",
    "point_precision": "precision",
    "point_f1": "F1 of points",
    "box_iou": "IoU of boxes",
    "box_recall": "recall of boxes",
    "box_recall_RBC": "of RBC",
    "box_recall_WBC": "of WBC",
    "box_recall_Platelets": "of platelets",
    "class_accuracy": "right class",
    "count_median_error": "count error",
    "count_mae": "count MAE",
    "count_mape": "mean count error",
    "interval_coverage": "within interval",
    "interval_width": "its width",
    "score_auroc": "AUROC",
}
PERCENT = ("count_median_error", "count_mape", "interval_coverage", "interval_width")

MEANINGS = {
    "ap/0.50": "AP is TP / (TP + FP + FN) of outlines at an IoU, a mean over images",
    "f1": "F1 is at an IoU of outlines of 0.5, a mean over images",
    "pq": "PQ is the panoptic quality at IoU 0.5",
    "seg": "SEG is the IoU of each true cell with the one that covers more than half of it, else 0; without "
    "further words a mean over images, of all cells together where it says so",
    "continuity": "ids go on where a true cell keeps its label in the next slice",
    "point_recall": "recall and precision are those of points in true cells, each cell once, over all cells",
    "box_iou": "IoU of boxes is the mean over the hits",
    "box_recall": "an annotated box is found by one of IoU 0.5; where not every cell is annotated (blood), "
    "only recall means something",
    "class_accuracy": "right class is the share of the hits that have it",
    "count_median_error": "count error is the median of abs(found - true) / true",
    "count_mae": "count MAE is the mean of abs(found - true)",
    "interval_coverage": "within interval is the share of images whose true count lies in it",
    "interval_width": "its width is given in true counts",
    "score_auroc": "AUROC tells how well the score of a cell ranks right cells above wrong ones",
}

CAUTIONS = {
    "dsb2018_train": "The validation images of dsb2018_train have siblings among its training images, so "
    "they flatter. Epochs and thresholds were chosen on training images that no weight was fitted to, not on "
    "these.",
    "bbbc039": "No image of bbbc039 was trained on and nothing was chosen by it.",
    "bccd": "The training images of bccd come from the same laboratory and stain as its validation images.",
    "bbbc050": "The embryos scored are others than those trained on, of the same laboratory and microscope.",
}


@dataclass(frozen=True)
class Stage:
    """One training that the weights of a family went through."""

    command: str
    together: tuple[str, ...]  # the families that learned
    settings: TrainingSettings
    data: Data
    curve: str
    remark: str = ""


def stages_of(family: str, data: Path) -> list[Stage]:
    """Return the trainings of a family, in their order."""
    if family == "pseudocolor":
        command = "python -m tools.release.train_pseudocolor small --data DATA --output FOLDER"
        return [
            Stage(command, (family,), train_pseudocolor.RECIPE, train_pseudocolor.data_of(data), "curve.json")
        ]
    return [
        Stage(
            f"python -m tools.release.train_shipped {name} --data DATA --output FOLDER",
            tuple(recipe.families),
            recipe.settings,
            data_of(recipe, data),
            f"curve_{name}.json",
            recipe.remark,
        )
        for name, recipe in RECIPES.items()
        if family in recipe.families
    ]


def n_learned(stages: Sequence[Stage]) -> dict[Path, int]:
    """Return how many images of each dataset weights are fitted to, by its folder."""
    n_images: dict[Path, int] = {}
    for stage in stages:
        for dataset in (stage.data.target, *stage.data.extra):
            n_images[dataset.folder] = max(n_images.get(dataset.folder, 0), len(dataset.select("train")))
    return n_images


def simulated_line(stages: Sequence[Stage], family: str) -> str:
    """Return how many simulated images were seen."""
    n = max((stage.settings.n_simulated for stage in stages if stage.settings.pretrain_steps), default=0)
    drawn = "Slices of simulated volumes" if family == "pseudocolor" else "Simulated images of all looks"
    looks = f"{drawn} of `cellwright.ops.simulation.simulate`"
    return f"{looks} ({n}) joined the pretraining." if n else "No simulated images."


def stage_lines(stage: Stage) -> str:
    """Return the command of a training, and what it did."""
    settings, families = stage.settings, ", ".join(stage.together)
    learned = f"The trunk learned for {families} together" if len(stage.together) > 1 else "Trained alone"
    return (
        f"    {stage.command}\n\n"
        f"{learned}, seed {settings.seed}: {_phases(settings, stage.data.target.folder.name)}; "
        f"{settings.batch_size} patches of {settings.patch_px} x {settings.patch_px} pixels in a step, the "
        f"intensities of {settings.augmentation:.0%} of them changed at random; random zoom keeps diameters "
        f"between {settings.smallest_diameter_px:g} and {settings.largest_diameter_px:g} pixels. The curve "
        f"is `{stage.curve}` beside this card. {stage.remark}".rstrip()
    )


def _phases(settings: TrainingSettings, target: str) -> str:
    if not settings.finetune_steps:
        return f"{settings.pretrain_steps} steps on everything"
    tuning = f"{settings.finetune_steps} steps of fine-tuning on {target}"
    if not settings.pretrain_steps:
        return tuning
    replay = f" with {settings.replay:.1%} of everything" if settings.replay else " alone"
    return f"{settings.pretrain_steps} steps of pretraining on everything, then {tuning}{replay}"


def score_table(evaluation: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return the figures of each set of images and group as a table."""
    shown = used(evaluation, columns)
    head = ["images", "n", *(HEADINGS[key] for key in shown)]
    rows = [head, ["---"] * len(head)]
    for images, groups in evaluation.items():
        for group, scores in groups.items():
            values = [_shown(key, value_at(scores, key)) for key in shown]
            rows.append([f"{images}, {group}", str(scores["n_images"]), *values])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def used(evaluation: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """Return those of the columns that have a value anywhere."""
    groups = [scores for groups in evaluation.values() for scores in groups.values()]
    return [key for key in columns if any(not np.isnan(value_at(scores, key)) for scores in groups)]


def _shown(key: str, value: float) -> str:
    if np.isnan(value):
        return "-"
    if key in PERCENT:
        return f"{value:.1%}"
    if key == "count_mae":
        return f"{value:.2f}"
    return f"{value:.3f}"


def training_of(spec: ModelSpec, folder: Path, data: Path, remark: str) -> dict[str, str]:
    """Return what a card says of the images learned from and of the recipe."""
    if spec.preset in (LITE, DEEP):
        return default_card.training_of(spec.family, folder, data, remark)
    stages = stages_of(spec.family, data)
    return {
        "data": data_lines(n_learned(stages)),
        "simulated": simulated_line(stages, spec.family),
        "recipes": "\n\n".join(map(stage_lines, stages)),
    }


def card_text(
    name: str, spec: ModelSpec, evaluation: Mapping[str, Mapping[str, Any]], training: Mapping[str, str]
) -> str:
    """Return the model card."""
    text = TEXTS[name]
    cautions = {**CAUTIONS, **text.cautions}
    meanings = "; ".join(MEANINGS[key] for key in used(evaluation, text.columns) if key in MEANINGS)
    card = CARD.format(
        **named_by(spec),
        name=name,
        use=text.use,
        limits=text.limits,
        **training,
        meanings=f"{meanings[:1].upper()}{meanings[1:]}.",
        scores=score_table(evaluation, text.columns),
        cautions=" ".join(cautions.get(images.dataset, "") for images in TESTED[spec.family]),
    )
    return wrapped(card)


def score(family: str, folder: Path, data: Path) -> None:
    """Write evaluation.json and scores.json."""
    reports = reports_of(family, store.load(folder), data)
    write_json(
        folder / "evaluation.json", {images.title: report.to_json() for images, report in reports.items()}
    )
    first, *others = reports.items()
    summary = first[1].summary()
    for images, report in others:
        summary[f"score_{images.dataset}"] = report.summary()["score"]
    write_json(folder / "scores.json", {key: round(value, 4) for key, value in summary.items()})


def main() -> None:
    """Write card.md, scores.json and evaluation.json beside the weights."""
    parser = command_line(__doc__)
    parser.add_argument("name", choices=(DEFAULT, *TEXTS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, help="of the model (default: the shipped one)")
    parser.add_argument("--text-only", action="store_true", help="take the figures of evaluation.json")
    parser.add_argument("--scores", type=Path, help=f"of score_kinds, for {DEFAULT}")
    parser.add_argument("--remark", default="", help="on how weights of all kinds of images came about")
    options = parser.parse_args()
    name, folder = options.name, options.folder or store.find(options.name)
    if name == DEFAULT:
        path = options.scores or parser.error(f"{DEFAULT} needs --scores, which score_kinds writes")
        scores = json.loads(path.read_text(encoding="utf-8"))
        default_card.write(folder, options.data, scores, options.remark)
        print(default_card.score_table(scores))
        return
    spec = read_spec(folder / "spec.json")
    if not options.text_only:
        score(spec.family, folder, options.data)
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    training = training_of(spec, folder, options.data, options.remark)
    (folder / "card.md").write_text(card_text(name, spec, evaluation, training), encoding="utf-8")
    print(score_table(evaluation, TEXTS[name].columns))


if __name__ == "__main__":
    main()
