from dataclasses import replace

import numpy as np
import pandas
import pytest

from cellwright.core.data import Image
from cellwright.core.errors import SettingsError
from cellwright.ops.measure.analysis import AnalysisInputs, analyse
from cellwright.ops.measure.compartments import nuclei_in_cells
from cellwright.ops.measure.filters import (
    ColumnFilter,
    Marker,
    away_from_border,
    called,
    check_texts,
    copositive_table,
    kept_rows,
    otsu,
    parse_filter,
    parse_marker,
    split_filters,
    with_channel_numbers,
)
from cellwright.ops.measure.measurement import result_of_labels
from cellwright.ops.measure.regions import MaskRegion, RegionSet
from cellwright.ops.measure.settings import AnalysisSettings


@pytest.fixture
def stained(rng):
    """100 cells, their labels and three channels; 40 are positive for the second, 30 of these and 20 others
    for the third."""
    labels = np.zeros((200, 200), np.int32)
    pixels = rng.normal(20, 2, (3, 200, 200))
    for number in range(1, 101):
        row, column = divmod(number - 1, 10)
        window = (slice(row * 20 + 3, row * 20 + 15), slice(column * 20 + 3, column * 20 + 15))
        labels[window] = number
        pixels[(1, *window)] += 100 if number <= 40 else 0
        pixels[(2, *window)] += 200 if 10 < number <= 60 else 0
    return labels, Image(pixels.astype(np.float32), "CYX")


def test_positive_cells_are_counted(stained):
    labels, image = stained
    analysis = analyse(labels, image, AnalysisSettings(positive=("1>otsu", "2>100")))
    assert analysis.copositive.to_dict("list") == {
        "markers": ["ch1+ ch2+", "ch1+ ch2-", "ch1- ch2+", "ch1- ch2-"],
        "count": [30, 10, 20, 40],
        "share": [0.3, 0.1, 0.2, 0.4],
    }
    assert analysis.table["positive_ch1"].tolist() == [number <= 40 for number in range(1, 101)]
    assert analysis.thresholds["ch2"] == 100
    assert 30 < analysis.thresholds["ch1"] < 110
    assert analysis.counts.loc[0, ["count", "positive_ch1", "positive_ch2"]].tolist() == [100, 40, 50]


def test_markers_may_be_other_images(stained):
    labels, image = stained
    other = Image(image.data[1], "YX")
    settings = AnalysisSettings(positive=("ki67>60",))
    analysis = analyse(labels, image, settings, AnalysisInputs(others={"ki67": other}))
    assert analysis.table["positive_ki67"].sum() == 40


def test_markers_may_be_channels_by_name(stained):
    labels, image = stained
    named = replace(image, channel_names=("DAPI", "GFP", "Ki-67"))
    analysis = analyse(labels, named, AnalysisSettings(positive=("GFP>60", "Ki-67>otsu")))
    assert list(analysis.thresholds) == ["ch1", "ch2"]
    assert analysis.table["positive_ch1"].sum() == 40


def test_a_marker_without_its_channel_is_refused(stained):
    with pytest.raises(SettingsError, match="measured are ch0, ch1, ch2"):
        analyse(*stained, AnalysisSettings(positive=("7>otsu",)))


def test_two_thresholds_of_one_channel_are_refused(stained):
    labels, image = stained
    named = replace(image, channel_names=("DAPI", "GFP", "Ki-67"))
    with pytest.raises(SettingsError, match="'ch1' is given two"):
        analyse(labels, named, AnalysisSettings(positive=("1>60", "GFP>otsu")))


def test_a_channel_may_be_called_by_any_digit():
    assert parse_marker("²>5").channel == "²"


@pytest.mark.parametrize("rule", ["otsu", "1<5", "1>", "1>much", ">5"])
def test_rules_of_another_form_are_refused(rule):
    with pytest.raises(SettingsError, match="A rule for positive cells"):
        AnalysisSettings(positive=(rule,))


def test_thresholds_are_numbers():
    assert parse_marker(" 1 > 3.5e2 ").threshold == 350
    assert parse_marker("2>OTSU").threshold is None
    assert np.isnan(otsu(np.array([np.nan])))
    assert otsu(np.array([3.0, 3.0])) == 3


