import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile

from cellwright.core.data import Annotation, Cells, Provenance, Result
from cellwright.core.errors import AnnotationError
from cellwright.core.tasks import run
from cellwright.files.dataset.folder import Item, read_dataset
from cellwright.inference.settings import EngineSettings
from cellwright.models.families import density
from cellwright.ops.codecs.flow import FlowSettings
from cellwright.ops.labels import keep_labels, label_properties
from cellwright.ops.matching import IOU_THRESHOLDS
from cellwright.training.evaluation import evaluate as module
from cellwright.training.evaluation.evaluate import Report, evaluate, score_cells, score_count, score_found

CPU = EngineSettings(device="cpu")
SPLIT = {"train": ["a"], "val": ["b", "c", "d"]}
GROUPS = {"b": "fluo", "c": "fluo", "d": "phase"}
NOBODY = Provenance("", "", "", {}, "", (), "", (), "cpu", 0.0)


@pytest.fixture
def dataset(write_dataset):
    return read_dataset(write_dataset(SPLIT, GROUPS)).select("val")


@pytest.fixture
def item(tmp_path):
    """An image whose cells are all annotated."""
    return Item("a", "val", "fluo", tmp_path / "images" / "a.tif", tmp_path / "masks" / "a.tif")


def cells_at(points, boxes, *, labels=None, classes=None, scores=None):
    points, boxes = np.asarray(points, np.float32), np.asarray(boxes, np.float32)
    scores = np.linspace(0.9, 0.5, len(points)) if scores is None else scores
    areas = np.ones(len(points), np.float32)
    return Cells(points, boxes, np.asarray(scores, np.float32), areas, labels, classes)


def cells_of(labels, **columns):
    _, points, boxes = label_properties(labels)
    return cells_at(points, boxes, labels=labels, **columns)


def result_of(cells, count=None, interval=None, classes=()):
    provenance = replace(NOBODY, settings={"classes": classes})
    return Result(float(len(cells)) if count is None else count, cells, provenance, interval=interval)


NOTHING = cells_at(np.zeros((0, 2)), np.zeros((0, 2, 2)))


def test_an_oracle_scores_one(dataset, oracle_model):
    report = run(evaluate(dataset, oracle_model, engine=CPU))
    assert report.summary() == {"score": 1, "ap50": 1, "ap50_fluo": 1, "ap50_phase": 1, "count_error": 0}
    scores = report.to_json()
    assert {name: group["n_images"] for name, group in scores.items()} == {"all": 3, "fluo": 2, "phase": 1}
    for group in scores.values():
        assert set(group["ap"].values()) == {1.0}
        ones = ("score", "mean_ap", "f1", "pq", "seg", "point_recall", "point_precision", "point_f1")
        assert {group[key] for key in (*ones, "box_iou", "image_seg", "cell_f1")} == {1.0}
        assert (group["count_mae"], group["count_mape"], group["count_median_error"]) == (0, 0, 0)
        assert group["n_true"] == group["n_predicted"] > 0
        assert group["score_auroc"] is None  # nothing is wrong, so there is nothing to rank
        assert "continuity" not in group
    assert list(scores["all"]["ap"]) == [f"{threshold:.2f}" for threshold in IOU_THRESHOLDS]


def test_a_film_of_tracked_cells_is_judged_frame_by_frame(dataset, oracle_model):
    name = dataset.items[0].name
    for path in (dataset.items[0].image_path, dataset.items[0].truth_path):
        frame = tifffile.imread(path)
        tifffile.imwrite(path, np.stack([frame, frame]), imagej=True, metadata={"axes": "TYX"})
    (film,) = run(evaluate(dataset.select(names=[name]), oracle_model, engine=CPU)).images
    assert film.n_true == film.n_predicted > 0
    assert film.score == 1


def test_what_lies_outside_of_the_regions_is_not_judged(dataset, oracle_model):
    item = replace(dataset.items[0], regions=(((0, 0), (64, 30)),))
    labels = item.read()[1]
    labels = keep_labels(labels, label_properties(labels).points[:, 1] < 29.5)
    tifffile.imwrite(item.truth_path, labels)
    report = run(evaluate(replace(dataset, items=(item,)), oracle_model, engine=CPU))
    assert labels.max() > 0
    assert (report.images[0].score, report.images[0].n_predicted) == (1, labels.max())


