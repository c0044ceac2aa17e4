"""Saving what was counted as a table, beside the viewer: a million cells take seconds to write."""

from pathlib import Path

from qtpy.QtCore import QObject
from qtpy.QtWidgets import QAbstractButton, QFileDialog

from cellwright.core.data import Result
from cellwright.core.tasks import Progress, Task
from cellwright.files.tables import write_table
from cellwright.widgets.count.model import CountModel
from cellwright.widgets.shared.jobs import Job


class SaveTool(QObject):
    """Asks for a file and writes the last count to it; its button keeps it alive."""

    def __init__(self, model: CountModel, button: QAbstractButton) -> None:
        super().__init__(button)
        self._model, self._button = model, button
        button.clicked.connect(self.ask)
        self.job: Job | None = None

    def ask(self) -> None:
        """Let the user choose a file, and save to it."""
        if self._model.outcome is None:
            return
        name = f"{self._model.outcome.request.source.image.name}.cells.csv"
        path, _ = QFileDialog.getSaveFileName(self._button, "Save cells", name, "Table (*.csv)")
        if path:
            self.start(Path(path))

    def start(self, path: Path) -> None:
        """Write the cells of the last count as CSV and tell where, or why not."""
        if self._model.outcome is None:
            self._model.tell("There are no cells to save yet; count them first.", is_error=True)
            return
        if self.job is not None:
            self._model.tell("The last table is still being saved; try again in a moment.")
            return
        self._model.tell(f"Saving {path}…")
        self.job = Job(_save_task(path, self._model.outcome.result), self)
        self.job.returned.connect(lambda saved: self._model.tell(f"Saved {saved}"))
        self.job.failed.connect(lambda error: self._model.fail(error, "Saving"))
        self.job.finished.connect(self._on_job_finished)
        self.job.start()

    def _on_job_finished(self) -> None:
        self.job = None


def _save_task(path: Path, result: Result) -> Task[Path]:
    yield Progress("save", 0, 1)
    write_table(path, result)
    return path
