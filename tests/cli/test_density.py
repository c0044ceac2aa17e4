"""Densities on the command line: a count with its interval, a map as file, no cells and no classes."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cellwright.files.images import read_image
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
    assert "Classes belong to single cells; density gives only their density" in err


def test_a_density_has_a_report_and_no_tables_of_cells(
    cli, image_path, density_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    asked = ("count", image_path, "--model", density_folder, "--report", "r.html")
    code, _, err = cli(*asked)
    assert code == 0, err
    report = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "redder where cells are denser" in report
    assert "cellwright count" in report
    code, _, err = cli(*asked, "--xlsx")
    assert code == 1
    assert "A density has no single cells to measure, filter or tabulate." in err
