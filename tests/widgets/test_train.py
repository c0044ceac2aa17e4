import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt

from cellwright.errors import JobError
from cellwright.models import shelf
from cellwright.tasks import Progress, Task
from cellwright.training.finetune_settings import PRESETS
from cellwright.widgets import train, train_run
from cellwright.widgets.count import CountWidget
from cellwright.widgets.train import TrainWidget, duration
from cellwright.widgets.train_panel import scores_table
from cellwright.widgets.train_run import Plan, unfinished

LIMIT_MS = 60_000
N_EPOCHS = 3


@dataclass(frozen=True)
class FakeOutcome:
    before: dict[str, float]
    after: dict[str, float]
    is_better: bool
    notices: tuple[str, ...] = ()


class FakeTraining:
    """Stands for fine-tuning: writes a curve and a model like it, one epoch each time it is let go."""

    def __init__(self, template: Path) -> None:
        self.template = template
        self.scores = [0.5, 0.6, 0.7, 0.8]
        self.go_on = threading.Semaphore(0)
        self.plans: list[Plan] = []
        self.n_threads: list[int] = []

    def task(self, plan: Plan) -> Task[FakeOutcome]:
        import torch

        self.plans.append(plan)
        self.n_threads.append(torch.get_num_threads())
        plan.output.mkdir(parents=True, exist_ok=True)
        for file in self.template.iterdir():
            (plan.output / file.name).write_bytes(file.read_bytes())
        for index in range(len(train_run.curve(plan)) or 1, len(self.scores)):
            while not self.go_on.acquire(timeout=0.05):
                yield Progress("fine-tune", index, N_EPOCHS, "loss 0.1")
            epochs = [
                {"step": step, "rate": 0.1, "loss": 0.5, "score": score, "merit": score, "ap50": score}
                for step, score in enumerate(self.scores[: index + 1])
            ]
            (plan.output / "curve.json").write_text(json.dumps({"epochs": epochs}), encoding="utf-8")
            (plan.output / "training.pt").write_text("state")
            yield Progress("epoch", index, N_EPOCHS, f"score {self.scores[index]}")
        before, after = {"ap50": self.scores[0]}, {"ap50": self.scores[-1]}
        return FakeOutcome(before, after, self.scores[-1] > self.scores[0], ("Note this.",))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shelf, "user_folder", lambda: tmp_path / "models")
    return tmp_path


