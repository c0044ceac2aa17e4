"""From a count to its correction, to a training and back, with image, cells and model already chosen."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from npe2 import PluginManager
from pytestqt.qtbot import QtBot

from cellwright.core.data import Image
from cellwright.models import store
from cellwright.widgets.annotate.widget import AnnotateWidget
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.results.widget import ResultsWidget
from cellwright.widgets.shared import messages
from cellwright.widgets.shared.cells import followers
from cellwright.widgets.shared.messages import COUNT, TRAIN, HandOver, hand_over
from cellwright.widgets.train.model import TrainingOutcome
from cellwright.widgets.train.widget import TrainWidget

Settled = Callable[[CountWidget], None]


def test_cells_are_corrected_taught_and_counted_again(
    viewer: ViewerModel,
    widget: CountWidget,
    annotate_widget: AnnotateWidget,
    blobs: Any,
    settled: Settled,
    qtbot: QtBot,
    home: Any,
) -> None:
    trainer = TrainWidget(viewer)
    qtbot.addWidget(trainer)
    viewer.add_image(blobs.image, name="blobs")
    viewer.add_image(blobs.image, name="other")
    viewer.layers.selection.active = viewer.layers["blobs"]
    assert not widget.panel.correct.isEnabled()
    widget.panel.count.click()
    settled(widget)
    viewer.layers.selection.active = viewer.layers["other"]

    widget.panel.correct.click()
    context = annotate_widget.model.context
    assert context is not None
    assert context.layer.layer is viewer.layers["blobs labels"]
    assert context.session.image.name == "blobs"
    context.session.delete(1)
    widget.panel.correct.click()
    assert annotate_widget.model.context is context  # is gone on with

    trainer.panel.start.setCurrentIndex(trainer.panel.start.count() - 1)
    annotate_widget.panel.teach.click()
    (pair,) = [one for one in trainer.choices.chosen if one.image.name == "blobs"]
    assert pair.annotation is viewer.layers["blobs labels"]
    assert trainer.choices.start == "flow"


def test_the_model_of_a_folder_goes_with_its_cells(
    viewer: ViewerModel,
    widget: CountWidget,
    annotate_widget: AnnotateWidget,
    blobs: Any,
    settled: Settled,
    qtbot: QtBot,
    home: Any,
    tmp_path: Path,
) -> None:
    trainer = TrainWidget(viewer)
    qtbot.addWidget(trainer)
    folder = tmp_path / "mine"
    shutil.copytree(store.shipped_folder() / "flow", folder)
    widget.panel.model.add_folder(folder)
    viewer.add_image(blobs.image, name="blobs")
    widget.panel.count.click()
    settled(widget)
    widget.panel.correct.click()
    assert annotate_widget.model.chosen == annotate_widget.panel.model.currentData() == str(folder)
    annotate_widget.panel.teach.click()
    assert trainer.choices.start == str(folder)
    assert trainer.panel.name.text() == "mine-tuned"
    widget.panel.model.setCurrentIndex(0)
    hand_over(viewer, COUNT, HandOver(model=str(folder)))
    assert widget.panel.model.currentData() == str(folder)


def test_a_trained_model_counts_the_image_it_learned_from_at_one_click(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Settled, qtbot: QtBot, home: Any
) -> None:
    trainer = TrainWidget(viewer)
    qtbot.addWidget(trainer)
    for name in ("blobs", "other"):
        viewer.add_image(blobs.image, name=name)
    viewer.layers.selection.active = viewer.layers["other"]
    trained = HandOver(viewer.layers["blobs"], viewer.add_labels(blobs.labels), "flow")
    hand_over(viewer, TRAIN, trained)
    assert trainer.panel.count_with.isHidden()
    plan, _ = trainer.choices.plan()
    trainer.show_ended(TrainingOutcome(plan, "flow", {"score": 0.5}, {"score": 0.6}))
    assert trainer.panel.count_with.text() == "Count with flow"
    trainer.panel.count_with.click()
    assert widget.choices.layer is viewer.layers["blobs"]
    assert widget.panel.model.model_name == "flow"
    assert widget.panel.message.text() == "Counting the cells of 'blobs' with 'flow'."
    settled(widget)
    assert widget.counted is not None
    assert widget.panel.details.text().replace("\u200b", "").splitlines()[0] == "blobs"


def test_a_model_that_is_gone_and_a_busy_panel_count_nothing(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Settled
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    hand_over(viewer, COUNT, HandOver(model="gone", begins=True))
    assert widget.panel.message.text() == "Model 'gone' is no longer in the list. Choose another."
    assert not widget.jobs.is_busy
    widget.panel.count.click()
    job = widget.job
    hand_over(viewer, COUNT, HandOver(model="flow", begins=True))
    assert widget.job is job
    assert widget.panel.message.text().startswith("A count is running.")
    settled(widget)


class Docks:
    """A viewer in whose window docks tell which of them was brought to the front."""

    def __init__(self) -> None:
        self.window, self.front, self.layers = self, "", ViewerModel().layers
        self.is_open, self.n_looks = True, 0

    def dock(self, name: str) -> Any:
        return SimpleNamespace(raise_=lambda: setattr(self, "front", name))

    def has_window(self, _: Any) -> bool:
        self.n_looks += 1
        return self.is_open


@pytest.fixture
def docks(monkeypatch: pytest.MonkeyPatch) -> Docks:
    viewer = Docks()
    PluginManager.instance().discover()  # as every viewer with a window has done
    monkeypatch.setattr(messages, "has_window", viewer.has_window)
    monkeypatch.setattr(messages, "panel_in", lambda *_: None)
    monkeypatch.setattr(messages, "open_panel", lambda *_: viewer.dock("results"))
    monkeypatch.setattr(messages, "dock_of", viewer.dock)
    monkeypatch.setattr(messages, "isalive", lambda _: True)
    return viewer


@pytest.mark.parametrize(
    ("axes", "panel", "front"),
    [
        ("YX", "count", "count"),
        ("TYX", "count", "results"),
        ("YX", None, "results"),
        ("CYX", "count", "count"),
    ],
)
def test_results_of_a_series_come_to_the_front(
    docks: Docks, qtbot: QtBot, result_of: Any, blobs: Any, axes: str, panel: Any, front: str
) -> None:
    result = result_of(Image(blobs.image, "YX"), blobs.labels)
    found_by = replace(result.provenance, axes=axes, image_shape=(6, *blobs.image.shape)[-len(axes) :])
    messages.tell_results(docks, replace(result, provenance=found_by), None, panel)
    assert not docks.front  # it opens in turns of its own, in which the viewer is not busy with the count
    qtbot.waitUntil(lambda: bool(docks.front), timeout=60_000)
    assert docks.front == front


@pytest.mark.parametrize("meanwhile", ["window closed", "opened by hand", "counting panel gone"])
def test_results_open_later_only_where_that_makes_sense(
    docks: Docks, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, result_of: Any, blobs: Any, meanwhile: str
) -> None:
    messages.tell_results(docks, result_of(Image(blobs.image, "YX"), blobs.labels), None, "count")
    if meanwhile == "window closed":
        docks.is_open = False
    elif meanwhile == "opened by hand":
        monkeypatch.setattr(messages, "panel_in", lambda *_: "results")
    else:
        monkeypatch.setattr(messages, "isalive", lambda _: False)
    qtbot.waitUntil(lambda: docks.n_looks == 2, timeout=60_000)  # at once, and before it is opened
    assert docks.front == ("results" if meanwhile == "counting panel gone" else "")


def test_undo_brings_back_what_a_count_told_of_a_cell(
    viewer: ViewerModel,
    widget: CountWidget,
    annotate_widget: AnnotateWidget,
    blobs: Any,
    settled: Settled,
    qtbot: QtBot,
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    widget.panel.count.click()
    settled(widget)
    labels, told = viewer.layers["blobs labels"], ["label", "score", "area_px", "class"]
    widget.panel.correct.click()
    session = annotate_widget.model.session
    assert session is not None
    session.set_class_names(["live"])
    session.set_class(1, 0)
    before = labels.features.loc[1, told].tolist()
    assert before[-1] == "live"
    for edit, is_there in ((lambda: session.delete(1), False), (session.undo, True)):
        edit()
        qtbot.waitUntil(lambda: not followers.follow(viewer).is_busy)
        assert (labels.features["area_px"].loc[1] > 0) == is_there
    assert labels.features.loc[1, told].tolist() == before
    assert not labels.features.loc[1, "edited"]


def test_columns_that_the_next_count_brings_follow_its_cells(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Settled, qtbot: QtBot
) -> None:
    image = viewer.add_image(blobs.image, name="blobs")
    results = ResultsWidget(viewer)
    qtbot.addWidget(results)
    for size in (1.0, 0.5):
        image.scale, image.units = (size, size), ("um", "um") if size < 1 else ("pixel", "pixel")
        widget.panel.count.click()
        settled(widget)
        qtbot.waitUntil(lambda: not results.measurer.is_busy)
    labels = viewer.layers["blobs labels"]
    assert labels.features["area_um2"].loc[2] == labels.features["area_px"].loc[2] / 4
    labels.data = np.where(labels.data == 1, 0, labels.data)
    qtbot.waitUntil(lambda: not results.measurer.is_busy and np.isnan(labels.features["area_um2"].loc[1]))


def test_what_is_for_another_viewer_or_panel_is_let_be(
    viewer: ViewerModel, annotate_widget: AnnotateWidget
) -> None:
    image = viewer.add_image(np.zeros((9, 9)))
    cells = viewer.add_labels(np.zeros((9, 9), np.int32))
    hand_over(ViewerModel(), "Annotate cells", HandOver(image, cells))
    hand_over(viewer, TRAIN, HandOver(image, cells))
    assert annotate_widget.model.context is None
