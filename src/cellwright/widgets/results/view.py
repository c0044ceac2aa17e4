"""The controls of the results panel, without any behaviour."""

from collections.abc import Iterator

from napari.layers import Layer
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtGui import QAction, QResizeEvent
from qtpy.QtWidgets import (
    QBoxLayout,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLayout,
    QLineEdit,
    QMenu,
    QSpinBox,
    QStackedWidget,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)
from superqt import QDoubleSlider

from cellwright.ops.measure.columns import GROUPS, MEASURED, group_help
from cellwright.widgets.results.table import CellsTable, FrameModel
from cellwright.widgets.shared.cells.snapshot import is_cells_layer
from cellwright.widgets.shared.combos import LayerComboBox, PanelComboBox, RegionPanel
from cellwright.widgets.shared.edited_layers import is_image, is_shapes
from cellwright.widgets.shared.flow import Page, PageBar, WrappedButton, shortened
from cellwright.widgets.shared.form import CheckList
from cellwright.widgets.shared.jobs import JobBar
from cellwright.widgets.shared.napari_private import BORDERS
from cellwright.widgets.shared.panel_area import widen
from cellwright.widgets.shared.style import (
    MessageLabel,
    boxed,
    button,
    check_box,
    come_after,
    fill,
    form_layout,
    number_box,
    panel_layout,
    row,
    stack,
    take_points,
    with_own_keys,
    wrapped_label,
)

OWN_STYLE = """
#resultNumber { font-size: 26pt; font-weight: 600; background: transparent; }
#resultLine { background: transparent; }
"""
GROUPINGS = {
    "Own colours": "",
    "Class": "class",
    "Region": "region",
    "Positive for": "markers",
    "Slice or frame": "frame",
}
COUNTED_BY = {
    "Region and frame": "",
    **{title: name for title, name in GROUPINGS.items() if name},
    "Image of the session": "image",
}
PLOTS = ("Histogram", "Scatter", "Over frames", "Boxes")
LEAST_SPAN = 1e-9  # of thresholds
LONGEST_NAME = 18
LINE_LETTERS = 14  # that the line beside the number has room for
SMALL_TABLE_PX = 150


