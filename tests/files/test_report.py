import base64
import io
import re
import sys
from dataclasses import replace

import numpy as np
import pandas
import pytest
from PIL import Image as Picture

from cellwright.core.data import Cells, Image, Result
from cellwright.core.errors import WriteError
from cellwright.files import tables
from cellwright.files.folders.image_list import ListedImage
from cellwright.files.folders.results import ImageOutcome, write_folder_report
from cellwright.files.report import OUTLINE, OUTLINE_ON_LIGHT, outlined, write_density_report, write_report
from cellwright.files.tables import settings_table, write_csv, write_parquet, write_xlsx
from cellwright.ops.measure.analysis import analyse
from cellwright.ops.measure.cells_table import cells_checksum
from cellwright.ops.measure.measurement import result_of_labels
from cellwright.ops.measure.settings import AnalysisSettings


@pytest.fixture
def analysed(rng):
    labels = np.zeros((3, 80, 80), np.int32)
    for number in range(1, 17):
        row, column = divmod(number - 1, 4)
        labels[1, row * 20 + 3 : row * 20 + 13, column * 20 + 3 : column * 20 + 13] = number
    pixels = rng.normal(20, 2, (3, 2, 80, 80)).astype(np.float32)
    pixels[:, 1] += 50 * (labels > 8)
    image = Image(pixels, "TCYX", (0.5, 0.5), "well <A1> & co")
    settings = AnalysisSettings(measure=("shape", "intensity"), positive=("1>otsu",), track=True)
    return image, analyse(labels, image, settings)


def test_a_report_stands_alone(tmp_path, analysed):
    image, analysis = analysed
    write_report(tmp_path / "r.html", image, analysis, {"Python": "print(1 < 2)"})
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "well &lt;A1&gt; &amp; co" in text
    assert '<span class="number">16</span>' in text
    assert "print(1 &lt; 2)" in text
    assert cells_checksum(analysis.result) in text
    assert text.count("<svg") >= 5
    assert "ch1+" in text
    assert 'aria-label="Cells over frames"' in text
    assert text.count("by marker, median, quartiles, 5 to 95 %: 1 ch1+ (8 cells), 2 none (8 cells)") == 4
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "<script" not in text
    assert "<td>Eccentricity</td>" in text
    assert "<td>Orientation" not in text  # whose mean and quartiles tell nothing
    assert '<span class="unit">cells in 3 frames</span>' in text
    assert "<th>Path [µm]</th>" in text
    assert "<p>Tracks 16 · lineages 16 · divisions 0</p>" in text


def test_markers_are_called_as_the_channels_of_the_file(tmp_path, analysed):
    """In what people read; tables keep their names."""
    image, analysis = analysed
    settings = AnalysisSettings(measure=("intensity",), positive=("0>otsu", "1>otsu"))
    for names, expected in ((("DAPI", "GFP"), "DAPI+ GFP-"), (("GFP", "GFP"), "ch0+ ch1-")):
        named = replace(image, channel_names=names)
        found = analyse(analysis.result.cells.labels, named, settings)
        write_report(tmp_path / "r.html", named, found)
        text = (tmp_path / "r.html").read_text(encoding="utf-8")
        assert f"<td>{expected}</td>" in text
        assert f"1 {expected.split()[0]} (" in text
        assert "ch0+ ch1-" in set(found.copositive["markers"])
        assert {"positive_ch0", "positive_ch1"} <= set(found.table)


def test_its_picture_has_the_outlines(tmp_path, analysed):
    image, analysis = analysed
    write_report(tmp_path / "r.html", image, analysis)
    encoded = re.search(r"base64,([^\"]+)", (tmp_path / "r.html").read_text(encoding="utf-8"))[1]
    picture = np.asarray(Picture.open(io.BytesIO(base64.b64decode(encoded))))
    assert picture.shape == (80, 80, 3)
    is_outline = (picture == (255, 214, 10)).all(axis=2)
    assert is_outline.sum() == 16 * 36


