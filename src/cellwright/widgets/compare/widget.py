"""The compare widget: two models on the same image or dataset, their counts, and where they disagree."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Layer
from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QTableWidgetItem, QVBoxLayout, QWidget

from cellwright.core.errors import CellwrightError
from cellwright.core.tasks import Eta, Progress, Task
from cellwright.widgets.compare.choices import CompareChoices
from cellwright.widgets.compare.disagreement import DISAGREEMENT
from cellwright.widgets.compare.model import Compared, CompareModel, compare_task, open_task
from cellwright.widgets.compare.view import ComparePanel
from cellwright.widgets.shared.jobs import Job
from cellwright.widgets.shared.layer_io import Source, remove
from cellwright.widgets.shared.messages import REDRAW_S, duration, tell_error
from cellwright.widgets.shared.napari_private import unwrapped

if TYPE_CHECKING:
    import napari.viewer

LOADING, OPENING = "Loading the models", "Opening the image"
FINE = 1000  # steps of one image, for the time left


class CompareWidget(QWidget):
    """Counts with two models and shows their figures, and as a layer the cells only one of them found.

    Parameters
    ----------
    napari_viewer
        The viewer it is docked in.
    """

    finished = Signal()  # a comparison has ended, well or not

    def __init__(self, napari_viewer: "napari.viewer.Viewer") -> None:
        super().__init__()
        self.viewer = unwrapped(napari_viewer)
        self.panel = ComparePanel()
        self.model = CompareModel()
        self.choices = CompareChoices(self.viewer, self.panel)
        self.job: Job | None = None
        self._opened: list[Layer] = []
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.panel)
        self.panel.button.clicked.connect(self._on_clicked)
        self.panel.table.itemClicked.connect(self._on_image_clicked)
        self.model.changed.connect(self._on_model_changed)

    def compare(self) -> None:
        """Count with both models; tells in the panel why it cannot."""
        try:
            request = self.choices.request()
        except CellwrightError as error:
            tell_error(self.panel, error, "Comparing")
            return
        self.model.show(None)
        self._start(compare_task(request), lambda found: self._show(found, request.source))

    def open(self, index: int) -> None:
        """Show an image of the dataset, and where the models disagree, in place of the last one."""
        if self.model.compared is not None:
            self._start(open_task(self.model.compared, index), self._show_opened, OPENING)

    def choose_folder(self, folder: Path) -> None:
        """Choose a dataset folder."""
        self.panel.data.add_folder(folder)

    # -- a job --------------------------------------------------------------------------------------------

    def _start(self, task: Task[Any], on_returned: Callable[[Any], None], line: str = LOADING) -> None:
        if self.job is not None:
            task.close()
            return
        self.panel.show_message("")
        self.panel.show_running(is_running=True)
        self.panel.show_progress(0.0, line)
        self._eta, self._told = Eta(), 0.0
        self._whole = Progress("compare", 0, 1)
        self.job = job = Job(task, self)
        job.progressed.connect(self._on_progressed)
        job.returned.connect(on_returned)
        job.failed.connect(lambda error: tell_error(self.panel, error, "Comparing"))
        job.cancelled.connect(lambda: self.panel.show_message("Cancelled; nothing was changed."))
        job.finished.connect(self._on_finished)
        job.start()

    def _on_clicked(self) -> None:
        if self.job is None:
            self.compare()
            return
        self.job.cancel()
        self.panel.button.setText("Cancelling…")
        self.panel.button.setEnabled(False)

    def _on_progressed(self, progress: Progress) -> None:
        if progress.stage == "compare":
            self._whole = progress
        whole = self._whole
        if not whole.note:
            return  # nothing is counted yet
        part = progress.fraction if progress.stage == "tiles" else 0.0
        fine = replace(whole, done=round(FINE * (whole.done + part)), total=FINE * whole.total)
        left = self._eta.seconds_left(fine)
        now = time.monotonic()
        if now - self._told < REDRAW_S and progress.stage != "compare":
            return
        self._told = now
        self.panel.show_progress(fine.fraction, progress_line(whole, left))

    def _on_finished(self) -> None:
        self.job = None
        self.panel.show_running(is_running=False)
        self.finished.emit()

    # -- what is shown ------------------------------------------------------------------------------------

    def _on_model_changed(self) -> None:
        self.panel.show_compared(self.model.compared)

    def _show(self, found: tuple[Compared, Layer | None], source: Source | None) -> None:
        compared, layer = found
        self.model.show(compared)
        if source is not None:
            remove(self.viewer, {"source": source.layer_id, "output": DISAGREEMENT})
        if layer is not None:
            self._add(layer)

    def _show_opened(self, layers: tuple[Layer, ...]) -> None:
        for layer in self._opened:
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)
        self._opened = list(layers)
        self.choices.hide(layers)
        for layer in layers:
            self._add(layer)
        self.viewer.reset_view()

    def _add(self, layer: Layer) -> None:
        active = self.viewer.layers.selection.active
        self.viewer.add_layer(layer)
        if active is not None and active in self.viewer.layers:
            self.viewer.layers.selection.active = active

    def _on_image_clicked(self, item: QTableWidgetItem) -> None:
        self.open(getattr(item, "index", 0))


def progress_line(whole: Progress, seconds_left: float | None) -> str:
    """Return which model counts in which image, and how long it all still takes.

    Examples
    --------
    ``set03: flow · image 3 of 37 · 2 min left``
    """
    parts = [whole.note]
    if whole.total > 2:
        parts.append(f"image {whole.done // 2 + 1} of {whole.total // 2}")
    if seconds_left is not None:
        parts.append(f"{duration(seconds_left)} left")
    return " · ".join(parts)
