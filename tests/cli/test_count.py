import gc
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
import tifffile
import zarr

import cellwright
from cellwright.__main__ import main
from cellwright.cli import count as count_module
from cellwright.cli.flags import refuse_foreign
from cellwright.core.errors import ReadError, SettingsError, WriteError
from cellwright.core.tasks import Progress
from cellwright.files.images import read_image
from cellwright.inference import image_count, pipeline
from cellwright.inference.image_count import counted_task
from cellwright.inference.recipe import as_command
from cellwright.inference.settings import EngineSettings
from cellwright.models import store
from cellwright.models.checkpoint import save_checkpoint
from cellwright.models.families.flow import build
from cellwright.models.fit import NOT_KNOWN
from cellwright.ops.geometry.intensity import ONE_INTENSITY

NO_FIT = "fit not known"  # the oracle has none

pytestmark = pytest.mark.usefixtures("oracle")


def test_the_table_has_a_row_per_image(cli, image_path, blobs):
    code, out, err = cli("count", image_path, image_path)
    heading, *rows = [line.split() for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert heading == ["image", "model", "count", "seconds"]
    assert [row[:3] for row in rows] == [[str(image_path), "flow", str(len(blobs))]] * 2
    assert all(float(row[3]) >= 0 for row in rows)


def test_an_address_is_shown_as_it_was_given(cli, image_path, blobs, monkeypatch):
    def images(path, axes):
        if "none" in str(path):
            raise ReadError("there is none")
        yield replace(read_image(image_path), name="a", notices=("a guess",))

    monkeypatch.setattr(count_module, "read_images", images)
    code, out, err = cli("count", "s3://lab/a.zarr", "https://lab.org/none.zarr")
    assert (code, out.splitlines()[1].split()[:3]) == (1, ["s3://lab/a.zarr", "flow", str(len(blobs))])
    assert err.splitlines()[:2] == [
        "note: s3://lab/a.zarr: a guess", "error: https://lab.org/none.zarr: there is none"
    ]  # fmt: skip


def test_json_has_an_object_per_image(cli, image_path, blobs):
    code, out, _ = cli("count", image_path, image_path, "--json", "--device", "cpu")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert len(found) == 2
    assert list(found[0]) == ["image", "model", "count", "expectation", "seconds", "device"]
    assert found[0] | {"seconds": 0} == {
        "image": str(image_path),
        "model": "flow",
        "count": len(blobs),
        "expectation": f"{NOT_KNOWN}: flow has no fit.",
        "seconds": 0,
        "device": "cpu",
    }


def test_no_garbage_is_looked_for_while_modules_and_networks_load(cli, image_path, oracle_model, monkeypatch):
    seen, n_frozen = [], gc.get_freeze_count()

    def load(name):
        seen.append(gc.isenabled())
        return oracle_model

    monkeypatch.setattr(store, "load", load)
    assert cli("count", image_path).code == 0
    assert not seen[0]
    assert gc.isenabled()
    assert gc.get_freeze_count() > n_frozen  # which the end of the program does not go through


@pytest.mark.parametrize(
    ("fit", "words"),
    [(0.91, "about 9 of 10 right"), (0.99, "nearly all right"), (0.1, "unlike anything learned")],
)
def test_how_well_it_went_stands_beside_the_number(cli, image_path, oracle_model, monkeypatch, fit, words):
    monkeypatch.setattr(oracle_model, "fit", SimpleNamespace(expected_f1=lambda facts: fit, closer_below=0.0))
    _, out, err = cli("count", image_path)
    assert out.splitlines()[1].endswith(words)
    assert ("unlike anything this model has learned" in err) == (fit < 0.5)
    found = json.loads(cli("count", image_path, "--json").out)
    assert found["fit"] == fit
    assert found["expectation"]
    assert (
        cli("count", image_path.parent, "--output", image_path.parent.parent / "results")
        .out.splitlines()[1]
        .endswith(words)
    )
    summary = pandas.read_csv(image_path.parent.parent / "results" / "summary.csv")
    assert summary["fit"].tolist() == [fit]


def test_where_a_model_has_no_fit_that_is_said(cli, image_path):
    """In the table, in JSON, in the summary of a folder, its report and of what is counted again."""
    results = image_path.parent.parent / "results"
    words = "It is not known how good the count is"
    assert cli("count", image_path).out.splitlines()[1].endswith(NO_FIT)
    found = json.loads(cli("count", image_path, "--json").out)
    assert found["expectation"].startswith(words)
    assert "fit" not in found
    folder = ("count", image_path.parent, "--output", results, "--report", results / "report.html")
    for _ in range(2):  # the second time as it was counted before
        assert cli(*folder).out.splitlines()[1].endswith(NO_FIT)
        summary = pandas.read_csv(results / "summary.csv")
        assert "fit" not in summary
        assert summary["expectation"].str.startswith(words).all()
        assert "images whose fit is not known" in (results / "report.html").read_text()


def test_results_of_the_longest_name_are_written_as_those_of_a_folder(cli, image_path, tmp_path):
    folder, alone, together = (tmp_path / name for name in ("in", "alone", "together"))
    folder.mkdir()
    long = folder / f"{'ü' * 120}.tif"  # 244 of the 255 bytes that a name can have
    long.write_bytes(image_path.read_bytes())
    assert cli("count", long, "--output", alone).code == 0
    assert cli("count", folder, "--output", together).code == 0
    names = {path.name for path in together.glob("ü*")}
    assert len(names) == 3
    assert {path.name for path in alone.glob("ü*")} == names


def test_output_holds_labels_table_and_provenance(cli, image_path, blobs, tmp_path):
    folder = tmp_path / "new" / "results"
    assert cli("count", image_path, "--output", folder).code == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "discs.cells.csv",
        "discs.json",
        "discs.labels.tif",
    ]
    labels = read_image(folder / "discs.labels.tif")
    assert (labels.data.dtype, labels.shape, labels.pixel_size_um) == (
        np.int32,
        blobs.labels.shape,
        (0.5, 0.5),
    )
    np.testing.assert_array_equal(labels.data > 0, blobs.labels > 0)
    table = pandas.read_csv(folder / "discs.cells.csv")
    assert list(table["label"]) == list(range(1, len(blobs) + 1))
    row = table.iloc[3]
    assert labels.data[int(row["y"]), int(row["x"])] == 4
    assert row["area_um2"] == pytest.approx(row["area_px"] / 4)
    values = json.loads((folder / "discs.json").read_text())
    assert (values["count"], values["model"], values["axes"]) == (len(blobs), "flow", "YX")


