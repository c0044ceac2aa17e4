from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from cellwright.core.data import Cells, Image, Provenance, Result
from cellwright.core.errors import AxesError, CheckpointError, OutOfMemoryError, SettingsError
from cellwright.core.tasks import run
from cellwright.inference import classify as classify_module
from cellwright.inference.classify import Classes, classify, predict_classes
from cellwright.inference.image_count import summary_row
from cellwright.inference.pipeline import count
from cellwright.inference.settings import EngineSettings
from cellwright.models.classifier import Classifier
from cellwright.models.spec import ClassifierSpec
from cellwright.ops.labels import label_properties
from cellwright.ops.measure.analysis import AnalysisInputs, Counted, analyse
from cellwright.ops.measure.measurement import result_of_labels
from cellwright.ops.measure.regions import region_set, shape_region

CPU = EngineSettings(device="cpu", precision="float32")
SPEC = ClassifierSpec("small", "Bright or not", ("dim", "bright", "large"), crop_px=16, diameter_px=12.0)


class BrightNetwork(nn.Module):
    """Class 1 where the middle of the crop is bright, class 2 where the cell is larger than the others."""

    def __init__(self, most=10_000, message="out of memory"):
        super().__init__()
        self.most, self.message, self.seen = most, message, []

    def __deepcopy__(self, memo):
        return self

    def forward(self, crops, sizes):
        self.seen.append(len(crops))
        if len(crops) > self.most:
            raise RuntimeError(self.message)
        middle = crops[:, :, 6:10, 6:10].mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(middle), 20 * (middle - 0.5), 40 * (sizes - 0.8)], dim=1)


def classifier(network=None, **facts):
    return Classifier(replace(SPEC, **facts), network or BrightNetwork(), "abc")


@pytest.fixture
def scene(blobs):
    """Every other disc is half as bright; (image, cells, which are bright)."""
    is_bright = np.arange(len(blobs)) % 2 == 0
    image = blobs.image * np.where(is_bright, 1.0, 0.3)[np.maximum(blobs.labels - 1, 0)].astype(np.float32)
    areas, points, boxes = label_properties(blobs.labels)
    return image, Cells(points, boxes, np.ones(len(areas), np.float32), areas, blobs.labels), is_bright


def result_of(cells, image):
    provenance = Provenance("1", "flow", "", {"zoom": 1.0}, "a", image.shape, image.axes, (), "cpu", 1.0)
    return Result(float(len(cells)), cells, provenance, notices=("look",))


def stacked(cells, n):
    """The same cells in each of n frames."""
    points = [np.insert(cells.points, 0, t, axis=1) for t in range(n)]
    boxes = [np.insert(cells.boxes, 0, t, axis=2) for t in range(n)]
    tile = [cells.scores] * n, [cells.areas] * n
    return Cells(np.concatenate(points), np.concatenate(boxes), *(np.concatenate(part) for part in tile))


def without_labels(cells):
    return replace(cells, labels=None)


def bare_points(cells):
    return Cells(cells.points, np.zeros_like(cells.boxes), cells.scores, np.zeros_like(cells.areas))


@pytest.mark.parametrize("change", [replace, without_labels, bare_points])
def test_the_cells_of_a_result_get_classes(scene, change):
    data, cells, is_bright = scene
    image = Image(data, "YX")
    before = result_of(change(cells), image)
    after = run(classify(before, image, classifier(), CPU))
    np.testing.assert_array_equal(after.cells.classes, is_bright)
    assert after.cells.classes.dtype == np.int16
    assert after.provenance.settings == {
        "zoom": 1.0,
        "classes": ["dim", "bright", "large"],
        "classifier": {"name": "classifier-small", "sha256": "abc"},
    }
    assert (after.count, after.notices) == (before.count, before.notices)
    assert before.cells.classes is None
    np.testing.assert_array_equal(after.cells.points, before.cells.points)


def test_probabilities_and_counts_are_told(scene):
    data, cells, is_bright = scene
    classes = run(predict_classes(cells, Image(data, "YX"), classifier(), CPU))
    np.testing.assert_allclose(classes.probabilities.sum(axis=1), 1, rtol=1e-5)
    assert classes.counts == {"dim": int((~is_bright).sum()), "bright": int(is_bright.sum()), "large": 0}


@pytest.mark.parametrize("axes", ["TYX", "ZYX"])
def test_each_cell_is_looked_at_in_its_own_frame(scene, axes):
    data, cells, is_bright = scene
    image = Image(np.stack([data, 1.3 * (data > 0) - data]), axes)
    classes = run(predict_classes(stacked(cells, 2), image, classifier(), CPU))
    np.testing.assert_array_equal(classes.numbers, np.concatenate([is_bright, ~is_bright]))


