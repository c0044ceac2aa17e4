"""From cells that were found to the numbers a study needs: regions, nuclei, filters, markers, tracks.

::

    result, image, regions, nuclei
        -> measured columns                 one row per cell
        -> regions, border rule, filters    which cells count
        -> markers, tracks                  what is told of those that count
        -> Analysis                         tables of cells, of counts, of markers, of lineages
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import ArrayLike, Image, Labels, Result
from cellwright.core.errors import AxesError, SettingsError
from cellwright.core.tasks import Progress, Task, run
from cellwright.ops.measure.blocks import cropped, spatial_ndim
from cellwright.ops.measure.cells_table import cells_table, class_counts, class_names
from cellwright.ops.measure.columns import COLUMNS, keys_of
from cellwright.ops.measure.features import CORRECTED, rings
from cellwright.ops.measure.filters import away_from_border, kept_rows, parse_filter
from cellwright.ops.measure.markers import (
    add_positive,
    copositive_table,
    parse_marker,
    thresholds_of,
    with_channel_numbers,
)
from cellwright.ops.measure.measurement import (
    as_image,
    is_volumetric,
    label_axes,
    measure_labels,
    measure_result,
    pixel_sizes,
    result_of_labels,
)
from cellwright.ops.measure.regions import RegionSet
from cellwright.ops.measure.settings import AnalysisSettings, TrackSettings
from cellwright.ops.measure.tracks import Tracks, track_cells

if TYPE_CHECKING:
    import pandas

MICROMETRES_PER_MM = 1000.0


@dataclass(frozen=True, slots=True, eq=False)
class NucleiInCells:
    """What two label images of the same pixels tell of each other.

    Parameters
    ----------
    nuclei_per_cell : (n_cells,)
        Nuclei of which the cell covers half or more.
    nuclear_pixels : (n_cells,)
        Pixels of the cell that are nucleus.
    cell_of : (n_nuclei,)
        The cell each nucleus lies in; 0 is none.
    cytoplasm
        Labels of the cells without their nuclei.
    """

    nuclei_per_cell: NDArray[np.int64]
    nuclear_pixels: NDArray[np.int64]
    cell_of: NDArray[np.int32]
    cytoplasm: Labels

    @property
    def n_without_nucleus(self) -> int:
        """Number of cells without a nucleus."""
        return int((self.nuclei_per_cell == 0).sum())

    @property
    def n_outside(self) -> int:
        """Number of nuclei in no cell."""
        return int((self.cell_of == 0).sum())


def nuclei_in_cells(nuclei: Labels, cells: Labels) -> NucleiInCells:
    """Return which nucleus lies in which cell: the one that covers most of it, if that is half of it or more.

    Parameters
    ----------
    nuclei, cells : int, of one shape
        0 is background; numbers from 1 on.

    Raises
    ------
    SettingsError
        The shapes differ.
    """
    if nuclei.shape != cells.shape:
        raise SettingsError(
            f"Nuclei and cells must be labels of one shape; got {nuclei.shape} and {cells.shape}. Choose the "
            "labels of the same image."
        )
    n_nuclei, n_cells = int(nuclei.max(initial=0)), int(cells.max(initial=0))
    areas = np.bincount(nuclei.ravel(), minlength=n_nuclei + 1)
    both = (nuclei > 0) & (cells > 0)
    pairs = nuclei[both].astype(np.int64) * (n_cells + 1) + cells[both]
    keys, shared = np.unique(pairs, return_counts=True)
    nucleus, cell = np.divmod(keys, n_cells + 1)
    cell_of = np.zeros(n_nuclei + 1, np.int32)
    order = np.argsort(shared, kind="stable")  # the largest share is written last
    is_half = 2 * shared[order] >= areas[nucleus[order]]
    cell_of[nucleus[order][is_half]] = cell[order][is_half]
    present = np.flatnonzero(areas[1:]) + 1
    return NucleiInCells(
        nuclei_per_cell=np.bincount(cell_of[present], minlength=n_cells + 1)[1:],
        nuclear_pixels=np.bincount(cell, weights=shared, minlength=n_cells + 1)[1:].astype(np.int64),
        cell_of=cell_of[1:],
        cytoplasm=np.where(nuclei > 0, 0, cells).astype(np.int32),
    )


@dataclass(frozen=True, slots=True, eq=False)
class AnalysisInputs:
    """What an analysis takes besides the cells and their image; all of the same pixels.

    Parameters
    ----------
    regions
        Where to count.
    nuclei
        Labels of the nuclei of the cells that were counted.
    others
        Further images to measure the intensity in, by name.
    """

    regions: RegionSet | None = None
    nuclei: Labels | None = None
    others: Mapping[str, Image] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """What an analysis gives.

    Parameters
    ----------
    result
        The cells that count; its labels are numbered anew.
    table
        One row for each of them.
    rows : int (N,)
        Their rows in the result that was analysed.
    counts
        One row per region and frame: ``count``, cells of each class, positive cells, size and density.
    thresholds
        Of the markers, by channel.
    copositive
        Which markers go together, empty without markers.
    nuclei
        How nuclei lie in cells, where they were given.
    tracks, lineages
        Of a time series that was tracked.
    notices
        What the user should know.
    """

    result: Result
    table: "pandas.DataFrame"
    rows: NDArray[np.intp]
    counts: "pandas.DataFrame"
    thresholds: Mapping[str, float]
    copositive: "pandas.DataFrame | None" = None
    nuclei: NucleiInCells | None = None
    tracks: Tracks | None = None
    lineages: "pandas.DataFrame | None" = None
    notices: tuple[str, ...] = ()


def analyse(
    cells: Result | Labels,
    image: Image | ArrayLike,
    settings: AnalysisSettings = AnalysisSettings(),  # noqa: B008 - frozen
    inputs: AnalysisInputs = AnalysisInputs(),
) -> Analysis:
    """Return the tables of cells that were counted, or of a label image.

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

    Raises
    ------
    CellwrightError
        A setting or an input does not fit the cells; says what to do.
    """
    return run(analysis_task(cells, as_image(image), settings, inputs))


def analysis_task(
    cells: Result | Labels,
    image: Image,
    settings: AnalysisSettings = AnalysisSettings(),  # noqa: B008 - frozen
    inputs: AnalysisInputs = AnalysisInputs(),
) -> Task[Analysis]:
    """Return the same as :func:`analyse`, step by step."""
    result, numbers = _as_result(cells, image)
    table = cells_table(result)
    if numbers is not None:
        table["label"] = numbers
    measured = yield from measure_result(result, image, settings.measuring, inputs.others)
    for name, values in measured.items():
        table[name] = values
    nuclei = yield from _with_compartments(table, result, image, settings, inputs)
    regions = inputs.regions or RegionSet(rule=settings.region_rule)
    regions.check(image.label_shape)
    membership = regions.membership(result.cells, result.offset)
    if regions.included:
        table["regions"] = regions.joined_names(membership)
    kept, notices = _kept(table, result, membership, settings)
    table = table.loc[kept].reset_index(drop=True)
    result = replace(result, count=float(kept.sum()), cells=result.cells.take(kept))
    if numbers is None:
        table["label"] = np.arange(1, len(table) + 1)
    thresholds, copositive = _marked(table, settings, image)
    if settings.track:
        yield Progress("track", 0, 1)
    tracks, lineages = _tracked(table, result, settings), None
    if tracks is not None:
        lineages = tracks.lineage_table(settings.frame_interval_s)
    return Analysis(
        result=result,
        table=table,
        rows=np.flatnonzero(kept),
        counts=counts_table(result, table, regions, membership[kept]),
        thresholds=thresholds,
        copositive=copositive,
        nuclei=nuclei,
        tracks=tracks,
        lineages=lineages,
        notices=notices,
    )


def _as_result(cells: Result | Labels, image: Image) -> tuple[Result, NDArray[np.int64] | None]:
    """Return a result, and the numbers its rows have in a label image."""
    if not isinstance(cells, Result):
        return result_of_labels(cells, image)
    if cells.gives == "density":
        raise SettingsError("A density has no single cells to analyse. Choose another model.")
    return cells, None


def _marked(
    table: "pandas.DataFrame", settings: AnalysisSettings, image: Image
) -> tuple[dict[str, float], "pandas.DataFrame | None"]:
    """Add which cells are positive; return the thresholds, and which markers go together."""
    if not settings.positive:
        return {}, None
    markers = [parse_marker(rule) for rule in settings.positive]
    thresholds = thresholds_of(table, with_channel_numbers(markers, image.channel_names))
    add_positive(table, thresholds)
    return thresholds, copositive_table(table, tuple(thresholds))


def _tracked(table: "pandas.DataFrame", result: Result, settings: AnalysisSettings) -> Tracks | None:
    """Add the columns of tracks; return the tracks."""
    if not settings.track:
        return None
    tracks = tracks_of(result, settings.tracking)
    for name, values in tracks.columns().items():
        table[name] = values
    return tracks


def tracks_of(result: Result, settings: TrackSettings) -> Tracks:
    """Return the cells of a result linked over time.

    Raises
    ------
    AxesError
        There is no time axis, or slices that are not linked.
    SettingsError
        laptrack is not installed, or it is not known how far cells may go.
    """
    axes = label_axes(result)
    if "Z" in axes and not is_volumetric(result):
        raise AxesError(
            "Cells are tracked in planes or in volumes; the slices of these were not linked. Link them, or "
            "count a single slice."
        )
    return track_cells(result.cells, axes, settings, pixel_sizes(result, len(axes) - 1))


def _with_compartments(
    table: "pandas.DataFrame",
    result: Result,
    image: Image,
    settings: AnalysisSettings,
    inputs: AnalysisInputs,
) -> Task[NucleiInCells | None]:
    """Add the columns of nuclei and cytoplasm."""
    labels, found = result.cells.labels, None
    if inputs.nuclei is None and not settings.cytoplasm_px:
        return None
    if labels is None:
        raise SettingsError(
            "Nuclei and cytoplasm need outlines; this model gives none. Choose another model."
        )
    ndim = spatial_ndim(label_axes(result), is_volume=is_volumetric(result))
    sizes = pixel_sizes(result, ndim)
    if inputs.nuclei is None:
        cytoplasm = _rings_of_frames(labels, ndim, settings.cytoplasm_px, sizes)
    else:
        nuclei = cropped(Image(inputs.nuclei, label_axes(result)), result.offset, labels.shape)
        found = nuclei_in_cells(np.asarray(nuclei.data), labels)
        cytoplasm = found.cytoplasm
        table["nuclei"] = _padded(found.nuclei_per_cell, len(table))
        name = f"nuclei_area_um{ndim}" if sizes else "nuclei_area_px"
        table[name] = _padded(found.nuclear_pixels, len(table)) * float(np.prod(sizes or 1.0))
    keys = [key for key in keys_of(settings.measuring.measure, ndim) if COLUMNS[key].group == "intensity"]
    keys = [key for key in keys if key != CORRECTED]
    if keys:
        columns = yield from measure_labels(cytoplasm, result, image, keys, inputs.others)
        for name, values in columns.items():
            table[f"cytoplasm_{name}"] = values
    return found


def _rings_of_frames(labels: Labels, ndim: int, width_px: float, spacing: Sequence[float]) -> Labels:
    around = np.zeros_like(labels)
    for index in np.ndindex(labels.shape[: labels.ndim - ndim]):
        around[index] = rings(labels[index], labels[index], 0.0, width_px, spacing)
    return around


def _padded(values: NDArray[Any], n: int) -> NDArray[Any]:
    return np.concatenate([values, np.zeros(n - len(values), values.dtype)])


def _kept(
    table: "pandas.DataFrame", result: Result, membership: NDArray[np.bool_], settings: AnalysisSettings
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Return which cells count, and a sentence for each reason why others do not."""
    ndim = spatial_ndim(label_axes(result), is_volume=is_volumetric(result))
    boxes, shape = result.cells.boxes[:, :, -ndim:], _label_shape(result)[-ndim:]
    kept, reasons = left_out(table, boxes, shape, settings, np.asarray(membership.any(axis=1)))
    return kept, left_out_notices(reasons)