def test_no_cells_have_no_share():
    table = pandas.DataFrame({"positive_a": np.zeros(0, bool)})
    assert copositive_table(table, ("a",))["share"].tolist() == [0, 0]


BOXES = np.array(
    [[[0, 5], [4, 9]], [[5, 0], [9, 4]], [[16, 5], [20, 9]], [[5, 16], [9, 20]], [[5, 5], [9, 9]]]
)


@pytest.mark.parametrize(
    ("rule", "kept"), [("all", [0, 1, 2, 3, 4]), ("drop", [4]), ("two-edges", [0, 1, 4])]
)
def test_border_rules(rule, kept):
    assert np.flatnonzero(away_from_border(BOXES, (20, 20), rule)).tolist() == kept


def test_the_border_of_time_is_none():
    labels = np.zeros((2, 20, 20), np.int32)
    labels[0, 5:9, 5:9], labels[1, 5:9, 5:9], labels[1, 0:4, 5:9] = 1, 2, 3
    analysis = analyse(labels, Image(labels, "TYX"), AnalysisSettings(border="drop"))
    assert analysis.rows.tolist() == [0, 1]
    assert analysis.notices == ("1 cell at the border was left out.",)


def test_filters_hold_for_any_column():
    table = pandas.DataFrame(
        {"area_px": [5.0, 20.0, np.nan], "class": ["RBC", "WBC", "WBC"], "ok": [True, False, True]}
    ).assign(**{"mean of Ki-67.tif": [1, 2, 4]})
    for rule, kept in {
        "area_px>=20": [1],
        "area_px < 20": [0],
        "class=WBC": [1, 2],
        "class != WBC": [0],
        "ok=1": [0, 2],
        "mean of Ki-67.tif>=4": [2],
    }.items():
        assert np.flatnonzero(kept_rows(table, [parse_filter(rule)])).tolist() == kept, rule
    assert kept_rows(table, []).all()
    assert str(parse_filter("class = WBC")) == "class=WBC"


ODD = ["CD3+ (FITC)", "red, green", "fish and chips", "a & b; c", 'say "hi"', "x > y", "(left)", "3.0", " a"]


@pytest.mark.parametrize("odd", ODD)
def test_names_and_texts_of_any_signs_are_filtered_by(odd):
    """In quotes, as it is written by us, and found again between others."""
    table = pandas.DataFrame({odd: [1.0, 2.0], "class": [odd, "other"], "area_px": [5.0, 5.0]})
    rules = [ColumnFilter(odd, "<", 1.5), ColumnFilter("class", "=", odd), ColumnFilter("area_px", "=", 5.0)]
    assert [parse_filter(str(one)) for one in rules] == rules
    for between in (" and ", ", ", "; ", " & "):
        parts = split_filters(between.join(map(str, rules)))
        assert list(map(parse_filter, parts)) == rules
    assert AnalysisSettings(keep=tuple(map(str, rules))).keep == tuple(map(str, rules))
    assert kept_rows(table, rules).tolist() == [True, False]


def test_how_well_a_count_went_is_not_told_of_the_few_cells_that_filters_left(stained):
    labels, image = stained
    result = replace(analyse(labels, image, AnalysisSettings()).result, fit=0.9)
    for keep, fit in (((), 0.9), (("label<=60",), 0.9), (("label<=40",), None), (("label<1",), None)):
        assert analyse(result, image, AnalysisSettings(keep=keep)).result.fit == fit
    left = RegionSet((MaskRegion("left", np.arange(200)[None] < np.full((200, 1), 60)),))
    inside = analyse(result, image, AnalysisSettings(), AnalysisInputs(regions=left)).result
    assert (inside.count, inside.fit) == (30, 0.9)  # which regions leave are as good as the others


