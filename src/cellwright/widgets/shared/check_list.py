"""A list of entries that can be ticked."""

from collections.abc import Container, Iterable

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import QListWidget, QListWidgetItem

MOST_ROWS = 4  # that are not scrolled
ROW_PADDING_PX = 4


class CheckList(QListWidget):
    """Entries that can be ticked, as high as they need, and scrolled where they are many."""

    def __init__(self, help_text: str) -> None:
        super().__init__()
        self.setToolTip(help_text)
        self.setSelectionMode(QListWidget.SelectionMode.NoSelection)
        self.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    @property
    def ticked(self) -> tuple[str, ...]:
        """Data of the entries that are ticked."""
        items = [self.item(place) for place in range(self.count())]
        ticked = [item for item in items if item is not None and item.checkState() == Qt.CheckState.Checked]
        return tuple(str(item.data(Qt.ItemDataRole.UserRole)) for item in ticked)

    def list_entries(self, entries: Iterable[tuple[str, str]], ticked: Container[str]) -> None:
        """List titles and data, and tick some."""
        with QSignalBlocker(self):
            self.clear()
            for title, data in entries:
                item = QListWidgetItem(title)
                item.setToolTip(title)
                item.setData(Qt.ItemDataRole.UserRole, data)
                item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsUserCheckable)
                item.setCheckState(Qt.CheckState.Checked if data in ticked else Qt.CheckState.Unchecked)
                self.addItem(item)
        n_shown = min(self.count(), MOST_ROWS)
        row_px = max(self.sizeHintForRow(0), self.fontMetrics().height() + ROW_PADDING_PX)
        self.setFixedHeight(n_shown * row_px + 2 * ROW_PADDING_PX)

    def tick(self, data: str) -> None:
        """Tick the entry with this data; nothing where there is none."""
        for place in range(self.count()):
            item = self.item(place)
            if item is not None and item.data(Qt.ItemDataRole.UserRole) == data:
                item.setCheckState(Qt.CheckState.Checked)
