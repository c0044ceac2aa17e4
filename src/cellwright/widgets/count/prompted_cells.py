"""Cells that the model has answered a prompt with: looked for among those of a count, and added to them."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels, Layer, Points, Shapes
from numpy.typing import NDArray

from cellwright.core.data import Cells, Provenance, Result, package_version
from cellwright.core.tasks import Progress, Task
from cellwright.models.stitching import boxes_with_lead, with_lead
from cellwright.ops.geometry.boxes import corners_of
from cellwright.widgets.count.model import CountOutcome, show_task
from cellwright.widgets.shared.coordinates import with_axis
from cellwright.widgets.shared.edited_layers import ASKED
from cellwright.widgets.shared.layer_io import Source
from cellwright.widgets.shared.napari_private import set_pixels
from cellwright.widgets.shared.point_prompt import MOST_KNOWN, PromptContext

if TYPE_CHECKING:
    from cellwright.inference.point_prompt import PromptedCell

Frame = tuple[int, ...]  # index of the slice or frame that a cell was prompted for in


def added_task(
    counted: CountOutcome, found: list[tuple[Frame, "PromptedCell"]], outputs: tuple[str, ...]
) -> Task[CountOutcome]:
    """Return a count with more cells, in layers of these outputs alone.

    New thresholds need a new count then, or they would lose them.
    """
    yield Progress("ask", 0, 1)
    result, cells = counted.result, counted.result.cells
    for frame, cell in found:
        cells = with_prompted_cell(cells, frame, cell)
    n_asked = result.provenance.settings.get(ASKED, 0) + len(cells) - len(result.cells)
    provenance = result.provenance.noting(**{ASKED: n_asked})
    more = replace(result, count=float(len(cells)), cells=cells, provenance=provenance)
    shown = yield from show_task(replace(counted.request, outputs=outputs), more)
    return replace(shown, request=counted.request)


def empty_result(context: PromptContext, *, has_labels: bool) -> Result:
    """Return a result without cells, to add those to that are asked for."""
    image, engine = context.source.image, context.engine
    labels = np.zeros(image.label_shape, np.int32) if has_labels else None
    provenance = replace(
        Provenance.of_image(image, {"engine": asdict(engine)}),
        package_version=package_version(),
        model=context.model,
        device=engine.device,
    )
    cells = Cells.empty(len(image.label_axes), labels)
    return Result(0.0, cells, provenance, offset=context.source.offset)


def with_prompted_cell(cells: Cells, frame: Frame, cell: "PromptedCell") -> Cells:
    """Return cells with one more at the end; pixels that belong to another cell stay with that."""
    labels, classes = cells.labels, None
    if labels is not None:
        labels = labels.copy()
        place = _pixels(frame, cell)
        is_free = cell.mask & (labels[place] == 0)
        labels[place][is_free] = len(cells) + 1
        cell = _without_others(cell, is_free)
    if cells.classes is not None:
        classes = np.full(1, -1, np.int16)
    one = Cells(
        points=with_lead(cell.point[np.newaxis], frame),
        boxes=boxes_with_lead(cell.box[np.newaxis].astype(np.float32), frame),
        scores=np.array([cell.score], np.float32),
        areas=np.array([cell.area], np.float32),
        classes=classes,
    )
    return Cells.concatenate([cells, one], labels)


def covering(cells: Cells, frame: Frame, cell: "PromptedCell") -> int:
    """Return the number of the cell that covers most of an answered one, or holds its middle; 0 for none."""
    if cells.labels is not None:
        return _number_in_labels(cells.labels, frame, cell)
    middle = np.concatenate([np.array(frame), cell.point])
    inner = (cells.boxes[:, 0] <= middle) & (middle < cells.boxes[:, 1])
    return _first(np.all(inner, axis=1))


def number_in(layer: Layer, source: Source, frame: Frame, cell: "PromptedCell") -> int:
    """Return the number of the outline, point or box of a layer that is an answered cell; 0 for none."""
    if isinstance(layer, Labels):
        return _number_in_labels(_labels_of(layer, source), frame, cell)
    if isinstance(layer, Points):
        places = np.rint(layer.data - _place(source, frame, cell.box[0])).astype(int)
        inside = ((places[:, -2:] >= 0) & (places[:, -2:] < cell.mask.shape)).all(axis=1)
        inside &= (places[:, :-2] == 0).all(axis=1)
        inside[inside] = cell.mask[tuple(places[inside, -2:].T)]
        return _first(inside)
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
        corners = corners_of(cell.box - 0.5)  # napari draws a pixel around its index
        layer.add_rectangles([_place(source, frame, corner) for corner in corners])


def _labels_of(layer: Labels, source: Source) -> NDArray[Any]:
    """Return the pixels of a layer without an axis of channels."""
    return np.asarray(layer.data).reshape(source.image.label_shape)


def _place(source: Source, frame: Frame, point: NDArray[Any]) -> NDArray[np.float64]:
    """Return where a point (y, x) of the frame of a prompt lies in the layers of a source."""
    return with_axis(np.array([*frame, *point], np.float64), source.channel_axis)


def _number_in_labels(labels: NDArray[Any], frame: Frame, cell: "PromptedCell") -> int:
    """Return the label that covers most of an answered cell; 0 for none."""
    inside = labels[_pixels(frame, cell)][cell.mask]
    numbers, counts = np.unique(inside[inside > 0], return_counts=True)
    if counts.sum() <= MOST_KNOWN * cell.area:
        return 0
    return int(numbers[counts.argmax()])


def _first(holds: NDArray[np.bool_]) -> int:
    """Return the number, from 1, of the first that holds; 0 for none."""
    return int(holds.argmax()) + 1 if holds.any() else 0


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
