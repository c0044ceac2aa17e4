"""Which cells are counted, by their border and by any column, and which are positive for markers."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import product
from math import isnan
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import CHANNEL, Image
from cellwright.core.errors import SettingsError
from cellwright.ops.labels import touches_border
from cellwright.ops.measure.blocks import n_channels, numbers_in_file
from cellwright.ops.measure.columns import NO_NAMES
from cellwright.ops.outlines import points_in_ring

if TYPE_CHECKING:
    import pandas

BorderRule = Literal["all", "drop", "two-edges"]
QUOTED = r'"(?:[^"]|"")+"'  # a name or text with signs of its own; a quote in it is doubled
COLUMN, VALUE = r"\w[\w .\-\[\]°/+()]*?", r"[^<>=!]+"
FILTER = re.compile(
    rf"(?P<column>{QUOTED}|{COLUMN})\s*(?P<sign><=|>=|!=|=|<|>)\s*(?P<value>{QUOTED}|{VALUE})"
)
BETWEEN = re.compile(rf"{QUOTED}|(?P<between>,|;|&+|\band\b)", re.IGNORECASE)
SIGNS = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "=": np.equal,
    "!=": np.not_equal,
}
COLOURS = ("red", "green", "blue")  # channels of photographs, which name none
YES_OR_NO = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}  # as tables show them and files hold them
MOST_NAMED = 4  # columns, where one is not known
DIGITS = 6  # of cut-offs, so that what is shown is what is used
RULE = re.compile(
    r"(?P<channel>\d+|[\w .-]+?)\s*>\s*(?P<threshold>otsu|[-+]?\d*\.?\d+(e[-+]?\d+)?)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class ColumnFilter:
    """A condition on one column: ``area_um2 >= 20``, ``class = WBC``."""

    column: str
    sign: str
    value: str | float

    def __str__(self) -> str:
        value = self.value
        text = str(value).removesuffix(".0") if isinstance(value, float) else quoted(value, VALUE)
        return f"{quoted(self.column, COLUMN)}{self.sign}{text}"

    @property
    def shown(self) -> str:
        """The condition as people read it: with blanks, and no more digits than are used."""
        value = self.value
        text = f"{value:.{DIGITS}g}" if isinstance(value, float) else quoted(value, VALUE)
        return f"{quoted(self.column, COLUMN)} {self.sign} {text}"

    def keeps(self, table: "pandas.DataFrame") -> NDArray[np.bool_]:
        """Return which rows (N,) fulfil it; an empty value (NaN) fulfils only ``!=``.

        SettingsError where there is no such column, or its values are of another kind.
        """
        if self.column not in table:
            names = list(map(str, table))
            near = get_close_matches(self.column, names, MOST_NAMED) or names
            raise SettingsError(
                f"There is no column {self.column!r} to filter by. Choose one of {', '.join(near)}, or have "
                "it measured."
            )
        values, value = table[self.column], self.value
        if values.dtype.kind == "b":
            value = YES_OR_NO.get(str(value).lower(), value)
        if values.dtype.kind not in "biuf":
            self.check_text()
        elif isinstance(value, str):
            wanted = {"b": "yes or no"}.get(values.dtype.kind, "a number")
            raise SettingsError(f"The column {self.column!r} is compared with {wanted}; got {value!r}.")
        return np.asarray(SIGNS[self.sign](values.to_numpy(), value), bool)

    def check_text(self) -> None:
        """Raise SettingsError where a column of texts would be compared with a number."""
        if isinstance(self.value, float):
            text = f"{self.value:.15g}"
            raise SettingsError(
                f"The column {self.column!r} is compared with text; got the number {text}. Put it in double "
                f"quotes: {str(replace(self, sign='=', value=text))!r}."
            )


@dataclass(frozen=True, slots=True, eq=False)
class ScatterGate:
    """A polygon (N, 2) in the plane of two columns; cells inside it count."""

    x: str
    y: str
    corners: NDArray[np.float64]

    def keeps(self, table: "pandas.DataFrame") -> NDArray[np.bool_]:
        """Return which rows lie inside."""
        return points_in_ring(table[[self.y, self.x]].to_numpy(float), self.corners[:, ::-1])


def parse_filter(rule: str) -> ColumnFilter:
    """Return the filter of a rule such as ``area_um2>=20``, ``class=WBC`` or ``"Mean a, b">3``.

    SettingsError where the rule is of another form, or text is compared by size.
    """
    match = FILTER.fullmatch(rule.strip())
    if match is None:
        raise SettingsError(
            f"A filter is a column, one of {' '.join(SIGNS)} and a value, such as 'score>=0.5'; "
            f"got {rule!r}. Decimals have a point; names with other signs, or 'and', go in double quotes."
        )
    text = match["value"].strip()
    column, value, number = _unquoted(match["column"]), _unquoted(text), _number(text)
    if number is not None:
        return ColumnFilter(column, match["sign"], number)
    if match["sign"] not in ("=", "!="):
        raise SettingsError(f"Text is compared with = or !=; got {rule!r}.")
    return ColumnFilter(column, match["sign"], value)


def split_filters(text: str) -> list[str]:
    """Return the rules in a text, which ``and``, commas, semicolons or & part outside quotes.

    Examples
    --------
    >>> split_filters('area_px > 9 and "Mean a, b" < 4; class = "fish and chips"')
    ['area_px > 9', '"Mean a, b" < 4', 'class = "fish and chips"']
    """
    parts, start = [], 0
    for match in BETWEEN.finditer(text):
        if match["between"]:
            parts.append(text[start : match.start()])
            start = match.end()
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def quoted(text: str, plain: str) -> str:
    """Return a name or a text as rules have it: in quotes unless it is read as it stands.

    ``plain`` is the pattern of what is read so, ``COLUMN`` or ``VALUE``.
    """
    is_read = re.fullmatch(plain, text) and split_filters(text) == [text] and not text.startswith('"')
    if is_read and (plain == COLUMN or _number(text) is None):
        return text
    return '"{}"'.format(text.replace('"', '""'))


def _number(text: str) -> float | None:
    with suppress(ValueError):
        return None if isnan(float(text)) else float(text)
    return None


def _unquoted(text: str) -> str:
    return text[1:-1].replace('""', '"') if re.fullmatch(QUOTED, text) else text


def away_from_border(
    boxes: NDArray[np.floating], shape: Sequence[int], rule: BorderRule
) -> NDArray[np.bool_]:
    """Return which cells the border rule keeps, by their boxes (N, 2, D) along the spatial axes.

    ``all`` keeps all; ``drop`` drops those that touch any edge; ``two-edges`` drops those that touch the last
    row or column (or slice), so that cells on the first ones stand for all on the border: the unbiased
    counting frame (Gundersen 1977, doi 10.1111/j.1365-2818.1977.tb00062.x).
    """
    if rule == "all":
        return np.ones(len(boxes), bool)
    if rule == "drop":
        return ~touches_border(boxes, tuple(shape))
    return np.asarray(~(boxes[:, 1] >= np.asarray(shape)).any(axis=1))


def check_texts(rules: Iterable[str], known: Mapping[str, Collection[str]]) -> None:
    """Raise SettingsError where rules compare a column with a text that it can never hold.

    ``rules`` are such as ``class=WBC``; ``known`` are all texts of the columns of which these are known;
    several may stand in one cell, joined by '; '.
    """
    for one in map(parse_filter, rules):
        if one.column not in known:
            continue
        one.check_text()
        if not set(str(one.value).split("; ")) <= {*known[one.column]}:
            there = ", ".join(known[one.column]) or "none"
            raise SettingsError(
                f"There is no {one.column} {one.value!r} to filter by. Choose one of {there}."
            )


def kept_rows(table: "pandas.DataFrame", filters: Sequence[ColumnFilter]) -> NDArray[np.bool_]:
    """Return which rows (N,) of a table fulfil all filters (size, score, class, any other column)."""
    kept = np.ones(len(table), bool)
    for one in filters:
        kept &= one.keeps(table)
    return kept


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

    SettingsError where the rule is of another form.
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
    known = zip(names_of_channels(image), numbers_in_file(image), strict=False)
    numbers = {name: f"ch{number}" for name, number in known}
    numbers |= {marker.channel: marker.channel for marker in markers if marker.column in columns}
    return [replace(marker, channel=numbers.get(marker.channel, marker.channel)) for marker in markers]


def thresholds_of(table: "pandas.DataFrame", markers: Sequence[Marker]) -> dict[str, float]:
    """Return the threshold of each channel, those by Otsu's method found among the cells of the table.

    SettingsError where the mean intensity of a channel has not been measured, or it is given two thresholds.
    """
    found: dict[str, float] = {}
    for marker in markers:
        if marker.channel in found:
            raise SettingsError(
                f"A channel has one threshold; {marker.channel!r} is given two. Leave one of them out."
            )
        if marker.column not in table:
            start = "intensity_mean_"
            known = [str(name)[len(start) :] for name in table if str(name).startswith(start)]
            raise SettingsError(
                f"Positive cells need the mean intensity in {marker.channel!r}; measured are "
                f"{', '.join(known) or 'none'}. Choose one of these channels, or measure the intensity."
            )
        threshold = marker.threshold
        if threshold is None:
            threshold = otsu(table[marker.column].to_numpy(np.float64))
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
        table[f"positive_{channel}"] = table[Marker(channel).column].to_numpy(np.float64) > threshold


def names_of_channels(image: Image) -> tuple[str, ...]:
    """Return how the channels of an image are called, as its file does; colours are called so."""
    has_colours = image.axes.endswith(CHANNEL) and n_channels(image) == len(COLOURS)
    return COLOURS if has_colours and not image.channel_names else image.channel_names


def called(image: Image, others: Iterable[str] = ()) -> dict[str, str]:
    """Return how people call the channels of an image: as the file does, where no other is called so, too.

    ``others`` are further images, whose names stay.
    """
    numbers = [f"ch{number}" for number in numbers_in_file(image)]
    return unique_names({*numbers, *others}, dict(zip(numbers, names_of_channels(image), strict=False)))


def unique_names(channels: Iterable[str], names: Mapping[str, str]) -> dict[str, str]:
    """Return the name of each channel: its own where no other has it, else the channel itself."""
    found = {channel: names.get(channel) or channel for channel in channels}
    n_of = Counter(found.values())
    return {channel: name if n_of[name] == 1 else channel for channel, name in found.items()}


def copositive_table(
    table: "pandas.DataFrame", channels: Sequence[str], names: Mapping[str, str] = NO_NAMES
) -> "pandas.DataFrame":
    """Return how many cells have which markers together.

    One row for each combination, positive ones first (``ch1+ ch2+``, ``ch1+ ch2-``, ...), with ``count`` and
    ``share``; ``names`` tells how channels are called there.
    """
    import pandas

    rows = [
        (name, int(agrees.sum()), agrees.mean() if len(table) else 0.0)
        for name, agrees in marker_groups(table, channels, names)
    ]
    return pandas.DataFrame(rows, columns=["markers", "count", "share"])


def marker_groups(
    table: "pandas.DataFrame", channels: Sequence[str], names: Mapping[str, str] = NO_NAMES
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield each combination of markers, positive ones first (``ch1+ ch2-``), and which rows are of it."""
    positive = [table[f"positive_{channel}"].to_numpy(bool) for channel in channels]
    for signs in product((True, False), repeat=len(channels)):
        agrees = np.ones(len(table), bool)
        for has, wanted in zip(positive, signs, strict=True):
            agrees &= has == wanted
        signed = zip(channels, signs, strict=True)
        yield " ".join(f"{names.get(one, one)}{'-+'[wanted]}" for one, wanted in signed), agrees
