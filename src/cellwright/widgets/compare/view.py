"""The controls of the compare widget and the texts they show, without behaviour."""

import math
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from qtpy.QtCore import QEvent, Qt
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFormLayout,
    QFrame,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from cellwright.core.tasks import Progress
from cellwright.widgets.compare.model import COLOURS, Compared, usual_pair
from cellwright.widgets.shared.combos import ChannelComboBox, LayerComboBox
from cellwright.widgets.shared.edited_layers import is_image
from cellwright.widgets.shared.flow import FigureTable, shortened, wrappable
from cellwright.widgets.shared.jobs import JobBar, RunButton
from cellwright.widgets.shared.messages import duration
from cellwright.widgets.shared.model_combos import ModelComboBox
from cellwright.widgets.shared.style import (
    MARGIN_PX,
    MessageLabel,
    boxed,
    chip,
    fill,
    form_layout,
    panel_layout,
    stack,
    wrapped_label,
)

LONGEST_NAME = 30  # letters of a model's name that fit into the panel
LONGEST_LARGE = 6  # characters of a count that fit twice, large
NO_TRUTH = "none"
F1_HELP = "F1: 1 where all cells are found and nothing else, 0 where none is."
SUMMARY_HELP = "Judged: inside the complete regions. Truth: annotated. Unique: only this model has them."
HINT = "Click an image to see it, and where the models disagree."
TABLE_HEIGHT_PX = 260  # of many rows
FRAME_PX, TITLE_PX, CELL_PX = 4, 10, 6  # around the table, a title, a figure
GAP_PX = 8  # between the figures of both models
LEAST_NAME = 10  # letters of an image's name that there is room for, at least
TITLES = ("Image", "Cells\n1", "Cells\n2", "F1\n1", "F1\n2", "Differ")
MANY = 10_000  # from where on counts are told in thousands, for names to have room
DIGITS = (0, 0, 0, 2, 2, 0)  # of the columns of the table


class ComparePanel(QWidget):
    """Controls of the compare widget from top to bottom: images, models, the button, the figures."""

    def __init__(self) -> None:
        super().__init__()
        layout = panel_layout(self)
        self.button = RunButton(
            ("Compare", "Count with both models."),
            ("Cancel", "Stop at the next step; nothing is changed."),
            "Cancelling…",
        )
        self.message = MessageLabel("Comparing")
        self.jobs = JobBar(run_button=self.button, describe=compare_line, stages=("compare",))
        fill(layout, self._choices(), self.button, self.jobs, self.message, self._card(), self._table())
        layout.addStretch(1)

    def show_compared(self, compared: Compared | None) -> None:
        """Show the figures of both models, those of each image where there are several; None hides them."""
        self.card.setVisible(compared is not None)
        is_several = compared is not None and len(compared.disagreements) > 1
        self.table.setVisible(is_several)
        self.hint.setVisible(is_several)
        if compared is None:
            return
        self.summary.setText(summary_of(compared))
        names = zip((1, 2), compared.comparison.models, strict=True)
        lines = [f"{number} {name}" for number, name in names]
        self.summary.setToolTip("\n".join([*lines, F1_HELP, SUMMARY_HELP]))
        notices = notices_of(compared, 0)
        if is_several:
            notices = [regions_line(compared)]
            self._fill(compared)
        told = "\n".join(filter(None, (compared.comparison.notice, *notices)))
        self.notices.setText(told)
        self.notices.setVisible(bool(told))

    def _fill(self, compared: Compared) -> None:
        models, rows = compared.comparison.models, image_rows(compared)
        self.table.setSortingEnabled(False)  # rows would move while they are filled
        self.table.setColumnCount(len(TITLES))
        self.table.setRowCount(len(rows))
        for column, title in enumerate(TITLES):
            head = QTableWidgetItem(title)
            if 1 <= column <= 4:
                what = "" if column <= 2 else f". {F1_HELP}"
                head.setToolTip(f"{models[(column - 1) % 2]}{what}")
            elif column:
                head.setToolTip("Cells that only one of the models has.")
            self.table.setHorizontalHeaderItem(column, head)
            self.table.setColumnHidden(column, all(_is_unknown(row[column]) for row in rows))
        for index, row in enumerate(rows):
            for column, value in enumerate(row):
                cell = _Cell(value, DIGITS[column], index)
                cell.setToolTip("\n".join([str(row[0]), *notices_of(compared, index)]))
                self.table.setItem(index, column, cell)
        self.table.setSortingEnabled(True)
        self.table.fit()

    def _choices(self) -> QFormLayout:
        self.data = LayerComboBox(is_image, "An image, or a folder of images.", folders="Dataset folder")
        self.channel = ChannelComboBox("Channel that both models count in.")
        self.truth = LayerComboBox(
            help_text="The true cells, each one of them annotated: models are scored against them, inside "
            "the complete regions where there are any.",
            none=NO_TRUTH,
        )
        self.first = ModelComboBox(
            "One of the models to count with.", usual=lambda known: usual_pair(known)[0]
        )
        self.second = ModelComboBox(
            "The other model to count with.", usual=lambda known: usual_pair(known)[1]
        )
        self.first.choose_preferred()
        if self.first.currentData() == self.second.currentData():
            self.second.choose_data(usual_pair(self.second.families)[0])
        return form_layout(
            ("Images", self.data),
            ("Channel", self.channel),
            ("Truth", self.truth),
            ("Model 1", self.first.with_card()),
            ("Model 2", self.second.with_card()),
        )

    def _card(self) -> QFrame:
        self.card = QFrame()
        self.card.setObjectName("card")
        self.summary, self.notices = FigureTable(), wrapped_label()
        layout = stack(self.summary, self.notices, into=self.card)
        layout.setContentsMargins(MARGIN_PX, MARGIN_PX, MARGIN_PX, MARGIN_PX)
        self.card.setVisible(False)
        return self.card

    def _table(self) -> QWidget:
        self.table, self.hint = ImageTable(), wrapped_label(HINT, "hint")
        for widget in (self.table, self.hint):
            widget.setVisible(False)
        return boxed(stack(self.table, self.hint))


