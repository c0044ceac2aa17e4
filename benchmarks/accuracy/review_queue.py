"""How many of the wrong cells the first fifth of the review queue holds.

    python -m benchmarks.accuracy.review_queue --data FOLDER

FOLDER is dsb2018_train. Its images are counted with ``flow``; a cell is wrong where no true one overlaps it
with an IoU of 0.5. The queue is judged without and with what the model finds in the flipped image. The most
that any queue could find is less than all: in some images more than a fifth of the cells are wrong. The
held-out training images are those that the weights of the queue were fitted to.
"""

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import numpy as np
from tools.command_line import command_line
from tools.release.train_shipped import held_out_names

from benchmarks.measure import print_table
from cellwright.annotation.review_queue import ReviewQueue, mirror_disagreement
from cellwright.annotation.session import AnnotationSession
from cellwright.core.tasks import run
from cellwright.files.dataset.folder import Item, read_dataset
from cellwright.inference.pipeline import count
from cellwright.inference.settings import EngineSettings
from cellwright.ops.matching import overlaps

IOU = 0.5
SHARE = 0.2


def found_early(items: Sequence[Item], model: str) -> list[int]:
    """Return cells, wrong ones, and wrong ones in the first fifth of their image's queue.

    The last are counted three times: without flips, with flips, in the best of all orders.
    """
    totals = np.zeros(5, int)
    for item in items:
        image, truth = item.read()
        cells = count(image, model).cells
        session = AnnotationSession(image, cells.labels, scores=cells.scores)
        is_wrong = overlaps(session.labels, truth).toarray().max(axis=1, initial=0) < IOU
        n_first = ceil(SHARE * len(is_wrong))
        queue = ReviewQueue(session)
        found = [is_wrong[np.array(queue.order(), int)[:n_first] - 1].sum()]
        queue.set_disagreement(run(mirror_disagreement(session, EngineSettings(), model)))
        found.append(is_wrong[np.array(queue.order(), int)[:n_first] - 1].sum())
        totals += [len(is_wrong), is_wrong.sum(), *found, min(is_wrong.sum(), n_first)]
    return totals.tolist()


def main() -> None:
    """Print a row for the held-out training images and one for the validation split."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="flow")
    args = parser.parse_args()
    dataset = read_dataset(args.data)
    parts = {
        "held-out training": dataset.select("train", names=held_out_names(dataset)).items,
        "val": dataset.select("val").items,
    }
    rows: list[list[object]] = []
    for name, items in parts.items():
        n_cells, n_wrong, *n_early = found_early(items, args.model)
        rows.append([name, n_cells, n_wrong, *(f"{n} ({n / n_wrong:.3f})" for n in n_early)])
    print("wrong cells in the first 20 % of the queue:")
    print_table(["images", "cells", "wrong", "without flips", "with flips", "at best"], rows)


if __name__ == "__main__":
    main()
