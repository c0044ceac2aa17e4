"""Settings dataclasses as command-line flags, and flags back to settings."""

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from glob import glob
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from cellwright.core.errors import SettingsError
from cellwright.inference.settings import FlagRule

S = TypeVar("S")
Command = TypeVar("Command", bound=Callable[..., None])

NAMES = {
    "tune": "--from",
    "as_json": "--json",
    "as_table": "--table",
    "as_onnx": "--onnx",
    "with_files": "--with",
}
ONE_OF = (("diameter_px", "diameter_um"), ("channel", "channels"))  # flags of which one is given
UNIT = "_px"  # of lengths and areas; the flag may be given with or without it


def with_settings(*kinds: type[Any]) -> Callable[[Command], Command]:
    """Give a command one flag for each field of these settings, in place of its ``**flags``.

    They are dataclasses whose fields are annotated by ``core.settings.about``. A field that an earlier one
    has is not repeated.
    """

    def add(command: Command) -> Command:
        signature = inspect.signature(command)
        own = [item for item in signature.parameters.values() if item.kind is not item.VAR_KEYWORD]
        added: dict[str, inspect.Parameter] = {}
        for kind in kinds:
            hints = get_type_hints(kind, include_extras=True)
            for item in fields(kind):
                added.setdefault(item.name, _parameter(item.name, hints[item.name], item.default, kind))
        parameters = [*own, *added.values()]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {item.name: item.annotation for item in parameters}
        return command

    return add


class GroupedCommand(TyperCommand):
    """A command whose help lists its own flags first, then those of each kind of settings."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the flags, a section for each group, as click asks of a command."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for item in self.get_params(ctx):
            title = "Arguments" if item.param_type_name == "argument" else "Options"
            title = getattr(item, "rich_help_panel", None) or title
            record = item.get_help_record(ctx)
            if record is not None:
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def expanded(paths: list[Path]) -> list[Path]:
    """Return paths with patterns such as ``images/*.tif`` replaced by what they stand for, if by anything.

    Shells do so, but not those of Windows.
    """
    found: list[Path] = []
    for path in paths:
        inside: list[str] = []
        if not os.path.exists(path):  # else it is the name of a file
            inside = sorted(glob(str(path), recursive=True))
        found += map(Path, inside or [str(path)])
    return found


def read_settings(kind: type[S], flags: Mapping[str, Any]) -> S:
    """Return settings of this kind: its defaults, changed by those of its fields that were given."""
    return changed_by(flags, kind())


def changed_by(flags: Mapping[str, Any], settings: S) -> S:
    """Return settings changed by those of their fields that were given.

    Where one of a pair is, such as the diameter in µm, the other one is as it comes.
    """
    usual = type(settings)()
    given = {name: flags[name] for name in _names(type(settings)) if flags.get(name) not in (None, [])}
    for names in ONE_OF:
        if given.keys() & set(names):
            given = {name: getattr(usual, name) for name in names} | given
    return replace(settings, **given)  # type: ignore[type-var]


def refuse_foreign(flags: Mapping[str, Any], *kinds: type[Any]) -> None:
    """Raise SettingsError where a flag was given that none of these settings has."""
    known = set().union(*(_names(kind) for kind in kinds))
    foreign = [_flag(name) for name, value in flags.items() if value is not None and name not in known]
    if foreign:
        raise SettingsError(f"This model has no setting {', '.join(foreign)}. Leave it out.")


def refuse_idle(context: typer.Context, rules: Iterable[FlagRule], also: Iterable[str] = ()) -> None:
    """Raise SettingsError where a flag that was given would do nothing.

    ``also`` is there besides flags: settings of a file, or words that rules name.
    """
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}
    there = {name for name in given if context.params[name] is not False}.union(also)
    for rule in rules:
        for name in sorted(given.intersection(rule.flags)):
            against = sorted(there.intersection(rule.without))
            if against:
                raise SettingsError(
                    f"{_flag(name)} does nothing with {_flag(against[0])}. Leave one of them out."
                )
            if rule.is_idle(there):
                needs = " or ".join(map(_flag, rule.needs))
                raise SettingsError(
                    f"{_flag(name)} does nothing without {needs}. Give that, too, or leave {_flag(name)} out."
                )


def _names(kind: type[Any]) -> set[str]:
    return {item.name for item in fields(kind)}


def _flag(name: str) -> str:
    if " " in name:  # something else than a flag
        return name
    return NAMES.get(name, "--" + name.removesuffix(UNIT).replace("_", "-"))


def _parameter(name: str, hint: Any, default: Any, settings: type[Any]) -> inspect.Parameter:
    """Return a flag that is None until it is given, so that defaults stay in one place."""
    kind, facts = hint.__origin__, hint.__metadata__[0]
    if get_origin(kind) is tuple:
        kind, default = list[str], None
    whole = "--" + name.replace("_", "-")
    names = list(dict.fromkeys([_flag(name), whole]))
    if kind is bool:
        names = [f"{whole}/--no-{whole[2:]}"]
    text = facts.get("tooltip", "")
    if default not in (None, ""):
        text += f"  [default: {str(default).lower()}]"
    group = str(settings.__doc__).splitlines()[0].rstrip(".").partition(";")[0]
    option = typer.Option(
        *names, min=facts.get("min"), max=facts.get("max"), help=text, rich_help_panel=group
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )
