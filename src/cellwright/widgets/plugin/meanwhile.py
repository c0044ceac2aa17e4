"""Work that napari waits for, done in a thread while the window goes on.

It imports nothing of ours, for what it imports is loaded while the window waits.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import wraps
from typing import Any, TypeVar

from napari.utils.notifications import show_info
from qtpy.QtCore import QEvent, QEventLoop, QObject, QThread
from qtpy.QtWidgets import QApplication, QMainWindow

Returned = TypeVar("Returned")

NO_LAYERS: list[Any] = [(None,)]  # how napari is told that nothing is to be opened
TURN_S = 0.005  # that the window waits between its turns


class ViewerClosedError(Exception):
    """Ends work for a viewer that a program has closed meanwhile, by ``viewer.close()``."""


def unless_closed(otherwise: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Have a function return something else where its viewer was closed while it read."""

    def quiet(read: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(read)
        def called(*arguments: Any, **named: Any) -> Any:
            try:
                return read(*arguments, **named)
            except ViewerClosedError:
                return otherwise

        return called

    return quiet


def beside_window(work: Callable[..., Returned], *arguments: Any, takes_input: bool = True) -> Returned:
    """Return what ``work`` returns, which is done in a thread while the window draws.

    Clicks and keys are answered meanwhile, or with ``takes_input`` off afterwards; windows stay open until
    then. Called from elsewhere than the thread of the window it is done at once.

    ViewerClosedError where a program has closed the viewer that was in use.
    """
    application = QApplication.instance()
    if application is None or QThread.currentThread() != application.thread():
        return work(*arguments)
    events = QEventLoop.ProcessEventsFlag.AllEvents
    if not takes_input:
        events = QEventLoop.ProcessEventsFlag.ExcludeUserInputEvents
    keeper = _WindowKeeper(_window_in_use())
    for window in QApplication.topLevelWidgets():
        if isinstance(window, QMainWindow):
            window.installEventFilter(keeper)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work, *arguments)
        while wait([future], TURN_S).not_done:
            application.processEvents(events)
        if keeper.is_closed:
            raise ViewerClosedError("The viewer was closed while it waited for this.")
        return future.result()


def _window_in_use() -> QMainWindow | None:
    from napari import current_viewer  # it loads the whole viewer, which is there by now

    viewer = current_viewer()
    return None if viewer is None else viewer.window._qt_window


def _is_taken_away(window: QMainWindow) -> bool:
    """Return whether ``viewer.close()`` closes a window: napari then puts its canvas away before."""
    inside = getattr(window, "_qt_viewer", None)
    return inside is not None and bool(inside.isHidden())


class _WindowKeeper(QObject):
    """Keeps windows from being closed, for napari fails where it puts what was read into one that is gone.

    One whose viewer a program closes goes; ``is_closed`` tells of the window in use.
    """

    def __init__(self, in_use: QMainWindow | None) -> None:
        super().__init__()
        self._in_use, self.is_closed = in_use, False

    def eventFilter(self, window: Any, event: Any) -> bool:
        """Ignore a close event, and tell the user."""
        is_close = event.type() == QEvent.Type.Close
        if is_close and _is_taken_away(window):
            self.is_closed |= window is self._in_use
            return False
        if is_close:
            event.ignore()
            show_info("A file is being read. Close the window once it is open.")
        return bool(is_close)
