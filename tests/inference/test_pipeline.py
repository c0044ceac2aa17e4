import gc
import itertools
import weakref
from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import tifffile
import torch
import zarr

import cellwright
from cellwright.core import data
from cellwright.core.data import Image
from cellwright.core.errors import (
    AxesError,
    CheckpointError,
    DeviceError,
    ImageError,
    OutOfMemoryError,
    SettingsError,
)
from cellwright.core.tasks import run
from cellwright.files.images import read_image
from cellwright.inference import context as context_module
from cellwright.inference import pipeline as count_module
from cellwright.inference.pipeline import (
    count,
    count_cells,
    count_with_prediction,
    recount,
)
from cellwright.inference.settings import EngineSettings
from cellwright.models import registry
from cellwright.models.checkpoint import save_checkpoint
from cellwright.models.families import flow
from cellwright.ops.codecs.flow import FlowSettings
from cellwright.ops.geometry.intensity import ONE_INTENSITY
from cellwright.ops.labels import label_properties

CPU = EngineSettings(device="cpu")


def counted(pixels, model, axes=None, settings=None, **engine):
    return count(pixels, model, axes=axes, settings=settings, engine=EngineSettings(device="cpu", **engine))


def counted_with_maps(pixels, model, axes="YX", settings=None, **engine):
    engine = EngineSettings(device="cpu", **engine)
    return run(count_with_prediction(Image(pixels, axes), model, settings, engine))


def assert_rows_fit_labels(cells, points_atol=1e-3):
    """Row i is label i + 1, and every column says so."""
    flat = cells.labels.reshape(-1, *cells.labels.shape[-2:])
    areas, points, boxes = label_properties(flat)
    assert cells.labels.dtype == np.int32
    assert np.array_equal(cells.areas, areas)
    assert np.allclose(cells.points[:, -2:], points[:, 1:], atol=points_atol)
    assert np.array_equal(cells.boxes[:, :, -2:], boxes[:, :, 1:])


def test_every_cell_is_found_in_place(blobs, oracle_model):
    result = counted(blobs.image, oracle_model)
    assert result.count == len(result.cells) == len(blobs)
    assert np.allclose(result.cells.points, blobs.points, atol=1e-4)
    assert np.array_equal(result.cells.labels > 0, blobs.labels > 0)
    assert (result.notices, result.offset) == ((), (0, 0))
    assert_rows_fit_labels(result.cells)


@pytest.mark.parametrize(
    "dtype",
    [
        "bool",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "int8",
        "int16",
        "int32",
        "float16",
        "float32",
        "float64",
    ],
)
def test_all_types(blobs, oracle_model, dtype):
    image = blobs.image.astype(dtype) * np.ones((), dtype)
    gain = 1 if dtype == "bool" else 100
    assert counted((image * gain).astype(dtype), oracle_model).count == len(blobs)


@pytest.mark.parametrize(
    ("axes", "shape", "label_shape"),
    [
        ("CYX", (1,), ()),
        ("CYX", (2,), ()),
        ("ZYX", (1,), (1,)),
        ("ZYX", (3,), (3,)),
        ("TYX", (3,), (3,)),
        ("TZYX", (2, 3), (2, 3)),
        ("TCYX", (3, 2), (3,)),
        ("TCZYX", (1, 1, 1), (1, 1)),
    ],
)
def test_all_axes(blobs, oracle_model, axes, shape, label_shape):
    pixels = np.broadcast_to(blobs.image, (*shape, *blobs.image.shape))
    cells = counted(pixels, oracle_model, axes, link=False).cells
    n_frames = int(np.prod(label_shape))
    assert cells.labels.shape == (*label_shape, *blobs.image.shape)
    assert len(cells) == n_frames * len(blobs) == cells.labels.max()
    assert cells.points.shape == (len(cells), len(label_shape) + 2)
    leads = (
        np.array(np.unravel_index(np.arange(n_frames), label_shape)).T if label_shape else np.zeros((1, 0))
    )
    assert np.array_equal(cells.points[:, :-2], np.repeat(leads, len(blobs), axis=0))
    assert_rows_fit_labels(cells)


