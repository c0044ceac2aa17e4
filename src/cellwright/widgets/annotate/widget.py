"""The annotation widget: from a model's guess to cells that somebody has made sure of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Points, Shapes
from qtpy.QtCore import QObject, Qt
from qtpy.QtGui import QKeySequence, QShowEvent
from qtpy.QtWidgets import QShortcut, QWidget

from cellwright.annotation.review_queue import mirror_disagreement
from cellwright.core.errors import CellwrightError
from cellwright.core.tasks import once
from cellwright.inference.settings import EngineSettings
from cellwright.widgets.annotate.adder import wishes_of
from cellwright.widgets.annotate.context import AnnotationContext
from cellwright.widgets.annotate.export import Exporter
from cellwright.widgets.annotate.keys import AWAY_HINT, HELP_KEY, HINTS, IDLE_HINT, CheatSheet
from cellwright.widgets.annotate.model import AnnotateModel
from cellwright.widgets.annotate.proofread import Proofreader
from cellwright.widgets.annotate.session_setup import (
    Unfinished,
    offered,
    resume_session,
    session_to_outline,
    start_session,
)
from cellwright.widgets.annotate.tools import CELL, DRAWING
from cellwright.widgets.annotate.view import NO_REVIEW, AnnotatePanel
from cellwright.widgets.shared.combos import forget_errors
from cellwright.widgets.shared.edited_layers import ACTIVE_KEPT, metadata_of
from cellwright.widgets.shared.jobs import LiveUpdater, debouncer
from cellwright.widgets.shared.journals.journal_files import journal_path
from cellwright.widgets.shared.journals.kept_corrections import KEPT_AS, kept_layer, written_here
from cellwright.widgets.shared.layer_dataset import Pair
from cellwright.widgets.shared.layer_io import image_layer, image_of, layer_of_id
from cellwright.widgets.shared.messages import (
    ANNOTATE,
    FOLDER,
    TRAIN,
    CountEvent,
    HandOver,
    choose_layer,
    hand_over,
    listen,
    news_of,
    telling,
)
from cellwright.widgets.shared.napari_private import preferences, unwrapped
from cellwright.widgets.shared.panel_area import PanelScrollArea
from cellwright.widgets.shared.style import stack

FOLLOW_MS = 200
DIFFERENT = 0.5  # from which disagreement on a cell is told
PIXELS_HINT = "Points are shown as discs here; they are exported as points."
PART_HINT = (
    "Only a part of the image was counted. The boxes show where every cell is taken to be annotated: outside "
    "them nothing is taught. Region (K) adds others."
)
IDLE_STATUS = "Ready"  # what napari says of its own accord
LAYER_GONE = "The layer was removed. While its image is open, Resume brings back what was edited."
FINISHED = "Finished. The cells are in the layer"
BROUGHT_BACK = "The cells are in the layer {!r} again, as they were corrected."
UNKNOWN_HINT = (
    "Only a part of the image was counted, and it holds no box in which every cell is known: nothing but "
    "the cells themselves is taught. Region (K) shows where every cell is annotated."
)


class AnnotateWidget(QWidget):
    """Corrects the cells of an image layer by hand."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.panel = AnnotatePanel()
        self.model = AnnotateModel(napari_viewer, self.panel.message, self._on_told)
        self._sheet: CheatSheet | None = None
        self._told = ""  # in the status bar
        self._is_away = False  # another layer than the annotation is active
        self._finished: Layer | None = None  # that the panel tells of
        self._follow = debouncer(self, FOLLOW_MS, self._on_follow)  # a look at every cell, once edits pause
        stack(PanelScrollArea(self.panel, self.panel.begin, self.viewer), into=self)
        self.choices = AnnotateChoices(self.model, self.panel)
        self.model.opened.connect(self._on_opened)
        self.model.closed.connect(self._on_closed)
        self.panel.model.failed.connect(self.model.fail)
        self.proofreader = Proofreader(self.model, self.panel.batch)
        self.exporter = Exporter(self.model, self.panel.exports)
        self._connect_panel()

    def _connect_panel(self) -> None:
        panel, layers = self.panel, self.viewer.layers
        forget_errors(panel.message, panel)
        panel.begin.clicked.connect(self._on_begin_clicked)
        panel.resume.clicked.connect(self._on_resume_clicked)
        panel.check.clicked.connect(self._on_check_clicked)
        panel.check_job.finished.connect(lambda: panel.check.setEnabled(True))
        panel.check_job.failed.connect(self.model.fail)
        panel.check_job.cancelled.connect(lambda: self.model.tell_done("The check was cancelled."))
        panel.help.clicked.connect(self.show_keys)
        panel.teach.clicked.connect(self._on_teach_clicked)
        panel.to_folder.clicked.connect(lambda: hand_over(self.viewer, FOLDER, HandOver(panel.image.layer)))
        panel.model.chosen.connect(self._on_model_chosen)
        panel.model.activated.connect(self._on_model_chosen)
        self._on_model_chosen()
        listen(news_of(self.viewer).sent, self._on_sent, self)
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
        for emitter in (layers.events.removed, layers.selection.events.active):
            listen(emitter, self._on_layers_changed, self)

    # -- what to annotate ---------------------------------------------------------------------------------

    def showEvent(self, event: QShowEvent | None) -> None:
        """Look for what was begun once the widget is seen."""
        super().showEvent(event)
        self.choices.offer()

    def _on_layers_changed(self, _: Any = None) -> None:
        """End the session when its own layer has been removed; tell when another takes the keys."""
        if self.model.context is None:
            if self._finished is not None and self._finished not in self.viewer.layers:
                self._finished = None
                if self.panel.message.text().startswith(FINISHED):
                    self.panel.message.tell("")
            return
        if self.model.context.layer.layer not in self.viewer.layers:
            self.model.finish()
            self.panel.message.tell(LAYER_GONE, is_warning=True)
        else:
            self._tell_where_keys_work(self.model.context)

    def _tell_where_keys_work(self, context: AnnotationContext) -> None:
        """Say so while another layer is active, which takes the keys."""
        own = context.layer.layer
        is_active = unwrapped(self.viewer.layers.selection.active) is own
        if not is_active:
            self._on_told(AWAY_HINT.format(own.name))
        elif self._is_away:
            self._on_told(HINTS.get(context.tools.name, IDLE_HINT))
        self._is_away = not is_active

    def _on_begin_clicked(self) -> None:
        if self.model.context is not None:
            self._finished = self.model.context.layer.layer
            self.model.finish()
            self.panel.message.tell(f"{FINISHED} {self._finished.name!r}.")
            return
        panel = self.panel
        image, channel, start = panel.image.layer, panel.channel.channel, panel.start.layer
        with telling(self.model.fail):
            path = journal_path(image_of(image, channel), self.model.journals, channel)
            diameter = self.panel.settings.diameter.value()
            wishes, in_sight = [], np.asarray(self.viewer.dims.point, float)
            if isinstance(start, Points | Shapes) and self.panel.outline.isChecked():
                wishes = wishes_of(start, image_layer(image), channel, in_sight)
                opened = session_to_outline(image_layer(image), channel, start, journal=path)
            else:
                opened = start_session(
                    image, channel, start, journal=path, diameter_px=diameter, in_sight=in_sight
                )
                if isinstance(start, Points):
                    self.panel.message.tell(PIXELS_HINT)
            self.model.open(opened).adder.add_each(wishes)
            if opened.session.metadata.is_part:
                is_known = bool(opened.session.metadata.regions)
                self.panel.message.tell(PART_HINT if is_known else UNKNOWN_HINT, is_warning=not is_known)

    def _on_resume_clicked(self) -> None:
        path, image, channel = self.choices.offered, self.panel.image.layer, self.panel.channel.channel
        if path is None or self.model.session is not None:
            return
        with telling(self.model.fail):
            if path.suffix not in (KEPT_AS[Points], KEPT_AS[Shapes]):
                self.model.open(resume_session(image, channel, path))
                return
            layer = self.viewer.add_layer(kept_layer(path, image_layer(image), channel))
            written_here.add(path)  # of which this program has the layer now
            self.choices.offer()
            self.panel.message.tell(BROUGHT_BACK.format(layer.name))

    def _on_sent(self, panel: str, what: HandOver) -> None:
        """Begin to annotate what another panel sends; what is open already is gone on with."""
        context = self.model.context
        if panel != ANNOTATE or (context is not None and context.layer.layer is what.cells):
            return
        self.model.finish()  # it can be resumed
        choose_layer(self.panel.image, what.image)
        choose_layer(self.panel.start, what.cells)
        self.panel.model.take(what.model)
        self.model.taught = what.model or self.model.taught  # one that gives no outlines is not listed
        self._on_begin_clicked()

    def _on_model_chosen(self, _: int = 0) -> None:
        chosen = self.panel.model.currentData()
        if chosen:
            self.model.chosen = self.model.taught = str(chosen)
        self._pass_settings()

    def _on_teach_clicked(self) -> None:
        context = self.model.context
        if context is not None:
            what = HandOver(self.panel.image.layer, context.layer.layer, self.model.taught)
            hand_over(self.viewer, TRAIN, what)

    # -- an annotation ------------------------------------------------------------------------------------

    def _on_opened(self, context: AnnotationContext) -> None:
        self._finished = None
        self.panel.check_job.cancel()
        tools, review, adder = context.tools, context.review, context.adder
        tools.chosen.connect(self._on_tool_chosen)
        tools.pressed.connect(self._on_key_pressed)
        tools.asked.connect(adder.prompt)
        for part in (tools, adder):
            part.done.connect(self.model.tell_done)
            part.failed.connect(self.model.fail)
        review.told.connect(self.model.tell_done)
        review.moved.connect(self._on_review_moved)
        context.session.history.events.history.connect(self._on_history)
        self.choices.choose_channel_of(context.layer.layer)  # that of what is resumed
        self.model.channel = self.panel.channel.channel
        self._pass_settings()
        self.panel.show_offer("")
        self.panel.show_session(is_open=True)
        self.panel.show_tool("", IDLE_HINT)
        self.panel.current.setText(NO_REVIEW)
        self._on_history()

    def _on_closed(self) -> None:
        if self.viewer.status == self._told:  # of what is open no more
            self.viewer.status = IDLE_STATUS
        self._is_away = False
        self.panel.check_job.cancel()
        self.panel.show_session(is_open=False)
        self.panel.message.tell("")
        self.panel.buttons["hide"].setChecked(False)
        self.choices.refresh()
        self.choices.offer()

    def _on_check_clicked(self) -> None:
        session, job = self.model.session, self.panel.check_job
        if session is None or job.is_busy:
            return
        self.panel.check.setEnabled(False)
        engine = EngineSettings(channel=self.model.channel_index, device=preferences().device)
        job.start(mirror_disagreement(session.copy(), engine, self.model.chosen), self._on_checked)

    def _on_checked(self, found: Mapping[int, float]) -> None:
        if self.model.context is None:
            return
        self.model.context.review.set_disagreement(found)
        n = sum(value >= DIFFERENT for value in found.values())
        self.model.tell_done(
            f"The model sees {n:,} of {len(found):,} cells differently in the mirrored image."
        )

    # -- tools --------------------------------------------------------------------------------------------

    def _on_tool_clicked(self, name: str) -> None:
        context, button = self.model.context, self.panel.buttons[name]
        if context is None:
            return
        tools = context.tools
        if not button.isCheckable() or name == "hide":
            tools.act(name)
        elif tools.name == name:
            tools.choose("")
        elif name in DRAWING:
            tools.draw(name)
        else:
            tools.choose(name)

    def _on_class_clicked(self, category: int) -> None:
        context = self.model.context
        if context is None:
            return
        tools = context.tools
        if tools.name == CELL and tools.category == category:
            tools.choose("")
            return
        tools.category = category
        tools.choose(CELL)
        self.panel.show_class_chosen(category)

    def _on_tool_chosen(self, name: str) -> None:
        self.panel.show_tool(name, HINTS.get(name, IDLE_HINT))
        if name != CELL:
            self.panel.show_class_chosen(-1)

    def _on_key_pressed(self, name: str) -> None:
        context = self.model.context
        if context is None:
            return
        if name == "help":
            self.show_keys()
        elif name == "hide":
            is_on = not context.layer.hides_reviewed
            context.layer.hide_reviewed(is_on=is_on)
            self.panel.buttons["hide"].setChecked(is_on)
        else:
            context.review.act(name)

    def _on_review_moved(self, number: int | None) -> None:
        text = NO_REVIEW
        if self.model.context is not None and number is not None:
            text = self.model.context.review.line(number)
        self.panel.current.setText(text)

    def _on_names_edited(self) -> None:
        session = self.model.session
        names = tuple(name.strip() for name in self.panel.names.text().split(",") if name.strip())
        if session is not None and names != session.metadata.class_names:
            with telling(self.model.fail):
                lost = session.set_class_names(names)
                if lost:
                    numbers = ", ".join(f"{n:,} of {name}" for name, n in lost.items())
                    self.panel.message.tell(f"Cells without a class now: {numbers}. Undo brings them back.")
        self.panel.names.clearFocus()

    def _pass_settings(self, _: object = None) -> None:
        if self.model.context is not None:
            tools, adder = self.model.context.tools, self.model.context.adder
            tools.step_px = self.panel.settings.step.value()
            tools.goes_through_slices = self.panel.settings.through.isChecked()
            adder.diameter_px = self.panel.settings.diameter.value()
            if self.panel.model.is_by_user:  # else each kind of image has its own
                adder.model = self.model.chosen
            adder.uses_model = self.panel.settings.ask_model.isChecked()
            adder.channel = self.model.channel_index

    def show_keys(self) -> None:
        """Show the cheat sheet, or close it."""
        if self._sheet is None:
            self._sheet = CheatSheet(self)
        self._sheet.setVisible(not self._sheet.isVisible())

    # -- what is told -------------------------------------------------------------------------------------

    def _on_history(self) -> None:
        context, panel = self.model.context, self.panel
        if context is None:
            return
        session = context.session
        n_reviewed, n_cells = context.review.progress
        panel.show_count(n_cells, n_reviewed)
        panel.buttons["undo"].setEnabled(bool(session.history.done))
        panel.buttons["redo"].setEnabled(bool(session.history.undone))
        classes = [session.store.cell(number).category for number in session.store.numbers().tolist()]
        counts = tuple(classes.count(index) for index in range(len(session.metadata.class_names)))
        panel.show_classes(session.metadata.class_names, counts)
        panel.message.tell("")
        self._follow.throttle()

    def _on_follow(self) -> None:
        context = self.model.context
        if context is not None and context.review.current is not None:
            self._on_review_moved(context.review.current)

    def _on_told(self, text: str) -> None:
        self._told = text
        self.panel.hint.setText(text)
        self.viewer.status = text


