"""The columns of a table of cells: their names, titles, units, groups and meaning are fixed here alone.

The command line, the panels, the files and ``docs/measurements.md`` all take them from :data:`COLUMNS`. A
column that exists for each channel has the channel at its end (``intensity_mean_ch0``), one of the
cytoplasm or of the nuclear part starts with ``cytoplasm_`` or ``nucleus_``. Lengths are in micrometres where
the pixel size is known (``_um``), else in pixels (``_px``); the same for areas (``_um2``) and volumes
(``_um3``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType

from cellwright.core.errors import SettingsError

GROUPS = {
    "cell": "Cell",
    "shape": "Shape",
    "intensity": "Intensity",
    "neighbours": "Neighbours",
    "regions": "Regions",
    "markers": "Markers",
    "compartments": "Nuclei and cytoplasm",
    "tracks": "Time",
}
MEASURED = ("shape", "intensity", "neighbours")  # the groups that are measured on request

NO_NAMES: Mapping[str, str] = MappingProxyType({})  # of channels
PARTS = ("cytoplasm", "nucleus")  # of a cell, whose intensities are measured by themselves
PIXEL_COUNTS = ("area_px", "volume_px")  # of a cell in 2D, in 3D
CELL_SIZES = ("area_um2", "volume_um3", *PIXEL_COUNTS)  # the size of a cell is the first that is there
MEDIAN, CLASS = "median_", "class_"  # begin columns of tables of counts
UNITS = {"px": "px", "um": "µm", "um2": "µm²", "um3": "µm³", "deg": "°", "s": "s"}
OWN_UNITS = {"volume_px": "voxels"}  # where the ending alone would tell another one
LENGTH_UNITS = ("px", "um")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table of cells."""

    name: str  # as in the file
    title: str  # as in a panel
    description: str  # one sentence for people
    units: tuple[str, ...] = ()  # endings the name can have, the first that applies; empty for a plain number
    ndim: int = 0  # the only number of spatial axes it exists for; 0 for both
    per_channel: bool = False  # whether there is one for each channel and further image
    unit: str = ""  # as shown beside the title; set by :func:`column_of`
    group: str = field(kw_only=True)  # key of :data:`GROUPS`

    @property
    def heading(self) -> str:
        """The title with its unit, if any."""
        return f"{self.title} [{self.unit}]" if self.unit else self.title


