import json
from dataclasses import replace

import numpy as np
import pytest

from cellwright.inference.settings import EngineSettings
from cellwright.io.dataset import read_dataset
from cellwright.ops.flow import FlowSettings
from cellwright.ops.matching import IOU_THRESHOLDS
from cellwright.tasks import run
from cellwright.training.evaluate import ImageScore, Report, evaluate

CPU = EngineSettings(device="cpu")
SPLIT = {"train": ["a"], "val": ["b", "c", "d"]}
GROUPS = {"b": "fluo", "c": "fluo", "d": "phase"}


@pytest.fixture
def dataset(write_dataset):
    return read_dataset(write_dataset(SPLIT, GROUPS)).select("val")


def test_an_oracle_scores_one(dataset, oracle_model):
    report = run(evaluate(dataset, oracle_model, engine=CPU))
    assert report.summary() == {"ap50": 1, "ap50_fluo": 1, "ap50_phase": 1, "count_error": 0}
    scores = report.to_json()
    assert {name: group["n_images"] for name, group in scores.items()} == {"all": 3, "fluo": 2, "phase": 1}
    for group in scores.values():
        assert set(group["ap"].values()) == {1.0}
        assert (group["mean_ap"], group["f1"], group["pq"]) == (1, 1, 1)
        assert (group["count_mae"], group["count_mape"], group["count_median_error"]) == (0, 0, 0)
        assert group["n_true"] == group["n_predicted"] > 0
        assert np.isnan(group["score_auroc"])  # nothing is wrong, so there is nothing to rank
    assert list(scores["all"]["ap"]) == [f"{threshold:.2f}" for threshold in IOU_THRESHOLDS]


def test_the_steps_name_the_images(dataset, oracle_model):
    steps = []
    run(evaluate(dataset, oracle_model, engine=CPU), steps.append)
    own = [step for step in steps if step.stage == "evaluate"]
    assert [(step.done, step.total, step.note) for step in own] == [(0, 3, "b"), (1, 3, "c"), (2, 3, "d")]


def test_settings_reach_the_model(dataset, oracle_model):
    report = run(evaluate(dataset, oracle_model, settings=FlowSettings(min_area_px=10_000), engine=CPU))
    assert [image.n_predicted for image in report.images] == [0, 0, 0]
    assert report.summary()["ap50"] == 0
    assert report.summary()["count_error"] == 1


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


def score(name, group, ap50, n_true=10, n_predicted=10):
    precision = (ap50, *[0.0] * (len(IOU_THRESHOLDS) - 1))
    none = np.zeros(0)
    return ImageScore(
        name, group, n_true, n_predicted, precision, ap50, ap50, none.astype(np.float32), none.astype(bool)
    )


def test_images_weigh_the_same_in_the_summary():
    report = Report((score("a", "fluo", 1.0), score("b", "fluo", 0.8), score("c", "phase", 0.5)))
    assert report.summary() == pytest.approx(
        {"ap50": 2.3 / 3, "ap50_fluo": 0.9, "ap50_phase": 0.5, "count_error": 0}
    )
    plain = Report((score("a", "", 1.0), score("b", "", 0.5, 10, 7)))
    assert plain.summary() == pytest.approx({"ap50": 0.75, "count_error": 0.15})
    assert set(plain.groups()) == {"all"}


def test_count_errors_are_shares_of_the_truth():
    assert score("a", "", 1.0, 20, 17).count_error == pytest.approx(0.15)
    assert score("a", "", 1.0, 0, 3).count_error == 3
    table = Report((score("a", "", 1.0, 20, 17), score("b", "", 1.0, 10, 10))).to_json()["all"]
    assert (table["count_mae"], table["count_mape"]) == (1.5, 0.075)
    assert table["mean_ap"] == pytest.approx(0.1)


def test_a_report_is_plain_json(dataset, oracle_model):
    report = run(evaluate(dataset.select(names=["b"]), oracle_model, engine=CPU))
    assert json.loads(json.dumps(report.to_json()))["all"]["n_images"] == 1
