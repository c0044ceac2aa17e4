"""While a slider moves, cells are found anew in the background; the latest setting wins."""

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]
from superqt.utils import QSignalDebouncer

from cellwright.core.tasks import Task
from cellwright.widgets.shared.jobs import Job

DEBOUNCE_MS = 60


class LiveUpdater(QObject):
    """Runs the task asked for last; tasks asked for while one runs replace each other.

    Parameters
    ----------
    parent
        Keeps it alive.
    """

    updated = Signal(object)  # what the task returned
    failed = Signal(object)  # Exception

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._wanted: Callable[[], Task[Any]] | None = None
        self._job: Job | None = None
        self._debouncer = QSignalDebouncer(parent=self)
        self._debouncer.setTimeout(DEBOUNCE_MS)
        self._debouncer.triggered.connect(self._start_wanted)

    @property
    def is_busy(self) -> bool:
        """Whether something is running or waiting to."""
        return self._job is not None or self._wanted is not None

    def request(self, make_task: Callable[[], Task[Any]]) -> None:
        """Run the task this makes, soon, unless another is asked for before."""
        self._wanted = make_task
        self._debouncer.throttle()

    def forget(self) -> None:
        """Take back what was asked for, running or not."""
        self._wanted = None
        self._debouncer.cancel()
        if self._job is not None:
            self._job.cancel()

    def _start_wanted(self) -> None:
        if self._job is not None or self._wanted is None:
            return
        self._job, self._wanted = Job(self._wanted(), self), None
        self._job.returned.connect(self.updated)
        self._job.failed.connect(self.failed)
        self._job.finished.connect(self._on_job_finished)
        self._job.start()

    def _on_job_finished(self) -> None:
        self._job = None
        if self._wanted is not None:
            self._debouncer.throttle()
