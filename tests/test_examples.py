"""The examples in docstrings give what they say."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import cellwright

SRC = Path(cellwright.__file__).parent
MODULES = [
    ".".join(path.relative_to(SRC.parent).with_suffix("").parts)
    for path in sorted(SRC.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_say(name: str) -> None:
    n_failed, n_examples = doctest.testmod(import_module(name))
    assert n_examples > 0
    assert n_failed == 0
