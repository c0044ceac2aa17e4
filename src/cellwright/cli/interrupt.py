"""Ctrl-C that is heeded even where Python loses it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from cellwright.core.tasks import Progress


@contextmanager
def heeded_interrupts() -> Iterator[Callable[[Progress], None]]:
    """Lend a function that, called at each step, raises KeyboardInterrupt if Ctrl-C was pressed since.

    Ctrl-C raises at once, as always; but what it raises is printed and forgotten where nobody can catch it,
    in a finaliser or a callback of compiled code. Then the next step, or the end, raises it again.
    """
    is_pressed = False

    def on_interrupt(_: int, __: FrameType | None) -> None:
        nonlocal is_pressed
        is_pressed = True
        raise KeyboardInterrupt

    def check(_: Progress) -> None:
        if is_pressed:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread alone
        yield check
        return
    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield check
        if is_pressed:  # and lost after the last step
            raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, before)
