"""How well does a model count kinds of images it has never seen? Leave one kind of acquisition out at a time.

    python -m benchmarks.accuracy.unseen_kinds --data FOLDER --output FOLDER [--variant full]

The fluorescence images of dsb2018_train are grouped by k-means on simple statistics of their appearance;
groups whose commonest frame size is the same were taken on the same instrument and form one fold. Each fold
is scored by a model that was trained, on a short schedule, without any image of it. Variants leave one
ingredient out. With ``--sheet`` a contact sheet of the worst images is drawn.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tools.command_line import command_line
from tools.release.train_shipped import RECIPES, SIZES, data_of, is_finished, show

from cellwright.core.tasks import run
from cellwright.files.dataset.folder import Dataset
from cellwright.inference.settings import EngineSettings
from cellwright.models import registry
from cellwright.models.checkpoint import load_checkpoint
from cellwright.models.protocol import CellModel
from cellwright.training.data.sampler import appearance, cluster_images
from cellwright.training.data.samples import Sample
from cellwright.training.evaluation.evaluate import Report, evaluate
from cellwright.training.settings import TrainingSettings
from cellwright.training.trainer import Data, Material, fit, read_material

N_KINDS = 8
SHORT = TrainingSettings(  # the two phases of the shipped weights, a third as long
    seed=1,
    pretrain_steps=2000,
    finetune_steps=1500,
    steps_per_epoch=1000,
    pretrain_rate=1.5e-3,
    finetune_rate=1e-3,
    n_simulated=300,
    replay=0.25,
    augmentation=0.5,
    exclude_boundaries=0.0,
    **SIZES,
)
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "no-simulation": {"n_simulated": 0},
    "no-augmentation": {"augmentation": 0.0},
}


def folds_of(samples: Sequence[Sample]) -> dict[str, set[str]]:
    """Return the image names of each fold, called by its commonest frame size."""
    kinds = cluster_images([appearance(sample) for sample in samples], N_KINDS, seed=0)
    folds: dict[str, set[str]] = {}
    for kind in np.unique(kinds):
        members = [sample for sample, own in zip(samples, kinds, strict=True) if own == kind]
        (shape, _), *_ = Counter(tuple(sample.labels.shape) for sample in members).most_common(1)
        name = "x".join(map(str, shape))
        folds.setdefault(name, set()).update(sample.name.partition(":")[0] for sample in members)
    return folds


def without(samples: Sequence[Sample], names: set[str]) -> tuple[Sample, ...]:
    """Return the samples that do not come from these images."""
    return tuple(sample for sample in samples if sample.name.partition(":")[0] not in names)


def summary(report: Report) -> dict[str, float]:
    """Return the mean scores of a fold."""
    scores = report.to_json()["all"]
    return {
        "n": scores["n_images"],
        "f1": scores["f1"],
        "ap50": scores["ap"]["0.50"],
        "error": scores["count_median_error"],
    }


def draw_sheet(report: Report, dataset: Dataset, path: Path) -> None:
    """Draw the twelve images with the lowest F1 with their true outlines."""
    import matplotlib.pyplot as plt
    from skimage.segmentation import find_boundaries

    items = {item.name: item for item in dataset.items}
    worst = sorted(report.images, key=lambda image: image.means["f1"])[:12]
    figure, axes = plt.subplots(3, 4, figsize=(16, 12))
    for axis, score in zip(axes.flat, worst, strict=False):
        image, labels = items[score.name].read()
        shown = np.ma.masked_where(~find_boundaries(labels), labels > 0)
        axis.imshow(np.asarray(image.data), cmap="gray")
        axis.imshow(shown, cmap="autumn", interpolation="nearest")
        axis.set_title(f"F1 {score.means['f1']:.2f}: {score.n_predicted} of {score.n_true}")
    for axis in axes.flat:
        axis.axis("off")
    figure.savefig(path, dpi=60, bbox_inches="tight")


@dataclass(frozen=True)
class Study:
    """What every fold shares: the images in memory and on disk, the folds, and where results go."""

    data: Data
    everything: Dataset
    material: Material
    output: Path

    @classmethod
    def read(cls, folder: Path, output: Path) -> "Study":
        """Read the recipe's data; the validation images count as unseen like those of the fold."""
        data = data_of(RECIPES["flow"], folder)
        items = tuple(replace(item, split="train") for item in data.target.items)
        everything = replace(data.target, items=items)
        material = run(read_material(Data(everything, data.extra), build(), SHORT))
        return cls(data, everything, material, output)

    def folds(self) -> list[tuple[str, set[str]]]:
        """Return the name and the image names of each fold of the fluorescence images."""
        return sorted(folds_of([s for s in self.material.target if s.group == "fluo"]).items())

    def model_without(self, names: set[str], settings: TrainingSettings, folder: Path) -> CellModel:
        """Return a model trained without these images, and without those for validation."""
        if not is_finished(folder, settings):
            in_training = {item.name for item in self.data.target.select("train").items}
            unseen = names | {s.name.partition(":")[0] for s in self.material.target} - in_training
            extra = self.material.extra
            if not settings.n_simulated:
                extra = tuple(sample for sample in extra if not sample.name.startswith("simulated"))
            nothing = self.data.target.select(names=())
            part = Material(without(self.material.target, unseen), extra, nothing)
            run(fit(part, build(), folder, settings), show)
        return load_checkpoint(folder)


def build() -> CellModel:
    """Return an untrained model."""
    model: CellModel = registry.get("flow").load().build("small")
    return model


def score(study: Study, variant: str, fold: str, names: set[str], *, sheet: bool) -> list[dict[str, Any]]:
    """Return the scores of one fold, rescaled as the package does it and as it is."""
    model = study.model_without(names, replace(SHORT, **VARIANTS[variant]), study.output / variant / fold)
    test = study.everything.select(names=names)
    rows = []
    for mode, diameter in (("rescaled", 0.0), ("as is", model.spec.diameter_px)):
        report = run(evaluate(test, model, engine=EngineSettings(diameter_px=diameter)))
        rows.append({"variant": variant, "fold": fold, "mode": mode, **summary(report)})
        print(f"{variant:16} {fold:10} {mode:9}", summary(report), flush=True)
        if sheet and mode == "rescaled":
            draw_sheet(report, test, study.output / f"{variant}_{fold}.png")
    return rows


def print_means(rows: Sequence[dict[str, Any]]) -> None:
    """Print the mean F1 over the folds of each variant and mode."""
    for variant, mode in dict.fromkeys((row["variant"], row["mode"]) for row in rows):
        f1 = [row["f1"] for row in rows if (row["variant"], row["mode"]) == (variant, mode)]
        print(f"{variant:16} {mode:9} mean F1@0.5 over {len(f1)} folds: {np.mean(f1):.3f}")


def main() -> None:
    """Train and score every fold."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--variant", choices=VARIANTS, nargs="+", default=["full"])
    parser.add_argument("--fold", nargs="+", help="frame sizes, 360x360 for instance; all when not given")
    parser.add_argument("--sheet", action="store_true")
    options = parser.parse_args()
    study = Study.read(options.data, options.output)
    folds = [(fold, names) for fold, names in study.folds() if fold in (options.fold or [fold])]
    rows = []
    for variant in options.variant:
        for fold, names in folds:
            rows += score(study, variant, fold, names, sheet=options.sheet)
    (options.output / "scores.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print_means(rows)


if __name__ == "__main__":
    main()
