"""Draws the plots of the panel and takes cut-offs, gates and clicks from them."""

from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QBuffer, QIODevice, QObject, QSignalBlocker
from qtpy.QtWidgets import QWidget
from superqt.utils import QSignalThrottler

from cellwright.ops.measure.columns import CELL_SIZES, PIXEL_COUNTS, heading_of
from cellwright.ops.measure.filters import ScatterGate
from cellwright.widgets.results.model import ResultsModel
from cellwright.widgets.results.plots import Boxes, CellPlot, Histogram, Scatter, Strip
from cellwright.widgets.results.view import PLOTS, ResultsView
from cellwright.widgets.results.viewer_link import ViewerLink
from cellwright.widgets.shared.layer_factory import legend
from cellwright.widgets.shared.messages import listen
from cellwright.widgets.shared.napari_private import preferences

REDRAW_MS = 30
FIRST_Y = ("intensity_mean_ch0", "circularity", "sphericity", "score", "diameter_um", "diameter_px")
PICTURE_PX = 420, 280  # of a plot that was not seen at its own size
AXIS_TITLES = {"t": "Frame", "z": "Slice"}
STRIP = "Over frames"
PLOT_NAMES = {"Histogram": "histogram", "Scatter": "scatter", STRIP: "strip", "Boxes": "boxes"}
CUT_HELP = (
    "Drag the two edges: only cells between them count. The arrow keys move the lower one, with Shift the "
    "upper one."
)
POINT_HELP = "Click a point: the viewer goes to the cell. The arrow keys go to the next along an axis."
FRAME_HELP = "Click: the viewer goes to that frame or slice. The arrow keys go to the next one."
STRIP_TITLES = {"t": STRIP, "z": "Over slices"}

Plot = TypeVar("Plot", bound=CellPlot)


