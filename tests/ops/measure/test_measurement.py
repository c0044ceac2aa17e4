from dataclasses import replace
from functools import partial

import dask.array
import numpy as np
import pytest
from skimage.measure import perimeter_crofton, regionprops_table

import cellwright
from cellwright.core.data import Image
from cellwright.core.errors import AxesError, ImageError, SettingsError
from cellwright.ops.measure import measurement
from cellwright.ops.measure.blocks import blocks
from cellwright.ops.measure.columns import COLUMNS, column_of, documentation, group_help, keys_of
from cellwright.ops.measure.features import boundary_sizes, rings
from cellwright.ops.measure.measurement import measure, result_of_labels
from cellwright.ops.measure.settings import MeasureSettings

ALL = ("shape", "intensity", "neighbours")


def test_areas_are_exact(drawn, shapes):
    pixels = np.bincount(drawn.labels.ravel())[1:]
    size = np.prod(drawn.image.pixel_size_um)
    name, unit = ("area", "um2") if drawn.labels.ndim == 2 else ("volume", "um3")
    np.testing.assert_array_equal(shapes[f"{name}_px"], pixels)
    np.testing.assert_allclose(shapes[f"{name}_{unit}"], pixels * size, rtol=1e-6)


def test_outlines_have_their_length_within_2_percent(drawn, shapes):
    if drawn.labels.ndim == 2:
        np.testing.assert_allclose(shapes["perimeter_um"], drawn.perimeters(), rtol=0.02)
    else:
        np.testing.assert_allclose(shapes["surface_um2"], drawn.surfaces(), rtol=0.02)


def test_axes_of_cells_are_those_drawn(drawn, shapes):
    np.testing.assert_allclose(shapes["axis_major_um"], 2 * drawn.half_axes[:, 0], rtol=0.02)
    np.testing.assert_allclose(shapes["axis_minor_um"], 2 * drawn.half_axes[:, -1], rtol=0.02)
    truth = np.sqrt(1 - (drawn.half_axes[:, -1] / drawn.half_axes[:, 0]) ** 2)
    np.testing.assert_allclose(shapes["eccentricity"], truth, atol=0.03)
    if drawn.labels.ndim == 2:
        away = (shapes["orientation_deg"] - drawn.angles + 90) % 180 - 90
        assert np.abs(away).max() < 4
    assert (shapes["solidity"] > 0.88).all()


def test_roundness_is_that_of_the_shapes_drawn(drawn, shapes):
    size = np.prod(drawn.half_axes, axis=1)
    if drawn.labels.ndim == 2:
        truth = 4 * np.pi**2 * size / drawn.perimeters() ** 2
        np.testing.assert_allclose(shapes["circularity"], truth, rtol=0.03)
    else:
        truth = 4 * np.pi * np.cbrt(size) ** 2 / drawn.surfaces()
        np.testing.assert_allclose(shapes["sphericity"], truth, rtol=0.03)


def test_shape_is_that_of_scikit_image(drawn, shapes):
    names = {
        "solidity": "solidity",
        "axis_major_length": "axis_major_um",
        "axis_minor_length": "axis_minor_um",
    }
    if drawn.labels.ndim == 2:
        names |= {"eccentricity": "eccentricity"}
    spacing = drawn.image.pixel_size_um
    truth = regionprops_table(drawn.labels, properties=tuple(names), spacing=spacing)
    for theirs, ours in names.items():
        if drawn.labels.ndim == 3 and theirs == "axis_minor_length":
            continue  # theirs is the middle one
        np.testing.assert_allclose(shapes[ours], truth[theirs], rtol=1e-5)


@pytest.mark.parametrize("cell", [np.s_[2, 2, 2], np.s_[1:6, 2, 2], np.s_[1:6, 2, 1:6], np.s_[1:6, 2:4, 1:6]])
def test_cells_without_hollows_are_solid_however_flat(cell):
    labels = np.zeros((7, 7, 7), np.int32)
    labels[cell] = 1
    assert measure(labels, labels, ("shape",))["solidity"].tolist() == [1.0]
    labels = np.zeros((7, 7, 7), np.int32)
    labels[3][np.eye(7, dtype=bool)] = 1  # aslant
    assert measure(labels, labels, ("shape",))["solidity"].tolist() == [1.0]


def test_four_directions_would_give_the_perimeter_of_scikit_image(draw_cells):
    labels = draw_cells((1.0, 1.0)).labels
    theirs = [perimeter_crofton(labels == number, 4) for number in range(1, labels.max() + 1)]
    np.testing.assert_allclose(boundary_sizes(labels, int(labels.max()), (1.0, 1.0)), theirs, rtol=0.015)