class ImageTable(QTableWidget):
    """The figures of each image, as wide as the panel: names give way to figures while they can be read."""

    def __init__(self) -> None:
        super().__init__()
        self.setTabKeyNavigation(False)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        rows, columns = self.verticalHeader(), self.horizontalHeader()
        assert rows is not None
        assert columns is not None
        rows.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        rows.setVisible(False)
        columns.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        columns.setMinimumSectionSize(1)  # Qt's is wider than most figures
        self._header = columns

    def fit(self) -> None:
        """Give each figure its room and names what is left, but room to tell them apart; fit the height."""
        metrics, taken = self.fontMetrics(), 0
        for column in range(1, self.columnCount()):  # Qt would leave room for an arrow beside each title
            lines = [metrics.horizontalAdvance(line) for line in TITLES[column].split("\n")]
            width = max(max(lines) + TITLE_PX, self.sizeHintForColumn(column) + CELL_PX)
            self._header.resizeSection(column, width)
            taken += self._header.sectionSize(column)  # 0 where it is hidden
        viewport = self.viewport()
        room = 0 if viewport is None else viewport.width() - taken
        self._header.resizeSection(0, max(room, LEAST_NAME * metrics.averageCharWidth()))
        wanted = self._header.sizeHint().height() + self.rowCount() * self.rowHeight(0) + FRAME_PX
        bar = self.horizontalScrollBar()
        if bar is not None and self._header.length() > taken + room:
            wanted += bar.sizeHint().height()
        self.setFixedHeight(min(wanted, TABLE_HEIGHT_PX))

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Follow the width of the panel; called by Qt."""
        super().resizeEvent(event)
        self.fit()

    def changeEvent(self, event: QEvent | None) -> None:
        """Follow the size of letters; called by Qt."""
        super().changeEvent(event)
        if event is not None and event.type() == QEvent.Type.FontChange:
            self.fit()


def compare_line(progress: Progress, seconds_left: float | None) -> str:
    """Return which model counts in which image, and the time left: ``set03: flow · image 3 of 37``."""
    if progress.stage == "open":
        return "Opening the image"
    if not progress.note:
        return "Loading the models"
    parts = [progress.note]
    if seconds_left is not None:
        parts.append(f"{duration(seconds_left)} left")
    return " · ".join(parts)


def summary_of(compared: Compared) -> str:
    """Return of which image, the counts of both models, their F1 and the cells only one has, as rich text.

    Where images are annotated in regions, also how many of the cells are judged.
    """
    comparison, pairs = compared.comparison, compared.pairs()
    heads = [chip(f"<b>{number}</b>", colour) for number, colour in zip("12", COLOURS, strict=True)]
    named = [
        f"{head} {escape(wrappable(shortened(name, LONGEST_NAME)))}"
        for head, name in zip(heads, comparison.models, strict=True)
    ]
    tell, cells, f1, of = _mean, "per image", "mean F1", f"{len(pairs):,} images"
    if len(pairs) == 1:
        tell, cells, f1, of = "{:,.0f}".format, "cells", "F1", shortened(pairs[0][0].image, LONGEST_NAME)
    counts = [tell(comparison.mean(model, "count")) for model in comparison.models]
    rows = [("", heads), (cells, [_large(one) for one in counts])]
    scored = [[one.score for one in side if one.score is not None] for side in zip(*pairs, strict=True)]
    if compared.n_in_regions() and all(scored):
        found = [float(np.mean([score.n_predicted for score in side])) for side in scored]
        rows.append(("judged", [tell(one) for one in found]))
    true = [score.n_true for score in scored[0] or scored[1]]
    if true:
        rows.append(("truth", [f"<span>{tell(float(np.mean(true)))}</span>"] * 2))
    scores = [comparison.mean(name, "f1") for name in comparison.models]
    if not all(map(math.isnan, scores)):
        rows.append((f1, _best(scores)))
    n_unique = compared.n_unique()
    if n_unique is not None:
        rows.append(("unique", [f"{one:,}" for one in n_unique]))
    if compared.truth:
        named.insert(0, escape(f"truth: {wrappable(shortened(compared.truth, LONGEST_NAME))}"))
    named.insert(0, escape(wrappable(of)))  # another image may be chosen by now
    names = "".join(f"<tr><td colspan='3'>{name}</td></tr>" for name in named)
    return f"<table align='center' cellspacing='4'>{names}{''.join(_row(*row) for row in rows)}</table>"


def image_rows(compared: Compared) -> list[tuple[str | float, ...]]:
    """Return name, both counts, both F1 and how many cells only one has, of each image.

    What is not known is not a number.
    """
    rows: list[tuple[str | float, ...]] = []
    for (first, second), found in zip(compared.pairs(), compared.disagreements, strict=True):
        n_unique = sum(found.n_unique) if found is not None else math.nan
        rows.append((first.image, first.count, second.count, first.f1, second.f1, n_unique))
    return rows


def notices_of(compared: Compared, index: int) -> list[str]:
    """Return what the user should read of how an image was counted and judged."""
    pair = compared.pairs()[index]
    notices = [*pair[0].truth_notices, *(f"{row.model}: {one}" for row in pair for one in row.notices)]
    if compared.disagreements[index] is None:
        notices.append("A density has no single cells, so none can be shown as missing.")
    n_regions = pair[0].n_regions
    if n_regions:
        where = "complete region" if n_regions == 1 else f"{n_regions} complete regions"
        notices.append(f"F1 is that of the cells inside the {where}; the others are only counted.")
    return notices


def regions_line(compared: Compared) -> str:
    """Return a sentence on which cells of several images are judged; empty where all of them are."""
    n = compared.n_in_regions()
    if not n:
        return ""
    total = len(compared.disagreements)
    who = "all images" if n == total else f"{n} of {total} images"
    return f"In {who} F1 is that of the cells inside the complete regions; the others are only counted."


def _best(scores: Sequence[float]) -> list[str]:
    best, texts = np.nanmax(scores), []
    for score in scores:
        if math.isnan(score):
            texts.append("-")
        elif score == best:
            texts.append(f"<b>{score:.3f}</b>")
        else:
            texts.append(f"{score:.3f}")
    return texts


def _large(text: str) -> str:
    size = "x-large" if len(text) <= LONGEST_LARGE else "large"
    return f"<span style='font-size:{size}'>{text}</span>"


def _mean(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def _row(title: str, values: Iterable[str]) -> str:
    head = f"<td valign='middle'>{escape(title)}</td>"
    place = f"align='right' valign='middle' style='padding-left: {GAP_PX}px'"  # Qt has no room for spaces
    parts = [f"<td {place}>{value}</td>" for value in values]
    return f"<tr>{head}{''.join(parts)}</tr>"


class _Cell(QTableWidgetItem):
    """A name or a figure of the table that is sorted as what it is; knows the index of its image."""

    def __init__(self, value: str | float, digits: int, index: int) -> None:
        super().__init__(_text(value, digits))
        self.index = index
        if isinstance(value, str):
            self._key = (value, 0.0)
        else:
            self._key = ("", -math.inf if math.isnan(value) else value)
            self.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)

    def __lt__(self, other: QTableWidgetItem) -> bool:
        """Return which is the smaller one; what is not known comes first."""
        return isinstance(other, _Cell) and self._key < other._key


def _text(value: str | float, digits: int) -> str:
    if isinstance(value, str):
        return value
    if value >= MANY:
        return f"{value / 1000:,.1f}k"
    if math.isnan(value):
        return ""
    return f"{value:,.{digits}f}"


def _is_unknown(value: str | float) -> bool:
    return not isinstance(value, str) and math.isnan(value)
