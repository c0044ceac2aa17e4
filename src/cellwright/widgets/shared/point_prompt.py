"""Asking a model by clicks and boxes: what is prompted for, how it is shown, and the tasks that answer it.

A click in a cell begins a draft, which the next prompts correct: further clicks in the cell, clicks with
Shift beside it, a box dragged around it. It becomes a cell when it is kept.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from napari.layers import Layer, Shapes
from numpy.typing import NDArray
from psygnal import Signal
from qtpy.QtCore import QObject
from qtpy.QtCore import Signal as QtSignal
from scipy import ndimage

from cellwright.core.data import Image
from cellwright.core.errors import CellwrightError, QueryError
from cellwright.core.tasks import Progress, Task
from cellwright.inference.settings import EngineSettings
from cellwright.models import store
from cellwright.ops.codecs.prompts import Point, Prompts
from cellwright.ops.codecs.query import check_points
from cellwright.ops.geometry.boxes import corners_of
from cellwright.widgets.shared.jobs import Job
from cellwright.widgets.shared.layer_factory import COLOUR
from cellwright.widgets.shared.layer_io import Source, add_overlay, clear_shapes, screen_px, take_away
from cellwright.widgets.shared.style import with_own_keys

if TYPE_CHECKING:
    from cellwright.inference.point_prompt import PointPredictor, PromptedCell

LEFT = 1  # button of the mouse
CLICK_PX = 4  # a mouse that moves further on the screen between press and release drags
MOST_KNOWN = 0.5  # share of an answered cell that may lie in cells counted before
POSITIVE, NEGATIVE, NEXT = "positive", "negative", "next"  # what a click says
PROMPTS_NAME = "prompts"  # of the layer that shows them
POSITIVE_COLOUR, NEGATIVE_COLOUR = "#2fd06a", "#f2433d"
POINT_PX = 5.0  # radius of a point on the screen
PROMPT_KEYS = with_own_keys(
    "Enter keeps it, Esc drops it. Click: this too; Shift+click: not this; drag: a box; Ctrl+Z: undo."
)

PIECES_KEYS = with_own_keys(
    "Shift+click leaves a piece out, Ctrl+Z undoes the last click, Ctrl+click begins the next cell. "
    "Enter keeps them as one, Esc drops them."
)


def n_pieces(cell: "PromptedCell") -> int:
    """Return how many pieces a cell is in, which do not touch: a click on another cell adds one."""
    return int(ndimage.label(cell.mask, np.ones((3, 3), int))[1])


def description_of(cell: "PromptedCell", model: str) -> str:
    """Return what is told of a cell that a model has outlined."""
    pieces, by = n_pieces(cell), Path(model).name
    if pieces > 1:
        return f"One cell in {pieces} separate pieces, by {by}. {PIECES_KEYS}"
    return f"A cell by {by}, score {cell.score:.2f}. {PROMPT_KEYS}"


class PromptPoint(NamedTuple):
    """A point in an image: index of the frame, and y and x in its pixels."""

    frame: tuple[int, ...]
    point: NDArray[np.float64]


Answer = tuple["PromptedCell | None", Sequence[NDArray[Any]]]  # a cell, and its outlines
NO_ANSWER: Answer = (None, ())


class PromptDraft:
    """The one cell that is prompted for, in a layer of its own: its points, the box, the outline of the cell.

    Its prompts lie in one frame; each of them can be taken back. ``in_layer`` takes points (N, D) in pixels
    of what is counted to pixels of the layer that is prompted in.
    """

    shown = Signal(bool)  # whether a cell is prompted for

    def __init__(self, viewer: Any, in_layer: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> None:
        self._viewer, self._in_layer = viewer, in_layer
        self._below: Layer | None = None  # what is prompted in
        self._marks: Shapes | None = None
        self.frame: tuple[int, ...] = ()
        self.cell: PromptedCell | None = None  # that the model gives for the prompts
        self._outlines: Sequence[NDArray[Any]] = ()  # each (N, 2), of the cell or what stands for it
        self._steps: list[Prompts] = []
        self._answers: list[Answer] = []  # to each of the steps

    @property
    def prompts(self) -> Prompts | None:
        """All prompts so far; None where nothing is prompted for."""
        return self._steps[-1] if self._steps else None

    def move_to(self, layer: Layer | None) -> None:
        """Forget all prompts, and lie upon another layer from now on, or upon none."""
        take_away(self._viewer, self._marks)
        self._below, self._marks = layer, None
        self.clear()

    def add(self, points: Sequence[PromptPoint], shape: tuple[int, ...], *, is_positive: bool = True) -> None:
        """Add a point, or the box between two in place of the one before; it is shown with the answer.

        QueryError where it contradicts the other prompts, or lies beyond the frame, of (Y, X) pixels, or in
        another one; a box is cut off at its edges.
        """
        before, frame = self.prompts, points[0].frame
        if before is not None and frame != self.frame:
            raise QueryError(
                "A cell is prompted for in one slice; got another slice. Keep it by Enter, or drop it by Esc."
            )
        parts: dict[str, Any] = {"positive": (), "negative": (), "box": None}
        if before is not None:
            parts = {name: getattr(before, name) for name in parts}
        if len(points) > 1:
            parts["box"] = _box(points, shape)
        else:
            point = points[0].point
            check_points(point[np.newaxis], (shape[0], shape[1]))
            name = "positive" if is_positive else "negative"
            parts[name] = (*parts[name], yx(point))
        self._steps.append(Prompts(**parts))
        self._answers.append(NO_ANSWER)
        self.frame = frame

    def undo(self) -> None:
        """Take the last prompt back; the cell is that of the others again."""
        del self._steps[-1:], self._answers[-1:]
        self.answer(*(self._answers or [NO_ANSWER])[-1])

    def clear(self) -> None:
        """Forget all prompts."""
        self._steps, self._answers = [], []
        self.answer(*NO_ANSWER)

    def answer(self, cell: "PromptedCell | None", outlines: Sequence[NDArray[Any]] = ()) -> None:
        """Take the cell for the prompts, and show its outlines or those of what stands for it."""
        self.cell, self._outlines = cell, outlines
        if self._steps:
            self._answers[-1] = (cell, outlines)
        self.show()

    def show(self) -> None:
        """Show the prompts as they are now; nothing where nothing is prompted for."""
        self._show(self.frame, self.prompts, self._outlines)
        self.shown.emit(self.prompts is not None)

    def show_box(self, points: Sequence[PromptPoint], shape: tuple[int, ...]) -> None:
        """Show nothing but the box between two points, while it is dragged; QueryError where it is none."""
        self._show(points[0].frame, Prompts(box=_box(points, shape)))

    def _show(
        self, frame: tuple[int, ...], prompts: Prompts | None, outlines: Sequence[NDArray[Any]] = ()
    ) -> None:
        if self._marks is None or self._marks not in self._viewer.layers:
            if prompts is None or self._below is None:
                return
            self._marks = add_overlay(self._viewer, self._below, PROMPTS_NAME, {})
        clear_shapes(self._marks)
        if prompts is None or self._below is None:
            return
        width = 2 * screen_px(self._viewer, self._below)
        for outline in outlines:
            self._add("path", frame, outline, COLOUR, width)
        if prompts.box is not None:
            self._add("rectangle", frame, corners_of(prompts.corners), POSITIVE_COLOUR, width)
        square = np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)]) * POINT_PX * width / 2
        for points, colour in ((prompts.positive, POSITIVE_COLOUR), (prompts.negative, NEGATIVE_COLOUR)):
            for point in points:
                self._add("ellipse", frame, square + point, colour, width, face=colour)

    def _add(
        self,
        kind: str,
        frame: tuple[int, ...],
        points: NDArray[np.floating[Any]],
        colour: str,
        width: float,
        face: str = "transparent",
    ) -> None:
        assert self._marks is not None
        lead = np.broadcast_to(np.array(frame, float), (len(points), len(frame)))
        placed = self._in_layer(np.concatenate([lead, points], axis=1))
        self._marks.add([placed], shape_type=kind, edge_color=colour, edge_width=width, face_color=face)


def _box(points: Sequence[PromptPoint], shape: tuple[int, ...]) -> tuple[Point, Point]:
    """Return the corners of the box between two points, cut off at the edges of the frame."""
    edge = np.array(shape) - 0.5
    first, last = (yx(np.clip(one.point, -0.5, edge)) for one in points)
    return first, last


def yx(place: NDArray[np.float64]) -> Point:
    """Return the last two coordinates of a place (D,), as prompts have them."""
    return float(place[-2]), float(place[-1])


def prompt_drag(
    event: Any,
    point_of: Callable[[Any], NDArray[np.float64] | None],
    draw: Callable[[NDArray[np.float64] | None], None],
    tell: Callable[[NDArray[np.float64], str], None],
) -> Iterator[None]:
    """Follow the mouse from press to release, as napari has it, and tell of a click or a box.

    ``point_of`` tells where an event is, None beside what can be prompted in. ``draw`` is given both corners
    (2, D) of the box while it is dragged, and None at its end; ``tell`` the point (1, D) or both corners, and
    what the click says.
    """
    start, first = np.array(event.pos), point_of(event)
    said = POSITIVE
    if "Shift" in event.modifiers:
        said = NEGATIVE
    elif "Control" in event.modifiers:
        said = NEXT

    def corners() -> NDArray[np.float64] | None:
        last = point_of(event)
        if first is None or last is None or np.linalg.norm(np.array(event.pos) - start) <= CLICK_PX:
            return None
        return np.stack([first, last])

    yield
    while event.type == "mouse_move":
        draw(corners())
        yield
    box = corners()
    draw(None)
    if box is not None:
        tell(box, said)
    elif first is not None:
        tell(first[np.newaxis], said)


@dataclass(frozen=True, slots=True)
class PromptContext:
    """What a model is asked about by click; its answers hold while ``key`` stays the same."""

    source: Source
    model: str
    engine: EngineSettings
    frame: tuple[int, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from others; of pixels which array they are, and their mark where that is known."""
        source = self.source
        pixels = (source.offset, source.image.shape, id(source.layer_data), source.pixels)
        return (source.layer_id, *pixels, self.model, self.engine, self.frame)


