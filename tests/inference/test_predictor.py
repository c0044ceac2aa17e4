import copy
import gc
import weakref

import numpy as np
import pytest
import torch

from cellwright.core.errors import AxesError, OutOfMemoryError, SettingsError
from cellwright.core.tasks import run
from cellwright.inference import predictor as maps_module
from cellwright.inference.predictor import Networks, TileProgress, by_name, predict_maps
from cellwright.inference.settings import EngineSettings
from cellwright.models.families import density, flow


def maps_of(model, images, **settings):
    engine = Networks(model if isinstance(model, list) else [model], EngineSettings(device="cpu", **settings))
    return run(predict_maps(images, engine, TileProgress("tiles", 1)))


def images_of(rng, n=1, n_channels=1, shape=(300, 270)):
    return rng.random((n, n_channels, *shape)).astype(np.float32)


@pytest.mark.parametrize("shape", [(300, 270), (256, 512), (129, 131), (511, 140)])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_tiled_equals_untiled(rng, tiny_model, shape, n_channels):
    images = images_of(rng, n_channels=n_channels, shape=shape)
    whole = maps_of(tiny_model, images, tile_px=1024)
    assert whole.std() > 0.01
    assert np.allclose(maps_of(tiny_model, images, tile_px=128), whole, atol=1e-6)


def test_the_flow_network_is_tiled_exactly(rng):
    images = images_of(rng, shape=(500, 620))
    model = flow.build()
    whole = maps_of(model, images, precision="float32")
    tiled = maps_of(model, images, precision="float32", tile_px=208)
    assert whole.std() > 0.001
    assert np.abs(tiled - whole).max() < 1e-4 * whole.std()


def test_a_halo_that_is_too_small_shows(rng, tiny_model):
    images = images_of(rng)
    whole = maps_of(tiny_model, images, tile_px=1024)
    tiny_model.spec = type(tiny_model.spec)(**{**vars_of(tiny_model.spec), "halo": 0})
    assert np.abs(maps_of(tiny_model, images, tile_px=128) - whole).max() > 1e-4


def vars_of(spec):
    return {name: getattr(spec, name) for name in spec.__slots__}


@pytest.mark.parametrize("batch_size", [0, 1, 2, 5])
def test_batches_change_nothing(rng, tiny_model, batch_size):
    images = images_of(rng, n=3, shape=(256, 256))
    one_by_one = np.concatenate([maps_of(tiny_model, image[None]) for image in images])
    assert np.allclose(maps_of(tiny_model, images, tile_px=128, batch_size=batch_size), one_by_one, atol=1e-6)


def test_tiles_of_several_images_share_a_batch(rng, hungry_model):
    model = hungry_model(10**9)
    maps_of(model, images_of(rng, n=4, shape=(64, 64)), batch_size=3)
    assert model.network.seen == [(3, 64, 64), (1, 64, 64)]


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (3, 2), (9, 8)])
def test_images_smaller_than_the_divisor(rng, tiny_model, shape):
    images = images_of(rng, shape=shape)
    found = maps_of(tiny_model, images)
    assert found.shape == (1, 3, *shape)
    assert np.isfinite(found).all()


def test_the_model_is_left_as_it_was(rng, tiny_model):
    tiny_model.network.train()
    before = {name: value.clone() for name, value in tiny_model.network.state_dict().items()}
    n_threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    maps_of(tiny_model, images_of(rng))
    assert tiny_model.network.training
    assert all(torch.equal(before[name], value) for name, value in tiny_model.network.state_dict().items())
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (n_threads, grad)


def test_nothing_global_is_changed_while_the_caller_has_control(rng, tiny_model):
    engine = Networks([tiny_model], EngineSettings(device="cpu", tile_px=128, precision="bfloat16"))
    for _ in predict_maps(images_of(rng), engine, TileProgress("tiles", 1)):
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu")


