"""Check with mirrored image: the model looks once more, and cells it now sees otherwise come first."""

from collections.abc import Mapping

import numpy as np
from qtpy.QtCore import QObject

from cellwright.annotation.session import AnnotationSession
from cellwright.core.tasks import Progress, Task
from cellwright.inference.settings import EngineSettings
from cellwright.models import store
from cellwright.models.registry import DEFAULT_FAMILY
from cellwright.widgets.annotate.model import AnnotateModel
from cellwright.widgets.shared.job_bar import JobBar

FAMILY = DEFAULT_FAMILY
DIFFERENT = 0.5  # from which disagreement on a cell is told


class MirrorCheck(QObject):
    """Asks the model again, beside the viewer, and hands what it says to the review.

    Parameters
    ----------
    model
        Whose cells are checked.
    job
        Runs the check and shows how far it is.
    """

    def __init__(self, model: AnnotateModel, job: JobBar) -> None:
        super().__init__(job)
        self._model, self._job = model, job
        model.events.opened.connect(self._cancel)
        model.events.closed.connect(self._cancel)
        job.failed.connect(model.fail)
        job.cancelled.connect(lambda: model.tell("The check was cancelled."))

    def _cancel(self) -> None:
        self._job.cancel()

    def check(self) -> bool:
        """Begin, unless a check is under way or nothing is open; return whether it began."""
        session, channel = self._model.session, self._model.channel
        if session is None or self._job.is_busy:
            return False
        engine = EngineSettings(channel=channel.index if channel else None)
        self._job.start(check_task(session.copy(), engine), self._on_checked)
        return True

    def _on_checked(self, found: Mapping[int, float]) -> None:
        context = self._model.context
        if context is None:
            return
        context.review.set_disagreement(found)
        n = sum(value >= DIFFERENT for value in found.values())
        self._model.tell(f"Of {len(found):,} cells the model sees {n:,} otherwise in the mirrored image.")


def check_task(session: AnnotationSession, engine: EngineSettings) -> Task[dict[int, float]]:
    """Return for each cell, by number, how far the model disagrees with it once the image is mirrored."""
    from cellwright.inference.agreement import flip_disagreement

    yield Progress("load", 0, 1)
    labels = session.cells().labels
    assert labels is not None  # a session has some, empty as they may be
    model = next((entry.name for entry in store.models() if entry.spec.family == FAMILY), FAMILY)
    found = yield from flip_disagreement(session.image, labels, model, None, engine)
    return dict(zip(session.ids().tolist(), np.asarray(found, float).tolist(), strict=True))
