"""What needs all cells of an image: measurements, classes, and which of the cells count.

Once all blocks are counted, each is read again with the labels of its neighbours in place, so that a cell is
measured as in the whole image. What depends on all cells at once (the typical size that a classifier wants,
a threshold by Otsu's method) is found in the tables alone, column by column.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from cellwright.core.data import Image, Result
from cellwright.core.errors import SettingsError
from cellwright.core.tasks import Task
from cellwright.files.atomic import atomic_write, writing
from cellwright.files.zarr import open_array
from cellwright.inference.classify import CropScale, predict_classes
from cellwright.inference.streaming.block import part_of
from cellwright.inference.streaming.plan import (
    StreamBlock,
    StreamJob,
    StreamPlan,
    blocks_of,
    files_of,
    labels_of,
)
from cellwright.models.classifier.network import load
from cellwright.ops.crops import extents_of, typical_extent
from cellwright.ops.geometry import intensity
from cellwright.ops.geometry.axes import frames
from cellwright.ops.measure.analysis import left_out, left_out_notices
from cellwright.ops.measure.cells_table import is_volumetric
from cellwright.ops.measure.markers import add_positive, parse_marker, thresholds_of, with_channel_numbers
from cellwright.ops.measure.measurement import measure_result, pixel_sizes, result_of_labels

if TYPE_CHECKING:
    import pandas

NEAREST = "nearest_distance"


@dataclass(frozen=True, slots=True)
class Selected:
    """Which cells count.

    Parameters
    ----------
    count
        How many.
    classes
        How many of each class; empty where there are none.
    thresholds
        Of the markers, by channel.
    notices
        Sentences for the user.
    """

    count: int
    classes: Mapping[str, int]
    thresholds: Mapping[str, float]
    notices: tuple[str, ...]


def check_second_pass(job: StreamJob) -> None:
    """Raise where something is wanted that needs the pixels of the whole image.

    Raises
    ------
    SettingsError
        Tracks, or rings of cytoplasm; or the model tells no outlines to measure in.
    """
    if job.analysis.track or job.analysis.cytoplasm_px:
        raise SettingsError(
            "Tracks and rings of cytoplasm are not made block by block. Leave them out, or count a part of "
            "the image."
        )
    if job.has_second_pass and "Labels" not in job.family.returns:
        raise SettingsError(
            f"Cells are measured and classified block by block in their outlines; {job.family.name} gives "
            "none. Choose a model that outlines, flow for instance."
        )


def crop_scale(job: StreamJob, image: Image, parts: Sequence[Path]) -> CropScale | None:
    """Return what a classifier has to know of the whole image; None where there is no classifier."""
    import pandas

    if not job.classifier:
        return None
    spec = load(job.classifier).spec
    sides = ["box_y0", "box_x0", "box_y1", "box_x1"]
    boxes = [pandas.read_csv(part, usecols=sides)[sides].to_numpy(np.float32) for part in parts]
    every = np.concatenate([np.zeros((0, 4), np.float32), *boxes]).reshape(-1, 2, 2)
    extents = extents_of(every, np.zeros(len(every), np.float32), spec.diameter_px)
    seen = job.engine.seen(image)
    sample = frames(seen.image, seen.channel).sample()
    return CropScale(intensity.fit(sample, spec.percentiles), typical_extent(extents), seen.scalings)


def measure_block(
    job: StreamJob, image: Image, plan: StreamPlan, block: StreamBlock, scale: CropScale | None
) -> Task[None]:
    """Measure and classify the cells of a block, and write them as a table.

    Raises
    ------
    CellwrightError
        A measurement does not fit the image, or a file cannot be read or written.
    """
    import pandas

    files = files_of(job, image)
    table = pandas.read_csv(files.part(block))
    if len(table):
        part = part_of(image, block)
        place = block.place(image.label_axes)
        window = np.asarray(open_array(files.labels)[place])
        numbers = labels_of(block, len(blocks_of(image, plan)))
        found = result_of_labels(window, part, is_volume=job.engine.link)
        own = np.flatnonzero((found.numbers >= numbers.start) & (found.numbers < numbers.stop))
        rows = own[np.searchsorted(found.numbers[own], table["label"])]
        if scale is not None:
            cells = found.result.cells.take(rows)
            classes = yield from predict_classes(cells, part, job.classifier, job.engine, scale)
            names = np.array(classes.names)[classes.numbers]
            table.insert(list(table).index("score"), "class", names)
        columns = yield from measure_result(found.result, part, job.analysis.measuring, {})
        for name, values in columns.items():
            table[name] = values[rows]
            if name.startswith(NEAREST):
                table[name] = _nearest(job, image, plan, block, found.result)
    _write(files.measured(block), table)


def _nearest(
    job: StreamJob, image: Image, plan: StreamPlan, block: StreamBlock, result: Result
) -> NDArray[np.float64]:
    """Return how far the nearest other cell is from each cell of a block, wherever that lies."""
    files = files_of(job, image)
    axes = [axis.lower() for axis in image.spatial_axes]
    if not is_volumetric(result):
        axes = ["y", "x"]
    spacing = np.asarray(pixel_sizes(result, len(axes)) or (1.0,) * len(axes))
    at_same_time = [other for other in blocks_of(image, plan) if other.time == block.time]
    own = _centres([files.part(block)], axes) * spacing
    near = _centres([files.part(other) for other in at_same_time if other.touches(block)], axes) * spacing
    distances = _to_second(near, own)
    if not (distances < plan.core_px * spacing.min()).all():  # there may be a nearer one farther away
        distances = _to_second(_centres([files.part(other) for other in at_same_time], axes) * spacing, own)
    return np.where(np.isfinite(distances), distances, np.nan)


def _to_second(centres: NDArray[np.float64], own: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance of the second nearest, for the nearest is the cell itself; infinite without."""
    distances: NDArray[np.float64] = KDTree(centres).query(own, k=2)[0][:, 1]
    return distances


