"""Densities on the command line: a count, its interval, a map as file, regions, no cells and no classes."""

import base64
import contextlib
import io
import json
import re
from dataclasses import replace
from html import unescape

import numpy as np
import pandas
import pytest
import tifffile
from PIL import Image as Picture

from cellwright.files import report, zarr
from cellwright.files.images import read_image
from cellwright.inference import image_count
from cellwright.inference.pipeline import count as count_image
from cellwright.inference.recipe import read_inputs
from cellwright.inference.settings import InputFiles
from cellwright.models.checkpoint import save_checkpoint
from cellwright.models.families import density
from cellwright.ops.measure.analysis import analyse
from cellwright.ops.measure.prediction_interval import fit_interval
from cellwright.widgets.count.model import Request, inside_regions
from cellwright.widgets.shared.layer_io import Source


@pytest.fixture
def density_folder(tmp_path):
    model = density.build()
    spec = replace(model.spec, count_error=fit_interval([10, 20, 40.0], [11, 19, 44.0]))
    save_checkpoint(tmp_path / "density", model.with_network(model.network, spec=spec))
    return tmp_path / "density"


def test_a_density_is_written_with_its_interval(cli, image_path, blobs, density_folder, tmp_path):
    code, out, _ = cli("count", image_path, "--model", density_folder, "--output", tmp_path / "out", "--json")
    row = json.loads(out)
    low, high = row["interval"]
    assert code == 0
    assert low <= row["count"] <= high
    values = read_image(tmp_path / "out" / "discs.density.tif")
    assert values.shape == blobs.labels.shape
    assert values.pixel_size_um == (0.5, 0.5)
    assert np.asarray(values.data).sum() == pytest.approx(row["count"], rel=1e-3)
    assert not (tmp_path / "out" / "discs.labels.tif").exists()
    _, out, _ = cli("count", image_path, "--model", density_folder)
    assert f"({low:.0f}-{high:.0f})" in out


def test_classes_are_refused_where_there_are_no_cells(cli, image_path, density_folder):
    code, _, err = cli("count", image_path, "--model", density_folder, "--classifier", "blood")
    assert code == 1
    assert "classes are of single cells; density gives only their density" in err


def test_a_density_has_a_report_and_no_tables_of_cells(
    cli, image_path, density_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    asked = ("count", image_path, "--model", density_folder, "--report", tmp_path / "r.html")
    code, _, err = cli(*asked)
    assert code == 0, err
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "redder where cells are denser" in text
    assert "<h2>The same from the command line</h2><pre>cellwright count" in text  # as from the viewer
    script = unescape(text.partition("<h2>The same from Python</h2><pre>")[2].partition("</pre>")[0])
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(script, {})
    assert f'<span class="number">{shown.getvalue().strip()}</span>' in text
    code, _, err = cli(*asked, "--xlsx")
    assert code == 1
    assert "A density has no single cells to measure, filter or tabulate." in err


@pytest.mark.parametrize("n_frames", [1, 3])
def test_a_density_that_is_counted_block_by_block_has_the_report_of_one_in_memory(
    cli, blobs, density_folder, tmp_path, monkeypatch, n_frames
):
    """The picture of the smaller copy is that of the whole, and so are numbers and bars."""
    monkeypatch.setattr(image_count, "PICTURE_PX", 50)
    monkeypatch.setattr(report, "PICTURE_PX", 50)
    monkeypatch.setattr(zarr, "SMALLEST_LEVEL_PX", 20)
    frames = [
        (blobs.image * 60_000 * (number + 1) / n_frames).astype(np.uint16) for number in range(n_frames)
    ]
    tifffile.imwrite(
        tmp_path / "moving.ome.tif", np.squeeze(frames), metadata={"axes": "TYX"[-2 - (n_frames > 1) :]}
    )
    asked = ("count", tmp_path / "moving.ome.tif", "--model", density_folder, "--diameter-px", "30")
    texts, rows = [], []
    for way in ("--stream", "--no-stream"):
        page = tmp_path / f"r{way}.html"
        code, out, err = cli(*asked, way, "--output", tmp_path / way, "--report", page, "--json")
        assert code == 0, err
        texts.append(page.read_text(encoding="utf-8"))
        rows.append(json.loads(out))
    (table,) = (tmp_path / "--stream").glob("*.csv")
    sums = pandas.read_csv(table)["count"]
    assert sums.sum() == pytest.approx(rows[0]["count"], abs=0.5)
    assert rows[0]["count"] == pytest.approx(rows[1]["count"], rel=0.05)
    assert f'<span class="number">{rows[0]["count"]}</span>' in texts[0]
    pictures = [re.findall(r"base64,([^\"]+)", text) for text in texts]
    assert [len(found) for found in pictures] == [1, 1]
    small, whole = (np.asarray(Picture.open(io.BytesIO(base64.b64decode(one))), float) for (one,) in pictures)
    assert small.shape == whole.shape
    assert np.corrcoef(small.ravel(), whole.ravel())[0, 1] > 0.95
    assert [text.count("Cells over frames") > 0 for text in texts] == [n_frames > 1] * 2
    assert ("moving.ome at t 2" in texts[0]) == ("moving.ome at t 2" in texts[1])


@pytest.fixture
def two_regions(tmp_path):
    """Regions that overlap, and one that is cut out of them."""
    squares = {"left": (0, 0, 70, 90), "middle": (50, 20, 100, 90), "exclude dirt": (20, 20, 40, 60)}
    features = []
    for name, (x0, y0, x1, y1) in squares.items():
        ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "geometry": geometry, "properties": {"name": name}})
    path = tmp_path / "regions.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def in_squares(values):
    """What a map (Y, X) holds in the regions, and in both."""
    left, middle = np.zeros((2, *values.shape), bool)
    left[0:90, 0:70], middle[20:90, 50:100] = True, True
    left[20:60, 20:40] = False
    sums = {"left": values[left], "middle": values[middle], "all regions": values[left | middle]}
    return {name: part.sum(dtype=float) for name, part in sums.items()}