def test_labels_changed_by_hand_are_kept(cli, image_path, blobs, tmp_path):
    folder, images = tmp_path / "o", tmp_path / "in"
    images.mkdir()
    image_path = image_path.rename(images / image_path.name)
    for _ in range(2):
        assert "changed" not in cli("count", image_path, "--output", folder).err
    labels = read_image(folder / "discs.labels.tif").read()
    tifffile.imwrite(folder / "discs.labels.tif", labels * (labels != 1))
    code, _, err = cli("count", image_path, "--output", folder, "--measure", "shape")
    assert (code, "kept as discs.labels.edited1.tif" in err) == (0, True), err
    assert len(np.unique(read_image(folder / "discs.labels.edited1.tif").read())) == len(blobs)
    np.testing.assert_array_equal(read_image(folder / "discs.labels.tif").read(), labels)
    with (folder / "discs.cells.csv").open("a") as table:
        table.write("99,1\n")
    tifffile.imwrite(folder / "discs.labels.tif", labels * 0)
    assert cli("count", images, "--output", folder).code == 0  # of a folder, too
    assert (folder / "discs.labels.edited2.tif").exists()
    assert (folder / "discs.cells.edited1.csv").exists()


@pytest.mark.parametrize("way", ["alone", "folder", "stream"])
def test_files_that_no_count_is_known_to_have_written_are_kept(cli, blobs, tmp_path, way):
    folder, source = tmp_path / "o", tmp_path / "in" / "discs.zarr"
    zarr.create_array(source, data=(blobs.image * 200).astype(np.uint8), chunks=(64, 64))
    asked = ("count", source.parent if way == "folder" else source, "--output", folder)
    asked += ("--xlsx",) if way == "alone" else ()
    asked += ("--stream",) if way == "stream" else ()
    endings = ["labels.zarr" if way == "stream" else "labels.tif", "cells.csv", "json"]
    endings += ["xlsx"] if way == "alone" else []
    folder.mkdir()
    mine = '{"shapes": [], "imagePath": "discs.tif"}'
    for ending in endings:
        place = folder / f"discs.{ending}"
        if place.suffix == ".zarr":
            place.mkdir()
            place = place / "mine"
        place.write_text(mine)
    (folder / "discs.more.csv").write_text(mine)  # which no count writes
    code, _, err = cli(*asked)
    told = (folder / "summary.csv").read_text() if way == "folder" else err
    assert (code, told.count("was not written by a count that is known; it is kept as")) == (0, len(endings))
    for ending in endings:
        stem, _, suffix = f"discs.{ending}".rpartition(".")
        kept = folder / f"{stem}.edited1.{suffix}"
        assert (kept / "mine" if suffix == "zarr" else kept).read_text() == mine
    assert (folder / "discs.more.csv").read_text() == mine
    for _ in range(2):  # what it wrote then is known
        code, _, err = cli(*asked, "--measure", "shape")
        assert (code, "known" in err) == (0, False)
        assert not list(folder.glob("*.edited2.*"))
    assert not list(folder.rglob("*begun"))


