"""The bounds that the fields of settings are declared with, and their check."""

from math import inf
from numbers import Integral, Real
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from cellwright.core.errors import SettingsError

KINDS: dict[Any, tuple[Any, str]] = {
    bool: ((bool, np.bool_), "true or false"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "a text"),
}


def about(
    tooltip: str, low: float | None = None, high: float | None = None, *, step: float | None = None
) -> dict[str, Any]:
    """Return what a setting means and its bounds, for ``Annotated``: forms and flags are made from it."""
    metadata = {"min": low, "max": high, "step": step, "tooltip": tooltip}
    return {name: value for name, value in metadata.items() if value is not None}


def to_tuples(settings: Any, *names: str) -> None:
    """Make tuples of these fields of frozen settings, lists in files; a text becomes a tuple of one."""
    for name in names:
        value = getattr(settings, name)
        if isinstance(value, str):
            value = (value,)
        if isinstance(value, list):
            value = tuple(value)
        object.__setattr__(settings, name, value)


def check_bounds(settings: Any) -> None:
    """Check the fields of a settings dataclass against the types and bounds they were declared with.

    These are ``Annotated[float, about("...", 0.0, 1.0)]``, see :func:`about`. Only numbers have bounds. The
    error ends with the tooltip, which tells what the number means.

    SettingsError where a value is of another type, or lies outside them.
    """
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        kind, facts, value = hint.__origin__, hint.__metadata__[0], getattr(settings, name)
        wanted = _misfit(kind, value)
        if wanted:
            raise SettingsError(_type_line(name, wanted, value, facts))
        low, high = facts.get("min", -inf), facts.get("max", inf)
        if not isinstance(value, Real) or low <= value <= high:
            continue
        span = f"lie between {low} and {high}" if high < inf else f"be at least {low}"
        advice = " ".join(["Choose a value in that range.", facts.get("tooltip", "")]).rstrip()
        raise SettingsError(f"{name} must {span}; got {value}. {advice}")


class BoundedSettings:
    """Settings whose fields are checked by :func:`check_bounds` when they are made."""

    __slots__ = ()

    def __post_init__(self) -> None:
        check_bounds(self)


def _misfit(kind: Any, value: Any) -> str:
    """Return what a value would have to be, in words; empty where it is that."""
    if get_origin(kind) is Literal:
        return "" if value in get_args(kind) else f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is tuple:
        one = get_args(kind)[0]
        if isinstance(value, tuple) and not any(_misfit(one, part) for part in value):
            return ""
        return "a list of texts" if one is str else "a list of numbers"
    if NoneType in get_args(kind):
        if value is None:
            return ""
        kind = next(one for one in get_args(kind) if one is not NoneType)
    wanted, words = KINDS[kind]
    is_fitting = isinstance(value, wanted) and (kind is bool or not isinstance(value, bool))
    return "" if is_fitting else words


def _type_line(name: str, wanted: str, value: Any, facts: dict[str, Any]) -> str:
    got, advice = repr(value), facts.get("tooltip", "")
    if isinstance(value, str) and not wanted.startswith("one of"):
        got = f"the text {value!r}"
    if isinstance(value, str) and wanted in ("a number", "a whole number"):
        advice = "Leave out its quotes."
    return f"{name} must be {wanted}; got {got}. {advice}".rstrip()
