"""Many images: none counted twice, none lost, whatever stops the run."""

import errno
import json
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Barrier

import numpy as np
import pandas
import pytest
import tifffile
import zarr

from cellwright.core.data import Cells, Image, Provenance, Result
from cellwright.core.errors import WriteError
from cellwright.core.tasks import Progress, run
from cellwright.files.atomic import acquire_lock, write_text
from cellwright.files.folders.image_list import list_images
from cellwright.files.folders.results import read_outcomes
from cellwright.files.images import image_names
from cellwright.files.tables import write_table
from cellwright.inference import folder, image_count
from cellwright.inference.folder import count_folder
from cellwright.inference.image_count import CountChoices
from cellwright.inference.recipe import Recipe
from cellwright.inference.settings import InputFiles, StreamSettings
from cellwright.ops.measure.analysis import Counted


@dataclass
class BrightPixels:
    """Counts the bright pixels of an image, and notes which images it was given."""

    fingerprint: str = "1"
    seen: tuple = ()
    recipe: Recipe = Recipe()  # noqa: RUF009 - frozen
    xlsx: bool = False
    report: Path | None = None
    settings_text: str = "as they come"

    def count(self, image, name):
        self.seen += (image.name,)
        yield Progress("tiles", 0, 1)
        points = np.argwhere(np.asarray(image.data) > 0).astype(np.float32)
        ones = np.ones(len(points), np.float32)
        cells = Cells(points, np.stack([points, points + 1], axis=1), ones, ones)
        facts = Provenance("1", "bright", "", {}, image.name, image.shape, image.axes, (), "cpu", 0.1)
        return Counted(Result(float(len(cells)), cells, facts), None)

    def write(self, folder, name, image, counted):
        result = counted.result
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


def test_an_image_without_cells_has_the_columns_of_the_others(images, tmp_path):
    tifffile.imwrite(images / "none.tif", np.zeros((8, 9), np.uint8))
    columns = []
    for name in ("0.tif", "none.tif", ""):
        out = tmp_path / f"out {name}"
        count(images / name, out, BrightPixels())
        summary = pandas.read_csv(out / "summary.csv").drop(columns="expectation", errors="ignore")
        columns.append((list(summary), pandas.read_parquet(out / "cells.parquet").dtypes.to_dict()))
    assert columns[0] == columns[1] == columns[2]
    assert columns[0][1]["y"] == np.float64


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


def test_files_that_are_channels_of_one_place_are_told(tmp_path):
    for name in ("A01_w1", "A01_w2"):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.ones((4, 4), np.uint8))
    told = []
    for pattern in ("*", "*_w1*"):  # as proposed
        listed = list_images([tmp_path], pattern)
        run(count_folder(listed, tmp_path / "out", BrightPixels(), on_outcome=repr, on_notice=told.append))
    assert len(told) == 1
    assert "several channels (_w1, _w2); each file is counted by itself" in told[0]


def test_a_folder_that_cannot_be_written_stops_at_once(images, tmp_path):
    (tmp_path / "out").write_text("a file is in the way")
    counter = BrightPixels()
    with pytest.raises(WriteError):
        count(images, tmp_path / "out", counter)
    assert counter.seen == ()


def test_every_image_of_a_file_is_counted(images, tmp_path):
    with tifffile.TiffWriter(images / "many.ome.tif", ome=True) as tiff:
        for n in (1, 2, 3):
            pixels = np.zeros((8, 9 + n), np.uint8)
            pixels[0, :n] = 200
            tiff.write(pixels, metadata={"axes": "YX", "Name": f"position {n}"})
    first = BrightPixels()
    outcomes = count(images, tmp_path / "out", first)
    own = {name: one.row["count"] for name, one in outcomes.items() if "#" in name}
    assert own == {f"many#position {n}": n for n in (1, 2, 3)}
    assert (tmp_path / "out" / "many#position 2.cells.csv").exists()
    again = BrightPixels()
    assert all(one.was_done for one in count(images, tmp_path / "out", again).values())
    assert again.seen == ()
    (tmp_path / "out" / "many#position 2.cells.csv").unlink()
    count(images, tmp_path / "out", again)
    assert len(again.seen) == 1  # the others of the file are not counted again
    kept = read_outcomes(tmp_path / "out")
    assert {one.image.name: one.row["count"] for one in kept} == {
        name: one.row["count"] for name, one in outcomes.items()
    }