@pytest.mark.parametrize(
    ("settings", "given"),
    [
        ({"measure": ("shape", "intensity", "neighbours"), "positive": ("1>otsu", "2>100")}, ()),
        ({"measure": ("intensity",), "keep": ("intensity_mean_ch0>0",)}, ("regions", "nuclei")),
        ({"measure": ("intensity",), "cytoplasm_px": 2.0, "track": True}, ("others",)),
    ],
)
@pytest.mark.parametrize("has_classes", [False, True])
def test_a_table_without_cells_has_the_columns_of_one_with_cells(stained, settings, given, has_classes):
    labels, image = stained
    labels, data = labels[np.newaxis], image.data[np.newaxis]
    image = Image(data, "TCYX", (0.5, 0.5))
    inputs = {
        "regions": RegionSet((MaskRegion("left", np.arange(200)[None] < np.full((200, 1), 60)),)),
        "nuclei": np.where(np.arange(200) % 20 < 8, labels, 0).astype(np.int32),
        "others": {"ki67": Image(data[:, 0], "TYX")},
    }
    columns = []
    for cells in (labels, np.zeros_like(labels)):
        result = result_of_labels(cells, image).result
        if has_classes:
            classes = np.zeros(len(result.cells), np.int16)
            result = replace(result, cells=replace(result.cells, classes=classes))
            result = replace(result, provenance=result.provenance.noting(classes=["A"]))
        chosen = AnalysisInputs(**{name: inputs[name] for name in given})
        columns.append(analyse(result, image, AnalysisSettings(**settings), chosen).table.dtypes.to_dict())
    assert columns[0] == columns[1]


def test_wrong_filters_are_refused():
    table, named = pandas.DataFrame({"area_px": [5.0]}), pandas.DataFrame({"class": ["1"]})
    with pytest.raises(SettingsError, match="no column 'size'"):
        parse_filter("size>5").keeps(table)
    with pytest.raises(SettingsError, match="compared with a number"):
        parse_filter("area_px=large").keeps(table)
    with pytest.raises(SettingsError, match="compared with = or !="):
        parse_filter("class>WBC")
    with pytest.raises(SettingsError, match="compared with = or !="):
        parse_filter("area_px>=nan")
    with pytest.raises(SettingsError, match=r"A filter is .* Decimals have a point"):
        AnalysisSettings(keep=("large",))
    for check in (
        lambda: check_texts(["class!=1"], {"class": ["1"]}),
        lambda: parse_filter("class!=1").keeps(named),
    ):
        with pytest.raises(SettingsError, match=r"""quotes: 'class="1"'"""):
            check()
    check_texts(['class!="1"'], {"class": ["1"]})
    assert parse_filter('class="1"').keeps(named).all()


def test_what_is_kept_is_numbered_anew(stained):
    labels, image = stained
    result, _ = result_of_labels(labels, image)
    classes = np.arange(100, dtype=np.int16) % 2
    named = replace(result.provenance, settings={"classes": ("a", "b")})
    result = replace(result, cells=replace(result.cells, classes=classes), provenance=named)
    analysis = analyse(result, image, AnalysisSettings(keep=("class=b", "y<100")))
    assert analysis.table["label"].tolist() == list(range(1, 26))
    assert analysis.result.count == 25 == analysis.result.cells.labels.max()
    np.testing.assert_array_equal(analysis.result.cells.labels > 0, np.isin(labels, analysis.rows + 1))
    assert analysis.counts.loc[0, ["class_a", "class_b"]].tolist() == [0, 25]


def test_layers_keep_their_numbers(stained):
    labels, image = stained
    gapped = np.where(labels > 0, labels * 3, 0)
    analysis = analyse(gapped, image, AnalysisSettings(keep=("label>150",)))
    assert analysis.table["label"].tolist() == [3 * n for n in range(51, 101)]


def test_nuclei_belong_to_cells():
    cells, nuclei = np.zeros((40, 40), np.int32), np.zeros((40, 40), np.int32)
    cells[2:14, 2:14], cells[20:34, 2:14], cells[2:14, 20:34] = 1, 2, 3
    nuclei[4:8, 4:8], nuclei[9:12, 9:12], nuclei[24:28, 4:8] = 1, 2, 4  # 3 is missing
    nuclei[30:36, 30:36], nuclei[5:9, 12:18] = 5, 6  # outside; a third within cell 1
    found = nuclei_in_cells(nuclei, cells)
    assert found.nuclei_per_cell.tolist() == [2, 1, 0]
    assert found.cell_of.tolist() == [1, 1, 0, 2, 0, 0]
    assert found.nuclear_pixels.tolist() == [16 + 9 + 8, 16, 0]
    assert (found.cytoplasm == 1).sum() == 144 - 33


