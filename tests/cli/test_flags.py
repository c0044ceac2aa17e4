import inspect
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from cellwright.__main__ import main
from cellwright.cli import app, count, train
from cellwright.cli.flags import expanded, read_settings, with_settings
from cellwright.core.errors import SettingsError
from cellwright.inference.settings import FlagRule


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


@pytest.mark.parametrize(
    ("command", "given", "told"),
    [
        ("count", "--combine mean", "--combine does nothing without --channels"),
        (
            "count",
            "--combine mean --channels 0,1 --each-channel",
            "--combine does nothing with --each",
        ),
        ("count", "--ring-gap 3", "--ring-gap does nothing without --measure"),
        ("count", "--other a=b.tif", "--other does nothing without --measure or --positive"),
        ("count", "--cytoplasm 3", "--cytoplasm does nothing without --measure"),
        ("count", "--cytoplasm 3 --measure shape --nuclei n.tif", "--cytoplasm does nothing with --nuclei"),
        ("count", "--region-rule whole", "--region-rule does nothing without --regions or --exclude"),
        ("count", "--track-gap 2", "--track-gap does nothing without --track"),
        ("count", "--no-divisions", "--divisions does nothing without --track"),
        ("count", "--no-divisions --no-track", "--divisions does nothing without --track"),
        ("count", "--pattern *.png --output o", "--pattern does nothing without a folder of images"),
        ("count", "--workers 2 --scheduler tcp://a:1", "--workers does nothing with --scheduler"),
        ("evaluate", "--combine mean", "--combine does nothing without --channels"),
        (
            "compare",
            "--model a --model b --split val",
            "--split does nothing without a folder of",
        ),
        ("train", "--output o --from flow --model density", "--model does nothing with --from"),
        ("train", "--output o --start flow --preset small", "--preset does nothing with --start"),
        ("train", "--output o --from density --steps 5", "--steps does nothing with a table of counts"),
        ("train", "--output o --from density --extra d", "--extra does nothing with a table of counts"),
        ("pretrain", "--output o --start flow --model flow", "--model does nothing with --start"),
        ("pretrain", "--output o --method colorize --temperature 1", "does nothing without --method simclr"),
        ("pretrain", "--output o --pattern *.tif", "--pattern does nothing without a folder of images"),
        ("models", "--json --table", "--table does nothing with --json"),
        ("models", "--json import x", "--json does nothing with another command"),
        ("models", "export flow o --licence MIT", "--licence does nothing without --zoo"),
        ("models", "export flow o --zoo --onnx", "--zoo does nothing with --onnx"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(cli, command, given, told):
    source = {"train": ["counts.csv"], "models": []}.get(command, ["image.tif"])
    code, _, err = cli(command, *source, *given.split())
    assert (code, told in err) == (1, True), err


def test_evaluate_has_no_flags_of_what_it_does_not_do(cli):
    for flag in ("--measure", "--regions", "--stream", "--pattern"):
        code, _, err = cli("evaluate", "folder", flag, "1")
        assert (code, "No such option" in err) == (2, True)


@pytest.mark.parametrize("module", [count, train, app], ids=lambda one: one.__name__)
def test_rules_are_about_flags_that_there_are(module):
    commands = [one for one in vars(module).values() if inspect.isfunction(one)]
    known = {name for one in commands for name in inspect.signature(one).parameters}
    tables = [one for one in vars(module).values() if isinstance(one, tuple)]
    rules = [rule for table in tables for rule in table if isinstance(rule, FlagRule)]
    words = {word for rule in rules for word in (*rule.flags, *rule.needs, *rule.without)}
    assert words
    assert {word for word in words if " " not in word} <= known


def test_help_has_its_own_flags_first_then_a_group_for_each_kind_of_settings(cli):
    lines = cli("count", "--help").out.splitlines()
    titles = [line.rstrip(":") for line in lines if line[:1].isalpha() and line.endswith(":")]
    assert titles[:3] == ["Arguments", "Options", "How the network runs over an image"]
    assert "What is measured, and which cells count" in titles
    assert len(titles) == len(set(titles))
    output, track = (
        next(i for i, line in enumerate(lines) if flag in line) for flag in ("  --output", "  --track /")
    )
    assert output < lines.index("What is measured, and which cells count:") < track


@pytest.mark.parametrize(
    "command", ["count", "convert --to coco --output out", "evaluate --model flow", "train --output out"]
)
def test_a_name_that_the_system_refuses_is_told_in_a_line(cli, command):
    name, *flags = command.split()
    outcome = cli(name, "a" * 3000, *flags)
    assert outcome.code != 0
    assert len(outcome.err.strip().splitlines()) == 1
    assert "error: " in outcome.err


def test_patterns_are_expanded_where_the_shell_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.tif", "a.tif", "[x].tif", "c.png"):
        (tmp_path / name).touch()
    given = [Path(name) for name in ("*.tif", "[x].tif", "no*.tif", "https://host/a?b.zarr", "c.png")]
    names = ["[x].tif", "a.tif", "b.tif", *("[x].tif", "no*.tif"), str(given[3]), "c.png"]
    assert expanded(given) == [Path(name) for name in names]


def test_patterns_that_flags_take_stay_as_they_are(monkeypatch):
    """On Windows typer would replace words that it reads itself by the files that fit them, quoted or not."""
    given: list[str] = []
    monkeypatch.setattr(app, "app", lambda args: given.extend(args))
    monkeypatch.setattr(
        sys, "argv", ["cellwright", "count", ".", "--pattern", "*_DAPI.tif", "--output", "~/out"]
    )
    main()
    assert given == ["count", ".", "--pattern", "*_DAPI.tif", "--output", os.path.expanduser("~/out")]
