import json
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
import tifffile
import zarr

from cellwright.cli import count as count_module
from cellwright.core.tasks import run
from cellwright.inference import image_count
from cellwright.inference.corrections import save_corrected


@pytest.fixture
def plate(tmp_path, blobs):
    folder = tmp_path / "plate"
    folder.mkdir()
    for name in ("A01_s1", "A01_s2", "B02_s1"):
        tifffile.imwrite(folder / f"{name}.tif", (blobs.image * 200).astype(np.uint8))
    return folder


def test_a_folder_is_counted_with_a_summary(cli, oracle, plate, tmp_path, blobs):
    done = cli("count", plate, "--output", tmp_path / "out", "--plate", "{well}_s{site}", "--json")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [(row["well"], row["site"], row["count"]) for row in rows] == [
        ("A01", "1", len(blobs)),
        ("A01", "2", len(blobs)),
        ("B02", "1", len(blobs)),
    ]
    summary = pandas.read_csv(tmp_path / "out" / "summary.csv")
    assert list(summary["well"]) == ["A01", "A01", "B02"]
    assert len(pandas.read_parquet(tmp_path / "out" / "cells.parquet")) == 3 * len(blobs)
    assert (tmp_path / "out" / "B02_s1.labels.tif").exists()


def test_headings_stand_above_their_columns(cli, oracle, plate, tmp_path):
    done = cli("count", plate, "--output", tmp_path / "out")
    heading, *rows = done.out.splitlines()
    assert len(rows) == 3
    for row in rows:
        words = row.split()
        assert row.index(f" {words[1]} ") == heading.index(" model ")
        assert row.index(words[2]) + len(words[2]) == heading.index("count") + len("count")


def test_the_same_command_goes_on(cli, oracle, plate, tmp_path):
    command = ("count", plate, "--output", tmp_path / "out")
    first = cli(*command)
    again = cli(*command)
    assert again.code == 0
    assert again.out.count("earlier") == 3
    other = cli(*command, "--min-area", "3")
    assert "earlier" not in other.out
    assert len(first.out.splitlines()) == len(other.out.splitlines()) == 4


def test_a_corrected_image_is_told_and_kept(cli, oracle, plate, tmp_path, blobs):
    command = ("count", plate, "--output", tmp_path / "out")
    cli(*command)
    run(save_corrected(tmp_path / "out", "A01_s2", np.where(blobs.labels < 3, 0, blobs.labels)))
    again = cli(*command)
    assert again.out.count("earlier") == 3
    (line,) = (line for line in again.out.splitlines() if "A01_s2" in line)
    assert f"{len(blobs) - 2}  earlier  2 corrected by hand" in line
    assert pandas.read_csv(tmp_path / "out" / "summary.csv")["count"][1] == len(blobs) - 2
    other = cli(*command, "--min-area", "3")
    assert "A01_s2.labels.tif was changed since it was counted; it is kept as" in other.err


def test_a_command_corrects_as_python_does(cli, oracle, plate, tmp_path, blobs):
    right = np.where(blobs.labels < 3, 0, blobs.labels)
    right[:3, :3] = right.max() + 1
    tifffile.imwrite(tmp_path / "right.tif", right.astype(np.uint16))
    by_python, by_command = tmp_path / "python", tmp_path / "command"
    cli("count", plate, "--output", by_python)
    shutil.copytree(by_python, by_command)
    run(save_corrected(by_python, "A01_s2", right))
    done = cli("correct", by_command, "A01_s2", tmp_path / "right.tif")
    assert done.out == f"A01_s2  {len(blobs) - 1} cells, 3 corrected by hand\n", done.err
    for name in ("A01_s2.cells.csv", "A01_s2.cells.counted.csv", "summary.csv"):
        assert (by_command / name).read_text() == (by_python / name).read_text()
    for name in ("A01_s2.labels.tif", "A01_s2.labels.counted.tif"):
        assert (tifffile.imread(by_command / name) == tifffile.imread(by_python / name)).all()


