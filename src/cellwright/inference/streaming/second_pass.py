"""What needs all cells around a cell: measurements, classes, regions and nuclei.

Once all blocks are counted, each is read again with the labels of its neighbours in place, so that a cell is
measured as in the whole image. See ``selection`` for what depends on all cells at once.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from cellwright.core.data import Image, Labels, Result
from cellwright.core.errors import SettingsError
from cellwright.core.tasks import Task
from cellwright.files.atomic import atomic_write
from cellwright.files.zarr import open_array
from cellwright.inference.classify import CropScale, predict_classes
from cellwright.inference.recipe import read_inputs
from cellwright.inference.settings import InputFiles
from cellwright.inference.streaming.block import compact, part_of, placed
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
from cellwright.ops.measure.analysis import (
    AnalysisInputs,
    check_tracked,
)
from cellwright.ops.measure.cells_table import is_volumetric
from cellwright.ops.measure.columns import keys_of
from cellwright.ops.measure.compartments import NucleiInCells, compartments_task
from cellwright.ops.measure.features import CORRECTED, ring_margins
from cellwright.ops.measure.filters import check_texts
from cellwright.ops.measure.measurement import measure_result, pixel_sizes, result_of_labels
from cellwright.ops.measure.regions import RegionSet

if TYPE_CHECKING:
    import pandas

NEAREST = "nearest_distance"


def check_second_pass(job: StreamJob, image: Image) -> None:
    """Raise where what is wanted of the cells cannot be had, before the first block is counted.

    Raises
    ------
    CellwrightError
        A file cannot be read or belongs to another image, the image has no time to track in, or the model
        tells no outlines to measure in.
    """
    if not job.has_second_pass:
        return
    if "Labels" not in job.family.returns:
        raise SettingsError(
            f"Cells are measured and classified block by block in their outlines; {job.family.name} gives "
            "none. Choose a model that outlines, flow for instance."
        )
    if job.analysis.track:
        check_tracked(image.label_axes, is_volume=job.engine.link)
    inputs = inputs_of(job, image)
    check_texts(job.analysis.keep, _known_texts(job, inputs))
    if inputs.regions is not None:
        inputs.regions.check(image.label_shape)
    for name, other in inputs.others.items():
        if other.label_shape[-len(image.label_shape) :] != image.label_shape:
            raise SettingsError(
                f"The image {name!r} must have the {image.label_shape} pixels of {image.name!r}; got "
                f"{other.label_shape}. Name the image of the same place."
            )


def _known_texts(job: StreamJob, inputs: AnalysisInputs) -> dict[str, Sequence[str]]:
    known: dict[str, Sequence[str]] = {}
    if job.classifier:
        known["class"] = load(job.classifier).spec.classes
    if inputs.regions is not None and inputs.regions.included:
        known["regions"] = inputs.regions.names
    return known


def inputs_of(job: StreamJob, image: Image) -> AnalysisInputs:
    """Return what an analysis takes besides the image; each process opens it once."""
    if job.files == InputFiles():
        return AnalysisInputs()
    return _inputs(job.files, job.analysis.region_rule, image.name, image.axes, image.shape)


@lru_cache(maxsize=1)
def _inputs(files: InputFiles, rule: str, name: str, axes: str, shape: tuple[int, ...]) -> AnalysisInputs:
    return read_inputs(files, Image(np.broadcast_to(np.uint8(0), shape), axes, name=name), rule)


def regions_of(job: StreamJob, image: Image) -> RegionSet:
    """Return where the cells of an image count."""
    return inputs_of(job, image).regions or RegionSet(rule=job.analysis.region_rule)


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


class _Window(NamedTuple):
    """A block with all that matters around its cells: pixels, all cells, and the rows of its own."""

    block: StreamBlock
    part: Image
    found: Result
    rows: NDArray[np.intp]


def measure_block(
    job: StreamJob, image: Image, plan: StreamPlan, block: StreamBlock, scale: CropScale | None
) -> Task[None]:
    """Measure and classify the cells of a block, tell the regions they lie in, and write all that down.

    Raises
    ------
    CellwrightError
        A measurement does not fit the image, or a file cannot be read or written.
    """
    import pandas

    files, regions = files_of(job, image), regions_of(job, image)
    table = pandas.read_csv(files.part(block))
    membership, n_outside = np.zeros((0, len(regions.names)), bool), 0
    if len(table) or job.files.nuclei:
        window = _window_of(job, image, plan, block, table)
        if scale is not None and len(table):
            own = window.found.cells.take(window.rows)
            classes = yield from predict_classes(own, window.part, job.classifier, job.engine, scale)
            names = np.array(classes.names)[classes.numbers]
            table.insert(list(table).index("score"), "class", names)
        columns, n_outside = yield from _columns(job, image, plan, window)
        for name, values in columns.items():
            table[name] = values
        membership = regions.membership(*placed(image, window.block, window.found.cells.take(window.rows)))
        if regions.included:
            table["regions"] = regions.joined_names(membership)
    with atomic_write(files.regions(block)) as path, path.open("wb") as file:
        np.savez(file, membership=membership, sizes=_sizes(regions, image, block), n_outside=n_outside)
    write_rows(files.measured(block), table)


def _window_of(
    job: StreamJob, image: Image, plan: StreamPlan, block: StreamBlock, table: "pandas.DataFrame"
) -> _Window:
    """Return a block with what lies around it; ``table`` has one row for each of its own cells."""
    wide = block.grown(image.spatial_shape, _margins(job, image, plan))
    part = part_of(image, wide)
    stored = np.asarray(open_array(files_of(job, image).labels)[wide.place(image.label_axes)])
    labels, present = compact(stored)
    found = result_of_labels(labels, part, is_volume=job.engine.link)
    numbers, ours = present[found.numbers], labels_of(block, len(blocks_of(image, plan)))
    own = np.flatnonzero((numbers >= ours.start) & (numbers < ours.stop))
    rows = own[np.searchsorted(numbers[own], table["label"])]
    points = found.result.cells.points.copy()  # a count knows them better than outlines tell
    axes = [axis.lower() for axis in image.spatial_axes]
    points[rows, -len(axes) :] = table[axes] - [span.start for span in wide.tile.read]
    cells = replace(found.result.cells, points=points)
    return _Window(wide, part, replace(found.result, cells=cells), rows)


def _columns(
    job: StreamJob, image: Image, plan: StreamPlan, window: _Window
) -> Task[tuple[dict[str, NDArray[Any]], int]]:
    """Return what is measured of the cells of a block, and how many of its nuclei lie in no cell."""
    block, part, found, rows = window
    inputs, measuring = inputs_of(job, image), job.analysis.measuring
    nuclei, n_outside = None, 0
    if inputs.nuclei is not None:
        nuclei = np.asarray(inputs.nuclei[block.place(image.label_axes)])
    others = {name: part_of(other, block) for name, other in inputs.others.items()}
    columns = yield from measure_result(found, part, measuring, others)
    compartments = yield from compartments_task(
        found, part, measuring.measure, nuclei, job.analysis.cytoplasm_px, others
    )
    own = {name: values[rows] for name, values in {**columns, **compartments.columns}.items()}
    for name in own:
        if name.startswith(NEAREST) and len(rows):
            own[name] = _nearest(job, image, plan, block, found)
    if nuclei is not None and compartments.nuclei is not None:
        n_outside = _own_outside(compartments.nuclei, nuclei, part, block, is_volume=job.engine.link)
    return own, n_outside


def _margins(job: StreamJob, image: Image, plan: StreamPlan) -> tuple[int, ...]:
    """Return how many pixels along each spatial axis matter beyond the cells of a block: those of rings.

    Raises
    ------
    SettingsError
        They are more than a block has.
    """
    settings, width = job.analysis, job.analysis.cytoplasm_px
    if CORRECTED in keys_of(settings.measuring.measure, 2):
        width = max(width, settings.ring_gap_px + settings.ring_width_px)
    sides = [image.known_sizes_um.get(axis, 0.0) for axis in image.spatial_axes]
    if not all(sides):
        sides = [1.0] * len(sides)
    margins = ring_margins(width, sides)
    if job.files.nuclei:
        margins = tuple(max(margin, plan.halo_px // 2) for margin in margins)
    if max(margins[-2:]) > plan.core_px + plan.halo_px:
        raise SettingsError(
            f"Rings of {width * sides[-1] / min(sides[-2:]):g} pixels around cells reach beyond the next "
            f"block, which has {plan.core_px}. Give more --memory, or narrower rings."
        )
    return margins


def _own_outside(
    found: NucleiInCells, nuclei: Labels, part: Image, block: StreamBlock, *, is_volume: bool
) -> int:
    """Return how many nuclei that lie in no cell have their centre in the core of a block."""
    alone = result_of_labels(nuclei, part, is_volume=is_volume)
    local = block.tile.local
    points = alone.result.cells.points[:, -len(local) :]
    inside = np.ones(len(points), bool)
    for axis, span in enumerate(local):
        inside &= (points[:, axis] >= span.start) & (points[:, axis] < span.stop)
    return int((inside & (found.cell_of == 0)).sum())


def _sizes(regions: RegionSet, image: Image, block: StreamBlock) -> NDArray[np.int64]:
    """Return the pixels of each region in each slice of the core of a block, (regions, slices)."""
    core = block.tile.core
    lengths = [span.stop - span.start for span in core]
    start = [span.start for span in core]
    if "T" in image.axes:
        lengths, start = [1, *lengths], [block.time, *start]
    sizes = regions.sizes(tuple(lengths[:-2]), (lengths[-2], lengths[-1]), start)
    return sizes.reshape(len(sizes), -1)


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


def write_rows(path: Path, table: "pandas.DataFrame") -> None:
    """Write the table of a block."""
    with atomic_write(path) as part:
        table.to_csv(part, index=False, float_format="%.9g")
