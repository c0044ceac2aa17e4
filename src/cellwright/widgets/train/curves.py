"""Curves of a training over its steps, above each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qtpy.QtGui import QFont
from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget

PLOT_HEIGHT_PX = 230
AXIS_PX = 52
TICK_PT = 8
TITLE_PX = 15
MOST_DOTS = 30  # more would hide the line
INK = "#969ba5"


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve: (step, value) in the order of the steps; ``share`` weighs its part of the height."""

    title: str
    points: tuple[tuple[float, float], ...]
    colour: str
    share: float = 1.0


class CurvePlot(QWidget):
    """Small plots above each other with the steps in common; each shows its name and its last value.

    Plots are made when there is something to draw: pyqtgraph takes a while to load.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.curves: tuple[Curve, ...] = ()
        self.plots: list[Any] = []  # pyqtgraph.PlotItem, one for each curve
        self._lines: list[Any] = []
        self.graphics: Any = None  # pyqtgraph.GraphicsLayoutWidget
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self.setFixedHeight(PLOT_HEIGHT_PX)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def show_curves(self, curves: Sequence[Curve], last_step: float) -> None:
        """Draw these curves; the steps go from 0 to ``last_step``."""
        self.curves = tuple(curves)
        self.setToolTip("\n".join(_tooltip(curve) for curve in curves if curve.points))
        if [plot.objectName() for plot in self.plots] != [curve.title for curve in curves]:
            self._make_plots()
        for curve, plot, line in zip(self.curves, self.plots, self._lines, strict=True):
            steps, values = zip(*curve.points, strict=True) if curve.points else ((), ())
            line.setData(steps, values, symbol="o" if len(steps) < MOST_DOTS else None)
            plot.setXRange(0.0, max(float(last_step), 1.0), padding=0.02)
            last = f" <span style='color:{curve.colour}'>{values[-1]:.3g}</span>" if values else ""
            plot.setTitle(f"{curve.title}{last}", color=INK, size="8pt")
            plot.titleLabel.setMaximumHeight(TITLE_PX)
            plot.layout.setRowFixedHeight(0, TITLE_PX)

    def _make_plots(self) -> None:
        import pyqtgraph

        if self.graphics is None:
            self.graphics = pyqtgraph.GraphicsLayoutWidget()
            self.graphics.setBackground(None)
            self.graphics.wheelEvent = lambda event: event.ignore()  # the wheel is the panel's
            self.graphics.ci.setSpacing(2)
            self.graphics.ci.setContentsMargins(2, 2, 8, 2)
            self._layout.addWidget(self.graphics)
        self.graphics.clear()
        self.plots, self._lines = [], []
        for place, curve in enumerate(self.curves):
            plot = self.graphics.addPlot(row=place, col=0, enableMenu=False)
            plot.setObjectName(curve.title)
            plot.setMouseEnabled(x=False, y=False)
            plot.hideButtons()
            _adapt(plot, is_last=place == len(self.curves) - 1)
            self.graphics.ci.layout.setRowStretchFactor(place, round(10 * curve.share))
            pen = pyqtgraph.mkPen(curve.colour, width=2)
            self._lines.append(plot.plot(pen=pen, symbolSize=4, symbolPen=None, symbolBrush=curve.colour))
            self.plots.append(plot)


def _adapt(plot: Any, *, is_last: bool) -> None:
    """Give a small plot its axes: values at the left, the steps under the last one alone."""
    left, bottom, font = plot.getAxis("left"), plot.getAxis("bottom"), QFont()
    font.setPointSize(TICK_PT)
    left.setWidth(AXIS_PX)
    for axis in (left, bottom):
        axis.setPen(INK)
        axis.setTextPen(INK)
        axis.enableAutoSIPrefix(enable=False)
        axis.setStyle(tickFont=font)
    left.setStyle(tickLength=-3, maxTickLevel=0)
    bottom.setStyle(showValues=is_last, tickLength=-3)


def _tooltip(curve: Curve) -> str:
    values = [value for _, value in curve.points]
    return f"{curve.title}: {values[-1]:.4g} (lowest {min(values):.4g}, highest {max(values):.4g})"
