"""A progress bar with the time left, on stderr where that is a terminal, and Ctrl-C that is heeded."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from types import FrameType

from cellwright.core.tasks import Progress, T, Task, ignore, run

INTERRUPTED = 130  # what shells give for a program that Ctrl-C ended


def run_with_bar(
    task: Task[T],
    label: str,
    *,
    stages: tuple[str, ...] = (),
    on_progress: Callable[[Progress], None] = ignore,
) -> T:
    """Return the result of a task while a bar shows its steps; an interrupt frees what the task holds.

    Parameters
    ----------
    label
        What stands before the bar.
    stages
        Show these stages alone; all when empty.
    on_progress
        Told of every step as well.
    """
    bar = _bar(label, stages) if sys.stderr.isatty() else nullcontext(ignore)
    with closing(task), heeded_interrupts() as check, bar as show:

        def tell(progress: Progress) -> None:
            check(progress)
            show(progress)
            on_progress(progress)

        return run(task, tell)


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


@contextmanager
def _bar(label: str, stages: tuple[str, ...]) -> Iterator[Callable[[Progress], None]]:
    """Lend a function that moves a bar on the terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    # stdout may be a pipe: rich would turn what is printed there to stderr
    with Bars(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bars:
        bar = bars.add_task(label, total=None, note="")
        stage = ""

        def show(progress: Progress) -> None:
            nonlocal stage
            if stages and progress.stage not in stages:
                return
            if progress.stage != stage:  # another stage has another pace
                stage = progress.stage
                bars.reset(bar)
            text = f"{label} · {stage}"
            bars.update(
                bar, description=text, completed=progress.done, total=progress.total, note=progress.note
            )

        yield show