class ResultsView(RegionPanel):
    """What is told of the cells of a layer: their number, the table, measurements, plots, exports."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("results")
        self._to_fill: list[tuple[Page, QWidget]] = []
        self.message = MessageLabel("Measuring")
        self.job_bar, self.tracks = JobBar(), TrackPage()
        layout = panel_layout(self, OWN_STYLE, spacing_px=6)
        fill(layout, self._subjects(), self._card())
        self.tabs = QTabWidget()
        for title, page, help_text in (
            ("Cells", self._cells_page(), "One row for each cell"),
            ("Counts", self._counts_page(), "Counts per region, class, frame and marker"),
            ("Measure", self._measure_page(), "What is measured of each cell"),
            ("Plots", self._plots_page(), "Plots of the cells that count"),
            ("Tracks", self._scrolled(self.tracks), "Cells linked over time"),
            ("Export", self._export_page(), "Tables, reports, and the command that repeats the result"),
        ):
            self.tabs.setTabToolTip(self.tabs.addTab(page, title), help_text)
        self.tabs.tabBarClicked.connect(self.message.forget_news)
        self.page_bar = PageBar(self.tabs)
        layout.addWidget(self.page_bar)
        come_after(self.image, *self.page_bar.buttons)
        layout.addWidget(self.tabs, 1)
        self.take_kept = button(
            "Use the kept ones",
            "Set regions, filters and measurements as they were when it was last open.",
        )
        self.take_kept.setVisible(False)
        fill(layout, self.message, self.take_kept, self.job_bar)  # below: what is clicked stays where it is

    def can_mask(self, layer: Layer) -> bool:
        """Return whether a layer is listed as a mask, or for nuclei: not the cells themselves."""
        return super().can_mask(layer) and layer is not self.layer.layer

    def _scrolled(self, content: QWidget) -> Page:
        """Return a page that scrolls; its content comes by :meth:`fill`."""
        page = Page()
        self._to_fill.append((page, content))
        return page

    def fill(self) -> Iterator[None]:
        """Fill one page after the other: all at once stall the viewer."""
        for page, content in self._to_fill:
            page.setWidget(content)
            yield

    def show_page(self, title: str) -> None:
        """Open a page."""
        self.tabs.setCurrentIndex(self._place_of(title))

    def _place_of(self, title: str) -> int:
        return [self.tabs.tabText(place) for place in range(self.tabs.count())].index(title)

    def show_tracks(self, *, is_shown: bool) -> None:
        """Show the page of tracks, or none where there is no time."""
        self.tabs.setTabVisible(self._place_of("Tracks"), is_shown)
        self.page_bar.follow()

    def _subjects(self) -> QFormLayout:
        self.layer = LayerComboBox(
            is_cells_layer, "The Labels or Points layer whose cells are shown.", otherwise="no cells yet"
        )
        self.image = LayerComboBox(
            is_image, "The image the cells lie in, which is measured.", otherwise="no image"
        )
        return form_layout(("Cells", self.layer), ("Image", self.image), spacing_px=4)

    def _card(self) -> QFrame:
        self.number, self.line = QLabel("—"), wrapped_label("Choose a layer with cells.", "resultLine")
        self.number.setObjectName("resultNumber")
        self.number.setToolTip("Cells that count, by the filters, the border rule and the regions.")
        return NumberCard(self.number, self.line)

    def _cells_page(self) -> QWidget:
        self.filter = QLineEdit()
        self.filter.setPlaceholderText("Filter")
        self.filter.setClearButtonEnabled(True)
        self.filter.setToolTip(
            "Count only cells for which this is true: a column, one of < <= > >= = != and a value; several "
            "are joined by 'and'. A column is its heading, or its name in files: hover over the heading."
        )
        self.frame = FrameModel(self)
        self.table = CellsTable(self.frame)
        self.table.setToolTip("Choose a row: the viewer goes to the cell. Click a cell: its row is chosen.")
        self.delete = button(
            "Delete",
            with_own_keys("Delete the chosen cells from the layer. Ctrl-Z in the layer brings labels back."),
        )
        self.delete_like = DeleteLike()
        self.class_name = PanelComboBox("A class for the chosen cells: one that there is, or a new name.")
        self.class_name.setEditable(True)
        self.class_name.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        edit = self.class_name.lineEdit()
        assert edit is not None
        edit.setPlaceholderText("class")
        self.set_class = button("Set class", "Give the chosen cells this class.")
        edit.returnPressed.connect(self.set_class.click)
        page = QWidget()
        layout = page_layout(page)
        layout.addWidget(self.filter)
        layout.addWidget(self.table, 1)
        classes, deletion = row(self.class_name, self.set_class), row(self.delete, self.delete_like)
        layout.addLayout(stack(classes, deletion))  # four in a row are too wide where letters are large
        return page

    def _counts_form(self) -> QFormLayout:
        self.border = PanelComboBox(
            "Cells at the border: count all; none; or none on the last row and column, so that those on the "
            "first stand for both (an unbiased count)."
        )
        self.regions = LayerComboBox(
            is_shapes, "A Shapes layer: cells count inside its shapes, and for each of them.", none="None"
        )
        self.colour_by = PanelComboBox("Colour the cells in the viewer; own colours: those of the layer.")
        self.border.fill(BORDERS.items())
        self.counted_by = PanelComboBox(
            "What the rows of the table of counts are, here and in the file of counts."
        )
        self.colour_by.fill(GROUPINGS.items())
        self.counted_by.fill(COUNTED_BY.items())
        self.draw_regions = button("Draw", "Add a Shapes layer to draw regions in.")
        form = form_layout(
            ("Border", self.border),
            ("Regions", row(self.regions, self.draw_regions)),
            ("", self.everywhere),
            ("Leave out", self.exclude),
            ("", self.out_everywhere),
            spacing_px=4,
        )
        self.add_mask_rows(form)
        form.addRow("Region edge", self.rule)
        form.addRow("Colour by", self.colour_by)
        form.addRow("Count by", self.counted_by)
        return form

    def _counts_page(self) -> QWidget:
        self.counts_frame, self.markers_frame = FrameModel(self), FrameModel(self)
        self.counts_table, self.markers_table = CellsTable(self.counts_frame), CellsTable(self.markers_frame)
        self.counts_table.setToolTip("Cells that count, per region and frame, with classes and densities.")
        self.markers_table.setToolTip("Cells that are positive for markers together.")
        self.counts_table.setMinimumHeight(SMALL_TABLE_PX)
        self.markers_table.setMinimumHeight(SMALL_TABLE_PX)
        self.markers_table.hide()
        self.markers = QVBoxLayout()
        self.markers_hint = wrapped_label("Measure the intensity to find positive cells.", "hint")
        content = QWidget()
        layout = page_layout(content)
        layout.addLayout(self._counts_form())
        layout.addWidget(self.counts_table, 1)
        fill(layout, heading("Positive cells"), self.markers_hint, self.markers)
        layout.addWidget(self.markers_table, 1)
        return self._scrolled(content)

    def _measure_page(self) -> QWidget:
        self.groups = {name: check_box(GROUPS[name], group_help(name)) for name in MEASURED}
        self.others = CheckList("Further images of the same pixels to measure the intensity in.")
        self.ring_gap = number_box("px", "Pixels between a cell and its ring of background.", 2.0)
        self.ring_width = number_box(
            "px", "Width of the ring of background around a cell, in pixels.", 5.0, lowest=0.5
        )
        self.nuclei = LayerComboBox(
            self.can_mask,
            "A Labels layer of the nuclei of the cells: nuclei of each cell, cells without one.",
            none="None",
        )
        self.cytoplasm = number_box(
            "px",
            "Where the cells are nuclei: width of the ring around each, used as its cytoplasm.",
            zero="none",
        )
        self.measure = button("Measure", "Measure what is ticked, in the background.")
        self.measure_hint = wrapped_label("Area, diameter and place are always in the table.", "hint")
        rings = ("Ring gap", self.ring_gap), ("Ring width", self.ring_width)
        nuclei = ("Nuclei", self.nuclei), ("Cytoplasm ring", self.cytoplasm)
        form = form_layout(*rings, *nuclei, spacing_px=4)
        content = QWidget()
        self.others_title = wrapped_label("Also in these images")
        groups = self.groups.values()
        layout = page_layout(content)
        fill(layout, self.measure_hint, *groups, self.others_title, self.others, form, self.measure)
        layout.addStretch(1)
        return self._scrolled(content)

    def _plots_page(self) -> QWidget:
        self.plot_kind = PanelComboBox("What is drawn.")
        self.plot_kind.fill((name, name) for name in PLOTS)
        self.plot_x = PanelComboBox("The column that is drawn.")
        self.plot_y = PanelComboBox("The column on the y axis.")
        self.plot_group = PanelComboBox("One box for each of these.")
        self.plot_group.fill((title, name) for title, name in GROUPINGS.items() if name)
        self.lasso = button("Lasso", "Draw around cells in the plot: only those inside count.")
        self.lasso.setCheckable(True)
        self.no_gate = button("Clear", "Remove the gate or the cut-offs.")
        self.plots = QStackedWidget()  # that were asked for
        self.plot_hint = wrapped_label(name="hint")
        content = QWidget()
        layout = fill(page_layout(content), self.plot_kind, self.plot_x, self.plot_y, self.plot_group)
        layout.addWidget(self.plots, 1)
        layout.addWidget(self.plot_hint)
        layout.addLayout(row(self.lasso, self.no_gate))
        return self._scrolled(content)

    def _export_page(self) -> QWidget:
        self.save_table = button("Save table…", "The cells that count as CSV, Excel or Parquet.")
        self.save_counts = button("Save counts…", "Counts per region, class and frame as CSV.")
        self.save_regions = button(
            "Save regions…", "The regions as GeoJSON; QuPath and the cellwright command read it."
        )
        self.save_report = button(
            "Save report…",
            "One HTML file with picture, number, plots, tables and settings; a browser prints it.",
        )
        self.copy_python = button("Copy as Python", "Python code that gives the same result.")
        self.copy_command = button("Copy as command", "The command line that gives the same result.")
        self.save_settings = button(
            "Save settings…",
            "All settings to a file, for other images and the command line; no regions of this image.",
        )
        self.load_settings = button("Load settings…", "Load settings saved earlier.")
        content = QWidget()
        layout = page_layout(content)
        for buttons in (
            (self.save_table, self.save_counts, self.save_regions, self.save_report),
            (self.copy_python, self.copy_command),
            (self.save_settings, self.load_settings),
        ):
            fill(layout, *buttons).addSpacing(8)
        layout.addStretch(1)
        return self._scrolled(content)


class NumberCard(QFrame):
    """A number and a line about it: beside each other, or below where the line has little room there."""

    def __init__(self, number: QLabel, line: QLabel) -> None:
        super().__init__()
        self.setObjectName("card")
        self._number, self._line, self._layout = number, line, QHBoxLayout(self)
        self._layout.setContentsMargins(6, 2, 6, 4)
        self._layout.addWidget(number)
        self._layout.addWidget(line, 1)

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Follow the width of the panel; called by Qt."""
        super().resizeEvent(event)
        room = self.width() - self._number.sizeHint().width()
        is_narrow = room < LINE_LETTERS * self._line.fontMetrics().averageCharWidth()
        direction = QBoxLayout.Direction
        self._layout.setDirection(direction.TopToBottom if is_narrow else direction.LeftToRight)


