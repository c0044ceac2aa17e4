"""Every family is trained for two steps, stopped, resumed, saved and loaded, small and as published.

``lite`` and ``deep`` differ from ``small`` in a trunk that all families share, so that one family tells for
all. The largest of the published networks are narrowed to a few channels; their parts are the same.
"""

import json
from functools import partial

import numpy as np
import pytest
import tifffile
import torch

from cellwright.core.tasks import run
from cellwright.files.dataset.folder import read_dataset
from cellwright.models import registry
from cellwright.models.checkpoint import load_checkpoint
from cellwright.models.families import centroid, flow, pseudocolor
from cellwright.models.families.flow import MANetDecoder, MixTransformer
from cellwright.models.layers.efficientnet import B5, V2_S, Stage
from cellwright.models.layers.trunk import DEEP, LITE
from cellwright.training import trainer
from cellwright.training.data import sampler
from cellwright.training.settings import TrainingSettings

PRESETS = sorted(
    (name, preset)
    for name, family in registry.FAMILIES.items()
    for preset in family.load().SPECS
    if preset not in (LITE, DEEP) or name == registry.DEFAULT_FAMILY
)
SHORT = TrainingSettings(
    pretrain_steps=1,
    finetune_steps=1,
    steps_per_epoch=1,
    batch_size=2,
    patch_px=32,
    n_simulated=1,
    n_modalities=1,
)


def narrowed(plan):
    """Return the plan of an EfficientNet with one block of four channels in each stage."""
    stages = (Stage(stage.kind, stage.ratio, stage.kernel, stage.stride, 4, 1) for stage in plan.stages)
    return plan._replace(stem=4, stages=tuple(stages))


@pytest.fixture(autouse=True)
def narrow_networks(monkeypatch):
    encoder = partial(MixTransformer, depths=(1, 1, 1, 1), widths=(4, 8, 10, 16))
    monkeypatch.setattr(flow, "MixTransformer", encoder)
    monkeypatch.setattr(flow, "MANetDecoder", partial(MANetDecoder, widths=(16, 16, 16, 16, 64)))
    monkeypatch.setattr(centroid, "V2_S", narrowed(V2_S))
    monkeypatch.setattr(centroid, "NECK", (8, 8))
    monkeypatch.setattr(pseudocolor, "B5", narrowed(B5))
    monkeypatch.setattr(pseudocolor, "WORKING_PX", 64)


@pytest.fixture(autouse=True)
def small_drawings(monkeypatch):
    monkeypatch.setattr(sampler, "SIMULATED_PX", 64)
    monkeypatch.setattr(sampler, "SIMULATED_VOLUME", (3, 64, 64))


@pytest.fixture
def dataset(tmp_path, draw_blobs):
    """Two images, or two volumes of equal slices, without any to validate with."""

    def write(*, is_volume):
        folder = tmp_path / "dataset"
        for name in ("a", "b"):
            blobs = draw_blobs((48, 56), 12.0)
            image, labels = (blobs.image * 200).astype(np.uint8), blobs.labels.astype(np.uint16)
            if is_volume:
                image, labels = np.stack([image] * 3), np.stack([labels] * 3)
            for kind, pixels in (("images", image), ("masks", labels)):
                (folder / kind).mkdir(parents=True, exist_ok=True)
                metadata = {"axes": "ZYX" if is_volume else "YX"}
                tifffile.imwrite(folder / kind / f"{name}.tif", pixels, metadata=metadata, imagej=is_volume)
        (folder / "meta.json").write_text(json.dumps({"split": {"train": ["a", "b"]}}))
        return read_dataset(folder)

    return write


@pytest.mark.parametrize(("family", "preset"), PRESETS)
def test_every_family_trains_and_resumes(family, preset, dataset, tmp_path):
    entry = registry.get(family)
    data = trainer.Data(dataset(is_volume=entry.needs_volumes))
    output = tmp_path / "model"

    first = trainer.train(data, entry.load().build(preset), output, SHORT, device="cpu")
    for progress in first:
        if progress.stage == "epoch":
            break
    first.close()
    assert progress.done == 1

    torch.manual_seed(1)  # a resumed run does not depend on the weights it is started with
    steps, given = [], entry.load().build(preset)
    before = {name: value.clone() for name, value in given.network.state_dict().items()}
    run(trainer.train(data, given, output, SHORT, device="cpu"), steps.append)
    assert all(torch.equal(value, before[name]) for name, value in given.network.state_dict().items())
    assert [step.done for step in steps if step.stage == "epoch"] == [2]
    model = load_checkpoint(output)
    assert (model.spec.family, model.spec.preset) == (family, preset)
    assert all(value.isfinite().all() for value in model.network.state_dict().values())
