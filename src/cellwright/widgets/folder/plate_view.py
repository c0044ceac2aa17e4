"""A plate as a heat map: rows A, B, C down, columns 1, 2, 3 across, one square for each well."""

from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QPoint, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QFont, QFontInfo, QFontMetrics, QPainter, QPalette, QPen
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from cellwright.ops.plates import PlateMap, row_name, shade, well_name
from cellwright.widgets.shared.panel_area import ARROWS, DRAWN, LETTERS

LEAST_MARGIN_PX = 20  # left of the rows and above the columns
BAR_PX = 17  # of the legend, with what is above it
WIDEST_TITLE = "AF"
EMPTY = QColor(128, 128, 128, 40)
CHOSEN = "#ff9f1c"
N_LEGEND = 40
USUAL_WIDTH_PX, LEAST_SIZE_PX = 290, 140
CHOOSE = (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space)


class PlateView(QWidget):
    """Draws a plate; ``well_chosen`` tells of a click on a well, row and column from 0.

    Arrow keys mark the next well and tell of it; Enter or Space is a click on it.
    """

    well_chosen = Signal(int, int)

    def __init__(self) -> None:
        super().__init__()
        self._map: PlateMap | None = None
        self._chosen: tuple[int, int] | None = None
        self._marked: tuple[int, int] | None = None  # by the arrow keys
        self.setObjectName(DRAWN)
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)

    def show_plate(self, plate: PlateMap | None, chosen: tuple[int, int] | None = None) -> None:
        """Draw other values; a frame shows the chosen well."""
        self._map, self._chosen, self._marked = plate, chosen, chosen
        self.update()

    @property
    def _font(self) -> QFont:
        font = QFont(self.font())
        font.setPointSizeF(LETTERS * QFontInfo(font).pointSizeF())
        return font

    @property
    def margin(self) -> int:
        """Pixels left of the rows and above the columns, for their titles."""
        metrics = QFontMetrics(self._font)
        return max(LEAST_MARGIN_PX, metrics.height() + 4, metrics.horizontalAdvance(WIDEST_TITLE) + 4)

    @property
    def side(self) -> float:
        """Side of a square in pixels."""
        if self._map is None:
            return 0.0
        n_rows, n_columns = map(int, self._map.values.shape)
        wide, high = self.width() - self.margin - 2, self.height() - self.margin - BAR_PX
        return min(wide / n_columns, (high - QFontMetrics(self._font).height()) / n_rows)

    def sizeHint(self) -> QSize:
        """Return a size that fits a narrow panel."""
        return QSize(USUAL_WIDTH_PX, USUAL_WIDTH_PX)

    def minimumSizeHint(self) -> QSize:
        """Return the least size in which wells can be told apart."""
        return QSize(LEAST_SIZE_PX, LEAST_SIZE_PX)

    def well_at(self, x: float, y: float) -> tuple[int, int] | None:
        """Return the well under a place of this widget."""
        if self._map is None:
            return None
        row, column = int((y - self.margin) // self.side), int((x - self.margin) // self.side)
        n_rows, n_columns = self._map.values.shape
        if 0 <= row < n_rows and 0 <= column < n_columns:
            return row, column
        return None

    def mousePressEvent(self, event: Any) -> None:
        """Choose a well."""
        well = self.well_at(event.position().x(), event.position().y())
        if well is not None:
            self.well_chosen.emit(*well)

    def keyPressEvent(self, event: Any) -> None:
        """Mark the next well, or choose the marked one; called by Qt."""
        step = ARROWS.get(event.key())
        if self._map is None or (step is None and event.key() not in CHOOSE):
            event.ignore()
        elif step is None:
            if self._marked is not None:
                self.well_chosen.emit(*self._marked)
        else:
            self._mark(*step)

    def _mark(self, right: int, down: int) -> None:
        """Mark the well beside the marked one, the first where none is, and tell of it."""
        assert self._map is not None
        marked = (0, 0)
        if self._marked is not None:
            n_rows, n_columns = self._map.values.shape
            row, column = self._marked
            marked = (min(max(row + down, 0), n_rows - 1), min(max(column + right, 0), n_columns - 1))
        self._marked, text = marked, self.text_of(marked)
        self.setAccessibleDescription(text)
        corner = self._square(*marked).bottomRight().toPoint()
        QToolTip.showText(self.mapToGlobal(corner), text, self)
        self.update()

    def event(self, event: QEvent | None) -> bool:
        """Tell of the well under the mouse."""
        if event is not None and event.type() == QEvent.Type.ToolTip:
            place: QPoint = event.pos()  # type: ignore[attr-defined]
            well = self.well_at(place.x(), place.y())
            QToolTip.showText(event.globalPos(), self.text_of(well), self)  # type: ignore[attr-defined]
            return True
        return super().event(event)

    def text_of(self, well: tuple[int, int] | None) -> str:
        """Return name and value of a well: ``B03: 412 (mean of 4 images)``."""
        if self._map is None or well is None:
            return ""
        name, n = well_name(*well), int(self._map.n_images[well])
        if not n:
            return f"{name}: no image counted"
        value = f"{name}: {self._map.values[well]:,.6g}"
        if n > 1:
            value += f" (mean of {n} images)"
        return value

    @property
    def legend(self) -> str:
        """What the colour of a well with several images is; '' where there is none."""
        if self._map is None or not (self._map.n_images > 1).any():
            return ""
        return "mean of its images"

    def paintEvent(self, _: Any) -> None:
        """Draw the plate."""
        if self._map is None:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setFont(self._font)
        painter.setPen(self.palette().color(QPalette.ColorRole.WindowText))
        self._draw_titles(painter)
        self._draw_legend(painter)
        self._draw_wells(painter, self._map)
        painter.end()

    def _square(self, row: int, column: int) -> QRectF:
        side, margin = self.side, self.margin
        return QRectF(margin + column * side, margin + row * side, side, side)

    def _draw_titles(self, painter: QPainter) -> None:
        assert self._map is not None
        n_rows, n_columns = self._map.values.shape
        every = max(1, int(np.ceil((self.margin - 6) / self.side)))  # else they would touch
        centre = Qt.AlignmentFlag.AlignCenter
        for row in range(0, n_rows, every):
            square = self._square(row, 0)
            high = QRectF(0, square.top(), self.margin, square.height())
            painter.drawText(high, centre | Qt.TextFlag.TextDontClip, row_name(row))
        for column in range(0, n_columns, every):
            square = self._square(0, column)
            wide = square.adjusted(-self.margin / 2, -self.margin, self.margin / 2, -square.height())
            painter.drawText(wide, centre, str(column + 1))

    def _draw_wells(self, painter: QPainter, plate: PlateMap) -> None:
        gap = min(1.5, self.side / 8)
        painter.setPen(Qt.PenStyle.NoPen)
        for row, column in np.ndindex(plate.values.shape):
            colour = plate.colour(row, column)
            painter.setBrush(QColor(colour) if colour else EMPTY)
            square = self._square(row, column).adjusted(gap, gap, -gap, -gap)
            painter.drawRoundedRect(square, 2, 2)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        for well, style in ((self._chosen, Qt.PenStyle.SolidLine), (self._marked, Qt.PenStyle.DotLine)):
            if well is not None:
                painter.setPen(QPen(QColor(CHOSEN), 2, style))
                painter.drawRoundedRect(self._square(*well), 2, 2)

    def _draw_legend(self, painter: QPainter) -> None:
        assert self._map is not None
        low, high = self._map.limits
        if not np.isfinite(low):
            return
        left = self.margin
        top = left + self._map.values.shape[0] * self.side + 8
        whole = self._map.values.shape[1] * self.side
        width = whole / N_LEGEND
        for place in range(N_LEGEND):
            colour = QColor(shade(place / (N_LEGEND - 1)))
            painter.fillRect(QRectF(left + place * width, top, width + 1, 8), colour)
        text = QRectF(left, top + 9, whole, painter.fontMetrics().height())
        painter.drawText(text, Qt.AlignmentFlag.AlignLeft, f"{low:,.5g}")
        painter.drawText(text, Qt.AlignmentFlag.AlignHCenter, self.legend)
        painter.drawText(text, Qt.AlignmentFlag.AlignRight, f"{high:,.5g}")
