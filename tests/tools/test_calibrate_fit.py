"""What few cells take away from the expected accuracy."""

import json

import numpy as np
import pytest
from tools.release import calibrate_fit
from tools.release.calibrate_fit import with_few
from tools.release.changes import CHANGES, known_of

from cellwright.core.data import Image
from cellwright.models.fit import FIT, FitCalibration, few


@pytest.fixture
def fit():
    limits = np.array([[-3.0, 3.0]])
    return FitCalibration(("ambiguous",), np.zeros(1), np.array([-1.0]), 0.0, limits, closer_below=0.8)


def counts(rng, loss, n=400):
    """Counts whose odds fall by a power of how few cells there are, and what was expected of them."""
    cells, facts = rng.integers(1, 40, n).astype(float), rng.uniform(-3, 3, n)
    expected = 1 / (1 + np.exp(facts))
    odds = expected / (1 - expected) * np.exp(-loss * np.array([few(one) for one in cells]))
    return expected, cells, odds / (1 + odds)


def test_what_few_cells_take_away_is_found_again(rng, fit):
    again = with_few(fit, *counts(rng, 0.8))
    assert again.facts == ("ambiguous", "few")
    assert again.weights[-1] == pytest.approx(-0.8)
    for facts in ({"ambiguous": -1.0, "few": 0.0}, {"ambiguous": 2.0, "few": 0.0}):
        assert again.expected_f1(facts) == fit.expected_f1(facts)
    assert again.expected_f1({"ambiguous": -1.0, "few": few(1)}) < fit.expected_f1({"ambiguous": -1.0})
    twice = with_few(again, *counts(rng, 0.8))
    assert twice.facts == again.facts
    assert twice.weights[-1] == pytest.approx(-0.8)


def test_few_cells_never_promise_more(rng, fit):
    assert with_few(fit, *counts(rng, -0.5)).weights[-1] == 0


def test_it_is_written_beside_what_was_there(tmp_path, rng, fit, monkeypatch, oracle_model):
    told = {**fit.to_json(), "weights_sha256": "abc", "scores": {"reported": 1}}
    (tmp_path / FIT).write_text(json.dumps(told))
    oracle_model.fit = fit
    monkeypatch.setattr(calibrate_fit.store, "find", lambda _: tmp_path)
    monkeypatch.setattr(calibrate_fit.store, "load", lambda _: oracle_model)
    rows = [{"fit": e, "n_found": n, "f1": f} for e, n, f in zip(*counts(rng, 1.0), strict=True)]
    (tmp_path / "counts.json").write_text(json.dumps([*rows, {"fit": None, "n_found": 0, "f1": 1.0}]))
    monkeypatch.setattr(
        "sys.argv", ["calibrate", "--data", str(tmp_path), "--counts", str(tmp_path / "counts.json")]
    )
    calibrate_fit.main()
    written = json.loads((tmp_path / FIT).read_text())
    assert written["facts"] == ["ambiguous", "few"]
    assert (written["scores"], written["closer_below"], written["bias"]) == (told["scores"], 0.8, 0.0)


def test_grey_images_saved_in_colours_can_be_made_composites(blobs, rng):
    grey = Image(np.repeat(blobs.image[..., np.newaxis], 4, axis=-1), "YXC")
    known = known_of(grey, blobs.labels)
    assert known.pixels.shape == blobs.labels.shape
    assert CHANGES["blue, green cells"](known, rng).pixels.shape == (*blobs.labels.shape, 3)
    assert known_of(Image(np.asarray(grey.data) * np.arange(4), "YXC"), blobs.labels).pixels.shape[-1] == 3