def test_a_cell_between_slices_is_looked_at_in_the_nearest(scene):
    data, cells, is_bright = scene
    image = Image(np.stack([data, 1.3 * (data > 0) - data, np.zeros_like(data)]), "ZYX")
    one = stacked(cells, 1)
    between = replace(one, points=one.points + np.array([0.7, 0, 0], np.float32))
    classes = run(predict_classes(between, image, classifier(), CPU))
    np.testing.assert_array_equal(classes.numbers, ~is_bright)


def test_time_series_of_volumes_and_colours(scene):
    data, cells, is_bright = scene
    frames = np.stack([data, 1.3 * (data > 0) - data])
    image = Image(np.stack([frames, frames[::-1]])[..., None].repeat(3, axis=-1), "TZYXC")
    flat = stacked(cells, 4)
    lead = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)[flat.points[:, 0].astype(int)]
    points = np.column_stack([lead, flat.points[:, 1:]])
    boxes = np.insert(flat.boxes, 0, 0, axis=2)
    classes = run(predict_classes(replace(flat, points=points, boxes=boxes), image, classifier(), CPU))
    expected = np.concatenate([is_bright, ~is_bright, ~is_bright, is_bright])
    np.testing.assert_array_equal(classes.numbers, expected)


def test_the_channel_of_the_engine_is_looked_at(scene):
    data, cells, is_bright = scene
    image = Image(np.stack([np.full_like(data, 7), data]), "CYX")
    engine = replace(CPU, channel=1)
    classes = run(predict_classes(cells, image, classifier(in_channels=1), engine))
    np.testing.assert_array_equal(classes.numbers, is_bright)


def test_a_cell_larger_than_the_others_is_seen_to_be_so(scene):
    data, cells, _ = scene
    boxes = cells.boxes.copy()
    boxes[3, 1] += 30
    classes = run(predict_classes(replace(cells, boxes=boxes), Image(data, "YX"), classifier(), CPU))
    assert classes.numbers[3] == 2
    assert (classes.numbers == 2).sum() == 1


def test_the_stated_diameter_is_that_of_bare_points(scene):
    data, cells, _ = scene
    wide = []

    class Probe(BrightNetwork):
        def forward(self, crops, sizes):
            wide.append(float((crops > 0.1).float().mean()))
            return super().forward(crops, sizes)

    for diameter in (10.0, 40.0):
        engine = replace(CPU, diameter_px=diameter)
        run(predict_classes(bare_points(cells), Image(data, "YX"), classifier(Probe()), engine))
    assert wide[0] > 1.5 * wide[1]


def test_neither_tiling_nor_batches_change_a_class(rng):
    data = rng.random((1500, 1300), dtype=np.float32)
    n = 60
    points = rng.uniform(0, (1500, 1300), (n, 2)).astype(np.float32)
    boxes = np.stack([points - 10, points + rng.uniform(5, 60, (n, 1)).astype(np.float32)], axis=1)
    cells = Cells(points, boxes, np.ones(n, np.float32), np.ones(n, np.float32))
    image = Image(data, "YX")
    together = run(predict_classes(cells, image, classifier(), CPU))
    alone = run(predict_classes(cells, image, classifier(), replace(CPU, batch_size=1)))
    np.testing.assert_allclose(together.probabilities, alone.probabilities, atol=1e-4)


def test_half_precision_says_the_same(scene):
    data, cells, is_bright = scene
    engine = replace(CPU, precision="bfloat16")
    classes = run(predict_classes(cells, Image(data, "YX"), classifier(), engine))
    np.testing.assert_array_equal(classes.numbers, is_bright)
    assert classes.probabilities.dtype == np.float32


def test_no_cells_have_no_classes():
    none = np.zeros((0,), np.float32)
    image = Image(np.zeros((20, 20), np.uint8), "YX")
    cells = Cells(none.reshape(0, 2), none.reshape(0, 2, 2), none, none)
    after = run(classify(result_of(cells, image), image, classifier(), CPU))
    assert after.cells.classes.shape == (0,)
    assert Classes(("a", "b"), np.zeros((0, 2), np.float32)).counts == {"a": 0, "b": 0}


def test_progress_ends_with_all_cells(scene):
    data, cells, _ = scene
    steps = []
    run(predict_classes(cells, Image(data, "YX"), classifier(), replace(CPU, batch_size=9)), steps.append)
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert (steps[0].done, steps[-1].done, steps[-1].total) == (0, len(cells), len(cells))