def _centres(parts: Sequence[Path], axes: list[str]) -> NDArray[np.float64]:
    import pandas

    return np.concatenate([pandas.read_csv(part, usecols=axes)[axes].to_numpy(np.float64) for part in parts])


def select(job: StreamJob, image: Image, blocks: Sequence[StreamBlock]) -> Selected:
    """Leave the cells that do not count out of the tables and labels of all blocks.

    A run that was stopped does it again from the measured tables, so it may be stopped at any moment.
    """
    import pandas

    files, settings = files_of(job, image), job.analysis
    reasons: Counter[str] = Counter()
    classes: Counter[str] = Counter()
    count = 0
    for block in blocks:
        table = pandas.read_csv(files.measured(block))
        if len(table):
            kept, dropped = left_out(table, *_boxes(table, image, is_volume=job.engine.link), settings)
            reasons.update(dropped)
            if not kept.all():
                _erase(job, image, block, table["label"][~kept].to_numpy())
            table = table[kept]
        count += len(table)
        if "class" in table:
            classes.update(table["class"].tolist())
        _write(files.selected(block), table)
    thresholds = _mark(job, image, [files.selected(block) for block in blocks])
    return Selected(count, dict(classes), thresholds, left_out_notices(reasons))


def _write(path: Path, table: "pandas.DataFrame") -> None:
    with atomic_write(path) as part:
        table.to_csv(part, index=False, float_format="%.9g")


def _mark(job: StreamJob, image: Image, parts: Sequence[Path]) -> dict[str, float]:
    """Add which of the cells that count are positive; return the thresholds, from their columns alone."""
    import pandas

    rules = [parse_marker(rule) for rule in job.analysis.positive]
    markers = with_channel_numbers(rules, image.channel_names)
    wanted = {marker.column for marker in markers}
    if not wanted:
        return {}
    columns = [pandas.read_csv(part, usecols=lambda name: name in wanted) for part in parts]
    every = pandas.concat([one for one in columns if len(one)] or columns[:1])
    thresholds = thresholds_of(every, markers)
    for part in parts:
        table = pandas.read_csv(part)
        if len(table):
            add_positive(table, thresholds)
            _write(part, table)
    return thresholds


def _boxes(
    table: "pandas.DataFrame", image: Image, *, is_volume: bool
) -> tuple[NDArray[np.float64], tuple[int, ...]]:
    """Return the boxes (N, 2, D) of cells, and the lengths of these axes: Z where slices are linked."""
    axes = [axis for axis in image.spatial_axes if f"box_{axis.lower()}0" in table]
    if not is_volume:
        axes = axes[-2:]
    sides = [f"box_{axis.lower()}{corner}" for corner in (0, 1) for axis in axes]
    lengths = dict(zip(image.axes, image.shape, strict=True))
    boxes = table[sides].to_numpy(np.float64).reshape(len(table), 2, len(axes))
    return boxes, tuple(lengths[axis] for axis in axes)


def _erase(job: StreamJob, image: Image, block: StreamBlock, numbers: NDArray[np.int64]) -> None:
    """Take cells out of the labels."""
    path = files_of(job, image).labels
    labels, place = open_array(path), block.place(image.label_axes)
    window = np.asarray(labels[place])
    window[np.isin(window, numbers)] = 0
    with writing(path):
        labels[place] = window
