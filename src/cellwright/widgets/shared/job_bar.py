"""A long job of a panel, or of one part of it: its button, its bar, the time left and its Cancel button."""

import time
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QProgressBar, QPushButton, QWidget

from cellwright.core.tasks import Eta, Progress, Task
from cellwright.widgets.shared.jobs import Job
from cellwright.widgets.shared.messages import REDRAW_S, progress_line
from cellwright.widgets.shared.style import button, row, set_state, stack, wrapped_label

FULL = 1000


class RunButton(QPushButton):
    """Starts a job, and stops it while it runs, when it has another text, help and colour."""

    def __init__(self, start: tuple[str, str], stop: tuple[str, str]) -> None:
        super().__init__()
        self._texts = {False: start, True: stop}
        self.setObjectName("count")
        self.show_running(is_running=False)

    def show_running(self, *, is_running: bool) -> None:
        """Offer to stop, or to start again."""
        text, help_text = self._texts[is_running]
        self.setText(text)
        self.setToolTip(help_text)
        self.setEnabled(True)
        set_state(self, "running", on=is_running)

    def show_stopping(self, text: str) -> None:
        """Tell that the job was asked to stop."""
        self.setText(text)
        self.setEnabled(False)


class JobBar(QWidget):
    """Runs one task at a time beside the viewer; out of sight while nothing runs.

    Parameters
    ----------
    has_stop
        Whether it has a Cancel button of its own.
    describe
        Gives the line of a step and the seconds left.
    stages
        Those that move the bar, a step of which is told at once; all when left out.
    """

    started = Signal()
    progressed = Signal(object)  # Progress, each of them
    failed = Signal(object)  # Exception
    cancelled = Signal()
    finished = Signal()  # a job has ended, well or not

    def __init__(
        self,
        *,
        has_stop: bool = True,
        describe: Callable[[Progress, float | None], str] = progress_line,
        stages: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self._describe, self._stages = describe, stages
        self.job: Job | None = None
        self.line, self.bar = wrapped_label(), QProgressBar()
        self.stop = button("Cancel", "Stop at the next step; nothing is changed.")
        self.bar.setRange(0, FULL)
        self.bar.setTextVisible(False)
        self.stop.setVisible(has_stop)
        self.stop.clicked.connect(self.cancel)
        stack(self.line, row(self.bar, self.stop), into=self, spacing_px=2)
        self.hide()

    @property
    def is_busy(self) -> bool:
        """Whether a job is running."""
        return self.job is not None

    def start(self, task: Task[Any], on_returned: Callable[[Any], None], last: str = "") -> None:
        """Run a task; ``on_returned`` is given what it returns. Ignored while another one runs.

        From its stage ``last`` on, the task can no longer be cancelled.
        """
        if self.job is not None:
            task.close()
            return
        self._eta, self._last, self._stage, self._told = Eta(), last, "", 0.0
        self.bar.setValue(0)
        self.line.setText("")
        self.stop.setEnabled(True)
        self.show()
        self.started.emit()
        self.job = Job(task, self)
        self.job.progressed.connect(self._on_job_progressed)
        self.job.returned.connect(on_returned)
        self.job.failed.connect(self.failed)
        self.job.cancelled.connect(self.cancelled)
        self.job.finished.connect(self._on_job_finished)
        self.job.start()

    def cancel(self) -> None:
        """Ask the job to stop at its next step."""
        if self.job is not None:
            self.stop.setEnabled(False)
            self.line.setText("Cancelling…")
            self.job.cancel()

    def _on_job_progressed(self, progress: Progress) -> None:
        self.progressed.emit(progress)
        seconds_left = self._eta.seconds_left(progress)
        now = time.monotonic()
        is_news = progress.stage != self._stage or bool(progress.note)
        if self._stages:  # the others follow each other fast
            is_news = progress.stage != self._stage and progress.stage in self._stages
        if not is_news and now - self._told < REDRAW_S:
            return
        self._stage, self._told = progress.stage, now
        if not self._stages or progress.stage in self._stages:
            self.bar.setValue(round(FULL * progress.fraction))
        self.line.setText(self._describe(progress, seconds_left))
        self.stop.setEnabled(progress.stage != self._last)

    def _on_job_finished(self) -> None:
        self.job = None
        self.hide()
        self.finished.emit()
