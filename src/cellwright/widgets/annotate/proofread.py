"""Proofreading a folder: image after image, each in the state it was left in, the counts corrected as you go.

::

    <folder>/<image>                         any image ``files.images`` reads
    <folder>/masks/<name>.tif                labels to begin with, if any (also in <folder>/../masks)
    <folder>/cellwright/<name>-*.journal     each image's annotation, edit by edit
    <folder>/cellwright/<name>.tif           its labels when it was last left
    <folder>/cellwright/counts.csv           name, cells the model found, cells now, reviewed

Labels are written beside the viewer, and in any case before the program ends.
"""

import csv
import logging
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image as ImageLayer
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import QFileDialog

from cellwright.core.data import Image, Labels
from cellwright.core.errors import CellwrightError, ReadError, WriteError, expecting
from cellwright.core.tasks import Progress, Task
from cellwright.core.words import n_of
from cellwright.files.atomic import as_stored, atomic_write
from cellwright.files.folders.image_list import COUNTS, PROOFREAD
from cellwright.files.images import read_image, write_labels
from cellwright.models.registry import DEFAULT_FAMILY
from cellwright.widgets.annotate.context import AnnotationContext
from cellwright.widgets.annotate.model import AnnotateModel
from cellwright.widgets.annotate.session_setup import start_or_resume, unfinished_journal
from cellwright.widgets.annotate.view import FolderSection
from cellwright.widgets.shared.edited_layers import metadata_of
from cellwright.widgets.shared.jobs import Job, debouncer
from cellwright.widgets.shared.journals.journal_files import journal_path
from cellwright.widgets.shared.layer_io import layer_arguments, take_away
from cellwright.widgets.shared.messages import telling
from cellwright.widgets.shared.napari_private import in_one_batch

FOLLOW_MS = 150
KEEP_MS = 50  # between two looks whether labels have been written
IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".npy", ".bmp", ".zarr")

logger = logging.getLogger(__name__)
COLUMNS = ("name", "found", "cells", "reviewed")


@dataclass(frozen=True, slots=True)
class Tally:
    """The cells of one image: how many the model found (-1: not asked), there are now, are reviewed."""

    found: int = -1
    cells: int = -1
    reviewed: int = 0


