"""What is corrected of an image of a folder reaches its files and all that tells of the folder."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import tifffile
from tests.inference.test_fit import Recorder
from tests.inference.test_folder import KILL_LATER

from cellwright.core.errors import AxesError, ImageError, ReadError, SettingsError, WriteError
from cellwright.core.tasks import run
from cellwright.files.folders.image_list import list_images
from cellwright.files.folders.image_results import read_listed, read_result
from cellwright.files.folders.results import only_run, read_outcomes, thumbnail_of
from cellwright.files.folders.written import begin_image, begun_of
from cellwright.files.tables import read_cells_table
from cellwright.inference import image_count
from cellwright.inference.corrections import save_corrected
from cellwright.inference.folder import count_folder
from cellwright.inference.image_count import CountChoices, counted_task
from cellwright.inference.recipe import Recipe
from cellwright.inference.settings import InputFiles
from cellwright.models import store
from cellwright.ops.measure.settings import AnalysisSettings

MEASURED = AnalysisSettings(measure=("shape", "intensity"))
PARTS = ("A01.labels.tif", "A01.cells.csv", "A01.json")


@pytest.fixture(autouse=True)
def shelved(monkeypatch, oracle_model):
    monkeypatch.setattr(store, "load", lambda name: oracle_model)
    return oracle_model


@pytest.fixture
def images(tmp_path, blobs):
    """Two wells and a file that is no image."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("A01", "B02"):
        tifffile.imwrite(folder / f"{name}.tif", (blobs.image * 200).astype(np.uint8))
    (folder / "C03.tif").write_bytes(b"no image")
    return folder


def count(images, output, model, recipe=Recipe(), told=None, **choices):  # noqa: B008 - frozen
    """The outcomes by name, and which images were counted now."""
    listed, told = list_images([images], plate_pattern="{well}"), [] if told is None else told
    counter = CountChoices((model,), recipe, output, **choices)
    counting = count_folder(listed, output, counter, on_outcome=lambda _: None, on_notice=told.append)
    outcomes = run(counting)
    return {one.image.name: one for one in outcomes}


def found_in(output, name, **how):
    outcome = {one.image.name: one for one in read_outcomes(output)}[name]
    return read_result(output, name, read_listed(outcome.image, output), **how)


