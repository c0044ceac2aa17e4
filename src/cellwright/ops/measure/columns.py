"""The columns of a table of cells: their names, titles, units, groups and meaning are fixed here alone.

The command line, the panels, the files and ``docs/measurements.md`` all take them from :data:`COLUMNS`. A
column that exists for each channel has the channel at its end (``intensity_mean_ch0``), one of the
cytoplasm or of the nuclear part starts with ``cytoplasm_`` or ``nucleus_``. Lengths are in micrometres where
the pixel size is known (``_um``), else in pixels (``_px``); the same for areas (``_um2``) and volumes
(``_um3``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

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

PARTS = ("cytoplasm", "nucleus")  # of a cell, whose intensities are measured by themselves
UNITS = {"px": "px", "um": "µm", "um2": "µm²", "um3": "µm³", "deg": "°", "s": "s"}
LENGTH_UNITS = ("px", "um")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table of cells."""

    name: str  # as in the file
    title: str  # as in a panel
    group: str  # key of :data:`GROUPS`
    description: str  # one sentence for people
    units: tuple[str, ...] = ()  # endings the name can have, the first that applies; empty for a plain number
    per_channel: bool = False  # whether there is one for each channel and further image
    source: str = ""  # what scikit-image and CellProfiler call it
    ndim: int = 0  # the only number of spatial axes it exists for; 0 for both
    unit: str = ""  # as shown beside the title; set by :func:`describe`

    @property
    def heading(self) -> str:
        """The title with its unit, if any."""
        return f"{self.title} [{self.unit}]" if self.unit else self.title


_TABLE = (
    Column("label", "Cell", "cell", "Number of the cell: its value in the label image, if any."),
    Column("t", "Frame", "cell", "Frame in time, from 0."),
    Column("z", "z", "cell", "Slice, from 0; the centre of a cell of a volume lies between slices."),
    Column("y", "y", "cell", "Centre, in pixels of the source image."),
    Column("x", "x", "cell", "Centre, in pixels of the source image."),
    *(
        Column(
            f"box_{axis}{end}",
            f"Box {axis}{end}",
            "cell",
            f"{('First', 'One past the last')[end]} pixel of the bounding box along {axis}.",
        )
        for end in (0, 1)
        for axis in "zyx"
    ),
    Column("class", "Class", "cell", "Name of the class, where cells were classified."),
    Column("score", "Score", "cell", "How sure the model is that this is one whole cell, 0 to 1."),
    Column("edited", "Edited", "cell", "Whether the cell was drawn or changed by hand."),
    Column("area", "Area", "cell", "Area of the cell.", ("px", "um2"), source="area; AreaShape_Area", ndim=2),
    Column(
        "volume",
        "Volume",
        "cell",
        "Volume of the cell; in voxels where the ending is px.",
        ("px", "um3"),
        source="area; AreaShape_Volume",
        ndim=3,
    ),
    Column(
        "diameter",
        "Diameter",
        "cell",
        "Diameter of the disc (ball) of the same area (volume).",
        LENGTH_UNITS,
        source="equivalent_diameter_area; AreaShape_EquivalentDiameter",
    ),
    Column(
        "mean_slice_area",
        "Area per slice",
        "cell",
        "Mean area of the cell in its slices, where the distance of slices is not known.",
        ("um2",),
        ndim=3,
    ),
    Column(
        "perimeter",
        "Perimeter",
        "shape",
        "Length of the outline, by Crofton's formula.",
        LENGTH_UNITS,
        source="perimeter_crofton; AreaShape_Perimeter",
        ndim=2,
    ),
    Column(
        "surface",
        "Surface",
        "shape",
        "Area of the surface, by Crofton's formula.",
        ("px", "um2"),
        source="; AreaShape_SurfaceArea",
        ndim=3,
    ),
    Column(
        "circularity",
        "Circularity",
        "shape",
        "4π area / perimeter²: 1 for a disc, less for other shapes.",
        source="; AreaShape_FormFactor",
        ndim=2,
    ),
    Column(
        "sphericity",
        "Sphericity",
        "shape",
        "Surface of the ball of the same volume / surface: 1 for a ball, less for other shapes.",
        ndim=3,
    ),
    Column(
        "solidity",
        "Solidity",
        "shape",
        "Area (volume) / that of the convex hull.",
        source="solidity; AreaShape_Solidity",
    ),
    Column(
        "eccentricity",
        "Eccentricity",
        "shape",
        "Of the ellipse with the same second moments: 0 for a circle, near 1 for a line. In 3D that of the "
        "ellipse through the longest and the shortest axis.",
        source="eccentricity; AreaShape_Eccentricity",
    ),
    Column(
        "orientation",
        "Orientation",
        "shape",
        "Angle between the y axis and the major axis within the plane, -90 to 90, counter-clockwise.",
        ("deg",),
        source="orientation; AreaShape_Orientation",
    ),
    Column(
        "axis_major",
        "Major axis",
        "shape",
        "Longest axis of the ellipse (ellipsoid) with the same second moments.",
        LENGTH_UNITS,
        source="axis_major_length; AreaShape_MajorAxisLength",
    ),
    Column(
        "axis_minor",
        "Minor axis",
        "shape",
        "Shortest axis of the ellipse (ellipsoid) with the same second moments.",
        LENGTH_UNITS,
        source="axis_minor_length; AreaShape_MinorAxisLength",
    ),
    *(
        Column(f"intensity_{key}", title, "intensity", text, (), per_channel=True, source=source)
        for key, title, text, source in (
            ("mean", "Mean", "Mean of the pixels of the cell.", "intensity_mean; Intensity_MeanIntensity"),
            (
                "median",
                "Median",
                "Median of the pixels of the cell.",
                "intensity_median; Intensity_MedianIntensity",
            ),
            ("min", "Min", "Lowest value in the cell.", "intensity_min; Intensity_MinIntensity"),
            ("max", "Max", "Highest value in the cell.", "intensity_max; Intensity_MaxIntensity"),
            (
                "std",
                "Std",
                "Standard deviation of the pixels of the cell (n in the denominator).",
                "intensity_std; Intensity_StdIntensity",
            ),
            ("sum", "Sum", "Sum over the pixels of the cell.", "; Intensity_IntegratedIntensity"),
            (
                "corrected_mean",
                "Mean - background",
                "Mean minus the median of the ring of background around the cell; empty where there is none.",
                "",
            ),
        )
    ),
    Column(
        "neighbours_touching",
        "Touching",
        "neighbours",
        "Cells with a pixel beside (also diagonally) one of this cell.",
        source="; Neighbors_NumberOfNeighbors_Adjacent",
    ),
    Column(
        "nearest_distance",
        "Nearest",
        "neighbours",
        "Distance from centre to centre of the nearest other cell.",
        LENGTH_UNITS,
        source="; Neighbors_FirstClosestDistance",
    ),
    Column("regions", "Regions", "regions", "Names of the regions the cell lies in, joined by '; '."),
    Column(
        "positive",
        "Positive",
        "markers",
        "Whether the mean intensity is above the threshold of the marker.",
        per_channel=True,
    ),
    Column("nuclei", "Nuclei", "compartments", "Number of nuclei of which the cell covers half or more."),
    Column(
        "nuclei_area",
        "Nuclear area",
        "compartments",
        "Pixels (voxels) of the cell that are nucleus.",
        ("px", "um2", "um3"),
    ),
    Column(
        "cell_of",
        "In cell",
        "compartments",
        "Of a nucleus: the cell that covers half of it or more; 0 is none.",
    ),
    Column("track", "Track", "tracks", "Number of the track the cell belongs to."),
    Column("parent_track", "Parent", "tracks", "Track it divided from; 0 is none."),
    Column(
        "step",
        "Step",
        "tracks",
        "Distance of the centre from where the track was seen last.",
        LENGTH_UNITS,
    ),
)
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


