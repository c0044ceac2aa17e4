"""From cells that were found to the numbers a study needs: regions, nuclei, filters, markers, tracks.

::

    result, image, regions, nuclei
        -> measured columns                 one row per cell
        -> regions, border rule, filters    which cells count
        -> markers, tracks                  what is told of those that count
        -> Analysis                         tables of cells, of counts, of markers, of lineages
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeGuard

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import ArrayLike, Image, Labels, Result
from cellwright.core.errors import AxesError
from cellwright.core.tasks import Progress, Task, run
from cellwright.ops.measure.cells_table import (
    cell_ndim,
    cells_table,
    class_counts,
    class_names,
    is_volumetric,
    label_axes,
    label_shape,
)
from cellwright.ops.measure.compartments import Compartments, NucleiInCells, compartments_task
from cellwright.ops.measure.filters import (
    add_positive,
    away_from_border,
    called,
    check_texts,
    copositive_table,
    kept_rows,
    parse_filter,
    parse_marker,
    thresholds_of,
    with_channel_numbers,
)
from cellwright.ops.measure.measurement import as_image, as_result, measure_result, pixel_sizes
from cellwright.ops.measure.regions import ALL_REGIONS, RegionSet
from cellwright.ops.measure.settings import AnalysisSettings, TrackSettings
from cellwright.ops.measure.tracks import Tracks, check_axes, track_cells

if TYPE_CHECKING:
    import pandas

MICROMETRES_PER_MM = 1000.0
BY_FILTERS = "failing the filters"  # why cells do not count


@dataclass(frozen=True, slots=True, eq=False)
class AnalysisInputs:
    """What an analysis takes besides the cells and their image; all of the same pixels.

    ``regions`` tell where to count, ``nuclei`` is a label image (shape of the labels) of the nuclei of the
    cells, ``others`` are further images to measure in, by name.
    """

    regions: RegionSet | None = None
    nuclei: Labels | None = None
    others: Mapping[str, Image] = field(default_factory=dict)

    @property
    def needs_cells(self) -> bool:
        """Whether there is something that single cells alone can be measured with."""
        return self.nuclei is not None or bool(self.others)


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """What an analysis gives: the N cells that count, and tables of them.

    Parameters
    ----------
    result
        The cells that count; its labels are renumbered.
    table
        One row for each of them, with the columns of ``cellwright.ops.measure.columns``.
    rows
        int (N,), their rows in the result that was analysed.
    counts
        Per region and frame: ``count``, classes, positive cells, size, density.
    thresholds
        Of the markers, by channel (``ch0``), in the intensities of the image.
    copositive
        How many cells have which markers together; None without markers.
    nuclei, n_nuclei_outside
        How nuclei lie in cells, and how many lie in none; None where no nuclei were given.
    tracks, lineages
        Of a time series that was tracked, lineages with one row per track; else None.
    notices
        Sentences the user should read.
    names
        What people call the channels of the markers: ``{"ch1": "GFP"}``.
    """

    result: Result
    table: "pandas.DataFrame"
    rows: NDArray[np.intp]
    counts: "pandas.DataFrame"
    thresholds: Mapping[str, float]
    copositive: "pandas.DataFrame | None" = None
    nuclei: NucleiInCells | None = None
    n_nuclei_outside: int | None = None
    tracks: Tracks | None = None
    lineages: "pandas.DataFrame | None" = None
    notices: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)


class Counted(NamedTuple):
    """What an image holds, and what was measured of it, if anything.

    Of an image that was counted block by block the cells are in files, or, where they were measured, bare of
    outlines.
    """

    result: Result
    analysis: Analysis | None = None  # of the cells that count
    folder: Path | None = None  # with the files of an image that was counted block by block
    labels: Path | None = None  # its OME-Zarr labels, or density; None where a model gives neither

    @property
    def notices(self) -> tuple[str, ...]:
        """Sentences that the user should read."""
        if self.analysis is None:
            return self.result.notices
        return (*self.result.notices, *self.analysis.notices)

    def with_notices(self, notices: Iterable[str]) -> Self:
        """Return the same with more sentences for the user."""
        return self._replace(result=replace(self.result, notices=(*self.result.notices, *notices)))


def analyse(
    cells: Result | Labels,
    image: Image | ArrayLike,
    settings: AnalysisSettings = AnalysisSettings(),  # noqa: B008 - frozen
    inputs: AnalysisInputs = AnalysisInputs(),
) -> Analysis:
    """Return the tables of cells that were counted, or of a label image.

    CellwrightError where a setting or an input does not fit the cells; says what to do.

    Parameters
    ----------
    cells
        What :func:`cellwright.count` gave, or a label image in the shape of the image without its channels.
    image
        What was counted in: an :class:`Image`, or an array whose axes are guessed.
    settings
        What is measured, and which cells count.
    inputs
        Regions, nuclei and further images of the same pixels.
    """
    return run(analysis_task(cells, as_image(image), settings, inputs))


def analysis_task(
    cells: Result | Labels,
    image: Image,
    settings: AnalysisSettings = AnalysisSettings(),  # noqa: B008 - frozen
    inputs: AnalysisInputs = AnalysisInputs(),
) -> Task[Analysis]:
    """Return the same as :func:`analyse`, step by step.

    Of a density all that is told is how many cells lie in the regions.
    """
    needs_cells = inputs.needs_cells or settings != AnalysisSettings()
    if _is_density(cells) and inputs.regions is not None and not needs_cells:
        return _density_analysis(cells, image, inputs.regions)
    result, numbers = as_result(cells, image)
    table, compartments = yield from _measured(result, image, settings, inputs)
    if numbers is not None:
        table["label"] = numbers
    regions = inputs.regions or RegionSet(rule=settings.region_rule)
    regions.check(image.label_shape)
    membership = regions.membership(result.cells, result.offset)
    if regions.included:
        table["regions"] = regions.joined_names(membership)
    known = {"class": class_names(result), "regions": regions.names}
    check_texts(settings.keep, {name: texts for name, texts in known.items() if name in table})
    ndim = cell_ndim(result)
    kept, reasons = left_out(
        table,
        result.cells.boxes[:, :, -ndim:],
        label_shape(result)[-ndim:],
        settings,
        in_regions=np.asarray(membership.any(axis=1)),
    )
    table = table.loc[kept].reset_index(drop=True)
    fit = fit_of_kept(result.fit, int(kept.sum()), reasons)
    result = replace(result, count=float(kept.sum()), cells=result.cells.take(kept), fit=fit)
    if numbers is None:
        table["label"] = np.arange(1, len(table) + 1)
    n_outside = compartments.nuclei.n_outside if compartments.nuclei is not None else None
    thresholds, copositive = _marked(table, settings, image)
    tracks, lineages, interval_s = None, None, settings.frame_interval_s or image.frame_interval_s
    if settings.track:
        yield Progress("track", 0, 1)
        tracks = tracks_of(result, settings.tracking)
        table = table.assign(**tracks.columns())
        lineages = tracks.lineage_table(interval_s)
    return Analysis(
        result=result,
        table=table,
        rows=np.flatnonzero(kept),
        counts=counts_table(result, table, regions, membership[kept], frame_interval_s=interval_s),
        thresholds=thresholds,
        copositive=copositive,
        nuclei=compartments.nuclei,
        n_nuclei_outside=n_outside,
        tracks=tracks,
        lineages=lineages,
        notices=tuple(filter(None, (*left_out_notices(reasons), compartments.notice))),
        names=called(image, thresholds),
    )


def _is_density(cells: Result | Labels) -> TypeGuard[Result]:
    return isinstance(cells, Result) and cells.gives == "density"


def _density_analysis(result: Result, image: Image, regions: RegionSet) -> Analysis:
    """Return how many cells a density has in each region; its table has no rows."""
    import pandas

    regions.check(image.label_shape)
    inside, counts = density_inside(result, regions, image.frame_interval_s)
    table = pandas.DataFrame({"regions": []} if regions.included else {})
    return Analysis(inside, table, np.zeros(0, np.intp), counts, {})


def density_inside(
    result: Result, regions: RegionSet, frame_interval_s: float = 0.0
) -> tuple[Result, "pandas.DataFrame"]:
    """Return a density that is 0 outside the regions, and its counts in each, as :func:`counts_table` does.

    How sure the count is then is not known, so it has no interval.
    """
    import pandas

    density = result.maps["density"]
    start = tuple(result.offset) or (0,) * density.ndim
    plane, corner = (density.shape[-2], density.shape[-1]), (start[-2], start[-1])
    inside = np.zeros(density.shape, bool)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in regions.names_and_union}
    for index in np.ndindex(density.shape[:-2]):
        place = tuple(at + first for at, first in zip(index, start, strict=False))
        masks = list(regions.masks(place, plane, corner))
        inside[index] = np.any(masks, axis=0)
        for name, mask in zip(rows, [*masks, inside[index]], strict=False):
            row: dict[str, Any] = {
                "region": name,
                **dict(zip(label_axes(result).lower(), place, strict=False)),
            }
            row["count"] = float(density[index][mask].sum(dtype=np.float64))
            if "t" in row and frame_interval_s:
                row["time_min"] = row["t"] * frame_interval_s / 60
            rows[name].append(row | _density(row["count"], int(mask.sum()), pixel_sizes(result, 2), 2))
    density = density * inside
    maps, count = {**result.maps, "density": density}, float(density.sum(dtype=np.float64))
    counts = pandas.DataFrame([row for of_region in rows.values() for row in of_region])
    return replace(result, count=count, interval=None, maps=maps), counts


def _measured(
    result: Result, image: Image, settings: AnalysisSettings, inputs: AnalysisInputs
) -> Task[tuple["pandas.DataFrame", Compartments]]:
    """Return the table of all cells with what was measured of them, and how nuclei lie in them."""
    measured = yield from measure_result(result, image, settings.measuring, inputs.others)
    compartments = yield from compartments_task(
        result, image, settings.measuring.measure, inputs.nuclei, settings.cytoplasm_px, inputs.others
    )
    return cells_table(result).assign(**measured, **compartments.columns), compartments


def _marked(
    table: "pandas.DataFrame", settings: AnalysisSettings, image: Image
) -> tuple[dict[str, float], "pandas.DataFrame | None"]:
    """Add which cells are positive; return the thresholds, and which markers go together."""
    if not settings.positive:
        return {}, None
    markers = [parse_marker(rule) for rule in settings.positive]
    thresholds = thresholds_of(table, with_channel_numbers(markers, image, table.columns))
    add_positive(table, thresholds)
    return thresholds, copositive_table(table, tuple(thresholds))


def tracks_of(result: Result, settings: TrackSettings) -> Tracks:
    """Return the cells of a result linked over time.

    AxesError where there is no time axis, or slices that are not linked. SettingsError where laptrack is not
    installed, or it is not known how far cells may go.
    """
    axes = label_axes(result)
    check_tracked(axes, is_volume=is_volumetric(result))
    tracks = track_cells(result.cells, axes, settings, pixel_sizes(result, len(axes) - 1))
    return replace(tracks, first_frame=next(iter(result.offset), 0))


def check_tracked(axes: str, *, is_volume: bool) -> None:
    """Raise where labels with these axes, linked or not, are not tracked.

    AxesError where there is no time axis, or slices that are not linked.
    """
    check_axes(axes)
    if "Z" in axes and not is_volume:
        raise AxesError(
            "Cells are tracked in planes or in volumes; the slices of these were not linked. Link them, or "
            "count a single slice."
        )


def left_out(
    table: "pandas.DataFrame",
    boxes: NDArray[np.floating],
    shape: Sequence[int],
    settings: AnalysisSettings,
    in_regions: NDArray[np.bool_],
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Return which cells count, bool (N,), and how many do not for which reason.

    ``boxes`` (N, 2, D) are first and one-past-last corners along the spatial axes, ``shape`` their lengths;
    ``in_regions`` (N,) tells which cells lie in the regions.
    """
    kept = np.ones(len(table), bool)
    reasons = {}
    for reason, wanted in (
        ("outside the regions", in_regions),
        ("at the border", away_from_border(boxes, shape, settings.border)),
        (BY_FILTERS, kept_rows(table, [parse_filter(rule) for rule in settings.keep])),
    ):
        reasons[reason] = int((kept & ~wanted).sum())
        kept &= wanted
    return kept, reasons


