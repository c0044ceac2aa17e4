"""The tools that change an annotation, in the 2D and the 3D view, and the mouse and keys that work them."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtCore import QObject, Signal
from scipy import ndimage

from cellwright.core.errors import AnnotationError, CellwrightError
from cellwright.ops.geometry.boxes import corners_of
from cellwright.widgets.annotate.keys import BY_NAME, N_CLASS_KEYS, PAST, TOOLS
from cellwright.widgets.annotate.layer import AnnotationLayer
from cellwright.widgets.annotate.overlays import Overlay
from cellwright.widgets.shared.cells.regions import pixel_box
from cellwright.widgets.shared.napari_private import end_polygon
from cellwright.widgets.shared.point_prompt import CLICK_PX, LEFT, prompt_drag
from cellwright.widgets.shared.style import bound_key, with_own_keys

BRUSHES = ("paint", "erase", "fill", "polygon")  # called like the modes of napari
DRAWING = ("paint", "polygon")  # those of them that draw a cell
PIECES_KEYS = with_own_keys(
    "If they are cells of their own: Ctrl+Z, then P outside the cells begins a new one."
)
CELL = "class"  # the tool that gives each cell that is clicked the chosen class
NO_CELL = "There is no cell here."

Point = NDArray[np.float64]


class ToolBox(QObject):
    """The tools on one annotation: at most one is active, and keys act at once."""

    chosen = Signal(str)  # name of the active tool, '' for none
    done = Signal(str)  # what was done, for people
    failed = Signal(object)  # Exception
    asked = Signal(object, str)  # points (1, D) or corners (2, D) that tell of a cell, and what a click says
    pressed = Signal(str)  # a key of a tool that others do: accept, next, hide, ...

    def __init__(self, view: AnnotationLayer) -> None:
        super().__init__()
        self.view, self.session, self.overlay = view, view.session, Overlay(view)
        self.name = ""
        self.category = 0
        self.step_px = 1.0
        self.goes_through_slices = False
        self.fallback: Callable[[], int | None] = lambda: None  # the cell in review
        self.takes: Callable[[str], bool] = lambda _: False  # whether a key meant the cell prompted for
        self._first_seed: Point | None = None
        self.is_panning = False  # while the space bar is down the mouse moves the image
        view.on_painted = self._tell_pieces
        view.layer.events.mode.connect(self._on_mode)
        view.viewer.dims.events.current_step.connect(self._forget_seed)

    def close(self) -> None:
        """Put the tool down and follow the layer no longer."""
        self.choose("")
        self.view.layer.events.mode.disconnect(self._on_mode)
        self.view.viewer.dims.events.current_step.disconnect(self._forget_seed)
        self.overlay.close()

    @property
    def kind(self) -> str:
        """What the mouse does with the active tool, see ``keys.Tool``; '' for none."""
        if self.name == CELL:
            return "cell"
        return BY_NAME[self.name].kind if self.name else ""

    # -- the active tool ----------------------------------------------------------------------------------

    def choose(self, name: str) -> None:
        """Make a tool the active one; '' for none."""
        layer = self.view.layer
        self._forget_seed()
        self.name = name
        with layer.events.mode.blocker(self._on_mode):
            layer.mode = name if name in BRUSHES else "pan_zoom"
            if name not in BRUSHES:
                layer.mouse_pan = name not in ("cut", "region", "add")
        self._spare_neighbours()
        if name:
            self.view.viewer.layers.selection.active = layer
        self.chosen.emit(name)

    def draw(self, name: str) -> None:
        """Take what draws a cell: it goes on with that under the cursor, elsewhere it draws a new one."""
        number = self.number_at(self.view.point_under_cursor())
        self.view.layer.selected_label = number or self.session.store.next_number
        self.choose(name)

    def _tell_pieces(self, numbers: Sequence[int]) -> None:
        """Tell of a cell that a stroke leaves in pieces: they count as one."""
        session, is_series = self.session, self.session.image.label_axes.startswith("T")
        for number in numbers:
            if number not in session.store:
                continue
            mask = session.labels[session.store.box_of(number)] == number
            touching = np.ones((3,) * mask.ndim, int)
            if is_series:
                touching[[0, 2]] = 0  # frames are pieces of their own anyway
            found, n_pieces = ndimage.label(mask, touching)
            if is_series:
                n_pieces = max(len(np.unique(frame[frame > 0])) for frame in found)
            if n_pieces > 1:
                self.done.emit(
                    f"Cell {number} is in {n_pieces} separate pieces and counts once. {PIECES_KEYS}"
                )

    def act(self, name: str) -> None:
        """Do what the key of a tool does."""
        kind = BY_NAME[name].kind
        if name in DRAWING:
            self.draw(name)
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
        if self.view.is_painting or self.takes(name):
            return
        if name == "undo":
            what = self.session.history.undo_name
            if not self.session.history.done:
                self.done.emit("There is nothing to undo.")
            elif self.attempt(self.session.undo):
                self.done.emit(f"Undo: {what}.")
        elif name == "redo":
            if not self.session.history.undone:
                self.done.emit("There is nothing to redo.")
            elif self.attempt(self.session.redo):
                self.done.emit(f"Redo: {self.session.history.undo_name}.")
        else:
            self.pressed.emit(name)

    def target(self) -> int:
        """Return the cell that a key means: under the cursor, else in review; 0 for none."""
        return self.number_at(self.view.point_under_cursor()) or self.fallback() or 0

    def class_target(self, category: int | None) -> None:
        """Give the cell that a key means a class; None takes it away."""
        self._set_class(self.target(), category)

    def _set_class(self, number: int, category: int | None) -> None:
        if not number:
            self.done.emit(NO_CELL)
        elif self.attempt(lambda: self.session.set_class(number, category)):
            name = self.view.class_name(number)
            self.done.emit(f"Cell {number}: class {name!r}." if name else f"Cell {number}: no class.")

    def change(self, name: str, number: int) -> None:
        """Do to a cell what a tool of kind ``cell`` does."""
        if name == CELL:
            self._set_class(number, self.category)
            return
        if not number:
            self.done.emit(NO_CELL)
            return
        before, where = len(self.session.history.done), self._frames_of(number)
        if self.attempt(lambda: self._change(name, number)):
            text = f"{PAST[name]} cell {number}{where}."
            if len(self.session.history.done) == before:
                text = f"Cell {number}: nothing to change."
            self.done.emit(text)

    def _frames_of(self, number: int) -> str:
        """Return in how many frames of a series a cell is changed, where these are several."""
        store = self.session.store
        if not store.has_time or number not in store:
            return ""
        frames = self.session.labels[store.box_of(number)] == number
        n = int(frames.reshape(len(frames), -1).any(axis=1).sum())
        return f" in all its {n} frames" if n > 1 else ""

    def _change(self, name: str, number: int) -> None:
        session = self.session
        if name == "interpolate":
            if session.labels.ndim == 2:
                raise AnnotationError("Interpolation needs slices; this image is 2D. Paint instead.")
            axis = max(session.image.label_axes.find("Z"), 0)  # without Z over time
            part = session.store.box_of(number)[axis]
            session.interpolate(number, part.start, part.stop - 1)
        elif name in ("grow", "shrink"):
            getattr(session, name)(number, self.step_px)
        else:
            {"delete": session.delete, "smooth": session.smooth, "holes": session.fill}[name](number)

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

    def cancel(self) -> None:
        """Drop the cell or polygon that is begun, else the first of two clicks, else put the tool down."""
        if end_polygon(self.view.layer, is_kept=False) or self.takes("cancel"):
            return
        if self._first_seed is not None:
            self._forget_seed()
        else:
            self.choose("")

    def _on_mode(self, _: Any) -> None:
        """Follow the buttons of napari's own panel."""
        if self.is_panning:
            return
        mode = str(self.view.layer.mode)
        self._forget_seed()
        self.name = mode if mode in BRUSHES else ""
        self._spare_neighbours()
        self.chosen.emit(self.name)

    def _spare_neighbours(self) -> None:
        """Let all that draws spare other cells; the eraser, which is used on any, and filling do not."""
        self.view.layer.preserve_labels = str(self.view.layer.mode) not in ("erase", "fill")

    def draw_on(self, points: list[Point], point: Point | None) -> None:
        """Draw on to a point: all of a line, the corners of a box, both ends of a merge."""
        if point is None:
            return
        if self.name == "cut":
            points.append(point)
        else:
            points[1:] = [point]
        if len(points) < 2:
            self.overlay.show_drawn(None)
        elif self.name == "region":
            self.overlay.show_drawn(_outline(points[0], points[-1]))
        else:
            self.overlay.show_drawn(np.array(points))

    def draw_box(self, corners: Point | None) -> None:
        """Show the box that is dragged around a cell; None takes it away."""
        if corners is not None:
            corners = _outline(*corners)
        self.overlay.show_drawn(corners)

    def click(self, point: Point | None) -> None:
        """Do what the active tool does at a point."""
        if point is None:
            return
        if self.name == "split":
            self._add_seed(point)
        else:
            self.change(self.name, self.number_at(point))

    def drag(self, name: str, points: Point) -> None:
        """Do what a tool of kind ``drag`` does along points (N, D)."""
        if name == "merge":
            keep, gone = self.number_at(points[0]), self.number_at(points[-1])
            if not keep or not gone:
                self.done.emit("Drag from one cell to another to merge them.")
            elif keep != gone and self.attempt(lambda: self.session.merge(keep, gone)):
                self.done.emit(f"Merged cell {gone} into cell {keep}.")
        elif name == "cut":
            self._cut(points)
        else:
            shape = self.session.labels.shape
            box = pixel_box(points[[0, -1]], shape)
            if self.goes_through_slices:
                box = (*(slice(0, n) for n in shape[:-2]), *box[-2:])
            self.attempt(lambda: self.session.add_region(box))

    def _cut(self, points: Point) -> None:
        """Cut the cell that most of the line runs through."""
        if self.view.viewer.dims.ndisplay == 3:
            self.failed.emit(AnnotationError("Draw lines in the 2D view; here, split by two clicks (T)."))
            return
        steps = [np.linspace(a, b, int(np.abs(b - a).max()) + 2) for a, b in pairwise(points)]
        crossed = np.array([self.number_at(point) for point in np.concatenate(steps)])
        crossed = crossed[crossed > 0]
        if not len(crossed):
            self.done.emit("Draw the line across a cell.")
            return
        numbers, n_steps = np.unique(crossed, return_counts=True)  # numbers may be very high
        number = int(numbers[n_steps.argmax()])
        found = self.attempt(lambda: self.session.split_line(number, points))
        if found:
            self.done.emit(f"Cut cell {number}; new: {', '.join(map(str, found))}.")

    def _add_seed(self, point: Point) -> None:
        if self._first_seed is None:
            if not self.number_at(point):
                self.done.emit("Click inside the cell that is to be split.")
                return
            self._first_seed = point
            self.overlay.show_drawn(point)
            self.done.emit("Now click in the middle of the other part.")
            return
        first, number = self._first_seed, self.number_at(self._first_seed)
        self._forget_seed()
        found = self.attempt(lambda: self.session.split_seeds(number, first, point))
        if found:
            self.done.emit(f"Split cell {number}; new: {', '.join(map(str, found))}.")

    def _forget_seed(self, moved: object = None) -> None:
        """Forget the first of two clicks; one who ``moved`` to a slice of the same volume still means it."""
        if self._first_seed is None or (moved is not None and "T" not in self.session.image.axes):
            return
        self._first_seed = None
        self.overlay.show_drawn(None)

    def number_at(self, point: Point | None) -> int:
        """Return the cell at a point, 0 for none."""
        return 0 if point is None else self.session.store.number_at(point)


