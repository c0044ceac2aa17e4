"""Many images, one after another: what was done is not done again, what fails is told, and the rest goes on.

::

    <output>/<name>.labels.tif, .cells.csv, .json    of each image, as of a single count
    <output>/summary.csv                             one row per image
    <output>/cells.parquet                           the cells of all images, where pyarrow is installed
    <output>/.cellwright/<name>.json                 that an image is done: with what, and which files it has
"""

import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from cellwright.core.data import Image, Result
from cellwright.core.errors import WriteError, error_line
from cellwright.core.tasks import Progress, Task
from cellwright.files.atomic import acquire_lock, atomic_write, make_folder, write_text
from cellwright.files.image_list import ListedImage
from cellwright.files.images import read_image
from cellwright.files.tables import class_counts, plain_count
from cellwright.inference.fit import expectation

T = TypeVar("T")

KEPT = ".cellwright"
READ_AHEAD_BYTES = 500_000_000  # a larger image is read when its turn comes
WRITE_EVERY_S = 5.0  # the summary is written anew this often while images are counted


class Counter(Protocol[T]):
    """How one image is counted and written; the same as for a single count."""

    @property
    def fingerprint(self) -> str:
        """What has to be the same for an image not to be counted again: models, settings, versions."""

    def count(self, image: Image) -> Task[T]:
        """Return what an image holds."""

    def write(self, folder: Path, name: str, image: Image, counted: T) -> Sequence[Path]:
        """Write the files of an image and return them."""

    def result(self, counted: T) -> Result:
        """Return what the summary tells of."""


@dataclass(frozen=True, slots=True)
class ImageOutcome:
    """What became of one image: a row of the summary, or why there is none.

    Parameters
    ----------
    image
        Which one.
    row
        Columns of the summary; empty where it failed.
    error
        What went wrong, in one line.
    was_done
        Whether an earlier run had counted it.
    """

    image: ListedImage
    row: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    was_done: bool = False


def count_folder(
    images: Sequence[ListedImage],
    output: Path,
    counter: Counter[Any],
    *,
    on_outcome: Callable[[ImageOutcome], None],
) -> Task[tuple[ImageOutcome, ...]]:
    """Count images and write their files and a summary; return what became of each.

    An image is done when its files are whole and the same models and settings made them from the same file;
    then it is not counted again. The next image is read while one is counted.

    Parameters
    ----------
    images
        See ``files.image_list.list_images``.
    output
        Folder of all results.
    counter
        How to count one image and write its files.
    on_outcome
        Told of each image as soon as it is done or has failed.

    Raises
    ------
    WriteError
        The folder cannot be written, or another program counts into it.
    """
    outcomes: list[ImageOutcome] = []
    with _only_run(output), ThreadPoolExecutor(1, "read") as reader:
        written = time.monotonic()
        waiting = _read_ahead(images, output, counter, reader)
        try:
            for index, (image, reading) in enumerate(waiting):
                yield Progress("images", index, len(images), note=image.name)
                if isinstance(reading, ImageOutcome):
                    outcome = reading
                else:
                    outcome = yield from _count_one(image, reading, output, counter)
                outcomes.append(outcome)
                on_outcome(outcome)
                if time.monotonic() - written > WRITE_EVERY_S:
                    write_summary(output, outcomes)
                    written = time.monotonic()
        finally:
            waiting.close()
            if outcomes:
                write_summary(output, outcomes)
        yield Progress("table of all cells", 0, 1)
        join_tables(output, outcomes)
    return tuple(outcomes)


def summary_rows(outcomes: Sequence[ImageOutcome]) -> list[dict[str, Any]]:
    """Return the rows of the summary: name, plate, count, interval, classes, and what failed."""
    rows = []
    for outcome in outcomes:
        row = {"image": outcome.image.name, **outcome.image.plate, **outcome.row}
        if outcome.error:
            row["error"] = outcome.error
        rows.append(row)
    return rows


def write_summary(output: Path, outcomes: Sequence[ImageOutcome]) -> None:
    """Write ``summary.csv``, in one step.

    Raises
    ------
    WriteError
        It cannot be written.
    """
    import pandas

    with atomic_write(output / "summary.csv") as part:
        pandas.DataFrame(summary_rows(outcomes)).to_csv(part, index=False)


