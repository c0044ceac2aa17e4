"""The count widget: one press of a button from an image layer to outlined cells and their number."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from napari.layers import Image as ImageLayer
from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QVBoxLayout, QWidget

from cellwright.core.errors import CellwrightError, WrongLayerError
from cellwright.inference.settings import EngineSettings
from cellwright.models import registry
from cellwright.widgets.count.agreement import Comparison
from cellwright.widgets.count.calibrate import CalibrateTool
from cellwright.widgets.count.colour_preview import show_colours
from cellwright.widgets.count.count_request import (
    CountOutcome,
    Request,
    can_recount,
    count_task,
    interval_line,
    number_text,
    recount_task,
    result_line,
    size_line,
)
from cellwright.widgets.count.live_update import LiveUpdater
from cellwright.widgets.count.point_prompt import PointPromptTool
from cellwright.widgets.count.save import SaveTool
from cellwright.widgets.count.view import CountPanel
from cellwright.widgets.shared.combos import Choices
from cellwright.widgets.shared.drawing import ask_for_line, ask_for_region, region_layer
from cellwright.widgets.shared.job_runner import Runner
from cellwright.widgets.shared.jobs import Job
from cellwright.widgets.shared.layer_factory import legend_of
from cellwright.widgets.shared.layer_io import Source, Window, image_layer, place, remove, source_of
from cellwright.widgets.shared.messages import tell_error
from cellwright.widgets.shared.regions import (
    PREVIEW_PX,
    PREVIEW_SLICES,
    through_slices,
    window_in_view,
    window_of_rectangle,
)

if TYPE_CHECKING:
    import napari.viewer

OUTPUTS_OF = {"instances": ("Labels", "Points", "Shapes"), "density": ("Image",)}


class CountWidget(QWidget):
    """Counts the cells of an image layer and shows them as layers.

    Parameters
    ----------
    napari_viewer
        The viewer it is docked in.
    """

    finished = Signal()  # a count has ended, well or not
    counted_changed = Signal(object)  # Counted, as it is shown now

    def __init__(self, napari_viewer: "napari.viewer.Viewer") -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.panel = CountPanel(self)
        self.choices = Choices(napari_viewer, self.panel)
        self.runner = Runner(self.panel)
        self.retuner = LiveUpdater(self)
        self.counted: CountOutcome | None = None
        self.comparison = Comparison()
        self._has_been_shown = self._is_showing_settings = False
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.panel)
        self._show_family(self.choices.family)
        self.ask, self.calibrate, self.save = PointPromptTool(self), CalibrateTool(self), SaveTool(self)
        self._connect()

    def _connect(self) -> None:
        panel = self.panel
        panel.count.clicked.connect(self._on_count_clicked)
        panel.preview.clicked.connect(self._on_preview_clicked)
        panel.measure.clicked.connect(self._on_measure_clicked)
        panel.save.clicked.connect(self.save.ask)
        panel.colours.clicked.connect(self._on_colours_clicked)
        panel.region.activated.connect(self._on_region_chosen)
        panel.classes.currentIndexChanged.connect(self._retune)
        for box in panel.outputs.values():
            box.toggled.connect(self._retune)
        self.runner.failed.connect(self.show_error)
        self.runner.finished.connect(self._on_runner_finished)
        self.choices.family_changed.connect(self._show_family)
        self.choices.failed.connect(self.show_error)
        self.retuner.retuned.connect(self.show_counted)
        self.retuner.failed.connect(self.show_error)

    @property
    def job(self) -> Job | None:
        """What runs now: a count, or what one of the tools asked for."""
        return self.runner.job

    @property
    def outputs(self) -> tuple[str, ...]:
        """The ticked outputs of the model's family."""
        offered = registry.get(self.choices.family).returns
        return tuple(output for output in offered if self.panel.outputs[output].isChecked())

    @property
    def settings(self) -> Any:
        """The thresholds and filters as the settings of the model's family."""
        return self._settings_type(**self.panel.thresholds.values(), **self.panel.filters.values())

    def show_settings(self, settings: Any) -> None:
        """Put these thresholds and filters into the forms, with nothing counted anew."""
        self._is_showing_settings = True
        for form in (self.panel.thresholds, self.panel.filters):
            form.set_values(asdict(settings))
        self._is_showing_settings = False

    @property
    def engine(self) -> EngineSettings:
        """How the network is to run."""
        channel = self.choices.channel
        return EngineSettings(
            device=self.choices.device,
            channel=channel.index if channel else None,
            diameter_px=self.panel.diameter.value(),
            **self.panel.engine.values(),
        )

    def showEvent(self, event: QShowEvent | None) -> None:
        """Look for devices once the widget is seen."""
        super().showEvent(event)
        if not self._has_been_shown:
            self._has_been_shown = True
            self.choices.find_devices()

    def _on_count_clicked(self) -> None:
        if self.runner.is_busy:
            self.runner.cancel()
            return
        self._start(is_preview=False)

    def _on_preview_clicked(self) -> None:
        self._start(is_preview=True)

    def _start(self, *, is_preview: bool) -> None:
        try:
            source = self._preview_source() if is_preview else self._source()
            choices = self.choices
            request = Request(
                source,
                choices.model,
                self.settings,
                self.engine,
                self.outputs,
                choices.classifier,
                choices.family,
            )
        except CellwrightError as error:
            self.show_error(error)
            return
        self.retuner.forget()
        self.runner.start(count_task(request), self._on_count_returned)

    def _source(self) -> Source:
        layer = image_layer(self.choices.layer)
        region, window = self.panel.region.currentData(), None
        if region == "view":
            window = self._with_context(window_in_view(self.viewer, layer), layer)
        elif region == "drawn":
            shapes = region_layer(self.viewer)
            if shapes is None:
                ask_for_region(self.viewer, layer)
                raise WrongLayerError("Draw a rectangle around the cells first, then count again.")
            window = window_of_rectangle(shapes, layer)
        return source_of(layer, self.choices.channel, window)

    def _with_context(self, window: Window, layer: ImageLayer, n_around: int | None = None) -> Window:
        """Return the window with slices around it, where the family needs them."""
        if not registry.get(self.choices.family).needs_volumes:
            return window
        return through_slices(window, layer, self.choices.channel, n_around)

    def _preview_source(self) -> Source:
        layer = image_layer(self.choices.layer)
        window = self._with_context(window_in_view(self.viewer, layer, PREVIEW_PX), layer, PREVIEW_SLICES)
        return replace(source_of(layer, self.choices.channel, window), is_preview=True)

    def _on_count_returned(self, counted: CountOutcome) -> None:
        source = counted.request.source
        if not source.is_preview:
            remove(self.viewer, {**source.key, "is_preview": True})
        self.show_counted(counted)
        notices = [*counted.result.notices, *self.comparison.add(counted)]
        if not any(str(layer.unique_id) == source.layer_id for layer in self.viewer.layers):
            notices.append(
                f"The image layer {source.image.name!r} was removed while its cells were counted; they are "
                "shown where it was."
            )
        self.panel.show_message(" ".join(notices))

    def _on_runner_finished(self) -> None:
        self._retune()  # what was changed meanwhile
        self.finished.emit()

    def _retune(self, _: object = None) -> None:
        """Bring cells and layers in line with thresholds, ticks and classes, in the background."""
        counted = self.counted
        if (
            counted is None
            or self._is_showing_settings
            or self.runner.is_busy
            or counted.request.family != self.choices.family
        ):
            return  # sliders and ticks may now belong to another family
        request = counted.request
        self._remove_unticked(counted)
        settings, classifier = self.settings, self.choices.classifier
        if settings != request.settings and not can_recount(counted):
            self.panel.show_message("The new thresholds will be used by the next count.")
            settings = request.settings
        wanted = replace(request, settings=settings, outputs=self.outputs, classifier=classifier)
        if wanted != request or self.retuner.is_busy:
            self.retuner.request(lambda: recount_task(counted, wanted))

    def show_counted(self, counted: CountOutcome) -> None:
        """Show a result: its layers, its number, its legend. Call it in the GUI thread."""
        result = counted.result
        place(self.viewer, {name: layer for name, layer in counted.layers.items() if name in self.outputs})
        self.counted = counted
        self._remove_unticked(counted)
        line = result_line(result)
        if counted.request.source.is_preview:
            line = f"preview of the view: {line}"
        details = (interval_line(result), counted.request.source.image.name, size_line(result))
        self.panel.show_count(number_text(result), line, "\n".join(filter(None, details)), legend_of(result))
        self.panel.save.setEnabled(True)
        self.counted_changed.emit(counted)

    def _remove_unticked(self, counted: CountOutcome) -> None:
        """Take away the layers of cells that are not wanted; a density stays when cells come, and they do."""
        for output in OUTPUTS_OF[registry.get(counted.request.family).gives]:
            if output not in self.outputs:
                remove(self.viewer, {**counted.request.source.key, "output": output})

    def _on_measure_clicked(self) -> None:
        try:
            layer = image_layer(self.choices.layer)
        except CellwrightError as error:
            self.show_error(error)
            return
        ask_for_line(self.viewer, layer, self._on_line_measured)
        self.panel.show_message("Draw a line across a typical cell.")

    def _on_line_measured(self, length_px: float) -> None:
        self.panel.diameter.setValue(length_px)
        self.panel.show_message("")

    def _on_region_chosen(self) -> None:
        layer = self.choices.layer
        is_drawn = self.panel.region.currentData() == "drawn"
        if is_drawn and isinstance(layer, ImageLayer) and region_layer(self.viewer) is None:
            ask_for_region(self.viewer, layer)
            self.panel.show_message("Draw a rectangle around the cells, then count.")

    def _show_family(self, family: str) -> None:
        self._settings_type = registry.get(family).settings
        if registry.get(family).gives != "instances":
            self.panel.ask.setChecked(False)
        self.panel.show_family(registry.get(family))
        self.panel.thresholds.changed.connect(self._retune)
        self.panel.filters.changed.connect(self._retune)

    def _on_colours_clicked(self) -> None:
        try:
            show_colours(self.viewer, self.choices.layer, self.choices.channel)
        except CellwrightError as error:
            self.show_error(error)

    def show_error(self, error: Exception) -> None:
        """Tell in the panel what went wrong; what was not foreseen is logged too."""
        tell_error(self.panel, error, "Counting")
