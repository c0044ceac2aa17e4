"""Which cells are counted: those at the border, and filters on any column."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cellwright.core.errors import SettingsError

if TYPE_CHECKING:
    import pandas

BorderRule = Literal["all", "drop", "two-edges"]
FILTER = re.compile(r"(?P<column>\w[\w .-]*?)\s*(?P<sign><=|>=|!=|=|<|>)\s*(?P<value>[^<>=!]+)")
SIGNS = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "=": np.equal,
    "!=": np.not_equal,
}


@dataclass(frozen=True, slots=True)
class ColumnFilter:
    """A condition on one column: ``area_um2 >= 20``, ``class = WBC``."""

    column: str
    sign: str
    value: str | float

    def __str__(self) -> str:
        return f"{self.column}{self.sign}{self.value}"

    def keeps(self, table: "pandas.DataFrame") -> NDArray[np.bool_]:
        """Return which rows fulfil it; an empty value (NaN) fulfils only ``!=``.

        Raises
        ------
        SettingsError
            There is no such column, or its values are of another kind.
        """
        if self.column not in table:
            raise SettingsError(
                f"There is no column {self.column!r} to filter by. Choose of {', '.join(map(str, table))}, "
                "or have it measured."
            )
        values = table[self.column]
        is_text = values.dtype.kind not in "biuf"
        if is_text != isinstance(self.value, str):
            kind = "text" if is_text else "a number"
            raise SettingsError(f"The column {self.column!r} is compared with {kind}; got {self.value!r}.")
        return np.asarray(SIGNS[self.sign](values.to_numpy(), self.value), bool)


def parse_filter(rule: str) -> ColumnFilter:
    """Return the filter of a rule such as ``area_um2>=20`` or ``class=WBC``.

    Raises
    ------
    SettingsError
        The rule is of another form, or text is compared by size.
    """
    match = FILTER.fullmatch(rule.strip())
    if match is None:
        raise SettingsError(
            f"A filter is a column, one of {' '.join(SIGNS)} and a value, such as 'area_um2>=20'; "
            f"got {rule!r}."
        )
    text = match["value"].strip()
    try:
        number = float(text)
    except ValueError:
        number = nan
    if not isnan(number):
        return ColumnFilter(match["column"], match["sign"], number)
    if match["sign"] not in ("=", "!="):
        raise SettingsError(f"Text is compared by = or !=; got {rule!r}.")
    return ColumnFilter(match["column"], match["sign"], text)


def away_from_border(
    boxes: NDArray[np.floating], shape: Sequence[int], rule: BorderRule
) -> NDArray[np.bool_]:
    """Return which cells the border rule keeps.

    Parameters
    ----------
    boxes : (N, 2, D)
        First and one-past-last corner along the spatial axes.
    shape
        Length of these axes.
    rule
        ``all`` keeps all; ``drop`` drops those that touch any edge; ``two-edges`` drops those that touch the
        last row or column (or slice), so that cells on the first ones stand for all on the border: the
        unbiased counting frame (Gundersen 1977, doi 10.1111/j.1365-2818.1977.tb00062.x).

    Raises
    ------
    SettingsError
        There is no such rule.
    """
    if rule not in get_args(BorderRule):
        raise SettingsError(f"The border rule must be one of {get_args(BorderRule)}; got {rule!r}.")
    if rule == "all":
        return np.ones(len(boxes), bool)
    kept = ~(boxes[:, 1] >= np.asarray(shape)).any(axis=1)
    if rule == "drop":
        kept &= ~(boxes[:, 0] <= 0).any(axis=1)
    return np.asarray(kept)


def check_texts(rules: Iterable[str], known: Mapping[str, Collection[str]]) -> None:
    """Raise SettingsError where rules compare a column with a text that it can never hold.

    ``rules`` are such as ``class=WBC``; ``known`` are all texts of the columns of which these are known;
    several may stand in one cell, joined by '; '.
    """
    for one in map(parse_filter, rules):
        if one.column in known and not set(str(one.value).split("; ")) <= {*known[one.column]}:
            there = ", ".join(known[one.column]) or "none"
            raise SettingsError(f"There is no {one.column} {one.value!r} to filter by. Choose of {there}.")


def kept_rows(table: "pandas.DataFrame", filters: Sequence[ColumnFilter]) -> NDArray[np.bool_]:
    """Return which rows of a table fulfil all filters (size, score, class, any other column)."""
    kept = np.ones(len(table), bool)
    for one in filters:
        kept &= one.keeps(table)
    return kept
