"""What is at hand while an image is annotated: the session, its layer and regions, tools, one of them here.

The review goes through the cells, likeliest mistakes first.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.layers import Labels, Points
from qtpy.QtCore import QObject, Signal

from cellwright.annotation.review_queue import ReviewQueue
from cellwright.annotation.session import AnnotationSession
from cellwright.ops.label_changes import Box
from cellwright.widgets.annotate.adder import Adder
from cellwright.widgets.annotate.layer import AnnotationLayer
from cellwright.widgets.annotate.overlays import Overlay, Regions
from cellwright.widgets.annotate.session_setup import OpenedSession
from cellwright.widgets.annotate.tools import InputHandler, ToolBox
from cellwright.widgets.shared.layer_io import bring_into_sight, layer_of_id
from cellwright.widgets.shared.napari_private import camera_of, look_at

CELL_PX = 110.0  # how long a cell is made on the screen where it is far smaller or larger
SMALLEST_PX, LARGEST_PX = 35.0, 420.0
LIKELY, UNSURE = 0.5, 0.15


class Review(QObject):
    """Steps through the review queue of a session and shows the cell it is at.

    Keys of the tools mean it where the cursor is on none.
    """

    moved = Signal(object)  # number of the cell in review, None where there is none
    told = Signal(str)

    def __init__(self, view: AnnotationLayer, tools: ToolBox) -> None:
        super().__init__()
        self._view, self._tools = view, tools
        self._session: AnnotationSession = view.session
        self._overlay: Overlay = tools.overlay
        self._queue: ReviewQueue | None = None
        tools.fallback = lambda: self.current
        view.session.history.events.history.connect(self._on_history)

    def close(self) -> None:
        """Follow the session no longer."""
        self._session.history.events.history.disconnect(self._on_history)
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
        return None if self._queue is None else self._queue.current

    @property
    def progress(self) -> tuple[int, int]:
        """How many cells have been reviewed, of how many."""
        numbers = self._session.store.numbers().tolist()
        return sum(map(self._session.store.is_reviewed, numbers)), len(numbers)

    def act(self, name: str) -> None:
        """Do what the keys of the review do: accept, reject, next, back."""
        if name == "next":
            self._show(self.queue.next(), "Every cell has been reviewed.")
        elif name == "back":
            self._show(self.queue.previous(), "This is the first cell of the queue.")
        elif name == "accept":
            self._judge(self._session.set_reviewed, "Accepted")
        else:
            self._judge(self._session.reject, "Rejected")

    def _judge(self, judge: Callable[[int], object], done: str) -> None:
        """Judge the cell in review and go on to the next; without one, the cell at the cursor."""
        current = self.current
        number = current or self._tools.target()
        if not number:
            self.told.emit("No cell is in review; press N for the first, or point at one.")
        elif self._tools.attempt(lambda: judge(number)):
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
        self._overlay.show_cell(self._place_of(number))
        self.moved.emit(number)

    def line(self, number: int) -> str:
        """Return what is said of the cell in review."""
        chance = self.queue.chance(number)
        how = "likely right"
        if chance >= LIKELY:
            how = "likely wrong"
        elif chance >= UNSURE:
            how = "unsure"
        state = ", reviewed" if self._session.store.is_reviewed(number) else ""
        return f"Cell {number}: {how} (chance of a mistake {chance:.0%}){state}"

    def centre_on(self, number: int) -> None:
        """Move slice and camera so that a cell is in the middle, large enough to be judged."""
        view, viewer = self._view, self._view.viewer
        box = self._place_of(number)
        middle = np.array([(part.start + part.stop - 1) / 2 for part in box])
        if len(box) > 2:
            middle[:-2] = np.rint(self._session.store.centre_of(number, box))[:-2]
        look_at(viewer, view.world_of(middle))
        camera = camera_of(viewer)
        step = float(np.abs(view.layer.scale[-2:]).mean())
        side = max(part.stop - part.start for part in box[-2:]) * step
        if not SMALLEST_PX <= side * camera.zoom <= LARGEST_PX:
            camera.zoom = CELL_PX / side

    def _place_of(self, number: int) -> Box:
        """Return the box of a cell; of a time series that in its first frame, as it may move on."""
        store = self._session.store
        if not store.has_time:
            return store.box_of(number)
        first = store.box_of(number)[0].start
        return (slice(first, first + 1), *store.first_part(number)[1])

    def _on_history(self) -> None:
        """Keep the frame around the cell in review, which edits reshape or take away."""
        number = self.current
        if number is not None:
            self._overlay.show_cell(self._place_of(number))
            return
        self._overlay.show_cell(None)
        if self._queue is not None:
            self.moved.emit(None)


@dataclass(frozen=True, slots=True, eq=False)
class AnnotationContext:
    """A session and all that works on it."""

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
    bring_into_sight(viewer, layer_of_id(viewer, opened.source.layer_id), [own])
    viewer.layers.selection.active = own
    layer = AnnotationLayer(viewer, own, session, channel_axis=opened.source.channel_axis, on_error=on_error)
    tools = ToolBox(layer)
    review, adder = Review(layer, tools), Adder(layer, opened.source)
    tools.takes = adder.takes
    return AnnotationContext(session, layer, tools, InputHandler(tools), review, adder, Regions(layer))
