"""The looks of the folder panel: what is counted, the button, and what came of it; without behaviour."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from fnmatch import fnmatch
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from qtpy.QtCore import QAbstractListModel, QEvent, QModelIndex, QSize, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPainter, QPixmap, QResizeEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QFrame,
    QLineEdit,
    QListView,
    QListWidget,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from cellwright.core.words import n_of
from cellwright.files.folders.image_list import SUFFIXES
from cellwright.files.folders.results import ImageOutcome, thumbnail_of
from cellwright.files.folders.written import BESIDE, MADE_WAY
from cellwright.inference.folder import told_channels
from cellwright.inference.settings import EngineSettings
from cellwright.models import registry
from cellwright.models.fit import UNKNOWN_BELOW, WARN_BELOW, in_short_of
from cellwright.ops.measure.cells_table import in_planes
from cellwright.ops.plates import plate_pattern, well_place
from cellwright.widgets.folder.model import ORDERS, FolderModel
from cellwright.widgets.folder.plate_view import PlateView
from cellwright.widgets.shared.combos import PanelComboBox
from cellwright.widgets.shared.flow import FlowLayout, PageBar, shortened
from cellwright.widgets.shared.form import SettingsForm, names_of
from cellwright.widgets.shared.jobs import JobBar, RunButton
from cellwright.widgets.shared.model_combos import ClassifierComboBox, DeviceComboBox, ModelComboBox
from cellwright.widgets.shared.napari_private import preferences
from cellwright.widgets.shared.style import (
    FoldedPart,
    MessageLabel,
    boxed,
    button,
    check_box,
    fill,
    form_layout,
    panel_layout,
    put,
    row,
    stack,
    wrapped_label,
)

MOST_NAMES = 1000  # of a folder that are looked at for wells
SEPARATOR = "; "  # between folders in their line
OWN_ROWS = ("device", "channel", "channels")
SHOWN_IN_FORM = tuple(name for name in names_of(EngineSettings) if name not in OWN_ROWS)
COUNT_TITLE = "Cells"
PICTURE_PX, MARGIN_PX = 118, 8  # two columns in a panel that is as narrow as can be, in usual letters
TEXT_LINES = 4  # under a picture: name, count and fit, one of which may take two lines
SCROLL_BAR_PX = 16  # of the list, at most
MOST_KEPT = 400  # pictures in memory
LONGEST_NAME, LEAST_LINE = 20, 16  # letters under a picture, of which a line has room for so many
WARNED = {Qt.ItemDataRole.ForegroundRole: "black", Qt.ItemDataRole.BackgroundRole: "#d69e2e"}


class FolderView(QWidget):
    """Controls of the folder panel from top to bottom."""

    def __init__(self) -> None:
        super().__init__()
        layout = panel_layout(self, spacing_px=6)
        self.inputs = FoldedPart("Images and model", self._inputs())
        self.inputs.title.setChecked(True)
        help_text = "Count all images; what was counted before with the same settings is kept."
        self.start = RunButton(("Count images", help_text), ("Stop", help_text), "Stopping…")
        self.jobs, self.message = JobBar(run_button=self.start), MessageLabel("Counting a folder")
        self.totals = wrapped_label("no images counted yet")
        fill(layout, self.inputs, self._more(), self.start, self.jobs, self.message, self.totals)
        self._make_tabs()
        layout.addWidget(self.page_bar)
        layout.addWidget(self.tabs, 1)

    # -- what is counted ----------------------------------------------------------------------------------

    def _inputs(self) -> QWidget:
        folders = self._folders()
        self.pattern, self.plate_names = _line("*"), _line("none")
        self.pattern.setToolTip("File names must match it, e.g. *_DAPI.tif.")
        self.plate_names.setToolTip(
            "How file names give plate, well and site: {plate}, {well}, {site} and what stands around them, "
            "e.g. {plate}/{well}_s{site}. Proposed where all images are named after wells. OME-Zarr plates "
            "know their wells."
        )
        self.output = _line("Folder")
        self.choose_output = button("Choose…", "Choose the folder for the results.")
        self.output.setToolTip("Labels, tables and summary.csv go there; what is there already is shown.")
        self.model = ModelComboBox(folders="Model folder")
        self.model.choose_preferred()
        self.classes = ClassifierComboBox()
        form = form_layout(
            ("Images", folders),
            ("File names", self.pattern),
            ("Plate", self.plate_names),
            ("Results", row(self.output, self.choose_output)),
            ("Model", self.model.with_card()),
            ("Classes", self.classes),
        )
        self.channels, self.taken_over = wrapped_label(), wrapped_label()
        self.channels.hide()
        self.taken_over.hide()
        return boxed(stack(form, self.channels, self.taken_over))

    def _folders(self) -> FlowLayout:
        self.folders = _line("Folder")
        self.choose_folder = button("Choose…", "Choose a folder or a plate.")
        self.folders.setToolTip(
            "Folders whose images are counted, with the folders in them, or .zarr plates. Separate several "
            "with ;."
        )
        self.add_folder = button("+", "Add another folder or plate.")
        self.add_folder.setMaximumWidth(28)
        return row(self.folders, self.choose_folder, self.add_folder)

    def _more(self) -> FoldedPart:
        self.device = DeviceComboBox()
        self.channel = QLineEdit()
        self.channel.setPlaceholderText("auto")
        self.channel.setToolTip(
            "Channel to count in, from 0, or several that are counted in together, by numbers or names: 0,2 "
            "or DAPI,GFP. Empty uses colours together, otherwise the first channel."
        )
        self.xlsx = check_box("Tables for Excel too", "Write each table as an Excel file beside the CSV.")
        self.engine = SettingsForm(EngineSettings, SHOWN_IN_FORM)
        self._family_box = QVBoxLayout()
        own = form_layout(("Channel", self.channel), ("Device", self.device))
        content = stack(self._family_box, self.engine.native, own, self.xlsx)
        self.more = FoldedPart("More", boxed(content))
        return self.more

    def show_family(self, name: str) -> None:
        """Show the settings of a model family, as they come."""
        family = registry.get(name)
        self.classes.setEnabled(family.gives == "instances")
        self.settings = SettingsForm(family.settings)
        put(self._family_box, self.settings.native, after=self.more.title)

    @property
    def engine_settings(self) -> EngineSettings:
        """How the network is to run."""
        text = self.channel.text().strip()
        engine = EngineSettings(device=self.device.device, **self.engine.values())
        if text.isdecimal():
            return replace(engine, channel=int(text))
        return replace(engine, channels=(text,) if text else ())

    def show_engine(self, engine: EngineSettings) -> None:
        """Show how the network is to run."""
        self.engine.set_values(asdict(engine))
        channels = (str(engine.channel),) if engine.channel is not None else engine.channels
        self.channel.setText(",".join(channels))
        self.device.choose_data(engine.device)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The chosen folders."""
        return tuple(Path(text.strip()) for text in self.folders.text().split(";") if text.strip())

    def ask_for_folder(self, *, add: bool) -> None:
        """Let the user choose a folder of images, or one more."""
        before = self.folders.text().strip() if add else ""
        folder = QFileDialog.getExistingDirectory(self, "Folder of images, or a .zarr plate")
        if folder:
            self.folders.setText(SEPARATOR.join(filter(None, [before, folder])))
            self.folders.editingFinished.emit()
            self.message.forget_error()

    def propose(self) -> None:
        """Write what names in the first folder tell of a plate and channels, and where the results may go.

        What is written already stays.
        """
        folder = Path(self.folders.text().split(SEPARATOR.strip())[0].strip())
        if not folder.name or not os.path.isdir(folder):  # Path.is_dir raises on long names
            return
        if not self.output.text().strip():
            name = f"{folder.name.removesuffix('.zarr')} results"
            self.output.setText(str(folder.parent / preferences().path_for(name)))
        with suppress(OSError):  # what may not be listed is told when it is counted
            self._propose_names(list(islice(folder.iterdir(), MOST_NAMES)))

    def _propose_names(self, inside: Sequence[Path]) -> None:
        images = [one for one in inside if one.suffix.lower() in SUFFIXES or one.is_dir()]
        pattern = self.pattern.text().strip() or "*"
        stems = [one.name.partition(".")[0] for one in images if fnmatch(one.name, pattern)]
        self.channels.setText(told_channels(stems))
        self.channels.setVisible(bool(self.channels.text()))
        if not self.plate_names.text().strip():
            self.plate_names.setText(plate_pattern([stem for stem in stems if stem]))
            self.plate_names.home(False)  # noqa: FBT003 - of Qt; where it has no room its beginning is seen

    def ask_for_output(self) -> str:
        """Let the user choose the folder of the results; return it, '' for none."""
        folder = QFileDialog.getExistingDirectory(self, "Folder for the results")
        if folder:
            self.output.setText(folder)
            self.message.forget_error()
        return folder

    # -- a run --------------------------------------------------------------------------------------------

    def show_running(self, *, is_running: bool) -> None:
        """Let nothing be changed while images are counted."""
        for section in (self.inputs, self.more):
            section.content.setEnabled(not is_running)

    def make_room(self) -> None:
        """Fold what is counted and how, so that the results have room."""
        for section in (self.inputs, self.more):
            section.title.setChecked(False)

    def show_correctable(self, *, is_shown: bool) -> None:
        """Show or hide what corrects the opened image."""
        self.correct.setVisible(is_shown)
        self.save.setVisible(is_shown)

    # -- what came of it ----------------------------------------------------------------------------------

    def _make_tabs(self) -> None:
        self.tabs = QTabWidget()
        self.gallery, self.plate, self.failed = Gallery(), PlateView(), QListWidget()
        self.order = PanelComboBox("Fit is how well the model can be expected to do on an image.")
        self.order.fill((title, name) for name, title in ORDERS.items())
        self.whole_plate = button("", "Show the images of all wells.")
        self.correct = button("Correct these cells", "Open the annotate panel with the opened image.")
        self.save = button(
            "Save the corrections",
            "Replace the counted cells with those you corrected, in the files of the image, the summary "
            "and the report. What the model had found is kept too.",
        )
        self.show_correctable(is_shown=False)
        self.take_proofread = button(
            "",
            "Replace the counted cells with those that Proofread a folder (Annotate cells) has kept since "
            "the images were counted, or that were corrected before they were counted again.",
        )
        self.take_proofread.hide()
        images = stack(self.gallery, self.correct, self.save, self.take_proofread)
        self.tabs.addTab(_page(row(self.order, self.whole_plate), boxed(images)), "Images")
        self.plate_names_box = PanelComboBox("The plate that is shown.")
        self.column = PanelComboBox(
            "What the colours show: a column of summary.csv, the mean of a well's images."
        )
        self.tabs.addTab(_page(row(self.column, self.plate_names_box), self.plate), "Plate")
        self.failed.setWordWrap(True)
        self.tabs.addTab(self.failed, "Failed")
        for place, hint in enumerate(("The images that were counted", "The wells of a plate", "What failed")):
            self.tabs.setTabToolTip(place, hint)
        self.page_bar = PageBar(self.tabs)

    def show_outcomes(self, model: FolderModel) -> None:
        """Show the images, the plate and what failed."""
        failed = model.failed
        parts = [n_of(len(model.done), "image"), f"{model.n_cells:,.0f} cells"]
        if failed:
            parts.append(f"{len(failed):,} failed")
        self.totals.setText(" · ".join(parts) if model.done or failed else "no images counted yet")
        self.gallery.show_outcomes(model.shown, model.output or Path())
        self.whole_plate.setText(f"Well {model.well} ✕")
        self.whole_plate.setVisible(bool(model.well))
        self.tabs.setTabVisible(1, model.has_wells)
        if self.tabs.currentIndex() == 1:  # out of sight it can wait
            self.column.fill([(_title(name), name) for name in model.columns], model.column)
            self.plate_names_box.fill([(name, name) for name in model.plates], model.plate)
            self.plate_names_box.setVisible(self.plate_names_box.count() > 1)
            self.plate.show_plate(model.plate_map, well_place(model.well))
        self.tabs.setTabVisible(2, bool(failed))
        self.tabs.setTabText(2, f"Failed ({len(failed)})")
        self.page_bar.follow()
        if self.failed.count() != len(failed):
            self.failed.clear()
            self.failed.addItems([f"{outcome.image.name}\n{outcome.error}" for outcome in failed])


