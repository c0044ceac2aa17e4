"""How many of the wrong cells the first fifth of the review queue holds.

    python benchmarks/review_queue.py --data FOLDER

FOLDER is dsb2018_train. Its images are counted with ``flow``; a cell is wrong where no true one overlaps it
with an IoU of 0.5. The held-out training images are those that the weights of the queue were fitted to.
"""

import argparse
from collections.abc import Sequence
from math import ceil
from pathlib import Path

import numpy as np
from measure import print_table
from train_shipped import held_out_names

from cellwright.inference.count import count
from cellwright.io.dataset import Item, read_dataset
from cellwright.ops.matching import overlaps
from cellwright.session.annotation import AnnotationSession
from cellwright.session.review import ReviewQueue

IOU = 0.5
SHARE = 0.2


def found_early(items: Sequence[Item], model: str) -> list[int]:
    """Return cells, wrong ones, and wrong ones in the first fifth of their image's queue."""
    totals = np.zeros(3, int)
    for item in items:
        image, truth = item.read()
        session = AnnotationSession.from_result(count(image, model), image)
        order = np.array(ReviewQueue(session).order(), int)
        iou = overlaps(session.labels, truth).toarray()
        is_wrong = iou.max(axis=1, initial=0)[order - 1] < IOU
        first = is_wrong[: ceil(SHARE * len(order))]
        totals += [len(order), is_wrong.sum(), first.sum()]
    return totals.tolist()


def main() -> None:
    """Print a row for the held-out training images and one for the validation split."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
        n_cells, n_wrong, n_early = found_early(items, args.model)
        rows.append([name, n_cells, n_wrong, n_early, n_early / n_wrong])
    print_table(["images", "cells", "wrong", "in the first 20 %", "share"], rows)


if __name__ == "__main__":
    main()
