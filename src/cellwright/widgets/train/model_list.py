"""The user's own models: rename, delete, export, import."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from magicgui.widgets import request_values
from qtpy.QtWidgets import QFileDialog, QInputDialog, QMenu, QMessageBox, QWidget

from cellwright.core.errors import CellwrightError, error_line
from cellwright.core.tasks import Progress, Task, once
from cellwright.models import store
from cellwright.widgets.shared.jobs import JobBar
from cellwright.widgets.shared.model_combos import ModelComboBox, model_events
from cellwright.widgets.shared.napari_private import ask_to_save
from cellwright.widgets.shared.style import FoldedPart, button, even_row, stack

ARCHIVE = "Exported model (*.zip)"
LICENCE = "BSD-3-Clause"
LICENCE_HELP = "Licence under which others may use the model, by its short name (SPDX)."


@dataclass(frozen=True, slots=True)
class ZooDetails:
    """What a package of the BioImage Model Zoo says of its origin; ``licence`` is an SPDX identifier."""

    authors: tuple[str, ...]
    licence: str = LICENCE


class OwnModels(QWidget):
    """A box of the user's models and what can be done with the chosen one."""

    def __init__(self, tell: Callable[..., None]) -> None:
        super().__init__()
        self._tell = tell
        self.box = ModelComboBox(
            "Your own models: trained here, or imported.",
            accepts=lambda entry: entry.folder.parent == store.user_folder(),
            otherwise="none yet",
        )
        self.job = JobBar()
        self.rename = button("Rename…", "Give the model another name.")
        self.delete = button("Delete…", "Delete the model, after asking you.")
        self.export = button("Export…", "Write the model as one file, to share it.")
        self.add = button("Import…", "Add a model that was exported, or a model folder, to yours.")
        content = QWidget()
        buttons = even_row(self.rename, self.delete, self.export, self.add)
        stack(self.box.with_card(), buttons, self.job, into=content)
        self.collapsible = FoldedPart("My models", content)
        stack(self.collapsible, into=self)
        self.rename.clicked.connect(self._on_rename_clicked)
        self.delete.clicked.connect(self._on_delete_clicked)
        exports, imports = QMenu(self.export), QMenu(self.add)
        exports.addAction("For cellwright…", self._on_export_chosen)
        exports.addAction("For the BioImage Model Zoo…", self._on_zoo_export_chosen)
        imports.addAction("From a file…", self._on_import_file_chosen)
        imports.addAction("From a folder…", self._on_import_folder_chosen)
        self.export.setMenu(exports)
        self.add.setMenu(imports)
        self.job.failed.connect(lambda error: self._tell(error_line(error), is_error=True))
        self.job.finished.connect(self._show_enabled)
        self.box.chosen.connect(self._show_enabled)
        self._show_enabled()

    @property
    def chosen(self) -> str:
        """Name of the chosen model; empty when there is none."""
        return str(self.box.currentData() or "")

    def rename_to(self, new: str) -> None:
        """Give the chosen model another name."""
        self._do(lambda: store.rename(self.chosen, new), new, f"Renamed to {new}.")

    def delete_chosen(self) -> None:
        """Delete the chosen model, having asked before."""
        name = self.chosen
        self._do(lambda: store.delete(name), name, f"Deleted {name}.")

    def export_to(self, path: Path, zoo: ZooDetails | None = None) -> None:
        """Write the chosen model as one file; with details as a package of the BioImage Model Zoo."""
        self._start(export_task(self.chosen, path, zoo), lambda _: self._tell(f"Written to {path}."))

    def import_from(self, path: Path, name: str = "") -> None:
        """Add an exported model or a model folder to the user's, under a name or that of the file."""
        task = once("import", lambda: store.import_model(path, name).name, f"reading {path.name}")
        self._start(task, self._on_imported)

    def _on_imported(self, name: str) -> None:
        self._announce(name)
        self._tell(f"Imported {name}.")

    def _start(self, task: Task[str], on_returned: Callable[[str], None]) -> None:
        self.job.start(task, on_returned)
        self._show_enabled()

    def _do(self, action: Callable[[], object], name: str, line: str) -> None:
        try:
            action()
        except CellwrightError as error:
            self._tell(str(error), is_error=True)
            return
        self._announce(name)
        self._tell(line)

    def _announce(self, name: str) -> None:
        self.box.refresh(name)
        model_events.changed.emit()

    def _show_enabled(self) -> None:
        is_free = not self.job.is_busy
        for made in (self.rename, self.delete, self.export):
            made.setEnabled(is_free and bool(self.chosen))
        self.add.setEnabled(is_free)

    def _on_rename_clicked(self) -> None:
        new, is_given = QInputDialog.getText(self, "Rename", "New name:", text=self.chosen)
        if is_given and new.strip() != self.chosen:
            self.rename_to(new.strip())

    def _on_delete_clicked(self) -> None:
        question = f"Delete the model {self.chosen!r}? It cannot be brought back."
        if QMessageBox.question(self, "Delete a model", question) == QMessageBox.StandardButton.Yes:
            self.delete_chosen()

    def _on_export_chosen(self) -> None:
        path, _ = ask_to_save(self, "Export a model", f"{self.chosen}.zip", ARCHIVE)
        if path:
            self.export_to(Path(path))

    def _on_zoo_export_chosen(self) -> None:
        given = request_values(
            title="Package for the BioImage Model Zoo",
            parent=self,
            authors={"annotation": str, "options": {"tooltip": "Names, separated by commas."}},
            licence={"annotation": str, "value": LICENCE, "options": {"tooltip": LICENCE_HELP}},
        )
        if given is None:
            return
        names = (name.strip() for name in given["authors"].split(","))
        details = ZooDetails(tuple(filter(None, names)), given["licence"].strip() or LICENCE)
        path, _ = ask_to_save(self, "Export a package for the zoo", f"{self.chosen}-zoo.zip", ARCHIVE)
        if path:
            self.export_to(Path(path), details)

    def _on_import_file_chosen(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Import a model", "", ARCHIVE)
        self._ask_name_and_import(path)

    def _on_import_folder_chosen(self) -> None:
        self._ask_name_and_import(QFileDialog.getExistingDirectory(self, "Model folder"))

    def _ask_name_and_import(self, path: str) -> None:
        if not path:
            return
        name, is_given = QInputDialog.getText(self, "Import a model", "Name:", text=Path(path).stem)
        if is_given:
            self.import_from(Path(path), name.strip())


def export_task(name: str, path: Path, zoo: ZooDetails | None) -> Task[str]:
    """Write a model as one file and return where; see ``models.store`` and ``models.zoo``."""
    yield Progress("export", 0, 1, f"writing {path.name}")
    if zoo is None:
        return str(store.export_model(name, path))
    from cellwright.models.zoo import export_package

    return str(export_package(name, path, authors=zoo.authors, licence=zoo.licence))
