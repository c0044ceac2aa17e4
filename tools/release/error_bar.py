"""Measure how far the counts of a density model are off, and write it into its spec.json.

    python -m tools.release.error_bar FOLDER --data DATA

Counts the images that choose, none of which weights were fitted to or scores are told of. Each dataset weighs
the same, so that the error bar holds for kinds of which there are few images, too.
"""

import json
from pathlib import Path

from cellwright.core.data import Annotation
from cellwright.core.tasks import run
from cellwright.inference.context import EngineSettings
from cellwright.inference.pipeline import count_cells
from cellwright.models import store
from cellwright.ops.measure.prediction_interval import fit_interval
from tools.command_line import command_line
from tools.release.default_card import write_json
from tools.release.kinds import chosen_by

DATASETS = ("dsb2018_train", "polyp_nuclei", "usiigaci_phase")  # every cell of their images is annotated


def counts_of(folder: Path, data: Path) -> tuple[list[float], list[int]]:
    """Return the counts of the images that choose, and the true ones; few images are told over and over."""
    model = store.load(folder)
    items = [chosen_by(name, data).items for name in DATASETS]
    most = max(map(len, items))
    counts: list[float] = []
    truths: list[int] = []
    for images in items:
        found, true = [], []
        for item in images:
            image, truth = item.annotated()
            labels = truth.labels if isinstance(truth, Annotation) else truth
            assert labels is not None
            found.append(float(run(count_cells(image, (model,), None, EngineSettings())).count))
            true.append(int(labels.max()))
        counts += found * (most // len(found))
        truths += true * (most // len(true))
    return counts, truths


def main() -> None:
    """Write the error of counts beside the weights."""
    parser = command_line(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    found = fit_interval(*counts_of(options.folder, options.data))
    spec = options.folder / "spec.json"
    write_json(spec, json.loads(spec.read_text(encoding="utf-8")) | {"count_error": found})
    print(f"below {found[0]:.3f}, above {found[1]:.3f}, power {found[2]:g}")


if __name__ == "__main__":
    main()
