"""The parts of the annotation panel that open and close."""

from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QListWidgetItem

from cellwright.widgets.annotate.view import ExportSection, FolderSection, SettingsSection

NARROW_PX = 300


def test_a_title_opens_and_closes_its_part(qtbot: QtBot) -> None:
    for part in (SettingsSection(), ExportSection(), FolderSection()):
        qtbot.addWidget(part)
        assert part.content.isHidden()
        part.title.click()
        assert not part.content.isHidden()
        part.title.click()
        assert part.content.isHidden()


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