def test_images_of_a_file_that_are_called_the_same_are_all_counted(images, tmp_path):
    with tifffile.TiffWriter(images / "many.ome.tif", ome=True) as tiff:
        for n, name in enumerate(("Pos", "Pos", "pos", "Pos_2"), start=1):
            pixels = np.zeros((8, 9 + n), np.uint8)
            pixels[0, :n] = 200
            tiff.write(pixels, metadata={"axes": "YX", "Name": name})
    for _ in range(2):
        outcomes = count(images, tmp_path / "out", BrightPixels())
        own = {name: one.row["count"] for name, one in outcomes.items() if "#" in name}
        assert own == {"many#Pos": 1, "many#Pos_2": 2, "many#pos_3": 3, "many#Pos_2_2": 4}
        assert len(pandas.read_csv(tmp_path / "out" / "many#pos_3.cells.csv")) == 3
    assert all(one.was_done for one in outcomes.values())
    assert image_names(images / "many.ome.tif") == [f"many.ome_{name[5:]}" for name in own]


def test_a_run_that_is_stopped_leaves_no_table_of_other_settings(images, tmp_path):
    out, report = tmp_path / "out", tmp_path / "report.html"
    count(images, out, BrightPixels(report=report))
    tifffile.imwrite(images / "new.tif", np.ones((8, 9), np.uint8))
    for fingerprint, is_left in (("1", True), ("2", False)):
        counter = BrightPixels(fingerprint, report=report)
        task = count_folder(list_images([images]), out, counter, on_outcome=lambda _: None)
        with closing(task):
            while not counter.seen:
                next(task)
        assert (out / "cells.parquet").exists() == report.exists() == is_left


def test_an_earlier_run_is_shown_as_its_summary_tells(images, tmp_path):
    """Not images that are gone, nor the count of a file that is damaged now."""
    out = tmp_path / "out"
    count(images, out, BrightPixels())
    (images / "0.tif").rename(images / "renamed.tif")
    (images / "2.tif").write_bytes(b"damaged")
    outcomes = count(images, out, BrightPixels())
    kept = {one.image.name: one for one in read_outcomes(out)}
    assert kept.keys() == outcomes.keys() == set(pandas.read_csv(out / "summary.csv")["image"])
    assert kept["2"].error == outcomes["2"].error != ""
    tifffile.imwrite(images / "4.tif", np.ones((8, 9), np.uint8))
    (out / "summary.csv").rename(out / "before.csv")
    count(images, out, BrightPixels())
    (out / "before.csv").rename(out / "summary.csv")  # as after a run that was killed
    os.utime(out / "summary.csv", ns=(0, outcomes_at(out, "4") - 1))
    assert {"4", "renamed"} <= {one.image.name for one in read_outcomes(out)}


def outcomes_at(output, name):
    return (output / ".cellwright" / f"{name}.json").stat().st_mtime_ns


def test_what_changes_while_it_is_counted_is_not_taken_for_done(images, tmp_path):
    class Disturbed(BrightPixels):
        def count(self, image, name):
            if image.name == "2":
                tifffile.imwrite(images / "2.tif", np.ones((8, 9), np.uint8))
            return super().count(image, name)

    outcomes = count(images, tmp_path / "out", Disturbed())
    assert "was changed while it was counted" in outcomes["2"].error
    assert not list((tmp_path / "out").glob("2.*"))
    assert count(images, tmp_path / "out", BrightPixels())["2"].row["count"] == 72


@pytest.mark.parametrize("is_mount_point", [False, True])
@pytest.mark.parametrize("when", ["0", "2", "sub/3"])
def test_a_disk_that_goes_away_and_comes_back_loses_nothing(images, tmp_path, when, is_mount_point):
    out, away = tmp_path / "out", tmp_path / "away"

    class Unplugged(BrightPixels):
        def count(self, image, name):
            found = yield from super().count(image, name)
            if name == when:
                out.rename(away)
                if is_mount_point:
                    out.mkdir()
            return found

    counter = Unplugged()
    with pytest.raises(WriteError, match="went away while images were counted into it"):
        count(images, out, counter)
    assert not out.exists() or not list(out.iterdir())  # nothing beside what was done
    if is_mount_point:
        out.rmdir()
    away.rename(out)
    again = BrightPixels()
    outcomes = count(images, out, again)
    assert sum(one.row["count"] for one in outcomes.values()) == 15
    assert len(again.seen) == 5 - len(counter.seen) + 1  # that which it happened in


@pytest.mark.parametrize("nth", [1, 2, 3, 4, 7])
def test_a_full_disk_stops_the_run_and_leaves_nothing_cut(images, tmp_path, monkeypatch, nth):
    write, n_calls = os.replace, 0

    def replace(source, target):
        nonlocal n_calls
        n_calls += 1
        if n_calls >= nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(source, target)

    with monkeypatch.context() as full:
        full.setattr(os, "replace", replace)
        with pytest.raises(WriteError, match="No space left on device"):
            count(images, tmp_path / "out", BrightPixels())
    assert not list((tmp_path / "out").rglob("*.part"))
    whole = count(images, tmp_path / "out", BrightPixels())
    assert sum(one.row["count"] for one in whole.values()) == 15


