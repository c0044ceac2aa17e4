"""Work that napari waits for, done in a thread while the window goes on."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

from qtpy.QtCore import QThread
from qtpy.QtWidgets import QApplication

Returned = TypeVar("Returned")

TURN_S = 0.005  # that the window waits between its turns


def beside_window(work: Callable[..., Returned], *arguments: Any) -> Returned:
    """Return what ``work`` returns, which is done in a thread while the window draws and answers.

    Called from elsewhere than the thread of the window it is done at once.
    """
    application = QApplication.instance()
    if application is None or QThread.currentThread() != application.thread():
        return work(*arguments)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work, *arguments)
        while wait([future], TURN_S).not_done:
            application.processEvents()
        return future.result()
