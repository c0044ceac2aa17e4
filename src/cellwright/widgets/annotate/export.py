"""Taking an annotation out of the viewer: into a dataset to train on, or into the files of other programs.

Files are written beside the viewer, from a copy of the annotation, which can be edited on meanwhile.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject
from qtpy.QtWidgets import QFileDialog

from cellwright.annotation.export import WRITE, ExportSettings, dataset_task, file_task
from cellwright.annotation.session import AnnotationSession
from cellwright.core.tasks import Task
from cellwright.files.formats.registry import FORMATS, Format

if TYPE_CHECKING:
    from cellwright.widgets.annotate.widget import AnnotateWidget

SPLITS = ("train", "val", "test")


class Exporter(QObject):
    """Exports what an annotation widget has open, and shows in its panel how far it is and what became of it.

    Parameters
    ----------
    widget
        Whose session is exported.
    """

    def __init__(self, widget: "AnnotateWidget") -> None:
        super().__init__(widget)
        self._widget = widget
        panel, part = widget.panel, widget.panel.exports
        part.split.addItems(SPLITS)
        for one in FORMATS.values():
            part.format.addItem(one.title, one.name)
        part.to_dataset.clicked.connect(self._on_export_clicked)
        part.save_as.clicked.connect(self._on_save_clicked)
        part.job.failed.connect(widget.show_error)
        part.job.cancelled.connect(lambda: panel.show_message("Cancelled; nothing was exported."))
        part.job.finished.connect(lambda: self._enable(is_on=True))

    def _on_export_clicked(self) -> None:
        folder = QFileDialog.getExistingDirectory(self._widget, "Dataset folder")
        if folder:
            self.to_dataset(Path(folder))

    def _on_save_clicked(self) -> None:
        session = self._widget.session
        if session is None:
            return
        chosen = FORMATS[self._widget.panel.exports.format.currentData()]
        start = proposed(chosen, session)
        path, _ = QFileDialog.getSaveFileName(self._widget, f"Save as {chosen.title}", start)
        if path:
            self.to_file(Path(path))

    def to_dataset(self, folder: Path) -> None:
        """Add the annotation as it is now to a dataset folder, with the settings of the panel."""
        part = self._widget.panel.exports
        settings = ExportSettings(split=part.split.currentText(), is_complete=part.complete.isChecked())
        may_replace = part.replaces.isChecked()
        session = self._copy()
        if session is not None:
            task = dataset_task(session, folder, settings, may_replace=may_replace)
            self._start(task, lambda names: f"Exported {', '.join(names)} to {folder}")

    def to_file(self, path: Path) -> None:
        """Write the annotation as it is now in the chosen format."""
        session = self._copy()
        if session is not None:
            task = file_task(session, path, self._widget.panel.exports.format.currentData())
            self._start(task, lambda _: f"Saved {path}", last=WRITE)

    def _copy(self) -> AnnotationSession | None:
        """Return what is exported, which edits from now on do not reach."""
        panel, session = self._widget.panel, self._widget.session
        if session is None:
            panel.show_message("Start an annotation first; then it can be exported.", is_error=True)
            return None
        return None if panel.exports.job.is_busy else session.copy()

    def _start(self, task: Task[Any], line: Callable[[Any], str], last: str = "") -> None:
        panel = self._widget.panel
        panel.show_message("")
        self._enable(is_on=False)
        panel.exports.job.start(task, lambda found: panel.show_message(line(found)), last)

    def _enable(self, *, is_on: bool) -> None:
        for button in (self._widget.panel.exports.to_dataset, self._widget.panel.exports.save_as):
            button.setEnabled(is_on)


def proposed(chosen: Format, session: AnnotationSession) -> str:
    """Return a name for the file of a session: the image's, ending as the format's files do."""
    return session.image.name + (chosen.extensions[0] if chosen.extensions else f"_{chosen.name}")
