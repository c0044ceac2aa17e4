"""Two models, or more, on the same images: how many each counts, how right it is, and where they disagree."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import isnan, nan
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Cells, Image, Labels, Result
from cellwright.core.errors import AxesError
from cellwright.core.tasks import Progress, Task
from cellwright.files.dataset.folder import Dataset, Item
from cellwright.inference.pipeline import count_cells
from cellwright.inference.settings import EngineSettings
from cellwright.models import store
from cellwright.ops import matching
from cellwright.training.evaluation.evaluate import ImageScore, divided, explained, score_image

OnImage = Callable[[Image, Sequence[Result]], None]
AGREE_IOU = 0.5  # cells of two models that overlap so well are the same cell
BY_CENTRES = "F1 is that of centres in the true cells; outlines are not compared."


@dataclass(frozen=True, slots=True)
class ModelCount:
    """What one model found in one image, in figures: cells and maps can be large and are not kept."""

    model: str
    image: str
    count: float
    interval: tuple[float, float] | None = None  # as in :class:`Result`
    notices: tuple[str, ...] = ()
    score: ImageScore | None = None  # that inside the image's ``n_regions``, if any
    n_regions: int = 0
    truth_notices: tuple[str, ...] = ()  # on how the true cells were read

    @property
    def f1(self) -> float:
        """F1 at IoU 0.5 of outlines or boxes, else that of centres; not a number where it is not known."""
        if self.score is None or not self.score.is_complete:
            return nan
        shares = self.score.shares
        part, whole = shares.get("point_f1", shares.get("box_f1", (nan, 1.0)))
        return self.score.means.get("f1", divided(part, whole, empty=1.0))


@dataclass(frozen=True, slots=True)
class Comparison:
    """What several models found in the same images; ``rows`` go image by image, models in their order."""

    models: tuple[str, ...]
    rows: tuple[ModelCount, ...]

    def images(self) -> Iterator[tuple[str, tuple[ModelCount, ...]]]:
        """Return the name of each image and what each model found in it."""
        n = len(self.models)
        for start in range(0, len(self.rows), n):
            yield self.rows[start].image, self.rows[start : start + n]

    def of(self, model: str) -> tuple[ModelCount, ...]:
        """Return what one model found in each image."""
        return tuple(row for row in self.rows if row.model == model)

    @property
    def notice(self) -> str:
        """A sentence on what F1 tells where it does not go by outlines or boxes; else empty."""
        scores = [row.score for row in self.rows if row.score is not None and not isnan(row.f1)]
        if any("point_f1" in score.shares and "f1" not in score.means for score in scores):
            return BY_CENTRES
        return ""

    def mean(self, model: str, figure: Literal["count", "f1"]) -> float:
        """Return the mean of a figure of a model over images; not a number where that is not known."""
        values = np.array([getattr(row, figure) for row in self.of(model)])
        known = values[~np.isnan(values)]
        return float(known.mean()) if len(known) else nan


def compare(
    models: Sequence[str | Path],
    data: Dataset | Image,
    *,
    engine: EngineSettings = EngineSettings(),  # noqa: B008 - frozen
    on_image: OnImage | None = None,
) -> Task[Comparison]:
    """Return what models (names or folders) find in an image, or in those of a dataset, whose truth is known.

    They are scored inside an image's regions, where it has any. ``on_image`` is given each image and what
    the models found in it, in their order, before that is let go of.

    CheckpointError where there is no such model. CellwrightError where a model cannot count in an image; says
    why.
    """
    names = _titles(models)
    loaded = [store.load(model) for model in models]
    rows: list[ModelCount] = []
    sources: tuple[Image | Item, ...] = (data,) if isinstance(data, Image) else data.items
    for source in sources:
        image, truth, notices = (source, None, ()) if isinstance(source, Image) else explained(source)
        results: list[Result] = []
        own: list[ModelCount] = []
        for name, model in zip(names, loaded, strict=True):
            yield Progress(
                "compare", len(rows) + len(own), len(sources) * len(names), f"{image.name}: {name}"
            )
            result = yield from count_cells(image, model, None, engine)
            row = ModelCount(name, image.name, result.count, result.interval, result.notices)
            if truth is not None and isinstance(source, Item):
                row = replace(row, n_regions=len(source.regions), truth_notices=notices)
                if result.gives == "instances" or source.is_complete:  # else a count tells nothing
                    scored = replace(score_image(source, result, truth), is_complete=source.is_complete)
                    row = replace(row, score=scored)
            own.append(row)
            results.append(result)
        rows += judged_alike(own)
        if on_image is not None:
            on_image(image, results)
    return Comparison(names, tuple(rows))


def judged_alike(rows: Sequence[ModelCount]) -> list[ModelCount]:
    """Return rows of one image whose F1 can be compared: that of centres where a model gives no outlines."""
    shares = [row.score.shares for row in rows if row.score is not None and "f1" not in row.score.means]
    if not any("point_f1" in one for one in shares):
        return list(rows)
    scores = [row.score and replace(row.score, means={}) for row in rows]
    return [replace(row, score=score) for row, score in zip(rows, scores, strict=True)]


def disagreement(first: Cells, second: Cells) -> Labels:
    """Return labels: 1 where only the first found a cell, 2 where only the second did, 0 elsewhere.

    Cells are the same where their IoU is at least ``AGREE_IOU``.

    AxesError where one of them has no outlines, or they belong to images of different shapes.
    """
    if first.labels is None or second.labels is None:
        raise AxesError(
            "Disagreements are drawn from outlines; one of the models gives none. Choose flow or query for "
            "both."
        )
    if first.labels.shape != second.labels.shape:
        raise AxesError(
            f"Results must be of the same image; got shapes {first.labels.shape} and {second.labels.shape}."
        )
    drawn = np.zeros(first.labels.shape, np.int32)
    for number, cells, is_alone in zip((2, 1), (second, first), reversed(alone(first, second)), strict=True):
        assert cells.labels is not None
        drawn[np.concatenate([[False], is_alone])[cells.labels]] = number
    return drawn


def alone(first: Cells, second: Cells) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which cells of the first (N,) and of the second (M,) the other one has not.

    Cells are the same where the IoU of their outlines, of their boxes where one has none, is at least
    ``AGREE_IOU``.
    """
    if first.labels is not None and second.labels is not None:
        table = matching.overlaps(first.labels, second.labels)
    else:
        table = matching.box_overlaps(first.boxes, second.boxes)
    pairs = matching.matched_pairs(table, AGREE_IOU)
    found = np.ones(len(first), np.bool_), np.ones(len(second), np.bool_)
    for is_alone, own in zip(found, pairs.T, strict=True):
        is_alone[own] = False
    return found


def _titles(models: Sequence[str | Path]) -> tuple[str, ...]:
    """Return what to call each model: the name of its folder, numbered where two have the same."""
    names = [Path(model).name for model in models]
    titles = []
    for index, name in enumerate(names):
        if names.count(name) > 1:
            name += f" ({names[: index + 1].count(name)})"
        titles.append(name)
    return tuple(titles)
