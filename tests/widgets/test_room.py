"""Room: every panel scrolls, fits a small screen, explains its controls, is readable in both themes."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.qt import get_stylesheet
from napari.utils.theme import get_theme
from npe2 import PluginManifest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QCoreApplication, QEvent, QMetaType, QPoint, QSize, Qt
from qtpy.QtGui import QColor, QTextFormat
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSpinBox,
    QApplication,
    QCheckBox,
    QComboBox,
    QDockWidget,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QItemEditorFactory,
    QLabel,
    QLineEdit,
    QMainWindow,
    QScrollArea,
    QSlider,
    QStyle,
    QStyleOptionComboBox,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

import cellwright
from cellwright.ops.plates import plate_map
from cellwright.training.evaluation.compare import Comparison, ModelCount
from cellwright.widgets.annotate import view as annotate_view
from cellwright.widgets.annotate.keys import AWAY_HINT, HINTS, IDLE_HINT, CheatSheet
from cellwright.widgets.annotate.widget import AnnotateWidget
from cellwright.widgets.compare.model import COLOURS, Compared
from cellwright.widgets.count.calibrate import CalibrationTable
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.folder.plate_view import PlateView
from cellwright.widgets.results.plots import COLOUR, MARK, Histogram
from cellwright.widgets.results.view import MarkerRow, ResultsView, TrackPage
from cellwright.widgets.shared.combos import PanelComboBox
from cellwright.widgets.shared.flow import BREAK, FigureTable, Page, wrappable
from cellwright.widgets.shared.model_combos import ModelCard
from cellwright.widgets.shared.panel_area import LETTERS, PanelScrollArea
from cellwright.widgets.shared.style import STYLE, FoldedPart, button, even_row, panel_layout
from cellwright.widgets.train import choices
from cellwright.widgets.train import view as train_view

MANIFEST = PluginManifest.from_file(Path(cellwright.__file__).parent / "napari.yaml").contributions
WIDGETS = {one.command for one in MANIFEST.widgets}
PANELS = {
    one.id.partition(".")[2].removesuffix("_widget"): str(one.python_name)
    for one in MANIFEST.commands
    if one.id in WIDGETS
}
VALUES = QComboBox | QAbstractSpinBox | QSlider
CONTROLS = QAbstractButton | QComboBox | QAbstractSpinBox | QSlider | QLineEdit
NAME_ROLE, FIELD_ROLE = QFormLayout.ItemRole.LabelRole, QFormLayout.ItemRole.FieldRole
PARTS = ("qt_", "ScrollLeftButton", "ScrollRightButton")  # of Qt's own widgets
SCREEN_PX, NAPARI_PX = 1024, 773  # what napari alone takes of a small screen in letters of 16
DOCK_PX = 620  # height of a dock on a small screen
MOST_WIDTH_PX, MOST_HEIGHT_PX = SCREEN_PX - NAPARI_PX, 500  # of a dock
USUAL_WIDTH_PX = 310  # in usual letters, for which napari leaves more
JARGON = r"\bepochs?\b|\bvalidations?\b|\bcheckpoint|\btensor|\bdtype|\bSPDX identifier"
NARROWEST_PX = 210  # of a page beside its scroll bar
READABLE = 4.5  # contrast of small text (WCAG 2.1, AA)
SEEN = 3.0  # contrast of lines
MADE_OUT = 1.9  # of what cannot be pressed now


@pytest.fixture
def panel(request: pytest.FixtureRequest, qtbot: QtBot, shelved: Any) -> QWidget:
    module, _, name = PANELS[request.param].partition(":")
    viewer = ViewerModel()
    viewer.add_image(np.zeros((9, 9)), scale=(0.5, 0.5), units=("um", "um"))  # all there is to choose
    made: QWidget = getattr(import_module(module), name)(viewer)
    qtbot.addWidget(made)
    view = getattr(made, "view", None)
    if view is not None:
        qtbot.waitUntil(lambda: view.parent() is not None)  # it comes a moment later
        qtbot.waitUntil(lambda: getattr(made, "is_filled", True))
    return made


every_panel = pytest.mark.parametrize("panel", PANELS, indirect=True)


def opened(panel: QWidget) -> None:
    """Open all that is folded, and tell an error."""
    for part in panel.findChildren(FoldedPart):
        part.title.setChecked(True)
    shown = getattr(panel, "view", None) or panel.panel
    path = "/" + 200 * "x"  # one word
    shown.message.tell("Something went wrong, which takes many words to tell. " * 8 + path, is_error=True)
    assert shown.message.text().endswith(path)
    if hasattr(shown, "show_session"):
        shown.show_session(is_open=True)
        shown.show_classes(("lymphocyte", "tumour cell with a long name"), (1000, 1000))
    if hasattr(shown, "markers"):
        marker = MarkerRow(shown.markers)
        marker.show_channel("a channel with a long name", 0.0, 2000.0)
        marker.show_threshold(1234.5)
    if hasattr(shown, "show_compared"):
        names = ("flow", "a-model-with-a-long-name")
        counted = tuple(ModelCount(name, "an image", 61_050.0) for name in names)
        shown.show_compared(Compared(Comparison(names, counted), (None,)))
    if isinstance(shown, train_view.TrainPanel):
        before = {"ap50": 0.5, "count_error": 0.25, "retention": 0.9}
        shown.card.show_scores(before, {"ap50": 0.875, "count_error": 0.125, "retention": 0.776})
        shown.card.setVisible(True)
        shown.offer_classes(is_offered=True)


def controls(panel: QWidget) -> Iterator[QWidget]:
    for one in panel.findChildren(QWidget):
        is_part = one.objectName().startswith(PARTS)
        inside = isinstance(one.parent(), QAbstractSpinBox | QComboBox | QLineEdit)
        if isinstance(one, CONTROLS) and not is_part and not inside:
            yield one


@every_panel
def test_every_control_has_a_tooltip(panel: QWidget) -> None:
    bare = [f"{type(one).__name__} {getattr(one, 'text', str)()!r}" for one in controls(panel)
            if not one.toolTip()]  # fmt: skip
    assert not bare, bare


@every_panel
def test_scrolling_a_panel_changes_no_value(
    panel: QWidget, monkeypatch: pytest.MonkeyPatch, turn_wheel: Callable[[QWidget, int], None]
) -> None:
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: "")  # some lists ask
    opened(panel)
    panel.show()
    late = QComboBox(objectName="late")  # of a form that is built anew
    late.addItems(["a", "b"])
    (getattr(panel, "view", None) or panel.panel).layout().addWidget(late)  # type: ignore[attr-defined]
    QApplication.processEvents()
    watched = [one for one in panel.findChildren(QWidget) if isinstance(one, VALUES)]
    assert late in watched
    for one in watched:
        before = value_of(one)
        for step in (-120, 120):
            turn_wheel(one, step)
            assert value_of(one) == before, one.toolTip()


def value_of(control: Any) -> Any:
    """Return what a control is set to."""
    if isinstance(control, QComboBox):
        return control.currentIndex()
    return control.text() if isinstance(control, QAbstractSpinBox) else control.value()


@every_panel
def test_panels_use_the_words_of_biologists(panel: QWidget) -> None:
    opened(panel)
    told = []
    for one in controls(panel):
        told += [one.toolTip(), getattr(one, "text", str)()]
        if isinstance(one, QComboBox):
            told += [one.itemText(place) for place in range(one.count())]
    for label in panel.findChildren(QLabel):
        told += [label.text(), label.toolTip()]
    assert not [text for text in told if re.search(JARGON, text, re.IGNORECASE)]


@every_panel
@pytest.mark.parametrize("font_pt", [9, 16])
def test_panels_fit_and_clip_no_text(panel: QWidget, font_pt: int) -> None:
    opened(panel)
    panel.show()
    for size in (9, font_pt):  # the second while the panel is open
        panel.setStyleSheet(get_stylesheet("light", extra_variables={"font_size": f"{size}pt"}))
        for _ in range(3):  # what follows the font does so later
            QApplication.processEvents()
    least = panel.minimumSizeHint()
    assert least.width() <= (MOST_WIDTH_PX if font_pt == 16 else USUAL_WIDTH_PX)
    assert least.height() <= MOST_HEIGHT_PX
    panel.resize(max(least.width(), panel.minimumWidth()), MOST_HEIGHT_PX)
    for tabs in panel.findChildren(QTabWidget):
        for place in range(tabs.count()):
            tabs.setCurrentIndex(place)
            for _ in range(3):  # a change of width changes heights, which Qt tells later
                QApplication.processEvents()
            assert clipped(panel) == []
    for _ in range(3):
        QApplication.processEvents()
    assert clipped(panel) == []


@every_panel
def test_fields_below_their_names_have_the_whole_width(panel: QWidget) -> None:
    opened(panel)
    panel.show()
    panel.setStyleSheet(get_stylesheet("light", extra_variables={"font_size": "16pt"}))
    panel.resize(MOST_WIDTH_PX + 20, MOST_HEIGHT_PX)
    for _ in range(4):  # what follows the font does so later
        QApplication.processEvents()
    for form in panel.findChildren(QFormLayout):
        for row in range(form.rowCount()):
            name, field = (form.itemAt(row, role) for role in (NAME_ROLE, FIELD_ROLE))
            if name is None or field is None or field.isEmpty():
                continue
            is_below = field.geometry().top() > name.geometry().bottom()
            assert not is_below or field.geometry().left() == form.contentsRect().left()


@every_panel
def test_no_name_of_a_file_widens_a_panel(panel: QWidget) -> None:
    name = "2024-03-17_HeLa_H2B-mCherry_DMSO_control_replicate3_position0012_maximum-projection.ome"
    opened(panel)
    panel.show()
    panel.setStyleSheet(get_stylesheet("light", extra_variables={"font_size": "16pt"}))
    for label in panel.findChildren(QLabel):
        if label.wordWrap():
            label.setText(AWAY_HINT.format(name))
            assert label.text() == AWAY_HINT.format(name)
    for _ in range(3):  # what follows the font does so later
        QApplication.processEvents()
    assert panel.minimumSizeHint().width() <= MOST_WIDTH_PX


def test_names_of_layers_have_room_in_large_letters(qtbot: QtBot, shelved: Any) -> None:
    viewer = ViewerModel()
    name = "2024-03-17_HeLa_H2B-mCherry_DMSO_position0012.ome"
    viewer.add_image(np.zeros((9, 9)), name=name)
    panel = AnnotateWidget(viewer)
    qtbot.addWidget(panel)
    panel.panel.names.setText("tumour, lymphocyte, another class, a further class")
    panel.panel.names.editingFinished.emit()
    assert panel.panel.names.cursorPosition() == 0  # the first ones are seen, not the last
    panel.setStyleSheet(get_stylesheet("dark", extra_variables={"font_size": "16pt"}))
    with qtbot.waitExposed(panel):
        panel.show()
    qtbot.wait(20)
    panel.resize(panel.minimumSizeHint().width(), DOCK_PX)
    qtbot.wait(20)
    box, option = panel.panel.image, QStyleOptionComboBox()
    box.initStyleOption(option)
    part = QStyle.SubControl.SC_ComboBoxEditField
    room = box.style().subControlRect(QStyle.ComplexControl.CC_ComboBox, option, part, box).width()
    assert len(box.shortened(name, room)) >= 10


def test_names_of_files_go_on_in_the_next_line_at_their_parts() -> None:
    pieces = wrappable("2024-03-17_HeLa_H2B-mCherry_position0012.tif").split(BREAK)
    assert pieces == ["2024-", "03-17_", "HeLa_", "H2B-", "mCherry_", "position0", "012.", "tif"]
    assert max(map(len, wrappable(60 * "x").split(BREAK))) == 9
    assert wrappable("Shift+click: not this") == "Shift+click: not this"
    assert "10.0\u00a0µm" in wrappable("median diameter 10.0 µm")
    assert wrappable("140 cells · flow · 0.7 s") == "140 cells · flow · 0.7\u00a0s"
    assert wrappable("2 min left, of 3 slices") == "2\u00a0min left, of 3 slices"


@every_panel
def test_an_error_is_seen_in_a_panel_that_is_longer_than_its_dock(panel: QWidget, qtbot: QtBot) -> None:
    area = panel.findChild(PanelScrollArea)
    assert area is not None
    area.setFixedHeight(200)
    panel.setStyleSheet(get_stylesheet("dark", extra_variables={"font_size": "16pt"}))
    with qtbot.waitExposed(panel):
        panel.show()
    message = (getattr(panel, "view", None) or panel.panel).message  # type: ignore[attr-defined]
    message.tell("There is no such folder.", is_error=True)
    qtbot.waitUntil(lambda: message.visibleRegion().boundingRect().height() > 20)


@pytest.mark.parametrize("panel", ["annotate", "train", "compare", "folder"], indirect=True)
def test_errors_go_once_something_is_chosen_typed_or_ticked(panel: Any) -> None:
    shown = getattr(panel, "view", None) or panel.panel
    changes = [box.chosen.emit for box in shown.findChildren(PanelComboBox)]
    changes += [partial(line.textEdited.emit, "") for line in shown.findChildren(QLineEdit)]
    changes += [tick.click for tick in shown.findChildren(QCheckBox) if tick.isEnabled()]
    for change in changes:
        shown.message.tell("There is no such folder.", is_error=True)
        change()
        assert shown.message.text() == ""
    shown.message.tell("Saved.")
    changes[0]()
    assert shown.message.text() == "Saved."


@every_panel
def test_folded_parts_tell_that_they_open_in_the_colour_of_text(panel: QWidget) -> None:
    for part in panel.findChildren(FoldedPart):
        assert part.title.icon().isNull()  # it would be black in a dark theme
        for is_open, arrow in ((True, "▾ "), (False, "▸ ")):
            part.title.setChecked(is_open)
            assert part.title.text().startswith(arrow)


def clipped_numbers(panel: QWidget) -> Iterator[str]:
    """Yield the numbers that do not fit into their boxes."""
    for one in filter(QWidget.isVisible, panel.findChildren(QAbstractSpinBox)):
        line = one.lineEdit()
        wanted = line.fontMetrics().horizontalAdvance(line.text())
        if wanted > line.width():
            yield f"{line.text()!r} {line.width()} of {wanted}"
        if line.fontMetrics().tightBoundingRect(line.text()).height() > line.height():
            yield f"{line.text()!r} is {line.height()} high"


def clipped_figures(panel: QWidget) -> Iterator[str]:
    """Yield the figures of tables in rich text that reach beyond what is drawn."""
    for one in filter(QWidget.isVisible, panel.findChildren(FigureTable)):
        document, _ = one._fitted(one.width())
        layout, block = document.documentLayout(), document.begin()
        while block.isValid():
            right = layout.blockBoundingRect(block).x()
            lines = [block.layout().lineAt(place) for place in range(block.layout().lineCount())]
            right += max((line.naturalTextRect().right() for line in lines), default=0.0)
            if right > document.size().width() + 1:
                yield f"{block.text()!r} ends at {right:.0f} of {document.size().width():.0f}"
            block = block.next()


def clipped(panel: QWidget) -> list[str]:
    """Return the texts that do not fit into their widgets, and are told nowhere else."""
    found = [*clipped_numbers(panel), *clipped_figures(panel)]
    for one in panel.findChildren(QWidget):
        if not isinstance(one, QLabel | QAbstractButton) or not one.isVisible() or not one.text():
            continue
        lines = [one.fontMetrics().tightBoundingRect(line) for line in one.text().split("\n")]
        wanted = QSize(max(line.width() for line in lines), sum(line.height() for line in lines))
        if isinstance(one, QLabel) and one.textFormat() == Qt.TextFormat.RichText:
            wanted = one.minimumSizeHint()
        if isinstance(one, QLabel) and one.wordWrap():
            wanted = QSize(0, one.heightForWidth(one.width()) - one.fontMetrics().descent())  # less padding
        if isinstance(one, QAbstractButton) and one.hasHeightForWidth():
            wanted = QSize(one.minimumSizeHint().width(), one.heightForWidth(one.width()))
        is_cut = one.width() < wanted.width() or one.height() < wanted.height()
        if is_cut and one.text() not in one.toolTip():
            found.append(f"{one.text()!r} {one.width()}x{one.height()} of {wanted.width()}x{wanted.height()}")
    return found


def test_switching_models_leaves_nothing_behind(qtbot: QtBot, shelved: Any) -> None:
    panel = CountWidget(ViewerModel())
    qtbot.addWidget(panel)

    def n_widgets() -> int:
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        return len(panel.findChildren(QWidget))

    before = n_widgets()
    for _ in range(10):
        for family in ("density", "flow"):
            panel._show_family(family)
        for is_open in (True, False):
            panel.panel.more.title.setChecked(is_open)
    assert n_widgets() == before


def test_a_first_count_shows_image_and_model_alone(qtbot: QtBot, shelved: Any) -> None:
    panel = CountWidget(ViewerModel())
    qtbot.addWidget(panel)
    with qtbot.waitExposed(panel):
        panel.show()
    QApplication.processEvents()
    shown = [box for box in panel.findChildren(QComboBox) if not box.visibleRegion().isEmpty()]
    assert shown == [panel.panel.image, panel.panel.model]
    panel.panel.more.title.setChecked(True)
    assert panel.panel.mask_layer.isVisible()
    assert not panel.panel.mask_side.isVisible()  # without a mask there are no sides


def test_rows_of_tracks_wrap_where_letters_are_large(qtbot: QtBot) -> None:
    page = TrackPage()
    qtbot.addWidget(page)
    least = page.minimumSizeHint().width()
    field, *buttons = (
        one.minimumSizeHint().width() for one in (page.distance, page.save_lineages, page.save_tracks)
    )
    assert least < field + page.fontMetrics().horizontalAdvance("Frame interval")
    assert least < sum(buttons)


def test_pages_of_results_and_plates_keep_to_the_panel_in_large_letters(qtbot: QtBot) -> None:
    view, holder, plate, sides = ResultsView(), QWidget(), PlateView(), []
    for _ in view.fill():
        pass
    MarkerRow(view.markers).show_channel("nuclei_2d (ch0)", 0.0, 4095.5)
    plate.show_plate(plate_map([("A01", 1.0), ("B03", 2.0)]))
    QVBoxLayout(holder).addWidget(plate)
    plot = Histogram()
    view.plots.addWidget(plot)
    ticks = plot.getAxis("left")
    areas = [PanelScrollArea(panel) for panel in (view, holder)]
    for area in areas:
        qtbot.addWidget(area)
    for size in (9, 16):
        for area in areas:
            area.setStyleSheet(get_stylesheet("dark", extra_variables={"font_size": f"{size}pt"}))
            area.resize(MOST_WIDTH_PX, 500)
            with qtbot.waitExposed(area):
                area.show()
            qtbot.wait(1)  # what follows the font does so later
        sides.append((plate.margin, plate.side))
    pages = [page.widget() for page in view.tabs.findChildren(QScrollArea) if page.widget() is not None]
    widths = []
    for page in pages:
        view.tabs.setCurrentWidget(page.parent().parent())
        qtbot.wait(1)
        widths.append(page.minimumSizeHint().width())
    assert max(widths) <= NARROWEST_PX
    assert ticks.style["tickFont"].pointSizeF() > 12
    assert sides[0][0] < sides[1][0]
    assert sides[0][1] > sides[1][1]


def test_no_width_and_no_letters_hide_a_page_of_results(qtbot: QtBot) -> None:
    view = ResultsView()
    area = PanelScrollArea(view)
    qtbot.addWidget(area)
    with qtbot.waitExposed(area):
        area.show()
    for size in (9, 16, 9):
        area.setStyleSheet(get_stylesheet("dark", extra_variables={"font_size": f"{size}pt"}))
        for width in (300, 500):
            area.resize(max(width, area.minimumSizeHint().width()), 500)
            qtbot.wait(1)
            titles = view.page_bar.buttons
            assert clipped(view.page_bar) == []
            assert all(one.geometry().right() < view.page_bar.width() for one in titles)
    assert len({one.y() for one in titles}) == 1  # one row where there is room
    for place, one in enumerate(titles):
        one.click()
        assert [made.isChecked() for made in titles] == [place == at for at in range(len(titles))]
        assert view.tabs.currentIndex() == place
    view.show_tracks(is_shown=False)
    assert [one.text() for one in titles if one.isHidden()] == ["Tracks"]


def test_one_bar_scrolls_a_page_of_results(qtbot: QtBot) -> None:
    """Its own in usual letters, below number and titles; that of the panel in large ones."""
    view = ResultsView()
    for _ in view.fill():
        pass
    area = PanelScrollArea(view)
    qtbot.addWidget(area)
    with qtbot.waitExposed(area):
        area.show()
    pages = view.tabs.findChildren(Page)
    for size, is_long in ((9, False), (16, True), (9, False)):
        area.setStyleSheet(get_stylesheet("dark", extra_variables={"font_size": f"{size}pt"}))
        area.resize(area.minimumSizeHint().width(), DOCK_PX)
        heights = []
        for page in pages:
            view.tabs.setCurrentWidget(page)
            qtbot.wait(20)
            inner, outer = page.verticalScrollBar().maximum(), area.verticalScrollBar().maximum()
            assert not (inner and outer)
            assert (outer > 0) == is_long
            heights.append(view.height())
        assert (len(set(heights)) > 1) == is_long  # each page is as long as it is
        view.show_page("Counts")
        qtbot.wait(20)
        assert (view.draw_regions.y() > view.regions.geometry().bottom()) == is_long  # else beside the list


@pytest.mark.parametrize(("size", "n_lines"), [(9, 2), (16, 4)])
def test_the_line_about_a_number_has_room_in_all_letters(size: int, n_lines: int, qtbot: QtBot) -> None:
    view = ResultsView()
    area = PanelScrollArea(view)
    qtbot.addWidget(area)
    area.setStyleSheet(get_stylesheet("dark", extra_variables={"font_size": f"{size}pt"}))
    view.number.setText("147")
    view.line.setText("of 213 cells in 6 frames · 66 outside the regions")
    area.resize(area.minimumSizeHint().width(), DOCK_PX)
    with qtbot.waitExposed(area):
        area.show()
    qtbot.wait(20)
    height = view.line.fontMetrics().lineSpacing()
    assert view.line.heightForWidth(view.line.width()) < (n_lines + 0.5) * height
    assert clipped(view) == []


def test_another_page_takes_news_away_but_no_errors(qtbot: QtBot) -> None:
    view = ResultsView()
    qtbot.addWidget(view)
    for is_error in (False, True):
        view.message.tell("A sentence.", is_error=is_error)
        view.page_bar.buttons[1].click()
        assert bool(view.message.text()) == is_error


@pytest.mark.parametrize("size", [9, 16])
def test_a_box_of_a_number_has_room_for_what_comes_later(qtbot: QtBot, size: int) -> None:
    panel = QWidget()
    layout, rows = panel_layout(panel), QVBoxLayout()
    layout.addLayout(rows)
    box = QDoubleSpinBox()
    box.setRange(0.0, 5000.0)
    area = PanelScrollArea(panel)
    qtbot.addWidget(area)
    area.setStyleSheet(get_stylesheet("dark", extra_variables={"font_size": f"{size}pt"}))
    with qtbot.waitExposed(area):
        area.show()
    layout.addLayout(even_row(box, button("Otsu", ""), button("Set", "")))
    marker = MarkerRow(rows)
    marker.show_channel("DAPI", 0.0, 5000.0)
    qtbot.wait(20)
    for value in (4.0, 1378.2):
        box.setValue(value)
        marker.show_threshold(value)
        qtbot.wait(20)
        assert list(clipped_numbers(panel)) == []


def test_a_plot_that_comes_late_has_the_letters_of_its_panel(qtbot: QtBot) -> None:
    view = ResultsView()
    for _ in view.fill():
        pass
    area = PanelScrollArea(view)
    qtbot.addWidget(area)
    area.setStyleSheet(get_stylesheet("dark", extra_variables={"font_size": "16pt"}))
    with qtbot.waitExposed(area):
        area.show()
    view.show_page("Plots")
    plot = Histogram()
    view.plots.addWidget(plot)
    assert plot.getAxis("left").style["tickFont"].pointSizeF() > 12


def test_a_dock_behind_others_becomes_narrower_with_its_letters(qtbot: QtBot) -> None:
    window, docks = QMainWindow(), [QDockWidget(), QDockWidget()]
    qtbot.addWidget(window)
    for dock in docks:
        dock.setMinimumSize(50, 50)  # as napari does
        holder = QWidget()
        QVBoxLayout(holder).addWidget(PanelScrollArea(train_view.TrainPanel()))
        dock.setWidget(holder)
        window.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, dock)
    window.tabifyDockWidget(*docks)
    with qtbot.waitExposed(window):
        window.show()
    widths = []
    for size, front in ((40, docks[0]), (40, docks[1]), (9, docks[1])):
        window.setStyleSheet(get_stylesheet("dark", extra_variables={"font_size": f"{size}pt"}))
        front.raise_()
        qtbot.wait(50)
        widths.append(max(dock.minimumSizeHint().width() for dock in docks))
    assert widths[2] < widths[1]


def test_the_sheet_of_keys_keeps_to_the_screen(qtbot: QtBot) -> None:
    sheet = CheatSheet()
    qtbot.addWidget(sheet)
    sheet.setStyleSheet(get_stylesheet("dark", extra_variables={"font_size": "40pt"}))
    with qtbot.waitExposed(sheet):
        sheet.show()
    room = sheet.screen().availableSize()
    assert sheet.width() <= room.width()
    assert sheet.height() <= room.height()
    shown = sheet.text.document()
    assert shown.idealWidth() <= sheet.text.viewport().width()  # goes on in the next line
    assert "Shift+click" in sheet.text.toPlainText()
    sheet.setStyleSheet(get_stylesheet("dark", extra_variables={"font_size": "9pt"}))
    for _ in range(2):  # as it is opened again
        sheet.hide()
        with qtbot.waitExposed(sheet):
            sheet.show()
        qtbot.wait(10)
        assert sheet.text.horizontalScrollBar().maximum() == 0


@pytest.mark.parametrize("n_boxes", [2, 6])  # without and with a bar to scroll
def test_the_table_to_calibrate_fits_large_letters(qtbot: QtBot, n_boxes: int) -> None:
    form, holder = CalibrationTable(), QWidget()
    panel_layout(holder).addWidget(form)
    form.show_rows([1.1, 112.4, 33.0, 44.0, 1055.3, 6.0][:n_boxes], [-1, 12, 3, 4, 1200, 6][:n_boxes])
    area = PanelScrollArea(holder)
    qtbot.addWidget(area)
    area.setStyleSheet(get_stylesheet("dark", extra_variables={"font_size": "16pt"}))
    area.resize(MOST_WIDTH_PX, 500)
    with qtbot.waitExposed(area):
        area.show()
    qtbot.wait(20)  # what follows the font does so later
    header = form.table.horizontalHeader()
    assert header.length() <= form.table.viewport().width()
    assert all(header.sectionSize(place) >= header.sectionSizeHint(place) for place in range(header.count()))
    assert list(clipped_numbers(form)) == []


def test_code_in_a_card_has_the_letters_of_its_text(qtbot: QtBot) -> None:
    card = ModelCard("flow", "Preset `lite` of a family.")
    qtbot.addWidget(card)
    found = card.browser.document().find("lite")
    assert found.charFormat().hasProperty(QTextFormat.Property.FontFamilies)  # those of code
    assert not found.charFormat().hasProperty(QTextFormat.Property.FontPointSize)
    assert all(made.icon().isNull() for made in card.findChildren(QAbstractButton))  # black in a dark theme


def test_a_box_for_numbers_that_qt_has_made_disturbs_no_panel(qtbot: QtBot) -> None:
    panel = QWidget()
    area = PanelScrollArea(panel)
    qtbot.addWidget(area)
    QItemEditorFactory.defaultFactory().createEditor(QMetaType.Type.Int.value, panel)  # as a table does
    line = QLineEdit(panel)
    area.setStyleSheet(get_stylesheet("dark", extra_variables={"font_size": "16pt"}))
    with qtbot.waitExposed(area):
        area.show()
    area.follow_font()
    assert line.font().pointSizeF() > 12


def test_classes_of_a_training_are_read_in_large_letters(qtbot: QtBot) -> None:
    panel = train_view.TrainPanel()
    area = PanelScrollArea(panel)
    qtbot.addWidget(area)
    panel.offer_classes(is_offered=True)
    panel.what.setCurrentIndex(1)
    panel.advanced.title.setChecked(True)
    name = "tumour cell with a long name"
    scores, n_checked = {"accuracy": 0.875, f"recall_{name}": 0.5}, {name: 1000, "lymphocyte": 0}
    panel.card.show_classes(scores, n_checked, is_held_back=True)
    panel.card.setVisible(True)
    area.setStyleSheet(get_stylesheet("dark", extra_variables={"font_size": "16pt"}))
    area.resize(340, 900)
    with qtbot.waitExposed(area):
        area.show()
    qtbot.wait(50)
    assert panel.minimumSizeHint().width() <= area.viewport().width()


def test_curves_of_a_training_are_read_in_any_font_theme_and_width(qtbot: QtBot) -> None:
    panel = train_view.TrainPanel()
    area = PanelScrollArea(panel)
    qtbot.addWidget(area)
    plot, heights = panel.card.plot, []
    panel.card.show_curves([{"step": step, "loss": 0.7, "score": 0.6, "ap50": 0.6} for step in (1, 2)], 2.0)
    for theme, size, width in (("light", 9, 320), ("dark", 16, 480), ("dark", 16, 600)):
        area.setStyleSheet(get_stylesheet(theme, extra_variables={"font_size": f"{size}pt"}))
        area.resize(width, 900)
        with qtbot.waitExposed(area):
            area.show()
        qtbot.wait(20)
        sample, ground = QLabel(panel), QColor(get_theme(theme).background.as_hex())
        sample.ensurePolished()
        for curve, drawn in zip(plot.curves, plot.plots, strict=True):
            axis = drawn.getAxis("left")
            assert axis.label.toPlainText().strip() == curve.axis
            assert axis.style["tickFont"].pointSizeF() == pytest.approx(
                LETTERS * sample.font().pointSizeF(), rel=0.05
            )
            assert axis.label.font().pointSizeF() == axis.style["tickFont"].pointSizeF()
            assert contrast(axis.textPen().color(), ground) >= READABLE
            assert contrast(QColor(curve.colour), ground) >= SEEN
            assert axis.autoSIPrefixScale == 1
            assert f"{curve.title}: <b>0.{7 if curve.axis == 'Loss' else 6}" in plot.legend.text()
        assert [drawn.getAxis("bottom").label.isVisible() for drawn in plot.plots] == [False, True]
        assert clipped(panel.card) == []
        heights.append(plot.graphics.height())
    assert heights[0] < heights[1] < heights[2]


def test_what_is_told_moves_no_tool(qtbot: QtBot) -> None:
    panel = annotate_view.AnnotatePanel()
    area = PanelScrollArea(panel)
    qtbot.addWidget(area)
    panel.show_session(is_open=True)
    for size in (9, 16):
        area.setStyleSheet(get_stylesheet("dark", extra_variables={"font_size": f"{size}pt"}))
        with qtbot.waitExposed(area):
            area.show()
        qtbot.wait(20)  # what follows the font does so later
        area.resize(area.minimumSizeHint().width(), 900)
        qtbot.wait(20)
        places = []
        for hint in (IDLE_HINT, *HINTS.values(), AWAY_HINT.format("nuclei_time labels")):
            for line in ("N", annotate_view.LONGEST_REVIEW):
                panel.hint.setText(hint)
                panel.current.setText(line)
                qtbot.wait(1)
                places.append((panel.buttons["accept"].y(), panel.teach.y()))
                assert clipped(panel) == []
        assert len(set(places)) == 1


def test_plots_follow_the_theme(qtbot: QtBot) -> None:
    box, curves = QWidget(), train_view.CurvePlot()
    layout = QVBoxLayout(box)
    plots = (Histogram(), curves)
    for plot in plots:
        layout.addWidget(plot)
    curves.show_curves((train_view.Curve("Loss", "Loss", ((0.0, 1.0), (1.0, 0.5)), "#ff9f1c"),), 2.0)
    qtbot.addWidget(box)
    with qtbot.waitExposed(box):
        box.show()
    for theme in ("light", "dark", "light"):
        box.setStyleSheet(get_stylesheet(theme))
        QApplication.processEvents()
        picture, ground = box.grab().toImage(), get_theme(theme).background.as_hex()
        corners = [plot.geometry().topLeft() + QPoint(3, 3) for plot in plots]
        seen = {picture.pixelColor(corner).name() for corner in corners}
        assert seen == {QColor(ground).name()}


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_text_is_readable(theme: str) -> None:
    colours = get_theme(theme)
    ground, text = QColor(colours.background.as_hex()), QColor(colours.text.as_hex())
    rules = STYLE + annotate_view.OWN_STYLE + train_view.OWN_STYLE
    inks: dict[str, str] = {}
    for names, body in re.findall(r"([^{}]+)\{([^}]*)\}", rules):
        if "Progress" in names:
            continue
        own = dict(part.split(":", 1) for part in body.split(";") if ":" in part)
        own = {name.strip(): value.strip() for name, value in own.items()}
        base = names.strip().removesuffix(":hover")
        inks[base] = own.get("color", inks.get(base, inks.get(base.partition("[")[0], text.name())))
        ink = QColor(inks[base])
        behind = over(own.get("background", "transparent"), ground)
        if "color" in own or "background" in own:
            least = MADE_OUT if "disabled" in names else READABLE
            assert contrast(over(own.get("color", ink.name()), behind), behind) >= least, names
    for colour in (COLOUR, MARK, train_view.LOSS_COLOUR, train_view.SCORE_COLOUR):
        assert contrast(QColor(colour), ground) >= SEEN
    for colour in (*COLOURS, train_view.BETTER_COLOUR, train_view.WORSE_COLOUR, choices.WARNING_COLOUR):
        assert contrast(QColor("black"), QColor(colour)) >= READABLE  # chips have black text


def over(colour: str, ground: QColor) -> QColor:
    """Return a colour of a style sheet as it looks on a ground."""
    numbers = [int(one) for one in re.findall(r"\d+", colour)] if colour.startswith("rgba") else []
    if colour == "transparent":
        return ground
    if not numbers:
        return QColor(colour)
    share = numbers[3] / 255
    mixed = [share * a + (1 - share) * b for a, b in zip(numbers, ground.getRgb(), strict=False)]
    return QColor(*(round(one) for one in mixed[:3]))


def contrast(first: QColor, second: QColor) -> float:
    """Return the contrast ratio of WCAG 2.1."""

    def luminance(colour: QColor) -> float:
        parts = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4
                 for one in colour.getRgbF()[:3]]  # fmt: skip
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def test_a_picture_of_a_training_does_not_follow_a_scroll_bar_that_comes_and_goes(qtbot: QtBot) -> None:
    picture = train_view.Picture()
    qtbot.addWidget(picture)
    picture.resize(300, 100)
    picture.show_array(np.zeros((40, 80, 3), np.uint8))
    heights = []
    for width in (300, 286, 300, 400):  # as tall as before, the bar is not needed again
        picture.resize(width, picture.height())
        picture._fit()
        heights.append(picture.height())
    assert heights == [150, 143, 143, 200]