def test_half_precision_is_close(rng, tiny_model):
    images = images_of(rng)
    full = maps_of(tiny_model, images, precision="float32")
    half = maps_of(tiny_model, images, precision="bfloat16")
    assert half.dtype == np.float32
    assert 0 < np.abs(full - half).max() < 0.03


def test_flips_average_mirrored_images(rng, tiny_model):
    images = images_of(rng, shape=(128, 128))
    plain, down, across = (
        logits(np.flip(maps_of(tiny_model, np.flip(images, axes).copy()), axes)) for axes in ((), 2, 3)
    )
    down[:, 0] *= -1  # dy of an image upside down
    across[:, 1] *= -1
    assert not np.allclose(plain, down, atol=0.01)
    averaged = logits(maps_of(tiny_model, images, flips=True))
    assert np.allclose(averaged, (plain + down + across) / 3, atol=1e-3)


def test_densities_are_averaged_in_cells(rng):
    """Peaks a pixel apart would lose cells if what comes before the softplus were averaged."""
    images = images_of(rng, n_channels=3, shape=(128, 128))
    one, other = density.build(), density.build()
    with torch.no_grad():
        one.network.head.heads["density"][-1].weight *= 1000
        other.network.head.heads["density"][-1].weight *= -1000
    plain, down, across = (
        np.flip(maps_of(one, np.flip(images, axes).copy(), precision="float32"), axes)[:, :1]
        for axes in ((), 2, 3)
    )
    averaged = maps_of(one, images, precision="float32", flips=True)[:, :1]
    assert np.allclose(averaged, (plain + down + across) / 3, rtol=1e-3)
    both = maps_of([one, other], images, precision="float32")[:, :1]
    alone = maps_of(other, images, precision="float32")[:, :1]
    assert np.allclose(both, (plain + alone) / 2, rtol=1e-3)
    assert np.abs(plain - alone).max() > plain.mean()


def logits(maps):
    """Raw outputs from maps: flow as it is, the probability back to its logit."""
    raw = maps.astype(np.float64)
    raw[:, 2] = np.log(raw[:, 2] / (1 - raw[:, 2]))
    return raw


def test_an_ensemble_averages_raw_outputs(rng, tiny_model, oracle_model):
    images = images_of(rng, shape=(64, 64))
    both = maps_of([tiny_model, oracle_model], images)
    one, other = (logits(maps_of(model, images)) for model in (tiny_model, oracle_model))
    assert np.allclose(logits(both), (one + other) / 2, atol=0.01)


def test_an_ensemble_takes_the_larger_halo_and_a_common_divisor(tiny_model, oracle_model):
    engine = Networks([tiny_model, oracle_model], EngineSettings(device="cpu"))
    assert (engine.halo, engine.divisor) == (32, 8)


@pytest.mark.parametrize(
    "other", [{"family": "other"}, {"in_channels": 1}, {"percentiles": (1, 99)}, {"map_channels": {"a": 3}}]
)
def test_models_of_different_kinds_are_refused(oracle_model, other):
    strange = type(oracle_model)(oracle_model.network, **other)
    with pytest.raises(SettingsError, match="2 models of 2 kinds"):
        Networks([oracle_model, strange], EngineSettings(device="cpu"))


def test_colours_become_grey_for_a_model_of_one_channel(rng, oracle_model):
    images = images_of(rng, n_channels=3, shape=(16, 16))
    grey = type(oracle_model)(oracle_model.network, in_channels=1)
    assert np.allclose(maps_of(grey, images), maps_of(grey, images.mean(axis=1, keepdims=True)), atol=1e-6)


def test_channels_that_do_not_fit_are_refused(rng, oracle_model):
    strange = type(oracle_model)(oracle_model.network, in_channels=5)
    with pytest.raises(AxesError, match="takes 5 channels; got an image of 3"):
        maps_of(strange, images_of(rng, n_channels=3, shape=(16, 16)))


