"""Measurements, regions, markers, tracks, reports and settings of ``cellwright count``."""

import json
import shlex
import shutil

import numpy as np
import pandas
import pytest
import tifffile

import cellwright
from cellwright.core.errors import ReadError, SettingsError
from cellwright.core.tasks import run
from cellwright.files.images import read_image
from cellwright.inference.image_count import CountChoices, counted_task
from cellwright.inference.pipeline import count_cells
from cellwright.inference.recipe import (
    Recipe,
    as_command,
    as_python,
    load_recipe,
    recipe_of,
    save_recipe,
)
from cellwright.inference.settings import EngineSettings, InputFiles, StreamSettings
from cellwright.ops.codecs.flow import FlowSettings
from cellwright.ops.measure.cells_table import cells_checksum
from cellwright.ops.measure.settings import AnalysisSettings

pytestmark = pytest.mark.usefixtures("oracle")


@pytest.fixture
def stained_path(tmp_path, blobs):
    """Two channels: the discs, and 100 times the square of their number; half a micrometre per pixel."""
    second = np.where(blobs.labels > 0, blobs.labels.astype(np.float32) ** 2, 0)
    data = np.stack([blobs.image * 60_000, second]).astype(np.uint16)
    path = tmp_path / "stained.ome.tif"
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(path, data, photometric="minisblack", ome=True, metadata={"axes": "CYX", **sizes})
    return path


def write_halves(path, shape):
    """Regions 'left' and 'top', which overlap, as GeoJSON."""
    height, width = shape
    rings = {"left": (0, 0, width // 2, height), "top": (0, 0, width, height // 2)}
    features = [
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]],
            },
            "properties": {"name": name},
        }
        for name, (x0, y0, x1, y1) in rings.items()
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_measurements_are_columns(cli, stained_path, tmp_path, blobs):
    code, _, _ = cli("count", stained_path, "--output", tmp_path / "o", "--measure", "shape,intensity")
    assert code == 0
    table = pandas.read_csv(tmp_path / "o" / "stained.ome.cells.csv")
    areas = np.bincount(blobs.labels.ravel())[1:]
    np.testing.assert_allclose(table["area_um2"], areas / 4)
    np.testing.assert_allclose(table["intensity_max_ch1"], table["label"] ** 2)
    assert {"perimeter_um", "circularity", "solidity", "intensity_corrected_mean_ch0"} <= set(table)
    counts = pandas.read_csv(tmp_path / "o" / "stained.ome.counts.csv")
    assert counts["count"].tolist() == [len(blobs)]
    density = len(blobs) / (blobs.labels.size * 0.25e-6)
    assert counts["density_per_mm2"].tolist() == pytest.approx([density])


def test_regions_are_counted(cli, stained_path, tmp_path, blobs):
    path = write_halves(tmp_path / "r.geojson", blobs.labels.shape)
    code, out, err = cli("count", stained_path, "--regions", path, "--json")
    left, top = blobs.points[:, 1] < 99.5, blobs.points[:, 0] < 79.5
    found = json.loads(out)
    assert code == 0
    assert found["count"] == (left | top).sum()
    assert {row["region"]: row["count"] for row in found["regions"]} == {
        "left": left.sum(),
        "top": top.sum(),
        "all regions": (left | top).sum(),
    }
    assert "outside the regions were left out" in err
    code, out, _ = cli("count", stained_path, "--exclude", path)
    assert out.splitlines()[1].split()[2] == str((~left & ~top).sum())
    code, out, _ = cli("count", stained_path, "--regions", path)
    assert ["top", str(top.sum())] in [line.split() for line in out.splitlines()]


def test_a_part_is_counted_in_its_place(cli, stained_path, tmp_path, blobs):
    arguments = ["--window", "40:120,50:150", "--pixel-size", "2,2", "--measure", "shape", "--json"]
    code, out, _ = cli("count", stained_path, "--output", tmp_path / "o", *arguments)
    assert code == 0
    table = pandas.read_csv(tmp_path / "o" / "stained.ome.cells.csv")
    inside = ((blobs.points >= (50, 60)) & (blobs.points < (110, 140))).all(axis=1)  # whole, at any rate
    for y, x in blobs.points[inside]:
        assert np.hypot(table["y"] - y, table["x"] - x).min() < 0.01
    assert inside.sum() <= json.loads(out)["count"] == len(table)
    np.testing.assert_allclose(table["area_um2"], table["area_px"] * 4)
    assert read_image(tmp_path / "o" / "stained.ome.labels.tif").shape == (80, 100)
    counts = pandas.read_csv(tmp_path / "o" / "stained.ome.counts.csv")
    assert counts["area_mm2"].tolist() == pytest.approx([80 * 100 * 4e-6])


