"""What the compare panel is about: the models, the images, and what was found in them; no Qt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Layer
from psygnal import Signal

from cellwright.core.data import Image, Result
from cellwright.core.tasks import Progress, Task
from cellwright.files.dataset.folder import Dataset, Item
from cellwright.inference.settings import EngineSettings
from cellwright.models.registry import DEFAULT_FAMILY
from cellwright.widgets.compare.disagreement import Disagreement, disagreement_of
from cellwright.widgets.shared.layer_io import Source, layer_arguments, source_of

if TYPE_CHECKING:
    from cellwright.training.evaluation.compare import Comparison, ModelCount


Found = TypeVar("Found")
FINE = 1000  # steps of one image, for the time left
N_MODELS = 2


class Compared(NamedTuple):
    """What two models found: figures, and of each image the cells only one has, None where one gives none.

    Neither labels nor maps: those of many images do not fit into memory. ``items`` are those of a folder.
    """

    comparison: "Comparison"
    disagreements: tuple[Disagreement | None, ...]
    items: tuple[Item, ...] = ()

    def pairs(self) -> list[tuple["ModelCount", "ModelCount"]]:
        """Return what both models found in each image."""
        return [(first, second) for _, (first, second) in self.comparison.images()]

    def n_in_regions(self) -> int:
        """Return how many images are annotated in regions, and judged inside of these alone."""
        return sum(first.n_regions > 0 for first, _ in self.pairs())

    def n_unique(self) -> tuple[int, int] | None:
        """Return how many cells only the first, and only the second has; None where that is not known."""
        totals = [0, 0]
        for one in self.disagreements:
            if one is None:
                return None
            totals[0] += one.n_unique[0]
            totals[1] += one.n_unique[1]
        return totals[0], totals[1]


@dataclass(frozen=True, slots=True)
class CompareRequest:
    """Two models, and the image or the images of a dataset to compare them on.

    With a ``source`` there is one image, its own.
    """

    models: tuple[str, str]
    data: Dataset | Image
    source: Source | None = None
    channel: int | None = None


class CompareModel:
    """State of one compare panel."""

    changed = Signal(object)  # other figures, None for none

    def __init__(self) -> None:
        self.compared: Compared | None = None

    def show(self, compared: Compared | None) -> None:
        """Keep other figures; None for none."""
        self.compared = compared
        self.changed.emit(compared)


def compare_task(request: CompareRequest) -> Task[tuple[Compared, Layer | None]]:
    """Return what two models find, and of a layer's image the layer of where they disagree."""
    yield Progress("load", 0, 1)
    from cellwright.training.evaluation.compare import compare

    found: list[Disagreement | None] = []

    def keep_disagreement(_: Image, results: Sequence[Result]) -> None:
        first, second = results
        if "density" in (first.gives, second.gives):
            found.append(None)
        else:
            found.append(disagreement_of(first.cells, second.cells))

    engine = EngineSettings(channel=request.channel)
    comparison = yield from compare(request.models, request.data, engine=engine, on_image=keep_disagreement)
    if request.source is None:
        assert isinstance(request.data, Dataset)
        return Compared(comparison, tuple(found), request.data.items), None
    layer = None
    if found[0] is not None:
        layer = found[0].layer(comparison.models, request.source)
    return Compared(comparison, tuple(found)), layer


def whole_progress(task: Task[Found]) -> Task[Found]:
    """Advance a comparison; what it tells is how far all of it is, in fine steps, for the time left."""
    whole = Progress("load", 0, 1)
    try:
        while True:
            try:
                progress = next(task)
            except StopIteration as end:
                found: Found = end.value
                return found
            part = 0.0
            if progress.stage == "compare":
                whole = progress
            elif progress.stage == "tiles":
                part = progress.fraction
            if not whole.note:
                yield progress  # nothing is counted yet
                continue
            note = whole.note
            if whole.total > N_MODELS:
                note += f" · image {whole.done // N_MODELS + 1} of {whole.total // N_MODELS}"
            yield Progress("compare", round(FINE * (whole.done + part)), FINE * whole.total, note)
    finally:
        task.close()


def open_task(compared: Compared, index: int) -> Task[tuple[Layer, ...]]:
    """Return the layers of one image of a dataset: itself, and where the models disagree."""
    yield Progress("open", 0, 1)
    image = compared.items[index].image()
    layer = ImageLayer(np.asarray(image.data), **layer_arguments(image))
    disagreement = compared.disagreements[index]
    if disagreement is None:
        return (layer,)
    return layer, disagreement.layer(compared.comparison.models, source_of(layer))


def usual_pair(families: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the names of the two models to begin with, given the family of each; None for want of one."""
    first = DEFAULT_FAMILY
    if first not in families:
        first = next(iter(families), "")
    others = [name for name in families if name != first]
    alike = [name for name in others if families[name] == families[first]]
    return first or None, next(iter([*alike, *others]), None)
