"""The user's own models: rename, delete, share as one file, take in."""

from collections.abc import Callable
from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QGridLayout,
    QInputDialog,
    QMessageBox,
    QPushButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from cellwright.core.errors import CellwrightError
from cellwright.models import store
from cellwright.widgets.shared.combos import fill, model_events, model_help, model_title

KINDS = "Cellwright model (*.zip)"


class OwnModels(QWidget):
    """A box of the user's models and what can be done with the chosen one.

    Parameters
    ----------
    tell
        Shown what was done, and errors.
    """

    def __init__(self, tell: Callable[..., None], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._tell = tell
        self.box = QComboBox()
        self.rename, self.delete = QPushButton("Rename…"), QPushButton("Delete…")
        self.share, self.take = QPushButton("Export…"), QPushButton("Import…")
        self.share.setToolTip("Write the model as one file, to share it.")
        self.take.setToolTip("Add a model that was exported as one file to yours.")
        content = QWidget()
        grid = QGridLayout(content)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.addWidget(self.box, 0, 0, 1, 2)
        for place, button in enumerate((self.rename, self.delete, self.share, self.take)):
            grid.addWidget(button, 1 + place // 2, place % 2)  # four in a row are cut off in a narrow dock
        self.collapsible = QCollapsible("My models", expandedIcon="▾", collapsedIcon="▸")
        self.collapsible.setContent(content)
        self.collapsible.collapse(animate=False)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.collapsible)
        self.rename.clicked.connect(self._on_rename_clicked)
        self.delete.clicked.connect(self._on_delete_clicked)
        self.share.clicked.connect(self._on_share_clicked)
        self.take.clicked.connect(self._on_take_clicked)
        self.refresh()

    @property
    def chosen(self) -> str:
        """Name of the chosen model; empty when there is none."""
        return str(self.box.currentData() or "")

    def refresh(self, wanted: str = "") -> None:
        """List the models in the user's folder."""
        own = [entry for entry in store.models() if entry.folder.parent == store.user_folder()]
        entries = [(model_title(entry.name, entry.spec.family), entry.name) for entry in own]
        fill(self.box, entries, wanted or self.chosen, otherwise="none yet")
        for place, entry in enumerate(own):
            self.box.setItemData(place, model_help(entry.spec), Qt.ItemDataRole.ToolTipRole)
        for button in (self.rename, self.delete, self.share):
            button.setEnabled(bool(own))

    def rename_to(self, new: str) -> None:
        """Give the chosen model another name."""
        self._do(lambda: store.rename(self.chosen, new).name, "Renamed to {}.")

    def delete_chosen(self) -> None:
        """Delete the chosen model, having been asked before."""
        name = self.chosen

        def delete() -> str:
            store.delete(name)
            return name

        self._do(delete, "Deleted {}.")

    def share_to(self, path: Path) -> None:
        """Write the chosen model as one file."""
        self._do(lambda: str(store.export_model(self.chosen, path)), "Written to {}.", is_news=False)

    def take_from(self, path: Path) -> None:
        """Put a shared model among the user's."""
        self._do(lambda: store.import_model(path).name, "Imported {}.")

    def _do(self, action: Callable[[], str], line: str, *, is_news: bool = True) -> None:
        try:
            done = action()
        except CellwrightError as error:
            self._tell(str(error), is_error=True)
            return
        if is_news:
            self.refresh(done)
            model_events.changed.emit()
        self._tell(line.format(done))

    def _on_rename_clicked(self) -> None:
        new, is_given = QInputDialog.getText(self, "Rename", "New name:", text=self.chosen)
        if is_given and new.strip() != self.chosen:
            self.rename_to(new.strip())

    def _on_delete_clicked(self) -> None:
        question = f"Delete the model {self.chosen!r}? It cannot be brought back."
        if QMessageBox.question(self, "Delete a model", question) == QMessageBox.StandardButton.Yes:
            self.delete_chosen()

    def _on_share_clicked(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Export a model", f"{self.chosen}.zip", KINDS)
        if path:
            self.share_to(Path(path))

    def _on_take_clicked(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Import a model", "", KINDS)
        if path:
            self.take_from(Path(path))