def test_intensities_are_exact(drawn):
    table = measure(drawn.labels, drawn.image, ("intensity",))
    for channel in (0, 1):
        for number in range(1, drawn.labels.max() + 1):
            values = drawn.image.data[channel][drawn.labels == number].astype(float)
            row = table.iloc[number - 1]
            truth = {
                "mean": values.mean(),
                "median": np.median(values),
                "min": values.min(),
                "max": values.max(),
                "std": values.std(),
                "sum": values.sum(),
            }
            for name, value in truth.items():
                assert row[f"intensity_{name}_ch{channel}"] == pytest.approx(value, rel=1e-12), name
    np.testing.assert_allclose(table["intensity_corrected_mean_ch1"], 100 * table["label"], rtol=1e-12)


def test_the_ring_is_the_background_around_the_cell_alone():
    labels = np.zeros((60, 60), np.int32)
    labels[20:30, 20:30], labels[20:30, 33:43] = 1, 2
    pixels = np.full((60, 60), 7.0)
    pixels[labels == 1], pixels[labels == 2] = 50, 90
    settings = MeasureSettings(ring_gap_px=1, ring_width_px=4)
    table = measure(labels, Image(pixels, "YX"), "intensity_corrected_mean", settings=settings)
    assert table["intensity_corrected_mean_ch0"].tolist() == [43, 83]


def test_a_cell_without_background_around_it_has_no_corrected_mean():
    labels = np.ones((20, 20), np.int32)
    table = measure(labels, np.ones((20, 20)), ("intensity_corrected_mean",))
    assert table["intensity_corrected_mean_ch0"].isna().all()


def test_neighbours():
    labels = np.zeros((40, 60), np.int32)
    labels[5:15, 5:15], labels[5:15, 15:25], labels[15:20, 25:30], labels[30:35, 50:55] = 1, 2, 3, 4
    table = measure(labels, Image(np.zeros((40, 60)), "YX", (0.5, 0.5)), ("neighbours",))
    assert table["neighbours_touching"].tolist() == [1, 2, 1, 0]
    assert table["nearest_distance_um"][0] == pytest.approx(5)
    assert table["nearest_distance_um"][3] == pytest.approx(np.hypot(15, 25) / 2)


def test_neighbours_are_those_of_the_same_frame():
    labels = np.zeros((2, 20, 20), np.int32)
    labels[0, 2:6, 2:6], labels[1, 2:6, 6:10], labels[1, 12:16, 6:10] = 1, 2, 3
    table = measure(labels, Image(labels, "TYX"), ("neighbours",))
    assert table["neighbours_touching"].tolist() == [0, 0, 0]
    assert np.isnan(table["nearest_distance_px"][0])
    assert table["nearest_distance_px"].tolist()[1:] == [10, 10]


def test_time_and_slices_are_measured_frame_by_frame(draw_cells):
    drawn = draw_cells((1.0, 1.0))
    one = measure(drawn.labels, drawn.image, ALL)
    n = len(one)
    movie = np.stack([drawn.labels, np.where(drawn.labels > 0, drawn.labels + n, 0)])
    pixels = np.stack([drawn.image.data, drawn.image.data])
    table = measure(movie, Image(pixels, "TCYX", (1.0, 1.0)), ALL)
    assert table["t"].tolist() == [0] * n + [1] * n
    for name in one.columns.drop("label"):
        np.testing.assert_allclose(table[name], np.tile(one[name], 2), rtol=1e-9, err_msg=name)


def test_a_number_that_stays_over_time_is_a_row_in_each_frame(draw_cells):
    drawn = draw_cells((1.0, 1.0))
    movie = np.stack([drawn.labels, drawn.labels])
    table = measure(movie, Image(movie, "TYX"), ("shape",))
    n = int(drawn.labels.max())
    assert table["label"].tolist() == [*range(1, n + 1)] * 2
    assert table["t"].tolist() == [0] * n + [1] * n


@pytest.mark.parametrize("axes", ["CYX", "YXC"])
def test_channels_may_be_anywhere(axes, draw_cells):
    drawn = draw_cells((1.0, 1.0))
    pixels = drawn.image.data if axes == "CYX" else np.moveaxis(drawn.image.data, 0, -1)
    table = measure(drawn.labels, Image(pixels, axes), ("intensity_max",))
    assert list(table.columns[-2:]) == ["intensity_max_ch0", "intensity_max_ch1"]
    assert table["intensity_max_ch1"].tolist() == [2 + 100 * n for n in table["label"]]


