"""Curves of a training, drawn while it runs: loss, score and learning rate over the steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

HEIGHT_PX = 170
MARGIN_PX = 6
TITLE_PX = 15
INK = QColor(150, 155, 165)
GRID = QColor(128, 128, 128, 50)


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve: (step, value) in the order of the steps; ``share`` weighs its part of the height."""

    title: str
    points: tuple[tuple[float, float], ...]
    colour: str
    share: float = 1.0


class CurvePlot(QWidget):
    """Small plots above each other with the steps in common; each shows its name and its last value."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.curves: tuple[Curve, ...] = ()
        self.last_step = 1.0
        self.setFixedHeight(HEIGHT_PX)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def show_curves(self, curves: Sequence[Curve], last_step: float) -> None:
        """Draw these curves; the steps go from 0 to ``last_step``."""
        self.curves, self.last_step = tuple(curves), max(float(last_step), 1.0)
        self.setToolTip("\n".join(_line(curve) for curve in curves if curve.points))
        self.update()

    def paintEvent(self, _: QPaintEvent | None) -> None:
        """Draw; called by Qt."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        whole = sum(curve.share for curve in self.curves) or 1.0
        room = self.height() - len(self.curves) * (TITLE_PX + MARGIN_PX)
        top = 0.0
        for curve in self.curves:
            height = room * curve.share / whole
            self._draw_title(painter, curve, top)
            box = QRectF(MARGIN_PX, top + TITLE_PX, self.width() - 2 * MARGIN_PX, height)
            self._draw_curve(painter, curve, box)
            top += TITLE_PX + MARGIN_PX + height
        painter.end()

    def _draw_title(self, painter: QPainter, curve: Curve, top: float) -> None:
        font = painter.font()
        font.setPixelSize(11)
        painter.setFont(font)
        line = QRectF(MARGIN_PX, top, self.width() - 2 * MARGIN_PX, TITLE_PX)
        painter.setPen(INK)
        painter.drawText(line, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, curve.title)
        if curve.points:
            painter.setPen(QColor(curve.colour))
            right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
            painter.drawText(line, right, f"{curve.points[-1][1]:.3g}")

    def _draw_curve(self, painter: QPainter, curve: Curve, box: QRectF) -> None:
        painter.fillRect(box, GRID)
        places = [QPointF(*place) for place in to_places(curve.points, self.last_step, box)]
        painter.setPen(QPen(QColor(curve.colour), 1.8))
        if len(places) > 1:
            painter.drawPolyline(QPolygonF(places))
        if 0 < len(places) < 30:
            painter.setBrush(QColor(curve.colour))
            for place in places:
                painter.drawEllipse(place, 2.2, 2.2)


def to_places(
    points: Sequence[tuple[float, float]], last_step: float, box: QRectF
) -> list[tuple[float, float]]:
    """Return where the points of a curve lie in a box, its highest value a little below the top."""
    values = [value for _, value in points]
    low, high = min(values, default=0.0), max(values, default=1.0)
    span, inner = (high - low) or 1.0, box.height() - 8
    return [
        (
            box.left() + 4 + (box.width() - 8) * step / last_step,
            box.bottom() - 4 - inner * ((value - low) / span if high > low else 0.5),
        )
        for step, value in points
    ]


def _line(curve: Curve) -> str:
    values = [value for _, value in curve.points]
    return f"{curve.title}: {values[-1]:.4g} (lowest {min(values):.4g}, highest {max(values):.4g})"
