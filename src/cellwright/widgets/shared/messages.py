"""What panels tell: how far a job is, how many cells there are, what went wrong."""

import logging
from typing import Protocol

from cellwright.core.errors import CellwrightError, error_line
from cellwright.core.tasks import Progress

logger = logging.getLogger(__name__)

REDRAW_S = 0.25  # a redraw of the panel redraws napari's whole window, slow without a GPU
STAGES = {"load": "Loading the model", "tiles": "Looking at the image", "layers": "Making layers"}


class Panel(Protocol):
    """What has a line for messages."""

    def show_message(self, text: str, *, is_error: bool = False) -> None:
        """Show a line; errors stand out."""


def tell_error(panel: Panel, error: Exception, doing: str) -> None:
    """Tell in a panel what went wrong; what was not foreseen is logged too, with what was being done."""
    if not isinstance(error, CellwrightError):
        logger.error("%s failed", doing, exc_info=error)
    panel.show_message(error_line(error), is_error=True)


def progress_line(progress: Progress, seconds_left: float | None) -> str:
    """Return what a job is doing and how long it still takes.

    Examples
    --------
    ``Tiles: 12 of 40 · 3 s left``
    """
    if progress.note:
        return progress.note.capitalize()
    if progress.total <= 1:
        return STAGES.get(progress.stage, progress.stage.capitalize())
    line = f"{progress.stage.capitalize()}: {progress.done} of {progress.total}"
    if seconds_left is None:
        return line
    return f"{line} · {duration(seconds_left)} left"


def duration(seconds: float) -> str:
    """Return a length of time in the unit people would use.

    Examples
    --------
    ``40 s``, ``12 min``, ``3.5 h``
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


class HasCount(Protocol):
    """A count and, where it is known, its 90 % interval."""

    @property
    def count(self) -> float:
        """How many cells."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """Lower and upper limit of the true count."""


def number_text(result: HasCount) -> str:
    """Return the count as a number, with half the width of its interval where it has one.

    Examples
    --------
    ``2,041``; ``412 ± 18``
    """
    if result.interval is None:
        return f"{result.count:,.0f}"
    low, high = result.interval
    return f"{result.count:,.0f} ± {(high - low) / 2:,.0f}"