@pytest.mark.parametrize(
    ("engine", "seen"),
    [
        ({}, (True, False)),
        ({"channel": None, "channels": ()}, (True, False)),
        ({"channel": 1}, (False, True)),
        ({"channels": ("0", "1")}, (True, True)),
        ({"channels": ("0", "7")}, (True, False)),
    ],
)
def test_its_picture_shows_the_channels_that_were_counted(analysed, engine, seen):
    pixels = np.zeros((2, 40, 40), np.float32)
    pixels[0, 3:9, 3:9], pixels[1, 23:29, 23:29] = 9, 9
    found = analysed[1].result
    found = replace(
        found,
        cells=Cells.empty(2, np.zeros((40, 40), np.int32)),
        provenance=replace(found.provenance, settings={"engine": engine}),
    )
    picture = outlined(Image(pixels, "CYX"), found, 40)
    assert (picture[5, 5, 0] == 255, picture[25, 25, 0] == 255) == seen


@pytest.mark.parametrize("axes", ["YX", "YXC", "ZYX", "CZYX"])
def test_reports_of_all_axes(tmp_path, axes, rng):
    shape = {"Y": 50, "X": 40, "C": 3, "Z": 4}
    image = Image(rng.integers(0, 255, [shape[axis] for axis in axes], dtype=np.uint8), axes)
    labels = np.zeros(image.label_shape, np.int32)
    labels[..., 5:20, 5:20] = 1
    for labelled in (labels, np.zeros_like(labels)):
        write_report(tmp_path / "r.html", image, analyse(labelled, image))
        assert (tmp_path / "r.html").stat().st_size > 3000


def test_an_interval_is_told(tmp_path, analysed):
    image, analysis = analysed
    write_report(
        tmp_path / "r.html", image, replace(analysis, result=replace(analysis.result, interval=(12.0, 20.0)))
    )
    assert "90 % interval 12 to 20" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_tables_come_back(tmp_path, analysed):
    _, analysis = analysed
    write_csv(tmp_path / "a.csv", analysis.table)
    write_parquet(tmp_path / "a.parquet", analysis.table)
    sheets = {"cells": analysis.table, "counts": analysis.counts}
    write_xlsx(
        tmp_path / "a.xlsx", {**sheets, "settings": settings_table(analysis.result, {"command": "count"})}
    )
    for back in (
        pandas.read_csv(tmp_path / "a.csv"),
        pandas.read_parquet(tmp_path / "a.parquet"),
        pandas.read_excel(tmp_path / "a.xlsx", sheet_name="cells"),
    ):
        pandas.testing.assert_frame_equal(back, analysis.table, check_dtype=False, rtol=1e-7)
    settings = pandas.read_excel(tmp_path / "a.xlsx", sheet_name="settings").set_index("name")["value"]
    assert settings["cells_sha256"] == f'"{cells_checksum(analysis.result)}"'
    assert settings["command"] == '"count"'


def test_what_cannot_be_written_says_so(tmp_path, analysed, monkeypatch):
    _, analysis = analysed
    monkeypatch.setattr(tables, "MOST_XLSX_ROWS", 10)
    with pytest.raises(WriteError, match="rows at most"):
        write_xlsx(tmp_path / "a.xlsx", {"cells": analysis.table})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(WriteError, match="pyarrow"):
        write_parquet(tmp_path / "a.parquet", analysis.table)
    assert list(tmp_path.iterdir()) == []


def test_the_checksum_is_that_of_the_cells():
    labels = np.zeros((20, 20), np.int32)
    labels[5:9, 5:9] = 1
    image = Image(labels, "YX")
    first, second = (result_of_labels(labels, image)[0] for _ in range(2))
    assert cells_checksum(first) == cells_checksum(second)
    moved = result_of_labels(np.roll(labels, 1), image)[0]
    assert cells_checksum(moved) != cells_checksum(first)
    classes = np.zeros(1, np.int16)
    classed = replace(first, cells=replace(first.cells, classes=classes))
    assert cells_checksum(classed) != cells_checksum(first)
    bare = replace(first, cells=replace(first.cells, labels=None))
    assert cells_checksum(bare) != cells_checksum(first)


