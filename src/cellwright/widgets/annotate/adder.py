"""Adds cells by clicks and boxes, of the mouse or of a layer of points or shapes.

The model outlines what is there; where it sees nothing, a disc is drawn, or the ellipse in the box.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Points, Shapes
from numpy.typing import NDArray
from qtpy.QtCore import Signal

from cellwright.annotation.session import DISC_PX, AnnotationSession
from cellwright.core.errors import AnnotationError, CellwrightError
from cellwright.core.tasks import Task
from cellwright.inference.settings import EngineSettings
from cellwright.models import store
from cellwright.ops.codecs.prompts import Prompts
from cellwright.ops.geometry.boxes import box_around
from cellwright.ops.label_changes import Box
from cellwright.widgets.annotate.layer import AnnotationLayer
from cellwright.widgets.shared.coordinates import Channel, axis_of, in_pixels_in_sight
from cellwright.widgets.shared.jobs import Job
from cellwright.widgets.shared.layer_factory import texts_of
from cellwright.widgets.shared.layer_io import Source, image_of
from cellwright.widgets.shared.napari_private import preferences
from cellwright.widgets.shared.point_prompt import (
    MOST_KNOWN,
    NEGATIVE,
    NEXT,
    POSITIVE,
    PROMPT_KEYS,
    PromptContext,
    Prompter,
    PromptPoint,
    Wish,
    description_of,
    prompt_model,
    who_answers,
    yx,
)

if TYPE_CHECKING:
    from cellwright.inference.point_prompt import PointPredictor, PromptedCell

N_CORNERS = 41  # of a circle that is shown
SAMPLE = 200  # cells whose size tells that of a disc


class Adder(Prompter):
    """Adds cells where they are prompted for."""

    done = Signal(str)  # what was done, for people

    def __init__(self, view: AnnotationLayer, source: Source) -> None:
        super().__init__(None, view.viewer, view.in_layer)
        self._viewer, self._session, self._source = view.viewer, view.session, source
        self.draft.move_to(view.layer)
        self._n_wished = 0  # of the wishes that wait, before the first was granted
        self.channel: int | None = None
        self.diameter_px = 0.0
        self.uses_model = True
        self.model = ""  # name or folder of the one to ask, where it can be asked

    def close(self) -> None:
        """Ask what runs to stop; its answer is not used, and what was not kept is dropped."""
        self._wishes.clear()
        self.draft.move_to(None)
        if self.job is not None:
            self.job.cancel()

    # -- one cell, prompt by prompt -----------------------------------------------------------------------

    def prompt(self, points: NDArray[np.float64], said: str = POSITIVE) -> None:
        """Take a click (1, D) or the corners of a box (2, D), in pixels of the session."""
        if said == NEXT and len(points) == 1:
            self.keep()
        prompted = [PromptPoint(tuple(int(i) for i in np.rint(one[:-2])), one[-2:]) for one in points]
        pixel, is_click = np.rint(points[0]), len(points) == 1
        if is_click and ((pixel < 0) | (pixel >= self._session.labels.shape)).any():
            return
        try:
            if not is_click and self._viewer.dims.ndisplay == 3:
                raise AnnotationError(
                    "Boxes are drawn in the 2D view; the viewer shows 3D. Leave the 3D view."
                )
            self.draft.add(prompted, self._session.labels.shape[-2:], is_positive=said != NEGATIVE)
        except CellwrightError as error:
            self.failed.emit(error)
            return
        if self.uses_model:
            self._ask()
        else:
            self.keep()  # there is nothing to correct

    def takes(self, key: str) -> bool:
        """Do what a key means for the cell that is prompted for; return whether there is one."""
        if key == "cancel" and any(wish.is_kept for wish in self._wishes):
            self._wishes.clear()
            self.done.emit("Stopped; what was added stays.")
        elif self.draft.prompts is None or key not in ("accept", "reject", "cancel", "undo"):
            return False
        elif key == "accept":
            self.keep()
        elif key == "undo":
            self.undo()
        else:
            self.drop()
        return True

    def keep(self) -> None:
        """Add the cell that is prompted for, at once or when the network has looked."""
        prompts = self.draft.prompts
        if prompts is None:
            return
        self._forget()
        self.add_each([Wish(self.draft.frame, prompts)])

    def drop(self) -> None:
        """Forget what is prompted for."""
        self._forget()
        self.done.emit("Dropped.")

    def _forget(self) -> None:
        self._wishes = [wish for wish in self._wishes if wish.is_kept]
        self.draft.clear()

    # -- cells that are added at once ---------------------------------------------------------------------

    def add_each(self, wishes: Sequence[Wish]) -> None:
        """Add a cell for each of these, one after another; those that are there already stay as they are."""
        self._wishes += wishes
        self._n_wished = len(self._wishes)
        self._go_on()

    def _answer_alone(self, wish: Wish) -> bool:
        """Tell of the cell that is there already, or draw one where the model is not to be asked."""
        known = 0
        if wish.prompts.is_click:
            known = self._session.store.number_at([*wish.frame, *wish.prompts.positive[0]])
        if not known and self.uses_model:
            return False
        self._wishes.pop(0)
        if known:
            if not wish.is_kept:
                self._forget()
            self.done.emit(f"This is already cell {known}.")
        else:
            self._grant(wish, None)
        return True

    def _run(self, task: Task["PointPredictor"], context: PromptContext) -> None:
        n_left = len(self._wishes)
        if n_left > 1:
            self.done.emit(f"Cell {self._n_wished - n_left + 1} of {self._n_wished}; Esc stops.")
        else:
            who = who_answers(context.model, self.model)
            self.done.emit(f"{Path(context.model).name} looks at the image …{who}")
        keep = partial(self._predictors.__setitem__, context.key)
        self.job = Job(task, self).start(returned=keep, failed=self._fail, finished=self._on_job_finished)

    def _on_job_finished(self) -> None:
        self.job = None
        self._go_on()

    def _answer(self, wish: Wish, cell: "PromptedCell | None", _: PromptContext) -> None:
        if cell is not None and wish.prompts.is_click and self._covers(cell, wish):
            cell = None
        self._grant(wish, cell)

    def _grant(self, wish: Wish, cell: "PromptedCell | None") -> None:
        """Show the cell of a draft, or add one that was kept; for None a disc, or the ellipse in a box."""
        if wish.is_kept:
            self._add(wish, cell)
            return
        if wish.prompts is not self.draft.prompts:
            return  # changed since
        drawn = "An ellipse" if wish.prompts.box is not None else "A disc"
        text = f"{drawn} is drawn; {self._why_drawn}. {PROMPT_KEYS}"
        if cell is not None:
            text = description_of(cell, self._model())
        self.draft.answer(cell, self._outlines(wish.prompts, cell))
        self.done.emit(text)

    def _add(self, wish: Wish, cell: "PromptedCell | None") -> None:
        prompts = wish.prompts
        try:
            if cell is not None:
                corner = (*wish.frame, *cell.box[0].tolist())
                number = self._session.add(cell.mask, corner, score=cell.score)
                self.done.emit(
                    f"Added cell {number}, outlined by {Path(self._model()).name} ({cell.score:.2f})."
                )
            elif prompts.box is None:
                diameter = self._diameter
                point = np.array([*wish.frame, *prompts.positive[0]], float)
                number = self._session.add_disc(point, diameter)
                self.done.emit(f"Added cell {number} as a disc of {diameter:.0f} px; {self._why_drawn}.")
            else:
                mask, corner = ellipse_in(prompts)
                number = self._session.add(mask, (*wish.frame, *corner))
                self.done.emit(f"Added cell {number} as the ellipse in its box; {self._why_drawn}.")
            if wish.class_name:
                self._session.set_classes({number: wish.class_name})
        except AnnotationError as error:
            self.failed.emit(error)

    @property
    def _diameter(self) -> float:
        return self.diameter_px or median_diameter(self._session)

    @property
    def _why_drawn(self) -> str:
        return "the model sees none" if self.uses_model else "the model was not asked"

    def _outlines(self, prompts: Prompts, cell: "PromptedCell | None") -> list[NDArray[Any]]:
        if cell is not None:
            return list(cell.outlines)
        angles = np.linspace(0, 2 * np.pi, N_CORNERS)
        circle = np.stack([np.sin(angles), np.cos(angles)], axis=1)
        middle, sides = np.array(prompts.positive[:1]), np.full(2, self._diameter)
        if prompts.box is not None:
            middle, sides = prompts.corners.mean(axis=0), np.array(prompts.sides)
        return [middle + circle * sides / 2]

    def _covers(self, cell: "PromptedCell", wish: Wish) -> bool:
        """Return whether the model took the point for part of cells that are there."""
        rows, columns = (slice(int(a), int(b)) for a, b in cell.box.T)
        box: Box = (*(slice(i, i + 1) for i in wish.frame), rows, columns)
        known = self._session.labels[box].reshape(cell.mask.shape) > 0
        return bool(known[cell.mask].mean() > MOST_KNOWN)

    def _context_for(self, frame: tuple[int, ...]) -> PromptContext:
        device = preferences().device
        engine = EngineSettings(channel=self.channel, diameter_px=self.diameter_px, device=device)
        return PromptContext(self._source, self._model(), engine, frame)

    def _model(self) -> str:
        families = {entry.name: entry.spec.family for entry in store.models()}
        return prompt_model(self._source.image, self.model, families.get(self.model, ""))


def wishes_of(
    layer: Points | Shapes, image_layer: ImageLayer, channel: Channel | None, in_sight: NDArray[np.float64]
) -> list[Wish]:
    """Return a wish for each point, or for the box around each shape, with its class.

    A layer without slices means the slice in sight, where the viewer stands in the axes of the world.

    AnnotationError where one lies beyond the image.
    """
    axis = axis_of(channel)
    shape = image_of(image_layer, channel).label_shape
    wishes, names = [], [""] * len(layer.data)
    if "class" in layer.features:
        names = texts_of(layer.features["class"])
    for place, one in enumerate(layer.data):
        corners = in_pixels_in_sight(np.atleast_2d(one), layer, image_layer, axis, in_sight)
        middle = corners.mean(axis=0)
        if np.any(middle < -0.5) or np.any(middle >= np.array(shape) - 0.5):
            raise AnnotationError(
                f"Points and shapes to outline must lie in the image; number {place + 1} of {layer.name!r} "
                "does not. Move or remove it."
            )
        frame = tuple(int(i) for i in np.rint(middle[:-2]))
        if len(corners) == 1:
            prompts = Prompts((yx(middle),))
        else:
            edge = np.array(shape[-2:]) - 0.5
            low, high = np.clip(box_around(corners)[:, -2:], -0.5, edge)
            prompts = Prompts(box=(yx(low), yx(high)))
        wishes.append(Wish(frame, prompts, class_name=names[place]))
    return wishes


def ellipse_in(prompts: Prompts) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """Return the ellipse in a box as a mask, and where its first pixel lies."""
    first, last = np.floor(prompts.corners + 0.5).astype(int)
    last = np.maximum(last, first + 1)
    rows, columns = np.mgrid[first[0] : last[0], first[1] : last[1]]
    mask = prompts.from_middle(rows, columns) <= 1
    mask[mask.shape[0] // 2, mask.shape[1] // 2] = True
    return mask, (int(first[0]), int(first[1]))


def median_diameter(session: AnnotationSession) -> float:
    """Return the middle diameter of the cells in pixels; that of a disc where there are none.

    Of a time series it is that of cells where they begin: the box of all frames holds the way of a cell, too.
    """
    numbers = session.store.numbers()[:: max(len(session.store) // SAMPLE, 1)].tolist()
    boxes = [session.store.first_part(number)[1] for number in numbers]
    sides = [part.stop - part.start for box in boxes for part in box[-2:]]
    if not sides:
        return DISC_PX
    return float(np.median(sides))
