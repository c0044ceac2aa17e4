"""One block: counted as an image of its own, its cells written among those of its neighbours."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas
from numpy.typing import NDArray

from cellwright.core.data import Cells, Image, Labels, Maps, Provenance, Result
from cellwright.core.errors import SettingsError
from cellwright.core.tasks import Progress, Task
from cellwright.files.atomic import atomic_write, write_text, writing
from cellwright.files.tables import in_digits, write_csv
from cellwright.files.zarr import open_array
from cellwright.inference.context import KnownPart, calibration_of
from cellwright.inference.pipeline import count_with_prediction
from cellwright.inference.streaming.plan import (
    Kept,
    StreamBlock,
    StreamJob,
    StreamPlan,
    blocks_of,
    factor_of,
    kept_plan,
    label_range,
    tell,
)
from cellwright.models.fit import FactCollector
from cellwright.models.protocol import in_model_pixels
from cellwright.models.stitching import DoneBlock, Unclaimed, boxes_with_lead, own_cells, with_lead
from cellwright.ops.geometry.tiles import Window
from cellwright.ops.labels import label_properties, numbered
from cellwright.ops.link import link_cells
from cellwright.ops.measure.cells_table import cells_table

LEFT = ("points", "boxes", "scores", "areas")  # columns of the cells that a block leaves


def window_image(image: Image, block: StreamBlock, level: int = 0) -> Image:
    """Return the window of a block as an image, its pixels read, those of a smaller copy where that is asked.

    ImageError where they cannot be read.
    """
    sizes = image.pixel_size_um
    if level:
        factor = factor_of(image, level)
        image = replace(image, data=image.levels[level - 1])
        block = block.shrunk(factor)
        pairs = zip(sizes, image.spatial_axes, strict=False)
        sizes = tuple(size * factor if axis in "YX" else size for size, axis in pairs)
    pixels = image.read(block.place(image.axes))
    return Image(pixels, image.axes.replace("T", ""), sizes, image.name, image.channel_names)


def count_block(job: StreamJob, plan: StreamPlan, block: StreamBlock, part: Image) -> Task[None]:
    """Count one block from its ``part`` of the image: write its labels, then the table of its cells."""
    factor, settings, preparation = factor_of(job.image, plan.level), job.settings, plan.preparation
    if factor > 1:
        settings = in_model_pixels(settings, 1 / factor)
        scaling = preparation.scaling
        scaling = replace(scaling, background=scaling.background // factor)
        preparation = preparation._replace(scaling=scaling, zoom=preparation.zoom * factor)
    calibration = calibration_of(job.models, settings)
    facts = FactCollector(calibration)
    maps = job.files.of(Kept.MAPS, block)
    known = KnownPart(preparation, _within(job.image, plan, block), _read_maps(maps), facts)
    counting = count_with_prediction(
        part, job.models, settings, job.recipe.engine, keep_maps=False, known=known
    )
    result, _ = yield from counting
    if factor > 1:
        result = _enlarged(result, factor, [span.stop - span.start for span in block.tile.read])
    if len(block.tile.core) == 3 and not job.recipe.engine.link:
        result = replace(result, cells=_in_own_slices(result.cells, block))
    if result.gives == "density":
        table = _density_written(job, block, result)
    else:
        table = _cells_written(job, plan, block, result)
        _write_faint(job, block, result.cells.faint)
    path, networks = job.files.of(Kept.CELLS, block), plan.preparation.networks
    if networks is not None:
        tell(path, networks.notice)
    if calibration is not None:
        write_text(job.files.of(Kept.FIT, block), json.dumps(facts.sums))
    write_csv(path, table, in_digits)
    maps.unlink(missing_ok=True)


def _within(image: Image, plan: StreamPlan, block: StreamBlock) -> tuple[tuple[int, int], Window]:
    """Return (Y, X) of the image, or of the smaller copy that is counted in, and a block's window there."""
    lengths, factor = image.lengths, factor_of(image, plan.level)
    if factor > 1:
        small, block = image.levels[plan.level - 1], block.shrunk(factor)
        lengths = dict(zip(image.axes, small.shape, strict=True))
    return (lengths["Y"], lengths["X"]), block.tile.read[-2:]


def _read_maps(path: Path) -> Maps | None:
    """Return the maps of a block that were kept; None where there are none."""
    with suppress(OSError, EOFError, ValueError, BadZipFile), np.load(path) as stored:
        return dict(stored)  # else lost by a computer that stopped
    return None


