"""How much does fine-tuning teach, what is forgotten, and how long does it take?

    python -m benchmarks.accuracy.finetune phase --data FOLDER --output FOLDER [--start flow] [--preset quick]
    python -m benchmarks.accuracy.finetune unlabelled --data FOLDER --output FOLDER --start MODEL
    python -m benchmarks.accuracy.finetune one-image --data FOLDER --output FOLDER

``phase`` teaches five images of usiigaci_phase (whole cells in phase contrast, a kind of image that the
shipped models have not seen) and prints F1 at IoU 0.5 on validation images, on test images that no choice
depends on, and AP at IoU 0.5 on the validation images of dsb2018_train, before and after. ``unlabelled``
teaches the same five images twice, as they are and after SimCLR on fields of 256 x 256 pixels, without their
annotation, of half of the other images; the other half tests. ``one-image``
teaches a single annotated image and scores others of its kind, for several images one at a time, since what
one image teaches is a matter of luck. The kinds: stained tissue, taught to a model that has seen none (that
of ``unseen_kinds.py``, trained here first, which takes a quarter of an hour) and scored on the images that
look alike, of the same stain and magnification; simulated cells; and stained tissue of any stain, taught to
the shipped model, which has seen such images.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage.io import imsave
from tools.command_line import command_line

from benchmarks.accuracy.unseen_kinds import SHORT, Study
from cellwright.core.data import Image
from cellwright.core.tasks import Progress, run
from cellwright.files.dataset.folder import Dataset, read_dataset
from cellwright.files.folders.image_list import list_images
from cellwright.inference.settings import EngineSettings
from cellwright.models import store
from cellwright.ops.simulation.simulate import simulate
from cellwright.training.data.sampler import appearance, cluster_images
from cellwright.training.data.samples import load_samples
from cellwright.training.evaluation.evaluate import evaluate
from cellwright.training.finetune.finetune import Outcome, finetune
from cellwright.training.finetune.replay import Drawn
from cellwright.training.pretrain import pretrain
from cellwright.training.settings import PRESETS, FinetuneSettings, PretrainSettings
from cellwright.training.trainer import Data

N_TAUGHT = 5
N_VALIDATION = 4
N_STARTS = 5  # images that are taught one at a time
N_TISSUES = 5  # kinds of tissue; those with too few images are left out
FEWEST = 10
N_DRAWN = 9
FIELD_PX = 256
N_UNLABELLED_STEPS = 200
SIMULATED = "phase"
SIMULATED_DIAMETER_PX = 44.0


def chosen(dataset: Dataset, split: str, names: Sequence[str]) -> Dataset:
    """Return these images, all of them in one split."""
    items = tuple(replace(item, split=split) for item in dataset.items if item.name in names)
    return replace(dataset, items=items)


def both(first: Dataset, second: Dataset) -> Dataset:
    """Return the images of two datasets as one."""
    return replace(first, items=(*first.items, *second.items))


def scores(model: Any, dataset: Dataset) -> dict[str, float]:
    """Return F1 and AP at IoU 0.5, how far counts are off, and the F1 to expect, of a model on a dataset."""
    report = run(evaluate(dataset, model, engine=EngineSettings(device="cpu")))
    table = report.to_json()["all"]
    fits = [image.fit for image in report.images if image.fit is not None]
    return {
        "fit": float(np.mean(fits)) if fits else float("nan"),
        "n_images": table["n_images"],
        "f1": table["f1"],
        "ap50": table["ap"]["0.50"],
        "count_mape": table["count_mape"],
    }


def taught(
    data: Dataset,
    start: str | Path,
    output: Path,
    settings: FinetuneSettings,
    pretrained: Path | None = None,
) -> tuple[Outcome, float]:
    """Return what fine-tuning came to, and the seconds it took."""
    began = time.perf_counter()

    def show(progress: Progress) -> None:
        if progress.stage == "epoch":
            print(f"  {progress.done:5} {time.perf_counter() - began:6.0f} s  {progress.note}", flush=True)

    task = finetune(Data(data), start, output, settings, device="cpu", pretrained=pretrained)
    outcome = run(task, show)
    return outcome, time.perf_counter() - began


def compare(name: str, start: str, outcome: Outcome, dataset: Dataset) -> dict[str, Any]:
    """Print and return the scores of a dataset before and after."""
    rows = {
        when: scores(store.load(model), dataset)
        for when, model in (("before", start), ("after", outcome.folder))
    }
    before, after = rows["before"], rows["after"]
    print(
        f"{name}: {before['n_images']} images, F1 {before['f1']:.3f} -> {after['f1']:.3f}, AP@0.5 "
        f"{before['ap50']:.3f} -> {after['ap50']:.3f}, count off by {before['count_mape']:.1%} -> "
        f"{after['count_mape']:.1%}, expected F1 {before['fit']:.3f} -> {after['fit']:.3f}",
        flush=True,
    )
    return {"name": name, "before": before, "after": after}


def phase_parts(folder: Path) -> tuple[Dataset, Dataset, Dataset]:
    """Return what is taught of the images of phase contrast, what validates, and what tests."""
    everything = read_dataset(folder / "usiigaci_phase")
    names = [item.name for item in everything.items]
    teach = names[:: len(names) // N_TAUGHT][:N_TAUGHT]
    rest = [name for name in names if name not in teach]
    judge = rest[:: len(rest) // N_VALIDATION][:N_VALIDATION]
    test = [name for name in rest if name not in judge]
    print(f"taught: {', '.join(teach)}; validation: {', '.join(judge)}")
    parts = (chosen(everything, split, part) for split, part in (("train", teach), ("val", judge)))
    return *parts, chosen(everything, "val", test)


def phase(folder: Path, start: str, output: Path, settings: FinetuneSettings) -> dict[str, Any]:
    """Teach five images of phase contrast."""
    teach, judge, test = phase_parts(folder)
    data = both(teach, judge)
    cpu = time.process_time()
    outcome, seconds = taught(data, start, output / "phase", settings)
    cpu = time.process_time() - cpu
    print(
        f"{seconds / 60:.1f} minutes ({cpu / 60:.1f} of all cores together) with {torch.get_num_threads()} "
        f"threads; better: {outcome.is_better}"
    )
    rows = [
        compare("phase, validation", start, outcome, judge),
        compare("phase, test", start, outcome, test),
        compare("dsb2018 val", start, outcome, read_dataset(folder / "dsb2018_train").select("val")),
    ]
    return {"seconds": seconds, "cpu_seconds": cpu, "is_better": outcome.is_better, "rows": rows}


def cut_fields(dataset: Dataset, output: Path) -> Path:
    """Write the images of a dataset as fields, and return their folder."""
    output.mkdir(parents=True, exist_ok=True)
    for item in dataset.items:
        pixels = np.asarray(item.image().data)
        for top in range(0, pixels.shape[0] - FIELD_PX // 2, FIELD_PX):
            for left in range(0, pixels.shape[1] - FIELD_PX // 2, FIELD_PX):
                field = pixels[top : top + FIELD_PX, left : left + FIELD_PX]
                imsave(output / f"{item.name}_{top}_{left}.png", field, check_contrast=False)
    return output


def unlabelled(folder: Path, start: str, output: Path, settings: FinetuneSettings) -> dict[str, Any]:
    """Teach five images of phase contrast with and without many that nobody annotated."""
    teach, judge, rest = phase_parts(folder)
    seen, test = (replace(rest, items=rest.items[first::2]) for first in (1, 0))
    images = list_images([cut_fields(seen, output / "fields")])
    began = time.perf_counter()
    learn = PretrainSettings(steps=N_UNLABELLED_STEPS)
    encoder = run(pretrain(images, store.load(start), output / "encoder", learn, device="cpu"))
    minutes = (time.perf_counter() - began) / 60
    print(f"SimCLR on {len(images)} fields, {learn.steps} steps: {minutes:.1f} minutes", flush=True)
    found: dict[str, Any] = {"n_fields": len(images), "minutes": minutes}
    for title, pretrained in (("five images", None), ("with SimCLR before", encoder)):
        outcome, seconds = taught(both(teach, judge), start, output / title, settings, pretrained)
        print(f"{title}: {seconds / 60:.1f} minutes; better: {outcome.is_better}")
        found[title] = [
            compare(f"{title}, {name}", start, outcome, part)
            for name, part in (("validation", judge), ("test", test))
        ]
    return found


def simulated(seeds: Sequence[int]) -> Dataset:
    """Return simulated images of one kind."""
    items = []
    for seed in seeds:
        rng = np.random.default_rng((99, seed))
        drawn = simulate(SIMULATED, (512, 512), rng, diameter_px=SIMULATED_DIAMETER_PX)
        image = Image(drawn.image, "YX" if drawn.image.ndim == 2 else "YXC", name=f"simulated {seed}")
        items.append(Drawn(image.name, "train", SIMULATED, Path(), Path(), drawn=(image, drawn.labels)))
    return Dataset(Path(), tuple(items))


def without_tissue(folder: Path, output: Path) -> Path:
    """Return the folder of a model that has seen no stained tissue but what the simulator draws."""
    study = Study.read(folder, output)
    tissue = {item.name for item in study.everything.items if item.group == "histology"}
    study.model_without(tissue, SHORT, output / "without_tissue")
    return output / "without_tissue"


def by_image(model: str | Path, dataset: Dataset) -> dict[str, tuple[float, float]]:
    """Return F1 and AP at IoU 0.5 of each image."""
    report = run(evaluate(dataset, store.load(model), engine=EngineSettings(device="cpu")))
    return {image.name: (image.means["f1"], image.average_precision[0]) for image in report.images}


def from_one(
    start: str | Path, kind: Dataset, name: str, output: Path, settings: FinetuneSettings
) -> Outcome:
    """Return what teaching one image of a kind came to."""
    outcome, _ = taught(chosen(kind, "train", [name]), start, output, settings)
    print(*outcome.notices, sep="\n")
    return outcome


def alike(dataset: Dataset) -> list[Dataset]:
    """Return the images of a dataset by how they look."""
    samples = run(load_samples(dataset, store.load("flow")))
    kinds = cluster_images([appearance(sample) for sample in samples], N_TISSUES, seed=0)
    members = [
        tuple(item for item, own in zip(dataset.items, kinds, strict=True) if own == kind)
        for kind in np.unique(kinds)
    ]
    return [replace(dataset, items=items) for items in members if len(items) >= FEWEST]


def as_val(dataset: Dataset) -> Dataset:
    """Return the same images, all for validation."""
    return replace(dataset, items=tuple(replace(item, split="val") for item in dataset.items))


def lessons(folder: Path, start: str, output: Path) -> Iterator[tuple[str, str | Path, Dataset, str]]:
    """Yield title, model to begin with, kind and name of each image that is taught."""
    images = read_dataset(folder / "dsb2018_train")
    base = without_tissue(folder, output)
    for kind in alike(as_val(images.select(group="histology"))):
        for quarter in (1, 3):
            yield "tissue new to the model", base, kind, kind.items[quarter * len(kind) // 4].name
    for title, kind in (
        ("simulated", as_val(simulated(range(N_DRAWN)))),
        ("tissue", images.select("val", group="histology")),
    ):
        for place in np.linspace(0, len(kind) - 1, N_STARTS).round().astype(int):
            yield title, start, kind, kind.items[place].name


def one_image(folder: Path, start: str, output: Path, settings: FinetuneSettings) -> dict[str, Any]:
    """Teach single images of stained tissue, and simulated ones; print each, and their mean."""
    rows: list[dict[str, Any]] = []
    for title, model, kind, name in lessons(folder, start, output):
        others = replace(kind, items=tuple(item for item in kind.items if item.name != name))
        outcome = from_one(model, kind, name, output / title / name.replace(" ", "_"), settings)
        first = by_image(model, others)
        last = by_image(outcome.folder, others) if outcome.is_better else first
        means = [np.mean(list(scored.values()), axis=0) for scored in (first, last)]
        rows.append({"kind": title, "taught": name, "before": [*means[0]], "after": [*means[1]]})
        print_change(f"{title}, {len(others)} images other than {name[:12]}", means[0], means[1])
        own = [row for row in rows if row["kind"] == title]
        so_far = [np.mean([row[when] for row in own], axis=0) for when in ("before", "after")]
        print_change(f"{title}, mean of {len(own)}", so_far[0], so_far[1])
    return {"rows": rows}


def print_change(title: str, before: np.ndarray, after: np.ndarray) -> None:
    """Print F1 and AP at IoU 0.5 before and after."""
    print(
        f"{title}: F1 {before[0]:.3f} -> {after[0]:.3f}, AP@0.5 {before[1]:.3f} -> {after[1]:.3f}", flush=True
    )


def main() -> None:
    """Run one of the studies."""
    parser = command_line(__doc__)
    studies = {"phase": phase, "unlabelled": unlabelled, "one-image": one_image}
    parser.add_argument("study", choices=studies)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--start", default="flow")
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--steps", type=int, help="instead of those of the preset")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    settings = PRESETS[options.preset]
    settings = replace(settings, steps=options.steps or settings.steps)
    found = studies[options.study](options.data, options.start, options.output, settings)
    path = options.output / f"finetune_{options.study}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