def test_going_on_on_the_cpu_is_told(scene, monkeypatch):
    data, cells, is_bright = scene
    image, forward = Image(data, "YX"), classify_module._Runner._forward
    monkeypatch.setattr(classify_module, "choose_device", lambda _: torch.device("meta"))
    monkeypatch.setattr(BrightNetwork, "to", lambda self, _: self)

    def fits_on_the_cpu(self, *given):
        if self._device.type != "cpu":
            raise torch.OutOfMemoryError
        return forward(self, *given)

    monkeypatch.setattr(classify_module._Runner, "_forward", fits_on_the_cpu)
    after = run(classify(result_of(cells, image), image, classifier(), CPU))
    np.testing.assert_array_equal(after.cells.classes, is_bright)
    assert after.notices[1:] == (
        "The classifier does not fit into the memory of meta; went on with the CPU.",
    )


def test_less_is_taken_at_once_when_memory_runs_out(scene):
    data, cells, is_bright = scene
    network = BrightNetwork(most=5)
    classes = run(predict_classes(cells, Image(data, "YX"), classifier(network), CPU))
    np.testing.assert_array_equal(classes.numbers, is_bright)
    with pytest.raises(OutOfMemoryError, match="crop of one cell must fit"):
        run(predict_classes(cells, Image(data, "YX"), classifier(BrightNetwork(most=0)), CPU))


def test_other_errors_of_the_network_come_through(scene):
    data, cells, _ = scene
    with pytest.raises(RuntimeError, match="shapes"):
        run(predict_classes(cells, Image(data, "YX"), classifier(BrightNetwork(0, "shapes")), CPU))


def test_cells_of_another_image_are_refused(scene):
    data, cells, _ = scene
    volume = Image(np.stack([data, data]), "ZYX")
    with pytest.raises(AxesError, match=r"points with 2 axes for axes 'ZYX' and shape \(2, 160, 200\)"):
        run(predict_classes(cells, volume, classifier(), CPU))
    with pytest.raises(AxesError, match="Give the image they were counted in"):
        run(predict_classes(stacked(cells, 3), volume, classifier(), CPU))
    with pytest.raises(AxesError, match="points with 3 axes"):
        run(predict_classes(stacked(cells, 1), Image(data, "YX"), classifier(), CPU))
    assert run(predict_classes(cells, Image(data[None], "ZYX"), classifier(), CPU)).numbers.any()


def test_a_wrong_channel_or_classifier_is_refused(scene):
    data, cells, _ = scene
    image = Image(data, "YX")
    with pytest.raises(SettingsError, match="has one channel, number 0"):
        run(predict_classes(cells, image, classifier(), replace(CPU, channel=3)))
    with pytest.raises(CheckpointError, match="Classifier must be a folder or one of"):
        run(classify(result_of(cells, image), image, "absent", CPU))
    with pytest.raises(AxesError, match="takes 4 channels"):
        run(predict_classes(cells, Image(np.stack([data] * 3, -1), "YXC"), classifier(in_channels=4), CPU))


def test_a_class_and_a_region_of_one_name_have_columns_of_their_own():
    labels = np.zeros((20, 40), np.int32)
    labels[4:8, 4:8], labels[4:8, 14:18], labels[4:8, 30:34] = 1, 2, 3
    image = Image(labels.astype(np.float32), "YX")
    found = result_of_labels(labels, image).result
    cells = replace(found.cells, classes=np.array([0, 1, 1], np.int16))
    found = replace(found, cells=cells, provenance=found.provenance.noting(classes=["tumour", "blood"]))
    sides = ((0, 20, "tumour"), (20, 40, "stroma"))
    regions = [
        shape_region(name, "polygon", np.array([[-1, low], [-1, high], [20, high], [20, low]]))
        for low, high, name in sides
    ]
    analysis = analyse(found, image, inputs=AnalysisInputs(region_set(regions)))
    row = summary_row(Counted(analysis.result, analysis))
    counts = {name: value for name, value in row.items() if name.startswith("count_")}
    assert counts == {
        "count_tumour": 1,
        "count_blood": 2,
        "count_in_tumour": 2,
        "count_stroma": 1,
        "count_all regions": 3,
    }


def test_python_counts_with_classes_as_the_two_steps_do(blobs, oracle_model):
    image = Image(blobs.image, "YX")
    plain = count(image, oracle_model, engine=CPU)
    found = count(image, oracle_model, engine=CPU, classifier=classifier())
    expected = run(classify(plain, image, classifier(), CPU))
    assert plain.cells.classes is None
    assert np.array_equal(found.cells.classes, expected.cells.classes)
    assert found.provenance.settings["classes"] == list(SPEC.classes)


def test_a_density_has_no_cells_to_classify(blobs, oracle_model):
    image = Image(blobs.image, "YX")
    density = replace(count(image, oracle_model, engine=CPU), maps={"density": blobs.image})
    with pytest.raises(SettingsError, match="are of single cells"):
        run(classify(density, image, classifier(), CPU))
