"""Mouse and keys on the layer that is annotated -> what the tools are told."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.compat import isalive

from cellwright.widgets.annotate.keys import N_CLASS_KEYS, TOOLS
from cellwright.widgets.count.point_prompt import CLICK_PX

if TYPE_CHECKING:
    from cellwright.widgets.annotate.tools import ToolBox

LEFT = 1

Point = NDArray[np.float64]


class InputHandler:
    """Listens to the layer of a toolbox from the beginning until it is closed."""

    def __init__(self, tools: "ToolBox") -> None:
        self._tools, self._layer = tools, tools.view.layer
        self._keys: list[str] = []
        self.is_held = False  # the space bar: the mouse moves the image meanwhile
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
        self._bind_key("Escape", tools.put_down)
        self._bind_key("F1", lambda: tools.pressed.emit("help"))
        self._layer.bind_key("Space", self._hold, overwrite=True)
        self._keys.append("Space")

    def _bind_key(self, key: str, act: Callable[[], None]) -> None:
        def press(_: Any) -> None:
            if isalive(self._tools):  # type: ignore[no-untyped-call]
                act()

        self._layer.bind_key(key, press, overwrite=True)
        self._keys.append(key)

    def _hold(self, _: Any) -> Iterator[None]:
        layer = self._layer
        mode, pan = layer.mode, layer.mouse_pan
        self.is_held = True
        layer.mode, layer.mouse_pan = "pan_zoom", True
        yield
        layer.mode, layer.mouse_pan = mode, pan
        self.is_held = False

    # -- mouse --------------------------------------------------------------------------------------------

    def _on_drag(self, _: Any, event: Any) -> Iterator[None] | None:
        kind = self._tools.kind
        if kind in ("", "brush") or self.is_held or event.button != LEFT:
            return None
        return self._drag(event) if kind == "drag" else self._click(event)

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
        tools.marks.show_drawn(None)
        if len(points) > 1:
            tools.drag(name, np.array(points))
