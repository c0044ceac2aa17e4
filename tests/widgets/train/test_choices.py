"""What is to be trained, what its data hold, what was left, and the scores that came out."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel

from cellwright.core.errors import WrongLayerError
from cellwright.core.tasks import Progress, Task
from cellwright.training.run_folder import Plan, only_trainer, unfinished_runs, write_curve, write_plan
from cellwright.training.settings import PRESETS, FinetuneSettings, PretrainSettings
from cellwright.widgets.shared.messages import HandOver
from cellwright.widgets.train import choices
from cellwright.widgets.train.choices import ResumeOffer
from cellwright.widgets.train.view import scores_table, training_line
from cellwright.widgets.train.widget import TrainWidget


@pytest.mark.parametrize("place", [0, 1, 2])
def test_presets_fill_the_form(trainer: TrainWidget, place: int) -> None:
    trainer.panel.preset.setCurrentIndex(place)
    wanted = list(PRESETS.values())[place]
    assert trainer.panel.form.settings == wanted
    for name, value in trainer.panel.form.values().items():
        assert value == pytest.approx(getattr(wanted, name), rel=1e-6), name
    trainer.panel.form.set_values({"rate": 2e-4})
    assert trainer.panel.form.settings.rate == pytest.approx(2e-4)


@pytest.mark.parametrize("name", ["", "../x", "taken"])
def test_names_are_checked(trainer: TrainWidget, home: Path, name: str) -> None:
    (home / "models" / "taken").mkdir(parents=True)
    trainer.panel.name.setText(name)
    trainer.panel.train.click()
    assert not trainer.is_busy
    assert "Choose another name" in trainer.panel.message.text()


def test_the_list_is_there_while_layers_are_learned_from(
    trainer: TrainWidget, viewer: ViewerModel, tmp_path: Path
) -> None:
    panel = trainer.panel
    assert (panel.pairs.isHidden(), panel.complete.isHidden()) == (False, False)
    trainer.panel.data.add_folder(tmp_path)
    assert (panel.pairs.isHidden(), panel.complete.isHidden()) == (True, True)
    panel.data.setCurrentIndex(0)
    panel.data.activated.emit(0)
    assert not panel.pairs.isHidden()
    viewer.layers.clear()
    assert (panel.pairs.isHidden(), panel.complete.isHidden()) == (True, True)


def test_cells_that_were_corrected_are_not_listed_as_counted(
    trainer: TrainWidget, viewer: ViewerModel
) -> None:
    image = next(layer for layer in viewer.layers if isinstance(layer, Image))
    own = {"source": str(image.unique_id), "is_preview": False}
    cells = viewer.add_labels(np.ones(image.data.shape[:2], int), name="found", metadata={"cellwright": own})
    panel = trainer.panel.pairs

    def listed() -> str:
        return next(text for n in range(panel.count()) if "found" in (text := panel.item(n).text()))

    assert "(as counted)" in listed()
    cells.metadata = {"cellwright": {**own, "edited": True}}  # as an edit by any tool marks it
    trainer.show()
    assert "(as counted)" not in listed()


def test_of_two_annotations_of_an_image_one_is_learned(trainer: TrainWidget, viewer: ViewerModel) -> None:
    image = viewer.layers["blobs"]
    own = {"cellwright": {"source": str(image.unique_id), "edited": True}}
    first = viewer.layers["blobs labels"]
    second = viewer.add_labels(np.ones(image.data.shape[:2], int), name="second", metadata=own)
    assert [pair.annotation for pair in trainer.choices.chosen] == [first], "as it was chosen before"
    trainer.choices.take(HandOver(image, second))
    assert [pair.annotation for pair in trainer.choices.chosen] == [second]
    trainer.panel.pairs.tick(str(first.unique_id))
    with pytest.raises(WrongLayerError, match="'second' and 'blobs labels' both annotate 'blobs'"):
        trainer.choices.source()


def test_cells_given_to_another_image_are_listed_with_that(trainer: TrainWidget, viewer: ViewerModel) -> None:
    images = [viewer.add_image(np.zeros((8, 9)), name=name) for name in "ab"]
    own = [{"cellwright": {"source": str(image.unique_id), "edited": True}} for image in images]
    cells = viewer.add_labels(np.ones((8, 9), int), name="drawn", metadata=own[0])
    assert trainer.panel.pairs.item(0).text() == "a + drawn"
    cells.metadata = own[1]
    trainer.show()
    assert trainer.panel.pairs.item(0).text() == "b + drawn"
    assert next(iter(trainer.choices.chosen)).image is images[1]


@pytest.fixture
def plan(home: Path) -> Plan:
    """A run that was left."""
    plan = Plan("mine", "flow", "data", FinetuneSettings(steps=7000))
    write_plan(plan)
    return plan


@pytest.fixture
def offer(plan: Plan, qtbot: QtBot) -> ResumeOffer:
    offer = ResumeOffer()
    qtbot.addWidget(offer)
    offer.refresh()
    return offer


def test_a_left_run_can_be_gone_on_with(offer: ResumeOffer, plan: Plan, qtbot: QtBot) -> None:
    assert not offer.isHidden()
    assert offer.line.text() == "The training of 'mine' stopped at step 0 of 7,000."
    with qtbot.waitSignal(offer.accepted) as accepted:
        offer.resume.click()
    assert accepted.args == [plan]
    assert unfinished_runs() == [plan]


def test_a_run_left_in_its_first_part_tells_how_far_that_is(home: Path, qtbot: QtBot) -> None:
    plan = Plan("mine", "flow", "data", unlabelled="many", pretraining=PretrainSettings(steps=60))
    write_plan(plan)
    offer = ResumeOffer()
    qtbot.addWidget(offer)
    offer.refresh()
    assert offer.line.text() == "The training of 'mine' on unlabelled images stopped at step 0 of 60."
    write_curve(plan.encoder, {}, [{"step": 50, "loss": 3.0}])
    offer.refresh()
    assert offer.line.text() == "The training of 'mine' on unlabelled images stopped at step 50 of 60."
    write_curve(plan.output, {}, [{"step": 0, "ap50": 0.5}, {"step": 140, "ap50": 0.5}])
    offer.refresh()
    assert offer.line.text() == "The training of 'mine' stopped at step 140 of 840."


def test_a_left_run_can_be_discarded(offer: ResumeOffer, qtbot: QtBot) -> None:
    with qtbot.waitSignal(offer.discarded):
        offer.discard.click()
    assert unfinished_runs() == []
    assert offer.isHidden()


def test_a_run_that_goes_on_elsewhere_is_neither_offered_nor_deleted(offer: ResumeOffer, plan: Plan) -> None:
    with only_trainer(plan):
        offer.discard.click()  # it was offered before the other window went on with it
        assert unfinished_runs() == [plan]
        assert offer.isHidden()
    offer.refresh()
    assert not offer.isHidden()


LIMIT_MS = 60_000


@pytest.fixture(autouse=True)
def pause(patience: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that follows a choice waits as ever: it would take the place of one that is asked for here."""
    monkeypatch.setattr(choices, "CHECK_MS", 300)


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once the first look, which has no end, was given up; the second one is as ever."""
    closed, check_task = threading.Event(), choices.check_task

    def endless(*arguments: Any) -> Task[Any]:
        if closed.is_set():
            return (yield from check_task(*arguments))
        try:
            while not closed.wait(0.01):
                yield Progress("images", 1, 4)
        finally:
            closed.set()

    monkeypatch.setattr(choices, "check_task", endless)
    return closed


def test_what_is_found_is_told_before_it_starts(
    trainer: TrainWidget, ended: Callable[[TrainWidget], None], blobs: Any
) -> None:
    trainer.data_check.start()
    ended(trainer)
    assert f"1 image with {len(blobs)} cells to learn from" in trainer.data_check.label.text()
    assert "⚠&nbsp;</span> There is one image to learn from" in trainer.data_check.label.text()
    trainer.panel.pairs.item(0).setCheckState(Qt.CheckState.Unchecked)
    trainer.data_check.start()
    assert "none is chosen" in trainer.data_check.label.text()
    assert trainer.data_check.findings is None


def test_a_look_shows_how_far_it_is_and_can_be_cancelled(
    trainer: TrainWidget, closed: threading.Event, ended: Callable[[TrainWidget], None], qtbot: QtBot
) -> None:
    look = trainer.data_check
    look.start()
    qtbot.waitUntil(lambda: look.job.line.text().startswith("Images: 1 of 4"), timeout=LIMIT_MS)
    assert look.job.bar.value() == look.job.bar.maximum() // 4
    assert (look.job.isHidden(), look.label.isHidden()) == (False, True)
    look.job.stop.click()
    ended(trainer)
    assert closed.is_set()
    assert "were not checked" in look.label.text()
    assert (look.job.isHidden(), look.label.isHidden()) == (True, False)


def test_quotes_are_shown_as_they_are(trainer: TrainWidget) -> None:
    (labels,) = [layer for layer in trainer.viewer.layers if isinstance(layer, Labels)]
    labels.name, labels.translate = "a", (0, 20)
    trainer.data_check.start()
    assert QLabel.text(trainer.data_check.label).startswith("'a' does not lie where 'blobs' does")


def test_another_choice_gives_up_the_look_at_the_last(
    trainer: TrainWidget, closed: threading.Event, tmp_path: Path, qtbot: QtBot
) -> None:
    trainer.data_check.start()
    trainer.panel.data.add_folder(tmp_path)
    qtbot.waitUntil(lambda: "meta.json" in trainer.data_check.label.text(), timeout=LIMIT_MS)
    assert closed.is_set()


def test_what_changes_during_a_training_is_looked_at_after_it(
    trainer: TrainWidget, ended: Callable[[TrainWidget], None]
) -> None:
    trainer.model.is_busy = True
    trainer.panel.pairs.item(0).setCheckState(Qt.CheckState.Unchecked)
    trainer.data_check.start()
    assert "none is chosen" not in trainer.data_check.label.text()
    trainer.jobs.finished.emit()
    assert "none is chosen" in trainer.data_check.label.text()


@pytest.mark.parametrize("how", ["leave", "deleteLater"])
def test_a_look_ends_with_the_widget(
    viewer: ViewerModel, blobs: Any, home: Path, closed: threading.Event, qtbot: QtBot, how: str
) -> None:
    viewer.add_image(blobs.image)
    viewer.add_labels(blobs.labels)
    widget = TrainWidget(viewer)
    widget.data_check.start()
    assert not closed.wait(0.1)
    if how == "leave":
        qtbot.addWidget(widget)
    getattr(widget, how)()
    qtbot.waitUntil(closed.is_set, timeout=5000)


def test_a_folder_that_is_no_dataset_is_told(
    trainer: TrainWidget, ended: Callable[[TrainWidget], None], tmp_path: Path
) -> None:
    trainer.panel.data.add_folder(tmp_path)
    trainer.data_check.start()
    ended(trainer)
    assert "meta.json" in trainer.data_check.label.text()


def test_scores_that_became_worse_are_marked() -> None:
    table = scores_table({"ap50": 0.5, "count_error": 0.1}, {"ap50": 0.6, "count_error": 0.2})
    better, worse = table.split("<tr>")[2:]
    assert "#3fd0c9" in better
    assert "#e07a6b" in worse


def test_the_end_of_an_epoch_is_told_as_a_step() -> None:
    assert training_line(Progress("epoch", 140, 840, "ap50 0.417 · memory 0.764"), None) == "Step 140 of 840"
    line = training_line(Progress("fine-tune", 141, 840, "loss 0.1"), 60.0)
    assert line == "Step 141 of 840 · loss 0.1 · 60 s left"
