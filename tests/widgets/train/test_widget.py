import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtGui import QFontMetrics
from qtpy.QtWidgets import QWidget

from cellwright.core.errors import JobError
from cellwright.core.tasks import Progress, Task
from cellwright.training.run_folder import Plan, unfinished_runs
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.shared.messages import duration
from cellwright.widgets.train import model as train_model
from cellwright.widgets.train.widget import TrainWidget

LIMIT_MS = 60_000
Wait = Callable[[TrainWidget], None]


def epochs_shown(widget: TrainWidget) -> int:
    curves = widget.panel.card.plot.curves
    return len(curves[0].points) if curves else 0


def test_a_better_model_is_in_the_lists(
    ended: Wait, trainer: TrainWidget, training: Any, viewer: ViewerModel, qtbot: QtBot, home: Path
) -> None:
    counter = CountWidget(viewer)
    qtbot.addWidget(counter)
    trainer.panel.name.setText("mine")
    training.go_on.release(training.n_epochs)
    trainer.panel.train.click()
    ended(trainer)
    assert "'mine': better, and kept" in trainer.panel.message.text()
    assert "Note this." in trainer.panel.message.text()
    assert "0.500" in trainer.panel.card.scores.text()
    assert "0.800" in trainer.panel.card.scores.text()
    assert counter.panel.model.findData("mine") >= 0
    assert trainer.panel.start.findData("mine") >= 0
    assert trainer.own.chosen == "mine"
    assert not (home / "models" / "mine" / "training.pt").exists()
    assert not (home / "training" / "mine").exists()
    assert epochs_shown(trainer) == len(training.scores)
    plots = trainer.panel.card.plot.plots
    assert [plot.objectName() for plot in plots[:2]] == [
        "Loss on the images it learns from",
        "AP at IoU 0.5 on the images it is checked with",
    ]
    drawn = plots[1].listDataItems()[0].getData()[1]
    assert drawn.tolist() == pytest.approx(training.scores)
    assert trainer.panel.train.text() == "Train"


def test_the_curves_come_into_view(ended: Wait, trainer: TrainWidget, qtbot: QtBot) -> None:
    trainer.resize(340, 500)
    trainer.show()
    ended(trainer)
    qtbot.waitUntil(lambda: trainer.data_check.findings is not None, timeout=LIMIT_MS)
    plot = trainer.panel.card.plot
    assert plot.graphics is None
    trainer.panel.train.click()
    canvas = plot.graphics.viewport()
    qtbot.waitUntil(lambda: not canvas.visibleRegion().isEmpty(), timeout=5000)
    highest = QFontMetrics(plot.plots[0].getAxis("left").style["tickFont"])
    assert plot.graphics.ci.layout.getContentsMargins()[1] >= highest.height() // 2  # else it is cut


def test_what_is_told_does_not_lie_below_the_settings(
    ended: Wait, trainer: TrainWidget, training: Any
) -> None:
    for name, told in (("", ""), ("mine", "better, and kept")):
        trainer.panel.advanced.title.setChecked(True)
        trainer.panel.name.setText(name)
        training.go_on.release(training.n_epochs)
        trainer.panel.train.click()
        ended(trainer)
        assert trainer.panel.message.text()
        assert told in trainer.panel.message.text()
        assert trainer.panel.advanced.content.isHidden()


def test_a_worse_model_is_not_kept(
    ended: Wait, trainer: TrainWidget, training: Any, qtbot: QtBot, home: Path
) -> None:
    training.scores = [1.0, 0.4, 0.3]
    trainer.panel.train.click()
    training.go_on.release()
    qtbot.waitUntil(lambda: "already finds every cell" in trainer.panel.message.text(), timeout=LIMIT_MS)
    training.go_on.release(training.n_epochs)
    ended(trainer)
    (low, high) = trainer.panel.card.plot.plots[1].viewRange()[1]
    assert -0.1 < low < high < 1.1  # of a precision
    assert "no better: the model it began with is kept" in trainer.panel.message.text()
    assert not (home / "models").exists()
    assert unfinished_runs() == []


