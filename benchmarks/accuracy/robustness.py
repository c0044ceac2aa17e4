"""How well does a model count what laboratories really have, and does it say so where it does not?

    python -m benchmarks.accuracy.robustness --data FOLDER [--model flow] [--images 36] [--changes NAME ...]

Crops of training images of all kinds are changed in the ways of ``tools.release.changes`` and counted. For
each change the table has the mean F1 at an IoU of 0.5 of the same crops before and after it, the cells found
for each true one (in empty fields: for each image), the mean fit, and how many counts are silently wrong: an
F1 below 0.5 with a fit of 0.7 or more. Of a model that gives points, a hit is a point in a cell. Choose by
``--part 0`` and tell by ``--part 1``: each has every other image.
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from tools.command_line import command_line
from tools.release.calibrate_fit import planes, share_right, spread
from tools.release.changes import CHANGES, Known, known_of
from tools.release.kinds import KINDS, learned

from cellwright.core.data import Image
from cellwright.core.tasks import run
from cellwright.files.dataset.folder import Dataset
from cellwright.inference.pipeline import count_cells
from cellwright.models import store
from cellwright.models.fit import WARN_BELOW
from cellwright.models.protocol import CellModel
from cellwright.ops.labels import relabel
from cellwright.ops.matching import ranking_quality

CROP_PX = 320
SILVER = "hgsc_he_silver"  # its labels are those of a model
AS_IT_IS = "as it is"


class Score(NamedTuple):
    """How an image was counted."""

    image: str
    change: str
    n_true: int
    n_found: int
    f1: float
    fit: float | None  # None where nothing was found, or the model tells nothing
    notices: tuple[str, ...]


def main() -> None:
    """Count every image with every change, and print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="flow", help="name or folder")
    parser.add_argument("--images", type=int, default=36)
    parser.add_argument("--part", type=int, choices=(0, 1), help="one half of the images")
    parser.add_argument("--changes", nargs="+", default=list(CHANGES), choices=CHANGES, metavar="NAME")
    parser.add_argument("--json", type=Path, help="file for the score of each image")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = store.load(store.find(options.model))
    crops = dict(
        list(_crops(options.data, options.images))[options.part :: 2 if options.part is not None else 1]
    )
    scores: list[Score] = []
    print("| change | images | F1 before | F1 after | found | fit | silently wrong |")
    print("|---" * 7 + "|", flush=True)
    for change in dict.fromkeys([AS_IT_IS, *options.changes]):
        own = [_score(model, name, change, known) for name, known in crops.items()]
        scores += [one for one in own if one is not None]
        print(_row(change, scores), flush=True)
    print(_quality([one for one in scores if one.fit is not None]))
    if options.json:
        options.json.write_text(json.dumps([one._asdict() for one in scores], indent=0), encoding="utf-8")


def _crops(folder: Path, most: int) -> Iterator[tuple[str, Known]]:
    """Yield crops by name, kind after kind in turn, until there are enough."""
    kinds = [learned(kind, folder) for kind in KINDS if kind.dataset != SILVER]
    kinds = [dataset for dataset in kinds if dataset.items[0].has_masks]
    rounds = 1 + -(-most // len(kinds))  # some have fewer
    turns = zip_longest(*(_of_kind(dataset, rounds) for dataset in kinds))
    yield from islice((crop for turn in turns for crop in turn if crop), most)


def _of_kind(dataset: Dataset, most: int) -> Iterator[tuple[str, Known]]:
    items = spread(dataset.items, most)
    for item in items:
        for number, (image, labels) in enumerate(planes(item, CROP_PX, -(-most // len(items)))):
            yield f"{dataset.folder.name} {item.name} {number}", known_of(image, labels)


def _score(model: CellModel, name: str, change: str, known: Known) -> Score | None:
    """Return how a crop is counted once it was changed; None where the change makes no sense for it."""
    changed = CHANGES[change](known, np.random.default_rng(zlib.crc32(f"{name} {change}".encode())))
    if changed is None:
        return None
    pixels, truth = changed.pixels, relabel(changed.labels)
    result = run(count_cells(Image(pixels, "YXC"[: pixels.ndim]), model))
    n_true, f1 = int(truth.max()), share_right(result, truth)
    return Score(name, change, n_true, round(result.count), f1, result.fit, result.notices)


def _row(change: str, scores: Sequence[Score]) -> str:
    before = {one.image: one.f1 for one in scores if one.change == AS_IT_IS}
    own = [one for one in scores if one.change == change]
    fits = [one.fit for one in own if one.fit is not None]
    found = sum(one.n_found for one in own) / (sum(one.n_true for one in own) or max(len(own), 1))
    cells = (
        str(len(own)),
        *(f"{_mean(values):.3f}" for values in ([before[one.image] for one in own], [one.f1 for one in own])),
        f"{found:.2f}",
        f"{_mean(fits):.2f}",
        str(sum(map(_is_silently_wrong, own))),
    )
    return f"| {change} | " + " | ".join(cells) + " |"


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _is_silently_wrong(score: Score) -> bool:
    return score.fit is not None and score.fit >= WARN_BELOW and score.f1 < 0.5


def _quality(scores: Sequence[Score]) -> str:
    """Return how well the fit tells the F1, over all counts in which something was found."""
    if not scores:
        return "The model tells no fit."
    f1, fit = np.array([[one.f1, one.fit] for one in scores], np.float64).T
    return (
        f"{len(scores)} counts with a fit, {(f1 < 0.5).sum()} of an F1 below 0.5: "
        f"Spearman {spearmanr(f1, fit).statistic:.3f}, AUROC {ranking_quality(-fit, f1 < 0.5):.3f}"
    )


if __name__ == "__main__":
    main()
