"""A short search for files that readers take badly; ``fuzz.py`` looks for longer."""

import importlib.util
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("fuzz", Path(__file__).with_name("fuzz.py"))
fuzz = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fuzz)


@pytest.mark.parametrize("seed", [0, 1])
def test_damaged_files_give_an_answer_or_an_error_of_ours(tmp_path, seed):
    search = fuzz.Search(fuzz.write_corpus(tmp_path), seed)
    assert len(search.samples) > 40
    search.run(iter(range(300)))
    assert sum(tally.n_files for tally in search.tallies.values()) == 300
    assert search.wrong == []