def test_cytoplasm_is_measured():
    cells, nuclei = np.zeros((40, 40), np.int32), np.zeros((40, 40), np.int32)
    cells[2:14, 2:14], cells[20:34, 20:34], nuclei[4:8, 4:8] = 1, 2, 1
    pixels = np.where(nuclei > 0, 100, np.where(cells > 0, 30, 5)).astype(float)
    settings = AnalysisSettings(measure=("intensity_mean",))
    analysis = analyse(cells, Image(pixels, "YX", (0.5, 0.5)), settings, AnalysisInputs(nuclei=nuclei))
    assert analysis.table["nuclei"].tolist() == [1, 0]
    assert analysis.table["nuclei_area_um2"].tolist() == [4, 0]
    large = AnalysisInputs(nuclei=nuclei.astype(np.uint64) * 2**40)
    again = analyse(cells, Image(pixels, "YX", (0.5, 0.5)), settings, large)
    assert again.table.equals(analysis.table)
    assert analysis.table["cytoplasm_intensity_mean_ch0"].tolist() == [30, 30]
    assert analysis.table["nucleus_intensity_mean_ch0"].tolist()[0] == 100
    assert np.isnan(analysis.table["nucleus_intensity_mean_ch0"][1])


def test_a_mask_in_place_of_labels_of_nuclei_is_told():
    cells, nuclei = np.zeros((40, 40), np.int32), np.zeros((40, 40), np.int32)
    cells[2:14, 2:14], cells[20:34, 20:34], nuclei[4:8, 4:8], nuclei[24:28, 24:28] = 1, 2, 255, 255
    analysis = analyse(cells, Image(cells, "YX"), inputs=AnalysisInputs(nuclei=nuclei))
    assert "The numbers of the nuclei lie in 2 pieces that do not touch" in " ".join(analysis.notices)
    nuclei[4:8, 4:8] = 1
    assert not analyse(cells, Image(cells, "YX"), inputs=AnalysisInputs(nuclei=nuclei)).notices


def test_nuclei_that_are_numbered_frame_by_frame_are_told_apart():
    cells, nuclei = np.zeros((2, 40, 40), np.int32), np.zeros((2, 40, 40), np.int32)
    cells[0, 2:14, 2:14], cells[1, 20:34, 20:34] = 1, 2
    nuclei[0, 4:8, 4:8], nuclei[1, 22:30, 22:30] = 1, 1  # the larger one would take both
    analysis = analyse(cells, Image(cells, "TYX"), inputs=AnalysisInputs(nuclei=nuclei))
    assert analysis.table["nuclei"].tolist() == [1, 1]
    assert analysis.nuclei.n_outside == 0


@pytest.mark.parametrize("spacing", [(0.5, 0.5), (2.0, 0.5, 0.5)])
def test_compartments_of_simulated_cells_are_those_drawn(draw_cells, spacing):
    drawn = draw_cells(spacing)
    rng = np.random.default_rng(1)
    nuclei, truth = np.zeros_like(drawn.labels), []
    for number, centre in enumerate(np.rint(drawn.centres).astype(int), start=1):
        n = int(rng.integers(0, 3))
        for step in range(n):  # blocks of known size about the centre
            place = tuple(slice(c - 1, c + 1) for c in centre[:-1])
            nuclei[(*place, slice(centre[-1] - 4 + 5 * step, centre[-1] - 1 + 5 * step))] = 2 * number + step
        truth.append(n)
    block = 2 ** (len(spacing) - 1) * 3
    settings = AnalysisSettings(measure=("intensity_mean", "intensity_sum"))
    table = analyse(drawn.labels, drawn.image, settings, AnalysisInputs(nuclei=nuclei)).table
    assert table["nuclei"].tolist() == truth
    name = f"nuclei_area_um{len(spacing)}"
    np.testing.assert_allclose(table[name], np.array(truth) * block * np.prod(spacing))
    for channel in (0, 1):
        pixels = drawn.image.data[channel].astype(float)
        for row in range(len(truth)):
            cell = drawn.labels == row + 1
            for part, where in (("nucleus", cell & (nuclei > 0)), ("cytoplasm", cell & (nuclei == 0))):
                if where.any():
                    found = table[f"{part}_intensity_sum_ch{channel}"][row]
                    assert found == pixels[where].sum()
                    found = table[f"{part}_intensity_mean_ch{channel}"][row]
                    assert found == pytest.approx(pixels[where].mean(), rel=1e-12)


