"""Plots of the cells that count: histogram with cut-offs, scatter with a lasso, strip over frames, boxes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from qtpy.QtCore import QEvent, QSignalBlocker, QSize, Qt, Signal
from qtpy.QtGui import QFontMetrics, QShowEvent
from qtpy.QtWidgets import QSizePolicy

from cellwright.widgets.shared.layer_factory import class_colour
from cellwright.widgets.shared.panel_area import ARROWS, DRAWN, LETTERS, join_panel

MOST_BINS, LEAST_BINS = 64, 8
MOST_POINTS = 20_000  # more would be drawn slowly and hide each other
POINT_PX, FEW_POINTS_PX = 3, 6
FEW_POINTS = 2_000
COLOUR, MARK = "#12908a", "#c46a08"  # seen on dark and on light
FAINT = (140, 145, 155, 90)
LEAST_HEIGHT_PX = 180
USUAL_WIDTH_PX = 280
BELOW_PX = 4  # pyqtgraph draws the name of an axis that far too low
BOX_WIDTH = 0.6
BAR_WIDTH = 0.85
TIME_UNITS = {"h": 3600.0, "min": 60.0, "s": 1.0}
QUARTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

Floats = NDArray[np.float64]


class CellPlot(pg.PlotWidget):  # type: ignore[misc]  # pyqtgraph is untyped to mypy
    """A plot in the colours of napari's theme, that does not zoom by the wheel of a panel that scrolls."""

    def __init__(self, **options: Any) -> None:
        super().__init__(background=None, **options)
        self.setCacheMode(self.CacheModeFlag.CacheNone)  # or the background stays that of the last theme
        self.setMinimumHeight(LEAST_HEIGHT_PX)
        self.setMinimumWidth(120)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.hideButtons()
        self.setMenuEnabled(False)
        self.setMouseEnabled(x=False, y=False)
        self.setObjectName(DRAWN)
        self.getPlotItem().setContentsMargins(0, 0, 0, BELOW_PX)
        for name in ("left", "bottom"):
            self.getAxis(name).enableAutoSIPrefix(enable=False)  # a score of 0.5 is none of 500 (x0.001)

    def sizeHint(self) -> QSize:
        """Return a size that fits a narrow panel."""
        return QSize(USUAL_WIDTH_PX, LEAST_HEIGHT_PX)

    def set_text_colour(self, colour: str) -> None:
        """Draw axes and numbers in this colour."""
        for name in ("left", "bottom"):
            axis = self.getAxis(name)
            axis.setPen(colour)
            axis.setTextPen(colour)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Take the font of the panel, which may have come before the plot; called by Qt."""
        super().showEvent(event)
        join_panel(self)

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow the size of the font; called by Qt."""
        super().changeEvent(event)
        if event is not None and event.type() == QEvent.Type.FontChange:
            font = self.font()
            font.setPointSizeF(LETTERS * font.pointSizeF())
            half = QFontMetrics(font).height() // 2  # of the highest tick
            self.getPlotItem().setContentsMargins(0, half, 0, BELOW_PX)
            for name in ("left", "bottom"):
                axis = self.getAxis(name)
                axis.setTickFont(font)
                axis.label.setFont(font)

    def wheelEvent(self, event: Any) -> None:
        """Leave the wheel to the panel."""
        event.ignore()

    def keyPressEvent(self, event: Any) -> None:
        """Move what is marked by the arrow keys; called by Qt."""
        right, down = ARROWS.get(event.key(), (0, 0))
        is_shifted = bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier)
        if not self.move_mark(right, down, is_shifted=is_shifted):
            event.ignore()

    def move_mark(self, right: int, down: int, *, is_shifted: bool) -> bool:
        """Move what is marked by -1, 0 or 1; return whether there was something to move."""
        return False

    def set_titles(self, x: str, y: str) -> None:
        """Name both axes."""
        self.setLabel("bottom", x)
        self.setLabel("left", y)