class InputHandler:
    """Listens to the layer of a toolbox from the beginning until it is closed."""

    def __init__(self, tools: ToolBox) -> None:
        self._tools, self._layer = tools, tools.view.layer
        self._keys: list[str] = []
        self._layer.mouse_drag_callbacks.append(self._on_drag)
        self._bind()

    def close(self) -> None:
        """Free mouse and keys."""
        if self._on_drag in self._layer.mouse_drag_callbacks:
            self._layer.mouse_drag_callbacks.remove(self._on_drag)
        for key in self._keys:
            self._layer.bind_key(key, None)

    # -- keys ---------------------------------------------------------------------------------------------

    def _bind(self) -> None:
        tools = self._tools
        for tool in TOOLS:
            self._bind_key(tool.key, partial(tools.act, tool.name))
        for category in range(N_CLASS_KEYS):
            self._bind_key(str(category + 1), partial(tools.class_target, category))
        self._bind_key("0", partial(tools.class_target, None))
        self._bind_key("Escape", tools.cancel)
        self._bind_key("Enter", lambda: end_polygon(self._layer, is_kept=True) or tools.takes("accept"))
        self._bind_key("F1", lambda: tools.pressed.emit("help"))
        self._layer.bind_key("Space", self._hold, overwrite=True)
        self._keys.append("Space")

    def _bind_key(self, key: str, act: Callable[[], Any]) -> None:
        def press(_: Any) -> None:
            if isalive(self._tools):
                act()

        self._layer.bind_key(bound_key(key), press, overwrite=True)
        self._keys.append(bound_key(key))

    def _hold(self, _: Any) -> Iterator[None]:
        layer = self._layer
        mode, pan = layer.mode, layer.mouse_pan
        self._tools.is_panning = True
        layer.mode, layer.mouse_pan = "pan_zoom", True
        yield
        layer.mode, layer.mouse_pan = mode, pan
        self._tools.is_panning = False

    # -- mouse --------------------------------------------------------------------------------------------

    def _on_drag(self, _: Any, event: Any) -> Iterator[None] | None:
        kind = self._tools.kind
        if kind in ("", "brush") or self._tools.is_panning or event.button != LEFT:
            return None
        if kind == "drag":
            return self._drag(event)
        if kind == "prompt":
            tools = self._tools
            return prompt_drag(event, tools.view.point_of, tools.draw_box, tools.asked.emit)
        return self._click(event)

    def _click(self, event: Any) -> Iterator[None]:
        start = np.array(event.pos)
        yield
        while event.type == "mouse_move":
            yield
        if np.linalg.norm(np.array(event.pos) - start) <= CLICK_PX:
            self._tools.click(self._tools.view.point_of(event))

    def _drag(self, event: Any) -> Iterator[None]:
        tools, layer, name = self._tools, self._layer, self._tools.name
        point = tools.view.point_of(event)
        if name == "merge" and not tools.number_at(point):
            return  # the mouse moves the image
        pan, layer.mouse_pan = layer.mouse_pan, False
        points = [] if point is None else [point]
        yield
        while event.type == "mouse_move":
            tools.draw_on(points, tools.view.point_of(event))
            yield
        layer.mouse_pan = pan
        tools.draw_on(points, tools.view.point_of(event))
        tools.overlay.show_drawn(None)
        if len(points) > 1:
            tools.drag(name, np.array(points))


def _outline(first: Point, last: Point) -> Point:
    """Return the outline (5, D) of the box between two corners in one slice."""
    corners = corners_of(np.stack([last, first]))
    return np.concatenate([corners, corners[:1]])
