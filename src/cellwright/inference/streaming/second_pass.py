"""What needs all cells around a cell: measurements, classes, regions and nuclei.

Once all blocks are counted, each is read again with the labels of its neighbours in place, so that a cell is
measured as in the whole image. Then regions, filters and the border leave cells out block by block. What
depends on all cells at once (a threshold by Otsu's method, tracks) is found in the tables alone, column by
column.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas
from numpy.typing import NDArray
from scipy.spatial import KDTree

from cellwright.core.data import Cells, Image, Labels, Result
from cellwright.core.errors import SettingsError
from cellwright.core.memory import free_memory
from cellwright.core.tasks import Task
from cellwright.files.atomic import atomic_write, writing
from cellwright.files.tables import kind_of, read_cells_table, write_csv
from cellwright.files.zarr import open_array
from cellwright.inference.classify import CropScale, predict_classes
from cellwright.inference.streaming.block import centres_in, compact, placed, window_image
from cellwright.inference.streaming.plan import (
    FREE_SHARE,
    Kept,
    StreamBlock,
    StreamJob,
    StreamPlan,
    blocks_of,
    label_range,
    tell,
)
from cellwright.models.stitching import CLAIM_PX
from cellwright.models.store import load_classifier
from cellwright.ops.crops import extents_of, typical_extent
from cellwright.ops.geometry import intensity
from cellwright.ops.geometry.axes import frames
from cellwright.ops.labels import pieces_line, pieces_of
from cellwright.ops.measure.analysis import (
    Analysis,
    AnalysisInputs,
    check_tracked,
    counts_table,
    fit_of_kept,
    left_out,
    left_out_notices,
    tracks_of,
)
from cellwright.ops.measure.cells_table import cell_ndim, places_of
from cellwright.ops.measure.columns import PIXEL_COUNTS, keys_of
from cellwright.ops.measure.compartments import NucleiInCells, compartments_task
from cellwright.ops.measure.features import CORRECTED, ring_margins
from cellwright.ops.measure.filters import (
    add_positive,
    called,
    check_texts,
    copositive_table,
    parse_marker,
    thresholds_of,
    with_channel_numbers,
)
from cellwright.ops.measure.measurement import measure_result, pixel_sizes, result_of_labels
from cellwright.ops.measure.regions import RegionSet

BYTES_PER_LINK = 24  # of two cells in frames that follow each other, while they are linked
SUMMED = ("label", "t", "z", "y", "x", "class", "score", *PIXEL_COUNTS, "regions", "nuclei")
NEAREST = "nearest_distance"
ELSEWHERE = 1e12  # distance of slices that are not linked: farther than any cells of one slice
BEYOND_CORE_PX = 2 * CLAIM_PX + 1  # that centres of the cells of two blocks lie nearer than their cores


def check_second_pass(job: StreamJob) -> None:
    """Raise where what is wanted of the cells cannot be had, before the first block is counted.

    CellwrightError where a file cannot be read or belongs to another image, the image has no time to track
    in, or the model tells no outlines to measure in.
    """
    image = job.image
    if not job.has_second_pass:
        return
    if "Labels" not in job.family.returns:
        raise SettingsError(
            f"Cells are measured and classified block by block in their outlines; {job.family.name} gives "
            "none. Choose a model that outlines, flow for instance."
        )
    if job.recipe.analysis.track:
        check_tracked(image.label_axes, is_volume=job.recipe.engine.link)
    inputs = job.inputs
    check_texts(job.recipe.analysis.keep, _known_texts(job, inputs))
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
    if job.recipe.classifier:
        known["class"] = load_classifier(job.recipe.classifier).spec.classes
    if inputs.regions is not None and inputs.regions.included:
        known["regions"] = inputs.regions.names
    return known


def crop_scale(job: StreamJob, parts: Sequence[Path]) -> CropScale | None:
    """Return what a classifier has to know of the whole image; None where there is no classifier."""
    if not job.recipe.classifier:
        return None
    spec = load_classifier(job.recipe.classifier).spec
    sides = ["box_y0", "box_x0", "box_y1", "box_x1"]
    boxes = [pandas.read_csv(part, usecols=sides)[sides].to_numpy(np.float32) for part in parts]
    every = np.concatenate([np.zeros((0, 4), np.float32), *boxes]).reshape(-1, 2, 2)
    extents = extents_of(every, np.zeros(len(every), np.float32), spec.diameter_px)
    seen = job.recipe.engine.seen(job.image)
    sample = frames(seen.image, seen.channel).sample()
    return CropScale(intensity.fit_scaling(sample, spec.percentiles), typical_extent(extents), seen.scalings)


class _Window(NamedTuple):
    """A block with all that matters around its cells: pixels, all cells, and the rows of its own."""

    block: StreamBlock
    part: Image
    found: Result
    rows: NDArray[np.intp]


class _BlockNuclei(NamedTuple):
    """Of the nuclei in a block: how many lie in no cell, how many numbers and pieces of them there are."""

    n_outside: int = 0
    n_numbers: int = 0
    n_pieces: int = 0


def measure_block(
    job: StreamJob, plan: StreamPlan, block: StreamBlock, scale: CropScale | None
) -> Task[None]:
    """Measure and classify the cells of a block, tell the regions they lie in, and write all that down.

    CellwrightError where a measurement does not fit the image, or a file cannot be read or written.
    """
    files, regions = job.files, job.regions
    table, measured = read_cells_table(files.of(Kept.CELLS, block)), files.of(Kept.MEASURED, block)
    window = _window_of(job, plan, block, table)
    own = window.found.cells.take(window.rows)
    if scale is not None:
        classes = yield from predict_classes(
            own, window.part, job.recipe.classifier, job.recipe.engine, scale
        )
        tell(measured, classes.notice)
        table.insert(list(table).index("score"), "class", np.array(classes.names)[classes.numbers])
    columns, nuclei = yield from _columns(job, plan, window)
    for name, values in columns.items():
        table[name] = values
    membership = regions.membership(*placed(job.image, window.block, own))
    if regions.included:
        table["regions"] = regions.joined_names(membership)
    with atomic_write(files.of(Kept.REGIONS, block)) as path, path.open("wb") as file:
        sizes = _sizes(regions, job.image, block)
        np.savez(file, membership=membership, sizes=sizes, nuclei=nuclei)
    write_csv(measured, table)


def _window_of(job: StreamJob, plan: StreamPlan, block: StreamBlock, table: pandas.DataFrame) -> _Window:
    """Return a block with what lies around it; ``table`` has one row for each of its own cells."""
    image = job.image
    wide = block.grown(image.spatial_shape, _margins(job, plan))
    part = window_image(image, wide)
    stored = np.asarray(open_array(job.files.labels)[wide.place(image.label_axes)])
    labels, present = compact(stored)
    found = result_of_labels(labels, part, is_volume=job.recipe.engine.link)
    numbers, ours = present[found.numbers], label_range(block, len(blocks_of(job.image, plan)))
    own = np.flatnonzero((numbers >= ours.start) & (numbers < ours.stop))
    rows = own[np.searchsorted(numbers[own], table["label"])]
    points = found.result.cells.points.copy()  # a count knows them better than outlines tell
    axes = [axis.lower() for axis in image.spatial_axes]
    points[rows, -len(axes) :] = table[axes] - [span.start for span in wide.tile.read]
    cells = replace(found.result.cells, points=points)
    return _Window(wide, part, replace(found.result, cells=cells), rows)


def _columns(
    job: StreamJob, plan: StreamPlan, window: _Window
) -> Task[tuple[dict[str, NDArray[Any]], _BlockNuclei]]:
    """Return what is measured of the cells of a block, and what is told of its nuclei."""
    block, part, found, rows = window
    inputs, measuring = job.inputs, job.recipe.analysis.measuring
    nuclei, of_nuclei = None, _BlockNuclei()
    if inputs.nuclei is not None:
        nuclei = np.asarray(inputs.nuclei[block.place(job.image.label_axes)])
    others = {name: window_image(other, block) for name, other in inputs.others.items()}
    columns = yield from measure_result(found, part, measuring, others)
    compartments = yield from compartments_task(
        found, part, measuring.measure, nuclei, job.recipe.analysis.cytoplasm_px, others
    )
    own = {name: values[rows] for name, values in {**columns, **compartments.columns}.items()}
    for name in own:
        if name.startswith(NEAREST) and len(rows):
            own[name] = _nearest(job, plan, block, found)
    if nuclei is not None and compartments.nuclei is not None:
        core: Any = (..., *block.tile.local)
        outside = _own_outside(compartments.nuclei, nuclei, part, block, is_volume=job.recipe.engine.link)
        of_nuclei = _BlockNuclei(outside, *pieces_of(nuclei[core]))
    return own, of_nuclei


def _margins(job: StreamJob, plan: StreamPlan) -> tuple[int, ...]:
    """Return how many pixels along each spatial axis matter beyond the cells of a block: those of rings."""
    settings, width = job.recipe.analysis, job.recipe.analysis.cytoplasm_px
    if CORRECTED in keys_of(settings.measuring.measure, 2):
        width = max(width, settings.ring_gap_px + settings.ring_width_px)
    sides = [job.image.known_sizes_um.get(axis, 0.0) for axis in job.image.spatial_axes]
    if not all(sides):
        sides = [1.0] * len(sides)
    margins = ring_margins(width, sides)
    if job.recipe.files.nuclei:
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
    starts, stops = np.array([(span.start, span.stop) for span in block.tile.local]).T
    points = alone.result.cells.points[:, -len(starts) :]
    inside = ((points >= starts) & (points < stops)).all(axis=1)
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


def _nearest(job: StreamJob, plan: StreamPlan, block: StreamBlock, result: Result) -> NDArray[np.float64]:
    """Return how far the nearest other cell is from each cell of a block, wherever that lies.

    Of slices that are not linked it is the nearest in the same one.
    """
    axes, ndim = job.image.spatial_axes.lower(), cell_ndim(result)
    spacing = np.array(pixel_sizes(result, ndim) or (1.0,) * ndim)
    if ndim < len(axes):
        spacing = np.array([ELSEWHERE, *spacing])

    def centres(others: Sequence[StreamBlock]) -> NDArray[np.float64]:
        return np.asarray(centres_in(job.files.all_of(Kept.CELLS, others), axes) * spacing)

    blocks, own = blocks_of(job.image, plan), centres([block])
    reach, n_read = np.zeros(len(axes)), 0
    near = [other for other in blocks if other.lies_within(reach.tolist(), block)]
    while len(near) > n_read:
        distances, n_read = _to_second(centres(near), own), len(near)
        reach = distances.max() / spacing + BEYOND_CORE_PX  # there may be a nearer one in other blocks
        near = [other for other in blocks if other.lies_within(reach.tolist(), block)]
    return np.where(distances < ELSEWHERE, distances, np.nan)


def _to_second(centres: NDArray[np.float64], own: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance of the second nearest, for the nearest is the cell itself; infinite without."""
    return KDTree(centres).query(own, k=2)[0][:, 1]