class Histogram(CellPlot):
    """A histogram of one column, all cells faint and those that count strong, with two cut-offs to drag."""

    range_changed = Signal(object, object)  # lowest and highest value, None where the side is open

    def __init__(self) -> None:
        super().__init__()
        self._all = pg.PlotCurveItem([0, 1], [0], stepMode="center", fillLevel=0, brush=FAINT, pen=None)
        self._kept = pg.PlotCurveItem([0, 1], [0], stepMode="center", fillLevel=0, brush=COLOUR, pen=None)
        self.cuts = pg.LinearRegionItem(
            brush=(128, 128, 128, 25), pen=pg.mkPen(MARK, width=3), swapMode="sort"
        )
        for item in (self._all, self._kept, self.cuts):
            self.addItem(item)
        self.cuts.setZValue(10)
        self.cuts.sigRegionChanged.connect(self._on_region_changed)
        self.cuts.hide()
        self._edges: Floats = np.zeros(0)
        self._places: NDArray[np.intp] = np.zeros(0, np.intp)

    def set_values(self, values: Floats) -> None:
        """Show the distribution of another column."""
        is_finite = np.isfinite(values)
        finite = values[is_finite]
        self.cuts.setVisible(len(finite) > 0)
        if not len(finite):
            self._edges = finite  # without bins
            self._all.setData([0, 1], [0])
            self._kept.setData([0, 1], [0])
            return
        low, high = float(finite.min()), float(finite.max())
        if low == high:
            low, high = low - 0.5, high + 0.5
        n_bins = int(np.clip(2 * len(finite) ** 0.5, LEAST_BINS, MOST_BINS))
        self._edges = np.linspace(low, high, n_bins + 1)
        places = np.zeros(len(values), np.intp)
        places[is_finite] = np.clip((finite - low) / (high - low) * n_bins, 0, n_bins - 1).astype(np.intp) + 1
        self._places = places  # bin of each cell from 1, 0 for none
        counts = np.bincount(places, minlength=n_bins + 1)[1:]
        self._all.setData(self._edges, counts)
        self.setXRange(low, high, padding=0.04)
        self.setYRange(0, max(int(counts.max()), 1), padding=0.05)

    def set_kept(self, kept: NDArray[np.bool_]) -> None:
        """Tell which cells count."""
        if len(kept) == len(self._places) and len(self._edges):
            counts = np.bincount(self._places[kept], minlength=len(self._edges))[1:]
            self._kept.setData(self._edges, counts)

    def set_range(self, low: float | None, high: float | None) -> None:
        """Put the cut-offs where they are set; open sides lie at the ends."""
        if not len(self._edges):
            return
        first = self._edges[0] if low is None else low
        last = self._edges[-1] if high is None else high
        with QSignalBlocker(self.cuts):
            self.cuts.setRegion((first, last))

    def move_mark(self, right: int, down: int, *, is_shifted: bool) -> bool:
        """Move the lower cut-off by a bin, with Shift the upper one."""
        if not right or not len(self._edges):
            return False
        ends = list(self.cuts.getRegion())
        moved = ends[is_shifted] + right * (self._edges[1] - self._edges[0])
        lowest, highest = self._edges[0], ends[1]
        if is_shifted:
            lowest, highest = ends[0], self._edges[-1]
        ends[is_shifted] = float(np.clip(moved, lowest, highest))
        self.cuts.setRegion(ends)
        return True

    def _on_region_changed(self) -> None:
        low, high = self.cuts.getRegion()
        step = (self._edges[-1] - self._edges[0]) * 1e-6
        if low <= self._edges[0] + step:
            low = None
        if high >= self._edges[-1] - step:
            high = None
        self.range_changed.emit(low, high)


class LassoBox(pg.ViewBox):  # type: ignore[misc]
    """The inside of a scatter plot, in which a drag draws a closed line while ``is_drawing``."""

    drawn = Signal(object)  # corners (N, 2)

    def __init__(self) -> None:
        super().__init__(enableMenu=False)
        self.is_drawing = False
        self.line = pg.PlotCurveItem(pen=pg.mkPen(MARK, width=2))
        self._corners: list[tuple[float, float]] = []

    def mouseDragEvent(self, event: Any, axis: int | None = None) -> None:
        """Draw, or move as any plot does."""
        if not self.is_drawing or event.button() != Qt.MouseButton.LeftButton:
            super().mouseDragEvent(event, axis)
            return
        event.accept()
        if event.isStart():
            first = self.mapToView(event.buttonDownPos())
            self._corners = [(first.x(), first.y())]
        place = self.mapToView(event.pos())
        self._corners.append((place.x(), place.y()))
        corners = np.array([*self._corners, self._corners[0]])
        self.line.setData(corners[:, 0], corners[:, 1])
        if event.isFinish() and len(self._corners) > 2:
            self.drawn.emit(np.array(self._corners))