@pytest.mark.parametrize("pixels", ["mask", "light"])
def test_what_is_no_image_of_labels_is_told(cli, oracle, plate, tmp_path, blobs, pixels):
    """A mask is one cell to a program, and an image of light thousands."""
    cli("count", plate, "--output", tmp_path / "out")
    light = (blobs.image * 200).astype(np.uint8)
    given = light if pixels == "light" else ((blobs.labels > 0) * 255).astype(np.uint8)
    tifffile.imwrite(tmp_path / "given.tif", given)
    done = cli("correct", tmp_path / "out", "A01_s2", tmp_path / "given.tif")
    n = len(np.unique(given[given > 0]))
    assert f"A01_s2  {n} cell{'s' * (n != 1)}, " in done.out
    assert "Number the cells one by one." in done.err
    assert "one by one" in pandas.read_csv(tmp_path / "out" / "summary.csv")["notices"][1]


def test_of_several_images_of_labels_the_one_taken_is_told(cli, oracle, plate, tmp_path, blobs):
    cli("count", plate, "--output", tmp_path / "out")
    with tifffile.TiffWriter(tmp_path / "two.ome.tif", ome=True) as file:
        for labels in (blobs.labels, np.zeros_like(blobs.labels)):
            file.write(labels.astype(np.uint16), metadata={"axes": "YX"})
    done = cli("correct", tmp_path / "out", "A01_s2", tmp_path / "two.ome.tif")
    assert done.out == f"A01_s2  {len(blobs)} cells, 0 corrected by hand\n"
    assert "two.ome.tif holds several images; this is the first" in done.err


@pytest.mark.parametrize(
    ("image", "labels", "words"),
    [
        ("A09", "right.tif", "A09"),
        ("A01_s2", "none.tif", "Check the path"),
        ("A01_s2", "small.tif", "must fit the image"),
    ],
)
def test_what_cannot_be_corrected_is_one_line(cli, oracle, plate, tmp_path, blobs, image, labels, words):
    cli("count", plate, "--output", tmp_path / "out")
    tifffile.imwrite(tmp_path / "right.tif", blobs.labels.astype(np.uint16))
    tifffile.imwrite(tmp_path / "small.tif", blobs.labels[:9].astype(np.uint16))
    done = cli("correct", tmp_path / "out", image, tmp_path / labels)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert words in done.err
    assert not list((tmp_path / "out").glob("*.counted.*"))


def test_what_fails_is_told_and_the_rest_is_counted(cli, oracle, plate, tmp_path):
    (plate / "broken.tif").write_bytes(b"II*\0")
    (plate / "empty.png").write_bytes(b"")
    done = cli("count", plate, "--output", tmp_path / "out")
    assert done.code == 1
    for words in ("broken.tif", "empty.png", "2 of the images failed"):
        assert words in done.err
    assert pandas.read_csv(tmp_path / "out" / "summary.csv")["count"].notna().sum() == 3


def test_four_bad_images_of_fifty_are_told_and_the_rest_is_counted(
    cli, oracle, plate, tmp_path, blobs, monkeypatch
):
    for number in range(43):
        shutil.copy(plate / "A01_s1.tif", plate / f"{number}.tif")
    tifffile.imwrite(plate / "other shape.tif", (blobs.image[:40] * 200).astype(np.uint8))
    (plate / "corrupt.tif").write_bytes((plate / "0.tif").read_bytes()[:-500])
    (plate / "empty.tif").write_bytes(b"")
    np.save(plate / "line.npy", np.zeros(7))
    opened = tifffile.TiffFile

    def refuses(path, *arguments, **named):
        if Path(path).stem == "0":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **named)

    monkeypatch.setattr(tifffile, "TiffFile", refuses)
    done = cli("count", plate, "--output", tmp_path / "out")
    assert done.code == 1
    assert "Traceback" not in done.err
    rows = pandas.read_csv(tmp_path / "out" / "summary.csv").set_index("image")
    errors = rows["error"].dropna()
    reasons = {"corrupt": "cut short", "empty": "empty", "line": "axes", "0": "Permission denied"}
    assert set(errors.index) == set(reasons)
    for name, reason in reasons.items():
        assert reason in errors[name]
        assert f"{name}." in done.err
        assert not list((tmp_path / "out").glob(f"{name}.*"))
    assert (rows["count"].drop([*reasons, "other shape"]) == len(blobs)).all()
    assert len(rows) == 50


