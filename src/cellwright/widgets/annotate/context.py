"""What is at hand while an image is annotated: the session, its layer and regions, tools, two of them here.

The review goes through the cells, likeliest mistakes first. A cell is added by click: the model outlines what
is there; where it sees nothing, a disc is drawn.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels, Points
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]

from cellwright.annotation.review_queue import ReviewQueue
from cellwright.annotation.session import DISC_PX, AnnotationSession
from cellwright.core.errors import AnnotationError, CellwrightError
from cellwright.inference.settings import EngineSettings
from cellwright.models import store
from cellwright.ops.label_changes import Box
from cellwright.widgets.annotate.layer import AnnotationLayer
from cellwright.widgets.annotate.overlays import Overlay, Regions
from cellwright.widgets.annotate.session_setup import OpenedSession
from cellwright.widgets.annotate.tools import InputHandler, ToolBox
from cellwright.widgets.shared.jobs import Job
from cellwright.widgets.shared.layer_io import Source
from cellwright.widgets.shared.napari_private import camera_of
from cellwright.widgets.shared.point_prompt import (
    MOST_KNOWN,
    PromptContext,
    PromptPoint,
    encode_task,
    prompt_family,
    questions_task,
)

if TYPE_CHECKING:
    from cellwright.inference.point_prompt import PointPredictor, PromptedCell

CELL_PX = 110.0  # how long a cell is made on the screen where it is far smaller or larger
SMALLEST_PX, LARGEST_PX = 35.0, 420.0
LIKELY, UNSURE = 0.5, 0.15
SAMPLE = 200  # cells whose size tells that of a disc


class Review(QObject):
    """Steps through the review queue of a session and shows the cell it is at.

    Parameters
    ----------
    view
        The layer that is annotated.
    tools
        Whose keys mean the cell in review where the cursor is on none.
    parent
        Qt parent.
    """

    moved = Signal(object)  # number of the cell in review, None where there is none
    told = Signal(str)

    def __init__(self, view: AnnotationLayer, tools: ToolBox, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._view, self._tools = view, tools
        self._session: AnnotationSession = view.session
        self._overlay: Overlay = tools.overlay
        self._queue: ReviewQueue | None = None
        tools.fallback = lambda: self.current
        view.session.events.history.connect(self._on_history)

    def close(self) -> None:
        """Follow the session no longer."""
        self._session.events.history.disconnect(self._on_history)
        if self._queue is not None:
            self._queue.close()

    @property
    def queue(self) -> ReviewQueue:
        """The queue; made when it is first asked for, which looks at every cell."""
        if self._queue is None:
            self._queue = ReviewQueue(self._session)
        return self._queue

    def set_disagreement(self, found: Mapping[int, float]) -> None:
        """Order the queue by what a model finds in the mirrored image too; see :class:`ReviewQueue`."""
        self.queue.set_disagreement(found)
        if self.current is not None:
            self.moved.emit(self.current)

    @property
    def current(self) -> int | None:
        """The cell in review, None where there is none."""
        if self._queue is None:
            return None
        return self._queue.current

    @property
    def progress(self) -> tuple[int, int]:
        """How many cells have been reviewed, of how many."""
        numbers = self._session.ids().tolist()
        return sum(map(self._session.is_reviewed, numbers)), len(numbers)

    def act(self, name: str) -> None:
        """Do what the keys of the review do: accept, reject, next, back."""
        if name == "next":
            self._show(self.queue.next(), "Every cell has been reviewed.")
        elif name == "back":
            self._show(self.queue.previous(), "This is the first cell of the queue.")
        else:
            self._judge(name)

    def _judge(self, name: str) -> None:
        """Accept or reject the cell in review and go on to the next; without one, the cell at the cursor."""
        session, current = self._session, self.current
        number = current or self._tools.target()
        if not number:
            self.told.emit("No cell is in review; press N for the first, or point at one.")
            return
        judge, done = {
            "accept": (session.set_reviewed, "Accepted"),
            "reject": (session.reject, "Rejected"),
        }[name]
        if not self._tools.attempt(lambda: judge(number)):
            return
        self.told.emit(f"{done} cell {number}.")
        if current:
            self._show(self.queue.next(), "Every cell has been reviewed.")

    def _show(self, number: int | None, otherwise: str) -> None:
        if number is None:
            self.told.emit(otherwise)
            if self.current is None:
                self._overlay.show_cell(None)
                self.moved.emit(None)
            return
        self.centre_on(number)
        self._overlay.show_cell(self._session.box_of(number))
        self.moved.emit(number)

    def line(self, number: int) -> str:
        """Return what is said of the cell in review."""
        chance = self.queue.chance(number)
        how = "likely right"
        if chance >= LIKELY:
            how = "likely wrong"
        elif chance >= UNSURE:
            how = "unsure"
        state = ", reviewed" if self._session.is_reviewed(number) else ""
        return f"Cell {number}: {how} ({chance:.0%}){state}"

    def centre_on(self, number: int) -> None:
        """Move slice and camera so that a cell is in the middle, large enough to be judged."""
        view, viewer = self._view, self._view.viewer
        box = self._session.box_of(number)
        middle = np.array([(part.start + part.stop - 1) / 2 for part in box])
        if len(box) > 2:
            middle[:-2] = np.rint(self._session.centre_of(number))[:-2]
        world = view.world_of(middle)
        n_before = viewer.dims.ndim - len(world)
        for axis, position in enumerate(world, start=n_before):
            if axis not in viewer.dims.displayed:
                viewer.dims.set_point(axis, float(position))
        camera: Any = camera_of(viewer)
        shown = [float(world[axis - n_before]) for axis in viewer.dims.displayed]
        camera.center = (0.0, *shown)[-3:]
        step = float(np.abs(view.layer.scale[-2:]).mean())
        side = max(part.stop - part.start for part in box[-2:]) * step
        if not SMALLEST_PX <= side * camera.zoom <= LARGEST_PX:
            camera.zoom = CELL_PX / side

    def _on_history(self) -> None:
        """Keep the frame around the cell in review, which edits reshape or take away."""
        number = self.current
        if number is not None:
            self._overlay.show_cell(self._session.box_of(number))
            return
        self._overlay.show_cell(None)
        if self._queue is not None:
            self.moved.emit(None)


class Adder(QObject):
    """Adds a cell where it is asked to; the network looks at each frame once, beside the viewer.

    Parameters
    ----------
    session
        What is added to.
    source
        The whole image, for the model.
    parent
        Qt parent.
    """

    done = Signal(str)  # what was done, for people
    failed = Signal(object)  # Exception

    def __init__(self, session: AnnotationSession, source: Source, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._session, self._source = session, source
        self._questions: dict[tuple[str, tuple[int, ...]], PointPredictor] = {}
        self._waiting: list[PromptPoint] = []
        self.channel: int | None = None
        self.diameter_px = 0.0
        self.uses_model = True
        self.model = ""  # name or folder of the one to ask, where it can be asked
        self.job: Job | None = None

    def close(self) -> None:
        """Ask what runs to stop; its answer is not used."""
        self._waiting.clear()
        if self.job is not None:
            self.job.cancel()

    def add(self, point: NDArray[np.float64]) -> None:
        """Add the cell at a point (pixels of the session), at once or when the network has looked."""
        inside = np.rint(point)
        if np.any(inside < 0) or np.any(inside >= self._session.labels.shape):
            return
        spot = PromptPoint(tuple(int(i) for i in np.rint(point[:-2])), np.asarray(point[-2:], float))
        known = self._session.number_at(point)
        if known:
            self.done.emit(f"This is cell {known} already.")
        elif not self.uses_model:
            self._add_disc(spot)
        else:
            self._waiting.append(spot)
            self._go_on()

    def _go_on(self) -> None:
        """Answer what can be answered, and have the network look for the rest."""
        while self._waiting and self.job is None:
            spot = self._waiting[0]
            questions = self._questions.get((self.model, spot.frame))
            try:
                is_ready = questions is not None and next(questions.encode(spot.point), None) is None
            except CellwrightError as error:
                self._fail(error)
                return
            if questions is not None and is_ready:
                self._waiting.pop(0)
                self._answer(questions, spot)
            else:
                self._look(spot, questions)

    def _look(self, spot: PromptPoint, questions: "PointPredictor | None") -> None:
        try:
            subject = PromptContext(self._source, self._model(), self._engine(), spot.frame)
        except CellwrightError as error:
            self._fail(error)
            return
        if questions is None:
            self.job = Job(questions_task(subject, spot), self)
            key = self.model, spot.frame
            self.job.returned.connect(lambda found: self._questions.__setitem__(key, found))
        else:
            self.job = Job(encode_task(questions, spot), self)
        self.job.failed.connect(self._fail)
        self.job.finished.connect(self._on_job_finished)
        self.done.emit("The model looks at the image …")
        self.job.start()

    def _on_job_finished(self) -> None:
        self.job = None
        self._go_on()

    def _fail(self, error: Exception) -> None:
        self._waiting.clear()
        self.failed.emit(error)

    def _answer(self, questions: "PointPredictor", spot: PromptPoint) -> None:
        try:
            cell = questions.cell_at(spot.point)
            if cell is None or self._covers(cell, spot):
                self._add_disc(spot)
                return
            number = self._session.add(cell.mask, (*spot.frame, *cell.box[0].tolist()), score=cell.score)
            self.done.emit(f"Added cell {number}, outlined by the model ({cell.score:.2f}).")
        except CellwrightError as error:
            self.failed.emit(error)

    def _covers(self, cell: "PromptedCell", spot: PromptPoint) -> bool:
        """Return whether the model took the point for part of cells that are there."""
        rows, columns = (slice(int(a), int(b)) for a, b in cell.box.T)
        box: Box = (*(slice(i, i + 1) for i in spot.frame), rows, columns)
        known = self._session.labels[box].reshape(cell.mask.shape) > 0
        return bool(known[cell.mask].mean() > MOST_KNOWN)

    def _add_disc(self, spot: PromptPoint) -> None:
        diameter = self.diameter_px or typical_diameter(self._session)
        point = np.array([*spot.frame, *spot.point], float)
        try:
            number = self._session.add_disc(point, diameter)
        except AnnotationError as error:
            self.failed.emit(error)
            return
        why = "the model was not asked"
        if self.uses_model:
            why = "the model sees none"
        self.done.emit(f"Added cell {number} as a disc of {diameter:.0f} px; {why}.")

    def _model(self) -> str:
        family = prompt_family(self._source.image)
        chosen = {entry.name: entry.spec.family for entry in store.models()}.get(self.model)
        if chosen in (family, "flow") and chosen is not None:
            return self.model
        names = {entry.spec.family: entry.name for entry in store.models()}
        return names.get(family) or names.get("flow") or family

    def _engine(self) -> EngineSettings:
        return EngineSettings(channel=self.channel, diameter_px=self.diameter_px)


def typical_diameter(session: AnnotationSession) -> float:
    """Return the middle diameter of the cells in pixels; that of a disc where there are none."""
    numbers = session.ids()[:: max(session.n_cells // SAMPLE, 1)].tolist()
    sides = [part.stop - part.start for number in numbers for part in session.box_of(number)[-2:]]
    if not sides:
        return DISC_PX
    return float(np.median(sides))


@dataclass(frozen=True, slots=True, eq=False)
class AnnotationContext:
    """A session and all that works on it. Made by :func:`context_of`; used by the model and its tools."""

    session: AnnotationSession
    layer: AnnotationLayer
    tools: ToolBox
    input: InputHandler
    review: Review
    adder: Adder
    regions: Regions

    def close(self) -> None:
        """Let go of layer, mouse, keys and journal."""
        for part in (self.adder, self.review, self.tools, self.input, self.regions, self.layer):
            part.close()
        for one in (self.adder, self.review, self.tools):
            one.deleteLater()
        self.session.close()


def context_of(
    viewer: Any, opened: OpenedSession, on_error: Callable[[Exception], None]
) -> AnnotationContext:
    """Show the layer of a session in a viewer, and return all that works on it."""
    session, own = opened.session, opened.layer
    if own not in viewer.layers:
        for one in viewer.layers:
            if isinstance(one, Labels | Points):
                one.visible = False  # what it began with lies under it
        viewer.add_layer(own)
    viewer.layers.selection.active = own
    layer = AnnotationLayer(viewer, own, session, channel_axis=opened.source.channel_axis, on_error=on_error)
    tools = ToolBox(layer)
    review, adder = Review(layer, tools), Adder(session, opened.source)
    return AnnotationContext(session, layer, tools, InputHandler(tools), review, adder, Regions(layer))