@pytest.mark.parametrize("axes", ["YXC", "ZYXC"])
def test_colours(blobs, oracle_model, axes):
    pixels = np.stack([(blobs.image * 200).astype(np.uint8)] * 3, axis=-1)
    pixels = pixels if axes == "YXC" else np.stack([pixels] * 2)
    assert counted(pixels, oracle_model, axes).count == len(blobs)


@pytest.mark.parametrize(("axes", "lead"), [("ZYX", (3,)), ("TZYX", (2, 3)), ("ZCYX", (3, 1))])
def test_the_slices_of_a_volume_are_linked(blobs, oracle_model, axes, lead):
    pixels = np.broadcast_to(blobs.image, (*lead, *blobs.image.shape))
    result = counted(pixels, oracle_model, axes)
    cells = result.cells
    n_times = 2 if "T" in axes else 1
    assert result.count == len(cells) == n_times * len(blobs) == cells.labels.max()
    assert np.allclose(cells.points[:, -3], 1)
    assert np.array_equal(cells.boxes[:, :, -3], np.tile([0, 3], (len(cells), 1)))
    assert_rows_fit_labels(cells)
    result, prediction = counted_with_maps(pixels, oracle_model, axes)
    again = recount(result, prediction, oracle_model, FlowSettings(min_area_px=20))
    assert np.array_equal(again.cells.labels, cells.labels)


def test_slices_of_unusual_axes_stay_apart_and_it_is_said(blobs, oracle_model):
    pixels = np.broadcast_to(blobs.image, (3, 2, *blobs.image.shape))
    result = counted(pixels, oracle_model, "ZTYX")
    assert result.count == 6 * len(blobs)
    assert [notice for notice in result.notices if "not linked: axes 'ZTYX'" in notice]


def test_a_channel_is_picked(blobs, oracle_model):
    pixels = np.stack([np.zeros_like(blobs.image), blobs.image])
    result = counted(pixels, oracle_model, "CYX")
    assert (result.count, len(result.notices)) == (0, 2)  # which channel, and that it is empty
    assert counted(pixels, oracle_model, "CYX", channel=1).count == len(blobs)
    assert counted(pixels, oracle_model, "CYX", channel=1).notices == ()


@pytest.fixture
def split_blobs(blobs):
    """Half of the discs in each of two channels, the second a hundred times dimmer; nothing in the third."""
    first = blobs.image * (blobs.labels % 2 == 0)
    second = blobs.image * (blobs.labels % 2)
    pixels = np.stack([first * 60_000, 100 + second * 600, np.zeros_like(first)]).astype(np.uint16)
    return Image(pixels, "CYX", channel_names=("odd", "even", "none"))


@pytest.mark.parametrize("combine", ["maximum", "mean"])
def test_channels_are_counted_in_together(blobs, split_blobs, oracle_model, combine):
    one = cellwright.count(split_blobs, oracle_model, channels=[1])
    for told in (1, "1", np.array([1]), np.int64(1)):
        assert cellwright.count(split_blobs, oracle_model, channels=told).count == one.count
    whole = cellwright.count(split_blobs, oracle_model)
    assert cellwright.count(split_blobs, oracle_model, channels=None).notices == whole.notices
    with pytest.raises(AxesError, match="one letter of TCZYX"):
        cellwright.count(np.ones((2, 8, 8)), oracle_model, axes=("C", "Y", "X"))
    with pytest.raises(SettingsError, match="got '10'"):  # which are not channels 1 and 0
        cellwright.count(split_blobs, oracle_model, channels="10")
    assert one.count == len(np.unique(blobs.labels[blobs.labels % 2 == 1]))
    result = cellwright.count(
        split_blobs, oracle_model, channels=["odd", 1], engine=EngineSettings(combine=combine)
    )
    np.testing.assert_array_equal(result.cells.labels, blobs.labels)
    assert result.notices[0].startswith("Counted in channels odd, even together")
    settings = result.provenance.settings
    assert settings["engine"]["channels"] == ("odd", "1")
    assert settings["channel_ranges"] == [[0.0, 60_000.0], [100.0, 700.0]]
    assert "channel_ranges" not in one.provenance.settings