def test_measurements_come_along(cli, oracle, plate, tmp_path):
    done = cli("count", plate, "--output", tmp_path / "out", "--measure", "intensity")
    assert done.code == 0, done.err
    cells = pandas.read_parquet(tmp_path / "out" / "cells.parquet")
    assert cells.filter(like="intensity_mean").notna().all(axis=None)


def test_markers_and_regions_of_each_image_come_along(cli, oracle, plate, tmp_path, blobs):
    for name in ("A01_s1", "A01_s2", "B02_s1"):
        mask = np.zeros(blobs.labels.shape, np.uint8)
        mask[:, : 100 if name == "A01_s1" else None] = 1
        tifffile.imwrite(tmp_path / f"{name}_mask.tif", mask)
    inside = int((np.rint(blobs.points[:, 1]) < 100).sum())
    command = ("count", plate, "--output", tmp_path / "out", "--positive", "0>100", "--mask")
    done = cli(*command, tmp_path / "{name}_mask.tif", "--json")
    assert done.code == 0, done.err
    assert [json.loads(line)["count"] for line in done.out.splitlines()] == [inside, len(blobs), len(blobs)]
    summary = pandas.read_csv(tmp_path / "out" / "summary.csv")
    assert list(summary["count_ch0+"]) == [inside, len(blobs), len(blobs)]
    tifffile.imwrite(tmp_path / "A01_s1_mask.tif", np.ones(blobs.labels.shape, np.uint8))
    again = cli(*command, tmp_path / "{name}_mask.tif", "--json")
    rows = [json.loads(line) for line in again.out.splitlines()]
    assert {row["image"].rpartition("/")[2]: row["counted_before"] for row in rows} == {
        "A01_s2.tif": True,
        "B02_s1.tif": True,
        "A01_s1.tif": False,
    }
    assert all(row["count"] == len(blobs) for row in rows)


def test_movies_are_tracked_and_tracked_anew(cli, oracle, tmp_path, draw_blobs):
    one = draw_blobs((60, 60)).image
    (tmp_path / "movies").mkdir()
    movie = np.stack([np.roll(one, step, axis=1) * 60_000 for step in (0, 2)]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "movies" / "a.tif", movie, photometric="minisblack")
    command = ("count", tmp_path / "movies", "--axes", "TYX", "--track", "--output", tmp_path / "out")
    done = cli(*command, "--report", tmp_path / "report.html")
    assert done.code == 0, done.err
    summary = pandas.read_csv(tmp_path / "out" / "summary.csv")
    assert 2 * summary["tracks"][0] == summary["count"][0] > 4
    assert (tmp_path / "report.html").exists()
    table = tmp_path / "out" / "a_RES" / "res_track.txt"
    before = table.read_text()
    (tmp_path / "out" / "a.cells.csv").unlink()
    assert "earlier" not in cli(*command).out  # what is not whole is made anew
    assert table.read_text() == before


def test_folders_need_an_output_beside_them(cli, oracle, plate):
    assert "with --output" in cli("count", plate).err
    assert "name it with --output" in cli("count", plate, "--watch").err
    assert "Leave --stream" in cli("count", plate, "--output", plate.parent / "out", "--stream").err
    assert "must not go into" in cli("count", plate, "--output", plate / "results").err


def test_new_images_are_counted_while_it_watches(cli, oracle, plate, tmp_path, monkeypatch, blobs):
    looks = []

    def wait(_):
        looks.append(len(list((tmp_path / "out").glob("*.json"))))
        if len(looks) == 3:
            tifffile.imwrite(plate / "C03_s1.tif", (blobs.image * 200).astype(np.uint8))
        if len(looks) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(count_module.time, "sleep", wait)
    done = cli("count", plate, "--output", tmp_path / "out", "--watch")
    assert done.code == 130
    assert looks[0] == 0  # whether a file still grows is known at the second look
    assert looks[2] == 3
    assert looks[-1] == 4
    assert done.out.count("C03_s1") == 1


