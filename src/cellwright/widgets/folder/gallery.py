"""Small pictures of the images of a folder, read when they come into sight."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qtpy.QtCore import QAbstractListModel, QModelIndex, QSize, Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QColor, QIcon, QPainter, QPixmap
from qtpy.QtWidgets import QAbstractItemView, QFrame, QListView, QWidget

from cellwright.files.folders.results import ImageOutcome, thumbnail_of
from cellwright.inference.fit import UNKNOWN_BELOW, WARN_BELOW, in_short

PICTURE_PX, MARGIN_PX, TEXT_PX = 138, 12, 50
MOST_KEPT = 400  # pictures in memory
LONGEST_NAME = 20  # letters under a picture
WARNED = {Qt.ItemDataRole.ForegroundRole: "black", Qt.ItemDataRole.BackgroundRole: "#d69e2e"}
Index = QModelIndex


class OutcomeList(QAbstractListModel):
    """Images with picture, name, count and fit."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._outcomes: Sequence[ImageOutcome] = ()
        self._output = Path()
        self._pictures: OrderedDict[tuple[Path, str, float], QIcon] = OrderedDict()

    def set_outcomes(self, outcomes: Sequence[ImageOutcome], output: Path) -> None:
        """List these images, in this order."""
        self.beginResetModel()
        self._outcomes, self._output = outcomes, output
        self.endResetModel()

    def outcome(self, row: int) -> ImageOutcome:
        """Return the image of a row."""
        return self._outcomes[row]

    def rowCount(self, parent: Any = None) -> int:
        """Return the number of images."""
        return 0 if parent is not None and parent.isValid() else len(self._outcomes)

    def data(self, index: Any, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return picture, text or help of an image."""
        outcome = self._outcomes[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return f"{_shortened(outcome.image.name)}\n{outcome.row.get('count', 0):,} cells\n{_fit(outcome)}"
        if role == Qt.ItemDataRole.DecorationRole:
            return self._picture(outcome)
        if role == Qt.ItemDataRole.ToolTipRole:
            return help_of(outcome)
        if role in WARNED and outcome.row.get("fit", 1.0) < WARN_BELOW:
            return QColor(WARNED[Qt.ItemDataRole(role)])
        return None

    def _picture(self, outcome: ImageOutcome) -> QIcon:
        path = thumbnail_of(self._output, outcome.image.name)
        try:
            changed = path.stat().st_mtime
        except OSError:  # of an older run: none
            changed = 0.0
        key = (self._output, outcome.image.name, changed)
        if key not in self._pictures:
            self._pictures[key] = QIcon(_squared(path))
            if len(self._pictures) > MOST_KEPT:
                self._pictures.popitem(last=False)
        self._pictures.move_to_end(key)
        return self._pictures[key]


class Gallery(QListView):
    """A grid of pictures; ``opened`` tells of a double click or Enter on one."""

    opened = Signal(object)  # ImageOutcome

    def __init__(self) -> None:
        super().__init__()
        self.outcomes = OutcomeList(self)
        self.setModel(self.outcomes)
        self.setViewMode(QListView.ViewMode.IconMode)
        self.setIconSize(QSize(PICTURE_PX, PICTURE_PX))
        self.setGridSize(QSize(PICTURE_PX + MARGIN_PX, PICTURE_PX + TEXT_PX + MARGIN_PX))
        self.setMovement(QListView.Movement.Static)
        self.setResizeMode(QListView.ResizeMode.Adjust)
        self.setUniformItemSizes(True)
        self.setWordWrap(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.activated.connect(self._on_activated)

    def show_outcomes(self, outcomes: Sequence[ImageOutcome], output: Path) -> None:
        """Show images; the place in the list and what is chosen stay."""
        chosen = {self.outcomes.outcome(index.row()).image.name for index in self.selectedIndexes()}
        bar = self.verticalScrollBar()
        place = 0 if bar is None else bar.value()
        self.outcomes.set_outcomes(outcomes, output)
        for row, outcome in enumerate(outcomes):
            if outcome.image.name in chosen:
                self.setCurrentIndex(self.outcomes.index(row, 0))
        if bar is not None:
            self.scheduleDelayedItemsLayout()
            self.executeDelayedItemsLayout()
            bar.setValue(place)

    def _on_activated(self, index: QModelIndex) -> None:
        self.opened.emit(self.outcomes.outcome(index.row()))


def help_of(outcome: ImageOutcome) -> str:
    """Return what is known of an image, a line for each column."""
    facts = {**outcome.image.plate, **outcome.row}
    return "\n".join(
        [outcome.image.name, *(f"{name}: {value}" for name, value in facts.items() if value != "")]
    )


def _fit(outcome: ImageOutcome) -> str:
    fit = outcome.row.get("fit")
    if fit is not None and fit < UNKNOWN_BELOW:
        return "do not trust"
    return in_short(fit)


def _shortened(name: str) -> str:
    if len(name) <= LONGEST_NAME:
        return name
    half = (LONGEST_NAME - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _squared(path: Path) -> QPixmap:
    """Return a picture that fits its place, on a dark square."""
    square = QPixmap(PICTURE_PX, PICTURE_PX)
    square.fill(QColor(30, 30, 34))
    picture = QPixmap(str(path))
    if not picture.isNull():
        picture = picture.scaled(
            square.size(), Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
        )
        painter = QPainter(square)
        painter.drawPixmap((PICTURE_PX - picture.width()) // 2, (PICTURE_PX - picture.height()) // 2, picture)
        painter.end()
    return square