def test_what_is_no_image_is_told_and_the_rest_is_done(images, tmp_path):
    if hasattr(os, "mkfifo"):
        os.mkfifo(images / "pipe.tif")  # opening it would wait for ever
    else:
        (images / "pipe.tif").mkdir()
    (images / "gone.tif").symlink_to(images / "nowhere.tif")
    (images / "circle").symlink_to(images, target_is_directory=True)
    np.save(images / "line.npy", np.zeros(7))
    long = "ä" * 120 + " very long"
    tifffile.imwrite(images / f"{long}.tif", np.ones((8, 9), np.uint8))
    outcomes = count(images, tmp_path / "out", BrightPixels())
    errors = {name: one.error for name, one in outcomes.items() if one.error}
    assert "not a file" in errors.pop("pipe")
    assert "there is none" in errors.pop("gone")
    assert "axes" in errors.pop("line").lower()
    assert not errors
    assert len(outcomes) == 9  # none twice by the link to its own folder
    (name,) = (one for one in outcomes if one.startswith("ä"))
    assert outcomes[name].row["count"] == 72
    assert (tmp_path / "out" / f"{name}.cells.csv").exists()


def test_files_of_other_settings_do_not_stay_beside_the_new_ones(images, tmp_path):
    class Generous(BrightPixels):
        def write(self, folder, name, image, result):
            write_text(folder / f"{name}.txt", "more")
            return [*super().write(folder, name, image, result), folder / f"{name}.txt"]

    count(images, tmp_path / "out", Generous("1"))
    assert len(list((tmp_path / "out").rglob("*.txt"))) == 5
    count(images, tmp_path / "out", BrightPixels("2"))
    assert not list((tmp_path / "out").rglob("*.txt"))


def test_what_a_user_changed_is_kept_beside_the_new_files(images, tmp_path):
    count(images, tmp_path / "out", BrightPixels())
    table = tmp_path / "out" / "2.cells.csv"
    mine = table.read_text().replace("1.0", "9.9")  # of the same size
    table.write_text(mine)
    for number in (2, 3):
        outcomes = count(images, tmp_path / "out", BrightPixels(str(number)))
        assert (tmp_path / "out" / "2.cells.edited1.csv").read_text() == mine
    assert outcomes["2"].row["notices"] == ""
    assert "9.9" not in table.read_text()
    table.write_text(mine)
    outcomes = count(images, tmp_path / "out", BrightPixels("4"))
    assert "kept as 2.cells.edited2.csv" in outcomes["2"].row["notices"]
    table.write_text(mine)  # nothing else is changed: neither a setting nor the size of the file
    outcomes = count(images, tmp_path / "out", BrightPixels("4"))
    assert [name for name, one in outcomes.items() if not one.was_done] == ["2"]
    assert "kept as 2.cells.edited3.csv" in outcomes["2"].row["notices"]


def test_what_a_user_changed_of_all_images_is_kept_too(images, tmp_path):
    out, told = tmp_path / "out", []
    counter = BrightPixels(xlsx=True, report=tmp_path / "report.html")
    changed = [out / "summary.csv", out / "summary.xlsx", out / "cells.parquet", counter.report]
    task = partial(count_folder, list_images([images]), choices=counter, on_outcome=lambda _: None)
    for _ in range(2):
        run(task(out, on_notice=told.append))
    assert told == []
    for path in changed:
        path.write_text("edited by hand")
    out = out.rename(tmp_path / "moved")
    run(task(out, on_notice=told.append))
    assert [notice.partition(" was changed")[0] for notice in told] == [
        path.name for path in (changed[0], changed[2], changed[1], changed[3])
    ]
    for name in ("summary.edited1.csv", "summary.edited1.xlsx", "cells.edited1.parquet"):
        assert (out / name).read_text() == "edited by hand"
    assert (tmp_path / "report.edited1.html").read_text() == "edited by hand"
    assert len(pandas.read_csv(out / "summary.csv")) == 5


def test_an_input_that_changed_counts_its_image_anew(images, tmp_path):
    masks = Recipe(files=InputFiles(mask=str(tmp_path / "mask_{name}.tif")))
    for name in "01234":
        (tmp_path / f"mask_{name}.tif").write_text("mask")
    count(images, tmp_path / "out", BrightPixels(recipe=masks))
    (tmp_path / "mask_3.tif").write_text("another mask")
    again = BrightPixels(recipe=masks)
    count(images, tmp_path / "out", again)
    assert again.seen == ("3",)