@pytest.mark.parametrize(("second", "is_kept"), [(0.6, True), (0.4, False)])
def test_stop_keeps_the_best_so_far(
    ended: Wait,
    trainer: TrainWidget,
    training: Any,
    qtbot: QtBot,
    home: Path,
    second: float,
    *,
    is_kept: bool,
) -> None:
    training.scores = [0.5, second, 0.7]
    trainer.panel.name.setText("mine")
    trainer.panel.train.click()
    assert trainer.panel.train.text() == "Stop, keep the best"
    training.go_on.release()
    qtbot.waitUntil(lambda: epochs_shown(trainer) == 2, timeout=LIMIT_MS)
    trainer.panel.train.click()
    ended(trainer)
    assert (home / "models" / "mine" / "spec.json").exists() == is_kept
    assert ("'mine': better, and kept" in trainer.panel.message.text()) == is_kept
    assert ("Annotate more images for scores to be trusted" in trainer.panel.message.text()) == is_kept
    assert ("was stopped, and it is as it was at step" in trainer.panel.message.text()) == is_kept
    assert unfinished_runs() == []


def test_a_run_is_left_with_its_panel(ended: Wait, trainer: TrainWidget, training: Any, qtbot: QtBot) -> None:
    dock = QWidget()
    qtbot.addWidget(dock)
    trainer.setParent(dock)
    trainer.panel.train.click()
    training.go_on.release()
    qtbot.waitUntil(lambda: epochs_shown(trainer) == 2, timeout=LIMIT_MS)
    trainer.setParent(None)  # as napari does where the panel is closed
    ended(trainer)
    assert unfinished_runs() == training.plans


def test_pause_and_go_on(ended: Wait, trainer: TrainWidget, training: Any, qtbot: QtBot) -> None:
    trainer.panel.train.click()
    trainer.panel.pause.click()
    qtbot.waitUntil(lambda: "Paused" in trainer.jobs.line.text(), timeout=LIMIT_MS)
    training.go_on.release(training.n_epochs)
    qtbot.wait(100)
    assert epochs_shown(trainer) == 0
    trainer.panel.pause.click()
    ended(trainer)
    assert epochs_shown(trainer) == len(training.scores)


@pytest.mark.parametrize("is_paused", [False, True])
def test_a_run_that_was_left_is_gone_on_with(
    ended: Wait,
    trainer: TrainWidget,
    training: Any,
    new_trainer: Callable[[], TrainWidget],
    viewer: ViewerModel,
    qtbot: QtBot,
    *,
    is_paused: bool,
) -> None:
    trainer.panel.name.setText("mine")
    trainer.panel.form.set_values({"steps": 7})
    trainer.panel.train.click()
    training.go_on.release()
    qtbot.waitUntil(lambda: epochs_shown(trainer) == 2, timeout=LIMIT_MS)
    trainer.panel.pause.setChecked(is_paused)
    trainer.leave()
    ended(trainer)
    viewer.layers.clear()
    again = new_trainer()
    assert "'mine' stopped at step 1 of 7" in again.offer.line.text()
    training.go_on.release(training.n_epochs)
    again.offer.resume.click()
    assert epochs_shown(again) == 2
    assert again.panel.setup.isHidden(), "it tells of another training"
    assert again.panel.message.text() == "Training 'mine'."
    ended(again)
    assert not again.panel.setup.isHidden()
    assert training.plans[0] == training.plans[1]
    assert "'mine': better, and kept" in again.panel.message.text()
    assert again.offer.isHidden()


