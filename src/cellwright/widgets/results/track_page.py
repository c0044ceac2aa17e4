"""The page of tracks in the results panel, without any behaviour."""

from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QFormLayout, QSpinBox, QWidget

from cellwright.widgets.results.table import CellsTable, FrameModel
from cellwright.widgets.shared.jobs import JobBar
from cellwright.widgets.shared.style import button, form_layout, row, stack, wrapped_label

FARTHEST_PX, LONGEST_S = 10_000.0, 1e7


class TrackPage(QWidget):
    """Cells linked over time: how far they may go, how many tracks there are, and the table of lineages."""

    def __init__(self) -> None:
        super().__init__()
        self.track = button("Track", "Link the cells that count from frame to frame, divisions too.")
        self.summary = wrapped_label(name="hint")
        self.frame, self.job_bar = FrameModel(self), JobBar()
        self.table = CellsTable(self.frame)
        self.table.setToolTip("One row for each track. Choose a row: the viewer goes to its first cell.")
        self.save_lineages = button("Save lineages…", "One row for each track as CSV.")
        self.save_tracks = button(
            "Save tracks…", "A folder as in the Cell Tracking Challenge: a mask for each frame and a table."
        )
        layout = stack(self._form(), self.track, self.job_bar, self.summary, into=self, spacing_px=6)
        layout.setContentsMargins(2, 6, 2, 2)
        layout.addWidget(self.table, 1)
        layout.addLayout(row(self.save_lineages, self.save_tracks))

    def _form(self) -> QFormLayout:
        self.distance = _box(
            " px", FARTHEST_PX, "cell diameter", "How far a cell may go from frame to frame."
        )
        self.interval = _box(" s", LONGEST_S, "not known", "Time from frame to frame, for speeds per minute.")
        self.gap, self.divisions = QSpinBox(), QCheckBox("Cells may divide")
        self.gap.setRange(0, 100)
        self.gap.setValue(1)
        self.gap.setToolTip("Frames in which a cell may be missing between two others.")
        self.divisions.setChecked(True)
        self.divisions.setToolTip("Link both daughters to the cell that divided.")
        form = form_layout(spacing_px=4)
        form.addRow("Farthest way", self.distance)
        form.addRow("Missing frames", self.gap)
        form.addRow("Frame interval", self.interval)
        form.addRow(self.divisions)
        return form


def _box(unit: str, highest: float, zero: str, help_text: str) -> QDoubleSpinBox:
    """Return a box for a number whose 0 has a meaning of its own."""
    box = QDoubleSpinBox()
    box.setRange(0.0, highest)
    box.setDecimals(1)
    box.setSuffix(unit)
    box.setSpecialValueText(zero)
    box.setToolTip(help_text)
    return box