class DeleteLike(WrappedButton):
    """A button whose menu deletes all cells that the filters keep, or all that they leave out."""

    def __init__(self) -> None:
        super().__init__("Delete all like this")
        self.setToolTip("Delete all cells that the filters keep, or all that they leave out, in one step.")
        self.kept, self.hidden, menu = QAction(self), QAction(self), QMenu(self)
        menu.addActions([self.kept, self.hidden])
        self.setMenu(menu)
        self.show_numbers(0, 0)

    def show_numbers(self, n_kept: int, n_hidden: int) -> None:
        """Offer to delete that many, while the filters leave out any."""
        self.setEnabled(n_hidden > 0)
        for action, n, which in ((self.kept, n_kept, "that count"), (self.hidden, n_hidden, "left out")):
            action.setText(f"The {n:,} {which}")
            action.setEnabled(n > 0)


class MarkerRow:
    """The controls of one channel: whether cells are told positive in it, and above which mean intensity."""

    def __init__(self, rows: QVBoxLayout) -> None:
        self.is_on = check_box("", "")
        self.slider = QDoubleSlider(Qt.Orientation.Horizontal)
        self.value = QDoubleSpinBox()
        take_points(self.value)
        self.value.setButtonSymbols(QDoubleSpinBox.ButtonSymbols.NoButtons)
        for control in (self.slider, self.value):
            control.setToolTip("The mean intensity above which a cell is positive.")
        self.otsu = button("Otsu", "Find the threshold among the cells by Otsu's method.")
        self.box = boxed(stack(self.is_on, row(self.slider, self.value, self.otsu)))
        rows.addWidget(self.box)

    def show_channel(self, title: str, low: float, high: float) -> None:
        """Name the channel, and set the lowest and the highest threshold."""
        self.is_on.setText(shortened(title, LONGEST_NAME))
        self.is_on.setToolTip(f"Call cells positive in {title} whose mean intensity is above the threshold.")
        with QSignalBlocker(self.slider), QSignalBlocker(self.value):
            self.value.setDecimals(3 if high - low < 10 else 1)
            for control in (self.slider, self.value):
                control.setRange(low, max(high, low + LEAST_SPAN))

    def show_threshold(self, threshold: float) -> None:
        """Move slider and number without an echo."""
        with QSignalBlocker(self.slider), QSignalBlocker(self.value):
            self.slider.setValue(threshold)
            self.value.setValue(threshold)
        widen(self.value)


