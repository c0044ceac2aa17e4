"""Telling in a panel what went wrong."""

import logging
from typing import Protocol

from cellwright.core.errors import CellwrightError, error_line

logger = logging.getLogger(__name__)


class Panel(Protocol):
    """What has a line for messages."""

    def show_message(self, text: str, *, is_error: bool = False) -> None:
        """Show a line; errors stand out."""


def tell_error(panel: Panel, error: Exception, doing: str) -> None:
    """Tell in a panel what went wrong; what was not foreseen is logged too, with what was being done."""
    if not isinstance(error, CellwrightError):
        logger.error("%s failed", doing, exc_info=error)
    panel.show_message(error_line(error), is_error=True)