class Scatter(CellPlot):
    """Two columns against each other, with a gate drawn by hand; a click chooses the nearest cell."""

    gate_drawn = Signal(object)  # corners (N, 2)
    cell_clicked = Signal(int)  # row of the table

    def __init__(self) -> None:
        self.box = LassoBox()
        super().__init__(viewBox=self.box)
        self._all = pg.ScatterPlotItem(size=POINT_PX, pen=None, brush=FAINT, pxMode=True)
        self._kept = pg.ScatterPlotItem(size=POINT_PX, pen=None, brush=COLOUR, pxMode=True)
        self._chosen = pg.ScatterPlotItem(size=11, pen=pg.mkPen(MARK, width=2), brush=None)
        for item in (self._all, self._kept, self._chosen, self.box.line):
            self.addItem(item)
        self.box.drawn.connect(self.gate_drawn)
        self.scene().sigMouseClicked.connect(self._on_clicked)
        self._x: Floats = np.zeros(0)
        self._y: Floats = np.zeros(0)
        self._rows: NDArray[np.intp] = np.zeros(0, np.intp)
        self._row = -1  # of the chosen cell

    @property
    def is_thinned(self) -> bool:
        """Whether not all cells are drawn."""
        return len(self._rows) < len(self._x)

    def set_values(self, x: Floats, y: Floats) -> None:
        """Show two other columns."""
        self._x, self._y = x, y
        rows = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        if len(rows) > MOST_POINTS:
            rows = np.sort(np.random.default_rng(0).choice(rows, MOST_POINTS, replace=False))
        self._rows = rows
        for points in (self._all, self._kept):
            points.setSize(FEW_POINTS_PX if len(rows) <= FEW_POINTS else POINT_PX)
        self._all.setData(x[rows], y[rows])
        if len(rows):
            self.setXRange(float(x[rows].min()), float(x[rows].max()), padding=0.04)
            self.setYRange(float(y[rows].min()), float(y[rows].max()), padding=0.04)

    def set_kept(self, kept: NDArray[np.bool_]) -> None:
        """Tell which cells count."""
        if len(kept) == len(self._x):
            rows = self._rows[kept[self._rows]]
            self._kept.setData(self._x[rows], self._y[rows])

    def set_gate(self, corners: Floats | None) -> None:
        """Show a gate, or none."""
        if corners is None:
            self.box.line.setData([], [])
            return
        closed = np.concatenate([corners, corners[:1]])
        self.box.line.setData(closed[:, 0], closed[:, 1])

    def set_chosen(self, row: int) -> None:
        """Mark the chosen cell."""
        self._row = row
        if 0 <= row < len(self._x):
            self._chosen.setData([self._x[row]], [self._y[row]])
        else:
            self._chosen.setData([], [])

    def move_mark(self, right: int, down: int, *, is_shifted: bool) -> bool:
        """Choose the next cell along an axis, the first where none that is drawn is chosen."""
        if not (right or down) or not len(self._rows):
            return False
        along = self._x[self._rows] if right else -self._y[self._rows]
        order = self._rows[np.argsort(along, kind="stable")]
        place = 0
        if self._row in order:
            place = int(np.clip(np.flatnonzero(order == self._row)[0] + right + down, 0, len(order) - 1))
        self.cell_clicked.emit(int(order[place]))
        return True

    def _on_clicked(self, event: Any) -> None:
        hits = self._all.pointsAt(self.box.mapSceneToView(event.scenePos()))
        if len(hits):
            self.cell_clicked.emit(int(self._rows[hits[0].index()]))