def test_the_steps_name_the_images(dataset, oracle_model):
    steps = []
    run(evaluate(dataset, oracle_model, engine=CPU), steps.append)
    own = [step for step in steps if step.stage == "evaluate"]
    assert [(step.done, step.total, step.note) for step in own] == [(0, 3, "b"), (1, 3, "c"), (2, 3, "d")]


def test_settings_reach_the_model(dataset, oracle_model):
    report = run(evaluate(dataset, oracle_model, settings=FlowSettings(min_area_px=10_000), engine=CPU))
    assert [image.n_predicted for image in report.images] == [0, 0, 0]
    assert (report.summary()["score"], report.summary()["ap50"]) == (0, 0)
    assert report.summary()["count_error"] == 1
    assert report.to_json()["all"]["point_precision"] is None  # nothing was found that could be wrong


def test_what_is_wrong_is_marked_as_wrong(dataset, oracle_model):
    """A model that outlines too widely: every second cell no longer overlaps by a half."""

    def widen(maps, settings):
        cells = FIND(maps, settings)
        labels = cells.labels.copy()
        wrong = labels[labels % 2 == 0]
        labels[labels % 2 == 0] = 0
        labels[0, : cells.labels.max() // 2] = np.unique(wrong)[: cells.labels.max() // 2]
        scores = np.where(np.arange(1, len(cells) + 1) % 2, 0.9, 0.2).astype(np.float32)
        return replace(cells, labels=labels, scores=scores)

    FIND = oracle_model.postprocess
    oracle_model.postprocess = widen
    report = run(evaluate(dataset, oracle_model, engine=CPU))
    for image in report.images:
        expected = np.arange(1, image.n_predicted + 1) % 2 == 1
        assert np.array_equal(image.is_right, expected)
    assert report.to_json()["all"]["score_auroc"] == 1


def test_points_and_boxes_of_a_case_worked_by_hand(item):
    """Two points in the first cell, one in the second with half a box, one beside, the third missed."""
    truth = np.zeros((20, 40), np.int32)
    truth[0:10, 0:10], truth[0:10, 20:30], truth[15:20, 0:5] = 1, 2, 3
    points = [[4, 4], [5, 5], [4, 25], [15, 35]]
    boxes = [[[0, 0], [10, 10]], [[0, 0], [9, 9]], [[0, 20], [10, 25]], [[14, 34], [16, 36]]]
    score = score_cells(item, result_of(cells_at(points, boxes)), truth)
    assert (score.n_true, score.n_predicted, score.count_error) == (3, 4, pytest.approx(1 / 3))
    assert score.is_right.tolist() == [True, False, True, False]
    report = Report((score,))
    table = report.to_json()["all"]
    assert table["point_recall"] == pytest.approx(2 / 3, abs=1e-4)
    assert (table["point_precision"], table["point_f1"], table["box_iou"]) == (0.5, 0.5714, 0.75)
    assert table["score_auroc"] == 0.75
    assert not {"ap", "f1", "seg"} & set(table)
    summary = {"score": 4 / 7, "score_fluo": 4 / 7, "box_iou": 0.75, "count_error": 1 / 3}
    assert report.summary() == pytest.approx(summary)


def test_cells_weigh_the_same_in_the_figures_of_points(item):
    few, many = np.zeros((4, 4), np.int32), np.zeros((8, 40), np.int32)
    few[0, 0] = 1
    many[0, ::4] = np.arange(1, 11)
    none, all_of_them = NOTHING, cells_of(many)
    scores = (score_cells(item, result_of(none), few), score_cells(item, result_of(all_of_them), many))
    table = Report(scores).to_json()["all"]
    assert table["point_recall"] == pytest.approx(10 / 11, abs=1e-4)
    assert (table["point_precision"], table["score"]) == (1, 0.5)  # the score is a mean over images


def test_volumes_are_scored_in_three_dimensions(item):
    truth = np.zeros((4, 8, 20), np.int32)
    truth[:, :, :8], truth[:, :, 12:] = 1, 2
    parted = truth.copy()
    parted[2:, :, 12:] = 3
    found = result_of(cells_of(parted))
    volume = replace(found, provenance=replace(found.provenance, axes="ZYX"))
    score = score_cells(item, volume, truth)
    table = Report((score,)).to_json()["all"]
    assert table["continuity"] == pytest.approx(5 / 6, abs=1e-4)
    assert table["seg"] == 0.5  # neither half covers more than half
    assert table["f1"] == 0.8  # at IoU 0.5 a half is a hit
    assert table["point_recall"] == 1


def test_scores_are_means_over_images_and_over_all_cells(item):
    one, many = np.zeros((2, 8, 80), np.int32)
    one[:, :6] = 1
    for number in range(9):
        many[:, 8 * number : 8 * number + 6] = number + 1
    missed = np.where(many == 9, 0, many)
    scores = (
        score_cells(item, result_of(cells_of(one)), one),
        score_cells(item, result_of(cells_of(missed)), many),
    )
    table = Report(scores).to_json()["all"]
    assert (table["image_seg"], table["seg"]) == pytest.approx(((1 + 8 / 9) / 2, 9 / 10), abs=1e-4)
    assert (table["f1"], table["cell_f1"]) == pytest.approx(((1 + 16 / 17) / 2, 18 / 19), abs=1e-4)


def test_nothing_in_an_empty_image_is_right(item):
    empty = np.zeros((6, 6), np.int32)
    for cells in (NOTHING, replace(NOTHING, labels=empty)):
        assert score_cells(item, result_of(cells), empty).score == 1
    one = cells_at([[2, 2]], [[[0, 0], [4, 4]]])
    assert score_cells(item, result_of(one), empty).score == 0


def test_of_some_annotated_boxes_only_recall_counts(item):
    names = ("WBC", "RBC", "Platelets")
    item = replace(item, classes=names, is_complete=False)
    boxes = np.array([[[0, 0], [10, 10]], [[0, 20], [10, 30]], [[20, 0], [24, 4]]], np.float32)
    truth = Annotation((40, 40), boxes.mean(axis=1) - 0.5, boxes, None, np.array([0, 1, 2]), False)
    found = [[[0, 0], [10, 8]], [[0, 20], [10, 30]], [[30, 30], [40, 40]], [[30, 0], [35, 5]]]
    cells = cells_at(np.mean(found, axis=1), found, classes=np.array([1, 0, 0, 1], np.int16))
    score = score_found(item, result_of(cells, classes=("RBC", "WBC")), truth)
    assert score.score == pytest.approx(2 / 3)
    table = Report((score,)).to_json()["all"]
    by_class = [table[f"box_recall_{name}"] for name in names]
    assert (table["box_recall"], by_class) == (0.6667, [1, 1, 0])
    assert (table["box_iou"], table["class_accuracy"]) == (0.9, 1)
    assert not {"box_precision", "box_f1", "count_mae", "count_mape"} & set(table)
    assert Report((score,)).summary() == pytest.approx({"score": 2 / 3, "score_fluo": 2 / 3, "box_iou": 0.9})
    swapped = score_found(item, result_of(cells, classes=("WBC", "RBC")), truth)
    assert swapped.shares["class_accuracy"] == (0, 2)


def test_all_boxes_of_an_image_tell_what_is_wrong_too(item):
    boxes = np.array([[[0, 0], [10, 10]], [[0, 20], [10, 30]]], np.float32)
    truth = Annotation((40, 40), boxes.mean(axis=1) - 0.5, boxes)
    found = [*boxes, [[20, 20], [30, 30]]]
    score = score_found(item, result_of(cells_at(np.mean(found, axis=1), found)), truth)
    assert score.score == pytest.approx(0.8)
    table = Report((score,)).to_json()["all"]
    assert (table["box_recall"], table["box_precision"], table["count_mae"]) == (1, 0.6667, 1)


def test_annotated_points_are_found_by_the_boxes_around_them(item):
    item = replace(item, is_complete=False)
    truth = Annotation((40, 40), np.array([[5, 5], [5, 25], [6, 26]], np.float32), is_complete=False)
    boxes = [[[0, 0], [10, 10]], [[0, 20], [10, 30]]]
    score = score_found(item, result_of(cells_at([[5, 5], [5, 25]], boxes)), truth)
    assert score.shares == {"point_recall": (2, 3)}  # one box finds one point
    assert score_found(item, result_of(NOTHING), truth).score == 0


def test_a_bare_count_is_scored_by_its_error_and_its_interval(item):
    truth = np.arange(11, dtype=np.int32)[None]
    score = score_count(item, result_of(NOTHING, 12.5, (9.0, 16.0)), truth)
    assert (score.n_true, score.n_predicted, score.score) == (10, 12.5, 0.8)
    missed = score_count(item, result_of(NOTHING, 5.0, (4.0, 6.0)), truth)
    table = Report((score, missed)).to_json()["all"]
    assert (table["interval_coverage"], table["interval_width"], table["count_mae"]) == (0.5, 0.45, 3.75)
    assert Report((missed,)).summary() == pytest.approx(
        {"score": 2 / 3, "score_fluo": 2 / 3, "interval_coverage": 0, "count_error": 0.5}
    )
    points = Annotation((40, 40), np.zeros((4, 2), np.float32))
    assert score_count(item, result_of(NOTHING, 4.0), points).score == 1


def test_a_bare_count_cannot_be_scored_against_some_cells(item):
    some = Annotation((40, 40), np.zeros((4, 2), np.float32), is_complete=False)
    with pytest.raises(AnnotationError, match=r"only some are known.*meta\.json"):
        score_count(replace(item, is_complete=False), result_of(NOTHING, 4.0), some)


def test_models_that_only_count_are_scored_by_their_count(dataset, monkeypatch):
    def count_cells(image, model, settings, engine):
        yield from ()
        density = np.zeros(image.label_shape, np.float32)
        return replace(result_of(NOTHING, 0.0, (0.0, 1000.0)), maps={"density": density})

    monkeypatch.setattr(module, "count_cells", count_cells)
    summary = run(evaluate(dataset, density.build(), engine=CPU)).summary()
    assert summary == {
        "score": 0.5,
        "score_fluo": 0.5,
        "score_phase": 0.5,
        "interval_coverage": 1,
        "count_error": 1,
    }


def test_folders_of_boxes_are_scored(tmp_path, draw_blobs, oracle_model):
    blobs = draw_blobs((64, 72), 12.0)
    for part in ("images", "boxes"):
        (tmp_path / part).mkdir()
    tifffile.imwrite(tmp_path / "images" / "a.tif", (blobs.image * 200).astype(np.uint8))
    boxes = label_properties(blobs.labels).boxes[::2]  # every second cell is annotated
    rows = [f"{left},{top},{right},{bottom},cell" for (top, left), (bottom, right) in boxes]
    (tmp_path / "boxes" / "a.csv").write_text("\n".join(["xmin,ymin,xmax,ymax,class", *rows]))
    (tmp_path / "meta.json").write_text(json.dumps({"split": {"val": ["a"]}, "classes": ["cell"]}))
    dataset = read_dataset(tmp_path)
    table = run(evaluate(dataset, oracle_model, engine=CPU)).to_json()["all"]
    assert table["n_true"] == len(boxes) < table["n_predicted"] == len(blobs)
    assert (table["score"], table["box_recall_cell"], table["box_iou"]) == (1, 1, 1)
    assert "class_accuracy" not in table

    def classify(result, image):
        yield from ()
        assert image.name == "a"
        classes = np.zeros(len(result.cells), np.int16)
        classes[0] = -1  # of none
        return result_of(replace(result.cells, classes=classes), classes=("cell", "dirt"))

    table = run(evaluate(dataset, oracle_model, engine=CPU, classify=classify)).to_json()["all"]
    assert table["class_accuracy"] == pytest.approx(1 - 1 / len(boxes), abs=1e-4)


def test_a_report_is_plain_json(dataset, oracle_model):
    report = run(evaluate(dataset.select(names=["b"]), oracle_model, engine=CPU))
    text = json.dumps(report.to_json(), allow_nan=False)
    assert json.loads(text)["all"]["n_images"] == 1
