"""Viewers without windows, a model that counts at once, a training that obeys, and widgets on them."""

import gc
import json
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels as LabelsLayer
from napari.layers import Shapes
from napari.qt.threading import WorkerBase
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication, QWidget

from cellwright.core.data import Cells, Image, Labels, Provenance, Result
from cellwright.core.tasks import Progress, Task
from cellwright.models import store
from cellwright.models.store import ModelEntry
from cellwright.ops.codecs.flow import FlowSettings
from cellwright.ops.labels import label_properties
from cellwright.training.run_folder import Plan, epochs_in
from cellwright.widgets.annotate import proofread
from cellwright.widgets.annotate import widget as annotate_module
from cellwright.widgets.annotate.widget import AnnotateWidget
from cellwright.widgets.count import point_prompt
from cellwright.widgets.count import widget as count_widget_module
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.results import kept_settings, measuring, page_tools, plot_tool
from cellwright.widgets.results import widget as results_module
from cellwright.widgets.shared import jobs, napari_private
from cellwright.widgets.shared.cells import followers, image_pixels
from cellwright.widgets.shared.jobs import _TaskWorker
from cellwright.widgets.shared.journals import kept_corrections
from cellwright.widgets.train import choices
from cellwright.widgets.train import model as train_model
from cellwright.widgets.train.widget import TrainWidget

LIMIT_MS = 60_000
PAUSES = (  # of a user, after which what was done last is followed
    (jobs, "DEBOUNCE_MS"),
    (followers, "READ_MS"),
    (image_pixels, "READ_MS"),
    (annotate_module, "FOLLOW_MS"),
    (proofread, "FOLLOW_MS"),
    (choices, "CHECK_MS"),
    (measuring, "READ_MS"),
    (kept_settings, "WRITE_MS"),
    (page_tools, "COUNT_MS"),
    (page_tools, "TRACK_MS"),
    (plot_tool, "REDRAW_MS"),
    (kept_corrections, "KEEP_MS"),
    (proofread, "KEEP_MS"),
    (point_prompt, "WAIT_MS"),
    (results_module, "FILL_MS"),
)


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
        self.n_epochs = 3
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
        for index in range(len(epochs_in(plan.output)) or 1, len(self.scores)):
            while not self.go_on.acquire(timeout=0.05):
                yield Progress("fine-tune", index, self.n_epochs, "loss 0.1")
            epochs = [
                {"step": step, "rate": 0.1, "loss": 0.5, "score": score, "merit": score, "ap50": score}
                for step, score in enumerate(self.scores[: index + 1])
            ]
            (plan.output / "curve.json").write_text(json.dumps({"epochs": epochs}), encoding="utf-8")
            (plan.output / "training.pt").write_text("state")
            yield Progress("epoch", index, self.n_epochs, f"score {self.scores[index]}")
        before, after = ({"score": one, "ap50": one} for one in (self.scores[0], self.scores[-1]))
        return FakeOutcome(before, after, self.scores[-1] > self.scores[0], ("Note this.",))


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def result_of() -> Callable[[Image, Labels], Result]:
    """Function (image, labels) -> the result that a model finding exactly these labels would give."""

    def make(image: Image, labels: Labels) -> Result:
        areas, points, boxes = label_properties(labels)
        scores = np.linspace(0.5, 1.0, len(areas), dtype=np.float32)
        provenance = Provenance(
            "0.1", "flow", "abc", {}, image.name, image.shape, image.axes, image.pixel_size_um, "cpu", 1.8
        )
        return Result(float(len(areas)), Cells(points, boxes, scores, areas, labels), provenance)

    return make


@pytest.fixture
def shelved(monkeypatch: pytest.MonkeyPatch, oracle_model: Any) -> Any:
    """The oracle, found under the name of the shipped model."""
    monkeypatch.setattr(store, "load", lambda name: oracle_model)
    entry = ModelEntry("flow", Path("flow"), oracle_model.spec, {})
    monkeypatch.setattr(store, "models", lambda: [entry])
    return oracle_model


