import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import load_file

from cellwright.core.errors import CellwrightError, CheckpointError, ReadError, SettingsError
from cellwright.core.tasks import run
from cellwright.files.folders.image_list import list_images
from cellwright.models import registry, store
from cellwright.training.pretrain import (
    HIDDEN_PX,
    contrastive_loss,
    make_views,
    pretrain,
    pseudo_coloured,
    read_unannotated,
    start_from,
    start_from_imagenet,
    visible,
)
from cellwright.training.settings import PretrainSettings

SHORT = PretrainSettings(steps=4, steps_per_epoch=2, batch_size=2, patch_px=64, warmup_steps=1)


@pytest.fixture
def images(tmp_path, rng):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, shape in (("a", (90, 80)), ("b", (5, 70, 70)), ("c", (64, 64, 3))):
        tifffile.imwrite(folder / f"{name}.tif", rng.integers(0, 255, shape).astype(np.uint8))
    (folder / "broken.tif").write_bytes(b"II*\0nothing")
    return list_images([folder])


def flow():
    torch.manual_seed(1)
    return registry.get("flow").load().build("small")


def test_the_loss_is_that_of_the_paper_written_as_sums():
    torch.manual_seed(0)
    first, second = torch.randn(3, 5), torch.randn(3, 5)
    both = torch.cat([first, second]).double()
    both /= both.norm(dim=1, keepdim=True)
    total = 0.0
    for i in range(6):
        alike = [torch.exp(both[i] @ both[k] / 0.5) for k in range(6) if k != i]
        total -= float(torch.log(torch.exp(both[i] @ both[(i + 3) % 6] / 0.5) / sum(alike)))
    assert float(contrastive_loss(first, second, 0.5)) == pytest.approx(total / 6, rel=1e-5)


def test_views_of_one_place_that_agree_cost_less_than_views_that_do_not():
    torch.manual_seed(0)
    first = torch.randn(8, 16)
    assert contrastive_loss(first, first, 0.1) < 0.1 * contrastive_loss(first, first.roll(1, 0), 0.1)


def test_half_of_the_squares_are_hidden():
    torch.manual_seed(0)
    shown = visible(torch.zeros(20, 3, 180, 180))
    hidden = (~shown).float().mean()
    assert hidden == pytest.approx(0.5 * (HIDDEN_PX / 18) ** 2, abs=0.02)
    assert shown[..., ::18, :].all()  # the gaps between squares stay


@pytest.mark.parametrize(
    ("grey", "colour"), [(0.0, (0, 0, 0)), (0.5, (0, 0.7333, 0)), (0.75, (1, 0.8, 0)), (2.0, (0.8, 0.8, 0.8))]
)
def test_grey_values_become_the_colours_of_nipy_spectral(grey, colour):
    image = torch.full((1, 3, 2, 2), grey)
    assert pseudo_coloured(image)[0, :, 0, 0].tolist() == pytest.approx(colour, abs=1e-3)


def test_images_of_all_axes_are_read_and_broken_ones_left_out(images):
    samples, left_out = run(read_unannotated(images, flow()))
    assert left_out == 1
    assert [tuple(sample.image.shape) for sample in samples] == [(1, 90, 80), *[(1, 70, 70)] * 5, (3, 64, 64)]


def test_of_images_that_do_not_fit_into_memory_the_middle_is_kept(tmp_path, rng, monkeypatch):
    for name in "abcdef":
        tifffile.imwrite(tmp_path / f"{name}.tif", rng.integers(0, 255, (300, 600)).astype(np.uint8))
    images = list_images([tmp_path])
    whole, _ = run(read_unannotated(images, flow()))
    most = 4 * 6 * 256 * 300
    monkeypatch.setattr("cellwright.training.pretrain.free_memory", lambda: 4.0 * most, raising=False)
    samples, left_out = run(read_unannotated(images, flow()))
    assert (len(samples), left_out) == (6, 0)
    assert sum(sample.image.nbytes for sample in samples) <= most
    for sample, larger in zip(samples, whole, strict=True):
        assert tuple(sample.image.shape) == (1, 256, 256)
        assert torch.allclose(sample.image, larger.image[:, 22:278, 172:428], atol=0.1)


def test_without_an_image_that_can_be_read_the_error_is_that_of_the_first(images):
    broken = [listed for listed in images if listed.name == "broken"]
    with pytest.raises(CellwrightError, match="broken"):
        run(read_unannotated(broken, flow()))
    with pytest.raises(ReadError, match="got none"):
        run(read_unannotated([], flow()))


