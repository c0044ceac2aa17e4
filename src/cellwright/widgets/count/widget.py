"""The count widget: one press of a button from an image layer to outlined cells and their number."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from napari.layers import Image as ImageLayer
from napari.layers import Shapes
from qtpy.compat import isalive
from qtpy.QtCore import QSignalBlocker, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QWidget

from cellwright.core.errors import CellwrightError, error_line
from cellwright.models import registry
from cellwright.models.fit import expectation
from cellwright.ops.measure.regions import RegionSet
from cellwright.widgets.count.background import BackgroundTool
from cellwright.widgets.count.calibrate import CalibrateTool
from cellwright.widgets.count.choices import AxesTool, Choices
from cellwright.widgets.count.colour_preview import show_colours
from cellwright.widgets.count.first_run import FirstRunTool
from cellwright.widgets.count.model import (
    CountModel,
    CountOutcome,
    WholeCount,
    can_recount,
    card_of,
    channels_line,
    count_task,
    counts_of,
    forget_gone,
    recipe_of_count,
    recount_task,
    remember,
    removed_line,
)
from cellwright.widgets.count.point_prompt import PointPromptTool
from cellwright.widgets.count.save import EditedCells, SaveTool, SettingsFileTool
from cellwright.widgets.count.view import CountPanel
from cellwright.widgets.shared.edited_layers import ASKED, is_image, is_same_count
from cellwright.widgets.shared.jobs import Job, LiveUpdater
from cellwright.widgets.shared.layer_io import (
    edited_layers,
    hidden_for,
    image_layer,
    layer_of_id,
    layers_with,
    place,
    remove,
    shown_cells,
)
from cellwright.widgets.shared.messages import (
    ANNOTATE,
    COUNT,
    HandOver,
    choose,
    choose_layer,
    hand_over,
    listen,
    news_of,
    tell_results,
    telling,
)
from cellwright.widgets.shared.napari_private import preferences, unwrapped
from cellwright.widgets.shared.regions import (
    ask_for_line,
    ask_for_region,
    in_every_slice,
    region_layer,
)
from cellwright.widgets.shared.style import PanelScrollArea, stack

if TYPE_CHECKING:
    import napari.viewer

OUTPUTS_OF = {"instances": ("Labels", "Points", "Shapes"), "density": ("Image",)}


class CountWidget(QWidget):
    """Counts the cells of an image layer and shows them as layers."""

    finished = Signal()  # a count has ended, well or not

    def __init__(self, napari_viewer: "napari.viewer.Viewer") -> None:
        super().__init__()
        self.viewer = unwrapped(napari_viewer)  # a proxy's layers are new objects at each look
        self.panel = CountPanel()
        self.jobs = self.panel.jobs
        self.choices = Choices(self.viewer, self.panel)
        self.model = CountModel(self.viewer, self.choices.inputs)
        self.background = BackgroundTool(self.model)
        self.updater = LiveUpdater(self)
        self._is_showing_settings = False
        self._elsewhere = ""  # where the image is whose number is shown
        area = PanelScrollArea(self.panel)
        area.shown.connect(self.panel.device.find_devices)
        stack(area, into=self)
        self._show_family(self.panel.model.family)
        self.axes = AxesTool(self.model, self.panel, self.choices)
        self.calibrate = CalibrateTool(self.model, self.panel.calibrate)
        self.edited = EditedCells(self.model, self)
        self.ask = PointPromptTool(self.model, self.edited, self.panel.ask)
        self.save = SaveTool(self.model, self.edited, self.panel.save)
        self.settings_file = SettingsFileTool(self.model, self.panel, self.choices)
        self.first_run = FirstRunTool(self.model, self.panel)
        self.panel.tool_box.addWidget(self.calibrate.form)
        self._connect_panel()
        self._connect_model()
        self._take_up()

    def _connect_panel(self) -> None:
        panel = self.panel
        panel.count.started.connect(lambda: self._start(is_preview=False))
        panel.preview.clicked.connect(lambda: self._start(is_preview=True))
        panel.measure.clicked.connect(self._on_measure_clicked)
        panel.colours.clicked.connect(self._on_colours_clicked)
        self.ask.draft.shown.connect(lambda is_pending: panel.show_prompted(is_pending=is_pending))
        panel.keep_cell.clicked.connect(self.ask.keep)
        panel.drop_cell.clicked.connect(self.ask.drop)
        panel.correct.clicked.connect(self._on_correct_clicked)
        listen(news_of(self.viewer).sent, self._on_sent, self)
        chosen = (panel.model, panel.region, panel.axes, panel.channel, panel.device, panel.classes)
        for changed in (panel.image.chosen, *(box.activated for box in chosen)):
            changed.connect(self.panel.message.forget_error)
        self.choices.scene_changed.connect(self.panel.message.forget_error)
        self.choices.scene_changed.connect(lambda: forget_gone(self.viewer))
        for changed in (panel.image.chosen, self.choices.scene_changed):
            changed.connect(self._tell_where_counted)
        panel.region.activated.connect(self._on_region_chosen)
        panel.everywhere.clicked.connect(self._on_everywhere_clicked)
        panel.out_everywhere.clicked.connect(self._on_out_everywhere_clicked)
        panel.classes.currentIndexChanged.connect(self._update)
        for box in panel.outputs.values():
            box.toggled.connect(self._update)
        self.jobs.started.connect(self._on_job_started)
        self.jobs.failed.connect(self.background.forget)
        self.jobs.failed.connect(self.model.fail)
        self.jobs.cancelled.connect(self.background.on_cancelled)
        self.jobs.finished.connect(self._on_job_finished)
        panel.model.chosen.connect(self._on_model_chosen)
        panel.model.failed.connect(self.model.fail)

    def _connect_model(self) -> None:
        model = self.model
        model.told.connect(self.panel.message.tell)
        model.failed.connect(self.panel.message.fail)
        model.work_wanted.connect(self.jobs.start)
        model.update_wanted.connect(self.updater.request)
        model.outcome_wanted.connect(self._show_if_here)
        model.whole_counted.connect(self._on_whole_counted)
        model.cause_changed.connect(self.panel.message.forget_error)
        model.settings_wanted.connect(self.show_settings)
        self.edited.changed.connect(self._show_number)
        self.updater.updated.connect(self._show_if_here)
        self.updater.failed.connect(model.fail)

    @property
    def job(self) -> Job | None:
        """What runs now: a count, or what one of the tools asked for."""
        return self.jobs.job

    @property
    def counted(self) -> CountOutcome | None:
        """The count that is shown."""
        return self.model.outcome

    def show_settings(self, settings: Any) -> None:
        """Put these thresholds and filters into the forms, with nothing counted anew."""
        self._is_showing_settings = True
        for form in (self.panel.thresholds, self.panel.filters):
            form.set_values(asdict(settings))
        self._is_showing_settings = False

    def _on_job_started(self) -> None:
        self.model.is_busy = True
        self.model.tell("")
        self.panel.show_running(is_running=True)

    def _on_job_finished(self) -> None:
        self.model.is_busy = False
        self.panel.show_running(is_running=False)
        self._update()  # what was changed meanwhile
        self.finished.emit()
        self.background.go_on()

    def _start(self, *, is_preview: bool) -> None:
        if not self.axes.when_understood(self.choices.layer, lambda: self._start(is_preview=is_preview)):
            self.model.tell("Looking up the axes in the file…")
            return
        with telling(self.model.fail):
            regions = None if is_preview else self.choices.regions()
            source = self.choices.preview_source() if is_preview else self.choices.source(regions)
            request = replace(self.choices.inputs().request(source), regions=regions)
            shapes = region_layer(self.viewer, self.panel.exclude.layer)
            self.panel.offer_everywhere(shapes, regions or RegionSet(), source.image)
            self.updater.forget()
            if not is_preview and self.background.takes(request):
                self.background.start(request, self.choices.preview_source())
                return
            self.model.work_wanted.emit(count_task(request), self._on_count_returned)

    def _on_count_returned(self, counted: CountOutcome) -> None:
        source = counted.request.source
        if not source.is_preview:
            remove(self.viewer, {**source.key, "is_preview": True})
        self.show_outcome(counted)
        notices = [removed_line(self.viewer, source)]
        kept = edited_layers(self.viewer, source.key)
        if kept:
            notices.append(f"What you changed was kept in {', '.join(kept)}; this count stands beside it.")
        self._tell_of(counted, *notices)

    def _tell_of(self, counted: CountOutcome, *more: str) -> None:
        """Tell what is to be known of a count: its notices, how well it went, further sentences."""
        notices = [*counted.result.notices, self.model.disagreement(counted), *more]
        expected = expectation(counted.result.fit)
        if expected in notices:  # as a warning
            expected = ""
        notices.append(self._out_of_sight(counted))
        hidden = hidden_for(self.viewer, counted.layers)
        if hidden:
            notices.append(f"What another model found is kept, out of sight: {', '.join(hidden)}.")
        told = list(filter(None, notices))
        self.model.tell(" ".join(filter(None, (expected, *told))), is_warning=bool(told))

    def _out_of_sight(self, counted: CountOutcome) -> str:
        """Return a sentence where the viewer shows another channel than the one that the cells lie in."""
        axis, layer = counted.request.source.channel_axis, next(iter(counted.layers.values()), None)
        if axis is None or layer is None or layer.ndim > self.viewer.dims.ndim:
            return ""
        if round(float(layer.world_to_data(self.viewer.dims.point[-layer.ndim :])[axis])) == 0:
            return ""
        return (
            f"The cells are those of {channels_line(counted.request)}; the viewer shows another one. Move "
            "the slider of channels to see them."
        )

    def _on_whole_counted(self, whole: WholeCount) -> None:
        self._show_whole(whole, removed_line(self.viewer, whole.request.source))

    def _show_whole(self, whole: WholeCount, *more: str) -> None:
        details = f"{whole.request.source.image.name}\nTable and labels are in {whole.folder}"
        self.panel.show_count(f"{whole.count:,.0f}", whole.line, details)
        self.panel.save.setEnabled(False)
        self.model.tell(" ".join(filter(None, (*whole.notices, *more))), is_warning=True)

    def _take_up(self) -> None:
        """Show a count that was made before this panel was there: of the chosen image, if it has one."""
        standing = [one for one in counts_of(self.viewer).standing.values() if one.is_here(self.viewer)]
        if not standing:
            return
        active, box = self.viewer.layers.selection.active, self.panel.image
        image = layer_of_id(self.viewer, standing[-1].layer_id)
        if image is not None and (active is None or not is_image(active)):  # none was chosen by hand
            box.choose(image)
        own = (one for one in standing if one.layer_id == box.currentData())
        counted = next(own, standing[-1])
        not_here = self._take_settings(counted)
        if isinstance(counted, WholeCount):
            self._show_whole(counted, not_here)
            return
        self._stand(counted)
        self.edited.take_up()
        self._show_number()
        self._tell_of(counted, not_here)

    def _take_settings(self, counted: CountOutcome | WholeCount) -> str:
        """Choose what a count was made with; return what is not here to be chosen."""
        request, panel, recipe = counted.request, self.panel, recipe_of_count(counted)
        if panel.image.currentData() != counted.layer_id:  # channels and regions are of another image
            recipe = replace(recipe, engine=replace(recipe.engine, channel=None, channels=()))
        else:
            panel.region.setCurrentIndex(panel.region.place_of(request.part))
            panel.choose_region_layers(request.region_layers)
        try:
            not_here = self.settings_file.take(recipe)
        except CellwrightError as error:
            return error_line(error)
        for output, box in panel.outputs.items():
            with QSignalBlocker(box):
                box.setChecked(output in request.outputs)
        return not_here.strip()

    def _update(self, _: object = None) -> None:
        """Bring cells and layers in line with thresholds, ticks and classes, in the background."""
        counted = self.model.outcome
        if (
            counted is None
            or not counted.is_here(self.viewer)
            or self._is_showing_settings
            or self.jobs.is_busy
            or counted.request.family != self.panel.model.family
        ):
            return  # sliders and ticks may now belong to another family
        request = counted.request
        self._remove_unticked(counted)
        settings, classifier = self.panel.settings, self.panel.classes.classifier
        if settings != request.settings and not can_recount(counted):
            self.model.tell("The new thresholds will be used by the next count.", is_warning=True)
            settings = request.settings
        wanted = replace(request, settings=settings, outputs=self.choices.outputs, classifier=classifier)
        if wanted != request or self.updater.is_busy:
            self.model.update_wanted.emit(lambda: recount_task(counted, wanted))

    def _show_if_here(self, counted: CountOutcome) -> None:
        """Show a changed count; one whose image and layers are gone stays gone."""
        if counted.is_here(self.viewer):
            self.show_outcome(counted)
        else:
            self.model.tell("The image of this count is gone; nothing was changed.")

    def show_outcome(self, counted: CountOutcome) -> None:
        """Show a result: its layers, its number, its legend. Call it in the GUI thread."""
        result = counted.result
        already = self._shown_already(counted)
        wanted = set(self.choices.outputs) - already
        shown = place(self.viewer, {name: one for name, one in counted.layers.items() if name in wanted})
        if not self._is_same_with_more(counted):
            self.edited.forget()
        self._remove_unticked(counted)
        self._stand(counted)
        if not (counted.request.source.is_preview or already or self.edited.layer):
            tell_results(self.viewer, result, shown.get("Labels", shown.get("Points")), self)

    def _stand(self, counted: CountOutcome) -> None:
        """Take a count, whose layers are there, for the one that the panel tells of."""
        self.model.outcome = counted
        remember(self.viewer, counted)
        self._show_number()
        self.panel.save.setEnabled(True)
        self.panel.correct.setEnabled(counted.result.gives == "instances")
        self.model.outcome_changed.emit(counted)

    def _show_number(self) -> None:
        if self.model.outcome is not None and isalive(self):  # type: ignore[no-untyped-call]
            self._elsewhere = self._where_counted(self.model.outcome)
            card = card_of(self.model.outcome, preferences().unit, self.edited.table, self._elsewhere)
            self.panel.show_count(*card)

    def _tell_where_counted(self, _: object = None) -> None:
        """Tell beside the number whose it is once its image is closed, or another one is chosen."""
        counted = self.model.outcome
        if counted is not None and self._elsewhere != self._where_counted(counted):
            self._show_number()
            if self._elsewhere and not self.jobs.is_busy:
                self.model.tell("")  # notices of that count

    def _where_counted(self, counted: CountOutcome) -> str:
        """Return where the image of a count is; '' where it is the one that is chosen."""
        if layer_of_id(self.viewer, counted.request.source.layer_id) is None:
            return "which is closed"
        chosen = self.panel.image.layer
        if chosen is not None and str(chosen.unique_id) == counted.request.source.layer_id:
            return ""
        return "not of the image above"

    def _is_same_with_more(self, counted: CountOutcome) -> bool:
        """Return whether a count is the one that is shown, perhaps with more cells that were clicked."""
        before = self.model.outcome
        if before is None:
            return False
        if before.result is counted.result:
            return True
        now, then = counted.result.provenance, before.result.provenance
        has_more = bool(now.settings.get(ASKED, 0) > then.settings.get(ASKED, 0))
        is_here = counted.request.source.key == before.request.source.key
        return has_more and is_here and is_same_count(now, then)

    def _shown_already(self, counted: CountOutcome) -> set[str]:
        """Return the outputs whose layers need no change, edited or not, since only ticks were changed."""
        before = self.model.outcome
        if before is None or before.result is not counted.result:
            return set()
        key = counted.request.source.key
        return {one for one in before.request.outputs if layers_with(self.viewer, {**key, "output": one})}

    def _remove_unticked(self, counted: CountOutcome) -> None:
        """Take away the layers of a count that are not wanted; those of other models stay."""
        own = {**counted.request.source.key, "model": counted.result.provenance.model}
        for output in OUTPUTS_OF[registry.get(counted.request.family).gives]:
            if output not in self.choices.outputs:
                remove(self.viewer, {**own, "output": output})

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
        model = counted.request.model
        if isinstance(model, tuple):
            model = model[0]
        hand_over(self.viewer, ANNOTATE, HandOver(image, cells, str(model)))

    def _on_sent(self, panel: str, what: HandOver) -> None:
        if panel == COUNT:
            choose_layer(self.panel.image, what.image)
            choose(self.panel.model, what.model)
            if what.begins:
                self._begin(what.model)

    def _begin(self, model: str) -> None:
        """Count the chosen image with a model that another panel has sent, and tell which image that is."""
        if self.jobs.is_busy:
            self.model.tell("A count is running. Press Count cells when it has ended.", is_warning=True)
            return
        if self.panel.model.model_name != model:
            self.model.tell(
                f"Model {model!r} is not in the list any more. Choose another one.", is_warning=True
            )
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

    def _show_family(self, family: str) -> None:
        if registry.get(family).gives != "instances":
            self.panel.ask.setChecked(False)
        self.panel.show_family(registry.get(family))
        self.panel.thresholds.changed.connect(self._update)
        self.panel.filters.changed.connect(self._update)
        for form in (self.panel.thresholds, self.panel.filters, self.panel.engine):
            form.changed.connect(self.panel.message.forget_error)

    def _on_colours_clicked(self) -> None:
        with telling(self.model.fail):
            show_colours(self.viewer, self.choices.inputs().source(), self.choices.engine)
