"""The count widget: one press of a button from an image layer to outlined cells and their number."""

from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from napari.layers import Image as ImageLayer
from napari.layers import Shapes
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QWidget

from cellwright.core.errors import CellwrightError
from cellwright.files.atomic import write_text
from cellwright.models import registry, store
from cellwright.ops.measure.regions import RegionSet
from cellwright.widgets.count.background import BackgroundTool
from cellwright.widgets.count.calibrate import CalibrateTool
from cellwright.widgets.count.channels import show_colours
from cellwright.widgets.count.choices import AxesTool, Choices
from cellwright.widgets.count.model import CountModel, CountOutcome, count_task
from cellwright.widgets.count.point_prompt import PointPromptTool
from cellwright.widgets.count.save import SaveTool, SettingsFileTool
from cellwright.widgets.count.shown import EditedCells, ShownCount
from cellwright.widgets.count.view import CountPanel
from cellwright.widgets.shared.cells.regions import ask_for_line, ask_for_region, in_every_slice, region_layer
from cellwright.widgets.shared.jobs import Job, LiveUpdater
from cellwright.widgets.shared.layer_io import image_layer, layer_of_id, shown_cells
from cellwright.widgets.shared.messages import (
    ANNOTATE,
    COUNT,
    PANEL,
    HandOver,
    choose_layer,
    hand_over,
    listen,
    news_of,
    telling,
)
from cellwright.widgets.shared.napari_private import PLUGIN, spare_collector, unwrapped
from cellwright.widgets.shared.panel_area import PanelScrollArea
from cellwright.widgets.shared.style import stack

SAMPLE = "nuclei_2d"
HIDDEN, TO_OPEN, TO_COUNT, TO_LOOK = range(4)  # steps of the guide


