"""The calibration of the expected accuracy: kept, read back, refused, and what it computes."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cellwright.core.errors import CheckpointError
from cellwright.models import store
from cellwright.models.checkpoint import load_checkpoint, save_checkpoint
from cellwright.models.families.flow import build
from cellwright.models.fit import FIT, FitCalibration, read_fit


@pytest.fixture
def fit():
    return FitCalibration(
        facts=("confidence", "ambiguous"),
        centre=np.array([0.5, 1.0]),
        weights=np.array([6.0, -1.5]),
        bias=0.25,
        limits=np.array([[0.2, 0.9], [0.0, 3.0]]),
        closer_below=0.85,
    )


def facts(confidence, ambiguous):
    return {"confidence": confidence, "ambiguous": ambiguous, "unused": 1e9}


def written(folder, fit, sha256="abc", **changes):
    values = {**fit.to_json(), "weights_sha256": sha256, **changes}
    (folder / FIT).write_text(json.dumps(values))
    return values


def test_what_is_kept_is_read_back(tmp_path, fit):
    written(tmp_path, fit)
    again = read_fit(tmp_path, "abc")
    assert again.closer_below == 0.85
    for confidence in (0.3, 0.6, 0.8):
        one = facts(confidence, 0.4)
        assert again.expected_f1(one) == fit.expected_f1(one)


def test_files_from_before_have_no_closer_look(tmp_path, fit):
    values = written(tmp_path, fit)
    del values["closer_below"]
    (tmp_path / FIT).write_text(json.dumps(values))
    assert read_fit(tmp_path, "abc").closer_below == 0


def test_other_weights_have_no_calibration(tmp_path, fit):
    assert read_fit(tmp_path, "abc") is None
    written(tmp_path, fit)
    assert read_fit(tmp_path, "another") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"bias": "much"},
        {"weights": [1.0]},
        {"limits": [[0, 1]]},
        {"centre": None},
        {"facts": 3},
        {"facts": ["confidence", "beauty"]},
        {"bias": float("nan")},
        {"closer_below": float("nan")},
        {"weights": [1.0, float("inf")]},
    ],
)
def test_a_damaged_file_is_refused(tmp_path, fit, changes):
    written(tmp_path, fit, **changes)
    with pytest.raises(CheckpointError, match=r"fit\.json"):
        read_fit(tmp_path, "abc")


def test_a_file_that_is_no_json_is_refused(tmp_path):
    (tmp_path / FIT).write_text("{")
    with pytest.raises(CheckpointError, match=r"fit\.json"):
        read_fit(tmp_path, "abc")


def test_the_logit_is_linear_in_the_facts(fit):
    logit = 0.25 + 6 * (0.7 - 0.5) - 1.5 * (0.4 - 1)
    assert fit.expected_f1(facts(0.7, 0.4)) == pytest.approx(1 / (1 + np.exp(-logit)))


def test_facts_beyond_those_seen_count_as_the_last_seen(fit):
    assert fit.expected_f1(facts(0.9, 0.4)) == fit.expected_f1(facts(5.0, 0.4))
    assert fit.expected_f1(facts(0.5, 3.0)) == fit.expected_f1(facts(0.5, 1e9))


def test_it_belongs_to_the_weights_and_travels_with_the_model(tmp_path, fit, monkeypatch):
    folder = tmp_path / "own"
    save_checkpoint(folder, build())
    assert load_checkpoint(folder).fit is None
    written(folder, fit, load_checkpoint(folder).sha256)
    model = load_checkpoint(folder)
    assert model.fit is not None
    tuned = model.with_network(model.network, spec=replace(model.spec, title="Tuned"))
    assert tuned.fit is None
    monkeypatch.setattr(store, "user_folder", lambda: tmp_path / "user")
    taken = store.import_model(store.export_model(folder, tmp_path / "own.zip"))
    assert load_checkpoint(taken).fit is not None