def heading(text: str) -> QLabel:
    """Return a title of a part."""
    label = QLabel(text)
    font = label.font()
    font.setBold(True)
    label.setFont(font)
    return label


def page_layout(page: QWidget) -> QVBoxLayout:
    """Return the layout of a page."""
    layout = stack(into=page, spacing_px=6)
    layout.setContentsMargins(2, 6, 2, 2)
    layout.setSizeConstraint(QLayout.SizeConstraint.SetDefaultConstraint)
    return layout


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
        fill(layout, self.save_lineages, self.save_tracks)  # side by side they are too wide in large letters

    def _form(self) -> QFormLayout:
        self.distance = number_box(
            "px", "How far a cell may move from frame to frame.", highest=FARTHEST_PX, zero="cell diameter"
        )
        self.interval = number_box(
            "s", "Time from frame to frame, for speeds per minute.", highest=LONGEST_S, zero="not known"
        )
        self.interval.setDecimals(3)
        self.divisions = check_box(
            "Cells may divide", "Link both daughters to the cell that divided.", is_on=True
        )
        self.gap = QSpinBox()
        self.gap.setRange(0, 100)
        self.gap.valueChanged.connect(lambda n: self.gap.setSuffix(" frame" if n == 1 else " frames"))
        self.gap.setValue(1)
        self.gap.setToolTip("Frames in which a cell may be missing between two others.")
        reach = ("Max. distance", self.distance), ("Max. gap", self.gap)
        return form_layout(*reach, ("Frame interval", self.interval), self.divisions, spacing_px=4)
