from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import torch
from torch import nn

from cellwright.core.data import Image
from cellwright.core.errors import AnnotationError, AxesError, OutOfMemoryError, SettingsError
from cellwright.core.tasks import run
from cellwright.inference import context
from cellwright.inference.image_count import summary_row
from cellwright.inference.pipeline import count_cells, recount
from cellwright.inference.settings import EngineSettings
from cellwright.models.families import density
from cellwright.models.families.flow import FLOW_SCALE
from cellwright.models.fit import WARN_BELOW, in_short, in_short_of
from cellwright.ops.codecs.density import DensitySettings, cells_to_density
from cellwright.ops.codecs.flow import labels_to_flow
from cellwright.ops.measure.analysis import Counted
from cellwright.ops.measure.prediction_interval import (
    DOUBTED_BELOW,
    crowd_notice,
    disagreement_notice,
    fit_interval,
    overlapping,
    recalibrated,
    with_calibration,
)

UNIT = density.UNIT
DIAMETER = 20.0
SPEC = replace(
    density.SPECS["small"],
    percentiles=(0.0, 100.0),
    diameter_range_px=(12.0, 50.0),
    options={"density_variance": 0.1},
    map_channels={"density": 1},
)
TELLING = replace(SPEC, map_channels=density.MAP_CHANNELS)  # the foreground, too


class Oracle(nn.Module):
    """Bright is dense: the raw output whose density is the mean of the channels, a cell in 1000 pixels."""

    def forward(self, image):
        dense = UNIT * image.mean(dim=1, keepdim=True) / 1000
        return (dense.clamp_min(1e-7).expm1()).log()


