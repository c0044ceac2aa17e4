"""The controls of the annotate panel and where they stand, without behaviour."""

from collections.abc import Iterable

from napari.layers import Layer
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QPaintEvent
from qtpy.QtWidgets import (
    QFrame,
    QLabel,
    QLineEdit,
    QListWidget,
    QProgressBar,
    QSizePolicy,
    QStyle,
    QStyleOptionToolButton,
    QStylePainter,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from cellwright.models import registry
from cellwright.widgets.annotate.keys import (
    AWAY_HINT,
    BY_NAME,
    HINTS,
    IDLE_HINT,
    N_CLASS_KEYS,
    TOOLS,
    key_text,
)
from cellwright.widgets.shared.combos import ChannelComboBox, LayerComboBox, PanelComboBox
from cellwright.widgets.shared.edited_layers import is_image, is_shapes, metadata_of
from cellwright.widgets.shared.flow import FlowLayout, WrappedButton, WrappedLabel
from cellwright.widgets.shared.jobs import JobBar
from cellwright.widgets.shared.layer_dataset import is_annotation
from cellwright.widgets.shared.layer_factory import class_colour
from cellwright.widgets.shared.model_combos import ModelComboBox
from cellwright.widgets.shared.style import (
    FoldedPart,
    MessageLabel,
    boxed,
    button,
    check_box,
    even_row,
    fill,
    form_layout,
    number_box,
    panel_layout,
    row,
    set_state,
    stack,
    wrapped_label,
)

SPACING_PX = 7
FILES_HEIGHT_PX = 150
CLASS_MARGIN_PX = 14  # beside the name of a class on its button
NO_REVIEW = "N: show the likeliest mistake"
LONGEST_REVIEW = "Cell 10000: likely wrong (chance of a mistake 100%), reviewed"
NAME_LETTERS = 8  # of an image that there is room for, at least
SMALL = QSize(36, 32)
SIGNS = {"undo": "↶", "redo": "↷"}
USUAL_NAME = "image_of_a_sample labels"  # as long as most names of layers
OWN_STYLE = """
QToolButton { padding: 3px 2px; border-radius: 5px; background: rgba(128, 128, 128, 40); }
QToolButton:hover { background: rgba(128, 128, 128, 80); }
QToolButton[tool="true"]:checked { color: white; background: #1a7a76; }
QToolButton:disabled { color: rgba(128, 128, 128, 200); background: rgba(128, 128, 128, 18); }
#begin { font-weight: 600; padding: 7px; border-radius: 5px; }
#begin[running="false"] { color: white; background: #1a7a76; }
#begin[running="false"]:hover { background: #15625f; }
#begin:disabled { color: rgba(128, 128, 128, 200); background: rgba(128, 128, 128, 18); }
#begin[running="true"] { background: rgba(128, 128, 128, 90); font-weight: 400; }
#offer { background: rgba(47, 181, 174, 45); border-radius: 6px; }
#offer QLabel, #hint { background: transparent; }
#cells { font-size: 18pt; font-weight: 600; }
#accept { background: #2a7d4f; color: white; } #accept:hover { background: #236b43; }
#reject { background: #9c4038; color: white; } #reject:hover { background: #b54d44; }
#accept:disabled, #reject:disabled { color: rgba(128, 128, 128, 200); background: rgba(128, 128, 128, 18); }
"""


def can_begin(layer: Layer) -> bool:
    """Return whether an annotation can begin with a layer: labels, points, or shapes, drawn or counted."""
    is_counted = metadata_of(layer).get("output") == "Shapes"
    return is_annotation(layer) or is_shapes(layer) or is_counted


class AnnotatePanel(QWidget):
    """Controls of the annotation widget: what to annotate, the count, tools, review, classes, export."""

    def __init__(self) -> None:
        super().__init__()
        self.buttons: dict[str, QToolButton] = {}
        layout = panel_layout(self, OWN_STYLE, spacing_px=SPACING_PX)
        self.message, self.work = MessageLabel("Annotating"), QWidget()
        self.settings, self.exports, self.batch = SettingsSection(), ExportSection(), FolderSection()
        self.teach = button(
            "Teach the model these", "Open the train panel with these cells ticked and the model chosen."
        )
        self.hint = SteadyLabel((*HINTS.values(), IDLE_HINT, AWAY_HINT.format(USUAL_NAME)))
        self.hint.setObjectName("hint")
        tools = (self._card(), self._tools(), self.hint, self._classes())
        stack(*tools, self.teach, self.settings, self.exports, into=self.work, spacing_px=SPACING_PX)
        steps = self.batch.steps  # above the tools, which leave no room on a small screen
        fill(layout, self._choices(), steps, self._offer(), self.message, self.work, self.batch)
        layout.addStretch(1)
        self.show_session(is_open=False)

    # -- what is shown ------------------------------------------------------------------------------------

    def show_session(self, *, is_open: bool) -> None:
        """Show the tools while there is something to annotate, else what is needed to begin."""
        self.work.setVisible(is_open)
        for widget in (self.image, self.channel, self.start, self.outline):
            widget.setEnabled(not is_open)
        text, help_text = "Start", "Annotate this image. Every edit can be undone, and is on disk at once."
        if is_open:
            text, help_text = "Finish", "Stop here; the labels stay, and the annotation can be resumed."
        self.begin.setText(text)
        self.begin.setToolTip(help_text)
        set_state(self.begin, "running", on=is_open)

    def show_offer(self, line: str) -> None:
        """Offer to resume an annotation; '' takes the offer away."""
        self.offer_line.setText(line)
        self.offer.setVisible(bool(line))

    def show_count(self, n_cells: int, n_reviewed: int) -> None:
        """Show how many cells there are, and of how many somebody has made sure."""
        self.count.setText(f"{n_cells:,}")
        self.reviewed.setText(f"cells · {n_reviewed:,} reviewed")
        self.bar.setRange(0, max(n_cells, 1))
        self.bar.setValue(n_reviewed)

    def show_tool(self, name: str, hint: str) -> None:
        """Mark the active tool and say how it is used."""
        for own, made in self.buttons.items():
            if made.isCheckable() and own != "hide":
                made.setChecked(own == name)
        if name == "":
            self.show_class_chosen(-1)
        self.hint.setText(hint)

    def show_class_chosen(self, category: int) -> None:
        """Mark the class that clicks give; -1 for none."""
        for index, chip in enumerate(self.chips):
            chip.setChecked(index == category)

    def show_classes(self, names: tuple[str, ...], counts: tuple[int, ...]) -> None:
        """Show a chip for each class: its key, its name, how many cells are of it."""
        for chip in self.chips[len(names) :]:
            chip.setVisible(False)
        for index, (chip, name, n) in enumerate(zip(self.chips, names, counts, strict=False)):
            text = f"{index + 1} {name} · {n:,}"
            chip.setText(text)
            chip.setToolTip(f"{text}: give this class to the cells that are clicked.")
            chip.setStyleSheet(
                f"QToolButton {{ border-left: 5px solid {class_colour(index)}; padding-left: 5px; }}"
            )
            chip.setVisible(True)
        text = ", ".join(names)
        if not self.names.hasFocus() and self.names.text() != text:
            self.names.setText(text)

    # -- parts --------------------------------------------------------------------------------------------

    def _choices(self) -> QVBoxLayout:
        self.image = LayerComboBox(is_image, "Image layer to annotate.", follows_active=True)
        self.image.setMinimumContentsLength(NAME_LETTERS)
        self.channel = ChannelComboBox("Channel that the model and the tools look at.")
        self.start = LayerComboBox(
            can_begin,
            "What to start from: the labels, points or boxes of a count, or shapes, of which each is a cell.",
            none="Nothing",
            follows_active=True,
        )
        self.outline = check_box(
            "Outline each with the model",
            "Have the model outline the cell at each point, or in the box around each shape. Without this, "
            "points become discs and shapes cells as they are.",
        )
        self.outline.setVisible(False)
        self.model = ModelComboBox(
            "Model that outlines added cells, checks the mirrored image, counts a folder, and is trained.",
            accepts=lambda entry: "Labels" in registry.get(entry.spec.family).returns,
        )
        self.model.choose_preferred()
        begin = ("Image", self.image), ("Channel", self.channel), ("Begin with", self.start)
        form = form_layout(*begin, self.outline, ("Model", self.model.with_card()))
        self.begin = WrappedButton("Start")
        self.begin.setObjectName("begin")
        self.to_folder = button(
            "Save into the folder",
            "Replace the counted cells of this and every other image that you corrected, as Save the "
            "corrections in Count a folder does. They can be corrected further.",
        )
        self.to_folder.setVisible(False)
        return stack(form, self.begin, self.to_folder, spacing_px=6)

    def _offer(self) -> QFrame:
        self.offer, self.offer_line = QFrame(), wrapped_label()
        self.resume = button("Resume", "Continue the annotation where it was left off.")
        self.offer.setObjectName("offer")
        layout = stack(self.offer_line, self.resume, into=self.offer)
        layout.setContentsMargins(8, 6, 8, 8)
        self.offer.setVisible(False)
        return self.offer

    def _card(self) -> QFrame:
        card = QFrame()
        card.setObjectName("card")
        self.count, self.reviewed, self.bar = QLabel("0"), wrapped_label(), QProgressBar()
        self.count.setObjectName("cells")
        self.bar.setTextVisible(False)
        edits = [self._button(name) for name in ("undo", "redo")]
        for made in edits:
            made.setFixedSize(SMALL)
        layout = stack(row(self.count, *edits), self.reviewed, self.bar, into=card, spacing_px=5)
        layout.setContentsMargins(10, 6, 10, 8)
        self._add_review(layout)
        return card

    def _add_review(self, layout: QVBoxLayout) -> None:
        self.current = SteadyLabel([LONGEST_REVIEW])
        self.current.setObjectName("details")
        self.current.setText(NO_REVIEW)
        self.check, self.check_job = QToolButton(), JobBar()
        self.check.setText("Check with\nmirror image")
        self.check.setToolTip(
            "Have the model look at the mirrored image too: cells it then outlines differently come first."
        )
        _size(self.check)
        steps = even_row(*map(self._button, ("back", "accept", "reject", "next")), spacing_px=4)
        checks = even_row(self._button("hide"), self.check, spacing_px=4)
        fill(layout, self.current, steps, checks, self.check_job)

    def _tools(self) -> FlowLayout:
        names = [tool.name for group in ("Draw", "Cells", "Shape") for tool in TOOLS if tool.group == group]
        buttons = [self._button(name) for name in (*names, "pan")]
        self.help = QToolButton()
        self.help.setText("Keys\n?")
        self.help.setToolTip("Show all keys (?)")
        _size(self.help)
        return even_row(*buttons, self.help, spacing_px=4)

    def _button(self, name: str) -> QToolButton:
        tool, button = BY_NAME[name], QToolButton()
        button.setObjectName(name)
        button.setText(SIGNS.get(name, f"{tool.title}\n{tool.key}"))
        button.setToolTip(f"{tool.help} ({key_text(tool)})")
        button.setCheckable(tool.kind != "once" or name == "hide")
        button.setFocusPolicy(Qt.FocusPolicy.TabFocus)  # after a click the keys go on reaching the image
        _size(button)
        self.buttons[name] = button
        return button

    def _classes(self) -> QVBoxLayout:
        self.names = QLineEdit()
        self.names.setPlaceholderText("Classes: names separated by commas")
        self.names.editingFinished.connect(lambda: self.names.home(False))  # noqa: FBT003 - of Qt
        self.names.setToolTip("Keys 1 to 9 give the cell under the cursor its class.")
        self.chips = [ClassButton() for _ in range(N_CLASS_KEYS)]
        for chip in self.chips:
            chip.setCheckable(True)
            chip.setToolTip("Give this class to the cells that are clicked.")
            chip.setFocusPolicy(Qt.FocusPolicy.TabFocus)
            _size(chip)
            chip.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
            chip.setVisible(False)
        return stack(self.names, even_row(*self.chips, spacing_px=4), spacing_px=4)


class SteadyLabel(WrappedLabel):
    """A text that is always as high as the longest of its usual ones: nothing below it jumps."""

    def __init__(self, usual: Iterable[str]) -> None:
        super().__init__()
        self._usual, self._sample = tuple(usual), WrappedLabel()
        self._sample.setParent(self)
        self._sample.hide()
        for label in (self, self._sample):
            label.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.setText("")  # else Qt asks for no height

    def heightForWidth(self, width: int) -> int:
        """Return the height of the highest text; called by Qt."""
        heights = [super().heightForWidth(width)]
        self._sample.ensurePolished()
        for text in self._usual:
            self._sample.setText(text)
            heights.append(self._sample.heightForWidth(width))
        return max(heights)


class ClassButton(QToolButton):
    """A button that is as wide as there is room, and shows as much of its text as fits."""

    def paintEvent(self, _: QPaintEvent | None) -> None:
        """Draw the button; called by Qt."""
        painter, option = QStylePainter(self), QStyleOptionToolButton()
        self.initStyleOption(option)
        room = self.width() - CLASS_MARGIN_PX
        option.text = self.fontMetrics().elidedText(option.text, Qt.TextElideMode.ElideMiddle, room)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ToolButton, option)


