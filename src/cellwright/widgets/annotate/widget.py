"""The annotation widget: from a model's guess to cells that somebody has made sure of."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Labels, Points
from qtpy.compat import isalive
from qtpy.QtCore import Qt, QTimer, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QKeySequence, QShowEvent
from qtpy.QtWidgets import QFrame, QScrollArea, QShortcut, QVBoxLayout, QWidget  # type: ignore[attr-defined]

from cellwright.annotation.session import AnnotationSession
from cellwright.core.errors import CellwrightError
from cellwright.widgets.annotate.choices import AnnotateChoices
from cellwright.widgets.annotate.context import AnnotationContext, context_of
from cellwright.widgets.annotate.export import Exporter
from cellwright.widgets.annotate.keys import HELP_KEY, HINTS, CheatSheet
from cellwright.widgets.annotate.mirror_check import Checker
from cellwright.widgets.annotate.proofread.proofread import Proofreader
from cellwright.widgets.annotate.start import OpenedSession, begin, journal_path, resume
from cellwright.widgets.annotate.tools import CELL
from cellwright.widgets.annotate.view import AnnotatePanel
from cellwright.widgets.shared.coordinates import Channel
from cellwright.widgets.shared.layer_io import image_of
from cellwright.widgets.shared.messages import tell_error

if TYPE_CHECKING:
    import napari.viewer

NO_REVIEW = "N: show the likeliest mistake"
FOLLOW_MS = 200
SCROLL_BAR_PX = 12
IDLE_HINT = "Take a tool, or use its key over a cell. Press ? for all keys."
PIXELS_HINT = "Points stand as discs here; they are exported as points."


class AnnotateWidget(QWidget):
    """Corrects the cells of an image layer by hand.

    Parameters
    ----------
    napari_viewer
        The viewer it is docked in.
    """

    session_changed = Signal(object)  # AnnotationSession, None when it is finished

    def __init__(self, napari_viewer: "napari.viewer.Viewer") -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.panel = AnnotatePanel(self)
        self.desk: AnnotationContext | None = None
        self.journals: Path | None = None  # folder of the journals; None for the usual one
        self._sheet: CheatSheet | None = None
        self._follow = QTimer(self)  # what takes a look at every cell waits until the edits pause
        self._follow.setSingleShot(True)
        self._follow.setInterval(FOLLOW_MS)
        self._follow.timeout.connect(self._on_follow)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        area = QScrollArea()
        area.setWidget(self.panel)
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setMinimumWidth(self.panel.minimumWidth() + SCROLL_BAR_PX)
        layout.addWidget(area)
        self.choices = AnnotateChoices(self)
        self.proofreader, self.exporter, self.checker = Proofreader(self), Exporter(self), Checker(self)
        self._connect()
        self.refresh_layers()

    def _connect(self) -> None:
        panel, layers = self.panel, self.viewer.layers
        panel.begin.clicked.connect(self._on_begin_clicked)
        panel.resume.clicked.connect(self._on_resume_clicked)
        panel.help.clicked.connect(self.show_keys)
        panel.names.editingFinished.connect(self._on_names_edited)
        panel.settings.step.valueChanged.connect(self._pass_settings)
        panel.settings.diameter.valueChanged.connect(self._pass_settings)
        panel.settings.ask_model.toggled.connect(self._pass_settings)
        panel.settings.through.toggled.connect(self._pass_settings)
        for name, button in panel.buttons.items():
            button.clicked.connect(lambda _=False, name=name: self._on_tool_clicked(name))
        for index, chip in enumerate(panel.chips):
            chip.clicked.connect(lambda _=False, index=index: self._on_class_clicked(index))
        for keys in (HELP_KEY, f"Shift+{HELP_KEY}"):  # keyboards differ in whether it takes Shift
            shortcut = QShortcut(QKeySequence(keys), self)
            shortcut.setContext(Qt.ShortcutContext.WindowShortcut)
            shortcut.activated.connect(self.show_keys)
        for emitter in (layers.events.inserted, layers.events.removed, layers.events.renamed):
            emitter.connect(self.refresh_layers)
        layers.selection.events.active.connect(self.refresh_layers)

    @property
    def session(self) -> AnnotationSession | None:
        """What is annotated now, None between two."""
        return self.desk.session if self.desk is not None else None

    # -- what to annotate ---------------------------------------------------------------------------------

    @property
    def channel(self) -> Channel | None:
        """The chosen channel."""
        return self.choices.channel

    def showEvent(self, event: QShowEvent | None) -> None:
        """Look for what was begun once the widget is seen."""
        super().showEvent(event)
        self.choices.offer()

    def refresh_layers(self, _: Any = None) -> None:
        """List the layers; end the session when its own has been removed."""
        if not isalive(self):  # type: ignore[no-untyped-call]
            return  # napari holds this callback by a weak reference, which may outlive the widget
        if self.session is not None:
            self._check_layers()
        else:
            self.choices.refresh()

    def _on_begin_clicked(self) -> None:
        if self.session is not None:
            self.finish()
            return
        image, channel, start = self.choices.image, self.channel, self.choices.start
        try:
            path = journal_path(image_of(image, channel), self.journals)
            diameter = self.panel.settings.diameter.value()
            beginning = begin(image, channel, start, journal=path, diameter_px=diameter)
        except CellwrightError as error:
            self.show_error(error)
            return
        if isinstance(start, Points):
            self.panel.show_message(PIXELS_HINT)
        self.open(beginning)

    def _on_resume_clicked(self) -> None:
        if self.choices.offered is None or self.session is not None:
            return
        try:
            beginning = resume(self.choices.image, self.channel, self.choices.offered)
        except CellwrightError as error:
            self.show_error(error)
            return
        self.open(beginning)

    # -- a session ----------------------------------------------------------------------------------------

    def open(self, beginning: OpenedSession) -> None:
        """Show a session and give mouse and keys to it."""
        self.finish()
        session, own = beginning.session, beginning.layer
        if own not in self.viewer.layers:
            for one in self.viewer.layers:
                if isinstance(one, Labels | Points):
                    one.visible = False  # what it began with lies under it
            self.viewer.add_layer(own)
        self.viewer.layers.selection.active = own
        self.desk = context_of(self, beginning)
        self._connect_desk(self.desk)
        self._pass_settings()
        self.panel.show_offer("")
        self.panel.show_session(is_open=True)
        self.panel.show_tool("", IDLE_HINT)
        self.panel.current.setText(NO_REVIEW)
        self._on_history()
        self.session_changed.emit(session)

    def _connect_desk(self, desk: AnnotationContext) -> None:
        desk.tools.chosen.connect(self._on_tool_chosen)
        desk.tools.done.connect(self.tell)
        desk.tools.failed.connect(self.show_error)
        desk.tools.asked.connect(desk.adder.add)
        desk.tools.pressed.connect(self._on_key_pressed)
        desk.review.moved.connect(self._on_review_moved)
        desk.review.told.connect(self.tell)
        desk.adder.done.connect(self.tell)
        desk.adder.failed.connect(self.show_error)
        desk.session.events.history.connect(self._on_history)

    def finish(self) -> None:
        """End the session; the labels stay in their layer, and it can be gone on with."""
        if self.desk is None:
            return
        desk, self.desk = self.desk, None
        desk.session.events.history.disconnect(self._on_history)
        desk.close()
        self.panel.show_session(is_open=False)
        self.panel.show_message("")
        self.panel.buttons["hide"].setChecked(False)
        self.refresh_layers()
        self.choices.offer()
        self.session_changed.emit(None)

    def _check_layers(self) -> None:
        """End the session when its layer has been removed; what was edited is in the journal."""
        if self.desk is not None and self.desk.layer.layer not in self.viewer.layers:
            self.finish()
            self.panel.show_message("The layer was removed; Go on with it brings it back.")

    # -- tools --------------------------------------------------------------------------------------------

    def _on_tool_clicked(self, name: str) -> None:
        if self.desk is None:
            return
        tools = self.desk.tools
        button = self.panel.buttons[name]
        if not button.isCheckable() or name == "hide":
            tools.act(name)
        elif tools.name == name:
            tools.choose("")
        elif name == "paint":
            tools.paint()
        else:
            tools.choose(name)

    def _on_class_clicked(self, category: int) -> None:
        if self.desk is None:
            return
        tools = self.desk.tools
        is_same = tools.name == CELL and tools.category == category
        tools.category = category
        tools.choose("" if is_same else CELL)
        self.panel.show_class_chosen(-1 if is_same else category)

    def _on_tool_chosen(self, name: str) -> None:
        self.panel.show_tool(name, HINTS.get(name, IDLE_HINT))
        if name != CELL:
            self.panel.show_class_chosen(-1)

    def _on_key_pressed(self, name: str) -> None:
        if self.desk is None:
            return
        if name == "help":
            self.show_keys()
        elif name == "hide":
            is_on = not self.desk.layer.hides_reviewed
            self.desk.layer.hide_reviewed(is_on=is_on)
            self.panel.buttons["hide"].setChecked(is_on)
        else:
            self.desk.review.act(name)

    def _on_review_moved(self, number: int | None) -> None:
        if self.desk is not None:
            self.panel.current.setText(NO_REVIEW if number is None else self.desk.review.line(number))

    def _on_names_edited(self) -> None:
        names = tuple(name.strip() for name in self.panel.names.text().split(",") if name.strip())
        if self.session is not None and names != self.session.class_names:
            try:
                self.session.set_class_names(names)
            except CellwrightError as error:
                self.show_error(error)
        self.panel.names.clearFocus()

    def _pass_settings(self, _: object = None) -> None:
        if self.desk is not None:
            tools, adder = self.desk.tools, self.desk.adder
            tools.step_px = self.panel.settings.step.value()
            tools.goes_through_slices = self.panel.settings.through.isChecked()
            adder.diameter_px = self.panel.settings.diameter.value()
            adder.uses_model = self.panel.settings.ask_model.isChecked()
            adder.channel = self.channel.index if self.channel else None

    def show_keys(self) -> None:
        """Show the cheat sheet, or close it."""
        if self._sheet is None:
            self._sheet = CheatSheet(self)
        self._sheet.setVisible(not self._sheet.isVisible())

    # -- what is told -------------------------------------------------------------------------------------

    def _on_history(self) -> None:
        if self.desk is None:
            return
        session, panel = self.desk.session, self.panel
        n_reviewed, n_cells = self.desk.review.progress
        panel.show_count(n_cells, n_reviewed)
        panel.buttons["undo"].setEnabled(session.can_undo)
        panel.buttons["redo"].setEnabled(session.can_redo)
        classes = [session.class_of(number) for number in session.ids().tolist()]
        counts = tuple(classes.count(index) for index in range(len(session.class_names)))
        panel.show_classes(session.class_names, counts)
        panel.show_message("")
        self._follow.start()

    def _on_follow(self) -> None:
        if self.desk is not None and self.desk.review.current is not None:
            self._on_review_moved(self.desk.review.current)

    def tell(self, text: str) -> None:
        """Say in the viewer's status what was done."""
        self.panel.hint.setText(text)
        self.viewer.status = text

    def show_error(self, error: Exception) -> None:
        """Tell in the panel what went wrong; what was not foreseen is logged too."""
        tell_error(self.panel, error, "Annotating")
