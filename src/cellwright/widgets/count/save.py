"""Saving what was counted as a table, beside the viewer: a million cells take seconds to write."""

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject
from qtpy.QtWidgets import QFileDialog

from cellwright.core.data import Result
from cellwright.core.tasks import Progress, Task
from cellwright.files.tables import write_table
from cellwright.widgets.shared.jobs import Job
from cellwright.widgets.shared.messages import tell_error

if TYPE_CHECKING:
    from cellwright.widgets.count.widget import CountWidget


class SaveTool(QObject):
    """Asks for a file and writes the last count of a widget to it."""

    def __init__(self, widget: "CountWidget") -> None:
        super().__init__(widget)
        self._widget, self._panel = widget, widget.panel
        self.job: Job | None = None

    def ask(self) -> None:
        """Let the user choose a file, and save to it."""
        if self._widget.counted is None:
            return
        name = f"{self._widget.counted.request.source.image.name}.cells.csv"
        path, _ = QFileDialog.getSaveFileName(self._widget, "Save cells", name, "Table (*.csv)")
        if path:
            self.start(Path(path))

    def start(self, path: Path) -> None:
        """Write the cells of the last count as CSV and tell where, or why not."""
        if self._widget.counted is None:
            self._panel.show_message("There are no cells to save yet; count them first.", is_error=True)
            return
        if self.job is not None:
            self._panel.show_message("The last table is still being saved; try again in a moment.")
            return
        self._panel.show_message(f"Saving {path}…")
        self.job = Job(_save_task(path, self._widget.counted.result), self)
        self.job.returned.connect(lambda saved: self._panel.show_message(f"Saved {saved}"))
        self.job.failed.connect(lambda error: tell_error(self._panel, error, "Saving"))
        self.job.finished.connect(self._on_job_finished)
        self.job.start()

    def _on_job_finished(self) -> None:
        self.job = None


def _save_task(path: Path, result: Result) -> Task[Path]:
    yield Progress("save", 0, 1)
    write_table(path, result)
    return path
