import threading
from typing import Any

import pytest

from cellwright.core.tasks import run
from cellwright.training.run_folder import Plan, unfinished
from cellwright.widgets.train import training_run


def test_torch_leaves_a_core_to_the_viewer(training: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_run.os, "cpu_count", lambda: 2)
    training.go_on.release(training.n_epochs)
    gate = threading.Event()
    gate.set()
    ended = run(training_run.train_task(Plan("mine", "flow", "data"), gate))
    assert training.n_threads == [1]
    assert ended.model == "mine"
    assert unfinished() == []
