"""What gives way where a panel is narrow or its letters are large: texts and rows go on in the next line."""

import re
from collections.abc import Iterable
from functools import partial
from math import ceil
from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, QObject, QRect, QSize, Qt
from qtpy.QtGui import (
    QAbstractTextDocumentLayout,
    QFontMetrics,
    QPainter,
    QPaintEvent,
    QPalette,
    QTextDocument,
    QTextOption,
)
from qtpy.QtWidgets import (
    QAbstractButton,
    QCheckBox,
    QFrame,
    QLabel,
    QLayout,
    QLayoutItem,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QStyle,
    QStyleOptionButton,
    QStylePainter,
    QTabWidget,
    QWidget,
)
from superqt import QFlowLayout

WHOLE_WORDS = QTextOption()
WHOLE_WORDS.setWrapMode(QTextOption.WrapMode.WordWrap)
PaintContext = QAbstractTextDocumentLayout.PaintContext
TABLE_PX = 150  # width of a table of figures, the least
BREAK = "\u200b"  # without a width: a line may go on after it
LONG_WORD = re.compile(r"\S{13,}")  # shorter ones, Shift+click say, are not torn
PIECE = re.compile(r"(\S{3,8}?[_./\\-]|\S{9})(?=\S)")
BEFORE_UNIT = re.compile(r"(?<=\d) (?=px|µm|%|s\b|min\b)")
MNEMONIC = Qt.TextFlag.TextShowMnemonic.value
if TYPE_CHECKING:
    Button = QAbstractButton
else:
    Button = object  # PyQt takes one class of Qt alone


class _WrappedText(Button):
    """What a button needs for its text to go on in the next line where it has no room in one."""

    drawn_as: QStyle.ControlElement

    def __init__(self, text: str = "") -> None:
        super().__init__(text)  # type: ignore[arg-type]  # of the kinds below
        policy = QSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)  # a fixed height is that of one line
        self.setSizePolicy(policy)

    def minimumSizeHint(self) -> QSize:
        """Return room for the longest word; called by Qt."""
        metrics = self.fontMetrics()
        widest = max((metrics.horizontalAdvance(word) for word in self.text().split()), default=0)
        return QSize(min(self._around() + widest, self.sizeHint().width()), self.sizeHint().height())

    def heightForWidth(self, width: int) -> int:
        """Return the height of all lines; called by Qt."""
        n_more = self._lines(width).count("\n") - self.text().count("\n")
        return self.sizeHint().height() + n_more * self.fontMetrics().lineSpacing()

    def paintEvent(self, _: QPaintEvent | None) -> None:
        """Draw the button with its lines; called by Qt."""
        painter, option = QStylePainter(self), QStyleOptionButton()
        self.initStyleOption(option)  # type: ignore[attr-defined]
        option.text = self._lines(self.width())
        painter.drawControl(self.drawn_as, option)

    def _around(self) -> int:
        """Return the width that is no text: frame, box to tick, arrow of a menu."""
        self.ensurePolished()
        return self.sizeHint().width() - self.fontMetrics().size(MNEMONIC, self.text()).width()

    def _lines(self, width: int) -> str:
        return wrapped(self.text(), self.fontMetrics(), width - self._around())


class WrappedButton(_WrappedText, QPushButton):
    """A push button of which the text wraps."""

    drawn_as = QStyle.ControlElement.CE_PushButton


class WrappedCheckBox(_WrappedText, QCheckBox):
    """A box to tick of which the text wraps."""

    drawn_as = QStyle.ControlElement.CE_CheckBox


