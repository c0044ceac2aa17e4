"""The count widget: one press of a button from an image layer to outlined cells and their number."""

from dataclasses import replace
from typing import TYPE_CHECKING

from napari.layers import Image as ImageLayer
from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QVBoxLayout, QWidget

from cellwright.core.errors import CellwrightError, WrongLayerError
from cellwright.models import registry
from cellwright.widgets.count.agreement import AgreementCheck
from cellwright.widgets.count.calibrate import CalibrateTool
from cellwright.widgets.count.colour_preview import show_colours
from cellwright.widgets.count.context import CountToolContext
from cellwright.widgets.count.count_request import (
    CountOutcome,
    Request,
    can_recount,
    count_task,
    recount_task,
)
from cellwright.widgets.count.point_prompt import PointPromptTool
from cellwright.widgets.count.save import SaveTool
from cellwright.widgets.count.view import CountPanel
from cellwright.widgets.shared.drawing import ask_for_line, ask_for_region, region_layer
from cellwright.widgets.shared.jobs import Job
from cellwright.widgets.shared.layer_io import Source, Window, image_layer, remove, source_of
from cellwright.widgets.shared.regions import (
    PREVIEW_PX,
    PREVIEW_SLICES,
    through_slices,
    window_in_view,
    window_of_rectangle,
)

if TYPE_CHECKING:
    import napari.viewer


class CountWidget(QWidget):
    """Counts the cells of an image layer and shows them as layers.

    Parameters
    ----------
    napari_viewer
        The viewer it is docked in.
    """

    finished = Signal()  # a count has ended, well or not

    def __init__(self, napari_viewer: "napari.viewer.Viewer") -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.panel = CountPanel(self)
        self.context = context = CountToolContext(napari_viewer, self.panel)
        self.choices, self.runner, self.retuner = context.choices, context.runner, context.live_updater
        self.agreement = AgreementCheck()
        self._has_been_shown = False
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.panel)
        self.ask, self.calibrate = PointPromptTool(context), CalibrateTool(context)
        self.save = SaveTool(context)
        self._follow_forms()
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
        self.runner.failed.connect(self.context.show_error)
        self.runner.finished.connect(self._on_runner_finished)
        self.choices.family_changed.connect(self._on_family_changed)
        self.choices.failed.connect(self.context.show_error)
        self.retuner.retuned.connect(self.context.show_counted)
        self.retuner.failed.connect(self.context.show_error)

    @property
    def job(self) -> Job | None:
        """What runs now: a count, or what one of the tools asked for."""
        return self.runner.job

    @property
    def counted(self) -> CountOutcome | None:
        """The last count, as it is shown now."""
        return self.context.counted

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
                self.context.settings,
                self.context.engine,
                self.context.outputs,
                choices.classifier,
                choices.family,
            )
        except CellwrightError as error:
            self.context.show_error(error)
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
        self.context.show_counted(counted)
        notices = [*counted.result.notices, *self.agreement.add(counted)]
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
            or self.context.is_showing_settings
            or self.runner.is_busy
            or counted.request.family != self.choices.family
        ):
            return  # sliders and ticks may now belong to another family
        request = counted.request
        self.context.remove_unticked(counted)
        settings, classifier = self.context.settings, self.choices.classifier
        if settings != request.settings and not can_recount(counted):
            self.panel.show_message("The new thresholds will be used by the next count.")
            settings = request.settings
        wanted = replace(request, settings=settings, outputs=self.context.outputs, classifier=classifier)
        if wanted != request or self.retuner.is_busy:
            self.retuner.request(lambda: recount_task(counted, wanted))

    def _on_measure_clicked(self) -> None:
        try:
            layer = image_layer(self.choices.layer)
        except CellwrightError as error:
            self.context.show_error(error)
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

    def _on_family_changed(self, family: str) -> None:
        self.context.show_family(family)
        self._follow_forms()

    def _follow_forms(self) -> None:
        for form in (self.panel.thresholds, self.panel.filters):
            form.changed.connect(self._retune)

    def _on_colours_clicked(self) -> None:
        try:
            show_colours(self.viewer, self.choices.layer, self.choices.channel)
        except CellwrightError as error:
            self.context.show_error(error)