@pytest.mark.parametrize("most_pixels", [300 * 300, 200 * 200, 160 * 160])
def test_less_memory_changes_nothing_but_the_notice(rng, hungry_model, oracle_model, most_pixels):
    images = images_of(rng, n=2, shape=(512, 512))
    model = hungry_model(most_pixels)
    engine = Networks([model], EngineSettings(device="cpu"))
    meter = TileProgress("tiles", 2)
    found = run(predict_maps(images, engine, meter))
    assert np.array_equal(found, maps_of(oracle_model, images))
    assert "Memory ran out on cpu" in engine.notice
    assert meter.done == meter.total > 2


def test_a_smaller_batch_comes_before_a_smaller_tile(rng, hungry_model):
    model = hungry_model(2 * 128 * 128)
    maps_of(model, images_of(rng, n=4, shape=(128, 128)), batch_size=4)
    assert model.network.seen == [(4, 128, 128), (2, 128, 128), (2, 128, 128)]


def test_tiles_that_are_done_are_not_done_again(rng, hungry_model):
    model = hungry_model(300 * 300)
    engine = Networks([model], EngineSettings(device="cpu", tile_px=256))
    task = predict_maps(images_of(rng, shape=(512, 512)), engine, TileProgress("tiles", 4))
    next(task)
    model.network.most_pixels = 200 * 200  # another program takes memory
    run(task)
    sizes = [shape[1] for shape in model.network.seen]
    assert sizes[0] > 256  # a tile with its halo, in one go
    assert sum(size > 200 for size in sizes) == 2  # that one and the one that failed
    assert len(sizes) == 2 + 3 * 4


@pytest.mark.parametrize("message", ["CUDA out of memory", "MPS backend out of memory"])
def test_a_gpu_without_memory_hands_over_to_the_cpu(rng, monkeypatch, hungry_model, oracle_model, message):
    model = hungry_model(10**9)
    forward = Networks._forward

    def small_gpu(engine, windows):
        if engine.device.type == "meta":
            raise RuntimeError(message)
        return forward(engine, windows)

    monkeypatch.setattr(maps_module, "choose_device", lambda name: torch.device("meta"))
    monkeypatch.setattr(Networks, "_forward", small_gpu)
    images = images_of(rng, shape=(300, 300))
    engine = Networks([model], EngineSettings())
    found = run(predict_maps(images, engine, TileProgress("tiles", 1)))
    assert engine.device == torch.device("cpu")
    assert "on the CPU" in engine.notice
    monkeypatch.undo()
    assert np.array_equal(found, maps_of(oracle_model, images))


def test_a_model_too_large_for_the_gpu_runs_on_the_cpu(rng, monkeypatch, oracle_model):
    copy_network = maps_module._inference_network

    def small_gpu(model, device):
        if device.type == "meta":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return copy_network(model, device)

    monkeypatch.setattr(maps_module, "choose_device", lambda name: torch.device("meta"))
    monkeypatch.setattr(maps_module, "_inference_network", small_gpu)
    engine = Networks([oracle_model], EngineSettings())
    assert engine.device == torch.device("cpu")
    assert "does not fit into the memory of meta" in engine.notice
    assert run(predict_maps(images_of(rng), engine, TileProgress("tiles", 1))).std() > 0


