import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cellwright.core.errors import CheckpointError
from cellwright.training.run_folder import (
    CLASSES,
    STATE,
    Plan,
    checked_name,
    epochs_in,
    forget,
    only_scores,
    selection_score,
    unfinished_runs,
    write_curve,
    write_plan,
)
from cellwright.training.settings import ClassifyTrainingSettings, PretrainSettings


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr("cellwright.training.run_folder.runs_folder", lambda: tmp_path / "training")
    return tmp_path


def test_a_damaged_plan_hides_no_other(home: Path) -> None:
    for name, text in (("a", "{"), ("b", '{"settings": {"steps": 0}}')):
        (home / "training" / name).mkdir(parents=True)
        (home / "training" / name / "run.json").write_text(text)
    write_plan(Plan("c", "flow", "data"))
    assert unfinished_runs() == [Plan("c", "flow", "data")]


def test_a_plan_comes_back_as_written_and_older_ones_lack_what_came_later(home: Path) -> None:
    plan = Plan("a", "flow", "data", unlabelled="many", pretraining=PretrainSettings(steps=7))
    write_plan(plan)
    assert unfinished_runs() == [plan]
    path = home / "training" / "a" / "run.json"
    facts = json.loads(path.read_text())
    del facts["unlabelled"], facts["pretraining"], facts["classes"]
    path.write_text(json.dumps(facts))
    assert unfinished_runs() == [Plan("a", "flow", "data")]


def test_a_plan_for_classes_comes_back_as_written(home: Path) -> None:
    plan = Plan("a", CLASSES, "data", classes=ClassifyTrainingSettings(steps=7))
    write_plan(plan)
    assert unfinished_runs() == [plan]
    assert (plan.learns_classes, plan.n_steps) == (True, 7)
    other = replace(plan, start="flow")
    assert (other.learns_classes, other.n_steps) == (False, other.settings.steps)


def test_what_a_killed_run_had_half_written_goes_at_its_end(tmp_path: Path) -> None:
    for name in (STATE, f".{STATE}.0a1b2c3d.part", "weights.safetensors", ".kept"):
        (tmp_path / name).touch()
    forget(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".kept", "weights.safetensors"]


def test_the_module_imports_no_torch():
    code = "import sys, cellwright.training.run_folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_curve_comes_back_as_written_and_shows_only_scores(tmp_path, monkeypatch):
    monkeypatch.setattr("cellwright.training.run_folder.runs_folder", lambda: tmp_path)
    epoch = {"step": 4, "loss": 0.5, "rate": 0.1, "score": 0.7, "merit": 0.6, "error": 0.02, "memory": 0.9}
    plan = Plan("a", "flow", "data")
    write_curve(plan.output, {}, [epoch])
    assert epochs_in(plan.output) == [epoch]
    assert only_scores(epoch) == {"score": 0.7, "memory": 0.9}


def test_the_best_epoch_is_chosen_by_merit_then_score():
    assert selection_score({"merit": 0.6, "score": 0.7}) == 0.6
    assert selection_score({"score": 0.7}) == 0.7
    assert selection_score({}, 3.0) == 3.0


def test_a_name_ends_as_the_folder_of_a_model_may_end(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellwright.models.store.user_folder", lambda: home / "models")
    assert checked_name(" nuclei 2 ") == "nuclei 2"
    for name in ("nuclei.", "flow"):
        with pytest.raises(CheckpointError, match="Choose another name"):
            checked_name(name)
