"""Which of the cells of all blocks count, and the sums of an analysis, made of their tables.

Regions, filters and the border leave cells out block by block. What depends on all cells at once (a
threshold by Otsu's method, tracks) is found in the tables alone, column by column.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Cells, Image, Result
from cellwright.core.errors import SettingsError
from cellwright.files.atomic import writing
from cellwright.files.zarr import open_array
from cellwright.inference.device import free_memory
from cellwright.inference.streaming.plan import FREE_SHARE, StreamBlock, StreamJob, files_of
from cellwright.inference.streaming.second_pass import regions_of, write_rows
from cellwright.models.classifier.network import load
from cellwright.ops.measure.analysis import (
    Analysis,
    counts_table,
    left_out,
    left_out_notices,
    tracks_of,
)
from cellwright.ops.measure.markers import (
    add_positive,
    copositive_table,
    parse_marker,
    thresholds_of,
    with_channel_numbers,
)

if TYPE_CHECKING:
    import pandas

BYTES_PER_LINK = 24  # of two cells in frames that follow each other, while they are linked
SUMMED = ("label", "t", "z", "y", "x", "class", "score", "area_px", "volume_px", "regions", "nuclei")


@dataclass(frozen=True, slots=True, eq=False)
class Selected:
    """Which cells count, and where."""

    membership: NDArray[np.bool_]  # (N, regions): which cell lies in which region, block by block
    sizes: NDArray[np.int64]  # pixels of the regions, see ``ops.measure.analysis.region_sizes``
    n_outside: int  # nuclei in no cell, where nuclei were given
    thresholds: Mapping[str, float]  # of the markers, by channel
    notices: tuple[str, ...]  # sentences for the user


def select(job: StreamJob, image: Image, blocks: Sequence[StreamBlock]) -> Selected:
    """Leave the cells that do not count out of the tables and labels of all blocks.

    A run that was stopped does it again from the measured tables, so it may be stopped at any moment.
    """
    import pandas

    files, settings, regions = files_of(job, image), job.analysis, regions_of(job, image)
    reasons: Counter[str] = Counter()
    memberships, n_outside = [], 0
    lengths = dict(zip(image.label_axes, image.label_shape, strict=True))
    sizes = np.zeros((len(regions.names_and_union), lengths.get("T", 1), lengths.get("Z", 1)), np.int64)
    for block in blocks:
        table = pandas.read_csv(files.measured(block))
        with np.load(files.regions(block)) as told:
            membership = told["membership"]
            n_outside += int(told["n_outside"])
            slices = block.tile.core[0] if "Z" in lengths else slice(0, 1)
            sizes[:, block.time, slices] += told["sizes"]
        if len(table):
            boxes = _boxes(table, image, is_volume=job.engine.link)
            kept, dropped = left_out(table, *boxes, settings, membership.any(axis=1))
            reasons.update(dropped)
            if not kept.all():
                _erase(job, image, block, table["label"][~kept].to_numpy())
            table, membership = table[kept], membership[kept]
        memberships.append(membership)
        write_rows(files.selected(block), table)
    thresholds = _mark(job, image, [files.selected(block) for block in blocks])
    if job.engine.link and "Z" in lengths:
        sizes = sizes.sum(axis=2, keepdims=True)
    lead = [n for axis, n in lengths.items() if axis == "T" or (axis == "Z" and not job.engine.link)]
    return Selected(
        np.concatenate(memberships),
        sizes.reshape(-1, *lead),
        n_outside,
        thresholds,
        left_out_notices(reasons),
    )


def analysis_of(
    job: StreamJob, image: Image, blocks: Sequence[StreamBlock], selected: Selected, result: Result
) -> Analysis:
    """Return the tables of the cells that count; those of tracks are added to the tables of the blocks.

    Its own table has all columns where the job wants them, else those of which a sum is made.

    Raises
    ------
    SettingsError
        Linking the cells of two frames takes more memory than there is.
    """
    import pandas

    parts = [files_of(job, image).selected(block) for block in blocks]
    tables = [
        pandas.read_csv(part, usecols=lambda name: job.whole_table or _is_summed(name)) for part in parts
    ]
    table = pandas.concat([one for one in tables if len(one)] or tables[:1], ignore_index=True)
    whole = [name for name in table if table[name].dtype.kind == "i" and not _is_integer(str(name))]
    table = table.astype(dict.fromkeys(whole, "float64"))  # of numbers that happen to be whole
    result = replace(result, count=float(len(table)), cells=_cells_of(job, image, table))
    tracks, lineages, copositive, n_outside = None, None, None, None
    if job.analysis.positive:
        copositive = copositive_table(table, tuple(selected.thresholds))
    if job.analysis.track:
        _check_links(result)
        tracks = tracks_of(result, job.analysis.tracking)
        lineages = tracks.lineage_table(job.analysis.frame_interval_s)
        for name, values in tracks.columns().items():
            table[name] = values
        _add_columns(parts, table[list(tracks.columns())])
    if job.files.nuclei:
        n_outside = selected.n_outside
    counts = counts_table(result, table, regions_of(job, image), selected.membership, selected.sizes)
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
    )


def _is_integer(column: str) -> bool:
    return column in ("label", "t", "nuclei") or column.startswith("box_")


def _is_summed(column: str) -> bool:
    return column in SUMMED or column.startswith(("box_", "positive_"))


def _cells_of(job: StreamJob, image: Image, table: "pandas.DataFrame") -> Cells:
    """Return the rows of a table as cells without outlines."""
    axes = image.label_axes.lower()
    points = table[list(axes)].to_numpy(np.float32)
    boxes = np.stack([points, points + 1], axis=1)
    for place, axis in enumerate(axes):
        if f"box_{axis}0" in table:
            boxes[:, :, place] = table[[f"box_{axis}0", f"box_{axis}1"]].to_numpy(np.float32)
    area = next(name for name in ("volume_px", "area_px") if name in table)
    classes = None
    if job.classifier:
        names = load(job.classifier).spec.classes
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


def _add_columns(parts: Sequence[Path], columns: "pandas.DataFrame") -> None:
    import pandas

    start = 0
    for part in parts:
        table = pandas.read_csv(part)
        if len(table):
            for name in columns:
                table[name] = columns[name].to_numpy()[start : start + len(table)]
            write_rows(part, table)
        start += len(table)


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
        add_positive(table, thresholds)
        write_rows(part, table)
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
