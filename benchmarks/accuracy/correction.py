"""Edits a scripted annotator needs to make real results right, with the tools of a session.

    python -m benchmarks.accuracy.correction --data FOLDER

FOLDER is dsb2018_train. Ten images of its validation split are counted with ``flow`` and corrected until
every cell of the truth has a partner with an IoU of at least 0.7 and nothing else is left (F1@0.7 = 1). The
annotator is greedy: of the edits at hand it takes the one that puts most right, a stroke of the brush over
the true outline where no tool does as much. A wrong cell is a true one that is missing, one too many, or a
pair of these that overlap: cells without partner are paired off one to one before they are counted.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array
from tools.command_line import command_line

from benchmarks.measure import print_table
from cellwright.annotation.session import AnnotationSession
from cellwright.core.data import Labels
from cellwright.core.errors import AnnotationError
from cellwright.files.dataset.folder import read_dataset
from cellwright.inference.pipeline import count
from cellwright.ops.label_changes import boxes_of, joined, padded
from cellwright.ops.matching import matched_pairs, overlaps

IOU = 0.7
N_IMAGES = 10
MOST_EDITS = 500

Edit = tuple[str, Callable[[], object]]


@dataclass
class Faults:
    """What is wrong: found cells and true cells without partner."""

    found: set[int]
    true: set[int]
    n_wrong: int

    def __len__(self) -> int:
        return len(self.found) + len(self.true)


@dataclass
class Annotator:
    """Corrects one session, knowing the truth."""

    session: AnnotationSession
    truth: Labels
    tools: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.boxes = boxes_of(self.truth)

    def faults(self) -> Faults:
        """Return the cells without partner."""
        table = overlaps(self.session.labels, self.truth).tocoo()
        rows, columns = (index + 1 for index in table.coords)
        is_pair = table.data >= IOU
        found = set(self.session.store.numbers().tolist()) - set(rows[is_pair].tolist())
        true = set(self.boxes) - set(columns[is_pair].tolist())
        is_left = np.isin(rows, list(found)) & np.isin(columns, list(true))
        shape = (table.shape[0] + 1, table.shape[1] + 1)
        left = csr_array((table.data[is_left] > 0, (rows[is_left], columns[is_left])), shape=shape)
        n_guesses = len(matched_pairs(left, 0.5))
        return Faults(found, true, len(true) + len(found) - n_guesses)

    def correct(self) -> None:
        """Edit until nothing is wrong."""
        faults = self.faults()
        while len(faults) and sum(self.tools.values()) < MOST_EDITS:
            name, edit = self._best(faults)
            start = time.perf_counter()
            edit()
            self.seconds.append(time.perf_counter() - start)
            self.tools[name] += 1
            faults = self.faults()

    def _best(self, faults: Faults) -> Edit:
        best, most = None, 0
        for edit in self._at_hand(faults):
            gain = self._gain(edit, len(faults))
            if gain > most:
                best, most = edit, gain
        if best is None:
            raise RuntimeError("Nothing at hand puts a cell right.")
        return best

    def _gain(self, edit: Edit, n_before: int) -> int:
        n_edits = len(self.session.history.done)
        try:
            edit[1]()
        except AnnotationError:
            return 0
        gain = n_before - len(self.faults())
        if len(self.session.history.done) > n_edits:
            self.session.undo()
        return gain

    def _at_hand(self, faults: Faults) -> Iterator[Edit]:
        session = self.session
        for number in sorted(faults.found):
            inside = self._largest(self.truth, session.labels == number)
            if len(inside) > 1:
                seeds = [
                    self._middle((self.truth == true) & (session.labels == number)) for true in inside[:2]
                ]
                yield "split by seeds", lambda n=number, s=seeds: session.split_seeds(n, *s)
                line = self._line_between(*inside[:2])
                yield "split by line", lambda n=number, at=line: session.split_line(n, at)
            for radius in (1.0, 2.0, 3.0):
                yield "grow", lambda n=number, r=radius: session.grow(n, r)
                yield "shrink", lambda n=number, r=radius: session.shrink(n, r)
            yield "delete", lambda n=number: session.delete(n)
        for true in sorted(faults.true):
            mask = self.truth == true
            parts = [n for n in self._largest(session.labels, mask) if n in faults.found]
            if len(parts) > 1:
                yield "merge", lambda p=parts: session.merge(p[0], p[1])
            diameter = 2 * np.sqrt(mask.sum() / np.pi)
            yield "add disc", lambda m=mask, d=diameter: session.add_disc(np.argwhere(m).mean(axis=0), d)
        for true in sorted(faults.true):
            yield "paint", lambda n=true: self._paint(n)

    def _line_between(self, first: int, second: int) -> np.ndarray:
        """Return the two ends of the border of two cells; of cells apart, a line half way across."""
        box = padded(joined(self.boxes[first], self.boxes[second]), 1, self.truth.shape)
        a, b = (np.argwhere(self.truth[box] == n) + [part.start for part in box] for n in (first, second))
        gaps = np.linalg.norm(a[:, None] - b[None], axis=-1)
        rows, columns = np.nonzero(gaps <= gaps.min() + 1.5)
        border = (a[rows] + b[columns]) / 2
        across = b.mean(axis=0) - a.mean(axis=0)
        along = np.array([-across[1], across[0]]) / np.linalg.norm(across)
        order = np.argsort((border - border.mean(axis=0)) @ along)
        ends = border[order[[0, -1]]]
        return (
            ends if np.linalg.norm(ends[1] - ends[0]) > 3 else border.mean(axis=0) + np.outer([-1, 1], along)
        )

    def _paint(self, true: int) -> None:
        """Paint the true outline with the number of the part that covers most of it, or a new one."""
        mask = self.truth == true
        session, box = self.session, padded(self.boxes[true], 40, self.truth.shape)
        wrong = self.faults().found
        parts = [n for n in self._largest(session.labels, mask) if n in wrong]
        number = parts[0] if parts else session.store.next_number
        before = session.labels[box].copy()
        own = (before == number) & (mask[box] | (self.truth[box] == 0))
        after = np.where(own, 0, before)
        after[mask[box]] = number
        session.record_paint(box, before, after)

    @staticmethod
    def _largest(labels: Labels, mask: np.ndarray) -> list[int]:
        numbers, sizes = np.unique(labels[mask], return_counts=True)
        order = np.argsort(-sizes, kind="stable")
        return [int(number) for number in numbers[order] if number]

    @staticmethod
    def _middle(mask: np.ndarray) -> np.ndarray:
        places = np.argwhere(mask)
        return places[np.linalg.norm(places - places.mean(axis=0), axis=1).argmin()]


def main() -> None:
    """Correct ten results and print a row for each."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="flow")
    args = parser.parse_args()
    items = sorted(read_dataset(args.data).select("val").items, key=lambda item: item.name)
    rows, tools, seconds = [], Counter[str](), []
    for item in items[:: len(items) // N_IMAGES][:N_IMAGES]:
        image, truth = item.read()
        cells = count(image, args.model).cells
        annotator = Annotator(AnnotationSession(image, cells.labels, scores=cells.scores), truth)
        before = annotator.faults()
        annotator.correct()
        n_edits, left = sum(annotator.tools.values()), len(annotator.faults())
        rows.append([item.name[:8], len(annotator.boxes), before.n_wrong, n_edits, left])
        tools += annotator.tools
        seconds += annotator.seconds
    totals = [sum(row[column] for row in rows) for column in range(1, 5)]
    print_table(["image", "true cells", "wrong", "edits", "wrong after"], [*rows, ["all", *totals]])
    print(f"{totals[2] / max(totals[1], 1):.2f} edits for each wrong cell: {dict(tools.most_common())}")
    print(f"median of an edit {1e3 * statistics.median(seconds):.1f} ms")


if __name__ == "__main__":
    main()
