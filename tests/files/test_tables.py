import json
import os
import time
from dataclasses import replace
from threading import Event

import numpy as np
import pandas
import pytest
from openpyxl import load_workbook

from cellwright.core.data import Cells, Provenance, Result
from cellwright.core.errors import WriteError
from cellwright.core.tasks import beside, stop_point
from cellwright.files import atomic
from cellwright.files.tables import (
    ROWS_AT_ONCE,
    read_cells_table,
    write_csv,
    write_parquet,
    write_provenance,
    write_table,
    write_xlsx,
)
from cellwright.ops.measure.cells_table import cells_table, class_counts, frames_table, plain_count


def make_result(axes="YX", pixel_size_um=(), n=3, offset=()):
    ndim = len(axes.replace("C", ""))
    points = np.arange(n * ndim, dtype=np.float32).reshape(n, ndim) + 10
    boxes = np.stack([points - 2, points + 3], axis=1)
    scores = np.linspace(0.5, 1, n, dtype=np.float32)
    cells = Cells(points, boxes, scores, np.full(n, np.pi * 25, np.float32))
    provenance = Provenance(
        package_version="0.1.0",
        model="flow",
        checkpoint_sha256="ab" * 32,
        settings={"min_score": np.float32(0.5), "engine": {"device": "auto"}},
        image_name="a",
        image_shape=(64,) * len(axes),
        axes=axes,
        pixel_size_um=pixel_size_um,
        device="cpu",
        seconds=0.5,
    )
    return Result(float(n), cells, provenance, offset=offset, notices=("Took a smaller tile.",))


CORE = ["box_y0", "box_x0", "box_y1", "box_x1", "score", "area_px", "diameter_px"]


@pytest.mark.parametrize(
    ("axes", "leading"),
    [
        ("YX", ["y", "x"]),
        ("YXC", ["y", "x"]),
        ("CYX", ["y", "x"]),
        ("TYX", ["t", "y", "x"]),
    ],
)
def test_columns_follow_the_axes(axes, leading):
    table = cells_table(make_result(axes))
    assert list(table.columns) == ["label", *leading, *CORE]
    assert list(table["label"]) == [1, 2, 3]
    assert table["diameter_px"].to_numpy() == pytest.approx([10, 10, 10])


def test_centre_and_box_are_those_of_the_cell():
    row = cells_table(make_result("ZYX")).iloc[1]
    assert (row["z"], row["y"], row["x"]) == (13, 14, 15)
    assert (row["box_y0"], row["box_x0"], row["box_y1"], row["box_x1"]) == (12, 13, 17, 18)
    assert (row["box_z0"], row["box_z1"]) == (11, 16)


def test_the_centre_of_a_volume_lies_between_slices_but_not_between_times():
    result = make_result("TZYX")
    cells = replace(result.cells, points=result.cells.points + np.float32(0.25))
    row = cells_table(replace(result, cells=cells)).iloc[0]
    assert (row["t"], row["z"]) == (10, 11.25)


@pytest.mark.parametrize("axes", ["ZYX", "TZCYX"])
def test_cells_of_a_volume_have_volumes(axes):
    result = make_result(axes, pixel_size_um=(2.0, 0.5, 0.25))
    result = replace(result, cells=replace(result.cells, areas=np.full(3, 288.0, np.float32)))
    table = cells_table(result)
    corners = [f"box_{axis}{corner}" for corner in (0, 1) for axis in "zyx"]
    leading = ["t", "z"] if "T" in axes else ["z"]
    sizes = ["volume_px", "volume_um3", "diameter_um"]
    assert list(table.columns) == ["label", *leading, "y", "x", *corners, "score", *sizes]
    assert table["volume_um3"].to_numpy() == pytest.approx([72] * 3)
    assert table["diameter_um"].to_numpy() == pytest.approx([(6 * 72 / np.pi) ** (1 / 3)] * 3)


@pytest.mark.parametrize(("axes", "link"), [("ZYX", False), ("ZTYX", True)])
def test_outlines_in_slices_that_are_not_linked_have_areas(axes, link):
    result = make_result(axes, pixel_size_um=(2.0, 0.5, 0.25))
    settings = {**result.provenance.settings, "engine": {"link": link}}
    table = cells_table(replace(result, provenance=replace(result.provenance, settings=settings)))
    areas = result.cells.areas
    assert "volume_px" not in table
    assert table["area_um2"].to_numpy() == pytest.approx(areas * 0.125)
    assert table["diameter_um"].to_numpy() == pytest.approx(2 * np.sqrt(areas * 0.125 / np.pi))