def test_a_density_is_counted_in_regions(cli, image_path, density_folder, two_regions, tmp_path):
    """What the map of the whole image holds in each, in every file."""
    asked = ("--model", density_folder, "--regions", two_regions)
    count = ("count", image_path, "--model", density_folder)
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert cli(*count, "--output", whole)[0] == 0
    values = np.asarray(read_image(whole / "discs.density.tif").data)
    expected = in_squares(values)
    code, text, err = cli(
        "count", image_path, *asked, "--output", out, "--json", "--xlsx", "--report", tmp_path / "r.html"
    )
    assert code == 0, err
    row = json.loads(text)
    assert row["count"] == pytest.approx(expected["all regions"], rel=1e-4)
    assert "interval" not in row, "how sure it is in a part is not known"
    assert {one["region"]: one["count"] for one in row["regions"]} == pytest.approx(expected, rel=1e-4)
    assert "<h2>Counts</h2>" in (tmp_path / "r.html").read_text(encoding="utf-8")
    counts = pandas.read_csv(out / "discs.counts.csv").set_index("region")
    assert counts["count"].to_dict() == pytest.approx(expected, rel=1e-4)
    assert counts["area_px"].to_dict() == {"left": 5500, "middle": 3500, "all regions": 7600}
    assert counts["density_per_mm2"]["left"] == pytest.approx(expected["left"] / (5500 * 0.25e-6), rel=1e-4)
    assert list(pandas.read_excel(out / "discs.xlsx", sheet_name=None)) == ["counts", "settings"]
    assert pandas.read_csv(out / "discs.cells.csv")["count"].tolist() == pytest.approx(
        [row["count"]], rel=1e-4
    )
    part = np.asarray(read_image(out / "discs.density.tif").data)
    assert part.sum(dtype=float) == pytest.approx(row["count"], rel=1e-4)


def test_a_density_in_regions_is_the_same_in_python_and_in_the_panel(
    cli, image_path, density_folder, two_regions
):
    asked = ("--model", density_folder, "--regions", two_regions)
    _, text, _ = cli("count", image_path, *asked, "--json")
    row = json.loads(text)
    _, text, _ = cli("count", image_path, *asked)
    assert re.search(rf"left +{round(row['regions'][0]['count'], 4)}", text)
    image = read_image(image_path)
    found = count_image(image, str(density_folder))
    regions = read_inputs(InputFiles(regions=(str(two_regions),)), image)
    analysis = analyse(found, image, inputs=regions)
    assert analysis.result.count == pytest.approx(row["count"], rel=1e-4)
    request = Request(Source(image, "", (0, 0), {}), family="density", regions=regions.regions)
    assert inside_regions(request, found).count == analysis.result.count


def test_a_density_in_regions_of_a_folder_and_of_what_is_counted_in_blocks(
    cli, image_path, density_folder, two_regions, tmp_path
):
    folder, out = tmp_path / "images", tmp_path / "results"
    folder.mkdir()
    image_path.rename(folder / "discs.tif")
    asked = ("--model", density_folder, "--regions", two_regions, "--output", out)
    code, _, err = cli("count", folder, *asked)
    assert code == 0, err
    row = pandas.read_csv(out / "summary.csv").iloc[0]
    counts = pandas.read_csv(out / "discs.counts.csv").set_index("region")["count"]
    for name, n in counts.items():
        assert row[f"count_{name}"] == pytest.approx(n, abs=1e-3)
    assert row["count"] == pytest.approx(counts["all regions"], abs=1e-3)
    code, _, err = cli("count", folder / "discs.tif", *asked, "--stream")
    assert code == 1
    assert "A density is counted in regions in one piece" in err
    for more in (("--measure", "shape"), ("--region-rule", "overlap"), ("--parquet",)):
        code, _, err = cli("count", folder / "discs.tif", *asked, *more)
        assert code == 1
        assert "single cells" in err


def test_a_density_in_regions_of_frames(cli, blobs, density_folder, two_regions, tmp_path):
    frames = [(blobs.image * 60_000 / n).astype(np.uint16) for n in (1, 2)]
    path, out = tmp_path / "moving.ome.tif", tmp_path / "out"
    tifffile.imwrite(path, np.stack(frames), metadata={"axes": "TYX", "TimeIncrement": 60.0})
    asked = ("count", path, "--model", density_folder, "--diameter-px", "30", "--output")
    assert cli(*asked, tmp_path / "whole")[0] == 0
    assert cli(*asked, out, "--regions", two_regions)[0] == 0
    values = np.asarray(read_image(tmp_path / "whole" / "moving.ome.density.tif").data)
    counts = pandas.read_csv(out / "moving.ome.counts.csv").set_index(["region", "t"])
    for t in (0, 1):
        found = {name: counts["count"][name, t] for name in ("left", "middle", "all regions")}
        assert found == pytest.approx(in_squares(values[t]), rel=1e-3)
