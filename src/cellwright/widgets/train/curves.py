"""The curves of a training: plots above each other over its steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QEvent, Qt
from qtpy.QtGui import QFontMetrics, QResizeEvent
from qtpy.QtWidgets import QWidget

from cellwright.widgets.shared.panel_area import DRAWN, LETTERS
from cellwright.widgets.shared.style import stack, wrapped_label

SCROLL_BAR_PX = 24  # at most
CURVES_HELP = (
    "Loss: how far the model is off on what it learns from; it falls while the model learns. AP, accuracy or "
    "score: how good it is on the images it is checked with; it should rise."
)
AP_AXIS, ACCURACY_AXIS = "AP", "Accuracy"  # of curves between 0 and 1
MARGIN = 0.05  # around them; it keeps the dots of 0 and 1 whole
PLOT_SPACING_PX = 12  # the lowest tick of one is not written over the highest of the next
HEIGHT_SHARE, HEIGHT_LINES = 0.6, 6  # height of the plots: a share of the width, and lines of text
MOST_DOTS = 30  # more would hide the line


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve: (step, value) in the order of the steps."""

    axis: str
    title: str
    points: tuple[tuple[float, float], ...]
    colour: str


class CurvePlot(QWidget):
    """Plots above each other with the steps in common, under a line that names them and their last values.

    Plots are made when there is something to draw: pyqtgraph takes a while to load. They have the colours and
    the letters of the panel, and are higher where it is wider.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName(DRAWN)
        self.curves: tuple[Curve, ...] = ()
        self.plots: list[Any] = []  # pyqtgraph.PlotItem, one for each curve
        self._lines: list[Any] = []
        self._fitted = 0  # width that the height is for
        self.graphics: Any = None  # pyqtgraph.GraphicsLayoutWidget
        self.legend = wrapped_label(name="legend")
        self.legend.setTextFormat(Qt.TextFormat.RichText)
        self._layout = stack(self.legend, into=self)

    def show_curves(self, curves: Sequence[Curve], last_step: float) -> None:
        """Draw these curves; the steps go from 0 to ``last_step``."""
        self.curves = tuple(curves)
        self.setToolTip("\n".join([*(_tooltip(curve) for curve in curves if curve.points), CURVES_HELP]))
        self.legend.setText("<br>".join(_legend(curve) for curve in curves))
        if [plot.objectName() for plot in self.plots] != [curve.title for curve in curves]:
            self._make_plots()
        for curve, plot, line in zip(self.curves, self.plots, self._lines, strict=True):
            steps, values = zip(*curve.points, strict=True) if curve.points else ((), ())
            line.setData(steps, values, symbol="o" if len(steps) < MOST_DOTS else None)
            plot.setXRange(0.0, max(float(last_step), 1.0), padding=0.02)

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow font and theme; called by Qt."""
        super().changeEvent(event)
        if event is not None and event.type() in (QEvent.Type.FontChange, QEvent.Type.PaletteChange):
            self._dress()

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Follow the width of the panel, but not a scroll bar that comes and goes; called by Qt."""
        super().resizeEvent(event)
        if abs(self.width() - self._fitted) > SCROLL_BAR_PX:
            self._fitted = self.width()
            self._dress()

    def _make_plots(self) -> None:
        import pyqtgraph

        if self.graphics is None:
            self.graphics = pyqtgraph.GraphicsLayoutWidget()
            self.graphics.setBackground(None)
            self.graphics.setCacheMode(self.graphics.CacheModeFlag.CacheNone)  # follow the theme
            self.graphics.wheelEvent = lambda event: event.ignore()  # the wheel is the panel's
            self.graphics.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # nothing to be done in it by keys
            self.graphics.ci.setSpacing(PLOT_SPACING_PX)
            self._layout.addWidget(self.graphics)
        self.graphics.clear()
        self.plots, self._lines = [], []
        for place, curve in enumerate(self.curves):
            plot = self.graphics.addPlot(row=place, col=0, enableMenu=False)
            plot.setObjectName(curve.title)
            plot.setMouseEnabled(x=False, y=False)
            plot.hideButtons()
            for side, label in (("left", curve.axis), ("bottom", "Step")):
                # before the label: a loss of 0.6 is not 600
                plot.getAxis(side).enableAutoSIPrefix(enable=False)
                plot.setLabel(side, label)
                plot.showLabel(side, side == "left" or curve is self.curves[-1])
            if curve.axis in (AP_AXIS, ACCURACY_AXIS):
                plot.setLimits(yMin=-MARGIN, yMax=1 + MARGIN)
            pen = pyqtgraph.mkPen(curve.colour, width=2)
            self._lines.append(plot.plot(pen=pen, symbolSize=5, symbolPen=None, symbolBrush=curve.colour))
            self.plots.append(plot)
        self._dress()

    def _dress(self) -> None:
        """Draw axes and letters as the panel does, the steps under the last plot alone."""
        if self.graphics is None:
            return
        font = self.font()
        font.setPointSizeF(LETTERS * font.pointSizeF())
        metrics, ink = QFontMetrics(font), self.palette().windowText().color()
        self.graphics.ci.setContentsMargins(2, metrics.height() // 2, 8, 2)  # half of the highest tick
        for plot in self.plots:
            left, bottom = plot.getAxis("left"), plot.getAxis("bottom")
            left.setWidth(metrics.horizontalAdvance("0.000") + 3 * metrics.height() // 2)  # the same in each
            for axis in (left, bottom):
                axis.setPen(ink)
                axis.setTextPen(ink)
                axis.label.setFont(font)
                axis.setStyle(tickFont=font, tickLength=-3)
            left.setStyle(maxTickLevel=0)
            bottom.setStyle(showValues=plot is self.plots[-1])
        self.graphics.setFixedHeight(round(HEIGHT_SHARE * self.width()) + HEIGHT_LINES * metrics.height())


def _legend(curve: Curve) -> str:
    """Return rich text: a chip in the colour of a curve, its title, its last value."""
    last = f": <b>{curve.points[-1][1]:.3g}</b>" if curve.points else ""
    return f"<span style='background-color:{curve.colour}'>&nbsp;&nbsp;&nbsp;</span> {curve.title}{last}"


def _tooltip(curve: Curve) -> str:
    values = [value for _, value in curve.points]
    return f"{curve.title}: {values[-1]:.4g} (lowest {min(values):.4g}, highest {max(values):.4g})"
