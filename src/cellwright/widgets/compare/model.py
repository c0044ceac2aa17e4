"""What the compare panel is about: the models, the images, and what was found in them; no Qt."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.layers import Layer, Points
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.data import Cells, Image, Labels, Result
from cellwright.core.tasks import Progress, Task, map_progress
from cellwright.files.dataset.folder import Dataset, Item
from cellwright.inference.settings import EngineSettings
from cellwright.models.registry import DEFAULT_FAMILY
from cellwright.widgets.shared.coordinates import expanded, with_axis
from cellwright.widgets.shared.edited_layers import METADATA
from cellwright.widgets.shared.layer_factory import colours_by_label
from cellwright.widgets.shared.layer_io import Source, layer_arguments, source_of
from cellwright.widgets.shared.napari_private import preferences

if TYPE_CHECKING:
    from cellwright.training.evaluation.compare import Comparison, ModelCount


Found = TypeVar("Found")
FINE = 1000  # steps of one image, for the time left
N_MODELS = 2
COLOURS = ("#ff9f1c", "#3fd0c9")  # of the first and the second model
DISAGREEMENT = "disagreement"
OUTLINE_SHARE = 0.08  # width of an outline in the diameter of a cell
WIDEST_PX = 4
POINT_SHARE = 0.5  # diameter of a point in that of its cell


@dataclass(frozen=True, slots=True)
class RingPixels:
    """Pixels of an image of the given shape, as flat indices, and the number of the cell around each."""

    shape: tuple[int, ...]
    pixels: NDArray[np.int64]
    numbers: NDArray[np.int32]

    def labels(self) -> Labels:
        """Return them as an image of labels."""
        drawn = np.zeros(self.shape, np.int32)
        drawn.ravel()[self.pixels] = self.numbers
        return drawn


@dataclass(frozen=True, slots=True)
class Disagreement:
    """The cells only one of two models found, in the form in which they are drawn: nothing larger is kept."""

    n_unique: tuple[int, int]  # cells only the first, and only the second found, numbered in this order
    drawn: RingPixels | NDArray[np.float32]  # rings around the cells, or their points (N, D)
    diameter_px: float = 1.0  # of the points

    @property
    def owners(self) -> NDArray[np.intp]:
        """Which model, 0 or 1, found each of the cells."""
        return np.repeat((0, 1), self.n_unique)

    def layer(self, models: Sequence[str], source: Source) -> Layer:
        """Return a layer of the cells in the colour of their model; its feature ``only`` names that model."""
        own = {"source": source.layer_id, "output": DISAGREEMENT, "is_preview": True}
        arguments = {
            "name": f"{source.image.name} {DISAGREEMENT}",
            "metadata": {METADATA: own, "preview": True},  # no annotation to learn from
            **source.placement,
        }
        names = np.array(models)[self.owners]
        if isinstance(self.drawn, RingPixels):
            labels = expanded(self.drawn.labels(), source.channel_axis)
            colours = {number: COLOURS[owner] for number, owner in enumerate(self.owners, start=1)}
            return LabelsLayer(
                labels,
                features={"only": np.array(["", *names])},  # row k is that of label k
                colormap=colours_by_label(colours),
                opacity=0.9,
                **arguments,
            )
        points = with_axis(self.drawn, source.channel_axis)
        return Points(
            points,
            ndim=points.shape[1],
            features={"only": names},
            face_color=[COLOURS[owner] for owner in self.owners] or "white",
            border_color="black",
            size=self.diameter_px,
            **arguments,
        )


def disagreement_of(first: Cells, second: Cells) -> Disagreement:
    """Return the cells that only one of two models found in the same image."""
    from cellwright.training.evaluation.compare import alone

    unique = alone(first, second)
    n_unique = int(unique[0].sum()), int(unique[1].sum())
    if first.labels is not None and second.labels is not None:
        drawn = outlines_of(first.labels, unique[0], 0)
        above = outlines_of(second.labels, unique[1], n_unique[0])
        drawn = np.where(above > 0, above, drawn)
        pixels = np.flatnonzero(drawn)
        return Disagreement(n_unique, RingPixels(drawn.shape, pixels, drawn.ravel()[pixels]))
    points = np.concatenate([first.points[unique[0]], second.points[unique[1]]])
    boxes = np.concatenate([first.boxes[unique[0]], second.boxes[unique[1]]])
    diameter = 1.0
    if len(boxes):
        sides = boxes[:, 1, -2:] - boxes[:, 0, -2:]
        diameter = max(POINT_SHARE * float(np.median(sides)), 1.0)
    return Disagreement(n_unique, points, diameter)


def outlines_of(labels: Labels, chosen: NDArray[np.bool_], start: int) -> Labels:
    """Return the outlines of the chosen cells (N,), numbered from ``start`` + 1; so that others show through.

    Of volumes the outlines in each slice.
    """
    numbers = np.zeros(len(chosen) + 1, np.int32)
    numbers[1:][chosen] = np.arange(start + 1, start + 1 + int(chosen.sum()))
    areas = np.bincount(labels.ravel(), minlength=2)[1:]
    area = float(np.median(areas[areas > 0])) if areas.any() else 1.0
    diameter = 2 * math.sqrt(area / math.pi)
    if labels.ndim > 2:
        diameter = 2 * (0.75 * area / math.pi) ** (1 / 3)
    width = int(np.clip(round(OUTLINE_SHARE * diameter), 1, WIDEST_PX))
    size = (1,) * (labels.ndim - 2) + (2 * width + 1,) * 2
    is_edge = ndimage.minimum_filter(labels, size, mode="constant") != ndimage.maximum_filter(labels, size)
    return np.where(is_edge, numbers[labels], np.int32(0))


class Compared(NamedTuple):
    """What two models found: figures, and of each image the cells only one has, None where one gives none.

    Neither labels nor maps: those of many images do not fit into memory. ``items`` are those of a folder,
    ``truth`` is the name of the layer that the cells of an image were compared with.
    """

    comparison: "Comparison"
    disagreements: tuple[Disagreement | None, ...]
    items: tuple[Item, ...] = ()
    truth: str = ""

    def pairs(self) -> list[tuple["ModelCount", "ModelCount"]]:
        """Return what both models found in each image."""
        return [(first, second) for _, (first, second) in self.comparison.images()]

    def n_in_regions(self) -> int:
        """Return how many images are annotated in regions, and judged inside these alone."""
        return sum(first.n_regions > 0 for first, _ in self.pairs())

    def n_unique(self) -> tuple[int, int] | None:
        """Return how many cells only the first, and only the second has; None where that is not known."""
        each = [one.n_unique for one in self.disagreements if one is not None]
        if len(each) < len(self.disagreements):
            return None
        return sum(first for first, _ in each), sum(second for _, second in each)


@dataclass(frozen=True, slots=True)
class CompareRequest:
    """Two models, and the image or the images of a dataset to compare them on.

    With a ``source`` there is one image, its own, and ``truth`` is the name of the layer of its true cells.
    """

    models: tuple[str, str]
    data: Dataset | Image
    source: Source | None = None
    channel: int | None = None
    truth: str = ""


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

    engine = EngineSettings(channel=request.channel, device=preferences().device)
    comparison = yield from compare(request.models, request.data, engine=engine, on_image=keep_disagreement)
    if request.source is None:
        assert isinstance(request.data, Dataset)
        return Compared(comparison, tuple(found), request.data.items), None
    (disagreement,) = found
    layer = None if disagreement is None else disagreement.layer(comparison.models, request.source)
    return Compared(comparison, tuple(found), truth=request.truth), layer


def whole_progress(task: Task[Found]) -> Task[Found]:
    """Advance a comparison; what it tells is how far all of it is, in fine steps, for the time left."""
    whole = Progress("load", 0, 1)

    def tell(progress: Progress) -> Progress:
        nonlocal whole
        part = progress.fraction if progress.stage == "tiles" else 0.0
        if progress.stage == "compare":
            whole = progress
        if not whole.note:
            return progress  # nothing is counted yet
        note = whole.note
        if whole.total > N_MODELS:
            note += f" · image {whole.done // N_MODELS + 1} of {whole.total // N_MODELS}"
        return Progress("compare", round(FINE * (whole.done + part)), FINE * whole.total, note)

    return map_progress(task, tell)


def open_compared(compared: Compared, index: int) -> Task[tuple[Layer, ...]]:
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