def test_without_a_step_between_slices_there_are_areas_and_no_volumes():
    table = cells_table(make_result("ZYX", pixel_size_um=(0.0, 0.5, 0.5)))
    assert "volume_um3" not in table
    assert "diameter_um" not in table
    result = make_result("ZYX", pixel_size_um=(0.0, 0.5, 0.5))
    n_slices = result.cells.boxes[:, 1, 0] - result.cells.boxes[:, 0, 0]
    expected = result.cells.areas / np.maximum(n_slices, 1) * 0.25
    assert table["mean_slice_area_um2"].to_numpy() == pytest.approx(expected)


def test_classes_are_named():
    result = make_result()
    named = replace(
        result,
        cells=replace(result.cells, classes=np.array([1, -1, 0], np.int16)),
        provenance=replace(result.provenance, settings={"classes": ("RBC", "WBC")}),
    )
    assert list(cells_table(named)["class"]) == ["WBC", "", "RBC"]
    assert list(cells_table(named).columns) == ["label", "y", "x", *CORE[:4], "class", *CORE[4:]]
    assert class_counts(named) == {"RBC": 1, "WBC": 1}
    assert class_counts(result) == {}


def make_density(shape=(4, 5), offset=(), axes="YX"):
    density = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    result = make_result(axes, n=0, offset=offset)
    return replace(result, count=float(density.sum()), maps={"density": density}, interval=(180.0, 200.0))


def test_a_density_is_written_as_its_count(tmp_path):
    write_table(tmp_path / "a.csv", make_density())
    assert (tmp_path / "a.csv").read_text() == "count,low,high\n190.0,180.0,200.0\n"
    write_provenance(tmp_path / "a.json", make_density())
    assert json.loads((tmp_path / "a.json").read_text())["interval"] == [180, 200]


def test_a_series_of_densities_has_a_row_per_frame():
    table = frames_table(make_density((3, 2, 2), offset=(7, 0, 0), axes="TYX"))
    assert table.to_dict("list") == {"t": [7, 8, 9], "count": [6, 22, 38]}


def test_a_region_is_given_in_pixels_of_the_source():
    row = cells_table(make_result("YX", offset=(100, 200))).iloc[0]
    assert (row["y"], row["x"], row["box_y0"], row["box_x1"]) == (110, 211, 108, 214)


def test_physical_units_need_a_pixel_size():
    table = cells_table(make_result("TYX", pixel_size_um=(0.5, 0.25)))
    assert list(table.columns[-2:]) == ["area_um2", "diameter_um"]
    assert table["area_um2"].to_numpy() == pytest.approx(np.pi * 25 / 8, rel=1e-5)
    assert table["diameter_um"].to_numpy() == pytest.approx(10 / np.sqrt(8), rel=1e-5)


def test_points_of_a_squeezed_image_keep_their_last_axes():
    result = make_result("TYX")
    cells = result.cells
    flat = Cells(cells.points[:, 1:], cells.boxes[:, :, 1:], cells.scores, cells.areas)
    assert list(cells_table(replace(result, cells=flat)).columns[:3]) == ["label", "y", "x"]


def test_csv_comes_back_as_written(tmp_path):
    result = make_result("TYX", pixel_size_um=(0.5, 0.5))
    write_table(tmp_path / "new" / "a.csv", result)
    back = pandas.read_csv(tmp_path / "new" / "a.csv")
    pandas.testing.assert_frame_equal(back, cells_table(result), check_dtype=False, rtol=1e-6)


def test_names_in_a_table_stay_what_they_are(tmp_path):
    names = ["1", "02", "NA", "None", "nan", "", "a; 1"]
    table = pandas.DataFrame({"class": names, "regions": names, "score": [0.5, *[np.nan] * 6]})
    write_csv(tmp_path / "a.csv", table)
    back = read_cells_table(tmp_path / "a.csv")
    assert back["class"].tolist() == back["regions"].tolist() == names
    assert back["score"].dtype == "float64"
    write_csv(tmp_path / "none.csv", table[:0])
    assert list(read_cells_table(tmp_path / "none.csv")) == list(table)


def test_small_areas_keep_their_digits(tmp_path):
    result = make_result("YX", pixel_size_um=(0.001, 0.001))
    write_table(tmp_path / "a.csv", result)
    back = pandas.read_csv(tmp_path / "a.csv")["area_um2"]
    assert back.to_numpy() == pytest.approx(cells_table(result)["area_um2"].to_numpy(), rel=1e-6)


def test_no_cells_give_a_table_of_headings(tmp_path):
    write_table(tmp_path / "a.csv", make_result(n=0))
    assert (tmp_path / "a.csv").read_text() == ",".join(["label", "y", "x", *CORE]) + "\n"


