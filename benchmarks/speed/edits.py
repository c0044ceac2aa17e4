"""Milliseconds of each tool of a session, with its journal, on 2048 x 2048 and on 64 x 1024 x 1024.

Both hold about 2,000 cells. A line each: the median and the worst of the cells that were tried, and those of
the undo that followed.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tools.command_line import command_line

from benchmarks.measure import draw_nuclei, print_table
from cellwright.annotation.review_queue import ReviewQueue
from cellwright.annotation.session import AnnotationSession
from cellwright.core.data import Image
from cellwright.core.errors import AnnotationError


def plane(folder: Path) -> AnnotationSession:
    """Return a session of 2048 x 2048 pixels and 2,000 nuclei that touch here and there."""
    draw_nuclei(folder, 2048)
    image, labels = np.load(folder / "image.npy"), np.load(folder / "labels.npy")
    return AnnotationSession(Image(image, "YX"), labels.astype(np.int32), journal=folder / "plane.journal")


def volume(folder: Path) -> AnnotationSession:
    """Return a session of 64 x 1024 x 1024 voxels and 2,000 balls of 30 x 30 x 12."""
    labels = np.zeros((64, 1024, 1024), np.int32)
    grid = np.indices((12, 30, 30)) + 0.5
    ball = (((grid - [[[[6]]], [[[15]]], [[[15]]]]) / [[[[6]]], [[[15]]], [[[15]]]]) ** 2).sum(axis=0) <= 1
    number = 0
    for z in range(1, 52, 13):
        for y in range(2, 990, 44):
            for x in range(2, 990, 44):
                number += 1
                labels[z : z + 12, y : y + 30, x : x + 30][ball] = number
    image = Image(np.broadcast_to(np.uint8(0), labels.shape), "ZYX", (1.0, 0.4, 0.4))
    return AnnotationSession(image, labels, journal=folder / "volume.journal")


def tools(session: AnnotationSession, number: int) -> dict[str, Callable[[], object]]:
    """Return each tool, ready to be used on a cell."""
    centre = session.store.centre_of(number)
    box = session.store.box_of(number)
    step = np.zeros(len(centre))
    step[-1] = 6
    flat = centre.round()
    line = np.stack([flat, flat])
    line[:, -2] += [-3, 3]
    before = session.labels[box].copy()
    last = session.store.numbers()[session.store.numbers() != number]
    other = int(last[np.searchsorted(last, number) % len(last)])
    free = np.array([part.stop + 2 for part in box])

    def paint() -> None:
        session.labels[box] = 0
        session.record_paint(box, before, session.labels[box])

    found: dict[str, Callable[[], object]] = {
        "delete": lambda: session.delete(number),
        "merge": lambda: session.merge(other, number),
        "split by line": lambda: session.split_line(number, line),
        "split by seeds": lambda: session.split_seeds(number, centre - step, centre + step),
        "grow": lambda: session.grow(number, 2),
        "shrink": lambda: session.shrink(number, 1),
        "smooth": lambda: session.smooth(number),
        "fill": lambda: session.fill(number),
        "add disc": lambda: session.add_disc(free, 14),
        "paint": paint,
        "set class": lambda: session.set_class(number, 1),
        "review": lambda: session.set_reviewed(number),
    }
    if len(box) == 3:
        found["interpolate"] = lambda: session.interpolate(number, box[0].start, box[0].stop - 1)
    return found


def measured(session: AnnotationSession, n_cells: int) -> dict[str, list[tuple[float, float]]]:
    """Return the milliseconds of each tool and its undo, for some of the cells."""
    rng = np.random.default_rng(0)
    times: dict[str, list[tuple[float, float]]] = {}
    for number in rng.choice(session.store.numbers(), n_cells, replace=False).tolist():
        for name, tool in tools(session, number).items():
            n_before = len(session.history.done)
            start = time.perf_counter()
            try:
                tool()
            except AnnotationError:
                continue  # a disc on another cell, a nucleus too thin to shrink
            middle = time.perf_counter()
            if len(session.history.done) > n_before:
                session.undo()
            times.setdefault(name, []).append((1e3 * (middle - start), 1e3 * (time.perf_counter() - middle)))
    return times


def main() -> None:
    """Time every tool on both and print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--cells", type=int, default=30)
    args = parser.parse_args()
    rows: list[list[object]] = []
    for begin in (plane, volume):
        with tempfile.TemporaryDirectory() as name:
            start = time.perf_counter()
            session = begin(Path(name))
            title = " x ".join(map(str, session.labels.shape))
            print(f"{title}, {len(session.store)} cells: begun in {time.perf_counter() - start:.1f} s")
            for tool, pairs in measured(session, args.cells).items():
                there, back = zip(*pairs, strict=True)
                rows.append(
                    [title, tool, statistics.median(there), max(there), statistics.median(back), max(back)]
                )
            start = time.perf_counter()
            n_queued = len(ReviewQueue(session).order())
            print(f"{n_queued} cells ordered for review in {time.perf_counter() - start:.1f} s")
            session.close()
    print_table(["labels", "tool", "median ms", "worst ms", "undo ms", "worst undo ms"], rows)


if __name__ == "__main__":
    main()
