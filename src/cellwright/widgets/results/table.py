"""The table of cells: a view of a DataFrame's own columns, fluent with hundreds of thousands of rows."""

from collections.abc import Mapping, Sequence
from functools import partial
from math import floor, log10
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QAbstractTableModel, QEvent, QItemSelectionModel, QModelIndex, Qt, Signal
from qtpy.QtGui import QKeyEvent, QKeySequence
from qtpy.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QHeaderView,
    QSizePolicy,
    QTableView,
    QWidget,
)

from cellwright.ops.measure.columns import NO_NAMES, column_of, heading_of

if TYPE_CHECKING:
    import pandas

EDITABLE = "class"
PLACES = ("z", "y", "x")
ROW_PADDING_PX = 6
DIGITS = 4  # of the largest number of a column
WIDEST_SAMPLE = 50  # rows that tell how wide a column is
NO_INDEX = QModelIndex()
Role = Qt.ItemDataRole


class FrameModel(QAbstractTableModel):
    """Rows of a DataFrame in an order of their own; nothing is copied."""

    class_edited = Signal(int, str)  # row of the DataFrame, new text

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.names: list[str] = []
        self._channel_names = NO_NAMES
        self.order: NDArray[np.intp] = np.zeros(0, np.intp)
        self._columns: list[NDArray[Any]] = []
        self._decimals: dict[int, int] = {}  # of the columns that were shown
        self._sorting: tuple[str, Qt.SortOrder] | None = None
        self._rows: NDArray[np.intp] = self.order
        self._places: NDArray[np.intp] = self.order

    def set_frame(
        self,
        table: "pandas.DataFrame | None",
        rows: NDArray[np.bool_] | None = None,
        channel_names: Mapping[str, str] = NO_NAMES,
    ) -> None:
        """Show another table; ``rows`` tells which of its rows, and names what headings call channels."""
        self.beginResetModel()
        self.names, self._columns, n = [], [], 0
        self._decimals = {}
        self._channel_names = channel_names
        if table is not None:
            n = len(table)
            names = [str(name) for name in table if not str(name).startswith("box_")]
            self.names = sorted(names, key=partial(_rank, names))
            self._columns = [table[name].to_numpy() for name in self.names]
        self._take_rows(np.ones(n, bool) if rows is None else rows)
        self.endResetModel()

    def set_rows(self, rows: NDArray[np.bool_]) -> None:
        """Show other rows of the same table."""
        self.beginResetModel()
        self._take_rows(rows)
        self.endResetModel()

    def place_of(self, row: int) -> int:
        """Return where a row of the DataFrame stands; -1 where it is not shown."""
        return int(self._places[row]) if 0 <= row < len(self._places) else -1

    def text_of(self, rows: Sequence[int]) -> str:
        """Return rows of the DataFrame under the headings, with tabs between, as spreadsheets take them."""
        import pandas

        part = pandas.DataFrame(
            {name: column[list(rows)] for name, column in zip(self.names, self._columns, strict=True)}
        )
        headings = [heading_of(name, self._channel_names) for name in self.names]
        return str(part.to_csv(sep="\t", index=False, header=headings))

    def rowCount(self, parent: QModelIndex = NO_INDEX) -> int:
        """Return the number of rows shown."""
        return 0 if parent.isValid() else len(self.order)

    def columnCount(self, parent: QModelIndex = NO_INDEX) -> int:
        """Return the number of columns."""
        return 0 if parent.isValid() else len(self.names)

    def data(self, index: QModelIndex, role: int = Role.DisplayRole) -> Any:
        """Return what Qt asks of one cell of the table."""
        if role not in (Role.DisplayRole, Role.EditRole, Role.TextAlignmentRole) or not index.isValid():
            return None
        values = self._columns[index.column()]
        if role == Role.TextAlignmentRole:
            side = Qt.AlignmentFlag.AlignRight if values.dtype.kind in "iuf" else Qt.AlignmentFlag.AlignLeft
            return side | Qt.AlignmentFlag.AlignVCenter
        if index.column() not in self._decimals:
            self._decimals[index.column()] = decimals_of(values)
        return shown(values[self.order[index.row()]], self._decimals[index.column()])

    def setData(self, index: QModelIndex, value: Any, role: int = Role.EditRole) -> bool:
        """Tell of a class that the user wrote; the table follows once the layer has it."""
        if role != Role.EditRole or self.names[index.column()] != EDITABLE:
            return False
        self.class_edited.emit(int(self.order[index.row()]), str(value).strip())
        return True

    def flags(self, index: QModelIndex) -> Qt.ItemFlag:
        """Return what can be done with one cell of the table."""
        flags = super().flags(index)
        if index.isValid() and self.names[index.column()] == EDITABLE:
            flags |= Qt.ItemFlag.ItemIsEditable
        return flags

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Role.DisplayRole) -> Any:
        """Return title and help of a column."""
        if orientation != Qt.Orientation.Horizontal or section >= len(self.names):
            return None
        name = self.names[section]
        if role == Role.DisplayRole:
            return heading_of(name, self._channel_names)
        if role == Role.ToolTipRole:
            return f"{name}\n{column_of(name).description}".strip()
        return None

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column; empty values come last."""
        self.layoutAboutToBeChanged.emit()
        self._sorting = (self.names[column], order) if 0 <= column < len(self.names) else None
        self._sort()
        self.layoutChanged.emit()

    def _take_rows(self, rows: NDArray[np.bool_]) -> None:
        self._rows = np.flatnonzero(rows)
        self._places = np.full(len(rows), -1, np.intp)
        self._sort()

    def _sort(self) -> None:
        self.order = self._rows
        if self._sorting is not None and self._sorting[0] in self.names:
            name, direction = self._sorting
            values, is_down = self._columns[self.names.index(name)], direction == Qt.SortOrder.DescendingOrder
            self.order = sorted_rows(values, self._rows, is_down=is_down)
        self._places[self.order] = np.arange(len(self.order))


def _rank(names: Sequence[str], name: str) -> int:
    """Return how late a column stands: places last, as the viewer shows them; pixels after their µm."""
    if name in PLACES:
        return 2
    is_twice = name.endswith("_px") and any(one.startswith(f"{name[:-2]}um") for one in names)
    return int(is_twice)


def sorted_rows(values: NDArray[Any], rows: NDArray[np.intp], *, is_down: bool = False) -> NDArray[np.intp]:
    """Return rows in the order of their values, equal ones as they were, empty ones last."""
    part = values[rows]
    if part.dtype.kind not in "biuf":
        ranks = np.unique(part.astype(str), return_inverse=True)[1].astype(np.float64)
    else:
        ranks = part.astype(np.float64)
    return np.asarray(rows[np.argsort(-ranks if is_down else ranks, kind="stable")])


def decimals_of(values: NDArray[Any]) -> int:
    """Return how many decimals a column is shown with: four digits for its largest number, none in vain."""
    if values.dtype.kind != "f":
        return 0
    finite = values[np.isfinite(values)].astype(np.float64)
    largest = float(np.abs(finite).max(initial=0))
    decimals = max(DIGITS - 1 - floor(log10(largest)), 1) if largest else 0
    rounded = finite.round(decimals)
    while decimals and np.array_equal(rounded, finite.round(decimals - 1)):
        decimals -= 1
    return decimals


def shown(value: Any, decimals: int) -> str:
    """Return a value for people: numbers with these decimals, nothing where there is none.

    A small one that they would show as zero has a digit of its own.
    """
    if isinstance(value, np.bool_ | bool):
        return "yes" if value else ""
    if isinstance(value, np.floating | float):
        if np.isnan(value):
            return ""
        text = f"{value:.{decimals}f}"
        return f"{value:.1g}" if value and float(text) == 0 else text
    return str(value)


class CellsTable(QTableView):
    """A table with rows of one height, that can be sorted and whose choice can be set without an echo."""

    row_chosen = Signal(int)  # row of the DataFrame, by the user

    def __init__(self, frame: FrameModel) -> None:
        super().__init__()
        self.frame = frame
        self._fitted: list[str] = []
        self._widths: dict[int, int] = {}  # of each column, as it was fitted
        self.setModel(frame)
        self.setSortingEnabled(True)
        heading, rows, selection = self.horizontalHeader(), self.verticalHeader(), self.selectionModel()
        assert heading is not None
        assert rows is not None
        assert selection is not None
        self._selection = selection
        heading.setResizeContentsPrecision(WIDEST_SAMPLE)
        heading.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)  # arrows go through cells, Tab leaves them
        self.setMinimumHeight(120)
        rows.setVisible(False)
        rows.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        rows.setDefaultSectionSize(self.fontMetrics().height() + ROW_PADDING_PX)
        self._is_setting = False
        self._selection.currentRowChanged.connect(self._on_current_row_changed)
        frame.modelReset.connect(self._fit_columns)

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow the size of the font; called by Qt."""
        super().changeEvent(event)
        rows = self.verticalHeader()
        if event is not None and event.type() == QEvent.Type.FontChange and rows is not None:
            rows.setDefaultSectionSize(self.fontMetrics().height() + ROW_PADDING_PX)
            self._fitted = []
            self._fit_columns()

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Copy whole rows; called by Qt, which would copy a single value."""
        clipboard = QApplication.clipboard()
        if event is None or clipboard is None or not event.matches(QKeySequence.StandardKey.Copy):
            super().keyPressEvent(event)
            return
        rows = self.chosen_rows
        if rows:
            clipboard.setText(self.frame.text_of(rows))

    @property
    def chosen_rows(self) -> list[int]:
        """Rows of the DataFrame that are chosen, in the order in which they stand."""
        places = sorted(index.row() for index in self._selection.selectedRows())
        return [int(self.frame.order[place]) for place in places]

    def choose(self, row: int) -> None:
        """Choose a row of the DataFrame and scroll to it; nothing where it is not shown."""
        place = self.frame.place_of(row)
        self._is_setting = True
        try:
            if place < 0:
                self.clearSelection()
            elif self.currentIndex().row() != place or not self._selection.hasSelection():
                index = self.frame.index(place, max(self.currentIndex().column(), 0))
                flags = QItemSelectionModel.SelectionFlag
                self._selection.setCurrentIndex(index, flags.ClearAndSelect | flags.Rows)
                self.scrollTo(index, QAbstractItemView.ScrollHint.EnsureVisible)
        finally:
            self._is_setting = False

    def _on_current_row_changed(self, current: QModelIndex, _: QModelIndex) -> None:
        if not self._is_setting and current.isValid():
            self.row_chosen.emit(int(self.frame.order[current.row()]))

    def _fit_columns(self) -> None:
        """Make columns as wide as their titles and first values, once for each set of columns.

        Those of a table of few rows follow its values, unless the user has made them wider or narrower.
        """
        is_new = self._fitted != self.frame.names
        if not is_new and self.frame.rowCount() > WIDEST_SAMPLE:
            return
        self._fitted = list(self.frame.names)
        if is_new:
            self._widths = {}
        for column in range(self.frame.columnCount()):
            if self._widths.get(column, self.columnWidth(column)) == self.columnWidth(column):
                self.resizeColumnToContents(column)
                self._widths[column] = self.columnWidth(column)
