"""What panels tell: how far a job is, how many cells there are, what went wrong; and what they hand over.

A panel knows no other one: it sends what is to be gone on with to the title of a panel, which is opened as a
tab where it is not yet, and brought to the front. So a count leads to its correction, to a training and back.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakMethod

from napari.layers import Layer
from npe2 import PluginManager
from psygnal import Signal
from qtpy.compat import isalive
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QComboBox, QDockWidget, QWidget

from cellwright.core.data import Provenance, Result
from cellwright.core.errors import CellwrightError
from cellwright.core.tasks import Progress
from cellwright.widgets.shared.edited_layers import ACTIVE_KEPT, metadata_of
from cellwright.widgets.shared.napari_private import PLUGIN, has_window, in_turns, spare_collector, unwrapped
from cellwright.widgets.shared.panel_area import HANDED_OVER, dock_of

REDRAW_S = 0.25  # a redraw of the panel redraws napari's whole window, slow without a GPU
STAGES = {"load": "Loading the model", "tiles": "Looking at the image", "layers": "Making layers"}
TURN_MS = 40  # between a count, the loading of a panel and its opening; the window answers then
# titles of panels, as in the manifest
PANEL, COUNT, ANNOTATE = "Results", "Count cells", "Annotate cells"
TRAIN, FOLDER = "Train a model", "Count a folder"


def listen(signal: Any, slot: Callable[..., None], owner: QObject) -> None:
    """Call a method when a signal, or an event of napari, is emitted, until Qt deletes the owner.

    Python may keep the owner for longer, and a signal must not reach what is being taken away. Nor may it
    find a slot gone that it is about to call: the signal holds a function, which looks for the method.
    """
    method = WeakMethod(slot)

    def hear(*what: Any) -> None:
        found = method()
        if found is not None:
            found(*what)

    signal.connect(hear)
    when_gone(owner, lambda: signal.disconnect(hear))


@contextmanager
def telling(fail: Callable[[CellwrightError], object]) -> Iterator[None]:
    """Tell of an error of ours that ends the block, instead of raising it."""
    try:
        yield
    except CellwrightError as error:
        fail(error)


_kept: set[Callable[[], None]] = set()  # what is still to be called by Qt


def when_gone(owner: QObject, act: Callable[[], None]) -> None:
    """Do something when Qt deletes a panel, or a part of one.

    It is kept until then. What Qt alone refers to is taken for garbage where the owner is, and emptied while
    Qt may still call it, which crashes.
    """

    def gone() -> None:
        _kept.discard(gone)
        act()

    _kept.add(gone)
    owner.destroyed.connect(gone)


def progress_line(progress: Progress, seconds_left: float | None) -> str:
    """Return what a job is doing and how long it still takes: ``Tiles: 12 of 40 · 3 s left``."""
    if progress.note:
        return progress.note[0].upper() + progress.note[1:]  # names keep their capitals
    if progress.total <= 1:
        return STAGES.get(progress.stage, progress.stage.capitalize())
    line = f"{progress.stage.capitalize()}: {progress.done} of {progress.total}"
    if seconds_left is None:
        return line
    return f"{line} · {duration(seconds_left)} left"


def duration(seconds: float) -> str:
    """Return a length of time in the unit people would use: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


@dataclass(frozen=True, slots=True)
class CountEvent:
    """A count that is shown: number, ``unique_id`` of the layer of its cells, if any, how it was found."""

    count: float
    interval: tuple[float, float] | None
    layer_id: str
    provenance: Provenance


@dataclass(frozen=True, slots=True, eq=False)
class HandOver:
    """What a panel is to go on with."""

    image: Layer | None = None  # layers of the viewer; None leaves what is chosen
    cells: Layer | None = None
    model: str = ""  # name or folder of a model; empty leaves what is chosen
    classifier: str = ""  # name of a classifier; the same
    begins: bool = False  # whether it is to begin at once


class ViewerNews:
    """What the panels of one viewer tell each other."""

    counted = Signal(CountEvent)
    sent = Signal(str, HandOver)  # title of the panel that is to go on

    def __init__(self) -> None:
        self.last: CountEvent | None = None  # kept for a panel that opens later
        self.is_latest = False  # whether no other layer was made the active one since
        self.opened: dict[str, Any] = {}  # of images of a counted folder, by the id of their layer
        self.saved: dict[str, int] = {}  # what layers of their cells held when opened or saved, by their id

    def note_choice(self, _: Any = None) -> None:
        """Take the active layer for what the user has chosen last."""
        if not ACTIVE_KEPT.get():
            self.is_latest = False

    def counted_layers(self, layers: Iterable[Layer]) -> list[Layer]:
        """Return the cells of the last count and their image, none where another layer was chosen since."""
        if self.last is None or not self.is_latest:
            return []
        by_id = {str(layer.unique_id): layer for layer in layers}
        cells = by_id.get(self.last.layer_id)
        if cells is None:
            return []
        image = by_id.get(str(metadata_of(cells).get("source")))
        return [one for one in (cells, image) if one is not None]


