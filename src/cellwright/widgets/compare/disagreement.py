"""The cells of an image that only one of two models found, and the layer that shows them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.layers import Labels as LabelsLayer
from napari.layers import Layer, Points
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.data import Cells, Labels
from cellwright.widgets.shared.edited_layers import METADATA
from cellwright.widgets.shared.layer_factory import colours_by_label
from cellwright.widgets.shared.layer_io import Source

COLOURS = ("#ff9f1c", "#3fd0c9")  # of the first and the second model
DISAGREEMENT = "disagreement"
OUTLINE_SHARE = 0.08  # width of an outline in the diameter of a cell
WIDEST_PX = 4
POINT_SHARE = 0.5  # diameter of a point in that of its cell

IsUnique = tuple[NDArray[np.bool_], NDArray[np.bool_]]  # of the cells of each model, (N,) and (M,)


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
            return self._labels_layer(self.drawn, names, source.channel_axis, arguments)
        points = self.drawn
        if source.channel_axis is not None:
            points = np.insert(points, source.channel_axis, 0, axis=1)
        return Points(
            points,
            ndim=points.shape[1],
            features={"only": names},
            face_color=[COLOURS[owner] for owner in self.owners] or "white",
            border_color="black",
            size=self.diameter_px,
            **arguments,
        )

    def _labels_layer(
        self,
        drawn: RingPixels,
        names: NDArray[np.str_],
        channel_axis: int | None,
        arguments: dict[str, Any],
    ) -> Layer:
        labels = drawn.labels()
        if channel_axis is not None:
            labels = np.expand_dims(labels, channel_axis)
        colours = {number: COLOURS[owner] for number, owner in enumerate(self.owners, start=1)}
        return LabelsLayer(
            labels,
            features={"only": np.array(["", *names])},  # row k is that of label k
            colormap=colours_by_label(colours),
            opacity=0.9,
            **arguments,
        )


def disagreement_of(first: Cells, second: Cells) -> Disagreement:
    """Return the cells that only one of two models found in the same image."""
    from cellwright.training.evaluation.compare import alone

    unique = alone(first, second)
    n_unique = int(unique[0].sum()), int(unique[1].sum())
    if first.labels is not None and second.labels is not None:
        return Disagreement(n_unique, _outlines((first.labels, second.labels), unique))
    points = np.concatenate([first.points[unique[0]], second.points[unique[1]]])
    boxes = np.concatenate([first.boxes[unique[0]], second.boxes[unique[1]]])
    diameter = 1.0
    if len(boxes):
        sides = boxes[:, 1, -2:] - boxes[:, 0, -2:]
        diameter = max(POINT_SHARE * float(np.median(sides)), 1.0)
    return Disagreement(n_unique, points, diameter)


def _outlines(labels: tuple[Labels, Labels], unique: IsUnique) -> RingPixels:
    drawn = rings(labels[0], unique[0], 0)
    above = rings(labels[1], unique[1], int(unique[0].sum()))
    drawn = np.where(above > 0, above, drawn)
    pixels = np.flatnonzero(drawn)
    return RingPixels(drawn.shape, pixels, drawn.ravel()[pixels])


def rings(labels: Labels, chosen: NDArray[np.bool_], start: int) -> Labels:
    """Return the outlines of the chosen cells (N,), numbered from ``start`` + 1; so that others show through.

    Of volumes the outlines in each slice.
    """
    numbers = np.zeros(len(chosen) + 1, np.int32)
    numbers[1:][chosen] = np.arange(start + 1, start + 1 + int(chosen.sum()))
    areas = np.bincount(labels.ravel(), minlength=2)[1:]
    area = 1.0
    if areas.any():
        area = float(np.median(areas[areas > 0]))
    diameter = 2 * math.sqrt(area / math.pi)
    if labels.ndim > 2:
        diameter = 2 * (0.75 * area / math.pi) ** (1 / 3)
    width = int(np.clip(round(OUTLINE_SHARE * diameter), 1, WIDEST_PX))
    size = (1,) * (labels.ndim - 2) + (2 * width + 1,) * 2
    is_edge = ndimage.minimum_filter(labels, size, mode="constant") != ndimage.maximum_filter(labels, size)
    return np.where(is_edge, numbers[labels], np.int32(0))