def fit_of_kept(fit: float | None, n_kept: int, reasons: Mapping[str, int]) -> float | None:
    """Return how well a count can be expected to be; None where filters left no more than half of its cells.

    It was judged by all of them, of which those few may be the best, or the worst.
    """
    return fit if n_kept > reasons[BY_FILTERS] else None


def left_out_notices(reasons: Mapping[str, int]) -> tuple[str, ...]:
    """Return a sentence for each reason why cells do not count."""
    return tuple(
        f"1 cell {reason} was left out." if n == 1 else f"{n} cells {reason} were left out."
        for reason, n in reasons.items()
        if n
    )


def counts_table(
    result: Result,
    table: "pandas.DataFrame",
    regions: RegionSet,
    membership: NDArray[np.bool_],
    sizes: NDArray[np.int64] | None = None,
    frame_interval_s: float = 0.0,
) -> "pandas.DataFrame":
    """Return one row per region and frame; of several regions their union is the last, ``all regions``.

    ``region``, ``t`` and ``z`` (of slices that are not linked) where there are several, ``count``,
    ``time_min`` where it is known how far frames are apart, one column
    for each class and marker (``class_WBC``, ``positive_ch1``), ``area_px`` (``volume_px``) of the region in
    this frame, and where the pixel size is known ``area_mm2`` and ``density_per_mm2`` (``volume_mm3``,
    ``density_per_mm3``).

    ``result`` has the cells that count, ``table`` their rows; ``membership``, bool (N, regions), tells which
    cell lies in which region. ``sizes`` are those of :func:`region_sizes` where they are known: large regions
    take a while.
    """
    import pandas

    axes, ndim = label_axes(result), cell_ndim(result)
    shape = label_shape(result)
    offset = result.offset or (0,) * len(shape)
    lead = shape[: len(shape) - ndim]
    frames = np.rint(result.cells.points[:, : len(lead)]).astype(np.intp)
    if sizes is None:
        sizes = region_sizes(result, regions)
    kinds = _kinds(result, table)
    rows = []
    membership = regions.with_union(membership)
    for number, name in enumerate(regions.names_and_union):
        for index in np.ndindex(lead):
            inside = membership[:, number] & (frames == np.array(index, np.intp)).all(axis=1)
            row: dict[str, Any] = {"region": name}
            places = zip(axes.lower(), index, offset, strict=False)
            row |= {axis: place + start for axis, place, start in places}
            row["count"] = int(inside.sum())
            if "t" in row and frame_interval_s:
                row["time_min"] = row["t"] * frame_interval_s / 60
            row |= {kind: int((inside & has).sum()) for kind, has in kinds.items()}
            rows.append(
                row | _density(row["count"], int(sizes[(number, *index)]), pixel_sizes(result, ndim), ndim)
            )
    return pandas.DataFrame(rows)