_cell, _shape, _intensity, _neighbours, _region, _marker, _compartment, _track = (
    partial(Column, group=group) for group in GROUPS
)
_TABLE = (
    _cell("label", "Cell", "Number of the cell: its value in the label image, if any."),
    _cell("t", "Frame", "Frame in time, from 0."),
    _cell("z", "z", "Slice, from 0; the centre of a cell of a volume lies between slices."),
    _cell("y", "y", "Centre, in pixels of the source image."),
    _cell("x", "x", "Centre, in pixels of the source image."),
    *(
        _cell(f"box_{axis}0", f"Box {axis}0", f"First pixel of the bounding box along {axis}.")
        for axis in "zyx"
    ),
    *(
        _cell(f"box_{axis}1", f"Box {axis}1", f"One past the last pixel of the bounding box along {axis}.")
        for axis in "zyx"
    ),
    _cell("class", "Class", "Name of the class, where cells were classified."),
    _cell("score", "Score", "How sure the model is that this is one whole cell, 0 to 1."),
    _cell("edited", "Edited", "Whether the cell was drawn or changed by hand."),
    _cell("area", "Area", "Area of the cell.", ("px", "um2"), ndim=2),
    _cell("volume", "Volume", "Volume of the cell; in voxels where the ending is px.", ("px", "um3"), ndim=3),
    _cell("diameter", "Diameter", "Diameter of the disc (ball) of the same area (volume).", LENGTH_UNITS),
    _cell(
        "mean_slice_area",
        "Area per slice",
        "Mean area of the cell in its slices, where the distance of slices is not known.",
        ("um2",),
        ndim=3,
    ),
    _shape("perimeter", "Perimeter", "Length of the outline, by Crofton's formula.", LENGTH_UNITS, ndim=2),
    _shape("surface", "Surface", "Area of the surface, by Crofton's formula.", ("px", "um2"), ndim=3),
    _shape(
        "circularity", "Circularity", "4π area / perimeter²: 1 for a disc, less for other shapes.", ndim=2
    ),
    _shape(
        "sphericity",
        "Sphericity",
        "Surface of the ball of the same volume / surface: 1 for a ball, less for other shapes.",
        ndim=3,
    ),
    _shape("solidity", "Solidity", "Area (volume) / that of the convex hull."),
    _shape(
        "eccentricity",
        "Eccentricity",
        "Of the ellipse with the same second moments: 0 for a circle, near 1 for a line. In 3D that of the "
        "ellipse through the longest and the shortest axis.",
    ),
    _shape(
        "orientation",
        "Orientation",
        "Angle between the y axis and the major axis within the plane, -90 to 90, counter-clockwise.",
        ("deg",),
    ),
    _shape(
        "axis_major",
        "Major axis",
        "Longest axis of the ellipse (ellipsoid) with the same second moments.",
        LENGTH_UNITS,
    ),
    _shape(
        "axis_minor",
        "Minor axis",
        "Shortest axis of the ellipse (ellipsoid) with the same second moments.",
        LENGTH_UNITS,
    ),
    *(
        _intensity(f"intensity_{key}", title, text, per_channel=True)
        for key, title, text in (
            ("mean", "Mean", "Mean of the pixels of the cell."),
            ("median", "Median", "Median of the pixels of the cell."),
            ("min", "Min", "Lowest value in the cell."),
            ("max", "Max", "Highest value in the cell."),
            ("std", "Std", "Standard deviation of the pixels of the cell (n in the denominator)."),
            ("sum", "Sum", "Sum over the pixels of the cell."),
            (
                "corrected_mean",
                "Mean - background",
                "Mean minus the median of the ring of background around the cell; empty where there is none.",
            ),
        )
    ),
    _neighbours(
        "neighbours_touching", "Touching", "Cells with a pixel beside (also diagonally) one of this cell."
    ),
    _neighbours(
        "nearest_distance",
        "Nearest",
        "Distance from centre to centre of the nearest other cell.",
        LENGTH_UNITS,
    ),
    _region("regions", "Regions", "Names of the regions the cell lies in, joined by '; '."),
    _marker(
        "positive",
        "Positive",
        "Whether the mean intensity is above the threshold of the marker.",
        per_channel=True,
    ),
    _compartment("nuclei", "Nuclei", "Number of nuclei of which the cell covers half or more."),
    _compartment(
        "nuclei_area", "Nuclear area", "Pixels (voxels) of the cell that are nucleus.", ("px", "um2", "um3")
    ),
    _compartment("cell_of", "In cell", "Of a nucleus: the cell that covers half of it or more; 0 is none."),
    _track("track", "Track", "Number of the track the cell belongs to."),
    _track("parent_track", "Parent", "Track it divided from; 0 is none."),
    _track("step", "Step", "Distance of the centre from where the track was seen last.", LENGTH_UNITS),
)
ELSEWHERE = {  # what scikit-image and CellProfiler call them
    "area": ("area", "AreaShape_Area"),
    "volume": ("area", "AreaShape_Volume"),
    "diameter": ("equivalent_diameter_area", "AreaShape_EquivalentDiameter"),
    "perimeter": ("perimeter_crofton", "AreaShape_Perimeter"),
    "surface": ("", "AreaShape_SurfaceArea"),
    "circularity": ("", "AreaShape_FormFactor"),
    "solidity": ("solidity", "AreaShape_Solidity"),
    "eccentricity": ("eccentricity", "AreaShape_Eccentricity"),
    "orientation": ("orientation", "AreaShape_Orientation"),
    "axis_major": ("axis_major_length", "AreaShape_MajorAxisLength"),
    "axis_minor": ("axis_minor_length", "AreaShape_MinorAxisLength"),
    "intensity_mean": ("intensity_mean", "Intensity_MeanIntensity"),
    "intensity_median": ("intensity_median", "Intensity_MedianIntensity"),
    "intensity_min": ("intensity_min", "Intensity_MinIntensity"),
    "intensity_max": ("intensity_max", "Intensity_MaxIntensity"),
    "intensity_std": ("intensity_std", "Intensity_StdIntensity"),
    "intensity_sum": ("", "Intensity_IntegratedIntensity"),
    "neighbours_touching": ("", "Neighbors_NumberOfNeighbors_Adjacent"),
    "nearest_distance": ("", "Neighbors_FirstClosestDistance"),
}
COLUMNS = {column.name: column for column in _TABLE}


def keys_of(wanted: Sequence[str], ndim: int = 2) -> tuple[str, ...]:
    """Return the measured columns (keys of :data:`COLUMNS`) that groups and column names stand for.

    ``wanted`` are names of :data:`MEASURED` groups or of single columns; those that do not exist for cells of
    ``ndim`` spatial axes are left out.

    SettingsError where a name is neither.
    """
    keys: dict[str, None] = {}
    for name in wanted:
        found = [column.name for column in _TABLE if name in (column.group, column.name)]
        if not found or COLUMNS[found[0]].group not in MEASURED:
            raise SettingsError(
                f"There is no measurement {name!r}. Choose one of {', '.join(MEASURED)}, or one of the "
                f"columns {', '.join(column.name for column in _TABLE if column.group in MEASURED)}."
            )
        keys.update(dict.fromkeys(found))
    return tuple(key for key in keys if COLUMNS[key].ndim in (0, ndim))


