"""The command line in this process, with a model that finds bright discs exactly."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import tifffile
import typer

from cellwright.__main__ import main
from cellwright.models import store

get_command = cache(typer.main.get_command)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capfd) -> Callable[..., Outcome]:
    """Function (arguments...) -> exit code, stdout and stderr."""

    def run(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return Outcome(int(ended.value.code or 0), *capfd.readouterr())

    return run


@pytest.fixture(autouse=True)
def commands_are_made_once(monkeypatch):
    """Commands and flags are made of signatures once, as in a program: it takes longer than most counts."""
    monkeypatch.setattr(typer.main, "get_command", get_command)


@pytest.fixture(autouse=True)
def own_models(monkeypatch, tmp_path):
    """What is kept for the user lies in a folder of the test."""
    monkeypatch.setattr(store, "user_folder", lambda: tmp_path / "user" / "models")


@pytest.fixture
def oracle(monkeypatch, oracle_model):
    """Every model name stands for the oracle; what was asked for is noted."""
    asked = []

    def load(name):
        asked.append(name)
        return oracle_model

    monkeypatch.setattr(store, "load", load)
    return asked


@pytest.fixture
def image_path(tmp_path, blobs):
    """A 16 bit image of the discs of ``blobs``, half a micrometre per pixel."""
    path = tmp_path / "discs.tif"
    data = (blobs.image * 60_000).astype(np.uint16)
    tifffile.imwrite(path, data, resolution=(20_000, 20_000), resolutionunit="CENTIMETER")
    return path