_news: WeakKeyDictionary[Any, ViewerNews] = WeakKeyDictionary()


def news_of(viewer: Any) -> ViewerNews:
    """Return what the panels of a viewer listen to."""
    return _news.setdefault(unwrapped(viewer), ViewerNews())


def tell_results(viewer: Any, result: Result, layer: Layer | None, panel: QWidget | None = None) -> None:
    """Tell the results panel of a count, and open it as a tab beside the other panels for the first one.

    It opens a moment later, in a turn of the event loop of its own. Call it in the GUI thread, after the
    layers are in the viewer. A viewer without a window has no panel. The panel that counted stays in front,
    except of a series in time, whose counts are a table.
    """
    viewer = unwrapped(viewer)
    news = news_of(viewer)
    is_first = news.last is None
    layer_id = "" if layer is None else str(layer.unique_id)
    news.last, news.is_latest = CountEvent(result.count, result.interval, layer_id, result.provenance), True
    if is_first:
        viewer.layers.selection.events.active.connect(news.note_choice)
    news.counted.emit(news.last)
    if is_first and has_window(viewer) and panel_in(viewer.window, PANEL) is None:
        front = None if is_series(result) else panel
        spare_collector(viewer)  # PyTorch has come
        in_turns(_open_results(viewer, front), TURN_MS)


def _open_results(viewer: Any, front: QWidget | None) -> Iterator[None]:
    """Open the results panel, where the window is still there and the user has not opened it meanwhile."""
    yield
    try:
        load_panel(PANEL)  # loaded by now, in further turns
    except RuntimeError:  # npe2's, of whatever kept it from being loaded
        if has_window(viewer):
            raise
        return
    yield
    if not has_window(viewer) or panel_in(viewer.window, PANEL) is not None:
        return
    dock = open_panel(viewer, PANEL)
    if front is not None and isalive(front):
        dock = dock_of(front)
    if dock is not None:
        dock.raise_()


def is_series(result: Result) -> bool:
    """Return whether several frames were counted."""
    found_by = result.provenance
    return any(axis == "T" and n > 1 for axis, n in zip(found_by.axes, found_by.image_shape, strict=False))


def panel_in(window: Any, title: str) -> QDockWidget | None:
    """Return the dock of the panel of this title, whoever opened it."""
    found = (widget for name, widget in window.dock_widgets.items() if name.partition(" (")[0] == title)
    return dock_of(next(found, None))


def open_panel(viewer: Any, title: str) -> QDockWidget | None:
    """Return the dock of the panel of this title, opened as a tab where it is not there.

    Its name is that of napari's menu, which would open a second one otherwise.
    """
    window, make = viewer.window, load_panel(title)
    dock = panel_in(window, title)
    if dock is None:
        name = f"{title} ({PluginManager.instance().get_manifest(PLUGIN).display_name})"
        dock = window.add_dock_widget(make(viewer), name=name, tabify=True)
        dock.setProperty(HANDED_OVER, True)  # noqa: FBT003 - Qt calls it so
    return dock


def load_panel(title: str) -> Callable[..., Any]:
    """Return what makes a panel of this title; its code is loaded while the window draws."""
    panels = PluginManager.instance().iter_widgets()
    (panel,) = [one for one in panels if (one.plugin_name, one.display_name) == (PLUGIN, title)]
    return panel.get_callable()


def choose_entry(box: QComboBox, data: str) -> None:
    """Choose the entry with this data as a user would; nothing where there is none."""
    place = box.findData(data)
    if data and place >= 0:
        box.setCurrentIndex(place)
        box.activated.emit(place)


def choose_layer(box: QComboBox, layer: Layer | None) -> None:
    """Choose the entry of a layer; nothing where there is none."""
    if layer is not None:
        choose_entry(box, str(layer.unique_id))


def hand_over(viewer: Any, panel: str, what: HandOver) -> None:
    """Open a panel as a tab beside the others, bring it to the front, and let it go on with this.

    A viewer without a window has the panels that were made for it.
    """
    viewer = unwrapped(viewer)
    dock = None if getattr(viewer, "window", None) is None else open_panel(viewer, panel)
    news_of(viewer).sent.emit(panel, what)
    if dock is not None:
        dock.show()
        dock.raise_()
