"""Proofreading a folder: image after image, each in the state it was left in, the counts corrected as you go.

::

    <folder>/<image>                         any image ``io.images`` reads
    <folder>/masks/<name>.tif                labels to begin with, if any (also in <folder>/../masks)
    <folder>/cellwright/<name>-*.journal     each image's annotation, edit by edit
    <folder>/cellwright/<name>.tif           its labels when it was last left
    <folder>/cellwright/counts.csv           name, cells the model found, cells now, reviewed
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Qt, QTimer, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QFileDialog, QListWidgetItem

from cellwright.errors import CellwrightError, ReadError, WriteError
from cellwright.io.files import written_whole
from cellwright.io.images import read_image, write_labels
from cellwright.tasks import Progress, Task
from cellwright.types import SPATIAL, Image
from cellwright.widgets.annotate_start import begin_with, journal_path, unfinished
from cellwright.widgets.job import Job

if TYPE_CHECKING:
    from cellwright.widgets.annotate import AnnotateWidget

OWN_FOLDER = "cellwright"
COUNTS = "counts.csv"
COLUMNS = ("name", "found", "cells", "reviewed")
IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".npy", ".bmp", ".zarr")
MODEL = "flow"
FOLLOW_MS = 150


@dataclass(frozen=True, slots=True)
class Tally:
    """The cells of one image: how many the model found (-1: not asked), there are now, are reviewed."""

    found: int = -1
    cells: int = -1
    reviewed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """An image and the labels to begin with. Made by :func:`read_task`; used by :class:`Proofreader`."""

    image: Image
    labels: NDArray[Any] | None
    scores: NDArray[Any] | None
    is_counted: bool


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
        self._layer: ImageLayer | None = None
        self._follow = QTimer(self)
        self._follow.setSingleShot(True)
        self._follow.setInterval(FOLLOW_MS)
        self._follow.timeout.connect(self._on_follow)
        panel = self._panel
        panel.folder.clicked.connect(self._on_folder_clicked)
        panel.previous_image.clicked.connect(lambda: self.step(-1))
        panel.next_image.clicked.connect(lambda: self.step(1))
        panel.files.itemDoubleClicked.connect(lambda item: self.go_to(panel.files.row(item)))
        widget.session_changed.connect(self._on_session_changed)
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
        self.job = Job(read_task(path, self._journals, counts=self._panel.counts_first.isChecked()), self)
        self.job.returned.connect(self._on_read)
        self.job.failed.connect(self._widget.show_error)
        self.job.finished.connect(self._on_job_finished)
        self.job.start()

    @property
    def _journals(self) -> Path:
        assert self.folder is not None  # there are images
        return self.folder / OWN_FOLDER

    def _on_job_finished(self) -> None:
        if self.job is not None:
            self.job.deleteLater()
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
        self.opened.emit(name)

    def leave(self) -> None:
        """Close the image that is open: its journal, its labels and the counts are on disk then."""
        widget, layer = self._widget, self._layer
        if layer is None or self.folder is None:
            return
        desk = widget.desk
        self._follow.stop()
        if desk is not None:
            self._tally()
            try:
                path = self._journals / f"{self.images[self.index].stem}.tif"
                write_labels(path, desk.session.labels, desk.session.image)
                write_counts(self._journals / COUNTS, self.images, self.tallies)
            except CellwrightError as error:
                widget.show_error(error)
                return
            self._layer = None
            widget.finish()
            for one in (desk.layer.layer, desk.regions.layer):
                if one is not None and one in widget.viewer.layers:
                    widget.viewer.layers.remove(one)
        self._layer = None
        if layer in widget.viewer.layers:
            widget.viewer.layers.remove(layer)
        self._show()

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
        panel, n = self._panel, len(self.images)
        files = panel.files
        if files.count() != n:
            files.clear()
            for _ in self.images:
                files.addItem(QListWidgetItem())
        for place, path in enumerate(self.images):
            item = files.item(place)
            assert item is not None
            item.setText(self._line(path.stem))
            item.setToolTip(path.name)
            mark = Qt.CheckState.Checked if self._is_done(path.stem) else Qt.CheckState.Unchecked
            item.setData(Qt.ItemDataRole.CheckStateRole, mark)
        files.setCurrentRow(self.index)
        files.setVisible(n > 0)
        panel.folder.setText(self.folder.name if self.folder else "Choose a folder…")
        for button in (panel.previous_image, panel.next_image):
            button.setVisible(n > 0)
        panel.previous_image.setEnabled(self.index > 0 and self.job is None)
        panel.next_image.setEnabled(self.index < n - 1 and self.job is None)
        panel.total.setText(self._total())

    def _line(self, name: str) -> str:
        tally = self.tallies.get(name)
        if tally is None or tally.cells < 0:
            return name
        was = f" (was {tally.found:,})" if tally.found not in (-1, tally.cells) else ""
        return f"{name}   {tally.cells:,} cells{was} · {tally.reviewed:,} reviewed"

    def _total(self) -> str:
        seen = [tally for tally in self.tallies.values() if tally.cells >= 0]
        if not seen:
            return ""
        n_done = sum(self._is_done(path.stem) for path in self.images)
        n_cells = sum(tally.cells for tally in seen)
        return f"{n_done} of {len(self.images)} images done · {n_cells:,} cells in {len(seen)}"


def images_of(folder: Path) -> list[Path]:
    """Return the images of a folder, of a dataset folder those in ``images``.

    Raises
    ------
    ReadError
        It cannot be read, or holds no image.
    """
    inner = folder / "images"
    try:
        paths = sorted((inner if inner.is_dir() else folder).iterdir())
    except OSError as error:
        raise ReadError(
            f"Expected a folder of images at {folder}; got: {error.strerror or error}. Choose another."
        ) from error
    seen = (path for path in paths if not path.name.startswith("."))
    found = [path for path in seen if path.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        raise ReadError(f"Expected images ({', '.join(IMAGE_SUFFIXES)}) in {folder}; found none.")
    return found


def labels_path(image: Path) -> Path | None:
    """Return the labels that lie beside an image, None where there are none."""
    folders = (image.parent / "masks", image.parent.parent / "masks")
    paths = [folder / f"{image.stem}{suffix}" for folder in folders for suffix in (".tif", ".tiff", ".png")]
    return next((path for path in paths if path.is_file()), None)


def read_task(path: Path, journals: Path, *, counts: bool) -> Task[Read]:
    """Read an image and the labels to begin with: those beside it, else what the model finds."""
    yield Progress("load", 0, 1)
    image = read_image(path)
    image = replace(image, data=np.asarray(image.data), name=path.stem)
    if unfinished(journal_path(image, journals)) is not None:
        return Read(image, None, None, is_counted=False)
    beside = labels_path(path)
    if beside is not None:
        return Read(image, np.asarray(read_image(beside).data), None, is_counted=True)
    if not counts:
        return Read(image, None, None, is_counted=False)
    from cellwright.inference.count import count_cells

    result = yield from count_cells(image, MODEL)
    return Read(image, result.cells.labels, result.cells.scores, is_counted=True)


def layer_arguments(image: Image) -> dict[str, Any]:
    """Return the arguments of the Image layer that shows an image, its pixel size kept."""
    letters = image.axes.removesuffix("C")
    sizes: Mapping[str, float] = {}
    if image.pixel_size_um:
        spatial = (axis for axis in letters if axis in SPATIAL)
        sizes = dict(zip(spatial, image.pixel_size_um, strict=True))
    return {
        "name": image.name,
        "rgb": image.axes.endswith("C"),
        "axis_labels": tuple(letters.lower()),
        "scale": tuple(sizes.get(axis, 1.0) for axis in letters),
        "units": tuple("micrometer" if axis in sizes else "pixel" for axis in letters),
    }


def read_counts(path: Path) -> dict[str, Tally]:
    """Return the counts of an earlier time, none where there are none.

    Raises
    ------
    ReadError
        The file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {
            row["name"]: Tally(int(row["found"] or -1), int(row["cells"] or -1), int(row["reviewed"] or 0))
            for row in rows
        }
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ReadError(
            f"Expected columns {', '.join(COLUMNS)} in {path}; got: {error!r}. Remove it to begin anew."
        ) from error


def write_counts(path: Path, images: list[Path], tallies: Mapping[str, Tally]) -> None:
    """Write the counts of all images that have been open.

    Raises
    ------
    WriteError
        The folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for image in images:
                tally = tallies.get(image.stem)
                if tally is not None:
                    values = (tally.found, tally.cells)
                    shown = ["" if value < 0 else value for value in values]
                    writer.writerow([image.stem, *shown, tally.reviewed])
    except OSError as error:
        raise WriteError(
            f"Expected to write {path}; got: {error.strerror or error}. Make room, or choose another folder."
        ) from error