class Seeing(Oracle):
    """Notes the shapes it is given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __deepcopy__(self, memo):
        return self

    def forward(self, image):
        self.seen.append(tuple(image.shape))
        return super().forward(image)


@pytest.fixture
def oracle():
    return density.DensityModel(replace(SPEC, halo=16), Oracle())


@pytest.fixture
def small():
    model = density.build()
    for module in model.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.with_network(model.network, spec=replace(model.spec, diameter_range_px=(0.1, 5000.0)))


def cells(n=30, shape=(120, 200), diameter=DIAMETER, seed=0, apart=0.5):
    """A density of round cells, at least this share of their width apart, and their centres."""
    rng = np.random.default_rng(seed)
    points = []
    while len(points) < n:
        point = rng.uniform(0, shape)
        if all(np.hypot(*(point - other)) > apart * diameter for other in points):
            points.append(point)
    areas = np.full(n, np.pi / 4 * diameter**2, np.float32)
    return cells_to_density(np.array(points, np.float32), areas, shape)[0], np.array(points)


def counted(pixels, model, axes="YX", settings=None, **engine):
    facts = {"device": "cpu", "precision": "float32", **engine}
    return run(count_cells(Image(pixels, axes), model, settings, EngineSettings(**facts)))


def test_the_sum_of_the_map_is_the_count(oracle):
    pixels, _ = cells()
    result = counted(pixels, oracle)
    expected = pixels.sum() / pixels.max() / 1000
    assert result.count == pytest.approx(expected, rel=1e-3)
    assert result.count == result.maps["density"].sum(dtype=np.float64)
    assert (result.maps["density"].shape, result.maps["density"].dtype) == (pixels.shape, np.float32)
    assert np.allclose(result.maps["density"], pixels / pixels.max() / 1000, atol=1e-8, rtol=1e-3)
    assert (len(result.cells), result.cells.points.shape, result.cells.labels) == (0, (0, 2), None)
    assert (result.offset, result.notices, result.interval) == ((0, 0), (), None)


def test_the_same_through_the_door_of_all_families(oracle):
    pixels, _ = cells()
    engine = EngineSettings(device="cpu", precision="float32")
    through_the_door = run(count_cells(Image(pixels, "YX"), oracle, None, engine))
    assert through_the_door.count == counted(pixels, oracle).count
    assert through_the_door.provenance.settings["density"] == {"calibration": 1.0, "calibration_error": 0.0}


@pytest.mark.parametrize("axes", ["YXC", "CYX", "TYX", "TCYX", "TYXC"])
def test_axes(oracle, axes):
    pixels, _ = cells(shape=(40, 60), n=6)
    lengths = {"T": 4, "C": 3 if axes.endswith("C") else 2}
    others = [axis for axis in axes if axis not in "YX"]
    stacked = np.broadcast_to(pixels, (*(lengths[axis] for axis in others), *pixels.shape))
    order = [axes.index(axis) for axis in (*others, "Y", "X")]
    result = counted(np.moveaxis(stacked, range(len(order)), order), oracle, axes)
    lead = (4,) if "T" in axes else ()
    assert result.maps["density"].shape == (*lead, *pixels.shape)
    one = counted(pixels, oracle).count
    assert np.allclose(result.maps["density"].sum(axis=(-2, -1)), one, rtol=1e-3)
    assert result.count == pytest.approx(one * (4 if lead else 1), rel=1e-3)
    assert result.cells.points.shape == (0, len(lead) + 2)


def test_time_points_are_counted_each_by_itself(oracle):
    frames = np.stack([cells(n, (48, 64), seed=n)[0] for n in (3, 12, 20)])
    found = counted(frames, oracle, "TYX", batch_size=2).maps["density"]
    assert np.allclose(found, frames / frames.max() / 1000, rtol=1e-3, atol=1e-8)


def test_a_volume_is_refused(small):
    with pytest.raises(AxesError, match="density counts in 2D"):
        counted(np.random.default_rng(0).random((3, 32, 32)), small, "ZYX")


@pytest.mark.parametrize("pixels", [np.zeros((40, 50)), np.full((2, 30, 30), 7, np.uint8), np.ones((1, 1))])
def test_an_image_of_one_intensity_has_no_cells(small, pixels):
    error = fit_interval([10.0, 20.0], [11, 18])
    small = small.with_network(small.network, spec=replace(small.spec, count_error=error))
    result = counted(pixels, small, "TYX"[-pixels.ndim :])
    assert result.count == 0
    assert result.maps["density"].shape == pixels.shape
    assert result.interval[0] == 0


@pytest.mark.parametrize("shape", [(5, 300), (33, 47), (131, 129)])
def test_padding_is_not_counted(oracle, shape):
    pixels = np.random.default_rng(0).random(shape).astype(np.float32)
    pixels[0, 0], pixels[-1, -1] = 0, 1
    result = counted(pixels, oracle)
    assert result.count == pytest.approx(pixels.sum() / 1000, rel=1e-3, abs=1e-4)


def test_tiles_and_blocks_give_the_same_density(monkeypatch, small):
    pixels, _ = cells(60, (320, 350), 14)
    whole = counted(pixels, small).maps["density"]
    tiled = counted(pixels, small, tile_px=128).maps["density"]
    monkeypatch.setattr(context, "WHOLE_PX", 200)
    monkeypatch.setattr(context, "BLOCK_PX", 160)
    blocks = counted(da.from_array(pixels, chunks=100), small).maps["density"]
    assert whole.std() > 1e-6
    assert np.allclose(tiled, whole, atol=1e-7)
    assert np.allclose(blocks, whole, atol=1e-7)


def test_blocks_of_a_rescaled_image_keep_the_sum(monkeypatch, oracle):
    pixels, _ = cells(60, (300, 330), 8)
    whole = counted(pixels, oracle, diameter_px=8)
    monkeypatch.setattr(context, "WHOLE_PX", 400)
    monkeypatch.setattr(context, "BLOCK_PX", 300)
    blocks = counted(pixels, oracle, diameter_px=8)
    assert whole.provenance.settings["zoom"] == blocks.provenance.settings["zoom"] == 26 / 8
    assert blocks.count == pytest.approx(whole.count, rel=1e-3)
    assert np.allclose(blocks.maps["density"], whole.maps["density"], atol=0.02 * whole.maps["density"].max())


@pytest.mark.parametrize("diameter", [5, 8, 70, 140])
def test_rescaling_follows_the_stated_diameter(oracle, diameter):
    """The oracle takes every pixel it sees for as dense, so that its count goes with the zoomed area."""
    pixels, _ = cells(12, (150, 210), 30)
    plain, zoomed = counted(pixels, oracle, diameter_px=26), counted(pixels, oracle, diameter_px=diameter)
    zoom = zoomed.provenance.settings["zoom"]
    assert zoom == pytest.approx(26 / diameter)
    assert zoomed.maps["density"].shape == pixels.shape
    assert zoomed.count == pytest.approx(plain.count * zoom**2, rel=0.05)
    assert zoomed.notices == ()


@pytest.mark.parametrize("diameter", [0, 12, 26, 50])
def test_cells_of_a_fitting_size_are_counted_as_they_are(diameter):
    pixels, _ = cells(20, (150, 210), 24)
    model = density.DensityModel(SPEC, Seeing())
    result = counted(pixels, model, diameter_px=diameter)
    assert (result.provenance.settings["zoom"], result.notices) == (1.0, ())
    assert len(model.network.seen) == 1  # the look at the middle is what counts


class Truth(nn.Module):
    """Bright is dense: gives a density back from an image of it, which was scaled to 0 to 1."""

    def __init__(self, pixels):
        super().__init__()
        self.scale = UNIT * float(pixels.max())

    def forward(self, image):
        return (self.scale * image.mean(dim=1, keepdim=True)).clamp_min(1e-7).expm1().log()


@pytest.mark.parametrize(("diameter", "word"), [(6, "small"), (9, "small"), (70, "large")])
def test_without_a_diameter_the_density_tells_it(diameter, word):
    pixels, _ = cells(30, (18 * diameter, 20 * diameter), diameter, apart=1.5)
    model = density.DensityModel(SPEC, Truth(pixels))
    steps = []
    engine = EngineSettings(device="cpu", precision="float32")
    result = run(count_cells(Image(pixels, "YX"), model, None, engine), steps.append)
    assert result.provenance.settings["zoom"] == pytest.approx(26 / diameter, rel=0.25)
    assert f"too {word}" in result.notices[0]
    assert steps[-1] == replace(steps[-1], stage="rescaled tiles", done=1, total=1)
    assert result.count == pytest.approx(30 * result.provenance.settings["zoom"] ** 2, rel=0.05)


class Blurred(Truth):
    """Gives the density of the whole image everywhere, and bright pixels as the foreground."""

    def forward(self, image):
        sharp = super().forward(image)
        even = sharp.exp().log1p().mean(dim=(2, 3), keepdim=True).expand_as(sharp).expm1().log()
        nowhere = torch.zeros_like(image[:, :2])
        return torch.cat([even, nowhere, 1000 * (image.mean(dim=1, keepdim=True) - 0.05)], dim=1)


def test_the_foreground_tells_the_diameter_where_a_density_is_blurred():
    pixels, points = cells(30, (180, 200), 9, apart=1.5)
    away = np.hypot(*(np.indices(pixels.shape)[:, None] - points.T[:, :, None, None])).min(axis=0)
    pixels = np.where(away < 4.5, np.float32(1), np.float32(0))
    model = density.DensityModel(TELLING, Blurred(pixels * 30 / pixels.sum()))
    assert counted(pixels, model).provenance.settings["zoom"] == pytest.approx(26 / 9, rel=0.1)


class Telling(Truth):
    """Gives four fifths of the density, and these cells one by one."""

    def __init__(self, pixels, labels):
        super().__init__(pixels)
        flow, mask = FLOW_SCALE * labels_to_flow(labels), 1000 * ((labels > 0)[np.newaxis] - 0.5)
        self.cells = torch.from_numpy(np.concatenate([flow, mask])).float()

    def forward(self, image):
        dense = super().forward(image).exp().log1p()
        cells = torch.zeros(len(image), 3, *image.shape[2:])
        cells[:, 2] = -500  # what was padded
        cells[:, :, : self.cells.shape[1], : self.cells.shape[2]] = self.cells
        return torch.cat([(0.8 * dense).expm1().log(), cells], dim=1)


def squares():
    """The density of six squares of a cell each, and their labels."""
    labels = np.zeros((64, 208), np.int32)
    for number, column in enumerate(range(10, 190, 30), start=1):
        labels[20:40, column : column + 20] = number
    return (labels > 0) / np.float32(400), labels


@pytest.mark.parametrize("axes", ["YX", "TYX"])
def test_what_stands_alone_is_a_whole_cell(axes):
    pixels, labels = squares()
    frames = pixels if axes == "YX" else np.stack([pixels] * 3)
    alone = counted(frames, density.DensityModel(TELLING, Telling(pixels, labels)), axes, diameter_px=26)
    assert alone.count == pytest.approx(6 * len(frames.reshape(-1, *pixels.shape)), rel=1e-4)
    one = alone.maps["density"][..., 15:45, 5:35].sum(axis=(-2, -1))
    assert np.allclose(one, 1, rtol=0.02)  # a Gaussian reaches further


@pytest.mark.parametrize("n_told", [0, 3, 6])
def test_the_count_is_the_mean_of_the_density_and_of_the_cells_one_by_one(n_told):
    pixels, labels = squares()
    network = Telling(pixels, labels)
    network.cells[:2, labels > n_told] *= 0.01  # of these the network is not sure: they are no cells
    result = counted(pixels, density.DensityModel(TELLING, network), diameter_px=26)
    assert result.count == pytest.approx((6 + n_told) / 2, rel=1e-4)


def test_too_few_cells_tell_no_diameter():
    pixels, _ = cells(3, (80, 80), 6)
    model = density.DensityModel(SPEC, Truth(pixels))
    assert counted(pixels, model).provenance.settings["zoom"] == 1.0


def test_progress_counts_every_tile_once(oracle):
    pixels, _ = cells(20, (200, 300))
    frames = np.stack([pixels] * 3)
    steps = []
    engine = EngineSettings(device="cpu", tile_px=128)
    run(count_cells(Image(frames, "TYX"), oracle, None, engine), steps.append)
    done = [step.done for step in steps if step.stage == "tiles"]
    assert done == sorted(done)
    assert (done[-1], steps[-1].total) == (18, 18)


def test_the_interval_is_that_of_the_model(oracle):
    pixels, _ = cells()
    result = counted(pixels, replace_error(oracle, (1.0, 2.0, 0.5)))
    scale = (1 + result.count) ** 0.5
    assert result.interval == pytest.approx((max(result.count - scale, 0), result.count + 2 * scale))
    series = counted(np.stack([pixels] * 4), replace_error(oracle, (1.0, 2.0, 0.5)), "TYX")
    assert series.interval == pytest.approx(tuple(4 * end for end in result.interval), rel=1e-3)


def replace_error(model, count_error):
    return model.with_network(model.network, spec=replace(model.spec, count_error=count_error))


def test_a_calibration_found_elsewhere_corrects_the_count(oracle):
    pixels, _ = cells()
    model = replace_error(oracle, (1.0, 1.0, 0.5))
    plain = counted(pixels, model)
    corrected = counted(pixels, model, settings=DensitySettings(1.5, 0.2))
    assert corrected.count == pytest.approx(1.5 * plain.count)
    assert np.allclose(corrected.maps["density"], 1.5 * plain.maps["density"])
    assert corrected.interval[1] > 1.5 * plain.interval[1]
    again = with_calibration(corrected, DensitySettings())
    assert again.count == pytest.approx(plain.count)
    assert again.interval == pytest.approx(plain.interval)
    assert again.provenance == replace(plain.provenance, seconds=again.provenance.seconds)


class Promising:
    """Stands in for a calibration that expects always the same."""

    closer_below = 0.0

    def __init__(self, answer):
        self.answer = answer

    def expected_f1(self, facts):
        return self.answer


@pytest.mark.parametrize("expected", [0.9, 0.5])
def test_a_count_that_is_not_to_be_trusted_is_told_and_has_a_wide_interval(expected):
    pixels, labels = squares()
    model = replace_error(density.DensityModel(TELLING, Telling(pixels, labels)), (0.1, 0.1, 0.5))
    bare = counted(pixels, model, diameter_px=26)
    assert (bare.fit, bare.notices) == (None, ())
    model.fit = Promising(expected)
    result = counted(pixels, model, diameter_px=26)
    assert result.fit == expected
    is_doubted = expected < WARN_BELOW
    assert bool(result.notices) == is_doubted
    wide = (result.count * expected, result.count / expected)
    assert result.interval == pytest.approx(wide if is_doubted else bare.interval)
    corrected = recount(result, None, model, DensitySettings(1.5, 0.1))
    assert (corrected.fit, corrected.notices) == (None, ())  # it was of the model alone
    assert corrected.interval[1] < 2 * result.count
    assert counted(pixels, model, settings=DensitySettings(1.5, 0.1), diameter_px=26).fit is None
    again = recount(corrected, None, model, DensitySettings())
    assert (again.fit, again.notices) == (result.fit, result.notices)
    assert again.interval == pytest.approx(result.interval)


def test_cells_that_may_lie_over_each_other_are_told():
    pixels, labels = squares()
    narrow = (slice(18, 42), slice(6, 184))  # little but cells
    results = []
    for window in ((slice(None), slice(None)), narrow):
        model = density.DensityModel(TELLING, Telling(pixels[window], labels[window]))
        model = replace_error(model, (0.1, 0.1, 0.5))
        model.fit = Promising(0.9)
        results.append(counted(pixels[window], model, diameter_px=26))
    sparse, crowded = results
    assert sparse.notices == ()
    covered = crowded.provenance.settings["covered"]
    assert covered == pytest.approx((labels[narrow] > 0).mean(), abs=0.01)
    likely = overlapping(crowded.count, covered)
    assert likely < crowded.interval[1] < 1.1 * likely
    assert f"Cells cover {covered:.0%} of the image" in crowded.notices[-1]
    rows = [summary_row(Counted(one)) for one in (sparse, crowded)]
    assert [row["expectation"] for row in rows] == [
        "Expect about 9 of 10 right.",
        "Expect about 9 of 10 right, hidden ones aside.",
    ]
    assert in_short_of(rows[1]) == "about 9 of 10 right, hidden ones aside"
    assert in_short(0.5, crowded.notices) == in_short(0.5), "what is doubted anyway needs no more words"
    corrected = recount(crowded, None, model, DensitySettings(1.1, 0.01))
    assert (corrected.notices, corrected.interval[1] < likely) == (crowded.notices[:-1], True)
    assert recount(corrected, None, model, DensitySettings()).notices == crowded.notices
    of_image = "Cells cover slips.zarr describes 2 images in one group; the first is read."
    named_so = replace(sparse, notices=(of_image,))
    assert in_short(0.9, named_so.notices) == "about 9 of 10 right", "the name of an image tells nothing"
    assert recount(named_so, None, model, DensitySettings(1.1, 0.01)).notices == (of_image,)


class Dark(Telling):
    """Sees no cells in frames that are dark."""

    def forward(self, image):
        told = super().forward(image)
        told[image.amax(dim=(1, 2, 3)) < 1e-3, -1] = -500
        return told


def test_of_a_movie_the_most_crowded_frame_is_told():
    """Also where all frames together are not crowded, and once it is counted anew."""
    pixels, labels = squares()
    narrow = (slice(18, 42), slice(6, 184))
    frames = np.stack([pixels[narrow]] * 4)
    frames[[0, 1, 3]] = 0
    model = density.DensityModel(TELLING, Dark(pixels[narrow], labels[narrow]))
    model = replace_error(model, (0.1, 0.1, 0.5))
    model.fit = Promising(0.9)
    result = counted(frames, model, "TYX", diameter_px=26)
    settings = result.provenance.settings
    share = (labels[narrow] > 0).mean()
    assert settings["covered"] == pytest.approx(share / 4, abs=0.01)
    assert settings["most_covered"] == (2, pytest.approx(share, abs=0.01))
    told = (
        f"Cells cover {settings['most_covered'][1]:.0%} of frame 2, the most crowded one, where many may be"
    )
    assert result.notices[-1].startswith(told)
    corrected = recount(result, None, model, DensitySettings(1.1, 0.01))
    assert corrected.notices == result.notices[:-1]
    assert recount(corrected, None, model, DensitySettings()).notices == result.notices
    both = crowd_notice(40.0, 0.5, (2, 0.7))
    assert both.startswith("Cells cover 50% of the image, and 70% of frame 2, the most crowded one: if they")


def test_discs_at_random_are_as_many_as_what_they_cover_tells(rng):
    rows, columns = np.indices((600, 600))
    mask, n_true = np.zeros((600, 600), bool), 700
    for y, x in rng.uniform(-10, 610, (n_true, 2)):
        mask |= (rows - y) ** 2 + (columns - x) ** 2 < 10**2
    side_by_side = mask.sum() / (np.pi * 10**2)
    assert overlapping(side_by_side, mask.mean()) == pytest.approx(n_true * (600 / 620) ** 2, rel=0.1)


def test_users_are_warned_of_what_is_widened():
    assert DOUBTED_BELOW == WARN_BELOW


@pytest.fixture
def field():
    """A result that holds two thirds of 180 cells, and squares with the true number in each."""
    pixels, points = cells(180, (240, 240), 10)
    model = density.DensityModel(SPEC, Truth(pixels))
    result = counted(pixels, replace_error(model, (2.0, 2.0, 0.75)), diameter_px=20)
    scale = np.float32(120 / result.count)
    result = replace(result, count=120.0, maps={"density": scale * result.maps["density"]})
    result = with_calibration(result, DensitySettings())  # the interval follows
    squares = []
    for y in range(0, 240, 80):
        for x in range(0, 240, 80):
            inside = ((points >= (y, x)) & (points < (y + 80, x + 80))).all(axis=1)
            squares.append(([[y, x], [y + 80, x + 80]], int(inside.sum())))
    return result, squares


def test_boxes_counted_by_hand_correct_the_count(field):
    result, squares = field
    assert result.count == pytest.approx(120)
    corrected = recalibrated(result, *zip(*squares[::2], strict=True))
    assert corrected.count == pytest.approx(180, rel=0.06)
    assert corrected.maps["density"].sum(dtype=np.float64) == pytest.approx(corrected.count)
    low, high = corrected.interval
    assert low < 180 < high
    assert high - low < result.interval[1] - result.interval[0]
    used = corrected.provenance.settings["density"]
    assert used["calibration"] == pytest.approx(1.5, rel=0.06)
    assert 0 < used["calibration_error"] < 0.3
    assert corrected.notices[-1].startswith("Corrected by 1.")


def test_the_last_calibration_replaces_the_one_before(field):
    result, squares = field
    once = recalibrated(result, *zip(*squares[:2], strict=True))
    twice = recalibrated(once, *zip(*squares[::2], strict=True))
    direct = recalibrated(result, *zip(*squares[::2], strict=True))
    assert twice.count == pytest.approx(direct.count)
    assert twice.interval == pytest.approx(direct.interval)
    assert len(twice.notices) == len(direct.notices) == 1


def test_a_calibration_corrects_a_result_without_an_error_bar(field):
    result, squares = field
    settings = {**result.provenance.settings, "count_error": ()}
    bare = replace(result, interval=None, provenance=replace(result.provenance, settings=settings))
    assert recalibrated(bare, *zip(*squares, strict=True)).interval == pytest.approx((180, 180), rel=1e-4)


def test_a_calibration_that_cannot_be_is_refused(field):
    result, squares = field
    with pytest.raises(AnnotationError, match="box 1 of 1"):
        recalibrated(result, [[[900, 900], [910, 910]]], [3])
    with pytest.raises(SettingsError, match="calibration must lie"):
        recalibrated(result, [squares[0][0]], [100_000])


def test_what_flow_and_density_differ_in_is_said():
    interval = (100.0, 150.0)
    assert disagreement_notice(100, 120.0, interval) == disagreement_notice(149.9, 120.0, interval) == ""
    fewer, more = disagreement_notice(80, 120.0, interval), disagreement_notice(200, 120.0, interval)
    assert "80, fewer than the density's 120 (100 to 150)" in fewer
    assert "200, more than" in more
    assert all(sentence.endswith(".") for sentence in (fewer, more))


class Hungry(nn.Module):
    def forward(self, image):
        raise RuntimeError("DefaultCPUAllocator: not enough memory")


def test_an_image_too_large_for_memory_is_told(oracle):
    with pytest.raises(OutOfMemoryError):
        counted(cells()[0], oracle.with_network(Hungry()))
