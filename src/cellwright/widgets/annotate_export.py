"""Taking an annotation out of the viewer: into a dataset to train on, or into the files of other programs."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject
from qtpy.QtWidgets import QFileDialog

from cellwright.errors import CellwrightError
from cellwright.io.formats.registry import FORMATS, Format
from cellwright.session.annotation import AnnotationSession
from cellwright.session.export import ExportSettings, to_dataset, to_file

if TYPE_CHECKING:
    from cellwright.widgets.annotate import AnnotateWidget

SPLITS = ("train", "val", "test")


class Exporter(QObject):
    """Exports what an annotation widget has open, and tells in its panel what became of it.

    Parameters
    ----------
    widget
        Whose session is exported.
    """

    def __init__(self, widget: "AnnotateWidget") -> None:
        super().__init__(widget)
        self._widget = widget
        panel = widget.panel
        panel.split.addItems(SPLITS)
        for one in FORMATS.values():
            panel.format.addItem(one.title, one.name)
        panel.export.clicked.connect(self._on_export_clicked)
        panel.save_as.clicked.connect(self._on_save_clicked)

    def _on_export_clicked(self) -> None:
        folder = QFileDialog.getExistingDirectory(self._widget, "Dataset folder")
        if folder:
            self.to_dataset(Path(folder))

    def _on_save_clicked(self) -> None:
        session = self._widget.session
        if session is None:
            return
        chosen = FORMATS[self._widget.panel.format.currentData()]
        start = proposed(chosen, session)
        path, _ = QFileDialog.getSaveFileName(self._widget, f"Save as {chosen.title}", start)
        if path:
            self.to_file(Path(path))

    def to_dataset(self, folder: Path) -> None:
        """Add the annotation to a dataset folder with the settings of the panel."""
        panel = self._widget.panel

        def export(session: AnnotationSession) -> str:
            settings = ExportSettings(split=panel.split.currentText(), is_complete=panel.complete.isChecked())
            names = to_dataset(session, folder, settings, may_replace=panel.replaces.isChecked())
            return f"Exported {', '.join(names)} to {folder}"

        self._try(export)

    def to_file(self, path: Path) -> None:
        """Write the annotation in the chosen format."""
        name = self._widget.panel.format.currentData()

        def save(session: AnnotationSession) -> str:
            to_file(session, path, name)
            return f"Saved {path}"

        self._try(save)

    def _try(self, export: Callable[[AnnotationSession], str]) -> None:
        session = self._widget.session
        if session is None:
            self._widget.panel.show_message(
                "Start an annotation first; then it can be exported.", is_error=True
            )
            return
        try:
            line = export(session)
        except CellwrightError as error:
            self._widget.show_error(error)
        else:
            self._widget.panel.show_message(line)


def proposed(chosen: Format, session: AnnotationSession) -> str:
    """Return a name for the file of a session: the image's, ending as the format's files do."""
    return session.image.name + (chosen.extensions[0] if chosen.extensions else f"_{chosen.name}")
