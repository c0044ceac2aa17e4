"""The tools of the annotation: each has one key and one button; the cheat sheet lists them."""

from dataclasses import dataclass
from html import escape
from math import ceil

from qtpy.QtCore import QSize
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QDialog, QTextBrowser, QVBoxLayout, QWidget

from cellwright.widgets.shared.style import with_own_keys

HELP_KEY = "?"
SCREEN_SHARE = 0.9  # of the screen that the cheat sheet may take
FRAME_PX = 60  # beside its text: margins, frame and scroll bar
N_CLASS_KEYS = 9


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool; its ``help`` says for people what it does.

    Its ``kind`` is ``brush``: a mode of napari's Labels layer. ``drag``: the mouse draws. ``click``: the
    mouse points. ``prompt``: it points or draws a box, with keys held. ``cell``: the key acts at once on the
    cell under the cursor, the button on each cell then clicked. ``once``: key and button do the same at once.
    """

    name: str
    title: str
    key: str
    kind: str
    group: str
    help: str


TOOLS = (
    Tool(
        "paint", "Paint", "P", "brush", "Draw", "Paint on the cell at the cursor; on background, a new one."
    ),
    Tool("erase", "Erase", "E", "brush", "Draw", "Remove pixels from any cell."),
    Tool("fill", "Fill", "F", "brush", "Draw", "Fill a whole area with the cell that the brush draws."),
    Tool("polygon", "Polygon", "L", "brush", "Draw", "Click around the cell at the cursor, or a new one."),
    Tool("add", "Add", "C", "prompt", "Draw", "Click a cell or drag a box around it: the model outlines it."),
    Tool("delete", "Delete", "D", "cell", "Cells", "Remove the cell: its pixels become background."),
    Tool("merge", "Merge", "M", "drag", "Cells", "Drag from one cell to another, which joins the first."),
    Tool("cut", "Cut", "S", "drag", "Cells", "Split a cell along the line you draw across it."),
    Tool(
        "split",
        "Split",
        "T",
        "click",
        "Cells",
        "Click in the middle of both parts; it is cut where it is thinnest.",
    ),
    Tool("grow", "Grow", "G", "cell", "Shape", "Widen the outline by one step."),
    Tool("shrink", "Shrink", "H", "cell", "Shape", "Narrow the outline by one step."),
    Tool("smooth", "Smooth", "R", "cell", "Shape", "Round the outline."),
    Tool("holes", "Holes", "O", "cell", "Shape", "Fill the holes of the cell."),
    Tool("interpolate", "Interpol.", "I", "cell", "Shape", "Fill in the slices missing between its slices."),
    Tool("region", "Region", "K", "drag", "Shape", "Drag a box in which every cell is annotated."),
    Tool("accept", "Accept", "A", "once", "Review", "The cell in review is right, or the one at the cursor."),
    Tool("reject", "Reject", "X", "once", "Review", "Not a cell: delete it and count it as reviewed."),
    Tool("next", "Next", "N", "once", "Review", "Go to the likeliest mistake not reviewed yet."),
    Tool("back", "Back", "B", "once", "Review", "Go back to the previous cell."),
    Tool("hide", "Hide reviewed", "Y", "once", "Review", "Show only what is still to be reviewed."),
    Tool("undo", "Undo", "Control-Z", "once", "Edits", "Undo the last edit, in whichever slice it was."),
    Tool("redo", "Redo", "Control-Shift-Z", "once", "Edits", "Redo the edit that was undone."),
    Tool("pan", "Move", "Z", "once", "Edits", "Put the tool down: the mouse moves the image (Escape too)."),
)
BY_NAME = {tool.name: tool for tool in TOOLS}
CLASS_HELP = "Class of the cell under the cursor; 0 removes it"
PROMPT_HELP = (  # keys while a cell is added
    ("Shift+click", "Add: not this", "What is there does not belong to the cell; a plain click: it does."),
    ("Ctrl+click", "Add: next", "Keep the cell that is prompted for, and begin the next one here."),
    ("Enter", "Add: keep", "Keep the cell that is prompted for; Accept too. Escape drops it."),
    ("Ctrl+Z", "Add: undo", "Undo the last click or box, until the cell is kept."),
)
NOTE = (
    "Keys that change a cell take the one under the cursor; where there is none, the one in review.<br>"
    "They work while the annotation is the active layer."
)
HINTS = {
    "paint": "Draw; [ and ] change the brush. P outside cells begins the next; over a cell it continues it.",
    "erase": "Erase with the mouse. [ and ] change the brush.",
    "fill": "Click an area to fill it.",
    "polygon": "Click around the cell. A double click or Enter fills it; Escape drops it.",
    "add": "Click a missing cell, or drag a box around it. Shift+click: not this. Enter keeps it.",
    "delete": "Click what is not a cell.",
    "merge": "Drag from one cell to the other. Outside cells the mouse moves the image.",
    "cut": "Draw a line across a cell. Space held down: move the image.",
    "split": "Click in the middle of one part, then of the other.",
    "grow": "Click cells to widen them.",
    "shrink": "Click cells to narrow them.",
    "smooth": "Click cells to round them.",
    "holes": "Click cells to fill their holes.",
    "interpolate": "Click a cell that is drawn in two slices or more.",
    "region": "Drag a box in which every cell is annotated. Space held down: move the image.",
    "class": "Click the cells of this class.",
}
IDLE_HINT = "Choose a tool, or use its key over a cell. Press ? for all keys."
AWAY_HINT = "Keys do nothing here; to use them, choose the layer {!r} or a tool."

PAST = {  # what is told once a tool was used on a cell
    "delete": "Deleted",
    "grow": "Widened",
    "shrink": "Narrowed",
    "smooth": "Smoothed",
    "holes": "Filled the holes of",
    "interpolate": "Filled in the slices of",
}


def key_text(tool: Tool) -> str:
    """Return a key as people read it: ``Ctrl+Shift+Z``."""
    return with_own_keys(tool.key.replace("Control", "Ctrl").replace("-", "+"))


def cheat_sheet() -> str:
    """Return all tools with their keys as rich text."""
    rows = []
    for group in dict.fromkeys(tool.group for tool in TOOLS):
        rows.append(f'<tr><td colspan="3"><br><b>{group}</b></td></tr>')
        rows += [_row(key_text(tool), tool.title, tool.help) for tool in TOOLS if tool.group == group]
    rows.append('<tr><td colspan="3"><br><b>More</b></td></tr>')
    rows.append(_row("1 … 9", "Class", f"{CLASS_HELP}."))
    rows += [_row(*line) for line in PROMPT_HELP]
    rows.append(_row("Space", "Hold", "While it is down the mouse moves the image."))
    rows.append(_row(HELP_KEY, "Help", "This sheet; F1 too."))
    return f'<table cellspacing="3">{"".join(rows)}</table>'


def _row(key: str, title: str, text: str) -> str:
    return (
        f'<tr><td align="right"><b><code>&nbsp;{escape(with_own_keys(key))}&nbsp;</code></b></td>'
        f"<td>&nbsp;{escape(title)}&nbsp;</td><td>{escape(text)}</td></tr>"
    )


class CheatSheet(QDialog):
    """A window with all keys; the key that opened it closes it."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Keys of the annotation")
        self.text = QTextBrowser()
        self.text.setHtml(cheat_sheet() + NOTE)
        QVBoxLayout(self).addWidget(self.text)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Take the room that the text needs, as far as the screen has it; called by Qt."""
        super().showEvent(event)
        document, screen = self.text.document(), self.screen()
        if document is None or screen is None:
            return
        document = document.clone()  # what is shown keeps the width of its window
        assert document is not None
        room = SCREEN_SHARE * screen.availableSize()
        document.setTextWidth(room.width())
        wanted = QSize(ceil(document.idealWidth()), ceil(document.size().height()))
        self.resize((wanted + QSize(FRAME_PX, FRAME_PX)).boundedTo(room))
