"""Long jobs as generators: they yield :class:`Progress` and return their result.

A script drains one with :func:`run`; a widget hands the same generator to a worker thread and cancels
by closing it. Nothing below the widgets knows which of the two happens.
"""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


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


def run(task: Task[T], on_progress: Callable[[Progress], None] = ignore) -> T:
    """Return the result of a task, having shown each of its steps to ``on_progress``."""
    while True:
        try:
            on_progress(next(task))
        except StopIteration as end:
            result: T = end.value
            return result


class Eta:
    """Estimates the seconds left from the pace of the current stage."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage = ""
        self._start = 0.0
        self._done_at_start = 0

    def seconds_left(self, progress: Progress) -> float | None:
        """Return the seconds this stage still needs, or None before its second step."""
        now = self._clock()
        if progress.stage != self._stage:
            self._stage, self._start, self._done_at_start = progress.stage, now, progress.done
        advanced = progress.done - self._done_at_start
        if advanced <= 0:
            return None
        return (now - self._start) / advanced * max(progress.total - progress.done, 0)