def test_pieces_give_what_the_whole_gives(draw_cells, monkeypatch):
    drawn = draw_cells((1.0, 1.0))
    whole = measure(drawn.labels, drawn.image, ALL)
    monkeypatch.setattr(measurement, "blocks", partial(blocks, block_px=50))
    lazy = Image(dask.array.from_array(drawn.image.data, chunks=(1, 40, 40)), "CYX", (1.0, 1.0))
    pieces = measure(drawn.labels, lazy, ALL)
    for name in whole:
        np.testing.assert_allclose(pieces[name], whole[name], rtol=1e-9, err_msg=name)


def test_only_what_is_asked_for_is_measured(draw_cells):
    drawn = draw_cells((1.0, 1.0))
    base = list(measure(drawn.labels, drawn.image, ()).columns)
    table = measure(drawn.labels, drawn.image, ("circularity", "intensity_mean"))
    assert list(table.columns) == [*base, "circularity", "intensity_mean_ch0", "intensity_mean_ch1"]


def test_other_images_are_measured_under_their_name(draw_cells):
    drawn = draw_cells((1.0, 1.0))
    table = measure(drawn.labels, drawn.image, ("intensity_mean",), others={"ki67": drawn.labels * 3.0})
    np.testing.assert_allclose(table["intensity_mean_ki67"], 3 * table["label"])


def test_a_result_is_measured_in_the_part_it_was_counted_in(draw_cells):
    drawn = draw_cells((1.0, 1.0))
    whole = measure(drawn.labels, drawn.image, ("intensity_sum",))
    labels = drawn.labels[:, 72:]
    part = Image(drawn.image.data[:, :, 72:], "CYX", (1.0, 1.0))
    result, numbers = result_of_labels(labels, part)
    table = measure(replace(result, offset=(0, 72)), drawn.image, "intensity_sum")
    expected = whole.set_index("label").loc[numbers, "intensity_sum_ch0"]
    np.testing.assert_allclose(table["intensity_sum_ch0"], expected)
    np.testing.assert_allclose(table["x"], whole.set_index("label").loc[numbers, "x"], rtol=1e-6)


def test_no_cells_have_a_table_without_rows():
    table = measure(np.zeros((20, 20), np.int32), np.zeros((20, 20)), ALL)
    assert len(table) == 0


def test_labels_of_another_image_are_refused(draw_cells):
    drawn = draw_cells((1.0, 1.0))
    with pytest.raises(AxesError, match="cells were counted in"):
        measure(drawn.labels, drawn.image.data[:, :50])


def test_unknown_measurements_are_refused(draw_cells):
    drawn = draw_cells((1.0, 1.0))
    with pytest.raises(SettingsError, match="no measurement 'colour'"):
        measure(drawn.labels, drawn.image, ("colour",))
    with pytest.raises(SettingsError, match="no measurement 'score'"):
        keys_of(("score",))


def test_measure_is_public(draw_cells):
    assert cellwright.measure is measure


def test_every_column_is_described(draw_cells):
    for spacing in ((1.0, 1.0), (2.0, 0.5, 0.5)):
        drawn = draw_cells(spacing)
        for name in measure(drawn.labels, drawn.image, ALL):
            column = column_of(name)
            assert column.description, name
            assert column.title, name


def test_units_are_told():
    assert column_of("perimeter_um").unit == "µm"
    assert column_of("volume_px").heading == "Volume [voxels]"
    assert column_of("intensity_corrected_mean_ch2").title == "Mean - background ch2"
    assert column_of("cytoplasm_intensity_mean_ch0").group == "compartments"
    assert column_of("mine").title == "mine"
    assert len(documentation().splitlines()) == len(COLUMNS) + 2


def test_a_group_tells_what_it_measures():
    told = group_help("shape").splitlines()
    assert len(told) == len([one for one in COLUMNS.values() if one.group == "shape"])
    assert (
        "Eccentricity: Of the ellipse with the same second moments: 0 for a circle, near 1 for a line."
        in told
    )