def heading_of(name: str) -> str:
    """Return the title of a column of a table of cells, counts or tracks with its unit: ``Area [µm²]``."""
    return OWN_TITLES.get(name) or describe(name).heading


def describe(name: str) -> Column:
    """Return what a column of a table means; one that is not ours has its name as title.

    Examples
    --------
    >>> describe("intensity_mean_ch1").title, describe("area_um2").unit
    ('Mean ch1', 'µm²')
    """
    for part in PARTS:
        if name.startswith(f"{part}_"):
            column = _described(name.removeprefix(f"{part}_"))
            title = f"{part.capitalize()} {column.title.lower()}"
            return replace(column, name=name, title=title, group="compartments")
    return replace(_described(name), name=name)


def _described(name: str) -> Column:
    if name in COLUMNS:
        return COLUMNS[name]
    base, _, ending = name.rpartition("_")
    column = COLUMNS.get(base)
    if column is not None and ending in column.units:
        return replace(column, unit=UNITS[ending])
    owners = [one for one in _TABLE if one.per_channel and name.startswith(f"{one.name}_")]
    if not owners:
        return Column(name, name, "cell", "")
    column = max(owners, key=lambda one: len(one.name))
    return replace(column, title=f"{column.title} {name[len(column.name) + 1 :]}")


def documentation() -> str:
    """Return the table of all columns as Markdown, as it stands in ``docs/measurements.md``."""
    lines = ["| column | group | meaning | scikit-image | CellProfiler |", "|---|---|---|---|---|"]
    for column in _TABLE:
        name = f"`{column.name}`"
        if column.units:
            name = ", ".join(f"`{column.name}_{unit}`" for unit in column.units)
        if column.per_channel:
            name = f"`{column.name}_ch0`, ..."
        skimage, _, cellprofiler = column.source.partition("; ")
        cells = (name, GROUPS[column.group], column.description, skimage, cellprofiler.strip())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
