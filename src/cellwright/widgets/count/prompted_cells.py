"""A cell that was outlined by click: among the cells of a count, and in the layers that show them."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels, Layer, Points, Shapes
from numpy.typing import NDArray

from cellwright.core.data import Cells
from cellwright.widgets.shared.layer_io import Source
from cellwright.widgets.shared.napari_private import set_pixels
from cellwright.widgets.shared.point_prompt import MOST_KNOWN

if TYPE_CHECKING:
    from cellwright.inference.point_prompt import PromptedCell

Frame = tuple[int, ...]  # index of the slice or frame that a cell was prompted for in


def with_cell(cells: Cells, frame: Frame, cell: "PromptedCell") -> Cells:
    """Return cells with one more at the end; pixels that belong to another cell stay with that."""
    labels, lead = cells.labels, np.array(frame, np.float32)
    if labels is not None:
        labels = labels.copy()
        place = _pixels(frame, cell)
        is_free = cell.mask & (labels[place] == 0)
        labels[place][is_free] = len(cells) + 1
        cell = _without_others(cell, is_free)
    point = np.concatenate([lead, cell.point])
    box = np.stack([np.concatenate([lead + k, cell.box[k]]) for k in (0, 1)])
    classes = cells.classes
    if classes is not None:
        classes = np.append(classes, np.int16(-1))
    return Cells(
        points=np.concatenate([cells.points, point[np.newaxis]]).astype(np.float32),
        boxes=np.concatenate([cells.boxes, box[np.newaxis]]).astype(np.float32),
        scores=np.append(cells.scores, np.float32(cell.score)),
        areas=np.append(cells.areas, np.float32(cell.area)),
        labels=labels,
        classes=classes,
    )


def covering(cells: Cells, frame: Frame, cell: "PromptedCell") -> int:
    """Return the number of the cell that covers most of an answered one, or holds its middle; 0 for none."""
    if cells.labels is not None:
        return _number_in_labels(cells.labels, frame, cell)
    middle = np.concatenate([np.array(frame), cell.point])
    inner = (cells.boxes[:, 0] <= middle) & (middle < cells.boxes[:, 1])
    return _first(np.all(inner, axis=1))


def has_pixels_of(layer: Layer, source: Source) -> bool:
    """Return whether a layer can take cells of a source: labels of another size cannot."""
    return not isinstance(layer, Labels) or layer.data.size == np.prod(source.image.label_shape)


def number_in(layer: Layer, source: Source, frame: Frame, cell: "PromptedCell") -> int:
    """Return the number of the outline, point or box of a layer that is an answered cell; 0 for none."""
    if isinstance(layer, Labels):
        return _number_in_labels(_labels_of(layer, source), frame, cell)
    if isinstance(layer, Points):
        return _first(_points_inside(layer, source, frame, cell))
    assert isinstance(layer, Shapes)
    middle = _place(source, frame, cell.point)
    holds = [np.all((one.min(axis=0) <= middle) & (middle <= one.max(axis=0))) for one in layer.data]
    return _first(np.array(holds, bool))


def add_to(layer: Layer, source: Source, frame: Frame, cell: "PromptedCell") -> None:
    """Add an answered cell to a layer as a user would; pixels of other cells stay with them."""
    if isinstance(layer, Labels):
        labels, place = _labels_of(layer, source), _pixels(frame, cell)
        rows, columns = np.nonzero(cell.mask & (labels[place] == 0))
        lead = [np.full(len(rows), index) for index in frame]
        indices = (*lead, rows + place[-2].start, columns + place[-1].start)
        flat = np.ravel_multi_index(indices, labels.shape)  # the layer may have an axis of channels, too
        set_pixels(layer, np.unravel_index(flat, layer.data.shape), int(labels.max()) + 1)
    elif isinstance(layer, Points):
        layer.add(_place(source, frame, cell.point))
    elif isinstance(layer, Shapes):
        (top, left), (bottom, right) = cell.box - 0.5  # napari draws a pixel around its index
        corners = ((top, left), (top, right), (bottom, right), (bottom, left))
        layer.add_rectangles([_place(source, frame, np.array(corner)) for corner in corners])


def _labels_of(layer: Labels, source: Source) -> NDArray[Any]:
    """Return the pixels of a layer without an axis of channels."""
    return np.asarray(layer.data).reshape(source.image.label_shape)


def _place(source: Source, frame: Frame, point: NDArray[Any]) -> NDArray[np.float64]:
    """Return where a point (y, x) of the frame of a prompt lies in the layers of a source."""
    place = np.array([*frame, *point], np.float64)
    if source.channel_axis is None:
        return place
    return np.insert(place, source.channel_axis, 0.0)


def _points_inside(layer: Points, source: Source, frame: Frame, cell: "PromptedCell") -> NDArray[np.bool_]:
    places = np.rint(layer.data - _place(source, frame, cell.box[0])).astype(int)
    rows, columns = places[:, -2:].T
    height, width = cell.mask.shape
    inside: NDArray[np.bool_] = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    inside &= (places[:, :-2] == 0).all(axis=1)
    inside[inside] = cell.mask[rows[inside], columns[inside]]
    return inside


def _number_in_labels(labels: NDArray[Any], frame: Frame, cell: "PromptedCell") -> int:
    """Return the label that covers most of an answered cell; 0 for none."""
    inside = labels[_pixels(frame, cell)][cell.mask]
    numbers, counts = np.unique(inside[inside > 0], return_counts=True)
    is_covered = counts.sum() > MOST_KNOWN * cell.area
    if not is_covered:
        return 0
    return int(numbers[counts.argmax()])


def _first(holds: NDArray[np.bool_]) -> int:
    """Return the number, from 1, of the first that holds; 0 for none."""
    if not holds.any():
        return 0
    return int(holds.argmax()) + 1


def _without_others(cell: "PromptedCell", is_free: NDArray[np.bool_]) -> "PromptedCell":
    """Return an answered cell as its pixels that belong to no other one; it has such."""
    if is_free[cell.mask].all():
        return cell
    places = np.argwhere(is_free)
    low, high = places.min(axis=0), places.max(axis=0) + 1
    mask = is_free[low[0] : high[0], low[1] : high[1]]
    middle = (places.mean(axis=0) + cell.box[0]).astype(np.float32)
    return replace(cell, point=middle, box=cell.box[0] + np.stack([low, high]), mask=mask)


def _pixels(frame: Frame, cell: "PromptedCell") -> tuple[Any, ...]:
    (top, left), (bottom, right) = cell.box
    return (*frame, slice(int(top), int(bottom)), slice(int(left), int(right)))