def test_channels_as_colours_are_what_the_network_sees(blobs, split_blobs, oracle_model, monkeypatch):
    seen, network = [], type(oracle_model.network)
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda self, images: seen.append(images) or forward(self, images))
    engine = EngineSettings(channels=(0, 1), combine="colours", device="cpu")
    run(count_cells(split_blobs, oracle_model, engine=engine))
    height, width = blobs.image.shape
    red, green, blue = seen[0][0, :, :height, :width].numpy() > 0.5
    np.testing.assert_array_equal(red | green, blobs.image > 0)
    assert (red & green).sum() == blue.sum() == 0
    oracle_model.spec = replace(oracle_model.spec, in_channels=1)
    with pytest.raises(SettingsError, match="a model that sees colours; flow does not"):
        run(count_cells(split_blobs, oracle_model, engine=engine))


def test_a_mirrored_view_of_an_array_is_fine(blobs, oracle_model):
    assert counted(blobs.image[::-1, ::-1], oracle_model).count == len(blobs)
    assert counted(blobs.image.tolist(), oracle_model).count == len(blobs)
    assert counted(Image(blobs.image, "YX"), oracle_model).count == len(blobs)


@pytest.mark.parametrize("block_px", [64, 300])
def test_numpy_dask_and_zarr_are_the_same(monkeypatch, blobs, oracle_model, block_px):
    monkeypatch.setattr(context_module, "WHOLE_PX", block_px)
    monkeypatch.setattr(context_module, "BLOCK_PX", block_px)
    oracle_model.spec = replace(oracle_model.spec, diameter_px=10.0)  # a narrow margin around blocks
    kinds = [
        blobs.image,
        da.from_array(blobs.image, chunks=(50, 70)),
        zarr.array(blobs.image, chunks=(64, 64)),
    ]
    results = [counted(pixels, oracle_model, tile_px=128) for pixels in kinds]
    for result in results:
        assert result.count == len(blobs)
        assert np.array_equal(result.cells.labels, results[0].cells.labels)
        assert np.array_equal(result.cells.points, results[0].cells.points)


def test_tiles_give_the_same_labels(blobs, oracle_model):
    whole = counted(np.tile(blobs.image, (3, 3)), oracle_model)
    tiled = counted(np.tile(blobs.image, (3, 3)), oracle_model, tile_px=128)
    assert np.array_equal(whole.cells.labels, tiled.cells.labels)


def test_blocks_give_the_same_cells(monkeypatch, draw_blobs, oracle_model):
    blobs = draw_blobs((500, 460), 20)
    monkeypatch.setattr(context_module, "WHOLE_PX", 256)
    monkeypatch.setattr(context_module, "BLOCK_PX", 128)
    result, prediction = counted_with_maps(blobs.image, oracle_model)
    assert result.count == len(blobs)
    assert prediction is None
    assert np.array_equal(result.cells.labels > 0, blobs.labels > 0)
    assert sorted(map(tuple, result.cells.points.round(2))) == sorted(map(tuple, blobs.points.round(2)))
    assert_rows_fit_labels(result.cells)


def test_the_same_twice(blobs, tiny_model):
    first, second = (counted_with_maps(blobs.image, tiny_model) for _ in range(2))
    assert np.array_equal(first[0].cells.labels, second[0].cells.labels)
    assert first[1].frames[0]["flow"].tobytes() == second[1].frames[0]["flow"].tobytes()


@pytest.fixture
def surer_each_time(monkeypatch):
    looks = itertools.count(0, -1)  # the new look is judged first
    monkeypatch.setattr("cellwright.inference.scale.mean_confidence", lambda cells: next(looks))


@pytest.mark.parametrize("diameter", [5, 120])
def test_without_a_gain_in_sureness_the_image_is_counted_as_it_is(draw_blobs, oracle_model, diameter):
    blobs = draw_blobs((700, 800) if diameter > 80 else (100, 130), diameter)
    result = counted(blobs.image, oracle_model, settings=FlowSettings(min_area_px=4))
    assert (result.count, result.provenance.settings["zoom"], result.notices) == (len(blobs), 1.0, ())


@pytest.mark.usefixtures("surer_each_time")
@pytest.mark.parametrize("diameter", [5, 7, 120])
@pytest.mark.parametrize("stated", [True, False])
def test_rescaling_keeps_counts_and_places(draw_blobs, oracle_model, diameter, stated):
    blobs = draw_blobs((700, 800) if diameter > 80 else (100, 130), diameter)
    settings = FlowSettings(min_area_px=4)
    result = counted(blobs.image, oracle_model, settings=settings, diameter_px=diameter if stated else 0)
    assert result.count == len(blobs)
    assert result.provenance.settings["zoom"] == pytest.approx(min(24 / diameter, 6), rel=0.2)
    assert result.cells.labels.shape == blobs.image.shape
    assert np.abs(result.cells.points[:, None] - blobs.points).max(axis=2).min(axis=1).max() < 0.5
    assert len(result.notices) == (not stated)


