"""Cells linked over time into tracks that divide, by laptrack.

Source: Jaqaman et al. 2008, doi 10.1038/nmeth.1237; Fukai and Kawaguchi 2022,
doi 10.1093/bioinformatics/btac799.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Cells, Labels
from cellwright.core.errors import AxesError, SettingsError, needed
from cellwright.ops.labels import equivalent_diameters
from cellwright.ops.measure.settings import TrackSettings

if TYPE_CHECKING:
    import pandas

SMALLEST_DAUGHTER = 0.5  # area of the smaller daughter / that of the larger
COSTS = (  # of an end: as that of the farthest link, so that no link within the distance is given up
    "track_start_cost",
    "track_end_cost",
    "segment_start_cost",
    "segment_end_cost",
    "no_splitting_cost",
)
LARGEST_DAUGHTERS = 1.6  # area of both daughters / that of the mother


@dataclass(frozen=True, slots=True, eq=False)
class Tracks:
    """Which track each cell belongs to."""

    numbers: NDArray[np.int32]  # int32 (N,): track 1..M of each cell
    parents: NDArray[np.int32]  # int32 (M,): the track that each track divided from; 0 is none
    frames: NDArray[np.int64]  # int (N,): frame of each cell
    positions: NDArray[np.float64]  # float64 (N, D): centre of each cell in time, in ``unit``
    unit: str = "px"  # ``um`` where the pixel size is known, else ``px``
    first_frame: int = 0  # in the source image, of the part that was counted

    @property
    def count(self) -> int:
        """Number of tracks; the daughters of a division are tracks of their own."""
        return len(self.parents)

    @property
    def n_lineages(self) -> int:
        """Number of tracks that descend from no other."""
        return int((self.parents == 0).sum())

    @property
    def n_divisions(self) -> int:
        """Number of tracks that divided."""
        return len(np.unique(self.parents[self.parents > 0]))

    @property
    def graph(self) -> dict[int, list[int]]:
        """Parents by track, as a napari Tracks layer takes them."""
        return {track: [int(parent)] for track, parent in enumerate(self.parents.tolist(), start=1) if parent}

    @property
    def order(self) -> NDArray[np.intp]:
        """Rows of the cells track by track, those of each from frame to frame."""
        return np.lexsort((self.frames, self.numbers))

    def relabelled(self, labels: Labels) -> Labels:
        """Return labels whose number is that of the track; row ``i`` is label ``i + 1``."""
        return np.concatenate([[0], self.numbers]).astype(np.int32)[labels]

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return what the table of cells tells of tracks, row by row."""
        parents = np.concatenate([[0], self.parents]).astype(np.int64)
        return {
            "track": self.numbers,
            "parent_track": parents[self.numbers],
            f"step_{self.unit}": self.steps(),
        }

    def steps(self) -> NDArray[np.float64]:
        """Return the way of each cell since the track was seen before; NaN in a track's first frame."""
        ways = np.full(len(self.numbers), np.nan)
        order = self.order
        is_same = np.diff(self.numbers[order]) == 0
        lengths = np.linalg.norm(np.diff(self.positions[order], axis=0), axis=1)
        ways[order[1:][is_same]] = lengths[is_same]
        return ways

    def lineage_table(self, frame_interval_s: float = 0.0) -> "pandas.DataFrame":
        """Return one row per track.

        ``track``, ``parent`` and ``root`` (the first of its lineage), ``generation`` (0 for a root),
        ``first`` and ``last`` frame (of the source image), ``n_frames`` in which it was seen, ``divides``,
        ``path`` and ``displacement`` (length of the way, and from first to last place), ``speed`` (path /
        time, per minute where the interval is known).
        """
        import pandas

        order = self.order
        starts = np.searchsorted(self.numbers[order], np.arange(1, self.count + 1))
        rows = np.split(order, starts[1:]) if self.count else []
        lineages = self._lineages()
        table = pandas.DataFrame(
            {
                "track": np.arange(1, self.count + 1),
                "parent": self.parents,
                "root": [root for root, _ in lineages],
                "generation": [generation for _, generation in lineages],
                "first": [int(self.frames[own[0]]) + self.first_frame for own in rows],
                "last": [int(self.frames[own[-1]]) + self.first_frame for own in rows],
                "n_frames": [len(own) for own in rows],
                "divides": np.isin(np.arange(1, self.count + 1), self.parents),
            }
        )
        path = np.bincount(self.numbers, np.nan_to_num(self.steps()), self.count + 1)[1:]
        ways = [self.positions[own[-1]] - self.positions[own[0]] for own in rows]
        table[f"path_{self.unit}"] = path
        table[f"displacement_{self.unit}"] = [float(np.linalg.norm(way)) for way in ways]
        duration = np.array(table["last"] - table["first"], np.float64)
        duration[duration == 0] = np.nan
        name = f"speed_{self.unit}_per_frame"
        if frame_interval_s:
            name, duration = f"speed_{self.unit}_per_min", duration * frame_interval_s / 60
        table[name] = path / duration
        return table

    def summary(self, table: "pandas.DataFrame") -> str:
        """Return how many tracks there are and how fast their cells are: ``median speed 0.52 µm per min``.

        ``table`` is that of the lineages.
        """
        name = next(str(name) for name in table if str(name).startswith("speed_"))
        parts = [f"Tracks {self.count:,}", f"lineages {self.n_lineages:,}", f"divisions {self.n_divisions:,}"]
        if table[name].notna().any():
            per = name.rpartition("_per_")[2]
            unit = {"um": "µm", "px": "px"}[self.unit]
            parts.append(f"median speed {table[name].median():.3g} {unit} per {per}")
        return " · ".join(parts)

    def _lineages(self) -> list[tuple[int, int]]:
        """Return the first ancestor of each track, and the number of divisions since."""
        found: list[tuple[int, int]] = []
        for track, parent in enumerate(self.parents.tolist(), start=1):  # parents come before their daughters
            if parent:
                root, generation = found[parent - 1]
                found.append((root, generation + 1))
            else:
                found.append((track, 0))
        return found