def test_labels_of_a_version_that_noted_nothing_are_kept(cli, image_path, tmp_path):
    assert cli("count", image_path, "--output", tmp_path / "o").code == 0
    record = tmp_path / "o" / "discs.json"
    facts = json.loads(record.read_text())
    del facts["checksums"]
    record.write_text(json.dumps(facts))
    (tmp_path / "o" / "discs.labels.tif").write_text("edited by hand")
    assert "discs.labels.edited1.tif" in cli("count", image_path, "--output", tmp_path / "o").err
    assert (tmp_path / "o" / "discs.labels.edited1.tif").read_text() == "edited by hand"
    assert not (tmp_path / "o" / "discs.edited1.json").exists()


def test_settings_are_flags(cli, image_path, tmp_path):
    flags = ["--min-area", 20, "--cell-probability", 0.6, "--exclude-border", "--tile", 128, "--channel", 0]
    assert cli("count", image_path, "--output", tmp_path, *flags).code == 0
    settings = json.loads((tmp_path / "discs.json").read_text())["settings"]
    assert settings["flow"]["min_area_px"] == 20
    assert settings["flow"]["cell_probability"] == 0.6
    assert settings["flow"]["exclude_border"] is True
    assert (settings["engine"]["tile_px"], settings["engine"]["channel"]) == (128, 0)


