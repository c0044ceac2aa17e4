"""The Labels layer of an annotation: it shows the session's own array, and hands in what is painted into it.

Only the box that an edit changed is drawn again; of an image of 2048 x 2048 pixels the whole takes too long.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Labels
from numpy.typing import NDArray
from qtpy.QtCore import QTimer

from cellwright.annotation.history import Edited
from cellwright.annotation.session import AnnotationSession
from cellwright.annotation.setup import MOST_NUMBER
from cellwright.core.errors import AnnotationError, CellwrightError
from cellwright.ops.label_changes import Box
from cellwright.widgets.shared.coordinates import expanded, in_shape, pixel_at, with_axis, without_axis
from cellwright.widgets.shared.edited_layers import is_our_change
from cellwright.widgets.shared.layer_factory import (
    NO_CLASS_COLOUR,
    bright_colour,
    bright_colours,
    class_colour,
    colours_by_label,
    features_by_number,
    note_classes,
    show_outlines,
    texts_of,
    write_classes,
)
from cellwright.widgets.shared.napari_private import (
    camera_of,
    forget_history,
    recolour,
    redraw_box,
    stroke_of,
)

RAY_STEP_PX = 0.5
HIDDEN = "transparent"


class AnnotationLayer:
    """Joins a session and the Labels layer that shows it.

    The layer shows ``session.labels``, with an axis of length one where ``channel_axis`` is given. What could
    not be recorded is told to ``on_error``.
    """

    def __init__(
        self,
        viewer: Any,
        layer: Labels,
        session: AnnotationSession,
        *,
        channel_axis: int | None = None,
        on_error: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self.viewer, self.layer, self.session = viewer, layer, session
        self.channel_axis, self.tell = channel_axis, on_error
        self.on_painted: Callable[[Sequence[int]], None] = lambda _: None  # told the cells of a stroke
        self.hides_reviewed = False
        self._is_pressed = self._is_direct = self._has_classes = self._is_writing = False
        self._fresh: set[int] = set()  # cells of the last edit
        self._contour = 0
        self._show_data()
        show_outlines(layer, session.labels.shape)
        layer.preserve_labels = True
        layer.n_edit_dimensions = 2
        self._colour()
        if self._has_classes and ("class" not in layer.features or self._given_classes()):
            self._write_classes(session.store.numbers())  # the journal knows them
        note_classes(layer, session.metadata.class_names)
        forget_history(layer)
        session.history.events.changed.connect(self._on_changed)
        session.history.events.reviewed.connect(self._on_reviewed)
        session.history.events.classes.connect(self._on_classes)
        layer.events.paint.connect(self._on_paint)
        layer.events.data.connect(self._on_data)
        layer.events.features.connect(self._on_features)
        layer.events.selected_label.connect(self._on_selected_label)
        self._on_selected_label()
        layer.mouse_drag_callbacks.append(self._on_drag)
        viewer.dims.events.ndisplay.connect(self._on_ndisplay)
        self._on_ndisplay()

    def close(self) -> None:
        """Leave the layer as it is, all cells in sight, and follow neither it nor the session."""
        if self.hides_reviewed:
            self.hide_reviewed(is_on=False)  # no key would bring them back
        events = self.session.history.events
        events.changed.disconnect(self._on_changed)
        events.reviewed.disconnect(self._on_reviewed)
        events.classes.disconnect(self._on_classes)
        self.layer.events.paint.disconnect(self._on_paint)
        self.layer.events.data.disconnect(self._on_data)
        self.layer.events.features.disconnect(self._on_features)
        self.layer.events.selected_label.disconnect(self._on_selected_label)
        self.viewer.dims.events.ndisplay.disconnect(self._on_ndisplay)
        if self._on_drag in self.layer.mouse_drag_callbacks:
            self.layer.mouse_drag_callbacks.remove(self._on_drag)

    # -- positions ----------------------------------------------------------------------------------------

    @property
    def is_painting(self) -> bool:
        """Whether a stroke has begun that is not recorded yet; no other edit must come between."""
        return self._is_pressed or bool(getattr(self.layer, "_staged_history", ()))

    def point_of(self, event: Any) -> NDArray[np.float64] | None:
        """Return what a mouse event is at in pixels of the session; None beside the cells of a 3D view."""
        return self._point(event.position, event.view_direction)

    def point_under_cursor(self) -> NDArray[np.float64] | None:
        """Return what the cursor is at in pixels of the session; None beside the cells of a 3D view."""
        dims = self.viewer.dims
        direction = camera_of(self.viewer).calculate_nd_view_direction(dims.ndim, dims.displayed)
        return self._point(self.viewer.cursor.position, direction)

    def _point(self, position: Any, direction: Any) -> NDArray[np.float64] | None:
        n = self.layer.ndim
        world = np.asarray(position, float)[-n:]
        if self.viewer.dims.ndisplay == 2 or direction is None:  # as in a 3D view of a plane alone
            return pixel_at(self.layer, world, self.channel_axis)
        shown = [axis - self.viewer.dims.ndim + n for axis in self.viewer.dims.displayed]
        if min(shown) < 0:  # a plane beside a volume
            return None
        ends = self.layer.get_ray_intersections(world, np.asarray(direction)[-n:], shown)
        if ends[0] is None or ends[1] is None:
            return None
        start, end = (self.from_layer(end) for end in ends)
        points = np.linspace(start, end, int(np.linalg.norm(end - start) / RAY_STEP_PX) + 2)
        pixels = np.clip(np.rint(points).astype(int), 0, np.array(self.session.labels.shape) - 1)
        hits = np.flatnonzero(self.session.labels[tuple(pixels.T)])
        return pixels[hits[0]].astype(float) if len(hits) else None

    def world_of(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where a pixel of the session lies in the world."""
        return np.asarray(self.layer.data_to_world(self.in_layer(point)), float)

    def in_layer(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points (..., D) of the session in pixels of the layer."""
        return with_axis(np.asarray(points, float), self.channel_axis)

    def from_layer(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points (..., axes of the layer) in pixels of the session."""
        return without_axis(np.asarray(points, float), self.channel_axis)

    # -- what is seen -------------------------------------------------------------------------------------

    def hide_reviewed(self, *, is_on: bool) -> None:
        """Take what is reviewed out of sight, or show it again; what was edited last stays to be seen."""
        self.hides_reviewed = is_on
        self._colour()

    def redraw(self, boxes: Iterable[Box]) -> None:
        """Draw boxes of the session again."""
        if not self.layer.visible:
            return
        for box in boxes:
            if not redraw_box(self.layer, self._box_in_layer(box)):
                self.layer.refresh(extent=False, thumbnail=False, highlight=False)
                return

    def _box_in_layer(self, box: Box) -> Box:
        if self.channel_axis is None:
            return box
        return (*box[: self.channel_axis], slice(0, 1), *box[self.channel_axis :])

    def _show_data(self) -> None:
        shown = expanded(self.session.labels, self.channel_axis)
        if self.layer.data is not shown:
            self.layer.data = shown

    def _colour(self) -> None:
        """Colour cells by class where there are classes, else unlike their neighbours; hide some."""
        numbers = self.session.store.numbers().tolist()
        self._has_classes = any(self.session.store.cell(number).category is not None for number in numbers)
        self._is_direct = self._has_classes or self.hides_reviewed
        if not self._is_direct:
            self.layer.colormap = bright_colours()
            return
        colours = {number: self._colour_of(number) for number in numbers}
        self.layer.colormap = colours_by_label(colours, NO_CLASS_COLOUR)

    def _colour_of(self, number: int) -> str:
        category = self.session.store.cell(number).category
        if self.hides_reviewed and number not in self._fresh and self.session.store.is_reviewed(number):
            return HIDDEN
        if category is not None:
            return class_colour(category)
        if self._has_classes:
            return NO_CLASS_COLOUR
        return bright_colour(number)

    def _recolour(self, numbers: Iterable[int]) -> None:
        there = [number for number in numbers if number in self.session.store]
        if not there:
            return
        if not self._is_direct or not recolour(self.layer, {n: self._colour_of(n) for n in there}):
            self._colour()
            return
        self.redraw(self.session.store.box_of(number) for number in there)

    def _on_changed(self, edited: Edited) -> None:
        before, self._fresh = self._fresh, set(edited.numbers)
        if self._is_direct:
            self._recolour(before ^ self._fresh)
        self.redraw(edited.boxes)
        if self._has_classes:
            self._write_classes(edited.numbers)
        else:
            self.layer.events.features()  # what is not drawn, in other slices say, would tell no table of it

    def _on_reviewed(self, numbers: tuple[int, ...]) -> None:
        if self.hides_reviewed:
            self._recolour(numbers)

    def _on_classes(self, numbers: Sequence[int]) -> None:
        numbers = numbers or self.session.store.numbers().tolist()  # without numbers, names have changed
        note_classes(self.layer, self.session.metadata.class_names)
        self._recolour(numbers)
        self._write_classes(numbers)

    def _write_classes(self, numbers: Iterable[int]) -> None:
        self._is_writing = True
        try:
            write_classes(self.layer, {number: self.class_name(number) for number in numbers})
        finally:
            self._is_writing = False

    def _given_classes(self) -> dict[int, str]:
        """Return the cells whose class in the features is another than in the session, and that class."""
        rows = features_by_number(self.layer)
        if "class" not in rows:
            return {}
        known = dict(zip(rows.index.tolist(), texts_of(rows["class"]), strict=True))
        numbers = self.session.store.numbers().tolist()
        return {n: known[n] for n in numbers if n in known and known[n] != self.class_name(n)}

    def _on_features(self, _: Any = None) -> None:
        """Take over classes that cells were given by other means: in a table, say, or by a classifier."""
        if self._is_writing or is_our_change(self.layer):
            return
        given = self._given_classes()
        if given:
            try:
                self.session.set_classes(given)
            except CellwrightError as error:
                self._write_classes(given)
                self.tell(error)

    def class_name(self, number: int) -> str:
        """Return the class of a cell by its name, or its key where nobody has named it; '' for none."""
        category = self.session.store.cell(number).category if number in self.session.store else None
        if category is None:
            return ""
        names = self.session.metadata.class_names
        return names[category] if category < len(names) else str(category + 1)  # one without a name yet

    def _on_ndisplay(self, _: object = None) -> None:
        """Outlines are drawn in slices alone; in a 3D view napari warns of them."""
        is_flat = self.viewer.dims.ndisplay == 2
        if is_flat and self._contour:
            self.layer.contour, self._contour = self._contour, 0
        elif not is_flat and self.layer.contour:
            self._contour, self.layer.contour = self.layer.contour, 0

    # -- painting -----------------------------------------------------------------------------------------

    def _on_drag(self, _: Any, event: Any) -> Iterator[None]:
        self._is_pressed = True
        yield
        while event.type == "mouse_move":
            yield
        self._is_pressed = False

    def _on_selected_label(self, _: Any = None) -> None:
        """Take no number for the brush that cells cannot have; napari's own minus key gives some below 0."""
        chosen = int(self.layer.selected_label)
        if 0 <= chosen <= MOST_NUMBER:
            return
        self.layer.selected_label = min(self.session.store.next_number, MOST_NUMBER)
        self.tell(
            AnnotationError(
                f"The number of a cell must lie between 1 and {MOST_NUMBER}; got {chosen}. The brush draws "
                f"cell {self.layer.selected_label} now."
            )
        )

    def _on_paint(self, event: Any) -> None:
        box, before, after = stroke_of(self.layer.data, event.value)
        if self.channel_axis is not None:
            box = box[: self.channel_axis] + box[self.channel_axis + 1 :]
            before, after = (np.squeeze(one, axis=self.channel_axis) for one in (before, after))
        forget_history(self.layer)
        try:
            self.session.record_paint(box, before, after)
        except CellwrightError as error:
            QTimer.singleShot(0, partial(self._take_back, box, before, after))
            self.tell(error)
        else:
            self.on_painted([int(one) for one in np.union1d(before, after) if one])

    def _take_back(self, box: Box, before: NDArray[Any], after: NDArray[Any]) -> None:
        """Take out what could not be recorded; napari paints a fill or a polygon once it has told of it."""
        painted = self.session.labels[box]
        np.copyto(painted, before, where=painted == after)
        self.redraw([box])

    def _on_data(self, _: Any) -> None:
        """Take over labels that somebody else put into the layer, a model say, as an edit like any other."""
        data, labels = self.layer.data, self.session.labels
        if np.shares_memory(data, labels):
            return
        try:
            self.session.replace_labels(in_shape(np.asarray(data), labels.shape))
        except CellwrightError as error:
            self.tell(error)
        self._show_data()