@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [
        ("--window", "40:120", "first and end pixel"),
        ("--window", "40:30,0:9", "first and end pixel"),
        ("--window", "0:999,0:999", "must lie in the image"),
        ("--pixel-size", "half", "number of µm"),
        ("--pixel-size", "1,1,1", "one number for each"),
        ("--report", ".", "Name a file in it"),
        ("--report", "image.tif", "Give it a name with .html"),
        ("--save-settings", "image.tif", "Give it a name with .json"),
    ],
)
def test_a_part_that_is_none_is_refused(cli, stained_path, flag, text, message):
    code, _, err = cli("count", stained_path, flag, text)
    assert code
    assert message in err


def test_masks_may_hold_for_each_image_its_own(cli, stained_path, tmp_path, blobs):
    mask = np.zeros(blobs.labels.shape, np.uint8)
    mask[:, :100] = 1
    tifffile.imwrite(tmp_path / "stained.ome_mask.tif", mask)
    inside = int((np.rint(blobs.points[:, 1]) < 100).sum())
    pattern = str(tmp_path / "{name}_mask.tif")
    assert json.loads(cli("count", stained_path, "--json", "--mask", pattern).out)["count"] == inside
    outside = json.loads(cli("count", stained_path, "--json", "--outside-mask", pattern).out)["count"]
    assert outside == len(blobs) - inside


def test_positive_cells(cli, stained_path, tmp_path, blobs):
    arguments = ["--positive", "1>2500", "--positive", "0>otsu", "--output", tmp_path / "o", "--json"]
    _, out, _ = cli("count", stained_path, *arguments)
    n = len(blobs) - 50
    assert json.loads(out)["markers"]["ch1+ ch0-"] + json.loads(out)["markers"]["ch1+ ch0+"] == n
    markers = pandas.read_csv(tmp_path / "o" / "stained.ome.markers.csv")
    assert markers["count"].sum() == len(blobs)
    assert pandas.read_csv(tmp_path / "o" / "stained.ome.cells.csv")["positive_ch1"].sum() == n


def test_borders_and_filters(cli, stained_path, blobs):
    def counted(*flags):
        return json.loads(cli("count", stained_path, "--json", *flags).out)["count"]

    assert counted("--keep", "area_px>100000") == 0
    assert (
        counted("--keep", "y<80", "--keep", "x>=100")
        == ((blobs.points[:, 0] < 80) & (blobs.points[:, 1] >= 100)).sum()
    )
    assert counted("--border", "drop") == len(blobs)
    assert cli("count", stained_path, "--border", "some").code == 2


def test_nuclei_in_cells(cli, stained_path, tmp_path, blobs):
    nuclei = np.where(blobs.labels % 2 == 1, blobs.labels, 0).astype(np.int32)
    nuclei[0, 0] = len(blobs) + 5  # alone
    tifffile.imwrite(tmp_path / "nuclei.tif", nuclei)
    _, out, _ = cli("count", stained_path, "--nuclei", tmp_path / "nuclei.tif", "--json")
    assert json.loads(out)["cells_without_nucleus"] == len(blobs) // 2
    assert json.loads(out)["nuclei_in_no_cell"] == 1


def test_tracks(cli, tmp_path, draw_blobs):
    one = draw_blobs((120, 120)).image
    movie = np.stack([np.roll(one, step, axis=1) * 60_000 for step in (0, 2, 4)]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "movie.tif", movie, photometric="minisblack")
    arguments = ["--axes", "TYX", "--track", "--output", tmp_path / "o", "--json"]
    code, out, err = cli("count", tmp_path / "movie.tif", *arguments)
    assert code == 0, err
    n = json.loads(out)["count"] // 3
    assert (json.loads(out)["tracks"], json.loads(out)["divisions"]) == (n, 0)
    lineages = pandas.read_csv(tmp_path / "o" / "movie.lineages.csv")
    assert lineages["speed_px_per_frame"].to_numpy() == pytest.approx(np.full(n, 2.0))
    lines = (tmp_path / "o" / "movie_RES" / "res_track.txt").read_text().splitlines()
    assert lines == [f"{number} 0 2 0" for number in range(1, n + 1)]