def test_provenance_is_json(tmp_path):
    result = make_result("YX", pixel_size_um=(0.5, 0.5))
    write_provenance(tmp_path / "a.json", result)
    values = json.loads((tmp_path / "a.json").read_text())
    assert values["count"] == 3
    assert values["settings"] == {"min_score": 0.5, "engine": {"device": "auto"}}
    assert values["checkpoint_sha256"] == "ab" * 32
    assert values["pixel_size_um"] == [0.5, 0.5]
    assert values["notices"] == ["Took a smaller tile."]


@pytest.mark.parametrize("write", [write_table, write_provenance])
def test_a_file_in_place_of_the_folder_is_refused(tmp_path, write):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="Choose another folder"):
        write(tmp_path / "file" / "a", make_result())
    with pytest.raises(WriteError, match="Choose a folder"):
        write(tmp_path, make_result())


def test_a_count_is_whole_where_it_can_be():
    assert repr(plain_count(3.0)) == "3"
    assert plain_count(12.44449) == 12.4445


def test_a_sheet_holds_what_a_table_holds(tmp_path):
    table = pandas.DataFrame(
        {
            "label": np.arange(3, dtype=np.int32),
            "area": np.array([1.5, np.nan, np.inf], np.float32),
            "edited": np.array([True, False, True]),
            "class": np.array(["a", "", "ü, b"], object),
            "some": np.array([1, None, "x"], object),
        }
    )
    write_xlsx(tmp_path / "t.xlsx", {"cells": table, "none": table.head(0)})
    found = pandas.read_excel(tmp_path / "t.xlsx", sheet_name=None)
    assert list(found) == ["cells", "none"]
    assert list(found["cells"]) == list(found["none"]) == list(table)
    assert len(found["none"]) == 0
    assert found["cells"]["area"].tolist()[::2] == [1.5, np.inf]
    assert np.isnan(found["cells"]["area"][1])
    for name in ("label", "edited"):
        assert found["cells"][name].tolist() == table[name].tolist()
    assert found["cells"]["class"].fillna("").tolist() == table["class"].tolist()
    assert found["cells"]["some"].fillna("").tolist() == [1, "", "x"]


def test_names_are_text_in_a_sheet_whatever_they_look_like(tmp_path):
    table = pandas.DataFrame({"class": ["=A1+1", "#N/A", "+ +", "a\x02b"]})
    write_xlsx(tmp_path / "t.xlsx", {"cells": table})
    found = load_workbook(tmp_path / "t.xlsx")["cells"]["A"]
    assert [cell.value for cell in found] == ["class", "=A1+1", "#N/A", "+ +", "ab"]
    assert {cell.data_type for cell in found} == {"s"}


@pytest.mark.parametrize("n", [0, 1, ROWS_AT_ONCE, ROWS_AT_ONCE + 1])
def test_parts_of_a_table_give_the_file_of_the_whole(tmp_path, n):
    rng = np.random.default_rng(0)
    table = pandas.DataFrame({"label": np.arange(n), "x": rng.random(n), "class": ["a,b"] * n})
    write_csv(tmp_path / "t.csv", table)
    assert (tmp_path / "t.csv").read_text() == table.to_csv(index=False, float_format="%.9g")


def with_sheets(path, table):
    write_xlsx(path, {"cells": table})


@pytest.mark.parametrize("write", [write_csv, with_sheets, write_parquet])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_a_table_whose_task_is_closed_leaves_the_file_as_it_was(tmp_path, write, n_steps, monkeypatch):
    path, table = tmp_path / "t", pandas.DataFrame(np.random.default_rng(0).random((60_000, 30)))
    path.write_text("before")
    table.columns = [f"c{number}" for number in table]
    ended = Event()

    def act():
        try:
            write(path, table)
        finally:
            ended.set()

    if write is write_parquet:  # too fast to be caught
        monkeypatch.setattr(atomic, "stop_point", lambda: (time.sleep(0.8), stop_point()))
    task = beside("save", act)
    for _ in range(n_steps):
        next(task)
    started = time.monotonic()
    task.close()
    assert time.monotonic() - started < 1.0
    assert ended.wait(30)
    assert [one.name for one in tmp_path.iterdir()] == ["t"]
    assert path.read_text() == "before"


def test_tables_are_the_same_on_every_system(tmp_path, monkeypatch):
    """Windows would end lines in its own way: parts that are joined, and checksums, would differ."""
    monkeypatch.setattr(os, "linesep", "\r\n")
    write_csv(tmp_path / "a.csv", pandas.DataFrame({"a": [1, 2]}))
    assert (tmp_path / "a.csv").read_bytes() == b"a\n1\n2\n"
