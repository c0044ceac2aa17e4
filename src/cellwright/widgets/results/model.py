"""What the results panel knows: the cells, which of them count, and how many of which kind; no Qt, no napari.

::

    measured table -> border, conditions, gate, regions -> kept -> markers -> counts
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from cellwright.core.data import Result
from cellwright.core.errors import CellwrightError
from cellwright.ops.measure import filters
from cellwright.ops.measure.analysis import Analysis, PlaneCounts, counts_table, per_plane
from cellwright.ops.measure.cells_table import class_names, is_volumetric, label_axes
from cellwright.ops.measure.columns import CELL_SIZES, NO_NAMES, heading_of
from cellwright.ops.measure.regions import RegionRule, RegionSet
from cellwright.ops.measure.settings import AnalysisSettings, MeasureSettings, TrackSettings
from cellwright.ops.measure.tracks import Tracks
from cellwright.widgets.shared.cells.measured_cells import MEAN, MeasuredCells
from cellwright.widgets.shared.edited_layers import is_same_count
from cellwright.widgets.shared.messages import CountEvent

if TYPE_CHECKING:
    import pandas


class ResultsModel:
    """State of the results panel; the signals tell what has changed."""

    measured_changed = Signal()  # another table
    kept_changed = Signal()  # other cells count
    chosen_changed = Signal(int)  # row that was chosen, -1 for none
    conditions_changed = Signal(str)  # as people read them
    let_go = Signal(str)  # what was to be taken up of columns that are not there
    tracks_changed = Signal()  # other tracks or none

    def __init__(self) -> None:
        self.measured: MeasuredCells | None = None
        self.count_event: CountEvent | None = None  # the last count, which may have an interval
        self.measuring = MeasureSettings(measure=())
        self.cytoplasm_px = 0.0
        self.border: filters.BorderRule = "all"
        self.region_rule: RegionRule = "centre"
        self.conditions: tuple[filters.ColumnFilter, ...] = ()
        self.gate: filters.ScatterGate | None = None
        self.markers: dict[str, float | None] = {}
        self.thresholds: dict[str, float] = {}
        # filters, markers and a gate, taken once there is a table for them
        self.wanted: tuple[str, tuple[filters.Marker, ...], filters.ScatterGate | None] | None = None
        self.kept: NDArray[np.bool_] = np.zeros(0, bool)
        self.chosen = -1
        self.tracks: Tracks | None = None  # of the cells that count; none once others do
        self.tracking = TrackSettings()  # of the tracks that there are

    # -- what is known ------------------------------------------------------------------------------------

    @property
    def table(self) -> "pandas.DataFrame | None":
        """All cells, counted or not."""
        return None if self.measured is None else self.measured.table

    @property
    def kept_table(self) -> "pandas.DataFrame":
        """The cells that count."""
        assert self.measured is not None
        return self.measured.table.loc[self.kept].reset_index(drop=True)

    @property
    def kept_result(self) -> Result:
        """The cells that count; its labels are renumbered."""
        assert self.measured is not None
        result = self.measured.result
        if self.n_kept == self.n_cells:
            return result
        return replace(result, cells=result.cells.take(self.kept))

    @property
    def n_cells(self) -> int:
        """Number of cells, counted or not."""
        return len(self.kept)

    @property
    def n_kept(self) -> int:
        """Number of cells that count."""
        return int(self.kept.sum())

    @property
    def nuclei_text(self) -> str:
        """How many of the cells have no nucleus, and how many nuclei no cell; empty without nuclei."""
        measured = self.measured
        if measured is None or measured.nuclei is None:
            return ""
        n_without = int((measured.table["nuclei"].to_numpy()[self.kept] == 0).sum())
        text = f"{n_without:,} without nucleus"
        if measured.nuclei.n_outside:
            text += f" · {measured.nuclei.n_outside:,} nuclei in no cell"
        return text

    @property
    def left_out(self) -> list[str]:
        """Why how many cells do not count: for the regions, else the border rule, else the filter."""
        measured = self.measured
        if measured is None:
            return []
        by = "by the filter" if self.gate is None else "by the gate"
        if self.gate is not None and self.conditions:
            by = "by filter or gate"
        is_inside, is_away = measured.membership.any(axis=1), measured.away_from_border(self.border)
        rows = {
            "outside the regions": ~is_inside,
            "at the border": is_inside & ~is_away,
            by: is_inside & is_away & ~self.kept,
        }
        return [f"{one.sum():,} {why}" for why, one in rows.items() if one.any()]

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 90 % interval of the last count, while its cells, all and unchanged, are those here."""
        event, measured = self.count_event, self.measured
        if event is None or self.n_kept != self.n_cells:
            return None
        if measured is None:
            return None if event.layer_id else event.interval  # a density has no layer of cells
        is_changed = measured.snapshot.is_edited or measured.n_edited or self.n_cells != round(event.count)
        if is_changed or not is_same_count(measured.result.provenance, event.provenance):
            return None
        return event.interval

    @property
    def by_hand_text(self) -> str:
        """How many cells were drawn or changed by hand, or that some were deleted since; '' for none."""
        event, measured = self.count_event, self.measured
        if measured is not None and measured.n_edited:
            return f"{measured.n_edited:,} by hand"
        if measured is None or not measured.snapshot.is_edited:
            return ""
        known = measured.snapshot
        is_changed = bool(known.provenance) and known.found is None  # resumed: a count keeps what it found
        if event is not None and is_same_count(measured.result.provenance, event.provenance):
            is_changed = self.n_cells != round(event.count)
        if is_changed:
            return "changed by hand"
        return ""

    @property
    def pixels_text(self) -> str:
        """That the image has been given other pixels since its cells were counted; '' where it has not."""
        is_other = self.measured is not None and self.measured.snapshot.is_of_other_pixels
        return "counted in pixels that have changed since" if is_other else ""

    @property
    def regions(self) -> RegionSet:
        """Where cells are counted."""
        return RegionSet(rule=self.region_rule) if self.measured is None else self.measured.snapshot.regions

    @property
    def number_columns(self) -> list[str]:
        """Names of the columns that hold numbers worth a plot."""
        table = self.table
        if table is None:
            return []
        others = {"label", *self.track_columns}
        names = [str(name) for name in table if name not in others and table[name].dtype.kind in "if"]
        return [name for name in names if not name.startswith("box_")]

    @property
    def track_columns(self) -> list[str]:
        """Names of the columns that tell of tracks; which cells count cannot depend on them."""
        return [] if self.tracks is None else list(self.tracks.columns())

    @property
    def can_track(self) -> bool:
        """Whether the cells can be tracked: of planes over time, and of volumes where they are linked."""
        if self.measured is None:
            return False
        axes = label_axes(self.measured.result)
        return axes == "TYX" or (axes == "TZYX" and is_volumetric(self.measured.result))

    @property
    def marker_channels(self) -> list[str]:
        """Channels and images whose mean intensity is known."""
        return [] if self.measured is None else self.measured.marker_channels

    @property
    def channel_names(self) -> dict[str, str]:
        """How people call channels and further images."""
        return {} if self.measured is None else self.measured.channel_names

    def title_of(self, channel: str) -> str:
        """Return how people call one of these: with the name in the file, where it is known."""
        return channel if self.measured is None else self.measured.title_of(channel)

    @property
    def settings(self) -> AnalysisSettings:
        """All of it as the settings of an analysis; a gate has no place in them."""
        positive = []
        for channel, threshold in self.markers.items():
            name = channel.removeprefix("ch") if channel[2:].isdigit() else channel
            positive.append(f"{name}>otsu" if threshold is None else f"{name}>{threshold:g}")
        return AnalysisSettings(
            **asdict(self.measuring),
            region_rule=self.region_rule,
            border=self.border,
            keep=tuple(map(str, self.conditions)),
            positive=tuple(positive),
            cytoplasm_px=self.cytoplasm_px,
            track=self.tracks is not None,
            track_distance_px=self.tracking.max_distance_px,
            track_gap=self.tracking.max_gap,
            divisions=self.tracking.divisions,
            frame_interval_s=self.tracking.frame_interval_s,
        )

    # -- what changes it ----------------------------------------------------------------------------------

    def set_measured(self, measured: MeasuredCells | None) -> None:
        """Take another table."""
        if self.tracks is not None:
            self.set_tracks(None)
        row = -1
        if self.measured is not None and measured is not None:
            row = self.measured.row_in(measured, self.chosen)
        self.measured = measured
        is_as_asked = measured is not None and measured.settings.measure == self.measuring.measure
        if is_as_asked and self.wanted is not None:
            conditions, markers, gate = self.wanted
            self.wanted, self.gate = None, gate or self.gate
            self.markers = {marker.channel: marker.threshold for marker in markers}
            self._take_conditions(map(filters.parse_filter, filters.split_filters(conditions)))
        gone = self._prune()
        self.recount(is_quiet=True)
        if row < 0:
            self.choose(-1)
        self.chosen = row  # the same cell, at which the viewer need not look again
        self.measured_changed.emit()
        self.kept_changed.emit()
        if gone:
            self.let_go.emit(f"Not measured here, and left out: {', '.join(gone)}.")

    def set_border(self, rule: filters.BorderRule) -> None:
        """Choose which cells at the border count."""
        self.border = rule
        self.recount()

    def set_conditions(self, text: str) -> None:
        """Count only cells for which this is true: ``area_um2 >= 20 and class = WBC``.

        Headings are taken for their columns: ``Mean GFP > 300``, with commas or *and* in double quotes.
        SettingsError where it cannot be read, or there is no such column, class or region; nothing changes.
        """
        parts = filters.split_filters(text)
        conditions = tuple(map(filters.parse_filter, parts))
        if self.table is not None:
            conditions = tuple(map(self._of_a_column, conditions))
            parts = list(map(str, conditions))
            filters.kept_rows(self.table.head(0).drop(columns=self.track_columns), conditions)
            names = {"class", "regions"} & {*self.table}
            known_texts = {name: {*"; ".join(self.table[name]).split("; ")} - {""} for name in names}
            filters.check_texts(parts, {name: sorted(texts) for name, texts in known_texts.items()})
        self._take_conditions(conditions)
        self.recount()

    def _take_conditions(self, conditions: Iterable[filters.ColumnFilter]) -> None:
        self.conditions = tuple(conditions)
        self.conditions_changed.emit(self.conditions_text)

    def _of_a_column(self, condition: filters.ColumnFilter) -> filters.ColumnFilter:
        """Return a condition on a heading, with its unit or, where one column alone has it, without."""
        if self.table is None or condition.column in self.table:
            return condition
        asked, found = condition.column.casefold(), []
        for name in map(str, self.table):
            heading = heading_of(name, self.channel_names).casefold()
            if asked in (heading, heading.partition(" [")[0]):
                found.append(name)
        return replace(condition, column=found[0]) if len(found) == 1 else condition

    def set_range(self, column: str, low: float | None, high: float | None) -> None:
        """Count only cells whose value lies from ``low`` to ``high``; None leaves that side open."""
        others = [one for one in self.conditions if one.column != column or one.sign not in (">=", "<=")]
        for sign, value in ((">=", low), ("<=", high)):
            if value is not None:
                others.append(filters.ColumnFilter(column, sign, float(f"{value:.{filters.DIGITS}g}")))
        if tuple(others) != self.conditions:
            self._take_conditions(others)
            self.recount()

    def range_of(self, column: str) -> tuple[float | None, float | None]:
        """Return the cut-offs of a column."""
        own = [one for one in self.conditions if one.column == column]
        found = {one.sign: one.value for one in own if isinstance(one.value, float)}
        return found.get(">="), found.get("<=")

    @property
    def conditions_text(self) -> str:
        """The conditions as a user writes them."""
        return " and ".join(one.shown for one in self.conditions)

    def set_gate(self, gate: filters.ScatterGate | None) -> None:
        """Count only cells inside a polygon drawn over two columns."""
        self.gate = gate
        self.recount()

    def set_marker(self, channel: str, *, is_on: bool, threshold: float | None = None) -> None:
        """Tell which cells are positive in a channel; without a threshold Otsu's method finds it."""
        self.markers.pop(channel, None)
        if is_on:
            self.markers[channel] = None if threshold is None else float(f"{threshold:.{filters.DIGITS}g}")
        order = self.marker_channels
        self.markers = {name: self.markers[name] for name in order if name in self.markers}
        self.recount()

    def choose(self, row: int) -> None:
        """Choose a cell by its row in the table; -1 for none."""
        if row != self.chosen:
            self.chosen = row
            self.chosen_changed.emit(row)

    def recount(self, *, is_quiet: bool = False) -> None:
        """Find out again which cells count."""
        measured = self.measured
        if measured is None:
            self.kept = np.zeros(0, bool)
        else:
            kept = measured.away_from_border(self.border) & measured.membership.any(axis=1)
            kept &= filters.kept_rows(measured.table, self.conditions)
            if self.gate is not None:
                kept &= self.gate.keeps(measured.table)
            if self.tracks is not None and not np.array_equal(kept, self.kept):
                self.set_tracks(None)
            self.kept = kept
            self._mark_positive(measured)
        if not is_quiet:
            self.kept_changed.emit()

    def set_tracks(self, tracks: Tracks | None, settings: TrackSettings | None = None) -> None:
        """Take the tracks of the cells that count, and what they were made with; or none."""
        table = self.table
        if table is not None:
            for name in self.track_columns:
                del table[name]
        self.tracks, self.tracking = tracks, settings or TrackSettings()
        if table is not None and tracks is not None:
            for name, values in tracks.columns().items():
                column = np.full(len(table), np.nan if values.dtype.kind == "f" else 0, values.dtype)
                column[self.kept] = values
                table[name] = column
        self.tracks_changed.emit()

    # -- numbers ------------------------------------------------------------------------------------------

    def counts(self) -> "pandas.DataFrame":
        """Return one row per region and frame, with classes, positive cells and densities."""
        measured = self.measured
        assert measured is not None
        cells, kept = measured.result.cells, self.kept
        part = replace(cells, labels=None).take(kept)
        result = replace(measured.result, cells=replace(part, labels=cells.labels))  # for its shape alone
        membership, interval_s = measured.membership[kept], self.frame_interval_s
        return counts_table(result, self.kept_table, self.regions, membership, measured.sizes, interval_s)

    def lineages(self) -> "pandas.DataFrame | None":
        """Return one row per track, None without tracks."""
        return None if self.tracks is None else self.tracks.lineage_table(self.tracking.frame_interval_s)

    @property
    def image_interval_s(self) -> float:
        """Seconds from frame to frame, as the image tells; 0 where it does not."""
        return 0.0 if self.measured is None else self.measured.snapshot.image.frame_interval_s

    @property
    def frame_interval_s(self) -> float:
        """Seconds from frame to frame, as the cells were tracked with, else as the image tells."""
        return self.tracking.frame_interval_s or self.image_interval_s

    def first_row_of(self, track: int) -> int:
        """Return the row of the first cell of a track; -1 without tracks."""
        if self.tracks is None:
            return -1
        own = np.flatnonzero(self.tracks.numbers == track)
        return int(np.flatnonzero(self.kept)[own[self.tracks.frames[own].argmin()]])

    def groups(self, by: str) -> dict[str, NDArray[np.bool_]]:
        """Return the cells that count by region, class, markers or frame, a mask of the table each."""
        measured = self.measured
        if measured is None:
            return {}
        if by == "region":
            names = enumerate(self.regions.names)
            return {name: self.kept & measured.membership[:, place] for place, name in names}
        if by == "class" and "class" in measured.table:
            classes = measured.table["class"].to_numpy(object)
            order = (*class_names(measured.result), "")
            return {name or "none": self.kept & (classes == name) for name in order if name in classes}
        if by == "markers" and self.thresholds:
            groups = filters.marker_groups(measured.table, tuple(self.thresholds), self.channel_names)
            return {name: self.kept & rows for name, rows in groups}
        if by == "frame" and len(label_axes(measured.result)) > 2:
            return {name: self.kept & rows for name, rows in measured.by_frame().items()}
        return {"all": self.kept}

    def grouped(self, by: str) -> "pandas.DataFrame":
        """Return one row per group of :meth:`groups`: ``group``, ``count``, ``percent``, median size."""
        import pandas

        table = self.table
        assert table is not None
        size = next((name for name in CELL_SIZES if name in table), "")
        rows = []
        for name, mask in self.groups(by).items():
            n_cells = int(mask.sum())
            percent = 100 * n_cells / max(self.n_kept, 1)
            row: dict[str, Any] = {"group": name, "count": n_cells, "percent": percent}
            if size and n_cells:
                row[f"median_{size}"] = float(np.nanmedian(table[size].to_numpy(float)[mask]))
            rows.append(row)
        return pandas.DataFrame(rows)

    def copositive(self, names: Mapping[str, str] = NO_NAMES) -> "pandas.DataFrame | None":
        """Return which markers go together, None without markers; channels are called by these names."""
        if not self.thresholds or self.measured is None:
            return None
        return filters.copositive_table(self.kept_table, tuple(self.thresholds), names)

    def per_frame(self, cells: NDArray[np.bool_] | None = None) -> PlaneCounts | None:
        """Return how many cells count in each frame or slice; None for one plane.

        ``cells`` is a mask of the table; None takes those that count.
        """
        measured = self.measured
        if measured is None:
            return None
        return per_plane(measured.result, self.kept if cells is None else cells)

    def analysis(self) -> Analysis:
        """Return what counts as an analysis, for reports and files."""
        measured = self.measured
        assert measured is not None
        result = replace(self.kept_result, count=float(self.n_kept), interval=self.interval)
        notices = []
        if self.n_kept < self.n_cells:
            sentence = ", ".join([f"{self.n_cells} cells were left out", *self.left_out])
            notices.append(f"{self.n_cells - self.n_kept} of {sentence}.")
        if self.by_hand_text:
            notices += [f"By hand: {one}." for one in measured.by_hand]
        if self.pixels_text:
            notices.append(f"The cells were {self.pixels_text}.")
        if self.gate is not None:
            notices.append(f"Only cells inside a gate drawn over {self.gate.x} and {self.gate.y} count.")
        return Analysis(
            result=result,
            table=self.kept_table,
            rows=np.flatnonzero(self.kept),
            counts=self.counts(),
            thresholds=dict(self.thresholds),
            nuclei=measured.nuclei,
            copositive=self.copositive(),
            tracks=self.tracks,
            lineages=self.lineages(),
            notices=tuple(notices),
            names=self.channel_names,
        )

    def _mark_positive(self, measured: MeasuredCells) -> None:
        table = measured.table
        for name in [name for name in map(str, table) if name.startswith("positive_")]:
            if name.removeprefix("positive_") not in self.markers:
                del table[name]
        markers = [filters.Marker(channel, threshold) for channel, threshold in self.markers.items()]
        columns = [marker.column for marker in markers]
        self.thresholds = filters.thresholds_of(table.loc[self.kept, columns], markers)
        filters.add_positive(table, self.thresholds)

    def _prune(self) -> list[str]:
        """Let go of what is asked of columns that are not there, and return it as texts."""
        if self.table is None:
            return []
        gone, kept = [], []
        for one in map(self._of_a_column, self.conditions):  # typed before there were columns, maybe
            try:
                one.keeps(self.table.head(0))
            except CellwrightError:
                gone.append(str(one))
            else:
                kept.append(one)
        for name in [name for name in self.markers if f"{MEAN}{name}" not in self.table]:
            del self.markers[name]
            gone.append(f"cells positive for {name}")
        if self.gate is not None and not {self.gate.x, self.gate.y} <= {*self.table}:
            gone.append(f"the gate over {self.gate.x} and {self.gate.y}")
            self.gate = None
        if tuple(kept) != self.conditions:
            self._take_conditions(kept)
        return gone
