"""Long jobs beside the viewer: a task in napari's thread pool, its steps and its outcome as Qt signals.

Where a slider moves, the latest setting wins.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from napari.qt.threading import WorkerBase, WorkerBaseSignals
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]
from superqt.utils import QSignalDebouncer

from cellwright.core.errors import JobError
from cellwright.core.tasks import Progress, Task

DEBOUNCE_MS = 60


class Job(QObject):
    """Runs one task in a worker thread and tells the GUI thread how it goes.

    Exactly one of ``returned``, ``failed`` and ``cancelled`` is emitted, then ``finished``, then the job is
    deleted. One that has begun lives until its task has ended, for a thread that sends to an object while Qt
    deletes it crashes.

    Parameters
    ----------
    task
        Drained in the worker thread, and closed there whatever the outcome, so that what it holds (memory
        of a GPU, say) is free before the outcome is told.
    owner
        Whom it works for. When Qt deletes the owner, the task stops at its next step and nothing more is
        told.
    """

    progressed = Signal(object)  # Progress
    returned = Signal(object)  # what the task returned
    failed = Signal(object)  # Exception
    cancelled = Signal()
    finished = Signal()

    def __init__(self, task: Task[Any], owner: QObject | None = None) -> None:
        super().__init__()
        self._has_outcome = self._is_orphan = False
        if owner is not None:
            QObject(owner).destroyed.connect(self._on_owner_gone)
        self._worker = _TaskWorker(task)
        self._worker.yielded.connect(self._on_worker_yielded)
        self._worker.returned.connect(self._on_worker_returned)
        self._worker.errored.connect(self._on_worker_errored)
        self._worker.finished.connect(self._on_worker_finished)

    def start(self) -> None:
        """Begin; returns at once."""
        self._worker.job = self
        self._worker.start()

    def cancel(self) -> None:
        """Ask the task to stop at its next step; ``cancelled`` follows once it has."""
        self._worker.quit()

    def _on_owner_gone(self) -> None:
        self._is_orphan = True
        self._worker.quit()

    def _on_worker_yielded(self, progress: Progress) -> None:
        if not self._worker.abort_requested:
            self.progressed.emit(progress)

    def _on_worker_returned(self, value: object) -> None:
        if not self._worker.abort_requested:  # cancelled after the last step: the user no longer wants it
            self._has_outcome = True
            self.returned.emit(value)

    def _on_worker_errored(self, error: Exception) -> None:
        if not self._is_orphan:
            self._has_outcome = True
            self.failed.emit(error)

    def _on_worker_finished(self) -> None:
        self._worker.job = None
        if self._is_orphan:
            return
        if not self._has_outcome:
            self.cancelled.emit()
        self.finished.emit()
        self.deleteLater()


class _WorkerSignals(WorkerBaseSignals):  # type: ignore[misc]  # napari is untyped to mypy
    yielded = Signal(object)


class _TaskWorker(WorkerBase):  # type: ignore[misc]
    """Drains a task; all its errors arrive (superqt's generator worker swallows torch's RuntimeError)."""

    def __init__(self, task: Task[Any]) -> None:
        super().__init__(SignalsClass=_WorkerSignals)
        self._task = task
        self.job: Job | None = None  # kept while the thread sends to it

    def run(self) -> None:
        """Run in a thread of the pool; called by Qt."""
        with suppress(RuntimeError):  # the application has quit, and the signals with it: nobody listens
            super().run()

    def work(self) -> Any:
        """Return what the task returns, or None when the worker was asked to quit."""
        try:
            return self._drain()
        except RuntimeError as error:
            raise JobError(f"{type(error).__name__}: {error}") from error
        finally:
            self._task.close()

    def _drain(self) -> Any:
        while not self.abort_requested:
            try:
                self.yielded.emit(next(self._task))
            except StopIteration as end:
                return end.value
        return None


def debouncer(parent: QObject, wait_ms: int, slot: Callable[[], Any]) -> QSignalDebouncer:
    """Return what calls a slot once, so long after the last ``throttle()``."""
    made = QSignalDebouncer(parent=parent)
    made.setTimeout(wait_ms)
    made.triggered.connect(slot)
    return made


class LiveUpdater(QObject):
    """Runs the task asked for last; tasks asked for while one runs replace each other."""

    updated = Signal(object)  # what the task returned
    failed = Signal(object)  # Exception

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._wanted: Callable[[], Task[Any]] | None = None
        self._job: Job | None = None
        self._debouncer = debouncer(self, DEBOUNCE_MS, self._start_wanted)

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