@dataclass(frozen=True, slots=True, eq=False)
class Selected:
    """Which cells count, and where."""

    membership: NDArray[np.bool_]  # (N, regions): which cell lies in which region, block by block
    sizes: NDArray[np.int64]  # pixels of the regions, see ``ops.measure.analysis.region_sizes``
    n_outside: int  # nuclei in no cell, where nuclei were given
    thresholds: Mapping[str, float]  # of the markers, by channel
    notices: tuple[str, ...]  # sentences for the user
    reasons: Mapping[str, int]  # why how many cells do not count


def select(job: StreamJob, blocks: Sequence[StreamBlock]) -> Selected:
    """Leave the cells that do not count out of the tables and labels of all blocks.

    A run that was stopped does it again from the measured tables, so it may be stopped at any moment.
    """
    image = job.image
    files, settings, regions = job.files, job.recipe.analysis, job.regions
    reasons: Counter[str] = Counter()
    memberships, nuclei = [], np.zeros(len(_BlockNuclei._fields), np.int64)
    lengths = dict(zip(image.label_axes, image.label_shape, strict=True))
    sizes = np.zeros((len(regions.names_and_union), lengths.get("T", 1), lengths.get("Z", 1)), np.int64)
    for block in blocks:
        table = read_cells_table(files.of(Kept.MEASURED, block))
        with np.load(files.of(Kept.REGIONS, block)) as stored:
            membership = stored["membership"]
            nuclei += stored["nuclei"]
            slices = block.tile.core[0] if "Z" in lengths else slice(0, 1)
            sizes[:, block.time, slices] += stored["sizes"]
        boxes = _boxes(table, image, is_volume=job.recipe.engine.link)
        kept, dropped = left_out(table, *boxes, settings, membership.any(axis=1))
        reasons.update(dropped)
        gone = table["label"][~kept].to_numpy()
        memberships.append(membership[kept])
        # it tells that cells may be gone from the labels
        write_csv(files.of(Kept.SELECTED, block), table[kept])
        if len(gone):
            _erase(job, block, gone)
    thresholds = _mark(job, files.all_of(Kept.SELECTED, blocks))
    if job.recipe.engine.link and "Z" in lengths:
        sizes = sizes.sum(axis=2, keepdims=True)
    lead = [n for axis, n in lengths.items() if axis == "T" or (axis == "Z" and not job.recipe.engine.link)]
    n_outside, n_numbers, n_pieces = nuclei.tolist()
    notices = (*left_out_notices(reasons), pieces_line(n_numbers, n_pieces, "the nuclei"))
    return Selected(
        np.concatenate(memberships),
        sizes.reshape(-1, *lead),
        n_outside,
        thresholds,
        tuple(filter(None, notices)),
        reasons,
    )


