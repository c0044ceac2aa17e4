"""Every family side by side: how good it is beside what is asked of it, and what it takes.

    python -m benchmarks.accuracy.families --data FOLDER

FOLDER holds the datasets of the model cards. Scores are taken on images not trained on, with the settings as
they come. Seconds are the warm median for an image of 2048 x 2048 pixels with about 2,000 drawn nuclei, from
array to cells; for families that take only volumes they are those of one slice of four. Memory is the peak of
a fresh process that counts once. A family without a model is left out with a word.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tools.command_line import command_line
from tools.release.kinds import reported

from benchmarks.measure import draw_nuclei, fresh_json, peak_mb, print_table, warm_median
from cellwright.core.data import Image, Result
from cellwright.core.errors import AxesError, CheckpointError
from cellwright.core.tasks import Task, run
from cellwright.inference.classify import classify as classify_cells
from cellwright.inference.pipeline import count_cells
from cellwright.inference.settings import EngineSettings
from cellwright.models import registry, store
from cellwright.models.protocol import CellModel
from cellwright.models.store import classifiers
from cellwright.ops.measure.cells_table import class_names
from cellwright.training.evaluation.evaluate import Classify, Report, evaluate

HEAD = ("family", "images", "n", "figure", "asked for", "found", "met")
SLOWEST = 2.0  # times flow
SLICES = 4
SAME_CLASS = {"Platelet": "Platelets"}  # names of a classifier and of the dataset
NAN = float("nan")


@dataclass(frozen=True)
class Images:
    """The images of a dataset that no weight is fitted to (``tools.release.kinds.reported``)."""

    dataset: str
    title: str
    classifier: str = ""  # that tells the classes of its cells


NUCLEI = Images("dsb2018_train", "dsb2018 val")
OTHERS = Images("bbbc039", "bbbc039")  # of another laboratory, no part of any training
BLOOD = Images("bccd", "bccd val", classifier="blood")
TISSUE = Images("polyp_nuclei", "polyp nuclei val")
PHASE = Images("usiigaci_phase", "Usiigaci phase contrast, kept apart")
VOLUMES = Images("bbbc050", "bbbc050, other embryos")

TESTED: dict[str, tuple[Images, ...]] = {
    "flow": (NUCLEI, OTHERS, VOLUMES),
    "centroid": (NUCLEI, OTHERS, BLOOD, TISSUE, PHASE),
    "query": (NUCLEI, OTHERS, BLOOD, TISSUE, PHASE),
    "pseudocolor": (VOLUMES,),
    "density": (NUCLEI, OTHERS, TISSUE, PHASE),
}


@dataclass(frozen=True)
class Figure:
    """A figure of a family on some images and, where one is asked for, its least (or largest) value."""

    images: Images
    name: str
    key: str  # in the group of Report.to_json(), parts after a slash; the pooled recall of RBC+WBC otherwise
    group: str = "all"
    least: float | None = None
    most: float | None = None

    def value(self, report: Report) -> float:
        """Return the figure; not a number where the report has none."""
        if self.key.startswith("box_recall_"):
            return pooled(report, [f"box_recall_{name}" for name in self.key[11:].split("+")])
        return value_at(report.to_json().get(self.group, {}), self.key)

    def is_met(self, value: float) -> str:
        """Return yes or no, or nothing where nothing is asked for."""
        if self.least is None and self.most is None:
            return ""
        return "yes" if (self.least or -np.inf) <= value <= (self.most or np.inf) else "NO"

    @property
    def asked(self) -> str:
        """What is asked for, in words."""
        if self.least is not None:
            return f">= {self.least:g}"
        return "" if self.most is None else f"<= {self.most:g}"


FIGURES: dict[str, tuple[Figure, ...]] = {
    "flow": (
        Figure(NUCLEI, "AP at IoU 0.5, fluorescence", "ap/0.50", "fluo"),
        Figure(NUCLEI, "AP at IoU 0.5", "ap/0.50"),
        Figure(NUCLEI, "mean abs count error", "count_mae"),
        Figure(OTHERS, "AP at IoU 0.5", "ap/0.50"),
        Figure(VOLUMES, "F1 at 3D IoU 0.5, mean of volumes", "f1"),
        Figure(VOLUMES, "SEG, mean of volumes", "image_seg"),
    ),
    "centroid": (
        Figure(NUCLEI, "F1 of points in nuclei, fluorescence", "point_f1", "fluo", least=0.92),
        Figure(NUCLEI, "mean IoU of the hits' boxes, fluorescence", "box_iou", "fluo", least=0.75),
        Figure(BLOOD, "recall of RBC and WBC boxes", "box_recall_RBC+WBC", least=0.85),
        Figure(OTHERS, "F1 of points in nuclei", "point_f1"),
    ),
    "query": (
        Figure(NUCLEI, "recall of nuclei by points, fluorescence", "point_recall", "fluo", least=0.95),
        Figure(NUCLEI, "precision of points, fluorescence", "point_precision", "fluo", least=0.95),
        Figure(BLOOD, "class accuracy of the hits", "class_accuracy", least=0.95),
        Figure(NUCLEI, "AP at IoU 0.5", "ap/0.50"),
    ),
    "pseudocolor": (
        Figure(VOLUMES, "F1 at 3D IoU 0.5, mean of volumes", "f1", least=0.85),
        Figure(VOLUMES, "SEG, mean of volumes", "image_seg", least=0.70),
        Figure(VOLUMES, "F1 of all cells together", "cell_f1"),
        Figure(VOLUMES, "SEG of all cells together", "seg"),
        Figure(VOLUMES, "ids that go on in the next slice", "continuity"),
    ),
    "density": (
        Figure(NUCLEI, "mean abs count error", "count_mae", most=3.0),
        Figure(NUCLEI, "truth within the error bar", "interval_coverage", least=0.85),
        Figure(NUCLEI, "width of the error bar, in counts", "interval_width"),
        Figure(OTHERS, "mean abs count error", "count_mae"),
    ),
}


def value_at(scores: dict[str, Any], key: str) -> float:
    """Return the figure under a key such as ``ap/0.50``; not a number where there is none."""
    found: Any = scores
    for part in key.split("/"):
        found = found.get(part) if isinstance(found, dict) else None
    return NAN if found is None else float(found)


def pooled(report: Report, keys: Sequence[str]) -> float:
    """Return the sum of the parts over the sum of the wholes of these shares of all images."""
    shares = [image.shares[key] for image in report.images for key in keys if key in image.shares]
    part, whole = np.sum(shares, axis=0) if shares else (0, 0)
    return float(part / whole) if whole else NAN


def reports_of(family: str, model: CellModel, data: Path) -> dict[Images, Report]:
    """Return the scores of a model on all images that its family is tested on."""
    return {
        images: run(evaluate(reported(images.dataset, data), model, classify=classify_by(images.classifier)))
        for images in TESTED.get(family, (NUCLEI,))
    }


def classify_by(name: str) -> Classify | None:
    """Return what gives cells the classes of a classifier, under the dataset's names; None without one."""
    if name not in [entry.name for entry in classifiers()]:
        return None

    def classify(result: Result, image: Image) -> Task[Result]:
        found = yield from classify_cells(result, image, name, EngineSettings())
        names = tuple(SAME_CLASS.get(one, one) for one in class_names(found))
        settings = {**found.provenance.settings, "classes": names}
        return replace(found, provenance=replace(found.provenance, settings=settings))

    return classify