@pytest.fixture
def training(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    template = tmp_path / "template"
    template.mkdir()
    spec = (shelf.shipped_folder() / "flow" / "spec.json").read_bytes()
    (template / "spec.json").write_bytes(spec)
    fake = FakeTraining(template)
    monkeypatch.setattr(train_run, "_finetune", fake.task)
    return fake


@pytest.fixture
def make(viewer: ViewerModel, qtbot: QtBot, blobs: Any) -> Callable[[], TrainWidget]:
    viewer.add_image(blobs.image, name="blobs")
    viewer.add_labels(blobs.labels, name="blobs labels")

    def new() -> TrainWidget:
        widget = TrainWidget(viewer)
        qtbot.addWidget(widget, before_close_func=left)
        return widget

    def left(widget: TrainWidget) -> None:  # a widget that is deleted hears no more of its jobs
        widget.leave()
        ended(widget, qtbot)

    return new


@pytest.fixture
def trainer(make: Callable[[], TrainWidget], training: FakeTraining) -> TrainWidget:
    return make()


def ended(widget: TrainWidget, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: not widget.is_busy and widget.look_job is None, timeout=LIMIT_MS)


def press(widget: TrainWidget, qtbot: QtBot) -> None:
    qtbot.mouseClick(widget.panel.train, Qt.MouseButton.LeftButton)


def epochs_shown(widget: TrainWidget) -> int:
    curves = widget.panel.plot.curves
    return len(curves[0].points) if curves else 0


def test_what_is_found_is_told_before_it_starts(trainer: TrainWidget, blobs: Any, qtbot: QtBot) -> None:
    trainer.look()
    ended(trainer, qtbot)
    assert f"1 image with {len(blobs)} cells to learn from" in trainer.panel.findings.text()
    assert "⚠ There is one image to learn from" in trainer.panel.findings.text()
    trainer.panel.pairs.item(0).setCheckState(Qt.CheckState.Unchecked)
    trainer.look()
    assert "none is chosen" in trainer.panel.findings.text()


@pytest.mark.parametrize("how", ["leave", "deleteLater"])
def test_a_look_ends_with_the_widget(
    viewer: ViewerModel, training: FakeTraining, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    closed = threading.Event()

    def endless(*_: Any) -> Task[None]:
        try:
            while True:
                yield Progress("look", 0, 1)
        finally:
            closed.set()

    monkeypatch.setattr(train, "dataset_of", lambda *_, **__: None)
    monkeypatch.setattr(train, "look_task", endless)
    widget = TrainWidget(viewer)
    widget.look()
    assert not closed.wait(0.1)
    if how == "leave":
        qtbot.addWidget(widget)
    getattr(widget, how)()
    qtbot.waitUntil(closed.is_set, timeout=5000)


def test_a_better_model_is_in_the_lists(
    trainer: TrainWidget, training: FakeTraining, viewer: ViewerModel, qtbot: QtBot, home: Path, blobs: Any
) -> None:
    counter = CountWidget(viewer)
    qtbot.addWidget(counter)
    trainer.panel.name.setText("mine")
    training.go_on.release(N_EPOCHS)
    press(trainer, qtbot)
    ended(trainer, qtbot)
    assert "'mine' is better" in trainer.panel.message.text()
    assert "Note this." in trainer.panel.message.text()
    assert "0.500" in trainer.panel.scores.text()
    assert "0.800" in trainer.panel.scores.text()
    assert counter.panel.model.findData("mine") >= 0
    assert trainer.panel.start.findData("mine") >= 0
    assert trainer.own.chosen == "mine"
    assert not (home / "models" / "mine" / "training.pt").exists()
    assert not (home / "training" / "mine").exists()
    assert epochs_shown(trainer) == len(training.scores)
    assert trainer.panel.train.text() == "Train"


def test_the_curves_come_into_view(trainer: TrainWidget, qtbot: QtBot) -> None:
    trainer.resize(340, 500)
    trainer.show()
    ended(trainer, qtbot)
    qtbot.waitUntil(lambda: trainer.findings is not None, timeout=LIMIT_MS)
    assert trainer.panel.plot.visibleRegion().isEmpty()
    press(trainer, qtbot)
    qtbot.waitUntil(lambda: not trainer.panel.plot.visibleRegion().isEmpty(), timeout=5000)


def test_a_worse_model_is_not_kept(
    trainer: TrainWidget, training: FakeTraining, qtbot: QtBot, home: Path
) -> None:
    training.scores = [0.5, 0.4, 0.3]
    training.go_on.release(N_EPOCHS)
    press(trainer, qtbot)
    ended(trainer, qtbot)
    assert "'flow' stays the better model" in trainer.panel.message.text()
    assert not (home / "models").exists()
    assert unfinished() == []


@pytest.mark.parametrize(("second", "is_kept"), [(0.6, True), (0.4, False)])
def test_stop_keeps_the_best_so_far(
    trainer: TrainWidget, training: FakeTraining, qtbot: QtBot, home: Path, second: float, *, is_kept: bool
) -> None:
    training.scores = [0.5, second, 0.7]
    trainer.panel.name.setText("mine")
    press(trainer, qtbot)
    assert trainer.panel.train.text() == "Stop, keep the best"
    training.go_on.release()
    qtbot.waitUntil(lambda: epochs_shown(trainer) == 2, timeout=LIMIT_MS)
    press(trainer, qtbot)
    ended(trainer, qtbot)
    assert (home / "models" / "mine" / "spec.json").exists() == is_kept
    assert ("'mine' is better" in trainer.panel.message.text()) == is_kept
    assert unfinished() == []


def test_pause_and_go_on(trainer: TrainWidget, training: FakeTraining, qtbot: QtBot) -> None:
    press(trainer, qtbot)
    trainer.panel.pause.click()
    qtbot.waitUntil(lambda: "Paused" in trainer.panel.status.text(), timeout=LIMIT_MS)
    training.go_on.release(N_EPOCHS)
    qtbot.wait(100)
    assert epochs_shown(trainer) == 0
    trainer.panel.pause.click()
    ended(trainer, qtbot)
    assert epochs_shown(trainer) == len(training.scores)


@pytest.mark.parametrize("is_paused", [False, True])
def test_a_run_that_was_left_is_gone_on_with(
    trainer: TrainWidget,
    training: FakeTraining,
    make: Callable[[], TrainWidget],
    viewer: ViewerModel,
    qtbot: QtBot,
    *,
    is_paused: bool,
) -> None:
    trainer.panel.name.setText("mine")
    trainer.panel.form.set_values({"steps": 7})
    press(trainer, qtbot)
    training.go_on.release()
    qtbot.waitUntil(lambda: epochs_shown(trainer) == 2, timeout=LIMIT_MS)
    trainer.panel.pause.setChecked(is_paused)
    trainer.leave()
    ended(trainer, qtbot)
    viewer.layers.clear()
    again = make()
    assert "'mine' was left at step 1 of 7" in again.panel.offered.text()
    training.go_on.release(N_EPOCHS)
    again.panel.resume.click()
    assert epochs_shown(again) == 2
    ended(again, qtbot)
    assert training.plans[0] == training.plans[1]
    assert "'mine' is better" in again.panel.message.text()
    assert again.panel.offer.isHidden()


def test_a_left_run_can_be_discarded(trainer: TrainWidget, training: FakeTraining, qtbot: QtBot) -> None:
    press(trainer, qtbot)
    training.go_on.release()
    qtbot.waitUntil(lambda: epochs_shown(trainer) == 2, timeout=LIMIT_MS)
    trainer.leave()
    ended(trainer, qtbot)
    assert not trainer.panel.offer.isHidden()
    trainer.panel.discard.click()
    assert unfinished() == []
    assert trainer.panel.offer.isHidden()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_presets_fill_the_form(trainer: TrainWidget, place: int) -> None:
    trainer.panel.preset.setCurrentIndex(place)
    wanted = list(PRESETS.values())[place]
    assert trainer.settings == wanted
    for name, value in trainer.panel.form.values().items():
        assert value == pytest.approx(getattr(wanted, name), rel=1e-6), name
    trainer.panel.form.set_values({"rate": 2e-4})
    assert trainer.settings.rate == pytest.approx(2e-4)


def test_torch_leaves_a_core_to_the_viewer(
    trainer: TrainWidget, training: FakeTraining, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_run.os, "cpu_count", lambda: 2)
    training.go_on.release(N_EPOCHS)
    press(trainer, qtbot)
    ended(trainer, qtbot)
    assert training.n_threads == [1]


def test_a_failure_is_told_and_leaves_nothing(
    trainer: TrainWidget, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Plan) -> Task[Any]:
        raise JobError("no such thing")
        yield

    monkeypatch.setattr(train_run, "_finetune", fail)
    press(trainer, qtbot)
    ended(trainer, qtbot)
    assert trainer.panel.message.text() == "no such thing"
    assert unfinished() == []
    assert trainer.panel.train.text() == "Train"


@pytest.mark.parametrize("name", ["", "../x", "taken"])
def test_names_are_checked(trainer: TrainWidget, qtbot: QtBot, home: Path, name: str) -> None:
    (home / "models" / "taken").mkdir(parents=True)
    trainer.panel.name.setText(name)
    press(trainer, qtbot)
    assert not trainer.is_busy
    assert "Choose another name" in trainer.panel.message.text()


def test_a_folder_that_is_no_dataset_is_told(trainer: TrainWidget, tmp_path: Path, qtbot: QtBot) -> None:
    trainer.choose_folder(tmp_path)
    trainer.look()
    assert "meta.json" in trainer.panel.findings.text()
    assert trainer.panel.pairs.isHidden()


def test_a_damaged_plan_hides_no_other(home: Path) -> None:
    for name, text in (("a", "{"), ("b", '{"settings": {"steps": 0}}')):
        (home / "training" / name).mkdir(parents=True)
        (home / "training" / name / "run.json").write_text(text)
    train_run.write_plan(Plan("c", "flow", "data"))
    assert unfinished() == [Plan("c", "flow", "data")]


def test_own_models_are_renamed_shared_taken_and_deleted(
    trainer: TrainWidget, home: Path, tmp_path: Path
) -> None:
    own = home / "models" / "mine"
    own.mkdir(parents=True)
    for file in ("spec.json", "weights.safetensors"):
        (own / file).write_bytes((shelf.shipped_folder() / "flow" / file).read_bytes())
    trainer.own.refresh()
    trainer.own.rename_to("ours")
    assert trainer.panel.start.findData("ours") >= 0
    trainer.own.share_to(tmp_path / "ours.zip")
    trainer.own.delete_chosen()
    assert trainer.panel.start.findData("ours") < 0
    trainer.own.take_from(tmp_path / "ours.zip")
    assert trainer.own.chosen == "ours"
    trainer.own.rename_to("../x")
    assert "Choose another name" in trainer.panel.message.text()


def test_scores_that_became_worse_are_marked() -> None:
    table = scores_table({"ap50": 0.5, "count_error": 0.1}, {"ap50": 0.6, "count_error": 0.2})
    better, worse = table.split("<tr>")[2:]
    assert "#3fd0c9" in better
    assert "#e07a6b" in worse


def test_durations() -> None:
    assert [duration(one) for one in (40, 720, 12_600)] == ["40 s", "12 min", "3.5 h"]
