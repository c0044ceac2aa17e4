from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from cellwright.cli.flags import read_settings, with_settings
from cellwright.core.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Settings:
    length_px: Annotated[float, {"min": 0.0, "max": 10.0, "tooltip": "How long."}] = 3.0
    n: Annotated[int | None, {"min": 0}] = None
    mirrored: Annotated[bool, {"tooltip": "Left is right."}] = True
    mode: Annotated[Literal["slow", "fast"], {"tooltip": "How fast."}] = "slow"

    def __post_init__(self) -> None:
        if self.length_px == 7:
            raise SettingsError("length_px must not be 7.")


@dataclass(frozen=True, slots=True)
class More:
    n: Annotated[int, {"max": -5}] = -9
    name: Annotated[str, {"tooltip": "Whose."}] = "mine"


def run(*arguments: str) -> tuple[int, Any, str]:
    seen = {}
    app = typer.Typer(rich_markup_mode=None)

    @app.command()
    @with_settings(Settings, More)
    def command(first: str, **flags: Any) -> None:
        seen.update(
            first=first, settings=read_settings(Settings, flags), name=read_settings(More, flags).name
        )

    result = CliRunner().invoke(app, ["word", *arguments])
    return result.exit_code, seen, result.output


def test_flags_left_out_give_the_defaults():
    code, seen, _ = run()
    assert code == 0
    assert seen == {"first": "word", "settings": Settings(), "name": "mine"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--length", "5"], Settings(length_px=5.0)),
        (["--length-px", "0"], Settings(length_px=0.0)),
        (["--n", "0"], Settings(n=0)),
        (["--no-mirrored"], Settings(mirrored=False)),
        (["--mirrored", "--mode", "fast"], Settings(mode="fast")),
    ],
)
def test_flags_become_settings(arguments, expected):
    code, seen, output = run(*arguments)
    assert code == 0, output
    assert seen["settings"] == expected


@pytest.mark.parametrize("arguments", [["--length", "11"], ["--n", "-1"], ["--mode", "medium"], ["--n", "x"]])
def test_values_out_of_range_are_usage_errors(arguments):
    code, seen, output = run(*arguments)
    assert (code, seen) == (2, {})
    assert arguments[0] in output


def test_help_tells_meaning_range_and_default():
    code, _, output = run("--help")
    words = " ".join(output.split())
    assert code == 0
    for text in (
        "--length, --length-px",
        "How long. [default: 3.0]",
        "0.0<=x<=10.0",
        "--mirrored / --no-mirrored",
    ):
        assert text in words


def test_settings_check_themselves():
    with pytest.raises(SettingsError, match="must not be 7"):
        read_settings(Settings, {"length_px": 7.0})
