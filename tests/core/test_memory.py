"""Memory that nothing is kept in goes back to the system."""

import sys

import numpy as np
import psutil
import pytest

from cellwright.core.memory import give_back_memory


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take memory back themselves")
def test_pieces_between_others_are_given_back():
    process = psutil.Process()
    before = process.memory_info().rss
    pieces = [np.ones(100_000, np.uint8) for _ in range(2000)]
    kept = pieces[::20]
    taken = process.memory_info().rss - before
    del pieces
    give_back_memory()
    left = process.memory_info().rss - before
    assert len(kept) == 100
    assert left < taken / 2