LENGTHS = {unit: UNITS[unit] for unit in LENGTH_UNITS}
OWN_TITLES = {  # of columns that tables of counts or tracks have and cells have not
    "region": "Region",
    "count": "Cells",
    "markers": "Markers",
    "share": "Share",
    "group": "Group",
    "percent": "Percent",
    "image": "Image",
    "layer": "Layer",
    "model": "Model",
    "time_min": "Time [min]",
    "area_mm2": "Area [mm²]",
    "volume_mm3": "Volume [mm³]",
    "density_per_mm2": "Cells per mm²",
    "density_per_mm3": "Cells per mm³",
    "parent": "Parent",
    "root": "Root",
    "generation": "Generation",
    "first": "First frame",
    "last": "Last frame",
    "n_frames": "Frames",
    "divides": "Divides",
    **{f"path_{unit}": f"Path [{sign}]" for unit, sign in LENGTHS.items()},
    **{f"displacement_{unit}": f"Displacement [{sign}]" for unit, sign in LENGTHS.items()},
    **{f"speed_{unit}_per_frame": f"Speed [{sign}/frame]" for unit, sign in LENGTHS.items()},
    **{f"speed_{unit}_per_min": f"Speed [{sign}/min]" for unit, sign in LENGTHS.items()},
}


def heading_of(name: str, channel_names: Mapping[str, str] = NO_NAMES) -> str:
    """Return the title of a column of a table of cells, counts or tracks with its unit: ``Area [µm²]``.

    ``channel_names`` tells what channels are called: ``{"ch1": "GFP"}``.
    """
    if name.startswith(MEDIAN):
        heading = heading_of(name.removeprefix(MEDIAN), channel_names)
        return f"Median {heading[:1].lower()}{heading[1:]}"
    if name.startswith(CLASS):
        return f"Class {name.removeprefix(CLASS)}"
    return OWN_TITLES.get(name) or column_of(name, channel_names).heading


def column_of(name: str, channel_names: Mapping[str, str] = NO_NAMES) -> Column:
    """Return what a column of a table means; one that is not ours has its name as title.

    ``channel_names`` are those of :func:`heading_of`.

    Examples
    --------
    >>> column_of("intensity_mean_ch1").title, column_of("area_um2").unit
    ('Mean ch1', 'µm²')
    """
    for part in PARTS:
        if name.startswith(f"{part}_"):
            column = _described(name.removeprefix(f"{part}_"), channel_names)
            title = f"{part.capitalize()} {column.title[:1].lower()}{column.title[1:]}"
            return replace(column, name=name, title=title, group="compartments")
    return replace(_described(name, channel_names), name=name)


def _described(name: str, channel_names: Mapping[str, str]) -> Column:
    if name in COLUMNS:
        return COLUMNS[name]
    base, _, ending = name.rpartition("_")
    column = COLUMNS.get(base)
    if column is not None and ending in column.units:
        return replace(column, unit=OWN_UNITS.get(name, UNITS[ending]))
    owners = [one for one in _TABLE if one.per_channel and name.startswith(f"{one.name}_")]
    if not owners:
        return _cell(name, name, "")
    column = max(owners, key=lambda one: len(one.name))
    channel = name[len(column.name) + 1 :]
    return replace(column, title=f"{column.title} {channel_names.get(channel, channel)}")


def group_help(group: str) -> str:
    """Return what a group measures, a line for each column: its title, and its meaning in one sentence."""
    own = [column for column in _TABLE if column.group == group]
    return "\n".join(
        f"{column.title}: {column.description.partition('. ')[0].rstrip('.')}." for column in own
    )


def documentation() -> str:
    """Return the table of all columns as Markdown, as it stands in ``docs/measurements.md``."""
    lines = ["| column | group | meaning | scikit-image | CellProfiler |", "|---|---|---|---|---|"]
    for column in _TABLE:
        name = f"`{column.name}`"
        if column.units:
            name = ", ".join(f"`{column.name}_{unit}`" for unit in column.units)
        if column.per_channel:
            name = f"`{column.name}_ch0`, ..."
        cells = (name, GROUPS[column.group], column.description, *ELSEWHERE.get(column.name, ("", "")))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