def corrected(labels):
    """One cell removed, one halved, one drawn: three corrections."""
    labels = labels.copy()
    labels[labels == 1] = 0
    places = np.argwhere(labels == 2)
    labels[tuple(places[: len(places) // 2].T)] = 0
    corner = (slice(0, 1),) * (labels.ndim - 2) + (slice(0, 5), slice(0, 4))
    assert not labels[corner].any()
    labels[corner] = labels.max() + 7  # numbers need not follow each other
    return labels


def same_cells(labels, others):
    return np.array_equal(labels > 0, others > 0) and len(np.unique(labels)) == len(np.unique(others))


def test_all_that_tells_of_the_folder_follows(images, tmp_path, shelved, blobs):
    out, n = tmp_path / "out", len(blobs)
    report = tmp_path / "report.html"
    count(images, out, shelved, report=report, xlsx=True)
    machine, picture = found_in(out, "A01"), thumbnail_of(out, "A01").read_bytes()
    mine = corrected(machine.cells.labels)
    outcome = run(save_corrected(out, "A01", mine))
    assert (outcome.row["count"], outcome.row["corrected"]) == (n, 3)
    assert "fit" not in outcome.row
    assert f"3 cells corrected by hand; the model had found {n}." in outcome.row["notices"]
    assert same_cells(tifffile.imread(out / "A01.labels.tif"), mine)
    table = pandas.read_csv(out / "A01.cells.csv")
    assert (table["edited"].sum(), table["score"].isna().sum()) == (2, 2)
    assert 20 in table["area_px"].to_numpy()[table["edited"]]
    summary = pandas.read_csv(out / "summary.csv").set_index("image")
    assert summary["corrected"].dropna().to_dict() == {"A01": 3}
    assert summary["well"].to_dict() == {name: name for name in ("A01", "B02", "C03")}
    assert summary["error"]["C03"].startswith("Expected an image")
    cells = pandas.read_parquet(out / "cells.parquet")
    assert cells[cells["image"] == "A01"]["edited"].sum() == 2
    sheet = pandas.read_excel(out / "summary.xlsx")
    assert sheet["corrected"][0] == 3
    assert "<td>images corrected by hand</td><td>1</td>" in report.read_text()
    assert thumbnail_of(out, "A01").read_bytes() != picture
    assert same_cells(found_in(out, "A01", as_counted=True).cells.labels, machine.cells.labels)


def test_a_count_that_goes_on_keeps_it(images, tmp_path, shelved):
    out = tmp_path / "out"
    count(images, out, shelved, report=out / "report.html")
    run(save_corrected(out, "A01", corrected(found_in(out, "A01").cells.labels)))
    told = ["summary.csv", "report.html", "cells.parquet", *PARTS]
    before = {name: (out / name).read_bytes() for name in told}
    notices = []
    outcomes = count(images, out, shelved, told=notices, report=out / "report.html")
    assert outcomes["A01"].was_done
    assert {name: (out / name).read_bytes() for name in told} == before
    assert not list(out.glob("*.edited*"))
    assert notices == []


def test_other_settings_keep_it_under_another_name(images, tmp_path, shelved):
    out = tmp_path / "out"
    count(images, out, shelved)
    machine = found_in(out, "A01").cells.labels
    run(save_corrected(out, "A01", corrected(machine)))
    mine = {name: (out / name).read_bytes() for name in PARTS}
    told = []
    outcomes = count(images, out, shelved, Recipe(analysis=MEASURED), told)
    assert len(told) == 1
    assert "not those corrected by hand: A01." in told[0]
    assert not outcomes["A01"].was_done
    assert "kept as A01.labels.edited1.tif" in outcomes["A01"].row["notices"]
    for name, content in mine.items():
        stem, ending = name.rsplit(".", 1)
        assert (out / f"{stem}.edited1.{ending}").read_bytes() == content
    assert "corrected" not in outcomes["A01"].row
    assert outcomes["A01"].row["corrected_beside"] == "A01.labels.edited1.tif"
    assert pandas.read_csv(out / "summary.csv")["corrected_beside"].dropna().tolist() == [
        "A01.labels.edited1.tif"
    ]
    again = count(images, out, shelved, Recipe(analysis=AnalysisSettings(measure=("shape",))), told)
    assert again["A01"].row["corrected_beside"] == "A01.labels.edited1.tif", "however often it is counted"
    assert "corrected_beside" not in again["B02"].row
    assert "A01" in told[-1]
    assert same_cells(tifffile.imread(out / "A01.labels.tif"), machine)
    assert not list(out.glob("*.counted*"))


def test_a_run_that_was_killed_knows_where_corrected_cells_are(images, tmp_path, shelved):
    out = tmp_path / "out"
    count(images, out, shelved)
    run(save_corrected(out, "A01", corrected(found_in(out, "A01").cells.labels)))
    begun = begun_of("A01", out)
    first = begin_image("A01", out, begun=begun)  # and killed before it has written anything
    assert first.beside == "A01.labels.edited1.tif"
    outcomes = count(images, out, shelved)
    assert outcomes["A01"].row["corrected_beside"] == first.beside
    assert (out / first.beside).exists()
    assert not begun.exists()


def test_it_can_be_corrected_again_and_back(images, tmp_path, shelved, blobs):
    out = tmp_path / "out"
    count(images, out, shelved)
    machine = found_in(out, "A01").cells.labels
    run(save_corrected(out, "A01", corrected(machine)))
    first, told = tifffile.imread(out / "A01.labels.tif"), []
    outcome = run(save_corrected(out, "A01", np.where(machine == 3, 0, machine), on_notice=told.append))
    (sentence,) = told
    assert all(f"A01.{part}" in sentence for part in ("edited1.json", "cells.edited1.csv", "labels.edited1"))
    np.testing.assert_array_equal(tifffile.imread(out / "A01.labels.edited1.tif"), first)
    run(save_corrected(out, "A01", np.where(machine == 3, 0, machine), on_notice=told.append))
    assert len(told) == 1  # they are the same
    recounted = count(images, out, shelved, Recipe(analysis=MEASURED))["A01"].row
    assert recounted["corrected_beside"] == "A01.labels.edited2.tif"
    outcome = run(save_corrected(out, "A01", recounted["corrected_beside"]))
    assert (outcome.row["count"], outcome.row["corrected"]) == (len(blobs) - 1, 1)
    outcome = run(save_corrected(out, "A01", machine.astype(np.float32)))
    assert (outcome.row["count"], outcome.row["corrected"]) == (len(blobs), 0)
    assert not pandas.read_csv(out / "A01.cells.csv")["score"].isna().any()
    np.testing.assert_array_equal(found_in(out, "A01", as_counted=True).cells.labels, machine)


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(analysis=MEASURED)])
def test_where_nothing_was_corrected_the_fit_stays(images, tmp_path, shelved, monkeypatch, recipe):
    monkeypatch.setattr(shelved, "fit", Recorder(0.8126))
    out = tmp_path / "out"
    before = count(images, out, shelved, recipe)["A01"].row
    machine = found_in(out, "A01").cells.labels
    for mine, n in ((machine, 0), (corrected(machine), 3), (machine, 0)):
        row = run(save_corrected(out, "A01", mine)).row
        told = json.loads((out / "A01.json").read_text())
        summary = pandas.read_csv(out / "summary.csv").set_index("image").loc["A01"]
        assert row["corrected"] == n
        if n:
            assert not {"fit", "expectation"} & set(row)
            assert "fit" not in told
            assert np.isnan(summary["fit"])
        else:
            assert {name: row[name] for name in ("fit", "expectation")} == {
                name: before[name] for name in ("fit", "expectation")
            }
            assert (told["fit"], summary["fit"]) == (0.8126, before["fit"])


@pytest.mark.parametrize(
    ("axes", "link"), [("ZYX", True), ("ZYX", False), ("TYX", True), ("CYX", True), ("TZYX", True)]
)
def test_every_kind_of_image_is_measured_as_it_was_counted(axes, link, tmp_path, shelved, draw_blobs):
    blobs = draw_blobs((70, 90))
    shape = [{"Z": 3, "T": 2, "C": 2}[axis] for axis in axes[:-2]]
    pixels = np.broadcast_to((blobs.image * 200).astype(np.uint8), (*shape, *blobs.image.shape))
    (tmp_path / "images").mkdir()
    for name in ("A01", "B02"):
        tifffile.imwrite(
            tmp_path / "images" / f"{name}.ome.tif", pixels, metadata={"axes": axes}, photometric="minisblack"
        )
    recipe = Recipe(analysis=replace(MEASURED, keep=("score>=0.5",)))
    recipe = replace(recipe, engine=replace(recipe.engine, link=link))
    out = tmp_path / "out"
    outcomes = count(tmp_path / "images", out, shelved, recipe, xlsx=True, parquet=True)
    mine = corrected(found_in(out, "A01").cells.labels)
    outcome = run(save_corrected(out, "A01", mine))
    n_frames = {"ZYX": 1 if link else 3, "TYX": 2, "CYX": 1, "TZYX": 2}[axes]
    assert outcomes["A01"].row["count"] == n_frames * len(blobs)
    assert (outcome.row["count"], outcome.row["corrected"]) == (n_frames * len(blobs), 3)
    assert set(outcomes["A01"].row) - {"fit", "expectation"} <= set(outcome.row)
    table = pandas.read_csv(out / "A01.cells.csv")
    assert set(pandas.read_csv(out / "B02.cells.csv")) == set(table) - {"edited"}
    assert pandas.read_csv(out / "A01.counts.csv")["count"].sum() == len(table)
    assert pandas.read_excel(out / "A01.xlsx", sheet_name="cells")["edited"].sum() == 2
    assert pandas.read_parquet(out / "A01.cells.parquet")["edited"].sum() == 2
    kept, counted = found_in(out, "A01"), found_in(out, "A01", as_counted=True)
    again = run(save_corrected(out, "A01", kept))  # the same from what is read
    assert {**again.row, "seconds": 0} == {**outcome.row, "seconds": 0}
    assert again.row["corrected"] == 3
    assert len(counted.cells) == n_frames * len(blobs)


@pytest.mark.parametrize("names", [("round", "long"), ("1", "02"), ("NA", "None")])
def test_classes_come_along(images, tmp_path, shelved, blobs, names):
    out = tmp_path / "out"
    count(images, out, shelved)
    machine = found_in(out, "A01")
    classes = np.zeros(len(blobs), np.int16)
    classes[3:] = 1
    settings = {**machine.provenance.settings, "classes": names}
    named = replace(
        machine,
        cells=replace(machine.cells, classes=classes),
        provenance=replace(machine.provenance, settings=settings),
    )
    outcome = run(save_corrected(out, "A01", named))
    n = len(blobs)
    assert [outcome.row[f"count_{name}"] for name in names] == [3, n - 3]
    assert outcome.row["corrected"] == n
    found = found_in(out, "A01")
    np.testing.assert_array_equal(found.cells.classes, classes)
    told = [names[0]] * 3 + [names[1]] * (n - 3)
    assert read_cells_table(out / "A01.cells.csv")["class"].tolist() == told
    assert pandas.read_parquet(out / "cells.parquet")["class"].tolist()[:n] == told


def test_points_are_corrected_as_points(images, tmp_path, shelved, monkeypatch, blobs):
    def without_outlines(image, choices):
        counted = yield from counted_task(image, choices)
        cells = replace(counted.result.cells, labels=None)
        return counted._replace(result=replace(counted.result, cells=cells))

    monkeypatch.setattr(image_count, "counted_task", without_outlines)
    out = tmp_path / "out"
    count(images, out, shelved)
    machine = found_in(out, "A01")
    assert machine.cells.labels is None
    moved = machine.cells.points + np.where(np.arange(len(blobs)) == 2, 4, 0)[:, None]
    cells = replace(machine.cells, points=moved.astype(np.float32)).take(np.arange(1, len(blobs)))
    outcome = run(save_corrected(out, "A01", replace(machine, cells=cells)))
    assert (outcome.row["count"], outcome.row["corrected"]) == (len(blobs) - 1, 2)
    np.testing.assert_allclose(found_in(out, "A01").cells.points, cells.points, rtol=1e-5)
    outcome = run(save_corrected(out, "A01", np.where(blobs.labels == 4, 0, blobs.labels)))  # outlined
    assert (outcome.row["count"], outcome.row["corrected"]) == (len(blobs) - 1, 1)


def test_a_part_of_an_image_is_corrected_where_it_lies(images, tmp_path, shelved):
    out, recipe = tmp_path / "out", Recipe(window=((20, 150), (10, 180)), analysis=MEASURED)
    count(images, out, shelved, recipe)
    labels = tifffile.imread(out / "A01.labels.tif")
    before = pandas.read_csv(out / "A01.cells.csv")
    run(save_corrected(out, "A01", np.where(labels == 5, 0, labels)))
    after = pandas.read_csv(out / "A01.cells.csv")
    columns = [name for name in before if name != "label"]
    pandas.testing.assert_frame_equal(
        after[columns], before[before["label"] != 5][columns].reset_index(drop=True)
    )


def test_regions_and_a_further_image_still_count(images, tmp_path, shelved, blobs):
    mask = np.zeros(blobs.labels.shape, np.uint8)
    mask[:, 100:] = 1
    tifffile.imwrite(tmp_path / "A01_mask.tif", mask)
    tifffile.imwrite(tmp_path / "B02_mask.tif", mask)
    files = InputFiles(mask=str(tmp_path / "{name}_mask.tif"), other=(f"more={images / 'B02.tif'}",))
    out, recipe = tmp_path / "out", Recipe(files=files, analysis=MEASURED)
    outcomes = count(images, out, shelved, recipe)
    labels = found_in(out, "A01").cells.labels
    more = labels.copy()
    more[:4, :4] = more[:4, -4:] = 99  # one piece lies outside the mask
    more[:4, -4:] = 98
    outcome = run(save_corrected(out, "A01", more))
    assert outcome.row["count"] == outcomes["A01"].row["count"] + 1
    assert outcome.row["corrected"] == 1
    assert "1 cell outside the regions was left out" in outcome.row["notices"]
    assert "mean_intensity_mean_more" in outcome.row
    tifffile.imwrite(tmp_path / "A01_mask.tif", 1 - mask)
    with pytest.raises(ReadError, match="Count the folder again"):
        run(save_corrected(out, "A01", more))


def refused(out, error, words, name="A01", cells=None):
    """Nothing is written where corrections are refused."""
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    cells = np.zeros((160, 200), np.int32) if cells is None else cells
    with pytest.raises(error, match=words):
        run(save_corrected(out, name, cells))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_what_cannot_be_corrected_is_told(images, tmp_path, shelved):
    out = tmp_path / "out"
    count(images, out, shelved)
    refused(out, ReadError, "no count of 'C03'", "C03")
    refused(out, ReadError, "no count of 'D04'", "D04")
    refused(images, ReadError, "no count of 'A01'")
    assert sorted(path.name for path in images.iterdir()) == ["A01.tif", "B02.tif", "C03.tif"]
    refused(out, ImageError, "whole numbers", cells=np.full((160, 200), 0.5))
    refused(out, AxesError, "must fit the image", cells=np.zeros((8, 8), int))
    with only_run(out):
        refused(out, WriteError, "Another program")
    (out / "A01.labels.tif").write_bytes(b"edited elsewhere")
    refused(out, ReadError, "Count the folder again")
    (images / "B02.tif").rename(images / "moved")
    refused(out, ReadError, r"Expected .*B02.tif.*; there is none", "B02")


def test_no_image_has_the_name_of_what_is_kept_of_another(images, tmp_path, shelved):
    (images / "C03.tif").write_bytes((images / "A01.tif").read_bytes())
    (images / "C03.tif").rename(images / "A01.counted.tif")
    out = tmp_path / "out"
    count(images, out, shelved)
    refused(out, SettingsError, "beside A01.counted")
    run(save_corrected(out, "A01.counted", found_in(out, "B02").cells.labels))


def test_what_was_counted_block_by_block_is_not_corrected(images, tmp_path, shelved, monkeypatch):
    monkeypatch.setattr("cellwright.inference.image_count.LARGE_PIXELS", 1000)
    out = tmp_path / "out"
    count(images, out, shelved)
    assert (out / "A01.labels.zarr").exists()
    refused(out, SettingsError, "counted block by block")


def test_a_summary_that_is_open_elsewhere_is_told_and_follows_later(images, tmp_path, shelved, monkeypatch):
    out = tmp_path / "out"
    count(images, out, shelved)
    mine = corrected(found_in(out, "A01").cells.labels)
    old, put = (out / "summary.csv").read_bytes(), os.replace

    def locked(source, target):
        if Path(target).name == "summary.csv":
            raise PermissionError(13, "The process cannot access the file")
        put(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", locked)
        with pytest.raises(WriteError, match=r"cells of A01 are saved; .*Then save them again"):
            run(save_corrected(out, "A01", mine))
    assert (out / "summary.csv").read_bytes() == old
    assert same_cells(tifffile.imread(out / "A01.labels.tif"), mine)
    run(save_corrected(out, "A01", mine))
    assert pandas.read_csv(out / "summary.csv")["corrected"][0] == 3


def test_a_table_that_is_open_elsewhere_leaves_what_was_counted(images, tmp_path, shelved, monkeypatch):
    out, put = tmp_path / "out", os.replace
    count(images, out, shelved)
    mine = corrected(found_in(out, "A01").cells.labels)

    def locked(path, target):
        if path == out / "A01.json":  # the last
            raise PermissionError(13, "The process cannot access the file")
        return put(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", locked)
        refused(out, WriteError, "cannot access the file", cells=mine)
    assert run(save_corrected(out, "A01", mine)).row["corrected"] == 3


def test_a_full_disk_leaves_what_was_counted(images, tmp_path, shelved, monkeypatch):
    out = tmp_path / "out"
    count(images, out, shelved)
    mine = corrected(found_in(out, "A01").cells.labels)

    def full(*_):
        raise WriteError("no room")

    monkeypatch.setattr("cellwright.inference.image_count.write_provenance", full)
    refused(out, WriteError, "no room", cells=mine)
    assert not list(out.rglob("*.part"))


def test_a_summary_edited_by_hand_is_kept(images, tmp_path, shelved):
    out, told = tmp_path / "out", []
    count(images, out, shelved)
    (out / "summary.csv").write_text("mine")
    mine = corrected(found_in(out, "A01").cells.labels)
    run(save_corrected(out, "A01", mine, on_notice=told.append))
    assert "kept as summary.edited1.csv" in told[0]
    assert (out / "summary.edited1.csv").read_text() == "mine"
    assert pandas.read_csv(out / "summary.csv")["image"].tolist() == ["A01", "B02"]


KILLED = f"""
import os, shutil, sys
from pathlib import Path
import tifffile
from cellwright.core.tasks import run
from cellwright.inference.corrections import save_corrected
{KILL_LATER}
counted, killed = Path(sys.argv[1]), Path(sys.argv[2])
mine = tifffile.imread(counted.parent / "mine.tif")
for moment in range(0, 900, 11):
    output = killed / str(moment)
    shutil.copytree(counted, output)
    child = os.fork()
    if child == 0:
        kill_later(moment)
        run(save_corrected(output, "A01", mine))
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        print(moment)
        break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows starts no process as a copy of another")
def test_a_kill_at_any_moment_leaves_whole_files_and_loses_no_correction(images, tmp_path, shelved):
    counted = tmp_path / "counted"
    count(images, counted, shelved)
    machine = found_in(counted, "A01").cells.labels
    mine = corrected(machine)
    tifffile.imwrite(tmp_path / "mine.tif", mine)
    command = [sys.executable, "-c", KILLED, counted, tmp_path / "killed"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    assert int(done.stdout) > 30
    n_saved = []
    for output in (tmp_path / "killed").iterdir():
        there = output / "A01.labels.tif"
        was_there = there.exists() and same_cells(tifffile.imread(there), mine)
        outcomes = count(images, output, shelved)
        assert not list(output.rglob("*.part"))
        labels = [tifffile.imread(path) for path in output.glob("A01.labels*.tif")]
        assert any(same_cells(one, mine) for one in labels) >= was_there
        assert any(same_cells(one, machine) for one in labels)
        is_mine = same_cells(tifffile.imread(there), mine)
        assert outcomes["A01"].row.get("corrected") == (3 if is_mine else None)
        assert outcomes["A01"].row["count"] == len(np.unique(tifffile.imread(there))) - 1
        assert len(pandas.read_csv(output / "A01.cells.csv")) == outcomes["A01"].row["count"]
        n_saved.append(is_mine)
    assert True in n_saved
    assert False in n_saved
