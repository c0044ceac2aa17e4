"""Kill a program with SIGKILL while it edits or exports, many times over, and look at what is left.

    python tests/annotation/kill_session.py [--times 200]

Edits: a process of its own opens the journal of the round before, edits at random as fast as it can, and says
after each edit how many are done. After the kill the journal must hold every edit that was told, at most one
more, and its labels must be those of the edits.

Exports: a process adds one annotation after the other to a dataset folder, in between it replaces one that is
there and writes a file of another program. After the kill the dataset must be readable, the first images in
it must be there byte for byte, what was told to be exported must be where it was put, every image must be
that of one export, whole and with its own labels and classes, and the export that comes next must succeed
and leave nothing behind of the one that was cut off.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile

from cellwright.annotation.export import ExportSettings, dataset_task, file_task
from cellwright.annotation.session import AnnotationSession
from cellwright.core.data import Image
from cellwright.core.errors import AnnotationError, CellwrightError
from cellwright.core.tasks import run
from cellwright.files.dataset.folder import Item, read_dataset
from cellwright.ops.label_changes import boxes_of

SIDE = 256
MOST_EDITS = 3000  # after which a new journal begins, so that opening stays fast
MOST_IMAGES = 40  # likewise a new dataset
MOST_WAITED, LONGEST_S = 4, 0.1  # things done before the kill, and time after them; at random up to here
N_FIRST = 3  # images that are never replaced
N_CLASSES = 5
SPLITS = ("train", "val", "test")
START = "forkserver" if sys.platform != "win32" else "spawn"


class Told(NamedTuple):
    """An export that was done: name and split in the dataset, and its number."""

    name: str
    split: str
    index: int


# -- edits --------------------------------------------------------------------------------------------------


def start_session(path: Path) -> AnnotationSession:
    """Return the session of a journal, or a new one with a journal."""
    if path.exists():
        return AnnotationSession.open_journal(path)
    image = Image(np.zeros((SIDE, SIDE), np.uint8), "YX")
    return AnnotationSession(image, journal=path)


def edit_for_ever(folder: Path, seed: int, pipe: Connection) -> None:
    """Edit and tell until killed."""
    session, rng = start_session(folder / "session.journal"), np.random.default_rng(seed)
    pipe.send(len(session.history.done))
    while True:
        with suppress(AnnotationError):
            edit(session, rng)
        pipe.send(len(session.history.done))


def edit(session: AnnotationSession, rng: np.random.Generator) -> None:
    """Do one edit that adds exactly one command, or none."""
    point = rng.integers(0, SIDE, 2)
    number = session.store.number_at(point)
    if len(session.store) > 150 and number:
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
            lambda: session.set_class(number, int(rng.integers(0, N_CLASSES))),
        )
        tools[rng.integers(len(tools))]()


class Edits:
    """What was edited, checked after each kill."""

    def __init__(self) -> None:
        self.n_done = 0

    def check(self, folder: Path, told: list[int]) -> Iterator[str]:
        """Yield what is wrong with the journal; begin a new one where it has grown long."""
        path = folder / "session.journal"
        session = start_session(path)
        n_edits = len(session.history.done)
        if not told[-1] <= n_edits <= told[-1] + 1:
            yield f"{told[-1]} edits were told, {n_edits} are there"
        if boxes_of(session.labels) != {n: session.store.box_of(n) for n in session.store.numbers().tolist()}:
            yield "the labels are not those of the cells"
        session.close()
        self.n_done += n_edits - told[0]
        if n_edits > MOST_EDITS:
            path.unlink()


# -- exports ------------------------------------------------------------------------------------------------


def exported(index: int) -> AnnotationSession:
    """Return what export number ``index`` exports: pixel size, labels and classes tell the number."""
    size_um = 1.0 + index
    image = Image(np.full((SIDE, SIDE), 7, np.uint16), "YX", (size_um, size_um), f"image {index}")
    blocks = np.kron(np.arange(64).reshape(8, 8), np.ones((SIDE // 8, SIDE // 8), int))
    numbers = np.random.default_rng(index).permutation(64).astype(np.int32) + 1
    names = tuple(f"class {number}" for number in range(N_CLASSES))
    classes = np.full(64, index % N_CLASSES)
    return AnnotationSession(image, numbers[blocks], classes=classes, class_names=names)


def export_for_ever(folder: Path, seed: int, pipe: Connection) -> None:
    """Export and tell until killed: in turn a new image, and another in the place of one that is there."""
    dataset, rng = folder / "set", random.Random(seed)
    n, index = len(items_of(dataset)), 1000 * seed
    pipe.send(index)
    while True:
        index += 1
        new = Told(f"image {n}", SPLITS[index % 2], index)
        run(dataset_task(exported(index), dataset, ExportSettings(new.split, name=new.name)))
        pipe.send(new)
        n += 1
        if n > N_FIRST:
            index += 1
            old = Told(f"image {rng.randrange(N_FIRST, n)}", "", index)
            settings = ExportSettings("test", name=old.name)
            run(dataset_task(exported(index), dataset, settings, may_replace=True))
            pipe.send(old)
        run(file_task(exported(index), folder / "labels.tif", "ome-tiff"))


def items_of(dataset: Path) -> dict[str, Item]:
    """Return the images of a dataset by name, none where nothing was exported yet."""
    if not (dataset / "meta.json").exists() and not (dataset / ".added").exists():
        return {}
    return {item.name: item for item in read_dataset(dataset).items}


class Exports:
    """What was exported, checked after each kill."""

    def __init__(self) -> None:
        self.n_done = 0
        self._first: dict[Path, bytes] = {}
        self._splits: dict[str, str] = {}
        self._index: dict[str, int] = {}

    def check(self, folder: Path, told: list[Any]) -> Iterator[str]:
        """Yield what is wrong with the dataset and the other file; begin a new one where it has grown."""
        dataset, (last, *done) = folder / "set", told
        items = items_of(dataset)
        self.n_done += len(done)
        for name, split, index in done:
            self._index[name] = last = index
            self._splits.setdefault(name, split)
        yield from self._check_items(items, last + 1)
        for path, content in self._first.items():
            if not path.exists() or path.read_bytes() != content:
                yield f"{path.name} is not what it was"
        yield from self._repeat(dataset, len(items))
        file = folder / "labels.tif"
        if file.exists() and tifffile.imread(file).shape != (SIDE, SIDE):
            yield "the file of another program is not whole"
        if len(items) > MOST_IMAGES:
            shutil.rmtree(dataset)
            self._first, self._splits, self._index = {}, {}, {}
        else:
            names = [f"image {n}" for n in range(N_FIRST)]
            self._first = {path: path.read_bytes() for name in names for path in dataset.glob(f"*/{name}.*")}

    def _check_items(self, items: dict[str, Item], untold: int) -> Iterator[str]:
        """Compare all images with what was told; the export that was not told yet may have been done."""
        for name, split in self._splits.items():
            if name not in items or items[name].split != split:
                yield f"{name} is not in the split {split}"
        for name, item in items.items():
            index = index_of(item)
            if index not in (self._index.get(name), untold):
                yield f"{name} is that of export {index}, not {self._index.get(name)}"
            self._index[name] = index
            self._splits.setdefault(name, item.split)
            yield from check_item(item, exported(index))

    def _repeat(self, dataset: Path, n: int) -> Iterator[str]:
        """Export what comes next, as somebody would whose program was killed."""
        name = f"image {n}"
        try:
            run(dataset_task(exported(0), dataset, ExportSettings("train", name=name)))
        except CellwrightError as error:
            yield f"the export could not be repeated: {error}"
            return
        self._splits[name], self._index[name] = "train", 0
        left = [path.name for path in dataset.rglob(".*") if path.name != ".lock"]
        files = {path.stem for path in dataset.glob("*/*")}
        if left or files != set(items_of(dataset)):
            yield f"{left or sorted(files)[-3:]} were left behind"


def index_of(item: Item) -> int:
    """Return the number of the export that an image came with."""
    meta = json.loads((item.image_path.parent.parent / "meta.json").read_text(encoding="utf-8"))
    source: str = meta["items"][item.name]["provenance"]["image"]
    return int(source.removeprefix("image "))


def check_item(item: Item, session: AnnotationSession) -> Iterator[str]:
    """Yield where an image is not that of its export."""
    image, labels = item.read()
    if image.pixel_size_um != session.image.pixel_size_um:
        yield f"{item.name} has pixels of another size"
    if not np.array_equal(image.data, session.image.data):
        yield f"{item.name} has pixels of another image"
    if not np.array_equal(labels, session.labels):
        yield f"{item.name} has labels of another image"
    table = item.image_path.parent.parent / "points" / f"{item.name}.csv"
    classes = [row.split(",")[-1] for row in table.read_text(encoding="utf-8").splitlines()[1:]]
    if classes != [f"class {session.store.cell(1).category}"] * 64:
        yield f"{item.name} has classes of another image"


# -- kills --------------------------------------------------------------------------------------------------


def kill_once(work: Callable[..., None], check: Callable[..., Iterator[str]], folder: Path, seed: int) -> str:
    """Kill one process at a random moment; return what is wrong, '' when nothing is."""
    context = get_context(START)
    context.set_forkserver_preload(["cellwright.annotation.export"])  # slow to import; once for all
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(folder, seed, writer), daemon=True)
    process.start()
    writer.close()
    moment = random.Random(seed)
    told = [reader.recv() for _ in range(1 + moment.randrange(MOST_WAITED))]
    time.sleep(moment.uniform(0, LONGEST_S))
    process.kill()
    process.join()
    with suppress(EOFError, OSError):  # where what is told ends, maybe in the middle
        while True:
            told.append(reader.recv())
    return "; ".join(check(folder, told))


def main() -> None:
    """Kill and look, so many times, and print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=200)
    args = parser.parse_args()
    is_wrong = False
    for title, work, known in (("edits", edit_for_ever, Edits()), ("exports", export_for_ever, Exports())):
        with tempfile.TemporaryDirectory() as name:
            seeds = range(1, args.times + 1)
            faults = {seed: kill_once(work, known.check, Path(name), seed) for seed in seeds}
        wrong = {seed: fault for seed, fault in faults.items() if fault}
        print(f"killed {len(faults)} times among {known.n_done:,} {title}; wrong: {wrong or 'nothing'}")
        is_wrong |= bool(wrong)
    sys.exit(is_wrong)


if __name__ == "__main__":
    main()
