"""Links the cells that count over time, and again when others count, while their layer of tracks is there."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject

from cellwright.core.errors import CellwrightError, error_line
from cellwright.core.tasks import beside
from cellwright.ops.measure.analysis import tracks_of
from cellwright.ops.measure.settings import AnalysisSettings, TrackSettings
from cellwright.ops.measure.tracks import Tracks
from cellwright.widgets.results.model import ResultsModel
from cellwright.widgets.results.view import TrackPage
from cellwright.widgets.results.viewer_link import ViewerLink
from cellwright.widgets.shared.jobs import debouncer

TRACK_MS = 300  # after the last change of which cells count
NOT_IN_TIME = "Cells are tracked in time series: frames (TYX) or linked volumes (TZYX)."
OUTDATED = "The cells that count have changed. Press Track again."

Found = tuple[NDArray[np.bool_], TrackSettings, Tracks]


class TrackTool(QObject):
    """Keeps tracks, their layer and the table of lineages in line with the cells that count."""

    def __init__(self, page: TrackPage, model: ResultsModel, link: ViewerLink) -> None:
        super().__init__(page)
        self._page, self._model, self._link = page, model, link
        self._is_on = self._is_stale = self._is_wanted = self._has_none = False
        self._layer: Any = None
        self._told_s = 0.0  # frame interval of its image
        self._soon = debouncer(self, TRACK_MS, self._start)
        page.track.clicked.connect(self._on_track_clicked)
        page.table.row_chosen.connect(lambda row: model.choose(model.first_row_of(row + 1)))
        page.job_bar.failed.connect(self._on_failed)
        page.job_bar.cancelled.connect(self._on_cancelled)
        page.job_bar.finished.connect(self._on_finished)
        model.measured_changed.connect(self._on_measured_changed)
        model.kept_changed.connect(self._on_kept_changed)
        model.tracks_changed.connect(self._on_tracks_changed)
        self._on_measured_changed()

    @property
    def is_busy(self) -> bool:
        """Whether cells are being tracked, or are to be."""
        return self._is_stale or self._page.job_bar.is_busy

    def take(self, settings: AnalysisSettings) -> None:
        """Set the controls as settings tell, and track where they do."""
        page = self._page
        page.distance.setValue(settings.track_distance_px)
        page.gap.setValue(settings.track_gap)
        page.divisions.setChecked(settings.divisions)
        page.interval.setValue(settings.frame_interval_s or self._model.told_interval_s)
        self._is_wanted = settings.track

    def _on_track_clicked(self) -> None:
        self._is_on = True
        self._start()

    def _start(self) -> None:
        self._is_stale = self._page.job_bar.is_busy
        if self._is_stale:
            self._page.job_bar.cancel()
            return
        model, page = self._model, self._page
        if model.measured is None or not model.track_axes:
            return
        told_s, interval_s = model.told_interval_s, page.interval.value()
        if round(told_s, page.interval.decimals()) == interval_s:  # the box rounds
            interval_s = told_s
        settings = TrackSettings(
            page.distance.value(), page.gap.value(), page.divisions.isChecked(), interval_s
        )
        self._page.summary.setText("Linking the cells…")
        result, kept = model.kept_result, model.kept
        task = beside("track", lambda: (kept, settings, tracks_of(result, settings)))
        self._page.job_bar.start(task, self._on_tracked)

    def _on_tracked(self, found: Found) -> None:
        kept, settings, tracks = found
        if kept is not self._model.kept or self._is_stale:
            self._is_stale = True
            return
        self._has_none = tracks.count == 0
        self._model.set_tracks(tracks, settings)
        self._link.show_tracks()
        self._link.write_features()

    def _on_finished(self) -> None:
        if self._is_stale and self._is_on:
            self._start()
        self._is_stale = self._is_stale and self._is_on

    def _on_cancelled(self) -> None:
        if not self._is_stale:
            self._is_on = False
            self._page.summary.setText("Cancelled.")

    def _on_failed(self, error: Exception) -> None:
        self._is_on = False
        text = error_line(error) if isinstance(error, CellwrightError) else f"Tracking failed: {error}"
        self._page.summary.setText(text)

    def _on_measured_changed(self) -> None:
        page, layer, told_s = self._page, self._link.layer, self._model.told_interval_s
        if layer is not self._layer or told_s != self._told_s:
            page.interval.setValue(told_s)
        if layer is not self._layer:
            self._is_on = False
        self._layer, self._told_s = layer, told_s
        can_track = bool(self._model.track_axes)
        page.track.setEnabled(can_track)
        page.summary.setText("Press Track to link cells over time." if can_track else NOT_IN_TIME)

    def _on_kept_changed(self) -> None:
        if self._model.tracks is not None or not self._model.track_axes:
            return
        if self._is_wanted:
            self._is_wanted = False
            self._on_track_clicked()
            return
        layer = self._link.layer
        if layer is not None and "track" in layer.features:
            self._link.write_features()
        is_gone = self._link.tracks_layer is None and not self._has_none
        if self._is_on and is_gone and not self.is_busy:
            self._is_on = False  # its layer was deleted
            self._page.summary.setText(OUTDATED)
        if self._is_on:
            self._is_stale = True
            self._page.summary.setText("The cells that count have changed: linking them again…")
            self._soon.throttle()

    def _on_tracks_changed(self) -> None:
        page, model = self._page, self._model
        lineages = model.lineages()
        page.frame.set_frame(lineages)
        if model.tracks is not None and lineages is not None:
            page.summary.setText(model.tracks.summary(lineages))
