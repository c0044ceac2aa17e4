"""Models that count at once by brightness: they stand for networks where panels are tried, not counts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.data import Cells, Image, Provenance, Result
from cellwright.core.tasks import Progress, Task
from cellwright.inference import pipeline, point_prompt
from cellwright.inference.point_prompt import PromptedCell
from cellwright.models import registry, store
from cellwright.ops.codecs.prompts import Prompts
from cellwright.ops.labels import keep_labels, label_properties

DISC_PX = 2.5  # radius of a cell that is added by click
NO_CELL = 0.1  # share of clicks that the model sees nothing at


@dataclass(frozen=True)
class Brightness:
    """What other thresholds are applied to."""

    image: Image


def name_of(model: Any) -> str:
    """Return the name of the first of the models that count together."""
    return str(model if isinstance(model, str | Path) else model[0])


def family_of(model: Any) -> str:
    return next(entry.spec.family for entry in store.models() if entry.name == name_of(model))


def count_with_prediction(
    image: Image, model: Any, settings: Any, engine: Any, **_: Any
) -> Task[tuple[Result, Brightness | None]]:
    yield Progress("load", 0, 1)
    found_in = Provenance(
        "0",
        name_of(model),
        "0" * 64,
        {"engine": asdict(engine)},
        image.name,
        image.shape,
        image.axes,
        image.pixel_size_um,
        "cpu",
        float(np.random.default_rng().random()),
    )
    if family_of(model) == "density":
        density = np.asarray(image.data, np.float32) / 30
        total = float(density.sum())
        cells = Cells.empty(density.ndim)
        interval = (0.8 * total, 1.2 * total)
        return Result(total, cells, found_in, maps={"density": density}, interval=interval), None
    return _decoded(image, model, settings, found_in), Brightness(image)


def recount(result: Result, prediction: Brightness | None, model: Any, settings: Any) -> Result:
    if prediction is None:
        return result
    recounted = _decoded(prediction.image, model, settings, result.provenance)
    return replace(recounted, offset=result.offset)


def _decoded(image: Image, model: Any, settings: Any, found_in: Provenance) -> Result:
    data = np.asarray(image.data)
    threshold = settings.cell_probability + 0.1 * (sum(map(ord, name_of(model))) % 3)
    near = ndimage.generate_binary_structure(data.ndim, 1)
    if image.axes.startswith("T"):
        near[[0, 2]] = False  # frames have cells of their own
    labels, n = ndimage.label(data > threshold, near)
    sizes = np.bincount(labels.ravel(), minlength=n + 1)[1:]
    labels = keep_labels(labels.astype(np.int32), sizes >= settings.min_area_px)
    areas, points, boxes = label_properties(labels)
    scores = np.linspace(0.5, 1.0, len(areas), dtype=np.float32)
    name = registry.get(family_of(model)).name
    found_in = replace(found_in, settings={**found_in.settings, name: asdict(settings)})
    return Result(
        float(len(areas)), Cells(points, boxes, scores, areas, labels), found_in, offset=(0,) * data.ndim
    )


class InstantPredictor:
    """Sees a disc wherever it is asked, now and then nothing."""

    def __init__(self, image: Image, model: Any, **_: Any) -> None:
        self.shape = image.shape[-2:]

    def encode(self, point: Any) -> Task[None]:
        yield from ()

    def probability(self, points: NDArray[Any]) -> NDArray[np.float32]:
        return np.full(len(points), 0.7, np.float32)

    def encode_for(self, prompts: Prompts) -> Task[None]:
        yield from ()

    def segment(self, prompts: Prompts) -> PromptedCell | None:
        return self.cell_at(np.array(prompts.positive[0]))

    def cell_at(self, point: NDArray[Any]) -> PromptedCell | None:
        if np.modf(float(np.sum(point)) * 7.3)[0] < NO_CELL:
            return None
        mask = np.hypot(*(np.indices(self.shape).T - np.asarray(point)).T) <= DISC_PX
        if not mask.any():
            return None
        places = np.argwhere(mask)
        box = np.array([places.min(axis=0), places.max(axis=0) + 1])
        part = mask[box[0, 0] : box[1, 0], box[0, 1] : box[1, 1]]
        return PromptedCell(places.mean(axis=0).astype(np.float32), box, part, 0.7)


@contextmanager
def instant_models() -> Iterator[None]:
    """Let every model of the store count by brightness."""
    entries = [entry for entry in store.models() if entry.spec.family in ("flow", "query", "density")]
    with (
        mock.patch.object(store, "models", return_value=entries),
        mock.patch.object(pipeline, "count_with_prediction", count_with_prediction),
        mock.patch.object(pipeline, "recount", recount),
        mock.patch.object(point_prompt, "PointPredictor", InstantPredictor),
    ):
        yield