def _title(column: str) -> str:
    if column == "count":
        return COUNT_TITLE
    if column.startswith("count_"):
        return f"Cells: {column.removeprefix('count_')}"
    return column.replace("_", " ").capitalize()


def _line(placeholder: str) -> QLineEdit:
    line = QLineEdit()
    line.setPlaceholderText(placeholder)
    return line


def _page(first: FlowLayout, second: QWidget) -> QWidget:
    layout = stack(first, second, spacing_px=6)
    layout.setContentsMargins(4, 6, 4, 4)
    layout.setStretch(1, 1)
    return boxed(layout)


class OutcomeList(QAbstractListModel):
    """Images with picture, name, count and fit."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._outcomes: Sequence[ImageOutcome] = ()
        self._output = Path()
        self.size = QSize()  # of each picture with its text
        self._picture_of = lru_cache(MOST_KEPT)(_squared)

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
            cells = f"{n_of(outcome.row.get('count', 0), 'cell')}{in_planes(outcome.row)}"
            return f"{shortened(outcome.image.name, LONGEST_NAME)}\n{cells}\n{_fit(outcome)}"
        if role == Qt.ItemDataRole.DecorationRole:
            return self._picture(outcome)
        if role == Qt.ItemDataRole.ToolTipRole:
            return help_of(outcome)
        if role == Qt.ItemDataRole.SizeHintRole:
            return self.size  # else all had the size of the first one, whose name may be short
        if role in WARNED and outcome.row.get("fit", 1.0) < WARN_BELOW:
            return QColor(WARNED[Qt.ItemDataRole(role)])
        return None

    def _picture(self, outcome: ImageOutcome) -> QIcon:
        path, changed = thumbnail_of(self._output, outcome.image.name), 0.0
        with suppress(OSError):  # an older run has none
            changed = path.stat().st_mtime
        return self._picture_of(path, changed)


class Gallery(QListView):
    """A grid of pictures; ``opened`` tells of a double click or Enter on one."""

    opened = Signal(object)  # ImageOutcome

    def __init__(self) -> None:
        super().__init__()
        self.outcomes = OutcomeList(self)
        self.setModel(self.outcomes)
        self.setAccessibleName("Images that were counted")
        self.setViewMode(QListView.ViewMode.IconMode)
        self.setIconSize(QSize(PICTURE_PX, PICTURE_PX))
        self._fit_to_font()
        self.setMovement(QListView.Movement.Static)
        self.setResizeMode(QListView.ResizeMode.Adjust)
        self.setUniformItemSizes(True)
        self.setWordWrap(True)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)  # the ends of names tell images apart
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.activated.connect(self._on_activated)

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow the size of the font; called by Qt."""
        super().changeEvent(event)
        if event is not None and event.type() == QEvent.Type.FontChange:
            self._fit_to_font()

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Follow the width of the panel; called by Qt."""
        self._fit_to_font()
        super().resizeEvent(event)

    def _fit_to_font(self) -> None:
        metrics, around = self.fontMetrics(), self.contentsRect().width() - SCROLL_BAR_PX
        wanted = max(PICTURE_PX, LEAST_LINE * metrics.averageCharWidth()) + MARGIN_PX
        n_columns = max(around // wanted, 1)
        height = PICTURE_PX + TEXT_LINES * metrics.lineSpacing() + MARGIN_PX  # Qt keeps some around a text
        width = max(around // n_columns, PICTURE_PX)
        self.outcomes.size = QSize(width - MARGIN_PX, height)
        self.setGridSize(QSize(width, height + MARGIN_PX))

    def show_outcomes(self, outcomes: Sequence[ImageOutcome], output: Path) -> None:
        """Show images; the place in the list and what is chosen stay."""
        chosen = {self.outcomes.outcome(index.row()).image.name for index in self.selectedIndexes()}
        bar = self.verticalScrollBar()
        place = 0 if bar is None else bar.value()
        self.outcomes.set_outcomes(outcomes, output)
        for number, outcome in enumerate(outcomes):
            if outcome.image.name in chosen:
                self.setCurrentIndex(self.outcomes.index(number, 0))
        if bar is not None:
            self.scheduleDelayedItemsLayout()
            self.executeDelayedItemsLayout()
            bar.setValue(place)

    def _on_activated(self, index: QModelIndex) -> None:
        self.opened.emit(self.outcomes.outcome(index.row()))


def help_of(outcome: ImageOutcome) -> str:
    """Return what is known of an image, a line for each column."""
    facts = {**outcome.image.plate, **outcome.row}
    known = [f"{name}: {value}" for name, value in facts.items() if value != ""]
    return "\n".join([outcome.image.name, *known])


def _fit(outcome: ImageOutcome) -> str:
    fit = outcome.row.get("fit")
    if "corrected" in outcome.row:
        return f"{outcome.row['corrected']:,} corrected"
    if BESIDE in outcome.row:
        return MADE_WAY
    if fit is not None and fit < UNKNOWN_BELOW:
        return "do not trust"
    return in_short_of(outcome.row)


def _squared(path: Path, _: float) -> QIcon:
    """Return a picture, as it was changed last, that fits its place, on a dark square."""
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
    return QIcon(square)