class PlotTool(QObject):
    """Keeps the plot that is shown in line with the model.

    Each plot is made when it is first asked for: pyqtgraph takes a while to make one.
    """

    def __init__(self, view: ResultsView, model: ResultsModel, link: ViewerLink) -> None:
        super().__init__(view)
        self._view, self._model, self.link = view, model, link
        self._text_colour = ""
        self._is_drawn_for_report = self._is_kind_wanted = self._is_dragging = False
        self._soon = QSignalThrottler(parent=self)
        self._soon.setTimeout(REDRAW_MS)
        self._soon.triggered.connect(self._redraw_kept)
        view.plot_kind.currentIndexChanged.connect(self._on_kind_chosen)
        view.plot_kind.activated.connect(self._on_kind_wanted)
        for box in (view.plot_x, view.plot_y, view.plot_group):
            box.currentIndexChanged.connect(self.redraw)
        view.tabs.currentChanged.connect(self._on_page_opened)
        view.lasso.toggled.connect(self._on_lasso_toggled)
        view.no_gate.clicked.connect(self._on_clear_clicked)
        model.measured_changed.connect(self._on_measured_changed)
        model.kept_changed.connect(self._on_kept_changed)
        model.chosen_changed.connect(self._on_chosen_changed)
        listen(link.viewer.dims.events.point, self._on_viewer_moved, self)
        self._on_kind_chosen()

    def set_text_colour(self, colour: str) -> None:
        """Draw axes in the colour of the theme."""
        self._text_colour = colour
        for place in range(self._view.plots.count()):
            self._view.plots.widget(place).set_text_colour(colour)  # type: ignore[union-attr]

    @cached_property
    def histogram(self) -> Histogram:
        """One column, with cut-offs."""
        plot = self._placed(Histogram(), CUT_HELP)
        plot.range_changed.connect(self._on_range_changed)
        return plot

    @cached_property
    def scatter(self) -> Scatter:
        """Two columns, with a gate."""
        plot = self._placed(Scatter(), POINT_HELP)
        plot.gate_drawn.connect(self._on_gate_drawn)
        plot.cell_clicked.connect(self._model.choose)
        return plot

    @cached_property
    def strip(self) -> Strip:
        """Counts over frames or slices."""
        plot = self._placed(Strip(), FRAME_HELP)
        plot.frame_clicked.connect(self._on_frame_clicked)
        return plot

    @cached_property
    def boxes(self) -> Boxes:
        """One column by group."""
        return self._placed(Boxes(), "Median, quartiles, and 5 to 95 % of the cells of each group.")

    def _placed(self, plot: Plot, help_text: str) -> Plot:
        plot.setToolTip(help_text)
        if self._text_colour:
            plot.set_text_colour(self._text_colour)
        self._view.plots.addWidget(plot)
        QWidget.setTabOrder(self._view.plot_group, plot)  # which comes last, as it is made late
        return plot

    def _show_plot(self, kind: str) -> None:
        self._view.plots.setCurrentWidget(getattr(self, PLOT_NAMES[kind]))

    def redraw(self, _: Any = None) -> None:
        """Draw the plot that is shown, if it is shown."""
        view, table = self._view, self._model.table
        if table is None or not self._is_shown:
            return
        x, y = view.plot_x.currentData(), view.plot_y.currentData()
        kind = view.plot_kind.currentData()
        if kind == "Histogram" and x in table:
            self.histogram.set_values(self._values(x))
            self.histogram.set_titles(self._heading(x), "Cells")
            self.histogram.set_range(*self._model.range_of(x))
        elif kind == "Scatter" and x in table and y in table:
            self.scatter.set_values(self._values(x), self._values(y))
            self.scatter.set_titles(self._heading(x), self._heading(y))
            gate = self._model.gate
            is_here = gate is not None and (gate.x, gate.y) == (x, y)
            self.scatter.set_gate(gate.corners if gate is not None and is_here else None)
            self.scatter.set_chosen(self._model.chosen)
        self._redraw_kept()

    def pictures(self) -> tuple[dict[str, bytes], dict[str, str]]:
        """Return plots that were opened, redrawn: PNG, and what their colours mean, by what they show."""
        view, found, legends = self._view, {}, {}
        before = view.plot_kind.currentIndex()
        self._is_drawn_for_report = True
        for place, kind in enumerate(PLOTS):
            name = PLOT_NAMES[kind]
            if name not in vars(self) or self._model.table is None:  # made when it is first shown
                continue
            view.plot_kind.setCurrentIndex(place)
            self.redraw()
            caption = self._caption(kind)
            found[caption] = png_of(getattr(self, name))
            legends[caption] = legend(self._groups(kind))
        view.plot_kind.setCurrentIndex(before)
        self._is_drawn_for_report = False
        return found, legends

    def _groups(self, kind: str) -> list[str]:
        """Return the names of what has a colour each."""
        if kind == "Boxes":
            return list(self._model.groups(self._view.plot_group.currentData()))
        if kind == STRIP:
            return list(self._counts_of_regions())
        return []

    def _caption(self, kind: str) -> str:
        view = self._view
        x, y = (self._heading(str(box.currentData())) for box in (view.plot_x, view.plot_y))
        captions = {
            "Histogram": x,
            "Scatter": f"{y} over {x}",
            "Boxes": f"{x} by {view.plot_group.currentText()}",
        }
        text = captions.get(kind, "")
        gate = self._model.gate
        if kind == "Scatter" and gate is not None:
            text += f", with the gate over {self._heading(gate.x)} and {self._heading(gate.y)}"
        return f"{view.plot_kind.itemText(PLOTS.index(kind))}: {text}".removesuffix(": ")

    def _heading(self, column: str) -> str:
        return heading_of(column, self._model.channel_names)

    @property
    def _is_shown(self) -> bool:
        """Whether the page of plots is open; what nobody sees is not drawn."""
        is_open = self._view.tabs.tabText(self._view.tabs.currentIndex()) == "Plots"
        return is_open or self._is_drawn_for_report

    def _values(self, name: str) -> NDArray[np.float64]:
        table = self._model.table
        assert table is not None
        return table[name].to_numpy(np.float64)

    def _redraw_kept(self) -> None:
        view, model = self._view, self._model
        if model.table is None or not self._is_shown:
            return
        kind, x = view.plot_kind.currentData(), view.plot_x.currentData()
        text = ""
        if kind == "Histogram":
            self.histogram.set_kept(model.kept)
            text = f"{model.n_kept:,} of {model.n_cells:,} cells count. Drag the edges to set cut-offs."
        elif kind == "Scatter":
            self.scatter.set_kept(model.kept)
            text, gate = f"{model.n_kept:,} of {model.n_cells:,} cells count.", model.gate
            if gate is not None and (gate.x, gate.y) != (x, view.plot_y.currentData()):
                text += f" The gate lies over {self._heading(gate.x)} and {self._heading(gate.y)}."
            if self.scatter.is_thinned:
                text += " Only some of them are drawn; the gate applies to all."
        elif kind == STRIP:
            text = self._draw_strip()
        elif x in model.table:
            values = self._values(x)
            groups = model.groups(view.plot_group.currentData())
            self.boxes.set_groups({name: values[mask] for name, mask in groups.items()})
            self.boxes.set_titles("", self._heading(x))
            text = "Median, quartiles, 5 to 95 % and number of cells: " + legend(groups)
        view.plot_hint.setText(text)

    def _choose_usual_group(self) -> None:
        """Choose the first kind of group that there are several of, else classes, until the user chooses."""
        box = self._view.plot_group
        if box.is_by_user or self._view.plot_kind.currentData() != "Boxes":
            return
        names = (box.itemData(place) for place in range(box.count()))
        with QSignalBlocker(box):
            box.choose_data(next((name for name in names if len(self._model.groups(name)) > 1), None))

    def _draw_strip(self) -> str:
        found = self._model.per_frame()
        if found is None:
            self.strip.set_counts(np.zeros(0, np.intp))
            return "The image has a single plane."
        axis, counts, first = found
        regions = self._counts_of_regions()
        self.strip.set_counts(counts, list(regions.values()), first)
        unit = self.strip.set_interval(self._model.frame_interval_s * (axis == "t"))
        self.strip.set_titles(f"Time [{unit}]" if unit else AXIS_TITLES.get(axis, axis), "Cells")
        self.strip.set_frame(self.link.frame_shown(axis))
        if regions:
            return f"{legend(regions)} · bars: all regions. Click to go there."
        if axis == "z":
            return "Each cell counts in the slice of its centre. Click to go there."
        return "Click to go there."

    def _counts_of_regions(self) -> dict[str, NDArray[np.intp]]:
        """Return the counts over frames of each region where there are several."""
        model = self._model
        found = {name: model.per_frame(mask) for name, mask in model.groups("region").items()}
        if len(model.regions.names) < 2:
            return {}
        return {name: one.counts for name, one in found.items() if one is not None}

    def _on_page_opened(self, _: int) -> None:
        if self._is_shown:
            self._show_plot(self._view.plot_kind.currentData())
            self.redraw()

    def _on_kind_chosen(self, _: int = 0) -> None:
        view, kind = self._view, self._view.plot_kind.currentData()
        if self._is_shown:
            self._show_plot(kind)
        view.plot_x.setVisible(kind != STRIP)
        view.plot_y.setVisible(kind == "Scatter")
        view.plot_group.setVisible(kind == "Boxes")
        view.lasso.setVisible(kind == "Scatter")
        view.no_gate.setVisible(kind in ("Histogram", "Scatter"))
        self._choose_usual_group()
        self.redraw()

    def _on_kind_wanted(self, _: int) -> None:
        self._is_kind_wanted = True

    def _on_measured_changed(self) -> None:
        found = self._model.per_frame()
        strip_title = STRIP if found is None else STRIP_TITLES.get(found.axis, STRIP)
        self._view.plot_kind.setItemText(PLOTS.index(STRIP), strip_title)
        if found is not None and found.axis == "t" and not self._is_kind_wanted:
            self._view.plot_kind.setCurrentIndex(PLOTS.index(STRIP))  # until the user chooses a plot
            self._is_kind_wanted = True
        names = self._model.number_columns
        first_x: tuple[str, ...] = CELL_SIZES
        if names and preferences().unit == "px":
            first_x = PIXEL_COUNTS
        for box, usual in ((self._view.plot_x, first_x), (self._view.plot_y, FIRST_Y)):
            wanted = next((name for name in (box.currentData(), *usual, *names) if name in names), None)
            with QSignalBlocker(box):
                box.fill(((self._heading(name), name) for name in names), wanted)
        self._choose_usual_group()
        self.redraw()

    def _on_kept_changed(self) -> None:
        column = self._view.plot_x.currentData()
        is_histogram = self._view.plot_kind.currentData() == "Histogram"
        if self._is_shown and is_histogram and column is not None and not self._is_dragging:
            self.histogram.set_range(*self._model.range_of(column))
        self._soon.throttle()

    def _on_range_changed(self, low: float | None, high: float | None) -> None:
        self._is_dragging = True
        try:
            self._model.set_range(self._view.plot_x.currentData(), low, high)
        finally:
            self._is_dragging = False

    def _on_gate_drawn(self, corners: NDArray[np.float64]) -> None:
        x, y = self._view.plot_x.currentData(), self._view.plot_y.currentData()
        self._view.lasso.setChecked(False)
        self._model.set_gate(ScatterGate(x, y, corners))

    def _on_lasso_toggled(self, is_on: bool) -> None:  # noqa: FBT001 - a Qt slot
        self.scatter.box.is_drawing = is_on

    def _on_clear_clicked(self) -> None:
        if self._view.plot_kind.currentData() == "Scatter":
            self._model.set_gate(None)
            self.scatter.set_gate(None)
            return
        self._model.set_range(self._view.plot_x.currentData(), None, None)

    def _on_chosen_changed(self, row: int) -> None:
        if self._is_shown and self._view.plot_kind.currentData() == "Scatter":
            self.scatter.set_chosen(row)

    def _on_frame_clicked(self, number: int) -> None:
        found = self._model.per_frame()
        if found is not None:
            self.link.go_to_frame(found.axis, number)

    def _on_viewer_moved(self, _: Any = None) -> None:
        if self._is_shown and self._view.plot_kind.currentData() == STRIP:
            found = self._model.per_frame()
            if found is not None:
                self.strip.set_frame(self.link.frame_shown(found.axis))


def png_of(plot: QWidget) -> bytes:
    """Return what a plot shows as PNG."""
    content = QBuffer()
    content.open(QIODevice.OpenModeFlag.WriteOnly)
    if not plot.isVisible():
        plot.resize(*PICTURE_PX)
    plot.grab().save(content, "PNG")
    return bytes(content.data().data())