def join_tables(output: Path, outcomes: Sequence[ImageOutcome]) -> None:
    """Write ``cells.parquet``: the tables of all images, with a column that names the image."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return
    import pandas

    tables = {one.image.name: output / f"{one.image.name}.cells.csv" for one in outcomes if not one.error}
    found = [(name, path) for name, path in tables.items() if path.exists()]
    columns = dict.fromkeys(name for _, path in found for name in pandas.read_csv(path, nrows=0).columns)
    if not columns:
        return
    texts = {"class", "image"}
    schema = pyarrow.schema(
        [(name, pyarrow.string() if name in texts else pyarrow.float64()) for name in ["image", *columns]]
    )
    with (
        atomic_write(output / "cells.parquet") as part,
        pyarrow.parquet.ParquetWriter(part, schema) as writer,
    ):
        for name, path in found:
            table = pandas.read_csv(path).reindex(columns=list(columns))
            table.insert(0, "image", name)
            writer.write_table(pyarrow.Table.from_pandas(table, schema, preserve_index=False))


def _read_ahead(
    images: Sequence[ListedImage], output: Path, counter: Counter[Any], reader: ThreadPoolExecutor
) -> Generator[tuple[ListedImage, "Future[Image] | ImageOutcome"], None, None]:
    """Give each image with its outcome, where it is done, or else its reading, begun one image before."""
    before: list[tuple[ListedImage, Future[Image] | ImageOutcome]] = []
    for image in images:
        done = _done_before(image, output, counter)
        before.append((image, done or reader.submit(_read, image)))
        if len(before) > 1:
            yield before.pop(0)
    yield from before


def _count_one(
    image: ListedImage, reading: "Future[Image]", output: Path, counter: Counter[Any]
) -> Task[ImageOutcome]:
    try:
        pixels = reading.result()
        counted = yield from counter.count(pixels)
        files = counter.write(output, image.name, pixels, counted)
        row = _row(counter.result(counted))
        _mark_done(image, output, counter, files, row)
    except MemoryError:
        return ImageOutcome(image, error="It does not fit into memory. Convert it to a .zarr folder.")
    except Exception as error:  # noqa: BLE001 - whatever ails one image, the others are still counted
        return ImageOutcome(image, error=error_line(error))
    return ImageOutcome(image, row)


def _row(result: Result) -> dict[str, Any]:
    row: dict[str, Any] = {"model": result.provenance.model, "count": plain_count(result.count)}
    if result.interval:
        row["low"], row["high"] = (round(end, 1) for end in result.interval)
    if result.fit is not None:
        row |= {"fit": round(result.fit, 3), "expectation": expectation(result.fit)}
    row |= {f"count_{name}": n for name, n in class_counts(result).items()}
    row["seconds"] = round(result.provenance.seconds, 3)
    row["notices"] = " ".join(result.notices)
    return row


def _read(image: ListedImage) -> Image:
    read = read_image(image.path)
    n_bytes = int(np.prod(read.shape)) * np.dtype(read.data.dtype).itemsize
    if n_bytes > READ_AHEAD_BYTES:
        return read
    return replace(read, data=read.read())


class _Source(NamedTuple):
    """By what a file is known again."""

    path: str
    n_bytes: int
    changed_ns: int


def _source_of(image: ListedImage) -> _Source:
    facts = image.path.stat()
    return _Source(str(image.path.resolve()), facts.st_size, facts.st_mtime_ns)


def _done_before(image: ListedImage, output: Path, counter: Counter[Any]) -> ImageOutcome | None:
    """Return what an earlier run found, where its files are still whole and it would find the same."""
    try:
        kept = json.loads(_mark(image, output).read_text(encoding="utf-8"))
        is_same = kept["counter"] == counter.fingerprint and kept["source"] == list(_source_of(image))
        is_whole = all((output / name).stat().st_size == size for name, size in kept["files"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not (is_same and is_whole):
        return None
    return ImageOutcome(image, kept["row"], was_done=True)


def _mark_done(
    image: ListedImage, output: Path, counter: Counter[Any], files: Sequence[Path], row: Mapping[str, Any]
) -> None:
    sizes = {path.relative_to(output).as_posix(): path.stat().st_size for path in files}
    facts = {"source": _source_of(image), "counter": counter.fingerprint, "files": sizes, "row": row}
    write_text(_mark(image, output), json.dumps(facts))


def _mark(image: ListedImage, output: Path) -> Path:
    return output / KEPT / f"{image.name}.json"


@contextmanager
def _only_run(output: Path) -> Iterator[None]:
    make_folder(output / KEPT)
    lock = acquire_lock(output / KEPT / "lock")
    if lock is None:
        raise WriteError(f"Another program is counting into {output}. Wait for it, or choose another folder.")
    try:
        yield
    finally:
        lock.release()