def analysis_of(
    job: StreamJob, blocks: Sequence[StreamBlock], selected: Selected, result: Result
) -> Analysis:
    """Return the tables of the cells that count; those of tracks are added to the tables of the blocks.

    Its own table has all columns where the job wants them, else those of which a sum is made.

    SettingsError where linking the cells of two frames takes more memory than there is.
    """
    parts = job.files.all_of(Kept.SELECTED, blocks)
    tables = [
        read_cells_table(part, usecols=lambda name: job.whole_table or _is_summed(name)) for part in parts
    ]
    table = pandas.concat([one for one in tables if len(one)] or tables[:1], ignore_index=True)
    whole = [name for name in table if table[name].dtype.kind == "i" and kind_of(str(name)) == "float64"]
    table = table.astype(dict.fromkeys(whole, "float64"))  # of numbers that happen to be whole
    fit = fit_of_kept(result.fit, len(table), selected.reasons)
    result = replace(result, count=float(len(table)), cells=_cells_of(job, table), fit=fit)
    tracks, lineages, copositive, n_outside = None, None, None, None
    if job.recipe.analysis.positive:
        copositive = copositive_table(table, tuple(selected.thresholds))
    interval_s = job.recipe.analysis.frame_interval_s or job.image.frame_interval_s
    if job.recipe.analysis.track:
        _check_links(result)
        tracks = tracks_of(result, job.recipe.analysis.tracking)
        lineages = tracks.lineage_table(interval_s)
        for name, values in tracks.columns().items():
            table[name] = values
        _add_columns(parts, table[list(tracks.columns())])
    if job.recipe.files.nuclei:
        n_outside = selected.n_outside
    counts = counts_table(result, table, job.regions, selected.membership, selected.sizes, interval_s)
    return Analysis(
        result,
        table,
        np.arange(len(table)),
        counts,
        selected.thresholds,
        copositive,
        n_nuclei_outside=n_outside,
        tracks=tracks,
        lineages=lineages,
        notices=selected.notices,
        names=called(job.image, selected.thresholds),
    )