def wrapped(text: str, metrics: QFontMetrics, room_px: int) -> str:
    """Return a text in as few lines as fit into a width; a longer word stays whole."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".lstrip()
        if lines[-1] and metrics.size(MNEMONIC, longer).width() > room_px:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def wrappable(text: str) -> str:
    """Return a text whose long words, names of files say, may go on in the next line, and numbers may not.

    The places to go on are marked by characters without a width, which what is copied must not have.
    """
    broken = LONG_WORD.sub(lambda word: PIECE.sub(rf"\g<0>{BREAK}", word[0]), text)
    return BEFORE_UNIT.sub("\u00a0", broken)


def shortened(text: str, longest: int) -> str:
    """Return a text of so many letters at most, its middle left out where it is longer."""
    if len(text) <= longest:
        return text
    n_last = (longest - 1) // 2
    return f"{text[: longest - 1 - n_last]}…{text[-n_last:]}"


class WrappedLabel(QLabel):
    """Shows text that goes on in the next line, within long words, too: no name of a file widens a panel."""

    _text = ""

    def __init__(self) -> None:
        super().__init__()
        self.setWordWrap(True)

    def text(self) -> str:
        """Return what was set, without places to break it."""
        return self._text

    def setText(self, text: str | None) -> None:
        """Show a text; rich text has its own breaks."""
        self._text = text or ""
        is_rich = Qt.mightBeRichText(self._text)  # type: ignore[attr-defined]
        super().setText(self._text if is_rich else wrappable(self._text))


class FigureTable(QLabel):
    """A table in rich text that is drawn smaller where there is no room for its figures."""

    def __init__(self) -> None:
        super().__init__()
        self.setTextFormat(Qt.TextFormat.RichText)
        self.setWordWrap(True)

    def minimumSizeHint(self) -> QSize:
        """Return the least size in which it is read; called by Qt."""
        return QSize(TABLE_PX, self.fontMetrics().height())

    def heightForWidth(self, width: int) -> int:
        """Return the height of all rows; called by Qt."""
        document, scale = self._fitted(width)
        return ceil(scale * document.size().height())

    def paintEvent(self, _: QPaintEvent | None) -> None:
        """Draw the table in the middle; called by Qt."""
        document, scale = self._fitted(self.width())
        layout, context, painter = document.documentLayout(), PaintContext(), QPainter(self)
        assert layout is not None
        context.palette = self.palette()
        context.palette.setColor(QPalette.ColorRole.Text, self.palette().windowText().color())
        painter.scale(scale, scale)
        layout.draw(painter, context)

    def _fitted(self, width: int) -> tuple[QTextDocument, float]:
        """Return the table as it lies in a width, and how much smaller it is to be drawn."""
        self.ensurePolished()
        document = QTextDocument()
        document.setDocumentMargin(0)
        document.setDefaultTextOption(WHOLE_WORDS)
        document.setDefaultFont(self.font())
        document.setHtml(self.text())
        document.setTextWidth(width)
        return document, min(1.0, width / max(document.size().width(), 1.0))


class FlowLayout(QFlowLayout):
    """Widgets side by side in as many lines as they need, which fill the width.

    Those out of sight take no room. Where ``is_even`` they stand in columns that share the width; else the
    first one of each line grows.
    """

    def __init__(self, widgets: Iterable[QWidget], *, is_even: bool, spacing_px: int) -> None:
        super().__init__()
        self._is_even = is_even
        self.setContentsMargins(0, 0, 0, 0)
        self.setSpacing(spacing_px)
        for widget in widgets:
            self.addWidget(widget)

    def heightForWidth(self, width: int) -> int:
        """Return the height of all lines; called by Qt."""
        return self._place(QRect(0, 0, width, 0), is_trial=True)

    def sizeHint(self) -> QSize:
        """Return the size of one line; called by Qt."""
        items = self._shown
        width = sum(item.sizeHint().width() for item in items) + self.spacing() * (len(items) - 1)
        return QSize(width, max((item.sizeHint().height() for item in items), default=0))

    def minimumSize(self) -> QSize:
        """Return room for the widest alone; called by Qt, whose forms give some pixels less beside a name."""
        sizes = [item.minimumSize() for item in self._shown]
        width = max((one.width() for one in sizes), default=0)
        return QSize(width + self.spacing(), max((one.height() for one in sizes), default=0))

    def setGeometry(self, rect: QRect) -> None:
        """Place the widgets; called by Qt."""
        QLayout.setGeometry(self, rect)
        self._place(rect, is_trial=False)

    @property
    def _shown(self) -> list[QLayoutItem]:
        items = (self.itemAt(index) for index in range(self.count()))
        return [item for item in items if item is not None and not item.isEmpty()]

    def _place(self, rect: QRect, *, is_trial: bool) -> int:
        """Place the lines, or only try, and return their height."""
        top = rect.top()
        for items, widths in self._lines(rect.width()):
            pairs = list(zip(items, widths, strict=True))
            height = max(height_of(item, width) for item, width in pairs)
            left = rect.left()
            for item, width in pairs:
                if not is_trial:
                    item.setGeometry(QRect(left, top, width, height))
                left += width + self.spacing()
            top += height + self.spacing()
        return max(top - self.spacing() - rect.top(), 0)

    def _lines(self, room: int) -> list[tuple[list[QLayoutItem], list[int]]]:
        """Return the items of each line, and their widths."""
        items = self._shown
        if not items:
            return []
        if self._is_even:
            return self._even_lines(items, room)
        lines: list[list[QLayoutItem]] = []
        left = 0
        for item in items:
            wanted = wanted_width(item) + self.spacing()
            if not lines or wanted > left:
                lines.append([])
                left = room + self.spacing()
            lines[-1].append(item)
            left -= wanted
        found = []
        for line in lines:
            others = [wanted_width(item) for item in line[1:]]
            found.append((line, [room - sum(others) - self.spacing() * len(others), *others]))
        return found

    def _even_lines(self, items: list[QLayoutItem], room: int) -> list[tuple[list[QLayoutItem], list[int]]]:
        wanted, n_columns = [wanted_width(item) for item in items], len(items)
        while True:
            columns = [max(wanted[place::n_columns]) for place in range(n_columns)]
            free = room - self.spacing() * (n_columns - 1)
            if n_columns == 1 or sum(columns) <= free:
                break
            n_columns = (n_columns + 1) // 2
        share = free // n_columns
        if max(columns) > share:
            share = (free - sum(columns)) // n_columns
            widths = [column + share for column in columns]
        else:
            widths = [share] * n_columns
        widths[-1] += free - sum(widths)
        lines = (items[first : first + n_columns] for first in range(0, len(items), n_columns))
        return [(line, widths[: len(line)]) for line in lines]


class PageBar(QWidget):
    """The titles of pages in the place of their tabs, in as many rows as they need: no width hides one."""

    def __init__(self, tabs: QTabWidget) -> None:
        super().__init__()
        self._tabs = tabs
        self.buttons = [WrappedButton() for _ in range(tabs.count())]
        for place, made in enumerate(self.buttons):
            made.setObjectName("page")
            made.setToolTip(tabs.tabToolTip(place))
            made.setCheckable(True)
            made.clicked.connect(partial(self._on_clicked, place))
        self.setLayout(FlowLayout(self.buttons, is_even=True, spacing_px=2))
        tabs.setDocumentMode(True)  # without a frame
        tabs.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # else Tab stops before the bar that is hidden
        tabs.tabBar().hide()  # type: ignore[union-attr]
        tabs.currentChanged.connect(self.follow)
        self.follow()

    def follow(self, _: int = 0) -> None:
        """Show the titles of the pages that there are, and which one is open."""
        for place, made in enumerate(self.buttons):
            made.setText(self._tabs.tabText(place))
            made.setVisible(self._tabs.isTabVisible(place))
            made.setChecked(place == self._tabs.currentIndex())

    def _on_clicked(self, place: int, _: bool = False) -> None:  # noqa: FBT001, FBT002 - of Qt
        self._tabs.setCurrentIndex(place)
        self.follow()
        self._tabs.tabBarClicked.emit(place)


class Page(QScrollArea):
    """A page that scrolls below the head of its panel; one in large letters is as long as it is.

    There the panel scrolls as a whole: its head leaves little room, and one bar is enough.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_large = False
        self.setWidgetResizable(True)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # as the panel
        self.setFrameShape(QFrame.Shape.NoFrame)

    def follow_font(self, *, is_large: bool) -> None:
        """Follow the size of letters."""
        self._is_large = is_large
        self.updateGeometry()

    def minimumSizeHint(self) -> QSize:
        """Return room for the whole page in large letters, else for a part of it; called by Qt."""
        least, content, viewport = super().minimumSizeHint(), self.widget(), self.viewport()
        if self._is_large and content is not None and viewport is not None and not self.isHidden():
            wanted = content.minimumSizeHint()
            width = max(wanted.width(), viewport.width())
            least.setHeight(max(wanted.height(), content.heightForWidth(width)))
        return least

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Follow the size of the content; called by Qt."""
        is_handled = super().eventFilter(watched, event)
        if event is not None and event.type() in (QEvent.Type.LayoutRequest, QEvent.Type.Resize):
            self.updateGeometry()
        return is_handled


def wanted_width(item: QLayoutItem) -> int:
    """Return the width that an item takes beside others: a button on one line, a box the narrowest."""
    widget = item.widget()
    if isinstance(widget, QAbstractButton):
        return widget.sizeHint().width()  # the item tells none of one that may be cut
    return item.minimumSize().width()


def height_of(item: QLayoutItem, width: int) -> int:
    """Return the height that an item wants in a width."""
    return item.heightForWidth(width) if item.hasHeightForWidth() else item.sizeHint().height()
