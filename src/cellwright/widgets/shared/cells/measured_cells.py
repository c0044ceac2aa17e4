"""The cells of a Labels or Points layer with all that is measured of them, as a table.

::

    layer, image layer, further layers        the GUI thread takes a snapshot of what they hold
        -> Snapshot -> measure_task           a worker thread measures
        -> MeasuredCells                      a table with one row for each cell, and what it was made from
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import ceil, prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import CHANNEL, Cells, Labels, Provenance, Result
from cellwright.core.errors import OutOfMemoryError
from cellwright.core.memory import free_memory
from cellwright.core.tasks import Progress, Task
from cellwright.core.words import n_of
from cellwright.inference.settings import LARGE_PIXELS
from cellwright.ops.geometry.tiles import window_between
from cellwright.ops.labels import as_int32
from cellwright.ops.measure.analysis import region_sizes
from cellwright.ops.measure.blocks import numbers_in_file
from cellwright.ops.measure.cells_table import cell_ndim, cells_table, is_volumetric, label_axes, label_shape
from cellwright.ops.measure.columns import PIXEL_COUNTS
from cellwright.ops.measure.compartments import NucleiInCells, compartments_task
from cellwright.ops.measure.features import nearest_distances
from cellwright.ops.measure.filters import BorderRule, away_from_border, names_of_channels, unique_names
from cellwright.ops.measure.measurement import measure_result, pixel_sizes, result_of_labels
from cellwright.ops.measure.regions import RegionSet
from cellwright.ops.measure.settings import MeasureSettings
from cellwright.widgets.shared.cells.deleted_cells import bring_back
from cellwright.widgets.shared.cells.snapshot import Snapshot
from cellwright.widgets.shared.edited_layers import edited_rows, engine_of, repeated_rows
from cellwright.widgets.shared.layer_factory import texts_of

if TYPE_CHECKING:
    import pandas

BYTES_PER_PIXEL = 13  # that labels take while they are measured
MEAN = "intensity_mean_"
SIZES = ("area_px", "diameter_px", "volume_px", "area_um2", "diameter_um", "volume_um3")


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredCells:
    """All cells of a layer, counted or not."""

    snapshot: Snapshot  # what was measured; its pixels are a copy
    settings: MeasureSettings  # what was asked for
    table: "pandas.DataFrame"  # a row for each cell; ``label`` is its value, of a point its number
    result: Result  # the same cells; its labels are numbered by row
    membership: NDArray[np.bool_]  # (N, regions): which cell lies in which region
    counted_in: NDArray[np.str_] | None = None  # names of the regions of the count that each cell lies in
    sizes: NDArray[np.int64] | None = None  # pixels of each region in each frame
    measured: tuple[str, ...] = ()  # columns that were measured on request
    nuclei: NucleiInCells | None = None  # how nuclei lie in the cells, where they were given

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Value of each cell in the layer."""
        return np.asarray(self.table["label"].to_numpy(), np.int64)

    @property
    def frames(self) -> NDArray[np.intp]:
        """Indices of each cell along the axes before its spatial ones, (N, axes)."""
        n_lead = len(label_axes(self.result)) - cell_ndim(self.result)
        return np.rint(self.result.cells.points[:, :n_lead]).astype(np.intp)

    @property
    def has_outlines(self) -> bool:
        """Whether the cells are more than points."""
        return self.snapshot.pixels is not None

    @property
    def n_edited(self) -> int:
        """Number of cells drawn or changed by hand."""
        return int(edited_rows(self.table).sum())

    @property
    def by_hand(self) -> list[str]:
        """What was done by hand since the count, as far as it is known; empty where nothing was."""
        done, found = [], self.snapshot.found
        if self.n_edited:
            done.append(f"{n_of(self.n_edited, 'cell')} drawn or changed")
        if found is not None and (n_gone := len(set(found["label"]) - set(self.numbers))):
            done.append(f"{n_of(n_gone, 'cell')} deleted or joined to others")
        if self.snapshot.is_edited and not done:
            done.append("cells deleted or classified")
        return done

    @property
    def marker_channels(self) -> list[str]:
        """Channels and images whose mean intensity is known."""
        return [str(name)[len(MEAN) :] for name in self.table if str(name).startswith(MEAN)]

    @property
    def channel_names(self) -> dict[str, str]:
        """How people call channels and further images; the only one of an image that names none stays."""
        channels, image = self.marker_channels, self.snapshot.image
        titles = {channel: self.title_of(channel).removesuffix(f" ({channel})") for channel in channels}
        if not names_of_channels(image) and image.source_part is None:
            titles.pop("ch0", None)
        return unique_names(channels, titles)

    def title_of(self, channel: str) -> str:
        """Return how people call a channel or image: with the name in the file, where it is known."""
        image = self.snapshot.image
        names = names_of_channels(image)
        if not names and CHANNEL not in image.axes:
            names = (image.name,)
        numbers = zip(numbers_in_file(image), names, strict=False)
        titles = {f"ch{number}": f"{name} (ch{number})" for number, name in numbers}
        for name, other in self.snapshot.others.items():
            if other.source_part is not None:
                called = next(iter(other.channel_names), other.name)
                titles[name] = f"{called} ({name})"
        return titles.get(channel, channel)

    def rows_of(self, number: int, frame: Sequence[int]) -> NDArray[np.intp]:
        """Return the rows of the cells with this number, those of the frame alone where it occurs there."""
        rows = np.flatnonzero(self.numbers == number)
        if len(rows) > 1:
            lead = self.frames[rows]
            here = (lead == np.asarray(frame)[: lead.shape[1]]).all(axis=1)
            if here.any():
                return np.asarray(rows[here])
        return rows

    def row_in(self, later: "MeasuredCells", row: int) -> int:
        """Return the row of a cell in a later table of the layer; -1 where it is gone."""
        if not 0 <= row < len(self.numbers):
            return -1
        old: NDArray[Any]
        new: NDArray[Any]
        old, new = (np.column_stack([one.frames, one.numbers]) for one in (self, later))
        if not later.has_outlines:  # points are numbered by their order: one that came or went shifts them
            if len(new) == len(old):
                return row
            old, new = self.result.cells.points, later.result.cells.points
        if old.shape[1] != new.shape[1]:
            return -1
        same = np.flatnonzero((new == old[row]).all(axis=1))
        return int(same[0]) if len(same) else -1

    def away_from_border(self, rule: BorderRule) -> NDArray[np.bool_]:
        """Return which cells count by a rule for those at the border; points all do."""
        labels, boxes = self.result.cells.labels, self.result.cells.boxes
        if labels is None:
            return np.ones(len(boxes), bool)
        ndim = cell_ndim(self.result)
        return away_from_border(boxes[:, :, -ndim:], labels.shape[-ndim:], rule)

    def by_frame(self) -> dict[str, NDArray[np.bool_]]:
        """Return the cells of each frame or slice, a mask of the table each: ``t 0``, ``t 1 z 0``.

        Numbers are those of the image. Cells of a volume lie in the slice of their centre.
        """
        result, frames = self.result, self.frames
        if not frames.shape[1]:
            frames = np.rint(result.cells.points[:, :1]).astype(np.intp)
        axes, lengths = label_axes(result).lower(), label_shape(result)[: frames.shape[1]]
        starts, found = result.offset or (0,) * len(axes), {}
        for index in np.ndindex(*lengths):
            places = zip(axes, index, starts, strict=False)
            name = " ".join(f"{axis} {at + start}" for axis, at, start in places)
            found[name] = (frames == np.array(index)).all(axis=1)
        return found