def test_unlabelled_images_come_first_where_they_are_wanted(
    ended: Wait,
    trainer: TrainWidget,
    training: Any,
    qtbot: QtBot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_end = threading.Event()

    def pretrain(_: Plan) -> Task[None]:
        for step in (1, 2):
            yield Progress("pretrain", step, 9, "loss 0.5")
        while not may_end.wait(0.05):
            yield Progress("pretrain", 3, 9, "loss 0.4")

    monkeypatch.setattr(train_model, "_pretrain", pretrain)
    choices = trainer.panel.unlabelled
    assert not choices.images.isVisibleTo(trainer)
    choices.wanted.click()
    assert choices.images.isVisibleTo(trainer)
    trainer.panel.train.click()
    assert "need a folder; none is chosen" in trainer.panel.message.text()
    choices.images.add_folder(tmp_path)
    choices.method.setCurrentIndex(1)
    choices.steps.setValue(9)
    trainer.panel.train.click()
    line = trainer.jobs.line
    qtbot.waitUntil(lambda: line.text().startswith("Unlabelled images · Step 3 of 9"), timeout=LIMIT_MS)
    assert line.text().endswith(" left")
    may_end.set()
    training.go_on.release(training.n_epochs)
    ended(trainer)
    (plan,) = training.plans
    assert plan.unlabelled == str(tmp_path)
    assert (plan.pretraining.method, plan.pretraining.steps) == ("colorize", 9)


def test_a_failure_is_told_and_leaves_nothing(
    ended: Wait, trainer: TrainWidget, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Plan) -> Task[Any]:
        raise JobError("no such thing")
        yield

    monkeypatch.setattr(train_model, "_finetune", fail)
    trainer.panel.train.click()
    ended(trainer)
    assert trainer.panel.message.text() == "no such thing"
    assert unfinished_runs() == []
    assert trainer.panel.train.text() == "Train"


@pytest.mark.parametrize(
    ("score", "words"),
    [(0.6, "'mine': better, and kept."), (0.5, "'mine': a smaller error on the images it is checked with")],
)
def test_only_a_better_score_is_called_better(trainer: TrainWidget, score: float, words: str) -> None:
    before = {"score": 0.5, "validation_loss": 0.4}
    after = {"score": score, "validation_loss": 0.2}
    trainer.show_ended(train_model.TrainingOutcome(Plan("mine", "flow", "data"), "mine", before, after))
    assert trainer.panel.message.text().startswith(words)


def test_the_check_before_a_training_has_a_bar_and_can_be_stopped(
    ended: Wait, trainer: TrainWidget, monkeypatch: pytest.MonkeyPatch, qtbot: QtBot
) -> None:
    def check(_: Plan) -> Task[Any]:
        yield Progress("check", 3, 14)
        yield Progress("check", 7, 14)
        while True:
            yield Progress("check", 7, 14)
            time.sleep(0.02)

    monkeypatch.setattr(train_model, "_finetune", check)
    trainer.panel.train.click()
    line, bar = trainer.jobs.line, trainer.jobs.bar
    qtbot.waitUntil(lambda: line.text().startswith("Checking the model: image 8 of 14 · "), timeout=LIMIT_MS)
    assert line.text().endswith(" left")
    assert bar.value() == bar.maximum() // 2
    trainer.panel.pause.click()
    qtbot.waitUntil(lambda: "Paused" in line.text(), timeout=LIMIT_MS)
    assert bar.value() == bar.maximum() // 2
    trainer.panel.pause.click()
    trainer.panel.train.click()
    ended(trainer)
    assert "Stopped before what it learned was first checked." in trainer.panel.message.text()
    assert unfinished_runs() == []


def test_a_run_that_was_stopped_at_once_is_not_called_no_better(trainer: TrainWidget) -> None:
    trainer.show_ended(train_model.TrainingOutcome(Plan("mine", "flow", "data"), "", {}, {}, ("Stopped.",)))
    assert trainer.panel.message.text() == "'mine': the model it began with is kept. Stopped."


def test_durations() -> None:
    assert [duration(one) for one in (40, 720, 12_600)] == ["40 s", "12 min", "3.5 h"]
