"""Counts per region, class and frame, positive cells, the border rule, and colours by group."""

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, QSignalBlocker

from cellwright.widgets.results.measuring import Measurer
from cellwright.widgets.results.model import MEAN, ResultsModel
from cellwright.widgets.results.view import MarkerRow, ResultsView
from cellwright.widgets.results.viewer_link import ViewerLink
from cellwright.widgets.shared.cells.snapshot import session_table
from cellwright.widgets.shared.jobs import debouncer

if TYPE_CHECKING:
    import pandas

COUNT_MS = 120  # after the last change; the number itself follows at once


class CountsTool(QObject):
    """Keeps the page of counts in line with the model."""

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
        if by:
            return self._model.grouped(by)
        return self._model.counts()

    def show_settings(self) -> None:
        """Show what the model is set to."""
        view, model = self._view, self._model
        for box, value in ((view.border, model.border), (view.rule, model.region_rule)):
            with QSignalBlocker(box):
                box.setCurrentIndex(box.findData(value))
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
        if found is not None and found[0] == "t" and not self._is_page_wanted:
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