def test_tracks_of_a_part_have_the_frames_of_the_image(cli, tmp_path, draw_blobs):
    movie = np.stack([draw_blobs((80, 80)).image] * 3).astype(np.float32)
    tifffile.imwrite(tmp_path / "movie.tif", movie, imagej=True, metadata={"axes": "TYX", "finterval": 30})
    part = ["--axes", "TYX", "--track", "--window", "1:3,0:80,0:80"]
    code, _, err = cli("count", tmp_path / "movie.tif", *part, "--output", tmp_path)
    assert code == 0, err
    lineages = pandas.read_csv(tmp_path / "movie.lineages.csv")
    assert (set(lineages["first"]), set(lineages["last"])) == ({1}, {2})
    assert "speed_px_per_min" in lineages  # as the file tells the time between frames
    assert set(pandas.read_csv(tmp_path / "movie.cells.csv")["t"]) == {1, 2}


def test_reports_and_sheets(cli, stained_path, image_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    regions = ["--regions", write_halves(tmp_path / "r.geojson", (160, 200)), "--measure", "shape"]
    code, _, err = cli("count", stained_path, "--report", "r.html", "--xlsx", "--parquet", *regions)
    assert (code, (tmp_path / "r.html").is_file()) == (0, True), err
    report = (tmp_path / "r.html").read_text()
    assert "cellwright count" in report
    assert "by region, median, quartiles, 5 to 95 %: 1 left (" in report
    assert f"Written into {tmp_path}: stained.ome.xlsx, stained.ome.cells.parquet." in err
    (tmp_path / "stained.ome.xlsx").write_text("edited by hand")
    for _ in range(2):
        _, _, again = cli("count", stained_path, "--xlsx", "--parquet")
        err += again
    assert err.count("stained.ome.xlsx was changed since it was counted; it is kept as") == 1
    assert (tmp_path / "stained.ome.edited1.xlsx").read_text() == "edited by hand"
    assert not list(tmp_path.glob("*edited*.parquet"))
    assert set(pandas.read_excel("stained.ome.xlsx", sheet_name=None)) == {"cells", "counts", "settings"}
    assert len(pandas.read_parquet("stained.ome.cells.parquet")) > 10
    assert cli("count", stained_path, image_path, "--report", "s.html").code == 0
    assert (tmp_path / "s.discs.html").is_file()


def test_settings_are_saved_and_used_again(cli, stained_path, tmp_path):
    flags = [
        "--min-area",
        20,
        "--channel",
        0,
        "--measure",
        "shape",
        "--keep",
        "area_px>100",
        "--border",
        "drop",
    ]
    code, first, err = cli("count", stained_path, "--json", *flags, "--save-settings", tmp_path / "s.json")
    assert code == 0, err
    recipe = load_recipe(tmp_path / "s.json")
    assert recipe.analysis == AnalysisSettings(measure=("shape",), keep=("area_px>100",), border="drop")
    assert (recipe.settings.min_area_px, recipe.engine.channel) == (20, 0)
    _, second, _ = cli("count", stained_path, "--json", "--settings", tmp_path / "s.json")
    assert json.loads(second)["count"] == json.loads(first)["count"]
    _, third, _ = cli(
        "count", stained_path, "--json", "--settings", tmp_path / "s.json", "--min-area", 100_000
    )
    assert json.loads(third)["count"] == 0


def test_several_channels_are_counted_in_together(cli, stained_path, tmp_path, blobs):
    code, out, err = cli(
        "count", stained_path, "--channels", "0,1", "--json", "--save-settings", tmp_path / "s"
    )
    assert (code, json.loads(out)["count"]) == (0, len(blobs)), err
    assert "note: " in err
    assert "Counted in channels 0, 1 together: each scaled by its own intensities" in err
    engine = load_recipe(tmp_path / "s").engine
    assert engine.channels == ("0,1",)
    code, out, err = cli("count", stained_path, "--settings", tmp_path / "s", "--channel", 1, "--json")
    assert (code, "together" in err) == (0, False)  # a flag goes before what was saved
    code, _, err = cli("count", stained_path, "--channels", "0,2")
    assert (code, "numbers 0 to 1" in err) == (1, True)


def test_each_channel_is_counted_by_itself(cli, stained_path, image_path, tmp_path, blobs):
    code, out, err = cli("count", stained_path, "--each-channel", "--json", "--output", tmp_path / "o")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0, err
    alone = [json.loads(cli("count", stained_path, "--channel", n, "--json").out)["count"] for n in (0, 1)]
    assert [row["count"] for row in rows] == alone
    assert [row["image"][-4:] for row in rows] == ["_ch0", "_ch1"]
    written = json.loads((tmp_path / "o" / "stained.ome_ch1.json").read_text())
    assert (written["count"], written["settings"]["engine"]["channel"]) == (alone[1], 1)
    out = cli("count", stained_path, "--each-channel", "--channels", "1", "--json").out
    assert json.loads(out)["count"] == alone[1]
    code, _, err = cli("count", image_path, "--each-channel")
    assert (code, "need an axis of channels" in err) == (1, True)
    code, _, err = cli("count", tmp_path, "--each-channel", "--output", tmp_path / "p")
    assert (code, "Name each by --channel" in err) == (1, True)
    named = f"itself={tmp_path / '{name}.tif'}"  # files that belong to the image belong to its channels, too
    cli(
        "count",
        stained_path,
        "--each-channel",
        "--other",
        named,
        "--measure",
        "intensity",
        "--output",
        tmp_path,
    )
    assert "intensity_mean_itself" in (tmp_path / "stained.ome_ch1.cells.csv").read_text()
    code, _, err = cli("count", stained_path, "--each-channel", "--channel", "1")
    assert (code, "or channel 1 alone" in err) == (1, True)


def test_channels_of_one_name_have_files_of_their_own(cli, tmp_path):
    path, names = tmp_path / "same.ome.tif", ["DAPI", "dapi", "/"]
    metadata = {"axes": "CYX", "Channel": {"Name": names}}
    tifffile.imwrite(path, np.zeros((3, 40, 40), np.uint8), metadata=metadata, photometric="minisblack")
    code, out, err = cli("count", path, "--each-channel", "--save-settings", tmp_path / "s", "--json")
    assert (code, load_recipe(tmp_path / "s").each_channel) == (0, True), err
    images = [json.loads(line)["image"].partition("ome_")[2] for line in out.splitlines()]
    assert images == ["DAPI_ch0", "dapi_ch1", "ch2"]
    again = cli("count", path, "--settings", tmp_path / "s", "--json").out
    assert [json.loads(line)["image"] for line in again.splitlines()] == [
        json.loads(line)["image"] for line in out.splitlines()
    ]


def test_how_a_large_image_is_counted_is_saved(cli, image_path, tmp_path):
    flags = ["--output", tmp_path / "o", "--json"]
    stream = ["--stream", "--memory", "1GB", "--save-settings", tmp_path / "s"]
    code, out, err = cli("count", image_path, *flags, *stream)
    assert (code, load_recipe(tmp_path / "s").stream) == (0, StreamSettings(stream=True, memory="1GB")), err
    shutil.rmtree(tmp_path / "o")
    again = cli("count", image_path, "--settings", tmp_path / "s", *flags).out
    assert json.loads(again)["count"] == json.loads(out)["count"]
    assert (tmp_path / "o" / "discs.labels.zarr").is_dir()
    assert "--stream --memory 1GB" in as_command(load_recipe(tmp_path / "s"))


def test_what_a_filter_can_never_find_is_refused(cli, stained_path, tmp_path):
    regions = ["--regions", write_halves(tmp_path / "r.geojson", (160, 200))]
    for flags, told in (
        (
            ["--classifier", "blood", "--keep", "class=XX"],
            "no class 'XX' to filter by. Choose one of Pla",
        ),
        ([*regions, "--keep", "regions=middle"], "no regions 'middle' to filter by. Choose one of left, top"),
    ):
        for more in ([], ["--stream", "--output", tmp_path / "o"]):
            code, _, err = cli("count", stained_path, *flags, *more)
            assert (code, told in err) == (1, True), err
    code, out, err = cli("count", stained_path, *regions, "--keep", "regions=left", "--json")
    assert (code, json.loads(out)["count"] > 0) == (0, True), err


@pytest.mark.parametrize(
    "flags", [[], ["--stream"], ["--keep", "area_px>=9999"], ["--stream", "--keep", "area_px>=9999"]]
)
def test_of_no_cells_none_is_positive(cli, image_path, tmp_path, flags):
    path = image_path
    if "--keep" not in flags:
        path = tmp_path / "none.tif"
        tifffile.imwrite(path, np.zeros((40, 40), np.uint8))
    output = ["--output", tmp_path / "o", "--measure", "intensity", "--positive", "0>otsu", "--json"]
    code, out, err = cli("count", path, *output, *flags)
    assert code == 0, err
    row = json.loads(out)
    assert (row["count"], row["thresholds"], row["markers"]) == (0, {"ch0": None}, {"ch0+": 0, "ch0-": 0})


def test_a_report_of_no_cells_that_were_counted_in_blocks(cli, tmp_path):
    path, report = tmp_path / "none.tif", tmp_path / "r.html"
    tifffile.imwrite(path, np.zeros((40, 40), np.uint8))
    code, _, err = cli("count", path, "--stream", "--output", tmp_path / "o", "--report", report)
    assert (code, report.exists()) == (0, True), err


def test_what_does_not_fit_stops_the_run(cli, stained_path, tmp_path):
    for flags, message in (
        (["--measure", "colour"], "no measurement 'colour'"),
        (["--positive", "otsu"], "A rule for positive cells"),
        (["--keep", "large"], "A filter is"),
        (["--measure", "intensity", "--other", "ki67"], "NAME=FILE"),
        (["--measure", "intensity", "--other", "a=b.tif", "--other", "a=c.tif"], "'a' is given twice"),
        (["--regions", "absent.geojson"], "no such file"),
        (["--track"], "time series"),
        (["--settings", "absent.json"], "settings saved by cellwright"),
    ):
        code, _, err = cli("count", stained_path, *flags)
        assert (code, message in err) == (1, True), (flags, err)


SHAPES = ("shape", "intensity", "neighbours", "circularity", "intensity_mean")


def random_recipe(rng, path, folder):
    """Settings of every kind, each at random."""

    def pick(*values):
        return values[int(rng.integers(len(values)))]

    files = InputFiles(
        regions=pick((), (), (str(folder / "r.geojson"),)),
        exclude=pick((), (), (str(folder / "r.geojson"),)),
        outside_mask=pick("", "", str(folder / "{name}_mask.tif")),
        other=pick((), (f"ki67={folder / 'other.tif'}",)),
    )
    analysis = AnalysisSettings(
        measure=tuple(name for name in SHAPES if rng.random() < 0.4),
        ring_gap_px=float(pick(2.0, 1.5)),
        region_rule=pick("centre", "overlap", "whole"),
        border=pick("all", "drop", "two-edges"),
        keep=pick((), ("area_px>=120",), ("y<120.5", "score>=0.5")),
        positive=pick((), ("1>otsu",), ("1>2500", "0>otsu")),
        cytoplasm_px=float(pick(0, 0, 3)),
    )
    settings = FlowSettings(
        cell_probability=float(rng.uniform(0.2, 0.8)),
        min_score=float(rng.uniform(0, 0.9)),
        min_area_px=int(rng.integers(1, 170)),
        exclude_border=bool(pick(True, False)),
    )
    channels = pick((), (), ("1", "0"))
    engine = EngineSettings(
        device="cpu",
        channel=None if channels else pick(None, 0),
        channels=channels,
        combine=pick("maximum", "mean"),
        diameter_px=float(pick(0.0, 14.5)),
        flips=bool(pick(True, False)),
        tile_px=int(pick(2048, 128)),
    )
    return Recipe(str(path), ("flow",), pick(settings, None), engine, pick("", "CYX"), "", analysis, files)


def result_by(recipe):
    """The result of a recipe, step by step: the image is read, counted and measured."""
    image = read_image(recipe.image, recipe.axes or None)
    return run(counted_task(image, CountChoices((), recipe))).result


@pytest.mark.parametrize("seed", range(12))
def test_python_and_command_give_the_same_result(seed, cli, stained_path, tmp_path, blobs):
    write_halves(tmp_path / "r.geojson", blobs.labels.shape)
    mask = np.zeros(blobs.labels.shape, np.uint8)
    mask[60:90, 60:90] = 1
    tifffile.imwrite(tmp_path / "stained.ome_mask.tif", mask)
    tifffile.imwrite(tmp_path / "other.tif", blobs.labels.astype(np.float32))
    recipe = random_recipe(np.random.default_rng(seed), stained_path, tmp_path)
    expected = result_by(recipe)
    names: dict = {}
    exec(as_python(recipe), names)
    assert names["result"].count == expected.count
    assert cells_checksum(names["result"]) == cells_checksum(expected)
    command = shlex.split(as_command(recipe))
    assert command[0] == "cellwright"
    code, _, err = cli(*command[1:], "--output", tmp_path / "o")
    assert code == 0, err
    written = json.loads((tmp_path / "o" / "stained.ome.json").read_text())
    assert (written["count"], written["cells_sha256"]) == (expected.count, cells_checksum(expected))
    labels = read_image(tmp_path / "o" / "stained.ome.labels.tif").data
    np.testing.assert_array_equal(labels, expected.cells.labels)
    save_recipe(tmp_path / "s.json", recipe)
    again = load_recipe(tmp_path / "s.json")
    assert cells_checksum(result_by(again)) == cells_checksum(expected)


def test_a_result_knows_its_recipe(stained_path):
    image = read_image(stained_path)
    settings, engine = FlowSettings(min_area_px=20), EngineSettings(device="cpu", channel=0)
    result = run(count_cells(image, "flow", settings, engine))
    recipe = recipe_of(result)
    assert (recipe.image, recipe.models, recipe.axes) == (str(stained_path), ("flow",), "CYX")
    assert (recipe.settings, recipe.engine) == (settings, engine)
    names: dict = {}
    exec(as_python(result), names)
    assert cells_checksum(names["result"]) == cells_checksum(result)
    assert "--min-area-px 20" in as_command(result)


def test_results_without_a_file_or_a_model_have_none(stained_path, blobs):
    result = cellwright.count(blobs.image, settings=FlowSettings())
    with pytest.raises(SettingsError, match="come from is not known"):
        as_python(result)
    assert shlex.split(as_command(recipe_of(result, source="-a.tif")))[2] == "./-a.tif"  # no flag
    assert recipe_of(result, source="a.tif").image == "a.tif"
    from cellwright.ops.measure.measurement import result_of_labels

    with pytest.raises(SettingsError, match="not counted by a model"):
        as_command(result_of_labels(blobs.labels, read_image(stained_path))[0])


def test_a_damaged_recipe_is_refused(tmp_path):
    for content in ("", "[]", "{}", '{"format": "cellwright-recipe", "models": "flow"}'):
        (tmp_path / "s.json").write_text(content)
        with pytest.raises(ReadError):
            load_recipe(tmp_path / "s.json")
    (tmp_path / "s.json").write_text('{"format": "cellwright-recipe", "analysis": {"mesure": []}}')
    with pytest.raises(SettingsError, match="no setting mesure"):
        load_recipe(tmp_path / "s.json")


def test_tracks_of_an_earlier_run_are_replaced_and_changed_ones_kept(cli, tmp_path, draw_blobs):
    one = draw_blobs((120, 120)).image
    movie = np.stack([np.roll(one, step, axis=1) * 60_000 for step in (0, 2, 4)]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "movie.tif", movie, photometric="minisblack")
    arguments = ["count", tmp_path / "movie.tif", "--axes", "TYX", "--track", "--output", tmp_path / "o"]
    folder = tmp_path / "o" / "movie_RES"
    assert cli(*arguments).code == 0
    (folder / ".DS_Store").touch()  # somebody looked at it on macOS
    n = len((folder / "res_track.txt").read_text().splitlines())
    code, _, err = cli(*arguments, "--keep", "x>60")
    assert code == 0, err
    kept = (folder / "res_track.txt").read_text()
    assert 0 < len(kept.splitlines()) < n
    assert [path.name for path in tmp_path.glob("o/.*")] == []
    mask = tifffile.imread(folder / "mask001.tif")
    changes = {
        "mask001.tif": lambda path: tifffile.imwrite(path, mask),
        "res_track.txt": lambda path: path.write_text(kept.replace(" 2 0", " 2 1", 1)),
        "notes.txt": lambda path: path.write_text("mine"),
    }
    for number, (name, change) in enumerate(changes.items(), 1):
        change(folder / name)
        changed = (folder / name).read_bytes()
        code, _, err = cli(*arguments)
        assert (code, f"it is kept as movie_RES.edited{number}" in err) == (0, True), err
        assert (tmp_path / "o" / f"movie_RES.edited{number}" / name).read_bytes() == changed
        assert not (folder / "notes.txt").exists()
    (tmp_path / "o" / "movie.json").unlink()  # that it was written by a count is no longer known
    (folder / "notes.txt").write_text("mine")
    code, _, err = cli(*arguments)
    assert (code, "there is one with content" in err) == (1, True), err


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("engine", {"flips": "yes"}, "flips must be true or false; got the text 'yes'"),
        ("engine", {"tile_px": 512.5}, "tile_px must be a whole number; got 512.5"),
        ("analysis", {"measure": 5}, "measure must be a list of texts; got 5"),
        ("settings", {"min_area_px": "9"}, "min_area_px must be a whole number; got the text '9'. Leave out"),
    ],
)
def test_settings_of_another_type_are_refused(cli, stained_path, tmp_path, part, values, message):
    save_recipe(tmp_path / "s.json", Recipe())
    saved = json.loads((tmp_path / "s.json").read_text())
    (tmp_path / "s.json").write_text(json.dumps({**saved, part: values}))
    code, _, err = cli("count", stained_path, "--settings", tmp_path / "s.json")
    assert (code, message in err) == (1, True), err
    with pytest.raises(SettingsError, match=message.split(";")[0]):
        load_recipe(tmp_path / "s.json")


