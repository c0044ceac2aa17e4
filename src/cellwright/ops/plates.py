"""Multi-well plates: where a well lies, one value for each well, and the colours of a heat map."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FORMATS = ((2, 3), (4, 6), (6, 8), (8, 12), (16, 24), (32, 48))  # rows, columns of 6 to 1536 wells
NAME = re.compile(r"([A-Z]|A[A-F])[_/]?0*([1-9][0-9]?)")
PLACE = re.compile(r"(.+?)(?:_s([0-9]+)(_.*)?)?")  # well, site and what follows it, as in A01_s1_w2
CHANNEL = re.compile(r"[_-](?:w|c|ch|channel)[0-9]+", re.IGNORECASE)  # as in A01_s1_w2
SHADES = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))  # viridis, from its ends


@dataclass(frozen=True, slots=True, eq=False)
class PlateMap:
    """One value for each well of a plate."""

    values: NDArray[np.float64]  # (rows, columns): mean of the images of a well; NaN where there is none
    n_images: NDArray[np.int64]  # (rows, columns): how many images it is the mean of

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest value; not a number where no well has one."""
        known = self.values[np.isfinite(self.values)]
        if not len(known):
            return np.nan, np.nan
        return float(known.min()), float(known.max())

    def colour(self, row: int, column: int) -> str:
        """Return the colour of a well as ``#rrggbb``; '' where it has no value."""
        value, (low, high) = self.values[row, column], self.limits
        if not np.isfinite(value):
            return ""
        return shade((value - low) / (high - low) if high > low else 0.5)


def well_place(name: str) -> tuple[int, int] | None:
    """Return row and column of a well, from 0; None where the name is none.

    Examples
    --------
    >>> well_place("B03"), well_place("AA1"), well_place("Control")
    ((1, 2), (26, 0), None)
    """
    match = NAME.fullmatch(name.strip().upper())
    if match is None:
        return None
    row, column = match.groups()
    return row_number(row), int(column) - 1


def plate_pattern(names: Sequence[str]) -> str:
    """Return the pattern of names that all tell a well; '' where they do not, or tell several channels.

    Examples
    --------
    >>> plate_pattern(["A01", "B06"]), plate_pattern(["A01_s1", "A01_s2"]), plate_pattern(["A01", "notes"])
    ('{well}', '{well}_s{site}', '')
    >>> plate_pattern(["A01_s1_w1", "A01_s2_w1"]), plate_pattern(["A01_s1_w1", "A01_s1_w2"])
    ('{well}_s{site}', '')
    """
    parts = [found.groups() for found in map(PLACE.fullmatch, names) if found]
    is_one_channel = len({(site is None, channel) for _, site, channel in parts}) == 1
    if not is_one_channel or any(well_place(well) is None for well, _, _ in parts):
        return ""
    return "{well}" if parts[0][1] is None else "{well}_s{site}"


def channel_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return what tells channels apart in names of one place, in order; none where no place has several.

    Examples
    --------
    >>> channel_names(["A01_s1_w1", "A01_s1_w2"]), channel_names(["A01_s1_w1", "A01_s2_w1"])
    (('_w1', '_w2'), ())
    """
    by_place: dict[str, set[str]] = defaultdict(set)
    for name in names:
        found = CHANNEL.search(name)
        if found is not None:
            by_place[name[: found.start()]].add(found[0])
    several = [channels for channels in by_place.values() if len(channels) > 1]
    return tuple(sorted(set().union(*several), key=lambda name: (len(name), name)))


def row_name(row: int) -> str:
    """Return the letters of a row: A to Z, then AA to AF."""
    if row < 26:
        return chr(ord("A") + row)
    return "A" + chr(ord("A") + row - 26)


def well_name(row: int, column: int) -> str:
    """Return what a well is called, given row and column from 0: B03."""
    return f"{row_name(row)}{column + 1:02d}"


def row_number(letters: str) -> int:
    """Return which row, from 0, letters name."""
    return ord(letters[-1]) - ord("A") + 26 * (len(letters) - 1)


def plate_map(wells: Iterable[tuple[str, float]]) -> PlateMap | None:
    """Return the smallest plate that has all the wells, with their values; None where no name is a well.

    ``wells`` are the name of the well and the value of each image; values that are not finite are left out.
    """
    found: dict[tuple[int, int], list[float]] = defaultdict(list)
    for name, value in wells:
        place = well_place(name)
        if place is not None:
            found[place].append(value)
    if not found:
        return None
    last = np.max(list(found), axis=0)
    shape = next((one for one in FORMATS if one[0] > last[0] and one[1] > last[1]), tuple(last + 1))
    values, n_images = np.full(shape, np.nan), np.zeros(shape, np.int64)
    for place, own in found.items():
        known = [value for value in own if np.isfinite(value)]
        n_images[place] = len(known)
        if known:
            values[place] = np.mean(known)
    return PlateMap(values, n_images)


def shade(share: float) -> str:
    """Return the colour of a share of the range, 0 to 1, dark to light, as ``#rrggbb``."""
    at = min(max(share, 0.0), 1.0) * (len(SHADES) - 1)
    low = min(int(at), len(SHADES) - 2)
    first, second = np.array(SHADES[low]), np.array(SHADES[low + 1])
    red, green, blue = np.rint(first + (second - first) * (at - low)).astype(int)
    return f"#{red:02x}{green:02x}{blue:02x}"
