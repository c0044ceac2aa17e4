"""Asking a model by click: at which point of which image, and the tasks that have the network look at it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Image
from cellwright.core.tasks import Progress, Task
from cellwright.inference.settings import EngineSettings
from cellwright.widgets.shared.layer_io import Source

if TYPE_CHECKING:
    from cellwright.inference.point_prompt import PointPredictor

CLICK_PX = 4  # a mouse that moves further on the screen between press and release drags
MOST_KNOWN = 0.5  # share of an answered cell that may lie in cells counted before


class PromptPoint(NamedTuple):
    """A point in an image: index of the frame, and y and x in its pixels."""

    frame: tuple[int, ...]
    point: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PromptContext:
    """What a model is asked about by click; its answers hold while ``key`` stays the same."""

    source: Source
    model: str
    engine: EngineSettings
    frame: tuple[int, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from others; pixels are not compared."""
        source = self.source
        return (source.layer_id, source.offset, source.image.shape, self.model, self.engine, self.frame)


def prompt_family(image: Image) -> str:
    """Return the family that is asked about an image: query, of volumes flow."""
    return "flow" if "Z" in image.axes else "query"


def questions_task(subject: PromptContext, spot: PromptPoint | None) -> Task["PointPredictor"]:
    """Return questions about a frame that the network has looked at; imports torch in its own thread."""
    yield Progress("load", 0, 1)
    from cellwright.inference.point_prompt import PointPredictor

    questions = PointPredictor(
        subject.source.image, subject.model, engine=subject.engine, frame=subject.frame
    )
    point = None
    if spot is not None:
        point = spot.point
    yield from questions.encode(point)
    return questions


def encode_task(questions: "PointPredictor", spot: PromptPoint) -> Task[None]:
    """Have the network look at the part of the frame around a spot."""
    yield from questions.encode(spot.point)