def test_images_of_one_intensity_teach_nothing(images, tmp_path):
    tifffile.imwrite(tmp_path / "black.tif", np.zeros((70, 70), np.uint8))
    black = list_images([tmp_path / "black.tif"])
    samples, left_out = run(read_unannotated([*black, *images], flow()))
    assert (len(samples), left_out) == (7, 2)
    with pytest.raises(ReadError, match="the 1 that were read have one intensity throughout"):
        run(read_unannotated(black, flow()))


def test_the_views_of_a_step_are_the_same_each_time_and_differ_from_each_other(images):
    samples, _ = run(read_unannotated(images, flow()))
    views = make_views(samples, 3, SHORT)
    assert views.shape == (2, 2, 3, 64, 64)
    assert torch.equal(views, make_views(samples, 3, SHORT))
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views, make_views(samples, 4, SHORT))


@pytest.mark.parametrize(("method", "parts"), [("simclr", {"encoder"}), ("colorize", {"encoder", "decoder"})])
def test_what_was_learned_starts_another_family(method, parts, images, tmp_path):
    settings = replace(SHORT, method=method)
    folder = run(pretrain(images, flow(), tmp_path / "encoder", settings, device="cpu"))
    weights = load_file(folder / "weights.safetensors")
    assert {name.split(".")[0] for name in weights} == parts
    model = registry.get("centroid").load().build("small")
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    start_from(folder, model)
    after = model.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    rest = [name for name in after if name.split(".")[0] not in parts]
    assert rest
    assert all(torch.equal(after[name], before[name]) for name in rest)


@pytest.mark.parametrize("method", ["simclr", "colorize"])
def test_the_model_that_others_count_with_stays_as_it_is(method, images, tmp_path):
    model = store.load("flow")  # one for all that count in this program
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    run(pretrain(images, model, tmp_path / "encoder", replace(SHORT, method=method), device="cpu"))
    assert store.load("flow") is model
    assert not model.network.training
    assert not any(part.training for part in model.network.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())


def test_the_loss_falls(images, tmp_path):
    settings = replace(SHORT, method="colorize", steps=20, steps_per_epoch=10, rate=3e-3)
    folder = run(pretrain(images, flow(), tmp_path / "encoder", settings, device="cpu"))
    first, last = json.loads((folder / "pretrained.json").read_text())["history"]
    assert last["loss"] < 0.9 * first["loss"]


def test_a_stopped_run_resumes_and_ends_with_the_same_weights(images, tmp_path):
    whole = run(pretrain(images, flow(), tmp_path / "whole", SHORT, device="cpu"))
    task = pretrain(images, flow(), tmp_path / "halves", SHORT, device="cpu")
    next(progress for progress in task if progress.stage == "epoch")
    task.close()
    assert not (tmp_path / "halves" / "pretrained.json").exists()
    with pytest.raises(CheckpointError, match="began with other settings"):
        next(pretrain(images, flow(), tmp_path / "halves", replace(SHORT, rate=1e-5), device="cpu"))
    with pytest.raises(CheckpointError, match="images or weights"):
        next(pretrain(images[:2], flow(), tmp_path / "halves", SHORT, device="cpu"))
    halves = run(pretrain(images, flow(), tmp_path / "halves", SHORT, device="cpu"))
    first, second = (load_file(folder / "weights.safetensors") for folder in (whole, halves))
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)


def test_a_network_without_a_trunk_is_refused(images, tmp_path, tiny_model):
    with pytest.raises(CheckpointError, match="small or lite"):
        run(pretrain(images, tiny_model, tmp_path / "encoder", SHORT))


def test_a_folder_without_an_encoder_and_one_of_another_preset_are_refused(images, tmp_path):
    with pytest.raises(CheckpointError, match=r"pretrained\.json"):
        start_from(tmp_path, flow())
    folder = run(pretrain(images, flow(), tmp_path / "encoder", SHORT, device="cpu"))
    with pytest.raises(CheckpointError, match="trained for small"):
        start_from(folder, registry.get("flow").load().build("lite"))


def test_imagenet_is_for_the_encoder_that_has_such_weights():
    with pytest.raises(CheckpointError, match="presets lite and deep"):
        start_from_imagenet(flow())


def test_settings_name_what_is_wrong():
    with pytest.raises(SettingsError, match="simclr, colorize; got 'moco'"):
        PretrainSettings(method="moco")
    with pytest.raises(SettingsError, match="multiple of 32; got 80"):
        PretrainSettings(patch_px=80)