def score_rows(family: str, model: CellModel, data: Path) -> list[list[object]]:
    """Return the rows of the figures of one family."""
    reports = reports_of(family, model, data)
    rows: list[list[object]] = []
    for figure in FIGURES.get(family, ()):
        report = reports[figure.images]
        value = figure.value(report)
        n = len(report.groups().get(figure.group, ()))
        title = figure.images.title
        rows.append([family, title, n, figure.name, figure.asked, _text(value), figure.is_met(value)])
    return rows


def _text(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def speed_rows(found: dict[str, dict[str, float]]) -> list[list[object]]:
    """Return the rows of seconds and memory of all families."""
    ours = found.get("flow", {}).get("seconds", NAN)
    rows: list[list[object]] = []
    for family, one in found.items():
        ratio = one["seconds"] / ours
        met, asked = "", ""
        if family != "flow":
            asked = f"<= {SLOWEST:g} x flow"
        if asked and not np.isnan(ratio):
            met = "yes" if ratio <= SLOWEST else "NO"
        text = f"{one['seconds']:.2f} s ({ratio:.2f} x flow)"
        images = f"drawn, {one['side']:.0f} x {one['side']:.0f}" + (", a slice" if one["slices"] > 1 else "")
        rows.append([family, images, 1, "time", asked, text, met])
        rows.append([family, images, 1, "peak memory", "", f"{one['peak_mb'] / 1000:.2f} GB", ""])
    return rows


def source_of(model: CellModel, image: np.ndarray[Any, Any]) -> Image:
    """Return the image, or a volume of it for a model that takes nothing else."""
    flat = Image(image, "YX")
    try:
        model.frames(flat, None)
    except AxesError:
        return Image(np.stack([image] * SLICES), "ZYX")
    return flat


def time_one(model: str, folder: Path, repeats: int) -> dict[str, float]:
    """Return the warm median seconds of an image or slice; without ``repeats`` the peak memory."""
    loaded = store.load(model)
    source = source_of(loaded, np.load(folder / "image.npy"))
    slices = source.shape[0] if source.axes == "ZYX" else 1
    if not repeats:
        run(count_cells(source, loaded))
        return {"peak_mb": peak_mb()}
    seconds = warm_median(lambda: run(count_cells(source, loaded)), repeats) / slices
    return {"seconds": seconds, "slices": slices, "side": source.shape[-1]}


def time_all(models: dict[str, str], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return seconds and memory of each family, each in processes of its own."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        draw_nuclei(Path(name), options.side)
        for family, model in models.items():
            print(f"{family}: time ...", file=sys.stderr)
            command = [sys.executable, "-m", "benchmarks.accuracy.families"]
            command += ["--time", model, name, "--repeats"]
            seconds = fresh_json([*command, str(options.repeats)], options.threads)
            found[family] = seconds | fresh_json([*command, "0"], options.threads)
    return found


def models_at(folder: Path | None) -> dict[str, str]:
    """Return the model of each family: its shipped one, or that in ``folder``."""
    models = {}
    for family in registry.FAMILIES:
        try:
            models[family] = str(store.find(folder / family if folder else family))
        except CheckpointError:
            print(f"{family}: left out, there is no model of it.", file=sys.stderr)
    return models


def score_all(models: dict[str, str], data: Path) -> list[list[object]]:
    """Return the rows of the figures of all families."""
    rows = []
    for family, model in models.items():
        print(f"{family}: scores ...", file=sys.stderr)
        rows += score_rows(family, store.load(model), data)
    return rows


def clocked(call: Callable[[], list[list[object]]]) -> tuple[list[list[object]], float]:
    """Return what a call gives and its seconds."""
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def main() -> None:
    """Measure every family and print one table."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, help="folder of the datasets; without it only time is measured")
    parser.add_argument("--models", type=Path, help="folder with a model for each family (default: shipped)")
    parser.add_argument("--families", nargs="+", choices=registry.FAMILIES, default=list(registry.FAMILIES))
    parser.add_argument("--no-speed", action="store_true", help="leave time and memory out")
    parser.add_argument("--side", type=int, default=2048, help="pixels of the drawn image (default 2048)")
    parser.add_argument("--threads", type=int, default=2, help="for time and memory (default 2)")
    parser.add_argument("--repeats", type=int, default=3, help="of which the median is taken (default 3)")
    parser.add_argument("--time", nargs=2, metavar=("MODEL", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.time:
        print(json.dumps(time_one(options.time[0], Path(options.time[1]), options.repeats)))
        return
    models = {name: model for name, model in models_at(options.models).items() if name in options.families}
    scores, seconds = clocked(lambda: score_all(models, options.data) if options.data else [])
    speeds, more = clocked(lambda: [] if options.no_speed else speed_rows(time_all(models, options)))
    rows = [row for family in models for row in (*scores, *speeds) if row[0] == family]
    machine = platform.processor() or platform.machine()
    print(f"{options.threads} threads; {machine}; scores took {seconds:.0f} s, times {more:.0f} s\n")
    print_table(HEAD, rows)


if __name__ == "__main__":
    main()
