"""What is asked about by click, and the cells of a count with those that were found so."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellwright import __version__
from cellwright.core.data import Cells, Provenance, Result
from cellwright.inference.settings import EngineSettings
from cellwright.widgets.shared.layer_io import Source

if TYPE_CHECKING:
    from cellwright.inference.point_prompt import PromptedCell

MOST_KNOWN = 0.5  # share of an answered cell that may lie in cells counted before


class PromptPoint(NamedTuple):
    """A place in the counted part of an image: index of the frame, and y and x in its pixels."""

    frame: tuple[int, ...]
    point: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PromptContext:
    """What is asked about, made by :class:`PointPromptTool`; answers hold while ``key`` stays the same."""

    source: Source
    model: str
    engine: EngineSettings
    frame: tuple[int, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from others; pixels are not compared."""
        source = self.source
        return (source.layer_id, source.offset, source.image.shape, self.model, self.engine, self.frame)


def with_cell(cells: Cells, spot: PromptPoint, cell: "PromptedCell") -> Cells:
    """Return cells with one more at the end; pixels that belong to another cell stay with that."""
    labels, lead = cells.labels, np.array(spot.frame, np.float32)
    if labels is not None:
        labels = labels.copy()
        place = _pixels(spot, cell)
        labels[place][cell.mask & (labels[place] == 0)] = len(cells) + 1
    point = np.concatenate([lead, cell.point])
    box = np.stack([np.concatenate([lead + k, cell.box[k]]) for k in (0, 1)])
    classes = cells.classes
    return Cells(
        points=np.concatenate([cells.points, point[np.newaxis]]).astype(np.float32),
        boxes=np.concatenate([cells.boxes, box[np.newaxis]]).astype(np.float32),
        scores=np.append(cells.scores, np.float32(cell.score)),
        areas=np.append(cells.areas, np.float32(cell.area)),
        labels=labels,
        classes=None if classes is None else np.append(classes, np.int16(-1)),
    )


def covering(cells: Cells, spot: PromptPoint, cell: "PromptedCell") -> int:
    """Return the number of the cell that covers most of an answered one, or holds its middle; 0 for none."""
    if cells.labels is not None:
        inside = cells.labels[_pixels(spot, cell)][cell.mask]
        numbers, counts = np.unique(inside[inside > 0], return_counts=True)
        is_covered = counts.sum() > MOST_KNOWN * cell.area
        return int(numbers[counts.argmax()]) if is_covered else 0
    middle = np.concatenate([np.array(spot.frame), cell.point])
    inner = (cells.boxes[:, 0] <= middle) & (middle < cells.boxes[:, 1])
    holding = np.flatnonzero(inner.all(axis=1))
    return int(holding[0]) + 1 if len(holding) else 0


def empty_result(subject: PromptContext, *, has_labels: bool) -> Result:
    """Return a result without cells, to add those to that are asked for."""
    image, engine = subject.source.image, subject.engine
    shape = tuple(n for axis, n in zip(image.axes, image.shape, strict=True) if axis != "C")
    none = np.zeros(0, np.float32)
    labels = np.zeros(shape, np.int32) if has_labels else None
    table = np.zeros((0, len(shape)), np.float32)
    return Result(
        count=0.0,
        cells=Cells(table, np.stack([table, table], axis=1), none, none, labels),
        provenance=Provenance(
            package_version=__version__,
            model=subject.model,
            checkpoint_sha256="",
            settings={"engine": asdict(engine)},
            image_name=image.name,
            image_shape=image.shape,
            axes=image.axes,
            pixel_size_um=image.pixel_size_um,
            device=engine.device,
            seconds=0.0,
        ),
        offset=subject.source.offset,
    )


def _pixels(spot: PromptPoint, cell: "PromptedCell") -> tuple[Any, ...]:
    """Where the box of an answered cell lies in the labels."""
    (top, left), (bottom, right) = cell.box
    return (*spot.frame, slice(int(top), int(bottom)), slice(int(left), int(right)))
