"""The parts of the annotation panel that open and close: settings, export, a folder to proofread."""

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLayout,
    QListWidget,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from cellwright.widgets.shared.job_bar import JobBar
from cellwright.widgets.shared.style import row

FILES_HEIGHT_PX = 150


class CollapsibleSection(QWidget):
    """A part of the panel under its title, which opens and closes it; it follows what is in it.

    Parameters
    ----------
    title
        Of the part.
    layout
        What is in it.
    """

    def __init__(self, title: str, layout: QLayout) -> None:
        super().__init__()
        self.title, self.content = QToolButton(), QWidget()
        self.title.setObjectName("fold")
        self.title.setText(title)
        self.title.setCheckable(True)
        self.title.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.title.toggled.connect(self._on_toggled)
        self.title.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.title.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        layout.setContentsMargins(2, 4, 2, 4)
        self.content.setLayout(layout)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.setSpacing(2)
        whole.addWidget(self.title)
        whole.addWidget(self.content)
        self._on_toggled(False)  # noqa: FBT003 - Qt calls it so

    def _on_toggled(self, is_open: bool) -> None:  # noqa: FBT001 - Qt calls it
        self.title.setArrowType(Qt.ArrowType.DownArrow if is_open else Qt.ArrowType.RightArrow)
        self.content.setVisible(is_open)


class SettingsSection(CollapsibleSection):
    """How tools and the model work."""

    def __init__(self) -> None:
        self.step, self.diameter = QDoubleSpinBox(), QDoubleSpinBox()
        self.step.setRange(0.5, 100.0)
        self.step.setValue(1.0)
        self.diameter.setRange(0.0, 5000.0)
        self.diameter.setSpecialValueText("auto")
        for box in (self.step, self.diameter):
            box.setDecimals(1)
            box.setSuffix(" px")
        self.ask_model = QCheckBox("Ask the model to outline added cells")
        self.ask_model.setChecked(True)
        self.through = QCheckBox("Regions go through all slices")
        form = QFormLayout()
        form.setSpacing(6)
        form.addRow("Grow, shrink by", self.step)
        form.addRow("Disc diameter", self.diameter)
        form.addRow(self.ask_model)
        form.addRow(self.through)
        super().__init__("Settings", form)


class ExportSection(CollapsibleSection):
    """Where an annotation is taken to: a dataset to train on, or a file of another program."""

    def __init__(self) -> None:
        self.split, self.format = QComboBox(), QComboBox()
        self.complete = QCheckBox("Every cell is annotated")
        self.replaces = QCheckBox("Replace it if it is there")
        self.complete.setToolTip(
            "Without this, and without regions, what has no label is not taken for background."
        )
        self.to_dataset, self.save_as = QPushButton("Add to a dataset…"), QPushButton("Save as…")
        self.to_dataset.setToolTip("Add image, labels, classes and regions to a folder to train on.")
        self.format.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.job = JobBar()
        form = QFormLayout()
        form.setSpacing(6)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Used to", self.split)
        form.addRow(self.complete)
        form.addRow(self.replaces)
        form.addRow(self.to_dataset)
        form.addRow(row(self.format, self.save_as))
        form.addRow(self.job)
        super().__init__("Export", form)


class FolderSection(CollapsibleSection):
    """The images of a folder that is proofread, and how far that is."""

    def __init__(self) -> None:
        self.folder, self.files = QPushButton("Choose a folder…"), QListWidget()
        self.files.setFixedHeight(FILES_HEIGHT_PX)
        self.files.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.files.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.files.setToolTip("Cells now, how many the model found, and how far the review is.")
        self.previous_image, self.next_image = QPushButton("◀ Image"), QPushButton("Image ▶")
        self.counts_first = QCheckBox("Count images that have no labels yet")
        self.counts_first.setChecked(True)
        self.total = QLabel()
        self.total.setObjectName("details")
        self.total.setWordWrap(True)
        steps = QHBoxLayout()
        steps.setSpacing(6)
        for button in (self.previous_image, self.next_image):
            steps.addWidget(button, 1)
        layout = QVBoxLayout()
        layout.setSpacing(5)
        layout.addWidget(self.folder)
        layout.addWidget(self.counts_first)
        layout.addWidget(self.files)
        layout.addWidget(self.total)
        layout.addLayout(steps)
        super().__init__("Proofread a folder", layout)