def _enlarged(result: Result, factor: int, shape: Sequence[int]) -> Result:
    """Return what was found in a smaller copy in the pixels of the image, in a window of this shape."""

    def grown(values: NDArray[Any]) -> NDArray[Any]:
        large = values.repeat(factor, axis=-2).repeat(factor, axis=-1)[..., : shape[-2], : shape[-1]]
        missing = [(0, n - have) for n, have in zip(shape, large.shape, strict=True)]
        return np.pad(large, missing, mode="edge")

    cells = result.cells
    maps = {name: (grown(one) / factor**2).astype(np.float32) for name, one in result.maps.items()}
    if cells.labels is not None:
        labels = grown(cells.labels)
        areas, points, boxes = label_properties(labels)
        faint = None if cells.faint is None else grown(cells.faint)
        cells = replace(cells, points=points, boxes=boxes, areas=areas, labels=labels, faint=faint)
        return replace(result, cells=cells)
    scale = np.ones(cells.points.shape[1], np.float32)
    scale[-2:] = factor
    points = (cells.points * scale + (scale - 1) / 2).astype(np.float32)
    cells = replace(
        cells, points=points, boxes=cells.boxes * scale, areas=cells.areas * np.float32(factor**2)
    )
    return replace(result, cells=cells, maps=maps)


def _in_own_slices(cells: Cells, block: StreamBlock) -> Cells:
    """Return the outlines in slices of the core; those around were read for the network to look at."""
    own = block.tile.local[0]
    return cells.take((cells.points[:, 0] >= own.start) & (cells.points[:, 0] < own.stop))


def link_block(job: StreamJob, plan: StreamPlan, block: StreamBlock) -> Task[None]:
    """Link the outlines in the slices of a block to cells: write their labels, then the table of its own."""
    image = job.image
    model = job.models[0]
    yield Progress("link", 0, 1)
    outlines = _outlines_in(job.outlines, block)
    axes, sizes = image.label_axes.replace("T", ""), image.pixel_size_um
    cells = link_cells(outlines, axes, model.linking(job.settings), sizes)
    assert outlines.labels is not None
    window = Image(np.broadcast_to(np.uint8(0), outlines.labels.shape), axes, sizes, image.name)
    del outlines
    found = Result(float(len(cells)), cells, Provenance.of_image(window, {"engine": {"link": True}}))
    table = _cells_written(job, plan, block, found)
    write_csv(job.files.of(Kept.CELLS, block), table, in_digits)


def _write_faint(job: StreamJob, block: StreamBlock, faint: NDArray[np.bool_] | None) -> None:
    """Write where cells of neighbouring slices may go on in the core of a block."""
    if faint is not None and job.files.faint.exists():
        with writing(job.files.faint):
            place = block.place(job.image.label_axes, core=True)
            open_array(job.files.faint)[place] = faint[block.tile.local]


def _outlines_in(job: StreamJob, block: StreamBlock) -> Cells:
    """Return what was outlined in the slices of a window: labels and scores."""
    plan = kept_plan(job)
    assert plan is not None
    around = [one for one in blocks_of(job.image, plan) if one.overlaps(block)]
    place, faint = block.place(job.image.label_axes), None
    labels, present = compact(np.asarray(open_array(job.files.labels)[place]))
    if job.files.faint.exists():
        faint = np.asarray(open_array(job.files.faint)[place])
    parts = job.files.all_of(Kept.CELLS, around)
    tables = [pandas.read_csv(part, usecols=["label", "score"]) for part in parts]
    table = pandas.concat(tables).set_index("label")["score"]
    n, none = len(present) - 1, np.zeros(len(present) - 1, np.float32)
    scores = table.reindex(present[1:], fill_value=0.0).to_numpy(np.float32)
    points, boxes = np.zeros((n, 3), np.float32), np.zeros((n, 2, 3), np.float32)
    return Cells(points, boxes, scores, none, labels, faint=faint)


def compact(labels: Labels) -> tuple[Labels, NDArray[np.integer]]:
    """Return labels numbered 1..N in their order, and the number that each had; the first is 0.

    Those of a whole image are so high that tables by number take more memory than its blocks.
    """
    numbers, codes = numbered(labels)
    return codes, np.concatenate([[0], numbers])


def _density_written(job: StreamJob, block: StreamBlock, result: Result) -> pandas.DataFrame:
    density = result.maps["density"][block.tile.local]
    path = job.files.density
    with writing(path):
        open_array(path)[block.place(job.image.label_axes, core=True)] = density
    return pandas.DataFrame([{"t": block.time, "count": float(density.sum(dtype=np.float64))}])