def _is_summed(column: str) -> bool:
    return column in SUMMED or column.startswith(("box_", "positive_"))


def _cells_of(job: StreamJob, table: pandas.DataFrame) -> Cells:
    points, boxes = places_of(table, job.image.label_axes)
    area = next(name for name in PIXEL_COUNTS if name in table)
    classes = None
    if job.recipe.classifier:
        names = load_classifier(job.recipe.classifier).spec.classes
        numbers = {name: number for number, name in enumerate(names)}
        classes = np.array([numbers[name] for name in table.get("class", ())], np.int16)
    scores, areas = (table[name].to_numpy(np.float32) for name in ("score", area))
    return Cells(points, boxes, scores, areas, classes=classes)


def _check_links(result: Result) -> None:
    """Raise where the distances between the cells of two frames take more memory than there is."""
    _, numbers = np.unique(np.rint(result.cells.points[:, 0]), return_counts=True)
    pairs = float(np.max(numbers[1:].astype(float) * numbers[:-1], initial=0.0))
    if pairs * BYTES_PER_LINK > FREE_SHARE * free_memory():
        raise SettingsError(
            "Tracking compares every cell of a frame with every one of the next, of up to "
            f"{numbers.max()} cells here: {pairs * BYTES_PER_LINK / 1e9:.1f} GB, which are not free. Leave "
            "tracking out, or track parts of the image."
        )


