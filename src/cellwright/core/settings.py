"""The bounds that the fields of settings are declared with, and their check."""

from math import inf
from numbers import Real
from typing import Any, get_type_hints

from cellwright.core.errors import SettingsError


def check_bounds(settings: Any) -> None:
    """Check the fields of a settings dataclass against the bounds they were declared with.

    Forms and flags are made from the same declarations:
    ``Annotated[float, {"min": 0.0, "max": 1.0, "tooltip": "..."}]``. Only numbers have bounds. The error ends
    with the tooltip, which tells what the number means.

    Raises
    ------
    SettingsError
        A value lies outside of them.
    """
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        facts, value = hint.__metadata__[0], getattr(settings, name)
        low, high = facts.get("min", -inf), facts.get("max", inf)
        if "min" in facts and isinstance(value, str):
            raise SettingsError(f"{name} must be a number; got the text {value!r}. Leave out its quotes.")
        if not isinstance(value, Real) or low <= value <= high:
            continue
        span = f"be at least {low}"
        if high < inf:
            span = f"lie between {low} and {high}"
        advice = " ".join(["Choose a value in that range.", facts.get("tooltip", "")]).rstrip()
        raise SettingsError(f"{name} must {span}; got {value}. {advice}")