def prompt_model(image: Image, chosen: str, family: str) -> str:
    """Return the model that answers clicks: the chosen one, or where that cannot, one that is made for it."""
    usual = "flow" if "Z" in image.axes else "query"
    if chosen and family in (usual, "flow"):
        return chosen
    first: dict[str, str] = {}
    for entry in store.models():
        first.setdefault(entry.spec.family, entry.name)
    return first.get(usual) or first.get("flow") or usual


def who_answers(asked: str, chosen: str) -> str:
    """Return a sentence on the model that answers clicks where it is not the chosen one, else nothing."""
    if not chosen or asked == chosen:
        return ""
    return f" {Path(asked).name} outlines it; {Path(chosen).name} cannot outline a cell by click."


def predictor_task(
    context: PromptContext, prompts: Prompts | None, predictor: "PointPredictor | None" = None
) -> Task["PointPredictor"]:
    """Return what answers prompts in a frame, once the network has looked at what is prompted.

    Without prompts it looks at the middle; a predictor that was returned before goes on. Imports torch in its
    own thread.
    """
    yield Progress("load", 0, 1)
    from cellwright.inference.point_prompt import PointPredictor

    if predictor is None:
        predictor = PointPredictor(
            context.source.image, context.model, engine=context.engine, frame=context.frame
        )
    if prompts is None:
        yield from predictor.encode()
    else:
        yield from predictor.encode_for(prompts)
    return predictor


