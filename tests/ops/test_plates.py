import numpy as np
import pytest

from cellwright.ops.plates import channel_names, plate_map, row_name, row_number, shade, well_place


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("A1", (0, 0)),
        ("b03", (1, 2)),
        ("H_12", (7, 11)),
        ("AF48", (31, 47)),
        ("A0", None),
        ("Control", None),
        ("A100", None),
    ],
)
def test_wells_have_places(name, place):
    assert well_place(name) == place


@pytest.mark.parametrize(
    ("names", "channels"),
    [
        (["A01_s1_w2", "A01_s1_w10", "A01_s1_w1"], ("_w1", "_w2", "_w10")),
        (["A01_s1_w1AB-9C", "A01_s1_w2FF-07"], ("_w1", "_w2")),  # an identifier follows
        (["r01c01f01p01-ch1sk1", "r01c01f01p01-ch2sk1"], ("-ch1", "-ch2")),
        (["day1/x_c0", "day2/x_c1"], ()),
        (["wt_white", "wt_child", "A01_s1"], ()),
        ([], ()),
    ],
)
def test_names_of_one_place_tell_channels_apart(names, channels):
    assert channel_names(names) == channels


def test_rows_are_named_beyond_z():
    assert [row_name(row) for row in (0, 25, 26, 31)] == ["A", "Z", "AA", "AF"]
    assert all(row_number(row_name(row)) == row for row in range(32))


def test_a_well_has_the_mean_of_its_images():
    plate = plate_map([("A1", 2.0), ("A01", 4.0), ("C5", np.nan), ("waste", 9.0)])
    assert plate.values.shape == (4, 6)  # the smallest plate with a C5 has 24 wells
    assert plate.values[0, 0] == 3.0
    assert plate.n_images[0, 0] == 2
    assert np.isnan(plate.values[2, 4])
    assert np.isfinite(plate.values).sum() == 1
    assert plate.colour(2, 4) == ""
    assert plate.limits == (3.0, 3.0)


@pytest.mark.parametrize(
    ("well", "shape"), [("B3", (2, 3)), ("H12", (8, 12)), ("I1", (16, 24)), ("Z60", (26, 60))]
)
def test_plates_have_the_usual_sizes(well, shape):
    assert plate_map([(well, 1.0)]).values.shape == shape


def test_names_that_are_no_wells_give_no_plate():
    assert plate_map([("image", 1.0)]) is None
    assert plate_map([]) is None
    assert np.isnan(plate_map([("A1", np.nan)]).limits).all()


def test_colours_go_from_dark_to_light():
    plate = plate_map([("A1", 0.0), ("A2", 5.0), ("A3", 10.0)])
    assert [plate.colour(0, column) for column in range(3)] == ["#440154", "#21918c", "#fde725"]
    assert shade(-1) == shade(0)
