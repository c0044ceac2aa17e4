"""Rows, texts and tables of a panel give way where it is narrow."""

import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QFormLayout, QLabel, QPushButton, QWidget

from cellwright.widgets.shared.flow import FigureTable, FlowLayout, WrappedButton, WrappedCheckBox, wrapped
from cellwright.widgets.shared.style import form_layout

TEXT = "The model outlines added cells"


@pytest.mark.parametrize("is_even", [True, False])
def test_widgets_take_as_many_lines_as_they_need(qtbot: QtBot, is_even: bool) -> None:
    box, buttons = QWidget(), [QPushButton("x" * 8) for _ in range(4)]
    box.setLayout(FlowLayout(buttons, is_even=is_even, spacing_px=4))
    qtbot.addWidget(box)
    buttons[3].hide()
    wanted = buttons[0].sizeHint()
    heights = []
    for n_wide in (3, 2, 1):
        width = n_wide * (wanted.width() + 4) + 10
        box.resize(width, box.layout().heightForWidth(width))
        with qtbot.waitExposed(box):
            box.show()
        qtbot.wait(1)
        rows = [one.geometry() for one in buttons[:3]]
        assert not any(one.intersects(other) for one in rows for other in rows if one is not other)
        assert all(one.left() >= 0 and one.right() < width and one.width() >= wanted.width() for one in rows)
        assert rows[n_wide - 1].right() == width - 1  # the line is filled
        heights.append(len({one.top() for one in rows}))
    assert heights == [1, 2, 3]
    assert box.minimumSizeHint().width() < 2 * wanted.width()


@pytest.mark.parametrize("kind", [WrappedButton, WrappedCheckBox])
def test_a_button_is_as_high_as_its_lines(qtbot: QtBot, kind: type) -> None:
    box, made = QWidget(), kind(TEXT)
    form: QFormLayout = form_layout(into=box)
    form.addRow(made)
    qtbot.addWidget(box)
    least = made.minimumSizeHint().width()
    assert least < made.sizeHint().width() / 2
    for width, n_lines in ((made.sizeHint().width(), 1), (least, 5)):
        box.resize(width + 2 * form.contentsMargins().left(), 400)
        with qtbot.waitExposed(box):
            box.show()
        qtbot.wait(1)
        expected = made.sizeHint().height() + (n_lines - 1) * made.fontMetrics().lineSpacing()
        assert (made.width(), made.height()) == (width, expected)
    assert made.text() == TEXT


def test_a_text_is_broken_between_words(qtbot: QtBot) -> None:
    label = QLabel()
    qtbot.addWidget(label)
    metrics = label.fontMetrics()
    assert wrapped("one two three", metrics, metrics.horizontalAdvance("one two")) == "one two\nthree"
    assert wrapped("one two", metrics, 1) == "one\ntwo"


def test_a_table_is_drawn_smaller_where_its_figures_have_no_room(qtbot: QtBot) -> None:
    table = FigureTable()
    qtbot.addWidget(table)
    table.setText("<table><tr><td>61,050</td><td>61,050</td></tr></table>")
    whole = table.heightForWidth(1000)
    assert table.heightForWidth(40) < whole  # not broken into lines
    for width in (1000, 40):
        table.resize(width, table.heightForWidth(width))
        picture = table.grab().toImage()
        ground = picture.pixelColor(width - 1, picture.height() - 1)
        inked = [
            x
            for x in range(width)
            if any(picture.pixelColor(x, y) != ground for y in range(picture.height()))
        ]
        assert inked
        assert inked[-1] < width - 1