@pytest.mark.parametrize("spacing", [(0.1, 1.0), (1.0, 0.1), (0.1, 1.0, 1.0), (1.0, 0.1, 1.0)], ids=str)
def test_rings_are_whole_in_pixels_of_any_shape(spacing):
    shape = tuple(int(12 * max(spacing) / side) for side in spacing)
    labels = np.zeros(shape, np.int32)
    labels[tuple(slice(n // 2, n // 2 + 1) for n in shape)] = 1
    pixels = np.random.default_rng(0).normal(size=shape)
    settings = MeasureSettings(ring_gap_px=0, ring_width_px=4)
    image = Image(pixels, "ZYX"[-len(shape) :], spacing)
    table = measure(labels, image, "intensity_corrected_mean", settings=settings)
    around = rings(labels, labels, 0, 4, spacing) > 0
    expected = pixels[labels > 0].mean() - np.median(pixels[around])
    assert table["intensity_corrected_mean_ch0"][0] == pytest.approx(expected)


@pytest.mark.parametrize(
    "labels",
    [np.array([[0, -1], [3, 3]]), np.eye(2), np.eye(2, dtype=bool), np.full((2, 2), 2**63, np.uint64)],
    ids=str,
)
def test_what_is_no_label_is_refused(labels):
    with pytest.raises(ImageError, match="Number the cells from 1 on"):
        measure(labels, np.ones((2, 2)))


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", ">i4", "u4", "i8", "u8"])
def test_labels_of_every_whole_number_are_measured(dtype):
    labels = np.zeros((40, 40), dtype)[::2, ::-2]
    highest = min(np.iinfo(dtype).max, 2**40)
    labels[2:4, 2:5], labels[10:12, 10:12] = 7, highest
    labels.flags.writeable = False
    pixels = np.full((20, 20), 65_535, ">u2")[:, ::-1]
    table = measure(labels, pixels, ("intensity_sum", "intensity_median"))
    assert table["label"].tolist() == [7, highest]
    assert table["intensity_sum_ch0"].tolist() == [6 * 65_535, 4 * 65_535]
    assert table["intensity_median_ch0"].tolist() == [65_535, 65_535]


@pytest.mark.parametrize(
    "others", [{"ch0": np.ones((8, 8))}, {"a": np.ones((2, 8, 8)), "a_ch1": np.ones((8, 8))}]
)
def test_columns_of_one_name_are_refused(others):
    labels = np.pad(np.ones((2, 2), np.int32), 3)
    images = {name: Image(pixels, "CYX"[-pixels.ndim :]) for name, pixels in others.items()}
    with pytest.raises(SettingsError, match="Rename the image"):
        measure(labels, np.ones((8, 8)), ("intensity_mean",), others=images)


PATCH = np.zeros((20, 20), np.int32)
PATCH[2:6, 2:6], PATCH[10:15, 10:15] = 1, 3


def test_labels_of_other_pixels_than_the_image_are_refused():
    for labels in (PATCH[:10], PATCH[:, 4:], PATCH[np.newaxis], PATCH[0, 0]):
        with pytest.raises(AxesError, match="must fit the image"):
            measure(labels, np.zeros((20, 20)))
        with pytest.raises(AxesError, match="must fit the image"):
            cellwright.analyse(labels, np.zeros((20, 20)))


def test_labels_may_lack_leading_axes_of_length_1():
    assert len(measure(PATCH, Image(np.zeros((1, 20, 20)), "TYX"))) == 2


@pytest.mark.parametrize("kind", ["c8", "U1", "O", "M8[s]"])
def test_values_that_are_no_intensities_are_refused(kind):
    with pytest.raises(ImageError, match="must be bool, integer or float"):
        measure(PATCH, Image(np.zeros((20, 20)).astype(kind), "YX"), ["intensity_mean"])
    with pytest.raises(ImageError, match="whole numbers"):
        measure(PATCH.astype(kind), np.zeros((20, 20)))


def test_intensities_of_a_cell_with_a_missing_pixel_are_unknown():
    pixels = np.where(np.arange(400).reshape(20, 20) < 60, np.nan, 7.0)
    table = measure(PATCH, pixels, "intensity").filter(like="intensity")
    assert table.iloc[0].isna().all()
    pixels[14:20, 18:] = np.nan  # in the ring of the other cell
    table = measure(PATCH, pixels, "intensity")
    assert table["intensity_median_ch0"][1] == 7
    assert np.isnan(table["intensity_corrected_mean_ch0"][1])


def test_lines_of_missing_pixels_through_cells_are_bridged_as_for_the_count():
    pixels = np.add.outer(np.arange(20.0), 3 * np.arange(20.0))
    known = measure(PATCH, pixels, "intensity").filter(like="intensity")
    pixels[:, 10:12], pixels[5:9] = np.nan, np.inf
    found = measure(PATCH, pixels, "intensity").filter(like="intensity")
    assert np.allclose(found, known)


def test_pixels_that_are_far_too_long_are_refused_at_once():
    with pytest.raises(SettingsError, match="differ by up to 250 times"):
        measure(PATCH[np.newaxis], Image(np.zeros((1, 20, 20)), "ZYX", (2e-6, 0.5, 0.5)), ["shape"])
