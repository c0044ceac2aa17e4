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
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from qtpy.QtCore import QObject, Qt, QTimer, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QFileDialog, QListWidgetItem

from cellwright.core.errors import CellwrightError
from cellwright.widgets.annotate.proofread.counts import COUNTS, Tally, read_counts, write_counts
from cellwright.widgets.annotate.proofread.images import Read, images_of, layer_arguments, read_task
from cellwright.widgets.annotate.proofread.writer import Keeper
from cellwright.widgets.annotate.start import begin_with, journal_path
from cellwright.widgets.shared.jobs import Job

if TYPE_CHECKING:
    from cellwright.widgets.annotate.widget import AnnotateWidget

OWN_FOLDER = "cellwright"
FOLLOW_MS = 150


class Proofreader(QObject):
    """Steps through the images of a folder in an annotation widget.

    Parameters
    ----------
    widget
        Annotates the images, and holds the list of them.
    """

    opened = Signal(str)  # name of the image that can now be annotated

    def __init__(self, widget: "AnnotateWidget") -> None:
        super().__init__(widget)
        self._widget, self._panel = widget, widget.panel
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
        part = self._panel.batch
        part.folder.clicked.connect(self._on_folder_clicked)
        part.previous_image.clicked.connect(lambda: self.step(-1))
        part.next_image.clicked.connect(lambda: self.step(1))
        part.files.itemDoubleClicked.connect(lambda item: self.go_to(part.files.row(item)))
        widget.session_changed.connect(self._on_session_changed)
        self.keeper.changed.connect(self._on_kept)
        self.keeper.failed.connect(widget.show_error)
        self._show()

    def _on_folder_clicked(self) -> None:
        folder = QFileDialog.getExistingDirectory(self._widget, "Folder of images")
        if folder:
            self.open(Path(folder))

    def open(self, folder: Path) -> None:
        """List the images of a folder and go to the first that is not reviewed to the end."""
        self.leave()
        try:
            images = images_of(folder)
            tallies = read_counts(folder / OWN_FOLDER / COUNTS)
        except CellwrightError as error:
            self._widget.show_error(error)
            return
        self.folder, self.images, self.tallies, self.index = folder, images, tallies, -1
        self._show()
        open_ones = [place for place, path in enumerate(images) if not self._is_done(path.stem)]
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
        if index == self.index and self._widget.session is not None:
            return
        self.leave()
        self.index = index
        path = self.images[index]
        self._show()
        self._widget.panel.show_message(f"Opening {path.name} …")
        counts = self._panel.batch.counts_first.isChecked()
        self.job = Job(read_task(path, self._journals, counts=counts), self)
        self.job.returned.connect(self._on_read)
        self.job.failed.connect(self._widget.show_error)
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
        widget, viewer = self._widget, self._widget.viewer
        widget.panel.show_message("")
        layer = viewer.add_image(read.image.data, **layer_arguments(read.image))
        try:
            beginning = begin_with(layer, read.labels, read.scores, journal_path(read.image, self._journals))
        except CellwrightError as error:
            viewer.layers.remove(layer)
            widget.show_error(error)
            return
        self._layer = layer
        name = self.images[self.index].stem
        if read.is_counted and read.labels is not None:
            n_found = len(np.unique(read.labels[read.labels > 0]))
            self.tallies[name] = replace(self.tallies.get(name, Tally()), found=n_found)
        widget.open(beginning)
        viewer.reset_view()
        self._on_follow()
        self._tell_errors()
        self.opened.emit(name)

    def leave(self) -> None:
        """Close the image that is open: its journal and the counts are on disk then, its labels soon."""
        widget, layer = self._widget, self._layer
        if layer is None or self.folder is None:
            return
        desk = widget.desk
        self._follow.stop()
        if desk is not None:
            self._tally()
            try:
                write_counts(self._journals / COUNTS, self.images, self.tallies)
            except CellwrightError as error:
                widget.show_error(error)
                return
            self._layer = None
            widget.finish()
            path = self._labels_path(self.images[self.index])
            self.keeper.keep(path, desk.session.labels, desk.session.image)
            for one in (desk.layer.layer, desk.regions.layer):
                if one is not None and one in widget.viewer.layers:
                    widget.viewer.layers.remove(one)
        self._layer = None
        if layer in widget.viewer.layers:
            widget.viewer.layers.remove(layer)
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
            self._panel.show_message(f"{text} {kept}", is_error=True)

    # -- counts -------------------------------------------------------------------------------------------

    def _on_session_changed(self, session: Any) -> None:
        if session is not None:
            session.events.history.connect(self._on_history)

    def _on_history(self) -> None:
        self._follow.start()

    def _on_follow(self) -> None:
        """Bring list and counts in line with the edits, once they pause."""
        if self._layer is None or self._widget.session is None:
            return
        self._tally()
        try:
            write_counts(self._journals / COUNTS, self.images, self.tallies)
        except CellwrightError as error:
            self._widget.show_error(error)
        self._show()

    def _tally(self) -> None:
        desk, name = self._widget.desk, self.images[self.index].stem
        if desk is not None:
            n_reviewed, n_cells = desk.review.progress
            known = self.tallies.get(name, Tally())
            self.tallies[name] = replace(known, cells=n_cells, reviewed=n_reviewed)

    def _show(self) -> None:
        part, n = self._panel.batch, len(self.images)
        files = part.files
        if files.count() != n:
            files.clear()
            for _ in self.images:
                files.addItem(QListWidgetItem())
        for place, path in enumerate(self.images):
            item = files.item(place)
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
        was = f" (was {tally.found:,})" if tally.found not in (-1, tally.cells) else ""
        lost = " · not written" if self._labels_path(path) in self.keeper.errors else ""
        return f"{path.stem}\n{tally.cells:,} cells{was} · {tally.reviewed:,} reviewed{lost}"

    def _total(self) -> str:
        seen = [tally for tally in self.tallies.values() if tally.cells >= 0]
        if not seen:
            return ""
        n_done = sum(self._is_done(path.stem) for path in self.images)
        n_cells = sum(tally.cells for tally in seen)
        writing = " · writing labels…" if self.keeper.is_busy else ""
        return f"{n_done} of {len(self.images)} images done · {n_cells:,} cells in {len(seen)}{writing}"
