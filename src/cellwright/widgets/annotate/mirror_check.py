"""Checking an annotation by flips: the model looks once more, and cells it now sees otherwise come first."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QObject

from cellwright.annotation.session import AnnotationSession
from cellwright.core.tasks import Progress, Task
from cellwright.inference.settings import EngineSettings
from cellwright.models import store
from cellwright.models.registry import DEFAULT_FAMILY

if TYPE_CHECKING:
    from cellwright.widgets.annotate.widget import AnnotateWidget

FAMILY = DEFAULT_FAMILY
DIFFERENT = 0.5  # from which disagreement on a cell is told


class Checker(QObject):
    """Asks the model again, beside the viewer, and hands what it says to the review.

    Parameters
    ----------
    widget
        Whose cells are checked.
    """

    def __init__(self, widget: "AnnotateWidget") -> None:
        super().__init__(widget)
        self._widget, self._job = widget, widget.panel.check_job
        widget.panel.check.clicked.connect(self.check)
        widget.session_changed.connect(self._job.cancel)
        self._job.failed.connect(widget.show_error)
        self._job.cancelled.connect(lambda: widget.tell("The check was cancelled."))
        self._job.finished.connect(lambda: widget.panel.check.setEnabled(True))

    def check(self) -> None:
        """Begin, unless a check is under way."""
        desk, channel = self._widget.desk, self._widget.channel
        if desk is None or self._job.is_busy:
            return
        self._widget.panel.check.setEnabled(False)
        engine = EngineSettings(channel=channel.index if channel else None)
        self._job.start(check_task(desk.session.copy(), engine), self._on_checked)

    def _on_checked(self, found: Mapping[int, float]) -> None:
        desk = self._widget.desk
        if desk is None:
            return
        desk.review.take_disagreement(found)
        n = sum(value >= DIFFERENT for value in found.values())
        self._widget.tell(f"Of {len(found):,} cells the model sees {n:,} otherwise in the flipped image.")


def check_task(session: AnnotationSession, engine: EngineSettings) -> Task[dict[int, float]]:
    """Return for each cell, by number, how far the model disagrees with it once the image is flipped."""
    from cellwright.inference.agreement import flip_disagreement

    yield Progress("load", 0, 1)
    labels = session.cells().labels
    assert labels is not None  # a session has some, empty as they may be
    model = next((entry.name for entry in store.models() if entry.spec.family == FAMILY), FAMILY)
    found = yield from flip_disagreement(session.image, labels, model, None, engine)
    return dict(zip(session.ids().tolist(), np.asarray(found, float).tolist(), strict=True))