def test_what_changes_while_it_watches_is_counted_anew(cli, oracle, plate, tmp_path, monkeypatch, blobs):
    """A file that is copied slowly, with a rest longer than between two looks, and one that is replaced."""
    whole = tmp_path / "whole.tif"
    tifffile.imwrite(whole, (blobs.image * 200).astype(np.uint8))
    content, looks = whole.read_bytes(), []

    def wait(_):
        looks.append(len(looks))
        if len(looks) == 3:
            (plate / "C03_s1.tif").write_bytes(content[: len(content) // 2])
            (plate / "A01_s1.tif").write_bytes(b"no image")
        if len(looks) == 6:
            (plate / "C03_s1.tif").write_bytes(content)
            tifffile.imwrite(plate / "A01_s1.tif", np.zeros((60, 60), np.uint8))
        if len(looks) == 9:
            raise KeyboardInterrupt

    monkeypatch.setattr(count_module.time, "sleep", wait)
    done = cli("count", plate, "--output", tmp_path / "out", "--watch")
    counts = pandas.read_csv(tmp_path / "out" / "summary.csv").set_index("image")["count"]
    assert counts["C03_s1"] == len(blobs)
    assert counts["A01_s1"] == 0
    assert done.out.count("C03_s1") == 1
    assert done.out.count("A01_s1") == 2
    assert sum("C03_s1" in line for line in done.err.splitlines()) == 1  # that it was cut short


def test_images_of_one_file_are_told_by_their_names(cli, oracle, tmp_path, blobs):
    (tmp_path / "in").mkdir()
    with tifffile.TiffWriter(tmp_path / "in" / "many.ome.tif", ome=True) as tiff:
        for n in range(2):
            pixels = (blobs.image * 200).astype(np.uint8)[n:]
            tiff.write(pixels, metadata={"axes": "YX", "Name": f"position {n}"})
    done = cli("count", tmp_path / "in", "--output", tmp_path / "out", "--json")
    rows = [json.loads(line)["image"] for line in done.out.splitlines()]
    assert rows == [str(tmp_path / "in" / f"many.ome_position {n}") for n in range(2)]


def test_a_plate_of_ome_zarr_is_a_folder(cli, oracle, tmp_path, blobs):
    root = zarr.open_group(tmp_path / "screen.zarr", mode="w", zarr_format=2)
    root.attrs["plate"] = {"wells": [{"path": "A/1"}, {"path": "B/2"}]}
    for well in ("A/1", "B/2"):
        root.create_group(well).attrs["well"] = {"images": [{"path": "0"}]}
        field = root.create_group(f"{well}/0")
        field.create_array("0", data=(blobs.image * 200).astype(np.uint8))
        field.attrs["multiscales"] = [{"datasets": [{"path": "0"}], "axes": ["y", "x"]}]
    done = cli(
        "count", tmp_path / "screen.zarr", "--output", tmp_path / "out", "--xlsx", "--measure", "shape"
    )
    assert done.code == 0, done.err
    summary = pandas.read_excel(tmp_path / "out" / "summary.xlsx")
    assert "mean_eccentricity" in summary
    assert "mean_orientation_deg" not in summary  # the mean of -89 and 89 degrees is not 0
    assert list(summary["well"]) == ["A1", "B2"]
    assert list(summary["count"]) == [len(blobs)] * 2
    assert (tmp_path / "out" / "screen#B_2_0.labels.tif").exists()
    assert (
        "must not go into" in cli("count", tmp_path / "screen.zarr", "--output", tmp_path / "screen.zarr").err
    )


def test_a_large_image_is_counted_block_by_block(cli, oracle, tmp_path, blobs):
    path = tmp_path / "large.zarr"
    zarr.create_array(path, data=(blobs.image * 200).astype(np.uint8), chunks=(64, 64))
    beside = cli("count", path, "--stream")
    assert f"block by block, so its cells were written to {tmp_path / 'cellwright results'}" in beside.err
    assert (tmp_path / "cellwright results" / "large.cells.csv").exists()
    asked = ("count", path, "--stream", "--pixel-size", "0.5,0.5", "--memory", "1 GB")
    done = cli(*asked, "--output", tmp_path / "out")
    assert done.code == 0, done.err
    assert f" {len(blobs)} " in done.out
    assert (tmp_path / "out" / "large.labels.zarr" / "0").is_dir()
    table = pandas.read_csv(tmp_path / "out" / "large.cells.csv")
    assert len(table) == len(blobs)
    np.testing.assert_allclose(table["area_um2"], table["area_px"] / 4)
    asked = ("count", path, "--stream", "--output", tmp_path / "o")
    assert "Name the axes" in cli(*asked, "--track").err
    assert "read and counted in one piece" in cli(*asked, "--window", "0:9,0:9").err
    done = cli(*asked, "--measure", "shape", "--keep", "area_px>10000")
    assert done.code == 0, done.err
    assert " 0 " in done.out
    assert f"{len(blobs)} cells failing the filters were left out" in done.err
    assert "number of MB or GB" in cli("count", path, "--memory", "much", "--output", tmp_path / "o").err


def test_what_was_changed_of_a_count_block_by_block_is_kept(cli, oracle, tmp_path, blobs):
    path, out = tmp_path / "large.zarr", tmp_path / "out"
    zarr.create_array(path, data=(blobs.image * 200).astype(np.uint8), chunks=(64, 64))
    asked = ("count", path, "--stream", "--output", out, "--report", tmp_path / "report.html")
    assert cli(*asked).code == 0
    labels = zarr.open_group(out / "large.labels.zarr")["0"]
    whole = labels[:]
    labels[:] = whole * (whole != whole.max())
    changed = [out / "large.cells.csv", out / "large.cells.parquet", tmp_path / "report.html"]
    for table in changed:
        table.write_text("edited by hand")
    before = set(tmp_path.iterdir())
    err = cli(*asked).err
    assert err.count("was changed since it was counted; it is kept as") == 4, err
    for name in ("out/large.cells.edited1.csv", "out/large.cells.edited1.parquet", "report.edited1.html"):
        assert (tmp_path / name).read_text() == "edited by hand"
    kept = zarr.open_group(out / "large.labels.edited1.zarr", mode="r")["0"][:]
    assert len(np.unique(kept)) == len(blobs)
    np.testing.assert_array_equal(zarr.open_group(out / "large.labels.zarr", mode="r")["0"][:], whole)
    assert set(tmp_path.iterdir()) - before == {tmp_path / "report.edited1.html"}
    assert "was changed" not in cli(*asked).err


def test_blocks_tell_and_write_what_the_whole_image_does(cli, oracle, tmp_path, blobs):
    frames = np.stack([blobs.image, np.roll(blobs.image, 2, axis=1)])
    path = tmp_path / "series.zarr"
    zarr.create_array(
        path, data=(frames * np.arange(1, 201)).astype(np.uint8), dimension_names=["t", "y", "x"]
    )
    asked = ["count", path, "--json", "--track", "--classifier", "blood", "--positive", "0>otsu", "--xlsx"]
    rows, folders = [], [tmp_path / "whole", tmp_path / "blocks"]
    for folder, stream in zip(folders, ([], ["--stream"]), strict=True):
        done = cli(*asked, "--output", folder, "--report", folder / "report.html", *stream)
        assert done.code == 0, done.err
        rows.append(json.loads(done.out))
    for row in rows:
        del row["seconds"]
        row["thresholds"]["ch0"] = round(row["thresholds"]["ch0"], 2)
    assert rows[0] == rows[1]
    assert rows[1].keys() >= {"classes", "markers", "tracks"}
    for name in ("counts.csv", "markers.csv", "lineages.csv"):
        tables = [pandas.read_csv(folder / f"series.{name}") for folder in folders]
        pandas.testing.assert_frame_equal(*tables, atol=1e-3)
    for folder in folders:
        assert (folder / "series_RES" / "res_track.txt").read_text().count("\n") == rows[0]["tracks"]
        assert len(pandas.read_excel(folder / "series.xlsx")) == rows[0]["count"]
    reports = [(folder / "report.html").read_text() for folder in folders]
    assert reports[0].count("<img") == reports[1].count("<img") == 1
    pictures = [report.partition("base64,")[2].partition('"')[0] for report in reports]
    assert pictures[0] == pictures[1]


def test_a_large_image_of_a_folder_is_counted_block_by_block(
    cli, oracle, plate, tmp_path, blobs, monkeypatch
):
    (plate / "slides").mkdir()
    wide = np.tile(blobs.image, (1, 2))
    tifffile.imwrite(plate / "slides" / "wide.tif", (wide * 200).astype(np.uint8))
    monkeypatch.setattr(image_count, "LARGE_PIXELS", blobs.image.size)
    command = ("count", plate, "--output", tmp_path / "out", "--measure", "shape", "--json")
    done = cli(*command)
    assert done.code == 0, done.err
    rows = {Path(row["image"]).stem: row for row in map(json.loads, done.out.splitlines())}
    assert rows["wide"]["count"] == 2 * rows["A01_s1"]["count"]
    assert rows["wide"].keys() == rows["A01_s1"].keys()
    folder = tmp_path / "out" / "slides"
    assert sorted(path.name for path in folder.iterdir()) == [
        *("wide.cells.csv", "wide.cells.parquet", "wide.counts.csv", "wide.json", "wide.labels.zarr")
    ]
    assert len(pandas.read_parquet(tmp_path / "out" / "cells.parquet")) == 5 * len(blobs)
    assert (tmp_path / "out" / ".cellwright" / "slides" / "wide.jpg").exists()
    assert not (tmp_path / "out" / ".cellwright" / "blocks" / "slides" / "wide").exists()
    assert cli(*command).out.count('"counted_before": true') == 4
    (folder / "wide.cells.csv").unlink()
    assert cli(*command).out.count('"counted_before": true') == 3
    monkeypatch.setattr(image_count, "LARGE_PIXELS", 10 * blobs.image.size)
    (folder / "wide.cells.csv").unlink()
    assert cli(*command).code == 0
    assert not (folder / "wide.labels.zarr").exists()
    assert (folder / "wide.labels.tif").exists()


def test_an_ome_set_of_several_files_is_counted_once(cli, oracle, plate, tmp_path, blobs):
    pixels = (blobs.image * 200).astype(np.uint8)
    names = [f"set_T{frame}.ome.tif" for frame in range(2)]
    planes = "".join(
        f'<TiffData FirstT="{frame}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{frame}</UUID>'
        "</TiffData>"
        for frame, name in enumerate(names)
    )
    size = f'SizeX="{pixels.shape[1]}" SizeY="{pixels.shape[0]}" SizeC="1" SizeZ="1" SizeT="2"'
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:0">'
        '<Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYZTC" Type="uint8" {size}>{planes}</Pixels></Image></OME>'
    )
    for name in names:
        tifffile.imwrite(plate / name, pixels, description=xml, metadata=None)
    done = cli("count", plate, "--output", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    rows = {Path(row["image"]).stem: row for row in map(json.loads, done.out.splitlines())}
    assert len(rows) == 4
    assert rows["set_T0.ome"]["count"] == 2 * len(blobs)


def test_what_is_not_known_of_an_image_is_null_in_json(cli, tmp_path):
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "none.tif", np.zeros((40, 40), np.uint8))
    flags = ("--output", tmp_path / "o", "--measure", "intensity", "--json")
    code, out, err = cli("count", tmp_path / "in", *flags)
    assert (code, json.loads(out)["mean_area_px"], "NaN" in out) == (0, None, False), err