class CountWidget(QWidget):
    """Counts the cells of an image layer and shows them as layers."""

    finished = Signal()  # a count has ended, well or not

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = unwrapped(napari_viewer)  # a proxy's layers are new objects at each look
        self.panel = CountPanel()
        self.jobs = self.panel.jobs
        self.choices = Choices(self.viewer, self.panel)
        self.updater = LiveUpdater(self)
        self.model = CountModel(
            self.viewer, self.choices.inputs, self.panel.message, self.jobs.start, self.updater.request
        )
        self.background = BackgroundTool(self.model)
        self.edited = EditedCells(self.model, self)
        self.shown = ShownCount(self.model, self.panel, self.choices, self.edited, self.updater)
        area = PanelScrollArea(self.panel, self.panel.count, self.viewer)
        area.shown.connect(self.panel.device.find_devices)
        stack(area, into=self)
        self._show_family(self.panel.model.family)
        self.axes = AxesTool(self.model, self.panel, self.choices)
        self.calibrate = CalibrateTool(self.model, self.panel.calibrate)
        self.ask = PointPromptTool(self.model, self.edited, self.panel.ask)
        self.save = SaveTool(self.model, self.edited, self.panel.save)
        self.settings_file = SettingsFileTool(self.model, self.panel, self.choices)
        self.first_run = FirstRunTool(self.model, self.panel)
        self.panel.tool_box.addWidget(self.calibrate.form)
        self._connect_panel()
        self.updater.failed.connect(self.model.fail)
        self.shown.take_up(self.settings_file.take)

    def _connect_panel(self) -> None:
        panel = self.panel
        spare_collector(self.viewer)
        panel.count.started.connect(lambda: self._start(is_preview=False))
        panel.preview.clicked.connect(lambda: self._start(is_preview=True))
        panel.measure.clicked.connect(self._on_measure_clicked)
        panel.colours.clicked.connect(self._on_colours_clicked)
        self.ask.draft.shown.connect(lambda is_pending: panel.show_prompted(is_pending=is_pending))
        panel.keep_cell.clicked.connect(self.ask.keep)
        panel.drop_cell.clicked.connect(self.ask.drop)
        panel.correct.clicked.connect(self._on_correct_clicked)
        listen(news_of(self.viewer).sent, self._on_sent, self)
        boxes = (panel.region, panel.axes, panel.channel, panel.device)
        folders = (panel.image, panel.model, panel.classes)  # tell of a wrong one before they are activated
        for changed in (*(box.chosen for box in folders), *(box.activated for box in boxes)):
            changed.connect(self.panel.message.forget_error)
        self.choices.scene_changed.connect(self.panel.message.forget_error)
        panel.region.activated.connect(self._on_region_chosen)
        panel.everywhere.clicked.connect(self._on_everywhere_clicked)
        panel.out_everywhere.clicked.connect(self._on_out_everywhere_clicked)
        self.jobs.started.connect(self._on_job_started)
        self.jobs.failed.connect(self.background.forget)
        self.jobs.failed.connect(self.model.fail)
        self.jobs.cancelled.connect(self.background.on_cancelled)
        self.jobs.finished.connect(self._on_job_finished)
        panel.model.chosen.connect(self._on_model_chosen)
        for box in (panel.model, panel.classes):
            box.failed.connect(self.model.fail)

    @property
    def job(self) -> Job | None:
        """What runs now: a count, or what one of the tools asked for."""
        return self.jobs.job

    @property
    def counted(self) -> CountOutcome | None:
        """The count that is shown."""
        return self.model.outcome

    def _on_job_started(self) -> None:
        self.model.is_busy = True
        spare_collector(self.viewer)
        self.model.tell("")
        self.panel.show_running(is_running=True)

    def _on_job_finished(self) -> None:
        self.model.is_busy = False
        self.panel.show_running(is_running=False)
        self.shown.update()  # what was changed meanwhile
        self.finished.emit()
        self.background.go_on()

    def _start(self, *, is_preview: bool) -> None:
        if not self.axes.when_understood(self.choices.layer, lambda: self._start(is_preview=is_preview)):
            self.model.tell("Looking up the axes in the file…")
            return
        with telling(self.model.fail):
            regions = None if is_preview else self.choices.regions()
            source = self.choices.preview_source() if is_preview else self.choices.source(regions)
            request = self.choices.inputs().request(source, regions)
            shapes = region_layer(self.viewer, self.panel.exclude.layer)
            self.panel.offer_everywhere(shapes, regions or RegionSet(), source.image)
            self.updater.forget()
            if not is_preview and self.background.takes(request):
                self.background.start(request, self.choices.preview_source())
                return
            self.model.run(count_task(request), self.shown.on_counted)

    def _on_measure_clicked(self) -> None:
        with telling(self.model.fail):
            ask_for_line(self.viewer, image_layer(self.choices.layer), self._on_line_measured)
            self.model.tell("Draw a line across a typical cell.")

    def _on_line_measured(self, length_px: float) -> None:
        self.panel.diameter.show_px(length_px)
        self.model.tell("")

    def _on_correct_clicked(self) -> None:
        counted = self.model.outcome
        if counted is None:
            return
        source = counted.request.source
        image, cells = layer_of_id(self.viewer, source.layer_id), shown_cells(self.viewer, source)
        if image is None or cells is None:
            self.model.tell("Image or cells are no longer among the layers. Count again, then correct.")
            return
        self.panel.ask.setChecked(False)  # the mouse is to edit
        hand_over(self.viewer, ANNOTATE, HandOver(image, cells, counted.request.recipe.models[0]))

    def _on_sent(self, panel: str, what: HandOver) -> None:
        if panel == COUNT:
            choose_layer(self.panel.image, what.image)
            self.panel.model.take(what.model)
            if what.classifier:
                self.panel.classes.take(what.classifier)
            if what.begins:
                self._begin(what.model)

    def _begin(self, model: str) -> None:
        """Count the chosen image with a model that another panel has sent, and tell which image that is."""
        if self.jobs.is_busy:
            self.model.tell("A count is running. Press Count cells when it has ended.", is_warning=True)
            return
        if self.panel.model.model_name != model:
            self.model.tell(f"Model {model!r} is no longer in the list. Choose another.", is_warning=True)
            return
        self._start(is_preview=False)
        if self.jobs.is_busy:
            name = image_layer(self.choices.layer).name
            self.model.tell(f"Counting the cells of {name!r} with {model!r}.")

    def _on_everywhere_clicked(self) -> None:
        shapes = region_layer(self.viewer, self.panel.exclude.layer)
        if shapes is not None:
            self.viewer.layers.selection.active = in_every_slice(self.viewer, shapes)
            self._start(is_preview=False)

    def _on_out_everywhere_clicked(self) -> None:
        shapes = self.panel.exclude.layer
        if isinstance(shapes, Shapes):
            self.panel.exclude.choose(in_every_slice(self.viewer, shapes))
            self._start(is_preview=False)

    def _on_region_chosen(self) -> None:
        layer = self.choices.layer
        is_drawn = self.panel.region.currentData() == "drawn"
        if is_drawn and isinstance(layer, ImageLayer) and region_layer(self.viewer) is None:
            ask_for_region(self.viewer, layer)
            self.model.tell("Draw a rectangle around the cells, then count.")

    def _on_model_chosen(self) -> None:
        self.choices.list_siblings()
        self._show_family(self.panel.model.family)
        if self.panel.calibrate.isHidden():  # no density
            self.calibrate.leave()

    def _show_family(self, family: str) -> None:
        if registry.get(family).gives != "instances":
            self.panel.ask.setChecked(False)
        self.panel.show_family(registry.get(family))
        self.panel.thresholds.changed.connect(self.shown.update)
        self.panel.filters.changed.connect(self.shown.update)
        for form in (self.panel.thresholds, self.panel.filters, self.panel.engine):
            form.changed.connect(self.panel.message.forget_error)

    def _on_colours_clicked(self) -> None:
        with telling(self.model.fail):
            show_colours(self.viewer, self.choices.inputs().source(), self.choices.engine)


