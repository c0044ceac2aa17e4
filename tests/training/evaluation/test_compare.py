import weakref
from dataclasses import replace
from math import isnan

import numpy as np
import pytest
from scipy.sparse import csr_array

from cellwright.core.data import Cells, Image
from cellwright.core.errors import AxesError
from cellwright.core.tasks import run
from cellwright.files.dataset.folder import read_dataset
from cellwright.inference.pipeline import count_cells
from cellwright.inference.settings import EngineSettings
from cellwright.models import store
from cellwright.ops import matching
from cellwright.ops.labels import annotate, label_properties
from cellwright.training.evaluation import compare as compare_module
from cellwright.training.evaluation.compare import Comparison, ModelCount, alone, compare, disagreement
from cellwright.training.evaluation.evaluate import ImageScore

CPU = EngineSettings(device="cpu")


class Blind:
    """Wraps a model and finds every second of its cells."""

    def __init__(self, model):
        self._model = model

    def __getattr__(self, name):
        return getattr(self._model, name)

    def decode(self, maps, shape, settings, grid=None):
        return cells_of(thinned(self._model.decode(maps, shape, settings, grid).labels))


def thinned(labels):
    return np.where(labels % 2 == 1, (labels + 1) // 2, 0).astype(np.int32)


def cells_of(labels):
    areas, points, boxes = label_properties(labels)
    return Cells(points, boxes, np.ones(len(areas), np.float32), areas, labels)


@pytest.fixture
def two(monkeypatch, oracle_model):
    """The names ``good`` and ``half`` stand for a perfect model and one that finds every second cell."""
    known = {"good": oracle_model, "half": Blind(oracle_model), "folder/good": oracle_model}
    monkeypatch.setattr(store, "load", lambda name: known[str(name)])


@pytest.mark.usefixtures("two")
def test_two_models_on_images_that_are_known(write_dataset):
    dataset = read_dataset(write_dataset({"val": ["a", "b"]}))
    stages = []
    comparison = run(compare(["good", "half"], dataset, engine=CPU), lambda one: stages.append(one.stage))
    n = int(dataset.items[0].read()[1].max())
    assert comparison.models == ("good", "half")
    assert [(row.image, row.model) for row in comparison.rows] == [
        (image, model) for image in "ab" for model in ("good", "half")
    ]
    assert [row.count for row in comparison.of("good")] == [n, n]
    assert comparison.mean("good", "f1") == 1
    n_half = (n + 1) // 2
    assert comparison.mean("half", "count") == n_half
    assert comparison.mean("half", "f1") == pytest.approx(2 * n_half / (n + n_half))
    assert [name for name, _ in comparison.images()] == ["a", "b"]
    assert "compare" in stages


@pytest.mark.usefixtures("two")
def test_cells_and_maps_are_handed_out_and_let_go_of(write_dataset):
    dataset = read_dataset(write_dataset({"val": ["a", "b"]}))
    seen, counts = [], []

    def look(image, results):
        assert all(one() is None for one in seen)
        seen.extend(weakref.ref(one.cells.labels) for one in results)
        counts.append((image.name, *(one.count for one in results)))

    comparison = run(compare(["good", "half"], dataset, engine=CPU, on_image=look))
    assert len(seen) == 4
    assert all(one() is None for one in seen)
    assert counts == [(name, *(row.count for row in rows)) for name, rows in comparison.images()]


@pytest.mark.usefixtures("two")
def test_an_image_of_which_nothing_is_known(blobs):
    comparison = run(compare(["good", "half"], Image(blobs.image, "YX"), engine=CPU))
    assert [row.count for row in comparison.rows] == [len(blobs), (len(blobs) + 1) // 2]
    assert isnan(comparison.mean("good", "f1"))
    assert comparison.rows[0].score is None


@pytest.mark.usefixtures("two")
def test_models_of_the_same_name_are_numbered(blobs):
    comparison = run(compare(["good", "folder/good"], Image(blobs.image, "YX"), engine=CPU))
    assert comparison.models == ("good (1)", "good (2)")
    assert len(comparison.of("good (2)")) == 1


@pytest.mark.usefixtures("two")
def test_points_have_an_f1_as_well(write_dataset, monkeypatch):
    dataset = read_dataset(write_dataset({"val": ["a"]}))
    item = dataset.items[0]
    image, labels = item.read()
    truth = replace(annotate(labels), labels=None, boxes=None)
    monkeypatch.setattr(type(item), "annotated", lambda _: (image, truth))
    comparison = run(compare(["good", "half"], dataset, engine=CPU))
    assert comparison.mean("good", "f1") == 1
    assert comparison.mean("half", "f1") < 0.8


@pytest.mark.usefixtures("two")
def test_only_what_lies_in_the_regions_is_scored(write_dataset):
    dataset = read_dataset(write_dataset({"val": ["a"]}))
    item = dataset.items[0]
    labels = item.read()[1]
    left = label_properties(labels).points[:, 1] < 29.5
    in_part = replace(dataset, items=(replace(item, regions=(((0, 0), (64, 30)),)),))
    comparison = run(compare(["good", "half"], in_part, engine=CPU))
    n, n_half = left.sum(), left[::2].sum()  # the second model has every other cell
    assert [row.count for row in comparison.of("good")] == [len(left)]
    assert [row.score.n_true for row in comparison.rows] == [n, n]
    assert [row.score.n_predicted for row in comparison.rows] == [n, n_half]
    assert comparison.mean("half", "f1") == pytest.approx(2 * n_half / (n + n_half))


@pytest.mark.usefixtures("two")
def test_boxes_have_an_f1_and_where_cells_are_missing_there_is_none(write_dataset, monkeypatch):
    dataset = read_dataset(write_dataset({"val": ["a"]}))
    item = dataset.items[0]
    image, labels = item.read()
    monkeypatch.setattr(type(item), "annotated", lambda _: (image, replace(annotate(labels), labels=None)))
    n, n_half = labels.max(), (labels.max() + 1) // 2
    comparison = run(compare(["good", "half"], dataset, engine=CPU))
    assert comparison.mean("half", "f1") == pytest.approx(2 * n_half / (n + n_half))
    some = replace(dataset, items=(replace(item, is_complete=False),))
    monkeypatch.setattr(type(item), "annotated", lambda _: (image, labels))
    assert isnan(run(compare(["good"], some, engine=CPU)).mean("good", "f1"))


@pytest.mark.usefixtures("two")
def test_where_a_model_gives_no_outlines_all_are_judged_by_centres(write_dataset, monkeypatch):
    def with_points_of_half(image, model, *others):
        result = yield from count_cells(image, model, *others)
        if isinstance(model, Blind):
            return replace(result, cells=replace(result.cells, labels=None))
        labels = result.cells.labels
        rows, columns = np.rint(result.cells.points).astype(int).T
        middles = np.zeros_like(labels)
        middles[rows, columns] = labels[rows, columns]
        return replace(result, cells=cells_of(middles))  # right centres, wrong outlines

    monkeypatch.setattr(compare_module, "count_cells", with_points_of_half)
    dataset = read_dataset(write_dataset({"val": ["a"]}))
    alone = run(compare(["good"], dataset, engine=CPU))
    assert (alone.mean("good", "f1"), alone.notice) == (0, "")
    both = run(compare(["good", "half"], dataset, engine=CPU))
    assert both.mean("good", "f1") == 1 > both.mean("half", "f1") > 0
    assert both.notice.startswith("F1 is that of centres")


def test_means_are_those_of_the_images_that_are_known():
    score = ImageScore("a", "", 3, 3.0, 0.5, means={"f1": 0.5})
    rows = ModelCount("m", "a", 3.0, score=score), ModelCount("m", "b", 3.0)
    assert Comparison(("m",), rows).mean("m", "f1") == 0.5


def test_disagreements_are_what_only_one_found(blobs):
    whole, half = cells_of(blobs.labels), cells_of(thinned(blobs.labels))
    drawn = disagreement(whole, half)
    assert np.array_equal(drawn == 1, (blobs.labels > 0) & (blobs.labels % 2 == 0))
    assert not (drawn == 2).any()
    assert np.array_equal(disagreement(half, whole) == 2, drawn == 1)
    assert not disagreement(whole, whole).any()


def test_nothing_agrees_with_cells(blobs):
    nothing = cells_of(np.zeros_like(blobs.labels))
    assert np.array_equal(disagreement(nothing, cells_of(blobs.labels)) == 2, blobs.labels > 0)
    assert not disagreement(nothing, nothing).any()


@pytest.mark.parametrize("n_axes", [2, 3])
def test_without_outlines_boxes_tell_which_cells_are_the_same(rng, n_axes):
    def boxed(boxes):
        return Cells(boxes.mean(axis=1), boxes, np.ones(len(boxes), np.float32), np.ones(len(boxes)), None)

    low = rng.uniform(0, 60, (150, n_axes)).astype(np.float32)
    boxes = np.stack([low, low + rng.uniform(4, 12, low.shape).astype(np.float32)], axis=1)
    moved = boxes + rng.uniform(-3, 3, (150, 2, n_axes)).astype(np.float32)
    pairs = matching.matched_pairs(csr_array(matching.box_iou(boxes[:, np.newaxis], moved)), 0.5)
    assert 10 < len(pairs) < 140
    first, second = alone(boxed(boxes), boxed(moved))
    assert (150 - first.sum(), 150 - second.sum()) == (len(pairs), len(pairs))
    nothing = boxed(boxes[:0])
    assert [one.all() for one in alone(boxed(boxes), nothing)] == [True, True]
    assert [one.all() for one in alone(nothing, boxed(boxes))] == [True, True]


def test_disagreements_need_outlines_of_the_same_image(blobs):
    cells = cells_of(blobs.labels)
    with pytest.raises(AxesError, match="gives none"):
        disagreement(cells, replace(cells, labels=None))
    with pytest.raises(AxesError, match="same image"):
        disagreement(cells, cells_of(blobs.labels[1:]))
