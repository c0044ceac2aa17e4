import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from scipy import ndimage

from cellwright.core.errors import ReadError
from cellwright.core.tasks import run
from cellwright.files.dataset.folder import read_dataset
from cellwright.models.families import density, flow, pseudocolor
from cellwright.ops.codecs.flow import labels_to_flow
from cellwright.ops.geometry import intensity
from cellwright.ops.labels import annotate, equivalent_diameters, label_properties
from cellwright.ops.measure.measurement import result_of_labels
from cellwright.training.data.inspect import inspect
from cellwright.training.data.samples import MAX_FRAMES, RIM_PX, load_samples, make_sample, within
from cellwright.training.evaluation.evaluate import score_image

WIDE = (1.0, 1000.0)


def test_a_sample_is_scaled_and_keeps_its_truth(draw_blobs, sample_of):
    blobs = draw_blobs()
    sample = sample_of("discs", "fluo", 1000 + 500 * blobs.image[None], blobs.labels, (0, 100))
    assert (sample.name, sample.group) == ("discs", "fluo")
    assert torch.equal(sample.image[0], torch.from_numpy(blobs.image))
    assert np.array_equal(sample.labels.numpy(), blobs.labels)
    assert np.allclose(sample.targets[:2].numpy(), labels_to_flow(blobs.labels), atol=1e-3)
    expected = np.median(equivalent_diameters(label_properties(blobs.labels).areas))
    assert sample.diameter_px == pytest.approx(expected)


def test_more_images_than_memory_holds_are_refused(write_dataset, tiny_flow, monkeypatch):
    dataset = read_dataset(write_dataset({"train": list("abcdef")}))
    kept = run(load_samples(dataset, tiny_flow()))
    n_bytes = sum(one.image.nbytes + one.targets.nbytes + one.labels.nbytes for one in kept) / len(kept)
    free = [6 * n_bytes / 0.9 + 1, 3.5 * n_bytes / 0.9]
    monkeypatch.setattr("cellwright.training.data.samples.free_memory", lambda: free.pop(0), raising=False)
    assert len(run(load_samples(dataset, tiny_flow()))) == 6
    with pytest.raises(ReadError, match="must fit into memory to be learned from; 4 of"):
        run(load_samples(dataset, tiny_flow()))


@pytest.mark.parametrize(("n_given", "n_taken"), [(1, 1), (2, 1), (3, 3), (4, 3)])
def test_channels_are_one_or_three(rng, n_given, n_taken, sample_of):
    sample = sample_of("any", "", rng.random((n_given, 20, 30)), np.zeros((20, 30), np.int32), (0, 100))
    assert sample.image.shape == (n_taken, 20, 30)


@pytest.mark.parametrize(("axes", "n_taken", "dark"), [("CYX", 1, 1.0), ("YXC", 3, 1.0), ("YXC", 1, 0.0)])
def test_what_is_learned_from_is_what_is_counted_in(write_dataset, tiny_flow, axes, n_taken, dark):
    folder = write_dataset({"train": ["a"]})
    path = folder / "images" / "a.tif"
    plane = tifffile.imread(path)
    channels = np.stack([plane, dark * 2 * plane, dark * plane[::-1]], axis=axes.index("C"))
    tifffile.imwrite(path, channels, metadata={"axes": axes}, photometric="minisblack")
    dataset = read_dataset(folder)
    taken = np.moveaxis(channels, axes.index("C"), 0)[:n_taken]
    (sample,) = run(load_samples(dataset, tiny_flow()))
    model = tiny_flow()
    expected = intensity.apply(intensity.fit_scaling(taken, model.spec.percentiles), taken)
    np.testing.assert_allclose(sample.image, expected, atol=1e-6)
    warned = [one.code for one in run(inspect(dataset, model.spec)).warnings if one.code == "channels"]
    assert warned == ["channels"] * (axes == "CYX")


def test_a_constant_image_and_one_with_holes_stay_finite(sample_of):
    labels = np.zeros((20, 30), np.int32)
    assert not sample_of("flat", "", np.full((1, 20, 30), 7.0), labels, (0, 100)).image.any()
    holed = np.ones((1, 20, 30))
    holed[0, 3], holed[0, 4] = np.nan, 2
    assert sample_of("holed", "", holed, labels, (0, 100)).image.isfinite().all()


def test_every_item_of_a_dataset_becomes_a_sample(write_dataset, tiny_flow):
    folder = write_dataset({"train": ["a", "b"], "val": ["c"]}, {"a": "fluo"})
    dataset = read_dataset(folder)
    samples = run(load_samples(dataset.select("train"), tiny_flow()))
    assert [(sample.name, sample.group) for sample in samples] == [("a:0", "fluo"), ("b:0", "")]


@pytest.mark.parametrize("axes", ["ZYX", "ZCYX"])
def test_frames_of_a_stack_that_hold_cells_become_samples(tmp_path, rng, axes, sample_of, tiny_flow):
    frames = rng.integers(0, 200, (30, 24, 32)).astype(np.uint8)
    labels = np.zeros((30, 24, 32), np.uint16)
    labels[4:24, 5:15, 5:15] = 1
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    data = frames if axes == "ZYX" else np.stack([frames, frames], axis=1)
    tifffile.imwrite(tmp_path / "images" / "s.tif", data, imagej=True, metadata={"axes": axes})
    tifffile.imwrite(tmp_path / "masks" / "s.tif", labels, imagej=True, metadata={"axes": "ZYX"})
    (tmp_path / "meta.json").write_text(json.dumps({"split": {"train": ["s"]}}))
    samples = run(load_samples(read_dataset(tmp_path), tiny_flow()))
    assert len(samples) == MAX_FRAMES
    assert all(sample.labels.any() for sample in samples)
    first = sample_of("s:0", "", frames[4][None], labels[4].astype(np.int32))
    assert torch.equal(samples[0].image, first.image)