@pytest.mark.parametrize(("light", "outline"), [(0, OUTLINE), (255, OUTLINE_ON_LIGHT)])
def test_colours_stay_and_outlines_are_seen_on_light_and_dark(light, outline):
    pixels = np.full((40, 60, 3), light, np.uint8)
    pixels[10:20, 10:20] = (200, 30, 90)
    labels = np.zeros((40, 60), np.int32)
    labels[8:22, 8:22] = 1
    image = Image(pixels, "YXC")
    picture = outlined(image, analyse(labels, image).result, 60)
    assert picture[8, 8].tolist() == list(outline)
    red, green, blue = picture[15, 15].tolist()
    assert red > blue > green


@pytest.mark.parametrize(("axes", "lead"), [("YX", ()), ("YXC", ()), ("TYX", (3,))])
def test_a_density_has_a_report_of_where_it_lies(tmp_path, axes, lead):
    shape = (*lead, 60, 80)
    density = np.zeros(shape, np.float32)
    density[..., 10:20, 30:40] = 0.07  # 7 cells in each frame
    density[..., 40:50, 60:70] = 0.02  # and 2
    if lead:
        density[0] = 0
    image = Image(np.full((*shape, 3) if axes == "YXC" else shape, 90, np.uint8), axes, name="field")
    none = Cells.empty(len(shape))
    provenance = replace(result_of_labels(np.zeros(shape, np.int32), image).result.provenance, axes=axes)
    n_cells = float(density.sum())
    found = Result(n_cells, none, provenance, maps={"density": density}, interval=(5.0, 30.0))
    write_density_report(tmp_path / "r.html", image, found, {"Python": "print(1)"})
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert f'<span class="number">{round(n_cells)}</span>' in text
    assert "90 % interval 5 to 30" in text
    assert ('aria-label="Cells over frames"' in text) == bool(lead)
    assert (" at t 1 " in text) == bool(lead)  # the first of the two that hold cells
    seen = np.asarray(Picture.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", text)[1]))))
    redness = seen[..., 0].astype(int) - seen[..., 2]
    assert redness[15, 35] > redness[45, 65] > 50
    assert redness[5, 5] == 0


def test_a_folder_tells_its_conditions_well_by_well(tmp_path):
    """By any word of the names but plate, well and site; sites of one well are one value."""
    counts = {("A1", "DMSO"): (10, 30), ("A2", "DMSO"): (40,), ("B1", "drug"): (5, 7), ("B2", "drug"): (8,)}
    done = []
    for (well, treatment), each in counts.items():
        for site, n in enumerate(each):
            plate = {"well": well, "site": str(site), "treatment": treatment, "batch": "1"}
            done.append(ImageOutcome(ListedImage(tmp_path / "a.tif", f"{well}_{site}", plate), {"count": n}))
    write_folder_report(tmp_path / "r.html", tmp_path, done, "")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Cells per image by treatment" in text
    assert "<td>DMSO</td><td>2</td><td>30</td><td>14.142</td>" in text  # of 20 and 40
    assert "<td>drug</td><td>2</td><td>7</td><td>1.4142</td>" in text
    assert "1 DMSO (2 wells), 2 drug (2 wells)" in text
    assert "by batch" not in text  # which is the same for all
    alone = [ImageOutcome(ListedImage(one.image.path, one.image.name), one.row) for one in done]
    write_folder_report(tmp_path / "r.html", tmp_path, alone, "")
    assert "Cells per image by" not in (tmp_path / "r.html").read_text(encoding="utf-8")
