import time

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label as connected_parts

from cellwright.core.errors import SettingsError
from cellwright.ops.simulation.light import fibres, smooth_noise, specks, wide_blur
from cellwright.ops.simulation.shapes import draw_outlines, stamp
from cellwright.ops.simulation.simulate import LOOKS, Simulation, simulate
from cellwright.ops.simulation.style import Style, draw_style

CALM = Style(
    diameter_px=20,
    notches=0,
    dividing=0,
    roughness=0,
    elongation=1,
    size_spread=0,
    brightness_spread=0,
    texture=0.05,
    holes=0,
    spots=0,
    dome=0,
    rim=0,
    haze=0,
    background=0.02,
    debris=0,
    ghosts=0,
    unevenness=0,
    photons=1e5,
    read_noise=0.001,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def assert_exact(drawn: Simulation) -> None:
    n = len(drawn.points)
    assert drawn.labels.dtype == np.int32
    np.testing.assert_array_equal(np.unique(drawn.labels[drawn.labels > 0]), np.arange(1, n + 1))
    assert drawn.classes.shape == (n,)
    assert set(drawn.classes.tolist()) <= {0, 1}
    expected = ndimage.center_of_mass(drawn.labels > 0, drawn.labels, np.arange(1, n + 1))
    np.testing.assert_allclose(drawn.points, np.reshape(expected, drawn.points.shape), atol=1e-2)
    areas = np.bincount(drawn.labels.ravel())[1:]
    assert (areas >= 6).all()
    assert connected_parts(drawn.labels, connectivity=1).max() == n


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("seed", range(6))
def test_truth_is_exact(look: str, seed: int) -> None:
    drawn = simulate(look, (150, 190), rng(seed))
    assert drawn.labels.shape == (150, 190)
    assert drawn.image.shape[:2] == (150, 190)
    assert drawn.image.dtype in (np.uint8, np.uint16)
    assert_exact(drawn)


def test_truth_is_exact_in_3d() -> None:
    drawn = simulate("fluorescence", (16, 90, 80), rng(3), diameter_px=18, n_cells=25)
    assert drawn.image.shape == drawn.labels.shape == (16, 90, 80)
    assert drawn.points.shape[1] == 3
    assert len(drawn.points) > 15
    assert_exact(drawn)


def test_planes_far_apart_make_flat_cells() -> None:
    style = Style(**{**_fields(CALM), "z_step": 5.0, "coverage": 0.05})
    drawn = simulate("fluorescence", (20, 128, 128), rng(1), style=style)
    sizes = [[s.stop - s.start for s in box] for box in ndimage.find_objects(drawn.labels)]
    depth, height, _ = np.median(sizes, axis=0)
    assert height == pytest.approx(20, abs=2)
    assert depth == pytest.approx(4, abs=1.01)


@pytest.mark.parametrize("look", LOOKS)
def test_same_seed_draws_the_same_image(look: str) -> None:
    one, two, other = (simulate(look, (96, 96), rng(seed), diameter_px=16) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.labels, two.labels)
    assert not np.array_equal(one.labels, other.labels)


@pytest.mark.parametrize("diameter", [6, 20, 100])
def test_cells_have_the_diameter_asked_for(diameter: int) -> None:
    style = Style(**{**_fields(CALM), "spacing": 1.0, "size_spread": 0.05})
    drawn = simulate("fluorescence", (600, 600), rng(2), diameter_px=diameter, n_cells=12, style=style)
    areas = np.bincount(drawn.labels.ravel())[1:]
    assert np.median(2 * np.sqrt(areas / np.pi)) == pytest.approx(diameter, rel=0.12)


def test_as_many_cells_as_asked_for_where_they_fit() -> None:
    drawn = simulate("fluorescence", (400, 400), rng(0), n_cells=40, style=CALM)
    assert len(drawn.points) == 40


def test_no_cell_makes_an_empty_truth() -> None:
    for look in LOOKS:
        drawn = simulate(look, (64, 64), rng(1), n_cells=0)
        assert drawn.labels.max() == 0
        assert drawn.points.shape == (0, 2)


def test_cells_are_brighter_than_the_background() -> None:
    drawn = simulate("fluorescence", (200, 200), rng(0), style=CALM)
    inside, outside = drawn.image[drawn.labels > 0], drawn.image[drawn.labels == 0]
    assert np.median(inside) > 3 * np.median(outside)


def test_nuclei_of_tissue_are_darker_and_bluer_than_what_surrounds_them() -> None:
    wins = 0
    for seed in range(8):
        drawn = simulate("tissue", (160, 160), rng(seed), diameter_px=20)
        image = drawn.image.astype(float)
        inside, outside = (image[drawn.labels > 0].mean(0), image[drawn.labels == 0].mean(0))
        wins += inside[0] < outside[0] - 15
    assert drawn.image.shape == (160, 160, 3)
    assert wins == 8


def test_phase_cells_wear_a_halo() -> None:
    style = Style(
        **{
            **_fields(CALM),
            "variant": "round",
            "diameter_px": 30,
            "background": 0.4,
            "rim": 0.6,
            "haze": 1.0,
            "gain": 0.8,
        }
    )
    contrasts = []
    for seed in range(8):
        drawn = simulate("phase", (256, 256), rng(seed), n_cells=8, style=style)
        distance = ndimage.distance_transform_edt(drawn.labels == 0)
        near, far = (distance > 1) & (distance < 4), distance > 40
        edge = (drawn.labels > 0) & (ndimage.minimum_filter(drawn.labels, 3) == 0)
        contrasts.append([np.median(drawn.image[where]) for where in (edge, far, near)])
    edges, fars, nears = np.transpose(contrasts)
    assert (nears > fars + 1).all()
    assert (edges < fars - 1).sum() >= 6


def test_dividing_cells_are_classed_and_bright() -> None:
    style = Style(**{**_fields(CALM), "dividing": 0.3})
    drawn = simulate("fluorescence", (300, 300), rng(2), n_cells=40, style=style)
    means = ndimage.mean(drawn.image, drawn.labels, np.arange(1, len(drawn.points) + 1))
    dividing = drawn.classes == 1
    assert 3 < dividing.sum() < len(dividing)
    assert means[dividing].mean() > 1.2 * means[~dividing].mean()


def test_debris_and_ghosts_belong_to_no_cell() -> None:
    dirty = Style(**{**_fields(CALM), "debris": 3.0, "ghosts": 1.0})
    drawn = simulate("fluorescence", (128, 128), rng(0), n_cells=0, style=dirty)
    assert drawn.image.max() > 2 * np.median(drawn.image)
    assert drawn.labels.max() == 0


def test_pressed_cells_meet_halfway_and_overlapping_ones_do_not() -> None:
    crowd = Style(**{**_fields(CALM), "spacing": 0.7, "clustering": 1.0, "coverage": 0.6})
    outlines = draw_outlines(200, (150, 150), crowd, rng(0))
    pressed = stamp(outlines, (150, 150), crowd)
    covering = stamp(outlines, (150, 150), Style(**{**_fields(crowd), "overlap": True}))
    assert not pressed.covered.any()
    assert covering.covered.any()
    assert np.count_nonzero(pressed.labels) == pytest.approx(np.count_nonzero(covering.labels), rel=0.02)
    assert not np.array_equal(pressed.labels > 0, np.zeros_like(pressed.labels, bool))
    spread = [np.bincount(s.labels.ravel())[1:].std() for s in (pressed, covering)]
    assert spread[0] < spread[1]


def test_touching_clusters_touch() -> None:
    lonely, sociable = (
        simulate("fluorescence", (300, 300), rng(1), n_cells=40, style=Style(**{**_fields(CALM), **knobs}))
        for knobs in ({"clustering": 0.0, "spacing": 1.2}, {"clustering": 1.0, "spacing": 0.8})
    )
    assert connected_parts(lonely.labels > 0).max() == len(lonely.points)
    assert connected_parts(sociable.labels > 0).max() < 0.5 * len(sociable.points)


@pytest.mark.parametrize("look", LOOKS)
def test_styles_differ(look: str) -> None:
    styles = {draw_style(look, rng(seed)) for seed in range(20)}
    assert len(styles) == 20
    assert all(3 <= style.diameter_px <= 60 for style in styles)


@pytest.mark.parametrize(
    ("look", "shape", "knobs", "message"),
    [
        ("x-ray", (64, 64), {}, "look must be one of"),
        ("phase", (8, 64, 64), {}, "Only fluorescence"),
        ("fluorescence", (64,), {}, "shape must be"),
        ("fluorescence", (0, 64), {}, "shape must be"),
        ("fluorescence", (64, 64), {"n_cells": -1}, "n_cells"),
        ("fluorescence", (64, 64), {"diameter_px": 0.0}, "diameter_px"),
    ],
)
def test_wrong_wishes_are_refused(look: str, shape: tuple[int, ...], knobs: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        simulate(look, shape, rng(), **knobs)


@pytest.mark.parametrize(("knob", "value"), [("coverage", 1.5), ("bits", 12), ("diameter_px", 2000)])
def test_wrong_styles_are_refused(knob: str, value: float) -> None:
    with pytest.raises(SettingsError, match=knob):
        Style(**{knob: value})


def test_unknown_look_has_no_style() -> None:
    with pytest.raises(SettingsError, match="x-ray"):
        draw_style("x-ray", rng())


@pytest.mark.parametrize(("shape", "scale"), [((400, 300), 3.0), ((400, 300), 25.0), ((40, 100, 90), 6.0)])
def test_noise_is_normal_and_smooth(shape: tuple[int, ...], scale: float) -> None:
    field = smooth_noise(shape, scale, rng(0))
    assert field.shape == shape
    assert field.std() == pytest.approx(1.0, abs=0.25)
    step = np.abs(np.diff(field, axis=-1)).mean()
    assert step < 1.5 / scale


def test_fibres_run_without_a_break() -> None:
    field = fibres((200, 240), 5.0, rng(0))
    assert 0 <= field.min() < field.max() <= 1
    assert np.abs(np.diff(field, axis=0)).max() < 0.6
    assert np.abs(np.diff(field, axis=1)).max() < 0.6


@pytest.mark.parametrize("sigma", [0.7, 4.0, 17.0])
def test_wide_blur_is_a_gaussian(sigma: float) -> None:
    field = rng(0).random((150, 170), np.float32)
    field[40:90, 60:130] += 3
    expected = ndimage.gaussian_filter(field, sigma, mode="nearest")
    inner = slice(30, -30), slice(30, -30)
    np.testing.assert_allclose(wide_blur(field, sigma)[inner], expected[inner], atol=0.15)


def test_specks_beyond_the_edge_are_cut() -> None:
    points = np.array([[5.0, 5.0], [-50.0, 5.0], [0.0, 19.0]])
    field = specks((10, 20), points, np.full((3, 2), 1.5), np.array([1.0, 1.0, 2.0]))
    assert field[5, 5] == pytest.approx(1.0, abs=1e-3)
    assert field[0, 19] == pytest.approx(2.0, abs=1e-3)
    assert field[9, 12] == pytest.approx(0.0, abs=1e-3)


def test_drawing_is_quick() -> None:
    seconds = []
    for seed in range(5):
        start = time.process_time()
        simulate("fluorescence", (256, 256), rng(seed), diameter_px=30, n_cells=30)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.3


def _fields(style: Style) -> dict:
    return {name: getattr(style, name) for name in Style.__slots__}