def test_samples_are_values(draw_sample):
    sample = draw_sample()
    assert replace(sample, name="other").image is sample.image


def test_only_bare_counts_of_complete_masks_are_made_anew(draw_blobs):
    blobs = draw_blobs((64, 64), 16.0)
    whole = annotate(blobs.labels)
    cases = [(density, whole), (density, replace(whole, is_complete=False)), (flow, whole)]
    cases.append((density, replace(whole, labels=None)))
    made = [make_sample("a", "", blobs.image[None], truth, module.build()).count for module, truth in cases]
    assert [count is not None for count in made] == [True, False, False, False]
    part = within(
        make_sample("a", "", blobs.image[None], whole, density.build()), [((0, 0), (32, 64))], (64, 64)
    )
    assert part.count is None


def test_images_with_cells_of_another_size_are_brought_to_the_model(draw_blobs):
    blobs = draw_blobs((200, 240), 90.0)
    sample = make_sample("large", "", blobs.image[None], annotate(blobs.labels), flow.build())
    assert sample.diameter_px == pytest.approx(26, rel=0.05)
    assert sample.image.shape[1:] == sample.labels.shape == sample.targets.shape[1:]
    assert sample.labels.shape[0] < 70


@pytest.mark.parametrize("family", [flow, density])
def test_of_masks_that_may_not_be_all_only_their_surroundings_are_known(draw_blobs, family):
    blobs = draw_blobs((80, 90), 14.0)
    partial = replace(annotate(blobs.labels), is_complete=False)
    sample = make_sample("some", "", blobs.image[None], partial, family.build())
    inside = blobs.labels > 0
    probability = sample.targets[-1].numpy()
    assert (probability[inside] == 1).all()
    far = ndimage.distance_transform_edt(~inside) > RIM_PX
    assert np.isnan(probability[far]).all()
    assert (probability[~far & ~inside] == 0).all()


def test_outside_of_regions_nothing_is_known(draw_blobs):
    blobs = draw_blobs((80, 90), 14.0)
    sample = make_sample("all", "", blobs.image[None], annotate(blobs.labels), flow.build())
    part = within(sample, [((10, 20), (50, 60))], (80, 90))
    known = ~part.targets.isnan().any(dim=0)
    assert known[10:50, 20:60].all()
    assert int(known.sum()) == 40 * 40
    assert torch.equal(part.targets[:, 10:50, 20:60], sample.targets[:, 10:50, 20:60])
    assert 0 < len(part.points) < len(sample.points)
    assert not part.labels[~known].any()
    assert within(sample, [], (80, 90)) is sample


def test_regions_follow_an_image_that_is_resized(draw_blobs, write_dataset):
    dataset = read_dataset(write_dataset({"train": ["a"]}))
    region = ((8, 16), (40, 48))
    dataset = replace(dataset, items=(replace(dataset.items[0], regions=(region,)),))
    (as_is,) = run(load_samples(dataset, flow.build(), farthest=4.0))
    (suited,) = run(load_samples(dataset, flow.build(), farthest=1.0))
    zoom = suited.labels.shape[0] / as_is.labels.shape[0]
    assert suited.diameter_px == pytest.approx(26)
    assert zoom > 1.5
    known = ~suited.targets[2].isnan()
    assert int(known.sum()) == pytest.approx(32 * 32 * zoom**2, rel=0.05)


@pytest.mark.parametrize("family", [flow, pseudocolor])
@pytest.mark.parametrize("is_known", [True, False])
def test_outside_of_the_known_part_of_a_stack_nothing_is_known(tmp_path, draw_blobs, family, is_known):
    """In regions of all planes, or, where not every cell is annotated, beyond the surroundings of masks."""
    labels = np.stack([draw_blobs((80, 90), 14.0).labels] * 5)
    labels[:, 50:] = labels[4] = 0
    for name, data in (("images", (labels > 0) * np.uint8(200)), ("masks", labels.astype(np.uint16))):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "s.tif", data, imagej=True, metadata={"axes": "ZYX"})
    facts = {"regions": [[[0, 0], [50, 90]]]} if is_known else {"complete": False}
    meta = {"split": {"train": ["s"]}, "items": {"s": facts}}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    dataset, model = read_dataset(tmp_path), family.build()
    samples = run(load_samples(dataset, model))
    assert len(samples) == (5 if is_known and model.needs_volumes else 4)
    for sample in samples:
        assert sample.targets[:, 55:].isnan().all()
        assert sample.targets[:, :50].isnan().any() != is_known
    (item,) = dataset.items
    image, truth = item.annotated()
    found = result_of_labels(labels, image)[0]
    table = score_image(item, replace(found, count=float(len(found.cells))), truth)
    assert bool(table.average_precision) == is_known == table.is_complete
    assert table.score == 1
