"""Layers for the user to draw in: a region to count in, a line across a cell."""

from collections.abc import Callable, Iterator
from typing import Any

from napari.layers import Image as ImageLayer
from napari.layers import Shapes
from qtpy.QtCore import QTimer

from cellwright.widgets.shared.layer_factory import COLOUR
from cellwright.widgets.shared.layer_io import METADATA, whole_placement
from cellwright.widgets.shared.regions import line_length_px

REGION_NAME = "region to count"
LINE_NAME = "line across a cell"
SHORTEST_LINE_PX = 2.0  # a click without a drag is no line


def region_layer(viewer: Any) -> Shapes | None:
    """Return the Shapes layer to take a region from: the active one, else the topmost with shapes."""
    drawn = [layer for layer in viewer.layers if isinstance(layer, Shapes) and METADATA not in layer.metadata]
    active = viewer.layers.selection.active
    if active in drawn:
        return active
    return next((layer for layer in reversed(drawn) if len(layer.data)), drawn[-1] if drawn else None)


def ask_for_region(viewer: Any, layer: ImageLayer) -> Shapes:
    """Return a layer in which the next drag of the mouse draws a rectangle."""
    return _ask(viewer, layer, REGION_NAME, "add_rectangle")


def ask_for_line(viewer: Any, layer: ImageLayer, on_measured: Callable[[float], None]) -> Shapes:
    """Return a layer in which the next drag of the mouse draws a line.

    When it is drawn, ``on_measured`` is given its length in pixels of ``layer``, and the drawing goes away.
    """
    shapes = _ask(viewer, layer, LINE_NAME, "add_line")

    def finish() -> None:
        if shapes not in viewer.layers or not shapes.data:
            return
        length = line_length_px(shapes, layer)
        if length < SHORTEST_LINE_PX:
            shapes.data = []
            return
        viewer.layers.remove(shapes)
        if layer in viewer.layers:
            viewer.layers.selection.active = layer
        on_measured(length)

    def on_drag(_: Shapes, event: Any) -> Iterator[None]:
        yield
        while event.type == "mouse_move":
            yield
        QTimer.singleShot(0, finish)  # napari is still handling the mouse

    shapes.mouse_drag_callbacks.append(on_drag)
    return shapes


def _ask(viewer: Any, layer: ImageLayer, name: str, mode: str) -> Shapes:
    extent = max(layer.data.shape[-2:]) if not layer.multiscale else max(layer.data[0].shape[-2:])
    shapes = viewer.add_shapes(
        ndim=layer.ndim,
        name=name,
        face_color="transparent",
        edge_color=COLOUR,
        edge_width=max(extent / 400, 1.0),
        **whole_placement(layer),
    )
    shapes.mode = mode
    return shapes