def _cells_written(job: StreamJob, plan: StreamPlan, block: StreamBlock, result: Result) -> pandas.DataFrame:
    """Write the labels of a block's own cells, if they have any, and what it leaves; return their table."""
    blocks = blocks_of(job.image, plan)
    numbers = label_range(block, len(blocks))
    has_labels, files = result.cells.labels is not None, job.files
    done = []
    for other in blocks:
        if other.round < block.round and other.overlaps(block):
            one = DoneBlock(other.tile, _read_left(files.of(Kept.LEFT, other)))
            if not has_labels:
                centres = centres_in([files.of(Kept.CELLS, other)], "zyx"[-len(block.tile.read) :])
                one = one._replace(centres=centres.astype(np.float32))
            done.append(one)
    if has_labels:
        cells, later = _written(job, block, result.cells, numbers, done)
    else:
        cells, later = own_cells(result.cells, block.tile, done, None)
        _check_room(cells, numbers)
    _write_left(files.of(Kept.LEFT, block), later)
    table = _table(job.image, block, result, cells)
    table["label"] += numbers.start - 1
    return table


def _check_room(cells: Cells, numbers: range) -> None:
    if len(cells) > len(numbers):
        raise SettingsError(f"A block may hold {len(numbers)} cells; got {len(cells)}. Give it less memory.")


def _written(
    job: StreamJob, block: StreamBlock, cells: Cells, numbers: range, before: Sequence[DoneBlock]
) -> tuple[Cells, Unclaimed]:
    """Write the labels of a block's own cells; return these, and what is left to later blocks.

    What an interrupted try has written is taken out.
    """
    path = job.files.labels
    place = block.place(job.image.label_axes)
    labels = open_array(path)
    window = np.asarray(labels[place])
    window[(window >= numbers.start) & (window < numbers.stop)] = 0
    own, later = own_cells(cells, block.tile, before, window)
    _check_room(own, numbers)
    assert own.labels is not None
    np.copyto(window, own.labels + np.int32(numbers.start - 1), where=own.labels > 0)
    with writing(path):
        labels[place] = window
    return own, later


def centres_in(parts: Sequence[Path], axes: str) -> NDArray[np.float64]:
    """Return the centres (N, D) of the cells in the tables of blocks, along axes such as ``zyx``."""
    columns = list(axes)
    tables = [pandas.read_csv(part, usecols=columns)[columns].to_numpy(np.float64) for part in parts]
    return np.concatenate(tables)


def _write_left(path: Path, left: Unclaimed) -> None:
    """Write what a block leaves to those that come later."""
    cells, ndim = left.cells, left.cells.points.shape[1]
    columns = {name: getattr(cells, name) for name in LEFT}
    pixels = np.concatenate([np.zeros((0, ndim), np.int32), *left.pixels])
    with atomic_write(path) as part, part.open("wb") as file:
        np.savez(file, pixels=pixels, n_pixels=np.array([*map(len, left.pixels)], np.intp), **columns)


def _read_left(path: Path) -> Unclaimed:
    """Return what a block has left to those that come later."""
    with np.load(path) as stored:
        pixels = np.split(stored["pixels"], np.cumsum(stored["n_pixels"]))[:-1]
        return Unclaimed(Cells(*(stored[name] for name in LEFT)), pixels)


def _table(image: Image, block: StreamBlock, result: Result, cells: Cells) -> pandas.DataFrame:
    """Return the rows of a block's cells, in pixels of the whole image."""
    cells, offset = placed(image, block, replace(cells, labels=None))
    provenance = replace(
        result.provenance, axes=image.axes, image_shape=image.shape, pixel_size_um=image.pixel_size_um
    )
    return cells_table(replace(result, cells=cells, provenance=provenance, offset=offset))


def placed(image: Image, block: StreamBlock, cells: Cells) -> tuple[Cells, tuple[int, ...]]:
    """Return the cells of a window with all axes of the labels of the image, and the place of the window."""
    offset = [span.start for span in block.tile.read]
    if "T" not in image.axes:
        return cells, tuple(offset)
    cells = replace(cells, points=with_lead(cells.points, [0]), boxes=boxes_with_lead(cells.boxes, [0]))
    if cells.labels is not None:
        cells = replace(cells, labels=cells.labels[np.newaxis])
    return cells, (block.time, *offset)
