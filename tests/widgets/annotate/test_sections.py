"""The parts of the annotation panel that open and close."""

from napari.qt import get_stylesheet
from pytestqt.qtbot import QtBot
from qtpy.QtGui import QPalette
from qtpy.QtWidgets import QListWidgetItem

from cellwright.widgets.annotate.view import AnnotatePanel, ExportSection, FolderSection, SettingsSection
from cellwright.widgets.shared.panel_area import PanelScrollArea

NARROW_PX = 300


def test_a_title_opens_and_closes_its_part(qtbot: QtBot) -> None:
    for part in (SettingsSection(), ExportSection(), FolderSection()):
        qtbot.addWidget(part)
        assert part.content.isHidden()
        part.title.click()
        assert not part.content.isHidden()
        part.title.click()
        assert part.content.isHidden()


def test_titles_of_open_parts_are_as_readable_and_fonts_follow(qtbot: QtBot) -> None:
    panel = AnnotatePanel()
    area = PanelScrollArea(panel)
    qtbot.addWidget(area)
    panel.setStyleSheet(
        f"{get_stylesheet('light', extra_variables={'font_size': '16pt'})}{panel.styleSheet()}"
    )
    panel.show_session(is_open=True)
    area.show()
    title = panel.batch.title
    before = title.palette().color(QPalette.ColorRole.ButtonText)
    title.setChecked(True)
    assert title.palette().color(QPalette.ColorRole.ButtonText) == before
    assert before.lightness() < 100
    for one in (panel.buttons["accept"], panel.names, title):
        assert one.fontInfo().pointSizeF() == panel.hint.fontInfo().pointSizeF() > 12


def test_long_names_of_files_do_not_hide_their_counts(qtbot: QtBot) -> None:
    part = FolderSection()
    qtbot.addWidget(part)
    part.title.click()
    part.resize(NARROW_PX, 300)
    part.files.addItem(QListWidgetItem(f"{'long' * 20}\n26 cells (was 27) · 3 reviewed"))
    part.show()
    bar = part.files.horizontalScrollBar()
    assert bar is not None
    assert not bar.isVisible()
    assert part.minimumSizeHint().width() <= NARROW_PX
    assert abs(part.previous_image.width() - part.next_image.width()) <= 1