class PixelChange(NamedTuple):
    """Labels whose pixels changed, and the box (2, axes) around these pixels."""

    numbers: NDArray[np.int64] = np.zeros(0, np.int64)
    box: NDArray[np.intp] | None = None


def measure_task(
    snapshot: Snapshot,
    settings: MeasureSettings,
    before: MeasuredCells | None = None,
    cytoplasm_px: float = 0.0,
) -> Task[MeasuredCells]:
    """Return the cells of a layer with their measurements; run in a worker thread.

    Cells that are as ``before`` are not measured again, and those that came or changed since are marked as
    made by hand. ``cytoplasm_px`` is, without nuclei, the width of the ring around each cell that is taken
    for its cytoplasm.
    """
    yield Progress("read", 0, 1)
    if snapshot.points is not None:
        return _measured_points(snapshot, settings, before)
    assert snapshot.pixels is not None
    _refuse_too_large(snapshot.pixels)
    snapshot = replace(snapshot, pixels=np.array(snapshot.pixels), nuclei=_read_nuclei(snapshot))
    result, numbers = _result(snapshot)
    table = cells_table(result)
    table["label"] = numbers
    if before is not None and not _is_same_layer(snapshot, before.snapshot):
        before = None
    change = _change_since(snapshot, before)
    _carry_features(table, snapshot, change.numbers)
    result = _with_scores_and_classes(result, table)
    yield Progress("regions", 0, 1)
    cells = _in_regions(snapshot, settings, table, result)
    found = yield from _measure(cells, before, change)
    parts = yield from compartments_task(
        cells.result, snapshot.image, settings.measure, snapshot.nuclei, cytoplasm_px, snapshot.others
    )
    for name, values in (*found.items(), *parts.columns.items()):
        table[name] = values
    return replace(cells, measured=tuple(found), nuclei=parts.nuclei)


