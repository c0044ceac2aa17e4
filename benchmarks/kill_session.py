"""Kill a program with SIGKILL while it edits and exports, many times over, and look at what is left.

    python benchmarks/kill_session.py [--times 200]

A process of its own opens the journal of the round before, edits at random as fast as it can, says after each
edit how many are done, and now and then writes its labels to a file. After the kill the journal must hold
every edit that was told, at most one more, its labels must be those of the edits, and every file must be
whole.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import tifffile

from cellwright.errors import AnnotationError
from cellwright.io.files import written_whole
from cellwright.ops.change import boxes_of
from cellwright.session.annotation import AnnotationSession
from cellwright.types import Image

SIDE = 256
EXPORT_EVERY = 5
FORGET_AFTER = 3000  # edits after which a new journal begins, so that opening stays fast


def open_session(path: Path) -> AnnotationSession:
    """Return the session of a journal, or a new one with a journal."""
    if path.exists():
        return AnnotationSession.open_journal(path)
    image = Image(np.zeros((SIDE, SIDE), np.uint8), "YX")
    return AnnotationSession(image, journal=path)


def edit_for_ever(path: Path, export: Path, seed: int) -> None:
    """Edit, tell and export until killed."""
    session, rng = open_session(path), np.random.default_rng(seed)
    print(f"begun {session.n_edits}", flush=True)
    while True:
        with suppress(AnnotationError):
            edit(session, rng)
        print(f"done {session.n_edits}", flush=True)
        if session.n_edits % EXPORT_EVERY == 0:
            with written_whole(export) as part:
                tifffile.imwrite(part, session.labels)


def edit(session: AnnotationSession, rng: np.random.Generator) -> None:
    """Do one edit that adds exactly one command, or none."""
    point = rng.integers(0, SIDE, 2)
    number = session.number_at(point)
    if session.n_cells > 150 and number:
        session.delete(number)
    elif not number:
        session.add_disc(point, 9)
    else:
        near = point + rng.integers(-4, 5, 2)
        tools = (
            lambda: session.grow(number, 2),
            lambda: session.smooth(number),
            lambda: session.split_seeds(number, point, near),
            lambda: session.set_reviewed(number),
            lambda: session.set_class(number, int(rng.integers(0, 5))),
        )
        tools[rng.integers(len(tools))]()


def kill_once(folder: Path, seed: int) -> str:
    """Kill one process at a random moment; return what is wrong, '' when nothing is."""
    path, export = folder / "session.journal", folder / "labels.tif"
    command = [sys.executable, __file__, "--edit", str(path), str(export), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(random.Random(seed).uniform(0, 0.25))
        process.kill()
        told = process.stdout.read().split("\n")[:-1]  # what comes last may be half a line
    n_told = int(told[-1].split()[1]) if told else 0
    session = open_session(path)
    n_edits = session.n_edits
    faults = []
    if told and not n_told <= n_edits <= n_told + 1:
        faults.append(f"{n_told} edits were told, {n_edits} are there")
    if boxes_of(session.labels) != {n: session.box_of(n) for n in session.ids().tolist()}:
        faults.append("the labels are not those of the cells")
    if export.exists() and tifffile.imread(export).shape != (SIDE, SIDE):
        faults.append("an exported file is not whole")
    session.close()
    if n_edits > FORGET_AFTER:
        path.unlink()
    return "; ".join(faults)


def main() -> None:
    """Kill and look, so many times, and print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--edit", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.edit:
        path, export, seed = args.edit
        edit_for_ever(Path(path), Path(export), int(seed))
    with tempfile.TemporaryDirectory() as name:
        faults = {seed: kill_once(Path(name), seed) for seed in range(args.times)}
        n_edits = AnnotationSession.open_journal(Path(name) / "session.journal").n_edits
    wrong = {seed: fault for seed, fault in faults.items() if fault}
    print(f"killed {len(faults)} times, {n_edits} edits in the last journal; wrong: {wrong or 'nothing'}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
