"""Taking an annotation out of the viewer: into a dataset to train on, or into the files of other programs.

Files are written beside the viewer, from a copy of the annotation, which can be edited on meanwhile.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject
from qtpy.QtWidgets import QFileDialog

from cellwright.annotation.export import WRITE, ExportSettings, dataset_task, file_task
from cellwright.annotation.session import AnnotationSession
from cellwright.core.errors import AnnotationError
from cellwright.core.tasks import Task
from cellwright.files.formats.registry import FORMATS, Format
from cellwright.widgets.annotate.model import AnnotateModel
from cellwright.widgets.annotate.view import ExportSection
from cellwright.widgets.shared.layer_dataset import one_channel
from cellwright.widgets.shared.napari_private import ask_to_save

UNKNOWN = (
    "Only a part of the image was counted, and no region shows where every cell is annotated: nothing is "
    "treated as background."
)
SPLITS = {
    "train: learn from it": "train",
    "val: check while learning": "val",
    "test: score at the end": "test",
}


class Exporter(QObject):
    """Exports the open annotation, and tells what became of it."""

    def __init__(self, model: AnnotateModel, section: ExportSection) -> None:
        super().__init__(section)
        self._model, self._section = model, section
        section.split.fill(SPLITS.items())
        section.format.fill((one.title, one.name) for one in FORMATS.values())
        section.to_dataset.clicked.connect(self._on_export_clicked)
        section.save_as.clicked.connect(self._on_save_clicked)
        section.job.failed.connect(model.fail)
        section.job.cancelled.connect(lambda: model.tell("Cancelled; nothing was exported."))
        section.job.finished.connect(lambda: self._enable(is_on=True))

    def _on_export_clicked(self) -> None:
        folder = QFileDialog.getExistingDirectory(self._section, "Dataset folder")
        if folder:
            self.to_dataset(Path(folder))

    def _on_save_clicked(self) -> None:
        session = self._model.session
        if session is None:
            return
        chosen = FORMATS[self._section.format.currentData()]
        path = ask_to_save(self._section, f"Save as {chosen.title}", proposed(chosen, session))
        if path:
            self.to_file(path)

    def to_dataset(self, folder: Path) -> None:
        """Add the annotation as it is now to a dataset folder, with the settings of the panel."""
        part, session = self._section, self._copy()
        if session is not None:
            session.image = one_channel(session.image, self._model.channel_index)  # the one it is to teach
            is_unknown = session.metadata.is_part and not session.metadata.regions
            is_complete = part.complete.isChecked() and not is_unknown
            settings = ExportSettings(split=part.split.currentData(), is_complete=is_complete)
            task = dataset_task(session, folder, settings, may_replace=part.replaces.isChecked())
            where = f"{folder}. {UNKNOWN}" if is_unknown else str(folder)
            self._start(task, lambda names: f"Exported {', '.join(names)} to {where}")

    def to_file(self, path: Path) -> None:
        """Write the annotation as it is now in the chosen format."""
        session = self._copy()
        if session is not None:
            task = file_task(session, path, self._section.format.currentData())
            self._start(task, lambda _: f"Saved {path}", last=WRITE)

    def _copy(self) -> AnnotationSession | None:
        """Return what is exported, which edits from now on do not reach."""
        session = self._model.session
        if session is None:
            self._model.fail(AnnotationError("Start an annotation first; then it can be exported."))
            return None
        if self._section.job.is_busy:
            return None
        return session.copy()

    def _start(self, task: Task[Any], line: Callable[[Any], str], last: str = "") -> None:
        self._model.tell("")
        self._enable(is_on=False)
        self._section.job.start(task, lambda found: self._model.tell(line(found)), last)

    def _enable(self, *, is_on: bool) -> None:
        for button in (self._section.to_dataset, self._section.save_as):
            button.setEnabled(is_on)


def proposed(chosen: Format, session: AnnotationSession) -> str:
    """Return a name for the file of a session: the image's, ending as the format's files do."""
    if chosen.name == "ome-tiff":
        return f"{session.image.name}_labels.ome.tif"  # by which they open as labels
    if chosen.extensions:
        return session.image.name + chosen.extensions[0]
    return f"{session.image.name}_{chosen.name}"