def _read_nuclei(snapshot: Snapshot) -> Labels | None:
    return None if snapshot.nuclei is None else as_int32(np.asarray(snapshot.nuclei))


def _refuse_too_large(pixels: Any) -> None:
    """Raise OutOfMemoryError where labels, which may lie in files, would fill memory and end the program."""
    n_px = prod(pixels.shape)
    if n_px > LARGE_PIXELS and n_px * BYTES_PER_PIXEL > (free := free_memory()):
        raise OutOfMemoryError(
            f"Labels of {n_px:,} pixels take {n_px * BYTES_PER_PIXEL / 1e9:.0f} GB to be measured here; "
            f"{free / 1e9:.0f} GB are free. Open the table of the count, or measure block by block "
            "with cellwright count --measure."
        )


def _in_regions(
    snapshot: Snapshot, settings: MeasureSettings, table: "pandas.DataFrame", result: Result
) -> MeasuredCells:
    regions = snapshot.regions
    membership = _membership(regions, snapshot, result)
    if regions.included:
        table["regions"] = regions.joined_names(membership)
    counted, names = snapshot.counted, None
    if counted is not None:  # whatever a panel counts in by now
        own = membership if counted == regions else _membership(counted, snapshot, result)
        names = counted.joined_names(own)
    sizes = region_sizes(result, regions)
    return MeasuredCells(snapshot, settings, table, result, membership, names, sizes)


def _membership(regions: RegionSet, snapshot: Snapshot, result: Result) -> NDArray[np.bool_]:
    """Return which cell lies in which region, (N, regions).

    Where the rule needs outlines, points lie in what their layer tells: as they were counted with outlines,
    those by hand by their place.
    """
    features = snapshot.features
    is_told = regions == snapshot.counted and "regions" in features
    if snapshot.points is not None and regions.rule != "centre" and is_told:
        return regions.split_names(texts_of(features["regions"]))
    return regions.membership(result.cells, result.offset)


def _measure(
    cells: MeasuredCells, before: MeasuredCells | None, change: PixelChange
) -> Task[dict[str, NDArray[Any]]]:
    """Return the measured columns; those of cells far from a change as they are known."""
    image, others, settings = cells.snapshot.image, cells.snapshot.others, cells.settings
    if before is None or not len(before.table) or not before.measured or not _is_same_measure(cells, before):
        return (yield from measure_result(cells.result, image, settings, others))
    known = _rows_before(cells, before)
    margin = 2 * ceil(settings.ring_gap_px + settings.ring_width_px) + 2
    is_new = (known < 0) | np.isin(cells.numbers, change.numbers) | _near(cells, change.box, margin)
    columns = {name: before.table[name].to_numpy(np.float64)[known] for name in before.measured}
    if is_new.any():
        rows, found = yield from _measure_window(cells, is_new, margin)
        for name, column in columns.items():
            column[rows] = found[name]
    for name in columns:
        if name.startswith("nearest_distance"):  # anywhere in the image
            ndim = cells.result.cells.points.shape[1] - cells.frames.shape[1]
            spacing = pixel_sizes(cells.result, ndim) or (1.0,) * ndim
            columns[name] = nearest_distances(cells.result.cells, spacing)
    return columns