@pytest.fixture(autouse=True)
def kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is corrected is kept for a crash in a folder of the test, and by no later one."""
    monkeypatch.setattr(kept_corrections, "FOLDER", tmp_path / "journals")
    yield
    for keeper in list(kept_corrections._keepers.values()):
        keeper._viewer = lambda: None  # viewers that live on as garbage have nothing kept


@pytest.fixture
def widget(viewer: ViewerModel, qtbot: QtBot, shelved: Any) -> CountWidget:
    widget = CountWidget(viewer)
    qtbot.addWidget(widget)
    return widget


@pytest.fixture
def annotate_widget(viewer: ViewerModel, qtbot: QtBot, tmp_path: Path) -> AnnotateWidget:
    """An annotate widget that keeps its journals to itself."""
    widget = AnnotateWidget(viewer)
    widget.model.journals = tmp_path / "journals"
    qtbot.addWidget(widget)
    return widget


@pytest.fixture
def builders(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """The threads in which Labels layers are built from now on, one for each."""
    threads: list[threading.Thread] = []
    build = LabelsLayer.__init__

    def built(self: LabelsLayer, *arguments: Any, **keywords: Any) -> None:
        threads.append(threading.current_thread())
        build(self, *arguments, **keywords)

    monkeypatch.setattr(LabelsLayer, "__init__", built)
    return threads


@pytest.fixture
def settled(qtbot: QtBot) -> Callable[[CountWidget], None]:
    """Function (widget) that returns once its count and its retune have ended."""

    def wait(widget: CountWidget) -> None:
        qtbot.waitUntil(lambda: widget.job is None and not widget.updater.is_busy, timeout=LIMIT_MS)

    return wait


@pytest.fixture
def n_whole() -> Callable[[Labels], int]:
    """Function (labels) -> how many of them are not too small to be cells."""
    return lambda labels: int(np.sum(np.bincount(labels.ravel())[1:] >= FlowSettings().min_area_px))


@pytest.fixture
def draw_line() -> Callable[[Shapes, Any], None]:
    """Function (shapes, line) that does what napari does when a line is drawn with the mouse."""

    def draw(shapes: Shapes, line: Any) -> None:
        event = SimpleNamespace(type="mouse_press")
        drag = shapes.mouse_drag_callbacks[-1](shapes, event)
        next(drag)
        shapes.add_lines(np.asarray(line))
        event.type = "mouse_move"
        next(drag)
        event.type = "mouse_release"
        assert next(drag, "released") == "released"

    return draw


@pytest.fixture
def ended(qtbot: QtBot) -> Callable[[TrainWidget], None]:
    """Function (widget) that returns once it neither trains nor looks at images."""

    def wait(widget: TrainWidget) -> None:
        qtbot.waitUntil(lambda: not widget.is_busy and not widget.data_check.job.is_busy, timeout=LIMIT_MS)

    return wait


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the user's models and of the runs that were not ended."""
    monkeypatch.setattr(store, "user_folder", lambda: tmp_path / "models")
    return tmp_path


@pytest.fixture
def training(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    """What stands for fine-tuning."""
    template = tmp_path / "template"
    template.mkdir()
    spec = (store.shipped_folder() / "flow" / "spec.json").read_bytes()
    (template / "spec.json").write_bytes(spec)
    fake = FakeTraining(template)
    monkeypatch.setattr(train_model, "_finetune", fake.task)
    return fake


@pytest.fixture
def new_trainer(
    viewer: ViewerModel, qtbot: QtBot, blobs: Any, ended: Callable[[TrainWidget], None]
) -> Callable[[], TrainWidget]:
    """Function that returns a train widget on a viewer with an image and its labels."""
    viewer.add_image(blobs.image, name="blobs")
    viewer.add_labels(blobs.labels, name="blobs labels")

    def new() -> TrainWidget:
        widget = TrainWidget(viewer)
        qtbot.addWidget(widget, before_close_func=left)
        return widget

    def left(widget: TrainWidget) -> None:  # a widget that is deleted hears no more of its jobs
        widget.leave()
        ended(widget)

    return new


@pytest.fixture
def trainer(new_trainer: Callable[[], TrainWidget], training: FakeTraining) -> TrainWidget:
    return new_trainer()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits until the user pauses waits but a moment."""
    for module, name in PAUSES:
        monkeypatch.setattr(module, name, 1)


@pytest.fixture(autouse=True)
def measured_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the measurement of coverage see what runs in threads of Qt, which Python does not know of."""
    work = _TaskWorker.work

    def traced(worker: Any) -> Any:
        if threading.gettrace() is not None:
            sys.settrace(threading.gettrace())
        return work(worker)

    monkeypatch.setattr(_TaskWorker, "work", traced)


@pytest.fixture(autouse=True)
def guide_was_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guide of the first opening comes in its own tests alone, and nothing is written for it."""
    monkeypatch.setattr(count_widget_module, "guide_file", lambda: Path(__file__))


@pytest.fixture(autouse=True)
def spared_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector of garbage passes over what the suite imported, 0.3 s, whatever a panel does."""
    monkeypatch.setattr(napari_private, "gc", SimpleNamespace(freeze=lambda: None, unfreeze=lambda: None))


@pytest.fixture
def sparing(spared_from_the_start: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Panels tell the collector what to pass over, as they do outside of tests."""
    monkeypatch.setattr(napari_private, "gc", gc)
    napari_private.end_sparing()
    yield
    napari_private.end_sparing()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_worker_left() -> Iterator[None]:
    """No thread outlives the test that started it."""
    yield
    WorkerBase.await_workers(LIMIT_MS)


@pytest.fixture
def turn_wheel() -> Callable[[QWidget, int], None]:
    """Turn the wheel of the mouse over a control: 120 is a notch away from the user, -120 one towards."""

    def turn(control: QWidget, step: int) -> None:
        wheel = QWheelEvent(
            QPointF(5, 5), QPointF(5, 5), QPoint(), QPoint(0, step), Qt.MouseButton.NoButton,
            Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False,
        )  # fmt: skip
        QApplication.sendEvent(control, wheel)

    return turn