def left_out(
    table: "pandas.DataFrame",
    boxes: NDArray[np.floating],
    shape: Sequence[int],
    settings: AnalysisSettings,
    in_regions: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Return which cells count, bool (N,), and how many do not for which reason.

    Parameters
    ----------
    table
        One row for each cell.
    boxes : (N, 2, D)
        First and one-past-last corner along the spatial axes.
    shape
        Length of these axes.
    settings
        Rule of the border, and filters.
    in_regions : (N,)
        Which cells lie in the regions; None where there are none.
    """
    kept = np.ones(len(table), bool)
    if in_regions is None:
        in_regions = kept.copy()
    reasons = {}
    for reason, wanted in (
        ("outside the regions", in_regions),
        ("at the border", away_from_border(boxes, shape, settings.border)),
        ("by the filters", kept_rows(table, [parse_filter(rule) for rule in settings.keep])),
    ):
        reasons[reason] = int((kept & ~wanted).sum())
        kept &= wanted
    return kept, reasons


def left_out_notices(reasons: Mapping[str, int]) -> tuple[str, ...]:
    """Return a sentence for each reason why cells do not count."""
    return tuple(f"{n} cells {reason} were left out." for reason, n in reasons.items() if n)


def counts_table(
    result: Result,
    table: "pandas.DataFrame",
    regions: RegionSet,
    membership: NDArray[np.bool_],
    sizes: NDArray[np.int64] | None = None,
) -> "pandas.DataFrame":
    """Return one row per region and frame; of several regions their union is the last, ``all regions``.

    ``region``, ``t`` and ``z`` (of slices that are not linked) where there are several, ``count``, one column
    for each class and marker (``class_WBC``, ``positive_ch1``), ``area_px`` (``volume_px``) of the region in
    this frame, and where the pixel size is known ``area_mm2`` and ``density_per_mm2`` (``volume_mm3``,
    ``density_per_mm3``).

    Parameters
    ----------
    result
        The cells that count.
    table
        Its rows.
    regions
        Where they were counted.
    membership : bool (N, regions)
        Which cell lies in which region.
    sizes
        What :func:`region_sizes` gave, where it is known: large regions take a while.
    """
    import pandas

    axes = label_axes(result)
    ndim = spatial_ndim(axes, is_volume=is_volumetric(result))
    shape = _label_shape(result)
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
            row |= {kind: int((inside & has).sum()) for kind, has in kinds.items()}
            rows.append(
                row | _density(row["count"], int(sizes[(number, *index)]), pixel_sizes(result, ndim), ndim)
            )
    return pandas.DataFrame(rows)


def _label_shape(result: Result) -> tuple[int, ...]:
    if result.cells.labels is not None:
        return tuple(result.cells.labels.shape)
    axes, shape = result.provenance.axes, result.provenance.image_shape
    lengths = [n for axis, n in zip(axes, shape, strict=True) if axis != "C"]
    return tuple(lengths[len(lengths) - result.cells.points.shape[1] :])


def region_sizes(result: Result, regions: RegionSet) -> NDArray[np.int64]:
    """Return pixels (voxels) of each region in each frame of what was counted, (regions, *lead).

    Where there are several regions, their union is the last.
    """
    ndim = spatial_ndim(label_axes(result), is_volume=is_volumetric(result))
    shape = _label_shape(result)
    sizes = regions.sizes(shape[:-2], (shape[-2], shape[-1]), result.offset)
    if ndim == 3:
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


def _density(count: int, size: int, pixel_size_um: Sequence[float], ndim: int) -> dict[str, float]:
    kind = {2: "area", 3: "volume"}[ndim]
    found: dict[str, float] = {f"{kind}_px": size}
    if pixel_size_um:
        size_mm = size * float(np.prod(np.asarray(pixel_size_um) / MICROMETRES_PER_MM))
        found[f"{kind}_mm{ndim}"] = size_mm
        found[f"density_per_mm{ndim}"] = float("nan")
        if size_mm:
            found[f"density_per_mm{ndim}"] = count / size_mm
    return found
