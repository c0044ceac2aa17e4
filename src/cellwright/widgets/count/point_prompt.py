"""Asking by click: is there a cell here? Where there is, it is added to the cells of the last count."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from qtpy.QtCore import QObject

from cellwright.core.data import Image
from cellwright.core.errors import CellwrightError, WrongLayerError
from cellwright.core.tasks import Progress, Task
from cellwright.models import registry, store
from cellwright.widgets.count.count_request import CountOutcome, Request, show_task
from cellwright.widgets.count.prompt_context import (
    PromptContext,
    PromptPoint,
    covering,
    empty_result,
    with_cell,
)
from cellwright.widgets.shared.layer_io import Source, image_layer, source_of

if TYPE_CHECKING:
    from cellwright.inference.point_prompt import PointPredictor, PromptedCell
    from cellwright.widgets.count.widget import CountWidget

CLICK_PX = 4  # a mouse that moves further on the screen between press and release drags
ASKED = "asked_cells"  # in the settings of the provenance: how many cells were added by click


class PointPromptTool(QObject):
    """While its button is down, clicks on the image ask the model.

    The network looks at the image once, beside the viewer; clicks after that are answered at once.

    Parameters
    ----------
    widget
        Whose cells are added to.
    """

    def __init__(self, widget: "CountWidget") -> None:
        super().__init__(widget)
        self._widget, self._viewer = widget, widget.viewer
        self._subject: PromptContext | None = None
        self._questions: PointPredictor | None = None
        self._pending: list[tuple[PromptPoint, PromptedCell]] = []
        widget.panel.ask.toggled.connect(self._on_ask_toggled)
        widget.counted_changed.connect(self._add_pending)

    def _on_ask_toggled(self, is_on: bool) -> None:  # noqa: FBT001 - Qt calls it
        callbacks = self._viewer.mouse_drag_callbacks
        if not is_on:
            self._subject = self._questions = None
            if self._on_mouse_drag in callbacks:
                callbacks.remove(self._on_mouse_drag)
            return
        try:
            layer = image_layer(self._widget.choices.layer)
            subject = self._subject_at(layer, self._spot(layer, self._viewer.dims.point).frame)
        except CellwrightError as error:
            self._widget.panel.ask.setChecked(False)
            self._widget.show_error(error)
            return
        self._viewer.layers.selection.active = layer  # so that a click paints or adds nothing else
        callbacks.append(self._on_mouse_drag)
        self._prepare(subject, None)

    def _on_mouse_drag(self, _: Any, event: Any) -> Iterator[None]:
        start = np.array(event.pos)
        yield
        while event.type == "mouse_move":
            yield
        if np.linalg.norm(np.array(event.pos) - start) <= CLICK_PX:
            self.ask(event.position)

    def ask(self, position: Any) -> None:
        """Ask at a place of the world: add the cell there, or tell how unlikely there is one."""
        if self._widget.runner.is_busy:
            return
        try:
            layer = image_layer(self._widget.choices.layer)
            spot = self._spot(layer, position)
            subject = self._subject_at(layer, spot.frame)
            if self._questions is None or self._subject is None or subject.key != self._subject.key:
                self._prepare(subject, spot)
            else:
                self._answer(self._questions, spot)
        except CellwrightError as error:
            self._widget.show_error(error)

    def _prepare(self, subject: PromptContext, spot: PromptPoint | None) -> None:
        """Have the network look at the frame, then answer at the spot, if there is one."""

        def on_returned(questions: "PointPredictor") -> None:
            self._subject, self._questions = subject, questions
            if spot is None:
                self._widget.panel.show_message("Click on the image: is there a cell?")
            else:
                self._answer(questions, spot)

        self._widget.runner.start(questions_task(subject, spot), on_returned)

    def _answer(self, questions: "PointPredictor", spot: PromptPoint) -> None:
        task = questions.encode(spot.point)
        if next(task, None) is not None:  # a part of a large image that the network has not seen
            self._widget.runner.start(encode_task(questions, spot), lambda _: self._answer(questions, spot))
            return
        probability = float(questions.probability(spot.point[np.newaxis])[0])
        cell = questions.cell_at(spot.point)
        if cell is None:
            self._tell(f"No cell here: probability {probability:.2f}.")
            return
        known = self._known(spot, cell)
        if known:
            self._tell(f"This is cell {known} already: probability {probability:.2f}.")
            return
        self._pending.append((spot, cell))
        self._tell(f"Cell added: probability {probability:.2f}.")
        self._add_pending()

    def _known(self, spot: PromptPoint, cell: "PromptedCell") -> int:
        """Return the number of the counted cell that covers most of the answered one, else 0."""
        counted = self._counted()
        return covering(counted.result.cells, spot, cell) if counted else 0

    def _add_pending(self, _: object = None) -> None:
        if self._pending and self._subject is not None:
            self._widget.retuner.request(self._added_task)

    def _added_task(self) -> Task[CountOutcome]:
        assert self._subject is not None
        pending, self._pending = self._pending, []
        counted = self._counted() or self._nothing_counted(self._subject)
        return added_task(counted, pending)

    def _tell(self, text: str) -> None:
        self._widget.panel.show_message(text)
        self._viewer.status = text

    def _counted(self) -> CountOutcome | None:
        """Return the last count where its cells can be added to: of this image, and no preview."""
        counted = self._widget.counted
        if counted is None or counted.request.source.is_preview:
            return None
        layer = self._widget.choices.layer
        is_here = layer is not None and counted.request.source.layer_id == str(layer.unique_id)
        has_cells = registry.get(counted.request.family).gives == "instances"
        return counted if is_here and has_cells else None

    def _source(self, layer: ImageLayer) -> Source:
        counted = self._counted()
        if counted is not None:
            return counted.request.source
        return source_of(layer, self._widget.choices.channel)

    def _spot(self, layer: ImageLayer, position: Any) -> PromptPoint:
        if self._viewer.dims.ndisplay != 2:
            raise WrongLayerError(
                "Clicks ask in the 2D view; the viewer now shows 3D. Leave the 3D view, then click."
            )
        source, channel = self._source(layer), self._widget.choices.channel
        place = np.asarray(layer.world_to_data(np.asarray(position)[-layer.ndim :]), float)
        if channel is not None and channel.axis is not None:
            place = np.delete(place, channel.axis)
        place -= np.asarray(source.offset)
        return PromptPoint(tuple(int(i) for i in np.rint(place[:-2])), place[-2:])

    def _subject_at(self, layer: ImageLayer, frame: tuple[int, ...]) -> PromptContext:
        source = self._source(layer)
        return PromptContext(source, self._model(source.image), self._widget.engine, frame)

    def _model(self, image: Image) -> str:
        """Return the chosen model where it can be asked, else the first that can: query, of volumes flow."""
        family = "flow" if "Z" in image.axes else "query"
        choices = self._widget.choices
        if choices.family == family:
            return choices.model
        return next((entry.name for entry in store.models() if entry.spec.family == family), choices.model)

    def _nothing_counted(self, subject: PromptContext) -> CountOutcome:
        family = self._widget.choices.family
        request = Request(
            subject.source,
            self._widget.choices.model,
            self._widget.settings,
            subject.engine,
            self._widget.outputs,
            family=family,
        )
        has_labels = "Labels" in registry.get(family).returns
        return CountOutcome(request, empty_result(subject, has_labels=has_labels), {})


def questions_task(subject: PromptContext, spot: PromptPoint | None) -> Task["PointPredictor"]:
    """Return questions about a frame that the network has looked at; imports torch in its own thread."""
    yield Progress("load", 0, 1)
    from cellwright.inference.point_prompt import PointPredictor

    questions = PointPredictor(
        subject.source.image, subject.model, engine=subject.engine, frame=subject.frame
    )
    yield from questions.encode(None if spot is None else spot.point)
    return questions


def encode_task(questions: "PointPredictor", spot: PromptPoint) -> Task[None]:
    """Have the network look at the part of the frame around a spot."""
    yield from questions.encode(spot.point)


def added_task(counted: CountOutcome, found: list[tuple[PromptPoint, "PromptedCell"]]) -> Task[CountOutcome]:
    """Return a count with more cells; new thresholds need a new count then, or they would lose them."""
    yield Progress("ask", 0, 1)
    result = counted.result
    n_before = len(result.cells)
    cells = result.cells
    for spot, cell in found:
        cells = with_cell(cells, spot, cell)
    n_asked = result.provenance.settings.get(ASKED, 0) + len(cells) - n_before
    provenance = replace(result.provenance, settings={**result.provenance.settings, ASKED: n_asked})
    more = replace(result, count=float(len(cells)), cells=cells, provenance=provenance)
    return (yield from show_task(counted.request, more))