def test_a_model_that_does_not_fit_at_all_is_an_error(monkeypatch, oracle_model):
    def no_memory(model, device):
        raise torch.OutOfMemoryError("not enough memory")

    monkeypatch.setattr(maps_module, "_inference_network", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        Networks([oracle_model], EngineSettings(device="cpu"))


def test_no_memory_at_all_is_an_error_of_ours(rng, hungry_model):
    with pytest.raises(OutOfMemoryError, match="Close other programs"):
        maps_of(hungry_model(10), images_of(rng))


def test_other_errors_are_handed_on(rng, hungry_model):
    with pytest.raises(RuntimeError, match="a bug"):
        maps_of(hungry_model(10, "a bug"), images_of(rng))


def test_a_network_is_made_ready_once(monkeypatch, rng, tiny_model):
    images, made = images_of(rng), []
    make = maps_module._inference_network
    monkeypatch.setattr(maps_module, "_inference_network", lambda *args: made.append(args) or make(*args))
    first = maps_of(tiny_model, images, precision="float32")
    assert np.array_equal(maps_of(tiny_model, images, precision="float32"), first)
    assert len(made) == 1
    maps_of(tiny_model, images, precision="bfloat16")
    assert len(made) == 2


@pytest.mark.parametrize(
    "change", [lambda weight: weight.data.neg_(), lambda weight: weight.data.copy_(weight.data.flip(-1))]
)
def test_weights_that_change_are_those_that_count(rng, tiny_model, change):
    images = images_of(rng)
    before = maps_of(tiny_model, images)
    weight = next(one for one in tiny_model.network.parameters() if one.ndim == 4 and one.shape[-1] > 1)
    change(weight)
    assert not np.array_equal(maps_of(tiny_model, images), before)


def test_a_network_that_failed_is_made_ready_anew(rng, tiny_model):
    images = images_of(rng)
    first = maps_of(tiny_model, images)
    maps_module._READY.clear()

    def fail(_):
        raise RuntimeError("a bug")

    tiny_model.network.forward = fail
    with pytest.raises(RuntimeError, match="a bug"):
        maps_of(tiny_model, images)
    del tiny_model.network.forward
    assert np.array_equal(maps_of(tiny_model, images), first)


def test_what_is_ready_goes_with_its_model(rng, tiny_model):
    model = type(tiny_model)(copy.deepcopy(tiny_model.network))
    maps_of(model, images_of(rng))
    ready = weakref.ref(maps_module._READY[model.network][1])
    del model
    gc.collect()
    assert ready() is None


def test_the_same_twice(rng, tiny_model):
    images = images_of(rng)
    assert np.array_equal(maps_of(tiny_model, images), maps_of(tiny_model, images))


def test_maps_have_names():
    named = by_name(np.arange(12, dtype=np.float32).reshape(3, 2, 2), {"flow": 2, "probability": 1})
    assert {name: one.shape for name, one in named.items()} == {"flow": (2, 2, 2), "probability": (1, 2, 2)}
    assert named["probability"][0, 0, 0] == 8


def test_overlapping_windows_are_averaged_with_gaussian_weights(rng, tiny_model, monkeypatch):
    monkeypatch.setattr(maps_module, "WINDOW_PX", 64)
    images = images_of(rng, n=2, shape=(100, 141))
    found = logits(maps_of(tiny_model, images, overlap=0.6))
    total, weight = np.zeros((2, 3, 100, 141)), np.zeros((100, 141))
    places = np.arange(64) - 31.5
    gauss = np.exp(-(places**2) / (2 * 8.0**2))
    for top in (0, 25, 36):
        for left in (0, 25, 50, 75, 77):
            window = np.ascontiguousarray(images[:, :, top : top + 64, left : left + 64])
            importance = np.outer(gauss, gauss)
            total[..., top : top + 64, left : left + 64] += importance * logits(maps_of(tiny_model, window))
            weight[top : top + 64, left : left + 64] += importance
    assert np.allclose(found, total / weight, atol=1e-4)


def test_an_image_within_one_window_is_as_without_overlap(rng, tiny_model):
    images = images_of(rng, shape=(70, 45))
    assert np.allclose(maps_of(tiny_model, images, overlap=0.6), maps_of(tiny_model, images), atol=1e-5)


def test_overlapping_windows_shrink_when_memory_runs_out(rng, hungry_model, monkeypatch):
    images = images_of(rng, shape=(600, 300))
    model = hungry_model(256 * 256)
    engine = Networks([model], EngineSettings(device="cpu", overlap=0.5))
    maps = run(predict_maps(images, engine, TileProgress("tiles", 1)))
    assert maps.shape[2:] == (600, 300)
    assert np.isfinite(maps).all()
    assert "256 pixels" in engine.notice