def test_cells_wider_than_the_image_are_told(oracle_model):
    result = counted(np.zeros((40, 64)), oracle_model, "YX", diameter_px=41)
    assert "Cells of 41 px" in result.notices[0]
    assert "40 px" in result.notices[0]
    assert_rows_fit_labels(result.cells, points_atol=0.2)  # they stay where the model put them


@pytest.mark.parametrize(("height", "is_told"), [(5, True), (12, True), (40, False)])
def test_an_image_smaller_than_a_cell_that_the_model_knows_is_told(rng, height, is_told):
    result = count(rng.random((height, 50)), engine=CPU)
    tiny = [notice for notice in result.notices if f"The image has {height} x 50 px" in notice]
    assert len(tiny) == is_told
    stated = count(rng.random((height, 50)), engine=replace(CPU, diameter_px=4))
    assert not [notice for notice in stated.notices if "its count says little" in notice]


@pytest.mark.parametrize("diameter", [0, 8, 14, 80])
def test_a_diameter_that_suits_the_model_rescales_nothing(blobs, oracle_model, diameter):
    result = counted(blobs.image, oracle_model, diameter_px=diameter)
    assert (result.provenance.settings["zoom"], result.count) == (1.0, len(blobs))


@pytest.mark.usefixtures("surer_each_time")
def test_the_estimate_is_made_at_three_places_of_a_stack_and_what_they_gave_is_kept(draw_blobs, oracle_model):
    blobs = draw_blobs((60, 60), 5)
    pixels = np.stack([blobs.image] * 5)
    steps = []
    result = run(
        count_cells(Image(pixels, "TYX"), oracle_model, FlowSettings(min_area_px=4), CPU), steps.append
    )
    assert result.count == 5 * len(blobs)
    assert [step.done for step in steps if step.stage == "tiles"] == [0, 1, 1, 2, 2, 3, 3]
    assert steps[-1] == replace(steps[-1], stage="rescaled tiles", done=2, total=2)  # of the two others


def test_what_was_predicted_for_the_estimate_is_not_predicted_again(blobs, hungry_model):
    model = hungry_model(10**9)
    result = run(count_cells(Image(np.stack([blobs.image] * 3), "TYX"), model, None, CPU))
    assert result.count == 3 * len(blobs)
    assert len(model.network.seen) == 3


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((40, 50)),
        np.full((40, 50), 7, np.uint8),
        np.ones((1, 1)),
        np.zeros((3, 8, 8)),
        np.ones((4, 4), bool),
    ],
)
def test_an_image_of_one_intensity_has_no_cells(tiny_model, pixels):
    result = counted(pixels, tiny_model, "ZYX"[-pixels.ndim :])
    assert (result.count, result.notices) == (0, (ONE_INTENSITY,))
    assert result.cells.labels.shape == pixels.shape


@pytest.mark.parametrize("shape", [(1, 7), (2, 2), (5, 3), (1, 300)])
def test_tiny_images_can_be_counted(rng, tiny_model, shape):
    assert counted(rng.random(shape), tiny_model, diameter_px=100).cells.labels.shape == shape
    assert counted(rng.random(shape), tiny_model, diameter_px=2).cells.labels.shape == shape


def test_not_a_number_hides_nothing(blobs, oracle_model):
    image = blobs.image.copy()
    image[0, 0], image[0, 1], image[1, 0] = np.nan, np.inf, -np.inf
    result = counted(image, oracle_model)
    assert result.count == len(blobs)
    assert result.notices == (
        "Under 0.1% of the pixels are NaN or infinite; "
        "gaps of up to 4 are bridged, wider ones count as dark.",
    )