class AnnotateChoices(QObject):
    """Reads the boxes at the top of the panel, which follow the layers of the viewer."""

    def __init__(self, model: AnnotateModel, panel: AnnotatePanel) -> None:
        super().__init__(panel)
        self._model, self._panel = model, panel
        self.offered: Path | None = None  # journal of what can be resumed
        self.look = LiveUpdater(self)  # for what can be resumed
        self.look.updated.connect(self._on_looked)
        self.look.failed.connect(model.fail)
        panel.image.chosen.connect(self._on_image_chosen)
        panel.start.usual = self._usual_start
        panel.start.follows = lambda layer: not isinstance(layer, Shapes)  # mostly regions to count in
        panel.start.chosen.connect(self._on_start_chosen)
        panel.channel.activated.connect(lambda _: self.offer())
        panel.image.follow(model.viewer)
        panel.start.follow(model.viewer)
        listen(model.viewer.layers.selection.events.active, self._on_active, panel)
        listen(news_of(model.viewer).counted, self._on_counted, panel)
        self._on_image_chosen()

    def refresh(self) -> None:
        """Choose the active image, and labels of it that a count left."""
        for box in (self._panel.image, self._panel.start):
            box.refresh()
            box.choose_active()

    def _usual_start(self) -> Layer | None:
        """Return labels of the chosen image, else some that belong to none of the images; seen ones first."""
        image = self._panel.image.layer
        found = [one for one in self._panel.start.listed if isinstance(one, Labels)]
        fitting = [one for one in found if self._image_of(one) in (None, image)]
        return max(fitting, key=lambda one: (self._image_of(one) is not None, one.visible), default=None)

    def _image_of(self, cells: Layer) -> Layer | None:
        """Return the image of the viewer that cells were found or drawn in, if they tell of one."""
        return layer_of_id(self._model.viewer, str(metadata_of(cells).get("source")))

    def _on_active(self, _: Any = None) -> None:
        """Choose the image of cells that become active, with which is begun."""
        cells = unwrapped(self._model.viewer.layers.selection.active)
        if cells not in self._panel.start.listed or ACTIVE_KEPT.get() or not self._panel.image.isEnabled():
            return
        image = self._image_of(cells)
        if image is not None:
            self._panel.image.choose(image)

    def _on_counted(self, _: CountEvent) -> None:
        """Choose what was counted, as a panel that is opened now would."""
        if self._model.session is None:
            self.refresh()

    def _on_start_chosen(self) -> None:
        self._panel.outline.setVisible(isinstance(self._panel.start.layer, Points | Shapes))
        self.choose_channel_of(self._panel.start.layer)

    def choose_channel_of(self, cells: Layer | None) -> None:
        """Choose the channel that cells were found or drawn in, where they tell it and the image has it."""
        image = self._panel.image.layer
        if cells is not None and isinstance(image, ImageLayer):
            number = Pair(image, cells).channel
            if number is not None:
                self._panel.channel.choose_number(number)

    def _on_image_chosen(self) -> None:
        start, image = self._panel.start, self._panel.image.layer
        if start.layer is None or self._image_of(start.layer) not in (None, image):
            start.choose(self._usual_start())
        is_open = self._model.session is not None  # to be finished, whether or not its image is still there
        self._panel.begin.setEnabled(is_open or image is not None)
        self._panel.channel.list_channels_of(image)
        self.choose_channel_of(start.layer)
        is_of_folder = image is not None and str(image.unique_id) in news_of(self._model.viewer).opened
        self._panel.to_folder.setVisible(is_of_folder)
        if self._panel.isVisible():
            self.offer()

    def offer(self) -> None:
        """Offer to resume an annotation of the chosen image, if one was begun."""
        self.offered = None
        self.look.forget()
        self._panel.show_offer("")
        image = self._panel.image.layer
        if self._model.session is not None or image is None:
            return
        channel, folder = self._panel.channel.channel, self._model.journals
        try:
            known = image_of(image, channel)
        except CellwrightError:
            return  # an image that cannot be annotated; Start tells why
        # pixels of the image are read, which takes a while from some disks
        self.look.request(lambda: once("look", lambda: offered(journal_path(known, folder, channel))))

    def _on_looked(self, found: Unfinished | None) -> None:
        if found is not None and self._model.session is None:
            self.offered = found.path
            self._panel.show_offer(found.line)