def _add_columns(parts: Sequence[Path], columns: pandas.DataFrame) -> None:
    start = 0
    for part in parts:
        table = read_cells_table(part)
        for name in columns:
            table[name] = columns[name].to_numpy()[start : start + len(table)]
        write_csv(part, table)
        start += len(table)


def _mark(job: StreamJob, parts: Sequence[Path]) -> dict[str, float]:
    """Add which of the cells that count are positive; return the thresholds, from their columns alone."""
    rules = [parse_marker(rule) for rule in job.recipe.analysis.positive]
    if not rules:
        return {}
    there = {str(name) for part in parts for name in pandas.read_csv(part, nrows=0)}
    markers = with_channel_numbers(rules, job.image, there)
    wanted = {marker.column for marker in markers}
    columns = [pandas.read_csv(part, usecols=lambda name: name in wanted) for part in parts]
    every = pandas.concat([one for one in columns if len(one)] or columns[:1])
    thresholds = thresholds_of(every, markers)
    for part in parts:
        table = read_cells_table(part)
        add_positive(table, thresholds)
        write_csv(part, table)
    return thresholds


def _boxes(
    table: pandas.DataFrame, image: Image, *, is_volume: bool
) -> tuple[NDArray[np.float64], tuple[int, ...]]:
    """Return the boxes (N, 2, D) of cells, and the lengths of these axes: Z where slices are linked."""
    axes = [axis for axis in image.spatial_axes if f"box_{axis.lower()}0" in table]
    if not is_volume:
        axes = axes[-2:]
    sides = [f"box_{axis.lower()}{corner}" for corner in (0, 1) for axis in axes]
    lengths = image.lengths
    boxes = table[sides].to_numpy(np.float64).reshape(len(table), 2, len(axes))
    return boxes, tuple(lengths[axis] for axis in axes)


def _erase(job: StreamJob, block: StreamBlock, numbers: NDArray[np.int64]) -> None:
    path = job.files.labels
    labels, place = open_array(path), block.place(job.image.label_axes)
    window = np.asarray(labels[place])
    window[np.isin(window, numbers)] = 0
    with writing(path):
        labels[place] = window
