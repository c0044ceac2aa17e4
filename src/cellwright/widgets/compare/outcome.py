"""What comparing two models gives: their figures, and as a layer the cells only one of them found."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.layers import Layer, Points
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.data import Cells, Image, Labels
from cellwright.core.tasks import Progress, Task
from cellwright.files.dataset.folder import Dataset, Item
from cellwright.inference.settings import EngineSettings
from cellwright.widgets.annotate.proofread.images import layer_arguments
from cellwright.widgets.count.count_request import number_text
from cellwright.widgets.shared.layer_io import METADATA, Source, source_of

if TYPE_CHECKING:
    from cellwright.training.evaluation.compare import Comparison, CountOutcome

    Pair = tuple[CountOutcome, CountOutcome]

COLOURS = ("#ff9f1c", "#3fd0c9")  # of the first and the second model
QUIET = "#9aa0aa"
DISAGREEMENT = "disagreement"
OUTLINE_SHARE = 0.08  # width of an outline in the diameter of a cell
WIDEST_PX = 4
POINT_SHARE = 0.5  # diameter of a point in that of its cell
LONGEST_NAME = 30  # letters of a model's name that fit into the panel
LONGEST_LARGE = 6  # characters of a count that fit twice, large

Alone = tuple[NDArray[np.bool_], NDArray[np.bool_]]


class Compared(NamedTuple):
    """What two models found; of each image also which cells only one has, None where one gives no cells.

    ``layer`` shows these, of the only image.
    """

    comparison: "Comparison"
    alone: tuple[Alone | None, ...]
    items: tuple[Item, ...] = ()
    layer: Layer | None = None

    def pairs(self) -> list["Pair"]:
        """Return what both models found in each image."""
        return [(first, second) for _, (first, second) in self.comparison.images()]

    def n_in_regions(self) -> int:
        """Return how many images are annotated in regions, and judged inside of these alone."""
        return sum(bool(item.regions) for item in self.items)

    def n_alone(self) -> tuple[int, int] | None:
        """Return how many cells only the first, and only the second has; None where that is not known."""
        if any(one is None for one in self.alone):
            return None
        known = [one for one in self.alone if one is not None]
        return sum(int(one[0].sum()) for one in known), sum(int(one[1].sum()) for one in known)


def compare_task(
    models: Sequence[str], data: Dataset | Image, source: Source | None, engine: EngineSettings
) -> Task[Compared]:
    """Return what two models find, and where they disagree; with a source there is one image, its own."""
    yield Progress("load", 0, 1)
    from cellwright.training.evaluation.compare import alone, compare

    comparison = yield from compare(models, data, engine=engine)
    rows = comparison.rows
    pairs = [(rows[index], rows[index + 1]) for index in range(0, len(rows), 2)]
    found: list[Alone | None] = []
    for first, second in pairs:
        yield Progress("disagree", len(found), len(pairs))
        is_known = first.has_cells and second.has_cells
        found.append(alone(first.result.cells, second.result.cells) if is_known else None)
    layer = None if source is None else disagreement_layer(pairs[0], found[0], source)
    return Compared(comparison, tuple(found), () if isinstance(data, Image) else data.items, layer)


def open_task(compared: Compared, index: int) -> Task[tuple[Layer, ...]]:
    """Return the layers of one image of a dataset: itself, and where the models disagree."""
    yield Progress("open", 0, 1)
    image = compared.items[index].image()
    layer = ImageLayer(np.asarray(image.data), **layer_arguments(image))
    drawn = disagreement_layer(compared.pairs()[index], compared.alone[index], source_of(layer))
    return (layer,) if drawn is None else (layer, drawn)


def disagreement_layer(pair: "Pair", alone: Alone | None, source: Source) -> Layer | None:
    """Return a layer of the cells only one model found, in its colour: outlines, or points without these.

    Its features tell under ``only`` which model that is.
    """
    if alone is None:
        return None
    first, second = (one.result.cells for one in pair)
    has_outlines = first.labels is not None and second.labels is not None
    make = _outlines if has_outlines else _points
    own = {"source": source.layer_id, "output": DISAGREEMENT, "is_preview": True}
    return make(
        (first, second),
        alone,
        (pair[0].model, pair[1].model),
        source,
        name=f"{source.image.name} {DISAGREEMENT}",
        metadata={METADATA: own, "preview": True},  # no annotation to learn from
        **source.placement,
    )


def _outlines(
    cells: tuple[Cells, Cells], alone: Alone, models: tuple[str, str], source: Source, **arguments: Any
) -> Layer:
    first, second = (one.labels for one in cells)
    assert first is not None
    assert second is not None
    drawn = rings(first, alone[0], 0)
    above = rings(second, alone[1], int(alone[0].sum()))
    drawn = np.where(above > 0, above, drawn)
    if source.channel_axis is not None:
        drawn = np.expand_dims(drawn, source.channel_axis)
    owners = np.repeat((0, 1), [int(one.sum()) for one in alone])
    colours: dict[int | None, Any] = {None: "transparent", 0: "transparent"}
    colours |= {number: COLOURS[owner] for number, owner in enumerate(owners, start=1)}
    only = np.array(["", *(models[owner] for owner in owners)])  # row k is that of label k
    return LabelsLayer(
        drawn,
        features={"only": only},
        colormap=DirectLabelColormap(color_dict=colours),
        opacity=0.9,
        **arguments,
    )


def rings(labels: Labels, chosen: NDArray[np.bool_], start: int) -> Labels:
    """Return the outlines of the chosen cells (N,), numbered from ``start`` + 1; so that others show through.

    Of volumes the outlines in each slice.
    """
    numbers = np.zeros(len(chosen) + 1, np.int32)
    numbers[1:][chosen] = np.arange(start + 1, start + 1 + int(chosen.sum()))
    areas = np.bincount(labels.ravel(), minlength=2)[1:]
    area = float(np.median(areas[areas > 0])) if areas.any() else 1.0
    diameter = 2 * math.sqrt(area / math.pi) if labels.ndim == 2 else 2 * (0.75 * area / math.pi) ** (1 / 3)
    width = int(np.clip(round(OUTLINE_SHARE * diameter), 1, WIDEST_PX))
    size = (1,) * (labels.ndim - 2) + (2 * width + 1,) * 2
    is_edge = ndimage.minimum_filter(labels, size, mode="constant") != ndimage.maximum_filter(labels, size)
    return np.where(is_edge, numbers[labels], np.int32(0))


def _points(
    cells: tuple[Cells, Cells], alone: Alone, models: tuple[str, str], source: Source, **arguments: Any
) -> Layer:
    points = np.concatenate([one.points[own] for one, own in zip(cells, alone, strict=True)])
    boxes = np.concatenate([one.boxes[own] for one, own in zip(cells, alone, strict=True)])
    owners = np.repeat((0, 1), [int(own.sum()) for own in alone])
    if source.channel_axis is not None:
        points = np.insert(points, source.channel_axis, 0, axis=1)
    sides = boxes[:, 1, -2:] - boxes[:, 0, -2:]
    return Points(
        points,
        ndim=points.shape[1],
        features={"only": np.array(models)[owners]},
        face_color=[COLOURS[owner] for owner in owners] or "white",
        border_color="black",
        size=max(POINT_SHARE * float(np.median(sides)), 1.0) if len(sides) else 1.0,
        **arguments,
    )


def summary_of(compared: Compared) -> str:
    """Return the counts of both models, their F1 and the cells only one has, as rich text.

    Where images are annotated in regions, also how many of the cells are judged.
    """
    comparison, pairs = compared.comparison, compared.pairs()
    is_one = len(pairs) == 1
    heads = [_coloured(number, colour) for number, colour in zip("12", COLOURS, strict=True)]
    named = [f"{head} {escape(shortened(name))}" for head, name in zip(heads, comparison.models, strict=True)]
    counts = [
        number_text(pairs[0][side].result) if is_one else _mean(comparison.mean(model, "count"))
        for side, model in enumerate(comparison.models)
    ]
    rows = [("", heads), ("cells" if is_one else "per image", [_large(one) for one in counts])]
    scored = [[one.score for one in side if one.score is not None] for side in zip(*pairs, strict=True)]
    if compared.n_in_regions() and all(scored):
        found = [float(np.mean([score.n_predicted for score in side])) for side in scored]
        rows.append(("judged", [f"{one:,.0f}" if is_one else _mean(one) for one in found]))
    true = [score.n_true for score in scored[0] or scored[1]]
    if true:
        text = f"{true[0]:,}" if is_one else _mean(float(np.mean(true)))
        rows.append(("truth", [f"<span style='color:{QUIET}'>{text}</span>"] * 2))
    scores = [comparison.mean(name, "f1") for name in comparison.models]
    if not all(map(math.isnan, scores)):
        rows.append(("F1" if is_one else "mean F1", _best(scores)))
    n_alone = compared.n_alone()
    if n_alone is not None:
        rows.append(("only here", [f"{one:,}" for one in n_alone]))
    names = "".join(f"<tr><td colspan='3'>{name}</td></tr>" for name in named)
    return f"<table align='center' cellspacing='4'>{names}{''.join(_row(*row) for row in rows)}</table>"


def image_rows(compared: Compared) -> list[tuple[str | float, ...]]:
    """Return name, both counts, both F1 and how many cells only one has, of each image.

    What is not known is not a number.
    """
    return [
        (
            first.image,
            first.result.count,
            second.result.count,
            first.f1,
            second.f1,
            math.nan if alone is None else int(alone[0].sum() + alone[1].sum()),
        )
        for (first, second), alone in zip(compared.pairs(), compared.alone, strict=True)
    ]


def notices_of(compared: Compared, index: int) -> list[str]:
    """Return what the user should read of how an image was counted and judged."""
    pair = compared.pairs()[index]
    notices = [f"{row.model}: {one}" for row in pair for one in row.result.notices]
    if compared.alone[index] is None:
        notices.append("A density has no cells to tell apart, so that none can be shown as missing.")
    regions = compared.items[index].regions if compared.items else ()
    if regions:
        where = "complete region" if len(regions) == 1 else f"{len(regions)} complete regions"
        notices.append(f"F1 is that of the cells inside of the {where}; the others are only counted.")
    return notices


def regions_line(compared: Compared) -> str:
    """Return a sentence on which cells of several images are judged; empty where all of them are."""
    n = compared.n_in_regions()
    if not n:
        return ""
    who = "all images" if n == len(compared.items) else f"{n} of {len(compared.items)} images"
    return f"In {who} F1 is that of the cells inside of the complete regions; the others are only counted."


def shortened(name: str) -> str:
    """Return a model's name, its middle left out where it is too long for the panel.

    Examples
    --------
    ``nuclei-of-leaves…tuned-in-may``
    """
    if len(name) <= LONGEST_NAME:
        return name
    n_last = (LONGEST_NAME - 1) // 2
    return f"{name[: LONGEST_NAME - 1 - n_last]}…{name[-n_last:]}"


def _best(scores: Sequence[float]) -> list[str]:
    best = max(score for score in scores if not math.isnan(score))
    texts = ["-" if math.isnan(score) else f"{score:.3f}" for score in scores]
    return [f"<b>{text}</b>" if score == best else text for text, score in zip(texts, scores, strict=True)]


def _coloured(text: str, colour: str) -> str:
    return f"<b style='color:{colour}'>{escape(text)}</b>"


def _large(text: str) -> str:
    size = 16 if len(text) <= LONGEST_LARGE else 11
    return f"<span style='font-size:{size}pt'>{text}</span>"


def _mean(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def _row(title: str, values: Iterable[str]) -> str:
    head = f"<td valign='middle'><span style='color:{QUIET}'>{escape(title)}</span></td>"
    parts = [f"<td align='right' valign='middle'>&nbsp;&nbsp;{value}</td>" for value in values]
    return f"<tr>{head}{''.join(parts)}</tr>"
