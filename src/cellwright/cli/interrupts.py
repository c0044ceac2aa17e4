"""Ctrl-C, heeded also where Python loses it. Loads nothing, to be there from the first moment."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130  # what shells give for a program that Ctrl-C ended
CANCELLED = "Cancelled."


@contextmanager
def heeded_interrupts() -> Iterator[Callable[[object], None]]:
    """Lend a function that, called at each step, raises KeyboardInterrupt if Ctrl-C was pressed since.

    Ctrl-C raises at once, as always; but what it raises is printed and forgotten where nobody can catch it,
    in a finaliser or a callback of compiled code. Then the next step, or the end, raises it again.
    """
    is_pressed = False

    def on_interrupt(_: int, __: FrameType | None) -> None:
        nonlocal is_pressed
        is_pressed = True
        raise KeyboardInterrupt

    def check(_: object) -> None:
        if is_pressed:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread alone
        yield check
        return
    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield check
        check(None)  # and lost after the last step
    except Exception:
        check(None)  # what it broke is no error
        raise
    finally:
        signal.signal(signal.SIGINT, before)
