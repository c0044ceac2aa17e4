"""Cells in the viewer and rows of the table: chosen in one, chosen in the other; edits go to the layer."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from napari.layers import Labels, Layer, Points
from napari.layers import Tracks as TracksLayer
from numpy.typing import NDArray

from cellwright.ops.geometry.tiles import window_between
from cellwright.widgets.results.model import ResultsModel
from cellwright.widgets.shared.cells.followers import follow, write_features
from cellwright.widgets.shared.cells.measured_cells import MeasuredCells
from cellwright.widgets.shared.coordinates import whole_placement
from cellwright.widgets.shared.edited_layers import METADATA, mark_edited, metadata_of
from cellwright.widgets.shared.layer_factory import (
    class_colour,
    class_colours,
    class_order,
    colours_by_label,
    note_classes,
    write_classes,
)
from cellwright.widgets.shared.layer_io import active_kept, take_away
from cellwright.widgets.shared.napari_private import camera_of, look_at, recolour, set_pixels
from cellwright.widgets.shared.point_prompt import CLICK_PX

CHOSEN_NAME = "chosen cell"
TRACKS = "Tracks"
CHOSEN_COLOUR = "white"
RING_SHARE = 1.5  # of the cell's diameter
RING_LEAST_PX = 8.0
LEAST_SEEN_PX, SEEN_PX = 12.0, 60.0  # ring on the canvas that is a dot, and what it becomes
BORDER_SHARE = 0.07  # of the ring's diameter
BRUSHES = ("paint", "erase", "fill", "polygon", "add", "select", "direct", "vertex")  # how modes begin


class ViewerLink:
    """Moves the viewer to a cell, tells which cell was clicked, and writes edits into the layer."""

    def __init__(self, viewer: Any, model: ResultsModel) -> None:
        self.viewer, self.model, self._followers = viewer, model, follow(viewer)
        self.layer: Layer | None = None
        self.image_layer: Layer | None = None
        self._ring: Points | None = None
        self._colours: tuple[Layer | None, Any] = (None, None)  # those before cells were coloured by group
        self._given: Any = None  # those by group
        self._is_clicked = False  # what was clicked is in sight
        viewer.mouse_drag_callbacks.append(self._on_mouse_drag)

    def leave(self) -> None:
        """Listen to the mouse no longer."""
        self.layer = None
        if self._on_mouse_drag in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._on_mouse_drag)

    # -- from the table to the viewer ---------------------------------------------------------------------

    def show(self, row: int) -> None:
        """Move to a cell and light it up; -1 puts the light out."""
        measured, layer = self.model.measured, self.layer
        is_there = measured is not None and layer in self.viewer.layers and 0 <= row < self.model.n_cells
        if not is_there and self._ring is not None and self._ring in self.viewer.layers:
            self._ring.data = np.zeros((0, self._ring.ndim))
        if not is_there or measured is None or layer is None:
            return
        point = self.in_layer(measured, np.array([row]))[0]
        with self._followers.writing():
            if isinstance(layer, Labels):
                layer.selected_label = int(measured.numbers[row])
            else:
                layer.selected_data = {row}
        diameter = self._diameter(measured, row)
        if not self._is_clicked:
            self._come_closer(layer, point, RING_SHARE * diameter)
            look_at(self.viewer, np.asarray(layer.data_to_world(point), float))
        self._light_up(layer, point, diameter)

    def _come_closer(self, layer: Layer, point: NDArray[np.float64], side: float) -> None:
        """Zoom in where what is ``side`` pixels of the layer long would be a dot, as on a whole slide."""
        end = point.copy()
        end[-1] += side
        way = np.subtract(layer.data_to_world(end), layer.data_to_world(point))
        length, camera = float(np.linalg.norm(way)), camera_of(self.viewer)
        if length * camera.zoom < LEAST_SEEN_PX:
            camera.zoom = SEEN_PX / length

    def follow(self, row: int) -> None:
        """Light up a cell that has another place or size now; the viewer stays where it is."""
        measured, layer, ring = self.model.measured, self.layer, self._ring
        if measured is None or layer is None or ring is None:
            return
        if len(ring.data) and ring in self.viewer.layers and layer in self.viewer.layers:
            point = self.in_layer(measured, np.array([row]))[0]
            self._light_up(layer, point, self._diameter(measured, row))

    def go_to_frame(self, axis: str, number: int) -> None:
        """Show a frame or slice of the image."""
        place = self._place_of(axis)
        if place is None:
            return
        self.viewer.dims.set_point(self.viewer.dims.ndim + place, self._world_of_frame(place, number))

    def frame_shown(self, axis: str) -> float:
        """Return which frame or slice of the image the viewer shows."""
        place = self._place_of(axis)
        if place is None:
            return 0.0
        start, step = self._world_of_frame(place, 0), self._world_of_frame(place, 1)
        return float((self.viewer.dims.point[self.viewer.dims.ndim + place] - start) / (step - start))

    def _place_of(self, axis: str) -> int | None:
        """Return which axis of the viewer this one is, from the last, -1; None where there are no cells."""
        measured, layer = self.model.measured, self.image_layer or self.layer
        if measured is None or layer is None:
            return None
        axes = measured.snapshot.image.label_axes.lower()
        place = axes.index(axis) - len(axes)
        if layer.ndim > len(axes) and place <= _channel_axis(measured, layer) - layer.ndim:
            place -= 1  # channels lie behind it
        return place

    def _world_of_frame(self, place: int, number: int) -> float:
        layer = self.image_layer or self.layer
        assert layer is not None
        axis = layer.ndim + place
        if axis < 0:
            return float(number)
        return float(number * layer.scale[axis] + layer.translate[axis])

    def in_layer(self, measured: MeasuredCells, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the centres of cells in pixels of the layer (n, axes of the layer)."""
        layer = self.layer
        assert layer is not None
        if isinstance(layer, Points):
            return np.asarray(layer.data[rows], np.float64)
        points = np.asarray(measured.result.cells.points[rows], np.float64)
        if points.shape[1] < layer.ndim:  # an axis of channels, of length 1
            points = np.insert(points, _channel_axis(measured, layer), 0.0, axis=1)
        return points

    def _light_up(self, layer: Layer, point: NDArray[np.float64], diameter: float) -> None:
        size = max(RING_SHARE * diameter, RING_LEAST_PX)
        if self._ring is None or self._ring not in self.viewer.layers or self._ring.ndim != layer.ndim:
            self._add_ring(layer)
        ring, layers = self._ring, self.viewer.layers
        assert ring is not None
        if layers[-1] is not ring:  # an image that was opened since would hide it
            layers.move(layers.index(ring), len(layers))
        if not np.array_equal(ring.translate, layer.translate) or not np.array_equal(ring.scale, layer.scale):
            ring.scale, ring.translate = layer.scale, layer.translate
        ring.current_size = size
        if len(ring.data):  # in place: the viewer need not look at its size and the list of layers again
            ring.data[0], ring.size[0] = point, size
            ring.refresh(thumbnail=False, highlight=False, extent=False)
        else:
            ring.data = point[np.newaxis]

    def _add_ring(self, layer: Layer) -> None:
        take_away(self.viewer, self._ring)
        self._ring = Points(
            np.zeros((0, layer.ndim)),
            ndim=layer.ndim,
            name=CHOSEN_NAME,
            face_color="transparent",
            border_color=CHOSEN_COLOUR,
            border_width=BORDER_SHARE,
            metadata={METADATA: {"output": "Chosen"}, "preview": True},  # no annotation to learn from
            **whole_placement(layer),
        )
        self._ring.editable = False
        with active_kept(self.viewer):
            self.viewer.add_layer(self._ring)

    def _diameter(self, measured: MeasuredCells, row: int) -> float:
        boxes = measured.result.cells.boxes[row]
        side = float((boxes[1] - boxes[0])[-2:].max())
        if side > 0:
            return side
        if "diameter_px" in measured.table:
            known = float(measured.table["diameter_px"].iloc[row])
            if np.isfinite(known):
                return known
        return RING_LEAST_PX

    def show_tracks(self) -> None:
        """Show the tracks of the cells that count as a layer, in place of those before."""
        layer, measured, tracks = self.layer, self.model.measured, self.model.tracks
        if layer is None or measured is None or tracks is None:
            return
        points = self.in_layer(measured, np.flatnonzero(self.model.kept))
        data = np.column_stack([tracks.numbers, points])
        order = tracks.order
        features = {name: values[order] for name, values in tracks.columns().items()}
        own = {"output": TRACKS, "of": str(layer.unique_id)}
        old = self.tracks_layer
        if old is not None and (not len(data) or old.ndim != layer.ndim):  # napari has no empty ones
            self.viewer.layers.remove(old)
            old = None
        if not len(data):
            return
        if old is not None:
            old.data, old.graph = data[order], tracks.graph
            old.features = features
            return
        made = TracksLayer(
            data[order],
            graph=tracks.graph,
            features=features,
            name=f"{layer.name} tracks",
            metadata={METADATA: own},
            **whole_placement(layer),
        )
        with active_kept(self.viewer):
            self.viewer.add_layer(made)

    @property
    def tracks_layer(self) -> TracksLayer | None:
        """The layer that shows the tracks of the cells that are told of, while it is there."""
        wanted = {"output": TRACKS, "of": "" if self.layer is None else str(self.layer.unique_id)}
        found = (one for one in self.viewer.layers if metadata_of(one) == wanted)
        return next((one for one in found if isinstance(one, TracksLayer)), None)

    # -- from the viewer to the table ---------------------------------------------------------------------

    def row_at(self, position: Sequence[float], direction: Any = None, shown: Any = None) -> int:
        """Return the row of the cell at a place of the world; -1 where there is none.

        In 3D it is the first cell on the way from there in a direction, among the axes that are shown.
        """
        layer, measured = self.layer, self.model.measured
        if layer is None or measured is None or layer not in self.viewer.layers:
            return -1
        value = layer.get_value(position, view_direction=direction, dims_displayed=shown, world=True)
        if isinstance(value, tuple):
            value = value[-1]
        if value is None:
            return -1
        if isinstance(layer, Points):
            return int(value)
        place = np.rint(np.asarray(layer.world_to_data(position[-layer.ndim :]), float))
        if len(place) > measured.result.cells.points.shape[1]:
            place = np.delete(place, _channel_axis(measured, layer))
        rows = measured.rows_of(int(value), place.astype(int).tolist())
        return int(rows[0]) if value and len(rows) else -1

    def _on_mouse_drag(self, viewer: Any, event: Any) -> Iterator[None]:
        """Choose the cell that is clicked, where a click has no other meaning."""
        start = np.asarray(event.pos, float)
        ray = tuple(event.position), event.view_direction, event.dims_displayed
        active = viewer.layers.selection.active
        if str(getattr(active, "mode", "")).startswith(BRUSHES) or tuple(event.modifiers):
            return
        yield
        while event.type == "mouse_move":
            yield
        if np.abs(np.asarray(event.pos, float) - start).max() <= CLICK_PX:
            row = self.row_at(*ray)
            if row >= 0:
                self._is_clicked = True
                self.model.choose(row)
                self._is_clicked = False

    # -- edits of the layer -------------------------------------------------------------------------------

    def delete(self, rows: Sequence[int]) -> None:
        """Delete cells from the layer; napari's undo brings labels back."""
        layer, measured = self.layer, self.model.measured
        if layer is None or measured is None or not rows:
            return
        if isinstance(layer, Points):
            layer.selected_data = set(rows)
            layer.remove_selected()
            return
        labels, starts = measured.result.cells.labels, measured.result.cells.boxes
        assert labels is not None
        parts: list[tuple[NDArray[np.intp], ...]] = []
        for row in rows:
            low, high = np.floor(starts[row, 0]).astype(int), np.ceil(starts[row, 1]).astype(int)
            window = window_between(low, np.maximum(high, low + 1))
            places = np.nonzero(labels[window] == row + 1)
            parts.append(tuple(place + start for place, start in zip(places, low, strict=True)))
        numbers = np.repeat(measured.numbers[list(rows)], [len(part[0]) for part in parts])
        indices = tuple(np.concatenate(one) for one in zip(*parts, strict=True))
        if len(indices) < layer.ndim:
            axis = _channel_axis(measured, layer)
            zeros = np.zeros_like(indices[0])
            indices = (*indices[:axis], zeros, *indices[axis:])
        is_still = layer.data[indices] == numbers  # what was painted since the table was made stays
        set_pixels(layer, tuple(one[is_still] for one in indices), 0)

    def set_class(self, rows: Sequence[int], name: str) -> None:
        """Give cells a class in the features of the layer, and their colour."""
        layer, measured = self.layer, self.model.measured
        if layer is None or measured is None or not rows:
            return
        keys = list(rows)
        if isinstance(layer, Labels):
            keys = measured.numbers[keys].tolist()
        note_classes(layer, dict.fromkeys(filter(None, (*class_order(layer), name))))
        write_classes(layer, dict.fromkeys(keys, name))
        colours = class_colours(layer)
        if self._is_coloured(layer):  # its own come back afterwards
            self._colours = (layer, colours)
        elif isinstance(layer, Points):
            layer.face_color = colours
        elif metadata_of(layer) and recolour(layer, {key: colours.color_dict[key] for key in keys}):
            layer.refresh()
        else:
            layer.colormap = colours
        mark_edited(layer)

    def write_features(self) -> None:
        """Let the features of the layer tell what the table does, so that napari and every export follow."""
        layer, measured = self.layer, self.model.measured
        if layer is not None and measured is not None:
            with self._followers.writing():
                write_features(layer, measured)

    def colour_by(self, groups: dict[str, NDArray[np.bool_]]) -> None:
        """Colour the cells by the group they are in, those in none grey; without groups as they were.

        Those of another layer, that were coloured before, are as they were, too.
        """
        layer, measured = self.layer, self.model.measured
        if layer is None or measured is None:
            return
        looks = "colormap" if isinstance(layer, Labels) else "face_color"
        with self._followers.writing():
            if not groups or not self._is_coloured(layer):
                self._colour_back()
                self._colours = (layer, getattr(layer, looks))
            self._given = None
            if groups:
                self._given = self._colours_of(measured, groups)
                setattr(layer, looks, self._given)

    def _is_coloured(self, layer: Layer | None) -> bool:
        """Return whether a layer is coloured by group; a new count or an annotation may have ended that."""
        if self._given is None or layer is not self._colours[0]:
            return False
        return not isinstance(layer, Labels) or layer.colormap is self._given

    def _colour_back(self) -> None:
        """Give the layer that is coloured by group the colours that it had before."""
        layer, before = self._colours
        if not self._is_coloured(layer):
            return
        if isinstance(layer, Labels):
            layer.colormap = before
        elif isinstance(layer, Points) and metadata_of(layer) and "class" in layer.features:
            layer.face_color = class_colours(layer)  # of points that came since, too
        elif isinstance(layer, Points) and len(before) == len(layer.data):
            layer.face_color = before

    def _colours_of(self, measured: MeasuredCells, groups: dict[str, NDArray[np.bool_]]) -> Any:
        """Return the colour of each cell by its group, as the layer takes them."""
        numbers = np.full(self.model.n_cells, -1)
        for place, mask in enumerate(groups.values()):
            numbers[mask] = place
        colours = [class_colour(int(one)) for one in numbers]
        if isinstance(self.layer, Points):
            return colours
        by_label = dict(zip(measured.numbers.tolist(), colours, strict=True))
        return colours_by_label(by_label, class_colour(-1))


def _channel_axis(measured: MeasuredCells, layer: Layer) -> int:
    image = measured.snapshot.image
    return max(image.axes.find("C") - (len(image.axes) - int(layer.ndim)), 0)
