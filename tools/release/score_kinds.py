"""Score models on the images of all kinds that the default model has not learned from, side by side.

    python -m tools.release.score_kinds flow FOLDER --data DATA

Each model is a name or a folder. F1 and AP are at an IoU of outlines of 0.5, means over images; boxes stand
in for the outlines of blood cells, of which only the recall is known.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch

from cellwright.core.tasks import run
from cellwright.files.dataset.folder import Dataset
from cellwright.inference.settings import EngineSettings
from cellwright.models import store
from cellwright.models.protocol import CellModel
from cellwright.ops.codecs.flow import FlowSettings
from cellwright.training.evaluation.evaluate import evaluate
from tools.command_line import command_line
from tools.release.kinds import chosen_by, reported, thinned

SETS = (
    "dsb2018_train",
    "bbbc039",
    "polyp_nuclei",
    "usiigaci_phase",
    "bacteria_phase",
    "qpi_cells",
    "c2c12_timelapse",
    "bbbc050",
    "bccd",
    "blood_boxes",
)


def main() -> None:
    """Print a line for each set and group, with the figures of each model."""
    parser = command_line(__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="*", default=SETS)
    parser.add_argument("--most", type=int, default=10_000, help="images of a set, evenly spread")
    parser.add_argument("--choosing", action="store_true", help="the images that choose, not those reported")
    parser.add_argument("--min-scores", type=float, nargs="*", help="of each model's cells, in that order")
    parser.add_argument("--flips", action="store_true", help="mean over mirrored images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    models = [store.load(store.find(name)) for name in options.models]
    settings = [FlowSettings(min_score=score) for score in options.min_scores or ()]
    judged = list(zip(models, settings or [None] * len(models), strict=True))
    tables: dict[str, Any] = {}
    for name in options.sets:
        dataset = (chosen_by if options.choosing else reported)(name, options.data)
        if len(dataset):
            engine = EngineSettings(flips=options.flips)
            tables[name] = _compare(thinned(dataset, options.most), judged, engine)
    if options.json:
        options.json.write_text(json.dumps(tables, indent=1), encoding="utf-8")


def _compare(
    dataset: Dataset, judged: list[tuple[CellModel, FlowSettings | None]], engine: EngineSettings
) -> list[dict[str, Any]]:
    """Print and return the figures of each model on a dataset."""
    tables, seconds = [], []
    for model, settings in judged:
        began = time.perf_counter()
        report = run(evaluate(dataset, model, settings=settings, engine=engine))
        seconds.append((time.perf_counter() - began) / len(dataset))
        tables.append(report.to_json())
    for group, table in tables[0].items():
        figures = " | ".join(_line(one[group]) for one in tables)
        print(f"{dataset.folder.name:16s} {group:12s} n {table['n_images']:3d}  {figures}", flush=True)
    print(f"{'':34s}" + " | ".join(f"{second:.2f} s an image" for second in seconds), flush=True)
    return tables


def _line(table: dict[str, Any]) -> str:
    if "f1" in table:
        return f"F1 {table['f1']:.3f} AP {table['ap']['0.50']:.3f} mAP {table['mean_ap']:.3f}"
    recalls = [
        f"{key.removeprefix('box_')} {value:.3f}" for key, value in table.items() if key.startswith("box_")
    ]
    return " ".join(recalls) or f"score {table['score']:.3f} MAE {table.get('count_mae')}"


if __name__ == "__main__":
    main()
