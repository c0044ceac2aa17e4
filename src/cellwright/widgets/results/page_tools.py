"""The pages of counts and of tracks, kept in line with which cells count."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QSignalBlocker

from cellwright.core.errors import CellwrightError, error_line
from cellwright.core.tasks import beside
from cellwright.ops.measure.analysis import tracks_of
from cellwright.ops.measure.settings import AnalysisSettings, TrackSettings
from cellwright.ops.measure.tracks import Tracks
from cellwright.widgets.results.measuring import Measurer
from cellwright.widgets.results.model import ResultsModel
from cellwright.widgets.results.view import MarkerRow, ResultsView, TrackPage
from cellwright.widgets.results.viewer_link import ViewerLink
from cellwright.widgets.shared.cells.measured_cells import MEAN
from cellwright.widgets.shared.cells.snapshot import session_table
from cellwright.widgets.shared.jobs import debouncer
from cellwright.widgets.shared.panel_area import join_panel

if TYPE_CHECKING:
    import pandas

COUNT_MS = 120  # after the last change; the number itself follows at once
TRACK_MS = 300  # after the last change of which cells count
NOT_IN_TIME = "Cells are tracked in time series: frames (TYX) or linked volumes (TZYX)."
OUTDATED = "The cells that count have changed. Press Track again."

Found = tuple[NDArray[np.bool_], TrackSettings, Tracks]


class CountsTool(QObject):
    """Shows counts per region, class and frame, positive cells, the border rule, and colours by group."""

    def __init__(self, view: ResultsView, model: ResultsModel, link: ViewerLink, measurer: Measurer) -> None:
        super().__init__(view)
        self._view, self._model, self._link, self._measurer = view, model, link, measurer
        self.rows: dict[str, MarkerRow] = {}
        self._soon = debouncer(self, COUNT_MS, self.refresh)
        self._is_page_wanted = False  # whether the user has chosen a page
        view.tabs.tabBarClicked.connect(self._on_page_clicked)
        view.border.currentIndexChanged.connect(lambda: model.set_border(view.border.currentData()))
        view.rule.currentIndexChanged.connect(self._on_rule_chosen)
        view.colour_by.currentIndexChanged.connect(self._colour)
        view.counted_by.currentIndexChanged.connect(self.refresh)
        model.measured_changed.connect(self._begin_with_counts)
        model.measured_changed.connect(self._show_markers)
        model.kept_changed.connect(self._on_kept_changed)

    def refresh(self, _: Any = None) -> None:
        """Show the counts and who is positive for what."""
        model, view = self._model, self._view
        if model.measured is None:
            view.counts_frame.set_frame(None)
            return
        view.counts_frame.set_frame(self.table(), channel_names=model.channel_names)
        copositive = model.copositive(model.channel_names)
        view.markers_frame.set_frame(copositive)
        view.markers_table.setVisible(copositive is not None)
        if view.colour_by.currentData():
            self._colour()

    def table(self) -> "pandas.DataFrame":
        """Return the counts as they are shown: by region and frame, by one kind of group, or by image."""
        by = self._view.counted_by.currentData()
        if by == "image":
            return session_table(self._link.viewer)
        return self._model.grouped(by) if by else self._model.counts()

    def show_settings(self) -> None:
        """Show what the model is set to."""
        view, model = self._view, self._model
        for box, value in ((view.border, model.border), (view.rule, model.region_rule)):
            with QSignalBlocker(box):
                box.choose_data(value)
        self._show_markers()

    def _on_rule_chosen(self) -> None:
        self._model.region_rule = self._view.rule.currentData()
        self._measurer.read_soon()

    def _colour(self) -> None:
        by = self._view.colour_by.currentData()
        self._link.colour_by(self._model.groups(by) if by else {})

    def _on_kept_changed(self) -> None:
        for channel, threshold in self._model.thresholds.items():
            if channel in self.rows and np.isfinite(threshold):
                self.rows[channel].show_threshold(threshold)
        self._soon.throttle()

    def _on_page_clicked(self, _: int) -> None:
        self._is_page_wanted = True

    def _begin_with_counts(self) -> None:
        """Show the counts of frames and regions first of a series in time, until the user chooses a page."""
        found = self._model.per_frame()
        if found is not None and found.axis == "t" and not self._is_page_wanted:
            self._view.show_page("Counts")
            self._is_page_wanted = True

    def _show_markers(self) -> None:
        model, view = self._model, self._view
        channels = model.marker_channels
        view.markers_hint.setVisible(not channels)
        if list(self.rows) != channels:
            for old in self.rows.values():
                view.markers.removeWidget(old.box)
                old.box.hide()
                old.box.deleteLater()
            self.rows = {channel: self._new_row(channel) for channel in channels}
            join_panel(view)
        for channel, row in self.rows.items():
            row.show_channel(model.title_of(channel), *self._limits(channel))
            with QSignalBlocker(row.is_on):
                row.is_on.setChecked(channel in model.markers)

    def _limits(self, channel: str) -> tuple[float, float]:
        table = self._model.table
        assert table is not None
        values = table[f"{MEAN}{channel}"].to_numpy(np.float64)
        finite = values[np.isfinite(values)]
        if not len(finite):
            return 0.0, 1.0
        return float(finite.min()), float(finite.max())

    def _new_row(self, channel: str) -> MarkerRow:
        row = MarkerRow(self._view.markers)
        row.is_on.toggled.connect(lambda is_on: self._model.set_marker(channel, is_on=is_on))
        for control in (row.slider, row.value):
            control.valueChanged.connect(lambda value: self._set(channel, value))
        row.otsu.clicked.connect(lambda: self._set(channel, None))
        return row

    def _set(self, channel: str, threshold: float | None) -> None:
        row = self.rows[channel]
        with QSignalBlocker(row.is_on):
            row.is_on.setChecked(True)
        self._model.set_marker(channel, is_on=True, threshold=threshold)


class TrackTool(QObject):
    """Links the cells over time, and again when others count, while their layer of tracks is there."""

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
        page.interval.setValue(settings.frame_interval_s or self._model.image_interval_s)
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
        if not model.can_track:
            return
        told_s, interval_s = model.image_interval_s, page.interval.value()
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
        text = f"Tracking failed: {error}"
        if isinstance(error, CellwrightError):
            text = error_line(error)
        self._page.summary.setText(text)

    def _on_measured_changed(self) -> None:
        page, layer, told_s = self._page, self._link.layer, self._model.image_interval_s
        if layer is not self._layer or told_s != self._told_s:
            page.interval.setValue(told_s)
        if layer is not self._layer:
            self._is_on = False
        self._layer, self._told_s = layer, told_s
        can_track = self._model.can_track
        page.track.setEnabled(can_track)
        page.summary.setText("Press Track to link cells over time." if can_track else NOT_IN_TIME)

    def _on_kept_changed(self) -> None:
        if self._model.tracks is not None or not self._model.can_track:
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