def track_cells(
    cells: Cells,
    axes: str,
    settings: TrackSettings = TrackSettings(),  # noqa: B008 - frozen
    pixel_size_um: Sequence[float] = (),
) -> Tracks:
    """Return cells linked over time, each by its centre; a cell that divides starts two new tracks.

    The axes of the points are TYX or TZYX; micrometres per pixel of the spatial ones are empty when unknown.

    AxesError where the axes have no time, or slices that are not linked. SettingsError where laptrack is not
    installed.
    """
    check_axes(axes)
    sides, unit = np.ones(len(axes) - 1), "px"
    if pixel_size_um:
        sides, unit = np.asarray(pixel_size_um, np.float64), "um"
    frames = np.rint(cells.points[:, 0]).astype(np.int64)
    positions = cells.points[:, 1:].astype(np.float64) * sides
    links = _links(cells, frames, sides / sides[-1], settings)
    numbers, parents = _numbered(frames, links)
    return Tracks(numbers, parents, frames, positions, unit)


def check_axes(axes: str) -> None:
    """Raise where cells are not tracked in labels with these axes.

    AxesError where there is no time axis, or another one.
    """
    if axes not in ("TYX", "TZYX"):
        raise AxesError(
            f"Cells are tracked in time series with axes TYX or TZYX; got {axes!r}. Name the axes, "
            "or leave tracking out."
        )


def _links(
    cells: Cells, frames: NDArray[np.int64], sides: NDArray[np.float64], settings: TrackSettings
) -> dict[int, list[int]]:
    """Return the rows that follow each row; ``sides`` are those of a pixel, in pixels along x."""
    if not len(cells):
        return {}
    with needed(SettingsError, "Tracking cells", "tracks"):
        laptrack: Any = import_module("laptrack")
    places = cells.points[:, 1:] * sides
    distance = settings.max_distance_px or _typical_diameter(cells, sides)
    if not distance:
        raise SettingsError(
            "These cells have no size that would show how far one may move from frame to frame. Set the "
            "largest distance in pixels."
        )
    linker = laptrack.LapTrack(
        cutoff=distance**2,
        gap_closing_cutoff=settings.max_gap > 0 and distance**2,
        gap_closing_max_frame_count=settings.max_gap + 1,  # it takes the difference of frames
        splitting_cutoff=settings.divisions and distance**2,
        merging_cutoff=False,
        **dict.fromkeys(COSTS, distance**2),
    )
    first = int(frames.min())
    rows = [np.flatnonzero(frames == frame) for frame in range(first, int(frames.max()) + 1)]
    tree = linker.predict([places[own] for own in rows])
    following: dict[int, list[int]] = {}
    for (frame, index), (next_frame, next_index) in tree.edges():
        start, end = int(rows[frame][index]), int(rows[next_frame][next_index])
        following.setdefault(start, []).append(end)
    return {row: _plausible(row, ends, cells, places) for row, ends in following.items()}


def _typical_diameter(cells: Cells, sides: NDArray[np.float64]) -> float:
    diameters = equivalent_diameters(cells.areas[cells.areas > 0] * sides.prod(), len(sides))
    if len(diameters):
        return float(np.median(diameters))
    return float(np.median(((cells.boxes[:, 1] - cells.boxes[:, 0])[:, 1:] * sides)[:, -2:]))


def _plausible(row: int, ends: list[int], cells: Cells, places: NDArray[np.float64]) -> list[int]:
    """Return the daughters of a division, or the nearest end where sizes are not those of daughters."""
    if len(ends) < 2:
        return ends
    mother, areas = cells.areas[row], np.sort(cells.areas[ends])
    is_division = (
        len(ends) == 2
        and areas[0] >= SMALLEST_DAUGHTER * areas[1]
        and areas.sum() <= LARGEST_DAUGHTERS * mother
    )
    if is_division or not mother:
        return ends
    ways = np.linalg.norm(places[ends] - places[row], axis=1)
    return [ends[int(ways.argmin())]]


def _numbered(
    frames: NDArray[np.int64], following: dict[int, list[int]]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the track of each row and the parent of each track."""
    numbers = np.zeros(len(frames), np.int32)
    before = {end: row for row, ends in following.items() for end in ends}
    parents: list[int] = []
    for row in np.lexsort((np.arange(len(frames)), frames)).tolist():
        mother = before.get(row)
        if mother is not None and len(following[mother]) == 1:
            numbers[row] = numbers[mother]
            continue
        parent = int(numbers[mother]) if mother is not None else 0
        parents.append(parent)
        numbers[row] = len(parents)
    return numbers, np.array(parents, np.int32)
