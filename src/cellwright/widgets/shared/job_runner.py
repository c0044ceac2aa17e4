"""One long job at a time for a panel: its progress bar, its Cancel button, its outcome."""

import time
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]

from cellwright.core.tasks import Eta, Progress, Task
from cellwright.widgets.count.count_request import progress_line
from cellwright.widgets.count.view import CountPanel
from cellwright.widgets.shared.jobs import Job

REDRAW_S = 0.25  # a redraw of the panel redraws napari's whole window, slow without a GPU


class Runner(QObject):
    """Runs a task beside the viewer and shows in the panel how far it is.

    Parameters
    ----------
    panel
        Whose bar, count button and message are used.
    """

    failed = Signal(object)  # Exception
    finished = Signal()  # a job has ended, well or not

    def __init__(self, panel: CountPanel) -> None:
        super().__init__(panel)
        self._panel = panel
        self.job: Job | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a job is running."""
        return self.job is not None

    def start(self, task: Task[Any], on_returned: Callable[[Any], None]) -> None:
        """Run a task; ``on_returned`` is given what it returns. Ignored while another one runs."""
        if self.job is not None:
            task.close()
            return
        self._panel.show_message("")
        self._panel.show_running(is_running=True)
        self._eta, self._stage, self._told = Eta(), "", 0.0
        self.job = Job(task, self)
        self.job.progressed.connect(self._on_job_progressed)
        self.job.returned.connect(on_returned)
        self.job.failed.connect(self.failed)
        self.job.cancelled.connect(self._on_job_cancelled)
        self.job.finished.connect(self._on_job_finished)
        self.job.start()

    def cancel(self) -> None:
        """Ask the job to stop at its next step."""
        if self.job is not None:
            self.job.cancel()
            self._panel.count.setText("Cancelling…")
            self._panel.count.setEnabled(False)

    def _on_job_progressed(self, progress: Progress) -> None:
        seconds_left = self._eta.seconds_left(progress)
        now = time.monotonic()
        if progress.stage == self._stage and not progress.note and now - self._told < REDRAW_S:
            return
        self._stage, self._told = progress.stage, now
        self._panel.show_progress(progress.fraction, progress_line(progress, seconds_left))

    def _on_job_cancelled(self) -> None:
        self._panel.show_message("Cancelled; nothing was changed.")

    def _on_job_finished(self) -> None:
        self.job = None
        self._panel.show_running(is_running=False)
        self.finished.emit()
