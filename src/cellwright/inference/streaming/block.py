"""One block: counted as an image of its own, its cells written among those of its neighbours."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from cellwright.core.data import Cells, Image, Result
from cellwright.core.errors import SettingsError
from cellwright.core.tasks import Task
from cellwright.files.atomic import atomic_write, write_text, writing
from cellwright.files.tables import DECIMALS, cells_table
from cellwright.files.zarr import open_array
from cellwright.inference.pipeline import count_with_prediction
from cellwright.inference.streaming.plan import (
    StreamBlock,
    StreamJob,
    StreamPlan,
    blocks_of,
    files_of,
    labels_of,
)
from cellwright.models.stitching import SAME_CENTRE, claimed, not_taken, with_lead

if TYPE_CHECKING:
    import pandas


def part_of(image: Image, block: StreamBlock) -> Image:
    """Return the window of a block as an image, its pixels read.

    Raises
    ------
    ImageError
        They cannot be read.
    """
    pixels = image.read(block.place(image.axes))
    return Image(pixels, image.axes.replace("T", ""), image.pixel_size_um, image.name, image.channel_names)


def count_block(
    job: StreamJob, image: Image, plan: StreamPlan, block: StreamBlock, part: Image
) -> Task[None]:
    """Count one block from its ``part`` of the image: write its labels, then the table of its cells.

    Raises
    ------
    WriteError
        A file cannot be written.
    """
    counting = count_with_prediction(
        part, job.model, job.settings, job.engine, keep_maps=False, preparation=plan.preparation
    )
    result, _ = yield from counting
    if result.gives == "density":
        table = _density_written(job, image, block, result)
    else:
        table = _cells_written(job, image, plan, block, result)
    if result.fit is not None:
        write_text(files_of(job, image).fit(block), json.dumps([result.fit, len(table)]))
    with atomic_write(files_of(job, image).part(block)) as path:
        table.to_csv(path, index=False)


def _density_written(job: StreamJob, image: Image, block: StreamBlock, result: Result) -> "pandas.DataFrame":
    """Write the density of a core; return its sum."""
    import pandas

    density = result.maps["density"][block.tile.local]
    path = files_of(job, image).density
    with writing(path):
        open_array(path)[block.place(image.label_axes, core=True)] = density
    return pandas.DataFrame([{"t": block.time, "count": float(density.sum(dtype=np.float64))}])


def _cells_written(
    job: StreamJob, image: Image, plan: StreamPlan, block: StreamBlock, result: Result
) -> "pandas.DataFrame":
    """Write the labels of a block's own cells, if they have any; return the table of these cells."""
    numbers = labels_of(block, len(blocks_of(image, plan)))
    if len(result.cells) > len(numbers):
        raise SettingsError(
            f"A block may hold {len(numbers)} cells; got {len(result.cells)}. Give it less memory."
        )
    if result.cells.labels is None:
        cells = _not_found_before(job, image, plan, block, result.cells)
    else:
        cells = _written(job, image, block, result.cells, numbers)
    table = _table(image, block, result, cells)
    table["label"] += numbers.start - 1
    return table.round(DECIMALS)


def _written(job: StreamJob, image: Image, block: StreamBlock, cells: Cells, numbers: range) -> Cells:
    """Write the labels of a block's own cells and return these; what an interrupted try left is taken out."""
    path = files_of(job, image).labels
    place = block.place(image.label_axes)
    labels = open_array(path)
    window = np.asarray(labels[place])
    window[(window >= numbers.start) & (window < numbers.stop)] = 0
    assert cells.labels is not None
    own = not_taken(cells, cells.labels, block.tile, window)
    assert own.labels is not None
    np.copyto(window, own.labels + np.int32(numbers.start - 1), where=own.labels > 0)
    with writing(path):
        labels[place] = window
    return own


def _not_found_before(
    job: StreamJob, image: Image, plan: StreamPlan, block: StreamBlock, cells: Cells
) -> Cells:
    """Return a block's own cells without those whose centre is that of a cell of a neighbour done before."""
    import pandas

    own = cells.take(claimed(cells.points, block.tile))
    before = [
        files_of(job, image).part(other)
        for other in blocks_of(image, plan)
        if other.round < block.round and other.touches(block)
    ]
    centres = [pandas.read_csv(path, usecols=["y", "x"])[["y", "x"]].to_numpy(np.float32) for path in before]
    earlier = np.concatenate([np.zeros((0, 2), np.float32), *centres])
    if not len(earlier) or not len(own):
        return own
    corner = np.array([span.start for span in block.tile.read[-2:]], np.float32)
    distance, _ = cKDTree(earlier).query(own.points[:, -2:] + corner)
    return own.take(distance > SAME_CENTRE * np.sqrt(own.areas))


def _table(image: Image, block: StreamBlock, result: Result, cells: Cells) -> "pandas.DataFrame":
    """Return the rows of a block's cells, in pixels of the whole image."""
    cells, offset = placed(image, block, replace(cells, labels=None))
    provenance = replace(result.provenance, axes=image.axes, image_shape=image.shape)
    return cells_table(replace(result, cells=cells, provenance=provenance, offset=offset))


def placed(image: Image, block: StreamBlock, cells: Cells) -> tuple[Cells, tuple[int, ...]]:
    """Return the cells of a window with all axes of the labels of the image, and the place of the window."""
    offset = [span.start for span in block.tile.read]
    if "T" not in image.axes:
        return cells, tuple(offset)
    boxes = np.stack([with_lead(cells.boxes[:, 0], [0]), with_lead(cells.boxes[:, 1], [1])], axis=1)
    cells = replace(cells, points=with_lead(cells.points, [0]), boxes=boxes)
    if cells.labels is not None:
        cells = replace(cells, labels=cells.labels[np.newaxis])
    return cells, (block.time, *offset)
