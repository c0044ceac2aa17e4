"""What a family that looks at volumes is trained on: slices as it will see them when it counts."""

import json

import numpy as np
import pytest
import tifffile

from cellwright.core.data import Image
from cellwright.core.errors import AxesError
from cellwright.core.tasks import run
from cellwright.files.dataset.folder import read_dataset
from cellwright.models.families import pseudocolor
from cellwright.ops.simulation.simulate import simulate
from cellwright.training.data import samples as module
from cellwright.training.data.sampler import SIMULATED_VOLUME, simulated_samples
from cellwright.training.data.samples import load_samples, volume_samples


@pytest.fixture(scope="module")
def drawn():
    return simulate("fluorescence", (7, 60, 70), np.random.default_rng(2), diameter_px=20)


def samples_of(drawn, labels=None, preset="small"):
    model = pseudocolor.build(preset)
    truth = drawn.labels if labels is None else labels
    return volume_samples("v", "g", (Image(drawn.image, "ZYX"), truth), model), model


@pytest.mark.parametrize("preset", ["small", "plain"])
def test_slices_are_learned_as_they_are_counted(drawn, preset):
    samples, model = samples_of(drawn, preset=preset)
    frames = model.frames(Image(drawn.image, "ZYX"), None)
    assert [sample.name for sample in samples] == [f"v:{index}" for index in range(7)]
    for index, sample in enumerate(samples):
        seen = frames.read(index, (slice(None), slice(None)))
        assert np.allclose(sample.image.numpy(), np.clip(seen, -0.5, 2), atol=1e-5)
        assert np.array_equal(sample.labels.numpy() > 0, drawn.labels[index] > 0)
        assert np.array_equal(sample.targets[2].numpy() > 0, drawn.labels[index] > 0)
    assert len({sample.diameter_px for sample in samples}) == 1


def test_empty_slices_are_learned_too(drawn):
    labels = drawn.labels.copy()
    labels[3:] = 0
    samples, _ = samples_of(drawn, labels)
    assert len(samples) == 7
    assert not samples[5].targets.any()


def test_a_large_volume_is_thinned_out(drawn, monkeypatch):
    monkeypatch.setattr(module, "MAX_FRAMES", 2)
    monkeypatch.setattr(module, "SLICE_PIXELS", 3 * 60 * 70)
    samples, _ = samples_of(drawn)
    assert [sample.name for sample in samples] == ["v:0", "v:3", "v:6"]


def test_simulated_volumes_stand_in_for_simulated_images(monkeypatch):
    samples = run(simulated_samples(20, 0, pseudocolor.build()))
    assert len(samples) == 2 * SIMULATED_VOLUME[0]
    assert all(sample.image.shape[0] == 3 for sample in samples)
    assert any(sample.labels.any() for sample in samples)


def test_a_folder_of_volumes_is_read_and_one_of_images_refused(drawn, tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    tifffile.imwrite(tmp_path / "images/v.tif", drawn.image, metadata={"axes": "ZYX"}, imagej=True)
    tifffile.imwrite(tmp_path / "masks/v.tif", drawn.labels.astype(np.uint16))
    (tmp_path / "meta.json").write_text(json.dumps({"split": {"train": ["v"]}}))
    model = pseudocolor.build()
    assert len(run(load_samples(read_dataset(tmp_path), model))) == 7
    tifffile.imwrite(tmp_path / "images/v.tif", drawn.image[0])
    tifffile.imwrite(tmp_path / "masks/v.tif", drawn.labels[0].astype(np.uint16))
    with pytest.raises(AxesError, match="Choose flow or centroid"):
        run(load_samples(read_dataset(tmp_path), model))