@pytest.mark.parametrize(
    ("pixels", "axes", "error", "message"),
    [
        (np.zeros((0, 9)), None, ImageError, "empty array"),
        (np.full((9, 9), np.nan), None, ImageError, "NaN or infinite"),
        (np.zeros((9, 9), complex), None, ImageError, "complex128"),
        (np.zeros(9), None, AxesError, "2 to 5 dimensions"),
        (np.zeros((9, 9)), "XY", AxesError, "end with YX"),
        (np.zeros((9, 9)), "ZYX", AxesError, "'ZYX' for shape \\(9, 9\\)"),
        (np.zeros((9, 9)), "YQ", AxesError, "'Q'"),
    ],
)
def test_images_that_cannot_be_counted_are_refused(oracle_model, pixels, axes, error, message):
    with pytest.raises(error, match=message):
        counted(pixels, oracle_model, axes)


@pytest.mark.parametrize("as_other", [np.ndarray.tolist, memoryview, torch.from_numpy])
def test_arrays_of_other_kinds_count_the_same(blobs, oracle_model, as_other):
    assert counted(as_other(blobs.image), oracle_model).count == len(blobs)


@pytest.mark.parametrize("rows", [[[1, 2], [3]], torch.zeros((9, 9), requires_grad=True)])
def test_what_is_no_array_is_refused(oracle_model, rows):
    with pytest.raises(ImageError, match="array of numbers"):
        counted(rows, oracle_model)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_no_cell_is_found_under_a_mask(blobs, oracle_model, dtype):
    hidden = np.arange(blobs.image.shape[1]) >= 100
    masked = np.ma.masked_array(blobs.image.astype(dtype), np.broadcast_to(hidden, blobs.image.shape))
    result = counted(masked, oracle_model)
    assert 0 < result.count < len(blobs)
    assert not result.cells.labels[:, hidden].any()
    assert "NaN or infinite" in result.notices[0]


def test_other_wrong_input_is_refused(monkeypatch, blobs, oracle_model):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(DeviceError, match="'cuda'"):
        count(blobs.image, oracle_model, engine=EngineSettings(device="cuda"))
    with pytest.raises(CheckpointError, match="no_such_model"):
        count(blobs.image, "no_such_model")
    with pytest.raises(SettingsError, match="channel"):
        counted(blobs.image, oracle_model, channel=3)
    with pytest.raises(SettingsError, match="set by EngineSettings"):
        count(blobs.image, oracle_model, engine={"flips": True})
    for settings in ({"min_score": 0.5}, EngineSettings()):
        with pytest.raises(SettingsError, match="set by FlowSettings"):
            counted(blobs.image, oracle_model, settings=settings)
    for model in (None, 3, (), [oracle_model, None]):
        with pytest.raises(SettingsError, match="A model is a name"):
            counted(blobs.image, model)


def test_models_may_come_as_a_list(blobs, oracle_model):
    assert counted(blobs.image, [oracle_model]).count == len(blobs)


def test_axes_that_are_given_hold_for_images_too(blobs, oracle_model):
    image = Image(blobs.image[np.newaxis], "CYX", (0.5, 0.5), source="a.tif")
    for source in (image, image.data):
        assert counted(source, oracle_model, axes="tyx").provenance.axes == "TYX"
    assert counted(image, oracle_model, axes="TYX").provenance.source == "a.tif"


def test_a_path_is_read(tmp_path, blobs, oracle_model):
    path = tmp_path / "discs.tif"
    tifffile.imwrite(path, blobs.image)
    result = count(str(path), oracle_model, engine=CPU)
    assert result.count == len(blobs)
    assert result.provenance.image_name == read_image(path).name
    assert count(path, oracle_model, engine=CPU).count == len(blobs)


def test_a_model_folder_is_loaded(tmp_path, blobs):
    save_checkpoint(tmp_path / "mine", flow.build())
    result = count(blobs.image, tmp_path / "mine", engine=CPU)
    assert result.provenance.model == "mine"
    assert len(result.provenance.checkpoint_sha256) == 64


def test_an_ensemble_counts(blobs, oracle_model):
    result = counted(blobs.image, (oracle_model, oracle_model))
    assert result.count == len(blobs)
    assert result.provenance.model == "flow-fake + flow-fake"


def test_flips_count_the_same(blobs, oracle_model):
    assert counted(blobs.image, oracle_model, flips=True).count == len(blobs)


