"""The looks of the compare widget: everything fits a narrow dock, and what is judged is told."""

from dataclasses import replace

import numpy as np
import pytest
from napari.qt import get_stylesheet
from pytestqt.qtbot import QtBot

from cellwright.training.evaluation.compare import Comparison, ModelCount
from cellwright.training.evaluation.evaluate import ImageScore
from cellwright.widgets.compare.model import Compared, Disagreement
from cellwright.widgets.compare.view import (
    LEAST_NAME,
    LONGEST_NAME,
    ComparePanel,
    notices_of,
    regions_line,
    shortened,
)
from cellwright.widgets.shared.flow import BREAK
from cellwright.widgets.shared.panel_area import PanelScrollArea

DOCK_PX = 330
LONG = "nuclei-of-all-kinds-tuned-on-my-own-slides"
NAMES = ("0007119_8d059ba7f5914a526d124d28e6d010c92466da21", "b")


def compared(models: tuple[str, str], count: float, n_regions: tuple[int, ...]) -> Compared:
    rows = []
    for name, n in zip(NAMES, n_regions, strict=False):
        score = ImageScore(name, "", 40, 50.0, 0.8, means={"f1": 0.8})
        rows += [ModelCount(model, name, count, score=score, n_regions=n) for model in models]
    found = Disagreement((int(count), 7), np.zeros((int(count) + 7, 2), np.float32))
    return Compared(Comparison(models, tuple(rows)), (found,) * len(n_regions))


@pytest.fixture
def panel(qtbot: QtBot) -> ComparePanel:
    panel = ComparePanel()
    qtbot.addWidget(panel)
    panel.resize(DOCK_PX, 800)
    panel.show()
    return panel


@pytest.mark.parametrize("count", [62.0, 61_050.0])
def test_long_names_and_large_counts_fit_a_narrow_dock(
    panel: ComparePanel, qtbot: QtBot, count: float
) -> None:
    panel.show_compared(compared(("flow", LONG), count, (0, 0)))
    table, header = panel.table, panel.table.horizontalHeader()
    qtbot.waitUntil(lambda: header.length() <= table.viewport().width(), timeout=5000)
    assert not table.horizontalScrollBar().isVisible()
    for column in range(1, table.columnCount()):
        assert header.sectionSize(column) >= table.sizeHintForColumn(column)
    assert panel.minimumSizeHint().width() <= DOCK_PX
    assert table.item(0, 0).toolTip().startswith(NAMES[0])
    assert LONG in panel.summary.toolTip()


@pytest.mark.parametrize("size", [9, 16])
def test_the_table_follows_letters_and_width(qtbot: QtBot, size: int) -> None:
    """What it was filled in is not what it is looked at in."""
    panel = ComparePanel()
    area = PanelScrollArea(panel)
    qtbot.addWidget(area)
    area.setStyleSheet(get_stylesheet("dark", extra_variables={"font_size": "16pt"}))
    with qtbot.waitExposed(area):
        area.show()
    panel.show_compared(compared(("flow", LONG), 62.0, (0, 0)))
    qtbot.wait(20)
    area.setStyleSheet(get_stylesheet("dark", extra_variables={"font_size": f"{size}pt"}))
    area.resize(area.minimumSizeHint().width(), 800)
    qtbot.wait(20)  # what follows the font does so later
    table, header = panel.table, panel.table.horizontalHeader()
    figures = sum(header.sectionSize(column) for column in range(1, table.columnCount()))
    least = LEAST_NAME * table.fontMetrics().averageCharWidth()
    assert header.sectionSize(0) == max(least, table.viewport().width() - figures)
    assert table.horizontalScrollBar().isVisible() == (size == 16)  # five figures have no room there
    assert table.verticalScrollBar().maximum() == 0


def test_it_is_told_of_which_image_the_figures_are(panel: ComparePanel) -> None:
    panel.show_compared(compared(("flow", "own"), 62.0, (0,)))
    assert ">0007119_" in panel.summary.text().replace(BREAK, "")
    panel.show_compared(compared(("flow", "own"), 62.0, (0, 0)))
    assert ">2 images<" in panel.summary.text()


def test_long_names_lose_their_middle() -> None:
    assert shortened("flow", LONGEST_NAME) == "flow"
    assert len(shortened(LONG, LONGEST_NAME)) == LONGEST_NAME
    assert shortened(LONG, LONGEST_NAME).startswith("nuclei-of-all")
    assert shortened(LONG, LONGEST_NAME).endswith("my-own-slides")


@pytest.mark.parametrize("n_regions", [(0,), (0, 0)])
def test_it_is_told_that_centres_alone_are_judged(panel: ComparePanel, n_regions: tuple[int, ...]) -> None:
    both = compared(("flow", "centroid"), 62.0, n_regions)
    scores = [replace(row.score, means={}, shares={"point_f1": (4, 5)}) for row in both.comparison.rows]
    rows = [replace(row, score=score) for row, score in zip(both.comparison.rows, scores, strict=True)]
    panel.show_compared(both._replace(comparison=Comparison(both.comparison.models, tuple(rows))))
    assert panel.notices.text() == "F1 is that of centres in the true cells; outlines are not compared."
    assert "0.80" in panel.summary.text()


def test_it_is_told_that_cells_in_regions_alone_are_judged(panel: ComparePanel) -> None:
    panel.show_compared(compared(("flow", "own"), 62.0, (2,)))
    assert "2 complete regions" in panel.notices.text()
    assert ">judged<" in panel.summary.text()
    assert panel.summary.text().count(">50<") == 2
    panel.show_compared(compared(("flow", "own"), 62.0, (1, 0)))
    assert panel.notices.text().startswith("In 1 of 2 images F1 is")
    assert "the complete region;" in notices_of(compared(("flow", "own"), 62.0, (1, 0)), 0)[0]
    assert regions_line(compared(("flow", "own"), 62.0, (1, 1))).startswith("In all images")
    panel.show_compared(compared(("flow", "own"), 62.0, (0, 0)))
    assert ">judged<" not in panel.summary.text()
    assert panel.notices.isHidden()