class Strip(CellPlot):
    """How many cells count in each frame or slice, in each region too; a click goes there."""

    frame_clicked = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._bars = pg.BarGraphItem(x=[0], height=[0], width=BAR_WIDTH, brush=COLOUR, pen=None)
        self._here = pg.InfiniteLine(pen=pg.mkPen(MARK, width=2))
        self.addItem(self._bars)
        self.addItem(self._here)
        self.scene().sigMouseClicked.connect(self._on_clicked)
        self._first, self._n = 0, 0
        self._lines: list[Any] = []

    def set_counts(
        self, counts: NDArray[np.intp], groups: Sequence[NDArray[np.intp]] = (), first: int = 0
    ) -> None:
        """Show the counts of frames from the first as bars, and of each group as a line before faint bars."""
        self._first, self._n = first, len(counts)
        self._bars.setOpts(x=first + np.arange(self._n), height=counts, brush=FAINT if groups else COLOUR)
        for line in self._lines:
            self.removeItem(line)
        self._lines = [self._line(place, found) for place, found in enumerate(groups)]
        self.setXRange(first - 0.5, first + max(self._n - 0.5, 0.5), padding=0.02)
        self.setYRange(0, max(int(counts.max(initial=0)), 1), padding=0.05)

    def _line(self, place: int, counts: NDArray[np.intp]) -> Any:
        colour, frames = class_colour(place), self._first + np.arange(len(counts))
        looks = {"symbol": "o", "symbolSize": 6, "symbolBrush": colour, "symbolPen": None}
        return self.plot(frames, counts, pen=pg.mkPen(colour, width=2), **looks)

    def set_interval(self, seconds: float) -> str:
        """Let the axis tell the time, of frames so many seconds apart, or frames for 0; return its unit."""
        unit, length = "", 1.0
        if seconds:
            whole = seconds * self._n
            unit, length = next((one, s) for one, s in TIME_UNITS.items() if whole >= 2 * s or s == 1)
        self.getPlotItem().getAxis("bottom").setScale((seconds or 1.0) / length)
        return unit

    def set_frame(self, number: float) -> None:
        """Mark the frame that the viewer shows."""
        self._here.setValue(number)

    def move_mark(self, right: int, down: int, *, is_shifted: bool) -> bool:
        """Go to the next frame."""
        if right:
            self._go_to(self._here.value() + right)
        return bool(right)

    def _on_clicked(self, event: Any) -> None:
        self._go_to(self.getPlotItem().vb.mapSceneToView(event.scenePos()).x())

    def _go_to(self, place: float) -> None:
        if self._n:
            last = self._first + self._n - 1
            self.frame_clicked.emit(int(np.clip(round(place), self._first, last)))


class Boxes(CellPlot):
    """Median, quartiles, and 5 to 95 % of one column for each region, class or other group."""

    def __init__(self) -> None:
        super().__init__()
        self._items: list[Any] = []

    def set_groups(self, groups: Mapping[str, Floats]) -> None:
        """Show one box for each group; those without cells stay empty."""
        for item in self._items:
            self.removeItem(item)
        self._items = []
        for place, values in enumerate(groups.values()):
            finite = values[np.isfinite(values)]
            if len(finite):
                self._add_box(place, np.quantile(finite, QUARTILES).tolist(), class_colour(place))
        counts = [f"{np.isfinite(values).sum():,}" for values in groups.values()]
        self.getAxis("bottom").setTicks([list(enumerate(counts))])
        self.setXRange(-0.6, max(len(groups) - 0.4, 0.6), padding=0)
        self.enableAutoRange("y")

    def _add_box(self, place: int, quantiles: Sequence[float], colour: str) -> None:
        lowest, low, middle, high, highest = quantiles
        pen = pg.mkPen(colour, width=2)
        half = BOX_WIDTH / 2
        fill = pg.mkColor(colour)
        fill.setAlpha(90)
        self._items += [
            pg.BarGraphItem(x=[place], y0=[low], y1=[high], width=BOX_WIDTH, pen=pen, brush=fill),
            pg.PlotCurveItem([place - half, place + half], [middle, middle], pen=pen),
            pg.PlotCurveItem([place, place], [lowest, low], pen=pen),
            pg.PlotCurveItem([place, place], [high, highest], pen=pen),
        ]
        for item in self._items[-4:]:
            self.addItem(item)