def read_tallies(path: Path) -> dict[str, Tally]:
    """Return the counts of an earlier time, none where there are none.

    ReadError where the file is damaged.
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
            f"Expected columns {', '.join(COLUMNS)} in {path}; got: {error!r}. Remove it to start over."
        ) from error


def write_tallies(path: Path, images: list[Path], tallies: Mapping[str, Tally]) -> None:
    """Write the counts of all images that have been open.

    WriteError where the folder cannot be written.
    """
    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for image in images:
            tally = tallies.get(image.stem)
            if tally is not None:
                shown = ["" if value < 0 else value for value in (tally.found, tally.cells)]
                writer.writerow([image.stem, *shown, tally.reviewed])


class Keeper(QObject):
    """Writes labels beside the viewer, in the order in which they came.

    They are written by a thread of Python's, which the end of the program waits for, whatever Qt takes away.
    """

    changed = Signal()  # something was written, or could not be
    failed = Signal(object)  # Exception that nobody foresaw

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[tuple[Path, Future[None]]] = deque()
        self._timer = QTimer(self)  # the thread sends to no object that Qt may be deleting
        self._timer.setInterval(KEEP_MS)
        self._timer.timeout.connect(self._look)
        self.errors: dict[Path, CellwrightError] = {}  # of the files that could not be written

    @property
    def is_busy(self) -> bool:
        """Whether something is still to be written."""
        return bool(self._waiting)

    def keep(self, path: Path, labels: Labels, image: Image) -> None:
        """Write labels, which nobody changes from now on; returns at once."""
        self._waiting.append((path, self._thread.submit(_write, path, labels, image)))
        self._timer.start()

    def _look(self) -> None:
        """Tell of what has been written since."""
        while self._waiting and self._waiting[0][1].done():
            path, written = self._waiting.popleft()
            error = written.exception()
            self.errors.pop(path, None)
            if isinstance(error, CellwrightError):
                self.errors[path] = error
            elif isinstance(error, Exception):
                self.failed.emit(error)
            self.changed.emit()
        if not self._waiting:
            self._timer.stop()


def _write(path: Path, labels: Labels, image: Image) -> None:
    try:
        write_labels(path, labels, image)
    except CellwrightError as error:
        logger.warning("Labels were not written", exc_info=error)
        raise


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """An image and the labels to begin with."""

    image: Image
    labels: NDArray[Any] | None
    scores: NDArray[Any] | None
    is_counted: bool


def images_of(folder: Path) -> list[Path]:
    """Return the images of a folder, of a dataset folder those in ``images``.

    ReadError where it cannot be read, holds no image, or two whose labels would lie in one file.
    """
    inner = folder / "images"
    if not inner.is_dir():
        inner = folder
    with expecting(ReadError, f"a folder of images at {folder}", "Choose another.", OSError):
        paths = sorted(inner.iterdir())
    seen = (path for path in paths if not path.name.startswith("."))
    found = [path for path in seen if path.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        raise ReadError(f"Expected images ({', '.join(IMAGE_SUFFIXES)}) in {folder}; found none.")
    there: dict[str, Path] = {}
    for path in found:
        other = there.setdefault(as_stored(path.stem, inner), path)
        if other is not path:
            raise ReadError(
                f"Images must differ in name, by which their labels are kept; {other.name} and "
                f"{path.name} would have the same. Rename or move one."
            )
    return found


def labels_path(image: Path) -> Path | None:
    """Return the labels that lie beside an image, None where there are none."""
    folders = (image.parent / "masks", image.parent.parent / "masks")
    paths = [folder / f"{image.stem}{suffix}" for folder in folders for suffix in (".tif", ".tiff", ".png")]
    return next((path for path in paths if path.is_file()), None)


def read_task(path: Path, journals: Path, *, counts: bool, model: str = DEFAULT_FAMILY) -> Task[Read]:
    """Read an image and the labels to begin with: those beside it, else what the model finds."""
    yield Progress("load", 0, 1)
    image = read_image(path)
    image = replace(image, data=np.asarray(image.data), name=path.stem)
    if unfinished_journal(journal_path(image, journals)) is not None:
        return Read(image, None, None, is_counted=False)
    beside = labels_path(path)
    if beside is not None:
        return Read(image, np.asarray(read_image(beside, are_labels=True).data), None, is_counted=True)
    if not counts:
        return Read(image, None, None, is_counted=False)
    from cellwright.inference.pipeline import count_cells

    result = yield from count_cells(image, model)
    return Read(image, result.cells.labels, result.cells.scores, is_counted=True)


class Proofreader(QObject):
    """Steps through the images of a folder, each opened to be annotated."""

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
        self._context: AnnotationContext | None = None  # of its annotation, finished or not
        self._follow = debouncer(self, FOLLOW_MS, self._on_follow)
        section.folder.clicked.connect(self._on_folder_clicked)
        section.previous_image.clicked.connect(lambda: self.step(-1))
        section.next_image.clicked.connect(lambda: self.step(1))
        section.files.itemDoubleClicked.connect(lambda item: self.go_to(section.files.row(item)))
        model.opened.connect(self._on_opened)
        self.keeper.changed.connect(self._show)
        self.keeper.changed.connect(self._tell_errors)
        self.keeper.failed.connect(model.fail)
        self._show()

    def _on_folder_clicked(self) -> None:
        folder = QFileDialog.getExistingDirectory(self._section, "Folder of images")
        if folder:
            self.open(Path(folder))

    def open(self, folder: Path) -> None:
        """List the images of a folder and go to the first that is not reviewed to the end."""
        if not self.leave():
            return
        with telling(self._model.fail):
            images, tallies = images_of(folder), read_tallies(folder / PROOFREAD / COUNTS)
            self.folder, self.images, self.tallies, self.index = folder, images, tallies, -1
            self._show()
            open_ones = (index for index, path in enumerate(images) if not self._is_done(path.stem))
            self.go_to(next(open_ones, 0))

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
        if not self.leave():
            return
        self.index = index
        path = self.images[index]
        self._show()
        self._model.tell(f"Opening {path.name} …")
        counts = self._section.counts_first.isChecked()
        job = Job(read_task(path, self._journals, counts=counts, model=self._model.chosen), self)
        failed = self._model.fail
        self.job = job.start(returned=self._on_read, failed=failed, finished=self._on_job_finished)

    @property
    def _journals(self) -> Path:
        assert self.folder is not None  # there are images
        return self.folder / PROOFREAD

    def _on_job_finished(self) -> None:
        self.job = None
        self._show()

    def _on_read(self, read: Read) -> None:
        model, viewer = self._model, self._model.viewer
        model.tell("")
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

    def leave(self) -> bool:
        """Close the image that is open: its journal and the counts are on disk then, its labels soon.

        It stays open where the counts cannot be written; return whether it does not.
        """
        model, layer, context = self._model, self._layer, self._context
        if layer is None:
            return True
        self._follow.cancel()
        if context is not None and not self._keep_counts(context):
            return False
        self._layer = self._context = None
        with in_one_batch(model.viewer):  # with what the annotation takes away itself
            if context is not None:
                if model.context is context:
                    model.finish()
                path = self._labels_path(self.images[self.index])
                self.keeper.keep(path, context.session.labels, context.session.image)
                take_away(model.viewer, context.layer.layer, context.regions.layer)
            take_away(model.viewer, layer)
        self._show()
        return True

    def _labels_path(self, image: Path) -> Path:
        return self._journals / f"{image.stem}.tif"

    def _tell_errors(self) -> None:
        errors = self.keeper.errors
        if errors:
            text = " ".join(str(error) for error in errors.values())
            kept = "The edits are kept: open the image and leave it again to write its labels."
            self._model.fail(WriteError(f"{text} {kept}"))

    # -- counts -------------------------------------------------------------------------------------------

    def _on_opened(self, context: AnnotationContext) -> None:
        own = metadata_of(context.layer.layer)
        if self._layer is not None and own.get("source") == str(self._layer.unique_id):
            self._context = context
            context.session.history.events.history.connect(self._on_history)

    def _on_history(self) -> None:
        self._follow.throttle()

    def _on_follow(self) -> None:
        """Bring list and counts in line with the edits, once they pause."""
        if self._context is not None:
            self._keep_counts(self._context)
            self._show()

    def _keep_counts(self, context: AnnotationContext) -> bool:
        """Take down the cells of the open image, and return whether the counts could be written."""
        name, (n_reviewed, n_cells) = self.images[self.index].stem, context.review.progress
        known = self.tallies.get(name, Tally())
        self.tallies[name] = replace(known, cells=n_cells, reviewed=n_reviewed)
        try:
            write_tallies(self._journals / COUNTS, self.images, self.tallies)
        except CellwrightError as error:
            self._model.fail(error)
            return False
        return True

    def _show(self) -> None:
        part, n = self._section, len(self.images)
        files = part.files
        if files.count() != n:
            files.clear()
            files.addItems([""] * n)
        for index, path in enumerate(self.images):
            item = files.item(index)
            assert item is not None
            item.setText(self._line(path))
            item.setToolTip(path.name)
            mark = Qt.CheckState.Checked if self._is_done(path.stem) else Qt.CheckState.Unchecked
            item.setData(Qt.ItemDataRole.CheckStateRole, mark)
        files.setCurrentRow(self.index)
        files.setVisible(n > 0)
        part.folder.setText("Choose a folder…" if self.folder is None else f"Folder · {self.folder.name}")
        for button in (part.previous_image, part.next_image):
            button.setVisible(n > 0)
        part.previous_image.setEnabled(self.index > 0 and self.job is None)
        part.next_image.setEnabled(self.index < n - 1 and self.job is None)
        part.total.setText(self._total())

    def _line(self, path: Path) -> str:
        tally = self.tallies.get(path.stem)
        if tally is None or tally.cells < 0:
            return path.stem
        line = f"{path.stem}\n{n_of(tally.cells, 'cell')}"
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
        cells = n_of(sum(tally.cells for tally in seen), "cell")
        line = (
            f"{n_done} of {len(self.images)} images done · {cells} in {len(seen)}, kept in the "
            f"folder {PROOFREAD!r} there; Count a folder takes them over into its results"
        )
        if self.keeper.is_busy:
            line += " · writing labels…"
        return line