def test_missing_chunks_of_what_is_read_ahead_are_told(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=np.ones((8, 8), np.uint8), chunks=(4, 4))
    (tmp_path / "a.zarr" / "c" / "1" / "1").unlink()
    (listed,) = list_images([tmp_path / "a.zarr"])
    assert "1 of the 4 chunks" in next(folder._open(listed, BrightPixels()).images).notices[0]


def test_files_of_a_large_image_are_called_after_the_image(tmp_path, monkeypatch):
    monkeypatch.setattr(image_count, "streamed_task", lambda _, image, choices, **__: (image, choices))
    files, stream = InputFiles(mask="{name}_mask.tif"), StreamSettings(stream=True)
    choices = CountChoices((), Recipe(files=files, stream=stream), tmp_path)
    image, chosen = choices.count(Image(np.zeros((4, 5)), "YX", name="a.ome"), "sub/a")
    assert (image.name, chosen.recipe.files.mask) == ("a", "a.ome_mask.tif")


def test_images_are_read_beside_each_other(images, tmp_path, monkeypatch):
    both, read = Barrier(2, timeout=60), folder.read_images

    def read_together(path, axes=None):
        if path.stem in "02":
            both.wait()  # raises where only one is read at a time
        return read(path, axes)

    monkeypatch.setattr(folder, "read_images", read_together)
    assert not any(one.error for one in count(images, tmp_path / "out", BrightPixels()).values())


def test_a_report_and_an_excel_file_tell_of_the_folder(images, tmp_path):
    (images / "B7 <5>.tif").write_bytes(b"II*\0")
    counter = BrightPixels(xlsx=True, report=tmp_path / "report.html")
    listed = list_images([images], plate_pattern="{well}")
    listed = [replace(one, plate={"well": f"A{n}"}) for n, one in enumerate(listed, start=1)]
    outcomes = run(count_folder(listed, tmp_path / "out", counter, on_outcome=lambda _: None))
    page = (tmp_path / "report.html").read_text()
    for words in (
        "15</span>",
        "5 images",
        "B7 &lt;5&gt;",
        "Plate: cells per image",
        "as they come",
        "fewest",
    ):
        assert words in page, words
    assert page.count("data:image/jpeg") == 5
    table = pandas.read_excel(tmp_path / "out" / "summary.xlsx")
    assert len(table) == len(outcomes) == 6
    assert table["count"].sum() == 15


KILL_LATER = """
def kill_later(left):
    def look(event, arguments):
        nonlocal left
        if event in ("open", "os.rename", "os.mkdir", "os.remove") and sys.argv[2] in str(arguments[0]):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), 9)
    sys.addaudithook(look)
"""

KILLED = f"""
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_folder import BrightPixels, count
{KILL_LATER}
for moment in range(0, 400, 9):
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


@pytest.mark.parametrize("folder", ["", "sub"])
@pytest.mark.parametrize("place", ["", ".cellwright", ".cellwright/blocks"])
def test_what_a_killed_run_left_half_written_or_half_removed_goes(images, tmp_path, place, folder):
    there = tmp_path / "out" / place / folder
    for name in (".a.labels.zarr.0123abcd.gone", ".a.cells.csv.0123abcd.part"):
        (there / name).mkdir(parents=True)
        (there / name / "0").touch()
    (there / ".mine").touch()
    count(images, tmp_path / "out", BrightPixels())
    assert not [*there.glob(".*.part"), *there.glob(".*.gone")]
    assert (there / ".mine").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows starts no process as a copy of another")
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
        assert not [*output.rglob("*.part"), *output.rglob("*.gone")]
        assert {name: one.row for name, one in found.items()} == {
            name: one.row for name, one in whole.items()
        }
        assert (output / "summary.csv").read_text() == (tmp_path / "whole" / "summary.csv").read_text()


def test_a_summary_that_is_open_in_excel_stops_no_run(images, tmp_path, monkeypatch):
    """Once the last image is done it cannot be left out any more, and the run says so."""
    monkeypatch.setattr(folder, "WRITE_EVERY_S", 0.0)
    monkeypatch.setattr("cellwright.files.atomic.WAITS_S", ())
    rename = os.replace

    def refuse(source, target):
        if Path(target).name == "summary.csv":
            error = PermissionError(13, "Access is denied")
            error.winerror = 5
            raise error
        rename(source, target)

    counter = BrightPixels()
    with monkeypatch.context() as excel:
        excel.setattr(os, "replace", refuse)
        with pytest.raises(WriteError, match=r"summary\.csv; it is open in another program"):
            count(images, tmp_path / "out", counter)
    assert len(counter.seen) == 5
    again = BrightPixels()
    assert sum(one.row["count"] for one in count(images, tmp_path / "out", again).values()) == 15
    assert again.seen == ()