@dataclass(frozen=True, slots=True, eq=False)
class Wish:
    """A cell that is prompted for in a frame, and whether it is added or shown."""

    frame: tuple[int, ...]
    prompts: Prompts
    is_kept: bool = True
    class_name: str = ""  # of the cell, where it has a class


class Prompter(QObject):
    """Has a model answer what is prompted for, one wish after another; the network looks at each frame once.

    Who inherits from it says what a frame is asked with, runs the network, and does what an answer asks for.
    """

    failed = QtSignal(object)  # Exception

    def __init__(self, parent: QObject | None, viewer: Any, in_layer: Callable[..., Any]) -> None:
        super().__init__(parent)
        self.draft = PromptDraft(viewer, in_layer)
        self.job: Job | None = None  # in which the network looks, while wishes have to wait
        self._predictors: dict[tuple[Any, ...], PointPredictor] = {}
        self._wishes: list[Wish] = []

    def _context_for(self, frame: tuple[int, ...]) -> PromptContext:
        raise NotImplementedError

    def _run(self, task: Task["PointPredictor"], context: PromptContext) -> None:
        """Run what is to be kept in ``_predictors``; ``_go_on`` after that."""
        raise NotImplementedError

    def _answer(self, wish: Wish, cell: "PromptedCell | None", context: PromptContext) -> None:
        raise NotImplementedError

    def _answer_alone(self, _: Wish) -> bool:
        """Answer without the model, where that can be; return whether it could."""
        return False

    def undo(self) -> None:
        """Take the last prompt back."""
        self.draft.undo()
        self._ask()

    def _ask(self) -> None:
        """Have the draft answered as it is now; what was asked of it before is forgotten."""
        self._wishes = [wish for wish in self._wishes if wish.is_kept]
        self.draft.answer(None)
        if self.draft.prompts is not None:
            self._wishes.append(Wish(self.draft.frame, self.draft.prompts, is_kept=False))
        self._go_on()

    def _go_on(self) -> None:
        """Answer what can be answered, and have the network look for the rest."""
        while self._wishes and self.job is None:
            wish = self._wishes[0]
            if self._answer_alone(wish):
                continue
            try:
                context = self._context_for(wish.frame)
                predictor = self._predictors.get(context.key)
                if predictor is None or next(predictor.encode_for(wish.prompts), None) is not None:
                    self._run(predictor_task(context, wish.prompts, predictor), context)
                    return
                cell = predictor.segment(wish.prompts)
            except CellwrightError as error:
                if not wish.is_kept:
                    self.draft.undo()
                self._fail(error)
                return
            self._wishes.pop(0)
            self._answer(wish, cell, context)

    def _fail(self, error: Exception) -> None:
        self._wishes.clear()
        self.failed.emit(error)
