"""Asking by click: is there a cell here? Where there is, it is added to the cells of the last count."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer
from numpy.typing import NDArray
from qtpy.QtWidgets import QAbstractButton

from cellwright.core.data import Cells
from cellwright.core.errors import CellwrightError, QueryError, WrongLayerError
from cellwright.core.tasks import Task
from cellwright.models import registry
from cellwright.widgets.count.model import CountModel, CountOutcome
from cellwright.widgets.count.prompted_cells import (
    Frame,
    add_to,
    added_task,
    covering,
    empty_result,
    number_in,
    with_prompted_cell,
)
from cellwright.widgets.count.shown import OUTPUTS, EditedCells
from cellwright.widgets.shared.coordinates import axis_of, in_shape, pixel_at
from cellwright.widgets.shared.jobs import debouncer
from cellwright.widgets.shared.layer_io import Source, image_layer
from cellwright.widgets.shared.messages import telling
from cellwright.widgets.shared.point_prompt import (
    LEFT,
    NEGATIVE,
    NEXT,
    PromptContext,
    Prompter,
    PromptPoint,
    Wish,
    description_of,
    n_pieces,
    predictor_task,
    prompt_drag,
    prompt_model,
    who_answers,
)
from cellwright.widgets.shared.style import bound_key

if TYPE_CHECKING:
    from cellwright.inference.point_prompt import PointPredictor, PromptedCell
    from cellwright.ops.codecs.prompts import Prompts

NOT_COUNTED = (
    "Nothing was counted here. Click inside the image and the regions, or count in more of it first."
)
OTHER_PIXELS = "The image was given other pixels since its cells were counted. Count again, then click."
NO_CELL_THERE = "The model sees no cell for these points."
KNOWN = "This is already cell {}: score {:.2f}."
STAYS = "What was prompted for before stays."
WAIT_MS = 50  # between looks whether the model is free for clicks that wait


class PointPromptTool(Prompter):
    """While its button is down, clicks and boxes on the image prompt the model for a cell.

    The network looks at the image once, beside the viewer; clicks after that are answered at once. The cell
    is shown as it would be; Enter adds it to those of the count, in every layer that shows
    them: to those that were changed by hand as if by hand.
    """

    def __init__(self, model: CountModel, edited: EditedCells, button: QAbstractButton) -> None:
        super().__init__(button, model.viewer, self._in_layer)
        self._model, self._viewer, self._button = model, model.viewer, button
        self._edited = edited
        self._context: PromptContext | None = None
        self._layer: ImageLayer | None = None  # whose mouse and keys are ours
        self._pending: list[tuple[Frame, PromptedCell]] = []
        self._waiting: list[Callable[[], None]] = []  # what is done once the network has looked at the image
        self._soon = debouncer(self, WAIT_MS, self._act)
        button.toggled.connect(self._on_ask_toggled)
        model.outcome_changed.connect(self._add_pending)
        self.failed.connect(model.fail)

    # -- mouse and keys -----------------------------------------------------------------------------------

    def _on_ask_toggled(self, is_on: bool) -> None:  # noqa: FBT001 - Qt calls it
        if not is_on:
            self._context = None
            self._predictors.clear()
            self._wishes.clear()
            self._waiting.clear()
            if self._on_mouse_drag in self._viewer.mouse_drag_callbacks:
                self._viewer.mouse_drag_callbacks.remove(self._on_mouse_drag)
            self._take(None)
            self._model.tell("")  # how cells are added
            return
        try:
            layer = image_layer(self._model.inputs().layer)
            context = self._context_at(layer, self._point_at(layer, self._viewer.dims.point).frame)
        except CellwrightError as error:
            self._button.setChecked(False)
            self._model.fail(error)
            return
        self._viewer.mouse_drag_callbacks.append(self._on_mouse_drag)
        self._take(layer)
        self._run(predictor_task(context, None), context)

    def _take(self, layer: ImageLayer | None) -> None:
        """Listen to the mouse and keys of this image from now on; what was not kept of another is dropped."""
        if self._layer is not None:
            self._layer.mouse_pan = True
            for key in self._keys():
                self._layer.bind_key(key, None)
        self._layer = layer
        self.draft.move_to(layer)
        if layer is None:
            return
        self._viewer.layers.selection.active = layer  # so that a click paints or adds nothing else
        layer.mouse_pan = False  # a drag draws a box
        for key, act in self._keys().items():
            layer.bind_key(key, act, overwrite=True)

    def _keys(self) -> dict[str, Callable[[Any], Any]]:
        return {
            "Enter": lambda _: self.keep(),
            "Escape": lambda _: self.drop(),
            bound_key("Control-Z"): lambda _: self.undo(),
            "Space": self._hold,
        }

    def _hold(self, layer: Any) -> Iterator[None]:
        layer.mouse_pan = True
        yield
        layer.mouse_pan = self._layer is None

    def _on_mouse_drag(self, _: Any, event: Any) -> Iterator[None] | None:
        is_moving = self._layer is not None and self._layer.mouse_pan
        if is_moving or getattr(event, "button", LEFT) != LEFT:
            return None
        return prompt_drag(event, lambda one: np.asarray(one.position, float), self._draw, self._on_prompted)

    def _draw(self, corners: NDArray[np.float64] | None) -> None:
        layer = self._layer
        if layer is None:
            return
        if corners is None:
            self.draft.show()
            return
        with suppress(CellwrightError):  # told once the mouse is released
            points = [self._point_at(layer, corner) for corner in corners]
            self.draft.show_box(points, self._source(layer).image.label_shape[-2:])

    def _on_prompted(self, places: NDArray[np.float64], said: str) -> None:
        if len(places) > 1:
            self.box(*places)
            return
        if said == NEXT:
            self.keep()
        self.ask(places[0], is_positive=said != NEGATIVE)

    # -- prompts ------------------------------------------------------------------------------------------

    def ask(self, position: Any, *, is_positive: bool = True) -> None:
        """Prompt at a place of the world: the cell is there, or is not; tell where there is none."""
        self._do(lambda: self._prompt([position], is_positive=is_positive))

    def box(self, first: Any, last: Any) -> None:
        """Prompt for the cell in a box between two places of the world."""
        self._do(lambda: self._prompt([first, last], is_positive=True))

    def keep(self) -> None:
        """Add the cell that is prompted for to the count."""
        self._do(self._keep)

    def drop(self) -> None:
        """Forget what is prompted for."""
        self._waiting.clear()
        if self.draft.prompts is not None:
            self.draft.clear()
            self._tell("Dropped.")

    def undo(self) -> None:
        """Take the last prompt back."""
        self._do(super().undo)

    def _do(self, act: Callable[[], None]) -> None:
        """Act at once, or when what runs now has ended, in the order of the calls."""
        self._waiting.append(act)
        self._act()

    def _act(self) -> None:
        while self._waiting and not self._model.is_busy:
            self._waiting.pop(0)()
        if self._waiting:
            self._soon.throttle()

    def _prompt(self, positions: list[Any], *, is_positive: bool) -> None:
        with telling(self._model.fail):
            layer = image_layer(self._model.inputs().layer)
            if layer is not self._layer:
                self._take(layer)
            points = [self._point_at(layer, position) for position in positions]
            plane = self._source(layer).image.label_shape[-2:]
            pixel = np.rint(points[0].point)
            if len(points) == 1 and ((pixel < 0) | (pixel >= plane)).any():
                raise QueryError(NOT_COUNTED)
            self.draft.add(points, plane, is_positive=is_positive)
            self._ask()

    def _run(self, task: Task["PointPredictor"], context: PromptContext) -> None:
        if self._model.is_busy:  # with a look that has just ended, while another diameter was set, say
            self._waiting.insert(0, self._go_on)
            self._act()
        else:
            self._model.run(task, partial(self._on_looked, context))

    def _on_looked(self, context: PromptContext, predictor: "PointPredictor") -> None:
        if not self._button.isChecked():  # it was raised meanwhile
            return
        self._context, self._predictors[context.key] = context, predictor
        if self._wishes:
            self._go_on()
            return
        who = who_answers(context.model, self._model.inputs().recipe.models[0])
        self._model.tell(f"Click on a cell that was missed, or drag a box around it.{who}")

    def _answer(self, wish: Wish, cell: "PromptedCell | None", context: PromptContext) -> None:
        """Show the cell that the prompts tell of, or tell why there is none."""
        self._context = context
        if wish.prompts is not self.draft.prompts:
            return  # changed since
        why = self._why_not(wish.prompts, cell, context)
        if cell is not None and not why:
            self.draft.answer(cell, cell.outlines)
            self._tell(description_of(cell, context.model), is_warning=n_pieces(cell) > 1)
            return
        self.draft.undo()
        is_warning = why == NOT_COUNTED
        if self.draft.prompts is not None:
            why = f"{why} {STAYS}"
        self._tell(why, is_warning=is_warning)

    def _why_not(self, prompts: "Prompts", cell: "PromptedCell | None", context: PromptContext) -> str:
        """Return why the answer to prompts is not a cell to be added; empty where it is one."""
        if cell is None and prompts.is_click:
            probability = float(self._predictors[context.key].probability(prompts.positive)[0])
            return f"No cell here: probability {probability:.2f}."
        if cell is None and prompts.box is not None:
            return "The model sees no cell in this box."
        if cell is None:
            return NO_CELL_THERE
        known = self._known(self.draft.frame, cell)
        if known and prompts.is_click:
            return KNOWN.format(known, cell.score)
        counted = self._counted()
        if counted is None or counted.request.regions is None:
            return ""
        source = counted.request.source
        none = Cells.empty(len(source.image.label_axes), np.zeros(source.image.label_shape, np.int32))
        one = with_prompted_cell(none, self.draft.frame, cell)
        if counted.request.regions.membership(one, source.offset).any():
            return ""
        return NOT_COUNTED

    def _keep(self) -> None:
        cell, frame = self.draft.cell, self.draft.frame
        if cell is None:
            return
        known = self._known(frame, cell)
        self.draft.clear()
        if known:
            self._tell(KNOWN.format(known, cell.score))
            return
        self._tell(f"Cell added: score {cell.score:.2f}.")
        self._add(frame, cell)

    def _add(self, frame: Frame, cell: "PromptedCell") -> None:
        """Add a cell to each layer of the count that lacks it: by hand to those that were changed by hand."""
        counted, edited = self._counted(), self._edited_layers()
        for layer in edited:
            assert counted is not None
            if not number_in(layer, counted.request.source, frame, cell):
                add_to(layer, counted.request.source, frame, cell)
        is_found = counted is not None and covering(counted.result.cells, frame, cell)
        if not edited or (self._outputs_as_found() and not is_found):
            self._pending.append((frame, cell))
            self._add_pending()

    def _known(self, frame: Frame, cell: "PromptedCell") -> int:
        """Return the number of the answered cell where every layer of the count has it already, else 0."""
        counted, edited = self._counted(), self._edited_layers()
        if counted is None:
            return 0
        numbers = [number_in(layer, counted.request.source, frame, cell) for layer in edited]
        if not edited or self._outputs_as_found():
            numbers.append(covering(counted.result.cells, frame, cell))
        return numbers[0] if all(numbers) else 0

    def _edited_layers(self) -> list[Layer]:
        counted = self._counted()
        if counted is None:
            return []
        shape = counted.request.source.image.label_shape  # labels of another cannot take cells
        found = filter(None, map(self._edited.layer_of, OUTPUTS))
        return [
            one for one in found if not isinstance(one, Labels) or in_shape(one.data, shape).shape == shape
        ]

    def _outputs_as_found(self) -> tuple[str, ...]:
        """Return what is ticked now and was not changed by hand."""
        return tuple(one for one in self._model.inputs().outputs if self._edited.layer_of(one) is None)

    def _add_pending(self, _: object = None) -> None:
        if self._pending and self._context is not None:
            self._model.update(self._added_task)

    def _added_task(self) -> Task[CountOutcome]:
        assert self._context is not None
        pending, self._pending = self._pending, []
        counted = self._counted() or self._nothing_counted(self._context)
        request = replace(counted.request, outputs=self._model.inputs().outputs)  # as they are ticked now
        return added_task(replace(counted, request=request), pending, self._outputs_as_found())

    def _tell(self, text: str, *, is_warning: bool = False) -> None:
        self._model.tell(text, is_warning=is_warning)
        self._viewer.status = text

    def _in_layer(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points in pixels of what is counted in pixels of the image layer."""
        layer = image_layer(self._model.inputs().layer)
        placed: NDArray[np.float64] = points + np.asarray(self._source(layer).offset)
        axis = axis_of(self._model.inputs().channel)
        if axis is None:
            return placed
        shown = layer.world_to_data(self._viewer.dims.point[-layer.ndim :])[axis]
        return np.insert(placed, axis, shown, axis=1)

    def _counted(self) -> CountOutcome | None:
        """Return the last count where its cells can be added to: of this image, and no preview."""
        counted = self._model.outcome
        if counted is None or counted.request.source.is_preview:
            return None
        layer = self._model.inputs().layer
        is_here = layer is not None and counted.layer_id == str(layer.unique_id)
        if is_here and registry.get(counted.request.family).gives == "instances":
            return counted
        return None

    def _source(self, layer: ImageLayer) -> Source:
        counted = self._counted()
        if counted is not None:
            return counted.request.source
        return replace(self._model.inputs(), layer=layer).source()

    def _point_at(self, layer: ImageLayer, position: Any) -> PromptPoint:
        if self._viewer.dims.ndisplay != 2:
            raise WrongLayerError(
                "Cells are added by click in the 2D view; the viewer shows 3D. Leave the 3D view, then click."
            )
        counted = self._counted()
        if counted is not None and counted.request.source.layer_data is not layer.data:
            raise WrongLayerError(OTHER_PIXELS)
        source, channel = self._source(layer), self._model.inputs().channel
        place = pixel_at(layer, position, axis_of(channel)) - np.asarray(source.offset)
        return PromptPoint(tuple(int(i) for i in np.rint(place[:-2])), place[-2:])

    def _context_for(self, frame: Frame) -> PromptContext:
        return self._context_at(image_layer(self._model.inputs().layer), frame)

    def _context_at(self, layer: ImageLayer, frame: Frame) -> PromptContext:
        source, inputs = self._source(layer), self._model.inputs()
        model = prompt_model(source.image, inputs.recipe.models[0], inputs.family)
        return PromptContext(source, model, inputs.recipe.engine, frame)

    def _nothing_counted(self, context: PromptContext) -> CountOutcome:
        inputs = self._model.inputs()
        recipe = replace(inputs.recipe, classifier="", engine=context.engine)
        has_labels = "Labels" in registry.get(inputs.family).returns
        request = replace(inputs, recipe=recipe).request(context.source)
        return CountOutcome(request, empty_result(context, has_labels=has_labels), {})
