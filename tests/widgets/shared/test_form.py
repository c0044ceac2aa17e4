import dataclasses
import re
from typing import Annotated

import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QLocale, Qt
from qtpy.QtGui import QKeySequence
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QAbstractSpinBox, QApplication, QVBoxLayout

from cellwright.inference.settings import EngineSettings
from cellwright.models import registry
from cellwright.training.settings import TrainingSettings
from cellwright.widgets.count.view import DiameterBox
from cellwright.widgets.results.view import MarkerRow
from cellwright.widgets.shared.form import SettingsForm, is_threshold, names_of
from cellwright.widgets.shared.style import number_box

TYPES = [EngineSettings, *(family.settings for family in registry.FAMILIES.values())]


@dataclasses.dataclass(frozen=True)
class Example:
    share: Annotated[float, {"min": 0.0, "max": 1.0, "tooltip": "A share."}] = 0.25
    length_px: Annotated[int, {"min": 1, "max": 9}] = 3
    width_um: float = 2.0
    is_on: bool = True


@pytest.mark.parametrize("place", ["form", "style", "diameter", "marker"])
@pytest.mark.parametrize("language", ["en_US", "de_DE", "fr_FR"])
def test_points_and_commas_begin_the_decimals_in_every_language(
    qtbot: QtBot, language: str, place: str
) -> None:
    """Else 20.5 was 205 where a comma is usual, and 20,5 where a point is."""
    form, row, clipboard = SettingsForm(Example), MarkerRow(QVBoxLayout()), QApplication.clipboard()
    row.show_channel("DAPI", 0.0, 999.0)
    boxes = {"style": number_box("s", ""), "diameter": DiameterBox(), "marker": row.value}
    box = boxes.get(place) or form.container["width_um"].native
    for one in (box, form.native, row.box):
        qtbot.addWidget(one)
    assert clipboard is not None
    box.setLocale(QLocale(language))
    box.setMaximum(5000.0)
    for text in ("20.5", "20,5"):
        clipboard.setText(text)
        for way in ("typed", "pasted"):
            box.setValue(3)
            box.selectAll()
            if way == "typed":
                QTest.keyClicks(box, text)
            else:
                QTest.keySequence(box, QKeySequence(QKeySequence.StandardKey.Paste))
            QTest.keyClick(box, Qt.Key.Key_Return)
            assert box.value() == 20.5, (text, way)


@pytest.mark.parametrize("settings_type", TYPES)
def test_a_fresh_form_gives_the_defaults(qtbot: QtBot, settings_type: type) -> None:
    names = [name for name in names_of(settings_type) if name != "channel"]  # None has no box
    form = SettingsForm(settings_type, names)
    qtbot.addWidget(form.native)
    assert settings_type(**form.values()) == settings_type()


def test_limits_help_and_units_come_from_the_annotation(qtbot: QtBot) -> None:
    form = SettingsForm(Example)
    qtbot.addWidget(form.native)
    share, length, width = form.container["share"], form.container["length_px"], form.container["width_um"]
    assert (share.min, share.max, share.tooltip) == (0.0, 1.0, "A share.")
    assert (length.min, length.max, length.label) == (1, 9, "Length (px)")
    assert width.label == "Width (µm)"
    engine = SettingsForm(EngineSettings, ["link"])
    qtbot.addWidget(engine.native)
    assert engine.container["link"].label == "Link slices in 3D"


def test_only_fractions_become_sliders() -> None:
    assert [name for name in names_of(Example) if is_threshold(Example, name)] == ["share"]


def test_every_edit_is_told_and_names_choose_the_rows(qtbot: QtBot) -> None:
    form = SettingsForm(Example, ["is_on", "share"])
    qtbot.addWidget(form.native)
    edits = []
    form.changed.connect(lambda: edits.append(form.values()))
    form.set_values({"share": 0.5, "length_px": 7})
    form.container["is_on"].value = False
    assert edits == [{"is_on": True, "share": 0.5}, {"is_on": False, "share": 0.5}]


@pytest.mark.parametrize("settings_type", TYPES)
def test_a_zero_that_is_no_number_is_shown_as_a_word(qtbot: QtBot, settings_type: type) -> None:
    names = [name for name in names_of(settings_type) if name != "channel"]
    form = SettingsForm(settings_type, names)
    qtbot.addWidget(form.native)
    for row in form.container:
        box = row.native
        if isinstance(box, QAbstractSpinBox) and re.search(r"; 0 \w+", row.tooltip):
            row.value = 0
            assert not any(letter.isdigit() for letter in box.text()), row.name


def test_a_whole_number_with_a_word_for_0_stays_one(qtbot: QtBot) -> None:
    form = SettingsForm(EngineSettings, ["batch_size"])
    qtbot.addWidget(form.native)
    box = form.container["batch_size"].native
    assert box.text() == "auto"
    box.stepUp()
    assert (box.text(), form.values()) == ("1", {"batch_size": 1})
    assert type(form.values()["batch_size"]) is int


def test_one_patch_in_a_batch_is_no_word(qtbot: QtBot) -> None:
    form = SettingsForm(TrainingSettings, ["batch_size"])
    qtbot.addWidget(form.native)
    form.set_values({"batch_size": 1})
    assert form.container["batch_size"].native.text() == "1"