def test_the_result_can_be_repeated_from_its_provenance(blobs, oracle_model):
    image = Image(blobs.image, "YX", (0.5, 0.25), "discs")
    settings = FlowSettings(min_area_px=9)
    made = run(count_cells(image, oracle_model, settings, CPU)).provenance
    assert (made.model, made.checkpoint_sha256, made.device) == ("flow-fake", "fake", "cpu")
    assert FlowSettings(**made.settings["flow"]) == settings
    assert EngineSettings(**made.settings["engine"]) == CPU
    assert (made.image_name, made.image_shape, made.axes, made.pixel_size_um) == (
        "discs",
        blobs.image.shape,
        "YX",
        (0.5, 0.25),
    )
    assert made.package_version == cellwright.__version__
    assert made.seconds > 0


def test_progress_counts_tiles(blobs, oracle_model):
    steps = []
    image = Image(np.stack([np.tile(blobs.image, (2, 2))] * 2), "TYX")
    run(count_cells(image, oracle_model, None, replace(CPU, tile_px=128)), steps.append)
    assert steps[0].stage == "load"
    tiles = [step for step in steps if step.stage == "tiles" and not step.note]
    assert [step.done for step in tiles] == list(range(tiles[0].total + 1))
    assert {step.total for step in tiles} == {len(tiles) - 1}


def test_the_stage_that_is_told_is_the_one_that_runs(blobs, oracle_model):
    steps, running = [], []
    forward = oracle_model.network.forward

    def told(images):
        running.append(steps[-1].stage)
        return forward(images)

    oracle_model.network.forward = told
    run(count_cells(Image(blobs.image, "YX"), oracle_model, None, CPU), steps.append)
    assert set(running) == {"tiles"}


def test_nothing_is_done_before_the_first_step(oracle_model):
    task = count_cells(Image(np.zeros((0, 4)), "YX"), oracle_model)
    assert next(task).stage == "load"
    with pytest.raises(ImageError):
        next(task)


@pytest.mark.parametrize("n_steps", [0, 1, 2, 3, 5])
def test_cancelling_lets_go_of_the_networks_at_once(monkeypatch, blobs, tiny_model, n_steps):
    engines = []
    made = context_module.Networks

    def watched(*args):
        engine = made(*args)
        engines.append(weakref.ref(engine))
        return engine

    monkeypatch.setattr(context_module, "Networks", watched)
    task = count_cells(Image(np.tile(blobs.image, (2, 2)), "YX"), tiny_model, None, replace(CPU, tile_px=128))
    for _ in range(n_steps):
        next(task)
    task.close()
    gc.collect()
    assert len(engines) == (n_steps > 1)
    assert not any(engine() for engine in engines)
    assert not torch.is_inference_mode_enabled()


def test_a_failure_frees_the_network_too(monkeypatch, blobs, hungry_model):
    closed = []
    monkeypatch.setattr(context_module.Networks, "close", lambda engine: closed.append(engine))
    with pytest.raises(OutOfMemoryError):
        counted(blobs.image, hungry_model(10))
    assert len(closed) == 1


@pytest.mark.parametrize("place", ["postprocess", "inference_network"])
@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("not enough memory")])
def test_what_does_not_fit_at_all_is_an_error_of_ours(monkeypatch, blobs, oracle_model, place, error):
    def no_memory(*args):
        raise error

    monkeypatch.setattr(oracle_model, place, no_memory, raising=False)
    with pytest.raises(OutOfMemoryError, match="Count a part of it"):
        counted(blobs.image, oracle_model)


def test_running_out_of_memory_is_told_once(blobs, hungry_model):
    pixels = np.stack([np.tile(blobs.image, (2, 2))] * 3)
    result = counted(pixels, hungry_model(200 * 200), "TYX")
    assert result.count == 3 * 4 * len(blobs)
    (notice,) = result.notices
    assert "Memory ran out on cpu" in notice


def test_new_thresholds_need_no_network(draw_blobs, hungry_model):
    blobs = draw_blobs((100, 120), 14)
    pixels = np.stack([blobs.image, blobs.image * 0.8])
    model = hungry_model(10**9)
    result, prediction = counted_with_maps(pixels, model, "TYX")
    n_calls = len(model.network.seen)
    strict = FlowSettings(cell_probability=0.95, min_area_px=10**4)
    none = recount(result, prediction, model, strict)
    assert (none.count, len(none.cells), none.cells.labels.max()) == (0, 0, 0)
    assert none.provenance.settings["flow"]["min_area_px"] == 10**4
    again = recount(none, prediction, model, FlowSettings())
    assert np.array_equal(again.cells.labels, result.cells.labels)
    assert np.array_equal(again.cells.points, result.cells.points)
    assert len(model.network.seen) == n_calls


