"""A short search for files that readers take badly; ``fuzz.py`` looks for longer."""

import importlib.util
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("fuzz", Path(__file__).with_name("fuzz.py"))
fuzz = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fuzz)


@pytest.mark.parametrize("seed", [0, 1])
def test_damaged_files_give_an_answer_or_an_error_of_ours(tmp_path, seed):
    paths = fuzz.write_corpus(tmp_path)
    assert len(paths) > 20
    tried, wrong = fuzz.search(paths, iter(range(400)), seed=seed)
    assert sum(tried.values()) == 400
    assert wrong == []