class _Step(NamedTuple):
    text: str
    button: str
    help_text: str
    leave: str = "Leave"


STEPS = {
    TO_OPEN: _Step(
        "1 of 3: open a sample image, or one of your own.", "Open sample", "Open fluorescent nuclei."
    ),
    TO_COUNT: _Step("2 of 3: press Count cells.", "Count them", "The same as Count cells."),
    TO_LOOK: _Step(
        "3 of 3: each outline is a cell. Results has a row for each, plots and export.",
        "Show Results",
        "Bring the results panel to the front.",
        "Done",
    ),
}


def guide_file() -> Path:
    """Return the file whose presence tells that the guide was left."""
    return store.user_folder().parent / "guide_left"


class FirstRunTool(QObject):
    """Leads from an empty viewer to a count and its results, once by itself and whenever it is asked for."""

    def __init__(self, model: CountModel, panel: CountPanel) -> None:
        super().__init__(panel)
        self._model, self._panel = model, panel
        self._step = HIDDEN
        panel.guide.go_on.clicked.connect(self._on_go_on_clicked)
        panel.guide.leave.clicked.connect(self.leave)
        panel.show_guide.clicked.connect(self.begin)
        panel.image.chosen.connect(self._on_image_chosen)
        model.outcome_changed.connect(self._on_counted)
        model.whole_counted.connect(self._on_counted)
        if panel.image.layer is None and not guide_file().exists():
            self.begin()

    def begin(self) -> None:
        """Show the first step that is still to be done."""
        self._step = TO_OPEN
        self._on_image_chosen()
        self._show()

    def leave(self) -> None:
        """Hide the guide; it does not come again by itself."""
        self._step = HIDDEN
        self._show()
        self._remember()

    def _remember(self) -> None:
        if not guide_file().exists():
            with suppress(CellwrightError):  # where nothing can be written it comes again
                write_text(guide_file(), "")

    def _on_image_chosen(self) -> None:
        if self._step in (TO_OPEN, TO_COUNT):
            has_image = self._panel.image.layer is not None
            self._step = TO_OPEN + has_image
            self._show()

    def _on_counted(self, counted: Any) -> None:
        if self._step in (TO_OPEN, TO_COUNT) and not counted.request.source.is_preview:
            self._step = TO_LOOK
            self._show()
            self._remember()

    def _on_go_on_clicked(self) -> None:
        if self._step == TO_OPEN:
            self._model.viewer.open_sample(PLUGIN, SAMPLE)
        elif self._step == TO_COUNT and not self._model.is_busy:  # the button would cancel
            self._panel.count.click()
        elif self._step == TO_LOOK:
            self.leave()
            hand_over(self._model.viewer, PANEL, HandOver())

    def _show(self) -> None:
        guide = self._panel.guide
        guide.setVisible(self._step != HIDDEN)
        if self._step != HIDDEN:
            step = STEPS[self._step]
            guide.text.setText(step.text)
            guide.go_on.setText(step.button)
            guide.go_on.setToolTip(step.help_text)
            guide.leave.setText(step.leave)
