"""Long jobs beside the viewer: a task in napari's thread pool, its steps and its outcome as Qt signals.

A panel shows one with its button, its bar, the time left and its Cancel button. Where a slider moves, the
latest setting wins.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Self
from weakref import WeakSet

from napari.layers import Layer
from napari.qt.threading import WorkerBase, WorkerBaseSignals
from qtpy.QtCore import QObject, Signal
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QProgressBar, QWidget
from superqt.utils import QSignalDebouncer

from cellwright.core.errors import JobError
from cellwright.core.tasks import Eta, Progress, Task
from cellwright.widgets.shared.flow import WrappedButton
from cellwright.widgets.shared.messages import REDRAW_S, progress_line
from cellwright.widgets.shared.panel_area import scroll_to
from cellwright.widgets.shared.style import button, row, set_state, stack, wrapped_label

DEBOUNCE_MS = 60
FULL = 1000  # of a bar


class Job(QObject):
    """Runs one task in a worker thread and tells the GUI thread how it goes.

    Exactly one of ``returned``, ``failed`` and ``cancelled`` is emitted, then ``finished``, then the job is
    deleted. One that has begun lives until its task has ended, for a thread that sends to an object while Qt
    deletes it crashes.

    The task is drained in the worker thread, and closed there whatever the outcome, so that what it holds
    (memory of a GPU, say) is free before the outcome is told. When Qt deletes the ``owner``, whom it works
    for, the task stops at its next step and nothing more is told.
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

    def start(self, **slots: Any) -> Self:  # signals are no Callable to mypy
        """Begin, with each slot connected to the signal of its name; returns at once."""
        for name, slot in slots.items():
            getattr(self, name).connect(slot)
        self._worker.job = self
        self._worker.start()
        return self

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
            while not self.abort_requested:
                try:
                    self.yielded.emit(next(self._task))
                except StopIteration as end:
                    return end.value
            return None
        except RuntimeError as error:
            raise JobError(f"{type(error).__name__}: {error}") from error
        finally:
            self._task.close()


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
        job, self._wanted = Job(self._wanted(), self), None
        self._job = job.start(returned=self.updated, failed=self.failed, finished=self._on_job_finished)

    def _on_job_finished(self) -> None:
        self._job = None
        if self._wanted is not None:
            self._debouncer.throttle()


class LayerJobs(QObject):
    """Works through layers that have changed one by one, beside the viewer, once they have come to rest.

    ``make_task`` gives None for a layer of which nothing is to be done; ``slots`` are those of a job, and are
    given the layer first.
    """

    def __init__(
        self,
        parent: QObject,
        wait_ms: int,
        make_task: Callable[[Layer], Task[Any] | None],
        **slots: Callable[[Layer, Any], None],
    ) -> None:
        super().__init__(parent)
        self._make_task, self._slots = make_task, slots
        self.waiting: WeakSet[Layer] = WeakSet()
        self.current: Layer | None = None  # what is being worked at
        self._soon = debouncer(self, wait_ms, self._start_next)

    @property
    def is_busy(self) -> bool:
        """Whether a layer is being worked at, or is to be."""
        return self.current is not None or bool(self.waiting)

    def add(self, layer: Layer) -> None:
        """Work at a layer soon."""
        self.waiting.add(layer)
        self._soon.throttle()

    def _start_next(self) -> None:
        if self.current is not None:
            return
        for layer in list(self.waiting):
            self.waiting.discard(layer)
            task = self._make_task(layer)
            if task is not None:
                self.current = layer
                slots = {name: partial(slot, layer) for name, slot in self._slots.items()}
                Job(task, self).start(finished=self._on_finished, **slots)
                return

    def _on_finished(self) -> None:
        self.current = None
        self._soon.throttle()


class RunButton(WrappedButton):
    """Starts a job, and stops it while it runs, when it has another text, help and colour.

    ``start`` and ``stop`` are text and help, ``stopping`` the text from the press that stops it until it has.
    """

    started = Signal()
    stopped = Signal()

    def __init__(self, start: tuple[str, str], stop: tuple[str, str], stopping: str) -> None:
        super().__init__()
        self._start_text, self.stop_text, self._stopping, self._is_running = start, stop, stopping, False
        self.setObjectName("count")
        self.show_running(is_running=False)
        self.clicked.connect(self._on_clicked)

    def show_running(self, *, is_running: bool) -> None:
        """Offer to stop, or to start again."""
        self._is_running = is_running
        text, help_text = self._start_text
        if is_running:
            text, help_text = self.stop_text
        self.setText(text)
        self.setToolTip(help_text)
        self.setEnabled(True)
        set_state(self, "running", on=is_running)

    def show_stopping(self) -> None:
        """Tell that the job was asked to stop."""
        self.setText(self._stopping)
        self.setEnabled(False)

    def mouseDoubleClickEvent(self, _: QMouseEvent | None) -> None:
        """Pass over the second half of a double click, which would stop what the first began; Qt calls it."""

    def _on_clicked(self) -> None:
        if self._is_running:
            self.stopped.emit()
        else:
            self.started.emit()