def test_a_ring_stands_for_the_cytoplasm_of_nuclei():
    nuclei = np.zeros((2, 40, 40), np.int32)
    nuclei[0, 10:16, 10:16], nuclei[1, 20:26, 20:26] = 1, 2
    pixels = np.where(nuclei > 0, 100.0, 8.0)
    settings = AnalysisSettings(measure=("intensity",), cytoplasm_px=3)
    table = analyse(nuclei, Image(pixels, "TYX"), settings).table
    assert table["cytoplasm_intensity_mean_ch0"].tolist() == [8, 8]
    assert table["intensity_corrected_mean_ch0"].tolist() == [92, 92]


def test_what_needs_cells_or_outlines_says_so(stained):
    labels, image = stained
    result, _ = result_of_labels(labels, image)
    density = replace(result, maps={"density": np.ones((200, 200), np.float32)})
    with pytest.raises(SettingsError, match="no single cells"):
        analyse(density, image)
    bare = replace(result, cells=replace(result.cells, labels=None))
    assert analyse(bare, image).result.count == 100
    with pytest.raises(SettingsError, match="gives none"):
        analyse(bare, image, AnalysisSettings(measure=("shape",)))
    with pytest.raises(SettingsError, match="gives none"):
        analyse(bare, image, AnalysisSettings(cytoplasm_px=3))


def test_measures_may_be_given_by_commas():
    assert AnalysisSettings(measure=("shape, intensity", "neighbours")).measure == (
        "shape",
        "intensity",
        "neighbours",
    )
    with pytest.raises(SettingsError, match="must be one of"):
        AnalysisSettings(border="some")


def test_channels_are_called_by_their_number_in_the_file_and_other_images_by_their_name():
    image = Image(np.zeros((2, 4, 4)), "CYX", channel_names=("DAPI", "dye"))
    markers = [Marker("dye", 5.0), Marker("DAPI", 1.0)]
    assert [one.channel for one in with_channel_numbers(markers, image, ())] == ["ch1", "ch0"]
    kept = with_channel_numbers(markers, image, ("intensity_mean_dye",))
    assert [one.channel for one in kept] == ["dye", "ch0"]
    layer = Image(np.zeros((4, 4)), "YX", channel_names=("dye",), source_part=("CYX", 1))
    assert [one.channel for one in with_channel_numbers(markers, layer, ())] == ["ch1", "DAPI"]


def test_colours_are_called_so():
    photo = Image(np.zeros((4, 4, 3), np.uint8), "YXC")
    assert called(photo) == {"ch0": "red", "ch1": "green", "ch2": "blue"}
    assert with_channel_numbers([parse_marker("red>otsu")], photo, ())[0].channel == "ch0"
    for other in (Image(np.zeros((4, 4, 2)), "YXC"), Image(np.zeros((3, 4, 4)), "CYX")):
        assert all(name == number for number, name in called(other).items())


def test_a_column_that_is_not_there_is_told_with_the_nearest_alone() -> None:
    table = pandas.DataFrame(
        {name: [1.0] for name in ("area_px", "intensity_mean_ch0", "intensity_mean_ch1", "y")}
    )
    with pytest.raises(
        SettingsError, match=r"Choose one of intensity_mean_ch[01], intensity_mean_ch[01], or"
    ):
        parse_filter("intensity_mean<125").keeps(table)
    with pytest.raises(
        SettingsError, match="Choose one of area_px, intensity_mean_ch0, intensity_mean_ch1, y, or"
    ):
        parse_filter("zzz>1").keeps(table)


@pytest.mark.parametrize(
    ("told_s", "stated_s", "minutes"), [(300, 0, [0, 5, 10]), (300, 60, [0, 1, 2]), (0, 0, None)]
)
def test_counts_over_time_tell_the_minutes_where_they_are_known(told_s, stated_s, minutes):
    labels = np.zeros((3, 20, 20), np.int32)
    labels[:, 5:9, 5:9] = 1
    image = Image(labels.astype(np.uint8), "TYX", frame_interval_s=told_s)
    counts = analyse(labels, image, AnalysisSettings(frame_interval_s=stated_s)).counts
    assert counts["t"].tolist() == [0, 1, 2]
    assert ("time_min" in counts) == bool(minutes)
    assert list(counts)[:3] == ["region", "t", "count"]  # the number is in sight in a narrow panel
    assert counts.get("time_min", counts["t"]).tolist() == (minutes or [0, 1, 2])
