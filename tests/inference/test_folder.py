"""Many images: none counted twice, none lost, whatever stops the run."""

import json
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas
import pytest
import tifffile

from cellwright.core.data import Cells, Provenance, Result
from cellwright.core.errors import WriteError
from cellwright.core.tasks import Progress, run
from cellwright.files.atomic import acquire_lock, write_text
from cellwright.files.folders.image_list import list_images
from cellwright.files.tables import write_table
from cellwright.inference.folder import count_folder
from cellwright.inference.image_count import Counted, summary_row


@dataclass
class BrightPixels:
    """Counts the bright pixels of an image, and notes which images it was given."""

    fingerprint: str = "1"
    seen: tuple = ()
    axes: str = ""
    xlsx: bool = False

    def inputs(self, name):
        return ()

    def count(self, image):
        self.seen += (image.name,)
        yield Progress("tiles", 0, 1)
        points = np.argwhere(np.asarray(image.data) > 0).astype(np.float32)
        ones = np.ones(len(points), np.float32)
        cells = Cells(points, np.stack([points, points + 1], axis=1), ones, ones)
        facts = Provenance("1", "bright", "", {}, image.name, image.shape, image.axes, (), "cpu", 0.1)
        return Result(float(len(cells)), cells, facts)

    def result(self, counted):
        return counted

    def row(self, counted):
        return summary_row(Counted(counted, None))

    def write(self, folder, name, image, result):
        table = folder / f"{name}.cells.csv"
        write_table(table, result)
        write_text(folder / f"{name}.json", json.dumps({"count": result.count}))
        return [table, folder / f"{name}.json"]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for index in range(5):
        pixels = np.zeros((8, 9), np.uint8)
        pixels.ravel()[: index + 1] = 200
        tifffile.imwrite(folder / ("sub" if index % 2 else "") / f"{index}.tif", pixels)
    return folder


def count(images, output, counter):
    told = []
    outcomes = run(count_folder(list_images([images]), output, counter, on_outcome=told.append))
    assert sorted(map(repr, told)) == sorted(map(repr, outcomes))
    return {one.image.name: one for one in outcomes}


def test_every_image_is_counted_and_listed(images, tmp_path):
    outcomes = count(images, tmp_path / "out", BrightPixels())
    assert {name: one.row["count"] for name, one in outcomes.items()} == {
        "0": 1,
        "2": 3,
        "4": 5,
        "sub/1": 2,
        "sub/3": 4,
    }
    summary = pandas.read_csv(tmp_path / "out" / "summary.csv")
    assert summary["count"].sum() == 15
    cells = pandas.read_parquet(tmp_path / "out" / "cells.parquet")
    assert cells.groupby("image").size().to_dict() == {"0": 1, "2": 3, "4": 5, "sub/1": 2, "sub/3": 4}
    assert (tmp_path / "out" / "sub" / "1.cells.csv").exists()


def test_what_is_done_is_not_done_again(images, tmp_path):
    count(images, tmp_path / "out", BrightPixels())
    again = BrightPixels()
    outcomes = count(images, tmp_path / "out", again)
    assert again.seen == ()
    assert all(one.was_done for one in outcomes.values())
    (tmp_path / "out" / "2.cells.csv").write_text("cut")  # no longer whole
    tifffile.imwrite(images / "4.tif", np.ones((8, 9), np.uint8))  # no longer the same image
    outcomes = count(images, tmp_path / "out", again)
    assert again.seen == ("2", "4")
    assert outcomes["4"].row["count"] == 72


def test_other_settings_count_anew(images, tmp_path):
    count(images, tmp_path / "out", BrightPixels())
    other = BrightPixels("2")
    count(images, tmp_path / "out", other)
    assert len(other.seen) == 5


def test_a_stopped_run_goes_on(images, tmp_path):
    first = BrightPixels()
    with closing(
        count_folder(list_images([images]), tmp_path / "out", first, on_outcome=lambda _: None)
    ) as task:
        for _ in range(6):
            next(task)
    rest = BrightPixels()
    count(images, tmp_path / "out", rest)
    assert sorted({*first.seen[:2], *rest.seen}) == ["0", "1", "2", "3", "4"]
    assert not set(first.seen[:2]) & set(rest.seen)


def test_what_fails_is_told_and_the_rest_is_done(images, tmp_path):
    (images / "5.tif").write_bytes(b"II*\0 cut")
    (images / "6.png").write_bytes(b"")
    outcomes = count(images, tmp_path / "out", BrightPixels())
    assert [name for name, one in outcomes.items() if one.error] == ["5", "6"]
    summary = pandas.read_csv(tmp_path / "out" / "summary.csv").set_index("image")
    assert summary["error"].notna().sum() == 2
    assert summary["count"].sum() == 15
    assert count(images, tmp_path / "out", BrightPixels())["5"].error  # tried anew, and told again


def test_two_runs_do_not_share_a_folder(images, tmp_path):
    (tmp_path / "out" / ".cellwright").mkdir(parents=True)
    lock = acquire_lock(tmp_path / "out" / ".cellwright" / "lock")
    with pytest.raises(WriteError, match="Another program"):
        count(images, tmp_path / "out", BrightPixels())
    lock.release()


def test_a_folder_that_cannot_be_written_stops_at_once(images, tmp_path):
    (tmp_path / "out").write_text("a file is in the way")
    counter = BrightPixels()
    with pytest.raises(WriteError):
        count(images, tmp_path / "out", counter)
    assert counter.seen == ()


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_folder import BrightPixels, count

def kill_later(left):
    def look(event, arguments):
        nonlocal left
        if event in ("open", "os.rename", "os.mkdir", "os.remove") and sys.argv[2] in str(arguments[0]):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), 9)
    sys.addaudithook(look)

for moment in range(0, 400, 7):
    output = Path(sys.argv[2]) / str(moment)
    child = os.fork()
    if child == 0:
        kill_later(moment)
        count(Path(sys.argv[1]), output, BrightPixels())
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        print(moment)
        break
"""


def test_a_kill_at_any_moment_loses_and_repeats_nothing(images, tmp_path):
    command = [sys.executable, "-c", KILLED, images, tmp_path / "killed", Path(__file__).parent]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    assert int(done.stdout) > 20
    whole = count(images, tmp_path / "whole", BrightPixels())
    for output in (tmp_path / "killed").iterdir():
        marked = {path.stem for path in (output / ".cellwright").rglob("[0-9]*.json")}
        counter = BrightPixels()
        found = count(images, output, counter)
        assert not marked & set(counter.seen)
        assert {name: one.row for name, one in found.items()} == {
            name: one.row for name, one in whole.items()
        }
        assert (output / "summary.csv").read_text() == (tmp_path / "whole" / "summary.csv").read_text()
