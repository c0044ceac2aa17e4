import pytest

from cellwright.ops.matching import IOU_THRESHOLDS
from cellwright.training.evaluation.evaluate import ImageScore, Report


def score(name, group, ap50, n_true=10, n_predicted=10):
    precision = (ap50, *[0.0] * (len(IOU_THRESHOLDS) - 1))
    means = {"f1": ap50, "pq": ap50}
    return ImageScore(name, group, n_true, n_predicted, ap50, average_precision=precision, means=means)


def test_images_weigh_the_same_in_the_summary():
    report = Report((score("a", "fluo", 1.0), score("b", "fluo", 0.8), score("c", "phase", 0.5)))
    assert report.summary() == pytest.approx(
        {"score": 2.3 / 3, "ap50": 2.3 / 3, "ap50_fluo": 0.9, "ap50_phase": 0.5, "count_error": 0}
    )
    plain = Report((score("a", "", 1.0), score("b", "", 0.5, 10, 7)))
    assert plain.summary() == pytest.approx({"score": 0.75, "ap50": 0.75, "count_error": 0.15})
    assert set(plain.groups()) == {"all"}


def test_count_errors_are_shares_of_the_truth():
    assert score("a", "", 1.0, 20, 17).count_error == pytest.approx(0.15)
    assert score("a", "", 1.0, 0, 3).count_error == 3
    table = Report((score("a", "", 1.0, 20, 17), score("b", "", 1.0, 10, 10))).to_json()["all"]
    assert (table["count_mae"], table["count_mape"]) == (1.5, 0.075)
    assert table["mean_ap"] == pytest.approx(0.1)
