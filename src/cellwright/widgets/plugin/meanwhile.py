"""Work that napari waits for, done in a thread while the window goes on."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

from napari.utils.notifications import show_info
from qtpy.QtCore import QEvent, QEventLoop, QObject, QThread
from qtpy.QtWidgets import QApplication, QMainWindow

Returned = TypeVar("Returned")

TURN_S = 0.005  # that the window waits between its turns


def beside_window(work: Callable[..., Returned], *arguments: Any, takes_input: bool = True) -> Returned:
    """Return what ``work`` returns, which is done in a thread while the window draws.

    Clicks and keys are answered meanwhile, or with ``takes_input`` off afterwards; windows stay open until
    then. Called from elsewhere than the thread of the window it is done at once.
    """
    application = QApplication.instance()
    if application is None or QThread.currentThread() != application.thread():
        return work(*arguments)
    events = QEventLoop.ProcessEventsFlag.AllEvents
    if not takes_input:
        events = QEventLoop.ProcessEventsFlag.ExcludeUserInputEvents
    keeper = _WindowKeeper()
    for window in QApplication.topLevelWidgets():
        if isinstance(window, QMainWindow):
            window.installEventFilter(keeper)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work, *arguments)
        while wait([future], TURN_S).not_done:
            application.processEvents(events)
        return future.result()


class _WindowKeeper(QObject):
    """Keeps windows from being closed, for napari fails where it puts what was read into one that is gone."""

    def eventFilter(self, _: Any, event: Any) -> bool:
        """Ignore a close event, and tell the user."""
        is_close = event.type() == QEvent.Type.Close
        if is_close:
            event.ignore()
            show_info("A file is being read. Close the window once it is open.")
        return bool(is_close)
