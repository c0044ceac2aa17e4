"""What comparing two models gives, as a table and as the cells that only one of them found."""

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cellwright.io.dataset import Dataset
from cellwright.tasks import Task
from cellwright.types import Image, Labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellwright.training.compare import Comparison

COLOURS = ("#ff9f1c", "#3fd0c9")  # of the first and the second model
MOST_ROWS = 12  # images that are named in the table
POINT_SHARE = 0.5  # diameter of a point in that of its cell


class Compared(NamedTuple):
    """What two models found; for a single image also which cells only one has, and labels of these."""

    comparison: "Comparison"
    only: "tuple[NDArray[np.bool_], NDArray[np.bool_]] | None" = None
    labels: Labels | None = None


def compare_task(models: Sequence[str], data: Dataset | Image) -> Task[Compared]:
    """Return what two models find, and for a single image where they disagree."""
    from cellwright.training.compare import alone, compare, disagreement

    comparison = yield from compare(models, data)
    if len(comparison.rows) != len(models):
        return Compared(comparison)
    results = [row.result for row in comparison.rows]
    if any("density" in result.maps for result in results):
        return Compared(comparison)
    first, second = (result.cells for result in results)
    has_outlines = first.labels is not None and second.labels is not None
    return Compared(comparison, alone(first, second), disagreement(first, second) if has_outlines else None)


def points_of(compared: Compared, channel_axis: int | None) -> dict[str, Any]:
    """Return the arguments of a Points layer that shows the cells only one model found."""
    assert compared.only is not None
    found = [row.result.cells for row in compared.comparison.rows]
    points = np.concatenate([cells.points[own] for cells, own in zip(found, compared.only, strict=True)])
    boxes = np.concatenate([cells.boxes[own] for cells, own in zip(found, compared.only, strict=True)])
    models = np.repeat((0, 1), [own.sum() for own in compared.only])
    if channel_axis is not None:
        points = np.insert(points, channel_axis, 0, axis=1)
    sides = boxes[:, 1, -2:] - boxes[:, 0, -2:]
    return {
        "data": points,
        "ndim": points.shape[1],
        "features": {"only": np.array(compared.comparison.models)[models]},
        "face_color": [COLOURS[model] for model in models] or "white",
        "size": max(POINT_SHARE * float(np.median(sides)), 1.0) if len(sides) else 1.0,
    }


def table_of(compared: Compared) -> str:
    """Return counts of each image and model, and F1 where the truth is known, as rich text."""
    comparison = compared.comparison
    heads = [
        f"<b style='color:{colour}'>{escape(name)}</b>"
        for name, colour in zip(comparison.models, COLOURS, strict=True)
    ]
    images = list(comparison.images())
    rows = [_row("", heads)]
    rows += [
        _row(image, [f"{one.result.count:,.0f}" for one in found]) for image, found in images[:MOST_ROWS]
    ]
    if len(images) > MOST_ROWS:
        rows.append(_row(f"and {len(images) - MOST_ROWS} more", []))
    if len(images) > 1:
        rows.append(
            _row("mean count", [f"{comparison.mean(one, 'count'):,.1f}" for one in comparison.models])
        )
    scores = [comparison.mean(name, "f1") for name in comparison.models]
    if not all(map(math.isnan, scores)):
        rows.append(_row("F1", ["-" if math.isnan(score) else f"{score:.3f}" for score in scores]))
    if compared.only is not None:
        rows.append(_row("only this one", [f"{own.sum():,}" for own in compared.only]))
    return f"<table cellspacing='6'>{''.join(rows)}</table>"


def _row(title: str, values: Sequence[str]) -> str:
    cells = "".join(f"<td align='right'>&nbsp;&nbsp;{value}</td>" for value in values)
    return f"<tr><td>{escape(title)}</td>{cells}</tr>"