class JobBar(QWidget):
    """Runs one task at a time beside the viewer; out of sight while nothing runs.

    The ``run_button`` starts and stops its jobs; without it the bar has a Cancel button of its own.
    ``describe`` gives the line of a step and the seconds left. ``stages`` are those that move the bar, a step
    of which is told at once; all when left out.
    """

    started = Signal()
    progressed = Signal(object)  # Progress, each of them
    failed = Signal(object)  # Exception
    cancelled = Signal()
    finished = Signal()  # a job has ended, well or not

    def __init__(
        self,
        *,
        run_button: RunButton | None = None,
        describe: Callable[[Progress, float | None], str] = progress_line,
        stages: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self._describe, self._stages = describe, stages
        self.job: Job | None = None
        self._is_followed = False
        self.line, self.bar = wrapped_label(), QProgressBar()
        self.stop = button("Cancel", "Stop at the next step; nothing is changed.")
        self.bar.setRange(0, FULL)
        self.bar.setTextVisible(False)
        self.stop.setVisible(run_button is None)
        self.stop.clicked.connect(self.cancel)
        self._run_button = run_button
        if run_button is not None:
            run_button.stopped.connect(self.cancel)
            self.started.connect(lambda: run_button.show_running(is_running=True))
            self.finished.connect(lambda: run_button.show_running(is_running=False))
        stack(self.line, row(self.bar, self.stop), into=self, spacing_px=2)
        self.hide()

    @property
    def is_busy(self) -> bool:
        """Whether a job is running."""
        return self.job is not None

    def start(
        self,
        task: Task[Any],
        on_returned: Callable[[Any], None],
        last: str = "",
        on_failed: Callable[[Exception], None] | None = None,
    ) -> None:
        """Run a task; ``on_returned`` is given what it returns. Ignored while another one runs.

        From its stage ``last`` on, the task can no longer be cancelled. ``on_failed`` is told of its error in
        the place of ``failed``.
        """
        if self.job is not None:
            task.close()
            return
        self._eta, self._last, self._stage, self._told = Eta(), last, "", 0.0
        self._is_followed = False
        self.bar.setValue(0)
        self.line.setText("")
        self.stop.setEnabled(True)
        self.show()
        self.started.emit()
        self.job = Job(task, self).start(
            progressed=self._on_job_progressed,
            returned=on_returned,
            failed=on_failed or self.failed,
            cancelled=self.cancelled,
            finished=self._on_job_finished,
        )

    def follow(self) -> None:
        """Scroll the panel to the bar, and again when a stage of this job is told in more lines."""
        self._is_followed = True
        scroll_to(self)

    def cancel(self) -> None:
        """Ask the job to stop at its next step."""
        if self.job is not None:
            self.stop.setEnabled(False)
            self.line.setText("Cancelling…")
            self.job.cancel()
            if self._run_button is not None:
                self._run_button.show_stopping()

    def _on_job_progressed(self, progress: Progress) -> None:
        self.progressed.emit(progress)
        seconds_left = self._eta.seconds_left(progress)
        now = time.monotonic()
        is_news = progress.stage != self._stage or bool(progress.note)
        if self._stages:  # the others follow each other fast
            is_news = progress.stage != self._stage and progress.stage in self._stages
        if not is_news and now - self._told < REDRAW_S:
            return
        is_next, self._stage, self._told = progress.stage != self._stage, progress.stage, now
        if not self._stages or progress.stage in self._stages:
            self.bar.setValue(round(FULL * progress.fraction))
        self.line.setText(self._describe(progress, seconds_left))
        self.stop.setEnabled(progress.stage != self._last)
        if is_next and self._is_followed:
            scroll_to(self)

    def _on_job_finished(self) -> None:
        self.job = None
        self.hide()
        self.finished.emit()