class PlaneCounts(NamedTuple):
    """How many cells lie in each frame or slice."""

    axis: str  # ``t`` or ``z``
    counts: NDArray[np.intp]
    first: int = 0  # number of the first one in the image, of which a part may have been counted


def per_plane(result: Result, rows: NDArray[np.bool_] | None = None) -> PlaneCounts | None:
    """Return the cells in each frame or slice; None for a single plane.

    ``rows``, bool (N,), are the cells that count; all when None.
    """
    axes = label_axes(result)
    if len(axes) < 3:
        return None
    first = result.cells.points[:, 0]
    if rows is not None:
        first = first[rows]
    n = label_shape(result)[0]
    places = np.clip(np.rint(first).astype(np.intp), 0, n - 1)
    return PlaneCounts(axes[0].lower(), np.bincount(places, minlength=n), int((result.offset or (0,))[0]))


def groups_of(analysis: Analysis) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Return the rows of each group, bool (N,), by what they are grouped: Region, Class, Marker."""
    table = analysis.table
    groups: dict[str, dict[str, NDArray[np.bool_]]] = {}
    if "regions" in table:
        within = [set(text.split("; ")) for text in table["regions"]]
        names = [name for name in dict.fromkeys(analysis.counts["region"]) if name != ALL_REGIONS]
        groups["Region"] = {name: np.array([name in one for one in within], bool) for name in names}
    if "class" in table:
        classes = table["class"].to_numpy(object)
        order = (*class_names(analysis.result), "")
        groups["Class"] = {name or "none": classes == name for name in order if name in classes}
    markers = {
        f"{analysis.names.get(channel, channel)}+": table[f"positive_{channel}"].to_numpy(bool)
        for channel in analysis.thresholds
    }
    if markers:
        groups["Marker"] = {**markers, "none": ~np.logical_or.reduce(list(markers.values()))}
    return groups


def region_sizes(result: Result, regions: RegionSet) -> NDArray[np.int64]:
    """Return pixels (voxels) of each region in each frame of what was counted, (regions, *lead).

    Where there are several regions, their union is the last.
    """
    shape = label_shape(result)
    sizes = regions.sizes(shape[:-2], (shape[-2], shape[-1]), result.offset)
    if cell_ndim(result) == 3:
        return np.asarray(sizes.sum(axis=-1))
    return sizes


def _kinds(result: Result, table: "pandas.DataFrame") -> dict[str, NDArray[np.bool_]]:
    """Return which cells are of each class and positive for each marker."""
    kinds: dict[str, NDArray[np.bool_]] = {}
    if class_counts(result):
        classes = result.cells.classes
        assert classes is not None
        kinds |= {f"class_{name}": classes == at for at, name in enumerate(class_names(result))}
    names = [str(name) for name in table if str(name).startswith("positive_")]
    return kinds | {name: table[name].to_numpy(bool) for name in names}


def _density(count: float, size: int, pixel_size_um: Sequence[float], ndim: int) -> dict[str, float]:
    kind = {2: "area", 3: "volume"}[ndim]
    found: dict[str, float] = {f"{kind}_px": size}
    if pixel_size_um:
        size_mm = size * float(np.prod(np.asarray(pixel_size_um) / MICROMETRES_PER_MM))
        found[f"{kind}_mm{ndim}"] = size_mm
        found[f"density_per_mm{ndim}"] = float("nan")
        if size_mm:
            found[f"density_per_mm{ndim}"] = count / size_mm
    return found
