"""Settings dataclasses as command-line flags, and flags back to settings."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Annotated, Any, TypeVar, get_origin, get_type_hints

import typer

from cellwright.core.errors import SettingsError

S = TypeVar("S")
Command = TypeVar("Command", bound=Callable[..., None])

UNIT = "_px"  # of lengths and areas; the flag may be given with or without it


def with_settings(*kinds: type[Any]) -> Callable[[Command], Command]:
    """Give a command one flag for each field of these settings, in place of its ``**flags``.

    Parameters
    ----------
    kinds
        Dataclasses whose fields are annotated with ``{"tooltip": ..., "min": ..., "max": ...}``. A field that
        an earlier one has is not repeated.
    """

    def add(command: Command) -> Command:
        signature = inspect.signature(command)
        own = [item for item in signature.parameters.values() if item.kind is not item.VAR_KEYWORD]
        added: dict[str, inspect.Parameter] = {}
        for kind in kinds:
            for parameter in _parameters(kind):
                added.setdefault(parameter.name, parameter)
        parameters = [*own, *added.values()]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {item.name: item.annotation for item in parameters}
        return command

    return add


def read_settings(kind: type[S], flags: Mapping[str, Any]) -> S:
    """Return settings of this kind: its defaults, changed by those of its fields that were given.

    Raises
    ------
    SettingsError
        A value is out of its range.
    """
    names = _names(kind)
    return kind(**{name: value for name, value in flags.items() if name in names and value is not None})


def refuse_foreign(flags: Mapping[str, Any], *kinds: type[Any]) -> None:
    """Raise SettingsError where a flag was given that none of these settings has."""
    known = set().union(*(_names(kind) for kind in kinds))
    foreign = [_flag(name) for name, value in flags.items() if value is not None and name not in known]
    if foreign:
        raise SettingsError(f"This model has no setting {', '.join(foreign)}. Leave it out.")


def _names(kind: type[Any]) -> set[str]:
    return {item.name for item in fields(kind)}


def _flag(name: str) -> str:
    return "--" + name.removesuffix(UNIT).replace("_", "-")


def _parameters(kind: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [_parameter(item.name, hints[item.name], item.default) for item in fields(kind)]


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    """Return a flag that is None until it is given, so that defaults stay in one place."""
    kind, facts = hint.__origin__, hint.__metadata__[0]
    if get_origin(kind) is tuple:
        kind, default = list[str], None
    whole = "--" + name.replace("_", "-")
    names = [f"{whole}/--no-{whole[2:]}"] if kind is bool else dict.fromkeys([_flag(name), whole])
    usual = "" if default in (None, "") else f"  [default: {str(default).lower()}]"
    option = typer.Option(
        *names, min=facts.get("min"), max=facts.get("max"), help=facts.get("tooltip", "") + usual
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )
