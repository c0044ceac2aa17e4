"""The tools that change an annotation, each in the 2D and the 3D view."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]

from cellwright.annotation.session import AnnotationSession
from cellwright.core.errors import AnnotationError, CellwrightError
from cellwright.ops.label_changes import joined
from cellwright.widgets.annotate.input_handler import InputHandler
from cellwright.widgets.annotate.keys import BY_NAME
from cellwright.widgets.annotate.layer import AnnotationLayer
from cellwright.widgets.annotate.overlays import Overlay, box_of

BRUSHES = {"paint": "paint", "erase": "erase", "fill": "fill"}
CELL = "class"  # the tool that gives each cell that is clicked the chosen class

Point = NDArray[np.float64]


class ToolBox(QObject):
    """The tools on one annotation: at most one is in the hand, and keys act at once.

    Parameters
    ----------
    view
        The layer that is annotated.
    parent
        Qt parent.
    """

    chosen = Signal(str)  # name of the tool in the hand, '' for none
    done = Signal(str)  # what was done, for people
    failed = Signal(object)  # Exception
    asked = Signal(object)  # Point at which a cell is to be added
    pressed = Signal(str)  # a key of a tool that others do: accept, next, hide, ...

    def __init__(self, view: AnnotationLayer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.view, self.session, self.marks = view, view.session, Overlay(view)
        self.name = ""
        self.category = 0
        self.step_px = 1.0
        self.goes_through_slices = False
        self.fallback: Callable[[], int | None] = lambda: None  # the cell in review
        self._first_seed: Point | None = None
        self._is_choosing = False
        self._hands = InputHandler(self)
        view.layer.events.mode.connect(self._on_mode)
        view.viewer.dims.events.current_step.connect(self._forget_seed)

    def close(self) -> None:
        """Put the tool down and free mouse and keys."""
        self.choose("")
        self._hands.close()
        self.view.layer.events.mode.disconnect(self._on_mode)
        self.view.viewer.dims.events.current_step.disconnect(self._forget_seed)
        self.marks.close()

    @property
    def kind(self) -> str:
        """What the mouse does with the tool in the hand, see ``annotate_keys.Tool``; '' for none."""
        if self.name == CELL:
            return "cell"
        return BY_NAME[self.name].kind if self.name else ""

    # -- tools in the hand --------------------------------------------------------------------------------

    def choose(self, name: str) -> None:
        """Take a tool in the hand; '' puts it down."""
        layer = self.view.layer
        self._forget_seed()
        self.name = name
        self._is_choosing = True
        try:
            layer.mode = BRUSHES.get(name, "pan_zoom")
            if name in BRUSHES:
                layer.preserve_labels = name == "paint"  # a brush spares the neighbours
            else:
                layer.mouse_pan = name not in ("cut", "region")
        finally:
            self._is_choosing = False
        if name:
            self.view.viewer.layers.selection.active = layer
        self.chosen.emit(name)

    def paint(self) -> None:
        """Take the brush: it goes on with the cell under the cursor, elsewhere it draws a new one."""
        number = self.number_at(self.view.point_under_cursor())
        self.view.layer.selected_label = number or self.session.next_number
        self.choose("paint")

    def act(self, name: str) -> None:
        """Do what the key of a tool does."""
        kind = BY_NAME[name].kind
        if name == "paint":
            self.paint()
        elif name == "pan":
            self.choose("")
        elif kind == "cell":
            self.change(name, self.target())
        elif kind == "once":
            self.once(name)
        else:
            self.choose(name)

    def once(self, name: str) -> None:
        """Do what takes no cell: undo, redo; the rest is for others to do."""
        if self.view.is_painting:
            return
        if name in ("undo", "redo"):
            self._step(name)
        else:
            self.pressed.emit(name)

    def _step(self, name: str) -> None:
        session, what = self.session, self.session.undo_name
        if not (session.can_undo if name == "undo" else session.can_redo):
            self.done.emit(f"There is nothing to {name}.")
        elif self.attempt(session.undo if name == "undo" else session.redo):
            self.done.emit(f"{BY_NAME[name].title}: {what if name == 'undo' else session.undo_name}.")

    def target(self) -> int:
        """Return the cell that a key means: under the cursor, else in review; 0 for none."""
        found = self.number_at(self.view.point_under_cursor())
        return found or self.fallback() or 0

    def set_class(self, category: int | None, number: int) -> None:
        """Give a cell a class; None takes it away."""
        if number:
            self.attempt(lambda: self.session.set_class(number, category))

    def class_target(self, category: int | None) -> None:
        """Give the cell that a key means a class; None takes it away."""
        self.set_class(category, self.target())

    def change(self, name: str, number: int) -> None:
        """Do to a cell what a tool of kind ``cell`` does."""
        if not number:
            self.done.emit("There is no cell here.")
            return
        if name == CELL:
            self.set_class(self.category, number)
            return
        before = self.session.n_edits
        if self.attempt(lambda: self._change(name, number)):
            is_same = self.session.n_edits == before
            tail = ": nothing to change" if is_same else ""
            self.done.emit(f"{BY_NAME[name].title}: cell {number}{tail}.")

    def _change(self, name: str, number: int) -> bool:
        session = self.session
        if name == "interpolate":
            if session.labels.ndim == 2:
                raise AnnotationError("Interpolation needs slices; this image is flat. Paint instead.")
            part = session.box_of(number)[_slice_axis(session)]
            session.interpolate(number, part.start, part.stop - 1)
        elif name in ("grow", "shrink"):
            getattr(session, name)(number, self.step_px)
        else:
            {"delete": session.delete, "smooth": session.smooth, "holes": session.fill}[name](number)
        return True

    def attempt(self, edit: Callable[[], Any]) -> Any:
        """Do an edit unless a stroke of the brush is under way; tell what goes wrong."""
        if self.view.is_painting:
            return None
        try:
            return edit() or True
        except CellwrightError as error:
            self.failed.emit(error)
            return None

    # -- what mouse and keys tell -------------------------------------------------------------------------

    def put_down(self) -> None:
        """Forget the first of two clicks, else put the tool down."""
        if self._first_seed is not None:
            self._forget_seed()
        else:
            self.choose("")

    def _on_mode(self, _: Any) -> None:
        """Follow the buttons of napari's own panel."""
        if self._is_choosing or self._hands.is_held:
            return
        mode = str(self.view.layer.mode)
        self._forget_seed()
        self.name = next((name for name, own in BRUSHES.items() if own == mode), "")
        self.chosen.emit(self.name)

    def draw_on(self, points: list[Point], point: Point | None) -> None:
        """Draw on to a point: all of a line, the corners of a box, both ends of a merge."""
        if point is None:
            return
        if self.name == "cut":
            points.append(point)
        else:
            points[1:] = [point]
        shown = _outline(points[0], points[-1]) if self.name == "region" else np.array(points)
        self.marks.show_drawn(shown if len(points) > 1 else None)

    def click(self, point: Point | None) -> None:
        """Do what the tool in the hand does at a point."""
        if point is None:
            return
        if self.name == "add":
            self.asked.emit(point)
        elif self.name == "split":
            self._add_seed(point)
        else:
            self.change(self.name, self.number_at(point))

    def drag(self, name: str, points: Point) -> None:
        """Do what a tool of kind ``drag`` does along points (N, D)."""
        if name == "merge":
            self._merge(self.number_at(points[0]), self.number_at(points[-1]))
        elif name == "cut":
            self._cut(points)
        else:
            corners = points[[0, -1]]
            box = box_of(corners, self.session.labels.shape)
            if self.goes_through_slices:
                whole = tuple(slice(0, length) for length in self.session.labels.shape)
                box = joined(box, (*whole[:-2], *box[-2:]))
            self.attempt(lambda: self.session.add_region(box))

    def _merge(self, keep: int, gone: int) -> None:
        if not keep or not gone:
            self.done.emit("Drag from one cell to another to merge them.")
        elif keep != gone and self.attempt(lambda: self.session.merge(keep, gone)):
            self.done.emit(f"Merged cell {gone} into cell {keep}.")

    def _cut(self, points: Point) -> None:
        """Cut the cell that most of the line runs through."""
        if self.view.viewer.dims.ndisplay == 3:
            self.failed.emit(AnnotationError("Draw lines in the 2D view; here, split by two clicks (T)."))
            return
        steps = [np.linspace(a, b, int(np.abs(b - a).max()) + 2) for a, b in pairwise(points)]
        crossed = np.array([self.number_at(place) for place in np.concatenate(steps)])
        crossed = crossed[crossed > 0]
        if not len(crossed):
            self.done.emit("Draw the line across a cell.")
            return
        number = int(np.bincount(crossed).argmax())
        found = self.attempt(lambda: self.session.split_line(number, points))
        if found:
            self.done.emit(f"Cut cell {number}; new: {', '.join(map(str, found))}.")

    def _add_seed(self, point: Point) -> None:
        if self._first_seed is None:
            if not self.number_at(point):
                self.done.emit("Click inside the cell that is to be split.")
                return
            self._first_seed = point
            self.marks.show_drawn(point)
            self.done.emit("Now click in the middle of the other part.")
            return
        first, number = self._first_seed, self.number_at(self._first_seed)
        self._forget_seed()
        found = self.attempt(lambda: self.session.split_seeds(number, first, point))
        if found:
            self.done.emit(f"Split cell {number}; new: {', '.join(map(str, found))}.")

    def _forget_seed(self, _: object = None) -> None:
        """Forget the first of two clicks; a new slice of the same volume does not make it forgotten."""
        if self._first_seed is None or (_ is not None and "T" not in self.session.image.axes):
            return
        self._first_seed = None
        self.marks.show_drawn(None)

    def number_at(self, point: Point | None) -> int:
        """Return the cell at a point, 0 for none."""
        return 0 if point is None else self.session.number_at(point)


def _slice_axis(session: AnnotationSession) -> int:
    """Return the axis of the labels along which cells are interpolated: Z, else time."""
    axes = session.image.axes.replace("C", "")
    return axes.index("Z") if "Z" in axes else 0


def _outline(first: Point, last: Point) -> Point:
    """Return the outline (5, D) of the box between two corners in one slice."""
    corners = np.repeat(last[np.newaxis], 5, axis=0)
    corners[:, -2] = np.array([first[-2], first[-2], last[-2], last[-2], first[-2]])
    corners[:, -1] = np.array([first[-1], last[-1], last[-1], first[-1], first[-1]])
    return corners
