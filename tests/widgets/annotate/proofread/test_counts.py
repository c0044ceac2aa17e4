"""The table of counts beside a folder of images."""

from pathlib import Path

import pytest

from cellwright.core.errors import ReadError
from cellwright.widgets.annotate.proofread.results import COUNTS, Tally, read_counts, write_counts


def test_counts_are_read_as_they_were_written(tmp_path: Path) -> None:
    tallies = {"a": Tally(5, 4, 2), "b": Tally(-1, 0, 0)}
    write_counts(tmp_path / "x" / COUNTS, [Path("a.png"), Path("b.png"), Path("c.png")], tallies)
    assert read_counts(tmp_path / "x" / COUNTS) == tallies
    assert read_counts(tmp_path / "none.csv") == {}
    (tmp_path / "bad.csv").write_text("name,found\na,x\n")
    with pytest.raises(ReadError, match="Remove it"):
        read_counts(tmp_path / "bad.csv")
