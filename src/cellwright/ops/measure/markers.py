"""Cells that are positive for a marker: a threshold per channel, and which markers go together."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Image
from cellwright.core.errors import SettingsError
from cellwright.ops.measure.blocks import numbers_in_file

if TYPE_CHECKING:
    import pandas

RULE = re.compile(
    r"(?P<channel>\d+|[\w .-]+?)\s*>\s*(?P<threshold>otsu|[-+]?\d*\.?\d+(e[-+]?\d+)?)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Marker:
    """A channel, and the mean intensity above which a cell is positive for it."""

    channel: str  # ending of the intensity columns: ``ch0`` and on, or the name of another image
    threshold: float | None = None  # None: found by Otsu's method among the cells

    @property
    def column(self) -> str:
        """The column that is compared with the threshold."""
        return f"intensity_mean_{self.channel}"


def parse_marker(rule: str) -> Marker:
    """Return the marker of a rule such as ``2>otsu`` (channels count from 0), ``1>350`` or ``ki67>otsu``.

    Raises
    ------
    SettingsError
        The rule is of another form.
    """
    match = RULE.fullmatch(rule.strip())
    if match is None:
        raise SettingsError(
            f"A rule for positive cells is a channel, '>' and a number or otsu, such as '1>350' or '2>otsu'; "
            f"got {rule!r}."
        )
    channel, threshold = match["channel"], match["threshold"].lower()
    if channel.isdecimal():
        channel = f"ch{int(channel)}"
    return Marker(channel, None if threshold == "otsu" else float(threshold))


def with_channel_numbers(markers: Sequence[Marker], image: Image, columns: Collection[str]) -> list[Marker]:
    """Return markers in which a channel given by its name in the file is called by its number.

    The name of another image, which is measured under it in these columns, stays.
    """
    known = zip(image.channel_names, numbers_in_file(image), strict=False)
    numbers = {name: f"ch{number}" for name, number in known}
    numbers |= {marker.channel: marker.channel for marker in markers if marker.column in columns}
    return [replace(marker, channel=numbers.get(marker.channel, marker.channel)) for marker in markers]


def thresholds_of(table: "pandas.DataFrame", markers: Sequence[Marker]) -> dict[str, float]:
    """Return the threshold of each channel, those by Otsu's method found among the cells of the table.

    Raises
    ------
    SettingsError
        The mean intensity of a channel has not been measured, or it is given two thresholds.
    """
    found: dict[str, float] = {}
    for marker in markers:
        if marker.channel in found:
            raise SettingsError(
                f"A channel has one threshold; {marker.channel!r} is given two. Leave one of them out."
            )
        if len(table) and marker.column not in table:
            start = "intensity_mean_"
            known = [str(name)[len(start) :] for name in table if str(name).startswith(start)]
            raise SettingsError(
                f"Positive cells need the mean intensity in {marker.channel!r}; measured are "
                f"{', '.join(known) or 'none'}. Choose one of these channels, or measure the intensity."
            )
        threshold = marker.threshold
        if threshold is None:
            threshold = otsu(np.asarray(table.get(marker.column, ()), np.float64))
        found[marker.channel] = threshold
    return found


def otsu(values: NDArray[np.float64]) -> float:
    """Return Otsu's threshold of the finite values, halfway between the groups that it parts.

    Every split of the sorted values is tried, so that no bins blur it. The threshold of values that are all
    the same is this value, that of none is not a number.
    """
    ranked = np.sort(values[np.isfinite(values)])
    if not len(ranked):
        return float("nan")
    if ranked[0] == ranked[-1]:
        return float(ranked[0])
    n_low = np.arange(1, len(ranked))
    sums = np.cumsum(ranked)
    means_low = sums[:-1] / n_low
    means_high = (sums[-1] - sums[:-1]) / (len(ranked) - n_low)
    between = n_low * (len(ranked) - n_low) * (means_high - means_low) ** 2
    between[ranked[1:] == ranked[:-1]] = -1  # equal values stay together
    best = int(between.argmax())
    return float((ranked[best] + ranked[best + 1]) / 2)


def add_positive(table: "pandas.DataFrame", thresholds: dict[str, float]) -> None:
    """Add one column of True and False for each channel that has a threshold."""
    for channel, threshold in thresholds.items():
        values = np.zeros(0)  # without cells nothing may be measured
        if len(table):
            values = table[Marker(channel).column].to_numpy()
        table[f"positive_{channel}"] = values > threshold


def copositive_table(table: "pandas.DataFrame", channels: Sequence[str]) -> "pandas.DataFrame":
    """Return how many cells have which markers together.

    One row for each combination, positive ones first (``ch1+ ch2+``, ``ch1+ ch2-``, ...), with ``count`` and
    ``share``.
    """
    import pandas

    positive = [table[f"positive_{channel}"].to_numpy(bool) for channel in channels]
    rows = []
    for signs in product((True, False), repeat=len(channels)):
        agrees = np.ones(len(table), bool)
        for has, wanted in zip(positive, signs, strict=True):
            agrees &= has == wanted
        name = " ".join(f"{channel}{'-+'[wanted]}" for channel, wanted in zip(channels, signs, strict=True))
        rows.append((name, int(agrees.sum()), agrees.mean() if len(table) else 0.0))
    return pandas.DataFrame(rows, columns=["markers", "count", "share"])
