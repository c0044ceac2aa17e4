"""Long jobs as generators: they yield :class:`Progress` and return their result.

A script drains one with :func:`run`; a widget hands the same generator to a worker thread and cancels
by closing it. Nothing below the widgets knows which of the two happens.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from threading import Event
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")
STEP_S = 0.1  # from step to step of a call that goes on beside


@dataclass(frozen=True)
class Progress:
    """One step of a job. Made by every task, used by progress bars, logs and curves."""

    stage: str
    done: int
    total: int
    note: str = ""

    @property
    def fraction(self) -> float:
        """Share of this stage that is done, 0 to 1."""
        return self.done / self.total if self.total else 0.0


Task = Generator[Progress, None, T]


def ignore(progress: Progress) -> None:
    """Take no notice of a step."""


def once(stage: str, act: Callable[[], T], note: str = "") -> Task[T]:
    """Return the task of one step that acts, for what is called beside the viewer."""
    yield Progress(stage, 0, 1, note)
    return act()


class Stopped(Exception):
    """Ends a call made by :func:`beside` whose task was closed; nobody sees it."""


_stopped: ContextVar[Event | None] = ContextVar("stopped", default=None)


def stop_point() -> None:
    """Raise Stopped where the task that :func:`beside` has made of this call was closed. Takes no time."""
    stopped = _stopped.get()
    if stopped is not None and stopped.is_set():
        raise Stopped


def beside(stage: str, act: Callable[[], T]) -> Task[T]:
    """Return the task of one long call in a thread of its own, which yields while that goes on.

    A task that is closed ends at once; the call ends at its next :func:`stop_point`, and what it returns is
    lost.
    """
    return _waited(act, lambda: Progress(stage, 0, 1))


def detached(stage: str, task: Task[T]) -> Task[T]:
    """Return the same task made in a thread of its own: closed, it ends at once, the other at its next step.

    ``stage`` is told until the first step.
    """
    last = Progress(stage, 0, 1)

    def on_progress(progress: Progress) -> None:
        nonlocal last
        last = progress
        stop_point()

    def act() -> T:
        with closing(task):
            return run(task, on_progress)

    return _waited(act, lambda: last)


def _waited(act: Callable[[], T], progress: Callable[[], Progress]) -> Task[T]:
    """Return the task of a call in a thread of its own, which tells how far that is."""
    stopped, pool = Event(), ThreadPoolExecutor(1)
    token = _stopped.set(stopped)
    called = pool.submit(copy_context().run, act)
    _stopped.reset(token)
    try:
        while True:
            yield progress()
            if wait((called,), STEP_S).done:
                return called.result()
    finally:
        stopped.set()
        pool.shutdown(wait=False)


def run(task: Task[T], on_progress: Callable[[Progress], None] = ignore) -> T:
    """Return the result of a task, having shown each of its steps to ``on_progress``."""
    while True:
        try:
            on_progress(next(task))
        except StopIteration as end:
            return end.value


def map_progress(task: Task[T], tell: Callable[[Progress], Progress]) -> Task[T]:
    """Return the same task with each of its steps changed by ``tell``; it is closed with this one."""
    with closing(task):
        while True:
            try:
                progress = next(task)
            except StopIteration as end:
                return end.value
            yield tell(progress)


def ahead(
    make: Callable[[S], T], items: Iterable[S], n_threads: int = 1, n_ahead: int = 1
) -> Generator["Future[T]", None, None]:
    """Yield what is made of each item, in threads that begin with it so many items before it is wanted.

    Closed, it begins with no more; what has begun ends by itself.
    """
    pool, waiting = ThreadPoolExecutor(n_threads), deque[Future[T]]()
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > n_ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class Eta:
    """Estimates the seconds left of a stage from its pace so far, the time of stages between left out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage, self._done, self._told = "", 0, 0.0  # of the step before
        self._paces: dict[str, tuple[float, int]] = {}  # of each stage: seconds and steps so far

    def seconds_left(self, progress: Progress) -> float | None:
        """Return the seconds this stage still needs, or None before its second step."""
        now = self._clock()
        seconds, steps = self._paces.get(progress.stage, (0.0, 0))
        if progress.stage == self._stage and progress.done >= self._done:
            seconds, steps = seconds + now - self._told, steps + progress.done - self._done
        self._stage, self._done, self._told = progress.stage, progress.done, now
        self._paces[progress.stage] = (seconds, steps)
        if steps == 0:
            return None
        return seconds / steps * max(progress.total - progress.done, 0)
