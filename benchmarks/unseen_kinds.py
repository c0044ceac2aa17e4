"""How well does a model count kinds of images it has never seen? Leave one kind of acquisition out at a time.

    python benchmarks/unseen_kinds.py --data FOLDER --output FOLDER [--variant full]

The fluorescence images of dsb2018_train are grouped by k-means on simple statistics of their appearance; groups
whose commonest frame size is the same were taken on the same instrument and form one fold. Each fold is scored by a
model that was trained, on a short schedule, without any image of it. Variants leave one ingredient out. With
``--sheet`` a contact sheet of the worst images is drawn.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from train_shipped import RECIPES, data_of, is_finished, show

from cellwright.inference.settings import EngineSettings
from cellwright.io.dataset import Dataset
from cellwright.models import registry
from cellwright.models.checkpoint import load_checkpoint
from cellwright.tasks import run
from cellwright.training.evaluate import Report, evaluate
from cellwright.training.loop import Data, Material, fit, read_material
from cellwright.training.modality import appearance, cluster
from cellwright.training.patches import Sample
from cellwright.training.settings import TrainingSettings

N_KINDS = 8
SHORT = TrainingSettings(seed=1, pretrain_steps=450, finetune_steps=0, steps_per_epoch=450)
VARIANTS = {"full": {}, "no-simulation": {"n_simulated": 0}, "no-augmentation": {"augmentation": 0.0}}


def folds_of(samples: Sequence[Sample]) -> dict[str, set[str]]:
    """Return the image names of each fold, called by its commonest frame size."""
    kinds = cluster([appearance(sample) for sample in samples], N_KINDS, seed=0)
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
    worst = sorted(report.images, key=lambda image: image.f1)[:12]
    figure, axes = plt.subplots(3, 4, figsize=(16, 12))
    for axis, score in zip(axes.flat, worst, strict=False):
        image, labels = items[score.name].read()
        shown = np.ma.masked_where(~find_boundaries(labels), labels > 0)
        axis.imshow(np.asarray(image.data), cmap="gray")
        axis.imshow(shown, cmap="autumn", interpolation="nearest")
        axis.set_title(f"F1 {score.f1:.2f}: {score.n_predicted} of {score.n_true}")
    for axis in axes.flat:
        axis.axis("off")
    figure.savefig(path, dpi=60, bbox_inches="tight")


def main() -> None:
    """Train and score every fold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--variant", choices=VARIANTS, nargs="+", default=["full"])
    parser.add_argument("--fold", nargs="+", help="frame sizes, 360x360 for instance; all when not given")
    parser.add_argument("--sheet", action="store_true")
    options = parser.parse_args()
    data = data_of(RECIPES["flow"], options.data)
    everything = Data(
        replace(data.target, items=tuple(replace(i, split="train") for i in data.target.items)), data.extra
    )
    build = registry.get("flow").load().build
    material = run(read_material(everything, build("small"), SHORT))
    fluorescence = [sample for sample in material.target if sample.group == "fluo"]
    in_training = {item.name for item in data.target.select("train").items}
    results = {}
    for variant in options.variant:
        settings = replace(SHORT, **VARIANTS[variant])
        for fold, names in sorted(folds_of(fluorescence).items()):
            if options.fold and fold not in options.fold:
                continue
            unseen = names | {s.name.partition(":")[0] for s in material.target} - in_training
            extra = material.extra if settings.n_simulated else without_simulated(material.extra)
            part = Material(without(material.target, unseen), extra, data.target.select(names=()))
            folder = options.output / variant / fold
            if not is_finished(folder, settings):
                run(fit(part, build("small"), folder, settings), show)
            model, test = load_checkpoint(folder), everything.target.select(names=names)
            for diameter, mode in ((0.0, "rescaled"), (model.spec.diameter_px, "as is")):
                report = run(evaluate(test, model, engine=EngineSettings(diameter_px=diameter)))
                results[f"{variant} / {fold} / {mode}"] = summary(report)
                print(f"{variant:16} {fold:10} {mode:9}", summary(report), flush=True)
                if options.sheet and mode == "rescaled":
                    draw_sheet(report, test, options.output / f"{variant}_{fold}.png")
    (options.output / "scores.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    for variant in options.variant:
        for mode in ("rescaled", "as is"):
            f1 = [
                row["f1"]
                for name, row in results.items()
                if name.startswith(f"{variant} /") and name.endswith(mode)
            ]
            print(f"{variant:16} {mode:9} mean F1@0.5 over {len(f1)} folds: {np.mean(f1):.3f}")


def without_simulated(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """Return the samples that are photographs."""
    return tuple(sample for sample in samples if not sample.name.startswith("simulated"))


if __name__ == "__main__":
    main()