def _measure_window(
    cells: MeasuredCells, is_new: NDArray[np.bool_], margin: int
) -> Task[tuple[NDArray[np.intp], dict[str, NDArray[Any]]]]:
    """Return the rows of some cells and their measurements, made in a window around them alone."""
    result, snapshot = cells.result, cells.snapshot
    labels = result.cells.labels
    assert labels is not None
    boxes = result.cells.boxes[is_new]
    n_lead = cells.frames.shape[1]
    margins = np.array([0] * n_lead + [margin] * (labels.ndim - n_lead))
    low = np.clip(np.floor(boxes[:, 0].min(axis=0)) - margins, 0, labels.shape).astype(int)
    high = np.clip(np.ceil(boxes[:, 1].max(axis=0)) + margins, low + 1, labels.shape).astype(int)
    window = window_between(low, high)
    part, numbers = result_of_labels(labels[window], snapshot.image, is_volume=is_volumetric(result))
    offset = result.offset or (0,) * labels.ndim
    place = tuple(int(a + b) for a, b in zip(offset, low, strict=True))
    part = replace(part, offset=place, provenance=result.provenance)
    found = yield from measure_result(part, snapshot.image, cells.settings, snapshot.others)
    is_wanted = is_new[numbers - 1]
    return numbers[is_wanted] - 1, {name: values[is_wanted] for name, values in found.items()}


def _near(cells: MeasuredCells, box: NDArray[np.intp] | None, margin: int) -> NDArray[np.bool_]:
    """Return which cells have what changed in the window of their ring or their neighbours."""
    boxes = cells.result.cells.boxes
    if box is None:
        return np.zeros(len(boxes), bool)
    return np.asarray(((boxes[:, 1] + margin > box[0]) & (boxes[:, 0] - margin < box[1])).all(axis=1))


def _is_same_measure(cells: MeasuredCells, before: MeasuredCells) -> bool:
    old, new = before.snapshot, cells.snapshot
    pixels, pixels_before = (
        {"": id(one.image.data), **{name: id(other.data) for name, other in one.others.items()}}
        for one in (new, old)
    )
    is_same_image = pixels == pixels_before and old.offset == new.offset and old.marks == new.marks
    return is_same_image and before.settings == cells.settings


def _rows_before(cells: MeasuredCells, before: MeasuredCells) -> NDArray[np.intp]:
    """Return the row that each cell had; -1 where it is new. A number may occur in several frames."""
    own, old = _keys(cells), _keys(before)
    if not len(old):
        return np.full(len(own), -1, np.intp)
    high = np.maximum(own.max(axis=0, initial=0), old.max(axis=0, initial=0)) + 1
    own, old = (np.ravel_multi_index(tuple(keys.T), tuple(high)) for keys in (own, old))
    order = np.argsort(old)
    rows = order[np.searchsorted(old, own, sorter=order).clip(max=len(old) - 1)]
    return np.asarray(np.where(old[rows] == own, rows, -1), np.intp)


def _keys(cells: MeasuredCells) -> NDArray[np.int64]:
    return np.column_stack([cells.frames, cells.numbers])


def _is_same_layer(snapshot: Snapshot, before: Snapshot) -> bool:
    """Return whether what differs was done by hand, not by another count."""
    old, new = before.pixels, snapshot.pixels
    if old is None or new is None or old.shape != new.shape:
        return False
    return dict(before.provenance) == dict(snapshot.provenance)


def _change_since(snapshot: Snapshot, before: MeasuredCells | None) -> PixelChange:
    if before is None:
        return PixelChange()
    old, new = before.snapshot.pixels, snapshot.pixels
    assert old is not None
    assert new is not None
    places = np.nonzero(old != new)
    if not len(places[0]):
        return PixelChange()
    box = np.array([[axis.min() for axis in places], [axis.max() + 1 for axis in places]])
    return PixelChange(np.union1d(old[places], new[places]).astype(np.int64), box)


def _carry_features(table: "pandas.DataFrame", snapshot: Snapshot, changed: NDArray[np.int64]) -> None:
    """Add class, score and whether a cell was made by hand, as the features of a Labels layer tell."""
    features = snapshot.features
    numbers = table["label"].to_numpy()
    rows = features.reindex(numbers)
    edited = np.isin(numbers, changed) | edited_rows(rows)
    if len(features.columns) and (snapshot.provenance or "edited" in features):  # they were ours
        size = next((name for name in PIXEL_COUNTS if name in rows and name in table), None)
        if size is not None:  # what was painted before anyone looked
            edited |= rows[size].to_numpy(np.float64) != table[size].to_numpy(np.float64)
    if "score" in rows:
        table["score"] = rows["score"].to_numpy(np.float64)
    elif "score" in table:
        del table["score"]
    if "class" in rows:
        table["class"] = np.array(texts_of(rows["class"]), str)
    if "score" in table:
        table.loc[edited, "score"] = np.nan
    table["edited"] = edited
    bring_back(table, edited, snapshot.deleted)