def test_settings_change_the_count(cli, image_path):
    assert json.loads(cli("count", image_path, "--json", "--min-area-px", 100_000).out)["count"] == 0


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("--axes", "TYX"), {"frames": 3}),
        (("--axes", "ZYX", "--no-link"), {"slices": 3}),
        (("--axes", "ZYX"), {}),
        (("--axes", "CYX", "--channel", 0), {}),
    ],
)
def test_frames_and_slices_that_a_count_sums_are_told(cli, tmp_path, draw_blobs, asked, told):
    """In JSON, in the table for people, and in the summary of a folder, also of what was counted before."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.tif"
    tifffile.imwrite(path, np.stack([draw_blobs((60, 60)).image] * 3), photometric="minisblack")
    for way in ((), ("--stream", "--output", tmp_path / "blocks")):
        row = json.loads(cli("count", path, "--json", *asked, *way).out)
        assert {name: row[name] for name in ("frames", "slices") if name in row} == told
    words = "".join(f"in {n} {name} · " for name, n in told.items()) + NO_FIT
    assert ("in 3 " in cli("count", path, *asked).out) == bool(told)
    for _ in range(2):
        line = cli("count", path.parent, *asked, "--output", tmp_path / "out").out.splitlines()[1]
        assert line.endswith(words)
        summary = pandas.read_csv(tmp_path / "out" / "summary.csv")
        assert summary.loc[0, [*told]].to_dict() == told
        assert {"frames", "slices"} & {*summary} == {*told}


@pytest.mark.parametrize(("shape", "told"), [((2, 3), "in 2 frames of 3 slices"), ((1, 3), "in 3 slices")])
def test_slices_within_frames_are_told_too(cli, tmp_path, draw_blobs, shape, told):
    plane = draw_blobs((60, 60)).image
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.broadcast_to(plane, (*shape, *plane.shape)), photometric="minisblack")
    for way in ((), ("--stream", "--output", tmp_path / "blocks")):
        assert (
            cli("count", path, "--axes", "TZYX", "--no-link", *way)
            .out.rstrip()
            .endswith(f"{told} · {NO_FIT}")
        )


def test_axes_and_channel_are_those_asked_for(cli, tmp_path, blobs):
    data = np.stack([np.zeros_like(blobs.image), blobs.image])
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="minisblack")
    code, out, err = cli("count", tmp_path / "a.tif", "--json", "--axes", "cyx")
    assert (code, json.loads(out)["count"]) == (0, 0)
    assert "channel 0 of 2" in err
    assert json.loads(cli("count", tmp_path / "a.tif", "--json", "--channel", 1).out)["count"] == len(blobs)
    assert json.loads(cli("count", tmp_path / "a.tif", "--json", "--axes", "TYX").out)["count"] == len(blobs)


@pytest.mark.usefixtures("oracle")
def test_the_colour_that_was_chosen_is_named(cli, tmp_path, blobs):
    colours = np.stack([blobs.image * 200] * 3, axis=-1).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb")
    assert "Counted in its green alone, channel 1." in cli("count", tmp_path / "a.tif", "--channel", 1).err
    assert "alone" not in cli("count", tmp_path / "a.tif").err


def test_several_models_are_averaged(cli, image_path, blobs, oracle):
    code, out, _ = cli("count", image_path, "--model", "flow", "--model", "other", "--json")
    assert code == 0
    assert set(oracle) == {"flow", "other"}
    found = json.loads(out)
    assert (found["model"], found["count"]) == ("flow + other", len(blobs))


def write_bad_images(folder):
    """Every bad file that a folder of images may hold, and a word of what is said about it."""
    whole = folder / "whole.tif"
    tifffile.imwrite(whole, np.ones((64, 64), np.uint16))
    (folder / "cut.tif").write_bytes(whole.read_bytes()[:2000])
    (folder / "text.tif").write_text("Dear reader, this is no image.")
    (folder / "folder.tif").mkdir()
    tifffile.imwrite(folder / "nan.tif", np.full((64, 64), np.nan, np.float32))
    np.save(folder / "empty.npy", np.zeros((0, 64)))
    np.save(folder / "line.npy", np.zeros(64))
    tifffile.imwrite(folder / "complex.tif", np.ones((64, 64), np.complex64))
    return {
        "absent.tif": "there is none",
        "cut.tif": "cut short",
        "text.tif": "not an image",
        "folder.tif": "another folder",
        "nan.tif": "finite",
        "empty.npy": "empty",
        "line.npy": "dimensions",
        "complex.tif": "complex",
    }


def test_bad_images_fail_with_a_word_and_the_others_are_done(cli, image_path, blobs, tmp_path):
    bad = write_bad_images(tmp_path)
    code, out, err = cli("count", *[tmp_path / name for name in bad], image_path, "--json")
    assert code == 1
    assert [json.loads(line)["count"] for line in out.splitlines()] == [len(blobs)]
    lines = err.splitlines()
    for name, word in bad.items():
        assert [word in line for line in lines if f"error: {tmp_path / name}:" in line] == [True], name
    assert lines[-1] == f"{len(bad)} of {len(bad) + 1} images failed."
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (np.zeros((64, 64), np.uint8), ONE_INTENSITY),
        (np.full((64, 64), 7, np.uint16), ONE_INTENSITY),
        (np.ones((1, 1), np.uint8), ONE_INTENSITY),
        (np.where(np.eye(64, dtype=bool), np.inf, 0).astype(np.float32), "1.6% of the pixels are NaN"),
    ],
    ids=["zero", "constant", "one pixel", "infinite"],
)
def test_images_without_cells_give_zero(cli, tmp_path, data, told):
    np.save(tmp_path / "a.npy", data)
    code, out, err = cli("count", tmp_path / "a.npy", "--json", "--output", tmp_path / "out")
    assert code == 0
    assert told in err
    assert json.loads(out)["count"] == 0
    assert read_image(tmp_path / "out" / "a.labels.tif", axes="YX").shape == data.shape


def test_an_image_that_changes_while_it_is_counted_is_no_result(cli, image_path, tmp_path, monkeypatch):
    def changing(image, choices):
        with image_path.open("ab") as file:
            file.write(b"more")
        return counted_task(image, choices)

    monkeypatch.setattr(count_module, "counted_task", changing)
    code, out, err = cli("count", image_path, "--output", tmp_path / "out")
    assert (code, out, "was changed while it was counted" in err) == (1, "", True), err
    assert not list((tmp_path / "out").iterdir())


def test_a_failure_of_another_kind_is_named_without_traceback(cli, image_path, monkeypatch):
    def fail(*_args):
        yield Progress("tiles", 0, 1)
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(pipeline, "count_cells", fail)
    code, out, err = cli("count", image_path)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {image_path}: RuntimeError: CUDA error")
    assert "Traceback" not in err


def test_a_device_that_is_not_there_is_refused_at_once(cli, image_path):
    code, out, err = cli("count", image_path, "--device", "cuda:77")
    assert (code, out) == (1, "")
    assert err.startswith("error: Device must be")
    assert err.count("error") == 1


@pytest.mark.parametrize(
    "flags",
    [["--min-score", "2"], ["--tile", "1"], ["--precision", "half"], ["--channel", "red"], ["--no-such"]],
)
def test_a_flag_out_of_range_is_a_usage_error(cli, image_path, flags):
    code, out, err = cli("count", image_path, *flags)
    assert (code, out) == (2, "")
    assert flags[0] in err


def test_a_file_in_place_of_the_output_folder_is_refused_at_once(cli, image_path, oracle):
    code, out, err = cli("count", image_path, "--output", image_path)
    assert (code, out, oracle) == (1, "", [])
    assert err.startswith("error: Expected to write")


def test_a_read_only_output_folder_is_refused_at_once(cli, image_path, tmp_path, monkeypatch):
    def refuse(*_args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    code, out, err = cli("count", image_path, "--output", tmp_path)
    assert (code, out) == (1, "")
    assert "Permission denied" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["discs.tif"]


def test_a_full_disk_does_not_lose_the_count(cli, image_path, blobs, tmp_path, monkeypatch):
    def full(*_args):
        raise WriteError("No space left on device.")

    monkeypatch.setattr(image_count, "write_table", full)
    code, out, err = cli("count", image_path, "--json", "--output", tmp_path)
    assert (code, json.loads(out)["count"]) == (1, len(blobs))
    assert "No space left" in err


def test_two_images_of_one_name_do_not_overwrite_each_other(cli, image_path, tmp_path, oracle):
    other = tmp_path / "other" / image_path.name
    other.parent.mkdir()
    other.write_bytes(image_path.read_bytes())
    code, out, err = cli("count", image_path, other, "--output", tmp_path / "out")
    assert (code, out, oracle) == (1, "", [])
    assert "discs" in err
    assert not (tmp_path / "out").exists()
    assert cli("count", image_path, other).code == 0


@pytest.mark.parametrize(
    ("flags", "second"),
    [
        (["--xlsx"], "other/discs.tif"),
        (["--report", "report.html"], "other/discs.tif"),
        (["--report", "report.html", "--output", "out"], "other/discs.tif"),
        (["--stream"], "discs.npy"),
    ],
)
def test_no_files_of_a_run_replace_those_of_another_image(cli, tmp_path, monkeypatch, flags, second):
    monkeypatch.chdir(tmp_path)
    first, other = tmp_path / "discs.tif", tmp_path / second
    other.parent.mkdir(exist_ok=True)
    tifffile.imwrite(first, np.zeros((32, 32), np.uint8))
    with other.open("wb") as file:
        save = {".npy": np.save, ".tif": tifffile.imwrite}[other.suffix]
        save(file, np.zeros((32, 40), np.uint8))
    code, _, err = cli("count", first, other, *flags)
    assert code == 1
    assert "occurs more than once" in err
    assert cli("count", first, other).code == 0  # nothing is written


def test_a_setting_of_another_family_is_refused():
    with pytest.raises(SettingsError, match="--min-area"):
        refuse_foreign({"min_area_px": 3, "flips": None, "channel": 0}, EngineSettings)


def test_an_interrupt_ends_the_run_and_frees_the_task(cli, image_path, monkeypatch):
    freed = []

    def interrupted(*_args):
        try:
            yield Progress("tiles", 0, 2)
            raise KeyboardInterrupt
        finally:
            freed.append(True)

    monkeypatch.setattr(pipeline, "count_cells", interrupted)
    code, out, err = cli("count", image_path, image_path)
    assert (code, out, freed) == (130, "", [True])
    assert err == "Cancelled; 0 of 2 images were counted.\n"


def test_an_interrupt_while_writing_leaves_no_half_file(cli, image_path, tmp_path, monkeypatch):
    def interrupted(part, *_args, **_keywords):
        part.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(tifffile, "imwrite", interrupted)
    assert cli("count", image_path, "--output", tmp_path / "out").code == 130
    assert list((tmp_path / "out").iterdir()) == []


def test_a_terminal_gets_a_bar_on_stderr_alone(cli, image_path, blobs, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    code, out, _ = cli("count", image_path, "--json")
    assert (code, json.loads(out)["count"]) == (0, len(blobs))
    assert "[1/1] discs.tif" in terminal.getvalue()
    assert "%" in terminal.getvalue()


def test_names_that_a_file_cannot_take_are_printed_in_its_own_way(image_path, monkeypatch):
    """On Windows what is printed goes into files in the encoding of its language."""
    path = image_path.rename(image_path.with_name("клетки µ.tif"))
    out = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", out)
    with pytest.raises(SystemExit) as ended:
        main(["count", str(path)])
    out.flush()
    assert not ended.value.code
    assert r"\u043a\u043b\u0435\u0442\u043a\u0438 µ.tif" in out.buffer.getvalue().decode("cp1252")


@pytest.mark.skipif(os.name == "nt", reason="no program can press Ctrl-C for another there")
def test_control_c_in_a_real_process(tmp_path, image_path):
    save_checkpoint(tmp_path / "model", build("small"))
    command = [
        sys.executable,
        "-m",
        "cellwright",
        "count",
        *[str(image_path)] * 2000,
        "--model",
        tmp_path / "model",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("image")
        process.stdout.readline()
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.startswith("Cancelled; ")
    assert "Traceback" not in err


def test_cells_get_classes(cli, image_path, blobs, tmp_path):
    code, out, _ = cli("count", image_path, "--classifier", "blood", "--output", tmp_path, "--json")
    row = json.loads(out)
    assert code == 0
    assert set(row["classes"]) == {"RBC", "WBC", "Platelet"}
    assert sum(row["classes"].values()) == row["count"] == len(blobs)
    table = pandas.read_csv(tmp_path / "discs.cells.csv")
    assert table["class"].value_counts().to_dict() == {k: n for k, n in row["classes"].items() if n}
    _, out, _ = cli("count", image_path, "--classifier", "blood")
    assert [line.split()[0] for line in out.splitlines()[2:]] == list(row["classes"])


def test_an_unknown_classifier_stops_the_run_at_once(cli, image_path, oracle):
    code, out, err = cli("count", image_path, "--classifier", "nothing")
    assert (code, out) == (1, "")
    assert "nothing" in err


def test_every_image_of_a_file_is_counted(cli, image_path, blobs, tmp_path):
    pixels = tifffile.imread(image_path)
    with tifffile.TiffWriter(tmp_path / "two.tif") as tiff:
        tiff.write(pixels, metadata=None)
        tiff.write(pixels[:-10], metadata=None)
    code, out, err = cli("count", tmp_path / "two.tif", "--json", "--output", tmp_path / "out")
    rows = [json.loads(line) for line in out.splitlines()]
    names = [row["image"].rpartition("/")[2] for row in rows]
    assert (code, err, len(set(names))) == (0, "", 2)
    assert rows[0]["count"] == len(blobs)
    assert all((tmp_path / "out" / f"{name}.labels.tif").exists() for name in names)


def test_what_was_guessed_is_said(cli, image_path, tmp_path):
    np.save(tmp_path / "a.npy", tifffile.imread(image_path)[..., np.newaxis])
    code, _, err = cli("count", tmp_path / "a.npy")
    assert code == 0
    assert "YXC was guessed from the shape" in err


def test_a_diameter_in_micrometres_is_that_in_pixels(cli, oracle, image_path, tmp_path):
    def counted(*flags):
        code, out, err = cli("count", image_path, "--json", "--output", tmp_path / "out", *flags)
        assert code == 0, err
        settings = json.loads((tmp_path / "out" / "discs.json").read_text())["settings"]
        return json.loads(out)["count"], settings["zoom"], settings["engine"]["diameter_um"]

    in_pixels = counted("--diameter", 100, "--save-settings", tmp_path / "s.json")
    assert in_pixels[1] == pytest.approx(0.24)
    in_um = counted("--diameter-um", 50, "--settings", tmp_path / "s.json")  # goes before the saved one
    assert in_um == (*in_pixels[:2], 50.0)
    result = cellwright.count(image_path, engine=EngineSettings(diameter_um=50))
    assert (result.count, result.provenance.settings["zoom"]) == in_pixels[:2]
    assert "--diameter-um 50" in as_command(result)
    tifffile.imwrite(tmp_path / "bare.tif", np.zeros((40, 40), np.uint16))
    code, _, err = cli("count", tmp_path / "bare.tif", "--diameter-um", 50)
    assert (code, "needs the pixel size" in err) == (1, True)
    assert cli("count", tmp_path / "bare.tif", "--diameter-um", 50, "--pixel-size", "0.5,0.5").code == 0
    assert cli("count", image_path, "--diameter-um", 50, "--diameter", 9).code == 1
