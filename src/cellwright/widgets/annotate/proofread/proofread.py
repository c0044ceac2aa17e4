"""Proofreading a folder: image after image, each in the state it was left in, the counts corrected as you go.

::

    <folder>/<image>                         any image ``files.images`` reads
    <folder>/masks/<name>.tif                labels to begin with, if any (also in <folder>/../masks)
    <folder>/cellwright/<name>-*.journal     each image's annotation, edit by edit
    <folder>/cellwright/<name>.tif           its labels when it was last left
    <folder>/cellwright/counts.csv           name, cells the model found, cells now, reviewed
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from napari.layers import Image as ImageLayer
from qtpy.QtCore import QObject, Qt, QTimer, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QFileDialog, QListWidgetItem

from cellwright.core.errors import CellwrightError
from cellwright.widgets.annotate.context import AnnotationContext
from cellwright.widgets.annotate.model import AnnotateModel
from cellwright.widgets.annotate.proofread.images import Read, images_of, read_task
from cellwright.widgets.annotate.proofread.results import COUNTS, Keeper, Tally, read_counts, write_counts
from cellwright.widgets.annotate.session_setup import journal_path, start_or_resume
from cellwright.widgets.annotate.view import FolderSection
from cellwright.widgets.shared.jobs import Job
from cellwright.widgets.shared.layer_io import layer_arguments

OWN_FOLDER = "cellwright"
FOLLOW_MS = 150


class Proofreader(QObject):
    """Steps through the images of a folder, each opened to be annotated.

    Parameters
    ----------
    model
        Opens the annotations, and has the viewer.
    section
        Lists the images.
    """

    opened = Signal(str)  # name of the image that can now be annotated

    def __init__(self, model: AnnotateModel, section: FolderSection) -> None:
        super().__init__(section)
        self._model, self._section = model, section
        self.folder: Path | None = None
        self.images: list[Path] = []
        self.tallies: dict[str, Tally] = {}
        self.index = -1
        self.job: Job | None = None
        self.keeper = Keeper(self)
        self._layer: ImageLayer | None = None
        self._follow = QTimer(self)
        self._follow.setSingleShot(True)
        self._follow.setInterval(FOLLOW_MS)
        self._follow.timeout.connect(self._on_follow)
        part = section
        part.folder.clicked.connect(self._on_folder_clicked)
        part.previous_image.clicked.connect(lambda: self.step(-1))
        part.next_image.clicked.connect(lambda: self.step(1))
        part.files.itemDoubleClicked.connect(lambda item: self.go_to(part.files.row(item)))
        model.events.opened.connect(self._on_opened)
        self.keeper.changed.connect(self._on_kept)
        self.keeper.failed.connect(model.fail)
        self._show()

    def _on_folder_clicked(self) -> None:
        folder = QFileDialog.getExistingDirectory(self._section, "Folder of images")
        if folder:
            self.open(Path(folder))

    def open(self, folder: Path) -> None:
        """List the images of a folder and go to the first that is not reviewed to the end."""
        self.leave()
        try:
            images = images_of(folder)
            tallies = read_counts(folder / OWN_FOLDER / COUNTS)
        except CellwrightError as error:
            self._model.fail(error)
            return
        self.folder, self.images, self.tallies, self.index = folder, images, tallies, -1
        self._show()
        open_ones = [index for index, path in enumerate(images) if not self._is_done(path.stem)]
        self.go_to(open_ones[0] if open_ones else 0)

    def _is_done(self, name: str) -> bool:
        tally = self.tallies.get(name, Tally())
        return 0 <= tally.cells <= tally.reviewed

    def step(self, n: int) -> None:
        """Go ``n`` images on."""
        if self.images:
            self.go_to(min(max(self.index + n, 0), len(self.images) - 1))

    def go_to(self, index: int) -> None:
        """Leave the image that is open, its state kept, and open another."""
        if self.job is not None or not 0 <= index < len(self.images):
            return
        if index == self.index and self._model.session is not None:
            return
        self.leave()
        self.index = index
        path = self.images[index]
        self._show()
        self._model.show_message(f"Opening {path.name} …")
        counts = self._section.counts_first.isChecked()
        self.job = Job(read_task(path, self._journals, counts=counts), self)
        self.job.returned.connect(self._on_read)
        self.job.failed.connect(self._model.fail)
        self.job.finished.connect(self._on_job_finished)
        self.job.start()

    @property
    def _journals(self) -> Path:
        assert self.folder is not None  # there are images
        return self.folder / OWN_FOLDER

    def _on_job_finished(self) -> None:
        self.job = None
        self._show()

    def _on_read(self, read: Read) -> None:
        model, viewer = self._model, self._model.viewer
        model.show_message("")
        layer = viewer.add_image(read.image.data, **layer_arguments(read.image))
        try:
            opened = start_or_resume(
                layer, read.labels, read.scores, journal_path(read.image, self._journals)
            )
        except CellwrightError as error:
            viewer.layers.remove(layer)
            model.fail(error)
            return
        self._layer = layer
        name = self.images[self.index].stem
        if read.is_counted and read.labels is not None:
            n_found = len(np.unique(read.labels[read.labels > 0]))
            self.tallies[name] = replace(self.tallies.get(name, Tally()), found=n_found)
        model.open(opened)
        viewer.reset_view()
        self._on_follow()
        self._tell_errors()
        self.opened.emit(name)

    def leave(self) -> None:
        """Close the image that is open: its journal and the counts are on disk then, its labels soon."""
        model, layer = self._model, self._layer
        if layer is None or self.folder is None:
            return
        context = model.context
        self._follow.stop()
        if context is not None:
            self._tally()
            try:
                write_counts(self._journals / COUNTS, self.images, self.tallies)
            except CellwrightError as error:
                model.fail(error)
                return
            self._layer = None
            model.finish()
            path = self._labels_path(self.images[self.index])
            self.keeper.keep(path, context.session.labels, context.session.image)
            for one in (context.layer.layer, context.regions.layer):
                if one is not None and one in model.viewer.layers:
                    model.viewer.layers.remove(one)
        self._layer = None
        if layer in model.viewer.layers:
            model.viewer.layers.remove(layer)
        self._show()

    def _labels_path(self, image: Path) -> Path:
        return self._journals / f"{image.stem}.tif"

    def _on_kept(self) -> None:
        self._show()
        self._tell_errors()

    def _tell_errors(self) -> None:
        errors = self.keeper.errors
        if errors:
            text = " ".join(str(error) for error in errors.values())
            kept = "The edits are kept: open the image and leave it again to write its labels."
            self._model.show_message(f"{text} {kept}", is_error=True)

    # -- counts -------------------------------------------------------------------------------------------

    def _on_opened(self, context: AnnotationContext) -> None:
        context.session.events.history.connect(self._on_history)

    def _on_history(self) -> None:
        self._follow.start()

    def _on_follow(self) -> None:
        """Bring list and counts in line with the edits, once they pause."""
        if self._layer is None or self._model.session is None:
            return
        self._tally()
        try:
            write_counts(self._journals / COUNTS, self.images, self.tallies)
        except CellwrightError as error:
            self._model.fail(error)
        self._show()

    def _tally(self) -> None:
        context, name = self._model.context, self.images[self.index].stem
        if context is not None:
            n_reviewed, n_cells = context.review.progress
            known = self.tallies.get(name, Tally())
            self.tallies[name] = replace(known, cells=n_cells, reviewed=n_reviewed)

    def _show(self) -> None:
        part, n = self._section, len(self.images)
        files = part.files
        if files.count() != n:
            files.clear()
            for _ in self.images:
                files.addItem(QListWidgetItem())
        for index, path in enumerate(self.images):
            item = files.item(index)
            assert item is not None
            item.setText(self._line(path))
            item.setToolTip(path.name)
            mark = Qt.CheckState.Checked if self._is_done(path.stem) else Qt.CheckState.Unchecked
            item.setData(Qt.ItemDataRole.CheckStateRole, mark)
        files.setCurrentRow(self.index)
        files.setVisible(n > 0)
        part.folder.setText(f"Folder · {self.folder.name}" if self.folder else "Choose a folder…")
        for button in (part.previous_image, part.next_image):
            button.setVisible(n > 0)
        part.previous_image.setEnabled(self.index > 0 and self.job is None)
        part.next_image.setEnabled(self.index < n - 1 and self.job is None)
        part.total.setText(self._total())

    def _line(self, path: Path) -> str:
        tally = self.tallies.get(path.stem)
        if tally is None or tally.cells < 0:
            return path.stem
        line = f"{path.stem}\n{tally.cells:,} cells"
        if tally.found not in (-1, tally.cells):
            line += f" (was {tally.found:,})"
        line += f" · {tally.reviewed:,} reviewed"
        if self._labels_path(path) in self.keeper.errors:
            line += " · not written"
        return line

    def _total(self) -> str:
        seen = [tally for tally in self.tallies.values() if tally.cells >= 0]
        if not seen:
            return ""
        n_done = sum(self._is_done(path.stem) for path in self.images)
        n_cells = sum(tally.cells for tally in seen)
        line = f"{n_done} of {len(self.images)} images done · {n_cells:,} cells in {len(seen)}"
        if self.keeper.is_busy:
            line += " · writing labels…"
        return line