class SettingsSection(FoldedPart):
    """How tools and the model work."""

    def __init__(self) -> None:
        self.step = number_box(
            "px", "How far one press of Grow or Shrink moves the outline.", 1.0, lowest=0.5, highest=100.0
        )
        self.diameter = number_box(
            "px",
            "Diameter of cells added as discs; 0 uses that of the other cells.",
            highest=5000.0,
            zero="auto",
        )
        self.ask_model = check_box(
            "The model outlines added cells", "Without this, an added cell is a disc.", is_on=True
        )
        self.through = check_box(
            "Regions go through all slices", "A complete region that is drawn holds in every slice."
        )
        sizes = ("Grow, shrink by", self.step), ("Disc diameter", self.diameter)
        super().__init__("Settings", boxed(form_layout(*sizes, self.ask_model, self.through)))


class ExportSection(FoldedPart):
    """Where an annotation is taken to: a dataset to train on, or a file of another program."""

    def __init__(self) -> None:
        self.split = PanelComboBox(
            "What the image is for: to learn from, to check a model with while it learns, or to score it at "
            "the end."
        )
        self.format = PanelComboBox("File format of another program.")
        self.complete = check_box(
            "Every cell is annotated",
            "Without this, and without regions, what has no label is not treated as background.",
        )
        self.replaces = check_box(
            "Replace it if it exists",
            "Overwrite the annotation of this image in the dataset, never that of another image of its name.",
        )
        self.to_dataset = button(
            "Add to a dataset…", "Add image, labels, classes and regions to a folder to train on."
        )
        self.save_as = button("Save as…", "Save the cells as a file of this format.")
        self.job = JobBar()
        to_dataset = ("Split", self.split), self.complete, self.replaces, self.to_dataset
        form = form_layout(*to_dataset, row(self.format, self.save_as), self.job)
        super().__init__("Export", boxed(form))


class FolderSection(FoldedPart):
    """The images of a folder that is proofread, and how far that is."""

    def __init__(self) -> None:
        self.folder = button("Choose a folder…", "A folder of images to go through one by one.")
        self.files = QListWidget()
        self.files.setFixedHeight(FILES_HEIGHT_PX)
        self.files.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.files.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.files.setToolTip("Cells now, how many the model found, and how far the review is.")
        self.previous_image = button("◀ Image", "Keep this image and go to the one before it.")
        self.next_image = button("Image ▶", "Keep this image and go to the next one.")
        self.counts_first = check_box(
            "Count images without labels",
            "Without this, an image that has no labels yet begins without cells.",
            is_on=True,
        )
        self.total = wrapped_label()
        self.steps = even_row(self.previous_image, self.next_image)
        content = stack(self.folder, self.counts_first, self.files, self.total, spacing_px=5)
        super().__init__("Proofread a folder", boxed(content))


def _size(button: QToolButton) -> None:
    button.setProperty("tool", True)  # noqa: FBT003 - for the style sheet
    button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
