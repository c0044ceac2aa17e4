"""Word of cells that were counted, so that the results panel can tell of them; no panel knows the other."""

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from napari.layers import Layer
from psygnal import Signal

from cellwright.core.data import Result

PLUGIN, PANEL = "napari-cellwright", "Results"


@dataclass(frozen=True, slots=True, eq=False)
class CountEvent:
    """A count that is shown: its viewer, its result, and the layer of its cells, if any."""

    viewer: Any
    result: Result
    layer: Layer | None


class CountNews:
    """Tells of counts; the last one of each viewer is kept for a panel that opens later."""

    counted = Signal(CountEvent)

    def __init__(self) -> None:
        self._last: WeakKeyDictionary[Any, CountEvent] = WeakKeyDictionary()

    def tell(self, event: CountEvent) -> None:
        """Tell of a count."""
        self._last[event.viewer] = event
        self.counted.emit(event)

    def last(self, viewer: Any) -> CountEvent | None:
        """Return the last count of a viewer."""
        return self._last.get(viewer)


count_news = CountNews()


def tell_results(viewer: Any, result: Result, layer: Layer | None) -> None:
    """Tell the results panel of a count, and open it beside the other panels for the first one.

    Call it in the GUI thread, after the layers are in the viewer. A viewer without a window has no panel.
    """
    is_first = count_news.last(viewer) is None
    count_news.tell(CountEvent(viewer, result, layer))
    window = getattr(viewer, "window", None)
    if is_first and window is not None and PANEL not in _docked(window):
        window.add_plugin_dock_widget(PLUGIN, PANEL, tabify=True)


def _docked(window: Any) -> list[str]:
    return [str(name).partition(" (")[0] for name in window.dock_widgets]
