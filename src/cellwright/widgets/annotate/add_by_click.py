"""Adding a cell by click: the model outlines what is there; where it sees nothing, a disc is drawn."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]

from cellwright.annotation.session import DISC_PX, AnnotationSession
from cellwright.core.errors import AnnotationError, CellwrightError
from cellwright.inference.settings import EngineSettings
from cellwright.models import store
from cellwright.ops.label_changes import Box
from cellwright.widgets.shared.jobs import Job
from cellwright.widgets.shared.layer_io import Source
from cellwright.widgets.shared.point_prompt import (
    MOST_KNOWN,
    PromptContext,
    PromptPoint,
    encode_task,
    prompt_family,
    questions_task,
)

if TYPE_CHECKING:
    from cellwright.inference.point_prompt import PointPredictor, PromptedCell

SAMPLE = 200  # cells whose size tells that of a disc


class Adder(QObject):
    """Adds a cell where it is asked to; the network looks at each frame once, beside the viewer.

    Parameters
    ----------
    session
        What is added to.
    source
        The whole image, for the model.
    parent
        Qt parent.
    """

    done = Signal(str)  # what was done, for people
    failed = Signal(object)  # Exception

    def __init__(self, session: AnnotationSession, source: Source, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._session, self._source = session, source
        self._questions: dict[tuple[str, tuple[int, ...]], PointPredictor] = {}
        self._waiting: list[PromptPoint] = []
        self.channel: int | None = None
        self.diameter_px = 0.0
        self.uses_model = True
        self.model = ""  # name or folder of the one to ask, where it can be asked
        self.job: Job | None = None

    def close(self) -> None:
        """Ask what runs to stop; its answer is not used."""
        self._waiting.clear()
        if self.job is not None:
            self.job.cancel()

    def add(self, point: NDArray[np.float64]) -> None:
        """Add the cell at a point (pixels of the session), at once or when the network has looked."""
        inside = np.rint(point)
        if np.any(inside < 0) or np.any(inside >= self._session.labels.shape):
            return
        spot = PromptPoint(tuple(int(i) for i in np.rint(point[:-2])), np.asarray(point[-2:], float))
        known = self._session.number_at(point)
        if known:
            self.done.emit(f"This is cell {known} already.")
        elif not self.uses_model:
            self._add_disc(spot)
        else:
            self._waiting.append(spot)
            self._go_on()

    def _go_on(self) -> None:
        """Answer what can be answered, and have the network look for the rest."""
        while self._waiting and self.job is None:
            spot = self._waiting[0]
            questions = self._questions.get((self.model, spot.frame))
            try:
                is_ready = questions is not None and next(questions.encode(spot.point), None) is None
            except CellwrightError as error:
                self._fail(error)
                return
            if questions is not None and is_ready:
                self._waiting.pop(0)
                self._answer(questions, spot)
            else:
                self._look(spot, questions)

    def _look(self, spot: PromptPoint, questions: "PointPredictor | None") -> None:
        try:
            subject = PromptContext(self._source, self._model(), self._engine(), spot.frame)
        except CellwrightError as error:
            self._fail(error)
            return
        if questions is None:
            self.job = Job(questions_task(subject, spot), self)
            key = self.model, spot.frame
            self.job.returned.connect(lambda found: self._questions.__setitem__(key, found))
        else:
            self.job = Job(encode_task(questions, spot), self)
        self.job.failed.connect(self._fail)
        self.job.finished.connect(self._on_job_finished)
        self.done.emit("The model looks at the image …")
        self.job.start()

    def _on_job_finished(self) -> None:
        self.job = None
        self._go_on()

    def _fail(self, error: Exception) -> None:
        self._waiting.clear()
        self.failed.emit(error)

    def _answer(self, questions: "PointPredictor", spot: PromptPoint) -> None:
        try:
            cell = questions.cell_at(spot.point)
            if cell is None or self._covers(cell, spot):
                self._add_disc(spot)
                return
            number = self._session.add(cell.mask, (*spot.frame, *cell.box[0].tolist()), score=cell.score)
            self.done.emit(f"Added cell {number}, outlined by the model ({cell.score:.2f}).")
        except CellwrightError as error:
            self.failed.emit(error)

    def _covers(self, cell: "PromptedCell", spot: PromptPoint) -> bool:
        """Return whether the model took the point for part of cells that are there."""
        rows, columns = (slice(int(a), int(b)) for a, b in cell.box.T)
        box: Box = (*(slice(i, i + 1) for i in spot.frame), rows, columns)
        known = self._session.labels[box].reshape(cell.mask.shape) > 0
        return bool(known[cell.mask].mean() > MOST_KNOWN)

    def _add_disc(self, spot: PromptPoint) -> None:
        diameter = self.diameter_px or typical_diameter(self._session)
        point = np.array([*spot.frame, *spot.point], float)
        try:
            number = self._session.add_disc(point, diameter)
        except AnnotationError as error:
            self.failed.emit(error)
            return
        why = "the model was not asked"
        if self.uses_model:
            why = "the model sees none"
        self.done.emit(f"Added cell {number} as a disc of {diameter:.0f} px; {why}.")

    def _model(self) -> str:
        family = prompt_family(self._source.image)
        chosen = {entry.name: entry.spec.family for entry in store.models()}.get(self.model)
        if chosen in (family, "flow") and chosen is not None:
            return self.model
        names = {entry.spec.family: entry.name for entry in store.models()}
        return names.get(family) or names.get("flow") or family

    def _engine(self) -> EngineSettings:
        return EngineSettings(channel=self.channel, diameter_px=self.diameter_px)


def typical_diameter(session: AnnotationSession) -> float:
    """Return the middle diameter of the cells in pixels; that of a disc where there are none."""
    numbers = session.ids()[:: max(session.n_cells // SAMPLE, 1)].tolist()
    sides = [part.stop - part.start for number in numbers for part in session.box_of(number)[-2:]]
    if not sides:
        return DISC_PX
    return float(np.median(sides))
