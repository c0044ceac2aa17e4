"""What proofreading leaves in a folder: a table of counts, and the labels of each image.

Labels are written beside the viewer, and in any case before the program ends.
"""

import atexit
import csv
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]

from cellwright.core.data import Image, Labels
from cellwright.core.errors import CellwrightError, ReadError, WriteError
from cellwright.core.tasks import Progress, Task
from cellwright.files.atomic import atomic_write
from cellwright.files.images import write_labels
from cellwright.widgets.shared.jobs import Job

logger = logging.getLogger(__name__)

COUNTS = "counts.csv"
COLUMNS = ("name", "found", "cells", "reviewed")


@dataclass(frozen=True, slots=True)
class Tally:
    """The cells of one image: how many the model found (-1: not asked), there are now, are reviewed."""

    found: int = -1
    cells: int = -1
    reviewed: int = 0


def read_counts(path: Path) -> dict[str, Tally]:
    """Return the counts of an earlier time, none where there are none.

    Raises
    ------
    ReadError
        The file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {
            row["name"]: Tally(int(row["found"] or -1), int(row["cells"] or -1), int(row["reviewed"] or 0))
            for row in rows
        }
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ReadError(
            f"Expected columns {', '.join(COLUMNS)} in {path}; got: {error!r}. Remove it to begin anew."
        ) from error


def write_counts(path: Path, images: list[Path], tallies: Mapping[str, Tally]) -> None:
    """Write the counts of all images that have been open.

    Raises
    ------
    WriteError
        The folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for image in images:
                tally = tallies.get(image.stem)
                if tally is not None:
                    values = (tally.found, tally.cells)
                    shown = ["" if value < 0 else value for value in values]
                    writer.writerow([image.stem, *shown, tally.reviewed])
    except OSError as error:
        raise WriteError(
            f"Expected to write {path}; got: {error.strerror or error}. Make room, or choose another folder."
        ) from error


class Writes:
    """Files that are to be written, in the order in which they came; any thread may write them."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Path, Labels, Image]] = deque()
        self._lock = Lock()
        self.errors: dict[Path, CellwrightError] = {}  # of the files that could not be written

    def add(self, path: Path, labels: Labels, image: Image) -> None:
        """Note what is to be written; nobody must change the labels from now on."""
        self._waiting.append((path, labels, image))

    def drain(self) -> None:
        """Write all that waits; what another thread is writing is on disk then too."""
        with self._lock:
            while self._waiting:
                path, labels, image = self._waiting.popleft()
                self.errors.pop(path, None)
                try:
                    write_labels(path, labels, image)
                except CellwrightError as error:
                    self.errors[path] = error
                    logger.warning("Labels were not written", exc_info=error)


class Keeper(QObject):
    """Writes labels beside the viewer.

    A job that has begun is not cancelled, and has no owner that could take it along. One that has not begun
    when napari quits never does: what it was to write is written when the program ends, which waits for it.

    Parameters
    ----------
    parent
        Qt parent.
    """

    changed = Signal()  # something was written, or could not be
    failed = Signal(object)  # Exception that nobody foresaw

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._writes = Writes()
        self._n_jobs = 0
        atexit.register(self._writes.drain)

    @property
    def is_busy(self) -> bool:
        """Whether something is still to be written."""
        return self._n_jobs > 0

    @property
    def errors(self) -> dict[Path, CellwrightError]:
        """Why files could not be written that should have been."""
        return dict(self._writes.errors)

    def keep(self, path: Path, labels: Labels, image: Image) -> None:
        """Write labels, which nobody changes from now on; returns at once."""
        self._writes.add(path, labels, image)
        self._n_jobs += 1
        job = Job(_write_task(self._writes))
        job.failed.connect(self.failed)
        job.finished.connect(self._on_job_finished)
        job.start()

    def _on_job_finished(self) -> None:
        self._n_jobs -= 1
        self.changed.emit()


def _write_task(writes: Writes) -> Task[None]:
    writes.drain()
    yield Progress("write", 1, 1)