def test_files_are_channels_of_one_image(cli, image_path, tmp_path, blobs):
    odd, even = blobs.labels % 2 == 1, (blobs.labels > 0) & (blobs.labels % 2 == 0)
    for name, pixels in (("a", odd * 60_000), ("a_more", even * 60_000)):
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels.astype(np.uint16))
    first, further = tmp_path / "a.tif", ["--with", tmp_path / "{name}_more.tif"]
    for more in ([], ["--stream", "--output", tmp_path / "o"]):
        code, out, err = cli("count", first, *further, "--channels", "a,a_more", "--json", *more)
        assert (code, json.loads(out)["count"]) == (0, len(blobs)), err
        assert "Counted in channels a, a_more together" in err
    rows = cli("count", first, *further, "--each-channel", "--json").out.splitlines()
    assert sum(json.loads(row)["count"] for row in rows) == len(blobs)
    (tmp_path / "membranes").mkdir()
    for name in ("a.tif", "a.TIF"):
        (tmp_path / "membranes" / name).write_bytes((tmp_path / "a_more.tif").read_bytes())
    for more, names in (
        (["{name}.tif"], f"{tmp_path.name}/a, membranes/a"),
        (["{name}.tif", "{name}.TIF"], "a 0, a 1, a 2"),
    ):
        alike = [word for one in more for word in ("--with", tmp_path / "membranes" / one)]
        numbers = ",".join(str(number) for number in range(len(more) + 1))
        code, out, err = cli("count", first, *alike, "--channels", numbers, "--json")
        assert (code, json.loads(out)["count"]) == (0, len(blobs)), err
        assert f"Counted in channels {names} together" in err
    folder = tmp_path / "images"
    folder.mkdir()
    first.rename(folder / "a.tif")
    together = [*further, "--channels", "0,1", "--json", "--output", tmp_path / "p"]
    code, out, err = cli("count", folder, *together)
    assert (code, json.loads(out)["count"]) == (0, len(blobs)), err
    code, _, err = cli("count", image_path, "--with", image_path)
    assert (code, "--with does nothing without --channels" in err) == (1, True)
    tifffile.imwrite(tmp_path / "small.tif", np.zeros((20, 30), np.uint16))
    tifffile.imwrite(
        tmp_path / "colours.tif", np.zeros((*blobs.labels.shape, 3), np.uint8), photometric="rgb"
    )
    for name, told in (("small", "have the same pixels"), ("colours", "Colours are not channels")):
        code, _, err = cli("count", image_path, "--with", tmp_path / f"{name}.tif", "--channel", 1)
        assert (code, told in err) == (1, True), err
