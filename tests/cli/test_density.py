"""Densities on the command line: a count with its interval, a map as file, no cells and no classes."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pandas
import pytest
import tifffile
from PIL import Image as Picture

from cellwright.files import report, zarr
from cellwright.files.images import read_image
from cellwright.inference import image_count
from cellwright.models.checkpoint import save_checkpoint
from cellwright.models.families import density
from cellwright.ops.measure.prediction_interval import fit_interval


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
    asked = ("count", image_path, "--model", density_folder, "--report", "r.html")
    code, _, err = cli(*asked)
    assert code == 0, err
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "redder where cells are denser" in text
    assert "<h2>The same from the command line</h2><pre>cellwright count" in text  # as from the viewer
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
