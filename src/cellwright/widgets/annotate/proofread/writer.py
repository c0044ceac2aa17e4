"""Labels on their way to disk: written beside the viewer, and in any case before the program ends."""

import atexit
import logging
from collections import deque
from pathlib import Path
from threading import Lock

from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]

from cellwright.core.data import Image, Labels
from cellwright.core.errors import CellwrightError
from cellwright.core.tasks import Progress, Task
from cellwright.files.images import write_labels
from cellwright.widgets.shared.jobs import Job

logger = logging.getLogger(__name__)


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