def _with_scores_and_classes(result: Result, table: "pandas.DataFrame") -> Result:
    cells, settings = result.cells, dict(result.provenance.settings)
    if "score" in table:
        cells = replace(cells, scores=np.nan_to_num(table["score"].to_numpy(np.float32), nan=1.0))
    known = list(settings.pop("classes", ()))  # of the classifier, those that no cell is of among them
    if "class" in table:
        names = [*known, *sorted({name for name in table["class"] if name} - set(known))]
        numbers = {name: number for number, name in enumerate(names)}
        cells = replace(cells, classes=np.array([numbers.get(one, -1) for one in table["class"]], np.int16))
        settings["classes"] = names
    return replace(result, cells=cells, provenance=replace(result.provenance, settings=settings))


def result_of(snapshot: Snapshot) -> Result:
    """Return the labels of a layer as a result."""
    return _result(snapshot)[0]


def _result(snapshot: Snapshot) -> tuple[Result, NDArray[np.int64]]:
    """Return the labels as a result that tells how they were found, and their numbers in the layer."""
    assert snapshot.pixels is not None
    link = engine_of(snapshot.provenance).get("link", True)
    labels = np.asarray(snapshot.pixels)
    if labels.size and labels.min() < 0:
        labels = np.where(labels > 0, labels, 0)
    result, numbers = result_of_labels(labels, snapshot.image, is_volume=link)
    provenance = _found_by(snapshot, result.provenance)
    return replace(result, offset=snapshot.offset, provenance=provenance), numbers


def _found_by(snapshot: Snapshot, blank: Provenance) -> Provenance:
    """Return how the cells of a layer were found, with the image as it is understood now."""
    found, image = snapshot.provenance, snapshot.image
    known = {item.name for item in fields(Provenance)} & set(found) - {"source"}  # there that of a layer
    own = {name: found[name] for name in known}
    own |= {"image_shape": image.shape, "axes": image.axes, "pixel_size_um": image.pixel_size_um}
    own["settings"] = {**blank.settings, **found.get("settings", {})}
    return replace(blank, **own)


def _measured_points(
    snapshot: Snapshot, settings: MeasureSettings, before: MeasuredCells | None
) -> MeasuredCells:
    points = snapshot.points
    assert points is not None
    n, boxes, left_out = len(points), snapshot.boxes, ["box_", *SIZES, "score", "mean_slice"]
    if boxes is None:
        boxes = np.stack([points, points], axis=1)
    else:
        left_out[0] = "box_z"  # a box is drawn in one slice
    cells = Cells(
        points.astype(np.float32), boxes.astype(np.float32), np.ones(n, np.float32), np.zeros(n, np.float32)
    )
    provenance = _found_by(snapshot, Provenance.of_image(snapshot.image, {"engine": {"link": True}}))
    result = Result(float(n), cells, provenance, offset=(0,) * points.shape[1])
    table = cells_table(result)
    table = table[[name for name in table if not str(name).startswith(tuple(left_out))]]
    features = snapshot.features.reset_index(drop=True)
    edited = _edited_points(snapshot, before)
    for name in ("score", *SIZES):
        if name in features:
            table[name] = features[name].to_numpy(np.float64)
            table.loc[edited, name] = np.nan
    if "class" in features:
        table["class"] = np.array(texts_of(features["class"]), str)
    table["edited"] = edited
    result = _with_scores_and_classes(result, table)
    return _in_regions(snapshot, settings, table, result)


def _edited_points(snapshot: Snapshot, before: MeasuredCells | None) -> NDArray[np.bool_]:
    points, features = snapshot.points, snapshot.features
    assert points is not None
    edited = edited_rows(features)
    if "label" in features:
        edited |= repeated_rows(features)
    if before is None or before.snapshot.points is None:
        return edited
    old = before.snapshot.points
    if dict(before.snapshot.provenance) == dict(snapshot.provenance):
        known = {tuple(one) for one in old.tolist()}
        edited |= np.array([tuple(one) not in known for one in points.tolist()], bool)
    return edited
