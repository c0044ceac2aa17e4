"""Work that napari waits for, done in a thread while the window goes on."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

from qtpy.QtCore import QEventLoop, QThread
from qtpy.QtWidgets import QApplication

Returned = TypeVar("Returned")

TURN_S = 0.005  # that the window waits between its turns


def beside_window(work: Callable[..., Returned], *arguments: Any, takes_input: bool = True) -> Returned:
    """Return what ``work`` returns, which is done in a thread while the window draws.

    Clicks and keys are answered meanwhile, or with ``takes_input`` off afterwards. Called from elsewhere than
    the thread of the window it is done at once.
    """
    application = QApplication.instance()
    if application is None or QThread.currentThread() != application.thread():
        return work(*arguments)
    events = QEventLoop.ProcessEventsFlag.AllEvents
    if not takes_input:
        events = QEventLoop.ProcessEventsFlag.ExcludeUserInputEvents
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work, *arguments)
        while wait([future], TURN_S).not_done:
            application.processEvents(events)
        return future.result()