@pytest.mark.parametrize("diameter", [5, 120])
def test_new_thresholds_after_rescaling(draw_blobs, oracle_model, diameter):
    blobs = draw_blobs((500, 500) if diameter > 80 else (90, 90), diameter)
    settings = FlowSettings(min_area_px=4)
    result, prediction = counted_with_maps(blobs.image, oracle_model, settings=settings, diameter_px=diameter)
    again = recount(result, prediction, oracle_model, settings)
    assert np.array_equal(again.cells.labels, result.cells.labels)


def test_thresholds_do_not_change_the_scale(draw_blobs, oracle_model, monkeypatch):
    """A count with them gives what moving them after a count does."""
    ever_less = itertools.count(100, -1)  # that of a trial is asked for before that of the best so far
    monkeypatch.setattr("cellwright.inference.scale.mean_confidence", lambda cells: next(ever_less))
    pixels = np.concatenate([draw_blobs((90, 200), 7.0).image, draw_blobs((50, 200), 30.0).image])
    strict = FlowSettings(min_area_px=100)  # the small ones would call for an enlarged image
    result, prediction = counted_with_maps(pixels, oracle_model)
    moved = recount(result, prediction, oracle_model, strict)
    fresh = counted(pixels, oracle_model, settings=strict)
    assert fresh.provenance.settings["zoom"] == result.provenance.settings["zoom"] > 1
    assert 0 < fresh.count < result.count
    assert np.array_equal(fresh.cells.labels, moved.cells.labels)


def test_maps_that_are_too_large_are_dropped(monkeypatch, blobs, oracle_model):
    monkeypatch.setattr(count_module, "KEPT_MAPS_BYTES", 1000)
    result, prediction = counted_with_maps(blobs.image, oracle_model)
    assert prediction is None
    with pytest.raises(SettingsError, match="Count again"):
        recount(result, prediction, oracle_model, FlowSettings())


def test_kept_maps_give_the_cells_of_the_count(blobs, oracle_model):
    image = Image(np.stack([blobs.image] * 2), "TYX")
    result, prediction = run(count_module.count_with_prediction(image, oracle_model, None, CPU))
    assert (prediction.lead_shape, prediction.zoom, len(prediction.frames)) == ((2,), 1.0, 2)
    again = recount(result, prediction, oracle_model, registry.get("flow").settings())
    assert np.array_equal(again.cells.labels, result.cells.labels)


def test_a_source_folder_has_no_version(monkeypatch, blobs, oracle_model):
    def missing(name):
        raise data.PackageNotFoundError(name)

    monkeypatch.setattr(data, "version", missing)
    assert counted(blobs.image, oracle_model).provenance.package_version == "unknown"


@pytest.mark.parametrize(("sure", "is_tuned"), [((1.0, 0.9), True), ((1.0, 0.7), False)])
def test_images_are_looked_at_as_those_it_was_tuned_on(draw_blobs, oracle_model, monkeypatch, sure, is_tuned):
    """Even when it is a little less sure than of the image as it is."""
    looks = iter([sure[1], sure[0], *[0.0] * 9])
    monkeypatch.setattr("cellwright.inference.scale.mean_confidence", lambda cells: next(looks))
    oracle_model.spec = replace(oracle_model.spec, tuned_diameter_px=120.0)
    blobs = draw_blobs((300, 320), 30.0)
    result = counted(blobs.image, oracle_model)
    assert result.provenance.settings["zoom"] == pytest.approx(24 / 120 if is_tuned else 1.0)
    assert result.count == len(blobs)


def test_labels_that_are_counted_as_light_are_told(blobs, oracle_model):
    labels = blobs.labels.astype(np.uint16)
    (notice,) = counted(labels, oracle_model).notices
    assert "look like labels" in notice
    assert "cellwright convert" in notice
    assert counted(np.stack([labels] * 2), oracle_model, "CYX", channel=1).notices == ()
