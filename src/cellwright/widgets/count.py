"""The count widget: one press of a button from an image layer to outlined cells and their number."""

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image as ImageLayer
from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QFileDialog, QVBoxLayout, QWidget

from cellwright.errors import CellwrightError, WrongLayerError
from cellwright.inference.settings import EngineSettings
from cellwright.io.tables import write_table
from cellwright.models import registry
from cellwright.tasks import Eta, Progress
from cellwright.widgets.choices import Choices
from cellwright.widgets.counting import (
    Counted,
    Request,
    count_task,
    progress_line,
    recount_task,
    result_line,
    size_line,
)
from cellwright.widgets.drawing import ask_for_line, ask_for_region, region_layer
from cellwright.widgets.job import Job
from cellwright.widgets.layers import Source, image_layer, place, remove, source_of
from cellwright.widgets.panel import CountPanel
from cellwright.widgets.regions import PREVIEW_PX, window_in_view, window_of_rectangle
from cellwright.widgets.retune import Retuner

if TYPE_CHECKING:
    import napari.viewer

REDRAW_S = 0.25  # a redraw of the panel redraws napari's whole window, slow without a GPU

logger = logging.getLogger(__name__)


class CountWidget(QWidget):
    """Counts the cells of an image layer and shows them as layers.

    Parameters
    ----------
    napari_viewer
        The viewer it is docked in.
    """

    finished = Signal()  # a count has ended, well or not

    def __init__(self, napari_viewer: "napari.viewer.Viewer") -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.panel = CountPanel(self)
        self.choices = Choices(napari_viewer, self.panel)
        self.counted: Counted | None = None
        self.job: Job | None = None
        self.retuner = Retuner(self)
        self._has_been_shown = False
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.panel)
        self._show_family(self.choices.family)
        self._connect()

    def _connect(self) -> None:
        panel = self.panel
        panel.count.clicked.connect(self._on_count_clicked)
        panel.preview.clicked.connect(self._on_preview_clicked)
        panel.measure.clicked.connect(self._on_measure_clicked)
        panel.save.clicked.connect(self._on_save_clicked)
        panel.region.activated.connect(self._on_region_chosen)
        for box in panel.outputs.values():
            box.toggled.connect(self._retune)
        self.choices.family_changed.connect(self._show_family)
        self.choices.failed.connect(self._show_error)
        self.retuner.retuned.connect(self._show_counted)
        self.retuner.failed.connect(self._show_error)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The ticked outputs."""
        return tuple(output for output, box in self.panel.outputs.items() if box.isChecked())

    @property
    def settings(self) -> Any:
        """The thresholds and filters as the settings of the model's family."""
        return self._settings_type(**self.panel.thresholds.values(), **self.panel.filters.values())

    @property
    def engine(self) -> EngineSettings:
        """How the network is to run."""
        channel = self.choices.channel
        return EngineSettings(
            device=self.choices.device,
            channel=channel.index if channel else None,
            diameter_px=self.panel.diameter.value(),
            **self.panel.engine.values(),
        )

    def showEvent(self, event: QShowEvent | None) -> None:
        """Look for devices once the widget is seen."""
        super().showEvent(event)
        if not self._has_been_shown:
            self._has_been_shown = True
            self.choices.find_devices()

    def _on_count_clicked(self) -> None:
        if self.job is not None:
            self._cancel()
            return
        self._start(is_preview=False)

    def _on_preview_clicked(self) -> None:
        self._start(is_preview=True)

    def _start(self, *, is_preview: bool) -> None:
        try:
            source = self._preview_source() if is_preview else self._source()
            request = Request(source, self.choices.model, self.settings, self.engine, self.outputs)
        except CellwrightError as error:
            self._show_error(error)
            return
        self.retuner.forget()
        self.panel.show_message("")
        self.panel.show_running(is_running=True)
        self._eta, self._stage, self._told = Eta(), "", 0.0
        self.job = Job(count_task(request), self)
        self.job.progressed.connect(self._on_job_progressed)
        self.job.returned.connect(self._on_job_returned)
        self.job.failed.connect(self._show_error)
        self.job.cancelled.connect(self._on_job_cancelled)
        self.job.finished.connect(self._on_job_finished)
        self.job.start()

    def _cancel(self) -> None:
        if self.job is not None:
            self.job.cancel()
            self.panel.count.setText("Cancelling…")
            self.panel.count.setEnabled(False)

    def _source(self) -> Source:
        layer = image_layer(self.choices.layer)
        region, window = self.panel.region.currentData(), None
        if region == "view":
            window = window_in_view(self.viewer, layer)
        elif region == "drawn":
            shapes = region_layer(self.viewer)
            if shapes is None:
                ask_for_region(self.viewer, layer)
                raise WrongLayerError("Draw a rectangle around the cells first, then count again.")
            window = window_of_rectangle(shapes, layer)
        return source_of(layer, self.choices.channel, window)

    def _preview_source(self) -> Source:
        layer = image_layer(self.choices.layer)
        window = window_in_view(self.viewer, layer, PREVIEW_PX)
        return replace(source_of(layer, self.choices.channel, window), is_preview=True)

    def _on_job_progressed(self, progress: Progress) -> None:
        seconds_left = self._eta.seconds_left(progress)
        now = time.monotonic()
        if progress.stage == self._stage and not progress.note and now - self._told < REDRAW_S:
            return
        self._stage, self._told = progress.stage, now
        self.panel.show_progress(progress.fraction, progress_line(progress, seconds_left))

    def _on_job_returned(self, counted: Counted) -> None:
        source = counted.request.source
        if not source.is_preview:
            remove(self.viewer, {**source.key, "is_preview": True})
        self._show_counted(counted)
        notices = list(counted.result.notices)
        if not any(str(layer.unique_id) == source.layer_id for layer in self.viewer.layers):
            notices.append(
                f"The image layer {source.image.name!r} was removed while its cells were counted; they are "
                "shown where it was."
            )
        self.panel.show_message(" ".join(notices))

    def _on_job_cancelled(self) -> None:
        self.panel.show_message("Cancelled; nothing was changed.")

    def _on_job_finished(self) -> None:
        if self.job is not None:
            self.job.deleteLater()
        self.job = None
        self.panel.show_running(is_running=False)
        self._retune()  # what was changed meanwhile
        self.finished.emit()

    def _retune(self, _: object = None) -> None:
        """Bring cells and layers in line with the thresholds and ticks, in the background."""
        counted, outputs, settings = self.counted, self.outputs, self.settings
        if counted is None or self.job is not None:
            return
        self._remove_unticked(counted)
        if type(settings) is not type(counted.request.settings):
            settings = counted.request.settings  # the sliders now belong to another family
        elif settings != counted.request.settings and counted.result.prediction is None:
            self.panel.show_message("The new thresholds will be used by the next count.")
            settings = counted.request.settings
        if (settings, outputs) != (counted.request.settings, counted.request.outputs) or self.retuner.is_busy:
            self.retuner.request(lambda: recount_task(counted, settings, outputs))

    def _show_counted(self, counted: Counted) -> None:
        result = counted.result
        place(self.viewer, {name: layer for name, layer in counted.layers.items() if name in self.outputs})
        self._remove_unticked(counted)
        self.counted = counted
        line = result_line(result)
        if counted.request.source.is_preview:
            line = f"preview of the view: {line}"
        details = f"{counted.request.source.image.name}\n{size_line(result)}".strip()
        self.panel.show_count(f"{result.count:,.0f}", line, details)
        self.panel.save.setEnabled(True)

    def _remove_unticked(self, counted: Counted) -> None:
        for output, box in self.panel.outputs.items():
            if not box.isChecked():
                remove(self.viewer, {**counted.request.source.key, "output": output})

    def _on_save_clicked(self) -> None:
        if self.counted is None:
            return
        name = f"{self.counted.request.source.image.name}.cells.csv"
        path, _ = QFileDialog.getSaveFileName(self, "Save cells", name, "Table (*.csv)")
        if path:
            self.save_table(Path(path))

    def save_table(self, path: Path) -> None:
        """Write the cells of the last count as CSV and tell where, or why not."""
        if self.counted is None:
            self.panel.show_message("There are no cells to save yet; count them first.", is_error=True)
            return
        try:
            write_table(path, self.counted.result)
        except CellwrightError as error:
            self._show_error(error)
        else:
            self.panel.show_message(f"Saved {path}")

    def _on_measure_clicked(self) -> None:
        try:
            layer = image_layer(self.choices.layer)
        except CellwrightError as error:
            self._show_error(error)
            return
        ask_for_line(self.viewer, layer, self._on_line_measured)
        self.panel.show_message("Draw a line across a typical cell.")

    def _on_line_measured(self, length_px: float) -> None:
        self.panel.diameter.setValue(length_px)
        self.panel.show_message("")

    def _on_region_chosen(self) -> None:
        layer = self.choices.layer
        is_drawn = self.panel.region.currentData() == "drawn"
        if is_drawn and isinstance(layer, ImageLayer) and region_layer(self.viewer) is None:
            ask_for_region(self.viewer, layer)
            self.panel.show_message("Draw a rectangle around the cells, then count.")

    def _show_family(self, family: str) -> None:
        self._settings_type = registry.get(family).settings
        self.panel.show_forms(self._settings_type)
        self.panel.thresholds.changed.connect(self._retune)
        self.panel.filters.changed.connect(self._retune)

    def _show_error(self, error: Exception) -> None:
        if not isinstance(error, CellwrightError):
            logger.error("Counting failed", exc_info=error)
        text = str(error) if isinstance(error, CellwrightError) else f"{type(error).__name__}: {error}"
        self.panel.show_message(text, is_error=True)
